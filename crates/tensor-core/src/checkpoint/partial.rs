//! Compares a checkpoint with a trainer and fills what agrees.

use super::{MODEL, OPTIM};
use crate::grow::{GrowthLog, ParamSpec, Trainer};
use crate::optim::{Optimizer, ParamState};
use crate::{Error, Param, ParamId, Result, runtime};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use tch::{Device, Kind, Tensor};

/// What to do when checkpoint and store disagree.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum LoadPolicy {
    /// The first disagreement is an error and nothing is loaded.
    #[default]
    Strict,
    /// What agrees is loaded; the report lists the rest. Sizes of the store stay as they are when the
    /// growth log does not fit.
    Partial,
}

/// What agreed and what did not, by tensor name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Parameters that were filled.
    pub loaded: Vec<String>,
    /// In the store, not in the file.
    pub missing: Vec<String>,
    /// In the file, not in the store.
    pub unexpected: Vec<String>,
    /// Name, sizes in the store, sizes in the file.
    pub wrong_shape: Vec<(String, Vec<i64>, Vec<i64>)>,
    /// Name, kind in the store, kind in the file.
    pub wrong_kind: Vec<(String, Kind, Kind)>,
    /// Parameters whose optimiser state was not taken; they start afresh.
    pub without_state: Vec<String>,
}

impl LoadReport {
    /// Whether every tensor agreed.
    pub fn is_complete(&self) -> bool {
        let Self { loaded: _, missing, unexpected, wrong_shape, wrong_kind, without_state } = self;
        missing.is_empty()
            && unexpected.is_empty()
            && wrong_shape.is_empty()
            && wrong_kind.is_empty()
            && without_state.is_empty()
    }
}

/// The tensors of a checkpoint, by parameter.
pub(super) struct Contents {
    folder: PathBuf,
    params: Vec<ParamSpec>,
    model: BTreeMap<String, Tensor>,
    optim: BTreeMap<String, BTreeMap<String, Tensor>>,
}

impl Contents {
    /// Checks `model.safetensors` against the list in `state.json` and sorts the optimiser's entries.
    pub(super) fn sort(
        folder: &Path,
        params: &[ParamSpec],
        model: Vec<(String, Tensor)>,
        optim: Vec<(String, Tensor)>,
    ) -> Result<Self> {
        let model: BTreeMap<String, Tensor> = model.into_iter().collect();
        let path = || folder.join(MODEL);
        for spec in params {
            let Some(tensor) = model.get(&spec.name) else {
                return Err(Error::MissingTensor { path: path(), name: spec.name.clone() });
            };
            if tensor.size() != spec.size {
                return Err(Error::File {
                    path: path(),
                    field: format!("{}.shape", spec.name),
                    expected: format!("{:?} as state.json says", spec.size),
                    found: format!("{:?}", tensor.size()),
                });
            }
        }
        if model.len() != params.len() {
            let known = |name: &&String| params.iter().any(|s| s.name == **name);
            let extra = model.keys().find(|n| !known(n)).cloned();
            let name = extra.unwrap_or_else(|| "a name listed twice in state.json".to_owned());
            return Err(Error::UnexpectedTensor { path: path(), name });
        }
        let mut by_param: BTreeMap<String, BTreeMap<String, Tensor>> = BTreeMap::new();
        for (name, tensor) in optim {
            let Some((param, part)) = name.rsplit_once('.') else {
                return Err(Error::UnexpectedTensor { path: folder.join(OPTIM), name });
            };
            by_param.entry(param.to_owned()).or_default().insert(part.to_owned(), tensor);
        }
        Ok(Self { folder: folder.to_owned(), params: params.to_vec(), model, optim: by_param })
    }

    /// Rebuilds the grown shapes where needed and fills the trainer, all or nothing. Also returns
    /// whether the growth log led to the trainer's shapes.
    pub(super) fn fill<O: Optimizer>(
        self,
        trainer: &mut Trainer<O>,
        log: &GrowthLog,
        generator: Option<&Tensor>,
        policy: LoadPolicy,
    ) -> Result<(LoadReport, bool)> {
        let _guard = tch::no_grad_guard();
        let undo = trainer.store.contents();
        let same_shapes = trainer.store.len() == self.params.len()
            && self
                .params
                .iter()
                .all(|spec| trainer.store.get(&spec.name).is_ok_and(|p| p.size() == spec.size));
        let mut log_fits = true;
        if !same_shapes {
            let rebuilt = log.rebuild(&mut trainer.store);
            log_fits = rebuilt.is_ok();
            if policy == LoadPolicy::Strict {
                rebuilt?;
            }
        }
        let filled = self.compare_and_fill(trainer, generator, policy);
        if filled.is_err() {
            trainer.store.restore_contents(undo);
        }
        Ok((filled?, log_fits))
    }

    fn compare_and_fill<O: Optimizer>(
        mut self,
        trainer: &mut Trainer<O>,
        generator: Option<&Tensor>,
        policy: LoadPolicy,
    ) -> Result<LoadReport> {
        let mut report = LoadReport::default();
        let mut values: Vec<(Param, Tensor)> = Vec::new();
        for param in trainer.store.iter() {
            let name = param.name();
            let (size, kind) = (param.size(), param.value().kind());
            match self.model.remove(&name) {
                None => report.missing.push(name),
                Some(t) if t.size() != size => report.wrong_shape.push((name, size, t.size())),
                Some(t) if t.kind() != kind => report.wrong_kind.push((name, kind, t.kind())),
                Some(t) => values.push((param.clone(), t)),
            }
        }
        report.unexpected.extend(self.model.keys().cloned());
        if policy == LoadPolicy::Strict {
            self.first_disagreement(&report)?;
        }

        let mut states: Vec<(ParamId, Option<ParamState>)> = Vec::new();
        let table = trainer.optim.states();
        for (param, _) in &values {
            let name = param.name();
            let Some(parts) = self.optim.remove(&name) else {
                states.push((param.id(), None));
                continue;
            };
            let unknown = parts.keys().find(|part| !table.knows(part, param.size().len())).cloned();
            let read = match unknown {
                None => table.read_state(param, parts),
                Some(part) => Err(self.unexpected_state(&format!("{name}.{part}"))),
            };
            match read {
                Ok(state) => states.push((param.id(), Some(state))),
                Err(error) if policy == LoadPolicy::Strict => return Err(error),
                Err(_) => {
                    report.without_state.push(name);
                    states.push((param.id(), None));
                }
            }
        }
        if policy == LoadPolicy::Strict
            && let Some((name, parts)) = self.optim.iter().next()
        {
            let part = parts.keys().next().map_or("", String::as_str);
            return Err(self.unexpected_state(&format!("{name}.{part}")));
        }

        // The generator comes first, as it alone can still refuse.
        match generator {
            Some(state) => runtime::set_generator_state(Device::Cpu, state)?,
            None if policy == LoadPolicy::Strict => {
                let name = super::GENERATOR.to_owned();
                return Err(Error::MissingTensor { path: self.folder.join(OPTIM), name });
            }
            None => {}
        }
        for (param, value) in &values {
            param.copy_from(value)?;
            report.loaded.push(param.name());
        }
        for (param, _) in &values {
            if let Some(spec) = self.params.iter().find(|s| s.name == param.name())
                && param.trainable() != spec.trainable
            {
                param.set_trainable(spec.trainable);
            }
        }
        trainer.optim.states_mut().restore(states);
        Ok(report)
    }

    fn first_disagreement(&self, report: &LoadReport) -> Result<()> {
        const OP: &str = "checkpoint::load";
        let path = self.folder.join(MODEL);
        if let Some(name) = report.missing.first() {
            return Err(Error::MissingTensor { path, name: name.clone() });
        }
        if let Some(name) = report.unexpected.first() {
            return Err(Error::UnexpectedTensor { path, name: name.clone() });
        }
        if let Some((name, want, got)) = report.wrong_shape.first() {
            let expected = format!("{want:?}");
            return Err(Error::Shape { op: OP, arg: name.clone(), expected, got: got.clone() });
        }
        if let Some((name, want, got)) = report.wrong_kind.first() {
            let expected = format!("{want:?}");
            return Err(Error::Kind { op: OP, arg: name.clone(), expected, got: *got });
        }
        Ok(())
    }

    fn unexpected_state(&self, name: &str) -> Error {
        Error::UnexpectedTensor { path: self.folder.join(OPTIM), name: name.to_owned() }
    }
}
