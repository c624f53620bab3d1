//! An allocator that knows how much each thread has, and the most it ever had.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// A thread that wants more than this gets nothing, which ends the program: before it takes the
/// machine with it.
const MAX_THREAD_BYTES: isize = 1 << 29;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

pub(crate) struct Counting;

/// Whether the thread may have so many more bytes.
fn grow(bytes: isize) -> bool {
    NOW.try_with(|now| {
        now.set(now.get() + bytes);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
        now.get() < MAX_THREAD_BYTES
    })
    .unwrap_or(true)
}

// SAFETY: every call is passed on to the system's allocator with the same arguments; null is
// what an allocator may always answer.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !grow(layout.size() as isize) {
            return std::ptr::null_mut();
        }
        // SAFETY: as the caller guarantees.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !grow(layout.size() as isize) {
            return std::ptr::null_mut();
        }
        // SAFETY: as the caller guarantees.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !grow(size as isize - layout.size() as isize) {
            return std::ptr::null_mut();
        }
        // SAFETY: as the caller guarantees.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        grow(-(layout.size() as isize));
        // SAFETY: as the caller guarantees.
        unsafe { System.dealloc(block, layout) }
    }
}

/// The most bytes this thread has had at once while `work` ran, beyond what it had before.
pub(crate) fn peak_of<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = NOW.get();
    PEAK.set(before);
    let result = work();
    (result, (PEAK.get() - before).max(0) as u64)
}
