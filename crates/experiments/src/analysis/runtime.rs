//! Run-length distributions: how soon the runs of each method reach the declared targets
//! (specification, 7.13).
//!
//! Targets are fixed in the spec and equal for all methods. Every finished run stays in the
//! denominator, also one that crashed before it logged anything.

use super::{AnalysisError, Found, results::Results};
use crate::{
    figures::{Ecdf, EcdfCurve, ErtTable, Head},
    report::number::plain,
    spec::Metric,
    stats,
    store::record::TrialRow,
};
use serde::Serialize;

/// Distributions of all methods.
#[derive(Clone, Debug, Serialize)]
pub struct RunLengths {
    /// Metric whose curve is held against the targets.
    pub metric: String,
    /// Each target as words, such as `val_error ≤ 0.1`.
    pub targets: Vec<String>,
    /// In the order of the spec; methods without a finished run are left out.
    pub methods: Vec<MethodRunLengths>,
}

/// Distribution of one method over all its runs and all targets.
#[derive(Clone, Debug, Serialize)]
pub struct MethodRunLengths {
    /// Method.
    pub method: String,
    /// Finished runs over all tasks.
    pub runs: usize,
    /// Budgets at which the share rises.
    pub budget: Vec<f64>,
    /// Share of (run, target) pairs reached within each budget.
    pub share: Vec<f64>,
    /// Smallest budget at which a run ended that missed a target.
    pub censored_from: Option<f64>,
    /// Area under the share over the logarithm of the budget, on the same grid for all methods.
    pub auc: f64,
    /// Expected running time of each target; none when no run reached it.
    pub ert: Vec<Option<f64>>,
}

/// One run: its hitting times and what it spent.
struct Run {
    hits: Vec<f64>,
    spent: f64,
}

/// Computes the distributions, or says why there are none.
///
/// # Errors
/// When a statistic refuses its input.
pub fn run_lengths(results: &Results) -> Result<Found<RunLengths>, AnalysisError> {
    let targets = &results.spec.analysis.targets;
    if targets.is_empty() {
        return Ok(Err("no `analysis.targets` are declared".to_owned()));
    }
    let logged = |m: &&Metric| {
        let named = |rows: &Vec<crate::store::record::PointRow>| {
            rows.iter().any(|row| row.point.name == m.name)
        };
        m.curve && results.open(m) && results.points.values().any(named)
    };
    let primary = results.spec.primary().filter(logged);
    let Some(metric) = primary.or_else(|| results.spec.metrics.iter().find(logged)) else {
        return Ok(Err("no open metric with `curve = true` has logged points".to_owned()));
    };
    let mut by_method = Vec::new();
    for method in &results.spec.methods {
        let runs = results
            .main()
            .filter(|t| t.method == method.name && t.status.finished())
            .map(|t| run(results, t, metric, targets))
            .collect::<Result<Vec<Run>, AnalysisError>>()?;
        if !runs.is_empty() {
            by_method.push((method.name.clone(), runs));
        }
    }
    let every = || by_method.iter().flat_map(|(_, runs)| runs);
    let spent = every().map(|r| r.spent);
    let finite = every().flat_map(|r| r.hits.iter().copied()).filter(|h| h.is_finite());
    let mut grid: Vec<f64> = finite.chain(spent).filter(|b| *b > 0.0).collect();
    grid.sort_unstable_by(f64::total_cmp);
    grid.dedup();
    let (Some(&start), true) = (grid.first(), grid.len() >= 2) else {
        return Ok(Err("the runs logged fewer than two budgets above zero".to_owned()));
    };
    let methods = by_method
        .into_iter()
        .map(|(method, runs)| distribution(method, &runs, &grid, start))
        .collect::<Result<_, _>>()?;
    let sign = if metric.higher_is_better { "≥" } else { "≤" };
    Ok(Ok(RunLengths {
        metric: metric.name.clone(),
        targets: targets.iter().map(|t| format!("{} {sign} {}", metric.name, plain(*t))).collect(),
        methods,
    }))
}

fn run(
    results: &Results,
    trial: &TrialRow,
    metric: &Metric,
    targets: &[f64],
) -> Result<Run, AnalysisError> {
    let mut points: Vec<(f64, f64)> = results
        .points
        .get(&trial.key)
        .into_iter()
        .flatten()
        .filter(|row| row.point.name == metric.name && row.point.value.0.is_finite())
        .map(|row| (row.point.budget.max(0.0), row.point.value.0))
        .filter(|(budget, _)| budget.is_finite())
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let used = results.last_attempt(trial).and_then(|a| a.budget_used).filter(|b| b.is_finite());
    let last = points.last().map(|(budget, _)| *budget);
    let spent = used.into_iter().chain(last).fold(0.0, f64::max);
    if points.is_empty() {
        return Ok(Run { hits: vec![f64::INFINITY; targets.len()], spent });
    }
    // Hitting times are of falling values.
    let sign = if metric.higher_is_better { -1.0 } else { 1.0 };
    let (budgets, values): (Vec<f64>, Vec<f64>) =
        points.into_iter().map(|(b, v)| (b, sign * v)).unzip();
    let targets: Vec<f64> = targets.iter().map(|t| sign * t).collect();
    let mut hits = stats::hitting_times(&[budgets], &[values], &targets)?;
    Ok(Run { hits: hits.remove(0), spent })
}

/// `start` stands for a hit at budget 0, which a logarithmic axis does not have.
fn distribution(
    method: String,
    runs: &[Run],
    grid: &[f64],
    start: f64,
) -> Result<MethodRunLengths, AnalysisError> {
    let hits: Vec<Vec<f64>> =
        runs.iter().map(|r| r.hits.iter().map(|h| h.max(start)).collect()).collect();
    let spent: Vec<f64> = runs.iter().map(|r| r.spent.max(start)).collect();
    let ecdf = stats::runtime_ecdf(&hits, &spent, grid)?;
    let mut last = 0.0;
    let (budget, share) = ecdf
        .grid
        .iter()
        .zip(&ecdf.share)
        .filter(|(_, s)| **s > std::mem::replace(&mut last, **s))
        .map(|(b, s)| (*b, *s))
        .unzip();
    let censored = hits.iter().zip(&spent).filter(|(h, _)| h.iter().any(|h| h.is_infinite()));
    Ok(MethodRunLengths {
        method,
        runs: runs.len(),
        budget,
        share,
        censored_from: censored.map(|(_, spent)| *spent).min_by(f64::total_cmp),
        auc: ecdf.auc,
        ert: ecdf.ert.into_iter().map(|e| e.is_finite().then_some(e)).collect(),
    })
}

impl RunLengths {
    /// The figure; `label` gives a method's display name.
    pub(super) fn figure(&self, head: Head, unit: &str, label: impl Fn(&str) -> String) -> Ecdf {
        Ecdf {
            head,
            runs: self.methods.iter().map(|m| m.runs).min().unwrap_or(0),
            targets: self.targets.len(),
            x_label: unit.to_owned(),
            curves: self
                .methods
                .iter()
                .map(|m| EcdfCurve {
                    method: label(&m.method),
                    budget: m.budget.clone(),
                    share: m.share.clone(),
                    band: Vec::new(),
                    censored_from: m.censored_from,
                })
                .collect(),
            ert: Some(ErtTable {
                targets: self.targets.clone(),
                values: self.methods.iter().map(|m| m.ert.clone()).collect(),
            }),
        }
    }
}
