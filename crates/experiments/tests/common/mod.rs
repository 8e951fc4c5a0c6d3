//! A toy experiment for the tests of store and runner.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use experiments::{
    identity::{self, Cell, TrialKey, Value},
    plan::{PlannedTrial, Stage},
    runner::{Limits, MetricRule, Program, RunPlan},
    store::record::{
        Artifact, AttemptRecord, Claim, ClaimRequest, Metric, Point, SessionRecord, Status,
    },
    trial::{BudgetRequest, Number},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

/// A built example of this crate; `cargo test` builds them all before it runs a test.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap();
    let path = folder.join("examples").join(name);
    assert!(
        path.is_file(),
        "{} is not there: run `cargo build -p experiments --examples` first",
        path.display()
    );
    path
}

pub fn cell(mode: &str, amount: f64) -> Cell {
    BTreeMap::from([
        ("method".to_owned(), Value::Text(format!("m-{mode}"))),
        ("task".to_owned(), Value::Text("none".to_owned())),
        ("mode".to_owned(), Value::Text(mode.to_owned())),
        ("amount".to_owned(), Value::Float(amount)),
    ])
}

/// Trials of one cell each, in order.
pub fn trials(stage: Stage, cells: &[(&str, f64)], reps: u32) -> Vec<PlannedTrial> {
    let mut planned = Vec::new();
    for rep in 0..reps {
        for (mode, amount) in cells {
            let cell = cell(mode, *amount);
            planned.push(PlannedTrial {
                key: identity::trial_key(&format!("toy/{stage}"), &cell, rep).unwrap(),
                ord: planned.len() as u64,
                stage,
                method: format!("m-{mode}"),
                task: "none".to_owned(),
                cell,
                rep,
                seeds: BTreeMap::from([("init".to_owned(), i64::from(rep) * 7919 + 13)]),
            });
        }
    }
    planned
}

pub fn rule(name: &str, split: &str) -> MetricRule {
    MetricRule {
        name: name.to_owned(),
        split: split.to_owned(),
        range: Some((0.0, 1.0)),
        required: true,
        allow_nonfinite: false,
        timed: false,
    }
}

pub fn plan(root: &Path, trials: Vec<PlannedTrial>) -> RunPlan {
    RunPlan {
        experiment: "toy".to_owned(),
        spec_toml: "schema = 1\n".to_owned(),
        schema: 1,
        spec_hash: "hash".to_owned(),
        stage: trials.first().map_or(Stage::Main, |trial| trial.stage),
        program: Program { path: example("toy_trial"), ..Program::default() },
        trials,
        limits: Limits {
            wall: Some(Duration::from_secs(30)),
            grace: Duration::from_millis(400),
            ..Limits::default()
        },
        budget: BudgetRequest { unit: "steps".to_owned(), amount: 3.0 },
        threads: 1,
        device: "cpu".to_owned(),
        metrics: vec![rule("val_error", "validation"), rule("test_error", "test")],
        split_files: BTreeMap::new(),
        dataset_hashes: BTreeMap::new(),
        root: root.to_path_buf(),
        source_dir: None,
    }
}

pub fn session(id: &str) -> SessionRecord {
    SessionRecord {
        session_id: id.to_owned(),
        started_at: 1,
        ended_at: None,
        host: "h".to_owned(),
        pid: 1,
        boot_id: "b".to_owned(),
        args_json: serde_json::json!(["run"]),
        spec_hash: "hash".to_owned(),
        git_rev: Some("abc".to_owned()),
        git_dirty: false,
        git_diff_sha: None,
        env_json: serde_json::json!({"program": {"sha256": "x"}}),
    }
}

pub fn claim_request(owner: &str, now: i64) -> ClaimRequest {
    ClaimRequest {
        owner: owner.to_owned(),
        now,
        lease_until: now + 1000,
        max_attempts: 2,
        stage: Stage::Main,
        only: None,
    }
}

/// An attempt with one value of each kind, NaN and infinity among them.
pub fn attempt(claim: &Claim, status: Status) -> AttemptRecord {
    AttemptRecord {
        key: claim.trial.key.clone(),
        attempt: claim.attempt,
        origin_attempt: None,
        session_id: claim.owner.clone(),
        started_at: 10,
        ended_at: 20,
        status,
        exit_code: Some(0),
        signal: None,
        reason: None,
        wall_s: 0.25,
        cpu_user_s: 0.125,
        cpu_sys_s: 0.0625,
        peak_rss_kib: 4321,
        threads: 1,
        device: "cpu".to_owned(),
        budget_used: Some(3.0),
        stdout_tail: "out\0put".to_owned(),
        stderr_tail: String::new(),
        log_path: Some(PathBuf::from("trials/x/1")),
        result_json: Some(serde_json::json!({"warnings": []})),
        metrics: vec![
            metric("val_error", "validation", 0.1 + 0.2),
            metric("loss", "validation", f64::NAN),
            metric("cost", "train", f64::NEG_INFINITY),
            metric("test_error", "test", SEALED),
        ],
        points: vec![
            point("val_error", 1, f64::INFINITY),
            point("val_error", 2, 0.5),
            point("test_error", 1, SEALED),
        ],
        artifacts: vec![Artifact {
            name: "model".to_owned(),
            path: PathBuf::from("trials/x/1/out/m"),
            sha256: "00".to_owned(),
            bytes: 7,
        }],
        sealed_names: BTreeSet::new(),
    }
}

/// A test value that must not be seen before the seal is opened.
pub const SEALED: f64 = 0.771_177_117_711_77;

pub fn metric(name: &str, split: &str, value: f64) -> Metric {
    Metric { name: name.to_owned(), split: split.to_owned(), value: Number(value) }
}

pub fn point(name: &str, step: u64, value: f64) -> Point {
    Point { name: name.to_owned(), step, budget: step as f64, wall_s: 0.5, value: Number(value) }
}

pub fn key(text: &str) -> TrialKey {
    TrialKey(text.to_owned())
}

/// Address of the database for tests, in which schemas may be made.
#[cfg(feature = "postgres")]
pub fn postgres_url() -> String {
    std::env::var("EXP_TEST_POSTGRES").expect(
        "the tests of the feature `postgres` need a server: run \
         crates/experiments/tests/postgres/run.sh, or name a database of your own in \
         EXP_TEST_POSTGRES (postgresql://user@host/database)",
    )
}
