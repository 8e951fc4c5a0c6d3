//! One number for many runs on many tasks (7.8).
//!
//! Source: Agarwal et al., `NeurIPS` 2021 (interquartile mean, optimality gap).

use serde::{Deserialize, Serialize};

use super::error::{Result, all_finite};
use super::number::{mean, median_in_place, sum};
use super::scores::Scores;

/// A way to aggregate [`Scores`] into one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aggregate {
    /// Mean of the per-task means.
    Mean,
    /// Median of the per-task means (not of all runs).
    Median,
    /// Interquartile mean: pool all values, drop `floor(N/4)` at each end, mean of the rest.
    /// On tasks of unequal run counts the pool would weight tasks by their runs; see
    /// [`Aggregate::for_scores`].
    #[default]
    Iqm,
    /// Interquartile mean with weight `1/(R_t T)` per value and fractional trimming of a quarter
    /// of the weight at each end, so that every task counts the same.
    IqmBalanced,
    /// `gamma - mean(min(score, gamma))`: by how much the scores miss the target `gamma`.
    OptimalityGap {
        /// The score regarded as solved; 1 for normalised scores.
        gamma: f64,
    },
}

impl Aggregate {
    /// The aggregate that is fit for these scores: [`Iqm`](Self::Iqm) becomes
    /// [`IqmBalanced`](Self::IqmBalanced) on unequal run counts, which the caller should note.
    #[must_use]
    pub fn for_scores(self, scores: &Scores) -> Self {
        match self {
            Self::Iqm if scores.equal_runs().is_none() => Self::IqmBalanced,
            other => other,
        }
    }

    /// Its name, as in the experiment file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Median => "median",
            Self::Iqm => "iqm",
            Self::IqmBalanced => "iqm-balanced",
            Self::OptimalityGap { .. } => "optimality-gap",
        }
    }

    /// The aggregate of `scores`. Total: [`Scores`] hold at least one finite value per task.
    pub fn of(self, scores: &Scores) -> f64 {
        self.of_with(scores, &mut Vec::new())
    }

    pub(crate) fn of_with(self, scores: &Scores, scratch: &mut Vec<f64>) -> f64 {
        scratch.clear();
        match self {
            Self::Mean => {
                scratch.extend(scores.tasks().map(mean));
                mean(scratch)
            }
            Self::Median => {
                scratch.extend(scores.tasks().map(mean));
                median_in_place(scratch)
            }
            Self::Iqm => {
                scratch.extend_from_slice(scores.values());
                iqm_in_place(scratch)
            }
            Self::IqmBalanced => balanced(scores),
            Self::OptimalityGap { gamma } => {
                scratch.extend(scores.tasks().map(|task| {
                    task.iter().map(|&v| v.min(gamma)).sum::<f64>() / task.len() as f64
                }));
                gamma - mean(scratch)
            }
        }
    }

    /// Aggregate of one task's runs: what the tests across tasks see (7.1).
    ///
    /// # Errors
    /// [`TooFew`](super::StatError::TooFew), [`NonFinite`](super::StatError::NonFinite).
    pub fn of_runs(self, runs: &[f64]) -> Result<f64> {
        Ok(self.of(&Scores::from_runs(runs)?))
    }
}

/// Interquartile mean of a list: drop `floor(n/4)` values at each end, mean of the rest.
/// Fewer than four values: the plain mean.
///
/// # Errors
/// [`TooFew`](super::StatError::TooFew) when empty, [`NonFinite`](super::StatError::NonFinite).
///
/// ```
/// assert_eq!(experiments::stats::iqm(&[100.0, 1.0, 2.0, 3.0]).unwrap(), 2.5);
/// ```
pub fn iqm(values: &[f64]) -> Result<f64> {
    super::error::need("values", 1, values.len())?;
    all_finite("values", values)?;
    Ok(iqm_in_place(&mut values.to_vec()))
}

/// Reorders its argument.
pub(crate) fn iqm_in_place(values: &mut [f64]) -> f64 {
    let n = values.len();
    let cut = n / 4;
    let mut kept = values;
    if cut > 0 {
        // Two selections instead of a sort: this is the inner loop of every bootstrap.
        kept.select_nth_unstable_by(cut, f64::total_cmp);
        kept = &mut kept[cut..];
        let keep = n - 2 * cut;
        kept.select_nth_unstable_by(keep, f64::total_cmp);
        kept = &mut kept[..keep];
    }
    sum(kept) / kept.len() as f64
}

fn balanced(scores: &Scores) -> f64 {
    let n_tasks = scores.n_tasks() as f64;
    let mut weighted: Vec<(f64, f64)> = scores
        .tasks()
        .flat_map(|task| {
            let weight = 1.0 / (task.len() as f64 * n_tasks);
            task.iter().map(move |&v| (v, weight))
        })
        .collect();
    weighted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut before, mut total, mut mass) = (0.0, 0.0, 0.0);
    for (value, weight) in weighted {
        let after = before + weight;
        let inside = (f64::min(after, 0.75) - f64::max(before, 0.25)).max(0.0);
        total += inside * value;
        mass += inside;
        before = after;
    }
    total / mass
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iqm_drops_the_floor_of_a_quarter() {
        assert_eq!(iqm(&[9.0, 1.0, 5.0]).unwrap(), 5.0);
        assert_eq!(iqm(&[0.0, 1.0, 2.0, 3.0, 100.0]).unwrap(), 2.0);
        assert_eq!(iqm(&[8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]).unwrap(), 4.5);
    }

    #[test]
    fn median_is_of_task_means() {
        let s = Scores::from_tasks(&[vec![0.0, 10.0], vec![1.0, 1.0], vec![2.0, 2.0]]).unwrap();
        assert_eq!(Aggregate::Median.of(&s), 2.0);
    }

    #[test]
    fn balanced_iqm_ignores_how_often_a_task_ran() {
        let once = Scores::from_tasks(&[vec![0.0], vec![1.0], vec![2.0], vec![3.0]]).unwrap();
        let often = Scores::from_tasks(&[vec![0.0; 40], vec![1.0], vec![2.0], vec![3.0]]).unwrap();
        assert_eq!(Aggregate::Iqm.for_scores(&often), Aggregate::IqmBalanced);
        assert_eq!(Aggregate::Iqm.for_scores(&once), Aggregate::Iqm);
        let (a, b) = (Aggregate::IqmBalanced.of(&once), Aggregate::IqmBalanced.of(&often));
        assert!((a - 1.5).abs() < 1e-12 && (a - b).abs() < 1e-12);
        assert!(Aggregate::Iqm.of(&often) < 0.1);
    }

    #[test]
    fn gap_counts_only_what_is_missing() {
        let s = Scores::from_tasks(&[vec![0.5, 2.0]]).unwrap();
        assert_eq!(Aggregate::OptimalityGap { gamma: 1.0 }.of(&s), 0.25);
    }
}
