//! When switches are told: for a part of the time, in periods whose watched time is a window of its own, or several.

use crate::cli::{DutyCycle, Share};

/// A period is so many intervals of the watch, and at least so long, ns.
const PERIODS: u64 = 4;
const LEAST_PERIOD_NS: u64 = 2_000_000_000;
/// Watched time is at least so long, ns: what begins in less ends outside of it.
const LEAST_ON_NS: u64 = 100_000_000;
/// Time between is longer or shorter by up to this part of it, so that periods keep no step with what programs do.
const JITTER: f64 = 0.25;
/// The golden ratio: its multiples are spread evenly, however many there are.
const GOLDEN: f64 = 0.618_033_988_749_894_9;

/// The least part of the time that is watched, whatever that takes; who wants less says so.
const LEAST_SHARE: f64 = 0.1;
/// Watched is all the time where so much of it may be: the rest would save nothing worth a pause.
const ALL: f64 = 0.95;
/// The part is raised where so many times as much may be watched, and by that much at once.
const WORTH: f64 = 1.25;
const AT_ONCE: f64 = 2.0;

/// The turns of one watch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Duty {
    cycle: DutyCycle,
    /// Now.
    share: Share,
    /// What kernel programs take of a CPU's time while switches are told, lately; `None`: not known yet.
    takes: Option<f64>,
    period_ns: u64,
    /// Switches are told now.
    is_on: bool,
    /// When that changes, ns; the last of all instants: never.
    turns_ns: u64,
    /// Somebody waits for what is told now.
    is_held: bool,
    turns: u32,
}

impl Duty {
    /// For a watch with such windows, in which switches are told from `now_ns` on.
    pub(crate) fn new(cycle: DutyCycle, interval_ns: u64, now_ns: u64) -> Self {
        let mut duty = Self {
            cycle,
            share: at_first(cycle),
            takes: None,
            period_ns: interval_ns.saturating_mul(PERIODS).max(LEAST_PERIOD_NS),
            is_on: true,
            turns_ns: u64::MAX,
            is_held: false,
            turns: 0,
        };
        duty.plan(now_ns);
        duty
    }

    /// When it turns next, ns; `None`: never.
    pub(crate) fn turns_ns(&self) -> Option<u64> {
        (self.turns_ns != u64::MAX).then_some(self.turns_ns)
    }

    /// Whether it is time to turn; then switches are told from now on, or are not.
    pub(crate) fn turn(&mut self, now_ns: u64) -> Option<bool> {
        (now_ns >= self.turns_ns).then(|| {
            self.is_on = !self.is_on;
            self.plan(now_ns);
            self.is_on
        })
    }

    /// It could not turn, and is as it is: another try comes with the next period.
    pub(crate) fn failed(&mut self, now_ns: u64, is_on: bool) {
        self.is_on = is_on;
        self.turns_ns = now_ns.saturating_add(self.period_ns);
    }

    /// Switches are told for another part of the time.
    pub(crate) fn set_cycle(&mut self, cycle: DutyCycle, now_ns: u64) {
        if self.cycle != cycle {
            self.cycle = cycle;
            self.set_share(at_first(cycle), now_ns);
        }
    }

    fn set_share(&mut self, share: Share, now_ns: u64) {
        if self.share != share {
            self.share = share;
            self.plan(now_ns);
        }
    }

    /// While switches were told, kernel programs took `took` of a CPU's time, and in the long run they may take
    /// `allowed`.
    pub(crate) fn adapt(&mut self, took: f64, allowed: f64, now_ns: u64) {
        let took = self.takes.map_or(took, |before| (before + took) / 2.0);
        self.takes = Some(took);
        if self.cycle != DutyCycle::Auto {
            return;
        }
        let wanted = match allowed / took {
            share if share >= ALL => 1.0,
            share => share.max(LEAST_SHARE),
        };
        let now = self.share.0;
        if wanted < now {
            self.set_share(Share(wanted), now_ns);
        } else if wanted > now * WORTH || (wanted >= 1.0 && now < 1.0) {
            self.set_share(Share(wanted.min(now * AT_ONCE)), now_ns);
        }
    }

    /// What kernel programs take of a CPU's time in the long run, of what is known.
    pub(crate) fn takes(&self) -> f64 {
        self.takes.unwrap_or(0.0) * self.share.0
    }

    /// For which part of the time switches are told, to stay inside the budget; `None`: that is not why.
    pub(crate) fn shed_to(&self) -> Option<Share> {
        (self.cycle == DutyCycle::Auto && self.share.0 < 1.0).then_some(self.share)
    }

    /// While somebody waits for what is told, all is.
    pub(crate) fn hold(&mut self, is_held: bool, now_ns: u64) {
        if self.is_held != is_held {
            self.is_held = is_held;
            self.plan(now_ns);
        }
    }

    fn plan(&mut self, now_ns: u64) {
        let whole = self.is_held || self.share.0 >= 1.0;
        self.turns_ns = match (self.is_on, whole) {
            (true, true) => u64::MAX,
            (false, true) => now_ns,
            (true, false) => now_ns.saturating_add(self.on_ns()),
            (false, false) => {
                let off_ns = self.on_ns() as f64 * (1.0 / self.share.0 - 1.0);
                self.turns = self.turns.wrapping_add(1);
                let spread = (f64::from(self.turns) * GOLDEN).fract() - 0.5;
                // Saturates.
                now_ns.saturating_add((off_ns * (1.0 + 2.0 * JITTER * spread)) as u64)
            }
        };
    }

    fn on_ns(&self) -> u64 {
        ((self.period_ns as f64 * self.share.0) as u64).max(LEAST_ON_NS)
    }
}

/// What is watched before anything is known of what that takes.
const fn at_first(cycle: DutyCycle) -> Share {
    match cycle {
        DutyCycle::Auto => Share(1.0),
        DutyCycle::Fixed(share) => share,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn fixed(share: f64) -> DutyCycle {
        DutyCycle::Fixed(Share(share))
    }

    /// How long switches were told and not told in so many turns.
    fn run(duty: &mut Duty, turns: usize) -> (Vec<u64>, Vec<u64>) {
        let (mut on, mut off) = (Vec::new(), Vec::new());
        let mut now_ns = 0;
        for _ in 0..turns {
            let next_ns = duty.turns_ns().expect("it turns");
            assert_eq!(duty.turn(next_ns - 1), None);
            match duty.turn(next_ns) {
                Some(true) => off.push(next_ns - now_ns),
                Some(false) => on.push(next_ns - now_ns),
                None => panic!("it is time"),
            }
            now_ns = next_ns;
        }
        (on, off)
    }

    #[test]
    fn the_share_is_kept_in_the_long_run_and_periods_vary() {
        for (percent, interval_ns) in [(10.0, 5 * S), (50.0, S), (1.0, S / 10), (99.0, 5 * S)] {
            let mut duty = Duty::new(fixed(percent / 100.0), interval_ns, 0);
            let (on, off) = run(&mut duty, 2_000);
            let (sum_on, sum_off): (u64, u64) = (on.iter().sum(), off.iter().sum());
            let share = sum_on as f64 / (sum_on + sum_off) as f64 * 100.0;
            assert!(
                (share - percent).abs() < percent / 100.0,
                "{percent}: {share}"
            );
            assert!(on.iter().all(|ns| *ns == on[0] && *ns >= LEAST_ON_NS));
            let (least, most) = (off.iter().min(), off.iter().max());
            assert!(
                least
                    .zip(most)
                    .is_some_and(|(least, most)| least * 3 < most * 2)
            );
        }
    }

    #[test]
    fn the_whole_never_turns() {
        let mut duty = Duty::new(fixed(1.0), S, 0);
        assert_eq!(duty.turns_ns(), None);
        assert_eq!(duty.turn(u64::MAX - 1), None);
        duty.set_cycle(fixed(0.5), 10 * S);
        assert_eq!(duty.turns_ns(), Some(12 * S));
    }

    #[test]
    fn while_somebody_waits_all_is_told() {
        let mut duty = Duty::new(fixed(0.1), 5 * S, 0);
        assert_eq!(duty.turn(2 * S), Some(false));
        duty.hold(true, 3 * S);
        assert_eq!(duty.turn(3 * S), Some(true));
        assert_eq!(duty.turns_ns(), None);
        duty.hold(false, 60 * S);
        assert_eq!(duty.turns_ns(), Some(62 * S));
        assert_eq!(duty.turn(62 * S), Some(false));
    }

    #[test]
    fn what_could_not_turn_is_as_it_was() {
        let mut duty = Duty::new(fixed(0.1), 5 * S, 0);
        assert_eq!(duty.turn(2 * S), Some(false));
        duty.failed(2 * S, true);
        assert_eq!(duty.turns_ns(), Some(22 * S));
        assert_eq!(duty.turn(22 * S), Some(false));
    }

    #[test]
    fn as_much_is_watched_as_the_budget_allows() {
        let mut duty = Duty::new(DutyCycle::Auto, 5 * S, 0);
        assert_eq!((duty.turns_ns(), duty.shed_to()), (None, None));
        // A busy host: a quarter of it may be taken.
        duty.adapt(0.0625, 0.015625, 10 * S);
        assert_eq!(duty.shed_to(), Some(Share(0.25)));
        assert_eq!(duty.takes(), 0.015625);
        assert_eq!(duty.turns_ns(), Some(15 * S));
        // A little less busy: no reason to change.
        duty.adapt(0.05, 0.015625, 20 * S);
        assert_eq!(duty.shed_to(), Some(Share(0.25)));
        // Calm: more, step by step.
        let shares: Vec<f64> = (3..12)
            .map(|turn| {
                duty.adapt(0.001, 0.015625, turn * 10 * S);
                duty.share.0
            })
            .collect();
        assert!(shares.is_sorted() && shares[0] <= 0.5, "{shares:?}");
        assert_eq!(shares.last(), Some(&1.0));
        // Never less than the least, and what was asked for stays.
        duty.adapt(100.0, 0.01, 200 * S);
        assert_eq!(duty.shed_to(), Some(Share(LEAST_SHARE)));
        duty.set_cycle(fixed(0.5), 210 * S);
        duty.adapt(100.0, 0.01, 220 * S);
        assert_eq!((duty.share, duty.shed_to()), (Share(0.5), None));
    }
}
