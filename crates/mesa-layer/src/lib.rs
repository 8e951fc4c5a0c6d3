//! A sequence layer that solves its own regression to optimality at every token.
//!
//! Each head remembers its past as a ridge regression from keys to values,
//!
//! ```text
//! L_t(Phi) = 1/2 sum_{s<=t} zeta_ts beta_s |v_s - Phi k_s|^2 + 1/2 Tr(Phi Lambda Phi^T)
//! ```
//!
//! and answers a query with the minimiser: `o_t = Phi_t q_t = G_t^T (H_t + Lambda)^-1 q_t`, where
//! `H_t = gamma_t H_{t-1} + beta_t k_t k_t^T` and `G_t` is its like with values on the right. The
//! solve is by conjugate gradients, all tokens of a chunk at once; gradients are those of the
//! solution, in closed form.
//!
//! | Symbol | Name | Shape |
//! | --- | --- | --- |
//! | `q`, `k` | query, key | `[batch, seq_len, n_heads, head_dim]` |
//! | `v` | value | `[batch, seq_len, n_heads, value_dim]` |
//! | `gamma`, `g = ln gamma` | forget gate | `[batch, seq_len, n_heads]` |
//! | `beta` | input gate | `[batch, seq_len, n_heads]` |
//! | `Lambda` | `ridge` | `[n_heads, head_dim]` |
//! | `H` | `h_kk`, key statistics | `[batch, n_heads, head_dim, head_dim]` |
//! | `G` (transposed) | `g_kv`, key-value statistics | `[batch, n_heads, head_dim, value_dim]` |
//! | `x`, `q*` | `q_star`, solution | as `q` |
//!
//! Section numbers in this crate are those of `docs/mesa-layer.md` in the repository. Errors are those
//! of `tensor-core`: each names the argument, what was expected and what came.
//!
//! Sources: arXiv 2506.05233 (`MesaNet`) and arXiv 2309.05858 (its predecessor).

mod chunk;
pub mod comparator;
pub mod config;
pub mod decode;
mod fused;
pub mod hawk;
mod implicit;
pub mod inputs;
mod kernel;
pub mod layer;
pub mod mixer;
pub mod model;
mod operation;
mod reference;
mod solver;
pub mod task;

pub use config::{CgConfig, Form, Gradient, MesaConfig, Precondition, Solver, Start, Stop};
pub use decode::{MesaToken, mesa_step};
pub use inputs::{MesaInputs, MesaOutput, MesaState, SolveStats};
pub use layer::{LayerState, MesaLayer, Mixed};
pub use mixer::{LayerConfig, Mixer};
pub use model::{MesaNet, MesaNetConfig, ModelState};
pub use operation::mesa;
pub use tensor_core::{Error, Result};

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
