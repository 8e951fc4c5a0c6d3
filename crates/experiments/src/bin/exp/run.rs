//! Verbs that run trials.

use crate::{
    FINDING, OK,
    args::{OneTrial, OrderWord, Retry, Running, Which},
    place::masked,
    study::{Study, now},
};
use anyhow::{Context, Result, bail};
use experiments::{
    identity::TrialKey,
    plan::{PlannedTrial, Stage},
    report::number::duration,
    runner::{
        self, Observer, RunOptions, RunSummary, Shard, StopSignal,
        forecast::{ForecastOptions, forecast},
        progress::{Bars, JsonLines, Lines},
    },
    spec::Order,
    store::{
        Store,
        record::{EventRecord, Status, TrialRow},
    },
};
use serde_json::json;
use std::{io::IsTerminal, time::Duration};

/// `exp run`: the search for hyper-parameters first where the spec declares one, then the trials.
pub(crate) fn run(args: &Running) -> Result<u8> {
    let mut study = Study::find(&args.which)?;
    prepare(&mut study, args);
    let stage = study.spec.main_stage();
    let mut store = study.open()?;
    guard_changes(&study, &mut *store, args)?;
    if study.spec.tuning.is_some() && stage == Stage::Main {
        let trials = study.trials(Stage::Tune, &experiments::plan::Decisions::default())?;
        let open = open_trials(&*store, &trials)?;
        if open > 0 && !args.dry_run {
            eprintln!("stage tune: {open} of {} trials to run", trials.len());
            let summary = run_stage(&study, &mut *store, Stage::Tune, trials, args)?;
            if summary.interrupted {
                return Ok(summary.exit_code());
            }
            // Part of a search would choose differently from the whole one. With --shard the
            // other parts must be merged first.
            let trials = study.trials(Stage::Tune, &experiments::plan::Decisions::default())?;
            let open = open_trials(&*store, &trials)?;
            if open > 0 {
                eprintln!("{open} trials of stage tune are open; stage main waits for them");
                return Ok(summary.exit_code());
            }
        }
    }
    let decisions = study.decisions(&*store)?;
    for chosen in &decisions.tuned {
        tracing::info!(method = chosen.method, ?chosen.values, "tuned");
    }
    let trials = study.trials(stage, &decisions)?;
    if args.dry_run {
        let open = open_trials(&*store, &trials)?;
        println!("{open} of {} trials of stage {} are to run", trials.len(), stage.word());
        return Ok(OK);
    }
    let summary = run_stage(&study, &mut *store, stage, trials, args)?;
    if summary.interrupted || stage != Stage::Main || study.spec.ablation.is_none() {
        return Ok(summary.exit_code());
    }
    Ok(summary.exit_code().max(ablate(&study, &mut *store, decisions, args)?))
}

/// The ablation stage. The cells of a step of a long path follow from the results of the step
/// before.
fn ablate(
    study: &Study,
    store: &mut dyn Store,
    mut decisions: experiments::plan::Decisions,
    args: &Running,
) -> Result<u8> {
    use experiments::analysis::{Results, ablation, censoring};
    let flipped = |store: &dyn Store| -> Result<Vec<String>> {
        let results = Results::load(store, study.spec.clone())?;
        Ok(ablation::flipped(&results, censoring(&results))?)
    };
    decisions.flipped = flipped(store)?;
    loop {
        let trials = study.trials(Stage::Ablation, &decisions)?;
        eprintln!(
            "stage ablation: {} of {} trials to run",
            open_trials(store, &trials)?,
            trials.len()
        );
        let summary = run_stage(study, store, Stage::Ablation, trials, args)?;
        let next = flipped(store)?;
        if summary.interrupted || next.len() <= decisions.flipped.len() {
            return Ok(summary.exit_code());
        }
        decisions.flipped = next;
    }
}

/// `exp pilot`: short trials, then what the full run will cost.
pub(crate) fn pilot(args: &Running) -> Result<u8> {
    let full = Study::find(&args.which)?;
    let mut which = args.which.clone();
    "pilot".clone_into(&mut which.profile);
    which.store = Some(full.place.clone());
    let mut study = Study::find(&which)?;
    let args = Running { dirty: true, allow_mixed: true, which, ..args.clone() };
    prepare(&mut study, &args);
    let mut store = study.open()?;
    let trials = study.trials(Stage::Pilot, &experiments::plan::Decisions::default())?;
    let summary = run_stage(&study, &mut *store, Stage::Pilot, trials, &args)?;
    if summary.interrupted {
        return Ok(summary.exit_code());
    }
    let main = full.spec.main_stage();
    // Before the search has run, the cost of the plan is that of its cells, whatever is chosen.
    let mut untuned = full.spec.clone();
    untuned.tuning = None;
    let planned =
        experiments::plan::expand(&untuned, main, &experiments::plan::Decisions::default())?;
    let tuned = match &full.spec.tuning {
        Some(_) => full.trials(Stage::Tune, &experiments::plan::Decisions::default())?.len(),
        None => 0,
    };
    let options = ForecastOptions {
        budget_ratio: full.spec.budget.amount / study.spec.budget.amount,
        jobs: args.jobs.unwrap_or(1),
        resamples: 1000,
        seed: 0,
    };
    let cost = forecast(&*store, Stage::Pilot, &planned, &study.folder(), options)?;
    let results = experiments::analysis::Results::load(&*store, study.spec.clone())?;
    let repetitions = experiments::analysis::pilot::recommend(&results, &full.spec)?;
    let mut detail = serde_json::to_value(&cost)?;
    detail["repetitions"] = serde_json::to_value(&repetitions)?;
    detail["suggested_repetitions"] =
        serde_json::to_value(experiments::analysis::pilot::overall(&repetitions))?;
    store.append_event(&EventRecord {
        at: now(),
        session_id: summary.session_id.clone(),
        kind: "pilot".to_owned(),
        detail_json: detail.clone(),
    })?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&detail)?);
    } else {
        let hours = |p: &runner::forecast::Predicted| {
            let of = |h: f64| duration(h * 3600.0);
            format!("{} [{}, {}]", of(p.value), of(p.low), of(p.high))
        };
        println!(
            "{} pilot trials; the full run has {} trials (and {tuned} tuning trials beside)",
            cost.pilot_trials, cost.trials
        );
        println!(
            "wall  {}   (90% interval, {} at a time)",
            hours(&cost.wall_hours),
            args.jobs.unwrap_or(1)
        );
        println!("CPU   {}", hours(&cost.cpu_hours));
        println!("disk  {:.1} MiB", cost.disk_bytes.value / f64::from(1 << 20));
        for (method, (rate, n)) in &cost.failure_rate {
            println!("failed {method}: {:.0}% of {n}", rate * 100.0);
        }
        for line in repetitions.iter().flat_map(experiments::analysis::pilot::Recommendation::lines)
        {
            println!("{line}");
        }
    }
    Ok(summary.exit_code())
}

/// `exp replay`.
pub(crate) fn replay(args: &OneTrial) -> Result<u8> {
    let study = Study::find(&args.which)?;
    let store = study.open_existing()?;
    let row = by_prefix(&*store, &args.key)?;
    let study = under_its_profile(study, &row)?;
    let program = study.program(row.stage)?;
    let plan = study.run_plan(row.stage, Vec::new(), program)?;
    let scratch = study.folder().join("replay").join(&row.key.0);
    std::fs::create_dir_all(&scratch)?;
    let facts = runner::replay::replay(&*store, &plan, &row, args.tolerance, &scratch)?;
    let mut store = store;
    store.append_event(&EventRecord {
        at: now(),
        session_id: None,
        kind: "replay".to_owned(),
        detail_json: json!({"trial_key": row.key, "agrees": facts.agrees(), "facts": facts}),
    })?;
    println!("before {}, after {}", facts.before.word(), facts.after.word());
    for m in &facts.metrics {
        let word = match (m.identical, m.within) {
            (true, _) => "identical",
            (_, true) => "within tolerance",
            _ => "DIFFERENT",
        };
        println!("{:<20} {word}", m.name);
    }
    println!("curves {}", if facts.points_identical { "identical" } else { "different" });
    Ok(if facts.agrees() { OK } else { FINDING })
}

/// The study under the profile that the trial ran with: a pilot trial has the pilot's budget.
fn under_its_profile(study: Study, row: &TrialRow) -> Result<Study> {
    let profile = match row.stage {
        Stage::Pilot | Stage::Smoke => row.stage.word(),
        _ => return Ok(study),
    };
    if study.spec.profile == profile {
        return Ok(study);
    }
    Study::find(&Which {
        name: study.file.display().to_string(),
        profile: profile.to_owned(),
        store: Some(study.place),
    })
}

/// `exp shell`.
pub(crate) fn shell(args: &OneTrial) -> Result<u8> {
    let study = Study::find(&args.which)?;
    let store = study.open_existing()?;
    let row = by_prefix(&*store, &args.key)?;
    let study = under_its_profile(study, &row)?;
    let program = study.program(row.stage)?;
    let plan = study.run_plan(row.stage, Vec::new(), program)?;
    let folder = std::path::absolute(study.folder().join("shell").join(&row.key.0))?;
    std::fs::create_dir_all(&folder)?;
    let (request, command) = runner::replay::shell(&plan, &row, &folder);
    std::fs::write(folder.join("request.json"), serde_json::to_vec_pretty(&request)?)?;
    println!("{command}");
    Ok(OK)
}

/// `exp retry`.
pub(crate) fn retry(args: &Retry) -> Result<u8> {
    let study = Study::find(&args.which)?;
    let mut store = study.open_existing()?;
    let status = Status::from_word(&args.status)
        .filter(|s| s.finished() && *s != Status::Ok)
        .with_context(|| {
            format!("--status: expected crash, timeout, memout or invalid, found {}", args.status)
        })?;
    let keys: Vec<TrialKey> = store
        .trials()?
        .into_iter()
        .filter(|t| t.status == status && !t.retired)
        .map(|t| t.key)
        .collect();
    let changed = store.retry(&keys)?;
    store.append_event(&EventRecord {
        at: now(),
        session_id: None,
        kind: "retry".to_owned(),
        detail_json: json!({"status": args.status, "reason": args.reason, "trials": keys}),
    })?;
    println!("{changed} trials are pending again; `exp run {}` runs them", study.words());
    Ok(OK)
}

/// The one trial whose key starts with `prefix`.
pub(crate) fn by_prefix(store: &dyn Store, prefix: &str) -> Result<TrialRow> {
    if prefix.len() < 6 {
        bail!("trial key `{prefix}`: expected at least 6 characters");
    }
    let mut found: Vec<TrialRow> =
        store.trials()?.into_iter().filter(|t| t.key.0.starts_with(prefix)).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => bail!("no trial whose key starts with `{prefix}`; `exp trials` lists them"),
        n => bail!("{n} trials start with `{prefix}`: give more characters"),
    }
}

/// Whether a trial's cell agrees with `method=a,task=b,lr=0.1`.
pub(crate) fn matches(filter: &str, cell: &experiments::identity::Cell) -> Result<bool> {
    for part in filter.split(',').filter(|p| !p.trim().is_empty()) {
        let (name, wanted) = part
            .split_once('=')
            .with_context(|| format!("filter `{part}`: expected name=value"))?;
        let Some(value) = cell.get(name.trim()) else {
            bail!(
                "filter: no factor `{}`; the cell has {:?}",
                name.trim(),
                cell.keys().collect::<Vec<_>>()
            );
        };
        if experiments::analysis::results::value_words(value) != wanted.trim() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn prepare(study: &mut Study, args: &Running) {
    if args.yes {
        study.spec.max_trials = u64::MAX;
    }
    match args.order {
        Some(OrderWord::Spec) => study.spec.order = Order::Spec,
        Some(OrderWord::Random) => study.spec.order = Order::Random,
        None => {}
    }
}

/// Refuses a spec that changed in a way that makes earlier trials incomparable (4.4).
fn guard_changes(study: &Study, store: &mut dyn Store, args: &Running) -> Result<()> {
    let Some(before) = store.experiment()? else { return Ok(()) };
    let hash = study.spec.spec_hash()?;
    if before.spec_hash == hash || before.spec_toml.is_empty() {
        return Ok(());
    }
    let folder = &study.spec.folder;
    let read =
        experiments::spec::read(&before.spec_toml, &study.file, folder, &study.spec.profile, true);
    let Ok(old) = read else { return Ok(()) };
    let changes = experiments::spec::changes(&old, &study.spec)?;
    let refused: Vec<String> = changes
        .iter()
        .filter(|c| c.effect == experiments::spec::Effect::Refused)
        .map(ToString::to_string)
        .collect();
    let started =
        store.trials()?.iter().any(|t| t.attempt > 0 && t.stage == study.spec.main_stage());
    if started && !refused.is_empty() && !args.new_version {
        bail!(
            "the spec changed in a way that makes earlier trials incomparable:\n  {}\nraise `version` in the \
             spec, or go on with --new-version",
            refused.join("\n  ")
        );
    }
    if !changes.is_empty() {
        let words: Vec<String> = changes.iter().map(ToString::to_string).collect();
        store.append_event(&EventRecord {
            at: now(),
            session_id: None,
            kind: "spec-change".to_owned(),
            detail_json: json!({"changes": words, "spec_hash": hash}),
        })?;
    }
    Ok(())
}

fn open_trials(store: &dyn Store, trials: &[PlannedTrial]) -> Result<usize> {
    let finished: std::collections::BTreeSet<TrialKey> =
        store.trials()?.into_iter().filter(|t| t.status.finished()).map(|t| t.key).collect();
    Ok(trials.iter().filter(|t| !finished.contains(&t.key)).count())
}

/// Runs one stage under the options of the command line.
pub(crate) fn run_stage(
    study: &Study,
    store: &mut dyn Store,
    stage: Stage,
    trials: Vec<PlannedTrial>,
    args: &Running,
) -> Result<RunSummary> {
    let only = match &args.filter {
        None => None,
        Some(filter) => {
            let mut keys = Vec::new();
            for trial in &trials {
                if matches(filter, &trial.cell)? {
                    keys.push(trial.key.clone());
                }
            }
            Some(keys)
        }
    };
    // Nothing to do is said within a moment, without building the program.
    let program = if open_trials(store, &trials)? == 0 {
        runner::Program::default()
    } else {
        study.program(stage)?
    };
    let plan = study.run_plan(stage, trials, program)?;
    let short = matches!(stage, Stage::Smoke | Stage::Pilot);
    let options = RunOptions {
        jobs: args.jobs,
        pin: args.pin.then_some(true),
        gpu_share: study.spec.budget.gpu_share,
        only,
        shard: args.shard.as_deref().map(|text| shard(text, args.group_by_rep)).transpose()?,
        max_trials: args.max_trials,
        time_limit: args.time_limit.as_deref().map(time).transpose().context("--time-limit")?,
        allow_mixed: args.allow_mixed || short,
        allow_dirty: args.dirty || short,
        wait_for_others: args.worker,
        stop: StopSignal::from_process_signals()?,
        args: std::env::args().map(|word| masked(&word)).collect(),
        ..RunOptions::default()
    };
    let mut observer: Box<dyn Observer> = if args.json {
        Box::new(JsonLines::new(std::io::stdout()))
    } else if args.quiet {
        Box::new(runner::Silent)
    } else if std::io::stderr().is_terminal() {
        Box::new(Bars::new())
    } else {
        Box::new(Lines::new(std::io::stderr()))
    };
    Ok(runner::run(store, &plan, &options, &mut *observer)?)
}

fn shard(text: &str, by_task_and_rep: bool) -> Result<Shard> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    match parts {
        Some((index, count)) if index < count => Ok(Shard { index, count, by_task_and_rep }),
        _ => bail!("--shard: expected I/N with I < N, found `{text}`"),
    }
}

/// `90s`, `30m`, `2h`, or seconds.
pub(crate) fn time(text: &str) -> Result<Duration> {
    let (number, factor) = match text.chars().last() {
        Some('s') => (&text[..text.len() - 1], 1.0),
        Some('m') => (&text[..text.len() - 1], 60.0),
        Some('h') => (&text[..text.len() - 1], 3600.0),
        _ => (text, 1.0),
    };
    let seconds: f64 = number
        .parse()
        .ok()
        .filter(|s: &f64| s.is_finite() && *s >= 0.0)
        .with_context(|| format!("expected a time such as 30m, found `{text}`"))?;
    Ok(Duration::try_from_secs_f64(seconds * factor)?)
}
