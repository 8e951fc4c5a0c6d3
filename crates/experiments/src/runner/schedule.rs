//! How many trials run at once, and where (specification, section 6.5).

use super::RunError;
use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};
use std::{collections::BTreeMap, fs};

/// Physical cores that this process may use, each with its logical CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Logical CPUs of each physical core, sorted.
    pub cores: Vec<Vec<usize>>,
}

impl Topology {
    /// Reads the machine's topology within the process's CPU affinity. Where the system does not
    /// tell, each logical CPU counts as a core.
    pub fn read() -> Self {
        let allowed: Vec<usize> = match sched_getaffinity(Pid::from_raw(0)) {
            Ok(set) => {
                (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect()
            }
            Err(_) => (0..std::thread::available_parallelism().map_or(1, usize::from)).collect(),
        };
        let mut cores: BTreeMap<(i64, i64), Vec<usize>> = BTreeMap::new();
        for cpu in allowed {
            let number = |name: &str| -> Option<i64> {
                let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/{name}");
                fs::read_to_string(path).ok()?.trim().parse().ok()
            };
            let place = match (number("physical_package_id"), number("core_id")) {
                (Some(package), Some(core)) => (package, core),
                _ => (-1, cpu as i64),
            };
            cores.entry(place).or_default().push(cpu);
        }
        let mut cores: Vec<_> = cores.into_values().collect();
        cores.sort();
        Self { cores }
    }
}

/// What one running trial gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    /// Logical CPUs, when pinned.
    pub(super) cores: Option<Vec<usize>>,
    /// Number of the GPU.
    pub(super) gpu: Option<u32>,
}

impl Slot {
    pub(super) fn cpu_set(&self) -> Option<CpuSet> {
        let cores = self.cores.as_ref()?;
        let mut set = CpuSet::new();
        for cpu in cores {
            set.set(*cpu).ok()?;
        }
        Some(set)
    }
}

/// What is asked of the schedule.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) jobs: Option<u32>,
    pub(super) threads: u32,
    /// `None`: pin when a timed metric is declared.
    pub(super) pin: Option<bool>,
    pub(super) timed: bool,
    /// GPUs to hand out, when the device is one.
    pub(super) gpus: u32,
    /// Trials that share a GPU.
    pub(super) gpu_share: u32,
}

/// The slots of a run.
///
/// # Errors
/// [`RunError::Oversubscribed`] when timed trials, or pinned ones, would have to share cores.
pub(super) fn slots(wish: &Wish, topology: &Topology) -> Result<Vec<Slot>, RunError> {
    let threads = wish.threads.max(1) as usize;
    let cores = topology.cores.len().max(1);
    let by_gpu = wish.gpus * wish.gpu_share.max(1);
    let default = if by_gpu > 0 { by_gpu as usize } else { (cores / threads).max(1) };
    let jobs = wish.jobs.map_or(default, |jobs| jobs.max(1) as usize);
    let pin = wish.pin.unwrap_or(wish.timed);
    if (wish.timed || pin) && jobs * threads > cores {
        return Err(RunError::Oversubscribed { jobs, threads, cores });
    }
    Ok((0..jobs)
        .map(|slot| Slot {
            // Whole physical cores: a sibling thread would share its caches and units. The first
            // logical CPU of each is used, so that `threads` means cores in every slot.
            cores: pin.then(|| {
                (0..threads)
                    .filter_map(|i| topology.cores[slot * threads + i].first().copied())
                    .collect()
            }),
            gpu: (wish.gpus > 0).then(|| slot as u32 % wish.gpus),
        })
        .collect())
}

/// Number of NVIDIA GPUs that the driver shows.
pub(super) fn gpu_count() -> u32 {
    fs::read_dir("/proc/driver/nvidia/gpus").map_or(0, |entries| entries.flatten().count() as u32)
}

/// Load average of the last minute.
pub(super) fn load_average() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Topology {
        Topology { cores: vec![vec![0, 4], vec![1, 5], vec![2, 6], vec![3, 7]] }
    }

    fn wish() -> Wish {
        Wish { jobs: None, threads: 1, pin: None, timed: false, gpus: 0, gpu_share: 1 }
    }

    #[test]
    fn jobs_fill_the_physical_cores() {
        assert_eq!(slots(&wish(), &machine()).unwrap().len(), 4);
        assert_eq!(slots(&Wish { threads: 3, ..wish() }, &machine()).unwrap().len(), 1);
        assert_eq!(slots(&Wish { threads: 9, ..wish() }, &machine()).unwrap().len(), 1);
        assert_eq!(slots(&Wish { jobs: Some(9), ..wish() }, &machine()).unwrap().len(), 9);
    }

    #[test]
    fn timed_trials_are_pinned_and_never_share_a_core() {
        let timed = Wish { timed: true, threads: 2, ..wish() };
        let slots_of = slots(&timed, &machine()).unwrap();
        assert_eq!(slots_of[0].cores, Some(vec![0, 1]));
        assert_eq!(slots_of[1].cores, Some(vec![2, 3]));
        let over = Wish { jobs: Some(3), ..timed };
        let message = slots(&over, &machine()).unwrap_err().to_string();
        assert!(message.contains('3') && message.contains('4'), "{message}");
    }

    #[test]
    fn one_slot_per_gpu() {
        let gpus = slots(&Wish { gpus: 2, ..wish() }, &machine()).unwrap();
        assert_eq!(gpus.iter().map(|slot| slot.gpu).collect::<Vec<_>>(), [Some(0), Some(1)]);
        assert_eq!(slots(&Wish { gpus: 2, gpu_share: 2, ..wish() }, &machine()).unwrap().len(), 4);
    }

    #[test]
    fn this_machine_has_a_core() {
        assert!(!Topology::read().cores.is_empty());
    }
}
