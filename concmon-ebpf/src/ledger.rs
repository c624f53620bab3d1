//! The per-thread state machine: every nanosecond of a watched thread goes into exactly one column.

mod life;

use concmon_ebpf::{
    GIL_SIZE, HIST_BUCKETS, HistBuckets, HistHead, Hists, Ledger, MAX_GILS, SyscallEntry, cause,
    fault, hist_bucket, ledger_flags, slice_flags, state, syscall_flags,
};

use crate::{
    maps::{SYSCALLS, count_fault, hists_at, take_hists},
    task::{Restarted, Syscall, Task, task_state},
    verifier::bounded,
};

pub(crate) use life::{Birth, abandon, bridge, close, fold, open, reseed};

/// Keeps the compiler from moving writes over the sequence number. (`compiler_fence` is not known to
/// this target's code generator. What the CPU may reorder, the reader's second rule catches.) One
/// instruction that does nothing, for none at all would spoil the line table.
#[inline(always)]
fn compiler_fence(seq: u32) -> u32 {
    let mut seq = u64::from(seq);
    // SAFETY: moves a register to itself.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) seq, options(nostack, preserves_flags)) };
    seq as u32
}

/// Marks the account as being written. The sequence number is stored, not incremented, at the
/// end, so that a reader never sees half a step.
#[inline(always)]
unsafe fn begin(ledger: *mut Ledger) -> u32 {
    // SAFETY: `ledger` is a live map value.
    unsafe {
        let seq = core::ptr::read_volatile(&raw const (*ledger).seq) | 1;
        core::ptr::write_volatile(&raw mut (*ledger).seq, seq);
        compiler_fence(seq)
    }
}

#[inline(always)]
unsafe fn end(ledger: *mut Ledger, seq: u32) {
    let seq = compiler_fence(seq);
    // SAFETY: `ledger` is a live map value.
    unsafe { core::ptr::write_volatile(&raw mut (*ledger).seq, seq.wrapping_add(1)) };
}

#[inline(always)]
pub(crate) unsafe fn add(head: *mut HistHead, buckets: *mut HistBuckets, ns: u64) {
    // SAFETY: both lie in a live map value; the index is masked to its length.
    unsafe {
        if (*head).count == 0 || ns < (*head).min_ns {
            (*head).min_ns = ns;
        }
        if ns > (*head).max_ns {
            (*head).max_ns = ns;
        }
        (*head).count += 1;
        (*head).sum_ns += ns;
        let bucket = bounded::<{ HIST_BUCKETS as i32 }>(hist_bucket(ns));
        let counts: *mut u32 = buckets.cast();
        *counts.add(bucket) += 1;
    }
}

/// Adds to the histogram with this number.
///
/// # Safety
///
/// `hists` is a live map value, `number` below [`Hists::COUNT`].
#[inline(always)]
unsafe fn add_to(hists: *mut Hists, number: usize, ns: u64) {
    // SAFETY: see the function's contract.
    unsafe {
        let heads: *mut HistHead = (&raw mut (*hists).heads).cast();
        let buckets: *mut HistBuckets = (&raw mut (*hists).buckets).cast();
        add(heads.add(number), buckets.add(number), ns);
    }
}

/// No object is below this.
const PAGE_SIZE: u64 = 4096;

/// What a thread waits for, from its state and the syscall it is in; and the flags of that wait.
#[inline(always)]
pub(crate) fn classify(
    gils: &[u64; MAX_GILS],
    task: Task,
    task_state: u32,
    syscall: Syscall,
) -> (u8, u8) {
    let mut entry = syscall_entry(syscall.number);
    if entry.flags & syscall_flags::RESTARTS != 0 {
        entry = restarted(task, syscall);
    }
    let flags = slice_flags::BLOCKED | slice_flags::TOLD | (entry.flags & slice_flags::QUEUE);
    (cause_of(gils, task_state, syscall, entry), flags)
}

#[inline(always)]
fn cause_of(gils: &[u64; MAX_GILS], task_state: u32, syscall: Syscall, entry: SyscallEntry) -> u8 {
    if task_state & (task_state::STOPPED | task_state::TRACED) != 0 {
        return cause::STOPPED;
    }
    if task_state & task_state::UNINTERRUPTIBLE != 0
        && entry.flags & syscall_flags::KEEPS_CAUSE == 0
    {
        return cause::DISK;
    }
    if entry.flags & syscall_flags::FUTEX != 0 && in_gil(gils, syscall.arg0) {
        return cause::GIL;
    }
    if syscall.arg0 == 0 {
        entry.cause_if_arg0_zero
    } else {
        entry.cause
    }
}

/// What `restart_syscall` goes on with, whose arguments are still in the registers: a sleep has the number of a
/// clock or the address of a time, `poll` the address of descriptors, a lock that of a futex.
#[inline(always)]
fn restarted(task: Task, syscall: Syscall) -> SyscallEntry {
    let kind = if syscall.arg0 < PAGE_SIZE {
        Restarted::Sleep
    } else {
        task.restarted()
    };
    let (cause, flags) = match kind {
        Restarted::Sleep => (cause::SLEEP, 0),
        Restarted::Futex => (cause::LOCK, syscall_flags::FUTEX),
        Restarted::Poll => (cause::POLL, 0),
    };
    SyscallEntry {
        cause,
        cause_if_arg0_zero: cause,
        flags,
        buffer: 0,
    }
}

#[inline(always)]
fn syscall_entry(number: i64) -> SyscallEntry {
    if number >= 0
        && let Some(entry) = SYSCALLS.get(number as u32)
    {
        return *entry;
    }
    SyscallEntry {
        cause: cause::OTHER,
        cause_if_arg0_zero: cause::OTHER,
        flags: 0,
        buffer: 0,
    }
}

#[inline(always)]
fn in_gil(gils: &[u64; MAX_GILS], address: u64) -> bool {
    let inside = |gil: u64| gil != 0 && address.wrapping_sub(gil) < GIL_SIZE;
    inside(gils[0]) || inside(gils[1]) || inside(gils[2]) || inside(gils[3])
}

/// Whether a thread inside this syscall can wake another one on purpose.
#[inline(always)]
pub(crate) fn can_wake(syscall: Syscall) -> bool {
    syscall_entry(syscall.number).flags & syscall_flags::WAKES != 0
}

/// The thread leaves its CPU at `now`. `record` is told of the slice that ends, if its beginning
/// is known: its on-CPU time in ns, while the account still has its instants.
#[inline(always)]
pub(crate) fn switch_out(
    ledger: *mut Ledger,
    task: Task,
    now: u64,
    voluntary: bool,
    prev_state: u32,
    record: impl FnOnce(&mut Ledger, u64),
) {
    // SAFETY: `ledger` is a live map value; this thread's account is written by the CPU that
    // switches it, which holds its run queue's lock.
    unsafe {
        let seq = begin(ledger);
        let l = &mut *ledger;
        if l.hists == 0 {
            find_hists(ledger, now);
        }
        // Instants of two CPUs may differ by a little.
        let now = if now < l.since_ns { l.since_ns } else { now };
        if l.state != state::RUNNING {
            enter_unseen(ledger, task.ptr(), now);
        }
        l.flags &= !ledger_flags::BRIDGED;
        let on_cpu = book_run(l, task.sum_exec(), now);
        if l.in_ns != 0 {
            record(l, on_cpu);
        }
        book_leave(l, task, now, voluntary, prev_state);
        end(ledger, seq);
    }
}

/// Whether the slice that ends is told. Of a thread of which sums are enough, those that tell when it waited for the GIL or
/// a lock are.
#[inline(always)]
pub(crate) fn is_told(l: &mut Ledger) -> bool {
    if l.sums_only == 0 {
        return true;
    }
    if l.wait_flags != 0 && (l.cause == cause::GIL || l.cause == cause::LOCK) {
        l.flags |= ledger_flags::WAITED;
        return true;
    }
    if l.flags & ledger_flags::WAITED == 0 {
        return false;
    }
    // Where it was preempted, what it waited for before may go on.
    if l.wait_flags != 0 {
        l.flags &= !ledger_flags::WAITED;
    }
    true
}

/// Gives an account histograms, with the first switch that is booked for it: who never runs needs none.
///
/// # Safety
///
/// `ledger` is a live map value that the caller writes.
#[inline(never)]
unsafe fn find_hists(ledger: *mut Ledger, now: u64) {
    let number = take_hists();
    // SAFETY: see the function's contract; nobody else has what was just taken.
    unsafe {
        let l = &mut *ledger;
        l.hists = number;
        match hists_at(number) {
            Some(hists) if l.flags & ledger_flags::HISTS_LATE != 0 => (*hists).since_ns = now,
            Some(_) => {}
            None => l.flags |= ledger_flags::HISTS_LATE,
        }
    }
}

/// Closes the running stretch of `l`, which the CPU's next switch ended at `now`.
///
/// On-CPU time is the kernel's own account. The kernel takes its instants a little before its
/// tracepoints take ours: where its account exceeds the stretch between our two instants, the
/// stretch ends that much later, at the expense of the wait after it; where it falls short
/// (hypervisor steal, interrupts), the rest is `stolen`. Nothing that was booked is ever taken back.
/// Returns the on-CPU time of the slice, ns.
#[inline(always)]
unsafe fn book_run(l: &mut Ledger, sum_exec: u64, now: u64) -> u64 {
    let stretch = now.wrapping_sub(l.since_ns);
    let mut on_cpu = sum_exec.wrapping_sub(l.sum_exec_ns);
    l.sum_exec_ns = sum_exec;
    if on_cpu > stretch {
        if l.in_ns == 0 {
            // A part of this was before the account began.
            on_cpu = stretch;
        }
        l.since_ns += on_cpu;
    } else {
        l.stolen_ns += stretch - on_cpu;
        l.since_ns = now;
    }
    l.on_cpu_ns += on_cpu;
    if l.in_ns != 0
        && let Some(hists) = hists_at(l.hists)
    {
        // SAFETY: a live map value.
        unsafe { add_to(hists, Hists::SLICE, on_cpu) };
    }
    on_cpu
}

/// Opens the stretch off the CPU.
#[inline(always)]
fn book_leave(l: &mut Ledger, task: Task, now: u64, voluntary: bool, prev_state: u32) {
    l.off_ns = now;
    l.wake_ns = 0;
    l.waker_tid = 0;
    l.flags &= !ledger_flags::UNTOUCHED;
    let (voluntaries, involuntaries) = task.switches();
    l.voluntary = voluntaries.wrapping_sub(l.voluntary_base);
    l.involuntary = involuntaries.wrapping_sub(l.involuntary_base);
    if voluntary {
        let syscall = task.syscall();
        l.syscall = number_of(syscall);
        l.arg0 = syscall.arg0;
        (l.cause, l.wait_flags) = classify(&l.gils, task, prev_state, syscall);
        l.state = state::BLOCKED;
    } else {
        l.wait_flags = 0;
        l.syscall = -1;
        l.arg0 = 0;
        l.state = state::PREEMPTED;
    }
}

#[inline(always)]
fn number_of(syscall: Syscall) -> i32 {
    if syscall.number >= 0 {
        syscall.number as i32
    } else {
        -1
    }
}

/// The thread was woken at `now` by `waker` (0: a timer, or it cannot be told).
///
/// That is only noted: the next switch-in books it, on the CPU that has the account in its cache.
/// A wakeup may come before its switch-out got to us.
#[inline(always)]
pub(crate) fn wake(ledger: *mut Ledger, now: u64, waker: impl Fn(u8) -> u32) {
    // SAFETY: a live map value. The wakers of a thread hold its `pi_lock`; they alone write these
    // two words before the switch-in, which comes after the wakeup.
    unsafe {
        let blocked = core::ptr::read_volatile(&raw const (*ledger).state) == state::BLOCKED;
        let cause = if blocked {
            (*ledger).cause
        } else {
            cause::OTHER
        };
        (*ledger).waking_tid = waker(cause);
        core::ptr::write_volatile(&raw mut (*ledger).waking_ns, now);
    }
}

/// Closes the blocked stretch of `l` at `at`.
#[inline(always)]
unsafe fn book_blocked(l: &mut Ledger, at: u64) {
    // Instants of two CPUs: a block cannot end before it began.
    let at = if at < l.since_ns { l.since_ns } else { at };
    let blocked = at - l.since_ns;
    let index = bounded::<16>(l.cause as usize);
    if index < cause::COUNT {
        l.blocked_ns[index] += blocked;
        if let Some(hists) = hists_at(l.hists) {
            // SAFETY: a live map value; the index is inside.
            unsafe { add_to(hists, Hists::off_cpu(index), blocked) };
        }
    }
    l.since_ns = at;
}

/// The thread gets a CPU at `now`.
#[inline(always)]
pub(crate) fn switch_in(ledger: *mut Ledger, task: Task, now: u64, cpu: u32) {
    // SAFETY: as in `switch_out`.
    unsafe {
        let seq = begin(ledger);
        let l = &mut *ledger;
        if l.hists == 0 {
            // It was blocked when the watch began: that wait has a place, too.
            find_hists(ledger, now);
        }
        let now = if now < l.since_ns { l.since_ns } else { now };
        if l.state == state::RUNNING {
            leave_unseen(ledger, task.ptr(), now);
        }
        book_enter(l, now);
        l.flags &= !ledger_flags::BRIDGED;
        if l.last_cpu != cpu {
            // A thread that was seeded off the CPU has no last one.
            l.migrations += u64::from(l.last_cpu != u32::MAX);
            l.last_cpu = cpu;
        }
        end(ledger, seq);
    }
}

/// Counts what a tracepoint should have told. Where it was attached a moment ago, it could not.
#[inline(always)]
fn count_unless_bridged(l: &Ledger, code: u32) {
    if l.flags & ledger_flags::BRIDGED == 0 {
        count_fault(code);
    }
}

/// Closes the wait of `l` at `now`, and opens the stretch on a CPU.
#[inline(always)]
unsafe fn book_enter(l: &mut Ledger, now: u64) {
    if l.state == state::BLOCKED {
        if l.waking_ns != 0 {
            let woken = if l.waking_ns > now { now } else { l.waking_ns };
            // SAFETY: the account that the caller holds.
            unsafe { book_blocked(l, woken) };
            l.wake_ns = l.since_ns;
            l.waker_tid = l.waking_tid;
            l.state = state::WOKEN;
        } else {
            count_unless_bridged(l, fault::WAKEUP_UNSEEN);
            // SAFETY: as above.
            unsafe { book_blocked(l, now) };
        }
    }
    l.waking_ns = 0;
    let now = if now < l.since_ns { l.since_ns } else { now };
    let stretch = now - l.since_ns;
    if l.state == state::WOKEN {
        l.woken_ns += stretch;
        if l.wait_flags != 0
            && let Some(hists) = hists_at(l.hists)
        {
            // SAFETY: a live map value.
            unsafe { add_to(hists, Hists::WAKEUP_LATENCY, stretch) };
        }
    } else if l.state == state::PREEMPTED {
        l.preempted_ns += stretch;
    }
    l.since_ns = now;
    l.in_ns = now;
    l.state = state::RUNNING;
    l.flags &= !ledger_flags::UNTOUCHED;
}

/// The thread was given a CPU and no tracepoint told. The kernel's account of its CPU time says
/// for how long it has run, hence since when.
///
/// # Safety
///
/// `ledger` is a live map value that the caller writes, `task` its thread.
#[inline(never)]
unsafe fn enter_unseen(ledger: *mut Ledger, task: *mut core::ffi::c_void, now: u64) {
    // SAFETY: see the function's contract.
    unsafe {
        let l = &mut *ledger;
        count_unless_bridged(l, fault::SWITCH_UNSEEN);
        let grown = Task::new(task).sum_exec().wrapping_sub(l.sum_exec_ns);
        let stretch = now.wrapping_sub(l.since_ns);
        book_enter(l, now - if grown < stretch { grown } else { stretch });
    }
}

/// The thread left its CPU and no tracepoint told; now it gets one again.
///
/// # Safety
///
/// As `enter_unseen`.
#[inline(never)]
unsafe fn leave_unseen(ledger: *mut Ledger, task: *mut core::ffi::c_void, now: u64) {
    // SAFETY: see the function's contract.
    unsafe {
        let task = Task::new(task);
        let l = &mut *ledger;
        count_unless_bridged(l, fault::SWITCH_UNSEEN);
        let sum_exec = task.sum_exec();
        let grown = sum_exec.wrapping_sub(l.sum_exec_ns);
        let stretch = now.wrapping_sub(l.since_ns);
        let left = l.since_ns + if grown < stretch { grown } else { stretch };
        let (voluntaries, _) = task.switches();
        let voluntary = voluntaries.wrapping_sub(l.voluntary_base) > l.voluntary;
        book_run(l, sum_exec, left);
        // It is still inside the system call it blocked in; its state then is not known any more.
        book_leave(l, task, left, voluntary, 0);
    }
}
