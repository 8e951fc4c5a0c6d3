//! Store and optimiser as one thing that steps and grows.

use super::log::{Change, FunctionChange, GrowthEvent, GrowthLog, ParamSpec, Resized};
use super::plan::ResizePlan;
use crate::optim::{ClipConfig, GradNorm, Optimizer, StepReport, clip_grad_norm};
use crate::{Error, Param, ParamCount, ParamId, ParamStore, Result, error::TorchContext};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

/// A store, its optimiser, the number of steps taken and the growth log.
///
/// Growth goes through [`grow`](Self::grow), which takes `&mut self`: it cannot happen in the middle
/// of anything that borrows the trainer, and it keeps store and optimiser of one shape.
#[derive(Debug)]
pub struct Trainer<O> {
    /// The parameters.
    pub store: ParamStore,
    /// The optimiser of those parameters.
    pub optim: O,
    /// Clipping before each step; `None` (the default) leaves gradients alone.
    pub clip: Option<ClipConfig>,
    pub(crate) step: u64,
    pub(crate) log: GrowthLog,
}

impl<O: Optimizer> Trainer<O> {
    /// Joins a store and an optimiser.
    pub fn new(store: ParamStore, optim: O) -> Self {
        Self { store, optim, clip: None, step: 0, log: GrowthLog::default() }
    }

    /// Steps taken, skipped ones included.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// All growth events so far.
    pub fn growth_log(&self) -> &GrowthLog {
        &self.log
    }

    /// Clips when configured, steps the optimiser at learning rate `lr` and drops the gradients.
    ///
    /// # Errors
    /// Those of [`clip_grad_norm`] and of [`Optimizer::step_guarded`]; then nothing is changed.
    pub fn step(&mut self, lr: f64) -> Result<StepReport> {
        let guard: Option<GradNorm> =
            self.clip.map(|clip| clip_grad_norm(&self.store, &clip)).transpose()?;
        let report = self.optim.step_guarded(&self.store, lr, guard.as_ref())?;
        self.store.zero_grad();
        self.step += 1;
        Ok(report)
    }

    /// Back-propagates `loss` and [`step`](Self::step)s.
    ///
    /// # Errors
    /// [`Error::Torch`] when the backward pass fails, and those of [`step`](Self::step).
    pub fn backward_step(&mut self, loss: &Tensor, lr: f64) -> Result<StepReport> {
        loss.f_backward().op("Trainer::backward_step")?;
        self.step(lr)
    }

    /// Applies `plan` to store and optimiser, all or nothing, and logs it.
    ///
    /// Everything new is computed and checked before anything is put in place, so the peak memory is
    /// that of old and new together.
    ///
    /// # Errors
    /// [`Error::Plan`] naming the parameter that does not fit, [`Error::UnknownParam`] for an id that
    /// the store does not have, [`Error::Torch`] when memory runs out. Nothing is changed then.
    pub fn grow(&mut self, plan: &ResizePlan) -> Result<()> {
        let before = self.store.count();
        let resized = self.apply(plan)?;
        self.record(plan, resized, before, None);
        Ok(())
    }

    /// [`grow`](Self::grow), with the outputs of `probe` on a held batch compared before and after.
    /// The measured change goes to the growth log and is returned.
    ///
    /// `probe` runs the model without recording a graph; it must be deterministic.
    ///
    /// # Errors
    /// Those of [`grow`](Self::grow), whatever `probe` returns, [`Error::Shape`] when the outputs
    /// change their sizes and [`Error::NonFinite`] when one is not finite. Nothing is changed then.
    pub fn grow_checked(
        &mut self,
        plan: &ResizePlan,
        mut probe: impl FnMut() -> Result<Tensor>,
    ) -> Result<FunctionChange> {
        let _guard = tch::no_grad_guard();
        let reference = probe()?.detach().copy();
        let count = self.store.count();
        let ids: Vec<ParamId> = plan.edits.iter().map(|e| e.param).collect();
        let old_values: Vec<(Param, Tensor)> = self
            .store
            .iter()
            .filter(|p| ids.contains(&p.id()))
            .map(|p| (p.clone(), p.value()))
            .collect();
        let old_states = self.optim.states().snapshot(&ids);
        let resized = self.apply(plan)?;
        let measured = probe().and_then(|after| function_change(&reference, &after, self.step));
        match measured {
            Ok(change) => {
                self.record(plan, resized, count, Some(change));
                Ok(change)
            }
            Err(error) => {
                // The old leaves themselves go back, so even a live graph finds its parameters.
                for (param, value) in old_values {
                    param.slot().value = value;
                }
                self.optim.states_mut().restore(old_states);
                Err(error)
            }
        }
    }

    /// Adds, removes or renames whole parameters: `edit` gets the store and may build layers in it.
    /// State of removed parameters is dropped; new ones get theirs at their first step. The
    /// difference is logged under `reason`.
    ///
    /// # Errors
    /// Whatever `edit` returns; then the store has its parameters and names of before. (Values that
    /// `edit` overwrote stay overwritten: it should create and remove, not fill.)
    pub fn restructure<T>(
        &mut self,
        reason: &str,
        edit: impl FnOnce(&mut ParamStore) -> Result<T>,
    ) -> Result<T> {
        let before = self.store.count();
        let old: Vec<ParamSpec> = self.store.iter().map(ParamSpec::of).collect();
        let index = self.store.index();
        let out = match edit(&mut self.store) {
            Ok(out) => out,
            Err(error) => {
                self.store.restore_index(index);
                return Err(error);
            }
        };
        let new: BTreeMap<ParamId, String> =
            self.store.iter().map(|p| (p.id(), p.name())).collect();
        let mut removed = Vec::new();
        let mut renamed = Vec::new();
        for spec in &old {
            match new.get(&spec.id) {
                None => {
                    self.optim.states_mut().forget(spec.id);
                    removed.push(spec.name.clone());
                }
                Some(name) if *name != spec.name => renamed.push((spec.name.clone(), name.clone())),
                Some(_) => {}
            }
        }
        let added = self
            .store
            .iter()
            .filter(|p| old.iter().all(|s| s.id != p.id()))
            .map(ParamSpec::of)
            .collect();
        self.log.events.push(GrowthEvent {
            step: self.step,
            reason: reason.to_owned(),
            change: Change::Structure { added, removed, renamed },
            before,
            after: self.store.count(),
            function_change: None,
        });
        Ok(out)
    }

    fn apply(&mut self, plan: &ResizePlan) -> Result<Vec<Resized>> {
        let prepared = self.store.prepare_resize(plan)?;
        let resized = prepared
            .iter()
            .map(|(p, new)| Resized { name: p.name(), from: p.size(), to: new.size() })
            .collect();
        // The optimiser changes all of its state or none; putting leaves in place cannot fail.
        self.optim.resize(plan)?;
        ParamStore::commit_resize(&prepared);
        Ok(resized)
    }

    fn record(
        &mut self,
        plan: &ResizePlan,
        resized: Vec<Resized>,
        before: ParamCount,
        function_change: Option<FunctionChange>,
    ) {
        let after = self.store.count();
        tracing::info!(
            step = self.step,
            reason = plan.reason,
            before = before.total,
            after = after.total,
            "grew"
        );
        self.log.events.push(GrowthEvent {
            step: self.step,
            reason: plan.reason.clone(),
            change: Change::Resize { plan: plan.clone(), resized },
            before,
            after,
            function_change,
        });
    }
}

fn function_change(before: &Tensor, after: &Tensor, step: u64) -> Result<FunctionChange> {
    const OP: &str = "Trainer::grow_checked";
    if before.size() != after.size() {
        return Err(Error::Shape {
            op: OP,
            arg: "probe output after growth".to_owned(),
            expected: format!("{:?} as before", before.size()),
            got: after.size(),
        });
    }
    if before.numel() == 0 {
        return Ok(FunctionChange { max_abs: 0.0, relative: 0.0 });
    }
    let read = |x: Tensor| x.f_abs().and_then(|x| x.f_max()).and_then(|x| x.f_double_value(&[]));
    let before = before.f_to_kind(Kind::Double).op(OP)?;
    let after = after.f_to_kind(Kind::Double).op(OP)?;
    let max_abs = read(&after - &before).op(OP)?;
    let scale = read(before).op(OP)?;
    if !max_abs.is_finite() || !scale.is_finite() {
        return Err(Error::NonFinite { op: OP, what: "probe output".to_owned(), step });
    }
    Ok(FunctionChange { max_abs, relative: if scale > 0.0 { max_abs / scale } else { max_abs } })
}
