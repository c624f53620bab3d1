//! Which threads there are: the newest holder of each id, and what it is called.

use std::collections::BTreeMap;

use crate::event::{Fork, LedgerFact, LoopKind, Pid, ProcessFact, PythonFact, ThreadState, Tid};
use crate::model::rows::loop_kind;
use crate::model::thread::PROC_TICK_NS;
use crate::schema;

/// Threads that are told apart; of later ones nothing is told.
const MAX_THREADS: usize = 16_384;
/// Holders of the same id that are told apart when the account of an earlier one comes late.
const MAX_HOLDERS: usize = 64;
/// Processes whose names are kept.
const MAX_PROCESSES: usize = 16_384;

/// A thread of the watch.
#[derive(Clone, Debug)]
pub struct Thread {
    pub pid: Pid,
    pub tid: Tid,
    /// What Python calls it, else the kernel; empty where neither is known.
    pub name: String,
    /// What kind of event loop it was seen to run.
    pub loop_kind: Option<schema::LoopKind>,
}

#[derive(Clone, Debug)]
pub(super) struct Tracked {
    thread: Thread,
    start_boottime_ns: u64,
    /// Who had its id before.
    before: Option<usize>,
    /// Python has told the name.
    named: bool,
    /// Up to where intervals were handed out; `None`: nothing is known of its beginning.
    pub(super) pos_ns: Option<u64>,
    /// Since when it does what it does, and when that was read.
    pub(super) open: Option<(u64, ThreadState, u64)>,
    pub(super) ended_ns: Option<u64>,
}

/// All threads, in the order in which they became known.
#[derive(Clone, Debug)]
pub struct Threads {
    start_ns: u64,
    start_boottime_ns: u64,
    all: Vec<Tracked>,
    newest: BTreeMap<Tid, usize>,
    processes: BTreeMap<Pid, String>,
    left_out: u64,
}

impl Threads {
    pub(super) fn new(start_ns: u64, start_boottime_ns: u64) -> Self {
        Threads {
            start_ns,
            start_boottime_ns,
            all: Vec::new(),
            newest: BTreeMap::new(),
            processes: BTreeMap::new(),
            left_out: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.all.len()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub fn get(&self, thread: usize) -> Option<&Thread> {
        self.all.get(thread).map(|tracked| &tracked.thread)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Thread> {
        self.all.iter().map(|tracked| &tracked.thread)
    }

    /// The name of a process: script or module where it is Python; empty where it is not known.
    pub fn process_name(&self, pid: Pid) -> &str {
        self.processes.get(&pid).map_or("", String::as_str)
    }

    /// How often there was no room for another thread.
    pub const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// When it started (`CLOCK_BOOTTIME`, ns), where that is known.
    pub(super) fn start_boottime_ns(&self, thread: usize) -> Option<u64> {
        let start_ns = self.all.get(thread)?.start_boottime_ns;
        (start_ns != 0).then_some(start_ns)
    }

    pub(super) fn get_mut(&mut self, thread: usize) -> Option<&mut Tracked> {
        self.all.get_mut(thread)
    }

    /// What is told of all threads begins here.
    pub(super) fn begin(&mut self, start_ns: u64) {
        self.start_ns = start_ns;
        for known in &mut self.all {
            known.pos_ns = Some(start_ns);
        }
    }

    /// The newest thread with this id.
    pub(super) fn newest(&self, tid: Tid) -> Option<usize> {
        self.newest.get(&tid).copied()
    }

    /// The thread of a sample, a new one if need be.
    pub(super) fn of_sample(&mut self, pid: Pid, tid: Tid) -> Option<usize> {
        self.newest(tid).or_else(|| self.create(pid, tid, 0, None))
    }

    fn create(
        &mut self,
        pid: Pid,
        tid: Tid,
        start_boottime_ns: u64,
        pos_ns: Option<u64>,
    ) -> Option<usize> {
        if self.all.len() >= MAX_THREADS {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        let at = self.all.len();
        self.all.push(Tracked {
            thread: Thread {
                pid,
                tid,
                name: String::new(),
                loop_kind: None,
            },
            start_boottime_ns,
            before: self.newest(tid),
            named: false,
            pos_ns,
            open: None,
            ended_ns: None,
        });
        self.newest.insert(tid, at);
        Some(at)
    }

    /// What stands for all threads that are not told apart.
    pub(super) fn others(&mut self) -> usize {
        let at = self.all.len();
        self.all.push(Tracked {
            thread: Thread {
                pid: Pid(0),
                tid: Tid(0),
                name: "others".to_owned(),
                loop_kind: None,
            },
            start_boottime_ns: 0,
            before: None,
            named: true,
            pos_ns: None,
            open: None,
            ended_ns: None,
        });
        self.processes.insert(Pid(0), "other threads".to_owned());
        at
    }

    /// A thread is born. Returns the one that had its id before.
    pub(super) fn fork(&mut self, fork: &Fork) -> Option<usize> {
        if let Some(at) = self.newest(fork.tid)
            && self.all[at].is(fork.start_boottime_ns)
        {
            // Its ledger, or a sample, was quicker.
            let known = &mut self.all[at];
            known.start_boottime_ns = fork.start_boottime_ns;
            known.pos_ns.get_or_insert(fork.at_ns);
            known.called(&fork.comm, false);
            return None;
        }
        let before = self.newest(fork.tid);
        if let Some(at) = self.create(fork.pid, fork.tid, fork.start_boottime_ns, Some(fork.at_ns))
        {
            self.all[at].called(&fork.comm, false);
        }
        before
    }

    /// Takes the reading of an account. Returns its thread, and the one that had its id before, if that
    /// has ended by this.
    pub(super) fn ledger(&mut self, fact: &LedgerFact) -> (Option<usize>, Option<usize>) {
        let before = self.newest(fact.tid);
        let (at, replaced) = match before {
            Some(at) if self.all[at].is(fact.start_boottime_ns) => (Some(at), None),
            // The account of an earlier holder, which was collected late.
            Some(at) if self.all[at].start_boottime_ns > fact.start_boottime_ns => {
                let holders = std::iter::successors(Some(at), |at| self.all[*at].before);
                let mut earlier = holders
                    .take(MAX_HOLDERS)
                    .find(|at| self.all[*at].is(fact.start_boottime_ns));
                if let Some(at) = earlier
                    && self.all[at].ended_ns.is_some()
                {
                    earlier = None;
                }
                (earlier, None)
            }
            replaced => {
                let from_ns = fact.start_ns.max(self.start_ns);
                let new = self.create(fact.pid, fact.tid, fact.start_boottime_ns, Some(from_ns));
                (new, replaced)
            }
        };
        if let Some(known) = at.and_then(|at| self.all.get_mut(at)) {
            known.start_boottime_ns = fact.start_boottime_ns;
            known.pos_ns.get_or_insert(fact.start_ns.max(self.start_ns));
            if fact.state == ThreadState::Dead {
                known.ended_ns = Some(fact.since_ns);
            }
        }
        (at, replaced)
    }

    pub(super) fn process(&mut self, fact: &ProcessFact) {
        let pid = Pid(fact.pid);
        if self.processes.len() < MAX_PROCESSES || self.processes.contains_key(&pid) {
            let name = fact.entry.as_ref().unwrap_or(&fact.name);
            if !name.is_empty() {
                self.processes.insert(pid, name.clone());
            }
        }
        for stat in &fact.thread_stats {
            let known = self
                .newest(stat.tid)
                .filter(|&at| self.all[at].is(stat.start_boottime_ns));
            let at = known.or_else(|| {
                // One that is not known though others with its id are is another one: its fork tells.
                if self.newest.contains_key(&stat.tid) {
                    return None;
                }
                let old = stat.start_boottime_ns <= self.start_boottime_ns;
                let pos_ns = old.then_some(self.start_ns);
                self.create(pid, stat.tid, stat.start_boottime_ns, pos_ns)
            });
            if let Some(known) = at.and_then(|at| self.all.get_mut(at)) {
                known.called(&stat.comm, false);
            }
        }
    }

    pub(super) fn python(&mut self, fact: &PythonFact) {
        for thread in &fact.threads {
            if let Some(at) = self.newest(thread.tid)
                && let Some(name) = &thread.name
            {
                self.all[at].called(name, true);
            }
        }
        for running in &fact.loops {
            if let Some(at) = self.newest(running.tid) {
                let kind: LoopKind = running.kind;
                self.all[at].thread.loop_kind = Some(loop_kind(kind));
            }
        }
    }
}

impl Tracked {
    /// What it does by its account. Of one that has ended, the last slices are still waiting for their turn.
    pub(super) fn read(&mut self, fact: &LedgerFact) {
        if fact.state != ThreadState::Dead {
            self.open = Some((fact.since_ns, fact.state, fact.read_ns));
        }
    }

    /// It started then, as far as the resolution of `/proc` tells.
    fn is(&self, start_boottime_ns: u64) -> bool {
        self.start_boottime_ns == 0
            || self.start_boottime_ns / PROC_TICK_NS == start_boottime_ns / PROC_TICK_NS
    }

    fn called(&mut self, name: &str, by_python: bool) {
        if !name.is_empty() && (by_python || !self.named) && self.thread.name != name {
            name.clone_into(&mut self.thread.name);
        }
        self.named |= by_python;
    }
}
