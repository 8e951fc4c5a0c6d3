//! Declare, run, record, analyse and report experiments.
