//! Plans, sessions and events, and the statements behind the rules of [`super::super::protocol`].
//! Rows of one kind go over as arrays in one statement: the way to a server is long.

use super::{Failure, read};
use crate::{
    identity::TrialKey,
    plan::PlannedTrial,
    store::{
        protocol::{self, Ledger, Planned},
        record::{
            Artifact, AttemptRecord, Claim, EventRecord, ExperimentRecord, Metric, Point,
            SessionRecord, Status, TrialRow,
        },
        row::{self, AttemptColumns, Columns},
    },
};
use ::postgres::Transaction;

/// Whether the store already holds exactly this plan.
pub(super) fn is_planned(
    tx: &mut Transaction<'_>,
    spec_hash: &str,
    trials: &[PlannedTrial],
) -> Result<bool, Failure> {
    let mut stored = Planned::new();
    for stage in protocol::stages(trials) {
        let sql = "SELECT trial_key, ord, spec_hash FROM trial WHERE stage = $1 AND NOT retired";
        for row in &tx.query(sql, &[&stage.word()])? {
            stored.insert(row.text(0)?.to_owned(), (row::count(row, 1)?, row.text(2)?.to_owned()));
        }
    }
    Ok(protocol::is_planned(&stored, spec_hash, trials))
}

pub(super) fn plan(
    tx: &mut Transaction<'_>,
    spec_hash: &str,
    trials: &[PlannedTrial],
) -> Result<usize, Failure> {
    // Two runners with different plans would lock the same rows in different orders.
    tx.execute("SELECT 1 FROM experiment_store FOR UPDATE", &[])?;
    let keys: Vec<&str> = trials.iter().map(|trial| trial.key.0.as_str()).collect();
    for stage in protocol::stages(trials) {
        tx.execute(
            "UPDATE trial SET retired = TRUE
             WHERE stage = $1 AND NOT retired AND trial_key <> ALL ($2)",
            &[&stage.word(), &keys],
        )?;
    }
    let mut ords = Vec::with_capacity(trials.len());
    let mut cells = Vec::with_capacity(trials.len());
    let mut seeds = Vec::with_capacity(trials.len());
    for trial in trials {
        ords.push(row::signed("trial order", trial.ord)?);
        cells.push(row::json(&trial.cell)?);
        seeds.push(row::json(&trial.seeds)?);
    }
    let stages: Vec<&str> = trials.iter().map(|trial| trial.stage.word()).collect();
    let methods: Vec<&str> = trials.iter().map(|trial| trial.method.as_str()).collect();
    let tasks: Vec<&str> = trials.iter().map(|trial| trial.task.as_str()).collect();
    let reps: Vec<i64> = trials.iter().map(|trial| i64::from(trial.rep)).collect();
    // Only rows that change are written and locked, since claims pass over locked rows. A row that
    // was not there before has no transaction that ended it.
    let row = tx.query_one(
        "WITH written AS (
             INSERT INTO trial (trial_key, ord, stage, cell_json, method, task, rep, seeds_json,
                 spec_hash)
             SELECT *, $9::text FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[],
                 $6::text[], $7::bigint[], $8::text[])
             ON CONFLICT (trial_key) DO UPDATE
                 SET retired = FALSE, ord = excluded.ord, spec_hash = excluded.spec_hash
                 WHERE trial.retired OR trial.ord <> excluded.ord
                    OR trial.spec_hash <> excluded.spec_hash
             RETURNING xmax = 0 AS is_new)
         SELECT count(*) FILTER (WHERE is_new) FROM written",
        &[&keys, &ords, &stages, &cells, &methods, &tasks, &reps, &seeds, &spec_hash],
    )?;
    Ok(usize::try_from(row::count(&row, 0)?).unwrap_or(usize::MAX))
}

pub(super) fn begin_session(
    tx: &mut Transaction<'_>,
    session: &SessionRecord,
) -> Result<(), Failure> {
    tx.execute(
        "INSERT INTO session (session_id, started_at, ended_at, host, pid, boot_id, args_json,
             spec_hash, git_rev, git_dirty, git_diff_sha, env_json)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
         ON CONFLICT (session_id) DO UPDATE
             SET ended_at = coalesce(session.ended_at, excluded.ended_at)",
        &[
            &session.session_id,
            &session.started_at,
            &session.ended_at,
            &session.host,
            &i64::from(session.pid),
            &session.boot_id,
            &row::json(&session.args_json)?,
            &session.spec_hash,
            &session.git_rev,
            &session.git_dirty,
            &session.git_diff_sha,
            &row::json(&session.env_json)?,
        ],
    )?;
    Ok(())
}

pub(super) fn end_session(
    tx: &mut Transaction<'_>,
    session_id: &str,
    ended_at: i64,
) -> Result<(), Failure> {
    let sql = "UPDATE session SET ended_at = $2 WHERE session_id = $1";
    tx.execute(sql, &[&session_id, &ended_at])?;
    Ok(())
}

pub(super) fn append_event(tx: &mut Transaction<'_>, event: &EventRecord) -> Result<(), Failure> {
    tx.execute(
        "INSERT INTO event (at, session_id, kind, detail_json) VALUES ($1, $2, $3, $4)",
        &[&event.at, &event.session_id, &event.kind, &row::json(&event.detail_json)?],
    )?;
    Ok(())
}

impl Ledger for Transaction<'_> {
    type Error = Failure;

    fn put_experiment(
        &mut self,
        experiment: &ExperimentRecord,
    ) -> Result<Option<ExperimentRecord>, Failure> {
        let written = self.execute(
            "INSERT INTO experiment (one, id, spec_toml, spec_hash, schema, created_at)
             VALUES (1, $1, $2, $3, $4, $5)
             ON CONFLICT (one) DO UPDATE SET spec_toml = excluded.spec_toml,
                 spec_hash = excluded.spec_hash, schema = excluded.schema
                 WHERE experiment.id = excluded.id",
            &[
                &experiment.id,
                &experiment.spec_toml,
                &experiment.spec_hash,
                &i64::from(experiment.schema),
                &experiment.created_at,
            ],
        )?;
        if written == 1 { Ok(None) } else { read::experiment(self) }
    }

    fn hold_trial(&mut self, key: &TrialKey) -> Result<TrialRow, Failure> {
        let sql = format!("SELECT {} FROM trial WHERE trial_key = $1 FOR UPDATE", row::TRIAL);
        row::trial(&self.query_one(&sql, &[&key.0])?)
    }

    fn insert_trial(&mut self, spec_hash: &str, trial: &TrialRow) -> Result<(), Failure> {
        self.execute(
            "INSERT INTO trial (trial_key, ord, stage, cell_json, method, task, rep, seeds_json,
                 spec_hash, retired)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING",
            &[
                &trial.key.0,
                &row::signed("trial order", trial.ord)?,
                &trial.stage.word(),
                &row::json(&trial.cell)?,
                &trial.method,
                &trial.task,
                &i64::from(trial.rep),
                &row::json(&trial.seeds)?,
                &spec_hash,
                &trial.retired,
            ],
        )?;
        Ok(())
    }

    fn end_lease(&mut self, claim: &Claim, next: Status) -> Result<bool, Failure> {
        let key = &claim.trial.key.0;
        // A late attempt is numbered under the same lock as one that still counts.
        self.execute("SELECT 1 FROM trial WHERE trial_key = $1 FOR UPDATE", &[key])?;
        let changed = self.execute(
            "UPDATE trial SET status = $4, lease_owner = NULL, lease_until = NULL
             WHERE trial_key = $1 AND lease_owner = $2 AND attempt = $3 AND status = 'running'",
            &[key, &claim.owner, &i64::from(claim.attempt), &next.word()],
        )?;
        Ok(changed == 1)
    }

    fn record_lost(&mut self, key: &TrialKey, now: i64, status: Status) -> Result<(), Failure> {
        self.execute(
            "INSERT INTO attempt (trial_key, attempt, origin, session_id, started_at, ended_at,
                 status, reason, wall_s, cpu_user_s, cpu_sys_s, peak_rss_kib, threads, device,
                 stdout_tail, stderr_tail, sealed_names)
             SELECT trial_key, attempt, attempt,
                 (SELECT session_id FROM session WHERE session_id = lease_owner),
                 coalesce(claimed_at, $2), $2, $3, 'lost', 0, 0, 0, 0, 0, '', '', '', '[]'
             FROM trial WHERE trial_key = $1 ON CONFLICT DO NOTHING",
            &[&key.0, &now, &status.word()],
        )?;
        Ok(())
    }

    fn remove_lost(&mut self, key: &TrialKey, attempt: u32) -> Result<(), Failure> {
        self.execute(
            "DELETE FROM attempt WHERE trial_key = $1 AND attempt = $2 AND status = 'lost'",
            &[&key.0, &i64::from(attempt)],
        )?;
        Ok(())
    }

    fn take_back(&mut self, key: &TrialKey, next: Status) -> Result<(), Failure> {
        self.execute(
            "UPDATE trial SET status = $2, lease_owner = NULL, lease_until = NULL
             WHERE trial_key = $1",
            &[&key.0, &next.word()],
        )?;
        Ok(())
    }

    fn known_attempt(
        &mut self,
        key: &TrialKey,
        origin: u32,
        session_id: &str,
    ) -> Result<Option<u32>, Failure> {
        let found = self.query_opt(
            "SELECT attempt FROM attempt WHERE trial_key = $1 AND origin = $2
             AND coalesce(session_id, '') = $3 ORDER BY attempt LIMIT 1",
            &[&key.0, &i64::from(origin), &session_id],
        )?;
        found.map(|row| row::number(&row, 0)).transpose()
    }

    fn free_number(&mut self, key: &TrialKey, wanted: u32) -> Result<u32, Failure> {
        let row = self.query_one(
            "SELECT CASE
                 WHEN EXISTS (SELECT 1 FROM attempt WHERE trial_key = $1 AND attempt = $2)
                 THEN 1 + greatest((SELECT max(attempt) FROM attempt WHERE trial_key = $1),
                     (SELECT attempt FROM trial WHERE trial_key = $1))
                 ELSE $2 END",
            &[&key.0, &i64::from(wanted)],
        )?;
        row::number(&row, 0)
    }

    fn insert_attempt(
        &mut self,
        attempt: &AttemptRecord,
        number: u32,
        status: Status,
    ) -> Result<(), Failure> {
        let columns = AttemptColumns::new(attempt)?;
        let (key, number) = (&attempt.key.0, i64::from(number));
        self.execute(
            "INSERT INTO attempt (trial_key, attempt, origin, session_id, started_at, ended_at,
                 status, exit_code, signal, reason, wall_s, cpu_user_s, cpu_sys_s, peak_rss_kib,
                 threads, device, budget_used, stdout_tail, stderr_tail, log_path, result_json,
                 sealed_names)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17,
                 $18, $19, $20, $21, $22)",
            &[
                key,
                &number,
                &i64::from(columns.origin),
                &columns.session,
                &attempt.started_at,
                &attempt.ended_at,
                &status.word(),
                &attempt.exit_code.map(i64::from),
                &attempt.signal.map(i64::from),
                &columns.reason,
                &attempt.wall_s,
                &attempt.cpu_user_s,
                &attempt.cpu_sys_s,
                &columns.peak_rss_kib,
                &i64::from(attempt.threads),
                &attempt.device,
                &attempt.budget_used,
                &columns.stdout_tail,
                &columns.stderr_tail,
                &columns.log_path,
                &columns.result_json,
                &columns.sealed_names,
            ],
        )?;
        let (sealed, open): (Vec<&Metric>, Vec<&Metric>) =
            attempt.metrics.iter().partition(|metric| row::is_sealed(metric));
        insert_metrics(self, "sealed", key, number, &sealed)?;
        insert_metrics(self, "metric", key, number, &open)?;
        insert_points(self, key, number, &attempt.points, &columns)?;
        insert_artifacts(self, key, number, &attempt.artifacts)
    }

    fn settle(&mut self, key: &TrialKey, status: Status, attempt: u32) -> Result<(), Failure> {
        self.execute(
            "UPDATE trial SET status = $2, attempt = $3, granted = least(granted, $3)
             WHERE trial_key = $1",
            &[&key.0, &status.word(), &i64::from(attempt)],
        )?;
        Ok(())
    }
}

fn insert_metrics(
    tx: &mut Transaction<'_>,
    table: &str,
    key: &str,
    number: i64,
    metrics: &[&Metric],
) -> Result<(), Failure> {
    if metrics.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = metrics.iter().map(|metric| row::clean(&metric.name)).collect();
    let splits: Vec<String> = metrics.iter().map(|metric| row::clean(&metric.split)).collect();
    let (values, words): (Vec<_>, Vec<_>) =
        metrics.iter().map(|metric| row::split_number(metric.value)).unzip();
    tx.execute(
        &format!(
            "INSERT INTO {table} (trial_key, attempt, name, split, value, nonfinite)
             SELECT $1::text, $2::bigint, * FROM unnest($3::text[], $4::text[], $5::float8[], $6::text[])"
        ),
        &[&key, &number, &names, &splits, &values, &words],
    )?;
    Ok(())
}

fn insert_points(
    tx: &mut Transaction<'_>,
    key: &str,
    number: i64,
    points: &[Point],
    columns: &AttemptColumns<'_>,
) -> Result<(), Failure> {
    if points.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = points.iter().map(|point| row::clean(&point.name)).collect();
    let steps: Vec<i64> =
        points.iter().map(|point| row::signed("step", point.step)).collect::<Result<_, _>>()?;
    let budgets: Vec<f64> = points.iter().map(|point| point.budget).collect();
    let seconds: Vec<f64> = points.iter().map(|point| point.wall_s).collect();
    let (values, words): (Vec<_>, Vec<_>) =
        points.iter().map(|point| row::split_number(point.value)).unzip();
    let sealed: Vec<bool> =
        points.iter().map(|point| columns.sealed.contains(point.name.as_str())).collect();
    // Points of one step keep the order in which they came.
    tx.execute(
        "INSERT INTO point (trial_key, attempt, name, step, budget, wall_s, value, nonfinite,
             sealed)
         SELECT $1::text, $2::bigint, name, step, budget, wall_s, value, nonfinite, sealed
         FROM unnest($3::text[], $4::bigint[], $5::float8[], $6::float8[], $7::float8[],
             $8::text[], $9::boolean[]) WITH ORDINALITY
             AS p (name, step, budget, wall_s, value, nonfinite, sealed, place)
         ORDER BY place",
        &[&key, &number, &names, &steps, &budgets, &seconds, &values, &words, &sealed],
    )?;
    Ok(())
}

fn insert_artifacts(
    tx: &mut Transaction<'_>,
    key: &str,
    number: i64,
    artifacts: &[Artifact],
) -> Result<(), Failure> {
    for artifact in artifacts {
        tx.execute(
            "INSERT INTO artifact (trial_key, attempt, name, path, sha256, bytes)
             VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                &key,
                &number,
                &row::clean(&artifact.name),
                &artifact.path.to_string_lossy().into_owned(),
                &artifact.sha256,
                &row::signed("artifact size", artifact.bytes)?,
            ],
        )?;
    }
    Ok(())
}
