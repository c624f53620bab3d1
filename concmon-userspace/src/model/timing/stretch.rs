//! A busy stretch of a loop's thread: what is known of it, and where the steps in it begin and end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::run::{Lead, Run};
use super::segments::{Activity, Segment, Segments};
use super::step_counter::MAX_GROWTH;
use crate::event::{LoopKind, Sample, SampleKind};

/// Beginnings of turns, and stalls, that are kept of one stretch.
pub(super) const MAX_TURNS: usize = 4_096;
/// Times off the CPU that are shorter are part of what turns take on average, ns.
const PAUSE_NS: u64 = 1_000_000;

/// A stretch without an idle time in it.
#[derive(Clone, Debug)]
pub(super) struct Stretch {
    pub(super) from_ns: u64,
    /// It did not begin when the loop's selector returned: it is the loop's from the first sample on
    /// that shows the loop.
    pub(super) torn: bool,
    pub(super) segments: Segments,
    pub(super) run: Option<Run>,
    /// The last sample in it.
    pub(super) last: Option<Last>,
    pub(super) turns: VecDeque<u64>,
    /// Its stalls: beginnings and ends; those of one turn as one. Those of shorter steps are not known well
    /// enough to count.
    pub(super) steps: Vec<(u64, u64)>,
    /// The turn that the last of these is of.
    pub(super) stalled_turn: Option<u64>,
    /// Turns between its samples, and their time; without those of its stalls.
    pub(super) turned: (f64, u64),
    /// The end of its last stall.
    pub(super) stalled_until_ns: u64,
    /// Up to where lag and saturation are booked.
    pub(super) booked_ns: u64,
    /// How long the loop was idle before it, and then waited for a CPU; not yet booked.
    pub(super) idle: (u64, u64),
    /// Of the time since then, what stalls took.
    pub(super) stalled_ns: u64,
    pub(super) contributors: BTreeMap<Arc<str>, u64>,
    /// Its times off the CPU that are long enough to count: beginnings and ends, in order. No turn ends in one.
    pub(super) pauses: VecDeque<(u64, u64)>,
}

/// The last sample of a stretch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    pub(super) at_ns: u64,
    pub(super) version: Option<u64>,
    pub(super) turns: Option<u32>,
    /// `at_ns` is the end of a block.
    pub(super) is_block: bool,
}

impl Stretch {
    pub(super) fn new(from_ns: u64, torn: bool) -> Self {
        Stretch {
            from_ns,
            torn,
            segments: Segments::default(),
            run: None,
            last: None,
            turns: VecDeque::new(),
            turned: (0.0, 0),
            stalled_until_ns: 0,
            steps: Vec::new(),
            stalled_turn: None,
            booked_ns: from_ns,
            idle: (0, 0),
            stalled_ns: 0,
            contributors: BTreeMap::new(),
            pauses: VecDeque::new(),
        }
    }

    /// Takes over a segment.
    pub(super) fn push(&mut self, segment: Segment) {
        let is_off = !matches!(segment.what, Activity::OnCpu { .. });
        if is_off && segment.ns() >= PAUSE_NS {
            if self.pauses.len() >= MAX_TURNS {
                self.pauses.pop_front();
            }
            self.pauses.push_back((segment.from_ns, segment.to_ns));
        }
        self.segments.push(segment);
    }

    pub(super) fn note_turn(&mut self, sample: &Sample) {
        if let Some(turn) = sample.iteration
            && turn.start_ns > self.from_ns
            && self.turns.back().is_none_or(|last| turn.start_ns > *last)
        {
            if self.turns.len() >= MAX_TURNS {
                self.turns.pop_front();
            }
            self.turns.push_back(turn.start_ns);
        }
    }

    /// Turns from the last sample to this one: as the loop counts them, else as steps make them. What counts
    /// neither (trio) tells when the turn began, and a clock meets one in its middle on average. Of a loop that
    /// tells nothing, each step is taken for a turn: it is as late as that, at least.
    pub(super) fn lead_of(&self, sample: &Sample, turns_per_step: Option<f64>) -> Lead {
        let counted = || {
            let before = self.last?.turns?;
            Some(f64::from(sample.turns?.wrapping_sub(before)))
        };
        let by_steps = |turns: f64| {
            let grown = sample.context_version?.checked_sub(self.last?.version?)?;
            Some(grown as f64 / 2.0 * turns)
        };
        let by_age = || {
            let turn = sample.iteration.filter(|turn| turn.index.is_none())?;
            let is_whole = turn.start_ns >= self.from_ns.max(self.stalled_until_ns);
            (is_whole && sample.kind == SampleKind::OnCpu).then(|| Lead {
                turns: 1.0,
                ns: sample.at_ns.saturating_sub(turn.start_ns).saturating_mul(2),
                by_age: true,
            })
        };
        let since_ns = self.last.map_or(0, |last| last.at_ns);
        let between = |turns: f64| Lead {
            turns: if turns < MAX_GROWTH as f64 {
                turns
            } else {
                0.0
            },
            ns: (sample.at_ns).saturating_sub(since_ns.max(self.stalled_until_ns)),
            by_age: false,
        };
        let known = counted().or_else(|| by_steps(turns_per_step?));
        (known.map(between))
            .or_else(by_age)
            .or_else(|| by_steps(1.0).map(between))
            .unwrap_or_default()
    }

    /// Takes over the turns before a step that has ended; without the time of a stall, which was one turn's.
    pub(super) fn note_lead(&mut self, run: &Run, is_stall: bool) {
        let lead = run.lead;
        let ns = match is_stall {
            true if lead.by_age => return,
            true => lead
                .ns
                .saturating_sub(run.first_ns.saturating_sub(run.begin_ns)),
            false => lead.ns,
        };
        self.turned.0 += lead.turns;
        self.turned.1 = self.turned.1.saturating_add(ns);
    }

    /// Books a step that was a stall.
    pub(super) fn note_stall(
        &mut self,
        kind: LoopKind,
        turn: Option<u64>,
        begin_ns: u64,
        end_ns: u64,
    ) {
        self.stalled_ns = self
            .stalled_ns
            .saturating_add(end_ns.saturating_sub(begin_ns));
        self.stalled_until_ns = end_ns;
        let before = std::mem::replace(&mut self.stalled_turn, turn);
        if let Some(last) = self.steps.last_mut()
            && turn.is_some()
            && before == turn
        {
            // Nothing that is due runs between steps of one turn.
            last.1 = end_ns;
        } else if self.steps.len() < MAX_TURNS {
            self.steps.push((begin_ns, end_ns));
            // Nothing else tells when a turn of uvloop ended.
            if kind == LoopKind::Uvloop {
                self.turns.push_back(end_ns);
            }
        }
    }

    /// Steps from the last sample's to this one's.
    fn steps_to(&self, sample: &Sample) -> Option<u64> {
        let before = self.last?.version?;
        let grown = sample.context_version?.checked_sub(before)?;
        (1..MAX_GROWTH).contains(&grown).then(|| grown.div_ceil(2))
    }

    /// When the step of a sample began that shows another one than the sample before it. `mean_ns` is
    /// the length of steps that are not long. Never behind the sample, which may be one of a block that goes on.
    pub(super) fn begin_of(&self, sample: &Sample, mean_ns: u64) -> u64 {
        self.likely_begin_of(sample, mean_ns).min(sample.at_ns)
    }

    fn likely_begin_of(&self, sample: &Sample, mean_ns: u64) -> u64 {
        let earliest = self.last.map_or(self.from_ns, |last| last.at_ns);
        // Without a number it tells where the loop's own work began, but not how many steps came before this.
        let is_step = sample.stack.step_frames > 0;
        let turn = sample
            .iteration
            .filter(|turn| turn.start_ns >= earliest && turn.start_ns <= sample.at_ns)
            .filter(|turn| turn.index.is_some() || !is_step);
        // From there on, so many steps passed before it: no sample has met them.
        let (from_ns, before) = match (turn, self.last, self.steps_to(sample)) {
            (Some(turn), ..) => (turn.start_ns, f64::from(turn.index.unwrap_or(0))),
            (None, None, _) => return self.from_ns,
            (None, Some(last), Some(steps)) => (last.at_ns, steps as f64 - 0.5),
            (None, Some(last), None) => (last.at_ns, 0.5),
        };
        let elapsed = sample.at_ns.saturating_sub(from_ns) as f64;
        // A step that blocks has begun like the ones before it.
        let alike = elapsed * before / (before + 0.5);
        // One that a clock has met is longer than they are; by how much, only they tell.
        let short = before * mean_ns as f64;
        let is_clear = turn.is_some() || before > 0.5;
        match sample.kind {
            SampleKind::OnCpu if is_clear => from_ns.saturating_add(alike.min(short) as u64),
            _ => from_ns.saturating_add(alike as u64),
        }
    }

    /// Where the step before a sample's ended at the latest.
    pub(super) fn boundary(&self, sample: &Sample, mean_ns: u64) -> u64 {
        let (Some(run), Some(last)) = (&self.run, self.last) else {
            return sample.at_ns;
        };
        let latest = match sample.iteration {
            Some(turn) if turn.start_ns > run.last_ns => turn.start_ns,
            _ => sample.at_ns,
        };
        match self.steps_to(sample) {
            Some(steps) if steps > 1 => {
                let gap = sample.at_ns.saturating_sub(last.at_ns) as f64;
                let alike = gap / (2 * steps) as f64;
                let rest = gap - (steps as f64 - 0.5) * mean_ns as f64;
                let rest = if last.is_block {
                    alike
                } else {
                    alike.max(rest)
                };
                latest.min(last.at_ns.saturating_add(rest as u64))
            }
            _ => latest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Pid, SampledStack, Tid};

    fn sample(at_ns: u64) -> Sample {
        Sample {
            at_ns,
            pid: Pid(100),
            tid: Tid(100),
            kind: SampleKind::OnCpu,
            context_version: Some(4),
            iteration: None,
            turns: None,
            collecting: false,
            code: None,
            coroutine: None,
            creator: None,
            stack: Arc::new(SampledStack::default()),
        }
    }

    /// A block lasts past samples that are met within it.
    #[test]
    fn no_step_begins_behind_its_sample() {
        let mut stretch = Stretch::new(1_000, false);
        for is_block in [true, false] {
            stretch.last = Some(Last {
                at_ns: 9_000,
                version: Some(2),
                turns: None,
                is_block,
            });
            let begin_ns = stretch.begin_of(&sample(3_000), 500);
            assert!(begin_ns <= 3_000, "{begin_ns}");
        }
        let mut run = Run::new(&sample(3_000), 5_000);
        run.lead.ns = 700;
        stretch.note_lead(&run, true);
        assert_eq!(stretch.turned.1, 700);
    }
}
