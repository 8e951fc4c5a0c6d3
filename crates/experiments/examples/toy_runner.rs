//! A whole program around the runner, without a spec file: one method, one task, many repetitions.
//!
//! ```sh
//! cargo build -p experiments --examples
//! target/debug/examples/toy_runner /tmp/toy 100 fine 0
//! ```
//!
//! Arguments: folder of the store, number of trials, mode and amount of `toy_trial`; then any of
//! `--jobs N`, `--max-attempts N`, `--shard I/N`, `--wait`.

use anyhow::{Context, bail};
use experiments::{
    identity::{self, Value},
    plan::{PlannedTrial, Stage},
    runner::{self, Limits, MetricRule, Program, RunOptions, RunPlan, Shard, StopSignal, progress},
    store::SqliteStore,
    trial::BudgetRequest,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

fn main() -> ExitCode {
    match work() {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(4)
        }
    }
}

fn work() -> anyhow::Result<u8> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [root, count, mode, amount, rest @ ..] = args.as_slice() else {
        bail!(
            "usage: toy_runner FOLDER TRIALS MODE AMOUNT [--jobs N] [--max-attempts N] [--shard I/N]"
        );
    };
    let program = std::env::current_exe()?.with_file_name("toy_trial");
    let mut plan = toy_plan(Path::new(root), &program, count.parse()?, mode, amount.parse()?)?;
    let mut options = RunOptions {
        stop: StopSignal::from_process_signals()?,
        args: args.clone(),
        ..RunOptions::default()
    };
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().context("a value is missing");
        match word.as_str() {
            "--jobs" => options.jobs = Some(value()?.parse()?),
            "--max-attempts" => plan.limits.max_attempts = value()?.parse()?,
            "--wait" => options.wait_for_others = true,
            "--shard" => {
                let (index, count) = value()?.split_once('/').context("--shard I/N")?;
                options.shard = Some(Shard {
                    index: index.parse()?,
                    count: count.parse()?,
                    by_task_and_rep: false,
                });
            }
            other => bail!("unknown option {other}"),
        }
    }
    let mut store = SqliteStore::open(&plan.root.join("store.db"))?;
    let mut lines = progress::Lines::new(std::io::stderr());
    let summary = runner::run(&mut store, &plan, &options, &mut lines)?;
    Ok(summary.exit_code())
}

/// One cell, `count` repetitions.
fn toy_plan(
    root: &Path,
    program: &Path,
    count: u32,
    mode: &str,
    amount: f64,
) -> anyhow::Result<RunPlan> {
    let cell = BTreeMap::from([
        ("method".to_owned(), Value::Text("toy".to_owned())),
        ("task".to_owned(), Value::Text("none".to_owned())),
        ("mode".to_owned(), Value::Text(mode.to_owned())),
        ("amount".to_owned(), Value::Float(amount)),
    ]);
    let trials = (0..count)
        .map(|rep| {
            Ok(PlannedTrial {
                key: identity::trial_key("toy", &cell, rep)?,
                ord: u64::from(rep),
                stage: Stage::Main,
                cell: cell.clone(),
                method: "toy".to_owned(),
                task: "none".to_owned(),
                rep,
                seeds: BTreeMap::from([(
                    "init".to_owned(),
                    identity::derive_seed(42, "init", &BTreeMap::new(), rep)?,
                )]),
            })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let metric = |name: &str, split: &str| MetricRule {
        name: name.to_owned(),
        split: split.to_owned(),
        range: Some((0.0, 1.0)),
        required: true,
        allow_nonfinite: false,
        timed: false,
    };
    Ok(RunPlan {
        experiment: "toy".to_owned(),
        spec_toml: String::new(),
        schema: 1,
        spec_hash: format!("toy-{mode}-{amount}"),
        stage: Stage::Main,
        program: Program { path: program.to_path_buf(), ..Program::default() },
        trials,
        limits: Limits {
            wall: Some(Duration::from_mins(1)),
            grace: Duration::from_secs(1),
            ..Limits::default()
        },
        budget: BudgetRequest { unit: "steps".to_owned(), amount: 3.0 },
        threads: 1,
        device: "cpu".to_owned(),
        metrics: vec![metric("val_error", "validation"), metric("test_error", "test")],
        split_files: BTreeMap::new(),
        dataset_hashes: BTreeMap::new(),
        root: PathBuf::from(root),
        source_dir: None,
    })
}
