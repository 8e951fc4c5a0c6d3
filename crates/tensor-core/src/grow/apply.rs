//! Applies axis plans to tensors: weights by [`resize_weight`], moments by [`resize_moment`], both
//! through one walk over the axes.
//!
//! The usual plans keep the old entries in place and add some at the end. For them the new tensor is
//! allocated once at its final sizes, the old block is copied into its corner, and each axis then
//! writes its own slab: every byte of the result is written once. Plans that reorder go axis by axis.

use super::plan::{AxisPlan, Edit, Fill, MomentPolicy, Scaled};
use crate::{Error, Result, error::TorchContext};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use tch::{Kind, Tensor};

const OP: &str = "resize";

/// Applies the axes and the weight scales of `edit` to a parameter's values. The result shares no
/// storage with `x` and records no gradient.
///
/// # Errors
/// [`Error::Plan`] when the edit does not fit the sizes of `x`; [`Error::Torch`] when memory runs out.
pub fn resize_weight(x: &Tensor, edit: &Edit) -> Result<Tensor> {
    let size = check(x, edit)?;
    let steps: Vec<Step<'_>> =
        edit.axes.iter().zip(x.size()).map(|(p, n)| weight_step(p, n)).collect();
    let mut out = walk(x, &steps, &size)?;
    for scale in edit.scales.iter().filter(|s| s.of == Scaled::Weight) {
        multiply(&mut out, scale.axis, &scale.factor)?;
    }
    Ok(out)
}

/// Applies `edit` to one moment of the parameter under `policy`. `order` is 1 for a mean of gradients
/// and 2 for a mean of their squares; it decides the power of the scales. The result shares no
/// storage with `x`.
///
/// # Errors
/// [`Error::Plan`] when the edit does not fit the sizes of `x`; [`Error::Torch`] when memory runs out.
pub fn resize_moment(x: &Tensor, edit: &Edit, policy: MomentPolicy, order: i32) -> Result<Tensor> {
    let size = check(x, edit)?;
    if policy == MomentPolicy::ResetAll {
        return Tensor::f_zeros(size.as_slice(), (x.kind(), x.device())).op(OP);
    }
    let steps: Vec<Step<'_>> =
        edit.axes.iter().zip(x.size()).map(|(p, n)| moment_step(p, n, policy)).collect();
    let mut out = walk(x, &steps, &size)?;
    for scale in &edit.scales {
        let power = if scale.of == Scaled::Weight { -order } else { order };
        let factor: Vec<f64> = scale.factor.iter().map(|c| c.powi(power)).collect();
        multiply(&mut out, scale.axis, &factor)?;
    }
    Ok(out)
}

/// Birth steps of the entries along one axis after `plan`: `now` for those that start afresh.
pub(crate) fn resize_births(
    births: &[i64],
    plan: &AxisPlan,
    policy: MomentPolicy,
    now: i64,
) -> Vec<i64> {
    let oldest = births.iter().copied().min().unwrap_or(now);
    let fresh = if policy == MomentPolicy::MeanOfOld { oldest } else { now };
    let at = |i: i64| births[i as usize];
    match plan {
        AxisPlan::Keep => births.to_vec(),
        AxisPlan::Append { n, .. } => {
            births.iter().copied().chain(std::iter::repeat_n(fresh, *n as usize)).collect()
        }
        AxisPlan::Select(index) => index.iter().map(|i| at(*i)).collect(),
        AxisPlan::Duplicate { source, .. } => {
            let mut out: Vec<i64> = source.iter().map(|i| at(*i)).collect();
            if policy != MomentPolicy::CopyMapped {
                for j in later_copies(source) {
                    out[j as usize] = fresh;
                }
            }
            out
        }
    }
}

fn check(x: &Tensor, edit: &Edit) -> Result<Vec<i64>> {
    edit.new_size(&x.size()).map_err(|why| Error::Plan { param: edit.param.to_string(), why })
}

/// One axis in terms of memory.
enum Step<'a> {
    Keep,
    /// Old entries stay at the front, `Tail` follows; then all are multiplied by the factors.
    Extend(Tail<'a>, Option<Vec<f64>>),
    /// New entry `j` reads old entry `[j]`; then the fresh ones are overwritten, then multiplied.
    Gather {
        index: &'a [i64],
        fresh: Option<Fresh>,
        factors: Option<Vec<f64>>,
    },
}

enum Tail<'a> {
    Fill(i64, &'a Fill),
    Copy(&'a [i64]),
    Zeros(i64),
    Mean(i64),
}

struct Fresh {
    at: Vec<i64>,
    mean: bool,
}

impl Tail<'_> {
    fn len(&self) -> i64 {
        match self {
            Self::Fill(n, _) | Self::Zeros(n) | Self::Mean(n) => *n,
            Self::Copy(index) => index.len() as i64,
        }
    }
}

/// Whether `index` starts with `0, 1, .., n - 1`.
fn starts_in_place(index: &[i64], n: i64) -> bool {
    index.len() as i64 >= n && (0..n).zip(index).all(|(i, s)| i == *s)
}

/// Positions whose source occurred before.
fn later_copies(source: &[i64]) -> Vec<i64> {
    let mut seen = std::collections::BTreeSet::new();
    (0_i64..).zip(source).filter(|(_, s)| !seen.insert(**s)).map(|(j, _)| j).collect()
}

fn weight_step(plan: &AxisPlan, n: i64) -> Step<'_> {
    match plan {
        AxisPlan::Keep => Step::Keep,
        AxisPlan::Append { n, fill } => Step::Extend(Tail::Fill(*n, fill), None),
        AxisPlan::Select(index) if starts_in_place(index, n) => Step::Keep,
        AxisPlan::Select(index) => Step::Gather { index, fresh: None, factors: None },
        AxisPlan::Duplicate { source, .. } if starts_in_place(source, n) => {
            Step::Extend(Tail::Copy(&source[n as usize..]), plan.factors())
        }
        AxisPlan::Duplicate { source, .. } => {
            Step::Gather { index: source, fresh: None, factors: plan.factors() }
        }
    }
}

fn moment_step(plan: &AxisPlan, n: i64, policy: MomentPolicy) -> Step<'_> {
    let mean = policy == MomentPolicy::MeanOfOld;
    // The mean of no entries is not a number.
    let new = |k: i64| if mean && n > 0 { Tail::Mean(k) } else { Tail::Zeros(k) };
    match plan {
        AxisPlan::Append { n: k, .. } => Step::Extend(new(*k), None),
        AxisPlan::Duplicate { source, .. } if policy != MomentPolicy::CopyMapped => {
            if starts_in_place(source, n) {
                Step::Extend(new(source.len() as i64 - n), None)
            } else {
                let fresh = Some(Fresh { at: later_copies(source), mean });
                Step::Gather { index: source, fresh, factors: None }
            }
        }
        _ => match weight_step(plan, n) {
            Step::Extend(tail, _) => Step::Extend(tail, None),
            Step::Gather { index, fresh, .. } => Step::Gather { index, fresh, factors: None },
            Step::Keep => Step::Keep,
        },
    }
}

fn walk(x: &Tensor, steps: &[Step<'_>], size: &[i64]) -> Result<Tensor> {
    let _guard = tch::no_grad_guard();
    let x = x.detach();
    if steps.iter().all(|s| !matches!(s, Step::Gather { .. })) {
        return extend(&x, steps, size);
    }
    let mut out = x;
    for (k, step) in steps.iter().enumerate() {
        let mut next = out.size();
        next[k] = size[k];
        out = match step {
            Step::Keep => continue,
            Step::Gather { index, fresh, factors } => {
                gather(&out, k, index, fresh.as_ref(), factors.as_deref())?
            }
            Step::Extend(..) => {
                let mut alone: Vec<Step<'_>> = (0..k).map(|_| Step::Keep).collect();
                let Step::Extend(tail, factors) = step else { continue };
                alone.push(Step::Extend(tail.again(), factors.clone()));
                extend(&out, &alone, &next)?
            }
        };
    }
    Ok(out)
}

impl<'a> Tail<'a> {
    fn again(&self) -> Tail<'a> {
        match self {
            Self::Fill(n, fill) => Tail::Fill(*n, fill),
            Self::Copy(index) => Tail::Copy(index),
            Self::Zeros(n) => Tail::Zeros(*n),
            Self::Mean(n) => Tail::Mean(*n),
        }
    }
}

/// All axes keep or extend: one allocation, each byte written once (and once more where scaled).
fn extend(x: &Tensor, steps: &[Step<'_>], size: &[i64]) -> Result<Tensor> {
    let old = x.size();
    let out = Tensor::f_empty(size, (x.kind(), x.device())).op(OP)?;
    let mut corner = out.shallow_clone();
    for (k, n) in old.iter().enumerate() {
        corner = corner.f_narrow(k as i64, 0, *n).op(OP)?;
    }
    corner.f_copy_(x).op(OP)?;
    for (k, step) in steps.iter().enumerate() {
        let Step::Extend(tail, factors) = step else { continue };
        let axis = k as i64;
        // Axes before this one are finished, axes after it still have their old length.
        let mut region = out.shallow_clone();
        for (later, n) in old.iter().enumerate().skip(k + 1) {
            region = region.f_narrow(later as i64, 0, *n).op(OP)?;
        }
        let front = region.f_narrow(axis, 0, old[k]).op(OP)?;
        let mut slab = region.f_narrow(axis, old[k], tail.len()).op(OP)?;
        let source = match tail {
            Tail::Zeros(_) | Tail::Fill(_, Fill::Zeros) => Tensor::from(0.0),
            Tail::Fill(_, Fill::Const(c)) => Tensor::from(*c),
            Tail::Fill(_, Fill::Normal { std, seed }) => normal(*std, *seed, &slab.size())?,
            Tail::Fill(_, Fill::Given(values)) => values.to_tensor(x.kind(), x.device())?,
            Tail::Copy(index) => {
                let index = Tensor::f_from_slice(index).op(OP)?.to_device(x.device());
                pick(&front, axis, &index)?
            }
            Tail::Mean(_) => front.f_mean_dim(axis, true, None::<Kind>).op(OP)?,
        };
        slab.f_copy_(&source).op(OP)?;
        if let Some(factors) = factors {
            multiply(&mut region, Some(k), factors)?;
        }
    }
    Ok(out)
}

/// Entries of one axis. Rows are copied whole; along other axes an element-wise gather is several
/// times faster than `index_select`, which copies one strided slice per index.
fn pick(x: &Tensor, axis: i64, index: &Tensor) -> Result<Tensor> {
    if axis == 0 {
        return x.f_index_select(axis, index).op(OP);
    }
    let mut shape = vec![1; x.dim()];
    shape[axis as usize] = -1;
    let mut size = x.size();
    size[axis as usize] = index.size1().op(OP)?;
    let index = index.f_view(shape.as_slice()).and_then(|i| i.f_expand(size, false)).op(OP)?;
    x.f_gather(axis, &index, false).op(OP)
}

fn gather(
    x: &Tensor,
    k: usize,
    index: &[i64],
    fresh: Option<&Fresh>,
    factors: Option<&[f64]>,
) -> Result<Tensor> {
    let to = |v: &[i64]| Ok::<_, Error>(Tensor::f_from_slice(v).op(OP)?.to_device(x.device()));
    let axis = k as i64;
    let mut out = pick(x, axis, &to(index)?)?;
    if let Some(Fresh { at, mean }) = fresh {
        if *mean {
            let mut size = x.size();
            size[k] = at.len() as i64;
            let mean = x.f_mean_dim(axis, true, None::<Kind>).and_then(|m| m.f_expand(size, false));
            let _ = out.f_index_copy_(axis, &to(at)?, &mean.op(OP)?).op(OP)?;
        } else {
            let _ = out.f_index_fill_(axis, &to(at)?, 0.0).op(OP)?;
        }
    }
    if let Some(factors) = factors {
        multiply(&mut out, Some(k), factors)?;
    }
    Ok(out)
}

/// Multiplies all of `x`, or each entry of an axis by its own factor.
fn multiply(x: &mut Tensor, axis: Option<usize>, factor: &[f64]) -> Result<()> {
    let _guard = tch::no_grad_guard();
    let Some(k) = axis else {
        let _ = x.f_mul_scalar_(factor[0]).op(OP)?;
        return Ok(());
    };
    let mut shape = vec![1; x.dim()];
    shape[k] = -1;
    let column = |factor: &[f64]| {
        Tensor::f_from_slice(factor)
            .and_then(|f| f.f_to_kind(x.kind()))
            .and_then(|f| f.f_to_device(x.device()))
            .and_then(|f| f.f_view(shape.as_slice()))
            .op(OP)
    };
    // Most units of a widened layer have no copy and keep their weights: leave them alone.
    #[expect(clippy::float_cmp, reason = "a factor of exactly 1 needs no multiplication")]
    let touched: Vec<i64> =
        (0_i64..).zip(factor).filter(|(_, c)| **c != 1.0).map(|(j, _)| j).collect();
    if touched.is_empty() {
        return Ok(());
    }
    // By rows only: picking out columns costs more than passing over all of them.
    if k == 0 && touched.len() * 4 <= factor.len() {
        let some: Vec<f64> = touched.iter().map(|j| factor[*j as usize]).collect();
        let index = Tensor::f_from_slice(&touched).op(OP)?.to_device(x.device());
        let scaled = x.f_index_select(k as i64, &index).op(OP)? * column(&some)?;
        let _ = x.f_index_copy_(k as i64, &index, &scaled).op(OP)?;
    } else {
        let column = column(factor)?;
        let _ = x.f_mul_(&column).op(OP)?;
    }
    Ok(())
}

fn normal(std: f64, seed: u64, size: &[i64]) -> Result<Tensor> {
    let n = size.iter().product::<i64>() as usize;
    let law = Normal::new(0.0, std).map_err(|_| Error::Argument {
        op: OP,
        arg: "fill",
        expected: "a finite standard deviation >= 0".to_owned(),
        got: std.to_string(),
    })?;
    let values: Vec<f64> = law.sample_iter(ChaCha8Rng::seed_from_u64(seed)).take(n).collect();
    Tensor::f_from_slice(&values).and_then(|v| v.f_reshape(size)).op(OP)
}

#[cfg(test)]
mod tests {
    use super::super::plan::{Share, Values};
    use super::*;
    use crate::ParamId;
    use tch::Device;

    fn table() -> Tensor {
        Tensor::from_slice(&[1.0, 2.0, 3.0, 4.0]).view([2, 2])
    }

    fn rows(x: &Tensor) -> Vec<Vec<f64>> {
        Vec::<Vec<f64>>::try_from(x).unwrap()
    }

    fn edit(axes: Vec<AxisPlan>) -> Edit {
        Edit::new(ParamId(0), axes)
    }

    #[test]
    fn each_plan_by_hand() {
        let append = |n, fill| AxisPlan::Append { n, fill };
        let given = Values::new(vec![3, 1], vec![7.0, 8.0, 9.0]).unwrap();
        let both = edit(vec![append(1, Fill::Const(5.0)), append(1, Fill::Given(given))]);
        let got = resize_weight(&table(), &both).unwrap();
        assert_eq!(rows(&got), [[1.0, 2.0, 7.0], [3.0, 4.0, 8.0], [5.0, 5.0, 9.0]]);

        let select = edit(vec![AxisPlan::Keep, AxisPlan::Select(vec![1])]);
        assert_eq!(rows(&resize_weight(&table(), &select).unwrap()), [[2.0], [4.0]]);

        let share = Share::Weighted(vec![0.25, 1.0, 0.75]);
        let copies = AxisPlan::Duplicate { source: vec![0, 1, 0], share };
        let got = resize_weight(&table(), &edit(vec![AxisPlan::Keep, copies])).unwrap();
        assert_eq!(rows(&got), [[0.25, 2.0, 0.75], [0.75, 4.0, 2.25]]);
    }

    #[test]
    fn the_fast_walk_equals_going_axis_by_axis() {
        let x = Tensor::arange(24, (Kind::Double, Device::Cpu)).view([2, 3, 4]);
        let plans = [
            AxisPlan::Append { n: 2, fill: Fill::Normal { std: 1.0, seed: 4 } },
            AxisPlan::Duplicate { source: vec![0, 1, 2, 1], share: Share::Equal },
            AxisPlan::Append { n: 1, fill: Fill::Const(-1.0) },
        ];
        let at_once = resize_weight(&x, &edit(plans.to_vec())).unwrap();
        let mut one_by_one = x;
        for (k, plan) in plans.into_iter().enumerate() {
            one_by_one = resize_weight(&one_by_one, &Edit::axis(ParamId(0), k, plan)).unwrap();
        }
        assert_eq!(at_once, one_by_one);
    }

    #[test]
    fn moments_follow_the_policy() {
        let source = vec![1, 0, 1];
        let plan = AxisPlan::Duplicate { source, share: Share::Weighted(vec![0.25, 1.0, 0.75]) };
        let e = edit(vec![plan.clone()]);
        let of = |policy| rows(&resize_moment(&table(), &e, policy, 1).unwrap());
        assert_eq!(of(MomentPolicy::CopyMapped), [[3.0, 4.0], [1.0, 2.0], [3.0, 4.0]]);
        assert_eq!(of(MomentPolicy::ZeroNew), [[3.0, 4.0], [1.0, 2.0], [0.0, 0.0]]);
        assert_eq!(of(MomentPolicy::MeanOfOld), [[3.0, 4.0], [1.0, 2.0], [2.0, 3.0]]);
        assert_eq!(of(MomentPolicy::ResetAll), [[0.0; 2]; 3]);
        let births = |policy| resize_births(&[3, 5], &plan, policy, 9);
        assert_eq!(births(MomentPolicy::CopyMapped), [5, 3, 5]);
        assert_eq!(births(MomentPolicy::ZeroNew), [5, 3, 9]);
        assert_eq!(births(MomentPolicy::MeanOfOld), [5, 3, 3]);
    }

    #[test]
    fn scales_act_on_weights_and_moments_in_opposite_powers() {
        let e = edit(vec![]).scaled(2.0).gradient_scaled_along(0, vec![1.0, 10.0]);
        assert_eq!(rows(&resize_weight(&table(), &e).unwrap()), [[2.0, 4.0], [6.0, 8.0]]);
        let moment =
            |order| rows(&resize_moment(&table(), &e, MomentPolicy::CopyMapped, order).unwrap());
        assert_eq!(moment(1), [[0.5, 1.0], [15.0, 20.0]]);
        assert_eq!(moment(2), [[0.25, 0.5], [75.0, 100.0]]);
    }
}
