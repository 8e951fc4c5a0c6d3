//! Validation of experiment files: every fault at once, at its line.
//!
//! The fixtures mark what they expect, on the line it is expected at: `#~ part of an error`,
//! `#! part of its advice`, `#? part of a warning`. Findings that are not marked, and marks that
//! are not found, both fail.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use experiments::spec::{self, Diagnostic, FULL, Severity, SpecError};
use std::{
    fs,
    path::{Path, PathBuf},
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/spec").join(name)
}

#[derive(Debug)]
struct Mark {
    line: usize,
    severity: Severity,
    message: String,
    help: Option<String>,
}

fn marks(text: &str) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let pieces: Vec<&str> = line.split('#').skip(1).collect();
        for piece in pieces {
            let (sign, rest) = piece.split_at_checked(1).unwrap_or(("", ""));
            let text = rest.trim().to_owned();
            let severity = match sign {
                "~" => Severity::Error,
                "?" => Severity::Warning,
                "!" => {
                    marks.last_mut().expect("advice follows its error").help = Some(text);
                    continue;
                }
                _ => continue,
            };
            marks.push(Mark { line: i + 1, severity, message: text, help: None });
        }
    }
    marks
}

/// Compares findings in the files with their marks.
fn assert_marked(findings: &[Diagnostic], files: &[PathBuf]) {
    let mut open: Vec<&Diagnostic> = findings.iter().collect();
    let mut missing = Vec::new();
    for file in files {
        for mark in marks(&fs::read_to_string(file).unwrap()) {
            let hit = open.iter().position(|d| {
                d.file == *file
                    && d.line == mark.line
                    && d.severity == mark.severity
                    && d.message.contains(&mark.message)
                    && mark.help.as_ref().is_none_or(|help| {
                        d.help.as_ref().is_some_and(|found| found.contains(help))
                    })
            });
            match hit {
                Some(at) => drop(open.remove(at)),
                None => missing.push((file.file_name().unwrap().to_owned(), mark)),
            }
        }
    }
    let open: Vec<String> = open.iter().map(ToString::to_string).collect();
    assert!(
        missing.is_empty() && open.is_empty(),
        "marked but not found: {missing:#?}\nfound but not marked:\n{}",
        open.join("\n")
    );
}

fn check(name: &str, also: &[&str]) {
    let path = fixture(name);
    let mut files = vec![path.clone()];
    files.extend(also.iter().map(|name| fixture(name)));
    match spec::load(&path, FULL) {
        Ok(resolved) => assert_marked(&resolved.warnings, &files),
        Err(error) => {
            let findings = error.diagnostics();
            assert!(!findings.is_empty(), "{error}");
            assert_marked(findings, &files);
            let text = error.to_string();
            let first = &findings[0];
            assert!(text.contains(&format!(":{}:{}:", first.line, first.column)), "{text}");
        }
    }
}

#[test]
fn the_complete_vocabulary_is_valid() {
    check("complete.toml", &[]);
}

#[test]
fn the_smallest_file_is_valid() {
    check("minimal.toml", &[]);
}

#[test]
fn unknown_and_missing_keys_are_all_reported() {
    check("unknown_keys.toml", &[]);
}

#[test]
fn wrong_types_and_numbers_are_all_reported() {
    check("wrong_types.toml", &[]);
}

#[test]
fn names_hypotheses_and_two_primary_metrics() {
    check("names.toml", &[]);
}

#[test]
fn factors_repetitions_and_budget() {
    check("factors.toml", &[]);
}

#[test]
fn exclusions() {
    check("exclude_unknown.toml", &[]);
    check("exclude_all.toml", &[]);
    check("exclude_together.toml", &[]);
    check("exclude_none.toml", &[]);
}

#[test]
fn tuning_ablation_analysis_and_profiles() {
    check("analysis.toml", &[]);
}

#[test]
fn split_files_report_their_own_lines() {
    check("splits.toml", &["data/overlap.split.toml"]);
}

#[test]
fn program_is_a_target_or_a_command() {
    check("program.toml", &[]);
}

#[test]
fn too_many_trials_need_consent() {
    check("too_many.toml", &[]);
    let consented = spec::load_with(fixture("too_many.toml"), FULL, true).unwrap();
    let strict = consented.spec_hash().unwrap();
    let mut limited = consented.clone();
    limited.max_trials = 5;
    assert_eq!(limited.spec_hash().unwrap(), strict, "consent is no part of the spec");
}

#[test]
fn syntax_errors_come_with_their_lines() {
    let error = spec::load(fixture("syntax.toml"), FULL).unwrap_err();
    let lines: Vec<usize> = error.diagnostics().iter().map(|d| d.line).collect();
    assert!(lines.contains(&2) && lines.contains(&3), "{error}");
}

#[test]
fn a_missing_file_is_named() {
    let error = spec::load(fixture("nowhere.toml"), FULL).unwrap_err();
    assert!(matches!(error, SpecError::Read { .. }));
    assert!(error.to_string().contains("nowhere.toml"));
}

#[test]
fn an_unknown_profile_names_the_declared_ones() {
    let error = spec::load(fixture("complete.toml"), "smok").unwrap_err();
    let findings = error.diagnostics();
    assert_eq!(findings.len(), 2, "{error}");
    let profile = findings.iter().find(|d| d.severity == Severity::Error).unwrap();
    assert!(profile.message.contains("no [profiles.smok]"), "{error}");
    assert_eq!(profile.help.as_deref(), Some("did you mean `smoke`?"));
}

#[test]
fn profiles_change_what_they_say_and_nothing_else() {
    let full = spec::load(fixture("complete.toml"), FULL).unwrap();
    let smoke = spec::load(fixture("complete.toml"), "smoke").unwrap();
    assert_eq!(smoke.repetitions.count, 2);
    assert_eq!(smoke.budget.amount.to_bits(), 50_f64.to_bits());
    assert_eq!(smoke.budget.wall_seconds.to_bits(), 30_f64.to_bits());
    assert_eq!(smoke.budget.memory_mib, full.budget.memory_mib);
    assert_eq!(smoke.factors, full.factors);
    assert_ne!(smoke.spec_hash().unwrap(), full.spec_hash().unwrap());
    let again = spec::load(fixture("complete.toml"), FULL).unwrap();
    assert_eq!(again.spec_hash().unwrap(), full.spec_hash().unwrap());
}

#[test]
fn factors_keep_their_order_in_the_file() {
    let text = fs::read_to_string(fixture("minimal.toml")).unwrap()
        + "\n[factors]\nzeta = [1]\nalpha = [2]\nmid = [3]\n";
    let folder = fixture("");
    let spec = spec::read(&text, Path::new("x.toml"), &folder, FULL, false).unwrap();
    let names: Vec<&str> = spec.factors.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["zeta", "alpha", "mid"]);
}

#[test]
fn a_resolved_spec_survives_json() {
    let full = spec::load(fixture("complete.toml"), FULL).unwrap();
    let back = spec::Resolved::from_json(&full.to_json().unwrap()).unwrap();
    assert_eq!(back.spec_hash().unwrap(), full.spec_hash().unwrap());
}

#[test]
fn garbage_is_an_error_and_never_a_panic() {
    let folder = fixture("");
    let complete = fs::read_to_string(fixture("complete.toml")).unwrap();
    // every prefix of a real file, and every file with one line left out
    for end in (0..complete.len()).step_by(23).filter(|end| complete.is_char_boundary(*end)) {
        let _ = spec::read(&complete[..end], Path::new("x"), &folder, FULL, false);
    }
    let lines: Vec<&str> = complete.lines().collect();
    for skipped in 0..lines.len() {
        let mut kept = lines.clone();
        kept.remove(skipped);
        let _ = spec::read(&kept.join("\n"), Path::new("x"), &folder, FULL, false);
    }
    for text in ["", "[[[", "\u{0}", "schema = 1\r\nid", "a.b.c = 1\na.b = 2", "[method]\nname=1"] {
        assert!(spec::read(text, Path::new("x"), &folder, FULL, false).is_err(), "{text:?}");
    }
}

#[test]
fn the_schema_lists_every_table_and_closes_it() {
    let schema = spec::json_schema();
    assert_eq!(schema["additionalProperties"], false);
    for table in ["hypothesis", "method", "task", "metric", "budget", "profiles", "attest"] {
        assert!(schema["properties"].get(table).is_some(), "{table}");
    }
    let open: Vec<&String> = schema["$defs"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, s)| s.get("properties").is_some() && s["additionalProperties"] != false)
        .map(|(name, _)| name)
        .collect();
    assert!(open.is_empty(), "tables that accept unknown keys: {open:?}");
}
