//! `exp`: declare, check, plan, pilot, freeze, run, watch, analyse and report experiments.
#![expect(clippy::print_stdout, reason = "a command-line program prints its results")]

mod args;
mod check;
mod look;
mod make;
mod move_data;
mod place;
mod reproduce;
mod run;
mod slurm;
mod study;

use anyhow::Result;
use args::{Cli, Verb};
use clap::{CommandFactory, Parser};
use std::process::ExitCode;

/// Everything went well.
pub(crate) const OK: u8 = 0;
/// Something was found: a violated item, a regression, a difference.
pub(crate) const FINDING: u8 = 1;
/// Wrong usage, or a file that is not valid.
pub(crate) const USAGE: u8 = 2;
/// The store is locked or was refused.
pub(crate) const STORE: u8 = 4;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run_verb(cli.verb) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            let code = if error.downcast_ref::<experiments::store::StoreError>().is_some() {
                STORE
            } else {
                USAGE
            };
            eprintln!("error: {error:#}");
            ExitCode::from(code)
        }
    }
}

fn run_verb(verb: Verb) -> Result<u8> {
    match verb {
        Verb::List(a) => look::list(&a),
        Verb::New(a) => make::new(&a),
        Verb::Check(a) => check::check(&a),
        Verb::Plan(a) => check::plan(&a),
        Verb::Pilot(a) => run::pilot(&a),
        Verb::Freeze(a) => check::freeze(&a),
        Verb::Unseal(a) => check::unseal(&a),
        Verb::Run(a) => run::run(&a),
        Verb::Status(a) => look::status(&a),
        Verb::Trials(a) => look::trials(&a),
        Verb::Logs(a) => look::logs(&a),
        Verb::Replay(a) => run::replay(&a),
        Verb::Shell(a) => run::shell(&a),
        Verb::Retry(a) => run::retry(&a),
        Verb::Stats(a) => make::stats(&a),
        Verb::Figures(a) => make::figures(&a),
        Verb::Report(a) => make::report(&a),
        Verb::Compare(a) => make::compare(&a),
        Verb::Export(a) => move_data::export(&a),
        Verb::Import(a) => move_data::import(&a),
        Verb::Backup(a) => move_data::backup(&a),
        Verb::Merge(a) => move_data::merge(&a),
        Verb::Gc(a) => move_data::gc(&a),
        Verb::Slurm(a) => slurm::slurm(&a),
        Verb::Reproduce(a) => reproduce::reproduce(&a),
        Verb::Schema => make::schema(),
        Verb::Doctor => look::doctor(),
        Verb::Completions(a) => {
            clap_complete::generate(a.shell, &mut Cli::command(), "exp", &mut std::io::stdout());
            Ok(OK)
        }
        Verb::Man => {
            clap_mangen::Man::new(Cli::command()).render(&mut std::io::stdout())?;
            Ok(OK)
        }
    }
}
