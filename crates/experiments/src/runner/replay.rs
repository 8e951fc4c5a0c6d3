//! A finished trial again, to see whether it repeats (specification, section 6.11).

use super::{
    RunError, RunPlan, limits,
    process::{self, Executed, Job},
    schedule::Slot,
};
use crate::{
    store::{
        Store,
        record::{AttemptRecord, Claim, Status, TrialRow},
    },
    trial::Request,
};
use serde::Serialize;
use std::{path::Path, sync::atomic::AtomicU8};

/// How one metric compares. The values themselves are not shown: they may be sealed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReplayedMetric {
    /// Metric name.
    pub name: String,
    /// Its split.
    pub split: String,
    /// Same bits.
    pub identical: bool,
    /// Within the tolerance.
    pub within: bool,
    /// `|new - old| / max(|old|, tiny)`; `None` when one is missing or not finite.
    pub relative_difference: Option<f64>,
}

/// Outcome of a replay.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReplayFacts {
    /// State of the stored attempt.
    pub before: Status,
    /// State of the new one.
    pub after: Status,
    /// Every metric of either.
    pub metrics: Vec<ReplayedMetric>,
    /// Curve points are identical bit by bit, wall time aside.
    pub points_identical: bool,
}

impl ReplayFacts {
    /// Same state and every metric within tolerance.
    pub fn agrees(&self) -> bool {
        self.before == self.after && self.metrics.iter().all(|metric| metric.within)
    }
}

/// Runs the finished trial `row` again with the same request, in `scratch`, and compares it with
/// the attempt that counts. The store is only read.
///
/// # Errors
/// [`RunError::Plan`] when the trial is not finished; otherwise when it cannot be started.
pub fn replay(
    store: &dyn Store,
    plan: &RunPlan,
    row: &TrialRow,
    tolerance: f64,
    scratch: &Path,
) -> Result<ReplayFacts, RunError> {
    let stored = store
        .full_attempts(&row.key)?
        .into_iter()
        .find(|attempt| attempt.attempt == row.attempt && row.status.finished())
        .ok_or_else(|| RunError::Plan(format!("trial {}: expected a finished trial", row.key.0)))?;
    let mut plan = plan.clone();
    plan.root = std::path::absolute(scratch).map_err(|error| RunError::io(scratch, &error))?;
    let claim = Claim { trial: row.clone(), attempt: row.attempt, owner: "replay".to_owned() };
    let cgroup = limits::own_cgroup();
    let job = Job {
        plan: &plan,
        claim: &claim,
        session_id: "replay",
        slot: &Slot::default(),
        cgroup: cgroup.as_deref(),
        cancel: &AtomicU8::new(process::GO_ON),
    };
    match process::execute(&job)? {
        Executed::Finished(again) => Ok(compare(&stored, &again, tolerance)),
        Executed::Stopped => Err(RunError::Plan("the replay was stopped".to_owned())),
    }
}

fn compare(stored: &AttemptRecord, again: &AttemptRecord, tolerance: f64) -> ReplayFacts {
    let find = |attempt: &AttemptRecord, name: &str, split: &str| {
        attempt
            .metrics
            .iter()
            .find(|metric| metric.name == name && metric.split == split)
            .map(|metric| metric.value.0)
    };
    let mut names: Vec<(&str, &str)> = stored
        .metrics
        .iter()
        .chain(&again.metrics)
        .map(|metric| (metric.name.as_str(), metric.split.as_str()))
        .collect();
    names.sort_unstable();
    names.dedup();
    let metrics = names
        .into_iter()
        .map(|(name, split)| {
            let (old, new) = (find(stored, name, split), find(again, name, split));
            let identical = match (old, new) {
                // Every NaN is the same value here; its payload means nothing.
                (Some(old), Some(new)) => {
                    old.to_bits() == new.to_bits() || (old.is_nan() && new.is_nan())
                }
                _ => false,
            };
            let relative_difference = match (old, new) {
                (Some(old), Some(new)) if old.is_finite() && new.is_finite() => {
                    Some((new - old).abs() / old.abs().max(f64::MIN_POSITIVE))
                }
                _ => None,
            };
            let within = identical || relative_difference.is_some_and(|d| d <= tolerance);
            ReplayedMetric {
                name: name.to_owned(),
                split: split.to_owned(),
                identical,
                within,
                relative_difference,
            }
        })
        .collect();
    let points_identical = stored.points.len() == again.points.len()
        && stored.points.iter().zip(&again.points).all(|(old, new)| {
            old.name == new.name
                && old.step == new.step
                && old.budget.to_bits() == new.budget.to_bits()
                && (old.value.0.to_bits() == new.value.0.to_bits()
                    || (old.value.0.is_nan() && new.value.0.is_nan()))
        });
    ReplayFacts { before: stored.status, after: again.status, metrics, points_identical }
}

/// What `exp shell KEY` prints: the request, and the command that a debugger can be put before.
pub fn shell(plan: &RunPlan, row: &TrialRow, folder: &Path) -> (Request, String) {
    let claim = Claim { trial: row.clone(), attempt: row.attempt.max(1), owner: String::new() };
    let request = process::request(plan, &claim, folder);
    let command = process::command(plan, &Slot::default(), folder, "shell");
    let mut words: Vec<String> = vec!["env".to_owned()];
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(quote(&format!("{}={}", name.to_string_lossy(), value.to_string_lossy())));
        }
    }
    words.push(quote(&command.get_program().to_string_lossy()));
    words.extend(command.get_args().map(|word| quote(&word.to_string_lossy())));
    let text =
        format!("{} < {}", words.join(" "), quote(&folder.join("request.json").to_string_lossy()));
    (request, text)
}

/// A word as the shell reads it back.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn words_survive_the_shell() {
        assert_eq!(quote("/a/b-c=1"), "/a/b-c=1");
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("it's"), "'it'\\''s'");
        assert_eq!(quote(""), "''");
    }
}
