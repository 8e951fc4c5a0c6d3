//! Rows as both backends keep them: the columns in their order, the words and JSON texts in them,
//! and the records that are built from them.

use super::StoreError;
use crate::{
    identity::TrialKey,
    plan::Stage,
    store::record::{
        Artifact, AttemptRecord, EventRecord, ExperimentRecord, Lease, Metric, MetricRow, Point,
        PointRow, SealedFacts, SessionRecord, Status, TrialRow,
    },
    trial::Number,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

pub(super) const EXPERIMENT: &str = "id, spec_toml, spec_hash, schema, created_at";
pub(super) const SESSION: &str = "session_id, started_at, ended_at, host, pid, boot_id, args_json, \
                                  spec_hash, git_rev, git_dirty, git_diff_sha, env_json";
pub(super) const TRIAL: &str = "trial_key, ord, stage, cell_json, method, task, rep, seeds_json, \
                                status, attempt, granted, retired, lease_owner, lease_until";
pub(super) const LEASE: &str = "trial_key, attempt, lease_owner, lease_until";
pub(super) const ATTEMPT: &str = "trial_key, attempt, origin, session_id, started_at, ended_at, \
                                  status, exit_code, signal, reason, wall_s, cpu_user_s, \
                                  cpu_sys_s, peak_rss_kib, threads, device, budget_used, \
                                  stdout_tail, stderr_tail, log_path, result_json, sealed_names";
pub(super) const METRIC: &str = "trial_key, attempt, name, split, value, nonfinite";
pub(super) const POINT: &str = "trial_key, attempt, name, step, budget, wall_s, value, nonfinite";
pub(super) const ARTIFACT: &str = "trial_key, attempt, name, path, sha256, bytes";
pub(super) const EVENT: &str = "at, session_id, kind, detail_json";

/// The attempt that gave a finished trial its state, of a table `x`.
pub(super) const COUNTED: &str = "JOIN trial t ON t.trial_key = x.trial_key AND t.attempt = x.attempt \
     WHERE t.status IN ('ok', 'timeout', 'memout', 'crash', 'invalid')";

/// One row as the database hands it out.
pub(super) trait Columns {
    /// What reading a column can fail with.
    type Error: From<StoreError>;

    fn text(&self, column: usize) -> Result<&str, Self::Error>;
    fn text_or_none(&self, column: usize) -> Result<Option<&str>, Self::Error>;
    fn whole(&self, column: usize) -> Result<i64, Self::Error>;
    fn whole_or_none(&self, column: usize) -> Result<Option<i64>, Self::Error>;
    fn real(&self, column: usize) -> Result<f64, Self::Error>;
    fn real_or_none(&self, column: usize) -> Result<Option<f64>, Self::Error>;
    fn flag(&self, column: usize) -> Result<bool, Self::Error>;
}

/// A row of either backend, whose failures become `E`.
pub(super) type Line<'a, E> = dyn Columns<Error = E> + 'a;

/// A whole number in the range of the type that the record has for it.
fn narrow<T: TryFrom<i64>>(what: &'static str, value: i64) -> Result<T, StoreError> {
    T::try_from(value).map_err(|_| damaged(what, &value.to_string()))
}

pub(super) fn number<E: From<StoreError>>(row: &Line<'_, E>, column: usize) -> Result<u32, E> {
    Ok(narrow("number", row.whole(column)?)?)
}

pub(super) fn count<E: From<StoreError>>(row: &Line<'_, E>, column: usize) -> Result<u64, E> {
    Ok(narrow("count", row.whole(column)?)?)
}

fn key<E: From<StoreError>>(row: &Line<'_, E>) -> Result<TrialKey, E> {
    Ok(TrialKey(row.text(0)?.to_owned()))
}

fn value<E: From<StoreError>>(row: &Line<'_, E>, column: usize) -> Result<Number, E> {
    Ok(join_number(row.real_or_none(column)?, row.text_or_none(column + 1)?)?)
}

/// From the columns [`EXPERIMENT`].
pub(super) fn experiment<E: From<StoreError>>(row: &Line<'_, E>) -> Result<ExperimentRecord, E> {
    Ok(ExperimentRecord {
        id: row.text(0)?.to_owned(),
        spec_toml: row.text(1)?.to_owned(),
        spec_hash: row.text(2)?.to_owned(),
        schema: number(row, 3)?,
        created_at: row.whole(4)?,
    })
}

/// From the columns [`SESSION`].
pub(super) fn session<E: From<StoreError>>(row: &Line<'_, E>) -> Result<SessionRecord, E> {
    Ok(SessionRecord {
        session_id: row.text(0)?.to_owned(),
        started_at: row.whole(1)?,
        ended_at: row.whole_or_none(2)?,
        host: row.text(3)?.to_owned(),
        pid: number(row, 4)?,
        boot_id: row.text(5)?.to_owned(),
        args_json: parse("arguments", row.text(6)?)?,
        spec_hash: row.text(7)?.to_owned(),
        git_rev: row.text_or_none(8)?.map(str::to_owned),
        git_dirty: row.flag(9)?,
        git_diff_sha: row.text_or_none(10)?.map(str::to_owned),
        env_json: parse("environment", row.text(11)?)?,
    })
}

/// From the columns [`TRIAL`].
pub(super) fn trial<E: From<StoreError>>(row: &Line<'_, E>) -> Result<TrialRow, E> {
    Ok(TrialRow {
        key: key(row)?,
        ord: count(row, 1)?,
        stage: stage(row.text(2)?)?,
        cell: parse("cell", row.text(3)?)?,
        method: row.text(4)?.to_owned(),
        task: row.text(5)?.to_owned(),
        rep: number(row, 6)?,
        seeds: parse("seeds", row.text(7)?)?,
        status: status(row.text(8)?)?,
        attempt: number(row, 9)?,
        granted: number(row, 10)?,
        retired: row.flag(11)?,
        lease_owner: row.text_or_none(12)?.map(str::to_owned),
        lease_until: row.whole_or_none(13)?,
    })
}

/// From the columns [`LEASE`].
pub(super) fn lease<E: From<StoreError>>(row: &Line<'_, E>) -> Result<Lease, E> {
    Ok(Lease {
        key: key(row)?,
        attempt: number(row, 1)?,
        owner: row.text(2)?.to_owned(),
        until: row.whole(3)?,
    })
}

/// From the columns [`ATTEMPT`]; what lies in other tables comes with [`attach`].
pub(super) fn attempt<E: From<StoreError>>(row: &Line<'_, E>) -> Result<AttemptRecord, E> {
    let (attempt, origin) = (number(row, 1)?, number(row, 2)?);
    let code = |what, column| -> Result<Option<i32>, E> {
        Ok(row.whole_or_none(column)?.map(|code| narrow(what, code)).transpose()?)
    };
    Ok(AttemptRecord {
        key: key(row)?,
        attempt,
        origin_attempt: (origin != attempt).then_some(origin),
        session_id: row.text_or_none(3)?.unwrap_or_default().to_owned(),
        started_at: row.whole(4)?,
        ended_at: row.whole(5)?,
        status: status(row.text(6)?)?,
        exit_code: code("exit code", 7)?,
        signal: code("signal", 8)?,
        reason: row.text_or_none(9)?.map(str::to_owned),
        wall_s: row.real(10)?,
        cpu_user_s: row.real(11)?,
        cpu_sys_s: row.real(12)?,
        peak_rss_kib: count(row, 13)?,
        threads: number(row, 14)?,
        device: row.text(15)?.to_owned(),
        budget_used: row.real_or_none(16)?,
        stdout_tail: row.text(17)?.to_owned(),
        stderr_tail: row.text(18)?.to_owned(),
        log_path: row.text_or_none(19)?.map(PathBuf::from),
        result_json: row.text_or_none(20)?.map(|text| parse("result", text)).transpose()?,
        metrics: Vec::new(),
        points: Vec::new(),
        artifacts: Vec::new(),
        sealed_names: parse("list of sealed metrics", row.text(21)?)?,
    })
}

/// From the columns [`METRIC`].
pub(super) fn metric<E: From<StoreError>>(row: &Line<'_, E>) -> Result<MetricRow, E> {
    Ok(MetricRow {
        key: key(row)?,
        attempt: number(row, 1)?,
        metric: Metric {
            name: row.text(2)?.to_owned(),
            split: row.text(3)?.to_owned(),
            value: value(row, 4)?,
        },
    })
}

/// From the columns [`POINT`].
pub(super) fn point<E: From<StoreError>>(row: &Line<'_, E>) -> Result<PointRow, E> {
    Ok(PointRow {
        key: key(row)?,
        attempt: number(row, 1)?,
        point: Point {
            name: row.text(2)?.to_owned(),
            step: count(row, 3)?,
            budget: row.real(4)?,
            wall_s: row.real(5)?,
            value: value(row, 6)?,
        },
    })
}

/// A file and the attempt that left it.
pub(super) type ArtifactRow = (TrialKey, u32, Artifact);

/// From the columns [`ARTIFACT`].
pub(super) fn artifact<E: From<StoreError>>(row: &Line<'_, E>) -> Result<ArtifactRow, E> {
    let artifact = Artifact {
        name: row.text(2)?.to_owned(),
        path: PathBuf::from(row.text(3)?),
        sha256: row.text(4)?.to_owned(),
        bytes: count(row, 5)?,
    };
    Ok((key(row)?, number(row, 1)?, artifact))
}

/// From the columns [`EVENT`].
pub(super) fn event<E: From<StoreError>>(row: &Line<'_, E>) -> Result<EventRecord, E> {
    Ok(EventRecord {
        at: row.whole(0)?,
        session_id: row.text_or_none(1)?.map(str::to_owned),
        kind: row.text(2)?.to_owned(),
        detail_json: parse("event", row.text(3)?)?,
    })
}

/// From stage, count and first end.
pub(super) fn sealed_facts<E: From<StoreError>>(
    row: &Line<'_, E>,
) -> Result<(Stage, SealedFacts), E> {
    let facts = SealedFacts { count: count(row, 1)?, first_at: row.whole_or_none(2)? };
    Ok((stage(row.text(0)?)?, facts))
}

/// From method, status and count.
pub(super) fn tally<E: From<StoreError>>(row: &Line<'_, E>) -> Result<((String, Status), u64), E> {
    Ok(((row.text(0)?.to_owned(), status(row.text(1)?)?), count(row, 2)?))
}

/// Gives each attempt its metrics, points and artifacts, in the order in which they come.
pub(super) fn attach(
    attempts: &mut [AttemptRecord],
    metrics: Vec<MetricRow>,
    points: Vec<PointRow>,
    artifacts: Vec<ArtifactRow>,
) {
    let place: BTreeMap<(TrialKey, u32), usize> =
        attempts.iter().enumerate().map(|(i, a)| ((a.key.clone(), a.attempt), i)).collect();
    for row in metrics {
        if let Some(&i) = place.get(&(row.key, row.attempt)) {
            attempts[i].metrics.push(row.metric);
        }
    }
    for row in points {
        if let Some(&i) = place.get(&(row.key, row.attempt)) {
            attempts[i].points.push(row.point);
        }
    }
    for (key, attempt, artifact) in artifacts {
        if let Some(&i) = place.get(&(key, attempt)) {
            attempts[i].artifacts.push(artifact);
        }
    }
}

/// What the columns of an attempt hold where the record has another type.
pub(super) struct AttemptColumns<'a> {
    pub(super) origin: u32,
    /// Empty in the record means that no session is known.
    pub(super) session: Option<&'a str>,
    pub(super) reason: Option<String>,
    pub(super) peak_rss_kib: i64,
    pub(super) stdout_tail: String,
    pub(super) stderr_tail: String,
    pub(super) log_path: Option<String>,
    pub(super) result_json: Option<String>,
    /// Metrics whose values and points are sealed: those declared so, and those seen on the test split.
    pub(super) sealed: BTreeSet<&'a str>,
    pub(super) sealed_names: String,
}

impl<'a> AttemptColumns<'a> {
    pub(super) fn new(attempt: &'a AttemptRecord) -> Result<Self, StoreError> {
        let tests = attempt.metrics.iter().filter(|m| is_sealed(m)).map(|m| m.name.as_str());
        let sealed: BTreeSet<&str> =
            attempt.sealed_names.iter().map(String::as_str).chain(tests).collect();
        Ok(Self {
            origin: attempt.origin_attempt.unwrap_or(attempt.attempt),
            session: Some(attempt.session_id.as_str()).filter(|id| !id.is_empty()),
            reason: attempt.reason.as_deref().map(clean),
            peak_rss_kib: signed("peak memory", attempt.peak_rss_kib)?,
            stdout_tail: clean(&attempt.stdout_tail),
            stderr_tail: clean(&attempt.stderr_tail),
            log_path: attempt.log_path.as_ref().map(|path| path.to_string_lossy().into_owned()),
            result_json: attempt.result_json.as_ref().map(json).transpose()?,
            sealed_names: json(&sealed)?,
            sealed,
        })
    }
}

/// Whether a final value goes behind the seal.
pub(super) fn is_sealed(metric: &Metric) -> bool {
    metric.split == "test"
}

fn stage(word: &str) -> Result<Stage, StoreError> {
    Stage::ALL.into_iter().find(|stage| stage.word() == word).ok_or_else(|| damaged("stage", word))
}

fn status(word: &str) -> Result<Status, StoreError> {
    Status::from_word(word).ok_or_else(|| damaged("status", word))
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Backend {
        action: "encode a record",
        message: error.to_string(),
    })
}

fn parse<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, StoreError> {
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

fn join_number(value: Option<f64>, word: Option<&str>) -> Result<Number, StoreError> {
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

fn damaged(what: &str, found: &str) -> StoreError {
    StoreError::Format {
        path: "store".to_owned(),
        expected: format!("a readable {what}"),
        found: found.to_owned(),
    }
}
