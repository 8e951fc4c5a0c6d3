//! Every golden vector of the statistics, each within the tolerance that its file names.
//!
//! `GOLDEN_DIR` points the same program at other cases of the same schema.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use anyhow::{Context, Result, bail, ensure};
use experiments::stats::{
    Aggregate, BootstrapOptions, Correction, FriedmanOptions, Indices, IntervalFlag,
    IntervalMethod, Magnitude, Matrix, PMethod, PValues, Resampling, RunEnd, Scores, StoppedRule,
    Trajectory, WilcoxonOptions, ZeroMethod, ablation, adjust, bayes_masses, bayes_summary,
    bootstrap_with, critical_difference, dolan_more, expected_running_time, friedman,
    hitting_times, improvement_replicates, kaplan_meier, learning_curve_with, mann_whitney,
    nemenyi_bars, nemenyi_p, nemenyi_q, overtuning, pairwise_wilcoxon, penalised,
    performance_profile_with, prob_improvement_with, range_sf, rank_order, replicates,
    runtime_ecdf, selection_gap, single_best, variance_decomposition, wilcoxon_with,
};
use golden::{Case, Tolerance};
use ndarray::{Array1, Array2, ArrayD};

#[test]
fn golden() -> Result<()> {
    golden::suite!()?
        .group("ablation", check_ablation)
        .group("aggregate", check_aggregate)
        .group("bayes_signed_rank", check_bayes)
        .group("bootstrap", check_bootstrap)
        .group("dolan_more", check_dolan_more)
        .group("ecdf", check_ecdf)
        .group("ert", check_ert)
        .group("friedman", check_friedman)
        .group("kaplan_meier", check_kaplan_meier)
        .group("learning_curve", check_learning_curve)
        .group("mann_whitney", check_mann_whitney)
        .group("multitest", check_multitest)
        .group("nemenyi_q", check_nemenyi_q)
        .group("overtuning", check_overtuning)
        .group("par", check_par)
        .group("performance_profile", check_profile)
        .group("prob_improvement", check_improvement)
        .group("studentized_range", check_studentized_range)
        .group("variance_decomposition", check_variance)
        .group("vbs", check_vbs)
        .group("wilcoxon", check_wilcoxon)
        .run()
}

fn list(case: &Case, name: &str) -> Result<Vec<f64>> {
    Ok(case.f64(name)?.iter().copied().collect())
}

fn ints(case: &Case, name: &str) -> Result<Vec<i64>> {
    Ok(case.i64(name)?.iter().copied().collect())
}

fn matrix(case: &Case, name: &str) -> Result<Matrix> {
    let shape = case.shape(name)?.to_vec();
    ensure!(shape.len() == 2, "{name} is no matrix");
    Ok(Matrix::new(shape[0], shape[1], list(case, name)?)?)
}

fn scores(case: &Case, name: &str) -> Result<Scores> {
    let shape = case.shape(name)?.to_vec();
    ensure!(shape.len() == 2, "{name} is no matrix");
    Ok(Scores::from_rows(shape[0], shape[1], &list(case, name)?)?)
}

/// `[B, R, T]`, or `[B, R]` for one task.
fn indices(case: &Case, name: &str) -> Result<Indices> {
    let shape = case.shape(name)?.to_vec();
    let tasks = shape.get(2).copied().unwrap_or(1);
    Ok(Indices::from_rows(shape[0], shape[1], tasks, &ints(case, name)?)?)
}

fn rows(nested: &[Vec<f64>]) -> Array2<f64> {
    let cols = nested.first().map_or(0, Vec::len);
    Array2::from_shape_fn((nested.len(), cols), |(i, j)| nested[i][j])
}

fn or_nan(values: &[Option<f64>]) -> Vec<f64> {
    values.iter().map(|v| v.unwrap_or(f64::NAN)).collect()
}

fn columns(p: &PValues) -> [f64; 3] {
    [p.two_sided, p.less, p.greater]
}

/// NaN-padded rows without their padding.
fn unpadded(array: &ArrayD<f64>) -> Vec<Vec<f64>> {
    array.outer_iter().map(|row| row.iter().copied().filter(|v| !v.is_nan()).collect()).collect()
}

fn whole(values: &[usize]) -> Array1<i64> {
    values.iter().map(|&v| v as i64).collect()
}

fn check_wilcoxon(case: &Case) -> Result<()> {
    let (x, y, tol) = (list(case, "x")?, list(case, "y")?, case.tolerance()?);
    let (mut n_eff, mut r_plus, mut r_minus, mut z) = (vec![], vec![], vec![], vec![]);
    let mut p = [Vec::new(), Vec::new(), Vec::new()];
    let methods = [PMethod::Exact, PMethod::Normal, PMethod::NormalContinuity];
    for zeros in [ZeroMethod::Wilcox, ZeroMethod::Pratt, ZeroMethod::Zsplit] {
        for (rows, method) in p.iter_mut().zip(methods) {
            let options = WilcoxonOptions { zeros, method, round_digits: None };
            let w = wilcoxon_with(&x, &y, &options)?;
            rows.extend(columns(&w.p));
            if method == PMethod::Exact {
                n_eff.push(w.n_eff);
                r_plus.push(w.r_plus);
                r_minus.push(w.r_minus);
                z.push(w.z.unwrap_or(f64::NAN));
            }
        }
    }
    case.check_i64("n_eff", &whole(&n_eff));
    case.check_flat("r_plus", &r_plus, tol);
    case.check_flat("r_minus", &r_minus, tol);
    case.check_flat("z", &z, tol);
    case.check_flat("p_exact", &p[0], tol);
    case.check_flat("p_asymptotic", &p[1], tol);
    case.check_flat("p_asymptotic_cc", &p[2], tol);
    Ok(())
}

fn check_mann_whitney(case: &Case) -> Result<()> {
    let (x, y, tol) = (list(case, "x")?, list(case, "y")?, case.tolerance()?);
    let exact = mann_whitney(&x, &y, PMethod::Exact)?;
    let normal = mann_whitney(&x, &y, PMethod::Normal)?;
    let continuity = mann_whitney(&x, &y, PMethod::NormalContinuity)?;
    case.check_scalar("u", exact.u, tol);
    case.check_scalar("a12", exact.a12, tol);
    case.check_scalar("cliff", exact.cliff, tol);
    let class = match exact.magnitude {
        Magnitude::Negligible => 0,
        Magnitude::Small => 1,
        Magnitude::Medium => 2,
        Magnitude::Large => 3,
    };
    case.check_i64("magnitude", &ndarray::arr1(&[class]));
    case.check_flat("p_exact", &columns(&exact.p), tol);
    case.check_flat("p_asymptotic", &columns(&normal.p), tol);
    case.check_flat("p_asymptotic_cc", &columns(&continuity.p), tol);
    Ok(())
}

fn check_friedman(case: &Case) -> Result<()> {
    let (blocks, tol) = (matrix(case, "scores")?, case.tolerance()?);
    let higher_is_better: bool = case.param("higher_is_better")?;
    let f = friedman(&blocks, &FriedmanOptions { higher_is_better, ..Default::default() })?;
    case.check_flat("mean_ranks", &f.mean_ranks, tol);
    case.check_scalar("chi2", f.chi2, tol);
    case.check_scalar("chi2_uncorrected", f.chi2_uncorrected, tol);
    case.check_scalar("p_chi2", f.p_chi2, tol);
    case.check_scalar("f", f.f, tol);
    case.check_scalar("p_f", f.p_f, tol);
    case.check_scalar("kendall_w", f.kendall_w, tol);
    case.check("nemenyi_p", &rows(&nemenyi_p(&f.mean_ranks, f.n)?), tol);
    let cd = [0.05, 0.10, 0.01].map(|alpha| critical_difference(f.k, f.n, alpha));
    let cd: Vec<f64> = cd.into_iter().collect::<Result<_, _>>()?;
    case.check_flat("cd", &cd, tol);
    case.check_i64("order", &whole(&rank_order(&f.mean_ranks)));
    let bars = nemenyi_bars(&f.mean_ranks, cd[0])?;
    let flat = bars.iter().flat_map(|b| [b.first as i64, b.last as i64]).collect();
    case.check_i64("groups", &Array2::from_shape_vec((bars.len(), 2), flat)?);
    let pairs = pairwise_wilcoxon(&blocks, &WilcoxonOptions::default(), Correction::Holm)?;
    case.check("wilcoxon_p", &rows(&pairs.raw), tol);
    case.check("holm_p", &rows(&pairs.adjusted), tol);
    Ok(())
}

fn check_nemenyi_q(case: &Case) -> Result<()> {
    let (k, alpha) = (ints(case, "k")?, list(case, "alpha")?);
    let mut q = Vec::new();
    for &alpha in &alpha {
        for &k in &k {
            q.push(nemenyi_q(usize::try_from(k)?, alpha)?);
        }
    }
    case.check_flat("q", &q, case.tolerance()?);
    Ok(())
}

fn check_studentized_range(case: &Case) -> Result<()> {
    let mut sf = Vec::new();
    for &k in &ints(case, "k")? {
        for &q in &list(case, "q")? {
            sf.push(range_sf(q, usize::try_from(k)?)?);
        }
    }
    case.check_flat("sf", &sf, case.tolerance()?);
    Ok(())
}

fn check_multitest(case: &Case) -> Result<()> {
    let (p, tol) = (list(case, "p")?, case.tolerance()?);
    let alpha: f64 = case.param("alpha")?;
    let holm = adjust(&p, Correction::Holm)?;
    case.check_flat("holm", &holm, tol);
    case.check_flat("hochberg", &adjust(&p, Correction::Hochberg)?, tol);
    case.check_flat("bh", &adjust(&p, Correction::BenjaminiHochberg)?, tol);
    case.check_flat("bonferroni", &adjust(&p, Correction::Bonferroni)?, tol);
    let reject: Array1<i64> = holm.iter().map(|&a| i64::from(a <= alpha)).collect();
    case.check_i64("reject_holm", &reject);
    Ok(())
}

fn check_aggregate(case: &Case) -> Result<()> {
    let (s, tol) = (scores(case, "scores")?, case.tolerance()?);
    case.check_scalar("mean", Aggregate::Mean.of(&s), tol);
    case.check_scalar("median", Aggregate::Median.of(&s), tol);
    case.check_scalar("iqm", Aggregate::Iqm.of(&s), tol);
    case.check_scalar("optimality_gap", Aggregate::OptimalityGap { gamma: 1.0 }.of(&s), tol);
    Ok(())
}

fn check_bootstrap(case: &Case) -> Result<()> {
    let (s, idx, tol) = (scores(case, "scores")?, indices(case, "indices")?, case.tolerance()?);
    let level = case.scalar("level")?;
    let names: Vec<String> = case.param("aggregates")?;
    let draws = Resampling::Given(&idx);
    for name in names {
        let aggregate = match name.as_str() {
            "mean" => Aggregate::Mean,
            "median" => Aggregate::Median,
            "iqm" => Aggregate::Iqm,
            "optimality_gap" => Aggregate::OptimalityGap { gamma: 1.0 },
            other => bail!("unknown aggregate {other}"),
        };
        case.check_scalar(&format!("{name}_point"), aggregate.of(&s), tol);
        case.check_flat(&format!("{name}_boot"), &replicates(&s, &aggregate, &draws)?, tol);
        let of = |method| bootstrap_with(&s, &aggregate, &draws, level, method);
        let percentile = of(IntervalMethod::Percentile)?;
        let basic = of(IntervalMethod::Basic)?;
        let bca = of(IntervalMethod::Bca)?;
        case.check_flat(&format!("{name}_percentile"), &[percentile.lo, percentile.hi], tol);
        case.check_flat(&format!("{name}_basic"), &[basic.lo, basic.hi], tol);
        case.check_flat(&format!("{name}_bca"), &[bca.lo, bca.hi], tol);
        let fallback = bca.has(IntervalFlag::FallbackPercentile);
        let flag = format!("{name}_bca_fallback");
        case.check_i64(&flag, &ndarray::arr1(&[i64::from(fallback)]));
        if let Some(terms) = bca.bca {
            case.check_flat(&format!("{name}_bca_z0_a"), &[terms.z0, terms.a], tol);
        }
    }
    Ok(())
}

fn check_profile(case: &Case) -> Result<()> {
    let (s, idx, tol) = (scores(case, "scores")?, indices(case, "indices")?, case.tolerance()?);
    let taus = list(case, "taus")?;
    let p = performance_profile_with(&s, &taus, &Resampling::Given(&idx), 0.95)?;
    case.check_flat("run_profile", &p.run_share, tol);
    case.check_flat("mean_profile", &p.task_share, tol);
    case.check_flat("band", &[p.lo, p.hi].concat(), tol);
    Ok(())
}

fn check_dolan_more(case: &Case) -> Result<()> {
    let tol = case.tolerance()?;
    let d = dolan_more(&matrix(case, "costs")?, &list(case, "taus")?)?;
    case.check("ratio", &rows(&d.ratio), tol);
    case.check("rho", &rows(&d.rho), tol);
    Ok(())
}

fn check_improvement(case: &Case) -> Result<()> {
    let (x, y, tol) = (scores(case, "x")?, scores(case, "y")?, case.tolerance()?);
    let (ix, iy) = (indices(case, "indices_x")?, indices(case, "indices_y")?);
    let (dx, dy) = (Resampling::Given(&ix), Resampling::Given(&iy));
    let poi = prob_improvement_with(&x, &y, &dx, &dy, &BootstrapOptions::default())?;
    case.check_flat("per_task", &poi.per_task, tol);
    case.check_scalar("poi", poi.interval.point, tol);
    case.check_flat("boot", &improvement_replicates(&x, &y, &dx, &dy)?, tol);
    case.check_flat("ci", &[poi.interval.lo, poi.interval.hi], tol);
    Ok(())
}

fn check_ert(case: &Case) -> Result<()> {
    let tol = case.tolerance()?;
    let t = expected_running_time(&list(case, "hit")?, &list(case, "budget")?)?;
    case.check_scalar("ert", t.ert, tol);
    case.check_scalar("sp1", t.sp1, tol);
    case.check_scalar("success_rate", t.success_rate, tol);
    Ok(())
}

fn check_par(case: &Case) -> Result<()> {
    let tol = case.tolerance()?;
    let ends = ints(case, "status")?
        .into_iter()
        .map(|s| match s {
            0 => Ok(RunEnd::Ok),
            1 => Ok(RunEnd::Timeout),
            2 => Ok(RunEnd::Memout),
            3 => Ok(RunEnd::Crash),
            other => bail!("unknown status {other}"),
        })
        .collect::<Result<Vec<_>>>()?;
    let p = penalised(&list(case, "time")?, &ends, case.scalar("cutoff")?)?;
    case.check_scalar("par1", p.par1, tol);
    case.check_scalar("par2", p.par2, tol);
    case.check_scalar("par10", p.par10, tol);
    case.check_i64("solved", &whole(&[p.solved]));
    Ok(())
}

fn check_ecdf(case: &Case) -> Result<()> {
    let tol = case.tolerance()?;
    let (evals, values) = (unpadded(&case.f64("evals")?), unpadded(&case.f64("values")?));
    let hits = hitting_times(&evals, &values, &list(case, "targets")?)?;
    case.check("hit", &rows(&hits), tol);
    let spent = evals.iter().map(|run| run.last().copied().context("an empty run"));
    let spent = spent.collect::<Result<Vec<_>>>()?;
    let e = runtime_ecdf(&hits, &spent, &list(case, "grid")?)?;
    case.check_flat("ecdf", &e.share, tol);
    case.check_scalar("auc", e.auc, tol);
    case.check_flat("ert", &e.ert, tol);
    Ok(())
}

fn check_kaplan_meier(case: &Case) -> Result<()> {
    let tol = case.tolerance()?;
    let event: Vec<bool> = case.bool("event")?.iter().copied().collect();
    let k = kaplan_meier(&list(case, "time")?, &event, case.scalar("tau")?)?;
    case.check_flat("times", &k.times, tol);
    case.check_flat("surv", &k.surv, tol);
    case.check_scalar("rmst", k.rmst, tol);
    case.check_scalar("median", k.median, tol);
    Ok(())
}

fn check_bayes(case: &Case) -> Result<()> {
    let tol = case.tolerance()?;
    let weights: Vec<Vec<f64>> =
        case.f64("weights")?.outer_iter().map(|row| row.iter().copied().collect()).collect();
    let rope = case.scalar("rope")?;
    let samples = bayes_masses(&list(case, "x")?, &list(case, "y")?, rope, &weights)?;
    case.check_flat("samples", &samples.concat(), tol);
    let summary = bayes_summary(&samples, rope)?;
    case.check_flat("probs", &summary.probs, tol);
    case.check_flat("mean_samples", &summary.mean_mass, tol);
    Ok(())
}

fn check_overtuning(case: &Case) -> Result<()> {
    let tol = case.tolerance()?;
    let o = overtuning(&list(case, "val")?, &list(case, "test")?)?;
    case.check_i64("incumbent", &whole(&o.incumbent));
    case.check_flat("test_incumbent", &o.test_incumbent, tol);
    case.check_flat("ot", &o.ot, tol);
    case.check_flat("relative", &or_nan(&o.relative), tol);
    case.check_flat("regret", &o.regret, tol);
    case.check_flat("meta_overfit", &o.meta_overfit, tol);
    Ok(())
}

fn check_vbs(case: &Case) -> Result<()> {
    let (costs, tol) = (matrix(case, "costs")?, case.tolerance()?);
    let selected: Vec<usize> = case.usize("selected")?.iter().copied().collect();
    let gap = selection_gap(&costs, &selected, single_best(&costs)?)?;
    case.check_i64("sbs", &whole(&[gap.sbs]));
    case.check_scalar("sbs_cost", gap.sbs_cost, tol);
    case.check_scalar("vbs_cost", gap.vbs_cost, tol);
    case.check_scalar("selector_cost", gap.selector_cost, tol);
    case.check_scalar("gap", gap.gap.unwrap_or(f64::NAN), tol);
    case.check_flat("marginal", &gap.marginal.context("one solver")?, tol);
    Ok(())
}

fn check_variance(case: &Case) -> Result<()> {
    let (y, tol) = (case.f64("y")?, case.tolerance()?);
    let (levels, replicates) = y.shape().split_at(y.ndim() - 1);
    let v = variance_decomposition(levels, replicates[0], &list(case, "y")?)?;
    let wanted: Vec<Vec<usize>> = case.param("effects")?;
    let listed: Vec<Vec<usize>> = v.effects.iter().map(|e| e.factors.clone()).collect();
    case.ensure(wanted == listed, || format!("effects {listed:?}, expected {wanted:?}"));
    let of =
        |f: fn(&experiments::stats::Effect) -> f64| v.effects.iter().map(f).collect::<Vec<_>>();
    case.check_flat("ss", &of(|e| e.ss), tol);
    case.check_i64("df", &whole(&v.effects.iter().map(|e| e.df).collect::<Vec<_>>()));
    case.check_flat("fraction", &of(|e| e.fraction), tol);
    case.check_flat("omega2", &of(|e| e.omega2.unwrap_or(f64::NAN)), tol);
    case.check_scalar("residual", v.residual, tol);
    if case.has("residual_fraction") {
        // Without replicates the residual is 0 of the total, which the library calls absent.
        case.check_scalar("residual_fraction", v.residual_fraction.unwrap_or(0.0), tol);
    }
    case.check_scalar("total", v.total, tol);
    Ok(())
}

fn check_ablation(case: &Case) -> Result<()> {
    let tol = case.tolerance()?;
    let a = ablation(&list(case, "cost")?)?;
    case.check_i64("order", &whole(&a.order));
    case.check_flat("path_cost", &a.path_cost, tol);
    case.check_flat("loo", &a.leave_one_out, tol);
    Ok(())
}

fn check_learning_curve(case: &Case) -> Result<()> {
    let tol: Tolerance = case.tolerance()?;
    let (steps, values) = (unpadded(&case.f64("steps")?), unpadded(&case.f64("values")?));
    let runs: Vec<Trajectory> = steps
        .into_iter()
        .zip(values)
        .map(|(steps, values)| Trajectory { steps, values, finished: true })
        .collect();
    let idx = indices(case, "indices")?;
    let draws = Resampling::Given(&idx);
    let grid = list(case, "grid")?;
    let c = learning_curve_with(&runs, &grid, StoppedRule::Exclude, &draws, 0.95)?;
    case.check_flat("resampled", &or_nan(&c.resampled.concat()), tol);
    case.check_i64("count", &whole(&c.count));
    case.check_flat("mean", &or_nan(&c.mean), tol);
    case.check_flat("iqm", &or_nan(&c.iqm), tol);
    case.check_flat("band", &or_nan(&[c.lo, c.hi].concat()), tol);
    case.check_flat("auc", &or_nan(&c.auc), tol);
    Ok(())
}
