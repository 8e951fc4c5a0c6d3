//! What a network must offer to be grown: its hidden layers, and a forward pass that shows them.

use crate::layer::HiddenLayer;
use tensor_core::nn::RunningStats;
use tensor_core::tap::{Site, Tap};
use tensor_core::{Kind, Result, Tensor};

/// Names of the points that a forward pass shows to its tap, once for each hidden layer, in this
/// order.
pub mod site {
    /// What the layer's fan-in reads: `[samples, inputs]` or `[batch, inputs, height, width]`.
    pub const FAN_IN: &str = "fan_in";
    /// Its units after normalisation and activation (before pooling).
    pub const UNITS: &str = "units";
    /// The pre-activation of the first reader, before any normalisation: `Z_{l+1}`.
    pub const READER: &str = "reader";
}

/// How a pass treats what depends on the batch.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Norms use the batch; their new running statistics come back.
    Train,
    /// Norms use the batch and nothing comes back; residual connections are off, so that a tied
    /// group is measured by its first layer alone (section 6).
    Measure,
    /// Norms use their running statistics.
    Eval,
}

/// What a pass gives.
#[derive(Debug)]
pub struct Output {
    /// Logits or predictions.
    pub y: Tensor,
    /// New statistics of all norms in the network's own order; empty unless training.
    pub stats: Vec<RunningStats>,
}

impl From<Tensor> for Output {
    fn from(y: Tensor) -> Self {
        Self { y, stats: Vec::new() }
    }
}

/// A network that can be grown. `forward` asks its parameters for their values at each call, so it
/// needs no word about growth.
///
/// ```
/// use neurogenesis::{HiddenLayer, network::{Growable, Output, Pass, site}};
/// use tensor_core::{Result, Tensor, nn::Linear, tap::{Site, Tap, pass}};
///
/// struct Mine { up: Linear, down: Linear, layers: Vec<HiddenLayer> }
///
/// impl Growable for Mine {
///     fn layers(&self) -> &[HiddenLayer] {
///         &self.layers // HiddenLayer::dense("up", &up.weight, up.bias.as_ref(), &down.weight, 64)
///     }
///     fn forward(&self, x: &Tensor, _: Pass, tap: &mut dyn Tap) -> Result<Output> {
///         let at = |name| Site { layer: 0, name };
///         let x = pass(tap, at(site::FAN_IN), x.shallow_clone())?;
///         let h = neurogenesis::network::relu(&self.up.forward(&x)?);
///         let h = pass(tap, at(site::UNITS), h)?;
///         Ok(pass(tap, at(site::READER), self.down.forward(&h)?)?.into())
///     }
/// }
/// ```
pub trait Growable {
    /// Hidden layers, from the input. The output layer is not among them: it never grows.
    fn layers(&self) -> &[HiddenLayer];

    /// Runs on a batch and shows each hidden layer to `tap` at the points of [`site`].
    ///
    /// # Errors
    /// Shapes that do not fit.
    fn forward(&self, x: &Tensor, pass: Pass, tap: &mut dyn Tap) -> Result<Output>;

    /// Stores statistics that a training pass returned.
    ///
    /// # Errors
    /// [`Shape`](tensor_core::Error::Shape) when they belong to another width.
    fn commit(&self, _stats: &[RunningStats]) -> Result<()> {
        Ok(())
    }
}

/// `max(x, 0)` with derivative 1 at 0.
///
/// libtorch's own `relu` has derivative 0 there, so that a unit with zero fan-in and zero bias, as
/// `GradMax` makes it, would never learn (section 13, trap 7).
pub fn relu(x: &Tensor) -> Tensor {
    x.clamp_min(0.0)
}

/// Softmax cross-entropy from logits `[batch, classes]` and labels `[batch]`, mean over the batch.
///
/// # Errors
/// [`Torch`](tensor_core::Error::Torch) when the sizes or labels do not fit.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    use tensor_core::error::TorchContext;
    let log = logits.f_log_softmax(-1, None::<Kind>).op("cross_entropy")?;
    log.f_nll_loss(labels, None::<Tensor>, tch::Reduction::Mean, -100).op("cross_entropy")
}

/// What a pass showed of one hidden layer.
#[derive(Debug, Default)]
pub struct Seen {
    /// At [`site::FAN_IN`].
    pub fan_in: Option<Tensor>,
    /// At [`site::UNITS`].
    pub units: Option<Tensor>,
    /// At [`site::READER`].
    pub reader: Option<Tensor>,
}

/// A tap that keeps what it is shown.
#[derive(Debug)]
pub struct Watch {
    seen: Vec<Seen>,
    only: Option<usize>,
}

impl Watch {
    /// Keeps everything of `n` layers.
    pub fn all(n: usize) -> Self {
        Self { seen: (0..n).map(|_| Seen::default()).collect(), only: None }
    }

    /// Keeps everything of one of `n` layers.
    pub fn one(layer: usize, n: usize) -> Self {
        Self { only: Some(layer), ..Self::all(n) }
    }

    /// What was shown, by layer.
    pub fn into_seen(self) -> Vec<Seen> {
        self.seen
    }
}

impl Tap for Watch {
    fn visit(&mut self, at: Site<'_>, x: Tensor) -> Tensor {
        if self.only.is_none_or(|only| only == at.layer)
            && let Some(seen) = self.seen.get_mut(at.layer)
        {
            let slot = match at.name {
                site::FAN_IN => &mut seen.fan_in,
                site::UNITS => &mut seen.units,
                site::READER => &mut seen.reader,
                _ => return x,
            };
            *slot = Some(x.shallow_clone());
        }
        x
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tensor_core::Device;

    #[test]
    fn relu_has_derivative_one_at_zero() {
        let x = Tensor::from_slice(&[-1.0, 0.0, 2.0]).set_requires_grad(true);
        relu(&x).sum(Kind::Double).backward();
        assert_eq!(Vec::<f64>::try_from(x.grad()).unwrap(), [0.0, 1.0, 1.0]);
        let plain = Tensor::zeros([1], (Kind::Double, Device::Cpu)).set_requires_grad(true);
        plain.relu().sum(Kind::Double).backward();
        assert!(plain.grad().double_value(&[0]).abs() < 1e-15, "why this crate has its own");
    }
}
