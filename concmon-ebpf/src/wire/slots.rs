//! Which slot a thread's account is in, and how much room there is for accounts.
//!
//! Accounts lie in chunks, which are arrays of their own inside an array of arrays: user space adds
//! chunks before they are needed, and takes those away that have become empty. Slots that can be handed
//! out wait in a queue that user space keeps filled, the lowest first.

/// Slots of threads, by thread id: a value of the memory-mapped array `SLOTS`. Thread `tid`'s slot is
/// element `tid % SLOTS_PER_PAGE` of value `tid / SLOTS_PER_PAGE`; 0 is none. One plain load tells
/// whether a thread is watched, and where its account is. Where user space has other ids than the kernel, a second
/// such array, `SEEN_SLOTS`, has the same by its ids.
pub type SlotPage = [u32; SLOTS_PER_PAGE];

/// Elements of a [`SlotPage`]; a power of two.
pub const SLOTS_PER_PAGE: usize = 1024;

/// Accounts in a chunk of `LEDGERS`; a power of two. Each chunk that is added or taken away costs a grace period
/// of the kernel's, so that they are not smaller.
pub const LEDGERS_PER_CHUNK: usize = 1024;

/// Chunks that `LEDGERS` can have.
pub const LEDGER_CHUNKS: usize = 128;

/// Slots that there can be, slot 0 included.
pub const MAX_SLOTS: u32 = (LEDGER_CHUNKS * LEDGERS_PER_CHUNK) as u32;

/// Sets of histograms in a chunk of `HISTS`; a power of two.
pub const HISTS_PER_CHUNK: usize = 256;

/// Chunks that `HISTS` can have: every thread can have its own.
pub const HIST_CHUNKS: usize = MAX_SLOTS as usize / HISTS_PER_CHUNK;

/// Numbers that can wait in a queue of what is free: all there are.
pub const FREE_NUMBERS: u32 = MAX_SLOTS;

/// Counters, and what user space says while it watches: the one value of the memory-mapped array
/// `CONTROL`. Counters are changed atomically by both sides.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Control {
    /// Slots handed out and not yet given back.
    pub slots_used: u64,
    /// The same of sets of histograms.
    pub hists_used: u64,
    /// Ended threads are folded once more slots than this are in use.
    pub fold_above: u64,
    /// Since when `sched_switch` and `sched_waking` are not attached, on purpose, ns; 0: they are.
    pub detached_ns: u64,
}

const _: () = assert!(size_of::<SlotPage>() == 4096);
