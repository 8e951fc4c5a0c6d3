//! gridworld-pinpad: enter coloured pads in the order of a hidden task; reward 1 at the end of it.

mod config;
mod observation;

pub use config::{GridConfig, ObsMode, Ties};

use crate::env::{Env, Info, Phase, Reason, ResetOptions, State, StateReader, Transition};
use crate::error::{Error, Result, ensure, ensure_len};
use crate::expert::Trajectory;
use crate::layout::{Board, Content, Geometry, Layout, LayoutFilter};
use crate::maps::Maps;
use crate::render::{self, Frame, RenderMode};
use crate::space::Space;
use crate::stream::Stream;
use crate::task::{self, Visit};
use std::fmt::Write as _;
use std::sync::Arc;

/// Layouts drawn before an environment gives up on a filter.
const TRIES: u32 = 10_000;

/// The grid world (arXiv 2512.20605, appendix A.1).
///
/// Actions: 0 up, 1 right, 2 down, 3 left. A move into a wall or off the grid is a no-op that still
/// counts as a step. Moving onto a pad *from another cell* is a visit: of the next pad of the task,
/// progress; of any other, the end of the episode. Progress and task are not observed.
///
/// ```
/// use envs::{Env, GridConfig, GridPinpad, ResetOptions};
/// let mut world = GridPinpad::new(&GridConfig::default())?;
/// let (obs, _) = world.reset(Some(1), &ResetOptions::default())?;
/// assert_eq!(obs.len(), 637);
/// let step = world.step(&2)?; // down
/// assert!(step.reward == 0.0 && !step.truncated);
/// # Ok::<(), envs::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct GridPinpad {
    config: GridConfig,
    geometry: Arc<Geometry>,
    tasks: Arc<Vec<Vec<u8>>>,
    spaces: Arc<[Space; 2]>,
    stream: Stream,
    board: Board,
    maps: Maps,
    task: Vec<u8>,
    task_idx: i32,
    phase: Phase,
    /// Of scramble and compass ties; drawn at each reset.
    key: u64,
    agent: u16,
    /// Where the agent was before the last step.
    before: u16,
    last_pad: Option<u8>,
    progress: usize,
    step: u32,
}

impl GridPinpad {
    /// A world at stream 0 of seed 0.
    ///
    /// # Errors
    /// A field of the configuration does not fit.
    pub fn new(config: &GridConfig) -> Result<Self> {
        let (geometry, tasks) = config.validate()?;
        let longest = tasks.iter().map(Vec::len).max().unwrap_or(0);
        let obs = match config.obs {
            ObsMode::Relative => Space::vector(-1.0, 1.0, config.obs_len()),
            _ => Space::vector(0.0, 1.0, config.obs_len()),
        };
        Ok(Self {
            board: Board::new(&geometry, config.pads, config.walls),
            maps: Maps::new(&geometry, config.pads),
            spaces: Arc::new([obs, Space::Discrete { n: 4 }]),
            config: config.clone(),
            geometry: Arc::new(geometry),
            tasks: Arc::new(tasks),
            stream: Stream::new(0, 0),
            task: Vec::with_capacity(longest),
            task_idx: -1,
            phase: Phase::Fresh,
            key: 0,
            agent: 0,
            before: 0,
            last_pad: None,
            progress: 0,
            step: 0,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &GridConfig {
        &self.config
    }

    /// Where pads, walls and the start lie.
    pub fn layout(&self) -> &Layout {
        &self.board.layout
    }

    /// The cell of the agent.
    pub fn agent(&self) -> u16 {
        self.agent
    }

    /// The task of the episode.
    pub fn task(&self) -> &[u8] {
        &self.task
    }

    /// The tasks that resets draw from.
    pub fn tasks(&self) -> &[Vec<u8>] {
        &self.tasks
    }

    /// Pads of the task entered so far.
    pub fn progress(&self) -> usize {
        self.progress
    }

    /// The key of the episode's random order of actions and of its compass ties.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// The cell in which `action` would end.
    pub fn target(&self, action: usize) -> u16 {
        let direction = self.order(self.agent)[action & 3];
        let next = self.geometry.neighbours(self.agent)[usize::from(direction)];
        if self.board.at(next) == Content::Wall { self.agent } else { next }
    }

    /// Whether `action` would enter a pad that is not next.
    pub(crate) fn is_fatal(&self, action: usize) -> bool {
        let next = self.target(action);
        match self.board.at(next) {
            Content::Pad(pad) if next != self.agent => {
                Visit::judge(&self.task, self.progress, pad) == Visit::Wrong
            }
            _ => false,
        }
    }

    /// The actions of an optimal walker towards `pad`, one bit each; under
    /// [`Ties::Fixed`] the one that the compass shows. `maps` are those of the layout.
    pub(crate) fn towards(&self, maps: &Maps, pad: u8) -> u8 {
        let mut directions = maps.walk(&self.geometry, &self.board, pad, self.agent);
        if let ObsMode::Compass { ties: Ties::Fixed } = self.config.obs {
            let shown = self.compass(pad, Ties::Fixed);
            if shown != 0 {
                directions = shown;
            }
        }
        self.as_actions(self.agent, directions)
    }

    /// Brings `maps` up to date with the layout.
    pub(crate) fn map(&self, maps: &mut Maps) {
        maps.fill(&self.geometry, &self.board);
    }

    pub(crate) fn empty_maps(&self) -> Maps {
        Maps::new(&self.geometry, self.config.pads)
    }

    /// Begins a recorded episode again; its actions then lead to its observations.
    ///
    /// # Errors
    /// The episode's task is not in the list of this world, or its layout does not fit.
    pub fn recall(&mut self, episode: &Trajectory) -> Result<Info> {
        let task = usize::try_from(episode.task).ok().and_then(|t| self.tasks.get(t)).cloned();
        let Some(task) = task else {
            let expected = format!("a task below {}", self.tasks.len());
            return Err(Error::argument("episode.task", expected, episode.task));
        };
        let layout = Some(episode.layout.clone());
        self.restart(&ResetOptions { task: Some(task), layout, ..ResetOptions::default() })?;
        self.task_idx = episode.task;
        self.key = episode.key;
        Ok(self.info(-1, Reason::None))
    }

    /// Length of the shortest solution of the episode from its start, if there is one.
    pub fn shortest(&self) -> Option<usize> {
        self.board.shortest(&self.geometry, &self.task, &mut self.empty_maps())
    }

    fn uses_compass(&self) -> bool {
        matches!(self.config.obs, ObsMode::Compass { .. })
    }

    fn draw(&mut self) -> Result<()> {
        for _ in 0..TRIES {
            self.board.draw(&mut self.stream);
            let fine = self.config.filter == LayoutFilter::None || {
                let shortest = self.board.shortest(&self.geometry, &self.task, &mut self.maps);
                shortest.is_some_and(|n| n <= self.config.horizon as usize)
            };
            if fine {
                return Ok(());
            }
        }
        Err(Error::NoLayout { task: self.task.clone(), tries: TRIES })
    }

    fn info(&self, visited: i32, reason: Reason) -> Info {
        Info {
            visited,
            progress: self.progress as u32,
            reason,
            subgoal: self.config.subgoals.label(&self.task, self.progress),
            step: self.step,
            task: self.task_idx,
        }
    }

    /// Judges the move that was just made.
    fn judge(&mut self) -> Transition {
        let mut out = Transition::default();
        let (mut visited, mut reason) = (-1, Reason::None);
        if self.agent != self.before
            && let Content::Pad(pad) = self.board.at(self.agent)
        {
            visited = i32::from(pad);
            self.last_pad = Some(pad);
            match Visit::judge(&self.task, self.progress, pad) {
                Visit::Right => self.progress += 1,
                Visit::Success => {
                    self.progress += 1;
                    reason = Reason::Success;
                    out.reward = 1.0;
                }
                Visit::Wrong => reason = Reason::WrongPad,
            }
        }
        out.terminated = reason != Reason::None;
        if !out.terminated && self.step >= self.config.horizon {
            out.truncated = true;
            reason = Reason::Time;
        }
        if out.ended() {
            self.phase = Phase::Finished;
        }
        out.info = self.info(visited, reason);
        out
    }

    fn ansi(&self) -> String {
        let grid = self.config.grid;
        let mut text = String::with_capacity((grid + 1) * grid * 2 + 64);
        for cell in 0..self.geometry.cells() as u16 {
            text.push(match self.board.at(cell) {
                _ if cell == self.agent => '@',
                Content::Wall => '#',
                Content::Pad(pad) => render::pad_char(pad),
                Content::Empty => '.',
            });
            text.push(if (usize::from(cell) + 1).is_multiple_of(grid) { '\n' } else { ' ' });
        }
        let line = render::task_line(&self.task, self.progress);
        // writing to a string cannot fail
        let _ = writeln!(text, "task {line}  step {}/{}", self.step, self.config.horizon);
        text
    }
}

impl Env for GridPinpad {
    type Act = usize;

    fn name(&self) -> &'static str {
        "gridworld-pinpad"
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
        ensure(options.qpos.is_none(), "qpos", || "nothing in a grid".into(), "values")?;
        ensure(options.qvel.is_none(), "qvel", || "nothing in a grid".into(), "values")?;
        if let Some(task) = &options.task {
            task::check(task, self.config.pads)?;
        }
        if let Some(layout) = &options.layout {
            self.board.place(layout)?;
        }
        // until all has been drawn there is no episode
        self.phase = Phase::Fresh;
        if let Some(task) = &options.task {
            self.task.clone_from(task);
            self.task_idx = -1;
        } else {
            let idx = self.stream.below(self.tasks.len());
            self.task.clone_from(&self.tasks[idx]);
            self.task_idx = idx as i32;
        }
        if options.layout.is_none() {
            self.draw()?;
        }
        self.key = self.stream.bits();
        if self.uses_compass() {
            self.maps.fill(&self.geometry, &self.board);
        }
        self.agent = self.board.layout.agent;
        self.before = self.agent;
        self.last_pad = None;
        self.progress = 0;
        self.step = 0;
        self.phase = Phase::Running;
        Ok(self.info(-1, Reason::None))
    }

    #[inline]
    fn advance(&mut self, action: &usize) -> Result<Transition> {
        self.phase.ensure_running()?;
        ensure(*action < 4, "action", || "0 to 3".into(), action)?;
        self.before = self.agent;
        self.agent = self.target(*action);
        self.step += 1;
        Ok(self.judge())
    }

    fn observe(&self, obs: &mut [f32]) -> Result<()> {
        ensure_len("obs", self.spaces[0].len(), obs.len())?;
        self.write(obs);
        Ok(())
    }

    #[inline]
    fn refresh(&self, obs: &mut [f32]) -> Result<()> {
        if self.config.obs != ObsMode::OneHot || self.config.obs_last_pad {
            return self.observe(obs);
        }
        ensure_len("obs", self.spaces[0].len(), obs.len())?;
        let block = self.agent_block();
        obs[block + usize::from(self.before)] = 0.0;
        obs[block + usize::from(self.agent)] = 1.0;
        Ok(())
    }

    fn state(&self) -> State {
        let Layout { pads, walls, agent: start } = &self.board.layout;
        let mut ints = vec![
            self.phase.to_int(),
            i64::from(self.task_idx),
            self.key as i64,
            i64::from(self.agent),
            i64::from(self.before),
            self.last_pad.map_or(-1, i64::from),
            self.progress as i64,
            i64::from(self.step),
            i64::from(*start),
            self.task.len() as i64,
        ];
        ints.extend(pads.iter().chain(walls).map(|c| i64::from(*c)));
        ints.extend(self.task.iter().map(|p| i64::from(*p)));
        State { env: self.name().into(), ints, reals: vec![], rng: self.stream.state() }
    }

    fn set_state(&mut self, state: &State) -> Result<()> {
        let (pads, walls) = (self.config.pads, self.config.walls);
        let fixed = 10 + pads + walls;
        let task_len = state.ints.len().saturating_sub(fixed);
        let mut next = self.clone();
        let mut read = StateReader::new(state, self.name(), fixed + task_len, 0)?;
        let last = self.geometry.cells() as i64 - 1;
        next.phase = read.phase()?;
        next.task_idx = read.int(-1..=self.tasks.len() as i64 - 1)? as i32;
        next.key = read.any() as u64;
        next.agent = read.int(0..=last)? as u16;
        next.before = read.int(0..=last)? as u16;
        next.last_pad = u8::try_from(read.int(-1..=pads as i64 - 1)?).ok();
        next.progress = read.int(0..=task_len as i64)? as usize;
        next.step = read.int(0..=i64::from(self.config.horizon))? as u32;
        let agent = read.int(0..=last)? as u16;
        read.int(task_len as i64..=task_len as i64)?;
        let mut cells = |n: usize| -> Result<Vec<u16>> {
            (0..n).map(|_| Ok(read.int(0..=last)? as u16)).collect()
        };
        let layout = Layout { pads: cells(pads)?, walls: cells(walls)?, agent };
        next.task.clear();
        for _ in 0..task_len {
            next.task.push(read.int(0..=pads as i64 - 1)? as u8);
        }
        if next.phase != Phase::Fresh {
            next.board.place(&layout)?;
            task::check(&next.task, pads)?;
            let walled = next.board.at(next.agent) == Content::Wall;
            ensure(!walled, "state.ints", || "an agent outside of walls".into(), next.agent)?;
        }
        next.stream = Stream::restore(&state.rng)?;
        if next.uses_compass() {
            next.maps.fill(&next.geometry, &next.board);
        }
        *self = next;
        Ok(())
    }

    fn render(&self, mode: RenderMode) -> Result<Frame> {
        let RenderMode::RgbArray { px } = mode else { return Ok(Frame::Ansi(self.ansi())) };
        render::check_px(px, self.config.grid)?;
        let layout = &self.board.layout;
        let mut canvas = render::board(self.config.grid, px, &layout.pads, &layout.walls, false);
        let (row, col) = (
            usize::from(self.agent) / self.config.grid,
            usize::from(self.agent) % self.config.grid,
        );
        let middle = |k: usize| (k as f64 + 0.5) * px as f64;
        canvas.disc([middle(col), middle(row)], px as f64 * 0.36, render::INK);
        canvas.disc([middle(col), middle(row)], px as f64 * 0.22, render::BODY);
        Ok(Frame::Rgb(canvas.finish()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiny(task: &[u8]) -> (GridPinpad, ResetOptions) {
        // 0 @ .     pads 0 and 1, agent between pad 0 and the border, wall in the middle
        // . # .
        // 1 . .
        let config = GridConfig {
            grid: 3,
            pads: 2,
            walls: 1,
            horizon: 9,
            tasks: crate::task::Tasks::List(vec![vec![0, 1]]),
            ..GridConfig::default()
        };
        let layout = Layout { pads: vec![0, 6], walls: vec![4], agent: 1 };
        let options =
            ResetOptions { task: Some(task.to_vec()), layout: Some(layout), ..Default::default() };
        (GridPinpad::new(&config).unwrap(), options)
    }

    #[test]
    fn text_shows_the_world() {
        let (mut world, options) = tiny(&[0, 1]);
        world.restart(&options).unwrap();
        let Frame::Ansi(text) = world.render(RenderMode::Ansi).unwrap() else { panic!("text") };
        assert_eq!(text, "0 @ .\n. # .\n1 . .\ntask [0]-1  step 0/9\n");
        world.advance(&3).unwrap();
        let Frame::Ansi(text) = world.render(RenderMode::Ansi).unwrap() else { panic!("text") };
        assert_eq!(text, "@ . .\n. # .\n1 . .\ntask 0-[1]  step 1/9\n");
    }

    #[test]
    fn pixels_show_the_agent() {
        let (mut world, options) = tiny(&[0, 1]);
        world.restart(&options).unwrap();
        let Frame::Rgb(image) = world.render(RenderMode::RgbArray { px: 10 }).unwrap() else {
            panic!("pixels")
        };
        assert_eq!((image.width, image.height), (30, 30));
        let at = |x: usize, y: usize| &image.rgb[(y * 30 + x) * 3..(y * 30 + x) * 3 + 3];
        assert_eq!(at(15, 5), render::BODY);
        assert_ne!(at(1, 1), at(28, 1));
        assert!(world.render(RenderMode::RgbArray { px: 3 }).is_err());
        assert!(world.render(RenderMode::RgbArray { px: 10_000 }).is_err());
    }

    #[test]
    fn a_step_needs_a_running_episode_and_a_known_action() {
        let (mut world, options) = tiny(&[0]);
        let message = world.advance(&0).unwrap_err().to_string();
        assert!(message.contains("no episode yet"), "{message}");
        world.restart(&options).unwrap();
        let message = world.advance(&4).unwrap_err().to_string();
        assert_eq!(message, "`action`: expected 0 to 3, found 4");
        assert!(world.advance(&3).unwrap().terminated);
        let message = world.advance(&0).unwrap_err().to_string();
        assert!(message.contains("a finished episode"), "{message}");
    }

    #[test]
    fn absurd_configurations_are_errors() {
        let base = GridConfig::default;
        let wrong = [
            ("grid", GridConfig { grid: 1 << 40, ..base() }),
            ("grid", GridConfig { grid: 0, ..base() }),
            ("pads", GridConfig { pads: usize::MAX, ..base() }),
            ("walls", GridConfig { walls: usize::MAX, ..base() }),
            ("walls", GridConfig { walls: 41, ..base() }),
            ("horizon", GridConfig { horizon: 0, ..base() }),
            ("tasks", GridConfig { pads: 7, ..base() }),
            ("obs", GridConfig { grid: 64, walls: 4000, ..base() }),
        ];
        for (field, config) in wrong {
            let message = GridPinpad::new(&config).unwrap_err().to_string();
            assert!(message.starts_with(&format!("`{field}`")), "{field}: {message}");
        }
        let (mut world, _) = tiny(&[0]);
        let options = ResetOptions { qpos: Some(vec![]), ..Default::default() };
        assert!(world.restart(&options).is_err());
        assert!(
            world.restart(&ResetOptions { task: Some(vec![2]), ..Default::default() }).is_err()
        );
    }

    #[test]
    fn a_filter_that_nothing_passes_gives_up() {
        let config = GridConfig { horizon: 1, ..GridConfig::default() };
        let mut world = GridPinpad::new(&config).unwrap();
        let error = world.restart(&ResetOptions::default()).unwrap_err();
        assert!(matches!(error, Error::NoLayout { .. }), "{error}");
        assert!(world.advance(&0).is_err());
    }
}
