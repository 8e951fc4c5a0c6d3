//! A crate outside the workspace depends on this one by path and runs the README's example.
//!
//! The new crate takes the workspace's lock file, profiles and linker flags and builds into the
//! target folder that this test runs from, so cargo finds tch and torch-sys built already (their C++
//! takes minutes); only this crate and its shim are compiled again, because cargo keys path
//! dependencies by workspace.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use anyhow::{Context, Result, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

const NAME: &str = "outside-tensor-core";

#[test]
fn the_readme_example_runs_outside_the_workspace() -> Result<()> {
    let this_crate = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = this_crate.ancestors().nth(2).context("the crate lies in crates/<name>")?;
    let home = tempfile::tempdir()?;
    let root = home.path();
    ensure!(!root.starts_with(workspace), "{} is not outside", root.display());

    let readme = fs::read_to_string(this_crate.join("README.md"))?;
    let example = first_rust_block(&readme).context("the README has no ```rust block")?;
    fs::create_dir_all(root.join("src"))?;
    fs::create_dir_all(root.join(".cargo"))?;
    fs::write(root.join("src/main.rs"), example)?;
    fs::write(root.join("Cargo.toml"), manifest(this_crate, workspace)?)?;
    fs::copy(workspace.join("Cargo.lock"), root.join("Cargo.lock"))?;
    fs::copy(workspace.join(".cargo/config.toml"), root.join(".cargo/config.toml"))?;

    let (target, profile) = target_folder()?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(root)
        .args(["run", "--offline", "--profile", &profile])
        .env("CARGO_TARGET_DIR", &target)
        // The program must start without the library path that cargo gave to this test.
        .env_remove("LD_LIBRARY_PATH");
    if std::env::var_os("LIBTORCH").is_none() && std::env::var_os("LIBTORCH_USE_PYTORCH").is_none()
    {
        cargo.env("LIBTORCH", workspace.join(".libtorch/torch"));
    }
    let start = Instant::now();
    let output = cargo.output().context("cargo does not start")?;
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let rebuilt = err.lines().filter(|l| l.trim_start().starts_with("Compiling")).count();
    println!("{:.0} s, {rebuilt} crates compiled\n{out}", start.elapsed().as_secs_f64());
    ensure!(output.status.success(), "{}\n{out}\n{err}", output.status);
    let expected = expected_output(&readme).context("the README shows no output")?;
    ensure!(out == expected, "printed\n{out}\nthe README says\n{expected}");
    Ok(())
}

fn first_rust_block(readme: &str) -> Option<&str> {
    block(readme, "```rust\n")
}

fn expected_output(readme: &str) -> Option<&str> {
    block(readme, "```text\n")
}

fn block<'a>(readme: &'a str, fence: &str) -> Option<&'a str> {
    let rest = &readme[readme.find(fence)? + fence.len()..];
    rest.find("```").map(|end| &rest[..end])
}

/// A manifest of one's own, with the workspace's profiles: other ones would rebuild torch-sys.
fn manifest(this_crate: &Path, workspace: &Path) -> Result<String> {
    let theirs: toml::Table = fs::read_to_string(workspace.join("Cargo.toml"))?.parse()?;
    let profiles = theirs.get("profile").context("the workspace has profiles")?.clone();
    let profiles = toml::Table::from_iter([("profile".to_owned(), profiles)]);
    let path = toml::Value::from(this_crate.to_str().context("the path is not UTF-8")?);
    // Compiling this crate as a member does, and not at the level of a dependency, saves seconds.
    Ok(format!(
        "[package]\nname = \"{NAME}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n\
         [workspace]\n\n[dependencies]\ntensor-core = {{ path = {path} }}\n\n\
         {profiles}\n[profile.dev.package.tensor-core]\nopt-level = 1\n"
    ))
}

/// The target folder that this test was built into, and the name of its profile.
fn target_folder() -> Result<(PathBuf, String)> {
    let exe = std::env::current_exe()?;
    // <target>/<profile>/deps/outside_crate-<hash>
    let folder = exe.ancestors().nth(2).context("a test lies below <profile>/deps")?;
    let profile = folder.file_name().and_then(|n| n.to_str()).context("the profile has no name")?;
    let target = folder.parent().context("the profile lies in a target folder")?;
    let profile = if profile == "debug" { "dev" } else { profile };
    Ok((target.to_owned(), profile.to_owned()))
}
