//! When switches are told: for a part of the time, in periods whose watched time is a window of its own, or several.

use crate::{
    cli::{DutyCycle, Share},
    source::live::Takes,
};

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
/// Watched is all the time where so much of it may be, and is again where more than all may be.
const ALL: f64 = 0.95;
const MORE_THAN_ALL: f64 = 1.1;
/// The part is raised where so many times as much may be watched, and by that much at once; it is lowered to less than that
/// part of what it is.
const WORTH: f64 = 1.25;
const AT_ONCE: f64 = 2.0;
const LESS: f64 = 0.9;

/// The turns of one watch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Duty {
    cycle: DutyCycle,
    /// Now.
    share: Share,
    /// What kernel programs take while switches are told, lately; `None`: not known yet.
    takes: Option<Takes>,
    period_ns: u64,
    /// Switches are told now, or are not, since when, ns.
    is_on: bool,
    since_ns: u64,
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
            since_ns: now_ns,
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
            self.since_ns = now_ns;
            self.plan(now_ns);
            self.is_on
        })
    }

    /// It could not turn, and is as it is: another try comes with the next period.
    pub(crate) fn failed(&mut self, now_ns: u64, is_on: bool) {
        self.is_on = is_on;
        self.since_ns = now_ns;
        self.turns_ns = now_ns.saturating_add(self.period_ns);
    }

    /// Switches are told for another part of the time.
    pub(crate) fn set_cycle(&mut self, cycle: DutyCycle, now_ns: u64) {
        if self.cycle != cycle {
            self.cycle = cycle;
            self.since_ns = now_ns;
            self.set_share(at_first(cycle), now_ns);
        }
    }

    fn set_share(&mut self, share: Share, now_ns: u64) {
        if self.share != share {
            self.share = share;
            self.plan(now_ns);
        }
    }

    /// Takes in what kernel programs took lately while switches were told, and that they may take `allowed` of a CPU's
    /// time in the long run. Of that, programs of switches have what the others leave, and half of it in any case:
    /// what the others take, no pause saves.
    pub(crate) fn adapt(&mut self, took: Takes, allowed: f64, now_ns: u64) {
        let mean = |before: f64, now: f64| (before + now) / 2.0;
        let took = self.takes.map_or(took, |before| Takes {
            switches: mean(before.switches, took.switches),
            others: mean(before.others, took.others),
        });
        self.takes = Some(took);
        if self.cycle != DutyCycle::Auto {
            return;
        }
        let left = (allowed - took.others).max(allowed / 2.0);
        let (may, now) = (left / took.switches, self.share.0);
        let all = if now < 1.0 { MORE_THAN_ALL } else { ALL };
        let wanted = match may {
            may if may >= all => 1.0,
            may => may.clamp(LEAST_SHARE, ALL),
        };
        if wanted < now * LESS {
            self.set_share(Share(wanted), now_ns);
        } else if wanted > now * WORTH || (wanted >= 1.0 && now < 1.0) {
            self.set_share(Share(wanted.min(now * AT_ONCE)), now_ns);
        }
    }

    /// What kernel programs take of a CPU's time in the long run, of what is known.
    pub(crate) fn takes(&self) -> f64 {
        let takes = self.takes.unwrap_or_default();
        takes.others + takes.switches * self.part()
    }

    /// The part of the time in which switches are told.
    const fn part(&self) -> f64 {
        if self.is_held { 1.0 } else { self.share.0 }
    }

    /// That part, where it is less than all to stay inside the budget; `None`: that is not why.
    pub(crate) fn shed_to(&self) -> Option<Share> {
        let part = self.part();
        (self.cycle == DutyCycle::Auto && part < 1.0).then_some(Share(part))
    }

    /// While somebody waits for what is told, all is.
    pub(crate) fn hold(&mut self, is_held: bool, now_ns: u64) {
        if self.is_held != is_held {
            self.is_held = is_held;
            self.since_ns = now_ns;
            self.plan(now_ns);
        }
    }

    fn plan(&mut self, now_ns: u64) {
        let whole = self.is_held || self.share.0 >= 1.0;
        self.turns_ns = match (self.is_on, whole) {
            (true, true) => u64::MAX,
            (false, true) => now_ns,
            // What of this time has passed by now counts.
            (true, false) => self.since_ns.saturating_add(self.on_ns()),
            (false, false) => {
                let off_ns = self.on_ns() as f64 * (1.0 / self.share.0 - 1.0);
                self.turns = self.turns.wrapping_add(1);
                let spread = (f64::from(self.turns) * GOLDEN).fract() - 0.5;
                // Saturates.
                (self.since_ns).saturating_add((off_ns * (1.0 + 2.0 * JITTER * spread)) as u64)
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
        // A busy host: a quarter of it may be taken, and a part of this time has passed.
        let took = |switches| Takes {
            switches,
            others: 0.0,
        };
        duty.adapt(took(0.0625), 0.015625, 2 * S);
        assert_eq!(duty.shed_to(), Some(Share(0.25)));
        assert_eq!(duty.takes(), 0.015625);
        assert_eq!(duty.turns_ns(), Some(5 * S));
        // A little less busy, or busier: no reason to change.
        for switches in [0.05, 0.07] {
            duty.adapt(took(switches), 0.015625, 3 * S);
            assert_eq!(duty.shed_to(), Some(Share(0.25)));
        }
        // All is told, for somebody waits.
        duty.hold(true, 4 * S);
        assert_eq!(duty.shed_to(), None);
        assert!(duty.takes() > 0.05);
        duty.hold(false, 5 * S);
        // Calm: more, step by step.
        let shares: Vec<f64> = (3..12)
            .map(|turn| {
                duty.adapt(took(0.001), 0.015625, turn * 10 * S);
                duty.share.0
            })
            .collect();
        assert!(shares.is_sorted() && shares[0] <= 0.5, "{shares:?}");
        assert_eq!(shares.last(), Some(&1.0));
        // Never less than the least, and what was asked for stays.
        duty.adapt(took(100.0), 0.01, 200 * S);
        assert_eq!(duty.shed_to(), Some(Share(LEAST_SHARE)));
        duty.set_cycle(fixed(0.5), 210 * S);
        duty.adapt(took(100.0), 0.01, 220 * S);
        assert_eq!((duty.share, duty.shed_to()), (Share(0.5), None));
    }

    #[test]
    fn no_pause_is_made_for_what_it_does_not_save() {
        let mut duty = Duty::new(DutyCycle::Auto, 5 * S, 0);
        let took = Takes {
            switches: 0.002,
            others: 0.02,
        };
        duty.adapt(took, 0.01, S);
        assert_eq!(duty.shed_to(), None);
        assert_eq!(duty.takes(), 0.022);
    }
}
