//! What user space tells the kernel programs before they are loaded.

/// What user space tells the kernel programs before they are loaded: offsets from the running
/// kernel's BTF in bytes, and what this kernel can do. Frozen, so the verifier sees constants and
/// leaves out what is switched off. Flags are 0 or 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelConfig {
    /// `task_struct::pid`: the thread id.
    pub task_pid: u32,
    /// `task_struct::tgid`: the process id.
    pub task_tgid: u32,
    pub task_flags: u32,
    /// `task_struct::__state`, or `state` before 5.14.
    pub task_state: u32,
    pub task_start_boottime: u32,
    pub task_exit_code: u32,
    pub task_signal: u32,
    pub task_comm: u32,
    pub task_sum_exec: u32,
    /// `task_struct::nvcsw` and `nivcsw`: voluntary and involuntary switches.
    pub task_nvcsw: u32,
    pub task_nivcsw: u32,
    pub task_on_cpu: u32,
    pub task_on_rq: u32,
    /// `task_struct::se.sched_delayed`; used when `has_sched_delayed`.
    pub task_sched_delayed: u32,
    pub signal_flags: u32,
    pub signal_group_exit_code: u32,
    pub signal_live: u32,
    /// Syscall number, first, second and sixth argument in the saved user registers.
    pub regs_syscall: u32,
    pub regs_arg0: u32,
    pub regs_arg1: u32,
    pub regs_arg5: u32,
    /// `task_struct::restart_block.futex.bitset`; 0: not known.
    pub task_restart_bits: u32,
    /// `bpf_task_pt_regs` works (5.15), and `bpf_get_current_task_btf` (5.11); else causes come from the
    /// task state alone.
    pub has_task_regs: u32,
    /// `sched_switch` passes the previous task's state (5.18).
    pub has_prev_state: u32,
    pub has_sched_delayed: u32,
    /// A batch older than this is sent with the next event or tick, ns.
    pub batch_age_ns: u32,
    /// Bytes of the saved syscall number: 8 on x86-64, 4 on arm64.
    pub regs_syscall_bytes: u32,
    /// Bytes of `task_struct::on_cpu` and `on_rq`: 4, or 1 since 7.2.
    pub task_on_cpu_bytes: u32,
    pub task_on_rq_bytes: u32,
    /// The thread's TLS base (x86-64: `thread.fsbase`); used when `has_task_tls`.
    pub task_tls: u32,
    pub has_task_tls: u32,
    /// Instruction pointer in the saved user registers.
    pub regs_ip: u32,
    /// Stack pointer in the saved user registers.
    pub regs_sp: u32,
    /// `task_struct::thread_pid` and `group_leader`, and of a `struct pid` its level and where its ids begin; used when
    /// `in_namespace`.
    pub task_thread_pid: u32,
    pub task_group_leader: u32,
    pub pid_level: u32,
    pub pid_numbers: u32,
    /// User space is in a PID namespace that is not the first one: its ids are not the kernel's.
    pub in_namespace: u32,
    /// User space wants to know who begins to run a program, of everybody.
    pub tells_execs: u32,
}

const _: () = assert!(size_of::<KernelConfig>() == 39 * 4);
