//! What each parameter is worth on the way from one method to another, from the cells of stage
//! `ablation` (specification, 7.15 a, b).

use super::{AnalysisError, Found, results::Results, results::Table, summary::bootstrap_options};
use crate::{
    figures::{AblationPath as PathFigure, AblationStep, Head},
    identity::Value,
    plan::Stage,
    spec::{self, Metric, Split},
    stats::{self, AblationPath, Aggregate, Interval, Scores},
    store::record::TrialRow,
};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A finished greedy path.
#[derive(Clone, Debug, Serialize)]
pub struct Ablation {
    /// Metric.
    pub metric: String,
    /// Source first, then one step per flipped parameter, target last.
    pub steps: Vec<Step>,
    /// By how much the target is better than the target without one parameter, in file order,
    /// where that cell was run. Positive: the parameter helps.
    pub leave_one_out: Vec<(String, Interval)>,
    /// Runs of each configuration, over all tasks.
    pub runs: usize,
}

/// One configuration on the path.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// The parameter flipped here; none for the source.
    pub parameter: Option<String>,
    /// Mean of the metric over tasks and repetitions.
    pub value: Interval,
    /// Improvement by this flip, over the same tasks and seeds; positive is better.
    pub contribution: Option<Interval>,
}

/// Cells of stage `ablation` by configuration; bit `i` set says that parameter `i` has the
/// target's setting.
struct Cells {
    /// Costs, lower is better, over the repetitions that all configurations share.
    costs: BTreeMap<u64, Scores>,
    sign: f64,
}

/// Follows the path, or says why it cannot.
///
/// # Errors
/// When a statistic refuses its input.
pub fn path(
    results: &Results,
    shown: &Metric,
    rule: spec::Censoring,
) -> Result<Found<Ablation>, AnalysisError> {
    let Some(declared) = &results.spec.ablation else {
        return Ok(Err("the spec has no [ablation]".to_owned()));
    };
    let metric = deciding(results, declared, shown);
    let cells = match cells(results, declared, metric, rule, false)? {
        Ok(cells) => cells,
        Err(why) => return Ok(Err(why)),
    };
    let path = walk(&cells, declared.parameters.len())?;
    if !path.is_done() {
        return Ok(Err(format!(
            "the ablation path stands at step {} of {}; run the stage on",
            path.order().len(),
            declared.parameters.len()
        )));
    }
    let options = bootstrap_options(&results.spec);
    let mut masks = vec![0_u64];
    for i in path.order() {
        masks.push(masks[masks.len() - 1] | 1 << i);
    }
    let along: Vec<Scores> = masks.iter().map(|mask| cells.costs[mask].clone()).collect();
    let contributions = stats::contribution_intervals(&along, Aggregate::Mean, &options)?;
    let names = std::iter::once(None)
        .chain(path.order().iter().map(|i| Some(declared.parameters[*i].clone())));
    let contributions = std::iter::once(None).chain(contributions.into_iter().map(Some));
    let mut steps = Vec::new();
    for ((parameter, contribution), costs) in names.zip(contributions).zip(&along) {
        let cost = stats::bootstrap(costs, &Aggregate::Mean, &options)?;
        let value = if cells.sign < 0.0 { cost.negated() } else { cost };
        steps.push(Step { parameter, value, contribution });
    }
    let target = masks[masks.len() - 1];
    let mut leave_one_out = Vec::new();
    for (i, parameter) in declared.parameters.iter().enumerate() {
        if let Some(without) = cells.costs.get(&(target & !(1 << i))) {
            let worth = stats::paired_difference(
                without,
                &cells.costs[&target],
                &Aggregate::Mean,
                &options,
            )?;
            leave_one_out.push((parameter.clone(), worth));
        }
    }
    let runs = along[0].n_values();
    Ok(Ok(Ablation { metric: metric.name.clone(), steps, leave_one_out, runs }))
}

/// Parameters that the path has flipped so far, for the runner, which adds the candidates of the
/// next step; it sees no test value.
///
/// # Errors
/// When a statistic refuses its input.
pub fn flipped(results: &Results, rule: spec::Censoring) -> Result<Vec<String>, AnalysisError> {
    let Some(declared) = &results.spec.ablation else { return Ok(Vec::new()) };
    let Some(primary) = results.spec.primary() else { return Err(AnalysisError::NoMetric) };
    let metric = unsealed(results, primary);
    let Ok(cells) = cells(results, declared, metric, rule, true)? else { return Ok(Vec::new()) };
    let path = walk(&cells, declared.parameters.len())?;
    Ok(path.order().iter().map(|i| declared.parameters[*i].clone()).collect())
}

/// The metric that chose the path. While all combinations were run, any metric can; a path that
/// was followed step by step was chosen without looking at test values, and is shown by the metric
/// that chose it.
fn deciding<'a>(results: &'a Results, declared: &spec::Ablation, shown: &'a Metric) -> &'a Metric {
    let all = 1_usize.checked_shl(declared.parameters.len() as u32).unwrap_or(usize::MAX);
    let ablated = results.trials.iter().filter(|t| t.stage == Stage::Ablation);
    let seen: BTreeSet<u64> = ablated.filter_map(|t| mask(declared, t)).collect();
    if seen.len() == all { shown } else { unsealed(results, shown) }
}

/// `metric`, or the first one of the same direction that is not measured on test data.
fn unsealed<'a>(results: &'a Results, metric: &'a Metric) -> &'a Metric {
    let open =
        |m: &&Metric| m.split != Split::Test && m.higher_is_better == metric.higher_is_better;
    if metric.split != Split::Test {
        return metric;
    }
    let mut metrics = results.spec.metrics.iter();
    let validation = metrics.clone().filter(open).find(|m| m.split == Split::Validation);
    validation.or_else(|| metrics.find(open)).unwrap_or(metric)
}

fn mask(declared: &spec::Ablation, trial: &TrialRow) -> Option<u64> {
    let mut mask = 0;
    for (i, name) in declared.parameters.iter().enumerate() {
        match trial.cell.get(name)? {
            Value::Text(side) if side == "target" => mask |= 1 << i,
            Value::Text(side) if side == "source" => {}
            _ => return None,
        }
    }
    Some(mask)
}

/// `partial` leaves configurations out that have trials to run; otherwise these are a reason to
/// wait.
fn cells(
    results: &Results,
    declared: &spec::Ablation,
    metric: &Metric,
    rule: spec::Censoring,
    partial: bool,
) -> Result<Found<Cells>, AnalysisError> {
    if !(1..=63).contains(&declared.parameters.len()) {
        return Ok(Err("an ablation path has 1 to 63 parameters".to_owned()));
    }
    if results.stage != Stage::Main {
        return Ok(Err("only the main trials have an ablation stage".to_owned()));
    }
    if !results.open(metric) {
        return Ok(Err(format!("`{}` is sealed", metric.name)));
    }
    let trials = || results.trials.iter().filter(|t| t.stage == Stage::Ablation);
    let open: BTreeSet<u64> =
        trials().filter(|t| !t.status.finished()).filter_map(|t| mask(declared, t)).collect();
    let masks: BTreeSet<u64> = trials()
        .filter_map(|t| mask(declared, t))
        .filter(|mask| !partial || !open.contains(mask))
        .collect();
    if masks.is_empty() {
        return Ok(Err("no trial of stage ablation".to_owned()));
    }
    let place: BTreeMap<u64, usize> = masks.iter().enumerate().map(|(i, m)| (*m, i)).collect();
    let names = masks.iter().map(|m| format!("{m:b}")).collect();
    let column = |t: &TrialRow| mask(declared, t).and_then(|m| place.get(&m).copied());
    let table = Table::of(results, metric, rule, names, trials(), column);
    if table.pending > 0 {
        return Ok(Err(format!("{} trials of stage ablation are not finished", table.pending)));
    }
    let sign = if metric.higher_is_better { -1.0 } else { 1.0 };
    let mut columns: Vec<Vec<Vec<f64>>> = vec![Vec::new(); masks.len()];
    for t in 0..table.tasks.len() {
        let reps_of = |c: usize| table.cells[c][t].iter().map(|o| o.rep).collect::<BTreeSet<u32>>();
        let shared = (1..masks.len())
            .fold(reps_of(0), |all, c| all.intersection(&reps_of(c)).copied().collect());
        if shared.is_empty() {
            continue;
        }
        for (c, column) in columns.iter_mut().enumerate() {
            let kept = table.cells[c][t].iter().filter(|o| shared.contains(&o.rep));
            column.push(kept.map(|o| sign * o.value).collect());
        }
    }
    if columns[0].is_empty() {
        return Ok(Err("the configurations of the path share no repetition".to_owned()));
    }
    let costs = masks
        .into_iter()
        .zip(columns)
        .map(|(mask, column)| Ok((mask, Scores::from_tasks(&column)?)))
        .collect::<Result<_, AnalysisError>>()?;
    Ok(Ok(Cells { costs, sign }))
}

/// The path as far as its candidates have been run, by the best mean.
fn walk(cells: &Cells, parameters: usize) -> Result<AblationPath, AnalysisError> {
    let mean = |mask: u64| cells.costs.get(&mask).map(|s| Aggregate::Mean.of(s));
    let start = mean(0).unwrap_or(0.0);
    let mut path = AblationPath::new(parameters, start)?;
    if mean(0).is_none() {
        return Ok(path);
    }
    while !path.is_done() {
        let costs: Option<Vec<f64>> = path.candidates().into_iter().map(mean).collect();
        let Some(costs) = costs else { break };
        path.advance(&costs)?;
    }
    Ok(path)
}

impl Ablation {
    /// The figure.
    pub(super) fn figure(
        &self,
        head: Head,
        declared: &spec::Ablation,
        y_label: String,
    ) -> PathFigure {
        let label = |parameter: &Option<String>| {
            parameter.clone().unwrap_or_else(|| format!("{} (source)", declared.source))
        };
        PathFigure {
            head,
            y_label,
            steps: self
                .steps
                .iter()
                .map(|step| AblationStep {
                    label: label(&step.parameter),
                    value: super::drawing::estimate(&step.value),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        analysis::fixture::{Did, add, empty, spec},
        plan::PlannedTrial,
    };

    /// Six parameters, worth 1, 2, .., 6 hundredths: the path takes the last one first.
    fn study() -> Results {
        let more = r#"
[ablation]
source = "b"
target = "a"
parameters = ["p1", "p2", "p3", "p4", "p5", "p6"]
"#;
        empty(spec(1, 3, "", more))
    }

    fn worth(t: &PlannedTrial) -> Did {
        let gain: f64 = (1..=6)
            .filter(|i| t.cell[&format!("p{i}")].to_string() == "target")
            .map(|i| f64::from(i) / 100.0)
            .sum();
        Did::Ok(vec![("err", 0.5 - gain + 0.1 * f64::from(t.rep))], Vec::new())
    }

    #[test]
    fn a_long_path_is_followed_step_by_step() {
        let rule = spec::Censoring::Worst;
        let mut results = study();
        let mut cells = 0;
        for step in 0..6 {
            let flipped = flipped(&results, rule).unwrap();
            assert_eq!(flipped.len(), step);
            let decisions = crate::plan::Decisions { tuned: Vec::new(), flipped };
            let planned = crate::plan::expand(&results.spec, Stage::Ablation, &decisions).unwrap();
            cells = planned.len();
            let mut next = study();
            crate::analysis::fixture::add_planned(&mut next, planned, worth);
            results = next;
        }
        assert_eq!(cells, 3 * (1 + 6 * 7 / 2));
        let shown = results.spec.primary().unwrap().clone();
        let done = path(&results, &shown, rule).unwrap().unwrap();
        let order: Vec<_> = done.steps.iter().filter_map(|s| s.parameter.as_deref()).collect();
        assert_eq!(order, ["p6", "p5", "p4", "p3", "p2", "p1"]);
        let first = done.steps[1].contribution.as_ref().unwrap();
        assert!((first.point - 0.06).abs() < 1e-12 && first.hi - first.lo < 1e-12);
        // The candidates of the last step but one are the target without one parameter.
        let without: Vec<_> = done.leave_one_out.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(without, ["p1", "p2"]);
    }

    #[test]
    fn a_step_that_still_runs_is_not_decided() {
        let rule = spec::Censoring::Worst;
        let mut results = study();
        add(&mut results, Stage::Ablation, |t| {
            let late = t.cell["p3"].to_string() == "target" && t.rep == 2;
            if late { Did::Pending } else { worth(t) }
        });
        assert_eq!(flipped(&results, rule).unwrap(), [""; 0]);
        let shown = results.spec.primary().unwrap().clone();
        assert!(path(&results, &shown, rule).unwrap().unwrap_err().contains("not finished"));
    }
}
