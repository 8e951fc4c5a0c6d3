//! The few system calls that have no safe wrapper: `wait4`, `sigaction` with a handler.
#![expect(
    unsafe_code,
    reason = "system calls without a safe wrapper; each block says why it is sound"
)]

use std::{
    io, mem,
    sync::atomic::{AtomicU8, AtomicUsize, Ordering},
    time::Duration,
};

/// How a process ended, and what it used together with the children it had waited for.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub(super) struct Waited {
    /// Raw status of `wait(2)`.
    pub(super) status: i32,
    /// User CPU time.
    pub(super) user: Duration,
    /// System CPU time.
    pub(super) sys: Duration,
    /// Peak resident memory of the largest process, KiB on Linux.
    pub(super) max_rss_kib: u64,
}

/// `Some(code)` when the process exited.
pub(super) fn exit_code(status: i32) -> Option<i32> {
    libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status))
}

/// `Some(signal)` when a signal ended the process.
pub(super) fn term_signal(status: i32) -> Option<i32> {
    libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status))
}

/// Waits for one child; `Ok(None)` when it still runs and `block` is false, or when someone else
/// in this process has waited for it.
pub(super) fn wait4(pid: i32, block: bool) -> io::Result<Option<Waited>> {
    let mut status = 0;
    // SAFETY: an all-zero rusage is a valid value of that plain C struct.
    let mut usage: libc::rusage = unsafe { mem::zeroed() };
    loop {
        let flags = if block { 0 } else { libc::WNOHANG };
        // SAFETY: both pointers are to live, writable values of the right type.
        let got = unsafe { libc::wait4(pid, &raw mut status, flags, &raw mut usage) };
        return match got {
            0 => Ok(None),
            -1 => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::EINTR) => continue,
                error if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
                error => Err(error),
            },
            _ => Ok(Some(Waited {
                status,
                user: duration(usage.ru_utime),
                sys: duration(usage.ru_stime),
                max_rss_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
            })),
        };
    }
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

/// Where the handlers below write; null until [`install_stop_handlers`].
static STOP_LEVEL: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_interrupt(_signal: libc::c_int) {
    raise_stop(1, true);
}

extern "C" fn on_terminate(_signal: libc::c_int) {
    raise_stop(2, false);
}

/// Only atomic operations: this runs in a signal handler.
fn raise_stop(level: u8, add: bool) {
    let pointer = STOP_LEVEL.load(Ordering::Acquire) as *const AtomicU8;
    // SAFETY: the pointer is null or comes from `Box::leak` below, so it is valid for ever.
    if let Some(stop) = unsafe { pointer.as_ref() } {
        if add {
            let now = stop.load(Ordering::Acquire);
            stop.store(now.saturating_add(level).min(2), Ordering::Release);
        } else {
            stop.store(level, Ordering::Release);
        }
    }
}

/// From now on SIGINT raises the level by one (up to 2), SIGTERM and SIGUSR1 set it to 2.
/// Returns the level, the same one for every call in a process.
pub(super) fn install_stop_handlers() -> io::Result<&'static AtomicU8> {
    let fresh: &'static AtomicU8 = Box::leak(Box::new(AtomicU8::new(0)));
    let address = std::ptr::from_ref(fresh) as usize;
    let level = match STOP_LEVEL.compare_exchange(0, address, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => fresh,
        // SAFETY: a value that is not zero came from the leaked box of an earlier call.
        Err(known) => unsafe { &*(known as *const AtomicU8) },
    };
    for (signal, handler) in [
        (libc::SIGINT, on_interrupt as extern "C" fn(libc::c_int)),
        (libc::SIGTERM, on_terminate),
        (libc::SIGUSR1, on_terminate),
    ] {
        // SAFETY: an all-zero sigaction is valid; the handler only does atomic operations.
        let outcome = unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = handler as *const () as usize;
            // Database and file calls are restarted; the run loop wakes up often by itself.
            action.sa_flags = libc::SA_RESTART;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(signal, &raw const action, std::ptr::null_mut())
        };
        if outcome != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(level)
}
