//! Gated recurrent unit.

use super::same_kind;
use crate::{
    Checked, Compute, Error, Init, Param, ParamPath, Result, Role, Validate, check_shape,
    config::in_range, error::TorchContext,
};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// One step of one layer, in `PyTorch`'s form (the reset gate acts after the product with `h`):
///
/// ```text
/// r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
/// z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
/// n  = tanh(W_in x + b_in + r * (W_hn h + b_hn))
/// h' = (1 - z) * n + z * h
/// ```
///
/// Parameters, the gates stacked in the order r, z, n: `w_ih` `[3 d_hidden, d_in]`, `w_hh`
/// `[3 d_hidden, d_hidden]`, `b_ih` and `b_hh` `[3 d_hidden]`; all uniform on
/// `[-1/sqrt(d_hidden), 1/sqrt(d_hidden)]`.
#[derive(Clone, Debug)]
pub struct GruCell {
    /// From the input, `[3 d_hidden, d_in]`.
    pub w_ih: Param,
    /// From the state, `[3 d_hidden, d_hidden]`.
    pub w_hh: Param,
    /// Beside `w_ih`, `[3 d_hidden]`.
    pub b_ih: Param,
    /// Beside `w_hh`, `[3 d_hidden]`.
    pub b_hh: Param,
    compute: Compute,
}

impl GruCell {
    /// A cell with `PyTorch`'s initial values.
    ///
    /// # Errors
    /// Those of [`ParamPath::param`].
    pub fn new(path: &mut ParamPath<'_>, d_in: i64, d_hidden: i64) -> Result<Self> {
        let init = Init::FanIn { fan_in: d_hidden };
        let gates = d_hidden.checked_mul(3).ok_or_else(|| Error::Argument {
            op: "GruCell::new",
            arg: "d_hidden",
            expected: "a size that fits memory".to_owned(),
            got: d_hidden.to_string(),
        })?;
        Ok(Self {
            w_ih: path.param("w_ih", &[gates, d_in], Role::Weight, &init)?,
            w_hh: path.param("w_hh", &[gates, d_hidden], Role::Weight, &init)?,
            b_ih: path.param("b_ih", &[gates], Role::Bias, &init)?,
            b_hh: path.param("b_hh", &[gates], Role::Bias, &init)?,
            compute: Compute::default(),
        })
    }

    /// The same cell (same parameters) with its products in another precision.
    #[must_use]
    pub fn compute(self, compute: Compute) -> Self {
        Self { compute, ..self }
    }

    /// The state after input `x: [batch, d_in]` from state `h: [batch, d_hidden]`.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Kind`] when `x` or `h` does not fit.
    pub fn forward(&self, x: &Tensor, h: &Tensor) -> Result<Tensor> {
        const OP: &str = "GruCell::forward";
        let (d_in, d_hidden) = self.agree(OP)?;
        check_shape!(OP, x, [?batch, d_in]);
        check_shape!(OP, h, [batch, d_hidden]);
        let kind = self.w_ih.value().kind();
        same_kind(OP, "x", x, kind)?;
        same_kind(OP, "h", h, kind)?;
        let from_x = self.project_input(x);
        Ok(self.recurrence().step(&from_x, h))
    }

    /// Current `d_in` and `d_hidden`, once it is sure that the four parameters, which may have grown,
    /// make one cell.
    fn agree(&self, op: &'static str) -> Result<(i64, i64)> {
        let (w_ih, w_hh) = (self.w_ih.size(), self.w_hh.size());
        let (d_in, d_hidden) = (w_ih[1], w_hh[1]);
        let gates = 3 * d_hidden;
        for (name, got, want) in [
            ("w_ih", w_ih, vec![gates, d_in]),
            ("w_hh", w_hh, vec![gates, d_hidden]),
            ("b_ih", self.b_ih.size(), vec![gates]),
            ("b_hh", self.b_hh.size(), vec![gates]),
        ] {
            if got != want {
                let expected = format!("{want:?}");
                return Err(Error::Shape { op, arg: name.to_owned(), expected, got });
            }
        }
        Ok((d_in, d_hidden))
    }

    /// `W_i x + b_i` for any number of inputs at once: `[.., d_in]` to `[.., 3 d_hidden]`.
    fn project_input(&self, x: &Tensor) -> Tensor {
        let operand = |t: &Tensor| self.compute.operand(t);
        let bias = operand(&self.b_ih.value());
        let y = operand(x).linear(&operand(&self.w_ih.value()), Some(bias));
        self.compute.result(y, x.kind())
    }

    /// The part that runs once for each step, with its operands cast once.
    fn recurrence(&self) -> Recurrence {
        Recurrence {
            w_hh: self.compute.operand(&self.w_hh.value()),
            b_hh: self.compute.operand(&self.b_hh.value()),
            compute: self.compute,
        }
    }
}

struct Recurrence {
    w_hh: Tensor,
    b_hh: Tensor,
    compute: Compute,
}

impl Recurrence {
    /// `from_x: [batch, 3 d_hidden]`, `h: [batch, d_hidden]`; gates in the kind of `h`.
    fn step(&self, from_x: &Tensor, h: &Tensor) -> Tensor {
        let from_h = self.compute.operand(h).linear(&self.w_hh, Some(&self.b_hh));
        let from_h = self.compute.result(from_h, h.kind());
        let (x, s) = (from_x.chunk(3, -1), from_h.chunk(3, -1));
        let r = (&x[0] + &s[0]).sigmoid();
        let z = (&x[1] + &s[1]).sigmoid();
        let n = (&x[2] + r * &s[2]).tanh();
        &n + z * (h - &n)
    }
}

/// Sizes of a [`Gru`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GruConfig {
    /// Features of an input.
    pub d_in: i64,
    /// Features of a layer's state.
    pub d_hidden: i64,
    /// Number of layers, each reading the states of the one below.
    pub n_layers: i64,
    /// Precision of the products.
    pub compute: Compute,
}

impl Default for GruConfig {
    fn default() -> Self {
        Self { d_in: 64, d_hidden: 64, n_layers: 1, compute: Compute::default() }
    }
}

impl Validate for GruConfig {
    type Error = Error;

    fn check(&self) -> Result<()> {
        in_range("d_in", self.d_in, 1..=1 << 20)?;
        in_range("d_hidden", self.d_hidden, 1..=1 << 20)?;
        in_range("n_layers", self.n_layers, 1..=1 << 10)
    }
}

/// A stack of [`GruCell`]s over a sequence. Parameters: those of the cells, at `cells.<i>`.
///
/// ```
/// use tensor_core::{Device, Kind, ParamStore, SeedTree, Tensor, Validate, nn::{Gru, GruConfig}};
/// let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(1));
/// let config = GruConfig { d_in: 3, d_hidden: 5, ..Default::default() };
/// let gru = Gru::new(&mut store.root(), &config.validate()?)?;
/// let (y, h) = gru.forward(&Tensor::ones([2, 7, 3], (Kind::Float, Device::Cpu)), &gru.start(2))?;
/// assert_eq!((y.size(), h.size()), (vec![2, 7, 5], vec![1, 2, 5]));
/// # Ok::<(), tensor_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Gru {
    /// One for each layer, the lowest first.
    pub cells: Vec<GruCell>,
}

impl Gru {
    /// A stack with `PyTorch`'s initial values.
    ///
    /// # Errors
    /// Those of [`ParamPath::param`].
    pub fn new(path: &mut ParamPath<'_>, config: &Checked<GruConfig>) -> Result<Self> {
        let cell = |layer| {
            let d_in = if layer == 0 { config.d_in } else { config.d_hidden };
            GruCell::new(&mut path.sub("cells").sub(layer), d_in, config.d_hidden)
                .map(|cell| cell.compute(config.compute))
        };
        Ok(Self { cells: (0..config.n_layers).map(cell).collect::<Result<_>>()? })
    }

    /// A state of zeros, `[n_layers, batch, d_hidden]`.
    pub fn start(&self, batch: i64) -> Tensor {
        let w_hh = self.cells.first().map(|cell| cell.w_hh.value());
        let w_hh =
            w_hh.unwrap_or_else(|| Tensor::zeros([0, 0], (tch::Kind::Float, tch::Device::Cpu)));
        let size = [self.cells.len() as i64, batch.max(0), w_hh.size()[1]];
        Tensor::zeros(size, (w_hh.kind(), w_hh.device()))
    }

    /// Runs over a sequence.
    ///
    /// * `x`: `[batch, seq_len, d_in]`
    /// * `h`: `[n_layers, batch, d_hidden]`, the state before the first input
    ///
    /// Returns the top layer's state after each input, `[batch, seq_len, d_hidden]`, and all layers'
    /// state after the last, `[n_layers, batch, d_hidden]`. Cutting a sequence in two and handing the
    /// state on gives the same.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Kind`] when `x` or `h` does not fit.
    pub fn forward(&self, x: &Tensor, h: &Tensor) -> Result<(Tensor, Tensor)> {
        const OP: &str = "Gru::forward";
        self.check(OP, x, h)?;
        if self.cells.iter().any(|cell| cell.compute != Compute::F32) {
            return Ok(self.by_step(x, h));
        }
        let params: Vec<Tensor> = self
            .cells
            .iter()
            .flat_map(|c| [c.w_ih.value(), c.w_hh.value(), c.b_ih.value(), c.b_hh.value()])
            .collect();
        // libtorch's own loop. No dropout between layers, so `train` only keeps cuDNN's workspace
        // for a backward pass.
        x.f_gru(h, &params, true, self.cells.len() as i64, 0.0, true, false, true).op(OP)
    }

    /// Runs over one input: [`forward`](Self::forward) with `x: [batch, d_in]`.
    ///
    /// Returns `[batch, d_hidden]` and the next state.
    ///
    /// # Errors
    /// Those of [`forward`](Self::forward).
    pub fn step(&self, x: &Tensor, h: &Tensor) -> Result<(Tensor, Tensor)> {
        const OP: &str = "Gru::step";
        check_shape!(OP, x, [?_batch, ?_d_in]);
        let x = x.unsqueeze(1);
        self.check(OP, &x, h)?;
        let (y, h) = self.by_step(&x, h);
        Ok((y.squeeze_dim(1), h))
    }

    fn check(&self, op: &'static str, x: &Tensor, h: &Tensor) -> Result<()> {
        let Some(first) = self.cells.first() else {
            let (expected, got) = ("at least one cell".to_owned(), "none".to_owned());
            return Err(Error::Argument { op, arg: "cells", expected, got });
        };
        let (d_in, d_hidden) = first.agree(op)?;
        for cell in &self.cells[1..] {
            let (below, own) = cell.agree(op)?;
            if (below, own) != (d_hidden, d_hidden) {
                let expected = format!("[3 d_hidden, d_hidden = {d_hidden}]");
                let arg = "cells[1..].w_ih".to_owned();
                return Err(Error::Shape { op, arg, expected, got: cell.w_ih.size() });
            }
        }
        let n_layers = self.cells.len();
        check_shape!(op, x, [?batch, ?seq_len, d_in]);
        check_shape!(op, h, [n_layers, batch, d_hidden]);
        if batch < 1 || seq_len < 1 {
            let expected = "[batch >= 1, seq_len >= 1, d_in]".to_owned();
            return Err(Error::Shape { op, arg: "x".to_owned(), expected, got: x.size() });
        }
        let kind = first.w_ih.value().kind();
        same_kind(op, "x", x, kind)?;
        same_kind(op, "h", h, kind)
    }

    /// The plain loop: the products with all inputs at once, then one step after the other.
    fn by_step(&self, x: &Tensor, h: &Tensor) -> (Tensor, Tensor) {
        let mut x = x.shallow_clone();
        let mut last = Vec::new();
        for (cell, h) in self.cells.iter().zip(h.unbind(0)) {
            let recurrence = cell.recurrence();
            let mut h = h;
            let mut states = Vec::new();
            for from_x in cell.project_input(&x).unbind(1) {
                h = recurrence.step(&from_x, &h);
                states.push(h.shallow_clone());
            }
            x = Tensor::stack(&states, 1); // [b, t, d_hidden]
            last.push(h);
        }
        (x, Tensor::stack(&last, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, Kind, ParamStore, SeedTree};

    #[test]
    fn one_unit_by_hand() {
        let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(0));
        let cell = GruCell::new(&mut store.root(), 1, 1).unwrap();
        let (wi, wh) = ([0.3, -0.5, 0.8], [0.7, 0.2, -0.4]);
        let (bi, bh) = ([0.1, 0.0, -0.2], [0.05, -0.3, 0.6]);
        let column = |w: &[f64; 3]| Tensor::from_slice(w).unsqueeze(1);
        cell.w_ih.copy_from(&column(&wi)).unwrap();
        cell.w_hh.copy_from(&column(&wh)).unwrap();
        cell.b_ih.copy_from(&Tensor::from_slice(&bi)).unwrap();
        cell.b_hh.copy_from(&Tensor::from_slice(&bh)).unwrap();
        let (x, h) = (1.5_f64, -0.6_f64);
        let sigmoid = |v: f64| 1.0 / (1.0 + (-v).exp());
        let r = sigmoid(wi[0] * x + bi[0] + wh[0] * h + bh[0]);
        let z = sigmoid(wi[1] * x + bi[1] + wh[1] * h + bh[1]);
        let n = (wi[2] * x + bi[2] + r * (wh[2] * h + bh[2])).tanh();
        let want = (1.0 - z) * n + z * h;
        let got = cell.forward(&Tensor::from_slice2(&[[x]]), &Tensor::from_slice2(&[[h]])).unwrap();
        assert!((got.double_value(&[0, 0]) - want).abs() < 1e-15);
    }

    #[test]
    fn misfits_are_errors() {
        let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(0));
        let config = GruConfig { d_in: 2, d_hidden: 3, n_layers: 2, ..GruConfig::default() };
        let gru = Gru::new(&mut store.root(), &config.validate().unwrap()).unwrap();
        let zeros = |size: &[i64]| Tensor::zeros(size, (Kind::Float, Device::Cpu));
        let h = gru.start(4);
        assert!(gru.forward(&zeros(&[4, 5, 2]), &h).is_ok());
        for (x, h) in [
            (zeros(&[4, 5, 3]), &h),
            (zeros(&[3, 5, 2]), &h),
            (zeros(&[4, 0, 2]), &h),
            (zeros(&[4, 5, 2]), &h.narrow(0, 0, 1)),
            (zeros(&[4, 5, 2]).to_kind(Kind::Double), &h),
        ] {
            assert!(gru.forward(&x, h).is_err(), "{:?}", x.size());
        }
        let bad = GruConfig { d_hidden: 0, ..GruConfig::default() }.validate();
        assert!(bad.unwrap_err().to_string().contains("d_hidden"));
    }
}
