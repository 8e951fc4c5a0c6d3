//! Which factor moves the metric: exact variance shares of a full grid, seed noise included
//! (specification, 7.15 c).

use super::{AnalysisError, results::Results};
use crate::{
    identity::Value,
    spec::Metric,
    stats::{self, VarianceDecomposition},
    store::record::Status,
};
use serde::Serialize;
use std::collections::BTreeMap;

/// Shares of variance of one metric.
#[derive(Clone, Debug, Serialize)]
pub struct Shares {
    /// Factors with two levels or more, in the order of the spec.
    pub factors: Vec<String>,
    /// Sums of squares of every effect.
    pub decomposition: VarianceDecomposition,
    /// Finished runs in the grid.
    pub n: usize,
}

impl Shares {
    /// Name and share of each main effect, and the interactions together.
    pub fn main_effects(&self) -> Vec<(String, f64)> {
        let mut shares: Vec<(String, f64)> = self
            .factors
            .iter()
            .enumerate()
            .map(|(i, name)| (name.clone(), self.decomposition.fraction_of(&[i]).unwrap_or(0.0)))
            .collect();
        let more: f64 = self
            .decomposition
            .effects
            .iter()
            .filter(|e| e.factors.len() > 1)
            .map(|e| e.fraction)
            .sum();
        if self.factors.len() > 1 {
            shares.push(("interactions".to_owned(), more));
        }
        shares
    }

    /// Share of the seed: what is left inside the cells.
    pub fn seed_noise(&self) -> f64 {
        self.decomposition.residual_fraction.unwrap_or(0.0)
    }

    /// Whether the seed moves the metric more than the method does: then the conclusion hangs on
    /// the seeds.
    pub fn hangs_on_seeds(&self) -> bool {
        let method = self.factors.iter().position(|f| f == "method");
        let share = method.and_then(|i| self.decomposition.fraction_of(&[i]));
        share.is_some_and(|s| self.seed_noise() > s)
    }
}

/// Decomposes the variance of a metric over the design; `None` when the grid is not full and
/// balanced, has fewer than two repetitions or no factor with two levels.
///
/// # Errors
/// When the statistic refuses its input.
pub fn shares(results: &Results, metric: &Metric) -> Result<Option<Shares>, AnalysisError> {
    let dimensions: Vec<_> =
        results.spec.dimensions().into_iter().filter(|f| f.levels.len() >= 2).collect();
    if dimensions.is_empty() {
        return Ok(None);
    }
    let mut cells: BTreeMap<Vec<usize>, BTreeMap<u32, f64>> = BTreeMap::new();
    for trial in results.main().filter(|t| t.status == Status::Ok) {
        let value = results.values.get(&trial.key).and_then(|v| v.get(&metric.name));
        let Some(value) = value.filter(|v| v.is_finite()) else { return Ok(None) };
        let place: Option<Vec<usize>> = dimensions
            .iter()
            .map(|f| trial.cell.get(&f.name).and_then(|v| f.levels.iter().position(|l| same(l, v))))
            .collect();
        let Some(place) = place else { return Ok(None) };
        cells.entry(place).or_default().insert(trial.rep, *value);
    }
    let levels: Vec<usize> = dimensions.iter().map(|f| f.levels.len()).collect();
    let wanted: usize = levels.iter().product();
    let replicates = cells.values().map(BTreeMap::len).min().unwrap_or(0);
    let balanced = cells.len() == wanted && cells.values().all(|c| c.len() == replicates);
    if !balanced || replicates < 2 {
        return Ok(None);
    }
    // BTreeMap order is row-major over the levels.
    let y: Vec<f64> = cells.values().flat_map(|c| c.values().copied()).collect();
    let decomposition = stats::variance_decomposition(&levels, replicates, &y)?;
    let factors = dimensions.iter().map(|f| f.name.clone()).collect();
    Ok(Some(Shares { factors, decomposition, n: y.len() }))
}

fn same(level: &Value, value: &Value) -> bool {
    match (level, value) {
        (Value::Float(a), Value::Int(b)) | (Value::Int(b), Value::Float(a)) => {
            (*a - *b as f64).abs() == 0.0
        }
        (a, b) => a == b,
    }
}
