//! Parameters that can change their size while layers keep their handles.
//!
//! A layer holds a [`Param`] and asks for its [`value`](Param::value) at each forward pass. Growth
//! puts a new leaf tensor into the slot behind the handle, so every holder sees it at its next call.

use crate::{Error, Result, error::TorchContext};
use rand::Rng;
use rand_distr::{Distribution, Normal, Uniform};
use serde::{Deserialize, Serialize};
use std::{
    cell::Cell,
    fmt::{self, Display},
    marker::PhantomData,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tch::Tensor;

mod store;

pub use store::{ParamCount, ParamPath, ParamStore};

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

/// Initial values. Random ones are drawn from the store's [`SeedTree`](crate::SeedTree) under the parameter's name,
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
        slot.value = value.detach().contiguous().set_requires_grad(trainable);
    }
}
