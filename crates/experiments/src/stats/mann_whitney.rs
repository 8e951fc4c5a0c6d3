//! Mann-Whitney U with the effect sizes A12 and Cliff's delta, exact with ties (7.4).
//!
//! Sources: Mann & Whitney 1947; Vargha & Delaney 2000 (A12); Romano et al. 2006 (thresholds).

use serde::{Deserialize, Serialize};

use super::error::{Result, all_finite, need, out_of_range};
use super::number::normal_sf;
use super::ranks::rank_unchecked;
use super::wilcoxon::{PMethod, PValues};

/// Size of an effect by |Cliff's delta|.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Magnitude {
    /// Below 0.147.
    Negligible,
    /// Below 0.33.
    Small,
    /// Below 0.474.
    Medium,
    /// 0.474 and above.
    Large,
}

impl Magnitude {
    /// The class of a Cliff's delta; its sign does not matter.
    pub fn of(delta: f64) -> Self {
        match delta.abs() {
            d if d < 0.147 => Self::Negligible,
            d if d < 0.33 => Self::Small,
            d if d < 0.474 => Self::Medium,
            _ => Self::Large,
        }
    }
}

/// Result of [`mann_whitney`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MannWhitney {
    /// Size of the first sample.
    pub m: usize,
    /// Size of the second sample.
    pub n: usize,
    /// `#(x > y) + 0.5 #(x = y)` over all pairs.
    pub u: f64,
    /// `U / (mn)`: the chance that a random x exceeds a random y, ties half.
    pub a12: f64,
    /// Cliff's delta, `2 A12 - 1`.
    pub cliff: f64,
    /// Class of |delta|.
    pub magnitude: Magnitude,
    /// p-values: `less` says that x tends to be smaller.
    pub p: PValues,
    /// The method that gave them; never `Auto`.
    pub method: PMethod,
    /// Values that equal another value of the pooled sample.
    pub n_ties: usize,
    /// The smallest two-sided p of the exact test for samples of these sizes without ties.
    pub smallest_p: f64,
}

const AUTO_EXACT: usize = 40;
/// Largest pooled sample for the exact law on request.
const EXACT_LIMIT: usize = 120;

/// Mann-Whitney U of two independent samples.
///
/// ```text
/// U = #(x > y) + 0.5 #(x = y);  A12 = U / (mn)
/// exact: law of the first sample's mid-rank sum over all C(m+n, m) splits
/// normal: V = mn/12 * ((N+1) - sum(t^3-t) / (N(N-1))), N = m+n
/// ```
/// * `x`: `[m]`, `y`: `[n]`
///
/// `Auto` is exact up to `m+n = 40`, else normal with continuity correction.
///
/// # Errors
/// [`StatError::TooFew`](super::StatError::TooFew) for an empty sample,
/// [`StatError::NonFinite`](super::StatError::NonFinite);
/// [`StatError::OutOfRange`](super::StatError::OutOfRange) for `Exact` beyond 120 values.
///
/// ```
/// use experiments::stats::{PMethod, mann_whitney};
/// let t = mann_whitney(&[3.0, 4.0, 5.0], &[1.0, 2.0, 3.0], PMethod::Auto).unwrap();
/// assert_eq!(t.u, 8.5);
/// ```
pub fn mann_whitney(x: &[f64], y: &[f64], method: PMethod) -> Result<MannWhitney> {
    need("x", 1, x.len())?;
    need("y", 1, y.len())?;
    all_finite("x", x)?;
    all_finite("y", y)?;
    let (m, n) = (x.len(), y.len());
    let total = m + n;
    let pooled: Vec<f64> = x.iter().chain(y).copied().collect();
    let ranks = rank_unchecked(&pooled);
    let rank_sum: f64 = ranks.ranks[..m].iter().sum();
    let u = rank_sum - (m * (m + 1)) as f64 / 2.0;
    let pairs = m as f64 * n as f64;
    let a12 = u / pairs;

    let method = match method {
        PMethod::Auto if total <= AUTO_EXACT => PMethod::Exact,
        PMethod::Auto => PMethod::NormalContinuity,
        other => other,
    };
    let p = match method {
        PMethod::Exact => {
            if total > EXACT_LIMIT {
                return out_of_range("method", format!("exact up to {EXACT_LIMIT} values"), total);
            }
            exact_tails(&ranks.ranks, m)
        }
        _ => normal_tails(u, m, n, ranks.tie_sum(), method == PMethod::NormalContinuity),
    };
    Ok(MannWhitney {
        m,
        n,
        u,
        a12,
        cliff: 2.0 * a12 - 1.0,
        magnitude: Magnitude::of(2.0 * a12 - 1.0),
        p,
        method,
        n_ties: ranks.n_tied(),
        smallest_p: (2.0 / binomial(total, m)).min(1.0),
    })
}

/// A12 of two samples, `P(x > y) + P(x = y) / 2`, so that above .5 the first is *larger*.
/// See [`a12_better`] for "above .5 the first is better".
///
/// # Errors
/// As [`mann_whitney`].
pub fn a12(x: &[f64], y: &[f64]) -> Result<f64> {
    need("x", 1, x.len())?;
    need("y", 1, y.len())?;
    all_finite("x", x)?;
    all_finite("y", y)?;
    Ok(superiority(x, &mut y.to_vec()))
}

/// A12 turned so that above .5 always means "the first is better".
///
/// # Errors
/// As [`mann_whitney`].
pub fn a12_better(first: &[f64], second: &[f64], higher_is_better: bool) -> Result<f64> {
    if higher_is_better { a12(first, second) } else { a12(second, first) }
}

/// `U/(mn)` of checked samples in `O((m+n) log n)`; sorts `y`.
pub(crate) fn superiority(x: &[f64], y: &mut [f64]) -> f64 {
    y.sort_unstable_by(f64::total_cmp);
    let mut doubled: u64 = 0;
    for &v in x {
        let below = y.partition_point(|&w| w < v);
        let not_above = below + y[below..].partition_point(|&w| w <= v);
        doubled += (below + not_above) as u64;
    }
    doubled as f64 / (2.0 * x.len() as f64 * y.len() as f64)
}

fn normal_tails(u: f64, m: usize, n: usize, tie_sum: f64, continuity: bool) -> PValues {
    let (pairs, total) = (m as f64 * n as f64, (m + n) as f64);
    let tie_term = if total > 1.0 { tie_sum / (total * (total - 1.0)) } else { 0.0 };
    let variance = pairs / 12.0 * ((total + 1.0) - tie_term);
    // Everything tied leaves only rounding noise as variance.
    if variance <= 1e-12 * pairs * total {
        return PValues::ONE;
    }
    let sd = variance.sqrt();
    let half = if continuity { 0.5 } else { 0.0 };
    let offset = u - pairs / 2.0;
    PValues {
        two_sided: (2.0 * normal_sf((offset.abs() - half) / sd)).min(1.0),
        less: normal_sf((-offset - half) / sd),
        greater: normal_sf((offset - half) / sd),
    }
}

/// Tails of the rank sum of the first `m` of the pooled ranks over all equally likely subsets.
fn exact_tails(ranks: &[f64], m: usize) -> PValues {
    // Work on the smaller sample: its rank sum is the grand total minus the other's.
    let swap = m > ranks.len() - m;
    let (size, own) = if swap { (ranks.len() - m, &ranks[m..]) } else { (m, &ranks[..m]) };
    let law = rank_sum_law(ranks, size);
    let observed = own.iter().map(|&r| (2.0 * r) as usize).sum::<usize>();
    let low = law[..=observed].iter().sum::<f64>();
    let high = law[observed..].iter().sum::<f64>();
    if swap { PValues::from_tails(high, low) } else { PValues::from_tails(low, high) }
}

/// `law[s] = P(doubled rank sum = s)` of a random subset of `size` of the mid-ranks.
pub(crate) fn rank_sum_law(ranks: &[f64], size: usize) -> Vec<f64> {
    let doubled: Vec<usize> = ranks.iter().map(|&r| (2.0 * r) as usize).collect();
    let mut largest = doubled.clone();
    largest.sort_unstable_by(|a, b| b.cmp(a));
    let width = largest[..size].iter().sum::<usize>() + 1;
    // ways[c * width + s]: subsets of c values with doubled rank sum s. Exact in f64 to 2^53,
    // beyond that accurate to rounding.
    let mut ways = vec![0.0; (size + 1) * width];
    ways[0] = 1.0;
    for (seen, &r) in doubled.iter().enumerate() {
        for count in (1..=size.min(seen + 1)).rev() {
            let (lower, upper) = ways.split_at_mut(count * width);
            let from = &lower[(count - 1) * width..];
            for (to, add) in upper[r..width].iter_mut().zip(from) {
                *to += add;
            }
        }
    }
    let mut law = ways.split_off(size * width);
    let all: f64 = law.iter().sum();
    for mass in &mut law {
        *mass /= all;
    }
    law
}

fn binomial(n: usize, k: usize) -> f64 {
    (0..k.min(n - k)).fold(1.0, |acc, i| acc * (n - i) as f64 / (i + 1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separated_samples_reach_the_smallest_p() {
        let t = mann_whitney(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0, 7.0], PMethod::Auto).unwrap();
        assert_eq!((t.u, t.a12, t.cliff), (0.0, 0.0, -1.0));
        assert!((t.p.two_sided - 2.0 / 35.0).abs() < 1e-15);
        assert!((t.smallest_p - 2.0 / 35.0).abs() < 1e-15);
        assert_eq!(t.magnitude, Magnitude::Large);
    }

    #[test]
    fn direction_is_turned_for_errors() {
        assert_eq!(a12_better(&[0.1, 0.2], &[0.3, 0.4], false).unwrap(), 1.0);
        assert_eq!(a12(&[0.1, 0.2], &[0.3, 0.4]).unwrap(), 0.0);
    }

    #[test]
    fn single_values_and_bad_input() {
        assert_eq!(mann_whitney(&[1.0], &[1.0], PMethod::Auto).unwrap().p, PValues::ONE);
        assert!(mann_whitney(&[], &[1.0], PMethod::Auto).is_err());
        assert!(mann_whitney(&[f64::INFINITY], &[1.0], PMethod::Auto).is_err());
        assert!(mann_whitney(&[1.0; 100], &[1.0; 100], PMethod::Exact).is_err());
    }
}
