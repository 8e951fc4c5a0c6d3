//! How new units start (sections 4, 9 and 10): fan-in and fan-out vectors from a layer's statistics.
//!
//! Functions on plain tensors, in float64 whatever came in. Rows are fan-in vectors `[k, inputs]`
//! (kernels flattened); fan-out vectors are columns `[outputs, k]`. Draws come in as tensors, so that
//! a caller can repeat or replace them.

pub mod firefly;
pub mod gradmax;
pub mod nest;
pub mod pre;
pub mod select;
pub mod tiny;
pub mod weight;

use crate::Result;
use crate::metric::by_fan_in;
use crate::subspace::{number, row_norms};
use rand::{Rng, RngExt};
use tensor_core::{Kind, Tensor};

/// Mean Euclidean norm of the rows of a weight: the length that new fan-in vectors get (section 4).
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) when `w` has no rows.
pub fn mean_row_norm(w: &Tensor) -> Result<f64> {
    number("init::mean_row_norm", &row_norms(&by_fan_in(w)?).mean(Kind::Double))
}

/// Mean Euclidean norm of what leaves a unit: columns of a dense weight, `[.., in, ..]` slices of a
/// kernel, blocks of `block` columns for a unit that was flattened from a map.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) when `w` is no weight or has no units.
pub fn mean_fan_out_norm(w: &Tensor, block: i64) -> Result<f64> {
    mean_row_norm(&by_fan_out(w, block)?)
}

/// Fan-out vectors as rows: `[units, outputs * block * kernel]`, float64.
///
/// # Errors
/// [`Error::Shape`](crate::Error::Shape) when axis 1 of `w` is not a multiple of `block`.
pub fn by_fan_out(w: &Tensor, block: i64) -> Result<Tensor> {
    const OP: &str = "init::by_fan_out";
    let _guard = tch::no_grad_guard();
    let size = w.size();
    if size.len() < 2 || block < 1 || size[1] < block || size[1] % block != 0 {
        let expected = format!("[outputs, units * {block}, ..]");
        return Err(crate::Error::shape(OP, "w", expected, w));
    }
    let w = w.detach().to_kind(Kind::Double).reshape([size[0], size[1] / block, -1]);
    by_fan_in(&w.transpose(0, 1).contiguous())
}

/// Rows rescaled to norm `target`; rows of zeros stay zeros.
pub fn rescaled(rows: &Tensor, target: f64) -> Tensor {
    let norms = row_norms(rows).unsqueeze(1);
    let zero = norms.eq(0.0).to_kind(Kind::Double);
    rows * target / (norms + zero)
}

/// Glorot-uniform rows `[k, fan_in]`: entries on `[-a, a]` with `a = sqrt(6 / (fan_in + fan_out))`.
/// Only the direction matters where rows are rescaled afterwards.
pub fn glorot(k: i64, fan_in: i64, fan_out: i64, rng: &mut impl Rng) -> Tensor {
    let a = (6.0 / (fan_in + fan_out).max(1) as f64).sqrt();
    let draws: Vec<f64> = (0..k * fan_in).map(|_| rng.random_range(-a..=a)).collect();
    Tensor::from_slice(&draws).reshape([k, fan_in])
}

/// Standard normal draws `[k, n]`.
pub fn normal(k: i64, n: i64, rng: &mut impl Rng) -> Tensor {
    use rand_distr::{Distribution, StandardNormal};
    let draws: Vec<f64> = StandardNormal.sample_iter(rng).take((k * n) as usize).collect();
    Tensor::from_slice(&draws).reshape([k, n])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_by_hand() {
        let w = Tensor::from_slice(&[3.0, 4.0, 0.0, 1.0]).reshape([2, 2]);
        assert!((mean_row_norm(&w).unwrap() - 3.0).abs() < 1e-15);
        assert!(
            (mean_fan_out_norm(&w, 1).unwrap() - f64::midpoint(3.0, 17_f64.sqrt())).abs() < 1e-15
        );
        assert!((mean_fan_out_norm(&w, 2).unwrap() - 26_f64.sqrt()).abs() < 1e-15);
        assert!(mean_fan_out_norm(&w, 3).is_err());
        let zero = Tensor::from_slice(&[0.0, 0.0, 3.0, 4.0]).reshape([2, 2]);
        let got = Vec::<Vec<f64>>::try_from(&rescaled(&zero, 10.0)).unwrap();
        assert_eq!(got, [[0.0, 0.0], [6.0, 8.0]]);
    }
}
