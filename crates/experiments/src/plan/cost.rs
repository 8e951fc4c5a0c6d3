//! What a plan can cost at most, from its limits alone. What it will cost is known after a pilot.

use crate::spec::Resolved;
use serde::Serialize;

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
