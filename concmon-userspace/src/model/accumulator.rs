//! Sums of deltas by a key: they stay when those are gone that the deltas came from.

use std::collections::BTreeMap;

use super::add::Add;
use super::delta::Delta;
use super::folded::Rows;

/// Sums of deltas by a key, over the window and over the whole watch.
#[derive(Clone, Debug)]
pub(crate) struct Accumulator<K> {
    sums: BTreeMap<K, Sums>,
}

#[derive(Clone, Debug, Default)]
struct Sums {
    window: Option<Box<Delta>>,
    whole: Delta,
    ended: Rows,
}

impl<K> Default for Accumulator<K> {
    fn default() -> Self {
        Self {
            sums: BTreeMap::new(),
        }
    }
}

impl<K: Ord> Accumulator<K> {
    /// Takes in what was added under a key.
    pub(crate) fn add(&mut self, key: K, delta: &Delta) {
        let sums = self.sums.entry(key).or_default();
        sums.whole.add(delta);
        sums.window.get_or_insert_default().add(delta);
    }

    /// Takes in the rows of what has ended, whose sums are in it already.
    pub(crate) fn fold(&mut self, key: K, rows: &Rows) {
        self.sums.entry(key).or_default().ended.add(rows);
    }

    /// What was added in the window; `None`: nothing.
    pub(crate) fn window(&self, key: &K) -> Option<&Delta> {
        self.sums.get(key)?.window.as_deref()
    }

    /// What was added at all.
    pub(crate) fn whole(&self, key: &K) -> Option<&Delta> {
        Some(&self.sums.get(key)?.whole)
    }

    /// Rows that were folded away under a key.
    pub(crate) fn ended(&self, key: &K) -> Rows {
        let sums = self.sums.get(key);
        sums.map(|sums| sums.ended).unwrap_or_default()
    }

    /// Forgets what was added under a key.
    pub(crate) fn remove(&mut self, key: &K) {
        self.sums.remove(key);
    }

    /// Begins a window.
    pub(crate) fn roll(&mut self) {
        for sums in self.sums.values_mut() {
            sums.window = None;
        }
    }
}
