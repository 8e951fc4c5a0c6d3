//! What is installed and what the programs would find.

use crate::{libtorch, programs::Workspace};
use anyhow::Result;
use std::{path::Path, thread};

/// Prints the facts that a bug report needs; `variables` prints shell lines instead.
pub(crate) fn report(workspace: &Workspace, variables: bool) -> Result<()> {
    let found = match libtorch::foreign(workspace) {
        Ok(Some(found)) => Some(found),
        Ok(None) => libtorch::installed(workspace),
        Err(error) => {
            println!("libtorch      {error:#}");
            None
        }
    };
    if variables {
        let Some(found) = found else { anyhow::bail!("no libtorch yet: run `cargo xtask setup`") };
        println!("export LIBTORCH={}", found.root.display());
        println!("export LD_LIBRARY_PATH={}/lib:$LD_LIBRARY_PATH", found.root.display());
        return Ok(());
    }
    match &found {
        Some(f) => {
            println!("libtorch      {} ({}) in {}", libtorch::VERSION, f.flavour, f.root.display());
        }
        None => println!("libtorch      none yet: run `cargo xtask setup`"),
    }
    let programs: [(&str, &str, &[&str]); 6] = [
        ("rustc", "rustc", &["--version"]),
        ("C++ compiler", "c++", &["--version"]),
        ("python3", "python3", &["--version"]),
        ("pip", "python3", &["-m", "pip", "--version"]),
        ("nextest", "cargo", &["nextest", "--version"]),
        ("cargo-deny", "cargo", &["deny", "--version"]),
    ];
    for (label, program, args) in programs {
        let text = workspace.output(Path::new(program), args).unwrap_or_default();
        let line = text.lines().next().unwrap_or("not found");
        println!("{label:<13} {line}");
    }
    println!("cores         {}", thread::available_parallelism().map_or(1, usize::from));
    for name in
        ["LIBTORCH", "LIBTORCH_USE_PYTORCH", "RUSTFLAGS", "CARGO_TARGET_DIR", "LD_LIBRARY_PATH"]
    {
        if let Some(value) = std::env::var_os(name) {
            println!("{name:<13} {}", value.to_string_lossy());
        }
    }
    if std::env::var_os("RUSTFLAGS").is_some() {
        println!(
            "note: RUSTFLAGS replaces the run path of .cargo/config.toml; start programs through cargo"
        );
    }
    if let Some(found) = &found {
        let cuda = found.root.join("lib/libtorch_cuda.so").exists();
        println!("CUDA library  {}", if cuda { "there" } else { "not there" });
    }
    Ok(())
}
