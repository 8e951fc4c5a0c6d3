//! How orthogonal the units of a layer are (section 2): the numbers that triggers compare.
//!
//! | symbol | name | shape |
//! | --- | --- | --- |
//! | `H` | activations | `[samples, units]` or `[batch, channels, height, width]` |
//! | `W` | fan-in weights | `[units, inputs]` or `[channels, inputs, kernel_h, kernel_w]` |
//! | `phi` | effective dimension over width | in `0..=1` |
//!
//! Everything is counted in float64, whatever the kind of the network: singular values near the
//! threshold decide whether a layer grows. Dead units, duplicates and constant units are ordinary
//! input; an empty batch or a NaN is an error. With fewer samples than units the count is bounded by
//! the samples, so keep the buffer at twice the largest width.

use crate::subspace::{finite, matrix, number, singular_values, to_vec};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use tensor_core::{Kind, Tensor, error::TorchContext};

/// What the activation matrix is divided by before its singular values meet the threshold.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scale {
    /// `sqrt(samples)`; for convolutions every position of every sample is one. The paper's.
    #[default]
    Samples,
    /// As the authors' released code: `sqrt(samples)` for dense layers, `sqrt(channels)` for
    /// convolutions.
    Released,
    /// `sqrt(units)` for both, as in the first author's `NeurOps`.
    Width,
}

/// Effective dimension of a layer: how many directions its units span.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dimension {
    /// Singular values strictly above the threshold.
    pub count: i64,
    /// Units.
    pub width: i64,
}

impl Dimension {
    /// `phi = count / width`; 0 for a layer without units.
    pub fn phi(self) -> f64 {
        if self.width > 0 { self.count as f64 / self.width as f64 } else { 0.0 }
    }
}

/// Activations as a matrix with one row per sample (and position) and one column per unit, float64.
///
/// # Errors
/// [`Error::Shape`] when `h` is neither a matrix nor a batch of images, or is empty.
pub fn by_unit(h: &Tensor) -> Result<Tensor> {
    const OP: &str = "metric::by_unit";
    let _guard = tch::no_grad_guard();
    let h = h.detach().f_to_kind(Kind::Double).op(OP)?;
    let rows = match h.dim() {
        2 => h,
        4 => h.permute([0, 2, 3, 1]).reshape([-1, h.size()[1]]),
        _ => return Err(Error::shape(OP, "h", "[samples, units] or [batch, channels, h, w]", &h)),
    };
    matrix(OP, "h", &rows)?;
    Ok(rows)
}

/// Fan-in weights as a matrix with one row per unit, float64: kernels are flattened.
///
/// # Errors
/// [`Error::Shape`] when `w` has fewer than two axes or is empty.
pub fn by_fan_in(w: &Tensor) -> Result<Tensor> {
    const OP: &str = "metric::by_fan_in";
    let _guard = tch::no_grad_guard();
    if w.dim() < 2 || w.numel() == 0 {
        return Err(Error::shape(OP, "w", "[units, inputs, ..] and not empty", w));
    }
    let w = w.detach().f_to_kind(Kind::Double).op(OP)?;
    Ok(w.reshape([w.size()[0], -1]))
}

fn divisor(h: &Tensor, rows: &Tensor, scale: Scale) -> f64 {
    let (n, units) = (rows.size()[0] as f64, rows.size()[1] as f64);
    match scale {
        Scale::Width => units,
        Scale::Released if h.dim() == 4 => units,
        Scale::Samples | Scale::Released => n,
    }
}

/// Singular values of the scaled activation matrix, descending; `min(samples, units)` of them.
///
/// # Errors
/// [`Error::Shape`] for an empty or misshapen `h`, [`Error::NonFinite`] for NaN or infinity.
pub fn activation_spectrum(h: &Tensor, scale: Scale) -> Result<Vec<f64>> {
    let rows = by_unit(h)?;
    let by = divisor(h, &rows, scale).sqrt();
    singular_values("metric::activation_spectrum", &(rows / by))
}

/// `phi_ED` of activations (section 2.1): singular values of `H / sqrt(n)` strictly above `eps`.
///
/// Goes through the smaller Gram matrix, and through a singular value decomposition only when an
/// eigenvalue lies so close to `eps^2` that rounding could decide.
///
/// # Errors
/// As [`activation_spectrum`]; [`Error::Argument`] when `eps` is not positive.
pub fn activation_dimension(h: &Tensor, eps: f64, scale: Scale) -> Result<Dimension> {
    let rows = by_unit(h)?;
    let by = divisor(h, &rows, scale);
    count_above("metric::activation_dimension", &rows, by, eps, rows.size()[1])
}

/// `phi_ED` of fan-in weights: singular values of `W / sqrt(fan_in)` strictly above `eps`, kernels
/// flattened. Cannot exceed `fan_in`.
///
/// # Errors
/// As [`activation_dimension`].
pub fn weight_dimension(w: &Tensor, eps: f64) -> Result<Dimension> {
    let rows = by_fan_in(w)?;
    let by = rows.size()[1] as f64;
    count_above("metric::weight_dimension", &rows, by, eps, rows.size()[0])
}

/// Singular values of `W / sqrt(fan_in)`, descending.
///
/// # Errors
/// As [`activation_spectrum`].
pub fn weight_spectrum(w: &Tensor) -> Result<Vec<f64>> {
    let rows = by_fan_in(w)?;
    let by = (rows.size()[1] as f64).sqrt();
    singular_values("metric::weight_spectrum", &(rows / by))
}

fn count_above(op: &'static str, x: &Tensor, by: f64, eps: f64, width: i64) -> Result<Dimension> {
    if !eps.is_finite() || eps <= 0.0 {
        let expected = "finite and > 0".to_owned();
        return Err(Error::Argument { op, arg: "eps", expected, got: eps.to_string() });
    }
    let _guard = tch::no_grad_guard();
    let (rows, columns) = matrix(op, "x", x)?;
    let t = x.transpose(0, 1);
    let gram = if rows < columns { x.matmul(&t) } else { t.matmul(x) } / by;
    finite(op, "activations or weights", &gram)?;
    let values = to_vec(op, &gram.f_linalg_eigvalsh("L").op(op)?)?;
    let threshold = eps * eps;
    let largest = values.last().copied().unwrap_or(0.0);
    let doubt = 16.0 * values.len() as f64 * f64::EPSILON * largest;
    let count = if values.iter().any(|v| (v - threshold).abs() <= doubt) {
        let exact = singular_values(op, &(x / by.sqrt()))?;
        exact.iter().filter(|s| **s > eps).count()
    } else {
        values.iter().filter(|v| **v > threshold).count()
    };
    Ok(Dimension { count: count as i64, width })
}

/// Rows at random positions, at most `ratio` times the number of columns: bounds the cost of a count
/// on convolutional activations (`limit_ratio` of `NeurOps`).
///
/// # Errors
/// [`Error::Argument`] when `ratio` is below 1: fewer rows than units would bound the count.
pub fn subsample(rows: &Tensor, ratio: f64, rng: &mut impl rand::Rng) -> Result<Tensor> {
    const OP: &str = "metric::subsample";
    let (n, units) = matrix(OP, "rows", rows)?;
    if !ratio.is_finite() || ratio < 1.0 {
        let expected = "finite and >= 1".to_owned();
        return Err(Error::Argument { op: OP, arg: "ratio", expected, got: ratio.to_string() });
    }
    let keep = ((ratio * units as f64).ceil() as i64).min(n);
    if keep == n {
        return Ok(rows.shallow_clone());
    }
    let mut index: Vec<i64> =
        rand::seq::index::sample(rng, n as usize, keep as usize).iter().map(|i| i as i64).collect();
    index.sort_unstable();
    Ok(rows.f_index_select(0, &Tensor::from_slice(&index).to_device(rows.device())).op(OP)?)
}

/// Between what an orthogonality gap is taken.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Between {
    /// Samples: `G = H H^T`, as the released code.
    Samples,
    /// Units: `G = H^T H`.
    Units,
}

/// Orthogonality gap `|| G / tr G - I / n ||_F` (section 2.2); `None` when all activations are 0,
/// where it is undefined.
///
/// # Errors
/// As [`activation_spectrum`].
pub fn orthogonality_gap(h: &Tensor, between: Between) -> Result<Option<f64>> {
    const OP: &str = "metric::orthogonality_gap";
    let _guard = tch::no_grad_guard();
    let rows = by_unit(h)?;
    finite(OP, "h", &rows)?;
    let x = if between == Between::Samples { rows } else { rows.transpose(0, 1) };
    let (n, inner) = matrix(OP, "h", &x)?;
    let t = x.transpose(0, 1);
    // Both Gram matrices have the same trace and the same norm; the larger is never formed.
    let small = if n <= inner { x.matmul(&t) } else { t.matmul(&x) };
    let trace = number(OP, &small.trace())?;
    if trace <= 0.0 {
        return Ok(None);
    }
    let small = small / trace;
    let gap_sq = if n <= inner {
        let identity = Tensor::eye(n, (Kind::Double, small.device())) / n as f64;
        number(OP, &(small - identity).square().sum(Kind::Double))?
    } else {
        number(OP, &small.square().sum(Kind::Double))? - 1.0 / n as f64
    };
    Ok(Some(gap_sq.max(0.0).sqrt()))
}

/// `sum_{i > j} K_ij / (units n^2)` with `K_ij` the number of units that are on for both samples or
/// off for both (section 2.2): the smaller, the better the layer tells samples apart.
///
/// # Errors
/// As [`activation_spectrum`].
pub fn relu_agreement(h: &Tensor) -> Result<f64> {
    const OP: &str = "metric::relu_agreement";
    let _guard = tch::no_grad_guard();
    let rows = by_unit(h)?;
    finite(OP, "h", &rows)?;
    let (n, units) = matrix(OP, "h", &rows)?;
    let (n, units) = (n as f64, units as f64);
    let on =
        rows.gt(0.0).to_kind(Kind::Double).sum_dim_intlist([0_i64].as_slice(), false, Kind::Double);
    let pairs = number(OP, &(on.square() + (on * -1.0 + n).square()).sum(Kind::Double))?;
    Ok((pairs - n * units) / 2.0 / units / (n * n))
}

/// What a trigger measures on activations.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Singular values above the threshold. The paper's.
    #[default]
    EffectiveDimension,
    /// `ceil((1 - gap) M)` with the gap between samples; 0 when all activations are 0.
    OrthogonalityGap,
    /// `ceil((1 - agreement) M)`.
    ReluSeparation,
}

impl Metric {
    /// The metric as a count of directions.
    ///
    /// # Errors
    /// As [`activation_dimension`].
    pub fn measure(self, h: &Tensor, eps: f64, scale: Scale) -> Result<Dimension> {
        let fraction = match self {
            Self::EffectiveDimension => return activation_dimension(h, eps, scale),
            Self::OrthogonalityGap => {
                orthogonality_gap(h, Between::Samples)?.map_or(0.0, |gap| 1.0 - gap)
            }
            Self::ReluSeparation => 1.0 - relu_agreement(h)?,
        };
        let width = h.size()[1];
        // A tie that rounding puts just above a whole number stays that number.
        let count = (fraction * width as f64 - 1e-9).ceil().max(0.0) as i64;
        Ok(Dimension { count, width })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor_core::Device;

    fn table(values: &[f64], size: [i64; 2]) -> Tensor {
        Tensor::from_slice(values).reshape(size)
    }

    #[test]
    fn two_directions_by_hand() {
        // Columns: e1, 2 e1, e2, 0 over four samples; divided by sqrt(4).
        let h = table(
            &[1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [4, 4],
        );
        let s = activation_spectrum(&h, Scale::Samples).unwrap();
        assert!((s[0] - 5_f64.sqrt() / 2.0).abs() < 1e-14 && (s[1] - 0.5).abs() < 1e-14);
        let d = activation_dimension(&h, 0.01, Scale::Samples).unwrap();
        assert_eq!((d.count, d.width), (2, 4));
        // The threshold is strict: 0.5 is not above 0.5.
        assert_eq!(activation_dimension(&h, 0.5, Scale::Samples).unwrap().count, 1);
    }

    #[test]
    fn the_scale_of_convolutions_has_three_conventions() {
        // One channel of constant 0.05 on 2 x 8 x 8: |h| = 0.05 sqrt(128).
        let h = Tensor::full([2, 1, 8, 8], 0.05, (Kind::Double, Device::Cpu));
        let top = |scale| activation_spectrum(&h, scale).unwrap()[0];
        assert!((top(Scale::Samples) - 0.05).abs() < 1e-12);
        assert!((top(Scale::Width) - 0.05 * 128_f64.sqrt()).abs() < 1e-12);
        assert!((top(Scale::Released) - top(Scale::Width)).abs() < 1e-12);
        let dense = h.reshape([128, 1]);
        let released = activation_spectrum(&dense, Scale::Released).unwrap()[0];
        assert!((released - 0.05).abs() < 1e-12);
    }

    #[test]
    fn what_cannot_be_measured_is_an_error() {
        let empty = Tensor::zeros([0, 3], (Kind::Float, Device::Cpu));
        assert!(activation_dimension(&empty, 0.01, Scale::Samples).is_err());
        let nan = table(&[1.0, f64::NAN], [2, 1]);
        let message = activation_dimension(&nan, 0.01, Scale::Samples).unwrap_err().to_string();
        assert!(message.contains("not finite"), "{message}");
        let fine = table(&[1.0, 2.0], [2, 1]);
        assert!(activation_dimension(&fine, 0.0, Scale::Samples).is_err());
        assert!(activation_dimension(&fine.reshape([2, 1, 1]), 0.01, Scale::Samples).is_err());
        let zeros = table(&[0.0, 0.0], [2, 1]);
        assert_eq!(activation_dimension(&zeros, 0.01, Scale::Samples).unwrap().count, 0);
        assert_eq!(orthogonality_gap(&zeros, Between::Samples).unwrap(), None);
        assert_eq!(
            Metric::OrthogonalityGap.measure(&zeros, 0.01, Scale::Samples).unwrap().count,
            0
        );
    }
}
