//! Empirical distribution of hitting times over runs and targets (7.13).
//!
//! Source: Hansen et al., COCO 2016. Runs that never hit stay in the denominator.

use serde::Serialize;

use super::error::{Result, all_finite, degenerate, need, no_nan, out_of_range, same_len};
use super::runtime::{expected_running_time, non_negative};

/// First budget at which each run's best value so far is at or below each target.
///
/// * `evals`, `values`: per run, budgets ascending and the values seen there (minimisation; they
///   need not be monotone)
/// * `targets`: `[K]`
///
/// Returns `[R][K]`, `+inf` for a target that a run never reached.
///
/// # Errors
/// [`LengthMismatch`](super::StatError::LengthMismatch), [`TooFew`](super::StatError::TooFew), [`NonFinite`](super::StatError::NonFinite),
/// [`OutOfRange`](super::StatError::OutOfRange) when budgets do not ascend.
pub fn hitting_times<T: AsRef<[f64]>>(
    evals: &[T],
    values: &[T],
    targets: &[f64],
) -> Result<Vec<Vec<f64>>> {
    need("runs", 1, evals.len())?;
    same_len("values", evals.len(), values.len())?;
    need("targets", 1, targets.len())?;
    no_nan("targets", targets)?;
    evals.iter().zip(values).map(|(e, v)| hits_of_run(e.as_ref(), v.as_ref(), targets)).collect()
}

fn hits_of_run(evals: &[f64], values: &[f64], targets: &[f64]) -> Result<Vec<f64>> {
    same_len("values of a run", evals.len(), values.len())?;
    need("points of a run", 1, evals.len())?;
    all_finite("evals", evals)?;
    no_nan("values", values)?;
    non_negative("evals", evals)?;
    if let Some([before, after]) =
        evals.windows(2).find(|w| w[1] < w[0]).and_then(|w| w.first_chunk::<2>())
    {
        return out_of_range("evals", "ascending budgets", format!("{after} after {before}"));
    }
    Ok(targets
        .iter()
        .map(|&target| {
            // The first value at or below the target is where the running best gets there.
            values.iter().position(|&v| v <= target).map_or(f64::INFINITY, |i| evals[i])
        })
        .collect())
}

/// Result of [`runtime_ecdf`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RuntimeEcdf {
    /// Budgets at which the distribution is read.
    pub grid: Vec<f64>,
    /// Share of all (run, target) pairs with hitting time `<=` the budget.
    pub share: Vec<f64>,
    /// Area under `share` over `log10(budget)`, divided by the length: in [0, 1].
    pub auc: f64,
    /// Expected running time of each target.
    #[serde(serialize_with = "super::number::extended_list")]
    pub ert: Vec<f64>,
}

/// Empirical distribution of hitting times.
///
/// * `hits`: `[R][K]` from [`hitting_times`]
/// * `budgets`: `[R]` budget that each run spent
/// * `grid`: budgets > 0, strictly ascending, at least two
///
/// # Errors
/// [`LengthMismatch`](super::StatError::LengthMismatch), [`TooFew`](super::StatError::TooFew), [`NonFinite`](super::StatError::NonFinite),
/// [`OutOfRange`](super::StatError::OutOfRange).
pub fn runtime_ecdf(hits: &[Vec<f64>], budgets: &[f64], grid: &[f64]) -> Result<RuntimeEcdf> {
    need("runs", 1, hits.len())?;
    same_len("budgets", hits.len(), budgets.len())?;
    let n_targets = hits[0].len();
    need("targets", 1, n_targets)?;
    for run in hits {
        same_len("targets of a run", n_targets, run.len())?;
    }
    check_log_grid(grid)?;
    let mut sorted: Vec<f64> = hits.iter().flatten().copied().collect();
    no_nan("hits", &sorted)?;
    sorted.sort_unstable_by(f64::total_cmp);
    let pairs = sorted.len() as f64;
    let share: Vec<f64> =
        grid.iter().map(|&g| sorted.partition_point(|&h| h <= g) as f64 / pairs).collect();
    let ert = (0..n_targets)
        .map(|k| {
            let of_target: Vec<f64> = hits.iter().map(|run| run[k]).collect();
            Ok(expected_running_time(&of_target, budgets)?.ert)
        })
        .collect::<Result<_>>()?;
    let logs: Vec<f64> = grid.iter().map(|g| g.log10()).collect();
    let auc = trapezoid(&logs, &share) / (logs[logs.len() - 1] - logs[0]);
    Ok(RuntimeEcdf { grid: grid.to_vec(), share, auc, ert })
}

/// Log-spaced targets or budgets from `first` to `last`, both included: fix them in the spec, the
/// same for all methods.
///
/// # Errors
/// [`OutOfRange`](super::StatError::OutOfRange) unless both ends are positive and finite and `2 <= n <= 100000`.
pub fn log_spaced(first: f64, last: f64, n: usize) -> Result<Vec<f64>> {
    if !(first > 0.0 && last > 0.0 && first.is_finite() && last.is_finite()) {
        return out_of_range("first, last", "finite numbers > 0", format!("{first}, {last}"));
    }
    if !(2..=100_000).contains(&n) {
        return out_of_range("n", "2 to 100000", n);
    }
    let (a, b) = (first.ln(), last.ln());
    let mut points: Vec<f64> =
        (0..n).map(|i| (a + (b - a) * i as f64 / (n - 1) as f64).exp()).collect();
    (points[0], points[n - 1]) = (first, last);
    Ok(points)
}

fn check_log_grid(grid: &[f64]) -> Result<()> {
    need("grid", 2, grid.len())?;
    all_finite("grid", grid)?;
    if grid[0] <= 0.0 {
        return out_of_range("grid", "budgets > 0", grid[0]);
    }
    if grid.windows(2).any(|w| w[1] <= w[0]) {
        return degenerate("grid", "budgets must ascend strictly");
    }
    Ok(())
}

/// Area under the polygon through the points.
pub(crate) fn trapezoid(x: &[f64], y: &[f64]) -> f64 {
    x.windows(2).zip(y.windows(2)).map(|(x, y)| (x[1] - x[0]) * f64::midpoint(y[0], y[1])).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_use_the_running_best() {
        let h = hitting_times(&[vec![1.0, 5.0, 9.0]], &[vec![3.0, 1.0, 2.0]], &[2.0, 0.5]).unwrap();
        assert_eq!(h, [[5.0, f64::INFINITY]]);
        let e = runtime_ecdf(&h, &[9.0], &[1.0, 10.0, 100.0]).unwrap();
        assert_eq!(e.share, [0.0, 0.5, 0.5]);
        assert!((e.auc - 0.375).abs() < 1e-12);
        assert_eq!(e.ert, [5.0, f64::INFINITY]);
    }

    #[test]
    fn bad_grids_and_runs() {
        assert!(runtime_ecdf(&[vec![1.0]], &[1.0], &[0.0, 1.0]).is_err());
        assert!(runtime_ecdf(&[vec![1.0]], &[1.0], &[2.0, 1.0]).is_err());
        assert!(hitting_times(&[vec![2.0, 1.0]], &[vec![0.0, 0.0]], &[1.0]).is_err());
        assert!(log_spaced(1.0, 10.0, usize::MAX).is_err());
        assert_eq!(log_spaced(1.0, 100.0, 3).unwrap()[2], 100.0);
    }
}
