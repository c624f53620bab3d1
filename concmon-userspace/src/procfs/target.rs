//! Whether a process can be watched at all, decided before anything is loaded.

use std::io::ErrorKind;

use super::{
    clocks, file,
    process::{Dir, ProcError},
    rights::{self, Denied},
};

/// Who a target is: with its start, a process id is no one else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetIdentity {
    pub pid: u32,
    /// Cut down to a clock tick; compare with [`clocks::same_start`].
    pub start_boottime_ns: u64,
    pub name: String,
    pub cmdline: Vec<String>,
}

/// Why a process cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("there is no process {pid}{}", unseen(), pid = .0)]
    NoSuchProcess(u32),
    #[error("{tid} is a thread of process {pid}; name the process")]
    Thread { tid: u32, pid: u32 },
    #[error("{pid} ({name}) is a kernel thread")]
    KernelThread { pid: u32, name: String },
    #[error("process {pid} ({name}) has already ended, and its parent has not collected it")]
    Zombie { pid: u32, name: String },
    #[error(transparent)]
    NoPermission(Denied),
    #[error(transparent)]
    Proc(ProcError),
}

impl From<ProcError> for TargetError {
    fn from(error: ProcError) -> Self {
        match error {
            ProcError::Gone(pid) => TargetError::NoSuchProcess(pid),
            other => TargetError::Proc(other),
        }
    }
}

/// Why a process id that somebody has seen elsewhere may be none here.
fn unseen() -> String {
    rights::unseen().map_or(String::new(), |reason| format!(" here: {reason}"))
}

/// Looks whether `pid` can be watched; nothing about it is changed by that.
///
/// # Errors
/// [`TargetError`]. A missing permission is reported before everything but a missing process.
pub fn check_target(pid: u32) -> Result<TargetIdentity, TargetError> {
    let dir = match Dir::open(pid) {
        Err(ProcError::Unreadable { path, source })
            if source.kind() == ErrorKind::PermissionDenied =>
        {
            let call = format!("{} opening {}", rights::error_name(&source), path.display());
            return Err(TargetError::NoPermission(Denied::reading(pid, &call)));
        }
        opened => opened?,
    };
    // Opening is the check: the kernel asks here whether one might trace the process. What has no
    // memory (a kernel thread, a zombie) opens or fails with ESRCH, depending on the kernel.
    match file::open(&dir.handle, "mem") {
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            let call = format!("{} opening /proc/{pid}/mem", rights::error_name(&e));
            return Err(TargetError::NoPermission(Denied::reading(pid, &call)));
        }
        _ => {}
    }
    let mut room = [0; file::SMALL];
    let stat = dir.stat(&mut room)?;
    if let Some(owner) = process_of(&dir)
        && owner != pid
    {
        return Err(TargetError::Thread {
            tid: pid,
            pid: owner,
        });
    }
    if stat.is_kernel_thread() {
        return Err(TargetError::KernelThread {
            pid,
            name: stat.name(),
        });
    }
    if stat.is_zombie() {
        return Err(TargetError::Zombie {
            pid,
            name: stat.name(),
        });
    }
    Ok(TargetIdentity {
        pid,
        start_boottime_ns: clocks::ticks_to_ns(stat.start_ticks),
        cmdline: dir.cmdline(),
        name: stat.name(),
    })
}

/// The process that a thread belongs to.
fn process_of(dir: &Dir) -> Option<u32> {
    let status = file::text(&dir.handle, "status").ok()?;
    file::field(&status, "Tgid:")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_living_process() {
        let mut child = Command::new("sleep").arg("10").spawn().unwrap();
        // The child is let go of before its new arguments are in place.
        let mut found = check_target(child.id());
        for _ in 0..500 {
            if found
                .as_ref()
                .is_ok_and(|target| !target.cmdline.is_empty())
            {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
            found = check_target(child.id());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let found = found.unwrap();
        assert_eq!((found.pid, found.name.as_str()), (child.id(), "sleep"));
        assert_eq!(found.cmdline, ["sleep", "10"]);
        assert!(matches!(
            check_target(child.id()),
            Err(TargetError::NoSuchProcess(_))
        ));
    }

    #[test]
    fn a_thread_is_no_process() {
        let own = std::process::id();
        let tid = std::thread::spawn(|| {
            let tid = rustix::thread::gettid().as_raw_pid().cast_unsigned();
            (tid, check_target(tid))
        });
        let (tid, found) = tid.join().unwrap();
        assert!(
            matches!(found, Err(TargetError::Thread { tid: t, pid }) if (t, pid) == (tid, own)),
            "{found:?}"
        );
    }

    #[test]
    fn a_zombie() {
        let mut child = Command::new("true").spawn().unwrap();
        let error = loop {
            if let Err(error) = check_target(child.id()) {
                break error;
            }
            std::thread::yield_now();
        };
        child.wait().unwrap();
        assert!(matches!(&error, TargetError::Zombie { .. }), "{error}");
    }

    #[test]
    fn a_kernel_thread() {
        if std::fs::read_to_string("/proc/2/comm").ok().as_deref() != Some("kthreadd\n") {
            eprintln!("SKIPPED a_kernel_thread: none in this PID namespace");
            return;
        }
        let root = rustix::process::geteuid().is_root();
        let error = check_target(2).unwrap_err();
        match root {
            true => assert!(
                matches!(error, TargetError::KernelThread { pid: 2, .. }),
                "{error}"
            ),
            false => assert!(matches!(error, TargetError::NoPermission(_)), "{error}"),
        }
    }

    /// Permission comes first: an unprivileged thread of this process looks at another's process.
    #[test]
    fn no_permission() {
        if !rustix::process::geteuid().is_root() {
            let error = check_target(1).unwrap_err();
            assert!(matches!(error, TargetError::NoPermission(_)), "{error}");
            return;
        }
        let error = std::thread::spawn(|| {
            // The raw call changes this thread only, which ends with the test.
            // SAFETY: sets the user ids of this thread to `nobody`.
            let result = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
            assert_eq!(result, 0);
            check_target(1).unwrap_err()
        });
        let error = error.join().unwrap();
        assert!(matches!(error, TargetError::NoPermission(_)), "{error}");
        let text = error.to_string();
        for part in [
            "process 1, of user 0,",
            "needs CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE",
            "(EACCES opening /proc/1/mem)",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
