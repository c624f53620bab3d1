//! Who held the GIL when, from what threads did around it.
//!
//! - Whoever drops the GIL while somebody waits for it wakes a waiter: the waker held it up to the
//!   wakeup, from when it had last begun to run, for a block gives the GIL up.
//! - Whoever was made to drop it waits until another thread has taken it: it held it up to then.
//! - Whoever runs after a wait for it has it at first. How long, only the above tells; at most until
//!   it blocks, or until another thread has it.
//!
//! No hold begins before the one before it ended. While somebody waits, the GIL does not change hands
//! without one of these: so from the beginning of a wait it was held by who is next known to have
//! held it, even when that one was blocked meanwhile (a C extension that sleeps with the GIL), but
//! not when it waited for the GIL itself.

use std::collections::BTreeMap;

use super::waits::{Began, Piece, Reach, Threads, Waits};
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
    /// The wait, and up to where the wakeup explains it.
    pub(super) wait: u64,
    pub(super) to_ns: u64,
}

/// A piece of a wait, to be shared among those who held the GIL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waited {
    pub(super) victim: Tid,
    /// Where the wait begins.
    pub(super) from_ns: u64,
    pub(super) piece: Piece,
    /// Nobody will tell any more who held the GIL.
    pub(super) expired: bool,
}

/// A stretch in which a thread held the GIL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) tid: Tid,
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
    /// It may have begun before: the thread had not waited for the GIL.
    pub(super) earlier: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Timeline {
    /// By waker, of whom no slice has told yet.
    wakeups: BTreeMap<Tid, Vec<Wakeup>>,
    waiting: usize,
    /// Holds whose end is known, in order of their ends where they are `sorted`.
    ended: Vec<Hold>,
    /// Runs after waits, whose holds ended at some time, in order of their beginnings.
    runs: Vec<Hold>,
    sorted: bool,
    /// Those whose end is known, none overlapping.
    hard: Vec<Hold>,
    /// With the runs between them.
    holds: Vec<Hold>,
    /// Seen by looks, in order of time.
    seen: Vec<Hold>,
}

impl Timeline {
    /// Takes a wakeup of somebody who waited for the GIL.
    pub(super) fn wakeup(&mut self, wakeup: Wakeup, threads: &Threads, waits: &mut Waits) {
        if !self.resolve(wakeup, threads, waits) && self.waiting < MAX_WAKEUPS {
            self.wakeups.entry(wakeup.waker).or_default().push(wakeup);
            self.waiting += 1;
        }
    }

    /// More is known of `tid`, up to `out_ns`.
    pub(super) fn arrived(&mut self, tid: Tid, out_ns: u64, threads: &Threads, waits: &mut Waits) {
        let Some(wakeups) = self.wakeups.get_mut(&tid) else {
            return;
        };
        if wakeups.iter().all(|wakeup| wakeup.wake_ns > out_ns) {
            return;
        }
        let mut left = std::mem::take(wakeups);
        let before = left.len();
        left.retain(|wakeup| !self.resolve(*wakeup, threads, waits));
        self.waiting -= before - left.len();
        if left.is_empty() {
            self.wakeups.remove(&tid);
        } else {
            self.wakeups.insert(tid, left);
        }
    }

    /// The thread was made to drop the GIL at `to_ns`; it had run since `from_ns`.
    pub(super) fn dropped(&mut self, tid: Tid, from_ns: u64, to_ns: u64) {
        self.end(Hold {
            tid,
            from_ns,
            to_ns,
            earlier: false,
        });
    }

    /// The thread ran after a wait for the GIL.
    pub(super) fn ran(&mut self, tid: Tid, run: Piece) {
        if self.runs.len() < MAX_HOLDS {
            self.sorted = false;
            self.runs.push(Hold {
                tid,
                from_ns: run.from_ns,
                to_ns: run.to_ns,
                earlier: false,
            });
        }
    }

    /// A look found the GIL held, or two looks found it untouched by others between them.
    pub(super) fn seen_holding(&mut self, hold: Hold) {
        if self.seen.len() >= MAX_LOOKS {
            self.seen.remove(0);
        }
        self.seen.push(hold);
    }

    fn end(&mut self, hold: Hold) {
        if self.ended.len() < MAX_HOLDS {
            self.sorted = false;
            self.ended.push(hold);
        }
    }

    /// `false`: the slice of the waker has not come yet.
    fn resolve(&mut self, wakeup: Wakeup, threads: &Threads, waits: &mut Waits) -> bool {
        match threads.began(wakeup.waker, wakeup.wake_ns) {
            Began::NotYet => return false,
            Began::NeverHad | Began::Lost => {}
            Began::At { ns, after_gil } => {
                waits.handed_over(wakeup.wait, wakeup.to_ns);
                self.end(Hold {
                    tid: wakeup.waker,
                    from_ns: ns,
                    to_ns: wakeup.wake_ns,
                    earlier: !after_gil,
                });
            }
        }
        true
    }

    /// Puts everything in order, and gives up wakeups before `expired_ns`.
    pub(super) fn settle(&mut self, expired_ns: u64) -> Reach {
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
        if !self.sorted {
            self.lay_out();
        }
        Reach {
            complete_ns: known_ns,
            explained_ns: self.hard.last().map_or(0, |hold| hold.to_ns),
        }
    }

    fn lay_out(&mut self) {
        self.sorted = true;
        self.ended.sort_by_key(|hold| (hold.to_ns, hold.tid));
        self.runs.sort_by_key(|run| (run.from_ns, run.tid));
        self.hard.clear();
        let (mut free_ns, mut runs) = (0, self.runs.iter().peekable());
        for hold in &self.ended {
            let mut from_ns = hold.from_ns.max(free_ns);
            while let Some(run) = runs.next_if(|run| run.from_ns < from_ns) {
                // It was blocked since then, and nobody was told to go on.
                if hold.earlier && run.tid == hold.tid && run.from_ns >= free_ns {
                    from_ns = run.from_ns;
                }
            }
            if from_ns < hold.to_ns {
                self.hard.push(Hold { from_ns, ..*hold });
            }
            free_ns = hold.to_ns;
        }
        self.holds.clear();
        let mut ended = self.hard.iter().copied().peekable();
        for (index, run) in self.runs.iter().enumerate() {
            let until = |hold: &Hold| hold.to_ns <= run.from_ns;
            while let Some(hold) = ended.next_if(until) {
                self.holds.push(hold);
            }
            // Whoever has it next is not before it.
            let others_ns = ended.peek().map_or(u64::MAX, |hold| hold.from_ns);
            let next_ns = self
                .runs
                .get(index + 1)
                .map_or(u64::MAX, |next| next.from_ns);
            let to_ns = run.to_ns.min(others_ns).min(next_ns);
            if run.from_ns < to_ns {
                self.holds.push(Hold { to_ns, ..*run });
            }
        }
        self.holds.extend(ended);
    }

    /// Shares what `waited` tells among those who held the GIL meanwhile; `None` is for what nobody
    /// is known to have held it, wherever in the piece. What has expired is also compared with looks.
    pub(super) fn charge(&self, waited: Waited, mut part: impl FnMut(Option<Tid>, Piece)) {
        let Waited { victim, piece, .. } = waited;
        let whole_ns = piece.ns();
        let mut left_ns = whole_ns;
        let mut share = |hold: &Hold, left_ns: &mut u64| {
            let from_ns = hold.from_ns.max(piece.from_ns);
            let ns = hold.to_ns.min(piece.to_ns).saturating_sub(from_ns);
            // Nobody waits for itself.
            if ns > 0 && hold.tid != victim {
                let ns = ns.min(*left_ns);
                *left_ns -= ns;
                let to_ns = from_ns + ns;
                part(Some(hold.tid), Piece { from_ns, to_ns });
            }
        };
        let mut after_ns = piece.from_ns;
        if let Some(hold) = self.hard.get(first_after(&self.hard, waited.from_ns))
            && hold.earlier
            && hold.from_ns > piece.from_ns
        {
            after_ns = hold.from_ns;
            let before = Hold {
                from_ns: waited.from_ns,
                to_ns: hold.from_ns,
                ..*hold
            };
            share(&before, &mut left_ns);
        }
        for hold in &self.holds[first_after(&self.holds, after_ns)..] {
            if hold.from_ns >= piece.to_ns {
                break;
            }
            let from_ns = hold.from_ns.max(after_ns);
            share(&Hold { from_ns, ..*hold }, &mut left_ns);
        }
        if waited.expired && left_ns == whole_ns {
            let mut from_ns = waited.from_ns;
            for seen in &self.seen {
                // Since the last hand-over before it, nobody else can have had it.
                let before = first_after(&self.hard, seen.to_ns).checked_sub(1);
                let free_ns = before.map_or(0, |index| self.hard[index].to_ns);
                from_ns = from_ns.max(free_ns);
                share(&Hold { from_ns, ..*seen }, &mut left_ns);
                from_ns = from_ns.max(seen.to_ns);
            }
        }
        if left_ns > 0 {
            let from_ns = piece.to_ns - left_ns;
            part(None, Piece { from_ns, ..piece });
        }
    }

    /// Forgets what ended before `oldest_ns`, the beginning of the first wait that is not booked;
    /// `None`: there is none.
    pub(super) fn forget(&mut self, oldest_ns: Option<u64>) {
        let oldest_ns = oldest_ns.unwrap_or(u64::MAX);
        let old = self.ended.partition_point(|hold| hold.to_ns < oldest_ns);
        // The last one stays: the next does not begin before its end.
        let old = old
            .min(self.ended.len().saturating_sub(1))
            .max(self.ended.len().saturating_sub(MAX_HOLDS / 2));
        self.ended.drain(..old);
        let excess = self.runs.len().saturating_sub(MAX_HOLDS / 2);
        self.runs.drain(..excess);
        self.runs.retain(|run| run.to_ns >= oldest_ns);
        if old > 0 {
            self.lay_out();
        }
    }
}

/// The first hold that ends after an instant.
fn first_after(holds: &[Hold], ns: u64) -> usize {
    holds.partition_point(|hold| hold.to_ns <= ns)
}
