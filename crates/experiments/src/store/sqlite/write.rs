//! Plans, sessions, events, attempts: everything that is written outside the lease protocol.

use super::WriteError;
use crate::{
    identity::TrialKey,
    plan::{PlannedTrial, Stage},
    store::{
        StoreError,
        record::{
            AttemptRecord, EventRecord, ExperimentRecord, MergeCounts, SessionRecord, Status,
            TrialRow,
        },
        row,
    },
};
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn set_experiment(
    tx: &Transaction<'_>,
    experiment: &ExperimentRecord,
) -> Result<(), WriteError> {
    if let Some(found) = super::read::experiment(tx)?
        && found.id != experiment.id
    {
        return Err(StoreError::Conflict {
            what: "the store's experiment",
            expected: experiment.id.clone(),
            found: found.id,
        }
        .into());
    }
    tx.execute(
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
    Ok(())
}

fn stages(trials: &[PlannedTrial]) -> BTreeSet<Stage> {
    trials.iter().map(|trial| trial.stage).collect()
}

/// Whether the store already holds exactly this plan.
pub(super) fn planned(
    conn: &Connection,
    spec_hash: &str,
    trials: &[PlannedTrial],
) -> Result<bool, WriteError> {
    let mut stored = BTreeMap::new();
    for stage in stages(trials) {
        let mut statement = conn.prepare_cached(
            "SELECT trial_key, ord, spec_hash FROM trial WHERE stage = ?1 AND retired = 0",
        )?;
        let rows = statement.query_map([stage.word()], |row| {
            Ok((row.get::<_, String>(0)?, (row.get::<_, i64>(1)?, row.get::<_, String>(2)?)))
        })?;
        for entry in rows {
            let (key, facts) = entry?;
            stored.insert(key, facts);
        }
    }
    Ok(stored.len() == trials.len()
        && trials.iter().all(|trial| {
            stored.get(&trial.key.0).is_some_and(|(ord, hash)| {
                u64::try_from(*ord) == Ok(trial.ord) && hash == spec_hash
            })
        }))
}

pub(super) fn plan(
    tx: &Transaction<'_>,
    spec_hash: &str,
    trials: &[PlannedTrial],
) -> Result<usize, WriteError> {
    for stage in stages(trials) {
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

/// `wanted` when no attempt has that number yet, else the next free one.
pub(super) fn free_number(
    tx: &Transaction<'_>,
    key: &TrialKey,
    wanted: u32,
) -> Result<u32, WriteError> {
    let taken: bool = tx
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM attempt WHERE trial_key = ?1 AND attempt = ?2)",
        )?
        .query_row(params![key.0, wanted], |row| row.get(0))?;
    if !taken {
        return Ok(wanted);
    }
    Ok(tx.query_row(
        "SELECT 1 + max((SELECT max(attempt) FROM attempt WHERE trial_key = ?1),
             (SELECT attempt FROM trial WHERE trial_key = ?1))",
        [&key.0],
        |row| row.get(0),
    )?)
}

/// Inserts an attempt under `number` with its metrics, points and artifacts.
pub(super) fn insert_attempt(
    tx: &Transaction<'_>,
    attempt: &AttemptRecord,
    number: u32,
    status: Status,
) -> Result<(), WriteError> {
    let key = &attempt.key.0;
    let session = Some(attempt.session_id.as_str()).filter(|id| !id.is_empty());
    let sealed_names: BTreeSet<&str> = attempt
        .sealed_names
        .iter()
        .map(String::as_str)
        .chain(attempt.metrics.iter().filter(|m| m.split == "test").map(|m| m.name.as_str()))
        .collect();
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
        attempt.origin_attempt.unwrap_or(attempt.attempt),
        session,
        attempt.started_at,
        attempt.ended_at,
        status.word(),
        attempt.exit_code,
        attempt.signal,
        attempt.reason,
        attempt.wall_s,
        attempt.cpu_user_s,
        attempt.cpu_sys_s,
        row::signed("peak memory", attempt.peak_rss_kib)?,
        attempt.threads,
        attempt.device,
        attempt.budget_used,
        row::clean(&attempt.stdout_tail),
        row::clean(&attempt.stderr_tail),
        attempt.log_path.as_ref().map(|path| path.to_string_lossy().into_owned()),
        attempt.result_json.as_ref().map(row::json).transpose()?,
        row::json(&sealed_names)?
    ])?;
    for metric in &attempt.metrics {
        let (value, word) = row::split_number(metric.value);
        let sql = if metric.split == "test" {
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
            sealed_names.contains(point.name.as_str())
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

/// Takes a trial with its attempts from another store.
pub(super) fn absorb(
    tx: &Transaction<'_>,
    spec_hash: &str,
    trial: &TrialRow,
    attempts: &[AttemptRecord],
) -> Result<MergeCounts, WriteError> {
    tx.prepare_cached(
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
    let here = super::read::trial(tx, &trial.key.0)?;
    let takes_over = here.status == Status::Pending && trial.status.finished();
    let mut counts = MergeCounts::default();
    let mut final_number = None;
    let mut highest = here.attempt;
    for attempt in attempts {
        let origin = attempt.origin_attempt.unwrap_or(attempt.attempt);
        let is_final = trial.status.finished() && attempt.attempt == trial.attempt;
        let known: Option<u32> = tx
            .prepare_cached(
                "SELECT attempt FROM attempt WHERE trial_key = ?1 AND origin = ?2
                 AND coalesce(session_id, '') = ?3",
            )?
            .query_row(params![trial.key.0, origin, attempt.session_id], |row| row.get(0))
            .optional()?;
        let number = if let Some(number) = known {
            counts.known += 1;
            number
        } else {
            let number = free_number(tx, &trial.key, attempt.attempt)?;
            // Two results of one trial: the one that is here already counts.
            let status = if is_final && !takes_over { Status::Superseded } else { attempt.status };
            insert_attempt(tx, attempt, number, status)?;
            counts.added += 1;
            number
        };
        highest = highest.max(number);
        if is_final {
            final_number = Some(number);
        }
    }
    if takes_over {
        tx.execute(
            "UPDATE trial SET status = ?2, attempt = ?3, granted = min(granted, ?3)
             WHERE trial_key = ?1",
            params![trial.key.0, trial.status.word(), final_number.unwrap_or(highest)],
        )?;
        counts.settled += 1;
    } else if here.status == Status::Pending {
        tx.execute(
            "UPDATE trial SET attempt = ?2 WHERE trial_key = ?1",
            params![trial.key.0, highest],
        )?;
    }
    Ok(counts)
}
