//! Dropout, and whether a pass is for training or evaluation.

use crate::{Result, config::finite_in};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// What a forward pass is for, where that makes a difference (dropout, batch statistics).
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Deterministic: no dropout, running statistics.
    #[default]
    Eval,
    /// Dropout acts, batch statistics are used.
    Train,
}

/// In training, sets each entry to zero with probability `p` and scales the others by `1 / (1 - p)`.
///
/// The mask is drawn from libtorch's generator, which the program seeds at start-up: the one place
/// in these blocks where a forward pass advances a state outside its arguments.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Dropout {
    p: f64,
}

impl Dropout {
    /// Dropout with probability `p` in `0..=1`.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for any other `p`.
    pub fn new(p: f64) -> Result<Self> {
        finite_in("dropout", p, 0.0..=1.0)?;
        Ok(Self { p })
    }

    /// `x` with dropout in [`Mode::Train`], `x` itself in [`Mode::Eval`] or when `p` is 0.
    pub fn forward(&self, x: Tensor, mode: Mode) -> Tensor {
        if mode == Mode::Train && self.p > 0.0 { x.dropout(self.p, true) } else { x }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    #[test]
    fn the_mean_is_kept_and_evaluation_changes_nothing() {
        let x = Tensor::ones([200, 200], (Kind::Float, Device::Cpu));
        let drop = Dropout::new(0.25).unwrap();
        assert_eq!(drop.forward(x.shallow_clone(), Mode::Eval), x);
        let y = drop.forward(x, Mode::Train);
        assert!((y.mean(Kind::Double).double_value(&[]) - 1.0).abs() < 0.02); // 7 standard errors
        let zeros = y.eq(0.0).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        assert!((zeros - 0.25).abs() < 0.016, "{zeros}");
        for p in [-0.1, 1.1, f64::NAN] {
            assert!(Dropout::new(p).is_err());
        }
    }
}
