//! Vectors: equal to a loop of single environments, whatever the number of threads.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use envs::{
    Autoreset, Env, Error, GridConfig, GridPinpad, LayoutFilter, ObsMode, ResetOptions, Stream,
    Ties, Vector, VectorConfig,
};
use proptest::prelude::*;
use rand::RngExt;

const LANES: usize = 23;

fn worlds(config: &GridConfig, autoreset: Autoreset, threads: usize) -> Vector<GridPinpad> {
    let world = GridPinpad::new(config).unwrap();
    Vector::new(vec![world; LANES], VectorConfig { autoreset, threads }).unwrap()
}

fn actions(stream: &mut Stream) -> Vec<usize> {
    (0..LANES).map(|_| stream.rng().random_range(0..4)).collect()
}

/// What one lane of a vector should show, by a single environment.
struct Single {
    env: GridPinpad,
    over: bool,
}

type Seen = (Vec<f32>, f64, bool, bool, bool, envs::Info);

impl Single {
    fn step(&mut self, action: usize, mode: Autoreset) -> (Seen, Option<(Vec<f32>, envs::Info)>) {
        let options = ResetOptions::default();
        if self.over && mode == Autoreset::NextStep {
            self.over = false;
            let (obs, info) = self.env.reset(None, &options).unwrap();
            return ((obs, 0.0, false, false, true, info), None);
        }
        let step = self.env.step(&action).unwrap();
        let end = step.terminated || step.truncated;
        self.over = end;
        if end && mode == Autoreset::SameStep {
            let (obs, info) = self.env.reset(None, &options).unwrap();
            let seen = (obs, step.reward, step.terminated, step.truncated, false, info);
            return (seen, Some((step.obs, step.info)));
        }
        ((step.obs, step.reward, step.terminated, step.truncated, false, step.info), None)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_vector_is_a_loop_of_singles(
        seed: u64, mode in 0..3, threads in 1_usize..4, compass: bool, scramble: bool,
    ) {
        let mode = [Autoreset::NextStep, Autoreset::SameStep, Autoreset::Disabled][mode as usize];
        let obs = if compass { ObsMode::Compass { ties: Ties::Fixed } } else { ObsMode::OneHot };
        let config = GridConfig { obs, scramble, horizon: 25, ..GridConfig::default() };
        let mut vector = worlds(&config, mode, threads);
        let mut out = vector.buffers();
        let options = ResetOptions::default();
        vector.reset(Some(seed), &options, &mut out).unwrap();
        let mut singles: Vec<Single> = (0..LANES)
            .map(|lane| {
                let mut env = GridPinpad::new(&config).unwrap();
                env.seed(seed, lane as u64);
                let (obs, info) = env.reset(None, &options).unwrap();
                assert_eq!((out.row(lane), out.infos()[lane]), (obs.as_slice(), info));
                Single { env, over: false }
            })
            .collect();
        let mut choices = Stream::new(seed, 999);
        for at in 0..60 {
            let actions = actions(&mut choices);
            if at == 30 {
                // a caller who scales observations in place must not spoil the next ones
                out.obs_mut().fill(-7.0);
            }
            vector.step(&actions, &mut out).unwrap();
            let mut ended = vec![false; LANES];
            for (lane, single) in singles.iter_mut().enumerate() {
                let (want, last) = single.step(actions[lane], mode);
                let seen = (
                    out.row(lane).to_vec(),
                    out.rewards()[lane],
                    out.terminated()[lane],
                    out.truncated()[lane],
                    out.filler()[lane],
                    out.infos()[lane],
                );
                prop_assert_eq!(seen, want);
                if let Some((obs, info)) = last {
                    let len = config.obs_len();
                    prop_assert_eq!(&out.final_obs()[lane * len..(lane + 1) * len], obs.as_slice());
                    prop_assert_eq!(out.final_infos()[lane], info);
                }
                ended[lane] = single.over;
            }
            if mode == Autoreset::Disabled && ended.contains(&true) {
                vector.reset_lanes(&ended, &options, &mut out).unwrap();
                for (lane, single) in singles.iter_mut().enumerate().filter(|(l, _)| ended[*l]) {
                    let (obs, info) = single.env.reset(None, &options).unwrap();
                    single.over = false;
                    prop_assert_eq!(out.row(lane), obs.as_slice());
                    prop_assert_eq!(out.infos()[lane], info);
                }
            }
        }
    }
}

#[test]
fn one_lanes_error_does_not_harm_its_siblings() {
    let mut vector = worlds(&GridConfig::default(), Autoreset::NextStep, 2);
    let mut twin = worlds(&GridConfig::default(), Autoreset::NextStep, 1);
    let (mut out, mut twin_out) = (vector.buffers(), twin.buffers());
    let options = ResetOptions::default();
    vector.reset(Some(3), &options, &mut out).unwrap();
    twin.reset(Some(3), &options, &mut twin_out).unwrap();
    let mut actions = vec![1; LANES];
    twin.step(&actions, &mut twin_out).unwrap();
    let before = out.row(5).to_vec();
    actions[5] = 17;
    actions[9] = 4;
    let error = vector.step(&actions, &mut out).unwrap_err();
    assert!(matches!(error, Error::Lanes { failed: 2, lane: 5, .. }), "{error}");
    assert!(error.to_string().contains("`action`: expected 0 to 3, found 17"), "{error}");
    assert!(out.errors()[9].is_some() && out.errors()[8].is_none());
    assert_eq!(out.row(5), before);
    for lane in (0..LANES).filter(|l| ![5, 9].contains(l)) {
        assert_eq!(out.row(lane), twin_out.row(lane));
    }
    vector.step(&[1; LANES], &mut out).unwrap();
    assert!(out.errors().iter().all(Option::is_none));
}

#[test]
fn misuse_is_an_error_before_anything_moves() {
    let mut vector = worlds(&GridConfig::default(), Autoreset::Disabled, 1);
    let mut out = vector.buffers();
    assert!(vector.step(&[0; LANES], &mut out).is_err(), "no reset yet");
    vector.reset(Some(0), &ResetOptions::default(), &mut out).unwrap();
    let states = vector.states();
    assert!(vector.step(&[0; LANES - 1], &mut out).is_err());
    let small = GridPinpad::new(&GridConfig::scrambled_compass()).unwrap();
    let other = Vector::new(vec![small.clone(); LANES], VectorConfig::default()).unwrap();
    assert!(vector.step(&[0; LANES], &mut other.buffers()).is_err());
    assert!(vector.reset_lanes(&[true], &ResetOptions::default(), &mut out).is_err());
    assert_eq!(vector.states(), states);
    // stepping an ended episode is an error of its lane
    let mut ended = false;
    for _ in 0..101 {
        ended |= vector.step(&[1; LANES], &mut out).is_err();
    }
    assert!(ended);
    let mixed = vec![GridPinpad::new(&GridConfig::default()).unwrap(), small];
    assert!(Vector::new(mixed, VectorConfig::default()).is_err());
    assert!(Vector::<GridPinpad>::new(vec![], VectorConfig::default()).is_err());
}

#[test]
fn stored_states_go_on_alike_and_a_bad_one_changes_nothing() {
    let filter = LayoutFilter::None;
    let config = GridConfig { horizon: 12, filter, ..GridConfig::default() };
    let mut vector = worlds(&config, Autoreset::SameStep, 2);
    let mut out = vector.buffers();
    vector.reset(Some(3), &ResetOptions::default(), &mut out).unwrap();
    let mut choices = Stream::new(0, 0);
    for _ in 0..20 {
        vector.step(&actions(&mut choices), &mut out).unwrap();
    }
    let states = vector.states();
    let mut copy = worlds(&config, Autoreset::SameStep, 1);
    let mut copy_out = copy.buffers();
    copy.set_states(&states, &mut copy_out).unwrap();
    assert_eq!(out.obs(), copy_out.obs());
    for _ in 0..20 {
        let actions = actions(&mut choices);
        vector.step(&actions, &mut out).unwrap();
        copy.step(&actions, &mut copy_out).unwrap();
        assert_eq!((out.obs(), out.rewards()), (copy_out.obs(), copy_out.rewards()));
    }
    let now = copy.states();
    let mut bad = states;
    bad[7].ints.pop();
    assert!(copy.set_states(&bad, &mut copy_out).is_err());
    assert_eq!(copy.states(), now);
}

#[test]
fn a_lane_does_not_depend_on_the_number_of_lanes() {
    let world = GridPinpad::new(&GridConfig::default()).unwrap();
    let mut big = worlds(&GridConfig::default(), Autoreset::NextStep, 1);
    let mut small = Vector::new(vec![world; 2], VectorConfig::default()).unwrap();
    let (mut big_out, mut small_out) = (big.buffers(), small.buffers());
    big.reset(Some(8), &ResetOptions::default(), &mut big_out).unwrap();
    small.reset(Some(8), &ResetOptions::default(), &mut small_out).unwrap();
    assert_eq!(big_out.row(1), small_out.row(1));
    assert_ne!(big_out.row(0), big_out.row(1));
}
