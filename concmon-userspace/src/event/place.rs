//! Where a process runs.

use serde::{Deserialize, Serialize};

/// Where a process runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceFact {
    /// Its id in its own PID namespace, where that is another than ours.
    #[serde(default)]
    pub own_pid: Option<u32>,
    #[serde(default)]
    pub container: Option<String>,
    #[serde(default)]
    pub unit: Option<String>,
    /// The folder that it works in.
    #[serde(default)]
    pub folder: Option<String>,
    /// The service that it says it is, for OpenTelemetry.
    #[serde(default)]
    pub service: Option<String>,
    /// The service that a rule of whoever watches says it is.
    #[serde(default)]
    pub rule: Option<String>,
    /// The service that it says it is, for Datadog.
    #[serde(default)]
    pub datadog: Option<String>,
    #[serde(default)]
    pub kubernetes: Option<KubernetesFact>,
    /// The version of the service, and where it is deployed: production, say.
    #[serde(default)]
    pub version: Option<String>,
    #[serde(default)]
    pub environment: Option<String>,
}

/// The pod that a process runs in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KubernetesFact {
    pub namespace: String,
    pub pod: String,
    pub container: Option<String>,
    /// Of the pod.
    pub uid: String,
}

impl PlaceFact {
    /// Leaves out what tells what runs there.
    pub fn redact(&mut self) {
        *self = Self {
            own_pid: self.own_pid,
            container: self.container.take(),
            unit: self.unit.take(),
            rule: self.rule.take(),
            ..Self::default()
        };
    }
}
