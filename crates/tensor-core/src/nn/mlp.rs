//! The feed-forward half of a transformer block.

use super::{Linear, last_dim, same_kind};
use crate::{
    Checked, Compute, Error, Init, ParamPath, Result, Tap, Validate,
    config::in_range,
    tap::{NoTap, Site, pass, site},
};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Non-linearity of an [`Mlp`].
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x Phi(x)` with the exact normal distribution function.
    Gelu,
    /// GELU by its tanh approximation, as in GPT-2.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `silu(gate(x)) * up(x)`: a second matrix gates the hidden units.
    #[default]
    SwiGlu,
}

impl Activation {
    /// Whether the MLP has a gate matrix.
    pub fn gated(self) -> bool {
        self == Self::SwiGlu
    }

    /// Applies the element-wise function (for SwiGLU that of the gate, `silu`).
    pub fn apply(self, x: &Tensor) -> Tensor {
        match self {
            Self::Gelu => x.gelu("none"),
            Self::GeluTanh => x.gelu("tanh"),
            Self::Relu => x.relu(),
            Self::SwiGlu => x.silu(),
        }
    }
}

/// Sizes and form of an [`Mlp`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MlpConfig {
    /// Width of input and output.
    pub d_model: i64,
    /// Number of hidden units.
    pub d_ff: i64,
    /// Non-linearity.
    pub activation: Activation,
    /// Whether the linear maps have biases.
    pub bias: bool,
    /// Precision of the products.
    pub compute: Compute,
}

impl Default for MlpConfig {
    fn default() -> Self {
        Self {
            d_model: 128,
            d_ff: 512,
            activation: Activation::default(),
            bias: false,
            compute: Compute::default(),
        }
    }
}

impl Validate for MlpConfig {
    type Error = Error;

    fn check(&self) -> Result<()> {
        in_range("d_model", self.d_model, 1..=1 << 20)?;
        in_range("d_ff", self.d_ff, 1..=1 << 22)
    }
}

/// `down(act(up(x)))`, or `down(silu(gate(x)) * up(x))` for SwiGLU.
///
/// Parameters: `up.weight` and `gate.weight` (SwiGLU alone) `[d_ff, d_model]`, `down.weight`
/// `[d_model, d_ff]`, and biases when configured.
#[derive(Clone, Debug)]
pub struct Mlp {
    /// Into the hidden units.
    pub up: Linear,
    /// Gate of the hidden units, SwiGLU alone.
    pub gate: Option<Linear>,
    /// Out of the hidden units.
    pub down: Linear,
    activation: Activation,
    compute: Compute,
}

impl Mlp {
    /// An MLP with `PyTorch`'s initial values (see [`Linear::new`]).
    ///
    /// # Errors
    /// Those of [`ParamPath::param`].
    pub fn new(path: &mut ParamPath<'_>, config: &Checked<MlpConfig>) -> Result<Self> {
        let into = Init::FanIn { fan_in: config.d_model };
        let out = Init::FanIn { fan_in: config.d_ff };
        Self::with_init(path, config, [&into, &into], [&out, &out])
    }

    /// An MLP with given initial values, as `[weight, bias]`, into and out of the hidden units.
    pub(super) fn with_init(
        path: &mut ParamPath<'_>,
        config: &MlpConfig,
        [into, into_bias]: [&Init; 2],
        [out, out_bias]: [&Init; 2],
    ) -> Result<Self> {
        let MlpConfig { d_model, d_ff, activation, bias, compute } = *config;
        let mut hidden = |name| {
            let bias = bias.then_some(into_bias);
            Linear::with_init(&mut path.sub(name), d_model, d_ff, into, bias)
                .map(|layer| layer.compute(compute))
        };
        let up = hidden("up")?;
        let gate = activation.gated().then(|| hidden("gate")).transpose()?;
        let bias = bias.then_some(out_bias);
        let down = Linear::with_init(&mut path.sub("down"), d_ff, d_model, out, bias)?;
        Ok(Self { up, gate, down: down.compute(compute), activation, compute })
    }

    /// Maps `x: [.., d_model]` to `[.., d_model]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the last dimension is not `d_model`,
    /// [`Error::Kind`] when the element types differ.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        last_dim("Mlp::forward", "x", x, "d_model", self.up.d_in())?;
        same_kind("Mlp::forward", "x", x, self.up.weight.value().kind())?;
        self.check("Mlp::forward", self.up.d_in())?;
        self.run(x, 0, &mut NoTap)
    }

    /// Checks that the parameters, which may have grown, make one MLP of width `d_model`.
    pub(super) fn check(&self, op: &'static str, d_model: i64) -> Result<()> {
        let d_ff = self.up.d_out();
        let gate = self.gate.as_ref().map(|gate| ("gate.weight", gate, [d_ff, d_model]));
        let rest = [
            ("up.weight", &self.up, [d_ff, d_model]),
            ("down.weight", &self.down, [d_model, d_ff]),
        ];
        for (name, layer, want) in rest.into_iter().chain(gate) {
            let got = layer.weight.size();
            if got != want {
                let expected = format!("{want:?}");
                return Err(Error::Shape { op, arg: name.to_owned(), expected, got });
            }
        }
        Ok(())
    }

    /// The forward pass without checks, with a tap at the hidden units.
    pub(super) fn run<T: Tap + ?Sized>(
        &self,
        x: &Tensor,
        layer: usize,
        tap: &mut T,
    ) -> Result<Tensor> {
        let operand = self.compute.operand(x);
        let up = self.up.project(&operand)?;
        let hidden = match &self.gate {
            Some(gate) => self.activation.apply(&gate.project(&operand)?) * up,
            None => self.activation.apply(&up),
        };
        // The tap sees the network's own element type, and the next product its operand type.
        let hidden = if tap.active() {
            let hidden = self.compute.result(hidden, x.kind());
            self.compute.operand(&pass(tap, Site { layer, name: site::MLP_HIDDEN }, hidden)?)
        } else {
            hidden
        };
        Ok(self.compute.result(self.down.project(&hidden)?, x.kind()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Kind, ParamStore, SeedTree};

    #[test]
    fn one_hidden_unit_by_hand() {
        let x = 0.7_f64;
        let (up, gate, down) = (1.5, -0.4, 2.0);
        let silu = |v: f64| v / (1.0 + (-v).exp());
        for (activation, expected) in [
            (Activation::Relu, down * (up * x)),
            (Activation::SwiGlu, down * silu(gate * x) * up * x),
        ] {
            let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(0));
            let config = MlpConfig { d_model: 1, d_ff: 1, activation, ..MlpConfig::default() };
            let mlp = Mlp::new(&mut store.root(), &config.validate().unwrap()).unwrap();
            for (layer, w) in
                [(Some(&mlp.up), up), (mlp.gate.as_ref(), gate), (Some(&mlp.down), down)]
            {
                if let Some(layer) = layer {
                    layer.weight.copy_from(&Tensor::from_slice2(&[[w]])).unwrap();
                }
            }
            let y = mlp.forward(&Tensor::from_slice(&[x])).unwrap();
            assert!((y.double_value(&[0]) - expected).abs() < 1e-15);
        }
    }

    #[test]
    fn absurd_sizes_name_the_field() {
        let bad = MlpConfig { d_ff: -1, ..MlpConfig::default() };
        assert!(bad.validate().unwrap_err().to_string().starts_with("config field `d_ff`"));
        let bad = MlpConfig { d_model: i64::MAX, ..MlpConfig::default() };
        assert!(bad.validate().unwrap_err().to_string().starts_with("config field `d_model`"));
    }
}
