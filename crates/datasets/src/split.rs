//! Splits into train, validation and test: drawn from a seed, stored with their hashes, checked
//! again when they are loaded.
//!
//! A [split file](Split::to_toml) is TOML, the format that crate `experiments` reads for a study.
//! It names the data by sha256 and each part by ranges and by the sha256 of those ranges; a file
//! whose parts overlap, leave the data, or do not match their hash is refused.

mod file;

use std::ops::Range;

use rand::RngExt as _;
use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::bytes;
use crate::error::{Error, Result};
use crate::ranges::{canonical, into_ranges};

/// A part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// To fit parameters.
    Train,
    /// To choose hyper-parameters and to stop early.
    Validation,
    /// To report, once.
    Test,
}

impl Part {
    const ALL: [Self; 3] = [Self::Train, Self::Validation, Self::Test];

    fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
            Self::Test => "test",
        }
    }
}

/// What a run is for; it decides which parts may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Choosing hyper-parameters: train and validation.
    Tune,
    /// A trial run of the whole: train and validation.
    Pilot,
    /// The run that is reported: all parts.
    Full,
}

/// Sizes of the parts as fractions of the data, each at least 0, with the sum 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fractions {
    /// To fit.
    pub train: f64,
    /// To choose.
    pub validation: f64,
    /// To report.
    pub test: f64,
}

/// A split of one data set, or of the seeds of a generated task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    dataset: String,
    data_sha256: Option<String>,
    /// Examples of the data; one more than the largest seed of a generated task.
    n: u64,
    /// Where the parts come from, in words.
    origin: Option<String>,
    /// Sorted, disjoint, not empty ranges of each part, in the order of [`Part::ALL`].
    parts: [Vec<Range<u64>>; 3],
}

impl Split {
    /// Draws a split of `n` examples. The same arguments give the same split on every machine.
    ///
    /// * `data_sha256`: names the data, for example [`Dataset::fingerprint`](crate::registry::Dataset::fingerprint)
    /// * `labels`: `[n]`; if given, the split is stratified: every class is divided by the fractions
    ///   on its own (largest remainder), so the sizes of the parts may differ from those of a plain
    ///   split by up to one per class
    ///
    /// # Errors
    /// [`Error::Argument`] if `n` is 0, the fractions do not fit, the labels are not `n`, or
    /// `data_sha256` is not 64 lower-case hexadecimal digits.
    pub fn draw(
        dataset: &str,
        data_sha256: &str,
        n: usize,
        fractions: Fractions,
        seed: u64,
        labels: Option<&[i64]>,
    ) -> Result<Self> {
        let weights = [fractions.train, fractions.validation, fractions.test];
        check_fractions(weights)?;
        if n == 0 {
            return Err(Error::argument("n", "at least 1", "0"));
        }
        let groups: Vec<Vec<u64>> = match labels {
            None => vec![(0..n as u64).collect()],
            Some(labels) if labels.len() != n => {
                return Err(Error::argument(
                    "labels",
                    format!("{n} labels"),
                    labels.len().to_string(),
                ));
            }
            Some(labels) => {
                let mut order: Vec<u64> = (0..n as u64).collect();
                order.sort_by_key(|&i| labels[i as usize]);
                order
                    .chunk_by(|&a, &b| labels[a as usize] == labels[b as usize])
                    .map(<[u64]>::to_vec)
                    .collect()
            }
        };
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut parts: [Vec<u64>; 3] = Default::default();
        for mut group in groups {
            // Fisher-Yates, spelled out: a library's shuffle may change between versions.
            for i in (1..group.len()).rev() {
                group.swap(i, rng.random_range(0..=i as u64) as usize);
            }
            let mut rest = group.as_slice();
            for (part, size) in parts.iter_mut().zip(largest_remainder(group.len(), weights)) {
                let (taken, after) = rest.split_at(size);
                part.extend_from_slice(taken);
                rest = after;
            }
        }
        Self::checked(Self {
            dataset: dataset.to_owned(),
            data_sha256: Some(data_sha256.to_owned()),
            n: n as u64,
            origin: Some(match labels {
                None => format!("drawn with seed {seed}"),
                Some(_) => format!("drawn with seed {seed}, stratified by label"),
            }),
            parts: parts.map(into_ranges),
        })
    }

    /// A split that somebody else published, by its index sets (in any order).
    ///
    /// # Errors
    /// [`Error::Argument`] if an index is `n` or more, comes twice, or is in two parts, if all parts
    /// are empty, or if `data_sha256` is not 64 lower-case hexadecimal digits.
    pub fn from_indices(
        dataset: &str,
        data_sha256: &str,
        n: usize,
        train: &[usize],
        validation: &[usize],
        test: &[usize],
    ) -> Result<Self> {
        let mut parts: [Vec<Range<u64>>; 3] = Default::default();
        for ((part, indices), ranges) in
            Part::ALL.iter().zip([train, validation, test]).zip(&mut parts)
        {
            let mut sorted: Vec<u64> = indices.iter().map(|&i| i as u64).collect();
            sorted.sort_unstable();
            if let Some([twice, _]) = sorted.array_windows().find(|[a, b]| a == b) {
                return Err(Error::argument(
                    "indices",
                    format!("each once in {}", part.name()),
                    format!("{twice} twice"),
                ));
            }
            *ranges = into_ranges(sorted);
        }
        Self::checked(Self {
            dataset: dataset.to_owned(),
            data_sha256: Some(data_sha256.to_owned()),
            n: n as u64,
            origin: None,
            parts,
        })
    }

    /// A split of the seeds of a generated task, which take the place of indices.
    ///
    /// # Errors
    /// [`Error::Argument`] if the ranges overlap or are all empty.
    pub fn of_seeds(
        task: &str,
        train: Range<u64>,
        validation: Range<u64>,
        test: Range<u64>,
    ) -> Result<Self> {
        let n = train.end.max(validation.end).max(test.end);
        let parts =
            [train, validation, test].map(|r| if r.is_empty() { Vec::new() } else { vec![r] });
        let dataset = task.to_owned();
        Self::checked(Self { dataset, data_sha256: None, n, origin: None, parts })
    }

    /// Name of the data set or task.
    pub fn dataset(&self) -> &str {
        &self.dataset
    }

    /// sha256 that names the data; none for a split of seeds.
    pub fn data_sha256(&self) -> Option<&str> {
        self.data_sha256.as_deref()
    }

    /// Where the parts come from, in words, if it was said.
    pub fn origin(&self) -> Option<&str> {
        self.origin.as_deref()
    }

    /// Number of examples of a part.
    pub fn n(&self, part: Part) -> u64 {
        self.ranges(part).iter().map(|r| r.end - r.start).sum()
    }

    /// sha256 over the ranges of a part: a short name for exactly this set of examples.
    pub fn sha256(&self, part: Part) -> String {
        bytes::sha256(canonical(self.ranges(part)).as_bytes())
    }

    /// The examples of a part, in increasing order.
    ///
    /// # Errors
    /// [`Error::Argument`] if the stage may not read the part: `tune` and `pilot` never see the test
    /// set. Also for a split of seeds whose part is too large to list (over 2^32): use
    /// [`Split::seeds`].
    pub fn indices(&self, part: Part, stage: Stage) -> Result<Vec<usize>> {
        let ranges = self.seeds(part, stage)?;
        let n = self.n(part);
        if u32::try_from(n).is_err() {
            return Err(Error::argument("part", "fewer than 2^32 examples", n.to_string()));
        }
        Ok(ranges.iter().flat_map(Clone::clone).map(|i| i as usize).collect())
    }

    /// The ranges of a part, without listing their members.
    ///
    /// # Errors
    /// [`Error::Argument`] if the stage may not read the part.
    pub fn seeds(&self, part: Part, stage: Stage) -> Result<&[Range<u64>]> {
        if part == Part::Test && stage != Stage::Full {
            let found = format!("the test set of `{}` in stage {stage:?}", self.dataset);
            return Err(Error::argument("part", "train or validation before the full run", found));
        }
        Ok(self.ranges(part))
    }

    fn ranges(&self, part: Part) -> &[Range<u64>] {
        &self.parts[part as usize]
    }

    /// Refuses overlap between parts, indices outside the data, and what no split file can hold.
    fn checked(split: Self) -> Result<Self> {
        if let Some(hash) = &split.data_sha256
            && !(hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
        {
            return Err(Error::argument(
                "data_sha256",
                "64 lower-case hexadecimal digits",
                format!("`{hash:.80}`"),
            ));
        }
        let mut all: Vec<(&Range<u64>, Part)> =
            Part::ALL.iter().flat_map(|&p| split.ranges(p).iter().map(move |r| (r, p))).collect();
        all.sort_by_key(|(r, _)| r.start);
        for pair in all.windows(2) {
            let ((a, part_a), (b, part_b)) = (&pair[0], &pair[1]);
            if b.start < a.end {
                let found = format!("{} in {} and in {}", b.start, part_a.name(), part_b.name());
                return Err(Error::argument("parts", "disjoint parts", found));
            }
        }
        if all.is_empty() {
            return Err(Error::argument("parts", "at least one example", "none"));
        }
        if let Some((last, part)) = all.last().filter(|(r, _)| r.end > split.n) {
            let found = format!("{} in {}", last.end - 1, part.name());
            return Err(Error::argument("indices", format!("below {}", split.n), found));
        }
        Ok(split)
    }
}

fn check_fractions(weights: [f64; 3]) -> Result<()> {
    let fits = weights.iter().all(|w| (0.0..=1.0).contains(w))
        && (weights.iter().sum::<f64>() - 1.0).abs() < 1e-9;
    if fits {
        Ok(())
    } else {
        Err(Error::argument(
            "fractions",
            "three numbers of at least 0 with sum 1",
            format!("{weights:?}"),
        ))
    }
}

/// Whole sizes with the sum `n`, nearest to the fractions; ties go to the earlier part.
fn largest_remainder(n: usize, weights: [f64; 3]) -> [usize; 3] {
    let exact = weights.map(|w| w * n as f64);
    // A part of 0.7 * 10 = 7.000000000000001 must not lose its unit to rounding.
    let mut sizes = exact.map(|x| (x + 1e-9).floor() as usize);
    let mut order = [0, 1, 2];
    order.sort_by(|&a, &b| {
        let remainder = |i: usize| exact[i] - sizes[i] as f64;
        remainder(b).total_cmp(&remainder(a)).then(a.cmp(&b))
    });
    let missing = n.saturating_sub(sizes.iter().sum());
    for i in order.into_iter().cycle().take(missing) {
        sizes[i] += 1;
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";
    const THIRDS: Fractions = Fractions { train: 0.6, validation: 0.2, test: 0.2 };

    #[test]
    fn sizes_add_up() {
        assert_eq!(largest_remainder(10, [0.7, 0.2, 0.1]), [7, 2, 1]);
        assert_eq!(largest_remainder(11, [0.6, 0.2, 0.2]), [7, 2, 2]);
        assert_eq!(largest_remainder(1, [0.2, 0.4, 0.4]), [0, 1, 0]);
        assert_eq!(largest_remainder(0, [0.2, 0.4, 0.4]), [0, 0, 0]);
    }

    #[test]
    fn the_drawn_split_never_changes() {
        // Fixed on purpose: published results name their examples by these.
        let split = Split::draw("toy", DATA, 10, THIRDS, 7, None).unwrap();
        assert_eq!(Split::draw("toy", DATA, 10, THIRDS, 7, None).unwrap(), split);
        assert_ne!(Split::draw("toy", DATA, 10, THIRDS, 8, None).unwrap().parts, split.parts);
        assert_eq!(canonical(split.ranges(Part::Train)), "0,2-4,6,8");
    }

    #[test]
    fn tune_and_pilot_never_see_the_test_set() {
        let split = Split::draw("toy", DATA, 10, THIRDS, 7, None).unwrap();
        assert_eq!(split.indices(Part::Test, Stage::Full).unwrap().len(), 2);
        for stage in [Stage::Tune, Stage::Pilot] {
            assert!(
                split.indices(Part::Train, stage).is_ok()
                    && split.indices(Part::Validation, stage).is_ok()
            );
            let error = split.indices(Part::Test, stage).unwrap_err().to_string();
            assert!(
                error.contains(
                    "train or validation before the full run, found the test set of `toy`"
                ),
                "{error}"
            );
        }
    }

    #[test]
    fn overlap_is_an_error() {
        let error =
            Split::from_indices("d", DATA, 5, &[0, 1, 2], &[3], &[4, 2]).unwrap_err().to_string();
        assert_eq!(
            error,
            "argument `parts`: expected disjoint parts, found 2 in train and in test"
        );
        let error = Split::from_indices("d", DATA, 4, &[0], &[3], &[4]).unwrap_err().to_string();
        assert_eq!(error, "argument `indices`: expected below 4, found 4 in test");
        assert!(
            Split::from_indices("d", DATA, 4, &[0, 0], &[], &[])
                .unwrap_err()
                .to_string()
                .contains("0 twice")
        );
        let seeds =
            Split::of_seeds("t", 0..1 << 60, 1 << 60..(1 << 60) + 9, 5..6).unwrap_err().to_string();
        assert!(seeds.contains("5 in train and in test"), "{seeds}");
        let seeds = Split::of_seeds("t", 0..1 << 60, 1 << 60..(1 << 60) + 9, 0..0).unwrap();
        assert_eq!((seeds.n(Part::Train), seeds.n(Part::Test)), (1 << 60, 0));
        assert!(seeds.indices(Part::Train, Stage::Full).is_err(), "too many to list");
        assert!(Split::of_seeds("t", 0..0, 0..0, 0..0).is_err(), "nothing in it");
        assert!(Split::from_indices("d", "00", 5, &[0], &[], &[]).is_err(), "no sha256");
    }

    #[test]
    fn fractions_and_labels_must_fit() {
        let draw = |n, train, labels| {
            let fractions = Fractions { train, validation: 0.2, test: 0.2 };
            Split::draw("d", DATA, n, fractions, 0, labels)
        };
        assert!(draw(10, 0.7, None).is_err());
        assert!(draw(10, f64::NAN, None).is_err());
        assert!(draw(0, 0.6, None).is_err());
        assert!(draw(10, 0.6, Some(&[0; 9])).is_err());
    }
}
