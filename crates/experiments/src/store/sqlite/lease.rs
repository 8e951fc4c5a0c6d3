//! Claim, renew, finish, release, reclaim, retry: who may run a trial, and whose result counts.

use super::{WriteError, write};
use crate::{
    identity::TrialKey,
    store::{
        record::{AttemptRecord, Claim, ClaimRequest, Lease, ReclaimRequest, Status},
        row,
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
    tx: &Transaction<'_>,
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
    let pick = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?));
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
        record_lost(tx, &key, request.now, Status::Lost)?;
    }
    tx.prepare_cached(
        "UPDATE trial SET status = 'running', lease_owner = ?2, lease_until = ?3, claimed_at = ?4,
             attempt = 1 + max(attempt,
                 coalesce((SELECT max(attempt) FROM attempt a WHERE a.trial_key = ?1), 0))
         WHERE trial_key = ?1",
    )?
    .execute(params![key, request.owner, request.lease_until, request.now])?;
    let trial = super::read::trial(tx, &key)?;
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

pub(super) fn finish(
    tx: &Transaction<'_>,
    claim: &Claim,
    attempt: &AttemptRecord,
) -> Result<bool, WriteError> {
    // A loss that may be tried again leaves its row and makes the trial pending.
    let next = row::state_after(attempt)?;
    let changed = tx
        .prepare_cached(
            "UPDATE trial SET status = ?4, lease_owner = NULL, lease_until = NULL
             WHERE trial_key = ?1 AND lease_owner = ?2 AND attempt = ?3 AND status = 'running'",
        )?
        .execute(params![claim.trial.key.0, claim.owner, claim.attempt, next.word()])?;
    let held = changed == 1;
    let status = if held { attempt.status } else { Status::Superseded };
    if !held {
        // Who took the trial over has noted the attempt as lost; now it is known better. No other
        // kind of row is replaced: the late attempt then gets a number of its own.
        tx.prepare_cached(
            "DELETE FROM attempt WHERE trial_key = ?1 AND attempt = ?2 AND status = 'lost'",
        )?
        .execute(params![attempt.key.0, attempt.attempt])?;
    }
    let number = write::free_number(tx, &attempt.key, attempt.attempt)?;
    write::insert_attempt(tx, attempt, number, status)?;
    Ok(held)
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

pub(super) fn leases(conn: &Connection) -> Result<Vec<Lease>, WriteError> {
    let mut statement = conn.prepare_cached(
        "SELECT trial_key, attempt, lease_owner, lease_until FROM trial
         WHERE status = 'running' ORDER BY ord",
    )?;
    let rows = statement.query_map([], |row| {
        Ok(Lease {
            key: TrialKey(row.get(0)?),
            attempt: row.get(1)?,
            owner: row.get(2)?,
            until: row.get(3)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn reclaim(
    tx: &Transaction<'_>,
    request: &ReclaimRequest,
) -> Result<Vec<Lease>, WriteError> {
    let mut taken = leases(tx)?;
    taken.retain(|lease| lease.until < request.now || request.dead_owners.contains(&lease.owner));
    for lease in &taken {
        let granted: u32 = tx.query_row(
            "SELECT granted FROM trial WHERE trial_key = ?1",
            [&lease.key.0],
            |row| row.get(0),
        )?;
        let spent = lease.attempt.saturating_sub(granted) >= request.max_attempts;
        let (trial, attempt) =
            if spent { (Status::Crash, Status::Crash) } else { (Status::Pending, Status::Lost) };
        record_lost(tx, &lease.key.0, request.now, attempt)?;
        tx.execute(
            "UPDATE trial SET status = ?2, lease_owner = NULL, lease_until = NULL
             WHERE trial_key = ?1",
            params![lease.key.0, trial.word()],
        )?;
    }
    Ok(taken)
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

/// Leaves a row for the attempt of a runner that is gone.
fn record_lost(
    tx: &Transaction<'_>,
    key: &str,
    now: i64,
    status: Status,
) -> Result<(), WriteError> {
    tx.execute(
        "INSERT INTO attempt (trial_key, attempt, origin, session_id, started_at, ended_at, status,
             reason, wall_s, cpu_user_s, cpu_sys_s, peak_rss_kib, threads, device, stdout_tail,
             stderr_tail, sealed_names)
         SELECT trial_key, attempt, attempt,
             (SELECT session_id FROM session WHERE session_id = lease_owner),
             coalesce(claimed_at, ?2), ?2, ?3, 'lost', 0, 0, 0, 0, 0, '', '', '', '[]'
         FROM trial WHERE trial_key = ?1
         ON CONFLICT DO NOTHING",
        params![key, now, status.word()],
    )?;
    Ok(())
}
