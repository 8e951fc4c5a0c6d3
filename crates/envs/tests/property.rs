//! The rules of the grid world against brute-force definitions, on random worlds.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::float_cmp, reason = "zeros, ones and copies are exact")]

use envs::task::{Subgoals, Tasks};
use envs::{
    Env, Expert, GridConfig, GridPinpad, Guide, LayoutFilter, ObsMode, Reason, ResetOptions,
    Stream, Ties, Trajectory,
};
use proptest::prelude::*;
use rand::RngExt;

const MOVES: [(i64, i64); 4] = [(-1, 0), (0, 1), (1, 0), (0, -1)];

fn config() -> impl Strategy<Value = GridConfig> {
    let sizes = (2_usize..7).prop_flat_map(|grid| {
        let cells = grid * grid;
        (Just(grid), 1..=8.min(cells - 1)).prop_flat_map(move |(grid, pads)| {
            (Just(grid), Just(pads), 0..=(cells - 1 - pads).min(5))
        })
    });
    let modes = prop_oneof![
        Just(ObsMode::OneHot),
        Just(ObsMode::Relative),
        Just(ObsMode::Compass { ties: Ties::All }),
        Just(ObsMode::Compass { ties: Ties::Fixed }),
    ];
    (sizes, modes, any::<bool>(), any::<bool>(), 1_u32..60).prop_map(
        |((grid, pads, walls), obs, scramble, obs_last_pad, horizon)| {
            let tasks = (0..pads as u8).map(|p| vec![p, (p + 1) % pads as u8]).collect();
            GridConfig {
                grid,
                pads,
                walls,
                horizon,
                obs,
                scramble,
                obs_last_pad,
                filter: LayoutFilter::None,
                tasks: Tasks::List(tasks),
                subgoals: Subgoals::Pads,
            }
        },
    )
}

/// The rules of section 1.1, written down a second time.
struct Reference {
    grid: i64,
    pads: Vec<u16>,
    walls: Vec<u16>,
    task: Vec<u8>,
    agent: u16,
    progress: usize,
    steps: u32,
    horizon: u32,
    last_pad: Option<usize>,
}

impl Reference {
    fn of(world: &GridPinpad) -> Self {
        let layout = world.layout();
        Self {
            grid: world.config().grid as i64,
            pads: layout.pads.clone(),
            walls: layout.walls.clone(),
            task: world.task().to_vec(),
            agent: layout.agent,
            progress: 0,
            steps: 0,
            horizon: world.config().horizon,
            last_pad: None,
        }
    }

    fn beside(&self, cell: u16, direction: usize) -> Option<u16> {
        let (row, col) = (i64::from(cell) / self.grid, i64::from(cell) % self.grid);
        let (row, col) = (row + MOVES[direction].0, col + MOVES[direction].1);
        let inside = (0..self.grid).contains(&row) && (0..self.grid).contains(&col);
        inside.then(|| (row * self.grid + col) as u16)
    }

    /// Moves in a direction; (visited, reward, terminated, truncated).
    fn go(&mut self, direction: usize) -> (i32, f64, bool, bool) {
        self.steps += 1;
        let to = self.beside(self.agent, direction).filter(|c| !self.walls.contains(c));
        let moved = to.is_some();
        self.agent = to.unwrap_or(self.agent);
        let pad = self.pads.iter().position(|c| *c == self.agent).filter(|_| moved);
        self.last_pad = pad.or(self.last_pad);
        let right = pad.is_some_and(|p| self.task.get(self.progress) == Some(&(p as u8)));
        self.progress += usize::from(right);
        let success = right && self.progress == self.task.len();
        let terminated = success || (pad.is_some() && !right);
        let truncated = !terminated && self.steps == self.horizon;
        (pad.map_or(-1, |p| p as i32), f64::from(u8::from(success)), terminated, truncated)
    }

    /// Length of the shortest way to a pad by relaxing until nothing changes.
    fn distances(&self, pad: usize) -> Vec<Option<usize>> {
        let cells = (self.grid * self.grid) as u16;
        let mut dist: Vec<Option<usize>> = vec![None; cells.into()];
        dist[usize::from(self.pads[pad])] = Some(0);
        loop {
            let mut changed = false;
            for cell in (0..cells).filter(|c| !self.walls.contains(c)) {
                for to in (0..4).filter_map(|d| self.beside(cell, d)) {
                    let enterable = to == self.pads[pad] || !self.pads.contains(&to);
                    let via = dist[usize::from(to)].filter(|_| enterable).map(|d| d + 1);
                    let slot = &mut dist[usize::from(cell)];
                    if via.is_some() && slot.is_none_or(|d| via.is_some_and(|v| v < d)) {
                        *slot = via;
                        changed = true;
                    }
                }
            }
            if !changed {
                return dist;
            }
        }
    }

    /// Directions that lie on a shortest way to a pad.
    fn best(&self, pad: usize) -> [bool; 4] {
        let dist = self.distances(pad);
        let here = dist[usize::from(self.agent)];
        std::array::from_fn(|d| {
            let Some(to) = self.beside(self.agent, d).filter(|c| !self.walls.contains(c)) else {
                return false;
            };
            let enterable = to == self.pads[pad] || !self.pads.contains(&to);
            enterable && here.is_some_and(|h| h > 0 && dist[usize::from(to)] == Some(h - 1))
        })
    }
}

/// The direction in which an action moves, found by looking where it leads.
fn direction(world: &GridPinpad, reference: &Reference, action: usize) -> usize {
    let to = world.target(action);
    if to != world.agent() {
        return (0..4).find(|d| reference.beside(reference.agent, *d) == Some(to)).unwrap();
    }
    // a bump: any direction that does not move gives the same result
    (0..4)
        .find(|d| {
            reference.beside(reference.agent, *d).is_none_or(|c| reference.walls.contains(&c))
        })
        .unwrap()
}

fn check_observation(world: &GridPinpad, reference: &Reference, obs: &[f32]) {
    let GridConfig { grid, pads, walls, .. } = *world.config();
    let (row, col) = (usize::from(world.agent()) / grid, usize::from(world.agent()) % grid);
    let tail = if world.config().obs_last_pad { pads + 1 } else { 0 };
    let (seen, last) = obs.split_at(obs.len() - tail);
    if tail > 0 {
        let want = reference.last_pad.unwrap_or(pads);
        assert!(last.iter().enumerate().all(|(i, x)| *x == f32::from(u8::from(i == want))));
    }
    match world.config().obs {
        ObsMode::OneHot => {
            assert_eq!(seen.len(), grid * grid * (pads + walls + 1));
            for (i, x) in seen.iter().enumerate() {
                let (cell, channel) = (i / (pads + walls), i % (pads + walls));
                let want = if i >= grid * grid * (pads + walls) {
                    i - grid * grid * (pads + walls) == usize::from(world.agent())
                } else if channel < pads {
                    usize::from(reference.pads[channel]) == cell
                } else {
                    usize::from(reference.walls[channel - pads]) == cell
                };
                assert_eq!(*x, f32::from(u8::from(want)), "at {i}");
            }
        }
        ObsMode::Relative => {
            let side = grid as f32;
            let cells = reference.pads.iter().chain(&reference.walls);
            for (pair, cell) in seen.chunks(2).zip(cells) {
                let (r, c) = (usize::from(*cell) / grid, usize::from(*cell) % grid);
                assert_eq!(pair[0], (r as f32 - row as f32) / side);
                assert_eq!(pair[1], (c as f32 - col as f32) / side);
            }
            assert_eq!(seen[seen.len() - 2..], [row as f32 / side, col as f32 / side]);
        }
        ObsMode::Compass { ties } => {
            assert_eq!(seen.len(), 4 * pads + 2 * grid);
            for pad in 0..pads {
                let best = reference.best(pad);
                let bits = &seen[4 * pad..4 * pad + 4];
                let shown = (0..4).filter(|a| bits[*a] == 1.0).collect::<Vec<_>>();
                let count = best.iter().filter(|b| **b).count();
                let want = if ties == Ties::Fixed { count.min(1) } else { count };
                assert_eq!(shown.len(), want, "pad {pad}");
                for action in shown {
                    assert!(best[direction(world, reference, action)], "pad {pad} {action}");
                }
            }
            let places = &seen[4 * pads..];
            let want = |i: usize| i == row || i == grid + col;
            assert!((0..2 * grid).all(|i| places[i] == f32::from(u8::from(want(i)))));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rules_and_observations_agree_with_the_brute_force(config in config(), seed: u64) {
        let mut world = GridPinpad::new(&config).unwrap();
        let mut choices = Stream::new(seed, 1);
        for episode in 0..4 {
            let seed = (episode == 0).then_some(seed);
            let (obs, info) = world.reset(seed, &ResetOptions::default()).unwrap();
            let mut reference = Reference::of(&world);
            prop_assert_eq!((info.step, info.progress, info.visited), (0, 0, -1));
            check_observation(&world, &reference, &obs);
            let mut in_place = obs;
            loop {
                let action = choices.rng().random_range(0..4);
                let way = direction(&world, &reference, action);
                let step = world.step(&action).unwrap();
                let want = reference.go(way);
                let got = (step.info.visited, step.reward, step.terminated, step.truncated);
                prop_assert_eq!(got, want);
                prop_assert_eq!(world.agent(), reference.agent);
                prop_assert_eq!(step.info.progress as usize, reference.progress);
                prop_assert_eq!(step.reward > 0.0, step.info.reason == Reason::Success);
                prop_assert!(!(step.terminated && step.truncated));
                check_observation(&world, &reference, &step.obs);
                world.refresh(&mut in_place).unwrap();
                prop_assert_eq!(&in_place, &step.obs);
                if step.terminated || step.truncated {
                    break;
                }
            }
        }
    }

    #[test]
    fn an_order_of_actions_is_a_permutation_and_stays(config in config(), seed: u64) {
        let config = GridConfig { scramble: true, walls: 0, ..config };
        let mut world = GridPinpad::new(&config).unwrap();
        world.reset(Some(seed), &ResetOptions::default()).unwrap();
        let reference = Reference::of(&world);
        let mut reached: Vec<u16> = (0..4).map(|a| world.target(a)).collect();
        let again: Vec<u16> = (0..4).map(|a| world.target(a)).collect();
        prop_assert_eq!(&reached, &again);
        let mut plain: Vec<u16> =
            (0..4).map(|d| reference.beside(reference.agent, d).unwrap_or(reference.agent)).collect();
        reached.sort_unstable();
        plain.sort_unstable();
        prop_assert_eq!(reached, plain);
    }

    #[test]
    fn a_restored_state_has_the_same_future(config in config(), seed: u64, pause in 0_usize..40) {
        let mut world = GridPinpad::new(&config).unwrap();
        world.reset(Some(seed), &ResetOptions::default()).unwrap();
        let mut actions = Stream::new(seed, 9);
        let mut play = |world: &mut GridPinpad, n: usize| {
            let mut seen = vec![];
            for _ in 0..n {
                let step = world.step(&actions.rng().random_range(0..4)).unwrap();
                if step.terminated || step.truncated {
                    let (obs, info) = world.reset(None, &ResetOptions::default()).unwrap();
                    seen.push((obs, info));
                }
                seen.push((step.obs, step.info));
            }
            seen
        };
        play(&mut world, pause);
        let state = world.state();
        let text = serde_json::to_string(&state).unwrap();
        let mut copy = GridPinpad::new(&config).unwrap();
        copy.set_state(&serde_json::from_str(&text).unwrap()).unwrap();
        prop_assert_eq!(copy.state(), state);
        let replay = |world: &mut GridPinpad| {
            let mut stream = Stream::new(seed ^ 0x55, 0);
            let mut seen = vec![];
            for _ in 0..60 {
                let step = world.step(&stream.rng().random_range(0..4)).unwrap();
                let end = step.terminated || step.truncated;
                seen.push((step.obs, step.info));
                if end {
                    seen.push(world.reset(None, &ResetOptions::default()).unwrap());
                }
            }
            seen
        };
        prop_assert_eq!(replay(&mut world), replay(&mut copy));
    }

    #[test]
    fn a_broken_state_is_refused_and_changes_nothing(config in config(), at in 0_usize..20, value: i64) {
        let mut world = GridPinpad::new(&config).unwrap();
        world.reset(Some(1), &ResetOptions::default()).unwrap();
        let good = world.state();
        let mut bad = good.clone();
        let at = at % bad.ints.len();
        bad.ints[at] = value;
        if world.set_state(&bad).is_ok() {
            // whatever was accepted can be stepped, drawn and seen
            let mut obs = vec![0.0; config.obs_len()];
            world.observe(&mut obs).unwrap();
            let _ = world.advance(&0);
            world.set_state(&good).unwrap();
        }
        prop_assert_eq!(world.state(), good.clone());
        bad.ints.truncate(8);
        prop_assert!(world.set_state(&bad).is_err());
        bad = good.clone();
        bad.reals.push(0.0);
        prop_assert!(world.set_state(&bad).is_err());
        bad = good;
        bad.env = "ant-v5".into();
        prop_assert!(world.set_state(&bad).is_err());
    }

    #[test]
    fn the_guide_agrees_with_the_brute_force(config in config(), seed: u64) {
        let mut world = GridPinpad::new(&config).unwrap();
        world.reset(Some(seed), &ResetOptions::default()).unwrap();
        let mut reference = Reference::of(&world);
        let layout = world.layout();
        let guide = Guide::new(config.grid, &layout.pads, &layout.walls).unwrap();
        for pad in 0..config.pads {
            let dist = reference.distances(pad);
            for cell in 0..(config.grid * config.grid) as u16 {
                prop_assert_eq!(guide.dist(pad as u8, cell).unwrap(), dist[usize::from(cell)]);
                reference.agent = cell;
                if !layout.walls.contains(&cell) {
                    prop_assert_eq!(guide.optimal(pad as u8, cell).unwrap(), reference.best(pad));
                }
            }
        }
    }

    #[test]
    fn the_expert_solves_every_solvable_layout_in_the_fewest_steps(
        config in config(), seed: u64, index: u64,
    ) {
        let config = GridConfig { horizon: 500, ..config };
        let mut world = GridPinpad::new(&config).unwrap();
        let mut expert = Expert::new(&world, 0.0).unwrap();
        let mut episode = Trajectory::default();
        expert.play(&mut world, seed, index, &mut episode).unwrap();
        let shortest = world.shortest();
        prop_assert_eq!(episode.success, shortest.is_some_and(|n| n <= 500));
        if episode.success {
            prop_assert_eq!(Some(episode.actions.len()), shortest);
        }
        let mut again = Trajectory::default();
        expert.play(&mut world, seed, index, &mut again).unwrap();
        prop_assert_eq!(episode, again);
    }

    #[test]
    fn an_exploring_expert_enters_no_wrong_pad_by_choice(seed: u64) {
        let config = GridConfig { horizon: 400, ..GridConfig::default() };
        let mut world = GridPinpad::new(&config).unwrap();
        let mut expert = Expert::new(&world, 0.3).unwrap();
        let mut episode = Trajectory::default();
        expert.play(&mut world, seed, 0, &mut episode).unwrap();
        // it may shut itself off behind a pad and run out of time, but it never steps on a wrong one
        prop_assert!(episode.success || episode.actions.len() == 400);
    }
}

#[test]
fn one_seed_is_one_story_and_a_reset_without_seed_goes_on() {
    let mut world = GridPinpad::new(&GridConfig::default()).unwrap();
    let options = ResetOptions::default();
    let first = world.reset(Some(5), &options).unwrap();
    let second = world.reset(None, &options).unwrap();
    assert_ne!(first.0, second.0, "a reset without a seed continues the stream");
    assert_eq!(world.reset(Some(5), &options).unwrap(), first);
    assert_eq!(world.reset(None, &options).unwrap(), second);
    let other = world.reset(Some(6), &options).unwrap();
    assert_ne!(first.0, other.0);
    // no seed at all is seed 0, so that a single episode can be had again
    let mut fresh = GridPinpad::new(&GridConfig::default()).unwrap();
    let unseeded = fresh.reset(None, &options).unwrap();
    assert_eq!(unseeded, world.reset(Some(0), &options).unwrap());
}

#[test]
fn the_default_observation_knows_where_the_agent_is() {
    let mut world = GridPinpad::new(&GridConfig::default()).unwrap();
    let (obs, _) = world.reset(Some(0), &ResetOptions::default()).unwrap();
    assert_eq!(obs.len(), 637);
    assert_eq!(obs.iter().filter(|x| **x == 1.0).count(), 13);
    let block = &obs[49 * 12..];
    assert_eq!(block.iter().position(|x| *x == 1.0), Some(usize::from(world.agent())));
    assert_eq!(block.iter().sum::<f32>(), 1.0);
}

#[test]
fn the_expert_is_uniform_over_its_best_moves() {
    // an empty 3x3 grid with the pad in the far corner: right and down are both optimal
    let config = GridConfig {
        grid: 3,
        pads: 1,
        walls: 0,
        tasks: Tasks::List(vec![vec![0]]),
        ..GridConfig::default()
    };
    let mut world = GridPinpad::new(&config).unwrap();
    let layout = envs::Layout { pads: vec![8], walls: vec![], agent: 0 };
    world.reset(Some(0), &ResetOptions { layout: Some(layout), ..Default::default() }).unwrap();
    let mut expert = Expert::new(&world, 0.0).unwrap();
    expert.begin(&world);
    assert_eq!(expert.optimal(&world), 0b0110);
    let mut counts = [0; 4];
    for _ in 0..1000 {
        counts[expert.act(&world)] += 1;
    }
    // 500 with standard deviation 16
    assert!(counts[0] + counts[3] == 0 && (420..=580).contains(&counts[1]), "{counts:?}");
}

#[test]
fn the_filter_lets_no_unsolvable_layout_through() {
    let crowded = GridConfig { walls: 16, horizon: 60, ..GridConfig::post() };
    let solvable = |filter| {
        let mut world = GridPinpad::new(&GridConfig { filter, ..crowded.clone() }).unwrap();
        (0..200)
            .filter(|_| {
                world.reset(None, &ResetOptions::default()).unwrap();
                world.shortest().is_some_and(|n| n <= 60)
            })
            .count()
    };
    assert_eq!(solvable(LayoutFilter::Solvable), 200);
    assert!(solvable(LayoutFilter::None) < 150);
}
