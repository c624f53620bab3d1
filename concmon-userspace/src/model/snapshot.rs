//! What views and findings see: the state of a watch over one window, or over the whole of it.
//!
//! The field names are the JSON contract; `None` is printed as `null` and has a reason in the
//! [`Limit`]s of its object.

use serde::Serialize;

use crate::event::PythonInfo;

pub use super::loop_rows::{
    BusySplit, ByName, CodeSamples, Contributor, Cost, CountedPool, CountedTasks, Culprit, Exact,
    Finding, Pools, Saturation, Stall, StallTask, TaskCost, Timing, Waiting,
};
pub use super::rows::{Executor, Frame, Seen, Task, TaskWait, WaitingFor, Work};

/// The name and version of the JSON shape.
pub const SCHEMA: &str = "concmon/1";

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Snapshot,
    Summary,
}

/// Everything concmon says about one window.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    pub schema: &'static str,
    #[serde(rename = "type")]
    pub kind: Kind,
    pub window: Window,
    pub monitor: Monitor,
    pub processes: Vec<Process>,
    pub limits: Vec<Limit>,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Window {
    pub start_unix_ns: u64,
    pub duration_ns: u64,
}

/// Why a field of the same object is `null`, partial or missing.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Limit {
    pub field: String,
    pub reason: String,
}

/// What the tool itself costs and failed to see.
#[derive(Clone, Debug, Serialize)]
pub struct Monitor {
    pub version: std::borrow::Cow<'static, str>,
    pub cpu_ns: u64,
    pub rss_bytes: u64,
    /// Estimated (see `estimated`); `None` where the kernel gives no run time.
    pub kernel_run_ns: Option<u64>,
    pub events: u64,
    pub events_lost: u64,
    pub reads_failed: u64,
    /// Detail that is left out to stay inside the budget; in a summary, that ever was.
    pub shed: Vec<String>,
    /// `None`: not measured yet.
    pub budget: Option<Budget>,
    /// Fields of this object that are sampled or derived, not counted.
    pub estimated: Vec<&'static str>,
    /// Counts by declared fault name; only faults that happened.
    pub faults: std::collections::BTreeMap<String, u64>,
    pub limits: Vec<Limit>,
}

/// What the tool may take; past it, detail is left out.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Budget {
    /// 100 = one core.
    pub cpu_percent: f64,
    /// What its own threads took lately, getting started not counted; `None`: too early to tell.
    pub cpu_percent_used: Option<f64>,
    pub memory_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Process {
    pub pid: u32,
    pub ppid: u32,
    pub start_unix_ns: u64,
    pub name: String,
    pub cmdline: Vec<String>,
    /// Script or `-m module`; `None` for a process that is not Python.
    pub entry: Option<String>,
    pub exited: Option<Exited>,
    pub python: Option<Python>,
    pub cpu_ns: u64,
    /// 100 = one core.
    pub cpu_percent: f64,
    pub rss_bytes: Option<u64>,
    pub threads_count: Option<u64>,
    pub children_count: Option<u64>,
    pub descendants_count: Option<u64>,
    pub zombies_count: Option<u64>,
    pub fds_count: Option<u64>,
    pub fds_limit: Option<u64>,
    pub context_switches: Switches,
    /// Rows that were folded away.
    pub ended: Ended,
    /// `None`: no collector was seen.
    pub gc: Option<Gc>,
    /// `None`: there is none, or it is not known.
    pub gil: Option<Gil>,
    pub threads: Vec<Thread>,
    pub loops: Vec<Loop>,
    pub executors: Vec<Executor>,
    /// `None`: nothing was asked to be counted by probes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<Exact>,
    /// The rules that hold; the model fills in none.
    pub findings: Vec<Finding>,
    pub limits: Vec<Limit>,
}

/// What the garbage collector did, the youngest generation first.
#[derive(Clone, Debug, Serialize)]
pub struct Gc {
    pub collections: Vec<u64>,
    pub collected: Vec<u64>,
    /// Estimated from samples, see `estimated`.
    pub collecting_ns: Option<u64>,
    /// Fields of this object that are sampled or derived, not counted.
    pub estimated: Vec<&'static str>,
}

/// How a process ended: exactly one of the two is there, none when it could not be seen.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Exited {
    pub code: Option<u8>,
    pub signal: Option<u8>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Python {
    pub implementation: String,
    pub version: Option<String>,
    pub free_threaded: bool,
    pub supported: bool,
    pub reason: Option<String>,
}

impl Python {
    pub(crate) fn of(info: &PythonInfo) -> Self {
        Python {
            implementation: info.implementation.clone(),
            version: info.version.clone(),
            free_threaded: info.free_threaded,
            supported: info.supported,
            reason: info.reason.clone(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq, Eq)]
pub struct Switches {
    pub voluntary: u64,
    pub involuntary: u64,
}

/// Ended threads and processes that have no row any more. In a snapshot, what never had one
/// (ended since the window began, folded by the kernel programs); in a summary also what had
/// rows in snapshots. Rows and this together are the total, in both.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Ended {
    pub threads: u64,
    pub processes: u64,
    pub ledger: LedgerSum,
}

/// The columns of a closed ledger: `wall = on_cpu + runnable + Σ blocked + unknown`.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq, Eq)]
pub struct LedgerSum {
    pub wall_ns: u64,
    pub on_cpu_ns: u64,
    pub runnable_ns: u64,
    /// Contained in `runnable_ns`.
    pub preempted_ns: u64,
    /// Contained in `runnable_ns`: hypervisor steal and interrupts.
    pub stolen_ns: u64,
    pub blocked_ns: Blocked,
    pub unknown_ns: u64,
}

#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq, Eq)]
pub struct Blocked {
    pub gil: u64,
    pub lock: u64,
    pub poll: u64,
    pub sleep: u64,
    pub io: u64,
    pub child: u64,
    pub disk: u64,
    pub stopped: u64,
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

/// [`Blocked::lock`] by what was waited for; the sum is exact, its parts are estimated.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq, Eq)]
pub struct LockNs {
    /// Somebody else had what the thread wanted.
    pub contended: u64,
    /// An idle consumer or worker.
    pub waiting_for_work: u64,
    /// The end of a thread.
    pub join: u64,
    /// An event, a result, locks of C code, or not known.
    pub other: u64,
}

#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Main,
    Loop,
    Pool,
    Other,
}

#[derive(Clone, Debug, Serialize)]
pub struct Thread {
    pub tid: u32,
    pub ident: Option<u64>,
    pub name: Option<String>,
    pub role: Option<Role>,
    pub daemon: Option<bool>,
    pub alive: bool,
    pub entry: Option<String>,
    pub started_unix_ns: u64,
    pub ended_unix_ns: Option<u64>,
    pub stack_size_bytes: Option<u64>,
    #[serde(flatten)]
    pub ledger: LedgerSum,
    pub lock_ns: LockNs,
    pub cpu_user_ns: Option<u64>,
    pub cpu_system_ns: Option<u64>,
    /// Fields of this object that are sampled or derived, not counted.
    pub estimated: Vec<&'static str>,
    /// What code samples met it in on a CPU; `None`: nothing is sampled.
    pub code: Option<CodeSamples>,
    pub switches: Switches,
    pub migrations: u64,
    pub wakeup_latency: Histogram,
    pub slice: Histogram,
    /// By cause; causes without a single wait are left out.
    pub off_cpu: std::collections::BTreeMap<&'static str, Histogram>,
    pub wakers: Vec<Waker>,
    /// As of the latest look; `None`: for nothing that Python knows.
    pub waiting_for: Option<WaitingFor>,
    /// As of the latest look, the innermost frame first. Empty: it runs no Python code.
    pub stack: Vec<Frame>,
    pub limits: Vec<Limit>,
}

/// Who ended blocked stretches of a thread, and how much waiting ended so.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Waker {
    /// `None`: a timer, an interrupt, or it cannot be told.
    pub tid: Option<u32>,
    pub cause: &'static str,
    pub count: u64,
    pub blocked_ns: u64,
}

/// Count and sum are exact, percentiles interpolated in base-2 buckets with 4 sub-buckets. The
/// extremes are exact in a summary; in a snapshot they are bucket bounds where the window did
/// not set a new extreme. The last bucket also counts what is longer than its bound.
#[derive(Clone, Debug, Default, Serialize, PartialEq)]
pub struct Histogram {
    pub count: u64,
    pub sum_ns: u64,
    pub min_ns: Option<u64>,
    pub max_ns: Option<u64>,
    pub p50_ns: Option<u64>,
    pub p90_ns: Option<u64>,
    pub p99_ns: Option<u64>,
    /// `(upper bound in ns, count)` of each bucket that is not empty, not cumulative.
    pub buckets: Vec<(u64, u64)>,
}

/// Waiting for the GIL, and its use.
#[derive(Clone, Debug, Serialize)]
pub struct Gil {
    /// Blocked on it, and runnable directly after that; the sum of all pairs. A stretch is booked
    /// when it is known who held the GIL, up to 2 s after it ended.
    pub wait_ns: Option<u64>,
    /// Waits that ended. Less than 200 us on a CPU between two blocks does not end one.
    pub waits: Option<Histogram>,
    /// The most threads that waited at the same time.
    pub waiters_max: Option<u64>,
    /// A snapshot's value covers the time since the last snapshot that has one.
    pub held_ns: Option<u64>,
    pub free_ns: Option<u64>,
    /// held / (held + free), 0 to 1.
    pub utilization: Option<f64>,
    /// Fields of this object that are sampled or derived, not counted.
    pub estimated: Vec<&'static str>,
    /// How often it went from one thread to another.
    pub switches: Option<u64>,
    /// Most waiting first.
    pub pairs: Vec<GilPair>,
    pub limits: Vec<Limit>,
}

/// What a thread waited for the GIL while another one held it.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct GilPair {
    /// `None`: nobody, or it cannot be told.
    pub holder_tid: Option<u32>,
    pub victim_tid: u32,
    pub wait_ns: u64,
    /// Waits of which this holder had the largest part.
    pub count: u64,
}

/// An event loop bound to a thread: `wall = idle + busy`, exactly.
#[derive(Clone, Debug, Serialize)]
pub struct Loop {
    pub tid: u32,
    /// `asyncio`, `uvloop`.
    pub kind: &'static str,
    pub running: bool,
    pub wall_ns: u64,
    /// Blocked in the selector.
    pub idle_ns: u64,
    pub busy_ns: u64,
    /// busy / wall, 0 to 1.
    pub utilization: f64,
    pub stall_threshold_ns: Option<u64>,
    pub ready: Option<u64>,
    pub scheduled: Option<u64>,
    /// Of `tasks`, those that are not done.
    pub pending_tasks: Option<u64>,
    /// Of the whole process, which other loops of it show, too.
    pub tasks_created: Option<u64>,
    pub tasks: Vec<Task>,
    /// `None`: nothing is sampled.
    #[serde(flatten)]
    pub timing: Option<Timing>,
    pub limits: Vec<Limit>,
}
