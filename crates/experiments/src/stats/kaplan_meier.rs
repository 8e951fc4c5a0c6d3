//! Kaplan-Meier curve of censored times, restricted mean, log-rank test (7.13).
//!
//! Sources: Kaplan & Meier 1958; Mantel 1966 (log-rank).

use serde::Serialize;

use super::error::{Result, all_finite, degenerate, need, out_of_range, same_len};
use super::number::chi2_sf;
use super::runtime::non_negative;

/// Share of runs not yet solved over time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KaplanMeier {
    /// Distinct times at which runs were solved, ascending.
    pub times: Vec<f64>,
    /// `S(t)` just after each of them; 1 before the first.
    pub surv: Vec<f64>,
    /// First time with `S(t) <= 1/2`; infinite when the curve stays above.
    #[serde(serialize_with = "super::number::extended")]
    pub median: f64,
    /// Area under `S` on `[0, tau]`: the restricted mean time.
    pub rmst: f64,
    /// The end of the restricted mean.
    pub tau: f64,
}

/// Kaplan-Meier estimate.
///
/// ```text
/// S(t) = prod over t_i <= t of (1 - d_i / n_i),   n_i runs still unsolved just before t_i
/// ```
/// * `time`: `[N]` time of solution or censoring, `>= 0`; `event`: `[N]` true when solved
/// * `tau`: end of the restricted mean, > 0
///
/// # Errors
/// [`TooFew`](super::StatError::TooFew), [`LengthMismatch`](super::StatError::LengthMismatch),
/// [`NonFinite`](super::StatError::NonFinite), [`OutOfRange`](super::StatError::OutOfRange).
pub fn kaplan_meier(time: &[f64], event: &[bool], tau: f64) -> Result<KaplanMeier> {
    check(time, event)?;
    if !(tau.is_finite() && tau > 0.0) {
        return out_of_range("tau", "a finite number > 0", tau);
    }
    let (mut times, mut surv) = (Vec::new(), Vec::new());
    let mut s = 1.0;
    let mut median = f64::INFINITY;
    for (at, solved, at_risk) in risk_sets(time, event) {
        s *= 1.0 - solved as f64 / at_risk as f64;
        // Compared as computed: a product that is a half up to rounding may land on either side,
        // as it does in lifelines, which multiplies in the same order.
        if median.is_infinite() && s <= 0.5 {
            median = at;
        }
        times.push(at);
        surv.push(s);
    }
    let (mut rmst, mut from, mut level) = (0.0, 0.0, 1.0);
    for (&t, &s) in times.iter().zip(&surv).take_while(|&(&t, _)| t < tau) {
        rmst += level * (t - from);
        (from, level) = (t, s);
    }
    rmst += level * (tau - from);
    Ok(KaplanMeier { times, surv, median, rmst, tau })
}

/// Two-group log-rank test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LogRank {
    /// `(O - E)^2 / V`, one degree of freedom.
    pub chi2: f64,
    /// Its p-value, two-sided.
    pub p: f64,
    /// Observed minus expected events of the first group: negative when it solves later.
    pub excess: f64,
}

/// Log-rank test that two groups share their survival curve.
///
/// # Errors
/// As [`kaplan_meier`]; [`Degenerate`](super::StatError::Degenerate) when no event tells the
/// groups apart.
pub fn log_rank(
    time_a: &[f64],
    event_a: &[bool],
    time_b: &[f64],
    event_b: &[bool],
) -> Result<LogRank> {
    check(time_a, event_a)?;
    check(time_b, event_b)?;
    let time: Vec<f64> = time_a.iter().chain(time_b).copied().collect();
    let event: Vec<bool> = event_a.iter().chain(event_b).copied().collect();
    let (mut excess, mut variance) = (0.0, 0.0);
    for (at, solved, at_risk) in risk_sets(&time, &event) {
        let in_a = time_a.iter().filter(|&&t| t >= at).count() as f64;
        let solved_a =
            time_a.iter().zip(event_a).filter(|&(&t, &e)| e && t.total_cmp(&at).is_eq()).count();
        let (d, n) = (solved as f64, at_risk as f64);
        excess += solved_a as f64 - d * in_a / n;
        if n > 1.0 {
            variance += d * (in_a / n) * (1.0 - in_a / n) * (n - d) / (n - 1.0);
        }
    }
    if variance <= 0.0 {
        return degenerate("event", "no solved run tells the two groups apart");
    }
    let chi2 = excess * excess / variance;
    Ok(LogRank { chi2, p: chi2_sf(chi2, 1.0), excess })
}

/// Distinct event times with the number solved there and the number at risk just before.
fn risk_sets(time: &[f64], event: &[bool]) -> Vec<(f64, usize, usize)> {
    let mut order: Vec<usize> = (0..time.len()).collect();
    order.sort_by(|&a, &b| time[a].total_cmp(&time[b]));
    let mut sets = Vec::new();
    let mut i = 0;
    while i < order.len() {
        let at = time[order[i]];
        let same = order[i..].iter().take_while(|&&j| time[j].total_cmp(&at).is_eq()).count();
        let solved = order[i..i + same].iter().filter(|&&j| event[j]).count();
        if solved > 0 {
            sets.push((at, solved, order.len() - i));
        }
        i += same;
    }
    sets
}

fn check(time: &[f64], event: &[bool]) -> Result<()> {
    same_len("event", time.len(), event.len())?;
    need("time", 1, time.len())?;
    all_finite("time", time)?;
    non_negative("time", time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_by_hand() {
        // 1 solved at 2, 1 censored at 3, 1 solved at 4: S = 2/3, then 0.
        let k = kaplan_meier(&[2.0, 3.0, 4.0], &[true, false, true], 5.0).unwrap();
        assert_eq!(k.times, [2.0, 4.0]);
        assert!((k.surv[0] - 2.0 / 3.0).abs() < 1e-15 && k.surv[1] == 0.0);
        assert!((k.rmst - (2.0 + 4.0 / 3.0)).abs() < 1e-15);
        assert_eq!(k.median, 4.0);
    }

    #[test]
    fn all_censored_never_reaches_the_median() {
        let k = kaplan_meier(&[30.0, 30.0], &[false, false], 30.0).unwrap();
        assert_eq!((k.median, k.rmst), (f64::INFINITY, 30.0));
        assert!(log_rank(&[1.0], &[false], &[2.0], &[false]).is_err());
    }

    #[test]
    fn log_rank_is_symmetric() {
        let (a, b) = ([1.0, 2.0, 3.0, 9.0], [4.0, 5.0, 6.0, 7.0]);
        let ab = log_rank(&a, &[true; 4], &b, &[true; 4]).unwrap();
        let ba = log_rank(&b, &[true; 4], &a, &[true; 4]).unwrap();
        assert!((ab.chi2 - ba.chi2).abs() < 1e-12);
        assert!((ab.excess + ba.excess).abs() < 1e-12);
    }
}
