//! Installs libtorch from the `PyPI` wheel of `torch`, without Python ever importing it.
//!
//! Everything happens in `.libtorch.partial`: wheels are downloaded there (kept, so that an
//! interrupted set-up goes on where it was), unpacked, pruned, stamped with the version, and only
//! then renamed to `.libtorch`. Whatever is killed when, `.libtorch` is complete or absent.

use crate::programs::Workspace;
use anyhow::{Context, Result, bail};
use std::{
    env, fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

/// The release that `tch` 0.24 is written for.
pub(crate) const VERSION: &str = "2.11.0";

/// The two NVIDIA libraries that even the CPU half of the wheel is linked against.
const COMPANIONS: [&str; 2] = ["nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"];

/// What a CPU program never loads. A list of names to delete, not to keep: wheels of other
/// architectures carry further libraries that `libtorch_cpu.so` needs.
const GPU_LIBRARIES: [&str; 7] = [
    "libtorch_cuda.so",
    "libtorch_cuda_linalg.so",
    "libtorch_nvshmem.so",
    "libc10_cuda.so",
    "libcaffe2_nvrtc.so",
    "libtorch_python.so",
    "libtorch_global_deps.so",
];

/// Which libraries are installed.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// CPU libraries alone, about 0.5 GB.
    Cpu,
    /// The whole wheel with its CUDA dependencies, about 5 GB.
    Cuda,
    /// Somebody else's installation.
    Foreign,
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Foreign => "named by the environment",
        })
    }
}

/// An installation that can be linked against.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) root: PathBuf,
    pub(crate) flavour: Flavour,
}

/// Makes sure that some libtorch is there; installs the CPU set when none is.
pub(crate) fn ensure(workspace: &Workspace) -> Result<Found> {
    if let Some(found) = foreign(workspace)? {
        return Ok(found);
    }
    match installed(workspace) {
        Some(found) => Ok(found),
        None => install(workspace, Flavour::Cpu),
    }
}

/// What is in `.libtorch`, when it is complete and of the right version.
pub(crate) fn installed(workspace: &Workspace) -> Option<Found> {
    let root = workspace.root.join(".libtorch/torch");
    let version = fs::read_to_string(root.join("build-version")).ok()?;
    if version.trim() != VERSION {
        return None;
    }
    let cuda = root.join("lib/libtorch_cuda.so").exists();
    Some(Found { root, flavour: if cuda { Flavour::Cuda } else { Flavour::Cpu } })
}

/// An installation named by `LIBTORCH_USE_PYTORCH` or by a `LIBTORCH` other than our own.
pub(crate) fn foreign(workspace: &Workspace) -> Result<Option<Found>> {
    if env::var_os("LIBTORCH_USE_PYTORCH").is_some_and(|v| v != "0") {
        let code = "import torch; print(torch.__version__); print(torch.__path__[0])";
        let text = workspace
            .output(Path::new("python3"), &["-c", code])
            .context("LIBTORCH_USE_PYTORCH is set, but python3 cannot import torch")?;
        let mut lines = text.lines();
        let (version, root) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
        check_version("the PyTorch of python3 (LIBTORCH_USE_PYTORCH is set)", version)?;
        return Ok(Some(Found { root: PathBuf::from(root), flavour: Flavour::Foreign }));
    }
    let Some(root) = env::var_os("LIBTORCH").map(PathBuf::from) else { return Ok(None) };
    // .cargo/config.toml sets LIBTORCH for xtask too; that one is not foreign.
    let ours = workspace.root.join(".libtorch/torch");
    if root == ours
        || root.canonicalize().ok().is_some_and(|r| ours.canonicalize().is_ok_and(|o| o == r))
    {
        return Ok(None);
    }
    let version = ["build-version", "version.py"]
        .iter()
        .find_map(|name| fs::read_to_string(root.join(name)).ok())
        .with_context(|| {
            format!(
                "LIBTORCH is set to {}, where neither `build-version` nor `version.py` can be read; \
                 unset it, or point it to a libtorch {VERSION}",
                root.display()
            )
        })?;
    let version = version
        .lines()
        .find_map(|line| line.strip_prefix("__version__ = "))
        .unwrap_or(&version)
        .trim()
        .trim_matches(['\'', '"'])
        .to_owned();
    check_version(&format!("LIBTORCH = {}", root.display()), &version)?;
    Ok(Some(Found { root, flavour: Flavour::Foreign }))
}

fn check_version(what: &str, version: &str) -> Result<()> {
    if version.split('+').next() == Some(VERSION) {
        return Ok(());
    }
    bail!(
        "{what}: expected version {VERSION}, found `{version}`; unset the variable to let set-up install the right one"
    )
}

/// Installs into `.libtorch` unless it is there already.
pub(crate) fn install(workspace: &Workspace, flavour: Flavour) -> Result<Found> {
    if let Some(found) = foreign(workspace)? {
        eprintln!("libtorch {VERSION} comes from {}; nothing to set up", found.root.display());
        return Ok(found);
    }
    let wanted = |found: &Found| found.flavour == flavour || found.flavour == Flavour::Cuda;
    if let Some(found) = installed(workspace).filter(wanted) {
        return Ok(found);
    }
    let _lock = lock(workspace, ".libtorch.lock")?;
    // Another set-up may have finished while this one waited.
    if let Some(found) = installed(workspace).filter(wanted) {
        return Ok(found);
    }
    need_compiler(workspace)?;

    let stage = workspace.root.join(".libtorch.partial");
    let wheels = stage.join("wheels");
    let tree = stage.join("tree");
    // Finished wheels of an interrupted set-up are kept, a half-unpacked tree is not.
    remove_if_there(&tree)?;
    fs::create_dir_all(&wheels)?;
    match flavour {
        Flavour::Cuda => {
            eprintln!("Downloading libtorch {VERSION} with CUDA (about 2.5 GB, once) ...");
        }
        _ => eprintln!("Downloading libtorch {VERSION} (544 MB, once) ..."),
    }
    let pip = Pip::find(workspace)?;
    pip.download(workspace, flavour, &wheels)?;
    eprintln!("Unpacking ...");
    pip.unpack(workspace, &wheels, &tree)?;
    if flavour == Flavour::Cpu {
        prune(&tree)?;
    }
    fs::write(tree.join("torch/build-version"), VERSION)?;
    let target = workspace.root.join(".libtorch");
    remove_if_there(&target)?;
    fs::rename(&tree, &target)
        .with_context(|| format!("rename {} to {}", tree.display(), target.display()))?;
    remove_if_there(&stage)?;
    installed(workspace).context("the installation is incomplete; run `cargo xtask setup` again")
}

/// Holds off a second set-up in the same folder; released when the file is closed.
pub(crate) fn lock(workspace: &Workspace, name: &str) -> Result<File> {
    let path = workspace.root.join(name);
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    if file.try_lock().is_err() {
        eprintln!("Another set-up is at work; waiting for it ...");
        file.lock().with_context(|| format!("lock {}", path.display()))?;
    }
    Ok(file)
}

fn need_compiler(workspace: &Workspace) -> Result<()> {
    let named = env::var_os("CXX").map(PathBuf::from);
    let candidates = named.into_iter().chain(["c++", "g++", "clang++"].map(PathBuf::from));
    for compiler in candidates {
        if workspace.has(&compiler, &["--version"]) {
            return Ok(());
        }
    }
    bail!(
        "no C++ compiler found (tried $CXX, c++, g++, clang++). libtorch's binding is compiled once on \
         this machine; install one, for example with `apt install g++`, and run the command again"
    )
}

/// A program that installs wheels.
pub(crate) struct Pip {
    program: PathBuf,
    prefix: Vec<&'static str>,
}

impl Pip {
    pub(crate) fn find(workspace: &Workspace) -> Result<Self> {
        let ways: [(&str, &[&str]); 2] = [("python3", &["-m", "pip"]), ("pip3", &[])];
        for (program, prefix) in ways {
            let mut probe = prefix.to_vec();
            probe.push("--version");
            if workspace.has(Path::new(program), &probe) {
                return Ok(Self { program: program.into(), prefix: prefix.to_vec() });
            }
        }
        bail!(
            "neither `python3 -m pip` nor `pip3` works. Set-up takes libtorch from the wheel of PyTorch {VERSION};\n\
             install pip (for example `apt install python3-pip`), or set LIBTORCH to an unpacked libtorch {VERSION}"
        )
    }

    fn download(&self, workspace: &Workspace, flavour: Flavour, wheels: &Path) -> Result<()> {
        let torch = format!("torch=={VERSION}");
        let fetched = if flavour == Flavour::Cuda {
            let mut args = self.download_args(wheels);
            args.push(torch);
            self.run(workspace, &args)
        } else {
            let companions: &[&str] = if cfg!(target_os = "linux") { &COMPANIONS } else { &[] };
            self.download_libraries(workspace, &[companions, &[&torch]].concat(), wheels)
        };
        fetched.with_context(|| {
            format!(
                "pip could not download torch {VERSION}. Is the package index reachable? Run the \
                 command again to go on, or set LIBTORCH to an unpacked libtorch {VERSION}"
            )
        })
    }

    /// Downloads wheels for their libraries alone: without dependencies, and for one fixed Python
    /// version, because the libraries are the same in all wheels of a platform, and the user's
    /// Python may be one for which no wheel exists.
    pub(crate) fn download_libraries(
        &self,
        workspace: &Workspace,
        packages: &[&str],
        wheels: &Path,
    ) -> Result<()> {
        let mut args = self.download_args(wheels);
        args.extend(
            ["--no-deps", "--implementation", "cp", "--python-version", "3.11"].map(String::from),
        );
        for platform in platforms() {
            args.extend(["--platform".to_owned(), platform]);
        }
        args.extend(packages.iter().map(ToString::to_string));
        self.run(workspace, &args)
    }

    fn download_args(&self, wheels: &Path) -> Vec<String> {
        let mut args: Vec<String> = self.prefix.iter().map(ToString::to_string).collect();
        args.extend(["download", "--quiet", "--only-binary=:all:", "--dest"].map(String::from));
        args.push(wheels.display().to_string());
        args
    }

    pub(crate) fn unpack(&self, workspace: &Workspace, wheels: &Path, tree: &Path) -> Result<()> {
        let mut args: Vec<String> = self.prefix.iter().map(ToString::to_string).collect();
        args.extend(
            [
                "install",
                "--quiet",
                "--no-compile",
                "--no-deps",
                "--no-index",
                "--only-binary=:all:",
            ]
            .map(String::from),
        );
        args.extend(["--target".to_owned(), tree.display().to_string()]);
        args.extend(["--implementation", "cp", "--python-version", "3.11"].map(String::from));
        for platform in platforms() {
            args.extend(["--platform".to_owned(), platform]);
        }
        for entry in fs::read_dir(wheels)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "whl") {
                args.push(path.display().to_string());
            }
        }
        if self.run(workspace, &args).is_ok() {
            return Ok(());
        }
        // A wheel that was cut short by a full disk or a power loss is worth one fresh download.
        remove_if_there(wheels)?;
        bail!("the downloaded wheels could not be unpacked and were removed; run the command again")
    }

    fn run(&self, workspace: &Workspace, args: &[String]) -> Result<()> {
        let mut command = std::process::Command::new(&self.program);
        command
            .args(args)
            .current_dir(&workspace.root)
            .env("PIP_ROOT_USER_ACTION", "ignore")
            .env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
        let status = command
            .status()
            .with_context(|| format!("cannot start `{}`", self.program.display()))?;
        if !status.success() {
            bail!(
                "`{} {} ...` ended with {status}",
                self.program.display(),
                args[..3.min(args.len())].join(" ")
            );
        }
        Ok(())
    }
}

fn platforms() -> Vec<String> {
    if cfg!(target_os = "macos") {
        return ["macosx_11_0_arm64", "macosx_12_0_arm64", "any"].map(String::from).to_vec();
    }
    let arch = env::consts::ARCH;
    let mut tags: Vec<String> =
        ["2_28", "2_27", "2_25", "2_17"].iter().map(|v| format!("manylinux_{v}_{arch}")).collect();
    tags.push(format!("manylinux2014_{arch}"));
    tags.push("any".to_owned());
    tags
}

/// Deletes what a CPU program does not load and replaces the stub that asks for the CUDA half.
fn prune(tree: &Path) -> Result<()> {
    keep_only(tree, &["torch", "nvidia"])?;
    keep_only(&tree.join("torch"), &["lib", "include"])?;
    if cfg!(target_os = "macos") {
        return Ok(());
    }
    let lib = tree.join("torch/lib");
    for entry in fs::read_dir(&lib)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if GPU_LIBRARIES.contains(&name.as_ref()) || name.starts_with("libshm") {
            remove_if_there(&entry.path())?;
        }
    }
    let nvidia = tree.join("nvidia");
    keep_only(&nvidia, &["cu13"])?;
    keep_only(&nvidia.join("cu13"), &["lib"])?;
    keep_only(&nvidia.join("cu13/lib"), &["libcudart.so.13", "libcupti.so.13"])?;
    fs::write(lib.join("libtorch.so"), "INPUT(libtorch_cpu.so)")?;
    Ok(())
}

fn keep_only(folder: &Path, names: &[&str]) -> Result<()> {
    let entries = fs::read_dir(folder)
        .with_context(|| format!("the wheel has no folder `{}`", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        if !names.iter().any(|name| entry.file_name() == *name) {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

pub(crate) fn remove_if_there(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_version_suffix_is_accepted_and_others_are_not() {
        assert!(check_version("x", "2.11.0+cpu").is_ok());
        assert!(check_version("x", "2.11.0").is_ok());
        let message = check_version("x", "2.10.1").unwrap_err().to_string();
        assert!(message.contains("expected version 2.11.0, found `2.10.1`"), "{message}");
    }

    #[test]
    fn prune_keeps_what_a_cpu_program_loads() {
        let dir = tempfile::tempdir().unwrap();
        let files = [
            "torch/lib/libtorch_cpu.so",
            "torch/lib/libtorch_cuda.so",
            "torch/lib/libgomp.so.1",
            "torch/lib/libshm/x",
            "torch/include/a.h",
            "torch/nn/b.py",
            "torchgen/c.py",
            "nvidia/cu13/lib/libcudart.so.13",
            "nvidia/cu13/lib/libcublas.so.13",
            "nvidia/cu13/include/d.h",
        ];
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        prune(dir.path()).unwrap();
        let left: Vec<bool> = files.iter().map(|f| dir.path().join(f).exists()).collect();
        assert_eq!(left, [true, false, true, false, true, false, false, true, false, false]);
        let stub = fs::read_to_string(dir.path().join("torch/lib/libtorch.so")).unwrap();
        assert_eq!(stub, "INPUT(libtorch_cpu.so)");
    }
}
