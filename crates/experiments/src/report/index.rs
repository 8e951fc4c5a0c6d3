//! The page over all studies: one card each.

use super::{
    ReportError,
    page::{ClaimCard, Page},
    render,
};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// One study on the index page; kept beside its report as `card.json`, so that the index can be made
/// again without opening a store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Card {
    /// Study id.
    pub id: String,
    /// Crate that the study belongs to.
    pub crate_name: String,
    /// Title.
    pub title: String,
    /// Question.
    pub question: String,
    /// Profile.
    pub profile: String,
    /// Link to the report, relative to the index page.
    pub link: String,
    /// Claims.
    pub claims: Vec<CardClaim>,
    /// First figure, relative to the index page; two drawings inside one page could share ids.
    pub figure: Option<String>,
    /// Finished trials.
    pub trials: usize,
    /// Cost in words.
    pub cost: String,
    /// Number of violated checklist items.
    pub unsatisfied: usize,
    /// Command that makes the study again.
    pub command: String,
}

/// A claim on a card.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CardClaim {
    /// Id.
    pub id: String,
    /// Claim.
    pub sentence: String,
    /// Verdict word.
    pub verdict: String,
    /// Effect with interval.
    pub effect: String,
}

impl From<&ClaimCard> for CardClaim {
    fn from(c: &ClaimCard) -> Self {
        Self {
            id: c.id.clone(),
            sentence: c.sentence.clone(),
            verdict: c.verdict.clone(),
            effect: c.effect.clone(),
        }
    }
}

impl Card {
    /// The card of a page.
    pub fn new(
        page: &Page,
        crate_name: &str,
        link: &str,
        trials: usize,
        cost: &str,
        command: &str,
    ) -> Self {
        Self {
            id: page.id.clone(),
            crate_name: crate_name.to_owned(),
            title: page.title.clone(),
            question: page.question.clone(),
            profile: page.profile.clone(),
            link: link.to_owned(),
            claims: page.claims.iter().map(CardClaim::from).collect(),
            figure: page.figures.first().map(|f| {
                let folder = link.trim_end_matches("index.html");
                format!("{folder}figures/{}.svg", f.name)
            }),
            trials,
            cost: cost.to_owned(),
            unsatisfied: page.unsatisfied.len(),
            command: command.to_owned(),
        }
    }
}

#[derive(Serialize)]
struct Index<'a> {
    studies: &'a [Card],
}

/// Writes `index.html` below `results`, by rename.
///
/// # Errors
/// When the file cannot be written.
pub fn write(results: &Path, cards: &[Card]) -> Result<(), ReportError> {
    let html = render("index.html", &Index { studies: cards })?;
    let path = results.join("index.html");
    let stage = results.join("index.html.new");
    let put = || -> std::io::Result<()> {
        std::fs::create_dir_all(results)?;
        std::fs::write(&stage, html)?;
        std::fs::rename(&stage, &path)
    };
    put().map_err(|source| ReportError::Io { path: path.clone(), source })
}
