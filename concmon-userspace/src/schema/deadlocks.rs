//! The row of a deadlock.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Address, Frame};

/// Threads and tasks each of which waits for another of them, as of the latest look.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Deadlock {
    /// Threads first, in the order of their ids.
    pub members: Vec<DeadlockMember>,
    /// How many others wait for one of the members, directly or through others.
    pub behind: u64,
}

/// A thread or a task of a deadlock: it has either a `tid` or a `task`.
#[derive(Clone, Debug, Serialize, JsonSchema, PartialEq, Eq)]
pub struct DeadlockMember {
    /// The kernel's id of the thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tid: Option<u32>,
    /// The task, `0x...`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<Address>,
    /// Python's name of it; `null`: it has none.
    pub name: Option<String>,
    /// What others wait for that it has, `RLock 0x...`; `null`: they wait for itself, for its end or its result.
    pub holds: Option<String>,
    /// That it has it is concluded from the statement (`with`, `async with`) that it is in: the lock does not say so.
    pub inferred: bool,
    /// What it waits for: `RLock 0x...`, `the end of worker (4244)`, `task fetch`, ...
    pub waits_for: String,
    /// Where it waits: the innermost frame that is not Python's own library; `null`: its stack could not be read.
    #[serde(rename = "where")]
    pub place: Option<Frame>,
}
