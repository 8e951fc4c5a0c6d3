//! What the study cost: CPU, wall time and memory by method and stage, failures included (A9).

use super::{AnalysisError, results::Results, summary::bootstrap_options};
use crate::{
    plan::Stage,
    stats::{self, Interval, Scores},
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
    let mean = |values: Vec<f64>| -> Result<Option<Interval>, AnalysisError> {
        if values.is_empty() {
            return Ok(None);
        }
        let scores = Scores::from_runs(&values)?;
        Ok(Some(stats::bootstrap(&scores, &stats::Aggregate::Mean, &options)?))
    };
    let mut methods = Vec::new();
    for method in &results.spec.methods {
        let runs = finished.remove(method.name.as_str()).unwrap_or_default();
        let pick =
            |f: &dyn Fn(&AttemptRecord) -> f64| runs.iter().map(|a| f(a)).collect::<Vec<f64>>();
        methods.push(MethodCost {
            method: method.name.clone(),
            wall_s: mean(pick(&|a| a.wall_s))?,
            cpu_s: mean(pick(&|a| a.cpu_user_s + a.cpu_sys_s))?,
            peak_mib: mean(pick(&|a| a.peak_rss_kib as f64 / 1024.0))?,
            budget: mean(runs.iter().filter_map(|a| a.budget_used).collect())?,
            outcomes: outcomes.remove(method.name.as_str()).unwrap_or_default(),
        });
    }
    Ok(StudyCost { methods, stages, total })
}
