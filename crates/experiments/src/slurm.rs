//! A study as a Slurm job array (specification, section 11): every task fills a store of its own,
//! and [`merge_shards`] joins them. No server, no open port; a dead node harms its own part only.
//!
//! Task `i` of `N` runs the trials whose order is `i` modulo `N` into `shards/i/` below the study's
//! folder. A task that is run again, because it was cancelled, pre-empted or requeued, goes on
//! where its store ended. Slurm sends SIGUSR1 before the time limit and before pre-emption: the
//! runner then gives its running trials back and ends, and the script asks to be requeued.

use crate::store::{SqliteStore, Store, StoreError, merge, record::MergeCounts};
use serde::Serialize;
use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// What to submit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlurmJob {
    /// Name of the job.
    pub name: String,
    /// The command that runs one part. The words `{shard}` and `{folder}` stand for `I/N` and for
    /// the folder of the part's store.
    pub command: Vec<String>,
    /// Parts.
    pub tasks: u32,
    /// The study's folder (`results/<id>`), seen by all nodes.
    pub root: PathBuf,
    /// Folder on each node's own disk, as the shell may write it (`$TMPDIR`). When given, a task
    /// works there and copies its store back: needed where `root` is on a network file system,
    /// which cannot hold a store in use.
    pub scratch: Option<String>,
    /// Cores of each task: jobs times threads.
    pub cpus_per_task: u32,
    /// Memory of each task.
    pub memory_mib: Option<u64>,
    /// Time limit of each task.
    pub time: Option<Duration>,
    /// Time before the limit at which SIGUSR1 comes.
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
    /// A file could not be written.
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

/// Folder of part `index`.
pub fn shard_folder(root: &Path, index: u32) -> PathBuf {
    root.join("shards").join(index.to_string())
}

fn one_line(field: &'static str, text: &str) -> Result<(), SlurmError> {
    // A line break would end the comment and start a command.
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(SlurmError::Job {
            field,
            why: format!("expected text on one line, found {text:?}"),
        });
    }
    Ok(())
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Slurm's `days-hours:minutes:seconds`, rounded up to a minute.
fn clock(time: Duration) -> String {
    let minutes = time.as_secs().div_ceil(60).max(1);
    format!("{}-{:02}:{:02}:00", minutes / 1440, minutes / 60 % 24, minutes % 60)
}

/// The job script.
///
/// # Errors
/// [`SlurmError::Job`] when a field is empty, zero or holds a line break.
pub fn script(job: &SlurmJob) -> Result<String, SlurmError> {
    one_line("name", &job.name)?;
    let root = job.root.to_string_lossy();
    one_line("root", &root)?;
    if root.contains('%') || job.name.contains('%') {
        return Err(SlurmError::Job {
            field: "root or name",
            why: "a percent sign means something else to Slurm".to_owned(),
        });
    }
    if job.tasks == 0 || job.cpus_per_task == 0 {
        return Err(SlurmError::Job {
            field: "tasks and cpus_per_task",
            why: format!("expected at least 1, found {} and {}", job.tasks, job.cpus_per_task),
        });
    }
    if job.command.is_empty() {
        return Err(SlurmError::Job { field: "command", why: "expected a program".to_owned() });
    }
    let mut text = String::from("#!/bin/bash\n");
    let mut option = |words: String| {
        let _ = writeln!(text, "#SBATCH {words}");
    };
    option(format!("--job-name={}", job.name));
    option(format!("--array=0-{}", job.tasks - 1));
    option("--ntasks=1".to_owned());
    option(format!("--cpus-per-task={}", job.cpus_per_task));
    option(format!("--output={root}/slurm/%A_%a.log"));
    option("--open-mode=append".to_owned());
    option("--requeue".to_owned());
    option(format!("--signal=B:USR1@{}", job.warn_before.as_secs().max(1)));
    if let Some(memory) = job.memory_mib {
        option(format!("--mem={memory}M"));
    }
    if let Some(time) = job.time {
        option(format!("--time={}", clock(time)));
    }
    for (field, name, value) in [
        ("partition", "--partition", &job.partition),
        ("constraint", "--constraint", &job.constraint),
    ] {
        if let Some(value) = value {
            one_line(field, value)?;
            option(format!("{name}={value}"));
        }
    }
    for extra in &job.options {
        one_line("options", extra)?;
        option(extra.clone());
    }
    let mut words = String::new();
    for word in &job.command {
        let word = match word.as_str() {
            "{shard}" => format!("\"$SLURM_ARRAY_TASK_ID/{}\"", job.tasks),
            "{folder}" => "\"$work\"".to_owned(),
            plain => quote(plain),
        };
        words.push(' ');
        words.push_str(&word);
    }
    let shards = quote(&job.root.join("shards").to_string_lossy());
    let _ =
        write!(text, "\nset -u\nshard={shards}/\"$SLURM_ARRAY_TASK_ID\"\nmkdir -p \"$shard\"\n");
    match &job.scratch {
        None => text.push_str("work=$shard\nsave() { :; }\n"),
        Some(scratch) => {
            one_line("scratch", scratch)?;
            let _ = write!(text, "{}", scratch_lines(scratch));
        }
    }
    let _ = write!(
        text,
        "\n# The runner ends by itself on SIGUSR1 and SIGTERM and gives its trials back.\n\
         again=0\ntrap 'again=1; kill -USR1 \"$runner\" 2>/dev/null' USR1\n\
         trap 'kill -TERM \"$runner\" 2>/dev/null' TERM\n\
         {} &\nrunner=$!\n\
         # A trapped signal ends wait early with 128 + its number; wait again for the runner's own code.\n\
         while :; do\n    wait \"$runner\"\n    code=$?\n    case $code in 138 | 143) ;; *) break ;; esac\ndone\n\
         save\n\
         if [ \"$again\" = 1 ] && [ \"$code\" = 130 ]; then\n    scontrol requeue \"$SLURM_JOB_ID\"\nfi\n\
         # Failed trials are results; only a runner that could not work fails the task.\n\
         [ \"$code\" = 3 ] && code=0\nexit \"$code\"\n",
        words.trim_start()
    );
    Ok(text)
}

/// Lines that work on the node's own disk and copy back what is complete.
fn scratch_lines(scratch: &str) -> String {
    format!(
        "work=\"{scratch}\"/exp-\"$SLURM_JOB_ID\"-\"$SLURM_ARRAY_TASK_ID\"\n\
         mkdir -p \"$work\" || exit 4\n\
         # An earlier run of this task may have left its part.\n\
         if [ -f \"$shard/store.db\" ]; then cp -a \"$shard/.\" \"$work/\" || exit 4; fi\n\
         save() {{\n    \
             rm -rf \"$shard.part\" && cp -a \"$work\" \"$shard.part\" || return 1\n    \
             rm -rf \"$shard.old\" && mv \"$shard\" \"$shard.old\" && mv \"$shard.part\" \"$shard\" || return 1\n    \
             rm -rf \"$shard.old\" \"$work\"\n\
         }}\n"
    )
}

/// Writes the script to `slurm/job.sh` below the study's folder, with the folders that it needs.
///
/// # Errors
/// As [`script`], and [`SlurmError::File`].
pub fn write(job: &SlurmJob) -> Result<PathBuf, SlurmError> {
    let text = script(job)?;
    let folder = job.root.join("slurm");
    let path = folder.join("job.sh");
    let fail =
        |error: std::io::Error| SlurmError::File { path: path.clone(), message: error.to_string() };
    fs::create_dir_all(&folder).map_err(fail)?;
    fs::create_dir_all(job.root.join("shards")).map_err(fail)?;
    let mut file = fs::File::create(&path).map_err(fail)?;
    file.write_all(text.as_bytes()).map_err(fail)?;
    Ok(path)
}

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

/// Sends the script; returns the job's number. With `only`, just these tasks of the array.
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
    answer.split(';').next().and_then(|number| number.parse().ok()).ok_or(SlurmError::Program {
        program: "sbatch",
        message: format!("expected a job number, found {answer:?}"),
    })
}

/// One task of a job that is still in the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QueuedTask {
    /// Number in the array; `None` for a range that has not been split yet.
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
    let text = match call("squeue", &["--noheader", "--format=%K %T", "--jobs", &number]) {
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

/// Merges every part below `root` into `target`, with its logs and artifacts, in the order of their
/// numbers. Parts may be merged while others still run, and again later.
///
/// # Errors
/// When a part cannot be read or belongs to another spec; parts before it stay merged.
pub fn merge_shards(
    target: &mut dyn Store,
    root: &Path,
    at: i64,
) -> Result<MergeCounts, StoreError> {
    let folder = root.join("shards");
    let fail = |error: std::io::Error| StoreError::File {
        path: folder.display().to_string(),
        message: error.to_string(),
    };
    let mut parts = Vec::new();
    for entry in fs::read_dir(&folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
        if let Some(number) = number
            && path.join("store.db").is_file()
        {
            parts.push((number, path));
        }
    }
    parts.sort();
    let mut total = MergeCounts::default();
    for (_, path) in parts {
        let part = SqliteStore::open_existing(&path.join("store.db"))?;
        let counts = merge::merge(target, &part, at)?;
        merge::copy_files(&path, root)?;
        total.added += counts.added;
        total.known += counts.known;
        total.settled += counts.settled;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job() -> SlurmJob {
        let command = ["exp", "run", "it's", "--shard", "{shard}", "--folder", "{folder}"];
        SlurmJob::new("toy", command.map(str::to_owned).to_vec(), 4, Path::new("/data/results/toy"))
    }

    #[test]
    fn the_script_says_what_was_asked() {
        let text = script(&SlurmJob {
            time: Some(Duration::from_secs(90_001)),
            memory_mib: Some(512),
            partition: Some("short".to_owned()),
            options: vec!["--account=x".to_owned()],
            ..job()
        })
        .unwrap();
        for line in [
            "#SBATCH --array=0-3",
            "#SBATCH --time=1-01:01:00",
            "#SBATCH --mem=512M",
            "#SBATCH --partition=short",
            "#SBATCH --account=x",
            "#SBATCH --signal=B:USR1@120",
            "#SBATCH --output=/data/results/toy/slurm/%A_%a.log",
            r#"'exp' 'run' 'it'\''s' '--shard' "$SLURM_ARRAY_TASK_ID/4" '--folder' "$work" &"#,
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
    }

    #[test]
    fn fields_that_would_break_the_script_are_refused() {
        let bad = [
            SlurmJob { tasks: 0, ..job() },
            SlurmJob { command: Vec::new(), ..job() },
            SlurmJob { name: "a\nb".to_owned(), ..job() },
            SlurmJob { partition: Some(String::new()), ..job() },
            SlurmJob { options: vec!["--x\nrm -rf /".to_owned()], ..job() },
            SlurmJob { root: "/data/100%".into(), ..job() },
        ];
        for job in bad {
            assert!(script(&job).is_err(), "{job:?}");
        }
    }
}
