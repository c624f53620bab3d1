//! Which slot a thread's account is in.

/// Slots of threads, by thread id: a value of the memory-mapped array `SLOTS`. Thread `tid`'s slot is
/// element `tid % SLOTS_PER_PAGE` of value `tid / SLOTS_PER_PAGE`; 0 is none. One plain load tells
/// whether a thread is watched, and where its account is.
pub type SlotPage = [u16; SLOTS_PER_PAGE];

/// Elements of a [`SlotPage`]; a power of two.
pub const SLOTS_PER_PAGE: usize = 1024;

/// Slots that there can be, slot 0 included.
pub const MAX_SLOTS: u32 = 1 << 16;

/// Counters that both sides change atomically: the one value of the memory-mapped array `CONTROL`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Control {
    /// Slots handed out and not yet given back.
    pub slots_used: u64,
}

const _: () = assert!(size_of::<SlotPage>() == 2048);
