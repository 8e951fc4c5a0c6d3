//! Installs the `MuJoCo` library from the `PyPI` wheel of `mujoco-core`; `envs` loads it at run time.

use crate::{
    libtorch::{Pip, lock, remove_if_there},
    programs::Workspace,
};
use anyhow::{Context, Result, ensure};
use std::{fs, path::PathBuf};

/// The release that `envs` checks its results against.
pub(crate) const VERSION: &str = "4.0.0";

/// The library in the wheel's folder `mujoco` and in `.mujoco`.
const FILE: &str = "libmujoco.so.4.0.0";

fn installed(workspace: &Workspace) -> Option<PathBuf> {
    Some(workspace.root.join(".mujoco").join(FILE)).filter(|path| path.is_file())
}

/// Makes sure that the library is there, or says that the tests that need it will be skipped; where
/// `MUJOCO_REQUIRED` is set, its absence is an error.
pub(crate) fn ensure(workspace: &Workspace) -> Result<()> {
    let named = std::env::var_os("MUJOCO_LIB").map(PathBuf::from).filter(|path| path.is_file());
    if named.is_some() {
        return Ok(());
    }
    match install(workspace) {
        Err(error) if std::env::var_os("MUJOCO_REQUIRED").is_none() => {
            eprintln!("note: no MuJoCo {VERSION}, tests of the ant will be skipped: {error:#}");
            Ok(())
        }
        other => other.map(drop),
    }
}

/// Installs into `.mujoco` unless it is there already; complete or not at all.
pub(crate) fn install(workspace: &Workspace) -> Result<PathBuf> {
    if let Some(library) = installed(workspace) {
        return Ok(library);
    }
    let _lock = lock(workspace, ".mujoco.lock")?;
    if let Some(library) = installed(workspace) {
        return Ok(library);
    }
    ensure!(cfg!(target_os = "linux"), "only wheels for Linux are known to hold {FILE}");
    let stage = workspace.root.join(".mujoco.partial");
    let (wheels, tree, ready) = (stage.join("wheels"), stage.join("tree"), stage.join("ready"));
    remove_if_there(&stage)?;
    fs::create_dir_all(&wheels)?;
    fs::create_dir_all(&ready)?;
    eprintln!("Downloading MuJoCo {VERSION} (once) ...");
    let pip = Pip::find(workspace)?;
    let package = format!("mujoco-core=={VERSION}");
    pip.download_libraries(workspace, &[&package], &wheels)
        .with_context(|| format!("pip could not download {package}"))?;
    pip.unpack(workspace, &wheels, &tree)?;
    let found = tree.join("mujoco").join(FILE);
    fs::rename(&found, ready.join(FILE))
        .with_context(|| format!("the wheel has no {}", found.display()))?;
    let target = workspace.root.join(".mujoco");
    remove_if_there(&target)?;
    fs::rename(&ready, &target).with_context(|| format!("rename to {}", target.display()))?;
    remove_if_there(&stage)?;
    installed(workspace)
        .context("the installation is incomplete; run `cargo xtask setup --mujoco` again")
}
