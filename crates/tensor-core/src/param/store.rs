//! All parameters of a model, by name and in creation order.

use super::{Init, Param, ParamId, Role, Slot};
use crate::grow::{ParamSpec, ResizePlan, misfit, resize_weight};
use crate::{Error, Result, SeedTree, error::TorchContext};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt::Display};
use tch::{Device, Kind, Tensor};

/// Number of scalar parameters of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParamCount {
    /// All, buffers included.
    pub total: i64,
    /// Those that optimisers step.
    pub trainable: i64,
    /// By role.
    pub by_role: BTreeMap<Role, i64>,
}

type StoreIndex = Vec<(Param, String)>;

/// Named parameters in creation order.
#[derive(Debug)]
pub struct ParamStore {
    order: Vec<ParamId>,
    by_name: BTreeMap<String, ParamId>,
    slots: BTreeMap<ParamId, Param>,
    next_id: u64,
    device: Device,
    kind: Kind,
    seed: SeedTree,
}

impl ParamStore {
    /// An empty store whose parameters live on `device` with element type `kind`; random initial
    /// values are drawn from `seed`.
    pub fn new(device: Device, kind: Kind, seed: SeedTree) -> Self {
        Self {
            order: Vec::new(),
            by_name: BTreeMap::new(),
            slots: BTreeMap::new(),
            next_id: 0,
            device,
            kind,
            seed,
        }
    }

    /// Device of all parameters.
    pub fn device(&self) -> Device {
        self.device
    }

    /// Element type of all parameters made by [`ParamPath::param`].
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The place where layers create their parameters.
    pub fn root(&mut self) -> ParamPath<'_> {
        ParamPath { store: self, prefix: String::new() }
    }

    /// Number of parameters (tensors, not scalars).
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether the store holds no parameter.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// All parameters in creation order.
    pub fn iter(&self) -> impl Iterator<Item = &Param> {
        self.order.iter().map(|id| &self.slots[id])
    }

    /// The parameters that optimisers step, in creation order.
    pub fn trainable(&self) -> impl Iterator<Item = &Param> {
        self.iter().filter(|p| p.trainable())
    }

    /// Looks a parameter up by name.
    ///
    /// # Errors
    /// [`Error::UnknownParam`].
    pub fn get(&self, name: &str) -> Result<Param> {
        self.by_name
            .get(name)
            .map(|id| self.slots[id].clone())
            .ok_or_else(|| Error::UnknownParam { op: "ParamStore::get", name: name.to_owned() })
    }

    /// Looks a parameter up by identity.
    ///
    /// # Errors
    /// [`Error::UnknownParam`].
    pub fn by_id(&self, id: ParamId) -> Result<Param> {
        self.slots
            .get(&id)
            .cloned()
            .ok_or_else(|| Error::UnknownParam { op: "ParamStore::by_id", name: id.to_string() })
    }

    /// Whether a parameter of this identity is in the store.
    pub fn contains(&self, id: ParamId) -> bool {
        self.slots.contains_key(&id)
    }

    /// Takes a parameter out. Layers that still hold its handle keep the last value.
    ///
    /// # Errors
    /// [`Error::UnknownParam`].
    pub fn remove(&mut self, id: ParamId) -> Result<Param> {
        let param = self.slots.remove(&id).ok_or_else(|| Error::UnknownParam {
            op: "ParamStore::remove",
            name: id.to_string(),
        })?;
        self.order.retain(|other| *other != id);
        self.by_name.remove(&param.name());
        Ok(param)
    }

    /// Renames every parameter whose name is `from` or starts with `from.`; returns how many.
    ///
    /// # Errors
    /// [`Error::DuplicateParam`] when a new name is taken; then nothing is renamed.
    pub fn rename_prefix(&mut self, from: &str, to: &str) -> Result<usize> {
        let below = format!("{from}.");
        let moved: Vec<(String, String, ParamId)> = self
            .by_name
            .iter()
            .filter(|(name, _)| *name == from || name.starts_with(&below))
            .map(|(name, id)| (name.clone(), format!("{to}{}", &name[from.len()..]), *id))
            .collect();
        for (_, new, _) in &moved {
            let taken = self.by_name.contains_key(new) && !moved.iter().any(|(old, ..)| old == new);
            if taken {
                return Err(Error::DuplicateParam {
                    op: "ParamStore::rename_prefix",
                    name: new.clone(),
                });
            }
        }
        for (old, ..) in &moved {
            self.by_name.remove(old);
        }
        for (_, new, id) in &moved {
            self.by_name.insert(new.clone(), *id);
            self.slots[id].slot().name.clone_from(new);
        }
        Ok(moved.len())
    }

    /// Drops all gradients, so that the next backward pass starts from nothing.
    pub fn zero_grad(&self) {
        for param in self.iter() {
            let mut value = param.slot().value.shallow_clone();
            value.zero_grad();
        }
    }

    /// Scalar parameters in total, trainable, and by role.
    pub fn count(&self) -> ParamCount {
        let mut count = ParamCount::default();
        for param in self.iter() {
            let n: i64 = param.size().iter().product();
            count.total += n;
            if param.trainable() {
                count.trainable += n;
            }
            *count.by_role.entry(param.role()).or_default() += n;
        }
        count
    }

    /// Applies a plan to the parameters alone, all or nothing. Where an optimiser holds state for
    /// them, go through [`Trainer::grow`](crate::grow::Trainer::grow), which resizes both.
    ///
    /// # Errors
    /// [`Error::Plan`] naming the parameter that does not fit, [`Error::UnknownParam`] for an id that
    /// is not in the store, [`Error::Torch`] when memory runs out. Nothing is changed then.
    pub fn resize(&mut self, plan: &ResizePlan) -> Result<()> {
        Self::commit_resize(&self.prepare_resize(plan)?);
        Ok(())
    }

    /// The new values of all edited parameters; changes nothing.
    pub(crate) fn prepare_resize(&self, plan: &ResizePlan) -> Result<Vec<(Param, Tensor)>> {
        plan.check_unique()?;
        let params: Vec<Param> =
            plan.edits.iter().map(|edit| self.by_id(edit.param)).collect::<Result<_>>()?;
        // Check all before the first allocation.
        for (edit, param) in plan.edits.iter().zip(&params) {
            edit.new_size(&param.size()).map_err(|why| misfit(param, why))?;
        }
        plan.edits
            .iter()
            .zip(params)
            .map(|(edit, param)| {
                let value = resize_weight(&param.value(), edit)?;
                Ok((param, value))
            })
            .collect()
    }

    pub(crate) fn commit_resize(prepared: &[(Param, Tensor)]) {
        for (param, value) in prepared {
            param.replace(value);
        }
    }

    /// Which parameters there are and what they are called: enough to undo additions, removals and
    /// renames.
    pub(crate) fn index(&self) -> StoreIndex {
        self.iter().map(|p| (p.clone(), p.name())).collect()
    }

    /// Goes back to an earlier [`index`](Self::index). Ids given out since are not reused.
    pub(crate) fn restore_index(&mut self, index: StoreIndex) {
        self.order.clear();
        self.by_name.clear();
        self.slots.clear();
        for (param, name) in index {
            let id = param.id();
            param.slot().name.clone_from(&name);
            self.order.push(id);
            self.by_name.insert(name, id);
            self.slots.insert(id, param);
        }
    }

    /// Index and current leaves: enough to undo a [`reshape_to`](Self::reshape_to).
    pub(crate) fn contents(&self) -> (StoreIndex, Vec<(Param, Tensor)>) {
        (self.index(), self.iter().map(|p| (p.clone(), p.value())).collect())
    }

    /// Goes back to earlier [`contents`](Self::contents).
    pub(crate) fn restore_contents(&mut self, (index, values): (StoreIndex, Vec<(Param, Tensor)>)) {
        self.restore_index(index);
        for (param, value) in values {
            param.slot().value = value;
        }
    }

    /// Makes the store hold exactly the parameters of `target` in that order: those with an id are
    /// kept, renamed and, where sizes differ, replaced by zeros; those without are made of zeros; the
    /// rest goes. Allocates everything before it changes anything.
    pub(crate) fn reshape_to(&mut self, target: &[(Option<ParamId>, ParamSpec)]) -> Result<()> {
        let zeros = |spec: &ParamSpec| {
            Tensor::f_zeros(spec.size.as_slice(), (self.kind, self.device)).op("GrowthLog::rebuild")
        };
        let mut next_id = self.next_id;
        let mut index = Vec::with_capacity(target.len());
        let mut fresh = Vec::new();
        for (id, spec) in target {
            let param = if let Some(id) = id {
                let param = self.by_id(*id)?;
                if param.size() != spec.size {
                    let kind = param.value().kind();
                    fresh.push((param.clone(), zeros(spec)?.to_kind(kind)));
                }
                param
            } else {
                let value = zeros(spec)?.set_requires_grad(spec.trainable);
                let id = ParamId(next_id);
                next_id += 1;
                let ParamSpec { name, role, trainable, .. } = spec.clone();
                Param::new(Slot { id, name, value, role, trainable })
            };
            index.push((param, spec.name.clone()));
        }
        self.next_id = next_id;
        Self::commit_resize(&fresh);
        self.restore_index(index);
        Ok(())
    }

    fn create(&mut self, name: String, value: &Tensor, role: Role) -> Result<Param> {
        if self.by_name.contains_key(&name) {
            return Err(Error::DuplicateParam { op: "ParamPath::param", name });
        }
        let id = ParamId(self.next_id);
        self.next_id += 1;
        let trainable = role.trainable();
        // Row-major always: fused optimiser kernels walk raw memory. A layer that computes in another
        // layout converts in its forward pass.
        let value = value.detach().contiguous().set_requires_grad(trainable);
        let param = Param::new(Slot { id, name: name.clone(), value, role, trainable });
        self.order.push(id);
        self.by_name.insert(name, id);
        self.slots.insert(id, param.clone());
        Ok(param)
    }
}

/// A name prefix in a store: `path.sub("blocks").sub(3).param("attn.q.weight", ..)`.
#[derive(Debug)]
pub struct ParamPath<'a> {
    store: &'a mut ParamStore,
    prefix: String,
}

impl ParamPath<'_> {
    /// The path one segment further down. Borrows this path until the result is dropped.
    pub fn sub(&mut self, segment: impl Display) -> ParamPath<'_> {
        let prefix = self.full(&segment.to_string());
        ParamPath { store: self.store, prefix }
    }

    /// Creates a parameter below this path.
    ///
    /// # Errors
    /// [`Error::DuplicateParam`] when the name is taken, [`Error::Argument`] for a negative size or
    /// an initialiser outside its domain, [`Error::Torch`] when memory runs out.
    pub fn param(&mut self, name: &str, size: &[i64], role: Role, init: &Init) -> Result<Param> {
        let name = self.full(name);
        let n = size
            .iter()
            .try_fold(1_i64, |n, d| if *d < 0 { None } else { n.checked_mul(*d) })
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| Error::Argument {
                op: "ParamPath::param",
                arg: "size",
                expected: format!("sizes >= 0 whose product fits memory, for `{name}`"),
                got: format!("{size:?}"),
            })?;
        let values = init.draw(n, &mut self.store.seed.child("init").child(&name).rng())?;
        let value = Tensor::f_from_slice(&values).op("ParamPath::param")?;
        let value = value
            .f_reshape(size)
            .and_then(|v| v.f_to_kind(self.store.kind))
            .and_then(|v| v.f_to_device(self.store.device))
            .op("ParamPath::param")?;
        self.store.create(name, &value, role)
    }

    /// Creates a parameter with given values, converted to the store's kind and device.
    ///
    /// # Errors
    /// [`Error::DuplicateParam`] when the name is taken, [`Error::Torch`] when the move fails.
    pub fn given(&mut self, name: &str, values: &Tensor, role: Role) -> Result<Param> {
        let name = self.full(name);
        let value = values
            .detach()
            .f_to_device(self.store.device)
            .and_then(|v| v.f_to_kind(self.store.kind))
            .op("ParamPath::given")?
            .copy();
        self.store.create(name, &value, role)
    }

    /// Device of the store.
    pub fn device(&self) -> Device {
        self.store.device
    }

    /// Element type of the store.
    pub fn kind(&self) -> Kind {
        self.store.kind
    }

    fn full(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grow::{AxisPlan, Edit, Fill};

    fn store() -> ParamStore {
        ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(3))
    }

    fn zeros(store: &mut ParamStore, name: &str, size: &[i64], role: Role) -> Param {
        store.root().param(name, size, role, &Init::Zeros).unwrap()
    }

    #[test]
    fn values_depend_on_seed_and_name_not_on_order() {
        let make = |names: [&str; 2]| {
            let mut store = store();
            for name in names {
                store
                    .root()
                    .sub("block")
                    .param(name, &[3, 2], Role::Weight, &Init::Normal { std: 1.0 })
                    .unwrap();
            }
            store.get("block.a").unwrap().value()
        };
        assert_eq!(make(["a", "b"]), make(["b", "a"]));
    }

    #[test]
    fn handles_see_the_new_leaf_and_old_graphs_do_no_harm() {
        let mut store = store();
        let w = zeros(&mut store, "w", &[2], Role::Weight);
        let old_loss = w.value().sum(Kind::Double);
        old_loss.f_mul_scalar(1.0).unwrap().backward();
        assert!(w.grad().is_some());
        let append = AxisPlan::Append { n: 3, fill: Fill::Const(2.0) };
        store.resize(&ResizePlan::new("").with(Edit::axis(w.id(), 0, append))).unwrap();
        assert!(w.grad().is_none(), "the gradient went with the old leaf");
        // The graph of before the resize still ends in the old leaf.
        old_loss.backward();
        assert!(w.grad().is_none());
        w.value().sum(Kind::Double).backward();
        assert_eq!(w.grad().unwrap().size(), [5]);
    }

    #[test]
    fn names_are_unique_and_lookups_say_what_is_missing() {
        let mut store = store();
        let w = zeros(&mut store, "w", &[1], Role::Weight);
        assert!(matches!(
            store.root().param("w", &[1], Role::Weight, &Init::Zeros),
            Err(Error::DuplicateParam { .. })
        ));
        assert!(matches!(store.get("v"), Err(Error::UnknownParam { .. })));
        assert!(matches!(
            store.root().param("n", &[-1], Role::Weight, &Init::Zeros),
            Err(Error::Argument { .. })
        ));
        assert!(matches!(
            store.root().param("n", &[i64::MAX, 4], Role::Weight, &Init::Zeros),
            Err(Error::Argument { .. })
        ));
        assert!(matches!(
            store.root().param("n", &[1], Role::Weight, &Init::Normal { std: f64::NAN }),
            Err(Error::Argument { .. })
        ));
        store.remove(w.id()).unwrap();
        assert!(store.is_empty() && store.by_id(w.id()).is_err());
        let again = zeros(&mut store, "w", &[1], Role::Weight);
        assert_ne!(again.id(), w.id(), "an id is never used twice");
    }

    #[test]
    fn renaming_moves_a_subtree_or_nothing() {
        let mut store = store();
        for name in ["blocks.1.w", "blocks.1.b", "blocks.10.w", "blocks.2.b"] {
            zeros(&mut store, name, &[1], Role::Weight);
        }
        assert!(store.rename_prefix("blocks.1", "blocks.2").is_err());
        assert!(store.get("blocks.1.w").is_ok());
        assert_eq!(store.rename_prefix("blocks.1", "blocks.3").unwrap(), 2);
        assert!(store.get("blocks.3.b").is_ok() && store.get("blocks.10.w").is_ok());
        assert_eq!(store.get("blocks.3.w").unwrap().name(), "blocks.3.w");
    }

    #[test]
    fn counts_by_role_and_freezing() {
        let mut store = store();
        let w = zeros(&mut store, "w", &[4, 3], Role::Weight);
        zeros(&mut store, "b", &[3], Role::Bias);
        zeros(&mut store, "seen", &[2], Role::Buffer);
        let count = store.count();
        assert_eq!((count.total, count.trainable, count.by_role[&Role::Buffer]), (17, 15, 2));
        w.set_trainable(false);
        assert_eq!(store.count().trainable, 3);
        assert!(!w.value().requires_grad());
        let text = serde_json::to_string(&count).unwrap();
        assert_eq!(serde_json::from_str::<ParamCount>(&text).unwrap(), count);
    }

    #[test]
    fn copying_checks_sizes() {
        let mut store = store();
        let w = zeros(&mut store, "w", &[2], Role::Weight);
        assert!(matches!(
            w.copy_from(&Tensor::ones([3], (Kind::Double, Device::Cpu))),
            Err(Error::Shape { .. })
        ));
        w.copy_from(&Tensor::ones([2], (Kind::Float, Device::Cpu))).unwrap();
        assert!((w.value().sum(Kind::Double).double_value(&[]) - 2.0).abs() < 1e-15);
    }

    #[test]
    fn an_index_can_be_restored() {
        let mut store = store();
        let w = zeros(&mut store, "w", &[1], Role::Weight);
        let index = store.index();
        store.rename_prefix("w", "v").unwrap();
        zeros(&mut store, "new", &[1], Role::Weight);
        store.remove(w.id()).unwrap();
        store.restore_index(index);
        assert_eq!(store.len(), 1);
        assert_eq!(store.get("w").unwrap().id(), w.id());
        assert_eq!(w.name(), "w");
    }
}
