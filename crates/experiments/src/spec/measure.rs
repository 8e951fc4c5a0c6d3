//! What is measured, claimed, searched and analysed: the second half of the vocabulary.

use super::document::one;
use crate::identity::Value;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One measured quantity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an independent key of the file, and a person writes true or false there"
)]
pub struct Metric {
    /// Name that the program reports it under.
    pub name: String,
    /// Data that it is measured on; `test` values are sealed.
    pub split: Split,
    /// Whether it decides the question; at most one is.
    #[serde(default)]
    pub primary: bool,
    /// Direction of improvement.
    pub higher_is_better: bool,
    /// Smallest and largest possible value; a value outside makes the trial `invalid`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<[f64; 2]>,
    /// Whether it is logged over the budget.
    #[serde(default)]
    pub curve: bool,
    /// Timed metrics force equal slots and refuse oversubscription.
    #[serde(default)]
    pub kind: MetricKind,
    /// Whether a trial without it is `invalid`.
    #[serde(default = "yes")]
    pub required: bool,
    /// Whether NaN and infinities are results; otherwise they make the trial `invalid`.
    #[serde(default)]
    pub allow_nonfinite: bool,
    /// Largest absolute difference between a trial and its replay that counts as equal.
    #[serde(default)]
    pub tolerance: f64,
    /// Unit on axes and in tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Name in figures and tables; `name` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

/// Part of the data.
#[derive(
    Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// For fitting.
    Train,
    /// For choosing.
    Validation,
    /// For judging, once; sealed.
    Test,
    /// Not measured on data: time, parameters, memory.
    None,
}

impl Split {
    /// The word in files, requests and stores.
    pub fn word(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
            Self::None => "none",
        }
    }
}

/// What kind of number a metric is.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MetricKind {
    /// A quality or a count.
    #[default]
    Value,
    /// A duration, which other load on the machine changes.
    Time,
}

/// A claim that results can support or refute.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hypothesis {
    /// Short name.
    pub id: String,
    /// Metric that it is about.
    pub metric: String,
    /// Method claimed to be better.
    pub better: String,
    /// Method claimed to be worse.
    pub worse: String,
    /// Whether the better method's values are `less` or `greater`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// Smallest effect of interest in metric units; also the region of practical equivalence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_effect: Option<f64>,
    /// Test; chosen by rule 7.1 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Test>,
    /// Level of the test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// What observation would refute it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refuted_if: Option<String>,
}

impl Hypothesis {
    /// Declared level, or 0.05.
    pub fn level(&self) -> f64 {
        self.alpha.unwrap_or(0.05)
    }
}

/// Direction of a claimed difference.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The better method's values are smaller.
    Less,
    /// The better method's values are larger.
    Greater,
}

/// Statistical test.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Test {
    /// Wilcoxon signed-rank on paired values.
    Wilcoxon,
    /// Friedman, then Nemenyi for all pairs.
    FriedmanNemenyi,
    /// Friedman, then pairwise Wilcoxon with Holm's correction.
    WilcoxonHolm,
    /// Bayesian signed-rank with a region of practical equivalence.
    BayesSignedRank,
    /// Mann-Whitney U on independent runs.
    MannWhitney,
    /// Probability of improvement with a bootstrap interval.
    Poi,
}

impl Test {
    /// The word in the file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Wilcoxon => "wilcoxon",
            Self::FriedmanNemenyi => "friedman-nemenyi",
            Self::WilcoxonHolm => "wilcoxon-holm",
            Self::BayesSignedRank => "bayes-signed-rank",
            Self::MannWhitney => "mann-whitney",
            Self::Poi => "poi",
        }
    }
}

/// Hyper-parameter search on validation data, before the main stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// How configurations are drawn.
    pub strategy: Strategy,
    /// Configurations tried, the same number for each method.
    pub configurations: u32,
    /// Metric that decides; never on the test split.
    pub metric: String,
    /// What is drawn, by parameter name.
    pub space: BTreeMap<String, Distribution>,
    /// Whether one configuration is chosen per method, or per method and task.
    #[serde(default)]
    pub per: Per,
    /// Runs of each configuration.
    #[serde(default = "one")]
    pub repetitions: u32,
    /// Work of one search trial in the budget's unit; the budget's amount when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<f64>,
}

/// How configurations are drawn.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// Independently from the declared distributions.
    Random,
}

/// For what a configuration is chosen.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Per {
    /// One configuration for each method, over all tasks.
    #[default]
    Method,
    /// One configuration for each method and task.
    MethodTask,
}

/// Where a hyper-parameter is drawn from; exactly one key is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Distribution {
    /// Uniform between two finite numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uniform: Option<[f64; 2]>,
    /// Uniform in the logarithm, both ends positive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_uniform: Option<[f64; 2]>,
    /// Uniform over whole numbers, both ends included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub int_uniform: Option<[i64; 2]>,
    /// Uniform over listed values of one type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choice: Option<Vec<Value>>,
}

/// How results are analysed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Analysis {
    /// Aggregate over runs.
    pub aggregate: Aggregate,
    /// Interval of every reported number.
    pub ci: Interval,
    /// Correction for several tests.
    pub correction: Correction,
    /// How failed and censored trials enter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub censoring: Option<Censoring>,
    /// Scores on a common scale.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub normalise: Option<Normalise>,
    /// How zero differences enter the Wilcoxon test.
    pub zero_method: ZeroMethod,
    /// Significant digits before ranking; none when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round_digits: Option<u32>,
    /// Method that others are compared with; all pairs when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<String>,
    /// Targets of run-length distributions, the same for all methods.
    pub targets: Vec<f64>,
    /// Also resample tasks, to speak about other tasks.
    pub task_bootstrap: bool,
    /// Figures of the report.
    pub figures: Vec<FigureKind>,
}

impl Default for Analysis {
    fn default() -> Self {
        Self {
            aggregate: Aggregate::Iqm,
            ci: Interval::default(),
            correction: Correction::Holm,
            censoring: None,
            normalise: None,
            zero_method: ZeroMethod::Pratt,
            round_digits: None,
            control: None,
            targets: Vec::new(),
            task_bootstrap: false,
            figures: vec![FigureKind::Intervals, FigureKind::Curves, FigureKind::Poi],
        }
    }
}

/// Aggregate over runs and tasks (7.8).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Aggregate {
    /// Interquartile mean.
    Iqm,
    /// Mean of per-task means.
    Mean,
    /// Median of per-task means.
    Median,
    /// Distance to a target score.
    OptimalityGap,
}

/// Bootstrap interval (7.9).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Interval {
    /// How it is made of the resamples.
    pub method: IntervalMethod,
    /// Coverage, between 0 and 1.
    pub level: f64,
    /// Number of resamples, at least 1000.
    pub resamples: u32,
    /// Seed of the resampling.
    pub seed: u64,
}

impl Default for Interval {
    fn default() -> Self {
        Self { method: IntervalMethod::Expanded, level: 0.95, resamples: 10_000, seed: 0 }
    }
}

/// Kind of bootstrap interval.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IntervalMethod {
    /// Quantiles of the resampled statistic.
    Percentile,
    /// Quantiles reflected at the statistic.
    Basic,
    /// Bias-corrected and accelerated.
    Bca,
    /// Quantiles at levels widened for few runs, so that the interval is as wide as Student's;
    /// the default, see the measured coverage in [`crate::stats`].
    Expanded,
}

/// Correction for several tests (7.7).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Correction {
    /// Holm's step-down.
    Holm,
    /// Hochberg's step-up.
    Hochberg,
    /// Benjamini and Hochberg's false discovery rate.
    Bh,
    /// Bonferroni.
    Bonferroni,
}

/// How failed and censored trials enter (7.13, 7.17).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Censoring {
    /// They take the worst value of the metric's range.
    Worst,
    /// They count ten times the cut-off.
    Par10,
    /// They are left out and listed.
    ExcludeListed,
    /// Kaplan-Meier.
    Km,
}

/// Scores on a common scale.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Normalise {
    /// Where the bounds come from.
    pub kind: NormaliseKind,
    /// Lower and upper bound by task.
    #[serde(default)]
    pub bounds: BTreeMap<String, [f64; 2]>,
}

/// Where normalisation bounds come from.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum NormaliseKind {
    /// Given in `bounds`.
    Fixed,
    /// Taken from the results: adding a method then changes every score (flagged by A10).
    Observed,
}

/// Zero differences in the Wilcoxon test (7.3).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ZeroMethod {
    /// Dropped.
    Wilcox,
    /// Ranked, then dropped.
    Pratt,
    /// Ranked and split between the sides.
    Zsplit,
}

/// Figures of the report (section 8).
#[derive(
    Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum FigureKind {
    /// Aggregates with intervals.
    Intervals,
    /// Performance profiles.
    Profile,
    /// Critical-difference diagram.
    Cd,
    /// Curves over the budget.
    Curves,
    /// Empirical run-length distributions.
    Ecdf,
    /// Probability of improvement.
    Poi,
    /// Dolan and Moré's profiles of costs.
    DolanMore,
    /// Ablation path.
    Ablation,
    /// Variance shares.
    Importance,
    /// Per-task raw points, paired by seed.
    Paired,
    /// Overtuning.
    Overtuning,
    /// Adjusted p-values and effect sizes.
    PMatrix,
    /// Ranks by task.
    RankHeatmap,
    /// Compute by method.
    Cost,
}

/// Which parameters make the difference between two methods (7.15).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ablation {
    /// Method that the path starts at.
    pub source: String,
    /// Method that the path ends at.
    pub target: String,
    /// Parameters that are flipped from the source's to the target's setting; each enters the
    /// cell with the value `"source"` or `"target"`.
    pub parameters: Vec<String>,
}

/// Statements by a person on what no machine can check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Attest {
    /// Limits of the study (A13).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<String>,
    /// Societal and ecological impact (R7).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impact: Option<String>,
    /// Ethics review and human subjects, for the venues' forms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ethics: Option<String>,
    /// Assumptions and proofs of theoretical claims, for the venues' forms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub theory: Option<String>,
    /// Safeguards on released models or data, for the venues' forms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safeguards: Option<String>,
    /// Use of language models in the method, for the venues' forms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub language_models: Option<String>,
}

/// A released or used asset (R6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Asset {
    /// Name.
    pub name: String,
    /// Licence, as an SPDX expression where one exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// Citation key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cite: Option<String>,
}

/// Provenance of a data set (R4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// Name.
    pub name: String,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Licence, as an SPDX expression where one exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<String>,
    /// SHA-256 of the file in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Size of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

fn yes() -> bool {
    true
}
