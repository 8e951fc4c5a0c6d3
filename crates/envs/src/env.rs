//! The interface of every environment, in the terms of gymnasium.

use crate::error::{Result, ensure_len};
use crate::layout::Layout;
use crate::render::{Frame, RenderMode};
use crate::space::Space;
use crate::stream::StreamState;
use serde::{Deserialize, Serialize};

/// Why an episode ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(i32)]
pub enum Reason {
    /// It has not.
    #[default]
    None = 0,
    /// All pads of the task were entered in order.
    Success = 1,
    /// A pad was entered out of turn.
    WrongPad = 2,
    /// The torso entered a wall cell (continuous worlds; in the grid a wall only stops).
    Wall = 3,
    /// The body fell, jumped too high, or its state is not finite.
    Unhealthy = 4,
    /// The torso left the arena.
    Outside = 5,
    /// The time limit.
    Time = 6,
}

/// What happened in a step beside observation and reward. Six 32-bit numbers in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(C)]
pub struct Info {
    /// Pad that was entered in this step, -1 for none.
    pub visited: i32,
    /// Pads of the task entered in order so far.
    pub progress: u32,
    /// Why the episode ended.
    pub reason: Reason,
    /// Label of the subgoal that is next (see [`Subgoals`](crate::task::Subgoals)), -1 after success.
    pub subgoal: i32,
    /// Steps since reset.
    pub step: u32,
    /// Index of the task in the environment's list, -1 for a task that came with the reset.
    pub task: i32,
}

impl Default for Info {
    fn default() -> Self {
        Self { visited: -1, progress: 0, reason: Reason::None, subgoal: -1, step: 0, task: -1 }
    }
}

/// The outcome of a step, without its observation.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Transition {
    /// Reward of the step.
    pub reward: f64,
    /// The episode ended by the rules of the world.
    pub terminated: bool,
    /// The episode was cut off by the time limit; never together with `terminated`.
    pub truncated: bool,
    /// Everything else.
    pub info: Info,
}

impl Transition {
    /// Whether the episode is over.
    pub fn ended(&self) -> bool {
        self.terminated || self.truncated
    }
}

/// The outcome of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Observation after the step.
    pub obs: Vec<f32>,
    /// Reward of the step.
    pub reward: f64,
    /// The episode ended by the rules of the world.
    pub terminated: bool,
    /// The episode was cut off by the time limit; never together with `terminated`.
    pub truncated: bool,
    /// Everything else.
    pub info: Info,
}

/// What a reset fixes instead of drawing it. Fields that a world does not have must be absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResetOptions {
    /// Pads to enter, in order.
    pub task: Option<Vec<u8>>,
    /// Cells of pads, walls and agent.
    pub layout: Option<Layout>,
    /// Generalised positions (15 for the ant; x, y for the point).
    pub qpos: Option<Vec<f64>>,
    /// Generalised velocities (14 for the ant; 2 for the point).
    pub qvel: Option<Vec<f64>>,
}

/// Everything that decides an environment's future, as plain data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Name of the environment.
    pub env: String,
    /// Integers, in the environment's own order.
    pub ints: Vec<i64>,
    /// Reals, in the environment's own order.
    pub reals: Vec<f64>,
    /// The random stream.
    pub rng: StreamState,
}

/// A world that is reset and stepped.
///
/// [`reset`](Env::reset) and [`step`](Env::step) are what most programs call. They are made of
/// parts that allocate nothing and that vectors and wrappers call: [`seed`](Env::seed),
/// [`restart`](Env::restart), [`advance`](Env::advance), [`observe`](Env::observe).
pub trait Env: Send {
    /// An action.
    type Act: Copy + Send + Sync;

    /// The name that [`make`](crate::make) knows.
    fn name(&self) -> &'static str;

    /// What observations are like.
    fn observation_space(&self) -> &Space;

    /// What actions are like.
    fn action_space(&self) -> &Space;

    /// Goes to the start of stream `stream` of seed `seed`. A new environment is at `(0, 0)`.
    fn seed(&mut self, seed: u64, stream: u64);

    /// Whether an episode is running: after a reset and before its end.
    fn running(&self) -> bool;

    /// Begins an episode, drawing on from the stream.
    ///
    /// # Errors
    /// An option does not fit the world; no layout passes the filter.
    fn restart(&mut self, options: &ResetOptions) -> Result<Info>;

    /// Moves the world by one action.
    ///
    /// # Errors
    /// No episode is running, or the action is outside of the action space; nothing has moved then.
    fn advance(&mut self, action: &Self::Act) -> Result<Transition>;

    /// Writes the observation, `observation_space().len()` numbers.
    ///
    /// # Errors
    /// `obs` has another length.
    fn observe(&self, obs: &mut [f32]) -> Result<()>;

    /// Brings up to date an `obs` that holds the observation from before the last
    /// [`advance`](Env::advance) of the same episode; may be much cheaper than
    /// [`observe`](Env::observe) and gives the same numbers.
    ///
    /// # Errors
    /// `obs` has another length.
    fn refresh(&self, obs: &mut [f32]) -> Result<()> {
        self.observe(obs)
    }

    /// Everything that decides the future.
    fn state(&self) -> State;

    /// Goes back to a stored state of an environment with the same configuration.
    ///
    /// # Errors
    /// The state is of another environment, has the wrong size or impossible values; nothing has
    /// changed then.
    fn set_state(&mut self, state: &State) -> Result<()>;

    /// A picture of the present state.
    ///
    /// # Errors
    /// The picture would be absurdly large.
    fn render(&self, mode: RenderMode) -> Result<Frame>;

    /// Begins an episode. `Some(seed)` restarts the stream of random numbers, `None` continues it.
    ///
    /// # Errors
    /// As [`restart`](Env::restart).
    fn reset(&mut self, seed: Option<u64>, options: &ResetOptions) -> Result<(Vec<f32>, Info)> {
        if let Some(seed) = seed {
            self.seed(seed, 0);
        }
        let info = self.restart(options)?;
        let mut obs = vec![0.0; self.observation_space().len()];
        self.observe(&mut obs)?;
        Ok((obs, info))
    }

    /// Moves the world by one action.
    ///
    /// # Errors
    /// As [`advance`](Env::advance).
    fn step(&mut self, action: &Self::Act) -> Result<Step> {
        let Transition { reward, terminated, truncated, info } = self.advance(action)?;
        let mut obs = vec![0.0; self.observation_space().len()];
        self.observe(&mut obs)?;
        Ok(Step { obs, reward, terminated, truncated, info })
    }
}

impl<E: Env + ?Sized> Env for Box<E> {
    type Act = E::Act;

    fn name(&self) -> &'static str {
        (**self).name()
    }
    fn observation_space(&self) -> &Space {
        (**self).observation_space()
    }
    fn action_space(&self) -> &Space {
        (**self).action_space()
    }
    fn seed(&mut self, seed: u64, stream: u64) {
        (**self).seed(seed, stream);
    }
    fn running(&self) -> bool {
        (**self).running()
    }
    fn restart(&mut self, options: &ResetOptions) -> Result<Info> {
        (**self).restart(options)
    }
    fn advance(&mut self, action: &Self::Act) -> Result<Transition> {
        (**self).advance(action)
    }
    fn observe(&self, obs: &mut [f32]) -> Result<()> {
        (**self).observe(obs)
    }
    fn refresh(&self, obs: &mut [f32]) -> Result<()> {
        (**self).refresh(obs)
    }
    fn state(&self) -> State {
        (**self).state()
    }
    fn set_state(&mut self, state: &State) -> Result<()> {
        (**self).set_state(state)
    }
    fn render(&self, mode: RenderMode) -> Result<Frame> {
        (**self).render(mode)
    }
}

/// Where an environment is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Fresh,
    Running,
    Finished,
}

impl Phase {
    pub(crate) fn ensure_running(self) -> Result<()> {
        let found = match self {
            Self::Running => return Ok(()),
            Self::Fresh => "no episode yet",
            Self::Finished => "a finished episode",
        };
        Err(crate::Error::NotRunning { found })
    }

    pub(crate) fn to_int(self) -> i64 {
        self as i64
    }

    pub(crate) fn from_int(x: i64) -> Option<Self> {
        [Self::Fresh, Self::Running, Self::Finished].into_iter().find(|p| *p as i64 == x)
    }
}

/// Reads a [`State`] front to back, with every value checked.
pub(crate) struct StateReader<'a> {
    ints: std::slice::Iter<'a, i64>,
}

impl<'a> StateReader<'a> {
    pub(crate) fn new(state: &'a State, env: &str, ints: usize, reals: usize) -> Result<Self> {
        crate::error::ensure(state.env == env, "state.env", || format!("`{env}`"), &state.env)?;
        ensure_len("state.ints", ints, state.ints.len())?;
        ensure_len("state.reals", reals, state.reals.len())?;
        Ok(Self { ints: state.ints.iter() })
    }

    /// The next integer, which must lie in the range.
    pub(crate) fn int(&mut self, range: std::ops::RangeInclusive<i64>) -> Result<i64> {
        let found = self.ints.next().copied().unwrap_or(i64::MIN);
        crate::error::ensure(
            range.contains(&found),
            "state.ints",
            || format!("{} to {}", range.start(), range.end()),
            found,
        )?;
        Ok(found)
    }

    /// The next integer, of any value.
    pub(crate) fn any(&mut self) -> i64 {
        self.ints.next().copied().unwrap_or_default()
    }

    pub(crate) fn phase(&mut self) -> Result<Phase> {
        let found = self.int(0..=2)?;
        Ok(Phase::from_int(found).unwrap_or(Phase::Fresh))
    }
}
