//! One figure of each kind with plausible, made-up numbers.

use experiments::figures::{
    AblationPath, AblationStep, Cost, CostPanel, CostProfile, CriticalDifference, Curve,
    CurvePanel, CurvePoint, Curves, DolanMore, Draw, Ecdf, EcdfCurve, ErtTable, Estimate, Figure,
    Head, Importance, ImportanceBar, Improvement, ImprovementRow, IntervalPanel, Intervals,
    Overtuning, PairMatrix, Paired, PairedPanel, PairedRun, Palette, Profile, ProfileCurve,
    Provenance, RankMap, RankTest, RankedMethod, Reference, Result, ScaleKind, Sparkline,
    TunedMethod, Width,
};

/// Methods of the made-up study, in spec order.
pub(crate) const METHODS: [&str; 4] = ["scored", "random", "fixed-final-size", "net2net"];

/// Deterministic noise in -0.5..0.5 without a generator: the fractional part of a sine.
pub(crate) fn noise(i: usize, j: usize) -> f64 {
    let v = ((i * 127 + j * 311) as f64 * 12.9898).sin() * 43758.5453;
    v - v.floor() - 0.5
}

/// A head with full provenance.
pub(crate) fn head(name: &str, title: &str) -> Head {
    Head::new(name, title).with_provenance(Provenance {
        command: format!("exp figures growth-spiral --only {name}"),
        seed: Some(20_260_101),
        interval_method: "95% percentile bootstrap over runs, 10000 resamples".to_owned(),
        input_hash: None,
    })
}

pub(crate) fn names(n: usize) -> Vec<String> {
    (0..n)
        .map(|i| METHODS.get(i).map_or_else(|| format!("method-{}", i + 1), |m| (*m).to_owned()))
        .collect()
}

/// An estimate around `centre`.
pub(crate) fn around(centre: f64, half: f64, n: usize) -> Estimate {
    Estimate::new(centre, [centre - half, centre + half * 1.15], n)
}

/// Every kind once.
pub(crate) fn all() -> Result<Vec<Figure>> {
    let methods = names(4);
    let palette = Palette::for_methods(&methods);
    Ok(vec![
        intervals(&methods).draw(&palette)?,
        profile(&methods).draw(&palette)?,
        cd_nemenyi().draw(&Palette::for_methods(&names(7)))?,
        cd_wilcoxon().draw(&Palette::for_methods(&names(7)))?,
        curves(&methods, 3).draw(&palette)?,
        ecdf(&methods).draw(&palette)?,
        improvement().draw(&palette)?,
        dolan_more(&methods).draw(&palette)?,
        ablation().draw(&palette)?,
        importance().draw(&palette)?,
        paired(true).draw(&palette)?,
        paired(false).draw(&palette)?,
        overtuning().draw(&palette)?,
        matrix(&names(6)).draw(&Palette::for_methods(&names(6)))?,
        ranks(&names(6), 9).draw(&Palette::for_methods(&names(6)))?,
        cost(&methods).draw(&palette)?,
        sparkline().draw(&palette)?,
    ])
}

pub(crate) fn intervals(methods: &[String]) -> Intervals {
    let panel = |label: &str, shift: f64| {
        let rows = (0..methods.len())
            .map(|i| Some(around(0.11 + 0.012 * i as f64 + shift + 0.004 * noise(i, 1), 0.006, 40)))
            .collect();
        let mut panel = IntervalPanel::new(label, rows);
        "test error (lower is better)".clone_into(&mut panel.axis);
        panel
    };
    let mut panels = vec![panel("IQM", 0.0), panel("Median", 0.002), panel("Mean", 0.01)];
    panels[0].references.push(Reference { label: "paper".to_owned(), value: 0.115 });
    Intervals {
        head: head("intervals", "Test error after growth, by aggregate"),
        methods: methods.to_vec(),
        runs: 10,
        tasks: 4,
        panels,
    }
}

pub(crate) fn profile(methods: &[String]) -> Profile {
    let curves = methods
        .iter()
        .enumerate()
        .map(|(i, m)| {
            let tau: Vec<f64> = (0..=60).map(|t| 0.5 + f64::from(t) / 120.0).collect();
            let middle = 0.86 - 0.05 * i as f64;
            let share: Vec<f64> = tau
                .iter()
                .map(|t| (40.0 / (1.0 + ((t - middle) * 28.0).exp())).round() / 40.0)
                .collect();
            let band =
                share.iter().map(|s| [(s - 0.07).max(0.0), (s + 0.07_f64).min(1.0)]).collect();
            ProfileCurve { method: m.clone(), tau, share, band }
        })
        .collect();
    Profile {
        head: head("profile", "Performance profile").with_width(Width::Column),
        runs: 10,
        tasks: 4,
        x_label: "accuracy threshold τ".to_owned(),
        y_label: "share of runs with accuracy > τ".to_owned(),
        curves,
    }
}

fn ranked(ranks: &[f64]) -> Vec<RankedMethod> {
    names(ranks.len())
        .into_iter()
        .zip(ranks)
        .map(|(name, &mean_rank)| RankedMethod { name, mean_rank })
        .collect()
}

fn group(all: &[RankedMethod], members: &[usize]) -> Vec<String> {
    members.iter().map(|&i| all[i].name.clone()).collect()
}

pub(crate) fn cd_nemenyi() -> CriticalDifference {
    let methods = ranked(&[1.9, 2.4, 3.2, 4.1, 4.4, 5.5, 6.5]);
    let groups = [&[0, 1, 2, 3][..], &[2, 3, 4, 5], &[4, 5, 6]];
    CriticalDifference {
        head: head("cd", "Mean ranks of test error"),
        groups: groups.iter().map(|g| group(&methods, g)).collect(),
        methods,
        tasks: 14,
        test: RankTest::Nemenyi { cd: 2.407 },
        friedman_p: 3e-6,
        alpha: 0.05,
        uncovered: Vec::new(),
        best_right: false,
    }
}

pub(crate) fn cd_wilcoxon() -> CriticalDifference {
    let mut d = cd_nemenyi();
    d.head = head("cd-wilcoxon", "Mean ranks of test error").with_width(Width::Column);
    d.test = RankTest::WilcoxonHolm;
    d.groups = vec![group(&d.methods, &[0, 1]), group(&d.methods, &[3, 4])];
    d.uncovered = vec![[d.methods[2].name.clone(), d.methods[5].name.clone()]];
    d
}

pub(crate) fn curve(i: usize, task: usize, x: impl Fn(usize) -> f64, n: usize) -> Vec<CurvePoint> {
    (0..40)
        .map(|t| {
            let s = t as f64 / 39.0;
            let value = 0.08
                + 0.02 * i as f64
                + 0.5 * (-4.0 * s - 0.3 * i as f64).exp()
                + 0.008 * noise(t + task, i);
            CurvePoint { budget: x(t), value: around(value, 0.012 + 0.05 * (1.0 - s) / 3.0, n) }
        })
        .collect()
}

pub(crate) fn curves(methods: &[String], panels: usize) -> Curves {
    let tasks = ["spiral", "digits", "two-moons", "parity"];
    let panel = |p: usize| CurvePanel {
        title: tasks[p % 4].to_owned(),
        curves: methods
            .iter()
            .enumerate()
            .map(|(i, m)| {
                let mut points = curve(i, p, |t| (t + 1) as f64 * 2.5e8, 10);
                if i == 1 {
                    for point in &mut points[30..] {
                        point.value.n = 8;
                    }
                }
                let failed = if i == 1 { vec![[6.1e9, 0.16], [7.3e9, 0.14]] } else { Vec::new() };
                Curve { method: m.clone(), points, failed }
            })
            .collect(),
    };
    Curves {
        head: head("curves", "Validation error over the training budget"),
        x_label: "training FLOPs".to_owned(),
        x_scale: ScaleKind::Linear,
        y_label: "validation error".to_owned(),
        y_scale: ScaleKind::Linear,
        centre: "IQM over runs, last value carried forward".to_owned(),
        panels: (0..panels).map(panel).collect(),
    }
}

pub(crate) fn ecdf(methods: &[String]) -> Ecdf {
    let curves = methods
        .iter()
        .enumerate()
        .map(|(i, m)| {
            let jumps = 22 - 3 * i;
            EcdfCurve {
                method: m.clone(),
                budget: (0..jumps)
                    .map(|j| 10f64.powf(1.0 + 0.3 * i as f64 + 0.12 * j as f64))
                    .collect(),
                share: (0..jumps).map(|j| (j + 1) as f64 / 24.0).collect(),
                band: Vec::new(),
                censored_from: Some(10f64.powf(3.2 - 0.15 * i as f64)),
            }
        })
        .collect();
    Ecdf {
        head: head("ecdf", "Budget to reach the targets"),
        runs: 10,
        targets: 12,
        x_label: "evaluations".to_owned(),
        curves,
        ert: Some(ErtTable {
            targets: ["error ≤ 0.3", "error ≤ 0.2", "error ≤ 0.1", "error ≤ 0.05"]
                .map(str::to_owned)
                .to_vec(),
            values: (0..methods.len())
                .map(|i| {
                    (0..4)
                        .map(|t| {
                            (i + t < 5)
                                .then(|| 40.0 * 3.4f64.powi(t as i32) * (1.0 + 0.4 * i as f64))
                        })
                        .collect()
                })
                .collect(),
        }),
    }
}

pub(crate) fn improvement() -> Improvement {
    let row = |a: usize, b: usize, p: f64, h: f64| ImprovementRow {
        first: METHODS[a].to_owned(),
        second: METHODS[b].to_owned(),
        probability: Estimate::new(p, [p - h, (p + h).min(1.0)], 40),
    };
    Improvement {
        head: head("poi", "Probability of improvement").with_width(Width::Column),
        runs: 10,
        tasks: 4,
        rows: vec![
            row(0, 1, 0.78, 0.07),
            row(0, 2, 0.91, 0.05),
            row(0, 3, 0.55, 0.09),
            row(3, 1, 0.44, 0.1),
        ],
    }
}

pub(crate) fn dolan_more(methods: &[String]) -> DolanMore {
    let curves = methods
        .iter()
        .enumerate()
        .map(|(i, m)| {
            let n = 20 - 3 * i;
            CostProfile {
                method: m.clone(),
                tau: (0..n)
                    .map(|j| {
                        1.0 + (j as f64 * 0.35).powf(1.6) * (0.3 + 0.2 * i as f64) + 0.2 * i as f64
                    })
                    .collect(),
                share: (0..n).map(|j| (j + 4 - i.min(3)) as f64 / 24.0).collect(),
            }
        })
        .collect();
    DolanMore {
        head: head("dolan-more", "Cost profiles over problems"),
        problems: 24,
        cost: "wall time (s)".to_owned(),
        curves,
    }
}

pub(crate) fn ablation() -> AblationPath {
    let steps = [
        ("source", 0.171),
        ("init = scored", 0.139),
        ("carry = on", 0.122),
        ("schedule = cosine", 0.119),
        ("warm-up = 200 steps", 0.124),
        ("target", 0.118),
    ];
    AblationPath {
        head: head("ablation", "From plain growth to the proposed method"),
        y_label: "test error (lower is better)".to_owned(),
        steps: steps
            .iter()
            .map(|(label, v)| AblationStep {
                label: (*label).to_owned(),
                value: around(*v, 0.006, 10),
            })
            .collect(),
    }
}

pub(crate) fn importance() -> Importance {
    let bar = |label: &str, shares: [f64; 4], seed_noise: f64| ImportanceBar {
        label: label.to_owned(),
        shares: shares.to_vec(),
        seed_noise,
        n: 240,
    };
    Importance {
        head: head("importance", "What explains the variance of test error"),
        components: ["method", "task", "final width", "method × task"].map(str::to_owned).to_vec(),
        bars: vec![
            bar("test error", [0.21, 0.48, 0.06, 0.11], 0.14),
            bar("wall time", [0.32, 0.09, 0.47, 0.04], 0.08),
            bar("forgetting", [0.07, 0.31, 0.02, 0.12], 0.48),
        ],
    }
}

pub(crate) fn paired(join: bool) -> Paired {
    let (count, name, title) = if join {
        (2, "paired", "Each run, same seed joined")
    } else {
        (4, "strip", "Each run by task")
    };
    let panel = |t: usize| PairedPanel {
        title: ["spiral", "digits", "two-moons", "parity"][t].to_owned(),
        runs: (0..12)
            .map(|r| PairedRun {
                rep: r as u64,
                values: (0..count)
                    .map(|m| {
                        let failed = m == 1 && t == 2 && r == 5;
                        let v = 0.12
                            + 0.03 * t as f64
                            + 0.013 * m as f64
                            + 0.03 * noise(r, t)
                            + 0.008 * noise(r + 40, m + t);
                        (!failed).then_some(v)
                    })
                    .collect(),
            })
            .collect(),
    };
    Paired {
        head: head(name, title),
        methods: names(count),
        y_label: "test error (lower is better)".to_owned(),
        scale: ScaleKind::Linear,
        join,
        panels: (0..4).map(panel).collect(),
    }
}

pub(crate) fn overtuning() -> Overtuning {
    let methods = (0..2)
        .map(|i| TunedMethod {
            method: METHODS[i].to_owned(),
            validation: curve(i, 0, |t| (t * 4 + 1) as f64, 12),
            test: curve(i, 3, |t| (t * 4 + 1) as f64, 12)
                .into_iter()
                .map(|mut p| {
                    p.value = around(p.value.point + 0.03 + p.budget * 2e-4, 0.02, 12);
                    p
                })
                .collect(),
            relative: (0..20)
                .map(|r| {
                    if r < 11 {
                        0.0
                    } else {
                        0.06 * f64::from(r - 10).powf(1.4) * (1.0 + i as f64 * 0.4)
                    }
                })
                .collect(),
            excluded: 3 + i,
        })
        .collect();
    Overtuning {
        head: head("overtuning", "Validation and test error while tuning"),
        x_label: "configurations evaluated".to_owned(),
        y_label: "error".to_owned(),
        methods,
    }
}

pub(crate) fn matrix(methods: &[String]) -> PairMatrix {
    let k = methods.len();
    let mut p = vec![vec![1.0; k]; k];
    let mut a12 = vec![vec![0.5; k]; k];
    for i in 0..k {
        for j in i + 1..k {
            let v = (0.35 * 0.22f64.powi((j - i) as i32) * (1.0 + noise(i, j))).min(1.0);
            (p[i][j], p[j][i]) = (v, v);
            let a = (0.5 + 0.11 * (j - i) as f64 + 0.1 * noise(j, i)).min(0.99);
            (a12[i][j], a12[j][i]) = (a, 1.0 - a);
        }
    }
    PairMatrix {
        head: head("matrix", "Pairwise tests and effect sizes"),
        methods: methods.to_vec(),
        correction: "Holm".to_owned(),
        n: 14,
        p,
        a12,
    }
}

pub(crate) fn ranks(methods: &[String], tasks: usize) -> RankMap {
    let k = methods.len();
    let columns: Vec<Vec<f64>> = (0..tasks)
        .map(|t| {
            let score: Vec<f64> = (0..k).map(|m| m as f64 + 3.0 * noise(t, m)).collect();
            (0..k).map(|m| 1.0 + score.iter().filter(|&&s| s < score[m]).count() as f64).collect()
        })
        .collect();
    RankMap {
        head: head("ranks", "Rank of mean test error, by task"),
        methods: methods.to_vec(),
        tasks: (0..tasks).map(|t| format!("task {}", t + 1)).collect(),
        runs: 10,
        ranks: (0..k).map(|m| (0..tasks).map(|t| Some(columns[t][m])).collect()).collect(),
    }
}

pub(crate) fn cost(methods: &[String]) -> Cost {
    let panel = |label: &str, unit: &str, base: f64, log: bool| CostPanel {
        label: label.to_owned(),
        unit: unit.to_owned(),
        log,
        rows: (0..methods.len())
            .map(|i| {
                let v = base * (1.0 + 0.6 * i as f64);
                (!(unit == "J" && i == 2)).then(|| around(v, 0.08 * v, 40))
            })
            .collect(),
    };
    Cost {
        head: head("cost", "What a trial costs"),
        methods: methods.to_vec(),
        panels: vec![
            panel("Wall time", "s", 42.0, false),
            panel("CPU time", "s", 77.0, true),
            panel("Energy", "J", 1830.0, false),
        ],
    }
}

pub(crate) fn sparkline() -> Sparkline {
    let points = (0..30)
        .map(|t| {
            (
                f64::from(t),
                around(
                    0.1 + 0.4 * (-f64::from(t) / 8.0).exp() + 0.01 * noise(t as usize, 3),
                    0.02,
                    10,
                ),
            )
        })
        .collect();
    Sparkline { head: head("sparkline", "test error, scored growth"), points, unit: String::new() }
}
