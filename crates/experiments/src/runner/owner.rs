//! Who holds a lease, and whether it still lives (specification, section 6.8).

use super::measure;
use std::{fs, process};

/// Identity of a runner: enough to tell, on the same host, whether it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) host: String,
    pub(super) boot_id: String,
    /// Process ids mean something only within one namespace: containers share host and boot id.
    pub(super) pid_space: String,
    pub(super) pid: u32,
    pub(super) start_ticks: u64,
    /// Number of the run within the process.
    pub(super) nonce: String,
}

fn pid_space() -> String {
    fs::read_link("/proc/self/ns/pid")
        .ok()
        .map(|link| link.to_string_lossy().chars().filter(char::is_ascii_digit).collect())
        .unwrap_or_default()
}

pub(super) fn host() -> String {
    nix::unistd::gethostname()
        .map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().replace('/', "_"))
}

pub(super) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

impl Owner {
    /// This process, now.
    pub(super) fn current() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let pid = process::id();
        Self {
            host: host(),
            boot_id: boot_id(),
            pid_space: pid_space(),
            pid,
            start_ticks: measure::start_ticks(pid as i32).unwrap_or(0),
            // The time sets runs of different machines with the same host name apart.
            nonce: format!(
                "{:x}.{}",
                super::process::unix_ms(),
                RUNS.fetch_add(1, Ordering::Relaxed)
            ),
        }
    }

    /// The text that stands in the store; also the session's id.
    pub(super) fn text(&self) -> String {
        format!(
            "{}/{}/{}/{}/{}/{}",
            self.host, self.boot_id, self.pid_space, self.pid, self.start_ticks, self.nonce
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split('/');
        let mut word = || words.next().map(str::to_owned);
        let owner = Self {
            host: word()?,
            boot_id: word()?,
            pid_space: word()?,
            pid: word()?.parse().ok()?,
            start_ticks: word()?.parse().ok()?,
            nonce: word()?,
        };
        words.next().is_none().then_some(owner)
    }

    /// Whether the runner named by `text` ran on this host and is certainly gone. Runners of other
    /// hosts and texts that were not written by us are judged by their lease alone.
    pub(super) fn is_dead(&self, text: &str) -> bool {
        let Some(other) = Self::parse(text) else { return false };
        if other.host != self.host || other.host.is_empty() {
            return false;
        }
        if other.boot_id != self.boot_id {
            return !other.boot_id.is_empty() && !self.boot_id.is_empty();
        }
        other.pid_space == self.pid_space
            && measure::start_ticks(other.pid as i32) != Some(other.start_ticks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_are_not_dead() {
        let own = Owner::current();
        assert_eq!(Owner::parse(&own.text()), Some(own.clone()));
        assert!(!own.is_dead(&own.text()));
        assert!(!own.is_dead("somebody"));
        let other_host = Owner { host: "elsewhere".to_owned(), pid: 1 << 30, ..own.clone() };
        assert!(!own.is_dead(&other_host.text()));
        let other_space = Owner { pid_space: "1".to_owned(), pid: 1 << 30, ..own.clone() };
        assert!(!own.is_dead(&other_space.text()));
    }

    #[test]
    fn the_dead_are_dead() {
        let own = Owner::current();
        for gone in [
            Owner { pid: 1 << 30, ..own.clone() },
            // The process id was given to another process.
            Owner { start_ticks: own.start_ticks + 1, ..own.clone() },
            Owner { boot_id: "an earlier boot".to_owned(), ..own.clone() },
        ] {
            assert!(own.is_dead(&gone.text()), "{gone:?}");
        }
    }
}
