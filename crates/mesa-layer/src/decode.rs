//! One token at a time, in constant time and memory (section 8).

use crate::{
    config::Solver,
    inputs::{self, MesaInputs, MesaOutput, MesaState, SolveStats},
    solver::{self, Operator},
};
use tch::{Kind, Tensor};
use tensor_core::{Checked, Result, check_shape};

/// One token of every sequence.
#[derive(Clone, Copy, Debug)]
pub struct MesaToken<'a> {
    /// Query `[batch, n_heads, head_dim]`.
    pub q: &'a Tensor,
    /// Key, sized as the query.
    pub k: &'a Tensor,
    /// Value `[batch, n_heads, value_dim]`.
    pub v: &'a Tensor,
    /// Natural logarithm of the forget gate's magnitude, `[batch, n_heads]`.
    pub g: &'a Tensor,
    /// Input gate, `[batch, n_heads]`.
    pub beta: &'a Tensor,
    /// Sign of the forget gate, `[batch, n_heads]`; positive when absent.
    pub sign: Option<&'a Tensor>,
}

/// `H_t + Lambda`, one matrix for each head.
struct Dense {
    h: Tensor,     // [m, d, d]
    ridge: Tensor, // [m, 1, d]
}

impl Operator for Dense {
    fn apply(&self, p: &Tensor) -> Tensor {
        p.matmul(&self.h) + p * &self.ridge
    }

    fn diag(&self) -> Tensor {
        self.h.diagonal(0, -2, -1).unsqueeze(-2) + &self.ridge
    }

    fn factor(&self) -> Result<Tensor> {
        solver::factor(&self.matrix())
    }
}

impl Dense {
    fn matrix(&self) -> Tensor {
        &self.h + self.ridge.diag_embed(0, -2, -1).squeeze_dim(1)
    }
}

/// Output of the token that follows `past`, and the statistics with it: one rank-one update and one
/// solve with a dense matrix, whatever the number of tokens before.
///
/// With a fixed number of steps or a loose rule the result agrees with that of [`mesa`](crate::mesa)
/// over the whole sequence only if both use the same solver; the mid-chunk preconditioner is that of
/// the token itself here, and solves at once.
///
/// Returns outputs `o: [batch, n_heads, value_dim]`, `q_star`, steps and residual without a sequence
/// dimension.
///
/// # Errors
/// Those of [`mesa`](crate::mesa).
pub fn mesa_step(
    token: &MesaToken<'_>,
    ridge: &Tensor,
    past: &MesaState,
    solver: &Checked<Solver>,
) -> Result<MesaOutput> {
    let q = token.q;
    check_shape!("mesa_step", q, [?_batch, ?_n_heads, ?_head_dim]);
    let out_kind = token.v.kind();
    let row = |x: &Tensor| x.unsqueeze(1);
    let [q, k, v, g, beta] = [token.q, token.k, token.v, token.g, token.beta].map(row);
    let sign = token.sign.map(row);
    let mut whole = MesaInputs::new([&q, &k, &v], &g, &beta, ridge).after(past);
    whole.sign = sign.as_ref();
    let p = inputs::check(&whole)?;
    let [batch, _, n_heads, head_dim, _] = p.sizes();
    let last = |x: &Tensor| x.squeeze_dim(1);
    let (q, k, v) = (last(&p.q), last(&p.k), last(&p.v));
    let gamma = match &p.sign {
        Some(sign) => p.g.exp() * sign,
        None => p.g.exp(),
    };
    let gamma = last(&gamma).unsqueeze(-1).unsqueeze(-1);
    let key = (last(&p.beta).unsqueeze(-1) * &k).unsqueeze(-1); // [b, h, d, 1]
    let h_kk = &gamma * &p.initial.h_kk + key.matmul(&k.unsqueeze(-2));
    let g_kv = gamma * &p.initial.g_kv + key.matmul(&v.unsqueeze(-2));

    let m = batch * n_heads;
    let operator = Dense {
        h: h_kk.reshape([m, head_dim, head_dim]),
        ridge: p
            .ridge
            .unsqueeze(0)
            .expand([batch, n_heads, head_dim], false)
            .reshape([m, 1, head_dim]),
    };
    let rhs = q.reshape([m, 1, head_dim]);
    let (x, steps, residual) = match &**solver {
        Solver::Cholesky => {
            let zero = rhs.select(-1, 0).zeros_like();
            let x = solver::dense(&operator.matrix(), &rhs.squeeze_dim(1))?;
            (x.unsqueeze(1), zero.to_kind(Kind::Int64), zero)
        }
        Solver::Cg(cg) => {
            let found = solver::conjugate_gradients(&operator, &rhs, None, cg)?;
            (found.x, found.steps, found.residual)
        }
    };
    let q_star = x.reshape([batch, n_heads, head_dim]);
    let mut o = q_star.unsqueeze(-2).matmul(&g_kv).squeeze_dim(-2);
    if matches!(out_kind, Kind::Half | Kind::BFloat16) {
        o = o.to_kind(out_kind);
    }
    let heads = |x: Tensor| x.reshape([batch, n_heads]);
    Ok(MesaOutput {
        o,
        q_star,
        state: MesaState { h_kk, g_kv },
        stats: SolveStats { steps: heads(steps), residual: heads(residual) },
    })
}
