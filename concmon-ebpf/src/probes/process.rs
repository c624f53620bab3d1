//! `sched_process_fork`, `_exec` and `_exit`: children join in the kernel, at birth.
//!
//! An exit here tells how a thread ends; its account is closed at its last switch-out (see `sched`), or here while no
//! switch is told.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    programs::BtfTracePointContext,
};
use aya_log_ebpf::warn;
use concmon_ebpf::{
    ExecRecord, ExitRecord, ForkRecord, MAX_GILS, Process, RecordHead, cause, exit_flags, fault,
    ledger_flags, record_kind, state,
};

use super::sched::{argument, end};
use crate::{
    arrivals,
    emit::{Send, emit},
    ledger::{self, Birth},
    maps::{
        PROCESSES, bind, count_fault, detached_ns, give_slot, ledger_at, ledger_of, slot_of,
        slot_of_tid, take_slot,
    },
    namespace::{self, Ids},
    task::{Syscall, Task},
};

/// `sched_process_fork(task_struct *parent, task_struct *child)`, before the child runs.
#[unsafe(no_mangle)]
#[unsafe(link_section = "tp_btf/sched_process_fork")]
fn sched_process_fork(ctx: *mut c_void) -> i32 {
    // SAFETY: the tracepoint's own arguments.
    let (parent, child) = unsafe { (Task::new(argument(ctx, 0)), Task::new(argument(ctx, 1))) };
    let parent_tgid = namespace::tgid(parent);
    let Some(process) = PROCESSES.get_ptr(&parent_tgid) else {
        return 0;
    };
    let Ids { tid, tgid } = namespace::ids(child);
    let new_process = tgid != parent_tgid;
    // SAFETY: a live map value.
    let (gils, follow) = unsafe { ((*process).gils, (*process).follow) };
    if new_process {
        if follow == 0 {
            return 0;
        }
        // A forked child has its parent's memory, so its GIL is where its parent's is.
        let joined = Process {
            gils,
            follow,
            fold_slot: 0,
        };
        if PROCESSES.insert(&tgid, &joined, 0).is_err() {
            count_fault(fault::NO_PROCESS);
            warn!(
                &BtfTracePointContext::new(ctx),
                "no room for process {}", tgid
            );
            return 0;
        }
    }
    // SAFETY: helpers without preconditions.
    let (now, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    let birth = Birth {
        now,
        state: state::WOKEN,
        cause: cause::OTHER,
        wait_flags: 0,
        syscall: Syscall::NONE,
        flags: match detached_ns() {
            0 => 0,
            _ => ledger_flags::BRIDGED,
        },
        gils,
        cpu,
    };
    if !join(child, &birth) {
        warn!(
            &BtfTracePointContext::new(ctx),
            "no room for thread {} of process {}", tid, tgid
        );
    }
    let record = ForkRecord {
        head: RecordHead {
            kind: record_kind::FORK,
            tid,
            at_ns: now,
            ..RecordHead::default()
        },
        start_boottime_ns: child.start_boottime(),
        comm: child.comm(),
        parent_tid: namespace::ids(parent).tid,
        tgid: tgid as i32,
        ..ForkRecord::default()
    };
    let when = if new_process {
        Send::Now
    } else {
        Send::Batched
    };
    emit(ctx, cpu, now, when, |slot| *slot = record);
    0
}

/// Opens an account for `task`. What fails is counted; `false` says that it did.
#[inline(always)]
pub(super) fn join(task: Task, birth: &Birth) -> bool {
    let Some(slot) = take_slot() else {
        return false;
    };
    let Some(ledger) = ledger_at(slot) else {
        return false;
    };
    let ids = namespace::ids(task);
    ledger::open(ledger, task, ids, birth);
    if !bind(task.tid(), slot) {
        ledger::abandon(ledger);
        give_slot(slot);
        return false;
    }
    namespace::bind_seen(ids.tid, slot);
    true
}

/// `sched_process_exec(task_struct *p, pid_t old_pid, linux_binprm *bprm)`
#[unsafe(no_mangle)]
#[unsafe(link_section = "tp_btf/sched_process_exec")]
fn sched_process_exec(ctx: *mut c_void) -> i32 {
    // SAFETY: the tracepoint's own arguments.
    let (task, old_tid) = unsafe { (Task::new(argument(ctx, 0)), argument::<u32>(ctx, 1)) };
    let Ids { tid, tgid } = namespace::ids(task);
    let Some(process) = PROCESSES.get_ptr_mut(&tgid) else {
        arrivals::tell(task);
        return 0;
    };
    // The old program's GIL is gone with its memory.
    // SAFETY: a live map value.
    unsafe { (*process).gils = [0; MAX_GILS] };
    let new_tid = task.tid();
    let takes_over = old_tid != new_tid;
    if takes_over {
        // A thread that is not the first takes over the first one's id, and keeps its account.
        let slot = slot_of_tid(old_tid);
        bind(old_tid, 0);
        bind(new_tid, slot);
    }
    if let Some(ledger) = ledger_of(task) {
        if takes_over {
            // SAFETY: a live map value.
            namespace::bind_seen(unsafe { (*ledger).tid }, 0);
            namespace::bind_seen(tid, slot_of(task));
        }
        // SAFETY: a live map value; none of these fields takes part in a reader's checks.
        unsafe {
            (*ledger).gils = [0; MAX_GILS];
            (*ledger).tid = tid;
        }
    }
    // SAFETY: helpers without preconditions.
    let (now, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    let record = ExecRecord {
        head: RecordHead {
            kind: record_kind::EXEC,
            tid,
            at_ns: now,
            ..RecordHead::default()
        },
        comm: task.comm(),
        tgid: tgid as i32,
        ..ExecRecord::default()
    };
    emit(ctx, cpu, now, Send::Now, |slot| *slot = record);
    0
}

/// `sched_process_exit(task_struct *p[, bool group_dead])`
#[unsafe(no_mangle)]
#[unsafe(link_section = "tp_btf/sched_process_exit")]
fn sched_process_exit(ctx: *mut c_void) -> i32 {
    // SAFETY: the tracepoint's own argument.
    let task = unsafe { Task::new(argument(ctx, 0)) };
    let Ids { tid, tgid } = namespace::ids(task);
    if PROCESSES.get_ptr(&tgid).is_none() && ledger_of(task).is_none() {
        return 0;
    }
    let (status, group) = task.exit_status();
    let last = task.live_threads() == 0;
    let mut flags = 0;
    if group {
        flags |= exit_flags::GROUP;
    }
    if last {
        flags |= exit_flags::LAST;
        // Its id may be used again by a process that nobody asked to watch.
        let _ = PROCESSES.remove(&tgid);
    }
    // SAFETY: helpers without preconditions.
    let (now, cpu) = unsafe { (bpf_ktime_get_ns(), bpf_get_smp_processor_id()) };
    let record = ExitRecord {
        head: RecordHead {
            kind: record_kind::EXIT,
            flags,
            tid,
            at_ns: now,
            ..RecordHead::default()
        },
        start_boottime_ns: task.start_boottime(),
        status: u64::from(status),
        tgid: tgid as i32,
        ..ExitRecord::default()
    };
    let when = if last { Send::Now } else { Send::Batched };
    emit(ctx, cpu, now, when, |slot| *slot = record);
    let detached = detached_ns();
    let slot = slot_of(task);
    if detached != 0
        && let Some(ledger) = ledger_at(slot)
    {
        let birth = Birth {
            now,
            state: state::PREEMPTED,
            cause: cause::OTHER,
            wait_flags: 0,
            syscall: Syscall::NONE,
            flags: 0,
            gils: [0; MAX_GILS],
            cpu,
        };
        ledger::bridge(ledger, task, &birth, detached);
        end(task, ledger, slot);
    }
    0
}
