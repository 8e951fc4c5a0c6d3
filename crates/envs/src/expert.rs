//! The expert of the grid world: the stochastic optimal policy, by dynamic programming (C.1.1).

use crate::env::{Env, ResetOptions};
use crate::error::{Result, ensure};
use crate::layout::Layout;
use crate::maps::{Maps, nth_bit};
use crate::pinpad::GridPinpad;
use crate::stream::Stream;
use serde::{Deserialize, Serialize};

/// Seeds the expert's own choices apart from the world's draws.
const CHOICES: u64 = 0x6578_7065_7274;

/// Walks the shortest way to the next pad, uniformly over the moves that lie on one.
///
/// With probability `epsilon` it takes instead a uniform action among those that enter no wrong pad
/// (bumps included). In a compass world with fixed ties it follows the compass.
#[derive(Clone, Debug)]
pub struct Expert {
    epsilon: f64,
    maps: Maps,
    stream: Stream,
}

/// One episode in compact form; [`GridPinpad`] with the same configuration gives its observations
/// again from `layout` and `key`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trajectory {
    /// Index of the task in the world's list, -1 for another one.
    pub task: i32,
    /// Cells of pads, walls and start.
    pub layout: Layout,
    /// Key of scramble and compass ties.
    pub key: u64,
    /// Cell of the agent before each action and after the last: `steps + 1`.
    pub cells: Vec<u16>,
    /// Actions: `steps`.
    pub actions: Vec<u8>,
    /// Label of the subgoal in pursuit when each action was chosen: `steps`.
    pub subgoals: Vec<i8>,
    /// Whether the task was solved in time.
    pub success: bool,
}

impl Expert {
    /// An expert for worlds like this one.
    ///
    /// # Errors
    /// `epsilon` is no probability.
    pub fn new(world: &GridPinpad, epsilon: f64) -> Result<Self> {
        ensure((0.0..=1.0).contains(&epsilon), "epsilon", || "0 to 1".into(), epsilon)?;
        Ok(Self { epsilon, maps: world.empty_maps(), stream: Stream::new(0, 0) })
    }

    /// Must be called after each reset of the world: computes the distances of its layout.
    pub fn begin(&mut self, world: &GridPinpad) {
        world.map(&mut self.maps);
    }

    /// Goes to the start of a stream of choices.
    pub fn seed(&mut self, seed: u64, stream: u64) {
        self.stream = Stream::new(seed ^ CHOICES, stream);
    }

    /// The optimal actions, one bit each; 0 where the next pad cannot be reached or all is done.
    pub fn optimal(&self, world: &GridPinpad) -> u8 {
        match world.task().get(world.progress()) {
            Some(pad) => world.towards(&self.maps, *pad),
            None => 0,
        }
    }

    /// Chooses an action. Where there is no way to the next pad, any that enters no wrong pad.
    pub fn act(&mut self, world: &GridPinpad) -> usize {
        let explore = self.epsilon > 0.0 && self.stream.uniform(0.0, 1.0) < self.epsilon;
        let best = if explore { 0 } else { self.optimal(world) };
        let choice = if best != 0 {
            best
        } else {
            // a walker between four wrong pads has no safe action and takes any
            let safe = (0..4).fold(0, |m, a| m | u8::from(!world.is_fatal(a)) << a);
            if safe == 0 { 0b1111 } else { safe }
        };
        match choice.count_ones() {
            1 => choice.trailing_zeros() as usize,
            n => nth_bit(choice, self.stream.below(n as usize)),
        }
    }

    /// Plays episode `index` of `seed` into `out`. The same arguments give the same episode,
    /// whatever was played before and on whichever thread.
    ///
    /// # Errors
    /// As [`Env::restart`].
    pub fn play(
        &mut self,
        world: &mut GridPinpad,
        seed: u64,
        index: u64,
        out: &mut Trajectory,
    ) -> Result<()> {
        world.seed(seed, index);
        self.seed(seed, index);
        let info = world.restart(&ResetOptions::default())?;
        self.begin(world);
        out.task = info.task;
        out.layout.clone_from(world.layout());
        out.key = world.key();
        out.cells.clear();
        out.cells.push(world.agent());
        out.actions.clear();
        out.subgoals.clear();
        let mut subgoal = info.subgoal;
        loop {
            let action = self.act(world);
            let step = world.advance(&action)?;
            out.actions.push(action as u8);
            out.subgoals.push(subgoal as i8);
            out.cells.push(world.agent());
            subgoal = step.info.subgoal;
            if step.ended() {
                out.success = step.reward > 0.0;
                return Ok(());
            }
        }
    }
}
