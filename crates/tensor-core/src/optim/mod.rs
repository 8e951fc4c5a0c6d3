//! Optimisers whose state can be read, saved and resized.
//!
//! State is keyed by [`ParamId`], so it survives renames and growth. Each entry of a parameter has
//! an age: rows and columns that growth added late get their own bias correction, counted from
//! their birth ([`ParamState`]).

mod adamw;
mod clip;
mod fused;
mod sgd;
mod state;

pub use adamw::{AdamW, AdamWConfig};
pub use clip::{ClipConfig, GradNorm, NonFinite, clip_grad_norm};
pub use sgd::{Sgd, SgdConfig};
pub use state::{Moment, ParamState, StateTable};

use crate::grow::ResizePlan;
use crate::{Error, Param, ParamId, ParamStore, Result, error::TorchContext};
use tch::{Kind, Tensor};

/// What a step did, as far as the host knows without asking the device.
#[derive(Debug, Default)]
pub struct StepReport {
    /// Parameters that were stepped.
    pub stepped: usize,
    /// Trainable parameters that had no gradient; neither they nor their state changed.
    pub without_grad: Vec<ParamId>,
    /// Norm of all gradients before clipping, a scalar tensor; `None` when the step was not guarded.
    pub grad_norm: Option<Tensor>,
    /// Norm of the change of all parameters, a scalar tensor; `None` unless the optimiser was asked
    /// to track it (which costs a copy of the parameters).
    pub update_norm: Option<Tensor>,
    /// 1 when the step was skipped on the device, a scalar float32 tensor; `None` when unguarded.
    pub(crate) found_inf: Option<Tensor>,
}

impl StepReport {
    /// Whether the step was skipped because the gradient norm was not finite. Reads one number from
    /// the device; call it where metrics are read, not every step.
    ///
    /// # Errors
    /// [`Error::Torch`] when the read fails.
    pub fn was_skipped(&self) -> Result<bool> {
        match &self.found_inf {
            None => Ok(false),
            Some(flag) => Ok(flag.f_double_value(&[]).op("StepReport::was_skipped")? != 0.0),
        }
    }
}

/// A rule that moves trainable parameters along their gradients.
///
/// The state lives in a [`StateTable`]; everything that reads, saves or resizes it is provided.
pub trait Optimizer {
    /// Steps all trainable parameters that have a gradient, at learning rate `lr`. With a `guard`
    /// whose norm is not finite, nothing changes: the decision is made on the device.
    ///
    /// State of parameters that have left the store is dropped.
    ///
    /// # Errors
    /// [`Error::Argument`] when `lr` is not finite or negative, [`Error::Kind`] when a parameter is
    /// neither float32 nor float64, [`Error::Plan`] when a parameter changed its sizes without its
    /// state, [`Error::Torch`] when libtorch refuses.
    fn step_guarded(
        &mut self,
        store: &ParamStore,
        lr: f64,
        guard: Option<&GradNorm>,
    ) -> Result<StepReport>;

    /// The state of all parameters.
    fn states(&self) -> &StateTable;

    /// The state of all parameters, to change it.
    fn states_mut(&mut self) -> &mut StateTable;

    /// [`step_guarded`](Self::step_guarded) without a guard.
    ///
    /// # Errors
    /// As there.
    fn step(&mut self, store: &ParamStore, lr: f64) -> Result<StepReport> {
        self.step_guarded(store, lr, None)
    }

    /// Applies a plan to the state, all or nothing. Call it through
    /// [`Trainer::grow`](crate::grow::Trainer::grow), which resizes the parameters as well.
    ///
    /// # Errors
    /// [`Error::Plan`] when an edit does not fit, [`Error::Torch`] when memory runs out.
    fn resize(&mut self, plan: &ResizePlan) -> Result<()> {
        self.states_mut().resize(plan)
    }

    /// State of one parameter; `None` before its first step.
    fn state(&self, id: ParamId) -> Option<&ParamState> {
        self.states().get(id)
    }

    /// All state under `<parameter name>.<moment>`, `.step` and `.born<axis>`, in the store's order.
    /// The tensors share storage with the state.
    ///
    /// # Errors
    /// [`Error::Torch`] when a tensor cannot be made.
    fn state_dict(&self, store: &ParamStore) -> Result<Vec<(String, Tensor)>> {
        self.states().to_dict(store)
    }

    /// Replaces all state by what [`state_dict`](Self::state_dict) gave, all or nothing.
    ///
    /// # Errors
    /// [`Error::UnknownParam`] for an entry that belongs to no parameter or moment,
    /// [`Error::Argument`] for a parameter with some of its entries missing, [`Error::Shape`] and
    /// [`Error::Kind`] for tensors that do not fit their parameter.
    fn load_state_dict(
        &mut self,
        store: &ParamStore,
        tensors: Vec<(String, Tensor)>,
    ) -> Result<()> {
        self.states_mut().load_dict(store, tensors)
    }
}

impl<O: Optimizer + ?Sized> Optimizer for Box<O> {
    fn step_guarded(
        &mut self,
        store: &ParamStore,
        lr: f64,
        guard: Option<&GradNorm>,
    ) -> Result<StepReport> {
        (**self).step_guarded(store, lr, guard)
    }
    fn states(&self) -> &StateTable {
        (**self).states()
    }
    fn states_mut(&mut self) -> &mut StateTable {
        (**self).states_mut()
    }
}

/// One trainable parameter with its gradient, checked.
pub(crate) struct Stepped {
    pub(crate) param: Param,
    pub(crate) value: Tensor,
    pub(crate) grad: Tensor,
}

/// Collects what an optimiser has to step and checks it; shared by all optimisers.
pub(crate) fn gather(
    op: &'static str,
    store: &ParamStore,
    lr: f64,
    report: &mut StepReport,
) -> Result<Vec<Stepped>> {
    if !lr.is_finite() || lr < 0.0 {
        return Err(Error::Argument {
            op,
            arg: "lr",
            expected: "finite and >= 0".to_owned(),
            got: lr.to_string(),
        });
    }
    let mut stepped = Vec::with_capacity(store.len());
    for param in store.iter() {
        let slot = param.slot();
        if !slot.trainable {
            continue;
        }
        let grad = slot.value.grad();
        if !grad.defined() {
            report.without_grad.push(slot.id);
            continue;
        }
        let kind = slot.value.kind();
        if !matches!(kind, Kind::Float | Kind::Double) {
            return Err(Error::Kind {
                op,
                arg: slot.name.clone(),
                expected: "Float or Double (compute in 16 bit by casting, not by storing)"
                    .to_owned(),
                got: kind,
            });
        }
        let value = slot.value.shallow_clone();
        drop(slot);
        stepped.push(Stepped { param: param.clone(), value, grad });
    }
    report.stepped = stepped.len();
    Ok(stepped)
}

/// Copies of the values before a step, when the update norm is tracked.
pub(crate) fn copies(stepped: &[Stepped], track: bool) -> Option<Vec<Tensor>> {
    track.then(|| stepped.iter().map(|s| s.value.detach().copy()).collect())
}

/// Norm of the change since [`copies`].
pub(crate) fn update_norm(
    stepped: &[Stepped],
    before: Option<&[Tensor]>,
) -> Result<Option<Tensor>> {
    let Some(before) = before else { return Ok(None) };
    let diffs = stepped.iter().zip(before).map(|(s, b)| s.value.detach() - b);
    clip::total_norm(diffs).map(Some)
}
