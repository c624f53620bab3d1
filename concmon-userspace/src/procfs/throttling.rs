//! What the CPU quota of a cgroup takes (`cpu.max` and `cpu.stat` of version 2, Documentation/admin-guide/cgroup-v2.rst;
//! `cpu.cfs_quota_us` of version 1, Documentation/scheduler/sched-bwc.rst).

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::{cgroups, file};
use crate::event::{Pid, ThrottledFact};

/// Cgroups that are one in the other, at most.
const MAX_DEPTH: usize = 32;

/// A cgroup around a process that has a quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    folder: PathBuf,
    /// As the kernel names it.
    cgroup: String,
    version: Version,
    /// So much CPU time in each period, ns.
    quota_ns: u64,
    period_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Where cgroups are that may have quotas.
#[derive(Clone, Debug)]
struct Mount {
    point: PathBuf,
    /// The cgroup that is there.
    root: String,
    version: Version,
}

impl Quota {
    /// All of a process, the innermost first; none: nothing limits it, or that cannot be read.
    pub(super) fn of(pid: Pid) -> Vec<Self> {
        static MOUNTS: OnceLock<Vec<Mount>> = OnceLock::new();
        let mounts = MOUNTS.get_or_init(|| {
            let text = std::fs::read_to_string("/proc/self/mountinfo");
            mounts(&text.unwrap_or_default())
        });
        let text = file::text(file::CWD, format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let quotas = mounts.iter().map(|mount| {
            let path = path(&text, mount.version);
            path.map_or_else(Vec::new, |path| around(mount, path))
        });
        quotas
            .into_iter()
            .find(|quotas| !quotas.is_empty())
            .unwrap_or_default()
    }

    /// What it has taken so far.
    pub(super) fn read(&self) -> Option<ThrottledFact> {
        let text = file::text(file::CWD, self.folder.join("cpu.stat")).ok()?;
        let number = |name: &str| file::field(&text, name)?.parse::<u64>().ok();
        let throttled_ns = match self.version {
            Version::One => number("throttled_time ")?,
            Version::Two => number("throttled_usec ")?.saturating_mul(1_000),
        };
        Some(ThrottledFact {
            cgroup: self.cgroup.clone(),
            quota_ns: self.quota_ns,
            period_ns: self.period_ns,
            throttled_ns,
            count: number("nr_throttled ")?,
        })
    }
}

/// The mounts of version 2, and of the controller of version 1 that has quotas.
fn mounts(mountinfo: &str) -> Vec<Mount> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (point, root) = cgroups::cgroup_mount(line)?;
        let (_, kind) = line.split_once(" - ")?;
        let mut fields = kind.split(' ');
        let version = match fields.next()? {
            "cgroup2" => Version::Two,
            _ => Version::One,
        };
        let mut options = fields.nth(1).unwrap_or_default().split(',');
        let has_quotas = version == Version::Two || options.any(|option| option == "cpu");
        has_quotas.then_some(Mount {
            point,
            root,
            version,
        })
    });
    mounts.collect()
}

/// The path of a process's cgroup, of what its `/proc/PID/cgroup` says.
fn path(text: &str, version: Version) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (hierarchy, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is = match version {
            Version::Two => hierarchy == "0",
            Version::One => controllers.split(',').any(|controller| controller == "cpu"),
        };
        // One outside of what this process sees has a path that leads up.
        (is && !path.split('/').any(|part| part == "..")).then_some(path)
    })
}

/// The quotas of a cgroup and of those around it: what one takes is not in the numbers of the others.
fn around(mount: &Mount, cgroup: &str) -> Vec<Quota> {
    let mut quotas = Vec::new();
    let Ok(below) = Path::new(cgroup).strip_prefix(&mount.root) else {
        return quotas;
    };
    let mut folder = mount.point.join(below);
    let mut cgroup = Path::new(cgroup);
    for _ in 0..MAX_DEPTH {
        if let Some((quota_ns, period_ns)) = quota(&folder, mount.version) {
            quotas.push(Quota {
                cgroup: cgroup.to_string_lossy().into_owned(),
                folder: folder.clone(),
                version: mount.version,
                quota_ns,
                period_ns,
            });
        }
        let Some(parent) = cgroup.parent().filter(|_| folder != mount.point) else {
            break;
        };
        cgroup = parent;
        folder.pop();
    }
    quotas
}

/// Quota and period of one cgroup, ns; `None`: it has none.
fn quota(folder: &Path, version: Version) -> Option<(u64, u64)> {
    let text = |name: &str| file::text(file::CWD, folder.join(name)).ok();
    let us = |text: &str| text.trim().parse::<u64>().ok()?.checked_mul(1_000);
    let (quota, period) = match version {
        Version::Two => {
            let max = text("cpu.max")?;
            let (quota, period) = max.split_once(' ')?;
            (us(quota)?, us(period)?)
        }
        // -1: none.
        Version::One => (
            us(&text("cpu.cfs_quota_us")?)?,
            us(&text("cpu.cfs_period_us")?)?,
        ),
    };
    (quota > 0 && period > 0).then_some((quota, period))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
        30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
        31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
        32 30 0:28 /base /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
        33 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    #[test]
    fn mounts_and_paths() {
        let mounts = mounts(MOUNTINFO);
        let is: Vec<_> = mounts
            .iter()
            .map(|mount| (mount.version, mount.root.as_str()))
            .collect();
        assert_eq!(is, [(Version::Two, "/"), (Version::One, "/base")]);
        let text = "4:memory:/m\n1:cpuacct,cpu:/base/a\n0::/b/c\n";
        assert_eq!(path(text, Version::One), Some("/base/a"));
        assert_eq!(path(text, Version::Two), Some("/b/c"));
        assert_eq!(path("0::/../x\n", Version::Two), None);
    }

    #[test]
    fn all_quotas_around_a_process_count() {
        let root = tempfile::tempdir().expect("a folder");
        let inner = root.path().join("a/b/c");
        std::fs::create_dir_all(&inner).expect("a folder");
        let mount = Mount {
            point: root.path().to_owned(),
            root: "/".to_owned(),
            version: Version::Two,
        };
        let write = |path: &str, text: &str| {
            std::fs::write(root.path().join(path), text).expect("written");
        };
        assert_eq!(around(&mount, "/a/b/c"), []);
        write("a/cpu.max", "200000 100000\n");
        write("a/b/c/cpu.max", "max 100000\n");
        let [quota] = &around(&mount, "/a/b/c")[..] else {
            panic!("one has a quota");
        };
        assert_eq!((quota.cgroup.as_str(), quota.quota_ns), ("/a", 200_000_000));
        assert_eq!(quota.read(), None);
        write(
            "a/cpu.stat",
            "usage_usec 9\nnr_periods 8\nnr_throttled 7\nthrottled_usec 6\n",
        );
        let fact = quota.read().expect("readable");
        assert_eq!((fact.throttled_ns, fact.count), (6_000, 7));
        write("a/b/cpu.max", "50000 100000\n");
        let quotas = around(&mount, "/a/b/c");
        let told: Vec<_> = quotas
            .iter()
            .map(|quota| (quota.cgroup.as_str(), quota.quota_ns))
            .collect();
        assert_eq!(told, [("/a/b", 50_000_000), ("/a", 200_000_000)]);
    }

    /// What a container sees of the host begins at its own cgroup.
    #[test]
    fn a_cgroup_whose_name_begins_alike_is_another() {
        let root = tempfile::tempdir().expect("a folder");
        let mount = Mount {
            point: root.path().to_owned(),
            root: "/lxc/web".to_owned(),
            version: Version::Two,
        };
        std::fs::create_dir_all(root.path().join("2")).expect("a folder");
        for path in ["cpu.max", "2/cpu.max"] {
            std::fs::write(root.path().join(path), "50000 100000\n").expect("written");
        }
        assert_eq!(around(&mount, "/lxc/web2"), []);
        assert_eq!(around(&mount, "/lxc/web").len(), 1);
        assert_eq!(around(&mount, "/lxc/web/2").len(), 2);
    }
}
