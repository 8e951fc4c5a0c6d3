//! Mid-ranks (7.2): tied values share the mean of the positions that they occupy.

use super::error::{Result, no_nan};
use super::number::round_significant;

/// Mid-ranks of one list, with the sizes of its groups of equal values.
#[derive(Clone, Debug, PartialEq)]
pub struct Ranks {
    /// Rank of each value in input order; 1 is the smallest. The ranks sum to `n(n+1)/2`.
    pub ranks: Vec<f64>,
    /// Sizes of the groups of equal values, ascending by value; groups of one included.
    pub groups: Vec<usize>,
}

impl Ranks {
    /// `sum(t^3 - t)` over the groups of tied values, the quantity in every tie correction.
    pub fn tie_sum(&self) -> f64 {
        self.groups.iter().map(|&t| (t as f64).powi(3) - t as f64).sum()
    }

    /// Number of values that share their rank with another.
    pub fn n_tied(&self) -> usize {
        self.groups.iter().filter(|&&t| t > 1).sum()
    }
}

/// Mid-ranks, smallest value first. `-0.0` and `0.0` are equal; infinities rank at the ends.
///
/// # Errors
/// [`NonFinite`](super::StatError::NonFinite) for NaN.
///
/// ```
/// let r = experiments::stats::mid_ranks(&[0.2, 0.1, 0.2]).unwrap();
/// assert_eq!(r.ranks, [2.5, 1.0, 2.5]);
/// ```
pub fn mid_ranks(values: &[f64]) -> Result<Ranks> {
    no_nan("values", values)?;
    Ok(rank_unchecked(values))
}

/// Ranks with 1 for the best value, after optional rounding to significant digits.
///
/// # Errors
/// [`NonFinite`](super::StatError::NonFinite) for NaN.
pub fn rank_best_first(
    values: &[f64],
    higher_is_better: bool,
    round_digits: Option<u32>,
) -> Result<Ranks> {
    no_nan("values", values)?;
    let oriented: Vec<f64> = values
        .iter()
        .map(|&v| round_digits.map_or(v, |digits| round_significant(v, digits)))
        .map(|v| if higher_is_better { -v } else { v })
        .collect();
    Ok(rank_unchecked(&oriented))
}

/// Mid-ranks of values that are known to hold no NaN.
pub(crate) fn rank_unchecked(values: &[f64]) -> Ranks {
    let mut order: Vec<usize> = (0..values.len()).collect();
    // `+ 0.0` folds the two zeros into one, which `total_cmp` would tell apart.
    order.sort_unstable_by(|&a, &b| (values[a] + 0.0).total_cmp(&(values[b] + 0.0)));
    let mut ranks = vec![0.0; values.len()];
    let mut groups = Vec::new();
    let mut start = 0;
    while start < order.len() {
        let value = values[order[start]] + 0.0;
        let size = order[start..]
            .iter()
            .take_while(|&&i| (values[i] + 0.0).total_cmp(&value).is_eq())
            .count();
        let rank = start as f64 + f64::midpoint(1.0, size as f64);
        for &i in &order[start..start + size] {
            ranks[i] = rank;
        }
        groups.push(size);
        start += size;
    }
    Ranks { ranks, groups }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_share_the_mean_position() {
        let r = mid_ranks(&[3.0, 1.0, 3.0, 2.0, 3.0]).unwrap();
        assert_eq!(r.ranks, [4.0, 1.0, 4.0, 2.0, 4.0]);
        assert_eq!(r.groups, [1, 1, 3]);
        assert_eq!(r.tie_sum(), 24.0);
        assert_eq!(r.n_tied(), 3);
    }

    #[test]
    fn zeros_of_both_signs_tie() {
        assert_eq!(mid_ranks(&[0.0, -0.0]).unwrap().ranks, [1.5, 1.5]);
    }

    #[test]
    fn best_first_follows_direction_and_rounding() {
        assert_eq!(rank_best_first(&[1.0, 5.0], true, None).unwrap().ranks, [2.0, 1.0]);
        let d = [0.3 - 0.2, 0.2 - 0.1];
        assert_eq!(rank_best_first(&d, false, Some(12)).unwrap().ranks, [1.5, 1.5]);
        assert_ne!(rank_best_first(&d, false, None).unwrap().ranks, [1.5, 1.5]);
    }

    #[test]
    fn nan_is_refused() {
        assert!(mid_ranks(&[1.0, f64::NAN]).is_err());
    }
}
