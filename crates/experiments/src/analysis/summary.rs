//! One number with its interval: per method over all tasks, and per method and task (A1, A6).

use super::{AnalysisError, results::Table};
use crate::{
    spec::{self, Resolved},
    stats::{self, BootstrapOptions, Interval, IntervalMethod, Scores},
};
use serde::Serialize;

/// A method's results.
#[derive(Clone, Debug, Serialize)]
pub struct MethodSummary {
    /// Method.
    pub method: String,
    /// Over the tasks on which every method has a value, by aggregate; the declared one first.
    pub overall: Vec<(String, Interval)>,
    /// On each task, `None` where the method has no value.
    pub per_task: Vec<Option<Interval>>,
    /// Runs behind the overall numbers.
    pub runs: usize,
    /// Trials that failed.
    pub failed: usize,
    /// Whether the method is not told apart from the best one (interval of the paired difference
    /// includes zero).
    pub among_best: bool,
}

/// Bootstrap options as the spec declares them.
pub fn bootstrap_options(spec: &Resolved) -> BootstrapOptions {
    let ci = &spec.analysis.ci;
    BootstrapOptions {
        resamples: ci.resamples as usize,
        seed: ci.seed,
        level: ci.level,
        method: match ci.method {
            spec::IntervalMethod::Percentile => IntervalMethod::Percentile,
            spec::IntervalMethod::Basic => IntervalMethod::Basic,
            spec::IntervalMethod::Bca => IntervalMethod::Bca,
            spec::IntervalMethod::Expanded => IntervalMethod::Expanded,
        },
        resample_tasks: spec.analysis.task_bootstrap,
    }
}

/// The declared aggregate.
pub fn aggregate(spec: &Resolved) -> stats::Aggregate {
    match spec.analysis.aggregate {
        spec::Aggregate::Iqm => stats::Aggregate::Iqm,
        spec::Aggregate::Mean => stats::Aggregate::Mean,
        spec::Aggregate::Median => stats::Aggregate::Median,
        spec::Aggregate::OptimalityGap => stats::Aggregate::OptimalityGap { gamma: 1.0 },
    }
}

/// All aggregates that are shown, the declared one first.
pub fn aggregates(spec: &Resolved) -> Vec<stats::Aggregate> {
    let declared = aggregate(spec);
    let mut all = vec![declared];
    for other in [stats::Aggregate::Iqm, stats::Aggregate::Median, stats::Aggregate::Mean] {
        if other != declared {
            all.push(other);
        }
    }
    all
}

/// Whether a larger aggregate means a better method. The optimality gap falls as scores rise.
pub(crate) fn larger_is_better(table: &Table, spec: &Resolved) -> bool {
    let gap = spec.analysis.aggregate == spec::Aggregate::OptimalityGap;
    table.metric.higher_is_better != gap
}

/// In which units a difference is taken.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Units of the metric: what a smallest effect of interest is stated in.
    Metric,
    /// Normalised where the spec says how, as in the tables.
    Declared,
}

/// Scores of a method over the given tasks, normalised when the spec says how.
///
/// # Errors
/// When a task has no value.
pub fn scores(
    table: &Table,
    spec: &Resolved,
    method: usize,
    tasks: &[usize],
) -> Result<Scores, AnalysisError> {
    let columns: Vec<Vec<f64>> = tasks
        .iter()
        .map(|t| {
            let bounds = bounds(table, spec, *t);
            table.runs(method, *t).iter().map(|v| normalised(*v, bounds)).collect()
        })
        .collect();
    Ok(Scores::from_tasks(&columns)?)
}

/// `(v - low) / (high - low)` inside the declared bounds; unchanged without bounds.
pub(crate) fn normalised(value: f64, bounds: Option<[f64; 2]>) -> f64 {
    match bounds {
        Some([low, high]) if high > low => (value - low) / (high - low),
        _ => value,
    }
}

/// Bounds of a task: as declared, or as observed when the spec asks for that (flagged by A10).
pub(crate) fn bounds(table: &Table, spec: &Resolved, task: usize) -> Option<[f64; 2]> {
    let rule = spec.analysis.normalise.as_ref()?;
    match rule.kind {
        spec::NormaliseKind::Fixed => rule.bounds.get(&table.tasks[task]).copied(),
        spec::NormaliseKind::Observed => {
            let seen = table.cells.iter().flat_map(|by_task| by_task[task].iter().map(|o| o.value));
            let low = seen.clone().min_by(f64::total_cmp)?;
            let high = seen.max_by(f64::total_cmp)?;
            Some([low, high])
        }
    }
}

/// Summaries of all methods in the order of the spec.
///
/// # Errors
/// When a statistic refuses its input.
pub fn summaries(table: &Table, spec: &Resolved) -> Result<Vec<MethodSummary>, AnalysisError> {
    let options = bootstrap_options(spec);
    let tasks = table.complete_tasks();
    let mut all = Vec::new();
    for (m, method) in table.methods.iter().enumerate() {
        let mut overall = Vec::new();
        let mut runs = 0;
        if !tasks.is_empty() {
            let scores = scores(table, spec, m, &tasks)?;
            runs = scores.n_values();
            let fits: Vec<_> =
                aggregates(spec).into_iter().map(|a| (&scores, a.for_scores(&scores))).collect();
            let intervals = stats::bootstrap_each(&fits, &options)?;
            overall.extend(fits.iter().map(|(_, a)| a.name().to_owned()).zip(intervals));
        }
        let mut with_runs = Vec::new();
        for t in 0..table.tasks.len() {
            let runs = table.runs(m, t);
            if !runs.is_empty() {
                with_runs.push((t, Scores::from_runs(&runs)?));
            }
        }
        let fits: Vec<_> =
            with_runs.iter().map(|(_, s)| (s, aggregate(spec).for_scores(s))).collect();
        let mut per_task = vec![None; table.tasks.len()];
        for ((t, _), interval) in with_runs.iter().zip(stats::bootstrap_each(&fits, &options)?) {
            per_task[*t] = Some(interval);
        }
        all.push(MethodSummary {
            method: method.clone(),
            overall,
            per_task,
            runs,
            failed: table.failed[m],
            among_best: false,
        });
    }
    mark_best(table, spec, &tasks, &mut all)?;
    Ok(all)
}

/// Marks the best method and all that it is not told apart from: a single bold number would claim
/// more than the intervals do.
fn mark_best(
    table: &Table,
    spec: &Resolved,
    tasks: &[usize],
    all: &mut [MethodSummary],
) -> Result<(), AnalysisError> {
    let higher = larger_is_better(table, spec);
    let point = |s: &MethodSummary| s.overall.first().map(|(_, i)| i.point);
    let points: Vec<(usize, f64)> =
        all.iter().enumerate().filter_map(|(i, s)| point(s).map(|p| (i, p))).collect();
    let best = points.iter().max_by(|a, b| {
        let order = a.1.total_cmp(&b.1);
        if higher { order } else { order.reverse() }
    });
    let Some((best, _)) = best.copied() else { return Ok(()) };
    for (m, _) in points {
        all[m].among_best = m == best || {
            let difference = paired_interval(table, spec, best, m, tasks, Scale::Declared)?;
            difference.is_some_and(|d| d.lo <= 0.0 && d.hi >= 0.0)
        };
    }
    Ok(())
}

/// Interval of `aggregate(first) - aggregate(second)` over repetitions that both methods have,
/// resampled jointly (common random numbers); `None` when they share no repetition.
///
/// # Errors
/// When a statistic refuses its input.
pub fn paired_interval(
    table: &Table,
    spec: &Resolved,
    first: usize,
    second: usize,
    tasks: &[usize],
    scale: Scale,
) -> Result<Option<Interval>, AnalysisError> {
    let mut columns = (Vec::new(), Vec::new());
    for t in tasks {
        let bounds = bounds(table, spec, *t).filter(|_| scale == Scale::Declared);
        let (a, b) = table.paired(first, second, *t);
        if a.is_empty() {
            continue;
        }
        columns.0.push(a.iter().map(|v| normalised(*v, bounds)).collect::<Vec<f64>>());
        columns.1.push(b.iter().map(|v| normalised(*v, bounds)).collect::<Vec<f64>>());
    }
    if columns.0.is_empty() {
        return Ok(None);
    }
    let (x, y) = (Scores::from_tasks(&columns.0)?, Scores::from_tasks(&columns.1)?);
    let fit = aggregate(spec).for_scores(&x);
    Ok(Some(stats::paired_difference(&x, &y, &fit, &bootstrap_options(spec))?))
}
