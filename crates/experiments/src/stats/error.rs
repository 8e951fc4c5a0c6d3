//! What can be wrong with the data that a statistic is asked about.

use std::fmt::Display;

/// Why a statistic could not be computed. Every variant names the argument at fault.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StatError {
    /// Fewer observations than the definition needs.
    #[error("{arg}: needs at least {need} values, got {got}")]
    TooFew {
        /// The argument.
        arg: &'static str,
        /// The smallest count that the definition allows.
        need: usize,
        /// The count that came.
        got: usize,
    },
    /// NaN, or an infinity where the definition has no meaning for it.
    #[error("{arg}: element {index} is {value}, expected a finite number")]
    NonFinite {
        /// The argument.
        arg: &'static str,
        /// Position in the argument, row-major.
        index: usize,
        /// The value found.
        value: f64,
    },
    /// Two arguments that must agree in length do not.
    #[error("{arg}: expected length {expected}, got {got}")]
    LengthMismatch {
        /// The argument.
        arg: &'static str,
        /// The length that the other arguments imply.
        expected: usize,
        /// The length that came.
        got: usize,
    },
    /// A parameter outside its domain (a level of 1.5, a p-value below 0, an absurd size).
    #[error("{arg}: expected {expected}, got {got}")]
    OutOfRange {
        /// The argument.
        arg: &'static str,
        /// The domain, in words.
        expected: String,
        /// The value that came, as text.
        got: String,
    },
    /// The data leave the quantity undefined, or the analysis would be unsound.
    #[error("{arg}: {why}")]
    Degenerate {
        /// The argument.
        arg: &'static str,
        /// What is wrong and what to do instead.
        why: String,
    },
}

/// `Result` of the statistics.
pub type Result<T> = std::result::Result<T, StatError>;

pub(crate) fn out_of_range<T>(
    arg: &'static str,
    expected: impl Into<String>,
    got: impl Display,
) -> Result<T> {
    Err(StatError::OutOfRange { arg, expected: expected.into(), got: got.to_string() })
}

pub(crate) fn degenerate<T>(arg: &'static str, why: impl Into<String>) -> Result<T> {
    Err(StatError::Degenerate { arg, why: why.into() })
}

pub(crate) fn need(arg: &'static str, need: usize, got: usize) -> Result<()> {
    if got < need { Err(StatError::TooFew { arg, need, got }) } else { Ok(()) }
}

pub(crate) fn same_len(arg: &'static str, expected: usize, got: usize) -> Result<()> {
    if got == expected { Ok(()) } else { Err(StatError::LengthMismatch { arg, expected, got }) }
}

/// Neither NaN nor infinite.
pub(crate) fn all_finite(arg: &'static str, values: &[f64]) -> Result<()> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(StatError::NonFinite { arg, index, value: values[index] }),
        None => Ok(()),
    }
}

/// Not NaN; infinities pass (costs and hitting times).
pub(crate) fn no_nan(arg: &'static str, values: &[f64]) -> Result<()> {
    match values.iter().position(|v| v.is_nan()) {
        Some(index) => Err(StatError::NonFinite { arg, index, value: values[index] }),
        None => Ok(()),
    }
}

/// A probability strictly inside (0, 1): a confidence level, an alpha.
pub(crate) fn open_unit(arg: &'static str, value: f64) -> Result<()> {
    if value > 0.0 && value < 1.0 { Ok(()) } else { out_of_range(arg, "a number in (0, 1)", value) }
}
