//! The loop around all trials: one thread owns the store, one thread per slot runs trials.
//!
//! Long because the loop and the states it moves trials through belong on one page.

use super::{
    GitFacts, Notice, Observer, Progress, RunError, RunOptions, RunPlan, RunSummary, environment,
    limits,
    owner::Owner,
    process::{self, Executed, GO_ON, Job, LEASE_LOST, STOP, unix_ms},
    progress::{Estimator, RunningTrial},
    schedule::{self, Slot, Topology, Wish},
};
use crate::{
    identity::TrialKey,
    plan::Stage,
    store::{
        Store, StoreError,
        backup::sha256_of,
        record::{
            AttemptRecord, Claim, ClaimRequest, ExperimentRecord, ReclaimRequest, SessionRecord,
            Status, TrialRow,
        },
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

/// Longest sleep of the loop: how soon a stop request is seen.
const NAP: Duration = Duration::from_millis(100);

/// Time between two looks for dead runners while there is nothing to claim.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Runs what is open and returns when nothing is, or when it was asked to stop.
///
/// Trials that are finished in the store are not run again, whoever ran them. Several runners, also
/// of several processes, may work on one store.
///
/// # Errors
/// See [`RunError`]; results committed before the error stay, running trials are given back.
pub fn run(
    store: &mut dyn Store,
    plan: &RunPlan,
    options: &RunOptions,
    observer: &mut dyn Observer,
) -> Result<RunSummary, RunError> {
    let started = Instant::now();
    let plan = &check(plan)?;
    register(store, plan)?;
    store.plan(&plan.spec_hash, &plan.trials)?;
    let owner = Owner::current();
    let reclaimed = reclaim(store, plan, &owner, observer)?;
    let selected = selection(plan, options);
    let rows = rows(store, plan.stage, selected.as_ref())?;
    let mut summary = RunSummary {
        total: rows.len() as u64,
        finished_before: rows.iter().filter(|row| row.status.finished()).count() as u64,
        reclaimed,
        ..RunSummary::default()
    };
    if rows.iter().all(|row| row.status.finished() || row.status == Status::Running)
        && !options.wait_for_others
    {
        summary.states = states(&rows);
        summary.wall_s = started.elapsed().as_secs_f64();
        observer.notice(&Notice::Ended { summary: summary.clone() });
        return Ok(summary);
    }
    let timed = plan.metrics.iter().any(|metric| metric.timed);
    let slots = schedule::slots(
        &Wish {
            jobs: options.jobs,
            threads: plan.threads,
            pin: options.pin,
            timed,
            gpus: if plan.device == "cpu" { 0 } else { schedule::gpu_count() },
            gpu_share: options.gpu_share,
        },
        &Topology::read(),
    )?;
    let session_id = begin(store, plan, options, &owner, observer)?;
    summary.session_id = Some(session_id.clone());
    let mut estimator = Estimator::new(&rows, slots.len());
    observer.notice(&Notice::Planned {
        total: summary.total,
        finished: summary.finished_before,
        jobs: slots.len() as u64,
    });
    let outcome = {
        let mut engine = Engine {
            store,
            plan,
            options,
            observer,
            owner: &owner,
            session_id: &session_id,
            selected: selected.map(|keys| keys.into_iter().collect()),
            summary: &mut summary,
            estimator: &mut estimator,
            started,
            claimed: 0,
            fatal: None,
        };
        engine.drive(&slots)
    };
    // The session has ended either way; a store that refuses has told why already.
    let closed = store.end_session(&session_id, unix_ms());
    outcome?;
    closed?;
    let chosen = selection(plan, options);
    summary.states = states(&self::rows(store, plan.stage, chosen.as_ref())?);
    summary.interrupted = options.stop.is_raised();
    summary.wall_s = started.elapsed().as_secs_f64();
    observer.notice(&Notice::Ended { summary: summary.clone() });
    Ok(summary)
}

fn states(rows: &[TrialRow]) -> BTreeMap<Status, u64> {
    let mut counts = BTreeMap::new();
    for row in rows {
        *counts.entry(row.status).or_insert(0) += 1;
    }
    counts
}

/// Checks the plan and makes its folder absolute: trials may run in another working folder.
fn check(plan: &RunPlan) -> Result<RunPlan, RunError> {
    if let Some(trial) = plan.trials.iter().find(|trial| trial.stage != plan.stage) {
        return Err(RunError::Plan(format!(
            "trial {}: expected stage {:?}, found {:?}",
            trial.key.0, plan.stage, trial.stage
        )));
    }
    let keys: BTreeSet<&TrialKey> = plan.trials.iter().map(|trial| &trial.key).collect();
    if keys.len() != plan.trials.len() {
        return Err(RunError::Plan(format!(
            "expected {} different trial keys, found {}",
            plan.trials.len(),
            keys.len()
        )));
    }
    if plan.limits.max_attempts == 0 {
        return Err(RunError::Plan("max_attempts: expected at least 1, found 0".to_owned()));
    }
    std::fs::create_dir_all(&plan.root).map_err(|error| RunError::io(&plan.root, &error))?;
    let mut plan = plan.clone();
    plan.root =
        std::path::absolute(&plan.root).map_err(|error| RunError::io(&plan.root, &error))?;
    Ok(plan)
}

/// Says whose store it is. Short stages do not replace the hash of the full run.
fn register(store: &mut dyn Store, plan: &RunPlan) -> Result<(), RunError> {
    let record = ExperimentRecord {
        id: plan.experiment.clone(),
        spec_toml: plan.spec_toml.clone(),
        spec_hash: plan.spec_hash.clone(),
        schema: plan.schema,
        created_at: unix_ms(),
    };
    let write = match store.experiment()? {
        None => true,
        Some(known) if known.id != record.id => true,
        Some(known) => {
            plan.stage == Stage::Main
                && (known.spec_hash != record.spec_hash || known.spec_toml != record.spec_toml)
        }
    };
    if write {
        store.set_experiment(&record)?;
    }
    Ok(())
}

/// Keys of the trials that this runner may take; `None` for all.
fn selection(plan: &RunPlan, options: &RunOptions) -> Option<BTreeSet<TrialKey>> {
    let mut keys: Option<BTreeSet<TrialKey>> =
        options.only.as_ref().map(|only| only.iter().cloned().collect());
    if let Some(shard) = options.shard {
        let groups: BTreeSet<(u32, &str)> =
            plan.trials.iter().map(|trial| (trial.rep, trial.task.as_str())).collect();
        let place: BTreeMap<(u32, &str), u64> = groups.into_iter().zip(0_u64..).collect();
        let mine = plan.trials.iter().filter(|trial| {
            let number = if shard.by_task_and_rep {
                place[&(trial.rep, trial.task.as_str())]
            } else {
                trial.ord
            };
            number % shard.count.max(1) == shard.index
        });
        let mine: BTreeSet<TrialKey> = mine.map(|trial| trial.key.clone()).collect();
        keys = Some(match keys {
            Some(only) => only.intersection(&mine).cloned().collect(),
            None => mine,
        });
    }
    keys
}

fn rows(
    store: &dyn Store,
    stage: Stage,
    selected: Option<&BTreeSet<TrialKey>>,
) -> Result<Vec<TrialRow>, StoreError> {
    let mut rows = store.trials()?;
    rows.retain(|row| {
        row.stage == stage && !row.retired && selected.is_none_or(|keys| keys.contains(&row.key))
    });
    Ok(rows)
}

/// Takes the trials of dead runners back and ends processes that they left on this host.
fn reclaim(
    store: &mut dyn Store,
    plan: &RunPlan,
    owner: &Owner,
    observer: &mut dyn Observer,
) -> Result<u64, StoreError> {
    let owners: BTreeSet<String> = store.leases()?.into_iter().map(|lease| lease.owner).collect();
    let dead: Vec<String> = owners.into_iter().filter(|text| owner.is_dead(text)).collect();
    let taken = store.reclaim(&ReclaimRequest {
        dead_owners: dead.clone(),
        now: unix_ms(),
        max_attempts: plan.limits.max_attempts,
    })?;
    // Only where runner and supervisor were both killed is anything left of a trial.
    let marks: Vec<String> = taken
        .iter()
        .filter(|lease| dead.contains(&lease.owner))
        .map(|lease| process::token(&lease.owner, &lease.key.0, lease.attempt))
        .collect();
    process::end_marked(&marks);
    for lease in &taken {
        observer.notice(&Notice::Reclaimed { key: lease.key.clone(), attempt: lease.attempt });
    }
    Ok(taken.len() as u64)
}

/// Captures the environment, guards against mixed revisions, records the session.
fn begin(
    store: &mut dyn Store,
    plan: &RunPlan,
    options: &RunOptions,
    owner: &Owner,
    observer: &mut dyn Observer,
) -> Result<String, RunError> {
    let described = environment::describe(plan)
        .map_err(|message| RunError::Program { path: plan.program.path.clone(), message })?;
    let git = plan.source_dir.as_deref().map(GitFacts::read).unwrap_or_default();
    let careful = !matches!(plan.stage, Stage::Smoke | Stage::Pilot);
    if git.dirty && careful && !options.allow_dirty {
        return Err(RunError::Dirty);
    }
    let program_sha = executable(&plan.program.path).and_then(|path| sha256_of(&path).ok());
    let program_sha = program_sha.map(|(sha, _)| sha);
    if !options.allow_mixed {
        guard(store, plan.stage, &git, program_sha.as_deref())?;
    }
    let diff = git.save_diff(&plan.root).map_err(|error| RunError::io(&plan.root, &error))?;
    let cores = Topology::read().cores.len().max(1);
    if let Some(load) = schedule::load_average().filter(|load| *load > 0.5 * cores as f64) {
        observer.notice(&Notice::Warning {
            text: format!(
                "the machine is busy: load average {load:.2} on {cores} cores; times will suffer"
            ),
        });
    }
    let session_id = owner.text();
    store.begin_session(&SessionRecord {
        session_id: session_id.clone(),
        started_at: unix_ms(),
        ended_at: None,
        host: owner.host.clone(),
        pid: owner.pid,
        boot_id: owner.boot_id.clone(),
        args_json: serde_json::json!(options.args),
        spec_hash: plan.spec_hash.clone(),
        git_rev: git.rev.clone(),
        git_dirty: git.dirty,
        git_diff_sha: diff,
        env_json: environment::capture(plan, &git, program_sha.as_deref(), &described),
    })?;
    Ok(session_id)
}

/// The file that a shell would run.
fn executable(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return Some(program.to_path_buf());
    }
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// Section 6.9: results of another revision or binary are not mixed unseen.
fn guard(
    store: &dyn Store,
    stage: Stage,
    git: &GitFacts,
    program_sha: Option<&str>,
) -> Result<(), RunError> {
    let counted = store.result_sessions(stage)?;
    for session in store.sessions()?.into_iter().filter(|s| counted.contains(&s.session_id)) {
        let before_sha = session.env_json["program"]["sha256"].as_str().map(str::to_owned);
        let pairs = [
            ("git revision", session.git_rev, git.rev.clone()),
            ("trial program (SHA-256)", before_sha, program_sha.map(str::to_owned)),
        ];
        for (what, before, now) in pairs {
            if let (Some(before), Some(now)) = (before, now)
                && before != now
            {
                return Err(RunError::Mixed { what, before, now });
            }
        }
    }
    Ok(())
}

/// What a slot's thread is told.
struct Order {
    claim: Claim,
    cancel: Arc<AtomicU8>,
}

/// What it answers.
struct Answer {
    slot: usize,
    claim: Claim,
    outcome: Result<Executed, RunError>,
}

struct Busy {
    claim: Claim,
    cancel: Arc<AtomicU8>,
    since: Instant,
}

struct Engine<'a> {
    store: &'a mut dyn Store,
    plan: &'a RunPlan,
    options: &'a RunOptions,
    observer: &'a mut dyn Observer,
    owner: &'a Owner,
    session_id: &'a str,
    selected: Option<Vec<TrialKey>>,
    summary: &'a mut RunSummary,
    estimator: &'a mut Estimator,
    started: Instant,
    claimed: u64,
    fatal: Option<RunError>,
}

/// Ends running trials when the loop is left by a panic: scoped threads are waited for.
struct CancelAll(Vec<Option<Busy>>);

impl Drop for CancelAll {
    fn drop(&mut self) {
        for busy in self.0.iter().flatten() {
            busy.cancel.store(STOP, Ordering::Release);
        }
    }
}

impl Engine<'_> {
    fn drive(&mut self, slots: &[Slot]) -> Result<(), RunError> {
        let cgroup = limits::own_cgroup();
        let (plan, session_id) = (self.plan, self.session_id);
        thread::scope(|scope| {
            let (answer_to, answers) = mpsc::channel();
            let mut orders = Vec::new();
            for (number, slot) in slots.iter().enumerate() {
                let (order_to, order_from) = mpsc::channel::<Order>();
                let answer_to: Sender<Answer> = answer_to.clone();
                let cgroup = cgroup.as_deref();
                scope.spawn(move || {
                    for order in order_from {
                        let job = Job {
                            plan,
                            claim: &order.claim,
                            session_id,
                            slot,
                            cgroup,
                            cancel: &order.cancel,
                        };
                        let outcome = process::execute(&job);
                        let answer = Answer { slot: number, claim: order.claim, outcome };
                        if answer_to.send(answer).is_err() {
                            return;
                        }
                    }
                });
                orders.push(order_to);
            }
            drop(answer_to);
            let mut busy = CancelAll((0..slots.len()).map(|_| None).collect());
            self.coordinate(&orders, &answers, &mut busy.0);
        });
        match self.fatal.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn coordinate(
        &mut self,
        orders: &[Sender<Order>],
        answers: &Receiver<Answer>,
        busy: &mut [Option<Busy>],
    ) {
        let mut heartbeat = Instant::now();
        let mut looked = Instant::now();
        let mut ticked = Instant::now();
        loop {
            if self.options.stop.gives_back() {
                for running in busy.iter().flatten() {
                    // A lost lease stays a lost lease.
                    let _ = running.cancel.compare_exchange(
                        GO_ON,
                        STOP,
                        Ordering::AcqRel,
                        Ordering::Acquire,
                    );
                }
            }
            let draining = self.draining();
            let mut starved = false;
            if !draining {
                starved = self.fill(orders, busy);
            }
            if busy.iter().all(Option::is_none) {
                if self.draining() {
                    return;
                }
                if starved && !self.others_hold_work() {
                    return;
                }
            }
            match answers.recv_timeout(NAP) {
                Ok(answer) => {
                    self.settle(answer, busy);
                    while let Ok(answer) = answers.try_recv() {
                        self.settle(answer, busy);
                    }
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            if heartbeat.elapsed() >= self.options.heartbeat {
                heartbeat = Instant::now();
                self.renew(busy);
            }
            if starved && looked.elapsed() >= LOOK_AGAIN {
                looked = Instant::now();
                match reclaim(self.store, self.plan, self.owner, self.observer) {
                    Ok(count) => self.summary.reclaimed += count,
                    Err(error) => self.fail(error.into(), busy),
                }
            }
            if ticked.elapsed() >= NAP {
                ticked = Instant::now();
                let running = busy.iter().flatten().map(|b| RunningTrial {
                    key: b.claim.trial.key.clone(),
                    method: b.claim.trial.method.clone(),
                    task: b.claim.trial.task.clone(),
                    rep: b.claim.trial.rep,
                    elapsed_s: b.since.elapsed().as_secs_f64(),
                    limit_s: self.plan.limits.wall.map(|limit| limit.as_secs_f64()),
                });
                let running = running.collect();
                let progress = self.progress();
                self.observer.notice(&Notice::Tick { progress, running });
            }
        }
    }

    fn draining(&self) -> bool {
        self.fatal.is_some()
            || self.options.stop.is_raised()
            || self.options.max_trials.is_some_and(|most| self.claimed >= most)
            || self.options.time_limit.is_some_and(|limit| self.started.elapsed() >= limit)
    }

    /// Gives every idle slot a trial; `true` when there was none left to give.
    fn fill(&mut self, orders: &[Sender<Order>], busy: &mut [Option<Busy>]) -> bool {
        for slot in 0..busy.len() {
            if busy[slot].is_some() {
                continue;
            }
            if self.draining() {
                return false;
            }
            let now = unix_ms();
            let request = ClaimRequest {
                owner: self.session_id.to_owned(),
                now,
                lease_until: now + self.options.lease.as_millis() as i64,
                max_attempts: self.plan.limits.max_attempts,
                stage: self.plan.stage,
                only: self.selected.clone(),
            };
            let claim = match self.store.claim(&request) {
                Ok(Some(claim)) => claim,
                Ok(None) => return true,
                Err(error) => {
                    self.fail(error.into(), busy);
                    return false;
                }
            };
            self.claimed += 1;
            let trial = &claim.trial;
            self.observer.notice(&Notice::Started {
                key: trial.key.clone(),
                method: trial.method.clone(),
                task: trial.task.clone(),
                rep: trial.rep,
                attempt: claim.attempt,
                slot: slot as u64,
            });
            let cancel = Arc::new(AtomicU8::new(GO_ON));
            busy[slot] = Some(Busy {
                claim: claim.clone(),
                cancel: Arc::clone(&cancel),
                since: Instant::now(),
            });
            // The thread lives as long as its channel.
            let _ = orders[slot].send(Order { claim, cancel });
        }
        false
    }

    fn others_hold_work(&mut self) -> bool {
        if !self.options.wait_for_others {
            return false;
        }
        match rows(self.store, self.plan.stage, None) {
            Ok(rows) => rows.iter().any(|row| {
                row.status == Status::Running
                    && self.selected.as_ref().is_none_or(|keys| keys.contains(&row.key))
            }),
            Err(_) => false,
        }
    }

    /// Commits or gives back what a slot has answered.
    fn settle(&mut self, answer: Answer, busy: &mut [Option<Busy>]) {
        busy[answer.slot] = None;
        match answer.outcome {
            // A batch system that ends a job may signal every process of it: a trial that failed
            // while trials are given back was not given its chance.
            Ok(Executed::Finished(attempt))
                if self.options.stop.gives_back()
                    && matches!(attempt.status, Status::Lost | Status::Crash | Status::Invalid) =>
            {
                self.summary.released += 1;
                if let Err(error) = self.store.release(&answer.claim) {
                    self.fail(error.into(), busy);
                }
            }
            Ok(Executed::Finished(attempt)) => {
                if let Err(error) = self.commit(&answer.claim, &attempt) {
                    self.fail(error.into(), busy);
                }
            }
            Ok(Executed::Stopped) => {
                self.summary.released += 1;
                if let Err(error) = self.store.release(&answer.claim) {
                    self.fail(error.into(), busy);
                }
            }
            Err(error) => {
                // Not the trial's fault: it is given back as far as the store allows.
                let _ = self.store.release(&answer.claim);
                self.summary.released += 1;
                self.fail(error, busy);
            }
        }
    }

    fn commit(&mut self, claim: &Claim, attempt: &AttemptRecord) -> Result<(), StoreError> {
        let mut tries = 0;
        let held = loop {
            match self.store.finish(claim, attempt) {
                // Another writer is slow; the result is worth more patience than one timeout.
                Err(StoreError::Busy { .. }) if tries < 5 => tries += 1,
                other => break other?,
            }
        };
        let status = if held { attempt.status } else { Status::Superseded };
        *self.summary.ran.entry(status).or_insert(0) += 1;
        self.estimator.finished(&claim.trial, status, attempt.wall_s);
        let warnings = attempt
            .result_json
            .as_ref()
            .and_then(|facts| serde_json::from_value(facts["warnings"].clone()).ok())
            .unwrap_or_default();
        let progress = self.progress();
        self.observer.notice(&Notice::Finished {
            key: claim.trial.key.clone(),
            method: claim.trial.method.clone(),
            task: claim.trial.task.clone(),
            rep: claim.trial.rep,
            attempt: claim.attempt,
            status,
            reason: attempt.reason.clone(),
            wall_s: attempt.wall_s,
            warnings,
            progress,
        });
        Ok(())
    }

    fn renew(&mut self, busy: &mut [Option<Busy>]) {
        let until = unix_ms() + self.options.lease.as_millis() as i64;
        let mut failure = None;
        for running in busy.iter().flatten() {
            match self.store.renew(&running.claim, until) {
                Ok(true) | Err(StoreError::Busy { .. }) => {}
                Ok(false) => running.cancel.store(LEASE_LOST, Ordering::Release),
                Err(error) => failure = Some(error),
            }
        }
        if let Some(error) = failure {
            self.fail(error.into(), busy);
        }
    }

    /// Notes the first error. Without a store that takes results, running on is of no use; after
    /// any other error running trials may end by themselves.
    fn fail(&mut self, error: RunError, busy: &[Option<Busy>]) {
        if matches!(error, RunError::Store(_)) {
            for running in busy.iter().flatten() {
                running.cancel.store(STOP, Ordering::Release);
            }
        }
        self.fatal.get_or_insert(error);
    }

    fn progress(&self) -> Progress {
        self.estimator.progress()
    }
}
