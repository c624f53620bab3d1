//! Where a process runs: its service, its container.

use schemars::JsonSchema;
use serde::Serialize;

/// Where a process runs, as the paths of its cgroups say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Place {
    /// Its id in the innermost PID namespace that it is in; `null`: the same as `pid`.
    pub pid_inside: Option<u32>,
    /// The id of its container; `null`: it is in none, or that is not known.
    pub container_id: Option<String>,
    /// Its systemd unit; `null`: it is in none, or that is not known.
    pub unit: Option<String>,
    /// Its Kubernetes pod; absent: it is in none, or that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub k8s: Option<Kubernetes>,
    /// The version of its service, where it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_version: Option<String>,
    /// Where its service is deployed (`production`), where it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment_environment: Option<String>,
}

/// A Kubernetes pod, as the kubelet's folders of logs name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Kubernetes {
    /// The namespace of the pod.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// `null`: not known which of several it is.
    pub container: Option<String>,
    /// The uid of the pod.
    pub uid: String,
}
