//! When, where and how to add neurons while a network trains.
//!
//! A *trigger* says when, where and how many: the NORTH* family compares how orthogonal the units of
//! a layer are with how orthogonal they were at the start. An *initialisation* says how: new units
//! point where the old ones do not. The network computes the same before and after, and growth stops
//! by itself. Rivals (`GradMax`, Firefly, `NeST`, TINY, `Net2Wider`, schedules) stand behind the same
//! trait.
//!
//! * [`GrowthConfig`] names a strategy, [`Grower`] runs it beside a [`Trainer`](tensor_core::Trainer);
//!   every event is a [`ResizePlan`](tensor_core::ResizePlan) with its optimiser state.
//! * [`Stack`] builds MLPs and VGG-11; [`WideResNet`] the residual network with tied widths; a network
//!   of one's own implements [`Growable`](network::Growable).
//! * [`metric`], [`trigger`], [`init`] and [`prune`] are functions on plain tensors.
//!
//! Sections in the docs are those of the crate's specification; the paper is K. Maile,
//! E. Rachelson, H. Luga, D. G. Wilson, "When, where, and how to add new neurons to ANNs",
//! AutoML-Conf 2022, arXiv 2202.08539.
//!

pub mod buffer;
pub mod config;
pub mod error;
mod grower;
pub mod init;
pub mod journal;
pub mod layer;
pub mod metric;
pub mod network;
pub mod prune;
pub mod schedule;
pub mod stack;
mod start;
pub mod strategy;
mod subspace;
pub mod toy;
pub mod trigger;
pub mod wide_resnet;

pub use config::GrowthConfig;
pub use error::{Error, Result};
pub use grower::{Grower, Step, share_steps, weights_and_biases};
pub use journal::{Event, Journal};
pub use layer::HiddenLayer;
pub use stack::{Stack, StackConfig};
pub use strategy::{Batch, Strategy};
pub use wide_resnet::{WideResNet, WideResNetConfig};
