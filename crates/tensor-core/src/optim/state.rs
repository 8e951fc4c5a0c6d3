//! Optimiser state: moments, step counts and birth steps, keyed by parameter.

use crate::grow::{AxisPlan, Edit, MomentPolicy, ResizePlan, resize_births, resize_moment};
use crate::{Error, Param, ParamId, ParamStore, Result, error::TorchContext};
use std::collections::{BTreeMap, BTreeSet};
use tch::{Device, Kind, Tensor};

/// A running mean of gradients that an optimiser keeps for each scalar parameter.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Name in checkpoints.
    pub name: &'static str,
    /// Power of the gradient: 1 for a mean of gradients, 2 for a mean of their squares.
    pub order: i32,
}

/// State of one parameter.
///
/// The *age* of entry `(i, j, ..)`, which decides its bias correction, is `step` minus the largest
/// of the birth steps `births[0][i], births[1][j], ..`: a row appended at step 500 to a matrix gives
/// all its entries birth step 500 however old the columns are. An empty list stands for all zeros.
#[derive(Debug)]
pub struct ParamState {
    /// Steps that the parameter took part in; a scalar float32 tensor on the parameter's device, as
    /// in `PyTorch` (exact up to 2^24).
    pub step: Tensor,
    /// For each axis, the value of `step` at which each of its entries was born; empty for 0.
    pub births: Vec<Vec<i64>>,
    /// One tensor per [`Moment`] of the optimiser, sizes and kind of the parameter.
    pub moments: Vec<Tensor>,
}

impl ParamState {
    /// Zero moments and no steps for a parameter of this value.
    pub(crate) fn new(value: &Tensor, n_moments: usize) -> Result<Self> {
        const OP: &str = "optimiser state";
        let value = value.detach();
        Ok(Self {
            step: Tensor::f_zeros([0_i64; 0], (Kind::Float, value.device())).op(OP)?,
            births: vec![Vec::new(); value.dim()],
            moments: (0..n_moments)
                .map(|_| value.f_zeros_like())
                .collect::<Result<_, _>>()
                .op(OP)?,
        })
    }

    /// Whether some entries are younger than the parameter.
    pub fn has_late_births(&self) -> bool {
        self.births.iter().any(|b| !b.is_empty())
    }

    /// Steps taken, read from the device.
    ///
    /// # Errors
    /// [`Error::Torch`] when the read fails.
    pub fn steps(&self) -> Result<i64> {
        Ok(self.step.f_double_value(&[]).op("ParamState::steps")? as i64)
    }

    fn shallow(&self) -> Self {
        Self {
            step: self.step.shallow_clone(),
            births: self.births.clone(),
            moments: self.moments.iter().map(Tensor::shallow_clone).collect(),
        }
    }

    fn resized(&self, edit: &Edit, policy: MomentPolicy, kinds: &[Moment]) -> Result<Self> {
        let size = self.moments.first().map(Tensor::size).unwrap_or_default();
        let moments = self
            .moments
            .iter()
            .zip(kinds)
            .map(|(m, kind)| resize_moment(m, edit, policy, kind.order))
            .collect::<Result<Vec<_>>>()?;
        if policy == MomentPolicy::ResetAll {
            let births = vec![Vec::new(); size.len()];
            return Ok(Self { step: self.step.zeros_like(), births, moments });
        }
        let now = self.steps()?;
        let births = self
            .births
            .iter()
            .zip(&size)
            .enumerate()
            .map(|(k, (births, n))| {
                let plan = edit.axes.get(k).unwrap_or(&AxisPlan::Keep);
                let all = if births.is_empty() { &vec![0; *n as usize] } else { births };
                let new = resize_births(all, plan, policy, now);
                if new.iter().all(|b| *b == 0) { Vec::new() } else { new }
            })
            .collect();
        Ok(Self { step: self.step.shallow_clone(), births, moments })
    }
}

/// The state of all parameters of an optimiser.
#[derive(Debug)]
pub struct StateTable {
    kinds: &'static [Moment],
    states: BTreeMap<ParamId, ParamState>,
}

impl StateTable {
    /// No state yet; parameters will have these moments.
    pub fn new(kinds: &'static [Moment]) -> Self {
        Self { kinds, states: BTreeMap::new() }
    }

    /// The moments that each parameter has.
    pub fn moments(&self) -> &'static [Moment] {
        self.kinds
    }

    /// State of one parameter; `None` before its first step.
    pub fn get(&self, id: ParamId) -> Option<&ParamState> {
        self.states.get(&id)
    }

    /// State of one parameter, to change it.
    pub fn get_mut(&mut self, id: ParamId) -> Option<&mut ParamState> {
        self.states.get_mut(&id)
    }

    /// Number of parameters that have state.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether no parameter has state.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// Drops the state of a parameter; it starts afresh at its next step.
    pub fn forget(&mut self, id: ParamId) {
        self.states.remove(&id);
    }

    /// Drops state of parameters that have left the store.
    pub(crate) fn prune(&mut self, store: &ParamStore) {
        if self.states.keys().any(|id| !store.contains(*id)) {
            self.states.retain(|id, _| store.contains(*id));
        }
    }

    /// State of a parameter, made at its first step; checked against the parameter's sizes.
    pub(crate) fn entry(&mut self, param: &Param, value: &Tensor) -> Result<&mut ParamState> {
        use std::collections::btree_map::Entry;
        let state = match self.states.entry(param.id()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(ParamState::new(value, self.kinds.len())?),
        };
        if let Some(m) = state.moments.iter().find(|m| m.size() != value.size()) {
            return Err(Error::Plan {
                param: param.name(),
                why: format!(
                    "has sizes {:?} and optimiser state of sizes {:?}; resize through Trainer::grow",
                    value.size(),
                    m.size()
                ),
            });
        }
        Ok(state)
    }

    pub(crate) fn resize(&mut self, plan: &ResizePlan) -> Result<()> {
        plan.check_unique()?;
        let mut ready = Vec::with_capacity(plan.edits.len());
        for edit in &plan.edits {
            if let Some(state) = self.states.get(&edit.param) {
                ready.push((edit.param, state.resized(edit, plan.moments, self.kinds)?));
            }
        }
        self.states.extend(ready);
        Ok(())
    }

    /// Handles on the state of some parameters, for [`restore`](Self::restore). Valid until the next
    /// step, which writes into the same tensors.
    pub(crate) fn snapshot(&self, ids: &[ParamId]) -> Vec<(ParamId, Option<ParamState>)> {
        ids.iter().map(|id| (*id, self.states.get(id).map(ParamState::shallow))).collect()
    }

    pub(crate) fn restore(&mut self, snapshot: Vec<(ParamId, Option<ParamState>)>) {
        for (id, state) in snapshot {
            match state {
                Some(state) => drop(self.states.insert(id, state)),
                None => self.forget(id),
            }
        }
    }

    pub(crate) fn to_dict(&self, store: &ParamStore) -> Result<Vec<(String, Tensor)>> {
        let mut dict = Vec::new();
        for param in store.iter() {
            let Some(state) = self.get(param.id()) else { continue };
            let name = param.name();
            for (kind, m) in self.kinds.iter().zip(&state.moments) {
                dict.push((format!("{name}.{}", kind.name), m.shallow_clone()));
            }
            dict.push((format!("{name}.step"), state.step.shallow_clone()));
            for (k, births) in state.births.iter().enumerate().filter(|(_, b)| !b.is_empty()) {
                let births = Tensor::f_from_slice(births).op("Optimizer::state_dict")?;
                dict.push((format!("{name}.born{k}"), births));
            }
        }
        Ok(dict)
    }

    pub(crate) fn load_dict(
        &mut self,
        store: &ParamStore,
        tensors: Vec<(String, Tensor)>,
    ) -> Result<()> {
        let mut by_param: BTreeMap<ParamId, BTreeMap<String, Tensor>> = BTreeMap::new();
        for (name, tensor) in tensors {
            let owner =
                name.rsplit_once('.').and_then(|(p, part)| Some((store.get(p).ok()?, part)));
            let Some((param, part)) = owner.filter(|(p, part)| self.knows(part, p.size().len()))
            else {
                return Err(Error::UnknownParam { op: OP_LOAD, name });
            };
            by_param.entry(param.id()).or_default().insert(part.to_owned(), tensor);
        }
        let mut states = BTreeMap::new();
        for (id, parts) in by_param {
            states.insert(id, self.read_state(&store.by_id(id)?, parts)?);
        }
        self.states = states;
        Ok(())
    }

    /// Whether a parameter of `dim` axes can have an entry of this name.
    pub(crate) fn knows(&self, part: &str, dim: usize) -> bool {
        let axis = part.strip_prefix("born").and_then(|k| k.parse::<usize>().ok());
        part == "step" || self.kinds.iter().any(|k| k.name == part) || axis.is_some_and(|k| k < dim)
    }

    /// Checks the entries of one parameter and moves them to its device.
    pub(crate) fn read_state(
        &self,
        param: &Param,
        mut parts: BTreeMap<String, Tensor>,
    ) -> Result<ParamState> {
        let value = param.value();
        let name = param.name();
        let take = |parts: &mut BTreeMap<String, Tensor>, part: &str| {
            parts.remove(part).ok_or_else(|| Error::Argument {
                op: OP_LOAD,
                arg: "tensors",
                expected: format!("an entry `{name}.{part}`"),
                got: "none, though other entries of that parameter".to_owned(),
            })
        };
        let fit = |part: &str, t: Tensor, size: &[i64], kind: Kind, device: Device| {
            let arg = format!("{name}.{part}");
            if t.size() != size {
                let expected = format!("{size:?}");
                return Err(Error::Shape { op: OP_LOAD, arg, expected, got: t.size() });
            }
            if t.kind() != kind {
                let expected = format!("{kind:?}");
                return Err(Error::Kind { op: OP_LOAD, arg, expected, got: t.kind() });
            }
            let t = t.detach().f_to_device(device).op(OP_LOAD)?;
            Ok(t.contiguous().copy())
        };
        let (size, kind, device) = (value.size(), value.kind(), value.device());
        let mut moments = Vec::new();
        for m in self.kinds {
            moments.push(fit(m.name, take(&mut parts, m.name)?, &size, kind, device)?);
        }
        let step = fit("step", take(&mut parts, "step")?, &[], Kind::Float, device)?;
        let steps = step.f_double_value(&[]).op(OP_LOAD)?;
        if !(0.0..=16_777_216.0).contains(&steps) {
            return Err(Error::Argument {
                op: OP_LOAD,
                arg: "tensors",
                expected: format!("`{name}.step` in 0..=2^24"),
                got: steps.to_string(),
            });
        }
        let mut births = Vec::new();
        for (k, n) in size.iter().enumerate() {
            let part = format!("born{k}");
            births.push(match parts.remove(&part) {
                None => Vec::new(),
                Some(t) => {
                    let t = fit(&part, t, &[*n], Kind::Int64, Device::Cpu)?;
                    let all = Vec::<i64>::try_from(&t).op(OP_LOAD)?;
                    let known: BTreeSet<i64> = all.iter().copied().collect();
                    if known.iter().any(|b| *b < 0 || *b as f64 > steps) {
                        return Err(Error::Argument {
                            op: OP_LOAD,
                            arg: "tensors",
                            expected: format!("`{name}.{part}` within 0..={steps}"),
                            got: format!("{known:?}"),
                        });
                    }
                    all
                }
            });
        }
        Ok(ParamState { step, births, moments })
    }
}

const OP_LOAD: &str = "Optimizer::load_state_dict";

/// Runs of equal birth steps: start, length, birth.
pub(crate) fn runs(births: &[i64]) -> Vec<(i64, i64, i64)> {
    let mut runs: Vec<(i64, i64, i64)> = Vec::new();
    for (i, b) in (0_i64..).zip(births) {
        match runs.last_mut() {
            Some((_, len, birth)) if birth == b => *len += 1,
            _ => runs.push((i, 1, *b)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_by_hand() {
        assert_eq!(runs(&[0, 0, 5, 5, 0]), [(0, 2, 0), (2, 2, 5), (4, 1, 0)]);
        assert!(runs(&[]).is_empty());
    }
}
