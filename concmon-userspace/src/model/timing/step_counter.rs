//! How many steps a loop made, and how long they were: by the growth of its context's version.

use super::sums::Sums;
use crate::event::Sample;

/// How much the version can grow between two samples, at most: twice for each step.
pub(super) const MAX_GROWTH: u64 = 200_000_000;
/// Stretches between two samples that are told apart.
const MAX_LENGTHS: usize = 4_096;

/// Counts the steps of one thread.
#[derive(Clone, Debug, Default)]
pub(super) struct StepCounter {
    /// Busy time of whole stretches since steps were counted last.
    lengths: Vec<u64>,
    /// Where steps were counted last: context version, and busy time.
    counted: Option<(u64, u64)>,
    /// Long steps that ended since then: how many, and their time.
    long: (u64, u64),
    /// Other steps, and their time.
    short: u64,
    short_ns: u64,
    /// 1 / (callbacks per turn), averaged over turns.
    turns_per_step: Option<f64>,
    /// The loop's own count of its turns, where steps were counted last.
    turns: Option<u32>,
}

impl StepCounter {
    /// Counts the steps since the last sample. Of those that no sample has shown to be longer, none was longer
    /// than `most_ns`. `is_same`: it shows the same step as the one before, which may have entered contexts since.
    pub(super) fn sample(
        &mut self,
        sample: &Sample,
        is_same: bool,
        busy_ns: u64,
        most_ns: u64,
        sums: &mut Sums,
    ) {
        let Some(version) = sample.context_version else {
            return;
        };
        if let Some(count) = sample.iteration.and_then(|turn| turn.count) {
            let one = 1.0 / f64::from(count.clamp(1, 1_000_000));
            // Long turns are sampled more often: the mean of the reciprocals makes up for it.
            self.turns_per_step = Some(match self.turns_per_step {
                Some(known) => known * 0.95 + one * 0.05,
                None => one,
            });
        }
        let turns = match (
            std::mem::replace(&mut self.turns, sample.turns),
            sample.turns,
        ) {
            (Some(before), Some(now)) => Some(u64::from(now.wrapping_sub(before))),
            _ => None,
        };
        if let Some(turns) = turns.filter(|turns| *turns < MAX_GROWTH) {
            sums.iterations_milli.now = (sums.iterations_milli.now).saturating_add(turns * 1_000);
        }
        let Some((before, before_ns)) = self.counted.replace((version, busy_ns)) else {
            return;
        };
        let steps = match version.checked_sub(before) {
            Some(grown) if grown < MAX_GROWTH => grown.div_ceil(2),
            // Another thread state, or noise.
            _ => {
                self.long = (0, 0);
                return;
            }
        };
        if steps == 0 || is_same {
            // It is counted, with all of its time, when it has ended.
            self.counted = Some((version, before_ns));
            return;
        }
        let busy_ns = busy_ns.saturating_sub(before_ns);
        let (long, long_ns) = std::mem::take(&mut self.long);
        let others = steps.saturating_sub(long);
        let short_ns = busy_ns.saturating_sub(long_ns);
        if others > 0 {
            self.short += others;
            self.short_ns = self.short_ns.saturating_add(short_ns);
        }
        self.record(others, short_ns, most_ns, sums);
        if let (None, Some(turns)) = (turns, self.turns_per_step) {
            sums.iterations_milli.now += (steps as f64 * turns * 1e3) as u64;
        }
    }

    /// Books `count` steps that together took `ns`, in as many stretches as there were.
    fn record(&mut self, count: u64, ns: u64, most_ns: u64, sums: &mut Sums) {
        let lengths = std::mem::take(&mut self.lengths);
        let into = &mut sums.step.now;
        let all = lengths.len() as u64;
        if count == 0 {
            return;
        }
        if all == 0 || count < all {
            into.record((ns / count).min(most_ns), count);
            return;
        }
        // Alike in each stretch: one that took long has long steps.
        for (index, length) in (0..).zip(&lengths) {
            let steps = count / all + u64::from(index < count % all);
            into.record((length / steps).min(most_ns), steps);
        }
    }

    /// A step that took long has ended; it has a length of its own.
    pub(super) fn long(&mut self, ns: u64) {
        self.long.0 += 1;
        self.long.1 = self.long.1.saturating_add(ns);
    }

    /// A busy stretch has ended; `ns` is what its steps took, long ones aside.
    pub(super) fn stretch(&mut self, ns: u64) {
        if self.lengths.len() < MAX_LENGTHS {
            self.lengths.push(ns);
        }
    }

    /// The mean length of steps that are not long.
    pub(super) fn mean_ns(&self) -> u64 {
        self.short_ns.checked_div(self.short).unwrap_or(0)
    }

    pub(super) fn turns_per_step(&self) -> Option<f64> {
        self.turns_per_step
    }

    /// Slices are missing: the next sample begins anew.
    pub(super) fn tear(&mut self) {
        self.lengths.clear();
        self.counted = None;
        self.turns = None;
    }
}
