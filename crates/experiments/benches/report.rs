//! A finished store of 10,000 trials: how long its report takes, part by part.
//! `cargo bench -p experiments --bench report`
//!
//! 5 methods x 20 tasks x 100 repetitions, two metrics, a curve of 20 points per trial, two
//! hypotheses, every figure that the data allow.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]

use experiments::{
    analysis::{self, Results, drawing},
    checklist::{self, Evidence},
    plan::{self, Decisions, PlannedTrial},
    report::{self, RawData, page::Extras},
    spec::{self, Resolved},
    store::{
        SqliteStore, Store, export,
        record::{AttemptRecord, ClaimRequest, Metric, Point, SessionRecord, Status},
    },
    trial::Number,
};
use serde_json::json;
use std::{fmt::Write, fs, path::Path, time::Instant};

fn spec() -> Resolved {
    let mut text = String::from(
        r#"schema = 1
id = "large"
title = "A large study"
question = "How long does its report take?"
kind = "confirmatory"
program = { command = ["true"] }
[repetitions]
count = 100
root_seed = 1
[budget]
unit = "steps"
amount = 100
wall_seconds = 60
[[metric]]
name = "error"
split = "validation"
primary = true
higher_is_better = false
curve = true
[[metric]]
name = "loss"
split = "validation"
higher_is_better = false
[analysis]
targets = [0.5, 0.4, 0.3]
figures = ["intervals", "profile", "cd", "curves", "ecdf", "poi", "importance", "paired", "p-matrix", "rank-heatmap", "cost"]
"#,
    );
    for m in 0..5 {
        let role = ["proposed", "baseline-simple", "baseline-strong", "baseline", "baseline"][m];
        let _ = writeln!(text, "[[method]]\nname = \"m{m}\"\nrole = \"{role}\"");
    }
    for t in 0..20 {
        let _ = writeln!(text, "[[task]]\nname = \"t{t}\"");
    }
    for h in 1..3 {
        let _ = writeln!(
            text,
            "[[hypothesis]]\nid = \"H{h}\"\nmetric = \"error\"\nbetter = \"m0\"\nworse = \"m{h}\"\n\
             min_effect = 0.01\ntest = \"wilcoxon\""
        );
    }
    spec::read(&text, Path::new("experiment.toml"), Path::new("."), spec::FULL, true)
        .unwrap_or_else(|e| panic!("{e}"))
}

/// Values without pattern, the same in every run.
fn noise(trial: &PlannedTrial) -> f64 {
    let seed = trial.ord.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (seed >> 11) as f64 / (1u64 << 53) as f64
}

fn fill(store: &mut SqliteStore, planned: &[PlannedTrial]) {
    let session: SessionRecord = serde_json::from_value(json!({
        "session_id": "s", "started_at": 0, "ended_at": null, "host": "h", "pid": 1,
        "boot_id": "b", "args_json": [], "spec_hash": "x", "git_rev": "r", "git_dirty": false,
        "env_json": {},
    }))
    .expect("a session");
    store.plan("x", planned).expect("a plan");
    store.begin_session(&session).expect("a session");
    let request = ClaimRequest {
        owner: "s".to_owned(),
        now: 0,
        lease_until: 1_000_000,
        max_attempts: 1,
        stage: plan::Stage::Main,
        only: None,
    };
    while let Some(claim) = store.claim(&request).expect("a claim") {
        let trial = &planned[claim.trial.ord as usize];
        let end = 0.2 + 0.02 * f64::from(trial.method.as_bytes()[1] - b'0') + 0.2 * noise(trial);
        let mut attempt: AttemptRecord = serde_json::from_value(json!({
            "key": trial.key, "attempt": claim.attempt, "session_id": "s", "started_at": 0,
            "ended_at": 9, "status": Status::Ok, "wall_s": 0.5, "cpu_user_s": 0.4,
            "cpu_sys_s": 0.1, "peak_rss_kib": 1024, "threads": 1, "device": "cpu",
            "budget_used": 100.0, "stdout_tail": "", "stderr_tail": "", "metrics": [],
            "points": [], "artifacts": [],
        }))
        .expect("an attempt");
        for (name, value) in [("error", end), ("loss", 2.0 * end)] {
            attempt.metrics.push(Metric {
                name: name.to_owned(),
                split: "validation".to_owned(),
                value: Number(value),
            });
        }
        for step in 1..=20_u32 {
            attempt.points.push(Point {
                name: "error".to_owned(),
                step: u64::from(step),
                budget: 5.0 * f64::from(step),
                wall_s: 0.0,
                value: Number(end + (1.0 - end) / f64::from(step)),
            });
        }
        store.finish(&claim, &attempt).expect("a finished trial");
    }
}

fn main() {
    let spec = spec();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut store = SqliteStore::open(&folder.path().join("store.db")).expect("a local folder");
    let planned = plan::expand(&spec, plan::Stage::Main, &Decisions::default()).expect("a plan");
    let start = Instant::now();
    fill(&mut store, &planned);
    println!(
        "{:<34} {:>8.2} s",
        "writing 10,000 trials (not counted)",
        start.elapsed().as_secs_f64()
    );

    let whole = Instant::now();
    let mut last = Instant::now();
    let mut lap = |what: &str| {
        println!("{what:<34} {:>8.2} s", last.elapsed().as_secs_f64());
        last = Instant::now();
    };
    let results = Results::load(&store, spec.clone()).expect("results");
    lap("read the store");
    let analysis = analysis::analyse(&results).expect("an analysis");
    lap("analyse");
    let (figures, left_out) =
        drawing::figures(&analysis, &spec, &spec.analysis.figures, "bench").expect("figures");
    assert!(left_out.is_empty(), "{left_out:?}");
    lap("draw");
    let mut raw = RawData::new();
    let data = folder.path().join("data");
    for file in export::write(&store, &data).expect("an export") {
        raw.insert(file.clone(), fs::read(data.join(&file)).expect("an exported file"));
    }
    lap("export raw data");
    let extras = Extras::default();
    let facts = report::facts::facts(&analysis, &spec, &figures, &raw, &extras);
    let evidence = Evidence::gather(&store, spec, Some(facts)).expect("evidence");
    let findings = checklist::assess(&evidence);
    assert!(!findings.is_empty());
    lap("checklist");
    let built = report::build(&results, &analysis, &figures, raw, extras, false).expect("a report");
    built.write(&folder.path().join("report"), &figures, None).expect("a written report");
    lap("pages");
    println!("{:<34} {:>8.2} s", "report of 10,000 trials", whole.elapsed().as_secs_f64());
}
