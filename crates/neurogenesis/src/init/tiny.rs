//! TINY (section 10): new units along the part of the desired update that the layer cannot express.

use crate::subspace::{finite, matrix, spectrum, to_vec};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use tensor_core::{Kind, Tensor, error::TorchContext};

/// Which directions count.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Thresholds {
    /// Eigenvalues of `S` below it are dropped.
    pub numerical: f64,
    /// Singular values of `S^{-1/2} N` below it are dropped, except the first.
    pub statistical: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { numerical: 1e-6, statistical: 1e-3 }
    }
}

/// All that TINY computes for one layer.
#[derive(Debug)]
pub struct Expansion {
    /// `[k, inputs]`: `alpha_j = sqrt(s_j) S^{-1/2} u_j`.
    pub fan_in: Tensor,
    /// `[outputs, k]`: `omega_j = sqrt(s_j) v_j`.
    pub fan_out: Tensor,
    /// Best change of the existing fan-out weights, transposed: `[mid, outputs]`.
    pub delta: Tensor,
    /// What the existing weights cannot express of the desired update, `[samples, outputs]`.
    pub residual: Tensor,
    /// `S = E[x x^T]`, `[inputs, inputs]`.
    pub s: Tensor,
    /// `N = E[x V_perp^T]`, `[inputs, outputs]`.
    pub n: Tensor,
    /// Singular values of `S^{-1/2} N`, all, descending.
    pub singular_values: Vec<f64>,
    /// First-order decrease of the loss per unit step: the sum of the squares of the kept ones.
    pub first_order_gain: f64,
}

/// Expands a dense layer.
///
/// * `x`: `[samples, inputs]`, what the layer reads
/// * `h_mid`: `[samples, mid]`, its activations
/// * `dz`: `[samples, outputs]`, gradient of the *mean* loss at the next pre-activation
///
/// The pair is not function preserving until scaled; a line search on a common amplitude belongs to
/// it.
///
/// # Errors
/// [`Error::Shape`] when samples disagree, [`Error::NonFinite`] for data that are not.
pub fn dense(
    x: &Tensor,
    h_mid: &Tensor,
    dz: &Tensor,
    max_added: i64,
    thresholds: Thresholds,
) -> Result<Expansion> {
    const OP: &str = "init::tiny";
    let _guard = tch::no_grad_guard();
    let (samples, _) = matrix(OP, "x", x)?;
    for (arg, t) in [("h_mid", h_mid), ("dz", dz)] {
        if matrix(OP, arg, t)?.0 != samples {
            return Err(Error::shape(OP, arg, format!("[samples = {samples}, ..]"), t));
        }
    }
    let [x, h_mid, dz] = [x, h_mid, dz].map(|t| t.detach().to_kind(Kind::Double));
    for (what, t) in [("x", &x), ("h_mid", &h_mid), ("dz", &dz)] {
        finite(OP, what, t)?;
    }
    let n = samples as f64;
    let desired = dz * -n; // per sample
    let mid = spectrum(OP, &h_mid, crate::subspace::rank_tolerance(&h_mid))?;
    let inside = mid.u.transpose(0, 1).matmul(&desired);
    let delta = (&mid.v / &mid.s).matmul(&inside); // [mid, outputs]
    let residual = &desired - h_mid.matmul(&delta);

    let s = x.transpose(0, 1).matmul(&x) / n;
    let cross = x.transpose(0, 1).matmul(&residual) / n;
    let (values, vectors) = s.f_linalg_eigh("L").op(OP)?;
    let kept = values.ge(thresholds.numerical).to_kind(Kind::Double);
    let inverse = kept / values.clamp_min(thresholds.numerical.max(f64::MIN_POSITIVE)).sqrt();
    let root = (&vectors * inverse).matmul(&vectors.transpose(0, 1)); // S^{-1/2}
    let directions = spectrum(OP, &root.matmul(&cross), -1.0)?;
    let all = to_vec(OP, &directions.s)?;
    let above = all.iter().filter(|v| **v >= thresholds.statistical).count().max(1);
    let k = (above as i64).min(max_added.max(0)).min(all.len() as i64);
    let first_order_gain = all.iter().take(k as usize).map(|v| v * v).sum();
    let amplitude = directions.s.narrow(0, 0, k).sqrt();
    let fan_in = root.matmul(&directions.u.narrow(1, 0, k)) * &amplitude; // [inputs, k]
    let fan_out = directions.v.narrow(1, 0, k) * &amplitude;
    Ok(Expansion {
        fan_in: fan_in.transpose(0, 1).contiguous(),
        fan_out,
        delta,
        residual,
        s,
        n: cross,
        singular_values: all,
        first_order_gain,
    })
}
