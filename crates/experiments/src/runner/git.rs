//! Facts about the code's revision, by the `git` program; none where it or a repository is missing.

use crate::store::backup::hex;
use sha2::{Digest, Sha256};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// State of a working tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitFacts {
    /// Commit.
    pub rev: Option<String>,
    /// Branch; `None` when detached.
    pub branch: Option<String>,
    /// Changed or untracked files, ignored ones aside.
    pub dirty: bool,
    /// Changes against the commit as a patch.
    pub diff: Vec<u8>,
}

fn git(folder: &Path, args: &[&str]) -> Option<Vec<u8>> {
    let output = Command::new("git")
        .arg("-C")
        .arg(folder)
        .args(args)
        // Reading must not take the index lock from under the user's own git.
        .env("GIT_OPTIONAL_LOCKS", "0")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output.status.success().then_some(output.stdout)
}

fn line(folder: &Path, args: &[&str]) -> Option<String> {
    let text = String::from_utf8(git(folder, args)?).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

impl GitFacts {
    /// Facts of the working tree that holds `folder`.
    pub fn read(folder: &Path) -> Self {
        let Some(rev) = line(folder, &["rev-parse", "HEAD"]) else { return Self::default() };
        let dirty = line(folder, &["status", "--porcelain"]).is_some();
        Self {
            rev: Some(rev),
            branch: line(folder, &["symbolic-ref", "--short", "-q", "HEAD"]),
            dirty,
            diff: if dirty {
                git(folder, &["diff", "--binary", "HEAD"]).unwrap_or_default()
            } else {
                Vec::new()
            },
        }
    }

    /// Saves the diff as `diffs/SHA256.patch` below `root`; `None` when there is none.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save_diff(&self, root: &Path) -> std::io::Result<Option<String>> {
        if self.diff.is_empty() {
            return Ok(None);
        }
        let sha = hex(&Sha256::digest(&self.diff));
        let folder = root.join("diffs");
        fs::create_dir_all(&folder)?;
        let path = folder.join(format!("{sha}.patch"));
        if !path.exists() {
            fs::write(&path, &self.diff)?;
        }
        Ok(Some(sha))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_clean_then_dirty_and_no_tree_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(GitFacts::read(folder.path()), GitFacts::default());
        let run = |args: &[&str]| {
            let mut all = vec![
                "-c",
                "user.name=t",
                "-c",
                "user.email=t@example.org",
                "-c",
                "commit.gpgsign=false",
            ];
            all.extend(args);
            git(folder.path(), &all)
        };
        if run(&["init", "-q", "-b", "trunk"]).is_none() {
            return; // no git on this machine: the fallback above is what was to be seen
        }
        fs::write(folder.path().join("a"), "1\n").unwrap();
        run(&["add", "a"]).unwrap();
        run(&["commit", "-q", "-m", "a"]).unwrap();
        let clean = GitFacts::read(folder.path());
        assert_eq!(clean.rev.as_ref().unwrap().len(), 40);
        assert_eq!(clean.branch.as_deref(), Some("trunk"));
        assert!(!clean.dirty && clean.save_diff(folder.path()).unwrap().is_none());
        fs::write(folder.path().join("a"), "2\n").unwrap();
        let dirty = GitFacts::read(folder.path());
        assert!(dirty.dirty);
        let sha = dirty.save_diff(folder.path()).unwrap().unwrap();
        assert!(folder.path().join("diffs").join(format!("{sha}.patch")).is_file());
    }
}
