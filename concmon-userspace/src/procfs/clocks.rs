//! The kernel's clocks: three read together, pure conversions between them, and ticks.

use rustix::{
    param::{clock_ticks_per_second, page_size},
    time::{ClockId, clock_gettime},
};

/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// The same instant on three clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clocks {
    /// `CLOCK_MONOTONIC`, ns: what kernel records and the model use.
    pub monotonic_ns: u64,
    /// `CLOCK_BOOTTIME`, ns: monotonic and the time spent suspended; starts of threads use it.
    pub boottime_ns: u64,
    /// `CLOCK_REALTIME`, ns after 1970.
    pub unix_ns: u64,
}

/// `CLOCK_MONOTONIC` alone, ns.
pub fn monotonic_ns() -> u64 {
    read(ClockId::Monotonic)
}

/// Resident memory of this process, bytes.
///
/// # Errors
/// `/proc/self/statm` cannot be read.
pub fn process_rss_bytes() -> std::io::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm
        .split_whitespace()
        .nth(1)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::InvalidData))?;
    Ok(pages * page_bytes())
}

/// CPU time of this process, ns.
pub fn process_cpu_ns() -> u64 {
    read(ClockId::ProcessCPUTime)
}

/// CPU time of this thread, ns.
pub fn thread_cpu_ns() -> u64 {
    read(ClockId::ThreadCPUTime)
}

fn read(clock: ClockId) -> u64 {
    let at = clock_gettime(clock);
    u64::try_from(at.tv_sec).unwrap_or(0) * SECOND + u64::try_from(at.tv_nsec).unwrap_or(0)
}

impl Clocks {
    /// Reads all three: of a few attempts the one in which least time passed.
    pub fn now() -> Self {
        let attempt = || {
            let before = read(ClockId::Monotonic);
            let boottime_ns = read(ClockId::Boottime);
            let unix_ns = read(ClockId::Realtime);
            let took = read(ClockId::Monotonic).saturating_sub(before);
            (
                took,
                Clocks {
                    monotonic_ns: before + took / 2,
                    boottime_ns,
                    unix_ns,
                },
            )
        };
        let mut best = attempt();
        for _ in 0..4 {
            let next = attempt();
            if next.0 < best.0 {
                best = next;
            }
        }
        best.1
    }

    /// A boot-time instant on the wall clock, as if it had always run as it does at this reading.
    pub const fn unix_of_boottime(&self, boottime_ns: u64) -> u64 {
        shift(boottime_ns, self.boottime_ns, self.unix_ns)
    }

    /// A monotonic instant on the wall clock.
    pub const fn unix_of_monotonic(&self, monotonic_ns: u64) -> u64 {
        shift(monotonic_ns, self.monotonic_ns, self.unix_ns)
    }

    /// A boot-time instant on the monotonic clock, as if nothing had been suspended since;
    /// 0 for what would lie before its beginning.
    pub const fn monotonic_of_boottime(&self, boottime_ns: u64) -> u64 {
        shift(boottime_ns, self.boottime_ns, self.monotonic_ns)
    }
}

/// `ns`, moved as `from` is moved to `to`.
const fn shift(ns: u64, from: u64, to: u64) -> u64 {
    if to >= from {
        ns.saturating_add(to - from)
    } else {
        ns.saturating_sub(from - to)
    }
}

/// Length of a clock tick of `/proc`, in ns (10 ms on every architecture that concmon knows).
pub fn tick_ns() -> u64 {
    SECOND / clock_ticks_per_second().max(1)
}

/// Clock ticks of `/proc`, in ns.
pub fn ticks_to_ns(ticks: u64) -> u64 {
    ticks.saturating_mul(tick_ns())
}

/// Size of a page of memory, in bytes.
pub(super) fn page_bytes() -> u64 {
    page_size() as u64
}

/// Whether a start time of the kernel (exact) and one of `/proc` (cut down to a tick) are of the
/// same thread, given that their ids are equal.
pub fn same_start(kernel_ns: u64, proc_ns: u64) -> bool {
    kernel_ns / tick_ns() == proc_ns / tick_ns()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions() {
        let clocks = Clocks {
            monotonic_ns: 1_000,
            boottime_ns: 1_500,
            unix_ns: 90_000,
        };
        assert_eq!(clocks.unix_of_boottime(1_400), 89_900);
        assert_eq!(clocks.unix_of_boottime(1_600), 90_100);
        assert_eq!(clocks.unix_of_monotonic(1_000), 90_000);
        assert_eq!(clocks.monotonic_of_boottime(1_500), 1_000);
        assert_eq!(clocks.monotonic_of_boottime(400), 0);
        assert_eq!(clocks.unix_of_monotonic(u64::MAX), u64::MAX);
        let unset = Clocks {
            unix_ns: 10,
            ..clocks
        };
        assert_eq!(unset.unix_of_boottime(1_495), 5);
        assert_eq!(unset.unix_of_boottime(3), 0);
    }

    #[test]
    fn now_agrees_with_other_readings() {
        let clocks = Clocks::now();
        let system = std::time::SystemTime::now();
        let unix = system
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_nanos() as u64;
        assert!(unix.abs_diff(clocks.unix_ns) < SECOND);
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        assert!(((uptime * 1e9) as u64).abs_diff(clocks.boottime_ns) < SECOND);
        assert!(clocks.monotonic_ns <= clocks.boottime_ns + SECOND);
    }

    #[test]
    fn starts_match_by_tick() {
        let proc_ns = ticks_to_ns(1_234);
        for (kernel_ns, same) in [
            (proc_ns, true),
            (proc_ns + tick_ns() - 1, true),
            (proc_ns + tick_ns(), false),
            (proc_ns - 1, false),
        ] {
            assert_eq!(same_start(kernel_ns, proc_ns), same, "{kernel_ns}");
        }
    }
}
