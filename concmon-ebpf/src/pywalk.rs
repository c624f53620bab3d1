//! Python stacks, walked where they are: in the context of the thread whose stack it is.
//!
//! Everything read is the target's own memory, and may be anything: every read is checked by the
//! helper, every index is bounded, and a walk ends after a fixed number of frames.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::BPF_F_CURRENT_CPU,
    helpers::{bpf_get_smp_processor_id, generated},
};
use concmon_ebpf::{
    FRAME_BYTES, Ledger, NO_OFFSET, OWNER_GENERATOR, OWNER_NO_CODE, Python, SAMPLE_AREA,
    SAMPLE_FRAMES, SAMPLE_STARTS, STACK_INTERVAL_NS, STACK_WINDOW_NS, SampleBatch, SampleFrame,
    SampleHead, WIRE_VERSION, cause, fault, sample_flags, slice_flags, state,
};

use crate::{
    maps::{PYTHONS, SAMPLE_BATCHES, SAMPLES, count_fault, ledger_at},
    task::{Task, config},
    verifier::bounded,
};

/// How long a thread whose process has no known interpreter is left alone, ns.
const NO_PYTHON_NS: u64 = 2 * STACK_WINDOW_NS;
/// A batch with more bytes than this is full.
const FULL: u32 = SAMPLE_STARTS as u32 - 2048;

/// This CPU's batch.
#[inline(always)]
fn own_batch() -> Option<*mut SampleBatch> {
    // SAFETY: a helper without preconditions.
    SAMPLE_BATCHES.get_ptr_mut(unsafe { bpf_get_smp_processor_id() })
}

/// The thread was found on a CPU by the sampling clock.
///
/// # Safety
///
/// `ledger` is the live account of `task`, the running one.
#[inline(always)]
pub(crate) unsafe fn on_cpu(ctx: *mut c_void, task: Task, ledger: *mut Ledger, now: u64) {
    // SAFETY: see the function's contract. Samples of a thread are taken by the CPU it is on.
    unsafe {
        let Some(python) = PYTHONS.get_ptr(&(*ledger).tgid) else {
            return;
        };
        if take(task.ptr(), python, ledger, now, 0) == 0 {
            return;
        }
        let Some(batch) = own_batch() else {
            return;
        };
        let flags = finish(batch, ledger);
        if (*batch).used > FULL || flags & sample_flags::LONG != 0 {
            send(ctx, batch);
        }
    }
}

/// The thread blocks, and is about to leave its CPU.
///
/// # Safety
///
/// `ledger` is the live account of `task`, which the CPU is switching away from.
#[inline(always)]
pub(crate) unsafe fn on_block(
    ctx: *mut c_void,
    task: Task,
    slot: u32,
    ledger: *mut Ledger,
    now: u64,
) {
    // SAFETY: see the function's contract.
    unsafe {
        let cause = (*ledger).cause;
        if cause == cause::POLL && (*ledger).wait_flags & slice_flags::QUEUE != 0 {
            // Whatever a loop does next is another step.
            (*ledger).step_since_ns = now;
            (*ledger).step_version = 0;
            return;
        }
        let index = bounded::<16>(usize::from(cause));
        if index >= cause::COUNT {
            return;
        }
        let bucket = (&raw mut (*ledger).stack_tat_ns).cast::<u64>().add(index);
        let tat = *bucket;
        if tat > now + STACK_WINDOW_NS {
            return;
        }
        let Some(python) = PYTHONS.get_ptr(&(*ledger).tgid) else {
            *bucket = now + NO_PYTHON_NS;
            return;
        };
        let interval = match (*ledger).stack_interval_ns {
            0 => STACK_INTERVAL_NS,
            interval => interval,
        };
        *bucket = if tat < now { now } else { tat } + interval;
        let what = u32::from(sample_flags::BLOCK) | u32::from(cause) << 8;
        if take(task.ptr(), python, ledger, now, what) == 0 {
            return;
        }
        let Some(batch) = own_batch() else {
            return;
        };
        finish(batch, ledger);
        if (*ledger).stack_interval_ns != 0 {
            (*batch).blocked_ns = now;
            (*batch).blocked_slot = slot;
            (*batch).blocked_long_ns = (*python).long_ns;
        }
        if (*batch).used > FULL {
            send(ctx, batch);
        }
    }
}

/// Sends a batch that is old, or whose last block has become a long one. Called by both clocks.
#[inline(always)]
pub(crate) fn flush(ctx: *mut c_void, now: u64) {
    let Some(batch) = own_batch() else {
        return;
    };
    // SAFETY: this CPU's own value; those who write it run with interrupts off.
    unsafe {
        let count = (*batch).header.count;
        if count == 0 {
            return;
        }
        let age = now.wrapping_sub((*batch).header.opened_ns);
        if age > u64::from(config!(batch_age_ns)) || is_long_block(batch, now) {
            send(ctx, batch);
        }
    }
}

/// Whether the thread that blocked last still does, and for long.
#[inline(always)]
unsafe fn is_long_block(batch: *mut SampleBatch, now: u64) -> bool {
    // SAFETY: as the caller's.
    unsafe {
        let since = (*batch).blocked_ns;
        if since == 0 || now.wrapping_sub(since) < (*batch).blocked_long_ns {
            return false;
        }
        (*batch).blocked_ns = 0;
        let Some(ledger) = ledger_at((*batch).blocked_slot) else {
            return false;
        };
        let now_is = core::ptr::read_volatile(&raw const (*ledger).state);
        now_is == state::BLOCKED
            && core::ptr::read_volatile(&raw const (*ledger).off_ns) == since
            && core::ptr::read_volatile(&raw const (*ledger).waking_ns) < since
    }
}

/// Writes a sample behind the last one of this CPU's batch, without counting it yet. Returns 0 when
/// there is none to count. `what` is the flags, and the cause in the second byte.
///
/// # Safety
///
/// `task` is a task that the verifier trusts, whose memory this CPU has; the others are live values.
#[inline(never)]
unsafe fn take(
    task: *mut c_void,
    python: *const Python,
    ledger: *mut Ledger,
    now: u64,
    what: u32,
) -> u32 {
    let Some(batch) = own_batch() else {
        return 0;
    };
    // SAFETY: see the function's contract; the offset is masked so that a whole sample fits.
    unsafe {
        let task = Task::new(task);
        let tls = task.tls();
        if tls == 0 {
            return 0;
        }
        let at = bounded::<{ SAMPLE_STARTS as i32 }>((*batch).used as usize & !7);
        let head: *mut SampleHead = (&raw mut (*batch).area).cast::<u8>().add(at).cast();
        let mut flags = what as u8;
        let mut thread_state = read(tls.wrapping_add_signed((*python).tls_offset));
        // In another interpreter it has a state that is not noted there.
        let entered = (*ledger).thread_state;
        if entered != 0
            && runs_by(python, entered, tls, task.sp())
            && innermost(python, entered) != 0
        {
            thread_state = entered;
        }
        (*head).cause = (what >> 8) as u8;
        (*head).tid = (*ledger).tid;
        (*head).tgid = (*ledger).tgid;
        (*head).turn_index = NO_OFFSET;
        (*head).turn_count = NO_OFFSET;
        (*head).turns = 0;
        (*head).at_ns = now;
        (*head).turn_start = 0;
        (*head).context = 0;
        (*head).context_version = 0;
        (*head).thread_state = thread_state;
        (*head).frames = 0;
        (*head).ip = task.ip();
        if task.syscall().number < 0 {
            flags |= sample_flags::USER;
        }
        if (*python).collecting != 0 && read((*python).collecting) as u32 != 0 {
            flags |= sample_flags::COLLECTING;
        }
        if thread_state != 0 {
            flags |= sample_flags::STATE;
            let context = thread_state + u64::from((*python).thread_context);
            (*head).context = read(context);
            (*head).context_version = read(context + 8);
            if thread_state == (*python).turns_thread {
                (*head).turns = read((*python).turns) as u32;
            }
            flags |= walk(batch, head, python, innermost(python, thread_state)) as u8;
        }
        (*head).flags = flags;
        1
    }
}

/// Whether the thread with this TLS base and stack pointer runs code by a thread state.
///
/// # Safety
///
/// `python` is a live map value.
#[inline(always)]
unsafe fn runs_by(python: *const Python, thread_state: u64, tls: u64, sp: u64) -> bool {
    // SAFETY: see the function's contract.
    unsafe {
        if (*python).loop_place == NO_OFFSET || sp == 0 {
            return read(thread_state + u64::from((*python).thread_ident)) == tls;
        }
        let place = read(thread_state + u64::from((*python).loop_place));
        // A thread's TLS is at the bottom of its stack; the first thread's stack lies above all else.
        place >= sp && (place < tls || tls < sp)
    }
}

/// Address of a thread state's innermost frame; 0: it has none.
///
/// # Safety
///
/// `python` is a live map value.
#[inline(always)]
unsafe fn innermost(python: *const Python, thread_state: u64) -> u64 {
    // SAFETY: see the function's contract.
    unsafe {
        let frame = read(thread_state + u64::from((*python).thread_frame));
        if frame != 0 && (*python).root_frame != NO_OFFSET {
            return read(frame + u64::from((*python).root_frame));
        }
        frame
    }
}

/// Writes the frames from `frame` on behind `head`. Returns flags.
///
/// # Safety
///
/// `head` lies in the area of `batch`, with room for a whole sample; all are live values.
#[inline(always)]
unsafe fn walk(
    batch: *mut SampleBatch,
    head: *mut SampleHead,
    python: *const Python,
    mut frame: u64,
) -> u32 {
    // SAFETY: see the function's contract.
    unsafe {
        let bytes: *mut u8 = (&raw mut (*batch).frame).cast();
        let frames: *mut SampleFrame = head.add(1).cast();
        let mut turn_frame = 0;
        let mut index = 0usize;
        let mut flags = 0;
        // One counter and few paths: the verifier follows each.
        while index < SAMPLE_FRAMES {
            if frame == 0 {
                break;
            }
            // Bounded right here: older verifiers forget the bounds of what is kept on the stack.
            let wanted = core::ptr::read_volatile(&raw const (*python).frame_bytes).wrapping_sub(1);
            let wanted = bounded::<{ FRAME_BYTES as i32 }>(wanted as usize) as u32 + 1;
            if generated::bpf_probe_read_user(bytes.cast(), wanted, frame as *const c_void) != 0 {
                flags = u32::from(sample_flags::FAULT);
                break;
            }
            let mut code = word(bytes, (*python).executable) & (*python).executable_mask;
            let mut generator = word(bytes, (*python).frame_generator);
            if (*python).owner != NO_OFFSET {
                let owner = *bytes.add(bounded::<{ FRAME_BYTES as i32 }>((*python).owner as usize));
                generator = 0;
                if owner == OWNER_GENERATOR {
                    generator = frame - u64::from((*python).generator_frame);
                }
                if owner >= OWNER_NO_CODE {
                    code = 0;
                }
            }
            if code == (*python).turn_code {
                turn_frame = frame;
            }
            let out = frames.add(bounded::<{ SAMPLE_FRAMES as i32 }>(index));
            (*out).code = code;
            (*out).generator = generator;
            (*out).instruction = word(bytes, (*python).instruction);
            frame = word(bytes, (*python).previous);
            index += 1;
        }
        (*head).frames = index as u16;
        if flags == 0 && frame != 0 {
            flags = u32::from(sample_flags::TRUNCATED);
        }
        if turn_frame != 0 && (*python).turn_code != 0 {
            turn(head, python, turn_frame);
        }
        flags
    }
}

/// Reads what the frame of a loop's turn knows of it.
///
/// # Safety
///
/// As `walk`.
#[inline(always)]
unsafe fn turn(head: *mut SampleHead, python: *const Python, frame: u64) {
    // SAFETY: see the function's contract.
    unsafe {
        let locals = frame + u64::from((*python).locals);
        let local = |index: u32| read(locals + 8 * u64::from(index)) & (*python).executable_mask;
        let start = local((*python).turn_start);
        if start == 0 {
            return;
        }
        (*head).turn_start = read(start + u64::from((*python).float_value));
        let index = local((*python).turn_index);
        if index != 0 {
            (*head).turn_index = read(index + u64::from((*python).int_value)) as u32;
        }
        let count = local((*python).turn_count);
        if count != 0 {
            (*head).turn_count = read(count + u64::from((*python).int_value)) as u32;
        }
    }
}

/// A word of the frame's head.
#[inline(always)]
unsafe fn word(bytes: *mut u8, offset: u32) -> u64 {
    let offset = bounded::<{ FRAME_BYTES as i32 }>(offset as usize & !7);
    // SAFETY: inside the buffer, and aligned.
    unsafe { *bytes.add(offset).cast() }
}

/// A word of the target's memory; 0 where it cannot be read.
#[inline(always)]
unsafe fn read(address: u64) -> u64 {
    let mut value = 0u64;
    // SAFETY: the helper checks the address.
    unsafe {
        generated::bpf_probe_read_user((&raw mut value).cast(), 8, address as *const c_void);
    }
    value
}

/// Counts the sample that was just written. Returns its flags.
///
/// # Safety
///
/// `take` has just written a sample of the thread of `ledger` into this CPU's batch.
#[inline(always)]
unsafe fn finish(batch: *mut SampleBatch, ledger: *mut Ledger) -> u8 {
    // SAFETY: see the function's contract.
    unsafe {
        let at = bounded::<{ SAMPLE_STARTS as i32 }>((*batch).used as usize & !7);
        let head: *mut SampleHead = (&raw mut (*batch).area).cast::<u8>().add(at).cast();
        let (now, version) = ((*head).at_ns, (*head).context_version);
        if (*batch).header.count == 0 {
            (*batch).header.version = WIRE_VERSION;
            (*batch).header.cpu = bpf_get_smp_processor_id();
            (*batch).header.opened_ns = now;
        }
        (*batch).header.count += 1;
        let frames = u32::from((*head).frames);
        (*batch).used = at as u32
            + size_of::<SampleHead>() as u32
            + (frames & 127) * size_of::<SampleFrame>() as u32;
        let flags = (*head).flags;
        if flags & sample_flags::STATE == 0 {
            return flags;
        }
        if (*ledger).step_version != version {
            (*ledger).step_version = version;
            (*ledger).step_since_ns = now;
            return flags;
        }
        let Some(python) = PYTHONS.get_ptr(&(*ledger).tgid) else {
            return flags;
        };
        if now.wrapping_sub((*ledger).step_since_ns) < (*python).long_ns
            || (*ledger).step_told == version
        {
            return flags;
        }
        (*ledger).step_told = version;
        (*head).flags = flags | sample_flags::LONG;
        flags | sample_flags::LONG
    }
}

/// # Safety
///
/// `batch` is this CPU's value.
#[inline(always)]
unsafe fn send(ctx: *mut c_void, batch: *mut SampleBatch) {
    // SAFETY: see the function's contract; the length is bounded by the batch.
    unsafe {
        // Read anew: a bound that the compiler merges with an earlier one is none to older verifiers.
        let used = u64::from(core::ptr::read_volatile(&raw const (*batch).used));
        if used > SAMPLE_AREA as u64 {
            return;
        }
        let failed = generated::bpf_perf_event_output(
            ctx,
            core::ptr::addr_of!(SAMPLES).cast_mut().cast(),
            BPF_F_CURRENT_CPU,
            batch.cast(),
            size_of::<concmon_ebpf::BatchHeader>() as u64 + used,
        );
        if failed != 0 {
            count_fault(fault::OUTPUT_FAILED);
        }
        (*batch).header.produced_before += u64::from((*batch).header.count);
        (*batch).header.count = 0;
        (*batch).used = 0;
    }
}
