//! One serde config for every strategy; presets carry the names of the paper.

use crate::init::{
    nest::Sign,
    select::{Order, Score},
    tiny::Thresholds,
    weight::Projection,
};
use crate::metric::{Metric, Scale};
use crate::schedule::Preset;
use crate::trigger::Variant;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use tensor_core::Validate;
use tensor_core::config::{finite_in, in_range};

/// When and where to grow (section 3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// Effective dimension of activations on the buffer against its baseline: `T_act`.
    Activation,
    /// The same of fan-in weights: `T_weight`. Stops by itself near `inputs / (gamma phi0)`.
    Weight,
    /// Singular values of the bridge gradient against the layer's own gradients: `T_grad`.
    Gradient,
    /// A schedule fixed before training.
    Preset(Preset),
    /// So many units in every layer, every so many steps.
    Periodic {
        /// Steps between events.
        every: u64,
        /// Units per event and layer.
        units: i64,
    },
    /// As `Periodic`, one layer after the other.
    RoundRobin {
        /// Steps between events.
        every: u64,
        /// Units per event.
        units: i64,
    },
}

/// What `phi` is held against.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BaselineKind {
    /// `phi0` of the fresh network. For MLPs.
    #[default]
    Initial,
    /// The running maximum. For convolutional networks.
    RunningMax,
    /// 1.
    One,
}

/// How new units start (sections 4, 9, 10).
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// NORTH-Select: the candidates that add most to what the activations span. Keeps the function.
    Select,
    /// NORTH-Pre: pre-activations orthogonal to the current ones. Keeps the function. Convolutions
    /// use `Select`, as in the released code; rows without a free direction are random instead.
    Pre,
    /// NORTH-Random: random fan-in. Keeps the function.
    Random,
    /// NORTH-Weight: random fan-in off the row space of the weights. Keeps the function.
    Weight,
    /// NORTH-Opt: candidates moved by gradient ascent on the nuclear norm. Keeps the function. Dense
    /// layers; convolutions use `Select`.
    Optimised,
    /// Zero fan-in, random fan-out. Keeps the function.
    RandomOut,
    /// Zero fan-in, fan-out along the strongest gradient. Keeps the function. Where a pool, a
    /// flattening or a stride stands between the convolutions, the fan-out is random.
    Gradmax,
    /// Pairs of strong bridge gradients. Changes the function. Dense layers only.
    Nest,
    /// The better of splits and new units by their gradient. Keeps the function up to
    /// `firefly_eps`. Dense layers only.
    Firefly,
    /// Along the expressivity bottleneck, with a line search. Changes the function. Dense only.
    Tiny,
    /// Copies of random units with unequal shares. Keeps the function.
    Net2wider,
    /// Pairs of equal fan-in and opposite fan-out. Keeps the function; comes in twos.
    OpposedPairs,
    /// Splits along the lowest eigenvector of the splitting matrix. Keeps the function up to
    /// `firefly_eps`. Dense layers only.
    Splitting,
}

impl Start {
    /// Whether the network computes the same before and after, by construction.
    pub fn function_preserving(self) -> bool {
        !matches!(self, Self::Nest | Self::Tiny | Self::Firefly | Self::Splitting)
    }

    /// Whether it is defined for convolutions.
    pub fn convolutional(self) -> bool {
        !matches!(self, Self::Nest | Self::Tiny | Self::Firefly | Self::Splitting)
    }
}

/// What the optimiser knows of new units (section 5).
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moments {
    /// Zero moments and the step counter of the rest, as zero padding and the released code: the
    /// first update of a new entry under Adam is about `3.16 lr`.
    #[default]
    SharedStep,
    /// Zero moments and a counter of their own, so that their first update is `lr`.
    OwnStep,
    /// All moments of the touched parameters start afresh.
    Reset,
}

/// Which inputs activations are measured on.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Samples {
    /// The most recent training inputs, twice as many as the largest cap unless said otherwise.
    #[default]
    Fifo,
    /// The current mini-batch, as the paper does on the GPU.
    MiniBatch,
}

/// A whole strategy with its limits. Defaults are NORTH-Select for an MLP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrowthConfig {
    /// When and where.
    pub trigger: Trigger,
    /// How.
    pub init: Start,
    /// Which published form of the trigger.
    pub variant: Variant,
    /// Share of the baseline that a layer must keep: 0.97 for activations of MLPs, 0.9 of
    /// convolutional networks, 0.99 for weights.
    pub gamma: f64,
    /// Threshold on singular values.
    pub eps: f64,
    /// What is counted.
    pub metric: Metric,
    /// What the activation matrix is divided by.
    pub scale: Scale,
    /// What the count is held against.
    pub baseline: BaselineKind,
    /// At most so many random rows per unit enter the activation metric; `None` for all.
    pub limit_ratio: Option<f64>,
    /// Candidates of Select, Pre and Firefly beyond the number to add, for dense layers.
    pub tries: i64,
    /// The same for convolutions.
    pub conv_tries: i64,
    /// What ranks candidates.
    pub score: Score,
    /// Which end of the ranking is kept.
    pub order: Order,
    /// What NORTH-Weight projects off.
    pub projection: Projection,
    /// Scale of new fan-out norms to the mean of existing ones, for initialisations that have one.
    pub fan_out_scale: f64,
    /// `NeST`: quantile of `|A|` above which a pair counts.
    pub nest_beta: f64,
    /// `NeST`: whether the sign of the bridge counts.
    pub nest_sign: Sign,
    /// Relative size of the noise that separates split units.
    pub firefly_eps: f64,
    /// TINY: which directions count.
    pub tiny: Thresholds,
    /// Where activations are measured.
    pub samples: Samples,
    /// Size of the buffer; `None` for twice the largest cap.
    pub buffer_len: Option<i64>,
    /// Units that one event may add to one layer.
    pub max_per_event: i64,
    /// Weights and biases that growth may lead to in all; `None` for no budget.
    pub max_params: Option<i64>,
    /// So many hidden layers, from the input, never grow.
    pub freeze_first: usize,
    /// So many hidden layers, from the output, never grow.
    pub freeze_last: usize,
    /// The trigger is asked every so many steps; 1 in the paper.
    pub every: u64,
    /// Width at which preset schedules end; `None` for the cap.
    pub final_width: Option<i64>,
    /// Share of training at which preset schedules end.
    pub end_fraction: f64,
    /// What the optimiser knows of new units.
    pub moments: Moments,
    /// Rows of the buffer on which the change of the function is measured at each event; 0 to leave
    /// it unmeasured.
    pub probe_rows: i64,
}

impl Default for GrowthConfig {
    fn default() -> Self {
        Self {
            trigger: Trigger::Activation,
            init: Start::Select,
            variant: Variant::default(),
            gamma: 0.97,
            eps: 0.01,
            metric: Metric::default(),
            scale: Scale::default(),
            baseline: BaselineKind::default(),
            limit_ratio: None,
            tries: 1000,
            conv_tries: 100,
            score: Score::default(),
            order: Order::default(),
            projection: Projection::default(),
            fan_out_scale: 1.0,
            nest_beta: 0.4,
            nest_sign: Sign::default(),
            firefly_eps: 1e-4,
            tiny: Thresholds::default(),
            samples: Samples::default(),
            buffer_len: None,
            max_per_event: 1 << 20,
            max_params: None,
            freeze_first: 0,
            freeze_last: 0,
            every: 1,
            final_width: None,
            end_fraction: 0.75,
            moments: Moments::default(),
            probe_rows: 256,
        }
    }
}

/// Names that [`GrowthConfig::named`] knows.
pub const NAMES: [&str; 19] = [
    "north-select",
    "north-select-released",
    "north-select-residual",
    "north-pre",
    "north-random",
    "north-weight",
    "north-weight-unprojected",
    "north-weight-sequential",
    "north-opt",
    "gradmax",
    "nest",
    "firefly",
    "tiny",
    "splitting",
    "random-out",
    "net2wider",
    "opposed-pairs",
    "random-schedule",
    "static",
];

impl GrowthConfig {
    /// A strategy by name: one of [`NAMES`], with the paper's settings for MLPs. The gradient trigger
    /// drives `gradmax`, `nest`, `firefly`, `tiny` and `splitting`.
    ///
    /// # Errors
    /// [`Error::Argument`] listing the names.
    pub fn named(name: &str) -> Result<Self> {
        let act = |init| Self { init, ..Self::default() };
        let gradient = |init| Self { trigger: Trigger::Gradient, init, ..Self::default() };
        let weight = |projection| Self {
            trigger: Trigger::Weight,
            init: Start::Weight,
            gamma: 0.99,
            projection,
            ..Self::default()
        };
        Ok(match name {
            "north-select" => act(Start::Select),
            "north-select-released" => Self { order: Order::ReleasedDense, ..act(Start::Select) },
            "north-select-residual" => Self { score: Score::Residual, ..act(Start::Select) },
            "north-pre" => act(Start::Pre),
            "north-random" => act(Start::Random),
            "north-opt" => act(Start::Optimised),
            "north-weight" => weight(Projection::Existing),
            "north-weight-unprojected" => weight(Projection::Off),
            "north-weight-sequential" => weight(Projection::Sequential),
            "gradmax" => gradient(Start::Gradmax),
            "nest" => gradient(Start::Nest),
            "firefly" => gradient(Start::Firefly),
            "tiny" => gradient(Start::Tiny),
            "splitting" => gradient(Start::Splitting),
            "random-out" => gradient(Start::RandomOut),
            "net2wider" => act(Start::Net2wider),
            "opposed-pairs" => act(Start::OpposedPairs),
            "random-schedule" => {
                Self { trigger: Trigger::Preset(Preset::Random), ..act(Start::Random) }
            }
            "static" => Self { trigger: Trigger::Preset(Preset::Static), ..act(Start::Random) },
            other => {
                return Err(Error::Argument {
                    op: "GrowthConfig::named",
                    arg: "name",
                    expected: format!("one of {}", NAMES.join(", ")),
                    got: other.to_owned(),
                });
            }
        })
    }

    /// The same strategy for a convolutional network: running-maximum baseline, `gamma` 0.9 for
    /// activations, statistics on the mini-batch (sections 3.2 and 7).
    #[must_use]
    pub fn for_convolutions(self) -> Self {
        let gamma = if self.trigger == Trigger::Activation { 0.9 } else { self.gamma };
        Self { gamma, baseline: BaselineKind::RunningMax, samples: Samples::MiniBatch, ..self }
    }
}

impl Validate for GrowthConfig {
    type Error = Error;

    fn check(&self) -> Result<()> {
        finite_in("gamma", self.gamma, 0.0..=10.0)?;
        finite_in("eps", self.eps, f64::MIN_POSITIVE..=1e6)?;
        finite_in("limit_ratio", self.limit_ratio.unwrap_or(1.0), 1.0..=1e6)?;
        in_range("tries", self.tries, 0..=1 << 20)?;
        in_range("conv_tries", self.conv_tries, 0..=1 << 20)?;
        finite_in("fan_out_scale", self.fan_out_scale, f64::MIN_POSITIVE..=1e6)?;
        finite_in("nest_beta", self.nest_beta, 0.0..=1.0)?;
        finite_in("firefly_eps", self.firefly_eps, f64::MIN_POSITIVE..=1.0)?;
        finite_in("tiny.numerical", self.tiny.numerical, 0.0..=1e6)?;
        finite_in("tiny.statistical", self.tiny.statistical, 0.0..=1e6)?;
        in_range("buffer_len", self.buffer_len.unwrap_or(1), 1..=1 << 24)?;
        in_range("max_per_event", self.max_per_event, 1..=1 << 20)?;
        in_range("max_params", self.max_params.unwrap_or(1), 1..=i64::MAX)?;
        in_range("every", self.every.try_into().unwrap_or(i64::MAX), 1..=1 << 40)?;
        in_range("final_width", self.final_width.unwrap_or(1), 1..=1 << 20)?;
        finite_in("end_fraction", self.end_fraction, 1e-6..=1.0)?;
        in_range("probe_rows", self.probe_rows, 0..=1 << 24)?;
        if let Trigger::Periodic { every, units } | Trigger::RoundRobin { every, units } =
            &self.trigger
        {
            in_range("trigger.every", (*every).try_into().unwrap_or(i64::MAX), 1..=1 << 40)?;
            in_range("trigger.units", *units, 1..=1 << 20)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_valid_and_survives_toml() {
        for name in NAMES {
            let config = GrowthConfig::named(name).unwrap();
            config.validate().unwrap();
            let text = toml::to_string(&config).unwrap();
            assert_eq!(toml::from_str::<GrowthConfig>(&text).unwrap(), config, "{name}");
        }
        assert!(GrowthConfig::named("north").unwrap_err().to_string().contains("north-select"));
    }

    #[test]
    fn bad_fields_are_named() {
        let with = |f: &dyn Fn(&mut GrowthConfig)| {
            let mut c = GrowthConfig::default();
            f(&mut c);
            c.validate().map(|_| ()).unwrap_err().to_string()
        };
        assert!(with(&|c| c.gamma = f64::NAN).contains("`gamma`"));
        assert!(with(&|c| c.eps = 0.0).contains("`eps`"));
        assert!(with(&|c| c.every = 0).contains("`every`"));
        assert!(with(&|c| c.max_per_event = 0).contains("`max_per_event`"));
        assert!(with(&|c| c.limit_ratio = Some(0.5)).contains("`limit_ratio`"));
        assert!(with(&|c| c.nest_beta = 1.5).contains("`nest_beta`"));
        assert!(toml::from_str::<GrowthConfig>("gama = 1.0").is_err());
    }
}
