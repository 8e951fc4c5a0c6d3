//! A decoder-only transformer, from its config to its loss.

use super::{
    Activation, AttentionConfig, AttentionForm, CausalSelfAttention, DecodeState, Dropout,
    Embedding, Linear, Mlp, MlpConfig, Mode, Norm, NormKind, Rope, TransformerBlock,
    loss::cross_entropy,
};
use crate::{
    Checked, Compute, Error, Init, Param, ParamPath, Result, Role, Tap, Validate, check_shape,
    config::{finite_in, in_range},
    error::TorchContext,
    tap::{Site, pass, site},
};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// How a decoder knows where a token stands.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// Only through the causal mask.
    None,
    /// A learned vector for each position, added to the embedding.
    Learned,
    /// Queries and keys are turned ([`Rope`]).
    Rope {
        /// Base of the angles.
        theta: f64,
    },
}

/// Sizes, form and initial values of a [`Decoder`].
///
/// ```
/// use tensor_core::{Validate, nn::DecoderConfig};
/// let config: DecoderConfig =
///     toml::from_str("d_model = 64\nn_layers = 2\npositions = { rope = { theta = 1e4 } }").unwrap();
/// assert_eq!(config.validate()?.d_model, 64);
/// assert!(toml::from_str::<DecoderConfig>("d_modle = 64").is_err());
/// # Ok::<(), tensor_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DecoderConfig {
    /// Number of token ids.
    pub vocab_size: i64,
    /// Width of the residual stream.
    pub d_model: i64,
    /// Number of blocks.
    pub n_layers: i64,
    /// Number of query heads.
    pub n_heads: i64,
    /// Number of key and value heads; `n_heads` when absent.
    pub n_kv_heads: Option<i64>,
    /// Features of one head; `d_model / n_heads` when absent.
    pub head_dim: Option<i64>,
    /// Hidden units of an MLP. When absent `4 d_model`, or for SwiGLU, whose three matrices then
    /// have as many entries, `8/3 d_model` rounded up to a multiple of 8.
    pub d_ff: Option<i64>,
    /// Longest sequence, in one pass or step by step.
    pub max_seq_len: i64,
    /// Non-linearity of the MLPs.
    pub activation: Activation,
    /// Normalisation before attention, before the MLP and at the end.
    pub norm: NormKind,
    /// Added to the variance or mean square in a norm.
    pub norm_eps: f64,
    /// How tokens know their position.
    pub positions: Positions,
    /// Number of positions that a query sees, itself included; all past ones when absent.
    pub window: Option<i64>,
    /// Whether linear maps and layer norms have biases.
    pub bias: bool,
    /// Whether the output layer is the embedding table.
    pub tie_embeddings: bool,
    /// Dropout in training, on the embedding and on what attention and MLPs add.
    pub dropout: f64,
    /// Standard deviation of initial weights.
    pub init_std: f64,
    /// How the attention product is computed.
    pub form: AttentionForm,
    /// Precision of the products.
    pub compute: Compute,
}

impl Default for DecoderConfig {
    fn default() -> Self {
        Self {
            vocab_size: 256,
            d_model: 128,
            n_layers: 4,
            n_heads: 4,
            n_kv_heads: None,
            head_dim: None,
            d_ff: None,
            max_seq_len: 1024,
            activation: Activation::SwiGlu,
            norm: NormKind::Rms,
            norm_eps: 1e-5,
            positions: Positions::Rope { theta: 10_000.0 },
            window: None,
            bias: false,
            tie_embeddings: true,
            dropout: 0.0,
            init_std: 0.02,
            form: AttentionForm::Fused,
            compute: Compute::F32,
        }
    }
}

impl DecoderConfig {
    /// Hidden units of an MLP.
    pub fn d_ff(&self) -> i64 {
        self.d_ff.unwrap_or_else(|| {
            if self.activation.gated() {
                (self.d_model.saturating_add(2) / 3).saturating_mul(8)
            } else {
                self.d_model.saturating_mul(4)
            }
        })
    }

    /// What each attention layer is made from.
    pub fn attention(&self) -> AttentionConfig {
        AttentionConfig {
            d_model: self.d_model,
            n_heads: self.n_heads,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            bias: self.bias,
            rope_theta: match self.positions {
                Positions::Rope { theta } => Some(theta),
                Positions::None | Positions::Learned => None,
            },
            window: self.window,
            max_seq_len: self.max_seq_len,
            form: self.form,
            compute: self.compute,
        }
    }

    /// What each MLP is made from.
    pub fn mlp(&self) -> MlpConfig {
        MlpConfig {
            d_model: self.d_model,
            d_ff: self.d_ff(),
            activation: self.activation,
            bias: self.bias,
            compute: self.compute,
        }
    }

    /// Number of scalar parameters of a decoder of this config, tied tables counted once.
    ///
    /// A float, because it is asked of configs that are not checked yet; exact below 2^53.
    pub fn param_count(&self) -> f64 {
        let [vocab, d, layers, heads, kv_heads, head_dim, d_ff] = [
            self.vocab_size,
            self.d_model,
            self.n_layers,
            self.n_heads,
            self.attention().kv_heads(),
            self.attention().head_dim(),
            self.d_ff(),
        ]
        .map(|n| n as f64);
        let bias = f64::from(u8::from(self.bias));
        let linear = |d_in: f64, d_out: f64| d_in * d_out + bias * d_out;
        let norm = d * if self.norm == NormKind::Layer { 1.0 + bias } else { 1.0 };
        let attn = linear(d, heads * head_dim)
            + 2.0 * linear(d, kv_heads * head_dim)
            + linear(heads * head_dim, d);
        let into = if self.activation.gated() { 2.0 } else { 1.0 };
        let mlp = into * linear(d, d_ff) + linear(d_ff, d);
        let learned = if self.positions == Positions::Learned { self.max_seq_len } else { 0 };
        let tables = if self.tie_embeddings { 1.0 } else { 2.0 };
        tables * vocab * d + learned as f64 * d + layers * (attn + mlp + 2.0 * norm) + norm
    }
}

impl Validate for DecoderConfig {
    type Error = Error;

    fn check(&self) -> Result<()> {
        in_range("vocab_size", self.vocab_size, 1..=1 << 24)?;
        in_range("n_layers", self.n_layers, 1..=1 << 12)?;
        self.attention().check()?;
        self.mlp().check()?;
        finite_in("norm_eps", self.norm_eps, 0.0..=1.0)?;
        finite_in("dropout", self.dropout, 0.0..=1.0)?;
        finite_in("init_std", self.init_std, 0.0..=10.0)?;
        let (count, most) = (self.param_count(), (1_u64 << 38) as f64);
        if count > most {
            let why = format!(
                "with the other sizes makes {count:.3e} parameters; more than {most:.3e} are refused"
            );
            return Err(Error::Config { field: "d_model", why });
        }
        Ok(())
    }
}

/// Decoder-only transformer: embedding, pre-norm blocks, norm, output layer.
///
/// **Initial values are nanoGPT's**: weights, embeddings and learned positions normal with standard
/// deviation `init_std` (0.02), biases zero, norms one; and the projections that write into the
/// residual stream (`attn.out_proj`, `mlp.down`) normal with `init_std / sqrt(2 n_layers)`, so that
/// the stream's variance does not grow with depth.
///
/// Parameter names: `embed.weight`, `positions.weight` (learned alone), `blocks.<i>.attn_norm`,
/// `blocks.<i>.attn.{q,k,v,out_proj}`, `blocks.<i>.mlp_norm`, `blocks.<i>.mlp.{up,gate,down}`,
/// `final_norm`, `unembed` (untied alone).
///
/// ```
/// use tensor_core::{Device, Kind, ParamStore, SeedTree, Tensor, Validate};
/// use tensor_core::{nn::{Decoder, DecoderConfig, Mode}, tap::NoTap};
/// let config = DecoderConfig { d_model: 16, n_layers: 2, n_heads: 2, ..Default::default() };
/// let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(1));
/// let model = Decoder::new(&mut store.root(), &config.validate()?)?;
/// let text = Tensor::from_slice(b"to be or not to be").to_kind(Kind::Int64).unsqueeze(0);
/// let (ids, targets) = (text.narrow(1, 0, 17), text.narrow(1, 1, 17));
/// model.loss(&ids, &targets, Mode::Train, &mut NoTap)?.backward();
/// assert!(store.trainable().all(|p| p.grad().is_some()));
/// # Ok::<(), tensor_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Decoder {
    /// Token table.
    pub embed: Embedding,
    /// Learned positions, `[max_seq_len, d_model]`.
    pub positions: Option<Param>,
    /// The blocks, first to last.
    pub blocks: Vec<TransformerBlock>,
    /// Before the output layer.
    pub final_norm: Norm,
    /// Output layer; the token table when absent.
    pub unembed: Option<Linear>,
    dropout: Dropout,
    config: Checked<DecoderConfig>,
}

impl Decoder {
    /// A decoder with the initial values stated in the type's docs.
    ///
    /// # Errors
    /// Those of [`ParamPath::param`] and [`Rope::new`].
    pub fn new(path: &mut ParamPath<'_>, config: &Checked<DecoderConfig>) -> Result<Self> {
        let c: &DecoderConfig = config;
        let init = Init::Normal { std: c.init_std };
        let embed = Embedding::with_init(&mut path.sub("embed"), c.vocab_size, c.d_model, &init)?;
        let mut learn = || {
            let size = [c.max_seq_len, c.d_model];
            path.sub("positions").param("weight", &size, Role::Embedding, &init)
        };
        let (positions, rope) = match c.positions {
            Positions::None => (None, None),
            Positions::Learned => (Some(learn()?), None),
            Positions::Rope { theta } => {
                let head_dim = c.attention().head_dim();
                let (device, kind) = (path.device(), path.kind());
                (None, Some(Rope::new(head_dim, c.max_seq_len, theta, device, kind)?))
            }
        };
        let blocks = (0..c.n_layers)
            .map(|i| block(&mut path.sub("blocks").sub(i), c, rope.clone()))
            .collect::<Result<_>>()?;
        let mut norm_path = path.sub("final_norm");
        let final_norm = Norm::new(&mut norm_path, c.norm, c.d_model, c.norm_eps, c.bias)?;
        let unembed = (!c.tie_embeddings)
            .then(|| {
                let mut path = path.sub("unembed");
                Linear::with_init(&mut path, c.d_model, c.vocab_size, &init, None)
            })
            .transpose()?;
        Ok(Self {
            embed: embed.compute(c.compute),
            positions,
            blocks,
            final_norm,
            unembed: unembed.map(|layer| layer.compute(c.compute)),
            dropout: Dropout::new(c.dropout)?,
            config: config.clone(),
        })
    }

    /// What the decoder was made from. Sizes that have grown since are those of the parameters.
    pub fn config(&self) -> &Checked<DecoderConfig> {
        &self.config
    }

    /// Scores of the next token at each position, without dropout.
    ///
    /// * `ids`: `[batch, seq_len]`, `Int64`, `1 <= seq_len <= max_seq_len`
    /// * `tap`: visited at the sites of [`tap::site`](crate::tap::site) in every block
    ///
    /// Returns logits `[batch, seq_len, vocab_size]` in the store's element type. The logits at a
    /// position do not depend on later tokens, to the last bit.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Kind`] or [`Error::Argument`] when `ids` do not fit (for ids out
    /// of range see [`Embedding`]), or when `tap` returns a tensor that does not.
    pub fn forward<T: Tap + ?Sized>(&self, ids: &Tensor, tap: &mut T) -> Result<Tensor> {
        self.logits(&self.hidden(ids, Mode::Eval, tap)?)
    }

    /// Output of the final norm, `[batch, seq_len, d_model]`, from `ids` as in
    /// [`forward`](Self::forward).
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn hidden<T: Tap + ?Sized>(&self, ids: &Tensor, mode: Mode, tap: &mut T) -> Result<Tensor> {
        Ok(self.run("Decoder::hidden", ids, None, mode, tap)?.0)
    }

    /// The output layer alone: `[.., d_model]` to `[.., vocab_size]`.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Kind`] when `hidden` does not fit.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        match &self.unembed {
            Some(layer) => layer.forward(hidden),
            None => self.embed.unembed(hidden),
        }
    }

    /// Mean cross-entropy of predicting `targets[b, t]` from `ids[b, ..=t]`, in nats.
    ///
    /// * `ids`, `targets`: `[batch, seq_len]`, `Int64`; targets of
    ///   [`IGNORE`](super::loss::IGNORE) are left out
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward) and [`cross_entropy`].
    pub fn loss<T: Tap + ?Sized>(
        &self,
        ids: &Tensor,
        targets: &Tensor,
        mode: Mode,
        tap: &mut T,
    ) -> Result<Tensor> {
        cross_entropy(&self.logits(&self.hidden(ids, mode, tap)?)?, targets)
    }

    /// Scores after each of the tokens that follow those in `state`, as if all stood in one sequence.
    ///
    /// * `ids`: `[batch, n_new]`, `Int64`
    ///
    /// Returns logits `[batch, n_new, vocab_size]` and the state that holds the new tokens too. Each
    /// layer's new keys and values are appended by a copy of those kept, so a step costs time in
    /// proportion to the positions kept (as the attention product itself does).
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward); [`Error::Shape`] too when the sequence outgrows
    /// `max_seq_len` or the batch differs from that of `state`.
    pub fn step<T: Tap + ?Sized>(
        &self,
        ids: &Tensor,
        state: &DecodeState,
        tap: &mut T,
    ) -> Result<(Tensor, DecodeState)> {
        let (hidden, state) = self.run("Decoder::step", ids, Some(state), Mode::Eval, tap)?;
        Ok((self.logits(&hidden)?, state))
    }

    pub(super) fn run<T: Tap + ?Sized>(
        &self,
        op: &'static str,
        ids: &Tensor,
        state: Option<&DecodeState>,
        mode: Mode,
        tap: &mut T,
    ) -> Result<(Tensor, DecodeState)> {
        check_shape!(op, ids, [?batch, ?seq_len]);
        let fresh = DecodeState::default();
        let past = state.unwrap_or(&fresh);
        let room = self.config.max_seq_len - past.seen();
        if batch < 1 || seq_len < 1 || seq_len > room {
            let expected = format!("[batch >= 1, 1 <= seq_len <= {room}]");
            return Err(Error::Shape { op, arg: "ids".to_owned(), expected, got: ids.size() });
        }
        past.check(op, self.blocks.len())?;
        let x = self.embed.forward(ids)?; // [b, t, d_model]
        let x = match &self.positions {
            Some(table) => {
                let (table, d_model) = (table.value(), x.size()[2]);
                check_shape!(op, table, [?_max_seq_len, d_model]);
                x + table.f_narrow(0, past.seen(), seq_len).op(op)?
            }
            None => x,
        };
        let mut x = self.dropout.forward(x, mode);
        let mut caches = Vec::new();
        for (layer, block) in self.blocks.iter().enumerate() {
            let cache = past.cache(layer);
            block.check(op, &x, &cache)?;
            let (y, cache) = block.run(x, &cache, layer, mode, tap)?;
            x = y;
            if state.is_some() {
                caches.push(cache); // else its keys and values would live as long as the graph
            }
        }
        let x = self.final_norm.forward(&x)?;
        let x = pass(tap, Site { layer: self.blocks.len(), name: site::FINAL_NORM }, x)?;
        Ok((x, DecodeState::new(caches)))
    }
}

fn block(
    path: &mut ParamPath<'_>,
    config: &DecoderConfig,
    rope: Option<Rope>,
) -> Result<TransformerBlock> {
    let into = Init::Normal { std: config.init_std };
    let out = Init::Normal { std: config.init_std / (2.0 * config.n_layers as f64).sqrt() };
    let (into, out) = ([&into, &Init::Zeros], [&out, &Init::Zeros]);
    let mut norm = |name| {
        let mut path = path.sub(name);
        Norm::new(&mut path, config.norm, config.d_model, config.norm_eps, config.bias)
    };
    let attn_norm = norm("attn_norm")?;
    let mlp_norm = norm("mlp_norm")?;
    let mut attn_path = path.sub("attn");
    let attention = config.attention();
    Ok(TransformerBlock {
        attn_norm,
        attn: CausalSelfAttention::with_init(&mut attn_path, &attention, rope, into, out)?,
        mlp_norm,
        mlp: Mlp::with_init(&mut path.sub("mlp"), &config.mlp(), into, out)?,
        dropout: Dropout::new(config.dropout)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Kind, ParamStore, SeedTree};

    fn base() -> DecoderConfig {
        DecoderConfig { vocab_size: 11, d_model: 24, n_layers: 3, n_heads: 4, ..Default::default() }
    }

    #[test]
    fn the_count_from_the_config_is_that_of_the_store() {
        let rope = Positions::Rope { theta: 100.0 };
        for config in [
            base(),
            DecoderConfig { n_kv_heads: Some(2), tie_embeddings: false, bias: true, ..base() },
            DecoderConfig { head_dim: Some(10), positions: rope, d_ff: Some(7), ..base() },
            DecoderConfig {
                norm: NormKind::Layer,
                bias: true,
                activation: Activation::Gelu,
                positions: Positions::Learned,
                max_seq_len: 9,
                ..base()
            },
        ] {
            let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(0));
            Decoder::new(&mut store.root(), &config.validate().unwrap()).unwrap();
            assert!((store.count().total as f64 - config.param_count()).abs() < 0.5, "{config:?}");
        }
    }

    #[test]
    fn residual_projections_start_smaller() {
        let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(5));
        let config = DecoderConfig { d_model: 96, n_layers: 2, init_std: 0.1, ..base() };
        Decoder::new(&mut store.root(), &config.validate().unwrap()).unwrap();
        for (name, want) in [
            ("blocks.0.attn.q.weight", 0.1),
            ("blocks.1.attn.out_proj.weight", 0.05),
            ("blocks.1.mlp.down.weight", 0.05),
            ("blocks.0.mlp.gate.weight", 0.1),
        ] {
            let std = store.get(name).unwrap().value().std(true).double_value(&[]);
            assert!((std / want - 1.0).abs() < 0.05, "{name}: {std}");
        }
    }

    #[test]
    fn bad_configs_name_the_field() {
        for (field, config) in [
            ("vocab_size", DecoderConfig { vocab_size: 0, ..base() }),
            ("d_model", DecoderConfig { d_model: i64::MAX, ..base() }),
            ("d_model", DecoderConfig { d_model: 1 << 20, n_heads: 64, n_layers: 4096, ..base() }),
            ("n_layers", DecoderConfig { n_layers: -1, ..base() }),
            ("n_heads", DecoderConfig { n_heads: 5, ..base() }),
            ("n_heads", DecoderConfig { n_heads: 0, ..base() }),
            ("n_kv_heads", DecoderConfig { n_kv_heads: Some(3), ..base() }),
            ("n_kv_heads", DecoderConfig { n_kv_heads: Some(i64::MIN), ..base() }),
            ("head_dim", DecoderConfig { head_dim: Some(3), ..base() }),
            ("d_ff", DecoderConfig { d_ff: Some(0), ..base() }),
            ("window", DecoderConfig { window: Some(0), ..base() }),
            ("max_seq_len", DecoderConfig { max_seq_len: i64::MAX, ..base() }),
            ("norm_eps", DecoderConfig { norm_eps: -1.0, ..base() }),
            ("dropout", DecoderConfig { dropout: f64::NAN, ..base() }),
            ("init_std", DecoderConfig { init_std: f64::INFINITY, ..base() }),
            ("rope.theta", DecoderConfig { positions: Positions::Rope { theta: 0.0 }, ..base() }),
        ] {
            match config.validate() {
                Err(Error::Config { field: got, .. }) => assert_eq!(got, field),
                other => panic!("{field}: {other:?}"),
            }
        }
    }

    #[test]
    fn swiglu_width_is_eight_thirds_rounded_up() {
        for (d_model, want) in [(24, 64), (128, 344), (512, 1368), (3, 8), (1, 8)] {
            assert_eq!(DecoderConfig { d_model, ..base() }.d_ff(), want);
        }
        let gelu = DecoderConfig { activation: Activation::Gelu, ..base() };
        assert_eq!(gelu.d_ff(), 96);
    }
}
