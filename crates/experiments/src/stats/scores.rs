//! Containers: runs by tasks (tasks may have unequal run counts), and a small full matrix.

use super::error::{Result, all_finite, need, out_of_range, same_len};
use super::number::mean;

/// Scores of one method: for each task its runs. Tasks may differ in run count ("ragged").
///
/// Stored task by task, so that a task's runs are one slice.
#[derive(Clone, Debug, PartialEq)]
pub struct Scores {
    values: Vec<f64>,
    starts: Vec<usize>, // n_tasks + 1 offsets into `values`
}

impl Scores {
    /// From one list of runs per task.
    ///
    /// # Errors
    /// [`TooFew`](super::StatError::TooFew) when there is no task or a task without run;
    /// [`NonFinite`](super::StatError::NonFinite) with the position in task-major order.
    ///
    /// ```
    /// use experiments::stats::Scores;
    /// let s = Scores::from_tasks(&[vec![1.0, 2.0], vec![3.0]]).unwrap();
    /// assert_eq!((s.n_tasks(), s.n_values(), s.equal_runs()), (2, 3, None));
    /// ```
    pub fn from_tasks<T: AsRef<[f64]>>(tasks: &[T]) -> Result<Self> {
        need("tasks", 1, tasks.len())?;
        let mut values = Vec::new();
        let mut starts = vec![0];
        for task in tasks {
            need("runs of a task", 1, task.as_ref().len())?;
            values.extend_from_slice(task.as_ref());
            starts.push(values.len());
        }
        all_finite("scores", &values)?;
        Ok(Self { values, starts })
    }

    /// From a row-major `[runs, tasks]` array.
    ///
    /// # Errors
    /// [`LengthMismatch`](super::StatError::LengthMismatch), [`TooFew`](super::StatError::TooFew), [`NonFinite`](super::StatError::NonFinite).
    pub fn from_rows(n_runs: usize, n_tasks: usize, rows: &[f64]) -> Result<Self> {
        need("runs", 1, n_runs)?;
        need("tasks", 1, n_tasks)?;
        same_len("scores", n_runs.saturating_mul(n_tasks), rows.len())?;
        all_finite("scores", rows)?;
        let mut values = Vec::with_capacity(rows.len());
        for t in 0..n_tasks {
            values.extend((0..n_runs).map(|r| rows[r * n_tasks + t]));
        }
        Ok(Self { values, starts: (0..=n_tasks).map(|t| t * n_runs).collect() })
    }

    /// One task with these runs.
    ///
    /// # Errors
    /// As [`from_tasks`](Self::from_tasks).
    pub fn from_runs(runs: &[f64]) -> Result<Self> {
        Self::from_tasks(&[runs])
    }

    /// Number of tasks.
    pub fn n_tasks(&self) -> usize {
        self.starts.len() - 1
    }

    /// Number of values over all tasks.
    pub fn n_values(&self) -> usize {
        self.values.len()
    }

    /// Runs of task `t`.
    ///
    /// # Panics
    /// When `t` is not below [`n_tasks`](Self::n_tasks), like an index.
    pub fn task(&self, t: usize) -> &[f64] {
        &self.values[self.starts[t]..self.starts[t + 1]]
    }

    /// Tasks in order.
    pub fn tasks(&self) -> impl ExactSizeIterator<Item = &[f64]> {
        (0..self.n_tasks()).map(|t| self.task(t))
    }

    /// All values, task by task.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The run count when all tasks share it.
    pub fn equal_runs(&self) -> Option<usize> {
        let first = self.task(0).len();
        self.tasks().all(|task| task.len() == first).then_some(first)
    }

    /// The smallest run count of a task.
    pub fn min_runs(&self) -> usize {
        self.tasks().map(<[f64]>::len).min().unwrap_or(0)
    }

    /// Mean of each task.
    pub fn task_means(&self) -> Vec<f64> {
        self.tasks().map(mean).collect()
    }

    /// The same shape with every value negated: turns lower-is-better into higher-is-better.
    #[must_use]
    pub fn negated(&self) -> Self {
        Self { values: self.values.iter().map(|v| -v).collect(), starts: self.starts.clone() }
    }

    /// Cell by cell difference to paired scores of the same shape.
    ///
    /// # Errors
    /// [`LengthMismatch`](super::StatError::LengthMismatch) when the task or run counts differ.
    pub fn minus(&self, other: &Self) -> Result<Self> {
        self.same_shape(other)?;
        let values = self.values.iter().zip(&other.values).map(|(a, b)| a - b).collect();
        Ok(Self { values, starts: self.starts.clone() })
    }

    pub(crate) fn same_shape(&self, other: &Self) -> Result<()> {
        same_len("tasks of the second method", self.n_tasks(), other.n_tasks())?;
        for (a, b) in self.tasks().zip(other.tasks()) {
            same_len("runs of the second method", a.len(), b.len())?;
        }
        Ok(())
    }

    /// An empty buffer that [`gather`](Self::gather) fills.
    pub(crate) fn buffer() -> Self {
        Self { values: Vec::new(), starts: Vec::new() }
    }

    /// Fills `self` with the cells of `source` that `draw` names.
    pub(crate) fn gather(&mut self, source: &Self, draw: &Draw) {
        self.values.clear();
        self.starts.clear();
        self.starts.push(0);
        let mut at = 0;
        for &t in &draw.tasks {
            let runs = source.task(t);
            self.values.extend(draw.runs[at..at + runs.len()].iter().map(|&r| runs[r as usize]));
            at += runs.len();
            self.starts.push(self.values.len());
        }
    }

    /// All of `self` but the run `r` of every task, or of task `only` alone; `None` when a task
    /// would be left without runs.
    pub(crate) fn without_run(&self, r: usize, only: Option<usize>) -> Option<Self> {
        let mut left = Self { values: Vec::with_capacity(self.values.len()), starts: vec![0] };
        for (t, task) in self.tasks().enumerate() {
            let drop = only.is_none_or(|o| o == t);
            left.values.extend(
                task.iter().enumerate().filter(|&(i, _)| !(drop && i == r)).map(|(_, &v)| v),
            );
            if left.values.len() == left.starts[t] {
                return None;
            }
            left.starts.push(left.values.len());
        }
        Some(left)
    }
}

/// One bootstrap replicate: the tasks drawn, and for each its drawn run indices in sequence.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draw {
    pub(crate) tasks: Vec<usize>,
    pub(crate) runs: Vec<u32>,
}

/// Explicit resampling indices `[replicates, runs, tasks]`: replicate `b` uses for cell `(r, t)`
/// the score of run `indices[b, r, t]` of task `t`.
#[derive(Clone, Debug, PartialEq)]
pub struct Indices {
    replicates: Vec<Vec<u32>>, // each in task-major order
    n_runs: usize,
    n_tasks: usize,
}

impl Indices {
    /// From a row-major `[replicates, runs, tasks]` array.
    ///
    /// # Errors
    /// [`LengthMismatch`](super::StatError::LengthMismatch); [`OutOfRange`](super::StatError::OutOfRange) when an index is not a run.
    pub fn from_rows(
        replicates: usize,
        n_runs: usize,
        n_tasks: usize,
        rows: &[i64],
    ) -> Result<Self> {
        need("replicates", 1, replicates)?;
        need("runs", 1, n_runs)?;
        need("tasks", 1, n_tasks)?;
        let cells = n_runs.saturating_mul(n_tasks);
        same_len("indices", replicates.saturating_mul(cells), rows.len())?;
        if let Some(&bad) = rows.iter().find(|&&i| i < 0 || i >= n_runs as i64) {
            return out_of_range("indices", format!("run indices in 0..{n_runs}"), bad);
        }
        let replicates = rows
            .chunks_exact(cells)
            .map(|rep| {
                (0..n_tasks)
                    .flat_map(|t| (0..n_runs).map(move |r| rep[r * n_tasks + t] as u32))
                    .collect()
            })
            .collect();
        Ok(Self { replicates, n_runs, n_tasks })
    }

    /// Number of replicates.
    pub fn len(&self) -> usize {
        self.replicates.len()
    }

    /// Never true: an empty list of replicates is refused at construction.
    pub fn is_empty(&self) -> bool {
        self.replicates.is_empty()
    }

    pub(crate) fn fits(&self, scores: &Scores) -> Result<()> {
        same_len("tasks of the indices", scores.n_tasks(), self.n_tasks)?;
        for task in scores.tasks() {
            same_len("runs of the indices", task.len(), self.n_runs)?;
        }
        Ok(())
    }

    pub(crate) fn replicate(&self, b: usize, draw: &mut Draw) {
        draw.tasks.clear();
        draw.tasks.extend(0..self.n_tasks);
        draw.runs.clone_from(&self.replicates[b]);
    }
}

/// A full row-major matrix: blocks (datasets, problems, instances) by treatments (methods).
#[derive(Clone, Debug, PartialEq)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    values: Vec<f64>,
}

impl Matrix {
    /// From row-major values. What the values may be (missing, infinite) is up to the function
    /// that takes the matrix.
    ///
    /// # Errors
    /// [`TooFew`](super::StatError::TooFew) when a side is 0; [`LengthMismatch`](super::StatError::LengthMismatch).
    pub fn new(rows: usize, cols: usize, values: Vec<f64>) -> Result<Self> {
        need("rows", 1, rows)?;
        need("columns", 1, cols)?;
        same_len("values", rows.saturating_mul(cols), values.len())?;
        Ok(Self { rows, cols, values })
    }

    /// From one list per row.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_rows<T: AsRef<[f64]>>(rows: &[T]) -> Result<Self> {
        need("rows", 1, rows.len())?;
        let cols = rows[0].as_ref().len();
        for row in rows {
            same_len("columns of a row", cols, row.as_ref().len())?;
        }
        Self::new(rows.len(), cols, rows.iter().flat_map(AsRef::as_ref).copied().collect())
    }

    /// Number of rows.
    pub fn n_rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn n_cols(&self) -> usize {
        self.cols
    }

    /// Row `i`.
    ///
    /// # Panics
    /// When `i` is not below [`n_rows`](Self::n_rows), like an index.
    pub fn row(&self, i: usize) -> &[f64] {
        &self.values[i * self.cols..(i + 1) * self.cols]
    }

    /// Rows in order.
    pub fn iter_rows(&self) -> impl ExactSizeIterator<Item = &[f64]> {
        self.values.chunks_exact(self.cols)
    }

    /// A copy of column `j`.
    pub fn col(&self, j: usize) -> Vec<f64> {
        self.iter_rows().map(|row| row[j]).collect()
    }

    /// All values, row-major.
    pub fn values(&self) -> &[f64] {
        &self.values
    }
}

impl std::ops::Index<(usize, usize)> for Matrix {
    type Output = f64;

    fn index(&self, (i, j): (usize, usize)) -> &f64 {
        &self.row(i)[j]
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::StatError;
    use super::*;

    #[test]
    fn rows_become_tasks() {
        let s = Scores::from_rows(2, 3, &[1., 2., 3., 4., 5., 6.]).unwrap();
        assert_eq!(s.task(1), [2., 5.]);
        assert_eq!(s.equal_runs(), Some(2));
        assert_eq!(s.task_means(), [2.5, 3.5, 4.5]);
        assert_eq!(s.without_run(0, None).unwrap().values(), [4., 5., 6.]);
        assert_eq!(s.without_run(0, Some(0)).unwrap().values(), [4., 2., 5., 3., 6.]);
    }

    #[test]
    fn bad_shapes_are_named() {
        assert!(matches!(
            Scores::from_rows(2, 2, &[1.0]),
            Err(StatError::LengthMismatch { arg: "scores", expected: 4, got: 1 })
        ));
        assert!(matches!(Scores::from_tasks::<Vec<f64>>(&[]), Err(StatError::TooFew { .. })));
        assert!(Scores::from_runs(&[f64::NAN]).is_err());
        assert!(Indices::from_rows(1, 2, 1, &[0, 2]).is_err());
        assert!(Matrix::new(usize::MAX, 2, vec![]).is_err());
        assert!(Matrix::from_rows(&[vec![1.0], vec![1.0, 2.0]]).is_err());
    }
}
