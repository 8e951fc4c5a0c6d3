//! The binary form of CIFAR-10 and CIFAR-100: fixed records of one or two labels and 3,072 pixels.

use std::path::Path;

use ndarray::{Array1, Array4};

use crate::bytes::{self, MAX_BYTES};
use crate::error::{Error, Result};

/// Height and width of an image.
pub const SIDE: usize = 32;
/// Bytes of an image: three planes (red, green, blue), row by row.
pub const IMAGE_BYTES: usize = 3 * SIDE * SIDE;

/// Which of the two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// One label, 0 to 9.
    Ten,
    /// A coarse label, 0 to 19, then a fine one, 0 to 99.
    Hundred,
}

impl Variant {
    /// Number of (fine) classes.
    pub fn n_classes(self) -> usize {
        match self {
            Self::Ten => 10,
            Self::Hundred => 100,
        }
    }

    /// How many labels a record starts with, and the bound of each.
    fn labels(self) -> &'static [(&'static str, u8)] {
        match self {
            Self::Ten => &[("label", 10)],
            Self::Hundred => &[("coarse label", 20), ("fine label", 100)],
        }
    }
}

/// Images with their labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Cifar {
    /// `[n, 3, 32, 32]`, 0 to 255; channels red, green, blue.
    pub images: Array4<u8>,
    /// `[n]`, the class; for CIFAR-100 the fine one.
    pub labels: Array1<i64>,
    /// `[n]`, the coarse class of CIFAR-100.
    pub coarse: Option<Array1<i64>>,
}

/// Reads one binary batch, gzip or not, of at most [`MAX_BYTES`].
///
/// # Errors
/// [`Error::Io`], or [`Error::Format`] naming the record and field that is wrong.
pub fn read(path: impl AsRef<Path>, variant: Variant) -> Result<Cifar> {
    let path = path.as_ref();
    parse(path, &bytes::read(path, MAX_BYTES)?, variant)
}

/// Reads a batch from memory; `name` stands for the file in errors.
///
/// # Errors
/// [`Error::Format`] naming the record and field that is wrong.
pub fn parse(name: impl AsRef<Path>, data: &[u8], variant: Variant) -> Result<Cifar> {
    let path = name.as_ref();
    let fields = variant.labels();
    let record_bytes = fields.len() + IMAGE_BYTES;
    if data.is_empty() || !data.len().is_multiple_of(record_bytes) {
        let expected = format!("one or more records of {record_bytes} bytes");
        return Err(Error::format(path, "length", expected, format!("{} bytes", data.len())));
    }
    let n = data.len() / record_bytes;
    let mut labels: Vec<Vec<i64>> = vec![Vec::with_capacity(n); fields.len()];
    let mut pixels = Vec::with_capacity(n * IMAGE_BYTES);
    for (at, record) in data.chunks_exact(record_bytes).enumerate() {
        let (head, image) = record.split_at(fields.len());
        for ((column, &label), (field, bound)) in labels.iter_mut().zip(head).zip(fields) {
            if label >= *bound {
                return Err(Error::format(
                    path,
                    format!("record {at}, {field}"),
                    format!("below {bound}"),
                    label.to_string(),
                ));
            }
            column.push(i64::from(label));
        }
        pixels.extend_from_slice(image);
    }
    let images = Array4::from_shape_vec((n, 3, SIDE, SIDE), pixels)
        .map_err(|e| Error::format(path, "images", "n x 3 x 32 x 32 bytes", e.to_string()))?;
    let fine = labels.pop().unwrap_or_default();
    Ok(Cifar { images, labels: fine.into(), coarse: labels.pop().map(Array1::from) })
}

impl Cifar {
    /// The bytes of a batch file.
    ///
    /// # Errors
    /// [`Error::Argument`] if the arrays disagree in length, the images are not 3 x 32 x 32, or a
    /// label does not fit.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let n = self.labels.len();
        if self.images.dim() != (n, 3, SIDE, SIDE) {
            return Err(Error::argument(
                "images",
                format!("[{n}, 3, 32, 32]"),
                format!("{:?}", self.images.dim()),
            ));
        }
        if let Some(coarse) = self.coarse.as_ref().filter(|c| c.len() != n) {
            return Err(Error::argument("coarse", format!("{n} labels"), coarse.len().to_string()));
        }
        let variant = if self.coarse.is_some() { Variant::Hundred } else { Variant::Ten };
        let mut out = Vec::with_capacity(n * (variant.labels().len() + IMAGE_BYTES));
        for (at, image) in self.images.outer_iter().enumerate() {
            let columns = self.coarse.iter().chain([&self.labels]);
            for (column, (field, bound)) in columns.zip(variant.labels()) {
                let label = u8::try_from(column[at]).ok().filter(|l| l < bound);
                out.push(label.ok_or_else(|| {
                    Error::argument(
                        "labels",
                        format!("{field} below {bound}"),
                        column[at].to_string(),
                    )
                })?);
            }
            out.extend(image.iter());
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(variant: Variant, n: usize) -> Cifar {
        let images = Array4::from_shape_fn((n, 3, SIDE, SIDE), |(i, c, y, x)| {
            (i * 7 + c * 5 + y * 3 + x) as u8
        });
        let labels = (0..n).map(|i| (i % variant.n_classes()) as i64).collect();
        let coarse =
            (variant == Variant::Hundred).then(|| (0..n).map(|i| (i % 20) as i64).collect());
        Cifar { images, labels, coarse }
    }

    #[test]
    fn encodes_and_reads_back() {
        for variant in [Variant::Ten, Variant::Hundred] {
            let batch = batch(variant, 23);
            let data = batch.encode().unwrap();
            assert_eq!(parse("b", &data, variant).unwrap(), batch);
        }
        // By hand: label, then the red plane row by row.
        let data = batch(Variant::Ten, 2).encode().unwrap();
        assert_eq!(data[..4], [0, 0, 1, 2]);
        assert_eq!((data[3073], data[3074], data[3074 + 32]), (1, 7, 10));
    }

    #[test]
    fn errors_name_record_and_field() {
        let mut data = batch(Variant::Hundred, 3).encode().unwrap();
        data[3074 * 2 + 1] = 100;
        let error = parse("b.bin", &data, Variant::Hundred).unwrap_err();
        assert_eq!(error.to_string(), "b.bin: record 2, fine label: expected below 100, found 100");
        data.pop();
        let error = parse("b.bin", &data, Variant::Hundred).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("length: expected one or more records of 3074 bytes, found 9221 bytes")
        );
        assert!(parse("b.bin", &[], Variant::Ten).is_err());
    }
}
