//! How long the kernel runs our programs, estimated from samples.
//!
//! The kernel measures the run time of every BPF program of the host, at a cost to all of them. So
//! it is asked to for one second in ten, and the result is scaled.

use super::run_time_switch::Switch;

const MEASURE_NS: u64 = 1_000_000_000;
const PAUSE_NS: u64 = 9_000_000_000;

#[derive(Debug)]
pub(super) struct RunTime {
    switch: Switch,
    started_ns: Option<u64>,
    /// Since when it is, or is not, being measured.
    phase_ns: u64,
    measuring: bool,
    /// What there was before this phase: where somebody else has it measured, too, it also grows
    /// between ours.
    before_ns: u64,
    /// Run time and length of the phases that are over.
    measured_ns: u64,
    measured_for_ns: u64,
    unsupported: bool,
}

impl RunTime {
    pub(super) fn new(switch: Switch) -> Self {
        Self {
            switch,
            started_ns: None,
            phase_ns: 0,
            measuring: false,
            before_ns: 0,
            measured_ns: 0,
            measured_for_ns: 0,
            unsupported: false,
        }
    }

    /// Whether the current phase is over.
    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        let length = match self.measuring {
            true => MEASURE_NS,
            false => PAUSE_NS,
        };
        !self.unsupported
            && (self.started_ns.is_none() || now_ns.saturating_sub(self.phase_ns) >= length)
    }

    /// Begins the next phase. `run_ns`: all that was ever measured.
    pub(super) fn step(&mut self, now_ns: u64, run_ns: u64) {
        self.started_ns.get_or_insert(now_ns);
        if self.measuring {
            // Where the helper is gone, so is what it held.
            self.unsupported |= self.switch.set(false).is_err();
            self.measuring = false;
            self.measured_ns += run_ns.saturating_sub(self.before_ns);
            self.measured_for_ns += now_ns.saturating_sub(self.phase_ns);
        } else {
            self.measuring = self.switch.set(true).is_ok();
            self.unsupported = !self.measuring;
            self.before_ns = run_ns;
        }
        self.phase_ns = now_ns;
    }

    /// The run time since the first step, ns; `run_ns` as in [`RunTime::step`].
    pub(super) fn estimate(&self, now_ns: u64, run_ns: u64) -> Option<u64> {
        let total_ns = now_ns.saturating_sub(self.started_ns?);
        let (mut measured_ns, mut for_ns) = (self.measured_ns, self.measured_for_ns);
        if self.measuring {
            measured_ns += run_ns.saturating_sub(self.before_ns);
            for_ns += now_ns.saturating_sub(self.phase_ns);
        }
        if for_ns == 0 {
            return None;
        }
        Some((u128::from(measured_ns) * u128::from(total_ns) / u128::from(for_ns)) as u64)
    }
}
