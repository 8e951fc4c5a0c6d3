//! A small decoder learns, and learns the same in bfloat16 as in float32.

use anyhow::Result;
use tensor_core::{
    Compute, Device, Kind, ParamStore, SeedTree, Tensor, Validate,
    nn::{Decoder, DecoderConfig, Mode},
    tap::NoTap,
};

/// Text with structure at several distances: words drawn from a short list, in pairs that rhyme.
fn batch(step: i64, batch: i64, seq_len: i64) -> Tensor {
    let words = ["the ", "cat ", "sat ", "on a ", "mat ", "and ", "ran ", "far "];
    let mut state = step as u64 * 1_000_003 + 17;
    let rows: Vec<i64> = (0..batch)
        .flat_map(|_| {
            let mut row = Vec::new();
            while row.len() < seq_len as usize {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                row.extend(words[(state >> 60) as usize % 8].bytes().map(i64::from));
            }
            row.truncate(seq_len as usize);
            row
        })
        .collect();
    Tensor::from_slice(&rows).reshape([batch, seq_len])
}

/// Losses of `steps` steps of Adam, written out so that this file depends on no optimiser.
fn train(config: &DecoderConfig, seed: u64, steps: i64, size: [i64; 2]) -> Result<Vec<f64>> {
    tch::set_num_threads(1);
    let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(seed));
    let model = Decoder::new(&mut store.root(), &config.validate()?)?;
    let mut moments: Vec<[Tensor; 2]> =
        store.trainable().map(|p| [p.value().zeros_like(), p.value().zeros_like()]).collect();
    let mut losses = Vec::new();
    for step in 1..=steps {
        let text = batch(step, size[0], size[1] + 1);
        let (ids, targets) = (text.narrow(1, 0, size[1]), text.narrow(1, 1, size[1]));
        store.zero_grad();
        let loss = model.loss(&ids, &targets, Mode::Train, &mut NoTap)?;
        loss.backward();
        losses.push(loss.double_value(&[]));
        let _guard = tch::no_grad_guard();
        let correct = |beta: f64| 1.0 - beta.powi(step as i32);
        for (param, [m, v]) in store.trainable().zip(&mut moments) {
            let grad = param.grad().expect("every parameter takes part").detach();
            *m = &*m * 0.9 + &grad * 0.1;
            *v = &*v * 0.99 + grad.square() * 0.01;
            let scale = (&*v / correct(0.99)).sqrt() + 1e-8;
            let _ = param.value().g_sub_(&(&*m / correct(0.9) / scale * 3e-3));
        }
    }
    Ok(losses)
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// Compares curves in ten windows: bfloat16 must be as near to float32 as another seed is.
fn same_curve(config: &DecoderConfig, steps: i64, size: [i64; 2]) -> Result<()> {
    let in_bf16 = DecoderConfig { compute: Compute::Bf16, ..config.clone() };
    let f32_curve = train(config, 1, steps, size)?;
    let other_seed = train(config, 2, steps, size)?;
    let bf16_curve = train(&in_bf16, 1, steps, size)?;
    let windows =
        |curve: &[f64]| -> Vec<f64> { curve.chunks(steps as usize / 10).map(mean).collect() };
    let [a, b, c] = [&f32_curve, &other_seed, &bf16_curve].map(|curve| windows(curve));
    let farthest =
        |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
    let (noise, off) = (farthest(&a, &b), farthest(&a, &c));
    eprintln!("float32 {a:.3?}\nbfloat16 {c:.3?}\nseed {noise:.4}, precision {off:.4}");
    assert!(a[9] < 0.5 * a[0], "it learns: {a:?}");
    assert_ne!(f32_curve, bf16_curve);
    assert!(off <= noise, "precision moves the curve by {off}, another seed by {noise}");
    Ok(())
}

#[test]
fn bfloat16_learns_as_float32_does() -> Result<()> {
    let config = DecoderConfig {
        vocab_size: 128,
        d_model: 32,
        n_layers: 2,
        n_heads: 2,
        max_seq_len: 32,
        ..DecoderConfig::default()
    };
    same_curve(&config, 300, [4, 24])
}

#[test]
#[ignore = "minutes on a laptop: the size of the speed target, for a CPU with AMX: cargo test --release -p tensor-core --test nn_learning -- --ignored"]
fn bfloat16_learns_as_float32_does_at_full_size() -> Result<()> {
    let config = DecoderConfig {
        d_model: 512,
        n_layers: 6,
        n_heads: 8,
        max_seq_len: 256,
        ..Default::default()
    };
    same_curve(&config, 300, [8, 256])
}

#[test]
fn same_seed_gives_the_same_bits() -> Result<()> {
    let config = DecoderConfig { d_model: 16, n_layers: 2, n_heads: 2, ..Default::default() };
    assert_eq!(train(&config, 5, 5, [2, 12])?, train(&config, 5, 5, [2, 12])?);
    assert_ne!(train(&config, 5, 5, [2, 12])?, train(&config, 6, 5, [2, 12])?);
    Ok(())
}

#[test]
fn dropout_acts_in_training_alone() -> Result<()> {
    let config =
        DecoderConfig { d_model: 16, n_layers: 1, n_heads: 2, dropout: 0.5, ..Default::default() };
    let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(1));
    let model = Decoder::new(&mut store.root(), &config.validate()?)?;
    let text = batch(0, 2, 9);
    let loss = |mode| -> Result<f64> {
        let (ids, targets) = (text.narrow(1, 0, 8), text.narrow(1, 1, 8));
        Ok(model.loss(&ids, &targets, mode, &mut NoTap)?.double_value(&[]))
    };
    assert!(loss(Mode::Eval)?.to_bits() == loss(Mode::Eval)?.to_bits());
    assert!(loss(Mode::Train)?.to_bits() != loss(Mode::Train)?.to_bits());
    Ok(())
}
