//! The interpreters of watched processes: found, found again after an exec, and looked into.

use std::collections::BTreeMap;

use concmon_ebpf::{Python as KernelPython, SampleHead};

use super::{allowance::Allowance, pace::Pace};
use crate::{
    cli::Options,
    decode::samples::RawSample,
    event::{Pid, PythonFact, PythonInfo, Sample, StepFact},
    procfs::clocks,
    python::{
        DetectError, ExactFutures, ExactTasks, GilSampler, Interpreter, NotExact, ScanOptions,
    },
    views::escape::escape,
};

/// How long a process that has just begun to run a program may take to show an interpreter
/// before it counts as something else, ns.
const SETTLE_NS: u64 = 3_000_000_000;
/// Between two tries to find out how the stacks of an interpreter can be walked, ns.
const VIEW_PAUSE_NS: u64 = 300_000_000;

#[derive(Debug)]
enum State {
    /// Not known yet, since this instant.
    Searching {
        since_ns: u64,
    },
    Found(Box<Found>),
    /// Not Python, or not readable.
    None,
}

#[derive(Debug)]
struct Found {
    interpreter: Interpreter,
    gils: Vec<u64>,
    /// When the program began to run under watch and when its GIL became known, ns; `None` when
    /// it was known from the start.
    late: Option<(u64, u64)>,
    began_ns: Option<u64>,
    pace: Pace,
    /// Why its stacks cannot be sampled.
    no_samples: Option<String>,
    /// Kernel programs know how to walk its stacks; else when to try again, ns.
    has_view: bool,
    next_view_ns: u64,
}

/// All interpreters of a watch.
#[derive(Debug)]
pub(super) struct Pythons {
    by_pid: BTreeMap<Pid, State>,
    options: ScanOptions,
    sampler: GilSampler,
    /// Between two looks at one interpreter at least, ns.
    look_pause_ns: u64,
    allowance: Allowance,
}

impl Pythons {
    /// No process yet.
    pub(super) fn new(options: &Options) -> Self {
        Self {
            by_pid: BTreeMap::new(),
            options: ScanOptions {
                context_vars: options.context_vars.clone(),
                ..ScanOptions::default()
            },
            sampler: GilSampler::default(),
            look_pause_ns: 0,
            allowance: Allowance::new(options.watching.budget_cpu),
        }
    }

    /// From now on, looks are at least so far apart, and read so many tasks at most.
    pub(super) fn shed(&mut self, look_pause_ns: u64, tasks: usize) {
        self.look_pause_ns = look_pause_ns;
        self.options.tasks = tasks;
    }

    /// Takes in a process that exists before the watch begins, and says where its GILs are.
    pub(super) fn adopt(&mut self, pid: Pid) -> Result<Vec<u64>, DetectError> {
        match self.by_pid.get(&pid) {
            Some(State::Found(python)) => return Ok(python.gils.clone()),
            Some(State::Searching { .. }) => return Ok(Vec::new()),
            Some(State::None) | None => {}
        }
        match Interpreter::attach(pid) {
            Ok(interpreter) => {
                warn_if_unsupported(pid, interpreter.info());
                let gils = addresses(&interpreter);
                sample(&mut self.sampler, pid, &gils);
                let found = Found {
                    interpreter,
                    gils: gils.clone(),
                    late: None,
                    began_ns: None,
                    pace: Pace::default(),
                    no_samples: None,
                    has_view: false,
                    next_view_ns: 0,
                };
                self.by_pid.insert(pid, State::Found(Box::new(found)));
                Ok(gils)
            }
            Err(DetectError::Starting) => {
                self.search(pid, 0);
                Ok(Vec::new())
            }
            Err(error) => {
                self.by_pid.insert(pid, State::None);
                Err(error)
            }
        }
    }

    /// A process has been forked or runs another program: what it runs is to be found out.
    pub(super) fn search(&mut self, pid: Pid, now_ns: u64) {
        self.sampler.forget(pid);
        self.by_pid
            .insert(pid, State::Searching { since_ns: now_ns });
    }

    /// Looks for the interpreters and GILs that are not known yet; `found` is told of each GIL
    /// address that has become known.
    pub(super) fn step(&mut self, now_ns: u64, mut found: impl FnMut(Pid, &[u64])) {
        for (pid, state) in &mut self.by_pid {
            if let State::Searching { since_ns } = *state {
                match Interpreter::attach(*pid) {
                    Ok(interpreter) => {
                        warn_if_unsupported(*pid, interpreter.info());
                        let began_ns = (since_ns != 0).then_some(since_ns);
                        *state = State::Found(Box::new(Found {
                            interpreter,
                            gils: Vec::new(),
                            late: None,
                            began_ns,
                            pace: Pace::default(),
                            no_samples: None,
                            has_view: false,
                            next_view_ns: 0,
                        }));
                    }
                    Err(DetectError::Gone) => *state = State::None,
                    // Between exec and the first instruction of the interpreter, a process may
                    // look like anything.
                    Err(_) if now_ns.saturating_sub(since_ns) > SETTLE_NS => *state = State::None,
                    Err(_) => {}
                }
            }
            if let State::Found(python) = state
                && python.gils.is_empty()
            {
                python.learn_gils(now_ns);
                if !python.gils.is_empty() {
                    sample(&mut self.sampler, *pid, &python.gils);
                    found(*pid, &python.gils);
                }
            }
        }
    }

    /// The looks of a window begin. Gives the order in which they are to be made: who was not looked
    /// at for longest comes first, for there may not be time for all.
    pub(super) fn begin_window(&mut self, now_ns: u64, mut pids: Vec<Pid>) -> Vec<Pid> {
        self.allowance.begin_window(now_ns);
        pids.sort_by_key(|pid| match self.by_pid.get(pid) {
            Some(State::Found(python)) => python.pace.last_ns(),
            _ => 0,
        });
        pids
    }

    /// The watch ends: the next window is the last.
    pub(super) fn begin_last(&mut self) {
        self.allowance.begin_last();
    }

    /// What was left out in the last window for want of time, in words.
    pub(super) fn left_out(&self) -> Option<String> {
        self.allowance.words()
    }

    /// Looks into the interpreter of `pid`, where there is one, and unless looks take so long that
    /// this one is left out. It ends where its time does.
    pub(super) fn look(&mut self, pid: Pid, now_ns: u64) -> Option<PythonFact> {
        let State::Found(python) = self.by_pid.get_mut(&pid)? else {
            return None;
        };
        if !python.pace.is_due(now_ns, self.look_pause_ns) {
            return None;
        }
        let deadline = self.allowance.deadline()?;
        let looked = &mut python.interpreter;
        let mut fact = looked.scan_until(now_ns, &self.options, &|| deadline.over());
        let took_ns = deadline.took_ns();
        self.allowance.took(took_ns);
        if python.pace.last_ns() != 0 && deadline.was_hurried() {
            return None;
        }
        if let Some(reason) = python.pace.took(now_ns, took_ns) {
            fact.limits.entry("python".to_owned()).or_insert(reason);
        }
        for gil in &mut fact.gils {
            let counts = self.sampler.counts(pid, gil.address);
            (gil.samples, gil.locked_samples) = (counts.samples, counts.locked);
        }
        if let Some(reason) = &python.no_samples {
            fact.limits.insert("samples".to_owned(), reason.clone());
        }
        if fact.info.free_threaded {
            return Some(fact);
        }
        if python.gils.is_empty() {
            let reason = "the address of its GIL is not known; waits for it count as lock";
            fact.limits
                .insert("blocked_ns.gil".to_owned(), reason.to_owned());
        } else if let Some((began_ns, known_ns)) = python.late {
            let reason = format!(
                "GIL waits are told from lock waits since {} ms after the program began",
                known_ns.saturating_sub(began_ns) / 1_000_000
            );
            fact.limits.insert("blocked_ns".to_owned(), reason);
        }
        Some(fact)
    }

    /// Interpreters whose stacks kernel programs cannot walk yet, and that it is time to try.
    pub(super) fn without_view(&mut self, now_ns: u64) -> Vec<Pid> {
        let mut due = Vec::new();
        for (pid, state) in &mut self.by_pid {
            if let State::Found(python) = state
                && !python.has_view
                && now_ns >= python.next_view_ns
            {
                python.next_view_ns = now_ns + VIEW_PAUSE_NS;
                due.push(*pid);
            }
        }
        due
    }

    /// What kernel programs need to walk the stacks of `pid`; `None`: it has no interpreter, or, as
    /// a limit of the next look says, they cannot.
    pub(super) fn kernel_view(&mut self, pid: Pid, long_ns: u64) -> Option<KernelPython> {
        let State::Found(python) = self.by_pid.get_mut(&pid)? else {
            return None;
        };
        match python.interpreter.unwind_config(long_ns) {
            Ok(view) => {
                python.no_samples = None;
                python.has_view = true;
                Some(view)
            }
            Err(reason) => {
                python.no_samples = Some(reason);
                None
            }
        }
    }

    /// Turns samples of one process into events.
    pub(super) fn resolve(&mut self, pid: Pid, raw: &[RawSample]) -> Vec<Sample> {
        match self.by_pid.get_mut(&pid) {
            Some(State::Found(python)) => python.interpreter.resolve(raw),
            _ => Vec::new(),
        }
    }

    /// Looks at the step that a sample has shown, if it goes on.
    pub(super) fn step_of(&mut self, head: &SampleHead) -> Option<StepFact> {
        let State::Found(python) = self.by_pid.get_mut(&Pid(head.tgid))? else {
            return None;
        };
        let options = &self.options;
        python
            .interpreter
            .step(clocks::monotonic_ns(), head, options)
    }

    /// The processes with an interpreter.
    pub(super) fn found(&self) -> impl Iterator<Item = Pid> {
        let found = self.by_pid.iter();
        found.filter_map(|(pid, state)| matches!(state, State::Found(_)).then_some(*pid))
    }

    /// What it takes to count the tasks of `pid` one by one.
    pub(super) fn exact_tasks(&self, pid: Pid) -> Result<ExactTasks, NotExact> {
        match self.by_pid.get(&pid) {
            Some(State::Found(python)) => python.interpreter.exact_tasks(),
            _ => Err(NotExact::NotYet),
        }
    }

    /// What it takes to count what fails in the thread pools of `pid`.
    pub(super) fn exact_futures(&self, pid: Pid) -> Result<ExactFutures, NotExact> {
        match self.by_pid.get(&pid) {
            Some(State::Found(python)) => python.interpreter.exact_futures(),
            _ => Err(NotExact::NotYet),
        }
    }

    pub(super) fn forget(&mut self, pid: Pid) {
        self.by_pid.remove(&pid);
        self.sampler.forget(pid);
    }
}

impl Found {
    fn learn_gils(&mut self, now_ns: u64) {
        self.gils = addresses(&self.interpreter);
        if !self.gils.is_empty() {
            self.late = self.began_ns.map(|began_ns| (began_ns, now_ns));
        }
    }
}

/// Without samples there is no estimate of how much a GIL is held, and the report says so.
fn sample(sampler: &mut GilSampler, pid: Pid, gils: &[u64]) {
    if let Err(error) = sampler.watch(pid, gils) {
        log::debug!("process {pid}: its GIL is not sampled: {error}");
    }
}

fn warn_if_unsupported(pid: Pid, info: &PythonInfo) {
    if let Some(message) = unsupported(pid, info) {
        log::warn!("{message}; what the kernel knows is complete");
    }
}

/// That a process cannot be read, and why; `None` when it can.
pub(super) fn unsupported(pid: Pid, info: &PythonInfo) -> Option<String> {
    let version = info.version.as_deref().unwrap_or("of unknown version");
    let reason = info.reason.as_deref().unwrap_or("no reason known");
    (!info.supported).then(|| {
        format!(
            "process {pid}: {} {} cannot be read ({})",
            info.implementation,
            escape(version),
            escape(reason)
        )
    })
}

fn addresses(interpreter: &Interpreter) -> Vec<u64> {
    interpreter
        .gils()
        .map(|gils| gils.iter().map(|gil| gil.address).collect())
        .unwrap_or_default()
}
