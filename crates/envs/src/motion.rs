//! Expert episodes of the continuous worlds in `.safetensors` files.

use crate::ant::{AntConfig, AntExpert, AntPinpad};
use crate::arena::ArenaConfig;
use crate::columns::{self, Columns, check_sizes, column, write_shards};
use crate::env::{Env, ResetOptions};
use crate::error::{Error, Result, ensure};
use crate::point::{PointExpert, PointPinpad};
use crate::stream::Stream;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Written into every file; a reader refuses others.
const FORMAT: &str = "pinpad motion expert episodes 1";
/// Seeds the noise apart from the world's draws.
const NOISE: u64 = 0x006e_6f69_7365;

/// A continuous world with an expert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "world", content = "config", deny_unknown_fields)]
pub enum MotionConfig {
    /// [`PointPinpad`], solved by [`PointExpert`].
    #[serde(rename = "point-pinpad")]
    Point(ArenaConfig),
    /// [`AntPinpad`], solved by [`AntExpert`]. Needs `MuJoCo`.
    #[serde(rename = "ant-pinpad")]
    Ant(AntConfig),
}

/// What [`generate_motion`] makes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MotionSpec {
    /// Number of files.
    pub shards: usize,
    /// Successful episodes in each.
    pub episodes: usize,
    /// Seed of worlds and noise.
    pub seed: u64,
    /// Standard deviation of the Gaussian noise on every action, before it is clamped to -1 to 1.
    /// The paper draws its base model's data from the expert's Gaussian and its metacontroller's
    /// from the mean, that is 0 (C.4.4).
    pub noise: f64,
    /// Threads, 1 to 1024.
    pub threads: usize,
}

impl Default for MotionSpec {
    fn default() -> Self {
        Self { shards: 1, episodes: 256, seed: 0, noise: 0.1, threads: 1 }
    }
}

/// One episode.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MotionEpisode {
    /// Stream of the seed: `world.seed(spec.seed, index)` and a reset begin the episode again, and
    /// its actions play it to the bit.
    pub index: u64,
    /// Index of the task in the world's list.
    pub task: i32,
    /// Observations before each action and after the last, `[steps + 1, observation]`.
    pub obs: Vec<f32>,
    /// Actions as they were given to the world, `[steps, action]`.
    pub actions: Vec<f32>,
    /// Label of the subgoal in pursuit when each action was chosen: `steps`.
    pub subgoals: Vec<i8>,
}

/// Plays the expert of a continuous world and writes `episodes-00000.safetensors` and so on into a
/// folder, each file complete or not at all. The same arguments give the same bytes, whatever the
/// number of threads. Episodes without success are played but not kept.
///
/// # Errors
/// A field that does not fit, no `MuJoCo` for the ant, a world in which the expert hardly ever
/// succeeds, or a refusal of the system.
pub fn generate_motion(
    config: &MotionConfig,
    spec: &MotionSpec,
    dir: impl AsRef<Path>,
) -> Result<Vec<PathBuf>> {
    check_sizes(spec.shards, spec.episodes, spec.threads)?;
    let fits = spec.noise.is_finite() && spec.noise >= 0.0;
    ensure(fits, "noise", || "a finite number, at least 0".into(), spec.noise)?;
    match config {
        MotionConfig::Point(arena) => {
            PointPinpad::new(arena)?;
        }
        MotionConfig::Ant(ant) => {
            AntPinpad::new(ant)?;
        }
    }
    write_shards(dir.as_ref(), spec.shards, spec.threads, |shard| {
        let mut builder = Builder { offsets: vec![0], ..Builder::default() };
        match config {
            MotionConfig::Point(arena) => {
                let mut world = PointPinpad::new(arena)?;
                let mut expert = PointExpert::new(0.0, 0)?;
                builder.fill(&mut world, spec, shard as u64, |world, _| expert.act(world))?;
            }
            MotionConfig::Ant(ant) => {
                let mut world = AntPinpad::new(ant)?;
                let mut expert = AntExpert::new();
                builder.fill(&mut world, spec, shard as u64, |world, first| {
                    if first {
                        expert = AntExpert::new();
                    }
                    expert.act(world)
                })?;
            }
        }
        builder.bytes(config, spec)
    })
}

/// Columns of a file that grows.
#[derive(Default)]
struct Builder {
    offsets: Vec<i64>,
    index: Vec<i64>,
    task: Vec<i32>,
    obs: Vec<f32>,
    actions: Vec<f32>,
    subgoals: Vec<i8>,
    obs_len: usize,
    action_len: usize,
}

impl Builder {
    /// Plays until there are enough successes. `act` chooses an action and is told of the first one
    /// of an episode.
    fn fill<const N: usize, W: Env<Act = [f64; N]>>(
        &mut self,
        world: &mut W,
        spec: &MotionSpec,
        shard: u64,
        mut act: impl FnMut(&mut W, bool) -> [f64; N],
    ) -> Result<()> {
        (self.obs_len, self.action_len) = (world.observation_space().len(), N);
        let most = 100 * spec.episodes as u64 + 1000;
        let mut episode = MotionEpisode::default();
        for attempt in 0..most {
            episode.index = shard * columns::STRIDE + attempt;
            if play(world, spec, &mut episode, &mut act)? {
                self.push(&episode);
                if self.index.len() == spec.episodes {
                    return Ok(());
                }
            }
        }
        let found = format!("{} in {most} episodes", self.index.len());
        Err(Error::argument("episodes", format!("{} successes", spec.episodes), found))
    }

    fn push(&mut self, episode: &MotionEpisode) {
        self.obs.extend(&episode.obs);
        self.actions.extend(&episode.actions);
        self.subgoals.extend(&episode.subgoals);
        self.offsets.push(self.subgoals.len() as i64);
        self.index.push(episode.index as i64);
        self.task.push(episode.task);
    }

    fn bytes(&self, config: &MotionConfig, spec: &MotionSpec) -> Result<Vec<u8>> {
        let (n, steps) = (self.index.len(), self.subgoals.len());
        let columns = [
            column!("actions", F32, [steps, self.action_len], self.actions),
            column!("index", I64, [n], self.index),
            column!("obs", F32, [steps + n, self.obs_len], self.obs),
            column!("offsets", I64, [n + 1], self.offsets),
            column!("subgoals", I8, [steps], self.subgoals),
            column!("task", I32, [n], self.task),
        ];
        let about = About {
            format: FORMAT.into(),
            config: config.clone(),
            spec: MotionSpec { threads: 1, ..spec.clone() },
            obs_len: self.obs_len,
            action_len: self.action_len,
        };
        columns::encode(&columns, &about)
    }
}

/// Plays one episode; whether it ended in success.
fn play<const N: usize, W: Env<Act = [f64; N]>>(
    world: &mut W,
    spec: &MotionSpec,
    out: &mut MotionEpisode,
    act: &mut impl FnMut(&mut W, bool) -> [f64; N],
) -> Result<bool> {
    let obs_len = world.observation_space().len();
    world.seed(spec.seed, out.index);
    let mut noise = Stream::new(spec.seed ^ NOISE, out.index);
    let mut info = world.restart(&ResetOptions::default())?;
    out.task = info.task;
    out.obs.clear();
    out.actions.clear();
    out.subgoals.clear();
    let observe = |world: &W, obs: &mut Vec<f32>| {
        let from = obs.len();
        obs.resize(from + obs_len, 0.0);
        world.observe(&mut obs[from..])
    };
    observe(world, &mut out.obs)?;
    loop {
        let mut action = act(world, out.subgoals.is_empty());
        for value in &mut action {
            if spec.noise > 0.0 {
                *value += spec.noise * noise.normal();
            }
            // what the file holds is what the world gets
            *value = f64::from(value.clamp(-1.0, 1.0) as f32);
            out.actions.push(*value as f32);
        }
        out.subgoals.push(info.subgoal as i8);
        let step = world.advance(&action)?;
        info = step.info;
        observe(world, &mut out.obs)?;
        if step.ended() {
            return Ok(step.reward > 0.0);
        }
    }
}

/// The metadata of a file.
#[derive(Serialize, Deserialize)]
struct About {
    format: String,
    config: MotionConfig,
    spec: MotionSpec,
    obs_len: usize,
    action_len: usize,
}

/// Episodes read from a file.
#[derive(Clone, Debug)]
pub struct MotionShard {
    config: MotionConfig,
    spec: MotionSpec,
    obs_len: usize,
    action_len: usize,
    offsets: Vec<usize>,
    index: Vec<i64>,
    task: Vec<i64>,
    obs: Vec<f32>,
    actions: Vec<f32>,
    subgoals: Vec<i8>,
}

impl MotionShard {
    /// Reads a file of [`generate_motion`].
    ///
    /// # Errors
    /// The system refuses, or the file is damaged, of another format, or holds impossible values.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = columns::read(path)?;
        let file = Columns::decode(path, &bytes)?;
        let About { config, spec, obs_len, action_len, .. } = file.about(FORMAT)?;
        let arena = match &config {
            MotionConfig::Point(arena) => arena,
            MotionConfig::Ant(ant) => &ant.arena,
        };
        let valid = crate::arena::Arena::new(arena);
        valid.map_err(|e| file.wrong("about.config", "a valid one", e))?;
        let subgoals = file.numbers("subgoals", Dtype::I8)?;
        let total = subgoals.len();
        let offsets = file.offsets(total)?;
        let n = offsets.len() - 1;
        file.whole("subgoals", Dtype::I8, total, -1..=127)?;
        let size = |field: &str, rows: usize, len: usize| {
            rows.checked_mul(len).ok_or_else(|| file.wrong(field, "a sensible size", len))
        };
        Ok(Self {
            obs: file.floats("obs", size("about.obs_len", total + n, obs_len)?)?,
            actions: file.floats("actions", size("about.action_len", total, action_len)?)?,
            index: file.whole("index", Dtype::I64, n, 0..=i64::MAX)?,
            task: file.whole("task", Dtype::I32, n, 0..=i64::from(i32::MAX))?,
            subgoals: subgoals.iter().map(|v| *v as i8).collect(),
            offsets,
            config,
            spec,
            obs_len,
            action_len,
        })
    }

    /// The world in which the episodes were played.
    pub fn config(&self) -> &MotionConfig {
        &self.config
    }

    /// How they were made.
    pub fn spec(&self) -> &MotionSpec {
        &self.spec
    }

    /// Number of episodes.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Numbers of an observation.
    pub fn obs_len(&self) -> usize {
        self.obs_len
    }

    /// Numbers of an action.
    pub fn action_len(&self) -> usize {
        self.action_len
    }

    /// One episode.
    ///
    /// # Errors
    /// There is no such episode.
    pub fn episode(&self, at: usize) -> Result<MotionEpisode> {
        let n = self.len();
        ensure(at < n, "at", || format!("below {n}"), at)?;
        let (from, to) = (self.offsets[at], self.offsets[at + 1]);
        Ok(MotionEpisode {
            index: self.index[at] as u64,
            task: self.task[at] as i32,
            obs: self.obs[(from + at) * self.obs_len..(to + at + 1) * self.obs_len].to_vec(),
            actions: self.actions[from * self.action_len..to * self.action_len].to_vec(),
            subgoals: self.subgoals[from..to].to_vec(),
        })
    }
}
