//! Claim, renew, release, retry: who may run a trial. Whose result counts is said once for all
//! backends in [`super::super::protocol`].

use super::WriteError;
use crate::{
    identity::TrialKey,
    store::{
        protocol::Ledger,
        record::{Claim, ClaimRequest, Status},
    },
};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

/// Fills the temporary table of wanted keys.
pub(super) fn write_wanted(conn: &mut Connection, only: &[TrialKey]) -> rusqlite::Result<()> {
    let tx = conn.transaction()?;
    tx.execute_batch(
        "CREATE TEMP TABLE IF NOT EXISTS wanted (trial_key TEXT PRIMARY KEY) WITHOUT ROWID;
         DELETE FROM temp.wanted;",
    )?;
    {
        let mut insert = tx.prepare_cached("INSERT OR IGNORE INTO temp.wanted VALUES (?1)")?;
        for key in only {
            insert.execute([&key.0])?;
        }
    }
    tx.commit()
}

pub(super) fn claim(
    mut tx: &Transaction<'_>,
    request: &ClaimRequest,
) -> Result<Option<Claim>, WriteError> {
    let wanted = if request.only.is_some() {
        "AND EXISTS (SELECT 1 FROM temp.wanted w WHERE w.trial_key = trial.trial_key)"
    } else {
        ""
    };
    // The specification's single statement, taken apart into its two branches so that each reads
    // the first row of an index. The immediate transaction around them makes it atomic.
    let pending = format!(
        "SELECT trial_key, ord FROM trial WHERE stage = ?1 AND retired = 0 AND status = 'pending'
         AND attempt - granted < ?2 {wanted} ORDER BY ord LIMIT 1"
    );
    let expired = format!(
        "SELECT trial_key, ord FROM trial WHERE stage = ?1 AND retired = 0 AND status = 'running'
         AND attempt - granted < ?2 AND lease_until < ?3 {wanted} ORDER BY ord LIMIT 1"
    );
    let pick = |row: &rusqlite::Row<'_>| Ok((TrialKey(row.get(0)?), row.get::<_, i64>(1)?));
    let stage = request.stage.word();
    let pending = tx
        .prepare_cached(&pending)?
        .query_row(params![stage, request.max_attempts], pick)
        .optional()?;
    let expired = tx
        .prepare_cached(&expired)?
        .query_row(params![stage, request.max_attempts, request.now], pick)
        .optional()?;
    let (key, was_running) = match (pending, expired) {
        (None, None) => return Ok(None),
        (Some((key, _)), None) => (key, false),
        (None, Some((key, _))) => (key, true),
        (Some((p, p_ord)), Some((e, e_ord))) => {
            if e_ord < p_ord {
                (e, true)
            } else {
                (p, false)
            }
        }
    };
    if was_running {
        tx.record_lost(&key, request.now, Status::Lost)?;
    }
    tx.prepare_cached(
        "UPDATE trial SET status = 'running', lease_owner = ?2, lease_until = ?3, claimed_at = ?4,
             attempt = 1 + max(attempt,
                 coalesce((SELECT max(attempt) FROM attempt a WHERE a.trial_key = ?1), 0))
         WHERE trial_key = ?1",
    )?
    .execute(params![key.0, request.owner, request.lease_until, request.now])?;
    let trial = super::read::trial(tx, &key.0)?;
    Ok(Some(Claim { attempt: trial.attempt, owner: request.owner.clone(), trial }))
}

pub(super) fn renew(
    tx: &Transaction<'_>,
    claim: &Claim,
    lease_until: i64,
) -> Result<bool, WriteError> {
    let changed = tx
        .prepare_cached(
            "UPDATE trial SET lease_until = ?4
             WHERE trial_key = ?1 AND lease_owner = ?2 AND attempt = ?3 AND status = 'running'",
        )?
        .execute(params![claim.trial.key.0, claim.owner, claim.attempt, lease_until])?;
    Ok(changed == 1)
}

pub(super) fn release(tx: &Transaction<'_>, claim: &Claim) -> Result<(), WriteError> {
    tx.execute(
        "UPDATE trial SET status = 'pending', attempt = attempt - 1,
             lease_owner = NULL, lease_until = NULL, claimed_at = NULL
         WHERE trial_key = ?1 AND lease_owner = ?2 AND attempt = ?3 AND status = 'running'",
        params![claim.trial.key.0, claim.owner, claim.attempt],
    )?;
    Ok(())
}

pub(super) fn retry(tx: &Transaction<'_>, keys: &[TrialKey]) -> Result<usize, WriteError> {
    let mut changed = 0;
    for key in keys {
        changed += tx.execute(
            "UPDATE trial SET status = 'pending', granted = attempt
             WHERE trial_key = ?1 AND status NOT IN ('pending', 'running')",
            [&key.0],
        )?;
    }
    Ok(changed)
}
