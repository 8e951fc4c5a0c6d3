//! Runs every golden file of a folder through the checker of its group.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use ndarray::{ArrayBase, ArrayD, Data, Dimension, aview0};

use crate::compare::{Element, Tolerance, compare};
use crate::file::GoldenFile;

/// Environment variable that names a folder of golden files to use instead of the crate's own.
pub const GOLDEN_DIR: &str = "GOLDEN_DIR";

/// The folder of golden files of a crate.
///
/// * `over`: the value of `GOLDEN_DIR`, if set. It names a folder with one sub-folder per crate:
///   `<over>/<crate_name>` is taken if it exists. Without that sub-folder, `over` itself is taken
///   if it directly holds `.safetensors` files (somebody points one crate at one folder).
/// * `manifest_dir`: the crate's own folder; `tests/golden` in it is the default.
///
/// # Errors
/// `over` is set and neither form is there. It never falls back to the crate's own files then: a
/// misspelt path must not look like a pass.
pub fn folder(over: Option<&Path>, crate_name: &str, manifest_dir: &Path) -> Result<PathBuf> {
    let Some(over) = over else { return Ok(manifest_dir.join("tests/golden")) };
    let sub = over.join(crate_name);
    if sub.is_dir() {
        return Ok(sub);
    }
    ensure!(
        over.is_dir() && !safetensors_in(over)?.is_empty(),
        "{GOLDEN_DIR}={}: expected a sub-folder `{crate_name}`, or .safetensors files directly in it; found neither",
        over.display()
    );
    Ok(over.to_owned())
}

fn safetensors_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("golden folder {}", folder.display()))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "safetensors") && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// One golden file under test. It derefs to [`GoldenFile`] for reading; its `check` methods record
/// what they find and go on, so that one run shows every tensor that is wrong.
#[derive(Debug)]
pub struct Case {
    file: GoldenFile,
    failures: RefCell<Vec<String>>,
    checks: Cell<usize>,
    worst: Cell<f64>,
}

impl Deref for Case {
    type Target = GoldenFile;

    fn deref(&self) -> &GoldenFile {
        &self.file
    }
}

impl Case {
    /// A case of its own, outside of a [`Suite`]; ask [`Case::finish`] for the outcome.
    pub fn new(file: GoldenFile) -> Self {
        Self { file, failures: RefCell::default(), checks: Cell::new(0), worst: Cell::new(0.0) }
    }

    /// Compares a result with the stored tensor `name`, whatever its type.
    pub fn check<A: Element, S: Data<Elem = A>, D: Dimension>(
        &self,
        name: &str,
        got: &ArrayBase<S, D>,
        tolerance: Tolerance,
    ) {
        match self.file.any_f64(name) {
            Ok(want) => self.check_against(name, got, &want, tolerance),
            Err(error) => self.fail(error.to_string()),
        }
    }

    /// Compares a result with an expected array that is not a stored tensor as it stands: a part of
    /// one, or another result. `what` names it in the failure.
    pub fn check_against<A: Element, S: Data<Elem = A>, D: Dimension>(
        &self,
        what: &str,
        got: &ArrayBase<S, D>,
        want: &ArrayD<f64>,
        tolerance: Tolerance,
    ) {
        self.checks.set(self.checks.get() + 1);
        match compare(got, want, tolerance) {
            Ok(deviation) => self.worst.set(self.worst.get().max(deviation.relative)),
            Err(mismatch) => self.fail(format!("`{what}`: {mismatch}")),
        }
    }

    /// Compares a number with the stored scalar `name` (shape `[]` or `[1]`).
    pub fn check_scalar(&self, name: &str, got: f64, tolerance: Tolerance) {
        match self.file.scalar(name) {
            Ok(want) => {
                let want = ArrayD::from_elem(vec![], want);
                self.check_against(name, &aview0(&got), &want, tolerance);
            }
            Err(error) => self.fail(error.to_string()),
        }
    }

    /// Compares flat values in row-major order with the stored tensor `name`; only the number of
    /// elements must agree, not the shape.
    pub fn check_flat<A: Element>(&self, name: &str, got: &[A], tolerance: Tolerance) {
        match self.file.any_f64(name) {
            Ok(want) => {
                let flat = ArrayD::from_shape_vec(vec![want.len()], want.iter().copied().collect());
                match flat {
                    Ok(flat) => self.check_against(name, &ndarray::aview1(got), &flat, tolerance),
                    Err(error) => self.fail(error.to_string()),
                }
            }
            Err(error) => self.fail(error.to_string()),
        }
    }

    /// Compares integers with the stored integer tensor `name`, in shape and in every element,
    /// without going through float64.
    pub fn check_i64<S: Data<Elem = i64>, D: Dimension>(&self, name: &str, got: &ArrayBase<S, D>) {
        let got = got.view().into_dyn();
        match self.file.i64(name) {
            Ok(want) if want.shape() != got.shape() => {
                self.ensure(false, || {
                    format!("`{name}`: got shape {:?}, expected {:?}", got.shape(), want.shape())
                });
            }
            Ok(want) => {
                let differing = got.indexed_iter().zip(&want).filter(|((_, g), w)| g != w).count();
                let first = got.indexed_iter().zip(&want).find(|((_, g), w)| g != w);
                self.ensure(first.is_none(), || match first {
                    Some(((index, g), w)) => format!(
                        "`{name}`: {differing} of {} integers differ; first at {:?}: got {g}, expected {w}",
                        want.len(),
                        ndarray::Dimension::slice(&index),
                    ),
                    None => String::new(),
                });
            }
            Err(error) => self.fail(error.to_string()),
        }
    }

    /// Records a condition that is no comparison of arrays ("must differ", "is sorted").
    pub fn ensure(&self, holds: bool, message: impl FnOnce() -> String) {
        self.checks.set(self.checks.get() + 1);
        if !holds {
            self.fail(message());
        }
    }

    /// The tolerance that the file itself names in its metadata `rtol` and `atol`.
    ///
    /// # Errors
    /// An entry is absent or not a number that is zero or positive.
    pub fn tolerance(&self) -> Result<Tolerance> {
        let bound = |key| -> Result<f64> {
            let text = self.file.meta(key)?;
            let value: f64 = text.parse().with_context(|| format!("metadata `{key}`: `{text}`"))?;
            ensure!(
                value >= 0.0 && value.is_finite(),
                "metadata `{key}`: expected a bound, found `{text}`"
            );
            Ok(value)
        };
        Ok(Tolerance::new(bound("rtol")?, bound("atol")?))
    }

    /// All failures so far; one more if nothing was checked.
    pub fn finish(self) -> Vec<String> {
        let checks = self.checks.get();
        let mut failures = self.failures.into_inner();
        if checks == 0 && failures.is_empty() {
            failures.push("the checker compared nothing".to_owned());
        }
        failures
    }

    fn fail(&self, message: String) {
        self.failures.borrow_mut().push(message);
    }
}

type Checker<'a> = Box<dyn FnMut(&Case) -> Result<()> + 'a>;

/// All golden files of one crate, and a checker per group.
///
/// The group of a file is its metadata entry `group`, `op` or `kind`, the first that is there; a
/// file without any belongs to the longest registered name that equals its stem or is followed in
/// it by `_` (`mixed_lift` takes `mixed_lift__D4.safetensors` from `mixed`).
pub struct Suite<'a> {
    folder: PathBuf,
    /// The crate's own files: here every registered group must have at least one.
    own: bool,
    checkers: BTreeMap<String, Option<Checker<'a>>>,
}

impl<'a> Suite<'a> {
    /// The suite of a crate, from `GOLDEN_DIR` or its own `tests/golden`; see [`folder`] and the
    /// macro [`suite!`](crate::suite).
    ///
    /// # Errors
    /// As [`folder`].
    pub fn open(crate_name: &str, manifest_dir: impl AsRef<Path>) -> Result<Self> {
        let over = std::env::var_os(GOLDEN_DIR).filter(|v| !v.is_empty()).map(PathBuf::from);
        let own = over.is_none();
        let folder = folder(over.as_deref(), crate_name, manifest_dir.as_ref())?;
        Ok(Self { folder, own, checkers: BTreeMap::new() })
    }

    /// A suite over a named folder, whatever the environment says.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), own: false, checkers: BTreeMap::new() }
    }

    /// The folder in use.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Registers the checker of a group.
    ///
    /// # Panics
    /// The group was registered before.
    #[must_use]
    pub fn group(mut self, name: &str, checker: impl FnMut(&Case) -> Result<()> + 'a) -> Self {
        let before = self.checkers.insert(name.to_owned(), Some(Box::new(checker)));
        assert!(before.is_none(), "golden group `{name}` is registered twice");
        self
    }

    /// Names groups that another test function checks: known here, but not run.
    ///
    /// # Panics
    /// A group was registered before.
    #[must_use]
    pub fn elsewhere(mut self, names: &[&str]) -> Self {
        for name in names {
            let before = self.checkers.insert((*name).to_owned(), None);
            assert!(before.is_none(), "golden group `{name}` is registered twice");
        }
        self
    }

    /// Checks every file, prints one line per group, and fails with all failures together.
    ///
    /// # Errors
    /// The folder is missing or empty; a file cannot be read or has an unknown group; a checker
    /// fails, panics, or compares nothing; a registered group has no file in the crate's own folder.
    pub fn run(mut self) -> Result<()> {
        let paths = safetensors_in(&self.folder)?;
        ensure!(!paths.is_empty(), "golden folder {}: no .safetensors file", self.folder.display());
        let mut failures = Vec::new();
        let mut lines: BTreeMap<String, Line> = BTreeMap::new();
        for name in self.checkers.iter().filter(|(_, c)| c.is_some()).map(|(n, _)| n) {
            lines.insert(name.clone(), Line::default());
        }
        for path in &paths {
            let file = match GoldenFile::read(path) {
                Ok(file) => file,
                Err(error) => {
                    failures.push(format!("{error:#}"));
                    continue;
                }
            };
            let stem = file.stem().to_owned();
            let group = match self.group_of(&file) {
                Ok(group) => group,
                Err(error) => {
                    failures.push(format!("{stem}: {error:#}"));
                    continue;
                }
            };
            let Some(Some(checker)) = self.checkers.get_mut(&group) else { continue };
            let (found, worst) = run_case(checker, file);
            let line = lines.entry(group).or_default();
            line.files += 1;
            line.failed += usize::from(!found.is_empty());
            line.worst = line.worst.max(worst);
            failures.extend(found.into_iter().map(|f| format!("{stem}: {f}")));
        }
        for (group, line) in &lines {
            line.print(group);
            if self.own && line.files == 0 {
                failures.push(format!("group `{group}`: no file in {}", self.folder.display()));
            }
        }
        if failures.is_empty() {
            return Ok(());
        }
        bail!(
            "{} golden failures in {}:\n{}",
            failures.len(),
            self.folder.display(),
            failures.join("\n")
        )
    }

    fn group_of(&self, file: &GoldenFile) -> Result<String> {
        let known = || self.checkers.keys().collect::<Vec<_>>();
        if let Some(name) = ["group", "op", "kind"].into_iter().find_map(|key| file.meta_opt(key)) {
            ensure!(
                self.checkers.contains_key(name),
                "unknown group `{name}`, expected one of {:?}",
                known()
            );
            return Ok(name.to_owned());
        }
        let matches = |name: &&String| {
            file.stem()
                .strip_prefix(name.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
        };
        let longest = self.checkers.keys().filter(matches).max_by_key(|name| name.len());
        longest.cloned().with_context(|| {
            format!("unknown group, expected a name that starts with one of {:?}", known())
        })
    }
}

impl std::fmt::Debug for Suite<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Suite")
            .field("folder", &self.folder)
            .field("groups", &self.checkers.keys())
            .finish()
    }
}

/// Runs one checker; a panic in it (a failed tensor operation) is a failure of that file alone.
fn run_case(checker: &mut Checker<'_>, file: GoldenFile) -> (Vec<String>, f64) {
    let case = Case::new(file);
    match catch_unwind(AssertUnwindSafe(|| checker(&case))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => case.fail(format!("{error:#}")),
        Err(payload) => {
            let text = payload
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| payload.downcast_ref::<&str>().copied())
                .unwrap_or("a panic without a message");
            case.fail(format!("panicked: {}", text.lines().next().unwrap_or_default()));
        }
    }
    let worst = case.worst.get();
    (case.finish(), worst)
}

#[derive(Default)]
struct Line {
    files: usize,
    failed: usize,
    worst: f64,
}

impl Line {
    #[expect(
        clippy::print_stdout,
        reason = "the report of a test program; the harness captures it"
    )]
    fn print(&self, group: &str) {
        let failed =
            if self.failed > 0 { format!(", {} FAILED", self.failed) } else { String::new() };
        println!(
            "golden {group:<24} {:>4} files, worst relative error {:.1e}{failed}",
            self.files, self.worst
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{aview1, aview2};
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;
    use tempfile::TempDir;

    fn write(folder: &Path, name: &str, values: &[f64], meta: &[(&str, &str)]) {
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let ints: Vec<u8> = values.iter().flat_map(|x| (*x as i64).to_le_bytes()).collect();
        let views = [
            ("x", TensorView::new(Dtype::F64, vec![values.len()], &bytes).unwrap()),
            ("n", TensorView::new(Dtype::I64, vec![values.len()], &ints).unwrap()),
        ];
        let meta = meta.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let out = safetensors::serialize(views, Some(meta)).unwrap();
        std::fs::write(folder.join(format!("{name}.safetensors")), out).unwrap();
    }

    fn error_of(suite: Suite<'_>) -> String {
        format!("{:#}", suite.run().unwrap_err())
    }

    #[test]
    fn dispatches_on_metadata_and_on_the_longest_name() {
        let dir = TempDir::new().unwrap();
        write(dir.path(), "zzz", &[1.0], &[("op", "add")]);
        write(dir.path(), "mixed__a", &[1.0], &[]);
        write(dir.path(), "mixed_lift__a", &[1.0], &[]);
        write(dir.path(), "mixed_lift_3", &[1.0], &[]);
        let seen = RefCell::new(Vec::new());
        let note = |group: &'static str| {
            let seen = &seen;
            move |case: &Case| {
                seen.borrow_mut().push((group, case.stem().to_owned()));
                case.check("x", &aview1(&[1.0]), Tolerance::EXACT);
                Ok(())
            }
        };
        Suite::at(dir.path())
            .group("add", note("add"))
            .group("mixed", note("mixed"))
            .group("mixed_lift", note("mixed_lift"))
            .run()
            .unwrap();
        let want = [
            ("mixed", "mixed__a"),
            ("mixed_lift", "mixed_lift_3"),
            ("mixed_lift", "mixed_lift__a"),
            ("add", "zzz"),
        ];
        assert_eq!(seen.into_inner(), want.map(|(g, s)| (g, s.to_owned())));
    }

    #[test]
    fn collects_all_failures() {
        let dir = TempDir::new().unwrap();
        for (name, op) in
            [("a", "wrong"), ("b", "panics"), ("c", "idle"), ("d", "new"), ("e", "errs")]
        {
            write(dir.path(), name, &[1.0, 2.0], &[("op", op)]);
        }
        std::fs::write(dir.path().join("f.safetensors"), b"junk").unwrap();
        std::fs::write(dir.path().join("README.md"), b"ignored").unwrap();
        let text = error_of(
            Suite::at(dir.path())
                .group("wrong", |case| {
                    case.check("x", &aview1(&[1.0, 2.5]), Tolerance::F64);
                    case.check("missing", &aview1(&[1.0]), Tolerance::F64);
                    case.check_i64("n", &aview1(&[1, 3]));
                    case.check_i64("n", &aview2(&[[1, 2]]));
                    Ok(())
                })
                .group("panics", |_| panic!("shape mismatch\nbacktrace"))
                .group("idle", |_| Ok(()))
                .group("errs", |case| case.f64("y").map(drop)),
        );
        for word in [
            "9 golden failures",
            "a: `x`: 1 of 2 elements out of tolerance",
            "worst at [1]: got 2.5e0, expected 2e0",
            "a: no tensor `missing`",
            "a: `n`: 1 of 2 integers differ; first at [1]: got 3, expected 2",
            "a: `n`: got shape [1, 2], expected [2]",
            "b: panicked: shape mismatch",
            "c: the checker compared nothing",
            "d: unknown group `new`, expected one of [\"errs\", \"idle\", \"panics\", \"wrong\"]",
            "e: no tensor `y`",
            "f.safetensors: not a safetensors file",
        ] {
            assert!(text.contains(word), "no `{word}` in:\n{text}");
        }
    }

    #[test]
    fn an_empty_or_missing_folder_fails() {
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("README.md"), b"no golden file").unwrap();
        assert!(error_of(Suite::at(dir.path())).contains("no .safetensors file"));
        assert!(error_of(Suite::at(dir.path().join("gone"))).contains("gone"));
    }

    #[test]
    fn groups_of_another_test_are_known_but_not_run() {
        let dir = TempDir::new().unwrap();
        write(dir.path(), "add__a", &[1.0], &[]);
        Suite::at(dir.path()).elsewhere(&["add"]).run().unwrap();
    }

    #[test]
    fn the_own_folder_must_fill_every_group() {
        let dir = TempDir::new().unwrap();
        let golden = dir.path().join("tests/golden");
        std::fs::create_dir_all(&golden).unwrap();
        write(&golden, "add__a", &[1.0], &[("rtol", "1e-3"), ("atol", "0")]);
        let suite = Suite { folder: golden, own: true, checkers: BTreeMap::new() }
            .group("add", |case| {
                case.check_scalar("x", 1.0 + 1e-4, case.tolerance()?);
                case.check_flat("n", &[1_i64], Tolerance::EXACT);
                Ok(())
            })
            .group("stale", |_| Ok(()));
        let text = error_of(suite);
        assert!(
            text.contains("1 golden failures") && text.contains("group `stale`: no file"),
            "{text}"
        );
    }

    #[test]
    fn the_folder_follows_golden_dir() {
        let dir = TempDir::new().unwrap();
        let own = Path::new("own");
        assert_eq!(folder(None, "c", own).unwrap(), own.join("tests/golden"));
        assert!(folder(Some(dir.path()), "c", own).is_err(), "neither form: no silent fall-back");
        assert!(folder(Some(&dir.path().join("typo")), "c", own).is_err());
        write(dir.path(), "add__a", &[1.0], &[]);
        assert_eq!(folder(Some(dir.path()), "c", own).unwrap(), dir.path());
        std::fs::create_dir(dir.path().join("c")).unwrap();
        assert_eq!(folder(Some(dir.path()), "c", own).unwrap(), dir.path().join("c"));
    }
}
