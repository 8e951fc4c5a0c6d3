//! What a backward pass written in Rust costs beside libtorch's own node for the same product.
//!
//! `cargo bench -p tensor-core --bench autograd`
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use tensor_core::{
    Device, Kind, Tensor,
    autograd::{Graph, custom_vjp, vjp},
    runtime::{self, Settings},
};

fn scale(x: &Tensor) -> Tensor {
    let y = {
        let _guard = tch::no_grad_guard();
        x * 3.0
    };
    custom_vjp("Scale", &[x], vec![y], |g| Ok(vec![g[0].as_ref().map(|g| g * 3.0)]))
        .expect("arguments are right")
        .remove(0)
}

fn node(c: &mut Criterion) {
    runtime::init(&Settings { threads: 1, ..Settings::default() }).expect("the CPU is there");
    let mut group = c.benchmark_group("forward_and_backward");
    for n in [1, 1 << 16] {
        let x = Tensor::ones([n], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let g = x.detach();
        let mut time = |name: &str, forward: &dyn Fn(&Tensor) -> Tensor| {
            group.bench_with_input(BenchmarkId::new(name, n), &n, |bench, _| {
                bench.iter(|| {
                    let y = forward(black_box(&x));
                    vjp(&[&y], &[&g], &[&x], Graph::Free).expect("the graph is fresh")
                });
            });
        };
        time("custom_vjp", &scale);
        time("libtorch", &|x| x * 3.0);
    }
    group.finish();

    let x = Tensor::ones([1], (Kind::Float, Device::Cpu)).set_requires_grad(true);
    c.bench_function("attach_and_drop", |bench| bench.iter(|| scale(black_box(&x))));
    let plain = x.detach();
    c.bench_function("attach_without_graph", |bench| bench.iter(|| scale(black_box(&plain))));
}

criterion_group!(benches, node);
criterion_main!(benches);
