//! What a report says about itself, so that the checklist can check it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Facts that the report generator collects while it writes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReportFacts {
    /// Estimates that the report prints.
    pub numbers: u64,
    /// Those among them without an interval, by name.
    pub without_interval: Vec<String>,
    /// Those among them without a count of runs, by name.
    pub without_n: Vec<String>,
    /// Every printed p-value.
    pub p_values: Vec<PValue>,
    /// Sentences that claim significance.
    pub significance_claims: u64,
    /// How the test of each hypothesis was chosen.
    pub tests: Vec<TestChoice>,
    /// Whether the per-task table is there.
    pub per_task_table: bool,
    /// Curves over the budget.
    pub curves: u64,
    /// Whether the table of overtuning and validation-test gaps is there.
    pub overtuning_table: bool,
    /// Compute that the report states.
    pub compute: Option<ComputeFacts>,
    /// Verdict printed for each hypothesis.
    pub verdicts: BTreeMap<String, String>,
    /// Paths of the printed deviations from the frozen plan; `None` when there is no such section.
    pub deviations: Option<Vec<String>>,
    /// Files with raw results, relative to the report's folder.
    pub exports: Vec<String>,
    /// Figures and tables with the commands that remake them.
    pub artefacts: Vec<Artefact>,
}

/// A printed p-value.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PValue {
    /// Tests that are corrected together.
    pub family: String,
    /// What it is about.
    pub label: String,
    /// As computed.
    pub raw: f64,
    /// After correction for the family.
    pub adjusted: Option<f64>,
    /// Effect size printed beside it.
    pub effect: Option<f64>,
    /// Interval of the difference printed beside it.
    pub interval: Option<[f64; 2]>,
    /// Whether it is labelled exploratory.
    pub exploratory: bool,
}

/// How a test was chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestChoice {
    /// The hypothesis.
    pub hypothesis: String,
    /// The test.
    pub test: String,
    /// Declared in the spec; otherwise by the default rule (7.1).
    pub declared: bool,
}

/// Compute that a report states.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ComputeFacts {
    /// CPU hours.
    pub cpu_hours: f64,
    /// GPU hours.
    pub gpu_hours: f64,
    /// Kinds of devices.
    pub devices: Vec<String>,
    /// Stages that are counted.
    pub stages: Vec<crate::plan::Stage>,
    /// Whether attempts that failed or were lost are counted.
    pub with_failures: bool,
}

/// A figure or table and how to remake it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artefact {
    /// File relative to the report's folder.
    pub name: String,
    /// The command.
    pub command: String,
    /// SHA-256 of the input.
    pub input_sha256: String,
}
