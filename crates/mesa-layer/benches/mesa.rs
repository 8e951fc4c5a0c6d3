//! Speed of the mesa operation, beside the chunkwise form on tensor operations and a large matrix product.
//!
//! `MESA_THREADS` sets the threads (default 2); `benches/peers/chunkwise.py` times the same in `PyTorch`.
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mesa_layer::{Form, MesaConfig, MesaInputs, MesaState, MesaToken, Solver, mesa, mesa_step};
use std::hint::black_box;
use tch::{Device, Kind, Tensor};
use tensor_core::Validate;

const HEADS: i64 = 4;

struct Inputs {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    ridge: Tensor,
}

impl Inputs {
    /// Unit queries and keys after `silu`, gates near 0.99, ridge 0.25.
    fn draw(seq_len: i64, d: i64) -> Self {
        let kind = (Kind::Float, Device::Cpu);
        let unit = || {
            let x = Tensor::randn([1, seq_len, HEADS, d], kind).silu();
            &x / x.square().sum_dim_intlist([-1].as_slice(), true, None).sqrt()
        };
        Self {
            q: unit(),
            k: unit(),
            v: Tensor::randn([1, seq_len, HEADS, d], kind),
            g: Tensor::full([1, seq_len, HEADS], -0.01, kind),
            beta: Tensor::randn([1, seq_len, HEADS], kind).sigmoid(),
            ridge: Tensor::full([HEADS, d], 0.25, kind),
        }
    }

    fn get(&self) -> MesaInputs<'_> {
        MesaInputs::new([&self.q, &self.k, &self.v], &self.g, &self.beta, &self.ridge)
    }
}

fn operation(c: &mut Criterion) {
    let threads = std::env::var("MESA_THREADS").ok().and_then(|t| t.parse().ok()).unwrap_or(2);
    tch::set_num_threads(threads);
    for d in [64, 128] {
        for seq_len in [512, 2048, 8192] {
            let mut group = c.benchmark_group(format!("mesa/d{d}/t{seq_len}"));
            group.sample_size(10).throughput(Throughput::Elements(seq_len as u64));
            let inputs = Inputs::draw(seq_len, d);
            let grad = [&inputs.q, &inputs.k, &inputs.v].map(|x| x.copy().set_requires_grad(true));
            for (name, form, chunk_len, solver) in [
                ("kernel-30", Form::Kernel, 16, Solver::default()),
                ("kernel-preconditioned", Form::Kernel, 16, Solver::preconditioned(1e-5, 30)),
                ("chunkwise-30", Form::Chunk, 64, Solver::default()),
            ] {
                let config = MesaConfig { form, chunk_len, solver, ..MesaConfig::default() };
                let config = config.validate().unwrap();
                group.bench_function(BenchmarkId::new(name, "forward"), |b| {
                    b.iter(|| black_box(mesa(&inputs.get(), &config).unwrap().o));
                });
                group.bench_function(BenchmarkId::new(name, "forward-backward"), |b| {
                    let [q, k, v] = &grad;
                    let given = MesaInputs::new([q, k, v], &inputs.g, &inputs.beta, &inputs.ridge);
                    b.iter(|| {
                        let loss = mesa(&given, &config).unwrap().o.sum(Kind::Float);
                        black_box(Tensor::run_backward(&[loss], &[q, k, v], false, false))
                    });
                });
            }
        }
    }
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for d in [64, 128] {
        let inputs = Inputs::draw(1, d);
        let [q, k, v, g, beta] =
            [&inputs.q, &inputs.k, &inputs.v, &inputs.g, &inputs.beta].map(|x| x.select(1, 0));
        let token = MesaToken { q: &q, k: &k, v: &v, g: &g, beta: &beta, sign: None };
        let past = MesaState::zeros([1, HEADS, d, d], Kind::Float, Device::Cpu);
        let solver = Solver::default().validate().unwrap();
        group.bench_function(BenchmarkId::new("token", d), |b| {
            b.iter(|| black_box(mesa_step(&token, &inputs.ridge, &past, &solver).unwrap().o));
        });
    }
}

/// The rate to compare with: a large product of matrices in float32.
fn sgemm(c: &mut Criterion) {
    let n = 1024_i64;
    let [a, b] = [(), ()].map(|()| Tensor::randn([n, n], (Kind::Float, Device::Cpu)));
    let mut group = c.benchmark_group("sgemm");
    group.throughput(Throughput::Elements(2 * (n * n * n) as u64)); // elements are FLOPs here
    group.bench_function("1024", |bench| bench.iter(|| black_box(a.matmul(&b))));
}

criterion_group!(benches, operation, decode, sgemm);
criterion_main!(benches);
