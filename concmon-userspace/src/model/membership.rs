//! Who belongs to which group, window by window, and what each has added to it.

use super::add::Add;
use super::groups::{Decision, Groups, Home, Now, Parent};
use super::process::ProcessId;
use super::process_table::ProcessTable;
use super::window::{Clock, Scope};
use crate::event::Tick;

impl ProcessTable {
    /// At the end of a window: books what each process has added to its group. `ending`: no more
    /// records will come.
    pub(crate) fn book(
        &mut self,
        groups: &mut Groups,
        clock: &Clock,
        tick: Tick,
        epoch: u64,
        ending: bool,
    ) {
        self.find_parents();
        let all = self.processes.iter();
        let all =
            all.filter(|(_, process)| process.excluded.is_none() && process.shown(Scope::Window));
        let ids: Vec<ProcessId> = all.map(|(id, _)| *id).collect();
        let now = Now {
            clock,
            at_ns: tick.at_ns,
            epoch,
            ending,
        };
        // A parent may have become known after its child.
        for again in [true, false] {
            for id in &ids {
                self.join(*id, groups, now, again);
            }
        }
        for id in ids {
            let Some(process) = self.processes.get_mut(&id) else {
                continue;
            };
            let mut delta = process.delta(epoch, clock);
            if let Some(pending) = process.member.pending.take() {
                delta.add(&pending);
            }
            if let Some(group) = process.member.replaced.take() {
                groups.sums.add(group, &delta);
                continue;
            }
            let ended = process.finished(epoch);
            let keeper = match process.member.group(process.exec_ns) {
                Some(group) => {
                    groups.sums.add(group, &delta);
                    continue;
                }
                None if ended => self.keeper(id, now, false),
                None => None,
            };
            if let Some(keeper) = self.processes.get_mut(&keeper.unwrap_or(id)) {
                keeper.member.pending.get_or_insert_default().add(&delta);
            }
        }
    }

    /// The nearest ancestor whose group is decided, or will be. `again`: any parent's might.
    fn keeper(&self, id: ProcessId, now: Now<'_>, again: bool) -> Option<ProcessId> {
        let mut next = self.processes.get(&id)?.parent;
        // Parents are told from outside: a cycle must not hang.
        for _ in 0..self.processes.len() {
            let ancestor = self.processes.get(&next?)?;
            let is_decided = ancestor.member.group(ancestor.exec_ns).is_some();
            if ancestor.excluded.is_some() {
                return None;
            }
            if is_decided || again || !now.is_last(ancestor) {
                return next;
            }
            next = ancestor.parent;
        }
        None
    }

    /// Decides which group a process belongs to, as far as that can be told. `again`: it is asked once more.
    fn join(&mut self, id: ProcessId, groups: &mut Groups, now: Now<'_>, again: bool) {
        let Some(process) = self.processes.get(&id) else {
            return;
        };
        if process.member.group(process.exec_ns).is_some() {
            return;
        }
        let keeper = self.keeper(id, now, again);
        let parent = match keeper.and_then(|keeper| self.processes.get(&keeper)) {
            None => Parent::Nobody,
            Some(parent) => match parent.member.group(parent.exec_ns) {
                Some(group) => Parent::In(group),
                None => Parent::Undecided,
            },
        };
        let home = groups.decide(&Decision {
            process,
            parent,
            now,
            last: now.is_last(process),
        });
        let group = match home {
            Home::To(group) => group,
            Home::Own(service) => groups.of(service),
            Home::Unknown => return,
        };
        if let Some(process) = self.processes.get_mut(&id) {
            process.member.of = Some((group, process.exec_ns));
        }
    }
}
