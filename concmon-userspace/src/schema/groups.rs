//! What a service is summed up to, whichever processes did it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::words::words;
use super::{
    Delayed, Ended, GroupHttp, Histogram, LedgerSum, Limit, LockNs, LoopKind, Peer, ProcessRole,
    Severity, Stall, Switches,
};

/// The processes that one service is. Its sums outlive them: in the snapshots of one watch they add up to
/// the summary, and they never fall.
///
/// A process that was made by a fork belongs to its parent's service. One that runs a program of its own is
/// a service by itself when it has lived for five seconds, and until then in none; one that ends sooner has
/// worked for its parent's. What it has added until then counts in the window in which that becomes known; the
/// window in which it begins another program is the one's that it was before.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Group {
    /// The service's.
    pub name: String,
    /// Where the name is from.
    pub source: GroupSource,
    /// Processes that live.
    pub processes_count: u64,
    /// Those that began.
    pub processes_started: u64,
    /// Those that ended.
    pub processes_ended: u64,
    /// How these ended.
    pub exits: Exits,
    /// Living processes by what they are for.
    pub roles: Roles,
    /// CPU time of all threads, ns.
    pub cpu_ns: u64,
    /// In user mode, ns (see `estimated`).
    pub cpu_user_ns: u64,
    /// In the kernel, ns (see `estimated`).
    pub cpu_system_ns: u64,
    /// CPU time, percent of one core.
    pub cpu_percent: f64,
    /// Resident memory of the living ones, bytes; pages that they share count in each.
    pub rss_bytes: Option<u64>,
    /// Threads of the living ones.
    pub threads_count: Option<u64>,
    /// Threads that began.
    pub threads_started: u64,
    /// Open file descriptors of the living ones.
    pub fds_count: Option<u64>,
    /// Where the time of all threads went.
    #[serde(flatten)]
    pub ledger: LedgerSum,
    /// `blocked_ns.lock` by what was waited for.
    pub lock_ns: LockNs,
    /// The same as of all threads, by what these are for; `none`: it was not known.
    pub by_role: BTreeMap<&'static str, LedgerSum>,
    /// The kernel's own counts.
    pub context_switches: Switches,
    /// From the decision to wake a thread to its switch-in.
    pub wakeup_latency: Histogram,
    /// `null`: no GIL was seen in any of them.
    pub gil: Option<GroupGil>,
    /// `null`: no collector was seen in any of them.
    pub gc: Option<GroupGc>,
    /// Event loops, by their kind.
    pub loops: Vec<GroupLoops>,
    /// Tasks of the loops.
    pub tasks: GroupTasks,
    /// Work of thread pools; `null`: it is not counted (`--exact futures`).
    pub work: Option<GroupWork>,
    /// HTTP requests; `null`: none was seen in any of them, or nobody looks (`--no-http`).
    pub http: Option<GroupHttp>,
    /// For whom threads waited on the network, the most first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<Peer>,
    /// The worst ones, the longest first.
    pub stalls: Vec<GroupStall>,
    /// Rows of its processes that were folded away, and are in no row of another process.
    pub ended: Ended,
    /// The worst finding of each rule.
    pub findings: Vec<GroupFinding>,
    /// Fields of this object that are sampled or derived, not counted.
    pub estimated: Vec<&'static str>,
    pub limits: Vec<Limit>,
}

words! {
    /// What a service has its name from.
    pub enum GroupSource {
        /// A rule of the agent's configuration.
        Rule = "rule",
        /// `OTEL_SERVICE_NAME`, or `service.name` in `OTEL_RESOURCE_ATTRIBUTES`.
        Otel = "otel",
        /// `DD_SERVICE`.
        Datadog = "datadog",
        /// The namespace and the container of its pod.
        Kubernetes = "kubernetes",
        /// Its container.
        Container = "container",
        /// Its systemd unit.
        Unit = "unit",
        /// The script or module that it was started to run.
        Script = "script",
        /// The name of the process at the top, for want of anything better.
        Tree = "tree",
    }
}

/// How processes ended.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema)]
pub struct Exits {
    /// With code 0.
    pub ok: u64,
    /// With another code.
    pub error: u64,
    /// By a signal.
    pub signal: u64,
    /// That was not seen.
    pub unknown: u64,
}

/// Processes by what they are for.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema)]
pub struct Roles {
    /// What was started.
    pub main: u64,
    /// What that has made to do its work.
    pub worker: u64,
}

impl Roles {
    /// Counts one more.
    pub fn count(&mut self, role: ProcessRole) {
        match role {
            ProcessRole::Main => self.main += 1,
            ProcessRole::Worker => self.worker += 1,
        }
    }
}

/// Waits for the GILs of a service.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct GroupGil {
    /// Blocked on it, and runnable directly after that, ns.
    pub wait_ns: u64,
    /// Waits that ended.
    pub waits: Histogram,
    /// Time that a GIL was held, ns, all processes together.
    pub held_ns: u64,
    /// Fields of this object that are sampled or derived, not counted.
    pub estimated: Vec<&'static str>,
}

/// What the garbage collectors of a service did, the youngest generation first.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct GroupGc {
    /// Collections of each generation.
    pub collections: Vec<u64>,
    /// Objects that were found unreachable, by generation.
    pub collected: Vec<u64>,
}

/// The event loops of one kind.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct GroupLoops {
    pub kind: LoopKind,
    /// Those that run now.
    pub running: u64,
    /// Blocked in their selectors, ns.
    pub idle_ns: u64,
    /// All else, ns.
    pub busy_ns: u64,
    /// As of a loop; `null`: too little was sampled.
    pub lag: Option<Histogram>,
    /// As of a loop; `null`: too little was sampled.
    pub step: Option<Histogram>,
    /// Steps longer than the threshold.
    pub stalls_count: u64,
    /// Their time, ns.
    pub stalls_ns: u64,
    /// HTTP requests that these delayed, in sum: one that two of them delayed counts twice. Absent: none is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delayed: Option<Delayed>,
    /// How many of them by what took the most of the time.
    pub stalls_by_cause: BTreeMap<&'static str, u64>,
    /// Loops that hang now.
    pub hung: u64,
    /// Fields of this object that are sampled or derived, not counted.
    pub estimated: Vec<&'static str>,
}

/// The tasks of a service.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct GroupTasks {
    /// That exist and are not done; `null`: none could be read.
    pub pending: Option<u64>,
    /// Made, as the interpreters count them; `null`: none does.
    pub created: Option<u64>,
    /// What probes count; `null`: they do not (`--exact tasks`).
    pub exact: Option<GroupExact>,
}

/// What probes have counted of tasks.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct GroupExact {
    /// Made, and have begun to run.
    pub started: u64,
    /// Ended with a result.
    pub finished: u64,
    /// Ended with an exception.
    pub failed: u64,
    /// Were cancelled.
    pub cancelled: u64,
    /// From the making to the end.
    pub duration: Histogram,
}

/// What probes have counted of the work of thread pools.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct GroupWork {
    /// Given to a pool.
    pub submitted: u64,
    /// Ended with an exception.
    pub failed: u64,
    /// Of these, nobody asked for the exception.
    pub silent: u64,
}

/// A stall of one of a service's processes.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct GroupStall {
    /// The loop's process.
    pub pid: u32,
    /// The loop's thread.
    pub tid: u32,
    #[serde(flatten)]
    pub stall: Stall,
}

/// A rule that holds in processes of a service.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct GroupFinding {
    /// Its name.
    pub rule: &'static str,
    /// The highest.
    pub severity: Severity,
    /// In how many processes it holds, 1,024 at most; in a summary, has held.
    pub processes_count: u64,
    /// The process where it is worst.
    pub pid: u32,
    /// What is wrong there, in one line.
    pub summary: String,
}
