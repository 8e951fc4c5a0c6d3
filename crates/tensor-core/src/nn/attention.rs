//! Causal self-attention: grouped heads, rotary positions, sliding window, cached keys and values.

use super::{Linear, Rope, rope::check_rope, same_kind};
use crate::{
    Checked, Compute, Error, Init, ParamPath, Result, Tap, Validate, check_shape,
    compute::is_float,
    config::in_range,
    tap::{NoTap, Site, pass, site},
};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// How the attention product is computed. Both give the same numbers up to rounding.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionForm {
    /// libtorch's fused kernel: memory linear in the sequence. Differentiable once.
    #[default]
    Fused,
    /// Matrix of scores, mask, softmax, product: memory quadratic in the sequence. Differentiable
    /// any number of times, which Hessian-vector products need.
    Reference,
}

/// Where queries and keys stand in the sequence, and how far back a query sees.
///
/// Query `i` stands at position `q_start + i`, key `j` at `kv_start + j`. A query at position `p`
/// sees the keys at positions `p - window < s <= p`, or all `s <= p` without a window.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Position of the first query.
    pub q_start: i64,
    /// Position of the first key, at most `q_start`.
    pub kv_start: i64,
    /// Number of positions that a query sees, itself included.
    pub window: Option<i64>,
}

impl Span {
    /// True where a query sees a key, `[q_len, kv_len]`; `None` when every query sees every key.
    fn mask(self, q_len: i64, kv_len: i64, device: Device) -> Option<Tensor> {
        let lead = self.q_start - self.kv_start; // position of query 0 counted from key 0
        let all_past = kv_len <= lead + 1;
        let all_near = self.window.is_none_or(|w| lead + q_len - 1 < w);
        if all_past && all_near {
            return None;
        }
        let q = Tensor::arange_start(lead, lead + q_len, (Kind::Int64, device)).unsqueeze(1);
        let distance = q - Tensor::arange(kv_len, (Kind::Int64, device)); // [q_len, kv_len]
        let past = distance.ge(0);
        Some(match self.window.filter(|_| !all_near) {
            Some(window) => past.logical_and(&distance.lt(window)),
            None => past,
        })
    }

    /// Whether the plain lower triangle says it all, which the fused kernel knows by itself.
    fn is_square_causal(self, q_len: i64, kv_len: i64) -> bool {
        self.q_start == self.kv_start
            && q_len == kv_len
            && q_len > 1
            && self.window.is_none_or(|w| w >= kv_len)
    }
}

/// `softmax(q k^T / sqrt(head_dim) + mask) v` for every head.
///
/// * `q`: `[batch, n_heads, q_len, head_dim]`
/// * `k`: `[batch, n_kv_heads, kv_len, head_dim]`; each key head serves `n_heads / n_kv_heads`
///   query heads that lie next to each other
/// * `v`: `[batch, n_kv_heads, kv_len, value_dim]`
///
/// Returns `[batch, n_heads, q_len, value_dim]` in the element type of `q`.
///
/// # Errors
/// [`Error::Shape`] when sizes disagree or a length is 0, [`Error::Kind`] when element types do,
/// [`Error::Argument`] when the span leaves a query without any key.
pub fn attend(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    span: Span,
    form: AttentionForm,
) -> Result<Tensor> {
    const OP: &str = "attend";
    check_shape!(OP, q, [?batch, ?n_heads, ?q_len, ?head_dim]);
    check_shape!(OP, k, [batch, ?n_kv_heads, ?kv_len, head_dim]);
    check_shape!(OP, v, [batch, n_kv_heads, kv_len, ?_value_dim]);
    if n_kv_heads == 0 || n_heads % n_kv_heads != 0 {
        let expected = format!("[.., a divisor of n_heads = {n_heads}, .., ..]");
        return Err(Error::Shape { op: OP, arg: "k".to_owned(), expected, got: k.size() });
    }
    if q.numel() == 0 || kv_len == 0 {
        let expected = "[batch >= 1, n_heads >= 1, q_len >= 1, head_dim >= 1]".to_owned();
        return Err(Error::Shape { op: OP, arg: "q".to_owned(), expected, got: q.size() });
    }
    if !is_float(q.kind()) {
        let expected = "a floating-point kind".to_owned();
        return Err(Error::Kind { op: OP, arg: "q".to_owned(), expected, got: q.kind() });
    }
    same_kind(OP, "k", k, q.kind())?;
    same_kind(OP, "v", v, q.kind())?;
    // The last query's window must reach back to a key, and the first query must not come before all.
    let ends = span.q_start.checked_add(q_len).zip(span.kv_start.checked_add(kv_len));
    let sees = ends.is_some_and(|(q_end, kv_end)| {
        let reaches = span.window.is_none_or(|w| w >= 1 && q_end - w < kv_end);
        span.kv_start >= 0 && span.q_start >= span.kv_start && reaches
    });
    if !sees {
        let expected = "a span in which every query sees a key".to_owned();
        return Err(Error::Argument { op: OP, arg: "span", expected, got: format!("{span:?}") });
    }
    Ok(attend_unchecked(q, k, v, span, form))
}

fn attend_unchecked(q: &Tensor, k: &Tensor, v: &Tensor, span: Span, form: AttentionForm) -> Tensor {
    let (q_len, kv_len) = (q.size()[2], k.size()[2]);
    match form {
        AttentionForm::Fused => {
            let causal = span.is_square_causal(q_len, kv_len);
            let mask = if causal { None } else { span.mask(q_len, kv_len, q.device()) };
            let grouped = q.size()[1] != k.size()[1];
            Tensor::scaled_dot_product_attention(q, k, v, mask, 0.0, causal, None, grouped)
        }
        AttentionForm::Reference => {
            let (k, v) = (repeat_heads(k, q.size()[1]), repeat_heads(v, q.size()[1]));
            let scale = (q.size()[3] as f64).sqrt().recip();
            // Softmax in float32 at least, whatever the operands.
            let wide = if matches!(q.kind(), Kind::Half | Kind::BFloat16) {
                Kind::Float
            } else {
                q.kind()
            };
            let mut scores = q.matmul(&k.transpose(-2, -1)).to_kind(wide) * scale; // [b, h, t, s]
            if let Some(mask) = span.mask(q_len, kv_len, q.device()) {
                scores = scores.masked_fill(&mask.logical_not(), f64::NEG_INFINITY);
            }
            scores.softmax(-1, None).to_kind(q.kind()).matmul(&v)
        }
    }
}

/// `[b, n_kv_heads, s, d]` to `[b, n_heads, s, d]`, each head repeated in place.
fn repeat_heads(x: &Tensor, n_heads: i64) -> Tensor {
    let n_kv_heads = x.size()[1];
    if n_kv_heads == n_heads {
        x.shallow_clone()
    } else {
        x.repeat_interleave_self_int(n_heads / n_kv_heads, 1, None)
    }
}

/// Sizes and form of a [`CausalSelfAttention`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AttentionConfig {
    /// Width of input and output.
    pub d_model: i64,
    /// Number of query heads.
    pub n_heads: i64,
    /// Number of key and value heads; `n_heads` when absent.
    pub n_kv_heads: Option<i64>,
    /// Features of one head; `d_model / n_heads` when absent.
    pub head_dim: Option<i64>,
    /// Whether the four linear maps have biases.
    pub bias: bool,
    /// Base of the rotary positions; none are used when absent.
    pub rope_theta: Option<f64>,
    /// Number of positions that a query sees, itself included; all past ones when absent.
    pub window: Option<i64>,
    /// Longest sequence, in one pass or step by step.
    pub max_seq_len: i64,
    /// How the attention product is computed.
    pub form: AttentionForm,
    /// Precision of the products.
    pub compute: Compute,
}

impl Default for AttentionConfig {
    fn default() -> Self {
        Self {
            d_model: 128,
            n_heads: 4,
            n_kv_heads: None,
            head_dim: None,
            bias: false,
            rope_theta: Some(10_000.0),
            window: None,
            max_seq_len: 1024,
            form: AttentionForm::default(),
            compute: Compute::default(),
        }
    }
}

impl AttentionConfig {
    /// Number of key and value heads.
    pub fn kv_heads(&self) -> i64 {
        self.n_kv_heads.unwrap_or(self.n_heads)
    }

    /// Features of one head. Meaningful for a valid config.
    pub fn head_dim(&self) -> i64 {
        self.head_dim.unwrap_or_else(|| self.d_model.checked_div(self.n_heads).unwrap_or(0))
    }
}

impl Validate for AttentionConfig {
    type Error = Error;

    fn check(&self) -> Result<()> {
        in_range("d_model", self.d_model, 1..=1 << 20)?;
        in_range("n_heads", self.n_heads, 1..=1 << 14)?;
        in_range("n_kv_heads", self.kv_heads(), 1..=self.n_heads)?;
        if self.n_heads % self.kv_heads() != 0 {
            let why = format!("must divide n_heads = {}, got {}", self.n_heads, self.kv_heads());
            return Err(Error::Config { field: "n_kv_heads", why });
        }
        if self.head_dim.is_none() && self.d_model % self.n_heads != 0 {
            let why = format!(
                "must divide d_model = {} unless head_dim is given, got {}",
                self.d_model, self.n_heads
            );
            return Err(Error::Config { field: "n_heads", why });
        }
        in_range("head_dim", self.head_dim(), 1..=1 << 16)?;
        in_range("max_seq_len", self.max_seq_len, 1..=1 << 24)?;
        if let Some(window) = self.window {
            in_range("window", window, 1..=1 << 24)?;
        }
        self.rope_theta.map_or(Ok(()), |theta| check_rope(self.head_dim(), theta))
    }
}

/// Keys and values of the positions seen so far, of one attention layer. It goes into a step and
/// the next one comes out; none is changed in place, so an old cache can be kept to branch from.
#[derive(Debug, Default)]
pub struct KvCache {
    past: Option<(Tensor, Tensor)>, // each [batch, n_kv_heads, kept, head_dim], keys already turned
    seen: i64,
}

impl Clone for KvCache {
    fn clone(&self) -> Self {
        let past = self.past.as_ref().map(|(k, v)| (k.shallow_clone(), v.shallow_clone()));
        Self { past, seen: self.seen }
    }
}

impl KvCache {
    /// Number of positions seen, which is the position of the next token.
    pub fn seen(&self) -> i64 {
        self.seen
    }

    /// Number of positions kept: all that were seen, or the last `window - 1`.
    pub fn kept(&self) -> i64 {
        self.past.as_ref().map_or(0, |(k, _)| k.size()[2])
    }
}

/// Causal self-attention over the residual stream.
///
/// Parameters: `q.weight` `[n_heads * head_dim, d_model]`, `k.weight` and `v.weight`
/// `[n_kv_heads * head_dim, d_model]`, `out_proj.weight` `[d_model, n_heads * head_dim]`, and biases
/// when configured. The numbers of heads follow the current sizes of the parameters.
#[derive(Clone, Debug)]
pub struct CausalSelfAttention {
    /// Queries.
    pub q: Linear,
    /// Keys.
    pub k: Linear,
    /// Values.
    pub v: Linear,
    /// From the heads back into the residual stream.
    pub out_proj: Linear,
    rope: Option<Rope>,
    head_dim: i64,
    window: Option<i64>,
    max_seq_len: i64,
    form: AttentionForm,
    compute: Compute,
}

impl CausalSelfAttention {
    /// A layer with `PyTorch`'s initial values (see [`Linear::new`]).
    ///
    /// # Errors
    /// Those of [`ParamPath::param`] and [`Rope::new`].
    pub fn new(path: &mut ParamPath<'_>, config: &Checked<AttentionConfig>) -> Result<Self> {
        let into = Init::FanIn { fan_in: config.d_model };
        let out = Init::FanIn { fan_in: config.n_heads * config.head_dim() };
        let (kind, device) = (path.kind(), path.device());
        let rope = |theta| Rope::new(config.head_dim(), config.max_seq_len, theta, device, kind);
        let rope = config.rope_theta.map(rope).transpose()?;
        Self::with_init(path, config, rope, [&into, &into], [&out, &out])
    }

    /// A layer with given initial values, as `[weight, bias]`, of the three maps into the heads and
    /// of the output projection; and with a rotary table that several layers may share.
    pub(super) fn with_init(
        path: &mut ParamPath<'_>,
        config: &AttentionConfig,
        rope: Option<Rope>,
        [into, into_bias]: [&Init; 2],
        [out, out_bias]: [&Init; 2],
    ) -> Result<Self> {
        let head_dim = config.head_dim();
        let (heads, kv_heads) = (config.n_heads * head_dim, config.kv_heads() * head_dim);
        let mut heads_from = |name, d_out| {
            let bias = config.bias.then_some(into_bias);
            Linear::with_init(&mut path.sub(name), config.d_model, d_out, into, bias)
                .map(|layer| layer.compute(config.compute))
        };
        let q = heads_from("q", heads)?;
        let k = heads_from("k", kv_heads)?;
        let v = heads_from("v", kv_heads)?;
        let bias = config.bias.then_some(out_bias);
        let mut path = path.sub("out_proj");
        let out_proj = Linear::with_init(&mut path, heads, config.d_model, out, bias)?;
        Ok(Self {
            q,
            k,
            v,
            out_proj: out_proj.compute(config.compute),
            rope,
            head_dim,
            window: config.window,
            max_seq_len: config.max_seq_len,
            form: config.form,
            compute: config.compute,
        })
    }

    /// Attention over a whole sequence that starts at position 0.
    ///
    /// * `x`: `[batch, seq_len, d_model]`, `1 <= seq_len <= max_seq_len`
    ///
    /// Returns the same sizes.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Kind`] when `x` does not fit.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.check("CausalSelfAttention::forward", x, &KvCache::default())?;
        Ok(self.run(x, &KvCache::default(), 0, &mut NoTap)?.0)
    }

    /// Attention over the tokens that follow those in `cache`, as if all stood in one sequence.
    ///
    /// * `x`: `[batch, n_new, d_model]`
    ///
    /// Returns the same sizes, and the cache that holds the new tokens too.
    ///
    /// # Errors
    /// [`Error::Shape`] when `x` does not fit the layer or the cache, or the sequence outgrows
    /// `max_seq_len`; [`Error::Kind`] for another element type.
    pub fn step(&self, x: &Tensor, cache: &KvCache) -> Result<(Tensor, KvCache)> {
        self.check("CausalSelfAttention::step", x, cache)?;
        self.run(x, cache, 0, &mut NoTap)
    }

    pub(super) fn check(&self, op: &'static str, x: &Tensor, cache: &KvCache) -> Result<()> {
        let d_model = self.q.d_in();
        check_shape!(op, x, [?batch, ?seq_len, d_model]);
        same_kind(op, "x", x, self.q.weight.value().kind())?;
        let room = self.max_seq_len - cache.seen;
        let batch_fits = cache.past.as_ref().is_none_or(|(k, _)| k.size()[0] == batch);
        if batch < 1 || seq_len < 1 || seq_len > room || !batch_fits {
            let expected = match &cache.past {
                Some((k, _)) => format!(
                    "[batch = {}, 1..={room} tokens after {}, d_model]",
                    k.size()[0],
                    cache.seen
                ),
                None => format!("[batch >= 1, 1 <= seq_len <= {room}, d_model]"),
            };
            return Err(Error::Shape { op, arg: "x".to_owned(), expected, got: x.size() });
        }
        self.agree(op, d_model)
    }

    /// Checks that the parameters, which may have grown, still make one layer.
    fn agree(&self, op: &'static str, d_model: i64) -> Result<()> {
        let (heads, kv_heads) = (self.q.d_out(), self.k.d_out());
        let whole = kv_heads > 0 && kv_heads % self.head_dim == 0 && heads % kv_heads == 0;
        for (name, layer, want) in [
            ("q.weight", &self.q, [heads, d_model]),
            ("k.weight", &self.k, [kv_heads, d_model]),
            ("v.weight", &self.v, [kv_heads, d_model]),
            ("out_proj.weight", &self.out_proj, [d_model, heads]),
        ] {
            let got = layer.weight.size();
            if !whole || got != want {
                let expected = format!("{want:?}, in whole heads of {} features", self.head_dim);
                return Err(Error::Shape { op, arg: name.to_owned(), expected, got });
            }
        }
        Ok(())
    }

    /// The pass without checks, with a tap at the mixed heads.
    pub(super) fn run<T: Tap + ?Sized>(
        &self,
        x: &Tensor,
        cache: &KvCache,
        layer: usize,
        tap: &mut T,
    ) -> Result<(Tensor, KvCache)> {
        let (batch, seq_len) = (x.size()[0], x.size()[1]);
        let operand = self.compute.operand(x);
        let heads = |map: &Linear| {
            Ok::<_, Error>(map.project(&operand)?.view([batch, seq_len, -1, self.head_dim]))
        };
        let turn = |x: Tensor| match &self.rope {
            Some(rope) => self.compute.operand(&rope.turn(&x, cache.seen)),
            None => x,
        };
        let q = turn(heads(&self.q)?).transpose(1, 2); // [b, h, t, d]
        let mut k = turn(heads(&self.k)?).transpose(1, 2); // [b, h_kv, t, d]
        let mut v = heads(&self.v)?.transpose(1, 2);
        if let Some((past_k, past_v)) = &cache.past {
            k = Tensor::cat(&[past_k, &k], 2);
            v = Tensor::cat(&[past_v, &v], 2);
        }
        let (q_start, seen) = (cache.seen, cache.seen + seq_len);
        let span = Span { q_start, kv_start: seen - k.size()[2], window: self.window };
        let mixed = attend_unchecked(&q, &k, &v, span, self.form); // [b, h, t, d]
        let mut mixed = mixed.transpose(1, 2).reshape([batch, seq_len, -1]);
        if tap.active() {
            let seen = self.compute.result(mixed, x.kind());
            mixed = self.compute.operand(&pass(tap, Site { layer, name: site::ATTN_HEADS }, seen)?);
        }
        let y = self.compute.result(self.out_proj.project(&mixed)?, x.kind());
        let kept = self.window.map_or(i64::MAX, |w| w - 1).min(k.size()[2]);
        let last = |x: &Tensor| x.narrow(2, x.size()[2] - kept, kept);
        Ok((y, KvCache { past: Some((last(&k), last(&v))), seen }))
    }
}
