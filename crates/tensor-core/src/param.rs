//! Parameters that can change their size while layers keep their handles.
//!
//! A layer holds a [`Param`] and asks for its [`value`](Param::value) at each forward pass. Growth
//! puts a new leaf tensor into the slot behind the handle, so every holder sees it at its next call.

use crate::{Error, Result, SeedTree, error::TorchContext};
use rand::Rng;
use rand_distr::{Distribution, Normal, Uniform};
use serde::{Deserialize, Serialize};
use std::{
    cell::Cell,
    collections::BTreeMap,
    fmt::{self, Display},
    marker::PhantomData,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tch::{Device, Kind, Tensor};

/// Identity of a parameter within its store: never reused, survives resizing and renaming.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ParamId(pub(crate) u64);

impl Display for ParamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// What a parameter is for; decides weight decay and whether it is trained.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Ord, PartialOrd, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Matrix or kernel; decays.
    Weight,
    /// Additive offset; does not decay.
    Bias,
    /// Scale or shift of a normalisation; does not decay.
    Norm,
    /// Look-up table; does not decay unless configured.
    Embedding,
    /// Gate or mixing coefficient; decays as a weight.
    Gate,
    /// Saved but not trained.
    Buffer,
}

impl Role {
    /// Whether a parameter of this role is trained when it is created.
    pub fn trainable(self) -> bool {
        self != Self::Buffer
    }
}

/// Initial values. Random ones are drawn from the store's [`SeedTree`] under the parameter's name,
/// so they depend on seed and name alone, not on the order of creation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// All zeros.
    Zeros,
    /// All ones.
    Ones,
    /// One constant.
    Const(f64),
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Uniform on `[-bound, bound]`.
    Uniform {
        /// Half-width.
        bound: f64,
    },
    /// Uniform on `[-1/sqrt(fan_in), 1/sqrt(fan_in)]`: what `PyTorch` gives linear and convolution
    /// layers, weight and bias alike. `fan_in` counts the inputs of one output unit.
    FanIn {
        /// Inputs of one output unit.
        fan_in: i64,
    },
}

impl Init {
    /// Draws values of `size` in row-major order as float64.
    fn draw(&self, n: usize, rng: &mut impl Rng) -> Result<Vec<f64>> {
        let bad = |what: &str, got: f64| Error::Argument {
            op: "Init",
            arg: "init",
            expected: format!("a finite non-negative {what}"),
            got: got.to_string(),
        };
        Ok(match *self {
            Self::Zeros => vec![0.0; n],
            Self::Ones => vec![1.0; n],
            Self::Const(c) => vec![c; n],
            Self::Normal { std } => {
                if !std.is_finite() || std < 0.0 {
                    return Err(bad("standard deviation", std));
                }
                let law = Normal::new(0.0, std).map_err(|_| bad("standard deviation", std))?;
                law.sample_iter(rng).take(n).collect()
            }
            Self::Uniform { bound } => {
                if !bound.is_finite() || bound < 0.0 {
                    return Err(bad("bound", bound));
                }
                let law = Uniform::new_inclusive(-bound, bound).map_err(|_| bad("bound", bound))?;
                law.sample_iter(rng).take(n).collect()
            }
            Self::FanIn { fan_in } => {
                let bound = if fan_in > 0 { 1.0 / (fan_in as f64).sqrt() } else { 0.0 };
                return Self::Uniform { bound }.draw(n, rng);
            }
        })
    }
}

pub(crate) struct Slot {
    pub(crate) id: ParamId,
    pub(crate) name: String,
    pub(crate) value: Tensor,
    pub(crate) role: Role,
    pub(crate) trainable: bool,
}

/// Handle to one parameter: cheap to clone, kept by layers. `Send` but not `Sync`, like a tensor.
#[derive(Clone)]
pub struct Param(Arc<Mutex<Slot>>, PhantomData<Cell<()>>);

impl fmt::Debug for Param {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slot = self.slot();
        write!(f, "Param({} {} {:?} {:?})", slot.id, slot.name, slot.role, slot.value.size())
    }
}

impl Param {
    pub(crate) fn new(slot: Slot) -> Self {
        Self(Arc::new(Mutex::new(slot)), PhantomData)
    }

    pub(crate) fn slot(&self) -> MutexGuard<'_, Slot> {
        // A panic while the lock is held cannot leave a slot half-written: each edit is one store.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current tensor (a handle that shares storage). A leaf when the parameter is trained.
    pub fn value(&self) -> Tensor {
        self.slot().value.shallow_clone()
    }

    /// Accumulated gradient, `None` before the first backward pass.
    pub fn grad(&self) -> Option<Tensor> {
        let grad = self.slot().value.grad();
        grad.defined().then_some(grad)
    }

    /// Identity within the store.
    pub fn id(&self) -> ParamId {
        self.slot().id
    }

    /// Current name within the store, segments joined by dots.
    pub fn name(&self) -> String {
        self.slot().name.clone()
    }

    /// What the parameter is for.
    pub fn role(&self) -> Role {
        self.slot().role
    }

    /// Current sizes.
    pub fn size(&self) -> Vec<i64> {
        self.slot().value.size()
    }

    /// Whether optimisers step it and gradients are recorded for it.
    pub fn trainable(&self) -> bool {
        self.slot().trainable
    }

    /// Freezes or thaws the parameter. Freezing drops its gradient.
    pub fn set_trainable(&self, trainable: bool) {
        let mut slot = self.slot();
        slot.trainable = trainable;
        slot.value = slot.value.detach().set_requires_grad(trainable);
    }

    /// Overwrites the values in place; sizes stay. Kind and device are converted.
    ///
    /// # Errors
    /// [`Error::Shape`] when the sizes differ.
    pub fn copy_from(&self, values: &Tensor) -> Result<()> {
        let slot = self.slot();
        let size = slot.value.size();
        if values.size() != size {
            return Err(Error::Shape {
                op: "Param::copy_from",
                arg: slot.name.clone(),
                expected: format!("{size:?}"),
                got: values.size(),
            });
        }
        let _guard = tch::no_grad_guard();
        slot.value.shallow_clone().f_copy_(values).op("Param::copy_from")?;
        Ok(())
    }

    /// Puts a new leaf of any size into the slot; the old gradient goes with the old leaf.
    pub(crate) fn replace(&self, value: &Tensor) {
        let mut slot = self.slot();
        let trainable = slot.trainable;
        slot.value = value.detach().set_requires_grad(trainable);
    }
}

/// Number of scalar parameters of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ParamCount {
    /// All, buffers included.
    pub total: i64,
    /// Those that optimisers step.
    pub trainable: i64,
    /// By role.
    pub by_role: BTreeMap<Role, i64>,
}

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

    fn create(&mut self, name: String, value: &Tensor, role: Role) -> Result<Param> {
        if self.by_name.contains_key(&name) {
            return Err(Error::DuplicateParam { op: "ParamPath::param", name });
        }
        let id = ParamId(self.next_id);
        self.next_id += 1;
        let trainable = role.trainable();
        let value = value.detach().set_requires_grad(trainable);
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
