//! Affine map over the last dimension.

use super::{last_dim, same_kind};
use crate::{Compute, Init, Param, ParamPath, Result, Role, error::TorchContext};
use tch::Tensor;

/// `y = x W^T + b` over the last dimension.
///
/// | symbol | parameter | shape |
/// | --- | --- | --- |
/// | `W` | `weight` | `[d_out, d_in]` |
/// | `b` | `bias`, may be absent | `[d_out]` |
///
/// ```
/// use tensor_core::{Device, Kind, ParamStore, SeedTree, Tensor, nn::Linear};
/// let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(1));
/// let layer = Linear::new(&mut store.root().sub("head"), 3, 5, true)?;
/// let y = layer.forward(&Tensor::ones([2, 4, 3], (Kind::Float, Device::Cpu)))?;
/// assert_eq!(y.size(), [2, 4, 5]);
/// assert_eq!(store.get("head.weight")?.size(), [5, 3]);
/// # Ok::<(), tensor_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[d_out, d_in]`.
    pub weight: Param,
    /// `[d_out]`.
    pub bias: Option<Param>,
    compute: Compute,
}

impl Linear {
    /// A layer with `PyTorch`'s initial values: weight and bias uniform on
    /// `[-1/sqrt(d_in), 1/sqrt(d_in)]`.
    ///
    /// # Errors
    /// Those of [`ParamPath::param`].
    pub fn new(path: &mut ParamPath<'_>, d_in: i64, d_out: i64, bias: bool) -> Result<Self> {
        let init = Init::FanIn { fan_in: d_in };
        Self::with_init(path, d_in, d_out, &init, bias.then_some(&init))
    }

    /// A layer with given initial values; without a bias when `bias` is `None`.
    ///
    /// # Errors
    /// Those of [`ParamPath::param`].
    pub fn with_init(
        path: &mut ParamPath<'_>,
        d_in: i64,
        d_out: i64,
        weight: &Init,
        bias: Option<&Init>,
    ) -> Result<Self> {
        Ok(Self {
            weight: path.param("weight", &[d_out, d_in], Role::Weight, weight)?,
            bias: bias.map(|init| path.param("bias", &[d_out], Role::Bias, init)).transpose()?,
            compute: Compute::default(),
        })
    }

    /// The same layer (same parameters) with its product in another precision.
    #[must_use]
    pub fn compute(self, compute: Compute) -> Self {
        Self { compute, ..self }
    }

    /// Current number of inputs.
    pub fn d_in(&self) -> i64 {
        self.weight.size()[1]
    }

    /// Current number of outputs.
    pub fn d_out(&self) -> i64 {
        self.weight.size()[0]
    }

    /// Maps `x: [.., d_in]` to `[.., d_out]`, in the element type of the parameters.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when the last dimension is not `d_in`,
    /// [`Error::Kind`](crate::Error::Kind) when the element types differ.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let weight = self.weight.value();
        last_dim("Linear::forward", "x", x, "d_in", weight.size()[1])?;
        same_kind("Linear::forward", "x", x, weight.kind())?;
        let y = self.product(&self.compute.operand(x), &weight)?;
        Ok(self.compute.result(y, weight.kind()))
    }

    /// The product alone: `x` is an operand already and the result stays one.
    pub(super) fn project(&self, x: &Tensor) -> Result<Tensor> {
        self.product(x, &self.weight.value())
    }

    // Fallible although sizes are checked: weight and bias are open to the user, who may have grown
    // the one without the other.
    fn product(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|b| self.compute.operand(&b.value()));
        x.f_linear(&self.compute.operand(weight), bias).op("Linear::forward")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Error, Kind, ParamStore, SeedTree};

    #[test]
    fn a_product_worked_by_hand() {
        let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(0));
        let layer = Linear::new(&mut store.root(), 2, 1, true).unwrap();
        layer.weight.copy_from(&Tensor::from_slice2(&[[2.0, -1.0]])).unwrap();
        layer.bias.as_ref().unwrap().copy_from(&Tensor::from_slice(&[0.5])).unwrap();
        let y = layer.forward(&Tensor::from_slice2(&[[3.0, 4.0]])).unwrap();
        assert!((y.double_value(&[0, 0]) - 2.5).abs() < 1e-15);
    }

    #[test]
    fn initial_values_fill_the_interval_of_pytorch() {
        let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(3));
        let layer = Linear::new(&mut store.root(), 64, 200, true).unwrap();
        let bias = layer.bias.as_ref().unwrap().value();
        for (values, low) in [(layer.weight.value(), 0.1249), (bias, 0.115)] {
            let largest = values.abs().max().double_value(&[]);
            assert!(largest <= 0.125 && largest > low, "{largest}");
            assert!(values.mean(Kind::Double).double_value(&[]).abs() < 0.02);
        }
    }

    #[test]
    fn wrong_width_and_wrong_kind_are_errors() {
        let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(0));
        let layer = Linear::new(&mut store.root(), 2, 3, false).unwrap();
        let bad = |size: &[i64], kind| layer.forward(&Tensor::zeros(size, (kind, Device::Cpu)));
        let message = bad(&[4, 3], Kind::Float).unwrap_err().to_string();
        assert_eq!(message, "Linear::forward: `x` must be [.., d_in = 2], got [4, 3]");
        assert!(matches!(bad(&[], Kind::Float), Err(Error::Shape { .. })));
        assert!(matches!(bad(&[4, 2], Kind::Int64), Err(Error::Kind { .. })));
        assert!(matches!(bad(&[4, 2], Kind::Double), Err(Error::Kind { .. })));
    }
}
