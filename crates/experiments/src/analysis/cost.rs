//! What the study cost: CPU, wall time and memory by method and stage, failures included (A9).

use super::{AnalysisError, results::Results, summary::bootstrap_options};
use crate::{
    plan::Stage,
    stats::{self, Aggregate, Interval, Scores},
    store::record::{AttemptRecord, Status},
};
use serde::Serialize;
use std::collections::BTreeMap;

/// Cost of one method's main trials.
#[derive(Clone, Debug, Serialize)]
pub struct MethodCost {
    /// Method.
    pub method: String,
    /// Mean wall seconds per trial.
    pub wall_s: Option<Interval>,
    /// Mean CPU seconds per trial.
    pub cpu_s: Option<Interval>,
    /// Mean peak memory in MiB per trial.
    pub peak_mib: Option<Interval>,
    /// Mean budget used per trial, in the declared unit.
    pub budget: Option<Interval>,
    /// Trials by outcome.
    pub outcomes: BTreeMap<Status, usize>,
}

/// Totals over all attempts of a stage, failed and superseded ones included.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StageCost {
    /// Attempts.
    pub attempts: usize,
    /// CPU hours.
    pub cpu_hours: f64,
    /// Wall hours summed over trials.
    pub wall_hours: f64,
    /// Hours on a GPU.
    pub gpu_hours: f64,
}

/// Cost of the whole study.
#[derive(Clone, Debug, Serialize)]
pub struct StudyCost {
    /// By method, in the order of the spec.
    pub methods: Vec<MethodCost>,
    /// By stage.
    pub stages: BTreeMap<Stage, StageCost>,
    /// All stages together.
    pub total: StageCost,
}

/// Adds up the attempts.
///
/// # Errors
/// When a statistic refuses its input.
pub fn study_cost(results: &Results) -> Result<StudyCost, AnalysisError> {
    let stage_of: BTreeMap<_, _> = results.trials.iter().map(|t| (&t.key, t)).collect();
    let mut stages: BTreeMap<Stage, StageCost> = BTreeMap::new();
    let mut total = StageCost::default();
    let mut finished: BTreeMap<&str, Vec<&AttemptRecord>> = BTreeMap::new();
    let mut outcomes: BTreeMap<&str, BTreeMap<Status, usize>> = BTreeMap::new();
    for trial in results.main() {
        *outcomes.entry(&trial.method).or_default().entry(trial.status).or_default() += 1;
    }
    for attempt in results.attempts.values().flat_map(BTreeMap::values) {
        let Some(trial) = stage_of.get(&attempt.key) else { continue };
        for cost in [stages.entry(trial.stage).or_default(), &mut total] {
            cost.attempts += 1;
            cost.cpu_hours += (attempt.cpu_user_s + attempt.cpu_sys_s) / 3600.0;
            cost.wall_hours += attempt.wall_s / 3600.0;
            if attempt.device.starts_with("cuda") {
                cost.gpu_hours += attempt.wall_s / 3600.0;
            }
        }
        if trial.stage == results.stage
            && trial.attempt == attempt.attempt
            && attempt.status.finished()
        {
            finished.entry(&trial.method).or_default().push(attempt);
        }
    }
    let options = bootstrap_options(&results.spec);
    let mut methods = Vec::new();
    for method in &results.spec.methods {
        let runs = finished.remove(method.name.as_str()).unwrap_or_default();
        let pick = |f: &dyn Fn(&AttemptRecord) -> Option<f64>| {
            let values: Vec<f64> = runs.iter().filter_map(|a| f(a)).collect();
            if values.is_empty() { Ok(None) } else { Scores::from_runs(&values).map(Some) }
        };
        let measures = [
            pick(&|a| Some(a.wall_s))?,
            pick(&|a| Some(a.cpu_user_s + a.cpu_sys_s))?,
            pick(&|a| Some(a.peak_rss_kib as f64 / 1024.0))?,
            pick(&|a| a.budget_used)?,
        ];
        let measured: Vec<_> = measures.iter().flatten().map(|s| (s, Aggregate::Mean)).collect();
        let mut means = stats::bootstrap_each(&measured, &options)?.into_iter();
        let [wall_s, cpu_s, peak_mib, budget] =
            measures.each_ref().map(|scores| scores.as_ref().and_then(|_| means.next()));
        methods.push(MethodCost {
            method: method.name.clone(),
            wall_s,
            cpu_s,
            peak_mib,
            budget,
            outcomes: outcomes.remove(method.name.as_str()).unwrap_or_default(),
        });
    }
    Ok(StudyCost { methods, stages, total })
}
