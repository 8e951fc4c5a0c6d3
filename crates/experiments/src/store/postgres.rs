//! A store in `PostgreSQL` for several machines at once (feature `postgres`; specification, sections
//! 5.2 and 11). One database schema per experiment; claims use `FOR UPDATE SKIP LOCKED`, so that
//! runners do not wait for each other. It is held to the conformance tests of SQLite:
//! `crates/experiments/tests/postgres/run.sh` runs them on a private server.
//!
//! Logs and artifacts stay in the runners' folders: a folder that all machines see, or one to be
//! copied together afterwards. The connection is not encrypted: use a socket, a private network or
//! a tunnel. The seal guards against accident only, as in [`super::seal`]: whoever may read the
//! schema's tables may read its sealed values.

mod lease;
mod read;
mod schema;
mod write;

use super::{
    Store, StoreError, protocol,
    record::{
        AttemptRecord, Claim, ClaimRequest, Counts, EventRecord, ExperimentRecord, Lease,
        MergeCounts, MetricRow, PointRow, ReclaimRequest, SealedFacts, SessionRecord, TrialRow,
    },
};
use crate::{
    identity::TrialKey,
    plan::{PlannedTrial, Stage},
};
use ::postgres::{Client, Config, IsolationLevel, NoTls, Transaction, error::SqlState};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    error::Error,
    time::{Duration, Instant},
};

/// How long to wait for another writer, for a server that starts again, and for a lost network.
const PATIENCE: Duration = Duration::from_secs(30);

/// A store in one schema of a `PostgreSQL` database (12 or later). What [`Store::finish`] has
/// committed survives a killed runner and, as the server's settings promise, a crash of the server.
///
/// A connection that the server or the network drops is made anew before the next transaction, so
/// that a restart of the server between two of them ends no runner. A transaction that was under way
/// fails and is not repeated, since it may have been committed.
///
/// ```no_run
/// use experiments::store::{PostgresStore, Store};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = PostgresStore::connect("postgresql://me@db.example.org/studies", "moment_carry")?;
/// println!("{} trials", store.trials()?.len());
/// # Ok(()) }
/// ```
pub struct PostgresStore {
    // The client needs `&mut` for reading as well.
    client: RefCell<Client>,
    config: Config,
    schema: String,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The configuration holds a password.
        f.debug_struct("PostgresStore").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// Connects to the database at `url` (`postgresql://user@host/database`, a socket as
    /// `postgresql:///database?host=/folder&user=name`) and makes `schema` and its tables when they
    /// are not there.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the schema's name is not of lower-case letters, digits and `_`;
    /// [`StoreError::Format`] when the schema holds other tables or those of a newer version, which
    /// are left as they are, or when the database's encoding is not UTF-8; [`StoreError::Backend`]
    /// when the database cannot be reached or refuses.
    pub fn connect(url: &str, schema: &str) -> Result<Self, StoreError> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if schema.is_empty() || schema.len() > 63 || !schema.chars().all(plain) {
            return Err(StoreError::Conflict {
                what: "name of the database schema",
                expected: "1 to 63 lower-case letters, digits and `_`".to_owned(),
                found: format!("{schema:?}"),
            });
        }
        let mut config: Config = url.parse().map_err(|e| translate("connect", &e))?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(PATIENCE);
        }
        if config.get_application_name().is_none() {
            config.application_name("exp");
        }
        let mut client = open(&config, schema).map_err(|e| translate("connect", &e))?;
        schema::prepare(&mut client, schema)?;
        Ok(Self { client: RefCell::new(client), config, schema: schema.to_owned() })
    }

    /// Runs `work` in one transaction that sees each row as it is when it locks it.
    fn write<T>(
        &mut self,
        action: &'static str,
        work: impl FnOnce(&mut Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, StoreError> {
        let client = self.client.get_mut();
        revive(client, &self.config, &self.schema).map_err(|e| translate(action, &e))?;
        let mut tx = client
            .build_transaction()
            .isolation_level(IsolationLevel::ReadCommitted)
            .start()
            .map_err(|e| translate(action, &e))?;
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
        revive(&mut client, &self.config, &self.schema).map_err(|e| translate(action, &e))?;
        let mut tx = client
            .build_transaction()
            .read_only(true)
            .isolation_level(IsolationLevel::RepeatableRead)
            .start()
            .map_err(|e| translate(action, &e))?;
        work(&mut tx).map_err(|e| e.into_store(action))
    }
}

/// A connection whose statements mean the tables of `schema`.
fn open(config: &Config, schema: &str) -> Result<Client, ::postgres::Error> {
    let mut client = config.connect(NoTls)?;
    // A commit that is reported is on the disk, whatever the server's default is.
    client.batch_execute(&format!(
        "SET search_path TO \"{schema}\";
         SET lock_timeout TO '{}s';
         SELECT set_config('synchronous_commit', 'on', false)
         WHERE current_setting('synchronous_commit') = 'off'",
        PATIENCE.as_secs()
    ))?;
    Ok(client)
}

/// Makes the connection anew when it is gone. Nothing is lost between two transactions.
fn revive(client: &mut Client, config: &Config, schema: &str) -> Result<(), ::postgres::Error> {
    if client.is_valid(PATIENCE).is_ok() {
        return Ok(());
    }
    tracing::warn!(schema, "the connection to the database is gone; connecting again");
    let until = Instant::now() + PATIENCE;
    loop {
        match open(config, schema) {
            Ok(fresh) => {
                *client = fresh;
                return Ok(());
            }
            Err(error) if Instant::now() >= until => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// An error of the database or of a record inside a transaction.
#[derive(Debug)]
pub(super) enum Failure {
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
    const HELD: [SqlState; 3] = [
        SqlState::LOCK_NOT_AVAILABLE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::T_R_SERIALIZATION_FAILURE,
    ];
    match error.code() {
        Some(code) if *code == SqlState::DISK_FULL => return StoreError::Full { action },
        Some(code) if HELD.contains(code) => return StoreError::Busy { action },
        _ => {}
    }
    // Of an error of the database only the message: its details name values, sealed ones included.
    if let Some(known) = error.as_db_error() {
        return StoreError::Backend { action, message: known.message().to_owned() };
    }
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !message.contains(&inner_text) {
            message.push_str(": ");
            message.push_str(&inner_text);
        }
        cause = inner.source();
    }
    StoreError::Backend { action, message }
}

impl Store for PostgresStore {
    fn experiment(&self) -> Result<Option<ExperimentRecord>, StoreError> {
        self.read("read the experiment", read::experiment)
    }

    fn set_experiment(&mut self, experiment: &ExperimentRecord) -> Result<(), StoreError> {
        self.write("write the experiment", |tx| protocol::set_experiment(tx, experiment))
    }

    fn plan(&mut self, spec_hash: &str, trials: &[PlannedTrial]) -> Result<usize, StoreError> {
        // A finished store is only read: running it again costs no write.
        if self.read("plan", |tx| write::is_planned(tx, spec_hash, trials))? {
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
        self.write("claim", |tx| lease::claim(tx, request))
    }

    fn renew(&mut self, claim: &Claim, lease_until: i64) -> Result<bool, StoreError> {
        self.write("renew a lease", |tx| lease::renew(tx, claim, lease_until))
    }

    fn finish(&mut self, claim: &Claim, attempt: &AttemptRecord) -> Result<bool, StoreError> {
        self.write("commit an attempt", |tx| protocol::finish(tx, claim, attempt))
    }

    fn release(&mut self, claim: &Claim) -> Result<(), StoreError> {
        self.write("release a trial", |tx| lease::release(tx, claim))
    }

    fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.read("read leases", read::leases)
    }

    fn reclaim(&mut self, request: &ReclaimRequest) -> Result<Vec<Lease>, StoreError> {
        if !self.leases()?.iter().any(|lease| protocol::is_gone(lease, request)) {
            return Ok(Vec::new());
        }
        self.write("reclaim", |tx| {
            let held = lease::hold_gone(tx, request)?;
            protocol::reclaim(tx, held, request)
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
        self.read("read attempts", |tx| read::full_attempts(tx, key))
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
        self.write("merge a trial", |tx| protocol::absorb(tx, spec_hash, trial, attempts))
    }

    fn metrics(&self) -> Result<Vec<MetricRow>, StoreError> {
        self.read("read metrics", read::metrics)
    }

    fn points(&self) -> Result<Vec<PointRow>, StoreError> {
        self.read("read points", read::points)
    }

    fn result_sessions(&self, stage: Stage) -> Result<Vec<String>, StoreError> {
        self.read("read sessions", |tx| read::result_sessions(tx, stage))
    }

    fn sessions(&self) -> Result<Vec<SessionRecord>, StoreError> {
        self.read("read sessions", read::sessions)
    }

    fn counts(&self) -> Result<Counts, StoreError> {
        self.read("count trials", read::counts)
    }
}
