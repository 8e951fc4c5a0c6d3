//! Trial program of this crate's studies: `exp` starts it with one JSON request per trial.
//!
//! Task `toy-<d>` and `toy2-<d>` (one or two hidden layers): which width does a strategy find for `d`
//! independent features? Other tasks are image sets by name: accuracy against neurons.

use anyhow::{Context, Result, bail, ensure};
use datasets::{images, registry::Registry, store::Store};
use experiments::{
    spec::Split,
    split::Access,
    trial::{Log, Program, Request},
};
use neurogenesis::network::{Growable, Pass, cross_entropy};
use neurogenesis::toy::Toy;
use neurogenesis::{
    Batch, Grower, GrowthConfig, HiddenLayer, Stack, StackConfig, weights_and_biases,
};
use rand::seq::SliceRandom;
use std::process::ExitCode;
use tensor_core::{
    AdamW, AdamWConfig, Device, Kind, NoTap, ParamStore, SeedTree, Tensor, Trainer, Validate,
    interop,
    runtime::{self, Settings},
};

/// Adam's rate in all MLP experiments of the paper.
const LR: f64 = 3e-4;
/// Samples that one evaluation pass takes.
const CHUNK: i64 = 4096;
/// Points of each curve.
const POINTS: u64 = 40;

fn main() -> ExitCode {
    Program::new()
        .describe(|| serde_json::to_value(runtime::describe()).unwrap_or_default())
        .run(trial)
}

/// Inputs in float32 and labels.
struct Part {
    x: Tensor,
    y: Tensor,
}

impl Part {
    fn len(&self) -> i64 {
        self.y.size()[0]
    }

    fn error(&self, net: &Stack) -> Result<f64> {
        let _guard = tch::no_grad_guard();
        let mut wrong = 0;
        let mut at = 0;
        while at < self.len() {
            let n = CHUNK.min(self.len() - at);
            let y = net.forward(&self.x.narrow(0, at, n), Pass::Eval, &mut NoTap)?.y;
            let miss = y.argmax(-1, false).ne_tensor(&self.y.narrow(0, at, n));
            wrong += miss.sum(Kind::Int64).int64_value(&[]);
            at += n;
        }
        Ok(wrong as f64 / self.len() as f64)
    }
}

/// What a task fixes.
struct Setup {
    parts: Vec<(&'static str, Part)>,
    batch: i64,
    shuffled: bool,
    features: i64,
    classes: i64,
    initial: i64,
    medium: i64,
    cap: i64,
    layers: usize,
}

fn trial(request: &Request, log: &mut Log) -> Result<()> {
    runtime::init(&Settings {
        threads: request.threads as usize,
        deterministic: true,
        ..Settings::default()
    })?;
    ensure!(request.budget.unit == "epochs", "budget unit: expected epochs");
    let epochs = request.budget.amount;
    let seed = |stream: &str| -> Result<SeedTree> {
        Ok(SeedTree::new(request.seed(stream)?.unsigned_abs()))
    };
    let task = request.text("task")?;
    let access = Access::of_request(request)?;
    let setup = match task.split_once('-') {
        Some(("toy", d)) => toy(1, d.parse().context("task toy-<d>")?, &access)?,
        Some(("toy2", d)) => toy(2, d.parse().context("task toy2-<d>")?, &access)?,
        _ => pictures(task, &access)?,
    };
    // The toy's epochs are those of a single feature: 20 + 4 d per layer in the paper.
    let epochs = match task.split_once('-') {
        Some(("toy" | "toy2", d)) => {
            let d: f64 = d.parse().context("task toy-<d>")?;
            epochs * (20.0 + 4.0 * d) / 24.0 * setup.layers as f64
        }
        _ => epochs,
    };
    let method = request.text("method")?;
    let (name, width) = match method {
        "static-small" => ("static", setup.initial),
        "static-medium" => ("static", setup.medium),
        "static-big" => ("static", setup.cap),
        other => (other, setup.initial),
    };
    let mut config = GrowthConfig::named(name)?;
    // Candidates by decomposition at every event do not fit a small machine at image sizes.
    if !task.starts_with("toy") {
        config.score = neurogenesis::init::select::Score::Residual;
        config.every = 4;
    }
    config.probe_rows = 64;
    let sizes = vec![width; setup.layers];
    let sizes = StackConfig::mlp(setup.features, &sizes, setup.cap, setup.classes).validate()?;
    let mut store = ParamStore::new(Device::Cpu, Kind::Float, seed("init")?);
    let net = Stack::new(&mut store.root(), &sizes)?;
    let adam = AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() };
    let mut trainer = Trainer::new(store, AdamW::new(adam)?);
    let mut grower = Grower::new(&net, &config.validate()?, &seed("growth")?)?;

    let train = &setup.parts.first().context("a training part")?.1;
    let per_epoch = train.len() / setup.batch;
    ensure!(per_epoch > 0, "{} samples are fewer than one batch", train.len());
    let steps = ((epochs * per_epoch as f64).round() as i64).max(1);
    let mut order: Vec<i64> = (0..train.len()).collect();
    let mut rng = seed("data")?.rng();
    let mut moved: f64 = 0.0;
    for step in 0..steps {
        let at = step % per_epoch;
        if at == 0 && setup.shuffled {
            order.shuffle(&mut rng);
        }
        let rows = &order[(at * setup.batch) as usize..((at + 1) * setup.batch) as usize];
        let rows = Tensor::from_slice(rows);
        let (x, y) = (train.x.index_select(0, &rows), train.y.index_select(0, &rows));
        let progress = (step + 1) as f64 / steps as f64;
        let batch = Batch { x: &x, y: &y };
        let done = grower.train_step(&net, &mut trainer, batch, &cross_entropy, LR, progress)?;
        for change in done.events.iter().filter_map(|e| e.function_change) {
            moved = moved.max(change.relative);
        }
        if (step as u64).is_multiple_of((steps as u64 / POINTS).max(1)) {
            let used = request.budget.amount * progress;
            log.point("neurons", step as u64 + 1, used, neurons(&net) as f64)?;
        }
    }
    let journal = grower.journal();
    log.metric("neurons", "train", neurons(&net) as f64)?;
    log.metric("width_first", "train", net.layers()[0].width() as f64)?;
    log.metric("width_last", "train", net.layers()[setup.layers - 1].width() as f64)?;
    log.metric("parameters", "train", weights_and_biases(&trainer) as f64)?;
    log.metric(
        "share_of_cap",
        "train",
        neurons(&net) as f64 / (setup.cap * setup.layers as i64) as f64,
    )?;
    let stopped = journal.last_growth().map_or(0.0, |s| s as f64 / steps as f64);
    log.metric("last_growth", "train", stopped)?;
    log.metric("function_change", "train", moved)?;
    log.metric("trigger_ms", "train", journal.trigger_ms)?;
    log.metric("init_ms", "train", journal.init_ms)?;
    errors(&setup.parts, &net, method, log)?;
    let figure = log.out_dir().join("widths.svg");
    std::fs::write(&figure, journal.svg(steps as u64, &format!("{method} on {task}")))?;
    log.artifact("widths", &figure)?;
    log.budget_used(request.budget.amount);
    Ok(())
}

/// The error on every part that this stage may read.
fn errors(parts: &[(&'static str, Part)], net: &Stack, method: &str, log: &mut Log) -> Result<()> {
    for (name, part) in parts {
        let metric = match *name {
            "train" => "train_error",
            "validation" => "val_error",
            _ => "test_error",
        };
        let error = part.error(net)?;
        log.metric(metric, name, error)?;
        if *name == "test" {
            // "Within half a point of the big static net" as a claim of less: that net gets a
            // handicap of the margin.
            let margin = if method == "static-big" { 0.005 } else { 0.0 };
            log.metric("margin_error", name, error + margin)?;
        }
    }
    Ok(())
}

fn neurons(net: &Stack) -> i64 {
    net.layers().iter().map(HiddenLayer::width).sum()
}

/// Section 8.1: 64 features, 5,000 samples in a fixed order, the data seed is the paper's.
fn toy(layers: usize, independent: i64, access: &Access) -> Result<Setup> {
    let toy = Toy::draw(independent, 64, 5000, &SeedTree::new(1337))?;
    Ok(Setup {
        parts: parts(&toy.x.to_kind(Kind::Float), &toy.labels, "toy", access)?,
        batch: 128,
        shuffled: false,
        features: 64,
        classes: 2,
        initial: 4,
        medium: 64,
        cap: 512,
        layers,
    })
}

fn pictures(task: &str, access: &Access) -> Result<Setup> {
    access.verify_sha256(task, &Registry::builtin().get(task)?.fingerprint())?;
    let set = images::load(&Store::default_place(), task)?;
    let mut x = flat(&set.train, set.full_scale)?;
    let mut y = interop::to_tensor(&set.train.labels)?;
    if let Some(test) = &set.test {
        x = Tensor::cat(&[x, flat(test, set.full_scale)?], 0);
        y = Tensor::cat(&[y, interop::to_tensor(&test.labels)?], 0);
    }
    let features = x.size()[1];
    // Section 7: 64, 256 and 784 units, batches of 512; the 8x8 digits are an eighth of that.
    let (batch, initial, medium, cap) = match features {
        784 => (512, 64, 256, 784),
        64 => (64, 8, 32, 96),
        other => bail!("{task}: no sizes declared for {other} features"),
    };
    let (classes, layers, shuffled) = (set.n_classes as i64, 2, true);
    let parts = parts(&x, &y, task, access)?;
    Ok(Setup { parts, batch, shuffled, features, classes, initial, medium, cap, layers })
}

/// The parts that this stage may read, training first.
fn parts(
    x: &Tensor,
    y: &Tensor,
    dataset: &str,
    access: &Access,
) -> Result<Vec<(&'static str, Part)>> {
    let mut parts = Vec::new();
    for (split, name) in
        [(Split::Train, "train"), (Split::Validation, "validation"), (Split::Test, "test")]
    {
        if access.may_read(split) {
            let rows: Vec<i64> = access.members(dataset, split)?.iter().map(|r| r as i64).collect();
            let rows = Tensor::from_slice(&rows);
            parts.push((name, Part { x: x.index_select(0, &rows), y: y.index_select(0, &rows) }));
        }
    }
    Ok(parts)
}

fn flat(images: &images::Images, full_scale: u8) -> Result<Tensor> {
    let x = interop::to_tensor(&images.unit_scale(full_scale))?;
    Ok(x.flatten(1, -1))
}
