//! What the engine costs beside the trials: `cargo bench -p experiments --bench engine`.
//!
//! The no-op trial is `toy_trial` in mode `fine`; its own process start is measured beside it.
#![allow(clippy::print_stdout, reason = "a bench prints its figures")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use experiments::{
    identity::{self, Value},
    plan::{PlannedTrial, Stage},
    runner::{self, Limits, Program, RunOptions, RunPlan, Silent},
    store::SqliteStore,
    trial::BudgetRequest,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

const TRIALS: u32 = 100;
const JOBS: u32 = 2;

fn main() {
    let bench = std::env::current_exe().expect("the bench's own path");
    let folder = bench.parent().and_then(Path::parent).expect("target/PROFILE/deps");
    let program = folder.join("examples/toy_trial");
    if !program.is_file() {
        eprintln!(
            "{} is not there; build it: cargo build --release -p experiments --examples",
            program.display()
        );
        return;
    }
    let bare = best(3, || {
        let start = Instant::now();
        for _ in 0..TRIALS {
            // Without a request it reads the end of its input and leaves: start and stop only.
            let _ = Command::new(&program)
                .arg("--trial")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
        start.elapsed()
    }) / TRIALS;
    let whole = best(3, || run(&program)) / TRIALS;
    println!("process start and end           {bare:>10.2?} each, one at a time");
    println!("trial by the engine, {JOBS} at a time  {whole:>10.2?} each, {TRIALS} trials");
    println!("engine's share (upper bound)    {:>10.2?} each", whole.saturating_sub(bare / JOBS));
}

fn best(times: u32, mut work: impl FnMut() -> Duration) -> Duration {
    (0..times).map(|_| work()).min().unwrap_or_default()
}

fn run(program: &Path) -> Duration {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cell = BTreeMap::from([
        ("method".to_owned(), Value::Text("toy".to_owned())),
        ("task".to_owned(), Value::Text("none".to_owned())),
        ("mode".to_owned(), Value::Text("fine".to_owned())),
    ]);
    let trials = (0..TRIALS)
        .map(|rep| PlannedTrial {
            key: identity::trial_key("bench", &cell, rep).expect("a cell of text"),
            ord: u64::from(rep),
            stage: Stage::Main,
            cell: cell.clone(),
            method: "toy".to_owned(),
            task: "none".to_owned(),
            rep,
            seeds: BTreeMap::from([("init".to_owned(), 1)]),
        })
        .collect();
    let plan = RunPlan {
        experiment: "bench".to_owned(),
        spec_toml: String::new(),
        schema: 1,
        spec_hash: "bench".to_owned(),
        stage: Stage::Main,
        program: Program { path: program.to_path_buf(), ..Program::default() },
        trials,
        limits: Limits::default(),
        budget: BudgetRequest { unit: "steps".to_owned(), amount: 1.0 },
        threads: 1,
        device: "cpu".to_owned(),
        metrics: Vec::new(),
        split_files: BTreeMap::new(),
        dataset_hashes: BTreeMap::new(),
        root: PathBuf::from(folder.path()),
        source_dir: None,
    };
    let mut store = SqliteStore::open(&folder.path().join("store.db")).expect("a local folder");
    let options = RunOptions { jobs: Some(JOBS), ..RunOptions::default() };
    let start = Instant::now();
    let summary = runner::run(&mut store, &plan, &options, &mut Silent).expect("no-op trials run");
    assert_eq!(summary.open() + summary.failed(), 0);
    start.elapsed()
}
