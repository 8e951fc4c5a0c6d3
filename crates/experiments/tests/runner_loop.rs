//! The loop around trials: resume, two runners, losses, guards, stopping, replay, forecast.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{plan, session, trials};
use experiments::{
    plan::Stage,
    runner::{
        self, Notice, Observer, RunError, RunOptions, Shard, Silent, StopSignal,
        forecast::{self, ForecastOptions},
        replay,
    },
    store::{
        SqliteOptions, SqliteStore, Store, StoreError,
        record::{ClaimRequest, Status},
    },
};
use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

fn open(root: &Path) -> SqliteStore {
    SqliteStore::open(&root.join("store.db")).unwrap()
}

fn two_jobs() -> RunOptions {
    RunOptions { jobs: Some(2), ..RunOptions::default() }
}

#[test]
fn a_run_finishes_everything_and_a_second_one_does_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), trials(Stage::Main, &[("fine", 0.0), ("crash", 0.0)], 5));
    let mut store = open(folder.path());
    let first = runner::run(&mut store, &plan, &two_jobs(), &mut Silent).unwrap();
    assert_eq!(first.ran[&Status::Ok], 5);
    assert_eq!(first.ran[&Status::Crash], 5);
    assert_eq!((first.exit_code(), first.open(), first.failed()), (3, 0, 5));
    let sessions = store.sessions().unwrap();
    assert_eq!(sessions.len(), 1);
    assert!(sessions[0].ended_at.is_some());
    let env = &sessions[0].env_json;
    assert_eq!(env["program"]["describe"]["toy"], 1);
    assert_eq!(env["program"]["sha256"].as_str().unwrap().len(), 64);
    assert!(env["machine"]["kernel"].is_string());
    let start = Instant::now();
    let second = runner::run(&mut store, &plan, &two_jobs(), &mut Silent).unwrap();
    assert!(start.elapsed() < Duration::from_secs(1));
    assert!(second.ran.is_empty() && second.session_id.is_none());
    assert_eq!((second.finished_before, second.exit_code()), (10, 3));
    assert_eq!(store.sessions().unwrap().len(), 1, "doing nothing leaves no trace");
    // More repetitions are simply run.
    let more =
        common::plan(folder.path(), trials(Stage::Main, &[("fine", 0.0), ("crash", 0.0)], 6));
    let third = runner::run(&mut store, &more, &two_jobs(), &mut Silent).unwrap();
    assert_eq!(third.ran.values().sum::<u64>(), 2);
}

#[test]
fn two_runners_on_one_store_share_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), trials(Stage::Main, &[("fine", 0.0)], 40));
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut store = open(folder.path());
                    let options = RunOptions { wait_for_others: true, ..two_jobs() };
                    runner::run(&mut store, &plan, &options, &mut Silent).unwrap()
                })
            })
            .collect();
        let ran: Vec<u64> = runs
            .into_iter()
            .map(|run| run.join().unwrap().ran.get(&Status::Ok).copied().unwrap_or(0))
            .collect();
        assert_eq!(ran.iter().sum::<u64>(), 40, "{ran:?}");
    });
    let store = open(folder.path());
    store.verify().unwrap();
    assert_eq!(store.attempts().unwrap().len(), 40);
}

#[test]
fn shards_part_the_trials() {
    let all = trials(Stage::Main, &[("fine", 0.0), ("artifact", 0.0)], 5);
    let mut seen = BTreeSet::new();
    for by_task_and_rep in [false, true] {
        seen.clear();
        for index in 0..3 {
            let folder = tempfile::tempdir().unwrap();
            let plan = plan(folder.path(), all.clone());
            let mut store = open(folder.path());
            let shard = Some(Shard { index, count: 3, by_task_and_rep });
            let options = RunOptions { shard, ..two_jobs() };
            let summary = runner::run(&mut store, &plan, &options, &mut Silent).unwrap();
            assert_eq!(summary.open(), 0);
            let done: Vec<_> = store
                .trials()
                .unwrap()
                .into_iter()
                .filter(|row| row.status == Status::Ok)
                .collect();
            if by_task_and_rep {
                for row in &done {
                    let mates = done.iter().filter(|other| other.rep == row.rep).count();
                    assert_eq!(mates, 2, "both methods of a repetition are together");
                }
            }
            for row in done {
                assert!(seen.insert(row.key), "a trial is in two shards");
            }
        }
        assert_eq!(seen.len(), 10);
    }
}

/// Kills the first trials that start, from outside.
struct Killer {
    left: u32,
    root: std::path::PathBuf,
}

impl Observer for Killer {
    fn notice(&mut self, notice: &Notice) {
        let Notice::Tick { running, .. } = notice else { return };
        if self.left == 0 || running.is_empty() {
            return;
        }
        let wanted = format!("EXP_EVENTS={}", self.root.display());
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(environment) = std::fs::read(entry.path().join("environ")) else { continue };
            if environment.split(|b| *b == 0).any(|item| item.starts_with(wanted.as_bytes())) {
                let pid: i32 = entry.file_name().to_str().unwrap().parse().unwrap();
                nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                )
                .unwrap();
                self.left -= 1;
                return;
            }
        }
    }
}

#[test]
fn only_infrastructure_losses_are_tried_again() {
    for (kills, attempts, status) in [(1, 2, Status::Ok), (2, 2, Status::Crash)] {
        let folder = tempfile::tempdir().unwrap();
        let plan = plan(folder.path(), trials(Stage::Main, &[("sleep", 0.5)], 1));
        let mut store = open(folder.path());
        let mut killer = Killer { left: kills, root: folder.path().to_path_buf() };
        let options = RunOptions { jobs: Some(1), ..RunOptions::default() };
        runner::run(&mut store, &plan, &options, &mut killer).unwrap();
        let row = &store.trials().unwrap()[0];
        assert_eq!((row.status, row.attempt), (status, attempts));
        let all = store.full_attempts(&row.key).unwrap();
        assert_eq!(all[0].status, Status::Lost);
        assert_eq!(all[0].reason.as_deref(), Some("SIGKILL from outside"));
        if status == Status::Crash {
            assert_eq!(all[1].reason.as_deref(), Some("lost: SIGKILL from outside"));
        }
    }
}

#[test]
fn a_dead_runner_s_trial_is_taken_back_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), trials(Stage::Main, &[("fine", 0.0)], 3));
    let mut store = open(folder.path());
    store.plan("hash", &plan.trials).unwrap();
    // A runner of this host and boot whose process is gone, with a lease that lasts for ever.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let space: String = std::fs::read_link("/proc/self/ns/pid")
        .unwrap()
        .to_string_lossy()
        .chars()
        .filter(char::is_ascii_digit)
        .collect();
    let host = nix::unistd::gethostname().unwrap().to_string_lossy().into_owned();
    let gone = format!("{host}/{}/{space}/{}/1/x", boot.trim(), 1 << 30);
    let elsewhere = "another-host/boot/1/1/1/x".to_owned();
    for owner in [&gone, &elsewhere] {
        store.begin_session(&session(owner)).unwrap();
        store
            .claim(&ClaimRequest {
                owner: owner.clone(),
                now: 0,
                lease_until: i64::MAX,
                max_attempts: 2,
                stage: Stage::Main,
                only: None,
            })
            .unwrap()
            .unwrap();
    }
    let summary = runner::run(&mut store, &plan, &two_jobs(), &mut Silent).unwrap();
    assert_eq!(summary.reclaimed, 1);
    assert_eq!(summary.ran[&Status::Ok], 2);
    assert_eq!(summary.states[&Status::Running], 1, "the other host may be alive");
}

#[test]
fn stopping_gives_running_trials_back() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), trials(Stage::Main, &[("sleep", 30.0)], 4));
    let mut store = open(folder.path());
    let stop = StopSignal::new();
    let from_outside = stop.clone();
    let options = RunOptions { stop, ..two_jobs() };
    let summary = std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(600));
            from_outside.give_back();
        });
        runner::run(&mut store, &plan, &options, &mut Silent).unwrap()
    });
    assert!(summary.interrupted && summary.exit_code() == 130);
    assert_eq!((summary.released, summary.open()), (2, 4));
    assert!(store.attempts().unwrap().is_empty());
    assert!(store.trials().unwrap().iter().all(|row| row.attempt == 0), "not counted");
}

#[test]
fn draining_lets_running_trials_end() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), trials(Stage::Main, &[("sleep", 0.6)], 9));
    let mut store = open(folder.path());
    let stop = StopSignal::new();
    let from_outside = stop.clone();
    let options = RunOptions { stop, ..two_jobs() };
    let summary = std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(250));
            from_outside.drain();
        });
        runner::run(&mut store, &plan, &options, &mut Silent).unwrap()
    });
    let ok = summary.ran[&Status::Ok];
    assert!((1..=4).contains(&ok) && summary.released == 0, "{summary:?}");
    assert_eq!(summary.open(), 9 - ok);
    // Bounds on the number of trials and on the time do the same without an interruption.
    let options = RunOptions { max_trials: Some(1), ..two_jobs() };
    let summary = runner::run(&mut store, &plan, &options, &mut Silent).unwrap();
    assert_eq!((summary.ran[&Status::Ok], summary.interrupted), (1, false));
    let options = RunOptions { time_limit: Some(Duration::ZERO), ..two_jobs() };
    assert!(runner::run(&mut store, &plan, &options, &mut Silent).unwrap().ran.is_empty());
}

#[test]
fn a_lease_that_was_lost_ends_the_trial_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), trials(Stage::Main, &[("sleep", 20.0)], 1));
    let mut store = open(folder.path());
    let root = folder.path().to_path_buf();
    let options = RunOptions {
        jobs: Some(1),
        lease: Duration::from_millis(300),
        heartbeat: Duration::from_secs(1),
        ..RunOptions::default()
    };
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Another machine, after the lease has run out and before the heartbeat.
            let mut other = open(&root);
            std::thread::sleep(Duration::from_millis(700));
            other.begin_session(&session("other")).unwrap();
            let now = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_millis() as i64;
            let request = ClaimRequest {
                owner: "other".to_owned(),
                now,
                lease_until: now + 1_000_000,
                max_attempts: 5,
                stage: Stage::Main,
                only: None,
            };
            assert!(other.claim(&request).unwrap().is_some());
        });
        let summary = runner::run(&mut store, &plan, &options, &mut Silent).unwrap();
        assert_eq!(summary.states[&Status::Running], 1);
    });
    assert!(start.elapsed() < Duration::from_secs(15));
    assert_eq!(store.leases().unwrap()[0].owner, "other");
}

#[test]
fn guards_against_wrong_programs_mixed_binaries_and_full_cores() {
    let folder = tempfile::tempdir().unwrap();
    let good = plan(folder.path(), trials(Stage::Main, &[("fine", 0.0)], 2));
    let mut store = open(folder.path());
    for (path, word) in [("/nonexistent/program", "No such file"), ("/bin/false", "--describe")] {
        let mut bad = good.clone();
        bad.program.path = path.into();
        let error = runner::run(&mut store, &bad, &two_jobs(), &mut Silent).unwrap_err();
        assert!(matches!(error, RunError::Program { .. }));
        assert!(error.to_string().contains(word), "{error}");
    }
    assert!(store.attempts().unwrap().is_empty() && store.leases().unwrap().is_empty());
    let one = RunOptions { max_trials: Some(1), ..two_jobs() };
    runner::run(&mut store, &good, &one, &mut Silent).unwrap();
    // The same program with one byte more is another program.
    let other = folder.path().join("other_trial");
    let mut bytes = std::fs::read(&good.program.path).unwrap();
    bytes.push(0);
    std::fs::write(&other, bytes).unwrap();
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut changed = good.clone();
    changed.program.path = other;
    let error = runner::run(&mut store, &changed, &two_jobs(), &mut Silent).unwrap_err();
    assert!(matches!(error, RunError::Mixed { .. }), "{error}");
    let options = RunOptions { allow_mixed: true, ..two_jobs() };
    runner::run(&mut store, &changed, &options, &mut Silent).unwrap();
    // Timed trials never share cores.
    let mut timed = common::plan(folder.path(), trials(Stage::Main, &[("fine", 0.0)], 3));
    timed.metrics[0].timed = true;
    let options = RunOptions { jobs: Some(4096), allow_mixed: true, ..RunOptions::default() };
    let error = runner::run(&mut store, &timed, &options, &mut Silent).unwrap_err();
    assert!(matches!(error, RunError::Oversubscribed { .. }), "{error}");
    // Pinned trials run.
    let options = RunOptions { jobs: Some(1), pin: Some(true), allow_mixed: true, ..two_jobs() };
    assert_eq!(runner::run(&mut store, &timed, &options, &mut Silent).unwrap().open(), 0);
}

#[test]
fn a_dirty_tree_is_refused_outside_smoke_and_pilot() {
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    let git = |args: &[&str]| {
        std::process::Command::new("git").arg("-C").arg(&tree).args(args).output().unwrap()
    };
    git(&["init", "-q"]);
    std::fs::write(tree.join("a"), "1").unwrap();
    git(&["add", "a"]);
    git(&["-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "a"]);
    std::fs::write(tree.join("a"), "2").unwrap();
    let mut store = open(folder.path());
    let mut plan = plan(folder.path(), trials(Stage::Main, &[("fine", 0.0)], 1));
    plan.source_dir = Some(tree.clone());
    let error = runner::run(&mut store, &plan, &two_jobs(), &mut Silent).unwrap_err();
    assert!(matches!(error, RunError::Dirty), "{error}");
    let mut smoke = common::plan(folder.path(), trials(Stage::Smoke, &[("fine", 0.0)], 1));
    smoke.source_dir = Some(tree);
    runner::run(&mut store, &smoke, &two_jobs(), &mut Silent).unwrap();
    let options = RunOptions { allow_dirty: true, ..two_jobs() };
    runner::run(&mut store, &plan, &options, &mut Silent).unwrap();
    let session = store.sessions().unwrap().pop().unwrap();
    assert!(session.git_dirty && session.git_rev.is_some());
    let diff = format!("diffs/{}.patch", session.git_diff_sha.unwrap());
    assert!(std::fs::read_to_string(folder.path().join(diff)).unwrap().contains("+2"));
}

#[test]
fn a_full_disk_ends_the_run_cleanly_and_it_resumes_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let plan = plan(folder.path(), trials(Stage::Main, &[("flood", 8.0)], 40));
    let mut store = SqliteStore::open(&path).unwrap();
    store.plan(&plan.spec_hash, &plan.trials).unwrap();
    drop(store);
    let pages = std::fs::metadata(&path).unwrap().len() / 4096;
    let options = SqliteOptions { max_pages: Some(pages as u32 + 24), ..SqliteOptions::default() };
    let mut store = SqliteStore::open_with(&path, &options).unwrap();
    let error = runner::run(&mut store, &plan, &two_jobs(), &mut Silent).unwrap_err();
    assert!(matches!(error, RunError::Store(StoreError::Full { .. })), "{error}");
    drop(store);
    let mut store = SqliteStore::open(&path).unwrap();
    store.verify().unwrap();
    let ok = |store: &SqliteStore| {
        store.trials().unwrap().iter().filter(|row| row.status == Status::Ok).count()
    };
    let before = ok(&store);
    assert!(before > 3 && before < 40, "{before}");
    // This process still lives, so what it could not release waits for its lease; a new lease
    // length of zero stands for the time until then.
    let now = i64::MAX;
    let request = experiments::store::record::ReclaimRequest {
        dead_owners: Vec::new(),
        now,
        max_attempts: 2,
    };
    store.reclaim(&request).unwrap();
    let summary = runner::run(&mut store, &plan, &two_jobs(), &mut Silent).unwrap();
    assert_eq!(summary.finished_before, before as u64);
    assert_eq!(ok(&store), 40);
    store.verify().unwrap();
}

#[test]
fn a_replay_repeats_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), trials(Stage::Main, &[("fine", 0.0)], 1));
    let mut store = open(folder.path());
    runner::run(&mut store, &plan, &two_jobs(), &mut Silent).unwrap();
    let row = store.trials().unwrap().remove(0);
    let scratch = folder.path().join("scratch");
    let facts = replay::replay(&store, &plan, &row, 0.0, &scratch).unwrap();
    assert!(facts.agrees() && facts.points_identical, "{facts:?}");
    assert_eq!(facts.metrics.len(), 2);
    assert!(facts.metrics.iter().all(|metric| metric.identical));
    // Another seed is another result, and is called that.
    let mut other = row.clone();
    other.seeds.insert("init".to_owned(), 17);
    let facts = replay::replay(&store, &plan, &other, 1e-9, &scratch).unwrap();
    assert!(!facts.agrees());
    let (request, command) = replay::shell(&plan, &row, &scratch);
    assert_eq!(request.trial_key, row.key);
    assert!(command.contains("EXP_EVENTS=") && command.ends_with("request.json"), "{command}");
}

#[test]
fn a_pilot_forecasts_the_full_run() {
    let folder = tempfile::tempdir().unwrap();
    let pilot = plan(folder.path(), trials(Stage::Pilot, &[("sleep", 0.1), ("crash", 0.0)], 3));
    let mut store = open(folder.path());
    let full = trials(Stage::Main, &[("sleep", 0.1), ("crash", 0.0)], 30);
    let options = ForecastOptions { budget_ratio: 10.0, jobs: 2, resamples: 500, seed: 7 };
    let none = forecast::forecast(&store, Stage::Pilot, &full, folder.path(), options);
    assert!(none.unwrap_err().to_string().contains("pilot"));
    runner::run(&mut store, &pilot, &two_jobs(), &mut Silent).unwrap();
    let cost = forecast::forecast(&store, Stage::Pilot, &full, folder.path(), options).unwrap();
    assert_eq!((cost.pilot_trials, cost.trials), (6, 60));
    // 30 trials of at least 0.1 s, ten times longer, two at a time.
    let at_least = 30.0 * 0.1 * 10.0 / 2.0 / 3600.0;
    assert!(cost.wall_hours.value >= at_least, "{:?}", cost.wall_hours);
    assert!(
        cost.wall_hours.low <= cost.wall_hours.value
            && cost.wall_hours.value <= cost.wall_hours.high
    );
    assert_eq!(cost.failure_rate["m-crash"], (1.0, 3));
    assert_eq!(cost.failure_rate["m-sleep"], (0.0, 3));
    assert!(cost.disk_bytes.value > 0.0 && cost.missing_cells.is_empty());
    let again = forecast::forecast(&store, Stage::Pilot, &full, folder.path(), options).unwrap();
    assert_eq!(again, cost);
    let bad = ForecastOptions { budget_ratio: f64::NAN, ..options };
    assert!(forecast::forecast(&store, Stage::Pilot, &full, folder.path(), bad).is_err());
}
