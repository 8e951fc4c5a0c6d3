//! The vocabulary of `experiment.toml` (specification, section 3): what a person writes.
//!
//! Every table refuses keys that it does not know. The doc comments below are also the descriptions
//! in the JSON Schema that `exp schema` prints.

use super::measure::{Ablation, Analysis, Asset, Attest, Dataset, Hypothesis, Metric, Tuning};
use crate::identity::Value;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// A declared experiment, as read from its file and before a profile is applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "experiment.toml")]
pub struct Spec {
    /// Version of this vocabulary: 1.
    pub schema: u32,
    /// Short name, `[a-z0-9][a-z0-9-]*`; it enters every trial key and names the results folder.
    pub id: String,
    /// One line for people.
    pub title: String,
    /// The research question, at least 20 characters.
    pub question: String,
    /// Whether hypotheses are fixed in advance.
    pub kind: Kind,
    /// True for studies of algorithms that choose algorithms: NAS, configuration, selection.
    #[serde(default)]
    pub meta: bool,
    /// Raised when the meaning of a factor changes; enters the keys from 2 on.
    #[serde(default = "one")]
    pub version: u32,
    /// Crate that the study belongs to.
    #[serde(rename = "crate", default, skip_serializing_if = "Option::is_none")]
    pub crate_name: Option<String>,
    /// The trial program.
    pub program: Program,
    /// Running order within each repetition.
    #[serde(default)]
    pub order: Order,
    /// Expanding to more trials than this needs `--yes`.
    #[serde(default = "default_max_trials")]
    pub max_trials: u64,
    /// What is claimed.
    #[serde(default, rename = "hypothesis")]
    pub hypotheses: Vec<Hypothesis>,
    /// What is compared.
    #[serde(rename = "method")]
    pub methods: Vec<Method>,
    /// What it is compared on.
    #[serde(rename = "task")]
    pub tasks: Vec<Task>,
    /// Further factors, crossed with method and task, in file order.
    #[serde(default)]
    pub factors: InOrder<Levels>,
    /// Cells that are left out, with the reason.
    #[serde(default)]
    pub exclude: Vec<Exclude>,
    /// How often, and from which seeds.
    pub repetitions: Repetitions,
    /// How much work and which limits.
    pub budget: Budget,
    /// What is measured.
    #[serde(rename = "metric")]
    pub metrics: Vec<Metric>,
    /// Hyper-parameter search before the main stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Tuning>,
    /// How results are analysed.
    #[serde(default)]
    pub analysis: Analysis,
    /// Which parameters make the difference between two methods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ablation: Option<Ablation>,
    /// Overrides by profile name: `smoke`, `pilot`, `laptop`, `paper`, or a name of your own.
    #[serde(default)]
    pub profiles: BTreeMap<String, Profile>,
    /// Statements by a person on what no machine can check.
    #[serde(default)]
    pub attest: Attest,
    /// Released or used assets with licence and citation.
    #[serde(default, rename = "asset")]
    pub assets: Vec<Asset>,
    /// Data sets with source, licence, hash and size.
    #[serde(default, rename = "dataset")]
    pub datasets: Vec<Dataset>,
}

/// Whether a study tests fixed hypotheses or looks around.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Hypotheses are fixed before any test result exists.
    Confirmatory,
    /// A setting is explored; no significance is claimed.
    Exploratory,
}

/// Order in which trials run.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Shuffled within each repetition, from the root seed.
    #[default]
    Random,
    /// As expanded.
    Spec,
}

/// The trial program: either an example or binary of a Cargo package, or any command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Program {
    /// Cargo package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// Example of the package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub example: Option<String>,
    /// Binary of the package, instead of an example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bin: Option<String>,
    /// Cargo features.
    #[serde(default)]
    pub features: Vec<String>,
    /// Cargo profile; `release` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Any program and its arguments, instead of a Cargo target; relative paths start at the
    /// folder of the experiment file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
}

/// One side of the comparison.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// Name, passed to the program as the cell's `method`.
    pub name: String,
    /// Part that it plays.
    pub role: Role,
    /// Whether it is a random search (checklist D2).
    #[serde(default)]
    pub random_search: bool,
    /// Name in figures and tables; `name` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Citation key of its source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cite: Option<String>,
}

/// Part that a method plays in the comparison.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// What the study proposes.
    Proposed,
    /// A simple, well-known comparison.
    BaselineSimple,
    /// The strongest known comparison.
    BaselineStrong,
    /// Any other comparison.
    Baseline,
    /// A changed form of a proposed method.
    Variant,
}

impl Role {
    /// Whether it is a baseline of any strength.
    pub fn is_baseline(self) -> bool {
        matches!(self, Self::BaselineSimple | Self::BaselineStrong | Self::Baseline)
    }
}

/// What methods are compared on: the unit of analysis of claims over data sets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Name, passed to the program as the cell's `task`.
    pub name: String,
    /// Why it was chosen (checklist D8).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Split file, relative to the folder of the experiment file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<PathBuf>,
    /// For `meta = true`: whether the meta-algorithm is trained or tested on it (checklist D6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta_role: Option<MetaRole>,
    /// Name in figures and tables; `name` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// Part that a task plays in a study of meta-algorithms.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MetaRole {
    /// The meta-algorithm learns or is tuned on it: it runs in stage `tune` only.
    MetaTrain,
    /// The meta-algorithm is judged on it: it never runs in stage `tune`.
    MetaTest,
}

/// Levels of a factor: a list, or a table with one of `range`, `linspace`, `logspace`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Levels {
    /// The levels, all of one type.
    List(Vec<Value>),
    /// Levels made by a rule.
    Rule(LevelRule),
}

/// A rule that makes levels; exactly one key is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LevelRule {
    /// From `start` in steps of `step`, without `stop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<StepRange>,
    /// `count` evenly spaced values, both ends included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linspace: Option<Spaced>,
    /// `count` values of equal ratio, both ends included and positive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logspace: Option<Spaced>,
}

/// Half-open range with a step; whole numbers stay whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StepRange {
    /// First level.
    pub start: Scalar,
    /// Not reached.
    pub stop: Scalar,
    /// Distance between levels; 1 when left out.
    #[serde(default = "unit_step")]
    pub step: Scalar,
}

/// A number that remembers whether it was written as a whole one.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Scalar {
    /// Whole number.
    Int(i64),
    /// Finite float64.
    Float(f64),
}

/// Ends and number of spaced levels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Spaced {
    /// First level.
    pub start: f64,
    /// Last level.
    pub stop: f64,
    /// Number of levels.
    pub count: u32,
}

/// Cells that are left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exclude {
    /// A cell is left out when it agrees with every entry; a list means any of its values.
    #[serde(rename = "where")]
    pub condition: BTreeMap<String, Wanted>,
    /// Why (checklist D11).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One value, or any of several.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Wanted {
    /// This value.
    One(Value),
    /// Any of these.
    Any(Vec<Value>),
}

impl Wanted {
    /// The accepted values.
    pub fn values(&self) -> &[Value] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Any(values) => values,
        }
    }
}

/// Repetitions and seeds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Repetitions {
    /// Runs of each cell.
    pub count: u32,
    /// Every seed derives from it.
    pub root_seed: u64,
    /// Why this many (checklist D7).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Independent random streams that the program draws from.
    #[serde(default = "default_streams")]
    pub streams: Vec<String>,
    /// Factors that enter the seed; never `method`, so that methods stay paired.
    #[serde(default = "default_block")]
    pub block: Vec<String>,
}

/// Amount of work and limits of one trial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// Unit of `amount`, one for all methods.
    pub unit: BudgetUnit,
    /// Work per trial.
    pub amount: f64,
    /// Why this much (checklist D12).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Wall-clock limit in seconds.
    pub wall_seconds: f64,
    /// CPU limit in seconds, summed over threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// Memory limit of the process tree in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Limit on what a trial prints or writes as events, in MiB.
    #[serde(default = "default_output_mib")]
    pub output_mib: u64,
    /// Seconds between the polite and the hard end of a trial.
    #[serde(default = "default_grace_seconds")]
    pub grace_seconds: f64,
    /// Threads that a trial may keep runnable.
    #[serde(default = "one")]
    pub threads: u32,
    /// Device word for the program: `cpu`, `cuda` or `auto`.
    #[serde(default = "default_device")]
    pub device: String,
    /// Trials that share one GPU.
    #[serde(default = "one")]
    pub gpu_share: u32,
    /// Attempts after infrastructure losses; a failure of the program is a result and not retried.
    #[serde(default = "default_max_attempts")]
    pub max_attempts: u32,
}

/// Unit of work.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BudgetUnit {
    /// Optimiser or environment steps.
    Steps,
    /// Passes over the training data.
    Epochs,
    /// Evaluations of an objective.
    Evaluations,
    /// Floating-point operations.
    Flops,
    /// CPU seconds.
    CpuSeconds,
    /// Wall-clock seconds.
    WallSeconds,
}

impl BudgetUnit {
    /// The word in the file and in the trial's request.
    pub fn word(self) -> &'static str {
        match self {
            Self::Steps => "steps",
            Self::Epochs => "epochs",
            Self::Evaluations => "evaluations",
            Self::Flops => "flops",
            Self::CpuSeconds => "cpu_seconds",
            Self::WallSeconds => "wall_seconds",
        }
    }
}

/// What a profile changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Runs of each cell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetitions: Option<u32>,
    /// Work and limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetChange>,
    /// Tasks that stay; all when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Vec<String>>,
    /// Other levels of declared factors.
    #[serde(default)]
    pub factors: InOrder<Levels>,
    /// Other effort of the search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<TuningChange>,
    /// Resamples of the intervals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resamples: Option<u32>,
}

/// Entries of `[budget]` that a profile may change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BudgetChange {
    /// Work per trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<f64>,
    /// Wall-clock limit in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_seconds: Option<f64>,
    /// CPU limit in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
    /// Memory limit in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Seconds between the polite and the hard end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<f64>,
    /// Threads of a trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u32>,
    /// Device word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Trials that share one GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_share: Option<u32>,
}

/// Entries of `[tuning]` that a profile may change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TuningChange {
    /// Configurations tried per method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configurations: Option<u32>,
    /// Runs of each configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetitions: Option<u32>,
    /// Work of one search trial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<f64>,
}

pub use super::in_order::InOrder;

pub(super) fn one() -> u32 {
    1
}

fn default_max_trials() -> u64 {
    100_000
}

fn unit_step() -> Scalar {
    Scalar::Int(1)
}

fn default_streams() -> Vec<String> {
    ["init", "data", "train", "env"].map(String::from).to_vec()
}

fn default_block() -> Vec<String> {
    vec!["task".into()]
}

fn default_output_mib() -> u64 {
    64
}

fn default_grace_seconds() -> f64 {
    10.0
}

fn default_device() -> String {
    "cpu".into()
}

fn default_max_attempts() -> u32 {
    2
}
