//! The 1,797 handwritten digits that ship inside the crate: 8 by 8 pixels, 17 grey levels.

use std::io::Read as _;

use ndarray::{Array1, Array2};

static DATA: &[u8] = include_bytes!("../data/digits.csv.gz");

/// Number of images.
pub const LEN: usize = 1_797;
/// Pixels of an image, row by row from the top left.
pub const PIXELS: usize = 64;
/// Number of classes, the digits 0 to 9.
pub const CLASSES: usize = 10;

/// Images with their labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Digits {
    /// `[1797, 64]`, 0 (paper) to 1 (ink).
    pub images: Array2<f32>,
    /// `[1797]`, 0 to 9.
    pub labels: Array1<i64>,
}

/// The digits, decoded from the copy inside the crate.
///
/// The order is the published one: writers come in blocks, so shuffle, or split with a seed
/// (`split`), before training.
///
/// ```
/// let digits = datasets::digits::load();
/// assert_eq!(digits.images.dim(), (1797, 64));
/// assert_eq!(digits.labels[0], 0);
/// ```
///
/// # Panics
/// Never on an intact build: the bytes are part of the program, and a test reads all of them.
pub fn load() -> Digits {
    let mut text = String::new();
    flate2::read::GzDecoder::new(DATA)
        .read_to_string(&mut text)
        .expect("embedded gzip data is intact");
    let mut images = Array2::zeros((LEN, PIXELS));
    let mut labels = Array1::zeros(LEN);
    for ((line, mut row), label) in text.lines().zip(images.rows_mut()).zip(&mut labels) {
        let mut fields = line
            .split(',')
            .map(|f| f.trim().parse::<u8>().expect("embedded digits are small integers"));
        for (pixel, level) in row.iter_mut().zip(fields.by_ref()) {
            *pixel = f32::from(level) / 16.0;
        }
        *label = i64::from(fields.next().expect("embedded rows have 65 fields"));
    }
    Digits { images, labels }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "multiples of 1/16 are exact")]
mod tests {
    use super::*;

    #[test]
    fn has_the_published_counts() {
        let digits = load();
        assert!(digits.images.iter().all(|x| (0.0..=1.0).contains(x)));
        let mut counts = [0; CLASSES];
        for &label in &digits.labels {
            counts[usize::try_from(label).unwrap()] += 1;
        }
        // From the description of the data set.
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        // First image: a zero; row 0 is 0 0 5 13 9 1 0 0.
        let row: Vec<f32> = digits.images.row(0).iter().take(8).map(|x| x * 16.0).collect();
        assert_eq!(row, [0.0, 0.0, 5.0, 13.0, 9.0, 1.0, 0.0, 0.0]);
        let ink: f64 = digits.images.iter().map(|&x| f64::from(x) * 16.0).sum();
        assert_eq!(ink, 561_718.0);
    }
}
