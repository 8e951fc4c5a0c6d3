//! Small real datasets: inside the crate or fetched with checksums, read, split, tokenised. Arrays
//! come out as `ndarray`; there is no tensor library here.
//!
//! | Want | Call |
//! | --- | --- |
//! | 1,797 real digits, at once | [`digits::load`] |
//! | a megabyte of Shakespeare, at once | [`text::shakespeare`] |
//! | an image data set by name | [`images::load`] after `cargo xtask data fetch NAME` |
//! | a file of your own | [`idx`], [`cifar`], [`csv`], [`text::read`] |
//! | tokens | [`token::Bytes`], [`token::Characters`], [`bpe::Bpe`] |
//! | train, validation, test | [`split::Split`] |
//!
//! Readers take files as they come: a file that is truncated, damaged or absurd is an [`Error`] that
//! names the file, the part of it, what was expected and what was found. Memory follows the bytes
//! that are there, never what a header claims.
//!
//! ```
//! use datasets::registry::Registry;
//! use datasets::split::{Fractions, Part, Split, Stage};
//!
//! let digits = datasets::digits::load();
//! let fractions = Fractions { train: 0.8, validation: 0.1, test: 0.1 };
//! let data = Registry::builtin().get("digits")?.fingerprint();
//! let labels = digits.labels.to_vec();
//! let split = Split::draw("digits", &data, labels.len(), fractions, 0, Some(&labels))?;
//! let train = split.indices(Part::Train, Stage::Tune)?;
//! let images = digits.images.select(ndarray::Axis(0), &train);
//! assert!(split.indices(Part::Test, Stage::Tune).is_err());
//! # assert_eq!(images.nrows(), train.len());
//! # Ok::<(), datasets::Error>(())
//! ```

mod archive;
pub mod bpe;
pub mod bytes;
pub mod cifar;
mod client;
mod convert;
pub mod csv;
pub mod digits;
mod error;
pub mod idx;
pub mod images;
mod ranges;
pub mod registry;
pub mod split;
pub mod store;
pub mod text;
pub mod token;

pub use convert::Recipe;
pub use error::{Error, Result};

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
