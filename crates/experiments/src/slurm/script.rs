//! The job script.

use super::{SlurmError, SlurmJob};
use std::{fmt::Write as _, time::Duration};

fn refuse(field: &'static str, why: impl Into<String>) -> SlurmError {
    SlurmError::Job { field, why: why.into() }
}

fn one_line(field: &'static str, text: &str) -> Result<(), SlurmError> {
    // A line break would end the comment and start a command.
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err(refuse(field, format!("expected text on one line, found {text:?}")));
    }
    Ok(())
}

fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// Slurm's `days-hours:minutes:seconds`, rounded up to a minute.
fn clock(time: Duration) -> String {
    let minutes = time.as_secs().div_ceil(60).max(1);
    format!("{}-{:02}:{:02}:00", minutes / 1440, minutes / 60 % 24, minutes % 60)
}

/// One word of the command, as bash must read it.
fn word(text: &str, tasks: u32) -> String {
    match text.strip_prefix("{folder}") {
        Some("") => "\"$work\"".to_owned(),
        Some(rest) if rest.starts_with('/') => format!("\"$work\"{}", quote(rest)),
        _ if text == "{shard}" => format!("\"$SLURM_ARRAY_TASK_ID/{tasks}\""),
        _ => quote(text),
    }
}

/// The job script.
///
/// # Errors
/// [`SlurmError::Job`] when a field is empty, zero or holds a line break, or a character that
/// Slurm reads as something else.
pub fn script(job: &SlurmJob) -> Result<String, SlurmError> {
    let mut text = options(job)?;
    let command: Vec<String> = job.command.iter().map(|text| word(text, job.tasks)).collect();
    let shards = quote(&job.root.join("shards").to_string_lossy());
    let _ = write!(text, "\nset -u\nshard={shards}/\"$SLURM_ARRAY_TASK_ID\"\n");
    match &job.scratch {
        None => {
            text.push_str("mkdir -p \"$shard\" || exit 4\nwork=$shard\nsave() { :; }\n");
        }
        Some(scratch) => {
            one_line("scratch", scratch)?;
            if scratch.contains(['"', '`', '\\']) {
                return Err(refuse(
                    "scratch",
                    format!("expected a folder such as $TMPDIR, found {scratch:?}"),
                ));
            }
            let _ = write!(text, "scratch=\"{scratch}\"\n{ON_SCRATCH}");
        }
    }
    let _ = write!(text, "{BEFORE}{} &\n{AFTER}", command.join(" "));
    Ok(text)
}

/// The first lines: the options of the job.
fn options(job: &SlurmJob) -> Result<String, SlurmError> {
    one_line("name", &job.name)?;
    let root = job.root.to_string_lossy();
    one_line("root", &root)?;
    // A percent sign begins a replacement, a backslash turns replacements off, a quotation mark
    // ends the word.
    if root.contains(['%', '\\', '"']) || job.name.contains(['%', '\\', '"']) {
        return Err(refuse(
            "root or name",
            "expected no %, \\ or \", which Slurm reads as its own",
        ));
    }
    if job.tasks == 0 || job.cpus_per_task == 0 {
        return Err(refuse(
            "tasks and cpus_per_task",
            format!("expected at least 1, found {} and {}", job.tasks, job.cpus_per_task),
        ));
    }
    if job.command.is_empty() {
        return Err(refuse("command", "expected a program, found none"));
    }
    let mut text = String::from("#!/bin/bash\n");
    let mut option = |words: String| {
        let _ = writeln!(text, "#SBATCH {words}");
    };
    option(format!("--job-name=\"{}\"", job.name));
    option(format!("--array=0-{}", job.tasks - 1));
    option("--ntasks=1".to_owned());
    option(format!("--cpus-per-task={}", job.cpus_per_task));
    option(format!("--output=\"{root}/slurm/%A_%a.log\""));
    option("--open-mode=append".to_owned());
    option("--requeue".to_owned());
    // A warning right at the start would requeue the task for ever.
    let warn = job.time.map_or(job.warn_before, |limit| job.warn_before.min(limit / 2));
    option(format!("--signal=B:USR1@{}", warn.as_secs().clamp(1, 65_535)));
    if let Some(memory) = job.memory_mib {
        option(format!("--mem={memory}M"));
    }
    if let Some(time) = job.time {
        option(format!("--time={}", clock(time)));
    }
    for (field, name, value) in [
        ("partition", "--partition", &job.partition),
        ("constraint", "--constraint", &job.constraint),
    ] {
        if let Some(value) = value {
            one_line(field, value)?;
            option(format!("{name}={value}"));
        }
    }
    for extra in &job.options {
        one_line("options", extra)?;
        if !extra.starts_with('-') {
            return Err(refuse("options", format!("expected --name=value, found {extra:?}")));
        }
        option(extra.clone());
    }
    Ok(text)
}

/// Works on the node's own disk and puts back what is complete. A task that was killed before it
/// could put its folder back goes on from the last one that was.
const ON_SCRATCH: &str = r#"# A task that was killed while it put its folder back: both copies are whole.
for left in "$shard.part" "$shard.old"; do
    if [ ! -d "$shard" ] && [ -d "$left" ]; then mv "$left" "$shard" || exit 4; fi
done
mkdir -p "$shard" "$scratch" || exit 4
# A new folder each time: one that a killed task left may be older than what is in the shard.
work=$(mktemp -d "$scratch/exp-$SLURM_JOB_ID-$SLURM_ARRAY_TASK_ID.XXXXXX") || exit 4
if [ -f "$shard/store.db" ]; then cp -a "$shard/." "$work/" || exit 4; fi
save() {
    rm -rf "$shard.part" "$shard.old" || return 1
    cp -a "$work" "$shard.part" || return 1
    mv "$shard" "$shard.old" && mv "$shard.part" "$shard" || return 1
    rm -rf "$shard.old" "$work"
}
"#;

const BEFORE: &str = r#"
# Slurm sends SIGUSR1 before the time limit and SIGTERM before it kills. The runner ends by itself on
# either and gives its trials back.
runner=
asked=
woken=
pass() {
    asked=$1
    woken=1
    if [ -n "$runner" ]; then kill -s "$1" "$runner" 2>/dev/null; fi
}
trap 'pass USR1' USR1
trap 'pass TERM' TERM
"#;

const AFTER: &str = r#"runner=$!
# What came before the runner had a number.
if [ -n "$asked" ]; then kill -s "$asked" "$runner" 2>/dev/null; fi
# A trapped signal ends `wait` early; wait again for the runner's own code.
while :; do
    woken=
    wait "$runner"
    code=$?
    [ -n "$woken" ] || break
done
save || code=4
# 130: the runner was interrupted; 138: the signal came before it could handle it.
if [ "$asked" = USR1 ] && { [ "$code" = 130 ] || [ "$code" = 138 ]; }; then
    # Not $SLURM_JOB_ID: one task of each array has the number of the array, and would requeue all.
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
# Failed trials are results; only a runner that could not work fails the task.
if [ "$code" = 3 ]; then code=0; fi
exit "$code"
"#;

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn job() -> SlurmJob {
        let command = ["exp", "run", "it's", "--shard", "{shard}", "--store", "{folder}/store.db"];
        SlurmJob::new("toy", command.map(str::to_owned).to_vec(), 4, Path::new("/data/results/toy"))
    }

    #[test]
    fn the_script_says_what_was_asked() {
        let text = script(&SlurmJob {
            time: Some(Duration::from_secs(90_001)),
            memory_mib: Some(512),
            partition: Some("short".to_owned()),
            options: vec!["--account=x".to_owned()],
            ..job()
        })
        .unwrap();
        for line in [
            "#SBATCH --array=0-3",
            "#SBATCH --time=1-01:01:00",
            "#SBATCH --mem=512M",
            "#SBATCH --partition=short",
            "#SBATCH --account=x",
            "#SBATCH --signal=B:USR1@120",
            "#SBATCH --output=\"/data/results/toy/slurm/%A_%a.log\"",
            r#"'exp' 'run' 'it'\''s' '--shard' "$SLURM_ARRAY_TASK_ID/4" '--store' "$work"'/store.db' &"#,
        ] {
            assert!(text.lines().any(|have| have == line), "{line}\n{text}");
        }
    }

    #[test]
    fn the_warning_comes_in_the_second_half_of_a_short_task() {
        let text = script(&SlurmJob { time: Some(Duration::from_mins(1)), ..job() }).unwrap();
        assert!(text.contains("--signal=B:USR1@30\n"), "{text}");
    }

    #[test]
    fn only_whole_placeholders_are_replaced() {
        assert_eq!(word("{folder}", 4), "\"$work\"");
        assert_eq!(word("{folder}s", 4), "'{folder}s'");
        assert_eq!(word("{shard}/x", 4), "'{shard}/x'");
        assert_eq!(word("$(reboot)", 4), "'$(reboot)'");
    }

    #[test]
    fn fields_that_would_break_the_script_are_refused() {
        let bad = [
            SlurmJob { tasks: 0, ..job() },
            SlurmJob { cpus_per_task: 0, ..job() },
            SlurmJob { command: Vec::new(), ..job() },
            SlurmJob { name: "a\nb".to_owned(), ..job() },
            SlurmJob { name: "a\"b".to_owned(), ..job() },
            SlurmJob { partition: Some(String::new()), ..job() },
            SlurmJob { options: vec!["--x\nrm -rf /".to_owned()], ..job() },
            SlurmJob { options: vec!["account=x".to_owned()], ..job() },
            SlurmJob { root: "/data/100%".into(), ..job() },
            SlurmJob { scratch: Some("/tmp\"; reboot; \"".to_owned()), ..job() },
        ];
        for job in bad {
            assert!(script(&job).is_err(), "{job:?}");
        }
    }
}
