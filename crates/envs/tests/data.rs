//! Expert episodes in files: repeatable to the byte, complete or absent, checked when read.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::float_cmp, reason = "zeros, ones and copies are exact")]

use envs::{Env, GridConfig, GridPinpad, Shard, ShardSpec, generate};
use std::fs;

fn spec() -> ShardSpec {
    ShardSpec { shards: 3, episodes: 20, seed: 5, epsilon: 0.1, threads: 1 }
}

#[test]
fn the_bytes_do_not_depend_on_threads() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = GridConfig::default();
    let a = generate(&config, &spec(), one.path()).unwrap();
    let b = generate(&config, &ShardSpec { threads: 2, ..spec() }, two.path()).unwrap();
    assert_eq!(a.len(), 3);
    for (a, b) in a.iter().zip(&b) {
        assert_eq!(fs::read(a).unwrap(), fs::read(b).unwrap());
    }
    assert_ne!(fs::read(&a[0]).unwrap(), fs::read(&a[1]).unwrap());
    assert_eq!(fs::read_dir(one.path()).unwrap().count(), 3, "no left-overs");
}

#[test]
fn episodes_come_back_and_replay() {
    for config in [GridConfig::default(), GridConfig::scrambled_compass()] {
        let dir = tempfile::tempdir().unwrap();
        let files = generate(&config, &spec(), dir.path()).unwrap();
        let mut world = GridPinpad::new(&config).unwrap();
        let mut lengths = 0;
        for file in files {
            let shard = Shard::read(&file).unwrap();
            assert_eq!((shard.len(), shard.config()), (20, &config));
            for at in 0..shard.len() {
                let episode = shard.episode(at).unwrap();
                let mut info = world.recall(&episode).unwrap();
                assert_eq!(world.key(), episode.key);
                let mut reward = 0.0;
                for (t, action) in episode.actions.iter().enumerate() {
                    assert_eq!(world.agent(), episode.cells[t]);
                    assert_eq!(info.subgoal, i32::from(episode.subgoals[t]));
                    let step = world.advance(&usize::from(*action)).unwrap();
                    info = step.info;
                    reward += step.reward;
                }
                assert_eq!(Some(&world.agent()), episode.cells.last());
                assert!(reward == 1.0 && !world.running());
                lengths += episode.actions.len();
            }
            assert!(shard.episode(20).is_err());
        }
        assert!(lengths > 60 * 5);
    }
}

#[test]
fn damaged_files_are_errors_that_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let spec = ShardSpec { shards: 1, episodes: 3, ..spec() };
    let file = generate(&GridConfig::default(), &spec, dir.path()).unwrap().remove(0);
    let good = fs::read(&file).unwrap();
    let broken = dir.path().join("broken.safetensors");
    let message = |bytes: &[u8]| {
        fs::write(&broken, bytes).unwrap();
        Shard::read(&broken).map(|_| ()).unwrap_err().to_string()
    };
    for length in [0, 7, 8, 100, good.len() / 2, good.len() - 1] {
        assert!(message(&good[..length]).contains("broken.safetensors"), "{length}");
    }
    let text = |from: &str, to: &str| {
        let at = good.windows(from.len()).position(|w| w == from.as_bytes()).unwrap();
        let mut bytes = good.clone();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    assert!(message(&text("episodes 1", "episodes 9")).contains("about"));
    assert!(message(&text("\\\"grid\\\":7", "\\\"grid\\\":2")).contains("about.config"));
    // every byte of the values may be anything: an error or episodes, never a panic
    let values = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let mut world = GridPinpad::new(&GridConfig::default()).unwrap();
    for at in values..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        fs::write(&broken, &bytes).unwrap();
        if let Ok(shard) = Shard::read(&broken) {
            for k in 0..shard.len() {
                // a layout that overlaps is found here
                let _ = world.recall(&shard.episode(k).unwrap());
            }
        }
    }
    assert!(Shard::read(dir.path().join("none")).is_err());
}

#[test]
fn absurd_specifications_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let base = GridConfig::default;
    for wrong in [
        ShardSpec { shards: 0, ..spec() },
        ShardSpec { episodes: usize::MAX, ..spec() },
        ShardSpec { epsilon: 1.5, ..spec() },
        ShardSpec { epsilon: f64::NAN, ..spec() },
        ShardSpec { threads: 0, ..spec() },
    ] {
        assert!(generate(&base(), &wrong, dir.path()).is_err(), "{wrong:?}");
    }
    // no episode of a random walk can be expected to succeed in so few steps
    let short = GridConfig { horizon: 6, filter: envs::LayoutFilter::None, ..base() };
    let spec = ShardSpec { episodes: 50, epsilon: 1.0, ..spec() };
    let message = generate(&short, &spec, dir.path()).unwrap_err().to_string();
    assert!(message.contains("successes"), "{message}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing half done is left");
}
