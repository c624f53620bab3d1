//! The registry of watched processes: one home for what is known, done and refused of each.
//!
//! A process comes by being named, by a fork that the kernel side saw, or by a sweep of `/proc`; it goes by
//! its last exit, or when a sweep does not find it. [`Targets`] is told of each of these in one place, and
//! whoever holds a process id at an instant is its newest target: an id alone is no identity.

mod activity;
mod attached;
mod counts;
mod entered;
mod eye;
mod meeting;
mod pace;
mod readings;
mod rules;
mod samples;
mod selector;
mod shape;
mod steps;
mod target;
mod uprobes;
mod worker;

use std::{collections::BTreeMap, sync::Arc};

pub(crate) use attached::unsupported;
pub(crate) use readings::{Deadline, Met};
use readings::{Done, Work};
pub(crate) use rules::{Condition, Rules, Subject};
pub(crate) use selector::Selector;
use steps::{Added, LOOP_INTERVAL};
use target::Target;
use worker::Worker;

use crate::{
    decode::loss::LossMeter,
    event::{Event, Exec, Exit, Fork, Pid, Tid},
    procfs::{clocks, now},
    python::{DetectError, GilSampler, Interpreter, ScanOptions},
    source::live::{Live, LiveError},
};

/// Processes that are kept track of, at most; the kernel side has room for fewer.
const MAX_TARGETS: usize = 65_536;

/// How long finding out how stacks are walked may take in one turn, ns, and before the first one.
const UNWINDS_NS: u64 = 3_000_000;
const FIRST_UNWINDS_NS: u64 = 100_000_000;

/// A process, and not just the holder of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TargetId {
    pub(crate) pid: Pid,
    /// When it started (`CLOCK_BOOTTIME`, ns), to a clock tick where `/proc` says so; 0: it had ended
    /// before that could be read.
    pub(crate) start_boottime_ns: u64,
}

impl TargetId {
    /// The present holder of `pid`.
    pub(crate) fn of(pid: Pid) -> Self {
        Self {
            pid,
            start_boottime_ns: now::start_boottime_ns(pid).unwrap_or(0),
        }
    }
}

/// What a watch does with processes beside their ledgers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wants {
    /// Stacks are sampled.
    pub(crate) samples: bool,
    /// The user's threshold for stalls, ns.
    pub(crate) stall_threshold_ns: Option<u64>,
    /// Tasks are counted by probes.
    pub(crate) exact_tasks: bool,
    /// And failures in thread pools.
    pub(crate) exact_futures: bool,
}

/// All processes of a watch.
#[derive(Debug)]
pub(crate) struct Targets {
    living: BTreeMap<TargetId, Target>,
    /// Those that have ended, whose last counts are still to be read.
    ended: Vec<Target>,
    wants: Wants,
    options: Arc<ScanOptions>,
    worker: Worker<Done>,
    /// A look is under way.
    looking: bool,
    /// There is nothing to be found out about anybody.
    settled: bool,
    /// Programs that have been seen.
    programs: u64,
    gils: GilSampler,
    losses: LossMeter,
    /// Samples and batches that were none.
    damaged: u64,
    /// Processes and loops that found no room.
    refused: u64,
    /// When the kernel side's processes were listed last, ns.
    listed_ns: u64,
    /// No thread that runs a loop is to be checked before this, ns.
    checks_due_ns: u64,
}

impl Targets {
    /// No process yet; the watch begins about now.
    pub(crate) fn new(wants: Wants, options: ScanOptions) -> Self {
        Self {
            living: BTreeMap::new(),
            ended: Vec::new(),
            wants,
            options: Arc::new(options),
            worker: Worker::new(),
            looking: false,
            settled: false,
            programs: 0,
            gils: GilSampler::default(),
            losses: LossMeter::new(clocks::monotonic_ns()),
            damaged: 0,
            refused: 0,
            listed_ns: 0,
            checks_due_ns: 0,
        }
    }

    /// Takes in a process that is there already; `named`: the user asked for it. Looks for its interpreter
    /// at once.
    ///
    /// # Errors
    /// It is not Python, or cannot be read: it is watched without that.
    pub(crate) fn adopt(&mut self, pid: Pid, named: bool) -> Result<(), DetectError> {
        if self.holder(pid).is_none() {
            self.insert(TargetId::of(pid), None);
        }
        let Some(target) = holder_mut(&mut self.living, pid) else {
            return Ok(());
        };
        target.named |= named;
        target.adopt(&mut self.gils).map(drop)
    }

    /// Tells the kernel side of every process that is known before it counts; `follow`: and of the children
    /// that they will have.
    ///
    /// # Errors
    /// There is no room for so many.
    pub(crate) fn watch(&self, live: &mut Live, follow: bool) -> Result<(), LiveError> {
        for target in self.living.values() {
            live.watch(target.id.pid, target.gils(), follow)?;
        }
        Ok(())
    }

    /// The same of one whose fork was not seen, and of its children.
    ///
    /// # Errors
    /// There is no room for it.
    pub(crate) fn watch_one(&self, pid: Pid, live: &mut Live) -> Result<(), LiveError> {
        let gils = self.holder(pid).map_or(&[][..], Target::gils);
        live.watch(pid, gils, true)
    }

    /// Tells the kernel side how to walk the stacks of those who are known; of very many, it hears of the others in
    /// the turns to come.
    pub(crate) fn set_unwinds(&mut self, live: &mut Live) {
        self.find_unwinds(FIRST_UNWINDS_NS, live);
    }

    /// Finds out how stacks are walked where that is due, for so long.
    fn find_unwinds(&mut self, most_ns: u64, live: &mut Live) {
        let begin_ns = clocks::monotonic_ns();
        let living = self.living.values();
        let due = living.filter_map(|target| Some((target.unwind_due_ns(begin_ns)?, target.id)));
        let mut due: Vec<_> = due.collect();
        // Those that nobody has tried come first.
        due.sort_unstable();
        for (_, id) in due {
            if let Some(target) = self.living.get_mut(&id) {
                target.try_unwind_later(begin_ns);
                set_unwind(target, live, self.wants);
            }
            if clocks::monotonic_ns().saturating_sub(begin_ns) >= most_ns {
                break;
            }
        }
    }

    /// A thread or a process was made.
    pub(crate) fn forked(&mut self, fork: &Fork, live: &mut Live) {
        if fork.tid.0 != fork.pid.0 {
            return;
        }
        let id = TargetId {
            pid: fork.pid,
            start_boottime_ns: fork.start_boottime_ns,
        };
        let same =
            |known: &Target| clocks::same_start(known.id.start_boottime_ns, id.start_boottime_ns);
        if self.holder(fork.pid).is_some_and(same) {
            // A sweep has found it before.
            return;
        }
        // The end of an earlier holder was not seen, or its last counts were not read.
        self.ended(fork.pid, live);
        self.forget_counts(fork.pid, live);
        self.insert_watched(id, None, live);
        if !self.wants.exact_tasks && !self.wants.exact_futures {
            return;
        }
        let leader = self.holder(Pid(fork.parent.0));
        let parent = leader.or_else(|| self.living.values().find(|one| one.owns(fork.parent)));
        if let Some(places) = parent.map(Target::places)
            && let Some(child) = self.living.get_mut(&id)
        {
            child.may_inherit(places, clocks::monotonic_ns());
        }
    }

    /// A process runs another program.
    pub(crate) fn replaced(&mut self, exec: &Exec, live: &mut Live) {
        let Some(target) = holder_mut(&mut self.living, exec.pid) else {
            self.insert_watched(TargetId::of(exec.pid), Some(exec.at_ns), live);
            return;
        };
        live.forget_python(exec.pid);
        self.gils.forget(exec.pid);
        if let Some((exact, _)) = live.exact() {
            exact.detach(exec.pid);
        }
        self.programs += 1;
        self.settled = false;
        target.replaced(self.programs, exec.at_ns);
    }

    /// A thread, or with its last one a process, has ended.
    pub(crate) fn exited(&mut self, exit: &Exit, live: &mut Live) {
        if exit.last {
            self.ended(exit.pid, live);
        } else if let Some(target) = holder_mut(&mut self.living, exit.pid) {
            target.steps.thread_ended(exit.tid);
        }
    }

    /// A process has ended: nothing of it is left but its last counts, until they are read.
    pub(crate) fn ended(&mut self, pid: Pid, live: &mut Live) {
        let Some(id) = self.holder(pid).map(|target| target.id) else {
            return;
        };
        live.forget_python(pid);
        self.gils.forget(pid);
        let target = self.living.remove(&id);
        self.ended.extend(target.filter(Target::may_have_counts));
    }

    fn forget_counts(&mut self, pid: Pid, live: &mut Live) {
        let before = self.ended.len();
        self.ended.retain(|target| target.id.pid != pid);
        if self.ended.len() < before
            && let Some((exact, _)) = live.exact()
        {
            exact.forget(&[pid].into());
        }
    }

    /// A process has been found; `began_ns`: its program began to run under watch.
    fn insert(&mut self, id: TargetId, began_ns: Option<u64>) {
        if self.living.len() >= MAX_TARGETS {
            self.refused += 1;
            return;
        }
        self.programs += 1;
        self.settled = false;
        self.living
            .insert(id, Target::new(id, self.programs, began_ns));
    }

    /// The same of one that a record tells of: where it has ended by now, its exit may have come before, from
    /// another CPU.
    fn insert_watched(&mut self, id: TargetId, began_ns: Option<u64>, live: &Live) {
        if live.is_watched(id.pid) {
            self.insert(id, began_ns);
        }
    }

    fn holder(&self, pid: Pid) -> Option<&Target> {
        let newest = self.living.range(ids_of(pid)).next_back();
        newest.map(|(_, target)| target)
    }

    /// Looks whether those that the user asked for still run: the kernel side forgets a process with its end,
    /// whether or not a record has come to tell.
    pub(crate) fn check_named(&mut self, live: &Live) {
        for target in self.living.values_mut().filter(|target| target.named) {
            target.named = live.is_watched(target.id.pid);
            // One is enough for the watch to go on.
            if target.named {
                break;
            }
        }
    }

    /// Whether one of the processes that the user asked for may still run.
    pub(crate) fn has_named(&self) -> bool {
        self.living.values().any(|target| target.named)
    }

    /// Finds what is due by now: interpreters, GILs, how stacks are walked, what is to be probed.
    pub(crate) fn step(&mut self, now_ns: u64, live: &mut Live) {
        if self.settled {
            return;
        }
        for target in self.living.values_mut() {
            let pid = target.id.pid;
            if target.begin_search(now_ns) {
                let (id, program) = (target.id, target.program);
                self.worker.run(Box::new(move || Done {
                    id,
                    program,
                    work: Work::Searched(Box::new(Interpreter::attach(id.pid))),
                }));
            }
            if target.learn_gils(now_ns, &mut self.gils) {
                live.set_gils(pid, target.gils());
            }
            target.inherit(now_ns, live);
            target.probe(now_ns, self.wants, live);
        }
        self.find_unwinds(UNWINDS_NS, live);
        let counts = self.wants.exact_tasks || self.wants.exact_futures;
        self.settled = !counts && self.living.values().all(Target::is_settled);
    }

    /// There is nothing to be found out about anybody, and nobody runs a loop.
    pub(crate) const fn is_at_rest(&self) -> bool {
        self.settled && self.checks_due_ns == u64::MAX
    }

    /// From now on, looks read so many tasks at most.
    pub(crate) fn set_tasks(&mut self, tasks: usize) {
        Arc::make_mut(&mut self.options).tasks = tasks;
    }

    /// What was counted by probes so far, in processes that live and in those that have ended since this
    /// was asked last.
    pub(crate) fn counts(&mut self, live: &mut Live) -> Vec<Event> {
        let ended = std::mem::take(&mut self.ended);
        let facts = counts::of(self.wants, live, || self.living.values().chain(&ended));
        if let Some((exact, _)) = live.exact() {
            exact.forget(&ended.iter().map(|target| target.id.pid).collect());
        }
        facts
    }

    /// How much is kept, by kind: all of it belongs to processes that live, or whose last counts are to be read.
    pub(crate) fn kept(&self) -> [(&'static str, usize); 5] {
        let living = || self.living.values();
        let count = |is: fn(&Target) -> bool| living().filter(|target| is(target)).count();
        [
            ("targets", self.living.len()),
            ("interpreters", count(Target::is_attached)),
            (
                "loop threads",
                living().map(|target| target.steps.threads()).sum(),
            ),
            ("sampled GILs", self.gils.watched()),
            ("ended with counts", self.ended.len()),
        ]
    }

    /// Samples that never arrived, batches that were none, and what found no room.
    pub(crate) fn faults(&self) -> [(&'static str, u64); 3] {
        [
            ("samples-lost", self.losses.lost()),
            ("damaged-samples", self.damaged),
            ("targets-refused", self.refused),
        ]
    }
}

/// Tells the kernel side how to walk the stacks of a process.
fn set_unwind(target: &mut Target, live: &mut Live, wants: Wants) {
    let refused = match wants.samples {
        true => live.no_samples(),
        false => Some("stacks are not sampled (--rate 0)"),
    };
    if let Some(reason) = refused {
        target.refuse_samples(reason);
        return;
    }
    let long_ns = target.steps.long_ns(wants.stall_threshold_ns);
    if let Some(config) = target.unwind_config(long_ns) {
        live.set_python(target.id.pid, &config);
    }
}

fn add_loop(target: &mut Target, tid: Tid, live: &mut Live, refused: &mut u64) {
    match target.steps.add(tid) {
        Added::New => live.set_stack_interval(target.id.pid, tid, LOOP_INTERVAL),
        Added::Known => {}
        Added::Refused => *refused += 1,
    }
}

/// All ids that a holder of `pid` may have.
fn ids_of(pid: Pid) -> std::ops::RangeInclusive<TargetId> {
    let id = |start_boottime_ns| TargetId {
        pid,
        start_boottime_ns,
    };
    id(0)..=id(u64::MAX)
}

fn holder_mut(living: &mut BTreeMap<TargetId, Target>, pid: Pid) -> Option<&mut Target> {
    let newest = living.range_mut(ids_of(pid)).next_back();
    newest.map(|(_, target)| target)
}
