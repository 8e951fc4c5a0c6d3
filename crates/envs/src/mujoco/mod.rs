//! `MuJoCo` 4.0.0, loaded at run time: a dozen functions, opaque pointers, state through
//! `mj_getState` and `mj_setState`. Nothing is needed at build time.
#![expect(unsafe_code, reason = "calls into a C library; each block says why it is sound")]

mod library;
mod sim;

pub(crate) use library::Library;
pub(crate) use sim::{Model, Sim};

/// The version that physics and structure offsets are checked against: results of other versions
/// differ from the first steps on.
pub(crate) const VERSION: i32 = 4_000_000;

/// Environment variable that names the library file.
pub const MUJOCO_LIB: &str = "MUJOCO_LIB";

/// Finds and loads the library named by the environment variable [`MUJOCO_LIB`], which
/// `.cargo/config.toml` of this workspace sets, or else the one that the system's loader finds.
///
/// # Errors
/// There is none, or it is not version 4.0.0.
pub fn find() -> crate::Result<()> {
    Library::find().map(drop)
}
