//! How much time looks may take: the budget's share of all time, and never more at once than it has in
//! the span that it is averaged over. So the first look has an end, too, before anything was measured.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::{budget::SPAN_NS, ending};
use crate::{cli::Share, procfs::clocks};

/// What looks get at once at least, ns: with less they would tell nothing of a large program.
const LEAST_NS: u64 = 50_000_000;
/// What they get once the watch is asked to end, ns.
const LAST_NS: u64 = 250_000_000;

/// The time that is left for looks.
#[derive(Debug)]
pub(crate) struct Allowance {
    share: f64,
    /// The most that is saved up, and that the looks of one window take together, ns.
    most_ns: u64,
    /// Below zero: the last look took more than there was, ns.
    saved_ns: i64,
    /// Until when it was saved up, ns.
    at_ns: u64,
    /// What is left for the window, ns.
    window_ns: u64,
    /// The watch ends: no signal makes it end sooner.
    is_last: bool,
    /// The same, for looks that are under way.
    ends: Arc<AtomicBool>,
    /// Looks that were due in this window, and not made.
    left_out: usize,
}

/// When one look has to end.
pub(crate) struct Deadline {
    begin_ns: u64,
    allowed_ns: u64,
    is_last: bool,
    ends: Arc<AtomicBool>,
}

impl Allowance {
    pub(crate) fn new(share: Share) -> Self {
        let most_ns = ((share.0 * SPAN_NS as f64) as u64).clamp(LEAST_NS, SPAN_NS);
        Self {
            share: share.0,
            most_ns,
            saved_ns: most_ns.cast_signed(),
            at_ns: 0,
            window_ns: most_ns,
            is_last: false,
            ends: Arc::default(),
            left_out: 0,
        }
    }

    /// The looks of a window begin.
    pub(crate) fn begin_window(&mut self, now_ns: u64) {
        let passed_ns = now_ns.saturating_sub(self.at_ns).min(2 * SPAN_NS);
        let saved_ns = self.saved_ns + (passed_ns as f64 * self.share) as i64;
        self.saved_ns = saved_ns.min(self.most_ns.cast_signed());
        self.at_ns = now_ns;
        self.window_ns = self.most_ns;
        self.left_out = 0;
    }

    /// The watch ends: there is one more window, and somebody waits for it.
    pub(crate) fn begin_last(&mut self) {
        self.is_last = true;
        self.ends.store(true, Ordering::Relaxed);
        self.most_ns = self.most_ns.min(LAST_NS);
    }

    /// When a look has to end that begins now; `None`: it has to wait.
    pub(crate) fn deadline(&mut self) -> Option<Deadline> {
        let has_to_wait = self.saved_ns <= 0 || ending::asked().is_some();
        if self.window_ns == 0 || has_to_wait && !self.is_last {
            self.left_out += 1;
            return None;
        }
        Some(Deadline {
            begin_ns: clocks::monotonic_ns(),
            allowed_ns: self.window_ns,
            is_last: self.is_last,
            ends: Arc::clone(&self.ends),
        })
    }

    /// A look took so long.
    pub(crate) fn took(&mut self, took_ns: u64) {
        self.window_ns = self.window_ns.saturating_sub(took_ns);
        self.saved_ns = self.saved_ns.saturating_sub_unsigned(took_ns);
    }

    /// What was left out in the last window, in words.
    pub(crate) fn words(&self) -> Option<String> {
        (self.left_out > 0).then(|| match self.left_out {
            1 => "looks: 1 process was not looked at".to_owned(),
            count => format!("looks: {count} processes were not looked at"),
        })
    }
}

impl crate::targets::Deadline for Deadline {
    fn begin(&mut self) {
        self.begin_ns = clocks::monotonic_ns();
    }

    fn over(&self) -> Option<String> {
        if self.is_interrupted() {
            return Some("the look ended, for the watch was asked to end".to_owned());
        }
        let took_ns = self.took_ns();
        (took_ns >= self.allowed_ns).then(|| {
            let seconds = self.allowed_ns as f64 / 1e9;
            let of = if self.is_last {
                "for the watch ends"
            } else {
                "its share of the budget"
            };
            format!("the look ended after {seconds:.2} s, {of}")
        })
    }

    /// The watch ends, and there was no time to look as usual.
    fn was_hurried(&self) -> bool {
        self.is_interrupted() || self.is_last && self.over().is_some()
    }
}

impl Deadline {
    /// The watch ends, and this is no look for its end.
    fn is_interrupted(&self) -> bool {
        !self.is_last && (self.ends.load(Ordering::Relaxed) || ending::asked().is_some())
    }

    /// How long the look has taken, ns.
    fn took_ns(&self) -> u64 {
        clocks::monotonic_ns().saturating_sub(self.begin_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    /// How long looks take together in so many windows of a second, when each process's would take
    /// `wanted_ns`; and how many of them were made.
    fn spend(share: f64, windows: u64, processes: u64, wanted_ns: u64) -> (u64, u64) {
        let mut allowance = Allowance::new(Share(share));
        let (mut spent_ns, mut made) = (0, 0);
        for window in 1..=windows {
            allowance.begin_window(window * S);
            let mut in_window_ns = 0;
            for _ in 0..processes {
                if let Some(deadline) = allowance.deadline() {
                    let took_ns = wanted_ns.min(deadline.allowed_ns);
                    allowance.took(took_ns);
                    in_window_ns += took_ns;
                    made += 1;
                }
            }
            assert!(in_window_ns <= ((share * 10.0 * S as f64) as u64).max(LEAST_NS));
            spent_ns += in_window_ns;
        }
        (spent_ns, made)
    }

    #[test]
    fn looks_stay_inside_their_share_from_the_first_on() {
        for share in [0.001, 0.02, 0.1, 0.5] {
            for processes in [1, 7, 500] {
                for windows in [1, 3, 10, 100] {
                    let (spent_ns, _) = spend(share, windows, processes, 18 * S);
                    let one_ns = ((share * 10.0 * S as f64) as u64).max(LEAST_NS);
                    let due_ns = (share * windows as f64 * S as f64) as u64 + 2 * one_ns;
                    assert!(spent_ns <= due_ns, "{share} {windows}: {spent_ns}");
                    assert!(spent_ns >= one_ns, "{share} {windows}: {spent_ns}");
                }
            }
        }
    }

    #[test]
    fn short_looks_are_all_made() {
        assert_eq!(spend(0.1, 100, 5, S / 100), (5 * S, 500));
        // More than their share would be.
        let (spent_ns, made) = spend(0.1, 100, 50, S / 100);
        assert!((9 * S..=12 * S).contains(&spent_ns), "{spent_ns}");
        assert!((900..=1200).contains(&made), "{made}");
    }

    #[test]
    fn what_was_left_out_is_said() {
        let mut allowance = Allowance::new(Share(0.1));
        allowance.begin_window(S);
        assert!(allowance.deadline().is_some());
        allowance.took(S);
        assert_eq!(allowance.words(), None);
        assert!(allowance.deadline().is_none());
        let words = allowance.words().expect("said");
        assert_eq!(words, "looks: 1 process was not looked at");
        allowance.begin_window(12 * S);
        assert_eq!(allowance.words(), None);
    }

    #[test]
    fn the_last_looks_are_short_and_made() {
        let mut allowance = Allowance::new(Share(1.0));
        allowance.begin_window(S);
        allowance.took(20 * S);
        assert!(allowance.deadline().is_none());
        allowance.begin_last();
        allowance.begin_window(2 * S);
        let deadline = allowance.deadline().expect("one more look");
        assert!(deadline.allowed_ns <= LAST_NS);
    }
}
