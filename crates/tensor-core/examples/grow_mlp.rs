//! A network that grows while it learns to read digits.
//!
//! It starts with two hidden layers of 12 units and is widened twice during training, to 32 and 96.
//! Each time every new unit copies an old one, the readers of both share the old weight in unequal
//! parts, and AdamW's moments are mapped along: the function stays (the measured difference is
//! printed), and training goes on as if the network had always been that wide. At the end the last
//! checkpoint is loaded into a network of the *first* size, which the growth log rebuilds.
//!
//! ```text
//! cargo run -p tensor-core --example grow_mlp -- --out grown
//! ```

use anyhow::{Context, Result, ensure};
use clap::Parser;
use rand::seq::SliceRandom;
use std::{fmt::Write as _, fs, path::PathBuf};
use tensor_core::checkpoint::{self, LoadPolicy, RunState};
use tensor_core::grow::HiddenUnits;
use tensor_core::optim::ClipConfig;
use tensor_core::runtime::{self, Runtime, Settings};
use tensor_core::schedule::Schedule;
use tensor_core::{
    AdamW, AdamWConfig, Init, Kind, Param, ParamPath, ParamStore, Role, SeedTree, Tensor, Trainer,
};

const PIXELS: i64 = 64;
const CLASSES: i64 = 10;
const BATCH: usize = 64;
/// Standard deviation of the noise on each training pixel: few digits go further so.
const NOISE: f64 = 0.2;
const FIRST_WIDTH: i64 = 12;
/// When, as a fraction of all steps, and to what width.
const GROWTH: [(f64, i64); 2] = [(0.2, 32), (0.4, 96)];

#[derive(Parser)]
#[command(about = "Trains a network on 8x8 digits and widens it twice on the way")]
struct Args {
    /// Training steps
    #[arg(long, default_value_t = 2000)]
    steps: u64,
    /// Seed of initial values, batches and growth
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder for the checkpoints and curve.svg
    #[arg(long, default_value = "target/grow_mlp")]
    out: PathBuf,
}

/// `x [batch, in]` to `x weight^T + bias`, `[batch, out]`.
struct Linear {
    weight: Param,
    bias: Param,
}

impl Linear {
    fn new(mut path: ParamPath<'_>, n_in: i64, n_out: i64) -> tensor_core::Result<Self> {
        let init = Init::FanIn { fan_in: n_in };
        Ok(Self {
            weight: path.param("weight", &[n_out, n_in], Role::Weight, &init)?,
            bias: path.param("bias", &[n_out], Role::Bias, &init)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        x.linear(&self.weight.value(), Some(&self.bias.value()))
    }
}

/// Three linear layers with `ReLU` between them. It asks its parameters for their values at each call,
/// so it needs no word about growth.
struct Mlp {
    layers: [Linear; 3],
}

impl Mlp {
    fn new(store: &mut ParamStore, width: i64) -> tensor_core::Result<Self> {
        let mut root = store.root();
        Ok(Self {
            layers: [
                Linear::new(root.sub("fc1"), PIXELS, width)?,
                Linear::new(root.sub("fc2"), width, width)?,
                Linear::new(root.sub("out"), width, CLASSES)?,
            ],
        })
    }

    /// Images `[batch, 64]` to logits `[batch, 10]`.
    fn forward(&self, x: &Tensor) -> Tensor {
        let [fc1, fc2, out] = &self.layers;
        out.forward(&fc2.forward(&fc1.forward(x).relu()).relu())
    }

    /// The hidden units between layer `i` and the next.
    fn hidden(&self, i: usize) -> tensor_core::Result<HiddenUnits> {
        let [from, to] = [&self.layers[i], &self.layers[i + 1]];
        HiddenUnits::between(&from.weight, Some(&from.bias), &to.weight)
    }

    fn accuracy(&self, images: &Tensor, labels: &Tensor) -> f64 {
        let _guard = tch::no_grad_guard();
        self.forward(images).accuracy_for_logits(labels).double_value(&[])
    }
}

/// Images `[n, 64]` in 0..=1 and labels `[n]`.
struct Part {
    images: Tensor,
    labels: Tensor,
}

/// The digits in a seeded order, split 1,437 to 360.
fn digits(seed: &SeedTree) -> Result<(Part, Part)> {
    let all = datasets::digits::load();
    let images = Tensor::try_from(all.images)?;
    let labels = Tensor::try_from(all.labels)?.to_kind(Kind::Int64);
    let mut order: Vec<i64> = (0..labels.size1()?).collect();
    order.shuffle(&mut seed.child("split").rng());
    let (test, train) = order.split_at(360);
    let part = |index: &[i64]| {
        let index = Tensor::from_slice(index);
        Part { images: images.index_select(0, &index), labels: labels.index_select(0, &index) }
    };
    Ok((part(train), part(test)))
}

fn new_trainer(runtime: &Runtime, seed: &SeedTree) -> Result<(Trainer<AdamW>, Mlp)> {
    let mut store = ParamStore::new(runtime.device, runtime.kind, seed.child("params"));
    let model = Mlp::new(&mut store, FIRST_WIDTH)?;
    let mut trainer = Trainer::new(store, AdamW::new(AdamWConfig::default())?);
    trainer.clip = Some(ClipConfig::new(1.0));
    Ok((trainer, model))
}

#[expect(clippy::print_stdout, reason = "a program that reports its progress")]
fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.steps >= 10, "--steps must be at least 10 to leave room for two growth events");
    // Matrices this small are fastest on one thread, and one thread gives the same bytes each time.
    let runtime = runtime::init(&Settings { seed: args.seed, threads: 1, ..Settings::default() })?;
    println!("{runtime}");
    let seed = SeedTree::new(args.seed);
    let (train, test) = digits(&seed)?;
    let (mut trainer, model) = new_trainer(&runtime, &seed)?;
    println!("{} parameters, width {FIRST_WIDTH}", trainer.store.count().total);

    let lr = Schedule::warmup_cosine(5e-3, 1e-4, args.steps / 20, args.steps);
    let growth = GROWTH.map(|(at, width)| ((at * args.steps as f64) as u64, width));
    let run = RunState {
        config: serde_json::json!({ "steps": args.steps, "lr": lr, "first_width": FIRST_WIDTH }),
        seed: seed.clone(),
        extra: serde_json::Value::Null,
    };
    let held = train.images.narrow(0, 0, 256);
    let mut order: Vec<i64> = Vec::new();
    let mut shuffles = seed.child("batches").rng();
    let mut curve = Vec::new();

    while trainer.steps() < args.steps {
        if order.len() < BATCH {
            order = (0..train.labels.size1()?).collect();
            order.shuffle(&mut shuffles);
        }
        let batch = Tensor::from_slice(&order.split_off(order.len() - BATCH));
        let images = train.images.index_select(0, &batch);
        let logits = model.forward(&(&images + images.randn_like() * NOISE));
        let loss = logits.cross_entropy_for_logits(&train.labels.index_select(0, &batch));
        trainer.backward_step(&loss, lr.at(trainer.steps()))?;
        let step = trainer.steps();

        if let Some((_, width)) = growth.iter().find(|(at, _)| *at == step) {
            let node = seed.child("growth").child(step);
            let reason = format!("schedule: width {width} at step {step}");
            let plan = model
                .hidden(0)?
                .widen(*width, &node.child(0), reason)?
                .and(model.hidden(1)?.widen(*width, &node.child(1), "")?);
            let change = trainer.grow_checked(&plan, || Ok(model.forward(&held)))?;
            println!(
                "step {step:5}: width {width}, {} parameters, largest change of any logit {:.1e}",
                trainer.store.count().total,
                change.max_abs
            );
        }
        if step.is_multiple_of((args.steps / 60).max(1)) {
            curve.push((step, loss.double_value(&[]), model.accuracy(&test.images, &test.labels)));
        }
        if step.is_multiple_of((args.steps / 3).max(1)) || step == args.steps {
            checkpoint::save(&args.out, &trainer, &run)?;
        }
    }
    let accuracy = model.accuracy(&test.images, &test.labels);
    println!("test accuracy {accuracy:.4}");

    // The last checkpoint, into a network of the first size: the growth log leads to the last one.
    let folder = checkpoint::latest(&args.out)?.context("the run saved a checkpoint")?;
    let (mut restored, copy) = new_trainer(&runtime, &seed)?;
    checkpoint::load(&folder, &mut restored, LoadPolicy::Strict)?;
    ensure!(copy.forward(&held) == model.forward(&held), "the checkpoint must hold this network");
    println!("checkpoint {} restores it to the bit", folder.display());

    let svg = args.out.join("curve.svg");
    fs::write(&svg, draw(&curve, &growth, args.steps))?;
    println!("learning curve {}", svg.display());
    Ok(())
}

/// Loss (left axis, log scale) and test accuracy (right axis) over steps, growth as vertical lines.
fn draw(curve: &[(u64, f64, f64)], growth: &[(u64, i64)], steps: u64) -> String {
    const W: f64 = 640.0;
    const H: f64 = 320.0;
    const EDGE: f64 = 48.0;
    let x = |step: u64| EDGE + (W - 2.0 * EDGE) * step as f64 / steps as f64;
    let y = |t: f64| H - EDGE - (H - 2.0 * EDGE) * t.clamp(0.0, 1.0);
    let loss_at = |loss: f64| y((loss.max(1e-3).log10() + 3.0) / 3.5); // 0.001 to 3.2
    let line = |color: &str, points: String| {
        format!(r#"<polyline fill="none" stroke="{color}" stroke-width="2" points="{points}"/>"#)
    };
    let points = |height: &dyn Fn(&(u64, f64, f64)) -> f64| {
        curve
            .iter()
            .map(|p| format!("{:.1},{:.1}", x(p.0), height(p)))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {H}" font-family="sans-serif" font-size="12">
<rect width="{W}" height="{H}" fill="white"/>
<path d="M{EDGE} {EDGE}V{b}H{r}V{EDGE}" fill="none" stroke="#444"/>
"##,
        b = H - EDGE,
        r = W - EDGE
    );
    for (step, width) in growth {
        let at = x(*step);
        let _ = writeln!(
            svg,
            r##"<path d="M{at:.1} {EDGE}V{}" stroke="#999" stroke-dasharray="4"/><text x="{at:.1}" y="40" text-anchor="middle">width {width}</text>"##,
            H - EDGE
        );
    }
    for (value, label) in [(0.001, "0.001"), (0.01, "0.01"), (0.1, "0.1"), (1.0, "1")] {
        let _ = writeln!(
            svg,
            r##"<text x="42" y="{:.1}" text-anchor="end" fill="#0072b2">{label}</text>"##,
            loss_at(value) + 4.0
        );
    }
    for tenth in [0, 5, 9, 10] {
        let share = f64::from(tenth) / 10.0;
        let _ = writeln!(
            svg,
            r##"<text x="{}" y="{:.1}" fill="#d55e00">{share}</text>"##,
            W - 42.0,
            y(share) + 4.0
        );
    }
    let _ = writeln!(svg, "{}", line("#0072b2", points(&|p| loss_at(p.1))));
    let _ = writeln!(svg, "{}", line("#d55e00", points(&|p| y(p.2))));
    let _ = writeln!(
        svg,
        r##"<text x="8" y="20" fill="#0072b2">training loss</text><text x="{r}" y="20" text-anchor="end" fill="#d55e00">test accuracy</text><text x="{m}" y="{b}" text-anchor="middle">{steps} steps</text></svg>"##,
        r = W - 8.0,
        m = W / 2.0,
        b = H - 16.0
    );
    svg
}
