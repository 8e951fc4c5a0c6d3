//! Configs are checked once, where they enter; constructors take the checked form and trust it.

use crate::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, de};
use std::ops::{Deref, RangeInclusive};

/// A value that passed its own [`Validate::check`]. Nothing else makes one, so a constructor that
/// takes `&Checked<Config>` need not look at the fields again.
///
/// Reads like the value within (by [`Deref`]); deserialising runs the check.
///
/// ```
/// use tensor_core::config::{Checked, Validate, in_range};
/// #[derive(Clone, Debug)]
/// struct Width { d_model: i64 }
/// impl Validate for Width {
///     type Error = tensor_core::Error;
///     fn check(&self) -> tensor_core::Result<()> {
///         in_range("d_model", self.d_model, 1..=4096)
///     }
/// }
/// let checked: Checked<Width> = Width { d_model: 64 }.validate()?;
/// assert_eq!(checked.d_model, 64);
/// let message = Width { d_model: 0 }.validate().unwrap_err().to_string();
/// assert_eq!(message, "config field `d_model`: must lie in 1..=4096, got 0");
/// # Ok::<(), tensor_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Checked<T>(T);

impl<T> Checked<T> {
    /// The plain value, to be changed and checked again.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Checked<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<'de, T> Deserialize<'de> for Checked<T>
where
    T: Validate + Deserialize<'de>,
    T::Error: std::fmt::Display,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer)?.validate().map_err(de::Error::custom)
    }
}

/// A config that can say whether it makes sense.
pub trait Validate: Clone {
    /// Error type of the crate that owns the config.
    type Error;

    /// Looks at every field, alone and together.
    ///
    /// # Errors
    /// One that names the field, what was expected and what was found.
    fn check(&self) -> Result<(), Self::Error>;

    /// The config in the form that constructors take.
    ///
    /// # Errors
    /// Those of [`check`](Self::check).
    fn validate(&self) -> Result<Checked<Self>, Self::Error> {
        self.check()?;
        Ok(Checked(self.clone()))
    }
}

/// Checks that a size lies in a range.
///
/// # Errors
/// [`Error::Config`] naming `field`, the range and the value.
pub fn in_range(field: &'static str, value: i64, range: RangeInclusive<i64>) -> Result<()> {
    if range.contains(&value) {
        return Ok(());
    }
    let why = format!("must lie in {}..={}, got {value}", range.start(), range.end());
    Err(Error::Config { field, why })
}

/// Checks that a real number is finite and lies in a range.
///
/// # Errors
/// [`Error::Config`] naming `field`, the range and the value.
pub fn finite_in(field: &'static str, value: f64, range: RangeInclusive<f64>) -> Result<()> {
    if value.is_finite() && range.contains(&value) {
        return Ok(());
    }
    let why = format!("must be finite and lie in {}..={}, got {value}", range.start(), range.end());
    Err(Error::Config { field, why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Rate {
        lr: f64,
    }

    impl Validate for Rate {
        type Error = Error;

        fn check(&self) -> Result<()> {
            finite_in("lr", self.lr, 0.0..=1.0)
        }
    }

    #[test]
    fn deserialising_runs_the_check() {
        let good: Checked<Rate> = serde_json::from_str(r#"{"lr":0.5}"#).unwrap();
        assert!((good.lr - 0.5).abs() < f64::EPSILON);
        let bad = serde_json::from_str::<Checked<Rate>>(r#"{"lr":2.0}"#).unwrap_err();
        assert!(bad.to_string().contains("config field `lr`"), "{bad}");
        assert!(serde_json::from_str::<Checked<Rate>>(r#"{"lr":0.5,"l":1}"#).is_err());
        assert_eq!(serde_json::to_string(&good).unwrap(), r#"{"lr":0.5}"#);
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused() {
        for lr in [f64::NAN, f64::INFINITY, -0.1] {
            assert!(Rate { lr }.validate().is_err(), "{lr}");
        }
    }
}
