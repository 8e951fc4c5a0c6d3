//! Shape checks at the border of a crate, with dimension names that bind and must agree.

use crate::{Error, Result};
use tch::Tensor;

/// Checks that `x` has `N` dimensions and returns their sizes.
///
/// # Errors
/// [`Error::Shape`] naming `op` and `arg`; `expected` is the text put into the message.
pub fn expect_dims<const N: usize>(
    op: &'static str,
    arg: &str,
    x: &Tensor,
    expected: &str,
) -> Result<[i64; N]> {
    let size = x.size();
    <[i64; N]>::try_from(size.as_slice()).map_err(|_| Error::Shape {
        op,
        arg: arg.to_owned(),
        expected: expected.to_owned(),
        got: size,
    })
}

/// Checks a tensor's sizes against names and numbers: `check_shape!("op", x, [batch, seq_len, 64])`.
///
/// An identifier that is a variable in scope must agree with the size found; `?name` binds a new
/// variable to the size found; `_` accepts any size; a literal or a parenthesised expression must
/// agree. Expands to statements and uses `?`, so it stands where a [`Result`](crate::Result) is returned.
///
/// ```
/// use tensor_core::{check_shape, Kind, Device, Result, Tensor};
/// fn scores(q: &Tensor, k: &Tensor) -> Result<Tensor> {
///     check_shape!("scores", q, [?batch, ?_queries, ?head_dim]);
///     check_shape!("scores", k, [batch, _, head_dim]);
///     Ok(q.matmul(&k.transpose(-1, -2)))
/// }
/// let q = Tensor::zeros([2, 3, 4], (Kind::Float, Device::Cpu));
/// let k = Tensor::zeros([2, 5, 6], (Kind::Float, Device::Cpu));
/// let message = scores(&q, &k).unwrap_err().to_string();
/// assert_eq!(message, "scores: `k` must be [batch = 2, _, head_dim = 4], got [2, 5, 6]");
/// ```
#[macro_export]
macro_rules! check_shape {
    ($op:expr, $x:ident, [$($dims:tt)*]) => {
        $crate::check_shape!(@named $op, stringify!($x), $x, [$($dims)*]);
    };
    (@named $op:expr, $arg:expr, $x:expr, [$($dims:tt)*]) => {
        let __size: ::std::vec::Vec<i64> = $x.size();
        let __want: &[$crate::shape::Dim] = &$crate::check_shape!(@want [] $($dims)*);
        $crate::shape::agree($op, $arg, &__size, __want)?;
        let mut __at = 0usize;
        $crate::check_shape!(@bind __size, __at, $($dims)*);
        let _ = __at;
    };
    (@want [$($acc:expr,)*]) => { [$($acc),*] };
    (@want [$($acc:expr,)*] ? $d:ident $(, $($rest:tt)*)?) => {
        $crate::check_shape!(@want [$($acc,)* $crate::shape::Dim::Free(stringify!($d)),] $($($rest)*)?)
    };
    (@want [$($acc:expr,)*] _ $(, $($rest:tt)*)?) => {
        $crate::check_shape!(@want [$($acc,)* $crate::shape::Dim::Free("_"),] $($($rest)*)?)
    };
    (@want [$($acc:expr,)*] $d:ident $(, $($rest:tt)*)?) => {
        $crate::check_shape!(@want [$($acc,)* $crate::shape::Dim::Named(stringify!($d), $d as i64),] $($($rest)*)?)
    };
    (@want [$($acc:expr,)*] $d:literal $(, $($rest:tt)*)?) => {
        $crate::check_shape!(@want [$($acc,)* $crate::shape::Dim::Exact($d),] $($($rest)*)?)
    };
    (@want [$($acc:expr,)*] ($d:expr) $(, $($rest:tt)*)?) => {
        $crate::check_shape!(@want [$($acc,)* $crate::shape::Dim::Named(stringify!($d), ($d) as i64),] $($($rest)*)?)
    };
    (@bind $s:ident, $at:ident, ) => {};
    (@bind $s:ident, $at:ident, ? $d:ident $(, $($rest:tt)*)?) => {
        let $d: i64 = $s[$at];
        $at += 1;
        $crate::check_shape!(@bind $s, $at, $($($rest)*)?);
    };
    (@bind $s:ident, $at:ident, $skip:tt $(, $($rest:tt)*)?) => {
        $at += 1;
        $crate::check_shape!(@bind $s, $at, $($($rest)*)?);
    };
}

/// What one dimension must be; made by [`check_shape!`](crate::check_shape).
#[derive(Copy, Clone, Debug)]
pub enum Dim {
    /// Any size, under this name.
    Free(&'static str),
    /// The size that this name already has.
    Named(&'static str, i64),
    /// This number.
    Exact(i64),
}

/// Compares sizes with what each dimension must be; the run-time half of [`check_shape!`](crate::check_shape).
///
/// # Errors
/// [`Error::Shape`] that spells the names and the numbers they stand for.
pub fn agree(op: &'static str, arg: &str, size: &[i64], want: &[Dim]) -> Result<()> {
    let fits = size.len() == want.len()
        && size.iter().zip(want).all(|(s, w)| match w {
            Dim::Free(_) => true,
            Dim::Named(_, n) | Dim::Exact(n) => s == n,
        });
    if fits {
        return Ok(());
    }
    let words: Vec<String> = want
        .iter()
        .map(|w| match w {
            Dim::Free(name) => (*name).to_owned(),
            Dim::Named(name, n) => format!("{name} = {n}"),
            Dim::Exact(n) => n.to_string(),
        })
        .collect();
    Err(Error::Shape {
        op,
        arg: arg.to_owned(),
        expected: format!("[{}]", words.join(", ")),
        got: size.to_vec(),
    })
}
