//! Ten million random steps through every observation and filter: no panic, no broken promise.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use envs::{
    Autoreset, GridConfig, GridPinpad, LayoutFilter, ObsMode, Reason, ResetOptions, Stream, Ties,
    Vector, VectorConfig,
};
use rand::RngExt;

const LANES: usize = 500;

#[test]
fn ten_million_random_steps() {
    let base = GridConfig::default;
    let configs = [
        base(),
        GridConfig { filter: LayoutFilter::None, walls: 12, ..base() },
        GridConfig { obs: ObsMode::Relative, obs_last_pad: true, ..GridConfig::post() },
        GridConfig { obs: ObsMode::Compass { ties: Ties::All }, scramble: true, ..base() },
        GridConfig::scrambled_compass(),
    ];
    // 20,000 steps of 500 worlds; fewer where every reset computes distance maps
    let steps = [8000, 5000, 4000, 1500, 1500];
    for (at, (config, steps)) in configs.into_iter().zip(steps).enumerate() {
        let world = GridPinpad::new(&config).unwrap();
        let vector = VectorConfig { autoreset: Autoreset::SameStep, threads: 1 };
        let mut worlds = Vector::new(vec![world; LANES], vector).unwrap();
        let mut out = worlds.buffers();
        worlds.reset(Some(at as u64), &ResetOptions::default(), &mut out).unwrap();
        let mut stream = Stream::new(at as u64, 1 << 40);
        let mut actions = vec![0; LANES];
        let mut ends = 0_usize;
        for _ in 0..steps {
            actions.fill_with(|| stream.rng().random_range(0..4));
            worlds.step(&actions, &mut out).unwrap();
            for lane in 0..LANES {
                let (terminated, truncated) = (out.terminated()[lane], out.truncated()[lane]);
                let ended = terminated || truncated;
                ends += usize::from(ended);
                let success = ended && out.final_infos()[lane].reason == Reason::Success;
                assert!(!(terminated && truncated));
                assert_eq!(out.rewards()[lane] > 0.0, success);
            }
        }
        assert!(ends > steps);
    }
}
