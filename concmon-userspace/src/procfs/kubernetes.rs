//! Which pod a process belongs to, without asking the cluster: its cgroups have the uid of the pod and the id of the
//! container, and the kubelet's folders of logs have the names.

use std::path::Path;

use super::cgroups::Cgroups;
use crate::event::KubernetesFact;

/// The kubelet's folders of pods, `NAMESPACE_POD_UID` with a folder for each container, and its links to logs,
/// `POD_NAMESPACE_CONTAINER-ID.log`.
const PODS: &str = "/var/log/pods";
const CONTAINERS: &str = "/var/log/containers";
/// Names of a folder that are looked at.
const MAX_NAMES: usize = 4_096;

/// `None`: it is in no pod, or the kubelet's folders are not there or do not have it.
pub(super) fn of(cgroups: &Cgroups) -> Option<KubernetesFact> {
    let uid = cgroups.pod_uid()?;
    look(Path::new("/"), &uid, cgroups.container().as_deref())
}

fn look(root: &Path, uid: &str, container: Option<&str>) -> Option<KubernetesFact> {
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    let suffix = format!("_{uid}");
    let folder = names(&below(PODS)).find(|name| name.ends_with(&suffix))?;
    let (namespace, pod) = folder.strip_suffix(&suffix)?.split_once('_')?;
    if namespace.is_empty() || pod.is_empty() {
        return None;
    }
    let linked = || {
        let suffix = format!("-{}.log", container?);
        let prefix = format!("{pod}_{namespace}_");
        names(&below(CONTAINERS)).find_map(|name| {
            let name = name.strip_prefix(&prefix)?.strip_suffix(&suffix)?;
            Some(name.to_owned())
        })
    };
    let only = || {
        let mut names = names(&below(PODS).join(&folder));
        names.next().filter(|_| names.next().is_none())
    };
    Some(KubernetesFact {
        namespace: namespace.to_owned(),
        pod: pod.to_owned(),
        container: linked().or_else(only),
        uid: uid.to_owned(),
    })
}

/// The names in a folder; none where it cannot be read.
fn names(folder: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .take(MAX_NAMES);
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "12345678-9abc-def0-1234-56789abcdef0";
    const ID: &str = "4c290e9407ce1b639e5ecf689f9a52834c290e9407ce1b639e5ecf689f9a5283";

    #[test]
    fn names_are_those_of_the_folders_of_logs() {
        let root = tempfile::tempdir().expect("a folder");
        let pods = root.path().join("var/log/pods");
        let links = root.path().join("var/log/containers");
        let look = |container| look(root.path(), UID, container);
        assert_eq!(look(Some(ID)), None);
        let pod = pods.join(format!("prod_shop-7f9c_{UID}"));
        std::fs::create_dir_all(pod.join("web")).expect("a folder");
        std::fs::create_dir_all(pods.join("prod_other_99")).expect("a folder");
        let fact = KubernetesFact {
            namespace: "prod".to_owned(),
            pod: "shop-7f9c".to_owned(),
            container: Some("web".to_owned()),
            uid: UID.to_owned(),
        };
        assert_eq!(look(Some(ID)).as_ref(), Some(&fact));
        // With two containers, only the link tells which.
        std::fs::create_dir_all(pod.join("side-car")).expect("a folder");
        let unknown = KubernetesFact {
            container: None,
            ..fact.clone()
        };
        assert_eq!(look(Some(ID)), Some(unknown));
        std::fs::create_dir_all(&links).expect("a folder");
        let link = links.join(format!("shop-7f9c_prod_side-car-{ID}.log"));
        std::fs::write(link, "").expect("a link");
        let side_car = Some("side-car".to_owned());
        let told = KubernetesFact {
            container: side_car,
            ..fact
        };
        assert_eq!(look(Some(ID)), Some(told));
    }
}
