//! Who a trial is: cell values, canonical lines, trial keys, seeds (specification, section 4).

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One factor's value in a cell. Floats are hashed by their bits, never by their decimal text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// Truth value.
    Bool(bool),
    /// Whole number.
    Int(i64),
    /// Finite float64.
    Float(f64),
    /// Text, such as a method's name.
    Text(String),
}

/// A cell of the design: `method`, `task` and every factor by name.
pub type Cell = BTreeMap<String, Value>;

/// Identity of a trial: 32 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrialKey(pub String);
