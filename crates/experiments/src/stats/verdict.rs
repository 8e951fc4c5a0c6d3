//! Verdicts on hypotheses by test, interval and smallest effect of interest (7.19).
//!
//! A large p never says "no difference": without an interval that excludes the effect, the verdict
//! is inconclusive.

use serde::{Deserialize, Serialize};

use super::error::{Result, all_finite, open_unit, out_of_range};
use super::interval::{Interval, IntervalFlag};

/// What the hypothesis says about `metric(better) - metric(worse)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// The better method has the lower metric.
    Less,
    /// The better method has the higher metric.
    Greater,
}

/// Verdict on one hypothesis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The test rejects in the stated direction and the whole interval reaches the effect.
    Supported,
    /// The whole interval lies below the effect: equivalence or the opposite.
    Refuted,
    /// Neither.
    Inconclusive,
}

/// What the declared test said.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TestOutcome {
    /// A two-sided p-value after the correction of its family.
    P {
        /// Adjusted p.
        adjusted: f64,
        /// Level.
        alpha: f64,
        /// Whether the test's own statistic lies on the stated side: a two-sided test alone
        /// rejects for either.
        agrees: bool,
    },
    /// Posterior probability of the stated direction beyond the region of equivalence.
    Posterior {
        /// The probability.
        probability: f64,
        /// What it must reach, 0.95 by default.
        threshold: f64,
    },
    /// Lower end of the interval of a quantity that grows in the stated direction, against its
    /// value without effect: the probability of improvement against 0.5.
    Bound {
        /// Lower end.
        lo: f64,
        /// Value without effect.
        null: f64,
    },
    /// No test was possible (see rule 7.1): support is out of reach, refutation is not.
    None,
}

/// A verdict with its grounds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// The effect, turned so that positive is the stated direction.
    pub effect: Interval,
    /// Smallest effect of interest.
    pub min_effect: f64,
    /// Whether the test rejects in the stated direction.
    pub rejects: bool,
    /// One sentence with the grounds.
    pub sentence: String,
}

/// Judges a hypothesis.
///
/// ```text
/// e = effect turned so that > 0 is the stated direction, [lo, hi] its interval
/// supported     test rejects, e > 0, lo >= min_effect (and lo > 0)
/// refuted       hi < min_effect (hi <= 0 when min_effect = 0 is stated)
/// inconclusive  else, and always when the interval is uninformative
/// ```
/// * `effect`: interval of `metric(better) - metric(worse)` in metric units
///
/// # Errors
/// [`OutOfRange`](super::StatError::OutOfRange) for a negative `min_effect`, a p or probability
/// outside [0, 1]; [`NonFinite`](super::StatError::NonFinite).
pub fn judge(
    effect: &Interval,
    direction: Direction,
    min_effect: f64,
    outcome: TestOutcome,
) -> Result<Judgement> {
    all_finite("effect", &[effect.point, effect.lo, effect.hi])?;
    if !(min_effect.is_finite() && min_effect >= 0.0) {
        return out_of_range("min_effect", "a finite number >= 0", min_effect);
    }
    let effect = match direction {
        Direction::Greater => effect.clone(),
        Direction::Less => effect.clone().negated(),
    };
    let rejects = outcome.rejects()? && effect.point > 0.0;
    let informative = !effect.has(IntervalFlag::Uninformative);
    let reaches = effect.lo >= min_effect && effect.lo > 0.0;
    let excluded = effect.hi < min_effect || (min_effect == 0.0 && effect.hi <= 0.0);
    let verdict = if informative && rejects && reaches {
        Verdict::Supported
    } else if informative && excluded {
        Verdict::Refuted
    } else {
        Verdict::Inconclusive
    };
    let interval = format!(
        "effect {} in the stated direction, {}% interval [{}, {}]",
        short(effect.point),
        short(100.0 * effect.level),
        short(effect.lo),
        short(effect.hi)
    );
    let aim = format!("smallest effect of interest {}", short(min_effect));
    let test = outcome.describe();
    let reason = match verdict {
        Verdict::Supported => "the test rejects and the whole interval reaches it",
        Verdict::Refuted if effect.hi < 0.0 => "the whole interval lies on the opposite side",
        Verdict::Refuted => "the whole interval lies below it",
        Verdict::Inconclusive if !informative => "one run gives no interval",
        Verdict::Inconclusive if reaches => "the interval reaches it, but the test does not reject",
        Verdict::Inconclusive if rejects => {
            "the test rejects, but the interval holds effects too small to matter"
        }
        Verdict::Inconclusive => "the interval holds both relevant and irrelevant effects",
    };
    let sentence = format!("{verdict}: {interval}; {aim}; {test}; {reason}.");
    Ok(Judgement { verdict, effect, min_effect, rejects, sentence })
}

impl TestOutcome {
    fn rejects(self) -> Result<bool> {
        let unit = |arg, v: f64| {
            if (0.0..=1.0).contains(&v) { Ok(()) } else { out_of_range(arg, "in [0, 1]", v) }
        };
        match self {
            Self::P { adjusted, alpha, agrees } => {
                unit("adjusted", adjusted)?;
                open_unit("alpha", alpha)?;
                Ok(agrees && adjusted <= alpha)
            }
            Self::Posterior { probability, threshold } => {
                unit("probability", probability)?;
                open_unit("threshold", threshold)?;
                Ok(probability >= threshold)
            }
            Self::Bound { lo, null } => {
                all_finite("bound", &[lo, null])?;
                Ok(lo > null)
            }
            Self::None => Ok(false),
        }
    }

    fn describe(self) -> String {
        match self {
            Self::P { adjusted, alpha, agrees } => {
                let side = if agrees { "" } else { ", on the opposite side" };
                let p = if adjusted < 1e-4 {
                    "< 0.0001".to_owned()
                } else {
                    format!("= {adjusted:.4}")
                };
                format!("adjusted p {p} at alpha = {alpha}{side}")
            }
            Self::Posterior { probability, threshold } => {
                format!("posterior probability {probability:.3} of {threshold} needed")
            }
            Self::Bound { lo, null } => {
                format!("lower end {} against {} without effect", short(lo), short(null))
            }
            Self::None => "no test possible".into(),
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Supported => "supported",
            Self::Refuted => "refuted",
            Self::Inconclusive => "inconclusive",
        })
    }
}

/// Whether a verdict hangs on a choice of analysis: the labels of the variants whose verdict
/// differs from the first, which is the declared one.
pub fn flips<'a>(variants: &[(&'a str, Verdict)]) -> Vec<&'a str> {
    let Some(&(_, declared)) = variants.first() else { return Vec::new() };
    variants.iter().filter(|(_, v)| *v != declared).map(|&(label, _)| label).collect()
}

/// Four significant digits, without trailing zeros.
pub(crate) fn short(value: f64) -> String {
    format!("{}", super::number::round_significant(value, 4))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{IntervalMethod, interval_of};

    fn effect(lo: f64, hi: f64) -> Interval {
        let reps: Vec<f64> = (0..=1000).map(|i| lo + (hi - lo) * f64::from(i) / 1000.0).collect();
        let point = f64::midpoint(lo, hi);
        let mut i = interval_of(point, &reps, None, 0.95, IntervalMethod::Percentile).unwrap();
        (i.lo, i.hi) = (lo, hi);
        i
    }

    fn verdict(lo: f64, hi: f64, p: f64) -> Verdict {
        let outcome = TestOutcome::P { adjusted: p, alpha: 0.05, agrees: true };
        judge(&effect(lo, hi), Direction::Greater, 0.5, outcome).unwrap().verdict
    }

    #[test]
    fn the_three_verdicts() {
        assert_eq!(verdict(0.6, 1.0, 0.01), Verdict::Supported);
        assert_eq!(verdict(0.6, 1.0, 0.20), Verdict::Inconclusive);
        assert_eq!(verdict(0.1, 1.0, 0.01), Verdict::Inconclusive);
        assert_eq!(verdict(-0.2, 0.4, 0.50), Verdict::Refuted);
        assert_eq!(verdict(-2.0, -1.0, 0.001), Verdict::Refuted);
        assert_eq!(verdict(-0.2, 0.7, 0.90), Verdict::Inconclusive);
    }

    #[test]
    fn lower_is_better_turns_the_effect() {
        let outcome = TestOutcome::P { adjusted: 0.01, alpha: 0.05, agrees: true };
        let j = judge(&effect(-1.0, -0.6), Direction::Less, 0.5, outcome).unwrap();
        assert_eq!((j.verdict, j.effect.lo, j.effect.hi), (Verdict::Supported, 0.6, 1.0));
        assert!(j.sentence.starts_with("supported"), "{}", j.sentence);
    }

    #[test]
    fn one_run_decides_nothing() {
        let mut e = effect(0.6, 0.6);
        e.flags.push(IntervalFlag::Uninformative);
        let outcome = TestOutcome::Posterior { probability: 1.0, threshold: 0.95 };
        let j = judge(&e, Direction::Greater, 0.5, outcome).unwrap();
        assert_eq!(j.verdict, Verdict::Inconclusive);
    }

    #[test]
    fn a_rejection_on_the_other_side_supports_nothing() {
        let against = TestOutcome::P { adjusted: 0.001, alpha: 0.05, agrees: false };
        let j = judge(&effect(0.6, 1.0), Direction::Greater, 0.5, against).unwrap();
        assert_eq!((j.verdict, j.rejects), (Verdict::Inconclusive, false));
        assert!(j.sentence.contains("opposite side"), "{}", j.sentence);
        let bound = |lo| TestOutcome::Bound { lo, null: 0.5 };
        let at = |lo| judge(&effect(0.6, 1.0), Direction::Greater, 0.5, bound(lo)).unwrap().verdict;
        assert_eq!((at(0.51), at(0.5)), (Verdict::Supported, Verdict::Inconclusive));
    }

    #[test]
    fn zero_effect_of_interest() {
        let none = TestOutcome::None;
        let at = |lo, hi| judge(&effect(lo, hi), Direction::Greater, 0.0, none).unwrap().verdict;
        assert_eq!(at(-1.0, 0.0), Verdict::Refuted);
        assert_eq!(at(0.1, 1.0), Verdict::Inconclusive); // no test, no support
        assert!(judge(&effect(0.0, 1.0), Direction::Greater, -1.0, none).is_err());
    }

    #[test]
    fn flips_name_the_variants() {
        let v = [
            ("iqm", Verdict::Supported),
            ("mean", Verdict::Supported),
            ("median", Verdict::Inconclusive),
        ];
        assert_eq!(flips(&v), ["median"]);
    }
}
