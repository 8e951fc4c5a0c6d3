//! Start-up: CUDA library, threads, seeds, determinism, choice of the device; and what the machine is.
//!
//! [`init`] is the first line of every `main`. Libraries never pick a device, never seed, never set
//! threads: they take what their caller chose.

use crate::{Device, Error, Kind, Result, SeedTree, Tensor, native};
use serde::{Deserialize, Serialize};
use std::{
    fmt::{self, Display},
    str::FromStr,
    sync::OnceLock,
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

    fn resolved_threads(&self) -> usize {
        match self.threads {
            0 if self.deterministic => 1,
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS),
            n => n,
        }
    }
}

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
    /// How fast the processor is in bfloat16.
    pub cpu_bf16: CpuBf16,
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
            "device {device}, {kind}, {} thread{s}, seed {}, {}, bfloat16 on the CPU: {}",
            self.threads,
            self.seed,
            if self.deterministic { "deterministic" } else { "not deterministic" },
            self.cpu_bf16,
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
        cpu_bf16: CpuBf16::detect(),
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
    /// Whether libtorch's CUDA library was loaded by [`init`]; it is loaded only when asked for.
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

    #[test]
    fn the_choice_is_one_line() {
        let run = Runtime {
            device: Device::Cuda(1),
            kind: Kind::Double,
            seeds: SeedTree::new(5),
            seed: 5,
            threads: 1,
            deterministic: true,
            cpu_bf16: CpuBf16::Amx,
            note: String::new(),
        };
        assert_eq!(
            run.to_string(),
            "device cuda:1, float64, 1 thread, seed 5, deterministic, bfloat16 on the CPU: AMX"
        );
    }
}
