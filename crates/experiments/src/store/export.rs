//! Results as plain tables (specification, section 5.5), as CSV and with the feature `parquet` also
//! as Parquet.
//!
//! `results` is trial by metric in long form, `curves` has one row for each point of a curve. Both
//! begin with what names the trial; the type is that of the Parquet column (Arrow's name for it).
//!
//! | column | type | |
//! | --- | --- | --- |
//! | `stage`, `trial_key`, `method`, `task` | `Utf8` | identity |
//! | `rep` | `Int64` | repetition |
//! | `factor.NAME` | `Utf8` | level of each further factor as the spec writes it; empty where the cell has none |
//!
//! Then, in `results`:
//!
//! | column | type | |
//! | --- | --- | --- |
//! | `status`, `reason` | `Utf8` | state of the trial, and why it failed |
//! | `attempt` | `Int64` | number of attempts so far |
//! | `metric`, `split` | `Utf8` | empty in the single row of a trial without a value |
//! | `value` | `Float64` | final value, possibly NaN or infinite; null in a trial without one |
//! | `wall_s`, `cpu_s` | `Float64` | seconds; null while the trial is not finished |
//! | `peak_rss_kib` | `Int64` | KiB; null likewise |
//! | `budget_used` | `Float64` | in the declared unit; null when the program did not tell |
//! | `threads` | `Int64` | threads granted; null while the trial is not finished |
//! | `device` | `Utf8` | device word |
//!
//! and in `curves`:
//!
//! | column | type | |
//! | --- | --- | --- |
//! | `metric` | `Utf8` | |
//! | `step` | `Int64` | step counter |
//! | `budget`, `wall_s` | `Float64` | budget used so far, seconds since the trial's start |
//! | `value` | `Float64` | possibly NaN or infinite |
//!
//! CSV writes a null as an empty cell and the values that are not finite as `nan`, `inf`, `-inf`.
//! Text is never null.

use super::{Store, StoreError, csv, record::TrialRow};
use crate::identity::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    path::Path,
};

/// A value of the long form, in types that both CSV and Parquet have.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// Text.
    Text(String),
    /// Number, possibly not finite; `None` is an empty cell.
    Number(Option<f64>),
    /// Whole number; `None` is an empty cell.
    Whole(Option<i64>),
}

/// Which [`Entry`] a column holds.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// [`Entry::Text`].
    Text,
    /// [`Entry::Number`].
    Number,
    /// [`Entry::Whole`].
    Whole,
}

/// Name and type of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name in the header.
    pub name: String,
    /// Type of every entry.
    pub kind: Kind,
}

impl Column {
    fn new(name: impl Into<String>, kind: Kind) -> Self {
        Self { name: name.into(), kind }
    }
}

/// A table with typed columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Columns; a table without rows has the same.
    pub columns: Vec<Column>,
    /// Rows, each as long as `columns`.
    pub rows: Vec<Vec<Entry>>,
}

impl Table {
    /// The table as CSV text: header line first, floats as the shortest text that reads back to the
    /// same bits.
    pub fn to_csv(&self) -> String {
        let mut text = String::new();
        let names: Vec<&str> = self.columns.iter().map(|column| column.name.as_str()).collect();
        csv::write_record(&mut text, &names);
        for row in &self.rows {
            let cells: Vec<String> = row
                .iter()
                .map(|entry| match entry {
                    Entry::Text(text) => text.clone(),
                    Entry::Number(value) => value.map(csv::number_text).unwrap_or_default(),
                    Entry::Whole(value) => value.map(|v| v.to_string()).unwrap_or_default(),
                })
                .collect();
            csv::write_record(&mut text, &cells);
        }
        text
    }
}

fn factor_names(trials: &[TrialRow]) -> Vec<String> {
    let names: BTreeSet<&String> = trials.iter().flat_map(|trial| trial.cell.keys()).collect();
    names.into_iter().filter(|name| *name != "method" && *name != "task").cloned().collect()
}

fn identity_columns(factors: &[String]) -> Vec<Column> {
    [
        ("stage", Kind::Text),
        ("trial_key", Kind::Text),
        ("method", Kind::Text),
        ("task", Kind::Text),
        ("rep", Kind::Whole),
    ]
    .into_iter()
    .map(|(name, kind)| Column::new(name, kind))
    .chain(factors.iter().map(|name| Column::new(format!("factor.{name}"), Kind::Text)))
    .collect()
}

fn identity(trial: &TrialRow, factors: &[String]) -> Vec<Entry> {
    let mut cells = vec![
        Entry::Text(trial.stage.word().to_owned()),
        Entry::Text(trial.key.0.clone()),
        Entry::Text(trial.method.clone()),
        Entry::Text(trial.task.clone()),
        Entry::Whole(Some(i64::from(trial.rep))),
    ];
    cells.extend(
        factors.iter().map(|name| {
            Entry::Text(trial.cell.get(name).map(Value::to_string).unwrap_or_default())
        }),
    );
    cells
}

/// Trial by metric in long form. Every trial that is not retired appears: one without a value has a
/// single row with an empty metric, so that failures cannot drop out of a mean unseen.
///
/// # Errors
/// When the store cannot be read.
pub fn results(store: &dyn Store) -> Result<Table, StoreError> {
    let trials: Vec<_> = store.trials()?.into_iter().filter(|trial| !trial.retired).collect();
    let factors = factor_names(&trials);
    let mut metrics: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for row in store.metrics()? {
        metrics.entry(row.key).or_default().push(row.metric);
    }
    let attempts: BTreeMap<_, _> =
        store.attempts()?.into_iter().map(|a| ((a.key.clone(), a.attempt), a)).collect();
    let mut columns = identity_columns(&factors);
    columns.extend(
        [
            ("status", Kind::Text),
            ("reason", Kind::Text),
            ("attempt", Kind::Whole),
            ("metric", Kind::Text),
            ("split", Kind::Text),
            ("value", Kind::Number),
            ("wall_s", Kind::Number),
            ("cpu_s", Kind::Number),
            ("peak_rss_kib", Kind::Whole),
            ("budget_used", Kind::Number),
            ("threads", Kind::Whole),
            ("device", Kind::Text),
        ]
        .map(|(name, kind)| Column::new(name, kind)),
    );
    let mut rows = Vec::new();
    for trial in &trials {
        let attempt = if trial.status.finished() {
            attempts.get(&(trial.key.clone(), trial.attempt))
        } else {
            None
        };
        let row = |metric: &str, split: &str, value: Option<f64>| {
            let mut cells = identity(trial, &factors);
            cells.extend([
                Entry::Text(trial.status.word().to_owned()),
                Entry::Text(attempt.and_then(|a| a.reason.clone()).unwrap_or_default()),
                Entry::Whole(Some(i64::from(trial.attempt))),
                Entry::Text(metric.to_owned()),
                Entry::Text(split.to_owned()),
                Entry::Number(value),
                Entry::Number(attempt.map(|a| a.wall_s)),
                Entry::Number(attempt.map(|a| a.cpu_user_s + a.cpu_sys_s)),
                Entry::Whole(attempt.and_then(|a| i64::try_from(a.peak_rss_kib).ok())),
                Entry::Number(attempt.and_then(|a| a.budget_used)),
                Entry::Whole(attempt.map(|a| i64::from(a.threads))),
                Entry::Text(attempt.map(|a| a.device.clone()).unwrap_or_default()),
            ]);
            cells
        };
        match metrics.get(&trial.key) {
            Some(values) => {
                rows.extend(values.iter().map(|m| row(&m.name, &m.split, Some(m.value.0))));
            }
            None => rows.push(row("", "", None)),
        }
    }
    Ok(Table { columns, rows })
}

/// Curve points in long form.
///
/// # Errors
/// When the store cannot be read.
pub fn curves(store: &dyn Store) -> Result<Table, StoreError> {
    let trials: Vec<_> = store.trials()?.into_iter().filter(|trial| !trial.retired).collect();
    let factors = factor_names(&trials);
    let by_key: BTreeMap<_, _> = trials.iter().map(|trial| (&trial.key, trial)).collect();
    let mut columns = identity_columns(&factors);
    columns.extend(
        [
            ("metric", Kind::Text),
            ("step", Kind::Whole),
            ("budget", Kind::Number),
            ("wall_s", Kind::Number),
            ("value", Kind::Number),
        ]
        .map(|(name, kind)| Column::new(name, kind)),
    );
    let mut rows = Vec::new();
    for row in store.points()? {
        let Some(trial) = by_key.get(&row.key) else { continue };
        let mut cells = identity(trial, &factors);
        cells.extend([
            Entry::Text(row.point.name),
            Entry::Whole(i64::try_from(row.point.step).ok()),
            Entry::Number(Some(row.point.budget)),
            Entry::Number(Some(row.point.wall_s)),
            Entry::Number(Some(row.point.value.0)),
        ]);
        rows.push(cells);
    }
    Ok(Table { columns, rows })
}

/// Writes `results.csv` and `curves.csv` into `folder`, and with the feature `parquet` the same as
/// Parquet files. Returns the names of the files.
///
/// # Errors
/// When the store cannot be read or a file cannot be written.
pub fn write(store: &dyn Store, folder: &Path) -> Result<Vec<String>, StoreError> {
    let fail = |path: &Path, error: &dyn std::fmt::Display| StoreError::File {
        path: path.display().to_string(),
        message: error.to_string(),
    };
    fs::create_dir_all(folder).map_err(|error| fail(folder, &error))?;
    let mut names = Vec::new();
    for (name, table) in [("results", results(store)?), ("curves", curves(store)?)] {
        let file = format!("{name}.csv");
        let path = folder.join(&file);
        fs::File::create(&path)
            .and_then(|mut out| out.write_all(table.to_csv().as_bytes()))
            .map_err(|error| fail(&path, &error))?;
        names.push(file);
        #[cfg(feature = "parquet")]
        {
            let file = format!("{name}.parquet");
            super::parquet::write(&table, &folder.join(&file))?;
            names.push(file);
        }
    }
    Ok(names)
}
