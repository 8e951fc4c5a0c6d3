//! Execution: E1 to E13.

use super::{
    Evidence,
    Group::Execution,
    Item,
    Level::{Must, Should},
    Verdict, item,
};
use crate::{
    identity,
    plan::{self, Stage},
    spec::{Launch, Order},
    store::record::{AttemptRecord, SessionRecord, Status},
};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};

pub(super) const ITEMS: &[Item] = &[
    item("E1", Must, Execution, "Pilot before the full run, with a forecast of its cost", pilot),
    item("E2", Must, Execution, "One wrapper measures every method", one_wrapper),
    item("E3", Must, Execution, "Wall, CPU, memory and exit status of every trial", measured),
    item("E4", Must, Execution, "Failures kept", failures_kept),
    item("E5", Must, Execution, "Environment captured", environment),
    item("E6", Must, Execution, "One code revision, clean tree", revision),
    item("E7", Must, Execution, "Homogeneous hardware per comparison", hardware),
    item("E8", Must, Execution, "No oversubscription", oversubscription),
    item("E9", Should, Execution, "Randomised trial order", random_order),
    item("E10", Must, Execution, "Seeds recorded, distinct, derivable", seeds),
    item("E11", Should, Execution, "Determinism probed", determinism),
    item("E12", Should, Execution, "Backup after the last trial", backup),
    item("E13", Should, Execution, "Results checked against declared ranges", ranges),
];

/// The answer of every item that needs results, before there are any.
fn not_yet() -> Verdict {
    Verdict::NotApplicable("no main trial has finished yet".into())
}

fn pilot(e: &Evidence) -> Verdict {
    let started = e.results(Stage::Main).iter().map(|(_, a)| a.started_at).min();
    let pilots: Vec<_> = e.rows(Stage::Pilot).collect();
    let done = pilots.iter().filter(|t| t.status.finished()).count();
    let Some(main) = started else {
        let forecast = e.events_of("pilot").next().is_some();
        return match (done == pilots.len() && done > 0, forecast) {
            (true, true) => Verdict::Satisfied(format!("{done} pilot trials and a forecast")),
            _ => Verdict::NotApplicable("the full run has not started".into()),
        };
    };
    if done == 0 || done < pilots.len() {
        return Verdict::Violated(format!("{done} of {} pilot trials finished", pilots.len()));
    }
    // a pilot of an earlier spec version has other keys
    let text = identity::experiment_text(&e.spec.id, e.spec.version, "pilot", Stage::Pilot);
    let foreign = pilots
        .iter()
        .filter(|t| identity::trial_key(&text, &t.cell, t.rep).ok().as_ref() != Some(&t.key))
        .count();
    if foreign > 0 {
        return Verdict::Violated(format!("{foreign} pilot trials belong to another spec version"));
    }
    let ended = e.results(Stage::Pilot).iter().map(|(_, a)| a.ended_at).max();
    if ended.is_none_or(|ended| ended > main) {
        return Verdict::Violated("the full run started before the pilot had finished".into());
    }
    let forecast = e.events_of("pilot").any(|event| event.at <= main);
    let yes = format!("{done} pilot trials and a forecast before the full run");
    Verdict::when(forecast, yes, "no cost forecast was made before the full run")
}

fn one_wrapper(e: &Evidence) -> Verdict {
    let results = e.results(e.stage());
    if results.is_empty() {
        return not_yet();
    }
    let known: BTreeSet<&str> = e.sessions.iter().map(|s| s.session_id.as_str()).collect();
    let foreign = results.iter().filter(|(_, a)| !known.contains(a.session_id.as_str()));
    let foreign: Vec<String> = foreign.map(|(t, _)| t.key.0.clone()).collect();
    if !foreign.is_empty() {
        return Verdict::unless(&foreign, "", "not started by the runner");
    }
    let mut limits: BTreeSet<String> = BTreeSet::new();
    for (_, attempt) in &results {
        let stated = attempt.result_json.as_ref().and_then(|facts| facts.get("limits"));
        limits.insert(format!(
            "{}, {} threads on {}",
            stated.unwrap_or(&Json::Null),
            attempt.threads,
            attempt.device
        ));
    }
    let limits: Vec<String> = limits.into_iter().collect();
    match limits.as_slice() {
        [one] if !one.starts_with("null") => {
            Verdict::Satisfied(format!("{} trials under {one}", results.len()))
        }
        [_] => Verdict::Violated("the limits of the trials are not recorded".into()),
        several => Verdict::Violated(format!("different limits: {}", several.join("; "))),
    }
}

fn measured(e: &Evidence) -> Verdict {
    let results = e.results(e.stage());
    if results.is_empty() {
        return not_yet();
    }
    let whole = |a: &AttemptRecord| {
        let times = [a.wall_s, a.cpu_user_s, a.cpu_sys_s];
        let exit = a.exit_code.is_some() || a.signal.is_some();
        times.iter().all(|t| t.is_finite() && *t >= 0.0) && a.peak_rss_kib > 0 && exit
    };
    // a trial whose runner vanished too often has nothing to measure, and says so
    let lost = |a: &AttemptRecord| a.reason.as_deref() == Some("lost");
    let gaps = results.iter().filter(|(_, a)| !whole(a) && !lost(a));
    let gaps: Vec<String> = gaps.map(|(t, _)| t.key.0.clone()).collect();
    Verdict::unless(&gaps, format!("{} trials", results.len()), "incomplete measurements")
}

fn failures_kept(e: &Evidence) -> Verdict {
    let stage = e.stage();
    let rows: Vec<_> = e.rows(stage).collect();
    if rows.is_empty() {
        return Verdict::NotApplicable("nothing is planned in the store yet".into());
    }
    let stored: BTreeSet<_> = rows.iter().map(|t| &t.key).collect();
    let absent: Vec<String> =
        e.plan.iter().filter(|t| !stored.contains(&t.key)).map(|t| t.key.0.clone()).collect();
    if !absent.is_empty() {
        return Verdict::unless(&absent, "", "planned trials are not in the store");
    }
    let count = |wanted: &dyn Fn(Status) -> bool| rows.iter().filter(|t| wanted(t.status)).count();
    let ok = count(&|s| s == Status::Ok);
    let failed = count(&|s| s.finished() && s != Status::Ok);
    let open = count(&|s| !s.finished());
    let attempts = e.counting();
    let without = rows.iter().filter(|t| t.status.finished() && !attempts.contains_key(&t.key));
    let without: Vec<String> = without.map(|t| t.key.0.clone()).collect();
    let retired = e.trials.iter().filter(|t| t.stage == stage && t.retired).count();
    let yes = format!(
        "{ok} ok + {failed} failed + {open} open = {} planned; {retired} retired",
        rows.len()
    );
    Verdict::unless(&without, yes, "finished trials without an attempt")
}

fn environment(e: &Evidence) -> Verdict {
    let sessions = e.main_sessions();
    if sessions.is_empty() {
        return not_yet();
    }
    let mut needed = vec![
        "/machine/os",
        "/machine/kernel",
        "/machine/cpu_model",
        "/machine/physical_cores",
        "/machine/memory_total",
        "/machine/load_average",
        "/program/sha256",
        "/program/describe",
        "/threads",
        "/device",
    ];
    if matches!(e.spec.program, Launch::Cargo { .. }) {
        needed.extend(["/rustc", "/cargo_lock_sha256"]);
    }
    let missing: BTreeSet<String> = sessions
        .iter()
        .flat_map(|s| needed.iter().filter(|at| !stated(s, at)))
        .map(|at| at.trim_start_matches('/').replace('/', "."))
        .collect();
    let missing: Vec<String> = missing.into_iter().collect();
    Verdict::unless(&missing, format!("{} sessions", sessions.len()), "not captured")
}

fn stated(session: &SessionRecord, pointer: &str) -> bool {
    session.env_json.pointer(pointer).is_some_and(|value| !value.is_null())
}

fn revision(e: &Evidence) -> Verdict {
    let sessions = e.main_sessions();
    if sessions.is_empty() {
        return not_yet();
    }
    let revisions: BTreeSet<&str> =
        sessions.iter().map(|s| s.git_rev.as_deref().unwrap_or("none recorded")).collect();
    let dirty = sessions.iter().filter(|s| s.git_dirty).count();
    let shown: Vec<&str> = revisions.iter().copied().collect();
    let one = revisions.len() == 1 && !revisions.contains("none recorded");
    Verdict::when(
        one && dirty == 0,
        shown.join(", "),
        format!("revisions: {}; {dirty} sessions with an unclean tree", shown.join(", ")),
    )
}

/// Words for the hardware that an attempt ran on.
fn machine(session: Option<&SessionRecord>, attempt: &AttemptRecord) -> String {
    let model = session.and_then(|s| s.env_json.pointer("/machine/cpu_model"));
    let gpu = session.and_then(|s| s.env_json.pointer("/machine/gpus/0/model"));
    let word = |value: Option<&Json>| value.and_then(Json::as_str).unwrap_or("-").to_owned();
    format!("{}/{}/{}/{} threads", word(model), word(gpu), attempt.device, attempt.threads)
}

fn hardware(e: &Evidence) -> Verdict {
    let results = e.results(e.stage());
    if results.is_empty() {
        return not_yet();
    }
    let sessions: BTreeMap<&str, &SessionRecord> =
        e.sessions.iter().map(|s| (s.session_id.as_str(), s)).collect();
    // trials by task, machine and method: a comparison is the methods on one task
    let mut tally: BTreeMap<&str, BTreeMap<String, BTreeMap<&str, u64>>> = BTreeMap::new();
    let mut machines = BTreeSet::new();
    for (trial, attempt) in &results {
        let machine = machine(sessions.get(attempt.session_id.as_str()).copied(), attempt);
        machines.insert(machine.clone());
        *tally
            .entry(&trial.task)
            .or_default()
            .entry(machine)
            .or_default()
            .entry(&trial.method)
            .or_default() += 1;
    }
    let uneven: Vec<String> = tally
        .iter()
        .filter(|(_, by_machine)| {
            by_machine.len() > 1
                && by_machine.values().any(|methods| {
                    let counts: BTreeSet<u64> = methods.values().copied().collect();
                    methods.len() < e.spec.methods.len() || counts.len() > 1
                })
        })
        .map(|(task, _)| (*task).to_owned())
        .collect();
    let shown: Vec<String> = machines.into_iter().collect();
    let yes = match shown.len() {
        1 => shown.join(""),
        n => format!("{n} kinds, methods balanced on each: {}", shown.join("; ")),
    };
    Verdict::unless(&uneven, yes, "methods unevenly spread over machines on task")
}

fn oversubscription(e: &Evidence) -> Verdict {
    let results = e.results(e.stage());
    if results.is_empty() {
        return not_yet();
    }
    if !e.spec.is_timed() {
        return Verdict::NotApplicable("no metric is timed".into());
    }
    let sessions: BTreeMap<&str, &SessionRecord> =
        e.sessions.iter().map(|s| (s.session_id.as_str(), s)).collect();
    // threads come and go with attempts; all runners of one host share its cores
    let mut changes: BTreeMap<&str, Vec<(i64, i64)>> = BTreeMap::new();
    let mut cores: BTreeMap<&str, i64> = BTreeMap::new();
    for attempt in &e.attempts {
        let Some(session) = sessions.get(attempt.session_id.as_str()) else { continue };
        let found = session.env_json.pointer("/machine/physical_cores").and_then(Json::as_i64);
        let Some(found) = found else {
            let host = &session.host;
            return Verdict::Violated(format!("physical cores of {host} are not recorded"));
        };
        cores.insert(&session.host, found);
        let threads = i64::from(attempt.threads);
        let on_host = changes.entry(&session.host).or_default();
        on_host.extend([(attempt.started_at, threads), (attempt.ended_at, -threads)]);
    }
    let mut facts = Vec::new();
    let mut over = Vec::new();
    for (host, mut steps) in changes {
        // at one instant, ends come before starts
        steps.sort_unstable();
        let (mut busy, mut most) = (0, 0);
        for (_, change) in steps {
            busy += change;
            most = most.max(busy);
        }
        let fact = format!("{host}: at most {most} threads on {} cores", cores[host]);
        if most > cores[host] { over.push(fact) } else { facts.push(fact) }
    }
    Verdict::unless(&over, facts.join("; "), "oversubscribed")
}

fn random_order(e: &Evidence) -> Verdict {
    if e.spec.order != Order::Random {
        return Verdict::Violated("order = \"spec\"".into());
    }
    let mut started: Vec<(i64, &str)> =
        e.results(e.stage()).into_iter().map(|(t, a)| (a.started_at, t.method.as_str())).collect();
    started.sort_unstable();
    let changes = started.windows(2).filter(|pair| pair[0].1 != pair[1].1).count();
    let methods: BTreeSet<&str> = started.iter().map(|(_, method)| *method).collect();
    // with one block per method, the method changes exactly methods - 1 times
    let blocked = methods.len() > 1 && started.len() > methods.len() && changes < methods.len();
    Verdict::when(
        !blocked,
        "shuffled within each repetition",
        "all trials of one method ran before those of the next",
    )
}

fn seeds(e: &Evidence) -> Verdict {
    let stage = e.stage();
    let rows: Vec<_> = e.rows(stage).collect();
    if rows.is_empty() {
        return Verdict::NotApplicable("nothing is planned in the store yet".into());
    }
    let mut faults = Vec::new();
    let mut seen: BTreeMap<i64, (String, u32)> = BTreeMap::new();
    for trial in &rows {
        match plan::seeds(&e.spec, stage, &trial.cell, trial.rep) {
            Ok(derived) if derived == trial.seeds => {}
            _ => faults.push(format!("{} cannot be derived", trial.key)),
        }
        let block: Vec<String> = e
            .spec
            .repetitions
            .block
            .iter()
            .map(|name| format!("{name}={:?}", trial.cell.get(name)))
            .collect();
        for (stream, seed) in &trial.seeds {
            let place = (format!("{stream} of {}", block.join(",")), trial.rep);
            let first = seen.entry(*seed).or_insert_with(|| place.clone());
            if *first != place {
                faults.push(format!("{stream} of {} is used twice", trial.key));
            }
        }
    }
    let yes = format!("{} distinct seeds, all derived again", seen.len());
    Verdict::unless(&faults, yes, "seeds")
}

fn determinism(e: &Evidence) -> Verdict {
    if !e.has_results() {
        return not_yet();
    }
    let mut agreed = BTreeSet::new();
    let mut differed = Vec::new();
    for event in e.events_of("replay") {
        let key = event.detail_json.get("trial_key").and_then(Json::as_str).unwrap_or("?");
        match event.detail_json.get("agrees").and_then(Json::as_bool) {
            Some(true) => drop(agreed.insert(key.to_owned())),
            _ => differed.push(key.to_owned()),
        }
    }
    if !differed.is_empty() {
        return Verdict::unless(&differed, "", "replays differ");
    }
    let n = agreed.len();
    Verdict::when(n >= 2, format!("{n} trials replayed alike"), format!("{n} trials replayed"))
}

fn backup(e: &Evidence) -> Verdict {
    let Some(last) = e.results(e.stage()).iter().map(|(_, a)| a.ended_at).max() else {
        return not_yet();
    };
    let after = e.events_of("backup").any(|event| event.at >= last);
    Verdict::when(after, "copied after the last trial", "no backup after the last trial")
}

fn ranges(e: &Evidence) -> Verdict {
    let open = e.spec.metrics.iter().filter(|m| m.range.is_none());
    let open: Vec<String> = open.map(|m| m.name.clone()).collect();
    let invalid = e.finished().filter(|t| t.status == Status::Invalid).count();
    let yes = format!("every metric has a range; {invalid} trials are invalid");
    Verdict::unless(&open, yes, "metrics without a range")
}
