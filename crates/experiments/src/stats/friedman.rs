//! Friedman test with tie correction and the Iman-Davenport F (7.5).
//!
//! Sources: Friedman 1937; Iman & Davenport 1980; Demšar, JMLR 7, 2006, section 3.2.

use serde::{Deserialize, Serialize};

use super::error::{Result, degenerate, need};
use super::number::{chi2_sf, fisher_sf, mean};
use super::ranks::rank_best_first;
use super::scores::Matrix;

/// What to do with a block in which a treatment has no value (NaN).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MissingBlocks {
    /// An error. The default.
    #[default]
    Refuse,
    /// Drop the block and report it in [`Friedman::dropped`].
    DropIncomplete,
}

/// Options of [`friedman`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FriedmanOptions {
    /// Rank 1 goes to the highest value.
    pub higher_is_better: bool,
    /// Treatment of incomplete blocks.
    pub missing: MissingBlocks,
    /// Round values to so many significant digits before ranking; off by default.
    pub round_digits: Option<u32>,
}

impl Default for FriedmanOptions {
    fn default() -> Self {
        Self { higher_is_better: true, missing: MissingBlocks::Refuse, round_digits: None }
    }
}

/// Result of [`friedman`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Friedman {
    /// Blocks used.
    pub n: usize,
    /// Treatments.
    pub k: usize,
    /// Mean rank of each treatment; 1 is best.
    pub mean_ranks: Vec<f64>,
    /// Tie-corrected chi-squared, `k-1` degrees of freedom.
    pub chi2: f64,
    /// Chi-squared without tie correction.
    pub chi2_uncorrected: f64,
    /// p of `chi2`.
    pub p_chi2: f64,
    /// Iman-Davenport F; infinite when all blocks agree.
    #[serde(serialize_with = "super::number::extended")]
    pub f: f64,
    /// p of `f` with `k-1`, `(k-1)(n-1)` degrees of freedom: the p-value to use.
    pub p_f: f64,
    /// Kendall's W in [0, 1]: agreement of the blocks.
    pub kendall_w: f64,
    /// Blocks dropped as incomplete, by row number.
    pub dropped: Vec<usize>,
    /// Two treatments only: the ranks are fine, but Wilcoxon is the stronger test.
    pub few_treatments: bool,
}

/// Friedman test over `n` blocks (tasks) and `k` treatments (methods).
///
/// ```text
/// chi2_u = 12 n / (k(k+1)) * sum_j (R_j - (k+1)/2)^2,   R_j mean ranks
/// C      = 1 - sum_blocks sum (t^3 - t) / (n k (k^2-1)),  chi2 = chi2_u / C
/// F      = (n-1) chi2 / (n(k-1) - chi2),   W = chi2 / (n(k-1))
/// ```
/// All blocks alike: `F = inf`, `p = 0`, `W = 1`. Everything tied: `chi2 = F = W = 0`, `p = 1`.
///
/// * `scores`: `[n, k]`, NaN for a missing cell, infinities allowed (they rank last or first)
///
/// # Errors
/// [`TooFew`](super::StatError::TooFew) for fewer than 2 blocks or treatments;
/// [`Degenerate`](super::StatError::Degenerate) for a missing cell under
/// [`MissingBlocks::Refuse`].
pub fn friedman(scores: &Matrix, options: &FriedmanOptions) -> Result<Friedman> {
    let k = scores.n_cols();
    need("treatments", 2, k)?;
    let (blocks, dropped) = complete_blocks(scores, options.missing)?;
    let n = blocks.len();
    need("complete blocks", 2, n)?;

    let mut columns = vec![Vec::with_capacity(n); k];
    let mut ties = 0.0;
    for &i in &blocks {
        let ranks = rank_best_first(scores.row(i), options.higher_is_better, options.round_digits)?;
        ties += ranks.tie_sum();
        for (column, &rank) in columns.iter_mut().zip(&ranks.ranks) {
            column.push(rank);
        }
    }
    let mean_ranks: Vec<f64> = columns.iter().map(|column| mean(column)).collect();

    let (nf, kf) = (n as f64, k as f64);
    let spread: f64 = mean_ranks.iter().map(|r| (r - f64::midpoint(kf, 1.0)).powi(2)).sum();
    let chi2_uncorrected = 12.0 * nf / (kf * (kf + 1.0)) * spread;
    let free = 1.0 - ties / (nf * kf * (kf * kf - 1.0));
    let most = nf * (kf - 1.0);
    let (chi2, f, p_f, kendall_w);
    if free <= 1e-12 {
        (chi2, f, p_f, kendall_w) = (0.0, 0.0, 1.0, 0.0);
    } else {
        chi2 = (chi2_uncorrected / free).min(most);
        if most - chi2 <= 1e-9 * most {
            (f, p_f, kendall_w) = (f64::INFINITY, 0.0, 1.0);
        } else {
            f = (nf - 1.0) * chi2 / (most - chi2);
            p_f = fisher_sf(f, kf - 1.0, (kf - 1.0) * (nf - 1.0));
            kendall_w = chi2 / most;
        }
    }
    Ok(Friedman {
        n,
        k,
        mean_ranks,
        chi2,
        chi2_uncorrected,
        p_chi2: chi2_sf(chi2, kf - 1.0),
        f,
        p_f,
        kendall_w,
        dropped,
        few_treatments: k < 3,
    })
}

/// Row numbers without a missing cell, and those with one.
pub(crate) fn complete_blocks(
    scores: &Matrix,
    missing: MissingBlocks,
) -> Result<(Vec<usize>, Vec<usize>)> {
    let (complete, dropped): (Vec<_>, Vec<_>) =
        (0..scores.n_rows()).partition(|&i| scores.row(i).iter().all(|v| !v.is_nan()));
    match dropped.first() {
        Some(row) if missing == MissingBlocks::Refuse => degenerate(
            "scores",
            format!("block {row} has a missing cell; complete it or ask to drop such blocks"),
        ),
        _ => Ok((complete, dropped)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(rows: &[[f64; 3]]) -> Friedman {
        friedman(&Matrix::from_rows(rows).unwrap(), &FriedmanOptions::default()).unwrap()
    }

    #[test]
    fn everything_tied() {
        let f = test(&[[1.0; 3], [2.0; 3]]);
        assert_eq!((f.chi2, f.f, f.p_f, f.kendall_w, f.p_chi2), (0.0, 0.0, 1.0, 0.0, 1.0));
        assert_eq!(f.mean_ranks, [2.0; 3]);
    }

    #[test]
    fn all_blocks_agree() {
        let f = test(&[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [0.0, 1.0, 9.0]]);
        assert_eq!((f.f, f.p_f, f.kendall_w), (f64::INFINITY, 0.0, 1.0));
        assert_eq!(f.mean_ranks, [3.0, 2.0, 1.0]);
        assert!(serde_json::to_string(&f).unwrap().contains(r#""f":"inf""#));
    }

    #[test]
    fn missing_cells() {
        let m = Matrix::from_rows(&[[1.0, 2.0, 3.0], [1.0, f64::NAN, 2.0], [2.0, 1.0, 3.0]]);
        let m = m.unwrap();
        assert!(friedman(&m, &FriedmanOptions::default()).is_err());
        let drop = FriedmanOptions { missing: MissingBlocks::DropIncomplete, ..Default::default() };
        let f = friedman(&m, &drop).unwrap();
        assert_eq!((f.n, f.dropped), (2, vec![1]));
    }
}
