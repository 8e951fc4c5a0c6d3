//! Verbs that move data: export, import, backup, merge, gc.

use crate::{
    OK,
    args::{Backup, Export, Gc, Import, Merge},
    place::Place,
    study::{Study, now},
};
use anyhow::{Context, Result, bail};
use experiments::{
    slurm,
    store::{SqliteStore, backup, export, import, merge},
};
use std::{fs, path::Path};

/// `exp export`.
pub(crate) fn export(args: &Export) -> Result<u8> {
    let study = Study::find(&args.which)?;
    let store = study.open_existing()?;
    fs::create_dir_all(&args.to).with_context(|| format!("make {}", args.to.display()))?;
    for file in export::write(&*store, &args.to)? {
        println!("{}", args.to.join(file).display());
    }
    Ok(OK)
}

/// `exp import`.
pub(crate) fn import(args: &Import) -> Result<u8> {
    let study = Study::find(&args.which)?;
    let text =
        fs::read_to_string(&args.csv).with_context(|| format!("read {}", args.csv.display()))?;
    let mut store = study.open()?;
    let counts = import::import(&mut *store, &study.spec.id, &text, now())?;
    println!("{} trials added, {} known before", counts.added, counts.known);
    Ok(OK)
}

/// `exp backup`.
pub(crate) fn backup(args: &Backup) -> Result<u8> {
    let study = Study::find(&args.which)?;
    study.open_existing()?;
    let mut store = SqliteStore::open_existing(study.place.file("backup")?)?;
    let at = now();
    let to =
        args.to.clone().unwrap_or_else(|| study.folder().join("backups").join(format!("{at}.db")));
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let facts = backup::backup(&mut store, &to, at)?;
    println!("{} ({} bytes)", facts.path.display(), facts.bytes);
    Ok(OK)
}

/// `exp merge`: the named stores, or every part of a Slurm array.
pub(crate) fn merge(args: &Merge) -> Result<u8> {
    let study = Study::find(&args.which)?;
    let mut sources = args.sources.clone();
    if sources.is_empty() {
        sources = slurm::part_files(&study.folder())
            .with_context(|| format!("read {}", study.folder().join("shards").display()))?;
        if sources.is_empty() {
            bail!(
                "{}: expected parts with a store.db, found none; name the stores to merge",
                study.folder().join("shards").display()
            );
        }
    }
    // All of them are looked at before anything is written, so that a bad one changes nothing.
    let target_file = match &study.place {
        Place::File(path) => fs::canonicalize(path).ok(),
        Place::Server(_) => None,
    };
    for path in &sources {
        if target_file.is_some() && fs::canonicalize(path).ok() == target_file {
            bail!("{}: expected another store than the one to merge into", path.display());
        }
        slurm::open_part(path)?;
    }
    let mut target = study.open()?;
    for path in &sources {
        let source = slurm::open_part(path)?;
        let counts = merge::merge(&mut *target, &*source, now())?;
        let from = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let files = merge::copy_files(from, &study.folder())?;
        println!(
            "{}: {} attempts added, {} known, {} trials settled, {files} files copied",
            path.display(),
            counts.added,
            counts.known,
            counts.settled
        );
    }
    let open = target.trials()?.iter().filter(|t| !t.retired && !t.status.finished()).count();
    if open > 0 {
        eprintln!("{open} trials are open: their parts have not ended, or were not merged");
    }
    Ok(OK)
}

/// `exp gc`.
pub(crate) fn gc(args: &Gc) -> Result<u8> {
    let study = Study::find(&args.which)?;
    let store = study.open_existing()?;
    let facts = backup::gc(&*store, &study.folder(), args.dry_run)?;
    for folder in &facts.folders {
        println!("{}", folder.display());
    }
    let word = if args.dry_run { "would be freed" } else { "freed" };
    println!("{} folders, {} bytes {word}", facts.folders.len(), facts.bytes);
    Ok(OK)
}
