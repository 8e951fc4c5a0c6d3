//! Verbs that judge a study before it runs: check, plan, freeze, unseal.

use crate::{
    FINDING, OK,
    args::{Planning, Reading, Unseal},
    make,
    study::{Study, now},
};
use anyhow::Result;
use experiments::{
    plan::{Balance, Cost, Decisions, Stage},
    report::number::duration,
    runner::GitFacts,
    spec::Kind,
    store::seal,
};

/// `exp check`: the file, then the checklist.
pub(crate) fn check(args: &Reading) -> Result<u8> {
    let study = Study::find(&args.which)?;
    let items = make::checklist(&study, None)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&items)?);
    } else {
        for item in &items {
            println!("{:<4} {:<6} {:<14} {}", item.id, item.level, item.verdict, item.item);
            if !item.evidence.is_empty() && item.verdict != "satisfied" {
                println!("{:>26} {}", "", item.evidence);
            }
        }
    }
    if let Some(venue) = &args.venue {
        print!("{}", make::venue_form(&study, venue)?);
    }
    let violated = items.iter().filter(|i| i.verdict == "violated" && i.level == "must").count();
    if violated > 0 {
        eprintln!("{violated} MUST items are violated");
        return Ok(FINDING);
    }
    Ok(OK)
}

/// `exp plan`: what would run, and at most how long.
pub(crate) fn plan(args: &Planning) -> Result<u8> {
    let mut study = Study::find(&args.which)?;
    if args.yes {
        study.spec.max_trials = u64::MAX;
    }
    let jobs = args.jobs.unwrap_or(1);
    let mut stages = Vec::new();
    if study.spec.tuning.is_some() && study.spec.main_stage() == Stage::Main {
        stages.push((Stage::Tune, study.trials(Stage::Tune, &Decisions::default())?));
    }
    let main = study.spec.main_stage();
    let mut untuned = study.spec.clone();
    untuned.tuning = None;
    stages.push((main, experiments::plan::expand(&untuned, main, &Decisions::default())?));
    if args.json {
        let json: Vec<serde_json::Value> = stages
            .iter()
            .map(|(stage, trials)| {
                serde_json::json!({
                    "stage": stage,
                    "bound": Cost::bound(&study.spec, trials.len(), jobs),
                    "balance": Balance::of(trials),
                    "trials": trials,
                })
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&json)?);
        return Ok(OK);
    }
    for (stage, trials) in &stages {
        let bound = Cost::bound(&study.spec, trials.len(), jobs);
        println!("stage {}: {} trials", stage.word(), trials.len());
        let balance = Balance::of(trials);
        for row in &balance.rows {
            println!(
                "  {:<20} {:<20} {:>4} cells {:>6} trials",
                row.method, row.task, row.cells, row.trials
            );
        }
        if !balance.is_paired() {
            println!("  not paired: {} gaps", balance.gaps.len() + balance.seed_mismatches.len());
        }
        println!(
            "  at most {} wall with {jobs} at a time, {} CPU{}",
            duration(bound.wall_s),
            duration(bound.cpu_s),
            bound.memory_mib.map_or_else(String::new, |m| format!(", {m} MiB at once"))
        );
    }
    Ok(OK)
}

/// `exp freeze`.
pub(crate) fn freeze(args: &Reading) -> Result<u8> {
    let study = Study::find(&args.which)?;
    let mut store = study.open()?;
    let git = GitFacts::read(&study.spec.folder);
    let hash = study.spec.spec_hash()?;
    if git.dirty {
        eprintln!("note: the working tree has changes; the frozen revision does not hold them");
    }
    let new = seal::freeze(&mut *store, &hash, git.rev.as_deref(), &study.spec.text, now())?;
    let word = if new { "frozen" } else { "was frozen already" };
    println!(
        "{} {word}: spec {}, revision {}",
        study.words(),
        &hash[..16],
        git.rev.as_deref().unwrap_or("unknown")
    );
    Ok(OK)
}

/// `exp unseal`.
pub(crate) fn unseal(args: &Unseal) -> Result<u8> {
    let study = Study::find(&args.which)?;
    let mut store = study.open_existing()?;
    let confirmatory = study.spec.kind == Kind::Confirmatory;
    seal::unseal(&mut *store, &args.reason, confirmatory, args.without_freeze, now())?;
    let looks = seal::state(&*store)?.unseals.len();
    println!("test values of {} may be shown; looks so far: {looks}", study.words());
    Ok(OK)
}
