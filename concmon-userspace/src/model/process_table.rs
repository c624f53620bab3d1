//! Who is who: finds the process and the thread that an event is about.
//!
//! Ids get reused, so the start time decides; where an event has none, the newest holder of the
//! id is meant.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use foldhash::fast::FixedState;

use super::member::Member;
use super::process::{Process, ProcessId};
use super::thread::{Thread, ThreadKey};
use super::wakers::Wakers;
use super::window::Clock;
use crate::event::{Exit, Fork, LedgerFact, Pid, ProcessFact, Slice, StillFact, Tid};

/// Threads that are kept, living and ended.
const MAX_THREADS: usize = 131_072;
/// Processes that are kept, living and ended.
const MAX_PROCESSES: usize = 16_384;
/// Processes with the same id that are kept.
const MAX_HOLDERS: usize = 64;
/// Thread ids whose slices are kept until the thread is known, at most for a window.
const MAX_UNATTRIBUTED: usize = 1_024;

/// The newest thread with an id, and where it probably is in its process.
#[derive(Clone, Copy, Debug)]
struct Newest {
    id: ProcessId,
    key: ThreadKey,
    place: usize,
}

/// How many of what ended keep a row in the summary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    pub(crate) threads: usize,
    pub(crate) processes: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            threads: 4_096,
            processes: 1_024,
        }
    }
}

/// All processes and threads of a watch.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProcessTable {
    pub(crate) processes: BTreeMap<ProcessId, Process>,
    by_pid: BTreeMap<Pid, Vec<ProcessId>>,
    pub(crate) by_thread: BTreeMap<ThreadKey, ProcessId>,
    /// The newest thread with an id: every slice asks for it.
    newest: HashMap<Tid, Newest, FixedState>,
    next: u64,
    unattributed: BTreeMap<Tid, Wakers>,
    /// Threads that `/proc` has listed in this window.
    listed: BTreeMap<Tid, ProcessId>,
    /// Ended threads and processes with a row, oldest first.
    pub(crate) ended_threads: VecDeque<ThreadKey>,
    pub(crate) ended_processes: VecDeque<ProcessId>,
    /// Those that may have something to tell at once.
    pub(crate) news: BTreeSet<ProcessId>,
    /// What is kept of looks and of `/proc`, bytes.
    pub(crate) kept: usize,
    /// Readings, forks and exits of what found no room.
    pub(crate) refused: u64,
    /// Targets of which nothing has been seen.
    pub(crate) unseen: BTreeSet<Pid>,
    /// How many of what ended keep a row.
    pub(crate) retention: Retention,
    /// The user's.
    stall_threshold_ns: Option<u64>,
}

impl ProcessTable {
    pub(crate) fn new(targets: &[Pid], stall_threshold_ns: Option<u64>) -> Self {
        ProcessTable {
            stall_threshold_ns,
            unseen: targets.iter().copied().collect(),
            ..ProcessTable::default()
        }
    }

    /// The newest process with this id, a new one if there is none. `None`: no room.
    pub(crate) fn newest(&mut self, pid: Pid, epoch: u64) -> Option<&mut Process> {
        let id = match self.newest_id(pid) {
            Some(id) => id,
            None => self.create(pid, epoch)?,
        };
        touch(&mut self.processes, &id)
    }

    /// Nothing has run in a process since all of it was read last.
    pub(crate) fn stands(&mut self, fact: &StillFact, epoch: u64) {
        let id = self.newest_id(fact.pid);
        let id = id.or_else(|| self.create(fact.pid, epoch));
        if let Some(process) = id.and_then(|id| self.processes.get_mut(&id)) {
            process.stands(fact, epoch);
        }
    }

    /// Who had this id at an instant (`CLOCK_MONOTONIC`): what is told of a process may come after its id
    /// has gone to another one.
    pub(crate) fn holder(
        &mut self,
        pid: Pid,
        at_ns: u64,
        clock: &Clock,
        epoch: u64,
    ) -> Option<&mut Process> {
        let known = self.by_pid.get(&pid).into_iter().flatten().rev();
        let holder = known.copied().find(|id| {
            let start = self.processes.get(id).and_then(|process| process.start);
            start.is_none_or(|(start, _)| clock.of_boottime(start) <= at_ns)
        });
        match holder {
            Some(id) => touch(&mut self.processes, &id),
            None => self.newest(pid, epoch),
        }
    }

    /// The process of which something was counted; its start is known to a clock tick, 0 where it is not.
    pub(crate) fn counted(
        &mut self,
        pid: Pid,
        start_boottime_ns: u64,
        epoch: u64,
    ) -> Option<&mut Process> {
        let known = self.by_pid.get(&pid).into_iter().flatten().rev();
        let same = known.copied().find(|id| {
            let process = self.processes.get(id);
            process.is_some_and(|process| process.started_at(start_boottime_ns, false))
        });
        match same {
            Some(id) => touch(&mut self.processes, &id),
            None => self.newest(pid, epoch),
        }
    }

    /// A process with this id may have something to tell at once.
    pub(crate) fn has_news(&mut self, pid: Pid) {
        self.news
            .extend(self.by_pid.get(&pid).into_iter().flatten());
    }

    /// Those that may have something to tell at once, in their order.
    pub(crate) fn take_news(&mut self) -> BTreeSet<ProcessId> {
        std::mem::take(&mut self.news)
    }

    fn newest_id(&self, pid: Pid) -> Option<ProcessId> {
        self.by_pid.get(&pid)?.last().copied()
    }

    /// The process with this identity, a new one if there is none. `exact`: the start time is
    /// the kernel's own, not that of `/proc`.
    fn started(
        &mut self,
        pid: Pid,
        start_boottime_ns: u64,
        exact: bool,
        epoch: u64,
    ) -> Option<ProcessId> {
        let known = self.by_pid.get(&pid).into_iter().flatten().copied();
        let process = |id: ProcessId| self.processes.get(&id);
        let same =
            |id: &ProcessId| process(*id).is_some_and(|p| p.started_at(start_boottime_ns, exact));
        let open = |id: &ProcessId| process(*id).is_some_and(|p| p.start.is_none());
        let found = known
            .clone()
            .rev()
            .find(same)
            .or_else(|| known.rev().find(open));
        let id = match found {
            Some(id) => id,
            None => {
                for id in self.by_pid.get(&pid).into_iter().flatten() {
                    // Its id has another holder, or it is itself the older one.
                    if let Some(process) = touch(&mut self.processes, id)
                        && process.started_before(start_boottime_ns)
                    {
                        process.end(epoch);
                    }
                }
                self.create(pid, epoch)?
            }
        };
        let process = touch(&mut self.processes, &id)?;
        if !matches!(process.start, Some((_, true))) {
            process.start = Some((start_boottime_ns, exact));
        }
        self.sort(pid);
        Some(id)
    }

    fn create(&mut self, pid: Pid, epoch: u64) -> Option<ProcessId> {
        let holders = self.by_pid.get(&pid).map_or(0, Vec::len);
        if self.processes.len() >= MAX_PROCESSES || holders >= MAX_HOLDERS {
            self.refused = self.refused.saturating_add(1);
            return None;
        }
        self.unseen.remove(&pid);
        let id = ProcessId(self.next);
        self.next += 1;
        let process = Process::new(pid, epoch, self.stall_threshold_ns);
        self.processes.insert(id, process);
        self.by_pid.entry(pid).or_default().push(id);
        Some(id)
    }

    /// Keeps the newest process of an id last.
    fn sort(&mut self, pid: Pid) {
        let processes = &self.processes;
        if let Some(ids) = self.by_pid.get_mut(&pid) {
            ids.sort_by_key(|id| (processes.get(id).and_then(|p| p.start), *id));
        }
    }

    /// The process of which a thread that was not the first has taken over the id, for it has run another program in it:
    /// it is older than that program, and younger than the process. It is the thread that it was.
    fn take_over(&mut self, pid: Pid, key: ThreadKey) -> Option<ProcessId> {
        let start_ns = key.start_boottime_ns;
        let mut known = self.by_pid.get(&pid).into_iter().flatten().rev();
        let id = *known.find(|id| {
            let process = self.processes.get(id);
            process.is_some_and(|process| process.started_before(start_ns))
        })?;
        let process = touch(&mut self.processes, &id)?;
        let is_meant = key.tid.0 == pid.0
            && start_ns < process.exec_boottime_ns
            && process.start.is_some()
            && !process.ended()
            && !process.started_at(start_ns, true);
        is_meant.then_some(())?;
        let threads = process.threads.iter();
        let old = threads
            .map(|thread| thread.key)
            .find(|old| old.start_boottime_ns == start_ns);
        if let Some(old) = old
            && let Some(place) = process.threads.renumber(old, key)
        {
            self.by_thread.remove(&old);
            self.by_thread.insert(key, id);
            // That id may be somebody else's by now.
            if self
                .newest
                .get(&old.tid)
                .is_some_and(|newest| newest.key == old)
            {
                self.newest.remove(&old.tid);
            }
            self.newest.insert(key.tid, Newest { id, key, place });
        }
        Some(id)
    }

    /// The process of a thread: where it is not known, the newest with this id that is not
    /// younger than the thread.
    fn process_of(&mut self, pid: Pid, key: ThreadKey, epoch: u64) -> Option<ProcessId> {
        if let Some(&id) = self.by_thread.get(&key) {
            return Some(id);
        }
        if let Some(id) = self.take_over(pid, key) {
            return Some(id);
        }
        if key.tid.0 == pid.0 {
            return self.started(pid, key.start_boottime_ns, true, epoch);
        }
        let known = self.by_pid.get(&pid).into_iter().flatten().rev();
        let older = known.copied().find(|id| {
            let process = self.processes.get(id);
            process.is_some_and(|process| process.started_before(key.start_boottime_ns))
        });
        match older.or_else(|| self.newest_id(pid)) {
            Some(id) => Some(id),
            None => self.create(pid, epoch),
        }
    }

    /// A thread and its process, new ones if need be. `None`: no room.
    fn thread(
        &mut self,
        pid: Pid,
        key: ThreadKey,
        epoch: u64,
    ) -> Option<(&mut Process, ThreadKey)> {
        let id = self.process_of(pid, key, epoch)?;
        let is_new = !self.by_thread.contains_key(&key);
        if is_new && self.by_thread.len() >= MAX_THREADS {
            self.refused = self.refused.saturating_add(1);
            return None;
        }
        let process = touch(&mut self.processes, &id)?;
        if is_new {
            self.by_thread.insert(key, id);
            let mut thread = Thread::new(key, epoch);
            if let Some(wakers) = self.unattributed.remove(&key.tid) {
                thread.adopt(wakers);
            }
            let place = process.threads.insert(thread);
            let newest = Newest { id, key, place };
            let known = self.newest.entry(key.tid).or_insert(newest);
            if known.key <= key {
                *known = newest;
            }
        }
        Some((process, key))
    }

    pub(crate) fn fork(&mut self, fork: &Fork, epoch: u64) {
        let parent = self.newest.get(&fork.parent).map(|newest| newest.id);
        let parent = parent.and_then(|id| Some((id, self.processes.get(&id)?.pid)));
        // What was counted under this id was of an earlier holder.
        self.unattributed.remove(&fork.tid);
        let key = ThreadKey {
            tid: fork.tid,
            start_boottime_ns: fork.start_boottime_ns,
        };
        let Some((process, _)) = self.thread(fork.pid, key, epoch) else {
            return;
        };
        process.seen(fork.at_ns);
        if fork.tid.0 == fork.pid.0 {
            process.rename(&fork.comm, fork.at_ns);
            if let Some((id, pid)) = parent {
                process.parent = Some(id);
                process.fork_ppid = Some(pid.0);
            } else {
                process.forked_by = Some(fork.parent);
            }
        }
    }

    /// Finds the parents of those whose own were not known at the fork: their threads were read later.
    pub(crate) fn find_parents(&mut self) {
        let mut found = Vec::new();
        for (&id, process) in &mut self.processes {
            let by = process.forked_by.take();
            if let Some(by) = by.filter(|_| process.parent.is_none()) {
                found.push((id, by));
            }
        }
        for (id, by) in found {
            let parent = self.newest.get(&by).map(|newest| newest.id);
            let parent = parent.filter(|parent| *parent != id);
            let pid = parent.and_then(|parent| Some(self.processes.get(&parent)?.pid));
            if let Some(process) = touch(&mut self.processes, &id) {
                process.parent = parent;
                process.fork_ppid = pid.map(|pid| pid.0);
            }
        }
    }

    /// The newest process with this id is not shown any more.
    pub(crate) fn exclude(&mut self, pid: Pid, epoch: u64) {
        if let Some(id) = self.newest_id(pid)
            && let Some(process) = touch(&mut self.processes, &id)
        {
            process.excluded = Some(epoch);
            // Its group may be forgotten, and its place in the list be another one's.
            process.member = Member::default();
        }
    }

    pub(crate) fn exit(&mut self, exit: &Exit, epoch: u64) {
        let key = ThreadKey {
            tid: exit.tid,
            start_boottime_ns: exit.start_boottime_ns,
        };
        let Some((process, key)) = self.thread(exit.pid, key, epoch) else {
            return;
        };
        if let Some(thread) = process.threads.get_mut(key) {
            thread.exit(exit.at_ns, epoch);
        }
        process.exit(exit, epoch);
    }

    pub(crate) fn ledger(&mut self, fact: &LedgerFact, epoch: u64) {
        if fact.folded {
            if let Some(process) = self.newest(fact.pid, epoch) {
                process.folded_ledger(fact);
            }
            return;
        }
        let key = ThreadKey {
            tid: fact.tid,
            start_boottime_ns: fact.start_boottime_ns,
        };
        let Some((process, key)) = self.thread(fact.pid, key, epoch) else {
            return;
        };
        if let Some(thread) = process.threads.get_mut(key) {
            if thread.is_folded_end() {
                process.folded.give_back(thread);
            }
            thread.ledger(fact, epoch);
            process.gil.ledger(fact);
            process.loop_times.ledger(fact);
            if process.loop_times.has_news() {
                self.news.extend(self.by_thread.get(&key).copied());
            }
        }
    }

    /// `all_come`: those of other threads are not left out, by which it is known who had the GIL.
    pub(crate) fn slice(&mut self, slice: &Slice, all_come: bool) {
        if let Some(&Newest { id, key, place }) = self.newest.get(&slice.tid)
            && let Some(process) = touch(&mut self.processes, &id)
            && let Some(thread) = process.threads.at_mut(place, key)
            && thread.slice(slice)
        {
            if has_news(process, slice, all_come) {
                self.news.insert(id);
            }
            return;
        }
        // Before the first reading of its ledger, only `/proc` says whose thread it is.
        if let Some(id) = self.listed.get(&slice.tid)
            && let Some(process) = touch(&mut self.processes, id)
            && has_news(process, slice, all_come)
        {
            self.news.insert(*id);
        }
        let Some(wait) = &slice.wait else {
            return;
        };
        if self.unattributed.len() < MAX_UNATTRIBUTED || self.unattributed.contains_key(&slice.tid)
        {
            self.unattributed
                .entry(slice.tid)
                .or_default()
                .count(wait, slice.in_ns);
        }
    }

    pub(crate) fn fact(&mut self, fact: &ProcessFact, epoch: u64) {
        let pid = Pid(fact.pid);
        let Some(id) = self.started(pid, fact.start_boottime_ns, false, epoch) else {
            return;
        };
        // The id of one that has ended may be somebody's who is not watched.
        let is_parent = |parent: &ProcessId| {
            let process = self.processes.get(parent);
            let lives = |process: &Process| {
                !process.ended() && process.started_before(fact.start_boottime_ns)
            };
            *parent != id && process.is_some_and(lives)
        };
        let parent = self.newest_id(Pid(fact.ppid)).filter(is_parent);
        let stats = fact.thread_stats.iter();
        self.listed.extend(stats.map(|stat| (stat.tid, id)));
        if let Some(process) = touch(&mut self.processes, &id) {
            process.fact(fact, epoch, &mut self.kept);
            // After the death of its parent, the one that forked it stays what it came from.
            process.parent = process.parent.or(parent);
        }
    }

    /// The process with this id that `is` says it is, if it stands still in this window.
    pub(crate) fn still(&self, pid: Pid, is: impl Fn(&Process) -> bool) -> Option<ProcessId> {
        let mut known = self.by_pid.get(&pid)?.iter().copied();
        known.find(|id| {
            let process = self.processes.get(id);
            process.is_some_and(|process| process.standing.is_still() && is(process))
        })
    }

    /// Threads, processes and their tasks.
    pub(crate) fn rows(&self) -> usize {
        let tasks = self.processes.values().map(Process::tasks);
        self.by_thread.len() + self.processes.len() + tasks.sum::<usize>()
    }

    /// Forgets threads and slices that turned out to be nobody's.
    pub(crate) fn roll(&mut self, epoch: u64) {
        self.unattributed.clear();
        self.listed.clear();
        for process in self.processes.values_mut() {
            process.roll(epoch);
        }
        self.kept = self.processes.values().map(Process::kept).sum();
        let (processes, known) = (&self.processes, self.by_thread.len());
        let threads = processes.values().map(|process| process.threads.len());
        // All threads of processes are known: there is none too many.
        if threads.sum::<usize>() == known {
            return;
        }
        self.by_thread.retain(|key, id| {
            let process = processes.get(id);
            process.is_some_and(|process| process.threads.contains(*key))
        });
        if self.by_thread.len() < known {
            // The last one of an id stays.
            let threads = self.by_thread.iter().filter_map(|(&key, &id)| {
                let place = processes.get(&id)?.threads.place(key)?;
                Some((key.tid, Newest { id, key, place }))
            });
            self.newest = threads.collect();
        }
    }

    /// Forgets a process without threads.
    pub(crate) fn remove(&mut self, id: ProcessId) {
        if let Some(process) = self.processes.remove(&id)
            && let Some(ids) = self.by_pid.get_mut(&process.pid)
        {
            ids.retain(|&other| other != id);
            if ids.is_empty() {
                self.by_pid.remove(&process.pid);
            }
        }
    }
}

/// A process of which something has come.
fn touch<'a>(
    processes: &'a mut BTreeMap<ProcessId, Process>,
    id: &ProcessId,
) -> Option<&'a mut Process> {
    let process = processes.get_mut(id)?;
    process.standing.touch();
    Some(process)
}

/// Takes a slice over into what a process concludes from them; whether that has come to something.
fn has_news(process: &mut Process, slice: &Slice, all_come: bool) -> bool {
    if all_come {
        process.gil.slice(slice);
    }
    process.loop_times.slice(slice);
    process.loop_times.has_news()
}
