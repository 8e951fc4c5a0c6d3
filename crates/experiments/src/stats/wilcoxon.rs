//! Wilcoxon signed-rank test for paired values, exact with ties and zeros (7.3).
//!
//! Sources: Wilcoxon 1945; Pratt 1959 (zeros); Demšar, JMLR 7, 2006 (comparing two methods over
//! datasets). The exact law is the conditional one given the mid-ranks, which is right with ties
//! and zeros alike; textbook tables and most libraries are exact for untied data alone.

use serde::{Deserialize, Serialize};

use super::error::{Result, StatError, all_finite, need, out_of_range, same_len};
use super::number::{median, normal_cdf, normal_sf, round_significant};
use super::ranks::rank_unchecked;

/// The side on which a test looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Alternative {
    /// First and second differ.
    #[default]
    TwoSided,
    /// The first tends to be smaller.
    Less,
    /// The first tends to be larger.
    Greater,
}

/// The p-values of all three alternatives; which one counts is fixed before looking.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PValues {
    /// First and second differ.
    pub two_sided: f64,
    /// The first tends to be smaller.
    pub less: f64,
    /// The first tends to be larger.
    pub greater: f64,
}

impl PValues {
    pub(crate) const ONE: Self = Self { two_sided: 1.0, less: 1.0, greater: 1.0 };

    /// The p-value of one alternative.
    pub fn get(&self, alternative: Alternative) -> f64 {
        match alternative {
            Alternative::TwoSided => self.two_sided,
            Alternative::Less => self.less,
            Alternative::Greater => self.greater,
        }
    }

    /// From the two tails of a discrete law, both including the observed value.
    pub(crate) fn from_tails(less: f64, greater: f64) -> Self {
        let (less, greater) = (less.clamp(0.0, 1.0), greater.clamp(0.0, 1.0));
        Self { two_sided: (2.0 * less.min(greater)).min(1.0), less, greater }
    }
}

/// What happens to pairs without difference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ZeroMethod {
    /// Drop them before ranking.
    Wilcox,
    /// Rank them with the others, then drop their ranks. The default: dropping zeros first makes
    /// the test forget that they speak for equality.
    #[default]
    Pratt,
    /// Rank them, and give half of their rank sum to each side.
    Zsplit,
}

/// How a p-value is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PMethod {
    /// Exact where it is cheap (up to 25 pairs, or 40 values in two samples), else normal.
    #[default]
    Auto,
    /// Exact permutation law given the mid-ranks.
    Exact,
    /// Normal law with tie correction.
    Normal,
    /// Normal law with tie correction and a continuity correction of 0.5.
    NormalContinuity,
}

/// Options of [`wilcoxon_with`]; the default is rule 7.3's "auto".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WilcoxonOptions {
    /// Treatment of zero differences.
    pub zeros: ZeroMethod,
    /// How p is computed.
    pub method: PMethod,
    /// Round the differences to so many significant digits before ranking; off by default.
    pub round_digits: Option<u32>,
}

/// Result of [`wilcoxon`]; the differences are `d = x - y`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Wilcoxon {
    /// Number of pairs.
    pub n: usize,
    /// Pairs without difference.
    pub n_zero: usize,
    /// Nonzero differences whose size equals that of another.
    pub n_ties: usize,
    /// Differences kept by the zero method (all `n` for pratt and zsplit).
    pub n_eff: usize,
    /// Rank sum of `d > 0` (plus half of the zeros' ranks for zsplit).
    pub r_plus: f64,
    /// Rank sum of `d < 0`, likewise.
    pub r_minus: f64,
    /// `(R+ - m) / sqrt(V)`; absent when the variance is 0.
    pub z: Option<f64>,
    /// The p-values by [`method`](Self::method).
    pub p: PValues,
    /// The method that gave them; never `Auto`.
    pub method: PMethod,
    /// The zero method used.
    pub zeros: ZeroMethod,
    /// Digits of rounding before ranking, when on.
    pub round_digits: Option<u32>,
    /// All pairs are equal: p = 1 by definition.
    pub all_zero: bool,
    /// The smallest two-sided p that this many nonzero pairs can give in the exact test,
    /// `2^(1-m)`. Above alpha, no data could have rejected.
    pub smallest_p: f64,
    /// Median of the differences.
    pub median_difference: f64,
    /// `(R+ - R-) / (R+ + R-)`, in [-1, 1]; 0 when all pairs are equal (Kerby 2014).
    pub rank_biserial: f64,
    /// Share of pairs with `d > 0` plus half the share with `d = 0`: the paired form of A12.
    pub superiority: f64,
}

/// Largest sample for the exact law on request: cost and memory grow with the cube and square.
const EXACT_LIMIT: usize = 500;
const AUTO_EXACT: usize = 25;

/// Wilcoxon signed-rank test with the default options (pratt; exact up to 25 pairs).
///
/// ```text
/// d_i = x_i - y_i;  R+ = sum of ranks of |d_i| over d_i > 0
/// exact:  S = sum of ranks with fair signs;  p_less = P(S <= R+), p_greater = P(S >= R+),
///         two-sided = min(1, 2 min(p_less, p_greater))
/// ```
/// * `x`, `y`: `[n]`, `n >= 1`, paired by position
///
/// # Errors
/// [`StatError::LengthMismatch`], [`StatError::TooFew`] for no pair, [`StatError::NonFinite`].
///
/// ```
/// let w = experiments::stats::wilcoxon(&[1.5, 2.5, 3.5, 4.5, 5.5], &[0.0; 5]).unwrap();
/// assert_eq!(w.p.two_sided, 0.0625); // five pairs cannot reach .05
/// ```
pub fn wilcoxon(x: &[f64], y: &[f64]) -> Result<Wilcoxon> {
    wilcoxon_with(x, y, &WilcoxonOptions::default())
}

/// [`wilcoxon`] with explicit options.
///
/// # Errors
/// As [`wilcoxon`]; [`StatError::OutOfRange`] when `Exact` is asked for more than 500 pairs.
pub fn wilcoxon_with(x: &[f64], y: &[f64], options: &WilcoxonOptions) -> Result<Wilcoxon> {
    same_len("y", x.len(), y.len())?;
    need("x", 1, x.len())?;
    all_finite("x", x)?;
    all_finite("y", y)?;
    let d: Vec<f64> = x.iter().zip(y).map(|(a, b)| a - b).collect();
    all_finite("x - y", &d)?;
    let d: Vec<f64> = match options.round_digits {
        Some(digits) => d.iter().map(|&v| round_significant(v, digits)).collect(),
        None => d,
    };
    let n = d.len();
    let n_zero = d.iter().filter(|&&v| v == 0.0).count();
    let kept: Vec<f64> = match options.zeros {
        ZeroMethod::Wilcox => d.iter().copied().filter(|&v| v != 0.0).collect(),
        ZeroMethod::Pratt | ZeroMethod::Zsplit => d.clone(),
    };
    let n_eff = kept.len();
    let ranks = rank_unchecked(&kept.iter().map(|v| v.abs()).collect::<Vec<_>>());
    let side = |keep: fn(f64) -> bool| -> f64 {
        kept.iter().zip(&ranks.ranks).filter(|&(&v, _)| keep(v)).map(|(_, r)| r).sum()
    };
    let zero_half = match options.zeros {
        ZeroMethod::Zsplit => 0.5 * side(|v| v == 0.0),
        ZeroMethod::Wilcox | ZeroMethod::Pratt => 0.0,
    };
    let plus = side(|v| v > 0.0);
    let (r_plus, r_minus) = (plus + zero_half, side(|v| v < 0.0) + zero_half);

    // Zeros are the lowest group when they were ranked; pratt removes them from the tie term.
    let zeros_ranked = n_zero > 0 && options.zeros != ZeroMethod::Wilcox;
    let nonzero_groups = &ranks.groups[usize::from(zeros_ranked)..];
    let n_ties = nonzero_groups.iter().filter(|&&t| t > 1).sum();
    let (centre, variance) = moments(n_eff, n_zero, ranks.tie_sum(), options.zeros);
    let z = (variance > 0.0).then(|| (r_plus - centre) / variance.sqrt());

    let method = match options.method {
        PMethod::Auto if n_eff <= AUTO_EXACT => PMethod::Exact,
        PMethod::Auto => PMethod::Normal,
        other => other,
    };
    let p = if method == PMethod::Exact {
        if n_eff > EXACT_LIMIT {
            return out_of_range("method", format!("exact up to {EXACT_LIMIT} pairs"), n_eff);
        }
        let nonzero = kept.iter().zip(&ranks.ranks).filter(|&(&v, _)| v != 0.0);
        // Mid-ranks are multiples of 1/2: doubled they are integers.
        let doubled: Vec<usize> = nonzero.map(|(_, &r)| (2.0 * r) as usize).collect();
        exact_tails(&doubled, (2.0 * plus) as usize)
    } else {
        normal_tails(r_plus - centre, variance, method == PMethod::NormalContinuity)
    };
    let total = r_plus + r_minus;
    let positive = d.iter().filter(|&&v| v > 0.0).count() as f64;
    Ok(Wilcoxon {
        n,
        n_zero,
        n_ties,
        n_eff,
        r_plus,
        r_minus,
        z,
        p,
        method,
        zeros: options.zeros,
        round_digits: options.round_digits,
        all_zero: n_zero == n,
        smallest_p: smallest_attainable_p(n - n_zero),
        median_difference: median(&d),
        rank_biserial: if total > 0.0 { (r_plus - r_minus) / total } else { 0.0 },
        superiority: (positive + 0.5 * n_zero as f64) / n as f64,
    })
}

/// The smallest two-sided exact p of `n` nonzero pairs: `min(1, 2^(1-n))`.
///
/// ```
/// assert_eq!(experiments::stats::smallest_attainable_p(5), 0.0625);
/// ```
pub fn smallest_attainable_p(n: usize) -> f64 {
    2f64.powi(1 - n.min(1070) as i32).min(1.0)
}

/// The size of the two-sided exact test of `n` untied pairs at `alpha`: the largest attainable
/// p that does not exceed `alpha`, 0 when none does. The exact test rejects a true null with
/// this probability, not with `alpha`.
///
/// # Errors
/// [`StatError::OutOfRange`] for `alpha` outside (0, 1) or more than 500 pairs.
pub fn attainable_level(n: usize, alpha: f64) -> Result<f64> {
    super::error::open_unit("alpha", alpha)?;
    if n > EXACT_LIMIT {
        return out_of_range("n", format!("at most {EXACT_LIMIT}"), n);
    }
    let pmf = signed_rank_law(&(1..=n).collect::<Vec<_>>());
    let mut tail = 0.0;
    let mut level = 0.0;
    for mass in pmf {
        tail += mass;
        if 2.0 * tail > alpha {
            break;
        }
        level = 2.0 * tail;
    }
    Ok(level)
}

/// Mean and variance of R+ under the null (7.3).
fn moments(n_eff: usize, n_zero: usize, tie_sum: f64, zeros: ZeroMethod) -> (f64, f64) {
    let (n, n0) = (n_eff as f64, n_zero as f64);
    let mut centre = n * (n + 1.0) / 4.0;
    let mut variance = n * (n + 1.0) * (2.0 * n + 1.0) / 24.0;
    let mut ties = tie_sum;
    if zeros == ZeroMethod::Pratt {
        centre -= n0 * (n0 + 1.0) / 4.0;
        variance -= n0 * (n0 + 1.0) * (2.0 * n0 + 1.0) / 24.0;
        ties -= n0.powi(3) - n0; // the zeros are no tie group here
    }
    (centre, variance - ties / 48.0)
}

fn normal_tails(offset: f64, variance: f64, continuity: bool) -> PValues {
    if variance <= 0.0 {
        return PValues::ONE;
    }
    let sd = variance.sqrt();
    let half = if continuity { 0.5 } else { 0.0 };
    let sign = if offset == 0.0 { 0.0 } else { offset.signum() };
    PValues {
        two_sided: (2.0 * normal_sf(((offset - half * sign) / sd).abs())).min(1.0),
        less: normal_cdf((offset + half) / sd),
        greater: normal_sf((offset - half) / sd),
    }
}

/// `pmf[s] = P(sum of the values with a fair coin each = s)`.
fn signed_rank_law(values: &[usize]) -> Vec<f64> {
    let total: usize = values.iter().sum();
    let mut pmf = vec![0.0; total + 1];
    pmf[0] = 1.0;
    let mut reach = 0;
    for &v in values {
        reach += v;
        for s in (v..=reach).rev() {
            pmf[s] = 0.5 * (pmf[s] + pmf[s - v]);
        }
        for mass in &mut pmf[..v] {
            *mass *= 0.5;
        }
    }
    pmf
}

fn exact_tails(doubled: &[usize], observed: usize) -> PValues {
    // Without ties all doubled ranks are even: half the table serves.
    let unit = if doubled.iter().all(|r| r % 2 == 0) { 2 } else { 1 };
    let values: Vec<usize> = doubled.iter().map(|r| r / unit).collect();
    let observed = observed / unit;
    let pmf = signed_rank_law(&values);
    PValues::from_tails(pmf[..=observed].iter().sum(), pmf[observed..].iter().sum())
}

impl TryFrom<&str> for ZeroMethod {
    type Error = StatError;

    fn try_from(text: &str) -> Result<Self> {
        match text {
            "wilcox" => Ok(Self::Wilcox),
            "pratt" => Ok(Self::Pratt),
            "zsplit" => Ok(Self::Zsplit),
            other => out_of_range("zeros", "wilcox, pratt or zsplit", other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_by_hand() {
        // d = 1, -2, 3: ranks 1, 2, 3; R+ = 4. Of 8 sign patterns, sums >= 4 are 4, 5, 6: 1+3 -> 3.
        let w = wilcoxon(&[1.0, 0.0, 3.0], &[0.0, 2.0, 0.0]).unwrap();
        assert_eq!((w.r_plus, w.r_minus), (4.0, 2.0));
        assert_eq!(w.p.greater, 3.0 / 8.0);
        assert_eq!(w.p.two_sided, 6.0 / 8.0);
        assert_eq!(w.smallest_p, 0.25);
    }

    #[test]
    fn one_pair_and_all_zero() {
        assert_eq!(wilcoxon(&[1.0], &[0.0]).unwrap().p.two_sided, 1.0);
        let w = wilcoxon(&[1.0, 2.0], &[1.0, 2.0]).unwrap();
        assert!(w.all_zero && w.z.is_none());
        assert_eq!((w.p, w.r_plus), (PValues::ONE, 0.0));
    }

    #[test]
    fn auto_switches_at_twenty_five() {
        let x: Vec<f64> = (1..=26).map(f64::from).collect();
        let y = vec![0.0; 26];
        assert_eq!(wilcoxon(&x[..25], &y[..25]).unwrap().method, PMethod::Exact);
        assert_eq!(wilcoxon(&x, &y).unwrap().method, PMethod::Normal);
    }

    #[test]
    fn attainable_levels() {
        assert_eq!(attainable_level(5, 0.05).unwrap(), 0.0);
        assert_eq!(attainable_level(6, 0.05).unwrap(), 0.03125);
        // Table value: n = 10 rejects at R <= 8, level 0.048828125.
        assert_eq!(attainable_level(10, 0.05).unwrap(), 0.048_828_125);
    }

    #[test]
    fn bad_input_is_named() {
        assert!(matches!(wilcoxon(&[1.0], &[]), Err(StatError::LengthMismatch { arg: "y", .. })));
        assert!(matches!(wilcoxon(&[], &[]), Err(StatError::TooFew { .. })));
        assert!(matches!(
            wilcoxon(&[1.0, f64::NAN], &[0.0, 0.0]),
            Err(StatError::NonFinite { arg: "x", index: 1, .. })
        ));
        assert!(matches!(wilcoxon(&[1e308], &[-1e308]), Err(StatError::NonFinite { .. })));
        let many = vec![1.0; 600];
        let exact = WilcoxonOptions { method: PMethod::Exact, ..Default::default() };
        assert!(wilcoxon_with(&many, &vec![0.0; 600], &exact).is_err());
    }
}
