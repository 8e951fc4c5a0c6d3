//! The rows of a store joined with the spec that they answer.

use crate::{
    identity::{TrialKey, Value},
    plan::Stage,
    spec::{Metric, Resolved},
    store::{
        Store, StoreError,
        record::{AttemptRecord, EventRecord, PointRow, SessionRecord, Status, TrialRow},
        seal::{self, SealState},
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that report and figures are made from.
#[derive(Clone, Debug)]
pub struct Results {
    /// The spec under the profile that was run.
    pub spec: Resolved,
    /// Stage of the main trials under this profile.
    pub stage: Stage,
    /// Trials of all stages that the spec still has, in running order.
    pub trials: Vec<TrialRow>,
    /// Trials that the spec no longer has.
    pub retired: usize,
    /// Every attempt, without curve points, by trial and number.
    pub attempts: BTreeMap<TrialKey, BTreeMap<u32, AttemptRecord>>,
    /// Final values by trial, metric and split; sealed ones only after an unsealing.
    pub values: BTreeMap<TrialKey, BTreeMap<String, f64>>,
    /// Curve points by trial, in order of their steps.
    pub points: BTreeMap<TrialKey, Vec<PointRow>>,
    /// Starts of the runner.
    pub sessions: Vec<SessionRecord>,
    /// What happened to the experiment as a whole.
    pub events: Vec<EventRecord>,
    /// Freezes, unsealings, sealed values.
    pub seal: SealState,
}

impl Results {
    /// Reads a store.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn load(store: &dyn Store, spec: Resolved) -> Result<Self, StoreError> {
        let mut values: BTreeMap<TrialKey, BTreeMap<String, f64>> = BTreeMap::new();
        for row in store.metrics()? {
            values.entry(row.key).or_default().insert(row.metric.name, row.metric.value.0);
        }
        let mut points: BTreeMap<TrialKey, Vec<PointRow>> = BTreeMap::new();
        for row in store.points()? {
            points.entry(row.key.clone()).or_default().push(row);
        }
        for rows in points.values_mut() {
            rows.sort_by_key(|row| row.point.step);
        }
        let mut attempts: BTreeMap<TrialKey, BTreeMap<u32, AttemptRecord>> = BTreeMap::new();
        for attempt in store.attempts()? {
            attempts.entry(attempt.key.clone()).or_default().insert(attempt.attempt, attempt);
        }
        let all = store.trials()?;
        let planned = all.len();
        let trials: Vec<TrialRow> = all.into_iter().filter(|t| !t.retired).collect();
        Ok(Self {
            stage: spec.main_stage(),
            retired: planned - trials.len(),
            trials,
            attempts,
            values,
            points,
            sessions: store.sessions()?,
            events: store.events()?,
            seal: seal::state(store)?,
            spec,
        })
    }

    /// Main trials of this profile.
    pub fn main(&self) -> impl Iterator<Item = &TrialRow> {
        self.trials.iter().filter(move |t| t.stage == self.stage)
    }

    /// Whether values of the metric may be shown. No stage is let off: the store hands out no sealed
    /// value, so a metric taken for open would be full of gaps that count as failures.
    pub fn open(&self, metric: &Metric) -> bool {
        metric.split != crate::spec::Split::Test || !self.seal.unseals.is_empty()
    }

    /// The last attempt of a trial.
    pub fn last_attempt(&self, trial: &TrialRow) -> Option<&AttemptRecord> {
        self.attempts.get(&trial.key)?.get(&trial.attempt)
    }
}

/// One repetition of one method on one task. With further factors it is their mean: a repetition
/// is the unit that seeds make independent, a factor level is not.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Observation {
    /// Repetition.
    pub rep: u32,
    /// Mean over the factor levels, after the censoring rule.
    pub value: f64,
    /// Factor levels whose trial failed and whose value comes from the censoring rule.
    pub censored: usize,
}

/// Values of one metric by method, task and repetition.
#[derive(Clone, Debug)]
pub struct Table {
    /// The metric.
    pub metric: Metric,
    /// Methods in the order of the spec.
    pub methods: Vec<String>,
    /// Tasks in the order of the spec.
    pub tasks: Vec<String>,
    /// `[method][task]`, sorted by repetition.
    pub cells: Vec<Vec<Vec<Observation>>>,
    /// Trials that failed, by method.
    pub failed: Vec<usize>,
    /// Trials not finished yet.
    pub pending: usize,
    /// What was done about failed trials, in words; empty when there was none.
    pub censoring: String,
    /// Cells left out by `exclude-listed`, as words.
    pub left_out: Vec<String>,
}

impl Table {
    /// Collects the values of `metric` under a censoring rule.
    pub fn new(results: &Results, metric: &Metric, rule: crate::spec::Censoring) -> Self {
        let methods: Vec<String> = results.spec.methods.iter().map(|m| m.name.clone()).collect();
        let place: BTreeMap<String, usize> =
            methods.iter().enumerate().map(|(i, m)| (m.clone(), i)).collect();
        Self::of(results, metric, rule, methods, results.main(), |t| place.get(&t.method).copied())
    }

    /// Values of any columns: `names` are their names, `column` says which one a trial belongs to.
    pub(crate) fn of<'t>(
        results: &Results,
        metric: &Metric,
        rule: crate::spec::Censoring,
        names: Vec<String>,
        trials: impl Iterator<Item = &'t TrialRow>,
        column: impl Fn(&TrialRow) -> Option<usize>,
    ) -> Self {
        let spec = &results.spec;
        let methods = names;
        let tasks: Vec<String> = spec.tasks.iter().map(|t| t.task.name.clone()).collect();
        let task_at: BTreeMap<&str, usize> =
            tasks.iter().enumerate().map(|(i, t)| (t.as_str(), i)).collect();
        // (method, task, rep) -> value of each factor level; None where the trial failed.
        let mut raw: BTreeMap<(usize, usize, u32), Vec<Option<f64>>> = BTreeMap::new();
        let mut failed = vec![0; methods.len()];
        let mut pending = 0;
        for trial in trials {
            let place = (column(trial), task_at.get(trial.task.as_str()).copied());
            let (Some(m), Some(t)) = place else { continue };
            if !trial.status.finished() {
                pending += 1;
                continue;
            }
            let value = (trial.status == Status::Ok)
                .then(|| results.values.get(&trial.key).and_then(|v| v.get(&metric.name)))
                .flatten()
                .copied()
                .filter(|v| v.is_finite());
            if trial.status != Status::Ok {
                failed[m] += 1;
            }
            raw.entry((m, t, trial.rep)).or_default().push(value);
        }
        let mut table = Self {
            metric: metric.clone(),
            cells: vec![vec![Vec::new(); tasks.len()]; methods.len()],
            methods,
            tasks,
            failed,
            pending,
            censoring: String::new(),
            left_out: Vec::new(),
        };
        table.fill(&raw, rule, spec);
        table
    }

    fn fill(
        &mut self,
        raw: &BTreeMap<(usize, usize, u32), Vec<Option<f64>>>,
        rule: crate::spec::Censoring,
        spec: &Resolved,
    ) {
        use crate::spec::{Censoring, MetricKind};
        let timed = self.metric.kind == MetricKind::Time;
        let any_failed = raw.values().flatten().any(Option::is_none);
        if any_failed {
            self.censoring = match rule {
                Censoring::ExcludeListed => {
                    "repetitions with a failed trial are left out for every method".to_owned()
                }
                Censoring::Par10 if timed => {
                    "a failed trial counts as ten times the wall limit".to_owned()
                }
                Censoring::Km if timed => {
                    "a failed trial counts as the wall limit (restricted mean)".to_owned()
                }
                _ => "a failed trial counts as the worst value".to_owned(),
            };
        }
        let worst: Vec<Option<f64>> = (0..self.tasks.len()).map(|t| self.worst(raw, t)).collect();
        let drop: BTreeSet<(usize, u32)> = raw
            .iter()
            .filter(|(_, levels)| levels.iter().any(Option::is_none))
            .map(|((_, t, rep), _)| (*t, *rep))
            .collect();
        for ((m, t, rep), levels) in raw {
            let censored = levels.iter().filter(|v| v.is_none()).count();
            let stand_in = match rule {
                Censoring::ExcludeListed if drop.contains(&(*t, *rep)) => {
                    if censored > 0 {
                        let place = (&self.methods[*m], &self.tasks[*t]);
                        self.left_out.push(format!("{} on {}, repetition {rep}", place.0, place.1));
                    }
                    continue;
                }
                Censoring::Par10 if timed => Some(10.0 * spec.budget.wall_seconds),
                Censoring::Km if timed => Some(spec.budget.wall_seconds),
                _ => worst[*t],
            };
            let filled: Option<Vec<f64>> = levels.iter().map(|v| v.or(stand_in)).collect();
            // Without a single finite value on the task there is nothing to stand in.
            let Some(filled) = filled else { continue };
            let value = filled.iter().sum::<f64>() / filled.len() as f64;
            self.cells[*m][*t].push(Observation { rep: *rep, value, censored });
        }
    }

    /// The declared bound on the bad side, else the worst value seen on the task.
    fn worst(
        &self,
        raw: &BTreeMap<(usize, usize, u32), Vec<Option<f64>>>,
        task: usize,
    ) -> Option<f64> {
        if let Some([low, high]) = self.metric.range.filter(|r| r.iter().all(|x| x.is_finite())) {
            return Some(if self.metric.higher_is_better { low } else { high });
        }
        let seen = raw.iter().filter(|((_, t, _), _)| *t == task).flat_map(|(_, levels)| levels);
        let seen = seen.flatten().copied();
        if self.metric.higher_is_better {
            seen.min_by(f64::total_cmp)
        } else {
            seen.max_by(f64::total_cmp)
        }
    }

    /// Values of a method on a task.
    pub fn runs(&self, method: usize, task: usize) -> Vec<f64> {
        self.cells[method][task].iter().map(|o| o.value).collect()
    }

    /// Values of two methods on a task for the repetitions that both have, in the same order.
    pub fn paired(&self, first: usize, second: usize, task: usize) -> (Vec<f64>, Vec<f64>) {
        let other: BTreeMap<u32, f64> =
            self.cells[second][task].iter().map(|o| (o.rep, o.value)).collect();
        self.cells[first][task]
            .iter()
            .filter_map(|o| other.get(&o.rep).map(|v| (o.value, *v)))
            .unzip()
    }

    /// Tasks on which every method has a value.
    pub fn complete_tasks(&self) -> Vec<usize> {
        (0..self.tasks.len())
            .filter(|t| self.cells.iter().all(|by_task| !by_task[*t].is_empty()))
            .collect()
    }

    /// Index of a method by name.
    pub fn method(&self, name: &str) -> Option<usize> {
        self.methods.iter().position(|m| m == name)
    }
}

/// A cell without method and task, as words: `lr = 0.001, width = 64`.
pub fn factor_words(trial: &TrialRow) -> String {
    let words: Vec<String> = trial
        .cell
        .iter()
        .filter(|(name, _)| *name != "method" && *name != "task")
        .map(|(name, value)| format!("{name} = {}", value_words(value)))
        .collect();
    words.join(", ")
}

/// A value as a person would write it.
pub fn value_words(value: &Value) -> String {
    match value {
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Float(x) => x.to_string(),
        Value::Text(t) => t.clone(),
    }
}
