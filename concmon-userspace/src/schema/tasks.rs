//! The row of a task.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;

use super::words::words;
use super::{Address, Blocked, Frame};

/// A task of asyncio or trio, as of the latest look.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Task {
    /// Address of the task object, `0x...`.
    pub id: Address,
    /// As the program named it.
    pub name: String,
    /// Qualified name of its coroutine.
    pub coroutine: String,
    pub state: TaskState,
    /// From the task's own coroutine down to the innermost one that waits.
    pub awaiting: Vec<Frame>,
    /// What it is suspended on; `null` while it is ready, runs or is done, or it cannot be told.
    pub waits_for: Option<TaskWait>,
    /// The shortest time that the calls of `asyncio.sleep`, `wait` and `wait_for` that it is in were
    /// given, ns; `null`: it is in none.
    pub timeout_ns: Option<u64>,
    /// Ids of the tasks that wait for this one.
    pub awaited_by: Vec<Address>,
    /// `cancel()` was called, and has not arrived yet.
    pub cancel_requested: bool,
    /// Type name of the exception that a done task ended with.
    pub exception: Option<String>,
    /// Whether somebody has asked for the outcome; `null` while there is none.
    pub retrieved: Option<bool>,
    /// Values of the context variables that were asked for, by name.
    pub context: BTreeMap<String, String>,
    /// A single look does not know it.
    #[serde(flatten)]
    pub seen: Option<Seen>,
    /// Absent: nothing is sampled.
    #[serde(flatten)]
    pub cost: Option<TaskCost>,
}

impl Task {
    pub fn is_done(&self) -> bool {
        self.state == TaskState::Done
    }

    /// For how long a watch has known it, ns.
    pub fn age_ns(&self) -> Option<u64> {
        self.seen.map(|seen| seen.age_ns)
    }

    /// When the latest look was.
    pub fn looked_unix_ns(&self) -> Option<u64> {
        let seen = self.seen?;
        Some(seen.first_seen_unix_ns.saturating_add(seen.age_ns))
    }

    /// For how long looks have found it in the wait that it is in, ns.
    pub fn wait_ns(&self) -> Option<u64> {
        let since_unix_ns = self.waits_for.as_ref()?.since_unix_ns?;
        Some(self.looked_unix_ns()?.saturating_sub(since_unix_ns))
    }
}

words! {
    /// How far a task is.
    pub enum TaskState {
        Pending = "pending",
        /// Its step runs right now.
        Running = "running",
        Done = "done",
    }
}

/// For how long a watch has known a task.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Seen {
    /// The first look that showed it.
    pub first_seen_unix_ns: u64,
    /// From then to the latest look, ns.
    pub age_ns: u64,
}

/// What a task is suspended on.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct TaskWait {
    /// `sleep`, `Event`, `Lock`, `Queue`, `socket`, `Task`, ..., else the class of the future.
    pub kind: String,
    /// Address, `0x...`.
    pub object: Option<Address>,
    /// The first of the looks in a row that found it so, in the same place, while no sample met a step of
    /// it: estimated, for it may have been through and back between two of them. Absent: a single look
    /// does not know it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_unix_ns: Option<u64>,
}

/// What a task cost its loop's thread, estimated from samples.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema, PartialEq, Eq)]
pub struct TaskCost {
    #[serde(flatten)]
    pub cost: Cost,
    /// Samples that met it.
    pub samples: u64,
}

/// Where a part of a loop's busy time went: `wall = on_cpu + runnable + Σ blocked`.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Cost {
    /// On a CPU, ns.
    pub on_cpu_ns: u64,
    /// Waiting for a CPU, ns.
    pub runnable_ns: u64,
    /// Waiting for anything else, by cause.
    pub blocked_ns: Blocked,
}
