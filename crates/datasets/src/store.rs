//! The data folder: one sub-folder per data set, filled all or not at all.
//!
//! A fetch works in `.partial/NAME` beside the data sets: downloads in `download`, finished files in
//! `out`. When every file has its size and sha256, `out` is renamed to its place. A process that is
//! killed leaves only `.partial`, from which the next fetch goes on.

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::archive;
use crate::bytes;
use crate::client::Job;
use crate::convert::Files;
use crate::error::{Error, Result};
use crate::registry::{Dataset, Source};

/// Environment variable that names the data folder.
pub const DATA_VARIABLE: &str = "MORPHOGEN_DATA";

/// A data folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    dir: PathBuf,
    progress: bool,
}

/// What is there of a data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It ships inside the crate.
    Embedded,
    /// All files are there in their sizes.
    Present,
    /// At least one file is missing or has another size.
    Absent,
}

/// What a fetch did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// Nothing: it ships inside the crate, or all its files were there and right.
    Already,
    /// Fetched; the source in words.
    From(String),
}

impl Store {
    /// A data folder at a place of your own.
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), progress: false }
    }

    /// The folder that `MORPHOGEN_DATA` names; without it, `data` in the Cargo workspace around the
    /// current folder; without one, `data` here.
    pub fn default_place() -> Self {
        if let Some(dir) = std::env::var_os(DATA_VARIABLE).filter(|d| !d.is_empty()) {
            return Self::at(dir);
        }
        let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        let is_root = |dir: &&Path| {
            let manifest = fs::read_to_string(dir.join("Cargo.toml"));
            manifest.is_ok_and(|text| text.lines().any(|line| line.starts_with("[workspace]")))
        };
        Self::at(here.ancestors().find(is_root).unwrap_or(&here).join("data"))
    }

    /// Lets long downloads show their progress on the terminal, as a command-line program wants.
    #[must_use]
    pub fn with_progress(self, progress: bool) -> Self {
        Self { progress, ..self }
    }

    /// The data folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Path of a file of a data set, whether or not it is there.
    pub fn path(&self, dataset: &Dataset, file: &str) -> PathBuf {
        self.dir.join(&dataset.name).join(file)
    }

    /// What is there, judged by sizes; [`Store::verify`] reads every byte.
    pub fn state(&self, dataset: &Dataset) -> State {
        if dataset.is_embedded() {
            return State::Embedded;
        }
        let there = |f: &crate::registry::File| {
            fs::metadata(self.path(dataset, &f.name))
                .is_ok_and(|m| m.is_file() && m.len() == f.bytes)
        };
        if dataset.files.iter().all(there) { State::Present } else { State::Absent }
    }

    /// Fails unless the data set is there.
    ///
    /// # Errors
    /// [`Error::Missing`], saying how to get it.
    pub fn require(&self, dataset: &Dataset) -> Result<()> {
        match self.state(dataset) {
            State::Embedded | State::Present => Ok(()),
            State::Absent => {
                Err(Error::Missing { name: dataset.name.clone(), dir: self.dir.clone() })
            }
        }
    }

    /// Reads every file of a data set and compares size and sha256.
    ///
    /// # Errors
    /// [`Error::Missing`] if nothing is there, [`Error::Io`] or [`Error::Checksum`] for the first file
    /// that is not right.
    pub fn verify(&self, dataset: &Dataset) -> Result<()> {
        if dataset.is_embedded() {
            return Ok(());
        }
        if !self.dir.join(&dataset.name).is_dir() {
            return Err(Error::Missing { name: dataset.name.clone(), dir: self.dir.clone() });
        }
        for file in &dataset.files {
            let path = self.path(dataset, &file.name);
            let (sha256, size) = bytes::sha256_file(&path)?;
            check(&path, file, &sha256, size)?;
        }
        Ok(())
    }

    /// Gets a data set from the first of its sources that works. What was there before stays as it is
    /// until all new files are complete and right.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process is at it; otherwise what the last source said, with the
    /// others' words where there were several.
    pub fn fetch(&self, dataset: &Dataset) -> Result<Fetched> {
        if dataset.is_embedded() || self.verify(dataset).is_ok() {
            return Ok(Fetched::Already);
        }
        let staging = self.dir.join(".partial").join(&dataset.name);
        let download = staging.join("download");
        fs::create_dir_all(&download).map_err(Error::io(&download))?;
        let _lock = lock(&staging.with_extension("lock"))?;
        let target = self.dir.join(&dataset.name);
        let job =
            Job { name: &dataset.name, dir: &download, target: &target, progress: self.progress };
        let mut errors = Vec::new();
        for source in &dataset.sources {
            match stage(dataset, source, &job, &staging.join("out")) {
                Ok(()) => {
                    replace(&target, &staging)?;
                    // The data set is in its place; a left-over that is still being written to by the
                    // client of a killed run is no reason to call that a failure.
                    let _ = fs::remove_dir_all(&staging);
                    return Ok(Fetched::From(source.describe()));
                }
                Err(error) => errors.push((source, error)),
            }
        }
        if errors.len() > 1 {
            let why: Vec<String> =
                errors.iter().map(|(s, e)| format!("{}: {e}", s.describe())).collect();
            let program = format!("all {} sources of `{}` failed", errors.len(), dataset.name);
            return Err(Error::Client { program, why: why.join(" | ") });
        }
        Err(errors.pop().map_or_else(
            || Error::argument("dataset", "at least one source", dataset.name.clone()),
            |(_, error)| error,
        ))
    }
}

/// Downloads, converts and checks; leaves complete and right files in `out`, or fails.
fn stage(dataset: &Dataset, source: &Source, job: &Job<'_>, out: &Path) -> Result<()> {
    let recipe = dataset.recipe;
    let mut members = archive::Members::new();
    let archives = job.download(source)?;
    for path in &archives {
        members.extend(archive::read(path, &|name| recipe.keeps(dataset, name))?);
    }
    let place = archives.first().map_or(job.dir, PathBuf::as_path);
    let files = recipe.convert(place, dataset, &mut members)?;
    drop(members);
    for file in &dataset.files {
        let path = place.join(&file.name);
        let data = files.get(&file.name).ok_or_else(|| {
            Error::format(place, "files", file.name.clone(), format!("{:?}", files.keys()))
        })?;
        check(&path, file, &bytes::sha256(data), data.len() as u64)?;
    }
    write(dataset, source, &files, out)
}

fn write(dataset: &Dataset, source: &Source, files: &Files, out: &Path) -> Result<()> {
    if out.exists() {
        fs::remove_dir_all(out).map_err(Error::io(out))?;
    }
    fs::create_dir_all(out).map_err(Error::io(out))?;
    let note = format!(
        "{}\n\nsource: {}\nauthors' page: {}\nlicence: {}\ncite: {}\n",
        dataset.title,
        source.describe(),
        dataset.homepage,
        dataset.licence,
        dataset.cite
    );
    let listed = dataset
        .files
        .iter()
        .filter_map(|f| Some((f.name.as_str(), files.get(&f.name)?.as_slice())));
    for (name, data) in listed.chain([("SOURCE.txt", note.as_bytes())]) {
        let path = out.join(name);
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(data)?;
            file.sync_all()
        };
        write().map_err(Error::io(&path))?;
    }
    Ok(())
}

/// Puts `staging/out` in the place of `target`. A wrong old version is moved aside first, because a
/// rename does not replace a folder that has files in it.
fn replace(target: &Path, staging: &Path) -> Result<()> {
    let old = staging.join("old");
    if old.exists() {
        fs::remove_dir_all(&old).map_err(Error::io(&old))?;
    }
    if target.exists() {
        fs::rename(target, &old).map_err(Error::io(target))?;
    }
    let out = staging.join("out");
    fs::rename(&out, target).map_err(Error::io(target))
}

/// The lock is the operating system's and goes with the process, however it ends.
fn lock(path: &Path) -> Result<File> {
    let file = File::create(path).map_err(Error::io(path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(Error::Io { path: path.to_owned(), source }),
    }
}

fn check(path: &Path, file: &crate::registry::File, sha256: &str, size: u64) -> Result<()> {
    let wrong = |what, expected: String, found: String| Error::Checksum {
        path: path.to_owned(),
        what,
        expected,
        found,
    };
    if size != file.bytes {
        return Err(wrong("size in bytes", file.bytes.to_string(), size.to_string()));
    }
    if sha256 != file.sha256 {
        return Err(wrong("sha256", file.sha256.clone(), sha256.to_owned()));
    }
    Ok(())
}
