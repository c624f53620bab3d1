//! A watched process.

/// How many GIL addresses a process may have (own-GIL sub-interpreters included).
pub const MAX_GILS: usize = 4;

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

const _: () = assert!(size_of::<Process>() == 40);
