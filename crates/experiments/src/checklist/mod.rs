//! The guidelines as executable checks (specification, section 2).
//!
//! Every item looks at [`Evidence`] and answers with one of four verdicts and the facts behind it.
//! What no machine can check is never shown as satisfied: it is attested by a sentence of a person
//! from `[attest]`, or violated. The ids are ours; the guideline paper prints no numbered list.
//!
//! ```
//! use experiments::{checklist, spec, store::Store};
//!
//! fn check(store: &dyn Store, path: &str) -> Result<bool, Box<dyn std::error::Error>> {
//!     let spec = spec::load(path, spec::FULL)?;
//!     let findings = checklist::assess(&checklist::Evidence::gather(store, spec, None)?);
//!     for finding in &findings {
//!         println!("{finding}");
//!     }
//!     Ok(checklist::passes(&findings))
//! }
//! ```

mod analysis;
mod design;
mod evidence;
mod execution;
mod facts;
mod question;
mod release;
pub mod venue;

pub use evidence::{Evidence, EvidenceError};
pub use facts::{Artefact, ComputeFacts, PValue, ReportFacts, TestChoice};

use serde::Serialize;
use std::fmt;

/// Weight of an item.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// A violation makes `exp check` fail.
    Must,
    /// A violation is shown and costs nothing.
    Should,
}

/// Stage of the empirical cycle that an item belongs to.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Research questions.
    Questions,
    /// Experimental design.
    Design,
    /// Execution.
    Execution,
    /// Analysis and report.
    Analysis,
    /// Release.
    Release,
}

/// What an item found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "verdict", content = "evidence")]
pub enum Verdict {
    /// Checked and fulfilled, with the facts.
    Satisfied(String),
    /// Checked and not fulfilled, with the facts.
    Violated(String),
    /// Not a question here, or not yet, with the reason.
    NotApplicable(String),
    /// Stated by a person, in their words.
    Attested(String),
}

impl Verdict {
    /// The word of the verdict.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Satisfied(_) => "satisfied",
            Self::Violated(_) => "violated",
            Self::NotApplicable(_) => "not-applicable",
            Self::Attested(_) => "attested",
        }
    }

    /// Facts, reason or statement.
    pub fn evidence(&self) -> &str {
        match self {
            Self::Satisfied(text)
            | Self::Violated(text)
            | Self::NotApplicable(text)
            | Self::Attested(text) => text,
        }
    }

    /// Whether the item is violated.
    pub fn is_violated(&self) -> bool {
        matches!(self, Self::Violated(_))
    }

    /// Satisfied with one text or violated with another.
    fn when(holds: bool, yes: impl Into<String>, no: impl Into<String>) -> Self {
        if holds { Self::Satisfied(yes.into()) } else { Self::Violated(no.into()) }
    }

    /// Satisfied when nothing is missing, violated with the list otherwise.
    fn unless(missing: &[String], yes: impl Into<String>, no: &str) -> Self {
        if missing.is_empty() {
            return Self::Satisfied(yes.into());
        }
        Self::Violated(format!("{no}: {}", shortened(missing)))
    }

    /// The statement of a person, or violated.
    fn attest(statement: Option<&String>) -> Self {
        match statement.map(|text| text.trim()) {
            Some(text) if !text.is_empty() => Self::Attested(text.to_owned()),
            _ => Self::Violated("no statement in [attest]".into()),
        }
    }
}

/// The first few of a list, and how many there are.
fn shortened(list: &[String]) -> String {
    const SHOWN: usize = 5;
    let first: Vec<&str> = list.iter().take(SHOWN).map(String::as_str).collect();
    match list.len() {
        0..=SHOWN => first.join(", "),
        n => format!("{}, ... ({n} in all)", first.join(", ")),
    }
}

/// One item of the checklist.
#[derive(Copy, Clone)]
pub struct Item {
    /// Short name, such as `D4`.
    pub id: &'static str,
    /// Weight.
    pub level: Level,
    /// Part of the cycle.
    pub group: Group,
    /// What is asked.
    pub text: &'static str,
    /// The check.
    pub check: fn(&Evidence) -> Verdict,
}

impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Item({} {:?})", self.id, self.level)
    }
}

/// An item with its verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Short name.
    pub id: &'static str,
    /// Weight.
    pub level: Level,
    /// Part of the cycle.
    pub group: Group,
    /// What is asked.
    pub item: &'static str,
    /// What was found.
    #[serde(flatten)]
    pub verdict: Verdict,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = if self.level == Level::Must { "must" } else { "should" };
        let (id, word, item) = (self.id, self.verdict.word(), self.item);
        write!(f, "{id:<4}{level:<7}{word:<15}{item}: {}", self.verdict.evidence())
    }
}

/// All items, in the order of the specification.
pub fn items() -> impl Iterator<Item = &'static Item> {
    [question::ITEMS, design::ITEMS, execution::ITEMS, analysis::ITEMS, release::ITEMS]
        .into_iter()
        .flatten()
}

/// Checks every item.
pub fn assess(evidence: &Evidence) -> Vec<Finding> {
    items()
        .map(|item| Finding {
            id: item.id,
            level: item.level,
            group: item.group,
            item: item.text,
            verdict: (item.check)(evidence),
        })
        .collect()
}

/// Whether no MUST item is violated.
pub fn passes(findings: &[Finding]) -> bool {
    !findings.iter().any(|f| f.level == Level::Must && f.verdict.is_violated())
}

/// Shorthand of the tables of items.
const fn item(
    id: &'static str,
    level: Level,
    group: Group,
    text: &'static str,
    check: fn(&Evidence) -> Verdict,
) -> Item {
    Item { id, level, group, text, check }
}
