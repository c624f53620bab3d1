//! A few times a second on every CPU: sends batches that nothing else will send soon.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_ktime_get_ns;

use crate::{emit::flush_stale, pywalk, sockets};

#[unsafe(no_mangle)]
#[unsafe(link_section = "perf_event")]
fn tick(ctx: *mut c_void) -> i32 {
    // SAFETY: a helper without preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    flush_stale(ctx, now);
    pywalk::flush(ctx, now);
    sockets::flush(ctx, now);
    0
}
