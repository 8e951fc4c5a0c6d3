//! Spans and projections with a numerical rank, in float64.

use crate::{Error, Result};
use tensor_core::{Kind, Tensor, error::TorchContext};

/// Thin singular value decomposition `x = u diag(s) v^T`, cut to the numerical rank.
pub(crate) struct Spectrum {
    /// `[rows, rank]`, orthonormal columns.
    pub(crate) u: Tensor,
    /// `[rank]`, descending.
    pub(crate) s: Tensor,
    /// `[columns, rank]`, orthonormal columns.
    pub(crate) v: Tensor,
    /// Singular values above the tolerance.
    pub(crate) rank: i64,
}

/// Machine epsilon of the kind in which data came: what lies below it is rounding noise of the data,
/// however exact the arithmetic that follows (section 4.2).
pub(crate) fn epsilon(kind: Kind) -> f64 {
    match kind {
        Kind::Double => f64::EPSILON,
        Kind::Half => 9.765_625e-4,
        Kind::BFloat16 => 7.812_5e-3,
        _ => f64::from(f32::EPSILON),
    }
}

/// Relative tolerance of a numerical rank: `max(rows, columns) eps(kind)`.
pub(crate) fn rank_tolerance(x: &Tensor) -> f64 {
    let longest = x.size().into_iter().max().unwrap_or(1).max(1);
    longest as f64 * epsilon(x.kind())
}

/// Decomposes the matrix `x` and drops singular values of at most `rtol` times the largest one.
pub(crate) fn spectrum(op: &'static str, x: &Tensor, rtol: f64) -> Result<Spectrum> {
    let _guard = tch::no_grad_guard();
    let x = x.detach().f_to_kind(Kind::Double).op(op)?;
    let (u, s, v) = x.f_svd(true, true).op(op)?;
    let values = to_vec(op, &s)?;
    let largest = values.first().copied().unwrap_or(0.0);
    if !largest.is_finite() {
        return Err(Error::NonFinite { op, what: "matrix to decompose".to_owned() });
    }
    let rank = values.iter().filter(|s| **s > rtol * largest).count() as i64;
    Ok(Spectrum { u: u.narrow(1, 0, rank), s: s.narrow(0, 0, rank), v: v.narrow(1, 0, rank), rank })
}

/// Singular values of the matrix `x`, descending.
pub(crate) fn singular_values(op: &'static str, x: &Tensor) -> Result<Vec<f64>> {
    let _guard = tch::no_grad_guard();
    let x = x.detach().f_to_kind(Kind::Double).op(op)?;
    finite(op, "matrix to decompose", &x)?;
    let (_, s, _) = x.f_svd(true, false).op(op)?;
    to_vec(op, &s)
}

/// Rows of `x` `[k, d]` minus their projection on the orthonormal columns of `basis` `[d, r]`. Twice,
/// because once leaves rounding of the size of the projection.
pub(crate) fn off(x: &Tensor, basis: &Tensor) -> Tensor {
    let once = x - x.matmul(basis).matmul(&basis.transpose(0, 1));
    &once - once.matmul(basis).matmul(&basis.transpose(0, 1))
}

/// Euclidean norm of each row of a matrix, `[rows]`.
pub(crate) fn row_norms(x: &Tensor) -> Tensor {
    x.square().sum_dim_intlist([1_i64].as_slice(), false, x.kind()).sqrt()
}

/// Values of any tensor as float64, row-major.
pub(crate) fn to_vec(op: &'static str, x: &Tensor) -> Result<Vec<f64>> {
    let flat = x
        .detach()
        .f_to_kind(Kind::Double)
        .and_then(|x| x.f_to_device(tensor_core::Device::Cpu))
        .and_then(|x| x.f_reshape([-1]))
        .op(op)?;
    Ok(Vec::<f64>::try_from(&flat).op(op)?)
}

/// One number.
pub(crate) fn number(op: &'static str, x: &Tensor) -> Result<f64> {
    Ok(x.f_double_value(&[]).op(op)?)
}

/// Fails when an entry of `x` is NaN or infinite.
pub(crate) fn finite(op: &'static str, what: &str, x: &Tensor) -> Result<()> {
    // One pass: a NaN or an infinity anywhere makes the sum of `0 x` NaN.
    let sum = (x.detach() * 0.0).sum(Kind::Double);
    if number(op, &sum)?.is_finite() {
        return Ok(());
    }
    Err(Error::NonFinite { op, what: what.to_owned() })
}

/// Checks for a matrix with at least one row and one column.
pub(crate) fn matrix(op: &'static str, arg: &'static str, x: &Tensor) -> Result<(i64, i64)> {
    match x.size()[..] {
        [rows, columns] if rows > 0 && columns > 0 => Ok((rows, columns)),
        _ => Err(Error::shape(op, arg, "a matrix with at least one row and one column", x)),
    }
}
