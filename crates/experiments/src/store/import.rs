//! Foreign results in long form (specification, section 5.5), so that they can be analysed by the
//! same statistics.
//!
//! Columns `method`, `task`, `rep`, `metric` and `value` are needed; `split` (default `validation`),
//! `budget`, `status` (default `ok`), `wall_s` and any `factor.NAME` are optional, others are
//! ignored. What [`super::export::results`] writes can be read back. Rows with a `budget` are points
//! of a curve, and the one with the largest budget is also the final value.

use super::{
    Store, StoreError,
    backup::hex,
    csv,
    record::{
        AttemptRecord, EventRecord, ExperimentRecord, MergeCounts, Metric, Point, SessionRecord,
        Status, TrialRow,
    },
};
use crate::{
    identity::{self, Cell, TrialKey, Value},
    plan::Stage,
    trial::Number,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};

/// Line, budget and value of each row of one metric.
type Values = Vec<(usize, Option<f64>, Number)>;

/// One trial as it is gathered from its rows.
struct Gathered {
    cell: Cell,
    rep: u32,
    status: Status,
    wall_s: f64,
    /// By metric and split.
    values: BTreeMap<(String, String), Values>,
}

/// Reads `text` (CSV with a header line) into `store` as the experiment `id`. Importing the same
/// text twice changes nothing.
///
/// # Errors
/// [`StoreError::File`] with the line on a missing column, an unreadable value, or a value given
/// twice; [`StoreError::Conflict`] when the store belongs to another experiment. Nothing is stored
/// before the whole text was read.
pub fn import(
    store: &mut dyn Store,
    id: &str,
    text: &str,
    at: i64,
) -> Result<MergeCounts, StoreError> {
    let trials = gather(id, text)?;
    let hash = hex(&Sha256::digest(text.as_bytes()));
    let session_id = format!("import/{}", &hash[..16]);
    let spec_hash = store.experiment()?.map_or_else(|| hash.clone(), |known| known.spec_hash);
    store.set_experiment(&ExperimentRecord {
        id: id.to_owned(),
        spec_toml: String::new(),
        spec_hash: spec_hash.clone(),
        schema: 1,
        created_at: at,
    })?;
    store.begin_session(&SessionRecord {
        session_id: session_id.clone(),
        started_at: at,
        ended_at: Some(at),
        host: String::new(),
        pid: 0,
        boot_id: String::new(),
        args_json: json!(["import"]),
        spec_hash: spec_hash.clone(),
        git_rev: None,
        git_dirty: false,
        git_diff_sha: None,
        env_json: json!({"imported_sha256": hash}),
    })?;
    let mut total = MergeCounts::default();
    for (ord, (key, trial)) in trials.into_iter().enumerate() {
        let (row, attempt) = records(key, ord as u64, trial, &session_id, at);
        let counts = store.absorb(&spec_hash, &row, &[attempt])?;
        total.added += counts.added;
        total.known += counts.known;
        total.settled += counts.settled;
    }
    if total.added > 0 {
        store.append_event(&EventRecord {
            at,
            session_id: Some(session_id),
            kind: "import".to_owned(),
            detail_json: json!({"sha256": hash, "trials": total.added}),
        })?;
    }
    Ok(total)
}

fn gather(id: &str, text: &str) -> Result<BTreeMap<TrialKey, Gathered>, StoreError> {
    let fail = |line: usize, message: String| StoreError::File {
        path: format!("imported text, line {line}"),
        message,
    };
    let records = csv::read(text).map_err(|error| fail(error.line, error.message))?;
    let Some(((_, header), rows)) = records.split_first() else {
        return Err(fail(1, "expected a header line, found nothing".to_owned()));
    };
    let mut column = BTreeMap::new();
    for (i, name) in header.iter().enumerate() {
        if column.insert(name.as_str(), i).is_some() {
            return Err(fail(1, format!("column `{name}` appears twice")));
        }
    }
    for needed in ["method", "task", "rep", "metric", "value"] {
        if !column.contains_key(needed) {
            return Err(fail(1, format!("expected a column `{needed}`, found {header:?}")));
        }
    }
    let mut trials: BTreeMap<TrialKey, Gathered> = BTreeMap::new();
    for (line, row) in rows {
        let line = *line;
        if row.len() != header.len() {
            return Err(fail(
                line,
                format!("expected {} cells as in the header, found {}", header.len(), row.len()),
            ));
        }
        let cell = |name: &str| column.get(name).map_or("", |&i| row[i].trim());
        let number = |name: &str| -> Result<f64, StoreError> {
            cell(name).parse().map_err(|_| {
                fail(line, format!("column `{name}`: expected a number, found {:?}", cell(name)))
            })
        };
        let rep = cell("rep").parse::<u32>().map_err(|_| {
            fail(line, format!("column `rep`: expected a count, found {:?}", cell("rep")))
        })?;
        let status = match cell("status") {
            "" => Status::Ok,
            word => Status::from_word(word).filter(|s| s.finished()).ok_or_else(|| {
                fail(line, format!("column `status`: expected a finished state, found {word:?}"))
            })?,
        };
        let mut factors = Cell::new();
        for name in ["method", "task"] {
            factors.insert(name.to_owned(), Value::Text(cell(name).to_owned()));
        }
        for (name, &i) in &column {
            if let Some(name) = name.strip_prefix("factor.") {
                factors.insert(name.to_owned(), factor_value(row[i].trim()));
            }
        }
        let key = identity::trial_key(id, &factors, rep)
            .map_err(|error| fail(line, error.to_string()))?;
        let trial = trials.entry(key).or_insert_with(|| Gathered {
            cell: factors,
            rep,
            status,
            wall_s: 0.0,
            values: BTreeMap::new(),
        });
        if trial.status != status {
            return Err(fail(
                line,
                format!("one trial is both {} and {}", trial.status.word(), status.word()),
            ));
        }
        if !cell("wall_s").is_empty() {
            trial.wall_s = number("wall_s")?;
        }
        if cell("metric").is_empty() {
            continue;
        }
        let split = if cell("split").is_empty() { "validation" } else { cell("split") };
        let budget = if cell("budget").is_empty() { None } else { Some(number("budget")?) };
        let value = Number(number("value")?);
        let values = trial.values.entry((cell("metric").to_owned(), split.to_owned())).or_default();
        if values.iter().any(|(_, known, _)| *known == budget) {
            return Err(fail(line, format!("`{}` is given twice", cell("metric"))));
        }
        values.push((line, budget, value));
    }
    Ok(trials)
}

/// A whole number, a number or text, as the text reads.
fn factor_value(text: &str) -> Value {
    if let Ok(whole) = text.parse::<i64>() {
        return Value::Int(whole);
    }
    match (text, text.parse::<f64>()) {
        ("true", _) => Value::Bool(true),
        ("false", _) => Value::Bool(false),
        (_, Ok(number)) if number.is_finite() => Value::Float(number),
        _ => Value::Text(text.to_owned()),
    }
}

fn records(
    key: TrialKey,
    ord: u64,
    trial: Gathered,
    session_id: &str,
    at: i64,
) -> (TrialRow, AttemptRecord) {
    let mut metrics = Vec::new();
    let mut points = Vec::new();
    let mut budget_used = None;
    for ((name, split), mut values) in trial.values {
        values
            .sort_by(|a, b| a.1.unwrap_or(f64::INFINITY).total_cmp(&b.1.unwrap_or(f64::INFINITY)));
        for (step, (_, budget, value)) in values.iter().enumerate() {
            if let Some(budget) = *budget {
                budget_used = Some(budget.max(budget_used.unwrap_or(budget)));
                points.push(Point {
                    name: name.clone(),
                    step: step as u64,
                    budget,
                    wall_s: 0.0,
                    value: *value,
                });
            }
        }
        if let Some((_, _, value)) = values.last() {
            metrics.push(Metric { name, split, value: *value });
        }
    }
    let text = |name: &str| match trial.cell.get(name) {
        Some(Value::Text(text)) => text.clone(),
        _ => String::new(),
    };
    let row = TrialRow {
        key: key.clone(),
        ord,
        stage: Stage::Main,
        method: text("method"),
        task: text("task"),
        cell: trial.cell.clone(),
        rep: trial.rep,
        seeds: BTreeMap::new(),
        status: trial.status,
        attempt: 1,
        granted: 0,
        retired: false,
        lease_owner: None,
        lease_until: None,
    };
    let attempt = AttemptRecord {
        key,
        attempt: 1,
        origin_attempt: None,
        session_id: session_id.to_owned(),
        started_at: at,
        ended_at: at,
        status: trial.status,
        exit_code: None,
        signal: None,
        reason: Some("imported".to_owned()),
        wall_s: trial.wall_s,
        cpu_user_s: 0.0,
        cpu_sys_s: 0.0,
        peak_rss_kib: 0,
        threads: 0,
        device: String::new(),
        budget_used,
        stdout_tail: String::new(),
        stderr_tail: String::new(),
        log_path: None,
        result_json: None,
        metrics,
        points,
        artifacts: Vec::new(),
        sealed_names: BTreeSet::new(),
    };
    (row, attempt)
}
