//! Every way in which a trial can end, with real processes: the outcome of specification sections
//! 6.1 to 6.4, and no process left behind.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{plan, trials};
use experiments::{
    plan::Stage,
    runner::{self, RunOptions, RunPlan, Silent},
    store::{
        SqliteStore, Store,
        record::{AttemptRecord, Status},
    },
};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// Runs one trial of `mode` and gives its attempts.
fn attempts_of(
    root: &Path,
    mode: &str,
    amount: f64,
    change: impl FnOnce(&mut RunPlan),
) -> Vec<AttemptRecord> {
    let mut plan = plan(root, trials(Stage::Main, &[(mode, amount)], 1));
    change(&mut plan);
    let mut store = SqliteStore::open(&root.join("store.db")).unwrap();
    let options = RunOptions { jobs: Some(1), ..RunOptions::default() };
    runner::run(&mut store, &plan, &options, &mut Silent).unwrap();
    store.verify().unwrap();
    let key = plan.trials[0].key.clone();
    store.full_attempts(&key).unwrap()
}

fn only(mode: &str, amount: f64, change: impl FnOnce(&mut RunPlan)) -> AttemptRecord {
    let folder = tempfile::tempdir().unwrap();
    let mut all = attempts_of(folder.path(), mode, amount, change);
    assert_eq!(all.len(), 1, "{all:?}");
    let marks = left_behind(folder.path());
    assert!(marks.is_empty(), "{mode} left processes behind: {marks:?}");
    all.remove(0)
}

/// Processes whose environment names the experiment in `root`.
fn left_behind(root: &Path) -> Vec<String> {
    let wanted = format!("EXP_EVENTS={}", root.display());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        if environment.split(|b| *b == 0).any(|item| item.starts_with(wanted.as_bytes())) {
            found.push(fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default());
        }
    }
    found
}

fn reason(attempt: &AttemptRecord) -> &str {
    attempt.reason.as_deref().unwrap_or("")
}

fn warnings(attempt: &AttemptRecord) -> String {
    attempt.result_json.as_ref().unwrap()["warnings"].to_string()
}

#[test]
fn a_good_trial_is_measured_and_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let attempt = attempts_of(folder.path(), "artifact", 0.0, |_| {}).remove(0);
    assert_eq!((attempt.status, attempt.exit_code, attempt.signal), (Status::Ok, Some(0), None));
    assert_eq!(attempt.reason, None);
    assert!(attempt.wall_s > 0.0 && attempt.wall_s < 10.0);
    assert!(attempt.peak_rss_kib > 500, "{}", attempt.peak_rss_kib);
    assert_eq!(attempt.budget_used, Some(3.0));
    assert_eq!(attempt.points.len(), 3);
    assert_eq!(attempt.metrics.len(), 2);
    assert!(
        (attempt.metrics.iter().find(|m| m.split == "validation").unwrap().value.0 - 0.013).abs()
            < 1e-12
    );
    let artifact = &attempt.artifacts[0];
    assert_eq!(fs::read_to_string(folder.path().join(&artifact.path)).unwrap(), "weights");
    assert_eq!(artifact.bytes, 7);
    let logs = folder.path().join(attempt.log_path.as_ref().unwrap());
    assert!(logs.join("request.json").is_file());
    assert!(!logs.join("events.jsonl").exists(), "the store has it all");
}

#[test]
fn programs_that_fail_are_crashes_and_are_not_tried_again() {
    for (mode, word) in [
        ("crash", "exit code 1"),
        ("panic", "exit code 101"),
        ("abort", "SIGABRT"),
        ("no-done", "no done line"),
        ("half-line", "no done line"),
    ] {
        let attempt = only(mode, 0.0, |_| {});
        assert_eq!(attempt.status, Status::Crash, "{mode}");
        assert_eq!(reason(&attempt), word, "{mode}");
    }
    assert!(only("crash", 0.0, |_| {}).stderr_tail.contains("as asked"));
    assert!(warnings(&only("half-line", 0.0, |_| {})).contains("not complete"));
}

#[test]
fn results_that_cannot_be_trusted_are_invalid() {
    for (mode, word) in [
        ("nan", "`val_error` (validation) is not finite"),
        ("out-of-range", "outside [0, 1]"),
        ("missing", "`test_error` (test) is missing"),
        ("twice", "twice"),
        ("huge-number", "event line 1: number out of range"),
        ("garbage", "event line 1"),
        ("false-artifact", "artifact `model`"),
    ] {
        let attempt = only(mode, 0.0, |_| {});
        assert_eq!(attempt.status, Status::Invalid, "{mode}: {}", reason(&attempt));
        assert!(reason(&attempt).contains(word), "{mode}: {}", reason(&attempt));
    }
}

#[test]
fn wall_limit_ends_whatever_ignores_sigterm_and_keeps_the_curve() {
    for mode in ["hang", "setsid-and-hang"] {
        let start = Instant::now();
        let attempt = only(mode, 0.0, |plan| plan.limits.wall = Some(Duration::from_millis(500)));
        let took = start.elapsed();
        assert_eq!((attempt.status, reason(&attempt)), (Status::Timeout, "wall"), "{mode}");
        // Limit, grace, half a second; and the start of a process on a busy machine.
        assert!(took < Duration::from_millis(500 + 400 + 500 + 1000), "{mode}: {took:?}");
        if mode == "hang" {
            assert_eq!(attempt.points.len(), 1, "what was logged is censored data");
        }
    }
    // A program that obeys SIGTERM needs no grace.
    let attempt = only("sleep", 20.0, |plan| {
        plan.limits.wall = Some(Duration::from_millis(300));
        plan.limits.grace = Duration::from_secs(15);
    });
    assert_eq!(attempt.status, Status::Timeout);
    assert!(attempt.wall_s < 5.0, "{}", attempt.wall_s);
}

#[test]
fn cpu_time_counts_over_the_whole_tree() {
    for mode in ["spin", "spin-child"] {
        let attempt = only(mode, 20.0, |plan| plan.limits.cpu = Some(Duration::from_millis(400)));
        assert_eq!((attempt.status, reason(&attempt)), (Status::Timeout, "cpu"), "{mode}");
        assert!(attempt.wall_s < 15.0, "{}", attempt.wall_s);
    }
    let attempt = only("spin-child", 0.4, |_| {});
    assert_eq!(attempt.status, Status::Ok);
    let cpu = attempt.cpu_user_s + attempt.cpu_sys_s;
    assert!(cpu > 0.05, "{cpu}");
}

#[test]
fn memory_limit_is_a_memout_and_the_peak_is_known() {
    let attempt = only("allocate", 4000.0, |plan| plan.limits.memory_bytes = Some(150 << 20));
    assert_eq!((attempt.status, reason(&attempt)), (Status::Memout, "memory"));
    assert!(attempt.peak_rss_kib > 150 << 10, "{}", attempt.peak_rss_kib);
    let attempt = only("allocate", 64.0, |plan| plan.limits.memory_bytes = Some(400 << 20));
    assert_eq!(attempt.status, Status::Ok);
    assert!((64 << 10..200 << 10).contains(&attempt.peak_rss_kib), "{}", attempt.peak_rss_kib);
}

#[test]
fn nothing_that_a_trial_forks_survives_it() {
    for mode in ["fork-and-exit", "setsid-and-exit"] {
        let attempt = only(mode, 0.0, |_| {});
        assert_eq!(attempt.status, Status::Ok, "{mode}");
        assert!(warnings(&attempt).contains("1 processes outlived"), "{}", warnings(&attempt));
        assert!(attempt.wall_s < 5.0);
    }
}

#[test]
fn floods_do_not_fill_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let attempt = attempts_of(folder.path(), "flood", 20_000.0, |plan| {
        plan.limits.output_bytes = 1 << 20;
    })
    .remove(0);
    assert_eq!(attempt.status, Status::Ok);
    assert_eq!(attempt.stdout_tail.len(), 4096);
    assert!(attempt.stdout_tail.ends_with("the end\n"));
    assert!(warnings(&attempt).contains("beyond the limit"));
    let log = folder.path().join(attempt.log_path.unwrap()).join("stdout.log");
    assert_eq!(fs::metadata(log).unwrap().len(), 1 << 20);
    let attempt = only("flood-events", 0.0, |plan| {
        plan.limits.event_bytes = 2 << 20;
        plan.limits.points = 1000;
    });
    assert_eq!(attempt.status, Status::Crash);
    assert!(reason(&attempt).contains("event file"), "{}", reason(&attempt));
    assert_eq!(attempt.points.len(), 1000);
}

#[test]
fn a_pilot_gets_no_test_split_and_must_not_report_it() {
    for (mode, status) in [("fine", Status::Ok), ("peek", Status::Invalid)] {
        let folder = tempfile::tempdir().unwrap();
        let plan = plan(folder.path(), trials(Stage::Pilot, &[(mode, 0.0)], 1));
        let mut store = SqliteStore::open(&folder.path().join("store.db")).unwrap();
        runner::run(&mut store, &plan, &RunOptions::default(), &mut Silent).unwrap();
        assert_eq!(store.trials().unwrap()[0].status, status, "{mode}");
    }
}

#[test]
fn limits_of_the_machine_are_handed_on() {
    let attempt = only("fine", 0.0, |plan| {
        plan.program.path = "/bin/sh".into();
        // `sh -c SCRIPT --trial`: any language can be a trial.
        plan.program.args = vec![
            "-c".to_owned(),
            r#"case "$0" in --describe) echo "{}"; exit;; esac
               cat > "$(dirname "$EXP_EVENTS")/out/request.json"
               echo "threads $OMP_NUM_THREADS $RAYON_NUM_THREADS"
               echo "{\"t\":\"metric\",\"name\":\"val_error\",\"split\":\"validation\",\"value\":0.5}" >> "$EXP_EVENTS"
               echo "{\"t\":\"metric\",\"name\":\"test_error\",\"split\":\"test\",\"value\":0.5}" >> "$EXP_EVENTS"
               echo "{\"t\":\"artifact\",\"name\":\"request\",\"path\":\"request.json\"}" >> "$EXP_EVENTS"
               echo "{\"t\":\"done\"}" >> "$EXP_EVENTS""#
                .to_owned(),
        ];
        plan.threads = 3;
    });
    assert_eq!(attempt.status, Status::Ok, "{} {}", reason(&attempt), attempt.stderr_tail);
    assert_eq!(attempt.stdout_tail, "threads 3 3\n");
    assert!(attempt.artifacts[0].bytes > 100);
    // Without the program's own word the peak comes from watching it, or from the kernel.
    assert!(attempt.peak_rss_kib > 100);
}
