//! What an observation or an action may be.

use crate::error::{Result, ensure};
use rand::{Rng, RngExt};
use serde::{Deserialize, Serialize};

/// A set of values, as gymnasium's spaces are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Space {
    /// The integers `0..n`.
    Discrete {
        /// How many there are.
        n: usize,
    },
    /// Real arrays; every element lies in `low..=high` (either may be infinite).
    Box {
        /// Least value of an element.
        low: f64,
        /// Greatest value of an element.
        high: f64,
        /// Shape of the array.
        shape: Vec<usize>,
    },
    /// Arrays of `n` zeros and ones.
    MultiBinary {
        /// Length of the array.
        n: usize,
    },
}

/// An element of a [`Space`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// Of [`Space::Discrete`].
    Discrete(usize),
    /// Of [`Space::Box`], in row-major order.
    Box(Vec<f64>),
    /// Of [`Space::MultiBinary`].
    MultiBinary(Vec<bool>),
}

impl Space {
    /// A box of one dimension.
    pub(crate) fn vector(low: f64, high: f64, len: usize) -> Self {
        Self::Box { low, high, shape: vec![len] }
    }

    /// Number of elements of a value: 1 for [`Space::Discrete`].
    #[expect(clippy::len_without_is_empty, reason = "a space is no container")]
    pub fn len(&self) -> usize {
        match self {
            Self::Discrete { .. } => 1,
            Self::Box { shape, .. } => shape.iter().product(),
            Self::MultiBinary { n } => *n,
        }
    }

    /// A random element: uniform where the space is bounded; otherwise, as in gymnasium, shifted
    /// exponential on a half line and normal on the whole line.
    ///
    /// # Errors
    /// The space is empty: `n` is zero, or a bound is NaN, or `low > high`.
    pub fn sample<R: Rng + ?Sized>(&self, rng: &mut R) -> Result<Value> {
        match *self {
            Self::Discrete { n } => {
                ensure(n > 0, "n", || "at least 1".into(), n)?;
                Ok(Value::Discrete(rng.random_range(0..n)))
            }
            Self::MultiBinary { n } => {
                Ok(Value::MultiBinary((0..n).map(|_| rng.random()).collect()))
            }
            Self::Box { low, high, .. } => {
                ensure(low <= high, "low", || format!("at most high = {high}"), low)?;
                let uniform = |rng: &mut R| rng.random::<f64>();
                let one = |rng: &mut R| match (low.is_finite(), high.is_finite()) {
                    (true, true) => low + (high - low) * uniform(rng),
                    (true, false) => low - (1.0 - uniform(rng)).ln(),
                    (false, true) => high + (1.0 - uniform(rng)).ln(),
                    (false, false) => normal(rng),
                };
                Ok(Value::Box((0..self.len()).map(|_| one(rng)).collect()))
            }
        }
    }

    /// Whether a value belongs to the space; NaN never does.
    pub fn contains(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Discrete { n }, Value::Discrete(x)) => x < n,
            (Self::Box { low, high, .. }, Value::Box(x)) => {
                x.len() == self.len() && x.iter().all(|v| v >= low && v <= high)
            }
            (Self::MultiBinary { n }, Value::MultiBinary(x)) => x.len() == *n,
            _ => false,
        }
    }
}

/// One standard normal number (Box-Muller, the cosine half).
pub(crate) fn normal<R: Rng + ?Sized>(rng: &mut R) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn samples_belong_to_their_space() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let inf = f64::INFINITY;
        let spaces = [
            Space::Discrete { n: 4 },
            Space::MultiBinary { n: 9 },
            Space::vector(-1.0, 1.0, 8),
            Space::vector(2.0, inf, 8),
            Space::vector(-inf, -3.0, 8),
            Space::Box { low: -inf, high: inf, shape: vec![2, 3] },
        ];
        for space in &spaces {
            for _ in 0..50 {
                let value = space.sample(&mut rng).unwrap();
                assert!(space.contains(&value), "{space:?} {value:?}");
            }
        }
        assert!(!spaces[0].contains(&Value::Discrete(4)));
        assert!(!spaces[2].contains(&Value::Box(vec![f64::NAN; 8])));
        assert!(!spaces[2].contains(&Value::Box(vec![0.0; 7])));
        assert!(!spaces[1].contains(&Value::Discrete(0)));
    }

    #[test]
    fn an_empty_space_is_an_error() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        assert!(Space::Discrete { n: 0 }.sample(&mut rng).is_err());
        assert!(Space::vector(1.0, 0.0, 1).sample(&mut rng).is_err());
        assert!(Space::vector(f64::NAN, 0.0, 1).sample(&mut rng).is_err());
    }
}
