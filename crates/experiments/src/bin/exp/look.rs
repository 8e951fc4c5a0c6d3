//! Verbs that look: list, status, trials, logs, doctor.

use crate::{
    OK,
    args::{Listing, Logs, Trials, Watching, Which},
    run::{by_prefix, matches},
    study::{Study, all_files, now, results_folder},
};
use anyhow::{Context, Result};
use experiments::{
    analysis::results::factor_words,
    report::number::{duration, plain, utc},
    runner::environment,
    store::{
        Store, csv,
        record::{Status, TrialRow},
    },
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::{IsTerminal, Read, Seek, SeekFrom, Write},
    thread,
    time::Duration,
};

/// `exp list`.
pub(crate) fn list(args: &Listing) -> Result<u8> {
    let mut rows = Vec::new();
    for file in all_files() {
        let name = file.display().to_string();
        let which = Which { name: name.clone(), profile: "full".to_owned(), store: None };
        match Study::find(&which) {
            Err(error) => rows.push(json!({"id": name, "state": format!("invalid: {error:#}")})),
            Ok(study) => {
                let mut profiles = vec!["full".to_owned()];
                profiles.extend(study.spec.profiles.clone());
                for profile in profiles {
                    let which = Which { name: name.clone(), profile, store: None };
                    let Ok(study) = Study::find(&which) else { continue };
                    let full = study.spec.profile == "full";
                    if !full
                        && (study.find_store()?.is_none()
                            || matches!(study.spec.profile.as_str(), "smoke" | "pilot"))
                    {
                        continue;
                    }
                    rows.push(state_of(&study)?);
                }
            }
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(OK);
    }
    for row in &rows {
        let word = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        println!("{:<28} {:<10} {}", word("id"), word("profile"), word("state"));
    }
    if rows.is_empty() {
        eprintln!("no studies below crates/*/studies or studies; `exp new NAME` starts one");
    }
    Ok(OK)
}

fn state_of(study: &Study) -> Result<serde_json::Value> {
    let id = &study.spec.id;
    let profile = &study.spec.profile;
    let Some(store) = study.find_store()? else {
        return Ok(json!({"id": id, "profile": profile, "state": "never run"}));
    };
    let trials: Vec<TrialRow> = store.trials()?.into_iter().filter(|t| !t.retired).collect();
    let done = trials.iter().filter(|t| t.status.finished()).count();
    let failed = trials.iter().filter(|t| t.status.finished() && t.status != Status::Ok).count();
    let last = store.sessions()?.last().map(|s| utc(s.started_at));
    let state = format!(
        "{done} of {} trials, {failed} failed, last run {}",
        trials.len(),
        last.clone().unwrap_or_else(|| "never".to_owned())
    );
    Ok(json!({
        "id": id, "profile": profile, "state": state,
        "planned": trials.len(), "finished": done, "failed": failed, "last_run": last,
    }))
}

/// `exp status`.
pub(crate) fn status(args: &Watching) -> Result<u8> {
    let study = Study::find(&args.which)?;
    loop {
        let store = study.open_existing()?;
        let (text, json, open) = status_of(&study, &*store)?;
        if args.json {
            println!("{json}");
        } else {
            if args.watch && std::io::stdout().is_terminal() {
                print!("\x1b[2J\x1b[H");
            }
            print!("{text}");
            std::io::stdout().flush()?;
        }
        if !args.watch || open == 0 {
            return Ok(OK);
        }
        drop(store);
        thread::sleep(Duration::from_secs(2));
    }
}

fn status_of(study: &Study, store: &dyn Store) -> Result<(String, serde_json::Value, usize)> {
    use std::fmt::Write as _;
    let trials: Vec<TrialRow> = store.trials()?.into_iter().filter(|t| !t.retired).collect();
    let mut by_stage: BTreeMap<_, BTreeMap<String, BTreeMap<Status, usize>>> = BTreeMap::new();
    for t in &trials {
        let row = by_stage.entry(t.stage).or_default().entry(t.method.clone()).or_default();
        *row.entry(t.status).or_default() += 1;
    }
    let mut text = String::new();
    for (stage, methods) in &by_stage {
        let _ = writeln!(text, "{} stage {}", study.words(), stage.word());
        for (method, counts) in methods {
            let words: Vec<String> =
                counts.iter().map(|(s, n)| format!("{n} {}", s.word())).collect();
            let _ = writeln!(text, "  {method:<24} {}", words.join(", "));
        }
    }
    let now = now();
    let leases = store.leases()?;
    for lease in &leases {
        let Some(t) = trials.iter().find(|t| t.key == lease.key) else { continue };
        let stale = if lease.until < now { " STALE LEASE" } else { "" };
        let short = &t.key.0[..12.min(t.key.0.len())];
        let _ = writeln!(
            text,
            "  running {short} {} on {} rep {} ({}){stale}",
            t.method, t.task, t.rep, lease.owner
        );
    }
    let open = trials.iter().filter(|t| !t.status.finished()).count();
    let walls: Vec<f64> =
        store.attempts()?.iter().filter(|a| a.status.finished()).map(|a| a.wall_s).collect();
    let eta = if open > 0 && !walls.is_empty() {
        let mean = walls.iter().sum::<f64>() / walls.len() as f64;
        let jobs = leases.len().max(1);
        Some(open as f64 * mean / jobs as f64)
    } else {
        None
    };
    if let Some(eta) = eta {
        let _ = writeln!(
            text,
            "  {open} to go, about {} with {} at a time",
            duration(eta),
            leases.len().max(1)
        );
    }
    let counts: BTreeMap<String, BTreeMap<String, BTreeMap<&str, usize>>> = by_stage
        .iter()
        .map(|(stage, methods)| {
            let methods = methods
                .iter()
                .map(|(m, c)| (m.clone(), c.iter().map(|(s, n)| (s.word(), *n)).collect()))
                .collect();
            (stage.word().to_owned(), methods)
        })
        .collect();
    let json = json!({"counts": counts, "leases": leases, "open": open, "eta_s": eta});
    Ok((text, json, open))
}

/// `exp trials`.
pub(crate) fn trials(args: &Trials) -> Result<u8> {
    const DEFAULT: [&str; 8] =
        ["key", "stage", "method", "task", "rep", "factors", "status", "wall"];
    let study = Study::find(&args.which)?;
    let store = study.open_existing()?;
    let attempts: BTreeMap<_, _> =
        store.attempts()?.into_iter().map(|a| ((a.key.clone(), a.attempt), a)).collect();
    let mut values: BTreeMap<_, BTreeMap<String, f64>> = BTreeMap::new();
    for row in store.metrics()? {
        values.entry(row.key).or_default().insert(row.metric.name, row.metric.value.0);
    }
    let columns: Vec<String> = if args.columns.is_empty() {
        DEFAULT.iter().map(|c| (*c).to_owned()).collect()
    } else {
        args.columns.clone()
    };
    let mut rows = Vec::new();
    for t in store.trials()?.into_iter().filter(|t| !t.retired) {
        if args.status.as_ref().is_some_and(|s| t.status.word() != s) {
            continue;
        }
        if let Some(filter) = &args.filter
            && !matches(filter, &t.cell)?
        {
            continue;
        }
        let last = attempts.get(&(t.key.clone(), t.attempt));
        let cell = |column: &str| -> String {
            match column {
                "key" => t.key.0[..12.min(t.key.0.len())].to_owned(),
                "stage" => t.stage.word().to_owned(),
                "method" => t.method.clone(),
                "task" => t.task.clone(),
                "rep" => t.rep.to_string(),
                "factors" => factor_words(&t),
                "status" => t.status.word().to_owned(),
                "attempt" => t.attempt.to_string(),
                "wall" => last.map(|a| duration(a.wall_s)).unwrap_or_default(),
                "reason" => last.and_then(|a| a.reason.clone()).unwrap_or_default(),
                metric => values
                    .get(&t.key)
                    .and_then(|v| v.get(metric))
                    .map_or_else(String::new, |v| plain(*v)),
            }
        };
        rows.push(columns.iter().map(|c| cell(c)).collect::<Vec<String>>());
    }
    if args.json {
        let json: Vec<BTreeMap<&String, &String>> =
            rows.iter().map(|r| columns.iter().zip(r).collect()).collect();
        println!("{}", serde_json::to_string_pretty(&json)?);
    } else if args.csv {
        let mut out = String::new();
        csv::write_record(&mut out, &columns);
        for row in &rows {
            csv::write_record(&mut out, row);
        }
        print!("{out}");
    } else {
        let width = |i: usize| {
            rows.iter().map(|r| r[i].chars().count()).chain([columns[i].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns.len()).map(width).collect();
        let line = |cells: &[String]| {
            let padded: Vec<String> =
                cells.iter().zip(&widths).map(|(c, w)| format!("{c:<w$}")).collect();
            padded.join("  ").trim_end().to_owned()
        };
        println!("{}", line(&columns));
        for row in &rows {
            println!("{}", line(row));
        }
    }
    Ok(OK)
}

/// `exp logs`.
pub(crate) fn logs(args: &Logs) -> Result<u8> {
    let study = Study::find(&args.one.which)?;
    let store = study.open_existing()?;
    let row = by_prefix(&*store, &args.one.key)?;
    let attempts = store.attempts()?;
    let wanted = args.attempt.unwrap_or(row.attempt);
    let folder = attempts
        .iter()
        .find(|a| a.key == row.key && a.attempt == wanted)
        .and_then(|a| a.log_path.clone())
        .map_or_else(
            || study.folder().join("trials").join(&row.key.0).join(format!("attempt-{wanted}")),
            |p| study.folder().join(p),
        );
    let mut offsets = [0_u64; 2];
    let files = ["stdout.log", "stderr.log"];
    loop {
        for (file, offset) in files.iter().zip(&mut offsets) {
            let path = folder.join(file);
            let Ok(mut f) = std::fs::File::open(&path) else { continue };
            f.seek(SeekFrom::Start(*offset))?;
            let mut text = Vec::new();
            f.read_to_end(&mut text)?;
            *offset += text.len() as u64;
            std::io::stdout().write_all(&text)?;
        }
        std::io::stdout().flush()?;
        if !args.follow {
            break;
        }
        let still = study
            .open_existing()?
            .trials()?
            .iter()
            .any(|t| t.key == row.key && !t.status.finished());
        if !still {
            break;
        }
        thread::sleep(Duration::from_millis(500));
    }
    if offsets == [0, 0] {
        eprintln!("nothing was printed, or no log is kept at {}", folder.display());
    }
    Ok(OK)
}

/// `exp doctor`.
pub(crate) fn doctor() -> Result<u8> {
    let facts = environment::machine();
    let map = facts.as_object().context("machine facts")?;
    for (name, value) in map {
        let text = match value {
            serde_json::Value::String(s) => s.clone(),
            other => other.to_string(),
        };
        println!("{:<24} {text}", name.replace('_', " "));
    }
    let results = results_folder();
    println!("{:<24} {}", "results", results.display());
    Ok(OK)
}
