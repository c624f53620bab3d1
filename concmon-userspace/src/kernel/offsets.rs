//! Offsets of kernel struct members, resolved from the running kernel's BTF.

use std::path::{Path, PathBuf};

use super::Arch;
use super::btf::{Btf, BtfError, FieldError, Struct};

/// Where the kernel shows its own BTF.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
/// Names another BTF file to use instead.
const VARIABLE: &str = "CONCMON_BTF";
/// A kernel's BTF has 2 to 10 MB; what is larger is something else.
const MAX_BYTES: u64 = 256 << 20;

/// Why the offsets are not known.
#[derive(Debug, thiserror::Error)]
pub enum OffsetsError {
    #[error(
        "cannot read kernel type information {path}: {source}; the kernel must be built with \
         CONFIG_DEBUG_INFO_BTF=y, or {VARIABLE} must name a BTF file of exactly this kernel"
    )]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("kernel type information {path}: {source}")]
    Malformed { path: PathBuf, source: BtfError },
    #[error("kernel type information has no usable {outer}.{member}: {reason}")]
    Field {
        outer: &'static str,
        member: String,
        reason: FieldError,
    },
    #[error("{outer}.{member} has {found:?} bytes in this kernel; concmon knows {known:?}")]
    Size {
        outer: &'static str,
        member: String,
        found: Option<u32>,
        known: &'static [u32],
    },
    #[error("processor architecture {0} is not supported (x86_64 and aarch64 are)")]
    Arch(&'static str),
}

/// Byte offsets that kernel programs read through.
///
/// The first word of a name is the struct: `task_` for `task_struct`, `signal_` for
/// `signal_struct`, `regs_` for `pt_regs`. What is in an embedded struct counts from the outer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offsets {
    pub task_pid: u32,
    pub task_tgid: u32,
    pub task_flags: u32,
    /// `__state`, or `state` before 5.14; the low 32 bits lie here in either case.
    pub task_state: u32,
    /// `start_boottime`, or `real_start_time` before 5.5.
    pub task_start_boottime: u32,
    pub task_exit_code: u32,
    pub task_signal: u32,
    pub task_group_leader: u32,
    pub task_real_parent: u32,
    pub task_comm: u32,
    pub task_sum_exec_runtime: u32,
    pub task_nvcsw: u32,
    pub task_nivcsw: u32,
    pub task_on_cpu: u32,
    /// 4, or 1 since 7.2.
    pub task_on_cpu_bytes: u32,
    pub task_on_rq: u32,
    /// 4, or 1 since 7.2.
    pub task_on_rq_bytes: u32,
    /// One byte; `None` before 6.12.
    pub task_sched_delayed: Option<u32>,
    pub signal_flags: u32,
    pub signal_group_exit_code: u32,
    /// Threads of the process that are not dead yet (32 bits).
    pub signal_live: u32,
    /// `orig_ax` (64 bits) on x86-64, `syscallno` (32 bits, signed) on aarch64.
    pub regs_syscall: u32,
    /// Bytes of the member at `regs_syscall`.
    pub regs_syscall_bytes: u32,
    pub regs_arg0: u32,
    pub regs_arg1: u32,
    pub regs_arg5: u32,
    /// Where a wait on a futex that is gone on with has its bits; `None` where that is not as it is known.
    pub task_restart_bits: Option<u32>,
    /// `ip` on x86-64, `pc` on aarch64.
    pub regs_ip: u32,
    /// `sp`: the stack pointer.
    pub regs_sp: u32,
    /// Where the base of thread-local storage is kept; `None` where that is not `thread.fsbase`.
    pub task_tls: Option<u32>,
    /// Where a process has its ids in other PID namespaces; `None` where that is not as it is known.
    pub ids: Option<IdOffsets>,
    /// Of sockets; `None` where the kernel does not tell what they read and write.
    pub sockets: Option<SocketOffsets>,
}

/// Byte offsets on the way from a task to its ids in all PID namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdOffsets {
    pub task_thread_pid: u32,
    /// Of `struct pid`.
    pub pid_level: u32,
    /// The `upid` of the first namespace; those of deeper ones follow.
    pub pid_numbers: u32,
}

impl IdOffsets {
    fn resolve(btf: &Btf<'_>) -> Option<Self> {
        let [task, pid, upid] = btf.structs(["task_struct", "pid", "upid"]);
        let at = |found: &Struct<'_>, member| found.field(member).ok().map(|field| field.offset);
        // Kernel programs know this one: two words.
        let known = (at(&upid, "nr")?, at(&upid, "ns")?) == (0, 8);
        known.then_some(Self {
            task_thread_pid: at(&task, "thread_pid")?,
            pid_level: at(&pid, "level")?,
            pid_numbers: at(&pid, "numbers")?,
        })
    }
}

/// Byte offsets in `struct sock`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOffsets {
    /// The local port.
    pub port: u32,
    pub family: u32,
    pub state: u32,
    /// Whether it is a stream.
    pub kind: u32,
    /// The address of its peer, of IPv4 and of IPv6, and its port.
    pub peer4: u32,
    pub peer6: u32,
    pub peer_port: u32,
}

/// The tracepoints that tell what sockets read and write: both came with Linux 6.3.
pub const SOCKET_TRACEPOINTS: [&str; 2] = ["sock_recv_length", "sk_data_ready"];

impl SocketOffsets {
    fn resolve(btf: &Btf<'_>) -> Option<Self> {
        let is_there = |name: &&str| btf.tracepoint_args(name).is_some();
        if !SOCKET_TRACEPOINTS.iter().all(is_there) {
            return None;
        }
        let [sock] = btf.structs(["sock"]);
        let at = |member, size| {
            let field = sock.field(member).ok()?;
            (field.size == Some(size)).then_some(field.offset)
        };
        Some(Self {
            port: at("__sk_common.skc_num", 2)?,
            family: at("__sk_common.skc_family", 2)?,
            state: at("__sk_common.skc_state", 1)?,
            kind: at("sk_type", 2)?,
            peer4: at("__sk_common.skc_daddr", 4)?,
            // A kernel without IPv6 has no such sockets.
            peer6: at("__sk_common.skc_v6_daddr", 16).unwrap_or(0),
            peer_port: at("__sk_common.skc_dport", 2)?,
        })
    }
}

struct Lookup<'a> {
    outer: &'static str,
    found: Struct<'a>,
}

impl Lookup<'_> {
    /// The first of `paths` that there is; its size must be one of `known`.
    fn sized(&self, paths: &[&str], known: &'static [u32]) -> Result<(u32, u32), OffsetsError> {
        let mut answer = Err(FieldError::NoMember);
        let mut member = String::new();
        for path in paths {
            answer = self.found.field(path);
            member = (*path).to_owned();
            if answer != Err(FieldError::NoMember) {
                break;
            }
        }
        let outer = self.outer;
        let field = match answer {
            Ok(field) => field,
            Err(FieldError::NoMember) => {
                let (member, reason) = (paths.join(" or "), FieldError::NoMember);
                return Err(OffsetsError::Field {
                    outer,
                    member,
                    reason,
                });
            }
            Err(reason) => {
                return Err(OffsetsError::Field {
                    outer,
                    member,
                    reason,
                });
            }
        };
        match field.size {
            Some(size) if known.contains(&size) => Ok((field.offset, size)),
            found => Err(OffsetsError::Size {
                outer,
                member,
                found,
                known,
            }),
        }
    }

    fn one(&self, path: &str, known: &'static [u32]) -> Result<u32, OffsetsError> {
        self.sized(&[path], known).map(|(offset, _)| offset)
    }
}

impl Offsets {
    /// The offsets of the running kernel, from `$CONCMON_BTF` if that is set, else from
    /// `/sys/kernel/btf/vmlinux`; and how many arguments its `sched_switch` tracepoint has.
    ///
    /// # Errors
    /// [`OffsetsError`]; all of them mean that this kernel is not supported.
    pub fn of_running_kernel() -> Result<(Self, Option<u32>), OffsetsError> {
        let arch = Arch::current().ok_or(OffsetsError::Arch(std::env::consts::ARCH))?;
        Self::of_file(&btf_path(), arch)
    }

    fn of_file(path: &Path, arch: Arch) -> Result<(Self, Option<u32>), OffsetsError> {
        let path = path.to_owned();
        let bytes = match read_bounded(&path) {
            Ok(bytes) => bytes,
            Err(source) => return Err(OffsetsError::Unreadable { path, source }),
        };
        let btf = Btf::parse(&bytes).map_err(|source| OffsetsError::Malformed { path, source })?;
        Ok((
            Self::resolve(&btf, arch)?,
            btf.tracepoint_args("sched_switch"),
        ))
    }

    /// The offsets in `btf`.
    ///
    /// # Errors
    /// [`OffsetsError::Field`] and [`OffsetsError::Size`] name what is missing.
    pub fn resolve(btf: &Btf<'_>, arch: Arch) -> Result<Self, OffsetsError> {
        let [task, signal, regs] = btf.structs(["task_struct", "signal_struct", "pt_regs"]);
        let task = Lookup {
            outer: "task_struct",
            found: task,
        };
        let signal = Lookup {
            outer: "signal_struct",
            found: signal,
        };
        let regs = Lookup {
            outer: "pt_regs",
            found: regs,
        };
        let first = |lookup: &Lookup<'_>, paths: &[&str], known| {
            lookup.sized(paths, known).map(|(offset, _)| offset)
        };
        let (syscall, arg0, arg1, arg5, ip) = match arch {
            Arch::X86_64 => ("orig_ax", "di", "si", "r9", "ip"),
            Arch::Aarch64 => ("syscallno", "orig_x0", "regs[1]", "regs[5]", "pc"),
        };
        let task_tls = match arch {
            Arch::X86_64 => task.one("thread.fsbase", &[8]).ok(),
            Arch::Aarch64 => None,
        };
        let (regs_syscall, regs_syscall_bytes) = regs.sized(&[syscall], &[4, 8])?;
        let task_sched_delayed = match task.found.field("se.sched_delayed") {
            Err(FieldError::NoMember) => None,
            _ => Some(task.one("se.sched_delayed", &[1])?),
        };
        let (task_on_cpu, task_on_cpu_bytes) = task.sized(&["on_cpu"], &[1, 4])?;
        let (task_on_rq, task_on_rq_bytes) = task.sized(&["on_rq"], &[1, 4])?;
        Ok(Offsets {
            task_pid: task.one("pid", &[4])?,
            task_tgid: task.one("tgid", &[4])?,
            task_flags: task.one("flags", &[4])?,
            task_state: first(&task, &["__state", "state"], &[4, 8])?,
            task_start_boottime: first(&task, &["start_boottime", "real_start_time"], &[8])?,
            task_exit_code: task.one("exit_code", &[4])?,
            task_signal: task.one("signal", &[8])?,
            task_group_leader: task.one("group_leader", &[8])?,
            task_real_parent: task.one("real_parent", &[8])?,
            task_comm: task.one("comm", &[16])?,
            task_sum_exec_runtime: task.one("se.sum_exec_runtime", &[8])?,
            task_nvcsw: task.one("nvcsw", &[8])?,
            task_nivcsw: task.one("nivcsw", &[8])?,
            task_on_cpu,
            task_on_cpu_bytes,
            task_on_rq,
            task_on_rq_bytes,
            task_sched_delayed,
            signal_flags: signal.one("flags", &[4])?,
            signal_group_exit_code: signal.one("group_exit_code", &[4])?,
            signal_live: signal.one("live", &[4])?,
            regs_syscall,
            regs_syscall_bytes,
            regs_arg0: regs.one(arg0, &[8])?,
            regs_arg1: regs.one(arg1, &[8])?,
            regs_arg5: regs.one(arg5, &[8])?,
            task_restart_bits: task.one("restart_block.futex.bitset", &[4]).ok(),
            regs_ip: regs.one(ip, &[8])?,
            regs_sp: regs.one("sp", &[8])?,
            task_tls,
            ids: IdOffsets::resolve(btf),
            sockets: SocketOffsets::resolve(btf),
        })
    }
}

/// The file that describes the running kernel: `$CONCMON_BTF` if that is set, else
/// `/sys/kernel/btf/vmlinux`.
pub fn btf_path() -> PathBuf {
    std::env::var_os(VARIABLE)
        .filter(|value| !value.is_empty())
        .map_or_else(|| PathBuf::from(VMLINUX), PathBuf::from)
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            "too large for BTF",
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
