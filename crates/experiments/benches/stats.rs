//! Speed of the statistics that a report runs most. `cargo bench -p experiments --bench stats`

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use experiments::stats::{
    Aggregate, BayesOptions, BootstrapOptions, Correction, IntervalMethod, Matrix, PMethod, Scores,
    WilcoxonOptions, bayes_signed_rank, bootstrap, critical_difference, mann_whitney,
    pairwise_wilcoxon, prob_improvement, wilcoxon,
};

/// Values without pattern, the same in every run.
fn values(n: usize) -> Vec<f64> {
    (0..n as u64)
        .map(|i| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 11) as f64 / (1u64 << 53) as f64)
        .collect()
}

fn exact_tests(c: &mut Criterion) {
    let v = values(80);
    c.bench_function("wilcoxon exact n=25", |b| {
        b.iter(|| wilcoxon(black_box(&v[..25]), black_box(&v[25..50])));
    });
    c.bench_function("mann-whitney exact 20+20", |b| {
        b.iter(|| mann_whitney(black_box(&v[..20]), black_box(&v[20..40]), PMethod::Exact));
    });
    c.bench_function("critical difference k=10", |b| {
        b.iter(|| critical_difference(black_box(10), 20, 0.05));
    });
    let matrix = Matrix::new(20, 10, values(200)).expect("20 x 10 values");
    c.bench_function("all pairs 20 tasks x 10 methods", |b| {
        b.iter(|| {
            pairwise_wilcoxon(
                black_box(&matrix),
                &WilcoxonOptions::default(),
                Correction::default(),
            )
        });
    });
}

fn resampling(c: &mut Criterion) {
    let mut group = c.benchmark_group("bootstrap 10,000 x 10 runs x 20 tasks");
    group.sample_size(20);
    let x = Scores::from_rows(10, 20, &values(200)).expect("10 x 20 values");
    let options = BootstrapOptions::default();
    for aggregate in [Aggregate::Mean, Aggregate::Median, Aggregate::Iqm] {
        group.bench_function(aggregate.name(), |b| {
            b.iter(|| bootstrap(black_box(&x), &aggregate, &options));
        });
    }
    let bca = BootstrapOptions { method: IntervalMethod::Bca, ..options };
    group
        .bench_function("iqm, BCa", |b| b.iter(|| bootstrap(black_box(&x), &Aggregate::Iqm, &bca)));
    group.bench_function("probability of improvement", |b| {
        b.iter(|| prob_improvement(black_box(&x), &x.negated(), &options));
    });
    group.finish();
}

fn posterior(c: &mut Criterion) {
    let v = values(60);
    let mut group = c.benchmark_group("bayes signed-rank 50,000 draws");
    group.sample_size(20);
    group.bench_function("n=30", |b| {
        b.iter(|| {
            bayes_signed_rank(black_box(&v[..30]), black_box(&v[30..]), &BayesOptions::default())
        });
    });
    group.finish();
}

criterion_group!(benches, exact_tests, resampling, posterior);
criterion_main!(benches);
