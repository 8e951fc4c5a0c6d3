//! Reads golden files, compares, explains the worst element. Test support only.
//!
//! A golden folder holds `.safetensors` files that an independent implementation wrote: inputs,
//! parameters and expected outputs of one computation per file. A [`Suite`] enumerates the folder,
//! sends each file to the checker of its group, goes on after a failure, and at the end fails with
//! all of them. The same test program can be pointed at new files of the same schema with the
//! environment variable `GOLDEN_DIR` (see [`folder`]).
//!
//! ```no_run
//! use golden::Tolerance;
//! use ndarray::Zip;
//!
//! # fn main() -> anyhow::Result<()> {
//! golden::suite!()?
//!     .group("add", |case| {
//!         let (x, y) = (case.f64("x")?, case.f64("y")?);
//!         let scale: f64 = case.param("scale")?;
//!         let sum = Zip::from(&x).and(&y).map_collect(|x, y| scale * (x + y));
//!         case.check("sum", &sum, Tolerance::F64);
//!         Ok(())
//!     })
//!     .run()
//! # }
//! ```
//!
//! A case that checks nothing fails, an unknown group fails, an empty folder fails.

mod compare;
mod file;
mod suite;

pub use compare::{Deviation, Element, Mismatch, Tolerance, compare};
pub use file::{GoldenFile, Kind};
pub use suite::{Case, GOLDEN_DIR, Suite, folder};

/// Opens the suite of the calling crate: its name and its folder come from Cargo.
#[macro_export]
macro_rules! suite {
    () => {
        $crate::Suite::open(env!("CARGO_PKG_NAME"), env!("CARGO_MANIFEST_DIR"))
    };
}
