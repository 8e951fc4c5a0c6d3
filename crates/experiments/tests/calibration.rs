//! Under the null every test keeps its level; intervals cover what they claim.
//!
//! `cargo test -p experiments --test calibration -- --nocapture` prints the measured rates; with
//! `--ignored` added, the table of the module documentation at twice the number of experiments.
#![allow(clippy::print_stdout, reason = "the measured rates are the point of the test")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use experiments::stats::{
    Aggregate, BayesOptions, BootstrapOptions, Correction, FriedmanOptions, IntervalMethod, Matrix,
    PMethod, Scores, WilcoxonOptions, attainable_level, bayes_signed_rank, bootstrap, friedman,
    improvement_test, mann_whitney, mid_ranks, nemenyi_p, pairwise_wilcoxon, wilcoxon,
    wilcoxon_against_control,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Exp1, StandardNormal};
use rayon::prelude::*;

const EXPERIMENTS: u64 = 2_000;
const ALPHA: f64 = 0.05;

fn rng(seed: u64, experiment: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(experiment);
    rng
}

fn normals(rng: &mut impl Rng, n: usize) -> Vec<f64> {
    (0..n).map(|_| StandardNormal.sample(rng)).collect()
}

/// Share of experiments without effect in which `rejects` says yes.
fn rate(seed: u64, rejects: impl Fn(&mut ChaCha8Rng) -> bool + Sync) -> f64 {
    let hits: usize =
        (0..EXPERIMENTS).into_par_iter().map(|e| usize::from(rejects(&mut rng(seed, e)))).sum();
    hits as f64 / EXPERIMENTS as f64
}

/// Within 1.5 points of the attainable level, and never above 6.5%.
fn keeps(name: &str, measured: f64, attainable: f64) {
    println!(
        "{name:<44} rejects {:5.2}%  attainable {:5.2}%",
        100.0 * measured,
        100.0 * attainable
    );
    assert!((measured - attainable).abs() <= 0.015, "{name}: {measured} against {attainable}");
    assert!(measured <= 0.065, "{name}: {measured}");
}

/// Conservative by construction: only the upper limit applies.
fn never_above(name: &str, measured: f64) {
    println!("{name:<44} rejects {:5.2}%  at most {:5.2}%", 100.0 * measured, 100.0 * ALPHA);
    assert!(measured <= 0.065, "{name}: {measured}");
}

#[test]
fn wilcoxon_keeps_its_level() {
    for n in [6, 10, 20, 25] {
        let r = rate(1, |g| wilcoxon(&normals(g, n), &normals(g, n)).unwrap().p.two_sided <= ALPHA);
        keeps(&format!("Wilcoxon exact, n = {n}"), r, attainable_level(n, ALPHA).unwrap());
    }
    let r = rate(2, |g| wilcoxon(&normals(g, 30), &normals(g, 30)).unwrap().p.two_sided <= ALPHA);
    keeps("Wilcoxon normal, n = 30", r, ALPHA);
    // Five pairs cannot reject at all.
    let never = rate(3, |g| wilcoxon(&normals(g, 5), &[0.0; 5]).unwrap().p.two_sided <= ALPHA);
    assert!(never <= 0.0, "{never}");
    // Rounded data: ties and zeros. The conditional test is exact for each pattern of ties.
    let r = rate(4, |g| {
        let round = |v: Vec<f64>| v.into_iter().map(|x| (2.0 * x).round()).collect::<Vec<_>>();
        wilcoxon(&round(normals(g, 20)), &round(normals(g, 20))).unwrap().p.two_sided <= ALPHA
    });
    keeps("Wilcoxon exact, n = 20, ties and zeros", r, ALPHA);
}

/// Exact size of the two-sided test of `m` against `n` untied values, over all splits.
fn rank_sum_size(m: usize, n: usize) -> f64 {
    let values: Vec<f64> = (0..m + n).map(|i| i as f64).collect();
    let mut by_sum = std::collections::BTreeMap::new();
    for subset in 0u32..1 << (m + n) {
        if subset.count_ones() as usize == m {
            let sum: usize = (0..m + n).filter(|i| subset >> i & 1 == 1).sum();
            by_sum.entry(sum).or_insert((subset, 0u32)).1 += 1;
        }
    }
    let all: u32 = by_sum.values().map(|(_, count)| count).sum();
    let rejected: u32 = by_sum
        .values()
        .filter(|(subset, _)| {
            let (x, y): (Vec<f64>, Vec<f64>) =
                values.iter().partition(|v| subset >> (**v as u32) & 1 == 1);
            mann_whitney(&x, &y, PMethod::Exact).unwrap().p.two_sided <= ALPHA
        })
        .map(|(_, count)| count)
        .sum();
    f64::from(rejected) / f64::from(all)
}

#[test]
fn mann_whitney_keeps_its_level() {
    for (m, n) in [(4, 4), (5, 8), (8, 8)] {
        let r = rate(5, |g| {
            let t = mann_whitney(&normals(g, m), &normals(g, n), PMethod::Auto).unwrap();
            t.p.two_sided <= ALPHA
        });
        keeps(&format!("Mann-Whitney exact, {m} and {n}"), r, rank_sum_size(m, n));
    }
    let r = rate(6, |g| {
        let t = mann_whitney(&normals(g, 25), &normals(g, 25), PMethod::Auto).unwrap();
        t.p.two_sided <= ALPHA
    });
    keeps("Mann-Whitney normal, 25 and 25", r, ALPHA);
}

#[test]
fn improvement_keeps_its_level() {
    let draw = |g: &mut ChaCha8Rng, runs, tasks| {
        Scores::from_rows(runs, tasks, &normals(g, runs * tasks)).unwrap()
    };
    for (runs, tasks) in [(5, 4), (10, 3)] {
        let r = rate(7, |g| {
            improvement_test(&draw(g, runs, tasks), &draw(g, runs, tasks)).unwrap().p.two_sided
                <= ALPHA
        });
        keeps(&format!("improvement exact, {runs} runs x {tasks} tasks"), r, ALPHA);
    }
    let r = rate(8, |g| {
        let (x, y) = (draw(g, 30, 2), draw(g, 25, 2));
        improvement_test(&x, &y).unwrap().p.two_sided <= ALPHA
    });
    keeps("improvement normal, 30 and 25 runs x 2 tasks", r, ALPHA);
}

/// Exact size of the Iman-Davenport test at k = 3 over all rankings of `n` blocks.
fn friedman_size(n: u32) -> f64 {
    const RANKINGS: [[f64; 3]; 6] =
        [[1., 2., 3.], [1., 3., 2.], [2., 1., 3.], [2., 3., 1.], [3., 1., 2.], [3., 2., 1.]];
    let all = 6usize.pow(n);
    let rejected: usize = (0..all)
        .into_par_iter()
        .filter(|&code| {
            let rows: Vec<_> = (0..n).map(|i| RANKINGS[code / 6usize.pow(i) % 6]).collect();
            let m = Matrix::from_rows(&rows).unwrap();
            friedman(&m, &FriedmanOptions::default()).unwrap().p_f <= ALPHA
        })
        .count();
    rejected as f64 / all as f64
}

#[test]
fn friedman_and_its_pairs_keep_their_level() {
    let draw =
        |g: &mut ChaCha8Rng, n: usize, k: usize| Matrix::new(n, k, normals(g, n * k)).unwrap();
    let options = FriedmanOptions::default();
    let r = rate(9, |g| friedman(&draw(g, 6, 3), &options).unwrap().p_f <= ALPHA);
    keeps("Friedman F, 6 tasks x 3 methods", r, friedman_size(6));
    for (n, k) in [(10, 4), (20, 6)] {
        let r = rate(10, |g| friedman(&draw(g, n, k), &options).unwrap().p_f <= ALPHA);
        keeps(&format!("Friedman F, {n} tasks x {k} methods"), r, ALPHA);
    }
    let smallest = |p: &[Vec<f64>]| p.iter().flatten().copied().fold(1.0, f64::min);
    let r = rate(11, |g| {
        let f = friedman(&draw(g, 15, 4), &options).unwrap();
        smallest(&nemenyi_p(&f.mean_ranks, f.n).unwrap()) <= ALPHA
    });
    keeps("Nemenyi, any pair of 4, 15 tasks", r, ALPHA);
    let signed = WilcoxonOptions::default();
    let r = rate(12, |g| {
        let m = draw(g, 12, 4);
        smallest(&pairwise_wilcoxon(&m, &signed, Correction::Holm).unwrap().adjusted) <= ALPHA
    });
    never_above("Wilcoxon-Holm, any pair of 4, 12 tasks", r);
    let r = rate(13, |g| {
        let m = draw(g, 12, 4);
        let c = wilcoxon_against_control(&m, 0, &signed, Correction::Holm).unwrap();
        c.adjusted.iter().any(|p| *p <= ALPHA)
    });
    never_above("Wilcoxon-Holm against a control, 3, 12 tasks", r);
}

/// The posterior is no p-value, but a hypothesis with a stated direction must not be declared at
/// 0.95 more often than a one-sided test would.
#[test]
fn bayes_decides_rarely_without_effect() {
    for rope in [0.0, 0.1] {
        let options = BayesOptions { rope, draws: 1_000, ..Default::default() };
        let r = rate(14, |g| {
            let b = bayes_signed_rank(&normals(g, 15), &normals(g, 15), &options).unwrap();
            b.probs[2] >= 0.95
        });
        never_above(&format!("Bayes signed-rank, stated side, rope {rope}"), r);
    }
}

/// p-values of the exact tests are valid at every level, not at .05 alone.
#[test]
fn exact_p_values_are_valid_everywhere() {
    let p: Vec<f64> = (0..EXPERIMENTS)
        .map(|e| {
            let g = &mut rng(15, e);
            wilcoxon(&normals(g, 12), &normals(g, 12)).unwrap().p.two_sided
        })
        .collect();
    for level in [0.01, 0.1, 0.2, 0.5, 0.8] {
        let share = p.iter().filter(|p| **p <= level).count() as f64 / p.len() as f64;
        let slack = 3.5 * (level * (1.0 - level) / p.len() as f64).sqrt();
        assert!(share <= level + slack, "{share} at {level}");
    }
    let spread = mid_ranks(&p).unwrap().groups.len();
    assert!(spread > 30, "p takes only {spread} values");
}

#[derive(Clone, Copy)]
enum Law {
    Normal,
    Exponential,
}

const METHODS: [(&str, IntervalMethod); 4] = [
    ("percentile", IntervalMethod::Percentile),
    ("basic", IntervalMethod::Basic),
    ("BCa", IntervalMethod::Bca),
    ("expanded", IntervalMethod::Expanded),
];

/// One row of the coverage table.
#[derive(Clone, Copy)]
struct Row {
    law: Law,
    aggregate: Aggregate,
    runs: usize,
    tasks: usize,
}

impl Row {
    /// Share of experiments whose interval holds the truth.
    fn coverage(self, method: IntervalMethod, experiments: u64) -> f64 {
        // The interquartile mean of the normal is 0 by symmetry; of the exponential only the mean
        // is looked at, which is 1.
        let truth = match self.law {
            Law::Normal => 0.0,
            Law::Exponential => 1.0,
        };
        let cells = self.runs * self.tasks;
        let held = (0..experiments)
            .into_par_iter()
            .filter(|&e| {
                let g = &mut rng(16, e);
                let values: Vec<f64> = match self.law {
                    Law::Normal => normals(g, cells),
                    Law::Exponential => (0..cells).map(|_| Exp1.sample(g)).collect(),
                };
                let scores = Scores::from_rows(self.runs, self.tasks, &values).unwrap();
                let options =
                    BootstrapOptions { resamples: 1_000, seed: e, method, ..Default::default() };
                let ci = bootstrap(&scores, &self.aggregate, &options).unwrap();
                ci.lo <= truth && truth <= ci.hi
            })
            .count();
        held as f64 / experiments as f64
    }

    fn print(self, method: &str, share: f64) {
        let law = match self.law {
            Law::Normal => "normal",
            Law::Exponential => "exponential",
        };
        let Self { aggregate, runs, tasks, .. } = self;
        let percent = 100.0 * share;
        println!(
            "{law} {:<5} {runs:>2} runs x {tasks} tasks {method:<10} {percent:.1}%",
            aggregate.name()
        );
    }
}

/// Within two points of 95% at 30 runs. 6,000 experiments leave a standard error of 0.3 points.
#[test]
fn intervals_of_thirty_runs_cover() {
    for aggregate in [Aggregate::Mean, Aggregate::Iqm] {
        let row = Row { law: Law::Normal, aggregate, runs: 30, tasks: 1 };
        for (name, method) in [METHODS[0], METHODS[3]] {
            let share = row.coverage(method, 6_000);
            row.print(name, share);
            assert!((0.93..=0.97).contains(&share), "{name}: {share}");
        }
    }
}

/// The shortfall at few runs is known and stated; the expanded interval repairs most of it.
#[test]
fn few_runs_cover_less_and_expanding_helps() {
    for (runs, least) in [(5, 0.90), (10, 0.925), (20, 0.93)] {
        let row = Row { law: Law::Normal, aggregate: Aggregate::Mean, runs, tasks: 1 };
        let shares = [METHODS[0], METHODS[3]].map(|(name, method)| {
            let share = row.coverage(method, EXPERIMENTS);
            row.print(name, share);
            share
        });
        assert!(shares[0] < shares[1] && shares[1] >= least && shares[1] <= 0.97, "{shares:?}");
        if runs == 20 {
            assert!((0.91..=0.97).contains(&shares[0]), "{shares:?}");
        }
    }
}

#[test]
#[ignore = "the table of the module documentation: 4,000 experiments per entry, minutes: cargo test --release -p experiments --test calibration -- --ignored --nocapture"]
fn coverage_table() {
    for runs in [5, 10, 30] {
        for (law, aggregate, tasks) in [
            (Law::Normal, Aggregate::Mean, 1),
            (Law::Normal, Aggregate::Iqm, 1),
            (Law::Normal, Aggregate::Mean, 5),
            (Law::Normal, Aggregate::Iqm, 5),
            (Law::Exponential, Aggregate::Mean, 1),
        ] {
            let row = Row { law, aggregate, runs, tasks };
            for (name, method) in METHODS {
                row.print(name, row.coverage(method, 4_000));
            }
        }
    }
}
