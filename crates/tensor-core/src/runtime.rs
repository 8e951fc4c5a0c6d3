//! Start-up: CUDA library, threads, seeds, determinism, choice of the device; and what the machine is.
//!
//! [`init`] is the first line of every `main`. Libraries never pick a device, never seed, never set
//! threads: they take what their caller chose.

mod environment;
mod settings;

pub use environment::{Environment, describe};
pub use settings::{DeviceChoice, FloatKind, Settings};

use crate::{Device, Error, Kind, Result, SeedTree, Tensor, compute::CpuSupport, native};
use serde::{Deserialize, Serialize};
use std::{
    fmt::{self, Display},
    sync::OnceLock,
};

/// What [`init`] chose. Displays as one line.
#[derive(Clone, Debug)]
pub struct Runtime {
    /// Where tensors are made.
    pub device: Device,
    /// Element type of parameters.
    pub kind: Kind,
    /// Root of all random streams; torch's own generators run on its child `torch`.
    pub seeds: SeedTree,
    /// The number that `seeds` stands for.
    pub seed: u64,
    /// Threads within one operation.
    pub threads: usize,
    /// Whether libtorch was asked for deterministic algorithms.
    pub deterministic: bool,
    /// Instruction sets that decide whether bfloat16 pays on the processor.
    pub cpu_support: CpuSupport,
    /// Why a GPU was not taken although `auto` allowed it; empty otherwise.
    pub note: String,
}

impl Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = match self.device {
            Device::Cpu => "cpu".to_owned(),
            Device::Cuda(i) => format!("cuda:{i}"),
            other => format!("{other:?}"),
        };
        let kind = if self.kind == Kind::Double { FloatKind::Float64 } else { FloatKind::Float32 };
        let s = if self.threads == 1 { "" } else { "s" };
        write!(
            f,
            "device {device}, {kind}, {} thread{s}, seed {}, {}, CPU with {}",
            self.threads,
            self.seed,
            if self.deterministic { "deterministic" } else { "not deterministic" },
            self.cpu_support,
        )?;
        if !self.note.is_empty() {
            write!(f, " ({})", self.note)?;
        }
        Ok(())
    }
}

/// Sets the process up and says what it chose, in one `tracing` line.
///
/// Must come before any other libtorch call of a program that may use a GPU: libtorch's CUDA library
/// is loaded here, and only when `device` asks for it. May be called again, for instance between the
/// tests of one process: then it seeds anew and sets the threads within an operation; the threads
/// between operations can be set only once in a process.
///
/// ```
/// use tensor_core::runtime::{self, Settings};
/// # fn main() -> tensor_core::Result<()> {
/// let run = runtime::init(&Settings { seed: 7, threads: 1, ..Settings::default() })?;
/// assert_eq!(run.device, tensor_core::Device::Cpu);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Config`] for a bad field, or when `cuda` was asked for and is not there: the text says
/// whether the library, the driver or the device is missing.
pub fn init(settings: &Settings) -> Result<Runtime> {
    settings.validate()?;
    // First of all: the answer to "is there CUDA" is kept for the whole process.
    let (device, note) = choose_device(settings.device)?;
    let threads = settings.resolved_threads();
    set_threads(threads);
    native::set_deterministic("runtime::init", settings.deterministic)?;
    if settings.deterministic
        && matches!(device, Device::Cuda(_))
        && std::env::var_os("CUBLAS_WORKSPACE_CONFIG").is_none()
    {
        tracing::warn!(
            "deterministic matrix products on a GPU need CUBLAS_WORKSPACE_CONFIG=:4096:8 in the \
             environment; without it libtorch refuses them"
        );
    }
    let seeds = SeedTree::new(settings.seed);
    seed_torch(&seeds);
    let runtime = Runtime {
        device,
        kind: settings.kind.kind(),
        seeds,
        seed: settings.seed,
        threads,
        deterministic: settings.deterministic,
        cpu_support: CpuSupport::detect(),
        note,
    };
    tracing::info!("{runtime}");
    Ok(runtime)
}

fn choose_device(choice: DeviceChoice) -> Result<(Device, String)> {
    let (wanted, required) = match choice {
        DeviceChoice::Cpu => return Ok((Device::Cpu, String::new())),
        DeviceChoice::Cuda(i) => (i, true),
        DeviceChoice::Auto => (0, false),
    };
    let why = if !native::load_cuda() {
        "libtorch_cuda.so is not installed: `cargo xtask setup --cuda`".to_owned()
    } else if native::cuda_device_names().is_empty() {
        "the CUDA driver shows no device".to_owned()
    } else if !tch::Cuda::is_available() {
        "libtorch does not see CUDA although its library is loaded; some code touched libtorch \
         before `runtime::init`, or driver and library do not match"
            .to_owned()
    } else if wanted >= tch::Cuda::device_count() as usize {
        format!("there are only {} CUDA devices", tch::Cuda::device_count())
    } else {
        return Ok((Device::Cuda(wanted), String::new()));
    };
    if required {
        return Err(Error::Config { field: "device", why: format!("`{choice}`: {why}") });
    }
    Ok((Device::Cpu, why))
}

fn set_threads(threads: usize) {
    static BETWEEN_OPERATIONS: OnceLock<()> = OnceLock::new();
    // libtorch refuses a second call, and any call after that pool's first work.
    BETWEEN_OPERATIONS.get_or_init(|| {
        let set = std::panic::catch_unwind(|| tch::set_num_interop_threads(threads as i32));
        if set.is_err() {
            tracing::warn!("threads between operations were set before `runtime::init`");
        }
    });
    tch::set_num_threads(threads as i32);
}

/// Seeds torch's generators, on all devices, from the child `torch` of `seeds`.
pub fn seed_torch(seeds: &SeedTree) {
    #[expect(clippy::disallowed_methods, reason = "the one place where torch is seeded")]
    tch::manual_seed(seeds.child("torch").torch_seed());
}

/// State of torch's default generator on `device`, as a one-dimensional `uint8` tensor on the CPU
/// (5,056 bytes for the CPU's).
///
/// # Errors
/// [`Error::Argument`] for a device without a generator, [`Error::Torch`] when CUDA is not there.
pub fn generator_state(device: Device) -> Result<Tensor> {
    const OP: &str = "runtime::generator_state";
    native::generator_state(OP, generator_index(OP, device)?)
}

/// Puts a state from [`generator_state`] back, so that the same numbers follow again.
///
/// # Errors
/// [`Error::Kind`] or [`Error::Shape`] for a tensor that is no state, [`Error::Torch`] for one whose
/// size or content libtorch refuses; the generator keeps its state then.
pub fn set_generator_state(device: Device, state: &Tensor) -> Result<()> {
    const OP: &str = "runtime::set_generator_state";
    if state.kind() != Kind::Uint8 {
        return Err(Error::Kind {
            op: OP,
            arg: "state".to_owned(),
            expected: "Uint8".to_owned(),
            got: state.kind(),
        });
    }
    if state.dim() != 1 {
        return Err(Error::Shape {
            op: OP,
            arg: "state".to_owned(),
            expected: "[bytes]".to_owned(),
            got: state.size(),
        });
    }
    let state = state.to_device(Device::Cpu).contiguous();
    native::set_generator_state(OP, generator_index(OP, device)?, &state)
}

fn generator_index(op: &'static str, device: Device) -> Result<Option<usize>> {
    match device {
        Device::Cpu => Ok(None),
        Device::Cuda(i) if native::cuda_loaded() => Ok(Some(i)),
        other => Err(Error::Argument {
            op,
            arg: "device",
            expected: "the CPU, or a CUDA device after `init` has loaded CUDA".to_owned(),
            got: format!("{other:?}"),
        }),
    }
}

/// Memory of one CUDA device as libtorch's caching allocator counts it.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CudaMemory {
    /// Held by tensors now.
    pub allocated_bytes: u64,
    /// Most that tensors have held at once.
    pub allocated_peak_bytes: u64,
    /// Taken from the device now, cached blocks included.
    pub reserved_bytes: u64,
    /// Most that was taken from the device at once.
    pub reserved_peak_bytes: u64,
}

/// Reads the memory counters of a CUDA device; `reset_peak` starts the peaks anew afterwards.
///
/// # Errors
/// [`Error::Argument`] unless [`init`] chose CUDA, [`Error::Torch`] for a device that is not there.
pub fn cuda_memory(index: usize, reset_peak: bool) -> Result<CudaMemory> {
    const OP: &str = "runtime::cuda_memory";
    generator_index(OP, Device::Cuda(index))?;
    let bytes = native::cuda_memory(OP, index, reset_peak)?.map(|b| u64::try_from(b).unwrap_or(0));
    let [allocated_bytes, allocated_peak_bytes, reserved_bytes, reserved_peak_bytes] = bytes;
    Ok(CudaMemory { allocated_bytes, allocated_peak_bytes, reserved_bytes, reserved_peak_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_is_one_line() {
        let run = Runtime {
            device: Device::Cuda(1),
            kind: Kind::Double,
            seeds: SeedTree::new(5),
            seed: 5,
            threads: 1,
            deterministic: true,
            cpu_support: CpuSupport { amx_bf16: true, ..CpuSupport::default() },
            note: String::new(),
        };
        assert_eq!(
            run.to_string(),
            "device cuda:1, float64, 1 thread, seed 5, deterministic, CPU with avx2 no, avx512 no, \
             avx512-bf16 no, amx-bf16 yes"
        );
    }
}
