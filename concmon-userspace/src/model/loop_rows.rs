//! Rows about the time of event loops: stalls, costs of tasks, what one name costs.

use std::collections::BTreeMap;

use serde::Serialize;

use super::snapshot::{Blocked, Frame, Histogram, Limit};

/// Where a part of a loop's busy time went: `wall = on_cpu + runnable + Σ blocked`.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq, Eq)]
pub struct Cost {
    pub on_cpu_ns: u64,
    pub runnable_ns: u64,
    pub blocked_ns: Blocked,
}

/// What samples and slices say of a loop's time.
#[derive(Clone, Debug, Serialize)]
pub struct Timing {
    /// Turns of the loop; `None`: too little was sampled.
    pub iterations: Option<u64>,
    /// How late a timer runs that is due at a random instant: one such instant per millisecond.
    pub lag: Option<Histogram>,
    /// Lengths of steps: task steps and callbacks.
    pub step: Option<Histogram>,
    /// Busy with task steps; with the next two it sums to the loop's `busy_ns`.
    pub tasks_ns: u64,
    /// Busy with callbacks that are no task's.
    pub callbacks_ns: u64,
    /// Busy with what no sample tells: the loop's own work, and stretches without a sample.
    pub unknown_ns: u64,
    /// The same three, each by where the time went.
    pub busy: BusySplit,
    /// Steps longer than the threshold, and their time; whole, also where `stalls` is not.
    pub stalls_count: u64,
    pub stalls_ns: u64,
    /// The worst ones, the longest first.
    pub stalls: Vec<Stall>,
    pub saturation: Saturation,
    /// Tasks by name, the most expensive first.
    pub by_name: Vec<ByName>,
    /// Fields of this object that are sampled or derived, not counted.
    #[serde(rename = "estimated")]
    pub estimated: Vec<&'static str>,
}

/// A loop's busy time by who spent it.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq, Eq)]
pub struct BusySplit {
    pub tasks: Cost,
    pub callbacks: Cost,
    pub unknown: Cost,
}

/// Busy stretches above the threshold in which no single step was: many steps in a row.
#[derive(Clone, Debug, Default, Serialize, PartialEq, Eq)]
pub struct Saturation {
    pub count: u64,
    pub busy_ns: u64,
    pub longest_ns: u64,
    /// Who spent it, the most first; estimated.
    pub top: Vec<Contributor>,
}

/// A coroutine or callback, and its estimated part of a saturated loop's time.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Contributor {
    pub name: String,
    pub busy_ns: u64,
    pub samples: u64,
}

/// One step that kept a loop longer than the threshold.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Stall {
    pub at_unix_ns: u64,
    pub duration_ns: u64,
    #[serde(flatten)]
    pub cost: Cost,
    /// Time in the garbage collector, estimated from samples.
    pub collecting_ns: u64,
    pub culprit: Culprit,
    /// `None`: no task's step, or the task was gone before it could be read.
    pub task: Option<StallTask>,
    /// Qualified name of the task's coroutine; of the callback where it is no task's step.
    /// `None`: in neither, e.g. waiting for the GIL on the way out of the selector.
    pub coroutine: Option<String>,
    /// Most of the samples had it; the innermost frame first, down to the step's own.
    pub stack: Vec<Frame>,
    /// Values of the context variables that were asked for, by name.
    pub context: BTreeMap<String, String>,
    /// What else was waiting meanwhile; `None`: not read in time.
    pub waiting: Option<Waiting>,
    /// Stacks that show this step.
    pub samples: u64,
    /// Fields of this object that are sampled or derived, not counted.
    pub estimated: Vec<&'static str>,
    pub limits: Vec<Limit>,
}

#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct StallTask {
    /// Address, `0x...`.
    pub id: String,
    pub name: String,
}

/// What waited for a stalled loop, at one instant within the stall.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
pub struct Waiting {
    /// Callbacks in the loop's queue.
    pub ready: Option<u64>,
    /// Timers that were due already.
    pub overdue: Option<u64>,
}

/// What a stall was, in one line's worth of words.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Culprit {
    /// `cpu`, `gc`, `gil`, `lock`, `sleep`, `io`, `poll`, `child`, `disk`, `runnable` (waiting for
    /// a CPU), `stopped`, `other`: what took the most of the time.
    pub kind: &'static str,
    /// Where: the innermost frame, or what the thread that has the GIL runs.
    pub frame: Option<Frame>,
    /// The thread that had the GIL; `None` for other kinds, or where it cannot be told.
    pub holder_tid: Option<u32>,
}

/// Tasks whose names are alike: `Task-123` counts as its coroutine's qualified name, digits of
/// other names are folded to `#`.
#[derive(Clone, Debug, Serialize)]
pub struct ByName {
    pub name: String,
    /// Existing at the last look.
    pub pending: u64,
    /// Counts are `None` where they cannot be exact.
    pub started: Option<u64>,
    pub finished: Option<u64>,
    pub failed: Option<u64>,
    pub cancelled: Option<u64>,
    pub duration: Option<Histogram>,
    #[serde(flatten)]
    pub cost: Cost,
    pub samples: u64,
    pub estimated: Vec<&'static str>,
    pub limits: Vec<Limit>,
}

/// What probes have counted in a process, each one of it.
#[derive(Clone, Debug, Serialize)]
pub struct Exact {
    /// What began before is not counted as started. `None`: there are no probes in the process.
    pub since_unix_ns: Option<u64>,
    /// Tasks by name, the most started first.
    pub tasks: Option<Vec<CountedTasks>>,
    /// `None`: not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pools: Option<Pools>,
    pub limits: Vec<Limit>,
}

/// What probes have counted in the thread pools of a process.
#[derive(Clone, Debug, Serialize)]
pub struct Pools {
    /// `None`: there are no probes in the process.
    pub since_unix_ns: Option<u64>,
    /// Those that are gone included, the most submitted first.
    pub rows: Option<Vec<CountedPool>>,
    pub limits: Vec<Limit>,
}

/// The work of one thread pool.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct CountedPool {
    /// Address of its queue; `None`: not known.
    pub queue: Option<String>,
    /// As [`Executor`](crate::model::snapshot::Executor) has it.
    pub name_prefix: Option<String>,
    pub submitted: u64,
    pub failed: u64,
    /// Failures since the beginning whose exception nobody has asked for, at the end of the window.
    pub unretrieved: u64,
    /// Of those: their exception is gone, or has waited for ten seconds; they became so in the window.
    pub silent: u64,
}

/// Tasks of one thread with names that are alike, see [`ByName`].
#[derive(Clone, Debug, Serialize)]
pub struct CountedTasks {
    pub tid: u32,
    pub name: String,
    /// Made since probes are there, and have begun to run.
    pub started: u64,
    /// How they ended, those that existed before included: with a result, an exception, cancelled.
    pub finished: u64,
    pub failed: u64,
    pub cancelled: u64,
    /// From the making to the end, of those in `started`.
    pub duration: Histogram,
}

/// What a task cost its loop's thread, estimated from samples.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq, Eq)]
pub struct TaskCost {
    #[serde(flatten)]
    pub cost: Cost,
    pub samples: u64,
}

/// Samples of a thread on a CPU, by the code that it ran.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq, Eq)]
pub struct CodeSamples {
    /// The interpreter's own: bytecode, builtins, the C library.
    pub interpreter: u64,
    /// Other libraries', called from Python.
    pub native: u64,
    /// The kernel's, on the thread's behalf.
    pub kernel: u64,
}

/// A rule that holds.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub struct Finding {
    pub rule: &'static str,
    /// `info`, `warning`, `critical`.
    pub severity: &'static str,
    /// One sentence, with the names and numbers that matter.
    pub summary: String,
    pub evidence: BTreeMap<&'static str, serde_json::Value>,
    pub advice: String,
    /// When it began to hold.
    pub since_unix_ns: u64,
    /// For how long it has held; in a summary, in all.
    pub active_ns: u64,
}
