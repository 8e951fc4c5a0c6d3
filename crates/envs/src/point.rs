//! point-pinpad: a continuous pinpad world without a physics library (section 2, proposal a), and
//! its scripted expert.

use crate::arena::{Arena, ArenaConfig};
use crate::env::{Env, Info, Phase, ResetOptions, State, Transition};
use crate::error::{Error, Result, ensure, ensure_len};
use crate::layout::DIRECTIONS;
use crate::render::{self, Frame, RenderMode};
use crate::space::Space;
use crate::stream::Stream;

/// Seconds per step.
const DT: f64 = 0.05;
/// Greatest speed in metres per second.
const TOP_SPEED: f64 = 3.0;

/// A point of mass on the arena of the ant: `v' = 0.9 v + 0.5 a`, at most 3 m/s; `p' = p + 0.05 v'`.
///
/// Actions are two forces, clamped to -1 to 1. Observations are symlog of the velocity (2), then
/// parts 2 to 4 of the ant's: 16 numbers for four pads and one wall.
#[derive(Clone, Debug)]
pub struct PointPinpad {
    arena: Arena,
    stream: Stream,
    spaces: [Space; 2],
    place: [f64; 2],
    velocity: [f64; 2],
}

impl PointPinpad {
    /// A world at stream 0 of seed 0.
    ///
    /// # Errors
    /// A field of the configuration does not fit.
    pub fn new(config: &ArenaConfig) -> Result<Self> {
        let arena = Arena::new(config)?;
        let len = 2 + arena.obs_len();
        Ok(Self {
            arena,
            stream: Stream::new(0, 0),
            spaces: [
                Space::vector(f64::NEG_INFINITY, f64::INFINITY, len),
                Space::vector(-1.0, 1.0, 2),
            ],
            place: [0.0; 2],
            velocity: [0.0; 2],
        })
    }

    /// The arena with task and progress.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Position in metres.
    pub fn place(&self) -> [f64; 2] {
        self.place
    }

    /// Velocity in metres per second.
    pub fn velocity(&self) -> [f64; 2] {
        self.velocity
    }
}

/// Two chosen numbers, finite.
fn pair(name: &'static str, values: &[f64]) -> Result<[f64; 2]> {
    ensure_len(name, 2, values.len())?;
    let finite = values.iter().all(|v| v.is_finite());
    ensure(finite, name, || "finite numbers".into(), format!("{values:?}"))?;
    Ok([values[0], values[1]])
}

impl Env for PointPinpad {
    type Act = [f64; 2];

    fn name(&self) -> &'static str {
        "point-pinpad"
    }

    fn observation_space(&self) -> &Space {
        &self.spaces[0]
    }

    fn action_space(&self) -> &Space {
        &self.spaces[1]
    }

    fn seed(&mut self, seed: u64, stream: u64) {
        self.stream = Stream::new(seed, stream);
    }

    fn running(&self) -> bool {
        self.arena.phase == Phase::Running
    }

    fn restart(&mut self, options: &ResetOptions) -> Result<Info> {
        let place = options.qpos.as_deref().map(|v| pair("qpos", v)).transpose()?;
        let velocity = options.qvel.as_deref().map(|v| pair("qvel", v)).transpose()?;
        self.arena.prepare(options.task.as_ref(), options.layout.as_ref(), &mut self.stream)?;
        let half = self.arena.config().cell / 2.0;
        let centre = self.arena.centre(self.arena.layout().agent);
        let drawn = centre.map(|c| c + self.stream.uniform(-half, half));
        self.place = place.unwrap_or(drawn);
        self.velocity = velocity.unwrap_or([0.0; 2]);
        Ok(self.arena.enter(self.place[0], self.place[1]))
    }

    fn advance(&mut self, action: &[f64; 2]) -> Result<Transition> {
        self.arena.phase.ensure_running()?;
        if let Some(wrong) = action.iter().find(|a| !a.is_finite()) {
            return Err(Error::argument("action", "finite numbers", wrong));
        }
        for (v, a) in self.velocity.iter_mut().zip(action) {
            *v = 0.9 * *v + 0.5 * a.clamp(-1.0, 1.0);
        }
        let speed = self.velocity[0].hypot(self.velocity[1]);
        let scale = if speed > TOP_SPEED { TOP_SPEED / speed } else { 1.0 };
        for (p, v) in self.place.iter_mut().zip(&mut self.velocity) {
            *v *= scale;
            *p += DT * *v;
        }
        self.arena.judge(self.place, true)
    }

    fn observe(&self, obs: &mut [f32]) -> Result<()> {
        ensure_len("obs", self.spaces[0].len(), obs.len())?;
        let mut slots = obs.iter_mut();
        let mut push = |v: f64| {
            if let Some(slot) = slots.next() {
                *slot = v as f32;
            }
        };
        self.velocity.iter().for_each(|v| push(v.signum() * v.abs().ln_1p()));
        self.arena.observe(self.place[0], self.place[1], push);
        Ok(())
    }

    fn state(&self) -> State {
        State {
            env: self.name().into(),
            ints: self.arena.store(),
            reals: [self.place, self.velocity].concat(),
            rng: self.stream.state(),
        }
    }

    fn set_state(&mut self, state: &State) -> Result<()> {
        let arena = self.arena.restored(state, self.name(), 4)?;
        let place = pair("state.reals", &state.reals[..2])?;
        let velocity = pair("state.reals", &state.reals[2..])?;
        self.stream = Stream::restore(&state.rng)?;
        (self.arena, self.place, self.velocity) = (arena, place, velocity);
        Ok(())
    }

    fn render(&self, mode: RenderMode) -> Result<Frame> {
        let RenderMode::RgbArray { px } = mode else { return Ok(Frame::Ansi(self.arena.ansi())) };
        let mut canvas = self.arena.draw(px)?;
        let at = self.arena.pixel(px, self.place);
        canvas.disc(at, px as f64 * 0.14, render::INK);
        canvas.disc(at, px as f64 * 0.09, render::BODY);
        Ok(Frame::Rgb(canvas.finish()))
    }
}

/// Steers a point along the shortest way of cells to the next pad, with Gaussian noise on its
/// actions.
#[derive(Clone, Debug)]
pub struct PointExpert {
    noise: f64,
    stream: Stream,
}

impl PointExpert {
    /// An expert whose actions have noise of this standard deviation.
    ///
    /// # Errors
    /// `noise` is negative or not finite.
    pub fn new(noise: f64, seed: u64) -> Result<Self> {
        let fits = noise.is_finite() && noise >= 0.0;
        ensure(fits, "noise", || "a finite number, at least 0".into(), noise)?;
        Ok(Self { noise, stream: Stream::new(seed, 0) })
    }

    /// Chooses an action: towards the centre of the next cell on the way, or, where there is none,
    /// braking.
    pub fn act(&mut self, world: &mut PointPinpad) -> [f64; 2] {
        let wanted = Self::wanted(world);
        let mut action = [0.0; 2];
        for (axis, slot) in action.iter_mut().enumerate() {
            // the force that gives the wanted velocity in one step
            let force = (wanted[axis] - 0.9 * world.velocity[axis]) / 0.5;
            let noise = if self.noise > 0.0 { self.noise * self.stream.normal() } else { 0.0 };
            *slot = (force + noise).clamp(-1.0, 1.0);
        }
        action
    }

    /// The velocity that leads to the next cell.
    fn wanted(world: &mut PointPinpad) -> [f64; 2] {
        let ways = world.arena.ways();
        let Some(cell) = world.arena.cell() else { return [0.0; 2] };
        let side = world.arena.config().cell;
        let [cx, cy] = world.arena.centre(cell);
        // the two cells that a step of a way joins form a rectangle, so a straight line to the
        // next centre stays within them; of several ways the nearest centre is taken
        let goals = (0..4).filter(|d| ways[*d]).map(|d| {
            let (row, col) = DIRECTIONS[d];
            [cx + side * f64::from(col), cy + side * f64::from(row)]
        });
        let distance = |g: &[f64; 2]| (g[0] - world.place[0]).hypot(g[1] - world.place[1]);
        let Some(goal) = goals.min_by(|a, b| distance(a).total_cmp(&distance(b))) else {
            return [0.0; 2];
        };
        let far = distance(&goal).max(f64::MIN_POSITIVE);
        // at half a cell per second it turns within a twentieth of a cell
        let speed = (side * 0.75).min(far / DT);
        [0, 1].map(|axis| (goal[axis] - world.place[axis]) / far * speed)
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the numbers are exact")]
mod tests {
    use super::*;
    use crate::env::Reason;

    #[test]
    fn the_point_obeys_its_equations() {
        let mut world = PointPinpad::new(&ArenaConfig::default()).unwrap();
        let options = ResetOptions {
            qpos: Some(vec![0.5, 0.5]),
            qvel: Some(vec![1.0, 0.0]),
            ..ResetOptions::default()
        };
        world.restart(&options).unwrap();
        world.advance(&[0.4, -9.0]).unwrap();
        assert_eq!(world.velocity(), [0.9 + 0.5 * 0.4, -0.5]);
        assert_eq!(world.place(), [0.5 + 0.05 * world.velocity()[0], 0.5 - 0.025]);
        world.restart(&ResetOptions { qvel: Some(vec![30.0, 40.0]), ..options }).unwrap();
        world.advance(&[0.0, 0.0]).unwrap();
        let [vx, vy] = world.velocity();
        assert!((vx.hypot(vy) - 3.0).abs() < 1e-12 && (vy / vx - 4.0 / 3.0).abs() < 1e-12);
        assert!(world.running() && world.advance(&[f64::NAN, 0.0]).is_err());
    }

    #[test]
    fn the_expert_solves_nearly_every_task() {
        let mut world = PointPinpad::new(&ArenaConfig::default()).unwrap();
        let mut expert = PointExpert::new(0.1, 0).unwrap();
        let mut ends = [0; 7];
        for episode in 0..300 {
            world.seed(0, episode);
            world.restart(&ResetOptions::default()).unwrap();
            while world.running() {
                let action = expert.act(&mut world);
                let step = world.advance(&action).unwrap();
                if step.ended() {
                    ends[step.info.reason as usize] += 1;
                }
            }
        }
        assert!(ends[Reason::Success as usize] >= 290, "{ends:?}");
    }

    #[test]
    fn a_restored_state_has_the_same_future() {
        let mut world = PointPinpad::new(&ArenaConfig::default()).unwrap();
        world.reset(Some(4), &ResetOptions::default()).unwrap();
        world.advance(&[0.3, 0.2]).unwrap();
        let mut copy = PointPinpad::new(&ArenaConfig::default()).unwrap();
        copy.set_state(&world.state()).unwrap();
        for _ in 0..20 {
            if world.running() {
                assert_eq!(world.step(&[0.1, -0.3]).unwrap(), copy.step(&[0.1, -0.3]).unwrap());
            }
        }
        let mut bad = world.state();
        bad.reals[0] = f64::NAN;
        assert!(copy.set_state(&bad).is_err());
        bad.reals.pop();
        assert!(copy.set_state(&bad).is_err());
    }
}
