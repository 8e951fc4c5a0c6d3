//! `MesaNet` and its relatives: a language model whose mixer is one word in its config (section 7).

use crate::{
    hawk::Hawk,
    inputs::SolveStats,
    layer::{LayerState, MesaLayer, Mixed, NORM_EPS, fan_in},
    mixer::{LayerConfig, Mixer},
};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::{io::Write, path::Path};
use tch::{Kind, Tensor};
use tensor_core::{
    Checked, Error, ParamPath, ParamStore, Result, SeedTree, Validate, check_shape,
    checkpoint::safetensors,
    config::{finite_in, in_range},
    nn::{Embedding, GenerateConfig, Linear, RmsNorm, cross_entropy},
};

/// Sizes and form of a [`MesaNet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MesaNetConfig {
    /// Number of token ids.
    pub vocab_size: i64,
    /// Number of blocks.
    pub n_layers: i64,
    /// Hidden units of an MLP; `3 d_model` when absent.
    pub d_ff: Option<i64>,
    /// Whether every other block, from the first on, mixes by Hawk's recurrence.
    pub alternate_hawk: bool,
    /// Logits are `cap tanh(logits / cap)`; as they are when absent.
    pub logit_cap: Option<f64>,
    /// Whether the output layer is the embedding table.
    pub tie_embeddings: bool,
    /// The mixing layers, and with them the width of the model.
    pub layer: LayerConfig,
}

impl Default for MesaNetConfig {
    fn default() -> Self {
        Self {
            vocab_size: 256,
            n_layers: 4,
            d_ff: None,
            alternate_hawk: false,
            logit_cap: Some(30.0),
            tie_embeddings: true,
            layer: LayerConfig::default(),
        }
    }
}

impl MesaNetConfig {
    fn paper(n_layers: i64, n_heads: i64, d_model: i64) -> Self {
        Self {
            vocab_size: 50_257,
            n_layers,
            layer: LayerConfig { d_model, n_heads, head_dim: 128, ..LayerConfig::default() },
            ..Self::default()
        }
    }

    /// The paper's 140M model.
    pub fn paper_140m() -> Self {
        Self::paper(14, 6, 768)
    }

    /// The paper's 440M model.
    pub fn paper_440m() -> Self {
        Self::paper(28, 8, 1024)
    }

    /// The paper's 940M model.
    pub fn paper_940m() -> Self {
        Self::paper(28, 12, 1536)
    }

    /// The same with Hawk's recurrence in every other block.
    #[must_use]
    pub fn hawk_mesa(self) -> Self {
        Self { alternate_hawk: true, ..self }
    }

    /// Hidden units of an MLP.
    pub fn d_ff(&self) -> i64 {
        self.d_ff.unwrap_or(3 * self.layer.d_model)
    }

    /// The mixer of block `i`.
    fn mixer(&self, i: i64) -> Mixer {
        if self.alternate_hawk && i % 2 == 0 { Mixer::Hawk } else { self.layer.mixer }
    }
}

impl Validate for MesaNetConfig {
    type Error = Error;

    fn check(&self) -> Result<()> {
        in_range("vocab_size", self.vocab_size, 1..=1 << 24)?;
        in_range("n_layers", self.n_layers, 1..=1 << 12)?;
        in_range("d_ff", self.d_ff(), 1..=1 << 22)?;
        if let Some(cap) = self.logit_cap {
            finite_in("logit_cap", cap, 1e-3..=1e6)?;
        }
        self.layer.check()
    }
}

/// The mixer of a block.
#[derive(Debug)]
pub enum BlockMixer {
    /// Queries, keys, values: mesa and its comparators.
    Heads(Box<MesaLayer>),
    /// Hawk's recurrence.
    Hawk(Hawk),
}

impl BlockMixer {
    /// Mixes `x: [batch, seq_len, d_model]` after the tokens in `past`.
    ///
    /// # Errors
    /// Those of the layer.
    pub fn forward(&self, x: &Tensor, past: Option<&LayerState>) -> Result<Mixed> {
        match self {
            Self::Heads(layer) => layer.forward(x, past),
            Self::Hawk(layer) => layer.forward(x, past),
        }
    }
}

/// `e += mix(norm(e))`, then `e += down(silu(gate(norm(e))) * up(norm(e)))`.
#[derive(Debug)]
pub struct Block {
    /// Before the mixer.
    pub mix_norm: RmsNorm,
    /// The mixer.
    pub mixer: BlockMixer,
    /// Before the MLP.
    pub mlp_norm: RmsNorm,
    /// Gate, input and output of the MLP.
    pub mlp: [Linear; 3],
}

impl Block {
    fn new(path: &mut ParamPath<'_>, c: &MesaNetConfig, i: i64) -> Result<Self> {
        let d = c.layer.d_model;
        // What is added to the residual stream: variance 2 / n_layers (section 7).
        let scale = (2.0 / c.n_layers as f64).sqrt();
        let mixer = c.mixer(i);
        // Hawk's blocks have no gates of either sign; the mesa blocks between them keep theirs.
        let negative_gates = c.layer.negative_gates && mixer == Mixer::Mesa;
        let layer = LayerConfig { mixer, negative_gates, ..c.layer.clone() }.validate()?;
        let mut mix = path.sub("mixer");
        let mixer = if layer.mixer == Mixer::Hawk {
            BlockMixer::Hawk(Hawk::new(&mut mix, &layer, scale)?)
        } else {
            BlockMixer::Heads(Box::new(MesaLayer::new(&mut mix, &layer, scale)?))
        };
        let mut mlp = path.sub("mlp");
        let mut linear = |name: &str, d_in, d_out, scale| {
            Linear::with_init(&mut mlp.sub(name), d_in, d_out, &fan_in(d_in, scale), None)
        };
        let d_ff = c.d_ff();
        let mlp = [
            linear("gate", d, d_ff, 1.0)?,
            linear("up", d, d_ff, 1.0)?,
            linear("down", d_ff, d, scale)?,
        ];
        Ok(Self {
            mix_norm: RmsNorm::new(&mut path.sub("mix_norm"), d, NORM_EPS)?,
            mixer,
            mlp_norm: RmsNorm::new(&mut path.sub("mlp_norm"), d, NORM_EPS)?,
            mlp,
        })
    }

    fn forward(&self, x: &Tensor, past: Option<&LayerState>) -> Result<Mixed> {
        let mixed = self.mixer.forward(&self.mix_norm.forward(x)?, past)?;
        let x = x + &mixed.y;
        let normed = self.mlp_norm.forward(&x)?;
        let [gate, up, down] = &self.mlp;
        let hidden = gate.forward(&normed)?.silu() * up.forward(&normed)?;
        Ok(Mixed { y: x + down.forward(&hidden)?, ..mixed })
    }
}

/// What a model remembers: the state of each block.
#[derive(Clone, Debug, Default)]
pub struct ModelState {
    layers: Vec<LayerState>,
}

impl ModelState {
    /// Tokens seen.
    pub fn seen(&self) -> i64 {
        self.layers.first().map_or(0, LayerState::seen)
    }

    /// Bytes of all states.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(LayerState::bytes).sum()
    }
}

/// Result of a pass.
#[derive(Debug)]
pub struct Pass {
    /// Scores of the next token, `[batch, seq_len, vocab_size]`.
    pub logits: Tensor,
    /// What the model remembers now.
    pub state: ModelState,
    /// Steps and residuals of each mesa block, first to last.
    pub stats: Vec<SolveStats>,
}

/// A causal language model: embedding times `sqrt(d_model)`, blocks, norm, capped logits.
///
/// Parameters: `embed`, `blocks.<i>.{mix_norm, mixer, mlp_norm, mlp}`, `final_norm`, `unembed` (untied
/// alone). Initial values: normal with variance one over the inputs of a unit; what is added to the
/// residual stream, times `2 / n_layers`.
///
/// ```
/// use mesa_layer::{LayerConfig, MesaNet, MesaNetConfig, Mixer};
/// use tensor_core::{Device, Kind, ParamStore, SeedTree, Tensor, Validate};
/// let layer = LayerConfig { d_model: 32, n_heads: 2, head_dim: 16, mixer: Mixer::Mesa, ..Default::default() };
/// let config = MesaNetConfig { n_layers: 2, layer, ..Default::default() };
/// let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(1));
/// let model = MesaNet::new(&mut store.root(), &config.validate()?)?;
/// let text = Tensor::from_slice(b"to be or not to be").to_kind(Kind::Int64).unsqueeze(0);
/// model.loss(&text.narrow(1, 0, 17), &text.narrow(1, 1, 17))?.backward();
/// assert!(store.trainable().all(|p| p.grad().is_some()));
/// # Ok::<(), tensor_core::Error>(())
/// ```
#[derive(Debug)]
pub struct MesaNet {
    /// Token table.
    pub embed: Embedding,
    /// The blocks.
    pub blocks: Vec<Block>,
    /// Before the output layer.
    pub final_norm: RmsNorm,
    /// Output layer; the token table when absent.
    pub unembed: Option<Linear>,
    config: Checked<MesaNetConfig>,
}

impl MesaNet {
    /// A model with the initial values stated in the type's docs.
    ///
    /// # Errors
    /// Those of [`ParamPath::param`].
    pub fn new(path: &mut ParamPath<'_>, config: &Checked<MesaNetConfig>) -> Result<Self> {
        let c: &MesaNetConfig = config;
        let d = c.layer.d_model;
        let init = fan_in(d, 1.0);
        let embed = Embedding::with_init(&mut path.sub("embed"), c.vocab_size, d, &init)?;
        let blocks = (0..c.n_layers)
            .map(|i| Block::new(&mut path.sub("blocks").sub(i), c, i))
            .collect::<Result<_>>()?;
        let final_norm = RmsNorm::new(&mut path.sub("final_norm"), d, NORM_EPS)?;
        let unembed = (!c.tie_embeddings)
            .then(|| Linear::with_init(&mut path.sub("unembed"), d, c.vocab_size, &init, None))
            .transpose()?;
        Ok(Self { embed, blocks, final_norm, unembed, config: config.clone() })
    }

    /// What the model was made from.
    pub fn config(&self) -> &Checked<MesaNetConfig> {
        &self.config
    }

    /// Scores after each of the tokens `ids: [batch, seq_len]` (`Int64`) that follow those in `past`.
    ///
    /// # Errors
    /// [`Error::Shape`], [`Error::Kind`] or [`Error::Argument`] when ids or state do not fit;
    /// [`Error::NonFinite`] when the network's activations are not finite.
    pub fn forward(&self, ids: &Tensor, past: Option<&ModelState>) -> Result<Pass> {
        let (hidden, state, stats) = self.hidden(ids, past)?;
        Ok(Pass { logits: self.logits(&hidden)?, state, stats })
    }

    fn hidden(
        &self,
        ids: &Tensor,
        past: Option<&ModelState>,
    ) -> Result<(Tensor, ModelState, Vec<SolveStats>)> {
        check_shape!("MesaNet::forward", ids, [?_batch, ?_seq_len]);
        let past = past.filter(|p| !p.layers.is_empty());
        if let Some(past) = past.filter(|p| p.layers.len() != self.blocks.len()) {
            return Err(Error::Argument {
                op: "MesaNet::forward",
                arg: "past",
                expected: format!("of {} blocks", self.blocks.len()),
                got: past.layers.len().to_string(),
            });
        }
        let mut x = self.embed.forward(ids)? * (self.config.layer.d_model as f64).sqrt();
        let (mut layers, mut stats) = (Vec::new(), Vec::new());
        for (i, block) in self.blocks.iter().enumerate() {
            let mixed = block.forward(&x, past.and_then(|p| p.layers.get(i)))?;
            x = mixed.y;
            layers.push(mixed.state);
            stats.extend(mixed.stats);
        }
        Ok((self.final_norm.forward(&x)?, ModelState { layers }, stats))
    }

    fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let logits = match &self.unembed {
            Some(layer) => layer.forward(hidden)?,
            None => self.embed.unembed(hidden)?,
        };
        Ok(match self.config.logit_cap {
            Some(cap) => (logits / cap).tanh() * cap,
            None => logits,
        })
    }

    /// Mean cross-entropy in nats of predicting `targets[b, t]` from `ids[b, ..=t]`; targets of -100 are
    /// left out.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward) and [`cross_entropy`].
    pub fn loss(&self, ids: &Tensor, targets: &Tensor) -> Result<Tensor> {
        cross_entropy(&self.forward(ids, None)?.logits, targets)
    }

    /// Continues each row of `prompt: [batch, seq_len >= 1]` by `max_new_tokens` tokens, in constant
    /// memory unless the mixer is softmax attention. Returns prompt and continuation.
    ///
    /// Rows draw from their own streams `seed.child(row)`: a row does not depend on the others.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward); [`Error::Argument`] for an empty prompt or a `top_k` beyond
    /// the vocabulary; [`Error::NonFinite`] for scores that are not finite.
    pub fn generate(
        &self,
        prompt: &Tensor,
        config: &Checked<GenerateConfig>,
        seed: &SeedTree,
    ) -> Result<Tensor> {
        const OP: &str = "MesaNet::generate";
        check_shape!(OP, prompt, [?batch, ?seq_len]);
        let bad =
            |arg, expected: String, got: String| Error::Argument { op: OP, arg, expected, got };
        if batch < 1 || seq_len < 1 {
            let got = format!("{:?}", prompt.size());
            return Err(bad("prompt", "[batch >= 1, seq_len >= 1]".to_owned(), got));
        }
        let vocab_size = self.config.vocab_size;
        if let Some(k) = config.top_k.filter(|k| *k > vocab_size) {
            return Err(bad("top_k", format!("at most {vocab_size}"), k.to_string()));
        }
        let _guard = tch::no_grad_guard();
        let mut rows: Vec<_> = (0..batch).map(|row| seed.child(row).rng()).collect();
        let mut tokens = vec![prompt.shallow_clone()];
        let mut state = ModelState::default();
        for step in 0..config.max_new_tokens {
            let last = &tokens[tokens.len() - 1];
            let (hidden, next, _) = self.hidden(last, Some(&state))?;
            state = next;
            let scores = self.logits(&hidden.select(1, -1))?.to_kind(Kind::Double);
            if scores.isfinite().all().int64_value(&[]) == 0 {
                let (what, step) = ("logits".to_owned(), step as u64);
                return Err(Error::NonFinite { op: OP, what, step });
            }
            let next = if config.temperature == 0.0 {
                scores.argmax(-1, true)
            } else {
                let (scores, ids) = scores.topk(config.top_k.unwrap_or(vocab_size), -1, true, true);
                // Gumbel's trick: argmax(s / temperature + noise) is a draw from the softmax.
                let n = scores.size()[1];
                let noise: Vec<f64> = rows
                    .iter_mut()
                    .flat_map(|rng| (0..n).map(|_| rng.random::<f64>()).collect::<Vec<_>>())
                    .map(|u| -(-u.max(f64::MIN_POSITIVE).ln()).max(f64::MIN_POSITIVE).ln())
                    .collect();
                let noise = tensor_core::interop::from_slice(&noise, &scores.size())?;
                let best =
                    (scores / config.temperature + noise.to_device(ids.device())).argmax(-1, true);
                ids.gather(1, &best, false)
            };
            tokens.push(next);
        }
        Ok(Tensor::cat(&tokens, 1))
    }
}

/// `-log softmax(logits)[target]` averaged over the batch at each position, `[seq_len]`: the loss by
/// position (section 11).
///
/// # Errors
/// [`Error::Shape`] when `logits: [batch, seq_len, vocab_size]` and `targets: [batch, seq_len]` disagree.
pub fn loss_by_position(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    check_shape!("loss_by_position", logits, [?batch, ?seq_len, ?_vocab_size]);
    check_shape!("loss_by_position", targets, [batch, seq_len]);
    let log_p = logits.log_softmax(-1, Kind::Double);
    let picked = log_p.gather(-1, &targets.unsqueeze(-1), false).squeeze_dim(-1);
    Ok(-picked.mean_dim([0].as_slice(), false, None))
}

/// Writes all parameters of `store` as a safetensors file.
///
/// # Errors
/// [`Error::Io`] naming the file.
pub fn save_weights(store: &ParamStore, path: &Path) -> Result<()> {
    let tensors: Vec<(String, Tensor)> = store.iter().map(|p| (p.name(), p.value())).collect();
    let mut bytes = Vec::new();
    safetensors::encode(path, &tensors, &mut bytes)?;
    // Written beside and renamed, so that a crash leaves the old file.
    let part = path.with_extension("part");
    let mut file = std::fs::File::create(&part).map_err(|e| Error::io(&part, e))?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(|e| Error::io(&part, e))?;
    std::fs::rename(&part, path).map_err(|e| Error::io(path, e))
}

/// Reads the parameters of `store` from a safetensors file that has exactly these.
///
/// # Errors
/// [`Error::Io`], [`Error::File`], [`Error::MissingTensor`], [`Error::UnexpectedTensor`], or
/// [`Error::Shape`] for a tensor of another size; nothing is changed then.
pub fn load_weights(store: &ParamStore, path: &Path) -> Result<()> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let tensors = safetensors::decode(path, &bytes)?;
    if let Some((name, _)) = tensors.iter().find(|(name, _)| store.get(name).is_err()) {
        return Err(Error::UnexpectedTensor { path: path.to_owned(), name: name.clone() });
    }
    let mut found = Vec::new();
    for param in store.iter() {
        let name = param.name();
        let Some((_, values)) = tensors.iter().find(|(n, _)| *n == name) else {
            return Err(Error::MissingTensor { path: path.to_owned(), name });
        };
        if values.size() != param.size() {
            let (expected, got) = (format!("{:?}", param.size()), values.size());
            return Err(Error::Shape { op: "load_weights", arg: name, expected, got });
        }
        found.push((param, values));
    }
    for (param, values) in found {
        param.copy_from(values)?;
    }
    Ok(())
}
