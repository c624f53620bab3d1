//! What `/proc` says of a process and its threads.

use serde::{Deserialize, Serialize};

use super::{PlaceFact, Tid, shared::at_most};

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
    #[serde(default)]
    pub place: PlaceFact,
    /// User and system CPU time over the process's life, ended threads included.
    pub cpu_user_ns: Option<u64>,
    pub cpu_system_ns: Option<u64>,
    pub rss_bytes: Option<u64>,
    #[serde(default)]
    pub vms_bytes: Option<u64>,
    pub threads: Option<u64>,
    pub fds: Option<u64>,
    pub fds_limit: Option<u64>,
    pub children: u64,
    pub descendants: u64,
    pub zombies: u64,
    #[serde(deserialize_with = "at_most::<65_536, _, _>")]
    pub thread_stats: Vec<ThreadStat>,
    /// The CPU quotas that hold for it, that of the innermost cgroup first.
    #[serde(default, deserialize_with = "at_most::<32, _, _>")]
    pub quotas: Vec<ThrottledFact>,
}

/// The CPU quota of a cgroup around a process, and what that has taken since it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThrottledFact {
    pub cgroup: String,
    /// CPU time in each period.
    pub quota_ns: u64,
    pub period_ns: u64,
    /// How long its threads were kept from running, all CPUs together, and in how many periods.
    pub throttled_ns: u64,
    pub count: u64,
}

/// What `/proc/PID/task/TID` says of a thread.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ThreadStat {
    pub tid: Tid,
    pub comm: String,
    pub start_boottime_ns: u64,
    pub cpu_user_ns: u64,
    pub cpu_system_ns: u64,
}
