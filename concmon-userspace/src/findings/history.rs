//! What rules keep of the windows before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::schema::{Address, Descriptor, Process, Ready, Task, TaskState, Window};

use super::last_part;

/// How far it goes back, ns.
const SPAN_NS: u64 = 10_000_000_000;
/// Windows that are kept at most: 100 ms is the shortest.
const MAX_WINDOWS: usize = 128;
/// Tasks of a kind that are remembered.
const MAX_TASKS: usize = 10_000;
const SECOND_NS: u64 = 1_000_000_000;
/// A task that waits for no longer than this polls, ns.
const POLL_NS: u64 = 4_000_000;
/// What asyncio's transports call: they read or write what there is, and stop.
const TRANSPORTS: &str = "Transport.";

/// One window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Past {
    pub(super) duration_ns: u64,
    /// Tasks of all loops that are not done; `None`: not known.
    pub(super) pending: Option<u64>,
    /// Work that no executor's worker has begun.
    pub(super) queued: u64,
}

/// A callback that has been in a loop's queue whenever that was seen not to be empty.
#[derive(Clone, Debug)]
pub(super) struct Always {
    /// The loop's thread.
    tid: u32,
    pub(super) function: Option<String>,
    pub(super) descriptor: Option<Descriptor>,
    /// How often it was seen there, and for how long that is known, ns.
    pub(super) seen: u32,
    pub(super) known_ns: u64,
}

impl Always {
    /// What is known of it at first.
    pub(super) fn of(tid: u32, ready: &Ready) -> Self {
        Always {
            tid,
            function: ready.function.clone(),
            descriptor: ready.descriptor.clone(),
            seen: 1,
            known_ns: 0,
        }
    }

    /// The function without its module and class.
    pub(super) fn short_name(&self) -> &str {
        self.function.as_deref().map_or("", last_part)
    }

    fn is(&self, tid: u32, ready: &Ready) -> bool {
        let same = (&self.function, &self.descriptor) == (&ready.function, &ready.descriptor);
        self.tid == tid && same
    }
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
    /// Tasks that were found to wait for next to no time whenever they waited, and for how long, ns.
    polling: BTreeMap<TaskKey, u64>,
    ready: Vec<Always>,
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
        self.add_polling(process, window.duration_ns);
        self.add_ready(process, window.duration_ns);
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
        for hang in process.loops.iter().filter_map(|one| one.hang.as_ref()) {
            let from_s = (hang.since_unix_ns / SECOND_NS).max(first_s);
            self.stalled.extend(from_s..=(end_ns / SECOND_NS));
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

    fn add_polling(&mut self, process: &Process, ns: u64) {
        let before = std::mem::take(&mut self.polling);
        self.polling = known(process, before, ns, |task, was| match task.timeout_ns {
            Some(timeout_ns) => timeout_ns <= POLL_NS && !task.is_done(),
            // It is on its way from one wait to the next.
            None => was && (task.state == TaskState::Running || task.waits_for.is_none()),
        });
    }

    fn add_ready(&mut self, process: &Process, ns: u64) {
        let before = std::mem::take(&mut self.ready);
        for one in &process.loops {
            let of_loop = before.iter().filter(|always| always.tid == one.tid);
            if one.queue.is_empty() {
                // It was not met filled.
                self.ready.extend(of_loop.map(|always| Always {
                    known_ns: always.known_ns.saturating_add(ns),
                    ..always.clone()
                }));
                continue;
            }
            let calls = one.queue.iter().filter(|ready| ready.task.is_none());
            for ready in calls {
                let of_transport = ready
                    .function
                    .as_ref()
                    .is_some_and(|f| f.contains(TRANSPORTS));
                let is_known = self.ready.iter().any(|known| known.is(one.tid, ready));
                if of_transport || is_known {
                    continue;
                }
                let was = of_loop.clone().find(|always| always.is(one.tid, ready));
                let mut now = Always::of(one.tid, ready);
                if let Some(was) = was {
                    now.seen = was.seen.saturating_add(1);
                    now.known_ns = was.known_ns.saturating_add(ns);
                }
                self.ready.push(now);
            }
        }
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

    /// For how long a task is known to wait for next to no time whenever it waits, ns.
    pub(super) fn polling_ns(&self, tid: u32, task: &Task) -> u64 {
        self.polling.get(&key(tid, task)).copied().unwrap_or(0)
    }

    /// Callbacks that are ready whenever one is, in the loop of a thread.
    pub(super) fn always_ready(&self, tid: u32) -> impl Iterator<Item = &Always> {
        self.ready.iter().filter(move |always| always.tid == tid)
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
