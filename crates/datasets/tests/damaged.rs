//! 10,000 damaged files: every reader answers with a value or an error, and stays small.
#![expect(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::path::Path;

use datasets::cifar::{self, Variant};
use datasets::csv::{self, Options};
use datasets::idx::{self, Idx};
use datasets::registry::Registry;
use datasets::split::{Fractions, Split};
use datasets::{bpe, bytes};
use ndarray::{Array4, ArrayD, IxDyn};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const FILES_PER_FORMAT: usize = 2_000;

/// Changes 1 to 4 places: bits, bytes of extreme value, 4-byte sizes, cuts, doubled or lost pieces.
fn damage(data: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut data = data.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        if data.is_empty() {
            data.push(rng.random());
        }
        // Half of the time near the start, where headers are.
        let bound = if rng.random() { data.len().min(24) } else { data.len() };
        let at = rng.random_range(0..bound);
        let to = rng.random_range(at..=data.len());
        match rng.random_range(0..7) {
            0 => data[at] ^= 1 << rng.random_range(0..8),
            1 => {
                let extremes = [0, 1, 0x7f, 0x80, 0xff, b'"', b',', b'\n', b'-', b'='];
                data[at] = extremes[rng.random_range(0..extremes.len())];
            }
            2 => {
                let size: u32 = [0, 1, u32::MAX, i32::MAX as u32, 1 << 16, rng.random()]
                    [rng.random_range(0..6)];
                let end = (at + 4).min(data.len());
                data[at..end].copy_from_slice(&size.to_be_bytes()[..end - at]);
            }
            3 => data.truncate(at),
            4 => drop(data.drain(at..to)),
            5 => {
                let piece = data[at..to].to_vec();
                data.splice(at..at, piece);
            }
            _ => data.extend((0..rng.random_range(1..64)).map(|_| 0xff)),
        }
    }
    data
}

/// Address space used at most so far, in bytes; it counts what is reserved and never touched, such as
/// the arenas of test threads, so only absurd sizes can be told from it.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmPeak:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// Feeds damaged copies of good files to a reader; returns how many it still accepted.
fn feed(seed: u64, good: &[Vec<u8>], read: impl Fn(&[u8]) -> bool) -> usize {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for file in good {
        assert!(read(file), "the good file is good");
    }
    let before = peak();
    let accepted =
        (0..FILES_PER_FORMAT).filter(|i| read(&damage(&good[i % good.len()], &mut rng))).count();
    if let (Some(before), Some(after)) = (before, peak()) {
        assert!(after - before < 1 << 30, "a reader asked for {} bytes", after - before);
    }
    // Most damage must be noticed, or the reader checks nothing.
    assert!(
        accepted < FILES_PER_FORMAT * 3 / 4,
        "{accepted} of {FILES_PER_FORMAT} damaged files accepted"
    );
    accepted
}

fn gzip(data: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn idx_files() -> Vec<Vec<u8>> {
    let shape = || IxDyn(&[3, 4, 5]);
    let files = [
        Idx::U8(ArrayD::from_elem(shape(), 7)),
        Idx::I16(ArrayD::from_elem(shape(), -7)),
        Idx::F64(ArrayD::from_elem(shape(), 0.5)),
        Idx::U8(ArrayD::from_elem(IxDyn(&[9]), 1)),
    ];
    files.iter().map(|f| f.encode().unwrap()).collect()
}

#[test]
fn idx() {
    feed(1, &idx_files(), |data| idx::parse("damaged", data).is_ok());
}

#[test]
fn idx_gzip_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("images.gz");
    let good: Vec<Vec<u8>> = idx_files().iter().map(|f| gzip(f)).collect();
    feed(2, &good, |data| {
        std::fs::write(&path, data).unwrap();
        let read = idx::read(&path);
        if let Err(error) = &read {
            assert!(error.to_string().contains("images.gz: "), "{error}");
        }
        read.is_ok()
    });
}

#[test]
fn cifar_batches() {
    let batch = |coarse: bool| {
        let images = Array4::from_elem((2, 3, 32, 32), 200);
        let labels = ndarray::array![3, 9];
        cifar::Cifar { images, coarse: coarse.then(|| labels.clone()), labels }.encode().unwrap()
    };
    feed(3, &[batch(false)], |data| cifar::parse("damaged", data, Variant::Ten).is_ok());
    feed(4, &[batch(true)], |data| cifar::parse("damaged", data, Variant::Hundred).is_ok());
}

#[test]
fn csv_tables() {
    let good = [
        "x,y,kind\n1,2.5,\"a,b\"\n-3,4e5,c\n0,0,\"d\"\"e\"\n".to_owned(),
        "\"x\",\"y\",\"kind\"\r\n\"1\",\"2\",\"a\nb\"\r\n3,4,c\r\n".to_owned(),
    ];
    feed(5, &good.map(String::into_bytes), |data| {
        let Ok(text) = std::str::from_utf8(data) else { return false };
        let Ok(table) = csv::parse("damaged", text, Options::default()) else { return false };
        for (row, column) in [(0, 0), (table.n_rows(), 0), (0, table.names().len())] {
            let inside = row < table.n_rows() && column < table.names().len();
            assert_eq!(table.cell(row, column).is_some(), inside);
        }
        table.labelled("kind").is_ok()
    });
}

#[test]
fn split_files() {
    let fractions = Fractions { train: 0.5, validation: 0.25, test: 0.25 };
    let data = bytes::sha256(b"toy");
    let good = Split::draw("toy", &data, 40, fractions, 3, None).unwrap().to_toml().unwrap();
    let accepted = feed(6, &[good.into_bytes()], |file| {
        std::str::from_utf8(file)
            .is_ok_and(|text| Split::parse("damaged", text, "toy", Some(&data)).is_ok())
    });
    // What is not hashed is the origin, the number of rows and white space.
    assert!(accepted < FILES_PER_FORMAT / 4, "{accepted}");
}

#[test]
fn tokenisers_and_lists() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bpe.json");
    bpe::Bpe::train("the cat sat on the mat with the hat", 12).unwrap().save(&path).unwrap();
    let good = std::fs::read(&path).unwrap();
    feed(7, &[good], |data| {
        std::fs::write(&path, data).unwrap();
        bpe::Bpe::load(&path).is_ok()
    });
    let list = toml::to_string(&Registry { datasets: Registry::builtin().datasets[..3].to_vec() })
        .unwrap();
    feed(8, &[list.into_bytes()], |data| {
        std::str::from_utf8(data).is_ok_and(|text| Registry::parse("damaged", text).is_ok())
    });
}

#[test]
fn a_file_that_is_too_large_is_refused_by_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("zeros.gz");
    std::fs::write(&path, gzip(&vec![0; 4 << 20])).unwrap();
    let options = Options { max_bytes: 1 << 20, ..Options::default() };
    assert!(csv::read(&path, options).unwrap_err().to_string().contains("at most 1048576 bytes"));
    assert_eq!(
        bytes::gunzip(Path::new("x"), &std::fs::read(&path).unwrap(), 4 << 20).unwrap().len(),
        4 << 20
    );
}
