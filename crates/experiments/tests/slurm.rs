//! A study as a Slurm job array, from `exp slurm` to `exp merge`: with stand-ins for Slurm's
//! programs (`slurm/fake`), and, on request, with a real controller and node daemon of their own
//! (`slurm/run.sh`).
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use experiments::{
    plan::Stage,
    slurm::{SlurmJob, part_files, script, shard_folder},
    store::{SqliteStore, Store, record::Status},
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Longest that any of these small jobs may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// A study `toy` of two methods in a folder of its own, and where its jobs are sent.
struct Place {
    folder: TempDir,
    fake: bool,
}

impl Place {
    fn new(fake: bool, spec: &str) -> Self {
        // A blank in the path must survive the job script and its `#SBATCH` lines.
        let folder = tempfile::Builder::new().prefix("exp slurm ").tempdir().unwrap();
        fs::create_dir_all(folder.path().join("fake/tasks")).unwrap();
        fs::write(folder.path().join("experiment.toml"), spec).unwrap();
        Self { folder, fake }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Folder of the study's results.
    fn root(&self) -> PathBuf {
        self.path("results/toy")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        if self.fake {
            let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/slurm/fake");
            let path = std::env::var_os("PATH").unwrap();
            let path = std::env::join_paths(
                std::iter::once(fake).chain(std::env::split_paths(&path).collect::<Vec<_>>()),
            );
            command.env("PATH", path.unwrap()).env("FAKE_SLURM", self.path("fake"));
        }
        command
            .env("EXP_RESULTS", self.path("results"))
            .env("SCRATCH", self.path("scratch"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// `exp VERB experiment.toml ARGS`.
    fn exp(&self, verb: &str, args: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_exp"));
        command.arg(verb).arg("experiment.toml").args(args);
        command
    }

    /// Sends the array; returns the job's number.
    fn submit(&self, args: &[&str]) -> u64 {
        let output = self.exp("slurm", &[args, &["--submit"]].concat()).output().unwrap();
        let text = words(&output);
        assert!(output.status.success(), "{text}");
        let number = text.lines().find_map(|line| line.strip_prefix("submitted as job "));
        number.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
    }

    fn tool(&self, program: &str, args: &[&str]) -> String {
        let output = self.command(program).args(args).output().unwrap();
        assert!(output.status.success(), "{program} {args:?}: {}", words(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Waits until no task of the job is queued.
    fn wait(&self, job: u64) {
        let number = job.to_string();
        self.until("the job to leave the queue", || {
            let args = ["--noheader", "--array", "--format=%K %T", "--jobs", &number];
            self.tool("squeue", &args).trim().is_empty()
        });
    }

    /// Waits until part `index` has at least `count` finished trials; returns how many it has.
    fn wait_for_results(&self, index: u32, count: usize) -> usize {
        let path = shard_folder(&self.root(), index).join("store.db");
        let finished = || if path.is_file() { states(&path, true) } else { 0 };
        self.until("a part's results", || finished() >= count);
        finished()
    }

    fn until(&self, what: &str, done: impl Fn() -> bool) {
        let begun = Instant::now();
        while !done() {
            assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the tasks printed.
    fn logs(&self) -> String {
        let Ok(entries) = fs::read_dir(self.root().join("slurm")) else { return String::new() };
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        let log = |file: &PathBuf| file.extension().is_some_and(|end| end == "log");
        files.retain(log);
        files
            .iter()
            .map(|file| format!("{}:\n{}\n", file.display(), fs::read_to_string(file).unwrap()))
            .collect()
    }

    /// Merges all parts; returns what was said.
    fn merge(&self) -> String {
        let output = self.exp("merge", &[]).output().unwrap();
        assert!(output.status.success(), "{}\n{}", words(&output), self.logs());
        words(&output)
    }

    /// The table of a run on this machine, in a store of its own.
    fn local(&self, code: i32) -> BTreeMap<String, Row> {
        let store = self.path("local/store.db");
        let args = ["--store", store.to_str().unwrap(), "--jobs", "2", "--quiet"];
        let output = self.exp("run", &args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{}", words(&output));
        table(&store)
    }

    fn merged(&self) -> BTreeMap<String, Row> {
        table(&self.root().join("store.db"))
    }
}

/// Refused with this exit code and these words.
fn refused(mut command: Command, code: i32, expected: &str) {
    let output = command.output().unwrap();
    let text = words(&output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(expected), "expected {expected:?} in:\n{text}");
}

fn words(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn toy(modes: &str, amount: f64, repetitions: u32, more: &str) -> String {
    format!(
        r#"schema = 1
id = "toy"
title = "Toy"
question = "Does every result arrive, once?"
kind = "exploratory"
program = {{ command = [{:?}] }}
[[method]]
name = "new"
role = "proposed"
[[method]]
name = "old"
role = "baseline-simple"
[[task]]
name = "none"
[factors]
mode = [{modes}]
amount = [{amount:?}]
[repetitions]
count = {repetitions}
root_seed = 42
streams = ["init"]
[budget]
unit = "steps"
amount = 3
wall_seconds = 30
memory_mib = 512
grace_seconds = 1
[[metric]]
name = "val_error"
split = "validation"
primary = true
higher_is_better = false
range = [0, 1]
[[metric]]
name = "test_error"
split = "test"
higher_is_better = false
range = [0, 1]
{more}"#,
        common::example("toy_trial").to_str().unwrap()
    )
}

/// What must be equal however a trial was run: all but times, places and numbers of attempts.
#[derive(Debug, PartialEq)]
struct Row {
    ord: u64,
    stage: Stage,
    cell: String,
    rep: u32,
    seeds: BTreeMap<String, i64>,
    status: Status,
    reason: Option<String>,
    /// Values by name and split, the sealed ones included; bits, so that NaN is equal to itself.
    metrics: BTreeMap<(String, String), u64>,
    points: Vec<(String, u64, u64, u64)>,
}

fn table(path: &Path) -> BTreeMap<String, Row> {
    let store = SqliteStore::open_existing(path).unwrap();
    store.verify().unwrap();
    let mut table = BTreeMap::new();
    for trial in store.trials().unwrap() {
        let attempts = store.full_attempts(&trial.key).unwrap();
        // Exactly one result counts.
        let finals: Vec<_> = attempts.iter().filter(|a| a.status.finished()).collect();
        assert_eq!(finals.len(), usize::from(trial.status.finished()), "{trial:?}: {attempts:?}");
        let result = finals.first();
        let row = Row {
            ord: trial.ord,
            stage: trial.stage,
            cell: format!("{:?}", trial.cell),
            rep: trial.rep,
            seeds: trial.seeds,
            status: trial.status,
            reason: result.and_then(|a| a.reason.clone()),
            metrics: result
                .iter()
                .flat_map(|a| &a.metrics)
                .map(|m| ((m.name.clone(), m.split.clone()), m.value.0.to_bits()))
                .collect(),
            points: result
                .iter()
                .flat_map(|a| &a.points)
                .map(|p| (p.name.clone(), p.step, p.budget.to_bits(), p.value.0.to_bits()))
                .collect(),
        };
        table.insert(trial.key.0, row);
    }
    table
}

/// Trials of a store that are finished, or that are not.
fn states(path: &Path, finished: bool) -> usize {
    let store = SqliteStore::open_existing(path).unwrap();
    store.trials().unwrap().iter().filter(|t| t.status.finished() == finished).count()
}

#[test]
fn an_array_gives_the_table_of_a_local_run() {
    let place = Place::new(true, &toy("\"sleep\", \"crash\"", 0.05, 3, ""));
    let job = place.submit(&["--array", "4", "--time", "10m"]);
    place.wait(job);
    assert_eq!(part_files(&place.root()).unwrap().len(), 4, "{}", place.logs());
    let said = place.merge();
    assert_eq!(said.matches("attempts added").count(), 4, "{said}");
    assert!(!said.contains("are open"), "{said}");
    let merged = place.merged();
    assert_eq!(merged.len(), 12);
    assert_eq!(merged.values().filter(|row| row.status == Status::Crash).count(), 6);
    assert_eq!(merged.values().map(|row| row.metrics.len()).sum::<usize>(), 12);
    // Failed trials: exit code 3 of a local run; the tasks of the array ended well.
    assert_eq!(merged, place.local(3));
    // Logs came along, and a second merge changes nothing.
    let store = SqliteStore::open_existing(&place.root().join("store.db")).unwrap();
    for attempt in store.attempts().unwrap() {
        assert!(place.root().join(attempt.log_path.unwrap()).is_dir());
    }
    let events = store.events().unwrap().len();
    assert!(place.merge().matches(": 0 attempts added").count() == 4);
    assert_eq!((merged, events), (place.merged(), store.events().unwrap().len()));
    // With all results there, the array has nothing left to do, whoever produced them.
    fs::remove_dir_all(place.root().join("shards")).unwrap();
    place.wait(place.submit(&["--array", "2"]));
    assert!(place.merge().matches(": 0 attempts added").count() == 2);
}

#[test]
fn a_task_that_was_stopped_goes_on_when_it_is_sent_again() {
    let place = Place::new(true, &toy("\"sleep\"", 0.5, 5, ""));
    let job = place.submit(&["--array", "3", "--group-by-rep"]);
    // Slurm's cancel, and its warning before the time limit.
    for task in [1, 2] {
        place.wait_for_results(task, 1);
    }
    place.tool("scancel", &[&format!("{job}_1")]);
    place.tool("scancel", &["--signal=USR1", "--batch", &format!("{job}_2")]);
    let running =
        place.exp("slurm", &["--array", "3", "--group-by-rep", "--only", "0", "--submit"]);
    refused(running, 2, "tasks 0 are in the queue");
    place.wait(job);
    assert_eq!(
        fs::read_to_string(place.path("fake/requeued")).unwrap().trim(),
        format!("{job}_2"),
        "{}",
        place.logs()
    );
    for task in [1, 2] {
        let store = SqliteStore::open_existing(&shard_folder(&place.root(), task).join("store.db"))
            .unwrap();
        let trials = store.trials().unwrap();
        assert!(trials.iter().all(|t| t.status != Status::Running), "given back: {trials:?}");
        let attempts = store.attempts().unwrap();
        assert!(attempts.iter().all(|a| a.status == Status::Ok), "no failure: {attempts:?}");
    }
    let said = place.merge();
    assert!(said.contains("trials are open"), "{said}");
    // Seeded with what is merged; goes on with the rest.
    let again = place.submit(&["--array", "3", "--group-by-rep", "--only", "1,2"]);
    place.wait(again);
    assert!(!place.merge().contains("are open"), "{}", place.logs());
    assert_eq!(place.merged(), place.local(0));
}

#[test]
fn a_task_may_work_on_the_disk_of_its_node() {
    let place = Place::new(true, &toy("\"sleep\"", 0.3, 4, ""));
    let array = ["--array", "2", "--scratch", "$SCRATCH"];
    let job = place.submit(&array);
    let scratch = place.path("scratch");
    place.until("the scratch folders", || fs::read_dir(&scratch).is_ok_and(|d| d.count() == 2));
    // A cancelled task puts back what it has.
    std::thread::sleep(Duration::from_millis(500));
    place.tool("scancel", &[&format!("{job}_0")]);
    place.wait(job);
    assert!(states(&shard_folder(&place.root(), 0).join("store.db"), false) > 0);
    // A task that was killed between the two moves of putting back.
    let part = shard_folder(&place.root(), 1);
    fs::rename(&part, part.with_extension("part")).unwrap();
    place.wait(place.submit(&array));
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "{}", place.logs());
    let parts = fs::read_dir(place.root().join("shards")).unwrap().count();
    assert_eq!(parts, 2, "no copy is left");
    place.merge();
    assert_eq!(place.merged(), place.local(0));
}

#[test]
fn the_main_stage_waits_for_the_whole_search() {
    let tuning = r#"[tuning]
strategy = "random"
configurations = 3
metric = "val_error"
space = { lr = { uniform = [0.0, 1.0] } }
per = "method"
"#;
    let place = Place::new(true, &toy("\"fine\"", 0.0, 2, tuning));
    place.wait(place.submit(&["--array", "2"]));
    for part in part_files(&place.root()).unwrap() {
        let store = SqliteStore::open_existing(&part).unwrap();
        let trials = store.trials().unwrap();
        assert!(trials.iter().all(|trial| trial.stage == Stage::Tune), "{trials:?}");
    }
    place.merge();
    let tuned = place.merged();
    assert!(!tuned.is_empty() && tuned.values().all(|row| row.status == Status::Ok));
    place.wait(place.submit(&["--array", "2"]));
    place.merge();
    let merged = place.merged();
    assert!(merged.values().any(|row| row.stage == Stage::Main), "{}", place.logs());
    assert_eq!(merged, place.local(0));
}

#[test]
fn what_cannot_work_is_refused_before_it_is_sent() {
    let place = Place::new(true, &toy("\"fine\"", 0.0, 2, ""));
    let slurm = |args: &[&str]| place.exp("slurm", args);
    refused(place.exp("merge", &[]), 2, "expected parts");
    refused(slurm(&["--array", "0", "--submit"]), 2, "expected at least 1");
    refused(slurm(&["--array", "2", "--only", "2", "--submit"]), 2, "found 2");
    refused(slurm(&["--array", "2", "--jobs", "0"]), 2, "--jobs");
    refused(slurm(&["--array", "2", "--time", "soon"]), 2, "--time");
    refused(slurm(&["--array", "2", "--time", "40s"]), 2, "could never finish");
    refused(slurm(&["--array", "2", "--sbatch", "account=x"]), 2, "account=x");
    let mut none = slurm(&["--array", "2", "--submit"]);
    none.env("PATH", place.path("fake"));
    refused(none, 2, "is Slurm on this machine?");
    let mut odd = slurm(&["--array", "2", "--submit"]);
    odd.env("FAKE_SBATCH_ANSWER", "Submitted, I think");
    refused(odd, 2, "expected a job number");
    let mut down = slurm(&["--array", "2", "--submit"]);
    down.env("FAKE_SBATCH_ANSWER", "no").env("FAKE_SBATCH_CODE", "1");
    refused(down, 2, "sbatch: exit status: 1");
    // Parts stay split as they are.
    place.wait(place.submit(&["--array", "2"]));
    refused(slurm(&["--array", "3"]), 2, "expected 2 parts");
    refused(slurm(&["--array", "2", "--group-by-rep"]), 2, "found 2 parts by task");
    // A damaged part, and a part of another study: nothing is merged, not even the good parts.
    let target = place.root().join("store.db");
    fs::write(place.path("bad.db"), "not a store").unwrap();
    let good = shard_folder(&place.root(), 0).join("store.db");
    let sources = [good.to_str().unwrap(), "bad.db"];
    refused(place.exp("merge", &sources), 4, "bad.db");
    assert!(!target.exists());
    refused(place.exp("merge", &["none.db"]), 4, "none.db");
    place.merge();
    let before = place.merged();
    let changed = toy("\"fine\"", 0.0, 3, "");
    fs::write(place.path("experiment.toml"), changed).unwrap();
    let run = place.exp("run", &["--quiet"]).output().unwrap();
    assert!(run.status.success(), "{}", words(&run));
    refused(place.exp("merge", &[]), 4, "spec hash");
    assert_eq!(before.len() + 2, place.merged().len());
    // Times are only comparable on nodes of one kind.
    let timed = "[[metric]]\nname = \"seconds\"\nsplit = \"none\"\nhigher_is_better = false\n\
                 kind = \"time\"\nrequired = false\n";
    let place = Place::new(true, &toy("\"fine\"", 0.0, 2, timed));
    refused(place.exp("slurm", &["--array", "2"]), 2, "--constraint");
    let written = place.exp("slurm", &["--array", "2", "--group-by-rep"]).output().unwrap();
    assert!(written.status.success(), "{}", words(&written));
    let job = fs::read_to_string(place.root().join("slurm/job.sh")).unwrap();
    assert!(job.contains("#SBATCH --exclusive\n"), "{job}");
}

#[test]
fn a_signal_before_the_runner_can_handle_it_ends_the_script() {
    let place = Place::new(true, &toy("\"fine\"", 0.0, 2, ""));
    // `sleep` dies of the signal, as a runner does that has only just begun.
    let command = ["sleep", "50"].map(str::to_owned).to_vec();
    let text = script(&SlurmJob::new("toy", command, 1, &place.root())).unwrap();
    fs::write(place.path("job.sh"), text).unwrap();
    for (signal, code) in [(nix::libc::SIGUSR1, 138), (nix::libc::SIGTERM, 143)] {
        let mut child = place
            .command("bash")
            .arg("job.sh")
            .env("SLURM_ARRAY_TASK_ID", "0")
            .env("SLURM_ARRAY_JOB_ID", signal.to_string())
            .env("SLURM_JOB_ID", signal.to_string())
            .spawn()
            .unwrap();
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        // At any moment: before the script has set its traps the signal is the end of it.
        let children = format!("/proc/{pid}/task/{pid}/children");
        place.until("the runner", || !fs::read_to_string(&children).unwrap().trim().is_empty());
        std::thread::sleep(Duration::from_millis(100));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::try_from(signal).unwrap()).unwrap();
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > Duration::from_secs(10) {
                child.kill().unwrap();
                panic!("the script did not end: {:?}", child.wait().unwrap());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!((status.code(), status.signal()), (Some(code), None));
    }
    let requeued = fs::read_to_string(place.path("fake/requeued")).unwrap();
    assert_eq!(requeued.trim(), format!("{}_0", nix::libc::SIGUSR1));
}

#[test]
#[ignore = "needs a running Slurm; crates/experiments/tests/slurm/run.sh starts one and runs this"]
fn a_real_slurm_gives_the_table_of_a_local_run() {
    assert!(
        std::env::var_os("SLURM_CONF").is_some(),
        "SLURM_CONF is not set: run crates/experiments/tests/slurm/run.sh"
    );
    let begun = Instant::now();
    let place = Place::new(false, &toy("\"sleep\"", 0.8, 6, ""));
    let array = ["--array", "3", "--time", "10m", "--sbatch=--comment=exp"];
    let job = place.submit(&array);
    // One task is cancelled as a person would, the runner of another is killed as by a full memory.
    place.wait_for_results(1, 1);
    place.tool("scancel", &[&format!("{job}_1")]);
    place.wait_for_results(2, 1);
    let part = |task: u32| shard_folder(&place.root(), task).join("store.db");
    let runner = || {
        let leases = SqliteStore::open_existing(&part(2)).unwrap().leases().unwrap();
        // host/boot/namespace/pid/...
        leases.first().map(|lease| lease.owner.split('/').nth(3).unwrap().parse().unwrap())
    };
    place.until("a running trial of task 2", || runner().is_some());
    let pid = nix::unistd::Pid::from_raw(runner().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    place.wait(job);
    let open: Vec<usize> = (0..3).map(|task| states(&part(task), false)).collect();
    // Every part plans all twelve trials and runs four of them.
    assert_eq!(open[0], 8, "{}", place.logs());
    assert!(open[1] > 8 && open[2] > 8, "stopped too late: {open:?} are open");
    let left = SqliteStore::open_existing(&part(2)).unwrap().leases().unwrap();
    assert_eq!(left.len(), 1, "a killed runner gives nothing back");
    for attempt in SqliteStore::open_existing(&part(1)).unwrap().attempts().unwrap() {
        assert_eq!(attempt.status, Status::Ok, "cancelling is no failure: {attempt:?}");
    }
    let again = place.submit(&[&array[..], &["--only", "1,2"]].concat());
    // The warning before the time limit: the task gives its trial back and is queued again, and no
    // other. The last task, because Slurm gives one task the number of the whole array.
    place.wait_for_results(2, 12 - open[2] + 1);
    place.tool("scancel", &["--signal=USR1", "--batch", &format!("{again}_2")]);
    let shown = |task: u32, what: &str| {
        place.tool("scontrol", &["show", "job", &format!("{again}_{task}")]).contains(what)
    };
    place.until("the task to be queued again", || {
        shown(2, "Restarts=1") && shown(2, "JobState=PENDING")
    });
    assert!(shown(1, "Restarts=0"), "only the task that was warned is queued again");
    // Slurm lets a requeued task wait for two minutes. Within the second in which its first run was
    // ended it would be refused.
    place.tool("scontrol", &["update", &format!("JobId={again}_2"), "StartTime=now+3"]);
    place.wait(again);
    assert!(!place.merge().contains("are open"), "{}", place.logs());
    let merged = place.merged();
    assert_eq!(merged.len(), 12);
    assert_eq!(merged, place.local(0), "{}", place.logs());
    println!(
        "12 trials in 3 tasks: cancelled with {} of 4 finished, runner killed with {} of 4, one task \
         requeued; merged table equal to the local one, in {:.1} s",
        12 - open[1],
        12 - open[2],
        begun.elapsed().as_secs_f64()
    );
}
