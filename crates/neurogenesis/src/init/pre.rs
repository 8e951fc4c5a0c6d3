//! NORTH-Pre (section 4.2): fan-in whose pre-activations are orthogonal to the current ones.

use super::{mean_row_norm, rescaled};
use crate::metric::by_fan_in;
use crate::subspace::{epsilon, matrix, off, rank_tolerance, row_norms, spectrum, to_vec};
use crate::{Error, Result};
use tensor_core::{Kind, Tensor};

/// New fan-in vectors and what they promise.
#[derive(Debug)]
pub struct Rows {
    /// `pinv(X) (I - P_Z) z`, `[k, inputs]`.
    pub unscaled: Tensor,
    /// The same at the mean norm of the existing rows.
    pub rows: Tensor,
    /// `X rows^T`, `[samples, k]`.
    pub pre_activations: Tensor,
    /// Whether a row reaches its target: false when the layer's input has no direction left that the
    /// current units do not span, so that the row is rounding noise blown up by the rescaling. Use
    /// another initialisation for such rows.
    pub reachable: Vec<bool>,
}

/// Pulls `draws` `[k, samples]` (standard normal in sample space), projected off the span of the
/// current pre-activations `Z = X W^T + b`, back through `pinv(X)`.
///
/// `x` is the layer's input `[samples, inputs]`. The relative tolerance of the pseudo-inverse must
/// fit the precision of the *data*: by default `max(samples, inputs) eps(kind of x)`. A tiny
/// tolerance on float32 data inverts their rounding noise.
///
/// # Errors
/// [`Error::Shape`] when sizes disagree; [`Error::NonFinite`] for data that are not.
pub fn orthogonal_pre_activations(
    x: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    draws: &Tensor,
    rtol: Option<f64>,
) -> Result<Rows> {
    const OP: &str = "init::pre";
    let _guard = tch::no_grad_guard();
    let (n, inputs) = matrix(OP, "x", x)?;
    let target = mean_row_norm(w)?;
    let w = by_fan_in(w)?;
    if w.size()[1] != inputs {
        return Err(Error::shape(OP, "w", format!("[units, inputs = {inputs}]"), &w));
    }
    if draws.dim() != 2 || draws.size()[1] != n {
        return Err(Error::shape(OP, "draws", format!("[k, samples = {n}]"), draws));
    }
    let kind = x.kind();
    let noise = rank_tolerance(x);
    let x = x.detach().to_kind(Kind::Double);
    let mut z = x.matmul(&w.transpose(0, 1));
    if let Some(b) = b {
        z += b.detach().to_kind(Kind::Double);
    }
    let span = spectrum(OP, &z, n.max(w.size()[0]) as f64 * epsilon(kind))?;
    let wanted = off(&draws.to_kind(Kind::Double), &span.u); // [k, n]
    let input = spectrum(OP, &x, rtol.unwrap_or(noise))?;
    let unscaled = (wanted.matmul(&input.u) / &input.s).matmul(&input.v.transpose(0, 1));
    let reached = row_norms(&unscaled.matmul(&x.transpose(0, 1)));
    let (reached, asked) = (to_vec(OP, &reached)?, to_vec(OP, &row_norms(&wanted))?);
    // Rounding of the projection leaves about eps of the target; half the digits is far above it.
    let least = epsilon(kind).sqrt();
    let reachable = reached.iter().zip(&asked).map(|(r, a)| *r > least * a).collect();
    let rows = rescaled(&unscaled, target);
    let pre_activations = x.matmul(&rows.transpose(0, 1));
    Ok(Rows { unscaled, rows, pre_activations, reachable })
}
