//! Where trials and their results are kept (specification, section 5).

pub mod record;

use crate::plan::PlannedTrial;
use record::{
    AttemptRecord, Claim, Counts, EventRecord, MetricRow, PointRow, SessionRecord, TrialRow,
};

/// What a backend must do. `sqlite` is the one that is always there; the optional `postgres`
/// feature passes the same conformance tests.
pub trait Store: Send {
    /// Inserts trials whose key is not there yet and retires those of `stage` that the plan no
    /// longer has; returns how many were inserted.
    ///
    /// # Errors
    /// When the backend refuses.
    fn plan(&mut self, spec_hash: &str, trials: &[PlannedTrial]) -> Result<usize, StoreError>;

    /// Records the start of a runner.
    ///
    /// # Errors
    /// When the backend refuses.
    fn begin_session(&mut self, session: &SessionRecord) -> Result<(), StoreError>;

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

    /// Gives a trial back unrun; the attempt is not counted.
    ///
    /// # Errors
    /// When the backend refuses.
    fn release(&mut self, claim: &Claim) -> Result<(), StoreError>;

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

    /// Every attempt of every trial, oldest first.
    ///
    /// # Errors
    /// When the backend refuses.
    fn attempts(&self) -> Result<Vec<AttemptRecord>, StoreError>;

    /// Final values of the last attempt of each trial; sealed ones only when `unsealed` events
    /// permit it.
    ///
    /// # Errors
    /// When the backend refuses.
    fn metrics(&self) -> Result<Vec<MetricRow>, StoreError>;

    /// Curve points of the last attempt of each trial.
    ///
    /// # Errors
    /// When the backend refuses.
    fn points(&self) -> Result<Vec<PointRow>, StoreError>;

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
    /// The database answered with an error.
    #[error("store {action}: {message}")]
    Backend {
        /// What was being done.
        action: &'static str,
        /// The database's message.
        message: String,
    },
}
