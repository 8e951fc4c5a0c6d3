//! Small matrices in row-major slices: product, transpose, Cholesky factor and its inverse.
//!
//! Numbers of columns are multiples of [`PAD`], filled up with zeros, so that no vector is cut.

use super::simd::Simd;

/// Widths are multiples of this: the longest vector.
pub(super) const PAD: usize = 16;

/// Rows of one register tile.
const ROWS: usize = 6;

/// A matrix product `c = a b`, or `c += a b` where `add`: `a` is `[m, k]` with rows `lda` apart,
/// `b: [k, n]`, `c: [m, n]`.
///
/// Each element is one chain of fused products over `k` in ascending order, whatever the tile it
/// falls in: a row's result does not depend on its neighbours.
#[expect(clippy::too_many_arguments, reason = "the arguments of a matrix product")]
pub(super) fn gemm<S: Simd>(
    [m, n, k]: [usize; 3],
    a: &[f32],
    lda: usize,
    b: &[f32],
    ldb: usize,
    c: &mut [f32],
    ldc: usize,
    add: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    assert!(n.is_multiple_of(S::LANES) && n <= ldc && (k == 0 || n <= ldb) && k <= lda);
    assert!(k == 0 || (a.len() >= (m - 1) * lda + k && b.len() >= (k - 1) * ldb + n));
    assert!(c.len() >= (m - 1) * ldc + n);
    let product =
        Product { m, n, k, a: a.as_ptr(), lda, b: b.as_ptr(), ldb, c: c.as_mut_ptr(), ldc, add };
    // SAFETY: the three assertions above cover every element that the product reads or writes: rows
    // below `m`, columns below `n`, products below `k`.
    unsafe { S::product(product) }
}

/// Arguments of a matrix product that were checked.
#[derive(Clone, Copy)]
pub(super) struct Product {
    m: usize,
    n: usize,
    k: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    add: bool,
}

/// The product in panels of columns.
///
/// # Safety
/// Rows below `m`, columns below `n` and products below `k` lie within the three matrices; `n` is a
/// multiple of `LANES`.
#[inline(always)]
pub(super) unsafe fn product<S: Simd>(p: Product) {
    let Product { m, n, k, a, lda, b, ldb, c, ldc, add } = p;
    let mut j = 0;
    // SAFETY: panels end at column `n`.
    unsafe {
        if S::LANES == 16 {
            while j + 4 * S::LANES <= n {
                panel::<S, 4>(m, k, a, lda, b.add(j), ldb, c.add(j), ldc, add);
                j += 4 * S::LANES;
            }
        }
        while j + 2 * S::LANES <= n {
            panel::<S, 2>(m, k, a, lda, b.add(j), ldb, c.add(j), ldc, add);
            j += 2 * S::LANES;
        }
        while j < n {
            panel::<S, 1>(m, k, a, lda, b.add(j), ldb, c.add(j), ldc, add);
            j += S::LANES;
        }
    }
}

/// `NV` vectors of columns of a product.
///
/// # Safety
/// As [`tile`], for `m` rows.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the arguments of a matrix product")]
unsafe fn panel<S: Simd, const NV: usize>(
    m: usize,
    k: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    add: bool,
) {
    let mut i = 0;
    // SAFETY: rows `i..i + rows of the tile` are below `m`.
    unsafe {
        while i + ROWS <= m {
            tile::<S, ROWS, NV>(k, a.add(i * lda), lda, b, ldb, c.add(i * ldc), ldc, add);
            i += ROWS;
        }
        let (a, c) = (a.add(i * lda), c.add(i * ldc));
        match m - i {
            1 => tile::<S, 1, NV>(k, a, lda, b, ldb, c, ldc, add),
            2 => tile::<S, 2, NV>(k, a, lda, b, ldb, c, ldc, add),
            3 => tile::<S, 3, NV>(k, a, lda, b, ldb, c, ldc, add),
            4 => tile::<S, 4, NV>(k, a, lda, b, ldb, c, ldc, add),
            5 => tile::<S, 5, NV>(k, a, lda, b, ldb, c, ldc, add),
            _ => {}
        }
    }
}

/// The product in registers: `MR` rows by `NV` vectors.
///
/// # Safety
/// `a` has `MR` rows of `k` floats, `b` `k` rows of `NV` vectors, `c` `MR` rows of `NV` vectors.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the arguments of a matrix product")]
unsafe fn tile<S: Simd, const MR: usize, const NV: usize>(
    k: usize,
    a: *const f32,
    lda: usize,
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    add: bool,
) {
    // SAFETY: every offset stays within the rows that the contract names.
    unsafe {
        let mut acc = [[S::zero(); NV]; MR];
        if add {
            for r in 0..MR {
                for j in 0..NV {
                    acc[r][j] = S::load(c.add(r * ldc + j * S::LANES));
                }
            }
        }
        for i in 0..k {
            let row = b.add(i * ldb);
            let mut columns = [S::zero(); NV];
            for j in 0..NV {
                columns[j] = S::load(row.add(j * S::LANES));
            }
            for r in 0..MR {
                let x = S::splat(*a.add(r * lda + i));
                for j in 0..NV {
                    acc[r][j] = S::fma(x, columns[j], acc[r][j]);
                }
            }
        }
        for r in 0..MR {
            for j in 0..NV {
                S::store(c.add(r * ldc + j * S::LANES), acc[r][j]);
            }
        }
    }
}

/// `to: [n, m] = from^T`, `from: [m, n]`.
#[inline(always)]
pub(super) fn transpose(from: &[f32], ldf: usize, [m, n]: [usize; 2], to: &mut [f32], ldt: usize) {
    for (i, row) in from.chunks(ldf).take(m).enumerate() {
        for (j, x) in row[..n].iter().enumerate() {
            to[j * ldt + i] = *x;
        }
    }
}

/// Sum of products, in one order whatever the vector length's neighbours.
#[inline(always)]
pub(super) fn dot<S: Simd>(a: &[f32], b: &[f32]) -> f32 {
    let n = a.len();
    assert!(n == b.len() && n.is_multiple_of(S::LANES));
    let mut lanes = [0.0_f32; PAD];
    // SAFETY: `n` floats in both, a multiple of `LANES`; `lanes` holds the longest vector.
    unsafe {
        // Four chains of sums, for one alone would wait for each product.
        let one = S::splat(1.0);
        let mut sums = [S::zero(); 4];
        let mut i = 0;
        while i < n {
            for sum in &mut sums {
                if i < n {
                    *sum = S::fma(S::load(a.as_ptr().add(i)), S::load(b.as_ptr().add(i)), *sum);
                    i += S::LANES;
                }
            }
        }
        let [s0, s1, s2, s3] = sums;
        let sum = S::fma(one, S::fma(one, s0, s1), S::fma(one, s2, s3));
        S::store(lanes.as_mut_ptr(), sum);
    }
    let mut width = S::LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// `y = a x + b y`.
#[inline(always)]
pub(super) fn axpby<S: Simd>(a: f32, x: &[f32], b: f32, y: &mut [f32]) {
    let n = x.len();
    assert!(n == y.len() && n.is_multiple_of(S::LANES));
    // SAFETY: `n` floats in both, a multiple of `LANES`.
    unsafe {
        let (a, b) = (S::splat(a), S::splat(b));
        let mut i = 0;
        while i < n {
            let to = y.as_mut_ptr().add(i);
            let scaled = S::mul(b, S::load(to));
            S::store(to, S::fma(a, S::load(x.as_ptr().add(i)), scaled));
            i += S::LANES;
        }
    }
}

/// Overwrites `a: [n, n]`, symmetric, by its upper factor `U`, `U^T U = a`. False when a pivot is not
/// positive: `a` is not definite in float32.
#[inline(always)]
pub(super) fn cholesky<S: Simd>(a: &mut [f32], n: usize) -> bool {
    for j in 0..n {
        let (above, below) = a.split_at_mut((j + 1) * n);
        let row = &mut above[j * n..];
        let pivot = row[j];
        if pivot <= 0.0 || !pivot.is_finite() {
            return false;
        }
        let scale = pivot.sqrt().recip();
        row[..j].fill(0.0);
        for x in &mut row[j..] {
            *x *= scale;
        }
        for (i, lower) in below.chunks_exact_mut(n).enumerate() {
            let i = i + j + 1;
            let from = i - i % S::LANES; // what lies left of the diagonal is never read
            axpby::<S>(-row[i], &row[from..], 1.0, &mut lower[from..]);
        }
    }
    true
}

/// `w = u^-1`, both upper triangular `[n, n]`.
#[inline(always)]
pub(super) fn invert_upper<S: Simd>(u: &[f32], n: usize, w: &mut [f32]) {
    for i in (0..n).rev() {
        let (above, below) = w.split_at_mut((i + 1) * n);
        let row = &mut above[i * n..];
        row.fill(0.0);
        let from = i - i % S::LANES;
        for j in i + 1..n {
            let other = &below[(j - i - 1) * n..(j - i) * n];
            let from = j - j % S::LANES;
            axpby::<S>(-u[i * n + j], &other[from..], 1.0, &mut row[from..]);
        }
        row[i] = 1.0;
        let scale = u[i * n + i].recip();
        for x in &mut row[from..] {
            *x *= scale;
        }
    }
}
