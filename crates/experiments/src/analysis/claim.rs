//! Verdicts on declared hypotheses (specification, 7.19): by test *and* interval, never by p alone.
//!
//! Which test comes from [`stats::choose`] or from the spec, the verdict from [`stats::judge`];
//! this module brings the data to them and the words to the reader.

use super::{
    AnalysisError, comparison,
    contrast::{Contrast, Tested},
    results::{Results, Table},
    summary::Scale,
};
use crate::{
    spec::{Censoring, Direction, Hypothesis, Metric, Resolved, Test},
    stats::{self, DeclaredTest, Interval, TASKS_FOR_RANK_TESTS, TestOutcome},
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

impl From<stats::Verdict> for Verdict {
    fn from(verdict: stats::Verdict) -> Self {
        match verdict {
            stats::Verdict::Supported => Self::Supported,
            stats::Verdict::Refuted => Self::Refuted,
            stats::Verdict::Inconclusive => Self::Inconclusive,
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
    /// Two-sided p; of several tasks the smallest on the stated side, adjusted over the tasks.
    pub p: Option<f64>,
    /// p adjusted over all hypotheses.
    pub adjusted: Option<f64>,
    /// Test as the spec would name it.
    pub used: &'static str,
    /// Test, as words with its unit and n.
    pub test: String,
    /// Probability of improvement.
    pub improvement: Option<Interval>,
    /// Why this verdict, in one sentence.
    pub grounds: String,
    /// What belongs beside the numbers: out of reach, left out, Bayesian masses.
    pub notes: Vec<String>,
}

/// What a claim's own data say, before the family is adjusted.
struct Case {
    claim: Claim,
    outcome: TestOutcome,
}

/// Numbers of an earlier judgement that another choice of the analyst does not change.
#[derive(Copy, Clone)]
pub(super) struct Known<'a> {
    pub(super) claims: &'a [Claim],
    /// Whether the effect stays too, and not the probability of improvement alone.
    pub(super) effect: bool,
}

/// Judges all hypotheses as one family.
///
/// # Errors
/// When a statistic refuses its input.
pub fn judge(results: &Results, rule: Censoring) -> Result<Vec<Claim>, AnalysisError> {
    judge_under(results, &results.spec, rule, None)
}

/// [`judge`] under a spec that differs in its `[analysis]` alone.
pub(super) fn judge_under(
    results: &Results,
    spec: &Resolved,
    rule: Censoring,
    known: Option<Known<'_>>,
) -> Result<Vec<Claim>, AnalysisError> {
    let mut cases = Vec::new();
    for (i, hypothesis) in spec.hypotheses.iter().enumerate() {
        let known = known.and_then(|k| k.claims.get(i).map(|c| (c, k.effect)));
        cases.push(case(results, spec, hypothesis, rule, known)?);
    }
    settle(spec, cases)
}

/// Adjusts the p-values of the family and judges every claim.
fn settle(spec: &Resolved, mut cases: Vec<Case>) -> Result<Vec<Claim>, AnalysisError> {
    let tested: Vec<usize> = (0..cases.len()).filter(|i| cases[*i].claim.p.is_some()).collect();
    let raw: Vec<f64> = tested.iter().filter_map(|i| cases[*i].claim.p).collect();
    let (correction, _) = comparison::correction(spec);
    for (i, p) in tested.into_iter().zip(stats::adjust(&raw, correction)?) {
        cases[i].claim.adjusted = Some(p);
        if let TestOutcome::P { adjusted, .. } = &mut cases[i].outcome {
            *adjusted = p;
        }
    }
    cases
        .into_iter()
        .map(|Case { mut claim, outcome }| {
            if let Some(effect) = &claim.effect {
                // The effect is turned already, so that positive agrees with the claim.
                let side = stats::Direction::Greater;
                let judgement = stats::judge(effect, side, claim.min_effect, outcome)?;
                claim.verdict = judgement.verdict.into();
                claim.grounds = judgement.sentence;
            }
            Ok(claim)
        })
        .collect()
}

fn case(
    results: &Results,
    spec: &Resolved,
    h: &Hypothesis,
    rule: Censoring,
    known: Option<(&Claim, bool)>,
) -> Result<Case, AnalysisError> {
    let mut claim = Claim {
        id: h.id.clone(),
        sentence: sentence(spec, h),
        verdict: Verdict::Missing,
        effect: None,
        min_effect: h.min_effect.unwrap_or(0.0),
        p: None,
        adjusted: None,
        used: h.test.map_or("", Test::word),
        test: String::new(),
        improvement: None,
        grounds: String::new(),
        notes: Vec::new(),
    };
    let none = |claim| Ok(Case { claim, outcome: TestOutcome::None });
    let Some(metric) = spec.metric(&h.metric) else { return none(claim) };
    if !results.open(metric) {
        claim.verdict = Verdict::Sealed;
        return none(claim);
    }
    let table = Table::new(results, metric, rule);
    let (Some(better), Some(worse)) = (table.method(&h.better), table.method(&h.worse)) else {
        return none(claim);
    };
    let Some(contrast) = Contrast::new(&table, spec, (better, worse), 0..table.tasks.len()) else {
        return none(claim);
    };
    if contrast.unpaired > 0 {
        claim.notes.push(format!(
            "{} runs without a partner of the same repetition are left out of the pairs",
            contrast.unpaired
        ));
    }
    let along = along(h, metric);
    let improvement = match known.and_then(|(c, _)| c.improvement.clone()) {
        Some(improvement) => improvement,
        None => contrast.improvement()?,
    };
    let effect = match known.filter(|(_, effect)| *effect).and_then(|(c, _)| c.effect.clone()) {
        Some(effect) => effect,
        None if along => contrast.effect(Scale::Metric)?,
        None => contrast.effect(Scale::Metric)?.negated(),
    };
    let outcome = examine(&mut claim, h, &contrast, along, &improvement)?;
    claim.improvement = Some(improvement);
    claim.effect = Some(effect);
    Ok(Case { claim, outcome })
}

/// Whether the claim runs along the metric's own direction; "less" on a score runs against it.
fn along(h: &Hypothesis, metric: &Metric) -> bool {
    match h.direction {
        None => true,
        Some(Direction::Greater) => metric.higher_is_better,
        Some(Direction::Less) => !metric.higher_is_better,
    }
}

/// Runs the declared test, or the one that rule 7.1 gives to two methods.
fn examine(
    claim: &mut Claim,
    h: &Hypothesis,
    contrast: &Contrast<'_>,
    along: bool,
    improvement: &Interval,
) -> Result<TestOutcome, AnalysisError> {
    let level = h.level();
    let design = contrast.design(h.min_effect, level);
    let choice = stats::choose(&design)?;
    let Some(test) = h.test else {
        claim.notes.extend(choice.notes);
        if choice.bayes {
            claim.notes.extend(bayes_note(contrast, claim.min_effect)?);
        }
        let Some(tested) = contrast.run(choice.analysis)? else {
            claim.test = format!("no test is possible, n = {}", contrast.pairs);
            return Ok(TestOutcome::None);
        };
        claim.used = match choice.analysis {
            stats::Analysis::MannWhitneyWithinTasks => Test::MannWhitney.word(),
            _ => Test::Wilcoxon.word(),
        };
        return Ok(ranked(claim, &tested, along, level, false));
    };
    claim.notes.extend(contrast.declared(declared(test), &design)?);
    if choice.bayes && test != Test::BayesSignedRank {
        claim.notes.extend(bayes_note(contrast, claim.min_effect)?);
    }
    let tested = match test {
        Test::Wilcoxon => contrast.wilcoxon()?,
        Test::MannWhitney => contrast.mann_whitney()?,
        Test::WilcoxonHolm if contrast.tasks.len() < TASKS_FOR_RANK_TESTS => contrast.wilcoxon()?,
        Test::WilcoxonHolm | Test::FriedmanNemenyi => {
            let Some((tested, gate)) = contrast.after_friedman(test, level)? else {
                "Friedman needs two tasks with values of all methods".clone_into(&mut claim.test);
                return Ok(TestOutcome::None);
            };
            claim.notes.push(gate);
            tested
        }
        Test::BayesSignedRank => {
            let Some(bayes) = contrast.bayes(claim.min_effect)? else {
                "the Bayesian test needs two values".clone_into(&mut claim.test);
                return Ok(TestOutcome::None);
            };
            let [better, equal, worse] = bayes.probs;
            claim.test = format!(
                "Bayesian signed-rank: P(better) = {better:.3}, P(equivalent) = {equal:.3}, \
                 P(worse) = {worse:.3}; a posterior, outside of the correction"
            );
            let probability = if along { better } else { worse };
            return Ok(TestOutcome::Posterior { probability, threshold: 1.0 - level });
        }
        Test::Poi => {
            "interval of the probability of improvement against 0.5; outside of the correction"
                .clone_into(&mut claim.test);
            let lo = if along { improvement.lo } else { 1.0 - improvement.hi };
            return Ok(TestOutcome::Bound { lo, null: 0.5 });
        }
    };
    Ok(ranked(claim, &tested, along, level, true))
}

/// Writes the p-value of a rank test into the claim.
fn ranked(
    claim: &mut Claim,
    tested: &Tested,
    along: bool,
    level: f64,
    say_reach: bool,
) -> TestOutcome {
    let (p, agrees) = tested.toward(along);
    claim.p = Some(p);
    claim.test = format!("{}, n = {}", tested.words, tested.n);
    let said = claim.notes.iter().any(|note| note.contains("cannot be reached"));
    if say_reach && !said && tested.smallest_p > level {
        claim.notes.push(format!(
            "with n = {} the smallest two-sided p is {:.4}: {level} cannot be reached",
            tested.n, tested.smallest_p
        ));
    }
    TestOutcome::P { adjusted: p, alpha: level, agrees }
}

fn declared(test: Test) -> DeclaredTest {
    match test {
        Test::Wilcoxon => DeclaredTest::Wilcoxon,
        Test::FriedmanNemenyi => DeclaredTest::FriedmanNemenyi,
        Test::WilcoxonHolm => DeclaredTest::WilcoxonHolm,
        Test::BayesSignedRank => DeclaredTest::BayesSignedRank,
        Test::MannWhitney => DeclaredTest::MannWhitney,
        Test::Poi => DeclaredTest::Poi,
    }
}

fn bayes_note(contrast: &Contrast<'_>, rope: f64) -> Result<Option<String>, AnalysisError> {
    Ok(contrast.bayes(rope)?.map(|bayes| {
        let [better, equal, worse] = bayes.mean_mass;
        format!(
            "Bayesian signed-rank with ROPE ±{rope}: mean mass better {better:.3}, equivalent \
             {equal:.3}, worse {worse:.3}"
        )
    }))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        analysis::{
            fixture::{Did, err, hypothesis, noise, results, spec},
            sensitivity::sensitivity,
        },
        plan::PlannedTrial,
        spec::ZeroMethod,
        store::record::Status,
    };

    /// `a` is better than the others by `gap`, up to noise that pairing does not remove.
    fn shifted(gap: f64, own: f64) -> impl Fn(&PlannedTrial) -> Did {
        move |t| {
            let seed = 0.5 + 0.2 * noise(t, 0);
            err(match t.method.as_str() {
                "a" => seed,
                "b" => seed + gap + own * noise(t, 1),
                _ => seed + gap + own * noise(t, 2),
            })
        }
    }

    fn judged(results: &Results) -> Vec<Claim> {
        judge(results, crate::analysis::censoring(results)).unwrap()
    }

    fn one(tasks: usize, reps: u32, rest: &str, outcome: impl Fn(&PlannedTrial) -> Did) -> Claim {
        let spec = spec(tasks, reps, "", &hypothesis("H1", "err", "b", rest));
        judged(&results(spec, outcome)).remove(0)
    }

    #[test]
    fn supported_refuted_inconclusive() {
        let rule = "test = \"wilcoxon\"\nmin_effect = 0.05";
        let supported = one(1, 10, rule, shifted(0.1, 0.02));
        assert_eq!(supported.verdict, Verdict::Supported, "{}", supported.grounds);
        assert_eq!(supported.p, Some(2_f64.powi(-9)));
        let effect = supported.effect.unwrap();
        assert!(effect.lo > 0.05 && effect.point > 0.08 && effect.hi < 0.13, "{effect}");
        assert!(supported.improvement.unwrap().point > 0.5);
        // The same effect against a larger smallest effect of interest is refuted.
        let small = one(1, 10, "test = \"wilcoxon\"\nmin_effect = 0.2", shifted(0.1, 0.02));
        assert_eq!(small.verdict, Verdict::Refuted, "{}", small.grounds);
        let opposite = one(1, 10, rule, shifted(-0.1, 0.02));
        assert_eq!(opposite.verdict, Verdict::Refuted);
        // No rejection is never "no difference" while the interval holds relevant effects.
        let noisy = one(1, 10, rule, shifted(0.0, 1.0));
        assert_eq!(noisy.verdict, Verdict::Inconclusive, "{}", noisy.grounds);
        assert!(noisy.p.unwrap() > 0.05);
    }

    #[test]
    fn a_rejection_alone_is_not_enough() {
        let rule = "test = \"wilcoxon\"\nmin_effect = 0.1";
        let claim = one(1, 12, rule, shifted(0.12, 0.1));
        let effect = claim.effect.as_ref().unwrap();
        assert!(claim.adjusted.unwrap() <= 0.05 && effect.lo > 0.0 && effect.lo < 0.1, "{effect}");
        assert_eq!(claim.verdict, Verdict::Inconclusive);
        assert!(claim.grounds.contains("too small to matter"), "{}", claim.grounds);
    }

    #[test]
    fn direction_may_run_against_the_metric() {
        // A spec file cannot say so; it is judged right all the same: `a` has the higher error.
        let judge_with = |outcome: &dyn Fn(&PlannedTrial) -> Did| {
            let mut spec = spec(1, 10, "", &hypothesis("H1", "err", "b", "test = \"wilcoxon\""));
            spec.hypotheses[0].direction = Some(Direction::Greater);
            judged(&results(spec, outcome)).remove(0)
        };
        let higher = judge_with(&shifted(-0.1, 0.02));
        assert_eq!(higher.verdict, Verdict::Supported, "{}", higher.grounds);
        assert!(higher.effect.unwrap().lo > 0.0 && higher.sentence.contains("higher"));
        assert_eq!(judge_with(&shifted(0.1, 0.02)).verdict, Verdict::Refuted);
        // The same numbers as a score.
        let spec = spec(1, 10, "", &hypothesis("H1", "score", "b", "direction = \"greater\""));
        let outcome = |t: &PlannedTrial| {
            let gap = if t.method == "a" { 0.1 } else { 0.02 * noise(t, 1) };
            Did::Ok(vec![("score", noise(t, 0) + gap)], Vec::new())
        };
        assert_eq!(judged(&results(spec, outcome))[0].verdict, Verdict::Supported);
    }

    #[test]
    fn holm_spans_the_family() {
        let rest = "test = \"wilcoxon\"";
        let alone = one(1, 6, rest, shifted(0.1, 0.01));
        assert_eq!((alone.adjusted, alone.verdict), (Some(0.03125), Verdict::Supported));
        let both = hypothesis("H1", "err", "b", rest) + &hypothesis("H2", "err", "c", rest);
        let claims = judged(&results(spec(1, 6, "", &both), shifted(0.1, 0.01)));
        for claim in &claims {
            assert_eq!((claim.p, claim.adjusted), (Some(0.03125), Some(0.0625)));
            assert_eq!(claim.verdict, Verdict::Inconclusive, "{}", claim.grounds);
        }
        // A sealed or missing hypothesis has no p and costs the others nothing.
        let sealed = hypothesis("H1", "err", "b", rest) + &hypothesis("H2", "test_err", "c", rest);
        let claims = judged(&results(spec(1, 6, "", &sealed), shifted(0.1, 0.01)));
        assert_eq!((claims[0].verdict, claims[1].verdict), (Verdict::Supported, Verdict::Sealed));
    }

    #[test]
    fn too_few_pairs_cannot_reach_the_level() {
        for rest in ["test = \"wilcoxon\"", ""] {
            let claim = one(1, 5, rest, shifted(0.3, 0.01));
            assert_eq!((claim.p, claim.verdict), (Some(0.0625), Verdict::Inconclusive));
            let said = claim.notes.iter().any(|n| n.contains("0.0625") && n.contains("cannot be"));
            assert!(said, "{:?}", claim.notes);
        }
        let single = one(1, 1, "", shifted(0.3, 0.01));
        assert_eq!((single.p, single.verdict), (None, Verdict::Inconclusive));
    }

    #[test]
    fn missing_pairs_are_left_out_and_told() {
        let lost = |t: &PlannedTrial| match (t.method.as_str(), t.rep) {
            ("a", 7) | ("b", 2 | 3) => Did::Pending,
            _ => shifted(0.1, 0.02)(t),
        };
        let claim = one(1, 12, "test = \"wilcoxon\"", lost);
        assert!(claim.test.ends_with("n = 9"), "{}", claim.test);
        assert!(claim.notes.iter().any(|n| n.starts_with("3 runs without a partner")));
        assert_eq!(claim.verdict, Verdict::Supported);
        let never = |t: &PlannedTrial| match t.method.as_str() {
            "b" => Did::Pending,
            _ => shifted(0.1, 0.02)(t),
        };
        assert_eq!(one(1, 12, "", never).verdict, Verdict::Missing);
        let apart = |t: &PlannedTrial| match (t.method.as_str(), t.rep % 2) {
            ("a", 0) | ("b", 1) => Did::Pending,
            _ => shifted(0.1, 0.02)(t),
        };
        assert_eq!(one(1, 12, "", apart).verdict, Verdict::Missing);
    }

    #[test]
    fn failures_enter_by_the_censoring_rule() {
        let failing = |t: &PlannedTrial| match (t.method.as_str(), t.rep) {
            ("a", 0..=5) => Did::Failed(Status::Timeout),
            _ => shifted(0.1, 0.02)(t),
        };
        let hypothesis = hypothesis("H1", "err", "b", "test = \"wilcoxon\"");
        let worst = judged(&results(spec(1, 12, "", &hypothesis), failing));
        assert_ne!(worst[0].verdict, Verdict::Supported);
        let listed = spec(1, 12, "censoring = \"exclude-listed\"", &hypothesis);
        let listed = judged(&results(listed, failing));
        assert_eq!(listed[0].verdict, Verdict::Supported);
        assert!(listed[0].test.ends_with("n = 6"));
    }

    #[test]
    fn rule_7_1_picks_the_test() {
        let used = |tasks, reps, rest| {
            let claim = one(tasks, reps, rest, shifted(0.1, 0.02));
            (claim.used, claim.test, claim.verdict)
        };
        let (word, test, verdict) = used(1, 10, "");
        assert_eq!((word, verdict), ("wilcoxon", Verdict::Supported));
        assert!(test.contains("of the one task, n = 10"), "{test}");
        let (word, test, _) = used(3, 10, "");
        assert_eq!(word, "mann-whitney");
        assert!(test.contains("within each task, Holm over the tasks, n = 10"), "{test}");
        let (word, test, verdict) = used(6, 4, "");
        assert_eq!((word, verdict), ("wilcoxon", Verdict::Supported));
        assert!(test.contains("over per-task values, n = 6"), "{test}");
        // Never the runs of several tasks as one sample: 3 x 10 runs give n = 10.
        let (_, test, _) = used(3, 10, "test = \"wilcoxon\"");
        assert!(test.contains("within each task") && test.ends_with("n = 10"), "{test}");
    }

    #[test]
    fn every_declared_test_decides() {
        for test in [
            "wilcoxon",
            "wilcoxon-holm",
            "friedman-nemenyi",
            "mann-whitney",
            "poi",
            "bayes-signed-rank",
        ] {
            let rest = format!("test = \"{test}\"\nmin_effect = 0.02");
            let apart = |t: &PlannedTrial| {
                let gap = match t.method.as_str() {
                    "a" => 0.0,
                    "b" => 0.4,
                    _ => 0.2,
                };
                err(gap + 0.05 * noise(t, t.method.len() as u64))
            };
            let claim = one(12, 8, &rest, apart);
            assert_eq!(claim.verdict, Verdict::Supported, "{test}: {}", claim.grounds);
            assert_eq!(claim.used, test);
            let against = one(12, 8, &rest, |t| match apart(t) {
                Did::Ok(values, points) => Did::Ok(vec![("err", -values[0].1)], points),
                other => other,
            });
            assert_eq!(against.verdict, Verdict::Refuted, "{test}: {}", against.grounds);
        }
    }

    #[test]
    fn friedman_is_a_gate() {
        let level = |t: &PlannedTrial| err(noise(t, t.method.bytes().map(u64::from).sum()));
        let claim = one(8, 4, "test = \"wilcoxon-holm\"", level);
        assert!(claim.test.starts_with("Friedman") && claim.test.contains("does not reject"));
        assert_eq!((claim.p, claim.verdict == Verdict::Supported), (Some(1.0), false));
    }

    #[test]
    fn effects_are_in_units_of_the_metric() {
        let bounds = "normalise = { kind = \"fixed\", bounds = { t0 = [0.0, 10.0] } }";
        let rest = "test = \"wilcoxon\"\nmin_effect = 0.05";
        let spec = spec(1, 10, bounds, &hypothesis("H1", "err", "b", rest));
        let claim = judged(&results(spec, shifted(0.1, 0.02))).remove(0);
        assert!(claim.effect.as_ref().unwrap().point > 0.08);
        assert_eq!(claim.verdict, Verdict::Supported);
    }

    #[test]
    fn sensitivity_agrees_with_judging_afresh() {
        let both = hypothesis("H1", "err", "b", "min_effect = 0.05")
            + &hypothesis("H2", "err", "c", "direction = \"less\"");
        let mut spec = spec(7, 4, "", &both);
        spec.hypotheses[1].direction = Some(Direction::Greater);
        let results = results(spec, shifted(0.08, 0.2));
        let declared = judged(&results);
        let all = sensitivity(&results, Censoring::Worst, &declared).unwrap();
        assert_eq!(all.len(), 2 * 4);
        let agree = |choice: &str, change: fn(&mut Resolved)| {
            let mut other = results.clone();
            change(&mut other.spec);
            let kept: Vec<_> = all.iter().filter(|a| a.choice == choice).collect();
            assert_eq!(kept.len(), 2);
            for (kept, fresh) in kept.into_iter().zip(judged(&other)) {
                assert_eq!(
                    (&kept.effect, kept.verdict),
                    (&fresh.effect, fresh.verdict),
                    "{choice}"
                );
            }
        };
        agree("aggregate mean", |s| s.analysis.aggregate = crate::spec::Aggregate::Mean);
        agree("zero method wilcox", |s| s.analysis.zero_method = ZeroMethod::Wilcox);
    }
}
