//! A backward pass written in Rust.

use crate::{Error, Result, native};
use tch::Tensor;

/// Attaches `backward` to already computed `outputs` as the gradient with respect to `inputs`.
///
/// `outputs` should have been computed under [`tch::no_grad_guard`]; a graph behind them is cut. The
/// returned handles share their storage and carry the new node, called `label` in messages.
///
/// `backward` gets one cotangent for each output, of its shape, `None` where the loss does not depend
/// on it or the output is not of floating point; it returns one gradient for each input, of its
/// shape, `None` for "zero". It runs at each backward pass, on whichever thread that runs, one call at
/// a time. It is dropped with the graph, or at once when there is nothing to record: no input
/// requires a gradient, or grad mode is off.
///
/// Rules for the closure:
/// * Save the *original* tensors (`x.detach()` of the output before this call), never a returned
///   handle: a node that holds its own output is a reference cycle and leaks.
/// * Do not edit saved tensors in place, before or inside: nothing detects it.
/// * To be differentiable twice, use recorded operations and save inputs with their graph
///   (`a.shallow_clone()`): grad mode inside is on exactly when the caller asked for a recorded
///   derivative ([`Graph::Record`](super::Graph::Record)). Otherwise the second derivative is
///   silently zero; [`check_gradient`](super::check_gradient) of second order finds that.
/// * An `Err` and a panic both end the backward pass with an error that carries the text.
///
/// ```
/// use tensor_core::{Result, Tensor, autograd::custom_vjp};
/// /// `floor(x)` forward, identity backward: the straight-through estimator.
/// fn straight_through_floor(x: &Tensor) -> Result<Tensor> {
///     let floor = {
///         let _guard = tch::no_grad_guard();
///         x.floor()
///     };
///     let mut y = custom_vjp("StraightThrough", &[x], vec![floor], |g| {
///         Ok(vec![g[0].as_ref().map(Tensor::shallow_clone)])
///     })?;
///     Ok(y.remove(0))
/// }
/// # fn main() -> Result<()> {
/// let x = Tensor::from_slice(&[0.5, 1.7]).set_requires_grad(true);
/// straight_through_floor(&x)?.sum(tch::Kind::Double).backward();
/// assert_eq!(x.grad(), Tensor::from_slice(&[1.0, 1.0]));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Argument`] for an empty list of outputs or a label with a NUL character,
/// [`Error::Torch`] for undefined tensors. Errors of the closure appear where the backward pass was
/// started.
#[expect(
    clippy::needless_pass_by_value,
    reason = "a handle left behind would carry no gradient and be used by mistake"
)]
pub fn custom_vjp<F>(
    label: &str,
    inputs: &[&Tensor],
    outputs: Vec<Tensor>,
    backward: F,
) -> Result<Vec<Tensor>>
where
    F: FnMut(&[Option<Tensor>]) -> Result<Vec<Option<Tensor>>> + Send + 'static,
{
    if outputs.is_empty() {
        return Err(Error::Argument {
            op: "custom_vjp",
            arg: "outputs",
            expected: "at least one tensor".to_owned(),
            got: "none".to_owned(),
        });
    }
    native::attach(label, inputs, &outputs.iter().collect::<Vec<_>>(), backward)
}
