//! What a plan will cost: from its limits, and from a pilot (specification, section 6.10).

use super::{PlannedTrial, below, generator};
use crate::spec::Resolved;
use serde::Serialize;
use std::collections::BTreeMap;

/// The most that a plan can cost before its limits end it.
#[derive(Copy, Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Trials.
    pub trials: u64,
    /// Wall seconds when every trial meets its wall limit, with `jobs` at a time.
    pub wall_s: f64,
    /// CPU seconds when every trial uses all its threads until its limit.
    pub cpu_s: f64,
    /// Memory in MiB that `jobs` trials may hold at once, when a limit is declared.
    pub memory_mib: Option<u64>,
}

impl Cost {
    /// Upper bound from the limits of the spec.
    pub fn bound(spec: &Resolved, trials: usize, jobs: u32) -> Self {
        let jobs = jobs.max(1);
        let budget = &spec.budget;
        let wall = budget.wall_seconds + budget.grace_seconds;
        let threads_limit = wall * f64::from(budget.threads);
        let cpu = budget.cpu_seconds.map_or(threads_limit, |limit| limit.min(threads_limit));
        Self {
            trials: trials as u64,
            wall_s: (trials as f64 / f64::from(jobs)).ceil() * wall,
            cpu_s: trials as f64 * cpu,
            memory_mib: budget.memory_mib.map(|mib| mib * u64::from(jobs)),
        }
    }
}

/// One finished pilot trial.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// Method.
    pub method: String,
    /// Task.
    pub task: String,
    /// Wall seconds.
    pub wall_s: f64,
    /// CPU seconds.
    pub cpu_s: f64,
    /// Bytes that it left on disk.
    pub disk_bytes: u64,
    /// Whether it ended `ok`.
    pub ok: bool,
}

/// Predicted cost of a plan with a 90% bootstrap interval `[low, high]` each.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Trials.
    pub trials: u64,
    /// Wall seconds, with `jobs` at a time.
    pub wall_s: [f64; 3],
    /// CPU seconds.
    pub cpu_s: [f64; 3],
    /// Bytes on disk.
    pub disk_bytes: [f64; 3],
    /// Share of failed pilot trials by method.
    pub failure_rate: BTreeMap<String, f64>,
    /// Pairs of method and task without a pilot trial, costed by the mean over all.
    pub unseen: Vec<(String, String)>,
}

/// Extrapolates pilot trials to a plan: mean cost of the same method and task, times `scale` (the
/// ratio of the budgets). Start-up time is scaled as well, so a long run is rather over- than
/// under-estimated.
///
/// Numbers come as `[low, mean, high]`; the interval resamples the pilot trials of each method and
/// task. `None` without any pilot trial.
pub fn forecast(
    plan: &[PlannedTrial],
    pilot: &[Observed],
    scale: f64,
    jobs: u32,
    resamples: u32,
) -> Option<Forecast> {
    if pilot.is_empty() {
        return None;
    }
    let mut groups: BTreeMap<(&str, &str), Vec<&Observed>> = BTreeMap::new();
    for run in pilot {
        groups.entry((&run.method, &run.task)).or_default().push(run);
    }
    let mut wanted: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for trial in plan {
        *wanted.entry((&trial.method, &trial.task)).or_default() += 1;
    }
    let everything: Vec<&Observed> = pilot.iter().collect();

    // totals of wall, CPU and disk, where `pick(i, n)` names the pilot run that stands for run i
    let total = |pick: &mut dyn FnMut(usize, usize) -> usize| {
        let mut sums = [0.0; 3];
        for (key, count) in &wanted {
            let runs = groups.get(key).unwrap_or(&everything);
            let share = *count as f64 * scale / runs.len() as f64;
            for i in 0..runs.len() {
                let run = runs[pick(i, runs.len())];
                sums[0] += share * run.wall_s / f64::from(jobs.max(1));
                sums[1] += share * run.cpu_s;
                // files do not grow with the budget in a known way; curves do, so they are scaled
                sums[2] += share * run.disk_bytes as f64;
            }
        }
        sums
    };
    let centre = total(&mut |i, _| i);
    let mut rng = generator("forecast/v1\n");
    let mut draws: Vec<[f64; 3]> = (0..resamples.max(1))
        .map(|_| total(&mut |_, n| below(&mut rng, n as u64) as usize))
        .collect();
    let mut interval = |column: usize| {
        draws.sort_by(|a, b| a[column].total_cmp(&b[column]));
        let at = |share: f64| draws[((draws.len() - 1) as f64 * share).round() as usize][column];
        [at(0.05), centre[column], at(0.95)]
    };
    let mut tally: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for run in pilot {
        let entry = tally.entry(run.method.clone()).or_default();
        entry.0 += u64::from(!run.ok);
        entry.1 += 1;
    }
    Some(Forecast {
        trials: plan.len() as u64,
        wall_s: interval(0),
        cpu_s: interval(1),
        disk_bytes: interval(2),
        failure_rate: tally
            .into_iter()
            .map(|(method, (failed, all))| (method, failed as f64 / all as f64))
            .collect(),
        unseen: wanted
            .keys()
            .filter(|key| !groups.contains_key(*key))
            .map(|(method, task)| ((*method).to_owned(), (*task).to_owned()))
            .collect(),
    })
}
