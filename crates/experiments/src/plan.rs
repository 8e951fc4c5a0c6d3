//! What is to be run: the expansion of a spec into trials (specification, sections 3 and 4).
//!
//! The running order is repetition by repetition, so that a study that is stopped early is still
//! balanced; within a repetition tasks come in file order, then factors (last fastest), then
//! methods, and `order = "random"` shuffles each repetition by itself.

mod ablation;
mod balance;
mod cost;
mod tune;

pub use balance::{Balance, BalanceRow, Gap};
pub use cost::Cost;
pub(crate) use tune::space_size;
pub use tune::{Outcome, Selection, configurations, select};

use crate::{
    identity::{self, Cell, IdentityError, TrialKey, Value},
    spec::{Exclude, Factor, MetaRole, Order, Resolved},
};
use rand::Rng;
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fmt};

/// Which part of the study a trial belongs to. Short runs have keys of their own, so that they can
/// never be taken for full ones.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The declared study.
    Main,
    /// A few seconds, to see that everything works.
    Smoke,
    /// Short runs for cost and spread, before the freeze.
    Pilot,
    /// Hyper-parameter search on validation data.
    Tune,
    /// Cells of an ablation path.
    Ablation,
    /// A second run of a finished trial.
    Replay,
}

impl Stage {
    /// All stages.
    pub const ALL: [Self; 6] =
        [Self::Main, Self::Smoke, Self::Pilot, Self::Tune, Self::Ablation, Self::Replay];

    /// The word in keys, stores and tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Smoke => "smoke",
            Self::Pilot => "pilot",
            Self::Tune => "tune",
            Self::Ablation => "ablation",
            Self::Replay => "replay",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// One trial that the spec asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlannedTrial {
    /// Identity.
    pub key: TrialKey,
    /// Place in the running order, from 0.
    pub ord: u64,
    /// Part of the study.
    pub stage: Stage,
    /// Method, task and factors.
    pub cell: Cell,
    /// The cell's `method`.
    pub method: String,
    /// The cell's `task`.
    pub task: String,
    /// Repetition, from 0.
    pub rep: u32,
    /// Seed of each declared stream, in `0..2^63`.
    pub seeds: BTreeMap<String, i64>,
}

/// What earlier stages decided; empty before they ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Decisions {
    /// Chosen hyper-parameters of each method, or of each method and task.
    pub tuned: Vec<Selection>,
    /// Parameters that the ablation path has flipped so far, in order.
    pub flipped: Vec<String>,
}

/// Why a spec cannot be expanded.
#[derive(Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// More trials than the spec allows without consent.
    #[error("stage {stage}: {found} trials, more than max_trials = {limit}; pass --yes to go on")]
    TooMany {
        /// The stage.
        stage: Stage,
        /// Trials that the spec asks for, at most.
        found: u64,
        /// `max_trials`.
        limit: u64,
    },
    /// The main stage needs what the tune stage has not decided yet.
    #[error("method `{method}`, task `{task}`: `{parameter}` is not chosen yet; run stage tune")]
    NotTuned {
        /// The method.
        method: String,
        /// The task.
        task: String,
        /// The first missing hyper-parameter.
        parameter: String,
    },
    /// The spec does not declare what the stage runs.
    #[error("stage {stage}: the spec has no [{stage}] table")]
    NotDeclared {
        /// The stage.
        stage: Stage,
    },
    /// A replay repeats one stored trial; it is never expanded.
    #[error("stage replay repeats one stored trial and has no plan of its own")]
    Replay,
    /// The ablation path names a parameter that the spec does not have, or has flipped already.
    #[error("ablation path: `{0}` is not a remaining parameter of [ablation]")]
    Path(String),
    /// A cell has no identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Expands one stage of a spec into its trials, in running order.
///
/// The stages `main`, `smoke` and `pilot` are the full factorial of tasks, factors and methods
/// under the profile that `spec` was resolved with; `tune` crosses tasks, factors that are not
/// searched, configurations and methods; `ablation` crosses the cells of [`Decisions::flipped`].
/// Set `spec.max_trials` to `u64::MAX` for `--yes`.
///
/// # Errors
/// [`PlanError`]; nothing large is allocated before the number of trials is known to be allowed.
pub fn expand(
    spec: &Resolved,
    stage: Stage,
    decisions: &Decisions,
) -> Result<Vec<PlannedTrial>, PlanError> {
    let (blocks, repetitions) = match stage {
        Stage::Main | Stage::Smoke | Stage::Pilot => {
            guard(spec, stage, 1, spec.repetitions.count)?;
            (main_cells(spec, stage, decisions)?, spec.repetitions.count)
        }
        Stage::Tune => {
            let tuning = spec.tuning.as_ref().ok_or(PlanError::NotDeclared { stage })?;
            guard(spec, stage, u64::from(tuning.configurations), tuning.repetitions)?;
            (tune::cells(spec, tuning), tuning.repetitions)
        }
        Stage::Ablation => {
            let ablation = spec.ablation.as_ref().ok_or(PlanError::NotDeclared { stage })?;
            let steps = ablation::steps(ablation, &decisions.flipped)?;
            guard(spec, stage, steps.len() as u64, spec.repetitions.count)?;
            (ablation::cells(spec, ablation, &steps, decisions)?, spec.repetitions.count)
        }
        Stage::Replay => return Err(PlanError::Replay),
    };
    let experiment = spec.experiment_text(stage);
    let mut trials = Vec::with_capacity(blocks.len() * repetitions as usize);
    for rep in 0..repetitions {
        for place in running_order(spec, blocks.len(), rep) {
            trials.push(trial(spec, stage, &experiment, &blocks[place], rep, trials.len())?);
        }
    }
    Ok(trials)
}

/// Number of cells and trials of a stage before exclusions, without expanding it.
pub fn upper_count(spec: &Resolved, per_cell: u64, repetitions: u32) -> u64 {
    let levels = spec.factors.iter().map(|f| f.levels.len() as u64);
    [spec.tasks.len() as u64, spec.methods.len() as u64, per_cell, u64::from(repetitions)]
        .into_iter()
        .chain(levels)
        .fold(1, u64::saturating_mul)
}

fn guard(spec: &Resolved, stage: Stage, per_cell: u64, repetitions: u32) -> Result<(), PlanError> {
    let found = upper_count(spec, per_cell, repetitions);
    if found > spec.max_trials {
        return Err(PlanError::TooMany { stage, found, limit: spec.max_trials });
    }
    Ok(())
}

/// Cells of the full factorial, methods fastest, without the excluded ones.
fn main_cells(
    spec: &Resolved,
    stage: Stage,
    decisions: &Decisions,
) -> Result<Vec<Cell>, PlanError> {
    let kept =
        |task: &str| spec.task(task).is_none_or(|t| t.task.meta_role != Some(MetaRole::MetaTrain));
    let mut cells = Vec::new();
    for mut cell in factorial(&spec.dimensions()) {
        if !kept(text(&cell, "task")) {
            continue;
        }
        tune::complete(spec, stage, &mut cell, &decisions.tuned)?;
        if !excluded(&spec.exclude, &cell) {
            cells.push(cell);
        }
    }
    Ok(cells)
}

/// Every combination of levels, the last dimension fastest.
pub(crate) fn factorial(dimensions: &[Factor]) -> Vec<Cell> {
    let mut cells = vec![Cell::new()];
    for factor in dimensions {
        cells = cells
            .iter()
            .flat_map(|cell| {
                factor.levels.iter().map(|level| {
                    let mut cell = cell.clone();
                    cell.insert(factor.name.clone(), level.clone());
                    cell
                })
            })
            .collect();
    }
    cells
}

/// Whether any rule leaves the cell out.
pub fn excluded(rules: &[Exclude], cell: &Cell) -> bool {
    rules.iter().any(|rule| matches(rule, cell))
}

/// Whether one rule applies to the cell. A rule about a factor that the cell does not have (a
/// searched one, say) does not apply.
pub fn matches(rule: &Exclude, cell: &Cell) -> bool {
    rule.condition.iter().all(|(name, wanted)| {
        cell.get(name).is_some_and(|value| {
            wanted.values().iter().any(|w| w.clone().in_type_of(value) == *value)
        })
    })
}

fn trial(
    spec: &Resolved,
    stage: Stage,
    experiment: &str,
    cell: &Cell,
    rep: u32,
    ord: usize,
) -> Result<PlannedTrial, PlanError> {
    Ok(PlannedTrial {
        key: identity::trial_key(experiment, cell, rep)?,
        ord: ord as u64,
        stage,
        method: text(cell, "method").to_owned(),
        task: text(cell, "task").to_owned(),
        rep,
        seeds: seeds(spec, stage, cell, rep)?,
        cell: cell.clone(),
    })
}

/// Seeds of all declared streams for a trial (4.2). Stage `tune` draws from streams of its own, so
/// that no tuning run shares a seed with a reported one.
///
/// # Errors
/// When an entry of the block is not finite.
pub fn seeds(
    spec: &Resolved,
    stage: Stage,
    cell: &Cell,
    rep: u32,
) -> Result<BTreeMap<String, i64>, IdentityError> {
    let block: Cell = spec
        .repetitions
        .block
        .iter()
        .filter_map(|name| cell.get(name).map(|value| (name.clone(), value.clone())))
        .collect();
    let prefix = if stage == Stage::Tune { "tune." } else { "" };
    spec.repetitions
        .streams
        .iter()
        .map(|stream| {
            let name = format!("{prefix}{stream}");
            let seed = identity::derive_seed(spec.repetitions.root_seed, &name, &block, rep)?;
            Ok((stream.clone(), seed))
        })
        .collect()
}

/// Order of the cells of one repetition.
fn running_order(spec: &Resolved, cells: usize, rep: u32) -> Vec<usize> {
    let mut order: Vec<usize> = (0..cells).collect();
    if spec.order == Order::Random {
        let name = format!("order/v1\nroot={}\nrep={rep}\n", spec.repetitions.root_seed);
        let mut rng = generator(&name);
        // Fisher-Yates
        for last in (1..order.len()).rev() {
            order.swap(last, below(&mut rng, last as u64 + 1) as usize);
        }
    }
    order
}

/// A generator keyed by a text. Spelt out rather than taken from a library's seeding, because the
/// plan of a study must not change with a library's version.
fn generator(name: &str) -> ChaCha8Rng {
    ChaCha8Rng::from_seed(Sha256::digest(name.as_bytes()).into())
}

/// Uniform in `0..bound` by rejection, without bias; `bound` > 0.
fn below(rng: &mut impl Rng, bound: u64) -> u64 {
    let cut = u64::MAX - u64::MAX % bound;
    loop {
        let draw = rng.next_u64();
        if draw < cut {
            return draw % bound;
        }
    }
}

/// Uniform in `[0, 1)` with 53 bits.
fn unit(rng: &mut impl Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// A text entry of a cell; empty when it is not there.
fn text<'a>(cell: &'a Cell, name: &str) -> &'a str {
    match cell.get(name) {
        Some(Value::Text(value)) => value,
        _ => "",
    }
}
