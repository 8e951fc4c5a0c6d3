//! Small real datasets.
