//! The account of a report has the last word: time by stack is made to add up to it.
//!
//! Slices are what the accounts consist of, but not all of them are told: what a thread did when its account was
//! opened, what was lost, what a reading took for time on a CPU before it turned out stolen. What is missing of a
//! column is under no frame; what is too much is taken from what has no stack, then from all stacks alike.

use std::collections::BTreeMap;

use super::{ACTIVITIES, Activity, Intervals};
use crate::event::{Cause, Pid, Tid};
use crate::model::thread::PROC_TICK_NS;
use crate::schema::{LedgerSum, Snapshot};

/// What the intervals of a thread lack of a column of its account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction {
    /// Index in [`Threads`](super::Threads).
    pub thread: usize,
    /// [`Activity::Unseen`] for the account's time that is unknown.
    pub activity: Activity,
    /// Below 0: they have more than the account.
    pub ns: i64,
}

/// Time by the [number](Activity::number) of the activity.
type Sums = [u64; ACTIVITIES];

fn add(sums: &mut Sums, ledger: &LedgerSum) {
    for activity in Activity::all() {
        let blocked = &ledger.blocked_ns;
        let ns = match activity {
            Activity::OnCpu => ledger.on_cpu_ns,
            Activity::Runnable => ledger.runnable_ns,
            Activity::Blocked(Cause::Gil) => blocked.gil,
            Activity::Blocked(Cause::Lock) => blocked.lock,
            Activity::Blocked(Cause::Poll) => blocked.poll,
            Activity::Blocked(Cause::Sleep) => blocked.sleep,
            Activity::Blocked(Cause::Io) => blocked.io,
            Activity::Blocked(Cause::Child) => blocked.child,
            Activity::Blocked(Cause::Disk) => blocked.disk,
            Activity::Blocked(Cause::Stopped) => blocked.stopped,
            Activity::Blocked(Cause::Other) => blocked.other,
            Activity::Unseen => ledger.unknown_ns,
        };
        let sum = &mut sums[activity.number()];
        *sum = sum.saturating_add(ns);
    }
}

impl Intervals {
    /// Makes time by stack add up to the summary of the same watch, thread by thread where it has rows of them, else
    /// all others together. Gives what was changed. To be called once, when all is [finished](Intervals::finish).
    pub fn settle(&mut self, summary: &Snapshot) -> Vec<Correction> {
        let mut rows: BTreeMap<(Pid, Tid), Vec<(u64, Sums)>> = BTreeMap::new();
        let mut others: Sums = [0; ACTIVITIES];
        for process in &summary.processes {
            for thread in &process.threads {
                let id = (Pid(process.pid), Tid(thread.tid));
                let mut sums: Sums = [0; ACTIVITIES];
                add(&mut sums, &thread.ledger);
                let of_id = rows.entry(id).or_default();
                of_id.push((thread.started_unix_ns, sums));
            }
            add(&mut others, &process.ended.ledger);
        }
        for group in &summary.groups {
            add(&mut others, &group.ended.ledger);
        }
        let mut known: BTreeMap<(Pid, Tid), Vec<usize>> = BTreeMap::new();
        for (at, thread) in self.threads.iter().enumerate() {
            known.entry((thread.pid, thread.tid)).or_default().push(at);
        }
        let mut have: BTreeMap<(usize, Activity), u64> = BTreeMap::new();
        for (thread, activity, _, ns) in self.flames.weights() {
            let sum = have.entry((thread, activity)).or_default();
            *sum = sum.saturating_add(ns);
        }
        let mut corrections = Vec::new();
        let mut rest: Vec<usize> = Vec::new();
        for (id, mut rows) in rows {
            let mut holders = known.remove(&id).unwrap_or_default();
            let is_only = rows.len() == 1 && holders.len() == 1;
            // One whose start is not known is the newest.
            rows.sort_by_key(|(started_unix_ns, _)| std::cmp::Reverse(*started_unix_ns));
            for (started_unix_ns, want) in rows {
                let is_its = |at: &mut usize| is_only || self.started(*at, started_unix_ns);
                let of: Vec<usize> = holders.extract_if(.., is_its).collect();
                if of.is_empty() {
                    // There was no room for it.
                    (0..ACTIVITIES).for_each(|at| others[at] = others[at].saturating_add(want[at]));
                }
                self.fit(&of, &want, &have, &mut corrections);
            }
            // Those who had the id before have ended.
            rest.append(&mut holders);
        }
        rest.extend(known.into_values().flatten());
        let lacks = |activity: Activity| {
            let had = rest
                .iter()
                .filter_map(|thread| have.get(&(*thread, activity)));
            others[activity.number()] > had.fold(0, |sum, ns| sum.saturating_add(*ns))
        };
        if Activity::all().any(lacks) {
            rest.push(self.threads.others());
        }
        self.fit(&rest, &others, &have, &mut corrections);
        corrections.sort_by_key(|correction| correction.thread);
        corrections
    }

    /// Whether a thread started then, as far as its start is known and the resolution of `/proc` tells.
    fn started(&self, thread: usize, unix_ns: u64) -> bool {
        let start_boottime_ns = self.threads.start_boottime_ns(thread);
        start_boottime_ns.is_none_or(|start_ns| {
            self.clock.unix_of_boottime(start_ns).abs_diff(unix_ns) < PROC_TICK_NS
        })
    }

    /// Makes the time of these threads `want`; what they lack gets the last one.
    fn fit(
        &mut self,
        threads: &[usize],
        want: &Sums,
        have: &BTreeMap<(usize, Activity), u64>,
        corrections: &mut Vec<Correction>,
    ) {
        let Some(&last) = threads.last() else { return };
        for activity in Activity::all() {
            let want = want[activity.number()];
            let of = |thread: &usize| have.get(&(*thread, activity)).copied().unwrap_or(0);
            let all: u128 = threads.iter().map(|thread| u128::from(of(thread))).sum();
            let mut correct = |thread, ns: i128| {
                let ns = ns.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
                if ns != 0 {
                    corrections.push(Correction {
                        thread,
                        activity,
                        ns,
                    });
                }
            };
            if let Some(lack) = u128::from(want).checked_sub(all) {
                let lack = u64::try_from(lack).unwrap_or(u64::MAX);
                self.flames.grow(last, activity, lack);
                correct(last, i128::from(lack));
                continue;
            }
            let excess = all - u128::from(want);
            let mut left = excess;
            for thread in threads {
                let own = u128::from(of(thread));
                // Where the product is beyond all measure, the first ones give what they have.
                let share = own.checked_mul(excess);
                let share = share.map_or(own, |product| product.div_ceil(all));
                let share = share.min(left);
                self.flames.shrink(*thread, activity, share as u64);
                correct(*thread, -(share as i128));
                left -= share;
            }
        }
    }
}
