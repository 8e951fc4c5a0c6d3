//! Optimiser steps beside libtorch's own, `Param::value`, and growth beside a plain copy.
//!
//! `cargo bench -p tensor-core --bench optim`; one thread, float32. Throughput of the growth group is
//! in bytes of the *new* parameters and moments, for growth and copy alike, so the two rates compare.
#![allow(clippy::type_complexity, reason = "a closure per form that is timed")]
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::{hint::black_box, time::Duration, time::Instant};
use tch::nn::{self, OptimizerConfig};
use tensor_core::grow::{HiddenUnits, ResizePlan};
use tensor_core::{
    AdamW, AdamWConfig, Device, Init, Kind, Optimizer, Param, ParamStore, Role, SeedTree, Sgd,
    SgdConfig, Tensor, Trainer,
};

/// `n` square matrices with gradients.
fn matrices(n: usize, d: i64) -> (ParamStore, Vec<Param>) {
    let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(1));
    let values = Tensor::ones([d, d], (Kind::Float, Device::Cpu)) * 0.01;
    let params = (0..n)
        .map(|i| store.root().given(&format!("w{i}"), &values, Role::Weight).expect("a new name"))
        .collect();
    for p in store.iter() {
        (p.value() * 0.1).sum(Kind::Float).backward();
    }
    (store, params)
}

fn steps(c: &mut Criterion) {
    tch::set_num_threads(1);
    for (n, d) in [(60, 192), (12, 2048)] {
        let mut group = c.benchmark_group(format!("step_{n}x{d}x{d}"));
        group.sample_size(if d > 1000 { 20 } else { 60 });
        group.throughput(Throughput::Elements((n as i64 * d * d) as u64));

        let (store, _) = matrices(n, d);
        let mut adamw = AdamW::new(AdamWConfig::default()).expect("defaults are valid");
        group.bench_function("adamw", |b| b.iter(|| adamw.step(&store, 1e-4).expect("a step")));
        let sgd = SgdConfig { momentum: 0.9, ..Default::default() };
        let mut sgd = Sgd::new(sgd).expect("valid settings");
        group.bench_function("sgd", |b| b.iter(|| sgd.step(&store, 1e-6).expect("a step")));

        // A matrix widened on both axes: rows and columns of two ages.
        let (store, params) = matrices(n, d - d / 4);
        let mut trainer =
            Trainer::new(store, AdamW::new(AdamWConfig::default()).expect("defaults are valid"));
        trainer.optim.step(&trainer.store, 1e-4).expect("a step");
        for p in &params {
            trainer.grow(&square(p).widen(d, &SeedTree::new(3), "").expect("wider")).expect("fits");
            (p.value() * 0.1).sum(Kind::Float).backward();
        }
        trainer.optim.step(&trainer.store, 1e-4).expect("a step");
        group.bench_function("adamw_widened", |b| {
            b.iter(|| trainer.optim.step(&trainer.store, 1e-4).expect("a step"));
        });
        let append = |p: &Param| {
            let fill = tensor_core::grow::Fill::Zeros;
            square(p).append(d / 4, &fill, &fill, &fill, "late rows and columns")
        };
        let (store, params) = matrices(n, d - d / 4);
        let mut trainer =
            Trainer::new(store, AdamW::new(AdamWConfig::default()).expect("defaults are valid"));
        trainer.optim.step(&trainer.store, 1e-4).expect("a step");
        for p in &params {
            trainer.grow(&append(p)).expect("fits");
            (p.value() * 0.1).sum(Kind::Float).backward();
        }
        group.bench_function("adamw_two_ages", |b| {
            b.iter(|| trainer.optim.step(&trainer.store, 1e-4).expect("a step"));
        });

        let vs = nn::VarStore::new(Device::Cpu);
        let theirs: Vec<Tensor> =
            (0..n).map(|i| vs.root().ones(&format!("w{i}"), &[d, d])).collect();
        for t in &theirs {
            (t * 0.1).sum(Kind::Float).backward();
        }
        let mut libtorch = nn::AdamW::default().build(&vs, 1e-4).expect("libtorch's AdamW");
        group.bench_function("adamw_libtorch", |b| b.iter(|| libtorch.step()));
        group.finish();
    }
}

/// The units of a matrix that feeds itself: both axes are theirs.
fn square(p: &Param) -> HiddenUnits {
    HiddenUnits::new(p.size()[0])
        .produced_by(p, 0)
        .and_then(|units| units.consumed_by(p, 1))
        .expect("a square matrix")
}

fn value(c: &mut Criterion) {
    let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(1));
    let p = store.root().param("w", &[64, 64], Role::Weight, &Init::Zeros).expect("a new name");
    c.bench_function("param_value", |b| b.iter(|| black_box(p.value())));
}

/// Times `run` on fresh input each time, so that what is timed is one growth and not many.
fn timed<T>(iters: u64, mut setup: impl FnMut() -> T, mut run: impl FnMut(&mut T)) -> Duration {
    (0..iters)
        .map(|_| {
            let mut input = setup();
            let start = Instant::now();
            run(&mut input);
            start.elapsed()
        })
        .sum()
}

fn growth(c: &mut Criterion) {
    const OLD: i64 = 2048;
    const NEW: i64 = 2304;
    const N: usize = 24; // 24 x 2048^2 = 100.7 M parameters
    tch::set_num_threads(1);
    let mut group = c.benchmark_group("grow_100M");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(3 * 4 * N as u64 * (NEW * NEW) as u64));
    let trained = || {
        let (store, params) = matrices(N, OLD);
        let mut t = Trainer::new(store, AdamW::new(AdamWConfig::default()).expect("valid"));
        t.optim.step(&t.store, 1e-4).expect("a step");
        (t, params)
    };
    let seed = SeedTree::new(3);
    let plans: [(&str, &dyn Fn(&Param) -> ResizePlan); 2] = [
        ("duplicate", &|p| square(p).widen(NEW, &seed, "").expect("wider")),
        ("append", &|p| {
            let zeros = tensor_core::grow::Fill::Zeros;
            square(p).append(NEW - OLD, &zeros, &zeros, &zeros, "")
        }),
    ];
    for (name, plan) in plans {
        group.bench_function(BenchmarkId::new("grow", name), |b| {
            b.iter_custom(|iters| {
                let setup = || {
                    let (t, params) = trained();
                    let all = params.iter().fold(ResizePlan::new(""), |all, p| all.and(plan(p)));
                    (t, all)
                };
                timed(iters, setup, |(t, plan)| t.grow(plan).expect("fits"))
            });
        });
    }
    group.bench_function("copy", |b| {
        b.iter_custom(|iters| {
            let setup = || -> (Vec<Tensor>, Vec<Tensor>) {
                let one = || Tensor::ones([NEW, NEW], (Kind::Float, Device::Cpu));
                ((0..3 * N).map(|_| one()).collect(), Vec::new())
            };
            timed(iters, setup, |(from, to)| to.extend(from.iter().map(Tensor::copy)))
        });
    });
    group.finish();
}

criterion_group!(benches, steps, value, growth);
criterion_main!(benches);
