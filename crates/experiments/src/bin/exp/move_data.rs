//! Verbs that move data: export, import, backup, merge, gc.

use crate::{
    OK,
    args::{Backup, Export, Gc, Import, Merge},
    study::{Study, now},
};
use anyhow::{Context, Result};
use experiments::store::{SqliteStore, backup, export, import, merge};
use std::{fs, path::Path};

/// `exp export`.
pub(crate) fn export(args: &Export) -> Result<u8> {
    let study = Study::find(&args.which)?;
    let store = study.open_existing()?;
    fs::create_dir_all(&args.to).with_context(|| format!("make {}", args.to.display()))?;
    for file in export::write(&store, &args.to)? {
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
    let counts = import::import(&mut store, &study.spec.id, &text, now())?;
    println!("{} trials added, {} known before", counts.added, counts.known);
    Ok(OK)
}

/// `exp backup`.
pub(crate) fn backup(args: &Backup) -> Result<u8> {
    let study = Study::find(&args.which)?;
    let mut store = study.open_existing()?;
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

/// `exp merge`.
pub(crate) fn merge(args: &Merge) -> Result<u8> {
    let study = Study::find(&args.which)?;
    let mut target = study.open()?;
    for path in &args.sources {
        let source = SqliteStore::open_existing(path)?;
        let counts = merge::merge(&mut target, &source, now())?;
        let from = path.parent().unwrap_or(Path::new("."));
        let files = merge::copy_files(from, &study.folder())?;
        println!(
            "{}: {} attempts added, {} known, {} trials settled, {files} files copied",
            path.display(),
            counts.added,
            counts.known,
            counts.settled
        );
    }
    Ok(OK)
}

/// `exp gc`.
pub(crate) fn gc(args: &Gc) -> Result<u8> {
    let study = Study::find(&args.which)?;
    let store = study.open_existing()?;
    let facts = backup::gc(&store, &study.folder(), args.dry_run)?;
    for folder in &facts.folders {
        println!("{}", folder.display());
    }
    let word = if args.dry_run { "would be freed" } else { "freed" };
    println!("{} folders, {} bytes {word}", facts.folders.len(), facts.bytes);
    Ok(OK)
}
