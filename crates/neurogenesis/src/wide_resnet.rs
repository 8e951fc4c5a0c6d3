//! Wide residual networks with widths tied by their skips (section 6).
//!
//! Pre-activation blocks, `conv(relu(norm(conv(relu(norm(x)))))) + skip`. All channels of a group are
//! one set of units: both convolutions of every block, the skip projection and the norms grow
//! together, driven by the group's first convolution. There are four sets: the channels of the first
//! convolution and those of the three groups.

use crate::layer::{Geometry, HiddenLayer, Producer, Reader};
use crate::network::{Growable, Output, Pass, relu, site};
use crate::stack::glorot_init;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use tensor_core::config::in_range;
use tensor_core::error::TorchContext;
use tensor_core::nn::{BatchNorm2d, Mode, RunningStats};
use tensor_core::tap::{Site, Tap, pass};
use tensor_core::{Checked, Init, Param, ParamPath, Role, Tensor, Validate};

/// Sizes of a [`WideResNet`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WideResNetConfig {
    /// Channels of the images.
    pub channels: i64,
    /// Classes.
    pub outputs: i64,
    /// Layers in all: 4 plus a multiple of 6.
    pub depth: i64,
    /// Widths at the start: of the first convolution and of the three groups.
    pub widths: [i64; 4],
    /// Their caps.
    pub max_widths: [i64; 4],
}

impl WideResNetConfig {
    /// WRN-28 with base widths 16, 16, 32, 64, times `ratio` at the start and times `max_ratio` at
    /// most. The paper starts at 0.25 and caps at 6.
    pub fn wrn28(outputs: i64, ratio: f64, max_ratio: f64) -> Self {
        let times = |r: f64| [16, 16, 32, 64].map(|w| ((f64::from(w) * r).round() as i64).max(1));
        Self { channels: 3, outputs, depth: 28, widths: times(ratio), max_widths: times(max_ratio) }
    }
}

impl Default for WideResNetConfig {
    fn default() -> Self {
        Self::wrn28(10, 0.25, 6.0)
    }
}

impl Validate for WideResNetConfig {
    type Error = Error;

    fn check(&self) -> Result<()> {
        in_range("channels", self.channels, 1..=1 << 12)?;
        in_range("outputs", self.outputs, 1..=1 << 20)?;
        in_range("depth", self.depth, 10..=1 << 10)?;
        if (self.depth - 4) % 6 != 0 {
            let why = format!("must be 4 plus a multiple of 6, got {}", self.depth);
            return Err(Error::Config { field: "depth", why });
        }
        for w in self.widths {
            in_range("widths", w, 1..=1 << 14)?;
        }
        for w in self.max_widths {
            in_range("max_widths", w, 1..=1 << 14)?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct ResBlock {
    norm1: BatchNorm2d,
    conv1: Param,
    norm2: BatchNorm2d,
    conv2: Param,
    skip: Option<Param>,
    stride: i64,
}

/// A wide residual network; parameters are named `conv`, `group<g>.block<i>.*`, `norm.*`, `out.*`.
#[derive(Debug)]
pub struct WideResNet {
    channels: i64,
    first: Param,
    groups: Vec<Vec<ResBlock>>,
    norm: BatchNorm2d,
    out: (Param, Param),
    layers: Vec<HiddenLayer>,
}

impl WideResNet {
    /// Builds the network under `path`.
    ///
    /// # Errors
    /// Those of [`ParamPath::param`].
    pub fn new(path: &mut ParamPath<'_>, config: &Checked<WideResNetConfig>) -> Result<Self> {
        let kernel = |path: &mut ParamPath<'_>, name: &str, out: i64, inputs: i64, side: i64| {
            let init = glorot_init(inputs * side * side, out * side * side);
            path.param(name, &[out, inputs, side, side], Role::Weight, &init)
        };
        let first = kernel(path, "conv", config.widths[0], config.channels, 3)?;
        let mut groups: Vec<Vec<ResBlock>> = Vec::new();
        let mut inputs = config.widths[0];
        for (g, width) in config.widths[1..].iter().enumerate() {
            let mut blocks = Vec::new();
            for b in 0..(config.depth - 4) / 6 {
                let mut path = path.sub(format!("group{g}"));
                let mut path = path.sub(format!("block{b}"));
                blocks.push(ResBlock {
                    norm1: BatchNorm2d::new(&mut path.sub("norm1"), inputs)?,
                    conv1: kernel(&mut path, "conv1", *width, inputs, 3)?,
                    norm2: BatchNorm2d::new(&mut path.sub("norm2"), *width)?,
                    conv2: kernel(&mut path, "conv2", *width, *width, 3)?,
                    // Always projected where a group begins: the two widths grow apart.
                    skip: (b == 0)
                        .then(|| kernel(&mut path, "skip", *width, inputs, 1))
                        .transpose()?,
                    stride: if b == 0 && g > 0 { 2 } else { 1 },
                });
                inputs = *width;
            }
            groups.push(blocks);
        }
        let norm = BatchNorm2d::new(&mut path.sub("norm"), inputs)?;
        let mut path = path.sub("out");
        let init = glorot_init(inputs, config.outputs);
        let weight = path.param("weight", &[config.outputs, inputs], Role::Weight, &init)?;
        let bias = path.param("bias", &[config.outputs], Role::Bias, &Init::Zeros)?;
        let layers = tied_layers(&first, &groups, &norm, &weight, config.max_widths);
        Ok(Self { channels: config.channels, first, groups, norm, out: (weight, bias), layers })
    }

    fn norms(&self) -> impl Iterator<Item = &BatchNorm2d> {
        let blocks = self.groups.iter().flatten();
        blocks.flat_map(|b| [&b.norm1, &b.norm2]).chain(std::iter::once(&self.norm))
    }
}

fn tied_layers(
    first: &Param,
    groups: &[Vec<ResBlock>],
    norm: &BatchNorm2d,
    out: &Param,
    caps: [i64; 4],
) -> Vec<HiddenLayer> {
    let reader = |weight: &Param| Reader { weight: weight.clone(), block: 1 };
    // Who reads the residual stream after a group: the next group's first block, or the head.
    let after = |g: usize| -> (Vec<Reader>, BatchNorm2d) {
        match groups.get(g).and_then(|next| next.first()) {
            None => (vec![reader(out)], norm.clone()),
            Some(next) => {
                let readers = std::iter::once(&next.conv1).chain(&next.skip).map(reader);
                (readers.collect(), next.norm1.clone())
            }
        }
    };
    let (readers, norm1) = after(0);
    let side = |stride: i64| [stride, stride];
    let mut layers = vec![HiddenLayer {
        name: "conv".to_owned(),
        weight: first.clone(),
        bias: None,
        norms: vec![norm1],
        tied: Vec::new(),
        readers,
        geometry: Geometry::Conv { stride: [1, 1], padding: [1, 1], next: Some(([1, 1], [1, 1])) },
        growable: true,
        max_width: caps[0],
    }];
    for (g, blocks) in groups.iter().enumerate() {
        let Some(head) = blocks.first() else { continue };
        let producer = |weight: &Param| Producer { weight: weight.clone(), bias: None };
        let mut tied: Vec<Producer> =
            std::iter::once(&head.conv2).chain(&head.skip).map(producer).collect();
        let mut readers = vec![reader(&head.conv2)];
        let mut norms = vec![head.norm2.clone()];
        for block in &blocks[1..] {
            tied.extend([producer(&block.conv1), producer(&block.conv2)]);
            readers.extend([reader(&block.conv1), reader(&block.conv2)]);
            norms.extend([block.norm1.clone(), block.norm2.clone()]);
        }
        let (more, norm1) = after(g + 1);
        readers.extend(more);
        norms.push(norm1);
        layers.push(HiddenLayer {
            name: format!("group{g}"),
            weight: head.conv1.clone(),
            bias: None,
            norms,
            tied,
            readers,
            geometry: Geometry::Conv {
                stride: side(head.stride),
                padding: [1, 1],
                next: Some(([1, 1], [1, 1])),
            },
            growable: true,
            max_width: caps[g + 1],
        });
    }
    layers
}

impl Growable for WideResNet {
    fn layers(&self) -> &[HiddenLayer] {
        &self.layers
    }

    fn forward(&self, x: &Tensor, how: Pass, tap: &mut dyn Tap) -> tensor_core::Result<Output> {
        const OP: &str = "WideResNet::forward";
        let size = x.size();
        if size.len() != 4 || size[1] != self.channels {
            return Err(tensor_core::Error::Shape {
                op: OP,
                arg: "x".to_owned(),
                expected: format!("[batch, {}, height, width]", self.channels),
                got: size,
            });
        }
        let mut stats = Vec::new();
        let mut normed = |norm: &BatchNorm2d, x: &Tensor| -> tensor_core::Result<Tensor> {
            let mode = if how == Pass::Eval { Mode::Eval } else { Mode::Train };
            let (y, moved) = norm.forward(x, &norm.stats(), mode)?;
            if how == Pass::Train {
                stats.push(moved);
            }
            Ok(relu(&y))
        };
        let conv = |x: &Tensor, w: &Param, stride: i64, padding: i64| {
            let (stride, padding) = ([stride, stride], [padding, padding]);
            x.f_conv2d(&w.value(), None::<Tensor>, stride, padding, [1, 1], 1).op(OP)
        };
        let at = |layer, name| Site { layer, name };
        let x = pass(tap, at(0, site::FAN_IN), x.shallow_clone())?;
        let mut x = conv(&x, &self.first, 1, 1)?;
        for (g, blocks) in self.groups.iter().enumerate() {
            for (b, block) in blocks.iter().enumerate() {
                let mut a = normed(&block.norm1, &x)?;
                if b == 0 {
                    if g == 0 {
                        a = pass(tap, at(0, site::UNITS), a)?;
                    }
                    a = pass(tap, at(g + 1, site::FAN_IN), a)?;
                }
                let mut z = conv(&a, &block.conv1, block.stride, 1)?;
                if b == 0 && g == 0 {
                    z = pass(tap, at(0, site::READER), z)?;
                }
                let mut h = normed(&block.norm2, &z)?;
                if b == 0 {
                    h = pass(tap, at(g + 1, site::UNITS), h)?;
                }
                let mut y = conv(&h, &block.conv2, 1, 1)?;
                if b == 0 {
                    y = pass(tap, at(g + 1, site::READER), y)?;
                }
                x = match (&block.skip, how) {
                    (_, Pass::Measure) => y,
                    (Some(skip), _) => y + conv(&a, skip, block.stride, 0)?,
                    (None, _) => y + x,
                };
            }
        }
        let x = normed(&self.norm, &x)?;
        let pooled = x.mean_dim([2_i64, 3].as_slice(), false, x.kind());
        let y = pooled.f_linear(&self.out.0.value(), Some(&self.out.1.value())).op(OP)?;
        Ok(Output { y, stats })
    }

    fn commit(&self, stats: &[RunningStats]) -> tensor_core::Result<()> {
        self.norms().zip(stats).try_for_each(|(norm, stats)| norm.commit(stats))
    }
}
