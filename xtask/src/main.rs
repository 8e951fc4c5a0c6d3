//! Developer commands: `cargo xtask VERB`.
//!
//! Builds in seconds, depends on no crate of the workspace and starts programs: pip, cargo, and what
//! cargo builds. Every verb that needs libtorch sets it up first.
#![expect(clippy::print_stdout, reason = "a command-line program prints its results")]

mod checks;
mod doctor;
mod libtorch;
mod mujoco;
mod programs;
mod tidy;

use anyhow::{Context, Result, bail};
use programs::Workspace;
use std::{env, process::ExitCode};

const HELP: &str = "\
Usage: cargo xtask VERB [ARGS]

Main verbs
  reproduce [ARGS]      every declared study, then results/index.html (sets libtorch up if needed)
                        e.g. cargo xtask reproduce --only tensor-core --profile laptop
  test [ARGS]           all tests; ARGS go to the test runner, e.g. cargo xtask test -p datasets

Set-up
  setup [--cuda]        install libtorch 2.11.0 into .libtorch (one download, then a no-op)
  setup --mujoco        install MuJoCo 4.0.0 into .mujoco (for the ant worlds; `test` does it too)
  doctor [--env]        what was found; --env prints the variables for programs run outside cargo

Work
  exp ARGS              the experiment engine, e.g. cargo xtask exp check moment-carry
  stats TEST FILE.csv   one statistical test on a CSV file
  data ARGS             datasets, e.g. cargo xtask data list
  bench [CRATE] [ARGS]  criterion benches; ARGS go to cargo bench
  figures ARGS          figures of stored studies, e.g. cargo xtask figures moment-carry
  completions SHELL     shell completions of the experiment engine

Checks
  ci [--no-test]        format, lints, tests, docs, tidy, smoke studies
  tidy                  dependency arrows, READMEs, golden tests, paths, links
";

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn run() -> Result<ExitCode> {
    let mut args = env::args().skip(1);
    let Some(verb) = args.next() else {
        print!("{HELP}");
        return Ok(ExitCode::from(2));
    };
    let rest: Vec<String> = args.collect();
    let workspace = Workspace::find()?;
    match verb.as_str() {
        "help" | "--help" | "-h" => print!("{HELP}"),
        "setup" => setup(&workspace, &rest)?,
        "doctor" => doctor::report(&workspace, rest.iter().any(|a| a == "--env"))?,
        "test" => {
            libtorch::ensure(&workspace)?;
            mujoco::ensure(&workspace)?;
            checks::test(&workspace, &rest)?;
        }
        "ci" => {
            libtorch::ensure(&workspace)?;
            mujoco::ensure(&workspace)?;
            checks::all(&workspace, rest.iter().any(|a| a == "--no-test"))?;
        }
        "tidy" => tidy::check(&workspace)?,
        "reproduce" => {
            libtorch::ensure(&workspace)?;
            return checks::reproduce(&workspace, &rest);
        }
        "exp" => {
            let Some((verb, rest)) = rest.split_first() else {
                return workspace.engine("--help", &[]);
            };
            // Studies of crates over libtorch build their trial program on demand.
            if ["run", "pilot", "replay", "slurm"].contains(&verb.as_str()) {
                libtorch::ensure(&workspace)?;
            }
            return workspace.engine(verb, rest);
        }
        "stats" | "figures" | "completions" => return workspace.engine(&verb, &rest),
        "data" => {
            let mut all = vec!["run", "--quiet", "--package", "datasets", "--bin", "data", "--"];
            all.extend(rest.iter().map(String::as_str));
            return workspace.cargo_code(&all);
        }
        "bench" => {
            libtorch::ensure(&workspace)?;
            checks::bench(&workspace, &rest)?;
        }
        other => bail!("no verb `{other}`; `cargo xtask help` lists them"),
    }
    Ok(ExitCode::SUCCESS)
}

fn setup(workspace: &Workspace, args: &[String]) -> Result<()> {
    let flavour = match args {
        [flag] if flag == "--mujoco" => {
            let library = mujoco::install(workspace).context("set-up of MuJoCo")?;
            println!("MuJoCo {} in {}", mujoco::VERSION, library.display());
            return Ok(());
        }
        [] => libtorch::Flavour::Cpu,
        [flag] if flag == "--cuda" => libtorch::Flavour::Cuda,
        _ => bail!("setup takes nothing, `--cuda` or `--mujoco`, found {args:?}"),
    };
    let found = libtorch::install(workspace, flavour).context("set-up of libtorch")?;
    println!("libtorch {} ({}) in {}", libtorch::VERSION, found.flavour, found.root.display());
    Ok(())
}
