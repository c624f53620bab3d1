//! One look at processes, without a watch: the lines of `dump` and `tasks`.
//!
//! The shape is a snapshot's, as far as a single look can fill it; what needs two looks or the
//! kernel's account is left out.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use super::words::words;
use super::{
    Deadlock, Executor, Frame, Limit, LoopKind, Place, ProcessRole, Python, Role, Task, WaitingFor,
};

words! {
    /// Which command looked.
    #[schemars(rename = "DumpKind")]
    pub enum Kind {
        Dump = "dump",
        /// Only loops and their tasks.
        Tasks = "tasks",
    }
}

/// What one look found.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Dump {
    /// `concmon/1`.
    pub schema: &'static str,
    #[serde(rename = "type")]
    pub kind: Kind,
    /// When the look began.
    pub at_unix_ns: u64,
    pub processes: Vec<Process>,
}

/// One process.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "DumpProcess")]
pub struct Process {
    /// In the PID namespace of the tool.
    pub pid: u32,
    /// Its parent's.
    pub ppid: u32,
    /// When it started.
    pub start_unix_ns: u64,
    /// The kernel's name for it (`comm`).
    pub name: String,
    /// Empty when it could not be read.
    pub cmdline: Vec<String>,
    /// Script or `-m module`.
    pub entry: Option<String>,
    /// What people call it: its name in `multiprocessing`, the title that it gave itself, else the last part
    /// of `entry`, else `name`.
    pub title: Option<String>,
    /// `null`: it is not Python, or it serves others of its program only, as a resource tracker does.
    pub role: Option<ProcessRole>,
    #[serde(flatten)]
    pub place: Place,
    /// Path of the executable; `null` when it could not be read.
    pub executable: Option<String>,
    /// `null`: no interpreter was seen in it.
    pub python: Option<Python>,
    /// Resident memory, bytes.
    pub rss_bytes: Option<u64>,
    /// Mapped memory, bytes: what was reserved, whether or not it is used.
    pub vms_bytes: Option<u64>,
    /// Threads, whether or not they have a row.
    pub threads_count: Option<u64>,
    #[serde(flatten)]
    pub inside: Option<Inside>,
    /// Loops that run, then one row for the tasks of each that does not.
    pub loops: Vec<Loop>,
    /// Reads that failed or were torn beyond retry.
    pub reads_failed: u64,
    pub limits: Vec<Limit>,
}

/// What only a whole dump has.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Inside {
    /// The main interpreter's.
    pub gil: Option<Gil>,
    pub gc: Option<Gc>,
    /// The main thread first.
    pub threads: Vec<Thread>,
    pub executors: Vec<Executor>,
    pub deadlocks: Vec<Deadlock>,
    /// Only where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heap_scan: Option<HeapScan>,
}

/// What a search of the heap found: futures that failed, and that somebody still keeps.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct HeapScan {
    /// How much was searched, bytes.
    pub bytes: u64,
    /// Why not everything was searched.
    pub skipped: Option<String>,
    pub failures: Vec<Failures>,
}

/// Futures of one kind that failed in the same way.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Failures {
    pub kind: FutureKind,
    /// Type name of the exception.
    pub exception: String,
    /// Whether somebody has asked for the outcome; `null`: nothing tells.
    pub retrieved: Option<bool>,
    /// How many.
    pub count: u64,
}

words! {
    /// Classes of futures.
    pub enum FutureKind {
        Future = "asyncio.Future",
        Task = "asyncio.Task",
        Concurrent = "concurrent.futures.Future",
    }
}

/// The main interpreter's GIL.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[schemars(rename = "DumpGil")]
pub struct Gil {
    /// Somebody has it.
    pub locked: bool,
    /// `null` while it is free.
    pub holder_tid: Option<u32>,
    /// How often it went from one thread to another since the process began.
    pub switches: u64,
}

/// The garbage collector since the process began, the youngest generation first.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "DumpGc")]
pub struct Gc {
    /// Collections of each generation.
    pub collections: Vec<u64>,
    /// Objects that were found unreachable, by generation.
    pub collected: Vec<u64>,
    /// A collection runs right now.
    pub collecting: bool,
}

words! {
    /// What a thread does at the moment of the look.
    pub enum Activity {
        /// On a CPU or waiting for one.
        Active = "active",
        Idle = "idle",
        Gil = "waiting_for_gil",
        /// By a signal, a tracer, or the freezer of its cgroup, whatever it did before.
        Stopped = "stopped",
    }
}

/// A thread that runs Python.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "DumpThread")]
pub struct Thread {
    /// The kernel's thread id.
    pub tid: u32,
    /// `threading.get_ident()`.
    pub ident: u64,
    /// Python's name of it.
    pub name: Option<Arc<str>>,
    /// What it is for.
    pub role: Role,
    /// Python's daemon flag.
    pub daemon: Option<bool>,
    /// The function that it began with.
    pub entry: Option<Arc<str>>,
    /// Size of its stack, bytes.
    pub stack_size_bytes: Option<u64>,
    pub state: Option<Activity>,
    /// `null`: for nothing that Python knows.
    pub waiting_for: Option<WaitingFor>,
    /// The innermost frame first.
    pub stack: Arc<[Frame]>,
    pub limits: Vec<Limit>,
}

/// An event loop, or the tasks of one that does not run.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "DumpLoop")]
pub struct Loop {
    /// Its thread; `null`: it does not run in any thread right now.
    pub tid: Option<u32>,
    /// `null`: it does not run, and only its tasks are known.
    pub kind: Option<LoopKind>,
    /// It runs.
    pub running: bool,
    /// asyncio's debug mode.
    pub debug: Option<bool>,
    /// Callbacks in its queue.
    pub ready: Option<u64>,
    /// Timers.
    pub scheduled: Option<u64>,
    /// Of `tasks`, those that are not done.
    pub pending_tasks: Option<u64>,
    /// Of the whole process, since it began.
    pub tasks_created: Option<u64>,
    /// A step longer than this is a stall, ns.
    pub stall_threshold_ns: Option<u64>,
    pub tasks: Vec<Task>,
    pub limits: Vec<Limit>,
}
