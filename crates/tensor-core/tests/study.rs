//! The studies of this crate: their split files are the ones that their origin names.

use datasets::{
    digits,
    registry::Registry,
    split::{Fractions, Part, Split},
};
use std::path::Path;

#[test]
fn moment_carry_splits_the_digits_as_drawn() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("studies/moment-carry/data/digits.split.toml");
    let data = Registry::builtin().get("digits").unwrap().fingerprint();
    let labels = digits::load().labels;
    let fractions = Fractions { train: 0.6, validation: 0.2, test: 0.2 };
    let drawn = Split::draw("digits", &data, digits::LEN, fractions, 0, labels.as_slice()).unwrap();
    if std::env::var_os("UPDATE_SPLITS").is_some() {
        drawn.save(&path).unwrap();
    }
    assert_eq!(Split::load(&path, "digits", Some(&data)).unwrap(), drawn);
    assert_eq!([Part::Train, Part::Validation, Part::Test].map(|p| drawn.n(p)), [1078, 362, 357]);
    // The engine reads the same file.
    let read = experiments::split::SplitFile::read(&path).unwrap();
    assert_eq!(read.dataset("digits").unwrap().sha256.as_deref(), Some(data.as_str()));
    assert_eq!(read.dataset("digits").unwrap().parts[&experiments::spec::Split::Test].count(), 357);
}
