//! The report: one self-contained HTML page, the same as Markdown, raw data, and a manifest that
//! maps every artefact to its command (specification, section 9).
//!
//! The same store and spec give the same bytes, except for the line with the generation time, which
//! can be left out. A folder is written beside the old one and swapped in whole.

pub mod facts;
pub mod index;
mod latex;
pub mod number;
pub mod page;

use crate::{
    analysis::{Analysis, Results},
    figures::{Figure, FigureError, Format},
};
use page::{Extras, Page};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

pub use latex::latex;

/// What can go wrong when a report is written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// A template refused the page; a fault of this crate.
    #[error("template `{name}`: {message}")]
    Template {
        /// Which one.
        name: &'static str,
        /// What it said.
        message: String,
    },
    /// A figure could not be written.
    #[error(transparent)]
    Figure(#[from] FigureError),
    /// A file could not be written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A value could not be put into JSON.
    #[error("manifest: {0}")]
    Json(#[from] serde_json::Error),
}

/// A finished report in memory.
#[derive(Debug)]
pub struct Report {
    /// Files by path relative to the report's folder.
    pub files: BTreeMap<String, Vec<u8>>,
    /// The content, for the index page.
    pub page: Page,
}

/// One artefact of the manifest.
#[derive(Serialize)]
struct Artefact<'a> {
    command: &'a str,
    input: &'a str,
    sha256: String,
    bytes: usize,
}

/// Raw values in long form, as files of `data/`.
pub type RawData = BTreeMap<String, Vec<u8>>;

/// Makes the report. `raw` are the exported data files, `with_latex` adds `report.tex`.
///
/// # Errors
/// When a template refuses the page.
pub fn build(
    results: &Results,
    analysis: &Analysis,
    figures: &[Figure],
    raw: RawData,
    extras: Extras,
    with_latex: bool,
) -> Result<Report, ReportError> {
    let command = extras.command.clone();
    let page = Page::new(results, analysis, figures, extras);
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    files.insert("index.html".to_owned(), render("report.html", &page)?.into_bytes());
    files.insert(
        "report.md".to_owned(),
        tidy_blank_lines(&render("report.md", &page)?).into_bytes(),
    );
    if with_latex {
        files.insert("report.tex".to_owned(), latex(&page).into_bytes());
    }
    for figure in figures {
        files.insert(format!("figures/{}.svg", figure.name), figure.svg.clone().into_bytes());
        let side = serde_json::to_vec_pretty(&figure.data)?;
        files.insert(format!("figures/{}.json", figure.name), side);
    }
    let input = digest(&raw);
    for (name, bytes) in raw {
        files.insert(format!("data/{name}"), bytes);
    }
    files.insert("data/analysis.json".to_owned(), serde_json::to_vec_pretty(analysis)?);
    let manifest: BTreeMap<&str, Artefact<'_>> = files
        .iter()
        .map(|(name, bytes)| {
            let artefact = Artefact {
                command: &command,
                input: &input,
                sha256: hex(&Sha256::digest(bytes)),
                bytes: bytes.len(),
            };
            (name.as_str(), artefact)
        })
        .collect();
    let manifest = serde_json::to_vec_pretty(&manifest)?;
    files.insert("manifest.json".to_owned(), manifest);
    Ok(Report { files, page })
}

impl Report {
    /// Writes the report as folder `dir`: a new folder is filled, then takes the place of the old
    /// one, so that a reader never sees half a report. PNG copies of the figures are added for the
    /// given scale.
    ///
    /// # Errors
    /// When a file cannot be written; the old report is then still there.
    pub fn write(
        &self,
        dir: &Path,
        figures: &[Figure],
        png: Option<f32>,
    ) -> Result<(), ReportError> {
        let io_at = |path: &Path| {
            let path = path.to_owned();
            move |source| ReportError::Io { path, source }
        };
        let stage = dir.with_extension("new");
        if stage.exists() {
            fs::remove_dir_all(&stage).map_err(io_at(&stage))?;
        }
        for (name, bytes) in &self.files {
            let path = stage.join(name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(io_at(parent))?;
            }
            fs::write(&path, bytes).map_err(io_at(&path))?;
        }
        if let Some(scale) = png {
            for figure in figures {
                figure.save(&stage.join("figures"), &[Format::Png { scale }])?;
            }
        }
        let old = dir.with_extension("old");
        if old.exists() {
            fs::remove_dir_all(&old).map_err(io_at(&old))?;
        }
        if dir.exists() {
            fs::rename(dir, &old).map_err(io_at(dir))?;
        }
        fs::rename(&stage, dir).map_err(io_at(&stage))?;
        if old.exists() {
            fs::remove_dir_all(&old).map_err(io_at(&old))?;
        }
        Ok(())
    }
}

/// Fills a template.
fn render(name: &'static str, content: &impl Serialize) -> Result<String, ReportError> {
    let mut environment = minijinja::Environment::new();
    // Table cells of Markdown must not hold a bar or a line break.
    environment.add_filter("cell", |text: String| text.replace('|', "\\|").replace('\n', " "));
    let source = match name {
        "report.html" => include_str!("templates/report.html"),
        "report.md" => include_str!("templates/report.md"),
        _ => include_str!("templates/index.html"),
    };
    let refuse = |e: minijinja::Error| ReportError::Template { name, message: format!("{e:#}") };
    environment.add_template(name, source).map_err(refuse)?;
    let template = environment.get_template(name).map_err(refuse)?;
    template.render(minijinja::Value::from(minijinja::value::Serde(content))).map_err(refuse)
}

/// No more than one empty line in a row.
fn tidy_blank_lines(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut blank = 0;
    for line in text.lines() {
        blank = if line.trim().is_empty() { blank + 1 } else { 0 };
        if blank <= 1 {
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
    out
}

fn digest(raw: &RawData) -> String {
    let mut hash = Sha256::new();
    for (name, bytes) in raw {
        hash.update(name.as_bytes());
        hash.update(bytes);
    }
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, b| {
        use std::fmt::Write;
        let _ = write!(text, "{b:02x}");
        text
    })
}
