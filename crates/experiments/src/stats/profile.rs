//! Performance profiles of scores, and Dolan-Moré profiles of costs (7.10).
//!
//! Sources: Agarwal et al., `NeurIPS` 2021 (score distributions); Dolan & Moré 2002.

use serde::Serialize;

use super::bootstrap::{BootstrapOptions, Resampling, vector_replicates};
use super::error::{Result, all_finite, need, no_nan, open_unit, out_of_range};
use super::number::quantile_sorted;
use super::scores::{Matrix, Scores};

/// Shares of scores above each threshold, with a pointwise band.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// Thresholds, as given.
    pub taus: Vec<f64>,
    /// Share of runs with `score > tau` (strict).
    pub run_share: Vec<f64>,
    /// Share of tasks with `mean > tau` (strict).
    pub task_share: Vec<f64>,
    /// Lower ends of the pointwise band of `run_share`.
    pub lo: Vec<f64>,
    /// Upper ends.
    pub hi: Vec<f64>,
    /// Level of the band.
    pub level: f64,
}

/// Performance profile with a percentile bootstrap band; higher is better (negate otherwise).
///
/// ```text
/// F(tau) = 1/T sum_t 1/R_t #{r: score_rt > tau}
/// ```
/// With equal run counts this is the pooled share; with unequal ones every task counts the same.
///
/// # Errors
/// [`TooFew`](super::StatError::TooFew) without thresholds,
/// [`NonFinite`](super::StatError::NonFinite), and the errors of the resampling.
pub fn performance_profile(
    scores: &Scores,
    taus: &[f64],
    options: &BootstrapOptions,
) -> Result<Profile> {
    performance_profile_with(scores, taus, &Resampling::Seeded(options), options.level)
}

/// [`performance_profile`] with the indices from either source.
///
/// # Errors
/// As [`performance_profile`].
pub fn performance_profile_with(
    scores: &Scores,
    taus: &[f64],
    resampling: &Resampling<'_>,
    level: f64,
) -> Result<Profile> {
    need("taus", 1, taus.len())?;
    all_finite("taus", taus)?;
    open_unit("level", level)?;
    let mut order: Vec<usize> = (0..taus.len()).collect();
    order.sort_by(|&a, &b| taus[a].total_cmp(&taus[b]));
    let sorted: Vec<f64> = order.iter().map(|&i| taus[i]).collect();
    // passed[t][r]: how many of the ascending thresholds the score exceeds.
    let passed: Vec<Vec<usize>> = scores
        .tasks()
        .map(|task| task.iter().map(|&v| sorted.partition_point(|&tau| tau < v)).collect())
        .collect();

    let share_of = |tasks: &mut dyn Iterator<Item = (usize, &[u32])>| {
        let mut at_level = vec![0.0; sorted.len() + 1];
        let mut n_tasks = 0.0;
        for (t, runs) in tasks {
            let weight = 1.0 / runs.len() as f64;
            for &r in runs {
                at_level[passed[t][r as usize]] += weight;
            }
            n_tasks += 1.0;
        }
        // F at threshold j counts the scores that passed more than j thresholds.
        let mut shares = vec![0.0; sorted.len()];
        let mut above = 0.0;
        for j in (0..sorted.len()).rev() {
            above += at_level[j + 1];
            // Twenty sums of twentieths may end a rounding error above 1.
            shares[j] = (above / n_tasks).min(1.0);
        }
        shares
    };
    let all: Vec<Vec<u32>> = scores.tasks().map(|task| (0..task.len() as u32).collect()).collect();
    let run_share = share_of(&mut all.iter().enumerate().map(|(t, runs)| (t, runs.as_slice())));
    let rows = vector_replicates(scores, resampling, |draw| {
        let mut at = 0;
        share_of(&mut draw.tasks.iter().map(|&t| {
            let n = scores.task(t).len();
            at += n;
            (t, &draw.runs[at - n..at])
        }))
    })?;
    let (lo, hi) = pointwise_band(&rows, sorted.len(), level);

    let means = scores.task_means();
    let back = |ascending: &[f64]| {
        let mut given = vec![0.0; taus.len()];
        for (j, &i) in order.iter().enumerate() {
            given[i] = ascending[j];
        }
        given
    };
    Ok(Profile {
        taus: taus.to_vec(),
        run_share: back(&run_share),
        task_share: taus
            .iter()
            .map(|&tau| means.iter().filter(|&&m| m > tau).count() as f64 / means.len() as f64)
            .collect(),
        lo: back(&lo),
        hi: back(&hi),
        level,
    })
}

/// Percentile band of each column over the rows.
pub(crate) fn pointwise_band(rows: &[Vec<f64>], width: usize, level: f64) -> (Vec<f64>, Vec<f64>) {
    let tail = (1.0 - level) / 2.0;
    let mut column = Vec::with_capacity(rows.len());
    (0..width)
        .map(|j| {
            column.clear();
            column.extend(rows.iter().map(|row| row[j]));
            column.sort_unstable_by(f64::total_cmp);
            (quantile_sorted(&column, tail), quantile_sorted(&column, 1.0 - tail))
        })
        .unzip()
}

/// Ratios to the best solver of each problem, and the share of problems within each factor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DolanMore {
    /// `[P][S]` cost over the best finite cost of the problem; infinite when failed.
    #[serde(serialize_with = "super::number::extended_rows")]
    pub ratio: Vec<Vec<f64>>,
    /// `[S][K]` share of *all* problems, unsolved ones included, with `ratio <= tau`.
    pub rho: Vec<Vec<f64>>,
}

/// Dolan-Moré performance profile.
///
/// ```text
/// r_ps = c_ps / min_s c_ps;   rho_s(tau) = #{p: r_ps <= tau} / P
/// ```
/// * `costs`: `[P problems, S solvers]`, > 0, `+inf` for a failure
/// * `taus`: factors >= 1
///
/// # Errors
/// [`OutOfRange`](super::StatError::OutOfRange) for a cost <= 0,
/// [`NonFinite`](super::StatError::NonFinite) for NaN.
pub fn dolan_more(costs: &Matrix, taus: &[f64]) -> Result<DolanMore> {
    no_nan("costs", costs.values())?;
    no_nan("taus", taus)?;
    if let Some(&bad) = costs.values().iter().find(|&&c| c <= 0.0) {
        return out_of_range("costs", "costs > 0", bad);
    }
    let ratio: Vec<Vec<f64>> = costs
        .iter_rows()
        .map(|row| {
            let best = row.iter().copied().fold(f64::INFINITY, f64::min);
            row.iter().map(|&c| if c.is_finite() { c / best } else { f64::INFINITY }).collect()
        })
        .collect();
    let problems = costs.n_rows() as f64;
    let rho = (0..costs.n_cols())
        .map(|s| {
            taus.iter()
                .map(|&tau| {
                    let within = ratio.iter().filter(|r| r[s].is_finite() && r[s] <= tau).count();
                    within as f64 / problems
                })
                .collect()
        })
        .collect();
    Ok(DolanMore { ratio, rho })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> BootstrapOptions {
        BootstrapOptions { resamples: 1_000, ..Default::default() }
    }

    #[test]
    fn threshold_is_strict_and_order_of_taus_free() {
        let s = Scores::from_runs(&[1.0, 2.0, 3.0, 4.0]).unwrap();
        let p = performance_profile(&s, &[4.0, 2.0, 0.0], &options()).unwrap();
        assert_eq!(p.run_share, [0.0, 0.5, 1.0]);
        assert_eq!(p.task_share, [0.0, 1.0, 1.0]);
    }

    #[test]
    fn unequal_runs_count_tasks_equally() {
        let s = Scores::from_tasks(&[vec![1.0; 9], vec![0.0]]).unwrap();
        let p = performance_profile(&s, &[0.5], &options()).unwrap();
        assert!((p.run_share[0] - 0.5).abs() < 1e-12);
    }

    #[test]
    fn failures_stay_in_the_denominator() {
        let inf = f64::INFINITY;
        let m = Matrix::from_rows(&[[1.0, 2.0], [inf, inf]]).unwrap();
        let d = dolan_more(&m, &[1.0, 2.0, inf]).unwrap();
        assert_eq!(d.rho, [[0.5, 0.5, 0.5], [0.0, 0.5, 0.5]]);
        assert!(serde_json::to_string(&d).unwrap().contains(r#"["inf","inf"]"#));
        assert!(dolan_more(&Matrix::from_rows(&[[0.0]]).unwrap(), &[1.0]).is_err());
    }
}
