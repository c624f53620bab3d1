//! What probes counted of tasks and of thread pools.

use serde::{Deserialize, Serialize};

use super::{HistFact, Pid, Tid, shared::at_most};

/// What was counted of tasks by probes, cumulative, read at `read_ns`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExactFact {
    pub read_ns: u64,
    pub pid: Pid,
    /// When the process started (`CLOCK_BOOTTIME`), ns, to a clock tick; 0: that is not known.
    #[serde(default)]
    pub start_boottime_ns: u64,
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
    /// When the process started (`CLOCK_BOOTTIME`), ns, to a clock tick; 0: that is not known.
    #[serde(default)]
    pub start_boottime_ns: u64,
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
