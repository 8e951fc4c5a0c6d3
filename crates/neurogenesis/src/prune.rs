//! The way back: scores of units, the lowest of which may go (section 10).

use crate::init::by_fan_out;
use crate::layer::HiddenLayer;
use crate::metric::{by_fan_in, by_unit};
use crate::subspace::{epsilon, finite, number, row_norms, spectrum, to_vec};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use tensor_core::{Kind, Tensor};

/// What a unit is worth.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Worth {
    /// Norm of its fan-in times norm of its fan-out.
    WeightNorm,
    /// Variance of its activation.
    Variance,
    /// Share of samples on which it is not 0 (one minus `APoZ`).
    Active,
    /// Norm of its activation off the span of all other units: 0 for a copy or a dead unit.
    Residual,
    /// What the nuclear norm of the activations loses without it.
    NuclearNorm,
    /// One minus its largest absolute correlation with another unit.
    Independence,
}

impl Worth {
    /// The score of every unit of `layer`, whose activations on some samples are `units`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the activations are not those of the layer, [`Error::NonFinite`].
    pub fn scores(self, layer: &HiddenLayer, units: &Tensor) -> Result<Vec<f64>> {
        const OP: &str = "prune::scores";
        let _guard = tch::no_grad_guard();
        let kind = units.kind();
        let h = by_unit(units)?;
        let (n, width) = (h.size()[0], h.size()[1]);
        if width != layer.width() {
            let expected = format!("activations of {} units", layer.width());
            return Err(Error::shape(OP, "units", expected, units));
        }
        finite(OP, "units", &h)?;
        let sum = |x: &Tensor| x.sum_dim_intlist([0_i64].as_slice(), false, Kind::Double);
        match self {
            Self::WeightNorm => {
                let into = row_norms(&by_fan_in(&layer.weight.value())?);
                let out = match layer.readers.first() {
                    Some(r) => row_norms(&by_fan_out(&r.weight.value(), r.block)?),
                    None => into.ones_like(),
                };
                to_vec(OP, &(into * out))
            }
            Self::Variance => {
                let centred = &h - sum(&h) / n as f64;
                to_vec(OP, &(sum(&centred.square()) / n as f64))
            }
            Self::Active => to_vec(OP, &(sum(&h.ne(0.0).to_kind(Kind::Double)) / n as f64)),
            Self::Residual => {
                let rtol = n.max(width) as f64 * epsilon(kind);
                without_each(&h, |unit, rest| {
                    let basis = spectrum(OP, rest, rtol)?.u;
                    let row = unit.transpose(0, 1);
                    number(OP, &crate::subspace::off(&row, &basis).norm())
                })
            }
            Self::NuclearNorm => {
                let norm = |x: &Tensor| -> Result<f64> {
                    Ok(crate::subspace::singular_values(OP, x)?.iter().sum::<f64>()
                        / (n as f64).sqrt())
                };
                let all = norm(&h)?;
                without_each(&h, |_, rest| Ok(all - norm(rest)?))
            }
            Self::Independence => {
                let centred = &h - sum(&h) / n as f64;
                let norms = row_norms(&centred.transpose(0, 1));
                let dead = norms.le(0.0).to_kind(Kind::Double);
                let unit = centred / (&norms + &dead);
                let off_diagonal = Tensor::eye(width, (Kind::Double, h.device())) * -1.0 + 1.0;
                let correlation = unit.transpose(0, 1).matmul(&unit).abs() * off_diagonal;
                // A unit that never varies tells nothing.
                to_vec(
                    OP,
                    &((correlation.amax([1_i64].as_slice(), false) * -1.0 + 1.0)
                        * (dead * -1.0 + 1.0)),
                )
            }
        }
    }
}

fn without_each(
    h: &Tensor,
    mut f: impl FnMut(&Tensor, &Tensor) -> Result<f64>,
) -> Result<Vec<f64>> {
    let width = h.size()[1];
    (0..width)
        .map(|j| {
            let rest = [h.narrow(1, 0, j), h.narrow(1, j + 1, width - j - 1)];
            let rest = Tensor::cat(&rest, 1);
            if width == 1 {
                return f(h, &h.zeros_like());
            }
            f(&h.narrow(1, j, 1), &rest)
        })
        .collect()
}

/// The units to keep, in their order, when the `n` with the lowest scores go; ties go last first, and
/// one unit always stays.
pub fn survivors(scores: &[f64], n: usize) -> Vec<i64> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order.truncate(scores.len().saturating_sub(n).max(1));
    order.sort_unstable();
    order.into_iter().map(|i| i as i64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_go_and_one_stays() {
        assert_eq!(survivors(&[3.0, 1.0, 2.0, 1.0], 1), [0, 1, 2]);
        assert_eq!(survivors(&[3.0, 1.0, 2.0, 1.0], 2), [0, 2]);
        assert_eq!(survivors(&[3.0, 1.0], 9), [0]);
    }
}
