//! Where trials and their results are kept (specification, section 5).
//!
//! [`Store`] is the contract. [`SqliteStore`] keeps one file per experiment and is always there;
//! `PostgresStore` (feature `postgres`) keeps one schema of a `PostgreSQL` database per experiment
//! and serves several machines at once. Both are held to `tests/store_conformance.rs`, the second by
//! `tests/postgres/run.sh`, which starts a private server for it.

pub mod backup;
pub mod csv;
pub mod export;
mod filesystem;
pub mod import;
pub mod merge;
#[cfg(feature = "parquet")]
pub mod parquet;
#[cfg(feature = "postgres")]
pub mod postgres;
mod protocol;
pub mod record;
mod row;
pub mod seal;
pub mod sqlite;

#[cfg(feature = "postgres")]
pub use self::postgres::PostgresStore;
pub use filesystem::{FileSystemProbe, filesystem_kind};
pub use sqlite::{SqliteOptions, SqliteStore};

use crate::plan::PlannedTrial;
use record::{
    AttemptRecord, Claim, Counts, EventRecord, ExperimentRecord, Lease, MergeCounts, MetricRow,
    PointRow, ReclaimRequest, SealedFacts, SessionRecord, TrialRow,
};
use std::collections::BTreeMap;

/// What a backend must do. `sqlite` is the one that is always there; the optional `postgres`
/// feature passes the same conformance tests.
pub trait Store: Send {
    /// Inserts trials whose key is not there yet and retires those of `stage` that the plan no
    /// longer has; returns how many were inserted.
    ///
    /// # Errors
    /// When the backend refuses.
    fn plan(&mut self, spec_hash: &str, trials: &[PlannedTrial]) -> Result<usize, StoreError>;

    /// The experiment that the store belongs to; `None` in a store that was never planned.
    ///
    /// # Errors
    /// When the backend refuses.
    fn experiment(&self) -> Result<Option<ExperimentRecord>, StoreError>;

    /// Says which experiment the store belongs to, or that its spec changed. `created_at` of the
    /// first call stays.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the store belongs to another experiment.
    fn set_experiment(&mut self, experiment: &ExperimentRecord) -> Result<(), StoreError>;

    /// Records the start of a runner.
    ///
    /// # Errors
    /// When the backend refuses.
    fn begin_session(&mut self, session: &SessionRecord) -> Result<(), StoreError>;

    /// Records the end of a runner in good order.
    ///
    /// # Errors
    /// When the backend refuses.
    fn end_session(&mut self, session_id: &str, ended_at: i64) -> Result<(), StoreError>;

    /// Takes the next trial: pending, or running under a lease that ended. Atomic: two runners
    /// never hold one trial.
    ///
    /// # Errors
    /// When the backend refuses.
    fn claim(&mut self, request: &record::ClaimRequest) -> Result<Option<Claim>, StoreError>;

    /// Prolongs a lease; `false` when it was lost.
    ///
    /// # Errors
    /// When the backend refuses.
    fn renew(&mut self, claim: &Claim, lease_until: i64) -> Result<bool, StoreError>;

    /// Commits a finished attempt with its metrics, points and artifacts in one transaction.
    /// `false` when the lease was lost: the attempt is kept as superseded and changes nothing else.
    ///
    /// # Errors
    /// When the backend refuses.
    fn finish(&mut self, claim: &Claim, attempt: &AttemptRecord) -> Result<bool, StoreError>;

    /// Gives a trial back unrun; the attempt is not counted. Does nothing when the lease was lost.
    ///
    /// # Errors
    /// When the backend refuses.
    fn release(&mut self, claim: &Claim) -> Result<(), StoreError>;

    /// Who holds which trial.
    ///
    /// # Errors
    /// When the backend refuses.
    fn leases(&self) -> Result<Vec<Lease>, StoreError>;

    /// Takes running trials of dead runners and of ended leases back: each leaves an attempt with
    /// status `lost`, and the trial becomes pending, or a crash with reason `lost` when no attempt
    /// is left. Returns what was taken.
    ///
    /// # Errors
    /// When the backend refuses.
    fn reclaim(&mut self, request: &ReclaimRequest) -> Result<Vec<Lease>, StoreError>;

    /// Makes finished trials pending again and grants them a fresh set of attempts; their old
    /// attempts stay. Returns how many changed. The caller appends the event with the reason.
    ///
    /// # Errors
    /// When the backend refuses.
    fn retry(&mut self, keys: &[crate::identity::TrialKey]) -> Result<usize, StoreError>;

    /// Appends an event (freeze, unseal, spec change, ...). Events are never changed or deleted.
    ///
    /// # Errors
    /// When the backend refuses.
    fn append_event(&mut self, event: &EventRecord) -> Result<(), StoreError>;

    /// All events in order.
    ///
    /// # Errors
    /// When the backend refuses.
    fn events(&self) -> Result<Vec<EventRecord>, StoreError>;

    /// All trials in running order, retired ones included.
    ///
    /// # Errors
    /// When the backend refuses.
    fn trials(&self) -> Result<Vec<TrialRow>, StoreError>;

    /// Every attempt of every trial, oldest first, without curve points (see [`Store::points`]) and
    /// with sealed metrics only once the store is unsealed.
    ///
    /// # Errors
    /// When the backend refuses.
    fn attempts(&self) -> Result<Vec<AttemptRecord>, StoreError>;

    /// Attempts of one trial as committed, points and **sealed values included**. For merging and
    /// for comparing a replay bit by bit; nothing that a person reads may be made from it.
    ///
    /// # Errors
    /// When the backend refuses.
    fn full_attempts(
        &self,
        key: &crate::identity::TrialKey,
    ) -> Result<Vec<AttemptRecord>, StoreError>;

    /// How many sealed values each stage has, and since when.
    ///
    /// # Errors
    /// When the backend refuses.
    fn sealed_facts(&self) -> Result<BTreeMap<crate::plan::Stage, SealedFacts>, StoreError>;

    /// Takes a trial and its attempts from another store. An attempt is known by trial, number in
    /// the store that ran it, and session, so that merging twice changes nothing; the trial's state
    /// is taken over when it is unfinished here and finished there.
    ///
    /// # Errors
    /// When the backend refuses.
    fn absorb(
        &mut self,
        spec_hash: &str,
        trial: &TrialRow,
        attempts: &[AttemptRecord],
    ) -> Result<MergeCounts, StoreError>;

    /// Final values of the last attempt of each finished trial; sealed ones only when an `unseal`
    /// event permits it.
    ///
    /// # Errors
    /// When the backend refuses.
    fn metrics(&self) -> Result<Vec<MetricRow>, StoreError>;

    /// Curve points of the last attempt of each finished trial; those of sealed metrics as above.
    ///
    /// # Errors
    /// When the backend refuses.
    fn points(&self) -> Result<Vec<PointRow>, StoreError>;

    /// Sessions that left results which count in `stage`, for the revision guard.
    ///
    /// # Errors
    /// When the backend refuses.
    fn result_sessions(&self, stage: crate::plan::Stage) -> Result<Vec<String>, StoreError>;

    /// All sessions in order.
    ///
    /// # Errors
    /// When the backend refuses.
    fn sessions(&self) -> Result<Vec<SessionRecord>, StoreError>;

    /// Trials by method and status.
    ///
    /// # Errors
    /// When the backend refuses.
    fn counts(&self) -> Result<Counts, StoreError>;
}

/// What a store can refuse.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file is not a store of this program, or of a newer version.
    #[error("{path}: expected {expected}, found {found}")]
    Format {
        /// File or address.
        path: String,
        /// What the program can read.
        expected: String,
        /// What was there.
        found: String,
    },
    /// The file system cannot hold a store safely.
    #[error("{path} lies on {kind}, where a SQLite store can lose records; {remedy}")]
    FileSystem {
        /// The folder.
        path: String,
        /// File-system type.
        kind: String,
        /// What to do instead.
        remedy: String,
    },
    /// The store belongs to something else.
    #[error("{what}: expected {expected}, found {found}")]
    Conflict {
        /// What does not agree.
        what: &'static str,
        /// What the caller has.
        expected: String,
        /// What the store has.
        found: String,
    },
    /// Another writer held the store for longer than the timeout.
    #[error("store {action}: another writer held it for too long")]
    Busy {
        /// What was being done.
        action: &'static str,
    },
    /// No room is left; what was committed before is intact.
    #[error("store {action}: the disk is full; everything committed before is intact")]
    Full {
        /// What was being done.
        action: &'static str,
    },
    /// A file that was to be read or written could not be.
    #[error("{path}: {message}")]
    File {
        /// The file.
        path: String,
        /// What the system said, or what was wrong with its content.
        message: String,
    },
    /// The database answered with an error.
    #[error("store {action}: {message}")]
    Backend {
        /// What was being done.
        action: &'static str,
        /// The database's message.
        message: String,
    },
}
