//! Tasks counted one by one, in the context of the thread that makes them and runs their steps.
//!
//! A task has begun when its first step does, and has ended when a step does and it is not pending any
//! more. Its name is read at its first step: by then whoever made it has named it.
//!
//! Probed functions can be preempted, so nothing here is per CPU: a thread writes its own rows, and
//! the entries of its own tasks.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated};
use concmon_ebpf::{
    Exact, ExactCall, ExactKey, ExactPlace, ExactRow, ExactTask, ExactTaskKey, FOLDED_BYTES,
    NAME_BYTES, PLACE_DEPTHS, fault,
};

use crate::{
    ledger::add,
    maps::{EXACT, EXACT_CALLS, EXACT_PLACES, EXACT_ROWS, EXACT_TASKS, EXACT_ZERO, count_fault},
    namespace::{self, Ids},
    verifier::bounded,
};

/// `fut_state` (Modules/_asyncio.c).
const PENDING: u32 = 0;
const CANCELLED: u32 = 1;
/// The names that asyncio makes up, with their digits folded: `Task-#`.
const OWN_NAME: u64 = u64::from_le_bytes(*b"Task-#\0\0");
/// Make an entry, change none (include/uapi/linux/bpf.h).
const BPF_NOEXIST: u64 = 1;
/// Bits of the state of a string (Include/cpython/unicodeobject.h).
const TEXT_COMPACT: u32 = 1 << 5;
const TEXT_ASCII: u32 = 1 << 6;

/// Who runs.
#[derive(Clone, Copy)]
struct Thread {
    tgid: u32,
    tid: u32,
}

impl Thread {
    #[inline(always)]
    fn current() -> Self {
        let Ids { tid, tgid } = namespace::current();
        Self { tgid, tid }
    }

    #[inline(always)]
    fn task(self, task: u64) -> ExactTaskKey {
        ExactTaskKey {
            task,
            tgid: self.tgid,
            reserved: 0,
        }
    }

    /// The call that is at `address` with this stack pointer, by one of its depths.
    #[inline(always)]
    fn call(self, address: u64, stack: u64, index: u32) -> Option<ExactCall> {
        let place = ExactPlace {
            address,
            tgid: self.tgid,
            index,
        };
        let depth = EXACT_PLACES.get_ptr(&place)?;
        Some(ExactCall {
            // SAFETY: a live map value.
            stack: stack.wrapping_add(unsafe { *depth }),
            tid: self.tid,
            reserved: 0,
        })
    }
}

/// A task is about to be initialized with these positional arguments.
#[inline(always)]
pub(crate) fn made(task: u64, arguments: u64, address: u64, stack: u64) {
    let thread = Thread::current();
    let Some(exact) = EXACT.get_ptr(&thread.tgid) else {
        return;
    };
    // SAFETY: a live map value, and a helper without preconditions.
    let (exact, now) = unsafe { (&*exact, bpf_ktime_get_ns()) };
    // Another one may have been there, and have been freed without an end.
    let coroutine = read(arguments + u64::from(exact.tuple_items));
    insert(thread.task(task), now, coroutine);
    if exact.eager != 0
        && let Some(call) = thread.call(address, stack, 0)
    {
        let _ = EXACT_CALLS.insert(&call, &task, 0);
    }
}

/// A step of a task begins.
#[inline(always)]
pub(crate) fn step(task: u64, address: u64, stack: u64) {
    let thread = Thread::current();
    let Some(exact) = EXACT.get_ptr(&thread.tgid) else {
        return;
    };
    let key = thread.task(task);
    if EXACT_TASKS.get_ptr(&key).is_none() {
        insert(key, 0, 0);
    }
    let Some(entry) = EXACT_TASKS.get_ptr_mut(&key) else {
        return;
    };
    // SAFETY: live map values.
    unsafe {
        if (*entry).named == 0 {
            let coroutine = read(task + u64::from((*exact).coroutine));
            if coroutine != 0 {
                (*entry).coroutine = coroutine;
            }
            begin(thread.tid, task, exact, entry);
        }
    }
    if let Some(call) = thread.call(address, stack, 0) {
        let _ = EXACT_CALLS.insert(&call, &task, 0);
    }
}

/// The thread is at `address`, which calls of probed functions pass at their end. Others may pass it as
/// well, and calls before their end: a call is known by its place on the stack, and its task's end by
/// the task's state.
#[inline(always)]
pub(crate) fn ended(address: u64, stack: u64) {
    let thread = Thread::current();
    let Some(exact) = EXACT.get_ptr(&thread.tgid) else {
        return;
    };
    let mut index = 0;
    while index < PLACE_DEPTHS {
        let Some(call) = thread.call(address, stack, index) else {
            return;
        };
        index += 1;
        let Some(task) = EXACT_CALLS.get_ptr(&call) else {
            continue;
        };
        // SAFETY: a live map value.
        let task = unsafe { *task };
        let mut state = 0u32;
        // SAFETY: a live map value; the helper checks the address.
        let failed = unsafe {
            generated::bpf_probe_read_user(
                (&raw mut state).cast(),
                4,
                (task + u64::from((*exact).state)) as *const c_void,
            )
        };
        if failed != 0 {
            count_fault(fault::EXACT_READ);
            return;
        }
        if state != PENDING {
            let _ = EXACT_CALLS.remove(&call);
            settle(thread, exact, task, state);
            return;
        }
    }
}

/// Counts the end of a task.
#[inline(always)]
fn settle(thread: Thread, exact: *const Exact, task: u64, state: u32) {
    let key = thread.task(task);
    let Some(entry) = EXACT_TASKS.get_ptr_mut(&key) else {
        return;
    };
    // SAFETY: live map values; this thread alone writes the row.
    unsafe {
        if (*entry).named == 0 {
            // It ran as a whole within its own initialization.
            begin(thread.tid, task, exact, entry);
        }
        let row_key = (*entry).row;
        let made = (*entry).made_ns;
        if let Some(row) = EXACT_ROWS.get_ptr_mut(&row_key) {
            let exception = read(task + u64::from((*exact).exception));
            open(row);
            if state == CANCELLED {
                (*row).cancelled += 1;
            } else if exception != 0 {
                (*row).failed += 1;
            } else {
                (*row).finished += 1;
            }
            if made != 0 {
                add(
                    &raw mut (*row).duration.head,
                    &raw mut (*row).duration.buckets,
                    bpf_ktime_get_ns().wrapping_sub(made),
                );
            }
            close(row);
        }
    }
    let _ = EXACT_TASKS.remove(&key);
}

#[inline(always)]
unsafe fn open(row: *mut ExactRow) {
    // SAFETY: a live map value.
    unsafe {
        let seq = core::ptr::read_volatile(&raw const (*row).seq);
        core::ptr::write_volatile(&raw mut (*row).seq, seq + 1);
    }
}

#[inline(always)]
unsafe fn close(row: *mut ExactRow) {
    // SAFETY: as `open`'s.
    unsafe { open(row) }
}

/// Remembers a task; one that cannot be is counted as a fault.
#[inline(always)]
fn insert(key: ExactTaskKey, made_ns: u64, coroutine: u64) {
    let task = ExactTask {
        made_ns,
        coroutine,
        row: ExactKey {
            tgid: 0,
            tid: 0,
            loop_object: 0,
            name: 0,
        },
        named: 0,
        width: 1,
        name: [0; NAME_BYTES / 8],
    };
    if EXACT_TASKS.insert(&key, &task, 0).is_err() {
        count_fault(fault::EXACT_ROOM);
    }
}

/// The first step: finds the task's row by its name, and counts it there as started.
///
/// # Safety
///
/// `exact` and `entry` are live map values.
#[inline(never)]
unsafe fn begin(tid: u32, task: u64, exact: *const Exact, entry: *mut ExactTask) -> u32 {
    // SAFETY: see the function's contract.
    unsafe {
        let tgid = namespace::current().tgid;
        let name = read(task + u64::from((*exact).name));
        let mut own = true;
        if name != 0 && read(name + 8) == (*exact).text_type {
            text(exact, name, FOLDED_BYTES as u64, entry);
            if (*entry).width == 1 {
                fold(entry);
                own = (*entry).name[0] == OWN_NAME;
            } else {
                own = false;
            }
        }
        if own {
            clear(entry);
            let coroutine = (*entry).coroutine;
            let kind = read(coroutine + 8);
            if kind == (*exact).coroutine_types[0] || kind == (*exact).coroutine_types[1] {
                let name = read(coroutine + u64::from((*exact).qualname));
                text(exact, name, NAME_BYTES as u64 - 4, entry);
            } else {
                c_string(read(kind + u64::from((*exact).type_name)), entry);
            }
        }
        let row_key = ExactKey {
            tgid,
            tid,
            loop_object: read(task + u64::from((*exact).loop_object)),
            name: hash(entry),
        };
        (*entry).row = row_key;
        (*entry).named = 1;
        if EXACT_ROWS.get_ptr(&row_key).is_none() {
            let Some(zero) = EXACT_ZERO.get_ptr(0) else {
                return 0;
            };
            if EXACT_ROWS.insert(&row_key, &*zero, BPF_NOEXIST).is_err() {
                count_fault(fault::EXACT_ROOM);
                return 0;
            }
        }
        let Some(row) = EXACT_ROWS.get_ptr_mut(&row_key) else {
            return 0;
        };
        open(row);
        if (*row).width == 0 {
            let mut index = 0;
            while index < NAME_BYTES / 8 {
                (*row).name[index] = (*entry).name[index];
                index += 1;
            }
            (*row).width = (*entry).width;
        }
        if (*entry).made_ns != 0 {
            (*row).started += 1;
        }
        close(row);
        1
    }
}

/// Takes over a string, cut to `most` bytes: whole characters of any width, and a zero behind them.
#[inline(always)]
unsafe fn text(exact: *const Exact, string: u64, most: u64, entry: *mut ExactTask) {
    // SAFETY: as the caller's; the length is masked to the buffer's.
    unsafe {
        let state = read(string + u64::from((*exact).text_state)) as u32;
        if string == 0 || state & TEXT_COMPACT == 0 {
            return;
        }
        let width = (state >> 2) & 7;
        let first = if state & TEXT_ASCII != 0 {
            (*exact).text_ascii
        } else {
            (*exact).text_compact
        };
        let mut bytes = read(string + u64::from((*exact).text_length)) * u64::from(width);
        if bytes > most {
            bytes = most;
        }
        let bytes = bounded::<{ NAME_BYTES as i32 }>(bytes as usize);
        let into = (&raw mut (*entry).name).cast();
        let from = (string + u64::from(first)) as *const c_void;
        if generated::bpf_probe_read_user(into, bytes as u32, from) == 0 {
            (*entry).width = width;
        }
    }
}

#[inline(always)]
unsafe fn c_string(from: u64, entry: *mut ExactTask) {
    // SAFETY: as `text`'s.
    unsafe {
        let into = (&raw mut (*entry).name).cast();
        generated::bpf_probe_read_user_str(into, NAME_BYTES as u32, from as *const c_void);
    }
}

#[inline(always)]
unsafe fn clear(entry: *mut ExactTask) {
    // SAFETY: as `text`'s.
    unsafe {
        let mut index = 0;
        while index < NAME_BYTES / 8 {
            (*entry).name[index] = 0;
            index += 1;
        }
        (*entry).width = 1;
    }
}

/// 1 for a digit, else 0. By hand: the compiler would make branches of it, and the verifier follow
/// each combination of them.
#[inline(always)]
fn is_digit(byte: u64) -> u64 {
    let (digit, _below): (u64, u64);
    // SAFETY: arithmetic on registers.
    unsafe {
        core::arch::asm!(
            "{0} = {2}",
            "{0} += -58",
            "{0} >>= 63",
            "{1} = {2}",
            "{1} += -48",
            "{1} >>= 63",
            "{1} ^= 1",
            "{0} &= {1}",
            out(reg) digit,
            out(reg) _below,
            in(reg) byte,
            options(pure, nomem, nostack)
        );
    }
    digit
}

/// Makes one `#` of each run of digits, in place. Without branches on what is in the name: the
/// verifier follows each. The second half of the buffer is zero, so that zeros move up to the end.
#[inline(always)]
unsafe fn fold(entry: *mut ExactTask) {
    // SAFETY: as `text`'s; indices are masked to the buffer's length.
    unsafe {
        let name: *mut u8 = (&raw mut (*entry).name).cast();
        let mut to = 0u64;
        let mut before = 0u64;
        let mut from = 0usize;
        while from < NAME_BYTES {
            let byte = u64::from(*name.add(from));
            let digit = is_digit(byte);
            let folded = byte ^ (byte ^ 35).wrapping_mul(digit);
            *name.add(bounded::<{ NAME_BYTES as i32 }>(to as usize)) = folded as u8;
            to += (digit & before) ^ 1;
            before = digit;
            from += 1;
        }
    }
}

#[inline(always)]
unsafe fn hash(entry: *const ExactTask) -> u64 {
    // SAFETY: as `text`'s.
    unsafe {
        // 2^64 divided by the golden ratio.
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut hash = u64::from((*entry).width);
        let mut index = 0;
        while index < NAME_BYTES / 8 {
            hash = (hash ^ (*entry).name[index]).wrapping_mul(FACTOR);
            hash ^= hash >> 32;
            index += 1;
        }
        hash
    }
}

/// A word of the target's memory; 0 where it cannot be read.
#[inline(always)]
pub(crate) fn read(address: u64) -> u64 {
    let mut value = 0u64;
    // SAFETY: the helper checks the address.
    unsafe {
        generated::bpf_probe_read_user((&raw mut value).cast(), 8, address as *const c_void);
    }
    value
}
