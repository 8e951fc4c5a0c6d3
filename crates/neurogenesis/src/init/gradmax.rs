//! `GradMax` (section 9): fan-in zero, fan-out where the gradient of the new fan-in is largest.

use crate::subspace::{matrix, spectrum};
use crate::{Error, Result};
use tensor_core::{Kind, Tensor, error::TorchContext};

/// New fan-out vectors.
#[derive(Debug)]
pub struct FanOut {
    /// Dense: `[outputs, k]`; convolution: `[outputs, k, k2, k2]`. May hold fewer than the `k` asked
    /// for: no more than the bridge has singular vectors.
    pub fan_out: Tensor,
    /// Singular values of the bridge, descending, all of them.
    pub singular_values: Vec<f64>,
}

/// `A = (dL/dZ_{l+1})^T H_{l-1}`, `[outputs, inputs]`: the gradient of a zero weight that bridges
/// layer `l`. `dz` is the gradient of the *mean* loss, `[samples, outputs]`; `x` is what layer `l`
/// reads, `[samples, inputs]`.
///
/// # Errors
/// [`Error::Shape`] when samples disagree.
pub fn bridge(dz: &Tensor, x: &Tensor) -> Result<Tensor> {
    const OP: &str = "init::gradmax::bridge";
    let _guard = tch::no_grad_guard();
    let (n, _) = matrix(OP, "dz", dz)?;
    if matrix(OP, "x", x)?.0 != n {
        return Err(Error::shape(OP, "x", format!("[samples = {n}, inputs]"), x));
    }
    let both = [dz, x].map(|t| t.detach().to_kind(Kind::Double));
    Ok(both[0].transpose(0, 1).matmul(&both[1]))
}

/// Top `k` left singular vectors of the bridge `a` `[outputs, inputs]`, each of norm `norm`.
///
/// # Errors
/// [`Error::Shape`] when `a` is empty, [`Error::NonFinite`] when it is not finite.
pub fn dense(a: &Tensor, k: i64, norm: f64) -> Result<FanOut> {
    const OP: &str = "init::gradmax::dense";
    matrix(OP, "a", a)?;
    // No direction is dropped for being small, as in the papers; a bridge of zeros has none.
    let spectrum = spectrum(OP, a, -1.0)?;
    let k = k.clamp(0, spectrum.rank);
    Ok(FanOut {
        fan_out: spectrum.u.narrow(1, 0, k) * norm,
        singular_values: crate::subspace::to_vec(OP, &spectrum.s)?,
    })
}

/// Gradient of the zero kernel `[outputs, inputs, size, size]` that bridges two convolutions: from
/// `x` `[batch, inputs, height, width]`, what layer `l` reads, to `dz`
/// `[batch, outputs, height', width']`, the gradient at the pre-activation of layer `l + 1`.
///
/// `size = k1 + k2 - 1`, `padding = p1 + p2`, `stride` the product of both strides.
///
/// # Errors
/// [`Error::Shape`] when the sizes do not belong to such a convolution.
pub fn conv_bridge(
    dz: &Tensor,
    x: &Tensor,
    size: [i64; 2],
    stride: [i64; 2],
    padding: [i64; 2],
) -> Result<Tensor> {
    const OP: &str = "init::gradmax::conv_bridge";
    let _guard = tch::no_grad_guard();
    let (sx, sz) = (x.size(), dz.size());
    if sx.len() != 4 || sz.len() != 4 || sx[0] != sz[0] {
        return Err(Error::shape(OP, "dz", format!("a batch of images as x {sx:?}"), dz));
    }
    for i in 0..2 {
        let out = (sx[2 + i] + 2 * padding[i] - size[i]).div_euclid(stride[i].max(1)) + 1;
        if out != sz[2 + i] {
            let expected =
                format!("what a kernel of {size:?} makes of x {sx:?}: {out} on axis {}", i + 2);
            return Err(Error::shape(OP, "dz", expected, dz));
        }
    }
    // g[o, i, p] = sum_{n, y} dz[n, o, y] x[n, i, stride y + p]: a correlation with dz as kernel.
    let [x, dz] = [x, dz].map(|t| t.detach().to_kind(Kind::Double).transpose(0, 1).contiguous());
    let none: Option<Tensor> = None;
    let g = x.f_conv2d(&dz, none, [1, 1], padding, stride, 1).op(OP)?; // [inputs, outputs, .., ..]
    Ok(g.narrow(2, 0, size[0]).narrow(3, 0, size[1]).transpose(0, 1).contiguous())
}

/// Rows `(input, p)`, columns `(output, i)`, entry `g[output, input, p + i]`, for `p` in `k1 x k1`
/// and `i` in `k2 x k2` (section 6, cross-correlation as libtorch's convolution).
///
/// # Errors
/// [`Error::Shape`] when `g` `[outputs, inputs, K, K]` is not of size `K = k1 + k2 - 1`.
pub fn grow_matrix(g: &Tensor, k1: [i64; 2], k2: [i64; 2]) -> Result<Tensor> {
    const OP: &str = "init::gradmax::grow_matrix";
    let _guard = tch::no_grad_guard();
    let want = [k1[0] + k2[0] - 1, k1[1] + k2[1] - 1];
    let size = g.size();
    if size.len() != 4 || size[2..] != want || k1.iter().chain(&k2).any(|k| *k < 1) {
        return Err(Error::shape(
            OP,
            "g",
            format!("[outputs, inputs, {}, {}]", want[0], want[1]),
            g,
        ));
    }
    let (m2, m0) = (size[0], size[1]);
    // Windows of k2 at each of the k1 positions: [m2, m0, k1h, k1w, k2h, k2w].
    let windows = g.detach().to_kind(Kind::Double).unfold(2, k2[0], 1).unfold(3, k2[1], 1);
    let rows = windows.permute([1, 2, 3, 0, 4, 5]);
    Ok(rows.reshape([m0 * k1[0] * k1[1], m2 * k2[0] * k2[1]]))
}

/// Fan-out kernels: the top `k` right singular vectors of the [`grow_matrix`], each of norm `norm`.
///
/// # Errors
/// As [`dense`]; [`Error::Shape`] when the columns are not a multiple of the kernel's area.
pub fn conv(matrix: &Tensor, k: i64, k2: [i64; 2], norm: f64) -> Result<FanOut> {
    const OP: &str = "init::gradmax::conv";
    let (_, columns) = crate::subspace::matrix(OP, "matrix", matrix)?;
    let area = k2[0] * k2[1];
    if area < 1 || columns % area != 0 {
        return Err(Error::shape(OP, "matrix", format!("[rows, outputs * {area}]"), matrix));
    }
    let spectrum = spectrum(OP, matrix, -1.0)?;
    let k = k.clamp(0, spectrum.rank);
    let kernels =
        spectrum.v.narrow(1, 0, k).transpose(0, 1).reshape([k, columns / area, k2[0], k2[1]]);
    Ok(FanOut {
        fan_out: kernels.transpose(0, 1).contiguous() * norm,
        singular_values: crate::subspace::to_vec(OP, &spectrum.s)?,
    })
}
