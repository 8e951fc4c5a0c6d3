//! Tolerances, and the comparison that says where and by how much two arrays disagree.

use std::fmt;

use ndarray::{ArrayBase, ArrayD, ArrayViewD, Data, Dimension, IxDyn};

/// How far a result may be from the expected one.
///
/// Element by element: `|got - want| <= atol + rtol * |want|`. With a norm bound instead:
/// `||got - want|| <= norm * ||want||` over the whole tensor. In both, NaN equals NaN and an
/// infinity equals the same infinity; a NaN or infinity opposite anything else always fails.
///
/// The constants are the one table of tolerances of the workspace. A failing test is a reason to
/// look for the error, not to reach for the next constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerance {
    rtol: f64,
    atol: f64,
    norm: Option<f64>,
}

impl Tolerance {
    /// Integers, decisions, indices, copies, zeros.
    pub const EXACT: Self = Self::new(0.0, 0.0);
    /// float64 that was at most scaled once: parameters after a growth step.
    pub const COPY: Self = Self::new(1e-14, 0.0);
    /// float64, direct formulas: logits, losses, gradients, convolutions.
    pub const F64: Self = Self::new(1e-10, 1e-10);
    /// float64, long chains: search traces, metrics made of several sums, solves of small systems.
    pub const F64_CHAIN: Self = Self::new(1e-9, 1e-9);
    /// float64, whole training runs.
    pub const F64_TRAINING: Self = Self::new(1e-8, 1e-8);
    /// float64 linear solves, as a norm over the tensor.
    pub const F64_SOLVE: Self = Self::norm(1e-9);
    /// float64 gradients through a linear solve, as a norm over the tensor.
    pub const F64_SOLVE_GRADIENT: Self = Self::norm(1e-8);
    /// float32, direct formulas.
    pub const F32: Self = Self::new(1e-5, 1e-5);
    /// float32, long chains and gradients.
    pub const F32_CHAIN: Self = Self::new(1e-4, 1e-5);
    /// float32 solves, as a norm over the tensor.
    pub const F32_SOLVE: Self = Self::norm(1e-5);
    /// float32 gradients through a solve, as a norm over the tensor.
    pub const F32_SOLVE_GRADIENT: Self = Self::norm(1e-4);

    /// Element-wise bound `|got - want| <= atol + rtol * |want|`; for the bounds that a file or its
    /// README names. Elsewhere take a constant of the table.
    pub const fn new(rtol: f64, atol: f64) -> Self {
        Self { rtol, atol, norm: None }
    }

    /// Bound on `||got - want|| / ||want||` (Euclidean, over the whole tensor). Where `||want||` is
    /// zero, `got` must be exactly zero.
    pub const fn norm(bound: f64) -> Self {
        Self { rtol: 0.0, atol: 0.0, norm: Some(bound) }
    }

    /// The looser of this and a bound that grows with a condition number: `unit * condition`.
    #[must_use]
    pub fn conditioned(self, unit: f64, condition: f64) -> Self {
        let bound = unit * condition;
        match self.norm {
            Some(norm) => Self::norm(norm.max(bound)),
            None => Self::new(self.rtol.max(bound), self.atol.max(bound)),
        }
    }
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.norm {
            Some(norm) => write!(f, "norm {norm:.1e}"),
            None => write!(f, "rtol {:.1e}, atol {:.1e}", self.rtol, self.atol),
        }
    }
}

/// An element type that can be compared; integers beyond 2^53 should go through
/// [`Case::check_i64`](crate::Case::check_i64), which compares without rounding.
pub trait Element: Copy {
    /// The value in float64.
    fn to_f64(self) -> f64;
}

macro_rules! elements {
    ($($t:ty => |$x:ident| $e:expr),+ $(,)?) => {
        $(impl Element for $t {
            fn to_f64(self) -> f64 {
                let $x = self;
                $e
            }
        })+
    };
}
elements! {
    f64 => |x| x, f32 => |x| f64::from(x), i64 => |x| x as f64, usize => |x| x as f64,
    u64 => |x| x as f64, i32 => |x| f64::from(x), u32 => |x| f64::from(x), u8 => |x| f64::from(x),
    bool => |x| f64::from(u8::from(x)),
}

/// What a comparison measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Deviation {
    /// `||got - want|| / ||want||` over the finite elements; `||got - want||` where `want` is zero.
    pub relative: f64,
    /// Largest `|got - want|` over the finite elements.
    pub absolute: f64,
}

/// Why two arrays do not agree.
#[derive(Clone, Debug, PartialEq)]
pub enum Mismatch {
    /// The shapes differ.
    Shape {
        /// Shape of the result.
        got: Vec<usize>,
        /// Shape in the golden file.
        want: Vec<usize>,
    },
    /// At least one element, or the norm of the difference, is out of tolerance.
    Value {
        /// Index of the worst element.
        index: Vec<usize>,
        /// The result there.
        got: f64,
        /// The expected value there.
        want: f64,
        /// How many elements are out of tolerance; all of them for a norm bound.
        failing: usize,
        /// How many elements there are.
        total: usize,
        /// What was measured over the whole tensor.
        deviation: Deviation,
        /// The bound that was broken.
        tolerance: Tolerance,
    },
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape { got, want } => write!(f, "got shape {got:?}, expected {want:?}"),
            Self::Value { index, got, want, failing, total, deviation, tolerance } => write!(
                f,
                "{failing} of {total} elements out of tolerance ({tolerance}); worst at {index:?}: \
                 got {got:e}, expected {want:e}, off by {:.3e}; norm of the difference over norm: {:.3e}",
                (got - want).abs(),
                deviation.relative,
            ),
        }
    }
}

impl std::error::Error for Mismatch {}

/// Compares `got` with `want`.
///
/// # Errors
/// [`Mismatch`] naming the shapes, or the worst element with its index, both values and the bound.
pub fn compare<A: Element, S: Data<Elem = A>, D: Dimension>(
    got: &ArrayBase<S, D>,
    want: &ArrayD<f64>,
    tolerance: Tolerance,
) -> Result<Deviation, Mismatch> {
    let got: ArrayViewD<'_, A> = got.view().into_dyn();
    if got.shape() != want.shape() {
        return Err(Mismatch::Shape { got: got.shape().to_vec(), want: want.shape().to_vec() });
    }
    let (mut diff_sq, mut want_sq) = (0.0_f64, 0.0_f64);
    let mut deviation = Deviation::default();
    let mut failing = 0;
    // Worst by excess over the bound, so that a large element with a small relative error does not
    // hide a small one that is altogether wrong.
    let mut worst: Option<(f64, IxDyn, f64, f64)> = None;
    for ((index, &g), &w) in got.indexed_iter().zip(want.iter()) {
        let g = g.to_f64();
        let equal = g.total_cmp(&w).is_eq() || (g.is_nan() && w.is_nan()) || same(g, w);
        let (excess, fails) = if equal {
            if w.is_finite() {
                want_sq += w * w;
            }
            continue;
        } else if !g.is_finite() || !w.is_finite() {
            (f64::INFINITY, true)
        } else {
            let d = (g - w).abs();
            diff_sq += d * d;
            want_sq += w * w;
            deviation.absolute = deviation.absolute.max(d);
            let bound = tolerance.atol + tolerance.rtol * w.abs();
            (if bound > 0.0 { d / bound } else { d }, tolerance.norm.is_none() && d > bound)
        };
        failing += usize::from(fails);
        if worst.as_ref().is_none_or(|(e, ..)| excess > *e) {
            worst = Some((excess, index, g, w));
        }
    }
    deviation.relative = if want_sq > 0.0 { (diff_sq / want_sq).sqrt() } else { diff_sq.sqrt() };
    if let Some(bound) = tolerance.norm
        && diff_sq > bound * bound * want_sq
    {
        failing = want.len();
    }
    match worst {
        Some((_, index, g, w)) if failing > 0 => Err(Mismatch::Value {
            index: ndarray::Dimension::slice(&index).to_vec(),
            got: g,
            want: w,
            failing,
            total: want.len(),
            deviation,
            tolerance,
        }),
        _ => Ok(deviation),
    }
}

/// IEEE equality: the same infinity, the same number, and the two zeros.
#[expect(clippy::float_cmp, reason = "exact equality is what is asked")]
fn same(a: f64, b: f64) -> bool {
    a == b
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{array, aview1};

    #[test]
    fn nan_equals_nan_and_inf_equals_inf() {
        let want = array![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0].into_dyn();
        let d = compare(
            &aview1(&[f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0]),
            &want,
            Tolerance::EXACT,
        );
        assert_eq!(d, Ok(Deviation::default()));
    }

    #[test]
    fn nan_or_inf_opposite_a_number_fails_under_every_tolerance() {
        for (g, w) in [
            (f64::NAN, 1.0),
            (1.0, f64::NAN),
            (f64::INFINITY, 1.0),
            (f64::INFINITY, f64::NEG_INFINITY),
        ] {
            for tolerance in [Tolerance::new(1e300, 1e300), Tolerance::norm(1e300)] {
                let out = compare(&aview1(&[0.0, g]), &array![0.0, w].into_dyn(), tolerance);
                assert!(
                    matches!(&out, Err(Mismatch::Value { index, failing, .. }) if index == &[1] && *failing > 0),
                    "{g} against {w}: {out:?}"
                );
            }
        }
    }

    #[test]
    fn names_the_worst_element() {
        let want = array![[100.0, 1.0], [1.0, 1e-3]].into_dyn();
        let got = array![[100.1, 1.0], [1.0, 5e-3]];
        let error = compare(&got, &want, Tolerance::new(1e-4, 0.0)).unwrap_err();
        // 100.1 is off by more in absolute terms, 5e-3 by more beyond what is allowed.
        let Mismatch::Value { index, failing, total, .. } = &error else { panic!("{error}") };
        assert_eq!((index.as_slice(), *failing, *total), ([1, 1].as_slice(), 2, 4));
        assert!(error.to_string().contains("[1, 1]: got 5e-3, expected 1e-3"), "{error}");
    }

    #[test]
    fn the_bound_is_inclusive_and_relative_to_want() {
        let want = array![2.0].into_dyn();
        assert!(compare(&aview1(&[2.5]), &want, Tolerance::new(0.25, 0.0)).is_ok());
        assert!(compare(&aview1(&[2.5]), &want, Tolerance::new(0.2, 0.1)).is_ok());
        assert!(compare(&aview1(&[2.51]), &want, Tolerance::new(0.25, 0.0)).is_err());
        assert!(compare(&aview1(&[3_i64]), &want, Tolerance::EXACT).is_err());
    }

    #[test]
    fn norm_bound_sees_the_whole_tensor() {
        let want = array![1.0, 0.0, 0.0, 0.0].into_dyn();
        let got = aview1(&[1.0, 1e-4, 0.0, 0.0]);
        assert!(compare(&got, &want, Tolerance::norm(1.1e-4)).is_ok());
        assert!(compare(&got, &want, Tolerance::norm(0.9e-4)).is_err());
        let zero = array![0.0, 0.0].into_dyn();
        assert!(compare(&aview1(&[0.0, 0.0]), &zero, Tolerance::norm(1e-9)).is_ok());
        assert!(
            compare(&aview1(&[0.0, 1e-300]), &zero, Tolerance::norm(1e-9)).is_ok(),
            "underflow to zero"
        );
        assert!(compare(&aview1(&[0.0, 1e-30]), &zero, Tolerance::norm(1e-9)).is_err());
    }

    #[test]
    fn shapes_must_agree() {
        let out = compare(&array![1.0, 2.0], &array![[1.0, 2.0]].into_dyn(), Tolerance::EXACT);
        assert_eq!(out, Err(Mismatch::Shape { got: vec![2], want: vec![1, 2] }));
    }

    #[test]
    fn conditioned_takes_the_looser_bound() {
        assert_eq!(Tolerance::norm(1e-9).conditioned(1e-12, 10.0), Tolerance::norm(1e-9));
        assert_eq!(Tolerance::norm(1e-9).conditioned(1e-12, 1e6), Tolerance::norm(1e-6));
    }
}
