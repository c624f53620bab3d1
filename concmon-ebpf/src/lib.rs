//! The wire contract: what kernel programs and user space say to each other.
//!
//! Every record and every map value is defined once, here, without dependencies, and its size
//! is asserted at compile time. Both sides include this library; neither has a copy of its own.
//!
//! Times are nanoseconds of `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`) unless a name says otherwise.
#![no_std]

/// Bumped whenever a record or map value changes its shape or meaning.
pub const WIRE_VERSION: u16 = 2;

/// Why a thread is off the CPU without waiting for one.
///
/// The numbers index [`Ledger::blocked_ns`] and [`Ledger::off_cpu`], and are what the syscall
/// table ([`SyscallEntry::cause`]) holds.
pub mod cause {
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
}

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
    /// The thread is its process's first one.
    pub const LEADER: u32 = 1 << 3;
}

/// Buckets of a [`Hist`]: base 2 with four sub-buckets, from 64 ns to about 275 s.
pub const HIST_BUCKETS: usize = 128;
/// log2 of the upper bound (exclusive) of everything that falls into bucket 0.
pub const HIST_MIN_SHIFT: u32 = 6;

/// Position of the highest bit; 0 for 0. By halving: this is on the kernel's hot path, whose
/// instruction set has no such operation, and the usual expansion of it is twice as long.
#[inline(always)]
const fn log2(mut value: u64) -> u32 {
    let mut log = 0;
    if value >> 32 != 0 {
        value >>= 32;
        log += 32;
    }
    if value >> 16 != 0 {
        value >>= 16;
        log += 16;
    }
    if value >> 8 != 0 {
        value >>= 8;
        log += 8;
    }
    if value >> 4 != 0 {
        value >>= 4;
        log += 4;
    }
    if value >> 2 != 0 {
        value >>= 2;
        log += 2;
    }
    log + (value >> 1) as u32
}

/// The bucket that a duration belongs to.
///
/// Bucket 0 also takes what is shorter than [`hist_lower_bound`]`(1)`, the last one what is longer.
#[inline(always)]
pub const fn hist_bucket(ns: u64) -> usize {
    if ns < (1 << HIST_MIN_SHIFT) {
        return 0;
    }
    let log = log2(ns);
    let sub = (ns >> (log - 2)) & 3;
    let index = (((log - HIST_MIN_SHIFT) as u64) << 2) + sub;
    if index >= HIST_BUCKETS as u64 {
        HIST_BUCKETS - 1
    } else {
        index as usize
    }
}

/// The smallest duration in ns that falls into `bucket` (0 for the first).
pub const fn hist_lower_bound(bucket: usize) -> u64 {
    if bucket == 0 {
        return 0;
    }
    let log = HIST_MIN_SHIFT + (bucket as u32 >> 2);
    (4 + (bucket as u64 & 3)) << (log - 2)
}

/// A duration histogram in ns. `min_ns` is meaningless while `count` is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Hist {
    pub count: u64,
    pub sum_ns: u64,
    pub min_ns: u64,
    pub max_ns: u64,
    /// Counts modulo 2^32: user space reads often enough to see every wrap.
    pub buckets: [u32; HIST_BUCKETS],
}

impl Hist {
    pub const ZERO: Hist = Hist {
        count: 0,
        sum_ns: 0,
        min_ns: 0,
        max_ns: 0,
        buckets: [0; HIST_BUCKETS],
    };
}

/// How many GIL addresses a process may have (own-GIL sub-interpreters included).
pub const MAX_GILS: usize = 4;

/// The account of one thread: a value of the memory-mapped array `LEDGERS`.
///
/// Kernel programs write it, user space reads it in place. `seq` is odd during a write. At every
/// even `seq`, the sum of all columns equals `since_ns - start_ns`; the open stretch from
/// `since_ns` to now belongs to `state`. A reader that finds either rule broken reads again.
#[repr(C)]
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
    /// 1 when the last wait began by a block, 0 when by a preemption.
    pub wait_blocked: u8,
    pub reserved: u8,
    pub last_cpu: u32,
    /// When this account begins.
    pub start_ns: u64,
    /// When the open stretch began.
    pub since_ns: u64,
    /// `se.sum_exec_runtime` up to where `on_cpu_ns` is booked.
    pub sum_exec_ns: u64,
    /// The last wakeup (0: none), and who woke it, for the next switch-in to book. What comes before
    /// `since_ns` is of the stretch before, or has overtaken its switch-out.
    pub waking_ns: u64,
    pub waking_tid: u32,
    pub reserved2: u32,

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
    /// `task_struct::start_boottime`: with the tid, the identity of the thread.
    pub start_boottime_ns: u64,

    pub on_cpu_ns: u64,
    pub woken_ns: u64,
    pub preempted_ns: u64,
    /// Contained in no other column; shown as part of `runnable`.
    pub stolen_ns: u64,
    pub unknown_ns: u64,
    pub blocked_ns: [u64; cause::COUNT],

    /// Growth of the kernel's own counters since the account began.
    pub voluntary: u64,
    pub involuntary: u64,
    pub migrations: u64,
    /// The kernel's counters when the account began.
    pub voluntary_base: u64,
    pub involuntary_base: u64,

    /// Addresses of the GIL structs of the thread's process, 0 where there is none.
    pub gils: [u64; MAX_GILS],

    /// Token bucket for stacks taken when the thread blocks: the theoretical arrival time of the
    /// next one. A thread may be ahead of it by [`STACK_WINDOW_NS`].
    pub stack_tat_ns: u64,
    /// Time between two of them; 0: [`STACK_INTERVAL_NS`]. Set by user space.
    pub stack_interval_ns: u64,
    /// The context version that the last sample showed, and since when.
    pub step_version: u64,
    pub step_since_ns: u64,
    /// The context version that user space was last told of at once.
    pub step_told: u64,

    pub wakeup_latency: Hist,
    pub slice: Hist,
    pub off_cpu: [Hist; cause::COUNT],
}

/// Time between two stacks that a thread gives when it blocks, in the long run.
pub const STACK_INTERVAL_NS: u64 = 50_000_000;
/// How far a thread's token bucket for stacks may be ahead: its burst.
pub const STACK_WINDOW_NS: u64 = 1_000_000_000;

/// Bytes of a GIL struct that futex waits may point into (CPython 3.8 to 3.15, see the layouts).
pub const GIL_SIZE: u64 = 208;

/// A watched process: a value of the hash map `PROCESSES`, keyed by the kernel's process id.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Process {
    pub gils: [u64; MAX_GILS],
    /// 1 when children of this process join at fork.
    pub follow: u32,
    /// The slot into which ended threads are folded when slots run short; 0 for none.
    pub fold_slot: u32,
}

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
    pub reserved: u8,
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
}

/// Syscall numbers below this have an entry in `SYSCALLS`; a power of two.
pub const MAX_SYSCALLS: usize = 512;

/// What a [`Record`] is.
pub mod record_kind {
    pub const SLICE: u8 = 1;
    pub const FORK: u8 = 2;
    pub const EXEC: u8 = 3;
    pub const EXIT: u8 = 4;
}

/// Bits of [`Record::flags`].
pub mod record_flags {
    /// Slice: the wait before it began by a block (else by a preemption).
    pub const BLOCKED: u8 = 1;
    /// Slice: it ended by a block (else by a preemption).
    pub const VOLUNTARY: u8 = 1 << 1;
    /// Fork: the child is a new process (else a thread).
    pub const PROCESS: u8 = 1 << 2;
    /// Exit: every thread of the process has ended or begun to; several may say so.
    pub const LAST: u8 = 1 << 3;
    /// Exit: the code is the whole process's (`exit_group` or a signal).
    pub const GROUP: u8 = 1 << 4;
    /// Exit: the thread is the process's first one.
    pub const LEADER: u8 = 1 << 5;
}

/// One event of a watched thread. All kinds share one size, so that a batch is an array.
///
/// | field | slice | fork | exec | exit |
/// |---|---|---|---|---|
/// | `tid`, `tgid` | the thread | the child | the thread | the thread |
/// | `at_ns` | switch-out that ended it | fork | exec | begin of its exit |
/// | `a` | instant of the block or preemption before it (0: not seen) | child's start_boottime | previous tid | start_boottime |
/// | `b` | instant of the wakeup (0: it was preempted) | | | |
/// | `c` | instant of the switch-in | comm, bytes 0..8 | comm, bytes 0..8 | exit code as `wait` shows it |
/// | `d` | on-CPU ns, kernel's account | comm, bytes 8..16 | comm, bytes 8..16 | |
/// | `e` | first syscall argument of the block before it | | | |
/// | `other` | waker's tid or 0 | parent's tid | | |
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// [`record_kind`].
    pub kind: u8,
    /// Slice: [`cause`] of the block before it.
    pub cause: u8,
    /// [`record_flags`].
    pub flags: u8,
    pub reserved: u8,
    pub tid: u32,
    pub at_ns: u64,
    pub a: u64,
    pub b: u64,
    pub c: u64,
    pub d: u64,
    pub e: u64,
    pub other: u32,
    /// Slice: syscall of the block before it, -1 for none. Other kinds: the process id (tgid).
    pub syscall_or_tgid: i32,
}

/// Records in one batch, at most: all that 9 bits can count, so that a masked count is a valid one.
/// With its header, a batch stays below the 64 KiB that a perf event can hold.
pub const BATCH_RECORDS: usize = 511;

/// What stands before the records of a batch in a perf event.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// [`WIRE_VERSION`].
    pub version: u16,
    pub count: u16,
    pub cpu: u32,
    /// Records this CPU has produced before this batch; a gap to the previous batch is a loss.
    pub produced_before: u64,
    /// When the first record was put in.
    pub opened_ns: u64,
}

/// The per-CPU batch under construction: a CPU's value of the mapped array `BATCHES`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Batch {
    pub header: BatchHeader,
    pub records: [Record; BATCH_RECORDS],
    /// 1 while a program on this CPU writes the batch.
    pub busy: u32,
    pub reserved: u32,
}

/// Where a Python interpreter's frames are: a value of the hash map `PYTHONS`, keyed by the
/// kernel's process id. Offsets in bytes; [`NO_OFFSET`] where there is no such field.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Python {
    /// From a thread's TLS base to a pointer to its thread state.
    pub tls_offset: i64,
    /// Address of the collector's `int` that is not 0 while it works; 0: none.
    pub collecting: u64,
    /// Address of the code object of the function that is one turn of an event loop; 0: none.
    pub turn_code: u64,
    /// A step this old is told at once, ns.
    pub long_ns: u64,
    /// Clears the tag of a frame's reference to its code.
    pub executable_mask: u64,
    /// In the thread state: the pointer to the current context; its version is behind it.
    pub thread_context: u32,
    /// In the thread state: the pointer to the innermost frame, or to what has it.
    pub thread_frame: u32,
    /// In what the thread state points to: the pointer to the innermost frame.
    pub root_frame: u32,
    /// How much of each frame is read, at most [`FRAME_BYTES`].
    pub frame_bytes: u32,
    /// In a frame: its code, its caller, its instruction; all of 8 bytes and aligned.
    pub executable: u32,
    pub previous: u32,
    pub instruction: u32,
    /// In a frame: the byte that says what it belongs to.
    pub owner: u32,
    /// In a generator: its frame.
    pub generator_frame: u32,
    /// In a frame: the generator that it belongs to.
    pub frame_generator: u32,
    /// In a frame: the first local variable.
    pub locals: u32,
    /// Which local variables of the turn are: the float that tells when it began, the index of the
    /// callback that runs, and how many there are.
    pub turn_start: u32,
    pub turn_index: u32,
    pub turn_count: u32,
    /// In a float and in an int: the value.
    pub float_value: u32,
    pub int_value: u32,
    pub reserved: [u32; 4],
}

/// There is no such field.
pub const NO_OFFSET: u32 = u32::MAX;

/// Owners of frames from this number on are no Python code (`enum _frameowner`, Include/internal/
/// pycore_frame.h and pycore_interpframe_structs.h), and the one of generators.
pub const OWNER_NO_CODE: u8 = 3;
pub const OWNER_GENERATOR: u8 = 1;

/// The most bytes of a frame that are read; a power of two.
pub const FRAME_BYTES: usize = 128;
/// The most frames of a sample.
pub const SAMPLE_FRAMES: usize = 64;
/// Bytes of samples in a batch, at most: any sample fits behind offset [`SAMPLE_STARTS`].
pub const SAMPLE_AREA: usize = SAMPLE_STARTS + 2048;
/// Samples begin before this offset; a power of two.
pub const SAMPLE_STARTS: usize = 16384;

/// Bits of [`SampleHead::flags`].
pub mod sample_flags {
    /// Taken when the thread blocked, else by the clock while it was on a CPU.
    pub const BLOCK: u8 = 1;
    /// The garbage collector was at work.
    pub const COLLECTING: u8 = 1 << 1;
    /// There are more frames than were walked.
    pub const TRUNCATED: u8 = 1 << 2;
    /// A read failed: frames below it are missing.
    pub const FAULT: u8 = 1 << 3;
    /// The thread has a thread state, whose context version is given.
    pub const STATE: u8 = 1 << 4;
    /// The thread was in user mode.
    pub const USER: u8 = 1 << 5;
    /// The step is old enough to be told at once.
    pub const LONG: u8 = 1 << 6;
}

/// What stands before the frames of a sample.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleHead {
    /// [`sample_flags`].
    pub flags: u8,
    /// [`cause`] of the block that begins.
    pub cause: u8,
    /// How many [`SampleFrame`]s follow, the innermost first.
    pub frames: u16,
    pub tid: u32,
    pub tgid: u32,
    /// Which of the turn's callbacks runs, and how many there are; [`NO_OFFSET`]: not told.
    pub turn_index: u32,
    pub turn_count: u32,
    pub reserved: u32,
    pub at_ns: u64,
    /// `PyThreadState.context` and `context_ver`.
    pub context: u64,
    pub context_version: u64,
    /// Bits of the float that tells when the turn began, seconds; 0: not told.
    pub turn_start: u64,
    /// User-mode instruction pointer; 0: not known.
    pub ip: u64,
    pub thread_state: u64,
}

/// One Python frame of a sample.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleFrame {
    /// Address of the code object; 0 for a frame that is no Python code.
    pub code: u64,
    /// Address of the generator or coroutine that the frame belongs to; 0: none.
    pub generator: u64,
    /// Pointer to, or number of, the instruction, as the layout has it.
    pub instruction: u64,
}

/// The per-CPU batch of samples: a CPU's value of the mapped array
/// `SAMPLE_BATCHES`. `header.count`
/// counts samples; they lie one behind the other.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct SampleBatch {
    pub header: BatchHeader,
    pub area: [u8; SAMPLE_AREA],
    /// When the block began that may become a long one (0: none), and the slot of its thread.
    pub blocked_ns: u64,
    pub blocked_slot: u32,
    /// Bytes of `area` in use.
    pub used: u32,
    /// How old a block is told at once.
    pub blocked_long_ns: u64,
    pub reserved: u64,
    /// The head of a frame while it is looked at.
    pub frame: [u8; FRAME_BYTES],
}

/// Slots of threads, by thread id: a value of the memory-mapped array `SLOTS`. Thread `tid`'s slot is
/// element `tid % SLOTS_PER_PAGE` of value `tid / SLOTS_PER_PAGE`; 0 is none. One plain load tells
/// whether a thread is watched, and where its account is.
pub type SlotPage = [u16; SLOTS_PER_PAGE];

/// Elements of a [`SlotPage`]; a power of two.
pub const SLOTS_PER_PAGE: usize = 1024;

/// Slots that there can be, slot 0 included.
pub const MAX_SLOTS: u32 = 1 << 16;

/// Kernel-side faults: indices of the per-CPU array `FAULTS`, each a u64 count.
pub mod fault {
    /// `bpf_perf_event_output` failed; a batch was lost (its records show as a gap).
    pub const OUTPUT_FAILED: u32 = 0;
    /// A new thread found no free slot; it is not accounted for.
    pub const NO_SLOT: u32 = 1;
    /// A thread id beyond the range that was the kernel's when the watch began.
    pub const TID_RANGE: u32 = 2;
    /// A process found no room in `PROCESSES`.
    pub const NO_PROCESS: u32 = 3;
    /// The kernel switched a thread without its tracepoint telling; the stretch was reconstructed
    /// from the kernel's own account of the thread.
    pub const SWITCH_UNSEEN: u32 = 4;
    /// A switch-in after a block whose wakeup was not seen: the stretch stayed blocked.
    pub const WAKEUP_UNSEEN: u32 = 5;
    /// A record found the batch of its CPU in use and was lost.
    pub const BATCH_BUSY: u32 = 6;
    /// A slot number outside the array.
    pub const BAD_SLOT: u32 = 7;
    /// An ended thread was folded into its process for lack of free slots.
    pub const FOLDED: u32 = 8;
    /// A task or a failure found no room in a map; it is not counted.
    pub const EXACT_ROOM: u32 = 9;
    /// A task could not be read; it is not counted.
    pub const EXACT_READ: u32 = 10;
    /// How many codes there are.
    pub const COUNT: usize = 11;
    /// Their names, in order.
    pub const NAMES: [&str; COUNT] = [
        "output-failed",
        "no-slot",
        "tid-range",
        "no-process",
        "switch-unseen",
        "wakeup-unseen",
        "batch-busy",
        "bad-slot",
        "folded",
        "exact-no-room",
        "exact-read-failed",
    ];
}

/// How tasks of a process are read when they are counted exactly: a value of the hash map `EXACT`,
/// keyed by the kernel's process id. Offsets in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exact {
    /// Address of the type `str`; names of other types are numbers that nobody has chosen.
    pub text_type: u64,
    /// Types of coroutines that have a qualified name: coroutines and generators.
    pub coroutine_types: [u64; 2],
    /// In a task: its state (an `int`, 0 while it is pending), and the others, all pointers.
    pub state: u32,
    pub exception: u32,
    pub loop_object: u32,
    pub name: u32,
    pub coroutine: u32,
    /// In a coroutine: its qualified name.
    pub qualname: u32,
    /// In a type: its name, a C string.
    pub type_name: u32,
    /// In a string: its length, its state, and its characters, when they are ASCII and when not.
    pub text_length: u32,
    pub text_state: u32,
    pub text_ascii: u32,
    pub text_compact: u32,
    /// In a tuple: the first item.
    pub tuple_items: u32,
    /// Tasks may run within their own initialization.
    pub eager: u32,
    pub reserved: u32,
}

/// Bytes of a name that are kept, a power of two, and of one whose digits are to be folded.
pub const NAME_BYTES: usize = 128;
pub const FOLDED_BYTES: usize = NAME_BYTES / 2;

/// A name, zeros behind it. Words, so that it is moved by words.
pub type ExactName = [u64; NAME_BYTES / 8];

/// What tasks are counted under: a key of the hash map `EXACT_ROWS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExactKey {
    pub tgid: u32,
    /// The thread that runs their steps: so one thread alone writes a row.
    pub tid: u32,
    /// Address of the loop.
    pub loop_object: u64,
    /// A hash of the name.
    pub name: u64,
}

/// A task of which the end is still to come: a key of the hash map `EXACT_TASKS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExactTaskKey {
    pub task: u64,
    pub tgid: u32,
    pub reserved: u32,
}

/// What is known of it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExactTask {
    /// When it was made; 0: before it could be seen.
    pub made_ns: u64,
    /// Its coroutine, as it was made with.
    pub coroutine: u64,
    pub row: ExactKey,
    /// 1 once `row` is known: from its first step on.
    pub named: u32,
    /// Bytes of each character of the name: 1, 2 or 4.
    pub width: u32,
    /// In names of one byte per character, runs of digits are folded to one `#`, unless it is a
    /// coroutine's.
    pub name: ExactName,
}

/// How many values [`ExactPlace`] can have for one instruction.
pub const PLACE_DEPTHS: u32 = 4;

/// An instruction that calls pass at their beginning or end: a key of the hash map `EXACT_PLACES`. The
/// value is what a call has on the stack there, bytes. Where functions share code, that differs: indices
/// count up from 0, and are below [`PLACE_DEPTHS`]. The beginning of a function is at 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExactPlace {
    pub address: u64,
    pub tgid: u32,
    pub index: u32,
}

/// A probed function that has been entered: a key of the map `EXACT_CALLS`, whose value is the task.
/// `stack` is its stack pointer at the entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExactCall {
    pub stack: u64,
    pub tid: u32,
    pub reserved: u32,
}

/// What is counted of tasks: a value of the hash map `EXACT_ROWS`. Only the thread of its key writes
/// it; `seq` is odd meanwhile.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ExactRow {
    pub seq: u64,
    /// Tasks that were made while they could be seen, and have begun to run.
    pub started: u64,
    pub finished: u64,
    pub failed: u64,
    pub cancelled: u64,
    /// From the making to the end, of those in `started`.
    pub duration: Hist,
    /// As [`ExactTask::width`], 0 until there is a name, and its name.
    pub width: u32,
    pub reserved: u32,
    pub name: ExactName,
}

/// How failures in the thread pools of a process are read: a value of the hash map `EXACT_FUTURES`,
/// keyed by the kernel's process id. Addresses, then offsets in bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExactFutures {
    /// Code objects of `_WorkItem.run`, of `Future.__get_result` and of `_worker`.
    pub run: u64,
    pub result: u64,
    pub worker: u64,
    /// The type `_WorkItem`.
    pub item_type: u64,
    /// Types of exceptions that asyncio makes anew, without a trace of the old ones; or 0.
    pub converted: [u64; 2],
    /// Where the address of the thread state is that has the GIL.
    pub holder: u64,
    /// In a frame object: its frame. 0: it is the frame.
    pub object_frame: u32,
    /// In a frame.
    pub executable: u32,
    pub previous: u32,
    /// In a frame of `_worker`: the variable that holds its queue.
    pub worker_queue: u32,
    /// In a thread state: the exception that is being raised; 0: its type and its traceback, below.
    pub raised: u32,
    pub raised_type: u32,
    pub raised_traceback: u32,
    /// In an exception: its traceback; in that: its frame object.
    pub exception_traceback: u32,
    pub traceback_frame: u32,
    /// `Future.set_exception` of asyncio takes its arguments as a vector.
    pub vector: u32,
}

/// The work of one thread pool: a key of the hash map `EXACT_POOLS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PoolKey {
    /// Address of its queue; 0: not known.
    pub queue: u64,
    pub tgid: u32,
    pub reserved: u32,
}

/// What is counted of it. All are only added to, atomically.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolRow {
    pub submitted: u64,
    pub failed: u64,
    /// Of `failed`: in `EXACT_FAILED` when they failed.
    pub kept: u64,
    /// Of `kept`: their exception was asked for.
    pub retrieved: u64,
    /// Of `kept`: the exception is gone, and was not asked for.
    pub dropped: u64,
}

/// A failure whose exception nobody has asked for: a key of the hash map `EXACT_FAILED`; the value is
/// the queue of its pool.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailedKey {
    /// The frame object of `_WorkItem.run` that the exception passed through; it lives as long as
    /// the exception does.
    pub frame: u64,
    pub tgid: u32,
    pub reserved: u32,
}

/// What the self-test program saw of the task that ran it: the value of the array `SELF_TEST`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct SelfTest {
    pub pid_by_helper: u32,
    pub tgid_by_helper: u32,
    pub pid_by_offset: u32,
    pub tgid_by_offset: u32,
    pub start_boottime_ns: u64,
    pub sum_exec_ns: u64,
    pub comm: [u8; 16],
    pub syscall: i64,
    pub arg0: u64,
    pub state: u32,
    pub on_cpu: u32,
    /// Threads that the process still has.
    pub live: u32,
    /// 1 when the task counted as queued.
    pub queued: u32,
    /// 1 when the task counted as a kernel thread.
    pub kernel_thread: u32,
    /// Process id, by helper, of whoever walks the tasks.
    pub asker_tgid: u32,
    /// How often the program ran for the process that asked.
    pub runs: u64,
}

/// What user space tells the kernel programs before they are loaded: offsets from the running
/// kernel's BTF in bytes, and what this kernel can do. Frozen, so the verifier sees constants and
/// leaves out what is switched off. Flags are 0 or 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelConfig {
    /// `task_struct::pid`: the thread id.
    pub task_pid: u32,
    /// `task_struct::tgid`: the process id.
    pub task_tgid: u32,
    pub task_flags: u32,
    /// `task_struct::__state`, or `state` before 5.14.
    pub task_state: u32,
    pub task_start_boottime: u32,
    pub task_exit_code: u32,
    pub task_signal: u32,
    pub task_comm: u32,
    pub task_sum_exec: u32,
    /// `task_struct::nvcsw` and `nivcsw`: voluntary and involuntary switches.
    pub task_nvcsw: u32,
    pub task_nivcsw: u32,
    pub task_on_cpu: u32,
    pub task_on_rq: u32,
    /// `task_struct::se.sched_delayed`; used when `has_sched_delayed`.
    pub task_sched_delayed: u32,
    pub signal_flags: u32,
    pub signal_group_exit_code: u32,
    pub signal_live: u32,
    /// Syscall number and first argument in the saved user registers.
    pub regs_syscall: u32,
    pub regs_arg0: u32,
    /// `bpf_task_pt_regs` works (5.15); else causes come from the task state alone.
    pub has_task_regs: u32,
    /// `bpf_get_current_task_btf` works (5.11); of use only together with the registers.
    pub has_current_task_btf: u32,
    /// `sched_switch` passes the previous task's state (5.18).
    pub has_prev_state: u32,
    pub has_sched_delayed: u32,
    /// Slots in `LEDGERS`; slot 0 is never used.
    pub slots: u32,
    /// Ended threads are folded once this many slots are in use.
    pub fold_above: u32,
    /// A batch older than this is sent with the next event or tick, ns.
    pub batch_age_ns: u32,
    /// Bytes of the saved syscall number: 8 on x86-64, 4 on arm64.
    pub regs_syscall_bytes: u32,
    /// Bytes of `task_struct::on_cpu` and `on_rq`: 4, or 1 since 7.2.
    pub task_on_cpu_bytes: u32,
    pub task_on_rq_bytes: u32,
    /// The thread's TLS base (x86-64: `thread.fsbase`); used when `has_task_tls`.
    pub task_tls: u32,
    pub has_task_tls: u32,
    /// Instruction pointer in the saved user registers.
    pub regs_ip: u32,
}

/// Counters that both sides change atomically: the one value of the memory-mapped array `CONTROL`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Control {
    /// Slots handed out and not yet given back.
    pub slots_used: u64,
}

const _: () = {
    assert!(core::mem::size_of::<Hist>() == 544);
    assert!(core::mem::size_of::<Record>() == 64);
    assert!(core::mem::size_of::<BatchHeader>() == 24);
    assert!(core::mem::size_of::<Batch>() == 24 + 64 * BATCH_RECORDS + 8);
    assert!(core::mem::size_of::<Ledger>() == 336 + 11 * 544);
    assert!(core::mem::size_of::<Python>() == 120);
    assert!(core::mem::size_of::<SampleHead>() == 72);
    assert!(core::mem::size_of::<SampleFrame>() == 24);
    assert!(core::mem::size_of::<SampleBatch>() == 24 + SAMPLE_AREA + 32 + FRAME_BYTES);
    assert!(core::mem::size_of::<Exact>() == 24 + 14 * 4);
    assert!(core::mem::size_of::<ExactKey>() == 24);
    assert!(core::mem::size_of::<ExactTaskKey>() == 16);
    assert!(core::mem::size_of::<ExactTask>() == 48 + NAME_BYTES);
    assert!(core::mem::size_of::<ExactCall>() == 16);
    assert!(core::mem::size_of::<ExactPlace>() == 16);
    assert!(core::mem::size_of::<ExactRow>() == 40 + 544 + 8 + NAME_BYTES);
    assert!(core::mem::size_of::<ExactFutures>() == 56 + 10 * 4);
    assert!(core::mem::size_of::<PoolKey>() == 16);
    assert!(core::mem::size_of::<PoolRow>() == 40);
    assert!(core::mem::size_of::<FailedKey>() == 16);
    assert!(core::mem::size_of::<Process>() == 40);
    assert!(core::mem::size_of::<SyscallEntry>() == 4);
    assert!(core::mem::size_of::<SlotPage>() == 2048);
    assert!(BATCH_RECORDS == 0x1ff);
    assert!(core::mem::size_of::<SelfTest>() == 96);
    assert!(core::mem::size_of::<KernelConfig>() == 32 * 4);
    assert!(MAX_SYSCALLS.is_power_of_two());
};
