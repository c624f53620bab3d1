//! A thread's account, as the kernel programs keep it.

use concmon_ebpf::{HIST_BUCKETS, cause};
use serde::{Deserialize, Serialize};

use super::{Cause, Pid, Tid, shared::at_most};

/// A duration histogram as the kernel keeps it; see [`concmon_ebpf::Hist`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistFact {
    pub count: u64,
    pub sum_ns: u64,
    pub min_ns: u64,
    pub max_ns: u64,
    #[serde(with = "buckets")]
    pub buckets: [u32; HIST_BUCKETS],
}

/// Buckets up to the last one that is not empty.
mod buckets {
    use concmon_ebpf::HIST_BUCKETS;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(
        buckets: &[u32; HIST_BUCKETS],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let used = buckets.iter().rposition(|count| *count != 0);
        serializer.collect_seq(&buckets[..used.map_or(0, |last| last + 1)])
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u32; HIST_BUCKETS], D::Error> {
        let used = Vec::<u32>::deserialize(deserializer)?;
        let mut buckets = [0; HIST_BUCKETS];
        buckets
            .get_mut(..used.len())
            .ok_or_else(|| D::Error::invalid_length(used.len(), &"at most 128 buckets"))?
            .copy_from_slice(&used);
        Ok(buckets)
    }
}

/// What the open stretch of a thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ThreadState {
    Running,
    /// Waiting for a CPU after a wakeup.
    Woken,
    /// Waiting for a CPU after a preemption.
    Preempted,
    Blocked(Cause),
    Dead,
}

/// One thread's account, read in one piece at `read_ns`: closed columns up to `since_ns`,
/// and an open stretch from there in `state`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LedgerFact {
    pub read_ns: u64,
    pub pid: Pid,
    pub tid: Tid,
    pub start_boottime_ns: u64,
    /// The thread existed before the watch began.
    pub seeded: bool,
    /// The sum of ended threads of `pid`, folded for lack of room; `tid` means nothing.
    pub folded: bool,
    pub start_ns: u64,
    pub since_ns: u64,
    pub state: ThreadState,
    /// The kernel's CPU clock of the thread at `since_ns` (`se.sum_exec_runtime`).
    pub sum_exec_ns: u64,
    pub on_cpu_ns: u64,
    pub woken_ns: u64,
    pub preempted_ns: u64,
    pub stolen_ns: u64,
    pub unknown_ns: u64,
    pub blocked_ns: [u64; cause::COUNT],
    pub voluntary: u64,
    pub involuntary: u64,
    pub migrations: u64,
    pub wakeup_latency: HistFact,
    pub slice: HistFact,
    #[serde(deserialize_with = "at_most::<64, _, _>")]
    pub off_cpu: Vec<HistFact>,
}
