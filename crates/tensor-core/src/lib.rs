//! Networks that grow, over libtorch.
//!
//! See the README for the ten-line use. Not related to the hardware unit of the same name.

pub mod error;
pub mod param;
pub mod seed;
pub mod shape;

pub use error::{Error, Result};
pub use param::{Init, Param, ParamCount, ParamId, ParamPath, ParamStore, Role};
pub use seed::SeedTree;
pub use tch::{Device, Kind, Tensor};
