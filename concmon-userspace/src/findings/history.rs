//! What rules keep of the windows before.

use std::collections::VecDeque;

use crate::model::snapshot::Process;

/// How far it goes back, ns.
const SPAN_NS: u64 = 10_000_000_000;
/// Windows that are kept at most: 100 ms is the shortest.
const MAX_WINDOWS: usize = 128;

/// One window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Past {
    pub(super) duration_ns: u64,
    pub(super) stalled: bool,
    /// Tasks of all loops that are not done; `None`: not known.
    pub(super) pending: Option<u64>,
    /// Work that no executor's worker has begun.
    pub(super) queued: u64,
}

/// The last windows of a process, the oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct History(VecDeque<Past>);

impl History {
    pub(super) fn add(&mut self, process: &Process, duration_ns: u64) {
        let pending = process.loops.iter().filter_map(|one| one.pending_tasks);
        let known = process.loops.iter().any(|one| one.pending_tasks.is_some());
        self.0.push_back(Past {
            duration_ns,
            stalled: process
                .loops
                .iter()
                .filter_map(|one| one.timing.as_ref())
                .any(|timing| timing.stalls_count > 0),
            pending: known.then(|| pending.sum()),
            queued: process.executors.iter().filter_map(|one| one.queued).sum(),
        });
        while self.0.len() > MAX_WINDOWS || self.0.len() > 1 && self.span_ns() > SPAN_NS {
            self.0.pop_front();
        }
    }

    pub(super) fn span_ns(&self) -> u64 {
        self.0.iter().map(|past| past.duration_ns).sum()
    }

    pub(super) fn windows(&self) -> impl DoubleEndedIterator<Item = &Past> {
        self.0.iter()
    }
}
