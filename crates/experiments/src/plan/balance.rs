//! Whether the design is balanced and paired (checklist D4).

use super::PlannedTrial;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Counts by method and task, and what is missing for a paired comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// One row per method and task, sorted by name.
    pub rows: Vec<BalanceRow>,
    /// Pairs of task and repetition that some methods have and others do not.
    pub gaps: Vec<Gap>,
    /// Pairs of task and repetition whose seeds differ between methods.
    pub seed_mismatches: Vec<(String, u32)>,
}

/// Number of cells and trials of a method on a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BalanceRow {
    /// Method.
    pub method: String,
    /// Task.
    pub task: String,
    /// Distinct cells.
    pub cells: u64,
    /// Trials.
    pub trials: u64,
}

/// A pair of task and repetition that lacks some methods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Task.
    pub task: String,
    /// Repetition.
    pub rep: u32,
    /// Methods without it.
    pub missing: Vec<String>,
}

impl Balance {
    /// Counts the trials of one stage.
    pub fn of(trials: &[PlannedTrial]) -> Self {
        let mut counts: BTreeMap<(&str, &str), (BTreeSet<String>, u64)> = BTreeMap::new();
        let mut present: BTreeMap<(&str, u32), BTreeSet<&str>> = BTreeMap::new();
        let mut seeds: BTreeMap<(String, u32), &BTreeMap<String, i64>> = BTreeMap::new();
        let mut seed_mismatches = BTreeSet::new();
        let methods: BTreeSet<&str> = trials.iter().map(|t| t.method.as_str()).collect();
        for trial in trials {
            // the cell without its method names the condition under which methods are paired
            let mut condition = trial.cell.clone();
            condition.remove("method");
            let condition = format!("{condition:?}");
            let entry = counts.entry((&trial.method, &trial.task)).or_default();
            entry.0.insert(condition.clone());
            entry.1 += 1;
            present.entry((&trial.task, trial.rep)).or_default().insert(&trial.method);
            let known = seeds.entry((condition, trial.rep)).or_insert(&trial.seeds);
            if **known != trial.seeds {
                seed_mismatches.insert((trial.task.clone(), trial.rep));
            }
        }
        let rows = counts
            .into_iter()
            .map(|((method, task), (cells, trials))| BalanceRow {
                method: method.into(),
                task: task.into(),
                cells: cells.len() as u64,
                trials,
            })
            .collect();
        let gaps = present
            .into_iter()
            .filter(|(_, here)| here.len() < methods.len())
            .map(|((task, rep), here)| Gap {
                task: task.into(),
                rep,
                missing: methods.difference(&here).map(|m| (*m).to_owned()).collect(),
            })
            .collect();
        Self { rows, gaps, seed_mismatches: seed_mismatches.into_iter().collect() }
    }

    /// Whether every method has the same pairs of task and repetition with the same seeds.
    pub fn is_paired(&self) -> bool {
        self.gaps.is_empty() && self.seed_mismatches.is_empty()
    }
}
