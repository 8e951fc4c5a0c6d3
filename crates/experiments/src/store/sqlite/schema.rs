//! Tables, indexes, pragmas and migrations.

use super::{StoreError, backend};
use rusqlite::{Connection, TransactionBehavior};
use std::path::Path;

/// `MExp` as a number: marks the file as ours in its header.
const APPLICATION_ID: i64 = 0x4d45_7870;

/// Version that this program writes; one migration per step.
const VERSION: i64 = 1;

const MIGRATIONS: &[&str] = &[V1];

/// Above this size the whole-file check is left to `exp doctor` and [`super::SqliteStore::verify`].
const CHECK_BELOW_BYTES: u64 = 16 << 20;

const V1: &str = "
CREATE TABLE experiment (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    id          TEXT NOT NULL,
    spec_toml   TEXT NOT NULL,
    spec_hash   TEXT NOT NULL,
    schema      INTEGER NOT NULL,
    created_at  INTEGER NOT NULL
) STRICT;
CREATE TABLE session (
    session_id   TEXT PRIMARY KEY,
    started_at   INTEGER NOT NULL,
    ended_at     INTEGER,
    host         TEXT NOT NULL,
    pid          INTEGER NOT NULL,
    boot_id      TEXT NOT NULL,
    args_json    TEXT NOT NULL,
    spec_hash    TEXT NOT NULL,
    git_rev      TEXT,
    git_dirty    INTEGER NOT NULL,
    git_diff_sha TEXT,
    env_json     TEXT NOT NULL
) STRICT;
CREATE TABLE trial (
    trial_key    TEXT PRIMARY KEY,
    ord          INTEGER NOT NULL,
    stage        TEXT NOT NULL,
    cell_json    TEXT NOT NULL,
    method       TEXT NOT NULL,
    task         TEXT NOT NULL,
    rep          INTEGER NOT NULL,
    seeds_json   TEXT NOT NULL,
    spec_hash    TEXT NOT NULL,
    status       TEXT NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending','running','ok','timeout','memout','crash','invalid')),
    attempt      INTEGER NOT NULL DEFAULT 0,
    granted      INTEGER NOT NULL DEFAULT 0,
    retired      INTEGER NOT NULL DEFAULT 0,
    lease_owner  TEXT,
    lease_until  INTEGER,
    claimed_at   INTEGER,
    CHECK ((status = 'running') = (lease_owner IS NOT NULL AND lease_until IS NOT NULL))
) STRICT, WITHOUT ROWID;
-- Claims read the first open trial of a stage; counts read no table page at all.
CREATE INDEX trial_open ON trial (stage, retired, status, ord);
CREATE INDEX trial_count ON trial (retired, method, status);
CREATE INDEX trial_ord ON trial (ord);
CREATE TABLE attempt (
    trial_key    TEXT NOT NULL REFERENCES trial (trial_key),
    attempt      INTEGER NOT NULL,
    origin       INTEGER NOT NULL,
    session_id   TEXT REFERENCES session (session_id),
    started_at   INTEGER NOT NULL,
    ended_at     INTEGER NOT NULL,
    status       TEXT NOT NULL
        CHECK (status IN ('ok','timeout','memout','crash','invalid','superseded','lost')),
    exit_code    INTEGER,
    signal       INTEGER,
    reason       TEXT,
    wall_s       REAL NOT NULL,
    cpu_user_s   REAL NOT NULL,
    cpu_sys_s    REAL NOT NULL,
    peak_rss_kib INTEGER NOT NULL,
    threads      INTEGER NOT NULL,
    device       TEXT NOT NULL,
    budget_used  REAL,
    stdout_tail  TEXT NOT NULL,
    stderr_tail  TEXT NOT NULL,
    log_path     TEXT,
    result_json  TEXT,
    sealed_names TEXT NOT NULL,
    PRIMARY KEY (trial_key, attempt)
) STRICT, WITHOUT ROWID;
CREATE INDEX attempt_started ON attempt (started_at);
CREATE TABLE metric (
    trial_key TEXT NOT NULL,
    attempt   INTEGER NOT NULL,
    name      TEXT NOT NULL,
    split     TEXT NOT NULL,
    value     REAL,
    nonfinite TEXT CHECK (nonfinite IN ('nan','inf','-inf')),
    PRIMARY KEY (trial_key, attempt, name, split),
    FOREIGN KEY (trial_key, attempt) REFERENCES attempt (trial_key, attempt),
    CHECK ((value IS NULL) <> (nonfinite IS NULL))
) STRICT, WITHOUT ROWID;
CREATE TABLE sealed (
    trial_key TEXT NOT NULL,
    attempt   INTEGER NOT NULL,
    name      TEXT NOT NULL,
    split     TEXT NOT NULL,
    value     REAL,
    nonfinite TEXT CHECK (nonfinite IN ('nan','inf','-inf')),
    PRIMARY KEY (trial_key, attempt, name, split),
    FOREIGN KEY (trial_key, attempt) REFERENCES attempt (trial_key, attempt),
    CHECK ((value IS NULL) <> (nonfinite IS NULL))
) STRICT, WITHOUT ROWID;
CREATE TABLE point (
    trial_key TEXT NOT NULL,
    attempt   INTEGER NOT NULL,
    name      TEXT NOT NULL,
    step      INTEGER NOT NULL,
    budget    REAL NOT NULL,
    wall_s    REAL NOT NULL,
    value     REAL,
    nonfinite TEXT CHECK (nonfinite IN ('nan','inf','-inf')),
    sealed    INTEGER NOT NULL,
    FOREIGN KEY (trial_key, attempt) REFERENCES attempt (trial_key, attempt),
    CHECK ((value IS NULL) <> (nonfinite IS NULL))
) STRICT;
CREATE INDEX point_curve ON point (trial_key, attempt, name, step);
CREATE TABLE artifact (
    trial_key TEXT NOT NULL,
    attempt   INTEGER NOT NULL,
    name      TEXT NOT NULL,
    path      TEXT NOT NULL,
    sha256    TEXT NOT NULL,
    bytes     INTEGER NOT NULL,
    PRIMARY KEY (trial_key, attempt, name),
    FOREIGN KEY (trial_key, attempt) REFERENCES attempt (trial_key, attempt)
) STRICT, WITHOUT ROWID;
CREATE TABLE event (
    id          INTEGER PRIMARY KEY,
    at          INTEGER NOT NULL,
    session_id  TEXT REFERENCES session (session_id),
    kind        TEXT NOT NULL,
    detail_json TEXT NOT NULL
) STRICT;
CREATE TRIGGER event_no_update BEFORE UPDATE ON event
BEGIN SELECT RAISE(ABORT, 'events are append only'); END;
CREATE TRIGGER event_no_delete BEFORE DELETE ON event
BEGIN SELECT RAISE(ABORT, 'events are append only'); END;
";

/// Checks that the file is ours and sound, sets the pragmas and brings the tables to [`VERSION`].
pub(super) fn prepare(conn: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let fail = |action| backend(action, path);
    let format = |expected: String, found: String| StoreError::Format {
        path: path.display().to_string(),
        expected,
        found,
    };
    // Everything up to here only reads: a foreign, newer or damaged file is left as it is. The three
    // values come from one snapshot, or the first open of another process could fall between them.
    let (version, application, tables) = header(conn).map_err(fail("open"))?;
    if (tables > 0 || application != 0) && application != APPLICATION_ID {
        return Err(format(
            "an experiment store".to_owned(),
            format!("another program's SQLite file (application id {application:#x})"),
        ));
    }
    if version > VERSION {
        return Err(format(
            format!("a store of version {VERSION} or older"),
            format!("version {version}; a newer `exp` wrote it, use that one"),
        ));
    }
    if tables > 0 && std::fs::metadata(path).is_ok_and(|meta| meta.len() <= CHECK_BELOW_BYTES) {
        let verdict: String =
            conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(fail("open"))?;
        if verdict != "ok" {
            return Err(format("a sound experiment store".to_owned(), verdict));
        }
    }
    conn.pragma_update(None, "foreign_keys", true).map_err(fail("open"))?;
    conn.pragma_update(None, "temp_store", "memory").map_err(fail("open"))?;
    // The busy timeout does not cover this switch when two first opens do it at once.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
    let mode: String = loop {
        match conn.query_row("PRAGMA journal_mode=WAL", [], |row| row.get(0)) {
            Err(rusqlite::Error::SqliteFailure(error, _))
                if error.code == rusqlite::ErrorCode::DatabaseBusy
                    && std::time::Instant::now() < until =>
            {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            other => break other.map_err(fail("open"))?,
        }
    };
    conn.pragma_update(None, "synchronous", "FULL").map_err(fail("open"))?;
    let synchronous = number(conn, "synchronous").map_err(fail("open"))?;
    let foreign_keys = number(conn, "foreign_keys").map_err(fail("open"))?;
    if mode != "wal" || synchronous != 2 || foreign_keys != 1 {
        return Err(format(
            "journal_mode=wal, synchronous=2, foreign_keys=1".to_owned(),
            format!("journal_mode={mode}, synchronous={synchronous}, foreign_keys={foreign_keys}"),
        ));
    }
    if version == VERSION {
        return Ok(());
    }
    let tx =
        conn.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail("migrate"))?;
    // Another runner may have done it while we waited for the lock.
    let version = number(&tx, "user_version").map_err(fail("migrate"))?;
    for migration in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(0)) {
        tx.execute_batch(migration).map_err(fail("migrate"))?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID).map_err(fail("migrate"))?;
    tx.pragma_update(None, "user_version", VERSION).map_err(fail("migrate"))?;
    tx.commit().map_err(fail("migrate"))
}

/// Version, application id and count of tables, all of the same moment.
fn header(conn: &mut Connection) -> rusqlite::Result<(i64, i64, i64)> {
    let snapshot = conn.transaction_with_behavior(TransactionBehavior::Deferred)?;
    // The first read of a table starts the snapshot; a pragma alone would not hold it.
    let tables = snapshot.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let values = (number(&snapshot, "user_version")?, number(&snapshot, "application_id")?, tables);
    snapshot.finish()?;
    Ok(values)
}

fn number(conn: &Connection, pragma: &str) -> rusqlite::Result<i64> {
    conn.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))
}

/// What `integrity_check` and `foreign_key_check` complain of, at most five lines.
pub(super) fn findings(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut statement = conn.prepare("PRAGMA integrity_check(5)")?;
    for line in statement.query_map([], |row| row.get::<_, String>(0))? {
        let line = line?;
        if line != "ok" {
            found.push(line);
        }
    }
    let mut statement = conn.prepare("SELECT \"table\", parent FROM pragma_foreign_key_check")?;
    let broken = statement.query_map([], |row| {
        Ok(format!(
            "a row of {} refers to a row of {} that is not there",
            row.get::<_, String>(0)?,
            row.get::<_, String>(1)?
        ))
    })?;
    for line in broken.take(5) {
        found.push(line?);
    }
    Ok(found)
}
