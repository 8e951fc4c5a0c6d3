//! Expert episodes of the grid world in `.safetensors` files.

use crate::error::{Error, Result, ensure};
use crate::expert::{Expert, Trajectory};
use crate::file::write_atomic;
use crate::layout::Layout;
use crate::pinpad::{GridConfig, GridPinpad};
use rayon::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Written into every file; a reader refuses others.
const FORMAT: &str = "gridworld-pinpad expert episodes 1";
/// Most episodes of one file.
const MOST: usize = 10_000_000;
/// Shards draw episodes from ranges of indices that never meet.
const STRIDE: u64 = 1 << 32;

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
    let dir = dir.as_ref();
    let count = |n: usize, most: usize| (1..=most).contains(&n);
    ensure(count(spec.shards, 100_000), "shards", || "1 to 100000".into(), spec.shards)?;
    ensure(count(spec.episodes, MOST), "episodes", || format!("1 to {MOST}"), spec.episodes)?;
    ensure(count(spec.threads, 1024), "threads", || "1 to 1024".into(), spec.threads)?;
    let world = GridPinpad::new(config)?;
    Expert::new(&world, spec.epsilon)?;
    std::fs::create_dir_all(dir).map_err(|source| Error::Io { path: dir.into(), source })?;
    let one = |shard: usize| {
        let mut builder = Builder::new(config);
        builder.play(&mut world.clone(), spec, shard as u64)?;
        let path = dir.join(format!("episodes-{shard:05}.safetensors"));
        write_atomic(&path, &builder.bytes(config, spec)?)?;
        Ok(path)
    };
    if spec.threads == 1 {
        return (0..spec.shards).map(one).collect();
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(spec.threads).build();
    let pool = pool.map_err(|e| Error::argument("threads", "threads that start", e))?;
    pool.install(|| (0..spec.shards).into_par_iter().map(one).collect())
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
            let index = shard * STRIDE + attempt;
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
        macro_rules! bytes {
            ($values:expr) => {
                $values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>()
            };
        }
        let (n, steps) = (self.index.len(), self.actions.len());
        let columns = [
            ("actions", Dtype::U8, vec![steps], bytes!(self.actions)),
            ("cells", Dtype::U16, vec![steps + n], bytes!(self.cells)),
            ("index", Dtype::I64, vec![n], bytes!(self.index)),
            ("key", Dtype::I64, vec![n], bytes!(self.key)),
            ("offsets", Dtype::I64, vec![n + 1], bytes!(self.offsets)),
            ("pads", Dtype::U16, vec![n, self.n_pads], bytes!(self.pads)),
            ("start", Dtype::U16, vec![n], bytes!(self.start)),
            ("subgoals", Dtype::I8, vec![steps], bytes!(self.subgoals)),
            ("task", Dtype::I32, vec![n], bytes!(self.task)),
            ("walls", Dtype::U16, vec![n, self.n_walls], bytes!(self.walls)),
        ];
        let failed = |e: &dyn Display| Error::argument("episodes", "a file", e);
        let mut views = Vec::with_capacity(columns.len());
        for (name, dtype, shape, data) in &columns {
            let view = TensorView::new(*dtype, shape.clone(), data).map_err(|e| failed(&e))?;
            views.push((*name, view));
        }
        // one entry: the order in a map of several would differ from run to run
        let about = About {
            format: FORMAT.into(),
            config: config.clone(),
            spec: ShardSpec { threads: 1, ..spec.clone() },
        };
        let about = serde_json::to_string(&about).map_err(|e| failed(&e))?;
        let meta = [("about".to_owned(), about)].into_iter().collect();
        safetensors::serialize(views, Some(meta)).map_err(|e| failed(&e))
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
        let bytes =
            std::fs::read(path).map_err(|source| Error::Io { path: path.into(), source })?;
        Reader { path, bytes: &bytes }.read()
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

struct Reader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn wrong(&self, field: &str, expected: impl Into<String>, found: impl Display) -> Error {
        Error::Format {
            path: self.path.into(),
            field: field.into(),
            expected: expected.into(),
            found: found.to_string(),
        }
    }

    fn read(&self) -> Result<Shard> {
        let damaged = |e: &dyn Display| self.wrong("header", "a safetensors file", e);
        let (_, header) = SafeTensors::read_metadata(self.bytes).map_err(|e| damaged(&e))?;
        let file = SafeTensors::deserialize(self.bytes).map_err(|e| damaged(&e))?;
        let about = header.metadata().as_ref().and_then(|m| m.get("about"));
        let about = about.ok_or_else(|| self.wrong("about", FORMAT, "nothing"))?;
        let about: About =
            serde_json::from_str(about).map_err(|e| self.wrong("about", FORMAT, e))?;
        if about.format != FORMAT {
            return Err(self.wrong("about.format", FORMAT, about.format));
        }
        let config = about.config;
        let (geometry, tasks) =
            config.validate().map_err(|e| self.wrong("about.config", "a valid one", e))?;
        let offsets = self.numbers(&file, "offsets", Dtype::I64)?;
        let n = offsets.len().saturating_sub(1);
        let actions = self.numbers(&file, "actions", Dtype::U8)?;
        let steps = actions.len() as i64;
        let rising = offsets.windows(2).all(|w| w[0] < w[1]);
        if !rising || offsets.first() != Some(&0) || offsets.last() != Some(&steps) {
            return Err(self.wrong("offsets", format!("rising from 0 to {steps}"), "others"));
        }
        let cell = 0..=geometry.cells() as i64 - 1;
        let column = |name: &str, dtype, len: usize, range: std::ops::RangeInclusive<i64>| {
            let values = self.numbers(&file, name, dtype)?;
            if values.len() != len {
                return Err(self.wrong(name, format!("{len} values"), values.len()));
            }
            match values.iter().find(|v| !range.contains(v)) {
                Some(v) => Err(self.wrong(name, format!("{range:?}"), v)),
                None => Ok(values),
            }
        };
        let total = actions.len();
        column("actions", Dtype::U8, total, 0..=3)?;
        let subgoals = column("subgoals", Dtype::I8, total, -1..=127)?;
        let cells = column("cells", Dtype::U16, total + n, cell.clone())?;
        let pads = column("pads", Dtype::U16, n * config.pads, cell.clone())?;
        let walls = column("walls", Dtype::U16, n * config.walls, cell.clone())?;
        let start = column("start", Dtype::U16, n, cell)?;
        let task = column("task", Dtype::I32, n, 0..=tasks.len() as i64 - 1)?;
        let key = column("key", Dtype::I64, n, i64::MIN..=i64::MAX)?;
        let small = |values: &[i64]| values.iter().map(|v| *v as u16).collect::<Vec<u16>>();
        let episode = |k: usize| {
            let pads = small(&pads[k * config.pads..(k + 1) * config.pads]);
            let walls = small(&walls[k * config.walls..(k + 1) * config.walls]);
            (task[k] as i32, key[k] as u64, Layout { pads, walls, agent: start[k] as u16 })
        };
        Ok(Shard {
            offsets: offsets.iter().map(|v| *v as usize).collect(),
            episodes: (0..n).map(episode).collect(),
            cells: small(&cells),
            actions: actions.iter().map(|v| *v as u8).collect(),
            subgoals: subgoals.iter().map(|v| *v as i8).collect(),
            config,
            spec: about.spec,
        })
    }

    /// The values of a tensor of this type, whatever its shape.
    fn numbers(&self, file: &SafeTensors<'_>, name: &str, dtype: Dtype) -> Result<Vec<i64>> {
        let tensor = file.tensor(name).map_err(|e| self.wrong(name, "a tensor", e))?;
        if tensor.dtype() != dtype {
            let found = format!("{:?}", tensor.dtype());
            return Err(self.wrong(name, format!("{dtype:?}"), found));
        }
        let data = tensor.data();
        Ok(match dtype {
            Dtype::U8 => data.iter().map(|b| i64::from(*b)).collect(),
            Dtype::I8 => data.iter().map(|b| i64::from(*b as i8)).collect(),
            Dtype::U16 => little(data, |b| i64::from(u16::from_le_bytes(b))),
            Dtype::I32 => little(data, |b| i64::from(i32::from_le_bytes(b))),
            _ => little(data, i64::from_le_bytes),
        })
    }
}

fn little<const N: usize>(data: &[u8], one: impl Fn([u8; N]) -> i64) -> Vec<i64> {
    data.as_chunks().0.iter().map(|b| one(*b)).collect()
}
