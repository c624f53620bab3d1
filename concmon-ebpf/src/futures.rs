//! Failures in thread pools, and whether anybody asks for them.
//!
//! A failure is known by the frame object of `_WorkItem.run` that its exception has passed through: the
//! exception's traceback begins there until it is raised again, and keeps it alive. So whoever raises
//! that exception, or hands it to asyncio, has asked for it; and when the same address is used by
//! another failure, the exception is gone.
//!
//! The interpreter has one lock for all that is probed here, so that nothing runs beside it but other
//! processes.

use concmon_ebpf::{ExactFutures, FailedKey, PoolKey, PoolRow, fault};

use crate::{
    exact::read,
    maps::{EXACT_FAILED, EXACT_FUTURES, EXACT_POOLS, atomic_add, count_fault},
    namespace,
};

/// Make an entry, change none (include/uapi/linux/bpf.h).
const BPF_NOEXIST: u64 = 1;
/// Bits of a reference that are not part of the address.
const TAG: u64 = 3;
/// The type of an object.
const OBJECT_TYPE: u64 = 8;

#[inline(always)]
fn current_tgid() -> u32 {
    namespace::current().tgid
}

#[inline(always)]
fn reference(address: u64) -> u64 {
    read(address) & !TAG
}

/// The counts of a pool; `None`, which is counted, where there is no room.
#[inline(always)]
fn pool(tgid: u32, queue: u64) -> Option<*mut PoolRow> {
    let key = PoolKey {
        queue,
        tgid,
        reserved: 0,
    };
    if EXACT_POOLS.get_ptr(&key).is_none() {
        let zero = PoolRow {
            submitted: 0,
            failed: 0,
            kept: 0,
            retrieved: 0,
            dropped: 0,
        };
        let _ = EXACT_POOLS.insert(&key, &zero, BPF_NOEXIST);
    }
    let row = EXACT_POOLS.get_ptr_mut(&key);
    if row.is_none() {
        count_fault(fault::EXACT_ROOM);
    }
    row
}

/// `SimpleQueue.put` is called with these arguments.
#[inline(always)]
pub(crate) fn put(queue: u64, arguments: u64) {
    let tgid = current_tgid();
    let Some(futures) = EXACT_FUTURES.get_ptr(&tgid) else {
        return;
    };
    // SAFETY: a live map value.
    let item_type = unsafe { (*futures).item_type };
    if read(read(arguments) + OBJECT_TYPE) != item_type {
        return;
    }
    if let Some(row) = pool(tgid, queue) {
        // SAFETY: an aligned cell of a live map value.
        unsafe { atomic_add(&raw mut (*row).submitted, 1) };
    }
}

/// An exception leaves a frame, or is caught in it.
#[inline(always)]
pub(crate) fn unwound(object: u64) {
    let tgid = current_tgid();
    let Some(futures) = EXACT_FUTURES.get_ptr(&tgid) else {
        return;
    };
    // SAFETY: a live map value.
    let futures = unsafe { &*futures };
    let frame = match futures.object_frame {
        0 => object,
        offset => read(object + u64::from(offset)),
    };
    let code = reference(frame + u64::from(futures.executable));
    if code == 0 {
        count_fault(fault::EXACT_READ);
    } else if code == futures.run {
        failed(tgid, futures, object, frame);
    } else if code == futures.result {
        let thread = read(futures.holder);
        let traceback = match futures.raised {
            0 => read(thread + u64::from(futures.raised_traceback)),
            offset => traceback(futures, read(thread + u64::from(offset))),
        };
        asked(tgid, futures, traceback);
    }
}

/// `Future.set_exception` of asyncio is called; the registers of its second and third argument.
#[inline(always)]
pub(crate) fn handed_over(second: u64, third: u64) {
    let tgid = current_tgid();
    let Some(futures) = EXACT_FUTURES.get_ptr(&tgid) else {
        return;
    };
    // SAFETY: a live map value.
    let futures = unsafe { &*futures };
    let exception = match futures.vector {
        0 => second,
        _ => read(third),
    };
    asked(tgid, futures, traceback(futures, exception));
}

#[inline(always)]
fn traceback(futures: &ExactFutures, exception: u64) -> u64 {
    read(exception + u64::from(futures.exception_traceback))
}

/// Somebody asks for the exception with this traceback.
#[inline(always)]
fn asked(tgid: u32, futures: &ExactFutures, traceback: u64) {
    let key = FailedKey {
        frame: read(traceback + u64::from(futures.traceback_frame)),
        tgid,
        reserved: 0,
    };
    let Some(queue) = EXACT_FAILED.get_ptr(&key) else {
        return;
    };
    // SAFETY: a live map value.
    let queue = unsafe { *queue };
    if EXACT_FAILED.remove(&key).is_ok()
        && let Some(row) = pool(tgid, queue)
    {
        // SAFETY: an aligned cell of a live map value.
        unsafe { atomic_add(&raw mut (*row).retrieved, 1) };
    }
}

/// The work of a pool has failed.
#[inline(always)]
fn failed(tgid: u32, futures: &ExactFutures, object: u64, frame: u64) {
    let caller = read(frame + u64::from(futures.previous));
    let queue = if reference(caller + u64::from(futures.executable)) == futures.worker {
        reference(caller + u64::from(futures.worker_queue))
    } else {
        0
    };
    let Some(row) = pool(tgid, queue) else {
        return;
    };
    // SAFETY: an aligned cell of a live map value.
    unsafe { atomic_add(&raw mut (*row).failed, 1) };
    let thread = read(futures.holder);
    let class = match futures.raised {
        0 => read(thread + u64::from(futures.raised_type)),
        offset => read(read(thread + u64::from(offset)) + OBJECT_TYPE),
    };
    let key = FailedKey {
        frame: object,
        tgid,
        reserved: 0,
    };
    if let Some(before) = EXACT_FAILED.get_ptr(&key) {
        // SAFETY: a live map value.
        let before = unsafe { *before };
        let _ = EXACT_FAILED.remove(&key);
        if let Some(row) = pool(tgid, before) {
            // SAFETY: an aligned cell of a live map value.
            unsafe { atomic_add(&raw mut (*row).dropped, 1) };
        }
    }
    if class == futures.converted[0] || class == futures.converted[1] {
        return;
    }
    if EXACT_FAILED.insert(&key, &queue, 0).is_err() {
        count_fault(fault::EXACT_ROOM);
        return;
    }
    // SAFETY: as above.
    unsafe { atomic_add(&raw mut (*row).kept, 1) };
}
