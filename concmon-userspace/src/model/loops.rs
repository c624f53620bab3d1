//! Event loops: which thread time belongs to them, and their tasks.
//!
//! A loop's wall time is the growth of its thread's account from tick to tick while looks find
//! it running; what the thread was blocked in a selector meanwhile is idle, all else is busy.

use std::collections::{BTreeMap, BTreeSet};

use super::add::Add;
use super::delta::Delta;
use super::http::Http;
use super::rows::{created_limit, loop_kind, loop_limits, ready, watched};
use super::thread::{Thread, ThreadKey};
use super::threads::Threads;
use super::timing::LoopTimes;
use super::window::{Clock, Cumulative, Growth, Scope, limit};
use crate::event::{PyLoop, PyTask, PythonFact, Tid};
use crate::schema::{Cost, Limit, Loop, Seen, Task};

/// Loops kept for one process after they stopped.
const MAX_STOPPED: usize = 64;
/// Threads of the same id that are asked when they lived, the newest first.
const MAX_HOLDERS: usize = 64;

/// Time on a loop's account while somebody looked, ns: `wall = idle + busy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct LoopTime {
    wall_ns: u64,
    idle_ns: u64,
    busy: Cost,
}

impl LoopTime {
    /// The account of a thread, in a loop's terms.
    fn of(thread: &Thread) -> Self {
        let columns = &thread.account.now.totals.columns;
        LoopTime {
            wall_ns: columns.wall_ns().saturating_sub(columns.unobserved_ns()),
            idle_ns: columns.poll_ns(),
            busy: columns.busy(),
        }
    }

    fn plus(&self, other: &Self) -> Self {
        LoopTime {
            wall_ns: self.wall_ns.saturating_add(other.wall_ns),
            idle_ns: self.idle_ns.saturating_add(other.idle_ns),
            busy: {
                let mut busy = self.busy;
                busy.add(&other.busy);
                busy
            },
        }
    }
}

impl Growth for LoopTime {
    fn since(&self, base: &Self) -> Self {
        LoopTime {
            wall_ns: self.wall_ns.saturating_sub(base.wall_ns),
            idle_ns: self.idle_ns.saturating_sub(base.idle_ns),
            busy: self.busy.since(&base.busy),
        }
    }
}

/// What the rows of loops need to know beside the loops themselves.
#[derive(Clone, Copy)]
pub(crate) struct LoopContext<'a> {
    pub(crate) scope: Scope,
    /// The latest look into the process, and until when what it says is known to hold, ns.
    pub(crate) look: Option<&'a PythonFact>,
    pub(crate) look_holds_ns: u64,
    pub(crate) clock: &'a Clock,
    /// The user's threshold for stalls.
    pub(crate) threshold_ns: Option<u64>,
    pub(crate) loop_times: &'a LoopTimes,
    pub(crate) http: &'a Http,
}

const MID_WINDOW: &str = "counted from the end of the window in which it was first seen";
const STOPPED: &str = "not counted between the last look that found it and its end";
const NO_ACCOUNT: &str = "its thread has no account";

#[derive(Clone, Debug)]
struct State {
    time: Cumulative<LoopTime>,
    /// The thread's account up to where the loop's goes; `None`: begin at the next tick.
    mark: Option<LoopTime>,
    running: bool,
    /// What the latest look that found it said.
    seen: PyLoop,
    seen_ns: u64,
    /// When it stopped, in the order of all stops.
    stopped: Option<u64>,
    /// Its last window is over.
    retired: bool,
    /// Why its time is not whole: in the window, and at all.
    window_note: Option<&'static str>,
    note: Option<&'static str>,
}

impl State {
    fn note(&mut self, note: &'static str) {
        self.window_note = Some(note);
        self.note.get_or_insert(note);
    }
}

/// How many tasks were made while the process was watched.
#[derive(Clone, Debug, Default)]
struct Created {
    grown: Cumulative<u64>,
    /// What the interpreter's own count was; `None`: counting begins with what it is next.
    last: Option<u64>,
    seen: bool,
}

impl Created {
    fn look(&mut self, count: u64) {
        let base = self.last.unwrap_or(count);
        self.grown.now = self.grown.now.saturating_add(count.saturating_sub(base));
        self.last = Some(count);
        self.seen = true;
    }

    fn over(&self, scope: Scope) -> Option<u64> {
        self.seen.then(|| self.grown.over(scope))
    }
}

/// The loops of one process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loops {
    loops: BTreeMap<(ThreadKey, u64), State>,
    stops: u64,
    left_out: u64,
    created: Created,
    /// By loop and address.
    tasks: BTreeMap<(u64, u64), KnownTask>,
}

/// What looks have found of a task so far.
#[derive(Clone, Copy, Debug)]
struct KnownTask {
    first_seen_ns: u64,
    /// Since when it waits for the same in the same place; of one that waits for nothing, the latest look.
    wait_ns: u64,
    /// How many samples had met it by the latest look.
    samples: u64,
}

impl Loops {
    /// Takes over how long the tasks of a look have been known, given the look before it.
    pub(crate) fn look(
        &mut self,
        look: &PythonFact,
        before: Option<&PythonFact>,
        loop_times: &LoopTimes,
    ) {
        if let Some(count) = look.loops.iter().find_map(|one| one.tasks_created) {
            self.created.look(count);
        }
        // An address is reused at once, so a task is the same only under the same name.
        let name = |task: &PyTask| (task.name.clone(), task.coroutine.clone());
        let before: BTreeMap<_, _> = before
            .iter()
            .flat_map(|before| &before.tasks)
            .map(|task| ((task.loop_id, task.id), task))
            .collect();
        let known = look.tasks.iter().map(|task| {
            let id = (task.loop_id, task.id);
            let samples = loop_times.task_samples(task.loop_id, task.id);
            let before = before.get(&id).filter(|before| name(before) == name(task));
            let known = before.and_then(|before| Some((before, *self.tasks.get(&id)?)));
            let new = KnownTask {
                first_seen_ns: look.read_ns,
                wait_ns: look.read_ns,
                samples,
            };
            let known = known.map_or(new, |(before, known)| {
                let stays = before.waits_for.is_some()
                    && before.waits_for == task.waits_for
                    && before.awaiting == task.awaiting
                    && known.samples == samples;
                KnownTask {
                    wait_ns: if stays { known.wait_ns } else { look.read_ns },
                    first_seen_ns: known.first_seen_ns,
                    samples,
                }
            });
            (id, known)
        });
        self.tasks = known.collect();
    }

    /// At the end of the window `epoch`: books the growth of the threads' accounts. `look` is
    /// the latest one, if there was one in this window.
    pub(crate) fn settle(
        &mut self,
        threads: &Threads,
        look: Option<&PythonFact>,
        epoch: u64,
        loop_times: &mut LoopTimes,
    ) {
        if let Some(look) = look {
            self.observe(threads, look, epoch);
        }
        for ((key, id), state) in &mut self.loops {
            let Some(thread) = threads.get(*key) else {
                continue;
            };
            if !state.running {
                continue;
            }
            let now = LoopTime::of(thread);
            if let Some(mark) = state.mark {
                let grown = now.since(&mark);
                let polled_ns = loop_times.grow(key.tid, *id, &grown.busy, grown.idle_ns);
                let mut grown = grown;
                grown.idle_ns -= polled_ns;
                state.time.now = state.time.now.plus(&grown);
            }
            state.mark = Some(now);
            if !thread.alive() {
                state.running = false;
                self.stops += 1;
                state.stopped = Some(self.stops);
            }
        }
        self.drop_oldest();
    }

    fn observe(&mut self, threads: &Threads, look: &PythonFact, epoch: u64) {
        let mut found = BTreeSet::new();
        for seen in &look.loops {
            let Some(thread) = thread_at(threads, seen.tid, look.read_ns) else {
                continue;
            };
            if !found.insert((thread.key, seen.id)) {
                continue;
            }
            let state = self.loops.entry((thread.key, seen.id)).or_insert_with(|| {
                let mut state = State {
                    time: Cumulative::default(),
                    mark: None,
                    running: true,
                    seen: seen.clone(),
                    seen_ns: 0,
                    stopped: None,
                    retired: false,
                    window_note: None,
                    note: None,
                };
                if !thread.accounted() {
                    state.note(NO_ACCOUNT);
                } else if thread.first_read_in(epoch) {
                    state.mark = Some(LoopTime::default());
                } else {
                    state.note(MID_WINDOW);
                }
                state
            });
            if !state.running {
                (state.running, state.retired, state.stopped) = (true, false, None);
                state.mark = None;
                state.note(MID_WINDOW);
            }
            state.seen = seen.clone();
            state.seen_ns = look.read_ns;
        }
        // A look that could not go on says nothing about loops that it does not have.
        if look.limits.contains_key("loops") {
            return;
        }
        for (key, state) in &mut self.loops {
            if state.running && !found.contains(key) {
                state.running = false;
                state.note(STOPPED);
                self.stops += 1;
                state.stopped = Some(self.stops);
            }
        }
    }

    /// Another program runs from now on: its count of tasks begins at nothing.
    pub(crate) fn replaced(&mut self) {
        self.created.last = Some(0);
    }

    /// All loops end with the program that ran them.
    pub(crate) fn stop_all(&mut self) {
        for state in self.loops.values_mut().filter(|state| state.running) {
            state.running = false;
            state.note(STOPPED);
            self.stops += 1;
            state.stopped = Some(self.stops);
        }
        self.tasks.clear();
    }

    fn drop_oldest(&mut self) {
        let stops = self.loops.iter().filter(|(_, state)| state.retired);
        let mut stops: Vec<_> = stops.map(|(&key, state)| (state.stopped, key)).collect();
        if stops.len() > MAX_STOPPED {
            stops.sort();
            for (_, key) in &stops[..stops.len() - MAX_STOPPED] {
                self.loops.remove(key);
                self.left_out += 1;
            }
        }
    }

    /// Begins a window.
    pub(crate) fn roll(&mut self) {
        for state in self.loops.values_mut() {
            state.time.roll();
            state.window_note = None;
            state.retired = !state.running;
        }
        self.created.grown.roll();
    }

    /// Adds the time of the window, and the tasks that were made in it.
    pub(crate) fn add_to(&self, delta: &mut Delta) {
        for state in self.loops.values().filter(|state| !state.retired) {
            let time = state.time.over(Scope::Window);
            let of_kind = delta.loops.of(loop_kind(state.seen.kind));
            of_kind.idle_ns.add(&time.idle_ns);
            let busy_ns = time.wall_ns.saturating_sub(time.idle_ns);
            of_kind.busy_ns.add(&busy_ns);
        }
        if let Some(created) = self.created.over(Scope::Window) {
            delta.tasks.seen = true;
            delta.tasks.created.add(&created);
        }
    }

    /// How many loops have no row any more.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The rows: of what ran in the window, or of all loops.
    pub(crate) fn rows(&self, context: &LoopContext<'_>) -> Vec<Loop> {
        let scope = context.scope;
        // The tasks of a loop belong to the row that was seen last.
        let mut latest = BTreeMap::new();
        for ((_, id), state) in &self.loops {
            let seen_ns = latest.entry(*id).or_insert(state.seen_ns);
            *seen_ns = (*seen_ns).max(state.seen_ns);
        }
        let mut tasks: BTreeMap<u64, Vec<&PyTask>> = BTreeMap::new();
        for task in context.look.iter().flat_map(|look| &look.tasks) {
            tasks.entry(task.loop_id).or_default().push(task);
        }
        let shown = self
            .loops
            .iter()
            .filter(|(_, state)| scope == Scope::Whole || !state.retired);
        shown
            .map(|((key, id), state)| {
                let owner = latest.get(id) == Some(&state.seen_ns);
                let look = context.look.filter(|look| owner && look.info.supported);
                let tasks = look.and_then(|_| tasks.remove(id)).unwrap_or_default();
                let context = LoopContext { look, ..*context };
                self.row(key.tid, state, &tasks, &context)
            })
            .collect()
    }

    fn row(&self, tid: Tid, state: &State, tasks: &[&PyTask], context: &LoopContext<'_>) -> Loop {
        let &LoopContext {
            scope,
            look,
            look_holds_ns,
            clock,
            threshold_ns,
            loop_times,
            http,
        } = context;
        let time = state.time.over(scope);
        let busy_ns = time.wall_ns.saturating_sub(time.idle_ns);
        let read_ns = look.map_or(0, |look| look.read_ns.max(look_holds_ns));
        let tasks: Vec<Task> = tasks
            .iter()
            .map(|task| {
                let known = self.tasks.get(&(task.loop_id, task.id)).copied();
                let mut row = Task::of(task, Some(seen(known, read_ns, clock)));
                row.cost = loop_times.task_cost(tid, task.loop_id, task.id, scope);
                if let (Some(wait), Some(known)) = (&mut row.waits_for, known) {
                    wait.since_unix_ns = Some(clock.unix_of(known.wait_ns));
                }
                row
            })
            .collect();
        let pending = tasks.iter().filter(|task| !task.is_done()).count() as u64;
        let tasks_limit = match look {
            None => Some("the interpreter was not read while it existed"),
            Some(look) => look.limits.get("tasks").map(String::as_str),
        };
        let pending_tasks = match tasks_limit {
            None => Some(pending),
            Some(_) => None,
        };
        let stall_threshold_ns = threshold_ns.or(state.seen.stall_threshold_ns);

        let note = match scope {
            Scope::Window => state.window_note,
            Scope::Whole => state.note,
        };
        let mut limits: Vec<Limit> = Vec::new();
        limits.extend(note.map(|note| limit("wall_ns", note)));
        for field in ["pending_tasks", "tasks"] {
            limits.extend(tasks_limit.map(|reason| limit(field, reason.to_owned())));
        }
        let tasks_created = self.created.over(scope).filter(|_| look.is_some());
        limits.extend(loop_limits(
            look,
            &[
                ("ready", state.seen.ready.is_none()),
                ("scheduled", state.seen.scheduled.is_none()),
                ("stall_threshold_ns", stall_threshold_ns.is_none()),
                ("tasks_created", tasks_created.is_none()),
            ],
        ));
        if tasks_created.is_some() {
            limits.extend(created_limit(look));
        }
        let timing = loop_times.row(tid, state.seen.id, scope, look, &mut limits);
        let queue = state.seen.queue.as_ref().filter(|_| look.is_some());
        let queue_read_ns = queue.map(|queue| queue.read_ns);
        let hang = match state.running {
            true => loop_times.hang(tid, state.seen.id, clock, http),
            false => None,
        };
        Loop {
            tid: tid.0,
            kind: loop_kind(state.seen.kind),
            running: state.running,
            wall_ns: time.wall_ns,
            idle_ns: time.idle_ns,
            busy_ns,
            utilization: if time.wall_ns == 0 {
                0.0
            } else {
                busy_ns as f64 / time.wall_ns as f64
            },
            stall_threshold_ns,
            ready: state.seen.ready,
            scheduled: state.seen.scheduled,
            pending_tasks,
            tasks_created,
            queue: look.map_or_else(Vec::new, |look| ready(&state.seen, look)),
            queue_read_unix_ns: queue_read_ns.map(|ns| clock.unix_of(ns)),
            watched: look.map_or_else(Vec::new, |look| watched(&state.seen, look)),
            missed_wakeup: loop_times.missed_wakeup(tid, state.seen.id, scope, clock),
            tasks,
            tasks_unchanged: 0,
            tasks_gone: Vec::new(),
            timing,
            hang,
            limits,
        }
    }
}

fn seen(known: Option<KnownTask>, read_ns: u64, clock: &Clock) -> Seen {
    let first_seen_ns = known.map_or(read_ns, |known| known.first_seen_ns);
    Seen {
        first_seen_unix_ns: clock.unix_of(first_seen_ns),
        age_ns: read_ns.saturating_sub(first_seen_ns),
    }
}

/// The thread that had the id at an instant, as far as is known: the newest that fits.
pub(crate) fn thread_at(threads: &Threads, tid: Tid, ns: u64) -> Option<&Thread> {
    let key = |start_boottime_ns| ThreadKey {
        tid,
        start_boottime_ns,
    };
    let of_id = threads.range(key(0)..=key(u64::MAX));
    of_id
        .rev()
        .take(MAX_HOLDERS)
        .find(|thread| thread.lived_at(ns))
}
