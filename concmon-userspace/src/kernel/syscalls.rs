//! What the syscalls mean to a thread that blocks in one: one declarative table per architecture.
//!
//! A syscall without a row is `other`. Uninterruptible waits are `disk` whatever the row says,
//! unless it has `KEEPS_CAUSE`; a wait that a tracer or a signal brought about is `stopped`.

use concmon_ebpf::syscall_flags::{FUTEX, KEEPS_CAUSE, QUEUE, RESTARTS, WAKES};
use concmon_ebpf::{MAX_SYSCALLS, SyscallEntry, cause, syscall_buffer};
use libc::*;

use super::Arch;

struct Row {
    number: libc::c_long,
    cause: u8,
    cause_if_arg0_zero: u8,
    flags: u8,
}

/// `SYS_name: cause, flags` or, where a first argument of 0 changes the cause,
/// `SYS_name: cause / cause then, flags`.
macro_rules! rows {
    ($($name:ident: $cause:ident $(/ $zero:ident)?, $flags:expr;)*) => {
        &[$(Row {
            number: $name,
            cause: cause::$cause,
            cause_if_arg0_zero: rows!(@zero $cause $($zero)?),
            flags: $flags,
        }),*]
    };
    (@zero $cause:ident) => { cause::$cause };
    (@zero $cause:ident $zero:ident) => { cause::$zero };
}

/// What libc has no constants for yet: `include/uapi/asm-generic/unistd.h` of 6.7, and the same
/// on both architectures.
#[expect(non_upper_case_globals, reason = "named as libc names its own")]
mod newer {
    pub(super) const SYS_futex_wake: libc::c_long = 454;
    pub(super) const SYS_futex_wait: libc::c_long = 455;
    pub(super) const SYS_futex_requeue: libc::c_long = 456;
}
use newer::*;

/// What both architectures have.
const COMMON: &[Row] = rows! {
    // A null array of descriptors is a sleep by another name.
    SYS_ppoll: POLL / SLEEP, 0;
    SYS_pselect6: POLL / SLEEP, 0;
    SYS_epoll_pwait: POLL, QUEUE;
    SYS_epoll_pwait2: POLL, QUEUE;
    // Its waits are those of a completion loop; submitting can wake kernel and user threads.
    SYS_io_uring_enter: POLL, WAKES | QUEUE;

    SYS_nanosleep: SLEEP, 0;
    SYS_clock_nanosleep: SLEEP, 0;

    // What it goes on with is one of the calls that take a time.
    SYS_restart_syscall: OTHER, RESTARTS;

    SYS_futex: LOCK, FUTEX | WAKES;
    SYS_futex_wait: LOCK, FUTEX;
    SYS_futex_wake: OTHER, FUTEX | WAKES;
    // The first argument of these two is an array of waiters, not a futex.
    SYS_futex_waitv: LOCK, 0;
    SYS_futex_requeue: OTHER, WAKES;
    SYS_semop: LOCK, WAKES;
    SYS_semtimedop: LOCK, WAKES;
    SYS_semctl: OTHER, WAKES;
    SYS_flock: LOCK, WAKES;
    // Of its commands only those for record locks block.
    SYS_fcntl: LOCK, WAKES;

    // A reader makes room, which wakes a writer of a full pipe or socket.
    SYS_read: IO, WAKES;
    SYS_readv: IO, WAKES;
    SYS_pread64: IO, 0;
    SYS_preadv: IO, 0;
    SYS_preadv2: IO, WAKES;
    SYS_write: IO, WAKES;
    SYS_writev: IO, WAKES;
    SYS_pwrite64: IO, 0;
    SYS_pwritev: IO, 0;
    SYS_pwritev2: IO, WAKES;
    SYS_recvfrom: IO, WAKES;
    SYS_recvmsg: IO, WAKES;
    SYS_recvmmsg: IO, WAKES;
    SYS_sendto: IO, WAKES;
    SYS_sendmsg: IO, WAKES;
    SYS_sendmmsg: IO, WAKES;
    SYS_accept: IO, WAKES;
    SYS_accept4: IO, WAKES;
    SYS_connect: IO, WAKES;
    SYS_sendfile: IO, WAKES;
    SYS_splice: IO, WAKES;
    SYS_tee: IO, WAKES;
    SYS_vmsplice: IO, WAKES;
    SYS_copy_file_range: IO, 0;
    // Opening a FIFO waits for its other end, and ends that one's wait.
    SYS_openat: IO, WAKES;
    SYS_openat2: IO, WAKES;
    SYS_fsync: IO, 0;
    SYS_fdatasync: IO, 0;
    SYS_sync: IO, 0;
    SYS_syncfs: IO, 0;
    SYS_sync_file_range: IO, 0;
    SYS_msync: IO, 0;
    SYS_io_getevents: IO, 0;
    SYS_io_submit: IO, WAKES;
    SYS_msgsnd: IO, WAKES;
    SYS_msgrcv: IO, WAKES;
    SYS_mq_timedsend: IO, WAKES;
    SYS_mq_timedreceive: IO, WAKES;

    SYS_wait4: CHILD, 0;
    SYS_waitid: CHILD, 0;
    // With CLONE_VFORK the parent waits, uninterruptibly, until the child runs its program.
    SYS_clone: CHILD, WAKES | KEEPS_CAUSE;
    SYS_clone3: CHILD, WAKES | KEEPS_CAUSE;

    SYS_close: OTHER, WAKES;
    SYS_close_range: OTHER, WAKES;
    SYS_dup3: OTHER, WAKES;
    SYS_shutdown: OTHER, WAKES;
    SYS_epoll_ctl: OTHER, WAKES;
    SYS_kill: OTHER, WAKES;
    SYS_tkill: OTHER, WAKES;
    SYS_tgkill: OTHER, WAKES;
    SYS_rt_sigqueueinfo: OTHER, WAKES;
    SYS_rt_tgsigqueueinfo: OTHER, WAKES;
    SYS_pidfd_send_signal: OTHER, WAKES;
    // A running `vfork` ends here, and whoever joins or waits for the thread goes on.
    SYS_execve: OTHER, WAKES;
    SYS_execveat: OTHER, WAKES;
    SYS_exit: OTHER, WAKES;
    SYS_exit_group: OTHER, WAKES;
};

/// Calls that aarch64 was born without.
#[cfg(target_arch = "x86_64")]
const LEGACY: &[Row] = rows! {
    SYS_poll: POLL / SLEEP, 0;
    SYS_select: POLL / SLEEP, 0;
    SYS_epoll_wait: POLL, QUEUE;
    SYS_open: IO, WAKES;
    SYS_dup2: OTHER, WAKES;
    SYS_fork: OTHER, WAKES;
    SYS_vfork: CHILD, WAKES | KEEPS_CAUSE;
};
#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[Row] = &[];

fn rows() -> impl Iterator<Item = &'static Row> {
    COMMON.iter().chain(LEGACY)
}

/// The table for the kernel: [`MAX_SYSCALLS`] entries, indexed by syscall number.
pub fn table() -> Vec<SyscallEntry> {
    let other = SyscallEntry {
        cause: cause::OTHER,
        cause_if_arg0_zero: cause::OTHER,
        flags: 0,
        buffer: syscall_buffer::NONE,
    };
    let mut table = vec![other; MAX_SYSCALLS];
    for row in rows() {
        let entry = usize::try_from(row.number)
            .ok()
            .and_then(|number| table.get_mut(number));
        if let Some(entry) = entry {
            entry.cause = row.cause;
            entry.cause_if_arg0_zero = row.cause_if_arg0_zero;
            entry.flags = row.flags;
            entry.buffer = buffer(row.number);
        }
    }
    table
}

/// Where a call has the bytes that it reads or writes. `recvmmsg`, `sendmmsg`, `sendfile`, `splice` and io_uring do not
/// tell by their arguments.
fn buffer(number: libc::c_long) -> u8 {
    let is = |one: &[libc::c_long]| one.contains(&number);
    if is(&[SYS_read, SYS_write, SYS_recvfrom, SYS_sendto]) {
        syscall_buffer::PLAIN
    } else if is(&[SYS_readv, SYS_writev]) {
        syscall_buffer::VECTORS
    } else if is(&[SYS_recvmsg, SYS_sendmsg]) {
        syscall_buffer::MESSAGE
    } else {
        syscall_buffer::NONE
    }
}

/// Whether a thread that is blocked in a syscall waits on a queue of events, as loops do: for records that
/// do not tell, of any host.
pub const fn waits_on_queue(arch: Arch, number: u32) -> bool {
    // io_uring_enter and epoll_pwait2; epoll_wait and epoll_pwait; epoll_pwait.
    matches!(
        (arch, number),
        (_, 426 | 441) | (Arch::X86_64, 232 | 281) | (Arch::Aarch64, 22)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_the_table_once() {
        let mut seen = std::collections::BTreeSet::new();
        for row in rows() {
            let number = row.number;
            assert!((0..MAX_SYSCALLS as c_long).contains(&number), "{number}");
            assert!(seen.insert(number), "{number}");
        }
        let marked = table()
            .iter()
            .filter(|e| e.cause != cause::OTHER || e.flags != 0)
            .count();
        assert_eq!(marked, seen.len());
        assert_eq!(table().len(), MAX_SYSCALLS);
    }

    #[test]
    fn meanings() {
        use cause::*;
        for (number, expected) in [
            (SYS_epoll_pwait, (POLL, POLL, QUEUE)),
            (SYS_pselect6, (POLL, SLEEP, 0)),
            (SYS_clock_nanosleep, (SLEEP, SLEEP, 0)),
            (SYS_futex, (LOCK, LOCK, FUTEX | WAKES)),
            (SYS_wait4, (CHILD, CHILD, 0)),
            (SYS_clone, (CHILD, CHILD, WAKES | KEEPS_CAUSE)),
            (SYS_exit_group, (OTHER, OTHER, WAKES)),
            (SYS_restart_syscall, (OTHER, OTHER, RESTARTS)),
            (SYS_getpid, (OTHER, OTHER, 0)),
            #[cfg(target_arch = "x86_64")]
            (SYS_select, (POLL, SLEEP, 0)),
            #[cfg(target_arch = "x86_64")]
            (SYS_vfork, (CHILD, CHILD, WAKES | KEEPS_CAUSE)),
        ] {
            let entry = table()[number as usize];
            let found = (entry.cause, entry.cause_if_arg0_zero, entry.flags);
            assert_eq!(found, expected, "syscall {number}");
        }
    }

    #[test]
    fn queues_are_those_of_the_table() {
        let Some(arch) = Arch::current() else { return };
        for (number, entry) in (0..).zip(table()) {
            let is_queue = entry.flags & QUEUE != 0;
            assert_eq!(waits_on_queue(arch, number), is_queue, "syscall {number}");
        }
        assert!(waits_on_queue(Arch::Aarch64, 22) && !waits_on_queue(Arch::X86_64, 22));
    }

    /// Ground truth: the running kernel does with the numbers that stand here what they are for.
    #[test]
    fn futex_numbers_are_those_of_the_kernel() {
        let version = crate::kernel::version_of(&crate::kernel::release().unwrap()).unwrap();
        if version < (6, 7) {
            eprintln!("SKIPPED futex_numbers_are_those_of_the_kernel: it has not got them");
            return;
        }
        // FUTEX2_SIZE_U32 | FUTEX2_PRIVATE of `include/uapi/linux/futex.h`.
        let flags = 0x02 | 128;
        let word = 7u32;
        // SAFETY: `word` outlives the call, and nobody waits on it.
        let woken = unsafe { syscall(SYS_futex_wake, &raw const word, !0u32, 1, flags) };
        assert_eq!(woken, 0);
        // SAFETY: `word` outlives the call, which returns at once: its value is not 8.
        let waited = unsafe {
            syscall(
                SYS_futex_wait,
                &raw const word,
                8usize,
                usize::MAX >> 32,
                flags,
                0usize,
                0,
            )
        };
        let error = std::io::Error::last_os_error();
        assert_eq!((waited, error.raw_os_error()), (-1, Some(EAGAIN)));
    }
}
