//! Reading whole files with a bound on their size, compressed or not, and naming bytes by sha256.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};

/// Largest file, after decompression, that the readers accept unless told otherwise: 512 MiB.
///
/// The largest data set of the registry (the CIFAR-100 training set) needs 154 MB.
pub const MAX_BYTES: u64 = 512 << 20;

/// Reads a file, gunzips it if it starts with the gzip magic, and refuses more than `max_bytes` of
/// either form. Memory follows the bytes that are really there, never what a header claims.
///
/// # Errors
/// [`Error::Io`]; [`Error::Format`] if it is too large or the gzip stream is broken.
pub fn read(path: impl AsRef<Path>, max_bytes: u64) -> Result<Vec<u8>> {
    let path = path.as_ref();
    let file = File::open(path).map_err(Error::io(path))?;
    let raw = bounded(path, "file", file, max_bytes)?;
    if raw.starts_with(&[0x1f, 0x8b]) { gunzip(path, &raw, max_bytes) } else { Ok(raw) }
}

/// Decompresses gzip data (one or more members); `name` stands for the file in errors.
///
/// # Errors
/// [`Error::Format`] if the stream is broken or gives more than `max_bytes`.
pub fn gunzip(name: &Path, data: &[u8], max_bytes: u64) -> Result<Vec<u8>> {
    bounded(name, "gzip stream", MultiGzDecoder::new(data), max_bytes)
}

fn bounded(path: &Path, field: &str, reader: impl Read, max_bytes: u64) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    reader.take(max_bytes.saturating_add(1)).read_to_end(&mut out).map_err(
        |source| match source.kind() {
            std::io::ErrorKind::InvalidInput
            | std::io::ErrorKind::InvalidData
            | std::io::ErrorKind::UnexpectedEof => {
                Error::format(path, field, "an intact stream", source.to_string())
            }
            _ => Error::Io { path: path.to_owned(), source },
        },
    )?;
    if out.len() as u64 > max_bytes {
        return Err(Error::format(path, field, format!("at most {max_bytes} bytes"), "more"));
    }
    Ok(out)
}

/// Reads a file as text.
///
/// # Errors
/// As [`read`], or [`Error::Format`] naming the offset of the first byte that is not UTF-8.
pub fn read_text(path: impl AsRef<Path>, max_bytes: u64) -> Result<String> {
    let path = path.as_ref();
    into_text(path, read(path, max_bytes)?)
}

pub(crate) fn into_text(path: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let byte = e.as_bytes().get(at).copied().unwrap_or_default();
        Error::format(path, format!("byte {at}"), "UTF-8 text", format!("{byte:#04x}"))
    })
}

/// sha256 in lower-case hexadecimal, 64 characters.
pub fn sha256(data: &[u8]) -> String {
    hex(&Sha256::digest(data))
}

/// sha256 and size in bytes of a file of any size, in constant memory.
///
/// # Errors
/// [`Error::Io`].
pub fn sha256_file(path: impl AsRef<Path>) -> Result<(String, u64)> {
    let path = path.as_ref();
    let mut file = File::open(path).map_err(Error::io(path))?;
    let (mut hasher, mut total) = (Sha256::new(), 0_u64);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((hex(&hasher.finalize()), total)),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                total += n as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io(path)(e)),
        }
    }
}

fn hex(digest: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    digest
        .iter()
        .flat_map(|b| [b >> 4, b & 15])
        .map(|n| char::from(DIGITS[usize::from(n)]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn gz(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn sha256_of_the_standard_examples() {
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(
            sha256(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn reads_plain_and_gzip_alike_within_the_bound() {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in [("plain", b"hello".to_vec()), ("packed.gz", gz(b"hello"))] {
            let path = dir.path().join(name);
            std::fs::write(&path, &bytes).unwrap();
            assert_eq!(read(&path, 100).unwrap(), b"hello");
            assert_eq!(sha256_file(&path).unwrap(), (sha256(&bytes), bytes.len() as u64));
            assert!(read(&path, 4).unwrap_err().to_string().contains("at most 4 bytes"));
        }
    }

    #[test]
    fn a_gzip_bomb_stops_at_the_bound() {
        let bomb = gz(&vec![0; 64 << 20]);
        assert!(bomb.len() < 100_000);
        let error = gunzip(Path::new("bomb.gz"), &bomb, 1 << 20).unwrap_err();
        assert_eq!(
            error.to_string(),
            "bomb.gz: gzip stream: expected at most 1048576 bytes, found more"
        );
    }

    #[test]
    fn a_broken_stream_or_text_is_named() {
        let packed = gz(b"hello, hello, hello");
        for cut in [3, packed.len() / 2, packed.len() - 1] {
            let error = gunzip(Path::new("a.gz"), &packed[..cut], 100).unwrap_err();
            assert!(
                error.to_string().starts_with("a.gz: gzip stream: expected an intact stream"),
                "{error}"
            );
        }
        let error = into_text(Path::new("t"), b"ab\xff".to_vec()).unwrap_err();
        assert_eq!(error.to_string(), "t: byte 2: expected UTF-8 text, found 0xff");
    }
}
