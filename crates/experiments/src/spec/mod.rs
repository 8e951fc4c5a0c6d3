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

mod diagnostic;
mod document;
mod in_order;
mod levels;
mod measure;
mod resolve;
mod resolved;
pub(crate) mod similar;
pub(crate) mod source;

pub use diagnostic::{Diagnostic, Severity, SpecError};
pub use document::*;
pub use measure::*;
pub use resolved::{FULL, Factor, Launch, Resolved, ResolvedTask, Target};

use source::Source;
use std::path::Path;

/// Loads an experiment file under a profile; [`FULL`] applies none.
///
/// # Errors
/// [`SpecError::Read`] when the file cannot be read, [`SpecError::Invalid`] with all findings when
/// it is not a valid experiment.
pub fn load(path: impl AsRef<Path>, profile: &str) -> Result<Resolved, SpecError> {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path)
        .map_err(|source| SpecError::Read { path: path.to_owned(), source })?;
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    read(text, path, &folder, profile)
}

/// As [`load`], from a text; `path` appears in messages, and relative paths start at `folder`.
///
/// # Errors
/// [`SpecError::Invalid`] with all findings.
pub fn read(
    text: String,
    path: &Path,
    folder: &Path,
    profile: &str,
) -> Result<Resolved, SpecError> {
    let mut source = Source::new(path.to_owned(), text);
    if source.has_errors() {
        return Err(SpecError::Invalid(source.into_findings()));
    }
    let mut spec: Spec = match toml::from_str(source.text()) {
        Ok(spec) => spec,
        Err(error) => {
            source.error("", error.message().to_owned());
            return Err(SpecError::Invalid(source.into_findings()));
        }
    };
    spec.factors.0.sort_by_key(|(name, _)| source.offset(&format!("factors.{name}")));
    let mut resolved = resolve::resolve(&spec, profile, folder, &mut source);
    if source.has_errors() {
        return Err(SpecError::Invalid(source.into_findings()));
    }
    resolved.warnings = source.into_findings();
    Ok(resolved)
}
