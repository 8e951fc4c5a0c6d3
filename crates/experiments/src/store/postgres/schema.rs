//! Tables, indexes and migrations.

use super::{Failure, StoreError, translate};
use ::postgres::{Client, IsolationLevel, Transaction};

/// Version that this program writes; one migration per step.
const VERSION: usize = MIGRATIONS.len();

const MIGRATIONS: &[&str] = &[V1];

/// Text sorts bytewise, as in SQLite, whatever the database's collation. NaN stands in columns of
/// values only, and there as a word: a NaN in another number is refused, as SQLite refuses it.
const V1: &str = "
CREATE TABLE experiment_store (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    version BIGINT NOT NULL);
INSERT INTO experiment_store VALUES (1, 0);
CREATE TABLE experiment (
    one        INTEGER PRIMARY KEY CHECK (one = 1),
    id         TEXT NOT NULL,
    spec_toml  TEXT NOT NULL,
    spec_hash  TEXT NOT NULL,
    schema     BIGINT NOT NULL,
    created_at BIGINT NOT NULL);
CREATE TABLE session (
    session_id   TEXT COLLATE \"C\" PRIMARY KEY,
    started_at   BIGINT NOT NULL,
    ended_at     BIGINT,
    host         TEXT NOT NULL,
    pid          BIGINT NOT NULL,
    boot_id      TEXT NOT NULL,
    args_json    TEXT NOT NULL,
    spec_hash    TEXT NOT NULL,
    git_rev      TEXT,
    git_dirty    BOOLEAN NOT NULL,
    git_diff_sha TEXT,
    env_json     TEXT NOT NULL);
CREATE TABLE trial (
    trial_key   TEXT COLLATE \"C\" PRIMARY KEY,
    ord         BIGINT NOT NULL,
    stage       TEXT COLLATE \"C\" NOT NULL,
    cell_json   TEXT NOT NULL,
    method      TEXT COLLATE \"C\" NOT NULL,
    task        TEXT COLLATE \"C\" NOT NULL,
    rep         BIGINT NOT NULL,
    seeds_json  TEXT NOT NULL,
    spec_hash   TEXT NOT NULL,
    status      TEXT NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending','running','ok','timeout','memout','crash','invalid')),
    attempt     BIGINT NOT NULL DEFAULT 0,
    granted     BIGINT NOT NULL DEFAULT 0,
    retired     BOOLEAN NOT NULL DEFAULT FALSE,
    lease_owner TEXT,
    lease_until BIGINT,
    claimed_at  BIGINT,
    CHECK ((status = 'running') = (lease_owner IS NOT NULL AND lease_until IS NOT NULL)));
-- Claims read the first open trial of a stage; finished trials are not in this index.
CREATE INDEX trial_open ON trial (stage, ord)
    WHERE NOT retired AND status IN ('pending', 'running');
CREATE INDEX trial_count ON trial (retired, method, status);
CREATE TABLE attempt (
    trial_key    TEXT COLLATE \"C\" NOT NULL REFERENCES trial (trial_key),
    attempt      BIGINT NOT NULL,
    origin       BIGINT NOT NULL,
    session_id   TEXT COLLATE \"C\" REFERENCES session (session_id),
    started_at   BIGINT NOT NULL,
    ended_at     BIGINT NOT NULL,
    status       TEXT NOT NULL
        CHECK (status IN ('ok','timeout','memout','crash','invalid','superseded','lost')),
    exit_code    BIGINT,
    signal       BIGINT,
    reason       TEXT,
    wall_s       DOUBLE PRECISION NOT NULL CHECK (wall_s <> 'NaN'),
    cpu_user_s   DOUBLE PRECISION NOT NULL CHECK (cpu_user_s <> 'NaN'),
    cpu_sys_s    DOUBLE PRECISION NOT NULL CHECK (cpu_sys_s <> 'NaN'),
    peak_rss_kib BIGINT NOT NULL,
    threads      BIGINT NOT NULL,
    device       TEXT NOT NULL,
    budget_used  DOUBLE PRECISION,
    stdout_tail  TEXT NOT NULL,
    stderr_tail  TEXT NOT NULL,
    log_path     TEXT,
    result_json  TEXT,
    sealed_names TEXT NOT NULL,
    PRIMARY KEY (trial_key, attempt));
CREATE INDEX attempt_started ON attempt (started_at);
CREATE TABLE metric (
    trial_key TEXT COLLATE \"C\" NOT NULL,
    attempt   BIGINT NOT NULL,
    name      TEXT COLLATE \"C\" NOT NULL,
    split     TEXT COLLATE \"C\" NOT NULL,
    value     DOUBLE PRECISION CHECK (value <> 'NaN'),
    nonfinite TEXT CHECK (nonfinite IN ('nan','inf','-inf')),
    PRIMARY KEY (trial_key, attempt, name, split),
    FOREIGN KEY (trial_key, attempt) REFERENCES attempt (trial_key, attempt),
    CHECK ((value IS NULL) <> (nonfinite IS NULL)));
CREATE TABLE sealed (
    LIKE metric INCLUDING ALL,
    FOREIGN KEY (trial_key, attempt) REFERENCES attempt (trial_key, attempt));
CREATE TABLE point (
    id        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    trial_key TEXT COLLATE \"C\" NOT NULL,
    attempt   BIGINT NOT NULL,
    name      TEXT COLLATE \"C\" NOT NULL,
    step      BIGINT NOT NULL,
    budget    DOUBLE PRECISION NOT NULL CHECK (budget <> 'NaN'),
    wall_s    DOUBLE PRECISION NOT NULL CHECK (wall_s <> 'NaN'),
    value     DOUBLE PRECISION CHECK (value <> 'NaN'),
    nonfinite TEXT CHECK (nonfinite IN ('nan','inf','-inf')),
    sealed    BOOLEAN NOT NULL,
    FOREIGN KEY (trial_key, attempt) REFERENCES attempt (trial_key, attempt),
    CHECK ((value IS NULL) <> (nonfinite IS NULL)));
CREATE INDEX point_curve ON point (trial_key, attempt, name, step);
CREATE TABLE artifact (
    trial_key TEXT COLLATE \"C\" NOT NULL,
    attempt   BIGINT NOT NULL,
    name      TEXT COLLATE \"C\" NOT NULL,
    path      TEXT NOT NULL,
    sha256    TEXT NOT NULL,
    bytes     BIGINT NOT NULL,
    PRIMARY KEY (trial_key, attempt, name),
    FOREIGN KEY (trial_key, attempt) REFERENCES attempt (trial_key, attempt));
CREATE TABLE event (
    id          BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          BIGINT NOT NULL,
    session_id  TEXT COLLATE \"C\" REFERENCES session (session_id),
    kind        TEXT NOT NULL,
    detail_json TEXT NOT NULL);
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'events are append only'; END $$;
CREATE TRIGGER event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON event
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
";

/// Checks that the schema is ours or empty and brings its tables to [`VERSION`].
pub(super) fn prepare(client: &mut Client, schema: &str) -> Result<(), StoreError> {
    let fail = |error: ::postgres::Error| translate("open", &error);
    // Each statement sees what was committed before it, and so what came while we waited our turn.
    let mut tx = client
        .build_transaction()
        .isolation_level(IsolationLevel::ReadCommitted)
        .start()
        .map_err(fail)?;
    migrate(&mut tx, schema).map_err(|error| error.into_store("open"))?;
    tx.commit().map_err(fail)
}

fn migrate(tx: &mut Transaction<'_>, schema: &str) -> Result<(), Failure> {
    let format = |expected: String, found: String| StoreError::Format {
        path: format!("database schema `{schema}`"),
        expected,
        found,
    };
    // Two runners that open a fresh store at once take turns here.
    tx.execute("SELECT pg_advisory_xact_lock(hashtext('experiments'), hashtext($1))", &[&schema])?;
    let encoding: String = tx.query_one("SHOW server_encoding", &[])?.get(0);
    if encoding != "UTF8" {
        let expected = "a database whose encoding is UTF8".to_owned();
        return Err(format(expected, format!("encoding {encoding}")).into());
    }
    let there = tx.query_opt("SELECT oid FROM pg_namespace WHERE nspname = $1", &[&schema])?;
    if there.is_none() {
        // Only then: a role that may not make schemas can still use one that was made for it.
        tx.batch_execute(&format!("CREATE SCHEMA \"{schema}\""))?;
    }
    let tables = tx.query_one(
        "SELECT count(*), count(*) FILTER (WHERE c.relname = 'experiment_store')
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')",
        &[&schema],
    )?;
    let (tables, marked): (i64, i64) = (tables.try_get(0)?, tables.try_get(1)?);
    let found = match (tables, marked) {
        (0, _) => 0,
        (_, 0) => {
            let expected = "an experiment store or an empty schema".to_owned();
            return Err(format(expected, format!("{tables} tables of another program")).into());
        }
        _ => {
            let row = tx.query_opt("SELECT version FROM experiment_store", &[])?;
            row.map(|row| row.try_get::<_, i64>(0)).transpose()?.unwrap_or(-1)
        }
    };
    let version = usize::try_from(found).ok().filter(|version| *version <= VERSION);
    let Some(version) = version else {
        let expected = format!("a store of version {VERSION} or older");
        let found = format!("version {found}; a newer `exp` wrote it, use that one");
        return Err(format(expected, found).into());
    };
    for migration in &MIGRATIONS[version..] {
        tx.batch_execute(migration)?;
    }
    if version < VERSION {
        tx.batch_execute(&format!("UPDATE experiment_store SET version = {VERSION}"))?;
    }
    Ok(())
}
