//! Verdicts on declared hypotheses (specification, 7.19): by test *and* interval, never by p alone.

use super::{
    AnalysisError,
    comparison::{self, Unit, task_matrix},
    results::{Results, Table},
    summary::aggregate,
};
use crate::{
    spec::{Censoring, Direction, Hypothesis, Resolved, Test, ZeroMethod},
    stats::{self, BayesOptions, FriedmanOptions, Interval},
};
use serde::Serialize;

/// What the data say about a claim.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The test rejects in the stated direction after correction, and the interval of the effect
    /// lies beyond the smallest effect of interest.
    Supported,
    /// The interval lies wholly below the smallest effect of interest: equivalence, or the opposite.
    Refuted,
    /// Neither.
    Inconclusive,
    /// No value may be shown yet: the test split is sealed.
    Sealed,
    /// Not enough finished trials.
    Missing,
}

impl Verdict {
    /// The word in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Supported => "supported",
            Self::Refuted => "refuted",
            Self::Inconclusive => "inconclusive",
            Self::Sealed => "sealed",
            Self::Missing => "no data yet",
        }
    }
}

/// A hypothesis with its evidence.
#[derive(Clone, Debug, Serialize)]
pub struct Claim {
    /// Id in the spec.
    pub id: String,
    /// The claim as one sentence.
    pub sentence: String,
    /// What the data say.
    pub verdict: Verdict,
    /// Effect, oriented so that positive agrees with the claim, in units of the metric.
    pub effect: Option<Interval>,
    /// Smallest effect of interest.
    pub min_effect: f64,
    /// One-sided p in the stated direction.
    pub p: Option<f64>,
    /// p adjusted over all hypotheses.
    pub adjusted: Option<f64>,
    /// Test, as words with its unit and n.
    pub test: String,
    /// Probability of improvement.
    pub improvement: Option<Interval>,
    /// Further evidence: Bayesian masses, medians per task.
    pub notes: Vec<String>,
}

/// Judges all hypotheses as one family.
///
/// # Errors
/// When a statistic refuses its input.
pub fn judge(results: &Results, rule: Censoring) -> Result<Vec<Claim>, AnalysisError> {
    let spec = &results.spec;
    let mut claims = Vec::new();
    for hypothesis in &spec.hypotheses {
        claims.push(evidence(results, hypothesis, rule)?);
    }
    let tested: Vec<usize> = (0..claims.len()).filter(|i| claims[*i].p.is_some()).collect();
    let raw: Vec<f64> = tested.iter().filter_map(|i| claims[*i].p).collect();
    let (correction, _) = comparison::correction(spec);
    for (i, adjusted) in tested.into_iter().zip(stats::adjust(&raw, correction)?) {
        claims[i].adjusted = Some(adjusted);
        let level = spec.hypotheses[i].level();
        let min_effect = claims[i].min_effect;
        if let Some(effect) = &claims[i].effect {
            claims[i].verdict = verdict(adjusted <= level, effect, min_effect);
        }
    }
    Ok(claims)
}

/// Rule 7.19 for an oriented effect.
pub fn verdict(rejects: bool, effect: &Interval, min_effect: f64) -> Verdict {
    if effect.has(stats::IntervalFlag::Uninformative) {
        Verdict::Inconclusive
    } else if rejects && effect.lo > 0.0 && effect.lo >= min_effect {
        Verdict::Supported
    } else if effect.hi < min_effect || effect.hi <= 0.0 {
        Verdict::Refuted
    } else {
        Verdict::Inconclusive
    }
}

fn evidence(results: &Results, h: &Hypothesis, rule: Censoring) -> Result<Claim, AnalysisError> {
    let spec = &results.spec;
    let mut claim = Claim {
        id: h.id.clone(),
        sentence: sentence(spec, h),
        verdict: Verdict::Missing,
        effect: None,
        min_effect: h.min_effect.unwrap_or(0.0),
        p: None,
        adjusted: None,
        test: String::new(),
        improvement: None,
        notes: Vec::new(),
    };
    let Some(metric) = spec.metric(&h.metric) else { return Ok(claim) };
    if !results.open(metric) {
        claim.verdict = Verdict::Sealed;
        return Ok(claim);
    }
    let table = Table::new(results, metric, rule);
    let (Some(better), Some(worse)) = (table.method(&h.better), table.method(&h.worse)) else {
        return Ok(claim);
    };
    let tasks = table.complete_tasks();
    let Some(pair) = comparison::pair(&table, spec, better, worse, &tasks)? else {
        return Ok(claim);
    };
    // The pair is oriented by the metric; the claim may run against it ("less" on a score).
    let along = match h.direction {
        None => true,
        Some(Direction::Greater) => metric.higher_is_better,
        Some(Direction::Less) => !metric.higher_is_better,
    };
    let effect = if along { pair.effect.clone() } else { pair.effect.clone().negated() };
    let p = if along { pair.p.greater } else { pair.p.less };
    claim.verdict = Verdict::Inconclusive;
    claim.improvement = Some(pair.improvement.clone());
    let test = h.test.unwrap_or(Test::Wilcoxon);
    let (p, words) = tested(&table, spec, test, (better, worse), &tasks, along, p)?;
    claim.p = p;
    claim.test = format!("{words}, n = {}", pair.n);
    if p.is_none() && test == Test::Poi {
        let oriented = if along { pair.improvement.lo > 0.5 } else { pair.improvement.hi < 0.5 };
        claim.verdict = verdict(oriented, &effect, claim.min_effect);
    }
    if let Some(min_effect) = h.min_effect.filter(|_| tasks.len() >= 2 || pair.n >= 6) {
        claim.notes.extend(bayes_note(&table, spec, (better, worse), &tasks, min_effect)?);
    }
    if pair.smallest_p > 2.0 * h.level() {
        claim.notes.push(format!(
            "with n = {} pairs the smallest one-sided exact p is {:.4}: {} cannot be reached",
            pair.n,
            pair.smallest_p / 2.0,
            h.level()
        ));
    }
    claim.effect = Some(effect);
    Ok(claim)
}

/// p in the claim's direction by the declared test, with the test in words.
fn tested(
    table: &Table,
    spec: &Resolved,
    test: Test,
    (better, worse): (usize, usize),
    tasks: &[usize],
    along: bool,
    wilcoxon_p: f64,
) -> Result<(Option<f64>, String), AnalysisError> {
    let unit = Unit::for_tasks(tasks.len());
    match test {
        Test::Wilcoxon | Test::WilcoxonHolm => Ok((Some(wilcoxon_p), unit.words().to_owned())),
        Test::Poi => {
            Ok((None, "interval of the probability of improvement against 0.5".to_owned()))
        }
        Test::MannWhitney => {
            let sign = if table.metric.higher_is_better == along { 1.0 } else { -1.0 };
            let mut raw = Vec::new();
            for t in tasks {
                let of =
                    |m: usize| table.runs(m, *t).iter().map(|v| sign * v).collect::<Vec<f64>>();
                let test = stats::mann_whitney(&of(better), &of(worse), stats::PMethod::Auto)?;
                raw.push(test.p.greater);
            }
            let adjusted = stats::adjust(&raw, stats::Correction::Holm)?;
            let p = adjusted.into_iter().fold(1.0, f64::min);
            Ok((Some(p), "Mann-Whitney within each task, Holm over the tasks".to_owned()))
        }
        Test::FriedmanNemenyi => {
            let options = FriedmanOptions {
                higher_is_better: table.metric.higher_is_better,
                ..FriedmanOptions::default()
            };
            let friedman = stats::friedman(&task_matrix(table, spec, tasks)?, &options)?;
            let words = format!("Friedman (p = {:.4}), then Nemenyi", friedman.p_f);
            if friedman.p_f > 0.05 {
                return Ok((Some(1.0), words));
            }
            let two_sided = stats::nemenyi_p(&friedman.mean_ranks, friedman.n)?[better][worse];
            let ahead = friedman.mean_ranks[better] < friedman.mean_ranks[worse];
            let p = if ahead == along { two_sided / 2.0 } else { 1.0 - two_sided / 2.0 };
            Ok((Some(p), words))
        }
        Test::BayesSignedRank => {
            let (x, y) = paired_values(table, spec, (better, worse), tasks)?;
            let options = BayesOptions { seed: spec.analysis.ci.seed, ..BayesOptions::default() };
            let bayes = stats::bayes_signed_rank(&x, &y, &options)?;
            let better_prob = if table.metric.higher_is_better == along {
                bayes.probs[0]
            } else {
                bayes.probs[2]
            };
            Ok((Some(1.0 - better_prob), "Bayesian signed-rank, 1 - P(better)".to_owned()))
        }
    }
}

/// Values that a paired test over the unit of rule 7.1 sees.
fn paired_values(
    table: &Table,
    spec: &Resolved,
    (a, b): (usize, usize),
    tasks: &[usize],
) -> Result<(Vec<f64>, Vec<f64>), AnalysisError> {
    if Unit::for_tasks(tasks.len()) == Unit::Tasks {
        let of = |m: usize| -> Result<Vec<f64>, AnalysisError> {
            tasks.iter().map(|t| Ok(aggregate(spec).of_runs(&table.runs(m, *t))?)).collect()
        };
        return Ok((of(a)?, of(b)?));
    }
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for t in tasks {
        let (p, q) = table.paired(a, b, *t);
        x.extend(p);
        y.extend(q);
    }
    Ok((x, y))
}

fn bayes_note(
    table: &Table,
    spec: &Resolved,
    pair: (usize, usize),
    tasks: &[usize],
    rope: f64,
) -> Result<Option<String>, AnalysisError> {
    let (x, y) = paired_values(table, spec, pair, tasks)?;
    if x.len() < 2 {
        return Ok(None);
    }
    let options = BayesOptions { rope, seed: spec.analysis.ci.seed, ..BayesOptions::default() };
    let bayes = stats::bayes_signed_rank(&x, &y, &options)?;
    let [left, equal, right] = bayes.mean_mass;
    let (better, worse) = if table.metric.higher_is_better { (left, right) } else { (right, left) };
    Ok(Some(format!(
        "Bayesian signed-rank with ROPE ±{rope}: mean mass better {better:.3}, equivalent {equal:.3}, \
         worse {worse:.3}"
    )))
}

fn sentence(spec: &Resolved, h: &Hypothesis) -> String {
    let labels = spec.method_labels();
    let label = |name: &str| labels.get(name).map_or_else(|| name.to_owned(), |l| (*l).to_owned());
    let metric = spec.metric(&h.metric);
    let metric_label = metric.and_then(|m| m.label.clone()).unwrap_or_else(|| h.metric.clone());
    let word = match h.direction {
        Some(Direction::Less) => "lower",
        Some(Direction::Greater) => "higher",
        None => "better",
    };
    let by = h.min_effect.map_or_else(String::new, |e| format!(" by at least {e}"));
    format!("{} has {word} {metric_label} than {}{by}", label(&h.better), label(&h.worse))
}

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
    let aggregates =
        [crate::spec::Aggregate::Iqm, crate::spec::Aggregate::Mean, crate::spec::Aggregate::Median];
    for aggregate in aggregates.into_iter().filter(|a| *a != results.spec.analysis.aggregate) {
        let mut other = results.clone();
        other.spec.analysis.aggregate = aggregate;
        note(
            format!("aggregate {}", format!("{aggregate:?}").to_lowercase()),
            judge(&other, rule)?,
        );
    }
    let zeros = [ZeroMethod::Wilcox, ZeroMethod::Pratt, ZeroMethod::Zsplit];
    for zero in zeros.into_iter().filter(|z| *z != results.spec.analysis.zero_method) {
        let mut other = results.clone();
        other.spec.analysis.zero_method = zero;
        note(format!("zero method {}", format!("{zero:?}").to_lowercase()), judge(&other, rule)?);
    }
    let failed =
        results.main().any(|t| t.status.finished() && t.status != crate::store::record::Status::Ok);
    if failed {
        for other in [Censoring::Worst, Censoring::Par10, Censoring::ExcludeListed] {
            if other != rule {
                note(
                    format!("censoring {}", format!("{other:?}").to_lowercase()),
                    judge(results, other)?,
                );
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interval(lo: f64, hi: f64) -> Interval {
        let scores = stats::Scores::from_runs(&[lo, hi, lo, hi, lo, hi]).unwrap();
        let options = stats::BootstrapOptions { resamples: 1000, ..Default::default() };
        let mut interval = stats::bootstrap(&scores, &stats::Aggregate::Mean, &options).unwrap();
        (interval.point, interval.lo, interval.hi) = (f64::midpoint(lo, hi), lo, hi);
        interval
    }

    #[test]
    fn verdicts_follow_the_rule() {
        assert_eq!(verdict(true, &interval(0.02, 0.05), 0.01), Verdict::Supported);
        // The test rejects, but the effect may be smaller than what matters.
        assert_eq!(verdict(true, &interval(0.002, 0.05), 0.01), Verdict::Inconclusive);
        // No rejection: never "no difference", unless the interval says so.
        assert_eq!(verdict(false, &interval(-0.02, 0.05), 0.01), Verdict::Inconclusive);
        assert_eq!(verdict(false, &interval(-0.004, 0.006), 0.01), Verdict::Refuted);
        assert_eq!(verdict(false, &interval(-0.05, -0.02), 0.01), Verdict::Refuted);
        assert_eq!(verdict(true, &interval(0.001, 0.05), 0.0), Verdict::Supported);
    }
}
