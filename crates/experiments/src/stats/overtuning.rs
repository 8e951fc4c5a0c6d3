//! Overtuning and the gap between validation and test (7.12).
//!
//! Source: Schneider, Bischl & Feurer, `AutoML` 2025, definitions 3.1 and 3.2, equations 4 to 8.

use serde::Serialize;

use super::error::{Result, all_finite, need, out_of_range, same_len};

/// Improvements of the incumbent's test error below this are too small to relate to (7.12).
pub const SMALLEST_IMPROVEMENT: f64 = 0.001;

/// One tuning run, evaluation by evaluation. All errors: lower is better.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Overtuning {
    /// Evaluation that holds the smallest validation error so far, the earlier one on ties.
    pub incumbent: Vec<usize>,
    /// Test error of the incumbent.
    pub test_incumbent: Vec<f64>,
    /// `test(inc_t) - min over t' <= t of test(inc_t')`: what later tuning lost.
    pub ot: Vec<f64>,
    /// `ot_t / (test(inc_1) - min over t' <= t of test(inc_t'))`; above 1 the end is worse than
    /// the start. Absent while no incumbent has improved on the first (by more than 1e-12).
    pub relative: Vec<Option<f64>>,
    /// `test(inc_t) - min over t' <= t of test(all t')`: distance to the best configuration seen.
    pub regret: Vec<f64>,
    /// `test(inc_t) - validation(inc_t)`.
    pub meta_overfit: Vec<f64>,
    /// `test(inc_1) - min over all incumbents`: the improvement that the last `relative` relates to.
    pub improvement: f64,
}

/// Overtuning of one run.
///
/// * `val`, `test`: `[T]` errors of the configurations in the order of their evaluation; negate a
///   metric where higher is better
///
/// # Errors
/// [`LengthMismatch`](super::StatError::LengthMismatch), [`TooFew`](super::StatError::TooFew),
/// [`NonFinite`](super::StatError::NonFinite).
pub fn overtuning(val: &[f64], test: &[f64]) -> Result<Overtuning> {
    same_len("test", val.len(), test.len())?;
    need("val", 1, val.len())?;
    all_finite("val", val)?;
    all_finite("test", test)?;
    let n = val.len();
    let mut out = Overtuning {
        incumbent: Vec::with_capacity(n),
        test_incumbent: Vec::with_capacity(n),
        ot: Vec::with_capacity(n),
        relative: Vec::with_capacity(n),
        regret: Vec::with_capacity(n),
        meta_overfit: Vec::with_capacity(n),
        improvement: 0.0,
    };
    let mut inc = 0;
    let (mut best_incumbent, mut best_any) = (f64::INFINITY, f64::INFINITY);
    for t in 0..n {
        if val[t] < val[inc] {
            inc = t;
        }
        best_incumbent = best_incumbent.min(test[inc]);
        best_any = best_any.min(test[t]);
        let lost = test[inc] - best_incumbent;
        let gained = test[0] - best_incumbent;
        out.incumbent.push(inc);
        out.test_incumbent.push(test[inc]);
        out.ot.push(lost);
        out.relative.push((gained > 1e-12).then(|| lost / gained));
        out.regret.push(test[inc] - best_any);
        out.meta_overfit.push(test[inc] - val[inc]);
        out.improvement = gained;
    }
    Ok(out)
}

/// Final relative overtuning over many tuning runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OvertuningSummary {
    /// Runs looked at.
    pub n_runs: usize,
    /// Runs left out because their improvement is below the threshold.
    pub n_excluded: usize,
    /// Final relative overtuning of the others, ascending: the support of their ECDF.
    pub sorted: Vec<f64>,
    /// Share with none at all; absent when every run was left out, as are the next two.
    pub share_none: Option<f64>,
    /// Share above 0.1.
    pub share_above_tenth: Option<f64>,
    /// Share at 1 or above: no better than the first configuration.
    pub share_at_least_one: Option<f64>,
}

/// Summary over runs; those whose improvement is below `smallest` (by default
/// [`SMALLEST_IMPROVEMENT`]) are counted, not related.
///
/// # Errors
/// [`TooFew`](super::StatError::TooFew) without runs,
/// [`OutOfRange`](super::StatError::OutOfRange) for a negative threshold.
pub fn overtuning_summary(runs: &[Overtuning], smallest: f64) -> Result<OvertuningSummary> {
    need("runs", 1, runs.len())?;
    if !(smallest.is_finite() && smallest >= 0.0) {
        return out_of_range("smallest", "a finite number >= 0", smallest);
    }
    let mut sorted: Vec<f64> = runs
        .iter()
        .filter(|run| run.improvement >= smallest)
        .filter_map(|run| run.relative.last().copied().flatten())
        .collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let share = |keep: fn(f64) -> bool| {
        let kept = sorted.iter().filter(|&&v| keep(v)).count();
        (!sorted.is_empty()).then(|| kept as f64 / sorted.len() as f64)
    };
    Ok(OvertuningSummary {
        n_runs: runs.len(),
        n_excluded: runs.len() - sorted.len(),
        share_none: share(|v| v <= 0.0),
        share_above_tenth: share(|v| v > 0.1),
        share_at_least_one: share(|v| v >= 1.0),
        sorted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worse_than_the_start() {
        // Incumbents 0, 1, 2: test .30 -> .20 -> .35.
        let o = overtuning(&[0.5, 0.4, 0.3], &[0.30, 0.20, 0.35]).unwrap();
        assert_eq!(o.incumbent, [0, 1, 2]);
        assert!((o.relative[2].unwrap() - 1.5).abs() < 1e-12);
        assert_eq!(o.relative[0], None);
    }

    #[test]
    fn summary_counts_what_it_leaves_out() {
        let bad = overtuning(&[0.5, 0.4, 0.3], &[0.30, 0.20, 0.35]).unwrap();
        let fine = overtuning(&[0.5, 0.4], &[0.30, 0.20]).unwrap();
        let flat = overtuning(&[0.5, 0.6], &[0.30, 0.20]).unwrap();
        let s = overtuning_summary(&[bad, fine, flat.clone()], SMALLEST_IMPROVEMENT).unwrap();
        assert_eq!((s.n_runs, s.n_excluded), (3, 1));
        assert_eq!((s.share_none, s.share_at_least_one), (Some(0.5), Some(0.5)));
        let none = overtuning_summary(&[flat], SMALLEST_IMPROVEMENT).unwrap();
        assert_eq!(none.share_none, None);
    }
}
