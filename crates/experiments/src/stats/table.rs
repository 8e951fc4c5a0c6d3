//! The statistics on a CSV file, without an experiment: what `stats TEST FILE.csv` runs.
//!
//! Columns `method`, `task`, `rep`, `value` in any order, with a header; `task` and `rep` may be
//! absent. The long form that the engine exports (`metric`, `split`, `budget`, `status` besides) is
//! read too, as long as one metric is chosen and every row is `ok`: what to do with failed runs is
//! a decision for the user, not for a reader of files.

mod analyses;
mod csv;

use serde::Serialize;

use super::aggregate::Aggregate;
use super::bootstrap::BootstrapOptions;
use super::error::StatError;
use super::friedman::MissingBlocks;
use super::multitest::Correction;
use super::scores::{Matrix, Scores};
use super::wilcoxon::WilcoxonOptions;

/// What can go wrong between a file and a statistic.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TableError {
    /// The file does not parse.
    #[error("line {line}: {why}")]
    Csv {
        /// Line, from 1.
        line: usize,
        /// What was expected and what came.
        why: String,
    },
    /// The file parses, but does not hold what the test needs.
    #[error("{0}")]
    Content(String),
    /// No such test.
    #[error("unknown test `{name}`; known: {known}")]
    UnknownTest {
        /// The name given.
        name: String,
        /// All names.
        known: String,
    },
    /// The statistic refused the data.
    #[error(transparent)]
    Stat(#[from] StatError),
}

/// One test that can be asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TestInfo {
    /// The name on the command line.
    pub name: &'static str,
    /// One line of help.
    pub help: &'static str,
}

/// All tests, in the order in which help lists them.
pub fn tests() -> Vec<TestInfo> {
    analyses::ANALYSES.iter().map(|a| TestInfo { name: a.name, help: a.help }).collect()
}

/// Options of [`run_test`]; what a test does not need it ignores.
#[derive(Clone, Debug, PartialEq)]
pub struct TableOptions {
    /// Direction of the metric; printed with every result.
    pub higher_is_better: bool,
    /// The two methods of a comparison; by default the only two of the file.
    pub methods: Option<[String; 2]>,
    /// The control of test `control`; by default the first method of the file.
    pub control: Option<String>,
    /// Which metric to read from a file with a `metric` column.
    pub metric: Option<String>,
    /// How the repetitions of a task become one value.
    pub aggregate: Aggregate,
    /// Level of the tests.
    pub alpha: f64,
    /// Bootstrap behind the intervals.
    pub bootstrap: BootstrapOptions,
    /// Smallest effect of interest: region of equivalence, aim of `plan`.
    pub min_effect: Option<f64>,
    /// Correction within a family.
    pub correction: Correction,
    /// Options of the signed-rank test.
    pub wilcoxon: WilcoxonOptions,
    /// Tasks that some method has not run.
    pub missing: MissingBlocks,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self {
            higher_is_better: true,
            methods: None,
            control: None,
            metric: None,
            aggregate: Aggregate::Mean,
            alpha: 0.05,
            bootstrap: BootstrapOptions::default(),
            min_effect: None,
            correction: Correction::Holm,
            wilcoxon: WilcoxonOptions::default(),
            missing: MissingBlocks::Refuse,
        }
    }
}

/// Result of a test on a table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TestOutput {
    /// Name of the test.
    pub test: String,
    /// All numbers.
    pub data: serde_json::Value,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// The result as plain text for a terminal, notes included.
    pub text: String,
}

/// Runs the test `name` on CSV text.
///
/// # Errors
/// [`TableError`] with the line, the missing cell, or the argument that a statistic refused.
///
/// ```
/// use experiments::stats::table::{TableOptions, run_test};
/// let csv = "method,task,rep,value\na,t,0,1\nb,t,0,2\na,t,1,3\nb,t,1,1\na,t,2,4\nb,t,2,2\n";
/// let out = run_test("wilcoxon", csv, &TableOptions::default()).unwrap();
/// assert!(out.text.contains("p (two-sided)"));
/// ```
pub fn run_test(name: &str, csv: &str, options: &TableOptions) -> Result<TestOutput, TableError> {
    let table = Table::from_csv(csv, options.metric.as_deref())?;
    run_on(name, &table, options)
}

/// [`run_test`] on a table that is already in memory.
///
/// # Errors
/// As [`run_test`].
pub fn run_on(name: &str, table: &Table, options: &TableOptions) -> Result<TestOutput, TableError> {
    let Some(analysis) = analyses::ANALYSES.iter().find(|a| a.name == name) else {
        let known: Vec<&str> = analyses::ANALYSES.iter().map(|a| a.name).collect();
        return Err(TableError::UnknownTest { name: name.into(), known: known.join(", ") });
    };
    let page = (analysis.run)(table, options)?;
    Ok(page.finish(name, table, options))
}

/// Values by method, task and repetition.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    methods: Vec<String>,
    tasks: Vec<String>,
    /// `[method][task]` repetitions sorted by label (numbers as numbers).
    cells: Vec<Vec<Vec<(String, f64)>>>,
}

impl Table {
    /// Reads CSV text; see the module for the columns.
    ///
    /// # Errors
    /// [`TableError::Csv`] with the line: unknown column, a value that is not a finite number, a
    /// repeated cell, a row that is not `ok`, several metrics and none chosen.
    pub fn from_csv(text: &str, metric: Option<&str>) -> Result<Self, TableError> {
        csv::read(text, metric)
    }

    /// Methods in the order of their first row.
    pub fn methods(&self) -> &[String] {
        &self.methods
    }

    /// Tasks in the order of their first row.
    pub fn tasks(&self) -> &[String] {
        &self.tasks
    }

    /// Number of the method.
    ///
    /// # Errors
    /// [`TableError::Content`] naming the methods there are.
    pub fn method(&self, name: &str) -> Result<usize, TableError> {
        self.methods.iter().position(|m| m == name).ok_or_else(|| {
            TableError::Content(format!(
                "no method `{name}`; the file has {}",
                self.methods.join(", ")
            ))
        })
    }

    /// Runs of a cell, by ascending repetition label.
    pub(crate) fn runs(&self, method: usize, task: usize) -> Vec<f64> {
        self.cells[method][task].iter().map(|(_, v)| *v).collect()
    }

    /// Scores of one method over all tasks.
    ///
    /// # Errors
    /// [`TableError::Content`] when a task has no run.
    pub fn scores(&self, method: usize) -> Result<Scores, TableError> {
        let tasks: Vec<Vec<f64>> = (0..self.tasks.len()).map(|t| self.runs(method, t)).collect();
        if let Some(t) = tasks.iter().position(Vec::is_empty) {
            return Err(TableError::Content(format!(
                "method `{}` has no run of task `{}`",
                self.methods[method], self.tasks[t]
            )));
        }
        Ok(Scores::from_tasks(&tasks)?)
    }

    /// `[tasks, methods]` one aggregate per cell; NaN where a cell is empty.
    pub(crate) fn per_task(&self, aggregate: Aggregate) -> Result<Matrix, TableError> {
        let mut values = Vec::with_capacity(self.tasks.len() * self.methods.len());
        for t in 0..self.tasks.len() {
            for m in 0..self.methods.len() {
                let runs = self.runs(m, t);
                values.push(if runs.is_empty() { f64::NAN } else { aggregate.of_runs(&runs)? });
            }
        }
        Ok(Matrix::new(self.tasks.len(), self.methods.len(), values)?)
    }

    /// Whether two methods have the same repetition labels on every task.
    pub fn paired(&self, a: usize, b: usize) -> bool {
        self.cells[a]
            .iter()
            .zip(&self.cells[b])
            .all(|(x, y)| x.len() == y.len() && x.iter().zip(y).all(|((r, _), (s, _))| r == s))
    }

    /// The smallest number of runs of a cell; 0 when one is empty.
    pub fn min_runs(&self) -> usize {
        self.cells.iter().flatten().map(Vec::len).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    /// Method `b` is better than `a` by one on every task; `c` is worse.
    fn file(n_tasks: usize, reps: usize) -> String {
        let mut text = String::from("method,task,rep,value\n");
        for t in 0..n_tasks {
            for r in 0..reps {
                let base = (t * 7 % 5) as f64 + (r * 3 % 4) as f64 * 0.1;
                for (m, shift) in [("a", 0.0), ("b", 1.0 + 0.01 * t as f64), ("c", -0.5)] {
                    writeln!(text, "{m},task{t},{r},{}", base + shift).unwrap();
                }
            }
        }
        text
    }

    fn options() -> TableOptions {
        let mut o = TableOptions { min_effect: Some(0.5), ..Default::default() };
        o.bootstrap.resamples = 1_000;
        o
    }

    #[test]
    fn every_test_runs_on_a_plain_file() {
        let text = file(8, 5);
        let two = TableOptions { methods: Some(["b".into(), "a".into()]), ..options() };
        for test in tests() {
            let out =
                run_test(test.name, &text, &two).unwrap_or_else(|e| panic!("{}: {e}", test.name));
            assert!(out.text.starts_with(test.name), "{}", out.text);
            assert!(out.data.is_object(), "{}", test.name);
            assert!(!out.text.contains("NaN") && !out.text.contains("null"), "{}", out.text);
        }
    }

    #[test]
    fn direction_is_respected() {
        let text = file(8, 3);
        let lower = TableOptions { higher_is_better: false, ..options() };
        let high = run_test("friedman", &text, &options()).unwrap();
        let low = run_test("friedman", &text, &lower).unwrap();
        assert_eq!(high.data["mean_ranks"], serde_json::json!([2.0, 1.0, 3.0]));
        assert_eq!(low.data["mean_ranks"], serde_json::json!([2.0, 3.0, 1.0]));
    }

    #[test]
    fn default_follows_the_design() {
        let one = run_test(
            "default",
            &file(1, 8),
            &TableOptions { methods: Some(["b".into(), "a".into()]), ..options() },
        );
        assert_eq!(one.unwrap().data["choice"]["analysis"], "wilcoxon-paired-seeds");
        let many = run_test("default", &file(8, 3), &options()).unwrap();
        assert_eq!(many.data["choice"]["analysis"], "friedman-then-pairs");
        assert!(many.notes.iter().any(|n| n.contains("unit of analysis")));
    }

    #[test]
    fn what_is_missing_is_named() {
        let text = "method,task,rep,value\na,t,0,1\nb,u,0,2\n";
        let error = run_test("intervals", text, &options()).unwrap_err();
        assert!(error.to_string().contains("`a` has no run of task `u`"), "{error}");
        let error = run_test("wilcox", text, &options()).unwrap_err();
        assert!(error.to_string().contains("known: default"), "{error}");
        let error = run_test("wilcoxon", &file(8, 3), &options()).unwrap_err();
        assert!(error.to_string().contains("two"), "{error}");
    }

    #[test]
    fn pairs_are_found_by_label_not_by_line() {
        let text = "method,task,rep,value\na,t,1,1\na,t,0,5\nb,t,0,6\nb,t,1,2\n";
        let t = Table::from_csv(text, None).unwrap();
        assert!(t.paired(0, 1));
        assert_eq!(t.runs(0, 0), [5.0, 1.0]);
        assert_eq!(t.runs(1, 0), [6.0, 2.0]);
        let other = Table::from_csv(&text.replace("b,t,1", "b,t,7"), None).unwrap();
        assert!(!other.paired(0, 1));
    }
}
