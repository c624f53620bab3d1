//! How late a timer runs that is due at a random instant: one such instant per millisecond.
//!
//! A timer that is due while the loop is idle waits for the selector, which counts in milliseconds: what
//! is due in the same one runs together, one behind the other.
//! One that is due in a busy stretch waits for the next turn of the loop. Then, asyncio: for that turn, for
//! timers come last, and what it wakes waits for one more (a task that sleeps is woken by a callback, and
//! goes on in the turn after that). uvloop: for nothing, timers come first. trio: for those that it puts in
//! front of the task, in an order that is random. At the end of the stretch nothing is left to wait for. Where turns are
//! known on average only, long times off the CPU are no part of that: slices tell whom they delay.

use super::fine::Fine;
use crate::event::LoopKind;

/// Between two instants.
const STEP_NS: u64 = 1_000_000;
/// Selectors of loops round up to this (`Lib/selectors.py`, `uv__io_poll`).
const SELECTOR_NS: u64 = 1_000_000;
/// Turns of asyncio that a sleeping task waits for behind the one that runs when its time comes.
const TURNS: f64 = 2.0;
/// Instants recorded one by one in one stretch; more of them are recorded in groups.
const MAX_INSTANTS: u64 = 256;

/// Goes through a loop's time.
#[derive(Clone, Debug, Default)]
pub(super) struct Lag {
    /// Time behind the last instant, ns.
    behind_ns: u64,
    /// Counts idle times, to spread instants evenly.
    turn: u32,
}

/// A busy stretch, or a part of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Busy<'a> {
    pub(super) kind: LoopKind,
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
    /// The stretch goes on behind `to_ns`.
    pub(super) goes_on: bool,
    /// Beginnings of turns that samples have seen, in order.
    pub(super) turns: &'a [u64],
    /// How long turns between samples were on average, ns.
    pub(super) turn_ns: Option<u64>,
    /// Beginnings and ends of long steps, in order: no turn ends in them.
    pub(super) steps: &'a [(u64, u64)],
    /// Beginnings and ends of long times off the CPU, in order: no turn ends in them, and the mean of turns does not tell.
    pub(super) pauses: &'a [(u64, u64)],
}

impl Lag {
    /// The loop waited in its selector, and then took `latency_ns` to run again. What was due when it was
    /// woken had to wait for `behind_ns`.
    pub(super) fn idle(&mut self, ns: u64, latency_ns: u64, behind_ns: u64, into: &mut Fine) {
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
        self.turn = self.turn.wrapping_add(1);
        // What is due in the same millisecond is due together: half of it comes behind the others.
        let before_ns =
            (SELECTOR_NS.min(ns) as f64 * (f64::from(self.turn) * 0.618_034).fract()) as u64;
        let wait_ns = if self.turn.is_multiple_of(2) {
            before_ns
        } else {
            before_ns.saturating_add(behind_ns)
        };
        into.record(latency_ns.saturating_add(wait_ns), 1);
    }

    pub(super) fn busy(&mut self, busy: Busy<'_>, into: &mut Fine) {
        let length = busy.to_ns.saturating_sub(busy.from_ns);
        let count = self.instants(length);
        let points = count.min(MAX_INSTANTS);
        for point in 0..points {
            let share = count / points + u64::from(point < count % points);
            let offset = u128::from(length) * u128::from(2 * point + 1) / u128::from(2 * points);
            let due_ns = busy.from_ns + offset as u64;
            into.record(busy.wait(due_ns, point), share);
        }
        // The longest wait of a step is that of what is due when it begins.
        for (begin_ns, _) in busy.steps {
            if (busy.from_ns..busy.to_ns).contains(begin_ns) {
                into.record(busy.wait(*begin_ns, 0), 1);
            }
        }
    }

    fn instants(&mut self, ns: u64) -> u64 {
        let all = self.behind_ns.saturating_add(ns);
        self.behind_ns = all % STEP_NS;
        all / STEP_NS
    }
}

impl Busy<'_> {
    /// How long a timer waits that is due then.
    pub(super) fn wait(&self, due_ns: u64, point: u64) -> u64 {
        let to_end = self.to_ns.saturating_sub(due_ns);
        let next = self.turns.partition_point(|turn| *turn <= due_ns);
        let begin = next
            .checked_sub(1)
            .map_or(self.from_ns, |turn| self.turns[turn]);
        let end = self.turns.get(next).copied().unwrap_or(self.to_ns);
        let step = self.steps.partition_point(|(_, end)| *end <= due_ns);
        let step = self.steps.get(step).filter(|(begin, _)| *begin <= due_ns);
        let behind = self.behind(point);
        let wait = match self.turn_ns {
            // The turn that it is due in ends with the step at the earliest.
            Some(turn_ns) if step.is_some() => {
                let rest_ns = step.map_or(0, |(_, end)| end.saturating_sub(due_ns));
                rest_ns.saturating_add((turn_ns as f64 * behind) as u64)
            }
            // Which turns come is not known yet.
            None if step.is_some() && self.goes_on => {
                step.map_or(0, |(_, end)| end.saturating_sub(due_ns))
            }
            Some(turn_ns) if several(turn_ns, begin, end) => {
                // The phases of the instants are spread evenly.
                let phase = (point as f64 * 0.618_034).fract();
                self.with_pauses(due_ns, (turn_ns as f64 * (phase + behind)) as u64)
            }
            _ => {
                let (mut until_ns, mut left, mut pair) = (end, behind, next);
                while left > 0.0 {
                    let part = left.min(1.0);
                    let seen = self.turns.get(pair).zip(self.turns.get(pair + 1));
                    let turn_ns = match seen {
                        Some((begin, end)) => self.one_turn(*begin, *end),
                        // The turns that come are like this one.
                        None if self.goes_on => end.saturating_sub(begin),
                        None => self.to_ns.saturating_sub(until_ns),
                    };
                    until_ns = until_ns.saturating_add((turn_ns as f64 * part) as u64);
                    (left, pair) = (left - part, pair + 1);
                }
                until_ns.saturating_sub(due_ns)
            }
        };
        if self.goes_on { wait } else { wait.min(to_end) }
    }

    /// A wait for turns of mean length, with the times off the CPU that it meets.
    fn with_pauses(&self, due_ns: u64, wait_ns: u64) -> u64 {
        let first = self.pauses.partition_point(|(_, end)| *end <= due_ns);
        let mut until_ns = due_ns.saturating_add(wait_ns);
        for (begin_ns, end_ns) in &self.pauses[first..] {
            if *begin_ns >= until_ns {
                break;
            }
            let from_ns = due_ns.max(*begin_ns);
            until_ns = until_ns.saturating_add(end_ns.saturating_sub(from_ns));
        }
        until_ns.saturating_sub(due_ns)
    }

    /// Turns that it waits for when its turn has come.
    fn behind(&self, point: u64) -> f64 {
        match self.kind {
            LoopKind::Asyncio => TURNS,
            LoopKind::Uvloop => 0.0,
            // Spread evenly, and not in step with the phases.
            LoopKind::Trio => (point as f64 * 0.754_878).fract(),
        }
    }

    /// How long the first turn was between two beginnings that samples have seen.
    fn one_turn(&self, begin_ns: u64, end_ns: u64) -> u64 {
        let has_step = (self.steps.iter()).any(|step| step.0 < end_ns && step.1 > begin_ns);
        match self.turn_ns {
            Some(turn_ns) if !has_step && several(turn_ns, begin_ns, end_ns) => turn_ns,
            _ => end_ns.saturating_sub(begin_ns),
        }
    }
}

/// Several turns passed between two beginnings that samples have seen.
fn several(turn_ns: u64, begin_ns: u64, end_ns: u64) -> bool {
    turn_ns.saturating_mul(3) < end_ns.saturating_sub(begin_ns).saturating_mul(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn percentiles(into: &Fine) -> (f64, f64) {
        let report = into.report().expect("something");
        let ms = |ns: Option<u64>| ns.expect("a percentile") as f64 / MS as f64;
        (ms(report.p50_ns), ms(report.p99_ns))
    }

    #[test]
    fn one_long_step_delays_what_is_due_meanwhile() {
        let mut into = Fine::default();
        let busy = Busy {
            kind: LoopKind::Asyncio,
            from_ns: 0,
            to_ns: 100 * MS,
            goes_on: false,
            turns: &[],
            turn_ns: None,
            steps: &[],
            pauses: &[],
        };
        Lag::default().busy(busy, &mut into);
        let (half, most) = percentiles(&into);
        assert!((48.0..52.0).contains(&half), "{half}");
        assert!((97.0..101.0).contains(&most), "{most}");
    }

    #[test]
    fn in_a_saturated_loop_timers_wait_for_turns() {
        // Turns of 5 ms: the rest of one and two more.
        let mut into = Fine::default();
        let busy = Busy {
            kind: LoopKind::Asyncio,
            from_ns: 0,
            to_ns: 10_000 * MS,
            goes_on: true,
            turns: &[],
            turn_ns: Some(5 * MS),
            steps: &[],
            pauses: &[],
        };
        Lag::default().busy(busy, &mut into);
        let (half, most) = percentiles(&into);
        assert!((12.0..13.0).contains(&half), "{half}");
        assert!((14.5..15.1).contains(&most), "{most}");
    }

    /// Of turns of 5 ms samples see every second, now and then one more.
    #[test]
    fn turns_that_no_sample_saw_are_no_part_of_one() {
        let mut into = Fine::default();
        let turns: Vec<u64> = (0..1_000)
            .filter(|turn| turn % 2 == 0 || turn % 10 == 1)
            .map(|turn| turn * 5 * MS)
            .collect();
        let busy = Busy {
            kind: LoopKind::Asyncio,
            from_ns: 0,
            to_ns: 5_000 * MS,
            goes_on: true,
            turns: &turns,
            turn_ns: Some(5 * MS),
            steps: &[],
            pauses: &[],
        };
        Lag::default().busy(busy, &mut into);
        let (half, most) = percentiles(&into);
        assert!((12.0..13.0).contains(&half), "{half}");
        assert!((14.5..15.1).contains(&most), "{most}");
    }

    /// Turns of 1 ms, and 20 ms without a CPU: who is due then or shortly before waits for it.
    #[test]
    fn what_is_due_without_a_cpu_waits_for_one() {
        let mut into = Fine::default();
        let busy = Busy {
            kind: LoopKind::Uvloop,
            from_ns: 0,
            to_ns: 200 * MS,
            goes_on: true,
            turns: &[],
            turn_ns: Some(MS),
            steps: &[],
            pauses: &[(50 * MS, 70 * MS)],
        };
        Lag::default().busy(busy, &mut into);
        let (half, most) = percentiles(&into);
        assert!((0.5..1.0).contains(&half), "{half}");
        assert!((16.0..21.5).contains(&most), "{most}");
    }

    /// Short turns around a long step say nothing about it.
    #[test]
    fn a_long_step_among_short_turns_delays_all_the_same() {
        let mut into = Fine::default();
        let busy = Busy {
            kind: LoopKind::Asyncio,
            from_ns: 0,
            to_ns: 102 * MS,
            goes_on: false,
            turns: &[],
            turn_ns: Some(MS / 10),
            steps: &[(MS, 101 * MS)],
            pauses: &[],
        };
        Lag::default().busy(busy, &mut into);
        let (half, most) = percentiles(&into);
        assert!((48.0..53.0).contains(&half), "{half}");
        assert!((97.0..102.0).contains(&most), "{most}");
    }

    #[test]
    fn time_counts_once_however_it_is_cut() {
        let (mut lag, mut into) = (Lag::default(), Fine::default());
        for _ in 0..10_000 {
            lag.idle(MS / 10, 0, 0, &mut into);
        }
        assert_eq!(into.report().expect("something").count, 1_000);
    }
}
