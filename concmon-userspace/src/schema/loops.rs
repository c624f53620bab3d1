//! The row of an event loop: idle, busy, lag, steps, stalls, and whose its time was.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::words::words;
use super::{Address, Cost, Delayed, Frame, Histogram, Limit, Task};

/// An event loop bound to a thread: `wall = idle + busy`, exactly.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Loop {
    /// Its thread.
    pub tid: u32,
    pub kind: LoopKind,
    /// It has not been closed or stopped.
    pub running: bool,
    /// Since it is known, ns.
    pub wall_ns: u64,
    /// Blocked in the selector, ns.
    pub idle_ns: u64,
    /// All else, ns.
    pub busy_ns: u64,
    /// busy / wall, 0 to 1.
    pub utilization: f64,
    /// A step longer than this is a stall, ns.
    pub stall_threshold_ns: Option<u64>,
    /// Callbacks in its queue at the latest look.
    pub ready: Option<u64>,
    /// Timers at the latest look.
    pub scheduled: Option<u64>,
    /// Of `tasks`, those that are not done.
    pub pending_tasks: Option<u64>,
    /// Of the whole process, which other loops of it show, too.
    pub tasks_created: Option<u64>,
    /// The first callbacks in its queue at the latest look, eight at most; those of trio are not read.
    pub queue: Vec<Ready>,
    /// When that was read: looks are shown until there is another; `null`: it was not.
    pub queue_read_unix_ns: Option<u64>,
    /// Of uvloop, whose queue has none of these: what it calls for `add_reader()` and `add_writer()`.
    pub watched: Vec<Ready>,
    /// Callbacks were ready, and its thread slept in the selector all the same; `null`: none is known. The
    /// longest such time of the window.
    pub missed_wakeup: Option<MissedWakeup>,
    /// What existed at the latest look. In a line of a stream only what is new or has changed, unless all
    /// was asked for (`-v`): the first snapshot and the summary are whole.
    pub tasks: Vec<Task>,
    /// Tasks that are as the stream's last snapshot has them, of no cost since, and not in `tasks`; more than 0
    /// only where a snapshot has more than 256 tasks.
    pub tasks_unchanged: u64,
    /// The ids of those that the stream's last snapshot had of this loop, and that are not there any more (or are
    /// not read any more, where `limits` say that not all tasks are). So whoever keeps tasks by id, takes `tasks`
    /// over and drops these, has all of them at each snapshot. Empty in a summary.
    pub tasks_gone: Vec<Address>,
    /// Absent: nothing is sampled.
    #[serde(flatten)]
    pub timing: Option<Timing>,
    /// The step that has lasted past the threshold, and still does; `null`: there is none.
    pub hang: Option<Hang>,
    pub limits: Vec<Limit>,
}

words! {
    /// Whose event loop it is.
    pub enum LoopKind {
        Asyncio = "asyncio",
        Uvloop = "uvloop",
        Trio = "trio",
    }
}

/// A callback that is ready to be called.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Ready {
    /// `module.qualname`; for a task's step, the qualified name of its coroutine. `null`: it could not be
    /// read.
    pub function: Option<String>,
    /// The task whose step it is; `null`: none's.
    pub task: Option<StallTask>,
    /// What it is called for; `null`: a timer, `call_soon()`, or the loop does not tell.
    pub descriptor: Option<Descriptor>,
}

/// A descriptor that a loop watches.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Descriptor {
    /// As the process numbers it.
    pub number: u32,
    /// It was waited for to be writable, else to be readable.
    pub writes: bool,
    /// `socket`, `pipe`, `eventfd`, ..., `file`; `null`: it could not be told.
    pub kind: Option<String>,
}

/// A time in which callbacks were ready, and nobody had woken the loop.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct MissedWakeup {
    /// When they were seen to be ready; they may have been before.
    pub since_unix_ns: u64,
    /// From then until the loop's thread woke, or still sleeps, ns.
    pub asleep_ns: u64,
    /// How often that was seen; looks do not see each time.
    pub count: u64,
    /// What was ready.
    pub ready: Vec<Ready>,
}

/// What samples and slices say of a loop's time.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Timing {
    /// Turns of the loop; `null`: too little was sampled, or trio's, which does not count them.
    pub iterations: Option<u64>,
    /// How late a timer runs that is due at a random instant: one such instant per millisecond. Of asyncio and
    /// uvloop its callback (a task that sleeps goes on a turn later), of trio its task. No stall is longer than the
    /// maximum.
    pub lag: Option<Histogram>,
    /// Lengths of steps: task steps and callbacks. Those longer than the threshold are the stalls.
    pub step: Option<Histogram>,
    /// Busy with task steps, ns; with the next two it sums to the loop's `busy_ns`.
    pub tasks_ns: u64,
    /// Busy with callbacks that are no task's, ns.
    pub callbacks_ns: u64,
    /// Busy with what no sample tells, ns: the loop's own work, and stretches without a sample.
    pub unknown_ns: u64,
    /// The same three, each by where the time went.
    pub busy: BusySplit,
    /// Steps longer than the threshold; whole, also where `stalls` is not.
    pub stalls_count: u64,
    /// Their time, ns; as whole.
    pub stalls_ns: u64,
    /// HTTP requests that these delayed, in sum: one that two of them delayed counts twice. Absent: none is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delayed: Option<Delayed>,
    /// The worst ones, the longest first.
    pub stalls: Vec<Stall>,
    pub saturation: Saturation,
    /// Tasks by name, the most expensive first.
    pub by_name: Vec<ByName>,
    /// Callbacks that are no task's, by function, the most expensive first; estimated.
    pub callbacks: Vec<Callback>,
    /// Fields of this object that are sampled or derived, not counted.
    pub estimated: Vec<&'static str>,
}

/// A loop's busy time by who spent it.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema, PartialEq, Eq)]
pub struct BusySplit {
    /// Steps of tasks.
    pub tasks: Cost,
    /// Callbacks that are no task's.
    pub callbacks: Cost,
    /// What no sample tells.
    pub unknown: Cost,
}

/// Busy stretches above the threshold in which no single step was: many steps in a row.
#[derive(Clone, Debug, Default, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Saturation {
    /// How many stretches.
    pub count: u64,
    /// Their time, ns.
    pub busy_ns: u64,
    /// The longest, ns.
    pub longest_ns: u64,
    /// Who spent it, the most first; estimated.
    pub top: Vec<Contributor>,
}

/// A coroutine or callback, and its estimated part of a saturated loop's time.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Contributor {
    /// Qualified name.
    pub name: String,
    /// Its part, ns.
    pub busy_ns: u64,
    /// Samples that met it.
    pub samples: u64,
}

/// Callbacks of one function that were called for no task.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Callback {
    /// Qualified name of the function.
    pub name: String,
    #[serde(flatten)]
    pub cost: Cost,
    /// Samples that met one of them.
    pub samples: u64,
}

/// One step that kept a loop longer than the threshold.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Stall {
    /// When it began.
    pub at_unix_ns: u64,
    /// How long it was, ns.
    pub duration_ns: u64,
    #[serde(flatten)]
    pub cost: Cost,
    /// Time in the garbage collector, ns, estimated from samples.
    pub collecting_ns: u64,
    pub culprit: Culprit,
    /// `null`: no task's step, or the task was gone before it could be read.
    pub task: Option<StallTask>,
    /// Qualified name of the task's coroutine; of the callback where it is no task's step.
    /// `null`: in neither, e.g. waiting for the GIL on the way out of the selector.
    pub coroutine: Option<String>,
    /// The task that made it an eager one, in the middle of whose own step this one ran. Absent: it was
    /// scheduled by the loop, or its creator was gone before it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creator: Option<StallTask>,
    /// Most of the samples had it; the innermost frame first, down to the step's own.
    pub stack: Vec<Frame>,
    /// Values of the context variables that were asked for, by name.
    pub context: BTreeMap<String, String>,
    /// The span of the user's own trace that the step was in: OpenTelemetry's current one, else what one of those
    /// context variables has. Absent: none is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
    /// What else was waiting meanwhile; `null`: not read in time.
    pub waiting: Option<Waiting>,
    /// HTTP requests that waited meanwhile. Absent: none is known, or they are not looked for (`--no-http`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delayed: Option<Delayed>,
    /// Stacks that show this step.
    pub samples: u64,
    /// Fields of this object that are sampled or derived, not counted.
    pub estimated: Vec<&'static str>,
    pub limits: Vec<Limit>,
}

/// A step that has kept a loop for longer than the threshold, and still does.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Hang {
    /// When it began; where that was before the watch, at the latest.
    pub since_unix_ns: u64,
    /// How long it has lasted, ns; where it began before the watch, at least.
    pub lasting_ns: u64,
    /// It began before the watch.
    pub before_watch: bool,
    /// What took the most of the time.
    pub cause: CulpritKind,
    /// The innermost frame that is not Python's own library; of a wait for the GIL, what its holder runs.
    pub frame: Option<Frame>,
    /// The thread that has the GIL; `null` for other causes, or where it cannot be told.
    pub holder_tid: Option<u32>,
    /// `null`: no task's step, or it could not be read.
    pub task: Option<StallTask>,
    /// Qualified name of the task's coroutine; of the callback where it is no task's step.
    pub coroutine: Option<String>,
    /// As of a stall.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creator: Option<StallTask>,
    /// The innermost frame first, down to the step's own.
    pub stack: Vec<Frame>,
    /// Values of the context variables that were asked for, by name.
    pub context: BTreeMap<String, String>,
    /// As of a stall.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<Trace>,
    /// What else waits meanwhile; `null`: it could not be read.
    pub waiting: Option<Waiting>,
    /// HTTP requests that wait meanwhile, of those that had been read. Absent: none is known, or they are not looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delayed: Option<Delayed>,
    /// Fields of this object that are sampled or derived, not counted.
    pub estimated: Vec<&'static str>,
    pub limits: Vec<Limit>,
}

/// The task whose step a stall was.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct StallTask {
    /// Address, `0x...`.
    pub id: Address,
    /// As the program named it.
    pub name: String,
}

/// A place in a trace (W3C Trace Context).
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Trace {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits; `null`: only the trace is known.
    pub span_id: Option<String>,
    /// Whether the trace is kept; `null`: not known.
    pub sampled: Option<bool>,
}

/// What waited for a stalled loop, at one instant within the stall.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Waiting {
    /// Callbacks in the loop's queue.
    pub ready: Option<u64>,
    /// Timers that were due already.
    pub overdue: Option<u64>,
}

/// What a stall was, in one line's worth of words.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Culprit {
    /// What took the most of the time.
    pub kind: CulpritKind,
    /// Where: the innermost frame, or what the thread that has the GIL runs.
    pub frame: Option<Frame>,
    /// The thread that had the GIL; `null` for other kinds, or where it cannot be told.
    pub holder_tid: Option<u32>,
}

words! {
    /// What a step spent its time on.
    pub enum CulpritKind {
        /// On a CPU.
        Cpu = "cpu",
        /// In the garbage collector.
        Gc = "gc",
        Gil = "gil",
        Lock = "lock",
        Sleep = "sleep",
        Io = "io",
        Poll = "poll",
        Child = "child",
        Disk = "disk",
        /// Waiting for a CPU.
        Runnable = "runnable",
        Stopped = "stopped",
        Other = "other",
    }
}

/// Tasks whose names are alike: `Task-123` counts as its coroutine's qualified name, digits of
/// other names are folded to `#`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ByName {
    /// Their coroutine's where asyncio has named them, else their own with its digits folded to `#`.
    pub name: String,
    /// Existing at the last look.
    pub pending: u64,
    /// Counts and `duration` are `null` where they cannot be exact.
    pub started: Option<u64>,
    /// Ended with a result.
    pub finished: Option<u64>,
    /// Ended with an exception.
    pub failed: Option<u64>,
    /// Were cancelled.
    pub cancelled: Option<u64>,
    /// Have begun, have not ended, and are there no more: nobody kept them. At least: what began in the
    /// last window may be missing, and tasks from before the counting hide as many.
    pub gone: Option<u64>,
    /// From the making to the end.
    pub duration: Option<Histogram>,
    #[serde(flatten)]
    pub cost: Cost,
    /// Samples that met one of them.
    pub samples: u64,
    /// Fields of this object that are sampled or derived, not counted.
    pub estimated: Vec<&'static str>,
    pub limits: Vec<Limit>,
}
