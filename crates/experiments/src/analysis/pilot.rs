//! How many repetitions the full run needs, from the spread of the pilot (specification, 7.16).

use super::{AnalysisError, censoring, results::Results, results::Table};
use crate::{
    report::number::plain,
    spec::{Hypothesis, Metric, Resolved, Split, Test},
    stats::{
        self, Pilot, PlanOptions, PlanPoint, PlannedTest, RepetitionPlan, TASKS_FOR_RANK_TESTS,
    },
};
use serde::Serialize;
use std::collections::BTreeMap;

/// Power that a plan aims at.
const POWER: f64 = 0.8;

/// What the pilot says about one hypothesis.
#[derive(Clone, Debug, Serialize)]
pub struct Recommendation {
    /// Hypothesis.
    pub id: String,
    /// Metric whose spread was measured.
    pub metric: String,
    /// It stands in for the hypothesis' own metric, which is sealed in a pilot.
    pub stand_in: bool,
    /// Repetitions that the spec declares for the full run.
    pub declared: u32,
    /// One entry per task, or a single one over all tasks when the test is across tasks.
    pub plans: Vec<Planned>,
    /// Repetitions that satisfy every plan; none when some plan is not satisfied by the largest
    /// number looked at, or when there is no plan.
    pub suggested: Option<usize>,
    /// Why there is no plan.
    pub why_not: Option<String>,
}

/// Plan for one task, or for all together.
#[derive(Clone, Debug, Serialize)]
pub struct Planned {
    /// The task; all of them when `None`.
    pub task: Option<String>,
    /// Standard deviation of the paired differences in the pilot, units of the metric.
    pub spread: f64,
    /// Pairs in the pilot.
    pub pairs: usize,
    /// Mean paired difference in the pilot, positive where it agrees with the hypothesis. Not
    /// planned for: a pilot's effect is too uncertain.
    pub pilot_effect: f64,
    /// The effect planned for: the smallest one of interest.
    pub assumed_effect: f64,
    /// Level of the test, divided by the number of tasks that are tested apart.
    pub alpha: f64,
    /// Smallest number of repetitions that suffices.
    pub suggested: Option<usize>,
    /// Power at the suggested number, or at the largest one looked at.
    pub power: f64,
    /// Half-width of the interval there.
    pub half_width: f64,
    /// Fewer than five pairs: the spread is itself uncertain.
    pub rough: bool,
    /// The whole curve over the number of repetitions.
    pub curve: Vec<PlanPoint>,
}

/// Recommends a number of repetitions for each hypothesis.
///
/// * `results`: of the pilot
/// * `full`: the spec of the full run
///
/// # Errors
/// When a statistic refuses its input.
pub fn recommend(results: &Results, full: &Resolved) -> Result<Vec<Recommendation>, AnalysisError> {
    results.spec.hypotheses.iter().map(|h| one(results, full, h)).collect()
}

fn one(
    results: &Results,
    full: &Resolved,
    h: &Hypothesis,
) -> Result<Recommendation, AnalysisError> {
    let mut out = Recommendation {
        id: h.id.clone(),
        metric: h.metric.clone(),
        stand_in: false,
        declared: full.repetitions.count,
        plans: Vec::new(),
        suggested: None,
        why_not: None,
    };
    let Some(metric) = measured(results, h) else {
        out.why_not = Some(format!(
            "`{}` is sealed in a pilot; declare a validation metric of the same direction to plan by",
            h.metric
        ));
        return Ok(out);
    };
    out.stand_in = metric.name != h.metric;
    out.metric.clone_from(&metric.name);
    let Some(min_effect) = h.min_effect.filter(|e| *e > 0.0) else {
        out.why_not = Some("it declares no `min_effect`, so there is no effect to plan for".into());
        return Ok(out);
    };
    let table = Table::new(results, metric, censoring(results));
    let (Some(better), Some(worse)) = (table.method(&h.better), table.method(&h.worse)) else {
        return Ok(out);
    };
    let less = h.direction.map_or(!metric.higher_is_better, |d| d == crate::spec::Direction::Less);
    let sign = if less { -1.0 } else { 1.0 };
    let tasks: Vec<usize> =
        (0..table.tasks.len()).filter(|t| !table.paired(better, worse, *t).0.is_empty()).collect();
    let differences = |t: usize| -> Vec<(u32, f64)> {
        let other = &table.cells[worse][t];
        let find = |rep: u32| other.iter().find(|o| o.rep == rep).map(|o| o.value);
        let all = table.cells[better][t].iter();
        all.filter_map(|o| find(o.rep).map(|v| (o.rep, sign * (o.value - v)))).collect()
    };
    let seed = results.spec.analysis.ci.seed;
    let options = PlanOptions {
        min_effect,
        alpha: h.level(),
        level: results.spec.analysis.ci.level,
        seed,
        ..PlanOptions::default()
    };
    let samples = samples(&table, &tasks, h, differences, &options);
    if samples.is_empty() {
        out.why_not = Some("the pilot has no finished pair of the two methods".into());
    }
    for (task, values, options) in samples {
        if values.len() < 3 {
            out.why_not = Some(format!(
                "{} pairs in the pilot: a spread needs 3, so raise [profiles.pilot] repetitions",
                values.len()
            ));
            out.plans.clear();
            break;
        }
        let plan = stats::plan_repetitions(Pilot::Paired(&values), &options)?;
        out.plans.push(planned(task, &values, plan, options.alpha));
    }
    let enough: Option<Vec<usize>> = out.plans.iter().map(|p| p.suggested).collect();
    out.suggested = enough.and_then(|all| all.into_iter().max());
    Ok(out)
}

/// The hypothesis' metric, or while that is sealed an open one of the same direction, on
/// validation data if there is one.
fn measured<'a>(results: &'a Results, h: &Hypothesis) -> Option<&'a Metric> {
    let own = results.spec.metric(&h.metric)?;
    if results.open(own) {
        return Some(own);
    }
    let mut like = results.spec.metrics.iter().filter(|m| {
        results.open(m) && m.higher_is_better == own.higher_is_better && m.kind == own.kind
    });
    let validation = like.clone().find(|m| m.split == Split::Validation);
    validation.or_else(|| like.next())
}

/// What is planned for: with tasks enough for a test across tasks, more repetitions narrow the
/// interval of the mean over tasks, so the mean of each repetition over the tasks is resampled;
/// otherwise every task is tested by itself, at a level that bears the number of tasks.
fn samples(
    table: &Table,
    tasks: &[usize],
    h: &Hypothesis,
    differences: impl Fn(usize) -> Vec<(u32, f64)>,
    options: &PlanOptions,
) -> Vec<(Option<String>, Vec<f64>, PlanOptions)> {
    if tasks.len() >= TASKS_FOR_RANK_TESTS {
        let mut by_rep: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
        for t in tasks {
            for (rep, d) in differences(*t) {
                by_rep.entry(rep).or_default().push(d);
            }
        }
        let whole = by_rep.into_values().filter(|d| d.len() == tasks.len());
        let means = whole.map(|d| d.iter().sum::<f64>() / d.len() as f64).collect();
        let test = PlannedTest::Interval;
        return vec![(None, means, PlanOptions { test, ..*options })];
    }
    let ranked = !matches!(h.test, Some(Test::Poi | Test::BayesSignedRank));
    let test = if ranked { PlannedTest::Rank } else { PlannedTest::Interval };
    let alpha = options.alpha / tasks.len().max(1) as f64;
    tasks
        .iter()
        .map(|t| {
            let values = differences(*t).into_iter().map(|(_, d)| d).collect();
            (Some(table.tasks[*t].clone()), values, PlanOptions { alpha, test, ..*options })
        })
        .collect()
}

fn planned(task: Option<String>, values: &[f64], plan: RepetitionPlan, alpha: f64) -> Planned {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let spread = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    let at = plan
        .suggested
        .and_then(|n| plan.curve.iter().find(|p| p.n == n))
        .or(plan.curve.last())
        .copied();
    Planned {
        task,
        spread,
        pairs: values.len(),
        pilot_effect: plan.pilot_effect,
        assumed_effect: plan.min_effect,
        alpha,
        suggested: plan.suggested,
        power: at.map_or(0.0, |p| p.power),
        half_width: at.map_or(f64::INFINITY, |p| p.half_width),
        rough: plan.rough,
        curve: plan.curve,
    }
}

impl Recommendation {
    /// The recommendation for a terminal, one line per plan.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(why) = &self.why_not {
            lines.push(format!("repetitions for {}: {why}", self.id));
        }
        for p in &self.plans {
            let place = p.task.as_ref().map_or_else(|| "all tasks".to_owned(), Clone::clone);
            let n = p.suggested.map_or_else(
                || format!("more than {} repetitions", p.curve.last().map_or(0, |c| c.n)),
                |n| format!("{n} repetitions"),
            );
            lines.push(format!(
                "{} on {place}: {n} (power {:.2}, half-width {}) for an effect of {}; pilot: sd of the \
                 paired difference {}, mean {}, {} pairs{}",
                self.id,
                p.power,
                plain(p.half_width),
                plain(p.assumed_effect),
                plain(p.spread),
                plain(p.pilot_effect),
                p.pairs,
                if p.rough { ", few: a rough plan" } else { "" }
            ));
        }
        if self.stand_in && !self.plans.is_empty() {
            lines.push(format!(
                "{}: planned by `{}`; its own metric is sealed",
                self.id, self.metric
            ));
        }
        match self.suggested {
            Some(n) if n > self.declared as usize => lines.push(format!(
                "{}: the spec declares {} repetitions, fewer than the {n} suggested (interval within half \
                 the smallest effect of interest, or power {POWER})",
                self.id, self.declared
            )),
            Some(n) => lines.push(format!(
                "{}: {n} repetitions suffice, the spec declares {}",
                self.id, self.declared
            )),
            None => {}
        }
        lines
    }
}

/// The number that suffices for every hypothesis: what the checklist holds the spec against. None
/// when one of them has no number.
pub fn overall(all: &[Recommendation]) -> Option<usize> {
    let each: Option<Vec<usize>> = all.iter().map(|r| r.suggested).collect();
    each?.into_iter().max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::fixture::{Did, err, hypothesis, noise, results, spec_under};

    fn pilot(tasks: usize, more: &str, own: f64) -> Vec<Recommendation> {
        let short = spec_under(tasks, 10, "", more, "pilot");
        let full = spec_under(tasks, 10, "", more, crate::spec::FULL);
        let results = results(short, |t| {
            let own = if t.method == "a" { 0.0 } else { own * noise(t, 1) };
            Did::Ok(vec![("err", 0.5 + 0.3 * noise(t, 0) + own)], Vec::new())
        });
        recommend(&results, &full).unwrap()
    }

    #[test]
    fn small_spread_needs_few_and_large_spread_many() {
        let rest = "test = \"wilcoxon\"\nmin_effect = 0.05";
        let calm = pilot(1, &hypothesis("H1", "err", "b", rest), 0.02).remove(0);
        let wild = pilot(1, &hypothesis("H1", "err", "b", rest), 0.1).remove(0);
        let (few, many) = (calm.suggested.unwrap(), wild.suggested.unwrap());
        assert!(few < many && many > 6, "{few} {many}");
        let plan = &wild.plans[0];
        assert!((plan.spread / calm.plans[0].spread - 5.0).abs() < 1e-9);
        assert_eq!((plan.assumed_effect, plan.pairs, plan.rough), (0.05, 6, false));
        assert!(plan.power >= POWER || plan.half_width <= 0.025);
        assert_eq!((wild.declared, wild.stand_in), (10, false));
        assert_eq!(overall(&[calm, wild.clone()]), Some(many));
        let lines = wild.lines().join("\n");
        assert!(lines.contains("H1 on t0") && lines.contains("the spec declares 10"), "{lines}");
    }

    #[test]
    fn the_spread_of_the_pairs_counts_and_not_that_of_the_seeds() {
        // Runs scatter by 0.3, but a and b share what the seed does.
        let rest = "test = \"wilcoxon\"\nmin_effect = 0.05";
        let r = pilot(1, &hypothesis("H1", "err", "b", rest), 0.001).remove(0);
        assert!(r.plans[0].spread < 0.001);
        assert_eq!(r.suggested, Some(3));
    }

    #[test]
    fn a_sealed_metric_has_a_stand_in() {
        let rest = "min_effect = 0.05";
        let r = pilot(1, &hypothesis("H1", "test_err", "b", rest), 0.05).remove(0);
        assert!(r.stand_in && r.metric == "err" && r.suggested.is_some());
        assert!(r.lines().iter().any(|l| l.contains("planned by `err`")));
    }

    #[test]
    fn tasks_share_the_level_or_are_averaged() {
        let rest = "min_effect = 0.05";
        let few = pilot(3, &hypothesis("H1", "err", "b", rest), 0.05).remove(0);
        assert_eq!(few.plans.len(), 3);
        assert!(few.plans.iter().all(|p| (p.alpha - 0.05 / 3.0).abs() < 1e-12));
        assert_eq!(few.suggested, few.plans.iter().map(|p| p.suggested).max().unwrap());
        let many = pilot(6, &hypothesis("H1", "err", "b", rest), 0.05).remove(0);
        assert_eq!((many.plans.len(), many.plans[0].task.as_ref()), (1, None));
    }

    #[test]
    fn without_an_effect_there_is_no_plan() {
        let r = pilot(1, &hypothesis("H1", "err", "b", ""), 0.05).remove(0);
        assert!(r.plans.is_empty() && r.why_not.as_ref().unwrap().contains("min_effect"));
        assert_eq!(overall(&[r]), None);
        let short =
            spec_under(1, 9, "", &hypothesis("H1", "err", "b", "min_effect = 0.1"), "pilot");
        let two =
            results(short.clone(), |t| if t.rep < 2 { err(noise(t, 0)) } else { Did::Pending });
        let r = recommend(&two, &short).unwrap().remove(0);
        assert!(r.suggested.is_none() && r.why_not.unwrap().starts_with("2 pairs"));
    }
}
