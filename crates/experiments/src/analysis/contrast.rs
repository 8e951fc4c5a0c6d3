//! Two methods on the tasks that both have: their paired values, the test that rule 7.1 allows,
//! effect and probability of improvement.
//!
//! Everything is oriented: larger means that `first` is better, whatever the direction of the
//! metric.

use super::{
    AnalysisError,
    comparison::{task_matrix, wilcoxon_options},
    results::Table,
    summary::{self, Scale, aggregate, bootstrap_options},
};
use crate::{
    spec::{Resolved, Test},
    stats::{
        self, Analysis, BayesOptions, BayesSignedRank, BootstrapOptions, Correction, DeclaredTest,
        Design, FriedmanOptions, Interval, PMethod, Scores, TASKS_FOR_RANK_TESTS, Unit,
    },
};

/// Two methods of a table.
pub(crate) struct Contrast<'a> {
    table: &'a Table,
    spec: &'a Resolved,
    first: usize,
    second: usize,
    /// Tasks on which the two share a repetition.
    pub(crate) tasks: Vec<usize>,
    /// Smallest number of shared repetitions of a task.
    pub(crate) pairs: usize,
    /// Repetitions of either method on these tasks that the other does not have.
    pub(crate) unpaired: usize,
}

/// What a rank test of a contrast says.
#[derive(Clone, Debug)]
pub(crate) struct Tested {
    /// Two-sided p by task (or one for all), adjusted over the tasks, and whether `first` is ahead.
    strata: Vec<(f64, bool)>,
    /// Pairs, or runs of the smaller sample, behind each p.
    pub(crate) n: usize,
    /// Smallest two-sided p that these data could have given.
    pub(crate) smallest_p: f64,
    /// The test with its unit.
    pub(crate) words: &'static str,
}

impl Tested {
    fn single(p: f64, ahead: bool, n: usize, smallest_p: f64, words: &'static str) -> Self {
        Self { strata: vec![(p, ahead)], n, smallest_p, words }
    }

    /// Smallest adjusted p, on whichever side.
    pub(crate) fn two_sided(&self) -> f64 {
        self.strata.iter().map(|(p, _)| *p).fold(1.0, f64::min)
    }

    /// p for the side on which `first` is better (`ahead`) or worse, and whether the data lie
    /// there. A task on the other side does not count for a claim about this one.
    pub(crate) fn toward(&self, ahead: bool) -> (f64, bool) {
        let on_side = self.strata.iter().filter(|s| s.1 == ahead).map(|(p, _)| *p);
        on_side.min_by(f64::total_cmp).map_or((self.two_sided(), false), |p| (p, true))
    }
}

impl<'a> Contrast<'a> {
    /// Of the given tasks those on which the two share a repetition; `None` without any.
    pub(crate) fn new(
        table: &'a Table,
        spec: &'a Resolved,
        (first, second): (usize, usize),
        tasks: impl IntoIterator<Item = usize>,
    ) -> Option<Self> {
        let (mut pairs, mut unpaired) = (usize::MAX, 0);
        let tasks: Vec<usize> = tasks
            .into_iter()
            .filter(|t| {
                let shared = table.paired(first, second, *t).0.len();
                let all = table.cells[first][*t].len() + table.cells[second][*t].len();
                if shared > 0 {
                    pairs = pairs.min(shared);
                }
                unpaired += all - 2 * shared;
                shared > 0
            })
            .collect();
        (!tasks.is_empty()).then_some(Self { table, spec, first, second, tasks, pairs, unpaired })
    }

    /// Whether the unit of analysis is the task (7.1).
    fn over_tasks(&self) -> bool {
        self.tasks.len() >= TASKS_FOR_RANK_TESTS
    }

    /// The shape of the comparison of the two. Repetitions share their seeds by contract.
    pub(crate) fn design(&self, min_effect: Option<f64>, alpha: f64) -> Design {
        Design {
            n_methods: 2,
            n_tasks: self.tasks.len(),
            min_runs: self.pairs,
            paired_runs: true,
            control: false,
            min_effect,
            alpha,
        }
    }

    /// The analysis that a declared test asks for, with the sentences that belong beside it.
    pub(crate) fn declared(
        &self,
        test: DeclaredTest,
        design: &Design,
    ) -> Result<Vec<String>, AnalysisError> {
        let across = test == DeclaredTest::FriedmanNemenyi
            || self.over_tasks()
            || (test == DeclaredTest::BayesSignedRank && self.tasks.len() > 1);
        // Within a task the test sees that task alone.
        let n_tasks = if across { design.n_tasks } else { 1 };
        let unit = if across { Unit::Task } else { Unit::Run };
        Ok(stats::check_declared(test, unit, &Design { n_tasks, ..*design })?)
    }

    /// Runs the rank test of an analysis; `None` where only intervals are possible.
    pub(crate) fn run(&self, analysis: Analysis) -> Result<Option<Tested>, AnalysisError> {
        Ok(match analysis {
            Analysis::WilcoxonOverTasks
            | Analysis::FriedmanThenPairs
            | Analysis::FriedmanThenControl => Some(self.wilcoxon_over_tasks()?),
            Analysis::WilcoxonPairedSeeds => Some(self.wilcoxon_within_tasks()?),
            Analysis::MannWhitneyWithinTasks => Some(self.mann_whitney()?),
            Analysis::IntervalsOnly => None,
        })
    }

    /// Wilcoxon with the unit that the number of tasks allows.
    pub(crate) fn wilcoxon(&self) -> Result<Tested, AnalysisError> {
        if self.over_tasks() { self.wilcoxon_over_tasks() } else { self.wilcoxon_within_tasks() }
    }

    fn wilcoxon_over_tasks(&self) -> Result<Tested, AnalysisError> {
        let (x, y) = (self.per_task(self.first)?, self.per_task(self.second)?);
        let test = stats::wilcoxon_with(&x, &y, &wilcoxon_options(self.spec))?;
        let ahead = test.r_plus > test.r_minus;
        let words = "Wilcoxon signed-rank over per-task values";
        Ok(Tested::single(test.p.two_sided, ahead, test.n, test.smallest_p, words))
    }

    fn wilcoxon_within_tasks(&self) -> Result<Tested, AnalysisError> {
        let options = wilcoxon_options(self.spec);
        let sign = self.sign();
        let words = if self.tasks.len() == 1 {
            "Wilcoxon signed-rank over paired repetitions of the one task"
        } else {
            "Wilcoxon signed-rank over paired repetitions within each task, Holm over the tasks"
        };
        self.within(words, |t| {
            let (a, b) = self.table.paired(self.first, self.second, t);
            let test = stats::wilcoxon_with(&scaled(&a, sign), &scaled(&b, sign), &options)?;
            Ok((test.p.two_sided, test.r_plus > test.r_minus, test.n, test.smallest_p))
        })
    }

    /// Mann-Whitney within each task, Holm over the tasks.
    pub(crate) fn mann_whitney(&self) -> Result<Tested, AnalysisError> {
        let words = if self.tasks.len() == 1 {
            "Mann-Whitney on the one task"
        } else {
            "Mann-Whitney within each task, Holm over the tasks"
        };
        self.within(words, |t| {
            let (x, y) = (self.runs(self.first, t), self.runs(self.second, t));
            let test = stats::mann_whitney(&x, &y, PMethod::Auto)?;
            Ok((test.p.two_sided, test.a12 > 0.5, test.m.min(test.n), test.smallest_p))
        })
    }

    /// One test per task, adjusted by Holm over the tasks.
    fn within(
        &self,
        words: &'static str,
        test: impl Fn(usize) -> Result<(f64, bool, usize, f64), AnalysisError>,
    ) -> Result<Tested, AnalysisError> {
        let tests: Vec<_> =
            self.tasks.iter().map(|t| test(*t)).collect::<Result<_, AnalysisError>>()?;
        let raw: Vec<f64> = tests.iter().map(|t| t.0).collect();
        let adjusted = stats::adjust(&raw, Correction::Holm)?;
        let reachable = tests.iter().map(|t| t.3).fold(1.0, f64::min) * tests.len() as f64;
        Ok(Tested {
            strata: adjusted.into_iter().zip(&tests).map(|(p, t)| (p, t.1)).collect(),
            n: tests.iter().map(|t| t.2).min().unwrap_or(0),
            smallest_p: reachable.min(1.0),
            words,
        })
    }

    /// Friedman over the complete tasks as a gate, then Nemenyi, or Wilcoxon with Holm over all
    /// pairs, or over the pairs with the declared control when it is one of the two. `None` when
    /// fewer than two tasks are complete.
    pub(crate) fn after_friedman(
        &self,
        test: Test,
        alpha: f64,
    ) -> Result<Option<(Tested, String)>, AnalysisError> {
        let tasks = self.table.complete_tasks();
        if tasks.len() < 2 {
            return Ok(None);
        }
        let higher = summary::larger_is_better(self.table, self.spec);
        let matrix = task_matrix(self.table, self.spec, &tasks)?;
        let options = FriedmanOptions {
            higher_is_better: higher,
            round_digits: self.spec.analysis.round_digits,
            ..FriedmanOptions::default()
        };
        let friedman = stats::friedman(&matrix, &options)?;
        let ahead = friedman.mean_ranks[self.first] < friedman.mean_ranks[self.second];
        let n = friedman.n;
        let gate = format!("Friedman over {n} tasks gives p = {:.4}", friedman.p_f);
        if friedman.p_f > alpha {
            let words = "Friedman over per-task values, which does not reject";
            return Ok(Some((Tested::single(1.0, ahead, n, 0.0, words), gate)));
        }
        let tested = if test == Test::FriedmanNemenyi {
            let p = stats::nemenyi_p(&friedman.mean_ranks, n)?[self.first][self.second];
            Tested::single(p, ahead, n, 0.0, "Friedman, then Nemenyi over all pairs")
        } else {
            let control = self.spec.analysis.control.as_deref().and_then(|c| self.table.method(c));
            let options = wilcoxon_options(self.spec);
            let smallest = stats::smallest_attainable_p(n);
            let k = self.table.methods.len();
            let direct = self.wilcoxon_over_tasks()?;
            let ahead = direct.toward(true).1;
            match control.filter(|c| *c == self.first || *c == self.second) {
                Some(control) => {
                    let other = if control == self.first { self.second } else { self.first };
                    let all = stats::wilcoxon_against_control(
                        &matrix,
                        control,
                        &options,
                        Correction::Holm,
                    )?;
                    let words = "Friedman, then Wilcoxon against the control with Holm";
                    let reach = (smallest * (k - 1) as f64).min(1.0);
                    Tested::single(all.adjusted[other], ahead, n, reach, words)
                }
                None => {
                    let all = stats::pairwise_wilcoxon(&matrix, &options, Correction::Holm)?;
                    let p = all.adjusted[self.first][self.second];
                    let words = "Friedman, then Wilcoxon over all pairs with Holm";
                    let reach = (smallest * (k * (k - 1) / 2) as f64).min(1.0);
                    Tested::single(p, ahead, n, reach, words)
                }
            }
        };
        Ok(Some((tested, gate)))
    }

    /// Bayesian signed-rank test; left is `first`. Over tasks, or over the paired repetitions of
    /// one task; never over the pooled runs of several. `None` for fewer than two values.
    pub(crate) fn bayes(&self, rope: f64) -> Result<Option<BayesSignedRank>, AnalysisError> {
        let (x, y) = match self.tasks.as_slice() {
            [one] => {
                let (a, b) = self.table.paired(self.first, self.second, *one);
                (scaled(&a, self.sign()), scaled(&b, self.sign()))
            }
            _ => (self.per_task(self.first)?, self.per_task(self.second)?),
        };
        if x.len() < 2 {
            return Ok(None);
        }
        let seed = self.spec.analysis.ci.seed;
        let options = BayesOptions { rope, seed, ..BayesOptions::default() };
        Ok(Some(stats::bayes_signed_rank(&x, &y, &options)?))
    }

    /// Aggregate of the paired difference, in the chosen units.
    pub(crate) fn effect(&self, scale: Scale) -> Result<Interval, AnalysisError> {
        let (table, spec) = (self.table, self.spec);
        let difference =
            summary::paired_interval(table, spec, self.first, self.second, &self.tasks, scale)?
                .expect("every task of a contrast has a shared repetition");
        let larger = summary::larger_is_better(table, spec);
        Ok(if larger { difference } else { difference.negated() })
    }

    /// Probability that a run of `first` is better than one of `second` on the same task.
    pub(crate) fn improvement(&self) -> Result<Interval, AnalysisError> {
        let of = |m: usize| {
            Scores::from_tasks(&self.tasks.iter().map(|t| self.runs(m, *t)).collect::<Vec<_>>())
        };
        let (x, y) = (of(self.first)?, of(self.second)?);
        // The two are resampled by themselves, which leaves their tasks paired.
        let options = BootstrapOptions { resample_tasks: false, ..bootstrap_options(self.spec) };
        Ok(stats::prob_improvement(&x, &y, &options)?.interval)
    }

    fn sign(&self) -> f64 {
        if self.table.metric.higher_is_better { 1.0 } else { -1.0 }
    }

    fn runs(&self, method: usize, task: usize) -> Vec<f64> {
        scaled(&self.table.runs(method, task), self.sign())
    }

    /// Oriented aggregate of each task.
    fn per_task(&self, method: usize) -> Result<Vec<f64>, AnalysisError> {
        let sign = if summary::larger_is_better(self.table, self.spec) { 1.0 } else { -1.0 };
        let fit = aggregate(self.spec);
        self.tasks.iter().map(|t| Ok(sign * fit.of_runs(&self.table.runs(method, *t))?)).collect()
    }
}

fn scaled(values: &[f64], by: f64) -> Vec<f64> {
    values.iter().map(|v| by * v).collect()
}
