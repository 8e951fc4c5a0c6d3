//! `exp slurm`: the study as a job array, one store per task, merged afterwards.

use crate::{OK, args::Slurm, study::Study};
use anyhow::Result;
use experiments::slurm::{self, SlurmJob};

/// Writes the job script, and sends it when asked to.
pub(crate) fn slurm(args: &Slurm) -> Result<u8> {
    let study = Study::find(&args.which)?;
    let root = std::path::absolute(study.folder())?;
    let words = |text: &str| text.to_owned();
    let mut command = vec![
        std::env::current_exe()?.display().to_string(),
        words("run"),
        std::path::absolute(&study.file)?.display().to_string(),
        words("--profile"),
        study.spec.profile.clone(),
        words("--jobs"),
        words("1"),
        words("--shard"),
        words("{shard}"),
        words("--store"),
        words("{folder}/store.db"),
    ];
    if args.group_by_rep {
        command.push(words("--group-by-rep"));
    }
    let mut job = SlurmJob::new(&study.spec.id, command, args.array, &root);
    job.cpus_per_task = study.spec.budget.threads;
    job.memory_mib = study.spec.budget.memory_mib.map(|mib| mib + 256);
    job.partition.clone_from(&args.partition);
    job.constraint.clone_from(&args.constraint);
    let script = slurm::write(&job)?;
    println!("{}", script.display());
    if args.submit {
        println!("submitted as job {}", slurm::submit(&script, None)?);
    } else {
        eprintln!("submit it with `sbatch {}`", script.display());
    }
    let shards = root.join("shards");
    eprintln!("when it is done: exp merge {} {}/*/store.db", study.words(), shards.display());
    Ok(OK)
}
