//! The JSON report as its contract has it, written down apart from the tool's own types.
//!
//! A key that the contract names must be there: `null` is accepted where the contract allows it,
//! a missing key is an error.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Takes `null` but not a missing key, other than a plain `Option`.
fn nullable<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    Option::deserialize(deserializer)
}

/// One line of `--json`.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    pub schema: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub window: Window,
    pub monitor: Monitor,
    pub processes: Vec<Process>,
    pub groups: Vec<Group>,
    pub limits: Vec<Limit>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Window {
    pub start_unix_ns: u64,
    pub duration_ns: u64,
}

impl Window {
    pub fn end_unix_ns(&self) -> u64 {
        self.start_unix_ns + self.duration_ns
    }
}

#[derive(Clone, Debug, Deserialize)]
pub struct Limit {
    pub field: String,
    pub reason: String,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Monitor {
    pub version: String,
    pub cpu_ns: u64,
    pub rss_bytes: u64,
    #[serde(deserialize_with = "nullable")]
    pub kernel_run_ns: Option<u64>,
    pub events: u64,
    pub events_lost: u64,
    pub reads_failed: u64,
    pub shed: Vec<String>,
    pub passes: Option<Passes>,
    pub faults: BTreeMap<String, u64>,
    pub limits: Vec<Limit>,
}

/// Turns of the select loop.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Passes {
    pub longest_ns: u64,
}

/// What a service comes to.
#[derive(Clone, Debug, Deserialize)]
pub struct Group {
    pub name: String,
    pub processes_count: u64,
    pub processes_started: u64,
    pub processes_ended: u64,
    pub cpu_ns: u64,
    pub threads_started: u64,
    pub context_switches: Switches,
    pub ended: Ended,
    pub tasks: GroupTasks,
    pub limits: Vec<Limit>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct GroupTasks {
    #[serde(deserialize_with = "nullable")]
    pub exact: Option<GroupExact>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct GroupExact {
    pub started: u64,
    pub finished: u64,
    pub failed: u64,
    pub cancelled: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Process {
    pub pid: u32,
    pub ppid: u32,
    pub start_unix_ns: u64,
    pub name: String,
    pub cmdline: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub entry: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub pid_inside: Option<u32>,
    #[serde(deserialize_with = "nullable")]
    pub container_id: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub unit: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub group: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub exited: Option<Exited>,
    /// Absent where requests are not looked for.
    pub http: Option<Value>,
    pub peers: Option<Value>,
    #[serde(deserialize_with = "nullable")]
    pub python: Option<Python>,
    pub cpu_ns: u64,
    pub cpu_percent: f64,
    #[serde(deserialize_with = "nullable")]
    pub rss_bytes: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub threads_count: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub children_count: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub descendants_count: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub zombies_count: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub fds_count: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub fds_limit: Option<u64>,
    pub context_switches: Switches,
    pub ended: Ended,
    #[serde(deserialize_with = "nullable")]
    pub gc: Option<Gc>,
    pub gil: Option<Gil>,
    pub threads: Vec<Thread>,
    pub loops: Vec<Loop>,
    pub executors: Vec<Value>,
    pub exact: Option<Exact>,
    pub limits: Vec<Limit>,
    pub findings: Vec<Finding>,
}

impl Process {
    /// The gauges that may be `null`, by name.
    pub fn gauges(&self) -> [(&'static str, Option<u64>); 7] {
        [
            ("rss_bytes", self.rss_bytes),
            ("threads_count", self.threads_count),
            ("children_count", self.children_count),
            ("descendants_count", self.descendants_count),
            ("zombies_count", self.zombies_count),
            ("fds_count", self.fds_count),
            ("fds_limit", self.fds_limit),
        ]
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Exited {
    #[serde(deserialize_with = "nullable")]
    pub code: Option<u8>,
    #[serde(deserialize_with = "nullable")]
    pub signal: Option<u8>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Python {
    pub implementation: String,
    #[serde(deserialize_with = "nullable")]
    pub version: Option<String>,
    pub free_threaded: bool,
    pub supported: bool,
    #[serde(deserialize_with = "nullable")]
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Switches {
    pub voluntary: u64,
    pub involuntary: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Ended {
    pub threads: u64,
    pub processes: u64,
    pub ledger: Ledger,
}

/// `wall = on_cpu + runnable + Σ blocked + unknown`, all in ns.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Ledger {
    pub wall_ns: u64,
    pub on_cpu_ns: u64,
    pub runnable_ns: u64,
    pub preempted_ns: u64,
    pub stolen_ns: u64,
    pub blocked_ns: Blocked,
    pub unknown_ns: u64,
    #[serde(default)]
    pub unobserved_ns: u64,
}

impl Ledger {
    /// The part of the time that the thread could run and did not, since the host took the CPU.
    pub fn host_share(&self) -> f64 {
        let could_run = self.on_cpu_ns + self.runnable_ns;
        self.runnable_ns as f64 / could_run.max(1) as f64
    }
}

#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
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
    /// Every cause with its name.
    pub fn columns(&self) -> [(&'static str, u64); 9] {
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

    pub fn total(&self) -> u64 {
        self.columns().iter().map(|(_, ns)| ns).sum()
    }

    /// The column of a cause; `None` when there is no such cause.
    pub fn by_name(&self, cause: &str) -> Option<u64> {
        self.columns()
            .into_iter()
            .find_map(|(name, ns)| (name == cause).then_some(ns))
    }
}

/// The garbage collector, the youngest generation first.
#[derive(Clone, Debug, Deserialize)]
pub struct Gc {
    pub collections: Vec<u64>,
    pub collected: Vec<u64>,
    #[serde(deserialize_with = "nullable")]
    pub collecting_ns: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Thread {
    pub tid: u32,
    #[serde(deserialize_with = "nullable")]
    pub ident: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub name: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub role: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub daemon: Option<bool>,
    pub alive: bool,
    #[serde(deserialize_with = "nullable")]
    pub entry: Option<String>,
    pub started_unix_ns: u64,
    #[serde(deserialize_with = "nullable")]
    pub ended_unix_ns: Option<u64>,
    #[serde(flatten)]
    pub ledger: Ledger,
    pub lock_ns: LockNs,
    #[serde(deserialize_with = "nullable")]
    pub cpu_user_ns: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub cpu_system_ns: Option<u64>,
    pub switches: Switches,
    pub migrations: u64,
    pub wakeup_latency: Histogram,
    pub slice: Histogram,
    pub off_cpu: BTreeMap<String, Histogram>,
    pub wakers: Vec<Waker>,
    #[serde(deserialize_with = "nullable")]
    pub wait: Option<Wait>,
    #[serde(deserialize_with = "nullable")]
    pub waiting_for: Option<Value>,
    pub stack: Vec<Frame>,
    pub limits: Vec<Limit>,
}

/// `blocked_ns.lock` by what was waited for.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct LockNs {
    pub contended: u64,
    pub waiting_for_work: u64,
    pub join: u64,
    pub other: u64,
}

impl LockNs {
    pub fn total(&self) -> u64 {
        self.contended + self.waiting_for_work + self.join + self.other
    }

    pub fn add(&mut self, more: &Self) {
        self.contended += more.contended;
        self.waiting_for_work += more.waiting_for_work;
        self.join += more.join;
        self.other += more.other;
    }
}

/// A wait that goes on.
#[derive(Clone, Debug, Deserialize)]
pub struct Wait {
    pub cause: String,
    pub since_unix_ns: u64,
    pub before_watch: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Waker {
    #[serde(deserialize_with = "nullable")]
    pub tid: Option<u32>,
    pub cause: String,
    pub count: u64,
    pub blocked_ns: u64,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct Histogram {
    pub count: u64,
    pub sum_ns: u64,
    #[serde(deserialize_with = "nullable")]
    pub min_ns: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub max_ns: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub p50_ns: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub p99_ns: Option<u64>,
    pub buckets: Vec<(u64, u64)>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Gil {
    #[serde(deserialize_with = "nullable")]
    pub wait_ns: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub waits: Option<Histogram>,
    #[serde(deserialize_with = "nullable")]
    pub waiters_max: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub held_ns: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub free_ns: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub utilization: Option<f64>,
    #[serde(deserialize_with = "nullable")]
    pub switches: Option<u64>,
    pub estimated: Vec<String>,
    pub pairs: Vec<GilPair>,
    pub limits: Vec<Limit>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub struct GilPair {
    #[serde(deserialize_with = "nullable")]
    pub holder_tid: Option<u32>,
    pub victim_tid: u32,
    pub wait_ns: u64,
    pub count: u64,
}

impl Gil {
    /// Waiting of the pairs that `which` takes, ns.
    pub fn waited_ns(&self, which: impl Fn(&GilPair) -> bool) -> u64 {
        let pairs = self.pairs.iter().filter(|pair| which(pair));
        pairs.map(|pair| pair.wait_ns).sum()
    }
}

#[derive(Clone, Debug, Deserialize)]
pub struct Loop {
    pub tid: u32,
    pub kind: String,
    pub running: bool,
    pub wall_ns: u64,
    pub idle_ns: u64,
    pub busy_ns: u64,
    pub utilization: f64,
    #[serde(deserialize_with = "nullable")]
    pub ready: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub scheduled: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub pending_tasks: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub tasks_created: Option<u64>,
    pub tasks: Vec<Task>,
    #[serde(deserialize_with = "nullable")]
    pub hang: Option<Hang>,
    /// The time of the loop; absent where nothing is sampled.
    #[serde(flatten)]
    pub timing: Option<Timing>,
}

/// What samples say of a loop.
#[derive(Clone, Debug, Deserialize)]
pub struct Timing {
    #[serde(deserialize_with = "nullable")]
    pub lag: Option<Histogram>,
    #[serde(deserialize_with = "nullable")]
    pub step: Option<Histogram>,
    pub tasks_ns: u64,
    pub callbacks_ns: u64,
    pub unknown_ns: u64,
    pub stalls_count: u64,
    pub stalls_ns: u64,
    /// Requests that its stalls delayed.
    pub delayed: Option<Delayed>,
    pub stalls: Vec<Stall>,
    pub saturation: Saturation,
    pub by_name: Vec<ByName>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Delayed {
    pub requests: u64,
    pub delay_ns: u64,
    pub unread_ns: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Saturation {
    pub count: u64,
    pub busy_ns: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct ByName {
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub started: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub finished: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub failed: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub cancelled: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub duration: Option<Histogram>,
    pub limits: Vec<Limit>,
    pub on_cpu_ns: u64,
    pub runnable_ns: u64,
    pub blocked_ns: Blocked,
}

/// What probes have counted.
#[derive(Clone, Debug, Deserialize)]
pub struct Exact {
    #[serde(deserialize_with = "nullable")]
    pub since_unix_ns: Option<u64>,
    #[serde(deserialize_with = "nullable")]
    pub tasks: Option<Vec<CountedTasks>>,
    pub pools: Option<CountedPools>,
    pub limits: Vec<Limit>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct CountedPools {
    #[serde(deserialize_with = "nullable")]
    pub rows: Option<Vec<CountedPool>>,
    pub limits: Vec<Limit>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct CountedPool {
    #[serde(deserialize_with = "nullable")]
    pub name_prefix: Option<String>,
    pub submitted: u64,
    pub failed: u64,
    pub unretrieved: u64,
    pub silent: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct CountedTasks {
    pub tid: u32,
    pub name: String,
    pub started: u64,
    pub finished: u64,
    pub failed: u64,
    pub cancelled: u64,
    #[serde(deserialize_with = "nullable")]
    pub gone: Option<u64>,
    pub duration: Histogram,
}

/// A step that kept a loop longer than the threshold; on a line of its own, and in a loop's row.
#[derive(Clone, Debug, Deserialize)]
pub struct Stall {
    /// The loop's thread; 0 in a loop's row.
    #[serde(default)]
    pub tid: u32,
    pub at_unix_ns: u64,
    pub duration_ns: u64,
    pub on_cpu_ns: u64,
    pub runnable_ns: u64,
    pub culprit: Culprit,
    #[serde(deserialize_with = "nullable")]
    pub task: Option<Value>,
    #[serde(deserialize_with = "nullable")]
    pub coroutine: Option<String>,
    /// The task that made it an eager one.
    pub creator: Option<Value>,
    pub stack: Vec<Frame>,
    pub context: BTreeMap<String, String>,
    /// The span that it was in.
    pub trace: Option<Value>,
}

/// A step that has not ended.
#[derive(Clone, Debug, Deserialize)]
pub struct Hang {
    pub since_unix_ns: u64,
    pub lasting_ns: u64,
    pub before_watch: bool,
    pub cause: String,
    #[serde(deserialize_with = "nullable")]
    pub frame: Option<Frame>,
    #[serde(deserialize_with = "nullable")]
    pub task: Option<Value>,
    #[serde(deserialize_with = "nullable")]
    pub coroutine: Option<String>,
    pub context: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Culprit {
    pub kind: String,
    #[serde(deserialize_with = "nullable")]
    pub frame: Option<Frame>,
    #[serde(deserialize_with = "nullable")]
    pub holder_tid: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Finding {
    pub rule: String,
    pub severity: String,
    pub summary: String,
    pub evidence: BTreeMap<String, Value>,
    pub active_ns: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Task {
    pub id: String,
    pub name: String,
    pub coroutine: String,
    pub state: String,
    pub awaiting: Vec<Frame>,
    #[serde(deserialize_with = "nullable")]
    pub waits_for: Option<Value>,
    pub awaited_by: Vec<String>,
    pub cancel_requested: bool,
    #[serde(deserialize_with = "nullable")]
    pub exception: Option<String>,
    #[serde(deserialize_with = "nullable")]
    pub retrieved: Option<bool>,
    pub context: BTreeMap<String, String>,
    pub first_seen_unix_ns: u64,
    pub age_ns: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Frame {
    pub function: String,
    pub file: String,
    pub line: u32,
}

impl Report {
    /// The row of a process.
    ///
    /// # Errors
    /// When there is none.
    pub fn process(&self, pid: u32) -> Result<&Process> {
        self.processes
            .iter()
            .find(|process| process.pid == pid)
            .with_context(|| {
                let pids: Vec<u32> = self.processes.iter().map(|p| p.pid).collect();
                format!("{}: no process {pid}, only {pids:?}", self.kind)
            })
    }
}

impl Process {
    /// The row of a thread.
    ///
    /// # Errors
    /// When there is none.
    pub fn thread(&self, tid: u32) -> Result<&Thread> {
        self.threads
            .iter()
            .find(|thread| thread.tid == tid)
            .with_context(|| {
                let tids: Vec<u32> = self.threads.iter().map(|t| t.tid).collect();
                format!("process {}: no thread {tid}, only {tids:?}", self.pid)
            })
    }
}
