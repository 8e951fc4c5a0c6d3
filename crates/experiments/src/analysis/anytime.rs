//! Curves over the budget: last observation carried forward onto one grid, band over whole runs
//! (specification, 7.17).

use super::{AnalysisError, results::Results, summary::bootstrap_options};
use crate::{
    spec::{Censoring, Metric},
    stats::{self, Interval, Scores},
    store::record::{Status, TrialRow},
};
use serde::Serialize;

/// Points on the common grid.
const GRID: usize = 41;

/// Resamples of a band at most: a band is [`GRID`] intervals per method and task, whose ends are
/// read from a drawing and not from a table.
pub(super) const RESAMPLES: u32 = 1000;

/// A method's curve on one task.
#[derive(Clone, Debug, Serialize)]
pub struct MethodCurve {
    /// Method.
    pub method: String,
    /// Budget and interval over the runs that have a value there.
    pub points: Vec<(f64, Interval)>,
    /// Where failed runs ended: budget and last value.
    pub failed: Vec<(f64, f64)>,
}

/// Curves of all methods on one task.
#[derive(Clone, Debug, Serialize)]
pub struct TaskCurves {
    /// Task.
    pub task: String,
    /// One curve per method that has points, in the order of the spec.
    pub curves: Vec<MethodCurve>,
}

/// Curves of a metric that is logged over the budget; empty when no trial logged it.
///
/// # Errors
/// When a statistic refuses its input.
pub fn curves(
    results: &Results,
    metric: &Metric,
    rule: Censoring,
) -> Result<Vec<TaskCurves>, AnalysisError> {
    let mut all = Vec::new();
    for task in &results.spec.tasks {
        let mut by_method = Vec::new();
        for method in &results.spec.methods {
            let runs: Vec<Run> = results
                .main()
                .filter(|t| {
                    t.method == method.name && t.task == task.task.name && t.status.finished()
                })
                .filter_map(|t| Run::of(results, t, metric))
                .collect();
            if let Some(curve) = method_curve(&method.name, &runs, metric, rule, results)? {
                by_method.push(curve);
            }
        }
        if !by_method.is_empty() {
            all.push(TaskCurves { task: task.task.name.clone(), curves: by_method });
        }
    }
    Ok(all)
}

/// One trial's points.
struct Run {
    points: Vec<(f64, f64)>,
    finished: bool,
}

impl Run {
    fn of(results: &Results, trial: &TrialRow, metric: &Metric) -> Option<Self> {
        let points: Vec<(f64, f64)> = results
            .points
            .get(&trial.key)?
            .iter()
            .filter(|row| row.point.name == metric.name && row.point.value.0.is_finite())
            .map(|row| (row.point.budget, row.point.value.0))
            .collect();
        (!points.is_empty()).then_some(Self { points, finished: trial.status == Status::Ok })
    }

    /// The value at a budget: missing before the first point, carried forward after the last one of
    /// a finished run, and after the last one of a failed run whatever the rule says.
    fn at(&self, budget: f64, worst: Option<f64>) -> Option<f64> {
        let seen = self.points.iter().take_while(|(b, _)| *b <= budget).last()?;
        let last = self.points.last().map_or(0.0, |(b, _)| *b);
        if self.finished || budget <= last { Some(seen.1) } else { worst }
    }
}

fn method_curve(
    method: &str,
    runs: &[Run],
    metric: &Metric,
    rule: Censoring,
    results: &Results,
) -> Result<Option<MethodCurve>, AnalysisError> {
    let ends = runs.iter().filter_map(|r| r.points.last()).map(|(b, _)| *b);
    let starts = runs.iter().filter_map(|r| r.points.first()).map(|(b, _)| *b);
    let (Some(end), Some(start)) = (ends.max_by(f64::total_cmp), starts.min_by(f64::total_cmp))
    else {
        return Ok(None);
    };
    let worst = match rule {
        Censoring::ExcludeListed => None,
        _ => metric.range.map(|[low, high]| if metric.higher_is_better { low } else { high }),
    };
    let declared = bootstrap_options(&results.spec);
    let options = stats::BootstrapOptions {
        resamples: declared.resamples.min(RESAMPLES as usize),
        ..declared
    };
    let mut grid: Vec<(f64, Scores)> = Vec::new();
    for i in 0..GRID {
        let budget = start + (end - start) * i as f64 / (GRID - 1) as f64;
        let values: Vec<f64> = runs.iter().filter_map(|r| r.at(budget, worst)).collect();
        if values.is_empty() || grid.last().is_some_and(|(b, _)| *b >= budget) {
            continue;
        }
        grid.push((budget, Scores::from_runs(&values)?));
    }
    // The same seed at each grid point draws the same runs, so the band is over whole curves.
    let fits: Vec<_> = grid.iter().map(|(_, scores)| (scores, stats::Aggregate::Iqm)).collect();
    let bands = stats::bootstrap_each(&fits, &options)?;
    let points = grid.iter().map(|(budget, _)| *budget).zip(bands).collect();
    let failed =
        runs.iter().filter(|r| !r.finished).filter_map(|r| r.points.last().copied()).collect();
    Ok(Some(MethodCurve { method: method.to_owned(), points, failed }))
}
