//! What the full run will cost, from a pilot (specification, section 6.10).

use super::RunError;
use crate::{
    plan::{PlannedTrial, Stage},
    store::{Store, record::Status},
};
use rand::RngExt;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::Serialize;
use std::collections::BTreeMap;

/// A predicted amount with its 90% bootstrap interval.
#[derive(Copy, Clone, Debug, PartialEq, Serialize)]
pub struct Predicted {
    /// Point prediction.
    pub value: f64,
    /// 5% quantile.
    pub low: f64,
    /// 95% quantile.
    pub high: f64,
}

/// Cost of a full run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Trials of the pilot that were used.
    pub pilot_trials: u64,
    /// Trials of the full run.
    pub trials: u64,
    /// Wall-clock hours with the given number of jobs.
    pub wall_hours: Predicted,
    /// CPU hours.
    pub cpu_hours: Predicted,
    /// Bytes of logs and artifacts; does not scale with the budget.
    pub disk_bytes: Predicted,
    /// Share of pilot trials of each method that did not end `ok`, with their number.
    pub failure_rate: BTreeMap<String, (f64, u64)>,
    /// Cells (method, task) of the full run that the pilot did not have; the mean of the method, or
    /// of everything, stands in for them.
    pub missing_cells: Vec<(String, String)>,
}

/// How the pilot relates to the full run.
#[derive(Copy, Clone, Debug)]
pub struct ForecastOptions {
    /// Full budget divided by the pilot's.
    pub budget_ratio: f64,
    /// Trials at a time in the full run.
    pub jobs: u32,
    /// Bootstrap resamples.
    pub resamples: u32,
    /// Seed of the bootstrap.
    pub seed: u64,
}

#[derive(Copy, Clone, Debug, Default)]
struct Cost {
    wall: f64,
    cpu: f64,
    disk: f64,
}

/// Predicts the cost of `full` from the finished trials of `pilot_stage` in the store. Cost is taken
/// as proportional to the budget, which is pessimistic where start-up dominates.
///
/// # Errors
/// [`RunError::Plan`] when the pilot has no finished trial or the options are not positive numbers;
/// otherwise when the store cannot be read.
pub fn forecast(
    store: &dyn Store,
    pilot_stage: Stage,
    full: &[PlannedTrial],
    root: &std::path::Path,
    options: ForecastOptions,
) -> Result<Forecast, RunError> {
    if !(options.budget_ratio.is_finite() && options.budget_ratio > 0.0) || options.jobs == 0 {
        return Err(RunError::Plan(format!(
            "forecast: expected a positive budget ratio and at least one job, found {} and {}",
            options.budget_ratio, options.jobs
        )));
    }
    let attempts: BTreeMap<_, _> =
        store.attempts()?.into_iter().map(|a| ((a.key.clone(), a.attempt), a)).collect();
    let mut cells: BTreeMap<(String, String), Vec<Cost>> = BTreeMap::new();
    let mut failures: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for row in store.trials()? {
        if row.stage != pilot_stage || row.retired || !row.status.finished() {
            continue;
        }
        let Some(attempt) = attempts.get(&(row.key.clone(), row.attempt)) else { continue };
        let disk = attempt
            .log_path
            .as_ref()
            .and_then(|path| crate::store::backup::size_of(&root.join(path)).ok())
            .unwrap_or(0);
        cells.entry((row.method.clone(), row.task.clone())).or_default().push(Cost {
            wall: attempt.wall_s * options.budget_ratio,
            cpu: (attempt.cpu_user_s + attempt.cpu_sys_s) * options.budget_ratio,
            disk: disk as f64,
        });
        let tally = failures.entry(row.method).or_insert((0, 0));
        tally.0 += u64::from(row.status != Status::Ok);
        tally.1 += 1;
    }
    if cells.is_empty() {
        return Err(RunError::Plan(
            "forecast: expected finished pilot trials, found none; run `exp pilot` first"
                .to_owned(),
        ));
    }
    let mut wanted: BTreeMap<(String, String), u64> = BTreeMap::new();
    for trial in full {
        *wanted.entry((trial.method.clone(), trial.task.clone())).or_insert(0) += 1;
    }
    let missing_cells: Vec<_> =
        wanted.keys().filter(|cell| !cells.contains_key(*cell)).cloned().collect();
    let point = total(&wanted, &means(&cells, |costs| mean(costs.iter().copied())));
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut draws = Vec::with_capacity(options.resamples as usize);
    for _ in 0..options.resamples {
        let drawn = means(&cells, |costs| {
            mean((0..costs.len()).map(|_| costs[rng.random_range(0..costs.len())]))
        });
        draws.push(total(&wanted, &drawn));
    }
    let predict = |of: fn(&Cost) -> f64, scale: f64| -> Predicted {
        let mut values: Vec<f64> = draws.iter().map(|cost| of(cost) * scale).collect();
        values.sort_by(f64::total_cmp);
        let value = of(&point) * scale;
        Predicted {
            value,
            low: quantile(&values, 0.05).unwrap_or(value),
            high: quantile(&values, 0.95).unwrap_or(value),
        }
    };
    Ok(Forecast {
        pilot_trials: cells.values().map(|costs| costs.len() as u64).sum(),
        trials: full.len() as u64,
        wall_hours: predict(|cost| cost.wall, 1.0 / (3600.0 * f64::from(options.jobs))),
        cpu_hours: predict(|cost| cost.cpu, 1.0 / 3600.0),
        disk_bytes: predict(|cost| cost.disk, 1.0),
        failure_rate: failures
            .into_iter()
            .map(|(method, (failed, all))| (method, (failed as f64 / all as f64, all)))
            .collect(),
        missing_cells,
    })
}

fn mean(costs: impl Iterator<Item = Cost>) -> Cost {
    let (mut sum, mut count) = (Cost::default(), 0.0);
    for cost in costs {
        sum = Cost {
            wall: sum.wall + cost.wall,
            cpu: sum.cpu + cost.cpu,
            disk: sum.disk + cost.disk,
        };
        count += 1.0;
    }
    Cost { wall: sum.wall / count, cpu: sum.cpu / count, disk: sum.disk / count }
}

type Means = BTreeMap<(String, String), Cost>;

fn means(
    cells: &BTreeMap<(String, String), Vec<Cost>>,
    mut of: impl FnMut(&[Cost]) -> Cost,
) -> Means {
    cells.iter().map(|(cell, costs)| (cell.clone(), of(costs))).collect()
}

fn total(wanted: &BTreeMap<(String, String), u64>, means: &Means) -> Cost {
    let mut sum = Cost::default();
    for (cell, count) in wanted {
        let cost = means.get(cell).copied().unwrap_or_else(|| {
            let same: Vec<Cost> = means
                .iter()
                .filter(|((method, _), _)| *method == cell.0)
                .map(|(_, cost)| *cost)
                .collect();
            if same.is_empty() { mean(means.values().copied()) } else { mean(same.into_iter()) }
        });
        let count = *count as f64;
        sum.wall += count * cost.wall;
        sum.cpu += count * cost.cpu;
        sum.disk += count * cost.disk;
    }
    sum
}

/// Type 7 quantile of sorted values (specification, section 7.9).
fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let place = last as f64 * q;
    let low = place.floor() as usize;
    let high = (low + 1).min(last);
    Some(sorted[low] + (place - low as f64) * (sorted[high] - sorted[low]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_that_the_pilot_lacked_take_their_method_s_mean() {
        let cell = |method: &str, task: &str| (method.to_owned(), task.to_owned());
        let cost = |wall| Cost { wall, cpu: 0.0, disk: 0.0 };
        let means = BTreeMap::from([
            (cell("a", "s"), cost(1.0)),
            (cell("a", "t"), cost(3.0)),
            (cell("b", "s"), cost(11.0)),
        ]);
        let wanted =
            BTreeMap::from([(cell("a", "s"), 2), (cell("a", "u"), 1), (cell("c", "s"), 1)]);
        assert!((total(&wanted, &means).wall - (2.0 + 2.0 + 5.0)).abs() < 1e-12);
    }

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&[], 0.5), None);
        assert!((quantile(&[1.0, 2.0, 4.0], 0.75).unwrap() - 3.0).abs() < 1e-12);
    }
}
