//! A run that is saved, ended and loaded in a new process goes on as if nothing had happened: the
//! same bytes after 20 steps, with and without growth on either side of the break.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its case must stop")]

mod mlp;

use mlp::{Mlp, bytes, normal};
use std::{env, fs, path::Path, process::Command};
use tensor_core::checkpoint::{self, LoadPolicy, RunState};
use tensor_core::optim::ClipConfig;
use tensor_core::{AdamW, AdamWConfig, Error, Kind, SeedTree, Tensor, Trainer, runtime};

const WIDTHS: &[i64] = &[5, 6, 4, 3];

fn fresh() -> (Trainer<AdamW>, Mlp) {
    let (store, mlp) = Mlp::store(21, Kind::Float, WIDTHS);
    let mut trainer = Trainer::new(store, AdamW::new(AdamWConfig::default()).unwrap());
    trainer.clip = Some(ClipConfig::new(1.0));
    (trainer, mlp)
}

/// Trains up to step `end`; grows after the steps of `growth`. The noise comes from torch's generator,
/// whose state must come back as well.
fn train(trainer: &mut Trainer<AdamW>, mlp: &Mlp, end: u64, growth: &[u64]) {
    let x = normal(3, &[32, WIDTHS[0]], Kind::Float);
    while trainer.steps() < end {
        let noisy = &x + x.randn_like() * 0.1;
        let loss = (mlp.forward(&noisy) - x.narrow(1, 0, 3)).square().mean(Kind::Float);
        trainer.backward_step(&loss, 0.01).unwrap();
        if growth.contains(&trainer.steps()) {
            let seed = SeedTree::new(trainer.steps());
            let wider = |i| {
                let hidden = mlp.hidden(i);
                hidden.widen(hidden.n_units() + 3, &seed.child(i), "on schedule").unwrap()
            };
            trainer.grow(&wider(0).and(wider(1))).unwrap();
        }
    }
}

fn run_state() -> RunState {
    RunState {
        config: serde_json::json!({ "widths": WIDTHS, "lr": 0.01 }),
        seed: SeedTree::new(21).child("data"),
        extra: serde_json::Value::Null,
    }
}

/// Runs in a process of its own when the variable is set: `<task> <folder> <growth steps>`.
#[test]
fn child() {
    let Ok(task) = env::var("RESUME_TASK") else { return };
    tch::set_num_threads(1);
    let words: Vec<&str> = task.split(' ').collect();
    let dir = Path::new(words[1]);
    let growth: Vec<u64> = words[2].split(',').filter_map(|s| s.parse().ok()).collect();
    let (mut trainer, mlp) = fresh();
    runtime::seed_torch(&SeedTree::new(77));
    match words[0] {
        "straight" => train(&mut trainer, &mlp, 20, &growth),
        "first" => {
            train(&mut trainer, &mlp, 10, &growth);
            checkpoint::save(dir, &trainer, &run_state()).unwrap();
            return;
        }
        "second" => {
            runtime::seed_torch(&SeedTree::new(1234));
            let folder = checkpoint::latest(dir).unwrap().expect("the first half saved");
            let loaded = checkpoint::load(&folder, &mut trainer, LoadPolicy::Strict).unwrap();
            assert_eq!((loaded.step, trainer.steps()), (10, 10));
            assert!(loaded.report.is_complete());
            assert_eq!(loaded.run, run_state());
            train(&mut trainer, &mlp, 20, &growth);
        }
        other => panic!("task {other}"),
    }
    let log = serde_json::to_string(trainer.growth_log()).unwrap();
    fs::write(dir.join(words[0]), format!("{:?}\n{log}", bytes(&trainer))).unwrap();
}

fn in_new_process(task: &str, dir: &Path, growth: &str) {
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env("RESUME_TASK", format!("{task} {} {growth}", dir.display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{task}: {}", String::from_utf8_lossy(&output.stderr));
}

fn resumes_exactly(growth: &str) {
    let dir = tempfile::tempdir().unwrap();
    for task in ["straight", "first", "second"] {
        in_new_process(task, dir.path(), growth);
    }
    let read = |name| fs::read_to_string(dir.path().join(name)).unwrap();
    assert!(read("straight").len() > 1000);
    assert!(read("straight") == read("second"), "growth at {growth:?}: the runs differ");
}

#[test]
fn a_resumed_run_equals_a_straight_one() {
    resumes_exactly("none");
}

#[test]
fn also_with_growth_before_and_after_the_break() {
    resumes_exactly("4,8,15");
}

#[test]
fn a_store_built_with_the_grown_sizes_loads_too() {
    let dir = tempfile::tempdir().unwrap();
    let (mut trainer, mlp) = fresh();
    train(&mut trainer, &mlp, 2, &[1]);
    let folder = checkpoint::save(dir.path(), &trainer, &run_state()).unwrap();
    let (store, _) = Mlp::store(5, Kind::Float, &[5, 9, 7, 3]);
    let mut grown = Trainer::new(store, AdamW::new(AdamWConfig::default()).unwrap());
    checkpoint::load(&folder, &mut grown, LoadPolicy::Strict).unwrap();
    assert!(bytes(&grown) == bytes(&trainer));
    assert_eq!(checkpoint::peek(&folder).unwrap(), (2, run_state()));
}

#[test]
fn strict_loading_has_four_different_errors_and_partial_loading_lists_them() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Mlp::store(5, Kind::Float, &[5, 6, 3]);
    let saved = Trainer::new(store, AdamW::new(AdamWConfig::default()).unwrap());
    let folder = checkpoint::save(dir.path(), &saved, &run_state()).unwrap();
    let load = |kind, widths: &[i64], policy| {
        let (store, _) = Mlp::store(6, kind, widths);
        let mut t = Trainer::new(store, AdamW::new(AdamWConfig::default()).unwrap());
        let before = bytes(&t);
        let result = checkpoint::load(&folder, &mut t, policy);
        (result, bytes(&t) == before)
    };
    let strict = LoadPolicy::Strict;
    let (missing, same) = load(Kind::Float, &[5, 6, 3, 2], strict);
    assert!(matches!(missing, Err(Error::MissingTensor { .. })) && same);
    let (unexpected, same) = load(Kind::Float, &[5, 6], strict);
    assert!(matches!(unexpected, Err(Error::UnexpectedTensor { .. })) && same);
    let (shape, same) = load(Kind::Float, &[5, 7, 3], strict);
    assert!(matches!(shape, Err(Error::Shape { .. })) && same);
    let (kind, same) = load(Kind::Double, &[5, 6, 3], strict);
    assert!(matches!(kind, Err(Error::Kind { .. })) && same);

    let (partial, _) = load(Kind::Float, &[5, 6, 4, 2], LoadPolicy::Partial);
    let report = partial.unwrap().report;
    assert_eq!(report.loaded, ["fc0.weight", "fc0.bias"]);
    assert_eq!(report.missing, ["fc2.weight", "fc2.bias"]);
    assert_eq!(report.wrong_shape[0], ("fc1.weight".to_owned(), vec![4, 6], vec![3, 6]));
    assert!(!report.is_complete());

    // Saving the same step again replaces it.
    saved
        .store
        .get("fc0.bias")
        .unwrap()
        .copy_from(&Tensor::ones([6], (Kind::Float, tch::Device::Cpu)))
        .unwrap();
    let again = checkpoint::save(dir.path(), &saved, &run_state()).unwrap();
    assert_eq!(again, folder);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "one folder and `latest`");
}
