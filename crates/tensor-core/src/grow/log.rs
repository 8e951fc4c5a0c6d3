//! What grew, when, why, and what it did to the function.

use super::plan::ResizePlan;
use crate::{Error, Param, ParamCount, ParamId, ParamStore, Result, Role};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How far the outputs on a held batch moved.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionChange {
    /// Largest absolute difference of any output.
    pub max_abs: f64,
    /// `max_abs` over the largest absolute output before; `max_abs` itself when that is 0.
    pub relative: f64,
}

/// Name and sizes of a parameter around an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resized {
    /// Name at the time.
    pub name: String,
    /// Sizes before.
    pub from: Vec<i64>,
    /// Sizes after.
    pub to: Vec<i64>,
}

/// All that is needed to make an empty copy of a parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParamSpec {
    /// Identity in the store that made it.
    pub id: ParamId,
    /// Name.
    pub name: String,
    /// Sizes.
    pub size: Vec<i64>,
    /// What it is for.
    pub role: Role,
    /// Whether it is trained.
    pub trainable: bool,
}

impl ParamSpec {
    pub(crate) fn of(param: &Param) -> Self {
        Self {
            id: param.id(),
            name: param.name(),
            size: param.size(),
            role: param.role(),
            trainable: param.trainable(),
        }
    }
}

/// What an event did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Parameters changed their sizes.
    Resize {
        /// The plan as it was applied.
        plan: ResizePlan,
        /// Names and sizes of the edited parameters, in the plan's order.
        resized: Vec<Resized>,
    },
    /// Whole parameters came, went or were renamed.
    Structure {
        /// New parameters, in creation order.
        added: Vec<ParamSpec>,
        /// Names (before the event) of those that went.
        removed: Vec<String>,
        /// Old and new names.
        renamed: Vec<(String, String)>,
    },
}

/// One entry of the growth log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrowthEvent {
    /// Optimiser steps taken before it.
    pub step: u64,
    /// Why.
    pub reason: String,
    /// What changed.
    pub change: Change,
    /// Parameters before.
    pub before: ParamCount,
    /// Parameters after.
    pub after: ParamCount,
    /// Measured change of the function; `None` when it was not measured.
    pub function_change: Option<FunctionChange>,
}

/// All growth events of a run, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GrowthLog {
    /// The events.
    pub events: Vec<GrowthEvent>,
}

impl GrowthLog {
    /// Brings a store that was made from the base config to the names and sizes that it had after
    /// the logged events. Parameters that change get zeros: fill them from a checkpoint. Nothing is
    /// changed when an event does not fit.
    ///
    /// Parameters that an event added and that the store has already in that size are accepted, so
    /// a model that was built with its grown depth loads as well.
    ///
    /// # Errors
    /// [`Error::Plan`] naming the parameter whose sizes do not fit the log.
    pub fn rebuild(&self, store: &mut ParamStore) -> Result<()> {
        let mut shapes: BTreeMap<String, (Option<ParamId>, ParamSpec)> =
            store.iter().map(|p| (p.name(), (Some(p.id()), ParamSpec::of(p)))).collect();
        let misfit = |name: &str, why: String| Error::Plan { param: name.to_owned(), why };
        let mut order: Vec<String> = store.iter().map(Param::name).collect();
        for (k, event) in self.events.iter().enumerate() {
            match &event.change {
                Change::Resize { resized, .. } => {
                    for Resized { name, from, to } in resized {
                        let (_, spec) = shapes.get_mut(name).ok_or_else(|| {
                            misfit(name, format!("growth event {k} resizes it, the store has none"))
                        })?;
                        if spec.size != *from {
                            let why = format!(
                                "growth event {k} resizes {from:?} to {to:?}, sizes are {:?}",
                                spec.size
                            );
                            return Err(misfit(name, why));
                        }
                        spec.size.clone_from(to);
                    }
                }
                Change::Structure { added, removed, renamed } => {
                    for name in removed {
                        shapes.remove(name);
                        order.retain(|n| n != name);
                    }
                    // All old names leave before new ones enter, so that names can be exchanged.
                    let moved: Vec<_> = renamed
                        .iter()
                        .filter_map(|(from, to)| Some((from, to, shapes.remove(from)?)))
                        .collect();
                    for (from, to, (id, mut spec)) in moved {
                        spec.name.clone_from(to);
                        order.iter_mut().filter(|n| *n == from).for_each(|n| n.clone_from(to));
                        shapes.insert(to.clone(), (id, spec));
                    }
                    for spec in added {
                        match shapes.get(&spec.name) {
                            None => {
                                order.push(spec.name.clone());
                                shapes.insert(spec.name.clone(), (None, spec.clone()));
                            }
                            Some((_, have)) if have.size == spec.size => {}
                            Some((_, have)) => {
                                let why = format!(
                                    "growth event {k} adds it with sizes {:?}, the store has {:?}",
                                    spec.size, have.size
                                );
                                return Err(misfit(&spec.name, why));
                            }
                        }
                    }
                }
            }
        }
        let target: Vec<(Option<ParamId>, ParamSpec)> =
            order.iter().filter_map(|name| shapes.remove(name)).collect();
        store.reshape_to(&target)
    }
}
