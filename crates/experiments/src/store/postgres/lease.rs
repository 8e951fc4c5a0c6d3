//! Claim, renew, release, retry: who may run a trial. Whose result counts is said once for all
//! backends in [`super::super::protocol`].

use super::{
    Failure,
    read::{collect, trial},
};
use crate::{
    identity::TrialKey,
    store::{
        protocol::Ledger,
        record::{Claim, ClaimRequest, Lease, ReclaimRequest, Status},
        row,
    },
};
use ::postgres::{Transaction, types::ToSql};

pub(super) fn claim(
    tx: &mut Transaction<'_>,
    request: &ClaimRequest,
) -> Result<Option<Claim>, Failure> {
    let only: Option<Vec<&str>> =
        request.only.as_ref().map(|keys| keys.iter().map(|key| key.0.as_str()).collect());
    let stage = request.stage.word();
    let max_attempts = i64::from(request.max_attempts);
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&stage, &max_attempts, &request.now];
    let mut wanted = "";
    if let Some(only) = &only {
        wanted = "AND trial_key = ANY ($4)";
        parameters.push(only);
    }
    // The specification's single statement in two, of which the first locks the row. A row that
    // another runner holds just now is passed over; one that it has changed is looked at again.
    let found = tx.query_opt(
        &format!(
            "SELECT trial_key, status FROM trial
             WHERE stage = $1 AND NOT retired AND attempt - granted < $2
               AND (status = 'pending' OR (status = 'running' AND lease_until < $3)) {wanted}
             ORDER BY ord LIMIT 1 FOR UPDATE SKIP LOCKED"
        ),
        &parameters,
    )?;
    let Some(found) = found else { return Ok(None) };
    let key = TrialKey(found.try_get(0)?);
    if found.try_get::<_, &str>(1)? == Status::Running.word() {
        tx.record_lost(&key, request.now, Status::Lost)?;
    }
    tx.execute(
        "UPDATE trial SET status = 'running', lease_owner = $2, lease_until = $3, claimed_at = $4,
             attempt = 1 + greatest(attempt,
                 (SELECT max(a.attempt) FROM attempt a WHERE a.trial_key = $1))
         WHERE trial_key = $1",
        &[&key.0, &request.owner, &request.lease_until, &request.now],
    )?;
    let trial = trial(tx, &key)?;
    Ok(Some(Claim { attempt: trial.attempt, owner: request.owner.clone(), trial }))
}

pub(super) fn renew(
    tx: &mut Transaction<'_>,
    claim: &Claim,
    lease_until: i64,
) -> Result<bool, Failure> {
    let changed = tx.execute(
        "UPDATE trial SET lease_until = $4
         WHERE trial_key = $1 AND lease_owner = $2 AND attempt = $3 AND status = 'running'",
        &[&claim.trial.key.0, &claim.owner, &i64::from(claim.attempt), &lease_until],
    )?;
    Ok(changed == 1)
}

pub(super) fn release(tx: &mut Transaction<'_>, claim: &Claim) -> Result<(), Failure> {
    tx.execute(
        "UPDATE trial SET status = 'pending', attempt = attempt - 1, lease_owner = NULL,
             lease_until = NULL, claimed_at = NULL
         WHERE trial_key = $1 AND lease_owner = $2 AND attempt = $3 AND status = 'running'",
        &[&claim.trial.key.0, &claim.owner, &i64::from(claim.attempt)],
    )?;
    Ok(())
}

/// Locks the trials whose runners are gone. One that is locked already is just being finished,
/// renewed or claimed, so its runner is not gone.
pub(super) fn hold_gone(
    tx: &mut Transaction<'_>,
    request: &ReclaimRequest,
) -> Result<Vec<Lease>, Failure> {
    let sql = format!(
        "SELECT {} FROM trial
         WHERE status = 'running' AND (lease_until < $1 OR lease_owner = ANY ($2))
         ORDER BY ord FOR UPDATE SKIP LOCKED",
        row::LEASE
    );
    collect(tx, &sql, &[&request.now, &request.dead_owners], row::lease)
}

pub(super) fn retry(tx: &mut Transaction<'_>, keys: &[TrialKey]) -> Result<usize, Failure> {
    let keys: Vec<&str> = keys.iter().map(|key| key.0.as_str()).collect();
    let changed = tx.execute(
        "UPDATE trial SET status = 'pending', granted = attempt
         WHERE trial_key = ANY ($1) AND status NOT IN ('pending', 'running')",
        &[&keys],
    )?;
    Ok(usize::try_from(changed).unwrap_or(usize::MAX))
}
