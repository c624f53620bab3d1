//! Who held the GIL when, from observed hand-overs.
//!
//! Whoever drops the GIL while somebody waits for it wakes a waiter. So the waker held it up to the
//! wakeup, from when it had last begun to run: a block gives the GIL up. Where the victim waited
//! through a block of the waker without being woken, the block did not give it up (a C extension
//! that sleeps with it), and the hold began before. No hold begins before the one before it ended.

use std::collections::BTreeMap;

use super::waits::{Began, Piece, Threads};
use crate::event::Tid;

/// Wakeups kept until the slice of the waker comes.
const MAX_WAKEUPS: usize = 65_536;
/// Holds that are kept.
const MAX_HOLDS: usize = 131_072;
/// Of those that looks have seen.
const MAX_LOOKS: usize = 64;

/// Somebody who waited for the GIL was woken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wakeup {
    pub(super) waker: Tid,
    pub(super) wake_ns: u64,
    /// When the wait that it ended had begun.
    pub(super) wait_from_ns: u64,
}

/// A stretch in which a thread held the GIL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) tid: Tid,
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
}

/// A hold whose beginning depends on where the one before it ended.
#[derive(Clone, Copy, Debug)]
struct Raw {
    tid: Tid,
    first_ns: u64,
    last_ns: u64,
    to_ns: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Timeline {
    /// By waker, of whom no slice has told yet.
    wakeups: BTreeMap<Tid, Vec<Wakeup>>,
    waiting: usize,
    /// Not in order yet.
    fresh: Vec<Raw>,
    /// In order of their ends, which they do not overlap with.
    raw: Vec<Raw>,
    holds: Vec<Hold>,
    /// Seen by looks, in order of time.
    seen: Vec<Hold>,
}

impl Timeline {
    /// Takes a wakeup of somebody who waited for the GIL.
    pub(super) fn wakeup(&mut self, wakeup: Wakeup, threads: &Threads) {
        if !self.resolve(wakeup, threads) && self.waiting < MAX_WAKEUPS {
            self.wakeups.entry(wakeup.waker).or_default().push(wakeup);
            self.waiting += 1;
        }
    }

    /// A slice of `tid` has come that ends at `out_ns`.
    pub(super) fn ran(&mut self, tid: Tid, out_ns: u64, threads: &Threads) {
        let Some(wakeups) = self.wakeups.get_mut(&tid) else {
            return;
        };
        if wakeups.iter().all(|wakeup| wakeup.wake_ns > out_ns) {
            return;
        }
        let wakeups = std::mem::take(wakeups);
        self.waiting -= wakeups.len();
        let mut left = Vec::new();
        for wakeup in wakeups {
            if !self.resolve(wakeup, threads) {
                left.push(wakeup);
            }
        }
        self.waiting += left.len();
        if left.is_empty() {
            self.wakeups.remove(&tid);
        } else {
            self.wakeups.insert(tid, left);
        }
    }

    /// Two looks found the GIL untouched by others between them.
    pub(super) fn seen_holding(&mut self, hold: Hold) {
        if self.seen.len() >= MAX_LOOKS {
            self.seen.remove(0);
        }
        self.seen.push(hold);
    }

    /// `false`: the slice of the waker has not come yet.
    fn resolve(&mut self, wakeup: Wakeup, threads: &Threads) -> bool {
        let Wakeup {
            waker,
            wake_ns,
            wait_from_ns,
        } = wakeup;
        match threads.began(waker, wake_ns, wait_from_ns) {
            Began::NotYet => return false,
            Began::Lost => {}
            Began::At { last_ns, first_ns } => {
                if self.fresh.len() < MAX_HOLDS {
                    self.fresh.push(Raw {
                        tid: waker,
                        first_ns,
                        last_ns,
                        to_ns: wake_ns,
                    });
                }
            }
        }
        true
    }

    /// Puts everything in order, and gives up wakeups before `expired_ns`. Up to the instant that is
    /// returned, all hand-overs that were seen are known.
    pub(super) fn settle(&mut self, expired_ns: u64) -> u64 {
        let mut known_ns = u64::MAX;
        let mut waiting = 0;
        self.wakeups.retain(|_, wakeups| {
            wakeups.retain(|wakeup| wakeup.wake_ns > expired_ns);
            let first = wakeups.iter().map(|wakeup| wakeup.wake_ns).min();
            known_ns = known_ns.min(first.unwrap_or(u64::MAX));
            waiting += wakeups.len();
            !wakeups.is_empty()
        });
        self.waiting = waiting;
        if !self.fresh.is_empty() {
            self.raw.append(&mut self.fresh);
            self.raw.sort_by_key(|raw| (raw.to_ns, raw.tid));
            self.lay_out();
        }
        known_ns
    }

    fn lay_out(&mut self) {
        self.holds.clear();
        let mut free_ns = 0;
        for raw in &self.raw {
            let from_ns = match raw.first_ns >= free_ns {
                true => raw.first_ns,
                false => raw.last_ns.max(free_ns),
            };
            if from_ns < raw.to_ns {
                self.holds.push(Hold {
                    tid: raw.tid,
                    from_ns,
                    to_ns: raw.to_ns,
                });
            }
            free_ns = raw.to_ns;
        }
    }

    /// Shares a piece of `victim`'s waiting among those who held the GIL meanwhile; `None` is for
    /// what nobody is known to have held it. What has expired is also compared with looks.
    pub(super) fn charge(
        &self,
        victim: Tid,
        piece: Piece,
        expired: bool,
        mut part: impl FnMut(Option<Tid>, u64),
    ) {
        let whole_ns = piece.ns();
        let mut left_ns = whole_ns;
        let mut share = |holds: &[Hold], left_ns: &mut u64| {
            let first = holds.partition_point(|hold| hold.to_ns <= piece.from_ns);
            for hold in &holds[first..] {
                if hold.from_ns >= piece.to_ns {
                    break;
                }
                let from_ns = hold.from_ns.max(piece.from_ns);
                let ns = hold.to_ns.min(piece.to_ns).saturating_sub(from_ns);
                // Nobody waits for itself.
                if ns > 0 && hold.tid != victim {
                    let ns = ns.min(*left_ns);
                    *left_ns -= ns;
                    part(Some(hold.tid), ns);
                }
            }
        };
        share(&self.holds, &mut left_ns);
        if expired && left_ns == whole_ns {
            share(&self.seen, &mut left_ns);
        }
        if left_ns > 0 {
            part(None, left_ns);
        }
    }

    /// Forgets what ended before `oldest_ns`; `None`: nothing is waited for.
    pub(super) fn forget(&mut self, oldest_ns: Option<u64>) {
        let oldest_ns = oldest_ns.unwrap_or(u64::MAX);
        let old = self.raw.partition_point(|raw| raw.to_ns < oldest_ns);
        // The last one stays: the next does not begin before its end.
        let old = old
            .min(self.raw.len().saturating_sub(1))
            .max(self.raw.len().saturating_sub(MAX_HOLDS));
        if old > 0 {
            self.raw.drain(..old);
            self.lay_out();
        }
    }
}
