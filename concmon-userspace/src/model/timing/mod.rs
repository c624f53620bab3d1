//! The time of event loops: busy stretches, steps, stalls, lag, and whose the time was.
//!
//! Slices tell exactly when a loop's thread waits in its selector, and where else its time goes.
//! Samples tell whose the time was: which step (by the version of the thread's current context),
//! which task (by its coroutine), which code. All that comes from samples is an estimate and marked as
//! such; what comes from slices is not.

pub(crate) mod cost;
mod exact;
mod fine;
mod lag;
pub(crate) mod names;
mod run;
mod segments;
mod share;
mod sums;
#[cfg(test)]
mod tests;
mod track;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use super::rows::{address, frames};
use super::snapshot::{
    ByName, CodeSamples, Cost, Culprit, Frame, Limit, Stall, StallTask, TaskCost, Timing, Waiting,
};
use super::window::{Clock, Cumulative, Growth, Scope, limit};
use crate::event::{
    Cause, CodeKind, ExactFact, LedgerFact, LoopKind, PyFrame, PythonFact, Sample, SampleKind,
    SampledStack, Slice, StepFact, ThreadState, Tid,
};
use cost::column;
use exact::{Counts, Exact};
use names::folded;
use run::Owner;
use share::Share;
use sums::Sums;
use track::{Draft, Track};

/// Threads of a process that are followed.
const MAX_THREADS: usize = 1_024;
/// Loops of one thread that are kept after they stopped.
const MAX_LOOPS: usize = 64;
/// Samples of each thread that are kept to tell what it did while others waited for it.
const MAX_RECENT: usize = 64;
/// The threshold of loops that do not tell theirs: asyncio's own, ns.
const THRESHOLD_NS: u64 = 100_000_000;
/// Stalls that nobody has asked for yet.
const MAX_NEW: usize = 4_096;

/// A stall that has just become known.
#[derive(Clone, Debug)]
pub struct NewStall {
    pub pid: u32,
    pub tid: u32,
    /// `asyncio`, `uvloop`, `trio`.
    pub kind: &'static str,
    pub stall: Stall,
}

/// A thread that runs loops.
#[derive(Clone, Debug)]
struct Follower {
    track: Track,
    loop_id: Option<u64>,
    kind: LoopKind,
    stopped: BTreeMap<u64, Sums>,
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
pub(crate) struct Timings {
    threads: BTreeMap<Tid, Follower>,
    recent: BTreeMap<Tid, VecDeque<Recent>>,
    drafts: Vec<(Tid, Draft)>,
    new: Vec<(Tid, LoopKind, Stall)>,
    /// By the address of the coroutine, as of the latest look.
    tasks: BTreeMap<u64, KnownTask>,
    /// What tasks of the latest look cost so far, by loop and task.
    costs: BTreeMap<(u64, u64), (String, Cumulative<Share>)>,
    /// Samples on a CPU by thread and code.
    code: BTreeMap<Tid, Cumulative<Code>>,
    /// Samples on a CPU: those with the collector at work, and all.
    collecting: Cumulative<u64>,
    /// Threads whose end was seen.
    ended: Vec<Tid>,
    on_cpu: Cumulative<u64>,
    threshold_ns: Option<u64>,
    /// Something was sampled.
    sampled: bool,
    exact: Exact,
}

impl Timings {
    /// With the user's threshold for stalls; `None`: each loop's own.
    pub(crate) fn new(threshold_ns: Option<u64>) -> Self {
        Timings {
            threshold_ns,
            ..Timings::default()
        }
    }

    pub(crate) fn slice(&mut self, slice: &Slice) {
        if let Some(follower) = self.threads.get_mut(&slice.tid) {
            let mut found = Vec::new();
            follower.track.slice(slice, &mut found);
            self.found(slice.tid, found);
        }
    }

    pub(crate) fn sample(&mut self, sample: &Sample) {
        self.sampled = true;
        if sample.kind == SampleKind::OnCpu {
            self.on_cpu.now += 1;
            self.collecting.now += u64::from(sample.collecting);
            if self.code.len() < MAX_THREADS || self.code.contains_key(&sample.tid) {
                self.code
                    .entry(sample.tid)
                    .or_default()
                    .now
                    .add(sample.code);
            }
        }
        if self.recent.len() < MAX_THREADS || self.recent.contains_key(&sample.tid) {
            let recent = self.recent.entry(sample.tid).or_default();
            if recent.len() >= MAX_RECENT {
                recent.pop_front();
            }
            recent.push_back(Recent {
                at_ns: sample.at_ns,
                kind: sample.kind,
                stack: Arc::clone(&sample.stack),
            });
        }
        if let Some(follower) = self.follower(sample.tid) {
            follower.track.sample(sample);
        }
    }

    pub(crate) fn step(&mut self, fact: &StepFact) {
        // It comes before the samples that led to it, which wait for their turn.
        if let Some(follower) = self.follower(fact.tid) {
            follower.track.fact(fact);
        }
    }

    pub(crate) fn ledger(&mut self, fact: &LedgerFact) {
        if fact.folded {
            return;
        }
        if fact.state == ThreadState::Dead {
            self.recent.remove(&fact.tid);
            self.ended.push(fact.tid);
        }
        if let Some(follower) = self.threads.get_mut(&fact.tid) {
            let mut found = Vec::new();
            follower.track.ledger(fact, &mut found);
            self.found(fact.tid, found);
        }
    }

    /// Takes over what probes have counted.
    pub(crate) fn count(&mut self, fact: &ExactFact) {
        self.exact.take(fact);
    }

    /// What probes have counted; `None`: not asked for.
    pub(crate) fn exact(&self, scope: Scope, clock: &Clock) -> Option<super::snapshot::Exact> {
        self.exact.row(scope, clock)
    }

    fn follower(&mut self, tid: Tid) -> Option<&mut Follower> {
        if self.threads.len() >= MAX_THREADS && !self.threads.contains_key(&tid) {
            return None;
        }
        let threshold_ns = self.threshold_ns.unwrap_or(THRESHOLD_NS);
        Some(self.threads.entry(tid).or_insert_with(|| Follower {
            track: Track::new(threshold_ns),
            loop_id: None,
            kind: LoopKind::Asyncio,
            stopped: BTreeMap::new(),
        }))
    }

    fn found(&mut self, tid: Tid, drafts: Vec<Draft>) {
        if self.drafts.len() < MAX_NEW {
            self.drafts
                .extend(drafts.into_iter().map(|draft| (tid, draft)));
        }
    }

    /// Takes over which loops run where, and which tasks there are.
    pub(crate) fn look(&mut self, look: &PythonFact) {
        for seen in &look.loops {
            let user_ns = self.threshold_ns;
            let Some(follower) = self.follower(seen.tid) else {
                continue;
            };
            follower.track.is_loop = true;
            follower.kind = seen.kind;
            follower.track.threshold_ns =
                user_ns.or(seen.stall_threshold_ns).unwrap_or(THRESHOLD_NS);
            follower.switch_to(seen.id);
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
    pub(crate) fn settle(&mut self, at_ns: u64, clock: &Clock) {
        let tids: Vec<Tid> = self.threads.keys().copied().collect();
        for tid in tids {
            let mut found = Vec::new();
            if let Some(follower) = self.threads.get_mut(&tid) {
                follower.track.settle(at_ns, &mut found);
            }
            self.found(tid, found);
        }
        self.finish(clock);
        for follower in self.threads.values_mut() {
            if !follower.track.is_loop {
                follower.track.take_shares();
                continue;
            }
            for (owner, share) in follower.track.take_shares() {
                match owner {
                    Owner::Task(coroutine, function) => {
                        let known = self
                            .tasks
                            .get(&coroutine)
                            .filter(|known| same_function(&known.coroutine, &function));
                        let told = || {
                            let facts = follower.track.facts.iter().rev();
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
                        let sums = &mut follower.track.sums;
                        sums.add_task(name, &share);
                        if let Some(known) = known
                            && let Some((_, cost)) = self.costs.get_mut(&(known.loop_id, known.id))
                        {
                            cost.now.add(&share);
                        }
                    }
                    Owner::Callback(_) => follower.track.sums.add_callback(&share),
                    Owner::Loop => follower.track.sums.add_own(&share),
                }
            }
        }
    }

    /// The busy time of a loop has grown by so much, and its time in selectors by `poll_ns`. Returns how
    /// much of the latter was not the loop's own selector, and is busy, too.
    pub(crate) fn grow(&mut self, tid: Tid, loop_id: u64, busy: &Cost, poll_ns: u64) -> u64 {
        let Some(follower) = self.threads.get_mut(&tid) else {
            return 0;
        };
        let polled_ns = follower.track.take_polled(poll_ns);
        let mut busy = *busy;
        busy.blocked_ns.poll = busy.blocked_ns.poll.saturating_add(polled_ns);
        if let Some(sums) = follower.sums_mut(loop_id) {
            sums.grow(&busy);
        }
        polled_ns
    }

    /// Stalls that have become known since this was asked last.
    pub(crate) fn take_stalls(&mut self, pid: u32, clock: &Clock) -> Vec<NewStall> {
        self.finish(clock);
        let new = std::mem::take(&mut self.new);
        new.into_iter()
            .map(|(tid, kind, stall)| NewStall {
                pid,
                tid: tid.0,
                kind: super::rows::loop_kind(kind),
                stall,
            })
            .collect()
    }

    fn finish(&mut self, clock: &Clock) {
        for (tid, draft) in std::mem::take(&mut self.drafts) {
            let stall = self.stall(tid, &draft, clock);
            let Some(follower) = self.threads.get_mut(&tid) else {
                continue;
            };
            follower.track.sums.stalled(&stall);
            if self.new.len() < MAX_NEW {
                self.new.push((tid, follower.kind, stall));
            }
        }
    }

    fn stall(&self, tid: Tid, draft: &Draft, clock: &Clock) -> Stall {
        let run = draft.run.as_ref();
        let (collecting, on_cpu) = run.map_or((0, 0), |run| run.collecting());
        let collecting_ns = match on_cpu {
            0 => 0,
            _ => {
                (u128::from(draft.cost.on_cpu_ns) * u128::from(collecting) / u128::from(on_cpu))
                    as u64
            }
        };
        let (kind, sampled) = largest(&draft.cost);
        let kind = match kind {
            "cpu" if collecting_ns > draft.cost.on_cpu_ns / 2 => "gc",
            kind => kind,
        };
        let stack = run.map_or(Vec::new(), |run| run.stack(sampled));
        let holder = (kind == "gil").then(|| self.holder(tid, draft)).flatten();
        let frame = match (kind, &holder) {
            ("gil", Some((_, frame))) => frame.clone(),
            ("gil", None) => None,
            _ => stack.first().cloned(),
        };
        let fact = draft.fact.as_ref();
        let coroutine = run.and_then(|run| run.owner.function());
        let task = fact
            .and_then(|fact| fact.task.as_ref())
            .map(|task| StallTask {
                id: address(task.id),
                name: task.name.clone(),
            });
        let is_task = matches!(run.map(|run| &run.owner), Some(Owner::Task(..)));
        let known = run.and_then(|run| match &run.owner {
            Owner::Task(coroutine, function) => self
                .tasks
                .get(coroutine)
                .filter(|known| same_function(&known.coroutine, function)),
            _ => None,
        });
        let mut limits: Vec<Limit> = Vec::new();
        if run.is_none() {
            limits.push(limit("coroutine", "no sample has met this step"));
        }
        if fact.is_none() {
            let reason = "the step was over before it could be looked at";
            limits.push(limit("context", reason));
            limits.push(limit("waiting", reason));
            if is_task {
                limits.push(limit("task", reason));
            }
        }
        Stall {
            at_unix_ns: clock.unix_of(draft.begin_ns),
            duration_ns: draft.end_ns.saturating_sub(draft.begin_ns),
            cost: draft.cost,
            collecting_ns,
            culprit: Culprit {
                kind,
                frame: frame.map(|frame| row(&frame)),
                holder_tid: holder.map(|(tid, _)| tid.0),
            },
            task: task
                .or_else(|| {
                    known.map(|known| StallTask {
                        id: address(known.id),
                        name: known.name.clone(),
                    })
                })
                .filter(|_| is_task),
            coroutine: known
                .map(|known| known.coroutine.clone())
                .or_else(|| coroutine.map(|name| name.to_string())),
            stack: frames(&stack),
            context: fact.map(|fact| fact.context.clone()).unwrap_or_default(),
            waiting: fact.map(|fact| Waiting {
                ready: fact.ready,
                overdue: fact.overdue,
            }),
            samples: run.map_or(0, |run| run.samples),
            estimated: vec!["duration_ns", "collecting_ns", "stack"],
            limits,
        }
    }

    /// Who had the GIL while a thread waited for it: whose action ended its waits, else the thread that
    /// samples have met meanwhile; with what it ran.
    fn holder(&self, victim: Tid, draft: &Draft) -> Option<(Tid, Option<PyFrame>)> {
        let of = |tid: Tid| -> Vec<&Recent> {
            let recent = self.recent.get(&tid).into_iter().flatten();
            recent
                .filter(|recent| (draft.begin_ns..=draft.end_ns).contains(&recent.at_ns))
                .collect()
        };
        let met = |tid: Tid| {
            of(tid)
                .iter()
                .filter(|recent| !matches!(recent.kind, SampleKind::Block(Cause::Gil)))
                .count()
        };
        let by_waker = draft
            .gil_wakers
            .iter()
            .filter(|(tid, _)| *tid != victim)
            .max_by_key(|(_, ns)| *ns)
            .map(|(tid, _)| *tid);
        let by_samples = self
            .recent
            .keys()
            .copied()
            .filter(|tid| *tid != victim && met(*tid) > 0)
            .max_by_key(|tid| met(*tid));
        let holder = by_waker.or(by_samples)?;
        let frame = of(holder)
            .iter()
            .rev()
            .find(|recent| !matches!(recent.kind, SampleKind::Block(Cause::Gil)))
            .or(of(holder).last())
            .and_then(|recent| recent.stack.frames.first().cloned());
        Some((holder, frame))
    }

    /// Begins a window.
    pub(crate) fn roll(&mut self) {
        for follower in self.threads.values_mut() {
            follower.track.sums.roll();
            for sums in follower.stopped.values_mut() {
                sums.roll();
            }
        }
        for (_, cost) in self.costs.values_mut() {
            cost.roll();
        }
        self.collecting.roll();
        self.on_cpu.roll();
        self.exact.roll();
        for code in self.code.values_mut() {
            code.roll();
        }
        if self.code.len() >= MAX_THREADS {
            for tid in self.ended.drain(..) {
                self.code.remove(&tid);
            }
        }
        self.ended.truncate(MAX_THREADS);
    }

    /// All loops end with the program that ran them.
    pub(crate) fn replaced(&mut self) {
        let threshold_ns = self.threshold_ns.unwrap_or(THRESHOLD_NS);
        for follower in self.threads.values_mut() {
            let sums = std::mem::take(&mut follower.track.sums);
            if let Some(loop_id) = follower.loop_id.take()
                && follower.stopped.len() < MAX_LOOPS
            {
                follower.stopped.insert(loop_id, sums);
            }
            follower.track = Track::new(threshold_ns);
        }
        self.recent.clear();
        self.drafts.clear();
        self.tasks.clear();
        self.costs.clear();
    }

    /// What is known of a loop's time; `None`: nothing is sampled.
    pub(crate) fn row(
        &self,
        tid: Tid,
        loop_id: u64,
        scope: Scope,
        look: Option<&PythonFact>,
        limits: &mut Vec<Limit>,
    ) -> Option<Timing> {
        if !self.sampled {
            return None;
        }
        let follower = self.threads.get(&tid)?;
        let sums = follower.sums(loop_id)?;
        let busy = sums.split(scope);
        let (stalls_count, stalls_ns, stalls) = sums.stalls(scope);
        let turns = sums.iterations_milli.over(scope) / 1000;
        let lag = sums.lag.over(scope).report();
        let step = sums.step.over(scope).report();
        for (field, missing) in [
            ("iterations", turns == 0),
            ("lag", lag.is_none()),
            ("step", step.is_none()),
        ] {
            if missing {
                limits.push(limit(field, "too little was sampled"));
            }
        }
        Some(Timing {
            iterations: (turns > 0).then_some(turns),
            lag,
            step,
            tasks_ns: busy.tasks.total_ns(),
            callbacks_ns: busy.callbacks.total_ns(),
            unknown_ns: busy.unknown.total_ns(),
            busy,
            stalls_count,
            stalls_ns,
            stalls,
            saturation: sums.saturation(scope),
            by_name: self.by_name(sums, tid, loop_id, scope, look),
            estimated: vec![
                "iterations",
                "lag",
                "step",
                "tasks_ns",
                "callbacks_ns",
                "unknown_ns",
                "busy",
                "saturation",
            ],
        })
    }

    fn by_name(
        &self,
        sums: &Sums,
        tid: Tid,
        loop_id: u64,
        scope: Scope,
        look: Option<&PythonFact>,
    ) -> Vec<ByName> {
        let mut pending: BTreeMap<String, u64> = BTreeMap::new();
        let tasks = look.into_iter().flat_map(|look| &look.tasks);
        for task in tasks.filter(|task| task.loop_id == loop_id) {
            if task.state != crate::event::TaskState::Done {
                *pending
                    .entry(folded(&task.name, &task.coroutine))
                    .or_default() += 1;
            }
        }
        let (counted, uncounted) = match self.exact.names(tid, loop_id, scope) {
            Ok(names) => (names, None),
            Err(reason) => (BTreeMap::new(), Some(reason)),
        };
        let mut rows: BTreeMap<String, Named> = BTreeMap::new();
        for (name, cost, samples) in sums.names(scope) {
            let row = rows.entry(name.to_string()).or_default();
            (row.cost, row.samples) = (cost, samples);
        }
        for (name, count) in pending {
            rows.entry(name).or_default().pending = count;
        }
        for (name, counts) in counted {
            if !counts.is_empty() || rows.contains_key(&name) {
                rows.entry(name).or_default().counts = counts;
            }
        }
        let mut rows: Vec<(String, Named)> = rows.into_iter().collect();
        rows.sort_by(|(one_name, one), (other_name, other)| {
            let key = |row: &Named| (row.cost.total_ns(), row.pending, row.counts.started);
            key(other)
                .cmp(&key(one))
                .then_with(|| one_name.cmp(other_name))
        });
        if rows.len() > MAX_ROWS {
            let rest = rows.split_off(MAX_ROWS - 1);
            let at = rows.iter().position(|(name, _)| name == OTHER);
            let at = at.unwrap_or_else(|| {
                rows.push((OTHER.to_owned(), Named::default()));
                rows.len() - 1
            });
            for (_, row) in rest {
                rows[at].1.add(&row);
            }
        }
        let doubt = self.exact.doubt().filter(|_| uncounted.is_none());
        rows.into_iter()
            .map(|(name, row)| row.report(name, uncounted.as_deref(), doubt.as_deref()))
            .collect()
    }

    /// What code a thread ran when it was sampled; `None`: nothing is sampled.
    pub(crate) fn code(&self, tid: Tid, scope: Scope) -> Option<CodeSamples> {
        let code = self.code.get(&tid).map(|code| code.over(scope).0);
        self.sampled.then(|| code.unwrap_or_default())
    }

    /// The part of `cpu_ns` that the collector took, by samples; `None`: too little was sampled.
    pub(crate) fn collecting_ns(&self, cpu_ns: u64, scope: Scope) -> Option<u64> {
        let (collecting, all) = (self.collecting.over(scope), self.on_cpu.over(scope));
        (all > 0).then(|| (u128::from(cpu_ns) * u128::from(collecting) / u128::from(all)) as u64)
    }

    /// What a task of the latest look cost; `None`: nothing is sampled.
    pub(crate) fn task_cost(
        &self,
        tid: Tid,
        loop_id: u64,
        task: u64,
        scope: Scope,
    ) -> Option<TaskCost> {
        if !self.sampled {
            return None;
        }
        let sums = self.threads.get(&tid)?.sums(loop_id)?;
        let (_, share) = self.costs.get(&(loop_id, task))?;
        let share = share.over(scope);
        Some(TaskCost {
            cost: sums.cost(scope, &share),
            samples: share.samples,
        })
    }
}

/// Samples by code, cumulative.
#[derive(Clone, Copy, Debug, Default)]
struct Code(CodeSamples);

impl Code {
    fn add(&mut self, code: Option<CodeKind>) {
        match code {
            Some(CodeKind::Interpreter) => self.0.interpreter += 1,
            Some(CodeKind::Native) => self.0.native += 1,
            Some(CodeKind::Kernel) => self.0.kernel += 1,
            None => {}
        }
    }
}

impl Growth for Code {
    fn since(&self, base: &Self) -> Self {
        Code(CodeSamples {
            interpreter: self.0.interpreter - base.0.interpreter,
            native: self.0.native - base.0.native,
            kernel: self.0.kernel - base.0.kernel,
        })
    }
}

/// Rows of names in one report, and the name of the row that has the others' tasks.
const MAX_ROWS: usize = 256;
const OTHER: &str = "other";

/// Tasks of one name.
#[derive(Clone, Debug, Default)]
struct Named {
    pending: u64,
    cost: Cost,
    samples: u64,
    counts: Counts,
}

impl Named {
    fn add(&mut self, other: &Self) {
        self.pending += other.pending;
        self.cost.add(&other.cost);
        self.samples += other.samples;
        self.counts.add(&other.counts);
    }

    /// The row; `uncounted` says why nothing was counted, `doubt` why counts may be too low.
    fn report(&self, name: String, uncounted: Option<&str>, doubt: Option<&str>) -> ByName {
        let counted = |count: u64| uncounted.is_none().then_some(count);
        let reasons = uncounted.or(doubt).into_iter().flat_map(|reason| {
            ["started", "finished", "failed", "cancelled", "duration"]
                .map(|field| limit(field, reason))
        });
        ByName {
            name,
            pending: self.pending,
            started: counted(self.counts.started),
            finished: counted(self.counts.finished),
            failed: counted(self.counts.failed),
            cancelled: counted(self.counts.cancelled),
            duration: uncounted.is_none().then(|| self.counts.duration()),
            cost: self.cost,
            samples: self.samples,
            estimated: vec!["on_cpu_ns", "runnable_ns", "blocked_ns"],
            limits: reasons.collect(),
        }
    }
}

impl Follower {
    /// The thread runs another loop, or the first that is known of it.
    fn switch_to(&mut self, loop_id: u64) {
        match self.loop_id.replace(loop_id) {
            None => {}
            Some(before) if before == loop_id => {}
            Some(before) => {
                let next = self.stopped.remove(&loop_id).unwrap_or_default();
                let sums = std::mem::replace(&mut self.track.sums, next);
                if self.stopped.len() < MAX_LOOPS {
                    self.stopped.insert(before, sums);
                }
            }
        }
    }

    fn sums(&self, loop_id: u64) -> Option<&Sums> {
        if self.loop_id == Some(loop_id) {
            return Some(&self.track.sums);
        }
        self.stopped.get(&loop_id)
    }

    fn sums_mut(&mut self, loop_id: u64) -> Option<&mut Sums> {
        if self.loop_id == Some(loop_id) {
            return Some(&mut self.track.sums);
        }
        self.stopped.get_mut(&loop_id)
    }
}

/// What took the most, and the samples that show it.
fn largest(cost: &Cost) -> (&'static str, SampleKind) {
    let mut blocked = cost.blocked_ns;
    let (mut kind, mut sampled, mut most) = ("cpu", SampleKind::OnCpu, cost.on_cpu_ns);
    if cost.runnable_ns > most {
        (kind, most) = ("runnable", cost.runnable_ns);
    }
    for cause in Cause::ALL {
        let ns = *column(&mut blocked, cause);
        if ns > most {
            (kind, sampled, most) = (cause.name(), SampleKind::Block(cause), ns);
        }
    }
    (kind, sampled)
}

/// Whether a function's name is that of a coroutine: before 3.11, functions have plain names.
fn same_function(coroutine: &str, function: &str) -> bool {
    let last = |name: &str| name.rsplit('.').next().unwrap_or(name).to_owned();
    coroutine == function || last(coroutine) == last(function)
}

fn row(frame: &PyFrame) -> Frame {
    Frame {
        function: frame.function.clone(),
        file: frame.file.clone(),
        line: frame.line,
    }
}
