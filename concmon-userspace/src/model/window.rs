//! Windows and clocks: cumulative values with their value at the window's beginning.

use std::borrow::Cow;

use crate::schema::{Delayed, Limit};

/// What a report covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Between the last two ticks.
    Window,
    /// The whole watch.
    Whole,
}

/// A value that only grows, and of which differences make sense.
pub(crate) trait Growth: Clone + Default {
    /// What was added after `base`.
    fn since(&self, base: &Self) -> Self;

    /// Becomes a copy of `now`, which it was once.
    fn catch_up(&mut self, now: &Self) {
        self.clone_from(now);
    }
}

impl Growth for u64 {
    fn since(&self, base: &Self) -> Self {
        self.saturating_sub(*base)
    }
}

impl Growth for Delayed {
    fn since(&self, base: &Self) -> Self {
        Self {
            requests: self.requests.since(&base.requests),
            delay_ns: self.delay_ns.since(&base.delay_ns),
            unread_ns: self.unread_ns.since(&base.unread_ns),
        }
    }
}

/// A cumulative value, now and at the beginning of the window.
///
/// A window is the difference of the two, so windows add up to the whole exactly.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cumulative<T> {
    pub(crate) now: T,
    base: T,
}

impl<T: Growth> Cumulative<T> {
    /// The growth in the window, or the whole value.
    pub(crate) fn over(&self, scope: Scope) -> T {
        match scope {
            Scope::Window => self.now.since(&self.base),
            Scope::Whole => self.now.clone(),
        }
    }

    /// The value at the beginning of the window.
    pub(crate) fn base(&self) -> &T {
        &self.base
    }

    /// Begins a window here.
    pub(crate) fn roll(&mut self) {
        self.base.catch_up(&self.now);
    }

    /// Gives up the beginning of the window, for a value that will be in no window any more.
    pub(crate) fn forget_base(&mut self) {
        self.base = T::default();
    }
}

/// Turns instants of the kernel's clocks into wall-clock time, by one reading of all three at
/// the start of the watch: a stamp does not move when the wall clock is corrected.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) start_ns: u64,
    pub(crate) start_unix_ns: u64,
    pub(crate) start_boottime_ns: u64,
}

impl Clock {
    /// Wall-clock time of an instant of `CLOCK_MONOTONIC`.
    pub(crate) fn unix_of(&self, ns: u64) -> u64 {
        shift(ns, self.start_ns, self.start_unix_ns)
    }

    /// Wall-clock time of an instant of `CLOCK_BOOTTIME`.
    pub(crate) fn unix_of_boottime(&self, ns: u64) -> u64 {
        shift(ns, self.start_boottime_ns, self.start_unix_ns)
    }

    /// `CLOCK_MONOTONIC` at an instant of `CLOCK_BOOTTIME`.
    pub(crate) fn of_boottime(&self, ns: u64) -> u64 {
        shift(ns, self.start_boottime_ns, self.start_ns)
    }

    /// `CLOCK_BOOTTIME` at an instant of `CLOCK_MONOTONIC`.
    pub(crate) fn boottime_of(&self, ns: u64) -> u64 {
        shift(ns, self.start_ns, self.start_boottime_ns)
    }
}

/// `ns` moved by the distance from `from` to `to`, within `u64`.
fn shift(ns: u64, from: u64, to: u64) -> u64 {
    let moved = i128::from(ns) - i128::from(from) + i128::from(to);
    u64::try_from(moved.max(0)).unwrap_or(u64::MAX)
}

/// A [`Limit`] from anything that reads as text.
pub(crate) fn limit(
    field: impl Into<Cow<'static, str>>,
    reason: impl Into<Cow<'static, str>>,
) -> Limit {
    Limit {
        field: field.into(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_add_up() {
        let mut value = Cumulative::<u64>::default();
        let mut sum = 0;
        for growth in [3, 0, 5] {
            value.now += growth;
            assert_eq!(value.over(Scope::Window), growth);
            sum += value.over(Scope::Window);
            value.roll();
        }
        assert_eq!(value.over(Scope::Whole), sum);
    }

    #[test]
    fn clock_stays_within_its_range() {
        let clock = Clock {
            start_ns: 1_000,
            start_unix_ns: 5_000,
            start_boottime_ns: 1_300,
        };
        for (ns, want) in [
            (1_000, 5_000),
            (1_500, 5_500),
            (0, 4_000),
            (u64::MAX, u64::MAX),
        ] {
            assert_eq!(clock.unix_of(ns), want);
        }
        assert_eq!(clock.unix_of_boottime(1_300), 5_000);
        assert_eq!(clock.of_boottime(100), 0);
        assert_eq!(clock.of_boottime(1_400), 1_100);
    }
}
