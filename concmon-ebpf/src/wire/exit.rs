//! A watched thread begins to end.

use super::RecordHead;

/// Bits of an exit's [`RecordHead::flags`].
pub mod exit_flags {
    /// Every thread of the process has ended or begun to; several may say so.
    pub const LAST: u8 = 1 << 3;
    /// The status is the whole process's (`exit_group` or a signal).
    pub const GROUP: u8 = 1 << 4;
}

/// [`record_kind::EXIT`](super::record_kind::EXIT)
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitRecord {
    pub head: RecordHead,
    /// The thread's `task_struct::start_boottime`.
    pub start_boottime_ns: u64,
    pub reserved: u64,
    /// As `wait` shows it.
    pub status: u64,
    pub reserved2: [u64; 2],
    pub reserved3: u32,
    /// The process id.
    pub tgid: i32,
}
