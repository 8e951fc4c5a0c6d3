//! `NeST`'s bridging growth for dense layers, as the comparison code adapted it (section 4.5).

use super::rescaled;
use crate::subspace::{finite, matrix, to_vec};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use tensor_core::{Kind, Tensor};

/// Whether the sign of the bridge counts.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    /// As the comparison code: the fan-out increment is positive, the sign of the bridge is ignored.
    #[default]
    Ignored,
    /// As the `NeST` paper: the product of the two increments points down the gradient.
    Descent,
}

/// New fan-in `[k, inputs]` and fan-out `[outputs, k]` vectors, rescaled to the given norms. Not
/// function preserving.
#[derive(Debug)]
pub struct Bridged {
    /// `[k, inputs]`.
    pub fan_in: Tensor,
    /// `[outputs, k]`.
    pub fan_out: Tensor,
    /// Quantile of `|A|` above which a pair counts.
    pub threshold: f64,
}

/// For each new unit and each pair `(o, i)` with `|A_oi|` above its `beta` quantile, adds
/// `sqrt|A_oi|` times a random sign to the fan-in at `i` and to the fan-out at `o`.
///
/// `a` is the bridge `[outputs, inputs]`; `signs` `[k, outputs, inputs]` are +1 or -1; `norms` are
/// the mean norms of existing fan-in and fan-out vectors.
///
/// # Errors
/// [`Error::Shape`] when sizes disagree, [`Error::Argument`] when `beta` is not in `0..=1`,
/// [`Error::NonFinite`] for a bridge that is not.
pub fn dense(
    a: &Tensor,
    signs: &Tensor,
    beta: f64,
    sign: Sign,
    norms: [f64; 2],
) -> Result<Bridged> {
    const OP: &str = "init::nest";
    let _guard = tch::no_grad_guard();
    let (outputs, inputs) = matrix(OP, "a", a)?;
    if signs.dim() != 3 || signs.size()[1..] != [outputs, inputs] {
        return Err(Error::shape(OP, "signs", format!("[k, {outputs}, {inputs}]"), signs));
    }
    if !(0.0..=1.0).contains(&beta) {
        let expected = "in 0..=1".to_owned();
        return Err(Error::Argument { op: OP, arg: "beta", expected, got: beta.to_string() });
    }
    let a = a.detach().to_kind(Kind::Double);
    finite(OP, "a", &a)?;
    let size = a.abs();
    let threshold = quantile(&mut to_vec(OP, &size)?, beta);
    let root = size.sqrt() * size.gt(threshold).to_kind(Kind::Double);
    let signs = signs.to_kind(Kind::Double);
    let delta = &signs * &root; // [k, outputs, inputs]
    let (into, out) = match sign {
        Sign::Ignored => (delta.shallow_clone(), delta.abs()),
        Sign::Descent => (&delta * -a.sign(), delta),
    };
    let sum = |x: &Tensor, axis: i64| x.sum_dim_intlist([axis].as_slice(), false, Kind::Double);
    Ok(Bridged {
        fan_in: rescaled(&sum(&into, 1), norms[0]),
        fan_out: rescaled(&sum(&out, 2), norms[1]).transpose(0, 1).contiguous(),
        threshold,
    })
}

/// Quantile with linear interpolation between order statistics.
fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = q * (values.len() - 1) as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(values.len() - 1);
    values[below] + (values[above] - values[below]) * (at - below as f64)
}

#[cfg(test)]
mod tests {
    #[test]
    fn quantiles_interpolate() {
        let q = |q| super::quantile(&mut [4.0, 1.0, 2.0, 3.0], q);
        assert!((q(0.5) - 2.5).abs() < 1e-15);
        assert!((q(0.4) - 2.2).abs() < 1e-15);
        assert!((q(0.0) - 1.0).abs() < 1e-15 && (q(1.0) - 4.0).abs() < 1e-15);
    }
}
