//! The blocks that networks of this workspace are built from.
//!
//! A block is made from a [`ParamPath`](crate::ParamPath), which names and stores its parameters,
//! and asks them for their current value at each forward pass: when a parameter grows, the block
//! grows with it. `forward` takes `&self` and changes nothing; state (running statistics, a
//! recurrent state, cached keys and values) goes in and comes out as a value. All blocks work in
//! float32 and float64; which of the two comes from the store.
//!
//! **Initial values are `PyTorch`'s** (`nn.Linear`, `nn.Conv2d`: kaiming-uniform with `a = sqrt 5`,
//! that is, weight and bias uniform on `[-1/sqrt(fan_in), 1/sqrt(fan_in)]`; `nn.GRU`: uniform on
//! `[-1/sqrt(d_hidden), 1/sqrt(d_hidden)]`; `nn.Embedding`: standard normal), not those of `tch::nn`,
//! which draws weights from a wider interval. [`Decoder`] states its own, which are nanoGPT's.

pub mod attention;
pub mod block;
pub mod conv;
pub mod decoder;
pub mod dropout;
pub mod embedding;
pub mod generate;
pub mod gru;
pub mod linear;
pub mod loss;
pub mod mlp;
pub mod norm;
pub mod rope;

pub use attention::{AttentionConfig, AttentionForm, CausalSelfAttention, KvCache, Span, attend};
pub use block::TransformerBlock;
pub use conv::{BatchNorm2d, Conv2d, Conv2dConfig, Layout, RunningStats};
pub use decoder::{Decoder, DecoderConfig, Positions};
pub use dropout::{Dropout, Mode};
pub use embedding::Embedding;
pub use generate::{DecodeState, GenerateConfig};
pub use gru::{Gru, GruCell, GruConfig};
pub use linear::Linear;
pub use loss::cross_entropy;
pub use mlp::{Activation, Mlp, MlpConfig};
pub use norm::{LayerNorm, Norm, NormKind, RmsNorm};
pub use rope::Rope;

use crate::{Error, Result};
use tch::{Kind, Tensor};

/// Checks that an activation has the element type of the parameters that it will meet.
fn same_kind(op: &'static str, arg: &str, x: &Tensor, params: Kind) -> Result<()> {
    if x.kind() == params {
        return Ok(());
    }
    let (arg, expected) = (arg.to_owned(), format!("{params:?} (that of the parameters)"));
    Err(Error::Kind { op, arg, expected, got: x.kind() })
}

/// Checks the last dimension of a tensor that has any number of leading ones.
fn last_dim(op: &'static str, arg: &str, x: &Tensor, name: &str, want: i64) -> Result<()> {
    let got = x.size();
    if got.last() == Some(&want) {
        return Ok(());
    }
    Err(Error::Shape { op, arg: arg.to_owned(), expected: format!("[.., {name} = {want}]"), got })
}
