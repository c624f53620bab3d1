//! What the model is fed: every input of a watch as one owned, typed enum.
//!
//! Sources produce events; nothing else enters the model. All instants are nanoseconds of
//! `CLOCK_MONOTONIC`. All process and thread ids are those of the host's PID namespace, which the tool
//! runs in: the kernel's own ids are taken as they come.
//!
//! Events are kept in captures by the names of their fields. A field that is added must be an
//! `Option` or have `#[serde(default)]`, so that older captures can be read; none is renamed.

mod shared;

use std::{collections::BTreeMap, sync::Arc};

use concmon_ebpf::{HIST_BUCKETS, cause};
use serde::{Deserialize, Serialize};
use shared::at_most;

/// A process id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pid(pub u32);

/// A thread id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tid(pub u32);

impl std::fmt::Display for Pid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::fmt::Display for Tid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One input of the model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Event {
    Slice(Slice),
    Sample(Box<Sample>),
    Step(Box<StepFact>),
    Fork(Fork),
    Exec(Exec),
    Exit(Exit),
    Loss(Loss),
    Ledger(Box<LedgerFact>),
    Process(Box<ProcessFact>),
    Python(Arc<PythonFact>),
    Exact(Box<ExactFact>),
    Pools(Box<PoolsFact>),
    Monitor(Box<MonitorFact>),
    /// No more records will come: only facts, and a last tick.
    End,
    /// Everything up to `at_ns` has been delivered: the window ends here.
    Tick(Tick),
}

impl Event {
    /// It is something that happened, no fact that was read.
    pub const fn happens(&self) -> bool {
        matches!(
            self,
            Event::Slice(_)
                | Event::Sample(_)
                | Event::Fork(_)
                | Event::Exec(_)
                | Event::Exit(_)
                | Event::Loss(_)
        )
    }

    /// The instant (`CLOCK_MONOTONIC`, ns) at which the event takes its place among others: the
    /// end of a slice or of a loss, the read of a fact. `None` for what has no place of its own.
    pub fn at_ns(&self) -> Option<u64> {
        Some(match self {
            Event::Slice(slice) => slice.out_ns,
            Event::Sample(sample) => sample.at_ns,
            Event::Step(fact) => fact.read_ns,
            Event::Fork(fork) => fork.at_ns,
            Event::Exec(exec) => exec.at_ns,
            Event::Exit(exit) => exit.at_ns,
            Event::Loss(loss) => loss.to_ns,
            Event::Ledger(fact) => fact.read_ns,
            Event::Process(fact) => fact.read_ns,
            Event::Python(fact) => fact.read_ns,
            Event::Exact(fact) => fact.read_ns,
            Event::Pools(fact) => fact.read_ns,
            Event::Monitor(_) | Event::End => return None,
            Event::Tick(tick) => tick.at_ns,
        })
    }
}

/// Why a thread was off the CPU without waiting for one; the numbers are [`concmon_ebpf::cause`]'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Cause {
    Gil = cause::GIL,
    Lock = cause::LOCK,
    Poll = cause::POLL,
    Sleep = cause::SLEEP,
    Io = cause::IO,
    Child = cause::CHILD,
    Disk = cause::DISK,
    Stopped = cause::STOPPED,
    Other = cause::OTHER,
}

impl Cause {
    pub const ALL: [Cause; cause::COUNT] = [
        Cause::Gil,
        Cause::Lock,
        Cause::Poll,
        Cause::Sleep,
        Cause::Io,
        Cause::Child,
        Cause::Disk,
        Cause::Stopped,
        Cause::Other,
    ];

    /// The cause with this wire number; `None` for a number that is none.
    pub fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The name in JSON, metrics and on the screen.
    pub const fn name(self) -> &'static str {
        match self {
            Cause::Gil => "gil",
            Cause::Lock => "lock",
            Cause::Poll => "poll",
            Cause::Sleep => "sleep",
            Cause::Io => "io",
            Cause::Child => "child",
            Cause::Disk => "disk",
            Cause::Stopped => "stopped",
            Cause::Other => "other",
        }
    }
}

/// How a thread's wait before a slice began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    pub off_ns: u64,
    /// `None`: preempted, or a block whose wakeup was not seen.
    pub wake_ns: Option<u64>,
    /// `None`: preempted.
    pub cause: Option<Cause>,
    pub syscall: Option<u32>,
    pub arg0: u64,
    /// `None`: a timer, or it cannot be told.
    pub waker: Option<Tid>,
}

/// One cycle of a thread: waiting, then on a CPU from `in_ns` to `out_ns`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    pub tid: Tid,
    pub cpu: u32,
    /// `None`: the beginning was not seen.
    pub wait: Option<Wait>,
    pub in_ns: u64,
    pub out_ns: u64,
    /// The kernel's own account of the slice.
    pub on_cpu_ns: u64,
    /// It ended by a block, not by a preemption.
    pub voluntary: bool,
}

/// When a kernel program took a stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SampleKind {
    /// By the clock, while the thread was on a CPU.
    OnCpu,
    /// When it blocked: the wait that begins here has the same instant as its `off_ns`.
    Block(Cause),
}

/// What code a thread was in when it was sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CodeKind {
    /// The interpreter's own: bytecode, builtins.
    Interpreter,
    /// Another library's, called from Python.
    Native,
    /// The kernel's, on the thread's behalf.
    Kernel,
}

/// A Python stack that a kernel program took while the thread stood still.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sample {
    pub at_ns: u64,
    pub pid: Pid,
    pub tid: Tid,
    pub kind: SampleKind,
    /// `PyThreadState.context_ver`: grows by one whenever a context is entered or left. Loops enter
    /// one for each step, so equal numbers mean the same step, and half the growth is the number of
    /// steps. `None`: the thread has no thread state, or it could not be read.
    pub context_version: Option<u64>,
    /// The turn of an asyncio loop; `None` elsewhere, and before its selector has returned.
    pub iteration: Option<Iteration>,
    /// The process's garbage collector was at work.
    pub collecting: bool,
    /// `None`: not known, or blocked.
    pub code: Option<CodeKind>,
    /// Address of the generator object of the outermost coroutine of the step: the task's own.
    /// `None`: no task's step.
    pub coroutine: Option<u64>,
    pub stack: Arc<SampledStack>,
}

/// A turn of an asyncio loop, as its own variables tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Iteration {
    /// When its selector had returned, by the loop's clock (`CLOCK_MONOTONIC`, ns).
    pub start_ns: u64,
    /// Which of its ready callbacks runs, from 0; `None`: none has begun.
    pub index: Option<u32>,
    /// How many callbacks were ready when it began; `None`: not counted yet.
    pub count: Option<u32>,
}

/// The frames of a sample; equal ones are shared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampledStack {
    /// The innermost frame first.
    pub frames: Vec<PyFrame>,
    /// How many frames, from the innermost, are a loop's step; the last of these is the step's own:
    /// the task's coroutine or the callback. 0: in the loop's own code, or in no loop.
    pub step_frames: usize,
    /// A loop runs on this stack, whether it is in a step or not.
    pub in_loop: bool,
    /// There were more frames than the kernel program walks.
    pub truncated: bool,
}

/// What a loop's thread was read to be doing in the middle of a long step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepFact {
    pub read_ns: u64,
    pub pid: Pid,
    pub tid: Tid,
    /// As [`Sample::context_version`]: which step this is about.
    pub context_version: u64,
    /// `None`: no task's step.
    pub task: Option<StepTask>,
    /// Values of the context variables that were asked for, by name.
    pub context: BTreeMap<String, String>,
    /// Callbacks that were ready meanwhile.
    pub ready: Option<u64>,
    /// Timers that were due already.
    pub overdue: Option<u64>,
}

/// The task that a step belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepTask {
    /// As [`PyTask::id`].
    pub id: u64,
    pub name: String,
    /// Address of its coroutine object, as [`Sample::coroutine`].
    pub coroutine: Option<u64>,
}

/// A watched process made a thread or a process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fork {
    pub at_ns: u64,
    pub parent: Tid,
    pub pid: Pid,
    pub tid: Tid,
    pub start_boottime_ns: u64,
    pub comm: String,
}

/// A watched process runs another program from now on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exec {
    pub at_ns: u64,
    pub pid: Pid,
    pub comm: String,
}

/// A watched thread ended.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Exit {
    pub at_ns: u64,
    pub pid: Pid,
    pub tid: Tid,
    pub start_boottime_ns: u64,
    /// Status word as `wait` gives it: the low 7 bits are a signal, bits 8 to 15 a code.
    pub status: u32,
    /// No thread of the process is left.
    pub last: bool,
    /// The status is the whole process's.
    pub group: bool,
}

/// Records that never arrived.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Loss {
    pub cpu: u32,
    pub records: u64,
    pub from_ns: u64,
    pub to_ns: u64,
}

/// A duration histogram as the kernel keeps it; see [`concmon_ebpf::Hist`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistFact {
    pub count: u64,
    pub sum_ns: u64,
    pub min_ns: u64,
    pub max_ns: u64,
    #[serde(with = "buckets")]
    pub buckets: [u32; HIST_BUCKETS],
}

/// Buckets up to the last one that is not empty.
mod buckets {
    use concmon_ebpf::HIST_BUCKETS;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(
        buckets: &[u32; HIST_BUCKETS],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let used = buckets.iter().rposition(|count| *count != 0);
        serializer.collect_seq(&buckets[..used.map_or(0, |last| last + 1)])
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u32; HIST_BUCKETS], D::Error> {
        let used = Vec::<u32>::deserialize(deserializer)?;
        let mut buckets = [0; HIST_BUCKETS];
        buckets
            .get_mut(..used.len())
            .ok_or_else(|| D::Error::invalid_length(used.len(), &"at most 128 buckets"))?
            .copy_from_slice(&used);
        Ok(buckets)
    }
}

/// What was counted of tasks by probes, cumulative, read at `read_ns`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExactFact {
    pub read_ns: u64,
    pub pid: Pid,
    /// Since when, ns; else why not.
    pub since: Result<u64, String>,
    #[serde(deserialize_with = "at_most::<16_384, _, _>")]
    pub tasks: Vec<TaskCounts>,
    /// Steps of any process of the watch that found no room, or could not be read.
    pub missed: u64,
}

/// Tasks of one loop and name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskCounts {
    pub tid: Tid,
    pub loop_id: u64,
    /// Of the group, as `by_name` of a snapshot has it.
    pub name: String,
    /// Made while it could be seen, and have begun to run.
    pub started: u64,
    pub finished: u64,
    pub failed: u64,
    pub cancelled: u64,
    /// From the making to the end, of those in `started`.
    pub duration: HistFact,
}

/// What was counted of thread pools by probes, cumulative, read at `read_ns`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolsFact {
    pub read_ns: u64,
    pub pid: Pid,
    /// Since when, ns; else why not.
    pub since: Result<u64, String>,
    pub pools: Vec<PoolCounts>,
    /// What happened in any process of the watch and found no room, or could not be read.
    pub missed: u64,
}

/// One thread pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolCounts {
    /// Address of its queue; 0: not known.
    pub queue: u64,
    pub submitted: u64,
    pub failed: u64,
    /// Of `failed`: it could be seen whether their exceptions are asked for.
    pub kept: u64,
    /// Of `kept`: it was asked for.
    pub retrieved: u64,
    /// Of `kept`: it is gone, and was not asked for.
    pub dropped: u64,
}

/// What the open stretch of a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ThreadState {
    Running,
    /// Waiting for a CPU after a wakeup.
    Woken,
    /// Waiting for a CPU after a preemption.
    Preempted,
    Blocked(Cause),
    Dead,
}

/// One thread's account, read in one piece at `read_ns`: closed columns up to `since_ns`,
/// and an open stretch from there in `state`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LedgerFact {
    pub read_ns: u64,
    pub pid: Pid,
    pub tid: Tid,
    pub start_boottime_ns: u64,
    /// The thread existed before the watch began.
    pub seeded: bool,
    /// The sum of ended threads of `pid`, folded for lack of room; `tid` means nothing.
    pub folded: bool,
    pub start_ns: u64,
    pub since_ns: u64,
    pub state: ThreadState,
    /// The kernel's CPU clock of the thread at `since_ns` (`se.sum_exec_runtime`).
    pub sum_exec_ns: u64,
    pub on_cpu_ns: u64,
    pub woken_ns: u64,
    pub preempted_ns: u64,
    pub stolen_ns: u64,
    pub unknown_ns: u64,
    pub blocked_ns: [u64; cause::COUNT],
    pub voluntary: u64,
    pub involuntary: u64,
    pub migrations: u64,
    pub wakeup_latency: HistFact,
    pub slice: HistFact,
    #[serde(deserialize_with = "at_most::<64, _, _>")]
    pub off_cpu: Vec<HistFact>,
}

/// What `/proc` says of a process. A field is `None` when it could not be read.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProcessFact {
    pub read_ns: u64,
    pub pid: u32,
    pub ppid: u32,
    /// Clock ticks after boot, as `/proc/PID/stat` has it, turned to ns.
    pub start_boottime_ns: u64,
    pub start_unix_ns: u64,
    pub name: String,
    pub cmdline: Vec<String>,
    /// Script or `-m module` of a Python command line; `None` when it is none.
    pub entry: Option<String>,
    pub zombie: bool,
    /// User and system CPU time over the process's life, ended threads included.
    pub cpu_user_ns: Option<u64>,
    pub cpu_system_ns: Option<u64>,
    pub rss_bytes: Option<u64>,
    pub threads: Option<u64>,
    pub fds: Option<u64>,
    pub fds_limit: Option<u64>,
    pub children: u64,
    pub descendants: u64,
    pub zombies: u64,
    #[serde(deserialize_with = "at_most::<65_536, _, _>")]
    pub thread_stats: Vec<ThreadStat>,
}

/// What `/proc/PID/task/TID` says of a thread.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ThreadStat {
    pub tid: Tid,
    pub comm: String,
    pub start_boottime_ns: u64,
    pub cpu_user_ns: u64,
    pub cpu_system_ns: u64,
    pub voluntary: u64,
    pub involuntary: u64,
}

/// Which interpreter a process runs, and whether it can be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PythonInfo {
    /// `cpython`, `pypy`, ...
    pub implementation: String,
    /// `3.13.0`; `None` when it could not be told.
    pub version: Option<String>,
    pub free_threaded: bool,
    pub supported: bool,
    /// Why not, in one sentence; `None` when supported.
    pub reason: Option<String>,
}

/// One look into an interpreter's memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PythonFact {
    pub read_ns: u64,
    pub pid: Pid,
    pub info: PythonInfo,
    #[serde(deserialize_with = "at_most::<16_384, _, _>")]
    pub threads: Vec<PyThread>,
    #[serde(deserialize_with = "at_most::<16_384, _, _>")]
    pub loops: Vec<PyLoop>,
    #[serde(deserialize_with = "at_most::<16_384, _, _>")]
    pub tasks: Vec<PyTask>,
    /// The main interpreter's first; empty where there is none or none is known.
    #[serde(deserialize_with = "at_most::<64, _, _>")]
    pub gils: Vec<PyGil>,
    /// The main interpreter's garbage collector.
    pub gc: Option<PyGc>,
    #[serde(deserialize_with = "at_most::<16_384, _, _>")]
    pub executors: Vec<PyExecutor>,
    /// `None`: it was not asked for, or the program has no futures.
    pub heap: Option<PyHeapScan>,
    /// Reads that failed or were torn beyond retry during this look.
    pub reads_failed: u64,
    /// What this look does not cover: field (`tasks`, `threads.name`, ...) to reason.
    pub limits: BTreeMap<String, String>,
}

/// A thread as the interpreter knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PyThread {
    pub tid: Tid,
    /// `threading.get_ident()`.
    pub ident: u64,
    /// `threading.Thread.name`; `None` for a thread that `threading` does not know.
    pub name: Option<String>,
    pub daemon: Option<bool>,
    /// `module.qualname` of what the thread was started to run.
    pub entry: Option<String>,
    pub stack_size_bytes: Option<u64>,
    pub main: bool,
    /// A worker of a `concurrent.futures` thread pool.
    pub pool: bool,
    /// The innermost frame first. Empty: it runs no Python code, or see `limits`.
    pub stack: Vec<PyFrame>,
    /// The stack changed each time it was read, so none is given.
    pub stack_torn: bool,
    /// `None`: it waits for nothing, or for nothing that Python knows.
    pub waiting_for: Option<PyWait>,
}

/// What kind of object a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WaitKind {
    Lock,
    RLock,
    Condition,
    Event,
    Semaphore,
    Barrier,
    Queue,
    SimpleQueue,
    /// The end of a thread.
    Join,
    /// The result of a `concurrent.futures.Future`.
    Future,
}

/// What a wait for a lock is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum WaitPurpose {
    /// Somebody else has what this thread wants.
    Contended,
    /// An idle consumer or worker: there is nothing to do.
    Work,
    Join,
    Other,
}

/// What a blocked thread waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PyWait {
    pub kind: WaitKind,
    pub purpose: WaitPurpose,
    /// Address of the object; `None` when only its kind could be told.
    pub object: Option<u64>,
    /// The thread that has it, or that is waited for.
    pub owner: Option<Tid>,
    /// The futex that the thread is blocked on.
    pub futex: u64,
}

/// A GIL at the moment of the look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PyGil {
    /// When it was read, later than the look began.
    pub read_ns: u64,
    pub address: u64,
    /// Address of the condition variable that whoever drops it signals; those who wait for it
    /// wait on a futex therein.
    pub cond: u64,
    pub locked: bool,
    /// The thread that has it, or had it last.
    pub last_holder: Option<Tid>,
    /// How often it went from one thread to another since the process began.
    pub switches: u64,
    /// How often it was sampled since sampling began, and how often it was locked then.
    pub samples: u64,
    pub locked_samples: u64,
}

/// A garbage collector's account of itself since the process began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PyGc {
    /// The youngest generation first.
    pub generations: Vec<PyGeneration>,
    /// A collection runs right now.
    pub collecting: bool,
    /// The generation that is collected, with all younger ones; `None` while none is, or when
    /// callbacks of the collector (`gc.callbacks`) hide which.
    pub generation: Option<u8>,
}

/// What one generation's collections did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PyGeneration {
    pub collections: u64,
    pub collected: u64,
    pub uncollectable: u64,
}

/// Which kind of workers an executor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecutorKind {
    Thread,
    Process,
}

/// A `concurrent.futures` executor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PyExecutor {
    /// Address of the executor object; of a worker's queue when the executor itself is gone.
    pub id: u64,
    /// Address of the queue of a thread pool; 0 for others.
    #[serde(default)]
    pub queue: u64,
    pub kind: ExecutorKind,
    /// `None`: it has none, or it could not be read.
    pub name_prefix: Option<String>,
    pub workers: u64,
    pub workers_idle: Option<u64>,
    pub max_workers: Option<u64>,
    /// Work that no worker has begun.
    pub queued: Option<u64>,
    pub running: Vec<PyWork>,
}

/// A function that an executor's worker runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PyWork {
    /// The worker; `None` in another process.
    pub tid: Option<Tid>,
    /// `module.qualname`; `None` when it could not be read.
    pub function: Option<String>,
    /// Address of the work item: another one is other work.
    pub item: u64,
}

/// Which kind of future.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FutureKind {
    /// Of asyncio.
    Future,
    /// Of asyncio.
    Task,
    /// Of `concurrent.futures`.
    Concurrent,
}

/// What a search of the heap found: futures that failed, and that somebody still keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PyHeapScan {
    /// How much was searched.
    pub bytes: u64,
    /// Why not all was; `None`: all that is in memory was.
    pub skipped: Option<String>,
    pub failures: Vec<PyFailures>,
}

/// Futures of one kind that failed in the same way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PyFailures {
    pub kind: FutureKind,
    /// The class of the exception.
    pub exception: String,
    /// Whether somebody asked for the exception; `None` where nothing tells.
    pub retrieved: Option<bool>,
    pub count: u64,
}

/// Which event loop implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoopKind {
    Asyncio,
    Uvloop,
    Trio,
}

/// An event loop that runs in a thread at the moment of the look.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PyLoop {
    pub tid: Tid,
    /// Address of the loop object.
    pub id: u64,
    pub kind: LoopKind,
    /// Length of `_ready`.
    pub ready: Option<u64>,
    /// Length of `_scheduled`.
    pub scheduled: Option<u64>,
    /// `slow_callback_duration`, ns.
    pub stall_threshold_ns: Option<u64>,
    pub debug: Option<bool>,
    /// How many tasks got a name of asyncio's own making since the process began.
    pub tasks_created: Option<u64>,
}

/// `pending`: suspended or ready; `running`: on its thread right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskState {
    Pending,
    Running,
    Done,
}

/// A task at the moment of the look.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PyTask {
    /// Address of the task object.
    pub id: u64,
    /// [`PyLoop::id`] of its loop.
    pub loop_id: u64,
    pub name: String,
    /// Qualified name of its coroutine.
    pub coroutine: String,
    /// Address of the coroutine object; 0 when it has none any more.
    pub coroutine_id: u64,
    pub state: TaskState,
    /// From the task's own coroutine down to the innermost one that waits.
    pub awaiting: Vec<PyFrame>,
    /// What it is suspended on, below the innermost frame; `None` while it is ready or runs.
    pub waits_for: Option<TaskWait>,
    /// [`PyTask::id`] of the tasks that wait for this one; of trio's, the nursery's task.
    pub awaited_by: Vec<u64>,
    /// It was asked to end, and has not yet.
    pub cancel_requested: bool,
    /// Type name of the exception that a done task ended with.
    pub exception: Option<String>,
    /// Whether somebody has asked for the outcome; `None` while there is none.
    pub retrieved: Option<bool>,
    /// Values of the context variables that were asked for, by name.
    pub context: BTreeMap<String, String>,
}

/// What a task is suspended on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskWait {
    /// `sleep`, `Event`, `Lock`, `Queue`, `socket`, `Task`, ..., else the class of the future.
    pub kind: String,
    /// Address of the object, of the future where nothing else is known.
    pub object: Option<u64>,
}

/// One frame of a stack or of an await chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PyFrame {
    #[serde(deserialize_with = "shared::text")]
    pub function: Arc<str>,
    #[serde(deserialize_with = "shared::text")]
    pub file: Arc<str>,
    /// 0 when the code object has no line there.
    pub line: u32,
}

/// The tool's account of itself since the watch began.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MonitorFact {
    pub cpu_ns: u64,
    pub rss_bytes: u64,
    /// Run time of all kernel programs; `None` when the kernel does not measure it.
    pub kernel_run_ns: Option<u64>,
    pub events: u64,
    pub events_lost: u64,
    pub reads_failed: u64,
    /// Kernel-side and user-space faults by declared name, zero ones left out.
    pub faults: BTreeMap<String, u64>,
    /// What is left out to stay inside the budget.
    #[serde(default)]
    pub shed: Vec<String>,
    #[serde(default)]
    pub budget: BudgetFact,
    /// By how much the wall clock is ahead of what it would be had it run with `CLOCK_MONOTONIC`
    /// since the watch began, ns: the host slept, or its clock was set.
    #[serde(default)]
    pub wall_clock_ahead_ns: i64,
}

/// What the tool may take, and takes; shares are of the time of one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BudgetFact {
    pub cpu_share: f64,
    /// Lately; `None`: not known yet.
    pub cpu_share_used: Option<f64>,
    pub memory_bytes: u64,
    /// From now on slices are left out, and count as lost.
    pub sheds_slices: bool,
}

/// The end of a window.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Tick {
    pub at_ns: u64,
    /// The same instant on the wall clock, ns after 1970.
    pub unix_ns: u64,
}
