//! The row of an executor.

use schemars::JsonSchema;
use serde::Serialize;

use super::words::words;
use super::{Address, Limit};

/// An executor of `concurrent.futures`, or what is like one: a limiter, a server's threads, workers of a task queue.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Executor {
    pub kind: ExecutorKind,
    /// Names of its threads, or of its processes, begin so; `ThreadPool`: those of multiprocessing's, which have no names.
    pub name_prefix: Option<String>,
    /// Address of a limiter, as the tasks that wait for it have it. Absent for others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<Address>,
    /// Workers that exist; of a limiter, tokens that are lent.
    pub workers: u64,
    /// Workers without work.
    pub workers_idle: Option<u64>,
    /// Workers that it may have; of a limiter, all tokens, `null` for one without a limit.
    pub max_workers: Option<u64>,
    /// Work that no worker has begun.
    pub queued: Option<u64>,
    /// Tasks or requests that wait for it: the same as `queued` for a limiter, a server and the workers of a task
    /// queue; absent for executors of `concurrent.futures`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u64>,
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

impl Executor {
    /// How much work has begun, also where it has no names.
    pub(crate) fn begun(&self) -> u64 {
        let known = self.unfinished.zip(self.queued);
        let begun = known.map(|(unfinished, queued)| unfinished.saturating_sub(queued));
        begun.unwrap_or(self.running.len() as u64)
    }
}

words! {
    /// What the workers of an executor are.
    pub enum ExecutorKind {
        Thread = "thread",
        Process = "process",
        /// Tokens, as anyio and trio lend them to tasks that want a thread.
        Limiter = "limiter",
        /// Threads of a server for requests: waitress, cheroot.
        Server = "server",
        /// Workers of a task queue: celery's processes, threads of dask's workers.
        Task = "task",
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
