//! The ants, where the physics library is there; a test that is skipped says so.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use envs::{
    AntConfig, AntExpert, AntPinpad, AntV5, AntV5Config, Autoreset, Env, Frame, MotionConfig,
    MotionShard, MotionSpec, Reason, RenderMode, ResetOptions, Stream, Vector, VectorConfig,
    generate_motion, make,
};
use rand::RngExt;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Whether the library is there. If not, says how many tests were skipped, past the harness that
/// hides the output of tests that pass; with `MUJOCO_REQUIRED` it fails.
fn physics() -> bool {
    static SKIPPED: AtomicUsize = AtomicUsize::new(0);
    let Err(error) = envs::mujoco::find() else { return true };
    assert!(std::env::var_os("MUJOCO_REQUIRED").is_none(), "{error}");
    let count = SKIPPED.fetch_add(1, Ordering::SeqCst) + 1;
    // one write, so that lines of tests that run side by side stay whole
    let line = format!("SKIPPED {count} tests of the ant so far: {error}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    let made = make("ant-pinpad", serde_json::Value::Null).err().unwrap().to_string();
    assert!(made.contains("cargo xtask setup --mujoco"), "{made}");
    false
}

fn torques(stream: &mut Stream) -> [f64; 8] {
    std::array::from_fn(|_| stream.rng().random_range(-1.0..1.0))
}

/// Plays `n` steps with resets, and returns everything seen.
fn play<E: Env<Act = [f64; 8]>>(env: &mut E, stream: &mut Stream, n: usize) -> Vec<Vec<f32>> {
    let mut seen = vec![];
    for _ in 0..n {
        if !env.running() {
            seen.push(env.reset(None, &ResetOptions::default()).unwrap().0);
        }
        let step = env.step(&torques(stream)).unwrap();
        seen.push(step.obs);
        seen.push(vec![step.reward as f32, step.info.visited as f32]);
    }
    seen
}

fn restores<E: Env<Act = [f64; 8]>>(mut env: E, mut copy: E) {
    env.reset(Some(3), &ResetOptions::default()).unwrap();
    play(&mut env, &mut Stream::new(1, 0), 13);
    let state = env.state();
    let text = serde_json::to_string(&state).unwrap();
    copy.set_state(&serde_json::from_str(&text).unwrap()).unwrap();
    let look = |env: &E| {
        let mut obs = vec![0.0; env.observation_space().len()];
        env.observe(&mut obs).unwrap();
        obs
    };
    assert_eq!(look(&env), look(&copy));
    let future = |env: &mut E| play(env, &mut Stream::new(2, 0), 40);
    assert_eq!(future(&mut env), future(&mut copy));

    let mut bad = state.clone();
    bad.reals.pop();
    assert!(copy.set_state(&bad).is_err());
    bad = state;
    bad.ints[0] = 17;
    assert!(copy.set_state(&bad).is_err());
}

#[test]
fn a_restored_ant_has_the_same_future() {
    if physics() {
        let pinpad = || AntPinpad::new(&AntConfig::default()).unwrap();
        restores(pinpad(), pinpad());
        let v5 = || AntV5::new(&AntV5Config::default()).unwrap();
        restores(v5(), v5());
    }
}

#[test]
fn a_seeded_reset_forgets_the_episode_before() {
    if !physics() {
        return;
    }
    let mut env = AntPinpad::new(&AntConfig::default()).unwrap();
    let mut story = |warm: usize| {
        env.reset(Some(1), &ResetOptions::default()).unwrap();
        play(&mut env, &mut Stream::new(5, 0), warm);
        let (first, _) = env.reset(Some(9), &ResetOptions::default()).unwrap();
        (first, play(&mut env, &mut Stream::new(6, 0), 30))
    };
    assert_eq!(story(0), story(17));
}

#[test]
fn a_vector_of_ants_is_a_loop_of_singles_at_any_number_of_threads() {
    if !physics() {
        return;
    }
    let run = |threads: usize| {
        let ants = (0..5).map(|_| AntPinpad::new(&AntConfig::default()).unwrap()).collect();
        let config = VectorConfig { autoreset: Autoreset::SameStep, threads };
        let mut ants = Vector::new(ants, config).unwrap();
        let mut out = ants.buffers();
        ants.reset(Some(4), &ResetOptions::default(), &mut out).unwrap();
        let mut seen = vec![out.obs().to_vec()];
        let mut stream = Stream::new(4, 99);
        for _ in 0..30 {
            let actions: Vec<[f64; 8]> = (0..5).map(|_| torques(&mut stream)).collect();
            ants.step(&actions, &mut out).unwrap();
            seen.push(out.obs().to_vec());
        }
        seen
    };
    let one = run(1);
    assert_eq!(one, run(2));
    assert_eq!(one, run(3));

    let mut ant = AntPinpad::new(&AntConfig::default()).unwrap();
    ant.seed(4, 2);
    let (obs, _) = ant.reset(None, &ResetOptions::default()).unwrap();
    assert_eq!(obs, one[0][2 * 41..3 * 41]);
}

#[test]
fn bad_input_is_an_error_and_changes_nothing() {
    if !physics() {
        return;
    }
    let mut env = AntPinpad::new(&AntConfig::default()).unwrap();
    assert!(env.advance(&[0.0; 8]).is_err(), "no reset yet");
    env.reset(Some(0), &ResetOptions::default()).unwrap();
    let state = env.state();
    let mut action = [0.0; 8];
    action[3] = f64::NAN;
    let message = env.advance(&action).unwrap_err().to_string();
    assert!(message.contains("`action`: expected finite numbers, found NaN"), "{message}");
    assert_eq!(env.state(), state);

    let short = ResetOptions { qpos: Some(vec![0.0; 14]), ..ResetOptions::default() };
    assert!(env.restart(&short).is_err());
    let wild = ResetOptions { qvel: Some(vec![f64::INFINITY; 14]), ..ResetOptions::default() };
    assert!(env.restart(&wild).is_err());

    let model = |text: &str| AntConfig { model: Some(text.into()), ..AntConfig::default() };
    let message = AntPinpad::new(&model("<mujoco><nonsense/>")).unwrap_err().to_string();
    assert!(message.contains("compile the model"), "{message}");
    let message = AntPinpad::new(&model("<mujoco><worldbody/></mujoco>")).unwrap_err().to_string();
    assert!(message.contains("15 positions"), "{message}");
    let message = AntPinpad::new(&model("<muj\0oco/>")).unwrap_err().to_string();
    assert!(message.contains("compile the model"), "{message}");
    assert!(AntPinpad::new(&AntConfig { frame_skip: 0, ..AntConfig::default() }).is_err());
    assert!(AntV5::new(&AntV5Config { horizon: 0, ..AntV5Config::default() }).is_err());
    let weight = AntV5Config { ctrl_cost_weight: f64::NAN, ..AntV5Config::default() };
    assert!(AntV5::new(&weight).is_err());
}

#[test]
fn a_state_that_explodes_ends_the_episode() {
    if !physics() {
        return;
    }
    let mut env = AntPinpad::new(&AntConfig::default()).unwrap();
    let options = ResetOptions { qvel: Some(vec![1e200; 14]), ..ResetOptions::default() };
    env.reset(Some(0), &options).unwrap();
    let step = env.advance(&[0.0; 8]).unwrap();
    assert!(step.terminated && step.info.reason == Reason::Unhealthy && step.reward == 0.0);
    // and the next episode knows nothing of it
    let (obs, _) = env.reset(None, &ResetOptions::default()).unwrap();
    assert!(obs.iter().all(|v| v.is_finite()));
    assert!(env.step(&[0.0; 8]).unwrap().obs.iter().all(|v| v.is_finite()));
}

#[test]
fn the_scripted_expert_walks_to_every_pad() {
    if !physics() {
        return;
    }
    let mut env = AntPinpad::new(&AntConfig::default()).unwrap();
    let mut solved = 0;
    for episode in 0..12 {
        env.seed(11, episode);
        env.restart(&ResetOptions::default()).unwrap();
        let mut expert = AntExpert::new();
        while env.running() {
            let action = expert.act(&mut env);
            solved += u32::from(env.advance(&action).unwrap().reward > 0.0);
        }
    }
    // 97 in 100 on average: fewer than 9 of 12 would be a change for the worse
    assert!(solved >= 9, "{solved} of 12");
}

#[test]
fn initial_states_are_as_described() {
    if !physics() {
        return;
    }
    let mut env = AntPinpad::new(&AntConfig::default()).unwrap();
    env.seed(2, 0);
    let mut yaws = [0; 4];
    for _ in 0..200 {
        env.restart(&ResetOptions::default()).unwrap();
        let (qpos, qvel) = (env.qpos().to_vec(), env.qvel().to_vec());
        assert_eq!(env.arena().cell(), Some(env.arena().layout().agent));
        assert!((qpos[2] - 0.75).abs() < 1e-12);
        assert!((qpos[3..7].iter().map(|q| q * q).sum::<f64>() - 1.0).abs() < 1e-12);
        assert!(qpos[7..].iter().chain(&qvel).all(|v| v.abs() <= 0.1));
        let yaw = 2.0 * qpos[6].atan2(qpos[3]);
        yaws[((yaw.rem_euclid(std::f64::consts::TAU)) / std::f64::consts::FRAC_PI_2) as usize
            % 4] += 1;
    }
    assert!(yaws.iter().all(|n| *n > 25), "{yaws:?}");
}

#[test]
fn the_ant_is_drawn_from_above() {
    if !physics() {
        return;
    }
    let mut env = AntPinpad::new(&AntConfig::default()).unwrap();
    env.reset(Some(2), &ResetOptions::default()).unwrap();
    let picture = |env: &AntPinpad| match env.render(RenderMode::RgbArray { px: 32 }).unwrap() {
        Frame::Rgb(image) => image,
        Frame::Ansi(_) => panic!("text"),
    };
    let image = picture(&env);
    assert_eq!((image.width, image.height), (128, 128));
    for _ in 0..5 {
        env.advance(&[1.0; 8]).unwrap();
    }
    assert_ne!(image, picture(&env));
    let Frame::Ansi(text) = env.render(RenderMode::Ansi).unwrap() else { panic!("pixels") };
    assert!(text.contains('@') && text.contains('#') && text.contains("task ["), "{text}");
}

/// Data for the ant's pipeline: the file alone gives the episode again, noise included.
#[test]
fn expert_motion_replays_to_the_bit() {
    if !physics() {
        return;
    }
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = MotionConfig::Ant(AntConfig::default());
    let spec = MotionSpec { shards: 2, episodes: 2, seed: 1, noise: 0.1, threads: 1 };
    let files = generate_motion(&config, &spec, one.path()).unwrap();
    let again =
        generate_motion(&config, &MotionSpec { threads: 2, ..spec.clone() }, two.path()).unwrap();
    let mut world = AntPinpad::new(&AntConfig::default()).unwrap();
    for (file, same) in files.iter().zip(&again) {
        assert_eq!(std::fs::read(file).unwrap(), std::fs::read(same).unwrap());
        let shard = MotionShard::read(file).unwrap();
        assert_eq!((shard.len(), shard.obs_len(), shard.action_len()), (2, 41, 8));
        for at in 0..shard.len() {
            let episode = shard.episode(at).unwrap();
            world.seed(spec.seed, episode.index);
            world.restart(&ResetOptions::default()).unwrap();
            let (mut obs, mut reward) = (vec![0.0; 41], 0.0);
            for (expected, action) in episode.obs.chunks(41).zip(episode.actions.as_chunks::<8>().0)
            {
                world.observe(&mut obs).unwrap();
                assert_eq!(obs, expected);
                reward += world.advance(&action.map(f64::from)).unwrap().reward;
            }
            world.observe(&mut obs).unwrap();
            assert!(reward > 0.5 && !world.running() && episode.obs.ends_with(&obs));
        }
    }
}
