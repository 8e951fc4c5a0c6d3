//! Cells of an ablation path (specification, section 7.15).
//!
//! A cell runs the target method and carries each parameter as `"source"` or `"target"`. Up to
//! four parameters all combinations are run at once; beyond that the path is followed step by
//! step, and each step runs the candidates that flip one more parameter.

use super::{Decisions, PlanError, excluded, factorial, tune};
use crate::{
    identity::{Cell, Value},
    plan::Stage,
    spec::{Ablation, MetaRole, Resolved},
};
use std::collections::BTreeSet;

/// Largest number of parameters whose combinations are all run.
const EXHAUSTIVE: usize = 4;

/// The flipped parameters of each cell to run now.
pub(super) fn steps(
    ablation: &Ablation,
    flipped: &[String],
) -> Result<Vec<BTreeSet<String>>, PlanError> {
    let mut path = BTreeSet::new();
    for name in flipped {
        if !ablation.parameters.contains(name) || !path.insert(name.clone()) {
            return Err(PlanError::Path(name.clone()));
        }
    }
    let parameters = &ablation.parameters;
    if parameters.len() <= EXHAUSTIVE {
        let subsets = (0..1_usize << parameters.len()).map(|bits| {
            let chosen = parameters.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1);
            chosen.map(|(_, name)| name.clone()).collect()
        });
        return Ok(subsets.collect());
    }
    // every cell up to this step stays in the plan, so that planning again retires none
    let mut steps = BTreeSet::from([BTreeSet::new()]);
    for length in 0..=flipped.len() {
        let base: BTreeSet<String> = flipped[..length].iter().cloned().collect();
        for name in parameters.iter().filter(|name| !base.contains(*name)) {
            let mut step = base.clone();
            step.insert(name.clone());
            steps.insert(step);
        }
    }
    Ok(steps.into_iter().collect())
}

pub(super) fn cells(
    spec: &Resolved,
    ablation: &Ablation,
    steps: &[BTreeSet<String>],
    decisions: &Decisions,
) -> Result<Vec<Cell>, PlanError> {
    let mut dimensions = spec.dimensions();
    if let Some(tasks) = dimensions.first_mut() {
        tasks.levels = spec
            .tasks
            .iter()
            .filter(|t| t.task.meta_role != Some(MetaRole::MetaTrain))
            .map(|t| Value::Text(t.task.name.clone()))
            .collect();
    }
    if let Some(methods) = dimensions.last_mut() {
        methods.levels = vec![Value::Text(ablation.target.clone())];
    }
    let mut cells = Vec::new();
    for mut base in factorial(&dimensions) {
        tune::complete(spec, Stage::Ablation, &mut base, &decisions.tuned)?;
        if excluded(&spec.exclude, &base) {
            continue;
        }
        for step in steps {
            let mut cell = base.clone();
            for name in &ablation.parameters {
                let side = if step.contains(name) { "target" } else { "source" };
                cell.insert(name.clone(), Value::Text(side.into()));
            }
            cells.push(cell);
        }
    }
    Ok(cells)
}
