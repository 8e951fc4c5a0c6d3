//! Where pads, walls and agent lie; who reaches whom.

use crate::error::{Result, ensure, ensure_len};
use crate::maps::Maps;
use crate::stream::Stream;
use serde::{Deserialize, Serialize};

/// The four moves, in the order of the action numbers.
pub(crate) const DIRECTIONS: [(i32, i32); 4] = [(-1, 0), (0, 1), (1, 0), (0, -1)];

/// Largest side of a grid.
pub(crate) const MOST_SIDE: usize = 64;
/// Most pads.
pub(crate) const MOST_PADS: usize = 64;

/// Cells (`row * grid + column`) of pads, walls and agent; no two share a cell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layout {
    /// Cell of each pad.
    pub pads: Vec<u16>,
    /// Cell of each wall.
    pub walls: Vec<u16>,
    /// Cell in which the agent starts.
    pub agent: u16,
}

/// Which random layouts an environment accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayoutFilter {
    /// Those in which the episode's task can be solved within the time limit.
    #[default]
    Solvable,
    /// All.
    None,
}

/// A square grid and the neighbours of its cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    grid: usize,
    /// Cell after each of the four moves; the same cell where the grid ends.
    neighbours: Vec<[u16; 4]>,
}

impl Geometry {
    /// A grid of `grid` times `grid` cells.
    ///
    /// # Errors
    /// `grid` is not in 1 to 64.
    pub(crate) fn new(grid: usize) -> Result<Self> {
        ensure((1..=MOST_SIDE).contains(&grid), "grid", || format!("1 to {MOST_SIDE}"), grid)?;
        let side = grid as i32;
        let after = |row: i32, col: i32, (dr, dc): (i32, i32)| {
            let (r, c) = (row + dr, col + dc);
            let inside = (0..side).contains(&r) && (0..side).contains(&c);
            let (r, c) = if inside { (r, c) } else { (row, col) };
            (r * side + c) as u16
        };
        let cell = |p: i32| DIRECTIONS.map(|d| after(p / side, p % side, d));
        Ok(Self { grid, neighbours: (0..side * side).map(cell).collect() })
    }

    /// Side of the grid.
    pub(crate) fn grid(&self) -> usize {
        self.grid
    }

    /// Number of cells.
    pub(crate) fn cells(&self) -> usize {
        self.neighbours.len()
    }

    /// The cells after the four moves; the cell itself where the grid ends.
    #[inline]
    pub(crate) fn neighbours(&self, cell: u16) -> [u16; 4] {
        self.neighbours[usize::from(cell)]
    }
}

/// What lies in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    Empty,
    Pad(u8),
    Wall,
}

/// A layout with its reverse: what lies in each cell.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    pub(crate) layout: Layout,
    content: Vec<Content>,
    /// For the draw; its order before a draw does not matter.
    shuffle: Vec<u16>,
}

impl Board {
    pub(crate) fn new(geometry: &Geometry, pads: usize, walls: usize) -> Self {
        Self {
            layout: Layout { pads: vec![0; pads], walls: vec![0; walls], agent: 0 },
            content: vec![Content::Empty; geometry.cells()],
            shuffle: vec![0; geometry.cells()],
        }
    }

    #[inline]
    pub(crate) fn at(&self, cell: u16) -> Content {
        self.content[usize::from(cell)]
    }

    /// Draws pads, walls and agent uniformly without overlap.
    pub(crate) fn draw(&mut self, stream: &mut Stream) {
        for (cell, slot) in self.shuffle.iter_mut().enumerate() {
            *slot = cell as u16;
        }
        let Layout { pads, walls, agent } = &mut self.layout;
        let slots = pads.iter_mut().chain(walls).chain(std::iter::once(agent));
        for (k, slot) in slots.enumerate() {
            let other = k + stream.below(self.shuffle.len() - k);
            self.shuffle.swap(k, other);
            *slot = self.shuffle[k];
        }
        self.index();
    }

    /// Takes a layout that the caller chose.
    pub(crate) fn place(&mut self, layout: &Layout) -> Result<()> {
        self.check(&layout.pads, &layout.walls, Some(layout.agent))?;
        self.layout.clone_from(layout);
        self.index();
        Ok(())
    }

    /// Takes pads and walls that the caller chose, with no agent.
    pub(crate) fn place_markers(&mut self, pads: &[u16], walls: &[u16]) -> Result<()> {
        self.check(pads, walls, None)?;
        self.layout = Layout { pads: pads.to_vec(), walls: walls.to_vec(), agent: 0 };
        self.index();
        Ok(())
    }

    fn check(&self, pads: &[u16], walls: &[u16], agent: Option<u16>) -> Result<()> {
        ensure_len("layout.pads", self.layout.pads.len(), pads.len())?;
        ensure_len("layout.walls", self.layout.walls.len(), walls.len())?;
        let cells = self.content.len();
        let mut taken = vec![false; cells];
        for cell in pads.iter().chain(walls).chain(&agent) {
            let slot = taken.get_mut(usize::from(*cell));
            let free = slot.is_some_and(|s| !std::mem::replace(s, true));
            ensure(free, "layout", || format!("cells below {cells}, each used once"), cell)?;
        }
        Ok(())
    }

    fn index(&mut self) {
        self.content.fill(Content::Empty);
        for (pad, cell) in self.layout.pads.iter().enumerate() {
            self.content[usize::from(*cell)] = Content::Pad(pad as u8);
        }
        for cell in &self.layout.walls {
            self.content[usize::from(*cell)] = Content::Wall;
        }
    }

    /// Length of the shortest way through all pads of the task, entering no other pad; none if
    /// there is no way. `maps` is working space.
    pub(crate) fn shortest(
        &self,
        geometry: &Geometry,
        task: &[u8],
        maps: &mut Maps,
    ) -> Option<usize> {
        if geometry.cells() <= 64 {
            return self.shortest_by_bits(geometry, task);
        }
        maps.fill(geometry, self);
        let mut from = self.layout.agent;
        let mut total = 0;
        for pad in task {
            total += maps.entering(geometry, self, *pad, from)?;
            from = self.layout.pads[usize::from(*pad)];
        }
        Some(total)
    }

    /// The same for at most 64 cells: a flood of bits per leg, which makes the filter cheap enough
    /// to be on by default.
    fn shortest_by_bits(&self, geometry: &Geometry, task: &[u8]) -> Option<usize> {
        let flood = Flood::new(geometry.grid());
        let bit = |cell: &u16| 1_u64 << cell;
        let closed = self.layout.pads.iter().chain(&self.layout.walls).fold(0, |m, c| m | bit(c));
        let mut from = self.layout.agent;
        let mut total = 0;
        for pad in task {
            let to = self.layout.pads[usize::from(*pad)];
            total += flood.leg(!closed | bit(&to), bit(&from), bit(&to))?;
            from = to;
        }
        Some(total)
    }
}

/// Breadth-first search over a grid of at most 64 cells, one bit per cell.
struct Flood {
    grid: u32,
    all: u64,
    first_column: u64,
    last_column: u64,
}

impl Flood {
    fn new(grid: usize) -> Self {
        let cells = grid * grid;
        let all = if cells == 64 { u64::MAX } else { (1 << cells) - 1 };
        let first_column = (0..grid).fold(0, |m, row| m | 1 << (row * grid));
        Self { grid: grid as u32, all, first_column, last_column: first_column << (grid - 1) }
    }

    /// Steps from `from` until `to` is entered, over cells of `open`; from a pad to itself it is
    /// left and entered again.
    fn leg(&self, open: u64, from: u64, to: u64) -> Option<usize> {
        let (mut front, mut seen) = (from, 0);
        for steps in 1.. {
            let vertical = front.checked_shr(self.grid).unwrap_or(0)
                | front.checked_shl(self.grid).unwrap_or(0);
            let left = (front & !self.first_column) >> 1;
            let right = (front & !self.last_column) << 1;
            front = (vertical | left | right) & self.all & open & !seen;
            if front & to != 0 {
                return Some(steps);
            }
            if front == 0 {
                return None;
            }
            seen |= front;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_stay_inside() {
        let geometry = Geometry::new(3).unwrap();
        assert_eq!(geometry.neighbours(0), [0, 1, 3, 0]);
        assert_eq!(geometry.neighbours(4), [1, 5, 7, 3]);
        assert_eq!(geometry.neighbours(8), [5, 8, 8, 7]);
        assert!(Geometry::new(0).is_err() && Geometry::new(65).is_err());
    }

    #[test]
    fn a_draw_never_overlaps_and_fills_the_grid() {
        let geometry = Geometry::new(3).unwrap();
        let mut board = Board::new(&geometry, 5, 3);
        let mut stream = Stream::new(1, 0);
        let mut counts = [0_u32; 9];
        for _ in 0..900 {
            board.draw(&mut stream);
            let copy = board.layout.clone();
            board.place(&copy).unwrap();
            counts[usize::from(copy.agent)] += 1;
        }
        // 900 draws over nine cells: 100 each with standard deviation 9.4
        assert!(counts.iter().all(|c| (60..=140).contains(c)), "{counts:?}");
    }

    #[test]
    fn bits_and_maps_agree_on_the_shortest_way() {
        for (grid, pads, walls) in [(1, 0, 0), (3, 2, 2), (5, 4, 6), (7, 8, 4), (8, 6, 20)] {
            let geometry = Geometry::new(grid).unwrap();
            let mut board = Board::new(&geometry, pads, walls);
            let mut maps = Maps::new(&geometry, pads);
            let mut stream = Stream::new(grid as u64, 0);
            for _ in 0..60 {
                board.draw(&mut stream);
                let task: Vec<u8> =
                    (0..5).filter(|_| pads > 0).map(|_| stream.below(pads.max(1)) as u8).collect();
                maps.fill(&geometry, &board);
                let mut from = board.layout.agent;
                let slow = task.iter().try_fold(0, |sum, pad| {
                    let leg = maps.entering(&geometry, &board, *pad, from)?;
                    from = board.layout.pads[usize::from(*pad)];
                    Some(sum + leg)
                });
                assert_eq!(board.shortest_by_bits(&geometry, &task), slow);
            }
        }
    }

    #[test]
    fn impossible_layouts_are_errors() {
        let geometry = Geometry::new(2).unwrap();
        let mut board = Board::new(&geometry, 1, 1);
        let layout = |pad, wall, agent| Layout { pads: vec![pad], walls: vec![wall], agent };
        assert!(board.place(&layout(0, 1, 2)).is_ok());
        for wrong in [layout(0, 0, 2), layout(0, 1, 1), layout(0, 4, 1), layout(9, 1, 2)] {
            assert!(board.place(&wrong).is_err(), "{wrong:?}");
        }
        let few = Layout { pads: vec![], walls: vec![1], agent: 0 };
        assert!(board.place(&few).unwrap_err().to_string().contains("layout.pads"));
    }
}
