//! The ends of steps and of busy stretches: what becomes certain then.

use super::{BusyTracker, LIGHT_NS, StallCandidate};
use crate::model::timing::busy::Busy;

impl BusyTracker {
    /// The step of the run has ended.
    pub(super) fn end_run(&mut self, end_ns: u64, candidates: &mut Vec<StallCandidate>) {
        let Some(stretch) = &mut self.stretch else {
            return;
        };
        let Some(run) = stretch.run.take() else {
            return;
        };
        let end_ns = end_ns.max(run.last_ns);
        let length = end_ns.saturating_sub(run.begin_ns);
        // Samples must show that it is one step, or it was off the CPU, which is one step's as well.
        let known = (run.sure_ns, run.last_ns);
        let outside_ns = stretch
            .segments
            .off_cpu_outside(run.begin_ns, end_ns, known);
        let proven = known.1.saturating_sub(known.0).saturating_add(outside_ns);
        let is_stall = length >= self.threshold_ns && proven >= length / 2;
        if is_stall || run.last_ns > run.first_ns && run.id.is_some() {
            // More than one sample has met it: it has a length of its own. Longer than the threshold are stalls.
            let length = if is_stall {
                length
            } else {
                length.min(self.threshold_ns)
            };
            self.sums.step.now.record(length, 1);
            self.steps.long(length);
        }
        if !is_stall {
            return;
        }
        stretch.stalled_ns = stretch.stalled_ns.saturating_add(length);
        if (stretch.busy).note_stall(self.kind, run.turn, run.begin_ns, end_ns) {
            self.turns.begun();
        }
        candidates.push(StallCandidate {
            begin_ns: run.begin_ns,
            end_ns,
            cost: stretch.segments.cost(run.begin_ns, end_ns),
            gil_wakers: stretch.segments.gil_wakers(run.begin_ns, end_ns),
            fact: self
                .facts
                .iter()
                .rev()
                .find(|fact| {
                    let id = run.id.as_ref();
                    id.is_some_and(|id| id.was_in(fact.context_version))
                })
                .cloned(),
            run: Some(run),
        });
    }

    /// The busy stretch ends.
    pub(super) fn close(&mut self, end_ns: u64, candidates: &mut Vec<StallCandidate>) {
        if !self.is_loop || self.stretch.as_ref().is_some_and(|stretch| stretch.torn) {
            self.stretch = None;
            return;
        }
        let before = candidates.len();
        self.end_run(end_ns, candidates);
        let Some(stretch) = &mut self.stretch else {
            return;
        };
        let length = end_ns.saturating_sub(stretch.from_ns);
        if length < LIGHT_NS {
            self.light_ns = self.light_ns - self.light_ns / 16 + length / 16;
        }
        // Nobody has seen a step, and most of the time it was off the CPU.
        if candidates.len() == before && stretch.last.is_none() && length >= self.threshold_ns {
            let cost = stretch.segments.cost(stretch.from_ns, end_ns);
            if cost.on_cpu_ns < length / 4 {
                stretch.stalled_ns = stretch.stalled_ns.saturating_add(length);
                (stretch.busy).note_stall(self.kind, None, stretch.from_ns, end_ns);
                self.sums.step.now.record(length, 1);
                self.steps.long(length);
                candidates.push(StallCandidate {
                    begin_ns: stretch.from_ns,
                    end_ns,
                    cost,
                    run: None,
                    gil_wakers: stretch.segments.gil_wakers(stretch.from_ns, end_ns),
                    fact: None,
                });
            }
        }
        self.judge(end_ns);
        let long_ns: u64 = candidates[before..]
            .iter()
            .map(|candidate| candidate.end_ns - candidate.begin_ns)
            .sum();
        if long_ns < length / 2 {
            self.steps.stretch(length - long_ns);
        }
        if let Some(mut stretch) = self.stretch.take() {
            stretch.busy.to_ns = Some(end_ns.max(stretch.from_ns));
            let full = self.turns.close(stretch.busy);
            self.book(full);
        }
    }

    /// Books the lag of stretches that are over.
    pub(super) fn book(&mut self, over: Vec<Busy>) {
        for mut busy in over {
            let (into, to_ns) = (&mut self.sums.lag.now, busy.to_ns.unwrap_or(0));
            (self.lag).book(self.kind, &mut busy, to_ns, self.light_ns, into);
        }
    }

    /// The same for the one that goes on, as far as it is certain.
    pub(super) fn book_open(&mut self) {
        if let Some(stretch) = &mut self.stretch
            && let Some(until_ns) = stretch.certain_ns()
        {
            let (into, busy) = (&mut self.sums.lag.now, &mut stretch.busy);
            (self.lag).book(self.kind, busy, until_ns, self.light_ns, into);
        }
    }

    /// Books saturation of the stretch up to an instant.
    pub(super) fn judge(&mut self, until_ns: u64) {
        let Some(stretch) = &mut self.stretch else {
            return;
        };
        let length = until_ns.saturating_sub(stretch.judged_ns);
        let saturated_ns = length.saturating_sub(stretch.stalled_ns);
        let contributors = std::mem::take(&mut stretch.contributors);
        if saturated_ns >= self.threshold_ns {
            self.sums.saturated(saturated_ns, contributors);
        }
        (stretch.judged_ns, stretch.stalled_ns) = (until_ns, 0);
    }
}
