//! What this kernel and this process bring along: offsets, limits.

use concmon_ebpf::{KernelConfig, SocketConfig};
use rustix::process::{Resource, Rlimit, setrlimit};

use crate::{
    kernel::{
        features::{Feature, Features},
        offsets::Offsets,
    },
    procfs::{host::kernel_setting, namespaces::in_namespace},
};

/// What kernel programs are told of the kernel.
pub(super) fn kernel_config(offsets: &Offsets, features: &Features) -> KernelConfig {
    let has = |feature| u32::from(features.has(feature));
    let ids = offsets.ids.filter(|_| in_namespace());
    KernelConfig {
        task_thread_pid: ids.map_or(0, |ids| ids.task_thread_pid),
        task_group_leader: offsets.task_group_leader,
        pid_level: ids.map_or(0, |ids| ids.pid_level),
        pid_numbers: ids.map_or(0, |ids| ids.pid_numbers),
        in_namespace: u32::from(ids.is_some()),
        task_pid: offsets.task_pid,
        task_tgid: offsets.task_tgid,
        task_flags: offsets.task_flags,
        task_state: offsets.task_state,
        task_start_boottime: offsets.task_start_boottime,
        task_exit_code: offsets.task_exit_code,
        task_signal: offsets.task_signal,
        task_comm: offsets.task_comm,
        task_sum_exec: offsets.task_sum_exec_runtime,
        task_nvcsw: offsets.task_nvcsw,
        task_nivcsw: offsets.task_nivcsw,
        task_on_cpu: offsets.task_on_cpu,
        task_on_cpu_bytes: offsets.task_on_cpu_bytes,
        task_on_rq: offsets.task_on_rq,
        task_on_rq_bytes: offsets.task_on_rq_bytes,
        task_sched_delayed: offsets.task_sched_delayed.unwrap_or(0),
        signal_flags: offsets.signal_flags,
        signal_group_exit_code: offsets.signal_group_exit_code,
        signal_live: offsets.signal_live,
        regs_syscall: offsets.regs_syscall,
        regs_syscall_bytes: offsets.regs_syscall_bytes,
        regs_arg0: offsets.regs_arg0,
        regs_arg1: offsets.regs_arg1,
        regs_arg5: offsets.regs_arg5,
        task_restart_bits: offsets.task_restart_bits.unwrap_or(0),
        regs_ip: offsets.regs_ip,
        regs_sp: offsets.regs_sp,
        task_tls: offsets.task_tls.unwrap_or(0),
        has_task_tls: u32::from(offsets.task_tls.is_some()),
        has_task_regs: has(Feature::Causes),
        has_prev_state: has(Feature::SwitchState),
        has_sched_delayed: has(Feature::DelayedDequeue),
        ..KernelConfig::default()
    }
}

/// What kernel programs are told of sockets; `enabled`: they are looked at.
pub(super) fn socket_config(offsets: &Offsets, enabled: bool) -> SocketConfig {
    let sockets = offsets.sockets.filter(|_| enabled);
    SocketConfig {
        port: sockets.map_or(0, |sockets| sockets.port),
        family: sockets.map_or(0, |sockets| sockets.family),
        state: sockets.map_or(0, |sockets| sockets.state),
        kind: sockets.map_or(0, |sockets| sockets.kind),
        peer4: sockets.map_or(0, |sockets| sockets.peer4),
        peer6: sockets.map_or(0, |sockets| sockets.peer6),
        peer_port: sockets.map_or(0, |sockets| sockets.peer_port),
        regs_arg1: offsets.regs_arg1,
        enabled: u32::from(sockets.is_some()),
    }
}

/// PID_MAX_LIMIT of 64-bit kernels (include/linux/threads.h).
pub(super) const HIGHEST_TID: u32 = 4 * 1024 * 1024;

/// The highest thread id that this kernel gives out.
pub(super) fn highest_tid() -> std::io::Result<u32> {
    let text = kernel_setting("pid_max")?;
    Ok(text.parse().unwrap_or(HIGHEST_TID).min(HIGHEST_TID))
}

/// Before 5.11, maps count against the limit on locked memory, whose default is far below what the
/// accounts take. Where it cannot be lifted, loading says so.
pub(super) fn lift_memlock() {
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    let _ = setrlimit(Resource::Memlock, unlimited);
}
