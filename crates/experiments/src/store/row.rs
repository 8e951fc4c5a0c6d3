//! Words and JSON texts that both backends put into their columns.

use super::StoreError;
use crate::{
    plan::Stage,
    store::record::{AttemptRecord, Status},
    trial::Number,
};
use serde::{Serialize, de::DeserializeOwned};

pub(super) fn stage(word: &str) -> Result<Stage, StoreError> {
    Stage::ALL.into_iter().find(|stage| stage.word() == word).ok_or_else(|| damaged("stage", word))
}

pub(super) fn status(word: &str) -> Result<Status, StoreError> {
    Status::from_word(word).ok_or_else(|| damaged("status", word))
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Backend {
        action: "encode a record",
        message: error.to_string(),
    })
}

pub(super) fn parse<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| damaged(what, &error.to_string()))
}

/// SQL has no NaN that every database keeps: a value is a finite number or one of three words.
pub(super) fn split_number(value: Number) -> (Option<f64>, Option<&'static str>) {
    match value.0 {
        x if x.is_nan() => (None, Some("nan")),
        f64::INFINITY => (None, Some("inf")),
        f64::NEG_INFINITY => (None, Some("-inf")),
        x => (Some(x), None),
    }
}

pub(super) fn join_number(value: Option<f64>, word: Option<&str>) -> Result<Number, StoreError> {
    match (value, word) {
        (Some(x), None) => Ok(Number(x)),
        (None, Some("nan")) => Ok(Number(f64::NAN)),
        (None, Some("inf")) => Ok(Number(f64::INFINITY)),
        (None, Some("-inf")) => Ok(Number(f64::NEG_INFINITY)),
        other => Err(damaged("value", &format!("{other:?}"))),
    }
}

/// `u64` counters as the signed 64-bit integers that databases have.
pub(super) fn signed(what: &'static str, value: u64) -> Result<i64, StoreError> {
    i64::try_from(value).map_err(|_| StoreError::Conflict {
        what,
        expected: format!("at most {}", i64::MAX),
        found: value.to_string(),
    })
}

/// Text columns hold no NUL byte in `PostgreSQL`, and log tails may hold anything.
pub(super) fn clean(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// State of the trial once the attempt is committed.
pub(super) fn state_after(attempt: &AttemptRecord) -> Result<Status, StoreError> {
    match attempt.status {
        status if status.finished() => Ok(status),
        Status::Lost => Ok(Status::Pending),
        other => Err(StoreError::Conflict {
            what: "status of a finished attempt",
            expected: "ok, timeout, memout, crash, invalid or lost".to_owned(),
            found: other.word().to_owned(),
        }),
    }
}

fn damaged(what: &str, found: &str) -> StoreError {
    StoreError::Format {
        path: "store".to_owned(),
        expected: format!("a readable {what}"),
        found: found.to_owned(),
    }
}
