//! What containers are called: from the files in which their runtimes keep that. No runtime is asked.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::Deserialize;

use super::cgroups::is_id;

/// Bytes of a file that are read; docker's have some 10 kB, podman's one some 2 kB for each container.
const MAX_BYTES: u64 = 16 << 20;
/// Containers that are told apart, at most.
const MAX_CONTAINERS: usize = 16_384;
/// Names of one.
const MAX_NAMES: usize = 16;
/// Where docker keeps a folder for each container.
const DOCKER: &str = "var/lib/docker/containers";
/// Where podman keeps a list, as root and below the home of a user.
const PODMAN: &str = "var/lib/containers/storage";
const PODMAN_OF_USER: &str = ".local/share/containers/storage";
/// And in which of its folders, by the driver of its storage.
const PODMAN_LISTS: [&str; 3] = [
    "overlay-containers/containers.json",
    "vfs-containers/containers.json",
    "btrfs-containers/containers.json",
];
/// Where the kubelet keeps a link for each container: `POD_NAMESPACE_CONTAINER-ID.log`.
const KUBELET: &str = "var/log/containers";

/// Names of containers by their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Containers {
    names: BTreeMap<String, Vec<String>>,
}

/// Of docker's `config.v2.json`.
#[derive(Deserialize)]
struct Docker {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Name")]
    name: String,
}

/// An element of podman's `containers.json`.
#[derive(Deserialize)]
struct Podman {
    id: String,
    #[serde(default)]
    names: Vec<String>,
}

impl Containers {
    /// What the files below `root` say, which is `/` but in tests. What is not there, cannot be read, or is not as it
    /// is known, says nothing.
    pub fn read(root: &Path) -> Self {
        let mut found = Self::default();
        found.read_docker(&root.join(DOCKER));
        found.read_podman(&root.join(PODMAN));
        found.read_kubelet(&root.join(KUBELET));
        found.read_podman(&root.join("root").join(PODMAN_OF_USER));
        // What users say comes last, and names no container that is named already.
        let known: Vec<String> = found.names.keys().cloned().collect();
        let mut users = Self::default();
        for home in folders(&root.join("home")) {
            users.read_podman(&home.join(PODMAN_OF_USER));
        }
        users.names.retain(|id, _| known.binary_search(id).is_err());
        let room = MAX_CONTAINERS.saturating_sub(known.len());
        found.names.extend(users.names.into_iter().take(room));
        found
    }

    fn read_docker(&mut self, folder: &Path) {
        for container in folders(folder) {
            let text = text(&container.join("config.v2.json")).unwrap_or_default();
            if let Ok(docker) = serde_json::from_slice::<Docker>(&text) {
                self.add(&docker.id, docker.name.trim_start_matches('/'));
            }
        }
    }

    fn read_podman(&mut self, storage: &Path) {
        for list in PODMAN_LISTS {
            let text = text(&storage.join(list)).unwrap_or_default();
            for podman in serde_json::from_slice::<Vec<Podman>>(&text).unwrap_or_default() {
                for name in &podman.names {
                    self.add(&podman.id, name);
                }
            }
        }
    }

    fn read_kubelet(&mut self, folder: &Path) {
        for path in folders(folder) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let Some((name, id)) = name
                .strip_suffix(".log")
                .and_then(|name| name.rsplit_once('-'))
            else {
                continue;
            };
            // The whole of it, the pod, and the container in it.
            let mut parts = name.splitn(3, '_');
            let (pod, container) = (parts.next(), parts.nth(1));
            for name in [Some(name), pod, container].into_iter().flatten() {
                self.add(id, name);
            }
        }
    }

    fn add(&mut self, id: &str, name: &str) {
        let is_full = self.names.len() >= MAX_CONTAINERS && !self.names.contains_key(id);
        if !is_id(id) || name.is_empty() || is_full {
            return;
        }
        let names = self.names.entry(id.to_owned()).or_default();
        if names.len() < MAX_NAMES && names.iter().all(|known| known != name) {
            names.push(name.to_owned());
        }
    }

    /// A name of the container `id` is known.
    pub fn has(&self, id: &str) -> bool {
        self.names.contains_key(id)
    }

    /// Whether the container `id` is meant by `named`: its name, or the begin of its id.
    pub fn is(&self, id: &str, named: &str) -> bool {
        let has = |names: &Vec<String>| names.iter().any(|name| name == named);
        // A name like `db` is the begin of many ids.
        let is_begin = || is_id(id) && id.starts_with(named) && !self.names.values().any(has);
        id == named || self.names.get(id).is_some_and(has) || is_begin()
    }

    /// What people call a container: its name and the begin of its id.
    pub fn title(&self, id: &str) -> String {
        let short = id.get(..12).unwrap_or(id);
        match self.names.get(id).and_then(|names| names.first()) {
            Some(name) => format!("{name} ({short})"),
            None => short.to_owned(),
        }
    }
}

/// What is in a folder, of so many.
fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.take(MAX_CONTAINERS).collect()
}

fn text(path: &Path) -> Option<Vec<u8>> {
    // Users may put anything into their homes: links to elsewhere, a FIFO, a device.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(CWD, path, flags, Mode::empty()).ok()?);
    let mut bytes = Vec::new();
    file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    file.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn id(digit: char) -> String {
        String::from(digit).repeat(64)
    }

    #[test]
    fn names_of_every_runtime() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: String, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            format!("{DOCKER}/{}/config.v2.json", id('a')),
            &format!(
                r#"{{"State":{{"Pid":7}},"ID":"{}","Name":"/web"}}"#,
                id('a')
            ),
        );
        write(
            format!("{PODMAN}/{}", PODMAN_LISTS[0]),
            &format!(
                r#"[{{"id":"{}","names":["db","database"],"layer":"x"}}]"#,
                id('b')
            ),
        );
        write(
            format!("home/ann/{PODMAN_OF_USER}/{}", PODMAN_LISTS[0]),
            &format!(
                r#"[{{"id":"{}","names":["mine"]}},{{"id":"no id"}}]"#,
                id('c')
            ),
        );
        write(
            format!("{KUBELET}/shop-7f_prod_api-server-{}.log", id('d')),
            "",
        );
        // Hostile and broken ones say nothing.
        write(format!("{DOCKER}/x/config.v2.json"), "{");
        write(format!("{KUBELET}/a.log"), "");
        write(format!("{KUBELET}/-.log"), "");
        let found = Containers::read(root.path());
        for (digit, named) in [
            ('a', "web"),
            ('a', "aaaa"),
            ('b', "db"),
            ('b', "database"),
            ('c', "mine"),
            ('d', "shop-7f"),
            ('d', "api-server"),
            ('d', "shop-7f_prod_api-server"),
        ] {
            assert!(found.is(&id(digit), named), "{named}: {found:?}");
        }
        assert!(!found.is(&id('a'), "db") && !found.is(&id('a'), "ab"));
        assert_eq!(found.title(&id('b')), "db (bbbbbbbbbbbb)");
        assert_eq!(found.title(&id('e')), "eeeeeeeeeeee");
        assert_eq!(found.names.len(), 4);
        assert_eq!(
            Containers::read(Path::new("/nowhere")),
            Containers::default()
        );
    }
}
