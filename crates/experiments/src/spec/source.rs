//! The text of a TOML file with the place of every key and value, and the findings about it.

use super::diagnostic::{Diagnostic, Severity};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::PathBuf,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// A parsed file under examination. Findings name keys by path (`hypothesis[0].better`); the
/// source knows where the path lies in the file.
pub(crate) struct Source {
    file: PathBuf,
    folder: PathBuf,
    text: String,
    line_starts: Vec<usize>,
    places: BTreeMap<String, Place>,
    found: Vec<Diagnostic>,
    poisoned: BTreeSet<String>,
}

/// Where an entry lies, in bytes.
#[derive(Clone, Debug)]
struct Place {
    key: Range<usize>,
    value: Range<usize>,
}

/// Which part of an entry a finding points at.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Key,
    Value,
}

impl Source {
    pub(crate) fn new(file: PathBuf, folder: PathBuf, text: String) -> Self {
        let newlines = text.match_indices('\n').map(|(at, _)| at + 1);
        let line_starts = std::iter::once(0).chain(newlines).collect();
        let mut source = Self {
            file,
            folder,
            text,
            line_starts,
            places: BTreeMap::new(),
            found: Vec::new(),
            poisoned: BTreeSet::new(),
        };
        let text = source.text.clone();
        let (table, errors) = DeTable::parse_recoverable(&text);
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            source.push(at, Severity::Error, String::new(), error.message().to_owned(), None);
        }
        source.record_table("", table.get_ref());
        source
    }

    fn record_table(&mut self, path: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let path = join(path, key.get_ref());
            self.record(path, key.span(), value);
        }
    }

    fn record(&mut self, path: String, key: Range<usize>, value: &Spanned<DeValue<'_>>) {
        match value.get_ref() {
            DeValue::Table(table) => self.record_table(&path, table),
            DeValue::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.record(format!("{path}[{i}]"), item.span(), item);
                }
            }
            _ => {}
        }
        self.places.insert(path, Place { key, value: value.span() });
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Folder of the file, where relative paths start.
    pub(crate) fn folder(&self) -> PathBuf {
        self.folder.clone()
    }

    /// Marks an entry as replaced by a placeholder: further findings about it are dropped.
    pub(crate) fn poison(&mut self, path: &str) {
        self.poisoned.insert(path.to_owned());
    }

    /// Whether anything at or below `path` was replaced, so that names may be missing from it.
    pub(crate) fn is_poisoned(&self, path: &str) -> bool {
        self.poisoned.iter().any(|bad| bad.starts_with(path))
    }

    /// Takes over the findings about another file.
    pub(crate) fn adopt(&mut self, findings: Vec<Diagnostic>) {
        self.found.extend(findings);
    }

    /// Byte offset of an entry, for putting entries into file order.
    pub(crate) fn offset(&self, path: &str) -> usize {
        self.places.get(path).map_or(usize::MAX, |place| place.key.start)
    }

    /// Records an error about the value at `path`, or about its nearest written ancestor.
    pub(crate) fn error(&mut self, path: &str, message: impl Into<String>) {
        self.find(path, At::Value, Severity::Error, message.into(), None);
    }

    /// Records an error with advice.
    pub(crate) fn error_with(&mut self, path: &str, message: impl Into<String>, help: String) {
        self.find(path, At::Value, Severity::Error, message.into(), Some(help));
    }

    /// Records a warning.
    pub(crate) fn warn(&mut self, path: &str, message: impl Into<String>) {
        self.find(path, At::Value, Severity::Warning, message.into(), None);
    }

    pub(crate) fn find(
        &mut self,
        path: &str,
        at: At,
        severity: Severity,
        message: String,
        help: Option<String>,
    ) {
        // what was repaired has its message already; a second one would be about the placeholder
        if self.poisoned.iter().any(|bad| lies_in(path, bad)) {
            return;
        }
        let mut known = path;
        let offset = loop {
            if let Some(place) = self.places.get(known) {
                // a missing entry is shown at the name of the table that lacks it
                break if at == At::Value && known == path {
                    // the span of a table or list made by headers may start before its key
                    place.value.start.max(place.key.start)
                } else {
                    place.key.start
                };
            }
            match known.rfind(['.', '[']) {
                Some(end) => known = &known[..end],
                None => break 0,
            }
        };
        self.push(offset, severity, path.to_owned(), message, help);
    }

    fn push(
        &mut self,
        offset: usize,
        severity: Severity,
        path: String,
        message: String,
        help: Option<String>,
    ) {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts[line - 1];
        let column = self.text.get(start..offset).map_or(1, |before| before.chars().count() + 1);
        let file = self.file.clone();
        self.found.push(Diagnostic { file, line, column, severity, path, message, help });
    }

    /// Whether an error was found so far.
    pub(crate) fn has_errors(&self) -> bool {
        self.found.iter().any(|d| d.severity == Severity::Error)
    }

    /// All findings in file order.
    pub(crate) fn into_findings(mut self) -> Vec<Diagnostic> {
        self.found.sort_by(|a, b| {
            let place = |d: &Diagnostic| (d.file.clone(), d.line, d.column);
            place(a).cmp(&place(b)).then_with(|| a.message.cmp(&b.message))
        });
        self.found.dedup();
        self.found
    }
}

/// Path of an entry of a table.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Whether `path` is `ancestor` or lies below it.
fn lies_in(path: &str, ancestor: &str) -> bool {
    path.strip_prefix(ancestor).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}
