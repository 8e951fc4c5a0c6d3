//! Steps per second: `cargo bench -p envs`.
#![allow(missing_docs, reason = "criterion's macros make the items")]
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use envs::{
    AntConfig, AntPinpad, AntV5, AntV5Config, Env, Expert, GridConfig, GridPinpad, ResetOptions,
    Stream, Trajectory, Vector, VectorConfig,
};
use rand::RngExt;
use std::time::{Duration, Instant};

const LANES: usize = 1024;

fn random_actions() -> Vec<Vec<usize>> {
    let mut stream = Stream::new(0, 0);
    (0..64).map(|_| (0..LANES).map(|_| stream.rng().random_range(0..4)).collect()).collect()
}

fn grid(c: &mut Criterion) {
    let mut group = c.benchmark_group("gridworld-pinpad");
    let actions = random_actions();

    let mut world = GridPinpad::new(&GridConfig::default()).unwrap();
    group.throughput(Throughput::Elements(LANES as u64));
    let mut row = actions.iter().cycle();
    group.bench_function("one world, no observation, resets included", |b| {
        b.iter(|| {
            for action in row.next().unwrap() {
                if !world.running() {
                    world.restart(&ResetOptions::default()).unwrap();
                }
                world.advance(action).unwrap();
            }
        });
    });

    for (name, config) in
        [("one-hot 637", GridConfig::default()), ("compass 26", GridConfig::scrambled_compass())]
    {
        for threads in [1, 2] {
            let world = GridPinpad::new(&config).unwrap();
            let config = VectorConfig { threads, ..VectorConfig::default() };
            let mut worlds = Vector::new(vec![world; LANES], config).unwrap();
            let mut out = worlds.buffers();
            worlds.reset(Some(1), &ResetOptions::default(), &mut out).unwrap();
            let mut row = actions.iter().cycle();
            let name = format!("{LANES} worlds, {name}, {threads} threads");
            group.bench_function(&name, |b| {
                let out = &mut out;
                let row = &mut row;
                // as a roll-out does it: the whole loop runs on a thread of the vector
                b.iter_custom(|steps| {
                    worlds.install(|worlds| {
                        let start = Instant::now();
                        for _ in 0..steps {
                            worlds.step(row.next().unwrap(), out).unwrap();
                        }
                        start.elapsed()
                    })
                });
            });
            if threads > 1 {
                group.bench_function(format!("{name}, stepped from outside"), |b| {
                    b.iter(|| worlds.step(row.next().unwrap(), &mut out).unwrap());
                });
            }
        }
    }
    group.finish();
}

/// Seconds for so many expert steps; whole episodes are played, and the time is scaled.
fn expert(c: &mut Criterion) {
    let mut group = c.benchmark_group("expert data");
    group.throughput(Throughput::Elements(1));
    for (name, config) in
        [("grid", GridConfig::default()), ("compass", GridConfig::scrambled_compass())]
    {
        let mut world = GridPinpad::new(&config).unwrap();
        let mut expert = Expert::new(&world, 0.0).unwrap();
        let mut episode = Trajectory::default();
        let mut index = 0;
        group.bench_function(format!("{name}, steps of whole episodes"), |b| {
            b.iter_custom(|steps| {
                let (start, mut done) = (Instant::now(), 0);
                while done < steps {
                    expert.play(&mut world, 0, index, &mut episode).unwrap();
                    index += 1;
                    done += episode.actions.len() as u64;
                }
                start.elapsed().mul_f64(steps as f64 / done as f64)
            });
        });
    }
    group.finish();
}

fn ant(c: &mut Criterion) {
    if let Err(error) = envs::mujoco::find() {
        eprintln!("SKIPPED the ant's benches: {error}");
        return;
    }
    let mut group = c.benchmark_group("ant");
    // the same motor commands in all, so that all simulate the same motions
    let mut stream = Stream::new(7, 0);
    let actions: Vec<[f64; 8]> =
        (0..400).map(|_| std::array::from_fn(|_| stream.rng().random_range(-0.3..0.3))).collect();
    group.throughput(Throughput::Elements(actions.len() as u64));
    let mut qpos = vec![0.0; 15];
    (qpos[2], qpos[3]) = (0.75, 1.0);
    let options = ResetOptions {
        qpos: Some(qpos.clone()),
        qvel: Some(vec![0.0; 14]),
        ..ResetOptions::default()
    };
    // an environment that lives keeps the compiled model
    let mut env = AntPinpad::new(&AntConfig::default()).unwrap();
    group.bench_function("bare library, control steps of 5 mj_step", |b| {
        b.iter(|| envs::ant::simulate(&qpos, &[0.0; 14], &actions, 5).unwrap());
    });
    let mut obs = vec![0.0; env.observation_space().len()];
    let on_floor = ResetOptions {
        layout: Some(envs::Layout { pads: vec![0, 3, 12, 15], walls: vec![1], agent: 5 }),
        ..options.clone()
    };
    group.bench_function("ant-pinpad, control steps with observation", |b| {
        b.iter(|| {
            env.restart(&on_floor).unwrap();
            for action in &actions {
                env.advance(action).unwrap();
                env.observe(&mut obs).unwrap();
            }
        });
    });
    // The overhead is smaller than what this machine drifts by between two benchmarks, so both are
    // timed in turn.
    let mut time = |bare: bool| {
        let start = Instant::now();
        if bare {
            envs::ant::simulate(&qpos, &[0.0; 14], &actions, 5).unwrap();
        } else {
            env.restart(&on_floor).unwrap();
            for action in &actions {
                env.advance(action).unwrap();
                env.observe(&mut obs).unwrap();
            }
        }
        start.elapsed().as_secs_f64()
    };
    let mut ratios: Vec<f64> = (0..41)
        .map(|round| {
            // whichever comes first finds the caches of the other
            if round % 2 == 0 {
                let bare = time(true);
                time(false) / bare
            } else {
                let ours = time(false);
                ours / time(true)
            }
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    eprintln!(
        "ant-pinpad with observation over the bare library, median of {} pairs: {:.3} (middle half {:.3} to {:.3})",
        ratios.len(),
        ratios[20],
        ratios[10],
        ratios[30]
    );
    let mut env = AntV5::new(&AntV5Config::default()).unwrap();
    let mut obs = vec![0.0; env.observation_space().len()];
    group.bench_function("ant-v5, control steps with observation", |b| {
        b.iter(|| {
            env.restart(&options).unwrap();
            for action in &actions {
                env.advance(action).unwrap();
                env.observe(&mut obs).unwrap();
            }
        });
    });
    for threads in [1, 2] {
        let ants = (0..64).map(|_| AntPinpad::new(&AntConfig::default()).unwrap()).collect();
        let mut ants = Vector::new(ants, VectorConfig { threads, ..Default::default() }).unwrap();
        let mut out = ants.buffers();
        ants.reset(Some(1), &ResetOptions::default(), &mut out).unwrap();
        group.throughput(Throughput::Elements(64));
        let mut at = actions.iter().cycle();
        group.bench_function(format!("64 ants, {threads} threads"), |b| {
            b.iter(|| ants.step(&[*at.next().unwrap(); 64], &mut out).unwrap());
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = grid, expert, ant
}
criterion_main!(benches);
