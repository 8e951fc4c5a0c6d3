//! Hierarchical worlds with sparse reward, in the terms of gymnasium: `reset`, `step`, spaces,
//! `terminated` and `truncated` apart.
//!
//! | Want | Call |
//! | --- | --- |
//! | an environment by name | [`make`] |
//! | the grid world with its own types | [`GridPinpad`] |
//! | expert episodes | [`Expert`] |
//! | a picture | [`Env::render`] |
//!
//! ```
//! use envs::{Env, Expert, GridConfig, GridPinpad, ResetOptions};
//!
//! let mut world = GridPinpad::new(&GridConfig::default())?;
//! let mut expert = Expert::new(&world, 0.0)?;
//! world.reset(Some(7), &ResetOptions::default())?;
//! expert.begin(&world);
//! loop {
//!     let step = world.step(&expert.act(&world))?;
//!     if step.terminated || step.truncated {
//!         assert_eq!(step.reward, 1.0);
//!         break;
//!     }
//! }
//! # Ok::<(), envs::Error>(())
//! ```

pub mod ant;
pub mod arena;
mod columns;
mod env;
mod error;
mod expert;
mod file;
mod layout;
mod maps;
mod motion;
pub mod mujoco;
mod pinpad;
mod point;
mod registry;
mod render;
mod shard;
mod space;
mod stream;
pub mod task;
mod vector;
pub mod wrappers;

pub use ant::{AntConfig, AntExpert, AntPinpad, AntV5, AntV5Config};
pub use arena::{Arena, ArenaConfig, Outside};
pub use env::{Env, Info, Reason, ResetOptions, State, Step, Transition};
pub use error::{Error, Result};
pub use expert::{Expert, Trajectory};
pub use layout::{Layout, LayoutFilter};
pub use maps::Guide;
pub use motion::{MotionConfig, MotionEpisode, MotionShard, MotionSpec, generate_motion};
pub use pinpad::{GridConfig, GridPinpad, ObsMode, Ties};
pub use point::{PointExpert, PointPinpad};
pub use registry::{Action, DynEnv, MOST_ACTION, NAMES, make};
pub use render::{Animation, Frame, Image, RenderMode};
pub use shard::{Shard, ShardSpec, generate};
pub use space::{Space, Value};
pub use stream::{Stream, StreamState};
pub use vector::{Autoreset, Buffers, Vector, VectorConfig};

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
