//! Functions of the interpreter and its C modules, probed only when something is to be counted exactly:
//! where a task is initialized, the two ways into a step of it, and the ends of these; where work is put into a queue, an
//! exception passes a frame, and a future of asyncio is given one.
//!
//! Arguments, the stack pointer and the place in the code are read from the registers of x86-64: nothing
//! else attaches these. A place may lie a little behind a function's first instruction.

use core::ffi::c_void;

use crate::{exact, futures};

/// The wrapper that calls a task has it behind the head of an object (`sw_task`, `ww_task` in
/// Modules/_asyncio.c, 3.8 to 3.15).
const WRAPPED: u64 = 16;

/// A register of the probed thread, by its offset in `struct pt_regs` (arch/x86/include/asm/ptrace.h).
/// By hand: the verifier wants the offset in the load itself.
macro_rules! register {
    ($ctx:ident, $offset:literal) => {{
        let value: u64;
        // SAFETY: one load from the context, inside its bounds.
        unsafe {
            core::arch::asm!(
                concat!("{0} = *(u64 *)({1} + ", $offset, ")"),
                out(reg) value,
                in(reg) $ctx,
                options(readonly, nostack, preserves_flags)
            );
        }
        value
    }};
}

/// `_asyncio_Task___init__(PyObject *self, PyObject *args, PyObject *kwargs)`: `tp_init`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
fn exact_task_made(ctx: *mut c_void) -> i32 {
    exact::made(
        register!(ctx, "112"),
        register!(ctx, "104"),
        register!(ctx, "128"),
        register!(ctx, "152"),
    );
    0
}

/// `task_wakeup(TaskObj *task, PyObject *future)`: the function of a bound method.
#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
fn exact_task_step(ctx: *mut c_void) -> i32 {
    exact::step(
        register!(ctx, "112"),
        register!(ctx, "128"),
        register!(ctx, "152"),
    );
    0
}

/// `tp_call` of the wrappers of steps, and, up to 3.9, of wakeups.
#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
fn exact_wrapped_step(ctx: *mut c_void) -> i32 {
    let wrapper = register!(ctx, "112");
    exact::step(
        exact::read(wrapper + WRAPPED),
        register!(ctx, "128"),
        register!(ctx, "152"),
    );
    0
}

/// What calls of any of these pass at their end.
#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
fn exact_task_end(ctx: *mut c_void) -> i32 {
    exact::ended(register!(ctx, "128"), register!(ctx, "152"));
    0
}

/// `_queue_SimpleQueue_put(self, PyObject *const *args, ...)`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
fn exact_put(ctx: *mut c_void) -> i32 {
    futures::put(register!(ctx, "112"), register!(ctx, "104"));
    0
}

/// `PyTraceBack_Here(PyFrameObject *frame)`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
fn exact_unwound(ctx: *mut c_void) -> i32 {
    futures::unwound(register!(ctx, "112"));
    0
}

/// `_asyncio_Future_set_exception(self, exception)`, from 3.12 on
/// `(self, cls, PyObject *const *args, ...)`.
#[unsafe(no_mangle)]
#[unsafe(link_section = "uprobe")]
fn exact_handed_over(ctx: *mut c_void) -> i32 {
    futures::handed_over(register!(ctx, "104"), register!(ctx, "96"));
    0
}
