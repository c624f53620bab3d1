//! How many records of each CPU never arrived, and between which instants.

use std::collections::BTreeMap;

use concmon_ebpf::BatchHeader;

use crate::event::{Event, Loss};

/// CPUs that are told apart.
const MAX_CPUS: usize = 65_536;

/// Follows the batches of every CPU; each tells how many records its CPU had produced before it.
#[derive(Clone, Debug)]
pub struct LossMeter {
    start_ns: u64,
    cpus: BTreeMap<u32, Seen>,
    lost: u64,
    regressed: u64,
    /// What a CPU had produced before its first batch is no loss: it was not asked for.
    joins: bool,
}

/// How far a CPU is known.
#[derive(Clone, Copy, Debug)]
struct Seen {
    produced: u64,
    until_ns: u64,
}

impl LossMeter {
    /// A watch that begins at `start_ns` (`CLOCK_MONOTONIC`), with nothing produced so far.
    pub fn new(start_ns: u64) -> Self {
        LossMeter {
            start_ns,
            cpus: BTreeMap::new(),
            lost: 0,
            regressed: 0,
            joins: false,
        }
    }

    /// One that joins a watch in its midst.
    pub fn joining(start_ns: u64) -> Self {
        LossMeter {
            joins: true,
            ..Self::new(start_ns)
        }
    }

    /// The loss between the batch with `header`, whose last record is of `last_ns`, and its
    /// predecessor on that CPU. Batches of a CPU are to be given in the order of their arrival.
    pub fn batch(&mut self, header: &BatchHeader, last_ns: u64) -> Option<Event> {
        let loss = self.advance(header.cpu, header.produced_before, header.opened_ns);
        let seen = self.seen(header.cpu);
        seen.produced = seen
            .produced
            .max(header.produced_before.saturating_add(header.count.into()));
        seen.until_ns = seen.until_ns.max(last_ns);
        loss
    }

    /// Records of `cpu` have arrived up to this instant.
    pub fn saw(&mut self, cpu: u32, last_ns: u64) {
        let seen = self.seen(cpu);
        seen.until_ns = seen.until_ns.max(last_ns);
    }

    /// The loss behind the last batch of `cpu`, which by its own count at `at_ns` had produced
    /// `produced` records; to be asked when all its batches have arrived.
    pub fn close(&mut self, cpu: u32, produced: u64, at_ns: u64) -> Option<Event> {
        self.advance(cpu, produced, at_ns)
    }

    /// Records lost so far, on all CPUs.
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Batches that began before the end of their predecessor. There are none, unless batches are
    /// damaged or given out of order.
    pub const fn regressed(&self) -> u64 {
        self.regressed
    }

    fn seen(&mut self, cpu: u32) -> &mut Seen {
        let nothing = Seen {
            produced: 0,
            until_ns: self.start_ns,
        };
        // Only a capture that nobody recorded has so many: the others share a place.
        let cpu = match self.cpus.len() < MAX_CPUS || self.cpus.contains_key(&cpu) {
            true => cpu,
            false => u32::MAX,
        };
        self.cpus.entry(cpu).or_insert(nothing)
    }

    fn advance(&mut self, cpu: u32, produced: u64, at_ns: u64) -> Option<Event> {
        if self.joins && !self.cpus.contains_key(&cpu) {
            let seen = self.seen(cpu);
            seen.produced = produced;
            seen.until_ns = seen.until_ns.max(at_ns);
            return None;
        }
        let seen = self.seen(cpu);
        let before = *seen;
        seen.produced = seen.produced.max(produced);
        seen.until_ns = seen.until_ns.max(at_ns);
        let to_ns = seen.until_ns;
        let Some(records) = produced.checked_sub(before.produced) else {
            self.regressed += 1;
            return None;
        };
        if records == 0 {
            return None;
        }
        self.lost = self.lost.saturating_add(records);
        Some(Event::Loss(Loss {
            cpu,
            records,
            from_ns: before.until_ns,
            to_ns,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Rng;

    fn header(cpu: u32, produced_before: u64, count: u16, opened_ns: u64) -> BatchHeader {
        BatchHeader {
            version: concmon_ebpf::WIRE_VERSION,
            count,
            cpu,
            produced_before,
            opened_ns,
        }
    }

    fn shown(event: Option<Event>) -> Option<(u32, u64, u64, u64)> {
        match event? {
            Event::Loss(loss) => Some((loss.cpu, loss.records, loss.from_ns, loss.to_ns)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn gaps() {
        let mut meter = LossMeter::new(50);
        let mut batch = |header, last_ns| shown(meter.batch(&header, last_ns));
        assert_eq!(batch(header(0, 0, 10, 100), 180), None);
        assert_eq!(batch(header(0, 10, 5, 200), 280), None);
        // The first batch of another CPU: what came before it is lost since the beginning.
        assert_eq!(batch(header(1, 7, 3, 210), 220), Some((1, 7, 50, 210)));
        assert_eq!(batch(header(0, 40, 1, 400), 400), Some((0, 25, 280, 400)));
        assert_eq!(batch(header(1, 10, 1, 500), 500), None);
        assert_eq!(shown(meter.close(0, 41, 600)), None);
        assert_eq!(shown(meter.close(1, 13, 600)), Some((1, 2, 500, 600)));
        assert_eq!(shown(meter.close(2, 4, 600)), Some((2, 4, 50, 600)));
        assert_eq!(shown(meter.close(2, 4, 700)), None);
        assert_eq!((meter.lost(), meter.regressed()), (7 + 25 + 2 + 4, 0));
    }

    #[test]
    fn a_step_back_is_no_loss() {
        let mut meter = LossMeter::new(0);
        assert_eq!(shown(meter.batch(&header(0, 0, 10, 100), 200)), None);
        assert_eq!(shown(meter.batch(&header(0, 3, 2, 90), 95)), None);
        assert_eq!(
            shown(meter.batch(&header(0, 11, 1, 80), 300)),
            Some((0, 1, 200, 200))
        );
        assert_eq!((meter.lost(), meter.regressed()), (1, 1));
    }

    /// Of batches dropped at random, exactly their records are reported, in disjoint intervals.
    #[test]
    fn lost_and_arrived_are_all() {
        let mut rng = Rng::new(5);
        for _ in 0..500 {
            let mut meter = LossMeter::new(0);
            let (mut produced, mut dropped, mut reported, mut now, mut until) = (0, 0, 0, 1, 0);
            for _ in 0..rng.below(40) {
                let count = rng.below(250) as u16;
                let last_ns = now + rng.below(50) as u64;
                if rng.below(3) == 0 {
                    dropped += u64::from(count);
                } else {
                    let loss = shown(meter.batch(&header(6, produced, count, now), last_ns));
                    if let Some((_, records, from_ns, to_ns)) = loss {
                        reported += records;
                        assert!(until <= from_ns && from_ns <= to_ns && to_ns == now);
                        until = to_ns;
                    }
                }
                produced += u64::from(count);
                now = last_ns + rng.below(9) as u64;
            }
            reported += shown(meter.close(6, produced, now)).map_or(0, |loss| loss.1);
            assert_eq!((reported, meter.lost()), (dropped, dropped));
        }
    }

    #[test]
    fn absurd_numbers_do_not_overflow() {
        let mut meter = LossMeter::new(u64::MAX);
        meter.batch(&header(0, u64::MAX, u16::MAX, 0), 0);
        meter.batch(&header(1, u64::MAX, 1, 0), u64::MAX);
        assert_eq!(meter.lost(), u64::MAX);
    }
}
