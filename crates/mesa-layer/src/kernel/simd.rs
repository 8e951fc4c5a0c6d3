//! Vectors of float32 on three kinds of processor, behind one trait.

use super::matrix::{Product, product};

/// A vector of `LANES` float32.
///
/// Every function is inlined into a caller that was compiled for the processor in question; see
/// [`super::dispatch`].
///
/// # Safety
/// Implementors' functions may use instructions of their processor: they are called only where those
/// were found. `load` and `store` touch `LANES` floats from the pointer on.
pub(super) trait Simd: Copy {
    /// The register.
    type V: Copy;
    /// Floats in it.
    const LANES: usize;
    unsafe fn zero() -> Self::V;
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, x: Self::V);
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a b + c`
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// [`product`], compiled once: inlined into each of its many callers it would take minutes.
    unsafe fn product(p: Product);
}

/// Eight floats that the compiler maps to whatever there is.
#[derive(Clone, Copy)]
pub(super) struct Portable;

impl Simd for Portable {
    type V = [f32; 8];
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn zero() -> Self::V {
        [0.0; 8]
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller vouches for eight floats; arrays of floats need no more alignment.
        unsafe { from.cast::<[f32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Self::V) {
        // SAFETY: the caller vouches for eight floats.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        let mut c = a;
        for i in 0..8 {
            c[i] = a[i] * b[i];
        }
        c
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `mul_add`: without the instruction that is a library call.
        let mut d = c;
        for i in 0..8 {
            d[i] = a[i] * b[i] + c[i];
        }
        d
    }
    #[inline(never)]
    unsafe fn product(p: Product) {
        // SAFETY: the contract is the same.
        unsafe { product::<Self>(p) }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Product, Simd, product};
    use std::arch::x86_64 as arch;

    macro_rules! vectors {
        ($(#[$doc:meta])* $name:ident, $v:ty, $lanes:literal, $zero:ident, $splat:ident, $load:ident,
         $store:ident, $mul:ident, $fma:ident, $features:literal) => {
            $(#[$doc])*
            #[derive(Clone, Copy)]
            pub(in super::super) struct $name;

            impl Simd for $name {
                type V = $v;
                const LANES: usize = $lanes;
                #[inline(always)]
                unsafe fn zero() -> Self::V {
                    // SAFETY: the processor has the instruction, says the trait's contract.
                    unsafe { arch::$zero() }
                }
                #[inline(always)]
                unsafe fn splat(x: f32) -> Self::V {
                    // SAFETY: as above.
                    unsafe { arch::$splat(x) }
                }
                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self::V {
                    // SAFETY: as above, and the caller vouches for the floats.
                    unsafe { arch::$load(from) }
                }
                #[inline(always)]
                unsafe fn store(to: *mut f32, x: Self::V) {
                    // SAFETY: as above, and the caller vouches for the floats.
                    unsafe { arch::$store(to, x) }
                }
                #[inline(always)]
                unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
                    // SAFETY: as above.
                    unsafe { arch::$mul(a, b) }
                }
                #[inline(always)]
                unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                    // SAFETY: as above.
                    unsafe { arch::$fma(a, b, c) }
                }
                unsafe fn product(p: Product) {
                    #[inline(never)]
                    #[target_feature(enable = $features)]
                    unsafe fn compiled(p: Product) {
                        // SAFETY: the contract is the same.
                        unsafe { product::<$name>(p) }
                    }
                    // SAFETY: as above.
                    unsafe { compiled(p) }
                }
            }
        };
    }

    vectors!(
        /// AVX2 with FMA.
        Avx2, arch::__m256, 8, _mm256_setzero_ps, _mm256_set1_ps, _mm256_loadu_ps,
        _mm256_storeu_ps, _mm256_mul_ps, _mm256_fmadd_ps, "avx2,fma"
    );
    vectors!(
        /// AVX-512.
        Avx512, arch::__m512, 16, _mm512_setzero_ps, _mm512_set1_ps, _mm512_loadu_ps,
        _mm512_storeu_ps, _mm512_mul_ps, _mm512_fmadd_ps, "avx512f"
    );
}
