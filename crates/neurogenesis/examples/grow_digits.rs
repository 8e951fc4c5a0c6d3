//! A network that decides its own width while it learns to read 8x8 digits.
//!
//! Two hidden layers start with 8 units each and may grow to 64. After every step the trigger compares
//! how many directions the units span with what they spanned at the start; new units are chosen by
//! the strategy named on the command line. The widths over time go to an SVG.
//!
//! ```text
//! cargo run -p neurogenesis --example grow_digits -- --strategy north-random --out widths.svg
//! ```

use anyhow::Result;
use clap::Parser;
use neurogenesis::network::{Growable, Pass, cross_entropy};
use neurogenesis::{Batch, Grower, GrowthConfig, HiddenLayer, Stack, StackConfig};
use rand::RngExt;
use std::path::PathBuf;
use tensor_core::runtime::{self, Settings};
use tensor_core::{
    AdamW, AdamWConfig, Kind, NoTap, ParamStore, SeedTree, Tensor, Trainer, Validate, interop,
};

#[derive(Parser)]
#[command(about = "Trains a network on 8x8 digits and lets it find its own widths")]
struct Args {
    /// One of the names in `neurogenesis::config::NAMES`
    #[arg(long, default_value = "north-random")]
    strategy: String,
    /// Training steps
    #[arg(long, default_value_t = 400)]
    steps: u64,
    /// Seed of initial values, batches and growth
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// File for the widths over time
    #[arg(long, default_value = "target/grow_digits.svg")]
    out: PathBuf,
}

#[expect(clippy::print_stdout, reason = "a program that reports what it did")]
fn main() -> Result<()> {
    let args = Args::parse();
    let run = runtime::init(&Settings { seed: args.seed, threads: 1, ..Settings::default() })?;
    let seed = SeedTree::new(args.seed);
    let data = datasets::digits::load();
    let (images, labels) = (interop::to_tensor(&data.images)?, interop::to_tensor(&data.labels)?);

    let config = GrowthConfig::named(&args.strategy)?.validate()?;
    let sizes = StackConfig::mlp(64, &[8, 8], 64, 10).validate()?;
    let mut store = ParamStore::new(run.device, Kind::Float, seed.child("params"));
    let net = Stack::new(&mut store.root(), &sizes)?;
    let mut trainer = Trainer::new(store, AdamW::new(AdamWConfig::default())?);
    let mut grower = Grower::new(&net, &config, &seed)?;
    let mut rng = seed.child("batches").rng();
    for step in 0..args.steps {
        let rows: Vec<i64> = (0..64).map(|_| rng.random_range(0..1400)).collect();
        let rows = Tensor::from_slice(&rows);
        let (x, y) = (images.index_select(0, &rows), labels.index_select(0, &rows));
        let progress = (step + 1) as f64 / args.steps as f64;
        let batch = Batch { x: &x, y: &y };
        grower.train_step(&net, &mut trainer, batch, &cross_entropy, 3e-3, progress)?;
    }

    let _guard = tch::no_grad_guard();
    let test = |t: &Tensor| t.narrow(0, 1400, 397);
    let logits = net.forward(&test(&images), Pass::Eval, &mut NoTap)?.y;
    let accuracy = logits.accuracy_for_logits(&test(&labels)).double_value(&[]);
    let journal = grower.journal();
    let widths: Vec<i64> = net.layers().iter().map(HiddenLayer::width).collect();
    println!("{}: widths {widths:?} after {} events", args.strategy, journal.events.len());
    println!("last growth at step {:?}, test accuracy {accuracy:.3}", journal.last_growth());
    let moved = journal.events.iter().filter_map(|e| e.function_change).map(|c| c.relative);
    println!("largest relative change of the outputs {:.1e}", moved.fold(0.0, f64::max));
    println!("trigger {:.0} ms, new units {:.0} ms", journal.trigger_ms, journal.init_ms);
    std::fs::write(&args.out, journal.svg(args.steps, &args.strategy))?;
    println!("widths over time: {}", args.out.display());
    Ok(())
}
