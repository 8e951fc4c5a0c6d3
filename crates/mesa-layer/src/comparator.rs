//! Sequence mixers to compare with, over the same queries, keys, values and gates (section 6).
//!
//! All but softmax attention keep a state `S: [batch, n_heads, head_dim, value_dim]` and answer
//! `o_t = S_t^T q_t`; they are computed chunk by chunk with recorded operations.

use crate::chunk::{self, cut};
use tch::{Kind, Tensor};
use tensor_core::{
    Error, Result, check_shape,
    nn::attention::{AttentionForm, Span, attend},
};

/// What a mixer is given. Sizes as in [`MesaInputs`](crate::MesaInputs).
#[derive(Clone, Copy, Debug)]
pub struct MixInputs<'a> {
    /// Queries.
    pub q: &'a Tensor,
    /// Keys.
    pub k: &'a Tensor,
    /// Values.
    pub v: &'a Tensor,
    /// Logarithm of the forget gate.
    pub g: &'a Tensor,
    /// Input gate.
    pub beta: &'a Tensor,
    /// What the mixer returned for the tokens before; nothing when absent.
    pub past: Option<&'a [Tensor]>,
}

/// A causal map from queries, keys, values and gates to outputs.
pub trait Comparator {
    /// Its word in configs.
    fn name(&self) -> &'static str;

    /// Outputs `[batch, seq_len, n_heads, value_dim]`, and the state after the last token: one tensor
    /// `S`, for mLSTM with its normaliser as one more column, for attention the keys and values kept.
    ///
    /// # Errors
    /// [`Error::Shape`] when sizes disagree.
    fn mix(&self, inputs: &MixInputs<'_>) -> Result<(Tensor, Vec<Tensor>)>;
}

/// `S += k v^T`.
#[derive(Clone, Copy, Debug)]
pub struct LinearAttention;

/// `S = gamma_h S + k v^T` with the fixed decays `gamma_h = 1 - 2^(-5 - h)` of head `h`.
#[derive(Clone, Copy, Debug)]
pub struct RetNet;

/// `S = gamma_t S + k v^T`: a forget gate only.
#[derive(Clone, Copy, Debug)]
pub struct Mamba2Style;

/// `S = gamma_t S + beta_t k v^T` with one gate for each head.
#[derive(Clone, Copy, Debug)]
pub struct GatedLinearAttention;

/// `S += beta k (v - S^T k)^T`: one gradient step on the error of the current token.
#[derive(Clone, Copy, Debug)]
pub struct DeltaNet;

/// `S' = gamma S`, then `S = S' + beta k (v - S'^T k)^T`.
#[derive(Clone, Copy, Debug)]
pub struct GatedDeltaNet;

/// Gated linear attention with a normaliser: `z = gamma z + beta k`, `o = S^T q / max(1, |z.q|)`.
#[derive(Clone, Copy, Debug)]
pub struct Mlstm;

/// `softmax(q k^T / sqrt(head_dim)) v` over the past, or over the last `window` tokens.
#[derive(Clone, Copy, Debug)]
pub struct SoftmaxAttention {
    /// Tokens that a query sees, itself included; all when absent.
    pub window: Option<i64>,
}

/// Tokens of a chunk of the linear mixers.
const CHUNK: i64 = 32;

fn check(inputs: &MixInputs<'_>) -> Result<[i64; 5]> {
    const OP: &str = "mix";
    let MixInputs { q, k, v, g, beta, .. } = *inputs;
    check_shape!(OP, q, [?batch, ?seq_len, ?n_heads, ?head_dim]);
    check_shape!(OP, k, [batch, seq_len, n_heads, head_dim]);
    check_shape!(OP, v, [batch, seq_len, n_heads, ?value_dim]);
    check_shape!(OP, g, [batch, seq_len, n_heads]);
    check_shape!(OP, beta, [batch, seq_len, n_heads]);
    Ok([batch, seq_len, n_heads, head_dim, value_dim])
}

/// The state before the first token, checked.
fn start(inputs: &MixInputs<'_>, size: [i64; 4]) -> Result<Tensor> {
    match inputs.past {
        None | Some([]) => Ok(Tensor::zeros(size, (inputs.v.kind(), inputs.v.device()))),
        Some([s, ..]) => {
            let [b, h, d, x] = size;
            check_shape!("mix", s, [b, h, d, x]);
            Ok(s.shallow_clone())
        }
    }
}

/// Chunks of the inputs with their decays, `[m, n, c, ..]`; `m = batch * n_heads`.
struct Chunks {
    size: [i64; 5],
    len: i64,
    z: Tensor,
    cum: Tensor,
}

impl Chunks {
    fn new(size: [i64; 5], g: &Tensor) -> Self {
        let len = CHUNK.min(size[1].max(1));
        let (z, cum) = chunk::decays(&cut(&g.unsqueeze(-1), len).squeeze_dim(-1), None, g.kind());
        Self { size, len, z, cum }
    }

    fn cut(&self, x: &Tensor) -> Tensor {
        cut(x, self.len)
    }

    fn cut_rows(&self, x: &Tensor) -> Tensor {
        cut(&x.unsqueeze(-1), self.len) // [m, n, c, 1]
    }

    fn join(&self, x: &Tensor) -> Tensor {
        let [batch, seq_len, n_heads, ..] = self.size;
        let width = x.size()[3];
        x.reshape([batch, n_heads, -1, width]).narrow(2, 0, seq_len).transpose(1, 2).contiguous()
    }

    fn to_end(&self) -> Tensor {
        self.z.narrow(2, self.len - 1, 1).transpose(-1, -2) // [m, n, c, 1]
    }

    fn through(&self) -> Tensor {
        self.cum.narrow(2, self.len - 1, 1) // [m, n, 1, 1]
    }
}

/// `S_t = gamma_t S_{t-1} + beta_t k_t v_t^T`, `o_t = S_t^T q_t`.
fn linear(
    inputs: &MixInputs<'_>,
    g: &Tensor,
    beta: Option<&Tensor>,
    v: &Tensor,
) -> Result<(Tensor, Tensor)> {
    let mut size = check(inputs)?;
    size[4] = v.size()[3];
    let s0 = start(inputs, [size[0], size[2], size[3], size[4]])?;
    if size[1] == 0 {
        return Ok((v.shallow_clone(), s0));
    }
    let chunks = Chunks::new(size, g);
    let (q, k) = (chunks.cut(inputs.q), chunks.cut(inputs.k));
    let v = match beta {
        Some(beta) => chunks.cut(&(v * beta.unsqueeze(-1))),
        None => chunks.cut(v),
    };
    let added = (&k * chunks.to_end()).transpose(-1, -2).matmul(&v);
    let through = chunks.through();
    let mut s = s0.reshape([size[0] * size[2], size[3], size[4]]);
    let mut before = Vec::new();
    for c in 0..added.size()[1] {
        let next = through.select(1, c) * &s + added.select(1, c);
        before.push(std::mem::replace(&mut s, next));
    }
    let past = &chunks.cum * q.matmul(&Tensor::stack(&before, 1));
    let o = past + (q.matmul(&k.transpose(-1, -2)) * &chunks.z).matmul(&v);
    Ok((chunks.join(&o), s.reshape(s0.size())))
}

/// The delta rule. With `u_t` what is written for token `t`,
/// `(I + tril(diag(beta) (Z o K K^T), -1)) U = diag(beta) (V - diag(cum) K S_c)`.
fn delta(inputs: &MixInputs<'_>, g: &Tensor) -> Result<(Tensor, Tensor)> {
    let size = check(inputs)?;
    let s0 = start(inputs, [size[0], size[2], size[3], size[4]])?;
    if size[1] == 0 {
        return Ok((inputs.v.shallow_clone(), s0));
    }
    let chunks = Chunks::new(size, g);
    let (q, k, v) = (chunks.cut(inputs.q), chunks.cut(inputs.k), chunks.cut(inputs.v));
    let beta = chunks.cut_rows(inputs.beta);
    let strict = (&chunks.z * k.matmul(&k.transpose(-1, -2)) * &beta).tril(-1);
    let eye = Tensor::eye(chunks.len, (strict.kind(), strict.device()));
    let rhs = Tensor::cat(&[&v * &beta, &k * &beta * &chunks.cum], -1);
    let solved = (strict + eye).linalg_solve_triangular(&rhs, false, true, true);
    let (u0, w) = (solved.narrow(-1, 0, size[4]), solved.narrow(-1, size[4], size[3]));
    let within = q.matmul(&k.transpose(-1, -2)) * &chunks.z;
    let (through, to_end) = (chunks.through(), (&k * chunks.to_end()).transpose(-1, -2));
    let mut s = s0.reshape([size[0] * size[2], size[3], size[4]]);
    let mut outputs = Vec::new();
    for c in 0..u0.size()[1] {
        let at = |x: &Tensor| x.select(1, c);
        let u = at(&u0) - at(&w).matmul(&s);
        outputs.push(at(&chunks.cum) * at(&q).matmul(&s) + at(&within).matmul(&u));
        s = at(&through) * s + at(&to_end).matmul(&u);
    }
    Ok((chunks.join(&Tensor::stack(&outputs, 1)), s.reshape(s0.size())))
}

impl Comparator for LinearAttention {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn mix(&self, inputs: &MixInputs<'_>) -> Result<(Tensor, Vec<Tensor>)> {
        let (o, s) = linear(inputs, &inputs.g.zeros_like(), None, inputs.v)?;
        Ok((o, vec![s]))
    }
}

impl RetNet {
    /// `ln gamma_h` of each head.
    pub fn log_decays(n_heads: i64) -> Vec<f64> {
        (0..n_heads).map(|h| (-(-5.0 - h as f64).exp2()).ln_1p()).collect()
    }
}

impl Comparator for RetNet {
    fn name(&self) -> &'static str {
        "retnet"
    }

    fn mix(&self, inputs: &MixInputs<'_>) -> Result<(Tensor, Vec<Tensor>)> {
        let n_heads = check(inputs)?[2];
        let decays = Tensor::from_slice(&Self::log_decays(n_heads));
        let g =
            inputs.g.zeros_like() + decays.to_kind(inputs.g.kind()).to_device(inputs.g.device());
        let (o, s) = linear(inputs, &g, None, inputs.v)?;
        Ok((o, vec![s]))
    }
}

impl Comparator for Mamba2Style {
    fn name(&self) -> &'static str {
        "mamba2"
    }

    fn mix(&self, inputs: &MixInputs<'_>) -> Result<(Tensor, Vec<Tensor>)> {
        let (o, s) = linear(inputs, inputs.g, None, inputs.v)?;
        Ok((o, vec![s]))
    }
}

impl Comparator for GatedLinearAttention {
    fn name(&self) -> &'static str {
        "gla"
    }

    fn mix(&self, inputs: &MixInputs<'_>) -> Result<(Tensor, Vec<Tensor>)> {
        let (o, s) = linear(inputs, inputs.g, Some(inputs.beta), inputs.v)?;
        Ok((o, vec![s]))
    }
}

impl Comparator for DeltaNet {
    fn name(&self) -> &'static str {
        "deltanet"
    }

    fn mix(&self, inputs: &MixInputs<'_>) -> Result<(Tensor, Vec<Tensor>)> {
        let (o, s) = delta(inputs, &inputs.g.zeros_like())?;
        Ok((o, vec![s]))
    }
}

impl Comparator for GatedDeltaNet {
    fn name(&self) -> &'static str {
        "gated-deltanet"
    }

    fn mix(&self, inputs: &MixInputs<'_>) -> Result<(Tensor, Vec<Tensor>)> {
        let (o, s) = delta(inputs, inputs.g)?;
        Ok((o, vec![s]))
    }
}

impl Comparator for Mlstm {
    fn name(&self) -> &'static str {
        "mlstm"
    }

    fn mix(&self, inputs: &MixInputs<'_>) -> Result<(Tensor, Vec<Tensor>)> {
        let value_dim = check(inputs)?[4];
        // The normaliser is one more value that is always 1.
        let ones = inputs.v.narrow(-1, 0, 1).ones_like();
        let v = Tensor::cat(&[inputs.v, &ones], -1);
        let (o, s) = linear(inputs, inputs.g, Some(inputs.beta), &v)?;
        let norm = o.narrow(-1, value_dim, 1).abs().clamp_min(1.0);
        Ok((o.narrow(-1, 0, value_dim) / norm, vec![s]))
    }
}

impl Comparator for SoftmaxAttention {
    fn name(&self) -> &'static str {
        if self.window.is_some() { "sliding-window" } else { "softmax" }
    }

    fn mix(&self, inputs: &MixInputs<'_>) -> Result<(Tensor, Vec<Tensor>)> {
        let [_, seq_len, ..] = check(inputs)?;
        if self.window.is_some_and(|w| w < 1) {
            let (expected, got) = ("at least 1".to_owned(), format!("{:?}", self.window));
            return Err(Error::Argument { op: "mix", arg: "window", expected, got });
        }
        let heads = |x: &Tensor| x.transpose(1, 2); // [b, h, t, d]
        let (q, mut k, mut v) = (heads(inputs.q), heads(inputs.k), heads(inputs.v));
        let mut seen = 0;
        if let Some([k0, v0, count, ..]) = inputs.past {
            seen = count.int64_value(&[]);
            k = Tensor::cat(&[k0, &k], 2);
            v = Tensor::cat(&[v0, &v], 2);
        }
        let kv_len = k.size()[2];
        let kept = kv_len - seq_len;
        let o = if seq_len == 0 {
            inputs.v.shallow_clone()
        } else {
            let span = Span { q_start: seen, kv_start: seen - kept, window: self.window };
            heads(&attend(&q, &k, &v, span, AttentionForm::Fused)?).contiguous()
        };
        let keep = self.window.map_or(kv_len, |w| (w - 1).min(kv_len));
        let tail = |x: &Tensor| x.narrow(2, kv_len - keep, keep);
        let count = Tensor::from(seen + seq_len).to_kind(Kind::Int64);
        Ok((o, vec![tail(&k), tail(&v), count]))
    }
}
