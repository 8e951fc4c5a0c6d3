//! Preset growth without a metric (section 3.5).

use crate::trigger::TIE;
use serde::{Deserialize, Serialize};

/// When to add, decided before training.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// One unit at a time along a straight line from the initial to the final width, reached at
    /// `end_fraction` of training.
    Linear,
    /// Eight equal stages, the last reached at `end_fraction`.
    Batched,
    /// One unit at every step until the final width.
    FastLinear,
    /// One unit with probability `1 - progress`, while the width is below `progress` times the cap.
    Random,
    /// Never.
    Static,
}

/// Where a layer and the training stand.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Standing {
    /// Width now.
    pub width: i64,
    /// Width at the start, `w0`.
    pub initial: i64,
    /// Width that the schedule ends at, `wS`.
    pub last: i64,
    /// Cap of the layer, which only [`Preset::Random`] looks at.
    pub max_width: i64,
    /// Share of all training that is done after this step, in `0..=1`: `e / E`.
    pub progress: f64,
    /// Share of training at which growth ends, `s`.
    pub end_fraction: f64,
}

impl Preset {
    /// Units to add now. `uniform` is a draw from `0..1`, which only [`Preset::Random`] uses.
    pub fn units_wanted(self, at: Standing, uniform: f64) -> i64 {
        let Standing { width, initial, last, max_width, progress, end_fraction } = at;
        let span = (last - initial) as f64;
        let share = progress / end_fraction;
        match self {
            Self::Static => 0,
            Self::FastLinear => i64::from(width < last),
            Self::Linear => {
                let line = span * share + initial as f64;
                i64::from(width < last && (width as f64) < line - TIE)
            }
            Self::Batched => {
                let stage = (8.0 * share + TIE).floor();
                let target = initial + (stage * span / 8.0 + TIE).floor() as i64;
                let batch = ((span / 8.0 + TIE).floor() as i64).max(1);
                if width < target.min(last) { batch.min(last - width) } else { 0 }
            }
            Self::Random => {
                let room = (width as f64) < progress * max_width as f64;
                i64::from(uniform > progress && room)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_preset_by_hand() {
        let at = Standing {
            width: 8,
            initial: 8,
            last: 40,
            max_width: 64,
            progress: 0.1,
            end_fraction: 0.5,
        };
        assert_eq!(Preset::Linear.units_wanted(at, 0.0), 1);
        assert_eq!(Preset::Batched.units_wanted(at, 0.0), 4);
        assert_eq!(Preset::FastLinear.units_wanted(at, 0.0), 1);
        assert_eq!(Preset::Static.units_wanted(at, 0.0), 0);
        let full = Standing { width: 40, progress: 1.0, ..at };
        for preset in [Preset::Linear, Preset::Batched, Preset::FastLinear] {
            assert_eq!(preset.units_wanted(full, 0.0), 0);
        }
        let early = Standing { progress: 0.2, ..at };
        assert_eq!(Preset::Random.units_wanted(early, 0.5), 1);
        assert_eq!(Preset::Random.units_wanted(early, 0.1), 0);
        assert_eq!(Preset::Random.units_wanted(Standing { width: 20, ..early }, 0.5), 0);
    }
}
