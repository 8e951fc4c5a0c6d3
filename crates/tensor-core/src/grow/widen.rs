//! Plans for the common case: a hidden layer gains, loses or reorders units.

use super::plan::{AxisPlan, Edit, Fill, ResizePlan, Share};
use crate::{Error, Param, ParamId, Result, SeedTree};
use rand::RngExt;

/// The parameters that meet at one layer of hidden units.
///
/// *Producers* have an axis with one entry per unit that computes it (rows of the weight before,
/// its bias, a normalisation's scale); *consumers* have an axis that reads it (columns of the weight
/// after). For several weights that read the same units (q, k, v) list them all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HiddenUnits {
    n: i64,
    weights: Vec<(ParamId, usize)>,
    biases: Vec<(ParamId, usize)>,
    consumers: Vec<(ParamId, usize)>,
}

impl HiddenUnits {
    /// `n` units without parameters yet.
    pub fn new(n: i64) -> Self {
        Self { n, weights: Vec::new(), biases: Vec::new(), consumers: Vec::new() }
    }

    /// The units between two linear layers: `weight [units, in]`, `bias [units]`, `next [out, units]`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the sizes do not meet at one number of units.
    pub fn between(weight: &Param, bias: Option<&Param>, next: &Param) -> Result<Self> {
        let n = weight.size().first().copied().unwrap_or(0);
        let mut units = Self::new(n).produced_by(weight, 0)?;
        if let Some(bias) = bias {
            units = units.offset_by(bias, 0)?;
        }
        units.consumed_by(next, 1)
    }

    /// Adds a weight whose `axis` produces the units.
    ///
    /// # Errors
    /// [`Error::Shape`] when that axis does not have one entry per unit.
    pub fn produced_by(mut self, param: &Param, axis: usize) -> Result<Self> {
        self.weights.push(self.meet("HiddenUnits::produced_by", param, axis)?);
        Ok(self)
    }

    /// Adds a bias or another per-unit parameter whose `axis` belongs to the units.
    ///
    /// # Errors
    /// [`Error::Shape`] when that axis does not have one entry per unit.
    pub fn offset_by(mut self, param: &Param, axis: usize) -> Result<Self> {
        self.biases.push(self.meet("HiddenUnits::offset_by", param, axis)?);
        Ok(self)
    }

    /// Adds a weight whose `axis` reads the units.
    ///
    /// # Errors
    /// [`Error::Shape`] when that axis does not have one entry per unit.
    pub fn consumed_by(mut self, param: &Param, axis: usize) -> Result<Self> {
        self.consumers.push(self.meet("HiddenUnits::consumed_by", param, axis)?);
        Ok(self)
    }

    /// Number of units now.
    pub fn n_units(&self) -> i64 {
        self.n
    }

    fn meet(&self, op: &'static str, param: &Param, axis: usize) -> Result<(ParamId, usize)> {
        let size = param.size();
        if size.get(axis) == Some(&self.n) {
            return Ok((param.id(), axis));
        }
        Err(Error::Shape {
            op,
            arg: param.name(),
            expected: format!("{} units on axis {axis}", self.n),
            got: size,
        })
    }

    /// Widens to `n` units and keeps the function: each old unit stays where it is, each new one
    /// copies an old one picked from `seed`, and consumers share their weight among the copies in
    /// unequal parts, so that the copies separate. Moments of copied producers are scaled by their
    /// unit's share, as their gradients will be.
    ///
    /// # Errors
    /// [`Error::Argument`] when `n` is below the present number or there is no unit to copy.
    pub fn widen(&self, n: i64, seed: &SeedTree, reason: impl Into<String>) -> Result<ResizePlan> {
        let source = widening_sources(self.n, n, seed)?;
        let shares = unequal_shares(&source, seed);
        Ok(self.duplicate(&source, &shares, reason))
    }

    /// Widens by given copies with given shares: new unit `j` copies old unit `source[j]` and
    /// consumers read it with factor `shares[j]`. What does not fit is refused when the plan is
    /// applied.
    pub fn duplicate(
        &self,
        source: &[i64],
        shares: &[f64],
        reason: impl Into<String>,
    ) -> ResizePlan {
        let mut plan = ResizePlan::new(reason);
        // The gradient of a copied row is its share of the old one: what reads it counts less.
        // A share of 0 has no inverse to come back from, so its moments are left as they are.
        let felt: Vec<f64> = shares.iter().map(|s| if *s == 0.0 { 1.0 } else { *s }).collect();
        for (id, axis) in self.weights.iter().chain(&self.biases) {
            let copy = AxisPlan::Duplicate { source: source.to_vec(), share: Share::Copy };
            plan =
                plan.with(Edit::axis(*id, *axis, copy).gradient_scaled_along(*axis, felt.clone()));
        }
        for (id, axis) in &self.consumers {
            let share = Share::Weighted(shares.to_vec());
            plan = plan.with(Edit::axis(
                *id,
                *axis,
                AxisPlan::Duplicate { source: source.to_vec(), share },
            ));
        }
        plan
    }

    /// Appends `n` units: producers filled with `incoming`, biases with `bias`, consumers with
    /// `outgoing`. Keeps the function when `outgoing` is [`Fill::Zeros`], or when `incoming` and
    /// `bias` are zero and the activation maps 0 to 0.
    ///
    /// With several producers or consumers and a random fill, each parameter draws from its own
    /// stream (the seed plus the parameter's id).
    pub fn append(
        &self,
        n: i64,
        incoming: &Fill,
        bias: &Fill,
        outgoing: &Fill,
        reason: impl Into<String>,
    ) -> ResizePlan {
        let groups = [(&self.weights, incoming), (&self.biases, bias), (&self.consumers, outgoing)];
        let mut plan = ResizePlan::new(reason);
        for (params, fill) in groups {
            for (id, axis) in params {
                let fill = match fill {
                    Fill::Normal { std, seed } => {
                        let seed = SeedTree::new(*seed).child(id.0).torch_seed().unsigned_abs();
                        Fill::Normal { std: *std, seed }
                    }
                    other => other.clone(),
                };
                plan = plan.with(Edit::axis(*id, *axis, AxisPlan::Append { n, fill }));
            }
        }
        plan
    }

    /// Keeps the units of `index` in that order: prunes or permutes.
    pub fn select(&self, index: &[i64], reason: impl Into<String>) -> ResizePlan {
        let all = self.weights.iter().chain(&self.biases).chain(&self.consumers);
        all.fold(ResizePlan::new(reason), |plan, (id, axis)| {
            plan.with(Edit::axis(*id, *axis, AxisPlan::Select(index.to_vec())))
        })
    }
}

/// `0..old` followed by old indices picked so that no unit is copied twice before each was once.
///
/// # Errors
/// [`Error::Argument`] when `new < old` or `old` is 0.
pub fn widening_sources(old: i64, new: i64, seed: &SeedTree) -> Result<Vec<i64>> {
    if old <= 0 || new < old || new > super::plan::MAX_ELEMENTS {
        return Err(Error::Argument {
            op: "widening_sources",
            arg: "new",
            expected: format!("at least the {old} units there are, and those at least 1"),
            got: new.to_string(),
        });
    }
    let mut rng = seed.child("sources").rng();
    let mut source: Vec<i64> = (0..old).collect();
    let mut deck: Vec<i64> = Vec::new();
    while (source.len() as i64) < new {
        if deck.is_empty() {
            deck.extend(0..old);
        }
        source.push(deck.swap_remove(rng.random_range(0..deck.len())));
    }
    Ok(source)
}

/// Shares that sum to 1 over the copies of each source; any two of `k` copies differ by at least
/// `1/(k (k + 2))`.
pub fn unequal_shares(source: &[i64], seed: &SeedTree) -> Vec<f64> {
    let mut rng = seed.child("shares").rng();
    let mut copies = std::collections::BTreeMap::<i64, Vec<usize>>::new();
    for (j, s) in source.iter().enumerate() {
        copies.entry(*s).or_default().push(j);
    }
    let mut shares = vec![1.0; source.len()];
    for at in copies.values().filter(|at| at.len() > 1) {
        // Ranks 1..k apart by at least 1/2 whatever is drawn; the order is drawn as well.
        let flip = rng.random::<bool>();
        let raw: Vec<f64> = (0..at.len())
            .map(|i| if flip { at.len() - i } else { i + 1 } as f64 + 0.5 * rng.random::<f64>())
            .collect();
        let sum: f64 = raw.iter().sum();
        for (j, r) in at.iter().zip(raw) {
            shares[*j] = r / sum;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_keep_the_old_and_spread_the_copies() {
        let seed = SeedTree::new(5);
        let source = widening_sources(3, 8, &seed).unwrap();
        assert_eq!(source[..3], [0, 1, 2]);
        let mut first_round = source[3..6].to_vec();
        first_round.sort_unstable();
        assert_eq!(first_round, [0, 1, 2]);
        assert!(widening_sources(3, 2, &seed).is_err());
        assert!(widening_sources(0, 2, &seed).is_err());
    }

    #[test]
    fn shares_sum_to_one_and_differ() {
        let source = [0, 1, 2, 1, 1, 0];
        let shares = unequal_shares(&source, &SeedTree::new(9));
        for s in 0..3 {
            let of: Vec<f64> =
                source.iter().zip(&shares).filter(|(x, _)| **x == s).map(|(_, w)| *w).collect();
            assert!((of.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            for (i, a) in of.iter().enumerate() {
                let k = of.len() as f64;
                assert!(of[i + 1..].iter().all(|b| (a - b).abs() >= 0.999 / (k * (k + 2.0))));
            }
        }
    }
}
