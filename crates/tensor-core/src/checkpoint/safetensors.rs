//! Reader and writer of the safetensors format, for files that may be damaged or hostile.
//!
//! The format: 8 bytes of header length (little-endian), that many bytes of JSON mapping each name to
//! `{"dtype", "shape", "data_offsets"}`, then the data. The reader trusts nothing: lengths are
//! checked against the file before they are used, products with overflow checks, and the tensors must
//! tile the data without gap or overlap. It never allocates more than a small multiple of the file.

use crate::{Error, Result, error::TorchContext};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    io::Write,
    path::Path,
};
use tch::{Device, Kind, Tensor};

/// The format's own limit on its header.
const MAX_HEADER: u64 = 100_000_000;
/// Axes that a tensor may have; libtorch's own limit is 64.
const MAX_DIM: usize = 64;

const KINDS: &[(&str, Kind)] = &[
    ("F64", Kind::Double),
    ("F32", Kind::Float),
    ("F16", Kind::Half),
    ("BF16", Kind::BFloat16),
    ("I64", Kind::Int64),
    ("I32", Kind::Int),
    ("I16", Kind::Int16),
    ("I8", Kind::Int8),
    ("U8", Kind::Uint8),
    ("BOOL", Kind::Bool),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    dtype: String,
    shape: Vec<i64>,
    data_offsets: (u64, u64),
}

/// Header in file order; a name that occurs twice is an error rather than a silent loss.
struct Header(Vec<(String, Entry)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from tensor names to their descriptions")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                let mut seen = std::collections::BTreeSet::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<BTreeMap<String, String>>()?;
                        continue;
                    }
                    if !seen.insert(name.clone()) {
                        return Err(de::Error::custom(format!("tensor `{name}` occurs twice")));
                    }
                    entries.push((name, map.next_value()?));
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// Reads all tensors of a safetensors file that was read into `bytes`, on the CPU, in the order of
/// their data. `path` is for messages.
///
/// # Errors
/// [`Error::File`] naming the field that is damaged, [`Error::Torch`] when memory runs out.
pub fn decode(path: &Path, bytes: &[u8]) -> Result<Vec<(String, Tensor)>> {
    let bad = |field: &str, expected: String, found: String| Error::File {
        path: path.to_owned(),
        field: field.to_owned(),
        expected,
        found,
    };
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        let found = format!("{} bytes", bytes.len());
        return Err(bad("header length", "8 bytes".to_owned(), found));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER || length > rest.len() as u64 {
        let most = MAX_HEADER.min(rest.len() as u64);
        return Err(bad("header length", format!("at most {most}"), length.to_string()));
    }
    let (header, data) = rest.split_at(length as usize);
    let Header(mut entries) = serde_json::from_slice(header)
        .map_err(|e| bad("header", "a safetensors header".to_owned(), e.to_string()))?;
    entries.sort_by_key(|(_, e)| e.data_offsets);

    let mut tensors = Vec::with_capacity(entries.len());
    let mut at = 0_u64;
    for (name, Entry { dtype, shape, data_offsets: (begin, end) }) in entries {
        let Some((_, kind)) = KINDS.iter().find(|(word, _)| *word == dtype) else {
            let known: Vec<&str> = KINDS.iter().map(|(word, _)| *word).collect();
            return Err(bad(&format!("{name}.dtype"), known.join(", "), dtype));
        };
        if begin != at || end < begin || end > data.len() as u64 {
            let expected = format!("{at}.. within {} bytes of data", data.len());
            return Err(bad(&format!("{name}.data_offsets"), expected, format!("{begin}..{end}")));
        }
        let n_bytes = shape.iter().try_fold(kind.elt_size_in_bytes() as u64, |n, d| {
            n.checked_mul(u64::try_from(*d).ok()?)
        });
        if shape.len() > MAX_DIM || n_bytes != Some(end - begin) {
            let expected = format!("sizes of {} bytes of {dtype}", end - begin);
            return Err(bad(&format!("{name}.shape"), expected, format!("{shape:?}")));
        }
        let slice = &data[begin as usize..end as usize];
        if *kind == Kind::Bool && slice.iter().any(|b| *b > 1) {
            let expected = "bytes that are 0 or 1".to_owned();
            return Err(bad(&name, expected, "another byte in a BOOL tensor".to_owned()));
        }
        let tensor = if slice.is_empty() {
            // An empty tensor may still name sizes whose other factors overflow.
            Tensor::f_zeros(shape.as_slice(), (*kind, Device::Cpu))
        } else {
            Tensor::f_from_data_size(slice, &shape, *kind)
        };
        tensors.push((name, tensor.op("safetensors::decode")?));
        at = end;
    }
    if at != data.len() as u64 {
        let expected = format!("{at} bytes, as the tensors ask for");
        return Err(bad("data", expected, format!("{} bytes", data.len())));
    }
    Ok(tensors)
}

/// Writes tensors of any device in the given order; names must differ. The bytes depend on the
/// arguments alone.
///
/// # Errors
/// [`Error::Argument`] for a repeated name, [`Error::Kind`] for an element type that the format does
/// not have, [`Error::Io`] when `out` fails (`path` is for messages).
pub fn encode(path: &Path, tensors: &[(String, Tensor)], out: &mut impl Write) -> Result<()> {
    let mut header = String::from("{");
    let mut at = 0_usize;
    let mut seen = std::collections::BTreeSet::new();
    for (i, (name, tensor)) in tensors.iter().enumerate() {
        let kind = tensor.kind();
        let Some((dtype, _)) = KINDS.iter().find(|(_, k)| *k == kind) else {
            let expected = "a kind of the safetensors format".to_owned();
            return Err(Error::Kind { op: OP_ENCODE, arg: name.clone(), expected, got: kind });
        };
        if name == "__metadata__" || !seen.insert(name) {
            return Err(Error::Argument {
                op: OP_ENCODE,
                arg: "tensors",
                expected: "names that differ from each other and from `__metadata__`".to_owned(),
                got: name.clone(),
            });
        }
        let end = at + tensor.numel() * kind.elt_size_in_bytes();
        let name = serde_json::Value::from(name.as_str());
        let comma = if i == 0 { "" } else { "," };
        let _ = write!(
            header,
            r#"{comma}{name}:{{"dtype":"{dtype}","shape":{:?},"data_offsets":[{at},{end}]}}"#,
            tensor.size()
        );
        at = end;
    }
    header.push('}');
    // Data starts at a multiple of 8, so that readers may map it.
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let io = |e| Error::io(path, e);
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    out.write_all(header.as_bytes()).map_err(io)?;
    let mut buffer = Vec::new();
    for (_, tensor) in tensors {
        let tensor = tensor.detach().f_to_device(Device::Cpu).op(OP_ENCODE)?.contiguous();
        let n = tensor.numel();
        buffer.resize(n * tensor.kind().elt_size_in_bytes(), 0);
        if n > 0 {
            tensor.f_copy_data_u8(&mut buffer, n).op(OP_ENCODE)?;
            out.write_all(&buffer).map_err(io)?;
        }
    }
    Ok(())
}

const OP_ENCODE: &str = "safetensors::encode";

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<(String, Tensor)> {
        vec![
            ("a.weight".to_owned(), Tensor::from_slice(&[1.5_f32, -2.0, 0.0, 7.0]).view([2, 2])),
            ("flag \"quoted\"".to_owned(), Tensor::from_slice(&[true, false, true])),
            ("scalar".to_owned(), Tensor::from(3.25_f64)),
            ("empty".to_owned(), Tensor::zeros([0, 5], (Kind::Int64, Device::Cpu))),
        ]
    }

    fn bytes(tensors: &[(String, Tensor)]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(Path::new("t"), tensors, &mut out).unwrap();
        out
    }

    fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend(header.as_bytes());
        out.extend(data);
        out
    }

    #[test]
    fn what_is_written_is_read() {
        let back: BTreeMap<String, Tensor> =
            decode(Path::new("t"), &bytes(&sample())).unwrap().into_iter().collect();
        for (name, tensor) in sample() {
            assert_eq!(back[&name], tensor, "{name}");
            assert_eq!(back[&name].kind(), tensor.kind());
        }
    }

    #[test]
    fn the_public_reader_agrees() {
        let file = bytes(&sample());
        let theirs = safetensors::SafeTensors::deserialize(&file).unwrap();
        assert_eq!(theirs.len(), 4);
        let view = theirs.tensor("a.weight").unwrap();
        assert_eq!(view.shape(), [2, 2]);
        assert_eq!(view.data()[..4], 1.5_f32.to_le_bytes());
    }

    #[test]
    fn each_lie_is_named() {
        let entry = |shape: &str, offsets: &str| {
            format!(r#"{{"x":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let twice = format!(
            "{},{}",
            entry("[1]", "[0,4]").trim_end_matches('}').to_owned() + "}",
            &entry("[1]", "[4,8]")[1..]
        );
        for (file, field) in [
            (vec![1, 2, 3], "header length"),
            (u64::MAX.to_le_bytes().to_vec(), "header length"),
            (with_header("{\"x\":", b""), "header"),
            (with_header(&twice, &[0; 8]), "header"),
            (with_header(&entry("[1]", "[0,8]"), &[0; 8]), "x.shape"),
            (with_header(&entry("[-1]", "[0,4]"), &[0; 4]), "x.shape"),
            (with_header(&entry("[4294967296,4294967296,4]", "[0,0]"), &[]), "x.shape"),
            (with_header(&entry("[1]", "[0,4]"), &[0; 3]), "x.data_offsets"),
            (with_header(&entry("[1]", "[4,0]"), &[0; 4]), "x.data_offsets"),
            (with_header(&entry("[1]", "[4,8]"), &[0; 8]), "x.data_offsets"),
            (with_header(&entry("[1]", "[0,4]"), &[0; 5]), "data"),
            (with_header(&entry("[1]", "[0,4]").replace("F32", "F99"), &[0; 4]), "x.dtype"),
            (with_header(&entry("[1]", "[0,1]").replace("F32", "BOOL"), &[9]), "x"),
        ] {
            match decode(Path::new("t"), &file) {
                Err(Error::File { field: got, .. }) => assert_eq!(got, field),
                other => panic!("{field}: {other:?}"),
            }
        }
    }
}
