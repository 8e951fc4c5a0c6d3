//! Learning-rate schedules: pure functions of the step, as data.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;

/// A value for each step `0, 1, 2, ..`.
///
/// After the end of a variant with a length, its last value holds.
///
/// ```
/// use tensor_core::schedule::Schedule;
/// let lr = Schedule::warmup_cosine(3e-4, 3e-5, 100, 1000);
/// assert_eq!(lr.at(50), 1.5e-4);
/// assert_eq!(lr.at(100), 3e-4);
/// assert_eq!(lr.at(5000), 3e-5);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// Always this value.
    Constant(f64),
    /// Straight from `from` at step 0 to `to` at step `steps`: the linear warm-up (and cool-down).
    Linear {
        /// Value at step 0.
        from: f64,
        /// Value from step `steps` on.
        to: f64,
        /// Length.
        steps: u64,
    },
    /// Half a cosine: `to + (from - to) (1 + cos(pi t / steps)) / 2` (Loshchilov and Hutter 2017).
    Cosine {
        /// Value at step 0.
        from: f64,
        /// Value from step `steps` on.
        to: f64,
        /// Length.
        steps: u64,
    },
    /// `peak min((t + 1) / w, sqrt(w / (t + 1)))` with `w = warmup` (Vaswani et al. 2017, eq. 3, scaled
    /// to its peak).
    InverseSqrt {
        /// Largest value, reached after `warmup` steps.
        peak: f64,
        /// Steps of linear warm-up; at least 1.
        warmup: u64,
    },
    /// From each named step on, its value; the first entry must be for step 0.
    Piecewise(Vec<(u64, f64)>),
    /// One schedule after another; each counts its steps from its own start. The last has no end.
    Sequence {
        /// The schedules before the last, each with its length in steps.
        parts: Vec<(u64, Schedule)>,
        /// What follows.
        last: Box<Schedule>,
    },
    /// The product of two schedules.
    Product(Box<Schedule>, Box<Schedule>),
}

impl Schedule {
    /// Linear warm-up from 0 to `peak` in `warmup` steps, then a cosine down to `floor` at `total`.
    pub fn warmup_cosine(peak: f64, floor: f64, warmup: u64, total: u64) -> Self {
        let up = Self::Linear { from: 0.0, to: peak, steps: warmup };
        let steps = total.saturating_sub(warmup);
        Self::Sequence {
            parts: vec![(warmup, up)],
            last: Box::new(Self::Cosine { from: peak, to: floor, steps }),
        }
    }

    /// Linear warm-up from 0 to the schedule's first value in `warmup` steps, then the schedule.
    #[must_use]
    pub fn after_warmup(self, warmup: u64) -> Self {
        let up = Self::Linear { from: 0.0, to: self.at(0), steps: warmup };
        Self::Sequence { parts: vec![(warmup, up)], last: Box::new(self) }
    }

    /// The schedule times a constant.
    #[must_use]
    pub fn scaled(self, factor: f64) -> Self {
        Self::Product(Box::new(Self::Constant(factor)), Box::new(self))
    }

    /// Value at `step`.
    pub fn at(&self, step: u64) -> f64 {
        // Where between start and end, 1 for a schedule without length.
        let along = |steps: u64| if step >= steps { 1.0 } else { step as f64 / steps as f64 };
        match self {
            Self::Constant(value) => *value,
            Self::Linear { from, to, steps } => {
                let t = along(*steps);
                if t >= 1.0 { *to } else { from + (to - from) * t }
            }
            Self::Cosine { from, to, steps } => {
                let t = along(*steps);
                if t >= 1.0 { *to } else { to + (from - to) * 0.5 * (1.0 + (PI * t).cos()) }
            }
            Self::InverseSqrt { peak, warmup } => {
                let t = step as f64 + 1.0;
                let w = (*warmup).max(1) as f64;
                peak * (t / w).min((w / t).sqrt())
            }
            Self::Piecewise(values) => {
                values.iter().rev().find(|(from, _)| *from <= step).map_or(0.0, |(_, v)| *v)
            }
            Self::Sequence { parts, last } => {
                let mut rest = step;
                for (length, part) in parts {
                    if rest < *length {
                        return part.at(rest);
                    }
                    rest -= length;
                }
                last.at(rest)
            }
            Self::Product(a, b) => a.at(step) * b.at(step),
        }
    }

    /// Checks that every number is finite and every list makes sense; call it once on a config.
    ///
    /// # Errors
    /// [`Error::Config`] naming the variant.
    pub fn validate(&self) -> Result<()> {
        let finite = |field, x: f64| {
            if x.is_finite() {
                return Ok(());
            }
            Err(Error::Config { field, why: format!("must be finite, got {x}") })
        };
        match self {
            Self::Constant(value) => finite("schedule.constant", *value),
            Self::Linear { from, to, .. } => {
                finite("schedule.linear.from", *from)?;
                finite("schedule.linear.to", *to)
            }
            Self::Cosine { from, to, .. } => {
                finite("schedule.cosine.from", *from)?;
                finite("schedule.cosine.to", *to)
            }
            Self::InverseSqrt { peak, warmup } => {
                if *warmup == 0 {
                    let why = "must be at least 1".to_owned();
                    return Err(Error::Config { field: "schedule.inverse_sqrt.warmup", why });
                }
                finite("schedule.inverse_sqrt.peak", *peak)
            }
            Self::Piecewise(values) => {
                let starts_at_0 = values.first().is_some_and(|(step, _)| *step == 0);
                if !starts_at_0 || values.windows(2).any(|w| w[0].0 >= w[1].0) {
                    return Err(Error::Config {
                        field: "schedule.piecewise",
                        why: "must start at step 0 with steps that increase".to_owned(),
                    });
                }
                values.iter().try_for_each(|(_, v)| finite("schedule.piecewise", *v))
            }
            Self::Sequence { parts, last } => {
                parts.iter().try_for_each(|(_, part)| part.validate())?;
                last.validate()
            }
            Self::Product(a, b) => {
                a.validate()?;
                b.validate()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-15 * b.abs().max(1.0)
    }

    #[test]
    fn values_by_hand() {
        let cosine = Schedule::Cosine { from: 1.0, to: 0.2, steps: 4 };
        assert!(close(cosine.at(0), 1.0) && close(cosine.at(2), 0.6) && close(cosine.at(9), 0.2));
        let root = Schedule::InverseSqrt { peak: 2.0, warmup: 4 };
        assert!(close(root.at(0), 0.5) && close(root.at(3), 2.0) && close(root.at(15), 1.0));
        let steps = Schedule::Piecewise(vec![(0, 1.0), (10, 0.1)]);
        assert!(close(steps.at(9), 1.0) && close(steps.at(10), 0.1));
        let both = Schedule::Constant(3.0).after_warmup(3).scaled(2.0);
        assert!(close(both.at(0), 0.0) && close(both.at(1), 2.0) && close(both.at(3), 6.0));
        let none = Schedule::Linear { from: 5.0, to: 7.0, steps: 0 };
        assert!(close(none.at(0), 7.0));
    }

    #[test]
    fn parts_meet_without_a_jump() {
        let lr = Schedule::warmup_cosine(1.0, 0.0, 10, 110);
        let largest = (0..120).map(|t| (lr.at(t + 1) - lr.at(t)).abs()).fold(0.0, f64::max);
        assert!(largest <= 0.1 + 1e-12, "{largest}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            Schedule::Constant(f64::NAN),
            Schedule::InverseSqrt { peak: 1.0, warmup: 0 },
            Schedule::Piecewise(vec![]),
            Schedule::Piecewise(vec![(1, 1.0)]),
            Schedule::Piecewise(vec![(0, 1.0), (5, 1.0), (5, 2.0)]),
            Schedule::Constant(1.0).scaled(f64::INFINITY),
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn schedules_survive_toml_and_json() {
        let lr = Schedule::warmup_cosine(3e-4, 3e-5, 100, 1000).scaled(0.5);
        let json = serde_json::to_string(&lr).unwrap();
        assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), lr);
        let linear: Schedule =
            toml::from_str("linear = { from = 0.0, to = 1.0, steps = 5 }").unwrap();
        assert_eq!(linear, Schedule::Linear { from: 0.0, to: 1.0, steps: 5 });
    }
}
