//! One SQLite file per experiment (specification, sections 5.1 and 5.2).

mod lease;
mod read;
mod schema;
mod write;

use super::{FileSystemProbe, Store, StoreError, filesystem, protocol, record};
use crate::{
    identity::TrialKey,
    plan::{PlannedTrial, Stage},
};
use record::{
    AttemptRecord, Claim, ClaimRequest, Counts, EventRecord, ExperimentRecord, Lease, MergeCounts,
    MetricRow, PointRow, ReclaimRequest, SealedFacts, SessionRecord, TrialRow,
};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

/// How a store is opened; the defaults are right outside tests.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// How long to wait for another writer.
    pub busy_timeout: Duration,
    /// Tells the type of the file system.
    pub probe: FileSystemProbe,
    /// Upper bound of the file in pages of 4 KiB, to see what a full disk does.
    pub max_pages: Option<u32>,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { busy_timeout: Duration::from_secs(30), probe: filesystem::probe, max_pages: None }
    }
}

/// A store in one SQLite file, in write-ahead mode with full synchronisation: what
/// [`Store::finish`] has committed survives a killed process and a power cut.
///
/// ```
/// use experiments::store::{SqliteStore, Store};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("store.db");
/// let store = SqliteStore::open(&path)?;
/// assert!(store.trials()?.is_empty());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct SqliteStore {
    conn: Connection,
    path: PathBuf,
    /// Content of the temporary table `wanted`, so that a filter is written once per runner.
    wanted: Vec<TrialKey>,
}

impl SqliteStore {
    /// Opens the store at `path` and makes it, with its folder, when there is none.
    ///
    /// # Errors
    /// [`StoreError::FileSystem`] on a network file system; [`StoreError::Format`] when the file is
    /// something else, damaged, or written by a newer version. Such a file is left as it is.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_with(path, &SqliteOptions::default())
    }

    /// Opens the store at `path` and refuses to make one.
    ///
    /// # Errors
    /// As [`SqliteStore::open`], and [`StoreError::File`] when there is none.
    pub fn open_existing(path: &Path) -> Result<Self, StoreError> {
        if !path.is_file() {
            return Err(StoreError::File {
                path: path.display().to_string(),
                message: "expected a store, found none; `exp run` makes it".to_owned(),
            });
        }
        Self::open(path)
    }

    /// [`SqliteStore::open`] with other options.
    ///
    /// # Errors
    /// As [`SqliteStore::open`].
    pub fn open_with(path: &Path, options: &SqliteOptions) -> Result<Self, StoreError> {
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        fs::create_dir_all(folder).map_err(|error| StoreError::File {
            path: folder.display().to_string(),
            message: error.to_string(),
        })?;
        filesystem::check(folder, options.probe)?;
        check_header(path)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut conn = Connection::open_with_flags(path, flags).map_err(backend("open", path))?;
        conn.busy_timeout(options.busy_timeout).map_err(backend("open", path))?;
        schema::prepare(&mut conn, path)?;
        if let Some(pages) = options.max_pages {
            conn.pragma_update(None, "max_page_count", pages).map_err(backend("open", path))?;
        }
        Ok(Self { conn, path: path.to_path_buf(), wanted: Vec::new() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether SQLite finds the file and its references sound.
    ///
    /// # Errors
    /// [`StoreError::Format`] with the first findings when it does not.
    pub fn verify(&self) -> Result<(), StoreError> {
        let findings = schema::findings(&self.conn).map_err(backend("verify", &self.path))?;
        if findings.is_empty() {
            return Ok(());
        }
        Err(StoreError::Format {
            path: self.path.display().to_string(),
            expected: "a sound store".to_owned(),
            found: findings.join("; "),
        })
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.conn
    }

    /// Runs `work` in one immediate transaction: the lock is taken before anything is read.
    fn write<T>(
        &mut self,
        action: &'static str,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T, WriteError>,
    ) -> Result<T, StoreError> {
        let path = &self.path;
        let tx = self
            .conn
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(backend(action, path))?;
        let value = work(&tx).map_err(|error| error.into_store(action, path))?;
        tx.commit().map_err(backend(action, path))?;
        Ok(value)
    }

    fn read<T>(
        &self,
        action: &'static str,
        work: impl FnOnce(&Connection) -> Result<T, WriteError>,
    ) -> Result<T, StoreError> {
        work(&self.conn).map_err(|error| error.into_store(action, &self.path))
    }
}

/// An error of SQLite or of a record inside a transaction.
#[derive(Debug)]
pub(super) enum WriteError {
    Sqlite(rusqlite::Error),
    Store(StoreError),
}

impl From<rusqlite::Error> for WriteError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for WriteError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl WriteError {
    fn into_store(self, action: &'static str, path: &Path) -> StoreError {
        match self {
            Self::Sqlite(error) => translate(action, path, &error),
            Self::Store(error) => error,
        }
    }
}

fn backend(action: &'static str, path: &Path) -> impl FnOnce(rusqlite::Error) -> StoreError {
    let path = path.to_path_buf();
    move |error| translate(action, &path, &error)
}

fn translate(action: &'static str, path: &Path, error: &rusqlite::Error) -> StoreError {
    let damaged = |found: String| StoreError::Format {
        path: path.display().to_string(),
        expected: "a sound experiment store".to_owned(),
        found,
    };
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full { action },
        // A write beyond a file-size limit (EFBIG) is the same matter under another name.
        Some(ErrorCode::SystemIoFailure)
            if error.sqlite_error().is_some_and(|e| e.extended_code == IOERR_WRITE) =>
        {
            StoreError::Full { action }
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            damaged(format!("a damaged file ({error}); restore it with `exp import` or a backup"))
        }
        Some(ErrorCode::NotADatabase) => damaged("a file of another kind".to_owned()),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreError::Busy { action },
        _ => StoreError::Backend { action, message: error.to_string() },
    }
}

/// `SQLITE_IOERR_WRITE`: 10 + 3 * 256.
const IOERR_WRITE: i32 = 778;

/// Looks at the first bytes before SQLite does, so that a foreign file is never touched.
fn check_header(path: &Path) -> Result<(), StoreError> {
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(StoreError::File {
                path: path.display().to_string(),
                message: error.to_string(),
            });
        }
    };
    let mut magic = Vec::with_capacity(16);
    Read::by_ref(&mut file).take(16).read_to_end(&mut magic).map_err(|error| StoreError::File {
        path: path.display().to_string(),
        message: error.to_string(),
    })?;
    if magic.is_empty() || magic == b"SQLite format 3\0" {
        return Ok(());
    }
    Err(StoreError::Format {
        path: path.display().to_string(),
        expected: "an experiment store (SQLite format 3)".to_owned(),
        found: format!("a file that starts with {:?}", String::from_utf8_lossy(&magic)),
    })
}

impl Store for SqliteStore {
    fn experiment(&self) -> Result<Option<ExperimentRecord>, StoreError> {
        self.read("read the experiment", read::experiment)
    }

    fn set_experiment(&mut self, experiment: &ExperimentRecord) -> Result<(), StoreError> {
        self.write("write the experiment", |mut tx| protocol::set_experiment(&mut tx, experiment))
    }

    fn plan(&mut self, spec_hash: &str, trials: &[PlannedTrial]) -> Result<usize, StoreError> {
        // A finished store is only read: running it again costs no write.
        if self.read("plan", |conn| write::is_planned(conn, spec_hash, trials))? {
            return Ok(0);
        }
        self.write("plan", |tx| write::plan(tx, spec_hash, trials))
    }

    fn begin_session(&mut self, session: &SessionRecord) -> Result<(), StoreError> {
        self.write("begin a session", |tx| write::begin_session(tx, session))
    }

    fn end_session(&mut self, session_id: &str, ended_at: i64) -> Result<(), StoreError> {
        self.write("end a session", |tx| write::end_session(tx, session_id, ended_at))
    }

    fn claim(&mut self, request: &ClaimRequest) -> Result<Option<Claim>, StoreError> {
        if let Some(only) = &request.only
            && *only != self.wanted
        {
            lease::write_wanted(&mut self.conn, only).map_err(backend("claim", &self.path))?;
            self.wanted.clone_from(only);
        }
        self.write("claim", |tx| lease::claim(tx, request))
    }

    fn renew(&mut self, claim: &Claim, lease_until: i64) -> Result<bool, StoreError> {
        self.write("renew a lease", |tx| lease::renew(tx, claim, lease_until))
    }

    fn finish(&mut self, claim: &Claim, attempt: &AttemptRecord) -> Result<bool, StoreError> {
        self.write("commit an attempt", |mut tx| protocol::finish(&mut tx, claim, attempt))
    }

    fn release(&mut self, claim: &Claim) -> Result<(), StoreError> {
        self.write("release a trial", |tx| lease::release(tx, claim))
    }

    fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.read("read leases", read::leases)
    }

    fn reclaim(&mut self, request: &ReclaimRequest) -> Result<Vec<Lease>, StoreError> {
        // Looking first spares the write lock in the usual case that nobody died.
        if !self.leases()?.iter().any(|lease| protocol::is_gone(lease, request)) {
            return Ok(Vec::new());
        }
        self.write("reclaim", |mut tx| {
            let leases = read::leases(tx)?;
            protocol::reclaim(&mut tx, leases, request)
        })
    }

    fn retry(&mut self, keys: &[TrialKey]) -> Result<usize, StoreError> {
        self.write("retry", |tx| lease::retry(tx, keys))
    }

    fn append_event(&mut self, event: &EventRecord) -> Result<(), StoreError> {
        self.write("append an event", |tx| write::append_event(tx, event))
    }

    fn events(&self) -> Result<Vec<EventRecord>, StoreError> {
        self.read("read events", read::events)
    }

    fn trials(&self) -> Result<Vec<TrialRow>, StoreError> {
        self.read("read trials", read::trials)
    }

    fn attempts(&self) -> Result<Vec<AttemptRecord>, StoreError> {
        self.read("read attempts", read::attempts)
    }

    fn full_attempts(&self, key: &TrialKey) -> Result<Vec<AttemptRecord>, StoreError> {
        self.read("read attempts", |conn| read::full_attempts(conn, key))
    }

    fn sealed_facts(&self) -> Result<BTreeMap<Stage, SealedFacts>, StoreError> {
        self.read("read facts of sealed values", read::sealed_facts)
    }

    fn absorb(
        &mut self,
        spec_hash: &str,
        trial: &TrialRow,
        attempts: &[AttemptRecord],
    ) -> Result<MergeCounts, StoreError> {
        self.write("merge a trial", |mut tx| protocol::absorb(&mut tx, spec_hash, trial, attempts))
    }

    fn metrics(&self) -> Result<Vec<MetricRow>, StoreError> {
        self.read("read metrics", read::metrics)
    }

    fn points(&self) -> Result<Vec<PointRow>, StoreError> {
        self.read("read points", read::points)
    }

    fn result_sessions(&self, stage: Stage) -> Result<Vec<String>, StoreError> {
        self.read("read sessions", |conn| read::result_sessions(conn, stage))
    }

    fn sessions(&self) -> Result<Vec<SessionRecord>, StoreError> {
        self.read("read sessions", read::sessions)
    }

    fn counts(&self) -> Result<Counts, StoreError> {
        self.read("count trials", read::counts)
    }
}
