//! Declare, run, record, analyse and report experiments.
//!
//! A study is one TOML file ([`spec`]); it expands into trials ([`plan`]) whose identity and seeds
//! are fixed by contract ([`identity`]). A trial is any program that speaks the line protocol of
//! [`trial`]. The [`runner`] holds it to its limits and commits what it reports to the [`store`];
//! [`stats`], [`figures`], [`analysis`] and [`report`] turn rows into verdicts, and the
//! [`checklist`] says what is not satisfied.
#![cfg_attr(test, allow(clippy::float_cmp, reason = "tests compare exactly what must be exact"))]

pub mod analysis;
pub mod checklist;
pub mod figures;
pub mod identity;
pub mod plan;
pub mod report;
#[cfg(target_os = "linux")]
pub mod runner;
pub mod slurm;
pub mod spec;
pub mod split;
pub mod stats;
pub mod store;
pub mod trial;
