//! Checkpoints: parameters, optimiser, generator, step, config, seeds and growth log.
//!
//! A checkpoint is a folder `step-00012000` with `model.safetensors`, `optim.safetensors`,
//! `state.json` (which holds the hashes of the two) and `state.sha256`. It is written under a temporary name, forced to the disk and renamed, and only then
//! does the text file `latest` point at it: whatever is killed when, `latest` names a whole checkpoint.
//!
//! Loading checks everything, the hashes included, before it changes anything.

mod folder;
mod partial;
pub mod safetensors;

pub use partial::{LoadPolicy, LoadReport};

use crate::grow::{GrowthLog, ParamSpec, Trainer};
use crate::optim::Optimizer;
use crate::{Error, Result, SeedTree, runtime};
use folder::{hex, publish, read_limited, resolve, write_file};
use partial::Contents;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use tch::{Device, Tensor};

/// Version of the folder's layout.
const FORMAT: u32 = 1;
const MODEL: &str = "model.safetensors";
const OPTIM: &str = "optim.safetensors";
const STATE: &str = "state.json";
/// Hash of `state.json`, in the form that `sha256sum --check` reads.
const STATE_HASH: &str = "state.sha256";
/// Entry of `optim.safetensors` for the generator of the CPU; parameters cannot be named so, as their
/// entries end in the name of a moment.
const GENERATOR: &str = "generator.cpu";

/// What a run wants back besides parameters and optimiser.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunState {
    /// The resolved config.
    pub config: serde_json::Value,
    /// Position in the seed tree.
    pub seed: SeedTree,
    /// Anything else: the place in the data, the best score, ...
    #[serde(default)]
    pub extra: serde_json::Value,
}

/// `state.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    format: u32,
    step: u64,
    run: RunState,
    growth_log: GrowthLog,
    params: Vec<ParamSpec>,
    git_revision: Option<String>,
    files: BTreeMap<String, FileMark>,
}

#[derive(Deserialize)]
struct Version {
    format: u32,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileMark {
    bytes: u64,
    sha256: String,
}

/// What [`load`] found.
#[derive(Debug)]
pub struct Loaded {
    /// Steps taken when it was saved.
    pub step: u64,
    /// The run's own state.
    pub run: RunState,
    /// Commit of the working directory that saved it, if known.
    pub git_revision: Option<String>,
    /// What was and was not loaded; under [`LoadPolicy::Strict`] everything was.
    pub report: LoadReport,
}

/// Saves a checkpoint under `root` and points `latest` at it. Returns its folder.
///
/// A second save of the same step replaces the first. One process at a time may write to `root`.
///
/// # Errors
/// [`Error::Io`] naming the file; what was saved before stays loadable.
pub fn save<O: Optimizer>(root: &Path, trainer: &Trainer<O>, run: &RunState) -> Result<PathBuf> {
    let model: Vec<(String, Tensor)> =
        trainer.store.iter().map(|p| (p.name(), p.value())).collect();
    let mut optim = trainer.optim.state_dict(&trainer.store)?;
    optim.push((GENERATOR.to_owned(), runtime::generator_state(Device::Cpu)?));
    publish(root, &format!("step-{:08}", trainer.step), |dir| {
        let mut files = BTreeMap::new();
        for (name, tensors) in [(MODEL, &model), (OPTIM, &optim)] {
            let path = dir.join(name);
            let mark = write_file(&path, |mut out| safetensors::encode(&path, tensors, &mut out))?;
            files.insert(name.to_owned(), FileMark { bytes: mark.bytes, sha256: mark.sha256 });
        }
        let state = StateFile {
            format: FORMAT,
            step: trainer.step,
            run: run.clone(),
            growth_log: trainer.log.clone(),
            params: trainer.store.iter().map(ParamSpec::of).collect(),
            git_revision: folder::git_revision(),
            files,
        };
        let path = dir.join(STATE);
        let mark = write_file(&path, |out| {
            serde_json::to_writer_pretty(out, &state).map_err(|e| Error::io(&path, e.into()))
        })?;
        let path = dir.join(STATE_HASH);
        write_file(&path, |out| {
            writeln!(out, "{}  {STATE}", mark.sha256).map_err(|e| Error::io(&path, e))
        })?;
        Ok(())
    })
}

/// The folder that `root/latest` names; `None` when nothing was saved there yet.
///
/// # Errors
/// [`Error::File`] when `latest` holds something else than a folder name, [`Error::Io`].
pub fn latest(root: &Path) -> Result<Option<PathBuf>> {
    resolve(root)
}

/// Reads the config and step of a checkpoint, to build the model before [`load`]ing into it.
///
/// # Errors
/// [`Error::File`] when `state.json` is damaged or of another format version, [`Error::Io`].
pub fn peek(folder: &Path) -> Result<(u64, RunState)> {
    let state = read_state(folder)?;
    Ok((state.step, state.run))
}

/// Loads a checkpoint into a trainer whose store was built from the base config: rebuilds the grown
/// shapes from the growth log, fills parameters and optimiser, and puts the generator of the CPU back.
/// A store that has the grown shapes already is filled as it is.
///
/// Strict loading wants names, sizes and kinds to agree exactly; under [`LoadPolicy::Partial`] what
/// agrees is loaded, the rest is listed in the report and keeps its values.
///
/// # Errors
/// [`Error::Io`] and [`Error::File`] for files that are missing, damaged or disagree with their hash;
/// [`Error::MissingTensor`], [`Error::UnexpectedTensor`], [`Error::Shape`] and [`Error::Kind`] for the
/// first tensor that does not agree; [`Error::Plan`] when the growth log does not fit the store.
/// Nothing is changed then.
pub fn load<O: Optimizer>(
    folder: &Path,
    trainer: &mut Trainer<O>,
    policy: LoadPolicy,
) -> Result<Loaded> {
    let state = read_state(folder)?;
    let model = read_tensors(folder, MODEL, &state)?;
    let mut optim = read_tensors(folder, OPTIM, &state)?;
    let generator = optim.iter().position(|(n, _)| n == GENERATOR).map(|i| optim.remove(i).1);

    let contents = Contents::sort(folder, &state.params, model, optim)?;
    let StateFile { step, run, growth_log, git_revision, .. } = state;
    let (report, log_fits) = contents.fill(trainer, &growth_log, generator.as_ref(), policy)?;
    trainer.step = step;
    if log_fits {
        trainer.log = growth_log;
    }
    Ok(Loaded { step, run, git_revision, report })
}

fn read_state(folder: &Path) -> Result<StateFile> {
    let path = folder.join(STATE);
    let bytes = read_limited(&path, 1 << 32)?;
    let bad = |field: &str, expected: &str, found: String| Error::File {
        path: path.clone(),
        field: field.to_owned(),
        expected: expected.to_owned(),
        found,
    };
    let hash_path = folder.join(STATE_HASH);
    let hash = read_limited(&hash_path, 4096)?;
    let expected = String::from_utf8_lossy(&hash);
    let expected = expected.split_whitespace().next().unwrap_or_default();
    let found = hex(&Sha256::digest(&bytes));
    if found != expected {
        return Err(bad("sha256", &expected.chars().take(64).collect::<String>(), found));
    }
    // The version first: another version may have other fields.
    let wrong = |e: serde_json::Error| bad("text", "the state of a checkpoint", e.to_string());
    let Version { format } = serde_json::from_slice(&bytes).map_err(wrong)?;
    if format != FORMAT {
        return Err(bad("format", &FORMAT.to_string(), format.to_string()));
    }
    serde_json::from_slice(&bytes).map_err(wrong)
}

fn read_tensors(folder: &Path, name: &str, state: &StateFile) -> Result<Vec<(String, Tensor)>> {
    let path = folder.join(name);
    let bad = |field: &str, expected: String, found: String| Error::File {
        path: path.clone(),
        field: field.to_owned(),
        expected,
        found,
    };
    let mark = state.files.get(name).ok_or_else(|| Error::File {
        path: folder.join(STATE),
        field: format!("files.{name}"),
        expected: "size and hash of that file".to_owned(),
        found: "nothing".to_owned(),
    })?;
    let bytes = read_limited(&path, mark.bytes)?;
    if bytes.len() as u64 != mark.bytes {
        return Err(bad("length", format!("{} bytes", mark.bytes), bytes.len().to_string()));
    }
    let found = hex(&Sha256::digest(&bytes));
    if found != mark.sha256 {
        return Err(bad("sha256", mark.sha256.chars().take(64).collect(), found));
    }
    safetensors::decode(&path, &bytes)
}
