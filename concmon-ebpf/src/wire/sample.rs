//! Python stacks that were walked.

use super::{BatchHeader, FRAME_BYTES};

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
    /// The loop's count of its turns, the low half; 0: not told.
    pub turns: u32,
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

const _: () = {
    assert!(size_of::<SampleHead>() == 72);
    assert!(size_of::<SampleFrame>() == 24);
    assert!(size_of::<SampleBatch>() == 24 + SAMPLE_AREA + 32 + FRAME_BYTES);
};
