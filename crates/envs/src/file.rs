//! Files that appear complete or not at all.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Writes into a new file beside the target and renames it: a reader sees the old file or the new
/// one, whatever is killed when.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let io = |source| Error::Io { path: path.to_owned(), source };
    let Some(name) = path.file_name() else {
        return Err(Error::argument("path", "the name of a file", path.display()));
    };
    let mut partial = std::ffi::OsString::from(".");
    partial.push(name);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    partial.push(format!(".{}-{number}.tmp", std::process::id()));
    let partial = path.with_file_name(partial);
    let write = || {
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&partial, path)
    };
    write().map_err(|error| {
        // what could not be finished must not stay; a second error would say nothing new
        let _ = std::fs::remove_file(&partial);
        io(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_nothing_and_keeps_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.bin");
        write_atomic(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        // a folder of that name cannot be replaced
        let folder = dir.path().join("b");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("kept"), b"x").unwrap();
        let message = write_atomic(&folder, b"three").unwrap_err().to_string();
        assert!(message.contains('b'), "{message}");
        assert!(folder.join("kept").exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        assert!(write_atomic(&dir.path().join("no/such/folder"), b"").is_err());
        assert!(write_atomic(Path::new("/"), b"").is_err());
    }
}
