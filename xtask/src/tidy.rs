//! Checks of the repository itself: arrows between crates, READMEs, golden tests, paths, links.

use crate::programs::{Workspace, cargo_program};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

const SYSTEMS: [&str; 6] =
    ["mesa-layer", "model-growth", "neurogenesis", "equivariant-nas", "darts-ext", "internal-rl"];

/// Crates that nothing over libtorch may enter.
const WITHOUT_LIBTORCH: [&str; 5] = ["envs", "experiments", "datasets", "golden", "xtask"];

/// Crates with no golden files: libtorch itself is the oracle of tensor-core's tests, and the other
/// two hold no numerical method.
const WITHOUT_GOLDEN: [&str; 4] = ["tensor-core", "datasets", "golden", "xtask"];

/// Where `unsafe` may be opted into, as path prefixes.
const UNSAFE_PLACES: [&str; 7] = [
    "crates/tensor-core/src/native",
    "crates/tensor-core/src/interop",
    "crates/tensor-core/src/optim/fused",
    "crates/tensor-core/src/runtime",
    "crates/mesa-layer/src/kernel",
    "crates/envs/src/mujoco",
    // Between fork and exec only `pre_exec` can set limits and the parent-death signal.
    "crates/experiments/src/runner",
];

/// Longest file that needs no reason.
const LONG_FILE: usize = 600;

/// Runs all checks and reports every finding, not only the first.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let mut findings = Vec::new();
    let crates = members(workspace)?;
    for member in &crates {
        findings.extend(arrows(member));
        findings.extend(rooms(member));
    }
    let files = tracked(workspace)?;
    for file in &files {
        if let Ok(text) = fs::read_to_string(workspace.root.join(file)) {
            findings.extend(words(file, &text));
            if has_extension(file, "md") && !file.contains("/templates/") {
                findings.extend(links(&workspace.root, file, &text));
            }
        }
    }
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings", findings.len());
    }
    eprintln!("tidy: {} crates and {} files are in order", crates.len(), files.len());
    Ok(())
}

/// A workspace member as `cargo metadata` tells it.
struct Member {
    name: String,
    folder: PathBuf,
    /// Dependency name -> kinds (`normal`, `dev`, `build`).
    dependencies: BTreeMap<String, Vec<String>>,
}

fn members(workspace: &Workspace) -> Result<Vec<Member>> {
    let args = ["metadata", "--no-deps", "--format-version", "1", "--offline"];
    let text = workspace.output(&cargo_program(), &args)?;
    let metadata: Value = serde_json::from_str(&text).context("output of cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let mut members = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("package without a name")?.to_owned();
        let manifest = package["manifest_path"].as_str().context("package without a manifest")?;
        let folder =
            Path::new(manifest).parent().context("manifest without a folder")?.to_path_buf();
        let mut dependencies: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default().to_owned();
            let kind = dependency["kind"].as_str().unwrap_or("normal").to_owned();
            dependencies.entry(to).or_default().push(kind);
        }
        members.push(Member { name, folder, dependencies });
    }
    Ok(members)
}

/// The arrows of the architecture page, section 3.
fn arrows(member: &Member) -> Vec<String> {
    let ours: Vec<&str> = SYSTEMS
        .iter()
        .chain(&["tensor-core", "benches"])
        .chain(&WITHOUT_LIBTORCH)
        .copied()
        .collect();
    let name = member.name.as_str();
    let normal: Vec<&str> = match name {
        "internal-rl" => vec!["tensor-core", "envs"],
        "benches" => ours.clone(),
        n if SYSTEMS.contains(&n) => vec!["tensor-core"],
        _ => vec![],
    };
    let dev: Vec<&str> =
        if name == "xtask" { vec![] } else { vec!["golden", "experiments", "datasets"] };
    let mut findings = Vec::new();
    for (to, kinds) in &member.dependencies {
        let binding = ["tch", "torch-sys", "tensor-core"].contains(&to.as_str());
        if WITHOUT_LIBTORCH.contains(&name) && binding {
            findings.push(format!("{name} must not need libtorch, but depends on {to}"));
        }
        if !ours.contains(&to.as_str()) {
            continue;
        }
        for kind in kinds {
            let allowed = match kind.as_str() {
                "dev" => dev.contains(&to.as_str()) || normal.contains(&to.as_str()),
                _ => normal.contains(&to.as_str()),
            };
            if !allowed {
                findings.push(format!("{name} must not have {to} as a {kind} dependency"));
            }
        }
    }
    findings
}

/// Each crate has a README and, where it implements a paper, a golden test.
fn rooms(member: &Member) -> Vec<String> {
    let mut findings = Vec::new();
    let mut need = |file: &str| {
        if !member.folder.join(file).exists() {
            findings.push(format!("{}: {file} is missing", member.name));
        }
    };
    if member.name != "xtask" {
        need("README.md");
    }
    if !WITHOUT_GOLDEN.contains(&member.name.as_str()) && member.name != "benches" {
        need("tests/golden.rs");
        need("tests/golden");
    }
    findings
}

/// Files under version control and new ones that are not ignored.
fn tracked(workspace: &Workspace) -> Result<Vec<String>> {
    let args = ["ls-files", "--cached", "--others", "--exclude-standard"];
    let text = workspace.output(Path::new("git"), &args)?;
    Ok(text.lines().filter(|file| workspace.root.join(file).is_file()).map(str::to_owned).collect())
}

fn has_extension(file: &str, kind: &str) -> bool {
    Path::new(file).extension().is_some_and(|e| e.eq_ignore_ascii_case(kind))
}

/// Words that must not be in a file.
fn words(file: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    let rust = has_extension(file, "rs");
    let this_file = file == "xtask/src/tidy.rs";
    let data = ["/data/", "/tests/golden/", "/tests/figures/", "/templates/"]
        .iter()
        .any(|d| file.contains(d))
        || ["svg", "lock", "csv"].iter().any(|kind| has_extension(file, kind));
    if data || this_file {
        return findings;
    }
    for (at, line) in text.lines().enumerate() {
        let place = format!("{file}:{}", at + 1);
        for root in ["home", "root", "Users", "work"].map(|name| format!("/{name}/")) {
            let found = line.match_indices(root.as_str()).any(|(i, _)| {
                !line[..i].ends_with(|c: char| c.is_alphanumeric() || "-_./}".contains(c))
            });
            if found {
                findings.push(format!("{place}: absolute path `{root}...`"));
            }
        }
        if rust && ["todo", "unimplemented", "dbg"].iter().any(|m| line.contains(&format!("{m}!(")))
        {
            findings.push(format!("{place}: unfinished code"));
        }
        let opts_in = line.contains("allow(unsafe_code") || line.contains("expect(unsafe_code");
        let in_tests =
            file.contains("/tests/") || file.contains("/examples/") || file.contains("/benches/");
        if rust && opts_in && !in_tests && !UNSAFE_PLACES.iter().any(|p| file.starts_with(p)) {
            findings.push(format!("{place}: unsafe code is not allowed here"));
        }
    }
    let lines = text.lines().count();
    if rust && lines > LONG_FILE && !text.lines().take(12).any(|l| l.contains("Long because")) {
        findings
            .push(format!("{file}: {lines} lines and no `Long because ...` in its first comment"));
    }
    findings
}

/// Relative links of a Markdown file lead to something.
fn links(root: &Path, file: &str, text: &str) -> Vec<String> {
    let folder = root.join(file).parent().map(Path::to_path_buf).unwrap_or_default();
    let mut findings = Vec::new();
    for (at, line) in text.lines().enumerate() {
        for piece in line.split("](").skip(1) {
            let Some(target) = piece.split(')').next() else { continue };
            let target = target.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            if !folder.join(target).exists() {
                findings.push(format!("{file}:{}: link to `{target}` leads nowhere", at + 1));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, dependencies: &[(&str, &str)]) -> Member {
        let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (to, kind) in dependencies {
            map.entry((*to).to_owned()).or_default().push((*kind).to_owned());
        }
        Member { name: name.to_owned(), folder: PathBuf::new(), dependencies: map }
    }

    #[test]
    fn arrows_that_are_allowed() {
        let fine = [
            member(
                "mesa-layer",
                &[("tensor-core", "normal"), ("experiments", "dev"), ("tch", "normal")],
            ),
            member("internal-rl", &[("tensor-core", "normal"), ("envs", "normal")]),
            member("experiments", &[("golden", "dev"), ("serde", "normal")]),
        ];
        assert!(fine.iter().all(|m| arrows(m).is_empty()));
    }

    #[test]
    fn arrows_that_are_not() {
        let wrong = [
            member("mesa-layer", &[("model-growth", "normal")]),
            member("mesa-layer", &[("experiments", "normal")]),
            member("envs", &[("tch", "normal")]),
            member("experiments", &[("tensor-core", "dev")]),
            member("xtask", &[("datasets", "normal")]),
            member("tensor-core", &[("envs", "dev")]),
        ];
        assert!(wrong.iter().all(|m| !arrows(m).is_empty()));
    }

    #[test]
    fn words_are_found_with_their_line() {
        // Put together here, so that this file holds none of the words itself.
        let text = format!("fn a() {{}}\nfn b() {{ {}!() }}\n// see /{}/me/x\n", "todo", "home");
        assert_eq!(
            words("crates/x/src/a.rs", &text),
            [
                "crates/x/src/a.rs:2: unfinished code".to_owned(),
                format!("crates/x/src/a.rs:3: absolute path `/{}/...`", "home")
            ]
        );
        let within = format!("docs/{0}/x and https://example.org/{0}/y", "root");
        assert!(words("a.md", &within).is_empty());
    }

    #[test]
    fn a_dead_link_is_found() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("there.md"), "").unwrap();
        let text = "[a](there.md) [b](gone.md#x) [c](https://example.org) [d](#here)";
        assert_eq!(
            links(dir.path(), "README.md", text),
            ["README.md:1: link to `gone.md` leads nowhere"]
        );
    }
}
