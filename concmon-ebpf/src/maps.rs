//! The maps, and how programs reach a thread's account.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    bindings::bpf_map_type::BPF_MAP_TYPE_ARRAY,
    btf_maps,
    helpers::bpf_map_lookup_elem,
    macros::{btf_map, map},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, PerfEventByteArray, Queue},
};
use concmon_ebpf::{
    Batch, Control, Exact, ExactCall, ExactFutures, ExactKey, ExactPlace, ExactRow, ExactTask,
    ExactTaskKey, FREE_NUMBERS, FailedKey, HIST_CHUNKS, HISTS_PER_CHUNK, Hists, LEDGER_CHUNKS,
    LEDGERS_PER_CHUNK, Ledger, MAX_SYSCALLS, Namespace, PoolKey, PoolRow, Process, Python,
    SLOTS_PER_PAGE, SampleBatch, SelfTest, SlotPage, Socket, SocketBatch, SocketTest, SyscallEntry,
    fault,
};

use crate::{task::Task, verifier::bounded};

const BPF_F_MMAPABLE: u32 = 1 << 10;
const BPF_F_NO_PREALLOC: u32 = 1;

/// [`SlotPage`]s up to the kernel's highest thread id; mapped by user space. Resized by the loader.
#[map]
pub(crate) static SLOTS: Array<SlotPage> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The same by the ids that user space has for threads, which maps it instead; of one page unless those are others.
#[map]
pub(crate) static SEEN_SLOTS: Array<SlotPage> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub(crate) static NAMESPACE: Array<Namespace> = Array::with_max_entries(1, 0);

/// Processes, not watched, that begin to run a program; user space takes them out.
#[map]
pub(crate) static EXECS: Queue<u32> = Queue::with_max_entries(1024, 0);

/// What arrays in an array of arrays are like: `LENGTH` values of `BYTES` bytes. By sizes, not by types:
/// the arrays that user space makes have none, and some kernels (6.1) compare that.
#[repr(C)]
#[allow(dead_code, reason = "the loader reads the types of the fields")]
pub(crate) struct Chunk<const BYTES: usize, const LENGTH: usize, const FLAGS: usize> {
    r#type: *const [i32; BPF_MAP_TYPE_ARRAY as usize],
    key_size: *const [i32; size_of::<u32>()],
    value_size: *const [i32; BYTES],
    max_entries: *const [i32; LENGTH],
    map_flags: *const [i32; FLAGS],
}

/// The value with this number in an array of chunks, of which it knows the type.
///
/// # Safety
///
/// Values of the array are `T`.
#[inline(always)]
unsafe fn in_chunks<
    T,
    const BYTES: usize,
    const LENGTH: usize,
    const FLAGS: usize,
    const CHUNKS: usize,
>(
    map: &btf_maps::ArrayOfMaps<Chunk<BYTES, LENGTH, FLAGS>, CHUNKS>,
    number: u32,
) -> Option<*mut T> {
    const { assert!(size_of::<T>() == BYTES) };
    let chunk: *const _ = map.get(number / LENGTH as u32)?;
    let element = number % LENGTH as u32;
    // SAFETY: a map that the outer one has given, and a key of its size.
    let value =
        unsafe { bpf_map_lookup_elem(chunk.cast_mut().cast(), (&raw const element).cast()) };
    (!value.is_null()).then_some(value.cast())
}

/// One [`Ledger`] per slot, in chunks that user space adds and maps; slot 0 stays unused.
#[btf_map]
pub(crate) static LEDGERS: btf_maps::ArrayOfMaps<
    Chunk<{ size_of::<Ledger>() }, LEDGERS_PER_CHUNK, { BPF_F_MMAPABLE as usize }>,
    LEDGER_CHUNKS,
> = btf_maps::ArrayOfMaps::new();

/// The same for [`Hists`]; number 0 stays unused.
#[btf_map]
pub(crate) static HISTS: btf_maps::ArrayOfMaps<
    Chunk<{ size_of::<Hists>() }, HISTS_PER_CHUNK, { BPF_F_MMAPABLE as usize }>,
    HIST_CHUNKS,
> = btf_maps::ArrayOfMaps::new();

/// Numbers of free slots, and of free histograms, kept filled by user space.
#[map]
pub(crate) static FREE_SLOTS: Queue<u32> = Queue::with_max_entries(FREE_NUMBERS, 0);

#[map]
pub(crate) static FREE_HISTS: Queue<u32> = Queue::with_max_entries(FREE_NUMBERS, 0);

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

/// Sockets of TCP that may speak HTTP, by their cookies, until they are closed. Like the next three, of one entry unless
/// that is asked for.
#[map]
pub(crate) static SOCKETS: LruHashMap<u64, Socket> = LruHashMap::with_max_entries(1, 0);

/// The same for unix sockets, of which there are many that are for something else, and whose end is not told.
#[map]
pub(crate) static UNIX_SOCKETS: LruHashMap<u64, Socket> = LruHashMap::with_max_entries(1, 0);

/// One [`SocketBatch`] per CPU; mapped by user space.
#[map]
pub(crate) static SOCKET_BATCHES: Array<SocketBatch> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// By local port, [`concmon_ebpf::port_flags`]. No lock is needed where each has a byte.
#[map]
pub(crate) static SERVED_PORTS: Array<u8> = Array::with_max_entries(1, 0);

#[map]
pub(crate) static SOCKET_RECORDS: PerfEventByteArray = PerfEventByteArray::new(0);

#[map]
pub(crate) static SOCKET_TEST: Array<SocketTest> = Array::with_max_entries(1, 0);

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

/// The cell of `slots` that holds the slot of `tid`.
#[inline(always)]
fn slot_cell(slots: &'static Array<SlotPage>, tid: u32) -> Option<*mut u32> {
    let page: *mut u32 = slots.get_ptr_mut(tid / SLOTS_PER_PAGE as u32)?.cast();
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
    match slot_cell(&SLOTS, tid) {
        // SAFETY: a cell of a live map value.
        Some(cell) => unsafe { core::ptr::read_volatile(cell) },
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
    tie(&SLOTS, tid, slot)
}

/// The same in one of the arrays of slots.
#[inline(always)]
pub(crate) fn tie(slots: &'static Array<SlotPage>, tid: u32, slot: u32) -> bool {
    let Some(cell) = slot_cell(slots, tid) else {
        count_fault(fault::TID_RANGE);
        return false;
    };
    // SAFETY: a cell of a live map value; only this thread's births and ends write it.
    unsafe { core::ptr::write_volatile(cell, slot) };
    true
}

#[inline(always)]
pub(crate) fn ledger_at(slot: u32) -> Option<*mut Ledger> {
    if slot == 0 {
        return None;
    }
    // SAFETY: its values are accounts.
    let ledger = unsafe { in_chunks(&LEDGERS, slot) };
    if ledger.is_none() {
        count_fault(fault::BAD_SLOT);
    }
    ledger
}

/// The histograms with this number, which an account has; 0: it has none.
#[inline(always)]
pub(crate) fn hists_at(number: u32) -> Option<*mut Hists> {
    if number == 0 {
        return None;
    }
    // SAFETY: its values are sets of histograms.
    unsafe { in_chunks(&HISTS, number) }
}

/// Takes free histograms; 0: there are none.
#[inline(always)]
pub(crate) fn take_hists() -> u32 {
    match FREE_HISTS.pop() {
        Ok(Some(number)) => {
            if let Some(control) = CONTROL.get_ptr_mut(0) {
                // SAFETY: a live, aligned map value that both sides only change atomically.
                unsafe { atomic_add(&raw mut (*control).hists_used, 1) };
            }
            number
        }
        _ => {
            count_fault(fault::NO_HISTS);
            0
        }
    }
}

/// Gives back histograms that are all zero.
#[inline(always)]
pub(crate) fn give_hists(number: u32) {
    if FREE_HISTS.push(number, 0).is_ok()
        && let Some(control) = CONTROL.get_ptr_mut(0)
    {
        // SAFETY: a live, aligned map value that both sides only change atomically.
        unsafe { atomic_add(&raw mut (*control).hists_used, u64::MAX) };
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
    unsafe {
        let used = core::ptr::read_volatile(&raw const (*control).slots_used);
        used > core::ptr::read_volatile(&raw const (*control).fold_above)
    }
}

/// Since when switches are not told, on purpose; 0: they are.
#[inline(always)]
pub(crate) fn detached_ns() -> u64 {
    match CONTROL.get_ptr(0) {
        // SAFETY: a live, aligned map value.
        Some(control) => unsafe { core::ptr::read_volatile(&raw const (*control).detached_ns) },
        None => 0,
    }
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
