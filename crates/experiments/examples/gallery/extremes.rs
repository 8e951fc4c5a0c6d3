//! The same kinds with inputs that break layouts: one or many methods, long names, ties, equal,
//! huge and negative values.

use crate::samples::{
    ablation, around, cost, curves, dolan_more, ecdf, head, importance, improvement, intervals,
    matrix, names, noise, overtuning, paired, profile, ranks, sparkline,
};
use experiments::figures::{
    AblationStep, CostProfile, CriticalDifference, CurvePoint, Draw, Estimate, Figure, Head,
    ImportanceBar, Palette, RankTest, RankedMethod, Result, ScaleKind, Width,
};

fn long_names(n: usize) -> Vec<String> {
    (0..n)
        .map(|i| match i % 4 {
            0 => {
                format!("gradient-scored growth with carried AdamW moments and warm restarts v{i}")
            }
            1 => format!("baseline_random_growth_without_any_scoring_{i}"),
            2 => format!("Donaudampfschifffahrtselektrizitaetenhauptbetriebswerk{i}"),
            _ => format!("m{i}"),
        })
        .collect()
}

fn many(n: usize) -> Vec<RankedMethod> {
    // Mean ranks 1.6 .. n - 0.6 with one tie, summing to n(n+1)/2 by symmetry.
    let middle = f64::midpoint(n as f64, 1.0);
    long_names(n)
        .into_iter()
        .enumerate()
        .map(|(i, name)| {
            let offset = (i as f64 + 1.0 - middle) * 0.85;
            let tied = i + 1 == n / 2 || i == n / 2;
            RankedMethod { name, mean_rank: middle + if tied { 0.0 } else { offset } }
        })
        .collect()
}

/// All extreme figures.
pub(crate) fn all() -> Result<Vec<Figure>> {
    let mut out = one_method()?;
    out.extend(many_methods()?);
    out.extend(values()?);
    out.extend(scales_and_ties()?);
    Ok(out)
}

fn renamed(mut head: Head, name: &str) -> Head {
    name.clone_into(&mut head.name);
    head
}

fn one_method() -> Result<Vec<Figure>> {
    let one = vec!["a&b <lone>".to_owned()];
    let palette = Palette::for_methods(&one);
    let mut a = intervals(&one);
    a.head = renamed(a.head, "x-intervals-one");
    a.runs = 1;
    a.panels.truncate(1);
    a.panels[0].rows = vec![Some(Estimate::single(0.3))];
    let mut b = curves(&one, 1);
    b.head = renamed(b.head, "x-curves-one").with_width(Width::Column);
    b.panels[0].curves[0].points.truncate(1);
    b.panels[0].curves[0].points[0].value = Estimate::single(3.0);
    let mut c = ecdf(&one);
    c.head = renamed(c.head, "x-ecdf-one").with_width(Width::Column);
    c.curves[0].budget = vec![1.0];
    c.curves[0].share = vec![1.0];
    c.curves[0].censored_from = None;
    let mut d = ranks(&one, 2);
    d.head = renamed(d.head, "x-ranks-one").with_width(Width::Column);
    let mut e = sparkline();
    e.head = renamed(e.head, "x-sparkline-one");
    e.points = vec![(1.0, Estimate::single(-1.234_567e8))];
    "nats per token".clone_into(&mut e.unit);
    Ok(vec![
        a.draw(&palette)?,
        b.draw(&palette)?,
        c.draw(&palette)?,
        d.draw(&palette)?,
        e.draw(&palette)?,
    ])
}

fn many_methods() -> Result<Vec<Figure>> {
    let twelve = long_names(12);
    let palette = Palette::for_methods(&twelve);
    let mut out = Vec::new();
    for width in [Width::Page, Width::Column] {
        let tag = if width == Width::Page { "page" } else { "column" };
        let put =
            |head: Head, kind: &str| renamed(head, &format!("x-{kind}-12-{tag}")).with_width(width);
        let mut a = intervals(&twelve);
        a.head = put(a.head, "intervals");
        out.push(a.draw(&palette)?);
        let mut p = profile(&twelve);
        p.head = put(p.head, "profile");
        out.push(p.draw(&palette)?);
        let mut c = curves(&twelve, 4);
        c.head = put(c.head, "curves");
        "a task with a name that is much too long for one small panel"
            .clone_into(&mut c.panels[1].title);
        out.push(c.draw(&palette)?);
        let mut e = ecdf(&twelve[..6]);
        e.head = put(e.head, "ecdf");
        out.push(e.draw(&palette)?);
        let mut m = matrix(&twelve);
        m.head = put(m.head, "matrix");
        out.push(m.draw(&palette)?);
        let mut r = ranks(&twelve, 14);
        r.head = put(r.head, "ranks");
        r.ranks[3][2] = None;
        "a task with a rather long name".clone_into(&mut r.tasks[4]);
        out.push(r.draw(&palette)?);
        let methods = many(12);
        let names: Vec<String> = methods.iter().map(|m| m.name.clone()).collect();
        let d = CriticalDifference {
            head: put(head("x", "Mean ranks of twelve methods with long names"), "cd"),
            groups: vec![
                names[0..4].to_vec(),
                names[2..7].to_vec(),
                names[5..8].to_vec(),
                names[8..12].to_vec(),
            ],
            methods,
            tasks: 8,
            test: RankTest::Nemenyi { cd: 5.891 },
            friedman_p: 0.0004,
            alpha: 0.05,
            uncovered: Vec::new(),
            best_right: width == Width::Column,
        };
        out.push(d.draw(&Palette::for_methods(&names))?);
        let mut s = paired(false);
        s.head = put(s.head, "strip");
        s.methods = long_names(4);
        out.push(s.draw(&palette)?);
        let mut b = ablation();
        b.head = put(b.head, "ablation");
        b.steps = (0..12)
            .map(|i| AblationStep {
                label: twelve[i].clone(),
                value: around(0.2 - 0.01 * i as f64, 0.01, 9),
            })
            .collect();
        out.push(b.draw(&palette)?);
        let mut o = overtuning();
        o.head = put(o.head, "overtuning");
        for (m, name) in o.methods.iter_mut().zip(&twelve) {
            m.method.clone_from(name);
        }
        out.push(o.draw(&palette)?);
        let mut i = importance();
        i.head = put(i.head, "importance");
        i.components = long_names(4);
        i.bars[0].label.clone_from(&twelve[0]);
        i.bars.push(ImportanceBar {
            label: "x".into(),
            shares: vec![0.004, 0.03, 0.0, 0.9],
            seed_noise: 0.02,
            n: 8,
        });
        out.push(i.draw(&palette)?);
        let mut k = cost(&twelve[..4]);
        k.head = put(k.head, "cost");
        out.push(k.draw(&palette)?);
        let mut q = improvement();
        q.head = put(q.head, "poi");
        for (row, name) in q.rows.iter_mut().zip(&twelve) {
            row.first.clone_from(name);
            row.second.clone_from(&twelve[1]);
        }
        out.push(q.draw(&palette)?);
        let mut g = dolan_more(&twelve[..6]);
        g.head = put(g.head, "dolan-more");
        g.curves[5] =
            CostProfile { method: twelve[5].clone(), tau: vec![1.0, 3e5], share: vec![0.1, 0.2] };
        out.push(g.draw(&palette)?);
    }
    Ok(out)
}

fn values() -> Result<Vec<Figure>> {
    let methods = names(4);
    let palette = Palette::for_methods(&methods);
    let mut out = Vec::new();
    let ranges: [(&str, [f64; 4]); 6] = [
        ("huge", [1e12, 3.3e12, -2e12, 8e11]),
        ("tiny", [1e-12, 3.3e-12, 2e-12, 8e-13]),
        ("equal", [5.0; 4]),
        ("zero", [0.0; 4]),
        ("negative", [-1.5, -22.0, -3.0, -0.25]),
        ("offset", [1_000_000.001, 1_000_000.002, 1_000_000.003, 1_000_000.004]),
    ];
    for (tag, v) in ranges {
        let mut a = intervals(&methods);
        a.head = renamed(a.head, &format!("x-intervals-{tag}"));
        a.panels.truncate(2);
        a.panels[0].references.clear();
        for panel in &mut a.panels {
            panel.rows = v
                .iter()
                .enumerate()
                .map(|(i, &p)| {
                    (i != 2)
                        .then(|| Estimate::new(p, [p - p.abs() * 0.05, p + p.abs() * 0.05], 3 + i))
                })
                .collect();
            if tag == "equal" || tag == "zero" || tag == "offset" {
                for (row, &p) in panel.rows.iter_mut().zip(&v) {
                    *row = Some(Estimate::new(p, [p, p], 10));
                }
            }
        }
        out.push(a.draw(&palette)?);
        let mut c = curves(&methods, 1);
        c.head = renamed(c.head, &format!("x-curves-{tag}")).with_width(Width::Column);
        for (curve, &p) in c.panels[0].curves.iter_mut().zip(&v) {
            curve.failed.clear();
            for (t, point) in curve.points.iter_mut().enumerate() {
                let w = if tag == "equal" || tag == "zero" || tag == "offset" {
                    0.0
                } else {
                    0.1 * p.abs()
                };
                let y = p + w * (t as f64 / 8.0).sin();
                point.value = Estimate::new(y, [y - w, y + w], 10);
            }
        }
        out.push(c.draw(&palette)?);
    }
    Ok(out)
}

fn scales_and_ties() -> Result<Vec<Figure>> {
    let methods = names(4);
    let palette = Palette::for_methods(&methods);
    let mut out = Vec::new();
    let mut log = curves(&methods, 2);
    log.head = renamed(log.head, "x-curves-log");
    log.x_scale = ScaleKind::Log10;
    log.y_scale = ScaleKind::Log10;
    for (i, curve) in log.panels[1].curves.iter_mut().enumerate() {
        curve.points = (0..5000)
            .map(|t| {
                let x = 10f64.powf(-6.0 + f64::from(t) / 5000.0 * 18.0);
                let y = (i + 1) as f64 * x.powf(-0.4) * (1.0 + 0.3 * noise(t as usize, i));
                CurvePoint { budget: x, value: Estimate::new(y, [y * 0.8, y * 1.25], 10) }
            })
            .collect();
    }
    out.push(log.draw(&palette)?);
    // Ties: every method has the mean rank, Friedman does not reject.
    let names: Vec<String> = methods.clone();
    let tie = CriticalDifference {
        head: head("x-cd-ties", "All ranks tied").with_width(Width::Column),
        methods: names.iter().map(|n| RankedMethod { name: n.clone(), mean_rank: 2.5 }).collect(),
        tasks: 6,
        test: RankTest::Nemenyi { cd: 1.915 },
        friedman_p: 1.0,
        alpha: 0.05,
        groups: Vec::new(),
        uncovered: Vec::new(),
        best_right: false,
    };
    out.push(tie.draw(&palette)?);
    let two = CriticalDifference {
        head: head("x-cd-two", "Two methods"),
        methods: vec![
            RankedMethod { name: names[0].clone(), mean_rank: 1.1 },
            RankedMethod { name: names[1].clone(), mean_rank: 1.9 },
        ],
        tasks: 3,
        test: RankTest::Nemenyi { cd: 1.13 },
        friedman_p: 0.04,
        alpha: 0.05,
        groups: vec![vec![names[0].clone(), names[1].clone()]],
        uncovered: Vec::new(),
        best_right: true,
    };
    out.push(two.draw(&palette)?);
    let mut equal = paired(true);
    equal.head = renamed(equal.head, "x-paired-equal").with_width(Width::Column);
    for panel in &mut equal.panels {
        for run in &mut panel.runs {
            run.values = vec![Some(0.5), Some(0.5)];
        }
    }
    out.push(equal.draw(&palette)?);
    let mut crowd = paired(false);
    crowd.head = renamed(crowd.head, "x-strip-equal");
    crowd.scale = ScaleKind::Log10;
    for panel in &mut crowd.panels {
        for (r, run) in panel.runs.iter_mut().enumerate() {
            run.values = vec![Some(1e-3), Some(1e-3 + 1e-6 * r as f64), Some(10.0), Some(1e5)];
        }
    }
    out.push(crowd.draw(&palette)?);
    Ok(out)
}
