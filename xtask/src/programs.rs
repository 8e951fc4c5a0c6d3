//! The workspace folder and the programs started in it.

use anyhow::{Context, Result, bail};
use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

/// The root folder, where every program is started.
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
}

impl Workspace {
    /// Finds the root from where xtask was built; `XTASK_ROOT` names another one for tests.
    pub(crate) fn find() -> Result<Self> {
        let root = if let Some(root) = env::var_os("XTASK_ROOT") {
            PathBuf::from(root)
        } else {
            let here = env::var_os("CARGO_MANIFEST_DIR")
                .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
            here.parent().context("the xtask folder has no parent")?.to_path_buf()
        };
        Ok(Self { root })
    }

    /// Runs cargo and fails when it does.
    pub(crate) fn cargo<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<()> {
        self.run(&cargo_program(), args)
    }

    /// Runs cargo and passes its exit code on.
    pub(crate) fn cargo_code<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<ExitCode> {
        let status = self.command(&cargo_program(), args).status().context("start cargo")?;
        Ok(ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1)))
    }

    /// Runs the experiment engine and passes its exit code on.
    ///
    /// It is selected as the tests select it, the whole workspace with an example: with the features
    /// of its own package alone cargo would compile most dependencies a second time.
    pub(crate) fn engine(&self, verb: &str, rest: &[String]) -> Result<ExitCode> {
        let selection = ["--workspace", "--bin", "exp", "--example", "toy_trial"];
        let build =
            [&["build"][..], &selection, &["--message-format=json-render-diagnostics"]].concat();
        let out = self
            .command(&cargo_program(), &build)
            .stderr(Stdio::inherit())
            .output()
            .context("start cargo")?;
        if !out.status.success() {
            bail!("the experiment engine does not build: `cargo {}`", build.join(" "));
        }
        let program = String::from_utf8_lossy(&out.stdout)
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|message| message["target"]["name"] == "exp")
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .context("cargo built `exp` but named no program")?;
        let status = self.command::<&str>(&program, &[]).arg(verb).args(rest).status();
        let status = status.with_context(|| format!("start {}", program.display()))?;
        Ok(ExitCode::from(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1)))
    }

    /// Runs a program in the root folder and fails when it does.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, program: &Path, args: &[S]) -> Result<()> {
        let line = line_of(program, args);
        eprintln!("+ {line}");
        let status = self
            .command(program, args)
            .status()
            .with_context(|| format!("cannot start `{}`", program.display()))?;
        if !status.success() {
            bail!("`{line}` ended with {status}");
        }
        Ok(())
    }

    /// Standard output of a program that must succeed.
    pub(crate) fn output<S: AsRef<OsStr>>(&self, program: &Path, args: &[S]) -> Result<String> {
        let out = self
            .command(program, args)
            .stderr(Stdio::piped())
            .output()
            .with_context(|| format!("cannot start `{}`", program.display()))?;
        if !out.status.success() {
            bail!(
                "`{}` ended with {}: {}",
                line_of(program, args),
                out.status,
                String::from_utf8_lossy(&out.stderr).trim()
            );
        }
        String::from_utf8(out.stdout).context("output is not UTF-8")
    }

    /// Whether `program args` starts and succeeds.
    pub(crate) fn has<S: AsRef<OsStr>>(&self, program: &Path, args: &[S]) -> bool {
        self.command(program, args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    }

    fn command<S: AsRef<OsStr>>(&self, program: &Path, args: &[S]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(&self.root);
        // xtask itself runs under cargo; what it starts must not take xtask for its own package.
        for (name, _) in env::vars_os() {
            let inherited = name.to_str().is_some_and(|n| {
                n.starts_with("CARGO_PKG_")
                    || n.starts_with("CARGO_MANIFEST_")
                    || n == "CARGO_CRATE_NAME"
            });
            if inherited {
                command.env_remove(name);
            }
        }
        command
    }
}

/// The cargo that started xtask.
pub(crate) fn cargo_program() -> PathBuf {
    env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

fn line_of<S: AsRef<OsStr>>(program: &Path, args: &[S]) -> String {
    let mut line =
        program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    for arg in args {
        line.push(' ');
        line.push_str(&arg.as_ref().to_string_lossy());
    }
    line
}
