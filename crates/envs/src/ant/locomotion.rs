//! Ant-v5: gymnasium's locomotion task, number for number (section 3).

use super::{NBODY, NQ, NU, NV, body, check_action, check_start, healthy, simulation};
use crate::arena::{Arena, ArenaConfig};
use crate::env::{Env, Info, Phase, Reason, ResetOptions, State, StateReader, Transition};
use crate::error::{Result, ensure, ensure_len};
use crate::mujoco::Sim;
use crate::render::{Frame, RenderMode};
use crate::space::Space;
use crate::stream::Stream;
use crate::task::Tasks;
use serde::{Deserialize, Serialize};

/// Numbers in `cfrc_ext`: six per body.
const FORCES: usize = 6 * NBODY;
/// Physics steps of 0.01 s per control step.
const FRAME_SKIP: usize = 5;
/// Seconds per control step.
const DT: f64 = 0.05;

/// Configuration of [`AntV5`]; defaults are gymnasium's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AntV5Config {
    /// Factor of the forward velocity in the reward.
    pub forward_reward_weight: f64,
    /// Reward per healthy step.
    pub healthy_reward: f64,
    /// Factor of the squared motor commands.
    pub ctrl_cost_weight: f64,
    /// Factor of the squared contact forces.
    pub contact_cost_weight: f64,
    /// Whether an unhealthy state ends the episode.
    pub terminate_when_unhealthy: bool,
    /// Healthy heights of the torso.
    pub healthy_z_range: [f64; 2],
    /// Contact forces are cut to this range.
    pub contact_force_range: [f64; 2],
    /// Half width of the noise of positions and standard deviation of that of velocities at reset.
    pub reset_noise_scale: f64,
    /// Time limit in control steps, 1 to 2^30.
    pub horizon: u32,
    /// MJCF text of another model with the sizes of the ant; none for the built-in one.
    pub model: Option<String>,
}

impl Default for AntV5Config {
    fn default() -> Self {
        Self {
            forward_reward_weight: 1.0,
            healthy_reward: 1.0,
            ctrl_cost_weight: 0.5,
            contact_cost_weight: 5e-4,
            terminate_when_unhealthy: true,
            healthy_z_range: [0.2, 1.0],
            contact_force_range: [-1.0, 1.0],
            reset_noise_scale: 0.1,
            horizon: 1000,
            model: None,
        }
    }
}

/// gymnasium's Ant-v5: 105 observations, eight motor commands, reward for running towards +x.
#[derive(Debug)]
pub struct AntV5 {
    config: AntV5Config,
    sim: Sim,
    stream: Stream,
    spaces: [Space; 2],
    phase: Phase,
    step: u32,
    /// Clipped contact forces on all bodies after the last control step.
    forces: [f64; FORCES],
    parts: [f64; 4],
    /// The torso's x as derived in the last physics step, one step behind its position: this is
    /// what gymnasium takes the velocity of.
    x: f64,
}

impl AntV5 {
    /// A world at stream 0 of seed 0.
    ///
    /// # Errors
    /// A field of the configuration does not fit, or there is no `MuJoCo` 4.0.0.
    pub fn new(config: &AntV5Config) -> Result<Self> {
        let finite = [
            ("forward_reward_weight", config.forward_reward_weight),
            ("healthy_reward", config.healthy_reward),
            ("ctrl_cost_weight", config.ctrl_cost_weight),
            ("contact_cost_weight", config.contact_cost_weight),
        ];
        for (name, value) in finite {
            ensure(value.is_finite(), name, || "a finite number".into(), value)?;
        }
        let noise = config.reset_noise_scale;
        ensure((0.0..=10.0).contains(&noise), "reset_noise_scale", || "0 to 10".into(), noise)?;
        for (name, range) in [
            ("healthy_z_range", config.healthy_z_range),
            ("contact_force_range", config.contact_force_range),
        ] {
            let found = format!("{range:?}");
            ensure(range[0] <= range[1], name, || "low, then high".into(), found)?;
        }
        let horizon = config.horizon;
        ensure((1..=1 << 30).contains(&horizon), "horizon", || "1 to 2^30".into(), horizon)?;
        let len = NQ - 2 + NV + FORCES - 6;
        Ok(Self {
            sim: simulation(config.model.as_deref())?,
            config: config.clone(),
            stream: Stream::new(0, 0),
            spaces: [
                Space::vector(f64::NEG_INFINITY, f64::INFINITY, len),
                Space::vector(-1.0, 1.0, NU),
            ],
            phase: Phase::Fresh,
            step: 0,
            forces: [0.0; FORCES],
            parts: [0.0; 4],
            x: 0.0,
        })
    }

    /// Positions (15).
    pub fn qpos(&self) -> &[f64] {
        self.sim.qpos()
    }

    /// Velocities (14).
    pub fn qvel(&self) -> &[f64] {
        self.sim.qvel()
    }

    /// The parts of the last reward: forward, survive, minus control cost, minus contact cost.
    pub fn reward_parts(&self) -> [f64; 4] {
        self.parts
    }

    /// The observation in double precision.
    pub fn observation(&self) -> Vec<f64> {
        let mut out = Vec::with_capacity(self.spaces[0].len());
        self.write(|v| out.push(v));
        out
    }

    fn write(&self, push: impl FnMut(f64)) {
        let parts = self.sim.qpos()[2..].iter().chain(self.sim.qvel()).chain(&self.forces[6..]);
        parts.copied().for_each(push);
    }

    fn read_forces(&mut self) -> Result<()> {
        self.sim.contact_forces(&mut self.forces)?;
        let [low, high] = self.config.contact_force_range;
        for force in &mut self.forces {
            *force = force.clamp(low, high);
        }
        Ok(())
    }

    fn info(&self, reason: Reason) -> Info {
        Info { reason, step: self.step, ..Info::default() }
    }
}

impl Env for AntV5 {
    type Act = [f64; NU];

    fn name(&self) -> &'static str {
        "ant-v5"
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
        self.phase == Phase::Running
    }

    fn restart(&mut self, options: &ResetOptions) -> Result<Info> {
        ensure(options.task.is_none(), "task", || "nothing in ant-v5".into(), "a task")?;
        ensure(options.layout.is_none(), "layout", || "nothing in ant-v5".into(), "a layout")?;
        let noise = self.config.reset_noise_scale;
        let mut qpos = [0.0; NQ];
        (qpos[2], qpos[3]) = (0.75, 1.0);
        for slot in &mut qpos {
            *slot += self.stream.uniform(-noise, noise);
        }
        let mut qvel = [0.0; NV];
        qvel.fill_with(|| noise * self.stream.normal());
        let qpos = options.qpos.as_deref().unwrap_or(&qpos);
        let qvel = options.qvel.as_deref().unwrap_or(&qvel);
        check_start("qpos", qpos, NQ)?;
        check_start("qvel", qvel, NV)?;
        self.phase = Phase::Fresh;
        self.sim.reset(qpos, qvel)?;
        self.sim.forward();
        self.x = self.sim.derived_x();
        // as in gymnasium, which reads the forces of a fresh simulation: zeros
        self.forces = [0.0; FORCES].map(|f: f64| {
            f.clamp(self.config.contact_force_range[0], self.config.contact_force_range[1])
        });
        self.parts = [0.0; 4];
        self.step = 0;
        self.phase = Phase::Running;
        Ok(self.info(Reason::None))
    }

    fn advance(&mut self, action: &[f64; NU]) -> Result<Transition> {
        self.phase.ensure_running()?;
        check_action(action)?;
        let before = self.x;
        self.sim.step(action, FRAME_SKIP)?;
        self.x = self.sim.derived_x();
        self.read_forces()?;
        self.step += 1;
        let healthy = healthy(&self.sim, self.config.healthy_z_range);
        let squares = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>();
        self.parts = [
            (self.x - before) / DT * self.config.forward_reward_weight,
            if healthy { self.config.healthy_reward } else { 0.0 },
            -self.config.ctrl_cost_weight * squares(action),
            -self.config.contact_cost_weight * squares(&self.forces),
        ];
        let [forward, survive, control, contact] = self.parts;
        let terminated = !healthy && self.config.terminate_when_unhealthy;
        let truncated = !terminated && self.step >= self.config.horizon;
        let reason = match (terminated, truncated) {
            (true, _) => Reason::Unhealthy,
            (_, true) => Reason::Time,
            _ => Reason::None,
        };
        if terminated || truncated {
            self.phase = Phase::Finished;
        }
        let reward = forward + survive + (control + contact);
        Ok(Transition { reward, terminated, truncated, info: self.info(reason) })
    }

    fn observe(&self, obs: &mut [f32]) -> Result<()> {
        ensure_len("obs", self.spaces[0].len(), obs.len())?;
        let mut slots = obs.iter_mut();
        self.write(|v| {
            if let Some(slot) = slots.next() {
                *slot = v as f32;
            }
        });
        Ok(())
    }

    fn state(&self) -> State {
        let mut reals = self.sim.snapshot();
        reals.extend(self.forces);
        reals.extend(self.parts);
        reals.push(self.x);
        State {
            env: self.name().into(),
            ints: vec![self.phase.to_int(), i64::from(self.step)],
            reals,
            rng: self.stream.state(),
        }
    }

    fn set_state(&mut self, state: &State) -> Result<()> {
        let snapshot = self.sim.snapshot_len();
        let mut read = StateReader::new(state, self.name(), 2, snapshot + FORCES + 5)?;
        let phase = read.phase()?;
        let step = read.int(0..=i64::from(self.config.horizon))? as u32;
        let stream = Stream::restore(&state.rng)?;
        self.sim.restore(&state.reals[..snapshot])?;
        let (forces, parts) = state.reals[snapshot..].split_at(FORCES);
        self.forces.copy_from_slice(forces);
        self.parts.copy_from_slice(&parts[..4]);
        self.x = parts[4];
        (self.phase, self.step, self.stream) = (phase, step, stream);
        Ok(())
    }

    fn render(&self, mode: RenderMode) -> Result<Frame> {
        let qpos = self.sim.qpos();
        let RenderMode::RgbArray { px } = mode else {
            let text =
                format!("x {:.2} y {:.2} z {:.2}  step {}\n", qpos[0], qpos[1], qpos[2], self.step);
            return Ok(Frame::Ansi(text));
        };
        // the cells of an arena around the ant show how far it has run
        let arena = Arena::new(&ArenaConfig {
            walls: 0,
            pads: 1,
            tasks: Tasks::List(vec![vec![0]]),
            ..ArenaConfig::default()
        })?;
        let mut canvas = arena.empty_canvas(px)?;
        let mut shown = [0.0; NQ];
        shown.copy_from_slice(qpos);
        let span = 2.0 * arena.half();
        for axis in &mut shown[..2] {
            *axis = (*axis + arena.half()).rem_euclid(span) - arena.half();
        }
        body::draw(&mut canvas, &arena, px, &shown);
        Ok(Frame::Rgb(canvas.finish()))
    }
}
