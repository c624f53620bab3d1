//! The only writer of the perf buffers: records batched per CPU, sent whole.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_F_CURRENT_CPU,
    helpers::{bpf_get_smp_processor_id, generated},
};
use concmon_ebpf::{BATCH_RECORDS, Batch, BatchHeader, Record, WIRE_VERSION, fault};

use crate::{
    maps::{BATCHES, RECORDS, count_fault},
    task::config,
};

/// When a record leaves the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Send {
    /// With its batch, when that is full or old.
    Batched,
    /// At once: the rare ones, which user space acts upon.
    Now,
}

/// Has `fill` write one record, of the kind `R`, into this CPU's batch, and sends the batch when it is full or old.
///
/// A program that interrupts another one while that writes finds the batch busy; its record is
/// then lost, and counted.
#[inline(always)]
pub(crate) fn emit<R>(ctx: *mut c_void, cpu: u32, now: u64, when: Send, fill: impl FnOnce(&mut R))
where
    Record: From<R>,
{
    let Some(batch) = BATCHES.get_ptr_mut(cpu) else {
        return;
    };
    // SAFETY: this CPU's own value; `busy` keeps out whoever interrupts us.
    unsafe {
        if core::ptr::read_volatile(&raw const (*batch).busy) != 0 {
            count_fault(fault::BATCH_BUSY);
            return;
        }
        core::ptr::write_volatile(&raw mut (*batch).busy, 1);
        let index = (*batch).header.count as usize;
        if index == 0 {
            (*batch).header.version = WIRE_VERSION;
            (*batch).header.cpu = cpu;
            (*batch).header.opened_ns = now;
        }
        if index < BATCH_RECORDS {
            let record = (&raw mut (*batch).records).cast::<Record>().add(index);
            // What becomes a record has a record's size, and is plain integers as that is.
            fill(&mut *record.cast::<R>());
            (*batch).header.count = index as u16 + 1;
        }
        let age = now.wrapping_sub((*batch).header.opened_ns);
        if when == Send::Now || index + 1 >= BATCH_RECORDS || age > u64::from(config!(batch_age_ns))
        {
            send(ctx, batch);
        }
        core::ptr::write_volatile(&raw mut (*batch).busy, 0);
    }
}

/// Sends a partial batch that has waited long enough. Called by the low-rate tick.
#[inline(always)]
pub(crate) fn flush_stale(ctx: *mut c_void, now: u64) {
    // SAFETY: a helper without preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let Some(batch) = BATCHES.get_ptr_mut(cpu) else {
        return;
    };
    // SAFETY: as in `emit`; a batch that is being written is left for the next tick.
    unsafe {
        if core::ptr::read_volatile(&raw const (*batch).busy) != 0 || (*batch).header.count == 0 {
            return;
        }
        let age = now.wrapping_sub((*batch).header.opened_ns);
        if age > u64::from(config!(batch_age_ns)) {
            core::ptr::write_volatile(&raw mut (*batch).busy, 1);
            send(ctx, batch);
            core::ptr::write_volatile(&raw mut (*batch).busy, 0);
        }
    }
}

/// # Safety
///
/// `batch` is this CPU's value, and marked busy by the caller.
#[inline(always)]
unsafe fn send(ctx: *mut c_void, batch: *mut Batch) {
    // SAFETY: see the function's contract; the length is bounded by the batch.
    unsafe {
        let count = u64::from((*batch).header.count);
        if count > BATCH_RECORDS as u64 {
            return;
        }
        let length = size_of::<BatchHeader>() as u64
            + (count & BATCH_RECORDS as u64) * size_of::<Record>() as u64;
        let failed = generated::bpf_perf_event_output(
            ctx,
            core::ptr::addr_of!(RECORDS).cast_mut().cast(),
            BPF_F_CURRENT_CPU,
            batch.cast(),
            length,
        );
        if failed != 0 {
            count_fault(fault::OUTPUT_FAILED);
        }
        (*batch).header.produced_before += count;
        (*batch).header.count = 0;
    }
}
