//! How late a timer runs that is due at a random instant: one such instant per millisecond.
//!
//! A timer that is due while the loop is idle waits for the selector, which counts in milliseconds: what
//! is due in the same one runs together, one behind the other.
//! One that is due in a busy stretch waits for the next turn of the loop (`turns.rs`). Then, asyncio: for that turn,
//! for timers come last (what it wakes goes on a turn later still). uvloop: for nothing, timers come first. trio: for
//! those that it puts in front of the timer's task, in an order that is random. At the end of the stretch nothing is
//! left to wait for.

use super::busy::Busy;
use crate::event::LoopKind;
use crate::model::fine::Fine;

/// Between two instants.
const STEP_NS: u64 = 1_000_000;
/// Selectors of loops round up to this (`Lib/selectors.py`, `uv__io_poll`).
const SELECTOR_NS: u64 = 1_000_000;
/// Instants recorded one by one in one stretch; more of them are recorded in groups.
const MAX_INSTANTS: u64 = 4_096;

/// Goes through a loop's time.
#[derive(Clone, Debug, Default)]
pub(super) struct Lag {
    /// Time behind the last instant, ns.
    behind_ns: u64,
    /// Counts idle times, and instants, to spread them evenly.
    idles: u32,
    points: u32,
}

impl Lag {
    /// Books what is due before an instant, as far as it is known when it runs. `light_ns`: what waking up for next
    /// to nothing takes.
    pub(super) fn book(
        &mut self,
        kind: LoopKind,
        busy: &mut Busy,
        until_ns: u64,
        light_ns: u64,
        into: &mut Fine,
    ) {
        let until_ns = until_ns.min(busy.known_ns());
        let from_ns = busy.booked_ns;
        if until_ns <= from_ns && busy.to_ns.is_none() {
            return;
        }
        let (idle_ns, latency_ns) = std::mem::take(&mut busy.idle);
        if idle_ns > 0 {
            let behind_ns = busy.wait_at_begin(self.part(kind));
            self.idle(idle_ns, latency_ns.max(light_ns), behind_ns, into);
        }
        let length = until_ns.saturating_sub(from_ns);
        let count = self.instants(length);
        let points = count.min(MAX_INSTANTS);
        for point in 0..points {
            let share = count / points + u64::from(point < count % points);
            // Not in step with what the loop does every millisecond.
            let phase = spread(self.points, 0.618_034);
            let offset = length as f64 * (point as f64 + phase) / points as f64;
            let due_ns = from_ns.saturating_add(offset as u64);
            let part = self.part(kind);
            into.record(busy.wait(due_ns, part), share);
        }
        // The longest wait of a step is that of what is due when it begins.
        for begin_ns in busy.stalls_between(from_ns, until_ns) {
            into.record(busy.wait(begin_ns, 0.0), 1);
        }
        busy.forget(until_ns);
    }

    /// The loop waited in its selector, and then took `latency_ns` to run again. What was due when it was
    /// woken had to wait for `behind_ns`.
    fn idle(&mut self, ns: u64, latency_ns: u64, behind_ns: u64, into: &mut Fine) {
        let count = self.instants(ns);
        // The instant next to the wakeup; there is less than one where idle times are short.
        let last = count.min(1);
        into.record_evenly(
            latency_ns,
            latency_ns.saturating_add(SELECTOR_NS),
            count - last,
        );
        if last == 0 {
            return;
        }
        self.idles = self.idles.wrapping_add(1);
        // What is due in the same millisecond is due together: half of it comes behind the others.
        let before_ns = (SELECTOR_NS.min(ns) as f64 * spread(self.idles, 0.618_034)) as u64;
        let wait_ns = if self.idles.is_multiple_of(2) {
            before_ns
        } else {
            before_ns.saturating_add(behind_ns)
        };
        into.record(latency_ns.saturating_add(wait_ns), 1);
    }

    fn instants(&mut self, ns: u64) -> u64 {
        let all = self.behind_ns.saturating_add(ns);
        self.behind_ns = all % STEP_NS;
        all / STEP_NS
    }

    /// The part of a turn that the next timer waits for when its turn has come.
    fn part(&mut self, kind: LoopKind) -> f64 {
        self.points = self.points.wrapping_add(1);
        match kind {
            LoopKind::Asyncio => 1.0,
            LoopKind::Uvloop => 0.0,
            LoopKind::Trio => spread(self.points, 0.754_878),
        }
    }
}

/// Numbers in a row, spread evenly from 0 to 1.
fn spread(number: u32, by: f64) -> f64 {
    (f64::from(number) * by).fract()
}
