//! A thread's account, as the kernel programs keep it.

use concmon_ebpf::{Hist, HistBuckets, HistHead, Hists, cause, hist_bucket};
use serde::{Deserialize, Serialize};

use super::{Cause, Pid, PyGil, Tid, shared::at_most};

/// A duration histogram as the kernel keeps it; see [`concmon_ebpf::Hist`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistFact {
    pub count: u64,
    pub sum_ns: u64,
    /// 0 while there is nothing in it.
    pub min_ns: u64,
    pub max_ns: u64,
    /// Bucket and counter (modulo 2^32), by bucket, those that are not 0.
    #[serde(with = "buckets")]
    pub buckets: Vec<(u8, u32)>,
}

impl From<&Hist> for HistFact {
    fn from(hist: &Hist) -> Self {
        Self::of(&hist.head, &hist.buckets)
    }
}

impl HistFact {
    /// The histogram of a thread with this number ([`Hists`]).
    pub fn of_thread(hists: &Hists, number: usize) -> Self {
        match (hists.heads.get(number), hists.buckets.get(number)) {
            (Some(head), Some(buckets)) => Self::of(head, buckets),
            _ => Self::default(),
        }
    }

    fn of(head: &HistHead, buckets: &HistBuckets) -> Self {
        // Most of a thread's are empty.
        if head.count == 0 {
            return Self::default();
        }
        let counters = (0..=u8::MAX).zip(*buckets);
        Self {
            count: head.count,
            sum_ns: head.sum_ns,
            min_ns: head.min_ns,
            max_ns: head.max_ns,
            buckets: counters.filter(|(_, counter)| *counter != 0).collect(),
        }
    }

    /// Adds one duration.
    pub fn record(&mut self, ns: u64) {
        self.add(&Self {
            count: 1,
            sum_ns: ns,
            min_ns: ns,
            max_ns: ns,
            buckets: vec![(hist_bucket(ns) as u8, 1)],
        });
    }

    /// Adds all of another one.
    pub fn add(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.min_ns = match self.count {
            0 => other.min_ns,
            _ => self.min_ns.min(other.min_ns),
        };
        self.max_ns = self.max_ns.max(other.max_ns);
        self.count = self.count.saturating_add(other.count);
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        for &(bucket, more) in &other.buckets {
            match self.buckets.binary_search_by_key(&bucket, |&(at, _)| at) {
                Ok(place) => self.buckets[place].1 = self.buckets[place].1.wrapping_add(more),
                Err(place) => self.buckets.insert(place, (bucket, more)),
            }
        }
    }
}

/// In captures, all counters up to the last one that is not 0.
mod buckets {
    use concmon_ebpf::HIST_BUCKETS;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(
        buckets: &[(u8, u32)],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let used = buckets.last().map_or(0, |&(last, _)| usize::from(last) + 1);
        let mut counters = [0; HIST_BUCKETS];
        for &(bucket, counter) in buckets {
            if let Some(into) = counters.get_mut(usize::from(bucket)) {
                *into = counter;
            }
        }
        serializer.collect_seq(&counters[..used.min(HIST_BUCKETS)])
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<(u8, u32)>, D::Error> {
        let counters = Vec::<u32>::deserialize(deserializer)?;
        if counters.len() > HIST_BUCKETS {
            return Err(D::Error::invalid_length(
                counters.len(),
                &"at most 128 buckets",
            ));
        }
        let counters = (0..=u8::MAX).zip(counters);
        Ok(counters.filter(|(_, counter)| *counter != 0).collect())
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
    /// While switches were not told on purpose; and the part of it on a CPU.
    #[serde(default)]
    pub unobserved_ns: u64,
    #[serde(default)]
    pub unobserved_run_ns: u64,
    pub blocked_ns: [u64; cause::COUNT],
    pub voluntary: u64,
    pub involuntary: u64,
    pub migrations: u64,
    /// When the histograms begin, `CLOCK_MONOTONIC`; 0: with the account.
    #[serde(default)]
    pub hists_since_ns: u64,
    /// The histograms; all empty, and `off_cpu` without any, where they have not changed since they were
    /// read last.
    pub wakeup_latency: HistFact,
    pub slice: HistFact,
    #[serde(deserialize_with = "at_most::<64, _, _>")]
    pub off_cpu: Vec<HistFact>,
}
/// Nothing has run in a process since its accounts were read last, nor since `/proc` and its interpreter were: all of
/// it is now as it was then. A capture, of which the parts before may be missing, has the readings themselves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StillFact {
    pub read_ns: u64,
    pub pid: Pid,
    /// The GILs, for samples of them go on; none where there was no look.
    #[serde(deserialize_with = "at_most::<1_024, _, _>")]
    pub gils: Vec<PyGil>,
}
