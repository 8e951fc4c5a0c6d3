//! Small real datasets: embedded, fetched with checksums, read, split, tokenised. Arrays come out
//! as `ndarray`; there is no tensor library here.

pub mod digits;
