//! Between tensors and the arrays of the Rust world: slices, `ndarray` 0.16, `nalgebra`.
//!
//! Kinds are strict (a `Vec<f32>` comes from a float32 tensor only), layouts are not: transposed,
//! strided and reversed arrays all arrive in logical order. Values, NaN included, pass unchanged.
//!
//! `tch`'s own conversions are not used: they refuse arrays that are not in standard layout, convert
//! kinds silently, and label `half::bf16` data as float16.

use crate::{Device, Error, Result, Tensor, error::TorchContext};
use ndarray::{Array, ArrayBase, ArrayViewD, Data, Dimension, IxDyn};

mod sealed {
    pub trait Sealed {}
}

/// Element types that cross: `u8`, `i8`, `i16`, `i32`, `i64`, `f32`, `f64`, `bool`.
pub trait Scalar: tch::kind::Element + Copy + sealed::Sealed {}

macro_rules! scalars {
    ($($t:ty),*) => {$(
        impl sealed::Sealed for $t {}
        impl Scalar for $t {}
    )*};
}
scalars!(u8, i8, i16, i32, i64, f32, f64, bool);

/// Copies a slice into a CPU tensor of the given sizes, in row-major order.
///
/// ```
/// use tensor_core::interop;
/// let t = interop::from_slice(&[1_i64, 2, 3, 4, 5, 6], &[2, 3]).unwrap();
/// assert_eq!(t.int64_value(&[1, 0]), 4);
/// assert!(interop::from_slice(&[1_i64, 2, 3], &[2, 3]).is_err());
/// ```
///
/// # Errors
/// [`Error::Argument`] when a size is negative or the product of the sizes is not the slice's length.
pub fn from_slice<T: Scalar>(values: &[T], size: &[i64]) -> Result<Tensor> {
    const OP: &str = "interop::from_slice";
    let n = size.iter().try_fold(1_i64, |n, d| if *d < 0 { None } else { n.checked_mul(*d) });
    if n.and_then(|n| usize::try_from(n).ok()) != Some(values.len()) {
        return Err(Error::Argument {
            op: OP,
            arg: "size",
            expected: format!("sizes >= 0 whose product is {}", values.len()),
            got: format!("{size:?}"),
        });
    }
    Tensor::f_from_slice(values).and_then(|t| t.f_reshape(size)).op(OP)
}

/// Copies a tensor of any shape, layout and device into a vector, in row-major order.
///
/// # Errors
/// [`Error::Kind`] unless `T` is the tensor's kind, [`Error::Torch`] when the copy fails.
pub fn to_vec<T: Scalar>(t: &Tensor) -> Result<Vec<T>> {
    copy_out("interop::to_vec", t)
}

/// Copies an array of any dimension and layout into a CPU tensor of the same shape.
///
/// ```
/// use ndarray::array;
/// use tensor_core::interop;
/// let a = array![[1.0_f32, 2.0, 3.0], [4.0, 5.0, 6.0]];
/// let t = interop::to_tensor(&a.t()).unwrap();
/// assert_eq!(t.size(), [3, 2]);
/// assert_eq!(interop::to_array::<f32, ndarray::Ix2>(&t).unwrap(), a.t());
/// ```
///
/// # Errors
/// [`Error::Torch`] when memory runs out.
#[expect(clippy::missing_panics_doc, reason = "a standard layout is always a slice")]
pub fn to_tensor<S, D>(array: &ArrayBase<S, D>) -> Result<Tensor>
where
    S: Data,
    S::Elem: Scalar,
    D: Dimension,
{
    let standard = array.as_standard_layout();
    let values = standard.as_slice().expect("`as_standard_layout` gives a contiguous array");
    let size: Vec<i64> = array.shape().iter().map(|d| *d as i64).collect();
    Tensor::f_from_slice(values).and_then(|t| t.f_reshape(size)).op("interop::to_tensor")
}

/// Copies a tensor of any layout and device into an array: `to_array::<f32, Ix2>(&t)`, or
/// `to_array::<f32, IxDyn>(&t)` for any number of dimensions.
///
/// # Errors
/// [`Error::Kind`] unless `T` is the tensor's kind, [`Error::Shape`] when the number of dimensions is
/// not `D`'s, [`Error::Torch`] when the copy fails.
pub fn to_array<T: Scalar, D: Dimension>(t: &Tensor) -> Result<Array<T, D>> {
    const OP: &str = "interop::to_array";
    if D::NDIM.is_some_and(|n| n != t.dim()) {
        return Err(wrong_dims(OP, D::NDIM.unwrap_or_default(), t));
    }
    let values = copy_out(OP, t)?;
    Array::from_shape_vec(array_shape(t), values)
        .and_then(Array::into_dimensionality)
        .map_err(|_| wrong_dims(OP, D::NDIM.unwrap_or_default(), t))
}

/// Lends a CPU tensor's memory to `f` as an array view, without a copy.
///
/// `f` must not write to the tensor, also not through another handle that shares its storage (a
/// shallow clone, a view, a detached copy): the view would change under its reader.
///
/// # Errors
/// [`Error::Kind`] unless `T` is the tensor's kind, [`Error::Argument`] for a tensor that is not on
/// the CPU or not contiguous.
#[expect(clippy::missing_panics_doc, reason = "sizes and number of values come from one tensor")]
pub fn with_view<T: Scalar, R>(t: &Tensor, f: impl FnOnce(ArrayViewD<'_, T>) -> R) -> Result<R> {
    const OP: &str = "interop::with_view";
    check_kind::<T>(OP, t)?;
    let fits = t.device() == Device::Cpu && !t.is_sparse() && t.is_contiguous();
    if !fits {
        return Err(Error::Argument {
            op: OP,
            arg: "t",
            expected: "a dense, contiguous tensor on the CPU".to_owned(),
            got: format!("strides {:?} on {:?}", t.stride(), t.device()),
        });
    }
    let n = t.numel();
    let values: &[T] = if n == 0 {
        &[] // libtorch gives no address for an empty tensor
    } else {
        // SAFETY: a dense contiguous CPU tensor of kind `T::KIND` holds `n` initialised values of
        // `T` at this address, aligned by libtorch's allocator; `t` keeps them alive for the call.
        // That nobody writes meanwhile is the documented duty of `f`.
        #[expect(unsafe_code, reason = "the one zero-copy read of the crate")]
        unsafe {
            std::slice::from_raw_parts(t.data_ptr().cast::<T>(), n)
        }
    };
    let view = ArrayViewD::from_shape(array_shape(t), values)
        .expect("the number of values is the product of the sizes");
    Ok(f(view))
}

fn copy_out<T: Scalar>(op: &'static str, t: &Tensor) -> Result<Vec<T>> {
    check_kind::<T>(op, t)?;
    let dense = t.detach().f_to_device(Device::Cpu).and_then(|t| t.f_contiguous()).op(op)?;
    let mut values = vec![T::ZERO; dense.numel()];
    let n = values.len();
    if n > 0 {
        dense.f_copy_data(&mut values, n).op(op)?;
    }
    Ok(values)
}

fn check_kind<T: Scalar>(op: &'static str, t: &Tensor) -> Result<()> {
    let got = t.f_kind().op(op)?; // an undefined tensor has none
    if got == T::KIND {
        return Ok(());
    }
    Err(Error::Kind { op, arg: "t".to_owned(), expected: format!("{:?}", T::KIND), got })
}

fn array_shape(t: &Tensor) -> IxDyn {
    IxDyn(&t.size().iter().map(|d| *d as usize).collect::<Vec<_>>())
}

fn wrong_dims(op: &'static str, dims: usize, t: &Tensor) -> Error {
    Error::Shape {
        op,
        arg: "t".to_owned(),
        expected: format!("of {dims} dimensions"),
        got: t.size(),
    }
}

/// Copies a matrix (column-major there) into a row-major `[rows, cols]` CPU tensor.
///
/// # Errors
/// [`Error::Torch`] when memory runs out.
#[cfg(feature = "nalgebra")]
pub fn from_matrix<T: Scalar + nalgebra::Scalar>(m: &nalgebra::DMatrix<T>) -> Result<Tensor> {
    let size = [m.ncols() as i64, m.nrows() as i64];
    Tensor::f_from_slice(m.as_slice())
        .and_then(|t| t.f_reshape(size))
        .and_then(|t| t.f_transpose(0, 1))
        .and_then(|t| t.f_contiguous())
        .op("interop::from_matrix")
}

/// Copies a `[rows, cols]` tensor of any layout and device into a matrix.
///
/// # Errors
/// [`Error::Kind`] unless `T` is the tensor's kind, [`Error::Shape`] unless it has two dimensions.
#[cfg(feature = "nalgebra")]
pub fn to_matrix<T: Scalar + nalgebra::Scalar>(t: &Tensor) -> Result<nalgebra::DMatrix<T>> {
    const OP: &str = "interop::to_matrix";
    let [rows, cols] = crate::shape::expect_dims(OP, "t", t, "[rows, cols]")?;
    let values = copy_out::<T>(OP, t)?;
    Ok(nalgebra::DMatrix::from_row_slice(rows as usize, cols as usize, &values))
}
