//! What probes have counted (`--exact`).

use schemars::JsonSchema;
use serde::Serialize;

use super::{Address, Histogram, Limit};

/// What probes have counted in a process, each one of it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Exact {
    /// What began before is not counted as started. `null`: there are no probes in the process.
    pub since_unix_ns: Option<u64>,
    /// Tasks by name, the most started first.
    pub tasks: Option<Vec<CountedTasks>>,
    /// Absent: not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pools: Option<Pools>,
    pub limits: Vec<Limit>,
}

/// What probes have counted in the thread pools of a process.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Pools {
    /// `null`: there are no probes in the process.
    pub since_unix_ns: Option<u64>,
    /// Those that are gone included, the most submitted first.
    pub rows: Option<Vec<CountedPool>>,
    pub limits: Vec<Limit>,
}

/// The work of one thread pool.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct CountedPool {
    /// Address of its queue, `0x...`; `null`: not known.
    pub queue: Option<Address>,
    /// As `executors[]` has it.
    pub name_prefix: Option<String>,
    /// Pieces of work that it was given.
    pub submitted: u64,
    /// Those that raised.
    pub failed: u64,
    /// Failures since the beginning whose exception nobody has asked for, at the end of the window.
    pub unretrieved: u64,
    /// Of those: their exception is gone, or has waited for ten seconds; they became so in the window.
    pub silent: u64,
}

/// Tasks of one thread with names that are alike, as in `loops[].by_name`.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct CountedTasks {
    /// The loop's thread.
    pub tid: u32,
    /// Their coroutine's where asyncio has named them, else their own with its digits folded to `#`.
    pub name: String,
    /// Made since probes are there, and have begun to run.
    pub started: u64,
    /// Ended with a result, those that existed before included, as in the next two.
    pub finished: u64,
    /// Ended with an exception.
    pub failed: u64,
    /// Were cancelled.
    pub cancelled: u64,
    /// As in `loops[].by_name`; `null`: steps were missed.
    pub gone: Option<u64>,
    /// From the making to the end, of those in `started`.
    pub duration: Histogram,
}
