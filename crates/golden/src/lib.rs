//! Reads golden files, compares, explains the worst element.
