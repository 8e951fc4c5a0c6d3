//! The backward pass in closed form (section 5).
//!
//! With `e_t = (H_t + Lambda)^-1 G_t do_t`, a second solve with the matrices of the first, all
//! gradients are sums of products of `x`, `e`, `do` with keys and values. Nothing is kept of the
//! iterations: inputs and `x` are, and the statistics before each chunk are computed again.

use crate::{
    chunk::{self, Blocks},
    config::MesaConfig,
    inputs::Problem,
};
use tch::Tensor;
use tensor_core::Result;

/// Cotangents of output, key statistics and key-value statistics.
pub(crate) struct Cotangents {
    pub(crate) o: Tensor,
    pub(crate) h_kk: Tensor,
    pub(crate) g_kv: Tensor,
}

/// Gradients in the order of [`Problem`]'s differentiable fields.
pub(crate) struct Gradients {
    pub(crate) q: Tensor,
    pub(crate) k: Tensor,
    pub(crate) v: Tensor,
    pub(crate) g: Tensor,
    pub(crate) beta: Tensor,
    pub(crate) ridge: Tensor,
    pub(crate) h_kk: Tensor,
    pub(crate) g_kv: Tensor,
}

fn t(x: &Tensor) -> Tensor {
    x.transpose(-1, -2)
}

fn dot(a: &Tensor, b: &Tensor) -> Tensor {
    (a * b).sum_dim_intlist([-1].as_slice(), true, None)
}

fn frobenius(a: &Tensor, b: &Tensor) -> Tensor {
    (a * b).sum_dim_intlist([-2, -1].as_slice(), true, None)
}

/// Gradients at the solutions `q_star` (`[batch, seq_len, n_heads, head_dim]`).
pub(crate) fn backward(
    p: &Problem,
    config: &MesaConfig,
    q_star: &Tensor,
    cot: &Cotangents,
) -> Result<Gradients> {
    let blocks = Blocks::new(p, config.chunk_len);
    let (h, _) = blocks.scan(&blocks.k, &p.initial.h_kk);
    let (h_kv, _) = blocks.scan(&blocks.v, &p.initial.g_kv);
    let Blocks { k, v, beta, z, d, cum, .. } = &blocks;
    let (x, d_o) = (blocks.cut(q_star), blocks.cut(&cot.o));
    let mut cold = p.clone();
    cold.warm = None;

    // Right-hand side of the second solve: linear attention with do for queries and K, V exchanged.
    let u = d_o.matmul(&t(v)); // [m, n, c, c]
    let rhs = cum * d_o.matmul(&t(&h_kv)) + (&u * d).matmul(k);
    let e = chunk::solutions(&cold, &blocks, &h, &rhs, &config.backward(), false)?.x;

    // Cotangents of the statistics that leave each chunk, last to first.
    let (through, to_end) = (blocks.through(), blocks.to_end());
    let from_h = t(&(cum * &e)).matmul(&x);
    let from_g = t(&(cum * &x)).matmul(&d_o);
    let [batch, _, n_heads, ..] = p.sizes();
    let fold = |s: &Tensor| {
        let size = s.size();
        s.reshape([batch * n_heads, size[2], size[3]])
    };
    let (mut r_h, mut r_g) = (fold(&cot.h_kk), fold(&cot.g_kv));
    let (mut rows_h, mut rows_g) = (Vec::new(), Vec::new());
    for c in (0..through.size()[1]).rev() {
        let decay = through.select(1, c);
        let before_h = &decay * &r_h - from_h.select(1, c);
        let before_g = &decay * &r_g + from_g.select(1, c);
        rows_h.push(std::mem::replace(&mut r_h, before_h));
        rows_g.push(std::mem::replace(&mut r_g, before_g));
    }
    let reversed = |mut rows: Vec<Tensor>| {
        rows.reverse();
        Tensor::stack(&rows, 1) // [m, n, d, x]
    };
    let (leave_h, leave_g) = (reversed(rows_h), reversed(rows_g));

    // Products within the chunk.
    let s = x.matmul(&t(k));
    let zs = z * &s;
    let zu = z * &u;
    let zq = z * e.matmul(&t(k));
    let gate = t(beta); // [m, n, c, 1]
    let k_g = k.matmul(&leave_g);
    let k_h = k.matmul(&leave_h);
    let d_v = &gate * (t(&zs).matmul(&d_o) + &to_end * &k_g);
    let d_k = &gate
        * (t(&zu).matmul(&x) - t(&zs).matmul(&e) - t(&zq).matmul(&x)
            + &to_end * (v.matmul(&t(&leave_g)) + k.matmul(&t(&leave_h)) + &k_h));

    // pair_ts: what the weight of token s at token t is worth.
    let pair = &s * (zu - zq);
    let tail = &to_end * (dot(&k_g, v) + dot(&k_h, k)); // [m, n, c, 1]
    let columns = pair.sum_dim_intlist([-2].as_slice(), true, None).transpose(-1, -2);
    let d_beta = columns + &tail;
    let weighted = pair * beta;
    let past = cum * (dot(&x.matmul(&h_kv), &d_o) - dot(&e.matmul(&h), &x));
    let tail = tail * &gate;
    let d_b = weighted.sum_dim_intlist([-1].as_slice(), true, None)
        - weighted.sum_dim_intlist([-2].as_slice(), true, None).transpose(-1, -2)
        + past
        - &tail;
    let last = d_b.size()[2] - 1;
    let end = tail.sum_dim_intlist([-2].as_slice(), true, None)
        + through * (frobenius(&leave_g, &h_kv) + frobenius(&leave_h, &h));
    let _ = d_b.narrow(2, last, 1).g_add_(&end);
    let d_g = d_b.flip([2]).cumsum(2, d_b.kind()).flip([2]);

    let d_ridge = -(q_star * blocks.join(&e)).sum_dim_intlist([0, 1].as_slice(), false, None);
    let unfold = |s: Tensor, like: &Tensor| s.reshape(like.size());
    Ok(Gradients {
        q: blocks.join(&e),
        k: blocks.join(&d_k),
        v: blocks.join(&d_v),
        g: blocks.join(&d_g).squeeze_dim(-1),
        beta: blocks.join(&d_beta).squeeze_dim(-1),
        ridge: d_ridge,
        h_kk: unfold(r_h, &p.initial.h_kk),
        g_kv: unfold(r_g, &p.initial.g_kv),
    })
}
