//! Virtual best and single best solver, and what a selector makes of them (7.18).

use serde::Serialize;

use super::error::{Result, all_finite, need, out_of_range, same_len};
use super::number::mean;
use super::scores::Matrix;

/// Result of [`selection_gap`]. Costs: lower is better.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SelectionGap {
    /// Column of the single best solver.
    pub sbs: usize,
    /// Its mean cost.
    pub sbs_cost: f64,
    /// Mean of the per-instance minimum: the virtual best solver, an oracle.
    pub vbs_cost: f64,
    /// Mean cost of the selector's choices.
    pub selector_cost: f64,
    /// `(selector - VBS) / (SBS - VBS)`: 0 oracle, 1 single best, above 1 worse; absent when the
    /// single best already is the oracle.
    pub gap: Option<f64>,
    /// Rise of the VBS cost when a solver is removed; absent for a portfolio of one.
    pub marginal: Option<Vec<f64>>,
}

/// The column with the lowest mean cost, the first on ties. Choose it on *training* instances.
///
/// # Errors
/// [`NonFinite`](super::StatError::NonFinite): penalise failures (PAR) before.
pub fn single_best(costs: &Matrix) -> Result<usize> {
    all_finite("costs", costs.values())?;
    let means: Vec<f64> = (0..costs.n_cols()).map(|j| mean(&costs.col(j))).collect();
    Ok((1..means.len()).fold(0, |best, j| if means[j] < means[best] { j } else { best }))
}

/// Gap of a selector on test instances.
///
/// * `costs`: `[n instances, k solvers]`, finite; `selected`: `[n]` column chosen per instance
/// * `sbs`: the single best solver *of the training instances*, see [`single_best`]
///
/// # Errors
/// [`LengthMismatch`](super::StatError::LengthMismatch),
/// [`OutOfRange`](super::StatError::OutOfRange) for a column that does not exist,
/// [`NonFinite`](super::StatError::NonFinite).
pub fn selection_gap(costs: &Matrix, selected: &[usize], sbs: usize) -> Result<SelectionGap> {
    all_finite("costs", costs.values())?;
    need("instances", 1, costs.n_rows())?;
    same_len("selected", costs.n_rows(), selected.len())?;
    let k = costs.n_cols();
    if let Some(&bad) = selected.iter().chain([&sbs]).find(|&&j| j >= k) {
        return out_of_range("selected, sbs", format!("a column in 0..{k}"), bad);
    }
    let vbs_without = |left_out: Option<usize>| {
        let best: Vec<f64> = costs
            .iter_rows()
            .map(|row| {
                row.iter()
                    .enumerate()
                    .filter(|&(j, _)| Some(j) != left_out)
                    .fold(f64::INFINITY, |low, (_, &c)| low.min(c))
            })
            .collect();
        mean(&best)
    };
    let vbs_cost = vbs_without(None);
    let sbs_cost = mean(&costs.col(sbs));
    let chosen: Vec<f64> = costs.iter_rows().zip(selected).map(|(row, &j)| row[j]).collect();
    let selector_cost = mean(&chosen);
    let span = sbs_cost - vbs_cost;
    Ok(SelectionGap {
        sbs,
        sbs_cost,
        vbs_cost,
        selector_cost,
        gap: (span > 1e-12 * sbs_cost.abs().max(vbs_cost.abs()))
            .then(|| (selector_cost - vbs_cost) / span),
        marginal: (k > 1).then(|| (0..k).map(|j| vbs_without(Some(j)) - vbs_cost).collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oracle_and_single_best_anchor_the_gap() {
        let m = Matrix::from_rows(&[[1.0, 4.0], [5.0, 2.0], [1.0, 3.0]]).unwrap();
        let sbs = single_best(&m).unwrap();
        assert_eq!(sbs, 0);
        assert_eq!(selection_gap(&m, &[0, 1, 0], sbs).unwrap().gap, Some(0.0));
        assert_eq!(selection_gap(&m, &[0, 0, 0], sbs).unwrap().gap, Some(1.0));
        assert!(selection_gap(&m, &[0, 0, 2], sbs).is_err());
    }

    #[test]
    fn gap_is_undefined_when_one_solver_is_the_oracle() {
        let m = Matrix::from_rows(&[[1.0, 2.0], [1.0, 3.0]]).unwrap();
        assert_eq!(selection_gap(&m, &[0, 0], 0).unwrap().gap, None);
        let one = Matrix::from_rows(&[[1.0], [2.0]]).unwrap();
        assert_eq!(selection_gap(&one, &[0, 0], 0).unwrap().marginal, None);
    }
}
