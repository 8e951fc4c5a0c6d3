//! Files of episodes: named columns in `.safetensors`, complete or absent, checked when read.

use crate::error::{Error, Result, ensure};
use crate::file::write_atomic;
use rayon::prelude::*;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

/// Most episodes of one file.
pub(crate) const MOST: usize = 10_000_000;
/// Files draw episodes from ranges of indices that never meet.
pub(crate) const STRIDE: u64 = 1 << 32;

/// Checks the sizes that every kind of shard has.
pub(crate) fn check_sizes(shards: usize, episodes: usize, threads: usize) -> Result<()> {
    let count = |n: usize, most: usize| (1..=most).contains(&n);
    ensure(count(shards, 100_000), "shards", || "1 to 100000".into(), shards)?;
    ensure(count(episodes, MOST), "episodes", || format!("1 to {MOST}"), episodes)?;
    ensure(count(threads, 1024), "threads", || "1 to 1024".into(), threads)
}

/// Writes `episodes-00000.safetensors` and so on, each with the bytes that `make` gives for its
/// number.
pub(crate) fn write_shards(
    dir: &Path,
    shards: usize,
    threads: usize,
    make: impl Fn(usize) -> Result<Vec<u8>> + Sync,
) -> Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir).map_err(|source| Error::Io { path: dir.into(), source })?;
    let one = |shard: usize| {
        let bytes = make(shard)?;
        let path = dir.join(format!("episodes-{shard:05}.safetensors"));
        write_atomic(&path, &bytes)?;
        Ok(path)
    };
    if threads == 1 {
        return (0..shards).map(one).collect();
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| Error::argument("threads", "threads that start", e))?;
    pool.install(|| (0..shards).into_par_iter().map(one).collect())
}

/// A column: name, type, shape, bytes in little-endian order.
pub(crate) type Column = (&'static str, Dtype, Vec<usize>, Vec<u8>);

/// A column of the values of a slice.
macro_rules! column {
    ($name:expr, $dtype:ident, $shape:expr, $values:expr) => {
        (
            $name,
            safetensors::Dtype::$dtype,
            $shape.to_vec(),
            $values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(),
        )
    };
}
pub(crate) use column;

/// The bytes of a file with these columns, described by `about`.
pub(crate) fn encode(columns: &[Column], about: &impl Serialize) -> Result<Vec<u8>> {
    let failed = |e: &dyn Display| Error::argument("episodes", "a file", e);
    let mut views = Vec::with_capacity(columns.len());
    for (name, dtype, shape, data) in columns {
        let view = TensorView::new(*dtype, shape.clone(), data).map_err(|e| failed(&e))?;
        views.push((*name, view));
    }
    // one entry: the order in a map of several would differ from run to run
    let about = serde_json::to_string(about).map_err(|e| failed(&e))?;
    let meta = [("about".to_owned(), about)].into_iter().collect();
    safetensors::serialize(views, Some(meta)).map_err(|e| failed(&e))
}

/// A file that is being read.
pub(crate) struct Columns<'a> {
    path: &'a Path,
    file: SafeTensors<'a>,
    about: String,
}

/// An error about a part of a file.
fn wrong(path: &Path, field: &str, expected: impl Into<String>, found: impl Display) -> Error {
    Error::Format {
        path: path.into(),
        field: field.into(),
        expected: expected.into(),
        found: found.to_string(),
    }
}

impl<'a> Columns<'a> {
    pub(crate) fn decode(path: &'a Path, bytes: &'a [u8]) -> Result<Self> {
        let damaged = |e: &dyn Display| wrong(path, "header", "a safetensors file", e);
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| damaged(&e))?;
        let file = SafeTensors::deserialize(bytes).map_err(|e| damaged(&e))?;
        let about = header.metadata().as_ref().and_then(|m| m.get("about"));
        let about = about.ok_or_else(|| wrong(path, "about", "a description", "nothing"))?.clone();
        Ok(Self { path, file, about })
    }

    /// The description, which must say `format` in its field of that name.
    pub(crate) fn about<T: DeserializeOwned>(&self, format: &str) -> Result<T> {
        let named: serde_json::Value =
            serde_json::from_str(&self.about).map_err(|e| self.wrong("about", format, e))?;
        let found = &named["format"];
        if found != format {
            return Err(self.wrong("about.format", format, found));
        }
        serde_json::from_str(&self.about).map_err(|e| self.wrong("about", format, e))
    }

    pub(crate) fn wrong(
        &self,
        field: &str,
        expected: impl Into<String>,
        found: impl Display,
    ) -> Error {
        wrong(self.path, field, expected, found)
    }

    /// Where each episode begins and the last one ends, of `steps` steps in all.
    pub(crate) fn offsets(&self, steps: usize) -> Result<Vec<usize>> {
        let offsets = self.numbers("offsets", Dtype::I64)?;
        let rising = offsets.windows(2).all(|w| w[0] < w[1]);
        if !rising || offsets.first() != Some(&0) || offsets.last() != Some(&(steps as i64)) {
            return Err(self.wrong("offsets", format!("rising from 0 to {steps}"), "others"));
        }
        Ok(offsets.iter().map(|v| *v as usize).collect())
    }

    /// Whole numbers, so many of them and all in a range.
    pub(crate) fn whole(
        &self,
        name: &str,
        dtype: Dtype,
        len: usize,
        range: RangeInclusive<i64>,
    ) -> Result<Vec<i64>> {
        let values = self.numbers(name, dtype)?;
        self.ensure_len(name, len, values.len())?;
        match values.iter().find(|v| !range.contains(v)) {
            Some(v) => Err(self.wrong(name, format!("{range:?}"), v)),
            None => Ok(values),
        }
    }

    /// Single-precision numbers, so many of them and all finite.
    pub(crate) fn floats(&self, name: &str, len: usize) -> Result<Vec<f32>> {
        let values = little(self.data(name, Dtype::F32)?, f32::from_le_bytes);
        self.ensure_len(name, len, values.len())?;
        match values.iter().find(|v| !v.is_finite()) {
            Some(v) => Err(self.wrong(name, "finite numbers", v)),
            None => Ok(values),
        }
    }

    /// The values of a tensor of this type, whatever its shape.
    pub(crate) fn numbers(&self, name: &str, dtype: Dtype) -> Result<Vec<i64>> {
        let data = self.data(name, dtype)?;
        Ok(match dtype {
            Dtype::U8 => data.iter().map(|b| i64::from(*b)).collect(),
            Dtype::I8 => data.iter().map(|b| i64::from(*b as i8)).collect(),
            Dtype::U16 => little(data, |b| i64::from(u16::from_le_bytes(b))),
            Dtype::I32 => little(data, |b| i64::from(i32::from_le_bytes(b))),
            _ => little(data, i64::from_le_bytes),
        })
    }

    fn data(&self, name: &str, dtype: Dtype) -> Result<&'a [u8]> {
        let tensor = self.file.tensor(name).map_err(|e| self.wrong(name, "a tensor", e))?;
        if tensor.dtype() != dtype {
            let found = format!("{:?}", tensor.dtype());
            return Err(self.wrong(name, format!("{dtype:?}"), found));
        }
        Ok(tensor.data())
    }

    fn ensure_len(&self, name: &str, expected: usize, found: usize) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        Err(self.wrong(name, format!("{expected} values"), found))
    }
}

fn little<const N: usize, T>(data: &[u8], one: impl Fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks().0.iter().map(|b| one(*b)).collect()
}

/// The bytes of a file.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::Io { path: path.into(), source })
}
