//! Records on their way to user space.

use super::Record;

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

const _: () = {
    assert!(size_of::<BatchHeader>() == 24);
    assert!(size_of::<Batch>() == 24 + 64 * BATCH_RECORDS + 8);
    assert!(BATCH_RECORDS == 0x1ff);
};
