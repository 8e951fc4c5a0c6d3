//! Stratified bootstrap of statistics over runs and tasks (7.9).
//!
//! Source: Agarwal et al., `NeurIPS` 2021 (stratification by task); Efron & Tibshirani 1993 (BCa).
//!
//! # Random numbers
//! Replicate `b` draws from `ChaCha8` seeded by `seed_from_u64(seed)` on stream `b`, so results do
//! not depend on the number of threads. A run index below `n` is drawn from 32-bit words by
//! Lemire's multiply-and-reject, tasks in order, runs in order.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::aggregate::Aggregate;
use super::error::{Result, degenerate, need, open_unit, out_of_range};
use super::interval::{Interval, IntervalFlag, IntervalMethod, Jackknife, Sizes, from_replicates};
use super::scores::{Draw, Indices, Scores};
use super::tally::Prepared;

/// A number computed from scores; closures `Fn(&Scores) -> f64` and [`Aggregate`] are statistics.
pub trait Statistic: Sync {
    /// The value on `scores`. `scratch` is a buffer that keeps its capacity between calls.
    fn eval(&self, scores: &Scores, scratch: &mut Vec<f64>) -> f64;

    /// Whether this is [`Aggregate::Iqm`], which replicates can count instead of select.
    fn is_iqm(&self) -> bool {
        false
    }
}

impl<F: Fn(&Scores) -> f64 + Sync> Statistic for F {
    fn eval(&self, scores: &Scores, _: &mut Vec<f64>) -> f64 {
        self(scores)
    }
}

impl Statistic for Aggregate {
    fn eval(&self, scores: &Scores, scratch: &mut Vec<f64>) -> f64 {
        self.of_with(scores, scratch)
    }

    fn is_iqm(&self) -> bool {
        *self == Self::Iqm
    }
}

/// Options of a bootstrap interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BootstrapOptions {
    /// Number of replicates, 1,000 to 10,000,000.
    pub resamples: usize,
    /// Seed of the resampling.
    pub seed: u64,
    /// Confidence level.
    pub level: f64,
    /// Kind of interval.
    pub method: IntervalMethod,
    /// Resample the tasks too. Off: the interval speaks about these tasks; on: about other tasks
    /// of the same kind.
    pub resample_tasks: bool,
}

impl Default for BootstrapOptions {
    fn default() -> Self {
        Self {
            resamples: 10_000,
            seed: 0,
            level: 0.95,
            method: IntervalMethod::Percentile,
            resample_tasks: false,
        }
    }
}

impl BootstrapOptions {
    /// # Errors
    /// [`OutOfRange`](super::StatError::OutOfRange).
    pub(crate) fn validate(&self) -> Result<()> {
        open_unit("level", self.level)?;
        if (1_000..=10_000_000).contains(&self.resamples) {
            Ok(())
        } else {
            out_of_range("resamples", "1000 to 10000000", self.resamples)
        }
    }
}

/// Where the resampled indices come from.
#[derive(Clone, Copy, Debug)]
pub enum Resampling<'a> {
    /// Drawn from a seed.
    Seeded(&'a BootstrapOptions),
    /// Given, to compare with other software draw by draw.
    Given(&'a Indices),
}

impl Resampling<'_> {
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Seeded(options) => options.resamples,
            Self::Given(indices) => indices.len(),
        }
    }

    pub(crate) fn seed(&self) -> Option<u64> {
        match self {
            Self::Seeded(options) => Some(options.seed),
            Self::Given(_) => None,
        }
    }

    pub(crate) fn tasks_too(&self) -> bool {
        matches!(self, Self::Seeded(options) if options.resample_tasks)
    }

    /// Checks the source against the scores. `group` keeps samples that are resampled
    /// independently on streams of their own.
    pub(crate) fn drawer<'s>(&'s self, scores: &'s Scores, group: u8) -> Result<Drawer<'s>> {
        match self {
            Self::Seeded(options) => options.validate()?,
            Self::Given(indices) => indices.fits(scores)?,
        }
        if scores.n_values() > u32::MAX as usize {
            return out_of_range("scores", "at most 2^32 values", scores.n_values());
        }
        Ok(match *self {
            Self::Seeded(options) => Drawer::Seeded {
                base: Box::new(ChaCha8Rng::seed_from_u64(options.seed)),
                group,
                scores,
                tasks_too: options.resample_tasks,
            },
            Self::Given(indices) => Drawer::Given(indices),
        })
    }
}

/// Produces the draw of replicate `b`.
pub(crate) enum Drawer<'a> {
    Seeded { base: Box<ChaCha8Rng>, group: u8, scores: &'a Scores, tasks_too: bool },
    Given(&'a Indices),
}

impl Drawer<'_> {
    pub(crate) fn draw(&self, b: usize, draw: &mut Draw) {
        match self {
            Self::Given(indices) => indices.replicate(b, draw),
            Self::Seeded { base, group, scores, tasks_too } => {
                let mut rng = (**base).clone();
                rng.set_stream(b as u64 | u64::from(*group) << 56);
                draw.tasks.clear();
                draw.runs.clear();
                let n_tasks = scores.n_tasks();
                for t in 0..n_tasks {
                    let task =
                        if *tasks_too { below(&mut rng, n_tasks as u32) as usize } else { t };
                    let runs = scores.task(task).len();
                    draw.tasks.push(task);
                    draw.runs.extend((0..runs).map(|_| below(&mut rng, runs as u32)));
                }
            }
        }
    }
}

/// A uniform integer in `0..n` (Lemire 2019), `n >= 1`. Ours, so that a new release of the random
/// number crate cannot move a published interval.
pub(crate) fn below(rng: &mut impl Rng, n: u32) -> u32 {
    loop {
        let wide = u64::from(rng.next_u32()) * u64::from(n);
        let low = wide as u32;
        if low >= n || low >= n.wrapping_neg() % n {
            return (wide >> 32) as u32;
        }
    }
}

/// A uniform number in (0, 1), never 0.
pub(crate) fn open_uniform(rng: &mut impl Rng) -> f64 {
    ((rng.next_u64() >> 12) as f64 + 0.5) / (1u64 << 52) as f64
}

/// The statistic on every replicate, in replicate order.
///
/// # Errors
/// [`LengthMismatch`](super::StatError::LengthMismatch) when given indices do not fit;
/// [`Degenerate`](super::StatError::Degenerate) when the statistic is NaN on a replicate.
pub fn replicates(
    scores: &Scores,
    statistic: &impl Statistic,
    resampling: &Resampling<'_>,
) -> Result<Vec<f64>> {
    let drawer = resampling.drawer(scores, 0)?;
    let prepared = Prepared::new(scores, statistic);
    collect(resampling.count(), |b, work| {
        drawer.draw(b, &mut work.draw);
        prepared.of_draw(work)
    })
}

/// Intervals of several statistics, each the same as [`bootstrap`] alone gives. Neighbours whose
/// scores have the same shape share their draws, which are most of the work.
///
/// # Errors
/// As [`bootstrap`].
pub fn bootstrap_each<S: Statistic>(
    parts: &[(&Scores, S)],
    options: &BootstrapOptions,
) -> Result<Vec<Interval>> {
    let mut all = Vec::with_capacity(parts.len());
    let resampling = Resampling::Seeded(options);
    for group in parts.chunk_by(|(a, _), (b, _)| a.same_shape(b).is_ok()) {
        let drawer = resampling.drawer(group[0].0, 0)?;
        let prepared: Vec<_> =
            group.iter().map(|(s, statistic)| Prepared::new(s, statistic)).collect();
        let mut rows = vec![0.0; options.resamples * group.len()];
        rows.par_chunks_mut(group.len()).enumerate().for_each_init(
            Work::default,
            |work, (b, row)| {
                drawer.draw(b, &mut work.draw);
                for (value, part) in row.iter_mut().zip(&prepared) {
                    *value = part.of_draw(work);
                }
            },
        );
        for (column, (scores, statistic)) in group.iter().enumerate() {
            let values = rows.iter().skip(column).step_by(group.len()).copied().collect();
            all.push(interval_of(
                scores,
                statistic,
                &resampling,
                values,
                options.level,
                options.method,
            )?);
        }
    }
    Ok(all)
}

/// Buffers of one worker thread.
pub(crate) struct Work {
    pub(crate) draw: Draw,
    pub(crate) first: Scores,
    pub(crate) second: Scores,
    pub(crate) scratch: Vec<f64>,
    pub(crate) counts: Vec<u32>,
}

impl Default for Work {
    fn default() -> Self {
        Self {
            draw: Draw::default(),
            first: Scores::buffer(),
            second: Scores::buffer(),
            scratch: Vec::new(),
            counts: Vec::new(),
        }
    }
}

pub(crate) fn collect(
    count: usize,
    replicate: impl Fn(usize, &mut Work) -> f64 + Sync,
) -> Result<Vec<f64>> {
    let values: Vec<f64> =
        (0..count).into_par_iter().map_init(Work::default, |work, b| replicate(b, work)).collect();
    without_nan(&values)?;
    Ok(values)
}

fn without_nan(values: &[f64]) -> Result<()> {
    if values.iter().any(|v| v.is_nan()) {
        return degenerate("statistic", "it is NaN on a bootstrap replicate");
    }
    Ok(())
}

/// Interval of a statistic by resampling, for every task independently, its runs.
///
/// * `scores`: runs by tasks, ragged allowed
///
/// # Errors
/// [`OutOfRange`](super::StatError::OutOfRange) for the options,
/// [`Degenerate`](super::StatError::Degenerate) when the statistic is NaN.
///
/// ```
/// use experiments::stats::{Aggregate, BootstrapOptions, Scores, bootstrap};
/// let s = Scores::from_rows(5, 2, &[1., 4., 2., 5., 3., 6., 2., 5., 1., 4.]).unwrap();
/// let ci = bootstrap(&s, &Aggregate::Iqm, &BootstrapOptions::default()).unwrap();
/// assert!(ci.lo <= ci.point && ci.point <= ci.hi);
/// ```
pub fn bootstrap(
    scores: &Scores,
    statistic: &impl Statistic,
    options: &BootstrapOptions,
) -> Result<Interval> {
    bootstrap_with(scores, statistic, &Resampling::Seeded(options), options.level, options.method)
}

/// [`bootstrap`] with the indices from either source.
///
/// # Errors
/// As [`bootstrap`]; [`LengthMismatch`](super::StatError::LengthMismatch) for indices that do
/// not fit.
pub fn bootstrap_with(
    scores: &Scores,
    statistic: &impl Statistic,
    resampling: &Resampling<'_>,
    level: f64,
    method: IntervalMethod,
) -> Result<Interval> {
    open_unit("level", level)?;
    let values = replicates(scores, statistic, resampling)?;
    interval_of(scores, statistic, resampling, values, level, method)
}

/// The interval from the replicates of one statistic.
fn interval_of(
    scores: &Scores,
    statistic: &impl Statistic,
    resampling: &Resampling<'_>,
    values: Vec<f64>,
    level: f64,
    method: IntervalMethod,
) -> Result<Interval> {
    without_nan(&values)?;
    let point = statistic.eval(scores, &mut Vec::new());
    let leave_out = || jackknife(scores, |left| statistic.eval(&left, &mut Vec::new()));
    let interval =
        from_replicates(point, values, level, method, Some(sizes(scores, resampling)), leave_out)?;
    Ok(label(interval, scores, resampling))
}

/// Interval of `statistic(x) - statistic(y)` for methods that share seeds: the run indices are
/// drawn *jointly*, so what both owe to the seed cancels.
///
/// # Errors
/// As [`bootstrap`]; [`LengthMismatch`](super::StatError::LengthMismatch) when the shapes differ.
pub fn paired_difference(
    x: &Scores,
    y: &Scores,
    statistic: &impl Statistic,
    options: &BootstrapOptions,
) -> Result<Interval> {
    x.same_shape(y)?;
    let resampling = Resampling::Seeded(options);
    let drawer = resampling.drawer(x, 0)?;
    let point = difference(statistic, x, y, &mut Vec::new());
    let (first, second) = (Prepared::new(x, statistic), Prepared::new(y, statistic));
    let values = collect(options.resamples, |b, work| {
        drawer.draw(b, &mut work.draw);
        first.of_draw(work) - second.of_draw(work)
    })?;
    let leave_out = || {
        left_out(x)
            .map(|(run, task)| {
                let (a, b) = (x.without_run(run, task)?, y.without_run(run, task)?);
                Some(difference(statistic, &a, &b, &mut Vec::new()))
            })
            .collect()
    };
    let sizes = Some(sizes(x, &resampling));
    let interval = from_replicates(point, values, options.level, options.method, sizes, leave_out)?;
    Ok(label(interval, x, &resampling))
}

/// Interval of `statistic(x) - statistic(y)` for independent samples (run counts may differ):
/// each is resampled by itself. BCa is not defined here for unequal counts and falls back.
///
/// # Errors
/// As [`bootstrap`]; [`LengthMismatch`](super::StatError::LengthMismatch) when the task counts
/// differ.
pub fn independent_difference(
    x: &Scores,
    y: &Scores,
    statistic: &impl Statistic,
    options: &BootstrapOptions,
) -> Result<Interval> {
    super::error::same_len("tasks of the second method", x.n_tasks(), y.n_tasks())?;
    two_sample(
        x,
        y,
        &Resampling::Seeded(options),
        &Resampling::Seeded(options),
        options,
        |a, b, s| difference(statistic, a, b, s),
    )
}

/// Interval of any function of two samples that are resampled independently.
pub(crate) fn two_sample(
    x: &Scores,
    y: &Scores,
    draws_x: &Resampling<'_>,
    draws_y: &Resampling<'_>,
    options: &BootstrapOptions,
    statistic: impl Fn(&Scores, &Scores, &mut Vec<f64>) -> f64 + Sync,
) -> Result<Interval> {
    let (first, second) = two_drawers(x, y, draws_x, draws_y)?;
    let values = collect(draws_x.count(), |b, work| {
        first.draw(b, &mut work.draw);
        work.first.gather(x, &work.draw);
        second.draw(b, &mut work.draw);
        work.second.gather(y, &work.draw);
        statistic(&work.first, &work.second, &mut work.scratch)
    })?;
    let point = statistic(x, y, &mut Vec::new());
    two_sample_interval(x, y, draws_x, options, point, values)
}

/// The interval from replicates of two samples.
pub(crate) fn two_sample_interval(
    x: &Scores,
    y: &Scores,
    draws_x: &Resampling<'_>,
    options: &BootstrapOptions,
    point: f64,
    values: Vec<f64>,
) -> Result<Interval> {
    let fewer = if x.min_runs() <= y.min_runs() { x } else { y };
    let sizes = Some(sizes(fewer, draws_x));
    let interval = from_replicates(point, values, options.level, options.method, sizes, || None)?;
    Ok(label(interval, fewer, draws_x))
}

/// Sources of draws for two samples that are resampled by themselves.
pub(crate) fn two_drawers<'s>(
    x: &'s Scores,
    y: &'s Scores,
    draws_x: &'s Resampling<'_>,
    draws_y: &'s Resampling<'_>,
) -> Result<(Drawer<'s>, Drawer<'s>)> {
    if draws_x.tasks_too() || draws_y.tasks_too() {
        return degenerate(
            "resample_tasks",
            "two independent samples share their tasks; resampling tasks would unpair them",
        );
    }
    super::error::same_len("replicates of the second sample", draws_x.count(), draws_y.count())?;
    Ok((draws_x.drawer(x, 0)?, draws_y.drawer(y, 1)?))
}

/// Lists of replicates of a vector-valued statistic, one row per replicate.
pub(crate) fn vector_replicates<T: Send>(
    scores: &Scores,
    resampling: &Resampling<'_>,
    statistic: impl Fn(&Draw) -> T + Sync,
) -> Result<Vec<T>> {
    let drawer = resampling.drawer(scores, 0)?;
    Ok((0..resampling.count())
        .into_par_iter()
        .map_init(Draw::default, |draw, b| {
            drawer.draw(b, draw);
            statistic(draw)
        })
        .collect())
}

fn difference(statistic: &impl Statistic, x: &Scores, y: &Scores, scratch: &mut Vec<f64>) -> f64 {
    statistic.eval(x, scratch) - statistic.eval(y, scratch)
}

/// What to leave out in turn: whole run rows when all tasks share the count, else single runs.
fn left_out(scores: &Scores) -> impl Iterator<Item = (usize, Option<usize>)> + '_ {
    let rows = scores.equal_runs();
    let whole = (0..rows.unwrap_or(0)).map(|r| (r, None));
    let single = scores
        .tasks()
        .enumerate()
        .filter(move |_| rows.is_none())
        .flat_map(|(t, task)| (0..task.len()).map(move |r| (r, Some(t))));
    whole.chain(single)
}

/// Leave-one-out values; `None` when a task would lose its only run.
fn jackknife(scores: &Scores, statistic: impl Fn(Scores) -> f64) -> Jackknife {
    left_out(scores).map(|(r, t)| scores.without_run(r, t).map(&statistic)).collect()
}

/// What is drawn with replacement: runs within tasks, or the tasks themselves.
fn sizes(scores: &Scores, resampling: &Resampling<'_>) -> Sizes {
    if resampling.tasks_too() {
        Sizes { runs: scores.n_tasks(), tasks: 1 }
    } else {
        Sizes { runs: scores.min_runs(), tasks: scores.n_tasks() }
    }
}

/// Writes sizes, seed and the warnings that the data call for.
fn label(mut interval: Interval, scores: &Scores, resampling: &Resampling<'_>) -> Interval {
    interval.n_tasks = scores.n_tasks();
    interval.min_runs = scores.min_runs();
    interval.n_values = scores.n_values();
    interval.seed = resampling.seed();
    let single = scores.n_values() == scores.n_tasks();
    let tasks_vary = resampling.tasks_too() && scores.n_tasks() > 1;
    if single && !tasks_vary {
        interval.flags.push(IntervalFlag::Uninformative);
    } else if interval.min_runs < 5 {
        interval.flags.push(IntervalFlag::FewRuns);
    }
    interval
}

/// Draws `size` values with replacement; the inner step of planning (7.16).
pub(crate) fn resample_into(rng: &mut impl Rng, from: &[f64], size: usize, into: &mut Vec<f64>) {
    into.clear();
    into.extend((0..size).map(|_| from[below(rng, from.len() as u32) as usize]));
}

/// Generator of replicate `b`, for procedures outside this module.
pub(crate) fn stream(seed: u64, b: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(b);
    rng
}

/// A quick mean of at least one value with its interval.
///
/// # Errors
/// As [`bootstrap`].
pub fn mean_interval(values: &[f64], options: &BootstrapOptions) -> Result<Interval> {
    need("values", 1, values.len())?;
    bootstrap(&Scores::from_runs(values)?, &Aggregate::Mean, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> BootstrapOptions {
        BootstrapOptions { resamples: 2_000, seed: 3, ..Default::default() }
    }

    #[test]
    fn bounded_draws_are_uniform() {
        let mut rng = stream(1, 0);
        let mut counts = [0u32; 3];
        for _ in 0..30_000 {
            counts[below(&mut rng, 3) as usize] += 1;
        }
        assert!(counts.iter().all(|c| (9_700..10_300).contains(c)), "{counts:?}");
    }

    #[test]
    fn one_run_is_uninformative_and_few_are_flagged() {
        let one = mean_interval(&[0.4], &options()).unwrap();
        assert_eq!((one.lo, one.hi), (0.4, 0.4));
        assert!(one.has(IntervalFlag::Uninformative));
        let few = mean_interval(&[0.4, 0.5, 0.6], &options()).unwrap();
        assert!(few.has(IntervalFlag::FewRuns) && !few.has(IntervalFlag::Uninformative));
        let bca = BootstrapOptions { method: IntervalMethod::Bca, ..options() };
        let ragged = Scores::from_tasks(&[vec![0.4], vec![0.1, 0.5]]).unwrap();
        let fallback = bootstrap(&ragged, &Aggregate::Mean, &bca).unwrap();
        assert!(fallback.has(IntervalFlag::FallbackPercentile));
    }

    #[test]
    fn pairing_removes_what_the_seed_explains() {
        let x = [1.0, 5.0, 9.0, 2.0, 7.0, 4.0];
        let y: Vec<f64> = x.iter().map(|v| v - 0.5).collect();
        let (x, y) = (Scores::from_runs(&x).unwrap(), Scores::from_runs(&y).unwrap());
        let paired = paired_difference(&x, &y, &Aggregate::Mean, &options()).unwrap();
        let apart = independent_difference(&x, &y, &Aggregate::Mean, &options()).unwrap();
        assert!((paired.hi - paired.lo).abs() < 1e-12);
        assert!(apart.hi - apart.lo > 2.0);
    }

    #[test]
    fn resampling_tasks_widens() {
        let s = Scores::from_rows(5, 3, &(0..15).map(|i| f64::from(i % 3)).collect::<Vec<_>>());
        let s = s.unwrap();
        let fixed = bootstrap(&s, &Aggregate::Mean, &options()).unwrap();
        assert_eq!((fixed.lo, fixed.hi), (1.0, 1.0));
        assert!(fixed.has(IntervalFlag::ZeroVariance));
        let other = BootstrapOptions { resample_tasks: true, ..options() };
        let wide = bootstrap(&s, &Aggregate::Mean, &other).unwrap();
        assert!(wide.lo < 0.5 && wide.hi > 1.5);
    }

    #[test]
    fn options_are_checked() {
        let few = BootstrapOptions { resamples: 999, ..Default::default() };
        assert!(mean_interval(&[1.0, 2.0], &few).is_err());
        let level = BootstrapOptions { level: 1.0, ..options() };
        assert!(mean_interval(&[1.0, 2.0], &level).is_err());
        let s = Scores::from_runs(&[1.0, 2.0]).unwrap();
        assert!(bootstrap(&s, &|_: &Scores| f64::NAN, &options()).is_err());
    }
}
