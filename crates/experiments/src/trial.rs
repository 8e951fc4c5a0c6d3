//! The protocol between runner and trial program (specification, section 6.1).
//!
//! The runner starts `program --trial`, writes one [`Request`] as JSON to its standard input and
//! names a file in the environment variable `EXP_EVENTS`; the program appends one [`Event`] per
//! line to that file and ends with [`Event::Done`]. Standard output and error are free for logging.
//!
//! # A trial program in five lines
//!
//! ```no_run
//! use experiments::trial;
//! fn main() -> std::process::ExitCode {
//!     trial::main(|req, log| {
//!         let lr = req.float("lr")?;
//!         log.metric("loss", "validation", lr * lr)
//!     })
//! }
//! ```
//!
//! [`Program`] adds what `--describe` prints. Returning `Ok` writes the `done` line; an error is
//! printed to standard error and the process exits with code 1, which the runner records as a crash.
//!
//! # Any other language
//!
//! A program that takes part needs no library. It must do five things:
//!
//! 1. When its only argument is `--describe`: print one JSON object of facts about its environment
//!    (library versions, device names) to standard output and exit 0. Printing `{}` is enough.
//! 2. When its only argument is `--trial`: read standard input to its end. It holds one JSON object:
//!
//!    ```json
//!    {"trial_key": "0f2a...", "cell": {"method": "scored", "task": "spiral", "lr": 0.001}, "rep": 3,
//!     "seeds": {"init": 4611, "data": 2077}, "budget": {"unit": "steps", "amount": 20000.0},
//!     "splits": ["train", "validation", "test"], "split_file": null,
//!     "out_dir": "/.../trials/0f2a.../1", "threads": 1, "device": "cpu"}
//!    ```
//! 3. Append lines to the file named by the environment variable `EXP_EVENTS`, each one JSON object
//!    and one newline (flush after each, so that a timeout loses nothing):
//!
//!    ```json
//!    {"t": "point", "name": "val_error", "step": 100, "budget": 100.0, "value": 0.31}
//!    {"t": "metric", "name": "test_error", "split": "test", "value": 0.12}
//!    {"t": "artifact", "name": "model", "path": "model.safetensors"}
//!    {"t": "done", "budget_used": 20000.0, "peak_rss_kib": 81234}
//!    ```
//!
//!    A value that is not finite is one of the words `"nan"`, `"inf"`, `"-inf"`. `budget_used` and
//!    `peak_rss_kib` (the peak as the program itself saw it) are optional, and so is `wall_s` of a
//!    point, seconds since the start; without it the runner notes when it saw the line, which is
//!    exact to about 0.1 s.
//! 4. Exit 0 after `done`. Exit 0 without it is a crash, as is any other exit code.
//! 5. On `SIGTERM` (a limit was reached): save what matters and exit within the declared grace.
//!
//! The same in Python:
//!
//! ```python
//! import json, os, sys
//! if sys.argv[1:] == ["--describe"]:
//!     print(json.dumps({"python": sys.version}))
//! else:
//!     request = json.load(sys.stdin)
//!     with open(os.environ["EXP_EVENTS"], "a", buffering=1) as events:
//!         loss = (request["cell"]["lr"] - 0.01) ** 2
//!         print(json.dumps({"t": "metric", "name": "loss", "split": "validation", "value": loss}), file=events)
//!         print(json.dumps({"t": "done"}), file=events)
//! ```
//!
//! Test-split values belong into `metric` lines alone: what a program prints is kept as log text,
//! and log text is not sealed.

mod program;

pub use program::{Log, Program, RequestError, main};

use crate::identity::{Cell, TrialKey};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf};

/// What the program is asked to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Identity of the trial.
    pub trial_key: TrialKey,
    /// Method, task and factors.
    pub cell: Cell,
    /// Repetition, from 0.
    pub rep: u32,
    /// Seed of each declared stream, in `0..2^63`.
    pub seeds: BTreeMap<String, i64>,
    /// How much work to do.
    pub budget: BudgetRequest,
    /// Splits that this stage may read: `train`, `validation`, and `test` outside pilot and tune.
    pub splits: Vec<String>,
    /// Path of the split file of the cell's task, when it has one.
    pub split_file: Option<PathBuf>,
    /// Folder for artifacts, made by the runner.
    pub out_dir: PathBuf,
    /// Threads that the program may keep runnable.
    pub threads: u32,
    /// Device word for the program: `cpu`, `cuda` or `auto`.
    pub device: String,
}

/// Amount of work in the unit that the spec declares.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BudgetRequest {
    /// One of `steps`, `epochs`, `evaluations`, `flops`, `cpu_seconds`, `wall_seconds`.
    pub unit: String,
    /// How many of them.
    pub amount: f64,
}

/// One line written by the program. Numbers that are not finite travel as the words `"nan"`,
/// `"inf"` and `"-inf"`, which JSON numbers cannot carry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", rename_all = "lowercase")]
pub enum Event {
    /// One point of a curve.
    Point {
        /// Metric name.
        name: String,
        /// Step counter of the program.
        step: u64,
        /// Budget used so far, in the declared unit.
        budget: f64,
        /// Value, see [`Number`].
        value: Number,
        /// Seconds since the program started, when it says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wall_s: Option<f64>,
    },
    /// A final value.
    Metric {
        /// Metric name.
        name: String,
        /// `train`, `validation` or `test`.
        split: String,
        /// Value, see [`Number`].
        value: Number,
    },
    /// A file that the trial leaves in its folder.
    Artifact {
        /// Short name.
        name: String,
        /// Path relative to the request's `out_dir`.
        path: PathBuf,
    },
    /// The trial ended as planned; must be the last line.
    Done {
        /// Budget used in all, in the declared unit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        budget_used: Option<f64>,
        /// Peak resident memory in KiB as the program saw it (`VmHWM`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        peak_rss_kib: Option<u64>,
    },
}

/// A float64 that may be NaN or infinite, also in JSON.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct Number(pub f64);

impl Serialize for Number {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            x if x.is_nan() => s.serialize_str("nan"),
            f64::INFINITY => s.serialize_str("inf"),
            f64::NEG_INFINITY => s.serialize_str("-inf"),
            x => s.serialize_f64(x),
        }
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(f64),
            Word(String),
        }
        match Form::deserialize(d)? {
            Form::Number(x) => Ok(Self(x)),
            Form::Word(w) => match w.as_str() {
                "nan" => Ok(Self(f64::NAN)),
                "inf" => Ok(Self(f64::INFINITY)),
                "-inf" => Ok(Self(f64::NEG_INFINITY)),
                _ => Err(serde::de::Error::custom(format!(
                    "expected a number or one of \"nan\", \"inf\", \"-inf\", found {w:?}"
                ))),
            },
        }
    }
}
