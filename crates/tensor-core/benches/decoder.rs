//! A decoder's training step: ours beside the same model written with bare `tch` calls, and with
//! operands in bfloat16.
//!
//! `cargo bench -p tensor-core --bench decoder` runs the size of the target (6 layers, `d_model` 512,
//! 8 x 256 tokens); `DECODER_BENCH=tiny` a size for a quick look. One thread unless `THREADS` says
//! otherwise. Criterion times each form by itself; the ratio that counts is printed at the end, from
//! steps of the two forms taken in turn, so that a change of the machine's load meets both.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use anyhow::Result;
use criterion::Criterion;
use std::time::{Duration, Instant};
use tensor_core::{
    Compute, Device, Kind, Param, ParamStore, SeedTree, Tensor, Validate,
    compute::CpuSupport,
    nn::{Decoder, DecoderConfig, Mode},
    tap::NoTap,
};

const LR: f64 = 0.01;

struct Size {
    config: DecoderConfig,
    batch: i64,
    seq_len: i64,
    pairs: usize,
}

impl Size {
    fn from_env() -> Self {
        let base = DecoderConfig { max_seq_len: 256, ..DecoderConfig::default() };
        match std::env::var("DECODER_BENCH").as_deref() {
            Ok("tiny") => {
                let config = DecoderConfig { d_model: 64, n_layers: 2, n_heads: 2, ..base };
                Self { config, batch: 2, seq_len: 32, pairs: 60 }
            }
            Ok("small") => {
                let config = DecoderConfig { d_model: 256, n_layers: 4, n_heads: 4, ..base };
                Self { config, batch: 4, seq_len: 128, pairs: 15 }
            }
            _ => {
                let config = DecoderConfig { d_model: 512, n_layers: 6, n_heads: 8, ..base };
                Self { config, batch: 8, seq_len: 256, pairs: 5 }
            }
        }
    }

    fn batch(&self) -> [Tensor; 2] {
        let n = self.batch * (self.seq_len + 1);
        let text: Vec<i64> =
            (0..n).map(|i| (i * i * 31 + i * 7) % self.config.vocab_size).collect();
        let text = Tensor::from_slice(&text).reshape([self.batch, self.seq_len + 1]);
        [text.narrow(1, 0, self.seq_len), text.narrow(1, 1, self.seq_len)]
    }
}

fn descend<'a>(params: impl Iterator<Item = &'a Tensor>) {
    let _guard = tch::no_grad_guard();
    for param in params {
        let _ = param.shallow_clone().g_sub_(&(param.grad() * LR));
        param.shallow_clone().zero_grad();
    }
}

struct Ours {
    model: Decoder,
    params: Vec<Param>,
}

impl Ours {
    fn new(config: &DecoderConfig, compute: Compute) -> Result<Self> {
        let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(1));
        let config = DecoderConfig { compute, ..config.clone() }.validate()?;
        let model = Decoder::new(&mut store.root(), &config)?;
        Ok(Self { model, params: store.trainable().cloned().collect() })
    }

    fn step(&self, [ids, targets]: &[Tensor; 2]) -> Result<f64> {
        let loss = self.model.loss(ids, targets, Mode::Train, &mut NoTap)?;
        loss.backward();
        let values: Vec<Tensor> = self.params.iter().map(Param::value).collect();
        descend(values.iter());
        Ok(loss.double_value(&[]))
    }
}

/// The same network with nothing between it and `tch`: the weights of `Ours`, by position.
struct Bare {
    weights: Vec<Tensor>,
    cos: Tensor,
    sin: Tensor,
    n_heads: i64,
    eps: f64,
}

impl Bare {
    fn new(ours: &Ours, size: &Size) -> Self {
        let config = &size.config;
        let head_dim = config.d_model / config.n_heads;
        let options = (Kind::Double, Device::Cpu);
        let p = Tensor::arange(size.seq_len, options).reshape([-1, 1, 1]);
        let i = Tensor::arange(head_dim / 2, options);
        let angle = p * (i * (-2.0 / head_dim as f64 * 10_000_f64.ln())).exp();
        let copy = |p: &Param| p.value().detach().copy().set_requires_grad(true);
        Self {
            weights: ours.params.iter().map(copy).collect(),
            cos: angle.cos().to_kind(Kind::Float),
            sin: angle.sin().to_kind(Kind::Float),
            n_heads: config.n_heads,
            eps: config.norm_eps,
        }
    }

    fn step(&self, [ids, targets]: &[Tensor; 2]) -> f64 {
        let none = None::<Tensor>;
        let (batch, seq_len) = (ids.size()[0], ids.size()[1]);
        let table = &self.weights[0];
        let d_model = table.size()[1];
        let norm = |x: &Tensor, w: &Tensor| x.rms_norm([d_model], Some(w), self.eps);
        let turn = |x: Tensor| {
            let half = x.size()[3] / 2;
            let (a, b) = (x.narrow(3, 0, half), x.narrow(3, half, half));
            Tensor::cat(&[&a * &self.cos - &b * &self.sin, b * &self.cos + a * &self.sin], 3)
        };
        let mut x = Tensor::embedding(table, ids, -1, false, false);
        let (blocks, last) = self.weights[1..].split_at(self.weights.len() - 2);
        for w in blocks.chunks_exact(9) {
            let [attn_norm, mlp_norm, q, k, v, out_proj, up, gate, down] = w else { continue };
            let h = norm(&x, attn_norm);
            let heads =
                |w: &Tensor| h.linear(w, None::<Tensor>).view([batch, seq_len, self.n_heads, -1]);
            let q = turn(heads(q)).transpose(1, 2);
            let k = turn(heads(k)).transpose(1, 2);
            let v = heads(v).transpose(1, 2);
            let y = Tensor::scaled_dot_product_attention(
                &q,
                &k,
                &v,
                none.as_ref(),
                0.0,
                true,
                None,
                false,
            );
            let y = y.transpose(1, 2).reshape([batch, seq_len, -1]);
            x = &x + y.linear(out_proj, none.as_ref());
            let h = norm(&x, mlp_norm);
            let hidden = h.linear(gate, none.as_ref()).silu() * h.linear(up, none.as_ref());
            x = &x + hidden.linear(down, none.as_ref());
        }
        let logits = norm(&x, &last[0]).linear(table, none.as_ref());
        let loss = logits.reshape([-1, table.size()[0]]).cross_entropy_loss(
            &targets.reshape([-1]),
            none,
            tch::Reduction::Mean,
            -100,
            0.0,
        );
        loss.backward();
        descend(self.weights.iter());
        loss.double_value(&[])
    }
}

/// Median time of each of two forms, their steps taken in turn.
fn in_turn(pairs: usize, mut a: impl FnMut(), mut b: impl FnMut()) -> [Duration; 2] {
    let mut times = [Vec::new(), Vec::new()];
    for i in 0..2 * pairs {
        let start = Instant::now();
        // a b b a: neither is always the one that follows the other.
        let first = matches!(i % 4, 0 | 3);
        if first {
            a();
        } else {
            b();
        }
        times[usize::from(!first)].push(start.elapsed());
    }
    times.map(|mut t| {
        t.sort_unstable();
        t[t.len() / 2]
    })
}

#[expect(clippy::print_stdout, reason = "a bench reports on the terminal")]
fn main() -> Result<()> {
    // `cargo test --benches` passes --test: then one small step shows that the bench still runs.
    let test = std::env::args().any(|arg| arg == "--test");
    let threads = std::env::var("THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    tch::set_num_threads(threads);
    let mut size = Size::from_env();
    if test {
        size.config = DecoderConfig { d_model: 16, n_layers: 2, n_heads: 2, ..size.config };
        (size.batch, size.seq_len, size.pairs) = (1, 4, 1);
    }
    let cpu = CpuSupport::detect();
    println!("cpu: {cpu}; threads: {threads}");
    let Size { config, batch, seq_len, pairs } = &size;
    println!(
        "decoder: {} layers, d_model {}, {batch} x {seq_len} tokens, {:.1} M parameters",
        config.n_layers,
        config.d_model,
        config.param_count() / 1e6
    );

    let data = size.batch();
    let ours = Ours::new(config, Compute::F32)?;
    let bare = Bare::new(&ours, &size);
    for _ in 0..3 {
        // The baseline is honest only if it is the same model.
        let (a, b) = (ours.step(&data)?, bare.step(&data));
        anyhow::ensure!((a - b).abs() < 1e-4 * b, "the two models differ: loss {a} and {b}");
    }
    let bf16 = Ours::new(config, Compute::Bf16)?;
    if !test {
        let mut criterion = Criterion::default()
            .sample_size(10)
            .warm_up_time(Duration::from_millis(100))
            .measurement_time(Duration::from_millis(500))
            .configure_from_args();
        let mut group = criterion.benchmark_group(format!(
            "training step, {} x d_model {}",
            config.n_layers, config.d_model
        ));
        group.sampling_mode(criterion::SamplingMode::Flat);
        group.bench_function("ours, float32", |b| {
            b.iter(|| ours.step(&data).expect("it ran before"));
        });
        group.bench_function("bare tch, float32", |b| b.iter(|| bare.step(&data)));
        group.finish();
    }
    let run = |model: &Ours| {
        model.step(&data).expect("it ran before");
    };
    let [a, b] = in_turn(
        *pairs,
        || run(&ours),
        || {
            bare.step(&data);
        },
    );
    let ratio = a.as_secs_f64() / b.as_secs_f64();
    println!(
        "in turn, median of {pairs}: ours {a:.1?}, bare tch {b:.1?}, ratio {ratio:.3} (target <= 1.05)"
    );
    if cpu.amx_bf16 {
        let [a, b] = in_turn(*pairs, || run(&ours), || run(&bf16));
        let ratio = a.as_secs_f64() / b.as_secs_f64();
        println!(
            "in turn, median of {pairs}: float32 {a:.1?}, bfloat16 {b:.1?}, {ratio:.2}x faster (target >= 2.5)"
        );
    } else {
        println!("bfloat16 against float32: not measured here, this CPU has no AMX");
    }
    Ok(())
}
