//! Whether a signal has asked the watch to end: known at once, also while a target is being read and
//! the select loop does not run, or not yet.

use std::{
    io,
    sync::atomic::{AtomicI32, Ordering},
};

use tokio::signal::unix::SignalKind;

use super::signals;

/// The number of the signal that came first; 0: none.
static ASKED: AtomicI32 = AtomicI32::new(0);

/// From now on, the first of the signals that end a watch is noted, and the next one aborts; one more
/// SIGHUP belongs to the same hangup.
///
/// # Errors
/// A signal that cannot be handled.
pub(super) fn note() -> io::Result<()> {
    for signal in signals::that_end() {
        let number = signal.as_raw_value();
        let handler = move || {
            let first = ASKED.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed);
            if first.is_err_and(|first| (first, number) != (libc::SIGHUP, libc::SIGHUP)) {
                // SAFETY: both are async-signal-safe, and no code of ours runs after them.
                unsafe {
                    libc::signal(number, libc::SIG_DFL);
                    libc::raise(number);
                }
            }
        };
        // SAFETY: the handler exchanges an atomic, and makes system calls; it takes no lock, allocates
        // nothing and cannot panic.
        unsafe { signal_hook_registry::register(number, handler)? };
    }
    Ok(())
}

/// The signal that has asked.
pub(super) fn asked() -> Option<SignalKind> {
    match ASKED.load(Ordering::Relaxed) {
        0 => None,
        number => Some(SignalKind::from_raw(number)),
    }
}
