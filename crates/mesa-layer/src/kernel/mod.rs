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
