//! Dense and convolutional stacks from a config: MLPs, VGG-11, one's own.

use crate::layer::{Geometry, HiddenLayer, Reader};
use crate::network::{Growable, Output, Pass, relu, site};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use tensor_core::config::in_range;
use tensor_core::error::TorchContext;
use tensor_core::nn::{BatchNorm2d, Mode, RunningStats};
use tensor_core::tap::{Site, Tap, pass};
use tensor_core::{Checked, Init, Param, ParamPath, Role, Tensor, Validate};

/// One step of a stack.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Block {
    /// A linear map and `ReLU`. Maps that come in are flattened, channel-major.
    Dense {
        /// Units at the start.
        units: i64,
        /// Cap.
        max_units: i64,
    },
    /// A convolution, batch normalisation where asked for, and `ReLU`.
    Conv {
        /// Channels at the start.
        channels: i64,
        /// Cap.
        max_channels: i64,
        /// Height and width of the kernel.
        kernel: [i64; 2],
        /// Step between outputs.
        stride: [i64; 2],
        /// Zeros added on each side.
        padding: [i64; 2],
        /// Whether channels are normalised by the batch.
        batch_norm: bool,
    },
    /// Maximum over windows of `size` by `size`.
    MaxPool {
        /// Side of the window, and the step.
        size: i64,
    },
}

impl Block {
    /// A 3 x 3 convolution that keeps the map's size.
    pub fn conv3(channels: i64, max_channels: i64, batch_norm: bool) -> Self {
        let (kernel, stride, padding) = ([3, 3], [1, 1], [1, 1]);
        Self::Conv { channels, max_channels, kernel, stride, padding, batch_norm }
    }
}

/// A stack: input sizes, hidden blocks, outputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StackConfig {
    /// `[features]` or `[channels, height, width]`.
    pub input: Vec<i64>,
    /// Hidden blocks, from the input.
    pub blocks: Vec<Block>,
    /// Outputs of the last, linear map.
    pub outputs: i64,
}

impl StackConfig {
    /// Dense layers of `units` each, capped at `max_units`.
    pub fn mlp(features: i64, units: &[i64], max_units: i64, outputs: i64) -> Self {
        let blocks = units.iter().map(|u| Block::Dense { units: *u, max_units }).collect();
        Self { input: vec![features], blocks, outputs }
    }

    /// VGG-11 without normalisation for 32 x 32 images (section 6): eight convolutions, two dense
    /// layers of 4,096, widths times `ratio` at the start and times `max_ratio` at most. The paper
    /// starts at 0.25 and caps at 2.
    pub fn vgg11(outputs: i64, ratio: f64, max_ratio: f64) -> Self {
        let times = |width: i64, ratio: f64| ((width as f64 * ratio).round() as i64).max(1);
        let mut blocks = Vec::new();
        for (at, width) in [64, 128, 256, 256, 512, 512, 512, 512].into_iter().enumerate() {
            blocks.push(Block::conv3(times(width, ratio), times(width, max_ratio), false));
            if [1, 2, 4, 6, 8].contains(&(at + 1)) {
                blocks.push(Block::MaxPool { size: 2 });
            }
        }
        for _ in 0..2 {
            let (units, max_units) = (times(4096, ratio), times(4096, max_ratio));
            blocks.push(Block::Dense { units, max_units });
        }
        Self { input: vec![3, 32, 32], blocks, outputs }
    }
}

impl Validate for StackConfig {
    type Error = Error;

    fn check(&self) -> Result<()> {
        let config = |field, why: String| Err(Error::Config { field, why });
        if !matches!(self.input.len(), 1 | 3) {
            let why =
                format!("must be [features] or [channels, height, width], got {:?}", self.input);
            return config("input", why);
        }
        for n in &self.input {
            in_range("input", *n, 1..=1 << 20)?;
        }
        in_range("outputs", self.outputs, 1..=1 << 20)?;
        let mut shape = self.input.clone();
        let mut hidden = 0;
        for (at, block) in self.blocks.iter().enumerate() {
            match block {
                Block::Dense { units, max_units } => {
                    in_range("units", *units, 1..=1 << 20)?;
                    in_range("max_units", *max_units, 1..=1 << 20)?;
                    shape = vec![*units];
                    hidden += 1;
                }
                Block::Conv { channels, max_channels, kernel, stride, padding, .. } => {
                    in_range("channels", *channels, 1..=1 << 16)?;
                    in_range("max_channels", *max_channels, 1..=1 << 16)?;
                    let [_, height, width] = shape[..] else {
                        return config("blocks", format!("block {at}: a convolution needs maps"));
                    };
                    let mut next = vec![*channels];
                    for (i, side) in [height, width].into_iter().enumerate() {
                        in_range("kernel", kernel[i], 1..=64)?;
                        in_range("stride", stride[i], 1..=64)?;
                        in_range("padding", padding[i], 0..=64)?;
                        let room = side + 2 * padding[i] - kernel[i];
                        if room < 0 {
                            return config(
                                "blocks",
                                format!("block {at}: kernel larger than the map"),
                            );
                        }
                        next.push(room / stride[i] + 1);
                    }
                    shape = next;
                    hidden += 1;
                }
                Block::MaxPool { size } => {
                    in_range("size", *size, 1..=64)?;
                    let [channels, height, width] = shape[..] else {
                        return config("blocks", format!("block {at}: pooling needs maps"));
                    };
                    if height < *size || width < *size || at == 0 {
                        let why = format!(
                            "block {at}: pooling needs a layer before it and a map of {size}"
                        );
                        return config("blocks", why);
                    }
                    shape = vec![channels, height / size, width / size];
                }
            }
        }
        if hidden == 0 {
            return config("blocks", "at least one hidden layer".to_owned());
        }
        Ok(())
    }
}

#[derive(Debug)]
enum Stage {
    Dense,
    Conv { stride: [i64; 2], padding: [i64; 2], norm: Option<BatchNorm2d> },
}

/// Stage of one hidden layer and what follows it.
#[derive(Debug)]
struct Hidden {
    weight: Param,
    bias: Param,
    stage: Stage,
    pool: Vec<i64>,
}

/// A network of [`StackConfig`].
///
/// Weights are Glorot-uniform and biases zero at the start, as in the paper; parameters are named
/// `hidden<l>.weight`, `hidden<l>.bias`, `hidden<l>.norm.*`, `out.weight`, `out.bias`.
#[derive(Debug)]
pub struct Stack {
    input: Vec<i64>,
    hidden: Vec<Hidden>,
    out: (Param, Param),
    layers: Vec<HiddenLayer>,
}

pub(crate) fn glorot_init(fan_in: i64, fan_out: i64) -> Init {
    Init::Uniform { bound: (6.0 / (fan_in + fan_out) as f64).sqrt() }
}

impl Stack {
    /// Builds the network under `path`.
    ///
    /// # Errors
    /// Those of [`ParamPath::param`].
    pub fn new(path: &mut ParamPath<'_>, config: &Checked<StackConfig>) -> Result<Self> {
        let mut shape = config.input.clone();
        let mut hidden: Vec<Hidden> = Vec::new();
        let mut caps = Vec::new();
        // Columns of one unit of the layer before, in the layer that reads it.
        let mut blocks = Vec::new();
        for block in &config.blocks {
            let mut path = path.sub(format!("hidden{}", hidden.len()));
            match block {
                Block::Dense { units, max_units } => {
                    let inputs: i64 = shape.iter().product();
                    blocks.push(inputs / shape[0]);
                    let init = glorot_init(inputs, *units);
                    let weight = path.param("weight", &[*units, inputs], Role::Weight, &init)?;
                    let bias = path.param("bias", &[*units], Role::Bias, &Init::Zeros)?;
                    hidden.push(Hidden { weight, bias, stage: Stage::Dense, pool: Vec::new() });
                    caps.push(*max_units);
                    shape = vec![*units];
                }
                Block::Conv { channels, max_channels, kernel, stride, padding, batch_norm } => {
                    blocks.push(1);
                    let area = kernel[0] * kernel[1];
                    let init = glorot_init(shape[0] * area, channels * area);
                    let size = [*channels, shape[0], kernel[0], kernel[1]];
                    let weight = path.param("weight", &size, Role::Weight, &init)?;
                    let bias = path.param("bias", &[*channels], Role::Bias, &Init::Zeros)?;
                    let norm = batch_norm
                        .then(|| BatchNorm2d::new(&mut path.sub("norm"), *channels))
                        .transpose()?;
                    let stage = Stage::Conv { stride: *stride, padding: *padding, norm };
                    hidden.push(Hidden { weight, bias, stage, pool: Vec::new() });
                    caps.push(*max_channels);
                    let side =
                        |i: usize| (shape[1 + i] + 2 * padding[i] - kernel[i]) / stride[i] + 1;
                    shape = vec![*channels, side(0), side(1)];
                }
                Block::MaxPool { size } => {
                    if let Some(before) = hidden.last_mut() {
                        before.pool.push(*size);
                    }
                    shape = vec![shape[0], shape[1] / size, shape[2] / size];
                }
            }
        }
        let inputs: i64 = shape.iter().product();
        blocks.push(inputs / shape[0]);
        let mut path = path.sub("out");
        let init = glorot_init(inputs, config.outputs);
        let weight = path.param("weight", &[config.outputs, inputs], Role::Weight, &init)?;
        let bias = path.param("bias", &[config.outputs], Role::Bias, &Init::Zeros)?;
        let layers = (0..hidden.len())
            .map(|l| {
                let this = &hidden[l];
                let reader = hidden.get(l + 1).map_or(&weight, |next| &next.weight);
                let (norms, geometry) = match &this.stage {
                    Stage::Dense => (Vec::new(), Geometry::Dense),
                    Stage::Conv { stride, padding, norm } => {
                        let next = match hidden.get(l + 1).map(|next| &next.stage) {
                            Some(Stage::Conv { stride, padding, .. }) if this.pool.is_empty() => {
                                Some((*stride, *padding))
                            }
                            _ => None,
                        };
                        let conv = Geometry::Conv { stride: *stride, padding: *padding, next };
                        (norm.iter().cloned().collect(), conv)
                    }
                };
                HiddenLayer {
                    norms,
                    geometry,
                    readers: vec![Reader { weight: reader.clone(), block: blocks[l + 1] }],
                    ..HiddenLayer::dense(
                        format!("hidden{l}"),
                        &this.weight,
                        Some(&this.bias),
                        reader,
                        caps[l],
                    )
                }
            })
            .collect();
        Ok(Self { input: config.input.clone(), hidden, out: (weight, bias), layers })
    }

    /// Lets hidden layer `layer` grow or not.
    ///
    /// # Errors
    /// [`Error::Argument`] when there is no such layer.
    pub fn set_growable(&mut self, layer: usize, growable: bool) -> Result<()> {
        let n = self.layers.len();
        let layer = self.layers.get_mut(layer).ok_or_else(|| Error::Argument {
            op: "Stack::set_growable",
            arg: "layer",
            expected: format!("in 0..{n}"),
            got: layer.to_string(),
        })?;
        layer.growable = growable;
        Ok(())
    }

    fn norms(&self) -> impl Iterator<Item = &BatchNorm2d> {
        self.hidden.iter().filter_map(|h| match &h.stage {
            Stage::Conv { norm, .. } => norm.as_ref(),
            Stage::Dense => None,
        })
    }
}

impl Growable for Stack {
    fn layers(&self) -> &[HiddenLayer] {
        &self.layers
    }

    fn forward(&self, x: &Tensor, how: Pass, tap: &mut dyn Tap) -> tensor_core::Result<Output> {
        const OP: &str = "Stack::forward";
        let size = x.size();
        if size.len() != self.input.len() + 1 || size[1..] != self.input[..] {
            return Err(tensor_core::Error::Shape {
                op: OP,
                arg: "x".to_owned(),
                expected: format!("[batch, {:?}]", self.input),
                got: size,
            });
        }
        let mut stats = Vec::new();
        let mut x = x.shallow_clone();
        for (l, layer) in self.hidden.iter().enumerate() {
            let at = |name| Site { layer: l, name };
            if matches!(layer.stage, Stage::Dense) && x.dim() > 2 {
                x = x.reshape([x.size()[0], -1]);
            }
            x = pass(tap, at(site::FAN_IN), x)?;
            let (weight, bias) = (layer.weight.value(), layer.bias.value());
            let mut z = match &layer.stage {
                Stage::Dense => x.f_linear(&weight, Some(&bias)).op(OP)?,
                Stage::Conv { stride, padding, .. } => {
                    x.f_conv2d(&weight, Some(&bias), stride, padding, [1, 1], 1).op(OP)?
                }
            };
            if l > 0 {
                z = pass(tap, Site { layer: l - 1, name: site::READER }, z)?;
            }
            if let Stage::Conv { norm: Some(norm), .. } = &layer.stage {
                let mode = if how == Pass::Eval { Mode::Eval } else { Mode::Train };
                let (y, moved) = norm.forward(&z, &norm.stats(), mode)?;
                if how == Pass::Train {
                    stats.push(moved);
                }
                z = y;
            }
            x = pass(tap, at(site::UNITS), relu(&z))?;
            for size in &layer.pool {
                x = x.f_max_pool2d([*size, *size], [*size, *size], [0, 0], [1, 1], false).op(OP)?;
            }
        }
        if x.dim() > 2 {
            x = x.reshape([x.size()[0], -1]);
        }
        let y = x.f_linear(&self.out.0.value(), Some(&self.out.1.value())).op(OP)?;
        let last = self.hidden.len() - 1;
        let y = pass(tap, Site { layer: last, name: site::READER }, y)?;
        Ok(Output { y, stats })
    }

    fn commit(&self, stats: &[RunningStats]) -> tensor_core::Result<()> {
        self.norms().zip(stats).try_for_each(|(norm, stats)| norm.commit(stats))
    }
}
