//! Release: R1 to R7.

use super::{
    Evidence,
    Group::Release,
    Item,
    Level::{Must, Should},
    Verdict, item,
};
use crate::{plan::Stage, spec::Launch};
use serde_json::Value as Json;
use std::collections::BTreeSet;

pub(super) const ITEMS: &[Item] = &[
    item("R1", Must, Release, "Raw results exported in a standard format", exported),
    item("R2", Must, Release, "Every figure and table has a command", commands),
    item("R3", Must, Release, "Dependency lock and toolchain recorded", toolchain),
    item("R4", Must, Release, "Data provenance", provenance),
    item("R5", Should, Release, "Toy version that runs in minutes", toy),
    item("R6", Should, Release, "Licences and citations of assets", assets),
    item("R7", Should, Release, "Societal and ecological impact", impact),
];

/// Longest smoke profile, first start to last end.
const TOY_SECONDS: f64 = 120.0;

fn exported(e: &Evidence) -> Verdict {
    let Some(report) = &e.report else {
        return Verdict::NotApplicable("no report yet".into());
    };
    let has = |end: &str| report.exports.iter().any(|file| file.ends_with(end));
    // parquet needs a build with that feature; CSV is written by every build
    let formats: Vec<&str> =
        [".csv", ".parquet"].into_iter().filter(|end| has(end)).map(|end| &end[1..]).collect();
    Verdict::when(has(".csv"), formats.join(" and "), "no CSV of the raw results")
}

fn commands(e: &Evidence) -> Verdict {
    let Some(report) = &e.report else {
        return Verdict::NotApplicable("no report yet".into());
    };
    if report.artefacts.is_empty() {
        return Verdict::Violated("the manifest is empty".into());
    }
    let bare =
        report.artefacts.iter().filter(|a| a.command.is_empty() || a.input_sha256.len() != 64);
    let bare: Vec<String> = bare.map(|a| a.name.clone()).collect();
    let yes = format!("{} artefacts", report.artefacts.len());
    Verdict::unless(&bare, yes, "without command or input hash")
}

fn toolchain(e: &Evidence) -> Verdict {
    let sessions = e.main_sessions();
    if sessions.is_empty() {
        return Verdict::NotApplicable("no main trial has finished yet".into());
    }
    let cargo = matches!(e.spec.program, Launch::Cargo { .. });
    let mut missing = BTreeSet::new();
    for session in sessions {
        let text = |at: &str| session.env_json.pointer(at).and_then(Json::as_str);
        if cargo && text("/cargo_lock_sha256").is_none() {
            missing.insert("Cargo.lock hash".to_owned());
        }
        if cargo && text("/rustc").is_none() {
            missing.insert("rustc".to_owned());
        }
        // the program names its numeric libraries, libtorch among them, when it is asked to
        // describe itself; the runner links none of them
        let described = session.env_json.pointer("/program/describe").and_then(Json::as_object);
        if described.is_none_or(serde_json::Map::is_empty) {
            missing.insert("the program's own description (--describe)".to_owned());
        }
    }
    let missing: Vec<String> = missing.into_iter().collect();
    Verdict::unless(&missing, "recorded in every session", "not recorded")
}

fn provenance(e: &Evidence) -> Verdict {
    let used: BTreeSet<&str> =
        e.spec.tasks.iter().flat_map(|t| t.split_datasets.iter().map(String::as_str)).collect();
    if used.is_empty() && e.spec.datasets.is_empty() {
        return Verdict::NotApplicable("all data is generated".into());
    }
    let mut faults: Vec<String> = used
        .iter()
        .filter(|name| !e.spec.datasets.iter().any(|d| d.name == **name))
        .map(|name| format!("{name} has no [[dataset]]"))
        .collect();
    for data in &e.spec.datasets {
        let parts = [
            ("source", data.source.is_some()),
            ("licence", data.licence.is_some()),
            ("sha256", data.sha256.is_some()),
            ("bytes", data.bytes.is_some()),
        ];
        let absent = parts.into_iter().filter(|(_, there)| !there);
        faults.extend(absent.map(|(key, _)| format!("{} has no {key}", data.name)));
        let Some(declared) = &data.sha256 else { continue };
        for session in e.main_sessions() {
            // hashes that the runner took of what it fetched
            let found = session.env_json.pointer("/datasets").and_then(|all| all.get(&data.name));
            match found.and_then(Json::as_str) {
                Some(found) if found == declared => {}
                Some(_) => faults.push(format!("{} had another hash when run", data.name)),
                None => faults.push(format!("{} was not verified when run", data.name)),
            }
        }
    }
    faults.dedup();
    Verdict::unless(&faults, format!("{} data sets", e.spec.datasets.len()), "provenance")
}

fn toy(e: &Evidence) -> Verdict {
    if !e.spec.profiles.iter().any(|name| name == "smoke") {
        return Verdict::Violated("no [profiles.smoke]".into());
    }
    let open = e.rows(Stage::Smoke).filter(|t| !t.status.finished()).count();
    let results = e.results(Stage::Smoke);
    let start = results.iter().map(|(_, a)| a.started_at).min();
    let end = results.iter().map(|(_, a)| a.ended_at).max();
    match (start, end, open) {
        (Some(start), Some(end), 0) => {
            let seconds = (end - start) as f64 / 1000.0;
            let took = format!("{} trials in {seconds:.1} s", results.len());
            Verdict::when(seconds < TOY_SECONDS, took.clone(), took)
        }
        _ => Verdict::Violated("the smoke profile has not been run to its end".into()),
    }
}

fn assets(e: &Evidence) -> Verdict {
    if e.spec.assets.is_empty() {
        return Verdict::NotApplicable("no [[asset]] is declared".into());
    }
    let bare = e.spec.assets.iter().filter(|a| a.licence.is_none() || a.cite.is_none());
    let bare: Vec<String> = bare.map(|a| a.name.clone()).collect();
    Verdict::unless(&bare, format!("{} assets", e.spec.assets.len()), "without licence or citation")
}

fn impact(e: &Evidence) -> Verdict {
    Verdict::attest(e.spec.attest.impact.as_ref())
}
