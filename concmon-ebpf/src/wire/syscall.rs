//! What system calls mean.

/// What a syscall means for a thread that blocks in it: a value of the array `SYSCALLS`,
/// indexed by syscall number.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SyscallEntry {
    /// [`cause`].
    pub cause: u8,
    /// [`cause`] when the first argument is 0 (`select` without descriptors); same as `cause` otherwise.
    pub cause_if_arg0_zero: u8,
    /// [`syscall_flags`].
    pub flags: u8,
    /// [`syscall_buffer`](super::syscall_buffer).
    pub buffer: u8,
}

/// Bits of [`SyscallEntry::flags`].
pub mod syscall_flags {
    /// The first argument is a futex address: compare it with the GILs.
    pub const FUTEX: u8 = 1;
    /// A thread inside this call can wake another one on purpose.
    pub const WAKES: u8 = 1 << 1;
    /// An uninterruptible wait in this call keeps its cause (`vfork`).
    pub const KEEPS_CAUSE: u8 = 1 << 2;
    /// Waits on a queue of events: what loops do when they are idle.
    pub const QUEUE: u8 = 1 << 3;
    /// Goes on with a call that a signal has interrupted: which one, its arguments tell.
    pub const RESTARTS: u8 = 1 << 4;
}

/// Syscall numbers below this have an entry in `SYSCALLS`; a power of two.
pub const MAX_SYSCALLS: usize = 512;

const _: () = {
    assert!(size_of::<SyscallEntry>() == 4);
    assert!(MAX_SYSCALLS.is_power_of_two());
};
