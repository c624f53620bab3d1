//! A slice: a thread's time on a CPU, and the wait before it.

use super::{RecordHead, syscall_flags};

/// Bits of a slice's [`RecordHead::flags`].
pub mod slice_flags {
    /// The wait before it began by a block (else by a preemption).
    pub const BLOCKED: u8 = 1;
    /// It ended by a block (else by a preemption).
    pub const VOLUNTARY: u8 = 1 << 1;
    /// It is told whether the wait before it was one on a queue of events.
    pub const TOLD: u8 = 1 << 2;
    /// It was: what loops do when they are idle. The same bit as in the table of system calls.
    pub const QUEUE: u8 = super::syscall_flags::QUEUE;
}

/// [`record_kind::SLICE`](super::record_kind::SLICE). It ended at its head's instant.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SliceRecord {
    pub head: RecordHead,
    /// The block or preemption before it (0: not seen).
    pub off_ns: u64,
    /// The wakeup (0: it was preempted).
    pub wake_ns: u64,
    /// The switch-in.
    pub in_ns: u64,
    /// The kernel's own account of it.
    pub on_cpu_ns: u64,
    /// First argument of the syscall of the block before it.
    pub arg0: u64,
    /// Who woke it; 0: a timer, or it cannot be told.
    pub waker_tid: u32,
    /// The syscall of the block before it, -1 for none.
    pub syscall: i32,
}
