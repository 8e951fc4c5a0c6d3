//! What a process tree uses, read from `/proc` (specification, section 6.3).

use std::{fs, time::Duration};

/// Sums over the live processes of a tree.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub(super) struct TreeUsage {
    /// CPU time of all processes and of the children they have waited for.
    pub(super) cpu: Duration,
    /// Resident memory in KiB.
    pub(super) rss_kib: u64,
    /// Peak resident memory of the main process alone, KiB.
    pub(super) main_peak_kib: u64,
}

/// Process ids of the children of all threads of `pid`.
fn children(pid: i32) -> Vec<i32> {
    let mut found = Vec::new();
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return found };
    for task in tasks.flatten() {
        if let Ok(text) = fs::read_to_string(task.path().join("children")) {
            found.extend(text.split_ascii_whitespace().filter_map(|word| word.parse::<i32>().ok()));
        }
    }
    found
}

/// `root` and every process below it.
pub(super) fn tree(root: i32) -> Vec<i32> {
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        // A process can appear twice when it moves while we look.
        for child in children(found[next]) {
            if !found.contains(&child) {
                found.push(child);
            }
        }
        next += 1;
    }
    found
}

/// Fields of `/proc/PID/stat` after the command name, which may itself hold spaces and brackets.
fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let rest = &text[text.rfind(')')? + 1..];
    Some(rest.split_ascii_whitespace().map(str::to_owned).collect())
}

/// Start of a process in clock ticks since boot: with the process id it names a process for good.
pub(super) fn start_ticks(pid: i32) -> Option<u64> {
    // Field 22 of the manual page; the list here starts with field 3.
    stat_fields(pid)?.get(19)?.parse().ok()
}

fn ticks_per_second() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .and_then(|ticks| u64::try_from(ticks).ok())
        .filter(|ticks| *ticks > 0)
        .unwrap_or(100)
}

fn page_kib() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|bytes| u64::try_from(bytes).ok())
        .map_or(4, |bytes| bytes / 1024)
}

/// Usage of the tree below `supervisor`, whose main process is `main`. A waited child's CPU time is
/// in its parent's sums, and orphans are the supervisor's children, so nothing counts twice.
pub(super) fn tree_usage(supervisor: i32, main: Option<i32>) -> TreeUsage {
    let mut usage = TreeUsage::default();
    let (ticks, page) = (ticks_per_second(), page_kib());
    let mut cpu_ticks = 0;
    for pid in tree(supervisor) {
        let Some(fields) = stat_fields(pid) else { continue };
        let number = |field: usize| -> u64 {
            fields.get(field - 3).and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        // utime, stime, cutime, cstime.
        cpu_ticks += number(14) + number(15) + number(16) + number(17);
        // The supervisor shares the runner's pages; they are not the trial's.
        if pid != supervisor {
            usage.rss_kib += number(24) * page;
        }
    }
    usage.cpu = Duration::from_millis(cpu_ticks * 1000 / ticks);
    usage.main_peak_kib = main.and_then(peak_kib).unwrap_or(0);
    usage
}

/// `VmHWM` of a process.
fn peak_kib(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches("kB").trim().parse().ok()
}

/// Processes of this machine whose environment says that they belong to the trial `token`.
pub(super) fn with_token(tokens: &[String]) -> Vec<i32> {
    let mut found = Vec::new();
    if tokens.is_empty() {
        return found;
    }
    let wanted: Vec<String> =
        tokens.iter().map(|token| format!("{}={token}", super::process::TOKEN_VARIABLE)).collect();
    let Ok(entries) = fs::read_dir("/proc") else { return found };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(environment) = fs::read(entry.path().join("environ")) else { continue };
        if environment
            .split(|byte| *byte == 0)
            .any(|item| wanted.iter().any(|token| token.as_bytes() == item))
        {
            found.push(pid);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_process_is_measured() {
        let own = std::process::id() as i32;
        assert!(tree(own).contains(&own));
        assert!(start_ticks(own).unwrap() > 0);
        assert!(start_ticks(i32::MAX).is_none());
        let usage = tree_usage(1, Some(own));
        assert!(usage.main_peak_kib > 100);
    }

    #[test]
    fn a_child_is_in_the_tree_until_it_ends() {
        let mut child = std::process::Command::new("sleep").arg("5").spawn().unwrap();
        let pid = child.id() as i32;
        assert!(tree(std::process::id() as i32).contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!tree(std::process::id() as i32).contains(&pid));
    }
}
