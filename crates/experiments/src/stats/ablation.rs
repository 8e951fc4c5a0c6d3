//! Ablation between two configurations: greedy path and leave-one-out (7.15a, b).
//!
//! Source: Fawcett & Hoos, J. Heuristics 22, 2016. A configuration is a bit mask: bit `i` set says
//! that parameter `i` has its target value. Costs: lower is better.

use serde::Serialize;

use super::aggregate::Aggregate;
use super::bootstrap::{BootstrapOptions, paired_difference};
use super::error::{Result, StatError, all_finite, degenerate, need, out_of_range, same_len};
use super::interval::Interval;
use super::scores::Scores;

/// The greedy path, one step at a time, so that a runner can evaluate only the cells it needs
/// (`p(p+1)/2` of them). Ties go to the parameter that is first in file order, and the path goes
/// on even if it gets worse.
///
/// ```
/// use experiments::stats::AblationPath;
/// let cost = [4.0, 3.0, 1.0, 0.5]; // by mask: none, {0}, {1}, both
/// let mut path = AblationPath::new(2, cost[0]).unwrap();
/// while !path.is_done() {
///     let costs: Vec<f64> = path.candidates().iter().map(|&m| cost[m as usize]).collect();
///     path.advance(&costs).unwrap();
/// }
/// assert_eq!(path.order(), [1, 0]);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AblationPath {
    n_parameters: usize,
    order: Vec<usize>,
    costs: Vec<f64>,
}

impl AblationPath {
    /// A path over `n_parameters` (1 to 63) from the source configuration, whose cost is given.
    ///
    /// # Errors
    /// [`StatError::OutOfRange`], [`StatError::NonFinite`].
    pub fn new(n_parameters: usize, source_cost: f64) -> Result<Self> {
        if !(1..=63).contains(&n_parameters) {
            return out_of_range("n_parameters", "1 to 63", n_parameters);
        }
        all_finite("source_cost", &[source_cost])?;
        Ok(Self { n_parameters, order: Vec::new(), costs: vec![source_cost] })
    }

    /// Parameters flipped so far, in order.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// Cost of the source, then after each flip.
    pub fn costs(&self) -> &[f64] {
        &self.costs
    }

    /// Fall in cost by each flip; negative where it got worse.
    pub fn contributions(&self) -> Vec<f64> {
        self.costs.windows(2).map(|w| w[0] - w[1]).collect()
    }

    /// Whether the target is reached.
    pub fn is_done(&self) -> bool {
        self.order.len() == self.n_parameters
    }

    /// The current configuration.
    pub fn mask(&self) -> u64 {
        self.order.iter().fold(0, |mask, &i| mask | 1 << i)
    }

    /// The configurations to evaluate next, one per remaining parameter in file order.
    pub fn candidates(&self) -> Vec<u64> {
        self.remaining().map(|i| self.mask() | 1 << i).collect()
    }

    fn remaining(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.n_parameters).filter(|i| !self.order.contains(i))
    }

    /// Takes the costs of [`candidates`](Self::candidates) and flips the best; returns it.
    ///
    /// # Errors
    /// [`StatError::LengthMismatch`], [`StatError::NonFinite`]; [`StatError::Degenerate`] when the
    /// path is complete.
    pub fn advance(&mut self, costs: &[f64]) -> Result<usize> {
        let remaining: Vec<usize> = self.remaining().collect();
        if remaining.is_empty() {
            return degenerate("path", "every parameter has been flipped");
        }
        same_len("costs of the candidates", remaining.len(), costs.len())?;
        all_finite("costs", costs)?;
        let best =
            (1..costs.len()).fold(0, |best, i| if costs[i] < costs[best] { i } else { best });
        self.order.push(remaining[best]);
        self.costs.push(costs[best]);
        Ok(remaining[best])
    }
}

/// Greedy path and leave-one-out of a full table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Ablation {
    /// Parameters in the order of their flips.
    pub order: Vec<usize>,
    /// Cost of the source, then after each flip, `[p+1]`.
    pub path_cost: Vec<f64>,
    /// `cost(target without i) - cost(target)`: what parameter `i` is worth in the target.
    pub leave_one_out: Vec<f64>,
}

/// Ablation of a full table of costs.
///
/// * `cost`: `[2^p]` by mask, `1 <= p <= 20`
///
/// # Errors
/// [`StatError::OutOfRange`] when the length is no power of two, [`StatError::NonFinite`].
pub fn ablation(cost: &[f64]) -> Result<Ablation> {
    let p = cost.len().trailing_zeros() as usize;
    if !cost.len().is_power_of_two() || !(1..=20).contains(&p) {
        return out_of_range("cost", "2^p costs with 1 <= p <= 20", cost.len());
    }
    all_finite("cost", cost)?;
    let mut path = AblationPath::new(p, cost[0])?;
    while !path.is_done() {
        let costs: Vec<f64> = path.candidates().iter().map(|&mask| cost[mask as usize]).collect();
        path.advance(&costs)?;
    }
    let target = cost.len() - 1;
    Ok(Ablation {
        order: path.order,
        path_cost: path.costs,
        leave_one_out: (0..p).map(|i| cost[target & !(1 << i)] - cost[target]).collect(),
    })
}

/// Interval of each step's contribution: the paired difference of consecutive configurations.
///
/// * `along`: `[p+1]` scores (as costs) of the configurations along the path, same tasks and seeds
///
/// # Errors
/// [`StatError::TooFew`] for fewer than two configurations, [`StatError::LengthMismatch`] when
/// shapes differ, and those of the bootstrap.
pub fn contribution_intervals(
    along: &[Scores],
    aggregate: Aggregate,
    options: &BootstrapOptions,
) -> Result<Vec<Interval>> {
    need("along", 2, along.len())?;
    along
        .windows(2)
        .map(|pair| paired_difference(&pair[0], &pair[1], &aggregate, options))
        .collect::<std::result::Result<_, StatError>>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_file_order_and_worse_steps_are_taken() {
        let a = ablation(&[1.0, 2.0, 2.0, 3.0]).unwrap();
        assert_eq!(a.order, [0, 1]);
        assert_eq!(a.path_cost, [1.0, 2.0, 3.0]);
        assert_eq!(a.leave_one_out, [-1.0, -1.0]);
    }

    #[test]
    fn a_path_wants_what_it_asked_for() {
        let mut path = AblationPath::new(3, 1.0).unwrap();
        assert_eq!(path.candidates(), [1, 2, 4]);
        assert!(path.advance(&[1.0]).is_err());
        assert_eq!(path.advance(&[0.5, 0.4, 0.4]).unwrap(), 1);
        assert_eq!(path.candidates(), [3, 6]);
        assert!(AblationPath::new(64, 0.0).is_err());
        assert!(ablation(&[1.0; 3]).is_err());
    }

    #[test]
    fn contributions_have_intervals() {
        let along: Vec<Scores> = [[3.0, 4.0, 5.0, 3.5, 4.5], [1.0, 2.0, 3.0, 1.5, 2.5]]
            .iter()
            .map(|runs| Scores::from_runs(runs).unwrap())
            .collect();
        let options = BootstrapOptions { resamples: 1_000, ..Default::default() };
        let c = contribution_intervals(&along, Aggregate::Mean, &options).unwrap();
        assert!((c[0].lo - 2.0).abs() < 1e-12 && (c[0].hi - 2.0).abs() < 1e-12);
    }
}
