//! How many ended threads and processes keep a row in the summary, and where the others go.
//!
//! At a tick, what is too much is marked: windows still show what ended in them, the summary
//! does not. With the next window it is summed up for good: a thread in its process, a process
//! in its nearest ancestor that has a row, as far as they are one service, else in its group.

use std::collections::BTreeMap;

use super::folded::Rows;
use super::groups::Groups;
use super::member::GroupId;
use super::process::{FoldedInto, Process, ProcessId};
use super::process_table::ProcessTable;

/// So many windows after it was left out, no record of a process is under way any more.
const LATEST_RECORDS: u64 = 10;

/// What is marked leaves behind, by who takes it over.
#[derive(Debug, Default)]
pub(crate) struct Retired {
    pub(crate) processes: BTreeMap<ProcessId, Rows>,
    pub(crate) groups: BTreeMap<GroupId, Rows>,
}

impl ProcessTable {
    /// Marks the oldest of what ended, past the limits, at the end of the window `epoch`.
    pub(crate) fn mark_excess(&mut self, epoch: u64) {
        for (&id, process) in &mut self.processes {
            match process.excluded {
                None if !process.listed && process.finished(epoch) => {
                    process.listed = true;
                    self.ended_processes.push_back(id);
                }
                // It has nothing to add; whether it still lives is not told.
                Some(since) if process.finished(epoch) || since + LATEST_RECORDS <= epoch => {
                    process.folded_into = Some(FoldedInto::Group(None));
                }
                _ => {}
            }
            for thread in process.threads.iter_mut() {
                if !thread.listed && thread.accounted() && thread.ended() {
                    thread.listed = true;
                    self.ended_threads.push_back(thread.key);
                }
            }
        }
        while self.ended_threads.len() > self.retention.threads {
            let Some(key) = self.ended_threads.pop_front() else {
                break;
            };
            let process = self
                .by_thread
                .get(&key)
                .and_then(|id| self.processes.get_mut(id));
            if let Some(thread) = process.and_then(|process| process.threads.get_mut(key)) {
                // One that came back to life is listed again when it ends.
                thread.folded = thread.ended();
                thread.listed = thread.folded;
            }
        }
        while self.ended_processes.len() > self.retention.processes {
            let Some(id) = self.ended_processes.pop_front() else {
                break;
            };
            if !self
                .processes
                .get(&id)
                .is_some_and(|process| process.ended())
            {
                if let Some(process) = self.processes.get_mut(&id) {
                    process.listed = false;
                }
                continue;
            }
            let into = self.heir(id);
            if let Some(process) = self.processes.get_mut(&id) {
                process.folded_into = Some(into);
            }
        }
    }

    /// Forgets the rows of a group whose processes have all ended; `false`: one has not, or still has
    /// something to add.
    pub(crate) fn forget(&mut self, group: GroupId, epoch: u64) -> bool {
        let is_of = |process: &Process| {
            let member = &process.member;
            let decided = member.of.is_some_and(|(of, _)| of == group);
            decided || member.replaced == Some(group)
        };
        let of_group = self.processes.iter().filter(|(_, process)| is_of(process));
        let is_over = |process: &Process| {
            process.finished(epoch)
                && process.member.replaced.is_none()
                && process.member.pending.is_none()
        };
        let mut ids = Vec::new();
        for (id, process) in of_group {
            if !is_over(process) {
                return false;
            }
            ids.push(*id);
        }
        for id in &ids {
            self.remove(*id);
        }
        for process in self.processes.values_mut() {
            process.parent = process.parent.filter(|parent| !ids.contains(parent));
        }
        self.ended_processes.retain(|id| !ids.contains(id));
        true
    }

    /// Who takes the row of a process over.
    fn heir(&self, id: ProcessId) -> FoldedInto {
        let group = self.processes.get(&id).and_then(Process::group);
        let mut next = self.processes.get(&id).and_then(|process| process.parent);
        // Parents are told from outside: a cycle must not hang.
        for _ in 0..self.processes.len() {
            let Some(ancestor) = next.filter(|next| *next != id) else {
                break;
            };
            let Some(process) = self.processes.get(&ancestor) else {
                break;
            };
            let is_other = group.is_some() && process.group() != group;
            if is_other || process.excluded.is_some() {
                break;
            }
            next = match process.folded_into {
                None => return FoldedInto::Process(ancestor),
                Some(FoldedInto::Process(heir)) => Some(heir),
                Some(FoldedInto::Group(_)) => break,
            };
        }
        FoldedInto::Group(group)
    }

    /// Where the row of a process ends up: what took it over may have been folded later. `None`: its row
    /// is still there.
    fn fold_target(&self, id: ProcessId) -> Option<FoldedInto> {
        let mut target = self.processes.get(&id)?.folded_into?;
        // Each was folded after those it inherited from, so this ends.
        while let FoldedInto::Process(next) = target
            && let Some(further) = self.processes.get(&next).and_then(|next| next.folded_into)
        {
            target = further;
        }
        Some(target)
    }

    /// What marked processes leave, by the processes and the groups that take it over.
    pub(crate) fn retired_totals(&self) -> Retired {
        let mut retired = Retired::default();
        for (&id, process) in &self.processes {
            let rows = match self.fold_target(id) {
                Some(FoldedInto::Process(heir)) => retired.processes.entry(heir).or_default(),
                Some(FoldedInto::Group(Some(group))) => retired.groups.entry(group).or_default(),
                Some(FoldedInto::Group(None)) | None => continue,
            };
            rows.add(&process.retired_totals());
        }
        retired
    }

    /// Sums up for good what is marked.
    pub(crate) fn fold_marked(&mut self, groups: &mut Groups) {
        let retired = self.retired_totals();
        let marked = self.processes.keys();
        let gone: BTreeMap<_, _> = marked
            .filter_map(|&id| Some((id, self.fold_target(id)?)))
            .collect();
        for id in gone.keys() {
            self.remove(*id);
        }
        for process in self.processes.values_mut() {
            if let Some(into) = process.parent.and_then(|parent| gone.get(&parent)) {
                process.parent = match into {
                    FoldedInto::Process(heir) => Some(*heir),
                    FoldedInto::Group(_) => None,
                };
            }
            let rows = &mut process.rows;
            process.threads.retain(|thread| {
                if thread.folded {
                    rows.add_thread(thread);
                }
                !thread.folded
            });
        }
        for (heir, totals) in retired.processes {
            if let Some(heir) = self.processes.get_mut(&heir) {
                heir.inherited.add(&totals);
            }
        }
        for (group, totals) in retired.groups {
            groups.fold(group, &totals);
        }
        if !gone.is_empty() {
            let by_thread = &self.by_thread;
            self.ended_threads
                .retain(|key| by_thread.get(key).is_some_and(|id| !gone.contains_key(id)));
        }
    }
}
