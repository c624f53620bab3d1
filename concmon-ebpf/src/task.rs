//! Reading `task_struct` through the offsets that user space took from the running kernel's BTF.

use core::ffi::c_void;

use aya_ebpf::helpers::{
    bpf_probe_read_kernel,
    generated::{bpf_get_current_task_btf, bpf_task_pt_regs},
};
use concmon_ebpf::KernelConfig;

/// Set by the loader and frozen: every field is a constant to the verifier.
#[unsafe(no_mangle)]
pub(crate) static CONFIG: KernelConfig = KernelConfig {
    task_pid: 0,
    task_tgid: 0,
    task_flags: 0,
    task_state: 0,
    task_start_boottime: 0,
    task_exit_code: 0,
    task_signal: 0,
    task_comm: 0,
    task_sum_exec: 0,
    task_nvcsw: 0,
    task_nivcsw: 0,
    task_on_cpu: 0,
    task_on_rq: 0,
    task_sched_delayed: 0,
    signal_flags: 0,
    signal_group_exit_code: 0,
    signal_live: 0,
    regs_syscall: 0,
    regs_arg0: 0,
    regs_arg1: 0,
    regs_arg5: 0,
    task_restart_bits: 0,
    has_task_regs: 0,
    has_prev_state: 0,
    has_sched_delayed: 0,
    batch_age_ns: 0,
    regs_syscall_bytes: 0,
    task_on_cpu_bytes: 0,
    task_on_rq_bytes: 0,
    task_tls: 0,
    has_task_tls: 0,
    regs_ip: 0,
    regs_sp: 0,
    task_thread_pid: 0,
    task_group_leader: 0,
    pid_level: 0,
    pid_numbers: 0,
    in_namespace: 0,
    tells_execs: 0,
};

/// One field of [`CONFIG`].
macro_rules! config {
    ($field:ident) => {
        $crate::task::frozen(&$crate::task::CONFIG.$field)
    };
}
pub(crate) use config;

/// The value that the loader put there; volatile, for the compiler must not take the placeholder's.
#[inline(always)]
pub(crate) fn frozen(field: &'static u32) -> u32 {
    // SAFETY: a plain read of an initialised static.
    unsafe { core::ptr::read_volatile(field) }
}

/// `task_struct::flags`: a kernel thread (include/linux/sched.h).
const PF_KTHREAD: u32 = 0x0020_0000;
/// The same: it has begun to exit.
const PF_EXITING: u32 = 0x0000_0004;
/// `signal_struct::flags` (include/linux/sched/signal.h).
const SIGNAL_GROUP_EXIT: u32 = 0x0000_0004;

/// Bits of `task_struct::__state` (include/linux/sched.h); stable since 4.14.
pub(crate) mod task_state {
    pub(crate) const UNINTERRUPTIBLE: u32 = 0x02;
    pub(crate) const STOPPED: u32 = 0x04;
    pub(crate) const TRACED: u32 = 0x08;
    pub(crate) const DEAD: u32 = 0x80;
    /// Being made: its fork has not been told yet.
    pub(crate) const NEW: u32 = 0x800;
}

/// Of `include/uapi/linux/futex.h`; `FUTEX_WAIT` is 0.
const FUTEX_WAIT_BITSET: u32 = 9;
const FUTEX_PRIVATE: u32 = 128;
const FUTEX_CLOCK_REALTIME: u32 = 256;

/// A task pointer that the verifier trusts (a tracepoint's argument or the current task).
#[derive(Clone, Copy)]
pub(crate) struct Task(*const c_void);

/// What `restart_syscall` goes on with.
pub(crate) enum Restarted {
    Sleep,
    Futex,
    Poll,
}

/// The syscall a thread is in, and its first argument.
#[derive(Clone, Copy)]
pub(crate) struct Syscall {
    /// -1 when in none, or when it cannot be told.
    pub(crate) number: i64,
    pub(crate) arg0: u64,
}

impl Syscall {
    pub(crate) const NONE: Self = Self {
        number: -1,
        arg0: 0,
    };
}

impl Task {
    /// # Safety
    ///
    /// `ptr` must be a `task_struct` that the verifier knows as such.
    #[inline(always)]
    pub(crate) unsafe fn new(ptr: *const c_void) -> Self {
        Self(ptr)
    }

    #[inline(always)]
    pub(crate) fn ptr(self) -> *mut c_void {
        self.0.cast_mut()
    }

    #[inline(always)]
    fn field<T: Copy>(self, offset: u32) -> T {
        // SAFETY: the offset comes from this kernel's BTF and was checked by the self-test; the
        // verifier turns the access into one that cannot fault.
        unsafe { core::ptr::read_volatile(self.0.byte_add(offset as usize).cast()) }
    }

    #[inline(always)]
    pub(crate) fn tid(self) -> u32 {
        self.field(config!(task_pid))
    }

    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        self.field(config!(task_tgid))
    }

    /// The `struct pid` that has its ids in all namespaces; none after its end.
    #[inline(always)]
    pub(crate) fn thread_pid(self) -> *const c_void {
        self.field(config!(task_thread_pid))
    }

    /// The same of its process's first thread.
    #[inline(always)]
    pub(crate) fn leader_thread_pid(self) -> *const c_void {
        let leader: *const c_void = self.field(config!(task_group_leader));
        let at = leader.wrapping_byte_add(config!(task_thread_pid) as usize);
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel(at.cast()).unwrap_or(core::ptr::null()) }
    }

    #[inline(always)]
    pub(crate) fn state(self) -> u32 {
        self.field(config!(task_state))
    }

    #[inline(always)]
    pub(crate) fn start_boottime(self) -> u64 {
        self.field(config!(task_start_boottime))
    }

    /// `se.sum_exec_runtime`: exact at switch-out, up to a tick old for a running task.
    #[inline(always)]
    pub(crate) fn sum_exec(self) -> u64 {
        self.field(config!(task_sum_exec))
    }

    /// Voluntary and involuntary switches, the one under way included.
    #[inline(always)]
    pub(crate) fn switches(self) -> (u64, u64) {
        (
            self.field(config!(task_nvcsw)),
            self.field(config!(task_nivcsw)),
        )
    }

    #[inline(always)]
    pub(crate) fn on_cpu(self) -> u32 {
        self.flag_word(config!(task_on_cpu), config!(task_on_cpu_bytes))
    }

    /// A field that was an `int` and became a byte.
    #[inline(always)]
    fn flag_word(self, offset: u32, bytes: u32) -> u32 {
        if bytes == 1 {
            return u32::from(self.field::<u8>(offset));
        }
        self.field(offset)
    }

    /// Whether the scheduler has it queued; a task whose dequeue is only delayed is not.
    #[inline(always)]
    pub(crate) fn queued(self) -> bool {
        let on_rq = self.flag_word(config!(task_on_rq), config!(task_on_rq_bytes));
        if on_rq == 0 {
            return false;
        }
        if config!(has_sched_delayed) != 0 {
            let delayed: u8 = self.field(config!(task_sched_delayed));
            return delayed == 0;
        }
        true
    }

    #[inline(always)]
    pub(crate) fn is_kernel_thread(self) -> bool {
        let flags: u32 = self.field(config!(task_flags));
        flags & PF_KTHREAD != 0
    }

    #[inline(always)]
    pub(crate) fn is_exiting(self) -> bool {
        let flags: u32 = self.field(config!(task_flags));
        flags & PF_EXITING != 0
    }

    /// The two halves of the name.
    #[inline(always)]
    pub(crate) fn comm(self) -> [u64; 2] {
        let offset = config!(task_comm);
        // SAFETY: reads 16 bytes of `comm`, which is that long; not a trusted load, for BTF
        // access to an array as two words is refused by some verifiers.
        unsafe { bpf_probe_read_kernel(self.0.byte_add(offset as usize).cast()).unwrap_or([0; 2]) }
    }

    /// One word of the process's `signal_struct`.
    #[inline(always)]
    fn signal_word(self, offset: u32) -> u32 {
        let signal: *const c_void = self.field(config!(task_signal));
        if signal.is_null() {
            return 0;
        }
        // SAFETY: the helper checks the address.
        unsafe { bpf_probe_read_kernel(signal.byte_add(offset as usize).cast()).unwrap_or(0) }
    }

    /// Threads of the process that have not begun to exit.
    #[inline(always)]
    pub(crate) fn live_threads(self) -> u32 {
        self.signal_word(config!(signal_live))
    }

    /// The status as `wait` would show it, and whether it is the whole process's.
    #[inline(always)]
    pub(crate) fn exit_status(self) -> (u32, bool) {
        if self.signal_word(config!(signal_flags)) & SIGNAL_GROUP_EXIT != 0 {
            (self.signal_word(config!(signal_group_exit_code)), true)
        } else {
            (self.field(config!(task_exit_code)), false)
        }
    }

    /// The thread's TLS base; 0 where it is not known.
    #[inline(always)]
    pub(crate) fn tls(self) -> u64 {
        if config!(has_task_tls) == 0 {
            return 0;
        }
        self.field(config!(task_tls))
    }

    /// The saved user-mode instruction pointer; 0 where it is not known.
    #[inline(always)]
    pub(crate) fn ip(self) -> u64 {
        self.register(config!(regs_ip))
    }

    /// The saved user-mode stack pointer; 0 where it is not known.
    #[inline(always)]
    pub(crate) fn sp(self) -> u64 {
        self.register(config!(regs_sp))
    }

    /// What a call that is gone on with is, of those whose first argument is an address.
    #[inline(always)]
    pub(crate) fn restarted(self) -> Restarted {
        let second = self.register(config!(regs_arg1));
        if self.goes_on_with_futex(second as u32) {
            return Restarted::Futex;
        }
        // Where the rest of a sleep is to be written, if anywhere; else a number of descriptors.
        if second == 0 || second > u64::from(u32::MAX) {
            return Restarted::Sleep;
        }
        Restarted::Poll
    }

    /// Every wait on a futex that is gone on with is for any bit, whatever its operation; there `poll` has the second
    /// at which it ends. Where that is not known, the arguments must do: `FUTEX_WAIT_BITSET` for any bit, or a private
    /// `FUTEX_WAIT`, which may also be 128 descriptors.
    #[inline(always)]
    fn goes_on_with_futex(self, operation: u32) -> bool {
        if config!(task_restart_bits) != 0 {
            return self.field::<u32>(config!(task_restart_bits)) == u32::MAX;
        }
        let any_bit = self.register(config!(regs_arg5)) as u32 == u32::MAX;
        (operation & !(FUTEX_PRIVATE | FUTEX_CLOCK_REALTIME) == FUTEX_WAIT_BITSET && any_bit)
            || operation == FUTEX_PRIVATE
    }

    /// The syscall in the saved user registers.
    #[inline(always)]
    pub(crate) fn syscall(self) -> Syscall {
        if config!(has_task_regs) == 0 {
            return Syscall::NONE;
        }
        // SAFETY: trusted task pointer; the result is a `pt_regs` the verifier knows.
        unsafe {
            let regs = bpf_task_pt_regs(self.ptr().cast()) as *const c_void;
            let at = regs.byte_add(config!(regs_syscall) as usize);
            let number = if config!(regs_syscall_bytes) == 4 {
                i64::from(core::ptr::read_volatile(at.cast::<i32>()))
            } else {
                core::ptr::read_volatile(at.cast::<i64>())
            };
            let arg0 = core::ptr::read_volatile(regs.byte_add(config!(regs_arg0) as usize).cast());
            Syscall { number, arg0 }
        }
    }

    /// An eight-byte saved user register, by its offset; 0 where none can be read.
    #[inline(always)]
    pub(crate) fn register(self, offset: u32) -> u64 {
        if config!(has_task_regs) == 0 {
            return 0;
        }
        // SAFETY: as in `syscall`.
        unsafe {
            let regs = bpf_task_pt_regs(self.ptr().cast()) as *const c_void;
            core::ptr::read_volatile(regs.byte_add(offset as usize).cast())
        }
    }
}

/// The running task, where the helper that gives a trusted pointer exists.
#[inline(always)]
pub(crate) fn current() -> Option<Task> {
    if config!(has_task_regs) == 0 {
        return None;
    }
    // SAFETY: the helper returns the current task, trusted by the verifier.
    Some(unsafe { Task::new(bpf_get_current_task_btf().cast()) })
}
