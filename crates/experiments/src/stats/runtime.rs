//! Expected running time, penalised averages and censored comparisons (7.13).
//!
//! Sources: Hansen et al. 2010 (ERT, SP1, as in COCO); Hutter et al. 2009 (PAR10).

use serde::{Deserialize, Serialize};

use super::error::{Result, StatError, degenerate, need, no_nan, out_of_range, same_len};
use super::number::{mean, sum};

/// Expected running time to a target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunningTime {
    /// `(budget of all runs up to success or end) / #successes`; infinite without success.
    #[serde(serialize_with = "super::number::extended")]
    pub ert: f64,
    /// `mean(hits) / success rate`; infinite without success.
    #[serde(serialize_with = "super::number::extended")]
    pub sp1: f64,
    /// Share of runs that reached the target.
    pub success_rate: f64,
    /// Number of runs that did.
    pub successes: usize,
}

/// Expected running time.
///
/// ```text
/// ERT = (sum of hits of successes + sum of budgets of failures) / #successes
/// ```
/// * `hit`: `[R]` budget at which the run first reached the target, `+inf` for never
/// * `budget`: `[R]` budget that the run spent, finite, `>= 0`
///
/// # Errors
/// [`StatError::LengthMismatch`], [`StatError::TooFew`], [`StatError::NonFinite`],
/// [`StatError::OutOfRange`] for negative values.
pub fn expected_running_time(hit: &[f64], budget: &[f64]) -> Result<RunningTime> {
    same_len("budget", hit.len(), budget.len())?;
    need("hit", 1, hit.len())?;
    no_nan("hit", hit)?;
    super::error::all_finite("budget", budget)?;
    non_negative("hit", hit)?;
    non_negative("budget", budget)?;
    let hits: Vec<f64> = hit.iter().copied().filter(|h| h.is_finite()).collect();
    let spent: Vec<f64> =
        hit.iter().zip(budget).map(|(&h, &b)| if h.is_finite() { h } else { b }).collect();
    let successes = hits.len();
    let success_rate = successes as f64 / hit.len() as f64;
    let (ert, sp1) = if successes == 0 {
        (f64::INFINITY, f64::INFINITY)
    } else {
        (sum(&spent) / successes as f64, mean(&hits) / success_rate)
    };
    Ok(RunningTime { ert, sp1, success_rate, successes })
}

/// How a timed run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunEnd {
    /// It solved its problem.
    Ok,
    /// It ran out of time.
    Timeout,
    /// It ran out of memory.
    Memout,
    /// It failed, however fast.
    Crash,
}

/// A run solves its problem iff it ended well within the cut-off.
fn solved(time: f64, end: RunEnd, cutoff: f64) -> bool {
    end == RunEnd::Ok && time <= cutoff
}

/// Penalised average runtimes. The order of methods may flip with the factor: show both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Penalised {
    /// Unsolved runs count as the cut-off.
    pub par1: f64,
    /// As twice the cut-off.
    pub par2: f64,
    /// As ten times the cut-off.
    pub par10: f64,
    /// Number of solved runs.
    pub solved: usize,
    /// Share of solved runs.
    pub solved_share: f64,
}

/// PAR1, PAR2 and PAR10. A fast crash is unsolved, and so is an `Ok` beyond the cut-off.
///
/// * `time`: `[N]` seconds, finite, `>= 0`; `ends`: `[N]`; `cutoff`: > 0
///
/// # Errors
/// [`StatError::LengthMismatch`], [`StatError::TooFew`], [`StatError::NonFinite`],
/// [`StatError::OutOfRange`].
pub fn penalised(time: &[f64], ends: &[RunEnd], cutoff: f64) -> Result<Penalised> {
    let solved = solved_runs(time, ends, cutoff)?;
    let par = |factor: f64| {
        let charged: Vec<f64> = time
            .iter()
            .zip(&solved)
            .map(|(&t, &ok)| if ok { t } else { factor * cutoff })
            .collect();
        mean(&charged)
    };
    let n_solved = solved.iter().filter(|&&ok| ok).count();
    Ok(Penalised {
        par1: par(1.0),
        par2: par(2.0),
        par10: par(10.0),
        solved: n_solved,
        solved_share: n_solved as f64 / time.len() as f64,
    })
}

/// PAR with any factor `>= 1`.
///
/// # Errors
/// As [`penalised`].
pub fn penalised_by(time: &[f64], ends: &[RunEnd], cutoff: f64, factor: f64) -> Result<f64> {
    if !(factor >= 1.0 && factor.is_finite()) {
        return out_of_range("factor", "a finite number >= 1", factor);
    }
    let solved = solved_runs(time, ends, cutoff)?;
    let charged: Vec<f64> =
        time.iter().zip(&solved).map(|(&t, &ok)| if ok { t } else { factor * cutoff }).collect();
    Ok(mean(&charged))
}

/// Times ready for rank tests: unsolved runs all get `+inf`, so that they rank last and tie.
/// Valid only when all runs share one cut-off, which is therefore demanded per run.
///
/// * `cutoffs`: `[N]` cut-off of each run; they must all be equal
///
/// # Errors
/// [`StatError::Degenerate`] when cut-offs differ, and those of [`penalised`].
pub fn censored_for_ranks(time: &[f64], ends: &[RunEnd], cutoffs: &[f64]) -> Result<Vec<f64>> {
    same_len("cutoffs", time.len(), cutoffs.len())?;
    need("time", 1, time.len())?;
    no_nan("cutoffs", cutoffs)?;
    let cutoff = cutoffs[0];
    if let Some(other) = cutoffs.iter().find(|c| c.total_cmp(&cutoff).is_ne()) {
        return degenerate(
            "cutoffs",
            format!("runs have different cut-offs ({cutoff} and {other}); censored ranks need one"),
        );
    }
    let solved = solved_runs(time, ends, cutoff)?;
    Ok(time.iter().zip(solved).map(|(&t, ok)| if ok { t } else { f64::INFINITY }).collect())
}

fn solved_runs(time: &[f64], ends: &[RunEnd], cutoff: f64) -> Result<Vec<bool>> {
    same_len("ends", time.len(), ends.len())?;
    need("time", 1, time.len())?;
    super::error::all_finite("time", time)?;
    non_negative("time", time)?;
    if !(cutoff.is_finite() && cutoff > 0.0) {
        return out_of_range("cutoff", "a finite number > 0", cutoff);
    }
    Ok(time.iter().zip(ends).map(|(&t, &end)| solved(t, end, cutoff)).collect())
}

pub(crate) fn non_negative(arg: &'static str, values: &[f64]) -> Result<()> {
    match values.iter().find(|v| **v < 0.0) {
        Some(&bad) => {
            Err(StatError::OutOfRange { arg, expected: "values >= 0".into(), got: bad.to_string() })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ert_charges_failures() {
        let t = expected_running_time(&[10.0, f64::INFINITY], &[50.0, 90.0]).unwrap();
        assert_eq!((t.ert, t.sp1, t.success_rate), (100.0, 20.0, 0.5));
        let none = expected_running_time(&[f64::INFINITY], &[5.0]).unwrap();
        assert_eq!((none.ert, none.success_rate), (f64::INFINITY, 0.0));
        assert!(serde_json::to_string(&none).unwrap().contains(r#""ert":"inf""#));
        assert!(expected_running_time(&[-1.0], &[5.0]).is_err());
    }

    #[test]
    fn a_fast_crash_is_no_success() {
        let p = penalised(&[1.0, 0.1], &[RunEnd::Ok, RunEnd::Crash], 10.0).unwrap();
        assert_eq!((p.par1, p.par2, p.par10, p.solved), (5.5, 10.5, 50.5, 1));
        let k = penalised_by(&[1.0, 0.1], &[RunEnd::Ok, RunEnd::Crash], 10.0, 2.0).unwrap();
        assert_eq!(k, p.par2);
        assert!(penalised(&[1.0], &[RunEnd::Ok], 0.0).is_err());
    }

    #[test]
    fn censored_runs_tie_at_the_end() {
        let ends = [RunEnd::Timeout, RunEnd::Ok, RunEnd::Crash];
        let v = censored_for_ranks(&[30.0, 2.0, 0.1], &ends, &[30.0; 3]).unwrap();
        let ranks = crate::stats::mid_ranks(&v).unwrap().ranks;
        assert_eq!(ranks, [2.5, 1.0, 2.5]);
        assert!(censored_for_ranks(&[1.0, 2.0], &ends[..2], &[30.0, 60.0]).is_err());
    }
}
