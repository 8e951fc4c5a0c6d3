//! How a mesa operation is computed: form, solver, gradient. Checked once, then trusted.

use serde::{Deserialize, Serialize};
use tensor_core::{
    Error, Result, Validate,
    config::{finite_in, in_range},
};

/// Where conjugate gradients start (section 3).
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// `x = 0`.
    Zero,
    /// `x = q / diag(H_t + Lambda)`, the start of the paper.
    #[default]
    Diag,
    /// `x = M^-1 q` with the preconditioner `M`; the same as `Zero` where there is none.
    Preconditioned,
}

/// When a token's solve is finished (section 3). A token that is finished stays as it is while the
/// rest of its tile goes on.
#[derive(Copy, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// After `max_steps`, whatever the residual.
    #[default]
    Fixed,
    /// When `|r| <= eps |r_0|`, `r_0` being the residual of the start; looked at after each step.
    RelativeToStart {
        /// Share of the first residual.
        eps: f64,
    },
    /// When `|r| <= eps |q|`; looked at before the first step too.
    RelativeToQuery {
        /// Share of the right-hand side.
        eps: f64,
    },
}

impl Stop {
    fn eps(self) -> Option<f64> {
        match self {
            Self::Fixed => None,
            Self::RelativeToStart { eps } | Self::RelativeToQuery { eps } => Some(eps),
        }
    }
}

/// What conjugate gradients are preconditioned with (section 16).
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precondition {
    /// Nothing: the algorithm of the paper.
    #[default]
    None,
    /// `diag(H_t + Lambda)` of each token.
    Jacobi,
    /// One Cholesky factor of `H_m + Lambda` for each chunk, `m` its middle token.
    ///
    /// The factor contains tokens that come after those of the chunk's first half, so an output
    /// depends on later tokens, though by no more than the stopping rule leaves open.
    MidChunk,
}

/// Conjugate gradients.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CgConfig {
    /// Largest number of steps.
    pub max_steps: i64,
    /// First iterate.
    pub start: Start,
    /// When a token is finished.
    pub stop: Stop,
    /// Preconditioner.
    pub precondition: Precondition,
    /// One refinement of a float32 solve: the residual is computed in float64, from statistics that
    /// are summed in float64, and its correction solved for in float32. No effect in float64.
    pub refine: bool,
}

impl Default for CgConfig {
    fn default() -> Self {
        Self {
            max_steps: 30,
            start: Start::default(),
            stop: Stop::default(),
            precondition: Precondition::default(),
            refine: false,
        }
    }
}

/// How `(H_t + Lambda) x = q` is solved.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Solver {
    /// Conjugate gradients, chunk by chunk.
    Cg(CgConfig),
    /// One Cholesky factor for each token: exact for any condition number, `head_dim^3 / 3` products.
    Cholesky,
}

impl Default for Solver {
    fn default() -> Self {
        Self::Cg(CgConfig::default())
    }
}

impl Solver {
    /// The paper's solver at evaluation: conjugate gradients until `|r| <= eps |r_0|`.
    pub fn until(eps: f64, max_steps: i64) -> Self {
        Self::Cg(CgConfig { max_steps, stop: Stop::RelativeToStart { eps }, ..CgConfig::default() })
    }

    /// Conjugate gradients preconditioned by one factor for each chunk, until `|r| <= eps |q|`.
    pub fn preconditioned(eps: f64, max_steps: i64) -> Self {
        Self::Cg(CgConfig {
            max_steps,
            start: Start::Preconditioned,
            stop: Stop::RelativeToQuery { eps },
            precondition: Precondition::MidChunk,
            refine: false,
        })
    }
}

impl Validate for Solver {
    type Error = Error;

    fn check(&self) -> Result<()> {
        let Self::Cg(cg) = self else { return Ok(()) };
        in_range("max_steps", cg.max_steps, 0..=1 << 20)?;
        cg.stop.eps().map_or(Ok(()), |eps| finite_in("eps", eps, 0.0..=1.0))
    }
}

/// Which implementation computes the operation. All agree up to rounding and the solver's tolerance.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// The fused kernel where it can be used (float32, on the CPU, conjugate gradients with at most
    /// the mid-chunk preconditioner, implicit gradient), else the chunkwise form.
    #[default]
    Auto,
    /// Token by token with an exact solve; slow, for tests. The solver is ignored.
    Reference,
    /// Chunk by chunk with tensor operations, on any device.
    Chunk,
    /// The fused kernel; an error where it cannot be used.
    Kernel,
}

/// What backward computes.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gradient {
    /// Closed form at the solution (section 5): exact for a converged solve, constant memory.
    #[default]
    Implicit,
    /// Through the iterations themselves: exact for any number of steps, memory for each of them.
    Unrolled,
}

/// How a mesa operation is computed.
///
/// ```
/// use mesa_layer::{MesaConfig, Solver};
/// use tensor_core::Validate;
/// let config = MesaConfig { solver: Solver::until(1e-4, 30), ..Default::default() }.validate()?;
/// assert_eq!(config.chunk_len, 16);
/// # Ok::<(), tensor_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MesaConfig {
    /// Implementation.
    pub form: Form,
    /// Tokens that are solved for together.
    pub chunk_len: i64,
    /// Solver of the forward pass.
    pub solver: Solver,
    /// Solver of the backward pass; that of the forward pass when absent.
    pub backward_solver: Option<Solver>,
    /// What backward computes.
    pub gradient: Gradient,
}

impl Default for MesaConfig {
    fn default() -> Self {
        Self {
            form: Form::default(),
            chunk_len: 16,
            solver: Solver::default(),
            backward_solver: None,
            gradient: Gradient::default(),
        }
    }
}

impl MesaConfig {
    /// Solver of the backward pass.
    pub fn backward(&self) -> Solver {
        self.backward_solver.unwrap_or(self.solver)
    }
}

impl Validate for MesaConfig {
    type Error = Error;

    fn check(&self) -> Result<()> {
        in_range("chunk_len", self.chunk_len, 1..=1 << 16)?;
        self.solver.check()?;
        self.backward().check()
    }
}
