//! Splitting directions: Firefly's noise (section 4.5) and splitting steepest descent (section 10).

use crate::subspace::{matrix, row_norms};
use crate::{Error, Result};
use rand::{Rng, RngExt};
use tensor_core::{Kind, Tensor, error::TorchContext};

/// Noise of Firefly's splits: `u ~ U(-1, 1)^d` scaled to `eps ||w_m||` for each row of `w`
/// `[units, inputs]`.
///
/// # Errors
/// [`Error::Shape`] when `w` is no matrix.
pub fn split_noise(w: &Tensor, eps: f64, rng: &mut impl Rng) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let (rows, columns) = matrix("init::firefly", "w", w)?;
    let draws: Vec<f64> = (0..rows * columns).map(|_| rng.random_range(-1.0..=1.0)).collect();
    let noise = super::rescaled(&Tensor::from_slice(&draws).reshape([rows, columns]), eps);
    Ok(noise.to_device(w.device()) * row_norms(&w.detach().to_kind(Kind::Double)).unsqueeze(1))
}

/// Splitting matrices of a `ReLU` layer and their lowest eigenpairs (Liu et al. 2019):
/// `S(w) = E[ dL/dh * sigma''(z) x x^T ]`, with the second derivative of the softplus of sharpness
/// `beta` in the place of that of `ReLU`, which has none.
///
/// * `x`: `[samples, inputs]`; `z`: `[samples, units]`, pre-activations; `dh`: `[samples, units]`,
///   gradient of the mean loss at the activations
///
/// Returns the lowest eigenvalue of each unit, `[units]`, and its unit eigenvector, `[units, inputs]`.
/// Splitting a unit along it into two halves lowers the loss to second order where the eigenvalue is
/// negative.
///
/// # Errors
/// [`Error::Shape`] when sizes disagree, [`Error::Core`] when the factorisation fails.
pub fn splitting_directions(
    x: &Tensor,
    z: &Tensor,
    dh: &Tensor,
    beta: f64,
) -> Result<(Tensor, Tensor)> {
    const OP: &str = "init::firefly::splitting_directions";
    let _guard = tch::no_grad_guard();
    let (n, _) = matrix(OP, "x", x)?;
    let (rows, units) = matrix(OP, "z", z)?;
    if rows != n || dh.size() != [n, units] {
        return Err(Error::shape(OP, "dh", format!("[samples = {n}, units = {units}]"), dh));
    }
    let [x, z, dh] = [x, z, dh].map(|t| t.detach().to_kind(Kind::Double));
    let gate = (z * beta).sigmoid();
    // softplus'' = beta s (1 - s); the mean is inside dh already.
    let curvature = dh * (&gate * (-&gate + 1.0)) * beta; // [n, units]
    let mut lowest = Vec::new();
    let mut directions = Vec::new();
    for unit in 0..units {
        let weight = curvature.narrow(1, unit, 1);
        let s = (&x * weight).transpose(0, 1).matmul(&x);
        let (values, vectors) = s.f_linalg_eigh("L").op(OP)?;
        lowest.push(values.narrow(0, 0, 1));
        directions.push(vectors.narrow(1, 0, 1).transpose(0, 1));
    }
    Ok((Tensor::cat(&lowest, 0), Tensor::cat(&directions, 0)))
}
