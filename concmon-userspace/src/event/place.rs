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
}
