//! The rules that every backend follows when it writes: whose result counts, what becomes of a lost
//! runner's trial, how trials of another store come in (specification, sections 5.2 and 11). The
//! backends differ only in their statements, which [`Ledger`] names.

use super::{
    StoreError,
    record::{
        AttemptRecord, Claim, ExperimentRecord, Lease, MergeCounts, ReclaimRequest, Status,
        TrialRow,
    },
};
use crate::{
    identity::TrialKey,
    plan::{PlannedTrial, Stage},
};
use std::collections::{BTreeMap, BTreeSet};

/// The statements of one write transaction.
pub(super) trait Ledger {
    /// What a statement can fail with.
    type Error: From<StoreError>;

    /// Writes the experiment unless the store belongs to another one, which it returns.
    fn put_experiment(
        &mut self,
        experiment: &ExperimentRecord,
    ) -> Result<Option<ExperimentRecord>, Self::Error>;

    /// Reads a trial; until the transaction ends nobody else changes it or its attempts.
    fn hold_trial(&mut self, key: &TrialKey) -> Result<TrialRow, Self::Error>;

    /// Inserts a trial as pending unless it is there.
    fn insert_trial(&mut self, spec_hash: &str, trial: &TrialRow) -> Result<(), Self::Error>;

    /// Puts the trial into state `next` without a lease if this claim still holds it, and tells
    /// whether it did. Holds the trial either way.
    fn end_lease(&mut self, claim: &Claim, next: Status) -> Result<bool, Self::Error>;

    /// Leaves a row without results for the attempt that now holds the trial.
    fn record_lost(&mut self, key: &TrialKey, now: i64, status: Status) -> Result<(), Self::Error>;

    /// Removes the row of an attempt that was noted as lost, and no other kind of row.
    fn remove_lost(&mut self, key: &TrialKey, attempt: u32) -> Result<(), Self::Error>;

    /// Takes a running trial from its runner.
    fn take_back(&mut self, key: &TrialKey, next: Status) -> Result<(), Self::Error>;

    /// The number under which an attempt of another store is known here.
    fn known_attempt(
        &mut self,
        key: &TrialKey,
        origin: u32,
        session_id: &str,
    ) -> Result<Option<u32>, Self::Error>;

    /// `wanted` when no attempt has that number yet, else the next free one.
    fn free_number(&mut self, key: &TrialKey, wanted: u32) -> Result<u32, Self::Error>;

    /// Inserts an attempt under `number` with its metrics, points and artifacts.
    fn insert_attempt(
        &mut self,
        attempt: &AttemptRecord,
        number: u32,
        status: Status,
    ) -> Result<(), Self::Error>;

    /// Sets a trial's state and number of attempts.
    fn settle(&mut self, key: &TrialKey, status: Status, attempt: u32) -> Result<(), Self::Error>;
}

/// Key, place and spec hash of the trials that a store has planned in some stages.
pub(super) type Planned = BTreeMap<String, (u64, String)>;

/// The stages that a plan speaks of.
pub(super) fn stages(trials: &[PlannedTrial]) -> BTreeSet<Stage> {
    trials.iter().map(|trial| trial.stage).collect()
}

/// Whether what is stored is exactly this plan.
pub(super) fn is_planned(stored: &Planned, spec_hash: &str, trials: &[PlannedTrial]) -> bool {
    stored.len() == trials.len()
        && trials.iter().all(|trial| {
            stored
                .get(&trial.key.0)
                .is_some_and(|(ord, hash)| *ord == trial.ord && hash == spec_hash)
        })
}

pub(super) fn set_experiment<L: Ledger>(
    ledger: &mut L,
    experiment: &ExperimentRecord,
) -> Result<(), L::Error> {
    match ledger.put_experiment(experiment)? {
        None => Ok(()),
        Some(other) => Err(StoreError::Conflict {
            what: "the store's experiment",
            expected: experiment.id.clone(),
            found: other.id,
        }
        .into()),
    }
}

/// State of the trial once the attempt is committed.
fn state_after(attempt: &AttemptRecord) -> Result<Status, StoreError> {
    match attempt.status {
        status if status.finished() => Ok(status),
        // A loss that may be tried again leaves its row and makes the trial pending.
        Status::Lost => Ok(Status::Pending),
        other => Err(StoreError::Conflict {
            what: "status of a finished attempt",
            expected: "ok, timeout, memout, crash, invalid or lost".to_owned(),
            found: other.word().to_owned(),
        }),
    }
}

/// Commits an attempt; `false` when the lease was lost.
pub(super) fn finish<L: Ledger>(
    ledger: &mut L,
    claim: &Claim,
    attempt: &AttemptRecord,
) -> Result<bool, L::Error> {
    let held = ledger.end_lease(claim, state_after(attempt)?)?;
    let status = if held { attempt.status } else { Status::Superseded };
    if !held {
        // Who took the trial over has noted the attempt as lost; now it is known better. If it was
        // noted as anything else, the late attempt gets a number of its own.
        ledger.remove_lost(&attempt.key, attempt.attempt)?;
    }
    let number = ledger.free_number(&attempt.key, attempt.attempt)?;
    ledger.insert_attempt(attempt, number, status)?;
    Ok(held)
}

/// Whether the runner behind a lease is gone.
pub(super) fn is_gone(lease: &Lease, request: &ReclaimRequest) -> bool {
    lease.until < request.now || request.dead_owners.contains(&lease.owner)
}

/// Takes back those of `leases`, all held by this transaction, whose runners are gone.
pub(super) fn reclaim<L: Ledger>(
    ledger: &mut L,
    mut leases: Vec<Lease>,
    request: &ReclaimRequest,
) -> Result<Vec<Lease>, L::Error> {
    leases.retain(|lease| is_gone(lease, request));
    for lease in &leases {
        let granted = ledger.hold_trial(&lease.key)?.granted;
        let spent = lease.attempt.saturating_sub(granted) >= request.max_attempts;
        let (trial, attempt) =
            if spent { (Status::Crash, Status::Crash) } else { (Status::Pending, Status::Lost) };
        ledger.record_lost(&lease.key, request.now, attempt)?;
        ledger.take_back(&lease.key, trial)?;
    }
    Ok(leases)
}

/// Takes a trial with its attempts from another store.
pub(super) fn absorb<L: Ledger>(
    ledger: &mut L,
    spec_hash: &str,
    trial: &TrialRow,
    attempts: &[AttemptRecord],
) -> Result<MergeCounts, L::Error> {
    ledger.insert_trial(spec_hash, trial)?;
    let here = ledger.hold_trial(&trial.key)?;
    let takes_over = here.status == Status::Pending && trial.status.finished();
    let mut counts = MergeCounts::default();
    let mut final_number = None;
    let mut highest = here.attempt;
    for attempt in attempts {
        let origin = attempt.origin_attempt.unwrap_or(attempt.attempt);
        let is_final = trial.status.finished() && attempt.attempt == trial.attempt;
        let known = ledger.known_attempt(&trial.key, origin, &attempt.session_id)?;
        let number = if let Some(number) = known {
            counts.known += 1;
            number
        } else {
            let number = ledger.free_number(&trial.key, attempt.attempt)?;
            // Two results of one trial: the one that is here already counts.
            let status = if is_final && !takes_over { Status::Superseded } else { attempt.status };
            ledger.insert_attempt(attempt, number, status)?;
            counts.added += 1;
            number
        };
        highest = highest.max(number);
        if is_final {
            final_number = Some(number);
        }
    }
    if takes_over {
        ledger.settle(&trial.key, trial.status, final_number.unwrap_or(highest))?;
        counts.settled += 1;
    } else if here.status == Status::Pending {
        ledger.settle(&trial.key, Status::Pending, highest)?;
    }
    Ok(counts)
}
