//! What the watch itself may take, and what it leaves out to stay inside: detail, never totals.

use std::{collections::VecDeque, mem};

use crate::cli::Share;

/// The time over which the own CPU time is averaged, and how much of it there must be, ns.
pub(crate) const SPAN_NS: u64 = 10_000_000_000;
const LEAST_NS: u64 = 3_000_000_000;
/// How long it must do with half of its budget before it leaves out less, at first and at most, ns.
const PATIENCE_NS: (u64, u64) = (20_000_000_000, 600_000_000_000);
/// How much is left out at most.
const MAX_LEVEL: u32 = 5;
/// The level from which on slices are left out, but for those of threads that run event loops: lag and stalls come
/// from these. At the last level they are left out, too.
const SLICES_LEVEL: u32 = 4;
/// And the one from which on requests are, where nobody asked for them.
const REQUESTS_LEVEL: u32 = 3;
const MAX_MEMORY_LEVEL: u32 = 3;

/// What is left out at a level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shed {
    level: u32,
    memory_level: u32,
}

impl Shed {
    /// Samples per second and CPU, of `rate`.
    pub(crate) fn rate(self, rate: u32) -> u32 {
        if rate == 0 {
            0
        } else {
            (rate >> self.samples()).max(1)
        }
    }

    fn samples(self) -> u32 {
        self.level.min(3)
    }

    /// Between two looks at an interpreter, ns.
    pub(crate) fn look_pause_ns(self) -> u64 {
        match self.level {
            0 => 0,
            1 => 2_000_000_000,
            2 => 5_000_000_000,
            _ => 10_000_000_000,
        }
    }

    /// Tasks of one look, of `tasks`. They take memory, and time in each window, with or without a look.
    pub(crate) fn tasks(self, tasks: usize) -> usize {
        (tasks >> (2 * self.tasks_level())).max(1)
    }

    fn tasks_level(self) -> u32 {
        let level = self.level.min(SLICES_LEVEL);
        self.memory_level.max(level.saturating_sub(2))
    }

    /// Whether single slices are not looked at.
    pub(crate) fn slices(self) -> bool {
        self.level >= SLICES_LEVEL
    }

    /// Whether those of threads that run event loops are, even so.
    pub(crate) fn keeps_loops(self) -> bool {
        self.level == SLICES_LEVEL
    }

    /// Whether requests are not looked at, where nobody asked for them.
    pub(crate) fn requests(self) -> bool {
        self.level >= REQUESTS_LEVEL
    }

    /// What is left out, in words.
    pub(crate) fn words(self, rate: u32, tasks: usize) -> Vec<String> {
        let mut words = Vec::new();
        if self.level > 0 {
            if rate > 0 {
                words.push(format!("samples: {} of {rate} per second", self.rate(rate)));
            }
            let seconds = self.look_pause_ns() / 1_000_000_000;
            words.push(format!("looks: one in {seconds} s"));
        }
        if self.keeps_loops() {
            words
                .push("slices: those of event loops only; who held the GIL is not told".to_owned());
        } else if self.slices() {
            words.push("slices: who held the GIL, stalls and lag are not told".to_owned());
        }
        if self.tasks_level() > 0 {
            words.push(format!("tasks: {} in a look", self.tasks(tasks)));
        }
        words
    }
}

/// The user's limits, and how they are kept.
#[derive(Debug)]
pub(crate) struct Budget {
    /// Of the time of one CPU.
    cpu: Share,
    memory_bytes: u64,
    shed: Shed,
    /// Instants, and the own CPU time until then, ns.
    spent: VecDeque<(u64, u64)>,
    /// Since when what is left out is what it is now.
    changed_ns: u64,
    /// Since when half of the budget does.
    calm_since_ns: Option<u64>,
    patience_ns: u64,
    /// Nothing is left out for want of time, and what is spent is not counted.
    suspended: bool,
    /// It was until after the last judgement: part of what was spent since then does not count.
    resumes: bool,
}

impl Budget {
    /// What was spent up to now is not counted: getting started takes what it takes.
    pub(crate) fn new(cpu: Share, memory_bytes: u64, now_ns: u64, cpu_ns: u64) -> Self {
        Self {
            cpu,
            memory_bytes,
            shed: Shed::default(),
            spent: VecDeque::from([(now_ns, cpu_ns)]),
            changed_ns: now_ns,
            calm_since_ns: None,
            patience_ns: PATIENCE_NS.0,
            suspended: false,
            resumes: false,
        }
    }

    /// What is left out now.
    pub(crate) fn shed(&self) -> Shed {
        match self.suspended {
            true => Shed {
                level: 0,
                ..self.shed
            },
            false => self.shed,
        }
    }

    /// From now on, it does not count what is spent, or counts it again. Returns what is left out, where that has
    /// changed.
    pub(crate) fn suspend(&mut self, suspended: bool) -> Option<Shed> {
        let before = self.shed();
        self.resumes |= self.suspended && !suspended;
        self.suspended = suspended;
        let shed = self.shed();
        (shed != before).then_some(shed)
    }

    pub(crate) fn cpu(&self) -> Share {
        self.cpu
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// The part of one CPU's time that was spent lately; `None`: too little time has passed.
    pub(crate) fn used(&self) -> Option<Share> {
        self.used_since(0)
    }

    fn used_since(&self, since_ns: u64) -> Option<Share> {
        let mut spent = self.spent.iter();
        let (from_ns, before_ns) = *spent.find(|(at_ns, _)| *at_ns >= since_ns)?;
        let (to_ns, after_ns) = *self.spent.back()?;
        let span_ns = to_ns.saturating_sub(from_ns);
        (span_ns >= LEAST_NS).then(|| {
            let spent_ns = after_ns.saturating_sub(before_ns) as f64;
            Share(spent_ns / span_ns as f64)
        })
    }

    /// Takes in what was spent up to an instant, of which so much of the time of a CPU is `allowed`: CPU time, ns, and
    /// memory, bytes. Returns what is left out from now on, where that has changed.
    pub(crate) fn judge(
        &mut self,
        now_ns: u64,
        allowed: Share,
        (cpu_ns, rss_bytes): (u64, u64),
    ) -> Option<Shed> {
        let before = self.shed();
        if mem::take(&mut self.resumes) || self.suspended {
            self.spent.clear();
            self.changed_ns = now_ns;
        }
        self.spent.push_back((now_ns, cpu_ns));
        while self
            .spent
            .get(1)
            .is_some_and(|(at_ns, _)| now_ns.saturating_sub(*at_ns) >= SPAN_NS)
        {
            self.spent.pop_front();
        }
        let memory = &mut self.shed.memory_level;
        if rss_bytes > self.memory_bytes {
            *memory = (*memory + 1).min(MAX_MEMORY_LEVEL);
        } else if rss_bytes < self.memory_bytes / 2 {
            *memory = memory.saturating_sub(1);
        }
        // What was spent before a change says nothing about what is spent after it.
        if let Some(used) = self.used_since(self.changed_ns) {
            self.judge_cpu(now_ns, used, allowed);
        }
        let shed = self.shed();
        if shed.level != before.level {
            self.changed_ns = now_ns;
            self.calm_since_ns = None;
        }
        (shed != before).then_some(shed)
    }

    fn judge_cpu(&mut self, now_ns: u64, used: Share, allowed: Share) {
        let level = &mut self.shed.level;
        if used.0 > allowed.0 {
            if *level < MAX_LEVEL {
                *level += 1;
                // What had to be taken back was tried too soon.
                self.patience_ns = (self.patience_ns * 2).min(PATIENCE_NS.1);
            }
            self.calm_since_ns = None;
        } else if used.0 < allowed.0 / 2.0 && *level > 0 {
            let since_ns = *self.calm_since_ns.get_or_insert(now_ns);
            if now_ns.saturating_sub(since_ns) >= self.patience_ns {
                *level -= 1;
            }
        } else {
            self.calm_since_ns = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn budget() -> Budget {
        Budget::new(Share(0.02), 100 << 20, 0, 5 * S)
    }

    /// Spends `part` of one CPU from second to second; the levels after each.
    fn spend(budget: &mut Budget, from_s: u64, seconds: u64, part: f64) -> Vec<u32> {
        let mut cpu_ns = budget.spent.back().expect("never empty").1;
        (from_s + 1..=from_s + seconds)
            .map(|second| {
                cpu_ns += (part * S as f64) as u64;
                budget.judge(second * S, Share(0.02), (cpu_ns, 1 << 20));
                budget.shed.level
            })
            .collect()
    }

    #[test]
    fn inside_the_budget_nothing_is_left_out() {
        let mut budget = budget();
        assert!(
            spend(&mut budget, 0, 100, 0.018)
                .iter()
                .all(|level| *level == 0)
        );
        assert!(budget.shed.words(99, 10_000).is_empty());
        assert_eq!(budget.shed.rate(99), 99);
    }

    #[test]
    fn while_it_is_suspended_nothing_is_left_out_and_nothing_is_counted() {
        let mut budget = budget();
        spend(&mut budget, 0, 40, 0.1);
        assert_eq!(budget.shed().rate(99), 12);
        assert_eq!(budget.suspend(true).map(|shed| shed.rate(99)), Some(99));
        assert_eq!(budget.suspend(true), None);
        spend(&mut budget, 40, 20, 0.9);
        assert_eq!((budget.shed().rate(99), budget.used()), (99, None));
        // Part of the next second is spent before it ends.
        assert_eq!(budget.suspend(false).map(|shed| shed.rate(99)), Some(12));
        spend(&mut budget, 60, 1, 0.9);
        assert_eq!(budget.used(), None);
        spend(&mut budget, 61, 3, 0.015);
        assert!(budget.used().is_some_and(|used| used.0 < 0.02));
    }

    #[test]
    fn a_short_burst_is_let_pass() {
        let mut budget = budget();
        spend(&mut budget, 0, 20, 0.005);
        assert_eq!(spend(&mut budget, 20, 1, 0.1), [0]);
        assert_eq!(spend(&mut budget, 21, 20, 0.005), [0; 20]);
    }

    #[test]
    fn more_and_more_is_left_out_and_comes_back_slowly() {
        let mut budget = budget();
        let levels = spend(&mut budget, 0, 40, 0.1);
        assert!(levels.contains(&SLICES_LEVEL));
        assert_eq!(levels.last(), Some(&MAX_LEVEL));
        assert!(levels.is_sorted());
        assert!(levels[..2].iter().all(|level| *level == 0), "{levels:?}");
        assert!(budget.shed.slices());
        assert_eq!(budget.shed.rate(99), 12);
        assert_eq!(budget.shed.rate(1), 1);
        assert_eq!(budget.shed.words(99, 10_000).len(), 4);
        assert_eq!(budget.shed.tasks(10_000), 625);
        let levels = spend(&mut budget, 40, 4_000, 0.001);
        assert_eq!(levels.last(), Some(&0));
        let first = levels.iter().position(|level| *level < MAX_LEVEL);
        assert!(first.is_some_and(|first| first >= 20), "{first:?}");
    }

    #[test]
    fn what_event_loops_need_goes_last() {
        let kept = |level| {
            let shed = Shed {
                level,
                memory_level: 0,
            };
            (shed.slices(), shed.keeps_loops())
        };
        let by_level = (0..=MAX_LEVEL).map(kept).collect::<Vec<_>>();
        assert_eq!(by_level[..4], [(false, false); 4]);
        assert_eq!(by_level[4..], [(true, true), (true, false)]);
    }

    #[test]
    fn what_is_used_is_known_right_after_a_change() {
        let mut budget = budget();
        spend(&mut budget, 0, 2, 0.1);
        assert_eq!(budget.used(), None);
        for second in 2..30 {
            let level = budget.shed.level;
            let changes = spend(&mut budget, second, 1, 0.1) != [level];
            let used = budget.used().expect("known").0;
            assert!((used - 0.1).abs() < 0.001, "{second}, {changes}: {used}");
        }
        assert_eq!(budget.shed.level, MAX_LEVEL);
    }

    #[test]
    fn what_is_between_is_left_as_it_is() {
        let mut budget = budget();
        assert_eq!(spend(&mut budget, 0, 3, 0.1), [0, 0, 1]);
        let levels = spend(&mut budget, 3, 500, 0.015);
        assert!(levels.iter().all(|level| *level == 1));
    }

    #[test]
    fn too_much_memory_makes_looks_smaller() {
        let mut budget = budget();
        assert!(budget.judge(S, Share(0.02), (0, 200 << 20)).is_some());
        assert_eq!(budget.shed.tasks(10_000), 2_500);
        assert_eq!(budget.shed.words(99, 10_000), ["tasks: 2500 in a look"]);
        assert_eq!(budget.judge(2 * S, Share(0.02), (0, 70 << 20)), None);
        assert!(budget.judge(3 * S, Share(0.02), (0, 20 << 20)).is_some());
        assert_eq!(budget.shed, Shed::default());
    }

    #[test]
    fn clocks_that_go_back_do_no_harm() {
        let mut budget = budget();
        for at_ns in [10 * S, 5 * S, u64::MAX, 0, 20 * S] {
            budget.judge(at_ns, Share(0.02), (at_ns / 2, u64::MAX));
        }
        assert!(budget.shed.level <= MAX_LEVEL);
    }
}
