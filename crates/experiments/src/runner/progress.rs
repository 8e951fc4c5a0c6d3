//! Telling a person, or a program, how a run goes (specification, section 6.7).

use super::RunSummary;
use crate::{
    identity::TrialKey,
    store::record::{Status, TrialRow},
};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use std::{
    collections::BTreeMap,
    io::Write,
    time::{Duration, Instant},
};

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Progress {
    /// Trials selected.
    pub total: u64,
    /// Finished ones, earlier runs included.
    pub done: u64,
    /// States of the finished ones.
    pub counts: BTreeMap<Status, u64>,
    /// Expected seconds to the end; `None` before the first trial has ended.
    pub eta_s: Option<f64>,
}

/// A trial that runs now.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunningTrial {
    /// The trial.
    pub key: TrialKey,
    /// Its method.
    pub method: String,
    /// Its task.
    pub task: String,
    /// Its repetition.
    pub rep: u32,
    /// Seconds since it started.
    pub elapsed_s: f64,
    /// Wall-clock limit in seconds.
    pub limit_s: Option<f64>,
}

/// Something that happened during a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "t", rename_all = "lowercase")]
#[non_exhaustive]
pub enum Notice {
    /// The run begins.
    Planned {
        /// Trials selected.
        total: u64,
        /// Finished before.
        finished: u64,
        /// Trials at a time.
        jobs: u64,
    },
    /// A dead runner's trial was taken back.
    Reclaimed {
        /// The trial.
        key: TrialKey,
        /// The attempt that was lost.
        attempt: u32,
    },
    /// A trial started.
    Started {
        /// The trial.
        key: TrialKey,
        /// Its method.
        method: String,
        /// Its task.
        task: String,
        /// Its repetition.
        rep: u32,
        /// Number of the attempt.
        attempt: u32,
        /// Slot, from 0.
        slot: u64,
    },
    /// A trial ended and is committed.
    Finished {
        /// The trial.
        key: TrialKey,
        /// Its method.
        method: String,
        /// Its task.
        task: String,
        /// Its repetition.
        rep: u32,
        /// Number of the attempt.
        attempt: u32,
        /// Outcome.
        status: Status,
        /// Why, when not `ok`.
        reason: Option<String>,
        /// Seconds.
        wall_s: f64,
        /// What the runner noticed beside.
        warnings: Vec<String>,
        /// How far the run is now.
        progress: Progress,
    },
    /// Something the user should know.
    Warning {
        /// In words.
        text: String,
    },
    /// Several times a second while trials run.
    Tick {
        /// How far the run is now.
        progress: Progress,
        /// What runs.
        running: Vec<RunningTrial>,
    },
    /// The run ended.
    Ended {
        /// How it went.
        summary: RunSummary,
    },
}

/// Receives what happens during a run, always on the thread that called [`super::run`].
pub trait Observer {
    /// One thing that happened.
    fn notice(&mut self, notice: &Notice);
}

/// Ignores everything.
#[derive(Copy, Clone, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn notice(&mut self, _notice: &Notice) {}
}

/// Counts what is left and how long it will take.
pub(super) struct Estimator {
    so_far: Progress,
    jobs: f64,
    open: BTreeMap<(String, String), u64>,
    walls: BTreeMap<(String, String), (f64, u64)>,
    all_walls: Vec<f64>,
}

impl Estimator {
    pub(super) fn new(rows: &[TrialRow], jobs: usize) -> Self {
        let mut open = BTreeMap::new();
        let mut progress = Progress { total: rows.len() as u64, ..Progress::default() };
        for row in rows {
            if row.status.finished() {
                progress.done += 1;
                *progress.counts.entry(row.status).or_insert(0) += 1;
            } else {
                *open.entry((row.method.clone(), row.task.clone())).or_insert(0) += 1;
            }
        }
        Self {
            so_far: progress,
            jobs: jobs.max(1) as f64,
            open,
            walls: BTreeMap::new(),
            all_walls: Vec::new(),
        }
    }

    pub(super) fn finished(&mut self, trial: &TrialRow, status: Status, wall_s: f64) {
        if !status.finished() {
            return;
        }
        self.so_far.done += 1;
        *self.so_far.counts.entry(status).or_insert(0) += 1;
        let cell = (trial.method.clone(), trial.task.clone());
        if let Some(left) = self.open.get_mut(&cell) {
            *left = left.saturating_sub(1);
        }
        let sum = self.walls.entry(cell).or_insert((0.0, 0));
        sum.0 += wall_s;
        sum.1 += 1;
        let place = self.all_walls.partition_point(|other| *other < wall_s);
        self.all_walls.insert(place, wall_s);
    }

    pub(super) fn progress(&self) -> Progress {
        let mut progress = self.so_far.clone();
        if let Some(median) = self.all_walls.get(self.all_walls.len() / 2) {
            let seconds: f64 = self
                .open
                .iter()
                .map(|(cell, left)| {
                    let mean =
                        self.walls.get(cell).map_or(*median, |(sum, count)| sum / *count as f64);
                    *left as f64 * mean
                })
                .sum();
            progress.eta_s = Some(seconds / self.jobs);
        }
        progress
    }
}

fn counts_text(counts: &BTreeMap<Status, u64>) -> String {
    let words: Vec<String> =
        counts.iter().map(|(status, count)| format!("{count} {}", status.word())).collect();
    if words.is_empty() { "none finished".to_owned() } else { words.join(", ") }
}

/// `1:02:03`, `2:03`.
fn clock(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{rest:02}")
    } else {
        format!("{minutes}:{rest:02}")
    }
}

/// One line per finished trial and a summary every 30 s, for logs.
pub struct Lines<W: Write> {
    out: W,
    last: Instant,
}

impl<W: Write> Lines<W> {
    /// Writes to `out`, usually standard error.
    pub fn new(out: W) -> Self {
        Self { out, last: Instant::now() }
    }

    fn line(&mut self, text: &str) {
        // A reader that went away must not stop an experiment.
        let _ = writeln!(self.out, "{text}");
    }
}

impl<W: Write> Observer for Lines<W> {
    fn notice(&mut self, notice: &Notice) {
        match notice {
            Notice::Planned { total, finished, jobs } => {
                self.line(&format!("{total} trials, {finished} finished before, {jobs} at a time"));
            }
            Notice::Reclaimed { key, attempt } => {
                self.line(&format!("{}: attempt {attempt} was lost, taken back", short(key)));
            }
            Notice::Finished {
                key,
                method,
                task,
                rep,
                status,
                reason,
                wall_s,
                warnings,
                progress,
                ..
            } => {
                let reason =
                    reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
                self.line(&format!(
                    "[{}/{}] {} {method} {task} rep {rep}: {}{reason}, {wall_s:.2} s",
                    progress.done,
                    progress.total,
                    short(key),
                    status.word()
                ));
                for warning in warnings {
                    self.line(&format!("  warning: {warning}"));
                }
            }
            Notice::Warning { text } => self.line(&format!("warning: {text}")),
            Notice::Tick { progress, running } => {
                if self.last.elapsed() >= Duration::from_secs(30) {
                    self.last = Instant::now();
                    let eta = progress.eta_s.map_or_else(|| "?".to_owned(), clock);
                    self.line(&format!(
                        "{}/{} done ({}), {} running, about {eta} left",
                        progress.done,
                        progress.total,
                        counts_text(&progress.counts),
                        running.len()
                    ));
                }
            }
            Notice::Ended { summary } => {
                self.line(&format!(
                    "{}; {:.1} s{}",
                    counts_text(&summary.states),
                    summary.wall_s,
                    if summary.interrupted { ", interrupted" } else { "" }
                ));
            }
            Notice::Started { .. } => {}
        }
    }
}

fn short(key: &TrialKey) -> &str {
    key.0.get(..8).unwrap_or(&key.0)
}

/// One JSON object per notice, for programs. Ticks are left out.
pub struct JsonLines<W: Write> {
    out: W,
}

impl<W: Write> JsonLines<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out }
    }
}

impl<W: Write> Observer for JsonLines<W> {
    fn notice(&mut self, notice: &Notice) {
        if matches!(notice, Notice::Tick { .. }) {
            return;
        }
        if let Ok(line) = serde_json::to_string(notice) {
            let _ = writeln!(self.out, "{line}");
            let _ = self.out.flush();
        }
    }
}

/// Bars on a terminal: one for the whole, one per running trial.
pub struct Bars {
    shown: MultiProgress,
    whole: ProgressBar,
    trials: Vec<ProgressBar>,
}

impl Default for Bars {
    fn default() -> Self {
        Self::new()
    }
}

impl Bars {
    /// Draws on standard error, and nothing at all when that is no terminal.
    pub fn new() -> Self {
        let shown = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let whole = shown.add(ProgressBar::new(0));
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
            whole.set_style(style);
        }
        Self { shown, whole, trials: Vec::new() }
    }

    fn show(&mut self, progress: &Progress) {
        self.whole.set_length(progress.total);
        self.whole.set_position(progress.done);
        let eta = progress.eta_s.map_or_else(|| "?".to_owned(), clock);
        self.whole.set_message(format!("{}, about {eta} left", counts_text(&progress.counts)));
    }
}

impl Observer for Bars {
    fn notice(&mut self, notice: &Notice) {
        match notice {
            Notice::Planned { total, finished, .. } => {
                self.whole.set_length(*total);
                self.whole.set_position(*finished);
            }
            Notice::Tick { progress, running } => {
                self.show(progress);
                while self.trials.len() < running.len() {
                    let bar = self.shown.add(ProgressBar::no_length());
                    if let Ok(style) = ProgressStyle::with_template("  {msg}") {
                        bar.set_style(style);
                    }
                    self.trials.push(bar);
                }
                for (i, bar) in self.trials.iter().enumerate() {
                    bar.set_message(running.get(i).map_or_else(String::new, |trial| {
                        let limit = trial.limit_s.map(clock).unwrap_or_default();
                        let slash = if limit.is_empty() { "" } else { "/" };
                        format!(
                            "{} {} {} rep {}  {}{slash}{limit}",
                            short(&trial.key),
                            trial.method,
                            trial.task,
                            trial.rep,
                            clock(trial.elapsed_s)
                        )
                    }));
                }
            }
            Notice::Finished { key, method, task, rep, status, reason, progress, .. } => {
                self.show(progress);
                // Failures are said at once; successes are counted.
                if *status != Status::Ok {
                    let _ = self.shown.println(format!(
                        "{} {method} {task} rep {rep}: {} ({})",
                        short(key),
                        status.word(),
                        reason.as_deref().unwrap_or("no reason")
                    ));
                }
            }
            Notice::Warning { text } => {
                let _ = self.shown.println(format!("warning: {text}"));
            }
            Notice::Ended { .. } => {
                for bar in &self.trials {
                    bar.finish_and_clear();
                }
                self.whole.abandon();
            }
            Notice::Reclaimed { .. } | Notice::Started { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Stage;

    fn row(method: &str, status: Status) -> TrialRow {
        TrialRow {
            key: TrialKey("k".to_owned()),
            ord: 0,
            stage: Stage::Main,
            cell: BTreeMap::new(),
            method: method.to_owned(),
            task: "t".to_owned(),
            rep: 0,
            seeds: BTreeMap::new(),
            status,
            attempt: 1,
            granted: 0,
            retired: false,
            lease_owner: None,
            lease_until: None,
        }
    }

    #[test]
    fn time_left_uses_the_mean_of_the_same_cell_and_else_the_median() {
        let pending = |method| row(method, Status::Pending);
        let rows = [pending("a"), pending("a"), pending("a"), pending("b"), row("a", Status::Ok)];
        let mut estimator = Estimator::new(&rows, 2);
        assert_eq!(estimator.progress().eta_s, None);
        estimator.finished(&rows[0], Status::Ok, 10.0);
        let progress = estimator.progress();
        assert_eq!((progress.done, progress.total), (2, 5));
        // Two of `a` at 10 s, one of `b` at the median, two at a time.
        assert!((progress.eta_s.unwrap() - 15.0).abs() < 1e-9);
        estimator.finished(&rows[0], Status::Lost, 10.0);
        assert_eq!(estimator.progress().done, 2);
    }

    #[test]
    fn lines_and_json_say_what_happened() {
        let notice = Notice::Finished {
            key: TrialKey("0123456789".to_owned()),
            method: "a".to_owned(),
            task: "t".to_owned(),
            rep: 3,
            attempt: 1,
            status: Status::Timeout,
            reason: Some("wall".to_owned()),
            wall_s: 1.5,
            warnings: vec!["w".to_owned()],
            progress: Progress { total: 9, done: 4, ..Progress::default() },
        };
        let mut text = Vec::new();
        Lines::new(&mut text).notice(&notice);
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text, "[4/9] 01234567 a t rep 3: timeout (wall), 1.50 s\n  warning: w\n");
        let mut json = Vec::new();
        JsonLines::new(&mut json).notice(&notice);
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["t"], "finished");
        assert_eq!(json["status"], "timeout");
        assert_eq!(clock(3723.0), "1:02:03");
    }
}
