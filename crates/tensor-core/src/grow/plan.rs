//! Resize plans: what happens to each axis of each parameter, as plain data.
//!
//! A plan holds no tensor and no handle, so it can be logged, sent, compared and replayed. What it
//! does to a tensor is in [`apply`](super::apply); [`Trainer::grow`](super::Trainer::grow) applies it
//! to a store and its optimiser together.

use crate::{Error, Param, ParamId, Result, error::TorchContext};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// Scalars that one resized parameter may hold: above any machine's memory, below any overflow.
pub(crate) const MAX_ELEMENTS: i64 = 1 << 38;

/// Numbers inside a plan: a small tensor as data, row-major.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawValues")]
pub struct Values {
    size: Vec<i64>,
    data: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawValues {
    size: Vec<i64>,
    data: Vec<f64>,
}

impl TryFrom<RawValues> for Values {
    type Error = Error;
    fn try_from(raw: RawValues) -> Result<Self> {
        Self::new(raw.size, raw.data)
    }
}

impl Values {
    /// Row-major `data` of sizes `size`.
    ///
    /// # Errors
    /// [`Error::Argument`] when the number of values is not the product of the sizes or a value is
    /// not finite.
    pub fn new(size: Vec<i64>, data: Vec<f64>) -> Result<Self> {
        let n = size.iter().try_fold(1_i64, |n, d| if *d < 0 { None } else { n.checked_mul(*d) });
        if n != i64::try_from(data.len()).ok() {
            return Err(Error::Argument {
                op: "Values::new",
                arg: "data",
                expected: format!("as many values as sizes {size:?} ask for"),
                got: format!("{} values", data.len()),
            });
        }
        if let Some(at) = data.iter().position(|x| !x.is_finite()) {
            return Err(Error::Argument {
                op: "Values::new",
                arg: "data",
                expected: "finite values".to_owned(),
                got: format!("{} at flat index {at}", data[at]),
            });
        }
        Ok(Self { size, data })
    }

    /// Copies a tensor of any kind and device into a plan.
    ///
    /// # Errors
    /// [`Error::Argument`] when a value is not finite, [`Error::Torch`] when the copy fails.
    pub fn from_tensor(x: &Tensor) -> Result<Self> {
        let flat = x
            .detach()
            .f_to_device(Device::Cpu)
            .and_then(|x| x.f_to_kind(Kind::Double))
            .and_then(|x| x.f_reshape([-1]))
            .op("Values::from_tensor")?;
        let mut data = vec![0.0; flat.numel()];
        flat.f_copy_data(&mut data, flat.numel()).op("Values::from_tensor")?;
        Self::new(x.size(), data)
    }

    /// Sizes.
    pub fn size(&self) -> &[i64] {
        &self.size
    }

    /// Row-major values.
    pub fn data(&self) -> &[f64] {
        &self.data
    }

    pub(crate) fn to_tensor(&self, kind: Kind, device: Device) -> Result<Tensor> {
        Tensor::f_from_slice(&self.data)
            .and_then(|x| x.f_reshape(self.size.as_slice()))
            .and_then(|x| x.f_to_kind(kind))
            .and_then(|x| x.f_to_device(device))
            .op("Values")
    }
}

/// Values of appended entries.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fill {
    /// All zeros.
    Zeros,
    /// One constant.
    Const(f64),
    /// Normal with mean 0, drawn in row-major order from a ChaCha stream of this seed.
    Normal {
        /// Standard deviation.
        std: f64,
        /// Seed of the stream; not shared with any other draw.
        seed: u64,
    },
    /// These values. Sizes are those of the appended slab: the new sizes on the axes before this
    /// one, `n` on this axis, the old sizes on the axes after it (axes are resized in order).
    Given(Values),
}

/// How the copies made by [`AxisPlan::Duplicate`] share a weight.
///
/// On the axis that *produces* units, copies are exact ([`Share::Copy`]). On the axis that
/// *consumes* them, the factors of all copies of one source sum to 1, which keeps the function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// Each copy keeps the full value.
    Copy,
    /// Each of `k` copies gets `1/k`. **Exact copies with equal shares never separate**: they see
    /// the same gradients for ever. Ask for it only when something else breaks the tie.
    Equal,
    /// One factor per new index; those of one source sum to 1. The default of the constructors.
    Weighted(Vec<f64>),
}

/// What happens to one axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AxisPlan {
    /// Nothing.
    Keep,
    /// `n` entries are added at the end.
    Append {
        /// Number of new entries.
        n: i64,
        /// Their values.
        fill: Fill,
    },
    /// Prunes or permutes: new index `j` reads old index `v[j]`. An old index may occur once.
    Select(Vec<i64>),
    /// Widens by copies: new index `j` reads old index `source[j]`.
    Duplicate {
        /// Old index for each new index; every old index occurs at least once.
        source: Vec<i64>,
        /// Factors of the copies.
        share: Share,
    },
}

impl AxisPlan {
    /// Length of the axis afterwards.
    ///
    /// # Errors
    /// A sentence that says why the plan does not fit an axis of length `old`.
    pub(crate) fn new_len(&self, old: i64) -> Result<i64, String> {
        match self {
            Self::Keep => Ok(old),
            Self::Append { n, fill } => {
                if *n < 0 || *n > MAX_ELEMENTS {
                    return Err(format!("appends n = {n} entries, expected 0..={MAX_ELEMENTS}"));
                }
                match fill {
                    Fill::Const(c) if !c.is_finite() => Err(format!("fills with {c}")),
                    Fill::Normal { std, .. } if !std.is_finite() || *std < 0.0 => {
                        Err(format!("fills with std = {std}, expected finite and >= 0"))
                    }
                    _ => Ok(old + n),
                }
            }
            Self::Select(index) => {
                let counts = count_sources(index, old)?;
                match counts.iter().position(|n| *n > 1) {
                    Some(i) => Err(format!("selects index {i} more than once; use Duplicate")),
                    None => Ok(index.len() as i64),
                }
            }
            Self::Duplicate { source, share } => {
                let counts = count_sources(source, old)?;
                if let Some(i) = counts.iter().position(|n| *n == 0) {
                    return Err(format!("duplicates without index {i}; use Select to drop it"));
                }
                if let Share::Weighted(w) = share {
                    check_shares(w, source, counts.len())?;
                }
                Ok(source.len() as i64)
            }
        }
    }

    /// Factor of each new index on the weight; `None` when all are 1.
    pub(crate) fn factors(&self) -> Option<Vec<f64>> {
        let Self::Duplicate { source, share } = self else { return None };
        match share {
            Share::Copy => None,
            Share::Weighted(w) => Some(w.clone()),
            Share::Equal => {
                let mut counts = std::collections::BTreeMap::<i64, f64>::new();
                for s in source {
                    *counts.entry(*s).or_default() += 1.0;
                }
                Some(source.iter().map(|s| 1.0 / counts[s]).collect())
            }
        }
    }
}

fn count_sources(index: &[i64], old: i64) -> Result<Vec<u32>, String> {
    let mut counts = vec![0_u32; usize::try_from(old).unwrap_or(0)];
    for (j, i) in index.iter().enumerate() {
        let slot = usize::try_from(*i).ok().and_then(|i| counts.get_mut(i));
        *slot.ok_or_else(|| format!("new index {j} reads old index {i}, expected 0..{old}"))? += 1;
    }
    Ok(counts)
}

fn check_shares(w: &[f64], source: &[i64], old: usize) -> Result<(), String> {
    if w.len() != source.len() {
        return Err(format!("has {} shares for {} new entries", w.len(), source.len()));
    }
    let mut sums = vec![0.0; old];
    for (w, s) in w.iter().zip(source) {
        if !w.is_finite() {
            return Err(format!("has a share of {w}"));
        }
        sums[*s as usize] += w;
    }
    match sums.iter().position(|s| (s - 1.0).abs() > 1e-9) {
        Some(i) => Err(format!("gives the copies of index {i} shares that sum to {}", sums[i])),
        None => Ok(()),
    }
}

/// What a [`Scale`] multiplies.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scaled {
    /// The weight becomes `c w` and the rest of the network makes up for it by `1/c`. Its gradient
    /// becomes `g/c`, so the first moment is multiplied by `1/c` and the second by `1/c^2`.
    Weight,
    /// The weight stays and what it feeds counts `c` times. Its gradient becomes `c g`, so the first
    /// moment is multiplied by `c` and the second by `c^2`.
    Gradient,
}

/// Multiplies a resized parameter, and its moments to match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Axis whose entries each have their own factor; `None` for one factor for all.
    pub axis: Option<usize>,
    /// The factors: finite and not 0; one, or as many as the axis has entries *after* resizing.
    pub factor: Vec<f64>,
    /// What is multiplied.
    pub of: Scaled,
}

/// All that happens to one parameter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    /// The parameter.
    pub param: ParamId,
    /// One plan per axis, first axis first; missing trailing ones are [`AxisPlan::Keep`].
    pub axes: Vec<AxisPlan>,
    /// Multiplications, after the axes are resized.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scales: Vec<Scale>,
}

impl Edit {
    /// Resizes the axes of `param`.
    pub fn new(param: ParamId, axes: Vec<AxisPlan>) -> Self {
        Self { param, axes, scales: Vec::new() }
    }

    /// Resizes one axis of `param` and keeps the others.
    pub fn axis(param: ParamId, axis: usize, plan: AxisPlan) -> Self {
        let mut axes = vec![AxisPlan::Keep; axis];
        axes.push(plan);
        Self::new(param, axes)
    }

    /// Adds: the weight times `c`, its moments times `1/c` and `1/c^2` ([`Scaled::Weight`]).
    #[must_use]
    pub fn scaled(mut self, c: f64) -> Self {
        self.scales.push(Scale { axis: None, factor: vec![c], of: Scaled::Weight });
        self
    }

    /// Adds: entry `j` of `axis` times `c[j]`, its moments times `1/c[j]` and `1/c[j]^2`.
    #[must_use]
    pub fn scaled_along(mut self, axis: usize, c: Vec<f64>) -> Self {
        self.scales.push(Scale { axis: Some(axis), factor: c, of: Scaled::Weight });
        self
    }

    /// Adds: weights stay, the moments of entry `j` of `axis` times `c[j]` and `c[j]^2`
    /// ([`Scaled::Gradient`]).
    #[must_use]
    pub fn gradient_scaled_along(mut self, axis: usize, c: Vec<f64>) -> Self {
        self.scales.push(Scale { axis: Some(axis), factor: c, of: Scaled::Gradient });
        self
    }

    /// Sizes afterwards for a parameter of sizes `old`; checks everything but the sizes of
    /// [`Fill::Given`].
    pub(crate) fn new_size(&self, old: &[i64]) -> Result<Vec<i64>, String> {
        if self.axes.len() > old.len() {
            return Err(format!("has plans for {} axes, sizes are {old:?}", self.axes.len()));
        }
        let mut size = old.to_vec();
        for (k, plan) in self.axes.iter().enumerate() {
            size[k] = plan.new_len(old[k]).map_err(|why| format!("axis {k} {why}"))?;
            if let AxisPlan::Append { n, fill: Fill::Given(values) } = plan {
                let mut slab = size.clone();
                slab[k] = *n;
                if values.size() != slab {
                    return Err(format!(
                        "axis {k} appends values of sizes {:?}, expected {slab:?}",
                        values.size()
                    ));
                }
            }
        }
        let n = size.iter().try_fold(1_i64, |n, d| n.checked_mul(*d));
        if n.is_none_or(|n| n > MAX_ELEMENTS) {
            return Err(format!("would have sizes {size:?}, above {MAX_ELEMENTS} scalars"));
        }
        for scale in &self.scales {
            let want = match scale.axis {
                None => 1,
                Some(k) => *size.get(k).ok_or_else(|| format!("scales axis {k} of {size:?}"))?,
            };
            if scale.factor.len() as i64 != want {
                return Err(format!("has {} scale factors for {want}", scale.factor.len()));
            }
            if let Some(c) = scale.factor.iter().find(|c| !c.is_finite() || **c == 0.0) {
                return Err(format!("scales by {c}, expected finite and not 0"));
            }
        }
        Ok(size)
    }
}

/// What new entries of the optimiser's moments are.
///
/// Entries that have one old counterpart keep their moments and their age under every policy but
/// [`ResetAll`](Self::ResetAll). The age decides the bias correction: an entry with zero moments
/// starts as if the optimiser had just been made.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MomentPolicy {
    /// Zero moments and age 0 for appended entries and for the second and later copies of a source.
    ZeroNew,
    /// The mean of the old entries along the axis, with the age of the oldest.
    MeanOfOld,
    /// Copies take moments and age of their source; appended entries start from zero with age 0.
    #[default]
    CopyMapped,
    /// All entries of an edited parameter start from zero with age 0.
    ResetAll,
}

/// A change of sizes: which parameters, how, and why.
///
/// ```
/// use tensor_core::grow::{AxisPlan, Edit, Fill, ResizePlan};
/// use tensor_core::{Device, Init, Kind, ParamStore, Role, SeedTree};
/// # fn main() -> tensor_core::Result<()> {
/// let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(1));
/// let w = store.root().param("fc.weight", &[2, 3], Role::Weight, &Init::Ones)?;
/// let append = AxisPlan::Append { n: 4, fill: Fill::Zeros };
/// let plan = ResizePlan::new("two more rows of zeros").with(Edit::axis(w.id(), 0, append));
/// store.resize(&plan)?;
/// assert_eq!(w.value().size(), [6, 3]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResizePlan {
    /// At most one edit per parameter.
    pub edits: Vec<Edit>,
    /// What happens to the optimiser's state.
    #[serde(default)]
    pub moments: MomentPolicy,
    /// Why, for the log.
    #[serde(default)]
    pub reason: String,
}

impl ResizePlan {
    /// A plan without edits.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..Self::default() }
    }

    /// Adds an edit. When the parameter has one already, the two are merged: an axis that one of
    /// them keeps takes the other's plan (so a matrix between two widened layers can be named by
    /// both). Plans for the same axis stay two edits, which applying the plan refuses.
    #[must_use]
    pub fn with(mut self, edit: Edit) -> Self {
        let merged = self.edits.iter_mut().find(|e| e.param == edit.param).is_some_and(|e| {
            let axes = e.axes.len().max(edit.axes.len());
            let plan = |axes: &[AxisPlan], k| axes.get(k).cloned().unwrap_or(AxisPlan::Keep);
            let mut joined = Vec::with_capacity(axes);
            for k in 0..axes {
                joined.push(match (plan(&e.axes, k), plan(&edit.axes, k)) {
                    (one, AxisPlan::Keep) | (AxisPlan::Keep, one) => one,
                    _ => return false,
                });
            }
            e.axes = joined;
            e.scales.extend(edit.scales.iter().cloned());
            true
        });
        if !merged {
            self.edits.push(edit);
        }
        self
    }

    /// Adds all edits of another plan, merging as [`with`](Self::with).
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        other.edits.into_iter().fold(self, Self::with)
    }

    /// Sets the moment policy.
    #[must_use]
    pub fn with_moments(mut self, moments: MomentPolicy) -> Self {
        self.moments = moments;
        self
    }

    pub(crate) fn check_unique(&self) -> Result<()> {
        for (i, edit) in self.edits.iter().enumerate() {
            if self.edits[..i].iter().any(|e| e.param == edit.param) {
                return Err(Error::Plan {
                    param: edit.param.to_string(),
                    why: "has two edits that change the same axis".to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// Error of one edit, under the parameter's name.
pub(crate) fn misfit(param: &Param, why: impl Into<String>) -> Error {
    Error::Plan { param: param.name(), why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_by_hand() {
        let dup = |source: &[i64], share| AxisPlan::Duplicate { source: source.to_vec(), share };
        assert_eq!(AxisPlan::Keep.new_len(3), Ok(3));
        assert_eq!(AxisPlan::Append { n: 2, fill: Fill::Zeros }.new_len(3), Ok(5));
        assert_eq!(AxisPlan::Select(vec![2, 0]).new_len(3), Ok(2));
        assert_eq!(dup(&[0, 1, 0], Share::Equal).new_len(2), Ok(3));
        assert_eq!(dup(&[0, 1, 0], Share::Equal).factors(), Some(vec![0.5, 1.0, 0.5]));
        for (bad, old) in [
            (AxisPlan::Append { n: -1, fill: Fill::Zeros }, 3),
            (AxisPlan::Append { n: i64::MAX, fill: Fill::Zeros }, 3),
            (AxisPlan::Append { n: 1, fill: Fill::Const(f64::NAN) }, 3),
            (AxisPlan::Append { n: 1, fill: Fill::Normal { std: -1.0, seed: 0 } }, 3),
            (AxisPlan::Select(vec![3]), 3),
            (AxisPlan::Select(vec![-1]), 3),
            (AxisPlan::Select(vec![1, 1]), 3),
            (dup(&[0, 0], Share::Copy), 2),
            (dup(&[0, 1, 0], Share::Weighted(vec![0.5, 1.0])), 2),
            (dup(&[0, 1, 0], Share::Weighted(vec![0.5, 1.0, 0.6])), 2),
        ] {
            assert!(bad.new_len(old).is_err(), "{bad:?} must not fit {old}");
        }
    }

    #[test]
    fn edits_of_one_matrix_merge_unless_they_meet_on_an_axis() {
        let id = ParamId(7);
        let more = |axis| Edit::axis(id, axis, AxisPlan::Append { n: 1, fill: Fill::Zeros });
        let plan = ResizePlan::new("both sides").with(more(1)).with(more(0));
        assert_eq!(plan.edits.len(), 1);
        assert_eq!(plan.edits[0].new_size(&[2, 3]), Ok(vec![3, 4]));
        assert!(plan.check_unique().is_ok());
        assert!(plan.with(more(0)).check_unique().is_err());
    }

    #[test]
    fn plans_survive_json() {
        let fill = Fill::Given(Values::new(vec![1, 2], vec![0.1, -1e-300]).unwrap());
        let plan = ResizePlan::new("round trip")
            .with(Edit::new(ParamId(3), vec![AxisPlan::Append { n: 1, fill }]).scaled(0.3))
            .with(
                Edit::axis(ParamId(4), 1, AxisPlan::Select(vec![1, 0]))
                    .gradient_scaled_along(1, vec![1.0, 0.1]),
            )
            .with_moments(MomentPolicy::MeanOfOld);
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<ResizePlan>(&text).unwrap(), plan);
    }

    #[test]
    fn values_must_agree_with_their_sizes() {
        assert!(Values::new(vec![2, 2], vec![0.0; 3]).is_err());
        assert!(Values::new(vec![-1], vec![]).is_err());
        assert!(Values::new(vec![1], vec![f64::NAN]).is_err());
        assert!(serde_json::from_str::<Values>(r#"{"size":[9],"data":[1.0]}"#).is_err());
    }
}
