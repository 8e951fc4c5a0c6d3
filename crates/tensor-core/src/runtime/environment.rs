//! What the machine and the libraries are, to be recorded with every result.

use crate::native;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Display};

/// How a processor multiplies bfloat16 matrices.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpuBf16 {
    /// Tiles (Intel AMX): several times float32's speed.
    Amx,
    /// Dot products in vectors (AVX512-BF16, or BF16 of Armv8.6).
    Vector,
    /// Emulated: no faster than float32.
    None,
}

impl CpuBf16 {
    /// Asks the operating system.
    pub fn detect() -> Self {
        let text = cpuinfo();
        Self::of_flags(field(&text, &["flags", "Features"]).unwrap_or_default())
    }

    fn of_flags(flags: &str) -> Self {
        let has = |name: &str| flags.split_whitespace().any(|f| f == name);
        if has("amx_bf16") && has("amx_tile") {
            Self::Amx
        } else if has("avx512_bf16") || has("bf16") {
            Self::Vector
        } else {
            Self::None
        }
    }
}

impl Display for CpuBf16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amx => "AMX",
            Self::Vector => "AVX512-BF16 or equal",
            Self::None => "emulated",
        })
    }
}

/// The computing environment, to be recorded with every result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// libtorch's version.
    pub libtorch: String,
    /// Version of the Rust binding.
    pub tch: String,
    /// Version of this crate.
    pub tensor_core: String,
    /// How libtorch was built: compiler, BLAS, instruction set in use.
    pub libtorch_config: String,
    /// libtorch's thread pools.
    pub parallel_info: String,
    /// Threads within one operation.
    pub threads: usize,
    /// Threads between operations.
    pub interop_threads: usize,
    /// Whether deterministic algorithms are asked for.
    pub deterministic: bool,
    /// Name of the processor, if the operating system tells.
    pub cpu: String,
    /// Cores that this process may use.
    pub cpu_cores: usize,
    /// How fast the processor is in bfloat16.
    pub cpu_bf16: CpuBf16,
    /// Whether libtorch's CUDA library was loaded by [`init`](super::init); it is loaded only when asked for.
    pub cuda_loaded: bool,
    /// Whether libtorch can compute on a GPU in this process.
    pub cuda_available: bool,
    /// Names of the GPUs that the driver shows to this process, in use or not.
    pub gpus: Vec<String>,
}

/// Describes the environment of this process. Never changes it: in particular CUDA is not loaded.
pub fn describe() -> Environment {
    let cuda_loaded = native::cuda_loaded();
    let text = cpuinfo();
    Environment {
        libtorch: native::version(),
        tch: TCH_VERSION.to_owned(),
        tensor_core: env!("CARGO_PKG_VERSION").to_owned(),
        libtorch_config: native::show_config(),
        parallel_info: native::parallel_info(),
        threads: tch::get_num_threads().max(1) as usize,
        interop_threads: tch::get_num_interop_threads().max(1) as usize,
        deterministic: native::deterministic(),
        cpu: field(&text, &["model name", "Model"]).unwrap_or("unknown").to_owned(),
        cpu_cores: std::thread::available_parallelism().map_or(1, usize::from),
        cpu_bf16: CpuBf16::detect(),
        cuda_loaded,
        // Asking libtorch before its CUDA library is loaded would hide the GPU for good.
        cuda_available: cuda_loaded && tch::Cuda::is_available(),
        gpus: native::cuda_device_names(),
    }
}

/// The exact version that the workspace pins; a test holds it against the manifest.
const TCH_VERSION: &str = "0.24.0";

fn cpuinfo() -> String {
    std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()
}

/// Value of the first line `name : value` with one of these names.
fn field<'a>(cpuinfo: &'a str, names: &[&str]) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        names.contains(&name.trim()).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bf16_support_follows_the_flags() {
        assert_eq!(CpuBf16::of_flags("sse amx_bf16 avx512_bf16 amx_tile"), CpuBf16::Amx);
        assert_eq!(CpuBf16::of_flags("sse avx512_bf16"), CpuBf16::Vector);
        assert_eq!(CpuBf16::of_flags("asimd bf16 i8mm"), CpuBf16::Vector);
        assert_eq!(CpuBf16::of_flags("sse avx512f not_amx_bf16"), CpuBf16::None);
        assert_eq!(CpuBf16::of_flags(""), CpuBf16::None);
    }

    #[test]
    fn cpuinfo_fields_are_found_by_name() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: a b\n";
        assert_eq!(field(text, &["model name"]), Some("Some CPU @ 2 GHz"));
        assert_eq!(field(text, &["Features", "flags"]), Some("a b"));
        assert_eq!(field(text, &["model"]), None);
    }

    #[test]
    fn the_named_binding_is_the_pinned_one() {
        let manifest =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml"));
        let manifest = manifest.unwrap();
        assert!(manifest.contains(&format!("tch = {{ version = \"={TCH_VERSION}\"")));
    }
}
