//! Which test, decided by the design and before any result (7.1).
//!
//! Sources: Demšar 2006; Benavoli et al. 2017; Agarwal et al. 2021. The unit of analysis of a claim
//! over tasks is the task: repetitions are aggregated per task first. Taking runs for tasks
//! multiplies n and shrinks p without evidence, and is refused.

use serde::{Deserialize, Serialize};

use super::error::{Result, degenerate, need, open_unit};
use super::wilcoxon::smallest_attainable_p;

/// Tasks from which on rank tests across tasks are the default.
pub const TASKS_FOR_RANK_TESTS: usize = 6;

/// The shape of a comparison, known before any result.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Design {
    /// Methods compared.
    pub n_methods: usize,
    /// Tasks.
    pub n_tasks: usize,
    /// Smallest number of repetitions per task.
    pub min_runs: usize,
    /// All methods share their seeds (common random numbers).
    pub paired_runs: bool,
    /// One method is the control that the others are compared with.
    pub control: bool,
    /// Smallest effect of interest, when stated.
    pub min_effect: Option<f64>,
    /// Level of the tests.
    pub alpha: f64,
}

/// What counts as one observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// A task, its repetitions aggregated.
    Task,
    /// A repetition on one task.
    Run,
}

/// The primary analysis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Analysis {
    /// Wilcoxon signed-rank over per-task values of two methods.
    WilcoxonOverTasks,
    /// Friedman; if it rejects, all pairs by Wilcoxon with Holm; else stop: one group.
    FriedmanThenPairs,
    /// Friedman; if it rejects, each method against the control with Holm.
    FriedmanThenControl,
    /// Wilcoxon on the differences of paired seeds of one task.
    WilcoxonPairedSeeds,
    /// Mann-Whitney within each task, Holm across tasks (and pairs).
    MannWhitneyWithinTasks,
    /// Intervals and effect sizes alone: too little for any test.
    IntervalsOnly,
}

/// The plan of an analysis.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    /// The primary analysis.
    pub analysis: Analysis,
    /// What counts as one observation in it.
    pub unit: Unit,
    /// The smallest two-sided p that it can reach, where that is known from the design.
    pub smallest_p: Option<f64>,
    /// Report the Bayesian signed-rank test too (two methods, `min_effect` stated).
    pub bayes: bool,
    /// Report the probability of improvement.
    pub improvement: bool,
    /// Sentences that the report must print.
    pub notes: Vec<String>,
}

/// The default analysis of a design (7.1). Bootstrap intervals and effect sizes always go with it.
///
/// # Errors
/// [`TooFew`](super::StatError::TooFew) for fewer than two methods, or no task or run.
///
/// ```
/// use experiments::stats::{Analysis, Design, choose};
/// let design = Design {
///     n_methods: 2, n_tasks: 8, min_runs: 5, paired_runs: true, control: false,
///     min_effect: None, alpha: 0.05,
/// };
/// assert_eq!(choose(&design).unwrap().analysis, Analysis::WilcoxonOverTasks);
/// ```
pub fn choose(design: &Design) -> Result<Choice> {
    need("n_methods", 2, design.n_methods)?;
    need("n_tasks", 1, design.n_tasks)?;
    need("min_runs", 1, design.min_runs)?;
    open_unit("alpha", design.alpha)?;
    let two = design.n_methods == 2;
    let many_tasks = design.n_tasks >= TASKS_FOR_RANK_TESTS;
    let mut notes = Vec::new();
    let (analysis, unit, smallest_p);
    if many_tasks {
        unit = Unit::Task;
        notes.push(format!(
            "The unit of analysis is the task (n = {}); repetitions are aggregated per task.",
            design.n_tasks
        ));
        smallest_p = two.then(|| smallest_attainable_p(design.n_tasks));
        analysis = match (two, design.control) {
            (true, _) => Analysis::WilcoxonOverTasks,
            (false, false) => Analysis::FriedmanThenPairs,
            (false, true) => Analysis::FriedmanThenControl,
        };
    } else {
        unit = Unit::Run;
        notes.push(few_tasks(design.n_tasks, design.alpha));
        let (single, runs) = (design.n_tasks == 1, design.min_runs);
        if runs < 2 {
            analysis = Analysis::IntervalsOnly;
            smallest_p = None;
            notes.push("One repetition per cell: no test and no interval is possible.".into());
        } else if single && two && design.paired_runs {
            analysis = Analysis::WilcoxonPairedSeeds;
            smallest_p = Some(smallest_attainable_p(runs));
            notes.push("Pairs are repetitions with common seeds on one task.".into());
        } else {
            analysis = Analysis::MannWhitneyWithinTasks;
            smallest_p = Some(smallest_mann_whitney(runs));
        }
    }
    if let Some(sentence) = smallest_p.and_then(|p| unattainable(p, design.alpha)) {
        notes.push(sentence);
    }
    if design.min_runs < 5 {
        notes.push(format!(
            "{} repetition(s) per cell: bootstrap intervals over fewer than five runs are too \
             short; more seeds help, more resamples do not.",
            design.min_runs
        ));
    }
    Ok(Choice {
        analysis,
        unit,
        smallest_p,
        bayes: two && many_tasks && design.min_effect.is_some(),
        improvement: !many_tasks,
        notes,
    })
}

/// A test declared in the experiment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeclaredTest {
    /// Wilcoxon signed-rank of two methods.
    Wilcoxon,
    /// Friedman and Nemenyi.
    FriedmanNemenyi,
    /// All pairs by Wilcoxon with Holm.
    WilcoxonHolm,
    /// Bayesian signed-rank.
    BayesSignedRank,
    /// Mann-Whitney within tasks.
    MannWhitney,
    /// Probability of improvement.
    Poi,
}

/// Whether a declared test fits the design with this unit of analysis; returns the sentences that
/// must be printed beside it.
///
/// # Errors
/// [`Degenerate`](super::StatError::Degenerate) for an unsound combination: runs of several tasks
/// taken for independent observations, or pairs that share no seed.
pub fn check_declared(test: DeclaredTest, unit: Unit, design: &Design) -> Result<Vec<String>> {
    need("n_methods", 2, design.n_methods)?;
    open_unit("alpha", design.alpha)?;
    let paired = matches!(
        test,
        DeclaredTest::Wilcoxon
            | DeclaredTest::WilcoxonHolm
            | DeclaredTest::FriedmanNemenyi
            | DeclaredTest::BayesSignedRank
    );
    if paired && unit == Unit::Run && design.n_tasks > 1 {
        return degenerate(
            "unit",
            format!(
                "runs of {} tasks are not independent observations (pseudo-replication); aggregate \
                 repetitions per task and test across tasks",
                design.n_tasks
            ),
        );
    }
    if paired && unit == Unit::Run && !design.paired_runs {
        return degenerate("unit", "a paired test on runs needs seeds that the methods share");
    }
    let n = if unit == Unit::Task { design.n_tasks } else { design.min_runs };
    let mut notes = Vec::new();
    let smallest = match test {
        DeclaredTest::Wilcoxon => Some(smallest_attainable_p(n)),
        // Holm multiplies the smallest p by the number of pairs.
        DeclaredTest::WilcoxonHolm => {
            let pairs = design.n_methods * (design.n_methods - 1) / 2;
            Some((smallest_attainable_p(n) * pairs as f64).min(1.0))
        }
        DeclaredTest::MannWhitney => Some(smallest_mann_whitney(design.min_runs)),
        _ => None,
    };
    notes.extend(smallest.and_then(|p| unattainable(p, design.alpha)));
    if paired && unit == Unit::Task && n < TASKS_FOR_RANK_TESTS {
        notes.push(few_tasks(n, design.alpha));
    }
    Ok(notes)
}

/// Sentence when `smallest_p` exceeds `alpha`.
fn unattainable(smallest_p: f64, alpha: f64) -> Option<String> {
    (smallest_p > alpha).then(|| {
        format!(
            "The smallest p that this test can give here is {smallest_p:.4}, so alpha = {alpha} \
             cannot be reached whatever the data."
        )
    })
}

fn few_tasks(n: usize, alpha: f64) -> String {
    if n == 1 {
        return "One task: the claim is about this task only.".to_owned();
    }
    let p = smallest_attainable_p(n);
    let reach = if p > alpha { "cannot" } else { "can barely" };
    format!(
        "{n} task(s) are too few for a rank test across tasks: the smallest two-sided exact \
         Wilcoxon p is {p:.4}, so alpha = {alpha} {reach} be reached. The claim is about these \
         tasks only."
    )
}

/// `2 / C(2r, r)`: the smallest two-sided exact p of two samples of `r` values.
fn smallest_mann_whitney(r: usize) -> f64 {
    let ways = (1..=r.min(500)).fold(1.0, |acc, i| acc * (r + i) as f64 / i as f64);
    (2.0 / ways).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn design(n_methods: usize, n_tasks: usize, min_runs: usize) -> Design {
        Design {
            n_methods,
            n_tasks,
            min_runs,
            paired_runs: true,
            control: false,
            min_effect: Some(0.1),
            alpha: 0.05,
        }
    }

    #[test]
    fn rule_7_1() {
        let pick = |d: Design| choose(&d).unwrap().analysis;
        assert_eq!(pick(design(2, 6, 5)), Analysis::WilcoxonOverTasks);
        assert_eq!(pick(design(4, 10, 5)), Analysis::FriedmanThenPairs);
        let control = Design { control: true, ..design(4, 10, 5) };
        assert_eq!(pick(control), Analysis::FriedmanThenControl);
        assert_eq!(pick(design(2, 1, 10)), Analysis::WilcoxonPairedSeeds);
        let unpaired = Design { paired_runs: false, ..design(2, 1, 10) };
        assert_eq!(pick(unpaired), Analysis::MannWhitneyWithinTasks);
        assert_eq!(pick(design(2, 3, 10)), Analysis::MannWhitneyWithinTasks);
        assert_eq!(pick(design(2, 3, 1)), Analysis::IntervalsOnly);
        assert!(choose(&design(2, 6, 5)).unwrap().bayes);
        assert!(choose(&design(1, 6, 5)).is_err());
    }

    #[test]
    fn five_pairs_cannot_reach_alpha() {
        let c = choose(&design(2, 1, 5)).unwrap();
        assert_eq!(c.smallest_p, Some(0.0625));
        assert!(c.notes.iter().any(|n| n.contains("0.0625") && n.contains("cannot be reached")));
        let enough = choose(&design(2, 1, 6)).unwrap();
        assert!(!enough.notes.iter().any(|n| n.contains("whatever the data")));
    }

    #[test]
    fn pseudo_replication_is_refused() {
        let d = design(2, 4, 10);
        assert!(check_declared(DeclaredTest::Wilcoxon, Unit::Run, &d).is_err());
        let notes = check_declared(DeclaredTest::Wilcoxon, Unit::Task, &d).unwrap();
        assert!(notes.iter().any(|n| n.contains("cannot be reached")), "{notes:?}");
        assert!(check_declared(DeclaredTest::MannWhitney, Unit::Run, &d).unwrap().is_empty());
        let unpaired = Design { paired_runs: false, ..design(2, 1, 10) };
        assert!(check_declared(DeclaredTest::Wilcoxon, Unit::Run, &unpaired).is_err());
    }

    #[test]
    fn holm_counts_against_attainability() {
        let notes = check_declared(DeclaredTest::WilcoxonHolm, Unit::Task, &design(5, 8, 5));
        assert_eq!(notes.unwrap().len(), 1); // 10 pairs x 2^-7 > .05
    }
}
