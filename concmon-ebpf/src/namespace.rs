//! Ids as user space knows them: those of its own PID namespace, where that is not the first one.
//!
//! The filter of the hooks is by the kernel's thread id, whoever asks: a switch costs the same in every namespace. All
//! else that user space sees (accounts, records, keys of maps) has its own ids, which are read when a thread is born,
//! and kept in its account: in its last switch-out a thread has none any more.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_probe_read_kernel};
use concmon_ebpf::Namespace;

use crate::{
    maps::{NAMESPACE, SEEN_SLOTS, ledger_at, slot_of_tid, tie},
    task::{Task, config},
};

/// `MAX_PID_NS_LEVEL` (include/linux/pid_namespace.h).
const MAX_LEVEL: u64 = 32;

/// `struct upid` (include/linux/pid.h): the id in one namespace.
#[derive(Clone, Copy)]
#[repr(C)]
struct Upid {
    number: u32,
    padding: u32,
    namespace: u64,
}

/// The ids of a thread; 0 where user space cannot see it.
#[derive(Clone, Copy)]
pub(crate) struct Ids {
    pub(crate) tid: u32,
    pub(crate) tgid: u32,
}

/// The ids of a thread that has not ended.
#[inline(always)]
pub(crate) fn ids(task: Task) -> Ids {
    if config!(in_namespace) == 0 {
        return Ids {
            tid: task.tid(),
            tgid: task.tgid(),
        };
    }
    let Some(own) = own() else {
        return Ids { tid: 0, tgid: 0 };
    };
    Ids {
        tid: id_in(own, task.thread_pid()),
        tgid: id_in(own, task.leader_thread_pid()),
    }
}

/// The process id of a thread that has not ended.
#[inline(always)]
pub(crate) fn tgid(task: Task) -> u32 {
    if config!(in_namespace) == 0 {
        return task.tgid();
    }
    own().map_or(0, |own| id_in(own, task.leader_thread_pid()))
}

/// The ids of the running thread, if it is watched; in the first namespace, whoever it is.
#[inline(always)]
pub(crate) fn current() -> Ids {
    let both = bpf_get_current_pid_tgid();
    let (tid, tgid) = (both as u32, (both >> 32) as u32);
    if config!(in_namespace) == 0 {
        return Ids { tid, tgid };
    }
    match ledger_at(slot_of_tid(tid)) {
        // SAFETY: a live map value.
        Some(ledger) => unsafe {
            Ids {
                tid: core::ptr::read_volatile(&raw const (*ledger).tid),
                tgid: core::ptr::read_volatile(&raw const (*ledger).tgid),
            }
        },
        None => Ids { tid: 0, tgid: 0 },
    }
}

/// Lets user space find the account of thread `tid`, by the id that it knows; 0: there is none any more.
#[inline(always)]
pub(crate) fn bind_seen(tid: u32, slot: u32) {
    if config!(in_namespace) != 0 && tid != 0 {
        tie(&SEEN_SLOTS, tid, slot);
    }
}

/// Takes notice of the namespace that `task`, the one of the tool, is in.
#[inline(always)]
pub(crate) fn learn(task: Task) {
    if config!(in_namespace) == 0 {
        return;
    }
    let pid = task.thread_pid();
    let level = level_of(pid);
    if let Some(upid) = upid(pid, level)
        && let Some(own) = NAMESPACE.get_ptr_mut(0)
    {
        // SAFETY: a live map value, written before any hook is attached.
        unsafe {
            (*own).level = level;
            (*own).object = upid.namespace;
        }
    }
}

#[inline(always)]
fn own() -> Option<Namespace> {
    // SAFETY: a live map value, of plain integers.
    NAMESPACE.get_ptr(0).map(|own| unsafe { *own })
}

/// The id of a `struct pid` in a namespace; 0: it has none there.
#[inline(always)]
fn id_in(own: Namespace, pid: *const c_void) -> u32 {
    if own.object == 0 || level_of(pid) < own.level {
        return 0;
    }
    match upid(pid, own.level) {
        Some(upid) if upid.namespace == own.object => upid.number,
        _ => 0,
    }
}

#[inline(always)]
fn level_of(pid: *const c_void) -> u64 {
    if pid.is_null() {
        return 0;
    }
    // SAFETY: the helper checks the address.
    let level: Result<u32, _> =
        unsafe { bpf_probe_read_kernel(pid.byte_add(config!(pid_level) as usize).cast()) };
    u64::from(level.unwrap_or(0))
}

#[inline(always)]
fn upid(pid: *const c_void, level: u64) -> Option<Upid> {
    if pid.is_null() || level > MAX_LEVEL {
        return None;
    }
    let at = config!(pid_numbers) as usize + level as usize * size_of::<Upid>();
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel(pid.byte_add(at).cast()).ok() }
}
