//! Folders that are there completely or not at all, and the `latest` pointer.

use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

/// Name of the pointer file.
const LATEST: &str = "latest";

/// Size and SHA-256 (hexadecimal) of a written file.
pub(super) struct Written {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

/// Passes bytes on and hashes them on the way.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hash.update(&buf[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a file and forces it to the disk.
pub(super) fn write_file(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> Result<()>,
) -> Result<Written> {
    let io = |e| Error::io(path, e);
    let file = File::create(path).map_err(io)?;
    let inner = BufWriter::with_capacity(1 << 20, file);
    let mut out = Hashing { inner, hash: Sha256::new(), bytes: 0 };
    fill(&mut out)?;
    out.flush().map_err(io)?;
    out.inner.get_ref().sync_all().map_err(io)?;
    Ok(Written { bytes: out.bytes, sha256: hex(&out.hash.finalize()) })
}

/// Hexadecimal text of a hash.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|d| d.sync_all()).map_err(|e| Error::io(path, e))
}

/// Writes the folder `root/name` by way of a `.tmp-` folder, then points `latest` at it. `fill` writes
/// the files into the folder that it is given.
pub(super) fn publish(
    root: &Path,
    name: &str,
    fill: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |e| Error::io(path, e)
    };
    fs::create_dir_all(root).map_err(io(root))?;
    sweep(root)?;
    let temporary = root.join(format!(".tmp-{name}-{}", std::process::id()));
    fs::create_dir(&temporary).map_err(io(&temporary))?;
    if let Err(error) = fill(&temporary).and_then(|()| sync_dir(&temporary)) {
        // The first error is the one to tell; what is left behind is swept by the next save.
        let _ = fs::remove_dir_all(&temporary);
        return Err(error);
    }
    let finished = root.join(name);
    let aside = root.join(format!("{ASIDE}{name}"));
    if finished.exists() {
        // The same step again, after a restart from an older one. If we are killed between these two
        // renames, `resolve` finds the old folder under its other name.
        fs::rename(&finished, &aside).map_err(io(&finished))?;
    }
    fs::rename(&temporary, &finished).map_err(io(&temporary))?;
    sync_dir(root)?;
    point_at(root, name)?;
    if aside.exists() {
        fs::remove_dir_all(&aside).map_err(io(&aside))?;
    }
    Ok(finished)
}

const ASIDE: &str = ".old-";

/// Removes what killed writers left. A folder set aside whose successor never came goes back.
fn sweep(root: &Path) -> Result<()> {
    for entry in fs::read_dir(root).map_err(|e| Error::io(root, e))? {
        let path = entry.map_err(|e| Error::io(root, e))?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
        let done = if let Some(original) = name.strip_prefix(ASIDE) {
            let original = root.join(original);
            if original.exists() { fs::remove_dir_all(&path) } else { fs::rename(&path, &original) }
        } else if name.starts_with(".tmp-step-") {
            fs::remove_dir_all(&path)
        } else {
            Ok(())
        };
        done.map_err(|e| Error::io(&path, e))?;
    }
    Ok(())
}

fn point_at(root: &Path, name: &str) -> Result<()> {
    let temporary = root.join(".tmp-latest");
    write_file(&temporary, |out| {
        writeln!(out, "{name}").map_err(|e| Error::io(root.join(LATEST), e))
    })?;
    fs::rename(&temporary, root.join(LATEST)).map_err(|e| Error::io(&temporary, e))?;
    sync_dir(root)
}

/// The folder that `latest` names; `None` when nothing was ever saved under `root`.
pub(super) fn resolve(root: &Path) -> Result<Option<PathBuf>> {
    let pointer = root.join(LATEST);
    let bytes = match read_limited(&pointer, 4096) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        other => other?,
    };
    let text = String::from_utf8_lossy(&bytes);
    let name = text.trim();
    let plain = name
        .strip_prefix("step-")
        .is_some_and(|n| !n.is_empty() && n.len() <= 20 && n.bytes().all(|b| b.is_ascii_digit()));
    if !plain {
        return Err(Error::File {
            path: pointer,
            field: "text".to_owned(),
            expected: "a folder name `step-<digits>`".to_owned(),
            found: format!("{:?}", name.chars().take(64).collect::<String>()),
        });
    }
    let aside = root.join(format!("{ASIDE}{name}"));
    let folder = root.join(name);
    Ok(Some(if !folder.exists() && aside.exists() { aside } else { folder }))
}

/// Reads a whole file that is no longer than `limit`.
pub(super) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>> {
    use std::io::Read;
    let io = |e| Error::io(path, e);
    let file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    if length > limit {
        return Err(Error::File {
            path: path.to_owned(),
            field: "length".to_owned(),
            expected: format!("{limit} bytes at most"),
            found: length.to_string(),
        });
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(limit).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// The commit that the working directory is at, read from `.git` without starting a program.
pub(super) fn git_revision() -> Option<String> {
    let here = std::env::current_dir().ok()?;
    let git = here.ancestors().map(|d| d.join(".git")).find(|d| d.is_dir())?;
    let head = fs::read_to_string(git.join("HEAD")).ok()?;
    let revision = match head.trim().strip_prefix("ref: ") {
        None => head.trim().to_owned(),
        Some(name) => match fs::read_to_string(git.join(name)) {
            Ok(revision) => revision.trim().to_owned(),
            Err(_) => {
                fs::read_to_string(git.join("packed-refs")).ok()?.lines().find_map(|line| {
                    line.strip_suffix(name)?.split_whitespace().next().map(str::to_owned)
                })?
            }
        },
    };
    (revision.len() >= 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())).then_some(revision)
}
