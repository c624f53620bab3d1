//! A process: its threads, what `/proc` and the interpreter say of it, and how it ended.

use std::sync::Arc;

use super::add::Add;
use super::collector::Collector;
use super::deadlocks::deadlocks;
use super::delta::Delta;
use super::executors::Executors;
use super::folded::{Folded, Rows};
use super::gauges::Gauges;
use super::gil::Gil;
use super::http::Http;
use super::kept;
use super::ledger::Totals;
use super::locks::Futexes;
use super::loops::Loops;
use super::member::{GroupId, Member};
use super::pools::Pools;
use super::still::Standing;
use super::thread::{PROC_TICK_NS, Thread};
use super::threads::Threads;
use super::throttling::Throttling;
use super::timing::LoopTimes;
use super::window::{Clock, Cumulative, Scope};
use crate::event::{
    Exec, Exit, LedgerFact, Pid, ProcessFact, PyProcess, PythonFact, StillFact, Tid,
};
use crate::schema::{Deadlock, Exited};

/// Windows without any sign of life after which a process is taken for ended.
pub(super) const PATIENCE: u64 = 2;
/// Tasks kept of a process after its last window.
const MAX_ENDED_TASKS: usize = 256;

/// A process of this watch, in the order in which they became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProcessId(pub(crate) u64);

/// Where the row of an ended process has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FoldedInto {
    /// The nearest ancestor in the same group that has a row.
    Process(ProcessId),
    /// Nobody of its group is left above it.
    Group(Option<GroupId>),
}

#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) pid: Pid,
    /// In ns of `CLOCK_BOOTTIME`; and whether that is the kernel's own number or `/proc`'s.
    pub(crate) start: Option<(u64, bool)>,
    pub(super) born_epoch: u64,
    pub(crate) parent: Option<ProcessId>,
    /// Of the parent at the fork.
    pub(crate) fork_ppid: Option<u32>,
    /// The thread that forked it, whose process was not known then, until that is looked up.
    pub(crate) forked_by: Option<Tid>,
    pub(crate) name: String,
    name_ns: u64,
    /// The latest reading of `/proc`, of a zombie only where there is no other.
    pub(crate) fact: Option<Box<ProcessFact>>,
    pub(super) fact_epoch: u64,
    pub(super) fact_is_new: bool,
    pub(super) zombie: bool,
    last_gauges: Gauges,
    pub(super) throttling: Throttling,
    /// The command line read before is another program's.
    pub(crate) exec_ns: u64,
    /// The same by `CLOCK_BOOTTIME`.
    pub(super) exec_boottime_ns: u64,
    pub(crate) look: Option<Arc<PythonFact>>,
    /// What a look has read of it last: one that ends early may lack it.
    pub(crate) multiprocessing: Option<PyProcess>,
    pub(super) look_is_new: bool,
    /// What the look shows.
    pub(crate) deadlocks: Vec<Deadlock>,
    /// Until when what it says is known to hold, ns.
    pub(crate) look_holds_ns: u64,
    /// What the look and the reading of `/proc` take, bytes.
    look_bytes: usize,
    fact_bytes: usize,
    pub(crate) tasks_cut: bool,
    pub(crate) threads: Threads,
    pub(crate) loops: Loops,
    pub(crate) loop_times: LoopTimes,
    pub(crate) pools: Pools,
    pub(crate) http: Http,
    pub(crate) collector: Collector,
    pub(crate) executors: Executors,
    pub(super) futexes: Futexes,
    pub(crate) gil: Gil,
    pub(crate) folded: Folded,
    /// Rows that the model gave up.
    pub(crate) rows: Rows,
    /// Ended processes whose rows the model gave up in its favour.
    pub(crate) inherited: Rows,
    pub(super) member: Member,
    pub(super) standing: Standing,
    /// Threads in `/proc` that the kernel programs do not account for.
    pub(crate) unaccounted: u64,
    /// `CLOCK_MONOTONIC` between which it was watched.
    pub(super) seen_from: Option<u64>,
    pub(super) seen_until: Cumulative<u64>,
    group_status: Option<u32>,
    leader_status: Option<u32>,
    pub(crate) exited: Option<Exited>,
    /// The window in which it ended.
    ended_epoch: Option<u64>,
    exit_seen: bool,
    /// Its last window is over.
    pub(super) retired: bool,
    /// The window in which it turned out to be one that the user does not want to see.
    pub(crate) excluded: Option<u64>,
    pub(crate) listed: bool,
    /// Its row is gone from the summary: it is in the `ended` of this process, or of its group.
    pub(crate) folded_into: Option<FoldedInto>,
}

impl Process {
    pub(crate) fn new(pid: Pid, epoch: u64, stall_threshold_ns: Option<u64>) -> Self {
        Process {
            pid,
            start: None,
            born_epoch: epoch,
            parent: None,
            fork_ppid: None,
            forked_by: None,
            name: String::new(),
            name_ns: 0,
            fact: None,
            fact_epoch: 0,
            fact_is_new: false,
            zombie: false,
            last_gauges: Gauges::default(),
            throttling: Throttling::default(),
            exec_ns: 0,
            exec_boottime_ns: 0,
            look: None,
            multiprocessing: None,
            look_is_new: false,
            deadlocks: Vec::new(),
            look_holds_ns: 0,
            look_bytes: 0,
            fact_bytes: 0,
            tasks_cut: false,
            threads: Threads::default(),
            loops: Loops::default(),
            loop_times: LoopTimes::new(stall_threshold_ns),
            pools: Pools::default(),
            http: Http::default(),
            collector: Collector::default(),
            executors: Executors::default(),
            futexes: Futexes::default(),
            gil: Gil::default(),
            folded: Folded::default(),
            rows: Rows::default(),
            inherited: Rows::default(),
            member: Member::default(),
            standing: Standing::default(),
            unaccounted: 0,
            seen_from: None,
            seen_until: Cumulative::default(),
            group_status: None,
            leader_status: None,
            exited: None,
            ended_epoch: None,
            exit_seen: false,
            retired: false,
            excluded: None,
            listed: false,
            folded_into: None,
        }
    }

    /// The start time fits, as far as the resolution of `/proc` tells where one is not `exact`.
    pub(crate) fn started_at(&self, start_boottime_ns: u64, exact: bool) -> bool {
        self.start.is_some_and(|(start, is_exact)| {
            let tick_ns = if exact && is_exact { 1 } else { PROC_TICK_NS };
            start / tick_ns == start_boottime_ns / tick_ns
        })
    }

    /// It did not start later than this, as far as is known.
    pub(crate) fn started_before(&self, start_boottime_ns: u64) -> bool {
        let ticks = start_boottime_ns / PROC_TICK_NS;
        self.start
            .is_none_or(|(start, _)| start / PROC_TICK_NS <= ticks)
    }

    pub(crate) fn ended(&self) -> bool {
        self.ended_epoch.is_some()
    }

    pub(crate) fn rename(&mut self, name: &str, at_ns: u64) {
        if at_ns >= self.name_ns && !name.is_empty() {
            self.name = name.to_owned();
            self.name_ns = at_ns;
        }
    }

    /// It was watched at this instant.
    pub(crate) fn seen(&mut self, at_ns: u64) {
        self.seen_from = Some(self.seen_from.map_or(at_ns, |from| from.min(at_ns)));
        self.seen_until.now = self.seen_until.now.max(at_ns);
    }

    pub(crate) fn exec(&mut self, exec: &Exec, clock: &Clock) {
        let at_ns = clock.boottime_of(exec.at_ns);
        self.exec_boottime_ns = self.exec_boottime_ns.max(at_ns);
        self.rename(&exec.comm, exec.at_ns);
        let before = self.group();
        self.member.replaced = self.member.replaced.or(before);
        self.exec_ns = self.exec_ns.max(exec.at_ns);
        self.collector.replaced();
        self.loops.replaced();
        self.futexes = Futexes::default();
        self.http.replaced();
        self.gil.exec(exec.at_ns);
        if self
            .look
            .as_ref()
            .is_some_and(|look| look.read_ns < exec.at_ns)
        {
            self.look = None;
            self.deadlocks = Vec::new();
            self.multiprocessing = None;
            self.look_is_new = false;
            self.loops.stop_all();
            self.loop_times.replaced();
            for thread in self.threads.iter_mut().filter(|thread| thread.alive()) {
                thread.forget_python();
            }
        }
    }

    pub(crate) fn exit(&mut self, exit: &Exit, epoch: u64) {
        self.seen(exit.at_ns);
        if exit.group {
            self.group_status = Some(exit.status);
        }
        if exit.tid.0 == exit.pid.0 {
            self.leader_status = Some(exit.status);
        }
        self.exit_seen |= exit.last;
        if exit.last || self.ended() {
            self.end(epoch);
        }
    }

    /// It is no more. How it ended is what a thread said of all of them, else what the leader
    /// said; neither may have been seen.
    pub(crate) fn end(&mut self, epoch: u64) {
        self.ended_epoch.get_or_insert(epoch);
        self.http.replaced();
        self.exited = Some(exited(self.group_status.or(self.leader_status)));
    }

    /// Takes a reading of `/proc` over; `kept` is what all processes keep.
    pub(crate) fn fact(&mut self, fact: &ProcessFact, epoch: u64, kept: &mut usize) {
        if self
            .fact
            .as_ref()
            .is_some_and(|known| known.read_ns > fact.read_ns)
        {
            return;
        }
        self.rename(&fact.name, fact.read_ns);
        self.fact_epoch = epoch;
        self.zombie = fact.zombie;
        // Of a zombie, /proc still says who it is, but no more what it uses.
        if !fact.zombie {
            self.throttling.read(&fact.quotas);
            if self.ended() && !self.exit_seen {
                // It was given up too early.
                (self.ended_epoch, self.exited, self.retired) = (None, None, false);
            }
            self.last_gauges = Gauges::of(fact).or(&self.last_gauges);
        } else if self.fact.is_some() {
            return;
        }
        *kept = kept.saturating_sub(self.fact_bytes);
        let mut fact = Box::new(fact.clone());
        if !kept::fits(&fact, *kept) {
            (fact.thread_stats, fact.cmdline) = (Vec::new(), Vec::new());
        }
        self.fact_bytes = kept::fact_bytes(&fact);
        *kept += self.fact_bytes;
        self.fact = Some(fact);
        self.fact_is_new = true;
    }

    /// Takes a look over; `kept` is what all processes keep.
    pub(crate) fn python(&mut self, look: &Arc<PythonFact>, kept: &mut usize) {
        let before = self.look.as_deref();
        if before.is_some_and(|before| before.read_ns > look.read_ns) || look.read_ns < self.exec_ns
        {
            return;
        }
        *kept = kept.saturating_sub(self.look_bytes);
        let look = &kept::fitted(look, *kept);
        self.look_bytes = kept::look_bytes(look);
        *kept += self.look_bytes;
        if let Some(process) = &look.process {
            self.multiprocessing = Some(process.clone());
        }
        self.loops.look(look, before, &self.loop_times);
        self.loop_times.look(look);
        self.executors.look(look);
        self.pools.look(look);
        if let Some(gc) = &look.gc {
            self.collector.look(gc);
        }
        self.gil.look(&look.gils);
        self.http.look(look);
        self.deadlocks = deadlocks(look);
        self.look = Some(Arc::clone(look));
        self.look_holds_ns = look.read_ns;
        self.look_is_new = true;
        self.tasks_cut = false;
    }

    /// Nothing has run in it since all of it was read last.
    pub(crate) fn stands(&mut self, fact: &StillFact, epoch: u64) {
        self.standing.tell();
        for thread in self.threads.iter_mut() {
            thread.stands(fact.read_ns, epoch);
        }
        self.loop_times.stands(fact.read_ns);
        if self.fact.is_some() {
            self.fact_epoch = epoch;
        }
        if self.look.is_some() {
            self.look_holds_ns = self.look_holds_ns.max(fact.read_ns);
            self.gil.look(&fact.gils);
        }
    }

    pub(crate) fn folded_ledger(&mut self, fact: &LedgerFact) {
        self.folded.ledger(fact);
    }

    /// Tasks of the last look.
    pub(crate) fn tasks(&self) -> usize {
        self.look.as_ref().map_or(0, |look| look.tasks.len())
    }

    /// What is kept of the last look and reading of `/proc`, bytes.
    pub(crate) const fn kept(&self) -> usize {
        self.look_bytes + self.fact_bytes
    }

    /// The gauges: the latest, and after its end the last known.
    pub(crate) fn gauges(&self) -> Gauges {
        match &self.fact {
            Some(fact) if !self.zombie && !self.ended() => Gauges::of(fact),
            _ => self.last_gauges,
        }
    }

    /// Nothing more will come of it.
    pub(crate) fn finished(&self, epoch: u64) -> bool {
        self.ended_epoch.is_some_and(|ended| {
            ended + PATIENCE <= epoch || self.threads.iter().all(Thread::ended)
        })
    }

    /// Its threads of which sums need all slices, at the end of a window that was so long.
    pub(crate) fn needs_slices_of(&self, window_ns: u64) -> impl Iterator<Item = Tid> {
        let contended = self
            .gil
            .is_contended(window_ns)
            .then(|| self.threads.iter());
        let living = contended.into_iter().flatten().filter(|one| one.alive());
        self.loop_times
            .loops()
            .chain(living.map(|thread| thread.key.tid))
    }

    /// Begins the window after `epoch`.
    pub(crate) fn roll(&mut self, epoch: u64) {
        for thread in self.threads.iter_mut() {
            thread.roll();
        }
        self.throttling.roll();
        self.loops.roll();
        self.loop_times.roll();
        self.pools.roll();
        self.http.roll();
        self.collector.roll();
        self.gil.roll();
        self.folded.roll();
        self.seen_until.roll();
        self.standing.roll();
        if !self.retired && self.finished(epoch) {
            self.retired = true;
            if let Some(fact) = &mut self.fact {
                fact.thread_stats = Vec::new();
                self.fact_bytes = kept::fact_bytes(fact);
            }
            if let Some(look) = &mut self.look {
                let look = Arc::make_mut(look);
                look.threads = Vec::new();
                self.tasks_cut = look.tasks.len() > MAX_ENDED_TASKS;
                look.tasks.truncate(MAX_ENDED_TASKS);
                self.look_bytes = kept::look_bytes(look);
                self.deadlocks = deadlocks(look);
            }
        }
    }

    /// It has a row in `scope`.
    pub(crate) fn shown(&self, scope: Scope) -> bool {
        if self.excluded.is_some() {
            return false;
        }
        match scope {
            Scope::Window => {
                let late = |thread: &Thread| thread.accounted() && !thread.retired;
                !self.retired || self.threads.iter().any(late)
            }
            Scope::Whole => self.folded_into.is_none(),
        }
    }

    /// Columns and switches of all its threads, those without a row included.
    pub(crate) fn totals(&self, scope: Scope) -> Totals {
        let mut totals = self.folded.over(scope).totals;
        if scope == Scope::Whole {
            totals = totals.plus(&self.rows.totals);
        }
        let threads = self.threads.iter();
        threads.fold(totals, |totals, thread| totals.plus(&thread.totals(scope)))
    }

    /// What the window `epoch` has added; asked for once in each.
    pub(crate) fn delta(&mut self, epoch: u64, clock: &Clock) -> Delta {
        let mut delta = Delta::default();
        if !self.member.began {
            self.member.began = true;
            let start = self.start.map(|(start, _)| start);
            let is_new = start.map_or(self.fork_ppid.is_some(), |start| {
                start >= clock.start_boottime_ns
            });
            delta.started = u64::from(is_new);
        }
        if !self.member.ended && self.finished(epoch) {
            self.member.ended = true;
            let exits = &mut delta.exits;
            let how = match self.exited {
                Some(Exited { code: Some(0), .. }) => &mut exits.ok,
                Some(Exited { code: Some(_), .. }) => &mut exits.error,
                Some(Exited {
                    signal: Some(_), ..
                }) => &mut exits.signal,
                _ => &mut exits.unknown,
            };
            *how = 1;
            // Of those that were there before, `since_unix_ns` says it.
            let start = self
                .start
                .filter(|(start, _)| *start > clock.start_boottime_ns);
            let is_late = start.is_some_and(|(start, _)| {
                !self.loop_times.is_counted_since(clock.of_boottime(start))
            });
            delta.tasks.uncounted = u64::from(is_late);
        }
        let folded = self.folded.over(Scope::Window);
        delta.threads_started = folded.threads;
        if folded.totals != Totals::default() {
            delta.threads.of(None).add(&folded.totals);
        }
        for thread in self.threads.iter_mut().filter(|thread| thread.accounted()) {
            thread.add_to(&mut delta, epoch);
        }
        self.gil.add_to(&mut delta.gil);
        self.collector.add_to(&mut delta.gc);
        self.loops.add_to(&mut delta);
        self.loop_times.add_to(&mut delta, self.pid.0);
        self.pools.add_to(&mut delta.work);
        self.http.add_to(&mut delta.http);
        self.http.peers.add_to(&mut delta.peers);
        delta
    }

    /// The group that its rows go to when it is gone.
    pub(crate) fn group(&self) -> Option<GroupId> {
        self.member.of.map(|(group, _)| group)
    }

    /// All of it, for the process that takes its row over.
    pub(crate) fn retired_totals(&self) -> Rows {
        let mut totals = self.rows;
        totals.add(&self.inherited);
        totals.add(&self.folded.over(Scope::Whole));
        for thread in self.threads.iter().filter(|thread| thread.accounted()) {
            totals.add_thread(thread);
        }
        totals.processes = totals.processes.saturating_add(1);
        totals
    }

    /// For how long it was watched in `scope`, ns.
    pub(crate) fn watched_ns(&self, scope: Scope) -> u64 {
        let from = self.seen_from.unwrap_or(self.seen_until.now);
        let from = match scope {
            Scope::Window => from.max(*self.seen_until.base()),
            Scope::Whole => from,
        };
        self.seen_until.now.saturating_sub(from)
    }
}

/// A status word as `wait` gives it: a signal in the low 7 bits, or a code in the second byte.
fn exited(status: Option<u32>) -> Exited {
    let signal = status.map(|status| (status & 0x7f) as u8);
    let code = status.map(|status| (status >> 8) as u8);
    match signal {
        Some(0) => Exited { code, signal: None },
        signal => Exited { code: None, signal },
    }
}

#[cfg(test)]
mod tests;
