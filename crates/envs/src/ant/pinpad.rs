//! ant-pinpad: the pinpad task for a simulated ant (section 2).

use super::{NQ, NU, NV, body, check_action, check_start, healthy, simulation};
use crate::arena::{Arena, ArenaConfig, HEALTHY_Z};
use crate::env::{Env, Info, Phase, ResetOptions, State, Transition};
use crate::error::{Result, ensure, ensure_len};
use crate::mujoco::Sim;
use crate::render::{Frame, RenderMode};
use crate::space::Space;
use crate::stream::Stream;
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// Configuration of [`AntPinpad`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AntConfig {
    /// Arena, tasks and time limit.
    pub arena: ArenaConfig,
    /// Physics steps of 0.01 s per control step, 1 to 100.
    pub frame_skip: usize,
    /// MJCF text of another model with the sizes of the ant; none for the built-in one.
    pub model: Option<String>,
}

impl Default for AntConfig {
    fn default() -> Self {
        Self { arena: ArenaConfig::default(), frame_skip: 5, model: None }
    }
}

/// sign(x) ln(1 + |x|)
fn symlog(x: f64) -> f64 {
    x.signum() * x.abs().ln_1p()
}

/// The ant world (arXiv 2512.20605, appendix A.2). Actions are eight motor commands, clamped to
/// -1 to 1; observations are 41 numbers for four pads and one wall.
#[derive(Debug)]
pub struct AntPinpad {
    config: AntConfig,
    arena: Arena,
    sim: Sim,
    stream: Stream,
    spaces: [Space; 2],
}

impl AntPinpad {
    /// A world at stream 0 of seed 0.
    ///
    /// # Errors
    /// A field of the configuration does not fit, or there is no `MuJoCo` 4.0.0.
    pub fn new(config: &AntConfig) -> Result<Self> {
        let skip = config.frame_skip;
        ensure((1..=100).contains(&skip), "frame_skip", || "1 to 100".into(), skip)?;
        let arena = Arena::new(&config.arena)?;
        let len = NQ - 2 + NV + arena.obs_len();
        Ok(Self {
            sim: simulation(config.model.as_deref())?,
            config: config.clone(),
            arena,
            stream: Stream::new(0, 0),
            spaces: [
                Space::vector(f64::NEG_INFINITY, f64::INFINITY, len),
                Space::vector(-1.0, 1.0, NU),
            ],
        })
    }

    /// The arena with task and progress.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// The arena, for [`Arena::ways`].
    pub fn arena_mut(&mut self) -> &mut Arena {
        &mut self.arena
    }

    /// Positions (15).
    pub fn qpos(&self) -> &[f64] {
        self.sim.qpos()
    }

    /// Velocities (14).
    pub fn qvel(&self) -> &[f64] {
        self.sim.qvel()
    }

    /// The observation in double precision.
    pub fn observation(&self) -> Vec<f64> {
        let mut out = Vec::with_capacity(self.spaces[0].len());
        self.write(|v| out.push(v));
        out
    }

    fn write(&self, mut push: impl FnMut(f64)) {
        let (qpos, qvel) = (self.sim.qpos(), self.sim.qvel());
        qpos[2..].iter().chain(qvel).for_each(|v| push(symlog(*v)));
        self.arena.observe(qpos[0], qpos[1], push);
    }

    /// Section 2, "initial state".
    fn initial(&mut self) -> ([f64; NQ], [f64; NV]) {
        let [cx, cy] = self.arena.centre(self.arena.layout().agent);
        let half = self.config.arena.cell / 2.0;
        let stream = &mut self.stream;
        let mut qpos = [0.0; NQ];
        qpos[0] = cx + stream.uniform(-half, half);
        qpos[1] = cy + stream.uniform(-half, half);
        qpos[2] = 0.75;
        let yaw = stream.uniform(-PI, PI);
        qpos[3] = (yaw / 2.0).cos();
        qpos[6] = (yaw / 2.0).sin();
        qpos[7..].fill_with(|| stream.uniform(-0.1, 0.1));
        let mut qvel = [0.0; NV];
        qvel.fill_with(|| stream.uniform(-0.1, 0.1));
        (qpos, qvel)
    }
}

impl Env for AntPinpad {
    type Act = [f64; NU];

    fn name(&self) -> &'static str {
        "ant-pinpad"
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
        if let Some(qpos) = &options.qpos {
            check_start("qpos", qpos, NQ)?;
        }
        if let Some(qvel) = &options.qvel {
            check_start("qvel", qvel, NV)?;
        }
        self.arena.prepare(options.task.as_ref(), options.layout.as_ref(), &mut self.stream)?;
        let (qpos, qvel) = self.initial();
        let qpos = options.qpos.as_deref().unwrap_or(&qpos);
        let qvel = options.qvel.as_deref().unwrap_or(&qvel);
        self.sim.reset(qpos, qvel)?;
        Ok(self.arena.enter(qpos[0], qpos[1]))
    }

    fn advance(&mut self, action: &[f64; NU]) -> Result<Transition> {
        self.arena.phase.ensure_running()?;
        check_action(action)?;
        self.sim.step(action, self.config.frame_skip)?;
        let healthy = healthy(&self.sim, HEALTHY_Z);
        self.arena.judge([self.sim.qpos()[0], self.sim.qpos()[1]], healthy)
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
        State {
            env: self.name().into(),
            ints: self.arena.store(),
            reals: self.sim.snapshot(),
            rng: self.stream.state(),
        }
    }

    fn set_state(&mut self, state: &State) -> Result<()> {
        let arena = self.arena.restored(state, self.name(), self.sim.snapshot_len())?;
        let stream = Stream::restore(&state.rng)?;
        self.sim.restore(&state.reals)?;
        self.arena = arena;
        self.stream = stream;
        Ok(())
    }

    fn render(&self, mode: RenderMode) -> Result<Frame> {
        let RenderMode::RgbArray { px } = mode else { return Ok(Frame::Ansi(self.arena.ansi())) };
        let mut canvas = self.arena.draw(px)?;
        let mut qpos = [0.0; NQ];
        qpos.copy_from_slice(self.sim.qpos());
        body::draw(&mut canvas, &self.arena, px, &qpos);
        Ok(Frame::Rgb(canvas.finish()))
    }
}
