//! The interquartile mean of a bootstrap replicate by counting instead of selecting.
//!
//! All replicates draw from the same values. Sorted once, a replicate is only how often each value
//! was drawn, and its interquartile mean one walk over these counts.

use super::bootstrap::{Statistic, Work};
use super::scores::{Draw, Scores};

/// A statistic of some scores, made ready to be taken on many draws.
pub(crate) enum Prepared<'a, S> {
    Counted(Tally),
    Gathered(&'a Scores, &'a S),
}

impl<'a, S: Statistic> Prepared<'a, S> {
    pub(crate) fn new(scores: &'a Scores, statistic: &'a S) -> Self {
        if statistic.is_iqm() {
            Self::Counted(Tally::new(scores))
        } else {
            Self::Gathered(scores, statistic)
        }
    }

    pub(crate) fn of_draw(&self, work: &mut Work) -> f64 {
        match self {
            Self::Counted(tally) => tally.iqm(&work.draw, &mut work.counts),
            Self::Gathered(scores, statistic) => {
                work.first.gather(scores, &work.draw);
                statistic.eval(&work.first, &mut work.scratch)
            }
        }
    }
}

/// Scores as places in their sorted values.
pub(crate) struct Tally {
    /// Distinct values, ascending. Equal ones share a place, so that replicates of values that do
    /// not vary are equal to the bit.
    values: Vec<f64>,
    /// Place of each run, task by task.
    places: Vec<u32>,
    starts: Vec<usize>, // n_tasks + 1 offsets into `places`
}

impl Tally {
    pub(crate) fn new(scores: &Scores) -> Self {
        let mut values = scores.values().to_vec();
        values.sort_unstable_by(f64::total_cmp);
        values.dedup_by(|a, b| a.total_cmp(b).is_eq());
        let place = |v: &f64| values.partition_point(|w| w.total_cmp(v).is_lt()) as u32;
        let places = scores.values().iter().map(place).collect();
        let mut starts = vec![0];
        for task in scores.tasks() {
            starts.push(starts[starts.len() - 1] + task.len());
        }
        Self { values, places, starts }
    }

    /// [`Aggregate::Iqm`](super::Aggregate::Iqm) of a draw. `counts` is a buffer.
    pub(crate) fn iqm(&self, draw: &Draw, counts: &mut Vec<u32>) -> f64 {
        counts.clear();
        counts.resize(self.values.len(), 0);
        let mut runs = draw.runs.as_slice();
        for &t in &draw.tasks {
            let places = &self.places[self.starts[t]..self.starts[t + 1]];
            let (mine, rest) = runs.split_at(places.len());
            for &run in mine {
                counts[places[run as usize] as usize] += 1;
            }
            runs = rest;
        }
        let n = draw.runs.len() as u32;
        let (mut drop, mut left) = (n / 4, n - 2 * (n / 4));
        let keep = f64::from(left);
        let mut total = 0.0;
        for (count, value) in counts.iter().zip(&self.values) {
            let dropped = drop.min(*count);
            drop -= dropped;
            let kept = left.min(count - dropped);
            total += f64::from(kept) * value;
            left -= kept;
        }
        total / keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Aggregate, bootstrap::stream};
    use rand::RngExt;

    #[test]
    fn counting_is_selecting() {
        let mut rng = stream(5, 0);
        for n_runs in [1, 2, 3, 4, 5, 7, 40] {
            for n_tasks in [1, 2, 5] {
                // Whole numbers, so that values repeat.
                let mut runs = || (0..n_runs).map(|_| f64::from(rng.random_range(-3..9))).collect();
                let tasks: Vec<Vec<f64>> = (0..n_tasks).map(|_| runs()).collect();
                let scores = Scores::from_tasks(&tasks).unwrap();
                let tally = Tally::new(&scores);
                let draw = Draw {
                    tasks: (0..n_tasks).map(|_| rng.random_range(0..n_tasks)).collect(),
                    runs: (0..n_runs * n_tasks)
                        .map(|_| rng.random_range(0..n_runs) as u32)
                        .collect(),
                };
                let mut gathered = Scores::buffer();
                gathered.gather(&scores, &draw);
                let (got, expected) =
                    (tally.iqm(&draw, &mut Vec::new()), Aggregate::Iqm.of(&gathered));
                assert!((got - expected).abs() < 1e-12, "{n_runs} x {n_tasks}: {got} {expected}");
            }
        }
    }

    #[test]
    fn equal_values_give_equal_replicates() {
        let scores = Scores::from_runs(&[0.1; 9]).unwrap();
        let tally = Tally::new(&scores);
        let of = |runs: [u32; 9]| {
            tally.iqm(&Draw { tasks: vec![0], runs: runs.to_vec() }, &mut Vec::new())
        };
        assert_eq!(of([0; 9]).to_bits(), of([0, 1, 2, 3, 4, 5, 6, 7, 8]).to_bits());
    }
}
