//! What could change a result or a time, captured once per session (specification, section 5.3).

use super::{RunPlan, git::GitFacts, schedule};
use crate::store::backup::{hex, sha256_of};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Beginnings of the names of environment variables that are kept. Never the whole environment: it
/// holds secrets.
const KEPT_PREFIXES: &[&str] =
    &["OMP_", "MKL_", "CUDA_", "TORCH_", "RAYON_", "SLURM_JOB_", "SLURM_ARRAY_"];

/// Names of environment variables that are kept.
const KEPT_NAMES: &[&str] = &["LANG", "LC_ALL", "TZ"];

/// How long `program --describe` may take.
const DESCRIBE_PATIENCE: Duration = Duration::from_mins(1);

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn after(content: &str, name: &str) -> Option<String> {
    content.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    })
}

/// Facts about the machine alone.
pub fn machine() -> Value {
    let cpuinfo = text("/proc/cpuinfo").unwrap_or_default();
    let meminfo = text("/proc/meminfo").unwrap_or_default();
    let topology = schedule::Topology::read();
    let logical: usize = topology.cores.iter().map(Vec::len).sum();
    let flags = after(&cpuinfo, "flags").or_else(|| after(&cpuinfo, "Features"));
    let nodes = fs::read_dir("/sys/devices/system/node").map_or(0, |entries| {
        entries
            .flatten()
            .filter(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name.strip_prefix("node").is_some_and(|n| n.parse::<u32>().is_ok())
            })
            .count()
    });
    let container = Path::new("/.dockerenv").exists()
        || Path::new("/run/.containerenv").exists()
        || text("/proc/1/cgroup").is_some_and(|text| {
            ["docker", "kubepods", "containerd", "lxc"].iter().any(|word| text.contains(word))
        });
    let os = text("/etc/os-release").and_then(|text| {
        text.lines().find_map(|line| {
            line.strip_prefix("PRETTY_NAME=").map(|name| name.trim_matches('"').to_owned())
        })
    });
    json!({
        "os": os,
        "kernel": text("/proc/sys/kernel/osrelease"),
        "arch": std::env::consts::ARCH,
        "host": super::owner::host(),
        "boot_id": super::owner::boot_id(),
        "cpu_model": after(&cpuinfo, "model name"),
        "cpu_flags_sha256": flags.map(|flags| hex(&Sha256::digest(flags.as_bytes()))),
        "physical_cores": topology.cores.len(),
        "logical_cores": logical,
        "smt": text("/sys/devices/system/cpu/smt/control"),
        "governor": text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "turbo_off": text("/sys/devices/system/cpu/intel_pstate/no_turbo")
            .or_else(|| text("/sys/devices/system/cpu/cpufreq/boost").map(|b| (b == "0").to_string())),
        "memory_total": after(&meminfo, "MemTotal"),
        "numa_nodes": nodes,
        "container": container,
        "cgroup_cpu_max": text("/sys/fs/cgroup/cpu.max"),
        "cgroup_memory_max": text("/sys/fs/cgroup/memory.max"),
        "load_average": schedule::load_average(),
        "gpus": gpus(),
        "time_zone": time_zone(),
    })
}

fn time_zone() -> Option<String> {
    std::env::var("TZ").ok().or_else(|| {
        let link = fs::read_link("/etc/localtime").ok()?;
        let path = link.to_string_lossy().into_owned();
        path.split_once("zoneinfo/").map(|(_, zone)| zone.to_owned())
    })
}

fn gpus() -> Vec<Value> {
    let Ok(entries) = fs::read_dir("/proc/driver/nvidia/gpus") else { return Vec::new() };
    let driver = text("/proc/driver/nvidia/version")
        .and_then(|version| version.lines().next().map(str::to_owned));
    entries
        .flatten()
        .map(|entry| {
            let info = fs::read_to_string(entry.path().join("information")).unwrap_or_default();
            json!({"model": after(&info, "Model"), "driver": driver})
        })
        .collect()
}

/// Everything of section 5.3; `described` is what the program said about itself.
pub(super) fn capture(
    plan: &RunPlan,
    git: &GitFacts,
    program_sha256: Option<&str>,
    described: &Value,
) -> Value {
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| {
            KEPT_NAMES.contains(&name.as_str())
                || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        })
        .collect();
    let lock = plan.source_dir.as_deref().and_then(|folder| {
        folder
            .ancestors()
            .map(|place| place.join("Cargo.lock"))
            .find(|path| path.is_file())
            .and_then(|path| sha256_of(&path).ok())
    });
    json!({
        "machine": machine(),
        "rustc": command_text("rustc", &["-Vv"]),
        "program": {
            "path": plan.program.path,
            "args": plan.program.args,
            "sha256": program_sha256,
            "describe": described,
        },
        "cargo_lock_sha256": lock.map(|(sha, _)| sha),
        "threads": plan.threads,
        "device": plan.device,
        "variables": variables,
        "git": {"rev": git.rev, "branch": git.branch, "dirty": git.dirty},
        "datasets": plan.dataset_hashes,
    })
}

fn command_text(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// What `program --describe` prints.
///
/// # Errors
/// In words, when the program cannot be started, fails, takes longer than a minute or does not
/// print a JSON object.
pub(super) fn describe(plan: &RunPlan) -> Result<Value, String> {
    let mut command = Command::new(&plan.program.path);
    command.args(&plan.program.args).arg("--describe").envs(&plan.program.env);
    if let Some(place) = &plan.program.working_dir {
        command.current_dir(place);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| error.to_string())?;
    let Some(mut stdout) = child.stdout.take() else { unreachable!("asked for as a pipe") };
    // At most 1 MiB: a program that is no trial program may print anything.
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stdout.by_ref().take(1 << 20).read_to_end(&mut bytes);
        // Nobody listens any more after a timeout.
        let _ = sender.send(bytes);
    });
    let end = Instant::now() + DESCRIBE_PATIENCE;
    let status = loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => break status,
            None if Instant::now() >= end => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("--describe took longer than {DESCRIBE_PATIENCE:?}"));
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    // A process that it left behind may hold the pipe open.
    let bytes = receiver
        .recv_timeout(Duration::from_secs(2))
        .map_err(|_| "--describe left its output open".to_owned())?;
    if !status.success() {
        return Err(format!("--describe ended with {status}"));
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(facts)) => Ok(Value::Object(facts)),
        Ok(_) => Err("--describe: expected a JSON object".to_owned()),
        Err(error) => Err(format!("--describe: expected a JSON object: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_described_without_secrets() {
        let facts = machine();
        assert!(facts["physical_cores"].as_u64().unwrap() >= 1);
        assert!(facts["kernel"].is_string());
        assert!(facts["numa_nodes"].is_u64());
    }
}
