//! Stage `tune`: drawing configurations, and choosing among them.
//!
//! Every method tries the same configurations, drawn in advance from the declared space: equal
//! effort by construction, and a paired comparison. Each parameter has a generator of its own, so
//! adding a parameter or a configuration leaves the other draws alone.

use super::{PlanError, below, excluded, factorial, generator, text, unit};
use crate::{
    identity::{Cell, Value},
    plan::Stage,
    spec::{Distribution, MetaRole, Per, Resolved, Tuning},
};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The configuration that stage `tune` chose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Selection {
    /// Method that it is for.
    pub method: String,
    /// Task that it is for; all tasks when `None`.
    pub task: Option<String>,
    /// Chosen values by parameter.
    pub values: Cell,
    /// Mean of the deciding metric; infinite in the bad direction when no run finished.
    pub score: f64,
    /// Configurations that it was chosen from.
    pub tried: usize,
}

/// Result of one tune trial.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The trial's cell.
    pub cell: Cell,
    /// Its value of the deciding metric; `None` when it failed.
    pub value: Option<f64>,
}

/// The distinct configurations of a search, in drawing order.
///
/// Fewer than `tuning.configurations` come back only when the space has fewer.
pub fn configurations(root_seed: u64, tuning: &Tuning) -> Vec<Cell> {
    let wanted = space_size(&tuning.space).min(u64::from(tuning.configurations)) as usize;
    let mut generators: BTreeMap<&str, ChaCha8Rng> = tuning
        .space
        .keys()
        .map(|name| {
            let key = format!("tune/v1\nroot={root_seed}\nparameter={name}\n");
            (name.as_str(), generator(&key))
        })
        .collect();
    let mut drawn: Vec<Cell> = Vec::with_capacity(wanted);
    while drawn.len() < wanted {
        let configuration: Cell = tuning
            .space
            .iter()
            .map(|(name, distribution)| {
                let rng = generators.get_mut(name.as_str()).expect("made from the same keys");
                (name.clone(), draw(distribution, rng))
            })
            .collect();
        if !drawn.contains(&configuration) {
            drawn.push(configuration);
        }
    }
    drawn
}

/// Number of distinct configurations of a space; saturates for continuous ones.
pub(crate) fn space_size(space: &BTreeMap<String, Distribution>) -> u64 {
    let one = |d: &Distribution| {
        if let Some(values) = &d.choice {
            values.len() as u64
        } else if let Some([lo, hi]) = d.int_uniform {
            hi.abs_diff(lo).saturating_add(1)
        } else {
            // validation refuses empty intervals, so the rest is continuous
            u64::MAX
        }
    };
    space.values().map(one).fold(1, u64::saturating_mul)
}

fn draw(distribution: &Distribution, rng: &mut ChaCha8Rng) -> Value {
    if let Some([lo, hi]) = distribution.log_uniform {
        Value::Float(between(lo.ln(), hi.ln(), unit(rng)).exp().clamp(lo, hi))
    } else if let Some([lo, hi]) = distribution.uniform {
        Value::Float(between(lo, hi, unit(rng)))
    } else if let Some([lo, hi]) = distribution.int_uniform {
        let draw = match hi.abs_diff(lo).checked_add(1) {
            Some(count) => below(rng, count),
            None => rand::Rng::next_u64(rng),
        };
        Value::Int(lo.wrapping_add_unsigned(draw))
    } else {
        let values = distribution.choice.as_deref().unwrap_or_default();
        values[below(rng, values.len() as u64) as usize].clone()
    }
}

/// Without `hi - lo`, which can overflow.
fn between(lo: f64, hi: f64, share: f64) -> f64 {
    lo * (1.0 - share) + hi * share
}

/// The middle of a distribution: what smoke and pilot runs use before anything is tuned.
fn middle(distribution: &Distribution) -> Value {
    if let Some([lo, hi]) = distribution.log_uniform {
        Value::Float(between(lo.ln(), hi.ln(), 0.5).exp())
    } else if let Some([lo, hi]) = distribution.uniform {
        Value::Float(between(lo, hi, 0.5))
    } else if let Some([lo, hi]) = distribution.int_uniform {
        Value::Int(lo.midpoint(hi))
    } else {
        distribution.choice.as_deref().unwrap_or_default()[0].clone()
    }
}

/// Cells of the search: tasks, factors that are not searched, configurations, methods fastest.
pub(super) fn cells(spec: &Resolved, tuning: &Tuning) -> Vec<Cell> {
    let mut dimensions = spec.dimensions();
    dimensions.retain(|d| !tuning.space.contains_key(&d.name));
    let methods = dimensions.pop().into_iter().collect::<Vec<_>>();
    if let Some(tasks) = dimensions.first_mut() {
        tasks.levels.retain(|level| {
            let role = spec.task(&level.to_string()).and_then(|t| t.task.meta_role);
            role != Some(MetaRole::MetaTest)
        });
    }
    let configurations = configurations(spec.repetitions.root_seed, tuning);
    let mut cells = Vec::new();
    for base in factorial(&dimensions) {
        for configuration in &configurations {
            for method in factorial(&methods) {
                let mut cell = base.clone();
                cell.extend(configuration.clone());
                cell.extend(method);
                if !excluded(&spec.exclude, &cell) {
                    cells.push(cell);
                }
            }
        }
    }
    cells
}

/// Adds the searched parameters that are not factors to a cell of another stage. A parameter that
/// is also a factor keeps the declared level.
pub(super) fn complete(
    spec: &Resolved,
    stage: Stage,
    cell: &mut Cell,
    selections: &[Selection],
) -> Result<(), PlanError> {
    let Some(tuning) = &spec.tuning else { return Ok(()) };
    let (method, task) = (text(cell, "method").to_owned(), text(cell, "task").to_owned());
    let selection = selections.iter().find(|s| {
        s.method == method && s.task.as_ref().is_none_or(|chosen_for| *chosen_for == task)
    });
    for (name, distribution) in &tuning.space {
        if cell.contains_key(name) {
            continue;
        }
        let value = match selection.and_then(|s| s.values.get(name)) {
            Some(value) => value.clone(),
            None if matches!(stage, Stage::Smoke | Stage::Pilot) => middle(distribution),
            None => {
                let parameter = name.clone();
                return Err(PlanError::NotTuned { method, task, parameter });
            }
        };
        cell.insert(name.clone(), value);
    }
    Ok(())
}

/// Chooses the best configuration of each method (or method and task) from the finished search.
///
/// Runs of one configuration are averaged. A run that failed or has no finite value makes its
/// configuration the worst: a crash is never a reason to look good. Ties go to the earlier drawn
/// configuration.
pub fn select(spec: &Resolved, outcomes: &[Outcome]) -> Vec<Selection> {
    let Some(tuning) = &spec.tuning else { return Vec::new() };
    let higher = spec.metric(&tuning.metric).is_some_and(|m| m.higher_is_better);
    let cost = |value: Option<f64>| match value {
        Some(x) if x.is_finite() => {
            if higher {
                -x
            } else {
                x
            }
        }
        _ => f64::INFINITY,
    };
    let configurations = configurations(spec.repetitions.root_seed, tuning);
    let groups: Vec<(&str, Option<&str>)> = spec
        .methods
        .iter()
        .flat_map(|method| match tuning.per {
            Per::Method => vec![(method.name.as_str(), None)],
            Per::MethodTask => {
                spec.tasks.iter().map(|t| (method.name.as_str(), Some(&*t.task.name))).collect()
            }
        })
        .collect();
    let mut selections = Vec::new();
    for (method, task) in groups {
        let mut best: Option<(f64, &Cell)> = None;
        let mut tried = 0;
        for configuration in &configurations {
            let costs: Vec<f64> = outcomes
                .iter()
                .filter(|o| text(&o.cell, "method") == method)
                .filter(|o| task.is_none_or(|task| text(&o.cell, "task") == task))
                .filter(|o| configuration.iter().all(|(k, v)| o.cell.get(k) == Some(v)))
                .map(|o| cost(o.value))
                .collect();
            if costs.is_empty() {
                continue;
            }
            tried += 1;
            let mean = costs.iter().sum::<f64>() / costs.len() as f64;
            if best.is_none_or(|(least, _)| mean < least) {
                best = Some((mean, configuration));
            }
        }
        if let Some((cost, values)) = best {
            selections.push(Selection {
                method: method.into(),
                task: task.map(String::from),
                values: values.clone(),
                score: if higher { -cost } else { cost },
                tried,
            });
        }
    }
    selections
}
