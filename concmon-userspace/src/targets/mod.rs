//! The registry of watched processes: one home for what is known, done and refused of each.
//!
//! A process comes by being named, by a fork that the kernel side saw, or by a sweep of `/proc`; it goes by
//! its last exit, or when a sweep does not find it. [`Targets`] is told of each of these in one place, and
//! whoever holds a process id at an instant is its newest target: an id alone is no identity.

mod pace;
mod steps;
mod target;
mod uprobes;
mod worker;

use std::{collections::BTreeMap, io, sync::Arc};

use concmon_ebpf::{SampleHead, fault};
use tokio::sync::Notify;

use steps::{Added, LOOP_INTERVAL};
pub(crate) use target::unsupported;
use target::{Look, Target};
use worker::Worker;

use crate::{
    decode::{
        self,
        loss::LossMeter,
        samples::{self, RawSample},
    },
    event::{Event, ExactFact, Exec, Exit, Fork, Pid, PoolCounts, PoolsFact, Tid},
    procfs::{
        ProcError,
        clocks::{self, Clocks},
        now,
        tree::Tree,
    },
    python::{DetectError, GilSampler, Interpreter, ScanOptions},
    source::live::{Live, LiveError},
};

/// Processes that are kept track of, at most; the kernel side has room for fewer.
const MAX_TARGETS: usize = 65_536;

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
    fn of(pid: Pid) -> Self {
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

/// When a look has to end.
pub(crate) trait Deadline: Send + 'static {
    /// Why it has to end by now; `None`: it may go on.
    fn over(&self) -> Option<String>;
    /// What the look has is not worth having beside what an earlier one had.
    fn was_hurried(&self) -> bool;
}

/// What was taken over.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    /// How long looks took, ns.
    pub(crate) took_ns: u64,
    /// Reads that failed in them.
    pub(crate) reads_failed: u64,
}

/// What the worker has done for a process.
#[derive(Debug)]
struct Done {
    id: TargetId,
    program: u64,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Searched(Box<Result<Interpreter, DetectError>>),
    Looked(Box<Look>),
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
    /// Programs that have been seen.
    programs: u64,
    gils: GilSampler,
    losses: LossMeter,
    /// Samples and batches that were none.
    damaged: u64,
    /// Processes and loops that found no room.
    refused: u64,
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
            programs: 0,
            gils: GilSampler::default(),
            losses: LossMeter::new(clocks::monotonic_ns()),
            damaged: 0,
            refused: 0,
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

    /// Tells the kernel side how to walk the stacks of everybody who is known.
    pub(crate) fn set_unwinds(&mut self, live: &mut Live) {
        for target in self.living.values_mut() {
            set_unwind(target, live, self.wants);
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
        self.insert(id, None);
    }

    /// A process runs another program.
    pub(crate) fn replaced(&mut self, exec: &Exec, live: &mut Live) {
        let Some(target) = holder_mut(&mut self.living, exec.pid) else {
            self.insert(TargetId::of(exec.pid), Some(exec.at_ns));
            return;
        };
        live.forget_python(exec.pid);
        self.gils.forget(exec.pid);
        if let Some((exact, _)) = live.exact() {
            exact.detach(exec.pid);
        }
        self.programs += 1;
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
        self.ended.extend(
            target.filter(|target| !target.tasks.is_untried() || !target.futures.is_untried()),
        );
    }

    fn forget_counts(&mut self, pid: Pid, live: &mut Live) {
        let before = self.ended.len();
        self.ended.retain(|target| target.id.pid != pid);
        if self.ended.len() < before
            && let Some((exact, _)) = live.exact()
        {
            exact.forget(pid);
        }
    }

    /// A process has been found; `began_ns`: its program began to run under watch.
    fn insert(&mut self, id: TargetId, began_ns: Option<u64>) {
        if self.living.len() >= MAX_TARGETS {
            self.refused += 1;
            return;
        }
        self.programs += 1;
        self.living
            .insert(id, Target::new(id, self.programs, began_ns));
    }

    fn holder(&self, pid: Pid) -> Option<&Target> {
        let newest = self.living.range(ids_of(pid)).next_back();
        newest.map(|(_, target)| target)
    }

    /// Looks whether those that the user asked for still run; their ends are told by records as well.
    pub(crate) fn check_named(&mut self) {
        for target in self.living.values_mut().filter(|target| target.named) {
            target.named = now::is_running(target.id.pid);
        }
    }

    /// Whether one of the processes that the user asked for may still run.
    pub(crate) fn has_named(&self) -> bool {
        self.living.values().any(|target| target.named)
    }

    /// Finds what is due by now: interpreters, GILs, how stacks are walked, what is to be probed.
    pub(crate) fn step(&mut self, now_ns: u64, live: &mut Live) {
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
            if target.is_unwind_due(now_ns) {
                set_unwind(target, live, self.wants);
            }
            target.probe(now_ns, self.wants, live);
        }
    }

    /// Decodes what arrived. `sink` gets samples with their CPU, and facts about long steps.
    pub(crate) fn take_samples(
        &mut self,
        batches: Vec<Vec<u8>>,
        live: &mut Live,
        mut sink: impl FnMut(u32, Event),
    ) {
        for bytes in batches {
            let batch = match samples::samples(&bytes) {
                Ok(batch) => batch,
                Err(error) => {
                    log::debug!("a damaged batch of samples: {error}");
                    self.damaged += 1;
                    continue;
                }
            };
            self.damaged += batch.invalid;
            let last = batch.samples.last().map_or(0, |sample| sample.head.at_ns);
            // What is missing is counted; there is nothing that it would make wrong.
            let _ = self.losses.batch(&batch.header, last);
            for (pid, raw) in by_process(batch.samples) {
                self.take_of_process(pid, &raw, live, |event| sink(batch.header.cpu, event));
            }
        }
    }

    fn take_of_process(
        &mut self,
        pid: Pid,
        raw: &[RawSample],
        live: &mut Live,
        mut sink: impl FnMut(Event),
    ) {
        let Some(target) = holder_mut(&mut self.living, pid) else {
            return;
        };
        let Some(interpreter) = target.interpreter() else {
            return;
        };
        for (raw, sample) in raw.iter().zip(interpreter.resolve(raw)) {
            // A thread whose stack shows a loop's step is a loop's, before a look says so.
            if sample.stack.in_loop {
                add_loop(target, sample.tid, live, &mut self.refused);
            }
            if let Some(head) = target.steps.take(raw, self.wants.stall_threshold_ns) {
                look_at_step(target, &head, &self.options, &mut sink);
            }
            sink(Event::Sample(Box::new(sample)));
        }
    }

    /// Looks at the steps that take long by now.
    pub(crate) fn check_steps(&mut self, mut sink: impl FnMut(Event)) {
        for target in self.living.values_mut() {
            for head in target.steps.old(self.wants.stall_threshold_ns) {
                look_at_step(target, &head, &self.options, &mut sink);
            }
        }
    }

    /// The readings of a window begin at `now_ns`. Gives those that may have changed since they were read
    /// last, the most useful first: who is in a step that takes long, then who was not looked at for longest.
    pub(crate) fn begin_window(&mut self, now_ns: u64, live: &mut Live) -> Vec<TargetId> {
        for pid in live.watched() {
            if self.holder(pid).is_none() {
                // Its fork is on its way, or was lost.
                self.insert(TargetId::of(pid), None);
            }
        }
        for target in self.living.values_mut() {
            target.begin_window(now_ns);
        }
        live.read_heads(|head| {
            if let Some(target) = holder_mut(&mut self.living, Pid(head.tgid)) {
                target.activity.thread(head);
            }
        });
        let outdated = self.living.values().filter(|target| target.is_outdated());
        let mut due: Vec<_> = outdated
            .map(|target| (!target.steps.has_open(), target.looked_ns(), target.id))
            .collect();
        due.sort_unstable();
        due.into_iter().map(|(_, _, id)| id).collect()
    }

    /// Reads what `/proc` says of a process; `false`: it is gone.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn read_process(
        &mut self,
        id: TargetId,
        clocks: &Clocks,
        tree: &Tree,
        live: &mut Live,
    ) -> Result<bool, ProcError> {
        let Some(target) = self.living.get_mut(&id) else {
            return Ok(false);
        };
        match target.read_process(clocks, tree) {
            Ok(()) => Ok(true),
            Err(ProcError::Gone(_)) => {
                // It ended before its exit could be seen; its id may get another holder.
                live.unwatch(id.pid);
                self.ended(id.pid, live);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// From now on, a thread of its own searches and looks, with the rights of the calling one.
    ///
    /// # Errors
    /// There can be no thread.
    pub(crate) fn start_worker(&mut self) -> io::Result<()> {
        self.worker.start()
    }

    /// Told when something is done.
    pub(crate) fn notify(&self) -> Arc<Notify> {
        self.worker.notify()
    }

    /// Something is under way.
    pub(crate) const fn is_busy(&self) -> bool {
        self.worker.is_busy()
    }

    /// A look is under way.
    pub(crate) const fn is_looking(&self) -> bool {
        self.looking
    }

    /// Whether a process has an interpreter that it is time to look at, no sooner than `pause_ns` after the
    /// last look.
    pub(crate) fn is_look_due(&self, id: TargetId, now_ns: u64, pause_ns: u64) -> bool {
        let target = self.living.get(&id);
        target.is_some_and(|target| target.is_look_due(now_ns, pause_ns))
    }

    /// Begins to look at the interpreter of a process.
    pub(crate) fn begin_look(&mut self, id: TargetId, deadline: impl Deadline + Sync) {
        let Some(target) = self.living.get_mut(&id) else {
            return;
        };
        let Some(mut scanner) = target.begin_look() else {
            return;
        };
        let (program, options) = (target.program, Arc::clone(&self.options));
        self.looking = true;
        self.worker.run(Box::new(move || {
            let begin_ns = clocks::monotonic_ns();
            let fact = scanner.scan_until(begin_ns, &options, &|| deadline.over());
            let look = Look {
                scanner,
                fact,
                took_ns: clocks::monotonic_ns().saturating_sub(begin_ns),
                hurried: deadline.was_hurried(),
            };
            Done {
                id,
                program,
                work: Work::Looked(Box::new(look)),
            }
        }));
    }

    /// Takes over what was done; with `wait`, something at least, where it is under way.
    pub(crate) fn take_done(&mut self, wait: bool, live: &mut Live) -> Taken {
        let mut taken = Taken::default();
        let mut next = self.worker.next(wait);
        while let Some(Done { id, program, work }) = next {
            if let Work::Looked(look) = &work {
                self.looking = false;
                taken.took_ns += look.took_ns;
            }
            let target = self.living.get_mut(&id);
            if let Some(target) = target.filter(|target| target.program == program) {
                match work {
                    Work::Searched(found) => {
                        let now_ns = clocks::monotonic_ns();
                        target.end_search(*found, now_ns);
                        if target.learn_gils(now_ns, &mut self.gils) {
                            live.set_gils(id.pid, target.gils());
                        }
                    }
                    Work::Looked(look) => {
                        let fact = target.end_look(*look, &self.gils);
                        let loops: Vec<Tid> = match fact {
                            Some(fact) => {
                                taken.reads_failed += fact.reads_failed;
                                fact.loops.iter().map(|found| found.tid).collect()
                            }
                            None => Vec::new(),
                        };
                        for tid in loops {
                            add_loop(target, tid, live, &mut self.refused);
                        }
                        set_unwind(target, live, self.wants);
                    }
                }
            }
            next = self.worker.next(false);
        }
        taken
    }

    /// What is known of every process at the end of a window.
    pub(crate) fn facts(&mut self, tree: &Tree) -> Vec<Event> {
        let mut facts = Vec::new();
        for target in self.living.values_mut() {
            target.facts(tree, &self.gils, |fact| facts.push(fact));
        }
        facts
    }

    /// Whether `/proc` has a thread, by what was read in this window; `None`: it is not known.
    pub(crate) fn has_thread(&self, pid: Pid, tid: Tid) -> Option<bool> {
        match self.holder(pid) {
            Some(target) => target.has_thread(tid),
            // The kernel side took the process off the list at its last exit.
            None => Some(now::has_thread(pid, tid)),
        }
    }

    /// Whether a process is neither watched any more nor there.
    pub(crate) fn is_gone(&self, pid: Pid) -> bool {
        self.holder(pid).is_none() && !now::has_thread(pid, Tid(pid.0))
    }

    /// From now on, looks read so many tasks at most.
    pub(crate) fn set_tasks(&mut self, tasks: usize) {
        Arc::make_mut(&mut self.options).tasks = tasks;
    }

    /// What was counted by probes so far, in processes that live and in those that have ended since this
    /// was asked last.
    pub(crate) fn counts(&mut self, live: &mut Live) -> Vec<Event> {
        let mut facts = Vec::new();
        if !self.wants.exact_tasks && !self.wants.exact_futures {
            return facts;
        }
        let faults = live.faults();
        let codes = [fault::EXACT_ROOM, fault::EXACT_READ];
        let missed: u64 = codes.map(|code| faults[code as usize]).iter().sum();
        let Some((exact, _)) = live.exact() else {
            return facts;
        };
        let ended = std::mem::take(&mut self.ended);
        let all = || self.living.values().chain(&ended);
        if self.wants.exact_futures {
            let mut counts: BTreeMap<Pid, Vec<PoolCounts>> = BTreeMap::new();
            for (key, row) in exact.pools() {
                counts.entry(Pid(key.tgid)).or_default().push(PoolCounts {
                    queue: key.queue,
                    submitted: row.submitted,
                    failed: row.failed,
                    kept: row.kept,
                    retrieved: row.retrieved,
                    dropped: row.dropped,
                });
            }
            let read_ns = clocks::monotonic_ns();
            for target in all().filter(|target| !target.futures.is_untried()) {
                let mut pools = counts.remove(&target.id.pid).unwrap_or_default();
                pools.sort_by_key(|pool| pool.queue);
                facts.push(Event::Pools(Box::new(PoolsFact {
                    read_ns,
                    pid: target.id.pid,
                    since: target.futures.since(),
                    pools,
                    missed,
                })));
            }
        }
        if self.wants.exact_tasks {
            let mut counts = decode::exact::counts(&exact.rows());
            let read_ns = clocks::monotonic_ns();
            for target in all().filter(|target| !target.tasks.is_untried()) {
                facts.push(Event::Exact(Box::new(ExactFact {
                    read_ns,
                    pid: target.id.pid,
                    since: target.tasks.since(),
                    tasks: counts.remove(&target.id.pid).unwrap_or_default(),
                    missed,
                })));
            }
        }
        for target in &ended {
            exact.forget(target.id.pid);
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
    if !wants.samples || live.no_samples().is_some() {
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

/// What a long step is about, when it goes on.
fn look_at_step(
    target: &mut Target,
    head: &SampleHead,
    options: &ScanOptions,
    sink: &mut impl FnMut(Event),
) {
    let interpreter = target.interpreter();
    let fact = interpreter.and_then(|of| of.step(clocks::monotonic_ns(), head, options));
    if let Some(fact) = fact {
        sink(Event::Step(Box::new(fact)));
    }
}

/// Samples of each process, in their order.
fn by_process(samples: Vec<RawSample>) -> BTreeMap<Pid, Vec<RawSample>> {
    let mut of: BTreeMap<Pid, Vec<RawSample>> = BTreeMap::new();
    for sample in samples {
        of.entry(Pid(sample.head.tgid)).or_default().push(sample);
    }
    of
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
