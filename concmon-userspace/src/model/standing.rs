//! Rows of processes that stand still: kept from one window to the next, they differ in little but how long their
//! threads have waited, and need not be made anew.

use std::collections::BTreeMap;

use super::HttpMode;
use super::ledger::Totals;
use super::process::{Process, ProcessId};
use super::process_row::ProcessContext;
use super::thread::Thread;
use super::window::Scope;
use crate::schema;

/// Rows of the window before, until each is taken up: rows are large, and taking one out of a map would move others.
pub(crate) type KeptRows = BTreeMap<ProcessId, Option<schema::Process>>;

impl Process {
    /// Brings its row of the window before up to date, where it stands still since before this one; `false`: it is to be
    /// made anew.
    pub(crate) fn renew(&self, row: &mut schema::Process, context: &ProcessContext<'_>) -> bool {
        let ProcessContext { scope, clock, .. } = *context;
        // Whose worker it is depends on its parent, which may do what it likes.
        let parent = context.parent.map(Self::identity);
        let has_role = self.identity().role(parent.as_ref()).ok() == row.role;
        if scope != Scope::Window
            || !self.standing.is_lasting()
            || !has_role
            || context.lost > 0
            || row.group.as_deref() != context.group
            || row.exact.is_some()
            || self.exited.is_some()
        {
            return false;
        }
        let totals = self.totals(scope);
        if totals.columns.cpu_ns() > 0 || totals.switches != Totals::default().switches {
            return false;
        }
        let look = self.look.as_deref();
        let gil = self.gil_row(context, totals.columns.gil_ns(), look);
        match (gil, &mut row.gil) {
            (Ok(gil), Some(before)) => *before = gil,
            (Err(_), None) => {}
            _ => return false,
        }
        if let Some(gc) = &mut row.gc {
            let collecting_ns = self.loop_times.collecting_ns(0, scope);
            if gc.collecting_ns.is_some() != collecting_ns.is_some() {
                return false;
            }
            gc.collecting_ns = collecting_ns;
        }
        let threads = self.threads.iter();
        let mut threads = threads.filter(|thread| thread.accounted() && !thread.retired);
        for row in &mut row.threads {
            let Some(thread) = threads.next().filter(|thread| thread.renew(row)) else {
                return false;
            };
            row.code = self.loop_times.code(thread.key.tid, scope);
        }
        if threads.next().is_some() {
            return false;
        }
        row.loops = self.loop_rows(context);
        row.executors = self
            .executors
            .rows(look, clock, |queue| self.pools.counts(queue, scope));
        if let HttpMode::On = context.http {
            row.http = Some(self.http_row(context, look));
            row.peers = Some(self.http.peers.report(scope));
        }
        row.findings.clear();
        true
    }
}

impl Thread {
    /// The same of a thread.
    fn renew(&self, row: &mut schema::Thread) -> bool {
        let is_same = row.tid == self.key.tid.0 && row.alive && self.alive();
        if is_same {
            row.ledger = self.totals(Scope::Window).columns.report();
            row.lock_ns = self.lock_ns(Scope::Window);
        }
        is_same
    }
}
