//! Why a thread is off the CPU without waiting for one.
//!
//! The numbers index [`Ledger::blocked_ns`](super::Ledger::blocked_ns) and
//! [`Ledger::off_cpu`](super::Ledger::off_cpu), and are what the syscall table
//! ([`SyscallEntry::cause`](super::SyscallEntry::cause)) holds.

/// Waiting for the global interpreter lock: a futex inside a known GIL struct.
pub const GIL: u8 = 0;
/// Any other futex: a lock, a condition, a queue, a join.
pub const LOCK: u8 = 1;
/// A selector: `epoll_wait`, `poll`, `select`.
pub const POLL: u8 = 2;
/// `nanosleep` and relatives, and a `select` without file descriptors.
pub const SLEEP: u8 = 3;
/// Reading, writing, connecting, accepting.
pub const IO: u8 = 4;
/// Waiting for a child process (`wait4`, `waitid`, `vfork`).
pub const CHILD: u8 = 5;
/// Uninterruptible sleep (state `D`), whatever the syscall, except `vfork`.
pub const DISK: u8 = 6;
/// Stopped by a signal or a tracer.
pub const STOPPED: u8 = 7;
/// None of the above, or not known.
pub const OTHER: u8 = 8;
/// How many causes there are.
pub const COUNT: usize = 9;
