//! Declare, run, record, analyse and report experiments.

pub mod figures;
pub mod identity;
pub mod plan;
pub mod spec;
pub mod split;
pub mod store;
pub mod trial;
