//! The time of event loops: busy stretches, steps, stalls, lag, and whose the time was.
//!
//! Slices tell exactly when a loop's thread waits in its selector, and where else its time goes.
//! Samples tell whose the time was: which step (by the version of the thread's current context),
//! which task (by its coroutine), which code. All that comes from samples is an estimate and marked as
//! such; what comes from slices is not.

mod asleep;
mod busy;
mod busy_tracker;
mod by_name;
mod code;
pub(crate) mod cost;
mod culprit;
mod exact;
mod gone;
mod hang;
mod lag;
mod loop_thread;
pub(crate) mod names;
mod open_step;
mod row;
mod run;
mod segments;
mod share;
mod step_counter;
mod stretch;
mod sums;
#[cfg(test)]
mod tests;
mod turns;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::fine::Fine;
use super::http::Http;
use super::window::{Clock, Cumulative, Scope};
use crate::event::{
    ExactFact, LedgerFact, LoopKind, PythonFact, Sample, SampleKind, SampledStack, Slice, StepFact,
    StepSeen, ThreadState, Tid,
};
use crate::schema;
use crate::schema::{Cost, MissedWakeup, Stall};
use asleep::Sleepers;
use busy_tracker::StallCandidate;
use code::CodeCounts;
use exact::Exact;
pub(crate) use hang::MOMENT_NS;
pub use hang::NewHang;
use loop_thread::LoopThread;
use names::folded;
use run::Owner;
use share::Share;

/// Threads of a process that are followed.
const MAX_THREADS: usize = 1_024;
/// Samples of each thread that are kept to tell what it did while others waited for it.
const MAX_RECENT: usize = 64;
/// The threshold for stalls of loops that do not tell theirs (`slow_callback_duration` of asyncio), ns.
pub(crate) const DEFAULT_THRESHOLD_NS: u64 = 100_000_000;
/// Stalls that nobody has asked for yet.
const MAX_NEW: usize = 4_096;

/// A stall that has just become known.
#[derive(Clone, Debug)]
pub struct NewStall {
    pub pid: u32,
    pub tid: u32,
    pub kind: schema::LoopKind,
    pub stall: Stall,
    /// Python's name of the thread that had the GIL, where that is the culprit.
    pub holder: Option<String>,
}

/// What is told at once.
#[derive(Clone, Debug)]
pub enum Notice {
    /// A stall is over.
    Stall(NewStall),
    /// A step has lasted past its threshold, and goes on.
    Hang(NewHang),
    /// A hang has lasted for a moment since then, and goes on.
    StillHangs(NewHang),
}

impl Notice {
    /// Whose it is.
    pub const fn pid(&self) -> u32 {
        match self {
            Self::Stall(new) => new.pid,
            Self::Hang(new) | Self::StillHangs(new) => new.pid,
        }
    }

    /// How long its step has lasted, ns.
    pub const fn length_ns(&self) -> u64 {
        match self {
            Self::Stall(new) => new.stall.duration_ns,
            Self::Hang(new) | Self::StillHangs(new) => new.hang.lasting_ns,
        }
    }
}

/// What is known of a task by its coroutine.
#[derive(Clone, Debug)]
struct KnownTask {
    id: u64,
    loop_id: u64,
    coroutine: String,
    name: String,
}

#[derive(Clone, Debug)]
struct Recent {
    at_ns: u64,
    kind: SampleKind,
    stack: Arc<SampledStack>,
}

/// The loops' time of one process.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoopTimes {
    threads: BTreeMap<Tid, LoopThread>,
    recent: BTreeMap<Tid, VecDeque<Recent>>,
    candidates: Vec<(Tid, StallCandidate)>,
    new: Vec<(Tid, LoopKind, Stall)>,
    /// Threads whose steps were looked at.
    looked: Vec<Tid>,
    /// By the address of the coroutine, as of the latest look.
    tasks: BTreeMap<u64, KnownTask>,
    /// What tasks of the latest look cost so far, by loop and task.
    costs: BTreeMap<(u64, u64), (String, Cumulative<Share>)>,
    code: CodeCounts,
    threshold_ns: Option<u64>,
    /// Something was sampled, or would have been.
    sampled: bool,
    exact: Exact,
    sleepers: Sleepers,
}

impl LoopTimes {
    /// With the user's threshold for stalls; `None`: each loop's own.
    pub(crate) fn new(threshold_ns: Option<u64>) -> Self {
        LoopTimes {
            threshold_ns,
            ..LoopTimes::default()
        }
    }

    pub(crate) fn slice(&mut self, slice: &Slice) {
        self.sleepers.slice(slice);
        if let Some(thread) = self.threads.get_mut(&slice.tid) {
            let mut found = Vec::new();
            thread.tracker.slice(slice, &mut found);
            let idle_ns = thread.tracker.idle_ns();
            thread.step_ended(None, idle_ns);
            self.found(slice.tid, found);
        }
    }

    pub(crate) fn sample(&mut self, sample: &Sample) {
        self.sampled = true;
        self.code.sample(sample);
        // Threads end before their last samples have come, so rows of the dead are made, too.
        if self.recent.len() >= MAX_THREADS && !self.recent.contains_key(&sample.tid) {
            let last_ns = |recent: &VecDeque<Recent>| recent.back().map(|last| last.at_ns);
            let oldest = self.recent.iter().min_by_key(|(_, recent)| last_ns(recent));
            if let Some(tid) = oldest.map(|(tid, _)| *tid) {
                self.recent.remove(&tid);
            }
        }
        let recent = self.recent.entry(sample.tid).or_default();
        if recent.len() >= MAX_RECENT {
            recent.pop_front();
        }
        recent.push_back(Recent {
            at_ns: sample.at_ns,
            kind: sample.kind,
            stack: Arc::clone(&sample.stack),
        });
        if let Some(thread) = self.loop_thread(sample.tid) {
            thread.heard_ns = thread.heard_ns.max(sample.at_ns);
            thread.tracker.sample(sample);
        }
    }

    pub(crate) fn step(&mut self, fact: &StepFact) {
        // It comes before the samples that led to it, which wait for their turn.
        if let Some(thread) = self.loop_thread(fact.tid) {
            thread.tracker.fact(fact);
            thread.look_at_step(fact);
            let has_stack = |seen: &StepSeen| !seen.sample.stack.frames.is_empty();
            self.sampled |= fact.seen.as_ref().is_some_and(has_stack);
            if self.looked.len() < MAX_NEW {
                self.looked.push(fact.tid);
            }
        }
    }

    pub(crate) fn ledger(&mut self, fact: &LedgerFact) {
        if fact.folded {
            return;
        }
        self.sleepers.ledger(fact);
        if fact.state == ThreadState::Dead {
            self.recent.remove(&fact.tid);
            self.code.ended(fact.tid);
        }
        if let Some(thread) = self.threads.get_mut(&fact.tid) {
            let ended = fact.state == ThreadState::Dead;
            if thread.ended && !ended {
                // Another thread has the id.
                thread.reset(self.threshold_ns.unwrap_or(DEFAULT_THRESHOLD_NS));
            }
            thread.ended = ended;
            let mut found = Vec::new();
            thread.tracker.ledger(fact, &mut found);
            self.found(fact.tid, found);
        }
    }

    /// Nothing has run in the process since its ledgers were read last.
    pub(crate) fn stands(&mut self, read_ns: u64) {
        self.sleepers.stands(read_ns);
    }

    /// Takes over what probes have counted.
    pub(crate) fn count(&mut self, fact: &ExactFact) {
        self.exact.take(fact);
    }

    /// What probes have counted; `None`: not asked for.
    pub(crate) fn exact(&self, scope: Scope, clock: &Clock) -> Option<crate::schema::Exact> {
        self.exact.row(scope, clock)
    }

    /// The threads that run loops.
    pub(crate) fn loops(&self) -> impl Iterator<Item = Tid> {
        let threads = self.threads.iter();
        let loops = threads.filter(|(_, thread)| thread.tracker.is_loop && !thread.ended);
        loops.map(|(tid, _)| *tid)
    }

    /// `None`: there is no room for another thread.
    fn loop_thread(&mut self, tid: Tid) -> Option<&mut LoopThread> {
        if self.threads.len() >= MAX_THREADS && !self.threads.contains_key(&tid) {
            // Loops that run are kept.
            let others = self.threads.iter();
            let others = others.filter(|(_, other)| other.ended || !other.tracker.is_loop);
            let dispensable = others
                .min_by_key(|(_, other)| (other.tracker.is_loop, other.heard_ns))
                .map(|(tid, _)| *tid)?;
            self.threads.remove(&dispensable);
        }
        let threshold_ns = self.threshold_ns.unwrap_or(DEFAULT_THRESHOLD_NS);
        let thread = self.threads.entry(tid);
        Some(thread.or_insert_with(|| LoopThread::new(threshold_ns)))
    }

    fn found(&mut self, tid: Tid, candidates: Vec<StallCandidate>) {
        if let Some(thread) = self.threads.get_mut(&tid) {
            for candidate in &candidates {
                thread.step_ended(Some(candidate), None);
            }
        }
        if self.candidates.len() < MAX_NEW {
            self.candidates
                .extend(candidates.into_iter().map(|candidate| (tid, candidate)));
        }
    }

    /// Takes over which loops run where, and which tasks there are.
    pub(crate) fn look(&mut self, look: &PythonFact) {
        // A loop that seldom runs may never be met by a sample.
        self.sampled |= !look.loops.is_empty() && !look.limits.contains_key("samples");
        self.sleepers.look(look);
        self.exact.look(look);
        for seen in &look.loops {
            let user_ns = self.threshold_ns;
            let Some(thread) = self.loop_thread(seen.tid) else {
                continue;
            };
            thread.tracker.is_loop = true;
            thread.tracker.kind = seen.kind;
            thread.tracker.threshold_ns = user_ns
                .or(seen.stall_threshold_ns)
                .unwrap_or(DEFAULT_THRESHOLD_NS);
            thread.switch_to(seen.id);
        }
        self.tasks = look
            .tasks
            .iter()
            .filter(|task| task.coroutine_id != 0)
            .map(|task| {
                let known = KnownTask {
                    id: task.id,
                    loop_id: task.loop_id,
                    coroutine: task.coroutine.clone(),
                    name: task.name.clone(),
                };
                (task.coroutine_id, known)
            })
            .collect();
        let mut costs = std::mem::take(&mut self.costs);
        for task in &look.tasks {
            let key = (task.loop_id, task.id);
            // An address is reused at once, so a task is the same only under the same name.
            let known = costs.remove(&key).filter(|(name, _)| *name == task.name);
            let known = known.unwrap_or_else(|| (task.name.clone(), Cumulative::default()));
            self.costs.insert(key, known);
        }
    }

    /// At a tick: brings everything up to date.
    pub(crate) fn settle(&mut self, at_ns: u64, clock: &Clock, http: &Http) {
        let tids: Vec<Tid> = self.threads.keys().copied().collect();
        for tid in tids {
            let mut found = Vec::new();
            if let Some(thread) = self.threads.get_mut(&tid) {
                thread.tracker.settle(at_ns, &mut found);
            }
            self.found(tid, found);
            if let Some(thread) = self.threads.get_mut(&tid) {
                thread.settle_step(at_ns);
                if thread.open_step.is_some() {
                    self.looked.push(tid);
                }
            }
        }
        self.finish(clock, http);
        for thread in self.threads.values_mut() {
            if !thread.tracker.is_loop {
                thread.tracker.take_shares();
                continue;
            }
            for (owner, share) in thread.tracker.take_shares() {
                match owner {
                    Owner::Task(coroutine, function) => {
                        let known = self
                            .tasks
                            .get(&coroutine)
                            .filter(|known| same_function(&known.coroutine, &function));
                        let told = || {
                            let facts = thread.tracker.facts.iter().rev();
                            let mut tasks = facts.filter_map(|fact| fact.task.as_ref());
                            tasks.find(|task| task.coroutine == Some(coroutine))
                        };
                        let name = match known {
                            Some(known) => folded(&known.name, &known.coroutine).into(),
                            // It came and went between two looks; a look at a long step met it.
                            None => match told() {
                                Some(task) => folded(&task.name, &function).into(),
                                None => function,
                            },
                        };
                        let sums = &mut thread.tracker.sums;
                        sums.add_task(name, &share);
                        if let Some(known) = known
                            && let Some((_, cost)) = self.costs.get_mut(&(known.loop_id, known.id))
                        {
                            cost.now.add(&share);
                        }
                    }
                    Owner::Callback(function) => {
                        thread.tracker.sums.add_callback(function, &share);
                    }
                    Owner::Loop => thread.tracker.sums.add_own(&share),
                }
            }
        }
    }

    /// The busy time of a loop has grown by so much, and its time in selectors by `poll_ns`. Returns how
    /// much of the latter was not the loop's own selector, and is busy, too.
    pub(crate) fn grow(&mut self, tid: Tid, loop_id: u64, busy: &Cost, poll_ns: u64) -> u64 {
        let Some(thread) = self.threads.get_mut(&tid) else {
            return 0;
        };
        let polled_ns = thread.tracker.take_polled(poll_ns);
        let mut busy = *busy;
        busy.blocked_ns.poll = busy.blocked_ns.poll.saturating_add(polled_ns);
        if let Some(sums) = thread.sums_mut(loop_id) {
            sums.grow(&busy);
        }
        polled_ns
    }

    /// Stalls and hangs that have become known since this was asked last. `name` is Python's of a thread.
    pub(crate) fn take_notices(
        &mut self,
        pid: u32,
        clock: &Clock,
        http: &Http,
        name: impl Fn(Tid) -> Option<String>,
    ) -> Vec<Notice> {
        self.finish(clock, http);
        let new = std::mem::take(&mut self.new);
        let stalls = new.into_iter().map(|(tid, kind, stall)| {
            Notice::Stall(NewStall {
                pid,
                tid: tid.0,
                kind: super::rows::loop_kind(kind),
                holder: stall.culprit.holder_tid.and_then(|tid| name(Tid(tid))),
                stall,
            })
        });
        let mut notices: Vec<Notice> = stalls.collect();
        notices.extend(self.take_hangs(pid, clock, http, name));
        notices
    }

    /// Whether notices may have come since they were taken.
    pub(crate) fn has_news(&self) -> bool {
        !(self.candidates.is_empty() && self.new.is_empty() && self.looked.is_empty())
    }

    fn finish(&mut self, clock: &Clock, http: &Http) {
        for (tid, candidate) in std::mem::take(&mut self.candidates) {
            let stall = self.stall(tid, &candidate, clock, http);
            let Some(thread) = self.threads.get_mut(&tid) else {
                continue;
            };
            thread.tracker.sums.stalled(&stall);
            if self.new.len() < MAX_NEW {
                self.new.push((tid, thread.tracker.kind, stall));
            }
        }
    }

    /// Begins a window.
    pub(crate) fn roll(&mut self) {
        for thread in self.threads.values_mut() {
            thread.roll();
        }
        for (_, cost) in self.costs.values_mut() {
            cost.roll();
        }
        self.exact.roll();
        self.sleepers.roll();
        self.code.roll();
    }

    /// All loops end with the program that ran them.
    pub(crate) fn replaced(&mut self) {
        let threshold_ns = self.threshold_ns.unwrap_or(DEFAULT_THRESHOLD_NS);
        for thread in self.threads.values_mut() {
            thread.reset(threshold_ns);
        }
        self.sleepers.replaced();
        self.exact.replaced();
        self.recent.clear();
        self.candidates.clear();
        self.tasks.clear();
        self.costs.clear();
    }

    /// When a loop slept although callbacks were ready; `None`: that is not known.
    pub(crate) fn missed_wakeup(
        &self,
        tid: Tid,
        loop_id: u64,
        scope: Scope,
        clock: &Clock,
    ) -> Option<MissedWakeup> {
        self.sleepers.row(tid, loop_id, scope, clock)
    }
}

/// Whether a function's name is that of a coroutine: before 3.11, functions have plain names.
fn same_function(coroutine: &str, function: &str) -> bool {
    let last = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    coroutine == function || last(coroutine) == last(function)
}
