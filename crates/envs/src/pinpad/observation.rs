//! What the learner sees of the grid world.

use super::{GridPinpad, ObsMode, Ties};
use crate::maps::nth_bit;
use crate::stream::mix;

/// The 24 orders of four moves.
const ORDERS: [[u8; 4]; 24] = orders();

const fn orders() -> [[u8; 4]; 24] {
    let mut out = [[0; 4]; 24];
    let (mut n, mut code) = (0, 0);
    while code < 256_u32 {
        let order =
            [code as u8 & 3, (code >> 2) as u8 & 3, (code >> 4) as u8 & 3, (code >> 6) as u8];
        if 1 << order[0] | 1 << order[1] | 1 << order[2] | 1 << order[3] == 15 {
            out[n] = order;
            n += 1;
        }
        code += 1;
    }
    out
}

impl GridPinpad {
    /// `order[action]` is the direction in which `action` moves from a cell.
    pub(crate) fn order(&self, cell: u16) -> [u8; 4] {
        if !self.config.scramble {
            return [0, 1, 2, 3];
        }
        ORDERS[(mix(self.key ^ mix(u64::from(cell))) % 24) as usize]
    }

    /// Bits of directions as bits of actions.
    pub(crate) fn as_actions(&self, cell: u16, directions: u8) -> u8 {
        let order = self.order(cell);
        (0..4).fold(0, |m, action| m | (directions >> order[action] & 1) << action)
    }

    /// The directions that the compass shows for a pad, one bit each.
    pub(crate) fn compass(&self, pad: u8, ties: Ties) -> u8 {
        let all = self.maps.optimal(&self.geometry, &self.board, pad, self.agent);
        match ties {
            Ties::All => all,
            Ties::Fixed if all == 0 => 0,
            Ties::Fixed => {
                let place = ((0x1_0000 + u64::from(pad)) << 16) | u64::from(self.agent);
                let pick = mix(self.key ^ mix(place)) % u64::from(all.count_ones());
                1 << nth_bit(all, pick as usize)
            }
        }
    }

    /// Writes the whole observation; `obs` has its length.
    pub(crate) fn write(&self, obs: &mut [f32]) {
        let (seen, last) = obs.split_at_mut(self.obs_len_without_last_pad());
        match self.config.obs {
            ObsMode::OneHot => self.write_one_hot(seen),
            ObsMode::Compass { ties } => self.write_compass(seen, ties),
            ObsMode::Relative => self.write_relative(seen),
        }
        if let Some(none) = last.len().checked_sub(1) {
            last.fill(0.0);
            last[self.last_pad.map_or(none, usize::from)] = 1.0;
        }
    }

    pub(crate) fn obs_len_without_last_pad(&self) -> usize {
        self.config.obs_len() - if self.config.obs_last_pad { self.config.pads + 1 } else { 0 }
    }

    /// Index of the agent's block in the one-hot observation.
    pub(crate) fn agent_block(&self) -> usize {
        self.geometry.cells() * (self.config.pads + self.config.walls)
    }

    fn write_one_hot(&self, obs: &mut [f32]) {
        obs.fill(0.0);
        let layout = &self.board.layout;
        let channels = layout.pads.len() + layout.walls.len();
        for (channel, cell) in layout.pads.iter().chain(&layout.walls).enumerate() {
            obs[usize::from(*cell) * channels + channel] = 1.0;
        }
        obs[self.agent_block() + usize::from(self.agent)] = 1.0;
    }

    fn write_compass(&self, obs: &mut [f32], ties: Ties) {
        obs.fill(0.0);
        for (pad, bits) in obs.chunks_exact_mut(4).take(self.config.pads).enumerate() {
            let mask = self.as_actions(self.agent, self.compass(pad as u8, ties));
            for (action, bit) in bits.iter_mut().enumerate() {
                *bit = f32::from(mask >> action & 1);
            }
        }
        let (row, col) = self.place(self.agent);
        let rows = 4 * self.config.pads;
        obs[rows + row] = 1.0;
        obs[rows + self.config.grid + col] = 1.0;
    }

    fn write_relative(&self, obs: &mut [f32]) {
        let side = self.config.grid as f32;
        let (row, col) = self.place(self.agent);
        let layout = &self.board.layout;
        let mut pairs = obs.chunks_exact_mut(2);
        for (cell, pair) in layout.pads.iter().chain(&layout.walls).zip(&mut pairs) {
            let (r, c) = self.place(*cell);
            pair.copy_from_slice(&[(r as f32 - row as f32) / side, (c as f32 - col as f32) / side]);
        }
        if let Some(pair) = pairs.next() {
            pair.copy_from_slice(&[row as f32 / side, col as f32 / side]);
        }
    }

    fn place(&self, cell: u16) -> (usize, usize) {
        (usize::from(cell) / self.config.grid, usize::from(cell) % self.config.grid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn there_are_24_orders() {
        assert_eq!(BTreeSet::from(ORDERS).len(), 24);
    }
}
