//! The named analyses of a table, each a function from table to page.
//!
//! Long because one table entry per test of the command line.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Table, TableError, TableOptions, TestOutput};
use crate::stats::verdict::short;
use crate::stats::{
    Aggregate, Analysis, BayesOptions, Correction, Design, FriedmanOptions, Interval, Matrix,
    PMethod, Pilot, PlanOptions, Scores, a12_interval, adjust, bayes_signed_rank, bootstrap,
    choose, critical_difference, friedman, honest_bars, improvement_test, independent_difference,
    mann_whitney, nemenyi_bars, nemenyi_p, paired_difference, pairwise_wilcoxon,
    performance_profile, plan_repetitions, prob_improvement, rank_order, selection_gap,
    single_best, variance_decomposition, wilcoxon_against_control, wilcoxon_with,
};

pub(super) struct Named {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) run: fn(&Table, &TableOptions) -> Result<Page, TableError>,
}

pub(super) const ANALYSES: &[Named] = &[
    Named { name: "default", help: "the analysis that the design asks for", run: default },
    Named {
        name: "intervals",
        help: "aggregates per method with bootstrap intervals",
        run: intervals,
    },
    Named {
        name: "difference",
        help: "interval of the difference of two methods",
        run: difference,
    },
    Named {
        name: "wilcoxon",
        help: "signed-rank test of two methods, exact with ties",
        run: wilcoxon,
    },
    Named {
        name: "mann-whitney",
        help: "U test and A12 within tasks, Holm across",
        run: mann_whitney_test,
    },
    Named { name: "friedman", help: "Friedman and Iman-Davenport over tasks", run: friedman_test },
    Named { name: "nemenyi", help: "Friedman with critical difference and bars", run: nemenyi },
    Named { name: "wilcoxon-holm", help: "all pairs by signed-rank with Holm", run: wilcoxon_holm },
    Named {
        name: "control",
        help: "every method against one, signed-rank with Holm",
        run: control,
    },
    Named { name: "bayes-signed-rank", help: "posterior of better, equivalent, worse", run: bayes },
    Named { name: "poi", help: "probability that one method improves on another", run: poi },
    Named { name: "profile", help: "share of runs above each threshold, with band", run: profile },
    Named { name: "variance", help: "shares of method, task and seed noise", run: variance },
    Named {
        name: "plan",
        help: "repetitions needed to see --min-effect, from pilot data",
        run: plan,
    },
    Named { name: "vbs", help: "virtual best and single best of a portfolio", run: vbs },
];

/// Rows of text and numbers that become a [`TestOutput`].
pub(super) struct Page {
    lines: Vec<Vec<String>>,
    data: Value,
    notes: Vec<String>,
}

impl Page {
    fn new(header: &[&str], data: Value) -> Self {
        Self {
            lines: vec![header.iter().map(|&h| h.to_owned()).collect()],
            data,
            notes: Vec::new(),
        }
    }

    fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.lines.push(cells.into_iter().collect());
    }

    fn pair(&mut self, name: &str, value: impl Into<String>) {
        self.row([name.to_owned(), value.into()]);
    }

    pub(super) fn finish(self, name: &str, table: &Table, options: &TableOptions) -> TestOutput {
        let direction = if options.higher_is_better { "higher" } else { "lower" };
        let mut text = format!(
            "{name}: {} methods, {} tasks, {direction} is better\n",
            table.methods().len(),
            table.tasks().len()
        );
        let n_columns = self.lines.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| {
            self.lines.iter().filter_map(|l| l.get(c)).map(|s| s.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..n_columns).map(width).collect();
        for line in &self.lines {
            let padded: Vec<String> =
                line.iter().zip(&widths).map(|(cell, &w)| format!("{cell:<w$}")).collect();
            let _ = writeln!(text, "  {}", padded.join("  ").trim_end());
        }
        for note in &self.notes {
            let _ = writeln!(text, "note: {note}");
        }
        TestOutput { test: name.to_owned(), data: self.data, notes: self.notes, text }
    }
}

/// Positions of the two methods to compare.
fn two(table: &Table, options: &TableOptions) -> Result<(usize, usize), TableError> {
    match &options.methods {
        Some([a, b]) => {
            let (a, b) = (table.method(a)?, table.method(b)?);
            if a == b {
                return Err(TableError::Content("a method cannot be compared with itself".into()));
            }
            Ok((a, b))
        }
        None if table.methods().len() == 2 => Ok((0, 1)),
        None => Err(TableError::Content(format!(
            "this test compares two methods; the file has {} ({}): name two",
            table.methods().len(),
            table.methods().join(", ")
        ))),
    }
}

fn to_json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

fn p_text(p: f64) -> String {
    if p < 1e-4 { format!("{p:.2e}") } else { format!("{p:.4}") }
}

fn default(table: &Table, options: &TableOptions) -> Result<Page, TableError> {
    let pair = two(table, options).ok();
    let n_methods = if pair.is_some() { 2 } else { table.methods().len() };
    let paired_runs = match pair {
        Some((a, b)) => table.paired(a, b),
        None => (1..n_methods).all(|m| table.paired(0, m)),
    };
    let design = Design {
        n_methods,
        n_tasks: table.tasks().len(),
        min_runs: table.min_runs().max(1),
        paired_runs,
        control: options.control.is_some(),
        min_effect: options.min_effect,
        alpha: options.alpha,
    };
    let choice = choose(&design)?;
    let mut page = match choice.analysis {
        Analysis::WilcoxonOverTasks | Analysis::WilcoxonPairedSeeds => wilcoxon(table, options)?,
        Analysis::FriedmanThenPairs => friedman_then(table, options, wilcoxon_holm)?,
        Analysis::FriedmanThenControl => friedman_then(table, options, control)?,
        Analysis::MannWhitneyWithinTasks => mann_whitney_test(table, options)?,
        Analysis::IntervalsOnly => intervals(table, options)?,
    };
    for note in &choice.notes {
        if !page.notes.contains(note) {
            page.notes.push(note.clone());
        }
    }
    if choice.bayes {
        let posterior = bayes(table, options)?;
        page.lines.extend(posterior.lines.into_iter().skip(1));
        page.data["bayes"] = posterior.data;
    }
    page.data["choice"] = to_json(&choice);
    Ok(page)
}

/// Friedman first; pairs only when it rejects (7.1).
fn friedman_then(
    table: &Table,
    options: &TableOptions,
    pairs: fn(&Table, &TableOptions) -> Result<Page, TableError>,
) -> Result<Page, TableError> {
    let mut page = friedman_test(table, options)?;
    let p = page.data["p_f"].as_f64().unwrap_or(1.0);
    if p > options.alpha {
        page.notes.push(format!(
            "Friedman does not reject (p = {}): no pair is tested; all methods form one group.",
            p_text(p)
        ));
        return Ok(page);
    }
    let more = pairs(table, options)?;
    page.lines.push(Vec::new());
    page.lines.extend(more.lines);
    page.notes.extend(more.notes);
    page.data["pairs"] = more.data;
    Ok(page)
}

fn intervals(table: &Table, options: &TableOptions) -> Result<Page, TableError> {
    let mut page = Page::new(&["method", "aggregate", "value", "interval", "runs"], json!({}));
    for (m, name) in table.methods().iter().enumerate() {
        let scores = table.scores(m)?;
        for aggregate in [Aggregate::Mean, Aggregate::Median, Aggregate::Iqm] {
            let used = aggregate.for_scores(&scores);
            let ci = bootstrap(&scores, &used, &options.bootstrap)?;
            page.row([
                name.clone(),
                used.name().to_owned(),
                short(ci.point),
                bracket(&ci),
                scores.n_values().to_string(),
            ]);
            page.data[name][used.name()] = to_json(&ci);
            flag_notes(&mut page, &ci);
        }
    }
    Ok(page)
}

fn bracket(ci: &Interval) -> String {
    if ci.has(crate::stats::IntervalFlag::Uninformative) {
        return "none (one run)".to_owned();
    }
    format!("[{}, {}]", short(ci.lo), short(ci.hi))
}

fn flag_notes(page: &mut Page, ci: &Interval) {
    use crate::stats::IntervalFlag as F;
    for (flag, note) in [
        (F::Uninformative, "one run per task gives no interval"),
        (F::FewRuns, "fewer than five runs per task: the intervals are too short"),
        (F::FallbackPercentile, "BCa was undefined for some interval; percentile shown"),
    ] {
        if ci.has(flag) && !page.notes.iter().any(|n| n == note) {
            page.notes.push(note.to_owned());
        }
    }
}

/// Interval of first minus second, turned so that positive means the first is better.
fn effect(
    table: &Table,
    (a, b): (usize, usize),
    options: &TableOptions,
) -> Result<(Interval, bool), TableError> {
    let (x, y) = (table.scores(a)?, table.scores(b)?);
    let aggregate = options.aggregate.for_scores(&x);
    let paired = table.paired(a, b);
    let ci = if paired {
        paired_difference(&x, &y, &aggregate, &options.bootstrap)?
    } else {
        independent_difference(&x, &y, &aggregate, &options.bootstrap)?
    };
    Ok((if options.higher_is_better { ci } else { ci.negated() }, paired))
}

fn difference(table: &Table, options: &TableOptions) -> Result<Page, TableError> {
    let pair = two(table, options)?;
    let (ci, paired) = effect(table, pair, options)?;
    let (a, b) = (&table.methods()[pair.0], &table.methods()[pair.1]);
    let data = json!({ "first": a, "second": b, "paired": paired, "advantage": to_json(&ci) });
    let mut page = Page::new(&["quantity", "value"], data);
    page.pair(
        &format!("advantage of {a} over {b} ({})", options.aggregate.name()),
        short(ci.point),
    );
    page.pair(&format!("{}% interval", short(100.0 * ci.level)), bracket(&ci));
    page.pair("resampling", if paired { "joint (common repetitions)" } else { "independent" });
    flag_notes(&mut page, &ci);
    Ok(page)
}

/// Values of two methods: per task when there are several, else the paired repetitions of the one.
fn paired_values(
    table: &Table,
    (a, b): (usize, usize),
    options: &TableOptions,
) -> Result<(Vec<f64>, Vec<f64>, String), TableError> {
    if table.tasks().len() > 1 {
        let matrix = table.per_task(options.aggregate)?;
        let complete: Vec<usize> = (0..matrix.n_rows())
            .filter(|&t| !matrix[(t, a)].is_nan() && !matrix[(t, b)].is_nan())
            .collect();
        if complete.len() < matrix.n_rows()
            && options.missing == crate::stats::MissingBlocks::Refuse
        {
            table.scores(a)?;
            table.scores(b)?;
        }
        let of = |m: usize| complete.iter().map(|&t| matrix[(t, m)]).collect();
        let unit = format!("{} tasks, {} of repetitions", complete.len(), options.aggregate.name());
        return Ok((of(a), of(b), unit));
    }
    if !table.paired(a, b) {
        return Err(TableError::Content(
            "one task and repetitions that do not pair by label: use mann-whitney".into(),
        ));
    }
    let (x, y) = (table.runs(a, 0), table.runs(b, 0));
    let unit = format!("{} paired repetitions of one task", x.len());
    Ok((x, y, unit))
}

fn wilcoxon(table: &Table, options: &TableOptions) -> Result<Page, TableError> {
    let pair = two(table, options)?;
    let (x, y, unit) = paired_values(table, pair, options)?;
    let w = wilcoxon_with(&x, &y, &options.wilcoxon)?;
    let (a, b) = (&table.methods()[pair.0], &table.methods()[pair.1]);
    let (ci, _) = effect(table, pair, options)?;
    let mut data = to_json(&w);
    data["first"] = json!(a);
    data["second"] = json!(b);
    data["advantage"] = to_json(&ci);
    let mut page = Page::new(&["quantity", "value"], data);
    page.pair("pairs", unit);
    page.pair("zeros, ties", format!("{}, {}", w.n_zero, w.n_ties));
    page.pair("R+, R-", format!("{}, {}", w.r_plus, w.r_minus));
    page.pair("p (two-sided)", p_text(w.p.two_sided));
    page.pair(&format!("p ({a} less), p ({a} greater)"), {
        format!("{}, {}", p_text(w.p.less), p_text(w.p.greater))
    });
    page.pair("method", to_json(&w.method).as_str().unwrap_or_default());
    page.pair("median difference", short(w.median_difference));
    page.pair("share of pairs won by larger value", short(w.superiority));
    page.pair(
        &format!("advantage of {a} over {b}"),
        format!("{} {}", short(ci.point), bracket(&ci)),
    );
    if w.smallest_p > options.alpha {
        page.notes.push(format!(
            "The smallest p of {} differing pairs is {}: alpha = {} cannot be reached.",
            w.n - w.n_zero,
            p_text(w.smallest_p),
            options.alpha
        ));
    }
    flag_notes(&mut page, &ci);
    Ok(page)
}

fn mann_whitney_test(table: &Table, options: &TableOptions) -> Result<Page, TableError> {
    let k = table.methods().len();
    let pairs: Vec<(usize, usize)> = match two(table, options) {
        Ok(pair) => vec![pair],
        Err(error) if options.methods.is_some() || k < 2 => return Err(error),
        Err(_) => (0..k).flat_map(|a| (a + 1..k).map(move |b| (a, b))).collect(),
    };
    let mut rows = Vec::new();
    let mut raw = Vec::new();
    for &(a, b) in &pairs {
        for (t, task) in table.tasks().iter().enumerate() {
            let (x, y) = (table.runs(a, t), table.runs(b, t));
            let test = mann_whitney(&x, &y, PMethod::Auto)?;
            // Above one half: the first is better.
            let ci = if options.higher_is_better {
                a12_interval(&x, &y, &options.bootstrap)?
            } else {
                a12_interval(&y, &x, &options.bootstrap)?
            };
            raw.push(test.p.two_sided);
            rows.push((a, b, task, test, ci));
        }
    }
    let adjusted = adjust(&raw, options.correction)?;
    let header = ["first", "second", "task", "A12", "interval", "magnitude", "p", "adjusted p"];
    let mut page = Page::new(&header, json!({ "rows": [] }));
    let mut out = Vec::new();
    for ((a, b, task, test, ci), adjusted) in rows.into_iter().zip(adjusted) {
        page.row([
            table.methods()[a].clone(),
            table.methods()[b].clone(),
            task.clone(),
            short(ci.point),
            bracket(&ci),
            to_json(&test.magnitude).as_str().unwrap_or_default().to_owned(),
            p_text(test.p.two_sided),
            p_text(adjusted),
        ]);
        out.push(json!({
            "first": table.methods()[a], "second": table.methods()[b], "task": task,
            "test": to_json(&test), "a12": to_json(&ci), "adjusted_p": adjusted,
        }));
        if test.smallest_p > options.alpha {
            let note = format!(
                "{} and {} runs: the smallest p is {}, alpha = {} cannot be reached.",
                test.m,
                test.n,
                p_text(test.smallest_p),
                options.alpha
            );
            if !page.notes.contains(&note) {
                page.notes.push(note);
            }
        }
        flag_notes(&mut page, &ci);
    }
    page.notes.push("A12 above 0.5 means that the first method is better.".into());
    page.data["rows"] = Value::Array(out);
    Ok(page)
}

fn friedman_options(options: &TableOptions) -> FriedmanOptions {
    FriedmanOptions {
        higher_is_better: options.higher_is_better,
        missing: options.missing,
        round_digits: options.wilcoxon.round_digits,
    }
}

fn friedman_test(table: &Table, options: &TableOptions) -> Result<Page, TableError> {
    let matrix = table.per_task(options.aggregate)?;
    let f = friedman(&matrix, &friedman_options(options))?;
    let mut page = Page::new(&["method", "mean rank"], to_json(&f));
    for &m in &rank_order(&f.mean_ranks) {
        page.row([table.methods()[m].clone(), short(f.mean_ranks[m])]);
    }
    page.pair("chi-squared (p)", format!("{} ({})", short(f.chi2), p_text(f.p_chi2)));
    page.pair("Iman-Davenport F (p)", format!("{} ({})", short(f.f), p_text(f.p_f)));
    page.pair("Kendall's W", short(f.kendall_w));
    if f.few_treatments {
        page.notes.push("Two methods only: the signed-rank test is stronger.".into());
    }
    if !f.dropped.is_empty() {
        let names: Vec<&str> = f.dropped.iter().map(|&t| table.tasks()[t].as_str()).collect();
        page.notes.push(format!("Incomplete tasks dropped: {}.", names.join(", ")));
    }
    Ok(page)
}

fn nemenyi(table: &Table, options: &TableOptions) -> Result<Page, TableError> {
    let mut page = friedman_test(table, options)?;
    let f = friedman(&table.per_task(options.aggregate)?, &friedman_options(options))?;
    let cd = critical_difference(f.k, f.n, options.alpha)?;
    let p = nemenyi_p(&f.mean_ranks, f.n)?;
    let order = rank_order(&f.mean_ranks);
    let bars = nemenyi_bars(&f.mean_ranks, cd)?;
    page.pair("critical difference", short(cd));
    for bar in &bars {
        let names: Vec<&str> =
            order[bar.first..=bar.last].iter().map(|&m| table.methods()[m].as_str()).collect();
        page.pair("not told apart", names.join(", "));
    }
    if f.p_f > options.alpha {
        page.notes.push("Friedman does not reject: all methods form one group.".into());
    }
    page.data = json!({
        "friedman": page.data, "critical_difference": cd, "p": p, "order": order, "bars": bars,
    });
    Ok(page)
}

/// The full matrix without missing cells: pairs need every task of every method.
fn complete(table: &Table, options: &TableOptions) -> Result<Matrix, TableError> {
    for m in 0..table.methods().len() {
        table.scores(m)?;
    }
    table.per_task(options.aggregate)
}

fn wilcoxon_holm(table: &Table, options: &TableOptions) -> Result<Page, TableError> {
    let matrix = complete(table, options)?;
    let pairs = pairwise_wilcoxon(&matrix, &options.wilcoxon, options.correction)?;
    let f = friedman(&matrix, &friedman_options(options))?;
    let order = rank_order(&f.mean_ranks);
    let bars = honest_bars(&pairs.adjusted, &order, options.alpha)?;
    let name = |m: usize| table.methods()[m].clone();
    let mut page = Page::new(
        &["first", "second", "p", "adjusted p"],
        json!({ "raw": pairs.raw, "adjusted": pairs.adjusted, "order": order, "bars": bars.bars,
                "uncovered": bars.uncovered, "mean_ranks": f.mean_ranks }),
    );
    for i in 0..order.len() {
        for j in i + 1..order.len() {
            let (a, b) = (order[i], order[j]);
            page.row([name(a), name(b), p_text(pairs.raw[a][b]), p_text(pairs.adjusted[a][b])]);
        }
    }
    for &(i, j) in &bars.uncovered {
        page.notes.push(format!(
            "{} and {} are not told apart, although a method ranked between them is.",
            name(order[i]),
            name(order[j])
        ));
    }
    if options.correction == Correction::None {
        page.notes.push("No correction for multiple tests: exploratory.".into());
    }
    Ok(page)
}

fn control(table: &Table, options: &TableOptions) -> Result<Page, TableError> {
    let matrix = complete(table, options)?;
    let control = options.control.as_deref().map_or(Ok(0), |name| table.method(name))?;
    let against =
        wilcoxon_against_control(&matrix, control, &options.wilcoxon, options.correction)?;
    let mut page =
        Page::new(&["method", "control", "p", "adjusted p", "advantage"], to_json(&against));
    for m in (0..table.methods().len()).filter(|&m| m != control) {
        let (ci, _) = effect(table, (m, control), options)?;
        page.row([
            table.methods()[m].clone(),
            table.methods()[control].clone(),
            p_text(against.raw[m]),
            p_text(against.adjusted[m]),
            format!("{} {}", short(ci.point), bracket(&ci)),
        ]);
        flag_notes(&mut page, &ci);
    }
    Ok(page)
}

fn bayes(table: &Table, options: &TableOptions) -> Result<Page, TableError> {
    let pair = two(table, options)?;
    let (x, y, unit) = paired_values(table, pair, options)?;
    // Columns are "x better, equivalent, y better" when higher is better: turn the rest.
    let (x, y) = if options.higher_is_better { (x, y) } else { (negate(&x), negate(&y)) };
    let settings = BayesOptions {
        rope: options.min_effect.unwrap_or(0.0),
        seed: options.bootstrap.seed,
        ..Default::default()
    };
    let b = bayes_signed_rank(&x, &y, &settings)?;
    let (first, second) = (&table.methods()[pair.0], &table.methods()[pair.1]);
    let mut data = to_json(&b);
    data["first"] = json!(first);
    data["second"] = json!(second);
    let mut page = Page::new(&["quantity", "value"], data);
    page.pair("observations", unit);
    page.pair("region of equivalence", format!("+-{}", short(settings.rope)));
    page.pair(&format!("P({first} practically better)"), format!("{:.3}", b.probs[0]));
    page.pair("P(practically equivalent)", format!("{:.3}", b.probs[1]));
    page.pair(&format!("P({second} practically better)"), format!("{:.3}", b.probs[2]));
    if options.min_effect.is_none() {
        page.notes.push("No smallest effect of interest: equivalence has probability 0.".into());
    }
    Ok(page)
}

fn negate(values: &[f64]) -> Vec<f64> {
    values.iter().map(|v| -v).collect()
}

fn poi(table: &Table, options: &TableOptions) -> Result<Page, TableError> {
    let (a, b) = two(table, options)?;
    let (x, y) = (oriented(table, a, options)?, oriented(table, b, options)?);
    let poi = prob_improvement(&x, &y, &options.bootstrap)?;
    let (first, second) = (&table.methods()[a], &table.methods()[b]);
    let mut data = to_json(&poi);
    data["first"] = json!(first);
    data["second"] = json!(second);
    let mut page = Page::new(&["task", &format!("P({first} better than {second})")], data);
    for (task, p) in table.tasks().iter().zip(&poi.per_task) {
        page.pair(task, short(*p));
    }
    page.pair(
        "mean over tasks",
        format!("{} {}", short(poi.interval.point), bracket(&poi.interval)),
    );
    let test = improvement_test(&x, &y)?;
    page.pair("p (two-sided, stratified by task)", p_text(test.p.two_sided));
    page.data["test"] = to_json(&test);
    page.notes.push("The probability of improvement is not transitive: do not rank by it.".into());
    flag_notes(&mut page, &poi.interval);
    Ok(page)
}

/// Scores turned so that higher is better.
fn oriented(table: &Table, m: usize, options: &TableOptions) -> Result<Scores, TableError> {
    let scores = table.scores(m)?;
    Ok(if options.higher_is_better { scores } else { scores.negated() })
}

fn profile(table: &Table, options: &TableOptions) -> Result<Page, TableError> {
    let mut all: Vec<f64> = Vec::new();
    for m in 0..table.methods().len() {
        all.extend_from_slice(table.scores(m)?.values());
    }
    let low = all.iter().copied().fold(f64::INFINITY, f64::min);
    let high = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let steps = 10;
    let taus: Vec<f64> =
        (0..=steps).map(|i| low + (high - low) * f64::from(i) / f64::from(steps)).collect();
    // "Better than tau" is above tau, or below it where lower is better.
    let sign = if options.higher_is_better { 1.0 } else { -1.0 };
    let turned: Vec<f64> = taus.iter().map(|t| sign * t).collect();
    let mut page = Page::new(&["method", "tau", "share better", "band"], json!({}));
    for (m, name) in table.methods().iter().enumerate() {
        let p = performance_profile(&oriented(table, m, options)?, &turned, &options.bootstrap)?;
        for (i, &tau) in taus.iter().enumerate() {
            page.row([
                name.clone(),
                short(tau),
                format!("{:.3}", p.run_share[i]),
                format!("[{:.3}, {:.3}]", p.lo[i], p.hi[i]),
            ]);
        }
        page.data[name] = json!({
            "tau": taus, "run_share": p.run_share, "task_share": p.task_share, "lo": p.lo, "hi": p.hi,
        });
    }
    page.notes.push("Thresholds are equally spaced over the range of this file.".into());
    Ok(page)
}

fn variance(table: &Table, options: &TableOptions) -> Result<Page, TableError> {
    let _ = options;
    let (k, n) = (table.methods().len(), table.tasks().len());
    let runs = table.min_runs();
    let mut y = Vec::new();
    for m in 0..k {
        let scores = table.scores(m)?;
        if scores.equal_runs() != Some(runs) {
            return Err(TableError::Content(
                "the decomposition needs the same number of repetitions in every cell".into(),
            ));
        }
        y.extend_from_slice(scores.values());
    }
    let (levels, names): (Vec<usize>, Vec<&str>) =
        if n > 1 { (vec![k, n], vec!["method", "task"]) } else { (vec![k], vec!["method"]) };
    let v = variance_decomposition(&levels, runs, &y)?;
    let mut page = Page::new(&["source", "share", "df", "omega squared"], to_json(&v));
    for effect in &v.effects {
        let label: Vec<&str> = effect.factors.iter().map(|&f| names[f]).collect();
        page.row([
            label.join(" x "),
            format!("{:.3}", effect.fraction),
            effect.df.to_string(),
            effect.omega2.map_or_else(|| "-".into(), |w| format!("{w:.3}")),
        ]);
    }
    let noise = v.residual_fraction;
    page.row([
        "seeds (residual)".into(),
        noise.map_or_else(|| "-".into(), |f| format!("{f:.3}")),
        (k * n * (runs - 1)).to_string(),
        "-".into(),
    ]);
    let method_share = v.fraction_of(&[0]).unwrap_or(0.0);
    if noise.is_some_and(|f| f > method_share) {
        page.notes.push(
            "Seed noise exceeds the share of the method: the conclusion hangs on seeds.".into(),
        );
    }
    Ok(page)
}

fn plan(table: &Table, options: &TableOptions) -> Result<Page, TableError> {
    let (a, b) = two(table, options)?;
    let Some(min_effect) = options.min_effect else {
        return Err(TableError::Content("plan needs the smallest effect of interest".into()));
    };
    let settings = PlanOptions {
        min_effect,
        alpha: options.alpha,
        level: options.bootstrap.level,
        seed: options.bootstrap.seed,
        ..Default::default()
    };
    let (x, y) = (oriented(table, a, options)?, oriented(table, b, options)?);
    // Task means are removed, so that the spread is that of the repetitions.
    let plan = if table.paired(a, b) {
        let d = x.minus(&y)?;
        plan_repetitions(Pilot::Paired(&within_tasks(&d)), &settings)?
    } else {
        let (x, y) = (within_tasks(&x), within_tasks(&y));
        plan_repetitions(Pilot::Independent(&x, &y), &settings)?
    };
    let mut page = Page::new(&["repetitions", "half-width", "power"], to_json(&plan));
    for p in plan.curve.iter().filter(|p| p.n <= 10 || p.n % 5 == 0) {
        page.row([p.n.to_string(), short(p.half_width), format!("{:.2}", p.power)]);
    }
    page.notes.push(match plan.suggested {
        Some(n) => format!(
            "{n} repetitions: the interval is at most +-{} wide, or the power to see {} is 0.8.",
            short(min_effect / 2.0),
            short(min_effect)
        ),
        None => "No number of repetitions up to 50 suffices.".into(),
    });
    if plan.rough {
        page.notes.push("Fewer than five pilot values: the plan is rough.".into());
    }
    Ok(page)
}

/// Values with their task's mean replaced by the grand mean.
fn within_tasks(scores: &Scores) -> Vec<f64> {
    if scores.n_tasks() == 1 || scores.min_runs() < 2 {
        return scores.values().to_vec();
    }
    let means = scores.task_means();
    let grand = means.iter().sum::<f64>() / means.len() as f64;
    scores
        .tasks()
        .zip(&means)
        .flat_map(|(task, m)| task.iter().map(move |v| v - m + grand))
        .collect()
}

fn vbs(table: &Table, options: &TableOptions) -> Result<Page, TableError> {
    let matrix = complete(table, options)?;
    let sign = if options.higher_is_better { -1.0 } else { 1.0 };
    let costs = Matrix::new(
        matrix.n_rows(),
        matrix.n_cols(),
        matrix.values().iter().map(|v| sign * v).collect(),
    )?;
    let sbs = single_best(&costs)?;
    let gap = selection_gap(&costs, &vec![sbs; costs.n_rows()], sbs)?;
    let data = json!({
        "single_best": table.methods()[sbs],
        "single_best_value": sign * gap.sbs_cost,
        "virtual_best_value": sign * gap.vbs_cost,
        "marginal": gap.marginal,
    });
    let mut page = Page::new(&["quantity", "value"], data);
    page.pair("single best", table.methods()[sbs].as_str());
    page.pair("its mean over tasks", short(sign * gap.sbs_cost));
    page.pair("virtual best (oracle)", short(sign * gap.vbs_cost));
    for (m, worth) in gap.marginal.iter().flatten().enumerate() {
        page.pair(&format!("oracle's loss without {}", table.methods()[m]), short(*worth));
    }
    page.notes.push(
        "The single best is chosen on these tasks themselves; for a claim choose it on others."
            .into(),
    );
    Ok(page)
}
