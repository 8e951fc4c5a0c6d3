//! Learning curves on a common budget grid (7.17).
//!
//! The centre is the interquartile mean over runs, the band a bootstrap over whole runs, never of
//! each point by itself. Nothing is smoothed, and nothing is drawn beyond what a run has shown
//! unless the rule says so.

use serde::{Deserialize, Serialize};

use super::aggregate::iqm_in_place;
use super::bootstrap::{BootstrapOptions, Resampling, vector_replicates};
use super::ecdf::trapezoid;
use super::error::{Result, StatError, all_finite, degenerate, need, open_unit, same_len};
use super::number::{mean, quantile_sorted};
use super::scores::Scores;

/// One run's logged points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trajectory {
    /// Budgets spent, ascending.
    pub steps: Vec<f64>,
    /// The metric there.
    pub values: Vec<f64>,
    /// The run ended by itself; false after a time-out, memory-out or crash.
    pub finished: bool,
}

/// What a stopped run shows after its last point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoppedRule {
    /// Nothing: it leaves the average. Watch the run count, for the survivors are not a fair
    /// sample.
    #[default]
    Exclude,
    /// The worst value that the metric can take.
    Worst(f64),
}

/// Curves of one method on a grid. Absent where no run has a value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LearningCurve {
    /// The budgets.
    pub grid: Vec<f64>,
    /// `[R][G]` the runs on the grid.
    pub resampled: Vec<Vec<Option<f64>>>,
    /// Runs that have a value.
    pub count: Vec<usize>,
    /// Mean over those runs.
    pub mean: Vec<Option<f64>>,
    /// Interquartile mean over those runs: the centre to draw.
    pub iqm: Vec<Option<f64>>,
    /// Lower end of the band of the interquartile mean.
    pub lo: Vec<Option<f64>>,
    /// Upper end.
    pub hi: Vec<Option<f64>>,
    /// Area under each run over the part of the grid that it covers, divided by that length;
    /// absent when it covers fewer than two grid points.
    pub auc: Vec<Option<f64>>,
    /// Level of the band.
    pub level: f64,
    /// Number of runs.
    pub n_runs: usize,
    /// A single run: the band says nothing.
    pub uninformative: bool,
}

impl LearningCurve {
    /// Runs with a value at the first and at the last grid point; print both beside the figure.
    pub fn runs_at_ends(&self) -> (usize, usize) {
        (self.count.first().copied().unwrap_or(0), self.count.last().copied().unwrap_or(0))
    }
}

/// Runs on the grid by last observation carried forward.
///
/// Before the first point: absent. After the last point of a finished run: its last value; of a
/// stopped run: by `rule` (a stopped run without any point is absent, or worst throughout).
///
/// # Errors
/// [`StatError::TooFew`] for no run, an empty grid or a finished run without points;
/// [`StatError::NonFinite`]; [`StatError::Degenerate`] when steps or grid do not ascend.
pub fn on_grid(
    runs: &[Trajectory],
    grid: &[f64],
    rule: StoppedRule,
) -> Result<Vec<Vec<Option<f64>>>> {
    need("runs", 1, runs.len())?;
    need("grid", 1, grid.len())?;
    all_finite("grid", grid)?;
    ascending("grid", grid)?;
    if let StoppedRule::Worst(worst) = rule {
        all_finite("worst", &[worst])?;
    }
    runs.iter().map(|run| run_on_grid(run, grid, rule)).collect()
}

fn run_on_grid(run: &Trajectory, grid: &[f64], rule: StoppedRule) -> Result<Vec<Option<f64>>> {
    same_len("values of a run", run.steps.len(), run.values.len())?;
    need("points of a finished run", usize::from(run.finished), run.steps.len())?;
    all_finite("steps", &run.steps)?;
    all_finite("values", &run.values)?;
    ascending("steps", &run.steps)?;
    let end = run.steps.last().copied().unwrap_or(f64::NEG_INFINITY);
    Ok(grid
        .iter()
        .map(|&g| {
            if !run.finished && g > end {
                return match rule {
                    StoppedRule::Exclude => None,
                    StoppedRule::Worst(worst) => Some(worst),
                };
            }
            let seen = run.steps.partition_point(|&s| s <= g);
            seen.checked_sub(1).map(|last| run.values[last])
        })
        .collect())
}

/// Learning curve of several runs.
///
/// # Errors
/// As [`on_grid`], and those of the resampling.
pub fn learning_curve(
    runs: &[Trajectory],
    grid: &[f64],
    rule: StoppedRule,
    options: &BootstrapOptions,
) -> Result<LearningCurve> {
    learning_curve_with(runs, grid, rule, &Resampling::Seeded(options), options.level)
}

/// [`learning_curve`] with the indices `[B, R, 1]` from either source.
///
/// # Errors
/// As [`learning_curve`].
pub fn learning_curve_with(
    runs: &[Trajectory],
    grid: &[f64],
    rule: StoppedRule,
    resampling: &Resampling<'_>,
    level: f64,
) -> Result<LearningCurve> {
    open_unit("level", level)?;
    if resampling.tasks_too() {
        return degenerate("resample_tasks", "a learning curve is of one task");
    }
    let resampled = on_grid(runs, grid, rule)?;
    let at = |g: usize| -> Vec<f64> { resampled.iter().filter_map(|run| run[g]).collect() };
    let columns: Vec<Vec<f64>> = (0..grid.len()).map(at).collect();
    let centre = |values: &[f64]| (!values.is_empty()).then(|| iqm_in_place(&mut values.to_vec()));

    // Only the shape of this one-task table matters: it says how many runs to draw.
    let shape = Scores::from_runs(&vec![0.0; runs.len()])?;
    let bands: Vec<Vec<Option<f64>>> = vector_replicates(&shape, resampling, |draw| {
        let mut values = Vec::with_capacity(draw.runs.len());
        (0..grid.len())
            .map(|g| {
                values.clear();
                values.extend(draw.runs.iter().filter_map(|&r| resampled[r as usize][g]));
                (!values.is_empty()).then(|| iqm_in_place(&mut values))
            })
            .collect()
    })?;
    let tail = (1.0 - level) / 2.0;
    let (lo, hi) = (0..grid.len())
        .map(|g| {
            let mut column: Vec<f64> = bands.iter().filter_map(|row| row[g]).collect();
            if column.is_empty() {
                return (None, None);
            }
            column.sort_unstable_by(f64::total_cmp);
            (Some(quantile_sorted(&column, tail)), Some(quantile_sorted(&column, 1.0 - tail)))
        })
        .unzip();
    Ok(LearningCurve {
        grid: grid.to_vec(),
        count: columns.iter().map(Vec::len).collect(),
        mean: columns.iter().map(|c| (!c.is_empty()).then(|| mean(c))).collect(),
        iqm: columns.iter().map(|c| centre(c)).collect(),
        lo,
        hi,
        auc: resampled.iter().map(|run| area(grid, run)).collect(),
        level,
        n_runs: runs.len(),
        uninformative: runs.len() == 1,
        resampled,
    })
}

fn area(grid: &[f64], run: &[Option<f64>]) -> Option<f64> {
    let (x, y): (Vec<f64>, Vec<f64>) =
        grid.iter().zip(run).filter_map(|(&g, v)| v.map(|v| (g, v))).unzip();
    let length = x.last()? - x.first()?;
    (length > 0.0).then(|| trapezoid(&x, &y) / length)
}

fn ascending(arg: &'static str, values: &[f64]) -> Result<()> {
    if values.windows(2).any(|w| w[1] < w[0]) {
        return Err(StatError::Degenerate { arg, why: "must ascend".into() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(steps: &[f64], values: &[f64], finished: bool) -> Trajectory {
        Trajectory { steps: steps.to_vec(), values: values.to_vec(), finished }
    }

    #[test]
    fn ends_follow_the_rule() {
        let runs = [run(&[2.0, 4.0], &[0.2, 0.4], true), run(&[1.0, 2.0], &[0.1, 0.3], false)];
        let grid = [0.0, 2.0, 5.0];
        let out = on_grid(&runs, &grid, StoppedRule::Exclude).unwrap();
        assert_eq!(out[0], [None, Some(0.2), Some(0.4)]);
        assert_eq!(out[1], [None, Some(0.3), None]);
        let worst = on_grid(&runs, &grid, StoppedRule::Worst(0.0)).unwrap();
        assert_eq!(worst[1][2], Some(0.0));
        let silent = on_grid(&[run(&[], &[], false)], &grid, StoppedRule::Worst(9.0)).unwrap();
        assert_eq!(silent[0], [Some(9.0); 3]);
    }

    #[test]
    fn survivors_are_counted() {
        let runs = [run(&[0.0, 9.0], &[0.0, 1.0], true), run(&[0.0], &[0.5], false)];
        let options = BootstrapOptions { resamples: 1_000, ..Default::default() };
        let c = learning_curve(&runs, &[0.0, 10.0], StoppedRule::Exclude, &options).unwrap();
        assert_eq!(c.runs_at_ends(), (2, 1));
        assert_eq!(c.auc, [Some(0.5), None]);
        assert_eq!(c.iqm[1], Some(1.0));
    }

    #[test]
    fn bad_runs_are_refused() {
        let grid = [1.0];
        assert!(on_grid(&[run(&[], &[], true)], &grid, StoppedRule::Exclude).is_err());
        assert!(
            on_grid(&[run(&[2.0, 1.0], &[0.0; 2], true)], &grid, StoppedRule::Exclude).is_err()
        );
        assert!(on_grid(&[run(&[1.0], &[f64::NAN], true)], &grid, StoppedRule::Exclude).is_err());
    }
}
