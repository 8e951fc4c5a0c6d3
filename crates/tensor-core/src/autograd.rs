//! Derivatives: vector-Jacobian and Jacobian-vector products, Hessian-vector products, backward
//! passes written in Rust, solves that are differentiated at their solution, and their checks.
//!
//! | Need | Call |
//! | --- | --- |
//! | gradients with a given cotangent | [`vjp`] |
//! | directional derivative of computed outputs | [`jvp`] |
//! | curvature along a direction | [`hvp`] |
//! | an operation whose backward pass is your own | [`custom_vjp`] |
//! | `A x = b` by your own solver | [`implicit_solve`] |
//! | trust | [`check_gradient`] |

mod check;
mod custom;
mod implicit;

pub use check::{GradientCheck, GradientReport, Order, Worst, check_gradient};
pub use custom::custom_vjp;
pub use implicit::{Operator, implicit_solve};

use crate::{Error, Result, native};
use tch::Tensor;

/// What happens to the graph behind the outputs of a derivative.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Graph {
    /// Saved tensors are freed; another backward pass through the same graph is an error.
    #[default]
    Free,
    /// Kept for another backward pass.
    Keep,
    /// Kept, and the derivative itself is recorded, so that it can be differentiated again.
    Record,
}

/// Vector-Jacobian product: the gradient of `sum_k <cotangents[k], outputs[k]>` with respect to each
/// input.
///
/// * `outputs`: tensors that require a gradient, of any shapes
/// * `cotangents`: one for each output, of its shape; may itself require a gradient under
///   [`Graph::Record`]
/// * `inputs`: tensors that require a gradient: leaves, or results on the way to the outputs
///
/// Returns one entry for each input, of its shape; `None` where no output depends on it. Gradients
/// are returned, not accumulated into `.grad()`.
///
/// ```
/// use tensor_core::{Tensor, autograd::{Graph, vjp}};
/// # fn main() -> tensor_core::Result<()> {
/// let x = Tensor::from_slice(&[1.0, 2.0, 3.0]).set_requires_grad(true);
/// let y = &x * &x;
/// let g = vjp(&[&y], &[&Tensor::from_slice(&[1.0, 10.0, 100.0])], &[&x], Graph::Free)?;
/// let expected = Tensor::from_slice(&[2.0, 40.0, 600.0]);
/// assert_eq!(g[0].as_ref(), Some(&expected));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Argument`] when the lists do not match or a tensor does not require a gradient,
/// [`Error::Shape`] for a cotangent of another shape, [`Error::Torch`] when a backward pass fails or
/// its graph was freed.
pub fn vjp(
    outputs: &[&Tensor],
    cotangents: &[&Tensor],
    inputs: &[&Tensor],
    graph: Graph,
) -> Result<Vec<Option<Tensor>>> {
    product("vjp", outputs, cotangents, inputs, graph)
}

/// Jacobian-vector product: the derivative of each output along `tangents`.
///
/// libtorch as seen from here has no forward mode, so this is the double-backward trick: the
/// vector-Jacobian product `g(u) = J^T u` is linear in `u`, hence its own vector-Jacobian product
/// with `v` is `J v`. It costs about two backward passes and leaves the graph alive.
///
/// * `outputs`: tensors computed from `inputs`, of any shapes
/// * `inputs`: tensors that require a gradient
/// * `tangents`: one for each input, of its shape
///
/// Returns one tensor for each output, of its shape; zeros where it does not depend on the inputs.
///
/// # Errors
/// As [`vjp`]; also [`Error::Argument`] when a backward pass on the way is not made of recorded
/// operations, so that it cannot be differentiated.
pub fn jvp(outputs: &[&Tensor], inputs: &[&Tensor], tangents: &[&Tensor]) -> Result<Vec<Tensor>> {
    const OP: &str = "jvp";
    match_shapes(OP, "tangents", tangents, inputs)?;
    let live: Vec<&Tensor> = outputs.iter().copied().filter(|y| y.requires_grad()).collect();
    let dummies: Vec<Tensor> =
        live.iter().map(|y| y.zeros_like().set_requires_grad(true)).collect();
    let dummies: Vec<&Tensor> = dummies.iter().collect();
    let transposed = product(OP, &live, &dummies, inputs, Graph::Record)?;

    let (mut images, mut directions) = (Vec::new(), Vec::new());
    for (image, tangent) in transposed.iter().zip(tangents) {
        let Some(image) = image else { continue };
        if !image.requires_grad() {
            return Err(Error::Argument {
                op: OP,
                arg: "outputs",
                expected: "computed by operations whose backward pass is recorded".to_owned(),
                got: "a backward pass that cannot be differentiated".to_owned(),
            });
        }
        images.push(image);
        directions.push(*tangent);
    }
    let mut found = product(OP, &images, &directions, &dummies, Graph::Keep)?.into_iter();
    Ok(outputs
        .iter()
        .map(|y| {
            let along = if y.requires_grad() { found.next().flatten() } else { None };
            along.unwrap_or_else(|| y.detach().zeros_like())
        })
        .collect())
}

/// Hessian-vector product of a scalar: the derivative of its gradient along `vectors`.
///
/// * `loss`: one element, computed from `inputs`
/// * `inputs`: tensors that require a gradient
/// * `vectors`: one for each input, of its shape
///
/// Returns one tensor for each input, of its shape; zeros where the gradient is constant. The graph
/// stays alive, so that a solver can ask again.
///
/// # Errors
/// As [`vjp`]; [`Error::Shape`] when `loss` has more than one element. A backward pass that is not
/// made of recorded operations counts as constant: [`check_gradient`] of second order finds it.
pub fn hvp(loss: &Tensor, inputs: &[&Tensor], vectors: &[&Tensor]) -> Result<Vec<Tensor>> {
    const OP: &str = "hvp";
    if loss.numel() != 1 {
        return Err(Error::Shape {
            op: OP,
            arg: "loss".to_owned(),
            expected: "of one element".to_owned(),
            got: loss.size(),
        });
    }
    match_shapes(OP, "vectors", vectors, inputs)?;
    let gradients = product(OP, &[loss], &[&loss.detach().ones_like()], inputs, Graph::Record)?;
    let (gradients, directions): (Vec<&Tensor>, Vec<&Tensor>) = gradients
        .iter()
        .zip(vectors)
        .filter_map(|(g, v)| g.as_ref().filter(|g| g.requires_grad()).map(|g| (g, *v)))
        .unzip();
    let products = product(OP, &gradients, &directions, inputs, Graph::Keep)?;
    Ok(products
        .into_iter()
        .zip(inputs)
        .map(|(hv, x)| hv.unwrap_or_else(|| x.detach().zeros_like()))
        .collect())
}

/// Checked vector-Jacobian product; no outputs give no gradients.
fn product(
    op: &'static str,
    outputs: &[&Tensor],
    cotangents: &[&Tensor],
    inputs: &[&Tensor],
    graph: Graph,
) -> Result<Vec<Option<Tensor>>> {
    match_shapes(op, "cotangents", cotangents, outputs)?;
    for (arg, tensors) in [("outputs", outputs), ("inputs", inputs)] {
        if let Some(at) = tensors.iter().position(|t| !t.requires_grad()) {
            return Err(Error::Argument {
                op,
                arg,
                expected: "tensors that require a gradient".to_owned(),
                got: format!("one that does not, at position {at}"),
            });
        }
    }
    if outputs.is_empty() || inputs.is_empty() {
        return Ok(inputs.iter().map(|_| None).collect());
    }
    let (keep, record) = (graph != Graph::Free, graph == Graph::Record);
    native::grad(op, outputs, cotangents, inputs, keep, record)
}

/// One tensor for each of `like`, of its shape and kind.
fn match_shapes(
    op: &'static str,
    arg: &'static str,
    got: &[&Tensor],
    like: &[&Tensor],
) -> Result<()> {
    if got.len() != like.len() {
        return Err(Error::Argument {
            op,
            arg,
            expected: format!("{} tensors", like.len()),
            got: got.len().to_string(),
        });
    }
    for (i, (g, l)) in got.iter().zip(like).enumerate() {
        if g.size() != l.size() {
            return Err(Error::Shape {
                op,
                arg: format!("{arg}[{i}]"),
                expected: format!("{:?}", l.size()),
                got: g.size(),
            });
        }
        if g.kind() != l.kind() {
            return Err(Error::Kind {
                op,
                arg: format!("{arg}[{i}]"),
                expected: format!("{:?}", l.kind()),
                got: g.kind(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn leaf(values: &[f64]) -> Tensor {
        Tensor::from_slice(values).set_requires_grad(true)
    }

    fn values(t: &Tensor) -> Vec<f64> {
        Vec::try_from(t.contiguous().view(-1)).unwrap()
    }

    #[test]
    fn vjp_weighs_each_output() {
        let (x, unused) = (leaf(&[1., 2.]), leaf(&[5.]));
        let (y, z) = (&x * &x, x.sum(Kind::Double));
        let (u, w) = (Tensor::from_slice(&[1.0, 10.0]), Tensor::from(100.0));
        let g = vjp(&[&y, &z], &[&u, &w], &[&x, &unused], Graph::Free).unwrap();
        assert_eq!(values(g[0].as_ref().unwrap()), [102., 140.]);
        assert!(g[1].is_none());
        assert!(!x.grad().defined(), "gradients are returned, not accumulated");
    }

    #[test]
    fn a_freed_graph_says_so_and_a_kept_one_serves_again() {
        let x = leaf(&[3.]);
        let y = &x * &x;
        let one = Tensor::from_slice(&[1.0]);
        for graph in [Graph::Keep, Graph::Record, Graph::Free] {
            let g = vjp(&[&y], &[&one], &[&x], graph).unwrap();
            assert_eq!(values(g[0].as_ref().unwrap()), [6.]);
        }
        let text = vjp(&[&y], &[&one], &[&x], Graph::Free).unwrap_err().to_string();
        assert!(text.starts_with("vjp: ") && text.contains("second time"), "{text}");
    }

    #[test]
    fn jvp_is_the_jacobian_times_the_tangent() {
        // y = (x0 x1, sin x0), z = w x1; along (1, 2) in x and 3 in w.
        let (x, w) = (leaf(&[0.5, 2.]), leaf(&[4.]));
        let (x0, x1) = (x.get(0), x.get(1));
        let y = Tensor::stack(&[&x0 * &x1, x0.sin()], 0);
        let z = &w * x1;
        let constant = Tensor::from_slice(&[1.0, 1.0]);
        let t = [Tensor::from_slice(&[1.0, 2.0]), Tensor::from_slice(&[3.0])];
        let jv = jvp(&[&y, &constant, &z], &[&x, &w], &[&t[0], &t[1]]).unwrap();
        let expected = [vec![2. + 2. * 0.5, 0.5_f64.cos()], vec![0., 0.], vec![3. * 2. + 4. * 2.]];
        for (got, want) in jv.iter().zip(&expected) {
            for (g, w) in values(got).iter().zip(want) {
                assert!((g - w).abs() < 1e-15, "{got} against {want:?}");
            }
        }
    }

    #[test]
    fn hvp_of_a_quadratic_is_its_matrix() {
        let h = Tensor::from_slice(&[2.0, 1.0, 1.0, 3.0]).reshape([2, 2]);
        let x = leaf(&[0.3, -0.7]);
        let linear = leaf(&[1., 1.]);
        let loss = x.dot(&h.mv(&x)) * 0.5 + linear.sum(Kind::Double);
        let v = Tensor::from_slice(&[1.0, -2.0]);
        let hv = hvp(&loss, &[&x, &linear], &[&v, &v]).unwrap();
        assert_eq!(values(&hv[0]), [0., -5.]);
        assert_eq!(values(&hv[1]), [0., 0.]);
        let again = hvp(&loss, &[&x], &[&v]).unwrap();
        assert_eq!(values(&again[0]), [0., -5.]);
    }

    #[test]
    fn arguments_are_checked_by_name() {
        let x = leaf(&[1., 2.]);
        let y = &x * 2.0;
        let (one, plain) = (Tensor::from_slice(&[1.0]), Tensor::from_slice(&[1.0, 1.0]));
        let text = |r: Result<Vec<Option<Tensor>>>| r.unwrap_err().to_string();
        assert_eq!(
            text(vjp(&[&y], &[&one], &[&x], Graph::Free)),
            "vjp: `cotangents[0]` must be [2], got [1]"
        );
        assert_eq!(
            text(vjp(&[&y], &[], &[&x], Graph::Free)),
            "vjp: `cotangents` must be 1 tensors, got 0"
        );
        assert_eq!(
            text(vjp(&[&y], &[&plain], &[&x, &plain], Graph::Free)),
            "vjp: `inputs` must be tensors that require a gradient, got one that does not, at \
             position 1"
        );
        let float = Tensor::ones([2], (Kind::Float, Device::Cpu));
        assert!(matches!(vjp(&[&y], &[&float], &[&x], Graph::Free), Err(Error::Kind { .. })));
        assert!(matches!(hvp(&y, &[&x], &[&plain]), Err(Error::Shape { .. })));
        assert!(vjp(&[], &[], &[&x], Graph::Free).unwrap()[0].is_none());
    }
}
