//! When processes are read: the readings of a window begin so early that they are through when it ends, a few
//! at a time, so that nothing that arrives meanwhile has to wait.

use std::{collections::VecDeque, io, time::Duration};

use super::allowance::{Allowance, Deadline};
use crate::{
    cli::Share,
    event::Pid,
    procfs::{clocks, tree::Tree},
    source::pipeline::Lifecycle,
    targets::TargetId,
};

/// How long readings go on before what has arrived has its turn, ns.
const TURN_NS: u64 = 5_000_000;
/// The least time before the end of a window at which its readings begin, ns.
const LEAST_LEAD_NS: u64 = 5_000_000;
/// `/proc` is scanned when somebody has come or gone, and after so long at the latest, ns.
const SWEEP_NS: u64 = 10_000_000_000;

/// The readings of the windows.
#[derive(Debug)]
pub(crate) struct Schedule {
    pub(crate) allowance: Allowance,
    /// Between two looks at one interpreter at least, ns.
    pub(crate) look_pause_ns: u64,
    /// Who is still to be read, and who to be looked at after that.
    jobs: VecDeque<TargetId>,
    looks: VecDeque<TargetId>,
    /// The readings of the window that goes on have begun.
    begun: bool,
    /// What they have taken so far, and what those of the last window took, ns.
    taken_ns: u64,
    cost_ns: u64,
    /// Who is whose child, when that was scanned, and whether that has changed.
    tree: Tree,
    swept_ns: u64,
    stale: bool,
    /// What ran since then may not show in accounts.
    blind: bool,
    /// Children join at their forks, so that none comes unseen.
    follow_children: bool,
}

impl Schedule {
    pub(crate) fn new(share: Share, follow_children: bool, tree: Tree, scanned_ns: u64) -> Self {
        Self {
            allowance: Allowance::new(share),
            look_pause_ns: 0,
            jobs: VecDeque::new(),
            looks: VecDeque::new(),
            begun: false,
            taken_ns: 0,
            cost_ns: 0,
            tree,
            swept_ns: scanned_ns,
            stale: false,
            blind: false,
            follow_children,
        }
    }

    /// How long before the end of a window of `period` its readings begin.
    pub(crate) fn lead(&self, period: Duration) -> Duration {
        // The next ones may take longer, and share a CPU.
        let ns = self.cost_ns.saturating_mul(2).saturating_add(LEAST_LEAD_NS);
        Duration::from_nanos(ns).min(period / 10 * 9)
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun
    }

    /// The readings of a window begin, of these.
    pub(crate) fn begin(&mut self, now_ns: u64, due: Vec<TargetId>) {
        self.begun = true;
        self.cost_ns = self.taken_ns;
        self.taken_ns = 0;
        self.allowance.begin_window(now_ns);
        self.jobs = due.into();
        self.looks.clear();
    }

    /// The window has ended.
    pub(crate) fn end(&mut self) {
        self.begun = false;
    }

    /// Who is to be read next.
    pub(crate) fn next(&mut self) -> Option<TargetId> {
        self.jobs.pop_front()
    }

    /// Somebody is still to be read.
    pub(crate) fn is_reading(&self) -> bool {
        !self.jobs.is_empty()
    }

    /// A process was read, and is to be looked at.
    pub(crate) fn look_at(&mut self, id: TargetId) {
        self.looks.push_back(id);
    }

    /// Who is to be looked at next, and until when; `None`: nobody is, or there is no time for it.
    pub(crate) fn next_look(&mut self) -> Option<(TargetId, Deadline)> {
        while let Some(id) = self.looks.pop_front() {
            if let Some(deadline) = self.allowance.deadline() {
                return Some((id, deadline));
            }
        }
        None
    }

    /// Nobody is to be looked at any more, of those that were.
    pub(crate) fn forget_looks(&mut self) {
        self.looks.clear();
    }

    /// Readings took so long.
    pub(crate) fn took(&mut self, ns: u64) {
        self.taken_ns += ns;
    }

    /// When readings that begin now have had their turn, ns.
    pub(crate) fn turn_ends_ns() -> u64 {
        clocks::monotonic_ns().saturating_add(TURN_NS)
    }

    /// Takes notice of who comes and goes.
    pub(crate) fn saw(&mut self, lifecycle: &Lifecycle) {
        self.stale |= match lifecycle {
            Lifecycle::Born(_) | Lifecycle::Replaced(_) => true,
            Lifecycle::Ended(exit) => exit.last,
        };
    }

    /// Somebody may have come of whom nobody has told.
    pub(crate) fn search_all(&mut self) {
        self.stale = true;
    }

    /// Switches are not told now.
    pub(crate) fn go_blind(&mut self) {
        self.blind = true;
    }

    /// Brings the tree up to date, where it may not be: `active`: of those that run, one may have made or
    /// waited for children. `stands` tells of a process whether nothing has run in it since an instant.
    ///
    /// # Errors
    /// `/proc` cannot be listed.
    pub(crate) fn sweep(
        &mut self,
        now_ns: u64,
        active: &[TargetId],
        stands: impl Fn(Pid, u64) -> bool,
    ) -> io::Result<()> {
        let has_changed =
            |id: &TargetId| !self.follow_children || self.tree.family(id.pid.0).zombies > 0;
        let is_due = now_ns.saturating_sub(self.swept_ns) >= SWEEP_NS;
        if self.stale || is_due || active.iter().any(has_changed) {
            let (blind, swept_ns) = (self.blind, self.swept_ns);
            let stands = |pid| !blind && stands(Pid(pid), swept_ns);
            self.tree = self.tree.scan_again(stands)?;
            self.swept_ns = now_ns;
            (self.stale, self.blind) = (false, false);
        }
        Ok(())
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }
}
