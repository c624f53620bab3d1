//! How often an interpreter is looked at: the longer a look takes, the less often.

/// Looks at one process take one part in so many of the time at most.
const SHARE: u64 = 5;

/// What is known about the looks at one process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// When the last window with a look began to be read, ns; `None`: there was no look.
    last_ns: Option<u64>,
    /// How long the last look took, ns.
    last_took_ns: u64,
    /// No look before, ns.
    next_ns: u64,
    /// When the last window began to be read, and how long after the one before.
    began_ns: u64,
    interval_ns: u64,
}

impl Pace {
    /// When the last window with a look began, ns; the first is the longest ago.
    pub(super) fn last_ns(&self) -> u64 {
        self.last_ns.unwrap_or(0)
    }

    /// The readings of a window begin.
    pub(super) fn begin_window(&mut self, now_ns: u64) {
        if self.began_ns != 0 {
            self.interval_ns = now_ns.saturating_sub(self.began_ns);
        }
        self.began_ns = now_ns;
    }

    /// Whether it is time for a look. `pause_ns`: no sooner after the last look.
    pub(super) fn is_due(&self, now_ns: u64, pause_ns: u64) -> bool {
        let least_ns = self.last_ns.map_or(0, |last_ns| {
            // Windows do not begin to the nanosecond.
            last_ns.saturating_add(pause_ns - pause_ns.min(self.interval_ns / 16))
        });
        now_ns >= self.next_ns.max(least_ns)
    }

    /// A look that was due took so long. Gives the reason when some of the next are left out.
    pub(super) fn took(&mut self, now_ns: u64, took_ns: u64) -> Option<String> {
        // One that takes long by itself, the first one say, tells nothing about the next.
        let usual_ns = match self.last_ns {
            Some(_) => took_ns.min(self.last_took_ns),
            None => 0,
        };
        self.last_ns = Some(now_ns);
        self.last_took_ns = took_ns;
        let pause_ns = usual_ns.saturating_mul(SHARE);
        self.next_ns = now_ns.saturating_add(pause_ns);
        // Windows do not begin to the nanosecond: the look of the next one is not missed by a hair.
        self.next_ns -= pause_ns.min(self.interval_ns / 16);
        (self.interval_ns != 0 && self.next_ns > now_ns.saturating_add(self.interval_ns)).then(
            || {
                let windows = pause_ns.div_ceil(self.interval_ns);
                let seconds = (windows * self.interval_ns) as f64 / 1e9;
                let ms = usual_ns / 1_000_000;
                format!("looks are made every {seconds:.1} s, for one takes {ms} ms")
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Which of the windows have a look, when each look takes what `took` says.
    fn looked(
        windows: u64,
        interval_ns: u64,
        took: impl Fn(u64) -> u64,
    ) -> (Vec<u64>, Vec<String>) {
        let mut pace = Pace::default();
        let (mut looked, mut reasons) = (Vec::new(), Vec::new());
        for window in 1..=windows {
            let now_ns = window * interval_ns;
            pace.begin_window(now_ns);
            if pace.is_due(now_ns, 0) {
                looked.push(window);
                reasons.extend(pace.took(now_ns, took(window)));
            }
        }
        (looked, reasons)
    }

    #[test]
    fn quick_looks_are_made_in_every_window() {
        let (windows, reasons) = looked(10, 1000 * MS, |_| 200 * MS);
        assert_eq!((windows.len(), reasons), (10, vec![]));
    }

    #[test]
    fn one_long_look_changes_nothing() {
        let took = |window| if window == 3 { 5000 * MS } else { 20 * MS };
        let (windows, reasons) = looked(10, 1000 * MS, took);
        assert_eq!((windows.len(), reasons), (10, vec![]));
    }

    #[test]
    fn looks_take_a_fifth_of_the_time_at_most() {
        for (took, interval) in [
            (300, 1000),
            (900, 1000),
            (300, 100),
            (2500, 1000),
            (30, 100),
        ] {
            let (windows, reasons) = looked(1000, interval * MS, |_| took * MS);
            let spent = windows.len() as u64 * took;
            let all = 1000 * interval;
            assert!(
                spent * 100 <= all * 22,
                "{took} of {interval}: {spent} of {all}"
            );
            assert!(
                spent * 100 >= all * 8,
                "{took} of {interval}: {spent} of {all}"
            );
            let gap = (windows[9] - windows[8]) as f64 * interval as f64 / 1000.0;
            let expected = format!("looks are made every {gap:.1} s, for one takes {took} ms");
            assert_eq!(reasons.last(), Some(&expected));
        }
    }

    #[test]
    fn looks_that_have_become_quick_are_made_often_again() {
        let took = |window| if window < 20 { 900 * MS } else { MS };
        let (windows, _) = looked(40, 1000 * MS, took);
        assert_eq!(windows[windows.len() - 10..], (31..=40).collect::<Vec<_>>());
    }
}
