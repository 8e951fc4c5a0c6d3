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

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn tensor(size: &[i64]) -> Tensor {
        Tensor::zeros(size, (Kind::Float, Device::Cpu))
    }

    fn refusal(check: impl FnOnce() -> Result<()>) -> String {
        check().unwrap_err().to_string()
    }

    #[test]
    fn names_bind_and_then_must_agree() {
        fn check(q: &Tensor, k: &Tensor) -> Result<[i64; 3]> {
            check_shape!("attend", q, [?batch, ?seq_len, ?head_dim]);
            check_shape!("attend", k, [batch, seq_len, head_dim]);
            Ok([batch, seq_len, head_dim])
        }
        assert_eq!(check(&tensor(&[2, 3, 4]), &tensor(&[2, 3, 4])).unwrap(), [2, 3, 4]);
        assert_eq!(
            refusal(|| check(&tensor(&[2, 3, 4]), &tensor(&[2, 3, 5])).map(|_| ())),
            "attend: `k` must be [batch = 2, seq_len = 3, head_dim = 4], got [2, 3, 5]"
        );
    }

    #[test]
    fn wrong_rank_is_refused_both_ways() {
        fn check(x: &Tensor) -> Result<()> {
            check_shape!("rank", x, [?a, _]);
            assert!(a > 0);
            Ok(())
        }
        check(&tensor(&[1, 9])).unwrap();
        for size in [&[][..], &[3], &[3, 3, 3]] {
            let text = refusal(|| check(&tensor(size)));
            assert_eq!(text, format!("rank: `x` must be [a, _], got {size:?}"));
        }
    }

    #[test]
    fn a_scalar_is_the_empty_list() {
        fn check(x: &Tensor) -> Result<()> {
            check_shape!("scalar", x, []);
            Ok(())
        }
        check(&tensor(&[])).unwrap();
        assert_eq!(refusal(|| check(&tensor(&[1]))), "scalar: `x` must be [], got [1]");
    }

    #[test]
    fn literals_and_expressions_must_agree() {
        struct Sizes {
            n_heads: i64,
            head_dim: usize,
        }
        fn check(x: &Tensor, s: &Sizes) -> Result<i64> {
            check_shape!("split", x, [?batch, 7, (s.n_heads * 2), (s.head_dim)]);
            Ok(batch)
        }
        let sizes = Sizes { n_heads: 2, head_dim: 5 };
        assert_eq!(check(&tensor(&[3, 7, 4, 5]), &sizes).unwrap(), 3);
        let text = refusal(|| check(&tensor(&[3, 7, 4, 6]), &sizes).map(|_| ()));
        assert_eq!(
            text,
            "split: `x` must be [batch, 7, s.n_heads * 2 = 4, s.head_dim = 5], got [3, 7, 4, 6]"
        );
        assert!(check(&tensor(&[3, 8, 4, 5]), &sizes).is_err());
    }

    #[test]
    fn an_argument_name_can_be_given_for_an_expression() {
        fn check(layers: &[Tensor]) -> Result<()> {
            check_shape!(@named "stack", "layers[1]", layers[1], [2, 2]);
            Ok(())
        }
        check(&[tensor(&[1]), tensor(&[2, 2])]).unwrap();
        let text = refusal(|| check(&[tensor(&[1]), tensor(&[1])]));
        assert_eq!(text, "stack: `layers[1]` must be [2, 2], got [1]");
    }

    #[test]
    fn expect_dims_returns_the_sizes() {
        let [rows, cols] = expect_dims("op", "x", &tensor(&[4, 6]), "[rows, cols]").unwrap();
        assert_eq!((rows, cols), (4, 6));
        let error = expect_dims::<3>("op", "x", &tensor(&[4, 6]), "[a, b, c]").unwrap_err();
        assert_eq!(error.to_string(), "op: `x` must be [a, b, c], got [4, 6]");
    }
}
