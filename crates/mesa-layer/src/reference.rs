//! The operation as it is written down: token by token, one exact solve each (section 2).

use crate::inputs::{MesaOutput, MesaState, Problem, SolveStats};
use tch::{Kind, Tensor};
use tensor_core::{Result, error::TorchContext};

/// `H_t = gamma_t H_{t-1} + beta_t k_t k_t^T`, its like with values, `o_t = G_t^T (H_t + Lambda)^-1 q_t`.
///
/// Plain recorded operations: automatic differentiation of this form is the gradient's reference.
pub(crate) fn forward(p: &Problem) -> Result<MesaOutput> {
    let seq_len = p.sizes()[1];
    let lambda = p.ridge.diag_embed(0, -2, -1); // [h, d, d]
    let gamma = match &p.sign {
        Some(sign) => p.g.exp() * sign,
        None => p.g.exp(),
    };
    let MesaState { mut h_kk, mut g_kv } = p.initial.clone();
    let (mut outputs, mut solutions) = (Vec::new(), Vec::new());
    for t in 0..seq_len {
        let at = |x: &Tensor| x.select(1, t).unsqueeze(-1); // [b, h, d, 1]
        let (q, k, v) = (at(&p.q), at(&p.k), at(&p.v));
        let (gamma, beta) = (at(&gamma).unsqueeze(-1), at(&p.beta).unsqueeze(-1)); // [b, h, 1, 1]
        let key = beta * &k;
        h_kk = &gamma * h_kk + key.matmul(&k.transpose(-1, -2));
        g_kv = gamma * g_kv + key.matmul(&v.transpose(-1, -2));
        // LU, not Cholesky: its derivative treats H as any matrix, as the closed form does.
        let x = Tensor::f_linalg_solve(&(&h_kk + &lambda), &q, true).op("mesa: reference")?;
        outputs.push(g_kv.transpose(-1, -2).matmul(&x).squeeze_dim(-1));
        solutions.push(x.squeeze_dim(-1)); // [b, h, d]
    }
    let stack = |rows: &[Tensor], like: &Tensor| {
        if rows.is_empty() { like.zeros_like() } else { Tensor::stack(rows, 1) }
    };
    let steps = p.g.zeros_like().to_kind(Kind::Int64);
    Ok(MesaOutput {
        o: stack(&outputs, &p.v),
        q_star: stack(&solutions, &p.q),
        state: MesaState { h_kk, g_kv },
        stats: SolveStats { steps, residual: p.g.zeros_like().detach() },
    })
}
