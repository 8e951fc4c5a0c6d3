//! Sums, quantiles and the few probability laws that the tests need.

use libm::erfc;
use serde::Serializer;
use statrs::distribution::{ContinuousCDF, StudentsT};
use statrs::function::{beta::beta_reg, erf::erfc_inv, gamma::gamma_ur};

const SQRT_2: f64 = std::f64::consts::SQRT_2;

/// Pairwise sum: the error grows with log n instead of n.
pub(crate) fn sum(values: &[f64]) -> f64 {
    if values.len() <= 128 {
        return values.iter().sum();
    }
    let (left, right) = values.split_at(values.len() / 2);
    sum(left) + sum(right)
}

/// Arithmetic mean; the caller has checked that there is a value.
pub(crate) fn mean(values: &[f64]) -> f64 {
    sum(values) / values.len() as f64
}

/// Median of a copy; the mean of the middle two when the count is even.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut copy = values.to_vec();
    median_in_place(&mut copy)
}

/// Median; reorders its argument.
pub(crate) fn median_in_place(values: &mut [f64]) -> f64 {
    let n = values.len();
    let (below, mid, _) = values.select_nth_unstable_by(n / 2, f64::total_cmp);
    if n % 2 == 1 {
        return *mid;
    }
    let lower = below.iter().copied().max_by(f64::total_cmp).unwrap_or(*mid);
    f64::midpoint(lower, *mid)
}

/// Quantile of type 7 of ascending data: `h = (B-1)q`, linear between neighbours (7.9).
pub(crate) fn quantile_sorted(sorted: &[f64], q: f64) -> f64 {
    let h = (sorted.len() - 1) as f64 * q.clamp(0.0, 1.0);
    let low = h.floor() as usize;
    let high = (low + 1).min(sorted.len() - 1);
    let (a, b) = (sorted[low], sorted[high]);
    // Equal neighbours, infinite ones included, must not turn into `inf - inf`.
    if a.total_cmp(&b).is_eq() { a } else { a + (h - low as f64) * (b - a) }
}

/// Standard normal density.
pub(crate) fn normal_pdf(z: f64) -> f64 {
    (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// Standard normal distribution function.
pub(crate) fn normal_cdf(z: f64) -> f64 {
    0.5 * erfc(-z / SQRT_2)
}

/// Standard normal survival function, accurate in the far tail.
pub(crate) fn normal_sf(z: f64) -> f64 {
    0.5 * erfc(z / SQRT_2)
}

/// Standard normal quantile; one Newton step sharpens the rational approximation.
pub(crate) fn normal_ppf(p: f64) -> f64 {
    let z = -SQRT_2 * erfc_inv(2.0 * p);
    let density = normal_pdf(z);
    if z.is_finite() && density > 1e-300 { z - (normal_cdf(z) - p) / density } else { z }
}

/// Quantile of Student's t, `df > 0`.
pub(crate) fn student_ppf(p: f64, df: f64) -> f64 {
    // Beyond this the two laws agree to more digits than a quantile of replicates has.
    match StudentsT::new(0.0, 1.0, df) {
        Ok(law) if df < 1e6 => law.inverse_cdf(p),
        _ => normal_ppf(p),
    }
}

/// `P(X > x)` for chi-squared with `df` degrees of freedom.
pub(crate) fn chi2_sf(x: f64, df: f64) -> f64 {
    if x <= 0.0 {
        1.0
    } else if x.is_infinite() {
        0.0
    } else {
        gamma_ur(df / 2.0, x / 2.0).clamp(0.0, 1.0)
    }
}

/// `P(X > f)` for Fisher's F with `d1`, `d2` degrees of freedom.
pub(crate) fn fisher_sf(f: f64, d1: f64, d2: f64) -> f64 {
    if f <= 0.0 {
        1.0
    } else if f.is_infinite() {
        0.0
    } else {
        beta_reg(d2 / 2.0, d1 / 2.0, d2 / (d2 + d1 * f)).clamp(0.0, 1.0)
    }
}

/// Rounds to `digits` significant decimal digits, so that 0.3-0.2 and 0.2-0.1 tie (7.2).
pub(crate) fn round_significant(value: f64, digits: u32) -> f64 {
    let places = digits.clamp(1, 17) as usize - 1;
    // Decimal text and back is the only rounding that maps equal decimals to equal bits.
    format!("{value:.places$e}").parse().unwrap_or(value)
}

/// Writes a number that may be infinite: JSON has no infinity, and `null` would read as missing.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde fixes the signature")]
pub(crate) fn extended<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.is_finite() {
        serializer.serialize_f64(*value)
    } else {
        serializer.serialize_str(&value.to_string())
    }
}

/// [`extended`] for lists.
pub(crate) fn extended_list<S: Serializer>(
    values: &[f64],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(values.iter().map(|&v| Extended(v)))
}

/// [`extended`] for lists of lists.
pub(crate) fn extended_rows<S: Serializer>(
    rows: &[Vec<f64>],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer
        .collect_seq(rows.iter().map(|row| row.iter().map(|&v| Extended(v)).collect::<Vec<_>>()))
}

/// A number that serialises by [`extended`].
struct Extended(f64);

impl serde::Serialize for Extended {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        extended(&self.0, serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairwise_sum_keeps_small_terms() {
        let many = vec![0.1; 1_000_000];
        assert!((sum(&many) - 100_000.0).abs() < 1e-8);
    }

    #[test]
    fn quantile_is_type_seven() {
        let x = [1.0, 2.0, 4.0, 8.0];
        assert_eq!(quantile_sorted(&x, 0.5), 3.0);
        assert_eq!(quantile_sorted(&x, 1.0), 8.0);
        assert_eq!(quantile_sorted(&[1.0, f64::INFINITY, f64::INFINITY], 0.75), f64::INFINITY);
    }

    #[test]
    fn normal_quantile_inverts() {
        for p in [1e-10, 1e-3, 0.025, 0.3, 0.5, 0.9, 0.975, 0.999_999] {
            assert!((normal_cdf(normal_ppf(p)) - p).abs() <= 1e-15 + 1e-13 * p, "{p}");
        }
        assert!((normal_ppf(0.975) - 1.959_963_984_540_054).abs() < 1e-14);
    }

    #[test]
    fn student_quantile() {
        assert!((student_ppf(0.975, 4.0) - 2.776_445_105).abs() < 1e-8);
        assert!((student_ppf(0.025, 29.0) + 2.045_229_642).abs() < 1e-8);
    }

    #[test]
    fn rounding_makes_decimals_tie() {
        assert_ne!(0.3 - 0.2, 0.2 - 0.1);
        assert_eq!(round_significant(0.3 - 0.2, 12), round_significant(0.2 - 0.1, 12));
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
    }
}
