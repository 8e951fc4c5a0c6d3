//! A spec with one profile applied and every default filled in: what runner, statistics and
//! report work from.

use super::{
    diagnostic::Diagnostic,
    document::{Budget, Exclude, Kind, Method, Order, Repetitions, Role, Task},
    measure::{
        Ablation, Analysis, Asset, Attest, Dataset, Hypothesis, Metric, MetricKind, Split, Tuning,
    },
};
use crate::{
    identity::{self, IdentityError, Value},
    plan::Stage,
    trial::BudgetRequest,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// Name of the profile that changes nothing.
pub const FULL: &str = "full";

/// A valid experiment under one profile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resolved {
    /// Short name.
    pub id: String,
    /// One line for people.
    pub title: String,
    /// The research question.
    pub question: String,
    /// Confirmatory or exploratory.
    pub kind: Kind,
    /// Study of algorithms that choose algorithms.
    pub meta: bool,
    /// Spec version, from 1.
    pub version: u32,
    /// Crate that the study belongs to.
    pub crate_name: Option<String>,
    /// Applied profile; [`FULL`] when none.
    pub profile: String,
    /// Profiles that the file declares.
    pub profiles: Vec<String>,
    /// The trial program.
    pub program: Launch,
    /// Running order within each repetition.
    pub order: Order,
    /// Limit on the number of trials of a stage. Not part of the spec's hash.
    #[serde(skip, default = "unlimited")]
    pub max_trials: u64,
    /// Claims.
    pub hypotheses: Vec<Hypothesis>,
    /// Compared methods, in file order.
    pub methods: Vec<Method>,
    /// Tasks, in file order.
    pub tasks: Vec<ResolvedTask>,
    /// Factors with their levels, in file order.
    pub factors: Vec<Factor>,
    /// Left-out cells; values have the type of their factor.
    pub exclude: Vec<Exclude>,
    /// Repetitions and seeds.
    pub repetitions: Repetitions,
    /// Work and limits.
    pub budget: Budget,
    /// Metrics, in file order.
    pub metrics: Vec<Metric>,
    /// Hyper-parameter search.
    pub tuning: Option<Tuning>,
    /// Ablation between two methods.
    pub ablation: Option<Ablation>,
    /// Analysis.
    pub analysis: Analysis,
    /// Statements by a person.
    pub attest: Attest,
    /// Assets.
    pub assets: Vec<Asset>,
    /// Data sets.
    pub datasets: Vec<Dataset>,
    /// Folder of the experiment file: relative paths start here. Not part of the spec's hash.
    #[serde(skip)]
    pub folder: PathBuf,
    /// Text of the experiment file. Not part of the spec's hash.
    #[serde(skip)]
    pub text: String,
    /// What the author should look at. Not part of the spec's hash.
    #[serde(skip)]
    pub warnings: Vec<Diagnostic>,
}

/// How the trial program is found and started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Launch {
    /// A target of a Cargo package, built before the first trial.
    Cargo {
        /// Package name.
        package: String,
        /// The target.
        target: Target,
        /// Features.
        features: Vec<String>,
        /// Cargo profile.
        profile: String,
    },
    /// Program and arguments; the runner appends `--trial`.
    Command(Vec<String>),
}

/// Kind of Cargo target, with its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// An example.
    Example(String),
    /// A binary.
    Bin(String),
}

/// A task with the hash of its split file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResolvedTask {
    /// As declared.
    #[serde(flatten)]
    pub task: Task,
    /// SHA-256 of the split file's bytes.
    pub split_sha256: Option<String>,
    /// Parts that the split file has; they are disjoint.
    pub split_parts: Vec<Split>,
    /// Data sets of the split file that are not generated.
    pub split_datasets: Vec<String>,
}

/// A factor with its levels, all of one type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Factor {
    /// Name, `[a-z][a-z0-9_]*`.
    pub name: String,
    /// Levels in order.
    pub levels: Vec<Value>,
}

impl Resolved {
    /// Stage of this profile's main trials: `smoke` and `pilot` have their own, every other
    /// profile runs the main stage.
    pub fn main_stage(&self) -> Stage {
        match self.profile.as_str() {
            "smoke" => Stage::Smoke,
            "pilot" => Stage::Pilot,
            _ => Stage::Main,
        }
    }

    /// Folder below `results/` that holds the store: the id, and below it the profile's name for
    /// profiles with a main stage of their own size (`laptop`, `paper`, ...), whose trials must
    /// not be pooled with those of the full run. Smoke and pilot trials have stages of their own
    /// and lie beside the full run.
    pub fn results_folder(&self) -> PathBuf {
        match self.profile.as_str() {
            FULL | "smoke" | "pilot" => PathBuf::from(&self.id),
            profile => Path::new(&self.id).join(profile),
        }
    }

    /// Text that stands for the experiment in the keys of a stage (4.1): `id`, `id@vN` from
    /// version 2 on, then `/profile` and `/stage` unless it is the full main run.
    pub fn experiment_text(&self, stage: Stage) -> String {
        identity::experiment_text(&self.id, self.version, &self.profile, stage)
    }

    /// SHA-256 of the canonical lines of the whole resolved spec (4.3).
    ///
    /// # Errors
    /// When a number is not finite; a spec from [`super::load`] has none.
    pub fn spec_hash(&self) -> Result<String, IdentityError> {
        identity::spec_hash(self)
    }

    /// The method of that name.
    pub fn method(&self, name: &str) -> Option<&Method> {
        self.methods.iter().find(|m| m.name == name)
    }

    /// The task of that name.
    pub fn task(&self, name: &str) -> Option<&ResolvedTask> {
        self.tasks.iter().find(|t| t.task.name == name)
    }

    /// The metric of that name.
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics.iter().find(|m| m.name == name)
    }

    /// The primary metric; the first one when none is marked.
    pub fn primary(&self) -> Option<&Metric> {
        self.metrics.iter().find(|m| m.primary).or_else(|| self.metrics.first())
    }

    /// Methods of one role, in file order.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &Method> {
        self.methods.iter().filter(move |m| m.role == role)
    }

    /// Absolute or folder-relative path of the split file of a task.
    pub fn split_path(&self, task: &str) -> Option<PathBuf> {
        self.task(task)?.task.split.as_ref().map(|p| self.folder.join(p))
    }

    /// Splits that trials of a stage may read (6.6).
    pub fn splits(&self, stage: Stage) -> &'static [Split] {
        crate::split::readable(stage)
    }

    /// Metrics that a trial of a stage must report to be `ok`: the required ones on splits that
    /// the stage may read.
    pub fn required_metrics(&self, stage: Stage) -> impl Iterator<Item = &Metric> {
        let readable = self.splits(stage);
        self.metrics
            .iter()
            .filter(move |m| m.required && (m.split == Split::None || readable.contains(&m.split)))
    }

    /// Names of metrics on the test split, whose values are sealed.
    pub fn sealed_metrics(&self) -> BTreeSet<&str> {
        let sealed = self.metrics.iter().filter(|m| m.split == Split::Test);
        sealed.map(|m| m.name.as_str()).collect()
    }

    /// Whether any metric is a duration.
    pub fn is_timed(&self) -> bool {
        self.metrics.iter().any(|m| m.kind == MetricKind::Time)
    }

    /// Budget of one trial of a stage.
    pub fn budget_request(&self, stage: Stage) -> BudgetRequest {
        let tuned = self.tuning.as_ref().and_then(|t| t.amount);
        let amount = match (stage, tuned) {
            (Stage::Tune, Some(amount)) => amount,
            _ => self.budget.amount,
        };
        BudgetRequest { unit: self.budget.unit.word().into(), amount }
    }

    /// Levels by factor, `method` and `task` included, in the order that decides about trials.
    pub fn dimensions(&self) -> Vec<Factor> {
        let text = |name: &str| Value::Text(name.into());
        let mut all = vec![Factor {
            name: "task".into(),
            levels: self.tasks.iter().map(|t| text(&t.task.name)).collect(),
        }];
        all.extend(self.factors.iter().cloned());
        all.push(Factor {
            name: "method".into(),
            levels: self.methods.iter().map(|m| text(&m.name)).collect(),
        });
        all
    }

    /// The resolved spec as JSON, for freeze records and copies beside results.
    ///
    /// # Errors
    /// When a number is not finite.
    pub fn to_json(&self) -> Result<serde_json::Value, serde_json::Error> {
        serde_json::to_value(self)
    }

    /// Reads back [`Self::to_json`]; `folder` and `text` stay empty.
    ///
    /// # Errors
    /// When the value is not a resolved spec.
    pub fn from_json(value: &serde_json::Value) -> Result<Self, serde_json::Error> {
        Self::deserialize(value)
    }

    /// Display names of methods by name.
    pub fn method_labels(&self) -> BTreeMap<&str, &str> {
        self.methods
            .iter()
            .map(|m| (m.name.as_str(), m.label.as_deref().unwrap_or(&m.name)))
            .collect()
    }
}

fn unlimited() -> u64 {
    u64::MAX
}
