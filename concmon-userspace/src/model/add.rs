//! Sums that add up, in whichever order.

use std::collections::BTreeMap;

use super::fine::Fine;
use super::histogram::Tally;
use super::ledger::Totals;
use crate::schema::{Delayed, LockNs};

/// Adds up what only grows.
pub(crate) trait Add {
    fn add(&mut self, other: &Self);
}

/// Something was so in one of them.
impl Add for bool {
    fn add(&mut self, other: &Self) {
        *self |= *other;
    }
}

impl Add for u64 {
    fn add(&mut self, other: &Self) {
        *self = self.saturating_add(*other);
    }
}

impl Add for Tally {
    fn add(&mut self, other: &Self) {
        Tally::add(self, other);
    }
}

impl Add for Delayed {
    fn add(&mut self, other: &Self) {
        self.requests.add(&other.requests);
        self.delay_ns.add(&other.delay_ns);
        self.unread_ns.add(&other.unread_ns);
    }
}

impl Add for Fine {
    fn add(&mut self, other: &Self) {
        Fine::add(self, other);
    }
}

impl Add for LockNs {
    fn add(&mut self, other: &Self) {
        self.contended.add(&other.contended);
        self.waiting_for_work.add(&other.waiting_for_work);
        self.join.add(&other.join);
        self.other.add(&other.other);
    }
}

impl Add for Totals {
    fn add(&mut self, other: &Self) {
        *self = self.plus(other);
    }
}

/// Sums by a few keys.
#[derive(Clone, Debug)]
pub(crate) struct ByKey<K, V>(pub(crate) BTreeMap<K, V>);

impl<K, V> Default for ByKey<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Copy, V: Add + Default> ByKey<K, V> {
    pub(crate) fn of(&mut self, key: K) -> &mut V {
        self.0.entry(key).or_default()
    }
}

impl<K: Ord + Copy, V: Add + Default> Add for ByKey<K, V> {
    fn add(&mut self, other: &Self) {
        for (key, value) in &other.0 {
            self.of(*key).add(value);
        }
    }
}
