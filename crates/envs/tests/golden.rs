//! Every golden file: the grid world and its expert, the ant's rules, and `MuJoCo` roll-outs bit for
//! bit where the library is there.
//!
//! `GOLDEN_DIR` points the same program at other cases of the same schema.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::float_cmp, reason = "zeros, ones and copies are exact")]

use anyhow::{Context, Result, ensure};
use envs::arena::HEALTHY_Z;
use envs::task::Tasks;
use envs::{
    AntConfig, AntPinpad, AntV5, AntV5Config, Arena, ArenaConfig, Env, GridConfig, GridPinpad,
    Guide, Layout, LayoutFilter, ResetOptions,
};
use golden::{Case, Tolerance};
use std::cell::Cell;
use std::io::Write;

#[test]
fn golden() -> Result<()> {
    let skipped = Cell::new(0);
    golden::suite!()?
        .group("gridworld", check_gridworld)
        .group("expert_map", check_expert_map)
        .group("antlogic", check_antlogic)
        .group("mj_rollout", |case| physics(case, &skipped, check_mj_rollout))
        .group("antpinpad_rollout", |case| physics(case, &skipped, check_antpinpad))
        .group("antv5_rollout", |case| physics(case, &skipped, check_antv5))
        .run()?;
    if skipped.get() > 0 {
        // past the harness, which hides what passing tests print
        writeln!(
            std::io::stderr(),
            "SKIPPED {} golden files: no MuJoCo 4.0.0 (cargo xtask setup --mujoco)",
            skipped.get()
        )?;
    }
    Ok(())
}

/// Runs a check that needs the library, or counts it as skipped. Where the environment promises the
/// library (`MUJOCO_REQUIRED`, set in continuous integration), its absence is a failure.
fn physics(
    case: &Case,
    skipped: &Cell<usize>,
    check: impl FnOnce(&Case) -> Result<()>,
) -> Result<()> {
    if let Err(error) = envs::mujoco::find() {
        ensure!(std::env::var_os("MUJOCO_REQUIRED").is_none(), "{error}");
        skipped.set(skipped.get() + 1);
        // the error is what a user gets: it must say what to do
        case.ensure(error.to_string().contains("setup --mujoco"), || error.to_string());
        return Ok(());
    }
    check(case)
}

fn ints(case: &Case, name: &str) -> Result<Vec<i64>> {
    Ok(case.i64(name)?.iter().copied().collect())
}

fn one(case: &Case, name: &str) -> Result<i64> {
    let values = ints(case, name)?;
    ensure!(values.len() == 1, "{name}: expected one number, found {}", values.len());
    Ok(values[0])
}

fn cells(case: &Case, name: &str) -> Result<Vec<u16>> {
    ints(case, name)?.iter().map(|c| u16::try_from(*c).context("cell")).collect()
}

fn task(case: &Case) -> Result<Vec<u8>> {
    ints(case, "task")?.iter().map(|p| u8::try_from(*p).context("pad")).collect()
}

fn check_gridworld(case: &Case) -> Result<()> {
    let layout = Layout {
        pads: cells(case, "obj_pos")?,
        walls: cells(case, "wall_pos")?,
        agent: u16::try_from(one(case, "agent_pos")?)?,
    };
    let config = GridConfig {
        grid: usize::try_from(one(case, "grid_size")?)?,
        pads: layout.pads.len(),
        walls: layout.walls.len(),
        horizon: u32::try_from(one(case, "horizon")?)?,
        filter: LayoutFilter::None,
        tasks: Tasks::List(vec![vec![0]]),
        ..GridConfig::default()
    };
    let mut world = GridPinpad::new(&config)?;
    let options =
        ResetOptions { task: Some(task(case)?), layout: Some(layout), ..ResetOptions::default() };
    let (mut obs, _) = world.reset(Some(0), &options)?;

    let (mut agent, mut progress) = (vec![i64::from(world.agent())], vec![0]);
    let (mut visited, mut reward, mut terminated, mut truncated) = (vec![], vec![], vec![], vec![]);
    let mut ones = indices(&obs);
    let mut ends = obs.clone();
    let mut in_place = obs.clone();
    let mut last_reason = 0;
    for action in ints(case, "actions")? {
        let step = world.step(&usize::try_from(action)?)?;
        world.refresh(&mut in_place)?;
        obs = step.obs;
        case.ensure(obs == in_place, || "refresh differs from observe".into());
        agent.push(i64::from(world.agent()));
        progress.push(i64::from(step.info.progress));
        visited.push(i64::from(step.info.visited));
        reward.push(step.reward as f32);
        terminated.push(i64::from(step.terminated));
        truncated.push(i64::from(step.truncated));
        ones.extend(indices(&obs));
        last_reason = step.info.reason as i64;
    }
    ends.extend(&obs);
    case.check_flat("agent", &agent, Tolerance::EXACT);
    case.check_flat("progress", &progress, Tolerance::EXACT);
    case.check_flat("visited", &visited, Tolerance::EXACT);
    case.check_flat("reward", &reward, Tolerance::EXACT);
    case.check_flat("terminated", &terminated, Tolerance::EXACT);
    case.check_flat("truncated", &truncated, Tolerance::EXACT);
    case.check_flat("obs_ones", &ones, Tolerance::EXACT);
    case.check_flat("obs_first_last", &ends, Tolerance::EXACT);
    let want = match (terminated.last(), truncated.last(), reward.last()) {
        (Some(1), _, Some(1.0)) => 1,
        (Some(1), _, _) => 2,
        (_, Some(1), _) => 6,
        _ => 0,
    };
    case.ensure(last_reason == want, || format!("reason {last_reason}, expected {want}"));
    Ok(())
}

fn indices(obs: &[f32]) -> Vec<i64> {
    (0..obs.len()).filter(|i| obs[*i] == 1.0).map(|i| i as i64).collect()
}

fn check_expert_map(case: &Case) -> Result<()> {
    let grid = usize::try_from(one(case, "grid_size")?)?;
    let pads = cells(case, "obj_pos")?;
    let guide = Guide::new(grid, &pads, &cells(case, "wall_pos")?)?;
    let (mut dist, mut optimal) = (vec![], vec![]);
    for pad in 0..pads.len() as u8 {
        for cell in 0..(grid * grid) as u16 {
            dist.push(guide.dist(pad, cell)?.map_or(-1, |d| d as i64));
            optimal.extend(guide.optimal(pad, cell)?.map(i64::from));
        }
    }
    case.check_flat("dist", &dist, Tolerance::EXACT);
    case.check_flat("optimal", &optimal, Tolerance::EXACT);
    Ok(())
}

fn arena_config(case: &Case) -> Result<ArenaConfig> {
    Ok(ArenaConfig {
        grid: usize::try_from(one(case, "grid_size")?)?,
        pads: cells(case, "obj_pos")?.len(),
        walls: cells(case, "wall_pos")?.len(),
        cell: case.scalar("cell_size")?,
        horizon: u32::try_from(one(case, "horizon")?)?,
        tasks: Tasks::List(vec![vec![0]]),
        ..ArenaConfig::default()
    })
}

/// Pads and walls of a file; a free cell for the agent, which these cases do not use.
fn arena_layout(case: &Case, grid: usize) -> Result<Layout> {
    let (pads, walls) = (cells(case, "obj_pos")?, cells(case, "wall_pos")?);
    let free = |c: &u16| !pads.contains(c) && !walls.contains(c);
    let agent = (0..(grid * grid) as u16).find(free).context("no free cell")?;
    Ok(Layout { pads, walls, agent })
}

fn rows(case: &Case, name: &str) -> Result<Vec<Vec<f64>>> {
    let width = *case.shape(name)?.last().context("no matrix")?;
    let flat: Vec<f64> = case.f64(name)?.iter().copied().collect();
    Ok(flat.chunks(width).map(<[f64]>::to_vec).collect())
}

fn controls(case: &Case, name: &str) -> Result<Vec<[f64; 8]>> {
    rows(case, name)?
        .into_iter()
        .map(|r| r.try_into().map_err(|r| anyhow::anyhow!("expected 8 numbers, found {r:?}")))
        .collect()
}

/// The columns that all pinpad worlds share.
#[derive(Default)]
struct Columns {
    progress: Vec<i64>,
    visited: Vec<i64>,
    reward: Vec<f64>,
    terminated: Vec<i64>,
    truncated: Vec<i64>,
    reason: Vec<i64>,
}

impl Columns {
    fn push(&mut self, step: &envs::Transition) {
        self.progress.push(i64::from(step.info.progress));
        self.visited.push(i64::from(step.info.visited));
        self.reward.push(step.reward);
        self.terminated.push(i64::from(step.terminated));
        self.truncated.push(i64::from(step.truncated));
        self.reason.push(step.info.reason as i64);
    }

    fn check(&self, case: &Case) {
        case.check_flat("visited", &self.visited, Tolerance::EXACT);
        case.check_flat("reward", &self.reward, Tolerance::EXACT);
        case.check_flat("terminated", &self.terminated, Tolerance::EXACT);
        case.check_flat("truncated", &self.truncated, Tolerance::EXACT);
        case.check_flat("reason", &self.reason, Tolerance::EXACT);
    }
}

fn check_antlogic(case: &Case) -> Result<()> {
    let config = arena_config(case)?;
    let mut arena = Arena::new(&config)?;
    let xyz = rows(case, "xyz")?;
    let (first, rest) = xyz.split_first().context("no positions")?;
    arena.start(&task(case)?, &arena_layout(case, config.grid)?, [first[0], first[1]])?;
    let cell = |arena: &Arena| arena.cell().map_or(-1, i64::from);
    let mut seen = vec![cell(&arena)];
    let mut columns = Columns { progress: vec![0], ..Columns::default() };
    for p in rest {
        let healthy =
            p.iter().all(|v| v.is_finite()) && (HEALTHY_Z[0]..=HEALTHY_Z[1]).contains(&p[2]);
        columns.push(&arena.judge([p[0], p[1]], healthy)?);
        seen.push(cell(&arena));
    }
    case.check_flat("cell", &seen, Tolerance::EXACT);
    case.check_flat("progress", &columns.progress, Tolerance::EXACT);
    columns.check(case);
    Ok(())
}

fn check_mj_rollout(case: &Case) -> Result<()> {
    let (qpos, qvel) = (rows(case, "qpos")?, rows(case, "qvel")?);
    let states = envs::ant::simulate(&qpos[0], &qvel[0], &controls(case, "ctrl")?, 1)?;
    let part = |from: usize, to: usize| -> Vec<f64> {
        states.iter().flat_map(|s| s[from..to].iter().copied()).collect()
    };
    case.check_flat("qpos", &part(0, 15), Tolerance::EXACT);
    case.check_flat("qvel", &part(15, 29), Tolerance::EXACT);
    Ok(())
}

fn check_antpinpad(case: &Case) -> Result<()> {
    let config = AntConfig { arena: arena_config(case)?, ..AntConfig::default() };
    let mut ant = AntPinpad::new(&config)?;
    let options = ResetOptions {
        task: Some(task(case)?),
        layout: Some(arena_layout(case, config.arena.grid)?),
        qpos: Some(rows(case, "qpos")?.swap_remove(0)),
        qvel: Some(rows(case, "qvel")?.swap_remove(0)),
    };
    ant.reset(Some(0), &options)?;
    let (mut qpos, mut qvel, mut obs) =
        (ant.qpos().to_vec(), ant.qvel().to_vec(), ant.observation());
    let mut columns = Columns::default();
    for action in controls(case, "actions")? {
        columns.push(&ant.advance(&action)?);
        qpos.extend(ant.qpos());
        qvel.extend(ant.qvel());
        obs.extend(ant.observation());
    }
    case.check_flat("qpos", &qpos, Tolerance::EXACT);
    case.check_flat("qvel", &qvel, Tolerance::EXACT);
    // symlog goes through the logarithm of another mathematics library
    case.check_flat("obs", &obs, Tolerance::COPY);
    columns.check(case);
    Ok(())
}

fn check_antv5(case: &Case) -> Result<()> {
    let mut ant = AntV5::new(&AntV5Config::default())?;
    let start =
        |name| -> Result<Option<Vec<f64>>> { Ok(Some(case.f64(name)?.iter().copied().collect())) };
    let options =
        ResetOptions { qpos: start("qpos0")?, qvel: start("qvel0")?, ..Default::default() };
    ant.reset(Some(0), &options)?;
    let state = |ant: &AntV5| [ant.qpos(), ant.qvel()].concat();
    let (mut states, mut obs) = (state(&ant), ant.observation());
    let (mut reward, mut terminated, mut parts) = (vec![], vec![], vec![]);
    for action in controls(case, "actions")? {
        let step = ant.advance(&action)?;
        states.extend(state(&ant));
        obs.extend(ant.observation());
        reward.push(step.reward);
        terminated.push(i64::from(step.terminated));
        parts.extend(ant.reward_parts());
    }
    case.check_flat("state", &states, Tolerance::EXACT);
    case.check_flat("obs", &obs, Tolerance::EXACT);
    // sums over the action and the forces may be ordered otherwise
    case.check_flat("reward", &reward, Tolerance::F64);
    case.check_flat("reward_parts", &parts, Tolerance::F64);
    case.check_flat("terminated", &terminated, Tolerance::EXACT);
    Ok(())
}
