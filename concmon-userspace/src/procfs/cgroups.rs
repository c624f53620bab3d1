//! Which service and which container a process belongs to, by the paths of its cgroups.

use std::path::{Path, PathBuf};

use super::file;
use crate::event::Pid;

/// The cgroups of a process: a path for each hierarchy that it is in, without those that say nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroups {
    paths: Vec<String>,
}

impl Cgroups {
    /// Those of a living process; none where they cannot be read.
    pub fn of(pid: Pid) -> Self {
        Self::parse(&text(pid))
    }

    /// Lines of `/proc/PID/cgroup`: `0::/path`, or before version 2 `4:memory:/path`.
    pub(super) fn parse(text: &str) -> Self {
        let paths = text.lines().filter_map(|line| {
            let path = line.splitn(3, ':').nth(2)?;
            (path.len() > 1).then(|| path.to_owned())
        });
        let mut paths: Vec<String> = paths.collect();
        paths.dedup();
        Self { paths }
    }

    /// The systemd unit: the innermost service or, without one, scope.
    pub fn unit(&self) -> Option<String> {
        let innermost = |suffix: &str| {
            let mut parts = self.parts();
            parts.find(|part| part.len() > suffix.len() && part.ends_with(suffix))
        };
        let unit = innermost(".service").or_else(|| innermost(".scope"))?;
        Some(unit.to_owned())
    }

    /// Whether it belongs to a unit, one of those around its own included; `name` may be without `.service`.
    pub fn is_in_unit(&self, name: &str) -> bool {
        let is = |part: &str| part == name || part.strip_suffix(".service") == Some(name);
        self.parts().any(is)
    }

    /// The id of its container: 64 hexadecimal digits, or the name that LXC gives.
    pub fn container(&self) -> Option<String> {
        self.parts().find_map(container_of).map(str::to_owned)
    }

    /// The uid of its Kubernetes pod: of `pod<uid>`, or with systemd `kubepods-burstable-pod<uid>.slice`, where
    /// underscores stand for dashes.
    pub fn pod_uid(&self) -> Option<String> {
        self.parts().find_map(pod_of)
    }

    /// Whether it is in the cgroup `path`, or in one below it.
    pub fn is_below(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let is = |own: &String| {
            own.strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        match path {
            // The root of all.
            "" => true,
            path => self.paths.iter().any(is) && path.starts_with('/'),
        }
    }

    /// The components of its paths, of each the innermost first.
    fn parts(&self) -> impl Iterator<Item = &str> {
        let parts = self.paths.iter().flat_map(|path| path.rsplit('/'));
        parts.filter(|part| !part.is_empty())
    }
}

/// What `/proc/PID/cgroup` says; nothing where it cannot be read.
pub(super) fn text(pid: Pid) -> String {
    file::text(file::CWD, format!("/proc/{pid}/cgroup")).unwrap_or_default()
}

/// The container that one component of a path names: `<id>`, `docker-<id>.scope`, `libpod-<id>`,
/// `cri-containerd-<id>.scope`, `lxc.payload.<name>`, or with older runtimes `...:cri-containerd:<id>`.
fn container_of(part: &str) -> Option<&str> {
    if let Some(name) = part.strip_prefix("lxc.payload.") {
        return Some(name);
    }
    let part = part.strip_suffix(".scope").unwrap_or(part);
    // What looks after a container is outside of it.
    if part.contains("conmon-") {
        return None;
    }
    let id = part.rsplit(['-', ':']).next()?;
    is_id(id).then_some(id)
}

/// The uid of the pod that one component of a path names. Pods that are no objects of the cluster have a hash for it.
fn pod_of(part: &str) -> Option<String> {
    // Older runtimes: `kubepods-pod<uid>.slice:cri-containerd:<id>`.
    let part = part.split(':').next().unwrap_or(part);
    let part = part.strip_suffix(".slice").unwrap_or(part);
    let uid = match part.rsplit_once("-pod") {
        Some((before, uid)) if before.starts_with("kubepods") => uid.replace('_', "-"),
        _ => part.strip_prefix("pod")?.to_owned(),
    };
    let is_uid = |byte: u8| byte.is_ascii_hexdigit() || byte == b'-';
    (matches!(uid.len(), 32 | 36) && uid.bytes().all(is_uid)).then_some(uid)
}

/// Whether a text is the whole id of a container.
pub fn is_id(text: &str) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.len() == 64 && text.bytes().all(is_digit)
}

/// The path of the cgroup that somebody names: as it stands in `/proc/PID/cgroup`, or the folder of it.
pub fn path_of(named: &str) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    path_in(named, &mounts)
}

fn path_in(named: &str, mounts: &str) -> String {
    let folder = Path::new(named);
    let mut best: Option<(PathBuf, String)> = None;
    for line in mounts.lines() {
        let Some((point, root)) = cgroup_mount(line) else {
            continue;
        };
        if folder.starts_with(&point)
            && best
                .as_ref()
                .is_none_or(|(known, _)| point.starts_with(known))
        {
            best = Some((point, root));
        }
    }
    let path = match best {
        Some((point, root)) => {
            let rest = folder.strip_prefix(&point).unwrap_or(Path::new(""));
            format!("{}/{}", root.trim_end_matches('/'), rest.display())
        }
        None => format!("/{}", named.trim_start_matches('/')),
    };
    match path.trim_end_matches('/') {
        "" => "/".to_owned(),
        path => path.to_owned(),
    }
}

/// Where a line of `mountinfo` says that cgroups are, and from which one on.
pub(super) fn cgroup_mount(line: &str) -> Option<(PathBuf, String)> {
    let (mount, kind) = line.split_once(" - ")?;
    if !kind.starts_with("cgroup") {
        return None;
    }
    let mut fields = mount.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    Some((point.into(), root.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4c290e9407ce1b639e5ecf689f9a52834c290e9407ce1b639e5ecf689f9a5283";

    fn at(path: &str) -> Cgroups {
        Cgroups::parse(&format!("12:cpu,cpuacct:/\n0::{path}\n"))
    }

    #[test]
    fn units() {
        for (path, unit) in [
            ("/system.slice/shop.service", Some("shop.service")),
            ("/system.slice/shop.service/workers", Some("shop.service")),
            (
                "/user.slice/user-7.slice/user@7.service/app.slice/editor.service",
                Some("editor.service"),
            ),
            (
                "/user.slice/user-7.slice/session-3.scope",
                Some("session-3.scope"),
            ),
            ("/", None),
            ("/.service", None),
        ] {
            assert_eq!(at(path).unit().as_deref(), unit, "{path}");
        }
        let shop = at("/system.slice/shop.service/workers");
        for name in ["shop", "shop.service", "system.slice"] {
            assert!(shop.is_in_unit(name), "{name}");
        }
        for name in ["sho", "shop.scope", "service", ""] {
            assert!(!shop.is_in_unit(name), "{name}");
        }
    }

    #[test]
    fn containers() {
        for path in [
            format!("/docker/{ID}"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/libpod_parent/libpod-{ID}"),
            format!("/kubepods/besteffort/pod12-34/{ID}"),
            format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope"),
            format!("/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:{ID}"),
            format!("/kubepods.slice/crio-{ID}.scope/worker"),
        ] {
            assert_eq!(at(&path).container().as_deref(), Some(ID), "{path}");
        }
        assert_eq!(at("/lxc.payload.web/x").container().as_deref(), Some("web"));
        for path in [
            format!("/machine.slice/libpod-conmon-{ID}.scope"),
            format!("/docker/{}", &ID[1..]),
            "/system.slice/docker.service".to_owned(),
            "/".to_owned(),
        ] {
            assert_eq!(at(&path).container(), None, "{path}");
        }
    }

    #[test]
    fn pods() {
        const UID: &str = "12345678-9abc-def0-1234-56789abcdef0";
        let systemd = UID.replace('-', "_");
        for path in [
            format!("/kubepods/besteffort/pod{UID}/{ID}"),
            format!("/kubepods.slice/kubepods-pod{systemd}.slice/cri-containerd-{ID}.scope"),
            format!("/kubepods.slice/kubepods-burstable-pod{systemd}.slice/crio-{ID}.scope/x"),
            format!(
                "/system.slice/containerd.service/kubepods-pod{systemd}.slice:cri-containerd:{ID}"
            ),
        ] {
            assert_eq!(at(&path).pod_uid().as_deref(), Some(UID), "{path}");
        }
        for path in ["/kubepods/pods/x", "/podman/pod1234", "/", "/docker"] {
            assert_eq!(at(path).pod_uid(), None, "{path}");
        }
    }

    #[test]
    fn paths() {
        let mounts = "\
            30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
            31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
            32 30 0:28 /base /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";
        for (named, path) in [
            ("/sys/fs/cgroup/unified/a/b/", "/a/b"),
            ("/sys/fs/cgroup/memory/a", "/base/a"),
            ("/sys/fs/cgroup/unified", "/"),
            ("/system.slice/shop.service", "/system.slice/shop.service"),
            ("a/b", "/a/b"),
            ("/", "/"),
        ] {
            assert_eq!(path_in(named, mounts), path, "{named}");
        }
        let own = at("/a/b/c");
        for path in ["/a", "/a/b/", "/a/b/c", "/"] {
            assert!(own.is_below(path), "{path}");
        }
        for path in ["/a/b/c/d", "/a/bb", "/b", "a"] {
            assert!(!own.is_below(path), "{path}");
        }
    }
}
