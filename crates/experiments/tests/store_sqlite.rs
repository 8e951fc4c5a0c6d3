//! What only the SQLite file can meet: foreign, newer and damaged files, network file systems, a
//! full disk; and its speed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{attempt, claim_request, session, trials};
use experiments::{
    plan::Stage,
    store::{
        SqliteOptions, SqliteStore, Store, StoreError, backup,
        record::{Claim, EventRecord, Status},
    },
};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

fn filled(path: &Path, reps: u32) -> SqliteStore {
    let mut store = SqliteStore::open(path).unwrap();
    store.plan("hash", &trials(Stage::Main, &[("fine", 0.0)], reps)).unwrap();
    store.begin_session(&session("s")).unwrap();
    while let Some(claim) = store.claim(&claim_request("s", 0)).unwrap() {
        store.finish(&claim, &attempt(&claim, Status::Ok)).unwrap();
    }
    store
}

/// The bytes of the store and of whatever lies beside it.
fn bytes(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(path).unwrap())
        })
        .filter(|(name, _)| name == "store.db")
        .collect();
    all.sort();
    all
}

#[test]
fn a_network_file_system_is_refused_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let options = SqliteOptions { probe: |_| Ok(0x6969), ..SqliteOptions::default() };
    let error = SqliteStore::open_with(&path, &options).unwrap_err();
    assert!(matches!(error, StoreError::FileSystem { .. }));
    assert!(error.to_string().contains("NFS") && error.to_string().contains("merge"), "{error}");
    assert!(!path.exists());
}

#[test]
fn foreign_newer_and_damaged_files_are_refused_and_left_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let refuse = |what: &str, word: &str| {
        let before = bytes(folder.path());
        let error = SqliteStore::open(&path).unwrap_err().to_string();
        assert!(error.contains(word), "{what}: {error}");
        assert!(error.contains("store.db"), "{what}: {error}");
        assert_eq!(bytes(folder.path()), before, "{what} was changed");
    };
    fs::write(&path, "method,task\n").unwrap();
    refuse("a text", "method,task");
    fs::write(&path, b"SQLite format 3\0 and then nonsense").unwrap();
    refuse("half a header", "store");
    fs::remove_file(&path).unwrap();
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    refuse("another program's database", "another program");
    fs::remove_file(&path).unwrap();
    drop(filled(&path, 50));
    let good = fs::read(&path).unwrap();
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    drop(raw);
    refuse("a newer version", "version 99");
    fs::write(&path, &good[..good.len() / 2]).unwrap();
    refuse("a cut file", "store");
    let mut torn = good.clone();
    for byte in &mut torn[4096..12288] {
        *byte ^= 0x5a;
    }
    fs::write(&path, &torn).unwrap();
    refuse("torn pages", "store");
    fs::write(&path, &good).unwrap();
    SqliteStore::open(&path).unwrap().verify().unwrap();
    assert!(SqliteStore::open_existing(&folder.path().join("none.db")).is_err());
}

#[test]
fn many_first_opens_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let path = path.clone();
            std::thread::spawn(move || SqliteStore::open(&path).map(|_| ()))
        })
        .collect();
    for thread in threads {
        thread.join().unwrap().unwrap();
    }
    SqliteStore::open(&path).unwrap().verify().unwrap();
}

#[test]
fn events_cannot_be_changed_even_by_hand_and_nan_never_becomes_null() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let mut store = filled(&path, 1);
    store
        .append_event(&EventRecord {
            at: 1,
            session_id: None,
            kind: "freeze".to_owned(),
            detail_json: serde_json::json!({}),
        })
        .unwrap();
    let raw = rusqlite::Connection::open(&path).unwrap();
    for statement in ["UPDATE event SET at = 2", "DELETE FROM event"] {
        assert!(raw.execute(statement, []).unwrap_err().to_string().contains("append only"));
    }
    let nulls: i64 = raw
        .query_row(
            "SELECT count(*) FROM metric WHERE value IS NULL AND nonfinite IS NULL",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(nulls, 0);
    assert!(raw.execute("UPDATE metric SET value = NULL, nonfinite = NULL", []).is_err());
    assert_eq!(store.events().unwrap().len(), 1);
}

/// Room for a few attempts beside what the file holds now.
fn nearly_full(path: &std::path::Path) -> SqliteOptions {
    let pages = std::fs::metadata(path).unwrap().len() / 4096;
    SqliteOptions { max_pages: Some(pages as u32 + 4), ..SqliteOptions::default() }
}

#[test]
fn a_full_disk_is_a_clean_error_and_the_store_stays_sound() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let mut store = SqliteStore::open(&path).unwrap();
    store.plan("hash", &trials(Stage::Main, &[("fine", 0.0)], 100)).unwrap();
    store.begin_session(&session("s")).unwrap();
    drop(store);
    let mut store = SqliteStore::open_with(&path, &nearly_full(&path)).unwrap();
    let mut done = 0;
    let error = loop {
        let claim = match store.claim(&claim_request("s", 0)) {
            Ok(claim) => claim.unwrap(),
            Err(error) => break error,
        };
        match store.finish(&claim, &attempt(&claim, Status::Ok)) {
            Ok(held) => {
                assert!(held);
                done += 1;
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert!(done > 3);
    store.verify().unwrap();
    drop(store);
    let store = SqliteStore::open(&path).unwrap();
    store.verify().unwrap();
    let ok = store.trials().unwrap().iter().filter(|row| row.status == Status::Ok).count();
    assert_eq!(ok, done);
    assert_eq!(store.attempts().unwrap().len(), done);
}

#[test]
fn a_backup_is_whole_while_a_writer_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let mut store = filled(&path, 20);
    let copy = folder.path().join("copy.db");
    let facts = backup::backup(&mut store, &copy, 9).unwrap();
    assert_eq!(facts.bytes, fs::metadata(&copy).unwrap().len());
    assert!(backup::backup(&mut store, &copy, 9).is_err(), "an existing file is not replaced");
    assert_eq!(store.events().unwrap()[0].kind, "backup");
    let restored = SqliteStore::open(&copy).unwrap();
    restored.verify().unwrap();
    assert_eq!(restored.trials().unwrap(), store.trials().unwrap());
    assert_eq!(restored.metrics().unwrap().len(), store.metrics().unwrap().len());
}

#[test]
fn gc_removes_only_what_does_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let mut store = SqliteStore::open(&root.join("store.db")).unwrap();
    store.plan("hash", &trials(Stage::Main, &[("fine", 0.0)], 2)).unwrap();
    store.begin_session(&session("s")).unwrap();
    let put = |claim: &Claim| {
        let place = root.join("trials").join(&claim.trial.key.0).join(claim.attempt.to_string());
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("stdout.log"), "12345").unwrap();
        place
    };
    let lost = store.claim(&claim_request("s", 0)).unwrap().unwrap();
    let lost_place = put(&lost);
    store.finish(&lost, &attempt(&lost, Status::Lost)).unwrap();
    let good = store.claim(&claim_request("s", 0)).unwrap().unwrap();
    let good_place = put(&good);
    store.finish(&good, &attempt(&good, Status::Ok)).unwrap();
    let running = store.claim(&claim_request("s", 0)).unwrap().unwrap();
    let running_place = put(&running);
    let stray = root.join("trials/unknown/1");
    fs::create_dir_all(&stray).unwrap();
    let dry = backup::gc(&store, root, true).unwrap();
    assert_eq!((dry.folders.len(), dry.bytes), (2, 5));
    assert!(lost_place.exists());
    assert_eq!(backup::gc(&store, root, false).unwrap(), dry);
    assert!(!lost_place.exists() && !stray.exists());
    assert!(good_place.exists() && running_place.exists());
}

/// Prints the figures that the documentation names.
#[test]
fn ten_thousand_finished_trials_are_planned_and_counted_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let plan = trials(Stage::Main, &[("fine", 0.0)], 10_000);
    let mut store = SqliteStore::open(&path).unwrap();
    store.plan("hash", &plan).unwrap();
    drop(store);
    // Finished by hand: ten thousand commits would take longer than what is to be measured.
    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.execute_batch(
        "BEGIN;
         UPDATE trial SET status = 'ok', attempt = 1;
         INSERT INTO attempt (trial_key, attempt, origin, started_at, ended_at, status, wall_s,
             cpu_user_s, cpu_sys_s, peak_rss_kib, threads, device, stdout_tail, stderr_tail,
             sealed_names)
         SELECT trial_key, 1, 1, 0, 1, 'ok', 1, 1, 0, 1, 1, 'cpu', '', '', '[]' FROM trial;
         INSERT INTO metric SELECT trial_key, 1, 'val_error', 'validation', 0.5, NULL FROM trial;
         COMMIT;",
    )
    .unwrap();
    drop(raw);
    let best = |work: &mut dyn FnMut()| {
        (0..3)
            .map(|_| {
                let start = Instant::now();
                work();
                start.elapsed()
            })
            .min()
            .unwrap()
    };
    let resume = best(&mut || {
        let mut store = SqliteStore::open(&path).unwrap();
        assert_eq!(store.plan("hash", &plan).unwrap(), 0);
        assert!(store.claim(&claim_request("s", 0)).unwrap().is_none());
        assert_eq!(store.trials().unwrap().len(), 10_000);
    });
    let status = best(&mut || {
        let store = SqliteStore::open(&path).unwrap();
        assert_eq!(store.counts().unwrap().values().sum::<u64>(), 10_000);
        assert!(store.leases().unwrap().is_empty());
    });
    println!("10,000 finished trials: resume {resume:?}, status {status:?}");
    assert!(resume < Duration::from_secs(1), "{resume:?}");
    assert!(status < Duration::from_millis(500), "{status:?}");
}
