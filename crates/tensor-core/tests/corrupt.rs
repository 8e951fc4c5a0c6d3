//! Damaged and hostile checkpoints: an error or, where the damage is a legal change, a load; never a
//! panic, and after an error everything is as it was.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its case must stop")]

mod mlp;

use mlp::{Mlp, bytes, normal};
use rand::{Rng, RngExt};
use sha2::{Digest, Sha256};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    time::Instant,
};
use tensor_core::checkpoint::{self, LoadPolicy, RunState};
use tensor_core::grow::Fill;
use tensor_core::{AdamW, AdamWConfig, Kind, SeedTree, Trainer};

const FILES: [&str; 4] = ["model.safetensors", "optim.safetensors", "state.json", "state.sha256"];

fn trained() -> (Trainer<AdamW>, RunState) {
    let (store, mlp) = Mlp::store(2, Kind::Float, &[3, 4, 2]);
    let mut trainer = Trainer::new(store, AdamW::new(AdamWConfig::default()).unwrap());
    let x = normal(1, &[4, 3], Kind::Float);
    for _ in 0..2 {
        trainer.backward_step(&mlp.forward(&x).square().mean(Kind::Float), 0.01).unwrap();
        let plan = mlp.hidden(0).append(1, &Fill::Const(0.5), &Fill::Zeros, &Fill::Zeros, "more");
        trainer.grow(&plan).unwrap();
    }
    let run = RunState {
        config: serde_json::json!({ "lr": 0.01 }),
        seed: SeedTree::new(1),
        extra: serde_json::Value::Null,
    };
    (trainer, run)
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// One random wound.
fn wound(file: &mut Vec<u8>, rng: &mut impl Rng) {
    const NUMBERS: &[&str] = &[
        "-1",
        "0",
        "1e400",
        "9223372036854775807",
        "18446744073709551616",
        "null",
        "[]",
        "{}",
        "\"\"",
    ];
    const WORDS: &[(&str, &str)] = &[
        ("F32", "F64"),
        ("F32", "U8"),
        ("F32", "BOOL"),
        ("F32", "X"),
        ("U8", "I64"),
        ("data_offsets", "data_offset"),
        ("fc0", "fc1"),
        ("exp_avg", "exp_bvg"),
        ("weight", "weihgt"),
        ("shape", "dtype"),
        ("append", "select"),
        ("zeros", "ones"),
        ("\"format\": 1", "\"format\": 2"),
        ("from", "to"),
    ];
    let at = rng.random_range(0..file.len().max(1));
    match rng.random_range(0..9) {
        0 => file.truncate(at),
        1 => file.extend((0..rng.random_range(1..40)).map(|i| i as u8)),
        2 if file.len() >= 8 => {
            let n = [0, 1, 7, file.len() as u64, 100_000_001, 1 << 62, u64::MAX]
                [rng.random_range(0..7)];
            file[..8].copy_from_slice(&n.to_le_bytes());
        }
        3 => {
            // A number of the text becomes another.
            let text = String::from_utf8_lossy(file).into_owned();
            if text.len() == file.len()
                && let Some(start) = text[at..].find(|c: char| c.is_ascii_digit()).map(|i| at + i)
            {
                let end = text[start..]
                    .find(|c: char| !c.is_ascii_digit())
                    .map_or(text.len(), |i| start + i);
                let number = NUMBERS[rng.random_range(0..NUMBERS.len())];
                file.splice(start..end, number.bytes());
            }
        }
        4 | 5 => {
            let (from, to) = WORDS[rng.random_range(0..WORDS.len())];
            if let Some(i) = file.windows(from.len()).position(|w| w == from.as_bytes()) {
                file.splice(i..i + from.len(), to.bytes());
            }
        }
        6 => {
            let end = (at + rng.random_range(1..64)).min(file.len());
            file.drain(at.min(end)..end);
        }
        _ => {
            for _ in 0..rng.random_range(1..4) {
                if let Some(byte) = file.get_mut(at) {
                    *byte ^= 1 << rng.random_range(0..8);
                }
            }
        }
    }
}

/// Makes the hashes right again, so that the damage is seen by what lies behind them.
fn reseal(dir: &Path, name: &str, file: &[u8], original: &[u8], state: &[u8]) {
    let mut state = String::from_utf8_lossy(state).into_owned();
    if name != "state.json" {
        state = state.replace(&hex(original), &hex(file)).replace(
            &format!("\"bytes\": {},", original.len()),
            &format!("\"bytes\": {},", file.len()),
        );
        fs::write(dir.join("state.json"), &state).unwrap();
    }
    fs::write(
        dir.join("state.sha256"),
        hex(if name == "state.json" { file } else { state.as_bytes() }),
    )
    .unwrap();
}

/// A folder in memory where the system has one: 20,000 small files on a disk take a minute.
fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

#[test]
fn ten_thousand_damaged_checkpoints() {
    let root = scratch();
    let (mut trainer, run) = trained();
    let dir = checkpoint::save(root.path(), &trainer, &run).unwrap();
    let originals: Vec<Vec<u8>> = FILES.iter().map(|f| fs::read(dir.join(f)).unwrap()).collect();
    let intact = bytes(&trainer);
    let mut rng = SeedTree::new(8).child("wounds").rng();
    let (mut refused, mut loaded, mut slowest) = (0, 0, 0.0_f64);
    for case in 0..10_000 {
        let which = rng.random_range(0..FILES.len());
        let mut file = originals[which].clone();
        for _ in 0..rng.random_range(1..3) {
            wound(&mut file, &mut rng);
        }
        let damaged = file != originals[which];
        fs::write(dir.join(FILES[which]), &file).unwrap();
        let resealed = which < 3 && rng.random_bool(0.7);
        if resealed {
            reseal(&dir, FILES[which], &file, &originals[which], &originals[2]);
        }
        let start = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| {
            checkpoint::load(&dir, &mut trainer, LoadPolicy::Strict)
        }));
        slowest = slowest.max(start.elapsed().as_secs_f64());
        let result = result.unwrap_or_else(|_| panic!("case {case}: {} panicked", FILES[which]));
        for (name, bytes) in FILES.iter().zip(&originals) {
            if *name == FILES[which] || resealed {
                fs::write(dir.join(name), bytes).unwrap();
            }
        }
        if result.is_err() {
            refused += 1;
            assert!(bytes(&trainer) == intact, "case {case}: refused and yet changed");
        } else {
            loaded += 1;
            assert!(!damaged || resealed || which == 3, "case {case}: damage went unnoticed");
            checkpoint::load(&dir, &mut trainer, LoadPolicy::Strict).unwrap();
            assert!(bytes(&trainer) == intact, "case {case}: the intact checkpoint restores all");
        }
    }
    println!("{refused} refused, {loaded} loaded, slowest {slowest:.3} s");
    assert!(refused > 6000 && loaded > 100 && slowest < 2.0, "{refused} {loaded} {slowest}");
}

#[test]
fn a_missing_file_or_pointer_is_an_error_or_nothing() {
    let root = tempfile::tempdir().unwrap();
    assert!(checkpoint::latest(root.path()).unwrap().is_none());
    let (mut trainer, run) = trained();
    let dir = checkpoint::save(root.path(), &trainer, &run).unwrap();
    for name in FILES {
        let bytes = fs::read(dir.join(name)).unwrap();
        fs::remove_file(dir.join(name)).unwrap();
        assert!(checkpoint::load(&dir, &mut trainer, LoadPolicy::Strict).is_err(), "{name}");
        fs::write(dir.join(name), bytes).unwrap();
    }
    for bad in ["", "../../etc", "step-", "step-1/../..", "step-00000001x"] {
        fs::write(root.path().join("latest"), bad).unwrap();
        assert!(checkpoint::latest(root.path()).is_err(), "{bad:?}");
    }
}
