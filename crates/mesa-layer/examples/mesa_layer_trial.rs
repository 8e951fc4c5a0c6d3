//! Trial program of this crate's studies: `exp` starts it with one JSON request per trial.
//!
//! A small model is trained on one task; the method is the word of its mixer. All methods see the same
//! sequences, and the same number of them.

use anyhow::{Context, Result, ensure};
use datasets::{registry::Registry, text};
use experiments::{
    spec::Split,
    split::Access,
    trial::{Log, Program, Request},
};
use mesa_layer::{
    LayerConfig, MesaLayer, MesaNet, MesaNetConfig, Mixer, Solver,
    hawk::Hawk,
    model::{BlockMixer, loss_by_position},
    task::{IGNORE, LinearDynamics, Task},
};
use rand::{Rng, RngExt};
use serde_json::json;
use std::process::ExitCode;
use tensor_core::{
    AdamW, AdamWConfig, Device, Kind, ParamStore, SeedTree, Tensor, Trainer, Validate,
    nn::{Linear, RmsNorm, cross_entropy},
    runtime::{self, Settings},
    schedule::Schedule,
};

/// Points of a curve.
const POINTS: u64 = 20;
/// Sequences that a model is judged on.
const JUDGED: usize = 128;

fn main() -> ExitCode {
    Program::new()
        .describe(|| serde_json::to_value(runtime::describe()).unwrap_or_default())
        .run(trial)
}

/// One run of seeds, or of positions of a text.
#[derive(Clone, Copy)]
struct Part {
    start: u64,
    len: u64,
}

impl Part {
    fn of(access: &Access, dataset: &str, split: Split) -> Result<Self> {
        let members = access.members(dataset, split)?;
        let start = members.iter().next().context("an empty part")?;
        let len = members.count();
        ensure!(members.contains(start + len - 1), "{dataset}: a part must be one run");
        Ok(Self { start, len })
    }
}

/// Where sequences come from.
enum Source {
    /// Drawn from seeds.
    Task(Task),
    /// Bytes of the plays, from any position of a part on.
    Text(Vec<i64>, usize),
}

impl Source {
    fn of(name: &str, seq_len: i64) -> Result<Self> {
        let task = match name {
            "mqar" => Task::Mqar { vocab_size: 128, seq_len, n_pairs: seq_len / 8 },
            "recall" => Task::Recall { vocab_size: 16, seq_len, noise_vocab: 0, noise_frac: 0.0 },
            "noisy-recall" => {
                Task::Recall { vocab_size: 32, seq_len, noise_vocab: 16, noise_frac: 0.2 }
            }
            "fuzzy-recall" => Task::FuzzyRecall { vocab_size: 16, seq_len },
            "memorization" => Task::Memorization { vocab_size: 256, seq_len, map_seed: 12345 },
            "selective-copy" => {
                Task::SelectiveCopy { vocab_size: 16, seq_len, n_copy: (seq_len / 16).max(1) }
            }
            "parity" => Task::Parity { seq_len },
            "text" => {
                let ids = text::shakespeare().bytes().map(i64::from).collect();
                return Ok(Self::Text(ids, usize::try_from(seq_len)?));
            }
            other => anyhow::bail!("task: found `{other}`"),
        };
        task.check()?;
        Ok(Self::Task(task))
    }

    fn vocab_size(&self) -> i64 {
        match self {
            Self::Task(task) => task.vocab_size(),
            Self::Text(..) => 256,
        }
    }

    /// `n` sequences of a part, at random: seeds of it, or stretches of its text.
    fn batch(&self, part: Part, n: usize, rng: &mut impl Rng) -> Result<(Tensor, Tensor)> {
        match self {
            Self::Task(task) => {
                let seeds: Vec<u64> =
                    (0..n).map(|_| part.start + rng.random_range(0..part.len)).collect();
                Ok(task.batch(&seeds)?)
            }
            Self::Text(ids, seq_len) => {
                let room = part.len - *seq_len as u64;
                let mut rows = Vec::with_capacity(n * (seq_len + 1));
                for _ in 0..n {
                    let at = (part.start + rng.random_range(0..room)) as usize;
                    rows.extend_from_slice(&ids[at..=at + seq_len]);
                }
                let len = *seq_len as i64;
                let rows = Tensor::from_slice(&rows).reshape([n as i64, len + 1]);
                Ok((rows.narrow(1, 0, len), rows.narrow(1, 1, len)))
            }
        }
    }
}

/// Share of targets that are not the most likely token, and the mean loss in nats.
fn judge(net: &MesaNet, (ids, targets): &(Tensor, Tensor)) -> Result<[f64; 2]> {
    let _guard = tch::no_grad_guard();
    let (mut wrong, mut loss, mut counted) = (0.0, 0.0, 0.0);
    for (ids, targets) in ids.split(32, 0).iter().zip(targets.split(32, 0)) {
        let logits = net.forward(ids, None)?.logits;
        let counts = targets.ne(IGNORE);
        let n = counts.sum(Kind::Double).double_value(&[]);
        let miss = logits.argmax(-1, false).ne_tensor(&targets).logical_and(&counts);
        wrong += miss.sum(Kind::Double).double_value(&[]);
        loss += n * cross_entropy(&logits, &targets)?.double_value(&[]);
        counted += n;
    }
    Ok([wrong / counted, loss / counted])
}

/// Mixers between two linear maps: predicts the next observation of a linear system.
struct Predictor {
    into: Linear,
    blocks: Vec<(RmsNorm, BlockMixer)>,
    norm: RmsNorm,
    out: Linear,
}

impl Predictor {
    fn new(store: &mut ParamStore, d_obs: i64, layer: &LayerConfig) -> Result<Self> {
        let mut root = store.root();
        let layer = layer.validate()?;
        let blocks = (0..2)
            .map(|i| {
                let norm = RmsNorm::new(&mut root.sub("norm").sub(i), layer.d_model, 1e-5)?;
                let mut path = root.sub(format!("mixer-{i}"));
                let mixer = if layer.mixer == Mixer::Hawk {
                    BlockMixer::Hawk(Hawk::new(&mut path, &layer, 1.0)?)
                } else {
                    BlockMixer::Heads(Box::new(MesaLayer::new(&mut path, &layer, 1.0)?))
                };
                Ok((norm, mixer))
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            into: Linear::new(&mut root.sub("into"), d_obs, layer.d_model, false)?,
            blocks,
            norm: RmsNorm::new(&mut root.sub("final_norm"), layer.d_model, 1e-5)?,
            out: Linear::new(&mut root.sub("out"), layer.d_model, d_obs, false)?,
        })
    }

    /// Mean of `1/2 |s_{t+1} - f_t|^2` over the tokens of `s: [batch, seq_len, d_obs]`.
    fn loss(&self, s: &Tensor) -> Result<Tensor> {
        let len = s.size()[1] - 1;
        let mut x = self.into.forward(&s.narrow(1, 0, len))?;
        for (norm, mixer) in &self.blocks {
            x = &x + mixer.forward(&norm.forward(&x)?, None)?.y;
        }
        let off = self.out.forward(&self.norm.forward(&x)?)? - s.narrow(1, 1, len);
        Ok(off.square().sum_dim_intlist([-1].as_slice(), false, None).mean(Kind::Float) * 0.5)
    }
}

/// The predecessor paper's task: a random linear system in each sequence.
fn dynamics(request: &Request, log: &mut Log, mixer: Mixer) -> Result<()> {
    let steps = request.budget.amount as u64;
    let task = LinearDynamics { seq_len: request.int("seq_len")?, ..LinearDynamics::default() };
    task.check()?;
    let d_model = request.int("d_model")?;
    let mut layer = LayerConfig {
        d_model,
        n_heads: 2,
        head_dim: d_model / 2,
        mixer,
        window: 16,
        forget_bias: 4.0,
        ..LayerConfig::default()
    };
    layer.mesa.solver = Solver::until(1e-4, 30);
    let seed = |stream: &str| -> Result<SeedTree> {
        Ok(SeedTree::new(request.seed(stream)?.unsigned_abs()))
    };
    let mut store = ParamStore::new(Device::Cpu, Kind::Float, seed("init")?);
    let net = Predictor::new(&mut store, task.d_obs, &layer)?;
    let mut trainer = Trainer::new(store, AdamW::new(AdamWConfig::default())?);
    let lr = request.float("lr")?;
    let schedule = Schedule::Cosine { from: lr, to: 0.01 * lr, steps };
    let access = Access::of_request(request)?;
    let part = |split| Part::of(&access, request.text("task")?, split);
    let draw = |part: Part, n: usize, rng: &mut dyn Rng| -> Result<Tensor> {
        let seeds: Vec<u64> = (0..n).map(|_| part.start + rng.random_range(0..part.len)).collect();
        Ok(task.batch(&seeds)?.to_kind(Kind::Float))
    };
    let judge = |s: &Tensor| -> Result<f64> {
        let _guard = tch::no_grad_guard();
        Ok(net.loss(s)?.double_value(&[]))
    };
    let (mut data, mut judged) = (seed("data")?.rng(), SeedTree::new(0).rng());
    let train = part(Split::Train)?;
    let validation = draw(part(Split::Validation)?, JUDGED, &mut judged)?;
    for step in 0..steps {
        if step % steps.div_ceil(POINTS) == 0 {
            log.point("val_loss", step, step as f64, judge(&validation)?)?;
        }
        let loss = net.loss(&draw(train, 16, &mut data)?)?;
        trainer.backward_step(&loss, schedule.at(step))?;
    }
    let loss = judge(&validation)?;
    log.point("val_loss", steps, steps as f64, loss)?;
    log.metric("val_loss", "validation", loss)?;
    if access.may_read(Split::Test) {
        let test = draw(part(Split::Test)?, JUDGED, &mut judged)?;
        log.metric("test_loss", "test", judge(&test)?)?;
    }
    log.budget_used(steps as f64);
    Ok(())
}

fn trial(request: &Request, log: &mut Log) -> Result<()> {
    runtime::init(&Settings {
        threads: request.threads as usize,
        deterministic: true,
        ..Settings::default()
    })?;
    let method = request.text("method")?;
    let mixer: Mixer = serde_json::from_value(json!(method.trim_start_matches("hawk-")))
        .with_context(|| format!("method: found `{method}`"))?;
    if request.text("task")? == "linear-dynamics" {
        return dynamics(request, log, mixer);
    }
    ensure!(request.budget.unit == "steps", "budget unit: found {}", request.budget.unit);
    let steps = request.budget.amount as u64;
    let source = Source::of(request.text("task")?, request.int("seq_len")?)?;
    let seed = |stream: &str| -> Result<SeedTree> {
        Ok(SeedTree::new(request.seed(stream)?.unsigned_abs()))
    };
    let parity = request.text("task")? == "parity";
    let mut layer = LayerConfig {
        d_model: request.int("d_model")?,
        n_heads: 2,
        head_dim: request.int("d_model")? / 2,
        mixer,
        window: 16,
        forget_bias: 4.0,
        max_seq_len: 4096,
        ..LayerConfig::default()
    };
    layer.mesa.solver = Solver::until(1e-4, 30);
    if parity && mixer == Mixer::Mesa {
        // Section 10: gates of either sign, and a ridge that keeps the matrices definite.
        layer = LayerConfig {
            negative_gates: true,
            ridge_floor: 49.0,
            ridge_init: 50.0,
            gamma_bound: None,
            forget_bias: 0.0,
            ..layer
        };
    }
    let config = MesaNetConfig {
        vocab_size: source.vocab_size(),
        n_layers: 2,
        alternate_hawk: method.starts_with("hawk-"),
        layer,
        ..MesaNetConfig::default()
    };
    let mut store = ParamStore::new(Device::Cpu, Kind::Float, seed("init")?);
    let net = MesaNet::new(&mut store.root(), &config.validate()?)?;
    let mut trainer = Trainer::new(store, AdamW::new(AdamWConfig::default())?);
    let schedule =
        Schedule::Cosine { from: request.float("lr")?, to: 0.01 * request.float("lr")?, steps };
    let mut data = seed("data")?.rng();
    // What a model is judged on is the same in every repetition.
    let mut judged = SeedTree::new(0).rng();
    let access = Access::of_request(request)?;
    if matches!(source, Source::Text(..)) {
        access.verify_sha256("text", &Registry::builtin().get("shakespeare")?.fingerprint())?;
    }
    let part = |split| Part::of(&access, request.text("task")?, split);
    let train = part(Split::Train)?;
    let validation = source.batch(part(Split::Validation)?, JUDGED, &mut judged)?;
    for step in 0..steps {
        if step % steps.div_ceil(POINTS) == 0 {
            log.point("val_error", step, step as f64, judge(&net, &validation)?[0])?;
        }
        let (ids, targets) = source.batch(train, 16, &mut data)?;
        trainer.backward_step(&net.loss(&ids, &targets)?, schedule.at(step))?;
    }
    let [error, loss] = judge(&net, &validation)?;
    log.point("val_error", steps, steps as f64, error)?;
    log.metric("val_error", "validation", error)?;
    log.metric("val_loss", "validation", loss)?;
    if access.may_read(Split::Test) {
        let test = source.batch(part(Split::Test)?, JUDGED, &mut judged)?;
        let [error, loss] = judge(&net, &test)?;
        log.metric("test_error", "test", error)?;
        log.metric("test_loss", "test", loss)?;
        if matches!(source, Source::Text(..)) {
            let _guard = tch::no_grad_guard();
            let by = loss_by_position(&net.forward(&test.0, None)?.logits, &test.1)?;
            let (early, late) = (by.size()[0].min(64), by.size()[0] / 2);
            let mean = |x: Tensor| x.mean(Kind::Double).double_value(&[]);
            log.metric("early_loss", "test", mean(by.narrow(0, 0, early)))?;
            log.metric("late_loss", "test", mean(by.narrow(0, late, by.size()[0] - late)))?;
        }
    }
    log.budget_used(steps as f64);
    Ok(())
}
