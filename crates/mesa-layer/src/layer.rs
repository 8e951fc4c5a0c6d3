//! The mixing layer: projections, convolutions, gates, mixer, norm (section 7).

use crate::{
    comparator::MixInputs,
    decode::{MesaToken, mesa_step},
    inputs::{MesaInputs, MesaState, SolveStats},
    mixer::{LayerConfig, Mixer},
    operation::mesa,
};
use tch::{Kind, Tensor};
use tensor_core::{
    Checked, Error, Init, Param, ParamPath, Result, Role, Validate, check_shape,
    nn::{Linear, RmsNorm, Rope},
};

const OP: &str = "MesaLayer::forward";
/// Added to the squared length of queries and keys (section 7, step 3).
const L2_EPS: f64 = 1e-6;
/// Added to the mean square in norms.
pub(crate) const NORM_EPS: f64 = 1e-5;

/// What a layer remembers of the tokens it has seen: of constant size, but for softmax attention
/// over all tokens.
#[derive(Debug)]
pub struct LayerState {
    /// Last inputs of the convolutions, `[batch, conv_len - 1, n_heads * head_dim]` each.
    pub(crate) tails: Vec<Tensor>,
    /// State of the mixer.
    pub(crate) mixer: Vec<Tensor>,
    /// Tokens seen.
    pub(crate) seen: i64,
}

impl Clone for LayerState {
    /// Handles that share storage.
    fn clone(&self) -> Self {
        let share = |x: &[Tensor]| x.iter().map(Tensor::shallow_clone).collect();
        Self { tails: share(&self.tails), mixer: share(&self.mixer), seen: self.seen }
    }
}

impl LayerState {
    /// Number of tokens seen.
    pub fn seen(&self) -> i64 {
        self.seen
    }

    /// Bytes of all tensors.
    pub fn bytes(&self) -> usize {
        self.tails.iter().chain(&self.mixer).map(|x| x.numel() * x.kind().elt_size_in_bytes()).sum()
    }
}

/// Result of a layer.
#[derive(Debug)]
pub struct Mixed {
    /// Outputs `[batch, seq_len, d_model]`.
    pub y: Tensor,
    /// What the layer remembers now.
    pub state: LayerState,
    /// How hard the solves were; the mesa mixer alone.
    pub stats: Option<SolveStats>,
}

/// Queries, keys, values and gates of one pass.
#[derive(Debug)]
pub struct Projected {
    /// Queries `[batch, seq_len, n_heads, head_dim]`.
    pub q: Tensor,
    /// Keys, sized alike.
    pub k: Tensor,
    /// Values, sized alike.
    pub v: Tensor,
    /// Logarithm of the forget gate's magnitude, `[batch, seq_len, n_heads]`.
    pub g: Tensor,
    /// Sign of the forget gate, where gates may be negative.
    pub sign: Option<Tensor>,
    /// Input gate.
    pub beta: Tensor,
    tails: Vec<Tensor>,
}

/// A drop-in sequence mixer `[batch, seq_len, d_model]` to the same, causal, with constant memory.
///
/// Parameters: `q`, `k`, `v` `[n_heads * head_dim, d_model]`; `conv_q`, `conv_k` (and `conv_v`)
/// `[n_heads * head_dim, 1, conv_len]`, of which the last tap multiplies the current token;
/// `forget`, `input` `[n_heads, d_model]` with biases; `ridge` `[n_heads, head_dim]`, mapped by
/// `ridge_floor + softplus`; `norm` `[head_dim]`; `out_proj` `[d_model, n_heads * head_dim]`; `gate` as
/// `q` where there is an output gate. Softmax attention has `q`, `k`, `v`, `out_proj` alone.
///
/// Initial values (section 7): normal with variance one over the inputs of a unit; `out_proj` times
/// the scale its block gives; ridge and forget bias as configured; input bias zero.
///
/// ```
/// use mesa_layer::{LayerConfig, MesaLayer};
/// use tensor_core::{Device, Kind, ParamStore, SeedTree, Tensor, Validate};
/// let config = LayerConfig { d_model: 32, n_heads: 2, head_dim: 16, ..Default::default() };
/// let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(1));
/// let layer = MesaLayer::new(&mut store.root(), &config.validate()?, 1.0)?;
/// let x = Tensor::randn([2, 10, 32], (Kind::Float, Device::Cpu));
/// let all = layer.forward(&x, None)?;
/// let first = layer.forward(&x.narrow(1, 0, 9), None)?; // prefill ..
/// let last = layer.forward(&x.narrow(1, 9, 1), Some(&first.state))?; // .. and one token more
/// assert!((last.y - all.y.narrow(1, 9, 1)).abs().max().double_value(&[]) < 1e-4);
/// # Ok::<(), tensor_core::Error>(())
/// ```
#[derive(Debug)]
pub struct MesaLayer {
    /// Projection of the queries.
    pub q: Linear,
    /// Projection of the keys.
    pub k: Linear,
    /// Projection of the values.
    pub v: Linear,
    /// Convolutions of queries, keys and, if configured, values.
    pub convs: Vec<Param>,
    /// Forget and input gate.
    pub gates: Option<[Linear; 2]>,
    /// Ridge before its map; the mesa mixer alone.
    pub ridge: Option<Param>,
    /// Norm of each head's output.
    pub norm: Option<RmsNorm>,
    /// Output gate.
    pub gate: Option<Linear>,
    /// Back to the residual stream.
    pub out_proj: Linear,
    rope: Option<Rope>,
    config: Checked<LayerConfig>,
}

/// Normal with variance `scale^2 / fan_in`.
pub(crate) fn fan_in(fan_in: i64, scale: f64) -> Init {
    Init::Normal { std: scale / (fan_in as f64).sqrt() }
}

impl MesaLayer {
    /// A layer with the initial values stated in the type's docs; those of the output projection are
    /// scaled by `out_scale`.
    ///
    /// # Errors
    /// [`Error::Config`] for Hawk, which is a layer of its own; those of
    /// [`ParamPath::param`].
    pub fn new(
        path: &mut ParamPath<'_>,
        config: &Checked<LayerConfig>,
        out_scale: f64,
    ) -> Result<Self> {
        let c: &LayerConfig = config;
        if c.mixer == Mixer::Hawk {
            let why = "hawk is a layer of its own".to_owned();
            return Err(Error::Config { field: "mixer", why });
        }
        let (d, inner, attention) = (c.d_model, c.n_heads * c.head_dim, c.mixer.is_attention());
        let init = fan_in(d, 1.0);
        let mut linear = |name: &str, rows, bias: Option<&Init>| {
            Linear::with_init(&mut path.sub(name), d, rows, &init, bias)
        };
        let [q, k, v] =
            [linear("q", inner, None)?, linear("k", inner, None)?, linear("v", inner, None)?];
        let gates = if attention {
            None
        } else {
            let forget = linear("forget", c.n_heads, Some(&Init::Const(c.forget_bias)))?;
            Some([forget, linear("input", c.n_heads, Some(&Init::Zeros))?])
        };
        let gate = c.output_gate.then(|| linear("gate", inner, None)).transpose()?;
        let names: &[&str] = match (attention || c.conv_len == 0, c.conv_v) {
            (true, _) => &[],
            (false, false) => &["conv_q", "conv_k"],
            (false, true) => &["conv_q", "conv_k", "conv_v"],
        };
        let convs = names
            .iter()
            .map(|name| {
                let size = [inner, 1, c.conv_len];
                path.param(name, &size, Role::Weight, &fan_in(c.conv_len, 1.0))
            })
            .collect::<Result<_>>()?;
        let ridge = (c.mixer == Mixer::Mesa)
            .then(|| {
                // softplus(raw) = init - floor
                let raw = (c.ridge_init - c.ridge_floor).exp_m1().ln();
                let raw = if raw.is_finite() { raw } else { c.ridge_init - c.ridge_floor };
                path.param("ridge", &[c.n_heads, c.head_dim], Role::Bias, &Init::Const(raw))
            })
            .transpose()?;
        let norm = (!attention)
            .then(|| RmsNorm::new(&mut path.sub("norm"), c.head_dim, NORM_EPS))
            .transpose()?;
        let rope = attention
            .then(|| {
                let (device, kind) = (path.device(), path.kind());
                Rope::new(c.head_dim, c.max_seq_len, c.rope_theta, device, kind)
            })
            .transpose()?;
        let mut out = path.sub("out_proj");
        let out_proj = Linear::with_init(&mut out, inner, d, &fan_in(inner, out_scale), None)?;
        let config = config.clone();
        Ok(Self { q, k, v, convs, gates, ridge, norm, gate, out_proj, rope, config })
    }

    /// What the layer was made from.
    pub fn config(&self) -> &Checked<LayerConfig> {
        &self.config
    }

    /// The ridge `Lambda`, `[n_heads, head_dim]`; `None` unless the mixer is mesa.
    pub fn lambda(&self) -> Option<Tensor> {
        let raw = self.ridge.as_ref()?.value();
        let kind = wide(raw.kind());
        Some(raw.to_kind(kind).softplus() + self.config.ridge_floor)
    }

    /// Queries, keys, values and gates of `x: [batch, seq_len, d_model]`.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Kind`] when `x` or the state does not fit.
    pub fn project(&self, x: &Tensor, past: Option<&LayerState>) -> Result<Projected> {
        let c: &LayerConfig = &self.config;
        let d_model = self.q.d_in();
        check_shape!(OP, x, [?batch, ?seq_len, d_model]);
        let size = [batch, seq_len, c.n_heads, c.head_dim];
        let mut streams = [&self.q, &self.k, &self.v].map(|p| p.forward(x));
        let mut tails = Vec::new();
        for (i, conv) in self.convs.iter().enumerate() {
            let Ok(stream) = &streams[i] else { continue };
            let tail = past.and_then(|s| s.tails.get(i));
            let (y, tail) = convolve(stream, &conv.value(), tail)?;
            streams[i] = Ok(y.silu());
            tails.push(tail);
        }
        let [q, k, v] = streams.map(|s| s.map(|s| s.reshape(size)));
        let (mut q, mut k, v) = (q?, k?, v?);
        if let Some(rope) = &self.rope {
            let from = past.map_or(0, LayerState::seen);
            if seq_len > 0 {
                q = rope.forward(&q, from)?;
                k = rope.forward(&k, from)?;
            }
        } else if c.mixer != Mixer::Mlstm {
            q = unit(&q);
            k = unit(&k);
        }
        let (g, sign, beta) = match &self.gates {
            None => {
                let none = x.new_zeros([batch, seq_len, c.n_heads], (x.kind(), x.device()));
                (none.shallow_clone(), None, none.ones_like())
            }
            Some([forget, input]) => {
                let kind = wide(x.kind());
                let beta = input.forward(x)?.to_kind(kind).sigmoid();
                let raw = forget.forward(x)?.to_kind(kind);
                let (g, sign) = if c.negative_gates {
                    let gamma = (raw * 0.5).tanh();
                    let sign = gamma.detach().ge(0.0).to_kind(kind) * 2.0 - 1.0;
                    (gamma.abs().clamp_min(1e-12).log(), Some(sign))
                } else {
                    (raw.log_sigmoid(), None)
                };
                let g = match c.gamma_bound {
                    Some(bound) => g + (beta.square() * (bound - 1.0)).log1p(),
                    None => g,
                };
                (g, sign, beta)
            }
        };
        Ok(Projected { q, k, v, g, sign, beta, tails })
    }

    /// Mixes `x: [batch, seq_len, d_model]`, any number of tokens, after those in `past`.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Kind`] when `x` or the state does not fit; [`Error::NonFinite`]
    /// when `x` is not finite; [`Error::Argument`] beyond the positions of attention.
    pub fn forward(&self, x: &Tensor, past: Option<&LayerState>) -> Result<Mixed> {
        let c: &LayerConfig = &self.config;
        let p = self.project(x, past)?;
        let seq_len = x.size()[1];
        let (o, mixer, stats) = match c.mixer.comparator(c.window) {
            Some(mixer) => {
                let past = past.map(|s| s.mixer.as_slice());
                let (q, k, v) = (&p.q, &p.k, &p.v);
                let kind = p.v.kind();
                let (g, beta) = (p.g.to_kind(kind), p.beta.to_kind(kind));
                let inputs = MixInputs { q, k, v, g: &g, beta: &beta, past };
                let (o, state) = mixer.mix(&inputs)?;
                (o, state, None)
            }
            None => self.solve(&p, past)?,
        };
        let o = match &self.norm {
            Some(norm) => norm.forward(&o)?,
            None => o,
        };
        let mut o = o.to_kind(x.kind()).flatten(2, 3);
        if let Some(gate) = &self.gate {
            o = gate.forward(x)?.silu() * o;
        }
        let state =
            LayerState { tails: p.tails, mixer, seen: past.map_or(0, |s| s.seen) + seq_len };
        Ok(Mixed { y: self.out_proj.forward(&o)?, state, stats })
    }

    fn solve(
        &self,
        p: &Projected,
        past: Option<&LayerState>,
    ) -> Result<(Tensor, Vec<Tensor>, Option<SolveStats>)> {
        let ridge = self.lambda().ok_or(Error::Argument {
            op: OP,
            arg: "mixer",
            expected: "mesa".to_owned(),
            got: "a layer without a ridge".to_owned(),
        })?;
        let past = match past.map(|s| s.mixer.as_slice()) {
            None => None,
            Some([h_kk, g_kv]) => {
                Some(MesaState { h_kk: h_kk.shallow_clone(), g_kv: g_kv.shallow_clone() })
            }
            Some(other) => {
                let (expected, got) = ("of a mesa layer".to_owned(), other.len().to_string());
                return Err(Error::Argument { op: OP, arg: "past", expected, got });
            }
        };
        let out = match &past {
            // One token of generation: the dense step needs no chunk and no copies.
            Some(past) if p.q.size()[1] == 1 && !p.q.requires_grad() => {
                let row = |x: &Tensor| x.select(1, 0);
                let [q, k, v, g, beta] = [&p.q, &p.k, &p.v, &p.g, &p.beta].map(row);
                let sign = p.sign.as_ref().map(row);
                let token =
                    MesaToken { q: &q, k: &k, v: &v, g: &g, beta: &beta, sign: sign.as_ref() };
                let solver = self.config.mesa.solver.validate()?;
                let mut out = mesa_step(&token, &ridge, past, &solver)?;
                for x in [&mut out.o, &mut out.stats.steps, &mut out.stats.residual] {
                    *x = x.unsqueeze(1);
                }
                out
            }
            _ => {
                let mut inputs = MesaInputs::new([&p.q, &p.k, &p.v], &p.g, &p.beta, &ridge);
                inputs.sign = p.sign.as_ref();
                inputs.initial = past.as_ref();
                mesa(&inputs, &self.config.mesa.validate()?)?
            }
        };
        Ok((out.o, vec![out.state.h_kk, out.state.g_kv], Some(out.stats)))
    }

    /// Mixes packed sequences: `x: [1, seq_len, d_model]` cut at `cu_seqlens`, each from nothing.
    /// Neither convolution nor state crosses a cut. Returns outputs and the state of each sequence.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward); [`Error::Argument`] when the cuts do not fit.
    pub fn forward_packed(
        &self,
        x: &Tensor,
        cu_seqlens: &[i64],
    ) -> Result<(Tensor, Vec<LayerState>)> {
        let d_model = self.q.d_in();
        check_shape!(OP, x, [1, ?seq_len, d_model]);
        let fits = cu_seqlens.len() >= 2
            && cu_seqlens.first() == Some(&0)
            && cu_seqlens.last() == Some(&seq_len)
            && cu_seqlens.windows(2).all(|w| w[0] <= w[1]);
        if !fits {
            let expected = format!("ascending from 0 to seq_len = {seq_len}");
            let got = format!("{} numbers", cu_seqlens.len());
            return Err(Error::Argument { op: OP, arg: "cu_seqlens", expected, got });
        }
        let parts: Vec<Mixed> = cu_seqlens
            .windows(2)
            .map(|w| self.forward(&x.narrow(1, w[0], w[1] - w[0]), None))
            .collect::<Result<_>>()?;
        let y = Tensor::cat(&parts.iter().map(|m| &m.y).collect::<Vec<_>>(), 1);
        Ok((y, parts.into_iter().map(|m| m.state).collect()))
    }
}

/// float32 at least.
fn wide(kind: Kind) -> Kind {
    if kind == Kind::Double { kind } else { Kind::Float }
}

/// `a / sqrt(|a|^2 + eps)` over the last dimension.
fn unit(a: &Tensor) -> Tensor {
    a * (a.square().sum_dim_intlist([-1].as_slice(), true, None) + L2_EPS).rsqrt()
}

/// Causal depthwise convolution over time of `x: [batch, seq_len, channels]` after the inputs `tail`,
/// and the tail for the next tokens. The last tap of `weight: [channels, 1, taps]` multiplies the
/// current token.
pub(crate) fn convolve(
    x: &Tensor,
    weight: &Tensor,
    tail: Option<&Tensor>,
) -> Result<(Tensor, Tensor)> {
    let (size, taps) = (x.size(), weight.size()[2]);
    let (batch, channels, back) = (size[0], size[2], taps - 1);
    let before = match tail {
        Some(tail) => {
            check_shape!(OP, tail, [batch, back, channels]);
            tail.shallow_clone()
        }
        None => x.new_zeros([batch, back, channels], (x.kind(), x.device())),
    };
    let all = Tensor::cat(&[&before, x], 1); // [b, back + t, channels]
    let tail = all.narrow(1, size[1], back);
    if size[1] == 0 {
        return Ok((x.shallow_clone(), tail));
    }
    // A sum of shifted products: for a handful of taps faster on a CPU than a grouped convolution.
    let mut y: Option<Tensor> = None;
    for tap in 0..taps {
        let term = all.narrow(1, tap, size[1]) * weight.select(2, tap).reshape([1, 1, channels]);
        y = Some(match y {
            Some(y) => y + term,
            None => term,
        });
    }
    Ok((y.unwrap_or_else(|| x.shallow_clone()), tail))
}
