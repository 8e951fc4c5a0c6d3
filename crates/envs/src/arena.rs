//! The arena of the continuous worlds: a plane divided into cells, pads and virtual walls, and the
//! rules that a torso position meets (section 2).

use crate::env::{Info, Phase, Reason, StateReader, Transition};
use crate::error::{Error, Result, ensure};
use crate::layout::{Board, Content, Geometry, Layout, LayoutFilter, MOST_PADS};
use crate::maps::Maps;
use crate::stream::Stream;
use crate::task::{self, Subgoals, Tasks, Visit};
use serde::{Deserialize, Serialize};

/// Layouts drawn before an environment gives up on a filter.
const TRIES: u32 = 10_000;

/// What happens outside of the arena.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outside {
    /// The episode ends.
    #[default]
    Terminate,
    /// The torso counts as in the nearest cell.
    Clamp,
}

/// Configuration of an [`Arena`]; defaults are the paper's where it gives them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ArenaConfig {
    /// Cells along a side, 1 to 64.
    pub grid: usize,
    /// Number of pads, 1 to 64.
    pub pads: usize,
    /// Number of wall cells.
    pub walls: usize,
    /// Side of a cell in metres (not given in the paper).
    pub cell: f64,
    /// Time limit in control steps, 1 to 2^30.
    pub horizon: u32,
    /// What happens outside of the arena (not given in the paper).
    pub outside: Outside,
    /// Which random layouts are accepted.
    pub filter: LayoutFilter,
    /// The tasks to draw from.
    pub tasks: Tasks,
}

impl Default for ArenaConfig {
    fn default() -> Self {
        Self {
            grid: 4,
            pads: 4,
            walls: 1,
            cell: 2.0,
            horizon: 500,
            outside: Outside::default(),
            filter: LayoutFilter::default(),
            tasks: Tasks::default(),
        }
    }
}

/// Healthy heights of the torso, both ends included.
pub const HEALTHY_Z: [f64; 2] = [0.2, 1.0];

/// Pads, walls, task and progress of one episode, without any physics.
///
/// A cell is `row * grid + column` with row 0 at the lowest y; a point on a border belongs to the
/// higher cell, and the upper and right borders of the arena lie outside.
#[derive(Clone, Debug)]
pub struct Arena {
    config: ArenaConfig,
    geometry: Geometry,
    tasks: Vec<Vec<u8>>,
    board: Board,
    maps: Maps,
    task: Vec<u8>,
    task_idx: i32,
    cell: Option<u16>,
    progress: usize,
    step: u32,
    pub(crate) phase: Phase,
}

impl Arena {
    /// An arena with no episode yet.
    ///
    /// # Errors
    /// A field of the configuration does not fit.
    pub fn new(config: &ArenaConfig) -> Result<Self> {
        let ArenaConfig { grid, pads, walls, cell, horizon, .. } = *config;
        let geometry = Geometry::new(grid)?;
        let cells = geometry.cells();
        ensure((1..=MOST_PADS).contains(&pads), "pads", || format!("1 to {MOST_PADS}"), pads)?;
        let room = || format!("pads + walls + 1 at most {cells} cells, with {pads} pads");
        ensure(walls < cells && pads + walls < cells, "walls", room, walls)?;
        ensure((1e-3..=1e3).contains(&cell), "cell", || "0.001 to 1000 metres".into(), cell)?;
        ensure((1..=1 << 30).contains(&horizon), "horizon", || "1 to 2^30".into(), horizon)?;
        Ok(Self {
            tasks: config.tasks.resolve(pads)?,
            board: Board::new(&geometry, pads, walls),
            maps: Maps::new(&geometry, pads),
            config: config.clone(),
            geometry,
            task: vec![],
            task_idx: -1,
            cell: None,
            progress: 0,
            step: 0,
            phase: Phase::Fresh,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &ArenaConfig {
        &self.config
    }

    /// Half the side of the arena in metres.
    pub fn half(&self) -> f64 {
        self.config.grid as f64 * self.config.cell / 2.0
    }

    /// Where pads, walls and the start lie.
    pub fn layout(&self) -> &Layout {
        &self.board.layout
    }

    /// The task of the episode.
    pub fn task(&self) -> &[u8] {
        &self.task
    }

    /// Pads of the task entered so far.
    pub fn progress(&self) -> usize {
        self.progress
    }

    /// The torso's cell; none outside.
    pub fn cell(&self) -> Option<u16> {
        self.cell
    }

    /// The cell of a point; none outside, whatever [`Outside`] says.
    pub fn cell_of(&self, x: f64, y: f64) -> Option<u16> {
        let (col, row) = (self.index(x), self.index(y));
        let grid = self.config.grid as f64;
        let inside = (0.0..grid).contains(&col) && (0.0..grid).contains(&row);
        inside.then(|| row as u16 * self.config.grid as u16 + col as u16)
    }

    fn index(&self, x: f64) -> f64 {
        ((x + self.half()) / self.config.cell).floor()
    }

    /// The cell that the rules see.
    fn ruled_cell(&self, x: f64, y: f64) -> Option<u16> {
        if self.config.outside == Outside::Terminate || !(x.is_finite() && y.is_finite()) {
            return self.cell_of(x, y);
        }
        let most = self.config.grid as f64 - 1.0;
        let (col, row) = (self.index(x).clamp(0.0, most), self.index(y).clamp(0.0, most));
        Some(row as u16 * self.config.grid as u16 + col as u16)
    }

    /// The centre of a cell in metres.
    pub fn centre(&self, cell: u16) -> [f64; 2] {
        let (row, col) =
            (usize::from(cell) / self.config.grid, usize::from(cell) % self.config.grid);
        [col, row].map(|k| (k as f64 + 0.5) * self.config.cell - self.half())
    }

    /// Fixes task and layout of the next episode; what is absent is drawn.
    ///
    /// # Errors
    /// A task or layout that does not fit, or no layout that passes the filter.
    pub(crate) fn prepare(
        &mut self,
        task: Option<&Vec<u8>>,
        layout: Option<&Layout>,
        stream: &mut Stream,
    ) -> Result<()> {
        if let Some(task) = task {
            task::check(task, self.config.pads)?;
        }
        if let Some(layout) = layout {
            self.board.place(layout)?;
        }
        self.phase = Phase::Fresh;
        if let Some(task) = task {
            self.task.clone_from(task);
            self.task_idx = -1;
        } else {
            let idx = stream.below(self.tasks.len());
            self.task.clone_from(&self.tasks[idx]);
            self.task_idx = idx as i32;
        }
        if layout.is_some() {
            return Ok(());
        }
        for _ in 0..TRIES {
            self.board.draw(stream);
            let fine = self.config.filter == LayoutFilter::None
                || self.board.shortest(&self.geometry, &self.task, &mut self.maps).is_some();
            if fine {
                return Ok(());
            }
        }
        Err(Error::NoLayout { task: self.task.clone(), tries: TRIES })
    }

    /// Begins an episode of a chosen task in a chosen layout with the torso at a point. The
    /// layout's `agent` cell is not looked at.
    ///
    /// # Errors
    /// A task or layout that does not fit.
    pub fn start(&mut self, task: &[u8], layout: &Layout, [x, y]: [f64; 2]) -> Result<Info> {
        task::check(task, self.config.pads)?;
        self.board.place_markers(&layout.pads, &layout.walls)?;
        self.task = task.to_vec();
        self.task_idx = -1;
        Ok(self.enter(x, y))
    }

    /// Begins the prepared episode with the torso at a point: no visit, wherever that is.
    pub(crate) fn enter(&mut self, x: f64, y: f64) -> Info {
        self.cell = self.ruled_cell(x, y);
        self.progress = 0;
        self.step = 0;
        self.phase = Phase::Running;
        self.info(-1, Reason::None)
    }

    fn info(&self, visited: i32, reason: Reason) -> Info {
        Info {
            visited,
            progress: self.progress as u32,
            reason,
            subgoal: Subgoals::Pads.label(&self.task, self.progress),
            step: self.step,
            task: self.task_idx,
        }
    }

    /// Judges the torso position after a control step: health, outside, wall, pad, time limit, in
    /// this order.
    ///
    /// # Errors
    /// No episode is running.
    pub fn judge(&mut self, [x, y]: [f64; 2], healthy: bool) -> Result<Transition> {
        self.phase.ensure_running()?;
        self.step += 1;
        let before = self.cell;
        self.cell = self.ruled_cell(x, y);
        let mut out = Transition::default();
        let mut visited = -1;
        let content = self.cell.map(|c| self.board.at(c));
        let mut reason = match content {
            _ if !healthy => Reason::Unhealthy,
            None => Reason::Outside,
            Some(Content::Wall) => Reason::Wall,
            Some(Content::Pad(pad)) if self.cell != before => {
                visited = i32::from(pad);
                match Visit::judge(&self.task, self.progress, pad) {
                    Visit::Wrong => Reason::WrongPad,
                    Visit::Right => {
                        self.progress += 1;
                        Reason::None
                    }
                    Visit::Success => {
                        self.progress += 1;
                        out.reward = 1.0;
                        Reason::Success
                    }
                }
            }
            _ => Reason::None,
        };
        out.terminated = reason != Reason::None;
        if !out.terminated && self.step >= self.config.horizon {
            out.truncated = true;
            reason = Reason::Time;
        }
        if out.ended() {
            self.phase = Phase::Finished;
        }
        out.info = self.info(visited, reason);
        Ok(out)
    }

    /// Length of parts 2 to 4 of the observation.
    pub(crate) fn obs_len(&self) -> usize {
        4 + 2 * (self.config.pads + self.config.walls)
    }

    /// Parts 2 to 4 of the observation: global position, way to each pad and wall, place within
    /// the cell.
    pub(crate) fn observe(&self, x: f64, y: f64, mut push: impl FnMut(f64)) {
        let half = self.half();
        push(x / half);
        push(y / half);
        let Layout { pads, walls, .. } = &self.board.layout;
        for cell in pads.iter().chain(walls) {
            let [cx, cy] = self.centre(*cell);
            push((cx - x) / half);
            push((cy - y) / half);
        }
        let local = self.cell_of(x, y).map_or([0.0; 2], |cell| {
            let [cx, cy] = self.centre(cell);
            [x - cx, y - cy].map(|d| d / (self.config.cell / 2.0))
        });
        local.into_iter().for_each(push);
    }

    /// Number of integers that [`store`](Self::store) writes, given the length of the task.
    fn ints(&self, task: usize) -> usize {
        7 + self.config.pads + self.config.walls + task
    }

    pub(crate) fn store(&self) -> Vec<i64> {
        let Layout { pads, walls, agent } = &self.board.layout;
        let mut ints = vec![
            self.phase.to_int(),
            i64::from(self.task_idx),
            self.cell.map_or(-1, i64::from),
            self.progress as i64,
            i64::from(self.step),
            i64::from(*agent),
            self.task.len() as i64,
        ];
        ints.extend(pads.iter().chain(walls).map(|c| i64::from(*c)));
        ints.extend(self.task.iter().map(|p| i64::from(*p)));
        ints
    }

    /// The arena of a stored state, and the number of its integers.
    pub(crate) fn restored(&self, state: &crate::State, env: &str, reals: usize) -> Result<Self> {
        let (pads, walls) = (self.config.pads, self.config.walls);
        let task = state.ints.len().saturating_sub(self.ints(0));
        let mut read = StateReader::new(state, env, self.ints(task), reals)?;
        let last = self.geometry.cells() as i64 - 1;
        let mut next = self.clone();
        next.phase = read.phase()?;
        next.task_idx = read.int(-1..=self.tasks.len() as i64 - 1)? as i32;
        next.cell = u16::try_from(read.int(-1..=last)?).ok();
        next.progress = read.int(0..=task as i64)? as usize;
        next.step = read.int(0..=i64::from(self.config.horizon))? as u32;
        let agent = read.int(0..=last)? as u16;
        read.int(task as i64..=task as i64)?;
        let mut cells = |n: usize| -> Result<Vec<u16>> {
            (0..n).map(|_| Ok(read.int(0..=last)? as u16)).collect()
        };
        let layout = Layout { pads: cells(pads)?, walls: cells(walls)?, agent };
        next.task.clear();
        for _ in 0..task {
            next.task.push(read.int(0..=pads as i64 - 1)? as u8);
        }
        if next.phase != Phase::Fresh {
            task::check(&next.task, pads)?;
            next.board.place_markers(&layout.pads, &layout.walls)?;
            next.board.layout.agent = agent;
        }
        Ok(next)
    }

    /// Which of the moves up (row - 1, towards lower y), right, down, left lie on a shortest way of
    /// cells from the torso to the next pad. None outside or when all is done.
    pub fn ways(&mut self) -> [bool; 4] {
        let (Some(cell), Some(pad)) = (self.cell, self.task.get(self.progress)) else {
            return [false; 4];
        };
        self.maps.fill(&self.geometry, &self.board);
        let mask = self.maps.walk(&self.geometry, &self.board, *pad, cell);
        [0, 1, 2, 3].map(|d| mask >> d & 1 == 1)
    }

    pub(crate) fn draw(&self, px: usize) -> Result<crate::render::Canvas> {
        crate::render::check_px(px, self.config.grid)?;
        let Layout { pads, walls, .. } = &self.board.layout;
        Ok(crate::render::board(self.config.grid, px, pads, walls, true))
    }

    /// The arena without pads and walls.
    pub(crate) fn empty_canvas(&self, px: usize) -> Result<crate::render::Canvas> {
        crate::render::check_px(px, self.config.grid)?;
        Ok(crate::render::board(self.config.grid, px, &[], &[], true))
    }

    /// Pixels of a point in metres, y upwards.
    pub(crate) fn pixel(&self, px: usize, [x, y]: [f64; 2]) -> [f64; 2] {
        let scale = px as f64 / self.config.cell;
        [(x + self.half()) * scale, (self.half() - y) * scale]
    }

    /// The arena as text, the highest y on top.
    pub(crate) fn ansi(&self) -> String {
        let grid = self.config.grid;
        let mut text = String::new();
        for row in (0..grid).rev() {
            for col in 0..grid {
                let cell = (row * grid + col) as u16;
                text.push(match self.board.at(cell) {
                    _ if Some(cell) == self.cell => '@',
                    Content::Wall => '#',
                    Content::Pad(pad) => crate::render::pad_char(pad),
                    Content::Empty => '.',
                });
                text.push(if col + 1 == grid { '\n' } else { ' ' });
            }
        }
        let line = crate::render::task_line(&self.task, self.progress);
        text + &format!("task {line}  step {}/{}\n", self.step, self.config.horizon)
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the numbers are exact")]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout { pads: vec![0, 5, 10, 15], walls: vec![6], agent: 3 }
    }

    #[test]
    fn border_points_belong_to_the_higher_cell() {
        let arena = Arena::new(&ArenaConfig::default()).unwrap();
        assert_eq!(arena.cell_of(-4.0, -4.0), Some(0));
        assert_eq!(arena.cell_of(0.0, -2.0), Some(6));
        assert_eq!(arena.cell_of(4.0, 0.0), None);
        assert_eq!(arena.cell_of(f64::NAN, 0.0), None);
        assert_eq!(arena.centre(6), [1.0, -1.0]);
    }

    #[test]
    fn clamping_keeps_the_torso_in_the_nearest_cell() {
        let config = ArenaConfig { outside: Outside::Clamp, ..ArenaConfig::default() };
        let mut arena = Arena::new(&config).unwrap();
        arena.start(&[0, 1], &layout(), [3.0, -3.0]).unwrap();
        let step = arena.judge([99.0, -3.0], true).unwrap();
        assert!(!step.terminated && arena.cell() == Some(3));
        let step = arena.judge([f64::NAN, -3.0], true).unwrap();
        assert_eq!(step.info.reason, Reason::Outside);
    }

    #[test]
    fn health_comes_before_everything() {
        let mut arena = Arena::new(&ArenaConfig::default()).unwrap();
        arena.start(&[0], &layout(), [-1.0, -3.0]).unwrap();
        let step = arena.judge([-3.0, -3.0], false).unwrap();
        assert_eq!((step.info.reason, step.reward), (Reason::Unhealthy, 0.0));
        assert!(arena.judge([-3.0, -3.0], true).is_err());
    }

    #[test]
    fn absurd_arenas_are_errors() {
        let base = ArenaConfig::default;
        let wrong = [
            ("grid", ArenaConfig { grid: 1 << 40, ..base() }),
            ("pads", ArenaConfig { pads: 0, ..base() }),
            ("walls", ArenaConfig { walls: 12, ..base() }),
            ("cell", ArenaConfig { cell: f64::NAN, ..base() }),
            ("horizon", ArenaConfig { horizon: 0, ..base() }),
        ];
        for (field, config) in wrong {
            let message = Arena::new(&config).unwrap_err().to_string();
            assert!(message.starts_with(&format!("`{field}`")), "{field}: {message}");
        }
    }
}
