//! Where the results of a study lie: a SQLite file, or a `PostgreSQL` server that several machines
//! share.

use anyhow::{Context, Result, bail};
use experiments::store::{SqliteStore, Store};
use std::{
    convert::Infallible,
    fmt, fs,
    path::{Path, PathBuf},
    str::FromStr,
};

/// What `--store` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A SQLite file.
    File(PathBuf),
    /// Address of a `PostgreSQL` database. A study lies in a schema of its own there.
    Server(String),
}

impl FromStr for Place {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let server = ["postgresql://", "postgres://"].iter().any(|scheme| text.starts_with(scheme));
        Ok(if server { Self::Server(text.to_owned()) } else { Self::File(PathBuf::from(text)) })
    }
}

/// Without the password, since this goes to terminals and into records.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Server(url) => f.write_str(&masked(url)),
        }
    }
}

/// `text` with the password of a database address replaced by `***`.
pub(crate) fn masked(text: &str) -> String {
    let Some((scheme, rest)) = text
        .split_once("://")
        .filter(|(scheme, _)| scheme.ends_with("postgres") || scheme.ends_with("postgresql"))
    else {
        return text.to_owned();
    };
    let (address, query) = rest.split_once('?').map_or((rest, None), |(a, q)| (a, Some(q)));
    let address = match address.rsplit_once('@') {
        Some((user, host)) => match user.split_once(':') {
            Some((name, _)) => format!("{name}:***@{host}"),
            None => address.to_owned(),
        },
        None => address.to_owned(),
    };
    let query = query.map(|query| {
        let parts: Vec<&str> = query
            .split('&')
            .map(|part| if part.starts_with("password=") { "password=***" } else { part })
            .collect();
        format!("?{}", parts.join("&"))
    });
    format!("{scheme}://{address}{}", query.unwrap_or_default())
}

impl Place {
    /// Opens the store, made if it is not there. `schema` names it on a server.
    pub(crate) fn open(&self, schema: &str) -> Result<Box<dyn Store>> {
        match self {
            Self::File(path) => {
                if let Some(folder) = path.parent() {
                    make_folder(folder)?;
                }
                Ok(Box::new(SqliteStore::open(path)?))
            }
            Self::Server(url) => connect(url, schema),
        }
    }

    /// Opens the store, `None` when it is not there. Looking makes no file.
    pub(crate) fn open_existing(&self, schema: &str) -> Result<Option<Box<dyn Store>>> {
        match self {
            Self::File(path) if path.exists() => {
                Ok(Some(Box::new(SqliteStore::open_existing(path)?)))
            }
            Self::File(_) => Ok(None),
            Self::Server(url) => {
                let store = connect(url, schema)?;
                // Connecting makes the tables; a store is there once something was planned in it.
                Ok(store.experiment()?.is_some().then_some(store))
            }
        }
    }

    /// The file, for what only a file can be.
    pub(crate) fn file(&self, verb: &str) -> Result<&Path> {
        match self {
            Self::File(path) => Ok(path),
            Self::Server(_) => bail!(
                "exp {verb}: expected a store file, found {self}; use the server's own tools (pg_dump --schema)"
            ),
        }
    }
}

pub(crate) fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))
}

#[cfg(feature = "postgres")]
fn connect(url: &str, schema: &str) -> Result<Box<dyn Store>> {
    Ok(Box::new(experiments::store::PostgresStore::connect(url, schema)?))
}

#[cfg(not(feature = "postgres"))]
fn connect(url: &str, _: &str) -> Result<Box<dyn Store>> {
    bail!(
        "--store {}: this exp was built without PostgreSQL; build it with `--features postgres`",
        masked(url)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_paths() {
        let of = |text: &str| text.parse::<Place>().unwrap_or_else(|e| match e {});
        assert!(matches!(of("postgresql:///db?host=/tmp"), Place::Server(_)));
        assert!(matches!(of("postgres://me@host/db"), Place::Server(_)));
        assert!(matches!(of("results/postgres/store.db"), Place::File(_)));
    }

    #[test]
    fn passwords_are_not_shown() {
        for (address, shown) in [
            ("postgresql://me:se@cret@host/db", "postgresql://me:***@host/db"),
            ("--store=postgres://me:x@h/db", "--store=postgres://me:***@h/db"),
            (
                "postgres:///db?user=a&password=x&host=h",
                "postgres:///db?user=a&password=***&host=h",
            ),
            ("postgresql://me@host/db", "postgresql://me@host/db"),
            ("results/store.db", "results/store.db"),
        ] {
            assert_eq!(masked(address), shown);
        }
    }
}
