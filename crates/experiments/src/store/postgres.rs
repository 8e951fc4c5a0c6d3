//! A store in PostgreSQL for several machines at once (feature `postgres`; specification, sections
//! 5.2 and 11). One database schema per experiment; claims use `FOR UPDATE SKIP LOCKED`, so
//! runners do not wait for each other. The conformance tests of SQLite
//! run on it when `EXP_TEST_POSTGRES` names a server; no such run is recorded yet.
//!
//! Logs and artifacts stay in the runners' folders: a folder that all machines see, or one to be
//! copied together afterwards.
//!
//! Long because one method per method of the store contract, each with its statement.

use super::{
    Store, StoreError,
    record::{
        Artifact, AttemptRecord, Claim, ClaimRequest, Counts, EventRecord, ExperimentRecord, Lease,
        MergeCounts, Metric, MetricRow, Point, PointRow, ReclaimRequest, SealedFacts,
        SessionRecord, Status, TrialRow,
    },
    row,
};
use crate::{
    identity::TrialKey,
    plan::{PlannedTrial, Stage},
};
use ::postgres::{Client, GenericClient, NoTls, Row, Transaction, error::SqlState};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

/// Version that this program writes.
const VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE version (number BIGINT NOT NULL);
CREATE TABLE experiment (
    one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL, spec_toml TEXT NOT NULL,
    spec_hash TEXT NOT NULL, schema BIGINT NOT NULL, created_at BIGINT NOT NULL);
CREATE TABLE session (
    session_id TEXT PRIMARY KEY, started_at BIGINT NOT NULL, ended_at BIGINT, host TEXT NOT NULL,
    pid BIGINT NOT NULL, boot_id TEXT NOT NULL, args_json TEXT NOT NULL, spec_hash TEXT NOT NULL,
    git_rev TEXT, git_dirty BOOLEAN NOT NULL, git_diff_sha TEXT, env_json TEXT NOT NULL);
CREATE TABLE trial (
    trial_key TEXT PRIMARY KEY, ord BIGINT NOT NULL, stage TEXT NOT NULL, cell_json TEXT NOT NULL,
    method TEXT NOT NULL, task TEXT NOT NULL, rep BIGINT NOT NULL, seeds_json TEXT NOT NULL,
    spec_hash TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending','running','ok','timeout','memout','crash','invalid')),
    attempt BIGINT NOT NULL DEFAULT 0, granted BIGINT NOT NULL DEFAULT 0,
    retired BOOLEAN NOT NULL DEFAULT FALSE, lease_owner TEXT, lease_until BIGINT, claimed_at BIGINT,
    CHECK ((status = 'running') = (lease_owner IS NOT NULL AND lease_until IS NOT NULL)));
CREATE INDEX trial_open ON trial (stage, retired, status, ord);
CREATE INDEX trial_count ON trial (retired, method, status);
CREATE TABLE attempt (
    trial_key TEXT NOT NULL REFERENCES trial (trial_key), attempt BIGINT NOT NULL,
    origin BIGINT NOT NULL, session_id TEXT REFERENCES session (session_id),
    started_at BIGINT NOT NULL, ended_at BIGINT NOT NULL,
    status TEXT NOT NULL
        CHECK (status IN ('ok','timeout','memout','crash','invalid','superseded','lost')),
    exit_code BIGINT, signal BIGINT, reason TEXT, wall_s DOUBLE PRECISION NOT NULL,
    cpu_user_s DOUBLE PRECISION NOT NULL, cpu_sys_s DOUBLE PRECISION NOT NULL,
    peak_rss_kib BIGINT NOT NULL, threads BIGINT NOT NULL, device TEXT NOT NULL,
    budget_used DOUBLE PRECISION, stdout_tail TEXT NOT NULL, stderr_tail TEXT NOT NULL,
    log_path TEXT, result_json TEXT, sealed_names TEXT NOT NULL, PRIMARY KEY (trial_key, attempt));
CREATE INDEX attempt_started ON attempt (started_at);
CREATE TABLE metric (
    trial_key TEXT NOT NULL, attempt BIGINT NOT NULL, name TEXT NOT NULL, split TEXT NOT NULL,
    value DOUBLE PRECISION, nonfinite TEXT CHECK (nonfinite IN ('nan','inf','-inf')),
    PRIMARY KEY (trial_key, attempt, name, split),
    FOREIGN KEY (trial_key, attempt) REFERENCES attempt (trial_key, attempt),
    CHECK ((value IS NULL) <> (nonfinite IS NULL)));
CREATE TABLE sealed (LIKE metric INCLUDING ALL,
    FOREIGN KEY (trial_key, attempt) REFERENCES attempt (trial_key, attempt));
CREATE TABLE point (
    id BIGSERIAL PRIMARY KEY, trial_key TEXT NOT NULL, attempt BIGINT NOT NULL, name TEXT NOT NULL,
    step BIGINT NOT NULL, budget DOUBLE PRECISION NOT NULL, wall_s DOUBLE PRECISION NOT NULL,
    value DOUBLE PRECISION, nonfinite TEXT CHECK (nonfinite IN ('nan','inf','-inf')),
    sealed BOOLEAN NOT NULL,
    FOREIGN KEY (trial_key, attempt) REFERENCES attempt (trial_key, attempt),
    CHECK ((value IS NULL) <> (nonfinite IS NULL)));
CREATE INDEX point_curve ON point (trial_key, attempt, name, step);
CREATE TABLE artifact (
    trial_key TEXT NOT NULL, attempt BIGINT NOT NULL, name TEXT NOT NULL, path TEXT NOT NULL,
    sha256 TEXT NOT NULL, bytes BIGINT NOT NULL, PRIMARY KEY (trial_key, attempt, name),
    FOREIGN KEY (trial_key, attempt) REFERENCES attempt (trial_key, attempt));
CREATE TABLE event (
    id BIGSERIAL PRIMARY KEY, at BIGINT NOT NULL, session_id TEXT REFERENCES session (session_id),
    kind TEXT NOT NULL, detail_json TEXT NOT NULL);
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'events are append only'; END $$;
CREATE TRIGGER event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON event
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
INSERT INTO version VALUES (1);
";

/// A store in one schema of a PostgreSQL database.
pub struct PostgresStore {
    // The client needs `&mut` for reading as well.
    client: RefCell<Client>,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connects to the database at `url` (`postgresql://user@host/db`) and makes the tables in
    /// `schema` when they are not there.
    ///
    /// # Errors
    /// When the name of the schema is not of lower-case letters, digits and `_`, the database cannot
    /// be reached, or the tables are of a newer version.
    pub fn connect(url: &str, schema: &str) -> Result<Self, StoreError> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if schema.is_empty() || schema.len() > 63 || !schema.chars().all(plain) {
            return Err(StoreError::Conflict {
                what: "name of the database schema",
                expected: "at most 63 lower-case letters, digits and `_`".to_owned(),
                found: schema.to_owned(),
            });
        }
        let mut client = Client::connect(url, NoTls).map_err(|e| translate("connect", &e))?;
        let mut prepare = || -> Result<Option<i64>, ::postgres::Error> {
            let mut tx = client.transaction()?;
            // Two runners that open a fresh store at once take turns here.
            tx.execute("SELECT pg_advisory_xact_lock(hashtext($1))", &[&schema])?;
            tx.batch_execute(&format!(
                "CREATE SCHEMA IF NOT EXISTS \"{schema}\"; SET search_path TO \"{schema}\""
            ))?;
            let there: bool = tx
                .query_one(
                    "SELECT EXISTS (SELECT 1 FROM information_schema.tables
                     WHERE table_schema = $1 AND table_name = 'version')",
                    &[&schema],
                )?
                .get(0);
            if !there {
                tx.batch_execute(SCHEMA)?;
            }
            let version: i64 = tx.query_one("SELECT max(number) FROM version", &[])?.get(0);
            tx.commit()?;
            Ok(Some(version))
        };
        let version = prepare().map_err(|e| translate("open", &e))?.unwrap_or(0);
        if version > VERSION {
            return Err(StoreError::Format {
                path: format!("schema {schema}"),
                expected: format!("a store of version {VERSION} or older"),
                found: format!("version {version}; a newer `exp` wrote it, use that one"),
            });
        }
        Ok(Self { client: RefCell::new(client) })
    }

    fn write<T>(
        &mut self,
        action: &'static str,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let client = self.client.get_mut();
        let mut tx = client.transaction().map_err(|e| translate(action, &e))?;
        let value = work(&mut tx).map_err(|e| e.into_store(action))?;
        tx.commit().map_err(|e| translate(action, &e))?;
        Ok(value)
    }

    /// Reads within one snapshot.
    fn read<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let mut client = self.client.borrow_mut();
        let mut tx = client
            .build_transaction()
            .read_only(true)
            .isolation_level(::postgres::IsolationLevel::RepeatableRead)
            .start()
            .map_err(|e| translate(action, &e))?;
        work(&mut tx).map_err(|e| e.into_store(action))
    }
}

enum Failure {
    Database(::postgres::Error),
    Store(StoreError),
}

impl From<::postgres::Error> for Failure {
    fn from(error: ::postgres::Error) -> Self {
        Self::Database(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Failure {
    fn into_store(self, action: &'static str) -> StoreError {
        match self {
            Self::Database(error) => translate(action, &error),
            Self::Store(error) => error,
        }
    }
}

fn translate(action: &'static str, error: &::postgres::Error) -> StoreError {
    match error.code() {
        Some(code) if *code == SqlState::DISK_FULL => StoreError::Full { action },
        Some(code)
            if [
                SqlState::LOCK_NOT_AVAILABLE,
                SqlState::T_R_DEADLOCK_DETECTED,
                SqlState::T_R_SERIALIZATION_FAILURE,
            ]
            .contains(code) =>
        {
            StoreError::Busy { action }
        }
        _ => {
            let message = error
                .as_db_error()
                .map_or_else(|| error.to_string(), |known| known.message().to_owned());
            StoreError::Backend { action, message }
        }
    }
}

const TRIAL: &str = "trial_key, ord, stage, cell_json, method, task, rep, seeds_json, status, \
                     attempt, granted, retired, lease_owner, lease_until";

const ATTEMPT: &str = "trial_key, attempt, origin, session_id, started_at, ended_at, status, \
                       exit_code, signal, reason, wall_s, cpu_user_s, cpu_sys_s, peak_rss_kib, \
                       threads, device, budget_used, stdout_tail, stderr_tail, log_path, \
                       result_json, sealed_names";

const METRIC: &str = "trial_key, attempt, name, split, value, nonfinite";
const POINT: &str = "trial_key, attempt, name, step, budget, wall_s, value, nonfinite";

/// The attempt that gave a finished trial its state.
const COUNTED: &str = "JOIN trial t ON t.trial_key = x.trial_key AND t.attempt = x.attempt \
                       WHERE t.status IN ('ok', 'timeout', 'memout', 'crash', 'invalid')";

fn count(row: &Row, column: usize) -> u64 {
    u64::try_from(row.get::<_, i64>(column)).unwrap_or(0)
}

fn small(row: &Row, column: usize) -> u32 {
    u32::try_from(row.get::<_, i64>(column)).unwrap_or(u32::MAX)
}

fn trial_row(row: &Row) -> Result<TrialRow, Failure> {
    Ok(TrialRow {
        key: TrialKey(row.get(0)),
        ord: count(row, 1),
        stage: row::stage(row.get(2))?,
        cell: row::parse("cell", row.get(3))?,
        method: row.get(4),
        task: row.get(5),
        rep: small(row, 6),
        seeds: row::parse("seeds", row.get(7))?,
        status: row::status(row.get(8))?,
        attempt: small(row, 9),
        granted: small(row, 10),
        retired: row.get(11),
        lease_owner: row.get(12),
        lease_until: row.get(13),
    })
}

fn attempt_row(row: &Row) -> Result<AttemptRecord, Failure> {
    let (number, origin) = (small(row, 1), small(row, 2));
    let result: Option<String> = row.get(20);
    Ok(AttemptRecord {
        key: TrialKey(row.get(0)),
        attempt: number,
        origin_attempt: (origin != number).then_some(origin),
        session_id: row.get::<_, Option<String>>(3).unwrap_or_default(),
        started_at: row.get(4),
        ended_at: row.get(5),
        status: row::status(row.get(6))?,
        exit_code: row.get::<_, Option<i64>>(7).map(|code| code as i32),
        signal: row.get::<_, Option<i64>>(8).map(|signal| signal as i32),
        reason: row.get(9),
        wall_s: row.get(10),
        cpu_user_s: row.get(11),
        cpu_sys_s: row.get(12),
        peak_rss_kib: count(row, 13),
        threads: small(row, 14),
        device: row.get(15),
        budget_used: row.get(16),
        stdout_tail: row.get(17),
        stderr_tail: row.get(18),
        log_path: row.get::<_, Option<String>>(19).map(PathBuf::from),
        result_json: result.map(|text| row::parse("result", &text)).transpose()?,
        metrics: Vec::new(),
        points: Vec::new(),
        artifacts: Vec::new(),
        sealed_names: row::parse("list of sealed metrics", row.get(21))?,
    })
}

fn metric_row(row: &Row) -> Result<MetricRow, Failure> {
    Ok(MetricRow {
        key: TrialKey(row.get(0)),
        attempt: small(row, 1),
        metric: Metric {
            name: row.get(2),
            split: row.get(3),
            value: row::join_number(row.get(4), row.get(5))?,
        },
    })
}

fn point_row(row: &Row) -> Result<PointRow, Failure> {
    Ok(PointRow {
        key: TrialKey(row.get(0)),
        attempt: small(row, 1),
        point: Point {
            name: row.get(2),
            step: count(row, 3),
            budget: row.get(4),
            wall_s: row.get(5),
            value: row::join_number(row.get(6), row.get(7))?,
        },
    })
}

fn artifact_row(row: &Row) -> (TrialKey, u32, Artifact) {
    let artifact = Artifact {
        name: row.get(2),
        path: PathBuf::from(row.get::<_, String>(3)),
        sha256: row.get(4),
        bytes: count(row, 5),
    };
    (TrialKey(row.get(0)), small(row, 1), artifact)
}

fn collect<T>(
    tx: &mut Transaction<'_>,
    sql: &str,
    parameters: &[&(dyn ::postgres::types::ToSql + Sync)],
    read: impl Fn(&Row) -> Result<T, Failure>,
) -> Result<Vec<T>, Failure> {
    tx.query(sql, parameters)?.iter().map(read).collect()
}

fn unsealed(tx: &mut Transaction<'_>) -> Result<bool, Failure> {
    Ok(tx.query_one("SELECT EXISTS (SELECT 1 FROM event WHERE kind = 'unseal')", &[])?.get(0))
}

fn one_trial(tx: &mut Transaction<'_>, key: &str) -> Result<TrialRow, Failure> {
    let row = tx.query_one(&format!("SELECT {TRIAL} FROM trial WHERE trial_key = $1"), &[&key])?;
    trial_row(&row)
}

/// Takes the lock on a trial that serialises everything that happens to it.
fn lock(tx: &mut Transaction<'_>, key: &TrialKey) -> Result<(), Failure> {
    tx.execute("SELECT 1 FROM trial WHERE trial_key = $1 FOR UPDATE", &[&key.0])?;
    Ok(())
}

fn record_lost(
    tx: &mut Transaction<'_>,
    key: &str,
    now: i64,
    status: Status,
) -> Result<(), Failure> {
    tx.execute(
        "INSERT INTO attempt (trial_key, attempt, origin, session_id, started_at, ended_at, status,
             reason, wall_s, cpu_user_s, cpu_sys_s, peak_rss_kib, threads, device, stdout_tail,
             stderr_tail, sealed_names)
         SELECT trial_key, attempt, attempt,
             (SELECT session_id FROM session WHERE session_id = lease_owner),
             coalesce(claimed_at, $2), $2, $3, 'lost', 0, 0, 0, 0, 0, '', '', '', '[]'
         FROM trial WHERE trial_key = $1 ON CONFLICT DO NOTHING",
        &[&key, &now, &status.word()],
    )?;
    Ok(())
}

fn free_number(tx: &mut Transaction<'_>, key: &TrialKey, wanted: u32) -> Result<u32, Failure> {
    let taken: bool = tx
        .query_one(
            "SELECT EXISTS (SELECT 1 FROM attempt WHERE trial_key = $1 AND attempt = $2)",
            &[&key.0, &i64::from(wanted)],
        )?
        .get(0);
    if !taken {
        return Ok(wanted);
    }
    let row = tx.query_one(
        "SELECT 1 + greatest((SELECT max(attempt) FROM attempt WHERE trial_key = $1),
             (SELECT attempt FROM trial WHERE trial_key = $1))",
        &[&key.0],
    )?;
    Ok(small(&row, 0))
}

fn insert_attempt(
    tx: &mut Transaction<'_>,
    attempt: &AttemptRecord,
    number: u32,
    status: Status,
) -> Result<(), Failure> {
    let key = &attempt.key.0;
    let number = i64::from(number);
    let session = Some(attempt.session_id.as_str()).filter(|id| !id.is_empty());
    let sealed_names: BTreeSet<&str> = attempt
        .sealed_names
        .iter()
        .map(String::as_str)
        .chain(attempt.metrics.iter().filter(|m| m.split == "test").map(|m| m.name.as_str()))
        .collect();
    tx.execute(
        "INSERT INTO attempt (trial_key, attempt, origin, session_id, started_at, ended_at, status,
             exit_code, signal, reason, wall_s, cpu_user_s, cpu_sys_s, peak_rss_kib, threads,
             device, budget_used, stdout_tail, stderr_tail, log_path, result_json, sealed_names)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
             $19, $20, $21, $22)",
        &[
            key,
            &number,
            &i64::from(attempt.origin_attempt.unwrap_or(attempt.attempt)),
            &session,
            &attempt.started_at,
            &attempt.ended_at,
            &status.word(),
            &attempt.exit_code.map(i64::from),
            &attempt.signal.map(i64::from),
            &attempt.reason.as_deref().map(row::clean),
            &attempt.wall_s,
            &attempt.cpu_user_s,
            &attempt.cpu_sys_s,
            &row::signed("peak memory", attempt.peak_rss_kib)?,
            &i64::from(attempt.threads),
            &attempt.device,
            &attempt.budget_used,
            &row::clean(&attempt.stdout_tail),
            &row::clean(&attempt.stderr_tail),
            &attempt.log_path.as_ref().map(|path| path.to_string_lossy().into_owned()),
            &attempt.result_json.as_ref().map(row::json).transpose()?,
            &row::json(&sealed_names)?,
        ],
    )?;
    for metric in &attempt.metrics {
        let (value, word) = row::split_number(metric.value);
        let table = if metric.split == "test" { "sealed" } else { "metric" };
        tx.execute(
            &format!("INSERT INTO {table} VALUES ($1, $2, $3, $4, $5, $6)"),
            &[key, &number, &metric.name, &metric.split, &value, &word],
        )?;
    }
    if !attempt.points.is_empty() {
        let insert = tx.prepare(
            "INSERT INTO point (trial_key, attempt, name, step, budget, wall_s, value, nonfinite, sealed)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )?;
        for point in &attempt.points {
            let (value, word) = row::split_number(point.value);
            let step = row::signed("step", point.step)?;
            let hidden = sealed_names.contains(point.name.as_str());
            tx.execute(
                &insert,
                &[
                    key,
                    &number,
                    &point.name,
                    &step,
                    &point.budget,
                    &point.wall_s,
                    &value,
                    &word,
                    &hidden,
                ],
            )?;
        }
    }
    for artifact in &attempt.artifacts {
        tx.execute(
            "INSERT INTO artifact VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                key,
                &number,
                &artifact.name,
                &artifact.path.to_string_lossy(),
                &artifact.sha256,
                &row::signed("artifact size", artifact.bytes)?,
            ],
        )?;
    }
    Ok(())
}

fn read_experiment(tx: &mut Transaction<'_>) -> Result<Option<ExperimentRecord>, Failure> {
    let found =
        tx.query_opt("SELECT id, spec_toml, spec_hash, schema, created_at FROM experiment", &[])?;
    Ok(found.map(|row| ExperimentRecord {
        id: row.get(0),
        spec_toml: row.get(1),
        spec_hash: row.get(2),
        schema: small(&row, 3),
        created_at: row.get(4),
    }))
}

fn read_leases(tx: &mut Transaction<'_>, lock: bool) -> Result<Vec<Lease>, Failure> {
    let lock = if lock { "FOR UPDATE" } else { "" };
    collect(
        tx,
        &format!(
            "SELECT trial_key, attempt, lease_owner, lease_until FROM trial
             WHERE status = 'running' ORDER BY ord {lock}"
        ),
        &[],
        |row| {
            Ok(Lease {
                key: TrialKey(row.get(0)),
                attempt: small(row, 1),
                owner: row.get(2),
                until: row.get(3),
            })
        },
    )
}

fn is_planned(
    tx: &mut Transaction<'_>,
    spec_hash: &str,
    trials: &[PlannedTrial],
) -> Result<bool, Failure> {
    let stages: BTreeSet<Stage> = trials.iter().map(|trial| trial.stage).collect();
    let mut stored = BTreeMap::new();
    for stage in stages {
        let rows = tx.query(
            "SELECT trial_key, ord, spec_hash FROM trial WHERE stage = $1 AND NOT retired",
            &[&stage.word()],
        )?;
        for row in rows {
            stored.insert(row.get::<_, String>(0), (count(&row, 1), row.get::<_, String>(2)));
        }
    }
    Ok(stored.len() == trials.len()
        && trials.iter().all(|trial| {
            stored
                .get(&trial.key.0)
                .is_some_and(|(ord, hash)| *ord == trial.ord && hash == spec_hash)
        }))
}

impl Store for PostgresStore {
    fn experiment(&self) -> Result<Option<ExperimentRecord>, StoreError> {
        self.read("read the experiment", read_experiment)
    }

    fn set_experiment(&mut self, experiment: &ExperimentRecord) -> Result<(), StoreError> {
        self.write("write the experiment", |tx| {
            if let Some(found) = read_experiment(tx)?
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
                 VALUES (1, $1, $2, $3, $4, $5)
                 ON CONFLICT (one) DO UPDATE SET spec_toml = excluded.spec_toml,
                     spec_hash = excluded.spec_hash, schema = excluded.schema",
                &[
                    &experiment.id,
                    &experiment.spec_toml,
                    &experiment.spec_hash,
                    &i64::from(experiment.schema),
                    &experiment.created_at,
                ],
            )?;
            Ok(())
        })
    }

    fn plan(&mut self, spec_hash: &str, trials: &[PlannedTrial]) -> Result<usize, StoreError> {
        if self.read("plan", |tx| is_planned(tx, spec_hash, trials))? {
            return Ok(0);
        }
        self.write("plan", |tx| {
            let stages: BTreeSet<Stage> = trials.iter().map(|trial| trial.stage).collect();
            let keys: Vec<&str> = trials.iter().map(|trial| trial.key.0.as_str()).collect();
            for stage in stages {
                // Only rows that change are locked: claims skip locked rows.
                tx.execute(
                    "UPDATE trial SET retired = TRUE
                     WHERE stage = $1 AND NOT retired AND trial_key <> ALL ($2)",
                    &[&stage.word(), &keys],
                )?;
            }
            let insert = tx.prepare(
                "INSERT INTO trial (trial_key, ord, stage, cell_json, method, task, rep, seeds_json,
                     spec_hash)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
                 ON CONFLICT (trial_key) DO UPDATE SET retired = FALSE, ord = excluded.ord,
                     spec_hash = excluded.spec_hash
                 RETURNING (xmax = 0)",
            )?;
            let mut inserted = 0;
            for trial in trials {
                let row = tx.query_one(
                    &insert,
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
                    ],
                )?;
                inserted += usize::from(row.get::<_, bool>(0));
            }
            Ok(inserted)
        })
    }

    fn begin_session(&mut self, session: &SessionRecord) -> Result<(), StoreError> {
        self.write("begin a session", |tx| {
            tx.execute(
                "INSERT INTO session (session_id, started_at, ended_at, host, pid, boot_id,
                     args_json, spec_hash, git_rev, git_dirty, git_diff_sha, env_json)
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
        })
    }

    fn end_session(&mut self, session_id: &str, ended_at: i64) -> Result<(), StoreError> {
        self.write("end a session", |tx| {
            tx.execute(
                "UPDATE session SET ended_at = $2 WHERE session_id = $1",
                &[&session_id, &ended_at],
            )?;
            Ok(())
        })
    }

    fn claim(&mut self, request: &ClaimRequest) -> Result<Option<Claim>, StoreError> {
        self.write("claim", |tx| {
            let only: Option<Vec<&str>> =
                request.only.as_ref().map(|keys| keys.iter().map(|key| key.0.as_str()).collect());
            let found = tx.query_opt(
                "SELECT trial_key, status FROM trial
                 WHERE stage = $1 AND NOT retired AND attempt - granted < $2
                   AND (status = 'pending' OR (status = 'running' AND lease_until < $3))
                   AND ($4::text[] IS NULL OR trial_key = ANY ($4))
                 ORDER BY ord LIMIT 1 FOR UPDATE SKIP LOCKED",
                &[&request.stage.word(), &i64::from(request.max_attempts), &request.now, &only],
            )?;
            let Some(found) = found else { return Ok(None) };
            let key: String = found.get(0);
            if found.get::<_, &str>(1) == "running" {
                record_lost(tx, &key, request.now, Status::Lost)?;
            }
            tx.execute(
                "UPDATE trial SET status = 'running', lease_owner = $2, lease_until = $3,
                     claimed_at = $4, attempt = 1 + greatest(attempt, coalesce(
                         (SELECT max(a.attempt) FROM attempt a WHERE a.trial_key = $1), 0))
                 WHERE trial_key = $1",
                &[&key, &request.owner, &request.lease_until, &request.now],
            )?;
            let trial = one_trial(tx, &key)?;
            Ok(Some(Claim { attempt: trial.attempt, owner: request.owner.clone(), trial }))
        })
    }

    fn renew(&mut self, claim: &Claim, lease_until: i64) -> Result<bool, StoreError> {
        self.write("renew a lease", |tx| {
            let changed = tx.execute(
                "UPDATE trial SET lease_until = $4 WHERE trial_key = $1 AND lease_owner = $2
                 AND attempt = $3 AND status = 'running'",
                &[&claim.trial.key.0, &claim.owner, &i64::from(claim.attempt), &lease_until],
            )?;
            Ok(changed == 1)
        })
    }

    fn finish(&mut self, claim: &Claim, attempt: &AttemptRecord) -> Result<bool, StoreError> {
        self.write("commit an attempt", |tx| {
            let next = row::state_after(attempt)?;
            lock(tx, &claim.trial.key)?;
            let changed = tx.execute(
                "UPDATE trial SET status = $4, lease_owner = NULL, lease_until = NULL
                 WHERE trial_key = $1 AND lease_owner = $2 AND attempt = $3 AND status = 'running'",
                &[&claim.trial.key.0, &claim.owner, &i64::from(claim.attempt), &next.word()],
            )?;
            let held = changed == 1;
            let status = if held { attempt.status } else { Status::Superseded };
            if !held {
                tx.execute(
                    "DELETE FROM attempt WHERE trial_key = $1 AND attempt = $2 AND status = 'lost'",
                    &[&attempt.key.0, &i64::from(attempt.attempt)],
                )?;
            }
            let number = free_number(tx, &attempt.key, attempt.attempt)?;
            insert_attempt(tx, attempt, number, status)?;
            Ok(held)
        })
    }

    fn release(&mut self, claim: &Claim) -> Result<(), StoreError> {
        self.write("release a trial", |tx| {
            tx.execute(
                "UPDATE trial SET status = 'pending', attempt = attempt - 1, lease_owner = NULL,
                     lease_until = NULL, claimed_at = NULL
                 WHERE trial_key = $1 AND lease_owner = $2 AND attempt = $3 AND status = 'running'",
                &[&claim.trial.key.0, &claim.owner, &i64::from(claim.attempt)],
            )?;
            Ok(())
        })
    }

    fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.read("read leases", |tx| read_leases(tx, false))
    }

    fn reclaim(&mut self, request: &ReclaimRequest) -> Result<Vec<Lease>, StoreError> {
        let gone =
            |lease: &Lease| lease.until < request.now || request.dead_owners.contains(&lease.owner);
        if !self.leases()?.iter().any(gone) {
            return Ok(Vec::new());
        }
        self.write("reclaim", |tx| {
            let mut taken = read_leases(tx, true)?;
            taken.retain(gone);
            for lease in &taken {
                let row = tx
                    .query_one("SELECT granted FROM trial WHERE trial_key = $1", &[&lease.key.0])?;
                let spent = lease.attempt.saturating_sub(small(&row, 0)) >= request.max_attempts;
                let (trial, attempt) = if spent {
                    (Status::Crash, Status::Crash)
                } else {
                    (Status::Pending, Status::Lost)
                };
                record_lost(tx, &lease.key.0, request.now, attempt)?;
                tx.execute(
                    "UPDATE trial SET status = $2, lease_owner = NULL, lease_until = NULL
                     WHERE trial_key = $1",
                    &[&lease.key.0, &trial.word()],
                )?;
            }
            Ok(taken)
        })
    }

    fn retry(&mut self, keys: &[TrialKey]) -> Result<usize, StoreError> {
        self.write("retry", |tx| {
            let keys: Vec<&str> = keys.iter().map(|key| key.0.as_str()).collect();
            let changed = tx.execute(
                "UPDATE trial SET status = 'pending', granted = attempt
                 WHERE trial_key = ANY ($1) AND status NOT IN ('pending', 'running')",
                &[&keys],
            )?;
            Ok(usize::try_from(changed).unwrap_or(usize::MAX))
        })
    }

    fn append_event(&mut self, event: &EventRecord) -> Result<(), StoreError> {
        self.write("append an event", |tx| {
            tx.execute(
                "INSERT INTO event (at, session_id, kind, detail_json) VALUES ($1, $2, $3, $4)",
                &[&event.at, &event.session_id, &event.kind, &row::json(&event.detail_json)?],
            )?;
            Ok(())
        })
    }

    fn events(&self) -> Result<Vec<EventRecord>, StoreError> {
        self.read("read events", |tx| {
            let sql = "SELECT at, session_id, kind, detail_json FROM event ORDER BY id";
            collect(tx, sql, &[], |row| {
                Ok(EventRecord {
                    at: row.get(0),
                    session_id: row.get(1),
                    kind: row.get(2),
                    detail_json: row::parse("event", row.get(3))?,
                })
            })
        })
    }

    fn trials(&self) -> Result<Vec<TrialRow>, StoreError> {
        self.read("read trials", |tx| {
            // Bytewise order, as SQLite has it, whatever the database's collation.
            let sql =
                format!("SELECT {TRIAL} FROM trial ORDER BY stage COLLATE \"C\", ord, trial_key");
            collect(tx, &sql, &[], trial_row)
        })
    }

    fn attempts(&self) -> Result<Vec<AttemptRecord>, StoreError> {
        self.read("read attempts", |tx| {
            let sql =
                format!("SELECT {ATTEMPT} FROM attempt ORDER BY started_at, trial_key, attempt");
            let mut found = collect(tx, &sql, &[], attempt_row)?;
            let place: BTreeMap<(TrialKey, u32), usize> =
                found.iter().enumerate().map(|(i, a)| ((a.key.clone(), a.attempt), i)).collect();
            let mut metrics =
                collect(tx, &format!("SELECT {METRIC} FROM metric"), &[], metric_row)?;
            if unsealed(tx)? {
                metrics.extend(collect(
                    tx,
                    &format!("SELECT {METRIC} FROM sealed"),
                    &[],
                    metric_row,
                )?);
            }
            for row in metrics {
                if let Some(&i) = place.get(&(row.key, row.attempt)) {
                    found[i].metrics.push(row.metric);
                }
            }
            let sql = "SELECT trial_key, attempt, name, path, sha256, bytes FROM artifact";
            for (key, attempt, artifact) in collect(tx, sql, &[], |row| Ok(artifact_row(row)))? {
                if let Some(&i) = place.get(&(key, attempt)) {
                    found[i].artifacts.push(artifact);
                }
            }
            Ok(found)
        })
    }

    fn full_attempts(&self, key: &TrialKey) -> Result<Vec<AttemptRecord>, StoreError> {
        self.read("read attempts", |tx| {
            let sql =
                format!("SELECT {ATTEMPT} FROM attempt WHERE trial_key = $1 ORDER BY attempt");
            let mut found = collect(tx, &sql, &[&key.0], attempt_row)?;
            let sql = format!(
                "SELECT {METRIC} FROM metric WHERE trial_key = $1
                 UNION ALL SELECT {METRIC} FROM sealed WHERE trial_key = $1"
            );
            let metrics = collect(tx, &sql, &[&key.0], metric_row)?;
            let sql = format!("SELECT {POINT} FROM point WHERE trial_key = $1 ORDER BY id");
            let points = collect(tx, &sql, &[&key.0], point_row)?;
            let sql = "SELECT trial_key, attempt, name, path, sha256, bytes FROM artifact
                       WHERE trial_key = $1";
            let artifacts = collect(tx, sql, &[&key.0], |row| Ok(artifact_row(row)))?;
            for attempt in &mut found {
                let number = attempt.attempt;
                let of = metrics.iter().filter(|row| row.attempt == number);
                attempt.metrics = of.map(|row| row.metric.clone()).collect();
                let of = points.iter().filter(|row| row.attempt == number);
                attempt.points = of.map(|row| row.point.clone()).collect();
                let of = artifacts.iter().filter(|row| row.1 == number);
                attempt.artifacts = of.map(|row| row.2.clone()).collect();
            }
            Ok(found)
        })
    }

    fn sealed_facts(&self) -> Result<BTreeMap<Stage, SealedFacts>, StoreError> {
        self.read("read facts of sealed values", |tx| {
            let sql = "SELECT t.stage, count(*), min(a.ended_at) FROM sealed s
                       JOIN attempt a ON a.trial_key = s.trial_key AND a.attempt = s.attempt
                       JOIN trial t ON t.trial_key = s.trial_key GROUP BY t.stage";
            let rows = collect(tx, sql, &[], |row| {
                let facts = SealedFacts { count: count(row, 1), first_at: row.get(2) };
                Ok((row::stage(row.get(0))?, facts))
            })?;
            Ok(rows.into_iter().collect())
        })
    }

    fn absorb(
        &mut self,
        spec_hash: &str,
        trial: &TrialRow,
        attempts: &[AttemptRecord],
    ) -> Result<MergeCounts, StoreError> {
        self.write("merge a trial", |tx| absorb(tx, spec_hash, trial, attempts))
    }

    fn metrics(&self) -> Result<Vec<MetricRow>, StoreError> {
        self.read("read metrics", |tx| {
            let select = |table: &str| {
                format!(
                    "SELECT x.trial_key, x.attempt, x.name COLLATE \"C\" AS name,
                         x.split COLLATE \"C\" AS split, x.value, x.nonfinite,
                         t.stage COLLATE \"C\" AS stage, t.ord FROM {table} x {COUNTED}"
                )
            };
            let order = "ORDER BY stage, ord, trial_key, name, split";
            let sql = if unsealed(tx)? {
                format!("{} UNION ALL {} {order}", select("metric"), select("sealed"))
            } else {
                format!("{} {order}", select("metric"))
            };
            collect(tx, &sql, &[], metric_row)
        })
    }

    fn points(&self) -> Result<Vec<PointRow>, StoreError> {
        self.read("read points", |tx| {
            let seal = if unsealed(tx)? { "" } else { "AND NOT x.sealed" };
            let sql = format!(
                "SELECT x.trial_key, x.attempt, x.name, x.step, x.budget, x.wall_s, x.value,
                     x.nonfinite FROM point x {COUNTED} {seal}
                 ORDER BY t.stage COLLATE \"C\", t.ord, x.trial_key, x.name COLLATE \"C\", x.step, x.id"
            );
            collect(tx, &sql, &[], point_row)
        })
    }

    fn result_sessions(&self, stage: Stage) -> Result<Vec<String>, StoreError> {
        self.read("read sessions", |tx| {
            let sql = format!(
                "SELECT DISTINCT x.session_id FROM attempt x {COUNTED}
                 AND t.stage = $1 AND NOT t.retired AND x.session_id IS NOT NULL ORDER BY 1"
            );
            collect(tx, &sql, &[&stage.word()], |row| Ok(row.get(0)))
        })
    }

    fn sessions(&self) -> Result<Vec<SessionRecord>, StoreError> {
        self.read("read sessions", |tx| {
            let sql = "SELECT session_id, started_at, ended_at, host, pid, boot_id, args_json,
                           spec_hash, git_rev, git_dirty, git_diff_sha, env_json
                       FROM session ORDER BY started_at, session_id COLLATE \"C\"";
            collect(tx, sql, &[], |row| {
                Ok(SessionRecord {
                    session_id: row.get(0),
                    started_at: row.get(1),
                    ended_at: row.get(2),
                    host: row.get(3),
                    pid: small(row, 4),
                    boot_id: row.get(5),
                    args_json: row::parse("arguments", row.get(6))?,
                    spec_hash: row.get(7),
                    git_rev: row.get(8),
                    git_dirty: row.get(9),
                    git_diff_sha: row.get(10),
                    env_json: row::parse("environment", row.get(11))?,
                })
            })
        })
    }

    fn counts(&self) -> Result<Counts, StoreError> {
        self.read("count trials", |tx| {
            let sql = "SELECT method, status, count(*) FROM trial WHERE NOT retired
                       GROUP BY method, status";
            let rows = collect(tx, sql, &[], |row| {
                Ok(((row.get(0), row::status(row.get(1))?), count(row, 2)))
            })?;
            Ok(rows.into_iter().collect())
        })
    }
}

fn absorb(
    tx: &mut Transaction<'_>,
    spec_hash: &str,
    trial: &TrialRow,
    attempts: &[AttemptRecord],
) -> Result<MergeCounts, Failure> {
    tx.execute(
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
    lock(tx, &trial.key)?;
    let here = one_trial(tx, &trial.key.0)?;
    let takes_over = here.status == Status::Pending && trial.status.finished();
    let mut counts = MergeCounts::default();
    let mut final_number = None;
    let mut highest = here.attempt;
    for attempt in attempts {
        let origin = attempt.origin_attempt.unwrap_or(attempt.attempt);
        let is_final = trial.status.finished() && attempt.attempt == trial.attempt;
        let known = tx.query_opt(
            "SELECT attempt FROM attempt WHERE trial_key = $1 AND origin = $2
             AND coalesce(session_id, '') = $3",
            &[&trial.key.0, &i64::from(origin), &attempt.session_id],
        )?;
        let number = if let Some(row) = known {
            counts.known += 1;
            small(&row, 0)
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
        let number = i64::from(final_number.unwrap_or(highest));
        tx.execute(
            "UPDATE trial SET status = $2, attempt = $3, granted = least(granted, $3)
             WHERE trial_key = $1",
            &[&trial.key.0, &trial.status.word(), &number],
        )?;
        counts.settled += 1;
    } else if here.status == Status::Pending {
        tx.execute(
            "UPDATE trial SET attempt = $2 WHERE trial_key = $1",
            &[&trial.key.0, &i64::from(highest)],
        )?;
    }
    Ok(counts)
}
