//! Reading the event file of a trial while it is written (specification, section 6.1).

use crate::{
    store::record::{Metric, Point},
    trial::Event,
};
use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

/// Longest line that is read.
const LINE_BYTES: usize = 1 << 20;

/// Kept texts about unreadable lines.
const KEPT_DEFECTS: usize = 20;

/// What the lines so far say.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) metrics: Vec<Metric>,
    pub(super) points: Vec<Point>,
    /// Name and path of each artifact, as the program gave it.
    pub(super) artifacts: Vec<(String, PathBuf)>,
    pub(super) done: bool,
    pub(super) budget_used: Option<f64>,
    pub(super) peak_rss_kib: Option<u64>,
    /// Why the trial cannot be valid: unreadable lines, values given twice, too many points.
    pub(super) defects: Vec<String>,
    /// Worth telling, harmless to the result.
    pub(super) warnings: Vec<String>,
}

/// Follows one event file.
pub(super) struct EventReader {
    path: PathBuf,
    file: Option<File>,
    partial: Vec<u8>,
    /// The rest of the current line is dropped because it is too long.
    skipping: bool,
    line: u64,
    bytes: u64,
    max_points: usize,
    points_dropped: u64,
    n_defects: u64,
    gathered: Gathered,
}

impl EventReader {
    pub(super) fn new(path: &Path, max_points: usize) -> Self {
        Self {
            path: path.to_path_buf(),
            file: None,
            partial: Vec::new(),
            skipping: false,
            line: 0,
            bytes: 0,
            max_points,
            points_dropped: 0,
            n_defects: 0,
            gathered: Gathered::default(),
        }
    }

    /// Bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads what was added, at most up to `byte_limit` in all; `elapsed` is the time of points
    /// that do not tell theirs.
    pub(super) fn poll(&mut self, elapsed: Duration, byte_limit: u64) -> io::Result<()> {
        if self.file.is_none() {
            match File::open(&self.path) {
                Ok(file) => self.file = Some(file),
                // The program has not opened it yet.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let mut buffer = vec![0; 1 << 16];
        while self.bytes <= byte_limit {
            let Some(file) = &mut self.file else { break };
            let length = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.bytes += length as u64;
            self.take(&buffer[..length], elapsed);
        }
        Ok(())
    }

    fn take(&mut self, mut bytes: &[u8], elapsed: Duration) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (head, rest) = bytes.split_at(end);
            bytes = &rest[1..];
            self.line += 1;
            if self.skipping {
                self.skipping = false;
                continue;
            }
            if self.partial.is_empty() {
                self.parse(head, elapsed);
            } else {
                let mut line = std::mem::take(&mut self.partial);
                line.extend_from_slice(head);
                self.parse(&line, elapsed);
            }
        }
        if self.skipping {
            return;
        }
        self.partial.extend_from_slice(bytes);
        if self.partial.len() > LINE_BYTES {
            self.partial = Vec::new();
            self.skipping = true;
            let line = self.line + 1;
            self.defect(format!("event line {line}: longer than {LINE_BYTES} bytes"));
        }
    }

    fn defect(&mut self, text: String) {
        self.n_defects += 1;
        if self.gathered.defects.len() < KEPT_DEFECTS {
            self.gathered.defects.push(text);
        }
    }

    fn parse(&mut self, line: &[u8], elapsed: Duration) {
        let line = line.trim_ascii();
        if line.is_empty() {
            return;
        }
        let number = self.line;
        if line.len() > LINE_BYTES {
            self.defect(format!("event line {number}: longer than {LINE_BYTES} bytes"));
            return;
        }
        match serde_json::from_slice::<Event>(line) {
            Ok(event) => {
                if let Err(why) = self.accept(event, elapsed) {
                    self.defect(format!("event line {number}: {why}"));
                }
            }
            Err(error) => {
                let text = String::from_utf8_lossy(&line[..line.len().min(120)]).into_owned();
                let hint = if ["NaN", "Infinity", "inf"].iter().any(|word| text.contains(word)) {
                    "; values that are not finite are the words \"nan\", \"inf\", \"-inf\""
                } else {
                    ""
                };
                // The line may hold a test value, so it is named and not quoted.
                self.defect(format!("event line {number}: {error}{hint}"));
            }
        }
    }

    fn accept(&mut self, event: Event, elapsed: Duration) -> Result<(), String> {
        let gathered = &mut self.gathered;
        if gathered.done {
            gathered.warnings.push(format!("event line {}: after `done`, ignored", self.line));
            gathered.warnings.truncate(KEPT_DEFECTS);
            return Ok(());
        }
        match event {
            Event::Point { name, step, budget, value, wall_s } => {
                if !budget.is_finite() || i64::try_from(step).is_err() {
                    return Err(format!(
                        "point `{name}`: expected a finite budget and a step below 2^63, found \
                         {budget} and {step}"
                    ));
                }
                if gathered.points.len() >= self.max_points {
                    self.points_dropped += 1;
                    return Ok(());
                }
                let wall_s = wall_s
                    .filter(|seconds| seconds.is_finite() && *seconds >= 0.0)
                    .unwrap_or(elapsed.as_secs_f64());
                gathered.points.push(Point { name, step, budget, wall_s, value });
            }
            Event::Metric { name, split, value } => {
                if !matches!(split.as_str(), "train" | "validation" | "test") {
                    return Err(format!(
                        "metric `{name}`: expected split train, validation or test, found {split:?}"
                    ));
                }
                if gathered.metrics.iter().any(|m| m.name == name && m.split == split) {
                    return Err(format!("metric `{name}` ({split}) is given twice"));
                }
                gathered.metrics.push(Metric { name, split, value });
            }
            Event::Artifact { name, path } => {
                if gathered.artifacts.iter().any(|(known, _)| *known == name) {
                    return Err(format!("artifact `{name}` is given twice"));
                }
                gathered.artifacts.push((name, path));
            }
            Event::Done { budget_used, peak_rss_kib } => {
                if budget_used.is_some_and(|used| !used.is_finite()) {
                    return Err("`done`: expected a finite budget_used".to_owned());
                }
                gathered.done = true;
                gathered.budget_used = budget_used;
                gathered.peak_rss_kib = peak_rss_kib.filter(|kib| *kib < 1 << 50);
            }
        }
        Ok(())
    }

    /// Ends the reading: a last line without a newline counts when it is whole, and is otherwise
    /// what a killed program leaves.
    pub(super) fn finish(mut self, elapsed: Duration) -> Gathered {
        let rest = std::mem::take(&mut self.partial);
        if !rest.trim_ascii().is_empty() {
            self.line += 1;
            if serde_json::from_slice::<Event>(rest.trim_ascii()).is_ok() {
                self.parse(&rest, elapsed);
            } else {
                self.gathered.warnings.push(format!(
                    "event line {}: not complete, ignored ({} bytes)",
                    self.line,
                    rest.len()
                ));
            }
        }
        if self.points_dropped > 0 {
            let text =
                format!("{} points beyond the limit of {}", self.points_dropped, self.max_points);
            self.defect(text);
        }
        let unlisted = self.n_defects - self.gathered.defects.len() as u64;
        if unlisted > 0 {
            self.gathered.defects.push(format!("and {unlisted} more"));
        }
        self.gathered
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gather(text: &[u8], max_points: usize, piece: usize) -> Gathered {
        let mut reader = EventReader::new(Path::new("unused"), max_points);
        for part in text.chunks(piece.max(1)) {
            reader.take(part, Duration::from_secs(3));
        }
        reader.finish(Duration::from_secs(3))
    }

    const GOOD: &str = concat!(
        r#"{"t":"point","name":"e","step":1,"budget":1.0,"value":"nan"}"#,
        "\n\n",
        r#"{"t":"metric","name":"m","split":"test","value":0.1}"#,
        "\n",
        r#"{"t":"artifact","name":"a","path":"x"}"#,
        "\n",
        r#"{"t":"done","peak_rss_kib":5}"#
    );

    #[test]
    fn lines_arrive_in_pieces_of_any_size() {
        for piece in [1, 2, 7, 1000] {
            let gathered = gather(GOOD.as_bytes(), 10, piece);
            assert!(gathered.done && gathered.defects.is_empty(), "{gathered:?}");
            assert_eq!(gathered.points.len(), 1);
            assert!(gathered.points[0].value.0.is_nan());
            assert!((gathered.points[0].wall_s - 3.0).abs() < 1e-12);
            assert_eq!(gathered.metrics.len(), 1);
            assert_eq!(gathered.peak_rss_kib, Some(5));
        }
    }

    #[test]
    fn every_bad_line_is_named() {
        for (bad, word) in [
            (r#"{"t":"metric","name":"m","split":"test","value":1e400}"#, "out of range"),
            (r#"{"t":"metric","name":"m","split":"test","value":NaN}"#, "\"nan\""),
            (r#"{"t":"metric","name":"m","split":"exam","value":1}"#, "exam"),
            (r#"{"t":"metric","name":"m","value":1}"#, "split"),
            (r#"{"t":"point","name":"m","step":-1,"budget":0,"value":1}"#, "line 1"),
            (
                r#"{"t":"point","name":"m","step":18446744073709551615,"budget":0,"value":1}"#,
                "2^63",
            ),
            (r#"{"t":"nonsense"}"#, "nonsense"),
            ("garbage", "line 1"),
            ("[1,2]", "line 1"),
        ] {
            let gathered = gather(format!("{bad}\n").as_bytes(), 10, 1000);
            assert_eq!(gathered.defects.len(), 1, "{bad}");
            assert!(gathered.defects[0].contains(word), "{bad}: {:?}", gathered.defects);
        }
        let twice = r#"{"t":"metric","name":"m","split":"test","value":1}"#;
        let gathered = gather(format!("{twice}\n{twice}\n").as_bytes(), 10, 1000);
        assert!(gathered.defects[0].contains("twice"));
    }

    #[test]
    fn half_a_line_is_a_warning_and_no_done() {
        let text = &GOOD[..GOOD.len() - 3];
        let gathered = gather(text.as_bytes(), 10, 1000);
        assert!(!gathered.done);
        assert!(gathered.defects.is_empty());
        assert!(gathered.warnings[0].contains("not complete"));
    }

    #[test]
    fn floods_are_bounded() {
        let point = "{\"t\":\"point\",\"name\":\"e\",\"step\":1,\"budget\":1,\"value\":1}\n";
        let gathered = gather(point.repeat(30).as_bytes(), 10, 1000);
        assert_eq!(gathered.points.len(), 10);
        assert!(gathered.defects[0].contains("20 points"));
        let long = vec![b'x'; 3 * LINE_BYTES];
        let gathered = gather(&long, 10, 4096);
        assert_eq!(gathered.defects.len(), 1);
        let gathered = gather("x\n".repeat(1000).as_bytes(), 10, 4096);
        assert_eq!(gathered.defects.len(), KEPT_DEFECTS + 1);
        assert!(gathered.defects[KEPT_DEFECTS].contains("980 more"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), piece in 1usize..50) {
            let gathered = gather(&bytes, 3, piece);
            prop_assert!(!gathered.done);
        }
    }
}
