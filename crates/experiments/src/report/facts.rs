//! What the report prints, told to the checklist, which judges the report too.

use super::{RawData, page::Extras};
use crate::{
    analysis::Analysis,
    checklist::{Artefact, ComputeFacts, PValue, ReportFacts, TestChoice},
    figures::Figure,
    spec::{Kind, Resolved},
};

/// The facts of a report that is about to be written.
pub fn facts(
    analysis: &Analysis,
    spec: &Resolved,
    figures: &[Figure],
    raw: &RawData,
    extras: &Extras,
) -> ReportFacts {
    let exploratory = spec.kind == Kind::Exploratory;
    let name = |m: usize| analysis.table.methods[m].clone();
    let mut p_values: Vec<PValue> = analysis
        .comparisons
        .pairs
        .iter()
        .map(|p| PValue {
            family: "pairs".to_owned(),
            label: format!("{} against {}", name(p.first), name(p.second)),
            raw: p.p,
            adjusted: Some(p.adjusted),
            effect: Some(p.a12),
            interval: Some([p.effect.lo, p.effect.hi]),
            exploratory,
        })
        .collect();
    p_values.extend(analysis.claims.iter().filter_map(|c| {
        Some(PValue {
            family: "hypotheses".to_owned(),
            label: c.id.clone(),
            raw: c.p?,
            adjusted: c.adjusted,
            effect: c.improvement.as_ref().map(|i| i.point),
            interval: c.effect.as_ref().map(|e| [e.lo, e.hi]),
            exploratory,
        })
    }));
    let tests = spec
        .hypotheses
        .iter()
        .zip(&analysis.claims)
        .map(|(h, c)| TestChoice {
            hypothesis: h.id.clone(),
            test: c.used.to_owned(),
            declared: h.test.is_some(),
        })
        .collect();
    let numbers: usize = analysis
        .summaries
        .iter()
        .map(|s| s.overall.len() + s.per_task.iter().flatten().count())
        .sum();
    let total = &analysis.cost.total;
    let devices: Vec<String> = vec![spec.budget.device.clone()];
    let input = super::digest(raw);
    let artefact = |name: String| Artefact {
        name,
        command: extras.command.clone(),
        input_sha256: input.clone(),
    };
    let mut artefacts: Vec<Artefact> =
        figures.iter().map(|f| artefact(format!("figures/{}.svg", f.name))).collect();
    artefacts.push(artefact("index.html".to_owned()));
    ReportFacts {
        numbers: numbers as u64,
        // Every number goes through `with_interval`, which has no form without one and its runs.
        without_interval: Vec::new(),
        without_n: Vec::new(),
        p_values,
        significance_claims: u64::from(!exploratory && !analysis.claims.is_empty()),
        tests,
        per_task_table: !analysis.table.tasks.is_empty(),
        curves: analysis.curves.iter().map(|(_, tasks)| tasks.len() as u64).sum(),
        overtuning_table: !extras.tuning.is_empty(),
        compute: Some(ComputeFacts {
            cpu_hours: total.cpu_hours,
            gpu_hours: total.gpu_hours,
            devices,
            stages: analysis.cost.stages.keys().copied().collect(),
            with_failures: true,
        }),
        verdicts: analysis
            .claims
            .iter()
            .map(|c| (c.id.clone(), c.verdict.word().to_owned()))
            .collect(),
        deviations: Some(extras.deviations.clone()),
        exports: raw.keys().map(|file| format!("data/{file}")).collect(),
        artefacts,
    }
}
