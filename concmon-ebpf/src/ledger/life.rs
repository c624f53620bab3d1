//! How an account begins, and what becomes of it when its thread has ended.

use concmon_ebpf::{Hists, Ledger, MAX_GILS, cause, ledger_flags, state};

use super::{begin, end, number_of};
use crate::{
    maps::{atomic_add, give_hists, hists_at},
    namespace::Ids,
    task::{Syscall, Task},
    verifier::bounded,
};

/// The thread is gone: its last stretch ended with its last switch-out.
#[inline(always)]
pub(crate) fn close(ledger: *mut Ledger) {
    // SAFETY: nobody writes the account of a dead thread.
    unsafe {
        let seq = begin(ledger);
        (*ledger).state = state::DEAD;
        end(ledger, seq);
    }
}

/// What an account starts with.
pub(crate) struct Birth {
    pub(crate) now: u64,
    pub(crate) state: u8,
    pub(crate) cause: u8,
    /// As [`Ledger::wait_flags`].
    pub(crate) wait_flags: u8,
    pub(crate) syscall: Syscall,
    pub(crate) flags: u32,
    pub(crate) gils: [u64; MAX_GILS],
    pub(crate) cpu: u32,
}

/// Starts an account in a slot that nobody else uses yet; free slots are all zero.
#[inline(always)]
pub(crate) fn open(ledger: *mut Ledger, task: Task, ids: Ids, birth: &Birth) {
    // SAFETY: the slot was just taken from the free ones; no other program has it.
    unsafe {
        let seq = begin(ledger);
        let l = &mut *ledger;
        l.tid = ids.tid;
        l.tgid = ids.tgid;
        l.flags = birth.flags;
        l.start_boottime_ns = task.start_boottime();
        l.start_ns = birth.now;
        l.last_cpu = birth.cpu;
        l.gils = birth.gils;
        l.hists = 0;
        l.stack_tat_ns = [0; cause::COUNT];
        l.stack_interval_ns = 0;
        l.sums_only = 0;
        l.thread_state = 0;
        l.step_version = 0;
        l.step_since_ns = birth.now;
        l.step_told = 0;
        set_open_stretch(l, task, birth);
        end(ledger, seq);
    }
}

/// Empties an account whose thread could not be bound to it.
#[inline(always)]
pub(crate) fn abandon(ledger: *mut Ledger) {
    // SAFETY: the slot is still ours alone.
    unsafe {
        (*ledger).tid = 0;
        (*ledger).tgid = 0;
        (*ledger).flags = 0;
        (*ledger).state = state::FREE;
    }
}

/// A seed this old without a switch since is not in the middle of one, ns.
const SETTLED_NS: u64 = 1_000_000;

/// Corrects the seed of a thread that has not switched since: it may have switched while its
/// account was being opened.
#[inline(always)]
pub(crate) fn reseed(ledger: *mut Ledger, task: Task, birth: &Birth) {
    // SAFETY: an untouched account is written by the seeding program only.
    unsafe {
        let age = birth.now.wrapping_sub((*ledger).since_ns);
        if (*ledger).flags & ledger_flags::UNTOUCHED == 0
            || (*ledger).state == birth.state
            || age < SETTLED_NS
        {
            return;
        }
        let seq = begin(ledger);
        let l = &mut *ledger;
        l.start_ns = birth.now;
        set_open_stretch(l, task, birth);
        end(ledger, seq);
    }
}

/// Brings an account up to `birth.now`: since `detached` no switch was told. Up to there the open stretch is what it
/// was; from there on nothing is known but how long the thread was on a CPU, by the kernel's own account. The stretch
/// that begins now is what the thread does now.
#[inline(always)]
pub(crate) fn bridge(ledger: *mut Ledger, task: Task, birth: &Birth, detached: u64) {
    // SAFETY: a live map value. No hook writes it while none is attached; those that were under way have ended.
    unsafe {
        let seq = begin(ledger);
        let l = &mut *ledger;
        let now = if birth.now < l.since_ns {
            l.since_ns
        } else {
            birth.now
        };
        let until = if detached < l.since_ns {
            l.since_ns
        } else if detached > now {
            now
        } else {
            detached
        };
        let sum_exec = task.sum_exec();
        let grown = sum_exec.wrapping_sub(l.sum_exec_ns);
        let run = close_stretch(l, until, grown);
        let gap = now - until;
        let rest = grown - run;
        l.unobserved_ns += gap;
        l.unobserved_run_ns += if rest < gap { rest } else { gap };
        l.sum_exec_ns = sum_exec;
        l.since_ns = now;
        let (voluntaries, involuntaries) = task.switches();
        let voluntary = voluntaries.wrapping_sub(l.voluntary_base);
        let involuntary = involuntaries.wrapping_sub(l.involuntary_base);
        let has_switched = voluntary != l.voluntary || involuntary != l.involuntary;
        l.voluntary = voluntary;
        l.involuntary = involuntary;
        l.waking_ns = 0;
        l.flags = l.flags & !ledger_flags::UNTOUCHED | ledger_flags::BRIDGED;
        let waits_on = l.state == state::BLOCKED && birth.state == state::BLOCKED && !has_switched;
        if !waits_on {
            // A slice that begins now has no known beginning.
            l.in_ns = 0;
            l.off_ns = now;
            l.wake_ns = 0;
            l.waker_tid = 0;
            l.wait_flags = birth.wait_flags;
            l.syscall = number_of(birth.syscall);
            l.arg0 = birth.syscall.arg0;
            l.cause = birth.cause;
            l.state = birth.state;
        }
        end(ledger, seq);
    }
}

/// Books the open stretch of `l` up to `until`, in which the thread's CPU clock has `grown`; gives how much of that is
/// in it.
#[inline(always)]
fn close_stretch(l: &mut Ledger, until: u64, grown: u64) -> u64 {
    let stretch = until - l.since_ns;
    match l.state {
        state::RUNNING => {
            let run = if grown < stretch { grown } else { stretch };
            l.on_cpu_ns += run;
            l.stolen_ns += stretch - run;
            return run;
        }
        state::BLOCKED => {
            let is_woken = l.waking_ns > l.since_ns && l.waking_ns < until;
            let woken = if is_woken { l.waking_ns } else { until };
            let index = bounded::<16>(l.cause as usize);
            if index < cause::COUNT {
                l.blocked_ns[index] += woken - l.since_ns;
            }
            l.woken_ns += until - woken;
        }
        state::WOKEN => l.woken_ns += stretch,
        _ => l.preempted_ns += stretch,
    }
    0
}

#[inline(always)]
fn set_open_stretch(l: &mut Ledger, task: Task, birth: &Birth) {
    l.since_ns = birth.now;
    l.off_ns = birth.now;
    l.wake_ns = if birth.state == state::WOKEN {
        birth.now
    } else {
        0
    };
    l.wait_flags = birth.wait_flags;
    l.sum_exec_ns = task.sum_exec();
    (l.voluntary_base, l.involuntary_base) = task.switches();
    l.syscall = number_of(birth.syscall);
    l.arg0 = birth.syscall.arg0;
    l.cause = birth.cause;
    l.state = birth.state;
}

/// Adds the account of a dead thread to `into`, and empties it for the next thread.
///
/// Two threads of a process may end at once, so every addition is atomic.
#[inline(always)]
pub(crate) fn fold(into: *mut Ledger, from: *mut Ledger) {
    // SAFETY: `from` is a dead thread's account, ours alone; `into` is a live map value that only
    // this function changes.
    unsafe {
        let seq = begin(from);
        let wall = (*from).since_ns - (*from).start_ns;
        move_u64(&raw mut (*into).on_cpu_ns, &raw mut (*from).on_cpu_ns);
        move_u64(&raw mut (*into).woken_ns, &raw mut (*from).woken_ns);
        move_u64(&raw mut (*into).preempted_ns, &raw mut (*from).preempted_ns);
        move_u64(&raw mut (*into).stolen_ns, &raw mut (*from).stolen_ns);
        move_u64(&raw mut (*into).unknown_ns, &raw mut (*from).unknown_ns);
        move_u64(
            &raw mut (*into).unobserved_ns,
            &raw mut (*from).unobserved_ns,
        );
        move_u64(
            &raw mut (*into).unobserved_run_ns,
            &raw mut (*from).unobserved_run_ns,
        );
        move_u64(&raw mut (*into).voluntary, &raw mut (*from).voluntary);
        move_u64(&raw mut (*into).involuntary, &raw mut (*from).involuntary);
        move_u64(&raw mut (*into).migrations, &raw mut (*from).migrations);
        for index in 0..cause::COUNT {
            move_u64(
                (&raw mut (*into).blocked_ns).cast::<u64>().add(index),
                (&raw mut (*from).blocked_ns).cast::<u64>().add(index),
            );
            (&raw mut (*from).gils)
                .cast::<u64>()
                .add(index & 3)
                .write(0);
        }
        atomic_add(&raw mut (*into).since_ns, wall);
        // Histograms of folded threads are not kept: their sums would be, their shape would not.
        let number = (*from).hists;
        if let Some(hists) = hists_at(number) {
            empty(hists);
            give_hists(number);
        }
        (*from).hists = 0;
        (*from).tid = 0;
        (*from).tgid = 0;
        (*from).flags = 0;
        (*from).start_ns = 0;
        (*from).since_ns = 0;
        (*from).state = state::FREE;
        end(from, seq);
    }
}

#[inline(always)]
unsafe fn move_u64(into: *mut u64, from: *mut u64) {
    // SAFETY: see `fold`.
    unsafe {
        atomic_add(into, *from);
        *from = 0;
    }
}

#[inline(always)]
unsafe fn empty(hists: *mut Hists) {
    let words: *mut u64 = hists.cast();
    for index in 0..size_of::<Hists>() / size_of::<u64>() {
        // SAFETY: see `fold`; the index is inside.
        unsafe { core::ptr::write_volatile(words.add(index), 0) };
    }
}
