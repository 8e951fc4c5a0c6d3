//! SIGKILL of runners and of trials at 100 random moments, two runners on one store all the time:
//! no finished trial is lost, none counts twice, every reference in the store is whole, and no
//! process is left. Prints its figures.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::example;
use experiments::store::{
    SqliteStore, Store,
    record::{AttemptRecord, Status},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rand::{RngExt, SeedableRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const KILLS: u32 = 100;

fn start(root: &Path, trials: u32) -> Child {
    Command::new(example("toy_runner"))
        .args([root.to_str().unwrap(), &trials.to_string(), "sleep", "0.02"])
        .args(["--jobs", "2", "--max-attempts", "1000", "--wait"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Processes of trials of the store in `root`.
fn trial_processes(root: &Path) -> Vec<i32> {
    let wanted = format!("EXP_EVENTS={}", root.display());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        if environment.split(|b| *b == 0).any(|item| item.starts_with(wanted.as_bytes())) {
            found.push(entry.file_name().to_str().unwrap().parse().unwrap());
        }
    }
    found
}

/// The results that count, by trial.
fn finished(store: &SqliteStore) -> BTreeMap<String, AttemptRecord> {
    let rows: BTreeMap<_, _> =
        store.trials().unwrap().into_iter().map(|row| (row.key.clone(), row)).collect();
    store
        .attempts()
        .unwrap()
        .into_iter()
        .filter(|a| {
            let row = &rows[&a.key];
            row.status.finished() && row.attempt == a.attempt
        })
        .map(|a| (a.key.0.clone(), a))
        .collect()
}

#[test]
fn nothing_is_lost_and_nothing_counts_twice() {
    let seed = std::env::var("EXP_KILL_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let begun = Instant::now();
    // More than can finish while killing goes on; the count grows when the work runs out.
    let mut trials = 200;
    let mut runners: Vec<Child> = (0..2).map(|_| start(root, trials)).collect();
    let mut known: BTreeMap<String, AttemptRecord> = BTreeMap::new();
    let (mut runner_kills, mut trial_kills, mut lost_results) = (0, 0, 0);
    while runner_kills + trial_kills < KILLS {
        std::thread::sleep(Duration::from_millis(rng.random_range(5..200)));
        if rng.random_bool(0.5) {
            let i = rng.random_range(0..2);
            if runners[i].try_wait().unwrap().is_none() {
                runners[i].kill().unwrap();
                runner_kills += 1;
            }
            let code = runners[i].wait().unwrap().code();
            if code == Some(0) {
                trials += 100;
            }
            assert!(matches!(code, None | Some(0)), "a runner failed with {code:?}");
            runners[i] = start(root, trials);
        } else {
            let processes = trial_processes(root);
            if !processes.is_empty() {
                let pid = processes[rng.random_range(0..processes.len())];
                trial_kills += u32::from(kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok());
            } else if runners.iter_mut().all(|r| r.try_wait().unwrap().is_some()) {
                trials += 100;
                for runner in &mut runners {
                    *runner = start(root, trials);
                }
            }
        }
        // What was finished once is finished for good, with the same result.
        if (runner_kills + trial_kills) % 10 == 0 && root.join("store.db").exists() {
            let now = finished(&SqliteStore::open(&root.join("store.db")).unwrap());
            for (key, before) in &known {
                if now.get(key) != Some(before) {
                    lost_results += 1;
                }
            }
            known = now;
        }
    }
    let killing = begun.elapsed();
    for mut runner in runners {
        runner.kill().ok();
        runner.wait().unwrap();
    }
    let last = start(root, trials).wait_with_output().unwrap();
    assert!(last.status.success(), "{:?}", last.status);
    // The lifeline is a pipe: the kernel tells the supervisors at once, but not before.
    let patience = Instant::now();
    while !trial_processes(root).is_empty() && patience.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let orphans = trial_processes(root);
    let store = SqliteStore::open(&root.join("store.db")).unwrap();
    store.verify().unwrap();
    let rows = store.trials().unwrap();
    let attempts = store.attempts().unwrap();
    let count = |status| attempts.iter().filter(|a| a.status == status).count();
    let sessions = store.sessions().unwrap().len();
    println!(
        "{runner_kills} runners and {trial_kills} trials killed in {killing:.1?}: {} trials, {} ok, \
         {} lost attempts, {} superseded, {sessions} sessions, {lost_results} results lost, {} orphans",
        rows.len(),
        count(Status::Ok),
        count(Status::Lost),
        count(Status::Superseded),
        orphans.len()
    );
    assert_eq!(lost_results, 0);
    assert!(orphans.is_empty(), "{orphans:?}");
    assert!(rows.iter().all(|row| row.status == Status::Ok), "every trial ended ok");
    // Exactly one result per trial counts, and it is the one that the row names.
    let ok: Vec<_> = attempts.iter().filter(|a| a.status == Status::Ok).collect();
    let keys: BTreeSet<_> = ok.iter().map(|a| &a.key).collect();
    assert_eq!((ok.len(), keys.len()), (rows.len(), rows.len()));
    for row in &rows {
        assert!(ok.iter().any(|a| a.key == row.key && a.attempt == row.attempt));
    }
    let now = finished(&store);
    assert!(known.iter().all(|(key, before)| now.get(key) == Some(before)));
    assert_eq!(store.metrics().unwrap().len(), rows.len(), "one validation value per trial");
}
