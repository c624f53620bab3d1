//! What the tool says of itself.

use std::collections::BTreeMap;

use super::account::HistFact;
use serde::{Deserialize, Serialize};

/// The tool's account of itself since the watch began.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MonitorFact {
    pub cpu_ns: u64,
    pub rss_bytes: u64,
    /// Run time of all kernel programs; `None` when the kernel does not measure it.
    pub kernel_run_ns: Option<u64>,
    /// It is not measured, but the switches of the host are counted.
    #[serde(default)]
    pub kernel_run_counted: bool,
    /// How long switches were not told, on purpose, ns.
    #[serde(default)]
    pub unobserved_ns: u64,
    pub events: u64,
    pub events_lost: u64,
    pub reads_failed: u64,
    /// Kernel-side and user-space faults by declared name, zero ones left out.
    pub faults: BTreeMap<String, u64>,
    /// What is left out to stay inside the budget.
    #[serde(default)]
    pub shed: Vec<String>,
    #[serde(default)]
    pub budget: BudgetFact,
    /// By how much the wall clock is ahead of what it would be had it run with `CLOCK_MONOTONIC`
    /// since the watch began, ns: the host slept, or its clock was set.
    #[serde(default)]
    pub wall_clock_ahead_ns: i64,
    /// `None`: not measured.
    #[serde(default)]
    pub passes: Option<Box<PassFact>>,
}

/// How long the turns of the tool's select loop took, which do one thing each.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PassFact {
    /// Since the watch began, with waits of the loop's thread for a CPU.
    pub wall: HistFact,
    /// The longest since the fact before, without such waits, ns.
    pub longest_ns: u64,
}

/// What the tool may take, and takes; shares are of the time of one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BudgetFact {
    pub cpu_share: f64,
    /// Lately; `None`: not known yet.
    pub cpu_share_used: Option<f64>,
    pub memory_bytes: u64,
    /// From now on slices are left out, and count as lost.
    pub sheds_slices: bool,
    /// But for those of threads that run event loops.
    #[serde(default)]
    pub keeps_loops: bool,
    /// Requests are left out, too.
    #[serde(default)]
    pub sheds_requests: bool,
}
