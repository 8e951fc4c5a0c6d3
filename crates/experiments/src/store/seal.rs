//! Freezing the plan and sealing the test split (specification, section 5.4).
//!
//! Values of metrics on the split `test` go into a table of their own, and no reading function of
//! [`Store`] hands them out until an `unseal` event is there, with one exception that says so
//! ([`Store::full_attempts`]). Every unsealing is an event that cannot be deleted, so the number of
//! looks at the test split can be counted. This guards against accident, **not against a person
//! with a database tool**, and not against a trial program that prints its test values: log text
//! is not sealed.

use super::{
    Store, StoreError,
    record::{EventRecord, SealedFacts},
};
use crate::plan::Stage;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;

/// When the plan was frozen, and as what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// Unix milliseconds.
    pub at: i64,
    /// Hash of the resolved spec.
    pub spec_hash: String,
    /// Revision of the code.
    pub git_rev: Option<String>,
}

/// What the events say about freezing and unsealing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealState {
    /// Every freeze in order; the first one is the pre-registration.
    pub freezes: Vec<Freeze>,
    /// Every unsealing in order, Unix milliseconds and reason.
    pub unseals: Vec<(i64, String)>,
    /// Sealed values by stage: how many and since when.
    pub sealed: BTreeMap<Stage, SealedFacts>,
    /// Checklist Q4: the first freeze precedes the first test value of the main stage and the
    /// first unsealing. `false` without a freeze.
    pub frozen_first: bool,
}

/// Reads the state from the events.
///
/// # Errors
/// When the store cannot be read.
pub fn state(store: &dyn Store) -> Result<SealState, StoreError> {
    let mut freezes = Vec::new();
    let mut unseals = Vec::new();
    let mut unsealed_before_freeze = false;
    for event in store.events()? {
        let text = |field: &str| event.detail_json[field].as_str().map(str::to_owned);
        match event.kind.as_str() {
            "freeze" => freezes.push(Freeze {
                at: event.at,
                spec_hash: text("spec_hash").unwrap_or_default(),
                git_rev: text("git_rev"),
            }),
            "unseal" => {
                unsealed_before_freeze |= freezes.is_empty();
                unseals.push((event.at, text("reason").unwrap_or_default()));
            }
            _ => {}
        }
    }
    let sealed = store.sealed_facts()?;
    let first_value = sealed.get(&Stage::Main).and_then(|facts| facts.first_at);
    let frozen_first = !unsealed_before_freeze
        && freezes.first().is_some_and(|freeze| first_value.is_none_or(|at| freeze.at < at));
    Ok(SealState { freezes, unseals, sealed, frozen_first })
}

/// Freezes the plan: from now on the report lists every difference from it. Freezing the same spec
/// at the same revision again changes nothing and returns `false`.
///
/// # Errors
/// When the store cannot be read or written.
pub fn freeze(
    store: &mut dyn Store,
    spec_hash: &str,
    git_rev: Option<&str>,
    spec_toml: &str,
    at: i64,
) -> Result<bool, StoreError> {
    let before = state(store)?;
    if before
        .freezes
        .last()
        .is_some_and(|last| last.spec_hash == spec_hash && last.git_rev.as_deref() == git_rev)
    {
        return Ok(false);
    }
    store.append_event(&EventRecord {
        at,
        session_id: None,
        kind: "freeze".to_owned(),
        detail_json: json!({"spec_hash": spec_hash, "git_rev": git_rev, "spec_toml": spec_toml}),
    })?;
    Ok(true)
}

/// Opens the seal. With `confirmatory` and no freeze before, it is refused unless `knowingly`,
/// because checklist item Q4 then stays violated for ever.
///
/// # Errors
/// [`StoreError::Conflict`] on an empty reason or a refusal; otherwise when the store cannot be
/// read or written.
pub fn unseal(
    store: &mut dyn Store,
    reason: &str,
    confirmatory: bool,
    knowingly: bool,
    at: i64,
) -> Result<(), StoreError> {
    if reason.trim().is_empty() {
        return Err(StoreError::Conflict {
            what: "reason for unsealing",
            expected: "a sentence".to_owned(),
            found: "nothing".to_owned(),
        });
    }
    let before_freeze = state(store)?.freezes.is_empty();
    if confirmatory && before_freeze && !knowingly {
        return Err(StoreError::Conflict {
            what: "unsealing a confirmatory experiment",
            expected: "a freeze first (`exp freeze`)".to_owned(),
            found: "none; unsealing now would violate Q4 for ever".to_owned(),
        });
    }
    store.append_event(&EventRecord {
        at,
        session_id: None,
        kind: "unseal".to_owned(),
        detail_json: json!({"reason": reason.trim(), "before_freeze": before_freeze}),
    })
}
