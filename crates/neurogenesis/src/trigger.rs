//! When and where to grow, and by how much (section 3): decisions on numbers alone.

use crate::metric::Dimension;
use serde::{Deserialize, Serialize};

/// Added inside every floor, so that `0.97 * 100` is 97 and not 96.99999999999999.
pub const TIE: f64 = 1e-9;

/// Which of two published forms of a rule.
///
/// They differ by one unit whenever `gamma phi0 M` is not whole, and that decides whether small
/// layers grow at all: with width 4, `gamma = 0.97` and `phi = phi0 = 1` the printed formula gives
/// `floor(0.12) = 0` for ever, the released code 1 (section 3.1).
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// As printed: `floor(count - gamma phi0 M)`; gradient trigger: `sigma > sum`.
    Paper,
    /// As the released code, which made the published figures: `count - floor(gamma phi0 M)`;
    /// gradient trigger: `sigma >= sum / 2`.
    #[default]
    Released,
}

fn floor(x: f64) -> i64 {
    (x + TIE).floor() as i64
}

/// Units that an orthogonality trigger asks for: `T` of section 3.1 with the baseline
/// `gamma phi0` of a layer. Never negative.
pub fn units_wanted(now: Dimension, baseline: f64, variant: Variant) -> i64 {
    let threshold = baseline * now.width as f64;
    match variant {
        Variant::Paper => floor(now.count as f64 - threshold).max(0),
        Variant::Released => (now.count - floor(threshold)).max(0),
    }
}

/// What a cap leaves of a demand: at most `max_width - width`, at least 0 (a cap below the present
/// width stops growth and prunes nothing).
pub fn capped(wanted: i64, width: i64, max_width: i64) -> i64 {
    wanted.min(max_width - width).max(0)
}

/// What a layer is held against.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// `gamma phi0`, measured once on the fresh network (section 3.1).
    Initial(f64),
    /// `gamma max_t phi_t` over all earlier steps (section 3.2): for convolutional networks, whose
    /// late layers can start near 0.
    RunningMax(f64),
}

impl Baseline {
    /// The value, `gamma` included.
    pub fn value(self) -> f64 {
        match self {
            Self::Initial(b) | Self::RunningMax(b) => b,
        }
    }

    /// Takes a measurement in, *after* the decision that it led to and with the width before growth.
    pub fn observe(&mut self, now: Dimension, gamma: f64) {
        if let Self::RunningMax(b) = self {
            *b = b.max(gamma * now.phi());
        }
    }
}

/// Units that the gradient trigger asks for (section 3.4): singular values of
/// `A = (dL/dZ_{l+1})^T H_{l-1}` that exceed the summed norms of the fan-in and fan-out gradients of
/// the layer's units.
pub fn gradient_units_wanted(singular_values: &[f64], norm_sum: f64, variant: Variant) -> i64 {
    let fires = |s: f64| match variant {
        Variant::Paper => s > norm_sum,
        Variant::Released => s >= norm_sum / 2.0,
    };
    singular_values.iter().filter(|s| fires(**s)).count() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rounding_decides_whether_small_layers_grow() {
        let full = |width| Dimension { count: width, width };
        for (width, printed, released) in [(1, 0, 1), (4, 0, 1), (33, 0, 1), (34, 1, 2), (64, 1, 2)]
        {
            assert_eq!(units_wanted(full(width), 0.97, Variant::Paper), printed, "{width}");
            assert_eq!(units_wanted(full(width), 0.97, Variant::Released), released, "{width}");
        }
        // A whole threshold: both forms agree. 0.97 * 100 is not whole in binary.
        let d = Dimension { count: 98, width: 100 };
        assert_eq!(units_wanted(d, 0.97, Variant::Paper), 1);
        assert_eq!(units_wanted(d, 0.97, Variant::Released), 1);
    }

    #[test]
    fn caps_never_prune() {
        assert_eq!(capped(5, 10, 12), 2);
        assert_eq!(capped(5, 10, 8), 0);
        assert_eq!(capped(-3, 10, 20), 0);
    }

    #[test]
    fn the_running_maximum_rises_only_after_the_decision() {
        let mut b = Baseline::RunningMax(0.0);
        let now = Dimension { count: 8, width: 10 };
        assert_eq!(units_wanted(now, b.value(), Variant::Released), 8);
        b.observe(now, 0.9);
        assert!((b.value() - 0.72).abs() < 1e-15);
        b.observe(Dimension { count: 1, width: 10 }, 0.9);
        assert!((b.value() - 0.72).abs() < 1e-15);
        let mut fixed = Baseline::Initial(0.5);
        fixed.observe(now, 0.9);
        assert_eq!(fixed, Baseline::Initial(0.5));
    }

    #[test]
    fn the_gradient_trigger_by_hand() {
        let s = [3.0, 2.0, 1.0, 0.5];
        assert_eq!(gradient_units_wanted(&s, 2.0, Variant::Paper), 1);
        assert_eq!(gradient_units_wanted(&s, 2.0, Variant::Released), 3);
    }
}
