//! The training loop's other half: asks the trigger after a step, grows layers, keeps the journal.
//!
//! Long because the order of a step is one story: measure, ask, limit, propose, apply, record.

use crate::buffer::Fifo;
use crate::config::{GrowthConfig, Moments, Samples};
use crate::journal::{Event, Journal};
use crate::layer::HiddenLayer;
use crate::metric::{Dimension, by_unit, subsample, weight_dimension};
use crate::network::{Growable, Pass, Watch};
use crate::schedule::Standing;
use crate::strategy::{
    Batch, Configured, Demand, Growth, Loss, Needs, Observation, Scene, Strategy, gradient_norms,
    gradients,
};
use crate::trigger::capped;
use crate::{Error, Result};
use rand::RngExt;
use std::time::Instant;
use tensor_core::grow::{FunctionChange, MomentPolicy, ResizePlan};
use tensor_core::{Checked, Kind, NoTap, Optimizer, ParamId, Role, SeedTree, Tensor, Trainer};

/// What [`Grower::train_step`] did.
#[derive(Debug)]
pub struct Step {
    /// Mean loss of the batch before the step, a scalar tensor.
    pub loss: Tensor,
    /// Growth after it.
    pub events: Vec<Event>,
}

/// Grows one network by one strategy.
///
/// A step of the paper's loop (section 1) is [`train_step`](Self::train_step). A loop of one's own
/// calls [`remember`](Self::remember) with each batch, [`note_gradients`](Self::note_gradients)
/// between the backward pass and the optimiser's step, and [`after_step`](Self::after_step).
///
/// The metric of all layers comes from one forward pass, made after the gradient step and before any
/// growth of that step; initialisations see the layers below as they have grown. Each event is one
/// [`ResizePlan`] through [`Trainer::grow`], all or nothing: after an error the layer in question,
/// the optimiser and the baselines are as they were, and layers that grew earlier in the same step
/// stay grown, with their entries in the journal.
#[derive(Debug)]
pub struct Grower<S = Configured> {
    config: Checked<GrowthConfig>,
    strategy: S,
    seed: SeedTree,
    buffer: Fifo,
    initial: Vec<i64>,
    noted: Option<Vec<f64>>,
    started: bool,
    journal: Journal,
}

impl Grower {
    /// A grower for `net` by the strategy of `config`; all its draws come from `seed`.
    ///
    /// # Errors
    /// [`Error::Layer`] when parameters of a layer do not meet or the initialisation is not defined
    /// for a layer that may grow.
    pub fn new(
        net: &dyn Growable,
        config: &Checked<GrowthConfig>,
        seed: &SeedTree,
    ) -> Result<Self> {
        Self::with_strategy(net, config, Configured::new(config), seed)
    }
}

impl<S: Strategy> Grower<S> {
    /// A grower with a strategy of one's own; of `config` the limits and the buffer count.
    ///
    /// # Errors
    /// As [`Grower::new`].
    pub fn with_strategy(
        net: &dyn Growable,
        config: &Checked<GrowthConfig>,
        strategy: S,
        seed: &SeedTree,
    ) -> Result<Self> {
        let layers = net.layers();
        let mut longest = 1;
        for (l, layer) in layers.iter().enumerate() {
            layer.check()?;
            longest = longest.max(layer.max_width.max(layer.width()));
            let conv = layer.geometry != crate::layer::Geometry::Dense;
            let may = layer.growable && !frozen(config, l, layers.len());
            if conv && may && !config.init.convolutional() {
                let why = format!("{:?} is defined for dense layers only", config.init);
                return Err(Error::Layer { layer: layer.name.clone(), why });
            }
        }
        let capacity = config.buffer_len.unwrap_or(2 * longest);
        let initial: Vec<i64> = layers.iter().map(HiddenLayer::width).collect();
        let journal = Journal { widths: vec![(0, initial.clone())], ..Journal::default() };
        Ok(Self {
            config: config.clone(),
            strategy,
            seed: seed.child("growth"),
            buffer: Fifo::new(capacity),
            initial,
            noted: None,
            started: false,
            journal,
        })
    }

    /// Adds a batch to the buffer.
    ///
    /// # Errors
    /// Those of [`Fifo::push`].
    pub fn remember(&mut self, x: &Tensor) -> Result<()> {
        self.buffer.push(x)
    }

    /// The buffer.
    pub fn buffer(&self) -> &Fifo {
        &self.buffer
    }

    /// The strategy.
    pub fn strategy(&self) -> &S {
        &self.strategy
    }

    /// What happened so far.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Measures the fresh network, for the baselines. Done by the first
    /// [`train_step`](Self::train_step) where nobody did it before.
    ///
    /// # Errors
    /// [`Error::Argument`] when the strategy looks at activations and nothing is in the buffer; those
    /// of the metric.
    pub fn start(&mut self, net: &dyn Growable) -> Result<()> {
        let needs = self.strategy.needs();
        let samples = match self.buffer.samples() {
            Some(x) => x.shallow_clone(),
            None if needs.activations => {
                return Err(Error::Argument {
                    op: "Grower::start",
                    arg: "buffer",
                    expected: "at least one remembered batch".to_owned(),
                    got: "none".to_owned(),
                });
            }
            None => Tensor::new(),
        };
        let dimensions = self.dimensions(net, needs, &samples, 0)?;
        self.strategy.start(&dimensions);
        self.started = true;
        Ok(())
    }

    /// Reads the gradients that the backward pass left, where the strategy needs them.
    ///
    /// # Errors
    /// [`Error::Layer`] when a layer has none.
    pub fn note_gradients(&mut self, net: &dyn Growable) -> Result<()> {
        if !self.strategy.needs().gradients {
            return Ok(());
        }
        let sums = net
            .layers()
            .iter()
            .map(|layer| {
                let (into, out) = gradient_norms(layer)?;
                Ok(into.iter().sum::<f64>() + out.iter().sum::<f64>())
            })
            .collect::<Result<_>>()?;
        self.noted = Some(sums);
        Ok(())
    }

    /// One step of the paper's loop: remembers the batch, takes a gradient step at rate `lr`, asks
    /// the trigger, grows. `progress` is the share of training that this step completes, in `0..=1`.
    ///
    /// # Errors
    /// Those of the forward pass, the loss, the optimiser and of [`after_step`](Self::after_step).
    pub fn train_step<O: Optimizer>(
        &mut self,
        net: &dyn Growable,
        trainer: &mut Trainer<O>,
        batch: Batch<'_>,
        loss: &Loss<'_>,
        lr: f64,
        progress: f64,
    ) -> Result<Step> {
        self.remember(batch.x)?;
        if !self.started {
            self.start(net)?;
        }
        let out = net.forward(batch.x, Pass::Train, &mut NoTap)?;
        let value = loss(&out.y, batch.y)?;
        {
            use tensor_core::error::TorchContext;
            value.f_backward().op("Grower::train_step")?;
        }
        self.note_gradients(net)?;
        trainer.step(lr)?;
        net.commit(&out.stats)?;
        let value = value.detach();
        drop(out);
        let events = self.after_step(net, trainer, batch, loss, progress)?;
        Ok(Step { loss: value, events })
    }

    /// Asks the trigger and grows. `batch` is the mini-batch of the step just made.
    ///
    /// # Errors
    /// [`Error::Shape`] for an empty batch, [`Error::NonFinite`] naming the layer whose statistics
    /// are not finite, [`Error::Argument`] when nothing was measured at the start, those of the
    /// initialisation and of [`Trainer::grow`].
    pub fn after_step<O: Optimizer>(
        &mut self,
        net: &dyn Growable,
        trainer: &mut Trainer<O>,
        batch: Batch<'_>,
        loss: &Loss<'_>,
        progress: f64,
    ) -> Result<Vec<Event>> {
        const OP: &str = "Grower::after_step";
        if batch.x.size().first().copied().unwrap_or(0) < 1 {
            return Err(Error::shape(OP, "batch.x", "[batch >= 1, ..]", batch.x));
        }
        if !(0.0..=1.0).contains(&progress) {
            let (expected, got) = ("in 0..=1".to_owned(), progress.to_string());
            return Err(Error::Argument { op: OP, arg: "progress", expected, got });
        }
        if !self.started {
            return Err(Error::Argument {
                op: OP,
                arg: "self",
                expected: "a grower that measured the fresh network (`start`)".to_owned(),
                got: "one that did not".to_owned(),
            });
        }
        let step = trainer.steps();
        if !step.is_multiple_of(self.config.every) {
            return Ok(Vec::new());
        }
        let clock = Instant::now();
        let samples = match (self.config.samples, self.buffer.samples()) {
            (Samples::Fifo, Some(x)) => x.shallow_clone(),
            _ => batch.x.shallow_clone(),
        };
        let needs = self.strategy.needs();
        let dimensions = self.dimensions(net, needs, &samples, step)?;
        let mut bridges = self.bridges(net, needs, batch, loss)?;
        let demands = self.demands(net, &dimensions, &mut bridges, step, progress);
        let trigger_ms = milliseconds(clock);
        self.journal.evaluations += 1;
        self.journal.trigger_ms += trigger_ms;

        let mut events = Vec::new();
        for (l, demand) in demands.iter().enumerate() {
            let layer = &net.layers()[l];
            let k = self.allowed(trainer, layer, l, net.layers().len(), demand.wanted);
            if k == 0 {
                continue;
            }
            let clock = Instant::now();
            let mut rng = self.seed.child(step).child(l).rng();
            let scene = Scene::new(net, l, &samples, batch, loss);
            let Some(growth) = self.strategy.grow(k, &scene, &mut rng)? else { continue };
            let before = layer.width();
            let change = self.apply(net, trainer, l, &growth, &samples, demand, &mut rng)?;
            let init_ms = milliseconds(clock);
            self.journal.init_ms += init_ms;
            let event = Event {
                step,
                layer: l,
                name: layer.name.clone(),
                before,
                after: layer.width(),
                wanted: demand.wanted,
                measured: demand.measured,
                threshold: demand.threshold,
                remark: growth.remark,
                function_change: change,
                trigger_ms,
                init_ms,
                params: weights_and_biases(trainer),
            };
            tracing::debug!(step, layer = event.name, event.before, event.after, "grew");
            self.journal.events.push(event.clone());
            events.push(event);
        }
        if !events.is_empty() {
            let widths = net.layers().iter().map(HiddenLayer::width).collect();
            self.journal.widths.push((step, widths));
        }
        for (l, dimension) in dimensions.into_iter().enumerate() {
            if let Some(dimension) = dimension {
                self.strategy.settle(l, dimension);
            }
        }
        Ok(events)
    }

    /// Removes units: keeps those of `index` in layer `layer`, with all optimiser state. The way back
    /// from growth; scores to choose by are in [`prune`](crate::prune).
    ///
    /// # Errors
    /// [`Error::Argument`] for a bad index or layer, those of [`Trainer::grow`].
    pub fn keep<O: Optimizer>(
        &mut self,
        net: &dyn Growable,
        trainer: &mut Trainer<O>,
        layer: usize,
        index: &[i64],
        reason: &str,
    ) -> Result<Event> {
        let n = net.layers().len();
        let place = net.layers().get(layer).ok_or_else(|| Error::Argument {
            op: "Grower::keep",
            arg: "layer",
            expected: format!("in 0..{n}"),
            got: layer.to_string(),
        })?;
        let clock = Instant::now();
        let before = place.width();
        let plan = place.keep(index, reason)?;
        let samples = self.buffer.samples().map(Tensor::shallow_clone);
        let change = self.run(net, trainer, &plan, samples.as_ref())?;
        let event = Event {
            step: trainer.steps(),
            layer,
            name: place.name.clone(),
            before,
            after: place.width(),
            wanted: index.len() as i64 - before,
            measured: 0.0,
            threshold: 0.0,
            remark: reason.to_owned(),
            function_change: change,
            trigger_ms: 0.0,
            init_ms: milliseconds(clock),
            params: weights_and_biases(trainer),
        };
        self.journal.events.push(event.clone());
        let widths = net.layers().iter().map(HiddenLayer::width).collect();
        self.journal.widths.push((trainer.steps(), widths));
        Ok(event)
    }

    fn dimensions(
        &self,
        net: &dyn Growable,
        needs: Needs,
        samples: &Tensor,
        step: u64,
    ) -> Result<Vec<Option<Dimension>>> {
        let layers = net.layers();
        let eps = self.config.eps;
        if needs.activations {
            let _guard = tch::no_grad_guard();
            let mut watch = Watch::all(layers.len());
            net.forward(samples, Pass::Measure, &mut watch)?;
            return watch
                .into_seen()
                .into_iter()
                .zip(layers)
                .enumerate()
                .map(|(l, (seen, layer))| {
                    let units = seen.units.ok_or_else(|| Error::Layer {
                        layer: layer.name.clone(),
                        why: "the network's forward pass does not show its units".to_owned(),
                    })?;
                    let units = match self.config.limit_ratio {
                        None => units,
                        Some(ratio) => {
                            let mut rng = self.seed.child("rows").child(step).child(l).rng();
                            subsample(&by_unit(&units)?, ratio, &mut rng)?
                        }
                    };
                    let got = self.config.metric.measure(&units, eps, self.config.scale);
                    got.map(Some).map_err(|e| in_layer(e, layer))
                })
                .collect();
        }
        if needs.weights {
            return layers
                .iter()
                .map(|layer| {
                    let got = weight_dimension(&layer.weight.value(), eps);
                    got.map(Some).map_err(|e| in_layer(e, layer))
                })
                .collect();
        }
        Ok(layers.iter().map(|_| None).collect())
    }

    fn bridges(
        &mut self,
        net: &dyn Growable,
        needs: Needs,
        batch: Batch<'_>,
        loss: &Loss<'_>,
    ) -> Result<Vec<Option<Bridge>>> {
        const OP: &str = "gradient trigger";
        let layers = net.layers();
        if !needs.gradients {
            return Ok(layers.iter().map(|_| None).collect());
        }
        let sums = self.noted.take().ok_or_else(|| Error::Argument {
            op: "Grower::after_step",
            arg: "self",
            expected: "gradients noted since the last step (`note_gradients`)".to_owned(),
            got: "none".to_owned(),
        })?;
        gradients(net, batch, loss, None)?
            .iter()
            .zip(layers)
            .zip(sums)
            .map(|((g, layer), sum)| {
                let matrix = crate::start::bridge(layer, &g.fan_in, &g.reader)
                    .map_err(|e| in_layer(e, layer))?;
                let Some(matrix) = matrix else { return Ok(None) };
                let s = crate::subspace::singular_values(OP, &matrix)
                    .map_err(|e| in_layer(e, layer))?;
                Ok(Some((s, sum)))
            })
            .collect()
    }

    fn demands(
        &mut self,
        net: &dyn Growable,
        dimensions: &[Option<Dimension>],
        bridges: &mut [Option<Bridge>],
        step: u64,
        progress: f64,
    ) -> Vec<Demand> {
        let mut demands = Vec::new();
        for (l, layer) in net.layers().iter().enumerate() {
            let standing = Standing {
                width: layer.width(),
                initial: self.initial[l],
                last: self.config.final_width.unwrap_or(layer.max_width).min(layer.max_width),
                max_width: layer.max_width,
                progress,
                end_fraction: self.config.end_fraction,
            };
            let uniform = self.seed.child("uniform").child(step).child(l).rng().random();
            demands.push(self.strategy.demand(&Observation {
                layer: l,
                n_layers: net.layers().len(),
                step,
                dimension: dimensions[l],
                gradient: bridges[l].take(),
                standing,
                uniform,
            }));
        }
        demands
    }

    /// What limits leave of a demand.
    fn allowed<O: Optimizer>(
        &self,
        trainer: &Trainer<O>,
        layer: &HiddenLayer,
        l: usize,
        n: usize,
        wanted: i64,
    ) -> i64 {
        if !layer.growable || frozen(&self.config, l, n) {
            return 0;
        }
        let k = capped(wanted, layer.width(), layer.max_width).min(self.config.max_per_event);
        match self.config.max_params {
            None => k,
            Some(budget) => {
                let left = budget - weights_and_biases(trainer);
                k.min(left / layer.params_per_unit().max(1)).max(0)
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one event's facts, used once")]
    fn apply<O: Optimizer>(
        &self,
        net: &dyn Growable,
        trainer: &mut Trainer<O>,
        l: usize,
        growth: &Growth,
        samples: &Tensor,
        demand: &Demand,
        rng: &mut rand_chacha::ChaCha8Rng,
    ) -> Result<Option<FunctionChange>> {
        let layer = &net.layers()[l];
        let reason = format!(
            "{}: {:?} asked for {} ({:.6} against {:.6})",
            layer.name, self.config.init, demand.wanted, demand.measured, demand.threshold
        );
        let mut total: Option<FunctionChange> = None;
        let mut add = |change: Option<FunctionChange>| {
            total = match (total, change) {
                (Some(a), Some(b)) => Some(FunctionChange {
                    max_abs: a.max_abs + b.max_abs,
                    relative: a.relative + b.relative,
                }),
                (a, b) => a.or(b),
            };
        };
        if let Some(copies) = &growth.copies {
            let size = [copies.source.len() as i64, layer.fan_in()];
            if let Some(shift) = &copies.shift {
                if shift.size() != size {
                    return Err(Error::shape("growth", "shift", format!("{size:?}"), shift));
                }
                crate::subspace::finite("growth", "shift of split units", shift)?;
            }
            let plan = layer.duplicate(&copies.source, &copies.shares, reason.as_str())?;
            let before = self.outputs(net, Some(samples))?;
            self.run(net, trainer, &plan, None)?;
            if let Some(shift) = &copies.shift {
                // As an optimiser step would: values move, sizes stay.
                let value = layer.weight.value();
                let shift = shift.to_kind(value.kind()).reshape(value.size());
                layer.weight.copy_from(&(value.detach() + shift))?;
            }
            add(match before {
                None => None,
                Some(before) => Some(self.difference(net, samples, &before)?),
            });
        }
        if let Some(units) = &growth.append {
            let plan = layer.append(units, rng, reason)?;
            add(self.run(net, trainer, &plan, Some(samples))?);
        }
        Ok(total)
    }

    fn outputs(&self, net: &dyn Growable, samples: Option<&Tensor>) -> Result<Option<Tensor>> {
        let Some(samples) = samples.filter(|_| self.config.probe_rows > 0) else { return Ok(None) };
        let _guard = tch::no_grad_guard();
        let probe = samples.narrow(0, 0, self.config.probe_rows.min(samples.size()[0]));
        Ok(Some(net.forward(&probe, Pass::Eval, &mut NoTap)?.y.to_kind(Kind::Double)))
    }

    fn difference(
        &self,
        net: &dyn Growable,
        samples: &Tensor,
        before: &Tensor,
    ) -> Result<FunctionChange> {
        let after = self.outputs(net, Some(samples))?.unwrap_or_else(|| before.shallow_clone());
        let largest = |x: &Tensor| crate::subspace::number("probe", &x.abs().max());
        let (max_abs, scale) = (largest(&(after - before))?, largest(before)?);
        Ok(FunctionChange {
            max_abs,
            relative: if scale > 0.0 { max_abs / scale } else { max_abs },
        })
    }

    /// Applies a plan with the moment policy of the config, measured where there are samples.
    fn run<O: Optimizer>(
        &self,
        net: &dyn Growable,
        trainer: &mut Trainer<O>,
        plan: &ResizePlan,
        samples: Option<&Tensor>,
    ) -> Result<Option<FunctionChange>> {
        let reset = self.config.moments == Moments::Reset;
        let policy = if reset { MomentPolicy::ResetAll } else { MomentPolicy::CopyMapped };
        let plan = plan.clone().with_moments(policy);
        let change =
            match samples.filter(|_| self.config.probe_rows > 0) {
                None => {
                    trainer.grow(&plan)?;
                    None
                }
                Some(samples) => {
                    let probe = samples.narrow(0, 0, self.config.probe_rows.min(samples.size()[0]));
                    Some(trainer.grow_checked(&plan, || {
                        Ok(net.forward(&probe, Pass::Eval, &mut NoTap)?.y)
                    })?)
                }
            };
        if self.config.moments == Moments::SharedStep {
            let ids: Vec<ParamId> = plan.edits.iter().map(|e| e.param).collect();
            share_steps(trainer, &ids);
        }
        Ok(change)
    }
}

/// Singular values of a layer's bridge and its summed gradient norms.
type Bridge = (Vec<f64>, f64);

/// Gives late entries of these parameters the step counter of the rest, as zero padding does: their
/// bias correction is over already, and Adam's first update of them is about `3.16 lr` (section 5).
pub fn share_steps<O: Optimizer>(trainer: &mut Trainer<O>, params: &[ParamId]) {
    for id in params {
        if let Some(state) = trainer.optim.states_mut().get_mut(*id) {
            state.births.iter_mut().for_each(Vec::clear);
        }
    }
}

fn frozen(config: &GrowthConfig, layer: usize, n: usize) -> bool {
    layer < config.freeze_first || layer + config.freeze_last >= n
}

/// Weights and biases of a store, normalisations and buffers not counted: the paper's size.
pub fn weights_and_biases<O: Optimizer>(trainer: &Trainer<O>) -> i64 {
    let count = trainer.store.count();
    [Role::Weight, Role::Bias].iter().filter_map(|r| count.by_role.get(r)).sum()
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Says in which layer something was not finite.
fn in_layer(error: Error, layer: &HiddenLayer) -> Error {
    match error {
        Error::NonFinite { op, what } => {
            Error::NonFinite { op, what: format!("{what} of layer `{}`", layer.name) }
        }
        other => other,
    }
}
