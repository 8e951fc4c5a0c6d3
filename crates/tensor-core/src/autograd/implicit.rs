//! Linear solves by any solver, differentiated at the solution instead of through its steps.

use super::custom_vjp;
use crate::{Error, Result, error::TorchContext, native};
use std::sync::{Arc, Mutex};
use tch::Tensor;

const OP: &str = "implicit_solve";

/// What the solver may assume of the matrix.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `A = A^T`; the backward pass hands the same matrix to the solver. The caller vouches for it.
    /// Gradients with respect to `A` are those of a general matrix, as from `linalg_solve`.
    Symmetric,
    /// Any regular matrix; the backward pass hands `A^T` to the solver.
    General,
}

type Solver = Box<dyn FnMut(&Tensor, &Tensor) -> Result<Tensor> + Send>;

/// Shared by the nodes of one solve and of its derivatives.
#[derive(Clone)]
struct System {
    solver: Arc<Mutex<Solver>>,
    operator: Operator,
}

/// Solves `A x = b` by `solver` and makes the result differentiable in `a` and `b`.
///
/// Implicit differentiation of `A x = b` gives, for a cotangent `g` of `x`,
///
/// ```text
/// lambda = A^-T g        grad_b = lambda        grad_A = -lambda x^T
/// ```
///
/// so the backward pass costs one more solve and saves no intermediate step of the first. The
/// gradients are exact at the solution; with an approximate solver they are as good as its residual.
/// Derivatives of any order work (each is again such a solve).
///
/// * `a`: `[.., n, n]`, regular
/// * `b`: `[.., n]`, or `[.., n, k]` for `k` right-hand sides; same leading sizes, kind and device as `a`
/// * `solver(a, b)`: called without recording, with tensors of these shapes and any strides; returns
///   `x` of the shape of `b`. It must solve accurately from zero knowledge: a warm start from the
///   last `x` would be wrong for the next cotangent.
///
/// Returns `x`, of the shape of `b`.
///
/// ```
/// use tensor_core::{Tensor, Kind, autograd::{Operator, implicit_solve}};
/// # fn main() -> tensor_core::Result<()> {
/// let a = Tensor::from_slice(&[4.0, 1.0, 1.0, 3.0]).reshape([2, 2]).set_requires_grad(true);
/// let b = Tensor::from_slice(&[1.0, 2.0]).set_requires_grad(true);
/// let x = implicit_solve(&a, &b, Operator::Symmetric, |a, b| {
///     Ok(b.unsqueeze(-1).cholesky_solve(&a.linalg_cholesky(false), false).squeeze_dim(-1))
/// })?;
/// x.sum(Kind::Double).backward();
/// assert!(b.grad().allclose(&Tensor::from_slice(&[2. / 11., 3. / 11.]), 1e-12, 1e-12, false));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Shape`] or [`Error::Kind`] when the tensors do not match or the solver returns another
/// shape or kind, [`Error::NonFinite`] when the solution has a NaN or an infinity (the check reads one
/// flag from the device), and whatever the solver returns.
pub fn implicit_solve<S>(a: &Tensor, b: &Tensor, operator: Operator, solver: S) -> Result<Tensor>
where
    S: FnMut(&Tensor, &Tensor) -> Result<Tensor> + Send + 'static,
{
    check(a, b)?;
    let system = System { solver: Arc::new(Mutex::new(Box::new(solver))), operator };
    let x = system.solve(a, b)?;
    system.record(a, b, x)
}

impl System {
    /// The solution without its graph.
    fn solve(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        let _guard = tch::no_grad_guard();
        let mut solver = self.solver.lock().map_err(|_| Error::Argument {
            op: OP,
            arg: "solver",
            expected: "a solver that has not panicked".to_owned(),
            got: "one that panicked in an earlier call".to_owned(),
        })?;
        let x = solver(&a.detach(), &b.detach())?.detach();
        if x.size() != b.size() {
            return Err(Error::Shape {
                op: OP,
                arg: "solver's result".to_owned(),
                expected: format!("{:?}", b.size()),
                got: x.size(),
            });
        }
        if x.kind() != b.kind() {
            return Err(Error::Kind {
                op: OP,
                arg: "solver's result".to_owned(),
                expected: format!("{:?}", b.kind()),
                got: x.kind(),
            });
        }
        let finite = x.f_isfinite().and_then(|f| f.f_all()).op(OP)?;
        if finite.f_int64_value(&[]).op(OP)? == 0 {
            return Err(Error::NonFinite { op: OP, what: "solution".to_owned(), step: 0 });
        }
        Ok(x)
    }

    /// Makes `x = A^-1 b`, already computed, a differentiable function of `a` and `b`.
    fn record(&self, a: &Tensor, b: &Tensor, x: Tensor) -> Result<Tensor> {
        if !native::grad_enabled() || !(a.requires_grad() || b.requires_grad()) {
            return Ok(x);
        }
        let (system, a_saved, b_saved, x_saved) =
            (self.clone(), a.shallow_clone(), b.shallow_clone(), x.detach());
        let (need_a, need_b) = (a.requires_grad(), b.requires_grad());
        let mut recorded = custom_vjp(OP, &[a, b], vec![x], move |cotangents| {
            let Some(g) = &cotangents[0] else { return Ok(vec![None, None]) };
            let transposed = a_saved.transpose(-2, -1);
            let lambda = match system.operator {
                Operator::Symmetric => system.solve(&a_saved, g)?,
                Operator::General => system.solve(&transposed, g)?,
            };
            // These two lines record nothing in a first-order pass: grad mode is off there.
            let lambda = system.record(&transposed, g, lambda)?;
            let grad_a = if need_a {
                let x = system.record(&a_saved, &b_saved, x_saved.shallow_clone())?;
                Some(outer(&lambda, &x, a_saved.dim()).neg())
            } else {
                None
            };
            Ok(vec![grad_a, need_b.then_some(lambda)])
        })?;
        Ok(recorded.remove(0))
    }
}

/// `lambda x^T`, summed over right-hand sides; `[.., n, n]`.
fn outer(lambda: &Tensor, x: &Tensor, matrix_dims: usize) -> Tensor {
    if x.dim() == matrix_dims {
        lambda.matmul(&x.transpose(-2, -1))
    } else {
        lambda.unsqueeze(-1) * x.unsqueeze(-2)
    }
}

fn check(a: &Tensor, b: &Tensor) -> Result<()> {
    let shape = |arg: &str, expected: String, got: &[i64]| Error::Shape {
        op: OP,
        arg: arg.to_owned(),
        expected,
        got: got.to_vec(),
    };
    let (a_size, b_size) = (a.size(), b.size());
    let [batch @ .., rows, cols] = a_size.as_slice() else {
        return Err(shape("a", "[.., n, n]".to_owned(), &a_size));
    };
    if rows != cols {
        return Err(shape("a", "[.., n, n]".to_owned(), &a_size));
    }
    let vector = b_size.len() + 1 == a_size.len();
    let matrix = b_size.len() == a_size.len();
    if !(vector || matrix) || b_size[..batch.len()] != *batch || b_size[batch.len()] != *rows {
        let lead = &a_size[..a_size.len() - 1];
        return Err(shape("b", format!("{lead:?} or {lead:?} and one more size"), &b_size));
    }
    if !matches!(a.kind(), tch::Kind::Float | tch::Kind::Double) {
        return Err(Error::Kind {
            op: OP,
            arg: "a".to_owned(),
            expected: "Float or Double".to_owned(),
            got: a.kind(),
        });
    }
    if b.kind() != a.kind() {
        return Err(Error::Kind {
            op: OP,
            arg: "b".to_owned(),
            expected: format!("{:?}", a.kind()),
            got: b.kind(),
        });
    }
    Ok(())
}
