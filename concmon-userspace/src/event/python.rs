//! What one look into an interpreter's memory found.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    Pid, PyRoutes, Tid,
    shared::{at_most, text},
};

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
    /// What `multiprocessing` knows of the process; `None`: the program has not imported it, or it could not
    /// be read.
    #[serde(default)]
    pub process: Option<PyProcess>,
    #[serde(deserialize_with = "at_most::<16_384, _, _>")]
    pub threads: Vec<PyThread>,
    /// Threads whose waits for others were given a time, or are over by now: these waits end by themselves.
    #[serde(default, deserialize_with = "at_most::<16_384, _, _>")]
    pub timed: Vec<Tid>,
    #[serde(deserialize_with = "at_most::<16_384, _, _>")]
    pub loops: Vec<PyLoop>,
    #[serde(deserialize_with = "at_most::<16_384, _, _>")]
    pub tasks: Vec<PyTask>,
    /// The main interpreter's first; empty where there is none or none is known.
    #[serde(deserialize_with = "at_most::<64, _, _>")]
    pub gils: Vec<PyGil>,
    /// Threads that have entered other interpreters than the main one, in the order in which these were made. For the
    /// kernel side alone.
    #[serde(skip)]
    pub entered: Vec<PyEntered>,
    /// The main interpreter's garbage collector.
    pub gc: Option<PyGc>,
    #[serde(deserialize_with = "at_most::<16_384, _, _>")]
    pub executors: Vec<PyExecutor>,
    /// `None`: it was not asked for, or the program has no futures.
    pub heap: Option<PyHeapScan>,
    /// The routes of the web application that it serves; `None`: none was found, or they were not asked for.
    #[serde(default)]
    pub routes: Option<Arc<PyRoutes>>,
    /// Reads that failed or were torn beyond retry during this look.
    pub reads_failed: u64,
    /// What this look does not cover: field (`tasks`, `threads.name`, ...) to reason.
    pub limits: BTreeMap<String, String>,
}

impl PythonFact {
    /// A look that has found nothing yet.
    pub fn new(pid: Pid, read_ns: u64, info: PythonInfo) -> Self {
        Self {
            read_ns,
            pid,
            info,
            process: None,
            threads: Vec::new(),
            timed: Vec::new(),
            loops: Vec::new(),
            tasks: Vec::new(),
            gils: Vec::new(),
            entered: Vec::new(),
            gc: None,
            executors: Vec::new(),
            heap: None,
            routes: None,
            reads_failed: 0,
            limits: BTreeMap::new(),
        }
    }
}

/// A thread in an interpreter that is not the main one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PyEntered {
    pub tid: Tid,
    /// Address of its thread state there.
    pub thread_state: u64,
    /// Address of the GIL there; 0 where it is not known.
    pub gil: u64,
}

/// A process as `multiprocessing` knows it, or `billiard`, which is celery's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PyProcess {
    /// `Process.name`, `MainProcess` of one that was not made by it.
    pub name: String,
    /// `module.qualname` of what it was started to run; `None` of the main process, and where a subclass
    /// defines it.
    pub target: Option<String>,
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
    /// An idle worker: there is nothing to do.
    Work,
    /// What others give: an item of a queue, a permit of a semaphore, a lock as a signal.
    Item,
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
    /// The object does not say who has it: `owner` is in a `with` statement of it.
    #[serde(default)]
    pub inferred: bool,
    /// Somebody has it who is no thread of this interpreter any more.
    #[serde(default)]
    pub owner_gone: bool,
    /// The threads that have a permit of the semaphore that it waits for, or an item of the queue, where each of them is
    /// blocked: they are in `with` statements of it, or of a manager that gets one.
    #[serde(default, deserialize_with = "at_most::<16_384, _, _>")]
    pub holders: Vec<Tid>,
    /// It waits at a `with` statement of a lock; looked for where the owner is not known.
    #[serde(default)]
    pub at_statement: bool,
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
    /// Lets so many do something at once, and has no workers of its own.
    Limiter,
    /// A server's threads.
    Server,
    /// What runs tasks of a queue of their own.
    Task,
}

/// An executor of `concurrent.futures`, or what is like one.
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
    /// Of a limiter: tokens that are lent.
    pub workers: u64,
    pub workers_idle: Option<u64>,
    /// Of a limiter: all tokens; `None`: they are not limited, too.
    pub max_workers: Option<u64>,
    /// Work that no worker has begun; who waits for a limiter.
    pub queued: Option<u64>,
    pub running: Vec<PyWork>,
    /// Addresses of the futures of the first work that no worker has begun, of a thread pool without idle workers.
    #[serde(default, deserialize_with = "at_most::<64, _, _>")]
    pub queued_futures: Vec<u64>,
    /// Of a limiter, who has its tokens: tasks, or what stands for one token.
    #[serde(default, deserialize_with = "at_most::<16_384, _, _>")]
    pub borrowers: Vec<u64>,
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
    /// Address of its future; 0: not known.
    #[serde(default)]
    pub future: u64,
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
    /// What is in its queue; `None`: that could not be read.
    #[serde(default)]
    pub queue: Option<PyQueue>,
}

/// The head of a loop's queue.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PyQueue {
    /// When it began to be read, later than the look began. Looks that are given out again keep it.
    pub read_ns: u64,
    /// The first callbacks that are ready, in their order.
    #[serde(deserialize_with = "at_most::<64, _, _>")]
    pub ready: Vec<PyReady>,
    /// Of uvloop, whose queue has no callbacks of descriptors: those of `add_reader` and `add_writer`.
    #[serde(default, deserialize_with = "at_most::<64, _, _>")]
    pub watched: Vec<PyReady>,
}

/// A callback that is ready to be called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PyReady {
    /// `module.qualname`; `None` where it could not be read, and for a task's step.
    pub function: Option<String>,
    /// [`PyTask::id`] of the task whose step it is.
    pub task: Option<u64>,
    /// What the loop calls it for; `None`: a timer, `call_soon()`, or the loop does not tell.
    pub descriptor: Option<PyDescriptor>,
}

/// A descriptor that a loop watches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PyDescriptor {
    pub number: u32,
    /// It was waited for to be writable, else to be readable.
    pub writes: bool,
    /// `socket`, `pipe`, `eventfd`, ..., `file`; `None`: it could not be told.
    pub kind: Option<String>,
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
    /// The shortest time that the calls of `asyncio.sleep`, `wait` and `wait_for` that it is in were
    /// given, ns; `None`: it is in none.
    #[serde(default)]
    pub timeout_ns: Option<u64>,
    /// It is in a statement that gives it a time (`asyncio.timeout`, anyio's `fail_after`); looked for where tasks wait for
    /// each other.
    #[serde(default)]
    pub in_timeout: bool,
    /// [`PyTask::id`] of the tasks that have entered the cancel scopes that it is in (anyio's): who cancels them cancels
    /// it. Looked for where `in_timeout` is.
    #[serde(default, deserialize_with = "at_most::<64, _, _>")]
    pub hosts: Vec<u64>,
    /// Addresses of locks that tasks wait for, once for each `async with` statement of the lock that it is in: who
    /// still waits for the lock is in one by that.
    #[serde(default, deserialize_with = "at_most::<64, _, _>")]
    pub holds: Vec<u64>,
    /// [`PyTask::id`] of the tasks that wait for this one; of trio's, the nursery's task.
    pub awaited_by: Vec<u64>,
    /// Of a server's task: the port of the client whose request it serves, as long as its response has not begun; looked
    /// for where requests are asked for.
    #[serde(default)]
    pub client_port: Option<u16>,
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
    #[serde(deserialize_with = "text")]
    pub function: Arc<str>,
    #[serde(deserialize_with = "text")]
    pub file: Arc<str>,
    /// 0 when the code object has no line there.
    pub line: u32,
}

impl PyFrame {
    /// Stands for so many frames, at least one, that are left out.
    pub(crate) fn of_left_out(count: u32) -> Self {
        Self {
            function: format!("[{count} frames left out]").into(),
            file: "".into(),
            line: 0,
        }
    }

    pub(crate) fn is_left_out(&self) -> bool {
        (&*self.file, self.line) == ("", 0) && self.function.starts_with('[')
    }
}

/// The innermost frame of a stack that is the program's own, else of a package that was installed; `None`: all are
/// of Python's library. What stands for frames that are left out has no file, and is nobody's.
pub(crate) fn own_frame<F>(stack: &[F], file: impl Fn(&F) -> &str) -> Option<&F> {
    // Private files of event loops are nobody's either, wherever they were installed.
    let foreign = [
        "/site-packages/",
        "/dist-packages/",
        "/anyio/_",
        "/anyio/from_thread.py",
        "/anyio/to_thread.py",
        "/trio/_",
    ];
    let is_foreign = |frame: &F| foreign.iter().any(|of| file(frame).contains(of));
    let is_users = |frame: &&F| !file(frame).is_empty() && !is_library(file(frame));
    let users = || stack.iter().filter(is_users);
    users()
        .find(|frame| !is_foreign(frame))
        .or_else(|| users().next())
}

/// A file of Python's own library, frozen modules included; not of packages that were installed.
pub(crate) fn is_library(file: &str) -> bool {
    if file.starts_with("<frozen ") {
        return true;
    }
    let Some((_, behind)) = file.rsplit_once("/lib/python") else {
        return false;
    };
    let foreign = ["/site-packages/", "/dist-packages/", "/../"];
    behind.starts_with(|c: char| c.is_ascii_digit())
        && !foreign.iter().any(|folder| behind.contains(folder))
}

#[cfg(test)]
mod tests;
