//! What the checks look at: the spec, the plan, and the plain records of the store.

use super::ReportFacts;
use crate::{
    identity::TrialKey,
    plan::{self, Decisions, PlanError, PlannedTrial, Stage},
    spec::{self, Resolved},
    store::{
        Store, StoreError,
        record::{AttemptRecord, EventRecord, SessionRecord, Status, TrialRow},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// Everything that the checklist looks at.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// The spec as it is now.
    pub spec: Resolved,
    /// The spec as it was frozen first; `None` when it was not.
    pub frozen: Option<Resolved>,
    /// Trials that the spec asks for in its main stage. Empty while tuned values are missing.
    pub plan: Vec<PlannedTrial>,
    /// Events, oldest first.
    pub events: Vec<EventRecord>,
    /// Trials of all stages.
    pub trials: Vec<TrialRow>,
    /// Attempts of all trials, oldest first.
    pub attempts: Vec<AttemptRecord>,
    /// Sessions, oldest first.
    pub sessions: Vec<SessionRecord>,
    /// What the report says about itself; `None` before a report was made.
    pub report: Option<ReportFacts>,
}

/// Why evidence could not be gathered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The spec cannot be expanded.
    #[error(transparent)]
    Plan(#[from] PlanError),
}

impl Evidence {
    /// Evidence for a spec before any trial exists.
    ///
    /// # Errors
    /// When the spec cannot be expanded.
    pub fn of_spec(spec: Resolved) -> Result<Self, EvidenceError> {
        let plan = main_plan(&spec, &[])?;
        Ok(Self {
            spec,
            frozen: None,
            plan,
            events: Vec::new(),
            trials: Vec::new(),
            attempts: Vec::new(),
            sessions: Vec::new(),
            report: None,
        })
    }

    /// Reads the evidence from a store.
    ///
    /// # Errors
    /// When the store cannot be read or the spec cannot be expanded.
    pub fn gather(
        store: &dyn Store,
        spec: Resolved,
        report: Option<ReportFacts>,
    ) -> Result<Self, EvidenceError> {
        let trials = store.trials()?;
        let events = store.events()?;
        Ok(Self {
            frozen: frozen(&events, &spec),
            plan: main_plan(&spec, &trials)?,
            events,
            trials,
            attempts: store.attempts()?,
            sessions: store.sessions()?,
            report,
            spec,
        })
    }

    /// Stage of the spec's main trials.
    pub fn stage(&self) -> Stage {
        self.spec.main_stage()
    }

    /// Trials of a stage that the spec still has.
    pub fn rows(&self, stage: Stage) -> impl Iterator<Item = &TrialRow> {
        self.trials.iter().filter(move |t| t.stage == stage && !t.retired)
    }

    /// Finished trials of the main stage.
    pub fn finished(&self) -> impl Iterator<Item = &TrialRow> {
        self.rows(self.stage()).filter(|t| t.status.finished())
    }

    /// Whether any main trial has finished.
    pub fn has_results(&self) -> bool {
        self.finished().next().is_some()
    }

    /// The attempt that counts for each trial that has one.
    pub fn counting(&self) -> BTreeMap<&TrialKey, &AttemptRecord> {
        let counts = |a: &&AttemptRecord| !matches!(a.status, Status::Superseded | Status::Lost);
        self.attempts.iter().filter(counts).map(|a| (&a.key, a)).collect()
    }

    /// The attempts that count for the finished trials of a stage, retired trials left out.
    pub fn results(&self, stage: Stage) -> Vec<(&TrialRow, &AttemptRecord)> {
        let latest = self.counting();
        self.rows(stage)
            .filter(|t| t.status.finished())
            .filter_map(|t| latest.get(&t.key).map(|a| (t, *a)))
            .collect()
    }

    /// Stages that have at least one attempt.
    pub fn stages_run(&self) -> BTreeSet<Stage> {
        let stages: BTreeMap<&TrialKey, Stage> =
            self.trials.iter().map(|t| (&t.key, t.stage)).collect();
        self.attempts.iter().filter_map(|a| stages.get(&a.key).copied()).collect()
    }

    /// Sessions that left a result of the main stage.
    pub fn main_sessions(&self) -> Vec<&SessionRecord> {
        let used: BTreeSet<&str> =
            self.results(self.stage()).iter().map(|(_, a)| a.session_id.as_str()).collect();
        self.sessions.iter().filter(|s| used.contains(s.session_id.as_str())).collect()
    }

    /// Events of a kind, oldest first.
    pub fn events_of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a EventRecord> {
        self.events.iter().filter(move |e| e.kind == kind)
    }
}

/// The main stage's plan. Tuned values come from the trials that are stored already; as long as
/// there are none, the plan is not known yet and stays empty.
fn main_plan(spec: &Resolved, trials: &[TrialRow]) -> Result<Vec<PlannedTrial>, PlanError> {
    let stage = spec.main_stage();
    let searched: Vec<&String> = spec.tuning.iter().flat_map(|t| t.space.keys()).collect();
    let mut tuned: Vec<plan::Selection> = Vec::new();
    for trial in trials.iter().filter(|t| t.stage == stage && !t.retired) {
        let known =
            tuned.iter().any(|s| s.method == trial.method && s.task.as_ref() == Some(&trial.task));
        if searched.is_empty() || known {
            continue;
        }
        let entry = |name: &&String| trial.cell.get(*name).map(|v| ((*name).clone(), v.clone()));
        tuned.push(plan::Selection {
            method: trial.method.clone(),
            task: Some(trial.task.clone()),
            values: searched.iter().filter_map(entry).collect(),
            score: f64::NAN,
            tried: 0,
        });
    }
    match plan::expand(spec, stage, &Decisions { tuned, flipped: Vec::new() }) {
        Err(PlanError::NotTuned { .. }) => Ok(Vec::new()),
        other => other,
    }
}

/// The first frozen spec, from the text that the freeze event keeps.
fn frozen(events: &[EventRecord], spec: &Resolved) -> Option<Resolved> {
    let first = events.iter().find(|e| e.kind == "freeze")?;
    let text = first.detail_json.get("spec_toml")?.as_str()?;
    let file = Path::new("frozen/experiment.toml");
    spec::read(text, file, &spec.folder, &spec.profile, true).ok()
}
