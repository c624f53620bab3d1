//! Processes that nobody has named and whose parents are not watched: found when they begin to run a program, as the
//! kernel side tells, and by the sweeps of `/proc`; watched once they turn out to be wanted, and Python.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use super::Watch;
use crate::{
    event::{Event, Pid, ProcessFact},
    procfs::{
        self, clocks, now,
        tree::{Mark, Tree},
    },
    python::{DetectError, maps_python},
    session::outcome::Failure,
    source::{live::Live, pipeline::Lifecycle},
    targets::{Met, Selector, Subject, TargetId, Targets},
};

/// Between the looks at a process that has just begun to run a program, until it counts as no Python, ns.
const PAUSES_NS: [u64; 6] = [
    30_000_000,
    100_000_000,
    300_000_000,
    1_000_000_000,
    2_000_000_000,
    4_000_000_000,
];
/// Before the first of them, ns: an interpreter takes as long to start, and most of what a build runs is over.
const FIRST_PAUSE_NS: u64 = 15_000_000;
/// Looks are rationed, for a build runs hundreds of programs in a second: in the long run there is one in so many ns,
/// and after a pause so many at once.
const LOOK_NS: u64 = 10_000_000;
const BURST_NS: u64 = 400 * LOOK_NS;
/// Processes that wait to be looked at, at most; a sweep finds those that live on.
const MAX_CANDIDATES: usize = 512;
/// Programs that were begun and are taken notice of in one turn, and processes judged in one.
const MOST_EXECS: usize = 256;
const MOST_JUDGED: usize = 32;
/// Looks for children that were born before their parents' forks could be seen.
const MOST_SCANS: usize = 8;

/// Finding out who is not watched takes at most so long, ns.
const UNWATCHED_NS: u64 = 50_000_000;

/// Why a process that may be Python is not watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unwatched {
    /// Rules do not let it be.
    Denied,
    NoPermission,
    /// It is still being looked at.
    Short,
    /// No interpreter was found in it.
    NoInterpreter,
}

/// A process that may be wanted.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// Looks so far.
    looks: usize,
    next_ns: u64,
    under_way: bool,
}

/// A program that a process runs: when that began, and a sum of what the program is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Program(u64, u64);

impl Program {
    fn of(start_boottime_ns: u64, name: &str, command: &str) -> Self {
        let mut sum = DefaultHasher::new();
        (name, command).hash(&mut sum);
        Self(start_boottime_ns, sum.finish())
    }
}

/// Who has come, of those that may be wanted.
#[derive(Debug)]
pub(super) struct Newcomers {
    selector: Selector,
    candidates: BTreeMap<Pid, Candidate>,
    /// Who may be in a container that is not known yet.
    unsure: BTreeSet<Pid>,
    /// Everybody who was there at the last sweep.
    known: BTreeMap<u32, Mark>,
    /// Where those who were there before are judged once more: titles and cgroups change.
    judged: u32,
    /// When looks that were made would have been due one after the other, ns.
    rationed_ns: u64,
    /// Where those that are not watched are told from: who was left out the last time comes first.
    told: u32,
    /// Execs that found no room, and newcomers that found none.
    unheard: u64,
    refused: u64,
    /// Who is wanted, and may not be read.
    denied: BTreeSet<Pid>,
    /// What rules call the services that processes are. Each program is judged once: at the end of its last window
    /// there is nobody to judge any more.
    services: BTreeMap<Pid, (Program, Option<String>)>,
}

impl Newcomers {
    /// `tree`: who was there, and was judged.
    pub(super) fn new(mut selector: Selector, tree: &Tree) -> Self {
        selector.hurry();
        Self {
            selector,
            candidates: BTreeMap::new(),
            unsure: BTreeSet::new(),
            known: tree.living().clone(),
            judged: 0,
            told: 0,
            rationed_ns: 0,
            unheard: 0,
            refused: 0,
            denied: BTreeSet::new(),
            services: BTreeMap::new(),
        }
    }

    pub(super) fn selector(&mut self) -> &mut Selector {
        &mut self.selector
    }

    /// How many, and the first of them.
    pub(super) fn denied(&self) -> Option<(usize, Pid)> {
        Some((self.denied.len(), *self.denied.first()?))
    }

    /// What a rule calls the service that a process is, of which this was read.
    pub(super) fn service(&mut self, fact: &ProcessFact) -> Option<String> {
        if !self.selector.names_services() {
            return None;
        }
        let pid = Pid(fact.pid);
        let command = fact.cmdline.join(" ");
        let program = Program::of(fact.start_boottime_ns, &fact.name, &command);
        if let Some((judged, service)) = self.services.get(&pid)
            && *judged == program
        {
            return service.clone();
        }
        let service = self.selector.service(&Subject::read(fact));
        let service = service.map(str::to_owned);
        self.services.insert(pid, (program, service.clone()));
        service
    }

    /// Judges one that is watched from now on, while it lives.
    fn judge(&mut self, id: TargetId) {
        if self.selector.names_services()
            && let Some(of) = Subject::of(id.pid)
        {
            let program = Program::of(id.start_boottime_ns, &of.name, &of.command);
            let service = self.selector.service(&of).map(str::to_owned);
            self.services.insert(id.pid, (program, service));
        }
    }

    /// Forgets those that are watched no more.
    pub(super) fn forget_services(&mut self, targets: &Targets) {
        self.services.retain(|pid, _| targets.holds(*pid));
    }

    fn wants(&mut self, pid: Pid) -> bool {
        let wants = self.selector.wants(pid);
        if !wants && self.selector.is_unsure() && self.unsure.len() < MAX_CANDIDATES {
            self.unsure.insert(pid);
        }
        wants
    }

    /// Who was not wanted before more became known is judged once more.
    fn learn(&mut self, now_ns: u64) {
        if self.selector.has_learned() {
            for pid in std::mem::take(&mut self.unsure) {
                self.began(pid, now_ns);
            }
        }
    }

    /// A process begins to run a program, or has appeared; it is to be looked at from `look_ns` on.
    fn began(&mut self, pid: Pid, look_ns: u64) {
        if self.candidates.len() >= MAX_CANDIDATES && !self.candidates.contains_key(&pid) {
            self.refused += 1;
            return;
        }
        let candidate = Candidate {
            looks: 0,
            next_ns: look_ns,
            under_way: false,
        };
        self.candidates.insert(pid, candidate);
    }

    /// Who has come since the last sweep, or runs another program; and some of the others that are not watched.
    fn sweep(&mut self, tree: &Tree, now_ns: u64, is_watched: impl Fn(Pid) -> bool) {
        if !self.selector.may_want_more() {
            return;
        }
        let living = tree.living();
        let new: Vec<u32> = living
            .iter()
            .filter(|(pid, mark)| self.known.get(pid) != Some(mark))
            .map(|(pid, _)| *pid)
            .collect();
        for pid in new {
            self.began(Pid(pid), now_ns);
        }
        let others = living.range(self.judged..).map(|(pid, _)| *pid);
        let others = others.filter(|pid| !is_watched(Pid(*pid)));
        let again: Vec<u32> = others.take(MOST_JUDGED).collect();
        self.judged = match again.last() {
            Some(last) if again.len() == MOST_JUDGED => last + 1,
            _ => 0,
        };
        for pid in again {
            if !self.candidates.contains_key(&Pid(pid)) && self.wants(Pid(pid)) {
                self.began(Pid(pid), now_ns);
                // One look is enough: it has run for a while.
                if let Some(candidate) = self.candidates.get_mut(&Pid(pid)) {
                    candidate.looks = PAUSES_NS.len();
                }
            }
        }
        self.denied.retain(|pid| living.contains_key(&pid.0));
        self.known = living.clone();
    }

    /// Who is to be looked at now.
    fn due(&mut self, now_ns: u64, targets: &Targets) -> Vec<Pid> {
        let candidates = self.candidates.iter();
        let due = candidates.filter(|(_, one)| !one.under_way && one.next_ns <= now_ns);
        let mut due: Vec<(u64, Pid)> = due.map(|(pid, one)| (one.next_ns, *pid)).collect();
        due.sort_unstable();
        let mut wanted = Vec::new();
        for (_, pid) in due.into_iter().take(MOST_JUDGED) {
            if self.rationed_ns > now_ns {
                break;
            }
            if targets.holds(pid) || !self.wants(pid) {
                self.candidates.remove(&pid);
            } else if let Some(candidate) = self.candidates.get_mut(&pid) {
                candidate.under_way = true;
                let earliest_ns = now_ns.saturating_sub(BURST_NS);
                self.rationed_ns = self.rationed_ns.max(earliest_ns) + LOOK_NS;
                wanted.push(pid);
            }
        }
        wanted
    }

    /// See [`Watch::unwatched`].
    fn unwatched(
        &mut self,
        is_watched: impl Fn(Pid) -> bool,
        is_python: impl Fn(Pid) -> bool,
        has_time: impl Fn() -> bool,
    ) -> (Vec<(Pid, String, Unwatched)>, usize) {
        let mut unwatched = Vec::new();
        let mut left_out = 0;
        let from = std::mem::take(&mut self.told);
        let known = self.known.range(from..).chain(self.known.range(..from));
        for pid in known.map(|(pid, _)| Pid(*pid)) {
            if is_watched(pid) {
                continue;
            }
            if !has_time() {
                if left_out == 0 {
                    self.told = pid.0;
                }
                left_out += 1;
                continue;
            }
            // What may not be read may be anything that is wanted.
            let is_denied = self.denied.contains(&pid);
            if !is_denied && !is_python(pid) {
                continue;
            }
            let why = match self.selector.wants(pid) {
                _ if is_denied => Unwatched::NoPermission,
                false if !self.selector.is_unsure() => Unwatched::Denied,
                _ if self.candidates.contains_key(&pid) => Unwatched::Short,
                _ => Unwatched::NoInterpreter,
            };
            if let Some((name, _)) = procfs::command(pid.0) {
                unwatched.push((pid, name, why));
            }
        }
        (unwatched, left_out)
    }

    /// No interpreter was found in a candidate.
    fn missed(&mut self, pid: Pid, error: &DetectError, now_ns: u64) {
        let Some(candidate) = self.candidates.get_mut(&pid) else {
            return;
        };
        let pause_ns = PAUSES_NS.get(candidate.looks);
        if matches!(error, DetectError::NoPermission) {
            self.denied.insert(pid);
        }
        match (error, pause_ns) {
            // What has just begun may look like anything.
            (DetectError::NotPython | DetectError::Starting | DetectError::Io(_), Some(pause)) => {
                candidate.looks += 1;
                candidate.next_ns = now_ns + pause;
                candidate.under_way = false;
            }
            _ => drop(self.candidates.remove(&pid)),
        }
    }
}

impl Watch {
    /// Python processes that are not watched, with their names, and how many there was no time to look at: they come
    /// first the next time.
    pub(crate) fn unwatched(&mut self) -> (Vec<(Pid, String, Unwatched)>, usize) {
        let Some(newcomers) = &mut self.newcomers else {
            return (Vec::new(), 0);
        };
        let ends_ns = clocks::monotonic_ns().saturating_add(UNWATCHED_NS);
        let has_time = || clocks::monotonic_ns() < ends_ns;
        newcomers.unwatched(|pid| self.targets.holds(pid), maps_python, has_time)
    }

    /// Looks at who has begun to run a program.
    pub(super) fn meet_newcomers(&mut self, now_ns: u64) {
        let Some(newcomers) = &mut self.newcomers else {
            return;
        };
        let mut began = BTreeSet::new();
        self.live.drain_execs(MOST_EXECS, |pid| {
            began.insert(pid);
        });
        for pid in began {
            newcomers.began(pid, now_ns + FIRST_PAUSE_NS);
        }
        newcomers.learn(now_ns);
        let is_meeting = !newcomers.candidates.is_empty();
        for pid in newcomers.due(now_ns, &self.targets) {
            self.targets.meet(pid);
        }
        self.came(is_meeting);
    }

    /// Looks at who is there, after the tree was brought up to date.
    pub(super) fn sweep_newcomers(&mut self, now_ns: u64) {
        if let Some(newcomers) = &mut self.newcomers {
            let is_watched = |pid| self.targets.holds(pid);
            newcomers.sweep(self.schedule.tree(), now_ns, is_watched);
        }
    }

    /// How many processes that began to run a program were not told of, since this was asked last.
    pub(super) fn take_unheard(&mut self, told: u64) -> u64 {
        let Some(newcomers) = &mut self.newcomers else {
            return 0;
        };
        let all = told + newcomers.refused;
        let unheard = all - newcomers.unheard;
        newcomers.unheard = all;
        unheard
    }

    /// Takes those in that have turned out to be Python, with their children.
    pub(super) fn take_met(&mut self, met: Vec<Met>) {
        let now_ns = clocks::monotonic_ns();
        let mut joined = Vec::new();
        for Met { id, found } in met {
            let Some(newcomers) = &mut self.newcomers else {
                return;
            };
            let interpreter = match found {
                Ok(interpreter) => interpreter,
                Err(error) => {
                    newcomers.missed(id.pid, &error, now_ns);
                    continue;
                }
            };
            newcomers.candidates.remove(&id.pid);
            // Its title may say by now that it is not wanted.
            if !newcomers.selector.wants(id.pid) {
                continue;
            }
            match (self.targets).join(id, interpreter, self.follows, &mut self.live) {
                Ok(true) => {
                    newcomers.judge(id);
                    joined.push(id.pid);
                }
                Ok(false) => {}
                Err(error) => log::warn!("process {}: {error}", id.pid),
            }
        }
        if joined.is_empty() {
            return;
        }
        let mut taken = Ok(());
        if self.follows {
            let selector = self.newcomers.as_ref().map(|newcomers| &newcomers.selector);
            let (live, targets) = (&mut self.live, &mut self.targets);
            taken = watch_late_children(live, targets, &joined, selector);
        }
        let threads = joined.iter().map(|pid| now::count_threads(*pid));
        self.live.make_room_for(threads.sum());
        let seeded = self.live.seed().map_err(Failure::from);
        if let Err(error) = taken.and(seeded) {
            log::warn!("processes that have appeared are not watched as a whole: {error}");
            self.reads_failed += 1;
        }
    }

    /// Lets go of a child that is not to be watched, as soon as its command line says so.
    pub(super) fn leave_out(&mut self, lifecycle: &Lifecycle) {
        let pid = match lifecycle {
            Lifecycle::Born(fork) => fork.pid,
            Lifecycle::Replaced(exec) => exec.pid,
            Lifecycle::Ended(_) => return,
        };
        let Some(newcomers) = &self.newcomers else {
            return;
        };
        if newcomers.selector.excludes(pid) {
            self.targets.exclude(pid, &mut self.live);
            self.excluded.push(pid);
        }
    }

    /// Tells the model of those that were let go of.
    pub(super) fn tell_excluded(&mut self) {
        for pid in std::mem::take(&mut self.excluded) {
            self.intake.now(Event::Excluded(pid));
        }
    }
}

/// Children that were born before their parents' forks could be seen. Until one is watched it may have children of its
/// own, so this looks again.
pub(super) fn watch_late_children(
    live: &mut Live,
    targets: &mut Targets,
    parents: &[Pid],
    selector: Option<&Selector>,
) -> Result<(), Failure> {
    for _ in 0..MOST_SCANS {
        let tree = Tree::scan()?;
        // After the scan: who joined at fork meanwhile is not late.
        let watched: BTreeSet<Pid> = live.watched().into_iter().collect();
        let late: BTreeSet<Pid> = parents
            .iter()
            .flat_map(|parent| tree.descendants(parent.0))
            .map(Pid)
            .filter(|pid| !watched.contains(pid))
            .filter(|pid| selector.is_none_or(|selector| !selector.excludes(*pid)))
            .collect();
        if late.is_empty() {
            break;
        }
        for pid in late {
            targets.join_child(pid, live)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
