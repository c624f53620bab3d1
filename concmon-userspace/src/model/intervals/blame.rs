//! Who made others wait: their time, by the stack of whoever had what they waited for.
//!
//! For the GIL that is who held it, as far as the hand-overs tell (`model::gil`); what nobody is known to have held it
//! is told under the thread that waited; the stack is the one that was taken of the holder in the part of the wait that
//! is charged to it, else the nearest in time. For locks it is the owner that a look knew, with its stack there: in the
//! wait that the look met, and in those that the same owner ended afterwards. A lock that no look has met with its owner
//! is in nobody's time.

use std::collections::{BTreeMap, VecDeque};

use super::flames::{Flames, NodeId, ROOT};
use super::threads::Threads;
use super::{Activity, Interval};
use crate::event::{Cause, LedgerFact, Pid, PyWait, PythonFact, Slice, Tid, WaitKind};
use crate::model::gil::{Charge, Gil};

/// Stacks of a thread that are remembered, and for how long, ns: waits are charged 2 s later at the latest.
const MAX_STACKS: usize = 4_096;
const KEPT_NS: u64 = 5_000_000_000;
/// A stack this far from a wait says nothing about it, ns: ten samples by the clock.
const NEAR_NS: u64 = 100_000_000;
/// Waits for locks that looks have met, and that go on as far as is known.
const MAX_MET: usize = 16_384;
/// Pairs of who waited and who had the lock.
const MAX_OWNERS: usize = 65_536;

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
    /// The owner of the lock, and its stack, by who waits and when a look has met it.
    met: BTreeMap<(usize, u64), (usize, NodeId)>,
    /// Who was met as an owner, and its last such stack, by who waited and who that was.
    owners: BTreeMap<(usize, usize), NodeId>,
    /// Waits for locks that no look has met, until it is known who ended them, ns.
    unmet: BTreeMap<usize, u64>,
    weights: BTreeMap<Blamed, u64>,
    /// By who waited for the GIL: what is charged to somebody.
    charged: BTreeMap<usize, u64>,
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
        let stacks = self.stacks.entry(tid).or_default();
        if stacks.len() >= MAX_STACKS {
            stacks.pop_front();
        }
        // They come in order, but for damage.
        if stacks.back().is_none_or(|(last_ns, _)| *last_ns <= at_ns) {
            stacks.push_back((at_ns, stack));
        }
    }

    pub(super) fn look(&mut self, look: &PythonFact, threads: &Threads, flames: &mut Flames) {
        self.gil(look.pid).look(&look.gils);
        for thread in &look.threads {
            let owner = thread.waiting_for.as_ref().and_then(owner);
            let mut seen = look.threads.iter();
            let owner = owner.and_then(|tid| seen.find(|thread| thread.tid == tid));
            if let Some(owner) = owner
                && let Some(by) = threads.newest(owner.tid)
                && let Some(at) = threads.newest(thread.tid)
                && self.met.len() < MAX_MET
            {
                let stack = flames.intern(&owner.stack);
                self.met.insert((at, look.read_ns), (by, stack));
            }
        }
    }

    pub(super) fn interval(&mut self, interval: &Interval) {
        let victim = interval.thread;
        // Whoever was met in it or before is not met any more.
        let mut met = self.met.split_off(&(victim, 0));
        let mut others = met.split_off(&(victim, interval.to_ns.saturating_add(1)));
        self.met.append(&mut others);
        let unmet_ns = self.unmet.remove(&victim);
        let (owner, ns) = match (interval.activity, interval.wakeup) {
            (Activity::Blocked(Cause::Lock), _) => {
                let last = met.into_iter().next_back();
                let Some((_, owner)) = last.filter(|((_, at_ns), _)| *at_ns >= interval.from_ns)
                else {
                    self.unmet.insert(victim, interval.ns());
                    return;
                };
                if self.owners.len() < MAX_OWNERS || self.owners.contains_key(&(victim, owner.0)) {
                    self.owners.insert((victim, owner.0), owner.1);
                }
                (owner, interval.ns())
            }
            (Activity::Runnable, Some(wakeup)) => {
                let Some(stack) = self.owners.get(&(victim, wakeup.waker)) else {
                    return;
                };
                ((wakeup.waker, *stack), unmet_ns.unwrap_or(0))
            }
            _ => return,
        };
        let (thread, stack) = owner;
        let held = Held::Lock;
        self.add(
            Blamed {
                thread,
                held,
                stack,
            },
            ns,
        );
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

    fn add(&mut self, blamed: Blamed, ns: u64) {
        if ns > 0 {
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
