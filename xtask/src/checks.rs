//! Tests, lints, docs and benches: cargo with the right arguments in the right order.

use crate::{
    programs::{Workspace, cargo_program},
    tidy,
};
use anyhow::Result;
use std::{
    fs,
    path::Path,
    process::{Command, ExitCode},
    time::Instant,
};

/// All tests: unit and integration tests through nextest where it is installed, then doc tests.
pub(crate) fn test(workspace: &Workspace, args: &[String]) -> Result<()> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let scope: &[&str] =
        if args.iter().any(|a| *a == "-p" || *a == "--package") { &[] } else { &["--workspace"] };
    if workspace.has(&cargo_program(), &["nextest", "--version"]) {
        workspace.cargo(&[&["nextest", "run"], scope, &args].concat())?;
        if args.is_empty() {
            workspace.cargo(&["test", "--doc", "--workspace"])?;
        }
        Ok(())
    } else {
        workspace.cargo(&[&["test"], scope, &args].concat())
    }
}

/// What continuous integration runs.
pub(crate) fn all(workspace: &Workspace, without_tests: bool) -> Result<()> {
    step("format", || workspace.cargo(&["fmt", "--all", "--check"]))?;
    step("tidy", || tidy::check(workspace))?;
    if !without_tests {
        step("tests", || test(workspace, &[]))?;
    }
    step("slurm", || slurm(workspace))?;
    step("lints", || {
        workspace.cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])
    })?;
    step("docs", || docs(workspace))?;
    if workspace.has(&cargo_program(), &["deny", "--version"]) {
        step("licences", || workspace.cargo(&["deny", "check", "licenses", "bans", "sources"]))?;
    } else {
        eprintln!("cargo-deny is not installed: licences and sources not checked");
    }
    step("main job", || {
        let smoke = ["--profile", "smoke"].map(str::to_owned);
        let code = reproduce(workspace, &smoke)?;
        anyhow::ensure!(code == ExitCode::SUCCESS, "the main job failed");
        Ok(())
    })
}

/// The job array on a real Slurm, started for the purpose. Where it is not to be had (not root, or
/// not there and not Debian, where it would be installed) that is said, and no failure.
fn slurm(workspace: &Workspace) -> Result<()> {
    let script = "crates/experiments/tests/slurm/run.sh";
    eprintln!("+ {script} --workspace");
    let status = Command::new("bash")
        .args([script, "--workspace"])
        .env("CARGO", cargo_program())
        .current_dir(&workspace.root)
        .status()?;
    if status.code() == Some(77) {
        eprintln!("slurm: SKIPPED, the job array was not tested on a real Slurm (reason above)");
        return Ok(());
    }
    anyhow::ensure!(status.success(), "{script} ended with {status}");
    Ok(())
}

/// Every declared study; while no crate declares one, the growing network of tensor-core.
pub(crate) fn reproduce(workspace: &Workspace, args: &[String]) -> Result<ExitCode> {
    if has_studies(&workspace.root) {
        return workspace.engine("reproduce", args);
    }
    eprintln!("no crate declares a study yet; this is tensor-core's grow_mlp");
    workspace.cargo_code(&["run", "--quiet", "--package", "tensor-core", "--example", "grow_mlp"])
}

fn has_studies(root: &Path) -> bool {
    let folders =
        |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
    folders(&root.join("crates"))
        .flat_map(|folder| folders(&folder.join("studies")).collect::<Vec<_>>())
        .any(|study| study.join("experiment.toml").is_file())
}

/// Criterion benches, of all crates or of the one that is named first.
pub(crate) fn bench(workspace: &Workspace, args: &[String]) -> Result<()> {
    let mut all = vec!["bench"];
    let mut rest: Vec<&str> = args.iter().map(String::as_str).collect();
    if let Some(name) = rest.first().filter(|a| !a.starts_with('-')).copied() {
        all.extend(["--package", name]);
        rest.remove(0);
    } else {
        all.push("--workspace");
    }
    all.extend(rest);
    workspace.cargo(&all)
}

/// The API documentation, with every warning an error.
fn docs(workspace: &Workspace) -> Result<()> {
    eprintln!("+ cargo doc --no-deps --workspace (warnings denied)");
    let status = Command::new(cargo_program())
        .args(["doc", "--no-deps", "--workspace"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .current_dir(&workspace.root)
        .status()?;
    anyhow::ensure!(status.success(), "cargo doc ended with {status}");
    Ok(())
}

fn step(name: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    eprintln!("== {name}");
    let outcome = run();
    let word = if outcome.is_ok() { "passed" } else { "FAILED" };
    eprintln!("== {name}: {word} in {:.0} s", start.elapsed().as_secs_f64());
    outcome
}
