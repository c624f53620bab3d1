//! What is read of processes for a window: `/proc`, and by the worker their interpreters.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
};

use tokio::sync::Notify;

use super::{
    TargetId, Targets, add_loop, holder_mut, set_unwind,
    target::{Look, Target},
};
use crate::{
    event::{Event, Pid, PythonFact, Tid},
    procfs::{
        ProcError,
        clocks::{self, Clocks},
        now,
        tree::Tree,
    },
    python::{DetectError, Interpreter},
    source::live::Live,
};

/// Between two times that the kernel side's processes are listed, ns.
const LIST_PAUSE_NS: u64 = 30_000_000_000;

/// When a look has to end.
pub(crate) trait Deadline: Send + 'static {
    /// The look begins.
    fn begin(&mut self);
    /// Why it has to end by now; `None`: it may go on.
    fn over(&self) -> Option<String>;
    /// What the look has is not worth having beside what an earlier one had.
    fn was_hurried(&self) -> bool;
}

/// Processes that are watched while programs that have just begun are looked at before their window ends.
const MAX_EARLY: usize = 16;

/// What was taken over.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    /// Processes, not watched, that were looked for an interpreter.
    pub(crate) met: Vec<Met>,
    /// How long looks took, ns.
    pub(crate) took_ns: u64,
    /// Reads that failed in them.
    pub(crate) reads_failed: u64,
    /// Programs that have just begun, of which it is to be told at once what is known.
    pub(crate) early: Vec<TargetId>,
}

/// A process that was looked for an interpreter, and what has come of it.
#[derive(Debug)]
pub(crate) struct Met {
    pub(crate) id: TargetId,
    pub(crate) found: Result<Interpreter, DetectError>,
}

/// What the worker has done for a process.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) id: TargetId,
    pub(super) program: u64,
    pub(super) work: Work,
}

#[derive(Debug)]
pub(super) enum Work {
    Searched(Box<Result<Interpreter, DetectError>>),
    Looked(Box<Look>),
    Met(Box<Result<Interpreter, DetectError>>),
}

/// The threads that run loops, and what Python calls them.
fn loop_threads(fact: &PythonFact) -> Vec<(Tid, u64)> {
    let loops = fact.loops.iter().map(|found| found.tid);
    loops
        .filter_map(|tid| {
            let mut threads = fact.threads.iter();
            let thread = threads.find(|thread| thread.tid == tid)?;
            Some((tid, thread.ident))
        })
        .collect()
}

/// A process, if it still runs that program.
fn running(
    living: &mut BTreeMap<TargetId, Target>,
    id: TargetId,
    program: u64,
) -> Option<&mut Target> {
    let target = living.get_mut(&id);
    target.filter(|target| target.program == program)
}

impl Targets {
    /// The readings of a window begin at `now_ns`; `is_new`: for the first time. Gives those that may have changed since they were read
    /// last, the most useful first: who is in a step that takes long, then who was not read for longest.
    pub(crate) fn begin_window(
        &mut self,
        now_ns: u64,
        is_new: bool,
        live: &mut Live,
    ) -> Vec<TargetId> {
        // That takes a system call for each. Accounts tell sooner of somebody unheard of.
        if now_ns.saturating_sub(self.listed_ns) >= LIST_PAUSE_NS {
            self.listed_ns = now_ns;
            for pid in live.watched() {
                if self.holder(pid).is_none() {
                    // Its fork is on its way, or was lost.
                    self.insert(TargetId::of(pid), None);
                }
            }
        }
        for target in self.living.values_mut() {
            target.begin_window(now_ns, is_new);
        }
        let mut unheard = false;
        live.read_heads(|head| match holder_mut(&mut self.living, Pid(head.tgid)) {
            Some(target) => target.read_ledger(head),
            None => unheard |= head.lives(),
        });
        if unheard {
            self.listed_ns = 0;
        }
        for target in self.living.values_mut() {
            target.steps.forget_ended();
        }
        let attached = self.living.values().filter(|target| target.is_attached());
        // What runs while switches are not told does not show.
        let is_told = !live.is_detached();
        self.gils
            .rested(attached.map(|target| (target.id.pid, is_told && target.has_rested())));
        let outdated = self.living.values().filter(|target| target.is_outdated());
        let mut due: Vec<_> = outdated
            .map(|target| (!target.steps.has_open(), target.read_ns(), target.id))
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
            Ok(true) => Ok(true),
            Ok(false) => {
                // Its end was lost. The kernel side has forgotten it, and may watch the other.
                self.ended(id.pid, live);
                Ok(false)
            }
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
    pub(crate) fn begin_look(&mut self, id: TargetId, mut deadline: impl Deadline + Sync) {
        let Some(target) = self.living.get_mut(&id) else {
            return;
        };
        let Some(mut scanner) = target.begin_look() else {
            return;
        };
        let (program, options) = (target.program, Arc::clone(&self.options));
        self.looking = true;
        self.worker.run(Box::new(move || {
            deadline.begin();
            let begin_ns = clocks::monotonic_ns();
            let fact = scanner.scan_until(begin_ns, &options, &|| deadline.over());
            let look = Look {
                scanner,
                whole: fact.reads_failed == 0 && deadline.over().is_none(),
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
            self.settled &= !matches!(work, Work::Searched(_));
            match work {
                Work::Met(found) => taken.met.push(Met { id, found: *found }),
                Work::Searched(found) => {
                    if let Some(target) = running(&mut self.living, id, program) {
                        let now_ns = clocks::monotonic_ns();
                        target.end_search(*found, now_ns);
                        if target.learn_gils(now_ns, &mut self.gils) {
                            live.set_gils(id.pid, target.gils());
                        }
                    }
                }
                Work::Looked(look) => {
                    let now_ns = clocks::monotonic_ns();
                    self.looking = false;
                    // Of its loops, some may be to be checked sooner.
                    self.checks_due_ns = 0;
                    taken.took_ns += look.took_ns;
                    if let Some(target) = running(&mut self.living, id, program) {
                        let whole = look.whole;
                        let mut entered = Vec::new();
                        let mut left = Vec::new();
                        let loops = match target.end_look(*look, &self.gils) {
                            Some(fact) => {
                                taken.reads_failed += fact.reads_failed;
                                let loops = loop_threads(fact);
                                entered.extend_from_slice(&fact.entered);
                                let is_cut = ["python", "threads"]
                                    .iter()
                                    .any(|part| fact.limits.contains_key(*part));
                                left = target.entered.look(&entered, whole && !is_cut);
                                taken.early.extend(target.is_early(now_ns).then_some(id));
                                loops
                            }
                            None => Vec::new(),
                        };
                        live.set_entered(id.pid, target.gils().first().copied(), &entered);
                        live.set_left(id.pid, target.gils(), &left);
                        for (tid, ident) in loops {
                            add_loop(target, tid, live, &mut self.refused);
                            target.steps.name(tid, ident);
                        }
                        let long_ns = target.steps.long_ns(self.wants.stall_threshold_ns);
                        if !target.is_still_walkable(long_ns) {
                            set_unwind(target, live, self.wants);
                        }
                    }
                }
            }
            next = self.worker.next(false);
        }
        taken
    }

    /// Whether a process is known, and nothing has run in it from an instant until the readings began.
    pub(crate) fn has_stood_since(&self, pid: Pid, since_ns: u64) -> bool {
        let target = self.holder(pid);
        target.is_some_and(|target| target.has_stood_since(since_ns))
    }

    /// Whether a process of which no account has moved is as it was told last.
    pub(crate) fn stands(&self, pid: Pid, tree: &Tree) -> bool {
        let target = self.holder(pid);
        target.is_some_and(|target| target.stands(tree))
    }

    /// What is known of every process at the end of a window, at `now_ns`. Of those in `still`, nothing has changed.
    pub(crate) fn facts(&mut self, tree: &Tree, now_ns: u64, still: &BTreeSet<Pid>) -> Vec<Event> {
        let mut facts = Vec::new();
        for target in self.living.values_mut() {
            match still.contains(&target.id.pid) {
                true => facts.push(target.still(now_ns, &self.gils)),
                false => target.facts(tree, &self.gils, |fact| facts.push(fact)),
            }
        }
        facts
    }

    /// Which programs have just begun and are to be looked at now. Where many processes are watched, the looks of their
    /// windows take the time that there is.
    pub(crate) fn early_looks(&mut self, now_ns: u64) -> Vec<TargetId> {
        if self.living.len() > MAX_EARLY {
            return Vec::new();
        }
        let living = self.living.values_mut();
        let due = living.filter_map(|target| target.is_early_look_due(now_ns).then_some(target.id));
        due.collect()
    }

    /// What is known of one process by now.
    pub(crate) fn facts_of(&mut self, id: TargetId, tree: &Tree) -> Vec<Event> {
        let mut facts = Vec::new();
        if let Some(target) = self.living.get_mut(&id) {
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
}
