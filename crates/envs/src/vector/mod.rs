//! Many environments stepped together: caller-owned buffers, three ways to begin a new episode,
//! the same results whatever the number of threads.

mod buffers;
mod shard;

pub use buffers::Buffers;

use crate::env::{Env, ResetOptions, State};
use crate::error::{Error, Result, ensure, ensure_len};
use serde::{Deserialize, Serialize};
use shard::{Failures, Shard};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Most environments in a vector.
const MOST_LANES: usize = 1 << 20;
/// Most numbers in the observations of a vector (16 GiB of `f32`).
const MOST_NUMBERS: usize = 1 << 32;

/// How a vector begins a new episode where one has ended; the names are gymnasium's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Autoreset {
    /// The step after the last of an episode ignores its action, resets, and returns the first
    /// observation with reward 0. Such a step is no transition: [`Buffers::filler`] marks it.
    #[default]
    NextStep,
    /// The last step of an episode resets at once: its observation and info are those of the new
    /// episode, the old ones go to [`Buffers::final_obs`] and [`Buffers::final_infos`].
    SameStep,
    /// The caller resets with [`Vector::reset_lanes`]; stepping an ended episode is an error of
    /// its lane.
    Disabled,
}

/// Configuration of a [`Vector`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct VectorConfig {
    /// How a new episode begins.
    pub autoreset: Autoreset,
    /// Threads, 1 to 1024; 1 takes the caller's and starts none.
    pub threads: usize,
}

impl Default for VectorConfig {
    fn default() -> Self {
        Self { autoreset: Autoreset::default(), threads: 1 }
    }
}

/// Environments stepped together. Environment `i` draws from stream `i`, so that its episodes
/// depend neither on the number of threads nor on that of environments.
///
/// ```
/// use envs::{GridConfig, GridPinpad, ResetOptions, Vector, VectorConfig};
/// let world = GridPinpad::new(&GridConfig::default())?;
/// let mut worlds = Vector::new(vec![world; 64], VectorConfig::default())?;
/// let mut out = worlds.buffers();
/// worlds.reset(Some(1), &ResetOptions::default(), &mut out)?;
/// worlds.step(&[2; 64], &mut out)?;
/// assert_eq!(out.obs().len(), 64 * 637);
/// # Ok::<(), envs::Error>(())
/// ```
#[derive(Debug)]
pub struct Vector<E> {
    lanes: Vec<E>,
    obs_len: usize,
    mode: Autoreset,
    pool: Option<Arc<rayon::ThreadPool>>,
    started: bool,
    /// Names this vector in buffers; `tick` counts its writes.
    id: u64,
    tick: u64,
}

impl<E: Env> Vector<E> {
    /// A vector of environments with equal spaces; environment `i` goes to stream `i` of seed 0.
    ///
    /// # Errors
    /// None or too many environments, spaces that differ, or threads that cannot be started.
    pub fn new(mut lanes: Vec<E>, config: VectorConfig) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let (count, threads) = (lanes.len(), config.threads);
        let room = || format!("1 to {MOST_LANES} environments");
        ensure((1..=MOST_LANES).contains(&count), "lanes", room, count)?;
        ensure((1..=1024).contains(&threads), "threads", || "1 to 1024".into(), threads)?;
        let spaces = |env: &E| (env.observation_space().clone(), env.action_space().clone());
        let first = spaces(&lanes[0]);
        let odd = lanes.iter().position(|env| spaces(env) != first);
        ensure(odd.is_none(), "lanes", || "equal spaces".into(), format!("{odd:?} differs"))?;
        let obs_len = first.0.len();
        let numbers = obs_len.saturating_mul(count);
        ensure(numbers <= MOST_NUMBERS, "lanes", || format!("{MOST_NUMBERS} numbers"), numbers)?;
        for (lane, env) in lanes.iter_mut().enumerate() {
            env.seed(0, lane as u64);
        }
        let pool = if threads == 1 {
            None
        } else {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let refused = |e| Error::argument("threads", "threads that start", e);
            Some(Arc::new(pool.map_err(refused)?))
        };
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Ok(Self { lanes, obs_len, mode: config.autoreset, pool, started: false, id, tick: 0 })
    }

    /// Number of environments.
    #[expect(clippy::len_without_is_empty, reason = "a vector is never empty")]
    pub fn len(&self) -> usize {
        self.lanes.len()
    }

    /// How new episodes begin.
    pub fn autoreset(&self) -> Autoreset {
        self.mode
    }

    /// The environments.
    pub fn lanes(&self) -> &[E] {
        &self.lanes
    }

    /// The environments, to be changed; the next step writes whole observations.
    pub fn lanes_mut(&mut self) -> &mut [E] {
        self.tick += 1;
        &mut self.lanes
    }

    /// Buffers of the right size; all that a step needs to write.
    pub fn buffers(&self) -> Buffers {
        Buffers::new(self.lanes.len(), self.obs_len, self.mode)
    }

    /// Begins an episode in every environment. `Some(seed)` puts environment `i` at the start of
    /// stream `i`, `None` goes on.
    ///
    /// # Errors
    /// The buffers do not fit, or some environments failed ([`Error::Lanes`], and
    /// [`Buffers::errors`] has each); the others have begun.
    pub fn reset(
        &mut self,
        seed: Option<u64>,
        options: &ResetOptions,
        out: &mut Buffers,
    ) -> Result<()> {
        if let Some(seed) = seed {
            for (lane, env) in self.lanes.iter_mut().enumerate() {
                env.seed(seed, lane as u64);
            }
        }
        self.started = true;
        self.run(out, |shard| shard.reset(None, options))
    }

    /// Begins an episode in the environments where `mask` is true; what the buffers hold of the
    /// others stays.
    ///
    /// # Errors
    /// As [`reset`](Self::reset), and a mask of another length.
    pub fn reset_lanes(
        &mut self,
        mask: &[bool],
        options: &ResetOptions,
        out: &mut Buffers,
    ) -> Result<()> {
        ensure_len("mask", self.lanes.len(), mask.len())?;
        self.started = true;
        self.run(out, |shard| shard.reset(Some(mask), options))
    }

    /// Moves every environment by its action. Allocates nothing.
    ///
    /// # Errors
    /// No reset came before, lengths that do not fit, or some environments failed
    /// ([`Error::Lanes`], and [`Buffers::errors`] has each); these have not moved, the others have.
    pub fn step(&mut self, actions: &[E::Act], out: &mut Buffers) -> Result<()> {
        ensure_len("actions", self.lanes.len(), actions.len())?;
        if !self.started {
            return Err(Error::NotRunning { found: "no episode yet" });
        }
        let mode = self.mode;
        self.run(out, |shard| shard.step(actions, mode))
    }

    /// Runs `work`, such as a whole roll-out, on a thread of this vector. A step made from outside
    /// hands its work over and waits for it, some 50 microseconds that matter to quick worlds, and
    /// for which the thread pool allocates a small block every few dozen steps; steps made in here
    /// hand nothing over and allocate nothing at all.
    pub fn install<R: Send>(&mut self, work: impl FnOnce(&mut Self) -> R + Send) -> R {
        match self.pool.clone() {
            Some(pool) => pool.install(|| work(self)),
            None => work(self),
        }
    }

    fn run(
        &mut self,
        out: &mut Buffers,
        work: impl Fn(&mut Shard<'_, E>) -> Failures + Sync,
    ) -> Result<()> {
        out.check(self.lanes.len(), self.obs_len, self.mode)?;
        let fresh = out.begin(self.id, self.tick);
        self.tick += 1;
        let count = self.lanes.len();
        let shard = Shard::new(&mut self.lanes, out, self.obs_len, fresh);
        let failures = match &self.pool {
            None => shard.run(usize::MAX, &work),
            Some(pool) => {
                // pieces small enough that no thread waits long for the last one of another: an ant
                // that lies in its contacts takes several times as long as one that walks
                let grain = count.div_ceil(16 * pool.current_num_threads()).max(1);
                if pool.current_thread_index().is_some() {
                    shard.run(grain, &work)
                } else {
                    pool.install(|| shard.run(grain, &work))
                }
            }
        };
        out.end(self.id, self.tick, failures.count);
        match failures.first {
            None => Ok(()),
            Some(lane) => {
                let why = out.errors()[lane].as_ref().map(ToString::to_string);
                let why = why.unwrap_or_default();
                Err(Error::Lanes { failed: failures.count, lanes: count, lane, why })
            }
        }
    }

    /// Everything that decides the future of every environment.
    pub fn states(&self) -> Vec<State> {
        self.lanes.iter().map(Env::state).collect()
    }

    /// Goes back to stored states and writes their observations.
    ///
    /// # Errors
    /// The number of states is wrong, or one does not fit; nothing has changed then.
    pub fn set_states(&mut self, states: &[State], out: &mut Buffers) -> Result<()> {
        ensure_len("states", self.lanes.len(), states.len())?;
        out.check(self.lanes.len(), self.obs_len, self.mode)?;
        let before = self.states();
        for (lane, state) in states.iter().enumerate() {
            if let Err(error) = self.lanes[lane].set_state(state) {
                for (env, state) in self.lanes.iter_mut().zip(&before).take(lane) {
                    env.set_state(state)?;
                }
                return Err(error);
            }
        }
        self.started = true;
        // typed here, because the method by its name is tied to one lifetime
        let look = |shard: &mut Shard<'_, E>| shard.look();
        self.run(out, look)
    }
}
