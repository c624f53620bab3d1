//! When records were lost.

use crate::event::Loss;

/// Stretches that are told apart; beyond, the nearest become one.
const MAX_STRETCHES: usize = 512;

/// A stretch in which records of some CPU never arrived (`CLOCK_MONOTONIC`, ns).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    pub from_ns: u64,
    pub to_ns: u64,
    pub records: u64,
}

/// Lossy stretches, in order, none overlapping.
#[derive(Clone, Debug, Default)]
pub struct Losses(Vec<Stretch>);

impl Losses {
    pub(super) fn add(&mut self, loss: &Loss) {
        let mut new = Stretch {
            from_ns: loss.from_ns.min(loss.to_ns),
            to_ns: loss.to_ns,
            records: loss.records,
        };
        let first = self.0.partition_point(|one| one.to_ns < new.from_ns);
        let last = self.0.partition_point(|one| one.from_ns <= new.to_ns);
        for old in self.0.drain(first..last.max(first)) {
            new = joined(old, new);
        }
        self.0.insert(first, new);
        if self.0.len() > MAX_STRETCHES {
            let gap = |pair: &[Stretch]| pair[1].from_ns - pair[0].to_ns;
            let nearest = self
                .0
                .windows(2)
                .enumerate()
                .min_by_key(|(_, pair)| gap(pair));
            if let Some((at, _)) = nearest {
                let next = self.0.remove(at + 1);
                self.0[at] = joined(self.0[at], next);
            }
        }
    }

    pub fn stretches(&self) -> &[Stretch] {
        &self.0
    }
}

fn joined(one: Stretch, other: Stretch) -> Stretch {
    Stretch {
        from_ns: one.from_ns.min(other.from_ns),
        to_ns: one.to_ns.max(other.to_ns),
        records: one.records.saturating_add(other.records),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(from_ns: u64, to_ns: u64) -> Loss {
        Loss {
            cpu: 0,
            records: 1,
            from_ns,
            to_ns,
        }
    }

    #[test]
    fn overlapping_stretches_are_one() {
        let mut losses = Losses::default();
        for (from, to) in [(50, 60), (10, 20), (15, 30), (0, 5), (25, 55)] {
            losses.add(&loss(from, to));
        }
        let found: Vec<_> = losses
            .stretches()
            .iter()
            .map(|s| (s.from_ns, s.to_ns, s.records))
            .collect();
        assert_eq!(found, [(0, 5, 1), (10, 60, 4)]);
    }

    #[test]
    fn they_are_few_and_lose_nothing() {
        let mut losses = Losses::default();
        for i in 0..5_000 {
            losses.add(&loss(i * 7 % 5_000 * 100, i * 7 % 5_000 * 100 + 10));
        }
        assert!(losses.stretches().len() <= MAX_STRETCHES);
        assert_eq!(
            losses.stretches().iter().map(|s| s.records).sum::<u64>(),
            5_000
        );
        assert!(
            losses
                .stretches()
                .windows(2)
                .all(|pair| pair[0].to_ns < pair[1].from_ns)
        );
    }
}
