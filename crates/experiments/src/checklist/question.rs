//! Research questions: Q1 to Q7.

use super::{
    Evidence,
    Group::Questions,
    Item,
    Level::{Must, Should},
    Verdict, item,
};
use crate::{plan::Stage, spec::Kind};

pub(super) const ITEMS: &[Item] = &[
    item("Q1", Must, Questions, "Research question stated", stated),
    item("Q2", Must, Questions, "Confirmatory or exploratory declared", kind),
    item("Q3", Must, Questions, "Hypotheses complete", complete),
    item("Q4", Must, Questions, "Frozen before any test result existed", frozen_first),
    item("Q5", Must, Questions, "Exploratory work claims no significance", no_claims),
    item("Q6", Should, Questions, "Falsifier stated", falsifier),
    item("Q7", Should, Questions, "One primary metric", primary),
];

fn stated(e: &Evidence) -> Verdict {
    let letters = e.spec.question.trim().chars().count();
    let no = format!("{letters} characters, fewer than 20");
    Verdict::when(letters >= 20, format!("\"{}\"", e.spec.question.trim()), no)
}

fn kind(e: &Evidence) -> Verdict {
    let tests = e.spec.hypotheses.iter().filter(|h| h.test.is_some()).count();
    match e.spec.kind {
        Kind::Confirmatory => Verdict::Satisfied("confirmatory".into()),
        Kind::Exploratory if tests == 0 => Verdict::Satisfied("exploratory".into()),
        // a declared test is a confirmatory claim under an exploratory flag
        Kind::Exploratory => Verdict::Violated(format!(
            "declared exploratory, yet {tests} hypotheses declare a test"
        )),
    }
}

fn complete(e: &Evidence) -> Verdict {
    if e.spec.kind == Kind::Exploratory {
        return Verdict::NotApplicable("exploratory".into());
    }
    if e.spec.hypotheses.is_empty() {
        return Verdict::Violated("confirmatory, but no [[hypothesis]]".into());
    }
    let missing: Vec<String> = e
        .spec
        .hypotheses
        .iter()
        .flat_map(|h| {
            let parts = [
                ("direction", h.direction.is_some()),
                ("min_effect", h.min_effect.is_some_and(|x| x > 0.0)),
                ("test", h.test.is_some()),
                ("alpha", h.alpha.is_some()),
            ];
            let absent = parts.into_iter().filter(|(_, there)| !there);
            absent.map(|(key, _)| format!("{} lacks {key}", h.id)).collect::<Vec<_>>()
        })
        .collect();
    Verdict::unless(&missing, format!("{} hypotheses", e.spec.hypotheses.len()), "incomplete")
}

fn frozen_first(e: &Evidence) -> Verdict {
    if e.spec.kind == Kind::Exploratory {
        return Verdict::NotApplicable("exploratory".into());
    }
    let freeze = e.events.iter().position(|event| event.kind == "freeze");
    let unseal = e.events.iter().position(|event| event.kind == "unseal");
    if unseal.is_some_and(|at| freeze.is_none_or(|freeze| at < freeze)) {
        return Verdict::Violated("test results were unsealed before the freeze".into());
    }
    let attempts = e.counting();
    let first_result = [Stage::Main, Stage::Ablation]
        .iter()
        .flat_map(|stage| e.trials.iter().filter(move |t| t.stage == *stage))
        .filter_map(|t| attempts.get(&t.key))
        .map(|a| a.ended_at)
        .min();
    match (freeze.map(|at| e.events[at].at), first_result) {
        (Some(freeze), Some(result)) => Verdict::when(
            freeze < result,
            format!("frozen {} s before the first result", (result - freeze) / 1000),
            format!("frozen {} s after the first result", (freeze - result) / 1000),
        ),
        (Some(_), None) => Verdict::Satisfied("frozen, and no test result exists".into()),
        (None, Some(_)) => Verdict::Violated("test results exist and nothing was frozen".into()),
        (None, None) => Verdict::NotApplicable("not frozen yet, and no test result exists".into()),
    }
}

fn no_claims(e: &Evidence) -> Verdict {
    if e.spec.kind == Kind::Confirmatory {
        return Verdict::NotApplicable("confirmatory".into());
    }
    let Some(report) = &e.report else {
        return Verdict::NotApplicable("no report yet".into());
    };
    let bare: Vec<String> =
        report.p_values.iter().filter(|p| !p.exploratory).map(|p| p.label.clone()).collect();
    if report.significance_claims > 0 {
        let claims = report.significance_claims;
        return Verdict::Violated(format!("{claims} sentences claim significance"));
    }
    let yes = format!("{} p-values, all labelled exploratory", report.p_values.len());
    Verdict::unless(&bare, yes, "p-values without the label")
}

fn falsifier(e: &Evidence) -> Verdict {
    if e.spec.hypotheses.is_empty() {
        return Verdict::NotApplicable("no hypothesis".into());
    }
    let said = |text: &Option<String>| text.as_ref().is_some_and(|t| !t.trim().is_empty());
    let without = e.spec.hypotheses.iter().filter(|h| !said(&h.refuted_if));
    let without: Vec<String> = without.map(|h| h.id.clone()).collect();
    Verdict::unless(&without, "every hypothesis has `refuted_if`", "no `refuted_if`")
}

fn primary(e: &Evidence) -> Verdict {
    let primary: Vec<String> =
        e.spec.metrics.iter().filter(|m| m.primary).map(|m| m.name.clone()).collect();
    match primary.as_slice() {
        [one] => Verdict::Satisfied(one.clone()),
        several => Verdict::Violated(format!("{} metrics are primary", several.len())),
    }
}
