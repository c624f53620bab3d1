//! A filter of this process's own system calls: "nothing is injected", enforced.
//!
//! From the moment it is in force on, this process can write to no other process and to no file that was
//! there before, attach to none, signal none but itself and the program that it started, execute nothing and
//! load no kernel program: such a call fails with EPERM. Threads and descriptors that exist go on. The filter
//! cannot be taken away again.
//!
//! - Files are opened for writing only with `O_CREAT | O_EXCL`, which never opens what exists, such as
//!   `/proc/PID/mem`. What is written into existing files is opened before.
//! - `openat2` keeps its flags where a filter cannot see them, and io_uring goes around filters.
//! - System calls of other tables are denied as a whole: of x32 by their numbers, of 32 bits by their
//!   architecture, which ends the process.
//! - `perf_event_open` and `bpf` stay, but for loading: probes of `--exact` come late.

use std::collections::BTreeMap;

#[cfg(target_arch = "x86_64")]
use seccompiler::sock_filter;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, apply_filter_all_threads,
};

use crate::event::Pid;

/// Denied whatever the arguments are.
const DENIED: &[i64] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_getfd,
    libc::SYS_pidfd_send_signal,
    libc::SYS_execve,
    libc::SYS_execveat,
    // Files, by other ways.
    libc::SYS_openat2,
    libc::SYS_open_by_handle_at,
    libc::SYS_truncate,
    libc::SYS_io_uring_setup,
    // The host.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    // The C library's list lacks it.
    #[cfg(not(all(target_arch = "aarch64", target_env = "musl")))]
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
];
/// Denied to who makes no connections. The collector takes those that come to its socket (`accept4`).
const NETWORK: &[i64] = &[
    libc::SYS_socket,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
];
/// `BPF_PROG_LOAD` (enum bpf_cmd in include/uapi/linux/bpf.h).
const BPF_PROG_LOAD: u64 = 5;
/// `__X32_SYSCALL_BIT` (arch/x86/include/uapi/asm/unistd.h).
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

/// Puts the filter in force on all threads, present and future; `child` is the program that this process
/// has started.
///
/// # Errors
/// The kernel has no such filters, or does not allow this one.
pub fn confine(child: Option<Pid>) -> Result<(), Error> {
    apply_filter_all_threads(&filter(std::process::id(), child, &[])?)
}

/// The same for the agent's collector, which makes no connections either: those that it has go on, and the socket that
/// it has made before takes more.
pub(crate) fn confine_collector_or_warn() {
    let confined = filter(std::process::id(), None, NETWORK);
    or_warn(confined.and_then(|filter| apply_filter_all_threads(&filter)));
}

/// The same for a run: it goes on where that cannot be done, and says so.
pub(crate) fn confine_or_warn(child: Option<Pid>) {
    or_warn(confine(child));
}

fn or_warn(confined: Result<(), Error>) {
    match confined {
        Ok(()) => log::info!("a filter of system calls keeps this process from writing to others"),
        Err(error) => log::warn!(
            "no filter of system calls is in force, which would keep this process from writing to \
             others: {error}"
        ),
    }
}

fn filter(own: u32, child: Option<Pid>, more: &[i64]) -> Result<BpfProgram, Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = DENIED
        .iter()
        .chain(more)
        .map(|number| (*number, Vec::new()))
        .collect();
    rules.insert(libc::SYS_openat, not_exclusive(2)?);
    #[cfg(target_arch = "x86_64")]
    {
        rules.insert(libc::SYS_open, not_exclusive(1)?);
        rules.insert(libc::SYS_creat, Vec::new());
    }
    let load = condition(0, SeccompCmpOp::Eq, BPF_PROG_LOAD)?;
    rules.insert(libc::SYS_bpf, vec![SeccompRule::new(vec![load])?]);
    // A thread may be the receiver of these, which belongs to the process named first.
    for number in [
        libc::SYS_tgkill,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
        libc::SYS_tkill,
    ] {
        rules.insert(number, vec![none_of(&[own])?]);
    }
    let pids: Vec<u32> = [own].into_iter().chain(child.map(|pid| pid.0)).collect();
    rules.insert(libc::SYS_kill, vec![none_of(&pids)?]);
    let denied = SeccompAction::Errno(libc::EPERM as u32);
    let arch = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, arch)?;
    let mut program = without_x32();
    program.extend(BpfProgram::try_from(filter)?);
    Ok(program)
}

/// Denies numbers of the x32 table, before anything else.
#[cfg(target_arch = "x86_64")]
fn without_x32() -> BpfProgram {
    let step = |code: u32, jt, jf, k| sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    vec![
        // The number is the first field of `seccomp_data` (include/uapi/linux/seccomp.h).
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32),
        step(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | libc::EPERM as u32,
        ),
    ]
}

#[cfg(not(target_arch = "x86_64"))]
fn without_x32() -> BpfProgram {
    BpfProgram::new()
}

/// Matches flags, in this argument, by which an existing file would be written to or cut.
fn not_exclusive(argument: u8) -> Result<Vec<SeccompRule>, Error> {
    let exclusive = libc::O_CREAT | libc::O_EXCL;
    let mut rules = Vec::new();
    for creation in [0, libc::O_CREAT, libc::O_EXCL] {
        // 3 is neither, and asks for the permissions of both.
        for access in [libc::O_WRONLY, libc::O_RDWR, libc::O_ACCMODE] {
            let mask = SeccompCmpOp::MaskedEq((libc::O_ACCMODE | exclusive) as u64);
            let flags = condition(argument, mask, (access | creation) as u64)?;
            rules.push(SeccompRule::new(vec![flags])?);
        }
        let mask = SeccompCmpOp::MaskedEq((libc::O_TRUNC | exclusive) as u64);
        let flags = condition(argument, mask, (libc::O_TRUNC | creation) as u64)?;
        rules.push(SeccompRule::new(vec![flags])?);
    }
    Ok(rules)
}

/// Matches when the first argument is none of these processes.
fn none_of(pids: &[u32]) -> Result<SeccompRule, Error> {
    let others: Result<Vec<_>, _> = pids
        .iter()
        .map(|pid| condition(0, SeccompCmpOp::Ne, u64::from(*pid)))
        .collect();
    Ok(SeccompRule::new(others?)?)
}

/// On the lower half of an argument, which is all that the kernel takes of an `int`.
fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, Error> {
    Ok(SeccompCondition::new(argument, Dword, operator, value)?)
}

#[cfg(test)]
mod tests;
