//! How a watch begins: who is met, what is loaded, and what stands at the beginning of the first window.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Watch,
    newcomers::{Newcomers, watch_late_children},
    requests::tell_listeners,
};
use crate::{
    capture::{Filters, Store},
    cli::Share,
    event::{Event, Pid},
    model::{HttpMode, WatchInfo},
    procfs::{
        ProcessReader,
        clocks::{self, Clocks},
        now,
        tree::Tree,
    },
    session::{
        budget::Budget,
        intake::Intake,
        outcome::{Failure, code},
        passes::Passes,
        schedule::Schedule,
    },
    source::{
        live::{Live, Sizes},
        requests::Requests,
    },
    targets::{Selector, Targets},
};

/// What to watch.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Who else is wanted, now and later, and who is not.
    pub(crate) selector: Selector,
    /// Who was there when that was looked for.
    pub(crate) seen: Tree,
    /// Processes the user asked for; each was checked.
    pub(crate) targets: Vec<Pid>,
    pub(crate) follow_children: bool,
    /// Samples per second and CPU; 0: none.
    pub(crate) rate: u32,
    /// What the watch itself may take.
    pub(crate) budget_cpu: Share,
    pub(crate) budget_memory_bytes: u64,
    /// The user's threshold for stalls, ns.
    pub(crate) stall_threshold_ns: Option<u64>,
    /// Something is counted by probes.
    pub(crate) exact: bool,
    /// `None`: requests are not looked for.
    pub(crate) http: Option<HttpPlan>,
    /// Leave out command lines, context values, and paths outside Python's library.
    pub(crate) redact: bool,
}

/// How requests are looked for.
#[derive(Debug)]
pub(crate) struct HttpPlan {
    /// Whose values are kept.
    pub(crate) headers: Vec<String>,
    /// Somebody wants to see them, whatever that takes, and is told where that cannot be.
    pub(crate) is_asked_for: bool,
}

impl Watch {
    /// Sets everything up: when this returns, the watch runs. Interpreters are found before the
    /// hooks are in place, so that GIL waits are told apart from the first one on.
    /// What it is fed is also kept in `store`, where there is one.
    pub(crate) fn start(
        mut plan: Plan,
        mut targets: Targets,
        store: Option<Box<dyn Store>>,
    ) -> Result<Self, Failure> {
        let scanned_ns = clocks::monotonic_ns();
        let tree = Tree::scan()?;
        let clocks = Clocks::now();
        let (mut first_facts, threads) = meet_named(&plan, &mut targets, &tree, &clocks);
        let has_newcomers = plan.selector.may_want_more() || plan.selector.has_exclusions();
        let mut live = Live::load(Sizes {
            tells_execs: plan.selector.may_want_more(),
            requests: plan.http.is_some(),
            ..Sizes::for_threads(threads, plan.exact)
        })?;
        targets.watch(&mut live, plan.follow_children)?;
        targets.set_unwinds(&mut live);
        live.attach(plan.rate)?;
        if plan.follow_children {
            let selector = Some(&plan.selector);
            watch_late_children(&mut live, &mut targets, &plan.targets, selector)?;
        }
        live.seed()?;
        if plan.http.is_some() {
            tell_listeners(&mut live);
        }
        let clocks = Clocks::now();
        // Measuring begins here; there is nothing to tell yet.
        live.measure_run_time(clocks.monotonic_ns);
        let info = WatchInfo {
            version: env!("CARGO_PKG_VERSION").into(),
            start_ns: clocks.monotonic_ns,
            start_unix_ns: clocks.unix_ns,
            start_boottime_ns: clocks.boottime_ns,
            targets: plan.targets,
            stall_threshold_ns: plan.stall_threshold_ns,
            knows_causes: live.knows_causes(),
            place: crate::procfs::place(std::process::id()),
            http: match (&plan.http, live.no_requests()) {
                (None, _) => HttpMode::Off,
                (Some(_), None) => HttpMode::On,
                (Some(http), Some(reason)) => {
                    if http.is_asked_for {
                        log::warn!("no HTTP requests are seen: {reason}");
                    }
                    HttpMode::Unavailable(reason.to_owned())
                }
            },
        };
        let filters = Filters {
            follow_children: plan.follow_children,
            rate: plan.rate,
            redacted: plan.redact,
        };
        let newcomers = has_newcomers.then(|| Newcomers::new(plan.selector, &plan.seen));
        let mut watch = Self {
            follows: plan.follow_children,
            newcomers,
            excluded: Vec::new(),
            sums_only: false,
            duty: None,
            live,
            has_missed_requests: false,
            keeps_requests: plan.http.as_ref().is_some_and(|http| http.is_asked_for),
            requests: plan
                .http
                .filter(|_| info.http == HttpMode::On)
                .map(|http| Requests::new(http.headers)),
            intake: Intake::new(info, filters, store),
            targets,
            schedule: Schedule::new(plan.budget_cpu, plan.follow_children, tree, scanned_ns),
            passes: Passes::new(),
            rate: plan.rate,
            budget: Budget::new(
                plan.budget_cpu,
                plan.budget_memory_bytes,
                clocks.monotonic_ns,
                clocks::process_cpu_ns(),
            ),
            targets_seen_ns: 0,
            has_ended: false,
            collected_ns: 0,
            room_given_ns: clocks.monotonic_ns,
            came_ns: clocks.monotonic_ns,
            clocks,
            missing: BTreeMap::new(),
            notices: Vec::new(),
            damaged: 0,
            reads_failed: 0,
        };
        if let Some(Err(error)) = watch.recorded() {
            // It names the file, and says what is left.
            return Err(Failure::new(code::FAILURE, error.to_string()));
        }
        // Who began while all this was set up has not been told of.
        watch.schedule.search_all();
        watch.targets.step(clocks.monotonic_ns, &mut watch.live);
        // The first facts stand at the beginning of the first window, so that what is read as a
        // difference has its base.
        watch.read_first();
        let now_ns = clocks::monotonic_ns();
        let first = watch
            .targets
            .facts(watch.schedule.tree(), now_ns, &BTreeSet::new());
        first_facts.extend(first);
        watch.schedule.end();
        for fact in first_facts {
            watch.fact(fact);
        }
        Ok(watch)
    }
}

/// Takes in the processes that the user asked for, and those that are watched with them: what each is now, and how
/// many threads they have.
fn meet_named(
    plan: &Plan,
    targets: &mut Targets,
    tree: &Tree,
    clocks: &Clocks,
) -> (Vec<Event>, usize) {
    let mut first_facts = Vec::new();
    let mut threads = 0;
    let mut first = BTreeSet::new();
    for target in &plan.targets {
        let descendants = if plan.follow_children {
            tree.descendants(target.0)
        } else {
            BTreeSet::new()
        };
        for pid in std::iter::once(target.0).chain(descendants) {
            let is_child = pid != target.0;
            if is_child && plan.selector.excludes(Pid(pid)) {
                continue;
            }
            if !first.insert(pid) {
                targets.name(Pid(pid), !is_child);
                continue;
            }
            // What it is now, should it be gone when the watch begins.
            let read = ProcessReader::new(pid).read(clocks::monotonic_ns(), clocks, tree);
            if let Ok(fact) = read {
                first_facts.push(Event::Process(Box::new(fact)));
            }
            adopt(targets, Pid(pid), !is_child);
            threads += now::count_threads(Pid(pid));
        }
    }
    (first_facts, threads)
}

/// Takes in a process that is there when the watch begins. One that is not Python, or cannot be read, is
/// watched by the kernel alone.
fn adopt(targets: &mut Targets, pid: Pid, named: bool) {
    if let Err(error) = targets.adopt(pid, named) {
        log::debug!("process {pid}: {error}");
    }
}
