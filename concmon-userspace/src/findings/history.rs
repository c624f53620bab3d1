//! What rules keep of the windows before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::schema::{Address, Process, Task, Window};

/// How far it goes back, ns.
const SPAN_NS: u64 = 10_000_000_000;
/// Windows that are kept at most: 100 ms is the shortest.
const MAX_WINDOWS: usize = 128;
/// Tasks of a kind that are remembered.
const MAX_TASKS: usize = 10_000;
const SECOND_NS: u64 = 1_000_000_000;

/// One window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Past {
    pub(super) duration_ns: u64,
    /// Tasks of all loops that are not done; `None`: not known.
    pub(super) pending: Option<u64>,
    /// Work that no executor's worker has begun.
    pub(super) queued: u64,
}

/// A task by its loop's thread, its address and its name.
type TaskKey = (u32, Address, String);

/// The last windows of a process, the oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    windows: VecDeque<Past>,
    /// The last seconds (after 1970) in which a loop stood still, however long windows are.
    stalled: BTreeSet<u64>,
    /// Failed tasks that nobody has asked, and for how long they are known as such, ns.
    failed: BTreeMap<TaskKey, u64>,
    /// Tasks that stood in `asyncio.sleep(0)` once, and for how long that is known, ns.
    yielding: BTreeMap<TaskKey, u64>,
}

impl History {
    pub(super) fn add(&mut self, process: &Process, window: Window) {
        let pending = process.loops.iter().filter_map(|one| one.pending_tasks);
        let known = process.loops.iter().any(|one| one.pending_tasks.is_some());
        self.windows.push_back(Past {
            duration_ns: window.duration_ns,
            pending: known.then(|| pending.fold(0, u64::saturating_add)),
            queued: process
                .executors
                .iter()
                .filter_map(|one| one.queued)
                .fold(0, u64::saturating_add),
        });
        while self.windows.len() > MAX_WINDOWS || self.windows.len() > 1 && self.span_ns() > SPAN_NS
        {
            self.windows.pop_front();
        }
        self.add_stalls(process, window);
        self.add_failed(process, window.duration_ns);
        self.add_yielding(process, window.duration_ns);
    }

    fn add_stalls(&mut self, process: &Process, window: Window) {
        let end_ns = window.start_unix_ns.saturating_add(window.duration_ns);
        let first_s = end_ns.saturating_sub(SPAN_NS) / SECOND_NS;
        let timings = process.loops.iter().filter_map(|one| one.timing.as_ref());
        for stall in timings.flat_map(|timing| &timing.stalls) {
            let until_ns = stall.at_unix_ns.saturating_add(stall.duration_ns);
            let from_s = (stall.at_unix_ns / SECOND_NS).max(first_s);
            self.stalled
                .extend(from_s..=(until_ns.min(end_ns) / SECOND_NS));
        }
        self.stalled.retain(|second| *second >= first_s);
    }

    fn add_failed(&mut self, process: &Process, ns: u64) {
        let before = std::mem::take(&mut self.failed);
        self.failed = known(process, before, ns, |task, _| is_unasked(task));
    }

    fn add_yielding(&mut self, process: &Process, ns: u64) {
        let before = std::mem::take(&mut self.yielding);
        self.yielding = known(process, before, ns, |task, was| was || sleeps_zero(task));
    }

    pub(super) fn span_ns(&self) -> u64 {
        let windows = self.windows.iter().map(|past| past.duration_ns);
        windows.fold(0, u64::saturating_add)
    }

    pub(super) fn windows(&self) -> impl DoubleEndedIterator<Item = &Past> {
        self.windows.iter()
    }

    /// In how many of the last ten seconds a loop stood still.
    pub(super) fn stalled_seconds(&self) -> usize {
        self.stalled.len()
    }

    /// For how long a task is known to have failed with nobody asking, ns.
    pub(super) fn failed_ns(&self, tid: u32, task: &Task) -> u64 {
        self.failed.get(&key(tid, task)).copied().unwrap_or(0)
    }

    /// For how long a task is known to go through `asyncio.sleep(0)`, ns.
    pub(super) fn yielding_ns(&self, tid: u32, task: &Task) -> u64 {
        self.yielding.get(&key(tid, task)).copied().unwrap_or(0)
    }
}

/// The tasks of which `is` holds now (its second argument: it held before), and for how long it is known.
fn known(
    process: &Process,
    mut before: BTreeMap<TaskKey, u64>,
    ns: u64,
    is: impl Fn(&Task, bool) -> bool,
) -> BTreeMap<TaskKey, u64> {
    let mut now = BTreeMap::new();
    for one in &process.loops {
        for task in &one.tasks {
            let key = key(one.tid, task);
            let was = before.remove(&key);
            if is(task, was.is_some()) && now.len() < MAX_TASKS {
                now.insert(key, was.map_or(0, |known| known.saturating_add(ns)));
            }
        }
    }
    now
}

fn key(tid: u32, task: &Task) -> TaskKey {
    (tid, task.id, task.name.clone())
}

/// Whether a task has failed, and nobody has asked for the exception.
pub(super) fn is_unasked(task: &Task) -> bool {
    task.is_done() && task.retrieved == Some(false)
}

/// Whether a task stands in `asyncio.sleep(0)`.
pub(super) fn sleeps_zero(task: &Task) -> bool {
    task.awaiting
        .last()
        .is_some_and(|frame| frame.function.ends_with("__sleep0"))
}
