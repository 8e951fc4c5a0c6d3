//! Confidence intervals from bootstrap replicates: percentile, basic and BCa (7.9).

use serde::{Deserialize, Serialize};

use super::error::{Result, all_finite, degenerate, need, open_unit};
use super::number::{normal_cdf, normal_ppf, quantile_sorted, student_ppf};

/// Kind of bootstrap interval.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IntervalMethod {
    /// `[Q(a/2), Q(1-a/2)]` of the replicates.
    #[default]
    Percentile,
    /// `[2s - Q(1-a/2), 2s - Q(a/2)]`.
    Basic,
    /// Bias-corrected and accelerated.
    Bca,
    /// Percentile interval at levels widened for small samples (Hesterberg 2015); covers best of
    /// the four for few runs, see the table in [the module](crate::stats).
    Expanded,
}

/// What a reader must know about an interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IntervalFlag {
    /// One run: the interval is a point and says nothing. Draw a hollow point without a bar.
    Uninformative,
    /// Fewer than five runs on a task: a resample can take few values, the interval is too short.
    FewRuns,
    /// The method was undefined on these data; this is the percentile interval.
    FallbackPercentile,
    /// All replicates agree: the interval is the point.
    ZeroVariance,
}

/// A point estimate with its interval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Interval {
    /// The statistic on the data.
    pub point: f64,
    /// Lower end.
    pub lo: f64,
    /// Upper end.
    pub hi: f64,
    /// Confidence level.
    pub level: f64,
    /// Method asked for; a fallback is flagged.
    pub method: IntervalMethod,
    /// Number of replicates.
    pub resamples: usize,
    /// Seed of the replicates; absent when indices were given.
    pub seed: Option<u64>,
    /// Number of tasks.
    pub n_tasks: usize,
    /// Smallest run count of a task.
    pub min_runs: usize,
    /// Values over all tasks.
    pub n_values: usize,
    /// Bias correction and acceleration, for BCa that did not fall back.
    pub bca: Option<BcaTerms>,
    /// Warnings.
    pub flags: Vec<IntervalFlag>,
}

impl Interval {
    /// Whether the warning is set.
    pub fn has(&self, flag: IntervalFlag) -> bool {
        self.flags.contains(&flag)
    }

    /// Half of the width.
    pub fn half_width(&self) -> f64 {
        0.5 * (self.hi - self.lo)
    }

    /// The mirrored interval: of the negated statistic.
    #[must_use]
    pub fn negated(mut self) -> Self {
        (self.point, self.lo, self.hi) = (-self.point, -self.hi, -self.lo);
        self
    }
}

impl std::fmt::Display for Interval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.has(IntervalFlag::Uninformative) {
            return write!(f, "{:.4} [no interval: one run]", self.point);
        }
        write!(f, "{:.4} [{:.4}, {:.4}]", self.point, self.lo, self.hi)
    }
}

/// The two corrections of BCa.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BcaTerms {
    /// Bias correction `z0`.
    pub z0: f64,
    /// Acceleration `a`.
    pub a: f64,
}

/// How many values a resample draws at a time, and how many such draws it makes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) runs: usize,
    pub(crate) tasks: usize,
}

impl Sizes {
    /// The tail whose percentile interval is as wide as the t interval:
    /// `Phi(sqrt(R/(R-1)) t_{df}(tail))` with `df = T(R-1)`. Resampling R runs understates the
    /// variance by (R-1)/R and takes it for known; this repairs both.
    fn expanded(self, tail: f64) -> Option<f64> {
        if self.runs < 2 {
            return None;
        }
        let (runs, tasks) = (self.runs as f64, self.tasks as f64);
        let t = student_ppf(tail, tasks * (runs - 1.0));
        Some(normal_cdf((runs / (runs - 1.0)).sqrt() * t))
    }
}

/// Leave-one-out values, or none when they do not exist.
pub(crate) type Jackknife = Option<Vec<f64>>;

/// Interval from a point, its replicates (any order) and, for BCa, its leave-one-out values.
///
/// ```text
/// Q       type-7 quantile of the replicates, a = 1 - level
/// BCa     z0 = Phi^-1((#below + 0.5 #tied) / B),  tied: |s_b - s| <= 1e-12 max(1, |s|)
///         a  = sum (m - m_i)^3 / (6 (sum (m - m_i)^2)^1.5),  m_i leave-one-out, m their mean
///         quantile levels Phi(z0 + (z0 + z) / (1 - a (z0 + z))) at z = Phi^-1(a/2), Phi^-1(1-a/2)
/// ```
/// The expanded percentile interval needs the numbers of runs and tasks, which only
/// [`bootstrap`](super::bootstrap()) knows; here it falls back. Where BCa is undefined (share 0 or 1, no leave-one-out values, a vanishing denominator) the
/// percentile interval comes back with [`IntervalFlag::FallbackPercentile`].
///
/// # Errors
/// [`TooFew`](super::StatError::TooFew) without replicates,
/// [`NonFinite`](super::StatError::NonFinite),
/// [`OutOfRange`](super::StatError::OutOfRange) for the level.
pub fn interval_of(
    point: f64,
    replicates: &[f64],
    leave_one_out: Option<&[f64]>,
    level: f64,
    method: IntervalMethod,
) -> Result<Interval> {
    if let Some(values) = leave_one_out {
        all_finite("leave_one_out", values)?;
    }
    {
        let left_out = || leave_one_out.map(<[f64]>::to_vec);
        from_replicates(point, replicates.to_vec(), level, method, None, left_out)
    }
}

/// [`interval_of`] that owns the replicates and asks for leave-one-out values only if needed.
pub(crate) fn from_replicates(
    point: f64,
    mut replicates: Vec<f64>,
    level: f64,
    method: IntervalMethod,
    sizes: Option<Sizes>,
    leave_one_out: impl FnOnce() -> Jackknife,
) -> Result<Interval> {
    open_unit("level", level)?;
    need("replicates", 1, replicates.len())?;
    all_finite("statistic", &[point])?;
    all_finite("replicates", &replicates)?;
    replicates.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - level) / 2.0;
    let q = |p: f64| quantile_sorted(&replicates, p);
    let mut flags = Vec::new();
    let mut bca = None;
    let (lo, hi) = match method {
        IntervalMethod::Percentile => (q(tail), q(1.0 - tail)),
        IntervalMethod::Basic => (2.0 * point - q(1.0 - tail), 2.0 * point - q(tail)),
        IntervalMethod::Expanded => {
            let widened = sizes.and_then(|sizes| sizes.expanded(tail));
            if widened.is_none() {
                flags.push(IntervalFlag::FallbackPercentile);
            }
            let tail = widened.unwrap_or(tail);
            (q(tail), q(1.0 - tail))
        }
        IntervalMethod::Bca => {
            bca = terms(point, &replicates, leave_one_out);
            let levels = bca.and_then(|terms| {
                Some((terms.level(normal_ppf(tail))?, terms.level(normal_ppf(1.0 - tail))?))
            });
            if let Some((low, high)) = levels {
                (q(low), q(high))
            } else {
                bca = None;
                flags.push(IntervalFlag::FallbackPercentile);
                (q(tail), q(1.0 - tail))
            }
        }
    };
    if replicates[0].total_cmp(&replicates[replicates.len() - 1]).is_eq() {
        flags.push(IntervalFlag::ZeroVariance);
    }
    if !(lo.is_finite() && hi.is_finite()) {
        return degenerate("replicates", "an interval end overflows");
    }
    Ok(Interval {
        point,
        lo,
        hi,
        level,
        method,
        resamples: replicates.len(),
        seed: None,
        n_tasks: 1,
        min_runs: 0,
        n_values: 0,
        bca,
        flags,
    })
}

impl BcaTerms {
    /// The corrected quantile level, `None` when `1 - a(z0+z) <= 0`.
    fn level(&self, z: f64) -> Option<f64> {
        let shifted = self.z0 + z;
        let denominator = 1.0 - self.a * shifted;
        (denominator > 0.0).then(|| normal_cdf(self.z0 + shifted / denominator))
    }
}

fn terms(
    point: f64,
    sorted: &[f64],
    leave_one_out: impl FnOnce() -> Jackknife,
) -> Option<BcaTerms> {
    // A resample that permutes the data equals the point only up to summation order.
    let slack = 1e-12 * point.abs().max(1.0);
    let (mut below, mut tied) = (0usize, 0usize);
    for &s in sorted {
        if (s - point).abs() <= slack {
            tied += 1;
        } else if s < point {
            below += 1;
        }
    }
    let share = (below as f64 + 0.5 * tied as f64) / sorted.len() as f64;
    if share <= 0.0 || share >= 1.0 {
        return None;
    }
    if tied == sorted.len() {
        return Some(BcaTerms { z0: 0.0, a: 0.0 }); // nothing varies, nothing to correct
    }
    let left_out = leave_one_out()?;
    let (low, high) =
        left_out.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    let a = if high - low <= slack {
        0.0
    } else {
        let m = super::number::mean(&left_out);
        let cubes: f64 = left_out.iter().map(|v| (m - v).powi(3)).sum();
        let squares: f64 = left_out.iter().map(|v| (m - v).powi(2)).sum();
        cubes / (6.0 * squares.powf(1.5))
    };
    (a.is_finite()).then(|| BcaTerms { z0: normal_ppf(share), a })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_and_basic_mirror() {
        let reps: Vec<f64> = (0..=100).map(f64::from).collect();
        let p = interval_of(40.0, &reps, None, 0.9, IntervalMethod::Percentile).unwrap();
        let b = interval_of(40.0, &reps, None, 0.9, IntervalMethod::Basic).unwrap();
        assert!((p.lo - 5.0).abs() < 1e-12 && (p.hi - 95.0).abs() < 1e-12);
        assert!((b.lo + 15.0).abs() < 1e-12 && (b.hi - 75.0).abs() < 1e-12);
    }

    #[test]
    fn bca_falls_back_when_the_point_is_outside() {
        let reps = [1.0, 2.0, 3.0];
        let left = [1.0, 2.0];
        let i = interval_of(9.0, &reps, Some(&left), 0.9, IntervalMethod::Bca).unwrap();
        assert!(i.has(IntervalFlag::FallbackPercentile) && i.bca.is_none());
        let none = interval_of(2.0, &reps, None, 0.9, IntervalMethod::Bca).unwrap();
        assert!(none.has(IntervalFlag::FallbackPercentile));
    }

    #[test]
    fn expanded_is_wider_and_needs_sizes() {
        let reps: Vec<f64> = (0..=10_000).map(f64::from).collect();
        let of = |method, sizes| from_replicates(5e3, reps.clone(), 0.95, method, sizes, || None);
        let plain = of(IntervalMethod::Percentile, None).unwrap();
        let five = of(IntervalMethod::Expanded, Some(Sizes { runs: 5, tasks: 1 })).unwrap();
        // Phi(-sqrt(5/4) * 2.7764) = 0.000954
        assert!((five.lo - 9.54).abs() < 0.02 && five.lo < plain.lo, "{}", five.lo);
        let many = of(IntervalMethod::Expanded, Some(Sizes { runs: 1_000_000, tasks: 9 })).unwrap();
        assert!((many.lo - plain.lo).abs() < 0.01, "{} {}", many.lo, plain.lo);
        let none = of(IntervalMethod::Expanded, Some(Sizes { runs: 1, tasks: 1 })).unwrap();
        assert!(none.has(IntervalFlag::FallbackPercentile));
    }

    #[test]
    fn bad_replicates_are_refused() {
        assert!(interval_of(0.0, &[], None, 0.9, IntervalMethod::Basic).is_err());
        assert!(interval_of(0.0, &[f64::NAN], None, 0.9, IntervalMethod::Basic).is_err());
        assert!(interval_of(0.0, &[0.0], None, 2.0, IntervalMethod::Basic).is_err());
    }
}
