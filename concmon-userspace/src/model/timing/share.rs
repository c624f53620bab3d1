//! What samples say of a part of a loop's time.

use super::cost::column;
use crate::event::Cause;
use crate::model::window::Growth;
use crate::schema::Cost;

/// Samples of one owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    /// Samples on a CPU.
    pub(super) on_cpu: u64,
    pub(super) samples: u64,
    /// Blocks that were seen to begin, with their time.
    pub(super) blocked: Cost,
}

impl Share {
    pub(super) fn add(&mut self, other: &Share) {
        self.on_cpu += other.on_cpu;
        self.samples += other.samples;
        self.blocked.add(&other.blocked);
    }

    /// What it stands for, when `all` samples stand for `busy`. Time on a CPU and waiting for one goes
    /// by samples, blocked time by blocks that were seen, cause by cause.
    pub(super) fn of(&self, all: &Share, busy: &Cost) -> Cost {
        let mut cost = Cost {
            on_cpu_ns: part(busy.on_cpu_ns, self.on_cpu, all.on_cpu),
            runnable_ns: part(busy.runnable_ns, self.on_cpu, all.on_cpu),
            ..Cost::default()
        };
        for cause in Cause::ALL {
            *column(&mut cost.blocked_ns, cause) = part(
                busy.blocked(cause),
                self.blocked.blocked(cause),
                all.blocked.blocked(cause),
            );
        }
        cost
    }
}

impl Growth for Share {
    fn since(&self, base: &Self) -> Self {
        Share {
            on_cpu: self.on_cpu.saturating_sub(base.on_cpu),
            samples: self.samples.saturating_sub(base.samples),
            blocked: self.blocked.since(&base.blocked),
        }
    }
}

/// `ns * one / all`, rounded down; 0 where there is nothing.
fn part(ns: u64, one: u64, all: u64) -> u64 {
    if all == 0 {
        return 0;
    }
    (u128::from(ns) * u128::from(one.min(all)) / u128::from(all)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_stand_for_time() {
        let one = Share {
            on_cpu: 1,
            samples: 1,
            ..Share::default()
        };
        let mut all = one;
        all.add(&Share {
            on_cpu: 3,
            samples: 3,
            ..Share::default()
        });
        let busy = Cost {
            on_cpu_ns: 100,
            runnable_ns: 20,
            ..Cost::default()
        };
        let cost = one.of(&all, &busy);
        assert_eq!((cost.on_cpu_ns, cost.runnable_ns), (25, 5));
        assert_eq!(one.of(&Share::default(), &busy), Cost::default());
    }
}
