//! Plans, sessions and events, and the statements behind the rules of [`super::super::protocol`].

use super::{WriteError, read};
use crate::{
    identity::TrialKey,
    plan::PlannedTrial,
    store::{
        protocol::{self, Ledger, Planned},
        record::{
            AttemptRecord, Claim, EventRecord, ExperimentRecord, SessionRecord, Status, TrialRow,
        },
        row::{self, AttemptColumns},
    },
};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

/// Whether the store already holds exactly this plan.
pub(super) fn is_planned(
    conn: &Connection,
    spec_hash: &str,
    trials: &[PlannedTrial],
) -> Result<bool, WriteError> {
    let mut stored = Planned::new();
    for stage in protocol::stages(trials) {
        let mut statement = conn.prepare_cached(
            "SELECT trial_key, ord, spec_hash FROM trial WHERE stage = ?1 AND retired = 0",
        )?;
        let mut rows = statement.query([stage.word()])?;
        while let Some(row) = rows.next()? {
            stored.insert(row.get(0)?, (row::count(row, 1)?, row.get(2)?));
        }
    }
    Ok(protocol::is_planned(&stored, spec_hash, trials))
}

pub(super) fn plan(
    tx: &Transaction<'_>,
    spec_hash: &str,
    trials: &[PlannedTrial],
) -> Result<usize, WriteError> {
    for stage in protocol::stages(trials) {
        tx.execute("UPDATE trial SET retired = 1 WHERE stage = ?1", [stage.word()])?;
    }
    let before: i64 = tx.query_row("SELECT count(*) FROM trial", [], |row| row.get(0))?;
    let mut insert = tx.prepare_cached(
        "INSERT INTO trial (trial_key, ord, stage, cell_json, method, task, rep, seeds_json, spec_hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (trial_key) DO UPDATE SET retired = 0, ord = excluded.ord,
             spec_hash = excluded.spec_hash",
    )?;
    for trial in trials {
        insert.execute(params![
            trial.key.0,
            row::signed("trial order", trial.ord)?,
            trial.stage.word(),
            row::json(&trial.cell)?,
            trial.method,
            trial.task,
            trial.rep,
            row::json(&trial.seeds)?,
            spec_hash
        ])?;
    }
    let after: i64 = tx.query_row("SELECT count(*) FROM trial", [], |row| row.get(0))?;
    Ok(usize::try_from(after - before).unwrap_or(0))
}

pub(super) fn begin_session(
    tx: &Transaction<'_>,
    session: &SessionRecord,
) -> Result<(), WriteError> {
    tx.execute(
        "INSERT INTO session (session_id, started_at, ended_at, host, pid, boot_id, args_json,
             spec_hash, git_rev, git_dirty, git_diff_sha, env_json)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
         ON CONFLICT (session_id) DO UPDATE SET ended_at = coalesce(ended_at, excluded.ended_at)",
        params![
            session.session_id,
            session.started_at,
            session.ended_at,
            session.host,
            session.pid,
            session.boot_id,
            row::json(&session.args_json)?,
            session.spec_hash,
            session.git_rev,
            session.git_dirty,
            session.git_diff_sha,
            row::json(&session.env_json)?
        ],
    )?;
    Ok(())
}

pub(super) fn end_session(
    tx: &Transaction<'_>,
    session_id: &str,
    ended_at: i64,
) -> Result<(), WriteError> {
    tx.execute(
        "UPDATE session SET ended_at = ?2 WHERE session_id = ?1",
        params![session_id, ended_at],
    )?;
    Ok(())
}

pub(super) fn append_event(tx: &Transaction<'_>, event: &EventRecord) -> Result<(), WriteError> {
    tx.execute(
        "INSERT INTO event (at, session_id, kind, detail_json) VALUES (?1, ?2, ?3, ?4)",
        params![event.at, event.session_id, event.kind, row::json(&event.detail_json)?],
    )?;
    Ok(())
}

// The immediate transaction already holds every row.
impl Ledger for &Transaction<'_> {
    type Error = WriteError;

    fn put_experiment(
        &mut self,
        experiment: &ExperimentRecord,
    ) -> Result<Option<ExperimentRecord>, WriteError> {
        if let Some(found) = read::experiment(self)?
            && found.id != experiment.id
        {
            return Ok(Some(found));
        }
        self.execute(
            "INSERT INTO experiment (one, id, spec_toml, spec_hash, schema, created_at)
             VALUES (1, ?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (one) DO UPDATE SET spec_toml = excluded.spec_toml,
                 spec_hash = excluded.spec_hash, schema = excluded.schema",
            params![
                experiment.id,
                experiment.spec_toml,
                experiment.spec_hash,
                experiment.schema,
                experiment.created_at
            ],
        )?;
        Ok(None)
    }

    fn hold_trial(&mut self, key: &TrialKey) -> Result<TrialRow, WriteError> {
        read::trial(self, &key.0)
    }

    fn insert_trial(&mut self, spec_hash: &str, trial: &TrialRow) -> Result<(), WriteError> {
        self.prepare_cached(
            "INSERT INTO trial (trial_key, ord, stage, cell_json, method, task, rep, seeds_json,
                 spec_hash, retired)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            trial.key.0,
            row::signed("trial order", trial.ord)?,
            trial.stage.word(),
            row::json(&trial.cell)?,
            trial.method,
            trial.task,
            trial.rep,
            row::json(&trial.seeds)?,
            spec_hash,
            trial.retired
        ])?;
        Ok(())
    }

    fn end_lease(&mut self, claim: &Claim, next: Status) -> Result<bool, WriteError> {
        let changed = self
            .prepare_cached(
                "UPDATE trial SET status = ?4, lease_owner = NULL, lease_until = NULL
                 WHERE trial_key = ?1 AND lease_owner = ?2 AND attempt = ?3 AND status = 'running'",
            )?
            .execute(params![claim.trial.key.0, claim.owner, claim.attempt, next.word()])?;
        Ok(changed == 1)
    }

    fn record_lost(&mut self, key: &TrialKey, now: i64, status: Status) -> Result<(), WriteError> {
        self.execute(
            "INSERT INTO attempt (trial_key, attempt, origin, session_id, started_at, ended_at,
                 status, reason, wall_s, cpu_user_s, cpu_sys_s, peak_rss_kib, threads, device,
                 stdout_tail, stderr_tail, sealed_names)
             SELECT trial_key, attempt, attempt,
                 (SELECT session_id FROM session WHERE session_id = lease_owner),
                 coalesce(claimed_at, ?2), ?2, ?3, 'lost', 0, 0, 0, 0, 0, '', '', '', '[]'
             FROM trial WHERE trial_key = ?1
             ON CONFLICT DO NOTHING",
            params![key.0, now, status.word()],
        )?;
        Ok(())
    }

    fn remove_lost(&mut self, key: &TrialKey, attempt: u32) -> Result<(), WriteError> {
        self.prepare_cached(
            "DELETE FROM attempt WHERE trial_key = ?1 AND attempt = ?2 AND status = 'lost'",
        )?
        .execute(params![key.0, attempt])?;
        Ok(())
    }

    fn take_back(&mut self, key: &TrialKey, next: Status) -> Result<(), WriteError> {
        self.execute(
            "UPDATE trial SET status = ?2, lease_owner = NULL, lease_until = NULL
             WHERE trial_key = ?1",
            params![key.0, next.word()],
        )?;
        Ok(())
    }

    fn known_attempt(
        &mut self,
        key: &TrialKey,
        origin: u32,
        session_id: &str,
    ) -> Result<Option<u32>, WriteError> {
        Ok(self
            .prepare_cached(
                "SELECT attempt FROM attempt WHERE trial_key = ?1 AND origin = ?2
                 AND coalesce(session_id, '') = ?3",
            )?
            .query_row(params![key.0, origin, session_id], |row| row.get(0))
            .optional()?)
    }

    fn free_number(&mut self, key: &TrialKey, wanted: u32) -> Result<u32, WriteError> {
        let taken: bool = self
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM attempt WHERE trial_key = ?1 AND attempt = ?2)",
            )?
            .query_row(params![key.0, wanted], |row| row.get(0))?;
        if !taken {
            return Ok(wanted);
        }
        Ok(self.query_row(
            "SELECT 1 + max((SELECT max(attempt) FROM attempt WHERE trial_key = ?1),
                 (SELECT attempt FROM trial WHERE trial_key = ?1))",
            [&key.0],
            |row| row.get(0),
        )?)
    }

    fn insert_attempt(
        &mut self,
        attempt: &AttemptRecord,
        number: u32,
        status: Status,
    ) -> Result<(), WriteError> {
        insert_attempt(self, attempt, number, status)
    }

    fn settle(&mut self, key: &TrialKey, status: Status, attempt: u32) -> Result<(), WriteError> {
        self.execute(
            "UPDATE trial SET status = ?2, attempt = ?3, granted = min(granted, ?3)
             WHERE trial_key = ?1",
            params![key.0, status.word(), attempt],
        )?;
        Ok(())
    }
}

fn insert_attempt(
    tx: &Transaction<'_>,
    attempt: &AttemptRecord,
    number: u32,
    status: Status,
) -> Result<(), WriteError> {
    let key = &attempt.key.0;
    let columns = AttemptColumns::new(attempt)?;
    tx.prepare_cached(
        "INSERT INTO attempt (trial_key, attempt, origin, session_id, started_at, ended_at, status,
             exit_code, signal, reason, wall_s, cpu_user_s, cpu_sys_s, peak_rss_kib, threads,
             device, budget_used, stdout_tail, stderr_tail, log_path, result_json, sealed_names)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18,
             ?19, ?20, ?21, ?22)",
    )?
    .execute(params![
        key,
        number,
        columns.origin,
        columns.session,
        attempt.started_at,
        attempt.ended_at,
        status.word(),
        attempt.exit_code,
        attempt.signal,
        columns.reason,
        attempt.wall_s,
        attempt.cpu_user_s,
        attempt.cpu_sys_s,
        columns.peak_rss_kib,
        attempt.threads,
        attempt.device,
        attempt.budget_used,
        columns.stdout_tail,
        columns.stderr_tail,
        columns.log_path,
        columns.result_json,
        columns.sealed_names
    ])?;
    for metric in &attempt.metrics {
        let (value, word) = row::split_number(metric.value);
        let sql = if row::is_sealed(metric) {
            "INSERT INTO sealed VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
        } else {
            "INSERT INTO metric VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
        };
        tx.prepare_cached(sql)?.execute(params![
            key,
            number,
            metric.name,
            metric.split,
            value,
            word
        ])?;
    }
    let mut insert =
        tx.prepare_cached("INSERT INTO point VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?;
    for point in &attempt.points {
        let (value, word) = row::split_number(point.value);
        insert.execute(params![
            key,
            number,
            point.name,
            row::signed("step", point.step)?,
            point.budget,
            point.wall_s,
            value,
            word,
            columns.sealed.contains(point.name.as_str())
        ])?;
    }
    for artifact in &attempt.artifacts {
        tx.prepare_cached("INSERT INTO artifact VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(
            params![
                key,
                number,
                artifact.name,
                artifact.path.to_string_lossy(),
                artifact.sha256,
                row::signed("artifact size", artifact.bytes)?
            ],
        )?;
    }
    Ok(())
}
