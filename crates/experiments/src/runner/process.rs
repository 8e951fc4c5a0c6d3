//! One attempt of one trial: start, watch, end, measure.
//!
//! Long because starting a trial is one sequence between fork and exec that must be read as a whole.

use super::{
    RunError, RunPlan,
    capture::Capture,
    events::EventReader,
    limits::MemoryGroup,
    measure,
    outcome::{self, Cause, Ending, Evidence},
    schedule::Slot,
    supervise::{self, ChildSetup, Report, Supervised},
    sys,
};
use crate::{
    store::{
        backup::sha256_of,
        record::{Artifact, AttemptRecord, Claim, Metric},
    },
    trial::Request,
};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{ChildStderr, ChildStdout, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Names every process of a trial, whatever it forks: `session/key/attempt`.
pub(super) const TOKEN_VARIABLE: &str = "EXP_TRIAL_TOKEN";

/// The longest time between two looks at memory, CPU time and events.
const TICK: Duration = Duration::from_millis(100);

/// How long the kernel may take to end killed processes before they are given up.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Values of the word by which the run loop ends a running trial.
pub(super) const GO_ON: u8 = 0;
/// See [`GO_ON`]: stop and give back.
pub(super) const STOP: u8 = 1;
/// See [`GO_ON`]: stop, someone else has it.
pub(super) const LEASE_LOST: u8 = 2;

/// What an attempt needs.
pub(super) struct Job<'a> {
    pub(super) plan: &'a RunPlan,
    pub(super) claim: &'a Claim,
    pub(super) session_id: &'a str,
    pub(super) slot: &'a Slot,
    /// Folder of the runner's cgroup, when it can hold memory limits.
    pub(super) cgroup: Option<&'a Path>,
    pub(super) cancel: &'a AtomicU8,
}

/// How an attempt went.
pub(super) enum Executed {
    /// To be committed.
    Finished(Box<AttemptRecord>),
    /// Stopped by the runner; to be given back unless the lease is lost.
    Stopped,
}

/// Unix milliseconds.
pub(super) fn unix_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Mark of one attempt in the environment of its processes.
pub(super) fn token(session_id: &str, key: &str, attempt: u32) -> String {
    format!("{session_id}/{key}/{attempt}")
}

/// The request that a trial gets; `folder` is that of the attempt.
pub(super) fn request(plan: &RunPlan, claim: &Claim, folder: &Path) -> Request {
    let trial = &claim.trial;
    Request {
        trial_key: trial.key.clone(),
        cell: trial.cell.clone(),
        rep: trial.rep,
        seeds: trial.seeds.clone(),
        budget: plan.budget.clone(),
        splits: outcome::splits(trial.stage).iter().map(|split| (*split).to_owned()).collect(),
        split_file: plan.split_files.get(&trial.task).cloned(),
        out_dir: folder.join("out"),
        threads: plan.threads,
        device: plan.device.clone(),
    }
}

/// The command of a trial without its redirections.
pub(super) fn command(plan: &RunPlan, slot: &Slot, folder: &Path, token: &str) -> Command {
    let mut command = Command::new(&plan.program.path);
    command.args(&plan.program.args).arg("--trial");
    if let Some(place) = &plan.program.working_dir {
        command.current_dir(place);
    }
    for name in ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"]
    {
        command.env(name, plan.threads.to_string());
    }
    if let Some(gpu) = slot.gpu {
        command.env("CUDA_VISIBLE_DEVICES", gpu.to_string());
    }
    command.envs(&plan.program.env);
    command.env("EXP_EVENTS", folder.join("events.jsonl")).env(TOKEN_VARIABLE, token);
    command
}

struct Watch<'a> {
    job: &'a Job<'a>,
    supervised: Supervised,
    supervisor: i32,
    main: Option<i32>,
    started: Instant,
    stdout: Capture<ChildStdout>,
    stderr: Capture<ChildStderr>,
    events: EventReader,
    group: Option<MemoryGroup>,
    cause: Option<Cause>,
    terminated_at: Option<Instant>,
    killed_at: Option<Instant>,
    ended: Option<(i32, Instant)>,
    main_rss_kib: u64,
    tree_rss_kib: u64,
    main_peak_kib: u64,
    leftover: u64,
    warnings: Vec<String>,
}

/// Runs the claimed trial to its end.
///
/// # Errors
/// When the program cannot be started or the attempt's folder cannot be written; the trial itself
/// is then not to blame.
pub(super) fn execute(job: &Job<'_>) -> Result<Executed, RunError> {
    let key = &job.claim.trial.key.0;
    let relative = PathBuf::from("trials").join(key).join(job.claim.attempt.to_string());
    let folder = job.plan.root.join(&relative);
    prepare(job, &folder).map_err(|error| RunError::io(&folder, &error))?;
    let started_at = unix_ms();
    let mut watch = start(job, &folder)?;
    watch.run()?;
    if let Some(Cause::Stop | Cause::LeaseLost) = watch.cause {
        watch.collect();
        return Ok(Executed::Stopped);
    }
    let record = watch.record(&folder, relative, started_at);
    tidy(&folder, &record);
    Ok(Executed::Finished(Box::new(record)))
}

fn prepare(job: &Job<'_>, folder: &Path) -> io::Result<()> {
    // A released attempt used the same number; its remains must not be taken for ours.
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(folder.join("out"))?;
    let request = serde_json::to_vec(&request(job.plan, job.claim, folder))?;
    fs::write(folder.join("request.json"), request)
}

fn start<'a>(job: &'a Job<'a>, folder: &Path) -> Result<Watch<'a>, RunError> {
    let plan = job.plan;
    let token = token(job.session_id, &job.claim.trial.key.0, job.claim.attempt);
    let request_path = folder.join("request.json");
    let request = File::open(&request_path).map_err(|error| RunError::io(&request_path, &error))?;
    let mut command = command(plan, job.slot, folder, &token);
    command.stdin(request).stdout(Stdio::piped()).stderr(Stdio::piped());
    let group = match (job.cgroup, plan.limits.memory_bytes) {
        (Some(parent), Some(bytes)) => {
            let name = format!(
                "exp-{}-{}-{}",
                std::process::id(),
                &job.claim.trial.key.0[..job.claim.trial.key.0.len().min(12)],
                job.claim.attempt
            );
            MemoryGroup::create(parent, &name, bytes)
        }
        _ => None,
    };
    let setup = ChildSetup {
        cpu_seconds: plan.limits.cpu.map(|limit| {
            let soft = limit.as_secs_f64().ceil().max(1.0) as u64;
            (soft, soft + plan.limits.grace.as_secs().max(1))
        }),
        cores: job.slot.cpu_set(),
        cgroup: group.as_ref().map(MemoryGroup::procs),
    };
    let started = Instant::now();
    let mut supervised = supervise::spawn(command, setup).map_err(|error| RunError::Program {
        path: plan.program.path.clone(),
        message: error.to_string(),
    })?;
    let supervisor = supervised.child.id() as i32;
    let (Some(stdout), Some(stderr)) =
        (supervised.child.stdout.take(), supervised.child.stderr.take())
    else {
        unreachable!("both were asked for as pipes");
    };
    let limit = plan.limits.output_bytes;
    Ok(Watch {
        job,
        supervised,
        supervisor,
        main: None,
        started,
        stdout: Capture::new(stdout, &folder.join("stdout.log"), limit),
        stderr: Capture::new(stderr, &folder.join("stderr.log"), limit),
        events: EventReader::new(&folder.join("events.jsonl"), plan.limits.points),
        group,
        cause: None,
        terminated_at: None,
        killed_at: None,
        ended: None,
        main_rss_kib: 0,
        tree_rss_kib: 0,
        main_peak_kib: 0,
        leftover: 0,
        warnings: Vec::new(),
    })
}

impl Watch<'_> {
    /// Watches until no process of the trial is left.
    fn run(&mut self) -> Result<(), RunError> {
        let mut buffer = vec![0; 1 << 16];
        // Short trials are looked at early, long ones every 100 ms.
        let mut pause = Duration::from_millis(10);
        let mut next_tick = self.started + pause;
        loop {
            let now = Instant::now();
            let wake = [self.deadline(), self.grace_end()]
                .into_iter()
                .flatten()
                .fold(next_tick, Instant::min);
            let (out, err, report) = self.wait(wake.saturating_duration_since(now))?;
            if out {
                self.stdout.pump(&mut buffer);
            }
            if err {
                self.stderr.pump(&mut buffer);
            }
            if report && !self.hear()? {
                break;
            }
            let now = Instant::now();
            if now >= next_tick {
                self.look();
                pause = (pause * 2).min(TICK);
                next_tick = Instant::now() + pause;
            }
            self.enforce(now);
            let killing_since = self.killed_at.or(self.ended.map(|(_, at)| at));
            if killing_since.is_some_and(|at| now.duration_since(at) > KILL_PATIENCE) {
                self.warnings.push("processes could not be killed and were left".to_owned());
                let _ = kill(Pid::from_raw(self.supervisor), Signal::SIGKILL);
                break;
            }
        }
        self.drain(&mut buffer)
    }

    fn deadline(&self) -> Option<Instant> {
        if self.ended.is_some() || self.terminated_at.is_some() {
            return None;
        }
        self.job.plan.limits.wall.map(|limit| self.started + limit)
    }

    fn grace_end(&self) -> Option<Instant> {
        if self.killed_at.is_some() {
            return None;
        }
        self.terminated_at.map(|at| at + self.job.plan.limits.grace)
    }

    /// Waits until a stream or a report is there, at most `pause`.
    fn wait(&self, pause: Duration) -> Result<(bool, bool, bool), RunError> {
        let readable = PollFlags::POLLIN;
        let mut fds = vec![PollFd::new(self.supervised.reports.as_fd(), readable)];
        let out = self.stdout.source().map(|source| {
            fds.push(PollFd::new(source.as_fd(), readable));
            fds.len() - 1
        });
        let err = self.stderr.source().map(|source| {
            fds.push(PollFd::new(source.as_fd(), readable));
            fds.len() - 1
        });
        // Rounded up, so that the loop does not spin through the last millisecond.
        let timeout = u16::try_from(pause.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        match poll(&mut fds, PollTimeout::from(timeout)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(RunError::io(Path::new("poll"), &error.into())),
        }
        let ready = |i: usize| fds[i].revents().is_some_and(|flags| !flags.is_empty());
        Ok((out.is_some_and(ready), err.is_some_and(ready), ready(0)))
    }

    /// Takes one report; `false` when the supervisor is gone.
    fn hear(&mut self) -> Result<bool, RunError> {
        let report = self
            .supervised
            .read_report()
            .map_err(|error| RunError::io(Path::new("supervisor's report"), &error))?;
        match report {
            Some(Report::Started { pid }) => self.main = Some(pid),
            Some(Report::Exited { status, max_rss_kib, .. }) => {
                self.ended = Some((status, Instant::now()));
                self.main_rss_kib = max_rss_kib;
            }
            Some(Report::Empty { killed }) => self.leftover = killed,
            None => return Ok(false),
        }
        Ok(true)
    }

    /// Looks at events, memory and CPU time, and notes a limit that was crossed.
    fn look(&mut self) {
        let limits = &self.job.plan.limits;
        if let Err(error) = self.events.poll(self.started.elapsed(), limits.event_bytes) {
            self.warnings.push(format!("events: {error}"));
        }
        if self.ended.is_some() {
            return;
        }
        let usage = measure::tree_usage(self.supervisor, self.main);
        self.tree_rss_kib = self.tree_rss_kib.max(usage.rss_kib);
        self.main_peak_kib = self.main_peak_kib.max(usage.main_peak_kib);
        let cause = if self.events.bytes() > limits.event_bytes {
            Some(Cause::Events)
        } else if limits.memory_bytes.is_some_and(|bytes| usage.rss_kib > bytes / 1024) {
            Some(Cause::Memory)
        } else if limits.cpu.is_some_and(|limit| usage.cpu > limit) {
            Some(Cause::Cpu)
        } else {
            None
        };
        if let Some(cause) = cause {
            self.terminate(cause);
            if cause == Cause::Memory {
                // Waiting would let it grow on; nothing it could still save is worth the machine.
                self.end_tree();
            }
        }
    }

    fn enforce(&mut self, now: Instant) {
        match self.job.cancel.load(Ordering::Acquire) {
            STOP if self.ended.is_none() => self.terminate(Cause::Stop),
            LEASE_LOST => {
                self.terminate(Cause::LeaseLost);
                self.end_tree();
            }
            _ => {}
        }
        if self.deadline().is_some_and(|deadline| now >= deadline) {
            self.terminate(Cause::Wall);
        }
        if self.grace_end().is_some_and(|end| now >= end) {
            self.end_tree();
        }
    }

    /// SIGTERM to every process of the trial; the first cause counts.
    fn terminate(&mut self, cause: Cause) {
        if self.terminated_at.is_some() {
            return;
        }
        self.cause = Some(cause);
        self.terminated_at = Some(Instant::now());
        for pid in measure::tree(self.supervisor) {
            if pid != self.supervisor {
                let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
            }
        }
    }

    /// SIGKILL to every process of the trial, by the supervisor.
    fn end_tree(&mut self) {
        if self.supervised.lifeline.take().is_some() {
            self.killed_at = Some(Instant::now());
        }
    }

    /// Reads what is left in the pipes. Nobody holds their other ends any more, except a process
    /// that could not be killed, for which nothing waits.
    fn drain(&mut self, buffer: &mut [u8]) -> Result<(), RunError> {
        let end = Instant::now() + Duration::from_millis(500);
        while (self.stdout.source().is_some() || self.stderr.source().is_some())
            && Instant::now() < end
        {
            let (out, err, _) = self.wait(Duration::from_millis(20))?;
            if out {
                self.stdout.pump(buffer);
            }
            if err {
                self.stderr.pump(buffer);
            }
        }
        Ok(())
    }

    /// Waits for the supervisor and gives the CPU time of the tree.
    fn collect(&mut self) -> sys::Waited {
        // After its pipe has closed it exits within microseconds. If it was left behind by force,
        // blocking could last for ever, so this gives up in time.
        let end = Instant::now() + Duration::from_secs(2);
        loop {
            match sys::wait4(self.supervisor, false) {
                Ok(Some(waited)) => {
                    if self.ended.is_none() {
                        self.clean_up_without_supervisor();
                    }
                    return waited;
                }
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_micros(200)),
                Ok(None) | Err(_) => return sys::Waited::default(),
            }
        }
    }

    /// Someone killed the supervisor: the main process went with it, and what the trial had forked
    /// is found by its mark.
    fn clean_up_without_supervisor(&mut self) {
        let mark = token(self.job.session_id, &self.job.claim.trial.key.0, self.job.claim.attempt);
        end_marked(&[mark]);
    }

    fn record(mut self, folder: &Path, relative: PathBuf, started_at: i64) -> AttemptRecord {
        let plan = self.job.plan;
        let waited = self.collect();
        let wall = self.ended.map_or_else(|| self.started.elapsed(), |(_, at)| at - self.started);
        if let Err(error) = self.events.poll(wall, plan.limits.event_bytes) {
            self.warnings.push(format!("events: {error}"));
        }
        if self.events.bytes() > plan.limits.event_bytes {
            self.cause.get_or_insert(Cause::Events);
        }
        let mut gathered = self.events.finish(wall);
        let artifacts = artifacts(&plan.root, folder, &mut gathered);
        let status = self.ended.map(|(status, _)| status);
        let ending = Ending {
            exit_code: status.and_then(sys::exit_code),
            signal: status.and_then(sys::term_signal),
        };
        let cpu = waited.user + waited.sys;
        let group_peak = self.group.as_ref().and_then(MemoryGroup::peak_kib);
        let measured = [gathered.peak_rss_kib, Some(self.main_peak_kib), group_peak]
            .into_iter()
            .flatten()
            .fold(self.tree_rss_kib, u64::max);
        // ru_maxrss may carry the runner's own size over `exec`, so it only fills a gap.
        let peak_rss_kib = if measured > 0 { measured } else { self.main_rss_kib };
        let spent = self.job.claim.attempt.saturating_sub(self.job.claim.trial.granted);
        let (status, reason) = outcome::classify(&Evidence {
            cause: self.cause,
            ending,
            memory_killed: self.group.as_ref().is_some_and(MemoryGroup::killed_for_memory),
            cpu_over: plan.limits.cpu.is_some_and(|limit| cpu > limit),
            memory_over: plan.limits.memory_bytes.is_some_and(|bytes| measured > bytes / 1024),
            has_cpu_limit: plan.limits.cpu.is_some(),
            gathered: &gathered,
            metrics: &plan.metrics,
            stage: self.job.claim.trial.stage,
            last_attempt: spent >= plan.limits.max_attempts,
        });
        let mut warnings = self.warnings;
        if self.leftover > 0 {
            warnings
                .push(format!("{} processes outlived the trial and were killed", self.leftover));
        }
        warnings.append(&mut gathered.warnings);
        warnings.extend(undeclared(plan, &gathered.metrics));
        let (stdout_tail, warning) = self.stdout.finish("stdout");
        warnings.extend(warning);
        let (stderr_tail, warning) = self.stderr.finish("stderr");
        warnings.extend(warning);
        let limits = &plan.limits;
        AttemptRecord {
            key: self.job.claim.trial.key.clone(),
            attempt: self.job.claim.attempt,
            origin_attempt: None,
            session_id: self.job.session_id.to_owned(),
            started_at,
            ended_at: unix_ms(),
            status,
            exit_code: ending.exit_code,
            signal: ending.signal,
            reason,
            wall_s: wall.as_secs_f64(),
            cpu_user_s: waited.user.as_secs_f64(),
            cpu_sys_s: waited.sys.as_secs_f64(),
            peak_rss_kib,
            threads: plan.threads,
            device: plan.device.clone(),
            budget_used: gathered.budget_used,
            stdout_tail,
            stderr_tail,
            log_path: Some(relative),
            result_json: Some(json!({
                "warnings": warnings,
                "limits": {
                    "wall_s": limits.wall.map(|limit| limit.as_secs_f64()),
                    "cpu_s": limits.cpu.map(|limit| limit.as_secs_f64()),
                    "memory_bytes": limits.memory_bytes,
                },
                "memory": {
                    "limit_by": if self.group.is_some() { "cgroup" } else { "watchdog" },
                    "program_vm_hwm_kib": gathered.peak_rss_kib,
                    "main_vm_hwm_kib": self.main_peak_kib,
                    "tree_rss_kib": self.tree_rss_kib,
                    "cgroup_peak_kib": group_peak,
                    "ru_maxrss_kib": self.main_rss_kib,
                },
                "cores": self.job.slot.cores,
                "gpu": self.job.slot.gpu,
            })),
            metrics: gathered.metrics,
            points: gathered.points,
            artifacts,
            sealed_names: sealed_names(plan),
        }
    }
}

/// Metrics whose curves are sealed as their final values are.
fn sealed_names(plan: &RunPlan) -> BTreeSet<String> {
    let sealed = plan.metrics.iter().filter(|rule| rule.split == "test");
    sealed.map(|rule| rule.name.clone()).collect()
}

/// Warnings about metrics that the spec does not know.
fn undeclared(plan: &RunPlan, metrics: &[Metric]) -> Vec<String> {
    metrics
        .iter()
        .filter(|m| !plan.metrics.iter().any(|r| r.name == m.name && r.split == m.split))
        .map(|m| format!("metric `{}` ({}) is not declared", m.name, m.split))
        .collect()
}

/// Kills every process that carries one of the marks, until none is found.
pub(super) fn end_marked(tokens: &[String]) -> usize {
    let mut ended = 0;
    for _ in 0..50 {
        let found = measure::with_token(tokens);
        if found.is_empty() {
            break;
        }
        for pid in &found {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        ended = ended.max(found.len());
        std::thread::sleep(Duration::from_millis(10));
    }
    ended
}

/// Hashes the files that the program named. One that is not there, or not inside its folder, is a
/// defect.
fn artifacts(root: &Path, folder: &Path, gathered: &mut super::events::Gathered) -> Vec<Artifact> {
    let mut found = Vec::new();
    if gathered.artifacts.is_empty() {
        return found;
    }
    let Ok(out) = fs::canonicalize(folder.join("out")) else { return found };
    let root = fs::canonicalize(root).unwrap_or_else(|_| root.to_path_buf());
    for (name, path) in std::mem::take(&mut gathered.artifacts) {
        let outcome = fs::canonicalize(out.join(&path))
            .map_err(|error| error.to_string())
            .and_then(|place| {
                if place.starts_with(&out) && place.is_file() {
                    let (sha256, bytes) = sha256_of(&place).map_err(|error| error.to_string())?;
                    Ok((place, sha256, bytes))
                } else {
                    Err("expected a file inside the trial's folder".to_owned())
                }
            });
        match outcome {
            Ok((place, sha256, bytes)) => found.push(Artifact {
                name,
                path: place.strip_prefix(&root).unwrap_or(&place).to_path_buf(),
                sha256,
                bytes,
            }),
            Err(why) => {
                gathered.defects.push(format!("artifact `{name}` ({}): {why}", path.display()));
            }
        }
    }
    found
}

/// Removes what the store now holds: the event file of a valid trial, empty folders.
fn tidy(folder: &Path, record: &AttemptRecord) {
    if record.status == crate::store::record::Status::Ok {
        let _ = fs::remove_file(folder.join("events.jsonl"));
    }
    // Only an empty folder goes.
    let _ = fs::remove_dir(folder.join("out"));
}
