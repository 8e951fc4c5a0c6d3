//! Copies of a store while it is in use, and removing what no attempt needs.

use super::{
    SqliteStore, Store, StoreError,
    record::{EventRecord, Status},
};
use rusqlite::{Connection, backup::Backup};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// A finished copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupFacts {
    /// The copy.
    pub path: PathBuf,
    /// SHA-256 in hexadecimal.
    pub sha256: String,
    /// Size.
    pub bytes: u64,
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> StoreError + '_ {
    move |error| StoreError::File { path: path.display().to_string(), message: error.to_string() }
}

/// Copies the store to `to` with SQLite's online backup: runners may go on writing. The copy appears
/// under its name only when it is complete and on the disk; an event notes its SHA-256.
///
/// # Errors
/// [`StoreError::File`] when `to` exists or cannot be written; otherwise when the store refuses.
pub fn backup(store: &mut SqliteStore, to: &Path, at: i64) -> Result<BackupFacts, StoreError> {
    if to.exists() {
        return Err(StoreError::File {
            path: to.display().to_string(),
            message: "expected a new file, found an existing one".to_owned(),
        });
    }
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = to.with_file_name(name);
    let copied = copy_online(store, &part);
    if copied.is_err() {
        let _ = fs::remove_file(&part);
    }
    copied?;
    fs::rename(&part, to).map_err(file_error(to))?;
    let (sha256, bytes) = sha256_of(to).map_err(file_error(to))?;
    store.append_event(&EventRecord {
        at,
        session_id: None,
        kind: "backup".to_owned(),
        detail_json: json!({"file": to.file_name().map(|n| n.to_string_lossy()), "sha256": sha256}),
    })?;
    Ok(BackupFacts { path: to.to_path_buf(), sha256, bytes })
}

fn copy_online(store: &SqliteStore, part: &Path) -> Result<(), StoreError> {
    let fail = |error: rusqlite::Error| match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::DiskFull) => StoreError::Full { action: "back up" },
        _ => StoreError::Backend { action: "back up", message: error.to_string() },
    };
    let mut copy = Connection::open(part).map_err(fail)?;
    Backup::new(store.connection(), &mut copy)
        .map_err(fail)?
        .run_to_completion(1024, Duration::from_millis(1), None)
        .map_err(fail)?;
    // One plain file: the copy needs no write-ahead log beside it.
    copy.query_row("PRAGMA journal_mode=DELETE", [], |_| Ok(())).map_err(fail)?;
    copy.close().map_err(|(_, error)| fail(error))?;
    File::open(part).and_then(|file| file.sync_all()).map_err(file_error(part))
}

/// SHA-256 in hexadecimal and size of a file, read in pieces.
pub(crate) fn sha256_of(path: &Path) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let bytes = io::copy(&mut file, &mut HashWriter(&mut hash))?;
    Ok((hex(&hash.finalize()), bytes))
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What [`gc`] removed, or would remove.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcFacts {
    /// Folders of attempts that were lost, superseded or never committed.
    pub folders: Vec<PathBuf>,
    /// Their size.
    pub bytes: u64,
}

/// Removes the folders of attempts whose result does not count (lost, superseded, unknown to the
/// store), except those of running trials. Rows of the store are never removed. With `dry_run` it
/// only lists.
///
/// # Errors
/// When the store or a folder cannot be read, or a folder cannot be removed.
pub fn gc(store: &dyn Store, root: &Path, dry_run: bool) -> Result<GcFacts, StoreError> {
    let mut keep: BTreeSet<(String, String)> = store
        .attempts()?
        .into_iter()
        .filter(|a| !matches!(a.status, Status::Lost | Status::Superseded))
        .map(|a| (a.key.0, a.origin_attempt.unwrap_or(a.attempt).to_string()))
        .collect();
    keep.extend(store.leases()?.into_iter().map(|l| (l.key.0, l.attempt.to_string())));
    let mut facts = GcFacts::default();
    let trials = root.join("trials");
    if !trials.is_dir() {
        return Ok(facts);
    }
    for trial in fs::read_dir(&trials).map_err(file_error(&trials))? {
        let trial = trial.map_err(file_error(&trials))?.path();
        if !trial.is_dir() {
            continue;
        }
        let key = trial.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for attempt in fs::read_dir(&trial).map_err(file_error(&trial))? {
            let attempt = attempt.map_err(file_error(&trial))?.path();
            let number = attempt.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if keep.contains(&(key.clone(), number)) {
                continue;
            }
            facts.bytes += size_of(&attempt).map_err(file_error(&attempt))?;
            if !dry_run {
                let removed = if attempt.is_dir() {
                    fs::remove_dir_all(&attempt)
                } else {
                    fs::remove_file(&attempt)
                };
                removed.map_err(file_error(&attempt))?;
            }
            facts.folders.push(attempt);
        }
        if !dry_run {
            // Only succeeds when nothing is left inside.
            let _ = fs::remove_dir(&trial);
        }
    }
    facts.folders.sort();
    Ok(facts)
}

pub(crate) fn size_of(path: &Path) -> io::Result<u64> {
    let meta = fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    let mut bytes = 0;
    for entry in fs::read_dir(path)? {
        bytes += size_of(&entry?.path())?;
    }
    Ok(bytes)
}
