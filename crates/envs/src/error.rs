//! One error type; each variant names what was asked, what was expected and what was found.

use std::fmt::Display;
use std::path::PathBuf;

/// What can go wrong with an environment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument, a configuration field or an action does not fit.
    #[error("`{argument}`: expected {expected}, found {found}")]
    Argument {
        /// Name of the argument or field.
        argument: &'static str,
        /// What fits.
        expected: String,
        /// What came.
        found: String,
    },
    /// A step before the first reset, or after the end of an episode.
    #[error("`step`: expected a running episode, found {found}; call `reset` first")]
    NotRunning {
        /// "no episode yet" or "a finished episode".
        found: &'static str,
    },
    /// No layout that passes the filter was found.
    #[error(
        "`filter`: expected a layout that is solvable for task {task:?}, found none in {tries} draws"
    )]
    NoLayout {
        /// The task.
        task: Vec<u8>,
        /// How many layouts were drawn.
        tries: u32,
    },
    /// No environment has this name.
    #[error("no environment `{name}`, expected one of: {known}")]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// Some environments of a vector failed; the others have moved.
    #[error("{failed} of {lanes} environments failed; first lane {lane}: {why}")]
    Lanes {
        /// How many failed.
        failed: usize,
        /// How many there are.
        lanes: usize,
        /// The first that failed.
        lane: usize,
        /// Why it failed.
        why: String,
    },
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not have the form it should have.
    #[error("{path}: {field}: expected {expected}, found {found}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Part of the file.
        field: String,
        /// What a good file has there.
        expected: String,
        /// What this one has.
        found: String,
    },
    /// The physics library is missing, of another version, or refused something.
    #[error("MuJoCo: {what}: expected {expected}, found {found}")]
    Mujoco {
        /// What was tried.
        what: &'static str,
        /// What it needs.
        expected: String,
        /// What there was.
        found: String,
    },
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn argument(
        argument: &'static str,
        expected: impl Into<String>,
        found: impl Display,
    ) -> Self {
        Self::Argument { argument, expected: expected.into(), found: found.to_string() }
    }
}

/// An error unless `holds`.
pub(crate) fn ensure(
    holds: bool,
    argument: &'static str,
    expected: impl FnOnce() -> String,
    found: impl Display,
) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::argument(argument, expected(), found)) }
}

/// An error unless a slice has the length that it must have.
pub(crate) fn ensure_len(argument: &'static str, expected: usize, found: usize) -> Result<()> {
    ensure(expected == found, argument, || format!("{expected} values"), found)
}
