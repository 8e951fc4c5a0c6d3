//! Overtuning: what the search chose on validation data, held against test data (specification,
//! 7.12).
//!
//! Test values of the search are sealed like all others and play no part in it; after the
//! unsealing they say how far its choices can be trusted. A study whose search does not measure on
//! test data has none of this.

use super::{
    AnalysisError, Found, drawing::estimate, results::Results, summary::bootstrap_options,
};
use crate::{
    figures::{CurvePoint, Head, Overtuning as OvertuningFigure, TunedMethod},
    plan::{self, Stage},
    spec::{Metric, Split, Tuning},
    stats::{self, Interval, OvertuningSummary},
    store::record::{Status, TrialRow},
};
use serde::Serialize;
use std::collections::BTreeMap;

/// Searches of all methods.
#[derive(Clone, Debug, Serialize)]
pub struct Overtuning {
    /// Metric that the search chose by.
    pub validation: String,
    /// Metric that it is held against.
    pub test: String,
    /// In the order of the spec.
    pub methods: Vec<MethodSearches>,
}

/// Searches of one method: one per task and repetition of the search.
#[derive(Clone, Debug, Serialize)]
pub struct MethodSearches {
    /// Method.
    pub method: String,
    /// Number of searches.
    pub searches: usize,
    /// Validation value of the incumbent after each evaluation, mean over the searches.
    pub validation: Vec<(f64, Interval)>,
    /// Test value of the same incumbent.
    pub on_test: Vec<(f64, Interval)>,
    /// Relative overtuning at the end.
    pub summary: OvertuningSummary,
}

/// Evaluations of one search in drawing order; `None` where the trial failed.
type Search = Vec<Option<(f64, f64)>>;

/// Collects the searches, or says why there are none.
///
/// # Errors
/// When a statistic refuses its input.
pub fn overtuning(results: &Results) -> Result<Found<Overtuning>, AnalysisError> {
    let spec = &results.spec;
    let declared = spec.tuning.as_ref().and_then(|t| spec.metric(&t.metric).map(|m| (t, m)));
    let Some((tuning, validation)) = declared else {
        return Ok(Err("the spec has no [tuning]".to_owned()));
    };
    let alike =
        |m: &&Metric| m.split == Split::Test && m.higher_is_better == validation.higher_is_better;
    let primary = spec.primary().filter(alike);
    let Some(test) = primary.or_else(|| spec.metrics.iter().find(alike)) else {
        return Ok(Err("no test metric has the direction of the tuning metric".to_owned()));
    };
    if !results.open(test) {
        return Ok(Err(format!("`{}` is sealed", test.name)));
    }
    let mut methods = Vec::new();
    for method in &spec.methods {
        let searches = searches(results, tuning, &method.name, validation, test);
        if let Some(traced) = trace(results, &method.name, &searches, validation)? {
            methods.push(traced);
        }
    }
    if methods.is_empty() {
        let why = format!(
            "no finished trial of stage tune has both `{}` and `{}`",
            validation.name, test.name
        );
        return Ok(Err(why));
    }
    Ok(Ok(Overtuning { validation: validation.name.clone(), test: test.name.clone(), methods }))
}

/// The finished searches of a method, evaluations in drawing order, which is the same for all
/// methods. A search with trials still to run is left out.
fn searches(
    results: &Results,
    tuning: &Tuning,
    method: &str,
    validation: &Metric,
    test: &Metric,
) -> Vec<Search> {
    let drawn = plan::configurations(results.spec.repetitions.root_seed, tuning);
    let place =
        |t: &TrialRow| drawn.iter().position(|c| c.iter().all(|(k, v)| t.cell.get(k) == Some(v)));
    let mut by_search: BTreeMap<(String, u32), Vec<(usize, &TrialRow)>> = BTreeMap::new();
    for trial in results.trials.iter().filter(|t| t.stage == Stage::Tune && t.method == method) {
        // What is not searched tells one search from another: the task and further factors.
        let fixed = trial.cell.iter().filter(|(name, _)| !tuning.space.contains_key(*name));
        let fixed: Vec<String> = fixed.map(|(name, value)| format!("{name}={value}")).collect();
        if let Some(place) = place(trial) {
            by_search.entry((fixed.join("\n"), trial.rep)).or_default().push((place, trial));
        }
    }
    let value = |t: &TrialRow, m: &Metric| {
        let found = results.values.get(&t.key).and_then(|v| v.get(&m.name)).copied();
        found.filter(|v| v.is_finite())
    };
    by_search
        .into_values()
        .filter(|trials| trials.iter().all(|(_, t)| t.status.finished()))
        .map(|mut trials| {
            trials.sort_by_key(|(place, _)| *place);
            let of = |(_, t): &(usize, &TrialRow)| {
                let ok = t.status == Status::Ok;
                ok.then(|| value(t, validation).zip(value(t, test))).flatten()
            };
            trials.iter().map(of).collect::<Search>()
        })
        .filter(|search| search.iter().any(Option::is_some))
        .collect()
}

fn trace(
    results: &Results,
    method: &str,
    searches: &[Search],
    validation: &Metric,
) -> Result<Option<MethodSearches>, AnalysisError> {
    if searches.is_empty() {
        return Ok(None);
    }
    let sign = if validation.higher_is_better { -1.0 } else { 1.0 };
    let longest = searches.iter().map(Vec::len).max().unwrap_or(0);
    // Incumbents' values by evaluation, over the searches.
    let mut on_validation = vec![Vec::new(); longest];
    let mut on_test = vec![Vec::new(); longest];
    let mut all = Vec::new();
    for search in searches {
        // A failed evaluation never becomes the incumbent: it is as if it had not been.
        let (places, pairs): (Vec<usize>, Vec<(f64, f64)>) =
            search.iter().enumerate().filter_map(|(i, pair)| pair.map(|p| (i, p))).unzip();
        let (val, test): (Vec<f64>, Vec<f64>) =
            pairs.iter().map(|(v, t)| (sign * v, sign * t)).unzip();
        let one = stats::overtuning(&val, &test)?;
        for i in 0..longest {
            let seen = places.partition_point(|p| *p <= i);
            if let Some(last) = seen.checked_sub(1) {
                let (v, t) = pairs[one.incumbent[last]];
                on_validation[i].push(v);
                on_test[i].push(t);
            }
        }
        all.push(one);
    }
    let options = bootstrap_options(&results.spec);
    let curve = |values: Vec<Vec<f64>>| -> Result<Vec<(f64, Interval)>, AnalysisError> {
        let points = values.into_iter().enumerate().filter(|(_, v)| !v.is_empty());
        points.map(|(i, v)| Ok(((i + 1) as f64, stats::mean_interval(&v, &options)?))).collect()
    };
    Ok(Some(MethodSearches {
        method: method.to_owned(),
        searches: searches.len(),
        validation: curve(on_validation)?,
        on_test: curve(on_test)?,
        summary: stats::overtuning_summary(&all, stats::SMALLEST_IMPROVEMENT)?,
    }))
}

impl Overtuning {
    /// The figure; `label` gives a method's display name.
    pub(super) fn figure(
        &self,
        head: Head,
        y_label: String,
        label: impl Fn(&str) -> String,
    ) -> OvertuningFigure {
        let points = |curve: &[(f64, Interval)]| {
            curve.iter().map(|(b, i)| CurvePoint { budget: *b, value: estimate(i) }).collect()
        };
        OvertuningFigure {
            head,
            x_label: "evaluations of the search".to_owned(),
            y_label,
            methods: self
                .methods
                .iter()
                .map(|m| TunedMethod {
                    method: label(&m.method),
                    validation: points(&m.validation),
                    test: points(&m.on_test),
                    relative: m.summary.sorted.clone(),
                    excluded: m.summary.n_excluded,
                })
                .collect(),
        }
    }

    /// Shares of overtuned searches as one sentence per method.
    pub fn words(&self) -> Vec<String> {
        let percent = |share: Option<f64>| {
            share.map_or_else(|| "-".to_owned(), |s| format!("{:.0}%", 100.0 * s))
        };
        self.methods
            .iter()
            .map(|m| {
                let s = &m.summary;
                format!(
                    "{}: {} searches, overtuned not at all {}, by more than 0.1 {}, back to the start or \
                     worse {} ({} left out, whose improvement is below {})",
                    m.method,
                    s.n_runs,
                    percent(s.share_none),
                    percent(s.share_above_tenth),
                    percent(s.share_at_least_one),
                    s.n_excluded,
                    stats::SMALLEST_IMPROVEMENT
                )
            })
            .collect()
    }
}
