//! How many ended threads and processes keep a row in the summary, and where the others go.
//!
//! At a tick, what is too much is marked: windows still show what ended in them, the summary
//! does not. With the next window it is summed up for good: a thread in its process, a process
//! in its nearest ancestor that has a row.

use std::collections::BTreeMap;

use super::folded::Rows;
use super::process::ProcessId;
use super::process_table::ProcessTable;

/// Ended threads with a row in the summary.
const MAX_ENDED_THREADS: usize = 4_096;
/// Ended processes with a row in the summary.
const MAX_ENDED_PROCESSES: usize = 1_024;

impl ProcessTable {
    /// Marks the oldest of what ended, past the limits, at the end of the window `epoch`.
    pub(crate) fn mark_excess(&mut self, epoch: u64) {
        for (&id, process) in &mut self.processes {
            if !process.listed && process.finished(epoch) {
                process.listed = true;
                self.ended_processes.push_back(id);
            }
            for thread in process.threads.iter_mut() {
                if !thread.listed && thread.accounted() && thread.ended() {
                    thread.listed = true;
                    self.ended_threads.push_back(thread.key);
                }
            }
        }
        while self.ended_threads.len() > MAX_ENDED_THREADS {
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
        while self.ended_processes.len() > MAX_ENDED_PROCESSES {
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
            let ancestor = self.ancestor(id);
            let target = ancestor.or_else(|| self.unattributed_target(id));
            if let (Some(target), Some(process)) = (target, self.processes.get_mut(&id)) {
                process.folded_into = Some(target);
                if ancestor.is_none()
                    && let Some(target) = self.processes.get_mut(&target)
                {
                    target.unattributed = target.unattributed.saturating_add(1);
                }
            }
        }
    }

    /// The nearest ancestor that has a row.
    fn ancestor(&self, id: ProcessId) -> Option<ProcessId> {
        let mut next = self.processes.get(&id)?.parent;
        // Parents are told from outside: a cycle must not hang.
        for _ in 0..self.processes.len() {
            let ancestor = next?;
            let process = self.processes.get(&ancestor)?;
            if process.folded_into.is_none() && ancestor != id {
                return Some(ancestor);
            }
            next = process.folded_into.or(process.parent);
        }
        None
    }

    /// For a process without ancestors here: the one that is known longest.
    fn unattributed_target(&self, id: ProcessId) -> Option<ProcessId> {
        let others = self.processes.iter().filter(|&(&other, _)| other != id);
        others
            .filter(|(_, process)| process.folded_into.is_none())
            .map(|(&other, _)| other)
            .next()
    }

    /// Where the row of a process ends up: what took it over may have been folded later.
    fn fold_target(&self, id: ProcessId) -> ProcessId {
        let mut target = id;
        // Each was folded after those it inherited from, so this ends.
        while let Some(next) = self
            .processes
            .get(&target)
            .and_then(|process| process.folded_into)
        {
            target = next;
        }
        target
    }

    /// What marked processes leave, by the process that takes it over.
    pub(crate) fn retired_totals(&self) -> BTreeMap<ProcessId, Rows> {
        let mut retired_totals = BTreeMap::<ProcessId, Rows>::new();
        for (&id, process) in &self.processes {
            if process.folded_into.is_some() {
                retired_totals
                    .entry(self.fold_target(id))
                    .or_default()
                    .add(&process.retired_totals());
            }
        }
        retired_totals
    }

    /// Sums up for good what is marked.
    pub(crate) fn fold_marked(&mut self) {
        let retired_totals = self.retired_totals();
        let gone: BTreeMap<_, _> = self
            .processes
            .iter()
            .filter(|(_, process)| process.folded_into.is_some())
            .map(|(&id, process)| (id, (self.fold_target(id), process.unattributed)))
            .collect();
        for (id, (target, unattributed)) in &gone {
            self.remove(*id);
            if let Some(target) = self.processes.get_mut(target) {
                target.unattributed = target.unattributed.saturating_add(*unattributed);
            }
        }
        for process in self.processes.values_mut() {
            if let Some((target, _)) = process.parent.and_then(|parent| gone.get(&parent)) {
                process.parent = Some(*target);
            }
            let rows = &mut process.rows;
            process.threads.retain(|thread| {
                if thread.folded {
                    rows.add_thread(thread);
                }
                !thread.folded
            });
        }
        for (target, totals) in retired_totals {
            if let Some(target) = self.processes.get_mut(&target) {
                target.inherited.add(&totals);
            }
        }
        if !gone.is_empty() {
            let by_thread = &self.by_thread;
            self.ended_threads
                .retain(|key| by_thread.get(key).is_some_and(|id| !gone.contains_key(id)));
        }
    }
}
