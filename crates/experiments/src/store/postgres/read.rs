//! Reading rows back, with the seal in the way of test values.

use super::Failure;
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
use ::postgres::{Row, Transaction, types::ToSql};
use std::collections::BTreeMap;

impl Columns for Row {
    type Error = Failure;

    fn text(&self, column: usize) -> Result<&str, Failure> {
        Ok(self.try_get(column)?)
    }

    fn text_or_none(&self, column: usize) -> Result<Option<&str>, Failure> {
        Ok(self.try_get(column)?)
    }

    fn whole(&self, column: usize) -> Result<i64, Failure> {
        Ok(self.try_get(column)?)
    }

    fn whole_or_none(&self, column: usize) -> Result<Option<i64>, Failure> {
        Ok(self.try_get(column)?)
    }

    fn real(&self, column: usize) -> Result<f64, Failure> {
        Ok(self.try_get(column)?)
    }

    fn real_or_none(&self, column: usize) -> Result<Option<f64>, Failure> {
        Ok(self.try_get(column)?)
    }

    fn flag(&self, column: usize) -> Result<bool, Failure> {
        Ok(self.try_get(column)?)
    }
}

pub(super) fn collect<T>(
    tx: &mut Transaction<'_>,
    sql: &str,
    parameters: &[&(dyn ToSql + Sync)],
    read: fn(&Line<'_, Failure>) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    tx.query(sql, parameters)?.iter().map(|row| read(row)).collect()
}

pub(super) fn experiment(tx: &mut Transaction<'_>) -> Result<Option<ExperimentRecord>, Failure> {
    let sql = format!("SELECT {} FROM experiment", row::EXPERIMENT);
    tx.query_opt(&sql, &[])?.map(|found| row::experiment(&found)).transpose()
}

pub(super) fn trial(tx: &mut Transaction<'_>, key: &TrialKey) -> Result<TrialRow, Failure> {
    let sql = format!("SELECT {TRIAL} FROM trial WHERE trial_key = $1");
    row::trial(&tx.query_one(&sql, &[&key.0])?)
}

pub(super) fn trials(tx: &mut Transaction<'_>) -> Result<Vec<TrialRow>, Failure> {
    let sql = format!("SELECT {TRIAL} FROM trial ORDER BY stage, ord, trial_key");
    collect(tx, &sql, &[], row::trial)
}

pub(super) fn leases(tx: &mut Transaction<'_>) -> Result<Vec<Lease>, Failure> {
    let sql = format!("SELECT {} FROM trial WHERE status = 'running' ORDER BY ord", row::LEASE);
    collect(tx, &sql, &[], row::lease)
}

/// Whether an event permits test values to be read.
fn unsealed(tx: &mut Transaction<'_>) -> Result<bool, Failure> {
    let sql = "SELECT EXISTS (SELECT 1 FROM event WHERE kind = 'unseal')";
    Ok(tx.query_one(sql, &[])?.try_get(0)?)
}

// A table has no order of its own here: what SQLite reads by primary key is sorted by it.

pub(super) fn attempts(tx: &mut Transaction<'_>) -> Result<Vec<AttemptRecord>, Failure> {
    let sql = format!("SELECT {ATTEMPT} FROM attempt ORDER BY started_at, trial_key, attempt");
    let mut found = collect(tx, &sql, &[], row::attempt)?;
    let mut metrics = Vec::new();
    let tables = if unsealed(tx)? { &["metric", "sealed"][..] } else { &["metric"] };
    for table in tables {
        let sql = format!("SELECT {METRIC} FROM {table} ORDER BY name, split");
        metrics.extend(collect(tx, &sql, &[], row::metric)?);
    }
    let sql = format!("SELECT {ARTIFACT} FROM artifact ORDER BY name");
    let artifacts = collect(tx, &sql, &[], row::artifact)?;
    row::attach(&mut found, metrics, Vec::new(), artifacts);
    Ok(found)
}

pub(super) fn full_attempts(
    tx: &mut Transaction<'_>,
    key: &TrialKey,
) -> Result<Vec<AttemptRecord>, Failure> {
    let sql = format!("SELECT {ATTEMPT} FROM attempt WHERE trial_key = $1 ORDER BY attempt");
    let mut found = collect(tx, &sql, &[&key.0], row::attempt)?;
    let mut metrics = Vec::new();
    for table in ["metric", "sealed"] {
        let sql = format!("SELECT {METRIC} FROM {table} WHERE trial_key = $1 ORDER BY name, split");
        metrics.extend(collect(tx, &sql, &[&key.0], row::metric)?);
    }
    let sql = format!("SELECT {POINT} FROM point WHERE trial_key = $1 ORDER BY id");
    let points = collect(tx, &sql, &[&key.0], row::point)?;
    let sql = format!("SELECT {ARTIFACT} FROM artifact WHERE trial_key = $1 ORDER BY name");
    let artifacts = collect(tx, &sql, &[&key.0], row::artifact)?;
    row::attach(&mut found, metrics, points, artifacts);
    Ok(found)
}

pub(super) fn metrics(tx: &mut Transaction<'_>) -> Result<Vec<MetricRow>, Failure> {
    let select = |table: &str| {
        format!(
            "SELECT x.trial_key, x.attempt, x.name, x.split, x.value, x.nonfinite, t.stage, t.ord
             FROM {table} x {COUNTED}"
        )
    };
    let sql = if unsealed(tx)? {
        format!("{} UNION ALL {} ORDER BY 7, 8, 1, 3, 4", select("metric"), select("sealed"))
    } else {
        format!("{} ORDER BY 7, 8, 1, 3, 4", select("metric"))
    };
    collect(tx, &sql, &[], row::metric)
}

pub(super) fn points(tx: &mut Transaction<'_>) -> Result<Vec<PointRow>, Failure> {
    let seal = if unsealed(tx)? { "" } else { "AND NOT x.sealed" };
    let sql = format!(
        "SELECT x.trial_key, x.attempt, x.name, x.step, x.budget, x.wall_s, x.value, x.nonfinite
         FROM point x {COUNTED} {seal} ORDER BY t.stage, t.ord, x.trial_key, x.name, x.step, x.id"
    );
    collect(tx, &sql, &[], row::point)
}

pub(super) fn sealed_facts(
    tx: &mut Transaction<'_>,
) -> Result<BTreeMap<Stage, SealedFacts>, Failure> {
    let sql = "SELECT t.stage, count(*), min(a.ended_at) FROM sealed s
               JOIN attempt a ON a.trial_key = s.trial_key AND a.attempt = s.attempt
               JOIN trial t ON t.trial_key = s.trial_key GROUP BY t.stage";
    Ok(collect(tx, sql, &[], row::sealed_facts)?.into_iter().collect())
}

pub(super) fn result_sessions(
    tx: &mut Transaction<'_>,
    stage: Stage,
) -> Result<Vec<String>, Failure> {
    let sql = format!(
        "SELECT DISTINCT x.session_id FROM attempt x {COUNTED}
         AND t.stage = $1 AND NOT t.retired AND x.session_id IS NOT NULL ORDER BY 1"
    );
    collect(tx, &sql, &[&stage.word()], |row| Ok(row.text(0)?.to_owned()))
}

pub(super) fn events(tx: &mut Transaction<'_>) -> Result<Vec<EventRecord>, Failure> {
    collect(tx, &format!("SELECT {} FROM event ORDER BY id", row::EVENT), &[], row::event)
}

pub(super) fn sessions(tx: &mut Transaction<'_>) -> Result<Vec<SessionRecord>, Failure> {
    let sql = format!("SELECT {} FROM session ORDER BY started_at, session_id", row::SESSION);
    collect(tx, &sql, &[], row::session)
}

pub(super) fn counts(tx: &mut Transaction<'_>) -> Result<Counts, Failure> {
    let sql =
        "SELECT method, status, count(*) FROM trial WHERE NOT retired GROUP BY method, status";
    Ok(collect(tx, sql, &[], row::tally)?.into_iter().collect())
}
