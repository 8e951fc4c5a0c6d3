//! Hidden layers that can change their number of units, and the plans that do it.

use crate::init::{glorot, mean_row_norm, rescaled};
use crate::{Error, Result};
use rand::Rng;
use tensor_core::grow::{AxisPlan, Edit, Fill, ResizePlan, Share, Values};
use tensor_core::nn::BatchNorm2d;
use tensor_core::{Kind, Param, Tensor};

/// A weight whose axis 1 reads the units of a layer.
#[derive(Clone, Debug)]
pub struct Reader {
    /// `[outputs, units * block, ..]`.
    pub weight: Param,
    /// Columns that belong to one unit: 1, or `height * width` where maps are flattened into a dense
    /// layer (channel-major, so that the columns of a channel lie together).
    pub block: i64,
}

/// A further weight (and bias) whose axis 0 computes the same units, in networks whose residual
/// connections tie widths together.
#[derive(Clone, Debug)]
pub struct Producer {
    /// `[units, inputs, ..]`.
    pub weight: Param,
    /// `[units]`.
    pub bias: Option<Param>,
}

/// What a layer's fan-in reads, where that matters.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Geometry {
    /// A matrix.
    Dense,
    /// A convolution, with the step and border of its own kernel.
    Conv {
        /// Step between outputs.
        stride: [i64; 2],
        /// Zeros added on each side.
        padding: [i64; 2],
        /// Step and border of the convolution that reads it next, when that follows without pooling
        /// in between: what `GradMax` needs for its bridge.
        next: Option<([i64; 2], [i64; 2])>,
    },
}

/// One layer of units that may grow: the parameters that meet there.
#[derive(Clone, Debug)]
pub struct HiddenLayer {
    /// Name, for logs and errors.
    pub name: String,
    /// `[units, inputs]` or `[channels, inputs, kernel_h, kernel_w]`. Its rows are what metrics and
    /// initialisations look at.
    pub weight: Param,
    /// `[units]`.
    pub bias: Option<Param>,
    /// Per-channel normalisations of these units. New channels get weight 1, bias 0, mean 0 and
    /// variance 1. A norm *across* units (layer norm, group norm) has no place here: with it, no
    /// growth preserves the function.
    pub norms: Vec<BatchNorm2d>,
    /// Other weights that compute the same units. New rows are random at the mean norm.
    pub tied: Vec<Producer>,
    /// Weights that read the units; the first one gets the strategy's fan-out.
    pub readers: Vec<Reader>,
    /// Dense or convolution.
    pub geometry: Geometry,
    /// Whether it may grow at all.
    pub growable: bool,
    /// Width that growth never exceeds.
    pub max_width: i64,
}

/// Units to append, before they are a plan.
#[derive(Debug)]
pub struct NewUnits {
    /// `[k, inputs]`, kernels flattened.
    pub fan_in: Tensor,
    /// `[k]`; `None` for zeros.
    pub bias: Option<Tensor>,
    /// Columns of the first reader, `[outputs, k * block, ..]` (for a tied reader: its old outputs);
    /// `None` for zeros, which preserves the function.
    pub fan_out: Option<Tensor>,
}

impl NewUnits {
    /// Units with this fan-in `[k, inputs]`, zero bias and zero fan-out.
    pub fn silent(fan_in: Tensor) -> Self {
        Self { fan_in, bias: None, fan_out: None }
    }

    /// How many.
    pub fn len(&self) -> i64 {
        self.fan_in.size().first().copied().unwrap_or(0)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl HiddenLayer {
    /// A dense layer between two linear maps.
    pub fn dense(
        name: impl Into<String>,
        weight: &Param,
        bias: Option<&Param>,
        next: &Param,
        max_width: i64,
    ) -> Self {
        Self {
            name: name.into(),
            weight: weight.clone(),
            bias: bias.cloned(),
            norms: Vec::new(),
            tied: Vec::new(),
            readers: vec![Reader { weight: next.clone(), block: 1 }],
            geometry: Geometry::Dense,
            growable: true,
            max_width,
        }
    }

    /// Units now.
    pub fn width(&self) -> i64 {
        self.weight.size().first().copied().unwrap_or(0)
    }

    /// Scalars that one more unit adds, normalisations not counted (as the paper counts).
    pub fn params_per_unit(&self) -> i64 {
        let rest = |size: Vec<i64>, axis: usize| {
            size.iter().enumerate().filter(|(k, _)| *k != axis).map(|(_, n)| n).product::<i64>()
        };
        let producers = self.producers().map(|(w, b)| rest(w.size(), 0) + i64::from(b.is_some()));
        let readers = self.readers.iter().map(|r| rest(r.weight.size(), 1) * r.block);
        producers.sum::<i64>() + readers.sum::<i64>()
    }

    /// Inputs of one unit, kernel area included.
    pub fn fan_in(&self) -> i64 {
        self.weight.size().iter().skip(1).product()
    }

    fn producers(&self) -> impl Iterator<Item = (&Param, Option<&Param>)> {
        std::iter::once((&self.weight, self.bias.as_ref()))
            .chain(self.tied.iter().map(|p| (&p.weight, p.bias.as_ref())))
    }

    /// Checks that all parameters meet at one number of units.
    ///
    /// # Errors
    /// [`Error::Layer`] naming the parameter that does not fit: a grouped convolution among them,
    /// whose reader does not see all units.
    pub fn check(&self) -> Result<()> {
        let width = self.width();
        let misfit = |why: String| Err(Error::Layer { layer: self.name.clone(), why });
        for (weight, bias) in self.producers() {
            let size = weight.size();
            if size.len() < 2 || size[0] != width {
                return misfit(format!("`{}` {size:?} must compute {width} units", weight.name()));
            }
            if let Some(bias) = bias
                && bias.size() != [width]
            {
                return misfit(format!(
                    "`{}` must be [{width}], got {:?}",
                    bias.name(),
                    bias.size()
                ));
            }
        }
        for norm in &self.norms {
            if norm.weight.size() != [width] {
                let name = norm.weight.name();
                return misfit(format!("`{name}` must be [{width}], got {:?}", norm.weight.size()));
            }
        }
        if self.readers.is_empty() {
            return misfit("no weight reads its units".to_owned());
        }
        for reader in &self.readers {
            let size = reader.weight.size();
            if size.len() < 2 || size[1] != width * reader.block {
                return misfit(format!(
                    "`{}` {size:?} must read {width} units of {} columns each on axis 1 (a grouped \
                     convolution does not, and cannot grow)",
                    reader.weight.name(),
                    reader.block
                ));
            }
        }
        Ok(())
    }

    /// The plan that appends `units`. Tied producers get random rows at their mean norm, and every
    /// reader but the first gets zeros.
    ///
    /// # Errors
    /// [`Error::Shape`] when the new vectors do not fit the layer, [`Error::Core`] with
    /// [`NonFinite`](tensor_core::Error::NonFinite) or `Argument` when one is not finite, those of
    /// [`check`](Self::check).
    pub fn append(
        &self,
        units: &NewUnits,
        rng: &mut impl Rng,
        reason: impl Into<String>,
    ) -> Result<ResizePlan> {
        const OP: &str = "HiddenLayer::append";
        self.check()?;
        let (k, fan_in) = (units.len(), self.fan_in());
        if units.fan_in.size() != [k, fan_in] {
            return Err(Error::shape(OP, "fan_in", format!("[k, {fan_in}]"), &units.fan_in));
        }
        let values = |x: &Tensor, size: &[i64]| -> Result<Fill> {
            Ok(Fill::Given(Values::from_tensor(&x.to_kind(Kind::Double).reshape(size))?))
        };
        let append = |n: i64, fill: Fill| AxisPlan::Append { n, fill };
        let mut plan = ResizePlan::new(reason);
        for (at, (weight, bias)) in self.producers().enumerate() {
            let mut size = weight.size();
            size[0] = k;
            let rows = if at == 0 {
                units.fan_in.shallow_clone()
            } else {
                let inputs: i64 = size[1..].iter().product();
                let draws = glorot(k, inputs, self.width(), rng).to_device(weight.value().device());
                rescaled(&draws, mean_row_norm(&weight.value())?)
            };
            plan = plan.with(Edit::axis(weight.id(), 0, append(k, values(&rows, &size)?)));
            if let Some(bias) = bias {
                let fill = match (&units.bias, at) {
                    (Some(b), 0) => {
                        if b.size() != [k] {
                            return Err(Error::shape(OP, "bias", format!("[k = {k}]"), b));
                        }
                        values(b, &[k])?
                    }
                    _ => Fill::Zeros,
                };
                plan = plan.with(Edit::axis(bias.id(), 0, append(k, fill)));
            }
        }
        for norm in &self.norms {
            for (param, fill) in [
                (&norm.weight, Fill::Const(1.0)),
                (&norm.bias, Fill::Zeros),
                (&norm.running_mean, Fill::Zeros),
                (&norm.running_var, Fill::Const(1.0)),
            ] {
                plan = plan.with(Edit::axis(param.id(), 0, append(k, fill)));
            }
        }
        for (at, reader) in self.readers.iter().enumerate() {
            let fill = self.fan_out_fill(at, units, rng)?;
            plan = plan.with(Edit::axis(reader.weight.id(), 1, append(k * reader.block, fill)));
        }
        Ok(plan)
    }

    /// Columns of reader `at` for the new units. Where the reader is itself a producer of the same
    /// units, its axis 0 has grown already: old outputs get the fan-out (zero by default), new
    /// outputs, which nobody hears yet, random columns at the scale of their rows.
    fn fan_out_fill(&self, at: usize, units: &NewUnits, rng: &mut impl Rng) -> Result<Fill> {
        const OP: &str = "HiddenLayer::append";
        let reader = &self.readers[at];
        let mut size = reader.weight.size();
        let outputs = size[0];
        size[1] = units.len() * reader.block;
        let old = match (&units.fan_out, at) {
            (Some(given), 0) => {
                if given.numel() as i64 != size.iter().product::<i64>()
                    || given.size()[0] != outputs
                {
                    return Err(Error::shape(OP, "fan_out", format!("{size:?}"), given));
                }
                Some(given.to_kind(Kind::Double).reshape(size.as_slice()))
            }
            _ => None,
        };
        let tied = self.producers().any(|(w, _)| w.id() == reader.weight.id());
        if !tied {
            return match old {
                None => Ok(Fill::Zeros),
                Some(old) => Ok(Fill::Given(Values::from_tensor(&old)?)),
            };
        }
        let device = reader.weight.value().device();
        let old = old.unwrap_or_else(|| Tensor::zeros(size.as_slice(), (Kind::Double, device)));
        let columns: i64 = size[1..].iter().product();
        let inputs: i64 = reader.weight.size()[1..].iter().product();
        let scale = (columns as f64 / inputs as f64).sqrt();
        let rows = rescaled(
            &glorot(units.len(), columns, outputs, rng).to_device(device),
            scale * mean_row_norm(&reader.weight.value())?,
        );
        size[0] = units.len();
        let slab = Tensor::cat(&[old, rows.reshape(size.as_slice())], 0);
        Ok(Fill::Given(Values::from_tensor(&slab)?))
    }

    /// The plan that keeps the units of `index`, in that order: prunes or permutes. Whole blocks of
    /// columns go with a flattened unit.
    ///
    /// # Errors
    /// Those of [`check`](Self::check); [`Error::Argument`] when `index` is empty or names a unit
    /// twice or one that is not there.
    pub fn keep(&self, index: &[i64], reason: impl Into<String>) -> Result<ResizePlan> {
        self.check()?;
        let width = self.width();
        let mut seen = std::collections::BTreeSet::new();
        if index.is_empty() || index.iter().any(|i| !(0..width).contains(i) || !seen.insert(*i)) {
            return Err(Error::Argument {
                op: "HiddenLayer::keep",
                arg: "index",
                expected: format!("at least one unit, each in 0..{width} and named once"),
                got: format!("{index:?}"),
            });
        }
        Ok(self.reindex(index, None, reason))
    }

    /// The plan that copies units: new unit `j` copies old unit `source[j]`, and readers see it with
    /// factor `shares[j]`. The function is kept when the shares of each source sum to 1, which
    /// applying the plan checks. Norms are copied along.
    ///
    /// # Errors
    /// Those of [`check`](Self::check).
    pub fn duplicate(
        &self,
        source: &[i64],
        shares: &[f64],
        reason: impl Into<String>,
    ) -> Result<ResizePlan> {
        self.check()?;
        Ok(self.reindex(source, Some(shares), reason))
    }

    fn reindex(
        &self,
        index: &[i64],
        shares: Option<&[f64]>,
        reason: impl Into<String>,
    ) -> ResizePlan {
        let blocks = |block: i64| -> Vec<i64> {
            index.iter().flat_map(|i| (0..block).map(move |j| i * block + j)).collect()
        };
        let produce = || match shares {
            None => AxisPlan::Select(index.to_vec()),
            Some(_) => AxisPlan::Duplicate { source: index.to_vec(), share: Share::Copy },
        };
        let mut plan = ResizePlan::new(reason);
        for (weight, bias) in self.producers() {
            plan = plan.with(Edit::axis(weight.id(), 0, produce()));
            if let Some(bias) = bias {
                plan = plan.with(Edit::axis(bias.id(), 0, produce()));
            }
        }
        for norm in &self.norms {
            for param in [&norm.weight, &norm.bias, &norm.running_mean, &norm.running_var] {
                plan = plan.with(Edit::axis(param.id(), 0, produce()));
            }
        }
        for reader in &self.readers {
            let axis = match shares {
                None => AxisPlan::Select(blocks(reader.block)),
                Some(shares) => AxisPlan::Duplicate {
                    source: blocks(reader.block),
                    share: Share::Weighted(
                        shares
                            .iter()
                            .flat_map(|s| std::iter::repeat_n(*s, reader.block as usize))
                            .collect(),
                    ),
                },
            };
            plan = plan.with(Edit::axis(reader.weight.id(), 1, axis));
        }
        plan
    }
}
