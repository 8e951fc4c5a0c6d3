//! IDX files, the form of MNIST and its kin: a type, a list of sizes, then the elements, big-endian.
//!
//! ```text
//! 0 0 type n_dims | size_1 .. size_n (u32 each) | elements in row-major order
//! ```

use std::path::Path;

use ndarray::{Array1, Array3, ArrayD, Ix3, IxDyn};

use crate::bytes::{self, MAX_BYTES};
use crate::error::{Error, Result};

/// Most dimensions that a file may have.
const MAX_DIMS: usize = 8;

macro_rules! idx {
    ($($(#[$doc:meta])* $variant:ident($t:ty) = $code:literal),+ $(,)?) => {
        /// An array of one of the six element types.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Idx {
            $($(#[$doc])* $variant(ArrayD<$t>),)+
        }

        impl Idx {
            /// Sizes, outermost first.
            pub fn shape(&self) -> &[usize] {
                match self { $(Self::$variant(a) => a.shape(),)+ }
            }

            /// Name of the element type as Rust writes it.
            pub fn type_name(&self) -> &'static str {
                match self { $(Self::$variant(_) => stringify!($t),)+ }
            }

            /// The bytes of the file. Sizes beyond 32 bits cannot be written.
            ///
            /// # Errors
            /// [`Error::Argument`] if there are no dimensions, more than 8, or one of 2^32 or more.
            pub fn encode(&self) -> Result<Vec<u8>> {
                let shape = self.shape();
                let code = match self { $(Self::$variant(_) => $code,)+ };
                let mut out = header(code, shape)?;
                match self { $(Self::$variant(a) => out.extend(a.iter().flat_map(|x| x.to_be_bytes())),)+ }
                Ok(out)
            }

            fn decode(path: &Path, code: u8, shape: &[usize], body: &[u8]) -> Result<Self> {
                match code {
                    $($code => {
                        const SIZE: usize = size_of::<$t>();
                        check_body(path, shape, SIZE, body.len())?;
                        let values = body.as_chunks::<SIZE>().0.iter().map(|b| <$t>::from_be_bytes(*b)).collect();
                        let array = ArrayD::from_shape_vec(IxDyn(shape), values)
                            .map_err(|e| Error::format(path, "sizes", "sizes of one array", e.to_string()))?;
                        Ok(Self::$variant(array))
                    })+
                    other => Err(Error::format(
                        path,
                        "element type (byte 2)",
                        "0x08, 0x09, 0x0b, 0x0c, 0x0d or 0x0e",
                        format!("{other:#04x}"),
                    )),
                }
            }
        }
    };
}

idx! {
    /// Bytes without sign: pixels, labels.
    U8(u8) = 0x08,
    /// Bytes with sign.
    I8(i8) = 0x09,
    /// 16-bit integers.
    I16(i16) = 0x0b,
    /// 32-bit integers.
    I32(i32) = 0x0c,
    /// 32-bit floats.
    F32(f32) = 0x0d,
    /// 64-bit floats.
    F64(f64) = 0x0e,
}

fn header(code: u8, shape: &[usize]) -> Result<Vec<u8>> {
    if shape.is_empty() || shape.len() > MAX_DIMS {
        return Err(Error::argument(
            "shape",
            format!("1 to {MAX_DIMS} sizes"),
            format!("{shape:?}"),
        ));
    }
    let mut out = vec![0, 0, code, shape.len() as u8];
    for &size in shape {
        let size = u32::try_from(size)
            .map_err(|_| Error::argument("shape", "sizes below 2^32", format!("{shape:?}")))?;
        out.extend(size.to_be_bytes());
    }
    Ok(out)
}

/// The elements must be exactly those that the sizes promise, before anything is allocated for them.
fn check_body(path: &Path, shape: &[usize], size: usize, found: usize) -> Result<()> {
    let expected = shape.iter().try_fold(size, |product, &n| product.checked_mul(n));
    if expected == Some(found) {
        return Ok(());
    }
    let promised =
        expected.map_or_else(|| "more bytes than memory".to_owned(), |n| format!("{n} bytes"));
    Err(Error::format(
        path,
        "elements",
        format!("{promised} for sizes {shape:?}"),
        format!("{found} bytes"),
    ))
}

/// Reads an IDX file, gzip or not, of at most [`MAX_BYTES`].
///
/// # Errors
/// [`Error::Io`], or [`Error::Format`] naming the part of the file that is wrong.
pub fn read(path: impl AsRef<Path>) -> Result<Idx> {
    let path = path.as_ref();
    parse(path, &bytes::read(path, MAX_BYTES)?)
}

/// Reads IDX from memory; `name` stands for the file in errors.
///
/// # Errors
/// [`Error::Format`] naming the part that is wrong.
pub fn parse(name: impl AsRef<Path>, data: &[u8]) -> Result<Idx> {
    let path = name.as_ref();
    let [zero0, zero1, code, n_dims, rest @ ..] = data else {
        return Err(Error::format(
            path,
            "magic (bytes 0..4)",
            "4 bytes",
            format!("{} bytes", data.len()),
        ));
    };
    if (*zero0, *zero1) != (0, 0) {
        return Err(Error::format(path, "magic (bytes 0..2)", "0 0", format!("{zero0} {zero1}")));
    }
    let n_dims = usize::from(*n_dims);
    if !(1..=MAX_DIMS).contains(&n_dims) {
        return Err(Error::format(
            path,
            "number of dimensions (byte 3)",
            format!("1 to {MAX_DIMS}"),
            n_dims.to_string(),
        ));
    }
    let Some((sizes, body)) = rest.split_at_checked(4 * n_dims) else {
        return Err(Error::format(
            path,
            "sizes",
            format!("{} bytes", 4 * n_dims),
            format!("{} bytes", rest.len()),
        ));
    };
    let shape: Vec<usize> =
        sizes.as_chunks::<4>().0.iter().map(|b| u32::from_be_bytes(*b) as usize).collect();
    Idx::decode(path, *code, &shape, body)
}

/// Reads images: unsigned bytes in three dimensions, `[n, height, width]`.
///
/// # Errors
/// As [`read`], or another type or number of dimensions.
pub fn read_images(path: impl AsRef<Path>) -> Result<Array3<u8>> {
    let path = path.as_ref();
    let idx = read(path)?;
    let found = || format!("{} {:?}", idx.type_name(), idx.shape());
    let wrong = || Error::format(path, "type and sizes", "u8 [n, height, width]", found());
    match &idx {
        Idx::U8(array) => array.clone().into_dimensionality::<Ix3>().map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}

/// Reads labels: unsigned bytes in one dimension, `[n]`, each below `n_classes`.
///
/// # Errors
/// As [`read`], or another type or number of dimensions, or a label that is too large.
pub fn read_labels(path: impl AsRef<Path>, n_classes: usize) -> Result<Array1<i64>> {
    let path = path.as_ref();
    let idx = read(path)?;
    let Idx::U8(array) = &idx else {
        return Err(Error::format(path, "element type", "u8", idx.type_name()));
    };
    if array.ndim() != 1 {
        return Err(Error::format(path, "sizes", "[n]", format!("{:?}", array.shape())));
    }
    if let Some((at, label)) = array.iter().enumerate().find(|(_, l)| usize::from(**l) >= n_classes)
    {
        return Err(Error::format(
            path,
            format!("label {at}"),
            format!("below {n_classes}"),
            label.to_string(),
        ));
    }
    Ok(array.iter().map(|&label| i64::from(label)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn reads_a_file_made_by_hand() {
        let data = [0, 0, 0x0b, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0x01, 0x02, 0xff, 0xfe];
        assert_eq!(parse("x", &data).unwrap(), Idx::I16(array![[258, -2]].into_dyn()));
    }

    #[test]
    fn errors_name_the_part() {
        let good = Idx::U8(array![[1, 2, 3], [4, 5, 6]].into_dyn()).encode().unwrap();
        let edited = |at: usize, byte: u8| {
            let mut data = good.clone();
            data[at] = byte;
            parse("f.idx", &data).unwrap_err().to_string()
        };
        assert_eq!(edited(0, 7), "f.idx: magic (bytes 0..2): expected 0 0, found 7 0");
        assert!(edited(2, 7).contains("element type (byte 2)"));
        assert!(edited(3, 0).contains("number of dimensions (byte 3): expected 1 to 8, found 0"));
        assert!(edited(3, 8).contains("sizes: expected 32 bytes"));
        assert!(edited(4, 0xff).contains("found 6 bytes"));
        assert!(
            edited(2, 0x0e).contains("elements: expected 48 bytes for sizes [2, 3], found 6 bytes")
        );
        let short = parse("f.idx", &good[..good.len() - 1]).unwrap_err().to_string();
        assert!(short.contains("expected 6 bytes for sizes [2, 3], found 5 bytes"), "{short}");
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        let mut data = vec![0, 0, 0x0e, 8];
        data.extend([0xff; 32]);
        assert!(parse("x", &data).unwrap_err().to_string().contains("more bytes than memory"));
        // No element, yet sizes whose product has no meaning.
        let mut data = vec![0, 0, 0x08, 8, 0, 0, 0, 0];
        data.extend([0xff; 28]);
        assert!(parse("x", &data).is_err());
    }

    #[test]
    fn labels_must_be_classes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("labels");
        std::fs::write(&path, Idx::U8(array![3, 9, 10].into_dyn()).encode().unwrap()).unwrap();
        assert_eq!(read_labels(&path, 11).unwrap(), array![3, 9, 10]);
        assert!(
            read_labels(&path, 10)
                .unwrap_err()
                .to_string()
                .contains("label 2: expected below 10, found 10")
        );
        assert!(read_images(&path).unwrap_err().to_string().contains("found u8 [3]"));
    }
}
