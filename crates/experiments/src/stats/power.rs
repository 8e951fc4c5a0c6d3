//! How many repetitions: interval width and power from pilot data (7.16).

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::bootstrap::{below, resample_into, stream};
use super::error::{Result, all_finite, need, open_unit, out_of_range};
use super::mann_whitney::mann_whitney;
use super::number::{mean, median_in_place, quantile_sorted};
use super::wilcoxon::{PMethod, wilcoxon};

/// Pilot data of one comparison.
#[derive(Clone, Copy, Debug)]
pub enum Pilot<'a> {
    /// Differences of pairs that share task and seed, in metric units.
    Paired(&'a [f64]),
    /// Two independent samples.
    Independent(&'a [f64], &'a [f64]),
}

/// The test whose power is estimated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlannedTest {
    /// The rank test of the design: Wilcoxon for pairs, Mann-Whitney for independent samples.
    #[default]
    Rank,
    /// The percentile interval of the mean difference excludes 0.
    Interval,
}

/// Options of [`plan_repetitions`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlanOptions {
    /// Smallest effect of interest, metric units, > 0.
    pub min_effect: f64,
    /// Level of the test.
    pub alpha: f64,
    /// Level of the interval.
    pub level: f64,
    /// Test whose power counts.
    pub test: PlannedTest,
    /// Smallest number of repetitions to look at.
    pub from: usize,
    /// Largest.
    pub to: usize,
    /// Simulated experiments per number of repetitions.
    pub draws: usize,
    /// Replicates of each simulated interval.
    pub resamples: usize,
    /// Seed.
    pub seed: u64,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            min_effect: 0.0,
            alpha: 0.05,
            level: 0.95,
            test: PlannedTest::Rank,
            from: 3,
            to: 50,
            draws: 200,
            resamples: 400,
            seed: 0,
        }
    }
}

/// What `n` repetitions would buy.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PlanPoint {
    /// Repetitions.
    pub n: usize,
    /// Median half-width of the percentile interval of the mean difference.
    pub half_width: f64,
    /// Share of simulated experiments with an effect of exactly `min_effect` in which the test
    /// rejects in the right direction.
    pub power: f64,
}

/// Result of [`plan_repetitions`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RepetitionPlan {
    /// The curve over the numbers of repetitions; show it.
    pub curve: Vec<PlanPoint>,
    /// Smallest n with half-width `<= min_effect/2` or power `>= 0.8`; absent when none suffices.
    pub suggested: Option<usize>,
    /// Fewer than five pilot values: their spread is itself uncertain, the plan is rough.
    pub rough: bool,
    /// Mean difference in the pilot.
    pub pilot_effect: f64,
    /// The effect planned for.
    pub min_effect: f64,
}

/// Repetitions needed to see an effect of `min_effect`, by resampling the pilot.
///
/// The pilot's differences are recentred so that their mean is `min_effect`: the plan asks what it
/// takes to see the smallest effect of interest, not the effect that the pilot happened to show.
///
/// # Errors
/// [`TooFew`](super::StatError::TooFew) for fewer than 3 pilot values,
/// [`NonFinite`](super::StatError::NonFinite), [`OutOfRange`](super::StatError::OutOfRange).
pub fn plan_repetitions(pilot: Pilot<'_>, options: &PlanOptions) -> Result<RepetitionPlan> {
    check(options)?;
    let (x, y) = match pilot {
        Pilot::Paired(d) => {
            need("pilot differences", 3, d.len())?;
            all_finite("pilot differences", d)?;
            (d, None)
        }
        Pilot::Independent(x, y) => {
            need("first pilot sample", 3, x.len())?;
            need("second pilot sample", 3, y.len())?;
            all_finite("first pilot sample", x)?;
            all_finite("second pilot sample", y)?;
            (x, Some(y))
        }
    };
    let pilot_effect = mean(x) - y.map_or(0.0, mean);
    let shift = options.min_effect - pilot_effect;
    let first: Vec<f64> = x.iter().map(|v| v + shift).collect();
    let curve = (options.from..=options.to)
        .into_par_iter()
        .map(|n| point(n, &first, y, options))
        .collect::<Result<Vec<_>>>()?;
    let enough = |p: &&PlanPoint| p.half_width <= options.min_effect / 2.0 || p.power >= 0.8;
    Ok(RepetitionPlan {
        suggested: curve.iter().find(enough).map(|p| p.n),
        rough: x.len() < 5 || y.is_some_and(|y| y.len() < 5),
        pilot_effect,
        min_effect: options.min_effect,
        curve,
    })
}

fn check(options: &PlanOptions) -> Result<()> {
    open_unit("alpha", options.alpha)?;
    open_unit("level", options.level)?;
    if !(options.min_effect.is_finite() && options.min_effect > 0.0) {
        return out_of_range("min_effect", "a finite number > 0", options.min_effect);
    }
    if options.from < 2 || options.to < options.from || options.to > 1_000 {
        let got = format!("{}..={}", options.from, options.to);
        return out_of_range("from, to", "2 <= from <= to <= 1000", got);
    }
    if !(50..=100_000).contains(&options.draws) {
        return out_of_range("draws", "50 to 100000", options.draws);
    }
    if !(100..=100_000).contains(&options.resamples) {
        return out_of_range("resamples", "100 to 100000", options.resamples);
    }
    Ok(())
}

fn point(n: usize, x: &[f64], y: Option<&[f64]>, options: &PlanOptions) -> Result<PlanPoint> {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let zeros = vec![0.0; n];
    let mut widths = Vec::with_capacity(options.draws);
    let mut rejected = 0;
    for draw in 0..options.draws {
        let mut rng = stream(options.seed, (n as u64) << 32 | draw as u64);
        resample_into(&mut rng, x, n, &mut a);
        if let Some(y) = y {
            resample_into(&mut rng, y, n, &mut b);
        }
        let second = y.map(|_| b.as_slice());
        let (lo, hi) = mean_difference_interval(&mut rng, &a, second, options);
        widths.push(0.5 * (hi - lo));
        rejected += usize::from(match (options.test, second) {
            (PlannedTest::Interval, _) => lo > 0.0,
            (PlannedTest::Rank, None) => {
                let w = wilcoxon(&a, &zeros)?;
                w.p.two_sided <= options.alpha && w.r_plus > w.r_minus
            }
            (PlannedTest::Rank, Some(b)) => {
                let t = mann_whitney(&a, b, PMethod::Auto)?;
                t.p.two_sided <= options.alpha && t.a12 > 0.5
            }
        });
    }
    Ok(PlanPoint {
        n,
        half_width: median_in_place(&mut widths),
        power: rejected as f64 / options.draws as f64,
    })
}

fn mean_difference_interval(
    rng: &mut impl rand::Rng,
    a: &[f64],
    b: Option<&[f64]>,
    options: &PlanOptions,
) -> (f64, f64) {
    let mut draw = |values: &[f64]| -> f64 {
        let n = values.len();
        (0..n).map(|_| values[below(rng, n as u32) as usize]).sum::<f64>() / n as f64
    };
    let mut means: Vec<f64> =
        (0..options.resamples).map(|_| draw(a) - b.map_or(0.0, &mut draw)).collect();
    means.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - options.level) / 2.0;
    (quantile_sorted(&means, tail), quantile_sorted(&means, 1.0 - tail))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PILOT: [f64; 8] = [0.9, 1.4, 0.2, 1.1, 0.6, 1.6, 0.4, 1.0];

    fn options(min_effect: f64) -> PlanOptions {
        PlanOptions { min_effect, to: 20, draws: 100, resamples: 100, ..Default::default() }
    }

    #[test]
    fn larger_effects_need_fewer_repetitions() {
        let small = plan_repetitions(Pilot::Paired(&PILOT), &options(0.3)).unwrap();
        let large = plan_repetitions(Pilot::Paired(&PILOT), &options(3.0)).unwrap();
        // Six pairs are the fewest with which the exact test can reach .05.
        let powered = large.curve.iter().find(|p| p.power >= 0.8).unwrap();
        assert_eq!(powered.n, 6);
        assert_eq!(large.suggested, Some(3)); // the interval is narrow enough at once
        assert!(small.suggested.unwrap_or(99) > 6);
        assert!(!small.rough && (small.pilot_effect - 0.9).abs() < 1e-12);
    }

    #[test]
    fn width_shrinks_with_n() {
        let plan = plan_repetitions(Pilot::Independent(&PILOT, &PILOT), &options(0.5)).unwrap();
        let (first, last) = (plan.curve[1], plan.curve[plan.curve.len() - 1]);
        assert!(last.half_width < 0.7 * first.half_width);
        assert!(last.power > first.power);
    }

    #[test]
    fn options_are_checked() {
        let zero = PlanOptions::default();
        assert!(plan_repetitions(Pilot::Paired(&PILOT), &zero).is_err());
        assert!(plan_repetitions(Pilot::Paired(&PILOT[..2]), &options(1.0)).is_err());
        let wide = PlanOptions { to: usize::MAX, ..options(1.0) };
        assert!(plan_repetitions(Pilot::Paired(&PILOT), &wide).is_err());
    }
}
