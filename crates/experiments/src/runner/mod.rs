//! Runs the trials of a plan: claim, start, hold to limits, measure, commit (specification,
//! section 6). Linux only: limits on a whole process tree need its kernel's means.
//!
//! [`run`] is resume as well: it inserts what the plan has and the store has not, takes the trials
//! of dead runners back, and goes on. The runner knows neither the spec's format nor the command
//! line; [`RunPlan`] is all it is told. `examples/toy_runner.rs` is a complete program around it.

mod capture;
pub mod environment;
mod events;
pub mod forecast;
mod git;
mod limits;
mod measure;
mod outcome;
mod owner;
mod process;
pub mod progress;
pub mod replay;
mod run_loop;
mod schedule;
mod stop;
mod supervise;
mod sys;

pub use git::GitFacts;
pub use limits::Limits;
pub use progress::{Notice, Observer, Progress, Silent};
pub use run_loop::run;
pub use schedule::Topology;
pub use stop::StopSignal;

use crate::{
    identity::TrialKey,
    plan::{PlannedTrial, Stage},
    store::{StoreError, record::Status},
    trial::BudgetRequest,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// The program that runs a trial: started with `--trial` after `args`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Program {
    /// Executable, found as the shell would find it.
    pub path: PathBuf,
    /// Arguments before `--trial`, such as the script of an interpreter.
    pub args: Vec<String>,
    /// Variables added to the runner's environment.
    pub env: BTreeMap<String, String>,
    /// Working folder; the runner's own when absent.
    pub working_dir: Option<PathBuf>,
}

/// What a declared metric must look like.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricRule {
    /// Name.
    pub name: String,
    /// `train`, `validation` or `test`.
    pub split: String,
    /// Smallest and largest valid value.
    pub range: Option<(f64, f64)>,
    /// A trial without it is invalid.
    pub required: bool,
    /// NaN and infinity are valid.
    pub allow_nonfinite: bool,
    /// The value is a time, so trials must not share cores.
    pub timed: bool,
}

/// Everything that the runner has to know about an experiment.
#[derive(Clone, Debug)]
pub struct RunPlan {
    /// Identity of the experiment.
    pub experiment: String,
    /// Text of the spec file, kept in the store.
    pub spec_toml: String,
    /// Schema number of the spec.
    pub schema: u32,
    /// Hash of the resolved spec.
    pub spec_hash: String,
    /// Stage that is run; all trials have it.
    pub stage: Stage,
    /// The program.
    pub program: Program,
    /// Trials of the stage, all of them: those that are missing here are retired in the store.
    pub trials: Vec<PlannedTrial>,
    /// Limits of each trial.
    pub limits: Limits,
    /// Work of each trial.
    pub budget: BudgetRequest,
    /// Threads of each trial.
    pub threads: u32,
    /// Device word: `cpu`, `cuda` or `auto`.
    pub device: String,
    /// Declared metrics.
    pub metrics: Vec<MetricRule>,
    /// Split file of each task that has one.
    pub split_files: BTreeMap<String, PathBuf>,
    /// SHA-256 of the datasets by name, noted with the session.
    pub dataset_hashes: BTreeMap<String, String>,
    /// Folder of the store (`results/<id>`), where logs and artifacts go. Made absolute by [`run`].
    pub root: PathBuf,
    /// A folder in the code's working tree, for revision and `Cargo.lock`; `None` records neither.
    pub source_dir: Option<PathBuf>,
}

/// Which part of the trials one runner of several takes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Number of this part, from 0.
    pub index: u64,
    /// Parts in all.
    pub count: u64,
    /// Keep all methods of one task and repetition in one part, so that paired comparisons run on
    /// one machine.
    pub by_task_and_rep: bool,
}

/// How to run a plan.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Trials at a time; default: physical cores divided by threads.
    pub jobs: Option<u32>,
    /// Pin each trial to its own cores; default: when a metric is timed.
    pub pin: Option<bool>,
    /// Trials that may share one GPU.
    pub gpu_share: u32,
    /// Only these trials.
    pub only: Option<Vec<TrialKey>>,
    /// Only this part of the trials.
    pub shard: Option<Shard>,
    /// Start at most so many.
    pub max_trials: Option<u64>,
    /// Start nothing after this time.
    pub time_limit: Option<Duration>,
    /// Go on although finished trials come from another revision or binary.
    pub allow_mixed: bool,
    /// Go on although the working tree has changes.
    pub allow_dirty: bool,
    /// When nothing is left to claim, wait for trials that other runners hold.
    pub wait_for_others: bool,
    /// Length of a lease.
    pub lease: Duration,
    /// Time between two renewals.
    pub heartbeat: Duration,
    /// How the run is asked to stop.
    pub stop: StopSignal,
    /// Command line, noted with the session.
    pub args: Vec<String>,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            jobs: None,
            pin: None,
            gpu_share: 1,
            only: None,
            shard: None,
            max_trials: None,
            time_limit: None,
            allow_mixed: false,
            allow_dirty: false,
            wait_for_others: false,
            lease: Duration::from_mins(1),
            heartbeat: Duration::from_secs(15),
            stop: StopSignal::new(),
            args: Vec::new(),
        }
    }
}

/// How a run went. Counts are of the trials that were selected.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// Session of this run; `None` when there was nothing to do.
    pub session_id: Option<String>,
    /// Trials selected.
    pub total: u64,
    /// Finished before this run began.
    pub finished_before: u64,
    /// Attempts of this run by outcome.
    pub ran: BTreeMap<Status, u64>,
    /// State of the selected trials at the end.
    pub states: BTreeMap<Status, u64>,
    /// Trials taken back from dead runners.
    pub reclaimed: u64,
    /// Trials given back unrun.
    pub released: u64,
    /// The run was asked to stop.
    pub interrupted: bool,
    /// Seconds.
    pub wall_s: f64,
}

impl RunSummary {
    /// Trials that are neither finished nor running elsewhere.
    pub fn open(&self) -> u64 {
        self.states.get(&Status::Pending).copied().unwrap_or(0)
    }

    /// Trials that finished other than `ok`.
    pub fn failed(&self) -> u64 {
        self.states
            .iter()
            .filter(|(status, _)| status.finished() && **status != Status::Ok)
            .map(|(_, count)| count)
            .sum()
    }

    /// Exit code of `exp run`: 130 interrupted, 3 some trials failed, else 0.
    pub fn exit_code(&self) -> u8 {
        if self.interrupted {
            130
        } else if self.failed() > 0 {
            3
        } else {
            0
        }
    }
}

/// Why a run could not go on. Everything committed before stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The trial program cannot be used.
    #[error("trial program {}: {message}", path.display())]
    Program {
        /// The executable.
        path: PathBuf,
        /// What was expected and found.
        message: String,
    },
    /// Trials that must not share cores would.
    #[error(
        "{jobs} jobs of {threads} threads: expected at most {cores} physical cores for timed or \
         pinned trials; lower --jobs or the spec's threads"
    )]
    Oversubscribed {
        /// Trials at a time.
        jobs: usize,
        /// Threads of each.
        threads: usize,
        /// Physical cores that this process may use.
        cores: usize,
    },
    /// Finished trials come from other code.
    #[error(
        "{what}: finished trials were made by {before}, this run would use {now}; start a new \
         version of the spec, or go on with --allow-mixed, which violates checklist item E6"
    )]
    Mixed {
        /// What differs.
        what: &'static str,
        /// Value of the earlier sessions.
        before: String,
        /// Value now.
        now: String,
    },
    /// The working tree has changes.
    #[error("the working tree has changes; commit them, or go on with --dirty (the diff is kept)")]
    Dirty,
    /// The plan contradicts itself.
    #[error("plan: {0}")]
    Plan(String),
    /// A file or system call failed.
    #[error("{}: {message}", path.display())]
    Io {
        /// File, folder or call.
        path: PathBuf,
        /// What the system said.
        message: String,
    },
}

impl RunError {
    fn io(path: &Path, error: &io::Error) -> Self {
        // A full disk has one name, wherever it is met.
        if error.kind() == io::ErrorKind::StorageFull {
            return Self::Store(StoreError::Full { action: "write a trial's folder" });
        }
        Self::Io { path: path.to_path_buf(), message: error.to_string() }
    }
}
