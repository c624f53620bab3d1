//! The row of a thread: its closed ledger, its waits, where it stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use super::words::words;
use super::{Address, Limit};

/// A thread of a watched process.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Thread {
    /// The kernel's thread id. With `started_unix_ns` it identifies the thread.
    pub tid: u32,
    /// `threading.get_ident()`; `null` for a thread that runs no Python.
    pub ident: Option<u64>,
    /// Python's name of it.
    pub name: Option<Arc<str>>,
    /// The kernel's name of it, which threads without Python have, too.
    pub comm: Option<Arc<str>>,
    /// What it is for.
    pub role: Option<Role>,
    /// Python's daemon flag.
    pub daemon: Option<bool>,
    /// It has not ended.
    pub alive: bool,
    /// The function that it began with.
    pub entry: Option<Arc<str>>,
    /// When it began.
    pub started_unix_ns: u64,
    /// `null`: it lives.
    pub ended_unix_ns: Option<u64>,
    /// Size of its stack, bytes.
    pub stack_size_bytes: Option<u64>,
    #[serde(flatten)]
    pub ledger: LedgerSum,
    /// `blocked_ns.lock` by what was waited for.
    pub lock_ns: LockNs,
    /// `on_cpu_ns` in user mode, ns (see `estimated`).
    pub cpu_user_ns: Option<u64>,
    /// `on_cpu_ns` in the kernel, ns (see `estimated`).
    pub cpu_system_ns: Option<u64>,
    /// Fields of this object that are sampled or derived, not counted.
    pub estimated: &'static [&'static str],
    /// What code samples met it in on a CPU; `null`: nothing is sampled.
    pub code: Option<CodeSamples>,
    /// The kernel's own counts.
    pub switches: Switches,
    /// From one CPU to another.
    pub migrations: u64,
    /// When the histograms of this thread begin, where that is later than its columns, ns after 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub histograms_since_unix_ns: Option<u64>,
    /// From the decision to wake it to its switch-in.
    pub wakeup_latency: Histogram,
    /// Stretches on a CPU.
    pub slice: Histogram,
    /// Waits by cause; causes without a single wait are left out.
    pub off_cpu: BTreeMap<&'static str, Histogram>,
    /// Who ended its waits, the most time first.
    pub wakers: Vec<Waker>,
    /// What it was blocked in when its account was read last; `null`: in nothing, or it has ended.
    pub wait: Option<Wait>,
    /// As of the latest look; `null`: for nothing that Python knows.
    pub waiting_for: Option<WaitingFor>,
    /// As of the latest look, the innermost frame first. Empty: it runs no Python code.
    pub stack: Arc<[Frame]>,
    pub limits: Vec<Limit>,
}

/// The columns of a closed ledger: `wall = on_cpu + runnable + Σ blocked + unknown + unobserved`.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema, PartialEq, Eq)]
pub struct LedgerSum {
    /// From attach or birth to the read or the end, ns.
    pub wall_ns: u64,
    /// On a CPU, by the kernel's own account, ns.
    pub on_cpu_ns: u64,
    /// Waiting for a CPU, ns.
    pub runnable_ns: u64,
    /// After a preemption, ns; contained in `runnable_ns`.
    pub preempted_ns: u64,
    /// Hypervisor steal and interrupts, ns; contained in `runnable_ns`.
    pub stolen_ns: u64,
    /// Waiting for anything else, by cause.
    pub blocked_ns: Blocked,
    /// Not accounted for, ns; 0 in normal use.
    pub unknown_ns: u64,
    /// While nobody looked, which is asked for (`agent --duty`), ns; absent where it is 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unobserved_ns: u64,
    /// On a CPU meanwhile, by the kernel's own account, ns; contained in `unobserved_ns`, and absent as that is.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unobserved_on_cpu_ns: u64,
}

impl LedgerSum {
    /// CPU time, whether somebody looked or not, ns.
    pub const fn cpu_ns(&self) -> u64 {
        self.on_cpu_ns.saturating_add(self.unobserved_on_cpu_ns)
    }
}

pub(super) fn is_zero(ns: &u64) -> bool {
    *ns == 0
}

/// Blocked time by cause, ns.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Blocked {
    /// The global interpreter lock, ns.
    pub gil: u64,
    /// Any other futex: lock, condition, queue, join, ns.
    pub lock: u64,
    /// A selector, ns.
    pub poll: u64,
    /// Sleeping, ns.
    pub sleep: u64,
    /// Reading, writing, connecting, accepting, opening, syncing, ns.
    pub io: u64,
    /// A child process, ns.
    pub child: u64,
    /// Uninterruptible sleep, ns.
    pub disk: u64,
    /// Stopped by a signal or a debugger, ns.
    pub stopped: u64,
    /// Anything else, ns.
    pub other: u64,
}

impl Blocked {
    /// Each cause by name, in the order of the columns.
    pub fn causes(&self) -> [(&'static str, u64); 9] {
        [
            ("gil", self.gil),
            ("lock", self.lock),
            ("poll", self.poll),
            ("sleep", self.sleep),
            ("io", self.io),
            ("child", self.child),
            ("disk", self.disk),
            ("stopped", self.stopped),
            ("other", self.other),
        ]
    }
}

words! {
    /// Why a thread was blocked, as the columns of `blocked_ns` have it.
    pub enum Cause {
        Gil = "gil",
        Lock = "lock",
        Poll = "poll",
        Sleep = "sleep",
        Io = "io",
        Child = "child",
        Disk = "disk",
        Stopped = "stopped",
        Other = "other",
    }
}

/// `blocked_ns.lock` by what was waited for, ns; the sum is exact, its parts are estimated.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema, PartialEq, Eq)]
pub struct LockNs {
    /// Somebody else had what the thread wanted, ns.
    pub contended: u64,
    /// An idle worker of a pool, ns.
    pub waiting_for_work: u64,
    /// The end of a thread, ns.
    pub join: u64,
    /// An item of a queue, a permit of a semaphore, an event, a result, locks of C code, or not known, ns.
    pub other: u64,
}

words! {
    /// What a thread is for.
    pub enum Role {
        Main = "main",
        /// It runs an event loop.
        Loop = "loop",
        /// A worker of an executor.
        Pool = "pool",
        Other = "other",
    }
}

/// Who ended blocked stretches of a thread, and how much waiting ended so.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Waker {
    /// `null`: a timer, an interrupt, or it cannot be told.
    pub tid: Option<u32>,
    /// Of a thread of another watched process; absent: it is of the same process, or nobody watches it.
    #[serde(flatten)]
    pub process: Option<WakerProcess>,
    /// What was waited for.
    pub cause: Cause,
    /// How many waits.
    pub count: u64,
    /// How long they were in all, ns.
    pub blocked_ns: u64,
}

/// Whose thread a waker is.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct WakerProcess {
    /// The process.
    pub pid: u32,
    /// What people call it.
    pub title: Option<String>,
    /// Python's name of the thread, else the kernel's.
    pub name: Option<String>,
}

/// A wait that goes on.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema, PartialEq, Eq)]
#[schemars(rename = "ThreadWait")]
pub struct Wait {
    /// Why the thread is blocked.
    pub cause: Cause,
    /// Since when, by its account.
    pub since_unix_ns: u64,
    /// It was blocked already when its account was opened: for longer than is known.
    pub before_watch: bool,
}

/// Durations, ns. Count and sum are exact, percentiles interpolated in base-2 buckets with 4
/// sub-buckets (16 for loops). The extremes are exact in a summary; in a snapshot they are bucket bounds
/// where the window did not set a new extreme. The last bucket also counts what is longer than its bound.
#[derive(Clone, Debug, Default, Serialize, JsonSchema, PartialEq)]
pub struct Histogram {
    /// How many.
    pub count: u64,
    /// All together, ns.
    pub sum_ns: u64,
    /// The shortest, ns; this and the next are `null` where `count` is 0.
    pub min_ns: Option<u64>,
    /// The longest, ns.
    pub max_ns: Option<u64>,
    /// Half of them are at most this long, ns.
    pub p50_ns: Option<u64>,
    /// 90 %, ns.
    pub p90_ns: Option<u64>,
    /// 99 %, ns.
    pub p99_ns: Option<u64>,
    /// `[upper bound in ns, count]` of each bucket that is not empty, not cumulative.
    pub buckets: Vec<(u64, u64)>,
}

/// Samples of a thread on a CPU, by the code that it ran.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema, PartialEq, Eq)]
pub struct CodeSamples {
    /// The interpreter's own: bytecode, builtins, the C library.
    pub interpreter: u64,
    /// Other libraries', called from Python.
    pub native: u64,
    /// The kernel's, on the thread's behalf.
    pub kernel: u64,
}

/// One Python frame.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Frame {
    /// Qualified name; a plain name before Python 3.11. `[37 frames left out]` stands for the middle of a chain that is too
    /// long, and has no file.
    pub function: Arc<str>,
    /// As the code object has it. Of more than 512 characters both ends, and how much is between them.
    pub file: Arc<str>,
    /// 0 when there is none.
    pub line: u32,
}

/// What a blocked thread waits for.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct WaitingFor {
    /// What kind of object.
    pub kind: WaitKind,
    /// What for.
    pub purpose: Purpose,
    /// Address, `0x...`; `null` when only the kind could be told.
    pub object: Option<Address>,
    /// The thread that has it, or whose end is waited for.
    pub owner_tid: Option<u32>,
    /// The object does not say who has it: that thread is in a `with` statement of it. Absent: not so.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub owner_inferred: bool,
    /// Somebody has it who is no thread of this process: a fork copies a lock, not the thread that has it. Absent:
    /// not so, as far as is known.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub owner_gone: bool,
    /// It waits at a `with` statement of a lock. Absent: not so, or not looked for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub at_statement: bool,
    /// Since when its thread has been blocked there, by its account. Absent: a single look does not know
    /// it, or the thread has gone on since the look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_unix_ns: Option<u64>,
}

words! {
    /// Kinds of objects that threads wait for.
    pub enum WaitKind {
        Lock = "Lock",
        RLock = "RLock",
        Condition = "Condition",
        Event = "Event",
        Semaphore = "Semaphore",
        Barrier = "Barrier",
        Queue = "Queue",
        SimpleQueue = "SimpleQueue",
        /// The end of a thread.
        Join = "join",
        /// A result of `concurrent.futures`.
        Future = "Future",
    }
}

words! {
    /// What a wait is for; `lock_ns` sums by it.
    pub enum Purpose {
        /// Somebody else has what the thread wants.
        Contended = "contended",
        /// It is an idle worker of a pool.
        WaitingForWork = "waiting_for_work",
        /// What others give: an item of a queue, a permit of a semaphore, a lock that nobody else wants. It is in
        /// `lock_ns.other`.
        Item = "item",
        /// The end of a thread.
        Join = "join",
        Other = "other",
    }
}

/// Context switches, the kernel's own counts.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Switches {
    /// It blocked.
    pub voluntary: u64,
    /// It was preempted.
    pub involuntary: u64,
}
