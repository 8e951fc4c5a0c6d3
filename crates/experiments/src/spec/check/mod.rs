//! Meaning of an experiment file: what its structure cannot say.

mod design;
mod measure;
mod profiles;

use super::{document::Spec, resolved::Resolved, similar, source::Source};
use std::collections::BTreeMap;

/// Names that a factor, searched or ablated parameter may not have: they are parts of a cell or of
/// its identity.
const RESERVED: [&str; 4] = ["method", "task", "rep", "seed"];

/// Checks a document and its resolved form; findings go to the source.
pub(super) fn check(spec: &Spec, resolved: &Resolved, source: &mut Source) {
    head(spec, source);
    design::check(spec, source);
    design::exclusions(spec, resolved, source);
    measure::check(spec, source);
    profiles::check(spec, source);
    design::budget("budget", &spec.budget, source);
    design::timed(spec, source);
}

fn head(spec: &Spec, source: &mut Source) {
    if spec.schema != 1 {
        source.error("schema", format!("`schema`: expected 1, found {}", spec.schema));
    }
    let fits = |id: &str| {
        id.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            && id.len() <= 64
    };
    if !fits(&spec.id) {
        let message =
            format!("`id`: expected [a-z0-9][a-z0-9-]* of at most 64 letters, found {:?}", spec.id);
        source.error("id", message);
    }
    if spec.version == 0 {
        source.error("version", "`version`: expected at least 1, found 0");
    }
    if spec.max_trials == 0 {
        source.error("max_trials", "`max_trials`: expected at least 1, found 0");
    }
}

/// Reports names that appear more than once; `place` is the path of an entry.
fn unique<'a>(
    names: impl IntoIterator<Item = &'a str>,
    what: &str,
    place: impl Fn(usize) -> String,
    source: &mut Source,
) {
    let mut first: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, name) in names.into_iter().enumerate() {
        if first.insert(name, i).is_some() {
            source.error(&place(i), format!("{what} `{name}` appears more than once"));
        }
    }
}

/// Reports a name that the spec does not declare.
fn known<'a>(
    name: &str,
    names: impl IntoIterator<Item = &'a str>,
    what: &str,
    path: &str,
    list: &str,
    source: &mut Source,
) {
    let names: Vec<&str> = names.into_iter().collect();
    // an entry whose own name could not be read may be the one that is meant
    if names.contains(&name) || source.is_poisoned(list) {
        return;
    }
    let message = format!("`{path}`: unknown {what} `{name}`");
    match similar::advice(name, names) {
        Some(help) => source.error_with(path, message, help),
        None => source.error(path, message),
    }
}

/// Name of a factor or parameter: `[a-z][a-z0-9_]*` and not reserved.
fn parameter_name(name: &str, what: &str, path: &str, source: &mut Source) {
    if RESERVED.contains(&name) {
        source.error(path, format!("{what} `{name}`: the name is reserved"));
    } else if !is_parameter(name) {
        source.error(path, format!("{what} `{name}`: expected a name like [a-z][a-z0-9_]*"));
    }
}

fn is_parameter(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Name of a method, task or metric: it stands in keys, file names and tables.
fn plain_name(name: &str, what: &str, path: &str, source: &mut Source) {
    let fits = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.+-".contains(c))
        && name.len() <= 64;
    if !fits {
        let expected = "expected letters, digits and _ . + - (at most 64)";
        source.error(path, format!("{what} {name:?}: {expected}"));
    }
}

/// A number that must be positive and not absurdly large.
fn positive(x: f64, most: f64, path: &str, source: &mut Source) {
    if !(x > 0.0 && x <= most) {
        source.error(path, format!("`{path}`: expected a number in (0, {most:e}], found {x}"));
    }
}
