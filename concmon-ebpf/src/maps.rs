//! The maps, and how programs reach a thread's account.

use core::{
    ffi::c_void,
    intrinsics::{AtomicOrdering, atomic_xadd},
};

use aya_ebpf::{
    bindings::bpf_map_type::BPF_MAP_TYPE_TASK_STORAGE,
    helpers::generated::{
        bpf_map_delete_elem, bpf_map_lookup_elem, bpf_map_update_elem, bpf_task_storage_get,
    },
    macros::{btf_map, map},
    maps::{Array, HashMap, PerCpuArray, PerfEventByteArray, Stack},
};
use concmon_ebpf::{
    Batch, Control, Ledger, MAX_SYSCALLS, Process, SelfTest, SyscallEntry, ThreadSlot, fault,
};

use crate::task::{Task, config};

const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_F_NO_PREALLOC: usize = 1;
const BPF_LOCAL_STORAGE_GET_F_CREATE: u64 = 1;
const BPF_ANY: u64 = 0;

/// A map definition in the BTF form, which task storage needs (aya-ebpf has no type for it).
///
/// Where task storage is missing, the loader turns this definition into a preallocated hash map
/// keyed by thread id: same key size, same value.
#[repr(C)]
pub(crate) struct Threads {
    r#type: *const [i32; BPF_MAP_TYPE_TASK_STORAGE as usize],
    key: *const i32,
    value: *const ThreadSlot,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; BPF_F_NO_PREALLOC],
}

// SAFETY: the fields are placeholders for BTF; the static is only ever used by its address.
unsafe impl Sync for Threads {}

#[btf_map]
pub(crate) static THREADS: Threads = Threads {
    r#type: core::ptr::null(),
    key: core::ptr::null(),
    value: core::ptr::null(),
    max_entries: core::ptr::null(),
    map_flags: core::ptr::null(),
};

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

#[map]
pub(crate) static BATCHES: PerCpuArray<Batch> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub(crate) static RECORDS: PerfEventByteArray = PerfEventByteArray::new(0);

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

#[inline(always)]
fn threads_map() -> *mut c_void {
    core::ptr::addr_of!(THREADS).cast_mut().cast()
}

/// The account of a thread, if it is watched. This is also the filter: anything else has none.
#[inline(always)]
pub(crate) fn ledger_of(task: Task) -> Option<*mut Ledger> {
    ledger_at(slot_of(task)?)
}

/// The slot of a watched thread.
#[inline(always)]
pub(crate) fn slot_of(task: Task) -> Option<u32> {
    let entry: *mut ThreadSlot = if config!(has_task_storage) != 0 {
        // SAFETY: `task` is a trusted task pointer; without the create flag nothing is written.
        unsafe { bpf_task_storage_get(threads_map(), task.ptr().cast(), core::ptr::null_mut(), 0) }
            .cast()
    } else {
        let tid = task.tid();
        // SAFETY: key and map agree on their sizes.
        unsafe { bpf_map_lookup_elem(threads_map(), core::ptr::addr_of!(tid).cast()) }.cast()
    };
    if entry.is_null() {
        return None;
    }
    // SAFETY: checked for null; the value is a `ThreadSlot`.
    Some(unsafe { (*entry).slot })
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

/// Ties `slot` to `task`. Returns `false` where the kernel had no room.
#[inline(always)]
pub(crate) fn bind_slot(task: Task, slot: u32) -> bool {
    let mut value = ThreadSlot { slot, reserved: 0 };
    if config!(has_task_storage) != 0 {
        // SAFETY: trusted task pointer; the initial value is copied.
        let entry = unsafe {
            bpf_task_storage_get(
                threads_map(),
                task.ptr().cast(),
                core::ptr::addr_of_mut!(value).cast(),
                BPF_LOCAL_STORAGE_GET_F_CREATE,
            )
        };
        !entry.is_null()
    } else {
        let tid = task.tid();
        // SAFETY: key, value and map agree on their sizes.
        unsafe {
            bpf_map_update_elem(
                threads_map(),
                core::ptr::addr_of!(tid).cast(),
                core::ptr::addr_of!(value).cast(),
                BPF_ANY,
            ) == 0
        }
    }
}

/// Forgets a thread that ended. Task storage goes away with its task by itself.
#[inline(always)]
pub(crate) fn unbind(tid: u32) {
    if config!(has_task_storage) == 0 {
        // SAFETY: key and map agree on their sizes.
        unsafe { bpf_map_delete_elem(threads_map(), core::ptr::addr_of!(tid).cast()) };
    }
}

/// A thread keeps its account under a new id (exec by a thread that is not the first).
#[inline(always)]
pub(crate) fn rebind(old_tid: u32, task: Task) {
    if config!(has_task_storage) != 0 {
        return;
    }
    // SAFETY: key and map agree on their sizes.
    let entry: *mut ThreadSlot =
        unsafe { bpf_map_lookup_elem(threads_map(), core::ptr::addr_of!(old_tid).cast()) }.cast();
    if entry.is_null() {
        return;
    }
    // SAFETY: checked for null.
    let slot = unsafe { (*entry).slot };
    unbind(old_tid);
    if !bind_slot(task, slot) {
        count_fault(fault::NO_STORAGE);
    }
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
