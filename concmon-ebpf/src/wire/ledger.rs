//! The account of one thread.

use core::mem::offset_of;

use super::{HIST_BUCKETS, HistBuckets, HistHead, MAX_GILS, cause};

/// The states of [`Ledger::state`]: what the open stretch since [`Ledger::since_ns`] is.
pub mod state {
    /// The slot belongs to no thread.
    pub const FREE: u8 = 0;
    /// On a CPU.
    pub const RUNNING: u8 = 1;
    /// Woken, waiting for a CPU: wakeup latency.
    pub const WOKEN: u8 = 2;
    /// Preempted or yielded, waiting for a CPU.
    pub const PREEMPTED: u8 = 3;
    /// Off-CPU for [`super::Ledger::cause`].
    pub const BLOCKED: u8 = 4;
    /// Ended; the slot waits for user space to collect it.
    pub const DEAD: u8 = 5;
}

/// Bits of [`Ledger::flags`].
pub mod ledger_flags {
    /// The thread existed before the watch began; its first slice has no known beginning.
    pub const SEEDED: u32 = 1;
    /// No switch has been seen since the seed.
    pub const UNTOUCHED: u32 = 1 << 1;
    /// This slot holds the sum of ended threads of `tgid`, folded for lack of room.
    pub const FOLDED: u32 = 1 << 2;
    /// Something was booked while there were no histograms for it.
    pub const HISTS_LATE: u32 = 1 << 3;
    /// Its state was found by a walk, shortly before switches were told again: one of them may be missing.
    pub const BRIDGED: u32 = 1 << 4;
    /// The slice that was told last is of a wait for the GIL or a lock.
    pub const WAITED: u32 = 1 << 5;
}

/// The account of one thread: element `slot % LEDGERS_PER_CHUNK` of the memory-mapped array that is
/// value `slot / LEDGERS_PER_CHUNK` of `LEDGERS`. Its histograms are elsewhere ([`Hists`]).
///
/// Kernel programs write it, user space reads it in place. `seq` is odd during a write. At every
/// even `seq`, the sum of all columns equals `since_ns - start_ns`; the open stretch from
/// `since_ns` to now belongs to `state`. A reader that finds either rule broken reads again.
///
/// What a cycle of a thread (block, wakeup, switch-in) touches comes first, by lines of the cache: five of them, of which
/// a wakeup, on another CPU, touches the first one only.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct Ledger {
    pub seq: u32,
    /// Kernel's thread id (host PID namespace).
    pub tid: u32,
    /// Kernel's process id (host PID namespace).
    pub tgid: u32,
    /// [`ledger_flags`].
    pub flags: u32,
    /// [`state`].
    pub state: u8,
    /// [`cause`] of the last or current blocked stretch.
    pub cause: u8,
    /// What the next slice's record says of the last wait ([`slice_flags`](super::slice_flags)); 0 when it
    /// began by a preemption.
    pub wait_flags: u8,
    /// Not 0: of its slices, only waits for the GIL and for locks are told, each with what comes after it, which says that
    /// it is over. Set by user space.
    pub sums_only: u8,
    pub last_cpu: u32,
    /// When the open stretch began.
    pub since_ns: u64,
    /// `se.sum_exec_runtime` up to where `on_cpu_ns` is booked.
    pub sum_exec_ns: u64,
    /// The last wakeup (0: none), and who woke it, for the next switch-in to book. What comes before
    /// `since_ns` is of the stretch before, or has overtaken its switch-out.
    pub waking_ns: u64,
    pub waking_tid: u32,
    /// Which [`Hists`] are its histograms; 0: it has none yet. Given with the first switch that is booked.
    pub hists: u32,
    pub on_cpu_ns: u64,

    /// When the thread last left a CPU (0: not seen).
    pub off_ns: u64,
    /// When it was last woken (0: the last wait was a preemption).
    pub wake_ns: u64,
    /// When it was last given a CPU (0: not seen).
    pub in_ns: u64,
    /// First argument of the syscall it blocked in.
    pub arg0: u64,
    /// Syscall it blocked in; -1 when in none, or unknown.
    pub syscall: i32,
    /// Thread that woke it last; 0 when that was a timer or cannot be told.
    pub waker_tid: u32,
    pub woken_ns: u64,
    pub preempted_ns: u64,
    /// Contained in no other column; shown as part of `runnable`.
    pub stolen_ns: u64,

    /// Addresses of the GIL structs of the thread's process, 0 where there is none.
    pub gils: [u64; MAX_GILS],
    /// Growth of the kernel's own counters since the account began.
    pub voluntary: u64,
    pub involuntary: u64,
    /// The kernel's counters when the account began.
    pub voluntary_base: u64,
    pub involuntary_base: u64,

    pub blocked_ns: [u64; cause::COUNT],
    /// Token buckets for stacks taken when the thread blocks, one for each cause, so that many short
    /// waits of one cause leave the stack of a wait of another: the theoretical arrival time of the
    /// next one. A thread may be ahead of it by [`STACK_WINDOW_NS`].
    pub stack_tat_ns: [u64; cause::COUNT],
    /// Time between two of one cause; 0: [`STACK_INTERVAL_NS`]. Set by user space.
    pub stack_interval_ns: u64,
    pub migrations: u64,
    /// The thread state of a thread that has entered another interpreter, and runs there as long as that has frames;
    /// 0: none. Set by user space.
    pub thread_state: u64,
    /// The context version that the last sample showed, and since when.
    pub step_version: u64,
    pub step_since_ns: u64,
    /// The context version that user space was last told of at once.
    pub step_told: u64,

    /// When this account begins.
    pub start_ns: u64,
    /// `task_struct::start_boottime`: with the tid, the identity of the thread.
    pub start_boottime_ns: u64,
    pub unknown_ns: u64,
    /// While no switch was told on purpose ([`Control::detached_ns`](super::Control::detached_ns)).
    pub unobserved_ns: u64,
    /// On a CPU meanwhile, by the kernel's own account; contained in `unobserved_ns`.
    pub unobserved_run_ns: u64,
}

/// By line: all of a cycle, but for one counter each of what it was blocked for, lies in the first three.
const _: () = {
    const LINE: usize = 64;
    assert!(offset_of!(Ledger, on_cpu_ns) + 8 == LINE);
    assert!(offset_of!(Ledger, off_ns) == LINE);
    assert!(offset_of!(Ledger, gils) == 2 * LINE);
    assert!(offset_of!(Ledger, blocked_ns) == 3 * LINE);
};

/// The histograms of one thread: an element of an array that is a value of `HISTS`, as accounts are of
/// `LEDGERS`. Written between the same two steps of [`Ledger::seq`] as the columns that they belong to.
///
/// Each cycle of a thread goes into three of them. Their heads lie together, so that it touches five lines of the cache:
/// those of wakeups and slices are in the first one.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
pub struct Hists {
    /// By number: [`Hists::WAKEUP_LATENCY`], [`Hists::SLICE`], and what [`Hists::off_cpu`] says.
    pub heads: [HistHead; HISTS],
    /// When they begin; 0: with the account.
    pub since_ns: u64,
    pub reserved: [u64; 3],
    pub buckets: [HistBuckets; HISTS],
}

/// How many histograms a thread has.
const HISTS: usize = 2 + cause::COUNT;

impl Hists {
    pub const WAKEUP_LATENCY: usize = 0;
    pub const SLICE: usize = 1;
    pub const COUNT: usize = HISTS;

    pub const ZERO: Hists = Hists {
        heads: [HistHead::ZERO; HISTS],
        since_ns: 0,
        reserved: [0; 3],
        buckets: [[0; HIST_BUCKETS]; HISTS],
    };

    /// The number of the histogram of waits for a [`cause`].
    pub const fn off_cpu(cause: usize) -> usize {
        2 + cause
    }
}

/// Time between two stacks that a thread gives when it blocks for the same cause, in the long run.
pub const STACK_INTERVAL_NS: u64 = 50_000_000;

/// How far a token bucket for a thread's stacks may be ahead: its burst.
pub const STACK_WINDOW_NS: u64 = 1_000_000_000;

const _: () = assert!(size_of::<Ledger>() == 448);
const _: () = {
    assert!(size_of::<Hists>() == 94 * 64);
    assert!(offset_of!(Hists, buckets) == 6 * 64);
};
