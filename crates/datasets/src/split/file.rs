//! Split files: written, read, and held against their hashes.

use super::{Part, Split};
use crate::bytes;
use crate::error::{Error, Result};
use crate::ranges::{canonical, from_pairs, into_ranges};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Version of the format.
const SCHEMA: u32 = 1;
/// Largest split file.
const MAX_FILE_BYTES: u64 = 64 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    schema: u32,
    #[serde(rename = "dataset")]
    datasets: Vec<Written>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    train: Option<WrittenPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation: Option<WrittenPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    test: Option<WrittenPart>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPart {
    #[serde(skip_serializing_if = "Option::is_none")]
    indices: Option<Vec<[u64; 2]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seeds: Option<Vec<[u64; 2]>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
}

impl Split {
    /// The split file as text:
    ///
    /// ```toml
    /// schema = 1
    ///
    /// [[dataset]]
    /// name = "toy"
    /// sha256 = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"
    /// rows = 6
    /// origin = "drawn with seed 0"
    ///
    /// [dataset.train] # half-open ranges, and the sha256 of "0-2,5"
    /// indices = [[0, 3], [5, 6]]
    /// sha256 = "eaf1585e9c516af7338bd39e9992e086f4c52e52d0905995be87c74df99db036"
    ///
    /// [dataset.test]
    /// indices = [[3, 5]]
    /// ```
    ///
    /// A split of seeds has `seeds` for `indices`, and neither `sha256` nor `rows`. An empty part is
    /// left out.
    ///
    /// # Errors
    /// [`Error::Argument`] if a number is beyond what TOML can hold (2^63).
    pub fn to_toml(&self) -> Result<String> {
        let end = self.parts.iter().flatten().map(|r| r.end).max().unwrap_or(0).max(self.n);
        if i64::try_from(end).is_err() {
            return Err(Error::argument("split", "numbers below 2^63", end.to_string()));
        }
        let part = |part: Part| {
            let ranges = self.ranges(part);
            let pairs = Some(ranges.iter().map(|r| [r.start, r.end]).collect());
            let (indices, seeds) =
                if self.data_sha256.is_some() { (pairs, None) } else { (None, pairs) };
            (!ranges.is_empty()).then(|| WrittenPart {
                indices,
                seeds,
                file: None,
                sha256: Some(self.sha256(part)),
            })
        };
        let written = Written {
            name: self.dataset.clone(),
            sha256: self.data_sha256.clone(),
            rows: self.data_sha256.is_some().then_some(self.n),
            origin: self.origin.clone(),
            train: part(Part::Train),
            validation: part(Part::Validation),
            test: part(Part::Test),
        };
        toml::to_string(&Document { schema: SCHEMA, datasets: vec![written] })
            .map_err(|e| Error::argument("split", "what TOML can hold", e.to_string()))
    }

    /// Reads the split of `dataset` out of a split file in memory and checks all of it. `name` stands
    /// for the file in errors; index files are looked for beside it.
    ///
    /// # Errors
    /// [`Error::Format`] for a broken file, a missing data set, overlapping parts or indices outside
    /// the data; [`Error::Checksum`] if a part does not match its hash or `data_sha256` is another;
    /// [`Error::Io`] for an index file that cannot be read.
    pub fn parse(
        name: impl AsRef<Path>,
        text: &str,
        dataset: &str,
        data_sha256: Option<&str>,
    ) -> Result<Self> {
        let path = name.as_ref();
        let file: Document = toml::from_str(text)
            .map_err(|e| Error::format(path, "TOML", "a split file", e.message().to_owned()))?;
        if file.schema != SCHEMA {
            let (expected, found) = (SCHEMA.to_string(), file.schema.to_string());
            return Err(Error::format(path, "schema", expected, found));
        }
        let known: Vec<String> = file.datasets.iter().map(|d| d.name.clone()).collect();
        let mut named = file.datasets.into_iter().filter(|d| d.name == dataset);
        let (Some(written), None) = (named.next(), named.next()) else {
            let (expected, found) = (format!("`{dataset}` once"), known.join(", "));
            return Err(Error::format(path, "dataset.name", expected, found));
        };
        if let Some(data) = data_sha256
            && written.sha256.as_deref() != Some(data)
        {
            return Err(Error::Checksum {
                path: path.to_owned(),
                what: "sha256 of the data",
                expected: written.sha256.unwrap_or_else(|| "none".to_owned()),
                found: data.to_owned(),
            });
        }
        let mut parts: [Vec<Range<u64>>; 3] = Default::default();
        let all = [&written.train, &written.validation, &written.test];
        for ((part, stored), ranges) in Part::ALL.iter().zip(all).zip(&mut parts) {
            if let Some(stored) = stored {
                *ranges = stored.read(path, part.name(), written.sha256.is_none())?;
            }
        }
        let end = parts.iter().flatten().map(|r| r.end).max().unwrap_or(0);
        let split = Self {
            dataset: written.name,
            data_sha256: written.sha256,
            n: written.rows.unwrap_or(end),
            origin: written.origin,
            parts,
        };
        Self::checked(split).map_err(|e| match e {
            Error::Argument { argument, expected, found } => {
                Error::format(path, argument, expected, found)
            }
            other => other,
        })
    }

    /// Writes the split file; a reader sees the old file or the new one, never a part.
    ///
    /// # Errors
    /// [`Error::Io`], or as [`Split::to_toml`].
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let staged = path.with_extension("toml.tmp");
        std::fs::write(&staged, self.to_toml()?).map_err(Error::io(&staged))?;
        std::fs::rename(&staged, path).map_err(Error::io(path))
    }

    /// Reads the split of `dataset` out of a split file and checks all of it, also that it was made
    /// for this data.
    ///
    /// # Errors
    /// [`Error::Io`], or as [`Split::parse`].
    pub fn load(path: impl AsRef<Path>, dataset: &str, data_sha256: Option<&str>) -> Result<Self> {
        let path = path.as_ref();
        Self::parse(path, &bytes::read_text(path, MAX_FILE_BYTES)?, dataset, data_sha256)
    }
}

impl WrittenPart {
    /// Members of the part; `generated` data has seeds, other data has indices.
    fn read(&self, path: &Path, part: &str, generated: bool) -> Result<Vec<Range<u64>>> {
        let wrong = |field: &str, expected: &str, found: String| {
            Error::format(path, format!("{part}{field}"), expected, found)
        };
        let checksum = |what, expected: &str, found: String| Error::Checksum {
            path: path.to_owned(),
            what,
            expected: expected.to_owned(),
            found,
        };
        let pairs = match (&self.indices, &self.seeds, &self.file) {
            (Some(pairs), None, None) if !generated => pairs,
            (None, Some(pairs), None) if generated => pairs,
            (None, None, Some(file)) if !generated => {
                let file = path.parent().unwrap_or(Path::new("")).join(file);
                let text = bytes::read_text(&file, MAX_FILE_BYTES)?;
                let found = bytes::sha256(text.as_bytes());
                let expected = self.sha256.as_deref().unwrap_or("none");
                if found != expected {
                    return Err(checksum("sha256 of an index file", expected, found));
                }
                return lines(&file, &text);
            }
            _ if generated => {
                let found = "other keys, or no `sha256` of the data".to_owned();
                return Err(wrong("", "`seeds`", found));
            }
            _ => {
                let found = "none, several or `seeds`".to_owned();
                return Err(wrong("", "one of `indices`, `file`", found));
            }
        };
        let field = if generated { ".seeds" } else { ".indices" };
        if pairs.is_empty() {
            return Err(wrong(field, "at least one range", "none".to_owned()));
        }
        let ranges = from_pairs(pairs)
            .map_err(|found| wrong(field, "disjoint half-open ranges [start, end]", found))?;
        let found = bytes::sha256(canonical(&ranges).as_bytes());
        match &self.sha256 {
            Some(expected) if *expected != found => {
                Err(checksum("sha256 of a part", expected, found))
            }
            _ => Ok(ranges),
        }
    }
}

/// An index file: one row number per line; blank lines and lines that start with `#` are skipped.
fn lines(path: &Path, text: &str) -> Result<Vec<Range<u64>>> {
    let mut rows: Vec<u64> = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let row = line.parse::<u64>().ok().filter(|row| *row < u64::MAX).ok_or_else(|| {
            Error::format(path, format!("line {}", i + 1), "a row number", format!("`{line:.40}`"))
        })?;
        rows.push(row);
    }
    rows.sort_unstable();
    if let Some([twice, _]) = rows.array_windows().find(|[a, b]| a == b) {
        return Err(Error::format(path, "rows", "each once", format!("{twice} twice")));
    }
    if rows.is_empty() {
        return Err(Error::format(path, "rows", "at least one", "none"));
    }
    Ok(into_ranges(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

    fn text() -> String {
        Split::from_indices("d", DATA, 9, &[0, 1, 2], &[4], &[6, 7]).unwrap().to_toml().unwrap()
    }

    fn error(text: &str) -> String {
        Split::parse("s.toml", text, "d", Some(DATA)).unwrap_err().to_string()
    }

    #[test]
    fn a_split_comes_back() {
        let fractions = crate::split::Fractions { train: 0.6, validation: 0.4, test: 0.0 };
        let drawn = Split::draw("d", DATA, 10, fractions, 7, Some(&[0; 10])).unwrap();
        assert_eq!(drawn.origin(), Some("drawn with seed 7, stratified by label"));
        let seeds = Split::of_seeds("d", 0..1 << 60, 1 << 60..(1 << 60) + 9, 0..0).unwrap();
        for split in [drawn, seeds] {
            let text = split.to_toml().unwrap();
            assert!(!text.contains("dataset.test"), "{text}");
            assert_eq!(Split::parse("s", &text, "d", split.data_sha256()).unwrap(), split);
        }
        let beyond = Split::of_seeds("d", 0..u64::MAX, 0..0, 0..0).unwrap();
        assert!(beyond.to_toml().unwrap_err().to_string().contains("below 2^63"));
    }

    #[test]
    fn the_format_never_changes() {
        let hash = |text: &[u8]| bytes::sha256(text);
        let expected = format!(
            "schema = 1\n\n[[dataset]]\nname = \"d\"\nsha256 = \"{DATA}\"\nrows = 9\n\n\
             [dataset.train]\nindices = [[0, 3]]\nsha256 = \"{}\"\n\n\
             [dataset.validation]\nindices = [[4, 5]]\nsha256 = \"{}\"\n\n\
             [dataset.test]\nindices = [[6, 8]]\nsha256 = \"{}\"\n",
            hash(b"0-2"),
            hash(b"4"),
            hash(b"6-7")
        );
        assert_eq!(text(), expected);
    }

    #[test]
    fn a_file_that_was_touched_is_refused() {
        let text = text();
        let touched = |from: &str, to: &str| {
            assert!(text.contains(from), "{from} in {text}");
            error(&text.replace(from, to))
        };
        assert!(touched("[[0, 3]]", "[[0, 4]]").contains("sha256 of a part: expected"));
        let other = DATA.replace('2', "3");
        assert!(touched(DATA, &other).contains("sha256 of the data: expected 3c"));
        let rows = touched("rows = 9", "rows = 7");
        assert!(rows.contains("indices: expected below 7, found 7 in test"), "{rows}");
        let schema = touched("schema = 1", "schema = 2");
        assert!(schema.contains("schema: expected 1, found 2"), "{schema}");
        assert!(touched("rows", "row").contains("TOML"));
        let name = touched("\"d\"", "\"e\"");
        assert!(name.contains("dataset.name: expected `d` once, found e"), "{name}");
        for (pairs, word) in
            [("[[2, 0]]", "[2, 0]"), ("[]", "at least one"), ("[[0, 2], [1, 3]]", "1 in two")]
        {
            let found = touched("[[0, 3]]", pairs);
            assert!(found.contains("train.indices") && found.contains(word), "{found}");
        }
        assert!(touched("indices = [[0, 3]]", "seeds = [[0, 3]]").contains("one of `indices`"));
        let overlap = text
            .replace("[[4, 5]]", "[[2, 3]]")
            .replace(&bytes::sha256(b"4"), &bytes::sha256(b"2"));
        assert!(error(&overlap).contains("found 2 in train and in validation"));
    }

    #[test]
    fn index_files_lie_beside_the_split_file() {
        let dir = tempfile::tempdir().unwrap();
        let rows = "# rows\n5\n3\n\n4\n";
        std::fs::write(dir.path().join("rows.txt"), rows).unwrap();
        let load = |sha: &str| {
            let text = format!(
                "schema = 1\n[[dataset]]\nname = \"d\"\nsha256 = \"{DATA}\"\n\
                 train = {{ file = \"rows.txt\", sha256 = \"{sha}\" }}\n"
            );
            Split::parse(dir.path().join("s.toml"), &text, "d", None)
        };
        let split = load(&bytes::sha256(rows.as_bytes())).unwrap();
        assert_eq!(canonical(split.ranges(Part::Train)), "3-5");
        assert!(load(DATA).unwrap_err().to_string().contains("sha256 of an index file"));
        for bad in ["x\n", "1\n1\n", "# none\n"] {
            assert!(lines(Path::new("rows.txt"), bad).is_err(), "{bad}");
        }
    }
}
