//! What only the server can meet: foreign and newer schemas, a connection that breaks, a row that
//! another runner holds; and its speed. Needs `EXP_TEST_POSTGRES` (see `postgres/run.sh`).
#![cfg(feature = "postgres")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use ::postgres::{Client, NoTls};
use common::{attempt, claim_request, plan, postgres_url, session, trials};
use experiments::{
    plan::Stage,
    runner::{self, RunOptions, Silent},
    store::{
        PostgresStore, Store, StoreError,
        record::{EventRecord, Status},
    },
};
use std::{
    process::Command,
    time::{Duration, Instant},
};

/// A schema of this test alone, removed before and after.
struct Schema {
    name: String,
    raw: Client,
}

impl Schema {
    fn new(test: &str) -> Self {
        let name = format!("only_{test}_{}", std::process::id());
        let mut raw = Client::connect(&postgres_url(), NoTls).unwrap();
        raw.batch_execute(&format!(
            "SET client_min_messages TO warning; DROP SCHEMA IF EXISTS {name} CASCADE"
        ))
        .unwrap();
        Self { name, raw }
    }

    fn open(&self) -> Result<PostgresStore, StoreError> {
        PostgresStore::connect(&postgres_url(), &self.name)
    }

    fn planned(&mut self, reps: u32) -> PostgresStore {
        let mut store = self.open().unwrap();
        store.plan("hash", &trials(Stage::Main, &[("fine", 0.0)], reps)).unwrap();
        for id in ["s", "t"] {
            store.begin_session(&session(id)).unwrap();
        }
        self.raw.batch_execute(&format!("SET search_path TO {}", self.name)).unwrap();
        store
    }

    fn number(&mut self, sql: &str) -> i64 {
        self.raw.query_one(sql, &[]).unwrap().get(0)
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        let _ = self.raw.batch_execute(&format!("DROP SCHEMA IF EXISTS {} CASCADE", self.name));
    }
}

#[test]
fn foreign_and_newer_schemas_are_refused_and_left_as_they_are() {
    let mut schema = Schema::new("refused");
    let name = schema.name.clone();
    schema
        .raw
        .batch_execute(&format!("CREATE SCHEMA {name}; CREATE TABLE {name}.trial (x INTEGER)"))
        .unwrap();
    let tables = format!("SELECT count(*) FROM pg_tables WHERE schemaname = '{name}'");
    let error = schema.open().unwrap_err();
    assert!(matches!(error, StoreError::Format { .. }), "{error}");
    assert!(error.to_string().contains("another program"), "{error}");
    assert_eq!(schema.number(&tables), 1);
    schema.raw.batch_execute(&format!("DROP TABLE {name}.trial")).unwrap();
    drop(schema.planned(2));
    schema.raw.batch_execute("UPDATE experiment_store SET version = 99").unwrap();
    let error = schema.open().unwrap_err().to_string();
    assert!(error.contains("version 99") && error.contains(&name), "{error}");
    assert_eq!(schema.number("SELECT version FROM experiment_store"), 99);
    schema.raw.batch_execute("UPDATE experiment_store SET version = -1").unwrap();
    assert!(schema.open().is_err());
    schema.raw.batch_execute("UPDATE experiment_store SET version = 1").unwrap();
    assert_eq!(schema.open().unwrap().trials().unwrap().len(), 2);
}

#[test]
fn bad_names_and_unreachable_servers_are_told_apart() {
    for name in ["", "Upper", "a-b", "a\"b", "a b", &"x".repeat(64)] {
        let error = PostgresStore::connect("postgresql://nobody@localhost/none", name).unwrap_err();
        assert!(matches!(error, StoreError::Conflict { .. }), "{name:?}: {error}");
    }
    let nowhere = "postgresql://me:secret@127.0.0.1:1/none";
    let error = PostgresStore::connect(nowhere, "study").unwrap_err();
    assert!(matches!(error, StoreError::Backend { action: "connect", .. }), "{error}");
    assert!(error.to_string().contains("refused"), "the cause is named: {error}");
    assert!(!error.to_string().contains("secret"), "{error}");
    assert!(PostgresStore::connect("no address at all", "study").is_err());
}

#[test]
fn many_first_opens_at_once() {
    let schema = Schema::new("opens");
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let name = schema.name.clone();
            std::thread::spawn(move || {
                let mut store = PostgresStore::connect(&postgres_url(), &name)?;
                store.plan("hash", &trials(Stage::Main, &[("fine", 0.0)], 20))
            })
        })
        .collect();
    let inserted: usize = threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).sum();
    assert_eq!(inserted, 20, "each trial was inserted by one of them");
}

#[test]
fn events_cannot_be_changed_even_by_hand_and_nan_never_becomes_null() {
    let mut schema = Schema::new("events");
    let mut store = schema.planned(1);
    let event = EventRecord {
        at: 1,
        session_id: None,
        kind: "freeze".to_owned(),
        detail_json: serde_json::json!({}),
    };
    store.append_event(&event).unwrap();
    for statement in ["UPDATE event SET at = 2", "DELETE FROM event", "TRUNCATE event"] {
        let error = schema.raw.batch_execute(statement).unwrap_err();
        assert!(error.as_db_error().unwrap().message().contains("append only"), "{error}");
    }
    assert_eq!(store.events().unwrap(), [event]);
    let claim = store.claim(&claim_request("s", 0)).unwrap().unwrap();
    assert!(store.finish(&claim, &attempt(&claim, Status::Ok)).unwrap());
    let words = "SELECT count(*) FROM metric WHERE nonfinite IN ('nan', '-inf') AND value IS NULL";
    assert_eq!(schema.number(words), 2);
    for statement in [
        "UPDATE metric SET value = NULL, nonfinite = NULL",
        "UPDATE metric SET value = 'NaN', nonfinite = NULL",
        "INSERT INTO metric VALUES ('no such trial', 1, 'm', 'validation', 1, NULL)",
    ] {
        assert!(schema.raw.batch_execute(statement).is_err(), "{statement}");
    }
}

#[test]
fn a_dropped_connection_is_made_anew() {
    let mut schema = Schema::new("dropped");
    drop(schema.planned(3));
    let mark = schema.name.clone();
    let sep = if postgres_url().contains('?') { '&' } else { '?' };
    let url = format!("{}{sep}application_name={mark}", postgres_url());
    let mut store = PostgresStore::connect(&url, &schema.name).unwrap();
    let mut drop_it = || -> i64 {
        let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                   WHERE application_name = $1";
        let dropped = schema.raw.query_one(sql, &[&mark]).unwrap().get(0);
        // The server needs a moment to end the connection.
        let there = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
        while schema.raw.query_one(there, &[&mark]).unwrap().get::<_, i64>(0) > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        dropped
    };
    let claim = store.claim(&claim_request("s", 0)).unwrap().unwrap();
    assert_eq!(drop_it(), 1);
    assert!(store.renew(&claim, 2000).unwrap(), "a write goes on");
    assert_eq!(drop_it(), 1);
    assert_eq!(store.leases().unwrap().len(), 1, "a read goes on");
    assert_eq!(drop_it(), 1);
    assert!(store.finish(&claim, &attempt(&claim, Status::Ok)).unwrap());
    assert_eq!(store.metrics().unwrap().len(), 3);
}

#[test]
fn a_row_that_another_runner_holds_is_passed_over() {
    let mut schema = Schema::new("held");
    let mut store = schema.planned(3);
    let mut other = schema.raw.transaction().unwrap();
    other.batch_execute("SELECT 1 FROM trial WHERE ord = 0 FOR UPDATE").unwrap();
    let start = Instant::now();
    assert_eq!(store.claim(&claim_request("s", 0)).unwrap().unwrap().trial.ord, 1);
    assert!(start.elapsed() < Duration::from_secs(5), "it did not wait");
    other.rollback().unwrap();
    assert_eq!(store.claim(&claim_request("s", 0)).unwrap().unwrap().trial.ord, 0);
}

#[test]
fn two_plans_at_once_leave_one_experiment() {
    let schema = Schema::new("plans");
    let threads: Vec<_> = (0..2)
        .map(|i| {
            let name = schema.name.clone();
            std::thread::spawn(move || {
                let mut store = PostgresStore::connect(&postgres_url(), &name).unwrap();
                let mut all = trials(Stage::Main, &[("fine", 0.0)], 200);
                if i == 1 {
                    all.reverse();
                }
                for round in 0..5 {
                    store.plan(&format!("hash {i} {round}"), &all).unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let rows = schema.open().unwrap().trials().unwrap();
    assert_eq!(rows.iter().filter(|row| !row.retired).count(), 200);
}

#[test]
fn two_runners_on_one_schema_share_the_work() {
    let schema = Schema::new("runners");
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(folder.path(), trials(Stage::Main, &[("fine", 0.0)], 16));
    let name = &schema.name;
    let ran: Vec<u64> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut store = PostgresStore::connect(&postgres_url(), name).unwrap();
                    let options = RunOptions {
                        jobs: Some(2),
                        wait_for_others: true,
                        ..RunOptions::default()
                    };
                    runner::run(&mut store, &plan, &options, &mut Silent).unwrap()
                })
            })
            .collect();
        runs.into_iter()
            .map(|run| run.join().unwrap().ran.get(&Status::Ok).copied().unwrap_or(0))
            .collect()
    });
    assert_eq!(ran.iter().sum::<u64>(), 16, "{ran:?}");
    let store = schema.open().unwrap();
    assert_eq!(store.attempts().unwrap().len(), 16);
    assert_eq!(store.sessions().unwrap().iter().filter(|s| s.ended_at.is_some()).count(), 2);
    assert!(store.trials().unwrap().iter().all(|row| row.status == Status::Ok));
}

/// Prints the figures that the documentation names.
#[test]
fn ten_thousand_trials_are_planned_claimed_and_counted() {
    let mut schema = Schema::new("speed");
    let plan = trials(Stage::Main, &[("fine", 0.0)], 10_000);
    let time = |what: &str, limit: Duration, work: &mut dyn FnMut()| {
        let start = Instant::now();
        work();
        let taken = start.elapsed();
        println!("10,000 trials: {what} {taken:?}");
        assert!(taken < limit, "{what}: {taken:?}");
    };
    let mut store = schema.planned(1);
    let second = Duration::from_secs(1);
    time("plan", 10 * second, &mut || {
        assert_eq!(store.plan("hash", &plan).unwrap(), 9_999);
    });
    schema
        .raw
        .batch_execute("UPDATE trial SET status = 'ok' WHERE ord < 9000; ANALYZE trial")
        .unwrap();
    time("claim", second, &mut || {
        assert_eq!(store.claim(&claim_request("s", 0)).unwrap().unwrap().trial.ord, 9_000);
    });
    let mut only = claim_request("s", 0);
    only.only = Some(plan.iter().skip(1).step_by(2).map(|trial| trial.key.clone()).collect());
    time("claim from a shard of 5,000", second, &mut || {
        assert_eq!(store.claim(&only).unwrap().unwrap().trial.ord, 9_001);
    });
    schema
        .raw
        .batch_execute(
            "UPDATE trial SET status = 'ok', lease_owner = NULL, lease_until = NULL, attempt = 1;
             INSERT INTO attempt (trial_key, attempt, origin, started_at, ended_at, status, wall_s,
                 cpu_user_s, cpu_sys_s, peak_rss_kib, threads, device, stdout_tail, stderr_tail,
                 sealed_names)
             SELECT trial_key, 1, 1, 0, 1, 'ok', 1, 1, 0, 1, 1, 'cpu', '', '', '[]' FROM trial;
             INSERT INTO metric SELECT trial_key, 1, 'val_error', 'validation', 0.5, NULL FROM trial",
        )
        .unwrap();
    time("resume", second, &mut || {
        let mut store = schema.open().unwrap();
        assert_eq!(store.plan("hash", &plan).unwrap(), 0);
        assert!(store.claim(&claim_request("s", 0)).unwrap().is_none());
    });
    time("status", second / 2, &mut || {
        let store = schema.open().unwrap();
        assert_eq!(store.counts().unwrap().values().sum::<u64>(), 10_000);
        assert!(store.leases().unwrap().is_empty());
    });
    time("trials, attempts and metrics", 5 * second, &mut || {
        let store = schema.open().unwrap();
        let read = (store.trials().unwrap(), store.attempts().unwrap(), store.metrics().unwrap());
        assert_eq!((read.0.len(), read.1.len(), read.2.len()), (10_000, 10_000, 10_000));
    });
}

/// A study runs on a server by `exp` alone, two runners share it, and its report comes out.
#[test]
fn exp_works_on_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let exp = |args: &[&str]| {
        let out = Command::new(assert_cmd::cargo::cargo_bin!("exp"))
            .args(args)
            .current_dir(folder.path())
            .env_remove("EXP_RESULTS")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        (out.status.code(), text, String::from_utf8_lossy(&out.stderr).into_owned())
    };
    // The id becomes the schema.
    let id = format!("only-exp-{}", std::process::id());
    let mut schema = Schema::new("exp");
    let drop = format!("DROP SCHEMA IF EXISTS {} CASCADE", id.replace('-', "_"));
    let (url, page) = (postgres_url(), format!("results/{id}/report/index.html"));
    assert_eq!(exp(&["new", &id]).0, Some(0));
    let on = |verb: &str, more: &[&str]| exp(&[&[verb, &id, "--store", &url], more].concat());
    let empty = on("report", &[]);
    assert!(empty.0 == Some(2) && empty.2.contains("no results yet"), "{empty:?}");
    let smoke = ["--profile", "smoke", "--quiet"];
    std::thread::scope(|s| {
        let runners = [s.spawn(|| on("run", &smoke)), s.spawn(|| on("run", &smoke))];
        for runner in runners {
            let done = runner.join().unwrap();
            assert_eq!(done.0, Some(0), "{done:?}");
        }
    });
    let trials = on("trials", &["--csv", "--profile", "smoke"]);
    let rows: Vec<&str> = trials.1.lines().skip(1).collect();
    assert_eq!(rows.len(), 24, "{trials:?}");
    assert!(rows.iter().all(|row| row.contains(",ok,") || row.contains(",ok")), "{trials:?}");
    assert_eq!(on("report", &["--profile", "smoke"]).0, Some(0));
    assert!(folder.path().join(page).is_file());
    let refused = on("backup", &["--profile", "smoke"]);
    assert!(refused.0 == Some(2) && refused.2.contains("pg_dump"), "{refused:?}");
    assert!(!folder.path().join("results").join(&id).join("store.db").exists());
    schema.raw.batch_execute(&drop).unwrap();
}
