//! Who made others wait: their time, by the stack of whoever had what they waited for.
//!
//! For the GIL that is who held it, as far as the hand-overs tell (`model::gil`); what nobody is known to have held it
//! is told under the thread that waited; the stack is the one that was taken of the holder in the part of the wait that
//! is charged to it, else the nearest in time. For locks it is the owner that a look knew, with its stack there: in the
//! wait that the look met, and in short ones for the same lock, as far as its futex tells, that the same owner ended
//! afterwards. A lock that no look has met with its owner is in nobody's time, nor is what a look has met as a wait for
//! something else: waits for a condition, a queue or an event look the same to the kernel.

use std::collections::{BTreeMap, VecDeque};

use super::flames::{Flames, NodeId, ROOT};
use super::threads::Threads;
use super::{Activity, Interval};
use crate::event::{Cause, LedgerFact, Pid, PyWait, PythonFact, Slice, Tid, WaitKind};
use crate::model::gil::{CHARGE_PATIENCE_NS, Charge, Gil};

/// Stacks of a thread that are remembered, and for how long, ns.
const MAX_STACKS: usize = 4_096;
const KEPT_NS: u64 = 3_000_000_000 + CHARGE_PATIENCE_NS;
/// A stack this far from a wait says nothing about it, ns: ten samples by the clock.
const NEAR_NS: u64 = 100_000_000;
/// Stacks that are remembered of all threads together.
const MAX_ALL_STACKS: usize = 1_000_000;
/// What looks have met of a thread while its waits have not come: slices come later.
const MAX_MET: usize = 8;
/// Who was met with locks that a thread waits for.
const MAX_OWNERS: usize = 16;
/// Looks would have met a wait that is longer, ns. From Python 3.13 on, a thread waits for all locks on a futex of its
/// own, which then does not tell one lock from another.
const UNMET_NS: u64 = 2_000_000_000;
/// Threads with what they had, and where; beyond, time is under no frame.
const MAX_WEIGHTS: usize = 1_000_000;

/// What others waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    Gil,
    Lock,
}

/// Who had it, and where; threads are indices in [`Threads`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Blamed {
    pub thread: usize,
    pub held: Held,
    /// [`ROOT`]: no stack of that time was taken.
    pub stack: NodeId,
}

/// Gathers it.
#[derive(Clone, Debug, Default)]
pub struct Blame {
    gils: BTreeMap<Pid, Gil>,
    /// By thread, in order of time.
    stacks: BTreeMap<Tid, VecDeque<(u64, NodeId)>>,
    /// How many these are.
    stacks_count: usize,
    /// By who waits.
    victims: BTreeMap<usize, Victim>,
    weights: BTreeMap<Blamed, u64>,
    /// By who waited for the GIL: what is charged to somebody.
    charged: BTreeMap<usize, u64>,
}

/// A thread that was met while it waited for a lock that others had.
#[derive(Clone, Debug, Default)]
struct Victim {
    /// The latest looks at it, in their order.
    met: VecDeque<Met>,
    /// Those who had locks, the one that was met last at the end.
    owners: VecDeque<Owner>,
    /// How long it waited in a wait that no look has met, until it is known who ended that, and on which futex.
    unmet: Option<(u64, u64)>,
}

/// What a look says of a wait.
#[derive(Clone, Copy, Debug)]
struct Met {
    at_ns: u64,
    /// 0: it is not known.
    futex: u64,
    /// Who has the lock, and its stack; `None`: nobody, or it is no lock.
    owner: Option<(usize, NodeId)>,
}

/// Who had a lock.
#[derive(Clone, Copy, Debug)]
struct Owner {
    thread: usize,
    /// 0: it is not known.
    futex: u64,
    stack: NodeId,
}

/// Whether it may be the same futex: 0 is one that is not known.
const fn may_be(one: u64, other: u64) -> bool {
    one == other || one == 0 || other == 0
}

impl Victim {
    fn met(&mut self, met: Met) {
        if self.met.len() >= MAX_MET {
            self.met.pop_front();
        }
        // They come in order, but for damage.
        if self.met.back().is_none_or(|last| last.at_ns <= met.at_ns) {
            self.met.push_back(met);
        }
    }

    /// Takes the next interval. Gives whose doing a wait was that is now known, its stack, and how long that was, ns.
    fn interval(&mut self, interval: &Interval) -> Option<(usize, NodeId, u64)> {
        let unmet = self.unmet.take();
        // What was met in it or before is not met any more.
        let mut last = None;
        while let Some(met) = self.met.pop_front_if(|met| met.at_ns <= interval.to_ns) {
            let within = met.at_ns >= interval.from_ns && may_be(met.futex, interval.futex);
            last = Some(met).filter(|_| within).or(last);
        }
        match (interval.activity, interval.wakeup) {
            (Activity::Blocked(Cause::Lock), _) => {
                let Some(met) = last else {
                    self.unmet = Some((interval.ns(), interval.futex));
                    return None;
                };
                let (thread, stack) = met.owner?;
                let futex = if met.futex == 0 {
                    interval.futex
                } else {
                    met.futex
                };
                self.owners
                    .retain(|owner| (owner.thread, owner.futex) != (thread, futex));
                if self.owners.len() >= MAX_OWNERS {
                    self.owners.pop_front();
                }
                self.owners.push_back(Owner {
                    thread,
                    futex,
                    stack,
                });
                Some((thread, stack, interval.ns()))
            }
            (Activity::Runnable, Some(wakeup)) => {
                let (ns, futex) = unmet.filter(|(ns, _)| *ns < UNMET_NS)?;
                let mut owners = self.owners.iter().rev();
                let owner = owners
                    .find(|owner| owner.thread == wakeup.waker && may_be(owner.futex, futex))?;
                Some((owner.thread, owner.stack, ns))
            }
            _ => None,
        }
    }
}

impl Blame {
    /// Time that others waited for whoever it was, ns.
    pub fn weights(&self) -> impl Iterator<Item = (Blamed, u64)> {
        self.weights.iter().map(|(blamed, ns)| (*blamed, *ns))
    }

    /// How long a thread waited for the GIL while somebody is known to have held it, ns.
    pub fn charged_ns(&self, thread: usize) -> u64 {
        self.charged.get(&thread).copied().unwrap_or(0)
    }

    pub(super) fn slice(&mut self, pid: Pid, slice: &Slice) {
        self.gil(pid).slice(slice);
    }

    pub(super) fn ledger(&mut self, fact: &LedgerFact) {
        if let Some(gil) = self.gils.get_mut(&fact.pid) {
            gil.ledger(fact);
        }
    }

    pub(super) fn exec(&mut self, pid: Pid, at_ns: u64) {
        if let Some(gil) = self.gils.get_mut(&pid) {
            gil.exec(at_ns);
        }
    }

    /// A stack was taken of a thread.
    pub(super) fn stack(&mut self, tid: Tid, at_ns: u64, stack: NodeId) {
        if self.stacks_count >= MAX_ALL_STACKS {
            // None of them gets old where no window ends.
            return;
        }
        let stacks = self.stacks.entry(tid).or_default();
        // They come in order, but for damage.
        if stacks.back().is_none_or(|(last_ns, _)| *last_ns <= at_ns) {
            stacks.push_back((at_ns, stack));
            self.stacks_count += 1;
        }
        if stacks.len() > MAX_STACKS {
            stacks.pop_front();
            self.stacks_count -= 1;
        }
    }

    pub(super) fn look(&mut self, look: &PythonFact, threads: &Threads, flames: &mut Flames) {
        self.gil(look.pid).look(&look.gils);
        for thread in &look.threads {
            let Some(at) = threads.newest(thread.tid) else {
                continue;
            };
            let wait = thread.waiting_for.as_ref();
            let owner = wait.and_then(owner).and_then(|tid| {
                let owner = look.threads.iter().find(|thread| thread.tid == tid)?;
                let by = threads.newest(owner.tid)?;
                Some((by, flames.intern(&owner.stack)))
            });
            let victim = match owner {
                Some(_) => Some(self.victims.entry(at).or_default()),
                // Without an owner from before, nothing is charged anyway.
                None => self.victims.get_mut(&at),
            };
            if let Some(victim) = victim {
                victim.met(Met {
                    at_ns: look.read_ns,
                    futex: wait.map_or(0, |wait| wait.futex),
                    owner,
                });
            }
        }
    }

    pub(super) fn interval(&mut self, interval: &Interval) {
        let victim = self.victims.get_mut(&interval.thread);
        let doing = victim.and_then(|victim| victim.interval(interval));
        if let Some((thread, stack, ns)) = doing {
            let held = Held::Lock;
            let blamed = Blamed {
                thread,
                held,
                stack,
            };
            self.add(blamed, ns);
        }
    }

    /// A window is over. `last`: nothing more will come.
    pub(super) fn settle(&mut self, at_ns: u64, last: bool, threads: &Threads) {
        let mut charges = Vec::new();
        for gil in self.gils.values_mut() {
            gil.settle(at_ns, std::iter::empty(), last);
            charges.append(&mut gil.take_charges());
        }
        for charge in charges {
            let ends = [charge.holder, charge.victim].map(|tid| threads.newest(tid));
            if let [Some(holder), Some(victim)] = ends {
                self.charge(&charge, holder);
                let charged = self.charged.entry(victim).or_default();
                *charged = charged.saturating_add(charge.blocked_ns);
            }
        }
        let old_ns = at_ns.saturating_sub(KEPT_NS);
        self.stacks.retain(|_, stacks| {
            let old = stacks.partition_point(|(at_ns, _)| *at_ns < old_ns);
            stacks.drain(..old);
            !stacks.is_empty()
        });
        self.stacks_count = self.stacks.values().map(VecDeque::len).sum();
    }

    /// Shares what is charged among the stacks that its holder gave meanwhile.
    fn charge(&mut self, charge: &Charge, thread: usize) {
        let stacks = self.stacks.get_mut(&charge.holder);
        let stacks: &[(u64, NodeId)] = match stacks {
            Some(stacks) => stacks.make_contiguous(),
            None => &[],
        };
        let from = stacks.partition_point(|(at_ns, _)| *at_ns < charge.from_ns);
        let to = stacks.partition_point(|(at_ns, _)| *at_ns <= charge.to_ns);
        let near = |(at_ns, _): &&(u64, NodeId)| {
            charge.from_ns.saturating_sub(*at_ns) <= NEAR_NS
                && at_ns.saturating_sub(charge.to_ns) <= NEAR_NS
        };
        // Time between two stacks is the later one's.
        let later = || stacks.get(to).filter(near);
        let nearest = || later().or_else(|| stacks[..from].last().filter(near));
        let mut of: Vec<NodeId> = stacks[from..to].iter().map(|(_, stack)| *stack).collect();
        if of.is_empty() {
            of.push(nearest().map_or(ROOT, |(_, stack)| *stack));
        }
        let each = charge.blocked_ns / of.len() as u64;
        let mut left_ns = charge.blocked_ns - each * of.len() as u64;
        for stack in of {
            let blamed = Blamed {
                thread,
                held: Held::Gil,
                stack,
            };
            self.add(blamed, each + std::mem::take(&mut left_ns));
        }
    }

    fn add(&mut self, mut blamed: Blamed, ns: u64) {
        if ns > 0 {
            if self.weights.len() >= MAX_WEIGHTS && !self.weights.contains_key(&blamed) {
                blamed.stack = ROOT;
            }
            let sum = self.weights.entry(blamed).or_default();
            *sum = sum.saturating_add(ns);
        }
    }

    fn gil(&mut self, pid: Pid) -> &mut Gil {
        self.gils.entry(pid).or_insert_with(Gil::with_charges)
    }
}

/// Who has the lock that a thread waits for.
fn owner(wait: &PyWait) -> Option<Tid> {
    let is_lock = matches!(wait.kind, WaitKind::Lock | WaitKind::RLock);
    wait.owner.filter(|_| is_lock && !wait.owner_gone)
}
