//! The checklist: for every item evidence that passes, and the least change that fails it.
#![allow(clippy::type_complexity, reason = "a table of cases")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use experiments::{
    checklist::{
        Artefact, ComputeFacts, Evidence, Finding, Level, PValue, ReportFacts, TestChoice, Verdict,
        assess, items, passes, venue,
    },
    plan::{self, Decisions, Outcome, PlannedTrial, Stage},
    spec::{self, FULL, Kind, Launch, NormaliseKind, Order, Role},
    store::record::{AttemptRecord, EventRecord, SessionRecord, Status, TrialRow},
};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checklist/experiment.toml")
}

/// Rows go through JSON, so that a field that a backend adds with a default needs no change here.
fn row(trial: &PlannedTrial, status: Status) -> TrialRow {
    let mut json = serde_json::to_value(trial).unwrap();
    json["status"] = json!(status);
    json["attempt"] = json!(1);
    json["retired"] = json!(false);
    serde_json::from_value(json).unwrap()
}

fn attempt(trial: &TrialRow, start: i64) -> AttemptRecord {
    serde_json::from_value(json!({
        "key": trial.key, "attempt": 1, "session_id": "s1",
        "started_at": start, "ended_at": start + 9, "status": trial.status,
        "exit_code": 0, "wall_s": 0.009, "cpu_user_s": 0.008, "cpu_sys_s": 0.001,
        "peak_rss_kib": 5000, "threads": 1, "device": "cpu", "budget_used": 40.0,
        "stdout_tail": "", "stderr_tail": "",
        "result_json": {"limits": {"wall_s": 100.0, "memory_bytes": 1_073_741_824}},
        "metrics": [], "points": [], "artifacts": [],
    }))
    .unwrap()
}

fn event(at: i64, kind: &str, detail: serde_json::Value) -> EventRecord {
    EventRecord { at, session_id: None, kind: kind.into(), detail_json: detail }
}

fn session() -> SessionRecord {
    serde_json::from_value(json!({
        "session_id": "s1", "started_at": 0, "ended_at": 900_000, "host": "h", "pid": 1,
        "boot_id": "b", "args_json": [], "spec_hash": "x", "git_rev": "abc", "git_dirty": false,
        "env_json": {
            "machine": {"os": "Linux", "kernel": "6", "cpu_model": "C", "physical_cores": 2,
                        "memory_total": "8 GB", "load_average": [0.1, 0.1, 0.1], "gpus": []},
            "rustc": "rustc 1.95", "cargo_lock_sha256": "00", "threads": 1, "device": "cpu",
            "program": {"sha256": "11", "describe": {"libtorch": "2.11.0"}},
            "datasets": {
                "digits": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
            },
        },
    }))
    .unwrap()
}

/// A whole study: smoke, pilot, forecast, tuning, freeze, main stage, replays, backup, report.
fn complete() -> Evidence {
    let spec = spec::load(file(), FULL).unwrap_or_else(|e| panic!("{e}"));
    let mut evidence = Evidence::of_spec(spec.clone()).unwrap();
    assert_eq!(evidence.plan, [], "the main plan waits for the tuned values");
    let mut clock = 1000;
    let mut run = |evidence: &mut Evidence, trials: &[PlannedTrial], failed: Option<usize>| {
        for (i, trial) in trials.iter().enumerate() {
            let status = if failed == Some(i) { Status::Timeout } else { Status::Ok };
            let trial = row(trial, status);
            evidence.attempts.push(attempt(&trial, clock));
            evidence.trials.push(trial);
            clock += 10;
        }
        clock
    };
    for stage in [Stage::Smoke, Stage::Pilot] {
        let short = spec::load(file(), stage.word()).unwrap();
        let trials = plan::expand(&short, stage, &Decisions::default()).unwrap();
        run(&mut evidence, &trials, None);
    }
    let tune = plan::expand(&spec, Stage::Tune, &Decisions::default()).unwrap();
    let now = run(&mut evidence, &tune, None);
    evidence.events.push(event(now - 5, "pilot", json!({"suggested_repetitions": 6})));
    evidence.events.push(event(now - 4, "freeze", json!({})));
    let outcomes: Vec<Outcome> =
        tune.iter().map(|t| Outcome { cell: t.cell.clone(), value: Some(0.5) }).collect();
    let tuned = plan::select(&spec, &outcomes);
    evidence.plan =
        plan::expand(&spec, Stage::Main, &Decisions { tuned, flipped: Vec::new() }).unwrap();
    let trials = evidence.plan.clone();
    let now = run(&mut evidence, &trials, Some(3));
    for trial in &trials[..2] {
        evidence.events.push(event(now, "replay", json!({"trial_key": trial.key, "agrees": true})));
    }
    evidence.events.push(event(now, "backup", json!({})));
    evidence.sessions.push(session());
    evidence.frozen = Some(spec);
    evidence.report = Some(report());
    evidence
}

fn report() -> ReportFacts {
    ReportFacts {
        numbers: 9,
        p_values: vec![PValue {
            family: "hypotheses".into(),
            label: "H1".into(),
            raw: 0.01,
            adjusted: Some(0.01),
            effect: Some(0.8),
            interval: Some([-0.1, -0.02]),
            exploratory: false,
        }],
        tests: vec![TestChoice {
            hypothesis: "H1".into(),
            test: "wilcoxon".into(),
            declared: true,
        }],
        per_task_table: true,
        curves: 1,
        overtuning_table: true,
        compute: Some(ComputeFacts {
            cpu_hours: 0.1,
            gpu_hours: 0.0,
            devices: vec!["C".into()],
            stages: vec![Stage::Smoke, Stage::Pilot, Stage::Tune, Stage::Main],
            with_failures: true,
        }),
        verdicts: BTreeMap::from([("H1".into(), "supported".into())]),
        deviations: Some(Vec::new()),
        exports: vec!["data/results.csv".into()],
        artefacts: vec![Artefact {
            name: "figures/intervals.svg".into(),
            command: "exp figures search --only intervals".into(),
            input_sha256: "0".repeat(64),
        }],
        ..ReportFacts::default()
    }
}

fn verdict(evidence: &Evidence, id: &str) -> Verdict {
    let found: Vec<Finding> = assess(evidence).into_iter().filter(|f| f.id == id).collect();
    assert_eq!(found.len(), 1, "{id}");
    found[0].verdict.clone()
}

/// Turns the study into an exploratory one with labelled p-values.
fn exploratory(evidence: &mut Evidence) {
    evidence.spec.kind = Kind::Exploratory;
    evidence.spec.hypotheses.clear();
    for p in &mut facts(evidence).p_values {
        p.exploratory = true;
    }
}

fn facts(evidence: &mut Evidence) -> &mut ReportFacts {
    evidence.report.as_mut().unwrap()
}

fn main_rows(evidence: &mut Evidence) -> impl Iterator<Item = &mut TrialRow> {
    evidence.trials.iter_mut().filter(|t| t.stage == Stage::Main)
}

/// Attempts of the main stage.
fn main_attempts(evidence: &mut Evidence) -> Vec<&mut AttemptRecord> {
    let keys: BTreeSet<_> = main_rows(evidence).map(|t| t.key.clone()).collect();
    evidence.attempts.iter_mut().filter(|a| keys.contains(&a.key)).collect()
}

/// The least change that violates each item.
const BREAKS: &[(&str, fn(&mut Evidence))] = &[
    ("Q1", |e| e.spec.question = "Better?".into()),
    ("Q2", |e| e.spec.kind = Kind::Exploratory),
    ("Q3", |e| e.spec.hypotheses[0].min_effect = None),
    ("Q4", |e| e.events.retain(|event| event.kind != "freeze")),
    ("Q5", |e| {
        exploratory(e);
        facts(e).significance_claims = 1;
    }),
    ("Q6", |e| e.spec.hypotheses[0].refuted_if = None),
    ("Q7", |e| e.spec.metrics[1].primary = true),
    ("D1", |e| e.spec.methods[2].role = Role::Baseline),
    ("D2", |e| e.spec.methods[1].random_search = false),
    ("D3", |e| {
        let random = |t: &TrialRow| t.stage == Stage::Tune && t.method == "random";
        let gone = e.trials.iter().position(random).unwrap();
        e.trials.remove(gone);
    }),
    ("D4", |e| {
        *main_rows(e).next().unwrap().seeds.get_mut("init").unwrap() += 1;
    }),
    ("D5", |e| e.spec.tasks[1].split_sha256 = None),
    ("D6", |e| {
        let tuned = e.trials.iter_mut().find(|t| t.stage == Stage::Tune).unwrap();
        tuned.task = "digits-b".into();
    }),
    ("D7", |e| {
        e.spec.repetitions.reason = None;
        e.spec.repetitions.count = 4;
    }),
    ("D8", |e| e.spec.tasks[0].task.why = None),
    ("D9", |e| e.spec.budget.memory_mib = None),
    ("D10", |e| e.spec.ablation = None),
    ("D11", |e| e.spec.exclude[0].reason = None),
    ("D12", |e| e.spec.budget.why = None),
    ("E1", |e| e.events.retain(|event| event.kind != "pilot")),
    ("E2", |e| main_attempts(e)[0].threads = 2),
    ("E3", |e| main_attempts(e)[0].peak_rss_kib = 0),
    ("E4", |e| {
        let lost = main_rows(e).next().unwrap().key.clone();
        e.trials.retain(|t| t.key != lost);
    }),
    ("E5", |e| e.sessions[0].env_json["machine"]["cpu_model"] = json!(null)),
    ("E6", |e| e.sessions[0].git_dirty = true),
    ("E7", |e| {
        let mut other = e.sessions[0].clone();
        other.session_id = "s2".into();
        other.env_json["machine"]["cpu_model"] = json!("another");
        e.sessions.push(other);
        main_attempts(e)[0].session_id = "s2".into();
    }),
    ("E8", |e| {
        for attempt in main_attempts(e) {
            attempt.started_at -= 30;
        }
    }),
    ("E9", |e| e.spec.order = Order::Spec),
    ("E10", |e| e.spec.repetitions.root_seed += 1),
    ("E11", |e| {
        let replay = e.events.iter_mut().find(|event| event.kind == "replay").unwrap();
        replay.detail_json["agrees"] = json!(false);
    }),
    ("E12", |e| e.events.retain(|event| event.kind != "backup")),
    ("E13", |e| e.spec.metrics[0].range = None),
    ("A1", |e| facts(e).without_interval.push("mean of proposed".into())),
    ("A2", |e| facts(e).p_values[0].adjusted = Some(0.001)),
    ("A3", |e| facts(e).p_values[0].effect = None),
    ("A4", |e| facts(e).tests[0].test = "mann-whitney".into()),
    ("A5", |e| e.spec.analysis.censoring = None),
    ("A6", |e| facts(e).per_task_table = false),
    ("A7", |e| facts(e).curves = 0),
    ("A8", |e| facts(e).overtuning_table = false),
    ("A9", |e| facts(e).compute.as_mut().unwrap().stages.retain(|s| *s != Stage::Tune)),
    ("A10", |e| {
        e.spec.analysis.normalise.as_mut().unwrap().kind = NormaliseKind::Observed;
    }),
    ("A11", |e| facts(e).verdicts.clear()),
    ("A12", |e| e.spec.budget.amount = 20.0),
    ("A13", |e| e.spec.attest.limits = Some("  ".into())),
    ("R1", |e| facts(e).exports.clear()),
    ("R2", |e| facts(e).artefacts[0].command.clear()),
    ("R3", |e| e.sessions[0].env_json["cargo_lock_sha256"] = json!(null)),
    ("R4", |e| e.spec.datasets[0].licence = None),
    ("R5", |e| {
        let smoke: BTreeSet<_> =
            e.trials.iter().filter(|t| t.stage == Stage::Smoke).map(|t| t.key.clone()).collect();
        let last = e.attempts.iter_mut().rfind(|a| smoke.contains(&a.key)).unwrap();
        last.ended_at += 120_000;
    }),
    ("R6", |e| e.spec.assets[0].cite = None),
    ("R7", |e| e.spec.attest.impact = None),
];

#[test]
fn every_item_passes_on_a_complete_study() {
    let findings = assess(&complete());
    for finding in &findings {
        let expected: &[&str] = match finding.id {
            "A13" | "R7" => &["attested"],
            "Q5" => &["not-applicable"],
            _ => &["satisfied"],
        };
        assert!(expected.contains(&finding.verdict.word()), "{finding}");
        assert!(!finding.verdict.evidence().is_empty(), "{finding}");
    }
    assert!(passes(&findings));
    let mut open = complete();
    exploratory(&mut open);
    assert_eq!(verdict(&open, "Q5").word(), "satisfied");
}

#[test]
fn every_item_fails_on_its_own_fault() {
    let covered: Vec<&str> = BREAKS.iter().map(|(id, _)| *id).collect();
    let all: Vec<&str> = items().map(|item| item.id).collect();
    assert_eq!(covered, all, "every item has a failing fixture, in order");
    assert_eq!(all.len(), 52);
    for (id, damage) in BREAKS {
        let mut evidence = complete();
        damage(&mut evidence);
        let findings = assess(&evidence);
        let finding = findings.iter().find(|f| f.id == *id).unwrap();
        assert!(finding.verdict.is_violated(), "{finding}");
        if finding.level == Level::Must {
            assert!(!passes(&findings), "{finding}");
        }
    }
}

#[test]
fn nothing_run_yet_violates_no_item_of_execution_or_analysis() {
    let spec = spec::load(file(), FULL).unwrap();
    let findings = assess(&Evidence::of_spec(spec).unwrap());
    let violated: Vec<&str> =
        findings.iter().filter(|f| f.verdict.is_violated()).map(|f| f.id).collect();
    assert_eq!(violated, ["R5"], "{findings:#?}");
}

#[test]
fn what_no_machine_can_check_is_never_satisfied() {
    for id in ["A13", "R7"] {
        assert_eq!(verdict(&complete(), id).word(), "attested");
    }
}

#[test]
fn an_early_look_at_the_test_split_counts_for_ever() {
    let mut evidence = complete();
    evidence.events.insert(0, event(0, "unseal", json!({"reason": "curious"})));
    assert!(verdict(&evidence, "Q4").is_violated());
    evidence.events.push(event(i64::MAX, "freeze", json!({})));
    assert!(verdict(&evidence, "Q4").is_violated());
}

#[test]
fn a_late_exclusion_must_be_in_the_report() {
    let mut evidence = complete();
    let mut rule = evidence.spec.exclude[0].clone();
    rule.condition.remove("task");
    evidence.spec.exclude.push(rule);
    assert!(verdict(&evidence, "D11").is_violated());
    assert!(verdict(&evidence, "A12").is_violated());
    let frozen = evidence.frozen.clone().unwrap();
    let paths = spec::changes(&frozen, &evidence.spec).unwrap();
    facts(&mut evidence).deviations = Some(paths.into_iter().map(|c| c.path).collect());
    assert!(!verdict(&evidence, "D11").is_violated());
    assert!(!verdict(&evidence, "A12").is_violated());
}

#[test]
fn balanced_machines_are_as_good_as_one() {
    let mut evidence = complete();
    let mut other = evidence.sessions[0].clone();
    other.session_id = "s2".into();
    other.env_json["machine"]["cpu_model"] = json!("another");
    evidence.sessions.push(other);
    let late: BTreeSet<_> =
        main_rows(&mut evidence).filter(|t| t.rep >= 3).map(|t| t.key.clone()).collect();
    for attempt in main_attempts(&mut evidence) {
        if late.contains(&attempt.key) {
            attempt.session_id = "s2".into();
        }
    }
    assert_eq!(verdict(&evidence, "E7").word(), "satisfied");
}

#[test]
fn a_program_of_another_language_needs_no_cargo_lock() {
    let mut evidence = complete();
    evidence.spec.program = Launch::Command(vec!["python3".into(), "trial.py".into()]);
    evidence.sessions[0].env_json["cargo_lock_sha256"] = json!(null);
    evidence.sessions[0].env_json["rustc"] = json!(null);
    assert_eq!(verdict(&evidence, "R3").word(), "satisfied");
    assert_eq!(verdict(&evidence, "E5").word(), "satisfied");
}

#[test]
fn forms_of_venues_answer_no_where_an_item_is_violated() {
    let ids: BTreeSet<&str> = items().map(|item| item.id).collect();
    for (word, count) in [("automl", 22), ("neurips", 15)] {
        let form = venue::Venue::from_word(word).unwrap();
        assert_eq!(form.questions().len(), count);
        for question in form.questions() {
            assert!(question.items.iter().all(|id| ids.contains(id)), "{question:?}");
            assert!(question.attest.is_some() == question.items.is_empty(), "{question:?}");
        }
        let mut evidence = complete();
        let text = venue::fill(form, &assess(&evidence), &evidence.spec.attest);
        assert!(!text.contains("**No**"), "{text}");
        assert!(text.contains("no personal data"), "{text}");
        facts(&mut evidence).compute = None;
        let text = venue::fill(form, &assess(&evidence), &evidence.spec.attest);
        assert_eq!(text.matches("**No**").count(), 1, "{text}");
    }
    assert_eq!(venue::Venue::from_word("icml"), None);
}
