//! `exp reproduce`: every declared study of the workspace, then the index page.

use crate::{
    OK,
    args::{Backup, OneTrial, Reporting, Reproduce, Running, Which},
    make, move_data, run,
    study::{Study, all_files, results_folder},
};
use anyhow::Result;
use experiments::{report::index, store::record::Status};
use std::{collections::BTreeSet, time::Instant};

/// Runs and reports all studies under one profile; a study that fails does not stop the others.
pub(crate) fn reproduce(args: &Reproduce) -> Result<u8> {
    let start = Instant::now();
    let mut failed = Vec::new();
    let mut done = 0;
    for file in all_files() {
        let which =
            Which { name: file.display().to_string(), profile: args.profile.clone(), store: None };
        let study = match Study::find(&which) {
            Ok(study) => study,
            Err(error) => {
                eprintln!("{}: {error:#}", file.display());
                failed.push(file.display().to_string());
                continue;
            }
        };
        let owner = study.spec.crate_name.clone().unwrap_or_default();
        if args.only.as_ref().is_some_and(|only| *only != owner && *only != study.spec.id) {
            continue;
        }
        eprintln!("== {} ({owner}), profile {}", study.spec.id, args.profile);
        match one(&which, args) {
            Ok(()) => done += 1,
            Err(error) => {
                eprintln!("{}: {error:#}", study.spec.id);
                failed.push(study.spec.id);
            }
        }
    }
    let results = results_folder();
    index::write(&results, &make::cards(&results)?)?;
    println!("{}", results.join("index.html").display());
    eprintln!("{done} studies in {:.0} s", start.elapsed().as_secs_f64());
    if args.profile == "smoke" {
        eprintln!(
            "smoke runs show that everything works, not what holds: `cargo xtask reproduce --profile laptop` runs the studies at the size of the published figures"
        );
    }
    anyhow::ensure!(failed.is_empty(), "these studies failed: {}", failed.join(", "));
    anyhow::ensure!(done > 0, "no study matched");
    Ok(OK)
}

fn one(which: &Which, args: &Reproduce) -> Result<()> {
    let running = Running {
        which: which.clone(),
        jobs: args.jobs,
        filter: None,
        max_trials: None,
        time_limit: None,
        order: None,
        pin: false,
        allow_mixed: false,
        dirty: false,
        yes: false,
        new_version: false,
        json: false,
        dry_run: false,
        worker: false,
        shard: None,
        group_by_rep: false,
        quiet: false,
    };
    if args.profile != "smoke" {
        // The order that the checklist asks for: pilot, freeze, run, probe, look.
        let study = Study::find(which)?;
        let fresh = study.find_store()?.is_none();
        if fresh {
            run::pilot(&running)?;
            crate::check::freeze(&crate::args::Reading {
                which: which.clone(),
                json: false,
                venue: None,
            })?;
        }
    }
    let code = run::run(&running)?;
    anyhow::ensure!(code == OK || code == 3, "the run ended with code {code}");
    if args.profile != "smoke" {
        let study = Study::find(which)?;
        toy(&study, &running)?;
        probe(&study)?;
        let mut store = study.open_existing()?;
        let looked = !experiments::store::seal::state(&*store)?.unseals.is_empty();
        if !looked && !study.spec.sealed_metrics().is_empty() {
            let confirmatory = study.spec.kind == experiments::spec::Kind::Confirmatory;
            experiments::store::seal::unseal(
                &mut *store,
                "all trials of the frozen plan finished",
                confirmatory,
                false,
                crate::study::now(),
            )?;
        }
    }
    make::report(&Reporting {
        which: which.clone(),
        latex: false,
        venue: None,
        no_time: false,
        png: false,
    })?;
    if args.profile == "smoke" { all_ran(which) } else { Ok(()) }
}

/// A failure is a result of a study, but of a smoke run, which is there to find it, an error.
fn all_ran(which: &Which) -> Result<()> {
    let study = Study::find(which)?;
    let stage = study.spec.main_stage();
    let trials = study.open_existing()?.trials()?;
    let failed = trials
        .iter()
        .filter(|t| t.stage == stage && !t.retired && t.status.finished() && t.status != Status::Ok)
        .map(|t| format!("{} ({})", t.method, t.status.word()))
        .collect::<BTreeSet<_>>();
    anyhow::ensure!(
        failed.is_empty(),
        "trials failed: {}; `exp trials {}` and `exp logs` say more",
        failed.into_iter().collect::<Vec<_>>().join(", "),
        study.words()
    );
    Ok(())
}

/// The toy version beside the real one, so that its time is on record (checklist R5).
fn toy(study: &Study, running: &Running) -> Result<()> {
    if !study.spec.profiles.iter().any(|name| name == "smoke") {
        return Ok(());
    }
    let which = Which {
        name: running.which.name.clone(),
        profile: "smoke".to_owned(),
        store: Some(study.place.clone()),
    };
    let code = run::run(&Running { which, ..running.clone() })?;
    anyhow::ensure!(code == OK || code == 3, "the smoke run ended with code {code}");
    Ok(())
}

/// Replays two trials of different methods (E11) and copies the store (E12), once per change.
fn probe(study: &Study) -> Result<()> {
    let store = study.open_existing()?;
    let stage = study.spec.main_stage();
    let mut replayed = store.events()?.iter().filter(|e| e.kind == "replay").count();
    let mut methods = BTreeSet::new();
    let which = Which {
        name: study.file.display().to_string(),
        profile: study.spec.profile.clone(),
        store: Some(study.place.clone()),
    };
    for trial in store.trials()?.into_iter().filter(|t| t.stage == stage && !t.retired) {
        if replayed >= 2 {
            break;
        }
        if trial.status == Status::Ok && methods.insert(trial.method) {
            let key = trial.key.0;
            run::replay(&OneTrial { which: which.clone(), key, tolerance: 1e-6 })?;
            replayed += 1;
        }
    }
    let last = store.attempts()?.iter().map(|a| a.ended_at).max().unwrap_or(0);
    if !store.events()?.iter().any(|e| e.kind == "backup" && e.at >= last) {
        move_data::backup(&Backup { which, to: None })?;
    }
    Ok(())
}
