//! Who ended the blocked stretches of a thread, from the slices that arrived.

use std::collections::{HashMap, HashSet, hash_map::Entry};
use std::hash::{Hash, Hasher};

use foldhash::fast::FixedState;

use super::rows;
use super::window::{Cumulative, Growth, Scope};
use crate::event::{Cause, Tid, Wait};
use crate::schema::{Process, Thread, Waker, WakerProcess};

/// Rows in a report of one thread.
const MAX_ROWS: usize = 32;
/// Pairs of waker and cause that are counted for one thread.
const MAX_PAIRS: usize = 128;
/// Of these, how many are taken along into the next window.
const KEPT_PAIRS: usize = 64;

/// A waker, if it is known, and what it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    waker: Option<Tid>,
    cause: Cause,
}

impl Hash for Pair {
    /// In one word: every slice comes by here.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let waker = self.waker.map_or(0, |tid| tid.0);
        state.write_u64(u64::from(waker) << 8 | self.cause as u64);
    }
}

/// How often, and how much blocked time, ns.
#[derive(Clone, Copy, Debug, Default)]
struct Ended {
    count: u64,
    blocked_ns: u64,
}

#[derive(Clone, Debug, Default)]
struct Table {
    pairs: HashMap<Pair, Ended, FixedState>,
    /// Stretches for which there was no room.
    left_out: u64,
    /// How often anything in it has changed.
    changes: u64,
}

impl Table {
    /// Leaves out all but the pairs with the most blocked time.
    fn keep_largest(&mut self, kept: usize) {
        if self.pairs.len() <= kept {
            return;
        }
        let sizes = self.pairs.iter();
        let mut sizes: Vec<_> = sizes
            .map(|(&pair, ended)| (ended.blocked_ns, pair))
            .collect();
        sizes.sort_by(|a, b| b.cmp(a));
        self.changes += 1;
        for (_, pair) in sizes.split_off(kept) {
            if let Some(ended) = self.pairs.remove(&pair) {
                self.left_out = self.left_out.saturating_add(ended.count);
            }
        }
    }
}

impl Growth for Table {
    fn since(&self, base: &Self) -> Self {
        if self.changes == base.changes {
            return Self::default();
        }
        let pairs = self.pairs.iter().filter_map(|(&pair, ended)| {
            let before = base.pairs.get(&pair).copied().unwrap_or_default();
            let count = ended.count.saturating_sub(before.count);
            let blocked_ns = ended.blocked_ns.saturating_sub(before.blocked_ns);
            (count > 0).then_some((pair, Ended { count, blocked_ns }))
        });
        Table {
            pairs: pairs.collect(),
            left_out: self.left_out.saturating_sub(base.left_out),
            changes: 0,
        }
    }

    fn catch_up(&mut self, now: &Self) {
        if self.changes != now.changes {
            self.pairs.clone_from(&now.pairs);
            (self.left_out, self.changes) = (now.left_out, now.changes);
        }
    }
}

/// The wakers of one thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wakers(Cumulative<Table>);

impl Wakers {
    /// Counts the wait before a slice. A block whose wakeup was not seen ended, as the ledger
    /// has it, when the thread got a CPU (`in_ns`), by nobody known. Preemptions have no waker.
    pub(crate) fn count(&mut self, wait: &Wait, in_ns: u64) {
        let Some(cause) = wait.cause else {
            return;
        };
        let table = &mut self.0.now;
        table.changes += 1;
        let waker = wait.waker;
        let pair = Pair { waker, cause };
        let has_room = table.pairs.len() < MAX_PAIRS;
        let ended = match table.pairs.entry(pair) {
            Entry::Occupied(ended) => ended.into_mut(),
            Entry::Vacant(place) if has_room => place.insert(Ended::default()),
            Entry::Vacant(_) => {
                table.left_out = table.left_out.saturating_add(1);
                return;
            }
        };
        let blocked_ns = wait.wake_ns.unwrap_or(in_ns).saturating_sub(wait.off_ns);
        ended.count = ended.count.saturating_add(1);
        ended.blocked_ns = ended.blocked_ns.saturating_add(blocked_ns);
    }

    /// The rows, largest first, and how many stretches are in none of them.
    pub(crate) fn report(&self, scope: Scope) -> (Vec<Waker>, u64) {
        let table = self.0.over(scope);
        let mut rows: Vec<_> = table.pairs.into_iter().collect();
        rows.sort_by_key(|&(pair, ended)| {
            (std::cmp::Reverse((ended.blocked_ns, ended.count)), pair)
        });
        let left_out = rows
            .iter()
            .skip(MAX_ROWS)
            .fold(table.left_out, |sum, (_, ended)| {
                sum.saturating_add(ended.count)
            });
        let rows = rows.into_iter().take(MAX_ROWS).map(|(pair, ended)| Waker {
            tid: pair.waker.map(|tid| tid.0),
            process: None,
            cause: rows::cause(pair.cause),
            count: ended.count,
            blocked_ns: ended.blocked_ns,
        });
        (rows.collect(), left_out)
    }

    /// Begins a window, with room for pairs that are new in it.
    pub(crate) fn roll(&mut self) {
        self.0.now.keep_largest(KEPT_PAIRS);
        self.0.roll();
    }

    /// Keeps no more than a report shows, for a thread that has ended.
    pub(crate) fn shrink(&mut self) {
        self.0.forget_base();
        self.0.now.keep_largest(MAX_ROWS);
    }
}

/// Says of wakers whose thread is another watched process's, whose it is.
pub(super) fn name_others(processes: &mut [Process]) {
    let mut others: HashMap<u32, Option<WakerProcess>, FixedState> = HashMap::default();
    for process in &*processes {
        let wakers = process.threads.iter().flat_map(|one| &one.wakers);
        let mut tids = wakers.filter_map(|waker| waker.tid).peekable();
        if tids.peek().is_some() {
            let own = own_tids(process);
            others.extend(tids.filter(|tid| !own.contains(tid)).map(|tid| (tid, None)));
        }
    }
    if others.is_empty() {
        return;
    }
    for process in &*processes {
        for thread in &process.threads {
            let Some(other) = others.get_mut(&thread.tid) else {
                continue;
            };
            // Of an id that was given out again, the thread that lives.
            if thread.alive || other.is_none() {
                let name = thread.name.as_ref().or(thread.comm.as_ref());
                *other = Some(WakerProcess {
                    pid: process.pid,
                    title: process.title.clone(),
                    name: name.map(|name| (**name).to_owned()),
                });
            }
        }
    }
    for process in processes {
        let wakes = |thread: &Thread| thread.wakers.iter().any(|waker| waker.tid.is_some());
        if !process.threads.iter().any(wakes) {
            continue;
        }
        let own = own_tids(process);
        for waker in process.threads.iter_mut().flat_map(|one| &mut one.wakers) {
            let tid = waker.tid.filter(|tid| !own.contains(tid));
            waker.process = tid.and_then(|tid| others.get(&tid)?.clone());
        }
    }
}

fn own_tids(process: &Process) -> HashSet<u32, FixedState> {
    process.threads.iter().map(|thread| thread.tid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(waker: Option<u32>, cause: Cause, off_ns: u64, wake_ns: Option<u64>) -> Wait {
        Wait {
            off_ns,
            wake_ns,
            cause: Some(cause),
            queue: true,
            arg0: 0,
            waker: waker.map(Tid),
        }
    }

    #[test]
    fn rows_by_waker_and_cause_in_each_window() {
        let mut wakers = Wakers::default();
        wakers.count(&wait(Some(7), Cause::Gil, 10, Some(30)), 35);
        wakers.count(&wait(Some(7), Cause::Gil, 50, Some(55)), 56);
        wakers.count(&wait(None, Cause::Sleep, 0, None), 100);
        let row = |tid, ended, count, blocked_ns| Waker {
            tid,
            process: None,
            cause: rows::cause(ended),
            count,
            blocked_ns,
        };
        let first = vec![
            row(None, Cause::Sleep, 1, 100),
            row(Some(7), Cause::Gil, 2, 25),
        ];
        assert_eq!(wakers.report(Scope::Window), (first.clone(), 0));
        wakers.roll();
        wakers.count(&wait(Some(7), Cause::Gil, 60, Some(61)), 61);
        assert_eq!(
            wakers.report(Scope::Window),
            (vec![row(Some(7), Cause::Gil, 1, 1)], 0)
        );
        let whole = vec![
            row(None, Cause::Sleep, 1, 100),
            row(Some(7), Cause::Gil, 3, 26),
        ];
        assert_eq!(wakers.report(Scope::Whole), (whole, 0));
    }

    #[test]
    fn is_bounded_and_says_so() {
        let mut wakers = Wakers::default();
        for tid in 0..1_000u32 {
            wakers.count(&wait(Some(tid), Cause::Lock, 0, Some(u64::from(tid))), 0);
        }
        for round in 0..2 {
            let (rows, left_out) = wakers.report(Scope::Whole);
            assert_eq!((rows.len(), left_out), (32, 968), "round {round}");
            assert_eq!(rows[0].tid, Some(127));
            wakers.shrink();
        }
    }

    #[test]
    fn each_window_has_room_for_new_wakers() {
        let mut wakers = Wakers::default();
        for window in 0..50u32 {
            for tid in 0..20 {
                wakers.count(&wait(Some(window * 20 + tid), Cause::Lock, 0, Some(10)), 0);
            }
            let (rows, left_out) = wakers.report(Scope::Window);
            assert_eq!((rows.len(), left_out), (20, 0), "window {window}");
            let (rows, left_out) = wakers.report(Scope::Whole);
            let seen = u64::from(window + 1) * 20;
            assert_eq!(rows.len() as u64 + left_out, seen);
            wakers.roll();
        }
    }

    #[test]
    fn nonsense_does_not_panic() {
        let mut wakers = Wakers::default();
        for _ in 0..2 {
            wakers.count(&wait(None, Cause::Io, u64::MAX, Some(0)), 0);
            wakers.count(&wait(None, Cause::Io, 0, Some(u64::MAX)), 0);
        }
        assert_eq!(wakers.report(Scope::Whole).0[0].blocked_ns, u64::MAX);
    }
}
