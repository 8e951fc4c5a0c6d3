//! A new study: a complete experiment file, a split file and a trial program (`exp new`).

use crate::identity::IdentityError;
use std::path::PathBuf;

/// A file of a new study.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScaffoldFile {
    /// Path relative to the root of the project.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
}

const EXPERIMENT: &str = include_str!("scaffold/experiment.toml");
const SPLIT: &str = include_str!("scaffold/split.toml");
const TRIAL: &str = include_str!("scaffold/trial.rs.txt");
const TRIAL_PY: &str = include_str!("scaffold/trial.py");

/// Files of a new study.
///
/// With a crate: `crates/<crate>/studies/<name>/experiment.toml` and the trial program
/// `crates/<crate>/examples/<name>_trial.rs`. Without: `studies/<name>/experiment.toml` and a trial
/// program in Python, as an example of any other language.
///
/// The study is valid as it is and runs in seconds, so that everything can be tried before a line
/// is changed. Nothing is written here; the caller decides about files that exist.
///
/// # Errors
/// When the name does not fit `[a-z0-9][a-z0-9-]*`, or the crate's name is no crate name.
pub fn scaffold(name: &str, crate_name: Option<&str>) -> Result<Vec<ScaffoldFile>, IdentityError> {
    let fits = |text: &str, extra: &str| {
        text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && text.len() <= 64
            && text
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || extra.contains(c))
    };
    if !fits(name, "-") {
        return Err(IdentityError::Form(format!(
            "study name: expected [a-z0-9][a-z0-9-]* of at most 64 letters, found {name:?}"
        )));
    }
    if let Some(package) = crate_name.filter(|package| !fits(package, "-_")) {
        return Err(IdentityError::Form(format!(
            "crate name: expected [a-z0-9][a-z0-9_-]*, found {package:?}"
        )));
    }
    let example = format!("{}_trial", name.replace('-', "_"));
    let (folder, program, owner, trial) = match crate_name {
        Some(package) => (
            PathBuf::from(format!("crates/{package}/studies/{name}")),
            format!("program = {{ package = \"{package}\", example = \"{example}\" }}"),
            format!("crate = \"{package}\"\n"),
            ScaffoldFile {
                path: PathBuf::from(format!("crates/{package}/examples/{example}.rs")),
                text: TRIAL.replace("@NAME@", name),
            },
        ),
        None => {
            let folder = PathBuf::from(format!("studies/{name}"));
            let path = folder.join("trial.py");
            (
                folder,
                "program = { command = [\"python3\", \"trial.py\"] }".to_owned(),
                String::new(),
                ScaffoldFile { path, text: TRIAL_PY.to_owned() },
            )
        }
    };
    let experiment = EXPERIMENT
        .replace("@NAME@", name)
        .replace("@CRATE@", &owner)
        .replace("@PROGRAM@", &program);
    Ok(vec![
        ScaffoldFile { path: folder.join("experiment.toml"), text: experiment },
        ScaffoldFile { path: folder.join("data.split.toml"), text: SPLIT.to_owned() },
        trial,
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{FULL, load};

    #[test]
    fn a_new_study_is_valid_under_every_profile() {
        for crate_name in [None, Some("model-growth")] {
            let root = tempfile::tempdir().unwrap();
            let files = scaffold("my-study", crate_name).unwrap();
            for file in &files {
                let path = root.path().join(&file.path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, &file.text).unwrap();
                assert!(!file.text.contains('@'), "{}", file.path.display());
            }
            for profile in [FULL, "smoke", "pilot"] {
                let spec = load(root.path().join(&files[0].path), profile).unwrap();
                assert_eq!(spec.id, "my-study");
                assert_eq!(spec.warnings, []);
                assert_eq!(spec.crate_name.as_deref(), crate_name);
            }
        }
    }

    #[test]
    fn names_that_would_leave_the_folder_are_refused() {
        for name in ["", "../up", "A", "a b", "-x", "a/b"] {
            assert!(scaffold(name, None).is_err(), "{name}");
            assert!(name.is_empty() || scaffold("x", Some(name)).is_err(), "{name}");
        }
    }
}
