//! Distances to every pad by dynamic programming, and the optimal moves that follow from them.

use crate::error::{Result, ensure};
use crate::layout::{Board, Content, Geometry, MOST_PADS};

/// For each pad, the length of the shortest way to it from every cell; walls and other pads may not
/// be entered (a pad's cell may be left). One breadth-first search per pad.
#[derive(Clone, Debug)]
pub(crate) struct Maps {
    cells: usize,
    /// `[pads, cells]`; -1 where there is no way.
    dist: Vec<i16>,
    queue: Vec<u16>,
}

impl Maps {
    pub(crate) fn new(geometry: &Geometry, pads: usize) -> Self {
        let cells = geometry.cells();
        Self { cells, dist: vec![-1; pads * cells], queue: Vec::with_capacity(cells) }
    }

    pub(crate) fn fill(&mut self, geometry: &Geometry, board: &Board) {
        for (target, dist) in board.layout.pads.iter().zip(self.dist.chunks_exact_mut(self.cells)) {
            dist.fill(-1);
            dist[usize::from(*target)] = 0;
            self.queue.clear();
            self.queue.push(*target);
            let mut head = 0;
            while let Some(&cell) = self.queue.get(head) {
                head += 1;
                let next = dist[usize::from(cell)] + 1;
                for other in geometry.neighbours(cell) {
                    let known = &mut dist[usize::from(other)];
                    if *known >= 0 {
                        continue;
                    }
                    match board.at(other) {
                        Content::Wall => {}
                        // a foreign pad can be left towards the target, but no way leads through it
                        Content::Pad(_) => *known = next,
                        Content::Empty => {
                            *known = next;
                            self.queue.push(other);
                        }
                    }
                }
            }
        }
    }

    /// Steps from `cell` to `pad`, 0 on the pad itself; none if there is no way.
    #[inline]
    pub(crate) fn dist(&self, pad: u8, cell: u16) -> Option<usize> {
        usize::try_from(self.dist[usize::from(pad) * self.cells + usize::from(cell)]).ok()
    }

    /// The moves on a shortest way from `cell` to `pad`, one bit per direction; none on the pad.
    pub(crate) fn optimal(&self, geometry: &Geometry, board: &Board, pad: u8, cell: u16) -> u8 {
        let here = self.dist(pad, cell).unwrap_or(0);
        if here == 0 {
            return 0;
        }
        let leads = |to: u16| match board.at(to) {
            Content::Wall => false,
            Content::Pad(other) => other == pad,
            Content::Empty => self.dist(pad, to) == Some(here - 1),
        };
        mask(geometry.neighbours(cell).map(|to| to != cell && leads(to)))
    }

    /// Steps until `pad` is *entered*: as [`Maps::dist`], but from the pad itself it is left and
    /// entered again.
    pub(crate) fn entering(
        &self,
        geometry: &Geometry,
        board: &Board,
        pad: u8,
        cell: u16,
    ) -> Option<usize> {
        match self.dist(pad, cell) {
            Some(0) => {
                let exits = geometry.neighbours(cell);
                exits.iter().any(|c| *c != cell && board.at(*c) == Content::Empty).then_some(2)
            }
            other => other,
        }
    }

    /// The moves of an optimal walker who must *enter* `pad`: [`Maps::optimal`], and on the pad
    /// itself every way off it.
    pub(crate) fn walk(&self, geometry: &Geometry, board: &Board, pad: u8, cell: u16) -> u8 {
        if self.dist(pad, cell) != Some(0) {
            return self.optimal(geometry, board, pad, cell);
        }
        mask(geometry.neighbours(cell).map(|to| to != cell && board.at(to) == Content::Empty))
    }
}

/// Distances and optimal moves in one layout, for programs that plan (section 1.4).
///
/// ```
/// let guide = envs::Guide::new(3, &[0, 1], &[4])?;
/// assert_eq!(guide.dist(0, 2)?, Some(6)); // around pad 1 and the wall
/// assert_eq!(guide.optimal(0, 2)?, [false, false, true, false]); // down
/// # Ok::<(), envs::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Guide {
    geometry: Geometry,
    board: Board,
    maps: Maps,
}

impl Guide {
    /// The guide of a grid of `grid` times `grid` cells.
    ///
    /// # Errors
    /// A cell lies outside of the grid or is used twice.
    pub fn new(grid: usize, pads: &[u16], walls: &[u16]) -> Result<Self> {
        let geometry = Geometry::new(grid)?;
        let most = geometry.cells().min(MOST_PADS);
        ensure(pads.len() <= most, "pads", || format!("at most {most}"), pads.len())?;
        let mut board = Board::new(&geometry, pads.len(), walls.len());
        board.place_markers(pads, walls)?;
        let mut maps = Maps::new(&geometry, pads.len());
        maps.fill(&geometry, &board);
        Ok(Self { geometry, board, maps })
    }

    /// Steps from `cell` to `pad`, 0 on the pad itself; none if there is no way.
    ///
    /// # Errors
    /// There is no such pad or cell.
    pub fn dist(&self, pad: u8, cell: u16) -> Result<Option<usize>> {
        self.check(pad, cell)?;
        Ok(self.maps.dist(pad, cell))
    }

    /// Which of the moves up, right, down, left lie on a shortest way from `cell` to `pad`.
    ///
    /// # Errors
    /// There is no such pad or cell.
    pub fn optimal(&self, pad: u8, cell: u16) -> Result<[bool; 4]> {
        self.check(pad, cell)?;
        let mask = self.maps.optimal(&self.geometry, &self.board, pad, cell);
        Ok([0, 1, 2, 3].map(|d| mask >> d & 1 == 1))
    }

    fn check(&self, pad: u8, cell: u16) -> Result<()> {
        let pads = self.board.layout.pads.len();
        ensure(usize::from(pad) < pads, "pad", || format!("below {pads}"), pad)?;
        let cells = self.geometry.cells();
        ensure(usize::from(cell) < cells, "cell", || format!("below {cells}"), cell)
    }
}

/// Four flags as bits.
fn mask(flags: [bool; 4]) -> u8 {
    flags.into_iter().rev().fold(0, |m, flag| m << 1 | u8::from(flag))
}

/// The `n`-th set bit of a mask that has more than `n`.
pub(crate) fn nth_bit(mask: u8, n: usize) -> usize {
    (0..4).filter(|b| mask >> b & 1 == 1).nth(n).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_pad_is_left_but_never_entered() {
        // 0 1 2    pad 0 in cell 0, pad 1 in cell 1, wall in 4
        // 3 # 5
        // 6 7 8
        let geometry = Geometry::new(3).unwrap();
        let mut board = Board::new(&geometry, 2, 1);
        board.place_markers(&[0, 1], &[4]).unwrap();
        let mut maps = Maps::new(&geometry, 2);
        maps.fill(&geometry, &board);
        let all = |pad| (0..9).map(|c| maps.dist(pad, c)).collect::<Vec<_>>();
        let s = Some;
        assert_eq!(all(0), [s(0), s(1), s(6), s(1), None, s(5), s(2), s(3), s(4)]);
        assert_eq!(all(1), [s(1), s(0), s(1), s(6), None, s(2), s(5), s(4), s(3)]);
        assert_eq!(maps.optimal(&geometry, &board, 0, 2), 0b0100, "down, not through pad 1");
        assert_eq!(maps.optimal(&geometry, &board, 0, 1), 0b1000);
        assert_eq!(maps.optimal(&geometry, &board, 0, 0), 0);
        assert_eq!(maps.walk(&geometry, &board, 0, 0), 0b0100);
        assert_eq!(nth_bit(0b1010, 1), 3);
    }
}
