//! No allocation per step, counted by an allocator of this test program.
#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(unsafe_code, reason = "an allocator is an unsafe trait")]

use envs::{Autoreset, GridConfig, GridPinpad, ResetOptions, Stream, Vector, VectorConfig};
use rand::RngExt;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, Ordering::SeqCst);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const LANES: usize = 64;

/// Steps 400 times through several episodes, eight times over; the fewest allocations of a round.
/// A thread sets itself up when it first wakes, and the test harness has a thread of its own: such
/// allocations happen once. What a step or a reset allocates would be there in every round.
fn allocations(config: &GridConfig, autoreset: Autoreset, threads: usize) -> usize {
    let world = GridPinpad::new(config).unwrap();
    let mut vector = Vector::new(vec![world; LANES], VectorConfig { autoreset, threads }).unwrap();
    let mut out = vector.buffers();
    vector.reset(Some(1), &ResetOptions::default(), &mut out).unwrap();
    let mut choices = Stream::new(1, 0);
    let actions: Vec<Vec<usize>> =
        (0..400).map(|_| (0..LANES).map(|_| choices.rng().random_range(0..4)).collect()).collect();
    vector.install(|vector| {
        let mut round = || {
            let before = COUNT.load(Ordering::SeqCst);
            for row in &actions {
                vector.step(row, &mut out).unwrap();
            }
            COUNT.load(Ordering::SeqCst) - before
        };
        (0..8).map(|_| round()).min().unwrap()
    })
}

// one test: a second one beside it would count as well
#[test]
fn steps_and_automatic_resets_allocate_nothing() {
    for config in [GridConfig::default(), GridConfig::scrambled_compass()] {
        for mode in [Autoreset::NextStep, Autoreset::SameStep] {
            for threads in [1, 2] {
                let least = allocations(&config, mode, threads);
                assert_eq!(least, 0, "{mode:?}, {threads} threads");
            }
        }
    }
}
