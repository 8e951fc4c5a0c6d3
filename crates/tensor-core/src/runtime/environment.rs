//! What the machine and the libraries are, to be recorded with every result.

use crate::{compute::CpuSupport, native};
use serde::{Deserialize, Serialize};

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
    /// Instruction sets that decide whether bfloat16 pays.
    pub cpu_support: CpuSupport,
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
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    Environment {
        libtorch: native::version(),
        tch: TCH_VERSION.to_owned(),
        tensor_core: env!("CARGO_PKG_VERSION").to_owned(),
        libtorch_config: native::show_config(),
        parallel_info: native::parallel_info(),
        threads: tch::get_num_threads().max(1) as usize,
        interop_threads: tch::get_num_interop_threads().max(1) as usize,
        deterministic: native::deterministic(),
        cpu: field(&cpuinfo, &["model name", "Model"]).unwrap_or("unknown").to_owned(),
        cpu_cores: std::thread::available_parallelism().map_or(1, usize::from),
        cpu_support: CpuSupport::detect(),
        cuda_loaded,
        // Asking libtorch before its CUDA library is loaded would hide the GPU for good.
        cuda_available: cuda_loaded && tch::Cuda::is_available(),
        gpus: native::cuda_device_names(),
    }
}

/// The exact version that the workspace pins; a test holds it against the manifest.
const TCH_VERSION: &str = "0.24.0";

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
