//! The row of an executor.

use schemars::JsonSchema;
use serde::Serialize;

use super::Limit;
use super::words::words;

/// A `concurrent.futures` executor.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Executor {
    pub kind: ExecutorKind,
    /// Names of its threads begin so.
    pub name_prefix: Option<String>,
    /// Workers that exist.
    pub workers: u64,
    /// Workers without work.
    pub workers_idle: Option<u64>,
    /// Workers that it may have.
    pub max_workers: Option<u64>,
    /// Work that no worker has begun.
    pub queued: Option<u64>,
    /// Work that has begun.
    pub running: Vec<Work>,
    /// Queued and running.
    pub unfinished: Option<u64>,
    /// Work that it was given. This and the next three are `null` unless they are counted by probes.
    pub submitted: Option<u64>,
    /// Work that ended with a result.
    pub finished: Option<u64>,
    /// Work that raised.
    pub failed: Option<u64>,
    /// Failures that nobody has asked for.
    pub unretrieved: Option<u64>,
    pub limits: Vec<Limit>,
}

words! {
    /// What the workers of an executor are.
    pub enum ExecutorKind {
        Thread = "thread",
        Process = "process",
    }
}

/// What a worker of an executor runs.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Work {
    /// The worker; `null` in another process.
    pub tid: Option<u32>,
    /// Qualified name of what was submitted.
    pub function: Option<String>,
    /// When a watch first saw it run; absent: a single look does not know.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_unix_ns: Option<u64>,
}
