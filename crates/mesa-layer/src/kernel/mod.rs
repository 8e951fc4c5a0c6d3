//! The fused kernel for processors: slices in, slices out, no tensor library.
//!
//! One chunk of one head is worked on in cache (`Tile`): decays, the masked product with
//! `H_t + Lambda`, conjugate gradients whose finished rows are taken out of the tile, outputs, and the
//! statistics for the next chunk, which are written nowhere else. Heads are spread over threads, and
//! stretches of a head too where there are fewer heads than threads. Each number is computed by the
//! same chain of operations whatever the number of threads.
//!
//! Three instruction sets, chosen when the program runs: AVX-512, AVX2 with FMA, portable.
#![expect(unsafe_code, reason = "vector instructions, each block with the reason why it is sound")]
#![expect(
    clippy::inline_always,
    reason = "generic code must land in the function of its instruction set"
)]
#![expect(
    clippy::needless_range_loop,
    reason = "several arrays under one index, as in the formulas"
)]

mod backward;
mod forward;
mod matrix;
mod simd;
mod tile;

pub(crate) use backward::backward;
pub(crate) use forward::forward;

use simd::Portable;
#[cfg(target_arch = "x86_64")]
use simd::{Avx2, Avx512};

/// When a row is finished.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rule {
    /// After all steps.
    Fixed,
    /// At this share of the first residual.
    Start(f32),
    /// At this share of the right-hand side.
    Query(f32),
}

/// Conjugate gradients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cg {
    /// Most steps.
    pub(crate) max_steps: usize,
    /// From `q / diag(H_t + Lambda)`.
    pub(crate) start_diag: bool,
    /// From `M^-1 q`.
    pub(crate) start_preconditioned: bool,
    /// With a factor of the middle state.
    pub(crate) precondition: bool,
    /// When a row is finished.
    pub(crate) rule: Rule,
}

/// Inputs, contiguous in the order of their dimensions.
#[derive(Clone, Copy)]
pub(crate) struct Problem<'a> {
    pub(crate) batch: usize,
    pub(crate) seq_len: usize,
    pub(crate) heads: usize,
    /// Size of a key.
    pub(crate) d: usize,
    /// Size of a value.
    pub(crate) e: usize,
    /// Tokens of a chunk: 16, 32 or 64.
    pub(crate) chunk: usize,
    pub(crate) q: &'a [f32],     // [b, t, h, d]
    pub(crate) k: &'a [f32],     // [b, t, h, d]
    pub(crate) v: &'a [f32],     // [b, t, h, e]
    pub(crate) g: &'a [f32],     // [b, t, h]
    pub(crate) beta: &'a [f32],  // [b, t, h]
    pub(crate) ridge: &'a [f32], // [h, d]
    pub(crate) h_kk: &'a [f32],  // [b, h, d, d]
    pub(crate) g_kv: &'a [f32],  // [b, h, d, e]
}

impl Problem<'_> {
    fn n_heads(&self) -> usize {
        self.batch * self.heads
    }

    fn padded(&self) -> [usize; 2] {
        [self.d, self.e].map(|n| n.next_multiple_of(matrix::PAD))
    }

    fn check(&self) {
        let rows = self.batch * self.seq_len * self.heads;
        assert!(self.q.len() == rows * self.d && self.k.len() == rows * self.d);
        assert!(self.v.len() == rows * self.e && self.g.len() == rows && self.beta.len() == rows);
        assert!(self.ridge.len() == self.heads * self.d);
        assert!(self.h_kk.len() == self.n_heads() * self.d * self.d);
        assert!(self.g_kv.len() == self.n_heads() * self.d * self.e);
        assert!(
            self.chunk.is_multiple_of(matrix::PAD) && (1..=tile::MAX_CHUNK).contains(&self.chunk)
        );
    }

    /// Index of token `t` of head `m` (`m = batch row * heads + head`) among all rows.
    fn row(&self, m: usize, t: usize) -> usize {
        (m / self.heads * self.seq_len + t) * self.heads + m % self.heads
    }
}

/// Instruction sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// 512-bit vectors.
    Avx512,
    /// 256-bit vectors with fused products.
    Avx2,
    /// What the target has for certain.
    Portable,
}

/// The instruction sets that this processor has, best first.
pub(crate) fn levels() -> Vec<Level> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            found.push(Level::Avx512);
        }
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            found.push(Level::Avx2);
        }
    }
    found.push(Level::Portable);
    found
}

/// Work that is written once for every instruction set.
trait Work {
    fn run<S: simd::Simd>(self);
}

/// Runs `work` compiled for `level`.
fn dispatch(level: Level, work: impl Work) {
    match level {
        // SAFETY: a level comes from `levels`, which found the instructions on this processor.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { with_avx512(work) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { with_avx2(work) },
        _ => work.run::<Portable>(),
    }
}

/// # Safety
/// The processor has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn with_avx512(work: impl Work) {
    work.run::<Avx512>();
}

/// # Safety
/// The processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn with_avx2(work: impl Work) {
    work.run::<Avx2>();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers from -1 to 1 that look random.
    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1_u32 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }

    fn off(a: &[f32], b: &[f32]) -> f32 {
        let scale = b.iter().fold(1e-6_f32, |m, x| m.max(x.abs()));
        a.iter().zip(b).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs())) / scale
    }

    #[test]
    fn every_instruction_set_gives_the_same_answer() {
        let (heads, t, d, e) = (2, 41, 20, 9);
        let rows = heads * t;
        let [q, k, v] = [(d, 1), (d, 2), (e, 3)].map(|(w, seed)| numbers(rows * w, seed));
        let g: Vec<f32> = numbers(rows, 4).iter().map(|x| 0.1 * (x - 1.0)).collect();
        let beta: Vec<f32> = numbers(rows, 5).iter().map(|x| 0.5 * (x + 1.0)).collect();
        let ridge = vec![0.5; heads * d];
        let (h_kk, g_kv) = (vec![0.0; heads * d * d], numbers(heads * d * e, 6));
        for precondition in [false, true] {
            let p = Problem {
                batch: 1,
                seq_len: t,
                heads,
                d,
                e,
                chunk: 16,
                q: &q,
                k: &k,
                v: &v,
                g: &g,
                beta: &beta,
                ridge: &ridge,
                h_kk: &h_kk,
                g_kv: &g_kv,
            };
            let cg = Cg {
                max_steps: 60,
                start_diag: true,
                start_preconditioned: false,
                precondition,
                rule: Rule::Query(1e-6),
            };
            let run = |level| {
                let out = forward(&p, &cg, level);
                let back = backward(&p, &cg, level, &out.x, [&v, &h_kk, &g_kv]);
                (out, back)
            };
            let (want, want_back) = run(Level::Portable);
            assert!(want.steps.iter().all(|s| (1..60).contains(s)));
            for level in levels() {
                let (out, back) = run(level);
                for (name, a, b) in [
                    ("o", &out.o, &want.o),
                    ("x", &out.x, &want.x),
                    ("h_kk", &out.h_kk, &want.h_kk),
                    ("dq", &back.q, &want_back.q),
                    ("dk", &back.k, &want_back.k),
                    ("dv", &back.v, &want_back.v),
                    ("dg", &back.g, &want_back.g),
                    ("dbeta", &back.beta, &want_back.beta),
                    ("dridge", &back.ridge, &want_back.ridge),
                ] {
                    let off = off(a, b);
                    assert!(off < 1e-4, "{level:?}, {precondition}: {name} off by {off:e}");
                }
            }
        }
    }

    #[test]
    fn a_factor_times_its_inverse_is_one() {
        let n = 16;
        let mut a = vec![0.0_f32; n * n];
        for i in 0..n {
            for j in 0..n {
                a[i * n + j] = 1.0 / (1.0 + (i as f32 - j as f32).abs());
            }
            a[i * n + i] += 0.5;
        }
        let matrix = a.clone();
        assert!(matrix::cholesky::<Portable>(&mut a, n));
        let mut w = vec![0.0; n * n];
        matrix::invert_upper::<Portable>(&a, n, &mut w);
        // W W^T = A^-1, so A W W^T = 1
        for i in 0..n {
            for j in 0..n {
                let mut sum = 0.0_f32;
                for k in 0..n {
                    let inverse: f32 = (0..n).map(|l| w[k * n + l] * w[j * n + l]).sum();
                    sum += matrix[i * n + k] * inverse;
                }
                let want = if i == j { 1.0 } else { 0.0 };
                assert!((sum - want).abs() < 1e-5, "{i}, {j}: {sum}");
            }
        }
        let mut bad = vec![0.0; n * n];
        assert!(!matrix::cholesky::<Portable>(&mut bad, n));
    }
}
