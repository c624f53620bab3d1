//! The waits of each thread, cut out of its slices.

use std::collections::{BTreeMap, HashMap, VecDeque};

use foldhash::fast::FixedState;

use super::Parts;
use crate::event::{Cause, Slice, Tid, Wait};

/// Less than this on a CPU between two blocks on the GIL does not end a wait, ns.
const SHORT_RUN_NS: u64 = 200_000;
/// No block is longer, ns: 13 days.
const LONGEST_NS: u64 = 1 << 50;
/// A run that ended so long before a block, ns, is not the one before it: that was not told.
const SLACK_NS: u64 = 10_000;
/// Runs that are remembered of one thread.
const MAX_RUNS: usize = 64;
/// Preempted stretches that are kept until it is known whether the wait goes on.
const MAX_HELD_BACK: usize = 16;

/// A stretch of waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) from_ns: u64,
    pub(super) to_ns: u64,
}

impl Piece {
    pub(super) fn ns(self) -> u64 {
        self.to_ns.saturating_sub(self.from_ns)
    }
}

/// How far it is known who held the GIL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    /// Up to here, all hand-overs that were seen are in it.
    pub(super) complete_ns: u64,
    /// The last of them.
    pub(super) explained_ns: u64,
}

/// What a slice told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Told {
    /// The block on the GIL before it.
    pub(super) block: Option<Block>,
    /// A run after a wait for the GIL has ended: it had the GIL at its beginning.
    pub(super) ran: Option<Piece>,
}

/// A block on the GIL, with the runnable time directly after it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pub(super) wait: u64,
    pub(super) from_ns: u64,
    /// Where the run before it began; `None`: it was not seen.
    pub(super) run_ns: Option<u64>,
    /// Where it follows without a gap on what came before in the same wait.
    pub(super) joined_ns: u64,
    pub(super) to_ns: u64,
    pub(super) blocked_ns: u64,
    pub(super) waker: Option<Tid>,
    pub(super) wake_ns: Option<u64>,
    pub(super) futex: u64,
}

/// On a CPU, or only kept from it by others, between two blocks.
#[derive(Clone, Copy, Debug)]
struct Cycle {
    in_ns: u64,
    out_ns: u64,
    /// It had been blocked on the GIL before: until then it did not hold it.
    after_gil: bool,
    /// Its wait for the GIL went on after it.
    waiting: bool,
    told: bool,
}

/// A wait that may go on.
#[derive(Clone, Debug)]
struct Open {
    wait: u64,
    to_ns: u64,
    /// On a CPU since the last block.
    run_ns: u64,
    /// Preempted since the last block.
    held_back: Vec<Piece>,
}

#[derive(Clone, Debug, Default)]
struct Thread {
    cycles: VecDeque<Cycle>,
    out_ns: u64,
    open: Option<Open>,
}

/// When a thread that handed the GIL over had begun to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Began {
    /// Its slice has not come yet, or it cannot be told yet whether its own wait was over.
    NotYet,
    /// It was waiting itself: the C library's condition variables are passed on by waiters, too.
    NeverHad,
    /// Its slice was lost.
    Lost,
    At {
        ns: u64,
        /// It had been blocked on the GIL before.
        after_gil: bool,
    },
}

/// What is known of the threads of a process.
#[derive(Clone, Debug, Default)]
pub(super) struct Threads(HashMap<Tid, Thread, FixedState>);

impl Threads {
    /// Takes a slice, unless it is older than what is known of the thread.
    pub(super) fn slice(&mut self, slice: &Slice, waits: &mut Waits) -> Told {
        let thread = self.0.entry(slice.tid).or_default();
        let mut told = Told::default();
        if slice.out_ns < slice.in_ns || slice.in_ns < thread.out_ns {
            return told;
        }
        match &slice.wait {
            Some(wait)
                if wait.off_ns < thread.out_ns
                    || slice
                        .in_ns
                        .checked_sub(wait.off_ns)
                        .is_none_or(|ns| ns > LONGEST_NS) =>
            {
                // Damaged: nothing can be said about the time before it.
                thread.close(waits);
                thread.begin(slice, false);
            }
            Some(wait) if wait.cause == Some(Cause::Gil) => {
                if thread.open.is_none() {
                    told.ran = thread.tell();
                } else if let Some(cycle) = thread.cycles.back_mut() {
                    cycle.waiting = true;
                }
                told.block = Some(thread.block(slice, wait, waits));
                thread.begin(slice, true);
            }
            Some(Wait {
                cause: None,
                off_ns,
                ..
            }) => {
                thread.preempted(*off_ns, slice.in_ns);
                thread.resume(slice);
            }
            Some(_) | None => {
                told.ran = thread.tell();
                thread.close(waits);
                thread.begin(slice, false);
            }
        }
        thread.out_ns = slice.out_ns;
        if let Some(open) = &mut thread.open {
            open.run_ns = open.run_ns.saturating_add(slice.on_cpu_ns);
            if open.run_ns >= SHORT_RUN_NS {
                thread.close(waits);
            }
        }
        if slice.voluntary && thread.open.is_none() && told.ran.is_none() {
            told.ran = thread.tell();
        }
        told
    }

    /// The thread is blocked elsewhere since `since_ns`.
    pub(super) fn left(&mut self, tid: Tid, since_ns: u64, waits: &mut Waits) {
        if let Some(thread) = self.0.get_mut(&tid)
            // Else there is a slice to come, and perhaps another block in it.
            && since_ns.abs_diff(thread.out_ns) < SHORT_RUN_NS
        {
            thread.close(waits);
        }
    }

    /// When `tid`, who woke somebody at `wake_ns`, had begun to run.
    pub(super) fn began(&self, tid: Tid, wake_ns: u64) -> Began {
        let Some(thread) = self.0.get(&tid).filter(|thread| thread.out_ns >= wake_ns) else {
            return Began::NotYet;
        };
        let mut cycles = thread.cycles.iter().rev();
        let cycle = cycles.find(|cycle| cycle.in_ns <= wake_ns);
        match cycle.filter(|cycle| cycle.out_ns >= wake_ns) {
            Some(cycle) if cycle.waiting => Began::NeverHad,
            Some(cycle) if cycle.out_ns == thread.out_ns && thread.open.is_some() => Began::NotYet,
            Some(cycle) => Began::At {
                ns: cycle.in_ns,
                after_gil: cycle.after_gil,
            },
            None => Began::Lost,
        }
    }

    /// The thread is no more.
    pub(super) fn ended(&mut self, tid: Tid, waits: &mut Waits) {
        if let Some(thread) = self.0.get_mut(&tid) {
            thread.close(waits);
        }
    }

    /// Forgets threads that have not run since `before_ns`.
    pub(super) fn forget(&mut self, before_ns: u64, waits: &mut Waits) {
        self.0.retain(|_, thread| {
            let stays = thread.out_ns >= before_ns;
            if !stays {
                thread.close(waits);
            }
            stays
        });
    }
}

impl Thread {
    fn begin(&mut self, slice: &Slice, after_gil: bool) {
        if self.cycles.len() >= MAX_RUNS {
            self.cycles.pop_front();
        }
        self.cycles.push_back(Cycle {
            in_ns: slice.in_ns,
            out_ns: slice.out_ns,
            after_gil,
            waiting: false,
            told: false,
        });
    }

    fn resume(&mut self, slice: &Slice) {
        match self.cycles.back_mut() {
            Some(cycle) => cycle.out_ns = slice.out_ns,
            None => self.begin(slice, false),
        }
    }

    /// The last run, when it followed on a wait for the GIL and has not been told before.
    fn tell(&mut self) -> Option<Piece> {
        let cycle = self.cycles.back_mut()?;
        if !cycle.after_gil || std::mem::replace(&mut cycle.told, true) {
            return None;
        }
        Some(Piece {
            from_ns: cycle.in_ns,
            to_ns: cycle.out_ns,
        })
    }

    fn preempted(&mut self, from_ns: u64, to_ns: u64) {
        if let Some(open) = &mut self.open
            && open.held_back.len() < MAX_HELD_BACK
        {
            open.held_back.push(Piece { from_ns, to_ns });
        }
    }

    fn block(&mut self, slice: &Slice, wait: &Wait, waits: &mut Waits) -> Block {
        let piece = Piece {
            from_ns: wait.off_ns,
            to_ns: slice.in_ns,
        };
        let open = self.open.get_or_insert_with(|| Open {
            wait: waits.open(slice.tid, piece.from_ns),
            to_ns: piece.from_ns,
            run_ns: 0,
            held_back: Vec::new(),
        });
        let joined_ns = open.to_ns;
        let run = self.cycles.back();
        let run = run.filter(|cycle| wait.off_ns.saturating_sub(cycle.out_ns) <= SLACK_NS);
        let blocked_ns = wait
            .wake_ns
            .unwrap_or(slice.in_ns)
            .saturating_sub(wait.off_ns);
        for held_back in open.held_back.drain(..) {
            waits.add(open.wait, held_back, 0);
        }
        waits.add(open.wait, piece, blocked_ns.min(piece.ns()));
        open.to_ns = piece.to_ns;
        open.run_ns = 0;
        Block {
            wait: open.wait,
            from_ns: piece.from_ns,
            run_ns: run.map(|cycle| cycle.in_ns),
            joined_ns,
            to_ns: piece.to_ns,
            blocked_ns,
            waker: wait.waker,
            wake_ns: wait.wake_ns,
            futex: wait.arg0,
        }
    }

    fn close(&mut self, waits: &mut Waits) {
        if let Some(open) = self.open.take() {
            waits.close(open.wait);
        }
    }
}

/// A wait whose pieces are not all booked, or that has not ended.
#[derive(Clone, Debug)]
struct Pending {
    victim: Tid,
    from_ns: u64,
    /// In order of time, each with how much of it the thread was blocked, ns.
    pieces: VecDeque<(Piece, u64)>,
    /// Of the booked pieces.
    wait_ns: u64,
    parts: Parts,
    /// Up to where hand-overs explain it.
    handed_over_ns: u64,
    closed: bool,
}

/// What is booked.
pub(super) enum Step<'a> {
    Piece {
        victim: Tid,
        /// Where the wait that it belongs to begins.
        wait_from_ns: u64,
        piece: Piece,
        /// How much of it the thread was blocked, ns; after that it was runnable.
        blocked_ns: u64,
        /// Nobody will tell any more who held the GIL meanwhile.
        expired: bool,
        /// Of the wait it belongs to.
        parts: &'a mut Parts,
    },
    /// A wait is whole.
    End {
        victim: Tid,
        wait_ns: u64,
        /// Who had the largest part.
        holder: Option<Tid>,
    },
}

/// The waits of a process that are not done with.
#[derive(Clone, Debug, Default)]
pub(super) struct Waits {
    pending: BTreeMap<u64, Pending>,
    next: u64,
    pieces: usize,
}

impl Waits {
    fn open(&mut self, victim: Tid, from_ns: u64) -> u64 {
        let wait = self.next;
        self.next += 1;
        let pending = Pending {
            victim,
            from_ns,
            pieces: VecDeque::new(),
            wait_ns: 0,
            parts: Parts::default(),
            handed_over_ns: 0,
            closed: false,
        };
        self.pending.insert(wait, pending);
        wait
    }

    fn add(&mut self, wait: u64, piece: Piece, blocked_ns: u64) {
        if let Some(pending) = self.pending.get_mut(&wait) {
            pending.pieces.push_back((piece, blocked_ns));
            self.pieces += 1;
        }
    }

    /// The last piece of the wait ended by a hand-over.
    pub(super) fn handed_over(&mut self, wait: u64, to_ns: u64) {
        if let Some(pending) = self.pending.get_mut(&wait) {
            pending.handed_over_ns = to_ns;
        }
    }

    fn close(&mut self, wait: u64) {
        if let Some(pending) = self.pending.get_mut(&wait) {
            pending.closed = true;
        }
    }

    pub(super) fn close_all(&mut self) {
        for pending in self.pending.values_mut() {
            pending.closed = true;
        }
    }

    /// Pieces that are not booked.
    pub(super) fn pieces(&self) -> usize {
        self.pieces
    }

    /// Where the first piece that is not booked begins.
    pub(super) fn oldest_ns(&self) -> Option<u64> {
        let firsts = self.pending.values().filter_map(|p| p.pieces.front());
        firsts.map(|(piece, _)| piece.from_ns).min()
    }

    /// Books the pieces of which it is known who held the GIL, and those up to `expired_ns`.
    pub(super) fn book(&mut self, known: Reach, expired_ns: u64, mut step: impl FnMut(Step<'_>)) {
        let count = &mut self.pieces;
        self.pending.retain(|_, wait| {
            let explained_ns = wait.handed_over_ns.max(known.explained_ns);
            while let Some(&(piece, blocked_ns)) = wait.pieces.front() {
                let expired = piece.to_ns <= expired_ns;
                let known = piece.to_ns <= explained_ns && piece.to_ns < known.complete_ns;
                if !known && !expired {
                    break;
                }
                wait.pieces.pop_front();
                *count -= 1;
                wait.wait_ns = wait.wait_ns.saturating_add(piece.ns());
                step(Step::Piece {
                    victim: wait.victim,
                    wait_from_ns: wait.from_ns,
                    piece,
                    blocked_ns,
                    expired: expired && !known,
                    parts: &mut wait.parts,
                });
            }
            let whole = wait.closed && wait.pieces.is_empty();
            if whole {
                step(Step::End {
                    victim: wait.victim,
                    wait_ns: wait.wait_ns,
                    holder: wait.parts.largest(),
                });
            }
            !whole
        });
    }
}
