//! Ended threads and processes without a row: what the kernel folded, and what the model did.

use std::collections::BTreeMap;

use super::ledger::{Columns, Totals};
use super::thread::{Thread, ThreadKey};
use super::threads::Threads;
use super::window::{Cumulative, Scope};
use crate::event::LedgerFact;
use crate::schema::{Ended, Switches};

/// Threads and processes whose rows were given up, summed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rows {
    pub(crate) threads: u64,
    pub(crate) processes: u64,
    pub(crate) totals: Totals,
}

impl Rows {
    pub(crate) fn add(&mut self, other: &Rows) {
        self.threads = self.threads.saturating_add(other.threads);
        self.processes = self.processes.saturating_add(other.processes);
        self.totals = self.totals.plus(&other.totals);
    }

    pub(crate) fn add_thread(&mut self, thread: &Thread) {
        self.add(&Rows {
            threads: 1,
            processes: 0,
            totals: thread.totals(Scope::Whole),
        });
    }

    pub(crate) fn report(&self) -> Ended {
        Ended {
            threads: self.threads,
            processes: self.processes,
            ledger: self.totals.columns.report(),
        }
    }
}

/// The kernel's own account of ended threads of one process, for which it had no room.
///
/// It holds whole accounts, so a thread that had a row before it was folded is in both. What is
/// reported here is therefore the folded account without what those rows have shown: rows and
/// this together are the total.
#[derive(Clone, Debug, Default)]
pub(crate) struct Folded {
    /// The latest readings, by the thread that lent its slot and when they were made: of two
    /// threads that end at once, both may.
    sums: BTreeMap<ThreadKey, (u64, Totals)>,
    grew: bool,
    /// What rows have shown of threads that are in the folded account.
    shown: Totals,
    reported: Cumulative<Totals>,
    /// Ended threads that never had an account of their own.
    threads: Cumulative<u64>,
}

impl Folded {
    /// Takes a reading of the folded account.
    pub(crate) fn ledger(&mut self, fact: &LedgerFact) {
        let key = ThreadKey {
            tid: fact.tid,
            start_boottime_ns: fact.start_boottime_ns,
        };
        let before = self.sums.get(&key).copied();
        if before.is_some_and(|(read_ns, _)| fact.read_ns < read_ns) {
            return;
        }
        let totals = Totals {
            columns: Columns::of(fact).0,
            switches: Switches {
                voluntary: fact.voluntary,
                involuntary: fact.involuntary,
            },
        };
        self.sums.insert(key, (fact.read_ns, totals));
        let wall_ns = |totals: Totals| totals.columns.wall_ns();
        self.grew |= wall_ns(totals) > before.map_or(0, |(_, before)| wall_ns(before));
    }

    /// All that the kernel folded; `None` when it folded nothing.
    fn latest(&self) -> Option<Totals> {
        let sums = self.sums.values().map(|(_, totals)| *totals);
        sums.reduce(|all, one| all.plus(&one))
    }

    /// Counts an ended thread that has no account of its own.
    pub(crate) fn count_thread(&mut self) {
        self.threads.now = self.threads.now.saturating_add(1);
    }

    /// Ended threads that are in no row and in no account, if the kernel folded nothing.
    pub(crate) fn unaccounted(&self, scope: Scope) -> u64 {
        match self.latest() {
            None => self.threads.over(scope),
            Some(_) => 0,
        }
    }

    /// At the end of the window `epoch`: finds the threads that were folded, and books the rest.
    pub(crate) fn settle(&mut self, threads: &mut Threads, epoch: u64) {
        let Some(latest) = self.latest() else {
            return;
        };
        for thread in threads.iter_mut() {
            if thread.missing(epoch) && (thread.exited() || self.grew) {
                thread.end_folded();
                self.shown = self.shown.plus(&thread.totals(Scope::Whole));
            }
        }
        self.grew = false;
        let before = self.shown.plus(&self.reported.now);
        let columns = before.columns.advance(&latest.columns);
        let now = &mut self.reported.now;
        now.columns = super::window::Growth::since(&columns, &self.shown.columns);
        let rest = |latest: u64, shown: u64, before: u64| latest.saturating_sub(shown).max(before);
        let (latest, shown, before) = (latest.switches, self.shown.switches, now.switches);
        now.switches = Switches {
            voluntary: rest(latest.voluntary, shown.voluntary, before.voluntary),
            involuntary: rest(latest.involuntary, shown.involuntary, before.involuntary),
        };
    }

    /// A thread taken for folded turned out not to be.
    pub(crate) fn give_back(&mut self, thread: &Thread) {
        let shown = thread.totals(Scope::Whole);
        self.shown = super::window::Growth::since(&self.shown, &shown);
    }

    pub(crate) fn over(&self, scope: Scope) -> Rows {
        Rows {
            threads: self.threads.over(scope),
            processes: 0,
            totals: self.reported.over(scope),
        }
    }

    /// Begins a window.
    pub(crate) fn roll(&mut self) {
        self.reported.roll();
        self.threads.roll();
    }
}
