//! Analysis and report: A1 to A13.

use super::{
    Evidence,
    Group::Analysis,
    Item,
    Level::{Must, Should},
    ReportFacts, Verdict, item,
};
use crate::{
    plan::Stage,
    spec::{NormaliseKind, changes},
    store::record::Status,
};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const ITEMS: &[Item] = &[
    item("A1", Must, Analysis, "Uncertainty and n on every number", uncertainty),
    item("A2", Must, Analysis, "Tests corrected for multiplicity", multiplicity),
    item("A3", Must, Analysis, "Effect size beside every p-value", effect_size),
    item("A4", Must, Analysis, "Tests declared or chosen by rule", test_choice),
    item("A5", Must, Analysis, "Failures handled by a declared rule", censoring),
    item("A6", Must, Analysis, "Per-task results shown", per_task),
    item("A7", Should, Analysis, "Anytime performance shown", anytime),
    item("A8", Must, Analysis, "Validation-test gap of tuned methods reported", gap),
    item("A9", Must, Analysis, "Compute reported", compute),
    item("A10", Should, Analysis, "Normalisation fixed in advance", normalisation),
    item("A11", Must, Analysis, "Every hypothesis has a verdict", verdicts),
    item("A12", Must, Analysis, "Deviations from the frozen plan listed", deviations),
    item("A13", Should, Analysis, "Limits stated", limits),
];

/// Runs a check on the report, or says that there is none.
fn with_report(e: &Evidence, check: impl FnOnce(&ReportFacts) -> Verdict) -> Verdict {
    match &e.report {
        Some(report) => check(report),
        None => Verdict::NotApplicable("no report yet".into()),
    }
}

fn uncertainty(e: &Evidence) -> Verdict {
    with_report(e, |report| {
        let bare = report.without_interval.iter().map(|name| format!("{name} has no interval"));
        let uncounted = report.without_n.iter().map(|name| format!("{name} has no n"));
        let faults: Vec<String> = bare.chain(uncounted).collect();
        Verdict::unless(&faults, format!("{} numbers", report.numbers), "bare numbers")
    })
}

fn multiplicity(e: &Evidence) -> Verdict {
    with_report(e, |report| {
        let mut families: BTreeMap<&str, usize> = BTreeMap::new();
        for p in &report.p_values {
            *families.entry(&p.family).or_default() += 1;
        }
        // no correction makes a p-value smaller
        let adjusted = |adjusted: Option<f64>, raw: f64| adjusted.is_some_and(|a| a >= raw);
        let bare = report.p_values.iter().filter(|p| !adjusted(p.adjusted, p.raw));
        let bare: Vec<String> = bare.map(|p| format!("{} in {}", p.label, p.family)).collect();
        let yes = format!("{} p-values in {} families", report.p_values.len(), families.len());
        Verdict::unless(&bare, yes, "not adjusted")
    })
}

fn effect_size(e: &Evidence) -> Verdict {
    with_report(e, |report| {
        let bare = report.p_values.iter().filter(|p| p.effect.is_none() || p.interval.is_none());
        let bare: Vec<String> = bare.map(|p| p.label.clone()).collect();
        let yes = format!("{} p-values", report.p_values.len());
        Verdict::unless(&bare, yes, "without effect size or interval")
    })
}

fn test_choice(e: &Evidence) -> Verdict {
    if e.spec.hypotheses.is_empty() {
        return Verdict::NotApplicable("no hypothesis".into());
    }
    with_report(e, |report| {
        let mut faults = Vec::new();
        let mut facts = Vec::new();
        for claim in &e.spec.hypotheses {
            let Some(choice) = report.tests.iter().find(|t| t.hypothesis == claim.id) else {
                faults.push(format!("{}: no test recorded", claim.id));
                continue;
            };
            let declared = claim.test.map(crate::spec::Test::word);
            if declared.is_some_and(|test| test != choice.test) {
                let test = declared.unwrap_or_default();
                faults.push(format!("{}: {test} declared, {} used", claim.id, choice.test));
            }
            let by = if choice.declared { "declared" } else { "rule 7.1" };
            facts.push(format!("{}: {} ({by})", claim.id, choice.test));
        }
        Verdict::unless(&faults, facts.join("; "), "tests")
    })
}

fn censoring(e: &Evidence) -> Verdict {
    let failed = e.finished().filter(|t| t.status != Status::Ok).count();
    if failed == 0 {
        return Verdict::NotApplicable("every finished trial is ok".into());
    }
    match e.spec.analysis.censoring {
        Some(rule) => Verdict::Satisfied(format!("{failed} failed trials, rule {rule:?}")),
        None => Verdict::Violated(format!("{failed} failed trials and no `analysis.censoring`")),
    }
}

fn per_task(e: &Evidence) -> Verdict {
    with_report(e, |report| {
        Verdict::when(report.per_task_table, "table of tasks", "no table of tasks")
    })
}

fn anytime(e: &Evidence) -> Verdict {
    if !e.spec.metrics.iter().any(|m| m.curve) {
        return Verdict::Violated("no metric has curve = true".into());
    }
    with_report(e, |report| {
        let curves = report.curves;
        Verdict::when(curves > 0, format!("{curves} curves"), "no curve in the report")
    })
}

fn gap(e: &Evidence) -> Verdict {
    if e.spec.tuning.is_none() {
        return Verdict::NotApplicable("no [tuning]".into());
    }
    with_report(e, |report| {
        Verdict::when(report.overtuning_table, "table of overtuning", "no table of overtuning")
    })
}

fn compute(e: &Evidence) -> Verdict {
    with_report(e, |report| {
        let Some(facts) = &report.compute else {
            return Verdict::Violated("no compute in the report".into());
        };
        let counted: BTreeSet<Stage> = facts.stages.iter().copied().collect();
        let mut faults: Vec<String> =
            e.stages_run().difference(&counted).map(|s| format!("stage {s}")).collect();
        if !facts.with_failures {
            faults.push("failed trials".into());
        }
        if facts.devices.is_empty() {
            faults.push("device kinds".into());
        }
        let yes = format!(
            "{:.2} CPU hours, {:.2} GPU hours on {}",
            facts.cpu_hours,
            facts.gpu_hours,
            facts.devices.join(", ")
        );
        Verdict::unless(&faults, yes, "left out")
    })
}

fn normalisation(e: &Evidence) -> Verdict {
    match e.spec.analysis.normalise.as_ref().map(|n| n.kind) {
        None => Verdict::NotApplicable("scores are not normalised".into()),
        Some(NormaliseKind::Fixed) => Verdict::Satisfied("bounds are fixed in the spec".into()),
        Some(NormaliseKind::Observed) => {
            Verdict::Violated("bounds come from the results: another method moves them".into())
        }
    }
}

fn verdicts(e: &Evidence) -> Verdict {
    if e.spec.hypotheses.is_empty() {
        return Verdict::NotApplicable("no hypothesis".into());
    }
    with_report(e, |report| {
        let known = ["supported", "refuted", "inconclusive"];
        let judged = |id: &String| report.verdicts.get(id).is_some_and(|v| known.contains(&&**v));
        let open = e.spec.hypotheses.iter().filter(|h| !judged(&h.id));
        let open: Vec<String> = open.map(|h| h.id.clone()).collect();
        let shown: Vec<String> =
            report.verdicts.iter().map(|(id, v)| format!("{id} {v}")).collect();
        Verdict::unless(&open, shown.join(", "), "no verdict for")
    })
}

fn deviations(e: &Evidence) -> Verdict {
    let Some(frozen) = &e.frozen else {
        return Verdict::NotApplicable("nothing was frozen".into());
    };
    with_report(e, |report| {
        let found = match changes(frozen, &e.spec) {
            Ok(found) => found,
            Err(error) => return Verdict::Violated(error.to_string()),
        };
        let Some(listed) = &report.deviations else {
            return Verdict::Violated("the report has no list of deviations".into());
        };
        let silent = found.iter().filter(|c| !listed.contains(&c.path));
        let silent: Vec<String> = silent.map(|c| c.path.clone()).collect();
        Verdict::unless(&silent, format!("{} deviations, all listed", found.len()), "not listed")
    })
}

fn limits(e: &Evidence) -> Verdict {
    Verdict::attest(e.spec.attest.limits.as_ref())
}
