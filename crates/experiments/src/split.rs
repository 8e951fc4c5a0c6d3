//! Which data belongs to training, validation and test, and which of it a stage may read
//! (specification, section 6.6).
//!
//! A split file names, for each data set, the index ranges (half-open), index files or seeds of
//! each part:
//!
//! ```toml
//! schema = 1
//!
//! [[dataset]]
//! name = "digits"
//! sha256 = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
//! rows = 1797 # no member may be this or more
//! origin = "drawn with seed 0, stratified by label"
//! train = { indices = [[0, 1200]], sha256 = "66c7d814e1a0ba3a23d8fabd86a70e890bcd07b8b25ac7c7b4baa3b9095a3f97" }
//! validation = { indices = [[1200, 1500]] }
//! test = { file = "digits.test.txt", sha256 = "fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9" }
//!
//! [[dataset]]
//! name = "spiral"  # generated: seeds take the place of indices
//! train = { seeds = [[0, 1000]] }
//! test = { seeds = [[1000, 1100]] }
//! ```
//!
//! `rows`, `origin` and the `sha256` of ranges may be left out. The hash of ranges is that of
//! [`Ranges::canonical`]; crate `datasets` draws splits and writes this format with all of them.
//!
//! No index may lie in two parts. A trial program asks [`Access`] for its indices, which refuses
//! parts that its stage may not see.

mod ranges;

pub use ranges::Ranges;

use crate::{
    identity,
    plan::Stage,
    spec::{SpecError, Split, conform::conform, similar, source::Source},
    trial::Request,
};
use schemars::JsonSchema;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use toml::de::DeTable;

/// Splits that trials of a stage may read: `tune` and `pilot` choose, so they never see the test
/// split.
pub fn readable(stage: Stage) -> &'static [Split] {
    match stage {
        Stage::Tune | Stage::Pilot => &[Split::Train, Split::Validation],
        Stage::Main | Stage::Smoke | Stage::Ablation | Stage::Replay => {
            &[Split::Train, Split::Validation, Split::Test]
        }
    }
}

/// A split file as written.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Document {
    /// Version of this vocabulary: 1.
    schema: u32,
    /// Data sets.
    #[serde(rename = "dataset")]
    datasets: Vec<WrittenDataset>,
}

/// A data set and its parts.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WrittenDataset {
    /// Name.
    name: String,
    /// SHA-256 of the data in hexadecimal; left out for generated data.
    sha256: Option<String>,
    /// Number of rows; every row number is below it.
    rows: Option<u64>,
    /// Where the parts come from, in words.
    #[expect(dead_code, reason = "for people; the reader has no use for it")]
    origin: Option<String>,
    /// Rows for fitting.
    train: Option<WrittenPart>,
    /// Rows for choosing.
    validation: Option<WrittenPart>,
    /// Rows for judging.
    test: Option<WrittenPart>,
}

/// Rows of a part: one of `indices`, `file`, `seeds`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WrittenPart {
    /// Half-open ranges of row numbers.
    indices: Option<Vec<[u64; 2]>>,
    /// File with one row number per line, relative to the split file.
    file: Option<PathBuf>,
    /// SHA-256 in hexadecimal: of `file`, or of the ranges in canonical text.
    sha256: Option<String>,
    /// Half-open ranges of seeds, for generated data.
    seeds: Option<Vec<[u64; 2]>>,
}

/// A valid split file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitFile {
    /// Data sets in file order.
    pub datasets: Vec<SplitDataset>,
    /// SHA-256 of the file's bytes.
    pub sha256: String,
}

/// A data set with disjoint parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplitDataset {
    /// Name.
    pub name: String,
    /// SHA-256 of the data; `None` for generated data.
    pub sha256: Option<String>,
    /// Number of rows, where the file says it.
    pub rows: Option<u64>,
    /// Whether the parts hold seeds rather than row numbers.
    pub generated: bool,
    /// Members of each part that the file has.
    pub parts: BTreeMap<Split, Ranges>,
}

impl SplitFile {
    /// Reads and checks a split file.
    ///
    /// # Errors
    /// [`SpecError`] with all findings: unknown keys, empty or reversed ranges, wrong hashes,
    /// overlaps.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, SpecError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|source| SpecError::Read { path: path.to_owned(), source })?;
        let sha256 = identity::sha256_hex(text.as_bytes());
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut source = Source::new(path.to_owned(), folder.to_owned(), text.clone());
        if source.has_errors() {
            return Err(SpecError::Invalid(source.into_findings()));
        }
        let schema =
            serde_json::to_value(schemars::schema_for!(Document)).expect("a schema is plain JSON");
        let datasets = match DeTable::parse(&text) {
            Ok(table) => {
                let copy = conform(table.get_ref(), &schema, &mut source);
                match Document::deserialize(copy) {
                    Ok(document) => check(&document, folder, &mut source),
                    Err(error) => {
                        source.error("", error.message());
                        Vec::new()
                    }
                }
            }
            Err(error) => {
                source.error("", error.message());
                Vec::new()
            }
        };
        if source.has_errors() {
            return Err(SpecError::Invalid(source.into_findings()));
        }
        Ok(Self { datasets, sha256 })
    }

    /// The data set of that name.
    pub fn dataset(&self, name: &str) -> Option<&SplitDataset> {
        self.datasets.iter().find(|d| d.name == name)
    }

    /// Parts that at least one data set has, in the order train, validation, test.
    pub fn parts(&self) -> Vec<Split> {
        let has = |split: &Split| self.datasets.iter().any(|d| d.parts.contains_key(split));
        [Split::Train, Split::Validation, Split::Test].into_iter().filter(has).collect()
    }
}

fn check(document: &Document, folder: &Path, source: &mut Source) -> Vec<SplitDataset> {
    if document.schema != 1 {
        source.error("schema", format!("`schema`: expected 1, found {}", document.schema));
    }
    if document.datasets.is_empty() {
        source.error("dataset", "expected at least one [[dataset]], found none");
    }
    let mut datasets: Vec<SplitDataset> = Vec::new();
    for (i, written) in document.datasets.iter().enumerate() {
        let path = format!("dataset[{i}]");
        let name = &written.name;
        if datasets.iter().any(|d| d.name == *name) {
            source.error(&format!("{path}.name"), format!("data set `{name}` appears twice"));
        }
        if let Some(hash) = &written.sha256
            && !is_sha256(hash)
        {
            source.error(
                &format!("{path}.sha256"),
                format!("data set `{name}`: expected 64 hexadecimal digits, found {hash:?}"),
            );
        }
        let mut parts = BTreeMap::new();
        let mut seeded = 0;
        let all = [
            (Split::Train, &written.train),
            (Split::Validation, &written.validation),
            (Split::Test, &written.test),
        ];
        for (split, part) in all {
            let Some(part) = part else { continue };
            seeded += usize::from(part.seeds.is_some());
            let path = format!("{path}.{}", split.word());
            match members(part, folder) {
                Ok(ranges) => {
                    if let Some(rows) = written.rows.filter(|rows| ranges.last() >= *rows) {
                        source.error(
                            &path,
                            format!(
                                "data set `{name}`: expected rows below {rows}, found {}",
                                ranges.last()
                            ),
                        );
                    }
                    parts.insert(split, ranges);
                }
                Err(message) => source.error(&path, format!("data set `{name}`: {message}")),
            }
        }
        if parts.is_empty() && !source.has_errors() {
            source.error(&path, format!("data set `{name}`: expected at least one part"));
        }
        if seeded > 0 && seeded < parts.len() {
            source
                .error(&path, format!("data set `{name}`: expected seeds in all parts or in none"));
        }
        if seeded == 0 && written.sha256.is_none() {
            source.error(
                &path,
                format!("data set `{name}`: expected `sha256`, since it is not generated"),
            );
        }
        datasets.push(SplitDataset {
            name: name.clone(),
            sha256: written.sha256.clone(),
            rows: written.rows,
            generated: seeded > 0,
            parts,
        });
    }
    overlaps(&datasets, source);
    datasets
}

/// Reports every pair of parts that share a member. Data sets of one hash are one data set.
fn overlaps(datasets: &[SplitDataset], source: &mut Source) {
    for (i, a) in datasets.iter().enumerate() {
        for (j, b) in datasets.iter().enumerate().skip(i) {
            let same = i == j || (a.sha256.is_some() && a.sha256 == b.sha256);
            if !same || a.generated != b.generated {
                continue;
            }
            for (first, left) in &a.parts {
                for (second, right) in &b.parts {
                    if first == second || (i == j && first > second) {
                        continue;
                    }
                    if let Some(shared) = left.first_shared(right) {
                        let (kind, n) =
                            if a.generated { ("seed", shared) } else { ("row", shared) };
                        let (first, second) = (first.word(), second.word());
                        source.error(
                            &format!("dataset[{j}].{second}"),
                            format!(
                                "{kind} {n} lies in `{first}` of `{}` and in `{second}` of `{}`",
                                a.name, b.name
                            ),
                        );
                    }
                }
            }
        }
    }
}

fn members(part: &WrittenPart, folder: &Path) -> Result<Ranges, String> {
    match (&part.indices, &part.file, &part.seeds) {
        (Some(ranges), None, None) | (None, None, Some(ranges)) => {
            let ranges = Ranges::new(ranges)?;
            let found = identity::sha256_hex(ranges.canonical().as_bytes());
            match &part.sha256 {
                Some(expected) if *expected != found => {
                    Err(format!("SHA-256 of the ranges: expected {expected}, found {found}"))
                }
                _ => Ok(ranges),
            }
        }
        (None, Some(file), None) => {
            let full = folder.join(file);
            let text = std::fs::read_to_string(&full)
                .map_err(|e| format!("cannot read {}: {e}", full.display()))?;
            let found = identity::sha256_hex(text.as_bytes());
            match &part.sha256 {
                Some(expected) if *expected != found => {
                    Err(format!("{}: expected {expected}, found {found}", full.display()))
                }
                None => Err(format!("expected `sha256` of {}: {found}", full.display())),
                Some(_) => Ranges::parse(&text).map_err(|e| format!("{}: {e}", full.display())),
            }
        }
        _ => Err("expected exactly one of `indices`, `file`, `seeds`".into()),
    }
}

/// Whether a text is a SHA-256 in lower-case hexadecimal.
pub(crate) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// What one trial may read.
#[derive(Clone, Debug)]
pub struct Access {
    file: SplitFile,
    allowed: Vec<Split>,
}

/// Why data is not handed out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The stage may not read this split.
    #[error("split `{asked}` of `{dataset}` is closed to this stage, which may read {allowed}")]
    Closed {
        /// Data set.
        dataset: String,
        /// The split asked for.
        asked: &'static str,
        /// Splits that are open.
        allowed: String,
    },
    /// The file has no such data set or part.
    #[error("the split file has no {what}{}", .help.as_ref().map(|h| format!("; {h}")).unwrap_or_default())]
    Unknown {
        /// What was asked for.
        what: String,
        /// The nearest name.
        help: Option<String>,
    },
    /// The data is not what the split file was written for.
    #[error("data set `{dataset}`: expected SHA-256 {expected}, found {found}")]
    Hash {
        /// Data set.
        dataset: String,
        /// Hash in the split file.
        expected: String,
        /// Hash of the data.
        found: String,
    },
    /// The request names no split file.
    #[error("the request names no split file: give the task a `split`")]
    NoFile,
    /// The split file is not valid.
    #[error(transparent)]
    File(#[from] SpecError),
}

impl Access {
    /// What a stage may read of a file.
    pub fn of_stage(file: SplitFile, stage: Stage) -> Self {
        Self { file, allowed: readable(stage).to_vec() }
    }

    /// What the trial of a request may read.
    ///
    /// # Errors
    /// When the request names no split file, or an invalid one.
    pub fn of_request(request: &Request) -> Result<Self, AccessError> {
        let path = request.split_file.as_ref().ok_or(AccessError::NoFile)?;
        let file = SplitFile::read(path)?;
        let open = |split: &Split| request.splits.iter().any(|word| word == split.word());
        let allowed = [Split::Train, Split::Validation, Split::Test];
        Ok(Self { file, allowed: allowed.into_iter().filter(open).collect() })
    }

    /// Whether the stage may read a split at all.
    pub fn may_read(&self, split: Split) -> bool {
        self.allowed.contains(&split)
    }

    /// Row numbers, or seeds of generated data, of one part.
    ///
    /// # Errors
    /// [`AccessError::Closed`] when the stage may not read the split, [`AccessError::Unknown`]
    /// when the file does not have it.
    pub fn members(&self, dataset: &str, split: Split) -> Result<&Ranges, AccessError> {
        if !self.may_read(split) {
            let words: Vec<&str> = self.allowed.iter().map(|s| s.word()).collect();
            return Err(AccessError::Closed {
                dataset: dataset.to_owned(),
                asked: split.word(),
                allowed: words.join(", "),
            });
        }
        let known = self.dataset(dataset)?;
        known.parts.get(&split).ok_or_else(|| AccessError::Unknown {
            what: format!("`{}` part of `{dataset}`", split.word()),
            help: None,
        })
    }

    /// Checks that data is what the split file was written for. Generated data always is.
    ///
    /// # Errors
    /// [`AccessError::Hash`] when it is not, [`AccessError::Unknown`] for an unknown name.
    pub fn verify(&self, dataset: &str, bytes: &[u8]) -> Result<(), AccessError> {
        self.verify_sha256(dataset, &identity::sha256_hex(bytes))
    }

    /// [`Access::verify`] for data whose SHA-256 (hexadecimal) is known already.
    ///
    /// # Errors
    /// As [`Access::verify`].
    pub fn verify_sha256(&self, dataset: &str, found: &str) -> Result<(), AccessError> {
        let Some(expected) = &self.dataset(dataset)?.sha256 else { return Ok(()) };
        if found == *expected {
            return Ok(());
        }
        Err(AccessError::Hash {
            dataset: dataset.into(),
            expected: expected.clone(),
            found: found.to_owned(),
        })
    }

    fn dataset(&self, name: &str) -> Result<&SplitDataset, AccessError> {
        self.file.dataset(name).ok_or_else(|| AccessError::Unknown {
            what: format!("data set `{name}`"),
            help: similar::advice(name, self.file.datasets.iter().map(|d| d.name.as_str())),
        })
    }
}
