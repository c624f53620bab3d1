//! Whether the kernel has killed somebody in a process's cgroup for want of memory.

use std::path::{Path, PathBuf};

use crate::{event::Pid, procfs::now};

/// The counter of a cgroup's kills for want of memory: `memory.events` of version 2, or
/// `memory.oom_control` of version 1 (Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst).
#[derive(Debug)]
pub(crate) struct OomKills {
    path: PathBuf,
    before: u64,
}

impl OomKills {
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let groups = now::cgroups(Pid(pid))?;
        let paths = groups.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, group) = (fields.next()?, fields.next()?.trim_start_matches('/'));
            let root = Path::new("/sys/fs/cgroup");
            match controllers {
                "" => Some(root.join(group).join("memory.events")),
                "memory" => Some(root.join("memory").join(group).join("memory.oom_control")),
                _ => None,
            }
        });
        paths.into_iter().find_map(|path| {
            let before = Self::count(&path)?;
            Some(Self { path, before })
        })
    }

    fn count(path: &Path) -> Option<u64> {
        let events = std::fs::read_to_string(path).ok()?;
        let line = events
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "))?;
        line.trim().parse().ok()
    }

    /// Whether it has since this was asked last.
    pub(crate) fn has_killed(&mut self) -> bool {
        let before = self.before;
        self.before = Self::count(&self.path).unwrap_or(before);
        self.before > before
    }
}
