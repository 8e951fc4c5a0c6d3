//! Networks that grow, over libtorch.
//!
//! See the README for the ten-line use. Not related to the hardware unit of the same name.

pub mod autograd;
pub mod checkpoint;
pub mod compute;
pub mod config;
pub mod error;
pub mod grow;
pub mod interop;
mod native;
pub mod nn;
pub mod optim;
pub mod param;
pub mod runtime;
pub mod schedule;
pub mod seed;
pub mod shape;
pub mod tap;

pub use compute::Compute;
pub use config::{Checked, Validate};
pub use error::{Error, Result};
pub use grow::{ResizePlan, Trainer};
pub use optim::{AdamW, AdamWConfig, Optimizer, Sgd, SgdConfig};
pub use param::{Init, Param, ParamCount, ParamId, ParamPath, ParamStore, Role};
pub use seed::SeedTree;
pub use tap::{NoTap, Tap};
pub use tch::{Device, Kind, Tensor};
