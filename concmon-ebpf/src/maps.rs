//! The maps, and how programs reach a thread's account.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, PerfEventByteArray, Stack},
};
use concmon_ebpf::{
    Batch, Control, Exact, ExactCall, ExactFutures, ExactKey, ExactPlace, ExactRow, ExactTask,
    ExactTaskKey, FailedKey, Ledger, MAX_SYSCALLS, PoolKey, PoolRow, Process, Python,
    SLOTS_PER_PAGE, SampleBatch, SelfTest, SlotPage, SyscallEntry, fault,
};

use crate::{
    task::{Task, config},
    verifier::bounded,
};

const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_F_NO_PREALLOC: u32 = 1;

/// [`SlotPage`]s up to the kernel's highest thread id; mapped by user space. Resized by the loader.
#[map]
pub(crate) static SLOTS: Array<SlotPage> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// One [`Ledger`] per slot; mapped by user space. Resized by the loader; slot 0 stays unused.
#[map]
pub(crate) static LEDGERS: Array<Ledger> = Array::with_max_entries(64, BPF_F_MMAPABLE);

/// Free slot numbers, filled by user space.
#[map]
pub(crate) static FREE_SLOTS: Stack<u32> = Stack::with_max_entries(64, 0);

#[map]
pub(crate) static CONTROL: Array<Control> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Watched processes by process id.
#[map]
pub(crate) static PROCESSES: HashMap<u32, Process> = HashMap::with_max_entries(64, 0);

#[map]
pub(crate) static SYSCALLS: Array<SyscallEntry> = Array::with_max_entries(MAX_SYSCALLS as u32, 0);

/// One [`Batch`] per CPU; mapped by user space, which takes from there what a CPU that sleeps does
/// not send. Resized by the loader.
#[map]
pub(crate) static BATCHES: Array<Batch> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub(crate) static RECORDS: PerfEventByteArray = PerfEventByteArray::new(0);

/// Interpreters of watched processes, by process id.
#[map]
pub(crate) static PYTHONS: HashMap<u32, Python> = HashMap::with_max_entries(64, 0);

/// The same for samples.
#[map]
pub(crate) static SAMPLE_BATCHES: Array<SampleBatch> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub(crate) static SAMPLES: PerfEventByteArray = PerfEventByteArray::new(0);

/// How to read tasks that are counted exactly, by process id. Like the next four, of one entry
/// unless that is asked for.
#[map]
pub(crate) static EXACT: HashMap<u32, Exact> = HashMap::with_max_entries(1, 0);

#[map]
pub(crate) static EXACT_TASKS: HashMap<ExactTaskKey, ExactTask> =
    HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static EXACT_ROWS: HashMap<ExactKey, ExactRow> =
    HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// Calls of probed functions. One of a task that goes on stays until there is another at its place on
/// the stack, or until it is dropped as the oldest.
#[map]
pub(crate) static EXACT_CALLS: LruHashMap<ExactCall, u64> = LruHashMap::with_max_entries(1, 0);

#[map]
pub(crate) static EXACT_PLACES: HashMap<ExactPlace, u64> =
    HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// Nothing: what a new row is made from.
#[map]
pub(crate) static EXACT_ZERO: Array<ExactRow> = Array::with_max_entries(1, 0);

/// How to read thread pools whose failures are counted, by process id. Like the next two, of one
/// entry unless that is asked for.
#[map]
pub(crate) static EXACT_FUTURES: HashMap<u32, ExactFutures> = HashMap::with_max_entries(1, 0);

#[map]
pub(crate) static EXACT_POOLS: HashMap<PoolKey, PoolRow> =
    HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static EXACT_FAILED: HashMap<FailedKey, u64> =
    HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

#[map]
pub(crate) static FAULTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(fault::COUNT as u32, 0);

#[map]
pub(crate) static SELF_TEST: Array<SelfTest> = Array::with_max_entries(1, 0);

/// Counts a fault by its declared code.
#[inline(always)]
pub(crate) fn count_fault(code: u32) {
    if let Some(count) = FAULTS.get_ptr_mut(code) {
        // SAFETY: a per-CPU counter; an interrupted increment can lose a count, never memory.
        unsafe { *count += 1 };
    }
}

/// The cell that holds the slot of `tid`.
#[inline(always)]
fn slot_cell(tid: u32) -> Option<*mut u16> {
    let page: *mut u16 = SLOTS.get_ptr_mut(tid / SLOTS_PER_PAGE as u32)?.cast();
    // SAFETY: the index is masked to the page's length.
    Some(unsafe { page.add(bounded::<{ SLOTS_PER_PAGE as i32 }>(tid as usize)) })
}

/// The slot of a thread, 0 if it is not watched: this is also the filter.
///
/// A plain value instead of an option: the payload of a `None` would be an uninitialised register
/// to the verifier wherever the compiler keeps it.
#[inline(always)]
pub(crate) fn slot_of(task: Task) -> u32 {
    slot_of_tid(task.tid())
}

#[inline(always)]
pub(crate) fn slot_of_tid(tid: u32) -> u32 {
    match slot_cell(tid) {
        // SAFETY: a cell of a live map value.
        Some(cell) => u32::from(unsafe { core::ptr::read_volatile(cell) }),
        None => 0,
    }
}

/// The account of a thread, if it is watched.
#[inline(always)]
pub(crate) fn ledger_of(task: Task) -> Option<*mut Ledger> {
    ledger_at(slot_of(task))
}

/// Ties `slot` to thread `tid`; 0 unties. `false`: there is no cell for such an id.
#[inline(always)]
pub(crate) fn bind(tid: u32, slot: u32) -> bool {
    let Some(cell) = slot_cell(tid) else {
        count_fault(fault::TID_RANGE);
        return false;
    };
    // SAFETY: a cell of a live map value; only this thread's births and ends write it.
    unsafe { core::ptr::write_volatile(cell, slot as u16) };
    true
}

#[inline(always)]
pub(crate) fn ledger_at(slot: u32) -> Option<*mut Ledger> {
    if slot == 0 {
        return None;
    }
    let ledger = LEDGERS.get_ptr_mut(slot);
    if ledger.is_none() {
        count_fault(fault::BAD_SLOT);
    }
    ledger
}

/// Takes a free slot. `None` is counted: the thread will have no account.
#[inline(always)]
pub(crate) fn take_slot() -> Option<u32> {
    match FREE_SLOTS.pop() {
        Ok(Some(slot)) => {
            change_slots_used(1);
            Some(slot)
        }
        _ => {
            count_fault(fault::NO_SLOT);
            None
        }
    }
}

/// Gives back a slot whose account is all zero.
#[inline(always)]
pub(crate) fn give_slot(slot: u32) {
    if FREE_SLOTS.push(slot, 0).is_ok() {
        change_slots_used(u64::MAX);
    }
}

/// Whether so many slots are in use that ended threads must be folded.
#[inline(always)]
pub(crate) fn slots_are_short() -> bool {
    let Some(control) = CONTROL.get_ptr(0) else {
        return false;
    };
    // SAFETY: a live, aligned map value.
    let used = unsafe { core::ptr::read_volatile(&raw const (*control).slots_used) };
    used > u64::from(config!(fold_above))
}

#[inline(always)]
fn change_slots_used(by: u64) {
    if let Some(control) = CONTROL.get_ptr_mut(0) {
        // SAFETY: a live, aligned map value that both sides only change atomically.
        unsafe { atomic_add(&raw mut (*control).slots_used, by) };
    }
}

/// Adds to a shared cell (wrapping). The old value is not used: fetching it needs Linux 5.12.
///
/// # Safety
///
/// `cell` must be an aligned u64 in a live map value.
#[inline(always)]
pub(crate) unsafe fn atomic_add(cell: *mut u64, by: u64) {
    // SAFETY: see the function's contract. `core::sync::atomic` has no read-modify-write
    // operations for this target.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(cell, by) };
}
