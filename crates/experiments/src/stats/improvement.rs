//! Probability of improvement: the chance that a run of X beats a run of Y on a task (7.11).
//!
//! It is not transitive: do not rank methods by it. Source: Agarwal et al., `NeurIPS` 2021.

use rayon::prelude::*;
use serde::Serialize;

use super::bootstrap::{BootstrapOptions, Resampling, two_drawers, two_sample_interval};
use super::error::{Result, same_len};
use super::interval::Interval;
use super::mann_whitney::{rank_sum_law, superiority};
use super::number::{mean, normal_sf};
use super::ranks::rank_unchecked;
use super::scores::{Draw, Scores};
use super::wilcoxon::{PMethod, PValues};

/// Result of [`prob_improvement`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Improvement {
    /// `P(X > Y) + P(X = Y)/2` of each task.
    pub per_task: Vec<f64>,
    /// Mean over tasks, with its interval by resampling X and Y independently.
    pub interval: Interval,
}

/// Probability that X improves on Y; higher is better (negate both otherwise).
///
/// * `x`: runs by tasks; `y`: the same tasks, run counts may differ
///
/// # Errors
/// [`LengthMismatch`](super::StatError::LengthMismatch) when the task counts differ, and those
/// of [`bootstrap`](super::bootstrap()).
pub fn prob_improvement(x: &Scores, y: &Scores, options: &BootstrapOptions) -> Result<Improvement> {
    let draws = Resampling::Seeded(options);
    prob_improvement_with(x, y, &draws, &draws, options)
}

/// [`prob_improvement`] with the indices from either source; of `options` the level and the
/// method count.
///
/// # Errors
/// As [`prob_improvement`].
pub fn prob_improvement_with(
    x: &Scores,
    y: &Scores,
    draws_x: &Resampling<'_>,
    draws_y: &Resampling<'_>,
    options: &BootstrapOptions,
) -> Result<Improvement> {
    same_len("tasks of y", x.n_tasks(), y.n_tasks())?;
    let per_task: Vec<f64> =
        x.tasks().zip(y.tasks()).map(|(a, b)| superiority(a, &mut b.to_vec())).collect();
    let values = resampled(x, y, draws_x, draws_y)?;
    let point = mean_superiority(x, y, &mut Vec::new());
    let interval = two_sample_interval(x, y, draws_x, options, point, values)?;
    Ok(Improvement { per_task, interval })
}

/// The replicates behind [`prob_improvement_with`], in replicate order.
///
/// # Errors
/// As [`prob_improvement`].
pub fn improvement_replicates(
    x: &Scores,
    y: &Scores,
    draws_x: &Resampling<'_>,
    draws_y: &Resampling<'_>,
) -> Result<Vec<f64>> {
    same_len("tasks of y", x.n_tasks(), y.n_tasks())?;
    resampled(x, y, draws_x, draws_y)
}

/// One task's runs as places in the sorted runs of `y`, so that a replicate needs no sorting.
struct Places {
    /// For each run of `x`: how many runs of `y` are below it, and not above it.
    bounds: Vec<(u32, u32)>,
    /// Place of each run of `y`.
    place: Vec<u32>,
}

impl Places {
    fn new(x: &[f64], y: &[f64]) -> Self {
        let mut order: Vec<u32> = (0..y.len() as u32).collect();
        order.sort_unstable_by(|a, b| y[*a as usize].total_cmp(&y[*b as usize]));
        let sorted: Vec<f64> = order.iter().map(|i| y[*i as usize]).collect();
        let mut place = vec![0; y.len()];
        for (at, i) in order.iter().enumerate() {
            place[*i as usize] = at as u32;
        }
        let bounds = x
            .iter()
            .map(|v| {
                let below = sorted.partition_point(|w| w < v);
                (below as u32, sorted.partition_point(|w| w <= v) as u32)
            })
            .collect();
        Self { bounds, place }
    }

    /// `U / (mn)` of drawn runs, by counting: O(m + n). `below` is a buffer.
    fn superiority(&self, x: &[u32], y: &[u32], below: &mut Vec<u32>) -> f64 {
        below.clear();
        below.resize(self.place.len() + 1, 0);
        for run in y {
            below[self.place[*run as usize] as usize + 1] += 1;
        }
        let mut total = 0;
        for count in below.iter_mut() {
            total += *count;
            *count = total;
        }
        let doubled: u64 = x
            .iter()
            .map(|run| {
                let (lo, hi) = self.bounds[*run as usize];
                u64::from(below[lo as usize]) + u64::from(below[hi as usize])
            })
            .sum();
        doubled as f64 / (2.0 * x.len() as f64 * y.len() as f64)
    }
}

/// The replicates, both methods resampled by themselves.
fn resampled(
    x: &Scores,
    y: &Scores,
    draws_x: &Resampling<'_>,
    draws_y: &Resampling<'_>,
) -> Result<Vec<f64>> {
    let (first, second) = two_drawers(x, y, draws_x, draws_y)?;
    let tasks: Vec<Places> = x.tasks().zip(y.tasks()).map(|(a, b)| Places::new(a, b)).collect();
    let new = || (Draw::default(), Draw::default(), Vec::new(), Vec::new());
    Ok((0..draws_x.count())
        .into_par_iter()
        .map_init(new, |(a, b, below, per_task), replicate| {
            first.draw(replicate, a);
            second.draw(replicate, b);
            let (mut x, mut y) = (a.runs.as_slice(), b.runs.as_slice());
            per_task.clear();
            for task in &tasks {
                let (mine, rest) = x.split_at(task.bounds.len());
                let (theirs, others) = y.split_at(task.place.len());
                per_task.push(task.superiority(mine, theirs, below));
                (x, y) = (rest, others);
            }
            mean(per_task)
        })
        .collect())
}

fn mean_superiority(x: &Scores, y: &Scores, scratch: &mut Vec<f64>) -> f64 {
    let per_task: Vec<f64> = x
        .tasks()
        .zip(y.tasks())
        .map(|(a, b)| {
            scratch.clear();
            scratch.extend_from_slice(b);
            superiority(a, scratch)
        })
        .collect();
    mean(&per_task)
}

/// Test that neither method improves on the other, stratified by task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImprovementTest {
    /// Mean over tasks of `U_t / (m_t n_t)`.
    pub poi: f64,
    /// p-values: `greater` says that X improves on Y.
    pub p: PValues,
    /// `Exact` or `Normal`.
    pub method: PMethod,
}

/// Stratified Mann-Whitney test of the probability of improvement (van Elteren 1960 with equal
/// weights): within each task the runs of X and Y are exchangeable under the null, tasks are
/// independent. The bootstrap interval of [`prob_improvement`] is too short for few runs to serve
/// as a test; this one keeps its level.
///
/// Exact (the laws of the tasks' mid-rank sums convolved) when all tasks have the same run counts
/// and at most 2,000 runs times tasks are involved; else normal with the tie-corrected variance.
/// Runs that share seeds are positively dependent, which makes it conservative.
///
/// # Errors
/// [`LengthMismatch`](super::StatError::LengthMismatch) when the task counts differ.
pub fn improvement_test(x: &Scores, y: &Scores) -> Result<ImprovementTest> {
    same_len("tasks of y", x.n_tasks(), y.n_tasks())?;
    let poi = mean_superiority(x, y, &mut Vec::new());
    let pooled: Vec<Vec<f64>> =
        x.tasks().zip(y.tasks()).map(|(a, b)| rank_unchecked(&[a, b].concat()).ranks).collect();
    let exact = match (x.equal_runs(), y.equal_runs()) {
        (Some(m), Some(n)) if m + n <= 40 && (m + n) * x.n_tasks() <= 2_000 => Some(m),
        _ => None,
    };
    if let Some(m) = exact {
        let observed: f64 = pooled.iter().map(|ranks| ranks[..m].iter().sum::<f64>()).sum();
        let observed = (2.0 * observed) as usize;
        let law = pooled
            .iter()
            .map(|ranks| rank_sum_law(ranks, m))
            .reduce(|a, b| convolve(&a, &b))
            .unwrap_or_default();
        let less: f64 = law[..=observed].iter().sum();
        let greater: f64 = law[observed..].iter().sum();
        return Ok(ImprovementTest {
            poi,
            p: PValues::from_tails(less, greater),
            method: PMethod::Exact,
        });
    }
    let n_tasks = x.n_tasks() as f64;
    let variance: f64 = x
        .tasks()
        .zip(y.tasks())
        .zip(&pooled)
        .map(|((a, b), ranks)| {
            // Variance of a sum of m of N mid-ranks drawn without replacement, over (mn)^2.
            let (m, n) = (a.len() as f64, b.len() as f64);
            let total = m + n;
            let centre = f64::midpoint(total, 1.0);
            let spread: f64 = ranks.iter().map(|r| (r - centre).powi(2)).sum();
            spread / (total * (total - 1.0) * m * n)
        })
        .sum::<f64>()
        / (n_tasks * n_tasks);
    let p = if variance > 0.0 {
        let z = (poi - 0.5) / variance.sqrt();
        PValues {
            two_sided: (2.0 * normal_sf(z.abs())).min(1.0),
            less: normal_sf(-z),
            greater: normal_sf(z),
        }
    } else {
        PValues::ONE
    };
    Ok(ImprovementTest { poi, p, method: PMethod::Normal })
}

fn convolve(a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; a.len() + b.len() - 1];
    for (i, &x) in a.iter().enumerate().filter(|&(_, &x)| x > 0.0) {
        for (to, y) in out[i..].iter_mut().zip(b) {
            *to += x * y;
        }
    }
    out
}

/// Interval of A12 on one task: both samples resampled separately (7.4).
///
/// # Errors
/// As [`prob_improvement`].
pub fn a12_interval(x: &[f64], y: &[f64], options: &BootstrapOptions) -> Result<Interval> {
    let (x, y) = (Scores::from_runs(x)?, Scores::from_runs(y)?);
    Ok(prob_improvement(&x, &y, options)?.interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_count_half() {
        let x = Scores::from_tasks(&[vec![1.0, 2.0], vec![5.0]]).unwrap();
        let y = Scores::from_tasks(&[vec![1.0, 1.0, 2.0], vec![4.0]]).unwrap();
        let options = BootstrapOptions { resamples: 1_000, ..Default::default() };
        let poi = prob_improvement(&x, &y, &options).unwrap();
        // 1 vs {1,1,2}: 1 of 3; 2 vs {1,1,2}: 2.5 of 3.
        assert!((poi.per_task[0] - 3.5 / 6.0).abs() < 1e-15);
        assert_eq!(poi.per_task[1], 1.0);
        let turned = prob_improvement(&y, &x, &options).unwrap();
        assert!((poi.interval.point + turned.interval.point - 1.0).abs() < 1e-15);
    }

    #[test]
    fn one_task_is_the_mann_whitney_test() {
        let (a, b) = ([1.0, 2.0, 2.0, 5.0], [2.0, 3.0, 4.0, 4.0, 9.0]);
        let of = |v: &[f64]| Scores::from_runs(v).unwrap();
        let t = improvement_test(&of(&a), &of(&b)).unwrap();
        let mw = crate::stats::mann_whitney(&a, &b, PMethod::Exact).unwrap();
        assert!((t.p.two_sided - mw.p.two_sided).abs() < 1e-12);
        assert!((t.p.less - mw.p.less).abs() < 1e-12);
        let long = |shift: f64| -> Vec<f64> { (0..30).map(|i| f64::from(i) + shift).collect() };
        let t = improvement_test(&of(&long(0.0)), &of(&long(3.5))).unwrap();
        let mw = crate::stats::mann_whitney(&long(0.0), &long(3.5), PMethod::Normal).unwrap();
        assert_eq!(t.method, PMethod::Normal);
        assert!((t.p.two_sided - mw.p.two_sided).abs() < 1e-12);
        let flat = improvement_test(&of(&[1.0; 30]), &of(&[1.0; 30])).unwrap();
        assert_eq!(flat.p, PValues::ONE);
    }

    #[test]
    fn tasks_add_up() {
        // Two tasks of 1 vs 1, both won: 1 of 4 equally likely outcomes.
        let x = Scores::from_tasks(&[[2.0], [2.0]]).unwrap();
        let y = Scores::from_tasks(&[[1.0], [1.0]]).unwrap();
        assert_eq!(improvement_test(&x, &y).unwrap().p.greater, 0.25);
    }
}
