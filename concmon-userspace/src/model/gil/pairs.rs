//! Who waited for whom.
//!
//! How long a thread waited is told in the window in which it did, for its account says so. Who held the GIL
//! meanwhile is known later, when hand-overs are. So what a window tells of it goes to whom more has been charged
//! than was told before, and the rest to who has the GIL as far as a look knows. Nothing that was told is taken back.

use std::collections::BTreeMap;

use super::super::window::{Cumulative, Growth, Scope};
use crate::event::Tid;
use crate::schema::GilPair;

/// Rows in a report.
const MAX_ROWS: usize = 256;
/// Pairs that are told apart.
const MAX_PAIRS: usize = 4_096;
/// Of these, how many are taken along into the next window.
const KEPT_PAIRS: usize = 2_048;

/// Who waited, and for whom.
type Pair = (Tid, Option<Tid>);

#[derive(Clone, Copy, Debug, Default)]
struct Charge {
    /// What was told, ns.
    wait_ns: u64,
    count: u64,
    /// What is known by hand-overs, ns.
    known_ns: u64,
}

/// How long a thread has waited, in all.
#[derive(Clone, Copy, Debug, Default)]
struct Victim {
    /// Blocked, by its account, ns.
    blocked_ns: u64,
    /// What is known by hand-overs, ns.
    known_ns: u64,
    told_ns: u64,
}

impl Victim {
    /// What is to be told, ns. Where it has no account of its own, that is what slices have.
    const fn untold_ns(&self) -> u64 {
        let waited_ns = match self.blocked_ns {
            0 => self.known_ns,
            blocked_ns => blocked_ns,
        };
        waited_ns.saturating_sub(self.told_ns)
    }
}

#[derive(Clone, Debug, Default)]
struct Table {
    pairs: BTreeMap<Pair, Charge>,
    /// Waiting for which there was no room, ns.
    left_out_ns: u64,
}

impl Table {
    /// `None`: no room.
    fn charge(&mut self, pair: Pair) -> Option<&mut Charge> {
        if self.pairs.len() >= MAX_PAIRS && !self.pairs.contains_key(&pair) {
            return None;
        }
        Some(self.pairs.entry(pair).or_default())
    }

    /// Tells up to `ns` of what is known of `victim` and was not told. Returns what is left.
    fn pay(&mut self, victim: Tid, ns: u64) -> u64 {
        let of_victim = (victim, None)..=(victim, Some(Tid(u32::MAX)));
        let owed_ns = |charge: &Charge| u128::from(charge.known_ns.saturating_sub(charge.wait_ns));
        let pairs = self.pairs.range(of_victim.clone());
        let owed: u128 = pairs.map(|(_, charge)| owed_ns(charge)).sum();
        let paid_ns = u64::try_from(owed).map_or(ns, |owed_ns| owed_ns.min(ns));
        if paid_ns == 0 {
            return ns;
        }
        // The bounds are rounded, not the parts, so that errors do not add up.
        let (mut passed, mut given_ns) = (0u128, 0u64);
        for (_, charge) in self.pairs.range_mut(of_victim) {
            passed += owed_ns(charge);
            let until_ns = muldiv(paid_ns, passed, owed);
            charge.wait_ns = charge.wait_ns.saturating_add(until_ns - given_ns);
            given_ns = until_ns;
        }
        ns - paid_ns
    }

    fn keep_largest(&mut self, kept: usize) {
        if self.pairs.len() <= kept {
            return;
        }
        let pairs = self.pairs.iter();
        let mut sizes: Vec<_> = pairs.map(|(&pair, c)| (c.wait_ns, pair)).collect();
        sizes.sort_by(|a, b| b.cmp(a));
        for (wait_ns, pair) in sizes.split_off(kept) {
            self.pairs.remove(&pair);
            self.left_out_ns = self.left_out_ns.saturating_add(wait_ns);
        }
    }
}

/// `ns * part / whole`; `part` is not larger than `whole`, which may be a sum of as many as there are pairs.
fn muldiv(ns: u64, part: u128, whole: u128) -> u64 {
    // Halved until products fit: sums of real times are far below.
    let halvings = (128 - whole.leading_zeros()).saturating_sub(64);
    let (part, whole) = (part >> halvings, (whole >> halvings).max(1));
    u64::try_from(u128::from(ns) * part / whole).map_or(ns, |product| product.min(ns))
}

impl Growth for Table {
    fn since(&self, base: &Self) -> Self {
        let pairs = self.pairs.iter().filter_map(|(&pair, charge)| {
            let before = base.pairs.get(&pair).copied().unwrap_or_default();
            let grown = Charge {
                wait_ns: charge.wait_ns.saturating_sub(before.wait_ns),
                count: charge.count.saturating_sub(before.count),
                known_ns: 0,
            };
            (grown.wait_ns > 0 || grown.count > 0).then_some((pair, grown))
        });
        Table {
            pairs: pairs.collect(),
            left_out_ns: self.left_out_ns.saturating_sub(base.left_out_ns),
        }
    }
}

/// The pairs of one process.
#[derive(Clone, Debug, Default)]
pub(super) struct Pairs {
    table: Cumulative<Table>,
    victims: BTreeMap<Tid, Victim>,
}

impl Pairs {
    fn victim(&mut self, tid: Tid) -> Option<&mut Victim> {
        if self.victims.len() >= MAX_PAIRS && !self.victims.contains_key(&tid) {
            return None;
        }
        Some(self.victims.entry(tid).or_default())
    }

    /// `holder` is known to have kept `victim` waiting.
    pub(super) fn charge(&mut self, holder: Option<Tid>, victim: Tid, ns: u64) {
        if let Some(victim) = self.victim(victim) {
            victim.known_ns = victim.known_ns.saturating_add(ns);
        }
        if let Some(charge) = self.table.now.charge((victim, holder)) {
            charge.known_ns = charge.known_ns.saturating_add(ns);
        }
    }

    /// `victim` was blocked for so much longer, by its account.
    pub(super) fn blocked(&mut self, victim: Tid, ns: u64) {
        if ns > 0
            && let Some(victim) = self.victim(victim)
        {
            victim.blocked_ns = victim.blocked_ns.saturating_add(ns);
        }
    }

    /// Tells all waiting up to now, and returns how much that is, ns. `holder` has the GIL, as far as is known.
    pub(super) fn tell(&mut self, holder: Option<Tid>) -> u64 {
        let (table, mut all_ns) = (&mut self.table.now, 0u64);
        for (&tid, victim) in &mut self.victims {
            let untold_ns = victim.untold_ns();
            if untold_ns == 0 {
                continue;
            }
            victim.told_ns = victim.told_ns.saturating_add(untold_ns);
            all_ns = all_ns.saturating_add(untold_ns);
            let rest_ns = table.pay(tid, untold_ns);
            if rest_ns > 0 {
                let holder = holder.filter(|holder| *holder != tid);
                match table.charge((tid, holder)) {
                    Some(charge) => charge.wait_ns = charge.wait_ns.saturating_add(rest_ns),
                    None => table.left_out_ns = table.left_out_ns.saturating_add(rest_ns),
                }
            }
        }
        all_ns
    }

    /// Counts a wait of `victim` in which `holder` had the largest part.
    pub(super) fn count(&mut self, holder: Option<Tid>, victim: Tid) {
        if let Some(charge) = self.table.now.charge((victim, holder)) {
            charge.count = charge.count.saturating_add(1);
        }
    }

    /// The rows, largest first, and how much waiting is in none of them, ns.
    pub(super) fn report(&self, scope: Scope) -> (Vec<GilPair>, u64) {
        let mut table = self.table.over(scope);
        table.keep_largest(MAX_ROWS);
        let rows = table.pairs.into_iter();
        let rows = rows.filter(|(_, charge)| charge.wait_ns > 0 || charge.count > 0);
        let mut rows: Vec<_> = rows
            .map(|((victim, holder), charge)| GilPair {
                holder_tid: holder.map(|tid| tid.0),
                victim_tid: victim.0,
                wait_ns: charge.wait_ns,
                count: charge.count,
            })
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse((row.wait_ns, row.count)));
        (rows, table.left_out_ns)
    }

    /// Begins a window, with room for pairs that are new in it.
    pub(super) fn roll(&mut self) {
        self.table.now.keep_largest(KEPT_PAIRS);
        self.table.roll();
        if self.victims.len() > KEPT_PAIRS {
            self.victims.retain(|_, one| one.told_ns != one.known_ns);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VICTIM: Tid = Tid(1);
    const HOG: Option<Tid> = Some(Tid(2));
    const OTHER: Option<Tid> = Some(Tid(3));

    fn of(pairs: &Pairs, holder: Option<Tid>, scope: Scope) -> u64 {
        let (rows, _) = pairs.report(scope);
        let rows = rows
            .iter()
            .filter(|row| row.holder_tid == holder.map(|tid| tid.0));
        rows.map(|row| row.wait_ns).sum()
    }

    #[test]
    fn waiting_is_told_in_its_window_and_goes_to_whom_it_is_owed_later() {
        let mut pairs = Pairs::default();
        // It waits, and all that is known is who has the GIL now.
        pairs.blocked(VICTIM, 100);
        assert_eq!(pairs.tell(OTHER), 100);
        assert_eq!(of(&pairs, OTHER, Scope::Window), 100);
        pairs.roll();
        // The hand-overs of the first window come in the second: another thread had it.
        pairs.charge(HOG, VICTIM, 100);
        pairs.blocked(VICTIM, 70);
        assert_eq!(pairs.tell(OTHER), 70);
        assert_eq!(of(&pairs, HOG, Scope::Window), 70);
        pairs.roll();
        pairs.charge(HOG, VICTIM, 70);
        pairs.blocked(VICTIM, 130);
        assert_eq!(pairs.tell(None), 130);
        assert_eq!(of(&pairs, HOG, Scope::Whole), 170);
        assert_eq!(of(&pairs, None, Scope::Whole), 30);
        pairs.roll();
        // All of it is known, and nothing more was waited.
        pairs.charge(HOG, VICTIM, 130);
        assert_eq!(pairs.tell(None), 0);
    }

    #[test]
    fn what_has_no_account_is_told_when_it_is_known() {
        let mut pairs = Pairs::default();
        pairs.charge(HOG, VICTIM, 50);
        assert_eq!(pairs.tell(OTHER), 50);
        assert_eq!(of(&pairs, HOG, Scope::Whole), 50);
        // Nobody waits for itself.
        pairs.blocked(Tid(3), 9);
        assert_eq!(pairs.tell(OTHER), 9);
        assert_eq!(of(&pairs, None, Scope::Whole), 9);
    }

    #[test]
    fn what_is_kept_of_victims_is_bounded() {
        let mut pairs = Pairs::default();
        for tid in 0..3 * MAX_PAIRS as u32 {
            pairs.blocked(Tid(tid), 1);
            pairs.charge(HOG, Tid(tid), 1);
        }
        assert!(pairs.victims.len() <= MAX_PAIRS);
        assert_eq!(pairs.tell(None), MAX_PAIRS as u64);
        pairs.roll();
        assert!(pairs.victims.is_empty());
    }
}
