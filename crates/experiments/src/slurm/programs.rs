//! Slurm's own programs: `sbatch` and `squeue`.

use super::{SlurmError, file_error};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

fn call(program: &'static str, args: &[&str]) -> Result<String, SlurmError> {
    let output =
        Command::new(program).args(args).stdin(Stdio::null()).output().map_err(|error| {
            SlurmError::Program { program, message: format!("{error}; is Slurm on this machine?") }
        })?;
    if !output.status.success() {
        return Err(SlurmError::Program {
            program,
            message: format!(
                "{}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            ),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Sends the script that [`super::write`] has written; returns the job's number, which is also
/// noted in `jobs` beside the script. With `only`, just these tasks of the array.
///
/// # Errors
/// [`SlurmError::Program`] when `sbatch` is missing, fails or answers with something else.
pub fn submit(script: &Path, only: Option<&[u32]>) -> Result<u64, SlurmError> {
    let path = script.to_string_lossy();
    let array = only.map(|tasks| {
        let words: Vec<String> = tasks.iter().map(u32::to_string).collect();
        format!("--array={}", words.join(","))
    });
    let mut args = vec!["--parsable"];
    args.extend(array.as_deref());
    args.push(&path);
    let answer = call("sbatch", &args)?;
    // `number` or `number;cluster`.
    let number: u64 =
        answer.split(';').next().and_then(|number| number.parse().ok()).ok_or_else(|| {
            SlurmError::Program {
                program: "sbatch",
                message: format!("expected a job number, found {answer:?}"),
            }
        })?;
    let list = script.with_file_name("jobs");
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(&list)
        .and_then(|mut file| writeln!(file, "{number}"))
        .map_err(|error| file_error(&list, &error))?;
    Ok(number)
}

/// Numbers of the jobs that were sent for the study in folder `root`, oldest first.
///
/// # Errors
/// [`SlurmError::File`] when their list is there and cannot be read.
pub fn jobs(root: &Path) -> Result<Vec<u64>, SlurmError> {
    let list = root.join("slurm").join("jobs");
    match fs::read_to_string(&list) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.trim().parse().ok()).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(file_error(&list, &error)),
    }
}

/// One task of a job that is still in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueuedTask {
    /// Number in the array; `None` for a job that is not an array.
    pub task: Option<u32>,
    /// `PENDING`, `RUNNING`, `COMPLETING`, ...
    pub state: String,
}

/// Tasks of job `id` that have not ended.
///
/// # Errors
/// [`SlurmError::Program`] when `squeue` is missing or fails; a job that it no longer knows has no
/// tasks.
pub fn queue(id: u64) -> Result<Vec<QueuedTask>, SlurmError> {
    let number = id.to_string();
    // --array: one line per task, also for those that still wait as one range.
    let args = ["--noheader", "--array", "--format=%K %T", "--jobs", &number];
    let text = match call("squeue", &args) {
        Ok(text) => text,
        Err(SlurmError::Program { message, .. }) if message.contains("Invalid job id") => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    Ok(text
        .lines()
        .filter_map(|line| {
            let (task, state) = line.trim().split_once(' ')?;
            Some(QueuedTask { task: task.parse().ok(), state: state.trim().to_owned() })
        })
        .collect())
}

/// Tasks of the study in folder `root` that wait or run, of all jobs that were sent for it.
///
/// # Errors
/// As [`jobs`] and [`queue`].
pub fn busy_tasks(root: &Path) -> Result<BTreeSet<u32>, SlurmError> {
    let mut busy = BTreeSet::new();
    for id in jobs(root)? {
        busy.extend(queue(id)?.into_iter().filter_map(|task| task.task));
    }
    Ok(busy)
}
