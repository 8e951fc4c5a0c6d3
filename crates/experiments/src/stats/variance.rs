//! Variance decomposition of a balanced factorial design (7.15c).
//!
//! Exact on full grids; an unbalanced design is refused rather than approximated. Print the seeds'
//! share always: where it exceeds the method's, the conclusion hangs on seeds.

use serde::Serialize;

use super::error::{Result, all_finite, degenerate, need, out_of_range, same_len};
use super::number::{mean, sum};

/// One main effect or interaction.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Effect {
    /// The factors that take part, ascending.
    pub factors: Vec<usize>,
    /// Sum of squares.
    pub ss: f64,
    /// Degrees of freedom.
    pub df: usize,
    /// `ss / total`; 0 when nothing varies.
    pub fraction: f64,
    /// `(ss - df MS_res) / (total + MS_res)`; absent without replicates.
    pub omega2: Option<f64>,
}

/// Result of [`variance_decomposition`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VarianceDecomposition {
    /// All effects, by size, then lexicographically: (0), (1), .., (0,1), ..
    pub effects: Vec<Effect>,
    /// Sum of squares within cells: the noise of the seeds.
    pub residual: f64,
    /// `residual / total`; absent without replicates.
    pub residual_fraction: Option<f64>,
    /// Total sum of squares.
    pub total: f64,
}

impl VarianceDecomposition {
    /// The fraction of the effect of exactly these factors.
    pub fn fraction_of(&self, factors: &[usize]) -> Option<f64> {
        self.effects.iter().find(|e| e.factors == factors).map(|e| e.fraction)
    }
}

/// Sums of squares of every effect of a full factorial with equal replicates.
///
/// ```text
/// effect_S(cell) = sum over T subset of S of (-1)^(|S|-|T|) mean(cells that agree on T)
/// SS_S = replicates * (cells per combination of S) * sum effect_S^2
/// ```
/// * `levels`: number of levels of each factor, at most 10 factors
/// * `y`: row-major `[levels.., replicates]`
///
/// # Errors
/// [`LengthMismatch`](super::StatError::LengthMismatch) for an unbalanced table,
/// [`OutOfRange`](super::StatError::OutOfRange), [`NonFinite`](super::StatError::NonFinite).
pub fn variance_decomposition(
    levels: &[usize],
    replicates: usize,
    y: &[f64],
) -> Result<VarianceDecomposition> {
    let n_factors = levels.len();
    if !(1..=10).contains(&n_factors) {
        return out_of_range("levels", "1 to 10 factors", n_factors);
    }
    need("replicates", 1, replicates)?;
    if let Some(&bad) = levels.iter().find(|&&l| l < 2) {
        return out_of_range("levels", "at least 2 levels per factor", bad);
    }
    let Some(n_cells) = levels.iter().try_fold(1usize, |n, &l| n.checked_mul(l)) else {
        return out_of_range("levels", "a table that fits into memory", "an overflow");
    };
    same_len("y (balanced design)", n_cells.saturating_mul(replicates), y.len())?;
    all_finite("y", y)?;

    let cells: Vec<f64> = y.chunks_exact(replicates).map(mean).collect();
    let grand = mean(y);
    let total = sum(&y.iter().map(|v| (v - grand).powi(2)).collect::<Vec<_>>());
    let within: Vec<f64> = y
        .chunks_exact(replicates)
        .zip(&cells)
        .flat_map(|(runs, m)| runs.iter().map(move |v| (v - m).powi(2)))
        .collect();
    let residual = sum(&within);
    let residual_df = n_cells * (replicates - 1);
    let noise = (residual_df > 0).then(|| residual / residual_df as f64);

    // Marginal means of every subset of factors, spread back over the cells.
    let marginals: Vec<Vec<f64>> =
        (0..1usize << n_factors).map(|set| spread_means(&cells, levels, set)).collect();
    let mut sets: Vec<usize> = (1..1usize << n_factors).collect();
    let members =
        |set: usize| -> Vec<usize> { (0..n_factors).filter(|f| set >> f & 1 == 1).collect() };
    sets.sort_by_key(|&set| (set.count_ones(), members(set)));
    let effects = sets
        .into_iter()
        .map(|set| {
            let squares: Vec<f64> = (0..n_cells)
                .map(|cell| {
                    let mut effect = 0.0;
                    let mut sub = set;
                    loop {
                        let odd = (set.count_ones() - sub.count_ones()) % 2 == 1;
                        effect += if odd { -marginals[sub][cell] } else { marginals[sub][cell] };
                        if sub == 0 {
                            break;
                        }
                        sub = (sub - 1) & set; // the next smaller subset
                    }
                    effect * effect
                })
                .collect();
            let ss = replicates as f64 * sum(&squares);
            let factors = members(set);
            let df = factors.iter().map(|&f| levels[f] - 1).product();
            Effect {
                ss,
                df,
                fraction: if total > 0.0 { ss / total } else { 0.0 },
                omega2: match noise {
                    Some(ms) if total + ms > 0.0 => Some((ss - df as f64 * ms) / (total + ms)),
                    _ => None,
                },
                factors,
            }
        })
        .collect();
    let residual_fraction = noise.map(|_| if total > 0.0 { residual / total } else { 0.0 });
    if !total.is_finite() {
        return degenerate("y", "the sum of squares overflows");
    }
    Ok(VarianceDecomposition { effects, residual, residual_fraction, total })
}

/// For each cell the mean over all cells that agree with it on the factors in `set`.
fn spread_means(cells: &[f64], levels: &[usize], set: usize) -> Vec<f64> {
    let mut group = vec![0usize; cells.len()];
    let mut n_groups = 1;
    let mut stride = cells.len();
    for (f, &level) in levels.iter().enumerate() {
        stride /= level;
        if set >> f & 1 == 1 {
            for (cell, g) in group.iter_mut().enumerate() {
                *g = *g * level + cell / stride % level;
            }
            n_groups *= level;
        }
    }
    let mut sums = vec![0.0; n_groups];
    for (&g, &v) in group.iter().zip(cells) {
        sums[g] += v;
    }
    let size = (cells.len() / n_groups) as f64;
    group.iter().map(|&g| sums[g] / size).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additive_effects_have_no_interaction() {
        // y = 2a + b over 2x2, one replicate.
        let v = variance_decomposition(&[2, 2], 1, &[0.0, 1.0, 2.0, 3.0]).unwrap();
        let ss: Vec<f64> = v.effects.iter().map(|e| e.ss).collect();
        assert_eq!(ss, [4.0, 1.0, 0.0]);
        assert_eq!((v.total, v.residual_fraction), (5.0, None));
        assert!(v.effects.iter().all(|e| e.omega2.is_none()));
    }

    #[test]
    fn pure_noise_is_residual() {
        let v = variance_decomposition(&[2], 2, &[0.0, 2.0, 0.0, 2.0]).unwrap();
        assert_eq!(v.residual_fraction, Some(1.0));
        assert_eq!(v.fraction_of(&[0]), Some(0.0));
    }

    #[test]
    fn unbalanced_and_absurd_designs_are_refused() {
        assert!(variance_decomposition(&[2, 2], 2, &[0.0; 7]).is_err());
        assert!(variance_decomposition(&[usize::MAX, 3], 1, &[0.0]).is_err());
        assert!(variance_decomposition(&[1], 1, &[0.0]).is_err());
    }
}
