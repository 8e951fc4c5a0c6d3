//! Whatever moment a writer is killed at, `latest` names a whole checkpoint.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its case must stop")]

mod mlp;

use mlp::Mlp;
use rand::RngExt;
use std::io::{BufRead, BufReader};
use std::{
    env,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tensor_core::checkpoint::{self, LoadPolicy, RunState};
use tensor_core::{AdamW, AdamWConfig, Kind, SeedTree, Trainer};

const WIDTHS: &[i64] = &[64, 160, 160, 10];

fn fresh() -> Trainer<AdamW> {
    let (store, _) = Mlp::store(21, Kind::Float, WIDTHS);
    Trainer::new(store, AdamW::new(AdamWConfig::default()).unwrap())
}

/// Saves step after step until it is killed, when the variable names a folder. After the first round
/// it says how long one took, so that the killer can aim.
#[test]
fn child() {
    let Ok(dir) = env::var("CRASH_DIR") else { return };
    let dir = Path::new(&dir);
    tch::set_num_threads(1);
    let run = RunState {
        config: serde_json::Value::Null,
        seed: SeedTree::new(1),
        extra: serde_json::Value::Null,
    };
    let mut trainer = fresh();
    if let Some(folder) = checkpoint::latest(dir).unwrap() {
        checkpoint::load(&folder, &mut trainer, LoadPolicy::Strict).unwrap();
    }
    for round in 0.. {
        let start = Instant::now();
        // Each step is saved twice: the second save replaces a folder that `latest` points at.
        checkpoint::save(dir, &trainer, &run).unwrap();
        checkpoint::save(dir, &trainer, &run).unwrap();
        trainer.step(0.0).unwrap();
        if round == 0 {
            println!("ready {}", start.elapsed().as_micros());
        }
    }
}

/// Kills `kills` writers to one folder, each at a random moment of the rounds after its first.
fn kill_writers(chain: u64, kills: usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = SeedTree::new(5).child("kills").child(chain).rng();
    let mut steps = Vec::new();
    let mut trainer = fresh();
    for _ in 0..kills {
        let mut writer = Command::new(env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env("CRASH_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let round: u64 = lines
            .find_map(|line| line.unwrap().strip_prefix("ready ").and_then(|n| n.parse().ok()))
            .expect("the writer must load what the last one left and save a round");
        std::thread::sleep(Duration::from_micros(rng.random_range(0..2 * round)));
        writer.kill().unwrap(); // SIGKILL
        let status = writer.wait().unwrap();
        assert!(status.code().is_none(), "killed, not ended: {status}");
        let folder = checkpoint::latest(dir.path()).unwrap().expect("a round was saved");
        let loaded = checkpoint::load(&folder, &mut trainer, LoadPolicy::Strict).unwrap();
        steps.push(loaded.step);
    }
    // A writer loads step n, saves it again and goes on: what is found may repeat but never falls.
    assert!(steps.is_sorted() && steps.last() > steps.first(), "{steps:?}");
}

#[test]
fn fifty_kills() {
    let chains: Vec<_> =
        (0..2).map(|chain| std::thread::spawn(move || kill_writers(chain, 25))).collect();
    for chain in chains {
        chain.join().unwrap();
    }
}
