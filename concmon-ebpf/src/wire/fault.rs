//! Kernel-side faults: indices of the per-CPU array `FAULTS`, each a u64 count.

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
/// Something was booked for a thread that found no free histograms: they begin later than its account.
pub const NO_HISTS: u32 = 11;
/// A process that begins to run a program found no room in `EXECS`; all are searched then.
pub const EXEC_ROOM: u32 = 12;
/// A record of a socket found the batch of its CPU in use and was lost.
pub const SOCKET_BUSY: u32 = 13;
/// How many codes there are.
pub const COUNT: usize = 14;
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
    "no-histograms",
    "exec-no-room",
    "socket-batch-busy",
];
