//! The search for the interpreter of a target: when it begins, and when it is tried again.

use crate::procfs::clocks;

/// The first pause between two tries to find an interpreter, ns; each is twice the one before.
const SEARCH_PAUSE_NS: u64 = 10_000_000;

/// The search for an interpreter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Search {
    /// When its program began to run, ns; `None`: not under watch.
    pub(super) began_ns: Option<u64>,
    /// When whatever it shows may have begun to be on its way to an interpreter, ns.
    begin_ns: u64,
    pub(super) next_ns: u64,
    pause_ns: u64,
    pub(super) under_way: bool,
}

impl Search {
    pub(super) fn new(began_ns: Option<u64>) -> Self {
        Self {
            began_ns,
            begin_ns: began_ns.unwrap_or_else(clocks::monotonic_ns),
            next_ns: 0,
            pause_ns: SEARCH_PAUSE_NS,
            under_way: false,
        }
    }

    pub(super) fn is_older(&self, age_ns: u64, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.begin_ns) > age_ns
    }

    /// There is none yet.
    pub(super) fn missed(&mut self, now_ns: u64) {
        self.next_ns = now_ns.saturating_add(self.pause_ns);
        self.pause_ns = self.pause_ns.saturating_mul(2);
    }
}
