//! What rules keep of the windows before.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::schema::{Address, Deadlock, Frame, Process, Task, TaskState, Window};

use super::{
    for_want_of_cpu, last_part,
    queues::{Always, MAX_CALLS, Queue},
    sighted::Sighted,
};

/// How far it goes back, ns.
const SPAN_NS: u64 = 10_000_000_000;
/// Windows that are kept at most: 100 ms is the shortest.
const MAX_WINDOWS: usize = 128;
/// Tasks of a kind that are remembered.
const MAX_TASKS: usize = 10_000;
const SECOND_NS: u64 = 1_000_000_000;
/// Turns are counted when samples have come, which may be a window later: over so long they are steady, ns.
const STEADY_NS: u64 = 3 * SECOND_NS;
/// A task that waits for no longer than this polls, ns.
const POLL_NS: u64 = 4_000_000;
const MAX_QUEUES: usize = MAX_TASKS / MAX_CALLS;

/// The turns of a loop, and its time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turns {
    pub(super) count: u64,
    pub(super) busy_ns: u64,
    pub(super) wall_ns: u64,
}

/// One window.
#[derive(Clone, Debug)]
pub(super) struct Past {
    pub(super) duration_ns: u64,
    /// By the loop's thread.
    turns: BTreeMap<u32, Turns>,
    /// Tasks of all loops that are not done; `None`: not known.
    pub(super) pending: Option<u64>,
    /// Work that no executor's worker has begun.
    pub(super) queued: u64,
    /// Waiting for the GIL; `None`: not known.
    pub(super) gil: Option<GilPast>,
}

/// Waiting for the GIL in one window, or several.
#[derive(Clone, Debug, Default)]
pub(super) struct GilPast {
    pub(super) span_ns: u64,
    pub(super) wait_ns: u64,
    /// Waits that ended.
    pub(super) waits: u64,
    /// What threads of Python's ran, ns.
    pub(super) on_cpu_ns: u64,
    /// How long threads were waited for, and how long threads waited, ns.
    pub(super) holders: BTreeMap<u32, u64>,
    pub(super) victims: BTreeMap<u32, u64>,
    /// How long those that had it could not run for want of a CPU, and how long they ran, ns.
    pub(super) runnable: BTreeMap<u32, u64>,
    pub(super) ran: BTreeMap<u32, u64>,
    /// How long threads waited for somebody who is not known, ns.
    pub(super) unknown_ns: u64,
    /// Where those were met most lately that were waited for most in some window.
    pub(super) places: BTreeMap<u32, Frame>,
}

impl GilPast {
    fn of(process: &Process, span_ns: u64) -> Option<Self> {
        let gil = process.gil.as_ref()?;
        let threads = process.threads.iter();
        let python = threads.filter(|thread| thread.ident.is_some());
        let on_cpu_ns = python.map(|thread| thread.ledger.on_cpu_ns);
        let mut past = GilPast {
            span_ns,
            wait_ns: gil.wait_ns?,
            waits: gil.waits.as_ref().map_or(0, |waits| waits.count),
            on_cpu_ns: on_cpu_ns.fold(0, u64::saturating_add),
            places: gil
                .hog
                .iter()
                .filter_map(|hog| Some((hog.tid, hog.frame.clone()?)))
                .collect(),
            ..GilPast::default()
        };
        for pair in &gil.pairs {
            match pair.holder_tid {
                Some(tid) => add(&mut past.holders, tid, pair.wait_ns),
                None => past.unknown_ns = past.unknown_ns.saturating_add(pair.wait_ns),
            }
            add(&mut past.victims, pair.victim_tid, pair.wait_ns);
        }
        for thread in &process.threads {
            if !past.holders.contains_key(&thread.tid) {
                continue;
            }
            past.runnable.insert(thread.tid, thread.ledger.runnable_ns);
            past.ran.insert(thread.tid, thread.ledger.on_cpu_ns);
        }
        Some(past)
    }

    /// Adds an earlier window.
    fn add(&mut self, earlier: &Self) {
        self.span_ns = self.span_ns.saturating_add(earlier.span_ns);
        self.wait_ns = self.wait_ns.saturating_add(earlier.wait_ns);
        self.waits = self.waits.saturating_add(earlier.waits);
        self.on_cpu_ns = self.on_cpu_ns.saturating_add(earlier.on_cpu_ns);
        self.unknown_ns = self.unknown_ns.saturating_add(earlier.unknown_ns);
        for (sums, of) in [
            (&mut self.holders, &earlier.holders),
            (&mut self.victims, &earlier.victims),
            (&mut self.runnable, &earlier.runnable),
            (&mut self.ran, &earlier.ran),
        ] {
            of.iter().for_each(|(tid, ns)| add(sums, *tid, *ns));
        }
        for (tid, place) in &earlier.places {
            self.places.entry(*tid).or_insert_with(|| place.clone());
        }
    }
}

fn add(sums: &mut BTreeMap<u32, u64>, tid: u32, ns: u64) {
    let sum = sums.entry(tid).or_default();
    *sum = sum.saturating_add(ns);
}

/// A task that was found to wait for next to no time whenever it waited.
#[derive(Clone, Copy, Debug)]
pub(super) struct Polling {
    pub(super) sighted: Sighted,
    /// How many looks have shown it waiting; others have met it between two waits.
    pub(super) waits: u32,
    /// For how long it waited last, ns, and by which call.
    pub(super) timeout_ns: u64,
    pub(super) call: Option<&'static str>,
}

/// A task by its loop's thread, its address and its name.
type TaskKey = (u32, Address, String);

/// The threads and tasks of a deadlock, and what each waits for.
type DeadlockKey = Vec<(Option<u32>, Option<Address>, String)>;

/// The last windows of a process, the oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    windows: VecDeque<Past>,
    /// The last seconds (after 1970) in which a loop stood still, however long windows are.
    stalled: BTreeSet<u64>,
    /// The last seconds (after 1970) in which one began to stand still for want of a CPU, and for how long, ns.
    starved: BTreeMap<u64, u64>,
    /// Failed tasks that nobody has asked.
    failed: BTreeMap<TaskKey, Sighted>,
    /// Tasks that stood in `asyncio.sleep(0)` at least once: the looks that have shown them there.
    yielding: BTreeMap<TaskKey, Sighted>,
    polling: BTreeMap<TaskKey, Polling>,
    /// Tasks of the latest window that are not done.
    pending: BTreeSet<TaskKey>,
    /// Names whose tasks come and go, and when one was found to be gone last, ns after 1970. An address is reused at
    /// once, so that one task of such a name cannot be told from the next.
    passing: BTreeMap<String, u64>,
    /// By the loop's thread.
    queues: BTreeMap<u32, Queue>,
    deadlocks: BTreeMap<DeadlockKey, Sighted>,
}

impl History {
    pub(super) fn add(&mut self, process: &Process, window: Window) {
        let pending = process.loops.iter().filter_map(|one| one.pending_tasks);
        let known = process.loops.iter().any(|one| one.pending_tasks.is_some());
        self.windows.push_back(Past {
            duration_ns: window.duration_ns,
            turns: turns(process, window),
            pending: known.then(|| pending.fold(0, u64::saturating_add)),
            queued: process
                .executors
                .iter()
                .filter_map(|one| one.queued)
                .fold(0, u64::saturating_add),
            gil: GilPast::of(process, window.duration_ns),
        });
        while self.windows.len() > MAX_WINDOWS || self.windows.len() > 1 && self.span_ns() > SPAN_NS
        {
            self.windows.pop_front();
        }
        self.add_stalls(process, window);
        self.add_passing(process, window);
        self.add_failed(process);
        self.add_yielding(process);
        self.add_polling(process);
        self.add_queues(process);
        self.add_deadlocks(process);
    }

    fn add_deadlocks(&mut self, process: &Process) {
        let before = std::mem::take(&mut self.deadlocks);
        let tasks = process.loops.iter().flat_map(|one| &one.tasks);
        let Some(looked_unix_ns) = tasks.filter_map(Task::looked_unix_ns).max() else {
            return;
        };
        let now = process.deadlocks.iter().map(|one| {
            let key = deadlock_key(one);
            let was = before.get(&key).copied();
            (key, Sighted::again(was, looked_unix_ns))
        });
        self.deadlocks = now.collect();
    }

    fn add_stalls(&mut self, process: &Process, window: Window) {
        let end_ns = window.start_unix_ns.saturating_add(window.duration_ns);
        let first_s = end_ns.saturating_sub(SPAN_NS) / SECOND_NS;
        let stalls = process.loops.iter().flat_map(|one| {
            let stalls = one.timing.iter().flat_map(|timing| &timing.stalls);
            stalls.filter(|stall| !for_want_of_cpu::is_stall(one, stall))
        });
        for stall in stalls {
            let until_ns = stall.at_unix_ns.saturating_add(stall.duration_ns);
            let from_s = (stall.at_unix_ns / SECOND_NS).max(first_s);
            self.stalled
                .extend(from_s..=(until_ns.min(end_ns) / SECOND_NS));
        }
        let hangs = process.loops.iter().filter_map(|one| one.hang.as_ref());
        for hang in hangs.filter(|hang| !for_want_of_cpu::is_hang(hang)) {
            let from_s = (hang.since_unix_ns / SECOND_NS).max(first_s);
            self.stalled.extend(from_s..=(end_ns / SECOND_NS));
        }
        self.stalled.retain(|second| *second >= first_s);
        for (at_unix_ns, ns) in process.loops.iter().flat_map(for_want_of_cpu::stalls) {
            if !for_want_of_cpu::is_throttled(process, ns) {
                let second = at_unix_ns.min(end_ns) / SECOND_NS;
                let longest_ns = self.starved.entry(second).or_default();
                *longest_ns = ns.max(*longest_ns);
            }
        }
        self.starved.retain(|second, _| *second >= first_s);
    }

    fn add_passing(&mut self, process: &Process, window: Window) {
        let end_ns = window.start_unix_ns.saturating_add(window.duration_ns);
        let tasks = process.loops.iter().flat_map(|one| {
            let named = one.tasks.iter().filter(|task| !is_numbered(task));
            named.map(|task| (one.tid, task))
        });
        let pending = tasks.filter(|(_, task)| !task.is_done());
        let now = pending.take(MAX_TASKS).map(|(tid, task)| key(tid, task));
        let before = std::mem::replace(&mut self.pending, now.collect());
        for (_, _, name) in before.difference(&self.pending) {
            if self.passing.len() < MAX_TASKS || self.passing.contains_key(name) {
                self.passing.insert(name.clone(), end_ns);
            }
        }
        self.passing
            .retain(|_, gone_ns| end_ns.saturating_sub(*gone_ns) <= SPAN_NS);
    }

    fn add_failed(&mut self, process: &Process) {
        let before = std::mem::take(&mut self.failed);
        self.failed = known(process, before, |_, task, was, unix_ns| {
            is_unasked(task).then(|| Sighted::again(was, unix_ns))
        });
    }

    fn add_yielding(&mut self, process: &Process) {
        let before = std::mem::take(&mut self.yielding);
        let passing = &self.passing;
        self.yielding = known(process, before, |_, task, was, unix_ns| {
            let was = was.filter(|_| !passing.contains_key(&task.name));
            match sleeps_zero(task) {
                true => Some(Sighted::again(was, unix_ns)),
                false => was,
            }
        });
    }

    fn add_polling(&mut self, process: &Process) {
        let before = std::mem::take(&mut self.polling);
        let (yielding, passing) = (&self.yielding, &self.passing);
        self.polling = known(
            process,
            before,
            |key, task, was: Option<Polling>, unix_ns| {
                // It lets others run between parts of its work, which may be all that it does.
                let is_out = task.is_done() || yielding.contains_key(key);
                let was = was.filter(|_| !passing.contains_key(&task.name));
                let waits = was.map_or(0, |was| was.waits);
                let (waits, timeout_ns) = match task.timeout_ns {
                    _ if is_out => return None,
                    Some(timeout_ns) if timeout_ns > POLL_NS => return None,
                    // A look counts once.
                    Some(timeout_ns) => match was {
                        Some(was) if was.sighted.last_unix_ns == unix_ns => (waits, timeout_ns),
                        _ => (waits.saturating_add(1), timeout_ns),
                    },
                    None => match was.filter(|_| is_on_its_way(task)) {
                        Some(was) => (waits, was.timeout_ns),
                        // What it waits for shows when it does.
                        None if was.is_none() && task.state == TaskState::Running => (0, 0),
                        None => return None,
                    },
                };
                Some(Polling {
                    sighted: Sighted::again(was.map(|was| was.sighted), unix_ns),
                    waits,
                    timeout_ns,
                    call: polling_call(task).or(was.and_then(|was| was.call)),
                })
            },
        );
    }

    fn add_queues(&mut self, process: &Process) {
        let mut before = std::mem::take(&mut self.queues);
        // A thread may have had other loops in the window: they are over.
        for one in process.loops.iter().filter(|one| one.running) {
            if self.queues.len() >= MAX_QUEUES || self.queues.contains_key(&one.tid) {
                continue;
            }
            let was = before.remove(&one.tid);
            let is_known = |read_unix_ns: &u64| {
                let known = was.as_ref().map(|was| was.read_unix_ns);
                known == Some(*read_unix_ns)
            };
            let queue = match one.queue_read_unix_ns.filter(|ns| !is_known(ns)) {
                Some(read_unix_ns) => Some(Queue::of(one, read_unix_ns, was)),
                None => was,
            };
            self.queues.extend(queue.map(|queue| (one.tid, queue)));
        }
    }

    pub(super) fn span_ns(&self) -> u64 {
        let windows = self.windows.iter().map(|past| past.duration_ns);
        windows.fold(0, u64::saturating_add)
    }

    pub(super) fn windows(&self) -> impl DoubleEndedIterator<Item = &Past> {
        self.windows.iter()
    }

    /// Waiting for the GIL in the last windows, up to `span_ns`.
    pub(super) fn gil(&self, span_ns: u64) -> GilPast {
        let mut sum = GilPast::default();
        for past in self
            .windows
            .iter()
            .rev()
            .filter_map(|past| past.gil.as_ref())
        {
            if sum.span_ns >= span_ns {
                break;
            }
            sum.add(past);
        }
        sum
    }

    /// The turns of the loop that a thread runs, lately; `None`: none is known.
    pub(super) fn turns(&self, tid: u32) -> Option<Turns> {
        let mut sum = Turns::default();
        let windows = self.windows.iter().rev();
        for one in windows.map_while(|past| past.turns.get(&tid)) {
            if sum.wall_ns >= STEADY_NS {
                break;
            }
            sum = Turns {
                count: sum.count.saturating_add(one.count),
                busy_ns: sum.busy_ns.saturating_add(one.busy_ns),
                wall_ns: sum.wall_ns.saturating_add(one.wall_ns),
            };
        }
        (sum.count > 0).then_some(sum)
    }

    /// In how many of the last ten seconds a loop stood still.
    pub(super) fn stalled_seconds(&self) -> usize {
        self.stalled.len()
    }

    /// In how many of the last ten seconds a loop began to stand still for want of a CPU, and for how long at most, ns.
    pub(super) fn starved(&self) -> (usize, u64) {
        let longest_ns = self.starved.values().max();
        (self.starved.len(), longest_ns.copied().unwrap_or(0))
    }

    /// For how long looks have shown a deadlock with tasks in it, ns.
    pub(super) fn deadlock_ns(&self, deadlock: &Deadlock) -> u64 {
        let known = self.deadlocks.get(&deadlock_key(deadlock));
        known.map_or(0, Sighted::known_ns)
    }

    /// For how long a task is known to have failed with nobody asking, ns.
    pub(super) fn failed_ns(&self, tid: u32, task: &Task) -> u64 {
        let failed = self.failed.get(&key(tid, task));
        failed.map_or(0, Sighted::known_ns)
    }

    /// The looks that have shown a task in `asyncio.sleep(0)`; `None`: there are none.
    pub(super) fn yielding(&self, tid: u32, task: &Task) -> Option<Sighted> {
        self.yielding.get(&key(tid, task)).copied()
    }

    /// How a task polls; `None`: it does not, as far as is known.
    pub(super) fn polling(&self, tid: u32, task: &Task) -> Option<Polling> {
        self.polling.get(&key(tid, task)).copied()
    }

    /// Callbacks that are ready whenever one is, in the loop of a thread.
    pub(super) fn always_ready(&self, tid: u32) -> &[Always] {
        let queue = self.queues.get(&tid);
        queue.map_or(&[], |queue| &queue.calls)
    }
}

fn turns(process: &Process, window: Window) -> BTreeMap<u32, Turns> {
    let loops = process.loops.iter().filter(|one| one.running);
    let told = loops.filter_map(|one| {
        let turns = Turns {
            count: one.timing.as_ref()?.iterations.unwrap_or(0),
            busy_ns: one.busy_ns,
            wall_ns: window.duration_ns,
        };
        Some((one.tid, turns))
    });
    told.take(MAX_QUEUES).collect()
}

/// What `next` says of the tasks that there are, by what was known before and when they were looked at.
fn known<T>(
    process: &Process,
    mut before: BTreeMap<TaskKey, T>,
    next: impl Fn(&TaskKey, &Task, Option<T>, u64) -> Option<T>,
) -> BTreeMap<TaskKey, T> {
    let mut now = BTreeMap::new();
    for one in &process.loops {
        for task in &one.tasks {
            let Some(unix_ns) = task.looked_unix_ns() else {
                continue;
            };
            let key = key(one.tid, task);
            let known = next(&key, task, before.remove(&key), unix_ns);
            if let Some(known) = known.filter(|_| now.len() < MAX_TASKS) {
                now.insert(key, known);
            }
        }
    }
    now
}

fn deadlock_key(deadlock: &Deadlock) -> DeadlockKey {
    let members = deadlock.members.iter();
    let key = members.map(|one| (one.tid, one.task, one.waits_for.clone()));
    key.collect()
}

fn key(tid: u32, task: &Task) -> TaskKey {
    (tid, task.id, task.name.clone())
}

/// The innermost call of asyncio's that a task has given a time to.
fn polling_call(task: &Task) -> Option<&'static str> {
    const CALLS: [(&str, &str); 3] = [
        ("sleep", "sleep"),
        ("_wait", "wait"),
        ("wait_for", "wait_for"),
    ];
    let mut frames = task.awaiting.iter().rev();
    frames.find_map(|frame| {
        let is_asyncio = frame.file.ends_with("/asyncio/tasks.py");
        let name = last_part(&frame.function);
        let known = CALLS.iter().find(|(known, _)| is_asyncio && *known == name);
        known.map(|(_, call)| *call)
    })
}

/// Whether its name is its own: asyncio gives numbers to tasks that get no name.
pub(super) fn is_numbered(task: &Task) -> bool {
    let number = task.name.strip_prefix("Task-");
    number.is_some_and(|number| number.parse::<u64>().is_ok())
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

/// Whether a task goes from one wait to the next.
pub(super) fn is_on_its_way(task: &Task) -> bool {
    !task.is_done() && (task.state == TaskState::Running || task.waits_for.is_none())
}
