//! One chunk of one head: its decays, the product with `H_t + Lambda`, conjugate gradients.

use super::{
    Cg, Rule,
    matrix::{self, axpby, dot, gemm},
    simd::Simd,
};

/// Buffers of one chunk, all in cache at once; `c` rows, `d` columns of keys, `e` of values (padded).
pub(super) struct Tile {
    pub(super) c: usize,
    pub(super) d: usize,
    pub(super) e: usize,
    /// Tokens that are there; the rest are zeros.
    pub(super) n: usize,
    pub(super) k: Vec<f32>,     // [c, d]
    pub(super) k_t: Vec<f32>,   // [d, c]
    pub(super) v: Vec<f32>,     // [c, e]
    pub(super) z: Vec<f32>,     // [c, c]
    pub(super) decay: Vec<f32>, // [c, c], z times input gates
    pub(super) cum: Vec<f32>,   // [c]
    pub(super) beta: Vec<f32>,  // [c]
    pub(super) ridge: Vec<f32>, // [d]
    /// Right-hand sides, then solutions.
    pub(super) x: Vec<f32>, // [c, d]
    pub(super) steps: Vec<i64>,
    pub(super) residual: Vec<f32>,
    weighted: Vec<f32>,  // [d, c]
    factor: Vec<f32>,    // [d, d]
    inverse: Vec<f32>,   // [d, d], upper
    inverse_t: Vec<f32>, // [d, d], lower
    // Rows that are not finished, moved together.
    work: Work,
    pub(super) scores: Vec<f32>, // [c, c]
    pub(super) spare: Vec<f32>,  // [c, max(d, e)]
}

/// Iterates of the rows that go on.
struct Work {
    row: Vec<usize>,
    x: Vec<f32>,
    r: Vec<f32>,
    p: Vec<f32>,
    u: Vec<f32>,
    z: Vec<f32>,
    decay: Vec<f32>,
    cum: Vec<f32>,
    rho: Vec<f32>,
    bound: Vec<f32>,
    norm: Vec<f32>,
}

impl Tile {
    pub(super) fn new(c: usize, d: usize, e: usize) -> Self {
        let m = |n: usize| vec![0.0; n];
        Self {
            c,
            d,
            e,
            n: 0,
            k: m(c * d),
            k_t: m(d * c),
            v: m(c * e),
            z: m(c * c),
            decay: m(c * c),
            cum: m(c),
            beta: m(c),
            ridge: vec![1.0; d],
            x: m(c * d),
            steps: vec![0; c],
            residual: m(c),
            weighted: m(d * c),
            factor: m(d * d),
            inverse: m(d * d),
            inverse_t: m(d * d),
            work: Work {
                row: Vec::with_capacity(c),
                x: m(c * d),
                r: m(c * d),
                p: m(c * d),
                u: m(c * d),
                z: m(c * d),
                decay: m(c * c),
                cum: m(c),
                rho: m(c),
                bound: m(c),
                norm: m(c),
            },
            scores: m(c * c),
            spare: m(c * d.max(e)),
        }
    }

    /// Decays from the logarithms `g` and input gates of the chunk's tokens, by running products:
    /// exact where a gate is zero, and no sum of logarithms loses digits.
    pub(super) fn set_gates(
        &mut self,
        g: impl Iterator<Item = f32>,
        beta: impl Iterator<Item = f32>,
    ) {
        self.beta.fill(0.0);
        for (to, from) in self.beta.iter_mut().zip(beta) {
            *to = from;
        }
        let c = self.c;
        let mut running = [0.0_f64; MAX_CHUNK];
        let mut cum = 1.0_f64;
        let mut g = g;
        for t in 0..c {
            let gamma = g.next().map_or(1.0, |g| f64::from(g).exp());
            cum *= gamma;
            self.cum[t] = cum as f32;
            for x in &mut running[..t] {
                *x *= gamma;
            }
            running[t] = 1.0;
            let (z, decay) = (&mut self.z[t * c..][..c], &mut self.decay[t * c..][..c]);
            for s in 0..c {
                let x = if s <= t { running[s] as f32 } else { 0.0 };
                z[s] = x;
                decay[s] = x * self.beta[s];
            }
        }
    }

    /// `h = cum_n h + K^T diag(Z_n o beta) X` for statistics `h: [d, w]` and `x: [c, w]`.
    #[inline(always)]
    pub(super) fn advance<S: Simd>(&mut self, h: &mut [f32], keys: bool) {
        let (c, d) = (self.c, self.d);
        let (x, w) = if keys { (&self.k, d) } else { (&self.v, self.e) };
        let last = &self.decay[(c - 1) * c..];
        for (to, from) in self.weighted.chunks_mut(c).zip(self.k_t.chunks(c)) {
            for s in 0..c {
                to[s] = from[s] * last[s];
            }
        }
        let through = self.cum[c - 1];
        for y in h.iter_mut() {
            *y *= through;
        }
        gemm::<S>([d, w, c], &self.weighted, c, x, w, h, w, true);
    }

    /// Sets up the preconditioner: `(H_m + Lambda)^-1 = W W^T` for the middle token `m`. False when the
    /// matrix is not definite in float32.
    #[inline(always)]
    fn precondition<S: Simd>(&mut self, h: &[f32]) -> bool {
        let (c, d) = (self.c, self.d);
        let mid = (self.n.max(1) - 1) / 2;
        let weights = &self.decay[mid * c..][..c];
        for (to, from) in self.weighted.chunks_mut(c).zip(self.k_t.chunks(c)) {
            for s in 0..c {
                to[s] = from[s] * weights[s];
            }
        }
        let cum = self.cum[mid];
        for (to, from) in self.factor.iter_mut().zip(h) {
            *to = cum * from;
        }
        gemm::<S>([d, d, mid + 1], &self.weighted, c, &self.k, d, &mut self.factor, d, true);
        for i in 0..d {
            self.factor[i * d + i] += self.ridge[i];
        }
        if !matrix::cholesky::<S>(&mut self.factor, d) {
            return false;
        }
        matrix::invert_upper::<S>(&self.factor, d, &mut self.inverse);
        matrix::transpose(&self.inverse, d, [d, d], &mut self.inverse_t, d);
        true
    }

    /// `y = diag(cum) A h + ((A B^T) o D) C` with `b_t: [d, c]`, the linear attention of the chunk.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "the matrices of one product")]
    pub(super) fn attend<S: Simd>(
        scores: &mut [f32],
        scaled: &mut [f32],
        decay: &[f32],
        cum: &[f32],
        [rows, c, inner, width]: [usize; 4],
        a: &[f32],
        b_t: &[f32],
        values: &[f32],
        h: &[f32],
        y: &mut [f32],
    ) {
        gemm::<S>([rows, c, inner], a, inner, b_t, c, scores, c, false);
        for (s, w) in scores[..rows * c].iter_mut().zip(decay) {
            *s *= w;
        }
        for ((to, from), w) in scaled.chunks_mut(inner).zip(a.chunks(inner)).zip(&cum[..rows]) {
            for i in 0..inner {
                to[i] = w * from[i];
            }
        }
        gemm::<S>([rows, width, c], scores, c, values, width, y, width, false);
        gemm::<S>([rows, width, inner], scaled, inner, h, width, y, width, true);
    }

    /// Solves `(H_t + Lambda) x_t = q_t` for the rows of `x`, which hold `q_t`, in place.
    #[inline(always)]
    pub(super) fn solve<S: Simd>(&mut self, h: &[f32], cg: &Cg) {
        let (c, d) = (self.c, self.d);
        let preconditioned = cg.precondition && self.precondition::<S>(h);
        self.steps.fill(0);
        self.residual.fill(0.0);
        // Start: the iterates of all rows that have a right-hand side.
        self.work.row.clear();
        for t in 0..self.n {
            let q = &self.x[t * d..][..d];
            let norm = dot::<S>(q, q);
            if norm == 0.0 {
                continue; // x = q = 0 already
            }
            let at = self.work.row.len();
            self.work.row.push(t);
            self.work.r[at * d..][..d].copy_from_slice(q);
            self.work.decay[at * c..][..c].copy_from_slice(&self.decay[t * c..][..c]);
            self.work.cum[at] = self.cum[t];
            self.work.bound[at] = norm;
        }
        let rows = self.work.row.len();
        match (cg.start_diag, preconditioned) {
            (true, _) => self.start_diag(h),
            (false, true) if cg.start_preconditioned => {
                self.apply_inverse::<S>(rows);
                let w = &mut self.work;
                w.x[..rows * d].copy_from_slice(&w.z[..rows * d]);
            }
            _ => self.work.x[..rows * d].fill(0.0),
        }
        // r = q - A x
        let w = &mut self.work;
        w.p[..rows * d].copy_from_slice(&w.x[..rows * d]);
        self.apply::<S>(h, rows);
        let w = &mut self.work;
        for (r, u) in w.r[..rows * d].iter_mut().zip(&w.u) {
            *r -= u;
        }
        for i in 0..rows {
            let r = &w.r[i * d..][..d];
            w.norm[i] = dot::<S>(r, r);
            w.bound[i] = match cg.rule {
                Rule::Fixed => -1.0,
                Rule::Start(eps) => eps * eps * w.norm[i],
                Rule::Query(eps) => eps * eps * w.bound[i],
            };
        }
        if preconditioned {
            self.apply_inverse::<S>(rows);
        } else {
            self.work.z[..rows * d].copy_from_slice(&self.work.r[..rows * d]);
        }
        let w = &mut self.work;
        let mut alive: Vec<bool> = Vec::with_capacity(rows);
        for i in 0..rows {
            w.rho[i] = dot::<S>(&w.r[i * d..][..d], &w.z[i * d..][..d]);
            let met = matches!(cg.rule, Rule::Query(_)) && w.norm[i] <= w.bound[i];
            alive.push(w.rho[i] > 0.0 && !met);
        }
        w.p[..rows * d].copy_from_slice(&w.z[..rows * d]);
        let mut rows = self.compact(&mut alive);

        for _ in 0..cg.max_steps {
            if rows == 0 {
                break;
            }
            self.apply::<S>(h, rows);
            let w = &mut self.work;
            for i in 0..rows {
                let (p, u) = (&w.p[i * d..][..d], &w.u[i * d..][..d]);
                let curvature = dot::<S>(p, u);
                if curvature > 0.0 && curvature.is_finite() {
                    let alpha = w.rho[i] / curvature;
                    axpby::<S>(alpha, p, 1.0, &mut w.x[i * d..][..d]);
                    axpby::<S>(-alpha, u, 1.0, &mut w.r[i * d..][..d]);
                    self.steps[w.row[i]] += 1;
                    alive[i] = true;
                } else {
                    alive[i] = false;
                }
            }
            if preconditioned {
                self.apply_inverse::<S>(rows);
            }
            let w = &mut self.work;
            for i in 0..rows {
                let r = &w.r[i * d..][..d];
                let z = if preconditioned { &w.z[i * d..][..d] } else { r };
                let next = dot::<S>(r, z);
                w.norm[i] = if preconditioned { dot::<S>(r, r) } else { next };
                if !(alive[i] && next > 0.0 && next.is_finite() && w.norm[i] > w.bound[i]) {
                    alive[i] = false;
                    continue;
                }
                axpby::<S>(1.0, z, next / w.rho[i], &mut w.p[i * d..][..d]);
                w.rho[i] = next;
            }
            rows = self.compact(&mut alive);
        }
        // What is left has used up its steps.
        alive.clear();
        alive.resize(rows, false);
        self.compact(&mut alive);
    }

    /// `x = q / diag(H_t + Lambda)` for the rows at work.
    fn start_diag(&mut self, h: &[f32]) {
        let (c, d) = (self.c, self.d);
        let w = &mut self.work;
        for i in 0..w.row.len() {
            let (x, q) = (&mut w.x[i * d..][..d], &w.r[i * d..][..d]);
            for j in 0..d {
                x[j] = w.cum[i] * h[j * d + j] + self.ridge[j];
            }
            for (weight, k) in w.decay[i * c..][..c].iter().zip(self.k.chunks(d)).take(self.n) {
                if *weight != 0.0 {
                    for j in 0..d {
                        x[j] += weight * k[j] * k[j];
                    }
                }
            }
            for j in 0..d {
                x[j] = q[j] / x[j];
            }
        }
    }

    /// `u = (H_t + Lambda) p` for the rows at work.
    #[inline(always)]
    fn apply<S: Simd>(&mut self, h: &[f32], rows: usize) {
        let (c, d) = (self.c, self.d);
        let w = &mut self.work;
        Self::attend::<S>(
            &mut self.scores,
            &mut self.spare,
            &w.decay,
            &w.cum,
            [rows, c, d, d],
            &w.p,
            &self.k_t,
            &self.k,
            h,
            &mut w.u,
        );
        for (u, p) in w.u[..rows * d].chunks_mut(d).zip(w.p.chunks(d)) {
            for j in 0..d {
                u[j] += self.ridge[j] * p[j];
            }
        }
    }

    /// `z = M^-1 r = (r W) W^T`; the halves of `W` that are zero are left out.
    #[inline(always)]
    fn apply_inverse<S: Simd>(&mut self, rows: usize) {
        let d = self.d;
        let w = &mut self.work;
        let step = 2 * matrix::PAD;
        let mut j = 0;
        while j < d {
            let n = step.min(d - j);
            let to = &mut self.spare[j..];
            gemm::<S>([rows, n, j + n], &w.r, d, &self.inverse[j..], d, to, d, false);
            j += n;
        }
        let mut j = 0;
        while j < d {
            let n = step.min(d - j);
            let (from, lower) = (&self.spare[j..], &self.inverse_t[j * d + j..]);
            gemm::<S>([rows, n, d - j], from, d, lower, d, &mut w.z[j..], d, false);
            j += n;
        }
    }

    /// Hands finished rows out and moves the others together, in order. Returns how many go on.
    fn compact(&mut self, alive: &mut Vec<bool>) -> usize {
        let (c, d) = (self.c, self.d);
        let w = &mut self.work;
        let rows = w.row.len();
        let mut to = 0;
        for i in 0..rows {
            if !alive[i] {
                let t = w.row[i];
                self.x[t * d..][..d].copy_from_slice(&w.x[i * d..][..d]);
                self.residual[t] = w.norm[i].sqrt();
                continue;
            }
            if to < i {
                for m in [&mut w.x, &mut w.r, &mut w.p] {
                    m.copy_within(i * d..(i + 1) * d, to * d);
                }
                w.decay.copy_within(i * c..(i + 1) * c, to * c);
                for m in [&mut w.cum, &mut w.rho, &mut w.bound, &mut w.norm] {
                    m[to] = m[i];
                }
                w.row[to] = w.row[i];
            }
            to += 1;
        }
        w.row.truncate(to);
        alive.clear();
        alive.resize(to, true);
        to
    }
}

/// Longest chunk of the kernel.
pub(super) const MAX_CHUNK: usize = 64;
