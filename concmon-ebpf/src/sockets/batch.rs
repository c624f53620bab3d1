//! What is told of sockets, in batches as slices are.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_F_CURRENT_CPU,
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns, generated},
};
use concmon_ebpf::{
    BatchHeader, SOCKET_AREA, SOCKET_STARTS, SocketBatch, SocketHead, WIRE_VERSION, fault,
    socket_flags, socket_kind,
};

use super::sock::{SOCKET_CONFIG, Sock};
use crate::{
    maps::{SOCKET_BATCHES, SOCKET_RECORDS, count_fault},
    namespace,
    task::{config, frozen},
    verifier::bounded,
};

/// A batch with more bytes than this is full.
const FULL: u32 = SOCKET_STARTS as u32 - 2048;

/// What is to be told of a socket.
pub(super) struct Told {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) length: u32,
    pub(super) ready_ns: u64,
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) tail: u64,
    /// Where the bytes are that go along, and how many.
    pub(super) at: u64,
    pub(super) bytes: u32,
}

/// This CPU's batch.
#[inline(always)]
fn own_batch() -> Option<*mut SocketBatch> {
    // SAFETY: a helper without preconditions.
    SOCKET_BATCHES.get_ptr_mut(unsafe { bpf_get_smp_processor_id() })
}

/// Writes a record into this CPU's batch, and sends the batch when it is full or old. A program that interrupts
/// another one while that writes finds the batch busy; its record is then lost, and counted.
#[inline(always)]
pub(super) fn tell(ctx: *mut c_void, sock: Sock, told: &Told) {
    let Some(batch) = own_batch() else {
        return;
    };
    // Whoever closes a socket is not always who used it.
    let ids = match told.kind {
        socket_kind::CLOSED => namespace::Ids { tid: 0, tgid: 0 },
        _ => namespace::current(),
    };
    // SAFETY: this CPU's own value; `busy` keeps out whoever interrupts us. The offset and the length are masked so
    // that a whole record fits.
    unsafe {
        if core::ptr::read_volatile(&raw const (*batch).busy) != 0 {
            count_fault(fault::SOCKET_BUSY);
            return;
        }
        core::ptr::write_volatile(&raw mut (*batch).busy, 1);
        let now = bpf_ktime_get_ns();
        let used = core::ptr::read_volatile(&raw const (*batch).used);
        let at = bounded::<{ SOCKET_STARTS as i32 }>(used as usize & !7);
        let start = (&raw mut (*batch).area).cast::<u8>().add(at);
        let head: *mut SocketHead = start.cast();
        let mut flags = told.flags;
        let mut bytes = bounded::<2048>(told.bytes as usize) as u32;
        if bytes != 0 {
            let failed = generated::bpf_probe_read_user(
                start.add(size_of::<SocketHead>()).cast(),
                bounded::<2048>(bytes as usize) as u32,
                told.at as *const c_void,
            );
            if failed != 0 {
                flags |= socket_flags::FAULT;
                bytes = 0;
            }
        }
        (*head).kind = told.kind;
        (*head).flags = flags;
        (*head).bytes = bytes as u16;
        (*head).tid = ids.tid;
        (*head).tgid = ids.tgid;
        (*head).length = told.length;
        (*head).at_ns = now;
        (*head).ready_ns = told.ready_ns;
        (*head).cookie = told.cookie;
        (*head).offset = told.offset;
        (*head).tail = told.tail;
        (*head).peer = sock.peer();
        (*head).family = sock.family();
        (*head).peer_port = sock.peer_port();
        (*head).reserved = 0;
        if (*batch).header.count == 0 {
            (*batch).header.version = WIRE_VERSION;
            (*batch).header.cpu = bpf_get_smp_processor_id();
            (*batch).header.opened_ns = now;
        }
        let used = at as u32 + size_of::<SocketHead>() as u32 + ((bytes + 7) & !7);
        (*batch).used = used;
        (*batch).header.count += 1;
        let age = now.wrapping_sub((*batch).header.opened_ns);
        if used > FULL || age > u64::from(config!(batch_age_ns)) {
            send(ctx, batch);
        }
        core::ptr::write_volatile(&raw mut (*batch).busy, 0);
    }
}

/// Sends a batch that is old. Called by the low-rate clock.
#[inline(always)]
pub(crate) fn flush(ctx: *mut c_void, now: u64) {
    if frozen(&SOCKET_CONFIG.enabled) == 0 {
        return;
    }
    let Some(batch) = own_batch() else {
        return;
    };
    // SAFETY: as in `tell`; a batch that is being written is left for the next tick.
    unsafe {
        if core::ptr::read_volatile(&raw const (*batch).busy) != 0 || (*batch).header.count == 0 {
            return;
        }
        if now.wrapping_sub((*batch).header.opened_ns) > u64::from(config!(batch_age_ns)) {
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
unsafe fn send(ctx: *mut c_void, batch: *mut SocketBatch) {
    // SAFETY: see the function's contract; the length is bounded by the batch.
    unsafe {
        // Read anew: a bound that the compiler merges with an earlier one is none to older verifiers.
        let used = u64::from(core::ptr::read_volatile(&raw const (*batch).used));
        if used > SOCKET_AREA as u64 {
            return;
        }
        let failed = generated::bpf_perf_event_output(
            ctx,
            core::ptr::addr_of!(SOCKET_RECORDS).cast_mut().cast(),
            BPF_F_CURRENT_CPU,
            batch.cast(),
            size_of::<BatchHeader>() as u64 + used,
        );
        if failed != 0 {
            count_fault(fault::OUTPUT_FAILED);
        }
        (*batch).header.produced_before += u64::from((*batch).header.count);
        (*batch).header.count = 0;
        (*batch).used = 0;
    }
}
