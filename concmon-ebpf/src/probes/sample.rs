//! The sampling clock of every CPU: takes the Python stack of a watched thread that runs there.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_ktime_get_ns;

use crate::{
    maps::{ledger_at, slot_of},
    pywalk, task,
};

#[unsafe(no_mangle)]
#[unsafe(link_section = "perf_event")]
fn sample(ctx: *mut c_void) -> i32 {
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    if let Some(current) = task::current()
        && let Some(ledger) = ledger_at(slot_of(current))
    {
        // SAFETY: a live map value, and the running task.
        unsafe { pywalk::on_cpu(ctx, current, ledger, now) };
    }
    pywalk::flush(ctx, now);
    0
}
