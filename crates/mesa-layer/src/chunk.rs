//! The chunkwise-parallel form on tensor operations (section 4).
//!
//! A sequence is cut into chunks of `C` tokens. Within a chunk the matrix `H_t` of no token is formed:
//! the rows of `H_t p_t` are `diag(cum) P H_c + ((P K^T) o D) K`, with the statistics `H_c` before the
//! chunk, the decays `cum_t` since then, and `D_ts = Z_ts beta_s` the weight of token `s` at token `t`.

use crate::{
    config::{CgConfig, MesaConfig, Solver},
    inputs::{MesaOutput, MesaState, Problem, SolveStats},
    solver::{self, Operator, Solved},
};
use tch::{Device, Kind, Tensor};
use tensor_core::Result;

/// Below this a logarithm of a gate is zero in float64, and is treated as zero exactly.
const RESET: f64 = -800.0;

/// Elements of one group's iterate: a group of chunks is solved together while it fits the cache.
const GROUP_ELEMENTS: i64 = 1 << 16;

/// A sequence cut into chunks; sizes: `m = batch * n_heads`, `n` chunks of `c` tokens.
pub(crate) struct Blocks {
    batch: i64,
    n_heads: i64,
    seq_len: i64,
    chunk_len: i64,
    pub(crate) k: Tensor,    // [m, n, c, d]
    pub(crate) v: Tensor,    // [m, n, c, v]
    pub(crate) beta: Tensor, // [m, n, 1, c]
    /// Decay from token s to token t, zero above the diagonal.
    pub(crate) z: Tensor, // [m, n, c, c]
    /// `z` times the input gate of token s.
    pub(crate) d: Tensor, // [m, n, c, c]
    /// Decay from before the chunk to token t.
    pub(crate) cum: Tensor, // [m, n, c, 1]
    pub(crate) ridge: Tensor, // [m, 1, 1, d]
}

impl Blocks {
    pub(crate) fn new(p: &Problem, chunk_len: i64) -> Self {
        let [batch, seq_len, n_heads, head_dim, _] = p.sizes();
        // A chunk longer than the sequence is only padding.
        let chunk_len = chunk_len.min(seq_len.max(1));
        let cut = |x: &Tensor| cut(x, chunk_len);
        let (z, cum) = decays(
            &cut(&p.g.unsqueeze(-1)).squeeze_dim(-1),
            p.sign.as_ref().map(|s| cut(&(s - 1.0).unsqueeze(-1)).squeeze_dim(-1) + 1.0),
            p.q.kind(),
        );
        let beta = cut(&p.beta.unsqueeze(-1)).transpose(-1, -2);
        let ridge = p.ridge.unsqueeze(0).expand([batch, n_heads, head_dim], false);
        Self {
            batch,
            n_heads,
            seq_len,
            chunk_len,
            k: cut(&p.k),
            v: cut(&p.v),
            d: &z * &beta,
            beta,
            z,
            cum,
            ridge: ridge.reshape([batch * n_heads, 1, 1, head_dim]),
        }
    }

    /// `[batch, seq_len, n_heads, x]` to chunks.
    pub(crate) fn cut(&self, x: &Tensor) -> Tensor {
        cut(x, self.chunk_len)
    }

    /// Chunks `[m, n, c, x]` back to `[batch, seq_len, n_heads, x]`.
    pub(crate) fn join(&self, x: &Tensor) -> Tensor {
        let d = x.size()[3];
        x.reshape([self.batch, self.n_heads, -1, d])
            .narrow(2, 0, self.seq_len)
            .transpose(1, 2)
            .contiguous()
    }

    /// A row for each token `[m, n, c]` back to `[batch, seq_len, n_heads]`.
    pub(crate) fn join_rows(&self, x: &Tensor) -> Tensor {
        self.join(&x.unsqueeze(-1)).squeeze_dim(-1)
    }

    /// Decay over a whole chunk, `[m, n, 1, 1]`.
    pub(crate) fn through(&self) -> Tensor {
        self.cum.narrow(2, self.chunk_len - 1, 1)
    }

    /// Decay from token s to the end of its chunk, `[m, n, c, 1]`.
    pub(crate) fn to_end(&self) -> Tensor {
        self.z.narrow(2, self.chunk_len - 1, 1).transpose(-1, -2)
    }

    /// Statistics before each chunk, `[m, n, d, x]`, and after the last, `[batch, n_heads, d, x]`.
    ///
    /// `H_{c+1} = cum_n H_c + K^T diag(Z_n. o beta) X`
    pub(crate) fn scan(&self, x: &Tensor, initial: &Tensor) -> (Tensor, Tensor) {
        let weighted = &self.k * self.to_end() * self.beta.transpose(-1, -2);
        let added = weighted.transpose(-1, -2).matmul(x); // [m, n, d, x]
        let through = self.through();
        let size = initial.size();
        let mut h = initial.reshape([self.batch * self.n_heads, size[2], size[3]]);
        let mut before = Vec::new();
        for c in 0..added.size()[1] {
            let next = through.select(1, c) * &h + added.select(1, c);
            before.push(std::mem::replace(&mut h, next));
        }
        (Tensor::stack(&before, 1), h.reshape(size))
    }

    /// Linear attention with these decays: `diag(cum) X H_c + ((X K^T) o D) V`, where `h` are the
    /// statistics of `keys` and `values` before each chunk.
    pub(crate) fn attend(&self, x: &Tensor, keys: &Tensor, values: &Tensor, h: &Tensor) -> Tensor {
        &self.cum * x.matmul(h) + (x.matmul(&keys.transpose(-1, -2)) * &self.d).matmul(values)
    }
}

/// `[batch, seq_len, n_heads, x]` to `[batch * n_heads, n, chunk_len, x]`, padded with zeros.
pub(crate) fn cut(x: &Tensor, chunk_len: i64) -> Tensor {
    let size = x.size();
    let n = (size[1] + chunk_len - 1) / chunk_len;
    let pad = n * chunk_len - size[1];
    let x = x.transpose(1, 2); // [b, h, t, x]
    let x = if pad > 0 { x.constant_pad_nd([0, 0, 0, pad]) } else { x };
    x.reshape([size[0] * size[2], n, chunk_len, size[3]])
}

/// Decays between the tokens of a chunk, `[.., c, c]`, and since its start, `[.., c, 1]`.
///
/// Sums of logarithms are taken in float64, so that a strong gate does not cost its weak neighbours
/// their digits; a gate of zero is no logarithm at all but a wall that tokens are counted against.
pub(crate) fn decays(g: &Tensor, sign: Option<Tensor>, kind: Kind) -> (Tensor, Tensor) {
    let g = g.to_kind(Kind::Double);
    let wall = g.lt(RESET);
    let walls = wall.to_kind(Kind::Int64).cumsum(-1, Kind::Int64);
    let b = g.masked_fill(&wall, 0.0).cumsum(-1, Kind::Double);
    let c = *g.size().last().unwrap_or(&1);
    let causal = Tensor::ones([c, c], (Kind::Bool, g.device())).tril(0);
    let reach = walls.unsqueeze(-1).eq_tensor(&walls.unsqueeze(-2)).logical_and(&causal);
    // Masked before the exponential: above the diagonal it would overflow.
    let z = (b.unsqueeze(-1) - b.unsqueeze(-2))
        .masked_fill(&reach.logical_not(), f64::NEG_INFINITY)
        .exp()
        .to_kind(kind);
    let cum = b.masked_fill(&walls.gt(0), f64::NEG_INFINITY).exp().to_kind(kind);
    match sign {
        None => (z, cum.unsqueeze(-1)),
        Some(sign) => {
            let s = sign.cumprod(-1, kind);
            (z * s.unsqueeze(-1) * s.unsqueeze(-2), (cum * s).unsqueeze(-1))
        }
    }
}

/// `(H_t + Lambda) p_t` for the rows of some chunks; everything `[groups, ..]`.
struct ChunkOperator {
    k: Tensor,
    k_t: Tensor,
    h: Tensor,
    d: Tensor,
    cum: Tensor,
    ridge: Tensor, // [g, 1, d]
}

impl ChunkOperator {
    /// The matrices `H_t + Lambda` themselves, `[g, c, d, d]`.
    fn dense(&self) -> Tensor {
        let (size, dim) = (self.k.size(), self.k.size()[2]);
        let outer = (self.k.unsqueeze(-1) * self.k.unsqueeze(-2)).reshape([size[0], size[1], -1]);
        let inside = self.d.matmul(&outer).reshape([size[0], size[1], dim, dim]);
        let h = self.cum.unsqueeze(-1) * self.h.unsqueeze(1) + inside;
        h + self.ridge.diag_embed(0, -2, -1)
    }
}

impl Operator for ChunkOperator {
    fn apply(&self, p: &Tensor) -> Tensor {
        let inside = (p.matmul(&self.k_t) * &self.d).matmul(&self.k);
        inside + &self.cum * p.matmul(&self.h) + p * &self.ridge
    }

    fn diag(&self) -> Tensor {
        let past = &self.cum * self.h.diagonal(0, -2, -1).unsqueeze(-2);
        past + self.d.matmul(&self.k.square()) + &self.ridge
    }

    fn factor(&self) -> Result<Tensor> {
        let mid = (self.k.size()[1] - 1) / 2;
        let weights = self.d.select(1, mid).unsqueeze(-1); // [g, c, 1]
        let inside = (&self.k * weights).transpose(-1, -2).matmul(&self.k);
        let h = self.cum.select(1, mid).unsqueeze(-1) * &self.h + inside;
        solver::factor(&(h + self.ridge.diag_embed(0, -2, -1).squeeze_dim(1)))
    }
}

/// Solves `(H_t + Lambda) x_t = q_t` for all tokens. `q`, and `warm` if there is one, are cut into
/// chunks; `h` are the key statistics before each chunk. Returns chunks too.
pub(crate) fn solve(
    blocks: &Blocks,
    h: &Tensor,
    q: &Tensor,
    warm: Option<&Tensor>,
    solver: &Solver,
    whole: bool,
) -> Result<Solved> {
    let size = q.size(); // [m, n, c, d]
    let (m, n, c, d) = (size[0], size[1], size[2], size[3]);
    let flat = |x: &Tensor| {
        let s = x.size();
        x.reshape([m * n, s[2], s[3]])
    };
    let ridge = blocks.ridge.expand([m, n, 1, d], false);
    let (q, k, h, dd, cum, ridge) =
        (flat(q), flat(&blocks.k), flat(h), flat(&blocks.d), flat(&blocks.cum), flat(&ridge));
    let warm = warm.map(flat);
    let one_group = whole || q.device() != Device::Cpu;
    let most = match solver {
        Solver::Cholesky => GROUP_ELEMENTS * 8 / (c * d * d),
        Solver::Cg(_) => GROUP_ELEMENTS / (c * d),
    };
    let group = if one_group && matches!(solver, Solver::Cg(_)) { m * n } else { most.max(1) };
    let mut parts = Vec::new();
    let mut at = 0;
    while at < m * n {
        let len = group.min(m * n - at);
        let take = |x: &Tensor| x.narrow(0, at, len);
        let k = take(&k);
        let operator = ChunkOperator {
            k_t: k.transpose(-1, -2),
            k,
            h: take(&h),
            d: take(&dd),
            cum: take(&cum),
            ridge: take(&ridge),
        };
        let q = take(&q);
        parts.push(match solver {
            Solver::Cholesky => {
                let x = solver::dense(&operator.dense(), &q)?;
                let zero = q.select(-1, 0).zeros_like().detach();
                Solved { x, steps: zero.to_kind(Kind::Int64), residual: zero }
            }
            Solver::Cg(cg) => {
                solver::conjugate_gradients(&operator, &q, warm.as_ref().map(take).as_ref(), cg)?
            }
        });
        at += len;
    }
    let gather =
        |f: fn(&Solved) -> &Tensor| Tensor::cat(&parts.iter().map(f).collect::<Vec<_>>(), 0);
    Ok(Solved {
        x: gather(|s| &s.x).reshape([m, n, c, d]),
        steps: gather(|s| &s.steps).reshape([m, n, c]),
        residual: gather(|s| &s.residual).reshape([m, n, c]),
    })
}

/// Solve with one step of refinement: the residual in float64, its correction in float32.
pub(crate) fn refined(
    p: &Problem,
    blocks: &Blocks,
    h: &Tensor,
    q: &Tensor,
    cg: &CgConfig,
    first: Solved,
) -> Result<Solved> {
    let wide = p.map(|x| x.to_kind(Kind::Double));
    let exact = Blocks::new(&wide, blocks.chunk_len);
    let (h_wide, _) = exact.scan(&exact.k, &wide.initial.h_kk);
    let x = first.x.to_kind(Kind::Double);
    let applied = exact.attend(&x, &exact.k, &exact.k, &h_wide) + &x * &exact.ridge;
    let rest = (q.to_kind(Kind::Double) - applied).to_kind(q.kind());
    let more = solve(blocks, h, &rest, None, &Solver::Cg(*cg), false)?;
    Ok(Solved { x: first.x + more.x, steps: first.steps + more.steps, residual: more.residual })
}

/// Solutions for all tokens by the solver of the config, refined where it says so.
pub(crate) fn solutions(
    p: &Problem,
    blocks: &Blocks,
    h: &Tensor,
    q: &Tensor,
    solver: &Solver,
    whole: bool,
) -> Result<Solved> {
    let warm = p.warm.as_ref().map(|x| blocks.cut(x));
    let solved = solve(blocks, h, q, warm.as_ref(), solver, whole)?;
    match solver {
        Solver::Cg(cg) if cg.refine && q.kind() == Kind::Float => {
            refined(p, blocks, h, q, cg, solved)
        }
        _ => Ok(solved),
    }
}

/// The forward pass. Recorded operations, so that it can be differentiated through its iterations
/// (`whole`: all chunks as one group, which keeps that graph small).
pub(crate) fn forward(p: &Problem, config: &MesaConfig, whole: bool) -> Result<MesaOutput> {
    let blocks = Blocks::new(p, config.chunk_len);
    let (h, h_kk) = blocks.scan(&blocks.k, &p.initial.h_kk);
    let (h_kv, g_kv) = blocks.scan(&blocks.v, &p.initial.g_kv);
    let q = blocks.cut(&p.q);
    let solved = solutions(p, &blocks, &h, &q, &config.solver, whole)?;
    let o = blocks.attend(&solved.x, &blocks.k, &blocks.v, &h_kv);
    Ok(MesaOutput {
        o: blocks.join(&o),
        q_star: blocks.join(&solved.x),
        state: MesaState { h_kk, g_kv },
        stats: SolveStats {
            steps: blocks.join_rows(&solved.steps),
            residual: blocks.join_rows(&solved.residual.detach()),
        },
    })
}
