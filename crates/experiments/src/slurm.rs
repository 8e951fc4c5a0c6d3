//! A study as a Slurm job array (specification, section 11): every task fills a store of its own,
//! and [`merge_shards`] joins them. No server, no open port; a dead node harms its own part only.
//!
//! Task `i` of `N` runs the trials whose order is `i` modulo `N` into `shards/i/` below the study's
//! folder. A task that is run again, because it was cancelled, pre-empted or requeued, goes on
//! where its store ended. Slurm sends SIGUSR1 before the time limit and before pre-emption: the
//! runner then gives its running trials back and ends, and the script asks to be requeued.
//!
//! The parts of the module: the job script ([`script`]), Slurm's programs ([`submit`], [`queue`]),
//! and the stores of the parts ([`seed_shards`], [`merge_shards`]).

mod programs;
mod script;
mod shards;

pub use programs::{QueuedTask, busy_tasks, jobs, queue, submit};
pub use script::script;
pub use shards::{Part, merge_shards, open_part, part_files, seed_shards, shard_folder};

use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// What to submit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlurmJob {
    /// Name of the job.
    pub name: String,
    /// The command that runs one part. The word `{shard}` stands for `I/N`, and `{folder}` at the
    /// beginning of a word (alone, or before a slash) for the folder of the part's store.
    pub command: Vec<String>,
    /// Parts.
    pub tasks: u32,
    /// The study's folder (`results/<id>`), seen by all nodes.
    pub root: PathBuf,
    /// Folder on each node's own disk, as the shell may write it (`$TMPDIR`). When given, a task
    /// works there and copies its store back when it ends: needed where `root` is on a network
    /// file system, which cannot hold a store in use.
    pub scratch: Option<String>,
    /// Cores of each task: jobs times threads.
    pub cpus_per_task: u32,
    /// Memory of each task.
    pub memory_mib: Option<u64>,
    /// Time limit of each task.
    pub time: Option<Duration>,
    /// Time before the limit at which SIGUSR1 comes; at most half of the limit is used.
    pub warn_before: Duration,
    /// Partition.
    pub partition: Option<String>,
    /// Kind of node, so that timed trials are comparable.
    pub constraint: Option<String>,
    /// Further `#SBATCH` options, such as `--account=x`.
    pub options: Vec<String>,
}

impl SlurmJob {
    /// A job with one core per task and no limits.
    pub fn new(name: &str, command: Vec<String>, tasks: u32, root: &Path) -> Self {
        Self {
            name: name.to_owned(),
            command,
            tasks,
            root: root.to_path_buf(),
            scratch: None,
            cpus_per_task: 1,
            memory_mib: None,
            time: None,
            warn_before: Duration::from_mins(2),
            partition: None,
            constraint: None,
            options: Vec::new(),
        }
    }
}

/// Why a job could not be written or sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SlurmError {
    /// A field of the job cannot be used.
    #[error("slurm job: {field}: {why}")]
    Job {
        /// The field.
        field: &'static str,
        /// What was expected and found.
        why: String,
    },
    /// A file could not be read or written.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        message: String,
    },
    /// A program of Slurm failed or is missing.
    #[error("{program}: {message}")]
    Program {
        /// `sbatch`, `squeue`.
        program: &'static str,
        /// What it said.
        message: String,
    },
}

/// How the parts below a study's folder were split: the same trial must stay in the same part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Split {
    tasks: u32,
    command: Vec<String>,
}

impl Split {
    /// Words of the command that decide which trials a part gets.
    fn grouping(&self) -> bool {
        self.command.iter().any(|word| word == "--group-by-rep")
    }
}

fn file_error(path: &Path, error: &dyn std::fmt::Display) -> SlurmError {
    SlurmError::File { path: path.to_path_buf(), message: error.to_string() }
}

/// Writes the script to `slurm/job.sh` below the study's folder, with the folders that it needs.
///
/// # Errors
/// As [`script`]; [`SlurmError::Job`] when parts with results are there that were split in another
/// way: their trials would run twice; [`SlurmError::File`].
pub fn write(job: &SlurmJob) -> Result<PathBuf, SlurmError> {
    let text = script(job)?;
    let folder = job.root.join("slurm");
    let split_path = folder.join("split.json");
    let split = Split { tasks: job.tasks, command: job.command.clone() };
    if !part_files(&job.root).map_err(|error| file_error(&job.root, &error))?.is_empty()
        && let Ok(text) = fs::read_to_string(&split_path)
    {
        let before: Split =
            serde_json::from_str(&text).map_err(|error| file_error(&split_path, &error))?;
        if before.tasks != split.tasks || before.grouping() != split.grouping() {
            let words = |s: &Split| {
                let by = if s.grouping() { " by task and repetition" } else { "" };
                format!("{} parts{by}", s.tasks)
            };
            return Err(SlurmError::Job {
                field: "tasks",
                why: format!(
                    "expected {} as in {}, found {}; to split anew, `exp merge` the parts and remove \
                     that folder",
                    words(&before),
                    job.root.join("shards").display(),
                    words(&split)
                ),
            });
        }
    }
    for place in [&folder, &job.root.join("shards")] {
        fs::create_dir_all(place).map_err(|error| file_error(place, &error))?;
    }
    let split = serde_json::to_string(&split).map_err(|error| file_error(&split_path, &error))?;
    fs::write(&split_path, split).map_err(|error| file_error(&split_path, &error))?;
    let path = folder.join("job.sh");
    fs::write(&path, text).map_err(|error| file_error(&path, &error))?;
    Ok(path)
}
