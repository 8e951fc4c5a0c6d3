//! The stores of the parts.

use crate::store::{
    SqliteOptions, SqliteStore, Store, StoreError, merge,
    record::{MergeCounts, Status},
};
use std::{
    fs, io,
    ops::Deref,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// Folder of part `index`.
pub fn shard_folder(root: &Path, index: u32) -> PathBuf {
    root.join("shards").join(index.to_string())
}

/// Stores of the parts below `root`, in the order of their numbers.
///
/// # Errors
/// When `shards/` is there and cannot be read.
pub fn part_files(root: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(root.join("shards")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut parts = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
        let store = path.join("store.db");
        if let Some(number) = number
            && store.is_file()
        {
            parts.push((number, store));
        }
    }
    parts.sort();
    Ok(parts.into_iter().map(|(_, store)| store).collect())
}

/// An open store of a part; a copy of it where the part lies on a network file system.
#[derive(Debug)]
pub struct Part {
    store: SqliteStore,
    copy: Option<PathBuf>,
}

impl Deref for Part {
    type Target = SqliteStore;
    fn deref(&self) -> &SqliteStore {
        &self.store
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(folder) = &self.copy {
            // A copy in the folder for temporary files that stays harms nobody.
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// Opens the store of a part to read it. On a network file system, where a store cannot be in use
/// (tasks work on scratch folders and put their stores back whole), a temporary copy is opened.
///
/// # Errors
/// As [`SqliteStore::open_existing`]; when the copy cannot be made.
pub fn open_part(path: &Path) -> Result<Part, StoreError> {
    open_part_with(path, &SqliteOptions::default())
}

fn open_part_with(path: &Path, options: &SqliteOptions) -> Result<Part, StoreError> {
    if !path.is_file() {
        return Err(StoreError::File {
            path: path.display().to_string(),
            message: "expected the store of a part, found none".to_owned(),
        });
    }
    match SqliteStore::open_with(path, options) {
        Ok(store) => Ok(Part { store, copy: None }),
        Err(StoreError::FileSystem { .. }) => copied(path),
        Err(error) => Err(error),
    }
}

fn copied(path: &Path) -> Result<Part, StoreError> {
    static COPIES: AtomicU32 = AtomicU32::new(0);
    let number = COPIES.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("exp-part-{}-{number}", std::process::id()));
    let fail = |error: io::Error| StoreError::File {
        path: folder.display().to_string(),
        message: error.to_string(),
    };
    fs::create_dir(&folder).map_err(fail)?;
    let copy = || {
        // The log of a runner that was killed holds its last results.
        for end in ["", "-wal"] {
            let mut from = path.as_os_str().to_owned();
            from.push(end);
            if Path::new(&from).is_file() {
                fs::copy(&from, folder.join(format!("store.db{end}")))?;
            }
        }
        Ok(())
    };
    let opened = copy().map_err(fail).and_then(|()| SqliteStore::open(&folder.join("store.db")));
    match opened {
        Ok(store) => Ok(Part { store, copy: Some(folder) }),
        Err(error) => {
            let _ = fs::remove_dir_all(&folder);
            Err(error)
        }
    }
}

/// Gives the parts `tasks` what `source`, the study's own store, already holds: finished trials are
/// then not run again, and a finished search for hyper-parameters decides the same everywhere.
/// Doing it twice changes nothing. Must not be done while one of these tasks runs.
///
/// # Errors
/// When a store cannot be read or written, or a part belongs to another spec.
pub fn seed_shards(
    source: &dyn Store,
    root: &Path,
    tasks: &[u32],
    at: i64,
) -> Result<MergeCounts, StoreError> {
    let mut total = MergeCounts::default();
    if !source.trials()?.iter().any(|trial| trial.attempt > 0 || trial.status != Status::Pending) {
        return Ok(total);
    }
    for task in tasks {
        let mut part = SqliteStore::open(&shard_folder(root, *task).join("store.db"))?;
        add(&mut total, merge::merge(&mut part, source, at)?);
    }
    Ok(total)
}

fn add(total: &mut MergeCounts, counts: MergeCounts) {
    total.added += counts.added;
    total.known += counts.known;
    total.settled += counts.settled;
}

/// Merges every part below `root` into `target`, with its logs and artifacts, in the order of their
/// numbers. Parts may be merged while others still run, and again later.
///
/// # Errors
/// When a part cannot be read or belongs to another spec; parts before it stay merged.
pub fn merge_shards(
    target: &mut dyn Store,
    root: &Path,
    at: i64,
) -> Result<MergeCounts, StoreError> {
    let parts = part_files(root).map_err(|error| StoreError::File {
        path: root.join("shards").display().to_string(),
        message: error.to_string(),
    })?;
    let mut total = MergeCounts::default();
    for path in parts {
        let part = open_part(&path)?;
        add(&mut total, merge::merge(target, &*part, at)?);
        merge::copy_files(path.parent().unwrap_or(root), root)?;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::record::ExperimentRecord;

    #[test]
    fn a_part_on_a_network_file_system_is_read_from_a_copy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        let mut store = SqliteStore::open(&path).unwrap();
        let record = ExperimentRecord {
            id: "toy".to_owned(),
            spec_toml: String::new(),
            spec_hash: "hash".to_owned(),
            schema: 1,
            created_at: 1,
        };
        store.set_experiment(&record).unwrap();
        // Not closed: what was committed last is still in the log beside the file.
        let options = SqliteOptions { probe: |_| Ok(0x6969), ..SqliteOptions::default() };
        let part = open_part_with(&path, &options).unwrap();
        assert_eq!(part.experiment().unwrap(), Some(record));
        let copy = part.copy.clone().unwrap();
        assert!(copy.is_dir());
        drop(part);
        assert!(!copy.exists());
        drop(store);
        assert!(open_part(&path).unwrap().copy.is_none());
        assert!(open_part(&folder.path().join("none.db")).is_err());
    }

    #[test]
    fn parts_are_found_by_number() {
        let folder = tempfile::tempdir().unwrap();
        assert!(part_files(folder.path()).unwrap().is_empty());
        for name in ["10", "2", "2.old", "2.part", "x"] {
            let part = folder.path().join("shards").join(name);
            fs::create_dir_all(&part).unwrap();
            fs::write(part.join("store.db"), "").unwrap();
        }
        fs::create_dir_all(shard_folder(folder.path(), 3)).unwrap();
        let found = part_files(folder.path()).unwrap();
        let expected = [2, 10].map(|i| shard_folder(folder.path(), i).join("store.db"));
        assert_eq!(found, expected);
    }
}
