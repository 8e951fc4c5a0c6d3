//! `exp slurm`: the study as a job array, one store per task, merged afterwards.

use crate::{
    OK,
    args::Slurm,
    run::time,
    study::{Study, now},
};
use anyhow::{Context, Result, bail};
use experiments::{
    plan::Stage,
    runner::GitFacts,
    slurm::{self, SlurmJob},
    spec::Launch,
};
use std::{path::Path, time::Duration};

/// Writes the job script, and sends it when asked to.
pub(crate) fn slurm(args: &Slurm) -> Result<u8> {
    let study = Study::find(&args.which)?;
    let root = std::path::absolute(study.folder())?;
    let job = job(&study, args, &root)?;
    let tasks = tasks(args)?;
    let script = slurm::write(&job)?;
    println!("{}", script.display());
    if args.submit {
        check_tree(&study, args)?;
        let busy = slurm::busy_tasks(&root)?;
        let again: Vec<String> =
            tasks.iter().filter(|task| busy.contains(task)).map(u32::to_string).collect();
        if !again.is_empty() {
            bail!(
                "tasks {} are in the queue; two runs of one task would disturb each other: `scancel` \
                 them or wait, or name others with --only",
                again.join(",")
            );
        }
        seed(&study, &root, &tasks)?;
        if matches!(study.spec.program, Launch::Cargo { .. }) {
            // Once here instead of once per task.
            study.program(study.spec.main_stage())?;
        }
        let only = (!args.only.is_empty()).then_some(tasks.as_slice());
        println!("submitted as job {}", slurm::submit(&script, only)?);
    } else {
        eprintln!("submit it with `exp slurm {} --array {} --submit`", study.words(), args.array);
    }
    eprintln!("when it is done, or in between: exp merge {}", study.words());
    Ok(OK)
}

fn job(study: &Study, args: &Slurm, root: &Path) -> Result<SlurmJob> {
    let spec = &study.spec;
    if args.jobs == 0 {
        bail!("--jobs: expected at least 1, found 0");
    }
    let mut command = vec![
        std::env::current_exe()?.display().to_string(),
        "run".to_owned(),
        std::path::absolute(&study.file)?.display().to_string(),
    ];
    let jobs = args.jobs.to_string();
    command.extend(
        ["--profile", &spec.profile, "--jobs", &jobs, "--shard", "{shard}"].map(str::to_owned),
    );
    // --worker: a task that was killed on another node is waited for until its lease ends.
    command.extend(["--store", "{folder}/store.db", "--worker"].map(str::to_owned));
    if args.group_by_rep {
        command.push("--group-by-rep".to_owned());
    }
    command.extend(args.run.iter().cloned());
    let mut job = SlurmJob::new(&spec.id, command, args.array, root);
    job.cpus_per_task = args.jobs.saturating_mul(spec.budget.threads);
    // Beside its trials a task holds the runner.
    job.memory_mib = spec
        .budget
        .memory_mib
        .map(|mib| mib.saturating_mul(u64::from(args.jobs)).saturating_add(256));
    job.scratch.clone_from(&args.scratch);
    job.partition.clone_from(&args.partition);
    job.constraint.clone_from(&args.constraint);
    job.options.clone_from(&args.sbatch);
    if let Some(text) = &args.time {
        let limit = time(text).context("--time")?;
        let trial = Duration::from_secs_f64(spec.budget.wall_seconds + spec.budget.grace_seconds);
        if limit.saturating_sub(job.warn_before.min(limit / 2)) < trial {
            bail!(
                "--time: expected more than the wall limit of one trial ({} s) and the warning before \
                 the end ({} s), found {text}: a trial could never finish",
                trial.as_secs_f64().ceil(),
                job.warn_before.min(limit / 2).as_secs()
            );
        }
        job.time = Some(limit);
    }
    if spec.is_timed() {
        if args.constraint.is_none() && !args.group_by_rep {
            bail!(
                "a metric of the study is a time: give --constraint for equal nodes, or --group-by-rep \
                 to keep compared trials on one node"
            );
        }
        // Each task pins its trials to cores as if it were alone on the node.
        job.options.push("--exclusive".to_owned());
    }
    Ok(job)
}

/// Tasks to send.
fn tasks(args: &Slurm) -> Result<Vec<u32>> {
    if args.only.is_empty() {
        return Ok((0..args.array).collect());
    }
    let mut tasks = args.only.clone();
    tasks.sort_unstable();
    tasks.dedup();
    if let Some(task) = tasks.iter().find(|task| **task >= args.array) {
        bail!("--only: expected tasks below {}, found {task}", args.array);
    }
    Ok(tasks)
}

/// What every task would refuse is said here, once.
fn check_tree(study: &Study, args: &Slurm) -> Result<()> {
    let short = matches!(study.spec.main_stage(), Stage::Smoke | Stage::Pilot);
    let allowed = short || args.run.iter().any(|word| word == "--dirty");
    if !allowed && GitFacts::read(&study.spec.folder).dirty {
        bail!("the working tree has changes; commit them, or go on with `-- --dirty`");
    }
    Ok(())
}

/// Gives the parts what the study's own store holds already.
fn seed(study: &Study, root: &Path, tasks: &[u32]) -> Result<()> {
    let Some(store) = study.find_store()? else { return Ok(()) };
    let hash = study.spec.spec_hash()?;
    if let Some(known) = store.experiment()?
        && known.spec_hash != hash
        && study.spec.main_stage() == Stage::Main
    {
        bail!(
            "{}: made under another spec; `exp run {} --max-trials 0` takes the change over or refuses it",
            study.place,
            study.words()
        );
    }
    let counts = slurm::seed_shards(&*store, root, tasks, now())?;
    if counts.settled > 0 {
        eprintln!("{} known results given to the parts", counts.settled);
    }
    Ok(())
}
