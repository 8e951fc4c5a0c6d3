//! Wrappers: environments around environments.

use crate::env::{Env, Info, Reason, ResetOptions, State, Transition};
use crate::error::{Error, Result, ensure, ensure_len};
use crate::render::{Frame, RenderMode};
use crate::space::Space;
use std::cell::RefCell;
use std::time::Instant;

/// The methods that a wrapper hands on unchanged.
macro_rules! forward {
    ($($method:ident)*) => { $(forward!(@ $method);)* };
    (@ name) => { fn name(&self) -> &'static str { self.env.name() } };
    (@ observation_space) => { fn observation_space(&self) -> &Space { self.env.observation_space() } };
    (@ action_space) => { fn action_space(&self) -> &Space { self.env.action_space() } };
    (@ seed) => { fn seed(&mut self, seed: u64, stream: u64) { self.env.seed(seed, stream); } };
    (@ running) => { fn running(&self) -> bool { self.env.running() } };
    (@ restart) => {
        fn restart(&mut self, options: &ResetOptions) -> Result<Info> { self.env.restart(options) }
    };
    (@ advance) => {
        fn advance(&mut self, action: &Self::Act) -> Result<Transition> { self.env.advance(action) }
    };
    (@ observe) => { fn observe(&self, obs: &mut [f32]) -> Result<()> { self.env.observe(obs) } };
    (@ refresh) => { fn refresh(&self, obs: &mut [f32]) -> Result<()> { self.env.refresh(obs) } };
    (@ state) => { fn state(&self) -> State { self.env.state() } };
    (@ set_state) => {
        fn set_state(&mut self, state: &State) -> Result<()> { self.env.set_state(state) }
    };
    (@ render) => {
        fn render(&self, mode: RenderMode) -> Result<Frame> { self.env.render(mode) }
    };
}

/// Takes the last integer off a stored state.
fn pop_int(state: &State) -> Result<(State, i64)> {
    let mut inner = state.clone();
    match inner.ints.pop() {
        Some(last) => Ok((inner, last)),
        None => Err(Error::argument("state.ints", "an integer of the wrapper", "none")),
    }
}

/// Cuts episodes off after so many steps, beside the limit that the world may have.
#[derive(Clone, Debug)]
pub struct TimeLimit<E> {
    env: E,
    limit: u32,
    steps: u32,
}

impl<E: Env> TimeLimit<E> {
    /// A limit of `limit` steps.
    ///
    /// # Errors
    /// The limit is zero.
    pub fn new(env: E, limit: u32) -> Result<Self> {
        ensure(limit > 0, "limit", || "at least 1".into(), limit)?;
        Ok(Self { env, limit, steps: 0 })
    }
}

impl<E: Env> Env for TimeLimit<E> {
    type Act = E::Act;

    forward!(name observation_space action_space seed observe refresh render);

    fn running(&self) -> bool {
        self.env.running() && self.steps < self.limit
    }

    fn restart(&mut self, options: &ResetOptions) -> Result<Info> {
        let info = self.env.restart(options)?;
        self.steps = 0;
        Ok(info)
    }

    fn advance(&mut self, action: &E::Act) -> Result<Transition> {
        if self.env.running() && self.steps >= self.limit {
            return Err(Error::NotRunning { found: "a finished episode" });
        }
        let mut step = self.env.advance(action)?;
        self.steps += 1;
        if !step.ended() && self.steps >= self.limit {
            step.truncated = true;
            step.info.reason = Reason::Time;
        }
        Ok(step)
    }

    fn state(&self) -> State {
        let mut state = self.env.state();
        state.ints.push(i64::from(self.steps));
        state
    }

    fn set_state(&mut self, state: &State) -> Result<()> {
        let (inner, steps) = pop_int(state)?;
        let range = 0..=i64::from(self.limit);
        ensure(range.contains(&steps), "state.ints", || format!("{range:?}"), steps)?;
        self.env.set_state(&inner)?;
        self.steps = steps as u32;
        Ok(())
    }
}

/// What [`EpisodeStatistics`] keeps of an episode.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Episode {
    /// Sum of rewards.
    pub return_: f64,
    /// Number of steps.
    pub len: u32,
    /// Seconds from reset to the end.
    pub seconds: f64,
}

/// Keeps return, length and duration of episodes. Not part of the stored state.
#[derive(Clone, Debug)]
pub struct EpisodeStatistics<E> {
    env: E,
    now: Episode,
    start: Instant,
    last: Option<Episode>,
}

impl<E: Env> EpisodeStatistics<E> {
    /// Statistics of this environment.
    pub fn new(env: E) -> Self {
        Self { env, now: Episode::default(), start: Instant::now(), last: None }
    }

    /// The last episode that ended.
    pub fn last(&self) -> Option<Episode> {
        self.last
    }
}

impl<E: Env> Env for EpisodeStatistics<E> {
    type Act = E::Act;

    forward!(name observation_space action_space seed running observe refresh state set_state render);

    fn restart(&mut self, options: &ResetOptions) -> Result<Info> {
        let info = self.env.restart(options)?;
        (self.now, self.start) = (Episode::default(), Instant::now());
        Ok(info)
    }

    fn advance(&mut self, action: &E::Act) -> Result<Transition> {
        let step = self.env.advance(action)?;
        self.now.return_ += step.reward;
        self.now.len += 1;
        if step.ended() {
            self.now.seconds = self.start.elapsed().as_secs_f64();
            self.last = Some(self.now);
        }
        Ok(step)
    }
}

/// Applies each action several times, until the episode ends; rewards add up.
#[derive(Clone, Debug)]
pub struct ActionRepeat<E> {
    env: E,
    times: u32,
}

impl<E: Env> ActionRepeat<E> {
    /// Each action `times` times.
    ///
    /// # Errors
    /// `times` is zero.
    pub fn new(env: E, times: u32) -> Result<Self> {
        ensure(times > 0, "times", || "at least 1".into(), times)?;
        Ok(Self { env, times })
    }
}

impl<E: Env> Env for ActionRepeat<E> {
    type Act = E::Act;

    // `refresh` speaks of a single step of the world, so it is not handed on
    forward!(name observation_space action_space seed running restart observe state set_state render);

    fn advance(&mut self, action: &E::Act) -> Result<Transition> {
        let mut out = self.env.advance(action)?;
        for _ in 1..self.times {
            if out.ended() {
                break;
            }
            let step = self.env.advance(action)?;
            // a pad that was entered on the way must not be forgotten
            let visited = if step.info.visited < 0 { out.info.visited } else { step.info.visited };
            out = Transition { reward: out.reward + step.reward, ..step };
            out.info.visited = visited;
        }
        Ok(out)
    }
}

/// Observations through a function.
pub struct ObservationMap<E, F> {
    env: E,
    space: Space,
    map: F,
    raw: RefCell<Vec<f32>>,
}

impl<E: Env, F: Fn(&[f32], &mut [f32]) + Send> ObservationMap<E, F> {
    /// `map(raw, out)` writes observations of `space`.
    pub fn new(env: E, space: Space, map: F) -> Self {
        let raw = RefCell::new(vec![0.0; env.observation_space().len()]);
        Self { env, space, map, raw }
    }
}

impl<E: Env, F: Fn(&[f32], &mut [f32]) + Send> Env for ObservationMap<E, F> {
    type Act = E::Act;

    forward!(name action_space seed running restart advance state set_state render);

    fn observation_space(&self) -> &Space {
        &self.space
    }

    fn observe(&self, obs: &mut [f32]) -> Result<()> {
        ensure_len("obs", self.space.len(), obs.len())?;
        let mut raw = self.raw.borrow_mut();
        self.env.observe(&mut raw)?;
        (self.map)(&raw, obs);
        Ok(())
    }
}

impl<E: std::fmt::Debug, F> std::fmt::Debug for ObservationMap<E, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("ObservationMap");
        out.field("env", &self.env).field("space", &self.space).finish_non_exhaustive()
    }
}

/// The last few observations, the oldest first; after a reset the first one fills all.
#[derive(Clone, Debug)]
pub struct FrameStack<E> {
    env: E,
    space: Space,
    frames: Vec<f32>,
}

impl<E: Env> FrameStack<E> {
    /// `depth` observations.
    ///
    /// # Errors
    /// `depth` is not in 1 to 64, or the observation space is no box.
    pub fn new(env: E, depth: usize) -> Result<Self> {
        ensure((1..=64).contains(&depth), "depth", || "1 to 64".into(), depth)?;
        let Space::Box { low, high, shape } = env.observation_space() else {
            let found = format!("{:?}", env.observation_space());
            return Err(Error::argument("env", "observations in a box", found));
        };
        let shape = std::iter::once(depth).chain(shape.iter().copied()).collect();
        let space = Space::Box { low: *low, high: *high, shape };
        Ok(Self { frames: vec![0.0; space.len()], space, env })
    }

    fn newest(&mut self) -> Result<()> {
        let len = self.env.observation_space().len();
        self.frames.copy_within(len.., 0);
        let at = self.frames.len() - len;
        self.env.observe(&mut self.frames[at..])
    }
}

impl<E: Env> Env for FrameStack<E> {
    type Act = E::Act;

    forward!(name action_space seed running render);

    fn observation_space(&self) -> &Space {
        &self.space
    }

    fn restart(&mut self, options: &ResetOptions) -> Result<Info> {
        let info = self.env.restart(options)?;
        let len = self.env.observation_space().len();
        for frame in self.frames.chunks_exact_mut(len) {
            self.env.observe(frame)?;
        }
        Ok(info)
    }

    fn advance(&mut self, action: &E::Act) -> Result<Transition> {
        let step = self.env.advance(action)?;
        self.newest()?;
        Ok(step)
    }

    fn observe(&self, obs: &mut [f32]) -> Result<()> {
        ensure_len("obs", self.frames.len(), obs.len())?;
        obs.copy_from_slice(&self.frames);
        Ok(())
    }

    fn state(&self) -> State {
        let mut state = self.env.state();
        state.reals.extend(self.frames.iter().map(|v| f64::from(*v)));
        state
    }

    fn set_state(&mut self, state: &State) -> Result<()> {
        let Some(at) = state.reals.len().checked_sub(self.frames.len()) else {
            let expected = format!("at least {} numbers", self.frames.len());
            return Err(Error::argument("state.reals", expected, state.reals.len()));
        };
        let mut inner = state.clone();
        let frames = inner.reals.split_off(at);
        self.env.set_state(&inner)?;
        for (slot, value) in self.frames.iter_mut().zip(frames) {
            *slot = value as f32;
        }
        Ok(())
    }
}

/// One recorded episode.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording<A> {
    /// Observations, row by row: one more than actions.
    pub obs: Vec<f32>,
    /// Actions.
    pub actions: Vec<A>,
    /// What each action led to.
    pub steps: Vec<Transition>,
}

/// Keeps what happens since the last reset. Not part of the stored state.
#[derive(Clone, Debug)]
pub struct Recorder<E: Env> {
    env: E,
    recording: Recording<E::Act>,
}

impl<E: Env> Recorder<E> {
    /// A recorder of this environment.
    pub fn new(env: E) -> Self {
        let recording = Recording { obs: vec![], actions: vec![], steps: vec![] };
        Self { env, recording }
    }

    /// What happened since the last reset.
    pub fn recording(&self) -> &Recording<E::Act> {
        &self.recording
    }

    fn look(&mut self) -> Result<()> {
        let at = self.recording.obs.len();
        self.recording.obs.resize(at + self.env.observation_space().len(), 0.0);
        self.env.observe(&mut self.recording.obs[at..])
    }
}

impl<E: Env> Env for Recorder<E> {
    type Act = E::Act;

    forward!(name observation_space action_space seed running observe refresh state set_state render);

    fn restart(&mut self, options: &ResetOptions) -> Result<Info> {
        let info = self.env.restart(options)?;
        self.recording.obs.clear();
        self.recording.actions.clear();
        self.recording.steps.clear();
        self.look()?;
        Ok(info)
    }

    fn advance(&mut self, action: &E::Act) -> Result<Transition> {
        let step = self.env.advance(action)?;
        self.recording.actions.push(*action);
        self.recording.steps.push(step);
        self.look()?;
        Ok(step)
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the numbers are exact")]
mod tests {
    use super::*;
    use crate::{GridConfig, GridPinpad, Layout};

    /// A corner in which the moves up and left only bump.
    fn corner() -> (GridPinpad, ResetOptions) {
        let config = GridConfig { walls: 0, horizon: 30, ..GridConfig::default() };
        let pads = vec![6, 13, 20, 27, 34, 41, 48, 2];
        let options = ResetOptions {
            layout: Some(Layout { pads, walls: vec![], agent: 0 }),
            task: Some(vec![7, 0]),
            ..ResetOptions::default()
        };
        (GridPinpad::new(&config).unwrap(), options)
    }

    #[test]
    fn a_time_limit_truncates_and_survives_a_restore() {
        let (world, options) = corner();
        let mut env = TimeLimit::new(world, 3).unwrap();
        env.restart(&options).unwrap();
        assert!(!env.advance(&0).unwrap().truncated);
        let state = env.state();
        for _ in 0..2 {
            env.set_state(&state).unwrap();
            assert!(!env.advance(&0).unwrap().truncated);
            let step = env.advance(&0).unwrap();
            assert!(step.truncated && !step.terminated && step.info.reason == Reason::Time);
            assert!(!env.running() && env.advance(&0).is_err());
        }
        assert!(TimeLimit::new(env, 0).is_err());
    }

    #[test]
    fn statistics_add_up() {
        let (world, options) = corner();
        let mut env = EpisodeStatistics::new(world);
        env.restart(&options).unwrap();
        for action in [0, 1, 1] {
            assert!(env.last().is_none());
            env.advance(&action).unwrap();
        }
        for action in [1, 1, 1] {
            env.advance(&action).unwrap();
        }
        // pads 7 and 0 lie two and four moves further to the right
        let last = env.last();
        assert!(last.is_none(), "{last:?}");
        let step = env.advance(&1).unwrap();
        assert_eq!(step.reward, 1.0);
        let last = env.last().unwrap();
        assert_eq!((last.return_, last.len), (1.0, 7));
    }

    #[test]
    fn repeated_actions_stop_at_the_end_and_keep_visits() {
        let (world, options) = corner();
        let mut env = ActionRepeat::new(world, 3).unwrap();
        env.restart(&options).unwrap();
        let step = env.advance(&1).unwrap();
        assert_eq!((step.info.visited, step.info.step), (7, 3));
        let step = env.advance(&1).unwrap();
        assert_eq!((step.reward, step.info.visited, step.info.step), (1.0, 0, 6));
    }

    #[test]
    fn frames_stack_and_maps_apply() {
        let (world, options) = corner();
        let len = world.observation_space().len();
        let mut stack = FrameStack::new(world.clone(), 2).unwrap();
        stack.restart(&options).unwrap();
        let look = |env: &FrameStack<GridPinpad>| {
            let mut obs = vec![0.0; 2 * len];
            env.observe(&mut obs).unwrap();
            (obs[..len].to_vec(), obs[len..].to_vec())
        };
        let (first, again) = look(&stack);
        assert_eq!(first, again);
        stack.advance(&1).unwrap();
        let (older, newer) = look(&stack);
        assert!(older == first && newer != first);
        let state = stack.state();
        stack.advance(&1).unwrap();
        stack.set_state(&state).unwrap();
        assert_eq!(look(&stack), (older, newer));

        let sum = |raw: &[f32], out: &mut [f32]| out[0] = raw.iter().sum();
        let mut map = ObservationMap::new(world, Space::vector(0.0, 99.0, 1), sum);
        let (obs, _) = map.reset(Some(0), &options).unwrap();
        assert_eq!(obs, [9.0], "eight pads and an agent");
    }

    #[test]
    fn a_recording_holds_one_observation_more_than_actions() {
        let (world, options) = corner();
        let mut env = Recorder::new(world);
        env.restart(&options).unwrap();
        env.advance(&1).unwrap();
        env.advance(&1).unwrap();
        let seen = env.recording();
        assert_eq!((seen.obs.len(), seen.actions.as_slice()), (3 * 7 * 7 * 9, [1, 1].as_slice()));
        assert_eq!(seen.steps[1].info.visited, 7);
    }
}
