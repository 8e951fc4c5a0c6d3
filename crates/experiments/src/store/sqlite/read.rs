//! Reading rows back, with the seal in the way of test values.

use super::WriteError;
use crate::{
    identity::TrialKey,
    plan::Stage,
    store::{
        record::{
            Artifact, AttemptRecord, Counts, EventRecord, ExperimentRecord, Metric, MetricRow,
            Point, PointRow, SealedFacts, SessionRecord, TrialRow,
        },
        row,
    },
};
use rusqlite::{Connection, OptionalExtension, Row};
use std::{collections::BTreeMap, path::PathBuf};

const TRIAL: &str = "trial_key, ord, stage, cell_json, method, task, rep, seeds_json, status, \
                     attempt, granted, retired, lease_owner, lease_until";

const ATTEMPT: &str = "trial_key, attempt, origin, session_id, started_at, ended_at, status, \
                       exit_code, signal, reason, wall_s, cpu_user_s, cpu_sys_s, peak_rss_kib, \
                       threads, device, budget_used, stdout_tail, stderr_tail, log_path, \
                       result_json, sealed_names";

fn trial_row(row: &Row<'_>) -> Result<TrialRow, WriteError> {
    Ok(TrialRow {
        key: TrialKey(row.get(0)?),
        ord: u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0),
        stage: row::stage(row.get_ref(2)?.as_str().map_err(rusqlite::Error::from)?)?,
        cell: row::parse("cell", row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?)?,
        method: row.get(4)?,
        task: row.get(5)?,
        rep: row.get(6)?,
        seeds: row::parse("seeds", row.get_ref(7)?.as_str().map_err(rusqlite::Error::from)?)?,
        status: row::status(row.get_ref(8)?.as_str().map_err(rusqlite::Error::from)?)?,
        attempt: row.get(9)?,
        granted: row.get(10)?,
        retired: row.get(11)?,
        lease_owner: row.get(12)?,
        lease_until: row.get(13)?,
    })
}

fn collect<T>(
    conn: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
    read: impl Fn(&Row<'_>) -> Result<T, WriteError>,
) -> Result<Vec<T>, WriteError> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

pub(super) fn experiment(conn: &Connection) -> Result<Option<ExperimentRecord>, WriteError> {
    Ok(conn
        .query_row(
            "SELECT id, spec_toml, spec_hash, schema, created_at FROM experiment",
            [],
            |row| {
                Ok(ExperimentRecord {
                    id: row.get(0)?,
                    spec_toml: row.get(1)?,
                    spec_hash: row.get(2)?,
                    schema: row.get(3)?,
                    created_at: row.get(4)?,
                })
            },
        )
        .optional()?)
}

pub(super) fn trial(conn: &Connection, key: &str) -> Result<TrialRow, WriteError> {
    let mut statement =
        conn.prepare_cached(&format!("SELECT {TRIAL} FROM trial WHERE trial_key = ?1"))?;
    let mut rows = statement.query([key])?;
    match rows.next()? {
        Some(row) => trial_row(row),
        None => Err(rusqlite::Error::QueryReturnedNoRows.into()),
    }
}

pub(super) fn trials(conn: &Connection) -> Result<Vec<TrialRow>, WriteError> {
    collect(
        conn,
        &format!("SELECT {TRIAL} FROM trial ORDER BY stage, ord, trial_key"),
        [],
        trial_row,
    )
}

fn attempt_row(row: &Row<'_>) -> Result<AttemptRecord, WriteError> {
    let number: u32 = row.get(1)?;
    let origin: u32 = row.get(2)?;
    let result: Option<String> = row.get(20)?;
    Ok(AttemptRecord {
        key: TrialKey(row.get(0)?),
        attempt: number,
        origin_attempt: (origin != number).then_some(origin),
        session_id: row.get::<_, Option<String>>(3)?.unwrap_or_default(),
        started_at: row.get(4)?,
        ended_at: row.get(5)?,
        status: row::status(&row.get::<_, String>(6)?)?,
        exit_code: row.get(7)?,
        signal: row.get(8)?,
        reason: row.get(9)?,
        wall_s: row.get(10)?,
        cpu_user_s: row.get(11)?,
        cpu_sys_s: row.get(12)?,
        peak_rss_kib: u64::try_from(row.get::<_, i64>(13)?).unwrap_or(0),
        threads: row.get(14)?,
        device: row.get(15)?,
        budget_used: row.get(16)?,
        stdout_tail: row.get(17)?,
        stderr_tail: row.get(18)?,
        log_path: row.get::<_, Option<String>>(19)?.map(PathBuf::from),
        result_json: result.map(|text| row::parse("result", &text)).transpose()?,
        metrics: Vec::new(),
        points: Vec::new(),
        artifacts: Vec::new(),
        sealed_names: row::parse("list of sealed metrics", &row.get::<_, String>(21)?)?,
    })
}

/// Whether an event permits test values to be read.
pub(super) fn unsealed(conn: &Connection) -> Result<bool, WriteError> {
    Ok(conn.query_row("SELECT EXISTS (SELECT 1 FROM event WHERE kind = 'unseal')", [], |row| {
        row.get(0)
    })?)
}

fn metric_row(row: &Row<'_>) -> Result<MetricRow, WriteError> {
    let word: Option<String> = row.get(5)?;
    Ok(MetricRow {
        key: TrialKey(row.get(0)?),
        attempt: row.get(1)?,
        metric: Metric {
            name: row.get(2)?,
            split: row.get(3)?,
            value: row::join_number(row.get(4)?, word.as_deref())?,
        },
    })
}

fn point_row(row: &Row<'_>) -> Result<PointRow, WriteError> {
    let word: Option<String> = row.get(7)?;
    Ok(PointRow {
        key: TrialKey(row.get(0)?),
        attempt: row.get(1)?,
        point: Point {
            name: row.get(2)?,
            step: u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0),
            budget: row.get(4)?,
            wall_s: row.get(5)?,
            value: row::join_number(row.get(6)?, word.as_deref())?,
        },
    })
}

fn artifact_row(row: &Row<'_>) -> Result<(TrialKey, u32, Artifact), WriteError> {
    Ok((
        TrialKey(row.get(0)?),
        row.get(1)?,
        Artifact {
            name: row.get(2)?,
            path: PathBuf::from(row.get::<_, String>(3)?),
            sha256: row.get(4)?,
            bytes: u64::try_from(row.get::<_, i64>(5)?).unwrap_or(0),
        },
    ))
}

const METRIC: &str = "trial_key, attempt, name, split, value, nonfinite";
const POINT: &str = "trial_key, attempt, name, step, budget, wall_s, value, nonfinite";

pub(super) fn attempts(conn: &Connection) -> Result<Vec<AttemptRecord>, WriteError> {
    let tx = conn.unchecked_transaction()?;
    let mut found = collect(
        &tx,
        &format!("SELECT {ATTEMPT} FROM attempt ORDER BY started_at, trial_key, attempt"),
        [],
        attempt_row,
    )?;
    let place: BTreeMap<(TrialKey, u32), usize> =
        found.iter().enumerate().map(|(i, a)| ((a.key.clone(), a.attempt), i)).collect();
    let mut metrics = collect(&tx, &format!("SELECT {METRIC} FROM metric"), [], metric_row)?;
    if unsealed(&tx)? {
        metrics.extend(collect(&tx, &format!("SELECT {METRIC} FROM sealed"), [], metric_row)?);
    }
    for row in metrics {
        if let Some(&i) = place.get(&(row.key, row.attempt)) {
            found[i].metrics.push(row.metric);
        }
    }
    let artifacts = collect(
        &tx,
        "SELECT trial_key, attempt, name, path, sha256, bytes FROM artifact",
        [],
        artifact_row,
    )?;
    for (key, attempt, artifact) in artifacts {
        if let Some(&i) = place.get(&(key, attempt)) {
            found[i].artifacts.push(artifact);
        }
    }
    Ok(found)
}

pub(super) fn full_attempts(
    conn: &Connection,
    key: &TrialKey,
) -> Result<Vec<AttemptRecord>, WriteError> {
    let tx = conn.unchecked_transaction()?;
    let mut found = collect(
        &tx,
        &format!("SELECT {ATTEMPT} FROM attempt WHERE trial_key = ?1 ORDER BY attempt"),
        [&key.0],
        attempt_row,
    )?;
    let metrics = collect(
        &tx,
        &format!(
            "SELECT {METRIC} FROM metric WHERE trial_key = ?1
             UNION ALL SELECT {METRIC} FROM sealed WHERE trial_key = ?1"
        ),
        [&key.0],
        metric_row,
    )?;
    let points = collect(
        &tx,
        &format!("SELECT {POINT} FROM point WHERE trial_key = ?1 ORDER BY rowid"),
        [&key.0],
        point_row,
    )?;
    let artifacts = collect(
        &tx,
        "SELECT trial_key, attempt, name, path, sha256, bytes FROM artifact WHERE trial_key = ?1",
        [&key.0],
        artifact_row,
    )?;
    for attempt in &mut found {
        let number = attempt.attempt;
        attempt.metrics =
            metrics.iter().filter(|m| m.attempt == number).map(|m| m.metric.clone()).collect();
        attempt.points =
            points.iter().filter(|p| p.attempt == number).map(|p| p.point.clone()).collect();
        attempt.artifacts =
            artifacts.iter().filter(|a| a.1 == number).map(|a| a.2.clone()).collect();
    }
    Ok(found)
}

/// The attempt that gave a finished trial its state.
const COUNTED: &str = "JOIN trial t ON t.trial_key = x.trial_key AND t.attempt = x.attempt \
                       WHERE t.status IN ('ok', 'timeout', 'memout', 'crash', 'invalid')";

pub(super) fn metrics(conn: &Connection) -> Result<Vec<MetricRow>, WriteError> {
    let tx = conn.unchecked_transaction()?;
    let select = |table: &str| {
        format!(
            "SELECT x.trial_key, x.attempt, x.name, x.split, x.value, x.nonfinite, t.stage, t.ord
             FROM {table} x {COUNTED}"
        )
    };
    let sql = if unsealed(&tx)? {
        format!("{} UNION ALL {} ORDER BY 7, 8, 1, 3, 4", select("metric"), select("sealed"))
    } else {
        format!("{} ORDER BY 7, 8, 1, 3, 4", select("metric"))
    };
    collect(&tx, &sql, [], metric_row)
}

pub(super) fn points(conn: &Connection) -> Result<Vec<PointRow>, WriteError> {
    let tx = conn.unchecked_transaction()?;
    let seal = if unsealed(&tx)? { "" } else { "AND x.sealed = 0" };
    collect(
        &tx,
        &format!(
            "SELECT x.trial_key, x.attempt, x.name, x.step, x.budget, x.wall_s, x.value, x.nonfinite
             FROM point x {COUNTED} {seal} ORDER BY t.stage, t.ord, x.trial_key, x.name, x.step, x.rowid"
        ),
        [],
        point_row,
    )
}

pub(super) fn sealed_facts(conn: &Connection) -> Result<BTreeMap<Stage, SealedFacts>, WriteError> {
    let rows = collect(
        conn,
        "SELECT t.stage, count(*), min(a.ended_at) FROM sealed s
         JOIN attempt a ON a.trial_key = s.trial_key AND a.attempt = s.attempt
         JOIN trial t ON t.trial_key = s.trial_key GROUP BY t.stage",
        [],
        |row| {
            let count = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
            Ok((
                row::stage(&row.get::<_, String>(0)?)?,
                SealedFacts { count, first_at: row.get(2)? },
            ))
        },
    )?;
    Ok(rows.into_iter().collect())
}

pub(super) fn result_sessions(conn: &Connection, stage: Stage) -> Result<Vec<String>, WriteError> {
    collect(
        conn,
        &format!(
            "SELECT DISTINCT x.session_id FROM attempt x {COUNTED}
             AND t.stage = ?1 AND t.retired = 0 AND x.session_id IS NOT NULL ORDER BY 1"
        ),
        [stage.word()],
        |row| Ok(row.get(0)?),
    )
}

pub(super) fn events(conn: &Connection) -> Result<Vec<EventRecord>, WriteError> {
    collect(conn, "SELECT at, session_id, kind, detail_json FROM event ORDER BY id", [], |row| {
        Ok(EventRecord {
            at: row.get(0)?,
            session_id: row.get(1)?,
            kind: row.get(2)?,
            detail_json: row::parse("event", &row.get::<_, String>(3)?)?,
        })
    })
}

pub(super) fn sessions(conn: &Connection) -> Result<Vec<SessionRecord>, WriteError> {
    collect(
        conn,
        "SELECT session_id, started_at, ended_at, host, pid, boot_id, args_json, spec_hash,
             git_rev, git_dirty, git_diff_sha, env_json
         FROM session ORDER BY started_at, session_id",
        [],
        |row| {
            Ok(SessionRecord {
                session_id: row.get(0)?,
                started_at: row.get(1)?,
                ended_at: row.get(2)?,
                host: row.get(3)?,
                pid: row.get(4)?,
                boot_id: row.get(5)?,
                args_json: row::parse("arguments", &row.get::<_, String>(6)?)?,
                spec_hash: row.get(7)?,
                git_rev: row.get(8)?,
                git_dirty: row.get(9)?,
                git_diff_sha: row.get(10)?,
                env_json: row::parse("environment", &row.get::<_, String>(11)?)?,
            })
        },
    )
}

pub(super) fn counts(conn: &Connection) -> Result<Counts, WriteError> {
    let rows = collect(
        conn,
        "SELECT method, status, count(*) FROM trial WHERE retired = 0 GROUP BY method, status",
        [],
        |row| {
            let count = u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0);
            Ok(((row.get(0)?, row::status(&row.get::<_, String>(1)?)?), count))
        },
    )?;
    Ok(rows.into_iter().collect())
}
