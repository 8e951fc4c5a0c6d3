//! Pre-filled answers to the reproducibility forms of venues.
//!
//! The questions are shortened here; forms change their wording from year to year, so answers are
//! ordered by subject, each with the evidence behind it. A violated item answers "No".

use super::{Finding, Verdict};
use crate::spec::Attest;
use std::fmt::Write as _;

/// A venue whose form is known.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Venue {
    /// The `AutoML` conference's checklist.
    Automl,
    /// The `NeurIPS` paper checklist.
    Neurips,
}

impl Venue {
    /// The venue of that name: `automl` or `neurips`.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "automl" => Some(Self::Automl),
            "neurips" => Some(Self::Neurips),
            _ => None,
        }
    }

    /// The questions in order.
    pub fn questions(self) -> &'static [Question] {
        match self {
            Self::Automl => AUTOML,
            Self::Neurips => NEURIPS,
        }
    }
}

/// A question of a form and where its answer comes from.
#[derive(Copy, Clone, Debug)]
pub struct Question {
    /// Subject, shortened.
    pub text: &'static str,
    /// Checklist items that answer it.
    pub items: &'static [&'static str],
    /// Key of `[attest]` that answers it.
    pub attest: Option<&'static str>,
}

const fn by(text: &'static str, items: &'static [&'static str]) -> Question {
    Question { text, items, attest: None }
}

const fn said(text: &'static str, attest: &'static str) -> Question {
    Question { text, items: &[], attest: Some(attest) }
}

const AUTOML: &[Question] = &[
    by("Do the main claims reflect the contributions and scope?", &["Q1", "Q3", "A11"]),
    by("Are the limitations described?", &["A13"]),
    by("Are potential negative societal impacts discussed?", &["R7"]),
    said("Does the paper conform to ethics guidelines?", "ethics"),
    by("Same evaluation protocol for all methods (data, splits, budget)?", &["D4", "D5", "E2"]),
    by("All necessary details of the evaluation (splits, spaces, tuning)?", &["D3", "D5", "D9"]),
    by("Experiments repeated over seeds or splits?", &["D7", "E10"]),
    by("Uncertainty of the results reported?", &["A1"]),
    by("Statistical significance reported?", &["A2", "A3", "A4"]),
    by("Enough repetitions, data sets and benchmarks to support the claims?", &["D7", "D8"]),
    by("Tabular or surrogate benchmarks used for in-depth evaluations?", &["D8"]),
    by("Performance compared over time, and the maximal runtime justified?", &["A7", "D12"]),
    by("Total amount and kind of compute reported?", &["A9"]),
    by("Ablation studies run?", &["D10"]),
    by("Code, data and instructions with pinned versions included?", &["R3", "E6"]),
    by("Minimal example on a small subset included?", &["R5"]),
    by("Code that turns raw results into the figures and tables included?", &["R2"]),
    by("Raw results included?", &["R1"]),
    by("Existing assets cited, with licences?", &["R4", "R6"]),
    by("Licence of new assets stated?", &["R6"]),
    said("Consent and personal data of human subjects?", "ethics"),
    said("Assumptions and proofs of theoretical results?", "theory"),
];

const NEURIPS: &[Question] = &[
    by("Claims", &["Q1", "Q3", "A11"]),
    by("Limitations", &["A13"]),
    said("Theory assumptions and proofs", "theory"),
    by("Experimental result reproducibility", &["E6", "E10", "E11", "R2", "R3"]),
    by("Open access to data and code", &["R1", "R2", "R3"]),
    by("Experimental setting and details", &["D3", "D5", "D9", "D11"]),
    by("Experiment statistical significance", &["A1", "A2", "A3", "A4", "D7"]),
    by("Experiments compute resources", &["A9", "E3", "E5", "E7"]),
    said("Code of ethics", "ethics"),
    by("Broader impacts", &["R7"]),
    said("Safeguards", "safeguards"),
    by("Licences for existing assets", &["R4", "R6"]),
    by("New assets", &["R6"]),
    said("Crowdsourcing, research with human subjects, review boards", "ethics"),
    said("Declaration of language-model usage", "language_models"),
];

/// The form as Markdown, answered from the findings and the statements of the spec.
pub fn fill(venue: Venue, findings: &[Finding], attest: &Attest) -> String {
    let mut text = String::new();
    for (i, question) in venue.questions().iter().enumerate() {
        let (answer, evidence) = answer(question, findings, attest);
        let number = i + 1;
        writeln!(text, "{number}. {}\n   **{answer}**", question.text)
            .expect("writing to a String cannot fail");
        for line in evidence {
            writeln!(text, "   - {line}").expect("writing to a String cannot fail");
        }
    }
    text
}

fn answer(
    question: &Question,
    findings: &[Finding],
    attest: &Attest,
) -> (&'static str, Vec<String>) {
    if let Some(key) = question.attest {
        let statement = match key {
            "ethics" => &attest.ethics,
            "theory" => &attest.theory,
            "safeguards" => &attest.safeguards,
            _ => &attest.language_models,
        };
        return match statement {
            Some(text) if !text.trim().is_empty() => ("Yes", vec![text.trim().to_owned()]),
            _ => ("[to be answered]", vec![format!("state it as `{key}` in [attest]")]),
        };
    }
    let answering: Vec<&Finding> =
        findings.iter().filter(|f| question.items.contains(&f.id)).collect();
    let evidence = answering
        .iter()
        .map(|f| format!("{} {}: {} ({})", f.id, f.item, f.verdict.evidence(), f.verdict.word()))
        .collect();
    let violated = answering.iter().any(|f| f.verdict.is_violated());
    let open = answering.iter().all(|f| matches!(f.verdict, Verdict::NotApplicable(_)));
    let word = match (violated, open) {
        (true, _) => "No",
        (false, true) => "N/A",
        (false, false) => "Yes",
    };
    (word, evidence)
}
