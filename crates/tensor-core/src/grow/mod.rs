//! Growth: one description of a resize, applied to parameters and optimiser state together.
//!
//! * [`ResizePlan`] says what happens to each axis, as data; [`HiddenUnits`] writes the usual plans.
//! * [`Trainer::grow`] applies a plan to store and optimiser, all or nothing, and logs it.
//! * [`GrowthLog`] is what a loader needs to rebuild the grown shapes from the base config.
//!
//! Resize between steps, when the loss and all captured activations are dropped. Each edited
//! parameter gets a new leaf tensor; its gradient goes with the old one, and a graph that is still
//! alive back-propagates into the old leaf, which nobody reads.

pub mod apply;
mod log;
mod plan;
mod trainer;
mod widen;

pub use apply::{resize_moment, resize_weight};
pub use log::{Change, FunctionChange, GrowthEvent, GrowthLog, ParamSpec, Resized};
pub use plan::{AxisPlan, Edit, Fill, MomentPolicy, ResizePlan, Scale, Scaled, Share, Values};
pub use trainer::Trainer;
pub use widen::{HiddenUnits, unequal_shares, widening_sources};

pub(crate) use apply::resize_births;
pub(crate) use plan::misfit;
