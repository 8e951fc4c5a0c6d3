//! One small supervisor process between runner and trial, so that no process of a trial survives.
//!
//! `fork` gives the supervisor, which forks again and lets its child become the trial program. The
//! supervisor is a *child subreaper*: whatever the trial leaves behind, daemons that forked twice
//! and called `setsid` included, becomes the supervisor's child, and it ends only when it has no
//! child left. It kills all of them when
//! - the trial's main process has ended, or
//! - the runner closes its end of the *lifeline* pipe, which the kernel also does when the runner
//!   is killed. Unlike `PR_SET_PDEATHSIG` this is not tied to the thread that started the trial.
//!
//! The trial itself has `PR_SET_PDEATHSIG`, so that it goes when someone kills the supervisor; the
//! supervisor has one thread, so the trap of that call (it follows the *thread*) does not bite.
//! Because the supervisor waits for every process, its own `wait4` gives the runner the CPU time of
//! the whole tree.
//!
//! Between `fork` and the end the supervisor makes system calls only: no allocation, no lock, no
//! panic, as POSIX asks of a child of a program with threads.
#![expect(
    unsafe_code,
    reason = "fork and calls between fork and exec have no safe form; see above"
)]

use std::{
    io::{self, Read},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    process::{Child, Command},
};

/// Bytes of one report: six 64-bit numbers.
const REPORT: usize = 48;

/// What the supervisor says about the trial.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// The trial's process exists.
    Started {
        /// Process id, also its process group and session.
        pid: i32,
    },
    /// The trial's main process has ended.
    Exited {
        /// Raw status of `wait(2)`.
        status: i32,
        /// `ru_maxrss` of the main process and the children it waited for, KiB.
        max_rss_kib: u64,
        /// User CPU time in microseconds, of the same.
        user_us: u64,
        /// System CPU time in microseconds, of the same.
        sys_us: u64,
    },
    /// All processes are gone.
    Empty {
        /// How many outlived the main process, or were ended with it.
        killed: u64,
    },
}

/// Limits that are set in the trial's process before it becomes the program.
#[derive(Clone, Debug, Default)]
pub(super) struct ChildSetup {
    /// `RLIMIT_CPU`, soft and hard, in seconds.
    pub(super) cpu_seconds: Option<(u64, u64)>,
    /// Cores to run on.
    pub(super) cores: Option<nix::sched::CpuSet>,
    /// Open `cgroup.procs` of the group to join.
    pub(super) cgroup: Option<std::sync::Arc<OwnedFd>>,
}

/// A supervised trial as the runner holds it.
pub(super) struct Supervised {
    /// The supervisor; `stdout` and `stderr` are those of the trial.
    pub(super) child: Child,
    /// Reports of the supervisor.
    pub(super) reports: std::fs::File,
    /// Dropping it ends every process of the trial.
    pub(super) lifeline: Option<OwnedFd>,
}

/// Starts `command` under a supervisor.
pub(super) fn spawn(mut command: Command, setup: ChildSetup) -> io::Result<Supervised> {
    // Both ends are close-on-exec, so no other child of the runner keeps them open.
    let (reports, report_to) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(io::Error::from)?;
    let (lifeline_from, lifeline) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(io::Error::from)?;
    let (report_fd, lifeline_fd) = (report_to.as_raw_fd(), lifeline_from.as_raw_fd());
    let hook = move || become_trial(report_fd, lifeline_fd, &setup);
    // SAFETY: the hook makes async-signal-safe system calls only (see the module's first comment).
    unsafe {
        command.pre_exec(hook);
    }
    let child = command.spawn()?;
    // Our copies of the supervisor's ends close here.
    drop((report_to, lifeline_from));
    Ok(Supervised { child, reports: reports.into(), lifeline: Some(lifeline) })
}

impl Supervised {
    /// Reads one report; `None` when the supervisor has gone.
    pub(super) fn read_report(&mut self) -> io::Result<Option<Report>> {
        let mut bytes = [0; REPORT];
        // Reports are written whole: they are shorter than PIPE_BUF.
        match self.reports.read(&mut bytes)? {
            REPORT => Ok(decode(&bytes)),
            _ => Ok(None),
        }
    }
}

fn decode(bytes: &[u8; REPORT]) -> Option<Report> {
    let number = |i: usize| {
        let mut part = [0; 8];
        part.copy_from_slice(&bytes[8 * i..8 * i + 8]);
        i64::from_ne_bytes(part)
    };
    match number(0) {
        1 => Some(Report::Started { pid: number(1) as i32 }),
        2 => Some(Report::Exited {
            status: number(2) as i32,
            max_rss_kib: number(3).unsigned_abs(),
            user_us: number(4).unsigned_abs(),
            sys_us: number(5).unsigned_abs(),
        }),
        3 => Some(Report::Empty { killed: number(1).unsigned_abs() }),
        _ => None,
    }
}

fn last_error<T>() -> io::Result<T> {
    Err(io::Error::last_os_error())
}

/// Runs in the forked child: forks again, returns in the grandchild, which goes on to `exec`.
fn become_trial(report: RawFd, lifeline: RawFd, setup: &ChildSetup) -> io::Result<()> {
    // SAFETY: plain system calls on values of this stack frame; nothing here allocates or locks.
    unsafe {
        // A session of its own: the terminal's Ctrl-C reaches the runner alone.
        libc::setsid();
        if libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0 {
            return last_error();
        }
        let mut chld: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut chld);
        libc::sigaddset(&raw mut chld, libc::SIGCHLD);
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigprocmask(libc::SIG_BLOCK, &raw const chld, &raw mut before);
        let supervisor = libc::getpid();
        match libc::fork() {
            -1 => last_error(),
            0 => {
                libc::sigprocmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
                libc::setsid();
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) != 0 {
                    return last_error();
                }
                // The supervisor may have died before the line above.
                if libc::getppid() != supervisor {
                    libc::_exit(127);
                }
                limit_self(setup)
            }
            trial => supervise(trial, report, lifeline, &chld),
        }
    }
}

/// Sets the limits of the calling process.
///
/// # Safety
/// Makes system calls only; meant for the time between `fork` and `exec`.
unsafe fn limit_self(setup: &ChildSetup) -> io::Result<()> {
    // SAFETY: the pointers are to live values of the right type.
    unsafe {
        if let Some((soft, hard)) = setup.cpu_seconds {
            let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
            if libc::setrlimit(libc::RLIMIT_CPU, &raw const limit) != 0 {
                return last_error();
            }
        }
        // A limit that ends the program would otherwise fill the disk with its memory.
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        if let Some(group) = &setup.cgroup
            && libc::write(group.as_raw_fd(), b"0".as_ptr().cast(), 1) != 1
        {
            return last_error();
        }
    }
    match &setup.cores {
        Some(cores) => {
            nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), cores).map_err(Into::into)
        }
        None => Ok(()),
    }
}

/// The supervisor's life. Never returns.
///
/// # Safety
/// Makes system calls only; must run in a forked child that owns nothing it would have to release.
unsafe fn supervise(
    trial: libc::pid_t,
    report: RawFd,
    lifeline: RawFd,
    chld: &libc::sigset_t,
) -> ! {
    // SAFETY: system calls on descriptors that stay open and on values of this stack frame.
    unsafe {
        for signal in [
            libc::SIGINT,
            libc::SIGTERM,
            libc::SIGHUP,
            libc::SIGQUIT,
            libc::SIGUSR1,
            libc::SIGUSR2,
            libc::SIGPIPE,
        ] {
            libc::signal(signal, libc::SIG_IGN);
        }
        // Everything else must go: the pipes of the trial's output, or their end is never seen,
        // and the pipe on which the runner waits for `exec`.
        close_all_but(report, lifeline);
        let children = libc::signalfd(-1, std::ptr::from_ref(chld), libc::SFD_NONBLOCK);
        send(report, &[1, i64::from(trial), 0, 0, 0, 0]);
        let mut ending = false;
        let mut ended = false;
        let mut killed = 0_i64;
        loop {
            let mut fds = [
                libc::pollfd { fd: children, events: libc::POLLIN, revents: 0 },
                // Once it has spoken it would only wake us up again and again.
                libc::pollfd {
                    fd: if ending { -1 } else { lifeline },
                    events: libc::POLLIN,
                    revents: 0,
                },
            ];
            // While ending, look again soon: children of children arrive as their parents die.
            let wait_ms = if ending || children < 0 { 5 } else { -1 };
            libc::poll(fds.as_mut_ptr(), 2, wait_ms);
            if fds[1].revents != 0 {
                ending = true;
            }
            let mut scratch = [0_u8; 1024];
            while libc::read(children, scratch.as_mut_ptr().cast(), scratch.len()) > 0 {}
            loop {
                let mut status = 0;
                let mut usage: libc::rusage = std::mem::zeroed();
                match libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) {
                    0 => break,
                    -1 => {
                        // No child is left: the work is done.
                        send(report, &[3, killed, 0, 0, 0, 0]);
                        libc::_exit(0);
                    }
                    pid if pid == trial => {
                        ending = true;
                        ended = true;
                        let micros = |t: libc::timeval| t.tv_sec * 1_000_000 + t.tv_usec;
                        send(
                            report,
                            &[
                                2,
                                i64::from(pid),
                                i64::from(status),
                                usage.ru_maxrss,
                                micros(usage.ru_utime),
                                micros(usage.ru_stime),
                            ],
                        );
                    }
                    _ => killed += i64::from(ended),
                }
            }
            if ending {
                if !ended {
                    libc::kill(trial, libc::SIGKILL);
                }
                kill_children();
            }
        }
    }
}

/// Sends SIGKILL to every child. Their children become ours as they die, and come next.
///
/// # Safety
/// Makes system calls only.
unsafe fn kill_children() {
    let mut text = [0_u8; 4096];
    // SAFETY: the path ends with NUL, the buffer is live and as long as said.
    let length = unsafe {
        let file = libc::open(c"/proc/thread-self/children".as_ptr(), libc::O_RDONLY);
        if file < 0 {
            return;
        }
        let length = libc::read(file, text.as_mut_ptr().cast(), text.len());
        libc::close(file);
        length
    };
    let mut pid: libc::pid_t = 0;
    for &byte in text.iter().take(usize::try_from(length).unwrap_or(0)) {
        if byte.is_ascii_digit() {
            pid = pid.wrapping_mul(10).wrapping_add(libc::pid_t::from(byte - b'0'));
        } else {
            if pid > 1 {
                // SAFETY: a system call without pointers; the pid is a child that was not waited
                // for, so it cannot have been given to another process.
                unsafe { libc::kill(pid, libc::SIGKILL) };
            }
            pid = 0;
        }
    }
}

/// Closes every descriptor except two.
///
/// # Safety
/// Makes system calls only; nothing that owns a descriptor may be used afterwards.
unsafe fn close_all_but(a: RawFd, b: RawFd) {
    let (low, high) = (a.min(b) as libc::c_uint, a.max(b) as libc::c_uint);
    // SAFETY: closing descriptors of a process that only uses the two that stay.
    unsafe {
        let range = |from: libc::c_uint, to: libc::c_uint| {
            from > to || libc::syscall(libc::SYS_close_range, from, to, 0) == 0
        };
        let done = (low == 0 || range(0, low - 1))
            && range(low + 1, high.saturating_sub(1))
            && range(high + 1, libc::c_uint::MAX);
        if !done {
            // Kernels before 5.9.
            for fd in 0..4096 {
                if fd != a && fd != b {
                    libc::close(fd);
                }
            }
        }
    }
}

/// Writes one report; when nobody reads any more there is nothing to be done about it.
///
/// # Safety
/// Makes one system call.
unsafe fn send(report: RawFd, numbers: &[i64; 6]) {
    // SAFETY: the array is live and 48 bytes long; a pipe takes that many bytes at once.
    unsafe {
        libc::write(report, numbers.as_ptr().cast(), REPORT);
    }
}
