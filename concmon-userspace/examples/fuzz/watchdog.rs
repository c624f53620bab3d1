//! Workers under watch: one that hangs, or takes the program down, is told with what it was at.

use std::sync::atomic::{AtomicU64, Ordering};

use super::case::Case;
use super::judge::{MAX_CPU, clock, cpu_time};

/// The most workers that are watched.
const MAX_SLOTS: usize = 64;

/// A program that aborts says what it was at.
pub(crate) fn tell_of_abort() {
    // SAFETY: the handler only formats numbers into a buffer of its own and writes that.
    unsafe {
        libc::signal(libc::SIGABRT, aborted as *const () as libc::sighandler_t);
    }
}

extern "C" fn aborted(_signal: libc::c_int) {
    for slot in &SLOTS {
        if slot.thread.load(Ordering::Relaxed) != 0 && slot.began_ns.load(Ordering::Relaxed) != 0 {
            slot.say(b"ABORTED in one of these: ");
        }
    }
}

/// What a worker is at, readable by others and in a signal handler.
struct Work {
    thread: AtomicU64,
    /// Its CPU time when it began, ns, and 1; 0: it is at nothing.
    began_ns: AtomicU64,
    /// The first bytes of the input's name.
    input: AtomicU64,
    seed: AtomicU64,
}

static SLOTS: [Work; MAX_SLOTS] = [const {
    Work {
        thread: AtomicU64::new(0),
        began_ns: AtomicU64::new(0),
        input: AtomicU64::new(0),
        seed: AtomicU64::new(0),
    }
}; MAX_SLOTS];

impl Work {
    /// Writes what it is at to stderr, without allocating.
    fn say(&self, before: &[u8]) {
        let mut text = [0u8; 96];
        let mut at = 0;
        let mut push = |bytes: &[u8]| {
            for byte in bytes {
                if at < text.len() {
                    text[at] = *byte;
                    at += 1;
                }
            }
        };
        push(before);
        let name = self.input.load(Ordering::Relaxed).to_le_bytes();
        push(name.split(|byte| *byte == 0).next().unwrap_or_default());
        push(b"/");
        let digits = digits(self.seed.load(Ordering::Relaxed));
        push(digits.trim_ascii_start());
        push(b"\n");
        // SAFETY: a system call on a buffer of this frame.
        unsafe {
            libc::write(2, text.as_ptr().cast(), at);
        }
    }
}

/// A number in decimal, spaces in front.
fn digits(mut number: u64) -> [u8; 20] {
    let mut digits = [b' '; 20];
    for place in digits.iter_mut().rev() {
        *place = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    digits
}

/// A worker's place among those that are watched.
pub(crate) struct Slot(Option<&'static Work>);

impl Slot {
    pub(crate) fn take() -> Self {
        // SAFETY: it has no preconditions.
        let thread = unsafe { libc::pthread_self() };
        let free = SLOTS.iter().find(|slot| {
            slot.thread
                .compare_exchange(0, thread, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        });
        Self(free)
    }

    pub(crate) fn begins(&self, case: &Case) {
        let Some(work) = self.0 else { return };
        let mut name = [0; 8];
        for (into, byte) in name.iter_mut().zip(case.input.bytes()) {
            *into = byte;
        }
        work.input
            .store(u64::from_le_bytes(name), Ordering::Relaxed);
        work.seed.store(case.seed, Ordering::Relaxed);
        work.began_ns
            .store(cpu_time().as_nanos() as u64 + 1, Ordering::Relaxed);
    }

    pub(crate) fn ends(&self) {
        if let Some(work) = self.0 {
            work.began_ns.store(0, Ordering::Relaxed);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(work) = self.0 {
            work.thread.store(0, Ordering::Relaxed);
        }
    }
}

/// Ends the program when a worker does not come to an end; nothing else stops a thread.
pub(crate) fn end_on_hang() {
    for work in &SLOTS {
        let (thread, began_ns) = (
            work.thread.load(Ordering::Relaxed),
            work.began_ns.load(Ordering::Relaxed),
        );
        if thread == 0 || began_ns == 0 {
            continue;
        }
        let mut id = 0;
        // SAFETY: the thread takes itself off the list before it ends, and the program waits for
        // all of them; the kernel writes to `id` only.
        let now = unsafe {
            match libc::pthread_getcpuclockid(thread, &mut id) {
                0 => clock(id),
                _ => None,
            }
        };
        let ran = now.map(|now| (now.as_nanos() as u64).saturating_sub(began_ns));
        let is_same = work.began_ns.load(Ordering::Relaxed) == began_ns;
        if is_same && ran.is_some_and(|ran| ran > 5 * MAX_CPU.as_nanos() as u64) {
            work.say(b"HANGS: ");
            std::process::exit(1);
        }
    }
}
