//! Who a trial is: cell values, canonical lines, trial keys, seeds (specification, section 4).
//!
//! The rules are a fixed contract: a store written today must name the same trials in ten years,
//! on any machine. So nothing here depends on how a library prints a float or orders a map.

use crate::plan::Stage;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fmt};

/// One factor's value in a cell. Floats are hashed by their bits, never by their decimal text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
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

impl Value {
    /// Word for messages: `true or false`, `whole number`, `number`, `text`.
    pub fn type_word(&self) -> &'static str {
        match self {
            Self::Bool(_) => "true or false",
            Self::Int(_) => "whole number",
            Self::Float(_) => "number",
            Self::Text(_) => "text",
        }
    }

    /// The value as the type of `like`: whole numbers become floats beside floats, so that `1`
    /// and `1.0` are one level of a float-typed factor.
    #[must_use]
    pub fn in_type_of(self, like: &Self) -> Self {
        match (self, like) {
            (Self::Int(i), Self::Float(_)) => Self::Float(i as f64),
            (value, _) => value,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool(b) => write!(f, "{b}"),
            Self::Int(i) => write!(f, "{i}"),
            Self::Float(x) => write!(f, "{x}"),
            Self::Text(t) => f.write_str(t),
        }
    }
}

/// A cell of the design: `method`, `task` and every factor by name.
pub type Cell = BTreeMap<String, Value>;

/// Identity of a trial: 32 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrialKey(pub String);

impl fmt::Display for TrialKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why something has no identity.
#[derive(Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// NaN and infinities have no canonical line.
    #[error("`{name}`: expected a finite number, found {found}")]
    NonFinite {
        /// Key of the entry.
        name: String,
        /// The number.
        found: f64,
    },
    /// The key would run into its value or into the next line.
    #[error("key {name:?}: expected text without `=` and line breaks")]
    Key {
        /// The key.
        name: String,
    },
    /// A whole number beyond 64 bits.
    #[error("`{name}`: expected a number that fits 64 bits, found {found}")]
    Number {
        /// Key of the entry.
        name: String,
        /// The number as written.
        found: String,
    },
    /// The value could not be walked.
    #[error("spec has no canonical lines: {0}")]
    Form(String),
}

/// Canonical lines of a map (4.1): `key=value\n` for each key in bytewise order.
///
/// # Errors
/// NaN, infinities, and keys with `=` or a line break.
pub fn canonical(cell: &Cell) -> Result<String, IdentityError> {
    let mut lines = String::new();
    for (name, value) in cell {
        if name.contains(['=', '\n', '\r']) {
            return Err(IdentityError::Key { name: name.clone() });
        }
        lines.push_str(name);
        lines.push('=');
        push_value(&mut lines, name, value)?;
        lines.push('\n');
    }
    Ok(lines)
}

fn push_value(lines: &mut String, name: &str, value: &Value) -> Result<(), IdentityError> {
    use fmt::Write as _;
    match value {
        Value::Bool(b) => write!(lines, "b:{b}"),
        Value::Int(i) => write!(lines, "i:{i}"),
        Value::Float(x) if !x.is_finite() => {
            return Err(IdentityError::NonFinite { name: name.into(), found: *x });
        }
        // adding +0.0 turns -0.0 into +0.0 and leaves every other number alone
        Value::Float(x) => write!(lines, "f:{:016x}", (x + 0.0).to_bits()),
        Value::Text(t) => {
            write!(lines, "s:{}", t.replace('\\', "\\\\").replace('\n', "\\n"))
        }
    }
    .expect("writing to a String cannot fail");
    Ok(())
}

/// Key of a trial (4.1): the first 32 hexadecimal digits of the SHA-256 of experiment, cell and
/// repetition.
///
/// # Errors
/// As [`canonical`].
pub fn trial_key(experiment: &str, cell: &Cell, rep: u32) -> Result<TrialKey, IdentityError> {
    let text = format!("trial/v1\nexperiment={experiment}\n{}rep={rep}\n", canonical(cell)?);
    let mut hex = sha256_hex(text.as_bytes());
    hex.truncate(32);
    Ok(TrialKey(hex))
}

/// Text that stands for the experiment in trial keys (4.1).
///
/// Only the full main run of version 1 is the bare id. Other versions append `@vN`; other profiles
/// and stages append their names, so that a short run can never be taken for a full one. Profile
/// and stage of one name (`smoke`, `pilot`) are written once.
pub fn experiment_text(id: &str, version: u32, profile: &str, stage: Stage) -> String {
    let mut text = id.to_owned();
    if version >= 2 {
        text = format!("{text}@v{version}");
    }
    for part in [profile, stage.word()] {
        let plain = part == crate::spec::FULL || part == Stage::Main.word();
        if !plain && !text.ends_with(&format!("/{part}")) {
            text = format!("{text}/{part}");
        }
    }
    text
}

/// Seed of a stream in `0..2^63` (4.2). The block holds the factors that enter the seed; `method`
/// is never among them, so that all methods meet the same noise in one repetition.
///
/// # Errors
/// As [`canonical`].
pub fn derive_seed(root: u64, stream: &str, block: &Cell, rep: u32) -> Result<i64, IdentityError> {
    let text = format!("seed/v1\nroot={root}\nstream={stream}\n{}rep={rep}\n", canonical(block)?);
    let digest = Sha256::digest(text.as_bytes());
    let first = digest.first_chunk::<8>().expect("a SHA-256 has 32 bytes");
    // libtorch takes signed seeds, so the highest bit is cleared
    Ok((u64::from_le_bytes(*first) & (u64::MAX >> 1)) as i64)
}

/// SHA-256 of the canonical lines of any serialisable spec (4.3): nested keys are joined by dots,
/// list entries are numbered, absent values leave no line.
///
/// # Errors
/// As [`canonical`], and values that JSON cannot carry.
pub fn spec_hash(spec: &impl Serialize) -> Result<String, IdentityError> {
    Ok(sha256_hex(canonical(&flatten(spec)?)?.as_bytes()))
}

/// The leaves of a serialisable value by their path, as [`spec_hash`] sees them.
///
/// # Errors
/// Values that JSON cannot carry.
pub fn flatten(value: &impl Serialize) -> Result<Cell, IdentityError> {
    let json = serde_json::to_value(value).map_err(|e| IdentityError::Form(e.to_string()))?;
    let mut leaves = Cell::new();
    collect(&mut leaves, String::new(), &json)?;
    Ok(leaves)
}

fn collect(
    leaves: &mut Cell,
    path: String,
    value: &serde_json::Value,
) -> Result<(), IdentityError> {
    use serde_json::Value as Json;
    let join = |part: &dyn fmt::Display| {
        if path.is_empty() { part.to_string() } else { format!("{path}.{part}") }
    };
    let leaf = match value {
        Json::Null => return Ok(()),
        Json::Bool(b) => Value::Bool(*b),
        Json::String(t) => Value::Text(t.clone()),
        Json::Number(n) => match (n.as_i64(), n.as_f64()) {
            (Some(i), _) => Value::Int(i),
            (None, Some(x)) if n.is_f64() => Value::Float(x),
            _ => return Err(IdentityError::Number { name: path, found: n.to_string() }),
        },
        Json::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                collect(leaves, join(&i), item)?;
            }
            return Ok(());
        }
        Json::Object(entries) => {
            for (name, entry) in entries {
                collect(leaves, join(name), entry)?;
            }
            return Ok(());
        }
    };
    leaves.insert(path, leaf);
    Ok(())
}

/// SHA-256 in 64 lower-case hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        write!(hex, "{byte:02x}").expect("writing to a String cannot fail");
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_has_no_line() {
        for x in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let cell = Cell::from([("lr".into(), Value::Float(x))]);
            assert!(matches!(canonical(&cell), Err(IdentityError::NonFinite { .. })));
            assert!(trial_key("x", &cell, 0).is_err());
            assert!(derive_seed(1, "s", &cell, 0).is_err());
        }
        let cell = Cell::from([("a=i:1\nb".into(), Value::Int(2))]);
        assert!(matches!(canonical(&cell), Err(IdentityError::Key { .. })));
    }

    #[test]
    fn a_whole_number_beside_floats_is_a_float() {
        let as_float = Value::Int(1).in_type_of(&Value::Float(0.5));
        assert_eq!(as_float, Value::Float(1.0));
        assert_eq!(Value::Int(1).in_type_of(&Value::Int(3)), Value::Int(1));
        let line = |v| canonical(&Cell::from([("x".into(), v)])).unwrap();
        assert_ne!(line(Value::Int(1)), line(Value::Float(1.0)));
        assert_eq!(line(Value::Float(-0.0)), line(Value::Float(0.0)));
    }

    #[test]
    fn every_stage_profile_and_version_has_its_own_text() {
        let text = |version, profile, stage| experiment_text("growth", version, profile, stage);
        assert_eq!(text(1, "full", Stage::Main), "growth");
        assert_eq!(text(1, "smoke", Stage::Smoke), "growth/smoke");
        assert_eq!(text(1, "pilot", Stage::Pilot), "growth/pilot");
        assert_eq!(text(1, "full", Stage::Tune), "growth/tune");
        assert_eq!(text(2, "full", Stage::Main), "growth@v2");
        assert_eq!(text(3, "full", Stage::Ablation), "growth@v3/ablation");
        assert_eq!(text(1, "laptop", Stage::Main), "growth/laptop");
        assert_eq!(text(1, "laptop", Stage::Tune), "growth/laptop/tune");
    }

    #[test]
    fn the_spec_hash_sees_types_and_ignores_absence() {
        #[derive(Serialize)]
        struct S {
            x: f64,
            note: Option<&'static str>,
        }
        let one = spec_hash(&S { x: 1.0, note: None }).unwrap();
        assert_eq!(one.len(), 64);
        assert_eq!(one, spec_hash(&serde_json::json!({"x": 1.0})).unwrap());
        assert_ne!(one, spec_hash(&serde_json::json!({"x": 1})).unwrap());
        assert_ne!(one, spec_hash(&S { x: 1.0, note: Some("n") }).unwrap());
    }
}
