//! A small study with made-up values, for the tests of analysis and report.

use super::Results;
use crate::{
    plan::{self, Decisions, PlannedTrial, Selection, Stage},
    spec::{self, Resolved},
    store::{
        record::{AttemptRecord, Point, PointRow, Status, TrialRow},
        seal::SealState,
    },
    trial::Number,
};
use serde_json::json;
use std::{collections::BTreeMap, fmt::Write, path::Path};

/// A study of the methods `a`, `b` and `c` on `tasks` tasks, lower `err` (validation) and
/// `test_err` (test) are better, `score` is the other way round. `more` is appended to the file.
pub(crate) fn spec(tasks: usize, reps: u32, analysis: &str, more: &str) -> Resolved {
    spec_under(tasks, reps, analysis, more, spec::FULL)
}

pub(crate) fn spec_under(
    tasks: usize,
    reps: u32,
    analysis: &str,
    more: &str,
    profile: &str,
) -> Resolved {
    let mut text = format!(
        r#"schema = 1
id = "toy"
title = "Toy"
question = "Is a better than b?"
kind = "confirmatory"
program = {{ command = ["true"] }}
[[method]]
name = "a"
role = "proposed"
[[method]]
name = "b"
role = "baseline-simple"
[[method]]
name = "c"
role = "baseline-strong"
[repetitions]
count = {reps}
root_seed = 1
[budget]
unit = "steps"
amount = 100
wall_seconds = 60
[[metric]]
name = "err"
split = "validation"
primary = true
higher_is_better = false
curve = true
[[metric]]
name = "test_err"
split = "test"
higher_is_better = false
[[metric]]
name = "score"
split = "validation"
higher_is_better = true
[analysis]
ci = {{ method = "percentile", resamples = 1000, seed = 5 }}
{analysis}
[profiles.pilot]
repetitions = 6
"#
    );
    for t in 0..tasks {
        let _ = writeln!(text, "[[task]]\nname = \"t{t}\"");
    }
    text.push_str(more);
    spec::read(&text, Path::new("experiment.toml"), Path::new("."), profile, true)
        .unwrap_or_else(|e| panic!("{e}"))
}

/// A hypothesis for `more`.
pub(crate) fn hypothesis(id: &str, metric: &str, worse: &str, rest: &str) -> String {
    format!(
        "[[hypothesis]]\nid = \"{id}\"\nmetric = \"{metric}\"\nbetter = \"a\"\nworse = \"{worse}\"\n{rest}\n"
    )
}

/// What a trial did: values by metric, curve points of `err`; or how it failed.
pub(crate) enum Did {
    Ok(Vec<(&'static str, f64)>, Vec<(f64, f64)>),
    Failed(Status),
    Pending,
}

/// The metric `err` alone.
pub(crate) fn err(value: f64) -> Did {
    Did::Ok(vec![("err", value)], Vec::new())
}

/// Results of the main stage.
pub(crate) fn results(spec: Resolved, outcome: impl Fn(&PlannedTrial) -> Did) -> Results {
    let stage = spec.main_stage();
    let mut results = empty(spec);
    add(&mut results, stage, &outcome);
    results
}

pub(crate) fn empty(spec: Resolved) -> Results {
    Results {
        stage: spec.main_stage(),
        trials: Vec::new(),
        retired: 0,
        attempts: BTreeMap::new(),
        values: BTreeMap::new(),
        points: BTreeMap::new(),
        sessions: Vec::new(),
        events: Vec::new(),
        seal: SealState {
            freezes: Vec::new(),
            unseals: Vec::new(),
            sealed: BTreeMap::new(),
            frozen_first: false,
        },
        spec,
    }
}

/// Adds the trials of a stage. What the search would have chosen is the middle of its space.
pub(crate) fn add(results: &mut Results, stage: Stage, outcome: impl Fn(&PlannedTrial) -> Did) {
    let spec = &results.spec;
    let tuned = spec.tuning.iter().flat_map(|tuning| {
        let values = plan::configurations(spec.repetitions.root_seed, tuning).remove(0);
        spec.methods.iter().map(move |m| Selection {
            method: m.name.clone(),
            task: None,
            values: values.clone(),
            score: 0.0,
            tried: 1,
        })
    });
    let decisions = Decisions { tuned: tuned.collect(), flipped: Vec::new() };
    let planned = plan::expand(spec, stage, &decisions).unwrap();
    add_planned(results, planned, outcome);
}

/// Adds planned trials.
pub(crate) fn add_planned(
    results: &mut Results,
    planned: Vec<PlannedTrial>,
    outcome: impl Fn(&PlannedTrial) -> Did,
) {
    for trial in planned {
        let did = outcome(&trial);
        let status = match &did {
            Did::Ok(..) => Status::Ok,
            Did::Failed(status) => *status,
            Did::Pending => Status::Pending,
        };
        let mut row = serde_json::to_value(&trial).unwrap();
        row["status"] = json!(status);
        row["attempt"] = json!(u32::from(status.finished()));
        row["retired"] = json!(false);
        let row: TrialRow = serde_json::from_value(row).unwrap();
        if status.finished() {
            results.attempts.insert(row.key.clone(), BTreeMap::from([(1, attempt(&row))]));
        }
        if let Did::Ok(values, points) = did {
            let values = values.into_iter().map(|(name, v)| (name.to_owned(), v)).collect();
            results.values.insert(row.key.clone(), values);
            let point = |(i, (budget, value)): (usize, (f64, f64))| PointRow {
                key: row.key.clone(),
                attempt: 1,
                point: Point {
                    name: "err".to_owned(),
                    step: i as u64,
                    budget,
                    wall_s: 0.0,
                    value: Number(value),
                },
            };
            let points: Vec<PointRow> = points.into_iter().enumerate().map(point).collect();
            results.points.insert(row.key.clone(), points);
        }
        results.trials.push(row);
    }
}

fn attempt(trial: &TrialRow) -> AttemptRecord {
    serde_json::from_value(json!({
        "key": trial.key, "attempt": 1, "session_id": "s", "started_at": 0, "ended_at": 9,
        "status": trial.status, "wall_s": 0.5, "cpu_user_s": 0.4, "cpu_sys_s": 0.1,
        "peak_rss_kib": 1024, "threads": 1, "device": "cpu", "budget_used": 100.0,
        "stdout_tail": "", "stderr_tail": "", "metrics": [], "points": [], "artifacts": [],
    }))
    .unwrap()
}

/// Noise in [-1, 1) that depends on the repetition, the task and a salt alone: common to all
/// methods.
pub(crate) fn noise(trial: &PlannedTrial, salt: u64) -> f64 {
    let task: u64 = trial.task.bytes().map(u64::from).sum();
    let mut x = u64::from(trial.rep)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        .wrapping_add(task.wrapping_mul(0xD1B5_4A32_D192_ED03));
    x = (x ^ salt.wrapping_mul(0xA076_1D64_78BD_642F)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x ^= x >> 31;
    x = x.wrapping_mul(0x94D0_49BB_1331_11EB);
    2.0 * ((x >> 11) as f64 / (1_u64 << 53) as f64) - 1.0
}
