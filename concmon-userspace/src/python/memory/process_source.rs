//! What a scan needs of a process beside its memory.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io;

use crate::event::{Pid, Tid};
use crate::procfs::maps::Mapping;

/// A process, without its memory: a living one, or as it was recorded.
pub(crate) trait ProcessSource: Debug + Send + Sync {
    fn pid(&self) -> Pid;
    /// Whether the process has other thread ids for itself than we have.
    fn has_foreign_ids(&self) -> bool;
    /// Soft limit of the main thread's stack, bytes.
    fn stack_limit(&self) -> Option<u64>;
    /// From the thread ids that the process itself uses to ours.
    fn native_tids(&self) -> HashMap<u32, Tid>;
    /// Whether the process has been forked and runs the program of its parent.
    fn is_fork(&self) -> bool;
    fn is_thread(&self, tid: Tid) -> bool;
    /// The futex that a thread is blocked on.
    fn blocking_futex(&self, tid: Tid) -> io::Result<Option<u64>>;
    /// Whether a thread is blocked on this futex, and was given no time after which it goes on anyway.
    fn waits_for_ever(&self, tid: Tid, futex: u64) -> bool;
    fn mappings(&self) -> Vec<Mapping>;
    /// Address of asyncio's own offset table.
    fn asyncio_table(&self) -> Option<u64>;
}
