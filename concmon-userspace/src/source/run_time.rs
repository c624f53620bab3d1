//! How long the kernel runs our programs, estimated from samples.
//!
//! The kernel measures the run time of every BPF program of the host, at a cost to all of them. So
//! it is asked to for one second in ten, and the result is scaled. Time in which switches are told, and time in which
//! they are not, are each scaled by what was measured in it.

use super::{
    counted_time::{CountedTime, Takes},
    run_time_switch::Switch,
};

const MEASURE_NS: u64 = 1_000_000_000;
/// Of so much time, one part is measured.
const PARTS: u64 = 10;
/// What says how things are now must have been measured for so long, ns.
const LATELY_NS: u64 = MEASURE_NS / 10 * 9;

/// The run time of all programs.
#[derive(Clone, Copy, Debug)]
pub struct KernelRun {
    pub ns: u64,
    /// It is not measured, but the switches of the host are counted.
    pub is_counted: bool,
}

/// What the kernel has ever measured, ns.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Measured {
    /// Of all programs.
    pub(super) all_ns: u64,
    /// Of those that are taken away where switches are not told.
    pub(super) switches_ns: u64,
}

#[derive(Debug)]
pub(super) struct RunTime {
    switch: Switch,
    /// `None`: not begun.
    phases: Option<Phases>,
    unsupported: bool,
    /// Where the kernel may not be asked.
    counted: Option<CountedTime>,
}

/// Time that is measured, and time that is not.
#[derive(Clone, Copy, Debug)]
struct Phases {
    /// Up to when it is booked, and all that was ever measured then: where somebody else has it measured, too, it
    /// also grows between ours.
    at_ns: u64,
    run: Measured,
    /// Since when it is being measured.
    measuring_ns: Option<u64>,
    is_detached: bool,
    /// While switches are told, and while they are not.
    kinds: [Kind; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    lasted_ns: u64,
    /// Run time, and in how much of that time.
    measured_ns: u64,
    measured_for_ns: u64,
    /// The same since somebody asked how it was lately.
    lately: Measured,
    lately_for_ns: u64,
}

impl RunTime {
    pub(super) fn new(switch: Switch) -> Self {
        Self {
            switch,
            phases: None,
            unsupported: false,
            counted: None,
        }
    }

    /// Attaches the hooks; where their run time cannot be measured, what they add to a switch is tried out.
    pub(super) fn around<T, E>(&mut self, attach: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if self.switch.may() {
            return attach();
        }
        let (attached, counted) = CountedTime::around(attach)?;
        self.counted = counted;
        Ok(attached)
    }

    /// Whether measuring is to begin, or to end.
    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        !self.unsupported && self.phases.is_none_or(|phases| phases.is_due(now_ns))
    }

    /// Begins to measure, or ends it. Where that is not possible any more, switches are counted from now on.
    pub(super) fn step(&mut self, now_ns: u64, run: Measured) {
        let phases = self.phases.get_or_insert_with(|| Phases::new(now_ns, run));
        phases.book(now_ns, run);
        if phases.measuring_ns.is_some() {
            // Where the helper is gone, so is what it held.
            self.unsupported |= self.switch.set(false).is_err();
            phases.measuring_ns = None;
        } else {
            self.unsupported = self.switch.set(true).is_err();
            phases.measuring_ns = (!self.unsupported).then_some(now_ns);
        }
        if self.unsupported && self.counted.is_none() {
            let so_far_ns = phases.estimate(now_ns, run).unwrap_or(0);
            self.counted = CountedTime::assumed(so_far_ns, now_ns, phases.is_detached);
        }
    }

    /// From now on switches are not told, or are again.
    pub(super) fn turn(&mut self, is_detached: bool, now_ns: u64, run: Measured) {
        if let Some(counted) = &mut self.counted {
            counted.turn(is_detached, now_ns);
        }
        if let Some(phases) = &mut self.phases {
            phases.book(now_ns, run);
            phases.is_detached = is_detached;
        }
    }

    /// The run time since the first step, until when there were so many records.
    pub(super) fn estimate(
        &mut self,
        now_ns: u64,
        run: Measured,
        records: u64,
    ) -> Option<KernelRun> {
        let (ns, is_counted) = match (&mut self.counted, self.phases) {
            (Some(counted), _) => (counted.until_now_ns(now_ns, records), true),
            (None, Some(phases)) => (phases.estimate(now_ns, run)?, false),
            (None, None) => return None,
        };
        Some(KernelRun { ns, is_counted })
    }

    /// What it was lately; `None`: not measured for long enough since that was asked last.
    pub(super) fn lately(&mut self) -> Option<Takes> {
        match (&mut self.counted, &mut self.phases) {
            (Some(counted), _) => counted.lately(),
            (None, Some(phases)) => phases.lately(),
            (None, None) => None,
        }
    }
}

impl Phases {
    fn new(now_ns: u64, run: Measured) -> Self {
        Self {
            at_ns: now_ns,
            run,
            measuring_ns: None,
            is_detached: false,
            kinds: [Kind::default(); 2],
        }
    }

    fn is_due(mut self, now_ns: u64) -> bool {
        if let Some(since_ns) = self.measuring_ns {
            return now_ns.saturating_sub(since_ns) >= MEASURE_NS;
        }
        self.book(now_ns, self.run);
        let kind = self.kinds[usize::from(self.is_detached)];
        kind.measured_for_ns.saturating_mul(PARTS) <= kind.lasted_ns
    }

    fn book(&mut self, now_ns: u64, run: Measured) {
        let ns = now_ns.saturating_sub(self.at_ns);
        let kind = &mut self.kinds[usize::from(self.is_detached)];
        kind.lasted_ns += ns;
        if self.measuring_ns.is_some() {
            let all_ns = run.all_ns.saturating_sub(self.run.all_ns);
            kind.measured_ns += all_ns;
            kind.measured_for_ns += ns;
            kind.lately.all_ns += all_ns;
            kind.lately.switches_ns += run.switches_ns.saturating_sub(self.run.switches_ns);
            kind.lately_for_ns += ns;
        }
        (self.at_ns, self.run) = (now_ns, run);
    }

    fn lately(&mut self) -> Option<Takes> {
        let told = &mut self.kinds[0];
        (told.lately_for_ns >= LATELY_NS).then(|| {
            let part = |ns: u64| ns as f64 / told.lately_for_ns as f64;
            let Measured {
                all_ns,
                switches_ns,
            } = told.lately;
            let takes = Takes {
                switches: part(switches_ns),
                others: part(all_ns.saturating_sub(switches_ns)),
            };
            (told.lately, told.lately_for_ns) = (Measured::default(), 0);
            takes
        })
    }

    fn estimate(mut self, now_ns: u64, run: Measured) -> Option<u64> {
        self.book(now_ns, run);
        let scaled = self.kinds.iter().filter_map(|kind| {
            let scaled = u128::from(kind.measured_ns) * u128::from(kind.lasted_ns);
            scaled.checked_div(u128::from(kind.measured_for_ns))
        });
        scaled
            .map(|ns| ns as u64)
            .reduce(|sum, ns| sum.saturating_add(ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// A kernel that takes `told` and `detached` ns of each ms, and measures that where it is asked to.
    fn estimated(on_ms: u64, off_ms: u64, told: u64, detached: u64) -> (Phases, u64, u64) {
        let (mut run, mut taken_ns) = (Measured::default(), 0);
        let mut phases = Phases::new(0, run);
        for ms in 0..600_000 {
            let now_ns = ms * MS;
            let is_detached = ms % (on_ms + off_ms) >= on_ms;
            phases.book(now_ns, run);
            phases.is_detached = is_detached;
            // As often as records are taken in.
            if ms % 50 == 0 && phases.is_due(now_ns) {
                phases.measuring_ns = match phases.measuring_ns {
                    Some(_) => None,
                    None => Some(now_ns),
                };
            }
            let takes_ns = if is_detached { detached } else { told };
            taken_ns += takes_ns;
            if phases.measuring_ns.is_some() {
                run.all_ns += takes_ns;
                run.switches_ns += takes_ns - detached;
            }
        }
        let estimate = phases.estimate(600_000 * MS, run).expect("measured");
        (phases, estimate, taken_ns)
    }

    #[test]
    fn pauses_are_scaled_by_what_they_take() {
        for (on_ms, off_ms) in [(2_000, 18_000), (200, 19_800), (10_000, 10_000), (1, 0)] {
            for (told, detached) in [(50_000, 0), (50_000, 2_000), (1_000, 1_000)] {
                let (phases, estimate, taken_ns) = estimated(on_ms, off_ms, told, detached);
                let off = estimate.abs_diff(taken_ns);
                assert!(off <= taken_ns / 100, "{estimate}, not {taken_ns}");
                let kinds = phases.kinds.iter();
                let measured_ns: u64 = kinds.map(|kind| kind.measured_for_ns).sum();
                assert!(measured_ns <= 600_000 * MS / PARTS + 4 * MEASURE_NS);
            }
        }
    }

    #[test]
    fn how_it_is_now_is_told_once() {
        let (mut phases, ..) = estimated(2_000, 18_000, 50_000, 10_000);
        let takes = phases.lately().expect("measured");
        assert!((takes.switches - 0.04).abs() < 0.001, "{takes:?}");
        assert!((takes.others - 0.01).abs() < 0.001, "{takes:?}");
        assert_eq!(phases.lately(), None);
    }

    #[test]
    fn without_a_measurement_there_is_no_estimate() {
        assert_eq!(
            Phases::new(0, Measured::default()).estimate(5 * MS, Measured::default()),
            None
        );
    }
}
