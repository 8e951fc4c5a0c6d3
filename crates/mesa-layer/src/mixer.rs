//! Which sequence mixer a layer uses, and its sizes: one word in a config swaps it.

use crate::{
    comparator::{
        Comparator, DeltaNet, GatedDeltaNet, GatedLinearAttention, LinearAttention, Mamba2Style,
        Mlstm, RetNet, SoftmaxAttention,
    },
    config::MesaConfig,
};
use serde::{Deserialize, Serialize};
use tensor_core::{
    Error, Result, Validate,
    config::{finite_in, in_range},
};

/// A sequence mixer by its word.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mixer {
    /// The mesa layer.
    #[default]
    Mesa,
    /// Linear attention.
    Linear,
    /// Linear attention with a fixed decay for each head.
    Retnet,
    /// Linear attention with a forget gate.
    Mamba2,
    /// Linear attention with both gates.
    Gla,
    /// The delta rule.
    Deltanet,
    /// The delta rule with a forget gate.
    GatedDeltanet,
    /// Gated linear attention with a normaliser.
    Mlstm,
    /// Softmax attention with rotary positions.
    Softmax,
    /// Softmax attention over the last `window` tokens.
    SlidingWindow,
    /// The recurrent block of Hawk: a diagonal gated linear recurrence.
    Hawk,
}

impl Mixer {
    /// Every mixer.
    pub const ALL: [Self; 11] = [
        Self::Mesa,
        Self::Linear,
        Self::Retnet,
        Self::Mamba2,
        Self::Gla,
        Self::Deltanet,
        Self::GatedDeltanet,
        Self::Mlstm,
        Self::Softmax,
        Self::SlidingWindow,
        Self::Hawk,
    ];

    /// Whether tokens know their position by rotary angles; no convolution and no gates then.
    pub fn is_attention(self) -> bool {
        matches!(self, Self::Softmax | Self::SlidingWindow)
    }

    /// The comparator of this word; `None` for the mesa layer and Hawk, which are more than a map
    /// from queries, keys and values.
    pub fn comparator(self, window: i64) -> Option<Box<dyn Comparator>> {
        Some(match self {
            Self::Mesa | Self::Hawk => return None,
            Self::Linear => Box::new(LinearAttention),
            Self::Retnet => Box::new(RetNet),
            Self::Mamba2 => Box::new(Mamba2Style),
            Self::Gla => Box::new(GatedLinearAttention),
            Self::Deltanet => Box::new(DeltaNet),
            Self::GatedDeltanet => Box::new(GatedDeltaNet),
            Self::Mlstm => Box::new(Mlstm),
            Self::Softmax => Box::new(SoftmaxAttention { window: None }),
            Self::SlidingWindow => Box::new(SoftmaxAttention { window: Some(window) }),
        })
    }
}

/// Sizes and form of a mixing layer (section 7). The defaults are the paper's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LayerConfig {
    /// Width of input and output.
    pub d_model: i64,
    /// Number of heads.
    pub n_heads: i64,
    /// Size of a key and of a value.
    pub head_dim: i64,
    /// The mixer.
    pub mixer: Mixer,
    /// Tokens that a query of [`Mixer::SlidingWindow`] sees, itself included.
    pub window: i64,
    /// How [`Mixer::Mesa`] is computed.
    pub mesa: MesaConfig,
    /// Upper bound of the forget gate where the input gate is open:
    /// `gamma (1 - (1 - bound) beta^2)`. No bound when absent.
    pub gamma_bound: Option<f64>,
    /// Least value of the ridge.
    pub ridge_floor: f64,
    /// Initial value of the ridge, above its floor.
    pub ridge_init: f64,
    /// Taps of the causal convolutions on queries and keys; 0 for none.
    pub conv_len: i64,
    /// Whether values are convolved too.
    pub conv_v: bool,
    /// Whether the output is multiplied by `silu` of a further projection.
    pub output_gate: bool,
    /// Whether forget gates lie in `(-1, 1)` in place of `(0, 1)`. [`Mixer::Mesa`] alone; the ridge
    /// floor must keep the matrices definite.
    pub negative_gates: bool,
    /// Initial bias of the forget gate, before the sigmoid.
    pub forget_bias: f64,
    /// Base of the rotary angles of attention.
    pub rope_theta: f64,
    /// Positions of the rotary table of attention; other mixers have no longest sequence.
    pub max_seq_len: i64,
}

impl Default for LayerConfig {
    fn default() -> Self {
        Self {
            d_model: 128,
            n_heads: 4,
            head_dim: 32,
            mixer: Mixer::default(),
            window: 64,
            mesa: MesaConfig::default(),
            gamma_bound: Some(0.9975),
            ridge_floor: 0.25,
            ridge_init: 1.0,
            conv_len: 4,
            conv_v: false,
            output_gate: false,
            negative_gates: false,
            forget_bias: 0.0,
            rope_theta: 10_000.0,
            max_seq_len: 2048,
        }
    }
}

impl Validate for LayerConfig {
    type Error = Error;

    fn check(&self) -> Result<()> {
        in_range("d_model", self.d_model, 1..=1 << 20)?;
        in_range("n_heads", self.n_heads, 1..=1 << 12)?;
        in_range("head_dim", self.head_dim, 1..=1 << 12)?;
        in_range("window", self.window, 1..=1 << 24)?;
        in_range("conv_len", self.conv_len, 0..=64)?;
        in_range("max_seq_len", self.max_seq_len, 1..=1 << 24)?;
        finite_in("ridge_floor", self.ridge_floor, 0.0..=1e6)?;
        finite_in("ridge_init", self.ridge_init, 0.0..=1e6)?;
        finite_in("forget_bias", self.forget_bias, -100.0..=100.0)?;
        finite_in("rope_theta", self.rope_theta, 1.0..=1e12)?;
        if let Some(bound) = self.gamma_bound {
            finite_in("gamma_bound", bound, 0.0..=1.0)?;
        }
        if self.ridge_init <= self.ridge_floor {
            let why = format!("must exceed ridge_floor = {}", self.ridge_floor);
            return Err(Error::Config { field: "ridge_init", why });
        }
        if self.negative_gates && self.mixer != Mixer::Mesa {
            let why = "is there for the mesa mixer only".to_owned();
            return Err(Error::Config { field: "negative_gates", why });
        }
        if self.mixer.is_attention() && self.head_dim % 2 != 0 {
            let why = format!("must be even for rotary positions, got {}", self.head_dim);
            return Err(Error::Config { field: "head_dim", why });
        }
        self.mesa.check()
    }
}
