//! Verdicts under other choices of the analyst: does any flip (specification, section 9)?

use super::{
    AnalysisError,
    claim::{Claim, Known, Verdict, judge_under},
    results::Results,
};
use crate::{
    spec::{Aggregate, Censoring, ZeroMethod},
    stats::Interval,
    store::record::Status,
};
use serde::Serialize;

/// A verdict under another choice of the analyst.
#[derive(Clone, Debug, Serialize)]
pub struct Alternative {
    /// Hypothesis.
    pub id: String,
    /// What was chosen differently.
    pub choice: String,
    /// Effect under that choice.
    pub effect: Option<Interval>,
    /// Verdict under that choice.
    pub verdict: Verdict,
    /// Whether it differs from the declared one.
    pub flips: bool,
}

/// Verdicts under other aggregates, zero methods and censoring rules: does any flip?
///
/// # Errors
/// When a statistic refuses its input.
pub fn sensitivity(
    results: &Results,
    rule: Censoring,
    declared: &[Claim],
) -> Result<Vec<Alternative>, AnalysisError> {
    let mut all = Vec::new();
    let mut note = |choice: String, claims: Vec<Claim>| {
        for (claim, base) in claims.into_iter().zip(declared) {
            all.push(Alternative {
                flips: claim.verdict != base.verdict,
                id: claim.id,
                choice: choice.clone(),
                effect: claim.effect,
                verdict: claim.verdict,
            });
        }
    };
    let declared_spec = &results.spec;
    let mut other = declared_spec.clone();
    for aggregate in [Aggregate::Iqm, Aggregate::Mean, Aggregate::Median] {
        if aggregate != declared_spec.analysis.aggregate {
            other.analysis.aggregate = aggregate;
            let known = Known { claims: declared, effect: false };
            note(
                format!("aggregate {}", format!("{aggregate:?}").to_lowercase()),
                judge_under(results, &other, rule, Some(known))?,
            );
        }
    }
    other.analysis.aggregate = declared_spec.analysis.aggregate;
    for zero in [ZeroMethod::Wilcox, ZeroMethod::Pratt, ZeroMethod::Zsplit] {
        if zero != declared_spec.analysis.zero_method {
            other.analysis.zero_method = zero;
            let known = Known { claims: declared, effect: true };
            note(
                format!("zero method {}", format!("{zero:?}").to_lowercase()),
                judge_under(results, &other, rule, Some(known))?,
            );
        }
    }
    let failed = results.main().any(|t| t.status.finished() && t.status != Status::Ok);
    if failed {
        for other in [Censoring::Worst, Censoring::Par10, Censoring::ExcludeListed] {
            if other != rule {
                note(
                    format!("censoring {}", format!("{other:?}").to_lowercase()),
                    judge_under(results, declared_spec, other, None)?,
                );
            }
        }
    }
    Ok(all)
}
