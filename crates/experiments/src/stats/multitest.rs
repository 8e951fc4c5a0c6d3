//! Corrections for many tests at once (7.7).
//!
//! Sources: Holm 1979; Hochberg 1988; Benjamini & Hochberg 1995.

use serde::{Deserialize, Serialize};

use super::error::{Result, no_nan, out_of_range};

/// How the p-values of one family are adjusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Correction {
    /// Step-down, controls the family-wise error under any dependence. The default.
    #[default]
    Holm,
    /// Step-up, family-wise, for independent or positively dependent tests.
    Hochberg,
    /// Step-up, controls the false discovery rate.
    BenjaminiHochberg,
    /// `min(1, m p)`.
    Bonferroni,
    /// Unadjusted; for exploratory tables that say so.
    None,
}

/// Adjusted p-values in input order; reject where the adjusted value is `<= alpha`.
///
/// With `p_(1) <= .. <= p_(m)`, ties in input order:
/// ```text
/// Holm        max_{j<=i} min(1, (m-j+1) p_(j))
/// Hochberg    min(1, min_{j>=i} (m-j+1) p_(j))
/// BH          min(1, min_{j>=i} m p_(j) / j)
/// Bonferroni  min(1, m p)
/// ```
/// An empty family gives an empty list.
///
/// # Errors
/// [`NonFinite`](super::StatError::NonFinite) for NaN,
/// [`OutOfRange`](super::StatError::OutOfRange) outside [0, 1].
///
/// ```
/// use experiments::stats::{Correction, adjust};
/// assert_eq!(adjust(&[0.04, 0.01], Correction::Holm).unwrap(), [0.04, 0.02]);
/// ```
pub fn adjust(p: &[f64], correction: Correction) -> Result<Vec<f64>> {
    no_nan("p", p)?;
    if let Some(&bad) = p.iter().find(|v| !(0.0..=1.0).contains(*v)) {
        return out_of_range("p", "p-values in [0, 1]", bad);
    }
    let m = p.len();
    let mut order: Vec<usize> = (0..m).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![0.0; m];
    match correction {
        Correction::None => adjusted.copy_from_slice(p),
        Correction::Bonferroni => {
            for (a, &v) in adjusted.iter_mut().zip(p) {
                *a = (m as f64 * v).min(1.0);
            }
        }
        Correction::Holm => {
            let mut running: f64 = 0.0;
            for (j, &i) in order.iter().enumerate() {
                running = running.max(((m - j) as f64 * p[i]).min(1.0));
                adjusted[i] = running;
            }
        }
        Correction::Hochberg | Correction::BenjaminiHochberg => {
            let mut running: f64 = 1.0;
            for (j, &i) in order.iter().enumerate().rev() {
                let factor = if correction == Correction::Hochberg {
                    (m - j) as f64
                } else {
                    m as f64 / (j + 1) as f64
                };
                running = running.min(factor * p[i]);
                adjusted[i] = running;
            }
        }
    }
    Ok(adjusted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_family_and_bad_values() {
        assert_eq!(adjust(&[], Correction::Holm).unwrap(), Vec::<f64>::new());
        assert!(adjust(&[1.1], Correction::Holm).is_err());
        assert!(adjust(&[f64::NAN], Correction::None).is_err());
    }

    #[test]
    fn single_test_is_unchanged() {
        for c in [Correction::Holm, Correction::Hochberg, Correction::BenjaminiHochberg] {
            assert_eq!(adjust(&[0.03], c).unwrap(), [0.03]);
        }
    }
}
