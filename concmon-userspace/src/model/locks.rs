//! What waits for locks were good for: the lock column of the ledger, split by purpose.
//!
//! How long a thread was blocked on locks is exact. What for is known of the waits that a look met,
//! and by their futexes of others like them. So the column is split in the shares of the waits that
//! were told; the four parts always add up to it.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::FixedState;

use super::window::{Cumulative, Growth};
use crate::event::{Cause, LedgerFact, ThreadState, Wait, WaitPurpose};
use crate::schema::LockNs;

/// Purposes, in the order of [`LockNs`].
const PURPOSES: usize = 4;
const OTHER: usize = 3;
/// Futexes of a process that are remembered, twice: the recent ones, and those before them.
const MAX_FUTEXES: usize = 2048;
/// Futexes of one thread whose waits are told apart within a window.
const MAX_TOLD: usize = 64;
/// Looks at one futex that count: what it was used for long ago fades.
const MAX_LOOKS: u32 = 64;

const fn index(purpose: WaitPurpose) -> usize {
    match purpose {
        WaitPurpose::Contended => 0,
        WaitPurpose::Work => 1,
        WaitPurpose::Join => 2,
        WaitPurpose::Item | WaitPurpose::Other => OTHER,
    }
}

/// Nanoseconds by purpose.
type Parts = [u64; PURPOSES];

/// What looks have met the futexes of a process being used for.
///
/// Where a lock has a semaphore of its own, a futex is that lock. Elsewhere it is a place on the
/// stack of the thread that waits, which may serve several purposes in turn: hence counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Futexes {
    recent: BTreeMap<u64, [u32; PURPOSES]>,
    before: BTreeMap<u64, [u32; PURPOSES]>,
}

impl Futexes {
    /// A look met a thread that waits for this.
    pub(crate) fn met(&mut self, futex: u64, purpose: WaitPurpose) {
        if self.recent.len() >= MAX_FUTEXES && !self.recent.contains_key(&futex) {
            self.before = std::mem::take(&mut self.recent);
        }
        let before = self.before.get(&futex).copied();
        let counts = self
            .recent
            .entry(futex)
            .or_insert_with(|| before.unwrap_or_default());
        counts[index(purpose)] += 1;
        if counts.iter().sum::<u32>() > MAX_LOOKS {
            counts.iter_mut().for_each(|count| *count /= 2);
        }
    }

    /// A time of waiting on a futex by what that is used for.
    fn parts(&self, futex: u64, ns: u64) -> Parts {
        let known = self.recent.get(&futex).or_else(|| self.before.get(&futex));
        match known {
            Some(counts) => share(ns, &counts.map(u64::from)),
            None => only(OTHER, ns),
        }
    }
}

fn only(purpose: usize, ns: u64) -> Parts {
    let mut parts = Parts::default();
    parts[purpose] = ns;
    parts
}

/// `ns` in the proportions of `weights`, to the nanosecond; without weights it is all other.
fn share(ns: u64, weights: &Parts) -> Parts {
    // Weights that are never met in life are halved, so that products fit into 128 bits.
    let halvings = 2 * u32::from(weights.iter().any(|weight| *weight > u64::MAX / 4));
    let weights = weights.map(|weight| u128::from(weight >> halvings));
    let whole: u128 = weights.iter().sum();
    if whole == 0 {
        return only(OTHER, ns);
    }
    // The bounds are rounded, not the parts, so that errors do not add up.
    let (mut passed, mut given) = (0u128, 0u64);
    weights.map(|weight| {
        passed += weight;
        let until = u64::try_from(u128::from(ns) * passed / whole).unwrap_or(ns);
        let part = until - given;
        given = until;
        part
    })
}

/// A wait that had not ended when the ledger was read: from, to; what for.
#[derive(Clone, Copy, Debug)]
struct Open {
    from_ns: u64,
    to_ns: u64,
    purpose: Option<WaitPurpose>,
}

impl Open {
    /// How much of a stretch is in it.
    fn overlap(&self, from_ns: u64, to_ns: u64) -> u64 {
        let (from_ns, to_ns) = (from_ns.max(self.from_ns), to_ns.min(self.to_ns));
        to_ns.saturating_sub(from_ns)
    }
}

/// One thread's waits for locks.
#[derive(Clone, Debug, Default)]
pub(crate) struct LockWaits {
    /// Waits that ended, by futex, since the last window did.
    told: HashMap<u64, u64, FixedState>,
    /// Those of which a look met the beginning, by purpose, and those for which there was no room.
    known: Parts,
    /// What has been counted of the wait that was open when the last window ended.
    counted: Option<Open>,
    /// The stretch that the latest reading of the ledger ends with, if it is a wait for a lock.
    open: Option<(u64, u64)>,
    /// What the look of this window says that the thread waits for.
    met: Option<WaitPurpose>,
    split: Cumulative<Split>,
}

/// The lock column so far, by purpose.
#[derive(Clone, Copy, Debug, Default)]
struct Split(Parts);

impl Growth for Split {
    fn since(&self, base: &Self) -> Self {
        Split(std::array::from_fn(|i| self.0[i].saturating_sub(base.0[i])))
    }
}

impl LockWaits {
    /// Takes a wait that ended with a slice which began at `in_ns`.
    pub(crate) fn wait(&mut self, wait: &Wait, in_ns: u64) {
        if wait.cause != Some(Cause::Lock) {
            return;
        }
        let to_ns = wait.wake_ns.unwrap_or(in_ns);
        let counted = self
            .counted
            .map_or(0, |open| open.overlap(wait.off_ns, to_ns));
        let ns = to_ns.saturating_sub(wait.off_ns).saturating_sub(counted);
        let has_room = self.told.len() < MAX_TOLD || self.told.contains_key(&wait.arg0);
        let met = self.counted.filter(|_| counted > 0);
        let told = match met.and_then(|open| open.purpose) {
            Some(purpose) => &mut self.known[index(purpose)],
            None if has_room => self.told.entry(wait.arg0).or_default(),
            None => &mut self.known[OTHER],
        };
        *told = told.saturating_add(ns);
    }

    /// Takes the open stretch of a reading.
    pub(crate) fn ledger(&mut self, fact: &LedgerFact) {
        match fact.state {
            ThreadState::Blocked(cause) => self.stands(cause, fact.since_ns, fact.read_ns),
            _ => self.open = None,
        }
    }

    /// The thread waits, since when, and still does.
    pub(crate) fn stands(&mut self, cause: Cause, since_ns: u64, read_ns: u64) {
        self.open = (cause == Cause::Lock).then_some((since_ns, read_ns.max(since_ns)));
    }

    /// A look met the thread waiting for this.
    pub(crate) fn met(&mut self, purpose: WaitPurpose) {
        self.met = Some(purpose);
    }

    /// At the end of a window: splits what the lock column, now `lock_ns`, has grown by.
    pub(crate) fn settle(&mut self, lock_ns: u64, futexes: &Futexes) {
        let mut weights = std::mem::take(&mut self.known);
        let mut add = |parts: Parts| {
            for (weight, part) in weights.iter_mut().zip(parts) {
                *weight = weight.saturating_add(part);
            }
        };
        for (futex, ns) in std::mem::take(&mut self.told) {
            add(futexes.parts(futex, ns));
        }
        let met = self.met.take();
        // The reading of a window holds for that window only.
        let open = self.open.take().map(|(from_ns, to_ns)| {
            let before = self.counted.filter(|open| open.from_ns == from_ns);
            Open {
                from_ns,
                to_ns,
                purpose: met.or_else(|| before?.purpose),
            }
        });
        if let Some(open) = &open {
            let counted = self.counted;
            let counted = counted.map_or(0, |before| before.overlap(open.from_ns, open.to_ns));
            let ns = (open.to_ns - open.from_ns).saturating_sub(counted);
            add(only(open.purpose.map_or(OTHER, index), ns));
            self.counted = Some(*open);
        }
        let split = &mut self.split.now.0;
        let known = split
            .iter()
            .fold(0u64, |sum, part| sum.saturating_add(*part));
        for (part, more) in split
            .iter_mut()
            .zip(share(lock_ns.saturating_sub(known), &weights))
        {
            *part = part.saturating_add(more);
        }
    }

    /// The parts in `scope`.
    pub(crate) fn over(&self, scope: super::window::Scope) -> LockNs {
        let [contended, waiting_for_work, join, other] = self.split.over(scope).0;
        LockNs {
            contended,
            waiting_for_work,
            join,
            other,
        }
    }

    /// Begins a window.
    pub(crate) fn roll(&mut self) {
        self.split.roll();
    }

    /// Gives up what only further windows need.
    pub(crate) fn shrink(&mut self) {
        self.told = HashMap::default();
        self.split.forget_base();
    }
}

#[cfg(test)]
mod tests {
    use super::super::window::Scope;
    use super::*;
    use crate::model::testing::{Random, ledger};

    fn lock_wait(off_ns: u64, wake_ns: u64, futex: u64) -> Wait {
        Wait {
            off_ns,
            wake_ns: Some(wake_ns),
            cause: Some(Cause::Lock),
            queue: true,
            arg0: futex,
            waker: None,
        }
    }

    fn open(from_ns: u64, to_ns: u64) -> LedgerFact {
        LedgerFact {
            since_ns: from_ns,
            read_ns: to_ns,
            state: ThreadState::Blocked(Cause::Lock),
            ..ledger(1, 1)
        }
    }

    fn parts(waits: &LockWaits, scope: Scope) -> Parts {
        let sum = waits.over(scope);
        [sum.contended, sum.waiting_for_work, sum.join, sum.other]
    }

    #[test]
    fn shares_are_exact() {
        for (ns, weights, want) in [
            (100, [1, 1, 0, 2], [25, 25, 0, 50]),
            (100, [1, 1, 1, 0], [33, 33, 34, 0]),
            (7, [0, 0, 0, 0], [0, 0, 0, 7]),
            (0, [1, 2, 3, 4], [0, 0, 0, 0]),
            (5, [u64::MAX, 0, 0, 0], [5, 0, 0, 0]),
        ] {
            assert_eq!(share(ns, &weights), want, "{ns} {weights:?}");
        }
        let mut random = Random::new(3);
        for _ in 0..10_000 {
            let ns = random.nasty();
            let weights = std::array::from_fn(|_| random.nasty());
            let parts = share(ns, &weights);
            assert_eq!(
                parts.iter().map(|&p| u128::from(p)).sum::<u128>(),
                ns.into()
            );
        }
    }

    #[test]
    fn waits_that_ended_are_split_by_what_their_futexes_are_for() {
        let mut futexes = Futexes::default();
        futexes.met(1, WaitPurpose::Contended);
        futexes.met(2, WaitPurpose::Work);
        let mut waits = LockWaits::default();
        waits.wait(&lock_wait(0, 10, 1), 11);
        waits.wait(&lock_wait(20, 50, 2), 51);
        waits.wait(&lock_wait(60, 70, 3), 71);
        let polled = Wait {
            cause: Some(Cause::Poll),
            ..lock_wait(0, 1000, 1)
        };
        waits.wait(&polled, 1000);
        // The ledger knows of more than was told.
        waits.settle(100, &futexes);
        assert_eq!(parts(&waits, Scope::Window), [20, 60, 0, 20]);
        waits.roll();
        waits.settle(100, &futexes);
        assert_eq!(parts(&waits, Scope::Window), [0; 4]);
        assert_eq!(parts(&waits, Scope::Whole), [20, 60, 0, 20]);
    }

    #[test]
    fn a_wait_that_goes_on_for_windows_counts_once() {
        let futexes = Futexes::default();
        let mut waits = LockWaits::default();
        waits.ledger(&open(10, 100));
        waits.met(WaitPurpose::Work);
        waits.settle(90, &futexes);
        waits.roll();
        // No look this time: it is the same wait.
        waits.ledger(&open(10, 200));
        waits.settle(190, &futexes);
        assert_eq!(parts(&waits, Scope::Window), [0, 100, 0, 0]);
        waits.roll();
        // It ends after 10 more, then another one of 10 that nobody knows.
        waits.wait(&lock_wait(10, 210, 1), 211);
        waits.wait(&lock_wait(220, 230, 2), 231);
        waits.ledger(&LedgerFact {
            state: ThreadState::Running,
            ..open(231, 300)
        });
        waits.settle(210, &futexes);
        assert_eq!(parts(&waits, Scope::Window), [0, 10, 0, 10]);
        assert_eq!(parts(&waits, Scope::Whole), [0, 200, 0, 10]);
    }

    #[test]
    fn a_futex_of_several_purposes_counts_for_each() {
        let mut futexes = Futexes::default();
        for purpose in [WaitPurpose::Work, WaitPurpose::Work, WaitPurpose::Contended] {
            futexes.met(1, purpose);
        }
        assert_eq!(futexes.parts(1, 300), [100, 200, 0, 0]);
        for _ in 0..1000 {
            futexes.met(1, WaitPurpose::Join);
        }
        assert_eq!(futexes.parts(1, 100), [0, 0, 100, 0]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut futexes = Futexes::default();
        let mut waits = LockWaits::default();
        for futex in 0..100_000 {
            futexes.met(futex, WaitPurpose::Join);
            waits.wait(&lock_wait(futex, futex + 1, futex), futex + 1);
        }
        assert!(futexes.recent.len() + futexes.before.len() <= 2 * MAX_FUTEXES);
        assert_eq!(futexes.parts(99_999, 5), [0, 0, 5, 0]);
        assert_eq!(futexes.parts(0, 5), [0, 0, 0, 5]);
        assert_eq!(waits.told.len(), MAX_TOLD);
        assert_eq!(waits.known, [0, 0, 0, 100_000 - MAX_TOLD as u64]);
    }
}
