//! Where the turns of a loop begin: some instants are known, the others are spread evenly between these.
//!
//! A turn begins with a busy stretch, and where a sample tells (asyncio, trio). How many have begun between two samples
//! the loop counts (uvloop), or its steps and the callbacks of its turns tell (asyncio), or how old turns are when the
//! clock meets them (trio), which is half of their length on average. Those whose instants are not known are
//! spread over the time between the two samples, whatever stretches that is in. No turn begins in a stall, nor in a
//! long time off the CPU: slices tell whom these delay.

use super::busy::Busy;
use super::step_counter::MAX_GROWTH;
use crate::event::{Iteration, Sample, SampleKind};

/// Stretches that wait for a sample behind them, at most.
const MAX_WAITING: usize = 4_096;
/// What is remembered of how turns were weighs half after so much busy time, ns.
const MEMORY_NS: f64 = 1e9;
/// The same for how old turns were, in samples.
const MEMORY: f64 = 256.0;

/// What a sample tells of turns.
#[derive(Clone, Copy, Debug)]
struct Seen {
    version: Option<u64>,
    turn: Option<Iteration>,
    turns: Option<u32>,
    /// How old its turn was.
    age_ns: u64,
    /// The end of what it shows.
    until_ns: u64,
}

/// Two sums whose past weighs less and less.
#[derive(Clone, Copy, Debug, Default)]
struct Ratio {
    of: f64,
    to: f64,
}

impl Ratio {
    fn add(&mut self, of: f64, to: f64, memory: f64) {
        (self.of, self.to) = (self.of + of, self.to + to);
        if self.to > memory {
            (self.of, self.to) = (self.of / 2.0, self.to / 2.0);
        }
    }

    fn get(&self) -> Option<f64> {
        (self.to > 0.0).then(|| self.of / self.to)
    }
}

/// Goes from sample to sample.
#[derive(Clone, Debug)]
pub(super) struct Turns {
    /// Stretches that are over, in order: how many turns they had, the next sample tells.
    waiting: Vec<Busy>,
    last: Option<Seen>,
    /// Time since the last sample that turns may begin in; in stretches that are over.
    open_ns: u64,
    /// Turns since then whose beginnings are known.
    known: u64,
    /// Turns whose beginnings are not known, per ns.
    rate: Ratio,
    /// How old turns were when the clock met them.
    age: Ratio,
    carry: f64,
}

impl Default for Turns {
    fn default() -> Self {
        Turns {
            waiting: Vec::new(),
            last: None,
            open_ns: 0,
            known: 0,
            rate: Ratio::default(),
            age: Ratio::default(),
            carry: 0.5,
        }
    }
}

impl Turns {
    /// A turn begins at a known instant, of which no sample tells.
    pub(super) fn begun(&mut self) {
        self.known += 1;
    }

    /// What comes belongs to nothing before it.
    pub(super) fn tear(&mut self) {
        self.restart(None);
    }

    fn restart(&mut self, seen: Option<Seen>) {
        (self.last, self.open_ns, self.known, self.carry) = (seen, 0, 0, 0.5);
    }

    /// A stretch is over. Returns those that wait, if they are too many.
    pub(super) fn close(&mut self, busy: Busy) -> Vec<Busy> {
        self.open_ns += self.open_since(&busy, busy.to_ns.unwrap_or(0));
        self.waiting.push(busy);
        match self.waiting.len() < MAX_WAITING {
            true => Vec::new(),
            false => self.take_waiting(),
        }
    }

    /// How much of a stretch turns may begin in that are behind the last sample, up to an instant.
    fn open_since(&self, busy: &Busy, to_ns: u64) -> u64 {
        let last_ns = self.last.map_or(0, |last| last.until_ns);
        busy.open_between(busy.from_ns.max(last_ns), to_ns)
    }

    /// Stretches that are over and wait for a sample, without it.
    pub(super) fn take_waiting(&mut self) -> Vec<Busy> {
        let rate = self.rate.get().unwrap_or(0.0);
        self.spread_waiting(rate)
    }

    fn spread_waiting(&mut self, rate: f64) -> Vec<Busy> {
        let mut waiting = std::mem::take(&mut self.waiting);
        for busy in &mut waiting {
            if let Some(to_ns) = busy.to_ns {
                busy.spread(to_ns, rate, true, &mut self.carry);
            }
        }
        waiting
    }

    /// A sample in a stretch that goes on; what it shows lasts until `until_ns`. `is_same`: it shows the same step
    /// as the one before. Returns the stretches before, whose turns are told now.
    pub(super) fn sample(
        &mut self,
        busy: &mut Busy,
        sample: &Sample,
        is_same: bool,
        until_ns: u64,
        turns_per_step: Option<f64>,
    ) -> Vec<Busy> {
        let start_ns = sample.iteration.map(|turn| turn.start_ns);
        let start_ns = start_ns.filter(|start_ns| busy.is_behind(*start_ns) && !is_same);
        let open_ns = self.open_ns + self.open_since(busy, sample.at_ns);
        let age_ns = sample.iteration.map_or(0, |turn| {
            busy.open_between(turn.start_ns.max(busy.from_ns), sample.at_ns)
        });
        if sample.iteration.is_some() && !is_same && sample.kind == SampleKind::OnCpu {
            self.age.add(age_ns as f64, 1.0, MEMORY);
        }
        let turns = match is_same {
            true => Some(0.0),
            false => self.turns_to(sample, open_ns.saturating_sub(age_ns), turns_per_step),
        };
        let known = self.known + u64::from(start_ns.is_some());
        let rate = match turns {
            // How turns are shows the next one.
            None if self.rate.get().is_none() => None,
            Some(turns) if open_ns > 0 => {
                let others = (turns - known as f64).max(0.0);
                if !is_same {
                    self.rate.add(others, open_ns as f64, MEMORY_NS);
                }
                Some(others / open_ns as f64)
            }
            Some(_) => Some(0.0),
            None => self.rate.get(),
        };
        let mut told = Vec::new();
        if let Some(rate) = rate {
            told = self.spread_waiting(rate);
            let to_ns = start_ns.unwrap_or(sample.at_ns);
            busy.spread(to_ns, rate, start_ns.is_some(), &mut self.carry);
            busy.shown(start_ns, until_ns);
        }
        self.restart(Some(Seen {
            version: sample.context_version,
            turn: sample.iteration,
            turns: sample.turns,
            age_ns,
            until_ns,
        }));
        told
    }

    /// Steps from the last sample's to this one's.
    fn steps_to(&self, sample: &Sample) -> Option<u64> {
        let before = self.last?.version?;
        let grown = sample.context_version?.checked_sub(before)?;
        (grown < MAX_GROWTH).then(|| grown.div_ceil(2))
    }

    /// Turns from the last sample's to this one's, whose turn began `open_ns` behind that one.
    fn turns_to(&self, sample: &Sample, open_ns: u64, per_step: Option<f64>) -> Option<f64> {
        let last = self.last?;
        if let Some((before, now)) = last.turns.zip(sample.turns) {
            let turns = now.wrapping_sub(before);
            return (u64::from(turns) < MAX_GROWTH).then(|| f64::from(turns));
        }
        let turns = last.turn.zip(sample.iteration);
        if turns.is_some_and(|(before, now)| before.start_ns == now.start_ns) {
            return Some(0.0);
        }
        let steps = self.steps_to(sample)? as f64;
        // Of a loop that tells nothing, each step is taken for a turn: it is as late as that, at least.
        let Some((before, now)) = turns else {
            return Some(steps * per_step.unwrap_or(1.0));
        };
        if let Some(((before, now), count)) = before.index.zip(now.index).zip(before.count) {
            // The steps of the two turns that the samples have met are not those of turns between.
            let others = steps - f64::from(count.saturating_sub(before)) - f64::from(now);
            return Some(1.0 + others.max(0.0) * per_step.unwrap_or(1.0));
        }
        if now.index.is_some() || now.count.is_some() || before.count.is_some() {
            return Some(steps * per_step.unwrap_or(1.0));
        }
        // This turn's age tells of the next ones', too. Each has one step at least.
        let age_ns = (2.0 * self.age.get()?).max(last.age_ns as f64).max(1.0);
        let turns = (open_ns as f64 + last.age_ns as f64) / age_ns;
        Some(turns.round().clamp(1.0, steps.max(1.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::lag::Lag;
    use super::*;
    use crate::event::LoopKind;
    use crate::model::fine::Fine;

    const MS: u64 = 1_000_000;

    /// A stretch of so many ms that goes on, with one turn per so many.
    fn stretch(ms: u64, turn_ms: f64) -> Busy {
        let mut busy = Busy::new(0);
        spread(&mut busy, ms, turn_ms);
        busy
    }

    fn spread(busy: &mut Busy, to_ms: u64, turn_ms: f64) {
        busy.spread(to_ms * MS, 1.0 / turn_ms / MS as f64, true, &mut 0.5);
    }

    fn over(mut busy: Busy, ms: u64) -> Busy {
        busy.to_ns = Some(ms * MS);
        busy
    }

    /// Half, 99 % and all of its lag, ms.
    fn lag(kind: LoopKind, mut busy: Busy) -> [f64; 3] {
        let mut into = Fine::default();
        Lag::default().book(kind, &mut busy, u64::MAX, 0, &mut into);
        let report = into.report().expect("something");
        let ms = |ns: Option<u64>| ns.expect("a percentile") as f64 / MS as f64;
        [report.p50_ns, report.p99_ns, report.max_ns].map(ms)
    }

    fn assert_near(found: [f64; 3], truth: [f64; 3]) {
        for (found, truth) in found.into_iter().zip(truth) {
            assert!(
                (found - truth).abs() < 0.5 + truth / 20.0,
                "{found}, not {truth}"
            );
        }
    }

    #[test]
    fn one_long_step_delays_what_is_due_meanwhile() {
        let busy = over(Busy::new(0), 100);
        assert_near(lag(LoopKind::Asyncio, busy), [50.0, 99.0, 100.0]);
    }

    #[test]
    fn in_a_saturated_loop_timers_wait_for_turns() {
        // Turns of 5 ms: the rest of one and one more; trio: a part of one more.
        for (kind, truth) in [
            (LoopKind::Asyncio, [7.5, 9.95, 10.0]),
            (LoopKind::Uvloop, [2.5, 4.95, 5.0]),
            (LoopKind::Trio, [5.0, 9.3, 10.0]),
        ] {
            assert_near(lag(kind, stretch(10_000, 5.0)), truth);
        }
    }

    /// Turns of 1 ms, and 20 ms without a CPU: who is due then or shortly before waits for it.
    #[test]
    fn what_is_due_without_a_cpu_waits_for_one() {
        let mut busy = Busy::new(0);
        busy.note_pause(50 * MS, 70 * MS);
        spread(&mut busy, 200, 1.0);
        let [half, most, longest] = lag(LoopKind::Uvloop, busy);
        assert!((0.4..1.0).contains(&half), "{half}");
        assert!((17.0..21.5).contains(&most), "{most}");
        assert!((19.0..21.5).contains(&longest), "{longest}");
    }

    /// Short turns around a long step say nothing about it.
    #[test]
    fn a_long_step_among_short_turns_delays_all_the_same() {
        let mut busy = stretch(102, 0.5);
        busy.note_stall(LoopKind::Asyncio, None, MS, 101 * MS);
        let busy = over(busy, 102);
        assert_near(lag(LoopKind::Asyncio, busy), [50.5, 99.0, 100.5]);
    }

    /// Three stretches of 4 ms between two samples, twelve turns: four in each.
    #[test]
    fn turns_are_spread_over_all_stretches_between_samples() {
        let mut turns = Turns::default();
        let mut carry = Vec::new();
        for number in 0..3 {
            turns.begun();
            let from_ns = number * 10 * MS;
            let mut busy = Busy::new(from_ns);
            busy.to_ns = Some(from_ns + 4 * MS);
            carry.extend(turns.close(busy));
        }
        assert!(carry.is_empty());
        let rate = (12.0 - turns.known as f64) / turns.open_ns as f64;
        for busy in turns.spread_waiting(rate) {
            assert_near(lag(LoopKind::Uvloop, busy), [0.5, 1.0, 1.0]);
        }
    }

    #[test]
    fn time_counts_once_however_it_is_cut() {
        let (mut lag, mut into) = (Lag::default(), Fine::default());
        for number in 0..10_000 {
            let mut busy = Busy::new(number);
            (busy.idle, busy.to_ns) = ((MS / 10, 0), Some(number));
            lag.book(LoopKind::Asyncio, &mut busy, number, 0, &mut into);
        }
        assert_eq!(into.report().expect("something").count, 1_000);
    }
}
