//! Set-up against a pip that does what a test tells it: succeeds, fails, hangs, or is missing.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Stands in for `python3 -m pip`; `FAKE_PIP` chooses how it behaves.
const FAKE_PIP: &str = r#"#!/bin/sh
echo "$*" >> "$FAKE_LOG"
case "$*" in
  *"pip --version"*) [ "$FAKE_PIP" = absent ] && exit 1; exit 0 ;;
esac
target=""
while [ $# -gt 0 ]; do
  case "$1" in
    download|install) verb=$1 ;;
    --dest|--target) target=$2 ;;
  esac
  shift
done
if [ "$verb" = download ]; then
  [ "$FAKE_PIP" = offline ] && { echo "no route" >&2; exit 1; }
  echo wheel > "$target/torch-2.11.0.whl"
  exit 0
fi
[ "$FAKE_PIP" = broken ] && exit 1
for f in torch/lib/libtorch_cpu.so torch/lib/libtorch_cuda.so torch/include/a.h torch/x.py \
         nvidia/cu13/lib/libcudart.so.13 nvidia/cu13/lib/libcupti.so.13 torchgen/y.py \
         mujoco/libmujoco.so.4.0.0 mujoco/z.py; do
  mkdir -p "$target/$(dirname $f)"; echo x > "$target/$f"
  [ "$FAKE_PIP" = hang ] && exec sleep 20
done
exit 0
"#;

struct Place {
    root: TempDir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("bin");
        fs::create_dir(&bin).unwrap();
        let python = bin.join("python3");
        fs::write(&python, FAKE_PIP).unwrap();
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
        Self { root }
    }

    fn path(&self) -> &Path {
        self.root.path()
    }

    fn setup(&self, mode: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        let path = format!("{}:/usr/bin:/bin", self.path().join("bin").display());
        command
            .arg("setup")
            .env("XTASK_ROOT", self.path())
            .env("PATH", path)
            .env("FAKE_PIP", mode)
            .env("FAKE_LOG", self.path().join("log"))
            .env_remove("LIBTORCH")
            .env_remove("LIBTORCH_USE_PYTORCH");
        command
    }

    fn run(&self, mode: &str) -> Output {
        self.setup(mode).output().unwrap()
    }

    fn complete(&self) -> bool {
        let root = self.path().join(".libtorch/torch");
        fs::read_to_string(root.join("build-version")).is_ok_and(|v| v == "2.11.0")
            && root.join("lib/libtorch_cpu.so").exists()
            && !root.join("lib/libtorch_cuda.so").exists()
            && !self.path().join(".libtorch.partial").exists()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_fresh_set_up_installs_and_a_second_one_touches_nothing() {
    let place = Place::new();
    let first = place.run("works");
    assert!(first.status.success(), "{}", stderr(&first));
    assert!(place.complete());
    let calls = fs::read_to_string(place.path().join("log")).unwrap();
    let stamp = fs::metadata(place.path().join(".libtorch/torch/build-version")).unwrap();

    let start = Instant::now();
    let second = place.run("offline");
    assert!(second.status.success(), "{}", stderr(&second));
    assert!(start.elapsed() < Duration::from_secs(1));
    assert_eq!(fs::read_to_string(place.path().join("log")).unwrap(), calls);
    let after = fs::metadata(place.path().join(".libtorch/torch/build-version")).unwrap();
    assert_eq!(stamp.modified().unwrap(), after.modified().unwrap());
}

#[test]
fn mujoco_is_installed_by_itself_complete_or_not_at_all() {
    let place = Place::new();
    let setup = |mode: &str| place.setup(mode).arg("--mujoco").output().unwrap();
    let files = || {
        let entries = fs::read_dir(place.path().join(".mujoco")).into_iter().flatten().flatten();
        entries.map(|e| e.file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    for mode in ["offline", "broken"] {
        let output = setup(mode);
        assert_eq!(output.status.code(), Some(1), "{mode}");
        assert!(stderr(&output).contains("set-up of MuJoCo"), "{}", stderr(&output));
        assert!(files().is_empty());
    }
    let output = setup("works");
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(files(), ["libmujoco.so.4.0.0"]);
    assert!(!place.path().join(".mujoco.partial").exists());
    assert!(!place.path().join(".libtorch").exists());
    assert!(setup("offline").status.success(), "the second time needs nothing");
}

#[test]
fn killed_in_the_middle_the_next_one_recovers() {
    let place = Place::new();
    let mut child = place.setup("hang").spawn().unwrap();
    let half = place.path().join(".libtorch.partial/tree/torch/lib/libtorch_cpu.so");
    let start = Instant::now();
    while !half.exists() {
        assert!(start.elapsed() < Duration::from_secs(20), "the unpacking never began");
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!place.path().join(".libtorch").exists());

    let next = place.run("works");
    assert!(next.status.success(), "{}", stderr(&next));
    assert!(place.complete());
}

#[test]
fn missing_pip_and_missing_network_are_named() {
    let place = Place::new();
    let no_pip =
        place.setup("absent").env("PATH", only_fake_and_compiler(&place)).output().unwrap();
    assert_eq!(no_pip.status.code(), Some(1));
    assert!(
        stderr(&no_pip).contains("neither `python3 -m pip` nor `pip3` works"),
        "{}",
        stderr(&no_pip)
    );

    let offline = place.run("offline");
    assert_eq!(offline.status.code(), Some(1));
    assert!(stderr(&offline).contains("Is the package index reachable?"), "{}", stderr(&offline));
    assert!(!place.path().join(".libtorch").exists());
}

#[test]
fn missing_compiler_is_named_before_anything_is_downloaded() {
    let place = Place::new();
    let bare = format!("{}", place.path().join("bin").display());
    let output = place.setup("works").env("PATH", bare).env_remove("CXX").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no C++ compiler found"), "{}", stderr(&output));
    assert!(!place.path().join("log").exists());
}

#[test]
fn wheels_that_do_not_unpack_are_dropped() {
    let place = Place::new();
    let broken = place.run("broken");
    assert_eq!(broken.status.code(), Some(1));
    assert!(
        stderr(&broken).contains("could not be unpacked and were removed"),
        "{}",
        stderr(&broken)
    );
    assert!(place.run("works").status.success());
    assert!(place.complete());
}

#[test]
fn a_foreign_libtorch_of_another_version_is_refused_and_the_right_one_is_used() {
    let place = Place::new();
    let other = place.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("build-version"), "2.10.0\n").unwrap();
    let refused = place.setup("works").env("LIBTORCH", &other).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let words = stderr(&refused);
    assert!(words.contains("expected version 2.11.0, found `2.10.0`"), "{words}");

    fs::write(other.join("build-version"), "2.11.0+cpu\n").unwrap();
    let used = place.setup("works").env("LIBTORCH", &other).output().unwrap();
    assert!(used.status.success(), "{}", stderr(&used));
    assert!(!place.path().join(".libtorch").exists());
}

/// A `PATH` with the fake python3 and a compiler, but no `pip3`.
fn only_fake_and_compiler(place: &Place) -> String {
    let bin = place.path().join("bin");
    let compiler = bin.join("c++");
    fs::write(&compiler, "#!/bin/sh\nexit 0\n").unwrap();
    fs::set_permissions(&compiler, fs::Permissions::from_mode(0o755)).unwrap();
    let shell = bin.join("sh");
    if !shell.exists() {
        std::os::unix::fs::symlink("/bin/sh", shell).unwrap();
    }
    bin.display().to_string()
}
