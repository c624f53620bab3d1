//! A busy stretch of a loop's thread: what is known of it, and where the steps in it begin and end.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::busy::Busy;
use super::run::Run;
use super::segments::{Activity, Segment, Segments};
use super::step_counter::MAX_GROWTH;
use crate::event::{Sample, SampleKind};

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
    /// Its turns, as far as lag is not booked.
    pub(super) busy: Busy,
    /// Up to where saturation is booked.
    pub(super) judged_ns: u64,
    /// Of the time since then, what stalls took.
    pub(super) stalled_ns: u64,
    pub(super) contributors: BTreeMap<Arc<str>, u64>,
}

/// The last sample of a stretch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Last {
    pub(super) at_ns: u64,
    pub(super) version: Option<u64>,
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
            busy: Busy::new(from_ns),
            judged_ns: from_ns,
            stalled_ns: 0,
            contributors: BTreeMap::new(),
        }
    }

    /// Takes over a segment.
    pub(super) fn push(&mut self, segment: Segment) {
        if !matches!(segment.what, Activity::OnCpu { .. }) {
            self.busy.note_pause(segment.from_ns, segment.to_ns);
        }
        self.segments.push(segment);
    }

    /// Up to where nothing changes any more; `None`: no sample has met it. Not the step that runs: it may become a stall.
    pub(super) fn certain_ns(&self) -> Option<u64> {
        let last = self.last?;
        let run = self.run.as_ref();
        Some(run.map_or(last.at_ns, |run| run.begin_ns.min(last.at_ns)))
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
                is_block,
            });
            let begin_ns = stretch.begin_of(&sample(3_000), 500);
            assert!(begin_ns <= 3_000, "{begin_ns}");
        }
    }
}
