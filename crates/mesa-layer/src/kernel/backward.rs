//! The closed-form backward pass (section 5), chunk by chunk: the second solve forwards in time, on the
//! same tiles as the first, then the reverse recurrence.

use super::{
    Cg, Level, Problem, Work, dispatch,
    forward::{States, gather, scan, unpad},
    matrix::{axpby, dot, gemm, transpose},
    simd::Simd,
    tile::Tile,
};
use rayon::prelude::*;

/// Gradients, head by head.
pub(crate) struct Backward {
    pub(crate) q: Vec<f32>,     // [b, h, t, d]
    pub(crate) k: Vec<f32>,     // [b, h, t, d]
    pub(crate) v: Vec<f32>,     // [b, h, t, e]
    pub(crate) g: Vec<f32>,     // [b, h, t]
    pub(crate) beta: Vec<f32>,  // [b, h, t]
    pub(crate) ridge: Vec<f32>, // [b, h, d]
    pub(crate) h_kk: Vec<f32>,  // [b, h, d, d]
    pub(crate) g_kv: Vec<f32>,  // [b, h, d, e]
}

/// Chunks between states that are kept for the reverse pass.
const KEPT_CHUNKS: usize = 8;

/// The second solve over one stretch of one head: `e = (H_t + Lambda)^-1 G_t do`.
struct Second<'a> {
    p: &'a Problem<'a>,
    cg: &'a Cg,
    d_o: &'a [f32],
    m: usize,
    from: usize,
    states: States,
    out: &'a mut [f32],
}

impl Work for Second<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self) {
        let (p, [d, e]) = (self.p, self.p.padded());
        let c = p.chunk;
        let mut tile = Tile::new(c, d, e);
        let (mut d_o, mut v_t, mut g_t) = (vec![0.0; c * e], vec![0.0; e * c], vec![0.0; e * d]);
        let len = self.out.len() / p.d;
        let mut at = 0;
        while at < len {
            tile.load(p, self.m, self.from + at);
            let n = tile.n;
            gather(self.d_o, p, self.m, self.from + at, n, p.e, &mut d_o, e);
            transpose(&tile.v, e, [c, e], &mut v_t, c);
            transpose(&self.states.g, e, [d, e], &mut g_t, d);
            // Linear attention with do for queries, values for keys and keys for values.
            Tile::attend::<S>(
                &mut tile.scores,
                &mut tile.spare,
                &tile.decay,
                &tile.cum,
                [c, c, e, d],
                &d_o,
                &v_t,
                &tile.k,
                &g_t,
                &mut tile.x,
            );
            tile.solve::<S>(&self.states.h, self.cg);
            unpad(&tile.x, d, &mut self.out[at * p.d..][..n * p.d], p.d);
            at += n;
            if at < len {
                tile.advance_both::<S>(&mut self.states);
            }
        }
    }
}

/// The reverse recurrence over one head.
struct Reverse<'a> {
    p: &'a Problem<'a>,
    m: usize,
    d_o: &'a [f32],
    /// Solutions of both solves, `[t, d]` of this head.
    x: &'a [f32],
    e: &'a [f32],
    d_h: &'a [f32],
    d_g: &'a [f32],
    kept: Vec<States>,
    out: Gradients<'a>,
}

struct Gradients<'a> {
    k: &'a mut [f32],
    v: &'a mut [f32],
    g: &'a mut [f32],
    beta: &'a mut [f32],
    ridge: &'a mut [f32],
    h_kk: &'a mut [f32],
    g_kv: &'a mut [f32],
}

/// Scratch of one chunk of the reverse pass.
struct Scratch {
    x: Vec<f32>,
    e: Vec<f32>,
    d_o: Vec<f32>,
    v_t: Vec<f32>,
    s: Vec<f32>,
    u: Vec<f32>,
    q: Vec<f32>,
    turned: Vec<f32>,
    wide_d: Vec<f32>,
    wide_e: Vec<f32>,
    k_g: Vec<f32>,
    d_k: Vec<f32>,
    d_v: Vec<f32>,
    left: Vec<f32>,
    sym: Vec<f32>,
    r_g_t: Vec<f32>,
}

/// A row of a padded tile.
fn row(m: &[f32], width: usize, t: usize) -> &[f32] {
    &m[t * width..][..width]
}

impl Reverse<'_> {
    /// One chunk. `r` are the cotangents of the statistics that leave it, and then of those before it.
    #[inline(always)]
    #[expect(
        clippy::too_many_lines,
        reason = "one formula after the other, as in the paper's appendix"
    )]
    fn chunk<S: Simd>(
        &mut self,
        tile: &Tile,
        t0: usize,
        before: &States,
        r: &mut States,
        w: &mut Scratch,
    ) {
        let (p, c, d, e, n) = (self.p, tile.c, tile.d, tile.e, tile.n);
        for (to, from) in [(&mut w.x, self.x), (&mut w.e, self.e)] {
            to.fill(0.0);
            for (to, from) in to.chunks_mut(d).zip(from[t0 * p.d..].chunks(p.d)).take(n) {
                to[..p.d].copy_from_slice(from);
            }
        }
        gather(self.d_o, p, self.m, t0, n, p.e, &mut w.d_o, e);
        transpose(&tile.v, e, [c, e], &mut w.v_t, c);
        let last = &tile.z[(c - 1) * c..];

        // s = x.k, u = do.v, q = e.k of every pair of tokens
        gemm::<S>([c, c, d], &w.x, d, &tile.k_t, c, &mut w.s, c, false);
        gemm::<S>([c, c, e], &w.d_o, e, &w.v_t, c, &mut w.u, c, false);
        gemm::<S>([c, c, d], &w.e, d, &tile.k_t, c, &mut w.q, c, false);
        for (u, q) in w.u.iter_mut().zip(&w.q) {
            *u -= q;
        }

        // dv_s = beta_s ( sum_t z_ts s_ts do_t + w_s R_g^T k_s )
        gemm::<S>([c, e, d], &tile.k, d, &r.g, e, &mut w.k_g, e, false);
        for (t, z) in tile.z.chunks(c).enumerate() {
            for s in 0..c {
                w.turned[s * c + t] = z[s] * w.s[t * c + s];
            }
        }
        for (t, (to, from)) in w.d_v.chunks_mut(e).zip(w.k_g.chunks(e)).enumerate() {
            for j in 0..e {
                to[j] = last[t] * from[j];
            }
        }
        gemm::<S>([c, e, c], &w.turned, c, &w.d_o, e, &mut w.d_v, e, true);

        // dk_s = beta_s ( sum_t z_ts (u - q)_ts x_t - z_ts s_ts e_t + w_s (R_g v + (R_h + R_h^T) k) )
        transpose(&r.g, e, [d, e], &mut w.r_g_t, d);
        for i in 0..d {
            for j in 0..d {
                w.sym[i * d + j] = r.h[i * d + j] + r.h[j * d + i];
            }
        }
        gemm::<S>([c, d, d], &tile.k, d, &w.sym, d, &mut w.wide_d, d, false);
        let mut tail = [0.0_f32; super::tile::MAX_CHUNK];
        for s in 0..c {
            let from_h = 0.5 * dot::<S>(row(&tile.k, d, s), row(&w.wide_d, d, s));
            let from_g = dot::<S>(row(&w.k_g, e, s), row(&tile.v, e, s));
            tail[s] = last[s] * (from_h + from_g);
        }
        gemm::<S>([c, d, e], &tile.v, e, &w.r_g_t, d, &mut w.wide_d, d, true);
        for s in 0..c {
            axpby::<S>(last[s], row(&w.wide_d, d, s), 0.0, &mut w.d_k[s * d..][..d]);
        }
        for x in &mut w.turned {
            *x = -*x;
        }
        gemm::<S>([c, d, c], &w.turned, c, &w.e, d, &mut w.d_k, d, true);
        for (t, z) in tile.z.chunks(c).enumerate() {
            for s in 0..c {
                w.turned[s * c + t] = z[s] * w.u[t * c + s];
            }
        }
        gemm::<S>([c, d, c], &w.turned, c, &w.x, d, &mut w.d_k, d, true);

        // Gates: pair_ts = z_ts s_ts (u - q)_ts, what the weight of s at t is worth.
        gemm::<S>([c, e, d], &w.x, d, &before.g, e, &mut w.wide_e, e, false);
        gemm::<S>([c, d, d], &w.e, d, &before.h, d, &mut w.wide_d, d, false);
        let mut d_b = [0.0_f64; super::tile::MAX_CHUNK];
        let mut d_beta = [0.0_f64; super::tile::MAX_CHUNK];
        let mut tails = 0.0_f64;
        for t in 0..c {
            let from_g = dot::<S>(row(&w.wide_e, e, t), row(&w.d_o, e, t));
            let from_h = dot::<S>(row(&w.wide_d, d, t), row(&w.x, d, t));
            d_b[t] += f64::from(tile.cum[t] * (from_g - from_h));
            for s in 0..=t {
                let at = t * c + s;
                let pair = f64::from(tile.z[at] * w.s[at] * w.u[at]);
                d_beta[s] += pair;
                let weighted = pair * f64::from(tile.beta[s]);
                d_b[t] += weighted;
                d_b[s] -= weighted;
            }
            d_beta[t] += f64::from(tail[t]);
            let weighted = f64::from(tile.beta[t]) * f64::from(tail[t]);
            d_b[t] -= weighted;
            tails += weighted;
        }
        let through = tile.cum[c - 1];
        let flow = dot::<S>(&r.g, &before.g) + dot::<S>(&r.h, &before.h);
        let mut d_g = tails + f64::from(through * flow);
        for t in (0..c).rev() {
            d_g += d_b[t];
            if t < n {
                self.out.g[t0 + t] = d_g as f32;
                self.out.beta[t0 + t] = d_beta[t] as f32;
                let beta = tile.beta[t];
                for j in 0..p.d {
                    self.out.k[(t0 + t) * p.d + j] = beta * w.d_k[t * d + j];
                    self.out.ridge[j] -= w.x[t * d + j] * w.e[t * d + j];
                }
                for j in 0..p.e {
                    self.out.v[(t0 + t) * p.e + j] = beta * w.d_v[t * e + j];
                }
            }
        }

        // R_h = cum_n R_h - (diag(cum) E)^T X,  R_g = cum_n R_g + (diag(cum) X)^T dO
        for x in r.h.iter_mut().chain(&mut r.g) {
            *x *= through;
        }
        for t in 0..c {
            for j in 0..d {
                w.left[j * c + t] = -tile.cum[t] * w.e[t * d + j];
            }
        }
        gemm::<S>([d, d, c], &w.left, c, &w.x, d, &mut r.h, d, true);
        for t in 0..c {
            for j in 0..d {
                w.left[j * c + t] = tile.cum[t] * w.x[t * d + j];
            }
        }
        gemm::<S>([d, e, c], &w.left, c, &w.d_o, e, &mut r.g, e, true);
    }
}

impl Work for Reverse<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self) {
        let (p, [d, e]) = (self.p, self.p.padded());
        let c = p.chunk;
        let m = |n: usize| vec![0.0; n];
        let mut w = Scratch {
            x: m(c * d),
            e: m(c * d),
            d_o: m(c * e),
            v_t: m(e * c),
            s: m(c * c),
            u: m(c * c),
            q: m(c * c),
            turned: m(c * c),
            wide_d: m(c * d),
            wide_e: m(c * e),
            k_g: m(c * e),
            d_k: m(c * d),
            d_v: m(c * e),
            left: m(d * c),
            sym: m(d * d),
            r_g_t: m(e * d),
        };
        let mut r = States { h: m(d * d), g: m(d * e) };
        for (to, from) in r.h.chunks_mut(d).zip(self.d_h.chunks(p.d)) {
            to[..p.d].copy_from_slice(from);
        }
        for (to, from) in r.g.chunks_mut(e).zip(self.d_g.chunks(p.e)) {
            to[..p.e].copy_from_slice(from);
        }
        let mut tile = Tile::new(c, d, e);
        let every = KEPT_CHUNKS * c;
        let mut near: Vec<States> = Vec::new();
        while let Some(start) = self.kept.pop() {
            let from = self.kept.len() * every;
            let chunks = (p.seq_len - from).div_ceil(c).min(KEPT_CHUNKS);
            // States before each chunk of the stretch, computed again.
            near.resize_with(chunks, || start.copy());
            near[0].copy_from(&start);
            for i in 1..chunks {
                tile.load(p, self.m, from + (i - 1) * c);
                let (done, rest) = near.split_at_mut(i);
                rest[0].copy_from(&done[i - 1]);
                tile.advance_both::<S>(&mut rest[0]);
            }
            for i in (0..chunks).rev() {
                tile.load(p, self.m, from + i * c);
                self.chunk::<S>(&tile, from + i * c, &near[i], &mut r, &mut w);
            }
        }
        unpad(&r.h, d, self.out.h_kk, p.d);
        unpad(&r.g, e, self.out.g_kv, p.e);
    }
}

/// Gradients at solutions `x: [b, h, t, d]` for cotangents `d_o: [b, t, h, e]`, `d_h`, `d_g`.
pub(crate) fn backward(
    p: &Problem<'_>,
    cg: &Cg,
    level: Level,
    x: &[f32],
    [d_o, d_h, d_g]: [&[f32]; 3],
) -> Backward {
    p.check();
    let (heads, t) = (p.n_heads(), p.seq_len);
    assert!(x.len() == p.q.len() && d_o.len() == p.v.len());
    assert!(d_h.len() == p.h_kk.len() && d_g.len() == p.g_kv.len());
    let zeros = |n: usize| vec![0.0_f32; n];
    let mut out = Backward {
        q: zeros(heads * t * p.d),
        k: zeros(heads * t * p.d),
        v: zeros(heads * t * p.e),
        g: zeros(heads * t),
        beta: zeros(heads * t),
        ridge: zeros(heads * p.d),
        h_kk: zeros(heads * p.d * p.d),
        g_kv: zeros(heads * p.d * p.e),
    };
    if t == 0 {
        out.h_kk.copy_from_slice(d_h);
        out.g_kv.copy_from_slice(d_g);
        return out;
    }
    let stretches = rayon::current_num_threads().div_ceil(heads.max(1)).min(t.div_ceil(p.chunk));
    let every = t.div_ceil(p.chunk).div_ceil(stretches) * p.chunk;
    let mut tasks = Vec::new();
    for (m, (out, states)) in out.q.chunks_mut(t * p.d).zip(scan(p, level, every)).enumerate() {
        for (i, (out, states)) in out.chunks_mut(every * p.d).zip(states).enumerate() {
            tasks.push(Second { p, cg, d_o, m, from: i * every, states, out });
        }
    }
    tasks.into_par_iter().for_each(|task| dispatch(level, task));

    let kept = scan(p, level, KEPT_CHUNKS * p.chunk);
    let mut tasks = Vec::new();
    let mut parts = out
        .k
        .chunks_mut(t * p.d)
        .zip(out.v.chunks_mut(t * p.e))
        .zip(out.g.chunks_mut(t))
        .zip(out.beta.chunks_mut(t))
        .zip(out.ridge.chunks_mut(p.d))
        .zip(out.h_kk.chunks_mut(p.d * p.d))
        .zip(out.g_kv.chunks_mut(p.d * p.e));
    for (m, kept) in kept.into_iter().enumerate() {
        let Some(((((((k, v), g), beta), ridge), h_kk), g_kv)) = parts.next() else { break };
        tasks.push(Reverse {
            p,
            m,
            d_o,
            x: &x[m * t * p.d..][..t * p.d],
            e: &out.q[m * t * p.d..][..t * p.d],
            d_h: &d_h[m * p.d * p.d..][..p.d * p.d],
            d_g: &d_g[m * p.d * p.e..][..p.d * p.e],
            kept,
            out: Gradients { k, v, g, beta, ridge, h_kk, g_kv },
        });
    }
    tasks.into_par_iter().for_each(|task| dispatch(level, task));
    out
}
