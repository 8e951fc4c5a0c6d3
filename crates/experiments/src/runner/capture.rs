//! Standard output and error of a trial: a bounded file and the last 4 KiB.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

/// Bytes of the tail that goes into the store.
const TAIL: usize = 4096;

/// One captured stream.
pub(super) struct Capture<R> {
    source: Option<R>,
    path: PathBuf,
    file: Option<File>,
    written: u64,
    limit: u64,
    dropped: u64,
    tail: VecDeque<u8>,
    problem: Option<String>,
}

impl<R: Read> Capture<R> {
    /// Captures `source` into `path`, at most `limit` bytes. The file is made with the first byte.
    pub(super) fn new(source: R, path: &Path, limit: u64) -> Self {
        Self {
            source: Some(source),
            path: path.to_path_buf(),
            file: None,
            written: 0,
            limit,
            dropped: 0,
            tail: VecDeque::with_capacity(TAIL),
            problem: None,
        }
    }

    /// The stream while it is open.
    pub(super) fn source(&self) -> Option<&R> {
        self.source.as_ref()
    }

    /// Reads what is there; call when the stream is readable. Never fails: a log that cannot be
    /// written must not cost a result.
    pub(super) fn pump(&mut self, buffer: &mut [u8]) {
        let Some(source) = &mut self.source else { return };
        match source.read(buffer) {
            Ok(0) => self.source = None,
            Ok(length) => self.keep(&buffer[..length]),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) => {}
            Err(error) => {
                self.problem = Some(error.to_string());
                self.source = None;
            }
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let last = &bytes[bytes.len().saturating_sub(TAIL)..];
        let surplus = (self.tail.len() + last.len()).saturating_sub(TAIL);
        self.tail.drain(..surplus.min(self.tail.len()));
        self.tail.extend(last);
        let room = usize::try_from(self.limit - self.written).unwrap_or(usize::MAX);
        let kept = if self.problem.is_some() { 0 } else { bytes.len().min(room) };
        self.dropped += (bytes.len() - kept) as u64;
        if kept == 0 {
            return;
        }
        match self.write(&bytes[..kept]) {
            Ok(()) => self.written += kept as u64,
            Err(error) => {
                self.problem = Some(error.to_string());
                self.dropped += kept as u64;
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(File::create(&self.path)?),
        };
        file.write_all(bytes)
    }

    /// The tail as text, and a warning when something was dropped.
    pub(super) fn finish(self, name: &str) -> (String, Option<String>) {
        let (head, rest) = self.tail.as_slices();
        let tail = String::from_utf8_lossy(&[head, rest].concat()).into_owned();
        let warning = match self.problem {
            Some(problem) => Some(format!("{name}: log not complete: {problem}")),
            None if self.dropped > 0 => Some(format!(
                "{name}: {} bytes beyond the limit of {} were dropped",
                self.dropped, self.limit
            )),
            None => None,
        };
        (tail, warning)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_bounded_and_the_tail_is_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let text: Vec<u8> = (0..100_000_u32).map(|i| b'a' + (i % 26) as u8).collect();
        let mut capture = Capture::new(&text[..], &path, 10_000);
        let mut buffer = vec![0; 3000];
        while capture.source().is_some() {
            capture.pump(&mut buffer);
        }
        let (tail, warning) = capture.finish("stdout");
        assert_eq!(tail.as_bytes(), &text[text.len() - TAIL..]);
        assert_eq!(std::fs::read(&path).unwrap(), &text[..10_000]);
        assert!(warning.unwrap().contains("90000 bytes"));
    }

    #[test]
    fn a_log_that_cannot_be_written_is_a_warning() {
        let mut capture = Capture::new(&b"hello"[..], Path::new("/nonexistent/log"), 10);
        capture.pump(&mut [0; 16]);
        let (tail, warning) = capture.finish("stderr");
        assert_eq!(tail, "hello");
        assert!(warning.unwrap().contains("stderr"));
    }

    #[test]
    fn nothing_written_makes_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut capture = Capture::new(&b""[..], &path, 10);
        capture.pump(&mut [0; 16]);
        assert_eq!(capture.finish("stdout"), (String::new(), None));
        assert!(!path.exists());
    }
}
