//! Limits of a trial and how memory is held to them (specification, section 6.2).

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// What a trial may use. `None` means no limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Seconds by a monotonic clock.
    pub wall: Option<Duration>,
    /// CPU time of the whole process tree.
    pub cpu: Option<Duration>,
    /// Resident memory of the whole process tree in bytes.
    pub memory_bytes: Option<u64>,
    /// Time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Attempts in all; only infrastructure losses are tried again.
    pub max_attempts: u32,
    /// Bytes kept of standard output, and as many of standard error; the rest is read and dropped.
    pub output_bytes: u64,
    /// Size of the event file at which a trial is ended.
    pub event_bytes: u64,
    /// Curve points kept; more make the trial invalid.
    pub points: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wall: None,
            cpu: None,
            memory_bytes: None,
            grace: Duration::from_secs(10),
            max_attempts: 2,
            output_bytes: 16 << 20,
            event_bytes: 256 << 20,
            points: 1_000_000,
        }
    }
}

/// A cgroup (version 2) that holds one trial to its memory limit; removed when dropped.
#[derive(Debug)]
pub(super) struct MemoryGroup {
    folder: PathBuf,
    procs: Arc<OwnedFd>,
}

impl MemoryGroup {
    /// Makes the group `name` with `bytes` of memory below the runner's own cgroup, whose folder is
    /// `parent`. `None` when no delegated, writable cgroup with the memory controller is there; the
    /// watchdog takes over then.
    pub(super) fn create(parent: &Path, name: &str, bytes: u64) -> Option<Self> {
        let controllers = fs::read_to_string(parent.join("cgroup.subtree_control")).ok()?;
        if !controllers.split_ascii_whitespace().any(|word| word == "memory") {
            // Fails with EBUSY where the runner itself lives in this group, which is the usual case
            // outside a delegated slice.
            fs::write(parent.join("cgroup.subtree_control"), "+memory").ok()?;
        }
        let folder = parent.join(name);
        fs::create_dir(&folder).ok()?;
        let group = (|| -> io::Result<File> {
            fs::write(folder.join("memory.max"), bytes.to_string())?;
            fs::write(folder.join("memory.oom.group"), "1")?;
            // Swap would let a trial go on beyond its limit, slowly. Absent without swap accounting.
            let _ = fs::write(folder.join("memory.swap.max"), "0");
            OpenOptions::new().write(true).open(folder.join("cgroup.procs"))
        })();
        let Ok(procs) = group else {
            let _ = fs::remove_dir(&folder);
            return None;
        };
        Some(Self { folder, procs: Arc::new(procs.into()) })
    }

    /// Open `cgroup.procs`: a process that writes `0` to it joins.
    pub(super) fn procs(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.procs)
    }

    /// Whether the kernel ended the group for its memory.
    pub(super) fn killed_for_memory(&self) -> bool {
        fs::read_to_string(self.folder.join("memory.events")).is_ok_and(|text| {
            text.lines().any(|line| {
                line.strip_prefix("oom_kill ")
                    .is_some_and(|count| count.trim().parse().is_ok_and(|n: u64| n > 0))
            })
        })
    }

    /// Peak memory in KiB.
    pub(super) fn peak_kib(&self) -> Option<u64> {
        let text = fs::read_to_string(self.folder.join("memory.peak")).ok()?;
        text.trim().parse::<u64>().ok().map(|bytes| bytes / 1024)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // An empty group goes at once; a group with a process that cannot be killed stays.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Folder of the runner's own cgroup when version 2 is mounted.
pub(super) fn own_cgroup() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (_, place, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    })?;
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let folder = mount.join(path.trim_start_matches('/'));
    let controllers = fs::read_to_string(folder.join("cgroup.controllers")).ok()?;
    controllers.split_ascii_whitespace().any(|word| word == "memory").then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that looks like a delegated cgroup; the kernel's files are plain files here.
    fn fake(subtree: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("cgroup.subtree_control"), subtree).unwrap();
        folder
    }

    #[test]
    fn without_a_writable_group_the_watchdog_is_left() {
        assert!(MemoryGroup::create(Path::new("/nonexistent"), "x", 1).is_none());
        // Plain folders have no cgroup.procs to open, so creation must undo itself.
        let parent = fake("cpu memory");
        assert!(MemoryGroup::create(parent.path(), "x", 1 << 20).is_none());
    }

    #[test]
    fn kernel_files_are_understood() {
        let parent = fake("memory");
        let folder = parent.path().join("g");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("memory.events"), "low 0\nmax 7\noom 1\noom_kill 1\n").unwrap();
        fs::write(folder.join("memory.peak"), "2097152\n").unwrap();
        let procs = File::create(folder.join("cgroup.procs")).unwrap();
        let group = MemoryGroup { folder: folder.clone(), procs: Arc::new(procs.into()) };
        assert!(group.killed_for_memory());
        assert_eq!(group.peak_kib(), Some(2048));
        fs::write(folder.join("memory.events"), "low 0\nmax 7\noom 0\noom_kill 0\n").unwrap();
        assert!(!group.killed_for_memory());
    }
}
