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
}
