//! Whether a signal has asked the watch to end: known at once, also while a target is being read and
//! the select loop does not run, or not yet.

use std::{
    io,
    sync::atomic::{AtomicI32, AtomicU64, Ordering},
};

use tokio::signal::unix::SignalKind;

use super::signals;

/// The number of the signal that came first; 0: none.
static ASKED: AtomicI32 = AtomicI32::new(0);
/// When it came, see [`now_ms`]; 0: not yet.
static ASKED_MS: AtomicU64 = AtomicU64::new(0);
/// For how long further signals belong to the same request.
const SAME_MS: u64 = 300;
const SAME_HANGUP_MS: u64 = 1_000;

/// From now on, the first of the signals that end a watch is noted, and a later one aborts.
///
/// One request may come as several signals: `timeout` sends its own twice, systemd SIGHUP behind SIGTERM, and
/// a terminal that is closed SIGHUP before its shell does. So those right behind the first are the same.
///
/// # Errors
/// A signal that cannot be handled.
pub(crate) fn note() -> io::Result<()> {
    for signal in signals::that_end() {
        let number = signal.as_raw_value();
        let same_ms = match number {
            libc::SIGHUP => SAME_HANGUP_MS,
            _ => SAME_MS,
        };
        let handler = move || {
            let now_ms = now_ms();
            // The instant first: whoever sees the number sees it, too.
            let _ = ASKED_MS.compare_exchange(0, now_ms, Ordering::SeqCst, Ordering::SeqCst);
            let first = ASKED.compare_exchange(0, number, Ordering::SeqCst, Ordering::SeqCst);
            if first.is_err() && now_ms.saturating_sub(ASKED_MS.load(Ordering::SeqCst)) > same_ms {
                // SAFETY: both are async-signal-safe, and no code of ours runs after them.
                unsafe {
                    libc::signal(number, libc::SIG_DFL);
                    libc::raise(number);
                }
            }
        };
        // SAFETY: the handler exchanges atomics, and makes system calls; it takes no lock, allocates
        // nothing and cannot panic.
        unsafe { signal_hook_registry::register(number, handler)? };
    }
    Ok(())
}

/// `CLOCK_MONOTONIC`, ms, never 0.
fn now_ms() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the kernel writes to a value of ours; async-signal-safe (signal-safety(7)).
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    (now.tv_sec as u64) * 1_000 + (now.tv_nsec as u64) / 1_000_000 + 1
}

/// The signal that has asked.
pub(crate) fn asked() -> Option<SignalKind> {
    match ASKED.load(Ordering::Relaxed) {
        0 => None,
        number => Some(SignalKind::from_raw(number)),
    }
}
