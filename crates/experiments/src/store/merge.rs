//! Joining shard stores into one (specification, section 11).

use super::{
    Store, StoreError,
    record::{EventRecord, MergeCounts},
};
use serde_json::json;
use std::{fs, io, path::Path};

/// Takes everything from `source` that `target` does not have. Doing it twice changes nothing: an
/// attempt is known by trial, number and session.
///
/// # Errors
/// [`StoreError::Conflict`] when the stores belong to different experiments or specs; otherwise
/// when one of them cannot be read or written. Trials merged before an error stay merged.
pub fn merge(
    target: &mut dyn Store,
    source: &dyn Store,
    at: i64,
) -> Result<MergeCounts, StoreError> {
    let theirs = source.experiment()?.ok_or_else(|| StoreError::Conflict {
        what: "the store to merge",
        expected: "a planned experiment".to_owned(),
        found: "an empty store".to_owned(),
    })?;
    match target.experiment()? {
        None => target.set_experiment(&theirs)?,
        Some(ours) => {
            for (what, expected, found) in [
                ("the experiment of the store to merge", &ours.id, &theirs.id),
                ("the spec hash of the store to merge", &ours.spec_hash, &theirs.spec_hash),
            ] {
                if expected != found {
                    return Err(StoreError::Conflict {
                        what,
                        expected: expected.clone(),
                        found: found.clone(),
                    });
                }
            }
        }
    }
    for session in source.sessions()? {
        target.begin_session(&session)?;
    }
    let mut total = MergeCounts::default();
    for trial in source.trials()? {
        let attempts = source.full_attempts(&trial.key)?;
        let counts = target.absorb(&theirs.spec_hash, &trial, &attempts)?;
        total.added += counts.added;
        total.known += counts.known;
        total.settled += counts.settled;
    }
    // What happened in a shard happened to the experiment, an unsealing above all.
    let known = target.events()?;
    for event in source.events()? {
        if !known.contains(&event) {
            target.append_event(&event)?;
        }
    }
    if total.added > 0 {
        target.append_event(&EventRecord {
            at,
            session_id: None,
            kind: "merge".to_owned(),
            detail_json: json!({"added": total.added, "settled": total.settled}),
        })?;
    }
    Ok(total)
}

/// Copies logs and artifacts that `target` does not have from the folder of one store to another's.
///
/// # Errors
/// When a folder cannot be read or a file cannot be written.
pub fn copy_files(source: &Path, target: &Path) -> Result<u64, StoreError> {
    let mut copied = 0;
    for folder in ["trials", "diffs"] {
        let from = source.join(folder);
        if from.is_dir() {
            copied += copy_new(&from, &target.join(folder)).map_err(|error| StoreError::File {
                path: from.display().to_string(),
                message: error.to_string(),
            })?;
        }
    }
    Ok(copied)
}

fn copy_new(from: &Path, to: &Path) -> io::Result<u64> {
    fs::create_dir_all(to)?;
    let mut copied = 0;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let place = to.join(entry.file_name());
        if kind.is_dir() {
            copied += copy_new(&entry.path(), &place)?;
        } else if kind.is_file() && !place.exists() {
            fs::copy(entry.path(), &place)?;
            copied += 1;
        }
    }
    Ok(copied)
}
