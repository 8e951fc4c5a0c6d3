//! Every strategy behind one trait: what it asks for, and what its new units look like.

use crate::config::{BaselineKind, GrowthConfig, Trigger};
use crate::layer::{HiddenLayer, NewUnits};
use crate::metric::Dimension;
use crate::network::{Growable, Pass, Seen, Watch};
use crate::schedule::Standing;
use crate::trigger::{Baseline, gradient_units_wanted, units_wanted};
use crate::{Error, Result};
use std::cell::OnceCell;
use tensor_core::error::TorchContext;
use tensor_core::{Checked, Kind, Tensor};

/// A mini-batch: inputs and what the loss compares with.
#[derive(Copy, Clone, Debug)]
pub struct Batch<'a> {
    /// `[batch, ..]`.
    pub x: &'a Tensor,
    /// Labels or targets.
    pub y: &'a Tensor,
}

/// Mean loss of outputs against targets, a scalar.
pub type Loss<'a> = dyn Fn(&Tensor, &Tensor) -> tensor_core::Result<Tensor> + 'a;

/// What a strategy has to be shown before it decides.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The dimension of every layer's activations.
    pub activations: bool,
    /// The dimension of every layer's fan-in weights.
    pub weights: bool,
    /// Gradients: the summed norms of the step just made, and the bridge of the mini-batch.
    pub gradients: bool,
}

/// What is known of one layer when the trigger is asked.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Index of the hidden layer.
    pub layer: usize,
    /// How many hidden layers there are.
    pub n_layers: usize,
    /// Steps taken.
    pub step: u64,
    /// Its dimension, where the strategy needs one.
    pub dimension: Option<Dimension>,
    /// Singular values of its bridge and its summed gradient norms, where the strategy needs them.
    pub gradient: Option<(Vec<f64>, f64)>,
    /// Widths and progress.
    pub standing: Standing,
    /// A draw from `0..1` of this step and layer.
    pub uniform: f64,
}

/// What a trigger answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Demand {
    /// Units it asks for, before caps.
    pub wanted: i64,
    /// What it measured.
    pub measured: f64,
    /// What it held that against.
    pub threshold: f64,
}

/// Gradients of one layer on a mini-batch.
#[derive(Debug)]
pub struct Gradients {
    /// What its fan-in reads.
    pub fan_in: Tensor,
    /// Its units.
    pub units: Tensor,
    /// `dL/dZ_{l+1}` of the mean loss.
    pub reader: Tensor,
    /// `dL/dH_l`.
    pub d_units: Tensor,
}

/// Everything that an initialisation may look at. Passes over the network are made when asked for,
/// with the layers below as they are now.
pub struct Scene<'a> {
    net: &'a dyn Growable,
    index: usize,
    buffer: &'a Tensor,
    batch: Batch<'a>,
    loss: &'a Loss<'a>,
    seen: OnceCell<Seen>,
    gradients: OnceCell<Gradients>,
}

impl std::fmt::Debug for Scene<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scene(layer {})", self.index)
    }
}

impl<'a> Scene<'a> {
    /// The scene of hidden layer `index`.
    pub fn new(
        net: &'a dyn Growable,
        index: usize,
        buffer: &'a Tensor,
        batch: Batch<'a>,
        loss: &'a Loss<'a>,
    ) -> Self {
        let (seen, gradients) = (OnceCell::new(), OnceCell::new());
        Self { net, index, buffer, batch, loss, seen, gradients }
    }

    /// The layer.
    pub fn layer(&self) -> &HiddenLayer {
        &self.net.layers()[self.index]
    }

    /// Index of the hidden layer.
    pub fn index(&self) -> usize {
        self.index
    }

    fn shown(&self) -> Result<&Seen> {
        if self.seen.get().is_none() {
            let _guard = tch::no_grad_guard();
            let mut watch = Watch::one(self.index, self.net.layers().len());
            self.net.forward(self.buffer, Pass::Measure, &mut watch)?;
            let _ = self.seen.set(watch.into_seen().swap_remove(self.index));
        }
        self.seen.get().ok_or_else(|| untold(self.layer(), "anything"))
    }

    /// What the layer reads, on the buffer.
    ///
    /// # Errors
    /// Those of the forward pass; [`Error::Layer`] when the network does not show it.
    pub fn fan_in(&self) -> Result<&Tensor> {
        self.shown()?.fan_in.as_ref().ok_or_else(|| untold(self.layer(), "fan_in"))
    }

    /// The layer's units, on the buffer.
    ///
    /// # Errors
    /// As [`fan_in`](Self::fan_in).
    pub fn units(&self) -> Result<&Tensor> {
        self.shown()?.units.as_ref().ok_or_else(|| untold(self.layer(), "units"))
    }

    /// Gradients on the mini-batch.
    ///
    /// # Errors
    /// As [`fan_in`](Self::fan_in), and those of the loss.
    pub fn gradients(&self) -> Result<&Gradients> {
        if self.gradients.get().is_none() {
            let mut all = gradients(self.net, self.batch, self.loss, Some(self.index))?;
            let _ = self.gradients.set(all.swap_remove(0));
        }
        self.gradients.get().ok_or_else(|| untold(self.layer(), "gradients"))
    }

    /// Mean loss on the mini-batch with something in `tap`'s hands.
    ///
    /// # Errors
    /// Those of the forward pass and of the loss.
    pub fn loss_with(&self, tap: &mut dyn tensor_core::Tap) -> Result<f64> {
        let _guard = tch::no_grad_guard();
        let y = self.net.forward(self.batch.x, Pass::Measure, tap)?.y;
        crate::subspace::number("Scene::loss_with", &(self.loss)(&y, self.batch.y)?)
    }
}

fn untold(layer: &HiddenLayer, what: &str) -> Error {
    let why = format!("the network's forward pass does not show its `{what}` to the tap");
    Error::Layer { layer: layer.name.clone(), why }
}

/// Activations and their gradients of all hidden layers, or of one, on a mini-batch.
///
/// # Errors
/// Those of the forward pass and of the loss; [`Error::Layer`] when the network does not show a
/// layer.
pub fn gradients(
    net: &dyn Growable,
    batch: Batch<'_>,
    loss: &Loss<'_>,
    only: Option<usize>,
) -> Result<Vec<Gradients>> {
    const OP: &str = "strategy::gradients";
    let layers = net.layers();
    let mut watch = only.map_or_else(|| Watch::all(layers.len()), |l| Watch::one(l, layers.len()));
    let loss = tch::with_grad(|| -> Result<Tensor> {
        let y = net.forward(batch.x, Pass::Measure, &mut watch)?.y;
        Ok(loss(&y, batch.y)?)
    })?;
    let mut shown = Vec::new();
    let mut targets = Vec::new();
    for (l, (seen, layer)) in watch.into_seen().into_iter().zip(layers).enumerate() {
        if only.is_some_and(|only| only != l) {
            continue;
        }
        let fan_in = seen.fan_in.ok_or_else(|| untold(layer, "fan_in"))?;
        let units = seen.units.ok_or_else(|| untold(layer, "units"))?;
        let reader = seen.reader.ok_or_else(|| untold(layer, "reader"))?;
        shown.push((fan_in.detach(), units.detach()));
        targets.push(units);
        targets.push(reader);
    }
    let found = Tensor::f_run_backward(&[&loss], &targets, false, false).op(OP)?;
    let mut found = found.into_iter().map(|g| g.detach());
    let mut out = Vec::new();
    for (fan_in, units) in shown {
        let (Some(d_units), Some(reader)) = (found.next(), found.next()) else { break };
        out.push(Gradients { fan_in, units, reader, d_units });
    }
    Ok(out)
}

/// Copies of existing units (splits): new unit `j` copies old unit `source[j]`.
#[derive(Debug)]
pub struct Copies {
    /// Old index for each new one, old units first and in place.
    pub source: Vec<i64>,
    /// Factors of the readers; those of one source sum to 1.
    pub shares: Vec<f64>,
    /// Added to the fan-in of every unit afterwards, `[units, inputs]`: what separates the copies.
    pub shift: Option<Tensor>,
}

/// What an initialisation proposes.
#[derive(Debug, Default)]
pub struct Growth {
    /// Copies, made first.
    pub copies: Option<Copies>,
    /// New units.
    pub append: Option<NewUnits>,
    /// A remark for the log: a fall-back that was taken, a step size that was found.
    pub remark: String,
}

/// A rule that says when, where and how to add units. [`Configured`] is all those of the paper and
/// its rivals; one's own goes to [`Grower::with_strategy`](crate::Grower::with_strategy).
pub trait Strategy {
    /// What it has to be shown.
    fn needs(&self) -> Needs;

    /// Sees the dimensions of the fresh network.
    fn start(&mut self, dimensions: &[Option<Dimension>]);

    /// How many units layer `at.layer` should gain, before caps.
    fn demand(&mut self, at: &Observation) -> Demand;

    /// Sees the dimension that it decided on, after all layers of a step were decided.
    fn settle(&mut self, layer: usize, dimension: Dimension);

    /// New units for a layer: about `k`, never more. `None` for no growth after all.
    ///
    /// # Errors
    /// Statistics that are not finite or do not fit.
    fn grow(
        &mut self,
        k: i64,
        scene: &Scene<'_>,
        rng: &mut rand_chacha::ChaCha8Rng,
    ) -> Result<Option<Growth>>;
}

/// A strategy made from a [`GrowthConfig`].
#[derive(Clone, Debug)]
pub struct Configured {
    config: Checked<GrowthConfig>,
    baselines: Vec<Baseline>,
}

impl Configured {
    /// The strategy of `config`.
    pub fn new(config: &Checked<GrowthConfig>) -> Self {
        Self { config: config.clone(), baselines: Vec::new() }
    }

    /// Baselines of all layers, `gamma` included; empty before the start.
    pub fn baselines(&self) -> &[Baseline] {
        &self.baselines
    }
}

impl Strategy for Configured {
    fn needs(&self) -> Needs {
        Needs {
            activations: self.config.trigger == Trigger::Activation,
            weights: self.config.trigger == Trigger::Weight,
            gradients: self.config.trigger == Trigger::Gradient,
        }
    }

    fn start(&mut self, dimensions: &[Option<Dimension>]) {
        let gamma = self.config.gamma;
        self.baselines = dimensions
            .iter()
            .map(|d| {
                let phi0 = d.map_or(0.0, Dimension::phi);
                match self.config.baseline {
                    BaselineKind::Initial => Baseline::Initial(gamma * phi0),
                    BaselineKind::One => Baseline::Initial(gamma),
                    BaselineKind::RunningMax => Baseline::RunningMax(gamma * phi0),
                }
            })
            .collect();
    }

    fn demand(&mut self, at: &Observation) -> Demand {
        let variant = self.config.variant;
        match &self.config.trigger {
            Trigger::Activation | Trigger::Weight => {
                let now = at.dimension.unwrap_or(Dimension { count: 0, width: 0 });
                let baseline = self.baselines.get(at.layer).map_or(1.0, |b| b.value());
                let wanted = units_wanted(now, baseline, variant);
                let threshold = baseline * now.width as f64;
                Demand { wanted, measured: now.count as f64, threshold }
            }
            Trigger::Gradient => {
                let (s, sum) = at.gradient.as_ref().map_or((&[][..], 0.0), |(s, n)| (s, *n));
                let wanted = gradient_units_wanted(s, sum, variant);
                Demand { wanted, measured: s.first().copied().unwrap_or(0.0), threshold: sum }
            }
            Trigger::Preset(preset) => {
                let wanted = preset.units_wanted(at.standing, at.uniform);
                let (measured, threshold) = (at.standing.progress, self.config.end_fraction);
                Demand { wanted, measured, threshold }
            }
            Trigger::Periodic { every, units } => {
                let wanted = if at.step.is_multiple_of(*every) { *units } else { 0 };
                Demand { wanted, measured: at.step as f64, threshold: *every as f64 }
            }
            Trigger::RoundRobin { every, units } => {
                let turn = (at.step / every) % at.n_layers.max(1) as u64;
                let due = at.step.is_multiple_of(*every) && turn == at.layer as u64;
                let wanted = if due { *units } else { 0 };
                Demand { wanted, measured: at.step as f64, threshold: *every as f64 }
            }
        }
    }

    fn settle(&mut self, layer: usize, dimension: Dimension) {
        if let Some(baseline) = self.baselines.get_mut(layer) {
            baseline.observe(dimension, self.config.gamma);
        }
    }

    fn grow(
        &mut self,
        k: i64,
        scene: &Scene<'_>,
        rng: &mut rand_chacha::ChaCha8Rng,
    ) -> Result<Option<Growth>> {
        crate::start::propose(&self.config, k, scene, rng)
    }
}

/// Summed norms `sum_m ||dL/dw_in_m|| + ||dL/dw_out_m||` of one layer, from the gradients that the
/// last backward pass left in its parameters; with the two norms of each unit.
///
/// # Errors
/// [`Error::Layer`] when there are no gradients: call it between the backward pass and the step.
pub fn gradient_norms(layer: &HiddenLayer) -> Result<(Vec<f64>, Vec<f64>)> {
    const OP: &str = "strategy::gradient_norms";
    let _guard = tch::no_grad_guard();
    let missing = || Error::Layer {
        layer: layer.name.clone(),
        why: "it has no gradients: they are read between the backward pass and the step".to_owned(),
    };
    let into = layer.weight.grad().ok_or_else(missing)?;
    let reader = layer.readers.first().ok_or_else(missing)?;
    let out = reader.weight.grad().ok_or_else(missing)?;
    let norms = |rows: &Tensor| crate::subspace::to_vec(OP, &crate::subspace::row_norms(rows));
    let into = norms(&crate::metric::by_fan_in(&into)?)?;
    let out = norms(&crate::init::by_fan_out(&out.to_kind(Kind::Double), reader.block)?)?;
    Ok((into, out))
}
