//! Figures as deterministic SVG (and PNG from the same SVG), with a side file of every number drawn.
//!
//! Each kind of figure is a plain serialisable struct with [`Draw::draw`]; nothing here knows of the
//! store or of a spec. The same input gives the same bytes: no time stamps, fixed decimals, own
//! text metrics from an embedded font (no system fonts).
//!
//! Three rules are enforced, not advised: a mean of several runs needs an interval
//! ([`FigureError::NoInterval`]); a single run is a hollow point without a bar; a number that is not
//! finite is an error that names its place, never a gap in a line.
//!
//! ```
//! use experiments::figures::{Draw, Estimate, Head, Intervals, IntervalPanel, Palette};
//!
//! let methods = vec!["scored".to_owned(), "random".to_owned()];
//! let figure = Intervals {
//!     head: Head::new("test-error", "Test error after growth"),
//!     runs: 10,
//!     tasks: 4,
//!     panels: vec![IntervalPanel::new(
//!         "IQM of test error",
//!         vec![
//!             Some(Estimate::new(0.112, [0.104, 0.121], 40)),
//!             Some(Estimate::new(0.131, [0.122, 0.139], 40)),
//!         ],
//!     )],
//!     methods: methods.clone(),
//! }
//! .draw(&Palette::for_methods(&methods))?;
//! assert!(figure.svg.starts_with("<svg"));
//! # Ok::<(), experiments::figures::FigureError>(())
//! ```

mod ablation;
mod axis;
mod canvas;
mod chart;
mod cost;
mod critical_difference;
mod curves;
mod dolan_more;
mod ecdf;
mod importance;
mod improvement;
mod intervals;
mod matrix;
mod overtuning;
mod paired;
mod palette;
mod profile;
mod ranks;
mod raster;
mod rows;
mod sheet;
mod sparkline;
mod text;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use ablation::{AblationPath, AblationStep};
pub use cost::{Cost, CostPanel};
pub use critical_difference::{CriticalDifference, RankTest, RankedMethod};
pub use curves::{Curve, CurvePanel, CurvePoint, Curves};
pub use dolan_more::{CostProfile, DolanMore};
pub use ecdf::{Ecdf, EcdfCurve, ErtTable};
pub use importance::{Importance, ImportanceBar};
pub use improvement::{Improvement, ImprovementRow};
pub use intervals::{IntervalPanel, Intervals, Reference};
pub use matrix::PairMatrix;
pub use overtuning::{Overtuning, TunedMethod};
pub use paired::{Paired, PairedPanel, PairedRun};
pub use palette::Palette;
pub use profile::{Profile, ProfileCurve};
pub use ranks::RankMap;
pub use raster::Format;
pub use sparkline::Sparkline;

/// Why a figure was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FigureError {
    /// Nothing to draw.
    #[error("`{argument}` is empty: a figure needs at least one entry there")]
    Empty {
        /// Path of the field in the input.
        argument: String,
    },
    /// NaN or infinite where a number is drawn.
    #[error("`{argument}`: expected a finite number of magnitude below 1e150, found {found}")]
    NonFinite {
        /// Path of the field in the input.
        argument: String,
        /// The value.
        found: f64,
    },
    /// A value that contradicts the kind of figure.
    #[error("`{argument}`: expected {expected}, found {found}")]
    Invalid {
        /// Path of the field in the input.
        argument: String,
        /// What would be right.
        expected: String,
        /// What came.
        found: String,
    },
    /// A method without a place in the palette.
    #[error(
        "`{argument}`: method `{name}` is not in the palette; build it from all methods of the spec"
    )]
    UnknownMethod {
        /// Path of the field in the input.
        argument: String,
        /// The name.
        name: String,
    },
    /// An aggregate over several runs without its interval.
    #[error("`{argument}`: an aggregate of {n} runs needs an interval; a bare mean is not drawn")]
    NoInterval {
        /// Path of the field in the input.
        argument: String,
        /// Number of runs.
        n: usize,
    },
    /// The SVG could not be rasterised.
    #[error("rendering `{name}` to PNG: {why}")]
    Render {
        /// Name of the figure.
        name: String,
        /// Cause.
        why: String,
    },
    /// A file could not be written.
    #[error("writing {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
}

/// Result of drawing.
pub type Result<T, E = FigureError> = std::result::Result<T, E>;

/// A finished figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// File stem, also the prefix of ids inside the SVG.
    pub name: String,
    /// The drawing; text is text, sizes are physical, scales down inside HTML.
    pub svg: String,
    /// Side file: every plotted number with n, interval method, seed, command and input hash.
    pub data: serde_json::Value,
}

/// Something that can be drawn.
pub trait Draw: Serialize {
    /// Kind of figure as named in the spec (`intervals`, `cd`, ...).
    const KIND: &'static str;

    /// Draws with the looks of `palette`.
    ///
    /// # Errors
    /// Any [`FigureError`] but `Render` and `Io`; the message names the offending field.
    fn draw(&self, palette: &Palette) -> Result<Figure>;
}

/// Printed width.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Width {
    /// One column of a journal, 3.4 in.
    Column,
    /// The full page, 7 in.
    #[default]
    Page,
}

impl Width {
    pub(crate) fn points(self) -> f64 {
        match self {
            Self::Column => 3.4 * 72.0,
            Self::Page => 7.0 * 72.0,
        }
    }
}

/// Where the numbers of a figure come from; copied into the side file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Provenance {
    /// Command that makes the figure again.
    pub command: String,
    /// Seed of the resampling behind the intervals.
    pub seed: Option<u64>,
    /// How intervals were made, e.g. `95% percentile bootstrap, 10000 resamples`; printed under the
    /// figure.
    pub interval_method: String,
    /// Hash of the raw data; when absent, the side file holds the SHA-256 of the figure's input.
    pub input_hash: Option<String>,
}

/// Name, title and origin, common to all figures.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// File stem: letters, digits, `.`, `_`, `-`; at most 120 characters.
    pub name: String,
    /// Title above the figure.
    pub title: String,
    /// Second line; the figure adds its counts.
    #[serde(default)]
    pub subtitle: String,
    /// Printed width.
    #[serde(default)]
    pub width: Width,
    /// Where the numbers come from.
    #[serde(default)]
    pub provenance: Provenance,
}

impl Head {
    /// A head of page width without provenance.
    pub fn new(name: impl Into<String>, title: impl Into<String>) -> Self {
        Self { name: name.into(), title: title.into(), ..Self::default() }
    }

    /// The same head at another width.
    #[must_use]
    pub fn with_width(mut self, width: Width) -> Self {
        self.width = width;
        self
    }

    /// The same head with provenance.
    #[must_use]
    pub fn with_provenance(mut self, provenance: Provenance) -> Self {
        self.provenance = provenance;
        self
    }
}

/// A number with its uncertainty.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// Point estimate.
    pub point: f64,
    /// Lower and upper end; `None` is allowed for a single run only.
    pub interval: Option<[f64; 2]>,
    /// Runs behind it.
    pub n: usize,
}

impl Estimate {
    /// An estimate from several runs.
    pub fn new(point: f64, interval: [f64; 2], n: usize) -> Self {
        Self { point, interval: Some(interval), n }
    }

    /// A single run; drawn hollow.
    pub fn single(point: f64) -> Self {
        Self { point, interval: None, n: 1 }
    }

    /// The ends to draw; `None` for a single run, whose interval would say nothing.
    pub(crate) fn bar(&self) -> Option<[f64; 2]> {
        if self.n > 1 { self.interval } else { None }
    }

    pub(crate) fn check(&self, argument: &str) -> Result<()> {
        finite(&format!("{argument}.point"), self.point)?;
        if self.n == 0 {
            return Err(invalid(format!("{argument}.n"), "at least 1 run", 0));
        }
        match self.interval {
            Some([low, high]) => {
                finite(&format!("{argument}.interval[0]"), low)?;
                finite(&format!("{argument}.interval[1]"), high)?;
                if low > high {
                    return Err(invalid(
                        format!("{argument}.interval"),
                        "low <= high",
                        format!("[{low}, {high}]"),
                    ));
                }
                Ok(())
            }
            None if self.n == 1 => Ok(()),
            None => Err(FigureError::NoInterval { argument: argument.to_owned(), n: self.n }),
        }
    }

    /// All ordinates that must be visible.
    pub(crate) fn extent(&self) -> impl Iterator<Item = f64> {
        std::iter::once(self.point).chain(self.bar().into_iter().flatten())
    }

    pub(crate) fn words(&self) -> String {
        let point = text::short(self.point, 4);
        match self.bar() {
            Some([low, high]) => {
                format!(
                    "{point} [{}, {}], n = {}",
                    text::short(low, 4),
                    text::short(high, 4),
                    self.n
                )
            }
            None => format!("{point}, n = 1, no interval"),
        }
    }
}

/// Kind of axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScaleKind {
    /// Equal steps.
    #[default]
    Linear,
    /// Powers of ten; values must be positive.
    Log10,
    /// Powers of two; values must be positive.
    Log2,
}

pub(crate) fn invalid(
    argument: impl Into<String>,
    expected: impl Into<String>,
    found: impl std::fmt::Display,
) -> FigureError {
    FigureError::Invalid {
        argument: argument.into(),
        expected: expected.into(),
        found: found.to_string(),
    }
}

pub(crate) fn finite(argument: &str, v: f64) -> Result<()> {
    // The bound keeps spans and squares of drawn values away from overflow.
    if v.is_finite() && v.abs() < 1e150 {
        Ok(())
    } else {
        Err(FigureError::NonFinite { argument: argument.to_owned(), found: v })
    }
}

pub(crate) fn all_finite(argument: &str, values: &[f64]) -> Result<()> {
    values.iter().enumerate().try_for_each(|(i, &v)| finite(&format!("{argument}[{i}]"), v))
}

pub(crate) fn nonempty<T>(argument: &str, items: &[T]) -> Result<()> {
    if items.is_empty() {
        Err(FigureError::Empty { argument: argument.to_owned() })
    } else {
        Ok(())
    }
}

pub(crate) fn same_len(argument: &str, expected: usize, found: usize) -> Result<()> {
    if expected == found {
        Ok(())
    } else {
        Err(invalid(argument, format!("{expected} entries"), found))
    }
}

/// Strictly increasing abscissae.
pub(crate) fn increasing(argument: &str, values: &[f64]) -> Result<()> {
    all_finite(argument, values)?;
    for (i, w) in values.windows(2).enumerate() {
        if w[1] <= w[0] {
            return Err(invalid(
                format!("{argument}[{}]", i + 1),
                format!("more than {} (strictly increasing)", w[0]),
                w[1],
            ));
        }
    }
    Ok(())
}

pub(crate) fn fraction(argument: &str, v: f64) -> Result<()> {
    finite(argument, v)?;
    if (0.0..=1.0).contains(&v) { Ok(()) } else { Err(invalid(argument, "a value in 0..=1", v)) }
}

pub(crate) fn unique(argument: &str, names: &[&str]) -> Result<()> {
    for (i, name) in names.iter().enumerate() {
        if names[..i].contains(name) {
            return Err(invalid(
                format!("{argument}[{i}]"),
                "each name once",
                format!("`{name}` again"),
            ));
        }
    }
    Ok(())
}
