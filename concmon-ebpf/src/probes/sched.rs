//! `sched_switch` and `sched_waking`: where threads of watched processes spend their time.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use concmon_ebpf::{Ledger, SliceRecord, cause, fault, ledger_flags, record_kind, slice_flags};

use crate::{
    emit::{Send, emit},
    ledger,
    maps::{
        PROCESSES, bind, count_fault, give_slot, ledger_at, ledger_of, slot_of, slots_are_short,
    },
    namespace, pywalk,
    task::{self, Task, config, task_state},
};

/// Argument `index` of a BTF tracepoint.
#[inline(always)]
pub(super) unsafe fn argument<T: Copy>(ctx: *mut c_void, index: usize) -> T {
    // SAFETY: the caller names an argument that the tracepoint has, by its type.
    unsafe { *ctx.cast::<u64>().add(index).cast::<T>() }
}

/// `sched_switch(bool preempt, task_struct *prev, task_struct *next[, unsigned prev_state])`
#[unsafe(no_mangle)]
#[unsafe(link_section = "tp_btf/sched_switch")]
fn sched_switch(ctx: *mut c_void) -> i32 {
    // SAFETY: the tracepoint's own arguments.
    let (prev, next) = unsafe { (Task::new(argument(ctx, 1)), Task::new(argument(ctx, 2))) };
    let (prev_slot, next_slot) = (slot_of(prev), slot_of(next));
    if prev_slot | next_slot == 0 {
        return 0;
    }
    // SAFETY: helpers without preconditions.
    let (now, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    if prev_slot != 0 {
        leave(ctx, prev, prev_slot, now, cpu);
    }
    if let Some(ledger) = ledger_at(next_slot) {
        ledger::switch_in(ledger, next, now, cpu);
    }
    0
}

#[inline(always)]
fn leave(ctx: *mut c_void, prev: Task, slot: u32, now: u64, cpu: u32) {
    let Some(ledger) = ledger_at(slot) else {
        return;
    };
    // SAFETY: the first argument is a bool, the fourth, where there is one, an unsigned int.
    let preempt = unsafe { argument::<u64>(ctx, 0) } & 1 != 0;
    let prev_state = if config!(has_prev_state) != 0 {
        // SAFETY: as above.
        unsafe { argument::<u32>(ctx, 3) }
    } else {
        prev.state()
    };
    let dead = prev_state & task_state::DEAD != 0;
    let voluntary = (prev_state != 0 && !preempt) || dead;
    // SAFETY: a live map value.
    unsafe { (*ledger).last_cpu = cpu };
    ledger::switch_out(ledger, prev, now, voluntary, prev_state, |l, on_cpu| {
        if !ledger::is_told(l) {
            return;
        }
        emit(ctx, cpu, now, Send::Batched, |record: &mut SliceRecord| {
            record.head.kind = record_kind::SLICE;
            record.head.cause = l.cause;
            record.head.flags = l.wait_flags | (u8::from(voluntary) * slice_flags::VOLUNTARY);
            record.head.reserved = 0;
            record.head.tid = l.tid;
            // A slice that began late by our clock (see `book_run`) does not end before.
            record.head.at_ns = if now < l.in_ns { l.in_ns } else { now };
            record.off_ns = l.off_ns;
            record.wake_ns = l.wake_ns;
            record.in_ns = l.in_ns;
            record.on_cpu_ns = on_cpu;
            record.arg0 = l.arg0;
            record.waker_tid = l.waker_tid;
            record.syscall = l.syscall;
        });
    });
    if dead {
        end(prev, ledger, slot);
    } else if voluntary {
        // SAFETY: the account that this CPU has just written; a trusted task.
        unsafe { pywalk::on_block(ctx, prev, slot, ledger, now) };
    }
}

/// The last switch-out of a thread: its account is closed, and waits for user space, or is folded
/// into its process where slots run short. Whether it is folded is decided before user space can
/// see that it is dead, and take the slot.
#[inline(always)]
pub(super) fn end(task: Task, ledger: *mut Ledger, slot: u32) {
    bind(task.tid(), 0);
    // SAFETY: a live map value, of a thread that is not watched from here on.
    let (tid, tgid) = unsafe { ((*ledger).tid, (*ledger).tgid) };
    namespace::bind_seen(tid, 0);
    if slots_are_short() && fold(tgid, ledger, slot) {
        give_slot(slot);
        return;
    }
    ledger::close(ledger);
}

/// Adds an account to the sum of its process; `true`: it is empty now. The first thread that is
/// folded becomes that sum, and keeps its slot.
#[inline(always)]
fn fold(tgid: u32, ledger: *mut Ledger, slot: u32) -> bool {
    let Some(process) = PROCESSES.get_ptr_mut(&tgid) else {
        return false;
    };
    // SAFETY: live map values. Two threads that end at once may both become a sum; user space
    // adds up every sum it finds.
    unsafe {
        let sum = core::ptr::read_volatile(&raw const (*process).fold_slot);
        if sum == 0 {
            (*ledger).flags |= ledger_flags::FOLDED;
            core::ptr::write_volatile(&raw mut (*process).fold_slot, slot);
            return false;
        }
        let Some(into) = ledger_at(sum) else {
            return false;
        };
        count_fault(fault::FOLDED);
        ledger::fold(into, ledger);
        true
    }
}

/// `sched_waking(task_struct *p)`, in the context of whoever wakes it.
#[unsafe(no_mangle)]
#[unsafe(link_section = "tp_btf/sched_waking")]
fn sched_waking(ctx: *mut c_void) -> i32 {
    // SAFETY: the tracepoint's own argument.
    let woken = unsafe { Task::new(argument(ctx, 0)) };
    if let Some(ledger) = ledger_of(woken) {
        // SAFETY: a helper without preconditions.
        let now = unsafe { bpf_ktime_get_ns() };
        ledger::wake(ledger, now, |cause| waker(cause, woken));
    }
    0
}

/// The thread whose action this wakeup is; 0 for a timer, an interrupt, or what cannot be told.
///
/// An interrupt also runs in the context of some task. So a task counts only where the system call
/// it is in can wake another on purpose, and, for the futexes of a process, only its own threads.
#[inline(always)]
fn waker(cause: u8, woken: Task) -> u32 {
    if cause == cause::SLEEP || cause == cause::DISK {
        return 0;
    }
    let Some(current) = task::current() else {
        return 0;
    };
    if current.is_kernel_thread() {
        return 0;
    }
    let private = cause == cause::GIL || cause == cause::LOCK;
    if private && current.tgid() != woken.tgid() {
        return 0;
    }
    if !ledger::can_wake(current.syscall()) {
        return 0;
    }
    namespace::ids(current).tid
}
