//! From stored rows to what a report says: tables, intervals, comparisons, verdicts, costs, figures.
//!
//! Nothing here is kept: the same store and spec give the same [`Analysis`], to the bit.

pub mod ablation;
pub mod anytime;
pub mod claim;
pub mod comparison;
mod contrast;
pub mod cost;
pub mod drawing;
#[cfg(test)]
pub(crate) mod fixture;
pub mod importance;
pub mod pilot;
pub mod results;
pub mod runtime;
pub mod sensitivity;
pub mod summary;
pub mod tuning;

use crate::{
    figures::FigureError,
    spec::{Censoring, SpecError},
    stats::StatError,
    store::StoreError,
};
use serde::Serialize;

pub use claim::{Claim, Verdict};
pub use results::{Results, Table};

/// What can go wrong on the way to a report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnalysisError {
    /// A statistic refused its input.
    #[error("statistics: {0}")]
    Stat(#[from] StatError),
    /// A figure refused its input.
    #[error("figure: {0}")]
    Figure(#[from] FigureError),
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The spec could not be read.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The spec declares no metric.
    #[error("the spec declares no metric")]
    NoMetric,
}

/// A part of the analysis, or why the data do not allow it.
pub type Found<T> = Result<T, String>;

/// A part that is not there is written as `null`.
fn found<T: Serialize, S: serde::Serializer>(part: &Found<T>, to: S) -> Result<S::Ok, S::Error> {
    part.as_ref().ok().serialize(to)
}

/// Everything that is said about a study.
#[derive(Clone, Debug, Serialize)]
pub struct Analysis {
    /// Values of the metric that the tables show: the primary one, or the first open one while the
    /// primary is sealed.
    #[serde(skip)]
    pub table: Table,
    /// Whether the primary metric is sealed, so that another one is shown.
    pub sealed: bool,
    /// Verdict on each hypothesis.
    pub claims: Vec<Claim>,
    /// Verdicts under other choices of the analyst.
    pub sensitivity: Vec<sensitivity::Alternative>,
    /// Methods, in the order of the spec.
    pub summaries: Vec<summary::MethodSummary>,
    /// Methods against each other.
    pub comparisons: comparison::Comparisons,
    /// Curves by metric.
    pub curves: Vec<(String, Vec<anytime::TaskCurves>)>,
    /// Variance shares of a full grid.
    pub shares: Option<importance::Shares>,
    /// How soon runs reach the declared targets.
    #[serde(serialize_with = "found")]
    pub run_lengths: Found<runtime::RunLengths>,
    /// The ablation path.
    #[serde(serialize_with = "found")]
    pub ablation: Found<ablation::Ablation>,
    /// Overtuning of the search.
    #[serde(serialize_with = "found")]
    pub overtuning: Found<tuning::Overtuning>,
    /// What it cost.
    pub cost: cost::StudyCost,
}

/// The censoring rule that is applied: the declared one, else the worst value.
pub fn censoring(results: &Results) -> Censoring {
    results.spec.analysis.censoring.unwrap_or(Censoring::Worst)
}

/// Analyses a study.
///
/// # Errors
/// [`AnalysisError::NoMetric`] for a spec without metrics; otherwise when a statistic refuses its
/// input.
pub fn analyse(results: &Results) -> Result<Analysis, AnalysisError> {
    let spec = &results.spec;
    let rule = censoring(results);
    let primary = spec.primary().ok_or(AnalysisError::NoMetric)?;
    let sealed = !results.open(primary);
    let shown = if sealed {
        spec.metrics.iter().find(|m| results.open(m)).unwrap_or(primary)
    } else {
        primary
    };
    let table = Table::new(results, shown, rule);
    let claims = claim::judge(results, rule)?;
    let mut curves = Vec::new();
    for metric in spec.metrics.iter().filter(|m| m.curve && results.open(m)) {
        let by_task = anytime::curves(results, metric, rule)?;
        if !by_task.is_empty() {
            curves.push((metric.name.clone(), by_task));
        }
    }
    Ok(Analysis {
        sealed,
        sensitivity: sensitivity::sensitivity(results, rule, &claims)?,
        claims,
        summaries: summary::summaries(&table, spec)?,
        comparisons: comparison::compare(&table, spec)?,
        curves,
        shares: importance::shares(results, shown)?,
        run_lengths: runtime::run_lengths(results)?,
        ablation: ablation::path(results, shown, rule)?,
        overtuning: tuning::overtuning(results)?,
        cost: cost::study_cost(results)?,
        table,
    })
}
