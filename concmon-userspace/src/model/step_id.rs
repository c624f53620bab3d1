//! Which step of a loop a sample shows, so that others of the same step are known.

use std::sync::Arc;

use crate::event::Sample;

/// Where in its loop's turn a step is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    /// When the turn began, or its number.
    turn: u64,
    /// Which of the turn's callbacks runs; `None`: not told, so that a task only is known by its place, for it has one
    /// step in a turn.
    index: Option<u32>,
    coroutine: Option<u64>,
    function: Arc<str>,
}

impl Place {
    fn of(sample: &Sample) -> Option<Self> {
        let outermost = sample.stack.step_frames.checked_sub(1)?;
        let (turn, index) = match sample.iteration {
            Some(turn) => (turn.start_ns, turn.index),
            None => (u64::from(sample.turns?), None),
        };
        (index.is_some() || sample.coroutine.is_some()).then_some(())?;
        Some(Place {
            turn,
            index,
            coroutine: sample.coroutine,
            function: Arc::clone(&sample.stack.frames.get(outermost)?.function),
        })
    }
}

/// A step. The version of its thread's context tells it from others, unless it enters contexts by itself
/// (`Context.run`): then its place does, and all versions in between are its own.
#[derive(Clone, Debug)]
pub(crate) struct StepId {
    versions: (u64, u64),
    place: Option<Place>,
}

impl StepId {
    /// `None`: the sample does not tell.
    pub(crate) fn of(sample: &Sample) -> Option<Self> {
        let version = sample.context_version?;
        Some(StepId {
            versions: (version, version),
            place: Place::of(sample),
        })
    }

    /// Whether a sample shows this step, too; if so it is known by what that has shown as well.
    pub(crate) fn shows(&mut self, sample: &Sample) -> bool {
        let other = StepId::of(sample);
        let is_same = other.as_ref().is_some_and(|other| self.is(other));
        if let Some(other) = other.filter(|_| is_same) {
            self.versions.0 = self.versions.0.min(other.versions.0);
            self.versions.1 = self.versions.1.max(other.versions.1);
            self.place = self.place.take().or(other.place);
        }
        is_same
    }

    pub(crate) fn is(&self, other: &StepId) -> bool {
        let in_context = self.versions.0 <= other.versions.1 && other.versions.0 <= self.versions.1;
        in_context || self.place.is_some() && self.place == other.place
    }

    /// Whether the step was in a context of this version.
    pub(crate) fn was_in(&self, version: u64) -> bool {
        (self.versions.0..=self.versions.1).contains(&version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Iteration, Pid, PyFrame, SampleKind, SampledStack, Tid};

    fn sample(version: u64, turn: (u64, Option<u32>), coroutine: Option<u64>) -> Sample {
        let frame = |function: &str| PyFrame {
            function: function.into(),
            file: "app.py".into(),
            line: 1,
        };
        Sample {
            at_ns: 0,
            pid: Pid(7),
            tid: Tid(7),
            kind: SampleKind::OnCpu,
            context_version: Some(version),
            iteration: Some(Iteration {
                start_ns: turn.0,
                index: turn.1,
                count: None,
            }),
            turns: None,
            collecting: false,
            code: None,
            coroutine,
            creator: None,
            stack: Arc::new(SampledStack {
                frames: vec![frame("work"), frame("handler")],
                step_frames: 2,
                in_loop: true,
                truncated: false,
            }),
        }
    }

    #[test]
    fn a_step_that_enters_contexts_is_known_by_its_place() {
        let mut step = StepId::of(&sample(10, (5, Some(2)), None)).expect("a step");
        assert!(step.shows(&sample(13, (5, Some(2)), None)));
        // A version in between is its own, wherever it was seen.
        assert!(step.was_in(11) && step.shows(&sample(12, (0, None), None)));
        assert!(!step.was_in(14));
        for other in [
            sample(14, (5, Some(3)), None),
            sample(14, (6, Some(2)), None),
            // An eager task that it has made.
            sample(14, (5, Some(2)), Some(0xc0)),
        ] {
            assert!(!step.shows(&other), "{other:?}");
        }
    }

    #[test]
    fn without_an_index_tasks_only_are_known_by_their_turn() {
        let mut task = StepId::of(&sample(10, (5, None), Some(0xc0))).expect("a step");
        assert!(task.shows(&sample(12, (5, None), Some(0xc0))));
        assert!(!task.shows(&sample(14, (6, None), Some(0xc0))));
        let mut callback = StepId::of(&sample(10, (5, None), None)).expect("a step");
        assert!(!callback.shows(&sample(12, (5, None), None)));
        let mut own = sample(10, (5, Some(0)), None);
        Arc::make_mut(&mut own.stack).step_frames = 0;
        assert!(
            !StepId::of(&own)
                .expect("a step")
                .shows(&sample(12, (5, Some(0)), None))
        );
    }
}
