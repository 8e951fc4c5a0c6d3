//! How a run is asked to stop (specification, sections 6.7 and 11).

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

/// A request to stop, shared between the run and whoever asks.
#[derive(Clone, Debug)]
pub struct StopSignal {
    level: Level,
}

#[derive(Clone, Debug)]
enum Level {
    Own(Arc<AtomicU8>),
    Process(&'static AtomicU8),
}

impl Default for StopSignal {
    fn default() -> Self {
        Self { level: Level::Own(Arc::new(AtomicU8::new(0))) }
    }
}

impl StopSignal {
    /// A request that only this program can raise.
    pub fn new() -> Self {
        Self::default()
    }

    /// Handles SIGINT (once: drain, twice: give running trials back), SIGTERM and SIGUSR1 (give
    /// back at once: what Slurm sends before it pre-empts a job). For programs; libraries that run
    /// experiments inside another program use [`StopSignal::new`].
    ///
    /// # Errors
    /// When the system refuses the handlers.
    pub fn from_process_signals() -> std::io::Result<Self> {
        Ok(Self { level: Level::Process(super::sys::install_stop_handlers()?) })
    }

    fn cell(&self) -> &AtomicU8 {
        match &self.level {
            Level::Own(level) => level,
            Level::Process(level) => level,
        }
    }

    /// Start nothing new; running trials end by themselves.
    pub fn drain(&self) {
        self.cell().fetch_max(1, Ordering::AcqRel);
    }

    /// Start nothing new; end running trials and give them back, the attempt not counted.
    pub fn give_back(&self) {
        self.cell().fetch_max(2, Ordering::AcqRel);
    }

    /// Whether anything was asked.
    pub fn is_raised(&self) -> bool {
        self.cell().load(Ordering::Acquire) > 0
    }

    /// Whether running trials are to be given back.
    pub fn gives_back(&self) -> bool {
        self.cell().load(Ordering::Acquire) > 1
    }
}
