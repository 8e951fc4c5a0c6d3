//! Two-dimensional convolution and batch normalisation.

use super::{Mode, same_kind};
use crate::{
    Checked, Compute, Error, Init, Param, ParamPath, Result, Role, Validate, check_shape,
    config::{finite_in, in_range},
    error::TorchContext,
};
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

/// Order of an image batch in memory. Sizes are `[batch, channels, height, width]` in either.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Channels last on the CPU, where it is faster; elsewhere the order of the input.
    #[default]
    Auto,
    /// Channels last on every device.
    ChannelsLast,
    /// The order of the input.
    Input,
}

impl Layout {
    fn apply(self, x: &Tensor) -> Tensor {
        let last = match self {
            Self::Auto => x.device() == Device::Cpu,
            Self::ChannelsLast => true,
            Self::Input => false,
        };
        // Seen as [b, h, w, c] the wanted order is contiguous; no copy when it is there already.
        if last {
            x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
        } else {
            x.shallow_clone()
        }
    }
}

/// Sizes and form of a [`Conv2d`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Conv2dConfig {
    /// Channels of the input.
    pub in_channels: i64,
    /// Channels of the output.
    pub out_channels: i64,
    /// Height and width of the kernel.
    pub kernel: [i64; 2],
    /// Step between outputs.
    pub stride: [i64; 2],
    /// Rows and columns of zeros added on each side.
    pub padding: [i64; 2],
    /// Distance between the kernel's taps.
    pub dilation: [i64; 2],
    /// Number of groups of channels that do not see each other.
    pub groups: i64,
    /// Whether a bias is added.
    pub bias: bool,
    /// Order in memory.
    pub layout: Layout,
    /// Precision of the products.
    pub compute: Compute,
}

impl Default for Conv2dConfig {
    fn default() -> Self {
        Self {
            in_channels: 1,
            out_channels: 1,
            kernel: [3, 3],
            stride: [1, 1],
            padding: [0, 0],
            dilation: [1, 1],
            groups: 1,
            bias: true,
            layout: Layout::default(),
            compute: Compute::default(),
        }
    }
}

impl Conv2dConfig {
    /// A square odd kernel with padding that keeps the image's size.
    pub fn same(in_channels: i64, out_channels: i64, kernel: i64) -> Self {
        let (kernel, padding) = ([kernel; 2], [kernel / 2; 2]);
        Self { in_channels, out_channels, kernel, padding, ..Self::default() }
    }

    /// One square odd kernel for each channel, with padding that keeps the image's size.
    pub fn depthwise(channels: i64, kernel: i64) -> Self {
        Self { groups: channels, ..Self::same(channels, channels, kernel) }
    }
}

impl Validate for Conv2dConfig {
    type Error = Error;

    fn check(&self) -> Result<()> {
        in_range("in_channels", self.in_channels, 1..=1 << 20)?;
        in_range("out_channels", self.out_channels, 1..=1 << 20)?;
        for (field, pair, least) in [
            ("kernel", self.kernel, 1),
            ("stride", self.stride, 1),
            ("padding", self.padding, 0),
            ("dilation", self.dilation, 1),
        ] {
            pair.iter().try_for_each(|n| in_range(field, *n, least..=1 << 12))?;
        }
        in_range("groups", self.groups, 1..=self.in_channels)?;
        if self.in_channels % self.groups != 0 || self.out_channels % self.groups != 0 {
            let why = format!(
                "must divide in_channels = {} and out_channels = {}, got {}",
                self.in_channels, self.out_channels, self.groups
            );
            return Err(Error::Config { field: "groups", why });
        }
        Ok(())
    }
}

/// Cross-correlation of images with learned kernels.
///
/// Parameters: `weight` `[out_channels, in_channels / groups, kernel_h, kernel_w]` and `bias`
/// `[out_channels]`; `PyTorch`'s initial values, uniform on `[-1/sqrt(fan_in), 1/sqrt(fan_in)]` with
/// `fan_in = in_channels / groups * kernel_h * kernel_w`.
///
/// ```
/// use tensor_core::{Device, Kind, ParamStore, SeedTree, Tensor, Validate};
/// use tensor_core::nn::{Conv2d, Conv2dConfig};
/// let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(1));
/// let conv = Conv2d::new(&mut store.root(), &Conv2dConfig::same(3, 8, 5).validate()?)?;
/// let y = conv.forward(&Tensor::zeros([2, 3, 28, 28], (Kind::Float, Device::Cpu)))?;
/// assert_eq!(y.size(), [2, 8, 28, 28]);
/// # Ok::<(), tensor_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Conv2d {
    /// `[out_channels, in_channels / groups, kernel_h, kernel_w]`.
    pub weight: Param,
    /// `[out_channels]`.
    pub bias: Option<Param>,
    config: Checked<Conv2dConfig>,
}

impl Conv2d {
    /// A layer with `PyTorch`'s initial values.
    ///
    /// # Errors
    /// Those of [`ParamPath::param`].
    pub fn new(path: &mut ParamPath<'_>, config: &Checked<Conv2dConfig>) -> Result<Self> {
        let ([height, width], per_group) = (config.kernel, config.in_channels / config.groups);
        let init = Init::FanIn { fan_in: per_group * height * width };
        let size = [config.out_channels, per_group, height, width];
        let weight = path.param("weight", &size, Role::Weight, &init)?;
        let bias = config
            .bias
            .then(|| path.param("bias", &[config.out_channels], Role::Bias, &init))
            .transpose()?;
        Ok(Self { weight, bias, config: config.clone() })
    }

    /// Filters `x: [batch, in_channels, height, width]`.
    ///
    /// Returns `[batch, out_channels, height', width']` with
    /// `height' = (height + 2 padding - dilation (kernel - 1) - 1) / stride + 1`, rounded down.
    ///
    /// # Errors
    /// [`Error::Shape`] when the channels disagree or the padded image is smaller than the kernel,
    /// [`Error::Kind`] when the element types differ.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        const OP: &str = "Conv2d::forward";
        let weight = self.weight.value();
        let c = &self.config;
        // Depthwise layers that grew have as many groups as they have channels now.
        let depthwise = c.groups == c.in_channels && c.groups > 1;
        let groups =
            if depthwise { weight.size()[0] * c.in_channels / c.out_channels } else { c.groups };
        let in_channels = weight.size()[1] * groups;
        check_shape!(OP, x, [?_batch, in_channels, ?height, ?width]);
        same_kind(OP, "x", x, weight.kind())?;
        for (i, length) in [height, width].into_iter().enumerate() {
            let least = c.dilation[i] * (c.kernel[i] - 1) + 1 - 2 * c.padding[i];
            if length < least.max(1) {
                let name = ["height", "width"][i];
                let expected = format!("an image of {name} >= {}", least.max(1));
                return Err(Error::Shape { op: OP, arg: "x".to_owned(), expected, got: x.size() });
            }
        }
        let operand = |t: &Tensor| c.compute.operand(t);
        let y = c
            .layout
            .apply(&operand(x))
            .f_conv2d(
                &operand(&weight),
                self.bias.as_ref().map(|bias| operand(&bias.value())),
                c.stride,
                c.padding,
                c.dilation,
                groups,
            )
            .op(OP)?;
        Ok(c.compute.result(y, weight.kind()))
    }
}

/// Mean and variance of each channel, averaged over the batches seen: the state of a
/// [`BatchNorm2d`]. It goes into a training pass and the next one comes out.
#[derive(Debug)]
pub struct RunningStats {
    /// `[channels]`.
    pub mean: Tensor,
    /// `[channels]`, unbiased.
    pub var: Tensor,
}

/// `y = (x - mean) / sqrt(var + eps) * w + b` for each channel.
///
/// In [`Mode::Train`] mean and (biased) variance are those of the batch and move the running ones:
/// `running += momentum * (batch - running)`, with the unbiased variance, as in `PyTorch`. In
/// [`Mode::Eval`] they are the running ones. A forward pass never writes the parameters: the new
/// statistics are a result, and [`commit`](Self::commit) stores them.
///
/// Parameters: `weight` (ones), `bias` (zeros), and the buffers `running_mean` (zeros) and
/// `running_var` (ones), each `[channels]`.
///
/// ```
/// use tensor_core::{Device, Kind, ParamStore, SeedTree, Tensor, nn::{BatchNorm2d, Mode}};
/// let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(1));
/// let norm = BatchNorm2d::new(&mut store.root(), 3)?;
/// let x = Tensor::ones([2, 3, 4, 4], (Kind::Float, Device::Cpu));
/// let (_, stats) = norm.forward(&x, &norm.stats(), Mode::Train)?;
/// norm.commit(&stats)?;
/// assert!((store.get("running_mean")?.value().double_value(&[0]) - 0.1).abs() < 1e-6);
/// # Ok::<(), tensor_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BatchNorm2d {
    /// `w: [channels]`.
    pub weight: Param,
    /// `b: [channels]`.
    pub bias: Param,
    /// Buffer, `[channels]`.
    pub running_mean: Param,
    /// Buffer, `[channels]`.
    pub running_var: Param,
    momentum: f64,
    eps: f64,
}

impl BatchNorm2d {
    /// A norm with `PyTorch`'s defaults: momentum 0.1, `eps` 1e-5.
    ///
    /// # Errors
    /// Those of [`ParamPath::param`].
    pub fn new(path: &mut ParamPath<'_>, channels: i64) -> Result<Self> {
        Self::with(path, channels, 0.1, 1e-5)
    }

    /// A norm with given weight of a new batch in the running statistics, and given `eps`.
    ///
    /// # Errors
    /// [`Error::Config`] when `momentum` is not in `0..=1` or `eps` not in `0..=1`; those of
    /// [`ParamPath::param`].
    pub fn with(path: &mut ParamPath<'_>, channels: i64, momentum: f64, eps: f64) -> Result<Self> {
        finite_in("momentum", momentum, 0.0..=1.0)?;
        finite_in("eps", eps, 0.0..=1.0)?;
        let mut make = |name, role, init: &Init| path.param(name, &[channels], role, init);
        Ok(Self {
            weight: make("weight", Role::Norm, &Init::Ones)?,
            bias: make("bias", Role::Norm, &Init::Zeros)?,
            running_mean: make("running_mean", Role::Buffer, &Init::Zeros)?,
            running_var: make("running_var", Role::Buffer, &Init::Ones)?,
            momentum,
            eps,
        })
    }

    /// The statistics that are stored in the buffers.
    pub fn stats(&self) -> RunningStats {
        RunningStats { mean: self.running_mean.value(), var: self.running_var.value() }
    }

    /// Stores statistics in the buffers.
    ///
    /// # Errors
    /// [`Error::Shape`] when the sizes differ.
    pub fn commit(&self, stats: &RunningStats) -> Result<()> {
        self.running_mean.copy_from(&stats.mean)?;
        self.running_var.copy_from(&stats.var)
    }

    /// Normalises `x: [batch, channels, height, width]`; the result has its sizes and order in
    /// memory. Returns the statistics too: moved by this batch in training, else as they came.
    ///
    /// # Errors
    /// [`Error::Shape`] when sizes disagree, or in training when a channel has fewer than two
    /// values; [`Error::Kind`] when the element types differ.
    pub fn forward(
        &self,
        x: &Tensor,
        stats: &RunningStats,
        mode: Mode,
    ) -> Result<(Tensor, RunningStats)> {
        const OP: &str = "BatchNorm2d::forward";
        let (weight, bias) = (self.weight.value(), self.bias.value());
        let channels = weight.size()[0];
        check_shape!(OP, x, [?batch, channels, ?height, ?width]);
        let RunningStats { mean, var } = stats;
        check_shape!(OP, mean, [channels]);
        check_shape!(OP, var, [channels]);
        check_shape!(OP, bias, [channels]);
        for (arg, t) in [("x", x), ("mean", mean), ("var", var)] {
            same_kind(OP, arg, t, weight.kind())?;
        }
        let train = mode == Mode::Train;
        if train && batch * height * width < 2 {
            let expected = "at least two values a channel in training".to_owned();
            return Err(Error::Shape { op: OP, arg: "x".to_owned(), expected, got: x.size() });
        }
        // libtorch moves the statistics in place, so it gets copies of its own.
        let own = |t: &Tensor| if train { t.detach().copy() } else { t.shallow_clone() };
        let next = RunningStats { mean: own(mean), var: own(var) };
        let y = x.batch_norm(
            Some(&weight),
            Some(&bias),
            Some(&next.mean),
            Some(&next.var),
            train,
            self.momentum,
            self.eps,
            true,
        );
        Ok((y, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, ParamStore, SeedTree};

    #[test]
    fn a_filter_and_its_borders_by_hand() {
        let mut store = ParamStore::new(Device::Cpu, Kind::Double, SeedTree::new(0));
        let config = Conv2dConfig { bias: false, ..Conv2dConfig::same(1, 1, 3) };
        let conv = Conv2d::new(&mut store.root(), &config.validate().unwrap()).unwrap();
        conv.weight.copy_from(&Tensor::ones([1, 1, 3, 3], (Kind::Double, Device::Cpu))).unwrap();
        let x = Tensor::arange(4, (Kind::Double, Device::Cpu)).reshape([1, 1, 2, 2]);
        let y = conv.forward(&x).unwrap();
        assert_eq!(y, Tensor::full([1, 1, 2, 2], 6.0, (Kind::Double, Device::Cpu)));
        assert!(conv.forward(&x.narrow(2, 0, 0)).is_err());
        assert!(conv.forward(&x.repeat([1, 2, 1, 1])).is_err());
        assert!(conv.forward(&x.to_kind(Kind::Float)).is_err());
    }

    #[test]
    fn bad_configs_name_the_field() {
        for (field, config) in [
            ("in_channels", Conv2dConfig::same(0, 1, 3)),
            ("out_channels", Conv2dConfig::same(1, i64::MAX, 3)),
            ("kernel", Conv2dConfig::same(1, 1, 0)),
            ("stride", Conv2dConfig { stride: [1, 0], ..Default::default() }),
            ("padding", Conv2dConfig { padding: [-1, 0], ..Default::default() }),
            ("groups", Conv2dConfig { groups: 2, ..Conv2dConfig::same(4, 3, 3) }),
        ] {
            let message = config.validate().unwrap_err().to_string();
            assert!(message.starts_with(&format!("config field `{field}`")), "{message}");
        }
    }

    #[test]
    fn one_value_a_channel_cannot_be_normalised_in_training() {
        let mut store = ParamStore::new(Device::Cpu, Kind::Float, SeedTree::new(0));
        let norm = BatchNorm2d::new(&mut store.root(), 2).unwrap();
        let x = Tensor::ones([1, 2, 1, 1], (Kind::Float, Device::Cpu));
        assert!(norm.forward(&x, &norm.stats(), Mode::Train).is_err());
        assert!(norm.forward(&x, &norm.stats(), Mode::Eval).is_ok());
        assert!(BatchNorm2d::with(&mut store.root().sub("b"), 2, 1.5, 1e-5).is_err());
    }
}
