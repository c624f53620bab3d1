//! How long the kernel runs our programs, estimated from samples.
//!
//! The kernel measures the run time of every BPF program of the host, at a cost to all of them. So
//! it is asked to for one second in ten, and the result is scaled.

use std::os::fd::OwnedFd;

use aya::sys::{Stats, enable_stats};

const MEASURE_NS: u64 = 1_000_000_000;
const PAUSE_NS: u64 = 9_000_000_000;

#[derive(Debug, Default)]
pub(super) struct RunTime {
    started_ns: Option<u64>,
    /// Since when it is, or is not, being measured.
    phase_ns: u64,
    measuring: Option<OwnedFd>,
    measured_for_ns: u64,
    /// What had been measured when the pause began.
    at_pause_ns: u64,
    /// Somebody else has the kernel measure all the time.
    always: bool,
    unsupported: bool,
}

impl RunTime {
    /// Whether the current phase is over.
    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        let length = if self.measuring.is_some() {
            MEASURE_NS
        } else {
            PAUSE_NS
        };
        !self.unsupported
            && (self.started_ns.is_none() || now_ns.saturating_sub(self.phase_ns) >= length)
    }

    /// Begins the next phase. `measured_ns`: what the kernel has measured so far.
    pub(super) fn step(&mut self, now_ns: u64, measured_ns: u64) {
        let first = self.started_ns.is_none();
        self.started_ns.get_or_insert(now_ns);
        if self.measuring.take().is_some() {
            self.measured_for_ns += now_ns.saturating_sub(self.phase_ns);
            self.at_pause_ns = measured_ns;
        } else {
            self.always |= !first && measured_ns > self.at_pause_ns;
            match enable_stats(Stats::RunTime) {
                Ok(fd) => self.measuring = Some(fd),
                Err(_) => self.unsupported = true,
            }
        }
        self.phase_ns = now_ns;
    }

    /// The run time since the first step, ns.
    pub(super) fn estimate(&self, now_ns: u64, measured_ns: u64) -> Option<u64> {
        let total_ns = now_ns.saturating_sub(self.started_ns?);
        if self.always {
            return Some(measured_ns);
        }
        let mut for_ns = self.measured_for_ns;
        if self.measuring.is_some() {
            for_ns += now_ns.saturating_sub(self.phase_ns);
        }
        if for_ns == 0 {
            return None;
        }
        Some((u128::from(measured_ns) * u128::from(total_ns) / u128::from(for_ns)) as u64)
    }
}
