//! One error type; each variant names what was asked, what was expected and what was found.

use std::path::{Path, PathBuf};

/// What can go wrong with data.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
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
        /// File, or the name that the caller gave to bytes in memory.
        path: PathBuf,
        /// Part of the file.
        field: String,
        /// What a good file has there.
        expected: String,
        /// What this one has.
        found: String,
    },
    /// An argument does not fit.
    #[error("argument `{argument}`: expected {expected}, found {found}")]
    Argument {
        /// Name of the argument.
        argument: &'static str,
        /// What fits.
        expected: String,
        /// What came.
        found: String,
    },
    /// The bytes are not the ones that the registry or a split file names.
    #[error("{path}: {what}: expected {expected}, found {found}")]
    Checksum {
        /// File.
        path: PathBuf,
        /// "size in bytes", "sha256", ...
        what: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The registry has no such entry.
    #[error("no data set `{name}`, expected one of: {known}")]
    Unknown {
        /// The name that was asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// The data set was never fetched.
    #[error("data set `{name}` is not in {dir}: get it with `cargo xtask data fetch {name}`")]
    Missing {
        /// The data set.
        name: String,
        /// The data folder that was searched.
        dir: PathBuf,
    },
    /// A program that fetches or unpacks failed or is not there.
    #[error("{program}: {why}")]
    Client {
        /// Command line.
        program: String,
        /// Why, with the last lines that it printed.
        why: String,
    },
    /// The network cannot be reached.
    #[error(
        "{program}: no way to {host} from here; fetch `{name}` where there is a network, or put its files into {dir} ({why})"
    )]
    Offline {
        /// Command line.
        program: String,
        /// The data set.
        name: String,
        /// Host that was asked.
        host: String,
        /// Where the files belong.
        dir: PathBuf,
        /// What the program said.
        why: String,
    },
    /// Another process fetches the same data set.
    #[error("{path}: another process is fetching this data set")]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn format(
        path: &Path,
        field: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Format {
            path: path.to_owned(),
            field: field.into(),
            expected: expected.into(),
            found: found.into(),
        }
    }

    pub(crate) fn argument(
        argument: &'static str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        Self::Argument { argument, expected: expected.into(), found: found.into() }
    }
}
