//! One golden file: its tensors and its string metadata, with getters that say what is missing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use ndarray::{ArrayD, IxDyn};
use safetensors::{Dtype, SafeTensors};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Element type of a stored tensor, as far as golden files use them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 64-bit float.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// bfloat16.
    Bf16,
    /// 64-bit integer.
    I64,
    /// 32-bit integer.
    I32,
    /// Unsigned byte.
    U8,
    /// Boolean, one byte each.
    Bool,
}

impl Kind {
    fn from_dtype(dtype: Dtype) -> Option<Self> {
        Some(match dtype {
            Dtype::F64 => Self::F64,
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::Bf16,
            Dtype::I64 => Self::I64,
            Dtype::I32 => Self::I32,
            Dtype::U8 => Self::U8,
            Dtype::BOOL => Self::Bool,
            _ => return None,
        })
    }

    fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::Bf16)
    }
}

/// Integers keep all 64 bits; floats of every width are exact in float64.
#[derive(Clone, Debug)]
enum Values {
    Float(Vec<f64>),
    Int(Vec<i64>),
}

#[derive(Clone, Debug)]
struct Tensor {
    kind: Kind,
    shape: Vec<usize>,
    values: Values,
}

/// A golden file in memory.
#[derive(Clone, Debug)]
pub struct GoldenFile {
    path: PathBuf,
    meta: BTreeMap<String, String>,
    tensors: BTreeMap<String, Tensor>,
}

impl GoldenFile {
    /// Reads a `.safetensors` file with all its tensors.
    ///
    /// # Errors
    /// The file cannot be read, is not a safetensors file, or holds a tensor of a type that is not
    /// in [`Kind`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
        Self::from_bytes(path, &bytes).with_context(|| format!("golden file {}", path.display()))
    }

    fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self> {
        let (_, header) = SafeTensors::read_metadata(bytes)
            .map_err(|e| anyhow!("not a safetensors file: {e}"))?;
        let meta =
            header.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        let parsed =
            SafeTensors::deserialize(bytes).map_err(|e| anyhow!("not a safetensors file: {e}"))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in parsed.iter() {
            let kind = Kind::from_dtype(view.dtype()).with_context(|| {
                format!("tensor `{name}`: type {:?} is not supported", view.dtype())
            })?;
            let values = decode(kind, view.data());
            let tensor = Tensor { kind, shape: view.shape().to_vec(), values };
            tensors.insert(name.to_owned(), tensor);
        }
        Ok(Self { path: path.to_owned(), meta, tensors })
    }

    /// Where the file lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// File name without `.safetensors`.
    pub fn stem(&self) -> &str {
        self.path.file_stem().and_then(|s| s.to_str()).unwrap_or_default()
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether the file has this tensor (some inputs are optional).
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Element type of a tensor.
    ///
    /// # Errors
    /// No such tensor.
    pub fn kind(&self, name: &str) -> Result<Kind> {
        Ok(self.tensor(name)?.kind)
    }

    /// Shape of a tensor.
    ///
    /// # Errors
    /// No such tensor.
    pub fn shape(&self, name: &str) -> Result<&[usize]> {
        Ok(&self.tensor(name)?.shape)
    }

    /// A tensor of any float type, widened to float64 without loss.
    ///
    /// # Errors
    /// No such tensor, or it holds integers.
    pub fn f64(&self, name: &str) -> Result<ArrayD<f64>> {
        let tensor = self.tensor(name)?;
        let Values::Float(values) = &tensor.values else {
            bail!("tensor `{name}`: expected a float type, found {:?}", tensor.kind)
        };
        shaped(tensor, values.clone())
    }

    /// A tensor of any float type in float32; float64 is rounded to nearest, for tests that run the
    /// same case in single precision.
    ///
    /// # Errors
    /// No such tensor, or it holds integers.
    pub fn f32(&self, name: &str) -> Result<ArrayD<f32>> {
        Ok(self.f64(name)?.mapv(|x| x as f32))
    }

    /// A tensor of any integer type or booleans (0 and 1), widened to int64.
    ///
    /// # Errors
    /// No such tensor, or it holds floats.
    pub fn i64(&self, name: &str) -> Result<ArrayD<i64>> {
        let tensor = self.tensor(name)?;
        let Values::Int(values) = &tensor.values else {
            bail!("tensor `{name}`: expected an integer type, found {:?}", tensor.kind)
        };
        shaped(tensor, values.clone())
    }

    /// A tensor of 32-bit integers, bytes or booleans.
    ///
    /// # Errors
    /// As [`GoldenFile::i64`], or a value does not fit.
    pub fn i32(&self, name: &str) -> Result<ArrayD<i32>> {
        self.narrowed(name, "int32")
    }

    /// A tensor of bytes, or of integers that all fit a byte.
    ///
    /// # Errors
    /// As [`GoldenFile::i64`], or a value does not fit.
    pub fn u8(&self, name: &str) -> Result<ArrayD<u8>> {
        self.narrowed(name, "uint8")
    }

    /// A tensor of integers that are all zero or positive, as sizes and indices are.
    ///
    /// # Errors
    /// As [`GoldenFile::i64`], or a value is negative.
    pub fn usize(&self, name: &str) -> Result<ArrayD<usize>> {
        self.narrowed(name, "usize")
    }

    /// A tensor of booleans, or of integers that are all 0 or 1.
    ///
    /// # Errors
    /// As [`GoldenFile::i64`], or a value is neither 0 nor 1.
    pub fn bool(&self, name: &str) -> Result<ArrayD<bool>> {
        let values = self.i64(name)?;
        if let Some((index, value)) = values.indexed_iter().find(|(_, v)| !matches!(v, 0 | 1)) {
            bail!(
                "tensor `{name}` at {:?}: expected 0 or 1, found {value}",
                ndarray::Dimension::slice(&index)
            );
        }
        Ok(values.mapv(|v| v == 1))
    }

    /// The only element of a float or integer tensor of shape `[]` or `[1]`.
    ///
    /// # Errors
    /// No such tensor, or it has another number of elements.
    pub fn scalar(&self, name: &str) -> Result<f64> {
        let values = self.any_f64(name)?;
        ensure!(
            values.len() == 1,
            "tensor `{name}`: expected one element, found shape {:?}",
            values.shape()
        );
        values.first().copied().context("one element")
    }

    /// A tensor of any type in float64, as the comparisons take it. Integers beyond 2^53 are rounded.
    ///
    /// # Errors
    /// No such tensor.
    pub fn any_f64(&self, name: &str) -> Result<ArrayD<f64>> {
        let tensor = self.tensor(name)?;
        match &tensor.values {
            Values::Float(values) => shaped(tensor, values.clone()),
            Values::Int(values) => shaped(tensor, values.iter().map(|&v| v as f64).collect()),
        }
    }

    /// Whether the tensor has a float type.
    ///
    /// # Errors
    /// No such tensor.
    pub fn is_float(&self, name: &str) -> Result<bool> {
        Ok(self.tensor(name)?.kind.is_float())
    }

    /// A metadata entry.
    ///
    /// # Errors
    /// No such entry.
    pub fn meta(&self, key: &str) -> Result<&str> {
        self.meta_opt(key)
            .with_context(|| format!("metadata: no entry `{key}`, found {:?}", self.meta.keys()))
    }

    /// A metadata entry that may be absent.
    pub fn meta_opt(&self, key: &str) -> Option<&str> {
        self.meta.get(key).map(String::as_str)
    }

    /// A metadata entry that holds JSON text, parsed.
    ///
    /// # Errors
    /// No such entry, or it is not JSON of the type asked for.
    pub fn meta_json<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        let text = self.meta(key)?;
        serde_json::from_str(text).with_context(|| format!("metadata `{key}`: {text:.200}"))
    }

    /// The metadata entry `params`, a JSON object.
    ///
    /// # Errors
    /// No such entry, or it is not a JSON object.
    pub fn params(&self) -> Result<serde_json::Map<String, Value>> {
        self.meta_json("params")
    }

    /// One entry of `params`.
    ///
    /// # Errors
    /// No such entry, or it has another type.
    pub fn param<T: DeserializeOwned>(&self, key: &str) -> Result<T> {
        self.param_opt(key)?.with_context(|| {
            format!("params: no entry `{key}` in {}", self.meta("params").unwrap_or_default())
        })
    }

    /// One entry of `params` that may be absent or null.
    ///
    /// # Errors
    /// No `params`, or the entry has another type.
    pub fn param_opt<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        match self.params()?.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let text = value.to_string();
                serde_json::from_value(value)
                    .map(Some)
                    .with_context(|| format!("params entry `{key}`: {text:.200}"))
            }
        }
    }

    fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).with_context(|| {
            let names: Vec<&str> = self.names().take(40).collect();
            format!("no tensor `{name}`, found {names:?}")
        })
    }

    fn narrowed<T: TryFrom<i64>>(&self, name: &str, what: &str) -> Result<ArrayD<T>> {
        let tensor = self.tensor(name)?;
        let values = self.i64(name)?;
        let narrow = values
            .iter()
            .map(|&v| {
                T::try_from(v).map_err(|_| anyhow!("tensor `{name}`: expected {what}, found {v}"))
            })
            .collect::<Result<Vec<T>>>()?;
        shaped(tensor, narrow)
    }
}

fn shaped<T>(tensor: &Tensor, values: Vec<T>) -> Result<ArrayD<T>> {
    Ok(ArrayD::from_shape_vec(IxDyn(&tensor.shape), values)?)
}

fn decode(kind: Kind, data: &[u8]) -> Values {
    fn each<const N: usize, T>(data: &[u8], f: impl Fn([u8; N]) -> T) -> Vec<T> {
        data.as_chunks::<N>().0.iter().map(|b| f(*b)).collect()
    }
    match kind {
        Kind::F64 => Values::Float(each(data, f64::from_le_bytes)),
        Kind::F32 => Values::Float(each(data, |b| f64::from(f32::from_le_bytes(b)))),
        Kind::F16 => Values::Float(each(data, |b| half_to_f64(u16::from_le_bytes(b)))),
        Kind::Bf16 => Values::Float(each(data, |b| {
            f64::from(f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))
        })),
        Kind::I64 => Values::Int(each(data, i64::from_le_bytes)),
        Kind::I32 => Values::Int(each(data, |b| i64::from(i32::from_le_bytes(b)))),
        Kind::U8 | Kind::Bool => Values::Int(data.iter().map(|&b| i64::from(b)).collect()),
    }
}

/// IEEE 754 binary16: 1 sign bit, 5 exponent bits (bias 15), 10 fraction bits.
fn half_to_f64(bits: u16) -> f64 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from((bits >> 10) & 0x1f), f64::from(bits & 0x3ff));
    match exponent {
        0 => sign * fraction * 2f64.powi(-24),
        31 => {
            if fraction == 0.0 {
                sign * f64::INFINITY
            } else {
                f64::NAN
            }
        }
        _ => sign * (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "stored values are read back bit for bit")]
mod tests {
    use super::*;
    use safetensors::tensor::TensorView;

    fn bytes_of(tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)], meta: &[(&str, &str)]) -> Vec<u8> {
        let views = tensors
            .iter()
            .map(|(n, d, s, b)| (*n, TensorView::new(*d, s.clone(), b).expect("consistent view")));
        let meta = meta.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        safetensors::serialize(views, Some(meta)).expect("serialises")
    }

    fn sample() -> GoldenFile {
        let f64s: Vec<u8> = [1.5_f64, f64::NAN].iter().flat_map(|x| x.to_le_bytes()).collect();
        let i64s: Vec<u8> = [-3_i64, i64::MAX].iter().flat_map(|x| x.to_le_bytes()).collect();
        let bytes = bytes_of(
            &[
                ("x", Dtype::F64, vec![2, 1], f64s),
                ("n", Dtype::I64, vec![2], i64s),
                (
                    "h",
                    Dtype::F16,
                    vec![3],
                    [0x3c00_u16, 0xc000, 0x0001].iter().flat_map(|b| b.to_le_bytes()).collect(),
                ),
                ("b", Dtype::BF16, vec![], 0x4049_u16.to_le_bytes().to_vec()),
                ("mask", Dtype::BOOL, vec![2], vec![1, 0]),
                ("count", Dtype::I32, vec![1], 7_i32.to_le_bytes().to_vec()),
                ("none", Dtype::F32, vec![0, 4], vec![]),
            ],
            &[("op", "add"), ("params", r#"{"eps": 0.5, "sizes": [1, 2], "gone": null}"#)],
        );
        GoldenFile::from_bytes(Path::new("add__a.safetensors"), &bytes).expect("reads")
    }

    #[test]
    fn reads_every_type() {
        let file = sample();
        assert_eq!(file.stem(), "add__a");
        let x = file.f64("x").unwrap();
        assert_eq!((x.shape(), x[[0, 0]], x[[1, 0]].is_nan()), ([2, 1].as_slice(), 1.5, true));
        assert_eq!(file.i64("n").unwrap().as_slice(), Some([-3, i64::MAX].as_slice()));
        assert_eq!(file.f64("h").unwrap().as_slice(), Some([1.0, -2.0, 2f64.powi(-24)].as_slice()));
        assert_eq!(file.scalar("b").unwrap(), 3.140_625);
        assert_eq!(file.bool("mask").unwrap().as_slice(), Some([true, false].as_slice()));
        assert_eq!((file.i32("count").unwrap()[0], file.u8("count").unwrap()[0]), (7, 7));
        assert_eq!(file.f32("none").unwrap().shape(), [0, 4]);
        assert_eq!(file.kind("h").unwrap(), Kind::F16);
    }

    #[test]
    fn half_floats_at_their_edges() {
        assert_eq!(half_to_f64(0x7bff), 65504.0);
        assert_eq!(half_to_f64(0xfc00), f64::NEG_INFINITY);
        assert!(half_to_f64(0x7e00).is_nan());
        assert_eq!(half_to_f64(0x0400), 2f64.powi(-14));
    }

    #[test]
    fn parses_params() {
        let file = sample();
        assert_eq!(file.param::<f64>("eps").unwrap(), 0.5);
        assert_eq!(file.param::<Vec<i64>>("sizes").unwrap(), [1, 2]);
        assert_eq!(file.param_opt::<f64>("gone").unwrap(), None);
        assert!(file.param::<i64>("eps").is_err());
        assert!(format!("{:#}", file.param::<i64>("tau").unwrap_err()).contains("no entry `tau`"));
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let file = sample();
        for (error, word) in [
            (file.f64("y").unwrap_err(), "no tensor `y`, found"),
            (file.f64("n").unwrap_err(), "expected a float type, found I64"),
            (file.i64("x").unwrap_err(), "expected an integer type, found F64"),
            (file.i32("n").unwrap_err(), "expected int32, found 9223372036854775807"),
            (file.usize("n").unwrap_err(), "found -3"),
            (file.scalar("x").unwrap_err(), "expected one element, found shape [2, 1]"),
            (file.meta("kind").map(drop).unwrap_err(), "no entry `kind`"),
        ] {
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!(GoldenFile::from_bytes(Path::new("z"), b"junk").is_err());
        let complex = bytes_of(&[("c", Dtype::C64, vec![1], vec![0; 8])], &[]);
        assert!(
            GoldenFile::from_bytes(Path::new("z"), &complex)
                .unwrap_err()
                .to_string()
                .contains("C64")
        );
    }
}
