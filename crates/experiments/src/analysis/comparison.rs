//! Methods against each other: the test that rule 7.1 allows, effect size and interval beside every
//! p-value (A2, A3).

use super::{
    AnalysisError,
    contrast::{Contrast, Tested},
    results::Table,
    summary::{Scale, aggregate, larger_is_better},
};
use crate::{
    spec::{self, Resolved},
    stats::{
        self, Correction, Friedman, FriedmanOptions, Interval, Matrix, TASKS_FOR_RANK_TESTS,
        WilcoxonOptions, ZeroMethod,
    },
};
use serde::Serialize;

/// Level of the tables between all pairs; hypotheses state their own.
const LEVEL: f64 = 0.05;

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
    /// Two-sided p of the test that rule 7.1 allows; 1 where it allows none.
    pub p: f64,
    /// p adjusted over all pairs.
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
    /// The test with its unit.
    pub test: &'static str,
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
    let k = table.methods.len();
    let (mut pairs, mut notes, mut test) = (Vec::new(), Vec::new(), "");
    for first in 0..k {
        for second in first + 1..k {
            let methods = (first, second);
            let Some(contrast) = Contrast::new(table, spec, methods, tasks.iter().copied()) else {
                continue;
            };
            let choice = stats::choose(&contrast.design(None, LEVEL))?;
            let tested = contrast.run(choice.analysis)?;
            for note in choice.notes {
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
            test = tested.as_ref().map_or("no test is possible", |t| t.words);
            let improvement = contrast.improvement()?;
            let p = tested.as_ref().map_or(1.0, Tested::two_sided);
            pairs.push(Pair {
                first,
                second,
                effect: contrast.effect(Scale::Declared)?,
                p,
                adjusted: p,
                a12: improvement.point,
                improvement,
                n: tested.as_ref().map_or(contrast.pairs, |t| t.n),
                smallest_p: tested.as_ref().map_or(1.0, |t| t.smallest_p),
            });
        }
    }
    let (correction, name) = correction(spec);
    let raw: Vec<f64> = pairs.iter().map(|p| p.p).collect();
    for (pair, adjusted) in pairs.iter_mut().zip(stats::adjust(&raw, correction)?) {
        pair.adjusted = adjusted;
    }
    let friedman =
        if k >= 3 && tasks.len() >= 2 { Some(friedman(table, spec, &tasks)?) } else { None };
    if let Some(f) = friedman.as_ref().filter(|f| f.p_f > LEVEL && f.n >= TASKS_FOR_RANK_TESTS) {
        notes.push(format!(
            "Friedman does not reject (p = {:.4}): the methods are one group, and the p-values of \
             the pairs are no evidence against that",
            f.p_f
        ));
    }
    Ok(Comparisons { test, correction: name, pairs, friedman, notes })
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
        higher_is_better: larger_is_better(table, spec),
        round_digits: spec.analysis.round_digits,
        ..FriedmanOptions::default()
    };
    Ok(stats::friedman(&task_matrix(table, spec, tasks)?, &options)?)
}
