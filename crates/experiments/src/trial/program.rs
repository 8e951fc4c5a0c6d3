//! The program's side of the protocol: read the request, log events, end with `done`.

use super::{Event, Number, Request};
use crate::identity::Value;
use anyhow::Context;
use std::{
    fs::{File, OpenOptions},
    io::{self, BufWriter, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

/// Points are flushed to the file at least this often, so that a kill loses little.
const FLUSH_EVERY: Duration = Duration::from_millis(100);

/// A factor or seed that the program expects and the request does not hold.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The cell has no such entry.
    #[error("trial request: expected the factor `{name}`, found only {found:?}")]
    MissingFactor {
        /// Factor asked for.
        name: String,
        /// Factors that the cell has.
        found: Vec<String>,
    },
    /// The entry has another type.
    #[error("trial request: factor `{name}`: expected {expected}, found {found:?}")]
    FactorType {
        /// Factor asked for.
        name: String,
        /// Type asked for.
        expected: &'static str,
        /// Value in the cell.
        found: Value,
    },
    /// The spec declares no such seed stream.
    #[error("trial request: expected the seed stream `{name}`, found only {found:?}")]
    MissingSeed {
        /// Stream asked for.
        name: String,
        /// Streams in the request.
        found: Vec<String>,
    },
}

impl Request {
    fn factor(&self, name: &str) -> Result<&Value, RequestError> {
        self.cell.get(name).ok_or_else(|| RequestError::MissingFactor {
            name: name.to_owned(),
            found: self.cell.keys().cloned().collect(),
        })
    }

    fn wrong_type(name: &str, expected: &'static str, found: &Value) -> RequestError {
        RequestError::FactorType { name: name.to_owned(), expected, found: found.clone() }
    }

    /// The text of factor `name`; also `method` and `task`.
    ///
    /// # Errors
    /// When the cell has no such entry or it is not text.
    pub fn text(&self, name: &str) -> Result<&str, RequestError> {
        match self.factor(name)? {
            Value::Text(text) => Ok(text),
            other => Err(Self::wrong_type(name, "text", other)),
        }
    }

    /// The number of factor `name`; a whole number is converted.
    ///
    /// # Errors
    /// When the cell has no such entry or it is no number.
    pub fn float(&self, name: &str) -> Result<f64, RequestError> {
        match self.factor(name)? {
            Value::Float(x) => Ok(*x),
            Value::Int(x) => Ok(*x as f64),
            other => Err(Self::wrong_type(name, "a number", other)),
        }
    }

    /// The whole number of factor `name`. A float without a fraction counts: JSON writers of some
    /// languages turn `16` into `16.0`.
    ///
    /// # Errors
    /// When the cell has no such entry or it is no whole number.
    pub fn int(&self, name: &str) -> Result<i64, RequestError> {
        match self.factor(name)? {
            Value::Int(x) => Ok(*x),
            Value::Float(x) if x.fract() == 0.0 && x.abs() < 9e15 => Ok(*x as i64),
            other => Err(Self::wrong_type(name, "a whole number", other)),
        }
    }

    /// The truth value of factor `name`.
    ///
    /// # Errors
    /// When the cell has no such entry or it is no truth value.
    pub fn bool(&self, name: &str) -> Result<bool, RequestError> {
        match self.factor(name)? {
            Value::Bool(x) => Ok(*x),
            other => Err(Self::wrong_type(name, "true or false", other)),
        }
    }

    /// The seed of stream `name`, in `0..2^63`.
    ///
    /// # Errors
    /// When the spec declares no such stream.
    pub fn seed(&self, name: &str) -> Result<i64, RequestError> {
        self.seeds.get(name).copied().ok_or_else(|| RequestError::MissingSeed {
            name: name.to_owned(),
            found: self.seeds.keys().cloned().collect(),
        })
    }
}

/// Where a trial program reports to. Every call appends one line to the event file.
pub struct Log {
    out: BufWriter<Box<dyn Write>>,
    started: Instant,
    flushed: Instant,
    out_dir: PathBuf,
    budget_used: Option<f64>,
}

impl Log {
    fn open(out_dir: &Path) -> anyhow::Result<Self> {
        let out: Box<dyn Write> = match std::env::var_os("EXP_EVENTS") {
            Some(path) => {
                let file: File =
                    OpenOptions::new().create(true).append(true).open(&path).with_context(
                        || format!("open the event file {}", Path::new(&path).display()),
                    )?;
                Box::new(file)
            }
            // By hand, without a runner: `program --trial < request.json`.
            None => Box::new(io::stdout()),
        };
        let now = Instant::now();
        Ok(Self {
            out: BufWriter::new(out),
            started: now,
            // The first point goes out at once: a program that then hangs has logged it.
            flushed: now.checked_sub(FLUSH_EVERY).unwrap_or(now),
            out_dir: out_dir.to_path_buf(),
            budget_used: None,
        })
    }

    fn write(&mut self, event: &Event, flush: bool) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(event).context("encode an event")?;
        line.push(b'\n');
        self.out.write_all(&line).context("write an event")?;
        if flush || self.flushed.elapsed() >= FLUSH_EVERY {
            self.out.flush().context("write an event")?;
            self.flushed = Instant::now();
        }
        Ok(())
    }

    /// One point of the curve `name`: `step` counts whatever the program counts, `budget` is what
    /// was used so far in the declared unit.
    ///
    /// # Errors
    /// When the event file cannot be written.
    pub fn point(&mut self, name: &str, step: u64, budget: f64, value: f64) -> anyhow::Result<()> {
        let wall_s = Some(self.started.elapsed().as_secs_f64());
        let event =
            Event::Point { name: name.to_owned(), step, budget, value: Number(value), wall_s };
        self.write(&event, false)
    }

    /// The final value of metric `name` on `split` (`train`, `validation` or `test`).
    ///
    /// # Errors
    /// When the event file cannot be written.
    pub fn metric(&mut self, name: &str, split: &str, value: f64) -> anyhow::Result<()> {
        let event =
            Event::Metric { name: name.to_owned(), split: split.to_owned(), value: Number(value) };
        self.write(&event, true)
    }

    /// A file that stays; `path` is relative to [`Log::out_dir`] or inside it.
    ///
    /// # Errors
    /// When the path lies outside the trial's folder or the event file cannot be written.
    pub fn artifact(&mut self, name: &str, path: &Path) -> anyhow::Result<()> {
        let path = if path.is_absolute() {
            path.strip_prefix(&self.out_dir).with_context(|| {
                format!(
                    "artifact `{name}`: expected a path inside {}, found {}",
                    self.out_dir.display(),
                    path.display()
                )
            })?
        } else {
            path
        };
        self.write(&Event::Artifact { name: name.to_owned(), path: path.to_path_buf() }, true)
    }

    /// Says how much budget was used in all; goes into the `done` line.
    pub fn budget_used(&mut self, amount: f64) {
        self.budget_used = Some(amount);
    }

    /// Folder for artifacts.
    pub fn out_dir(&self) -> &Path {
        &self.out_dir
    }

    fn done(mut self) -> anyhow::Result<()> {
        let event =
            Event::Done { budget_used: self.budget_used, peak_rss_kib: peak_resident_kib() };
        self.write(&event, true)
    }
}

/// `VmHWM` of this process in KiB: unlike `ru_maxrss` it does not carry over the size of the
/// process that started us (specification, section 6.3).
fn peak_resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

/// A trial program: what it can say about its environment, and how it runs a trial.
///
/// ```no_run
/// use experiments::trial::Program;
/// fn main() -> std::process::ExitCode {
///     Program::new()
///         .describe(|| serde_json::json!({"library": "1.2.3"}))
///         .run(|req, log| log.metric("seed", "train", req.seed("init")? as f64))
/// }
/// ```
#[derive(Default)]
pub struct Program {
    describe: Option<Box<dyn FnOnce() -> serde_json::Value>>,
}

impl Program {
    /// A program that describes itself by name and version of this crate alone.
    pub fn new() -> Self {
        Self::default()
    }

    /// What `--describe` prints: versions of the numeric libraries, devices, flags that change
    /// results. The runner stores it with the session (specification, section 5.3).
    #[must_use]
    pub fn describe(mut self, facts: impl FnOnce() -> serde_json::Value + 'static) -> Self {
        self.describe = Some(Box::new(facts));
        self
    }

    /// Does what the command line asks: `--describe` or `--trial`.
    pub fn run<F>(self, trial: F) -> ExitCode
    where
        F: FnOnce(&Request, &mut Log) -> anyhow::Result<()>,
    {
        let args: Vec<_> = std::env::args_os().skip(1).collect();
        let word = (args.len() == 1).then(|| args[0].to_string_lossy().into_owned());
        let outcome = match word.as_deref() {
            Some("--describe") => {
                let facts = self.describe.map_or_else(|| serde_json::json!({}), |facts| facts());
                writeln!(io::stdout(), "{facts}").context("print the description")
            }
            Some("--trial") => run_trial(trial),
            _ => {
                let _ = writeln!(
                    io::stderr(),
                    "usage: this is a trial program of an experiment; it takes one argument:\n  \
                     --describe   print facts about the environment as JSON\n  \
                     --trial      read a request as JSON from standard input and run it"
                );
                return ExitCode::from(2);
            }
        };
        match outcome {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(io::stderr(), "error: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

fn run_trial<F>(trial: F) -> anyhow::Result<()>
where
    F: FnOnce(&Request, &mut Log) -> anyhow::Result<()>,
{
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).context("read the request from standard input")?;
    let request: Request =
        serde_json::from_str(&text).context("the request on standard input is not valid")?;
    let mut log = Log::open(&request.out_dir)?;
    match trial(&request, &mut log) {
        Ok(()) => log.done(),
        Err(error) => {
            // What was logged up to the failure stays: a crash with a curve is data.
            log.out.flush().context("write an event")?;
            Err(error)
        }
    }
}

/// Runs a trial program: see the module's first example and [`Program`].
pub fn main<F>(trial: F) -> ExitCode
where
    F: FnOnce(&Request, &mut Log) -> anyhow::Result<()>,
{
    Program::new().run(trial)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{identity::TrialKey, trial::BudgetRequest};
    use std::collections::BTreeMap;

    fn request() -> Request {
        Request {
            trial_key: TrialKey("0".repeat(32)),
            cell: BTreeMap::from([
                ("method".to_owned(), Value::Text("a".to_owned())),
                ("width".to_owned(), Value::Int(16)),
                ("lr".to_owned(), Value::Float(0.5)),
                ("depth".to_owned(), Value::Float(2.0)),
                ("carry".to_owned(), Value::Bool(true)),
            ]),
            rep: 0,
            seeds: BTreeMap::from([("init".to_owned(), 7)]),
            budget: BudgetRequest { unit: "steps".to_owned(), amount: 3.0 },
            splits: vec!["train".to_owned()],
            split_file: None,
            out_dir: PathBuf::from("/nowhere"),
            threads: 1,
            device: "cpu".to_owned(),
        }
    }

    #[test]
    fn factors_are_read_by_type() {
        let request = request();
        assert_eq!(request.text("method").unwrap(), "a");
        assert_eq!(request.int("width").unwrap(), 16);
        assert_eq!(request.int("depth").unwrap(), 2);
        assert_eq!(request.float("width").unwrap().to_bits(), 16f64.to_bits());
        assert!(request.bool("carry").unwrap());
        assert_eq!(request.seed("init").unwrap(), 7);
        let message = request.int("lr").unwrap_err().to_string();
        assert!(message.contains("`lr`") && message.contains("0.5"), "{message}");
        assert!(request.text("nothing").unwrap_err().to_string().contains("width"));
        assert!(request.seed("data").is_err());
    }

    #[test]
    fn numbers_that_are_not_finite_travel_as_words() {
        for (value, word) in
            [(f64::NAN, "\"nan\""), (f64::INFINITY, "\"inf\""), (f64::NEG_INFINITY, "\"-inf\"")]
        {
            let text = serde_json::to_string(&Number(value)).unwrap();
            assert_eq!(text, word);
            let back: Number = serde_json::from_str(&text).unwrap();
            assert_eq!(back.0.total_cmp(&value), std::cmp::Ordering::Equal);
        }
        assert!(serde_json::from_str::<Number>("\"NaN\"").is_err());
        assert!(serde_json::from_str::<Number>("1e400").is_err());
    }

    #[test]
    fn own_peak_memory_is_known_on_linux() {
        if cfg!(target_os = "linux") {
            assert!(peak_resident_kib().unwrap() > 100);
        }
    }
}
