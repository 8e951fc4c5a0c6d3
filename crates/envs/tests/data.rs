//! Expert episodes in files: repeatable to the byte, complete or absent, checked when read.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::float_cmp, reason = "zeros, ones and copies are exact")]

use envs::{
    ArenaConfig, Env, GridConfig, GridPinpad, MotionConfig, MotionShard, MotionSpec, PointPinpad,
    ResetOptions, Shard, ShardSpec, generate, generate_motion,
};
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

fn motion() -> MotionSpec {
    MotionSpec { shards: 2, episodes: 5, seed: 3, noise: 0.2, threads: 1 }
}

#[test]
fn motion_comes_back_and_replays_to_the_bit() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let arena = ArenaConfig::default();
    let config = MotionConfig::Point(arena.clone());
    let files = generate_motion(&config, &motion(), one.path()).unwrap();
    let again =
        generate_motion(&config, &MotionSpec { threads: 2, ..motion() }, two.path()).unwrap();
    let mut world = PointPinpad::new(&arena).unwrap();
    for (file, same) in files.iter().zip(&again) {
        assert_eq!(fs::read(file).unwrap(), fs::read(same).unwrap());
        let shard = MotionShard::read(file).unwrap();
        assert_eq!((shard.len(), shard.config(), shard.spec()), (5, &config, &motion()));
        for at in 0..shard.len() {
            let episode = shard.episode(at).unwrap();
            world.seed(motion().seed, episode.index);
            let mut info = world.restart(&ResetOptions::default()).unwrap();
            assert_eq!(info.task, episode.task);
            let (mut observations, mut reward) = (episode.obs.chunks(shard.obs_len()), 0.0);
            let mut obs = vec![0.0; shard.obs_len()];
            world.observe(&mut obs).unwrap();
            assert_eq!(observations.next().unwrap(), obs);
            for (action, subgoal) in
                episode.actions.as_chunks::<2>().0.iter().zip(&episode.subgoals)
            {
                assert_eq!(info.subgoal, i32::from(*subgoal));
                let step = world.step(&action.map(f64::from)).unwrap();
                assert_eq!(observations.next().unwrap(), step.obs);
                (info, reward) = (step.info, reward + step.reward);
            }
            assert!(reward == 1.0 && !world.running() && observations.next().is_none());
        }
        assert!(shard.episode(5).is_err());
    }
    let grid = generate(&GridConfig::default(), &ShardSpec { shards: 1, ..spec() }, one.path());
    let message = MotionShard::read(&grid.unwrap()[0]).unwrap_err().to_string();
    assert!(message.contains("about.format"), "{message}");
}

#[test]
fn damaged_motion_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let config = MotionConfig::Point(ArenaConfig::default());
    let small = MotionSpec { shards: 1, episodes: 1, ..motion() };
    let file = generate_motion(&config, &small, dir.path()).unwrap().remove(0);
    let good = fs::read(&file).unwrap();
    let broken = dir.path().join("broken.safetensors");
    for length in [0, 7, 100, good.len() / 2, good.len() - 1] {
        fs::write(&broken, &good[..length]).unwrap();
        let message = MotionShard::read(&broken).unwrap_err().to_string();
        assert!(message.contains("broken.safetensors"), "{message}");
    }
    let values = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    for at in (0..values).chain((values..good.len()).step_by(31)) {
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        fs::write(&broken, &bytes).unwrap();
        if let Ok(shard) = MotionShard::read(&broken) {
            (0..shard.len()).for_each(|k| drop(shard.episode(k).unwrap()));
        }
    }
    for wrong in [
        MotionSpec { noise: -0.1, ..motion() },
        MotionSpec { noise: f64::NAN, ..motion() },
        MotionSpec { episodes: 0, ..motion() },
    ] {
        assert!(generate_motion(&config, &wrong, dir.path()).is_err(), "{wrong:?}");
    }
}
