//! Rows of the store as plain values.

use crate::{
    identity::{Cell, TrialKey},
    plan::Stage,
    trial::Number,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// State of a trial, or outcome of an attempt.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Not started.
    Pending,
    /// Held by a runner under a lease.
    Running,
    /// Finished with all declared metrics in range.
    Ok,
    /// Stopped at the wall or CPU limit; what it logged is censored data.
    Timeout,
    /// Stopped at the memory limit.
    Memout,
    /// Ended with an error, by a signal, or without `done`.
    Crash,
    /// Finished, but a metric is missing, out of range or not finite where it must be.
    Invalid,
    /// An attempt whose lease was lost; never the state of a trial.
    Superseded,
    /// An attempt lost with its runner or node; never the state of a trial.
    Lost,
}

impl Status {
    /// The word that stands in stores and files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Ok => "ok",
            Self::Timeout => "timeout",
            Self::Memout => "memout",
            Self::Crash => "crash",
            Self::Invalid => "invalid",
            Self::Superseded => "superseded",
            Self::Lost => "lost",
        }
    }

    /// The state that `word` stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        [
            Self::Pending,
            Self::Running,
            Self::Ok,
            Self::Timeout,
            Self::Memout,
            Self::Crash,
            Self::Invalid,
            Self::Superseded,
            Self::Lost,
        ]
        .into_iter()
        .find(|status| status.word() == word)
    }

    /// Whether a trial in this state needs no further run.
    pub fn finished(self) -> bool {
        matches!(self, Self::Ok | Self::Timeout | Self::Memout | Self::Crash | Self::Invalid)
    }
}

/// One trial as stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrialRow {
    /// Identity.
    pub key: TrialKey,
    /// Place in the running order.
    pub ord: u64,
    /// Part of the study.
    pub stage: Stage,
    /// Method, task and factors.
    pub cell: Cell,
    /// The cell's method.
    pub method: String,
    /// The cell's task.
    pub task: String,
    /// Repetition.
    pub rep: u32,
    /// Seed of each stream.
    pub seeds: BTreeMap<String, i64>,
    /// Current state.
    pub status: Status,
    /// Number of attempts so far.
    pub attempt: u32,
    /// Attempts that no longer count against the limit since a retry was granted.
    #[serde(default)]
    pub granted: u32,
    /// The spec no longer has this cell.
    pub retired: bool,
    /// Runner that holds it.
    pub lease_owner: Option<String>,
    /// End of the lease, Unix milliseconds.
    pub lease_until: Option<i64>,
}

/// How a runner asks for work.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimRequest {
    /// Identity of the runner: host, boot id, process id and a nonce.
    pub owner: String,
    /// Now, Unix milliseconds.
    pub now: i64,
    /// End of the new lease, Unix milliseconds.
    pub lease_until: i64,
    /// Attempts allowed in all.
    pub max_attempts: u32,
    /// Only trials of this stage.
    pub stage: Stage,
    /// Only these trials, when given (filters, shards).
    pub only: Option<Vec<TrialKey>>,
}

/// A trial that this runner holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The trial.
    pub trial: TrialRow,
    /// Number of this attempt, from 1.
    pub attempt: u32,
    /// Identity of the runner.
    pub owner: String,
}

/// One run of a trial, as committed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptRecord {
    /// The trial.
    pub key: TrialKey,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Number in the store that ran it, when a merge had to give it another one here.
    #[serde(default)]
    pub origin_attempt: Option<u32>,
    /// Session that ran it; empty when the runner vanished without a trace.
    pub session_id: String,
    /// Unix milliseconds.
    pub started_at: i64,
    /// Unix milliseconds.
    pub ended_at: i64,
    /// Outcome.
    pub status: Status,
    /// Exit code, when it exited.
    pub exit_code: Option<i32>,
    /// Signal number, when it was ended by one.
    pub signal: Option<i32>,
    /// Why, in words: `cpu`, `wall`, `lost`, `no done line`, ...
    pub reason: Option<String>,
    /// Seconds by a monotonic clock.
    pub wall_s: f64,
    /// User CPU seconds of the process and its waited children.
    pub cpu_user_s: f64,
    /// System CPU seconds of the same.
    pub cpu_sys_s: f64,
    /// Peak resident memory of the process tree in KiB.
    pub peak_rss_kib: u64,
    /// Threads granted.
    pub threads: u32,
    /// Device word.
    pub device: String,
    /// Budget used, in the declared unit.
    pub budget_used: Option<f64>,
    /// Last 4 KiB of standard output.
    pub stdout_tail: String,
    /// Last 4 KiB of standard error.
    pub stderr_tail: String,
    /// Folder with the full logs.
    pub log_path: Option<PathBuf>,
    /// Further facts as JSON: warnings, limits and how each was measured.
    pub result_json: Option<serde_json::Value>,
    /// Final values, sealed ones included.
    pub metrics: Vec<Metric>,
    /// Curve points.
    pub points: Vec<Point>,
    /// Files.
    pub artifacts: Vec<Artifact>,
    /// Metrics of the test split as declared: their curve points are sealed with their values.
    #[serde(default)]
    pub sealed_names: BTreeSet<String>,
}

/// A final value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Metric name.
    pub name: String,
    /// Split it was measured on.
    pub split: String,
    /// Value, possibly not finite.
    pub value: Number,
}

/// A point of a curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Metric name.
    pub name: String,
    /// Step counter.
    pub step: u64,
    /// Budget used so far.
    pub budget: f64,
    /// Seconds since the trial's start.
    pub wall_s: f64,
    /// Value, possibly not finite.
    pub value: Number,
}

/// A file left by a trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    /// Short name.
    pub name: String,
    /// Path relative to the store's folder.
    pub path: PathBuf,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// Size.
    pub bytes: u64,
}

/// [`Metric`] with the trial that it belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricRow {
    /// The trial.
    pub key: TrialKey,
    /// Number of the attempt.
    pub attempt: u32,
    /// The value.
    #[serde(flatten)]
    pub metric: Metric,
}

/// [`Point`] with the trial that it belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PointRow {
    /// The trial.
    pub key: TrialKey,
    /// Number of the attempt.
    pub attempt: u32,
    /// The point.
    #[serde(flatten)]
    pub point: Point,
}

/// One start of a runner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Identity.
    pub session_id: String,
    /// Unix milliseconds.
    pub started_at: i64,
    /// Unix milliseconds, once it ended in good order.
    pub ended_at: Option<i64>,
    /// Host name.
    pub host: String,
    /// Process id.
    pub pid: u32,
    /// Kernel's boot id, which tells a live process id from a reused one.
    pub boot_id: String,
    /// Command line as JSON.
    pub args_json: serde_json::Value,
    /// Hash of the resolved spec.
    pub spec_hash: String,
    /// Revision of the code.
    pub git_rev: Option<String>,
    /// Whether the tree had changes.
    pub git_dirty: bool,
    /// SHA-256 of the saved diff.
    pub git_diff_sha: Option<String>,
    /// Environment capture (specification, section 5.3).
    pub env_json: serde_json::Value,
}

/// Something that happened to the experiment as a whole; append-only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Unix milliseconds.
    pub at: i64,
    /// Session, when it happened in one.
    pub session_id: Option<String>,
    /// `freeze`, `unseal`, `spec-change`, `exclusion`, `retry`, `backup`, `merge`, ...
    pub kind: String,
    /// Details.
    pub detail_json: serde_json::Value,
}

/// The experiment that a store belongs to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExperimentRecord {
    /// Identity from the spec.
    pub id: String,
    /// Text of the spec file as last planned.
    pub spec_toml: String,
    /// Hash of the resolved spec as last planned.
    pub spec_hash: String,
    /// Schema number of the spec.
    pub schema: u32,
    /// Unix milliseconds of the store's first plan.
    pub created_at: i64,
}

/// A running trial and who holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The trial.
    pub key: TrialKey,
    /// Number of the attempt.
    pub attempt: u32,
    /// Runner that holds it.
    pub owner: String,
    /// End of the lease, Unix milliseconds.
    pub until: i64,
}

/// How trials of dead runners are taken back.
#[derive(Clone, Debug, PartialEq)]
pub struct ReclaimRequest {
    /// Runners known to be gone, whatever their leases say.
    pub dead_owners: Vec<String>,
    /// Now, Unix milliseconds; leases that ended before are taken back whoever holds them.
    pub now: i64,
    /// Attempts allowed in all; a trial that used them up ends as a crash with reason `lost`.
    pub max_attempts: u32,
}

/// How many sealed values a stage has, and since when. Never the values.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedFacts {
    /// Values in all.
    pub count: u64,
    /// End of the first attempt that left one, Unix milliseconds.
    pub first_at: Option<i64>,
}

/// What a merge did with one attempt.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MergeCounts {
    /// Attempts that were new.
    pub added: u64,
    /// Attempts that were there already.
    pub known: u64,
    /// Trials whose state came from the other store.
    pub settled: u64,
}

/// Trials by method and status.
pub type Counts = BTreeMap<(String, Status), u64>;
