//! A trial program for tests and for reading: it behaves well or badly as its factor `mode` says.
//!
//! ```sh
//! cargo run -p experiments --example toy_trial -- --describe
//! ```
//!
//! Factors: `mode` (text) and `amount` (number; seconds, MiB or bytes, as the mode needs).

use anyhow::{Context, bail};
use experiments::trial::{Log, Program, Request};
use std::{
    fs::OpenOptions,
    io::Write,
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

fn main() -> ExitCode {
    // A process that a mode below leaves behind: it ignores SIGTERM and never ends by itself.
    if std::env::args().nth(1).as_deref() == Some("--linger") {
        ignore_sigterm();
        loop {
            thread::sleep(Duration::from_mins(1));
        }
    }
    Program::new().describe(|| serde_json::json!({"toy": 1})).run(trial)
}

fn trial(req: &Request, log: &mut Log) -> anyhow::Result<()> {
    let mode = req.text("mode")?.to_owned();
    let amount = req.float("amount").unwrap_or(0.0);
    let seed = req.seed("init")? as f64;
    match mode.as_str() {
        "fine" => {}
        "sleep" => {
            log.point("val_error", 1, 1.0, 0.9)?;
            thread::sleep(Duration::from_secs_f64(amount));
        }
        "spin" => spin(amount),
        // CPU time in a child that is waited for, and one that is not.
        "spin-child" => {
            let mut child = spawn_self_like("spin", amount)?;
            child.wait()?;
        }
        "allocate" => {
            let mut blocks = Vec::new();
            for i in 0..amount as u64 {
                blocks.push(vec![1_u8; 1 << 20]);
                if i % 16 == 0 {
                    thread::sleep(Duration::from_millis(10));
                }
            }
            std::hint::black_box(&blocks);
        }
        "crash" => bail!("as asked"),
        "panic" => panic!("as asked"),
        "abort" => std::process::abort(),
        "hang" => {
            ignore_sigterm();
            log.point("val_error", 1, 1.0, 0.9)?;
            loop {
                thread::sleep(Duration::from_mins(1));
            }
        }
        "fork-and-exit" => linger(&[])?,
        "setsid-and-exit" => linger(&["setsid"])?,
        "setsid-and-hang" => {
            linger(&["setsid"])?;
            loop {
                thread::sleep(Duration::from_mins(1));
            }
        }
        "flood" => {
            let line = [b'x'; 1023];
            let mut out = std::io::stdout().lock();
            for _ in 0..(amount as u64) {
                out.write_all(&line)?;
                out.write_all(b"\n")?;
            }
            writeln!(out, "the end")?;
        }
        "flood-events" => {
            for step in 0..u64::MAX {
                log.point("val_error", step, 1.0, 0.5)?;
            }
        }
        "nan" => {
            log.metric("val_error", "validation", f64::NAN)?;
            return log.metric("test_error", "test", 0.1);
        }
        "out-of-range" => {
            log.metric("val_error", "validation", 2.0)?;
            return log.metric("test_error", "test", 0.1);
        }
        "missing" => return log.metric("val_error", "validation", 0.1),
        "twice" => log.metric("val_error", "validation", 0.1)?,
        "huge-number" => {
            raw("{\"t\":\"metric\",\"name\":\"x\",\"split\":\"train\",\"value\":1e400}\n")?;
        }
        "garbage" => raw("not json\n")?,
        "half-line" => {
            raw("{\"t\":\"metric\",\"name\":\"val_er")?;
            std::process::exit(0);
        }
        "no-done" => std::process::exit(0),
        "artifact" => {
            std::fs::write(log.out_dir().join("model.txt"), "weights")?;
            log.artifact("model", "model.txt".as_ref())?;
        }
        "false-artifact" => log.artifact("model", "../../../../escape".as_ref())?,
        "peek" => log.metric("test_error", "test", 0.1)?,
        other => bail!("factor `mode`: found {other:?}"),
    }
    for step in 1..=3_u32 {
        log.point("val_error", u64::from(step), f64::from(step), 1.0 / f64::from(step + 1))?;
    }
    log.budget_used(req.budget.amount);
    log.metric("val_error", "validation", (seed % 1000.0) / 1000.0)?;
    if req.splits.iter().any(|split| split == "test") && mode != "peek" {
        log.metric("test_error", "test", (seed % 999.0) / 999.0)?;
    }
    Ok(())
}

fn spin(seconds: f64) {
    let start = Instant::now();
    let mut x = 1_u64;
    while start.elapsed().as_secs_f64() < seconds {
        for _ in 0..10_000 {
            x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
        }
    }
}

fn raw(text: &str) -> anyhow::Result<()> {
    let path = std::env::var_os("EXP_EVENTS").context("EXP_EVENTS")?;
    OpenOptions::new().create(true).append(true).open(path)?.write_all(text.as_bytes())?;
    Ok(())
}

/// A shell that spins for about `seconds`.
fn spawn_self_like(_mode: &str, seconds: f64) -> anyhow::Result<std::process::Child> {
    let script = format!(
        "end=$(($(date +%s%N) + {}000000)); while [ $(date +%s%N) -lt $end ]; do i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; done",
        (seconds * 1000.0) as u64
    );
    Ok(Command::new("sh").arg("-c").arg(script).spawn()?)
}

/// Starts a process that stays behind, by way of `wrapper`, and notes its id in the trial's folder.
fn linger(wrapper: &[&str]) -> anyhow::Result<()> {
    let own = std::env::current_exe()?;
    let mut words: Vec<std::ffi::OsString> = wrapper.iter().map(Into::into).collect();
    words.push(own.into());
    words.push("--linger".into());
    Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .spawn()
        .context("start a lingering process")?;
    // Long enough for it to be there, and to have left our session.
    thread::sleep(Duration::from_millis(100));
    Ok(())
}

#[expect(unsafe_code, reason = "ignoring a signal has no safe form")]
fn ignore_sigterm() {
    // SAFETY: SIG_IGN is a valid disposition and no handler is installed.
    unsafe {
        libc::signal(libc::SIGTERM, libc::SIG_IGN);
    }
}
