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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        analysis::{
            analyse, drawing,
            fixture::{Did, add, empty, err, hypothesis, noise, results, spec},
        },
        plan::{PlannedTrial, Stage},
        spec::FigureKind,
        store::record::Status,
    };

    const STAGES: [FigureKind; 3] =
        [FigureKind::Ecdf, FigureKind::Ablation, FigureKind::Overtuning];

    const MORE: &str = r#"
[tuning]
strategy = "random"
configurations = 8
metric = "err"
repetitions = 3
space = { lr = { log_uniform = [1e-4, 1e-1] } }
[ablation]
source = "b"
target = "a"
parameters = ["score", "split"]
"#;

    /// Falls from 1 towards its end at budgets 1, 2, 4, ..; one run of `b` crashes unlogged.
    fn main_trial(t: &PlannedTrial) -> Did {
        if t.method == "b" && t.rep == 0 {
            return Did::Failed(Status::Crash);
        }
        let end = if t.method == "a" { 0.1 } else { 0.3 } + 0.01 * noise(t, 0);
        let points =
            (0..7).map(|i| (f64::from(1 << i), end + (1.0 - end) * 0.5_f64.powi(i))).collect();
        Did::Ok(vec![("err", end), ("test_err", end + 0.05)], points)
    }

    /// `split` is worth 0.3, `score` 0.1 and nothing without `split`.
    fn ablated(t: &PlannedTrial) -> Did {
        let on = |name: &str| t.cell[name].to_string() == "target";
        let gain = match (on("score"), on("split")) {
            (_, false) => 0.0,
            (false, true) => 0.3,
            (true, true) => 0.4,
        };
        err(0.5 - gain + 0.01 * noise(t, 3))
    }

    /// Place of the trial's configuration in the drawing order, which is not the running order.
    fn drawn(t: &PlannedTrial) -> usize {
        let spec = spec(2, 5, "", MORE);
        let all = crate::plan::configurations(1, spec.tuning.as_ref().unwrap());
        all.iter().position(|c| c["lr"] == t.cell["lr"]).unwrap()
    }

    /// Validation falls with every evaluation, test falls to the fourth and rises again.
    fn searched(t: &PlannedTrial) -> Did {
        let step = drawn(t) as f64;
        let test = 0.4 + 0.05 * (step - 3.0).abs();
        Did::Ok(vec![("err", 0.9 - 0.1 * step), ("test_err", test)], Vec::new())
    }

    fn full() -> Results {
        let more = MORE.to_owned() + &hypothesis("H1", "err", "b", "min_effect = 0.05");
        let mut results = empty(spec(2, 5, "targets = [0.5, 0.2]", &more));
        add(&mut results, Stage::Main, main_trial);
        add(&mut results, Stage::Ablation, ablated);
        add(&mut results, Stage::Tune, searched);
        results.seal.unseals.push((0, "test".to_owned()));
        results
    }

    fn reported(results: &Results) -> (Analysis, Vec<Figure>, Vec<String>, Report) {
        let analysis = analyse(results).unwrap();
        let (figures, left_out) =
            drawing::figures(&analysis, &results.spec, &STAGES, "exp report toy").unwrap();
        let effort = page::TuningRow {
            method: "a".to_owned(),
            configurations: 8,
            budget: String::new(),
            chosen: String::new(),
            validation: String::new(),
            test: String::new(),
            gap: String::new(),
        };
        let extras =
            Extras { tuning: vec![effort], left_out: left_out.clone(), ..Extras::default() };
        let report = build(results, &analysis, &figures, RawData::new(), extras, false).unwrap();
        (analysis, figures, left_out, report)
    }

    #[test]
    fn the_stages_are_drawn_where_their_data_exist() {
        let results = full();
        let (analysis, figures, left_out, report) = reported(&results);
        assert_eq!(left_out, [""; 0]);
        let names: Vec<&str> = figures.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["ecdf", "ablation", "overtuning"]);
        let html = String::from_utf8(report.files["index.html"].clone()).unwrap();
        for figure in &figures {
            assert!(html.contains(&figure.svg), "{} is not in the page", figure.name);
            assert!(report.files.contains_key(&format!("figures/{}.json", figure.name)));
        }

        let lengths = analysis.run_lengths.unwrap();
        let [a, b] = [&lengths.methods[0], &lengths.methods[1]];
        // 0.5 is reached by all runs of a at budget 4 (0.1 + 0.9/4), 0.2 at 16.
        assert_eq!((a.runs, a.budget.as_slice()), (10, [4.0, 16.0].as_slice()));
        assert_eq!(a.share, [0.5, 1.0]);
        assert_eq!((&a.ert, a.censored_from), (&vec![Some(4.0), Some(16.0)], None));
        // The two crashed runs of b stay in the denominator, and no run of b reaches 0.2.
        assert_eq!((b.runs, b.share.last()), (10, Some(&0.4)));
        assert_eq!((b.ert[1], b.censored_from), (None, Some(100.0)));
        assert!(a.auc > b.auc);

        let path = analysis.ablation.unwrap();
        let flipped: Vec<_> = path.steps.iter().filter_map(|s| s.parameter.as_deref()).collect();
        assert_eq!((flipped, path.runs), (vec!["split", "score"], 10));
        let worth = |i: usize| path.steps[i].contribution.as_ref().unwrap().point;
        assert!((worth(1) - 0.3).abs() < 1e-9 && (worth(2) - 0.1).abs() < 1e-9);
        assert!((path.leave_one_out[1].1.point - 0.4).abs() < 1e-9);
        assert!(html.contains("Better by this step"));

        let searches = analysis.overtuning.unwrap();
        let a = &searches.methods[0];
        assert_eq!((a.searches, a.summary.n_excluded), (6, 0));
        // Test falls from .55 to .40 and ends at .60: more than back.
        assert!(a.summary.sorted.iter().all(|r| (r - 0.2 / 0.15).abs() < 1e-9), "{a:?}");
        assert_eq!(a.on_test.len(), 8);
        let markdown = String::from_utf8(report.files["report.md"].clone()).unwrap();
        assert!(markdown.contains("overtuned not at all 0%"), "{markdown}");
    }

    #[test]
    fn a_failed_evaluation_is_never_the_incumbent() {
        let mut results = empty(full().spec);
        add(&mut results, Stage::Main, main_trial);
        add(&mut results, Stage::Tune, |t| match drawn(t) {
            7 => Did::Failed(Status::Timeout),
            _ => searched(t),
        });
        results.seal.unseals.push((0, "test".to_owned()));
        let searches = analyse(&results).unwrap().overtuning.unwrap();
        let a = &searches.methods[0];
        assert_eq!((a.on_test.len(), a.on_test[7].1.point), (8, a.on_test[6].1.point));
        assert!(a.summary.sorted.iter().all(|r| (r - 1.0).abs() < 1e-9));
    }

    #[test]
    fn without_data_the_reason_is_told() {
        let bare = results(spec(2, 5, "", ""), |t| err(noise(t, 0)));
        let (_, figures, left_out, report) = reported(&bare);
        assert!(figures.is_empty());
        assert_eq!(left_out.len(), 3);
        let page = String::from_utf8(report.files["report.md"].clone()).unwrap();
        for why in ["no `analysis.targets`", "has no [ablation]", "has no [tuning]"] {
            assert!(left_out.iter().any(|l| l.contains(why)), "{left_out:?}");
            assert!(page.contains(why), "{why}");
        }

        let mut sealed = full();
        sealed.seal.unseals.clear();
        let (analysis, ..) = reported(&sealed);
        assert_eq!(analysis.overtuning.unwrap_err(), "`test_err` is sealed");

        let mut open = empty(full().spec);
        add(&mut open, Stage::Main, main_trial);
        add(&mut open, Stage::Ablation, |t| if t.rep == 4 { Did::Pending } else { ablated(t) });
        let why = analyse(&open).unwrap().ablation.unwrap_err();
        assert!(why.contains("8 trials of stage ablation are not finished"), "{why}");
    }

    #[test]
    fn equal_results_give_equal_bytes() {
        let results = full();
        assert_eq!(reported(&results).3.files, reported(&results).3.files);
    }
}
