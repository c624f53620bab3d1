//! Whether a process has run since it was read.

use std::sync::Arc;

use concmon_ebpf::state;

use crate::source::live::LedgerHead;

/// How long what was read of a process holds that does not run, ns: from outside, its memory may be
/// reclaimed, or its limits changed.
const HOLDS_NS: u64 = 10_000_000_000;

/// Whether anything in a process has run, by the ledgers of its threads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Activity {
    /// When a thread ran last, ns.
    ran_ns: u64,
    /// Living threads with a ledger of their own.
    pub(super) threads: u64,
    /// When the ledgers were read, ns.
    pub(super) read_ns: u64,
}

impl Activity {
    /// The ledgers are read anew.
    pub(super) fn begin(&mut self, now_ns: u64) {
        *self = Self {
            read_ns: now_ns,
            ran_ns: self.ran_ns,
            ..Self::default()
        };
    }

    /// What the ledger of one thread says.
    pub(super) fn thread(&mut self, head: &LedgerHead) {
        if !head.lives() {
            return;
        }
        let ran_ns = match head.state {
            state::BLOCKED => head.since_ns,
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
    /// It has not been given to anybody.
    pub(super) is_new: bool,
}

impl<F> Default for Reading<F> {
    fn default() -> Self {
        Self {
            fact: None,
            read_ns: 0,
            is_new: false,
        }
    }
}

impl<F: Clone> Reading<F> {
    /// Takes over what was read at `read_ns`.
    pub(super) fn set(&mut self, fact: F, read_ns: u64) {
        *self = Self {
            fact: Some(Arc::new(fact)),
            read_ns,
            is_new: true,
        };
    }

    /// Whether the process as it was read has not run since: another reading would be the same.
    pub(super) fn holds(&self, activity: &Activity) -> bool {
        self.fact.is_some()
            && activity.ran_ns < self.read_ns
            && activity.read_ns.saturating_sub(self.read_ns) < HOLDS_NS
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
        reading.set((), read_ns);
        reading.holds(&activity)
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
        assert!(!holds(2 * S, 2 * S + HOLDS_NS, &[blocked]));
    }

    #[test]
    fn nothing_holds_that_was_never_read() {
        assert!(!Reading::<()>::default().holds(&Activity::default()));
    }
}
