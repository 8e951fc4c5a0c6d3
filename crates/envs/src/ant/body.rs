//! The ant from above, drawn from its positions alone.

use super::NQ;
use crate::arena::Arena;
use crate::render::{BODY, Canvas, INK};

type V3 = [f64; 3];

/// A unit quaternion (w, x, y, z).
type Quaternion = [f64; 4];

fn product(a: Quaternion, b: Quaternion) -> Quaternion {
    [
        a[0] * b[0] - a[1] * b[1] - a[2] * b[2] - a[3] * b[3],
        a[0] * b[1] + a[1] * b[0] + a[2] * b[3] - a[3] * b[2],
        a[0] * b[2] - a[1] * b[3] + a[2] * b[0] + a[3] * b[1],
        a[0] * b[3] + a[1] * b[2] - a[2] * b[1] + a[3] * b[0],
    ]
}

fn turned([w, x, y, z]: Quaternion, v: V3) -> V3 {
    let p = product(product([w, x, y, z], [0.0, v[0], v[1], v[2]]), [w, -x, -y, -z]);
    [p[1], p[2], p[3]]
}

fn about(axis: V3, angle: f64) -> Quaternion {
    let norm = (axis[0] * axis[0] + axis[1] * axis[1] + axis[2] * axis[2]).sqrt();
    let (sin, cos) = (angle / 2.0).sin_cos();
    [cos, axis[0] / norm * sin, axis[1] / norm * sin, axis[2] / norm * sin]
}

/// Quadrant of each leg, and the x component of its ankle's axis.
const LEGS: [([f64; 2], f64); 4] =
    [([1.0, 1.0], -1.0), ([-1.0, 1.0], 1.0), ([-1.0, -1.0], -1.0), ([1.0, -1.0], 1.0)];

/// The points of each leg: torso, hip, ankle, foot.
pub(crate) fn legs(qpos: &[f64; NQ]) -> [[V3; 4]; 4] {
    let torso = [qpos[0], qpos[1], qpos[2]];
    let norm = qpos[3..7].iter().map(|q| q * q).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    let base = [qpos[3], qpos[4], qpos[5], qpos[6]].map(|q| q / norm);
    std::array::from_fn(|leg| {
        let ([sx, sy], ankle_x) = LEGS[leg];
        let (hip, ankle) = (qpos[7 + 2 * leg], qpos[8 + 2 * leg]);
        let along = |q: Quaternion, from: V3, length: f64| {
            let step = turned(q, [sx * length, sy * length, 0.0]);
            [from[0] + step[0], from[1] + step[1], from[2] + step[2]]
        };
        let at_hip = along(base, torso, 0.2);
        let upper = product(base, about([0.0, 0.0, 1.0], hip));
        let at_ankle = along(upper, at_hip, 0.2);
        let lower = product(upper, about([ankle_x, 1.0, 0.0], ankle));
        [torso, at_hip, at_ankle, along(lower, at_ankle, 0.4)]
    })
}

/// Draws the ant onto its arena.
pub(crate) fn draw(canvas: &mut Canvas, arena: &Arena, px: usize, qpos: &[f64; NQ]) {
    let scale = px as f64 / arena.config().cell;
    let pixel = |p: V3| arena.pixel(px, [p[0], p[1]]);
    for leg in legs(qpos) {
        for pair in leg.windows(2) {
            canvas.line(pixel(pair[0]), pixel(pair[1]), (0.08 * scale).max(1.0), INK);
        }
    }
    let torso = pixel([qpos[0], qpos[1], 0.0]);
    canvas.disc(torso, (0.25 * scale).max(2.0), INK);
    canvas.disc(torso, (0.19 * scale).max(1.0), BODY);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: V3, b: [f64; 3]) {
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12), "{a:?} {b:?}");
    }

    #[test]
    fn zero_angles_give_the_model_and_joints_turn_about_their_axes() {
        let mut qpos = [0.0; NQ];
        qpos[2] = 0.75;
        qpos[3] = 1.0;
        let all = legs(&qpos);
        close(all[0][3], [0.8, 0.8, 0.75]);
        close(all[1][2], [-0.4, 0.4, 0.75]);
        close(all[3][3], [0.8, -0.8, 0.75]);
        // the ankle of leg 1 is turned about (-1, 1, 0): a quarter turn puts the foot straight
        // below it
        qpos[8] = std::f64::consts::FRAC_PI_2;
        close(legs(&qpos)[0][3], [0.4, 0.4, 0.75 - 0.4 * 2.0_f64.sqrt()]);
        // half a turn of the torso about the vertical
        let mut turned = [0.0; NQ];
        turned[6] = 1.0;
        close(legs(&turned)[0][3], [-0.8, -0.8, 0.0]);
    }
}
