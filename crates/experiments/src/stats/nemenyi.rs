//! Nemenyi's critical difference, its pairwise p-values, and the bars of a critical-difference
//! diagram (7.6).

use serde::Serialize;

use super::error::{Result, all_finite, need};
use super::studentized_range::{range_quantile, range_sf};

/// `q_alpha = quantile of the range of k normals / sqrt(2)`, as in Demšar's table 5.
///
/// # Errors
/// [`OutOfRange`](super::StatError::OutOfRange) for `k` outside 2..=10000 or `alpha` outside (0, 1).
pub fn nemenyi_q(k: usize, alpha: f64) -> Result<f64> {
    Ok(range_quantile(alpha, k)? / std::f64::consts::SQRT_2)
}

/// `CD = q_alpha sqrt(k(k+1) / (6n))`: mean ranks further apart differ at `alpha`.
///
/// # Errors
/// As [`nemenyi_q`]; [`TooFew`](super::StatError::TooFew) when `n` is 0.
///
/// ```
/// let cd = experiments::stats::critical_difference(2, 25, 0.05).unwrap();
/// assert!((cd - 1.959_964 / 5.0).abs() < 1e-6);
/// ```
pub fn critical_difference(k: usize, n: usize, alpha: f64) -> Result<f64> {
    need("blocks", 1, n)?;
    Ok(nemenyi_q(k, alpha)? * rank_error(k, n))
}

/// p-values of all pairs, `[k][k]`, symmetric with ones on the diagonal.
///
/// # Errors
/// [`TooFew`](super::StatError::TooFew), [`NonFinite`](super::StatError::NonFinite).
pub fn nemenyi_p(mean_ranks: &[f64], n: usize) -> Result<Vec<Vec<f64>>> {
    let k = mean_ranks.len();
    need("mean_ranks", 2, k)?;
    need("blocks", 1, n)?;
    all_finite("mean_ranks", mean_ranks)?;
    let scale = std::f64::consts::SQRT_2 / rank_error(k, n);
    let mut p = vec![vec![1.0; k]; k];
    for i in 1..k {
        for j in 0..i {
            p[i][j] = range_sf((mean_ranks[i] - mean_ranks[j]).abs() * scale, k)?;
            p[j][i] = p[i][j];
        }
    }
    Ok(p)
}

fn rank_error(k: usize, n: usize) -> f64 {
    let k = k as f64;
    (k * (k + 1.0) / (6.0 * n as f64)).sqrt()
}

/// A bar of a critical-difference diagram: inclusive positions in rank order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bar {
    /// Position of the best treatment under the bar.
    pub first: usize,
    /// Position of the worst.
    pub last: usize,
}

/// Treatments from best to worst mean rank; equal ranks keep their input order.
pub fn rank_order(mean_ranks: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..mean_ranks.len()).collect();
    order.sort_by(|&a, &b| mean_ranks[a].total_cmp(&mean_ranks[b]));
    order
}

/// Nemenyi bars: the maximal runs of treatments whose ranks lie within `cd` of each other.
/// Computed whether or not the Friedman test rejects; rule 7.1 belongs to the caller.
///
/// # Errors
/// [`NonFinite`](super::StatError::NonFinite).
pub fn nemenyi_bars(mean_ranks: &[f64], cd: f64) -> Result<Vec<Bar>> {
    all_finite("mean_ranks", mean_ranks)?;
    all_finite("cd", &[cd])?;
    let order = rank_order(mean_ranks);
    Ok(maximal_runs(order.len(), |i, j| mean_ranks[order[j]] - mean_ranks[order[i]] <= cd))
}

/// Maximal runs `first..=last` of length >= 2 in which `joined(first, last)` holds, where
/// `joined` can only turn false as the run grows.
pub(crate) fn maximal_runs(n: usize, joined: impl Fn(usize, usize) -> bool) -> Vec<Bar> {
    let mut bars: Vec<Bar> = Vec::new();
    for first in 0..n {
        let last = (first + 1..n).take_while(|&j| joined(first, j)).last().unwrap_or(first);
        let covered = bars.last().is_some_and(|bar| bar.last >= last);
        if last > first && !covered {
            bars.push(Bar { first, last });
        }
    }
    bars
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_maximal() {
        let bars = nemenyi_bars(&[4.0, 3.0, 2.0, 1.0], 1.5).unwrap();
        let got: Vec<_> = bars.iter().map(|b| (b.first, b.last)).collect();
        assert_eq!(got, [(0, 1), (1, 2), (2, 3)]);
        assert!(nemenyi_bars(&[1.0, 3.0], 1.0).unwrap().is_empty());
    }

    #[test]
    fn sqrt_two_is_in_the_table_value() {
        assert!((nemenyi_q(2, 0.05).unwrap() - 1.96).abs() < 1e-4);
        assert!((nemenyi_q(10, 0.05).unwrap() - 3.1637).abs() < 1e-4);
        assert!((nemenyi_q(20, 0.01).unwrap() - 3.9918).abs() < 1e-4);
    }
}
