//! What this process may do to others: its capabilities, and why something was denied.

use std::{io, os::unix::fs::MetadataExt as _};

use rustix::{
    process::{getegid, geteuid},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
        remove_capability_from_bounding_set, set_capabilities,
    },
};

use super::{file, host};

/// Loading kernel programs, and having them run.
pub const LOADING: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::PERFMON);
/// Reading processes, those of others too, and files of programs that were replaced.
pub const LOOKS: CapabilitySet = CapabilitySet::SYS_PTRACE
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::CHECKPOINT_RESTORE);

/// Inode numbers of the first user and PID namespace (include/linux/proc_ns.h).
const FIRST_USER_NAMESPACE: u64 = 0xEFFF_FFFD;
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// Whether this process is in the first PID namespace, whose ids are the kernel's own.
pub(super) fn has_first_pids() -> bool {
    is_first("pid", FIRST_PID_NAMESPACE)
}

/// Why a process may not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Denied(String);

impl Denied {
    /// Finds the reason why `pid` could not be read; `call` says what was denied, and how.
    pub fn reading(pid: u32, call: &str) -> Self {
        let Some(owner) = Owner::of(pid) else {
            let missing = lacking(CapabilitySet::SYS_PTRACE);
            return Self(match missing.is_empty() {
                true => format!("process {pid} may not be read ({call})"),
                false => format!("reading process {pid} {}", needs(missing, call)),
            });
        };
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        let own = owner.users.iter().all(|one| *one == user)
            && owner.groups.iter().all(|one| *one == group);
        let mut needed = CapabilitySet::SYS_PTRACE;
        if owner.files != user {
            needed |= CapabilitySet::DAC_READ_SEARCH;
        }
        let missing = lacking(needed);
        let scope = yama_scope();
        if scope == 3 {
            let reason = "kernel.yama.ptrace_scope is 3: nobody may read other processes until the \
                          host is started anew";
            return Self(format!("process {pid} may not be read ({call}): {reason}"));
        }
        if missing.is_empty() {
            return Self(format!(
                "process {pid} may not be read ({call}), although this process has {}: {}",
                names(needed),
                elsewhere()
                    .unwrap_or("a security module (such as SELinux or AppArmor) may forbid it")
            ));
        }
        let whose = match own {
            false => format!("of user {}", owner.users[0]),
            true if scope > 0 => {
                format!("where kernel.yama.ptrace_scope is {scope} and it is no child of this one")
            }
            true => {
                "which has protected itself (it is not dumpable, or has capabilities)".to_owned()
            }
        };
        Self(format!(
            "reading process {pid}, {whose}, {}",
            needs(missing, call)
        ))
    }
}

/// Whose a process is.
struct Owner {
    /// Real, effective and saved.
    users: [u32; 3],
    groups: [u32; 3],
    /// Of its files in `/proc`; root's where it is not dumpable.
    files: u32,
}

impl Owner {
    fn of(pid: u32) -> Option<Self> {
        let status = file::text(file::CWD, format!("/proc/{pid}/status")).ok()?;
        let ids = |name: &str| {
            let ids = file::field(&status, name)?;
            let mut ids = ids.split_whitespace().map_while(|id| id.parse().ok());
            Some([ids.next()?, ids.next()?, ids.next()?])
        };
        Some(Self {
            users: ids("Uid:")?,
            groups: ids("Gid:")?,
            files: std::fs::metadata(format!("/proc/{pid}/mem")).ok()?.uid(),
        })
    }
}

/// Which of these capabilities this thread does not have; one that includes another stands for it.
pub fn lacking(wanted: CapabilitySet) -> CapabilitySet {
    let mut has = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    if has.contains(CapabilitySet::SYS_ADMIN) {
        has |= LOADING;
    }
    if has.contains(CapabilitySet::DAC_OVERRIDE) {
        has |= CapabilitySet::DAC_READ_SEARCH;
    }
    wanted - has
}

/// "needs CAP_X, which this process does not have (CALL)", and who has it.
pub fn needs(missing: CapabilitySet, call: &str) -> String {
    let root = geteuid().is_root();
    let advice = match (elsewhere(), root) {
        (Some(reason), _) => format!("; {reason}"),
        (None, false) => "; run as root, or give it that".to_owned(),
        (None, true) => {
            "; whoever started it as root (a container, a service) left that out".to_owned()
        }
    };
    format!(
        "needs {}, which this process does not have ({call}){advice}",
        names(missing)
    )
}

/// Gives up all capabilities of this thread, and of those that it starts from now on, but these. Returns
/// what it was permitted before, and what it is now.
///
/// # Errors
/// Whatever the system calls fail with.
pub fn reduce_to(keep: CapabilitySet) -> io::Result<(CapabilitySet, CapabilitySet)> {
    let had = capabilities(None)?;
    // Nothing is executed from here on, so the bounding set is of use to nobody. Emptying it takes
    // CAP_SETPCAP, which only root has.
    if had.effective.contains(CapabilitySet::SETPCAP) {
        for bit in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            if remove_capability_from_bounding_set(one).is_err() {
                break;
            }
        }
    }
    let has = CapabilitySets {
        effective: had.effective & keep,
        permitted: had.permitted & keep,
        inheritable: CapabilitySet::empty(),
    };
    clear_ambient_capability_set()?;
    set_capabilities(None, has)?;
    Ok((had.permitted, has.permitted))
}

/// The names of capabilities, as people know them: "CAP_BPF and CAP_PERFMON".
pub fn names(set: CapabilitySet) -> String {
    let mut names: Vec<String> = set
        .iter_names()
        .map(|(name, _)| format!("CAP_{name}"))
        .collect();
    match names.pop() {
        Some(last) if names.is_empty() => last,
        Some(last) => format!("{} and {last}", names.join(", ")),
        None => "none".to_owned(),
    }
}

/// "EACCES", "EPERM", or what the error says.
pub fn error_name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EACCES) => "EACCES".to_owned(),
        Some(libc::EPERM) => "EPERM".to_owned(),
        _ => error.to_string(),
    }
}

/// Why capabilities may not count where they are needed: this is not the host's user namespace.
pub fn elsewhere() -> Option<&'static str> {
    (!is_first("user", FIRST_USER_NAMESPACE)).then_some(
        "it is in a user namespace of its own, where capabilities count only for what belongs to that",
    )
}

/// Why a process that exists may not be seen here; `None`: it would be.
pub fn unseen() -> Option<&'static str> {
    if !has_first_pids() {
        return Some("this PID namespace is not the host's, whose process ids are others");
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let hides = |line: &str| {
        line.split(' ').nth(4) == Some("/proc")
            && line.contains("hidepid=")
            && !line.contains("hidepid=0")
    };
    let may_see = lacking(CapabilitySet::SYS_PTRACE).is_empty();
    (!may_see && mounts.lines().any(hides))
        .then_some("/proc is mounted with hidepid, which may hide it")
}

fn is_first(kind: &str, inode: u64) -> bool {
    std::fs::metadata(format!("/proc/self/ns/{kind}")).is_ok_and(|file| file.ino() == inode)
}

fn yama_scope() -> u32 {
    host::kernel_setting("yama/ptrace_scope")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_their_names() {
        for (set, text) in [
            (CapabilitySet::empty(), "none"),
            (CapabilitySet::SYS_PTRACE, "CAP_SYS_PTRACE"),
            (LOADING, "CAP_PERFMON and CAP_BPF"),
            (
                LOADING | CapabilitySet::KILL,
                "CAP_KILL, CAP_PERFMON and CAP_BPF",
            ),
        ] {
            assert_eq!(names(set), text);
        }
    }

    /// A thread without capabilities lacks all; the kernel's own list of it is the reference.
    #[test]
    fn what_is_missing_is_what_the_kernel_says() {
        let missing = std::thread::spawn(|| {
            reduce_to(CapabilitySet::empty()).unwrap();
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
            assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
            lacking(LOADING | CapabilitySet::SYS_PTRACE)
        });
        assert_eq!(missing.join().unwrap(), LOADING | CapabilitySet::SYS_PTRACE);
    }

    /// The kernel's own account of a thread, before and after.
    #[test]
    fn what_is_given_up_is_gone() {
        let after = std::thread::spawn(|| {
            reduce_to(CapabilitySet::SYS_PTRACE).unwrap();
            std::fs::read_to_string("/proc/thread-self/status").unwrap()
        });
        let after = after.join().unwrap();
        let set = |name: &str| {
            let line = after.lines().find_map(|line| line.strip_prefix(name));
            u64::from_str_radix(line.unwrap().trim(), 16).unwrap()
        };
        for name in ["CapEff:", "CapPrm:"] {
            assert_eq!(set(name) & !CapabilitySet::SYS_PTRACE.bits(), 0, "{after}");
        }
        assert_eq!((set("CapInh:"), set("CapAmb:")), (0, 0), "{after}");
        if geteuid().is_root() {
            assert_eq!(set("CapBnd:"), 0, "{after}");
        }
    }
}
