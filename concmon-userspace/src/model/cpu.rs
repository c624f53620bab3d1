//! A thread's CPU time by mode: the ledger's `on_cpu`, split as `/proc` splits its own.
//!
//! `/proc` counts in clock ticks, so the split is an estimate; its sum is exact.

use super::projection::project;
use super::window::{Cumulative, Growth, Scope};

/// User and system CPU time, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Modes {
    pub(crate) user_ns: u64,
    pub(crate) system_ns: u64,
}

impl Growth for Modes {
    fn since(&self, base: &Self) -> Self {
        Modes {
            user_ns: self.user_ns.saturating_sub(base.user_ns),
            system_ns: self.system_ns.saturating_sub(base.system_ns),
        }
    }
}

impl Modes {
    /// `on_cpu_ns` divided in the ratio of these. Without any CPU time it is all user time.
    fn split(&self, on_cpu_ns: u64) -> [u64; 2] {
        let weight = u128::from(self.user_ns) + u128::from(self.system_ns);
        let system = match weight {
            0 => 0,
            weight => (u128::from(on_cpu_ns) * u128::from(self.system_ns) / weight) as u64,
        };
        [on_cpu_ns - system, system]
    }
}

/// The estimated split of one thread.
#[derive(Clone, Debug, Default)]
pub(crate) struct CpuSplit {
    /// What `/proc` had counted before the account began.
    before: Option<Modes>,
    latest: Modes,
    modes: Cumulative<Modes>,
    known: bool,
    /// What sums have of it.
    given: Modes,
}

impl CpuSplit {
    /// What `/proc` counts for the thread since its birth. `seeded`: the thread is older than
    /// its account, so that what the first reading counts is not the account's.
    pub(crate) fn observe(&mut self, counted: Modes, seeded: bool) {
        let first = if seeded { counted } else { Modes::default() };
        self.before.get_or_insert(first);
        self.latest = counted;
    }

    /// Brings the split up to the account's `on_cpu` time, now and where the window began.
    pub(crate) fn settle(&mut self, on_cpu_ns: u64, on_cpu_base_ns: u64) {
        let Some(before) = self.before else {
            return;
        };
        let mut ratio = self.latest.since(&before);
        if ratio == Modes::default() {
            // Less than a tick since the account began: its life before is the best guess.
            ratio = self.latest;
        }
        let modes = |[user_ns, system_ns]: [u64; 2]| Modes { user_ns, system_ns };
        if !self.known {
            self.known = true;
            self.modes.now = modes(ratio.split(on_cpu_base_ns));
            self.modes.roll();
        }
        let previous = [self.modes.now.user_ns, self.modes.now.system_ns];
        self.modes.now = modes(project(&previous, &ratio.split(on_cpu_ns)));
    }

    /// What came to it since this was asked last.
    pub(crate) fn take_growth(&mut self) -> Modes {
        let grown = self.modes.now.since(&self.given);
        self.given = self.modes.now;
        grown
    }

    /// The split; `None` when `/proc` was never read.
    pub(crate) fn over(&self, scope: Scope) -> Option<Modes> {
        self.known.then(|| self.modes.over(scope))
    }

    pub(crate) fn roll(&mut self) {
        self.modes.roll();
    }

    pub(crate) fn forget_base(&mut self) {
        self.modes.forget_base();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::testing::Random;

    #[test]
    fn sums_to_on_cpu_in_every_window() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut split = CpuSplit::default();
            let seeded = random.below(2) == 0;
            let seen_from = random.below(3);
            let mut counted = Modes {
                user_ns: random.below(1 << 40),
                system_ns: random.below(1 << 40),
            };
            let (mut on_cpu, mut base) = (0u64, 0u64);
            for window in 0..8 {
                on_cpu += random.below(1 << 30);
                counted.user_ns += random.below(3) * 10_000_000;
                counted.system_ns += random.below(3) * 10_000_000;
                if window >= seen_from {
                    split.observe(counted, seeded);
                }
                split.settle(on_cpu, base);
                for (scope, want) in [(Scope::Window, on_cpu - base), (Scope::Whole, on_cpu)] {
                    let modes = split.over(scope);
                    assert_eq!(modes.is_some(), window >= seen_from);
                    assert_eq!(modes.map_or(want, |m| m.user_ns + m.system_ns), want);
                }
                split.roll();
                base = on_cpu;
            }
        }
    }

    #[test]
    fn follows_the_growth_of_proc() {
        // A thread that only computed before the watch, and only makes system calls now.
        let counted = |user_ns, system_ns| Modes { user_ns, system_ns };
        let mut split = CpuSplit::default();
        split.observe(counted(9_000, 0), true);
        split.observe(counted(9_000, 100), true);
        split.settle(110, 0);
        assert_eq!(split.over(Scope::Whole), Some(counted(0, 110)));
    }

    #[test]
    fn nonsense_does_not_panic() {
        let mut split = CpuSplit::default();
        for (user_ns, system_ns, on_cpu) in
            [(u64::MAX, u64::MAX, u64::MAX), (0, 0, 0), (1, 0, u64::MAX)]
        {
            split.observe(Modes { user_ns, system_ns }, false);
            split.settle(on_cpu, u64::MAX);
        }
        assert!(split.over(Scope::Whole).is_some());
    }
}
