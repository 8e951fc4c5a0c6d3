//! A scripted expert for ant-pinpad: a trot in any direction, steered along the shortest way of
//! cells. It stands in for the paper's PPO expert (C.1.1), which needs far more than a laptop.

use super::{AntPinpad, NU};
use crate::layout::DIRECTIONS;
use std::f64::consts::{FRAC_PI_4, PI, TAU};

/// Seconds per control step.
const DT: f64 = 0.05;

/// Of each leg: direction from the torso (in quarter turns after the first eighth), sign of an
/// ankle that bends down, half of the trot.
const LEGS: [(f64, f64, f64); 4] =
    [(0.0, 1.0, 0.0), (1.0, -1.0, PI), (2.0, -1.0, 0.0), (3.0, 1.0, PI)];

/// The leg of each pair of motors.
const MOTORS: [usize; 4] = [3, 0, 1, 2];

/// A trot: the hips of diagonal legs swing along the direction of motion, ankles lift the leg on
/// its way forward, and a proportional-derivative controller follows.
///
/// The numbers were found by random search for speed, straightness and not falling.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Gait {
    /// Steps per second.
    rate: f64,
    /// Swing of a hip in radians.
    swing: f64,
    /// Bend of an ankle at rest, and by how much it is lifted.
    bend: f64,
    lift: f64,
    /// Gains on angle and angular velocity.
    stiffness: f64,
    damping: f64,
    /// Phase of the lift against the swing.
    lag: f64,
    /// Swing of the ankle in legs that point along the motion.
    reach: f64,
}

const TROT: Gait = Gait {
    rate: 2.423,
    swing: 0.356,
    bend: 0.978,
    lift: 0.443,
    stiffness: 2.364,
    damping: 0.21,
    lag: -1.192,
    reach: 0.443,
};

impl Gait {
    /// Motor commands at a phase of the trot, towards a direction in the ant's own frame, with
    /// `amount` (0 to 1) of the full swing.
    fn torques(
        &self,
        phase: f64,
        towards: f64,
        amount: f64,
        joints: &[f64],
        speeds: &[f64],
    ) -> [f64; NU] {
        let mut out = [0.0; NU];
        for (pair, leg) in out.chunks_exact_mut(2).zip(MOTORS) {
            let (quarter, down, half) = LEGS[leg];
            let angle = towards - FRAC_PI_4 - quarter * 2.0 * FRAC_PI_4;
            let phase = phase + half;
            let hip = amount * self.swing * angle.sin() * phase.sin();
            let lifted = self.lift * (phase + self.lag).cos().max(0.0);
            let reach = amount * self.reach * angle.cos() * phase.sin();
            let ankle =
                down * (self.bend - lifted - reach).clamp(30_f64.to_radians(), 70_f64.to_radians());
            for (slot, (joint, goal)) in pair.iter_mut().zip([(2 * leg, hip), (2 * leg + 1, ankle)])
            {
                let torque = self.stiffness * (goal - joints[joint]) - self.damping * speeds[joint];
                *slot = torque.clamp(-1.0, 1.0);
            }
        }
        out
    }
}

/// Walks the ant through its task; deterministic. How often it succeeds is in the README.
#[derive(Clone, Debug)]
pub struct AntExpert {
    phase: f64,
    /// Wanted speed in metres per second, and how strongly deviations from it are corrected.
    speed: f64,
    correction: f64,
    /// Metres per second towards the middle of the lane, per metre beside it.
    centring: f64,
}

impl Default for AntExpert {
    fn default() -> Self {
        Self::new()
    }
}

impl AntExpert {
    /// An expert at the start of its gait.
    pub fn new() -> Self {
        Self { phase: 0.0, speed: 2.2, correction: 0.5, centring: 2.5 }
    }

    /// Chooses motor commands; to be called once per control step.
    pub fn act(&mut self, world: &mut AntPinpad) -> [f64; NU] {
        let wanted = self.wanted(world);
        let (qpos, qvel) = (world.qpos(), world.qvel());
        let push = [0, 1].map(|k| wanted[k] + self.correction * (wanted[k] - qvel[k]));
        let strength = push[0].hypot(push[1]) / (self.speed * (1.0 + self.correction)) * 1.2;
        let [w, x, y, z] = [qpos[3], qpos[4], qpos[5], qpos[6]];
        let yaw = (2.0 * (w * z + x * y)).atan2(1.0 - 2.0 * (y * y + z * z));
        let towards = push[1].atan2(push[0]) - yaw;
        let torques = TROT.torques(self.phase, towards, strength.min(1.0), &qpos[7..], &qvel[6..]);
        self.phase = (self.phase + TAU * TROT.rate * DT).rem_euclid(TAU);
        torques
    }

    /// The velocity that leads to the next cell: to the middle of the lane that joins the two
    /// cells, and along it, the slower the further beside it.
    fn wanted(&self, world: &mut AntPinpad) -> [f64; 2] {
        let ways = world.arena_mut().ways();
        let arena = world.arena();
        let Some(cell) = arena.cell() else { return [0.0; 2] };
        let (centre, side) = (arena.centre(cell), arena.config().cell);
        let place = [world.qpos()[0], world.qpos()[1]];
        let goal = |d: usize| {
            let (row, col) = DIRECTIONS[d];
            [centre[0] + side * f64::from(col), centre[1] + side * f64::from(row)]
        };
        let far = |d: usize| {
            let [x, y] = goal(d);
            (x - place[0]).hypot(y - place[1])
        };
        let nearest = (0..4).filter(|d| ways[*d]).min_by(|a, b| far(*a).total_cmp(&far(*b)));
        let Some(way) = nearest else { return [0.0; 2] };
        let along = usize::from(DIRECTIONS[way].0 != 0);
        let beside = centre[1 - along] - place[1 - along];
        let mut wanted = [0.0; 2];
        wanted[1 - along] = (self.centring * beside).clamp(-self.speed, self.speed);
        let ahead = self.speed * (1.0 - beside.abs() * 2.0 / side).max(0.25);
        wanted[along] = (goal(way)[along] - centre[along]).signum() * ahead;
        wanted
    }
}
