//! Reads the members of downloaded packages: tar (gzip), Debian packages, or a plain file.
//!
//! Nothing is unpacked to disk: only the members that a recipe asks for are read, into memory, so a
//! path such as `../../x` inside an archive cannot write anywhere.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use flate2::read::MultiGzDecoder;

use crate::bytes;
use crate::error::{Error, Result};

/// Bytes of an archive, after decompression, that are read at most.
const MAX_ARCHIVE_BYTES: u64 = 2 << 30;
const BLOCK: usize = 512;

/// Members by their path inside the archive.
pub(crate) type Members = BTreeMap<String, Vec<u8>>;

/// Reads the members for which `keep` holds. A file that is no archive is its own only member.
pub(crate) fn read(path: &Path, keep: &dyn Fn(&str) -> bool) -> Result<Members> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    if extension == "deb" {
        return read_deb(path, keep);
    }
    if extension == "tgz" || name.ends_with(".tar.gz") {
        let file = File::open(path).map_err(Error::io(path))?;
        return read_tar(path, MultiGzDecoder::new(BufReader::new(file)), keep);
    }
    let mut members = Members::new();
    if keep(name) {
        let mut data = Vec::new();
        let file = File::open(path).map_err(Error::io(path))?;
        file.take(MAX_ARCHIVE_BYTES).read_to_end(&mut data).map_err(Error::io(path))?;
        members.insert(name.to_owned(), data);
    }
    Ok(members)
}

fn read_deb(path: &Path, keep: &dyn Fn(&str) -> bool) -> Result<Members> {
    let program = format!("dpkg-deb --fsys-tarfile {}", path.display());
    let client = |why: String| Error::Client { program: program.clone(), why };
    let mut child = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| client(format!("cannot be started ({e}); it is part of Debian's `dpkg`")))?;
    let stdout = child.stdout.take().ok_or_else(|| client("no output".to_owned()))?;
    let members = read_tar(path, BufReader::new(stdout), keep);
    let status = child.wait().map_err(Error::io(path))?;
    // The child's own failure explains a tar stream that breaks off; the reverse does not hold.
    if status.success() { members } else { Err(client(format!("{status}: is the package whole?"))) }
}

fn read_tar(path: &Path, reader: impl Read, keep: &dyn Fn(&str) -> bool) -> Result<Members> {
    let broken =
        |e: std::io::Error| Error::format(path, "archive", "an intact tar stream", e.to_string());
    let mut reader = reader.take(MAX_ARCHIVE_BYTES);
    let mut members = Members::new();
    let mut block = [0; BLOCK];
    loop {
        reader.read_exact(&mut block).map_err(broken)?;
        if block.iter().all(|&b| b == 0) {
            // Drain the padding, so that a program that writes the stream ends in peace.
            std::io::copy(&mut reader, &mut std::io::sink()).map_err(broken)?;
            return Ok(members);
        }
        let header = Header::parse(path, &block)?;
        let padding = header.size.next_multiple_of(BLOCK as u64) - header.size;
        if header.regular && keep(&header.name) {
            let mut data = Vec::new();
            (&mut reader).take(header.size).read_to_end(&mut data).map_err(broken)?;
            if data.len() as u64 != header.size {
                let field = format!("member {}", header.name);
                let expected = format!("{} bytes", header.size);
                return Err(Error::format(path, field, expected, format!("{} bytes", data.len())));
            }
            if members.insert(header.name.clone(), data).is_some() {
                return Err(Error::format(
                    path,
                    "members",
                    "each once",
                    format!("{} twice", header.name),
                ));
            }
            skip(&mut reader, padding).map_err(broken)?;
        } else {
            skip(&mut reader, header.size.saturating_add(padding)).map_err(broken)?;
        }
    }
}

fn skip(reader: &mut impl Read, n: u64) -> std::io::Result<()> {
    let copied = std::io::copy(&mut reader.take(n), &mut std::io::sink())?;
    if copied == n { Ok(()) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}

struct Header {
    name: String,
    size: u64,
    regular: bool,
}

impl Header {
    /// POSIX ustar. Extended headers (long names) are skipped as members that nobody asks for.
    fn parse(path: &Path, block: &[u8; BLOCK]) -> Result<Self> {
        let text = |range: std::ops::Range<usize>| {
            let field = &block[range];
            let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
            String::from_utf8_lossy(&field[..end]).into_owned()
        };
        let octal = |range: std::ops::Range<usize>, field: &str| {
            let digits = text(range);
            let digits = digits.trim_matches(|c: char| c == ' ' || c == '\0');
            u64::from_str_radix(digits, 8).map_err(|_| {
                Error::format(
                    path,
                    format!("tar {field}"),
                    "octal digits",
                    format!("`{digits:.20}`"),
                )
            })
        };
        // The sum is taken with its own field read as spaces.
        let sum = block
            .iter()
            .enumerate()
            .map(|(i, &b)| if (148..156).contains(&i) { 32 } else { u64::from(b) })
            .sum::<u64>();
        let stored = octal(148..156, "header checksum")?;
        if stored != sum {
            return Err(Error::format(
                path,
                "tar header checksum",
                sum.to_string(),
                stored.to_string(),
            ));
        }
        let prefix = if block[257..262] == *b"ustar" { text(345..500) } else { String::new() };
        let name = text(0..100);
        let name = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        let size = octal(124..136, "member size")?;
        Ok(Self { name, size, regular: matches!(block[156], b'0' | 0) })
    }
}

/// Takes out the member whose path is `wanted` or ends with `/wanted`, gunzipped if the name says so.
pub(crate) fn take(
    path: &Path,
    members: &mut Members,
    wanted: &str,
    max_bytes: u64,
) -> Result<Vec<u8>> {
    let found: Vec<String> =
        members.keys().filter(|name| ends_with(name, wanted)).cloned().collect();
    let [name] = found.as_slice() else {
        let field = format!("members {wanted}");
        return Err(Error::format(path, field, "1", found.len().to_string()));
    };
    let data = members.remove(name).unwrap_or_default();
    if Path::new(wanted).extension().is_some_and(|e| e == "gz") {
        bytes::gunzip(Path::new(wanted), &data, max_bytes)
    } else {
        Ok(data)
    }
}

pub(crate) fn ends_with(name: &str, wanted: &str) -> bool {
    name.strip_suffix(wanted).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Write as _;

    /// A tar.gz of small members, as package registries serve it.
    pub(crate) fn tgz(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = Vec::new();
        for (name, data) in members {
            let mut block = [0_u8; BLOCK];
            block[..name.len()].copy_from_slice(name.as_bytes());
            block[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
            block[156] = b'0';
            block[257..263].copy_from_slice(b"ustar\0");
            block[148..156].copy_from_slice(b"        ");
            let sum: u64 = block.iter().map(|&b| u64::from(b)).sum();
            block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
            tar.extend(block);
            tar.extend(*data);
            tar.resize(tar.len().next_multiple_of(BLOCK), 0);
        }
        tar.resize(tar.len() + 2 * BLOCK, 0);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&tar).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn reads_the_members_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p-1.0.tgz");
        let long = vec![7; 1500];
        std::fs::write(
            &path,
            tgz(&[("package/a.txt", b"alpha"), ("package/skip", &long), ("x/b", &long)]),
        )
        .unwrap();
        let mut members = read(&path, &|name| !name.contains("skip")).unwrap();
        assert_eq!(members.keys().collect::<Vec<_>>(), ["package/a.txt", "x/b"]);
        assert!(take(&path, &mut members, ".txt", 100).is_err(), "no part of a name");
        assert_eq!(take(&path, &mut members, "a.txt", 100).unwrap(), b"alpha");
        assert_eq!(take(&path, &mut members, "x/b", 100).unwrap(), long);
        assert!(take(&path, &mut members, "b", 100).is_err(), "it was taken");
    }

    #[test]
    fn a_damaged_archive_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.tar.gz");
        let whole = tgz(&[("a", b"alpha"), ("b", &[1; 3000])]);
        for cut in [10, whole.len() / 2, whole.len() - 9] {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(read(&path, &|_| true).is_err(), "{cut}");
        }
        let mut tar = Vec::new();
        MultiGzDecoder::new(whole.as_slice()).read_to_end(&mut tar).unwrap();
        tar[0] ^= 1;
        let error = read_tar(&path, tar.as_slice(), &|_| true).unwrap_err();
        assert!(error.to_string().contains("tar header checksum"), "{error}");
        // A member that claims 8 GiB: an error after the bytes that are there, no allocation before.
        tar[0] ^= 1;
        tar[124..135].copy_from_slice(b"77777777777");
        let sum: u64 =
            (0..BLOCK).map(|i| if (148..156).contains(&i) { 32 } else { u64::from(tar[i]) }).sum();
        tar[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        assert!(
            read_tar(&path, tar.as_slice(), &|_| true)
                .unwrap_err()
                .to_string()
                .contains("member a: expected 8589934591")
        );
    }

    #[test]
    fn a_plain_file_is_its_own_member() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("train.gz");
        std::fs::write(&path, b"not unpacked here").unwrap();
        assert_eq!(read(&path, &|_| true).unwrap()["train.gz"], b"not unpacked here");
        assert!(read(&path, &|_| false).unwrap().is_empty());
    }
}
