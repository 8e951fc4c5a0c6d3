//! Methods against each other: the test that rule 7.1 allows, effect size and interval beside every
//! p-value (A2, A3).

use super::{
    AnalysisError,
    results::Table,
    summary::{aggregate, bootstrap_options, paired_interval},
};
use crate::{
    spec::{self, Resolved},
    stats::{
        self, Correction, Friedman, FriedmanOptions, Interval, Matrix, PValues, Scores,
        WilcoxonOptions, ZeroMethod,
    },
};
use serde::Serialize;

/// Tasks from which on a rank test over tasks can reject at 5% (7.1).
pub const TASKS_FOR_RANK_TEST: usize = 6;

/// What the pairs of values behind a test are.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// One aggregate per task: the claim is about tasks.
    Tasks,
    /// Paired repetitions of one task: the claim is about that task.
    Repetitions,
    /// Paired repetitions within each of a few tasks, adjusted over the tasks: the claim is about
    /// at least one of them.
    RepetitionsWithinTasks,
}

impl Unit {
    /// The unit that the number of complete tasks allows.
    pub fn for_tasks(n: usize) -> Self {
        match n {
            0 | 1 => Self::Repetitions,
            n if n < TASKS_FOR_RANK_TEST => Self::RepetitionsWithinTasks,
            _ => Self::Tasks,
        }
    }

    /// The rule in words, for the report.
    pub fn words(self) -> &'static str {
        match self {
            Self::Tasks => "Wilcoxon signed-rank over per-task values",
            Self::Repetitions => "Wilcoxon signed-rank over paired repetitions of the one task",
            Self::RepetitionsWithinTasks => {
                "Wilcoxon signed-rank over paired repetitions within each task, Holm over the tasks \
                 (fewer than 6 tasks: a rank test over tasks could not reject)"
            }
        }
    }
}

/// Two methods compared. Positive effects mean that `first` is better, whatever the direction of
/// the metric.
#[derive(Clone, Debug, Serialize)]
pub struct Pair {
    /// Index of the method that may be better.
    pub first: usize,
    /// Index of the method compared with.
    pub second: usize,
    /// Aggregate of the paired difference, oriented.
    pub effect: Interval,
    /// p-values, oriented: `greater` means that `first` is better.
    pub p: PValues,
    /// Two-sided p adjusted over all pairs.
    pub adjusted: f64,
    /// Probability that a run of `first` is better than one of `second` on the same task.
    pub improvement: Interval,
    /// Vargha-Delaney A12, oriented: mean over the tasks.
    pub a12: f64,
    /// Pairs of values behind the p-value.
    pub n: usize,
    /// Smallest two-sided p that so many pairs can give.
    pub smallest_p: f64,
}

/// All pairs, and the rank test over tasks where it is allowed.
#[derive(Clone, Debug, Serialize)]
pub struct Comparisons {
    /// What is paired.
    pub unit: Unit,
    /// Correction over the pairs.
    pub correction: &'static str,
    /// Every pair `first < second` in the order of the spec.
    pub pairs: Vec<Pair>,
    /// Friedman's test over complete tasks, for three methods or more on two tasks or more.
    pub friedman: Option<Friedman>,
    /// What a reader must know, such as that alpha cannot be reached.
    pub notes: Vec<String>,
}

/// The correction that the spec declares, with its name.
pub(crate) fn correction(spec: &Resolved) -> (Correction, &'static str) {
    match spec.analysis.correction {
        spec::Correction::Holm => (Correction::Holm, "Holm"),
        spec::Correction::Hochberg => (Correction::Hochberg, "Hochberg"),
        spec::Correction::Bh => (Correction::BenjaminiHochberg, "Benjamini-Hochberg"),
        spec::Correction::Bonferroni => (Correction::Bonferroni, "Bonferroni"),
    }
}

pub(crate) fn wilcoxon_options(spec: &Resolved) -> WilcoxonOptions {
    WilcoxonOptions {
        zeros: match spec.analysis.zero_method {
            spec::ZeroMethod::Wilcox => ZeroMethod::Wilcox,
            spec::ZeroMethod::Pratt => ZeroMethod::Pratt,
            spec::ZeroMethod::Zsplit => ZeroMethod::Zsplit,
        },
        round_digits: spec.analysis.round_digits,
        ..WilcoxonOptions::default()
    }
}

/// Compares all pairs.
///
/// # Errors
/// When a statistic refuses its input.
pub fn compare(table: &Table, spec: &Resolved) -> Result<Comparisons, AnalysisError> {
    let tasks = table.complete_tasks();
    let unit = Unit::for_tasks(tasks.len());
    let mut pairs = Vec::new();
    for first in 0..table.methods.len() {
        for second in first + 1..table.methods.len() {
            pairs.extend(pair(table, spec, first, second, &tasks)?);
        }
    }
    let (correction, name) = correction(spec);
    let raw: Vec<f64> = pairs.iter().map(|p| p.p.two_sided).collect();
    for (pair, adjusted) in pairs.iter_mut().zip(stats::adjust(&raw, correction)?) {
        pair.adjusted = adjusted;
    }
    let mut notes = Vec::new();
    if let Some(pair) = pairs.iter().find(|p| p.smallest_p > 0.05) {
        notes.push(format!(
            "with n = {} pairs the smallest two-sided exact p is {:.4}: 0.05 cannot be reached",
            pair.n, pair.smallest_p
        ));
    }
    let friedman = if table.methods.len() >= 3 && tasks.len() >= 2 {
        Some(friedman(table, spec, &tasks)?)
    } else {
        None
    };
    Ok(Comparisons { unit, correction: name, pairs, friedman, notes })
}

/// One aggregate per task (rows) and method (columns).
pub(crate) fn task_matrix(
    table: &Table,
    spec: &Resolved,
    tasks: &[usize],
) -> Result<Matrix, AnalysisError> {
    let rows: Vec<Vec<f64>> = tasks
        .iter()
        .map(|t| {
            (0..table.methods.len())
                .map(|m| Ok(aggregate(spec).of_runs(&table.runs(m, *t))?))
                .collect::<Result<Vec<f64>, AnalysisError>>()
        })
        .collect::<Result<_, _>>()?;
    Ok(Matrix::from_rows(&rows)?)
}

fn friedman(table: &Table, spec: &Resolved, tasks: &[usize]) -> Result<Friedman, AnalysisError> {
    let options = FriedmanOptions {
        higher_is_better: table.metric.higher_is_better,
        round_digits: spec.analysis.round_digits,
        ..FriedmanOptions::default()
    };
    Ok(stats::friedman(&task_matrix(table, spec, tasks)?, &options)?)
}

/// Compares two methods; `None` when they share no repetition on any task.
///
/// # Errors
/// When a statistic refuses its input.
pub fn pair(
    table: &Table,
    spec: &Resolved,
    first: usize,
    second: usize,
    tasks: &[usize],
) -> Result<Option<Pair>, AnalysisError> {
    let shared: Vec<usize> =
        tasks.iter().copied().filter(|t| !table.paired(first, second, *t).0.is_empty()).collect();
    let Some(difference) = paired_interval(table, spec, first, second, &shared)? else {
        return Ok(None);
    };
    let higher = table.metric.higher_is_better;
    let effect = if higher { difference } else { difference.negated() };
    let sign = if higher { 1.0 } else { -1.0 };

    let (p, n, smallest_p) = match Unit::for_tasks(shared.len()) {
        Unit::Tasks => {
            let of = |m: usize| -> Result<Vec<f64>, AnalysisError> {
                shared
                    .iter()
                    .map(|t| Ok(sign * aggregate(spec).of_runs(&table.runs(m, *t))?))
                    .collect()
            };
            let test = stats::wilcoxon_with(&of(first)?, &of(second)?, &wilcoxon_options(spec))?;
            (test.p, test.n, test.smallest_p)
        }
        Unit::Repetitions | Unit::RepetitionsWithinTasks => {
            within(table, spec, first, second, &shared, sign)?
        }
    };

    let oriented =
        |m: usize, t: usize| -> Vec<f64> { table.runs(m, t).iter().map(|v| sign * v).collect() };
    let columns =
        |m: usize| Scores::from_tasks(&shared.iter().map(|t| oriented(m, *t)).collect::<Vec<_>>());
    let (x, y) = (columns(first)?, columns(second)?);
    let improvement = stats::prob_improvement(&x, &y, &bootstrap_options(spec))?;
    let a12 = improvement.interval.point;
    Ok(Some(Pair {
        first,
        second,
        effect,
        p,
        adjusted: p.two_sided,
        improvement: improvement.interval,
        a12,
        n,
        smallest_p,
    }))
}

/// Paired repetitions within each task, the smallest p after Holm over the tasks.
fn within(
    table: &Table,
    spec: &Resolved,
    first: usize,
    second: usize,
    tasks: &[usize],
    sign: f64,
) -> Result<(PValues, usize, f64), AnalysisError> {
    let mut tests = Vec::new();
    for t in tasks {
        let (a, b) = table.paired(first, second, *t);
        let a: Vec<f64> = a.iter().map(|v| sign * v).collect();
        let b: Vec<f64> = b.iter().map(|v| sign * v).collect();
        tests.push(stats::wilcoxon_with(&a, &b, &wilcoxon_options(spec))?);
    }
    let smallest = |pick: fn(&PValues) -> f64| -> Result<f64, AnalysisError> {
        let raw: Vec<f64> = tests.iter().map(|t| pick(&t.p)).collect();
        Ok(stats::adjust(&raw, Correction::Holm)?.into_iter().fold(1.0, f64::min))
    };
    let p = PValues {
        two_sided: smallest(|p| p.two_sided)?,
        less: smallest(|p| p.less)?,
        greater: smallest(|p| p.greater)?,
    };
    let n = tests.iter().map(|t| t.n).min().unwrap_or(0);
    let reachable = tests.iter().map(|t| t.smallest_p).fold(1.0, f64::min) * tests.len() as f64;
    Ok((p, n, reachable.min(1.0)))
}
