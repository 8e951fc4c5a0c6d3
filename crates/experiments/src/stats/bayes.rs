//! Bayesian signed-rank test with a region of practical equivalence (7.14).
//!
//! Source: Benavoli, Corani, Demšar & Zaffalon, JMLR 18(77), 2017.

use rand::Rng;
use rand_distr::{Distribution, Gamma};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::bootstrap::{open_uniform, stream};
use super::error::{Result, all_finite, need, out_of_range, same_len};
use super::number::mean;

/// Options of [`bayes_signed_rank`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BayesOptions {
    /// Half-width of the region of practical equivalence, in units of the metric; 0 for none.
    pub rope: f64,
    /// Weight `s` of the pseudo-observation 0.
    pub prior: f64,
    /// Posterior draws.
    pub draws: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for BayesOptions {
    fn default() -> Self {
        Self { rope: 0.0, prior: 0.5, draws: 50_000, seed: 0 }
    }
}

/// What the posterior says at probability 0.95.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BayesDecision {
    /// `d = y - x` lies below the region: x is larger.
    Left,
    /// Practically equivalent.
    Rope,
    /// `d` lies above the region: y is larger.
    Right,
    /// No side reaches 0.95.
    Undecided,
}

/// Result of [`bayes_signed_rank`]. Triples are (left, rope, right).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BayesSignedRank {
    /// Share of posterior draws in which each mass is the largest (the first on ties).
    pub probs: [f64; 3],
    /// Mean masses over the draws; they sum to 1.
    pub mean_mass: [f64; 3],
    /// Decision at 0.95 on `probs`.
    pub decision: BayesDecision,
    /// Number of draws.
    pub draws: usize,
    /// Half-width of the region.
    pub rope: f64,
}

/// Bayesian signed-rank test of paired values.
///
/// ```text
/// d = y - x, pseudo-observation d_0 = 0;  w ~ Dirichlet(s, 1, .., 1)
/// right = sum_ij w_i w_j H(d_i + d_j - 2 rope),  left = sum_ij w_i w_j H(-(d_i + d_j) - 2 rope)
/// H(0) = 1/2;  rope mass = the rest;  for rope = 0: left = 1 - right
/// ```
/// Left means "x is better" where higher is better.
///
/// # Errors
/// [`LengthMismatch`](super::StatError::LengthMismatch), [`TooFew`](super::StatError::TooFew),
/// [`NonFinite`](super::StatError::NonFinite), [`OutOfRange`](super::StatError::OutOfRange).
///
/// ```
/// use experiments::stats::{BayesOptions, bayes_signed_rank};
/// let b = bayes_signed_rank(&[0.0; 9], &[1.0; 9], &BayesOptions::default()).unwrap();
/// assert!(b.probs[2] > 0.99); // y is larger
/// ```
pub fn bayes_signed_rank(x: &[f64], y: &[f64], options: &BayesOptions) -> Result<BayesSignedRank> {
    if !(options.prior.is_finite() && options.prior > 0.0) {
        return out_of_range("prior", "a finite number > 0", options.prior);
    }
    if !(100..=10_000_000).contains(&options.draws) {
        return out_of_range("draws", "100 to 10000000", options.draws);
    }
    let pairs = PairSums::new(x, y, options.rope)?;
    let gamma = Gamma::new(options.prior, 1.0).map_err(|e| super::StatError::OutOfRange {
        arg: "prior",
        expected: e.to_string(),
        got: options.prior.to_string(),
    })?;
    let samples: Vec<[f64; 3]> = (0..options.draws)
        .into_par_iter()
        .map_init(Vec::new, |weights, draw| {
            let mut rng = stream(options.seed, draw as u64);
            dirichlet(&mut rng, &gamma, x.len(), weights);
            pairs.masses(weights)
        })
        .collect();
    Ok(summarise(&samples, options.rope))
}

/// Masses (left, rope, right) for given Dirichlet weights, one row of `[n+1]` per draw; element 0
/// belongs to the pseudo-observation.
///
/// # Errors
/// As [`bayes_signed_rank`].
pub fn bayes_masses<T: AsRef<[f64]>>(
    x: &[f64],
    y: &[f64],
    rope: f64,
    weights: &[T],
) -> Result<Vec<[f64; 3]>> {
    let pairs = PairSums::new(x, y, rope)?;
    weights
        .iter()
        .map(|row| {
            let row = row.as_ref();
            same_len("weights", x.len() + 1, row.len())?;
            all_finite("weights", row)?;
            Ok(pairs.masses(row))
        })
        .collect()
}

/// Shares and means of given masses.
///
/// # Errors
/// [`TooFew`](super::StatError::TooFew) without draws.
pub fn bayes_summary(samples: &[[f64; 3]], rope: f64) -> Result<BayesSignedRank> {
    need("samples", 1, samples.len())?;
    Ok(summarise(samples, rope))
}

fn summarise(samples: &[[f64; 3]], rope: f64) -> BayesSignedRank {
    let n = samples.len() as f64;
    let mut wins = [0usize; 3];
    for s in samples {
        let largest = (1..3).fold(0, |best, i| if s[i] > s[best] { i } else { best });
        wins[largest] += 1;
    }
    let probs = wins.map(|w| w as f64 / n);
    let column = |i: usize| mean(&samples.iter().map(|s| s[i]).collect::<Vec<_>>());
    let decision = match probs {
        [p, _, _] if p >= 0.95 => BayesDecision::Left,
        [_, p, _] if p >= 0.95 => BayesDecision::Rope,
        [_, _, p] if p >= 0.95 => BayesDecision::Right,
        _ => BayesDecision::Undecided,
    };
    BayesSignedRank {
        probs,
        mean_mass: [column(0), column(1), column(2)],
        decision,
        draws: samples.len(),
        rope,
    }
}

/// Where, for each difference in ascending order, the partners begin that push the pair beyond the
/// region. Found once; a draw then costs O(n) instead of O(n^2).
struct PairSums {
    order: Vec<usize>,                 // weight index of the i-th smallest difference
    right: Vec<(usize, usize)>, // partners from .1 on are right; .0 to .1 exactly on the edge
    left: Option<Vec<(usize, usize)>>, // partners before .0 are left; absent for rope = 0
}

impl PairSums {
    fn new(x: &[f64], y: &[f64], rope: f64) -> Result<Self> {
        same_len("y", x.len(), y.len())?;
        need("x", 1, x.len())?;
        all_finite("x", x)?;
        all_finite("y", y)?;
        if !(rope.is_finite() && rope >= 0.0) {
            return out_of_range("rope", "a finite number >= 0", rope);
        }
        let mut d = vec![0.0];
        d.extend(x.iter().zip(y).map(|(a, b)| b - a));
        all_finite("y - x", &d)?;
        let mut order: Vec<usize> = (0..d.len()).collect();
        order.sort_by(|&a, &b| d[a].total_cmp(&d[b]));
        let sorted: Vec<f64> = order.iter().map(|&i| d[i]).collect();
        let edge = 2.0 * rope;
        // A sum is monotone in its partner, rounding included, so edges are partition points.
        let edges = |at: f64| -> Vec<(usize, usize)> {
            sorted
                .iter()
                .map(|&a| {
                    let below = sorted.partition_point(|&b| a + b < at);
                    (below, sorted.partition_point(|&b| a + b <= at))
                })
                .collect()
        };
        let right = edges(edge);
        let left = (rope > 0.0).then(|| edges(-edge));
        Ok(Self { order, right, left })
    }

    fn masses(&self, weights: &[f64]) -> [f64; 3] {
        let n = self.order.len();
        let mut before = Vec::with_capacity(n + 1); // prefix sums in ascending order of d
        before.push(0.0);
        for (i, &w) in self.order.iter().enumerate() {
            before.push(before[i] + weights[w]);
        }
        let total = before[n];
        let (mut right, mut left) = (0.0, 0.0);
        for (i, &w) in self.order.iter().enumerate() {
            let (low, high) = self.right[i];
            right += weights[w] * ((total - before[high]) + 0.5 * (before[high] - before[low]));
            if let Some(edges) = &self.left {
                let (low, high) = edges[i];
                left += weights[w] * (before[low] + 0.5 * (before[high] - before[low]));
            }
        }
        if self.left.is_none() {
            return [1.0 - right, 0.0, right];
        }
        [left, 1.0 - left - right, right]
    }
}

/// Dirichlet(s, 1, .., 1): a gamma variate for the prior, exponentials for the rest, normalised.
fn dirichlet(rng: &mut impl Rng, gamma: &Gamma<f64>, n: usize, weights: &mut Vec<f64>) {
    weights.clear();
    weights.push(gamma.sample(rng));
    weights.extend((0..n).map(|_| -open_uniform(rng).ln()));
    let total: f64 = weights.iter().sum();
    for w in weights {
        *w /= total;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masses_match_the_double_sum() {
        let (x, y) = ([0.5, 0.2, 0.9, 0.4], [0.6, 0.1, 0.9, 0.7]);
        let w = [0.1, 0.2, 0.3, 0.15, 0.25];
        let d = [0.0, y[0] - x[0], y[1] - x[1], y[2] - x[2], y[3] - x[3]];
        let h = |v: f64| {
            if v > 0.0 {
                1.0
            } else if v < 0.0 {
                0.0
            } else {
                0.5
            }
        };
        let rope = 0.05;
        let (mut left, mut right) = (0.0, 0.0);
        for i in 0..5 {
            for j in 0..5 {
                right += w[i] * w[j] * h(d[i] + d[j] - 2.0 * rope);
                left += w[i] * w[j] * h(-(d[i] + d[j]) - 2.0 * rope);
            }
        }
        let got = bayes_masses(&x, &y, rope, &[w]).unwrap()[0];
        assert!((got[0] - left).abs() < 1e-15 && (got[2] - right).abs() < 1e-15, "{got:?}");
    }

    #[test]
    fn equal_methods_are_equivalent_within_a_region() {
        let x: Vec<f64> = (0..15).map(f64::from).collect();
        let options = BayesOptions { rope: 0.1, draws: 2_000, ..Default::default() };
        let b = bayes_signed_rank(&x, &x, &options).unwrap();
        assert_eq!(b.decision, BayesDecision::Rope);
    }

    #[test]
    fn domain_is_checked() {
        let o = BayesOptions { rope: -1.0, ..Default::default() };
        assert!(bayes_signed_rank(&[1.0], &[1.0], &o).is_err());
        let o = BayesOptions { draws: 0, ..Default::default() };
        assert!(bayes_signed_rank(&[1.0], &[1.0], &o).is_err());
        assert!(bayes_masses(&[1.0], &[1.0], 0.0, &[[1.0]]).is_err());
    }
}
