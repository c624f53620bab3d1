//! Takes a whole watch in, event by event, for views of all of it at once.

use crate::{
    event::Event,
    findings::Judge,
    model::{
        Model, WatchInfo,
        intervals::{Intervals, Sink},
        snapshot::Snapshot,
    },
};

/// Who is given each window of a watch as it ends.
pub(super) trait Windows {
    /// The window, judged.
    fn window(&mut self, snapshot: &Snapshot);
}

/// A watch that is taken in.
pub(super) struct Gather {
    model: Model,
    judge: Judge,
    intervals: Intervals,
}

/// A watch as a whole.
pub(super) struct Gathered {
    /// Judged.
    pub(super) summary: Snapshot,
    /// Finished.
    pub(super) intervals: Intervals,
}

impl Gather {
    pub(super) fn new(info: WatchInfo) -> Self {
        Self {
            intervals: Intervals::new(&info),
            model: Model::new(info),
            judge: Judge::default(),
        }
    }

    /// Takes the next event.
    pub(super) fn apply(&mut self, event: &Event, out: &mut (impl Sink + Windows)) {
        self.model.apply(event);
        self.intervals.apply(event, out);
        if matches!(event, Event::Tick(_)) {
            for stall in self.model.take_stalls() {
                out.stall(&stall);
            }
            let mut snapshot = self.model.snapshot();
            self.judge.judge(&mut snapshot);
            out.window(&snapshot);
        }
    }

    /// No event is left.
    pub(super) fn finish(mut self, out: &mut (impl Sink + Windows)) -> Gathered {
        for stall in self.model.take_stalls() {
            out.stall(&stall);
        }
        self.intervals.finish(out);
        let mut summary = self.model.summary();
        self.judge.judge(&mut summary);
        Gathered {
            summary,
            intervals: self.intervals,
        }
    }
}
