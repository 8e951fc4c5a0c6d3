//! Seeds, generator state, determinism, threads, and the description of the environment.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::{Mutex, MutexGuard, PoisonError};
use tensor_core::{
    Device, Error, Kind, SeedTree, Tensor,
    runtime::{self, DeviceChoice, FloatKind, Settings},
};

/// torch's generator and settings belong to the process, so the tests of one process take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn one_thread(seed: u64) -> Settings {
    Settings { seed, threads: 1, ..Settings::default() }
}

fn draw(n: i64) -> Vec<f32> {
    Vec::try_from(Tensor::randn([n], (Kind::Float, Device::Cpu))).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_numbers() {
    let _turn = turn();
    let run = runtime::init(&one_thread(5)).unwrap();
    let first = draw(100);
    runtime::init(&one_thread(5)).unwrap();
    assert_eq!(draw(100), first);
    runtime::init(&one_thread(6)).unwrap();
    assert_ne!(draw(100), first);
    runtime::seed_torch(&run.seeds);
    assert_eq!(draw(100), first);
    assert_eq!(run.seeds, SeedTree::new(5));
}

#[test]
fn generator_state_makes_a_round_trip() {
    let _turn = turn();
    runtime::init(&one_thread(1)).unwrap();
    draw(7); // an odd number: half of a pair of normals is left in the state
    let state = runtime::generator_state(Device::Cpu).unwrap();
    assert_eq!((state.kind(), state.size()), (Kind::Uint8, vec![5056]));
    let next = draw(33);
    runtime::set_generator_state(Device::Cpu, &state).unwrap();
    assert_eq!(draw(33), next);
    // A state is a value: it does not move with the generator.
    runtime::set_generator_state(Device::Cpu, &state).unwrap();
    assert_eq!(draw(33), next);
}

#[test]
fn a_bad_generator_state_changes_nothing() {
    let _turn = turn();
    runtime::init(&one_thread(2)).unwrap();
    let state = runtime::generator_state(Device::Cpu).unwrap();
    let set = |s: &Tensor| runtime::set_generator_state(Device::Cpu, s).unwrap_err();
    assert!(matches!(set(&state.to_kind(Kind::Int64)), Error::Kind { .. }));
    assert!(matches!(set(&state.view([2, -1])), Error::Shape { .. }));
    assert!(matches!(set(&state.narrow(0, 0, 100)), Error::Torch { .. }));
    assert!(matches!(set(&state.full_like(255)), Error::Torch { .. }));
    assert_eq!(runtime::generator_state(Device::Cpu).unwrap(), state);
    let elsewhere = runtime::generator_state(Device::Cuda(0)).unwrap_err();
    assert!(matches!(elsewhere, Error::Argument { arg: "device", .. }));
    assert!(matches!(runtime::cuda_memory(0, false), Err(Error::Argument { .. })));
}

#[test]
fn deterministic_mode_is_set_and_unset() {
    let _turn = turn();
    let settings = Settings { deterministic: true, ..one_thread(0) };
    let run = runtime::init(&settings).unwrap();
    assert!(run.deterministic && runtime::describe().deterministic);
    // One of the operations for which libtorch has no deterministic form.
    let x = Tensor::ones([3], (Kind::Float, Device::Cpu));
    let error = x.f_put(&Tensor::from_slice(&[0_i64, 0]), &x.narrow(0, 0, 2), false).unwrap_err();
    assert!(error.to_string().contains("deterministic"), "{error}");
    runtime::init(&one_thread(0)).unwrap();
    assert!(!runtime::describe().deterministic);
    assert!(x.f_put(&Tensor::from_slice(&[0_i64, 0]), &x.narrow(0, 0, 2), false).is_ok());
}

#[test]
fn one_thread_gives_the_same_bytes_again() {
    let _turn = turn();
    let run = || {
        runtime::init(&Settings { seed: 3, deterministic: true, ..Settings::default() }).unwrap();
        let x = Tensor::randn([1 << 16], (Kind::Float, Device::Cpu));
        let w = Tensor::randn([64, 64], (Kind::Float, Device::Cpu));
        let y = x.view([-1, 64]).matmul(&w).tanh().sum(Kind::Float);
        f32::try_from(y).unwrap().to_bits()
    };
    assert_eq!(run(), run());
}

#[test]
fn threads_and_kind_are_as_asked() {
    let _turn = turn();
    let settings = Settings { threads: 2, kind: FloatKind::Float64, ..one_thread(9) };
    let run = runtime::init(&settings).unwrap();
    assert_eq!((run.threads, run.kind, run.device), (2, Kind::Double, Device::Cpu));
    assert_eq!(runtime::describe().threads, 2);
    let line = run.to_string();
    assert!(
        line.starts_with("device cpu, float64, 2 threads, seed 9, not deterministic"),
        "{line}"
    );
    assert!(!line.contains('\n'));
    let absurd = Settings { threads: usize::MAX, ..Settings::default() };
    assert!(matches!(runtime::init(&absurd), Err(Error::Config { field: "threads", .. })));
}

/// On a machine without a GPU `auto` says why it stays on the CPU and `cuda` is refused; with one,
/// both compute there and the counters count.
#[test]
fn a_missing_gpu_is_explained_and_a_present_one_used() {
    let _turn = turn();
    let auto = Settings { device: DeviceChoice::Auto, ..one_thread(4) };
    let run = runtime::init(&auto).unwrap();
    let cuda = Settings { device: DeviceChoice::Cuda(0), ..one_thread(4) };
    let environment = runtime::describe();
    if run.device == Device::Cpu {
        assert!(!run.note.is_empty() && run.to_string().contains(&run.note));
        let error = runtime::init(&cuda).unwrap_err().to_string();
        assert!(error.starts_with("config field `device`: `cuda`: "), "{error}");
        assert!(!environment.cuda_available);
        return;
    }
    assert!(environment.cuda_loaded && environment.cuda_available);
    assert!(!environment.gpus.is_empty());
    let device = runtime::init(&cuda).unwrap().device;
    let x = Tensor::randn([1 << 20], (Kind::Float, device));
    assert!(runtime::cuda_memory(0, true).unwrap().allocated_bytes >= 4 << 20);
    let state = runtime::generator_state(device).unwrap();
    let next = x.randn_like();
    runtime::set_generator_state(device, &state).unwrap();
    assert_eq!(x.randn_like(), next);
    let error = runtime::init(&Settings { device: DeviceChoice::Cuda(99), ..one_thread(4) });
    assert!(error.unwrap_err().to_string().contains("CUDA devices"));
}

#[test]
fn the_environment_names_what_computes() {
    let _turn = turn();
    runtime::init(&one_thread(0)).unwrap();
    let environment = runtime::describe();
    assert!(environment.libtorch.starts_with("2.11.0"), "{}", environment.libtorch);
    assert!(environment.libtorch_config.contains("PyTorch built with"));
    assert!(environment.parallel_info.contains("at::get_num_threads() : 1"));
    assert!(environment.cpu_cores >= 1 && !environment.cpu.is_empty());
    let json = serde_json::to_string(&environment).unwrap();
    let back: runtime::Environment = serde_json::from_str(&json).unwrap();
    assert_eq!(back, environment);
}
