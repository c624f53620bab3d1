//! One watched process, from the moment that it is found until it is gone.

mod probes;
mod search;

use std::sync::Arc;

use concmon_ebpf::Python as KernelPython;

use probes::Places;
use search::Search;

use super::{
    TargetId,
    activity::{Activity, Reading},
    attached::{Attached, is_gone, keep_names},
    entered::Entered,
    shape::Shape,
    steps::Steps,
    uprobes::Uprobes,
};
use crate::{
    event::{Event, Pid, ProcessFact, PyGil, PythonFact, StillFact, Tid},
    procfs::{
        ProcError, ProcessReader,
        clocks::{self, Clocks},
        tree::Tree,
    },
    python::{DetectError, GilSampler, Interpreter, LentScanner},
    source::live::LedgerHead,
};

/// How long a process that has just begun to run a program may take to show an interpreter before it
/// counts as something else, ns.
const SETTLE_NS: u64 = 5_000_000_000;
/// How long after that beginning an interpreter that cannot be read may not be whole yet, or not any more, ns.
const DOUBT_NS: u64 = 1_000_000_000;
/// Between two tries to find out how the stacks of an interpreter can be walked, ns.
const UNWIND_PAUSE_NS: u64 = 300_000_000;

/// Parts of a look that say when they were cut: the next one may have more.
const PARTS: [&str; 5] = ["python", "threads", "loops", "executors", "tasks"];

/// How far it has come. What it can tell beyond that is up to its probes.
#[derive(Debug)]
enum Stage {
    /// It is there; what it runs is to be found out.
    Found(Search),
    /// Its interpreter can be read.
    Attached(Box<Attached>),
    /// It is not Python, or cannot be read: the kernel side alone watches it.
    Refused,
}

/// What a look has come to.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) scanner: LentScanner,
    pub(super) fact: PythonFact,
    pub(super) took_ns: u64,
    /// There was no time to look as usual.
    pub(super) hurried: bool,
    /// It was not cut, and read whatever it tried to.
    pub(super) whole: bool,
}

/// A watched process.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) id: TargetId,
    /// Which of the programs that have run under its id and the ids of others, in their order.
    pub(super) program: u64,
    /// The user asked for it, not for its parent.
    pub(super) named: bool,
    stage: Stage,
    pub(super) steps: Steps,
    pub(super) tasks: Uprobes,
    pub(super) futures: Uprobes,
    /// Where its parent had probes when it was forked, and when it is to have them, unless it runs another
    /// program by then.
    inherits: Option<(u64, Places)>,
    /// Where its probes are: a child that it forks has the same code at the same places.
    places: Places,
    pub(super) entered: Entered,
    /// Probes were tried in a program that it ran before.
    tried_before: bool,
    activity: Activity,
    reader: ProcessReader,
    process: Reading<ProcessFact>,
    look: Reading<PythonFact>,
    /// The threads that `/proc` listed, ascending; `None`: not all of them.
    listed: Option<Vec<Tid>>,
}

impl Target {
    /// A process that has been found; `began_ns`: its program began to run under watch.
    pub(super) fn new(id: TargetId, program: u64, began_ns: Option<u64>) -> Self {
        Self {
            id,
            program,
            named: false,
            stage: Stage::Found(Search::new(began_ns)),
            steps: Steps::default(),
            tasks: Uprobes::default(),
            futures: Uprobes::default(),
            inherits: None,
            places: Places::default(),
            entered: Entered::default(),
            tried_before: false,
            activity: Activity::of(id.pid),
            reader: ProcessReader::new(id.pid.0),
            process: Reading::default(),
            look: Reading::default(),
            listed: None,
        }
    }

    /// It runs another program since `at_ns`.
    pub(super) fn replaced(&mut self, program: u64, at_ns: u64) {
        let (named, tried_before) = (self.named, self.may_have_counts());
        *self = Self::new(self.id, program, Some(at_ns));
        (self.named, self.tried_before) = (named, tried_before);
    }

    /// Something may have been counted by its probes.
    pub(super) fn may_have_counts(&self) -> bool {
        self.tried_before || !self.tasks.is_untried() || !self.futures.is_untried()
    }

    /// Looks for its interpreter at once, where none is known. Says where the GILs are.
    ///
    /// # Errors
    /// It is not Python, or cannot be read; it is watched without that.
    pub(super) fn adopt(&mut self, gils: &mut GilSampler) -> Result<Vec<u64>, DetectError> {
        if matches!(self.stage, Stage::Found(_)) {
            match Interpreter::attach(self.id.pid) {
                Ok(interpreter) => self.take_interpreter(interpreter, gils),
                // It goes on being looked for.
                Err(DetectError::Starting) => {}
                Err(error) => {
                    self.stage = Stage::Refused;
                    return Err(error);
                }
            }
        }
        Ok(self.gils().to_vec())
    }

    /// An interpreter was found in it.
    pub(super) fn take_interpreter(&mut self, interpreter: Interpreter, gils: &mut GilSampler) {
        let mut attached = Attached::new(self.id.pid, interpreter, None);
        attached.learn_gils(self.id.pid, None, gils);
        self.stage = Stage::Attached(Box::new(attached));
    }

    /// The addresses of its GILs, as far as they are known.
    pub(super) fn gils(&self) -> &[u64] {
        match &self.stage {
            Stage::Attached(attached) => &attached.gils,
            _ => &[],
        }
    }

    /// Whether it is time to look for its interpreter, which is then said to be under way.
    pub(super) fn begin_search(&mut self, now_ns: u64) -> bool {
        match &mut self.stage {
            Stage::Found(search) if !search.under_way && now_ns >= search.next_ns => {
                search.under_way = true;
                true
            }
            _ => false,
        }
    }

    /// Takes over what a search has come to.
    pub(super) fn end_search(&mut self, found: Result<Interpreter, DetectError>, now_ns: u64) {
        let pid = self.id.pid;
        let Stage::Found(search) = &mut self.stage else {
            return;
        };
        search.under_way = false;
        match found {
            Ok(interpreter)
                if !interpreter.info().supported && !search.is_older(DOUBT_NS, now_ns) =>
            {
                search.missed(now_ns);
            }
            Ok(interpreter) => {
                let attached = Attached::new(pid, interpreter, search.began_ns);
                self.stage = Stage::Attached(Box::new(attached));
            }
            // Between exec and the first instruction of the interpreter, a process may look like anything.
            Err(error)
                if !matches!(error, DetectError::Gone) && !search.is_older(SETTLE_NS, now_ns) =>
            {
                search.missed(now_ns);
            }
            Err(error) => {
                log::debug!("process {pid}: {error}");
                self.stage = Stage::Refused;
            }
        }
    }

    /// Finds out where its GILs are, where that is not known; `true`: they have become known.
    pub(super) fn learn_gils(&mut self, now_ns: u64, gils: &mut GilSampler) -> bool {
        let pid = self.id.pid;
        match self.attached_mut() {
            Some(attached) if attached.gils.is_empty() => {
                if attached.is_gil_due(now_ns) {
                    attached.learn_gils(pid, Some(now_ns), gils);
                }
                !attached.gils.is_empty()
            }
            _ => false,
        }
    }

    fn attached(&self) -> Option<&Attached> {
        match &self.stage {
            Stage::Attached(attached) => Some(attached),
            _ => None,
        }
    }

    fn attached_mut(&mut self) -> Option<&mut Attached> {
        match &mut self.stage {
            Stage::Attached(attached) => Some(attached),
            _ => None,
        }
    }

    pub(super) fn is_attached(&self) -> bool {
        self.attached().is_some()
    }

    pub(super) fn interpreter(&mut self) -> Option<&mut Interpreter> {
        Some(&mut self.attached_mut()?.interpreter)
    }

    /// Since when it is time to find out how its stacks are walked, ns; `None`: kernel programs know, or it is not yet.
    pub(super) fn unwind_due_ns(&self, now_ns: u64) -> Option<u64> {
        let attached = self.attached()?;
        let is_due = attached.walkable.is_none() && now_ns >= attached.next_unwind_ns;
        is_due.then_some(attached.next_unwind_ns)
    }

    /// It is tried now, and should that fail, after a while.
    pub(super) fn try_unwind_later(&mut self, now_ns: u64) {
        if let Some(attached) = self.attached_mut() {
            attached.next_unwind_ns = now_ns + UNWIND_PAUSE_NS;
        }
    }

    /// What kernel programs need to walk its stacks, and to tell steps that take longer than `long_ns`.
    /// `None`: it has no interpreter, or, as a limit of the next look says, they cannot.
    pub(super) fn unwind_config(&mut self, long_ns: u64) -> Option<KernelPython> {
        let shape = Shape::of(self.look.fact.as_deref(), long_ns);
        let attached = self.attached_mut()?;
        let now_ns = clocks::monotonic_ns();
        match attached.interpreter.unwind_config(long_ns) {
            Ok(config) => {
                attached.no_samples = None;
                attached.unwound_ns = now_ns;
                attached.walkable = Some(shape);
                Some(config)
            }
            Err(reason) => {
                attached.no_samples = Some(reason);
                None
            }
        }
    }

    /// A look was made: whether kernel programs know how to walk its stacks as they did, for nothing has come or gone
    /// that this depends on. Some looks are made for certainty.
    pub(super) fn is_still_walkable(&mut self, long_ns: u64) -> bool {
        let shape = Shape::of(self.look.fact.as_deref(), long_ns);
        let (is_accounted, activity) = (self.is_accounted(), self.activity);
        let Some(attached) = self.attached_mut() else {
            return false;
        };
        // Nothing has run since, and the look has found no loop that was not asked for then.
        let stood = is_accounted && activity.stood_since(attached.unwound_ns);
        if stood
            && attached
                .walkable
                .as_ref()
                .is_some_and(|known| known.is_as_good_as(&shape))
        {
            return true;
        }
        let known = attached.walkable.as_mut();
        let Some(known) = known.filter(|known| known.same_as(&shape)) else {
            return false;
        };
        known.looked();
        attached.interpreter.begin_scan();
        true
    }

    /// Its stacks are not sampled, as the next look says.
    pub(super) fn refuse_samples(&mut self, reason: &str) {
        if let Some(attached) = self.attached_mut() {
            attached.no_samples = Some(reason.to_owned());
        }
    }

    /// Whether what was read of it may be outdated.
    pub(super) fn is_outdated(&self) -> bool {
        let looked = self.attached().is_none() || self.look.holds(&self.activity);
        !(self.is_accounted() && looked && self.process.holds(&self.activity))
    }

    /// None of its threads can run unseen, for lack of a ledger.
    fn is_accounted(&self) -> bool {
        let is_whole = |fact: &Arc<ProcessFact>| fact.threads == Some(self.activity.threads);
        self.process.fact.as_ref().is_some_and(is_whole)
    }

    /// Nothing has run in it from one reading of the ledgers to the other.
    pub(super) fn has_rested(&self) -> bool {
        self.activity.has_rested() && self.is_accounted()
    }

    /// Nothing has run in it from an instant until the ledgers were read.
    pub(super) fn has_stood_since(&self, since_ns: u64) -> bool {
        self.is_accounted() && self.activity.stood_since(since_ns)
    }

    /// Reads what `/proc` says of it; `false`: its id has another holder.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn read_process(&mut self, clocks: &Clocks, tree: &Tree) -> Result<bool, ProcError> {
        let now_ns = clocks::monotonic_ns();
        let stands = self.is_accounted() && self.process.stands(&self.activity);
        let fact = match self.process.fact.as_ref().filter(|_| stands) {
            Some(before) => {
                let ran_ns = self.activity.ran_ns();
                (self.reader).read_at_rest(before, ran_ns, now_ns, clocks, tree)?
            }
            None => self.reader.read(now_ns, clocks, tree)?,
        };
        let start_ns = self.id.start_boottime_ns;
        if start_ns != 0 && !clocks::same_start(fact.start_boottime_ns, start_ns) {
            return Ok(false);
        }
        let mut tids: Vec<Tid> = fact.thread_stats.iter().map(|thread| thread.tid).collect();
        tids.sort_unstable();
        // Where the list was cut, nobody counts as missing.
        let whole = fact.threads.is_none_or(|all| all <= tids.len() as u64);
        self.listed = whole.then_some(tids);
        // What was not read again is known up to the reading of the ledgers.
        let read_ns = match stands {
            true => self.activity.read_ns,
            false => fact.read_ns,
        };
        self.process.set(fact, read_ns, false);
        Ok(true)
    }

    /// Whether this is one of its threads, as far as `/proc` has told.
    pub(super) fn owns(&self, tid: Tid) -> bool {
        let listed = self.listed.as_ref();
        listed.is_some_and(|listed| listed.binary_search(&tid).is_ok())
    }

    /// Whether `/proc` has a thread, by what was read in this window; `None`: nothing was.
    pub(super) fn has_thread(&self, tid: Tid) -> Option<bool> {
        let listed = self.listed.as_ref().filter(|_| self.process.is_new)?;
        Some(listed.binary_search(&tid).is_ok())
    }

    /// Whether it is as it was told last, provided that none of its threads has run since.
    pub(super) fn stands(&self, tree: &Tree) -> bool {
        let family = tree.family(self.id.pid.0);
        let is_same = |fact: &Arc<ProcessFact>| {
            (fact.children, fact.descendants, fact.zombies)
                == (family.children, family.descendants, family.zombies)
        };
        let is_told = !self.process.is_new && !self.look.is_new;
        is_told && !self.is_outdated() && self.process.fact.as_ref().is_some_and(is_same)
    }

    /// That it is as it was told last.
    pub(super) fn still(&self, now_ns: u64, sampler: &GilSampler) -> Event {
        let gils = self.look.fact.iter().flat_map(|fact| &fact.gils);
        let gils = gils.map(|gil| {
            let counts = sampler.counts(self.id.pid, gil.address);
            PyGil {
                read_ns: now_ns.max(gil.read_ns),
                samples: counts.samples,
                locked_samples: counts.locked,
                ..*gil
            }
        });
        Event::Still(Box::new(StillFact {
            read_ns: now_ns,
            pid: self.id.pid,
            gils: gils.collect(),
        }))
    }

    /// What is known of it now, for the end of a window: what was read in it, or has not changed since.
    pub(super) fn facts(&mut self, tree: &Tree, gils: &GilSampler, mut sink: impl FnMut(Event)) {
        let now_ns = self.activity.read_ns;
        let as_of = |read_ns: u64| now_ns.max(read_ns);
        if (self.process.is_new || self.process.holds(&self.activity))
            && let Some(fact) = &mut self.process.fact
        {
            let family = tree.family(fact.pid);
            let fact = Arc::make_mut(fact);
            if !self.process.is_new {
                fact.read_ns = as_of(fact.read_ns);
                // Others of the cgroup may have run.
                fact.quotas = self.reader.quotas().unwrap_or_default();
            }
            fact.children = family.children;
            fact.descendants = family.descendants;
            fact.zombies = family.zombies;
            sink(Event::Process(Box::new(fact.clone())));
        }
        let holds = !self.is_outdated();
        if (self.look.is_new || holds)
            && let Some(fact) = &mut self.look.fact
        {
            if !self.look.is_new {
                let fact = Arc::make_mut(fact);
                fact.read_ns = as_of(fact.read_ns);
                for gil in &mut fact.gils {
                    gil.read_ns = as_of(gil.read_ns);
                }
                count_samples(self.id.pid, fact, gils);
            }
            sink(Event::Python(Arc::clone(fact)));
        }
        (self.process.is_new, self.look.is_new) = (false, false);
    }

    /// When it was read last, ns; 0: not yet.
    pub(super) fn read_ns(&self) -> u64 {
        self.process.read_ns
    }

    /// The readings of a window begin; `is_new`: for the first time.
    pub(super) fn begin_window(&mut self, now_ns: u64, is_new: bool) {
        self.activity.begin(now_ns);
        if is_new && let Some(attached) = self.attached_mut() {
            attached.pace.begin_window(now_ns);
        }
    }

    /// The ledger of one of its threads, as it is when the readings begin.
    pub(super) fn read_ledger(&mut self, head: &LedgerHead) {
        self.activity.thread(head);
        if head.lives() {
            self.steps.thread_lives(Tid(head.tid));
        }
    }

    /// Whether there is an interpreter that nobody looks at, and it is time to.
    pub(super) fn is_look_due(&self, now_ns: u64, pause_ns: u64) -> bool {
        // Another one would show the same.
        let stands = self.is_accounted()
            && self.look.stands(&self.activity)
            && self.look.holds(&self.activity);
        let attached = self.attached();
        attached.is_some_and(|attached| {
            !stands && !attached.interpreter.is_lent() && attached.pace.is_due(now_ns, pause_ns)
        })
    }

    /// What was found out is not told before a window ends, and until then the program may have ended.
    pub(super) fn is_early(&self, now_ns: u64) -> bool {
        let attached = self.attached();
        attached.is_some_and(|attached| attached.is_early(now_ns))
    }

    /// Whether it has begun under watch, has got a GIL, and is to be looked at before a window ends.
    pub(super) fn is_early_look_due(&mut self, now_ns: u64) -> bool {
        self.attached_mut().is_some_and(|attached| {
            attached.is_early(now_ns)
                && !attached.interpreter.is_lent()
                && attached.pace.is_due(now_ns, 0)
                && attached.early.take(now_ns)
        })
    }

    /// What looks at its interpreter; `None`: there is none, or it is looked at already.
    pub(super) fn begin_look(&mut self) -> Option<LentScanner> {
        self.attached_mut()?.interpreter.lend_scanner()
    }

    /// Takes over what a look has found, and gives it; `None`: it is not worth having.
    pub(super) fn end_look(&mut self, look: Look, gils: &GilSampler) -> Option<&PythonFact> {
        let pid = self.id.pid;
        let attached = self.attached_mut()?;
        attached.interpreter.take_back(look.scanner);
        let is_first = attached.pace.last_ns() == 0;
        let mut fact = look.fact;
        if let Some(reason) = attached.pace.took(fact.read_ns, look.took_ns) {
            fact.limits.entry("python".to_owned()).or_insert(reason);
        }
        if is_gone(&fact) || look.hurried && !is_first {
            return None;
        }
        let is_whole = look.whole
            && attached.is_settled()
            && !PARTS.iter().any(|part| fact.limits.contains_key(*part));
        count_samples(pid, &mut fact, gils);
        attached.add_limits(&mut fact);
        keep_names(self.look.fact.as_deref(), &mut fact);
        self.set_look(fact, is_whole);
        self.look.fact.as_deref()
    }

    /// Takes over what a look has found.
    fn set_look(&mut self, fact: PythonFact, is_whole: bool) {
        let thresholds = fact.loops.iter().filter_map(|of| of.stall_threshold_ns);
        if let Some(lowest) = thresholds.min() {
            self.steps.set_threshold(lowest);
        }
        let read_ns = fact.read_ns;
        self.look.set(fact, read_ns, is_whole);
    }

    /// There is nothing to be found out about it.
    pub(super) fn is_settled(&self) -> bool {
        match &self.stage {
            Stage::Found(_) => false,
            Stage::Attached(attached) => !attached.gils.is_empty() && attached.walkable.is_some(),
            Stage::Refused => true,
        }
    }
}

/// Takes over how often the GILs of a look were seen held.
fn count_samples(pid: Pid, fact: &mut PythonFact, sampler: &GilSampler) {
    for gil in &mut fact.gils {
        let counts = sampler.counts(pid, gil.address);
        (gil.samples, gil.locked_samples) = (counts.samples, counts.locked);
    }
}
