//! A watched process made a thread or a process.

use super::RecordHead;

/// [`record_kind::FORK`](super::record_kind::FORK). The head's thread is the new one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForkRecord {
    pub head: RecordHead,
    /// The new thread's `task_struct::start_boottime`.
    pub start_boottime_ns: u64,
    pub reserved: u64,
    pub comm: [u64; 2],
    pub reserved2: u64,
    pub parent_tid: u32,
    /// The process id of the new thread.
    pub tgid: i32,
}
