//! The lines of `concmon/1`: what `--json` prints, field by field, and what every view sees.
//!
//! Each type here is a shape of the JSON contract, and nothing else: the model fills them in, findings
//! and views read them. `None` is printed as `null` and has a reason in the [`Limit`]s of its object.
//! Within `concmon/1` fields, kinds of lines and words may be added; nothing is removed, and nothing
//! changes its meaning. Names end in their unit: `_ns` nanoseconds, `_bytes` bytes, `_percent`
//! where 100 is one core; `_unix_ns` are instants, nanoseconds since 1970-01-01 UTC, evenly paced from
//! the start of a watch. [`document`] gives the JSON Schema of all lines.

mod address;
mod deadlocks;
pub mod diff;
mod doctor;
pub mod dump;
mod exact;
mod executors;
mod findings;
mod groups;
mod http;
mod lines;
mod loops;
mod peers;
mod place;
mod process;
mod tasks;
mod thread;
mod words;

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

pub use address::Address;
pub use deadlocks::{Deadlock, DeadlockMember};
pub use doctor::{Check, CheckStatus, Doctor, DoctorKind};
pub use exact::{CountedPool, CountedTasks, Exact, Pools};
pub use executors::{Executor, ExecutorKind, Work};
pub use findings::{Finding, RuleKind, RuleLine, Severity};
pub use groups::{
    Exits, Group, GroupExact, GroupFinding, GroupGc, GroupGil, GroupLoops, GroupSource, GroupStall,
    GroupTasks, GroupWork, Roles,
};
pub use http::{Delayed, GroupHttp, GroupRequests, Http, HttpActive, HttpRequests, HttpTask};
pub use lines::{HangKind, HangLine, StallKind, StallLine, document};
pub use loops::{
    BusySplit, ByName, Callback, Contributor, Culprit, CulpritKind, Descriptor, Hang, Loop,
    LoopKind, MissedWakeup, Ready, Saturation, Stall, StallTask, Timing, Trace, Waiting,
};
pub use peers::{Direction, Peer};
pub use place::{Kubernetes, Place};
pub(crate) use process::QuotaReading;
pub use process::{
    CpuQuota, Ended, Exited, Gc, Gil, GilHog, GilPair, Process, ProcessRole, Python, Throttled,
};
pub use tasks::{Cost, Seen, Task, TaskCost, TaskState, TaskWait};
pub use thread::{
    Blocked, Cause, CodeSamples, Frame, Histogram, LedgerSum, LockNs, Purpose, Role, Switches,
    Thread, Wait, WaitKind, WaitingFor, Waker, WakerProcess,
};

use words::words;

/// The name and version of the JSON shape.
pub const SCHEMA: &str = "concmon/1";

words! {
    /// Which stretch of time a report covers.
    pub enum Kind {
        /// One interval.
        Snapshot = "snapshot",
        /// The whole watch; the last line.
        Summary = "summary",
    }
}

/// Everything concmon says about one window.
///
/// In a snapshot counters and histograms cover the window; in a summary the whole watch, and snapshots
/// sum to it. Other gauges are the last known value, of what has ended the last one before its end.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Snapshot {
    /// `concmon/1`.
    pub schema: &'static str,
    #[serde(rename = "type")]
    pub kind: Kind,
    pub window: Window,
    pub monitor: Monitor,
    /// Watched processes, in the order of their ids.
    pub processes: Vec<Process>,
    /// The services that they are, by name.
    pub groups: Vec<Group>,
    pub limits: Vec<Limit>,
}

impl Snapshot {
    /// For most of the time that it covers, nobody looked at threads.
    pub const fn is_blind(&self) -> bool {
        self.monitor.unobserved_ns > self.window.duration_ns / 2
    }
}

/// The stretch of time that a line covers.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct Window {
    /// When it began.
    pub start_unix_ns: u64,
    /// How long it lasted, ns.
    pub duration_ns: u64,
}

/// Why a field of the same object is `null`, partial or missing.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Limit {
    /// Name of the field, `outer.inner` for one of an object within.
    pub field: Cow<'static, str>,
    /// In words, for people.
    pub reason: Cow<'static, str>,
}

/// What the tool itself costs, and what it failed to see.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Monitor {
    /// Version of concmon-bpf.
    pub version: Cow<'static, str>,
    /// CPU time of its own threads, ns.
    pub cpu_ns: u64,
    /// Its resident memory, bytes.
    pub rss_bytes: u64,
    /// Run time of its kernel programs, ns, scaled up from one second in ten (see `estimated`);
    /// `null` where the kernel gives no run time.
    pub kernel_run_ns: Option<u64>,
    /// How long nobody looked at threads, which is asked for (`agent --duty`), ns; absent where it is 0.
    #[serde(default, skip_serializing_if = "thread::is_zero")]
    pub unobserved_ns: u64,
    /// Records that have arrived from the kernel programs.
    pub events: u64,
    /// Records that have not: detail is missing then, totals are not.
    pub events_lost: u64,
    /// Reads of memory, accounts or `/proc` that failed.
    pub reads_failed: u64,
    /// Detail that is left out to stay inside the budget; in a summary, that ever was.
    pub shed: Vec<String>,
    /// `null`: not measured yet.
    pub budget: Option<Budget>,
    /// How long the turns of its select loop took; absent where nobody measured it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passes: Option<Passes>,
    /// Fields of this object that are sampled or derived, not counted.
    pub estimated: Vec<&'static str>,
    /// Counts by declared fault name; only faults that happened.
    pub faults: BTreeMap<String, u64>,
    pub limits: Vec<Limit>,
}

/// Turns of the tool's select loop: what arrives meanwhile waits for the end of one.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct Passes {
    /// How many.
    pub count: u64,
    /// 99 % of them took at most this long, waits of its thread for a CPU included, ns; `null` where `count`
    /// is 0.
    pub wall_p99_ns: Option<u64>,
    /// The longest, without waits of its thread for a CPU, ns.
    pub longest_ns: u64,
}

/// What the tool may take; past it, detail is left out.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct Budget {
    /// CPU time it may take, percent of one core.
    pub cpu_percent: f64,
    /// What its own threads took lately, percent of one core, getting started not counted; `null`: too
    /// early to tell.
    pub cpu_percent_used: Option<f64>,
    /// Memory it may take, bytes.
    pub memory_bytes: u64,
}
