//! Solutions and outputs, chunk by chunk.

use super::{Cg, Level, Problem, Work, dispatch, matrix::transpose, simd::Simd, tile::Tile};
use rayon::prelude::*;

/// Results, head by head: `[b, h, t, ..]`.
pub(crate) struct Forward {
    pub(crate) o: Vec<f32>,        // [b, h, t, e]
    pub(crate) x: Vec<f32>,        // [b, h, t, d]
    pub(crate) steps: Vec<i64>,    // [b, h, t]
    pub(crate) residual: Vec<f32>, // [b, h, t]
    pub(crate) h_kk: Vec<f32>,     // [b, h, d, d]
    pub(crate) g_kv: Vec<f32>,     // [b, h, d, e]
}

/// Statistics of one head, padded.
pub(super) struct States {
    pub(super) h: Vec<f32>, // [d, d]
    pub(super) g: Vec<f32>, // [d, e]
}

impl States {
    /// Those before the first token of head `m`.
    pub(super) fn initial(p: &Problem<'_>, m: usize) -> Self {
        let pad = |from: &[f32], width: usize, padded: usize| {
            let mut to = vec![0.0; p.padded()[0] * padded];
            for (to, from) in to.chunks_mut(padded).zip(from.chunks(width)) {
                to[..width].copy_from_slice(from);
            }
            to
        };
        let [d, e] = p.padded();
        Self {
            h: pad(&p.h_kk[m * p.d * p.d..][..p.d * p.d], p.d, d),
            g: pad(&p.g_kv[m * p.d * p.e..][..p.d * p.e], p.e, e),
        }
    }

    pub(super) fn copy_from(&mut self, other: &Self) {
        self.h.copy_from_slice(&other.h);
        self.g.copy_from_slice(&other.g);
    }

    pub(super) fn copy(&self) -> Self {
        Self { h: self.h.clone(), g: self.g.clone() }
    }
}

/// Takes padding off a matrix.
pub(super) fn unpad(from: &[f32], padded: usize, to: &mut [f32], width: usize) {
    for (to, from) in to.chunks_mut(width).zip(from.chunks(padded)) {
        to.copy_from_slice(&from[..width]);
    }
}

impl Tile {
    /// Loads keys, values, gates of the chunk at token `t0` of head `m`.
    pub(super) fn load(&mut self, p: &Problem<'_>, m: usize, t0: usize) {
        self.n = p.chunk.min(p.seq_len - t0);
        let n = self.n;
        gather(p.k, p, m, t0, n, p.d, &mut self.k, self.d);
        gather(p.v, p, m, t0, n, p.e, &mut self.v, self.e);
        transpose(&self.k, self.d, [self.c, self.d], &mut self.k_t, self.c);
        let row = |t: usize| p.row(m, t0 + t);
        self.set_gates((0..n).map(|t| p.g[row(t)]), (0..n).map(|t| p.beta[row(t)]));
        self.ridge[..p.d].copy_from_slice(&p.ridge[m % p.heads * p.d..][..p.d]);
    }

    /// Takes the chunk into the statistics.
    #[inline(always)]
    pub(super) fn advance_both<S: Simd>(&mut self, states: &mut States) {
        self.advance::<S>(&mut states.h, true);
        self.advance::<S>(&mut states.g, false);
    }
}

/// Rows of `n` tokens of head `m` into a padded tile; rows beyond are zero.
#[expect(clippy::too_many_arguments, reason = "one place in one tensor")]
pub(super) fn gather(
    from: &[f32],
    p: &Problem<'_>,
    m: usize,
    t0: usize,
    n: usize,
    width: usize,
    to: &mut [f32],
    padded: usize,
) {
    for (t, to) in to.chunks_mut(padded).enumerate() {
        if t < n {
            to[..width].copy_from_slice(&from[p.row(m, t0 + t) * width..][..width]);
        } else {
            to.fill(0.0);
        }
    }
}

/// One stretch of one head.
struct Stretch<'a> {
    p: &'a Problem<'a>,
    cg: &'a Cg,
    m: usize,
    from: usize,
    states: States,
    o: &'a mut [f32],
    x: &'a mut [f32],
    steps: &'a mut [i64],
    residual: &'a mut [f32],
    last: Option<(&'a mut [f32], &'a mut [f32])>,
}

impl Work for Stretch<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self) {
        let (p, [d, e]) = (self.p, self.p.padded());
        let mut tile = Tile::new(p.chunk, d, e);
        let mut y = vec![0.0; p.chunk * e];
        let len = self.steps.len();
        let mut at = 0;
        while at < len {
            tile.load(p, self.m, self.from + at);
            let n = tile.n;
            gather(p.q, p, self.m, self.from + at, n, p.d, &mut tile.x, d);
            tile.solve::<S>(&self.states.h, self.cg);
            Tile::attend::<S>(
                &mut tile.scores,
                &mut tile.spare,
                &tile.decay,
                &tile.cum,
                [n, tile.c, d, e],
                &tile.x,
                &tile.k_t,
                &tile.v,
                &self.states.g,
                &mut y,
            );
            unpad(&y, e, &mut self.o[at * p.e..][..n * p.e], p.e);
            unpad(&tile.x, d, &mut self.x[at * p.d..][..n * p.d], p.d);
            self.steps[at..at + n].copy_from_slice(&tile.steps[..n]);
            self.residual[at..at + n].copy_from_slice(&tile.residual[..n]);
            at += n;
            if at < len || self.last.is_some() {
                tile.advance_both::<S>(&mut self.states);
            }
        }
        if let Some((h, g)) = self.last {
            unpad(&self.states.h, d, h, p.d);
            unpad(&self.states.g, e, g, p.e);
        }
    }
}

/// States before some tokens of one head.
pub(super) struct Scan<'a> {
    pub(super) p: &'a Problem<'a>,
    pub(super) m: usize,
    /// Every how many tokens; a multiple of the chunk length.
    pub(super) every: usize,
    pub(super) found: &'a mut Vec<States>,
}

impl Work for Scan<'_> {
    #[inline(always)]
    fn run<S: Simd>(self) {
        let (p, [d, e]) = (self.p, self.p.padded());
        let mut states = States::initial(p, self.m);
        self.found.push(states.copy());
        if self.every >= p.seq_len {
            return;
        }
        let mut tile = Tile::new(p.chunk, d, e);
        let last = (p.seq_len - 1) / self.every * self.every;
        for t in (0..last).step_by(p.chunk) {
            tile.load(p, self.m, t);
            tile.advance_both::<S>(&mut states);
            if (t + p.chunk).is_multiple_of(self.every) {
                self.found.push(states.copy());
            }
        }
    }
}

/// States every `every` tokens of every head.
pub(super) fn scan(p: &Problem<'_>, level: Level, every: usize) -> Vec<Vec<States>> {
    (0..p.n_heads())
        .into_par_iter()
        .map(|m| {
            let mut found = Vec::new();
            dispatch(level, Scan { p, m, every, found: &mut found });
            found
        })
        .collect()
}

/// Solutions, outputs and final statistics, on the threads of the current pool.
pub(crate) fn forward(p: &Problem<'_>, cg: &Cg, level: Level) -> Forward {
    p.check();
    let (heads, t) = (p.n_heads(), p.seq_len);
    let mut out = Forward {
        o: vec![0.0; heads * t * p.e],
        x: vec![0.0; heads * t * p.d],
        steps: vec![0; heads * t],
        residual: vec![0.0; heads * t],
        h_kk: vec![0.0; heads * p.d * p.d],
        g_kv: vec![0.0; heads * p.d * p.e],
    };
    if t == 0 {
        out.h_kk.copy_from_slice(p.h_kk);
        out.g_kv.copy_from_slice(p.g_kv);
        return out;
    }
    // Fewer heads than threads: several stretches of a head at once, after a pass for their states.
    let stretches = rayon::current_num_threads().div_ceil(heads.max(1)).min(t.div_ceil(p.chunk));
    let every = t.div_ceil(p.chunk).div_ceil(stretches) * p.chunk;
    let starts = scan(p, level, every);
    let mut tasks = Vec::new();
    let mut parts = out
        .o
        .chunks_mut(t * p.e)
        .zip(out.x.chunks_mut(t * p.d))
        .zip(out.steps.chunks_mut(t))
        .zip(out.residual.chunks_mut(t))
        .zip(out.h_kk.chunks_mut(p.d * p.d))
        .zip(out.g_kv.chunks_mut(p.d * p.e));
    for (m, states) in starts.into_iter().enumerate() {
        let Some((((((o, x), steps), residual), h), g)) = parts.next() else { break };
        let mut last = Some((h, g));
        let cut = o
            .chunks_mut(every * p.e)
            .zip(x.chunks_mut(every * p.d))
            .zip(steps.chunks_mut(every))
            .zip(residual.chunks_mut(every))
            .zip(states)
            .enumerate();
        for (i, ((((o, x), steps), residual), states)) in cut {
            let from = i * every;
            let ends = from + steps.len() == t;
            let last = if ends { last.take() } else { None };
            tasks.push(Stretch { p, cg, m, from, states, o, x, steps, residual, last });
        }
    }
    tasks.into_par_iter().for_each(|task| dispatch(level, task));
    out
}
