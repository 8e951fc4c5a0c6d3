//! Networks that grow, over libtorch.
//!
//! See the README for the ten-line use. Not related to the hardware unit of the same name.

pub mod autograd;
pub mod compute;
pub mod config;
pub mod error;
pub mod interop;
mod native;
pub mod nn;
pub mod param;
pub mod runtime;
pub mod seed;
pub mod shape;
pub mod tap;

pub use compute::Compute;
pub use config::{Checked, Validate};
pub use error::{Error, Result};
pub use param::{Init, Param, ParamCount, ParamId, ParamPath, ParamStore, Role};
pub use seed::SeedTree;
pub use tap::{NoTap, Tap};
pub use tch::{Device, Kind, Tensor};
