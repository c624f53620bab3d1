//! Who waited for whom.

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

type Pair = (Option<Tid>, Tid);

#[derive(Clone, Copy, Debug, Default)]
struct Charge {
    wait_ns: u64,
    count: u64,
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

impl Growth for Table {
    fn since(&self, base: &Self) -> Self {
        let pairs = self.pairs.iter().filter_map(|(&pair, charge)| {
            let before = base.pairs.get(&pair).copied().unwrap_or_default();
            let grown = Charge {
                wait_ns: charge.wait_ns.saturating_sub(before.wait_ns),
                count: charge.count.saturating_sub(before.count),
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
pub(super) struct Pairs(Cumulative<Table>);

impl Pairs {
    /// Charges waiting of `victim` to `holder`.
    pub(super) fn add(&mut self, holder: Option<Tid>, victim: Tid, ns: u64) {
        let table = &mut self.0.now;
        match table.charge((holder, victim)) {
            Some(charge) => charge.wait_ns = charge.wait_ns.saturating_add(ns),
            None => table.left_out_ns = table.left_out_ns.saturating_add(ns),
        }
    }

    /// Counts a wait of `victim` in which `holder` had the largest part.
    pub(super) fn count(&mut self, holder: Option<Tid>, victim: Tid) {
        if let Some(charge) = self.0.now.charge((holder, victim)) {
            charge.count = charge.count.saturating_add(1);
        }
    }

    /// The rows, largest first, and how much waiting is in none of them, ns.
    pub(super) fn report(&self, scope: Scope) -> (Vec<GilPair>, u64) {
        let mut table = self.0.over(scope);
        table.keep_largest(MAX_ROWS);
        let rows = table.pairs.into_iter();
        let mut rows: Vec<_> = rows
            .map(|((holder, victim), charge)| GilPair {
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
        self.0.now.keep_largest(KEPT_PAIRS);
        self.0.roll();
    }
}
