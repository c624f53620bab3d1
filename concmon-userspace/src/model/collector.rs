//! What the garbage collector did while it was watched: the growth of its own counts.

use super::add::Add;
use super::delta::{GcDelta, Generations};
use super::window::{Cumulative, Growth, Scope};
use crate::event::PyGc;
use crate::schema::Gc;

/// Counts of each generation, the youngest first.
#[derive(Clone, Debug, Default)]
struct Counts {
    collections: Vec<u64>,
    collected: Vec<u64>,
}

impl Counts {
    fn of(gc: &PyGc) -> Self {
        let of = |get: fn(&crate::event::PyGeneration) -> u64| {
            gc.generations.iter().map(get).collect::<Vec<u64>>()
        };
        Counts {
            collections: of(|generation| generation.collections),
            collected: of(|generation| generation.collected),
        }
    }

    fn plus(&self, other: &Self) -> Self {
        Counts {
            collections: each(&self.collections, &other.collections, u64::saturating_add),
            collected: each(&self.collected, &other.collected, u64::saturating_add),
        }
    }
}

impl Growth for Counts {
    fn since(&self, base: &Self) -> Self {
        Counts {
            collections: each(&self.collections, &base.collections, u64::saturating_sub),
            collected: each(&self.collected, &base.collected, u64::saturating_sub),
        }
    }
}

/// Generation by generation; what one of them has not is 0.
fn each(a: &[u64], b: &[u64], join: fn(u64, u64) -> u64) -> Vec<u64> {
    let at = |counts: &[u64], index: usize| counts.get(index).copied().unwrap_or(0);
    let length = a.len().max(b.len());
    (0..length)
        .map(|index| join(at(a, index), at(b, index)))
        .collect()
}

/// The collector of one process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Collector {
    grown: Cumulative<Counts>,
    /// What it said last; `None`: counting begins with what it says next.
    last: Option<Counts>,
    seen: bool,
}

impl Collector {
    pub(crate) fn look(&mut self, gc: &PyGc) {
        let counts = Counts::of(gc);
        if let Some(last) = &self.last {
            self.grown.now = self.grown.now.plus(&counts.since(last));
        } else {
            // As many generations as it has, with nothing in them.
            self.grown.now = self.grown.now.plus(&counts.since(&counts));
        }
        self.last = Some(counts);
        self.seen = true;
    }

    /// Another program runs from now on: its counts begin at nothing.
    pub(crate) fn replaced(&mut self) {
        self.last = Some(Counts::default());
    }

    pub(crate) fn roll(&mut self) {
        self.grown.roll();
    }

    /// Adds what it did in the window.
    pub(crate) fn add_to(&self, delta: &mut GcDelta) {
        if self.seen {
            let grown = self.grown.over(Scope::Window);
            delta.add(&GcDelta {
                seen: true,
                collections: Generations(grown.collections),
                collected: Generations(grown.collected),
            });
        }
    }

    /// `None` where it was never seen.
    pub(crate) fn row(&self, scope: Scope) -> Option<Gc> {
        let grown = self.grown.over(scope);
        self.seen.then_some(Gc {
            collections: grown.collections,
            collected: grown.collected,
            collecting_ns: None,
            estimated: vec!["collecting_ns"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::PyGeneration;

    fn gc(counts: &[(u64, u64)]) -> PyGc {
        let generations = counts.iter().map(|&(collections, collected)| PyGeneration {
            collections,
            collected,
            uncollectable: 0,
        });
        PyGc {
            generations: generations.collect(),
            collecting: false,
            generation: None,
        }
    }

    fn rows(collector: &Collector, scope: Scope) -> (Vec<u64>, Vec<u64>) {
        let row = collector.row(scope).expect("it was seen");
        (row.collections, row.collected)
    }

    #[test]
    fn windows_add_up_and_what_was_before_does_not_count() {
        let mut collector = Collector::default();
        assert!(collector.row(Scope::Whole).is_none());
        collector.look(&gc(&[(100, 7), (10, 5), (1, 0)]));
        assert_eq!(
            rows(&collector, Scope::Window),
            (vec![0, 0, 0], vec![0, 0, 0])
        );
        collector.look(&gc(&[(130, 9), (13, 5), (2, 4)]));
        assert_eq!(
            rows(&collector, Scope::Window),
            (vec![30, 3, 1], vec![2, 0, 4])
        );
        collector.roll();
        collector.look(&gc(&[(131, 9), (13, 5), (2, 4)]));
        assert_eq!(
            rows(&collector, Scope::Window),
            (vec![1, 0, 0], vec![0, 0, 0])
        );
        assert_eq!(
            rows(&collector, Scope::Whole),
            (vec![31, 3, 1], vec![2, 0, 4])
        );
    }

    #[test]
    fn a_new_program_counts_from_nothing() {
        let mut collector = Collector::default();
        collector.look(&gc(&[(100, 7)]));
        collector.replaced();
        collector.look(&gc(&[(5, 2), (1, 0)]));
        assert_eq!(rows(&collector, Scope::Whole), (vec![5, 1], vec![2, 0]));
        // Counts that fall are of no use, and harm nothing.
        collector.look(&gc(&[(1, 0)]));
        assert_eq!(rows(&collector, Scope::Whole), (vec![5, 1], vec![2, 0]));
    }
}
