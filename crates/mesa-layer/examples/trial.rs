//! Trial program of this crate's studies: `exp` starts it with one JSON request per trial.
//!
//! A small model is trained on one task; the method is the word of its mixer. All methods see the same
//! sequences, and the same number of them.

use anyhow::{Context, Result, ensure};
use datasets::text;
use experiments::trial::{Log, Program, Request};
use mesa_layer::{
    LayerConfig, MesaNet, MesaNetConfig, Mixer, Solver,
    model::loss_by_position,
    task::{IGNORE, Task},
};
use serde_json::json;
use std::process::ExitCode;
use tensor_core::{
    AdamW, AdamWConfig, Device, Kind, ParamStore, SeedTree, Tensor, Trainer, Validate,
    nn::cross_entropy,
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

/// Where batches come from.
enum Source {
    Task(Task),
    /// Bytes of the plays: training text, validation text, test text.
    Text([Vec<i64>; 3], usize),
}

/// Which part of a source.
#[derive(Clone, Copy)]
enum Part {
    Train,
    Validation,
    Test,
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
            "regular-language" => Task::RegularLanguage { max_symbols: 18 },
            "parity" => Task::Parity { seq_len },
            "text" => {
                let ids: Vec<i64> = text::shakespeare().bytes().map(i64::from).collect();
                let (a, b) = (ids.len() * 8 / 10, ids.len() * 9 / 10);
                let parts = [ids[..a].to_vec(), ids[a..b].to_vec(), ids[b..].to_vec()];
                return Ok(Self::Text(parts, seq_len as usize));
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

    fn batch(&self, part: Part, n: usize, seed: &SeedTree) -> Result<(Tensor, Tensor)> {
        use rand::RngExt;
        let seed = seed.child(part as u8);
        match self {
            Self::Task(task) => Ok(task.batch(n, &seed)?),
            Self::Text(parts, seq_len) => {
                let ids = &parts[part as usize];
                let mut rng = seed.rng();
                let mut rows = Vec::with_capacity(n * (seq_len + 1));
                for _ in 0..n {
                    let at = rng.random_range(0..ids.len() - seq_len);
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

fn trial(request: &Request, log: &mut Log) -> Result<()> {
    runtime::init(&Settings {
        threads: request.threads as usize,
        deterministic: true,
        ..Settings::default()
    })?;
    let method = request.text("method")?;
    let mixer: Mixer = serde_json::from_value(json!(method.trim_start_matches("hawk-")))
        .with_context(|| format!("method: found `{method}`"))?;
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
    let data = seed("data")?;
    let validation = source.batch(Part::Validation, JUDGED, &data)?;
    for step in 0..steps {
        if step % steps.div_ceil(POINTS) == 0 {
            log.point("val_error", step, step as f64, judge(&net, &validation)?[0])?;
        }
        let (ids, targets) = source.batch(Part::Train, 16, &data.child(step))?;
        trainer.backward_step(&net.loss(&ids, &targets)?, schedule.at(step))?;
    }
    let [error, loss] = judge(&net, &validation)?;
    log.point("val_error", steps, steps as f64, error)?;
    log.metric("val_error", "validation", error)?;
    log.metric("val_loss", "validation", loss)?;
    if request.splits.iter().any(|s| s == "test") {
        let test = source.batch(Part::Test, JUDGED, &data)?;
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
