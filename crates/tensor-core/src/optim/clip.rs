//! Clipping by the norm of all gradients, decided on the device.

use crate::{Error, ParamStore, Result, error::TorchContext};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

const OP: &str = "clip_grad_norm";

/// What to do when the gradient norm is NaN or infinite. Either way no parameter is touched.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NonFinite {
    /// An error. On the CPU it is raised at once; on a CUDA device, where looking costs a
    /// synchronisation, the step is skipped and [`GradNorm::check`] raises it where it is called.
    #[default]
    Error,
    /// The step is skipped: parameters, moments and step counts stay.
    Skip,
}

/// How gradients are clipped.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipConfig {
    /// Largest norm of all gradients together; `f64::INFINITY` only measures.
    pub max_norm: f64,
    /// When the norm is not finite.
    #[serde(default)]
    pub non_finite: NonFinite,
}

impl ClipConfig {
    /// Clips to `max_norm`; a norm that is not finite is an error.
    pub fn new(max_norm: f64) -> Self {
        Self { max_norm, non_finite: NonFinite::Error }
    }
}

/// Result of clipping: the norm, and the flag that makes a guarded step skip itself.
#[derive(Debug)]
pub struct GradNorm {
    /// 2-norm of all gradients before clipping, a scalar tensor on the device.
    pub norm: Tensor,
    /// 1 when `norm` is not finite, else 0; scalar float32.
    pub(crate) found_inf: Tensor,
}

impl GradNorm {
    /// Reads the norm from the device.
    ///
    /// # Errors
    /// [`Error::NonFinite`] when it is NaN or infinite.
    pub fn check(&self) -> Result<f64> {
        let norm = self.norm.f_double_value(&[]).op(OP)?;
        if norm.is_finite() {
            return Ok(norm);
        }
        Err(Error::NonFinite { op: OP, what: "norm of all gradients".to_owned(), step: 0 })
    }
}

/// Multiplies all gradients by `min(1, max_norm / (norm + 1e-6))`, where `norm` is the 2-norm of all
/// of them together, as `PyTorch` does, without reading the norm back to the host. Gradients whose
/// norm is not finite are left as they are. Without any gradient the norm is 0.
///
/// # Errors
/// [`Error::Argument`] when `max_norm` is not positive; [`Error::NonFinite`] as [`NonFinite`] says.
pub fn clip_grad_norm(store: &ParamStore, config: &ClipConfig) -> Result<GradNorm> {
    if config.max_norm.is_nan() || config.max_norm <= 0.0 {
        return Err(Error::Argument {
            op: OP,
            arg: "max_norm",
            expected: "> 0".to_owned(),
            got: config.max_norm.to_string(),
        });
    }
    let _guard = tch::no_grad_guard();
    let mut grads: Vec<Tensor> = store.trainable().filter_map(crate::Param::grad).collect();
    if grads.is_empty() {
        let zero = Tensor::f_zeros([0_i64; 0], (Kind::Float, store.device())).op(OP)?;
        return Ok(GradNorm { norm: zero.shallow_clone(), found_inf: zero });
    }
    let norm = total_norm(grads.iter().map(Tensor::shallow_clone))?;
    let finite = norm.f_isfinite().op(OP)?;
    let found_inf = finite.f_logical_not().and_then(|f| f.f_to_kind(Kind::Float)).op(OP)?;
    let result = GradNorm { norm, found_inf };
    if norm_is_on_host(&result.norm) && config.non_finite == NonFinite::Error {
        result.check()?;
    }
    if config.max_norm.is_finite() {
        // One multiplication for both cases: the factor is 1 when nothing is to be done.
        let factor = (&result.norm + 1e-6).f_reciprocal().op(OP)? * config.max_norm;
        let factor = factor.f_clamp_max(1.0).op(OP)?;
        let factor = factor.f_where_self(&finite, &factor.ones_like()).op(OP)?;
        for grad in &mut grads {
            let factor = if grad.kind() == factor.kind() {
                factor.shallow_clone()
            } else {
                factor.to_kind(grad.kind())
            };
            let _ = grad.f_mul_(&factor).op(OP)?;
        }
    }
    Ok(result)
}

fn norm_is_on_host(norm: &Tensor) -> bool {
    norm.device() == Device::Cpu
}

/// 2-norm over all elements of all tensors.
pub(crate) fn total_norm(tensors: impl Iterator<Item = Tensor>) -> Result<Tensor> {
    let norms: Vec<Tensor> =
        tensors.map(|t| Tensor::f_norm(&t)).collect::<std::result::Result<_, _>>().op(OP)?;
    let Some(first) = norms.first() else {
        return Tensor::f_zeros([0_i64; 0], (Kind::Float, Device::Cpu)).op(OP);
    };
    // Parameters of different kinds meet in the wider one.
    let wide =
        if norms.iter().any(|n| n.kind() == Kind::Double) { Kind::Double } else { first.kind() };
    let norms: Vec<Tensor> = norms.iter().map(|n| n.to_kind(wide)).collect();
    Tensor::f_stack(&norms, 0).and_then(|n| n.f_norm()).op(OP)
}
