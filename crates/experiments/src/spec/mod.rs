//! The experiment file: vocabulary, validation, profiles (specification, sections 3 and 4).
//!
//! [`load`] reads a file, reports *all* that is wrong with it at once with file, line and column,
//! and returns the [`Resolved`] spec of one profile.
//!
//! ```no_run
//! # fn main() -> Result<(), experiments::spec::SpecError> {
//! let spec = experiments::spec::load("studies/demo/experiment.toml", "smoke")?;
//! println!("{} methods on {} tasks", spec.methods.len(), spec.tasks.len());
//! # Ok(()) }
//! ```

mod change;
mod check;
pub(crate) mod conform;
mod diagnostic;
mod document;
mod in_order;
mod levels;
mod measure;
mod resolve;
mod resolved;
mod scaffold;
pub(crate) mod similar;
pub(crate) mod source;

pub use change::{Change, Effect, changes};
pub use diagnostic::{Diagnostic, Severity, SpecError};
pub use document::*;
pub use measure::*;
pub use resolved::{FULL, Factor, Launch, Resolved, ResolvedTask, Target};
pub use scaffold::{ScaffoldFile, scaffold};

use crate::plan;
use serde::Deserialize as _;
use source::Source;
use std::path::Path;
use toml::de::DeTable;

/// Loads an experiment file under a profile; [`FULL`] applies none.
///
/// # Errors
/// [`SpecError::Read`] when the file cannot be read, [`SpecError::Invalid`] with all findings when
/// it is not a valid experiment.
pub fn load(path: impl AsRef<Path>, profile: &str) -> Result<Resolved, SpecError> {
    load_with(path, profile, false)
}

/// As [`load`]; `many` is the consent (`--yes`) to more trials than `max_trials`.
///
/// # Errors
/// As [`load`].
pub fn load_with(path: impl AsRef<Path>, profile: &str, many: bool) -> Result<Resolved, SpecError> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path)
        .map_err(|source| SpecError::Read { path: path.to_owned(), source })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    read(&text, path, folder, profile, many)
}

/// As [`load_with`], from a text; `path` appears in messages, and relative paths start at
/// `folder`.
///
/// # Errors
/// [`SpecError::Invalid`] with all findings.
pub fn read(
    text: &str,
    path: &Path,
    folder: &Path,
    profile: &str,
    many: bool,
) -> Result<Resolved, SpecError> {
    let mut source = Source::new(path.to_owned(), folder.to_owned(), text.to_owned());
    let parsed = DeTable::parse(text);
    let (false, Ok(table)) = (source.has_errors(), parsed) else {
        return Err(SpecError::Invalid(source.into_findings()));
    };
    let copy = conform::conform(table.get_ref(), &json_schema(), &mut source);
    let mut spec = match Spec::deserialize(copy) {
        Ok(spec) => spec,
        // the copy fits the schema, so this is a difference between schema and structs
        Err(error) => {
            source.error("", error.message());
            return Err(SpecError::Invalid(source.into_findings()));
        }
    };
    spec.factors.0.sort_by_key(|(name, _)| source.offset(&format!("factors.{name}")));
    let mut resolved = resolve::resolve(&spec, profile, folder, &mut source);
    check::check(&spec, &resolved, &mut source);
    let trials = plan::upper_count(&resolved, 1, resolved.repetitions.count);
    if many {
        resolved.max_trials = u64::MAX;
    } else if trials > resolved.max_trials {
        source.error_with(
            "repetitions.count",
            format!("{trials} trials, more than max_trials = {}", resolved.max_trials),
            "pass --yes to go on all the same, or raise `max_trials`".into(),
        );
    }
    if source.has_errors() {
        return Err(SpecError::Invalid(source.into_findings()));
    }
    resolved.warnings = source.into_findings();
    Ok(resolved)
}

/// JSON Schema of the experiment file, made from the same structs that read it.
pub fn json_schema() -> serde_json::Value {
    serde_json::to_value(schemars::schema_for!(Spec)).expect("a schema is plain JSON")
}
