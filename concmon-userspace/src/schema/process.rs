//! The row of a process.

use schemars::JsonSchema;
use serde::Serialize;

use super::words::words;
use super::{
    Deadlock, Exact, Executor, Finding, Frame, Histogram, Http, LedgerSum, Limit, Loop, Peer,
    Place, Switches, Thread,
};

/// A watched process.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Process {
    /// In the PID namespace of the tool.
    pub pid: u32,
    /// Its parent's; 0 when not known.
    pub ppid: u32,
    /// When it started; 0 when not known. With `pid` it identifies the process.
    pub start_unix_ns: u64,
    /// The kernel's name for it (`comm`).
    pub name: String,
    /// Empty when it could not be read, and with `--redact`.
    pub cmdline: Vec<String>,
    /// Script or `-m module`; `null` for a process that is not Python.
    pub entry: Option<String>,
    /// What people call it: its name in `multiprocessing` (`ForkPoolWorker-3`), the title that it gave itself
    /// (`gunicorn: worker [app]`), else the last part of `entry`, else `name`.
    pub title: Option<String>,
    /// The service that it belongs to, as `groups` has it; `null`: that is not known yet.
    pub group: Option<String>,
    /// `null`: it is not Python, or it serves others of its program only, as a resource tracker does.
    pub role: Option<ProcessRole>,
    #[serde(flatten)]
    pub place: Place,
    /// `null`: it runs.
    pub exited: Option<Exited>,
    /// `null`: no interpreter was seen in it.
    pub python: Option<Python>,
    /// CPU time of its threads, ns.
    pub cpu_ns: u64,
    /// The same, percent of one core while it was watched.
    pub cpu_percent: f64,
    /// Resident memory, bytes. Pages shared with other processes count in each.
    pub rss_bytes: Option<u64>,
    /// Mapped memory, bytes: what was reserved, whether or not it is used.
    pub vms_bytes: Option<u64>,
    /// Threads, whether or not they have a row.
    pub threads_count: Option<u64>,
    /// Direct children that live.
    pub children_count: Option<u64>,
    /// Children, their children, and so on.
    pub descendants_count: Option<u64>,
    /// Children that have ended and that it has not waited for.
    pub zombies_count: Option<u64>,
    /// Open file descriptors.
    pub fds_count: Option<u64>,
    /// How many it may have open (soft `RLIMIT_NOFILE`).
    pub fds_limit: Option<u64>,
    /// Absent: no CPU quota holds for it.
    #[serde(flatten)]
    pub throttled: Option<Throttled>,
    /// The kernel's own counts, all threads together.
    pub context_switches: Switches,
    /// Rows that were folded away.
    pub ended: Ended,
    /// `null`: no collector was seen.
    pub gc: Option<Gc>,
    /// `null`: there is none, or it is not known.
    pub gil: Option<Gil>,
    pub threads: Vec<Thread>,
    pub loops: Vec<Loop>,
    pub executors: Vec<Executor>,
    /// As of the latest look.
    pub deadlocks: Vec<Deadlock>,
    /// What probes have counted; absent: nothing was asked to be counted by probes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exact: Option<Exact>,
    /// HTTP requests; absent: they are not looked for (`--no-http`), or cannot be seen here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// For whom its threads waited on the network, the most first; absent: as `http`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<Peer>>,
    /// The rules that hold; in a summary, that have held.
    pub findings: Vec<Finding>,
    pub limits: Vec<Limit>,
}

/// What a CPU quota took, from all processes in its cgroup. Of several that hold for the process, it is the one
/// that took most.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Throttled {
    /// How long the quota kept threads of the cgroup from running, all CPUs together, ns. `null`: it was not read in this window
    /// and in the one before, for the process was at rest.
    pub throttled_ns: Option<u64>,
    /// In how many periods it was used up.
    pub throttled_count: Option<u64>,
    /// The quota.
    pub cpu_quota: CpuQuota,
    /// All quotas that hold for it, where they were read in this window.
    #[serde(skip)]
    pub(crate) readings: Vec<QuotaReading>,
}

/// What the quota of a cgroup had taken when it was read.
#[derive(Clone, Debug)]
pub(crate) struct QuotaReading {
    pub(crate) cgroup: String,
    /// Since the cgroup was made.
    pub(crate) throttled_ns: u64,
    /// Since the reading before; `None`: that was not in the window before.
    pub(crate) window_ns: Option<u64>,
}

/// A CPU quota.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CpuQuota {
    /// The cgroup around the process that has it.
    pub cgroup: String,
    /// How many CPUs it allows for.
    pub cpus: f64,
}

words! {
    /// What a process is for.
    pub enum ProcessRole {
        /// It was started as a program.
        Main = "main",
        /// Another process of the same program made it, by `fork` or `multiprocessing`.
        Worker = "worker",
    }
}

/// How a process ended: exactly one of the two is there, none when it could not be seen.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct Exited {
    /// Exit code.
    pub code: Option<u8>,
    /// Number of the signal that killed it.
    pub signal: Option<u8>,
}

/// The interpreter of a process.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Python {
    /// `CPython`, `PyPy`.
    pub implementation: String,
    /// `3.13.0`; `null` when not known.
    pub version: Option<String>,
    /// A build without a GIL.
    pub free_threaded: bool,
    /// Its memory can be read. Otherwise the kernel's columns are there, and nothing of Python.
    pub supported: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// Ended threads and processes that have no row any more. In a snapshot, what never had one
/// (ended since the window began, folded by the kernel programs); in a summary also what had
/// rows in snapshots. Rows and this together are the total, in both.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Ended {
    /// How many threads.
    pub threads: u64,
    /// How many whole processes.
    pub processes: u64,
    /// Where their time went.
    pub ledger: LedgerSum,
}

/// What the garbage collector did, the youngest generation first.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Gc {
    /// Collections of each generation.
    pub collections: Vec<u64>,
    /// Objects that were found unreachable, by generation.
    pub collected: Vec<u64>,
    /// Time in the collector, ns, from samples (see `estimated`).
    pub collecting_ns: Option<u64>,
    /// Fields of this object that are sampled or derived, not counted.
    pub estimated: Vec<&'static str>,
}

/// Waiting for the GIL, and its use.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Gil {
    /// Blocked on it: the threads' `blocked_ns.gil`, also of those without a row; the sum of all pairs. Who held it
    /// may be known up to 2 s later only: until then a look says who has it.
    pub wait_ns: Option<u64>,
    /// Waits that ended, with the runnable time directly after each. Less than 200 us on a CPU between two blocks does not end one.
    pub waits: Option<Histogram>,
    /// The most threads that waited at the same time.
    pub waiters_max: Option<u64>,
    /// Time that some thread had it, ns. A snapshot's value covers the time since the last snapshot
    /// that has one.
    pub held_ns: Option<u64>,
    /// Time that nobody had it, ns.
    pub free_ns: Option<u64>,
    /// held / (held + free), 0 to 1.
    pub utilization: Option<f64>,
    /// Fields of this object that are sampled or derived, not counted.
    pub estimated: Vec<&'static str>,
    /// How often it went from one thread to another.
    pub switches: Option<u64>,
    /// Most waiting first.
    pub pairs: Vec<GilPair>,
    /// The thread that others waited for most. Absent: nobody waited, or it is not known for whom.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hog: Option<GilHog>,
    pub limits: Vec<Limit>,
}

/// A thread that kept others from the GIL.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct GilHog {
    /// The thread.
    pub tid: u32,
    /// For how long others waited for it, ns.
    pub wait_ns: u64,
    /// Where it was met most while it did not wait itself: the innermost frame that is not Python's own library;
    /// `null`: no sample and no look has met it.
    pub frame: Option<Frame>,
}

/// What a thread waited for the GIL while another one held it.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct GilPair {
    /// `null`: nobody, or it cannot be told.
    pub holder_tid: Option<u32>,
    /// Who waited.
    pub victim_tid: u32,
    /// For how long in all, ns.
    pub wait_ns: u64,
    /// Waits of which this holder had the largest part.
    pub count: u64,
}
