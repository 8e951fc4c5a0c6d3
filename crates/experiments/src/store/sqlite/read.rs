//! Reading rows back, with the seal in the way of test values.

use super::WriteError;
use crate::{
    identity::TrialKey,
    plan::Stage,
    store::{
        record::{
            AttemptRecord, Counts, EventRecord, ExperimentRecord, Lease, MetricRow, PointRow,
            SealedFacts, SessionRecord, TrialRow,
        },
        row::{self, ARTIFACT, ATTEMPT, COUNTED, Columns, Line, METRIC, POINT, TRIAL},
    },
};
use rusqlite::{Connection, Row, types::FromSqlError};
use std::collections::BTreeMap;

impl Columns for Row<'_> {
    type Error = WriteError;

    fn text(&self, column: usize) -> Result<&str, WriteError> {
        Ok(self.get_ref(column)?.as_str().map_err(of_column)?)
    }

    fn text_or_none(&self, column: usize) -> Result<Option<&str>, WriteError> {
        Ok(self.get_ref(column)?.as_str_or_null().map_err(of_column)?)
    }

    fn whole(&self, column: usize) -> Result<i64, WriteError> {
        Ok(self.get(column)?)
    }

    fn whole_or_none(&self, column: usize) -> Result<Option<i64>, WriteError> {
        Ok(self.get(column)?)
    }

    fn real(&self, column: usize) -> Result<f64, WriteError> {
        Ok(self.get(column)?)
    }

    fn real_or_none(&self, column: usize) -> Result<Option<f64>, WriteError> {
        Ok(self.get(column)?)
    }

    fn flag(&self, column: usize) -> Result<bool, WriteError> {
        Ok(self.get(column)?)
    }
}

fn of_column(error: FromSqlError) -> rusqlite::Error {
    error.into()
}

fn collect<T>(
    conn: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
    read: fn(&Line<'_, WriteError>) -> Result<T, WriteError>,
) -> Result<Vec<T>, WriteError> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

fn first<T>(
    conn: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
    read: fn(&Line<'_, WriteError>) -> Result<T, WriteError>,
) -> Result<Option<T>, WriteError> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    rows.next()?.map(|row| read(row)).transpose()
}

pub(super) fn experiment(conn: &Connection) -> Result<Option<ExperimentRecord>, WriteError> {
    first(conn, &format!("SELECT {} FROM experiment", row::EXPERIMENT), [], row::experiment)
}

pub(super) fn trial(conn: &Connection, key: &str) -> Result<TrialRow, WriteError> {
    let sql = format!("SELECT {TRIAL} FROM trial WHERE trial_key = ?1");
    let found = first(conn, &sql, [key], row::trial)?;
    found.ok_or_else(|| rusqlite::Error::QueryReturnedNoRows.into())
}

pub(super) fn trials(conn: &Connection) -> Result<Vec<TrialRow>, WriteError> {
    let sql = format!("SELECT {TRIAL} FROM trial ORDER BY stage, ord, trial_key");
    collect(conn, &sql, [], row::trial)
}

pub(super) fn leases(conn: &Connection) -> Result<Vec<Lease>, WriteError> {
    let sql = format!("SELECT {} FROM trial WHERE status = 'running' ORDER BY ord", row::LEASE);
    collect(conn, &sql, [], row::lease)
}

/// Whether an event permits test values to be read.
pub(super) fn unsealed(conn: &Connection) -> Result<bool, WriteError> {
    Ok(conn.query_row("SELECT EXISTS (SELECT 1 FROM event WHERE kind = 'unseal')", [], |row| {
        row.get(0)
    })?)
}

pub(super) fn attempts(conn: &Connection) -> Result<Vec<AttemptRecord>, WriteError> {
    let tx = conn.unchecked_transaction()?;
    let sql = format!("SELECT {ATTEMPT} FROM attempt ORDER BY started_at, trial_key, attempt");
    let mut found = collect(&tx, &sql, [], row::attempt)?;
    let mut metrics = collect(&tx, &format!("SELECT {METRIC} FROM metric"), [], row::metric)?;
    if unsealed(&tx)? {
        metrics.extend(collect(&tx, &format!("SELECT {METRIC} FROM sealed"), [], row::metric)?);
    }
    let artifacts = collect(&tx, &format!("SELECT {ARTIFACT} FROM artifact"), [], row::artifact)?;
    row::attach(&mut found, metrics, Vec::new(), artifacts);
    Ok(found)
}

pub(super) fn full_attempts(
    conn: &Connection,
    key: &TrialKey,
) -> Result<Vec<AttemptRecord>, WriteError> {
    let tx = conn.unchecked_transaction()?;
    let sql = format!("SELECT {ATTEMPT} FROM attempt WHERE trial_key = ?1 ORDER BY attempt");
    let mut found = collect(&tx, &sql, [&key.0], row::attempt)?;
    let sql = format!(
        "SELECT {METRIC} FROM metric WHERE trial_key = ?1
         UNION ALL SELECT {METRIC} FROM sealed WHERE trial_key = ?1"
    );
    let metrics = collect(&tx, &sql, [&key.0], row::metric)?;
    let sql = format!("SELECT {POINT} FROM point WHERE trial_key = ?1 ORDER BY rowid");
    let points = collect(&tx, &sql, [&key.0], row::point)?;
    let sql = format!("SELECT {ARTIFACT} FROM artifact WHERE trial_key = ?1");
    let artifacts = collect(&tx, &sql, [&key.0], row::artifact)?;
    row::attach(&mut found, metrics, points, artifacts);
    Ok(found)
}

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
    collect(&tx, &sql, [], row::metric)
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
        row::point,
    )
}

pub(super) fn sealed_facts(conn: &Connection) -> Result<BTreeMap<Stage, SealedFacts>, WriteError> {
    let rows = collect(
        conn,
        "SELECT t.stage, count(*), min(a.ended_at) FROM sealed s
         JOIN attempt a ON a.trial_key = s.trial_key AND a.attempt = s.attempt
         JOIN trial t ON t.trial_key = s.trial_key GROUP BY t.stage",
        [],
        row::sealed_facts,
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
        |row| Ok(row.text(0)?.to_owned()),
    )
}

pub(super) fn events(conn: &Connection) -> Result<Vec<EventRecord>, WriteError> {
    collect(conn, &format!("SELECT {} FROM event ORDER BY id", row::EVENT), [], row::event)
}

pub(super) fn sessions(conn: &Connection) -> Result<Vec<SessionRecord>, WriteError> {
    let sql = format!("SELECT {} FROM session ORDER BY started_at, session_id", row::SESSION);
    collect(conn, &sql, [], row::session)
}

pub(super) fn counts(conn: &Connection) -> Result<Counts, WriteError> {
    let rows = collect(
        conn,
        "SELECT method, status, count(*) FROM trial WHERE retired = 0 GROUP BY method, status",
        [],
        row::tally,
    )?;
    Ok(rows.into_iter().collect())
}
