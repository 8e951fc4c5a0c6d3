//! Trial program of this crate's studies: `exp` starts it with one JSON request per trial.
//!
//! Study `moment-carry`: a two-layer network on the real 8x8 digits is widened twice while it
//! trains. Does carrying AdamW's moments through the widening pay at equal FLOPs?

use anyhow::{Result, bail, ensure};
use datasets::{digits, registry::Registry};
use experiments::{
    spec::Split,
    split::Access,
    trial::{Log, Program, Request},
};
use rand::{Rng, RngExt};
use std::process::ExitCode;
use tensor_core::{
    AdamW, AdamWConfig, Device, Kind, ParamStore, SeedTree, Tensor, Trainer,
    grow::{HiddenUnits, MomentPolicy},
    interop, nn,
    runtime::{self, Settings},
    schedule::Schedule,
};

/// Units of each hidden layer, before and after each widening.
const WIDTHS: [i64; 3] = [16, 32, 64];
/// Where in the budget the two widenings are.
const EVENTS: [f64; 2] = [1.0 / 3.0, 2.0 / 3.0];
/// Images per step.
const BATCH: usize = 32;
/// Steps of the learning-rate schedule over the whole budget.
const SHARES: u64 = 10_000;
/// Points of the curve.
const POINTS: u64 = 30;

fn main() -> ExitCode {
    Program::new()
        .describe(|| serde_json::to_value(runtime::describe()).unwrap_or_default())
        .run(moment_carry)
}

/// Two hidden layers of equal width with `ReLU` between.
struct Net {
    layers: [nn::Linear; 3],
}

impl Net {
    fn new(store: &mut ParamStore, width: i64) -> tensor_core::Result<Self> {
        let mut root = store.root();
        Ok(Self {
            layers: [
                nn::Linear::new(&mut root.sub("in"), digits::PIXELS as i64, width, true)?,
                nn::Linear::new(&mut root.sub("mid"), width, width, true)?,
                nn::Linear::new(&mut root.sub("out"), width, digits::CLASSES as i64, true)?,
            ],
        })
    }

    fn forward(&self, x: &Tensor) -> tensor_core::Result<Tensor> {
        let x = self.layers[0].forward(x)?.relu();
        let x = self.layers[1].forward(&x)?.relu();
        self.layers[2].forward(&x)
    }

    /// FLOPs of one training step: 2 for each weight forward, 4 backward, per image.
    fn step_flops(&self) -> f64 {
        let weights: i64 = self.layers.iter().map(|l| l.d_in() * l.d_out()).sum();
        6.0 * weights as f64 * BATCH as f64
    }

    /// Widens both hidden layers, each as one plan, and returns the measured function change.
    fn widen(
        &self,
        trainer: &mut Trainer<AdamW>,
        width: i64,
        moments: MomentPolicy,
        seed: &SeedTree,
        probe: &Tensor,
    ) -> Result<f64> {
        let mut change: f64 = 0.0;
        for at in 0..2 {
            let (layer, next) = (&self.layers[at], &self.layers[at + 1]);
            let units = HiddenUnits::between(&layer.weight, layer.bias.as_ref(), &next.weight)?;
            let plan = units
                .widen(width, &seed.child(at), format!("hidden layer {at} to {width} units"))?
                .with_moments(moments);
            change = change.max(trainer.grow_checked(&plan, || self.forward(probe))?.relative);
        }
        Ok(change)
    }
}

/// A part of the digits as tensors.
struct Images {
    x: Tensor,
    y: Tensor,
}

impl Images {
    fn of(data: &digits::Digits, indices: &[usize]) -> Result<Self> {
        let images = data.images.select(ndarray::Axis(0), indices);
        let labels = data.labels.select(ndarray::Axis(0), indices);
        Ok(Self { x: interop::to_tensor(&images)?, y: interop::to_tensor(&labels)? })
    }

    fn len(&self) -> usize {
        self.y.size()[0] as usize
    }

    fn error(&self, net: &Net) -> Result<f64> {
        let _guard = tch::no_grad_guard();
        let wrong = net.forward(&self.x)?.argmax(-1, false).ne_tensor(&self.y);
        Ok(wrong.to_kind(Kind::Double).mean(Kind::Double).double_value(&[]))
    }
}

fn moment_carry(request: &Request, log: &mut Log) -> Result<()> {
    runtime::init(&Settings {
        threads: request.threads as usize,
        deterministic: true,
        ..Settings::default()
    })?;
    let method = request.text("method")?;
    let peak_lr = request.float("lr")?;
    let flops = request.budget.amount;
    ensure!(
        request.budget.unit == "flops",
        "budget unit: expected flops, found {}",
        request.budget.unit
    );
    let (moments, start) = match method {
        "carry" => (Some(MomentPolicy::CopyMapped), WIDTHS[0]),
        "reset" => (Some(MomentPolicy::ResetAll), WIDTHS[0]),
        "final-width" => (None, WIDTHS[2]),
        "narrow" => (None, WIDTHS[0]),
        other => bail!("method: expected carry, reset, final-width or narrow, found `{other}`"),
    };

    let data = digits::load();
    let access = Access::of_request(request)?;
    access.verify_sha256("digits", &Registry::builtin().get("digits")?.fingerprint())?;
    let part = |split: Split| -> Result<Images> {
        let rows: Vec<usize> =
            access.members("digits", split)?.iter().map(|row| row as usize).collect();
        Images::of(&data, &rows)
    };
    let train = part(Split::Train)?;
    let validation = part(Split::Validation)?;

    let seed = |stream: &str| -> Result<SeedTree> {
        Ok(SeedTree::new(request.seed(stream)?.unsigned_abs()))
    };
    let mut store = ParamStore::new(Device::Cpu, Kind::Float, seed("init")?);
    let net = Net::new(&mut store, start)?;
    let mut trainer = Trainer::new(store, AdamW::new(AdamWConfig::default())?);
    let mut order = Batches::new(train.len(), seed("data")?.rng());

    // The learning rate follows the share of the budget, so that all methods see the same schedule.
    let schedule = Schedule::Cosine { from: peak_lr, to: 0.01 * peak_lr, steps: SHARES };
    let (mut used, mut step, mut event, mut next_point) = (0.0, 0, 0, 0);
    let mut curve = Vec::new();
    while used + net.step_flops() <= flops {
        let share = used / flops;
        if let Some(policy) = moments.filter(|_| event < EVENTS.len() && share >= EVENTS[event]) {
            event += 1;
            let growth = seed("growth")?.child(event);
            let change = net.widen(&mut trainer, WIDTHS[event], policy, &growth, &validation.x)?;
            ensure!(change < 1e-4, "widening changed the function by {change:e}");
        }
        if share * POINTS as f64 >= f64::from(next_point) {
            next_point += 1;
            let error = validation.error(&net)?;
            log.point("val_error", step, used, error)?;
            curve.push(error);
        }
        let batch = order.next();
        let loss = net
            .forward(&train.x.index_select(0, &batch))?
            .cross_entropy_for_logits(&train.y.index_select(0, &batch));
        trainer.backward_step(&loss, schedule.at((share * SHARES as f64) as u64))?;
        used += net.step_flops();
        step += 1;
    }
    ensure!(step > 0, "the budget of {flops} FLOPs is less than one step");

    let final_error = validation.error(&net)?;
    log.point("val_error", step, used, final_error)?;
    log.metric("val_error", "validation", final_error)?;
    log.metric("val_error_mean", "validation", curve.iter().sum::<f64>() / curve.len() as f64)?;
    log.metric("train_error", "train", train.error(&net)?)?;
    if access.may_read(Split::Test) {
        log.metric("test_error", "test", part(Split::Test)?.error(&net)?)?;
    }
    log.budget_used(used);
    Ok(())
}

/// Shuffled passes over the training images.
struct Batches<R> {
    order: Vec<i64>,
    at: usize,
    rng: R,
}

impl<R: Rng> Batches<R> {
    fn new(n: usize, rng: R) -> Self {
        Self { order: (0..n as i64).collect(), at: n, rng }
    }

    fn next(&mut self) -> Tensor {
        if self.at + BATCH > self.order.len() {
            self.at = 0;
            for i in (1..self.order.len()).rev() {
                self.order.swap(i, self.rng.random_range(0..=i));
            }
        }
        let batch = Tensor::from_slice(&self.order[self.at..self.at + BATCH]);
        self.at += BATCH;
        batch
    }
}
