//! Whether a process has run since it was read.

use std::sync::Arc;

use concmon_ebpf::state;

use crate::{event::Pid, source::live::LedgerHead};

/// How long what was read of a process holds that does not run, ns: from outside, its memory may be
/// reclaimed, or its limits changed. The longer it has not run, the less of that is to be expected.
const HOLDS_NS: (u64, u64) = (10_000_000_000, 120_000_000_000);
/// Many processes that were read at once are not read again at once: each holds longer by its share of this.
const SPREAD: u64 = 16;

/// Whether anything in a process has run, by the ledgers of its threads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Activity {
    /// When a thread ran last, ns.
    ran_ns: u64,
    /// Living threads with a ledger of their own.
    pub(super) threads: u64,
    /// When the ledgers were read, ns, and when before that.
    pub(super) read_ns: u64,
    before_ns: u64,
    /// Where it is among processes that are alike.
    place: u64,
}

impl Activity {
    pub(super) fn of(pid: Pid) -> Self {
        Self {
            place: u64::from(pid.0),
            ..Self::default()
        }
    }

    /// The ledgers are read anew.
    pub(super) fn begin(&mut self, now_ns: u64) {
        (self.before_ns, self.read_ns, self.threads) = (self.read_ns, now_ns, 0);
    }

    /// When a thread ran last, as far as the ledgers have told, ns.
    pub(super) const fn ran_ns(&self) -> u64 {
        self.ran_ns
    }

    /// No thread has run from an instant to the reading of the ledgers.
    pub(super) const fn stood_since(&self, since_ns: u64) -> bool {
        self.ran_ns < since_ns && since_ns <= self.read_ns
    }

    /// No thread has run from one reading of the ledgers to the other.
    pub(super) fn has_rested(&self) -> bool {
        self.ran_ns < self.before_ns
    }

    /// What the ledger of one thread says.
    pub(super) fn thread(&mut self, head: &LedgerHead) {
        if !head.lives() {
            return;
        }
        let ran_ns = match head.state {
            state::BLOCKED => head.off_ns,
            _ => self.read_ns,
        };
        self.ran_ns = self.ran_ns.max(ran_ns);
        self.threads += 1;
    }
}

/// What was read last of one kind.
#[derive(Debug)]
pub(super) struct Reading<F> {
    pub(super) fact: Option<Arc<F>>,
    /// When that was, ns.
    pub(super) read_ns: u64,
    /// Nothing but what runs in the process can change it.
    pub(super) is_whole: bool,
    /// It has not been given to anybody.
    pub(super) is_new: bool,
}

impl<F> Default for Reading<F> {
    fn default() -> Self {
        Self {
            fact: None,
            read_ns: 0,
            is_whole: false,
            is_new: false,
        }
    }
}

impl<F: Clone> Reading<F> {
    /// Takes over what was read at `read_ns`; `is_whole`: nothing but what runs in the process can change it.
    pub(super) fn set(&mut self, fact: F, read_ns: u64, is_whole: bool) {
        *self = Self {
            fact: Some(Arc::new(fact)),
            read_ns,
            is_whole,
            is_new: true,
        };
    }

    /// Nothing has run in the process since this was read, by ledgers that were read later.
    pub(super) fn stands(&self, activity: &Activity) -> bool {
        self.fact.is_some() && activity.ran_ns < self.read_ns && self.read_ns <= activity.read_ns
    }

    /// Whether the process as it was read has not run since: another reading would be the same.
    pub(super) fn holds(&self, activity: &Activity) -> bool {
        let rested_ns = self.read_ns.saturating_sub(activity.ran_ns);
        let holds_ns = rested_ns.clamp(HOLDS_NS.0, HOLDS_NS.1);
        let holds_ns = holds_ns + holds_ns / SPREAD * (activity.place % SPREAD);
        self.fact.is_some()
            && activity.ran_ns < self.read_ns
            && (self.is_whole || activity.read_ns.saturating_sub(self.read_ns) < holds_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn head(state: u8, since_ns: u64) -> LedgerHead {
        LedgerHead {
            tid: 7,
            tgid: 7,
            state,
            since_ns,
            off_ns: since_ns,
            ..LedgerHead::default()
        }
    }

    /// Whether what was read at `read_ns` holds at `now_ns`, when these are the ledgers then.
    fn holds(read_ns: u64, now_ns: u64, ledgers: &[(u8, u64)]) -> bool {
        let mut activity = Activity::default();
        activity.begin(now_ns);
        for &(state, since_ns) in ledgers {
            activity.thread(&head(state, since_ns));
        }
        let mut reading = Reading::default();
        reading.set((), read_ns, false);
        reading.holds(&activity)
    }

    /// What was read at `read_ns` of a process that has not run since `ran_ns` holds for so long, ns.
    fn held_ns(pid: u32, ran_ns: u64, read_ns: u64) -> u64 {
        let mut activity = Activity::of(Pid(pid));
        let mut reading = Reading::default();
        reading.set((), read_ns, false);
        let holds = |seconds: &u64| {
            activity.begin(read_ns + seconds * S);
            activity.thread(&head(state::BLOCKED, ran_ns));
            !reading.holds(&activity)
        };
        (1..).find(holds).expect("it does not hold for ever") * S
    }

    #[test]
    fn what_was_read_holds_until_somebody_runs() {
        let blocked = (state::BLOCKED, S);
        assert!(holds(2 * S, 3 * S, &[blocked, (state::BLOCKED, 2 * S - 1)]));
        assert!(!holds(2 * S, 3 * S, &[blocked, (state::BLOCKED, 2 * S)]));
        for runs in [state::RUNNING, state::WOKEN, state::PREEMPTED] {
            assert!(!holds(2 * S, 3 * S, &[blocked, (runs, S)]), "{runs}");
        }
        assert!(holds(2 * S, 3 * S, &[blocked, (state::DEAD, 3 * S)]));
        assert!(!holds(2 * S, 2 * S + HOLDS_NS.0, &[blocked]));
    }

    #[test]
    fn what_rests_is_read_seldom_and_not_all_at_once() {
        let rested = [1, 30, 1_000].map(|seconds| held_ns(0, S, S + seconds * S) / S);
        assert_eq!(rested, [10, 30, 120]);
        let spread = [0, 8, 15].map(|pid| held_ns(pid, S, 41 * S) / S);
        assert_eq!(spread, [40, 60, 78]);
    }

    #[test]
    fn what_only_the_process_can_change_holds_as_long_as_it_rests() {
        let mut activity = Activity::default();
        let mut reading = Reading::default();
        reading.set((), 2 * S, true);
        activity.begin(9_999 * S);
        activity.thread(&head(state::BLOCKED, S));
        assert!(reading.holds(&activity));
        activity.thread(&head(state::RUNNING, S));
        assert!(!reading.holds(&activity));
    }

    #[test]
    fn nothing_holds_that_was_never_read() {
        assert!(!Reading::<()>::default().holds(&Activity::default()));
    }
}
