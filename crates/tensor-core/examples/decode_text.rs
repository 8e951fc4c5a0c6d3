//! Trains a small decoder on the bytes of Shakespeare's plays and lets it speak.
//!
//! `cargo run -p tensor-core --example decode_text` takes some seconds; give a number of steps to
//! train longer.

use anyhow::{Context, Result};
use rand::RngExt;
use tensor_core::{
    Device, Kind, ParamStore, SeedTree, Tensor, Validate,
    nn::{Decoder, DecoderConfig, GenerateConfig, Mode},
    tap::NoTap,
};

const BATCH: i64 = 12;
const SEQ_LEN: i64 = 48;

/// One step of Adam at learning rate 0.003, written out.
fn adam(store: &ParamStore, moments: &mut [[Tensor; 2]], step: i32) {
    let _guard = tch::no_grad_guard();
    let (c1, c2) = (1.0 - 0.9_f64.powi(step), 1.0 - 0.99_f64.powi(step));
    for (param, [m, v]) in store.trainable().zip(moments) {
        let Some(grad) = param.grad() else { continue };
        *m = &*m * 0.9 + &grad * 0.1;
        *v = &*v * 0.99 + grad.square() * 0.01;
        let _ = param.value().g_sub_(&(&*m / c1 / ((&*v / c2).sqrt() + 1e-8) * 3e-3));
    }
}

#[expect(clippy::print_stdout, reason = "an example speaks on the terminal")]
fn main() -> Result<()> {
    let steps = match std::env::args().nth(1) {
        Some(steps) => steps.parse().context("the argument is a number of steps")?,
        None => 300,
    };
    tch::set_num_threads(1); // more are slower at this size
    let seed = SeedTree::new(1);
    let text = datasets::text::shakespeare().as_bytes();
    let config = DecoderConfig {
        d_model: 64,
        n_layers: 2,
        n_heads: 4,
        max_seq_len: 256,
        ..DecoderConfig::default()
    };
    let mut store = ParamStore::new(Device::Cpu, Kind::Float, seed.child("model"));
    let model = Decoder::new(&mut store.root(), &config.validate()?)?;
    println!("{} parameters, {} bytes of text", store.count().trainable, text.len());

    let mut rng = seed.child("batches").rng();
    let mut draw = || {
        let rows: Vec<i64> = (0..BATCH)
            .flat_map(|_| {
                let start = rng.random_range(0..text.len() - SEQ_LEN as usize - 1);
                text[start..=start + SEQ_LEN as usize].iter().map(|byte| i64::from(*byte))
            })
            .collect();
        let rows = Tensor::from_slice(&rows).reshape([BATCH, SEQ_LEN + 1]);
        (rows.narrow(1, 0, SEQ_LEN), rows.narrow(1, 1, SEQ_LEN))
    };
    let mut moments: Vec<[Tensor; 2]> =
        store.trainable().map(|p| [p.value().zeros_like(), p.value().zeros_like()]).collect();
    for step in 0..steps {
        let (ids, targets) = draw();
        store.zero_grad();
        let loss = model.loss(&ids, &targets, Mode::Train, &mut NoTap)?;
        loss.backward();
        adam(&store, &mut moments, step + 1);
        if step % 50 == 0 || step + 1 == steps {
            println!("step {step:4}: {:.3} nats a byte", loss.double_value(&[]));
        }
    }

    let prompt: Vec<i64> = b"ROMEO. ".iter().map(|byte| i64::from(*byte)).collect();
    let how = GenerateConfig { max_new_tokens: 200, temperature: 0.7, top_k: Some(40) };
    let ids = model.generate(
        &Tensor::from_slice(&prompt).unsqueeze(0),
        &how.validate()?,
        &seed.child("sample"),
    )?;
    let bytes = Vec::<i64>::try_from(ids.squeeze())?;
    let bytes: Vec<u8> = bytes.into_iter().filter_map(|id| u8::try_from(id).ok()).collect();
    println!("\n{}", String::from_utf8_lossy(&bytes));
    Ok(())
}
