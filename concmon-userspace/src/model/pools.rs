//! Work of thread pools that probes have counted.

use std::collections::{BTreeMap, VecDeque};

use super::add::Add;
use super::delta::WorkDelta;
use super::rows::UNSEEN;
use super::window::{Clock, Cumulative, Growth, Scope, limit};
use crate::event::{PoolCounts, PoolsFact, PythonFact};
use crate::schema::{self, Address, CountedPool, Executor};

/// Pools that are kept; the kernel programs keep as many for all processes together.
const MAX_POOLS: usize = 4_096;
/// Whoever asks for an exception this soon is not to be blamed, ns.
const PATIENCE_NS: u64 = 10_000_000_000;
/// Readings that are kept for that.
const MAX_READINGS: usize = 128;

/// What was counted of a pool.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkCounts {
    pub(crate) submitted: u64,
    pub(crate) failed: u64,
    pub(crate) unretrieved: u64,
    /// Why the counts may be too low; `None`: they are not.
    pub(crate) doubt: Option<String>,
}

impl Executor {
    /// With what probes have counted.
    pub(crate) fn counted(mut self, counts: WorkCounts) -> Self {
        let WorkCounts {
            submitted,
            failed,
            unretrieved,
            doubt,
        } = counts;
        self.submitted = Some(submitted);
        self.failed = Some(failed);
        self.unretrieved = Some(unretrieved);
        let counted = ["submitted", "failed", "unretrieved"];
        self.limits
            .retain(|limit| !counted.contains(&limit.field.as_ref()));
        for limit in &mut self.limits {
            if limit.field == "finished" {
                limit.reason = "what ends well passes no probe".into();
            }
        }
        self.limits.push(limit("unretrieved", UNSEEN));
        self.limits
            .extend(doubt.map(|reason| limit("submitted", reason)));
        self
    }
}

/// What only grows.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    submitted: u64,
    failed: u64,
    silent: u64,
}

impl Growth for Sums {
    fn since(&self, base: &Self) -> Self {
        Self {
            submitted: self.submitted - base.submitted,
            failed: self.failed - base.failed,
            silent: self.silent - base.silent,
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Pool {
    name_prefix: Option<String>,
    sums: Cumulative<Sums>,
    unretrieved: u64,
    /// Failures that were kept by an instant, the oldest first.
    readings: VecDeque<(u64, u64)>,
}

impl Pool {
    fn take(&mut self, read_ns: u64, counts: &PoolCounts) {
        let now = &mut self.sums.now;
        now.submitted = now.submitted.max(counts.submitted);
        now.failed = now.failed.max(counts.failed);
        self.unretrieved = counts.kept.saturating_sub(counts.retrieved);
        let is_old = |(at_ns, _): &(u64, u64)| read_ns.saturating_sub(*at_ns) >= PATIENCE_NS;
        // The newest of the old ones is what counts.
        while self.readings.get(1).is_some_and(is_old) {
            self.readings.pop_front();
        }
        // However those that were asked for are spread, so many of the old ones were not.
        let old = self.readings.front().filter(|first| is_old(first));
        let waiting = old.map_or(0, |(_, kept)| kept.saturating_sub(counts.retrieved));
        now.silent = now
            .silent
            .max(counts.dropped.min(self.unretrieved))
            .max(waiting);
        let is_due = |(at_ns, _): &(u64, u64)| {
            read_ns.saturating_sub(*at_ns) >= PATIENCE_NS / MAX_READINGS as u64
        };
        if self.readings.back().is_none_or(is_due) {
            self.readings.push_back((read_ns, counts.kept));
        }
    }
}

/// The thread pools of one process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pools {
    /// Since when they are counted, or why they are not; `None`: not asked for.
    since: Option<Result<u64, String>>,
    /// By the queue.
    pools: BTreeMap<u64, Pool>,
    missed: u64,
}

impl Pools {
    pub(crate) fn take(&mut self, fact: &PoolsFact) {
        self.since = Some(fact.since.clone());
        self.missed = self.missed.max(fact.missed);
        for counts in &fact.pools {
            if self.pools.len() < MAX_POOLS || self.pools.contains_key(&counts.queue) {
                let pool = self.pools.entry(counts.queue).or_default();
                pool.take(fact.read_ns, counts);
            }
        }
    }

    /// Learns names.
    pub(crate) fn look(&mut self, look: &PythonFact) {
        for executor in &look.executors {
            let has_room = self.pools.len() < MAX_POOLS || self.pools.contains_key(&executor.queue);
            if executor.queue != 0 && executor.name_prefix.is_some() && has_room {
                let pool = self.pools.entry(executor.queue).or_default();
                pool.name_prefix.clone_from(&executor.name_prefix);
            }
        }
    }

    pub(crate) fn roll(&mut self) {
        for pool in self.pools.values_mut() {
            pool.sums.roll();
        }
    }

    /// Adds what was counted in the window.
    pub(crate) fn add_to(&self, delta: &mut WorkDelta) {
        delta.counted |= matches!(self.since, Some(Ok(_)));
        for pool in self.pools.values() {
            let grown = pool.sums.over(Scope::Window);
            delta.submitted.add(&grown.submitted);
            delta.failed.add(&grown.failed);
            delta.silent.add(&grown.silent);
        }
    }

    fn doubt(&self) -> Option<String> {
        let missed = self.missed;
        (missed > 0).then(|| {
            format!("{missed} events found no room or could not be read, in this process or another: counts may be too low")
        })
    }

    /// What was counted of the pool with this queue; `None`: nothing is counted.
    pub(crate) fn counts(&self, queue: u64, scope: Scope) -> Option<WorkCounts> {
        let Some(Ok(_)) = self.since else {
            return None;
        };
        let pool = self.pools.get(&queue);
        let sums = pool.map(|pool| pool.sums.over(scope)).unwrap_or_default();
        Some(WorkCounts {
            submitted: sums.submitted,
            failed: sums.failed,
            unretrieved: pool.map_or(0, |pool| pool.unretrieved),
            doubt: self.doubt(),
        })
    }

    /// All that was counted, pools that are gone included.
    pub(crate) fn row(&self, scope: Scope, clock: &Clock) -> Option<schema::Pools> {
        let since = self.since.as_ref()?;
        let mut rows: Vec<CountedPool> = self
            .pools
            .iter()
            .map(|(&queue, pool)| {
                let sums = pool.sums.over(scope);
                CountedPool {
                    queue: (queue != 0).then_some(Address(queue)),
                    name_prefix: pool.name_prefix.clone(),
                    submitted: sums.submitted,
                    failed: sums.failed,
                    unretrieved: pool.unretrieved,
                    silent: sums.silent,
                }
            })
            .collect();
        rows.sort_by(|one, other| (other.submitted, one.queue).cmp(&(one.submitted, other.queue)));
        let mut limits = match since {
            Ok(_) => vec![limit("rows.unretrieved", UNSEEN)],
            Err(reason) => ["since_unix_ns", "rows"]
                .map(|field| limit(field, reason.to_owned()))
                .into(),
        };
        let says_nothing = |row: &CountedPool| row.queue.is_none() || row.name_prefix.is_none();
        if rows.iter().any(says_nothing) {
            let reason = "a pool that no look has met, or without a name";
            limits.push(limit("rows.queue", reason));
            limits.push(limit("rows.name_prefix", reason));
        }
        limits.extend(self.doubt().map(|reason| limit("rows", reason)));
        let was_counted = since.is_ok();
        Some(schema::Pools {
            since_unix_ns: since.as_ref().ok().map(|ns| clock.unix_of(*ns)),
            rows: was_counted.then_some(rows),
            limits,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(kept: u64, retrieved: u64, dropped: u64) -> PoolCounts {
        PoolCounts {
            queue: 9,
            submitted: kept,
            failed: kept,
            kept,
            retrieved,
            dropped,
        }
    }

    #[test]
    fn what_waits_too_long_is_silent() {
        const SECOND: u64 = 1_000_000_000;
        let mut pool = Pool::default();
        pool.take(SECOND, &counts(5, 0, 0));
        pool.take(10 * SECOND, &counts(5, 0, 0));
        assert_eq!(pool.sums.now.silent, 0);
        pool.take(11 * SECOND, &counts(9, 3, 0));
        assert_eq!((pool.sums.now.silent, pool.unretrieved), (2, 6));
        // Those of late are not old, whoever is asked for.
        pool.take(12 * SECOND, &counts(9, 9, 0));
        assert_eq!((pool.sums.now.silent, pool.unretrieved), (2, 0));
    }

    #[test]
    fn what_is_gone_is_silent_at_once() {
        let mut pool = Pool::default();
        pool.take(1, &counts(100, 0, 99));
        assert_eq!((pool.sums.now.silent, pool.unretrieved), (99, 100));
    }
}
