//! Properties of the statistics, and their exact laws against brute-force enumeration.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use experiments::stats::{
    Aggregate, BayesOptions, BootstrapOptions, Correction, FriedmanOptions, IntervalMethod, Matrix,
    PMethod, Scores, WilcoxonOptions, ZeroMethod, a12, adjust, bayes_masses, bayes_signed_rank,
    bootstrap, critical_difference, expected_running_time, friedman, improvement_test, iqm,
    mann_whitney, mid_ranks, paired_difference, performance_profile, prob_improvement,
    range_quantile, range_sf, wilcoxon, wilcoxon_with,
};
use proptest::prelude::*;

/// Values on a coarse grid, so that ties and zero differences are frequent.
fn coarse(n: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<f64>> {
    proptest::collection::vec((-4i32..=4).prop_map(|v| f64::from(v) / 2.0), n)
}

fn fine(n: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<f64>> {
    proptest::collection::vec(-100.0..100.0f64, n)
}

fn pairs(max: usize) -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
    (1..=max).prop_flat_map(|n| (coarse(n), coarse(n)))
}

fn small_bootstrap() -> BootstrapOptions {
    BootstrapOptions { resamples: 1_000, seed: 11, ..Default::default() }
}

/// (`p_less`, `p_greater`) of the signed-rank statistic over all 2^n sign patterns.
fn brute_signed_rank(x: &[f64], y: &[f64], zeros: ZeroMethod) -> (f64, f64) {
    let mut d: Vec<f64> = x.iter().zip(y).map(|(a, b)| a - b).collect();
    if zeros == ZeroMethod::Wilcox {
        d.retain(|v| *v != 0.0);
    }
    let sizes: Vec<f64> = d.iter().map(|v| v.abs()).collect();
    let ranks = mid_ranks(&sizes).unwrap().ranks;
    let signed: Vec<(f64, bool)> =
        d.iter().zip(ranks).filter(|(v, _)| **v != 0.0).map(|(v, r)| (r, *v > 0.0)).collect();
    let observed: f64 = signed.iter().filter(|(_, up)| *up).map(|(r, _)| r).sum();
    let patterns = 1u32 << signed.len();
    let (mut low, mut high) = (0u32, 0u32);
    for signs in 0..patterns {
        let sum: f64 = signed
            .iter()
            .enumerate()
            .filter(|(i, _)| signs >> i & 1 == 1)
            .map(|(_, (r, _))| r)
            .sum();
        low += u32::from(sum <= observed + 1e-9);
        high += u32::from(sum >= observed - 1e-9);
    }
    (f64::from(low) / f64::from(patterns), f64::from(high) / f64::from(patterns))
}

/// (`p_less`, `p_greater`) of the first sample's rank sum over all splits of the pooled sample.
fn brute_rank_sum(x: &[f64], y: &[f64]) -> (f64, f64) {
    let pooled = [x, y].concat();
    let ranks = mid_ranks(&pooled).unwrap().ranks;
    let observed: f64 = ranks[..x.len()].iter().sum();
    let (mut low, mut high, mut all) = (0u32, 0u32, 0u32);
    for subset in 0u32..1 << pooled.len() {
        if subset.count_ones() as usize != x.len() {
            continue;
        }
        let sum: f64 =
            ranks.iter().enumerate().filter(|(i, _)| subset >> i & 1 == 1).map(|(_, r)| r).sum();
        low += u32::from(sum <= observed + 1e-9);
        high += u32::from(sum >= observed - 1e-9);
        all += 1;
    }
    (f64::from(low) / f64::from(all), f64::from(high) / f64::from(all))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn ranks_sum_to_a_triangle(v in coarse(1..40)) {
        let n = v.len() as f64;
        let r = mid_ranks(&v).unwrap();
        prop_assert!((r.ranks.iter().sum::<f64>() - n * (n + 1.0) / 2.0).abs() < 1e-9);
        prop_assert_eq!(r.groups.iter().sum::<usize>(), v.len());
    }

    #[test]
    fn wilcoxon_equals_enumeration((x, y) in pairs(12)) {
        for zeros in [ZeroMethod::Wilcox, ZeroMethod::Pratt, ZeroMethod::Zsplit] {
            let options = WilcoxonOptions { zeros, method: PMethod::Exact, round_digits: None };
            let w = wilcoxon_with(&x, &y, &options).unwrap();
            let (less, greater) = brute_signed_rank(&x, &y, zeros);
            prop_assert!((w.p.less - less).abs() < 1e-12, "{:?}: {} {}", zeros, w.p.less, less);
            prop_assert!((w.p.greater - greater).abs() < 1e-12);
            prop_assert!((w.p.two_sided - (2.0 * less.min(greater)).min(1.0)).abs() < 1e-12);
        }
    }

    #[test]
    fn wilcoxon_is_symmetric((x, y) in pairs(30)) {
        for method in [PMethod::Exact, PMethod::Normal, PMethod::NormalContinuity] {
            for zeros in [ZeroMethod::Wilcox, ZeroMethod::Pratt, ZeroMethod::Zsplit] {
                let options = WilcoxonOptions { zeros, method, round_digits: None };
                let a = wilcoxon_with(&x, &y, &options).unwrap();
                let b = wilcoxon_with(&y, &x, &options).unwrap();
                prop_assert!((a.p.two_sided - b.p.two_sided).abs() < 1e-12);
                prop_assert!((a.p.less - b.p.greater).abs() < 1e-12);
                prop_assert!((a.r_plus - b.r_minus).abs() < 1e-9);
                prop_assert!((a.rank_biserial + b.rank_biserial).abs() < 1e-12);
                for p in [a.p.two_sided, a.p.less, a.p.greater] {
                    prop_assert!((0.0..=1.0).contains(&p), "{p}");
                }
            }
        }
    }

    #[test]
    fn mann_whitney_equals_enumeration(x in coarse(1..7), y in coarse(1..6)) {
        let t = mann_whitney(&x, &y, PMethod::Exact).unwrap();
        let (less, greater) = brute_rank_sum(&x, &y);
        prop_assert!((t.p.less - less).abs() < 1e-12);
        prop_assert!((t.p.greater - greater).abs() < 1e-12);
        prop_assert!(t.p.two_sided >= t.smallest_p - 1e-12);
    }

    #[test]
    fn a12_complements(x in coarse(1..20), y in coarse(1..20)) {
        let (a, b) = (a12(&x, &y).unwrap(), a12(&y, &x).unwrap());
        prop_assert!((a + b - 1.0).abs() < 1e-12);
        let t = mann_whitney(&x, &y, PMethod::Auto).unwrap();
        let s = mann_whitney(&y, &x, PMethod::Auto).unwrap();
        prop_assert!((t.a12 - a).abs() < 1e-12);
        prop_assert!((t.p.two_sided - s.p.two_sided).abs() < 1e-9);
        prop_assert!((t.cliff + s.cliff).abs() < 1e-12);
    }

    #[test]
    fn corrections_keep_order(p in proptest::collection::vec(0.0..=1.0f64, 0..20)) {
        for c in [Correction::Holm, Correction::Hochberg, Correction::BenjaminiHochberg,
                  Correction::Bonferroni, Correction::None] {
            let q = adjust(&p, c).unwrap();
            for i in 0..p.len() {
                prop_assert!(q[i] >= p[i] - 1e-15 && q[i] <= 1.0);
                for j in 0..p.len() {
                    prop_assert!(p[i] > p[j] || q[i] <= q[j] + 1e-15);
                }
            }
            // Reversing the input reverses the output.
            let back: Vec<f64> = p.iter().rev().copied().collect();
            let mut r = adjust(&back, c).unwrap();
            r.reverse();
            prop_assert_eq!(&q, &r);
        }
        let holm = adjust(&p, Correction::Holm).unwrap();
        let hochberg = adjust(&p, Correction::Hochberg).unwrap();
        let bonferroni = adjust(&p, Correction::Bonferroni).unwrap();
        for i in 0..p.len() {
            prop_assert!(hochberg[i] <= holm[i] + 1e-15 && holm[i] <= bonferroni[i] + 1e-15);
        }
    }

    #[test]
    fn friedman_ranks_and_limits(rows in proptest::collection::vec(coarse(4), 2..15)) {
        let m = Matrix::from_rows(&rows).unwrap();
        let f = friedman(&m, &FriedmanOptions::default()).unwrap();
        prop_assert!((f.mean_ranks.iter().sum::<f64>() - 10.0).abs() < 1e-9);
        prop_assert!((0.0..=1.0).contains(&f.p_f) && (0.0..=1.0).contains(&f.p_chi2));
        prop_assert!((0.0..=1.0).contains(&f.kendall_w));
        prop_assert!(f.chi2 >= f.chi2_uncorrected - 1e-9);
        let low = FriedmanOptions { higher_is_better: false, ..Default::default() };
        let turned = friedman(&m, &low).unwrap();
        for (a, b) in f.mean_ranks.iter().zip(&turned.mean_ranks) {
            prop_assert!((a + b - 5.0).abs() < 1e-9);
        }
        prop_assert!((f.chi2 - turned.chi2).abs() < 1e-9);
    }

    #[test]
    fn iqm_is_equivariant(v in fine(1..40), shift in -10.0..10.0f64, scale in 0.1..5.0f64) {
        let point = iqm(&v).unwrap();
        let (low, high) = v.iter().fold((f64::MAX, f64::MIN), |(l, h), &x| (l.min(x), h.max(x)));
        prop_assert!(point >= low - 1e-9 && point <= high + 1e-9);
        let moved: Vec<f64> = v.iter().map(|x| scale * x + shift).collect();
        prop_assert!((iqm(&moved).unwrap() - (scale * point + shift)).abs() < 1e-9);
        let s = Scores::from_runs(&v).unwrap();
        let balanced = Aggregate::IqmBalanced.of(&s);
        prop_assert!(balanced >= low - 1e-9 && balanced <= high + 1e-9);
    }

    #[test]
    fn profiles_fall(v in fine(6), mut taus in fine(1..12)) {
        taus.sort_by(f64::total_cmp);
        let s = Scores::from_rows(3, 2, &v).unwrap();
        let p = performance_profile(&s, &taus, &small_bootstrap()).unwrap();
        for w in [&p.run_share, &p.task_share, &p.lo, &p.hi] {
            prop_assert!(w.windows(2).all(|w| w[1] <= w[0] + 1e-12));
            prop_assert!(w.iter().all(|s| (0.0..=1.0 + 1e-12).contains(s)));
        }
    }

    #[test]
    fn ert_is_at_least_the_mean_hit(hits in proptest::collection::vec(
        prop_oneof![3 => 0.0..100.0f64, 1 => Just(f64::INFINITY)], 1..20)) {
        let budget = vec![100.0; hits.len()];
        let t = expected_running_time(&hits, &budget).unwrap();
        let reached: Vec<f64> = hits.iter().copied().filter(|h| h.is_finite()).collect();
        let mean = reached.iter().sum::<f64>() / reached.len().max(1) as f64;
        prop_assert!(t.ert >= mean - 1e-9);
        prop_assert_eq!(t.ert.is_finite(), !reached.is_empty());
    }

    #[test]
    fn bayes_masses_sum_to_one((x, y) in pairs(12), rope in 0.0..2.0f64, seed in any::<u64>()) {
        // Weights from the seed by a small congruence; only their sum matters here.
        let mut w: Vec<f64> = (0..=x.len() as u64)
            .map(|i| (seed.wrapping_mul(i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f64 + 1.0)
            .collect();
        let total: f64 = w.iter().sum();
        for v in &mut w {
            *v /= total;
        }
        let m = bayes_masses(&x, &y, rope, &[w]).unwrap()[0];
        prop_assert!((m.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        prop_assert!(m.iter().all(|v| *v > -1e-9));
    }

    #[test]
    fn improvement_complements(x in coarse(6), y in coarse(8)) {
        let (x, y) = (Scores::from_rows(3, 2, &x).unwrap(), Scores::from_rows(4, 2, &y).unwrap());
        let a = prob_improvement(&x, &y, &small_bootstrap()).unwrap();
        let b = prob_improvement(&y, &x, &small_bootstrap()).unwrap();
        prop_assert!((a.interval.point + b.interval.point - 1.0).abs() < 1e-12);
        prop_assert!(a.interval.lo >= -1e-12 && a.interval.hi <= 1.0 + 1e-12);
        let (s, t) = (improvement_test(&x, &y).unwrap(), improvement_test(&y, &x).unwrap());
        prop_assert!((s.p.less - t.p.greater).abs() < 1e-9);
        prop_assert!((s.poi - a.interval.point).abs() < 1e-12);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn intervals_are_equivariant(v in fine(12), shift in -5.0..5.0f64) {
        let s = Scores::from_rows(4, 3, &v).unwrap();
        let moved: Vec<f64> = v.iter().map(|x| x + shift).collect();
        let m = Scores::from_rows(4, 3, &moved).unwrap();
        for method in [IntervalMethod::Percentile, IntervalMethod::Basic] {
            let options = BootstrapOptions { method, ..small_bootstrap() };
            let a = bootstrap(&s, &Aggregate::Iqm, &options).unwrap();
            let b = bootstrap(&m, &Aggregate::Iqm, &options).unwrap();
            prop_assert!(a.lo <= a.hi);
            prop_assert!((b.lo - a.lo - shift).abs() < 1e-8 && (b.hi - a.hi - shift).abs() < 1e-8);
        }
        // A method against itself, seed by seed, has no difference at all.
        let none = paired_difference(&s, &s, &Aggregate::Mean, &small_bootstrap()).unwrap();
        prop_assert_eq!((none.lo, none.hi), (0.0, 0.0));
    }

    #[test]
    fn range_law_is_a_law(k in 2usize..15, w in 0.0..8.0f64, step in 0.01..1.0f64) {
        let (a, b) = (range_sf(w, k).unwrap(), range_sf(w + step, k).unwrap());
        prop_assert!((0.0..=1.0).contains(&a) && b <= a + 1e-12);
        prop_assert!(range_sf(w, k + 1).unwrap() >= a - 1e-9);
    }
}

#[test]
fn quantile_inverts_the_range_law() {
    for k in [2, 3, 7, 20] {
        for alpha in [0.2, 0.05, 0.001] {
            let w = range_quantile(alpha, k).unwrap();
            assert!((range_sf(w, k).unwrap() - alpha).abs() < 1e-12, "{k} {alpha}");
        }
    }
    for n in [5, 20] {
        let cd = critical_difference(2, n, 0.05).unwrap();
        assert!((cd - 1.959_963_984_540_054 / (n as f64).sqrt()).abs() < 1e-10);
    }
}

#[test]
fn results_do_not_depend_on_threads() {
    let values: Vec<f64> = (0..60).map(|i| f64::from(i * i % 37) / 7.0).collect();
    let scores = Scores::from_rows(10, 6, &values).unwrap();
    let x: Vec<f64> = values[..12].to_vec();
    let y: Vec<f64> = values[12..24].to_vec();
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let bca = BootstrapOptions { method: IntervalMethod::Bca, ..small_bootstrap() };
            (
                bootstrap(&scores, &Aggregate::Iqm, &bca).unwrap(),
                performance_profile(&scores, &[1.0, 2.0], &small_bootstrap()).unwrap(),
                prob_improvement(&scores, &scores.negated(), &small_bootstrap()).unwrap(),
                bayes_signed_rank(&x, &y, &BayesOptions::default()).unwrap(),
            )
        })
    };
    assert_eq!(on(1), on(8));
}

#[test]
fn seeds_matter_and_repeat() {
    let s = Scores::from_runs(&[0.3, 0.9, 0.1, 0.7, 0.5, 0.2, 0.8]).unwrap();
    let with = |seed| {
        let options = BootstrapOptions { seed, ..small_bootstrap() };
        bootstrap(&s, &Aggregate::Mean, &options).unwrap()
    };
    assert_eq!(with(1), with(1));
    assert_ne!((with(1).lo, with(1).hi), (with(2).lo, with(2).hi));
}

/// The exact law at n = 25 against the known table value: P(R+ <= 89) = .02466 (Wilcoxon tables
/// give 89 as the two-sided 5% critical value).
#[test]
fn critical_value_of_the_table_at_25() {
    let p_at = |target: f64| {
        // Differences whose negative ranks sum to `target`: take ranks greedily from the top.
        let mut left = target;
        let mut d: Vec<f64> = (1..=25).map(f64::from).collect();
        for v in d.iter_mut().rev() {
            if *v <= left {
                left -= *v;
                *v = -*v;
            }
        }
        wilcoxon(&d, &[0.0; 25]).unwrap().p.two_sided
    };
    assert!(p_at(89.0) <= 0.05 && p_at(90.0) > 0.05, "{} {}", p_at(89.0), p_at(90.0));
}
