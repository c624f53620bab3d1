//! What changed from one capture to another: the line of `diff`.

use schemars::JsonSchema;
use serde::Serialize;

use super::words::words;

words! {
    /// The kind of the line.
    #[schemars(rename = "DiffKind")]
    pub enum Kind {
        Diff = "diff",
    }
}

words! {
    /// In what a quantity is measured.
    pub enum Unit {
        /// Time per second of wall.
        MsPerS = "ms/s",
        /// Events per second of wall.
        PerS = "1/s",
        /// A duration as such.
        Ms = "ms",
        Bytes = "bytes",
        /// How many there are at a time.
        Count = "count",
    }
}

words! {
    /// What can be said of a difference.
    pub enum Verdict {
        Changed = "changed",
        WithinNoise = "within-noise",
        /// There are too few windows to tell.
        Unknown = "unknown",
    }
}

/// One quantity, before and after.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Change {
    /// `process`, `thread`, `threads by name`, `gil`, `loop`, `tasks by name`.
    pub tier: &'static str,
    /// Of a process: its script or module. Of threads and tasks: the name, with digits as `#`.
    pub name: String,
    /// A column of the ledger, or what it is called in reports.
    pub what: &'static str,
    /// Unit of the next four.
    pub unit: Unit,
    /// Mean of the windows; `null`: there was no such thing.
    pub before: Option<f64>,
    /// As `before`.
    pub after: Option<f64>,
    /// after - before, where one is missing taken as 0.
    pub change: f64,
    /// How large a change may be by chance (99 %); `null`: it cannot be told from so few windows.
    pub noise: Option<f64>,
    pub verdict: Verdict,
}

/// A finding that only one of the two has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct FindingChange {
    /// The process: its script or module.
    pub name: String,
    /// The rule.
    pub rule: &'static str,
    /// It appeared, else it is gone.
    pub new: bool,
    /// As the finding has it.
    pub summary: String,
}

/// One of the two watches.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Side {
    /// The capture.
    pub file: String,
    /// When the watch began.
    pub start_unix_ns: u64,
    /// How long it was, ns.
    pub duration_ns: u64,
    /// Windows that were compared.
    pub windows: u64,
    /// Records that never arrived.
    pub events_lost: u64,
    /// What is missing of the capture.
    pub gaps: Vec<String>,
}

/// What changed.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Diff {
    /// `concmon/1`.
    pub schema: &'static str,
    #[serde(rename = "type")]
    pub kind: Kind,
    pub before: Side,
    pub after: Side,
    /// Changed ones first; among equals, times first, and by effect.
    pub changes: Vec<Change>,
    /// Rows that were left out, those with the least effect.
    pub left_out: usize,
    pub findings: Vec<FindingChange>,
}
