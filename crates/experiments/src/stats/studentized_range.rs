//! Law of the range of k standard normals: the studentized range at infinite degrees of freedom,
//! which Nemenyi's test needs (7.6).

use std::sync::LazyLock;

use super::error::{Result, out_of_range};
use super::number::{normal_cdf, normal_pdf, normal_sf};

/// Nodes per panel. Panels are at most [`PANEL`] wide: one rule over the whole line would miss the
/// digits that the tail needs.
const NODES: usize = 64;
const PANEL: f64 = 8.0;
/// Beyond eight standard deviations the integrand is below 1e-14 of its peak.
const REACH: f64 = 8.5;

/// Gauss-Legendre nodes and weights on [-1, 1]; a constant of mathematics, computed once.
static RULE: LazyLock<Vec<(f64, f64)>> = LazyLock::new(|| gauss_legendre(NODES));

/// `P(max - min > w)` for `k` independent standard normals.
///
/// ```text
/// P(range > w) = k * integral phi(z) { Phi(z)^(k-1) - [Phi(z) - Phi(z-w)]^(k-1) } dz
/// ```
/// The complement is integrated, not `1 - cdf`, so that small tails keep their digits
/// (relative 1e-9 down to 1e-12).
///
/// # Errors
/// [`OutOfRange`](super::StatError::OutOfRange) for `k` outside 2..=10000 or a negative or
/// non-finite `w`.
pub fn range_sf(w: f64, k: usize) -> Result<f64> {
    if !(2..=10_000).contains(&k) {
        return out_of_range("k", "2 to 10000 treatments", k);
    }
    if !w.is_finite() || w < 0.0 {
        return out_of_range("w", "a finite number >= 0", w);
    }
    Ok(sf_unchecked(w, k))
}

fn sf_unchecked(w: f64, k: usize) -> f64 {
    if w > 60.0 {
        return 0.0; // below the smallest double
    }
    let power = (k - 1) as f64;
    let (from, to) = (-REACH, REACH + w);
    let panels = ((to - from) / PANEL).ceil();
    let width = (to - from) / panels;
    let mut total = 0.0;
    for panel in 0..panels as usize {
        let centre = from + (panel as f64 + 0.5) * width;
        let mut part = 0.0;
        for &(node, weight) in RULE.iter() {
            let z = centre + 0.5 * width * node;
            let below = normal_cdf(z);
            let ln_below = if z > 0.0 { (-normal_sf(z)).ln_1p() } else { below.ln() };
            // Phi^(k-1) - (Phi - Phi_w)^(k-1) = Phi^(k-1) * (1 - (1 - Phi_w/Phi)^(k-1))
            let share = (normal_cdf(z - w) / below).min(1.0);
            let gap = -(power * (-share).ln_1p()).exp_m1();
            part += weight * normal_pdf(z) * (power * ln_below).exp() * gap;
        }
        total += part * 0.5 * width;
    }
    (k as f64 * total).clamp(0.0, 1.0)
}

/// The `w` with `P(range > w) = alpha`.
///
/// # Errors
/// As [`range_sf`], and for `alpha` outside (0, 1).
pub fn range_quantile(alpha: f64, k: usize) -> Result<f64> {
    super::error::open_unit("alpha", alpha)?;
    range_sf(0.0, k)?;
    let (mut low, mut high) = (0.0, 60.0);
    // Bisection halves 60 down to the spacing of doubles; robust, and this is no inner loop.
    while high - low > 1e-13 * (1.0 + low) {
        let mid = f64::midpoint(low, high);
        if sf_unchecked(mid, k) > alpha {
            low = mid;
        } else {
            high = mid;
        }
    }
    Ok(f64::midpoint(low, high))
}

fn gauss_legendre(n: usize) -> Vec<(f64, f64)> {
    (0..n)
        .map(|i| {
            // Newton from the classical first guess for the i-th root.
            let mut x = (std::f64::consts::PI * (i as f64 + 0.75) / (n as f64 + 0.5)).cos();
            let mut slope = 1.0;
            for _ in 0..100 {
                let (mut p0, mut p1) = (1.0, x);
                for j in 2..=n {
                    let next = ((2 * j - 1) as f64 * x * p1 - (j - 1) as f64 * p0) / j as f64;
                    p0 = p1;
                    p1 = next;
                }
                slope = n as f64 * (x * p1 - p0) / (x * x - 1.0);
                let step = p1 / slope;
                x -= step;
                if step.abs() < 1e-15 {
                    break;
                }
            }
            (x, 2.0 / ((1.0 - x * x) * slope * slope))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_integrates_polynomials() {
        let total: f64 = RULE.iter().map(|(_, w)| w).sum();
        let even: f64 = RULE.iter().map(|(x, w)| w * x.powi(20)).sum();
        assert!((total - 2.0).abs() < 1e-13);
        assert!((even - 2.0 / 21.0).abs() < 1e-14);
    }

    #[test]
    fn two_normals_differ_by_a_normal() {
        // For k = 2 the range is |N(0, 2)|.
        for w in [0.0, 0.3, 1.0, 2.5, 5.0, 9.0] {
            let exact = 2.0 * normal_sf(w / std::f64::consts::SQRT_2);
            assert!((range_sf(w, 2).unwrap() - exact).abs() <= 1e-10 * exact, "{w}");
        }
        let q = range_quantile(0.05, 2).unwrap() / std::f64::consts::SQRT_2;
        assert!((q - 1.959_963_984_540_054).abs() < 1e-11);
    }

    #[test]
    fn domain_is_checked() {
        assert!(range_sf(1.0, 1).is_err());
        assert!(range_sf(f64::NAN, 3).is_err());
        assert!(range_quantile(0.0, 3).is_err());
        assert_eq!(range_sf(1e9, 3).unwrap(), 0.0);
    }
}
