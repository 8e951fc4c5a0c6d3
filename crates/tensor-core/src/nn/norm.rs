//! Normalisation over the last dimension.

use super::last_dim;
use crate::{Error, Init, Param, ParamPath, Result, Role, compute::is_float};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// `y = (x - mean(x)) / sqrt(var(x) + eps) * w + b` over the last dimension, with the biased variance.
///
/// Initial values: `w` ones, `b` zeros. Computed in the element type of the parameters, whatever
/// that of `x`.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    /// `w: [d_model]`.
    pub weight: Param,
    /// `b: [d_model]`, may be absent.
    pub bias: Option<Param>,
    /// Added to the variance.
    pub eps: f64,
}

impl LayerNorm {
    /// A norm over `d_model` features; `PyTorch`'s default `eps` is 1e-5.
    ///
    /// # Errors
    /// Those of [`ParamPath::param`].
    pub fn new(path: &mut ParamPath<'_>, d_model: i64, eps: f64, bias: bool) -> Result<Self> {
        let weight = path.param("weight", &[d_model], Role::Norm, &Init::Ones)?;
        let bias =
            bias.then(|| path.param("bias", &[d_model], Role::Norm, &Init::Zeros)).transpose()?;
        Ok(Self { weight, bias, eps })
    }

    /// Normalises `x: [.., d_model]`; the result has its sizes.
    ///
    /// # Errors
    /// [`Error::Shape`] when the last dimension is not `d_model`, [`Error::Kind`] for integers.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let weight = self.weight.value();
        let size = weight.size();
        last_dim("LayerNorm::forward", "x", x, "d_model", size[0])?;
        float("LayerNorm::forward", x)?;
        let bias = self.bias.as_ref().map(Param::value);
        let kind = weight.kind();
        Ok(x.to_kind(kind).layer_norm(&size, Some(weight), bias, self.eps, true))
    }
}

/// `y = x / sqrt(mean(x^2) + eps) * w` over the last dimension.
///
/// Initial values: ones. Computed in the element type of the parameters, whatever that of `x`.
#[derive(Clone, Debug)]
pub struct RmsNorm {
    /// `w: [d_model]`.
    pub weight: Param,
    /// Added to the mean square.
    pub eps: f64,
}

impl RmsNorm {
    /// A norm over `d_model` features.
    ///
    /// # Errors
    /// Those of [`ParamPath::param`].
    pub fn new(path: &mut ParamPath<'_>, d_model: i64, eps: f64) -> Result<Self> {
        Ok(Self { weight: path.param("weight", &[d_model], Role::Norm, &Init::Ones)?, eps })
    }

    /// Normalises `x: [.., d_model]`; the result has its sizes.
    ///
    /// # Errors
    /// [`Error::Shape`] when the last dimension is not `d_model`, [`Error::Kind`] for integers.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let weight = self.weight.value();
        let size = weight.size();
        last_dim("RmsNorm::forward", "x", x, "d_model", size[0])?;
        float("RmsNorm::forward", x)?;
        let kind = weight.kind();
        Ok(x.to_kind(kind).rms_norm(&size, Some(weight), self.eps))
    }
}

/// Which normalisation a network uses.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// [`RmsNorm`].
    #[default]
    Rms,
    /// [`LayerNorm`].
    Layer,
}

/// Either normalisation.
#[derive(Clone, Debug)]
pub enum Norm {
    /// Root-mean-square norm.
    Rms(RmsNorm),
    /// Layer norm.
    Layer(LayerNorm),
}

impl Norm {
    /// A norm of the given kind; `bias` is for the layer norm alone.
    ///
    /// # Errors
    /// Those of [`ParamPath::param`].
    pub fn new(
        path: &mut ParamPath<'_>,
        kind: NormKind,
        d_model: i64,
        eps: f64,
        bias: bool,
    ) -> Result<Self> {
        Ok(match kind {
            NormKind::Rms => Self::Rms(RmsNorm::new(path, d_model, eps)?),
            NormKind::Layer => Self::Layer(LayerNorm::new(path, d_model, eps, bias)?),
        })
    }

    /// Normalises `x: [.., d_model]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the last dimension is not `d_model`, [`Error::Kind`] for integers.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Rms(norm) => norm.forward(x),
            Self::Layer(norm) => norm.forward(x),
        }
    }
}

fn float(op: &'static str, x: &Tensor) -> Result<()> {
    if is_float(x.kind()) {
        return Ok(());
    }
    let expected = "a floating-point kind".to_owned();
    Err(Error::Kind { op, arg: "x".to_owned(), expected, got: x.kind() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Kind, ParamStore, SeedTree};

    #[test]
    fn two_features_by_hand() {
        let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(0));
        let layer = LayerNorm::new(&mut store.root().sub("l"), 2, 0.0, true).unwrap();
        let rms = RmsNorm::new(&mut store.root().sub("r"), 2, 0.0).unwrap();
        let x = Tensor::from_slice2(&[[1.0, 7.0]]);
        let expected = [-1.0, 1.0];
        let rms_expected = [1.0 / 5.0, 7.0 / 5.0]; // mean square (1 + 49) / 2 = 25
        for i in 0..2 {
            let got = layer.forward(&x).unwrap().double_value(&[0, i as i64]);
            assert!((got - expected[i]).abs() < 1e-14);
            let got = rms.forward(&x).unwrap().double_value(&[0, i as i64]);
            assert!((got - rms_expected[i]).abs() < 1e-14);
        }
        assert!(layer.forward(&Tensor::zeros([2, 3], (Kind::Double, Device::Cpu))).is_err());
        assert!(rms.forward(&Tensor::zeros([0], (Kind::Double, Device::Cpu))).is_err());
    }
}
