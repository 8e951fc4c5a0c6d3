//! All pairs of methods by Wilcoxon and Holm, and the honest bars of such a diagram (7.5, 7.6).
//!
//! A clique of unrejected pairs need not be contiguous in rank order. Peers stretch a bar over the
//! methods between, which asserts equalities that the test rejected; here a bar covers a run only
//! when *all* its pairs are unrejected, and the pairs that no bar covers are listed.

use serde::Serialize;

use super::error::{Result, all_finite, need, open_unit, out_of_range};
use super::friedman::{MissingBlocks, complete_blocks};
use super::multitest::{Correction, adjust};
use super::nemenyi::{Bar, maximal_runs};
use super::scores::Matrix;
use super::wilcoxon::{WilcoxonOptions, wilcoxon_with};

/// Two-sided Wilcoxon p-values of all pairs, raw and adjusted.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pairwise {
    /// Raw p-values `[k][k]`, ones on the diagonal.
    pub raw: Vec<Vec<f64>>,
    /// Adjusted over the `k(k-1)/2` pairs.
    pub adjusted: Vec<Vec<f64>>,
}

/// All pairs of columns by the two-sided Wilcoxon test, adjusted as one family.
///
/// * `scores`: `[n tasks, k methods]`, one aggregate per task and method
///
/// # Errors
/// Those of [`wilcoxon`](super::wilcoxon()); a missing cell is refused.
pub fn pairwise_wilcoxon(
    scores: &Matrix,
    options: &WilcoxonOptions,
    correction: Correction,
) -> Result<Pairwise> {
    let k = scores.n_cols();
    need("methods", 2, k)?;
    complete_blocks(scores, MissingBlocks::Refuse)?;
    let columns: Vec<Vec<f64>> = (0..k).map(|j| scores.col(j)).collect();
    let mut flat = Vec::with_capacity(k * (k - 1) / 2);
    for i in 1..k {
        for j in 0..i {
            flat.push(wilcoxon_with(&columns[i], &columns[j], options)?.p.two_sided);
        }
    }
    let adjusted = adjust(&flat, correction)?;
    Ok(Pairwise { raw: square(k, &flat), adjusted: square(k, &adjusted) })
}

/// Each method against one control, adjusted over the `k-1` comparisons.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AgainstControl {
    /// Column of the control.
    pub control: usize,
    /// Raw p per method; 1 for the control itself.
    pub raw: Vec<f64>,
    /// Adjusted p per method; 1 for the control itself.
    pub adjusted: Vec<f64>,
}

/// Two-sided Wilcoxon of every column against the column `control`.
///
/// # Errors
/// As [`pairwise_wilcoxon`]; [`OutOfRange`](super::StatError::OutOfRange) for the column.
pub fn wilcoxon_against_control(
    scores: &Matrix,
    control: usize,
    options: &WilcoxonOptions,
    correction: Correction,
) -> Result<AgainstControl> {
    let k = scores.n_cols();
    need("methods", 2, k)?;
    if control >= k {
        return out_of_range("control", format!("a column in 0..{k}"), control);
    }
    complete_blocks(scores, MissingBlocks::Refuse)?;
    let base = scores.col(control);
    let others: Vec<usize> = (0..k).filter(|&j| j != control).collect();
    let mut p = Vec::with_capacity(others.len());
    for &j in &others {
        p.push(wilcoxon_with(&scores.col(j), &base, options)?.p.two_sided);
    }
    let corrected = adjust(&p, correction)?;
    let (mut raw, mut adjusted) = (vec![1.0; k], vec![1.0; k]);
    for (at, &j) in others.iter().enumerate() {
        raw[j] = p[at];
        adjusted[j] = corrected[at];
    }
    Ok(AgainstControl { control, raw, adjusted })
}

/// Bars of a diagram drawn from pairwise tests, and what the bars cannot show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HonestBars {
    /// Contiguous runs in rank order in which every pair is unrejected.
    pub bars: Vec<Bar>,
    /// Unrejected pairs (positions in rank order) that no bar covers; they belong in the caption.
    pub uncovered: Vec<(usize, usize)>,
}

/// Bars from adjusted p-values: `order` lists the methods from best to worst.
///
/// # Errors
/// [`OutOfRange`](super::StatError::OutOfRange) for alpha or when `order` is no permutation;
/// [`NonFinite`](super::StatError::NonFinite).
pub fn honest_bars(adjusted: &[Vec<f64>], order: &[usize], alpha: f64) -> Result<HonestBars> {
    open_unit("alpha", alpha)?;
    let k = order.len();
    let mut sorted = order.to_vec();
    sorted.sort_unstable();
    if !sorted.iter().copied().eq(0..k) || adjusted.len() != k {
        return out_of_range("order", format!("a permutation of 0..{}", adjusted.len()), k);
    }
    for row in adjusted {
        super::error::same_len("adjusted", k, row.len())?;
        all_finite("adjusted", row)?;
    }
    let equal = |i: usize, j: usize| adjusted[order[i]][order[j]] > alpha;
    let bars =
        maximal_runs(k, |first, last| (first..last).all(|i| (i + 1..=last).all(|j| equal(i, j))));
    let uncovered = (0..k)
        .flat_map(|i| (i + 1..k).map(move |j| (i, j)))
        .filter(|&(i, j)| equal(i, j) && !bars.iter().any(|b| b.first <= i && j <= b.last))
        .collect();
    Ok(HonestBars { bars, uncovered })
}

/// Lower-triangle list, pairs in the order (1,0), (2,0), (2,1), .., as a symmetric square.
fn square(k: usize, flat: &[f64]) -> Vec<Vec<f64>> {
    // Pair (i, j) with i > j is number i(i-1)/2 + j.
    let at = |i: usize, j: usize| match i.cmp(&j) {
        std::cmp::Ordering::Greater => flat[i * (i - 1) / 2 + j],
        std::cmp::Ordering::Less => flat[j * (j - 1) / 2 + i],
        std::cmp::Ordering::Equal => 1.0,
    };
    (0..k).map(|i| (0..k).map(|j| at(i, j)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_never_covers_a_rejected_pair() {
        // 0-2 unrejected although 0-1 is rejected: no bar may stretch over 0..2.
        let p = vec![vec![1.0, 0.01, 0.5], vec![0.01, 1.0, 0.4], vec![0.5, 0.4, 1.0]];
        let h = honest_bars(&p, &[0, 1, 2], 0.05).unwrap();
        assert_eq!(h.bars, [Bar { first: 1, last: 2 }]);
        assert_eq!(h.uncovered, [(0, 2)]);
    }

    #[test]
    fn control_family_is_smaller() {
        let rows: Vec<[f64; 3]> =
            (0..8).map(|i| [f64::from(i), f64::from(i) + 1.0, f64::from(i) + 2.0]).collect();
        let m = Matrix::from_rows(&rows).unwrap();
        let options = WilcoxonOptions::default();
        let all = pairwise_wilcoxon(&m, &options, Correction::Holm).unwrap();
        let one = wilcoxon_against_control(&m, 0, &options, Correction::Holm).unwrap();
        assert_eq!(all.adjusted[0][1], 3.0 * 2f64.powi(-7));
        assert_eq!(one.adjusted, [1.0, 2.0 * 2f64.powi(-7), 2.0 * 2f64.powi(-7)]);
        assert!(wilcoxon_against_control(&m, 3, &options, Correction::Holm).is_err());
    }

    #[test]
    fn order_must_be_a_permutation() {
        assert!(honest_bars(&[vec![1.0]], &[1], 0.05).is_err());
    }
}
