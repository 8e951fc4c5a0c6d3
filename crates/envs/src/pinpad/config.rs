//! The configuration of the grid world; defaults are the paper's.

use crate::error::{Result, ensure};
use crate::layout::{Geometry, LayoutFilter, MOST_PADS};
use crate::task::{ANT_POST, ANT_PRETRAIN, Subgoals, Tasks};
use serde::{Deserialize, Serialize};

/// Most numbers in an observation.
const MOST_OBS: usize = 1 << 20;

/// What the learner sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObsMode {
    /// The paper's: per cell a channel per pad and per wall, then the agent's cell;
    /// `grid^2 * (pads + walls + 1)` zeros and ones.
    #[default]
    OneHot,
    /// Per pad 4 bits, the optimal moves towards it with the other pads as obstacles (none for the
    /// pad that the agent stands on); then one-hot row and column: `4 pads + 2 grid` numbers.
    Compass {
        /// What is shown where several moves are optimal.
        ties: Ties,
    },
    /// `(row, column) / grid` from the agent to each pad, then to each wall, then of the agent:
    /// `2 (pads + walls + 1)` numbers.
    Relative,
}

/// What [`ObsMode::Compass`] shows where several moves are optimal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ties {
    /// One of them, drawn per episode, pad and cell and then kept. The expert follows it.
    #[default]
    Fixed,
    /// All of them.
    All,
}

/// Configuration of [`GridPinpad`](super::GridPinpad).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GridConfig {
    /// Side of the grid, 1 to 64.
    pub grid: usize,
    /// Number of pads, 1 to 64.
    pub pads: usize,
    /// Number of walls.
    pub walls: usize,
    /// Time limit in steps, 1 to 2^30.
    pub horizon: u32,
    /// What the learner sees.
    pub obs: ObsMode,
    /// Give the actions of each cell a random order in each episode. Compass bits and expert follow
    /// the order; layout, visits and distances are unchanged.
    pub scramble: bool,
    /// Append a one-hot of the last pad entered (`pads + 1` numbers, the last for none).
    pub obs_last_pad: bool,
    /// Which random layouts are accepted.
    pub filter: LayoutFilter,
    /// The tasks to draw from.
    pub tasks: Tasks,
    /// What a subgoal label counts.
    pub subgoals: Subgoals,
}

impl Default for GridConfig {
    fn default() -> Self {
        Self {
            grid: 7,
            pads: 8,
            walls: 4,
            horizon: 100,
            obs: ObsMode::default(),
            scramble: false,
            obs_last_pad: false,
            filter: LayoutFilter::default(),
            tasks: Tasks::default(),
            subgoals: Subgoals::default(),
        }
    }
}

impl GridConfig {
    /// The paper's grid world with the post-training task.
    pub fn post() -> Self {
        Self { tasks: Tasks::Post, ..Self::default() }
    }

    /// "Scrambled compass pinpad", the world that fits a laptop: 5x5 cells, 4 pads, no wall,
    /// 40 steps, the ant's pretraining tasks.
    pub fn scrambled_compass() -> Self {
        Self {
            grid: 5,
            pads: 4,
            walls: 0,
            horizon: 40,
            obs: ObsMode::Compass { ties: Ties::Fixed },
            scramble: true,
            tasks: Tasks::List(ANT_PRETRAIN.iter().map(|t| t.to_vec()).collect()),
            subgoals: Subgoals::Pads,
            ..Self::default()
        }
    }

    /// [`scrambled_compass`](Self::scrambled_compass) with the post-training task 0-1-2-3.
    pub fn scrambled_compass_post() -> Self {
        Self { tasks: Tasks::List(vec![ANT_POST.to_vec()]), ..Self::scrambled_compass() }
    }

    /// Length of an observation.
    pub fn obs_len(&self) -> usize {
        let Self { grid, pads, walls, .. } = *self;
        let seen = match self.obs {
            ObsMode::OneHot => grid * grid * (pads + walls + 1),
            ObsMode::Compass { .. } => 4 * pads + 2 * grid,
            ObsMode::Relative => 2 * (pads + walls + 1),
        };
        seen + if self.obs_last_pad { pads + 1 } else { 0 }
    }

    /// Checks every field and resolves the tasks.
    ///
    /// # Errors
    /// The first field that does not fit.
    pub(crate) fn validate(&self) -> Result<(Geometry, Vec<Vec<u8>>)> {
        let geometry = Geometry::new(self.grid)?;
        let cells = geometry.cells();
        ensure(
            (1..=MOST_PADS).contains(&self.pads),
            "pads",
            || format!("1 to {MOST_PADS}"),
            self.pads,
        )?;
        let room = || format!("pads + walls + 1 at most {cells} cells, with {} pads", self.pads);
        ensure(self.walls < cells && self.pads + self.walls < cells, "walls", room, self.walls)?;
        ensure(
            (1..=1 << 30).contains(&self.horizon),
            "horizon",
            || "1 to 2^30".into(),
            self.horizon,
        )?;
        let len = self.obs_len();
        ensure(len <= MOST_OBS, "obs", || format!("at most {MOST_OBS} numbers"), len)?;
        Ok((geometry, self.tasks.resolve(self.pads)?))
    }
}
