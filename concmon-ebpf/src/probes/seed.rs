//! Task iterators, run by user space: the self-test, and accounts for threads that already exist.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use concmon_ebpf::{cause, ledger_flags, state};

use super::process::join;
use crate::{
    ledger::{self, Birth},
    maps::{PROCESSES, SELF_TEST, detached_ns, ledger_at, slot_of},
    namespace,
    task::{Syscall, Task, task_state},
};

/// The task of this step of a `task` iterator (`struct bpf_iter__task`); none at its end.
#[inline(always)]
fn task_of(ctx: *mut c_void) -> Option<Task> {
    // SAFETY: the context is `{ meta, task }`; the task is null at the end of the walk.
    let task: *const c_void = unsafe { *ctx.cast::<*const c_void>().add(1) };
    if task.is_null() {
        return None;
    }
    // SAFETY: checked for null; the verifier knows its type.
    Some(unsafe { Task::new(task) })
}

/// Opens an account for every thread of a watched process that has none. Run twice: the second
/// run corrects those that switched while they were being seeded. While no switch is told, brings all accounts up to
/// date.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
fn seed(ctx: *mut c_void) -> i32 {
    let Some(task) = task_of(ctx) else { return 0 };
    let Some(process) = PROCESSES.get_ptr(&namespace::tgid(task)) else {
        return 0;
    };
    // SAFETY: a live map value.
    let gils = unsafe { (*process).gils };
    // The plain number: the verifier loses an account that is kept until the end.
    let slot = slot_of(task);
    let state_bits = task.state();
    if state_bits & (task_state::DEAD | task_state::NEW) != 0 {
        return 0;
    }
    let state = if task.on_cpu() != 0 {
        state::RUNNING
    } else if state_bits == 0 || task.queued() {
        state::PREEMPTED
    } else {
        state::BLOCKED
    };
    let syscall = if state == state::BLOCKED {
        task.syscall()
    } else {
        Syscall::NONE
    };
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let (cause, wait_flags) = if state == state::BLOCKED {
        ledger::classify(&gils, task, state_bits, syscall)
    } else {
        (cause::OTHER, 0)
    };
    let birth = Birth {
        now,
        state,
        cause,
        wait_flags,
        syscall,
        flags: ledger_flags::SEEDED | ledger_flags::UNTOUCHED,
        gils,
        cpu: u32::MAX,
    };
    if slot == 0 {
        // One that exits has had its account. A thread without a slot is counted, and user space warns.
        if !task.is_exiting() {
            let _ = join(task, &birth);
        }
    } else if let Some(ledger) = ledger_at(slot) {
        match detached_ns() {
            0 => ledger::reseed(ledger, task, &birth),
            detached => ledger::bridge(ledger, task, &birth, detached),
        }
    }
    0
}

/// Reads the task that runs the iterator in every way the other programs will.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
fn self_test(ctx: *mut c_void) -> i32 {
    let Some(task) = task_of(ctx) else { return 0 };
    let Some(result) = SELF_TEST.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: a helper without preconditions.
    let own = bpf_get_current_pid_tgid();
    let (tgid, tid) = ((own >> 32) as u32, own as u32);
    // SAFETY: a live map value.
    unsafe { (*result).asker_tgid = tgid };
    // The walk is over all tasks; only the one at the own id is looked at. A wrong offset never
    // meets it, and user space finds that the program never ran to here.
    if task.tid() != tid || task.tgid() != tgid {
        return 0;
    }
    namespace::learn(task);
    let seen = namespace::ids(task);
    let comm = task.comm();
    let syscall = task.syscall();
    // SAFETY: a live map value.
    unsafe {
        let r = &mut *result;
        r.pid_by_helper = tid;
        r.tgid_by_helper = tgid;
        r.pid_by_offset = task.tid();
        r.tgid_by_offset = task.tgid();
        r.start_boottime_ns = task.start_boottime();
        r.sum_exec_ns = task.sum_exec();
        for (half, word) in comm.iter().enumerate() {
            let bytes = word.to_ne_bytes();
            let mut index = 0;
            while index < 8 {
                r.comm[half * 8 + index] = bytes[index];
                index += 1;
            }
        }
        r.syscall = syscall.number;
        r.arg0 = syscall.arg0;
        r.state = task.state();
        r.on_cpu = task.on_cpu();
        r.live = task.live_threads();
        r.queued = u32::from(task.queued());
        r.kernel_thread = u32::from(task.is_kernel_thread());
        r.tid_seen = seen.tid;
        r.tgid_seen = seen.tgid;
        r.runs += 1;
    }
    0
}
