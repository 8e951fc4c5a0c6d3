//! What is to be run: the expansion of a spec into trials.

use crate::identity::{Cell, TrialKey};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Which part of the study a trial belongs to. Short runs have keys of their own, so that they can
/// never be taken for full ones.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The declared study.
    Main,
    /// A few seconds, to see that everything works.
    Smoke,
    /// Short runs for cost and spread, before the freeze.
    Pilot,
    /// Hyper-parameter search on validation data.
    Tune,
    /// Cells of an ablation path.
    Ablation,
    /// A second run of a finished trial.
    Replay,
}

/// One trial that the spec asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedTrial {
    /// Identity.
    pub key: TrialKey,
    /// Place in the running order, from 0.
    pub ord: u64,
    /// Part of the study.
    pub stage: Stage,
    /// Method, task and factors.
    pub cell: Cell,
    /// The cell's `method`.
    pub method: String,
    /// The cell's `task`.
    pub task: String,
    /// Repetition, from 0.
    pub rep: u32,
    /// Seed of each declared stream, in `0..2^63`.
    pub seeds: BTreeMap<String, i64>,
}
