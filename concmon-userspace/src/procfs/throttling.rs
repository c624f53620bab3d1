//! What the CPU quota of a cgroup takes (`cpu.max` and `cpu.stat` of version 2, Documentation/admin-guide/cgroup-v2.rst;
//! `cpu.cfs_quota_us` of version 1, Documentation/scheduler/sched-bwc.rst).

use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::fstatfs;

use super::{cgroups, file, root};
use crate::event::{Pid, ThrottledFact};

/// Cgroups that are one in the other, at most.
const MAX_DEPTH: usize = 32;
/// File systems of cgroups, as `statfs` names them (include/uapi/linux/magic.h).
const CGROUP_MAGIC: [u64; 2] = [0x27_e0eb, 0x6367_7270];
/// Bytes of a file of a cgroup that are read.
const MAX_BYTES: u64 = 16 << 10;

/// A cgroup around a process that has a quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    folder: Folder,
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

/// Where the files of a cgroup are.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Folder {
    /// The process that sees them there; none: this one does.
    seen_by: Option<Pid>,
    path: PathBuf,
}

impl Folder {
    fn text(&self, name: &str) -> io::Result<String> {
        let path = self.path.join(name);
        let Some(pid) = self.seen_by else {
            return file::text(file::CWD, path);
        };
        let file = root::open(pid, &path)?;
        // A container may have put anything there.
        let kind = u32::try_from(fstatfs(&file)?.f_type).map(u64::from);
        if !kind.is_ok_and(|kind| CGROUP_MAGIC.contains(&kind)) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text)?;
        Ok(text)
    }
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
    /// All of a process of whose cgroups `/proc/PID/cgroup` says `text`, the innermost first; none: nothing limits it,
    /// or that cannot be read.
    pub(super) fn of(pid: Pid, text: &str) -> Vec<Self> {
        static MOUNTS: OnceLock<Vec<Mount>> = OnceLock::new();
        let mounts = MOUNTS.get_or_init(|| {
            let text = std::fs::read_to_string("/proc/self/mountinfo");
            mounts(&text.unwrap_or_default())
        });
        let theirs = || {
            let mounts_seen = file::text(file::CWD, format!("/proc/{pid}/mountinfo"));
            self::mounts(&mounts_seen.unwrap_or_default())
        };
        // In a cgroup namespace of its own, as in a pod, this process has no files of cgroups beside its own; a
        // container shows those of its own then.
        first(mounts, text, None)
            .or_else(|| first(&theirs(), text, Some(pid)))
            .unwrap_or_default()
    }

    /// What it has taken so far.
    pub(super) fn read(&self) -> Option<ThrottledFact> {
        let text = self.folder.text("cpu.stat").ok()?;
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

/// The quotas by the first mount that has some; `None`: there may be some that no mount shows.
fn first(mounts: &[Mount], text: &str, seen_by: Option<Pid>) -> Option<Vec<Quota>> {
    let mut hidden = mounts.is_empty();
    for mount in mounts {
        let Some(path) = path(text, mount.version) else {
            continue;
        };
        match around(mount, path, seen_by) {
            Some(quotas) if !quotas.is_empty() => return Some(quotas),
            Some(_) => {}
            None => hidden = true,
        }
    }
    (!hidden).then(Vec::new)
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
        is.then_some(path)
    })
}

/// The quotas of a cgroup and of those around it: what one takes is not in the numbers of the others. `None`: this
/// mount does not show that cgroup.
fn around(mount: &Mount, cgroup: &str, seen_by: Option<Pid>) -> Option<Vec<Quota>> {
    let below = Path::new(cgroup).strip_prefix(&mount.root).ok()?;
    // One outside of what a namespace shows has a path that leads up.
    if below.components().any(|part| part == Component::ParentDir) {
        return None;
    }
    let mut quotas = Vec::new();
    let mut folder = Folder {
        seen_by,
        path: mount.point.join(below),
    };
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
        let Some(parent) = cgroup.parent().filter(|_| folder.path != mount.point) else {
            break;
        };
        cgroup = parent;
        folder.path.pop();
    }
    Some(quotas)
}

/// Quota and period of one cgroup, ns; `None`: it has none.
fn quota(folder: &Folder, version: Version) -> Option<(u64, u64)> {
    let text = |name: &str| folder.text(name).ok();
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
        assert_eq!(around(&mount, "/a/b/c", None), Some(Vec::new()));
        write("a/cpu.max", "200000 100000\n");
        write("a/b/c/cpu.max", "max 100000\n");
        let quotas = around(&mount, "/a/b/c", None).expect("shown");
        let [quota] = &quotas[..] else {
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
        let quotas = around(&mount, "/a/b/c", None).expect("shown");
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
        let count = |path| around(&mount, path, None).map(|quotas| quotas.len());
        assert_eq!(count("/lxc/web2"), None);
        assert_eq!(count("/lxc/web"), Some(1));
        assert_eq!(count("/lxc/web/2"), Some(2));
        assert_eq!(count("/lxc/web/../web2"), None);
        assert_eq!(count("/../lxc/web"), None);
    }

    /// Paths of the cgroups of other namespaces lead up from this one's.
    #[test]
    fn what_another_namespace_shows_is_known_by_the_same_path() {
        let text = "0::/../pod/one/inner\n";
        let mount = |root: &str| Mount {
            point: PathBuf::from("/none"),
            root: root.to_owned(),
            version: Version::Two,
        };
        assert_eq!(first(&[mount("/")], text, None), None);
        assert_eq!(first(&[mount("/../pod/two")], text, None), None);
        assert_eq!(first(&[mount("/../pod/one")], text, None), Some(Vec::new()));
        let both = [mount("/../pod/one"), mount("/../pod/two")];
        assert_eq!(first(&both, text, None), None);
        assert_eq!(first(&[], text, None), None);
    }

    /// What a container shows in the place of its cgroup's files is not believed.
    #[test]
    fn files_of_other_kinds_are_none_of_a_cgroup() {
        let root = tempfile::tempdir().expect("a folder");
        std::fs::write(root.path().join("cpu.max"), "50000 100000\n").expect("written");
        let folder = |seen_by| Folder {
            seen_by,
            path: root.path().to_owned(),
        };
        assert!(quota(&folder(None), Version::Two).is_some());
        let own = Pid(std::process::id());
        assert_eq!(quota(&folder(Some(own)), Version::Two), None);
    }
}
