//! What a program asks for at its start.

use crate::{Error, Kind, Result};
use serde::{Deserialize, Serialize};
use std::{
    fmt::{self, Display},
    str::FromStr,
};

/// Where to compute.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// On the processor; CUDA is not even loaded.
    #[default]
    Cpu,
    /// On this GPU, or fail.
    Cuda(usize),
    /// On the first GPU if there is one that works, else on the processor.
    Auto,
}

impl Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(0) => f.write_str("cuda"),
            Self::Cuda(i) => write!(f, "cuda:{i}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

impl FromStr for DeviceChoice {
    type Err = Error;

    /// Reads `cpu`, `cuda`, `cuda:1` or `auto`.
    fn from_str(text: &str) -> Result<Self> {
        let index = |digits: &str| digits.parse().ok().filter(|i| *i < 128);
        match text {
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(0)),
            "auto" => Some(Self::Auto),
            _ => text.strip_prefix("cuda:").and_then(index).map(Self::Cuda),
        }
        .ok_or_else(|| Error::Argument {
            op: "DeviceChoice",
            arg: "device",
            expected: "`cpu`, `cuda`, `cuda:<index below 128>` or `auto`".to_owned(),
            got: format!("`{text}`"),
        })
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

/// Element type of parameters and of everything that must stay exact.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FloatKind {
    /// Single precision: training.
    #[default]
    Float32,
    /// Double precision: gradient checks and golden tests.
    Float64,
}

impl FloatKind {
    /// The same as libtorch's kind.
    pub fn kind(self) -> Kind {
        match self {
            Self::Float32 => Kind::Float,
            Self::Float64 => Kind::Double,
        }
    }
}

impl Display for FloatKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float32 => "float32",
            Self::Float64 => "float64",
        })
    }
}

impl FromStr for FloatKind {
    type Err = Error;

    /// Reads `float32` or `float64`.
    fn from_str(text: &str) -> Result<Self> {
        match text {
            "float32" => Ok(Self::Float32),
            "float64" => Ok(Self::Float64),
            _ => Err(Error::Argument {
                op: "FloatKind",
                arg: "kind",
                expected: "`float32` or `float64`".to_owned(),
                got: format!("`{text}`"),
            }),
        }
    }
}

/// What a program asks for at its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where to compute; default the processor.
    pub device: DeviceChoice,
    /// Element type of parameters; default float32.
    pub kind: FloatKind,
    /// Root of all random streams.
    pub seed: u64,
    /// Threads within one operation; 0 (the default) means all cores, or one when `deterministic`.
    pub threads: usize,
    /// Asks libtorch for deterministic algorithms (it fails where it has none). The same bytes come
    /// out again for the same number of threads on the same machine type.
    pub deterministic: bool,
}

const MAX_THREADS: usize = 1024;

impl Settings {
    /// Checks the fields.
    ///
    /// # Errors
    /// [`Error::Config`] naming the field.
    pub fn validate(&self) -> Result<()> {
        if self.threads > MAX_THREADS {
            let why = format!("must be at most {MAX_THREADS}, got {}", self.threads);
            return Err(Error::Config { field: "threads", why });
        }
        Ok(())
    }

    pub(super) fn resolved_threads(&self) -> usize {
        match self.threads {
            0 if self.deterministic => 1,
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS),
            n => n,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_choice_reads_what_it_writes() {
        for choice in
            [DeviceChoice::Cpu, DeviceChoice::Auto, DeviceChoice::Cuda(0), DeviceChoice::Cuda(3)]
        {
            assert_eq!(choice.to_string().parse::<DeviceChoice>().unwrap(), choice);
            let json = serde_json::to_string(&choice).unwrap();
            assert_eq!(serde_json::from_str::<DeviceChoice>(&json).unwrap(), choice);
        }
        for bad in ["", "gpu", "cuda:", "cuda:-1", "cuda:128", "CPU"] {
            let text = bad.parse::<DeviceChoice>().unwrap_err().to_string();
            assert!(text.contains(&format!("`{bad}`")), "{text}");
        }
    }

    #[test]
    fn settings_are_strict() {
        let read = |text: &str| toml::from_str::<Settings>(text);
        let settings = read("device = 'auto'\nkind = 'float64'\nseed = 3\nthreads = 2").unwrap();
        assert_eq!(settings.device, DeviceChoice::Auto);
        assert_eq!(settings.kind.kind(), Kind::Double);
        assert!(read("devise = 'cpu'").is_err());
        assert!(read("kind = 'float8'").is_err());
        let absurd = Settings { threads: 1 << 40, ..Settings::default() };
        let text = absurd.validate().unwrap_err().to_string();
        assert!(text.starts_with("config field `threads`"), "{text}");
    }

    #[test]
    fn deterministic_means_one_thread_unless_told_otherwise() {
        let settings = Settings { deterministic: true, ..Settings::default() };
        assert_eq!(settings.resolved_threads(), 1);
        assert_eq!(Settings { threads: 3, ..settings }.resolved_threads(), 3);
        assert!(Settings::default().resolved_threads() >= 1);
    }
}
