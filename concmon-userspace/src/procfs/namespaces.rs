//! The ids that processes and threads have for themselves, where those are not ours.

use super::{file, rights};
use crate::event::Pid;

/// The id in each PID namespace that somebody is in, ours first.
pub(super) fn ids(path: String) -> Option<Vec<u32>> {
    let status = file::text(file::CWD, path).ok()?;
    file::field(&status, "NSpid:")?
        .split_whitespace()
        .map(|id| id.parse().ok())
        .collect::<Option<Vec<_>>>()
        .filter(|ids| !ids.is_empty())
}

/// Whether our own ids are not the kernel's: we are in a PID namespace that is not the first one.
pub fn in_namespace() -> bool {
    !rights::has_first_pids()
}

/// Whether `/proc` shows the PID namespace that we are in.
pub fn is_proc_ours() -> bool {
    let own = std::fs::read_link("/proc/self").ok();
    let own = own.and_then(|path| path.to_str()?.parse().ok());
    own == Some(std::process::id())
}

/// The id that a process has for itself; `None`: it is the one that we have.
pub fn own_id(pid: Pid) -> Option<u32> {
    let ids = ids(format!("/proc/{pid}/status"))?;
    ids.last().copied().filter(|_| ids.len() > 1)
}

/// Whether the process has other ids for itself than we have.
pub fn has_foreign_ids(pid: Pid) -> bool {
    ids(format!("/proc/{pid}/status")).is_some_and(|ids| ids.len() > 1)
}

/// Whether the process has a file system of its own (another mount namespace than we have).
pub fn has_own_files(pid: Pid) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let inode = |pid: &str| std::fs::metadata(format!("/proc/{pid}/ns/mnt")).map(|ns| ns.ino());
    match (inode("self"), inode(&pid.to_string())) {
        (Ok(own), Ok(its)) => own != its,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_has_our_ids_in_our_own_namespace() {
        let pid = Pid(std::process::id());
        let own = ids(format!("/proc/{pid}/status")).unwrap();
        assert_eq!((own[0], has_foreign_ids(pid)), (pid.0, own.len() > 1));
        let other = own.last().filter(|_| own.len() > 1);
        assert_eq!(own_id(pid), other.copied());
        assert!(is_proc_ours());
    }
}
