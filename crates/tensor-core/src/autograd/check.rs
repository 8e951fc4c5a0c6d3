//! Comparison of derivatives with central differences.

use super::{Graph, vjp};
use crate::{Error, Result, SeedTree};
use rand_distr::{Distribution, StandardNormal};
use tch::{Kind, Tensor};

const OP: &str = "check_gradient";

/// Which derivatives to compare.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The gradient.
    #[default]
    First,
    /// The gradient, then the gradient of a random projection of the gradient.
    Second,
}

/// How to compare. An element agrees when `|analytic - numeric| <= atol + rtol * |numeric|`.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct GradientCheck {
    /// Highest derivative to compare.
    pub order: Order,
    /// Half-width of the central difference; default 1e-6.
    pub step: f64,
    /// Absolute tolerance; default 1e-7, some hundred times the rounding error of a function of
    /// size 1.
    pub atol: f64,
    /// Relative tolerance; default 1e-6.
    pub rtol: f64,
    /// Largest number of input elements in total; each costs two evaluations. Default 4,096.
    pub max_elements: usize,
    /// Seed of the random cotangent and projection.
    pub seed: u64,
}

impl Default for GradientCheck {
    fn default() -> Self {
        Self {
            order: Order::First,
            step: 1e-6,
            atol: 1e-7,
            rtol: 1e-6,
            max_elements: 4096,
            seed: 0,
        }
    }
}

impl GradientCheck {
    /// The defaults, for both orders.
    pub fn second_order() -> Self {
        Self { order: Order::Second, ..Self::default() }
    }
}

/// The element that agrees least.
#[derive(Clone, Debug, PartialEq)]
pub struct Worst {
    /// Order of the derivative, 1 or 2.
    pub order: u8,
    /// Which input.
    pub input: usize,
    /// Element of that input.
    pub index: Vec<i64>,
    /// Derivative from automatic differentiation.
    pub analytic: f64,
    /// Derivative from central differences.
    pub numeric: f64,
    /// `|analytic - numeric| / (atol + rtol * |numeric|)`; at most 1 when the check passes.
    pub excess: f64,
}

/// What a passed check has seen.
#[derive(Clone, Debug, PartialEq)]
pub struct GradientReport {
    /// Derivatives compared, over all inputs and orders.
    pub compared: usize,
    /// The one that agrees least; `None` when there was nothing to compare.
    pub worst: Option<Worst>,
}

/// Compares the derivatives of `f` with central differences in float64.
///
/// Outputs of more than one element are first contracted with a random cotangent `w`, so the
/// gradient of `<w, f(x)>` is compared element by element; for [`Order::Second`] also the gradient of
/// `<v, grad <w, f(x)>>` with a random `v`. A wrong, missing, misplaced or unrecorded backward pass
/// shows, up to a chance of measure zero.
///
/// * `f`: a deterministic function of the inputs; called with fresh leaves, one for each input
/// * `inputs`: float64, of any shapes, at a point where `f` is smooth over `step`
///
/// # Errors
/// [`Error::Gradient`] naming the worst element when one disagrees; [`Error::Kind`] unless all is
/// float64; [`Error::Argument`] for more than `max_elements` elements or a bad option;
/// [`Error::NonFinite`] when a value or derivative is not finite; and whatever `f` returns.
pub fn check_gradient<F>(
    mut f: F,
    inputs: &[&Tensor],
    options: &GradientCheck,
) -> Result<GradientReport>
where
    F: FnMut(&[Tensor]) -> Result<Tensor>,
{
    validate(inputs, options)?;
    let seeds = SeedTree::new(options.seed).child(OP);
    let point: Vec<Tensor> = inputs.iter().map(|x| x.detach().contiguous().copy()).collect();

    let w = random_like(&evaluate(&mut f, &point)?, &seeds.child("cotangent"));
    let mut projected = |x: &[Tensor]| Ok((evaluate(&mut f, x)? * &w).sum(Kind::Double));
    let mut report = GradientReport { compared: 0, worst: None };
    compare(&mut projected, &point, 1, options, &mut report)?;

    if options.order == Order::Second {
        let v: Vec<Tensor> = point
            .iter()
            .enumerate()
            .map(|(i, x)| random_like(x, &seeds.child("projection").child(i)))
            .collect();
        let mut directional = |x: &[Tensor]| {
            let gradients = gradients(&projected(x)?, x, Graph::Record)?;
            let terms = gradients.iter().zip(&v).map(|(g, v)| (g * v).sum(Kind::Double));
            Ok(terms.reduce(|sum, term| sum + term).unwrap_or_else(|| Tensor::from(0.0)))
        };
        compare(&mut directional, &point, 2, options, &mut report)?;
    }
    match report.worst {
        Some(worst) if worst.excess > 1.0 => Err(Error::Gradient {
            op: OP,
            order: worst.order,
            input: worst.input,
            index: worst.index,
            analytic: worst.analytic,
            numeric: worst.numeric,
            excess: worst.excess,
        }),
        _ => Ok(report),
    }
}

fn validate(inputs: &[&Tensor], options: &GradientCheck) -> Result<()> {
    if let Some((i, x)) = inputs.iter().enumerate().find(|(_, x)| x.kind() != Kind::Double) {
        return Err(Error::Kind {
            op: OP,
            arg: format!("inputs[{i}]"),
            expected: "Double".to_owned(),
            got: x.kind(),
        });
    }
    for (arg, value, fits) in [
        ("step", options.step, options.step > 0.0),
        ("atol", options.atol, options.atol > 0.0),
        ("rtol", options.rtol, options.rtol >= 0.0),
    ] {
        if !(fits && value.is_finite()) {
            let (expected, got) = ("positive and finite".to_owned(), value.to_string());
            return Err(Error::Argument { op: OP, arg, expected, got });
        }
    }
    let elements: usize = inputs.iter().map(|x| x.numel()).sum();
    if elements > options.max_elements {
        return Err(Error::Argument {
            op: OP,
            arg: "inputs",
            expected: format!("at most {} elements in total", options.max_elements),
            got: elements.to_string(),
        });
    }
    Ok(())
}

/// Compares the gradient of the scalar function `f` at `point` with central differences.
fn compare(
    f: &mut impl FnMut(&[Tensor]) -> Result<Tensor>,
    point: &[Tensor],
    order: u8,
    options: &GradientCheck,
    report: &mut GradientReport,
) -> Result<()> {
    let leaves = leaves(point);
    let analytic = gradients(&f(&leaves)?, &leaves, Graph::Free)?;
    for (input, (x, gradient)) in point.iter().zip(&analytic).enumerate() {
        let gradient: Vec<f64> = values(gradient)?;
        for (at, analytic) in gradient.into_iter().enumerate() {
            let mut value_at = |shift: f64| -> Result<f64> {
                let moved: Vec<Tensor> = point.iter().map(Tensor::copy).collect();
                let _ = moved[input].view(-1).get(at as i64).g_add_scalar_(shift);
                values(&f(&self::leaves(&moved))?).map(|v| v[0])
            };
            let numeric =
                (value_at(options.step)? - value_at(-options.step)?) / (2.0 * options.step);
            if !(analytic.is_finite() && numeric.is_finite()) {
                let what = format!("derivative {order} of input {input}, element {at}");
                return Err(Error::NonFinite { op: OP, what, step: 0 });
            }
            let excess = (analytic - numeric).abs() / (options.atol + options.rtol * numeric.abs());
            report.compared += 1;
            if report.worst.as_ref().is_none_or(|w| excess > w.excess) {
                let index = unravel(at, &x.size());
                report.worst = Some(Worst { order, input, index, analytic, numeric, excess });
            }
        }
    }
    Ok(())
}

fn leaves(point: &[Tensor]) -> Vec<Tensor> {
    point.iter().map(|x| x.detach().set_requires_grad(true)).collect()
}

fn evaluate(f: &mut impl FnMut(&[Tensor]) -> Result<Tensor>, x: &[Tensor]) -> Result<Tensor> {
    let y = f(x)?;
    if y.kind() == Kind::Double {
        return Ok(y);
    }
    Err(Error::Kind {
        op: OP,
        arg: "result of f".to_owned(),
        expected: "Double".to_owned(),
        got: y.kind(),
    })
}

/// Gradients of a scalar with zeros where it does not depend on an input.
fn gradients(scalar: &Tensor, inputs: &[Tensor], graph: Graph) -> Result<Vec<Tensor>> {
    let inputs: Vec<&Tensor> = inputs.iter().collect();
    let found = if scalar.requires_grad() {
        vjp(&[scalar], &[&scalar.detach().ones_like()], &inputs, graph)?
    } else {
        inputs.iter().map(|_| None).collect()
    };
    let filled = found.into_iter().zip(inputs);
    Ok(filled.map(|(g, x)| g.unwrap_or_else(|| x.detach().zeros_like())).collect())
}

fn random_like(x: &Tensor, seed: &SeedTree) -> Tensor {
    let mut rng = seed.rng();
    let draw: Vec<f64> = (0..x.numel()).map(|_| StandardNormal.sample(&mut rng)).collect();
    Tensor::from_slice(&draw).reshape(x.size()).to_device(x.device())
}

fn values(x: &Tensor) -> Result<Vec<f64>> {
    use crate::error::TorchContext;
    Vec::try_from(x.detach().reshape([-1])).op(OP)
}

fn unravel(mut at: usize, size: &[i64]) -> Vec<i64> {
    let mut index: Vec<i64> = size
        .iter()
        .rev()
        .map(|d| {
            let i = at as i64 % d;
            at /= *d as usize;
            i
        })
        .collect();
    index.reverse();
    index
}
