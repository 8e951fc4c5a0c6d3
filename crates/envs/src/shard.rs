//! Expert episodes of the grid world in `.safetensors` files.

use crate::columns::{self, Columns, check_sizes, column, write_shards};
use crate::error::{Error, Result, ensure};
use crate::expert::{Expert, Trajectory};
use crate::layout::Layout;
use crate::pinpad::{GridConfig, GridPinpad};
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Written into every file; a reader refuses others.
const FORMAT: &str = "gridworld-pinpad expert episodes 1";

/// What [`generate`] makes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShardSpec {
    /// Number of files.
    pub shards: usize,
    /// Successful episodes in each.
    pub episodes: usize,
    /// Seed of layouts, tasks and choices.
    pub seed: u64,
    /// Probability that an action is replaced by a random one that enters no wrong pad.
    pub epsilon: f64,
    /// Threads, 1 to 1024.
    pub threads: usize,
}

impl Default for ShardSpec {
    fn default() -> Self {
        Self { shards: 1, episodes: 1024, seed: 0, epsilon: 0.0, threads: 1 }
    }
}

/// Plays the expert and writes `episodes-00000.safetensors` and so on into a folder, each file
/// complete or not at all. The same configuration and specification give the same bytes, whatever
/// the number of threads. Episodes without success are played but not kept.
///
/// # Errors
/// A field that does not fit, a world in which the expert hardly ever succeeds, or a refusal of
/// the system.
pub fn generate(
    config: &GridConfig,
    spec: &ShardSpec,
    dir: impl AsRef<Path>,
) -> Result<Vec<PathBuf>> {
    check_sizes(spec.shards, spec.episodes, spec.threads)?;
    let world = GridPinpad::new(config)?;
    Expert::new(&world, spec.epsilon)?;
    write_shards(dir.as_ref(), spec.shards, spec.threads, |shard| {
        let mut builder = Builder::new(config);
        builder.play(&mut world.clone(), spec, shard as u64)?;
        builder.bytes(config, spec)
    })
}

/// Columns of a file that grows.
#[derive(Default)]
struct Builder {
    offsets: Vec<i64>,
    index: Vec<i64>,
    key: Vec<i64>,
    task: Vec<i32>,
    start: Vec<u16>,
    pads: Vec<u16>,
    walls: Vec<u16>,
    cells: Vec<u16>,
    actions: Vec<u8>,
    subgoals: Vec<i8>,
    n_pads: usize,
    n_walls: usize,
}

impl Builder {
    fn new(config: &GridConfig) -> Self {
        let (n_pads, n_walls) = (config.pads, config.walls);
        Self { offsets: vec![0], n_pads, n_walls, ..Self::default() }
    }

    fn play(&mut self, world: &mut GridPinpad, spec: &ShardSpec, shard: u64) -> Result<()> {
        let mut expert = Expert::new(world, spec.epsilon)?;
        let mut episode = Trajectory::default();
        let most = 100 * spec.episodes as u64 + 1000;
        for attempt in 0..most {
            let index = shard * columns::STRIDE + attempt;
            expert.play(world, spec.seed, index, &mut episode)?;
            if episode.success {
                self.push(&episode, index);
                if self.index.len() == spec.episodes {
                    return Ok(());
                }
            }
        }
        let found = format!("{} in {most} episodes", self.index.len());
        Err(Error::argument("episodes", format!("{} successes", spec.episodes), found))
    }

    fn push(&mut self, episode: &Trajectory, index: u64) {
        self.cells.extend(&episode.cells);
        self.actions.extend(&episode.actions);
        self.subgoals.extend(&episode.subgoals);
        self.offsets.push(self.actions.len() as i64);
        self.index.push(index as i64);
        self.key.push(episode.key as i64);
        self.task.push(episode.task);
        self.start.push(episode.layout.agent);
        self.pads.extend(&episode.layout.pads);
        self.walls.extend(&episode.layout.walls);
    }

    fn bytes(&self, config: &GridConfig, spec: &ShardSpec) -> Result<Vec<u8>> {
        let (n, steps) = (self.index.len(), self.actions.len());
        let columns = [
            column!("actions", U8, [steps], self.actions),
            column!("cells", U16, [steps + n], self.cells),
            column!("index", I64, [n], self.index),
            column!("key", I64, [n], self.key),
            column!("offsets", I64, [n + 1], self.offsets),
            column!("pads", U16, [n, self.n_pads], self.pads),
            column!("start", U16, [n], self.start),
            column!("subgoals", I8, [steps], self.subgoals),
            column!("task", I32, [n], self.task),
            column!("walls", U16, [n, self.n_walls], self.walls),
        ];
        let about = About {
            format: FORMAT.into(),
            config: config.clone(),
            spec: ShardSpec { threads: 1, ..spec.clone() },
        };
        columns::encode(&columns, &about)
    }
}

/// The metadata of a file.
#[derive(Serialize, Deserialize)]
struct About {
    format: String,
    config: GridConfig,
    spec: ShardSpec,
}

/// Episodes read from a file.
#[derive(Clone, Debug)]
pub struct Shard {
    config: GridConfig,
    spec: ShardSpec,
    offsets: Vec<usize>,
    episodes: Vec<(i32, u64, Layout)>,
    cells: Vec<u16>,
    actions: Vec<u8>,
    subgoals: Vec<i8>,
}

impl Shard {
    /// Reads a file of [`generate`].
    ///
    /// # Errors
    /// The system refuses, or the file is damaged, of another format, or holds impossible values.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = columns::read(path)?;
        Self::decode(&Columns::decode(path, &bytes)?)
    }

    fn decode(file: &Columns<'_>) -> Result<Self> {
        let About { config, spec, .. } = file.about(FORMAT)?;
        let (geometry, tasks) =
            config.validate().map_err(|e| file.wrong("about.config", "a valid one", e))?;
        let actions = file.numbers("actions", Dtype::U8)?;
        let total = actions.len();
        let offsets = file.offsets(total)?;
        let n = offsets.len() - 1;
        let cell = 0..=geometry.cells() as i64 - 1;
        file.whole("actions", Dtype::U8, total, 0..=3)?;
        let subgoals = file.whole("subgoals", Dtype::I8, total, -1..=127)?;
        let cells = file.whole("cells", Dtype::U16, total + n, cell.clone())?;
        let pads = file.whole("pads", Dtype::U16, n * config.pads, cell.clone())?;
        let walls = file.whole("walls", Dtype::U16, n * config.walls, cell.clone())?;
        let start = file.whole("start", Dtype::U16, n, cell)?;
        let task = file.whole("task", Dtype::I32, n, 0..=tasks.len() as i64 - 1)?;
        let key = file.whole("key", Dtype::I64, n, i64::MIN..=i64::MAX)?;
        let small = |values: &[i64]| values.iter().map(|v| *v as u16).collect::<Vec<u16>>();
        let episode = |k: usize| {
            let pads = small(&pads[k * config.pads..(k + 1) * config.pads]);
            let walls = small(&walls[k * config.walls..(k + 1) * config.walls]);
            (task[k] as i32, key[k] as u64, Layout { pads, walls, agent: start[k] as u16 })
        };
        Ok(Self {
            offsets,
            episodes: (0..n).map(episode).collect(),
            cells: small(&cells),
            actions: actions.iter().map(|v| *v as u8).collect(),
            subgoals: subgoals.iter().map(|v| *v as i8).collect(),
            config,
            spec,
        })
    }

    /// The world in which the episodes were played.
    pub fn config(&self) -> &GridConfig {
        &self.config
    }

    /// How they were made.
    pub fn spec(&self) -> &ShardSpec {
        &self.spec
    }

    /// Number of episodes.
    pub fn len(&self) -> usize {
        self.episodes.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.episodes.is_empty()
    }

    /// One episode; [`GridPinpad::recall`] and its actions give its observations again.
    ///
    /// # Errors
    /// There is no such episode.
    pub fn episode(&self, at: usize) -> Result<Trajectory> {
        let n = self.len();
        ensure(at < n, "at", || format!("below {n}"), at)?;
        let (task, key, layout) = self.episodes[at].clone();
        let (from, to) = (self.offsets[at], self.offsets[at + 1]);
        Ok(Trajectory {
            task,
            layout,
            key,
            cells: self.cells[from + at..=to + at].to_vec(),
            actions: self.actions[from..to].to_vec(),
            subgoals: self.subgoals[from..to].to_vec(),
            success: true,
        })
    }
}
