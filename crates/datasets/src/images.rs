//! Image data sets by name, in one form: those of MNIST's kind and the two CIFARs.

use ndarray::{Array1, Array4, Axis, concatenate};

use crate::cifar::{self, Variant};
use crate::error::{Error, Result};
use crate::idx;
use crate::registry::{Dataset, Registry};
use crate::store::Store;

/// Images with labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    /// `[n, channels, height, width]`, 0 to 255.
    pub pixels: Array4<u8>,
    /// `[n]`, 0 to `n_classes - 1`.
    pub labels: Array1<i64>,
}

/// An image data set in its official parts.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageSet {
    /// The official training images, or all images where there are no official parts.
    pub train: Images,
    /// The official test images; none for `digits` and `mnist-10k`.
    pub test: Option<Images>,
    /// Number of classes.
    pub n_classes: usize,
    /// The value of a pixel that means 1.0: 255, or 16 for `digits`.
    pub full_scale: u8,
}

/// Names that [`load`] knows.
pub const NAMES: [&str; 6] =
    ["digits", "fashion-mnist", "mnist", "mnist-10k", "cifar-10", "cifar-100"];

/// Loads an image data set: `digits` from inside the crate, the others from the store.
///
/// Sizes are checked against the registry; `data verify` checks every byte.
///
/// # Errors
/// [`Error::Unknown`] for another name; [`Error::Missing`] if it was not fetched; [`Error::Format`]
/// if a file is damaged.
pub fn load(store: &Store, name: &str) -> Result<ImageSet> {
    if !NAMES.contains(&name) {
        return Err(Error::Unknown { name: name.to_owned(), known: NAMES.join(", ") });
    }
    let dataset = Registry::builtin().get(name)?;
    store.require(dataset)?;
    match name {
        "digits" => Ok(digits()),
        "cifar-10" => {
            let batches: Vec<String> = (1..=5).map(|i| format!("data_batch_{i}.bin")).collect();
            cifar(store, dataset, Variant::Ten, &batches, "test_batch.bin")
        }
        "cifar-100" => {
            cifar(store, dataset, Variant::Hundred, &["train.bin".to_owned()], "test.bin")
        }
        "mnist-10k" => {
            let train = mnist(store, dataset, "")?;
            Ok(ImageSet { train, test: None, n_classes: 10, full_scale: 255 })
        }
        _ => {
            let train = mnist(store, dataset, "train-")?;
            let test = Some(mnist(store, dataset, "t10k-")?);
            Ok(ImageSet { train, test, n_classes: 10, full_scale: 255 })
        }
    }
}

impl Images {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Pixels as numbers of 0 to 1: `[n, channels, height, width]`.
    pub fn unit_scale(&self, full_scale: u8) -> Array4<f32> {
        let scale = 1.0 / f32::from(full_scale);
        self.pixels.mapv(|p| f32::from(p) * scale)
    }
}

fn digits() -> ImageSet {
    let digits = crate::digits::load();
    let n = digits.labels.len();
    let pixels = Array4::from_shape_fn((n, 1, 8, 8), |(i, _, y, x)| {
        (digits.images[[i, 8 * y + x]] * 16.0) as u8
    });
    ImageSet {
        train: Images { pixels, labels: digits.labels },
        test: None,
        n_classes: 10,
        full_scale: 16,
    }
}

fn mnist(store: &Store, dataset: &Dataset, prefix: &str) -> Result<Images> {
    let path = store.path(dataset, &format!("{prefix}images-idx3-ubyte"));
    let images = idx::read_images(&path)?;
    let labels = idx::read_labels(store.path(dataset, &format!("{prefix}labels-idx1-ubyte")), 10)?;
    if images.len_of(Axis(0)) != labels.len() {
        let expected = format!("{} as labels", labels.len());
        return Err(Error::format(
            &path,
            "number of images",
            expected,
            images.len_of(Axis(0)).to_string(),
        ));
    }
    Ok(Images { pixels: images.insert_axis(Axis(1)), labels })
}

fn cifar(
    store: &Store,
    dataset: &Dataset,
    variant: Variant,
    train: &[String],
    test: &str,
) -> Result<ImageSet> {
    let batches = train
        .iter()
        .map(|file| cifar::read(store.path(dataset, file), variant))
        .collect::<Result<Vec<_>>>()?;
    let shape =
        |e: ndarray::ShapeError| Error::argument("batches", "images of one size", e.to_string());
    let pixels: Vec<_> = batches.iter().map(|b| b.images.view()).collect();
    let labels: Vec<_> = batches.iter().map(|b| b.labels.view()).collect();
    let train = Images {
        pixels: concatenate(Axis(0), &pixels).map_err(shape)?,
        labels: concatenate(Axis(0), &labels).map_err(shape)?,
    };
    let test = cifar::read(store.path(dataset, test), variant)?;
    let test = Some(Images { pixels: test.images, labels: test.labels });
    Ok(ImageSet { train, test, n_classes: variant.n_classes(), full_scale: 255 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_come_without_a_store() {
        let set = load(&Store::at("nowhere"), "digits").unwrap();
        assert_eq!(set.train.pixels.dim(), (1797, 1, 8, 8));
        assert_eq!(set.train.pixels.iter().max(), Some(&16));
        let unit = set.train.unit_scale(set.full_scale);
        assert_eq!(unit.into_shape_with_order((1797, 64)).unwrap(), crate::digits::load().images);
    }

    #[test]
    fn a_set_that_is_not_there_says_how_to_get_it() {
        let error = load(&Store::at("nowhere"), "cifar-10").unwrap_err().to_string();
        assert_eq!(
            error,
            "data set `cifar-10` is not in nowhere: get it with `cargo xtask data fetch cifar-10`"
        );
        assert!(
            load(&Store::at("nowhere"), "imagenet")
                .unwrap_err()
                .to_string()
                .contains("digits, fashion-mnist")
        );
    }
}
