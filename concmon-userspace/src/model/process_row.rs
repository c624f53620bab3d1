//! The row of a process.

use std::collections::BTreeMap;

use super::HttpMode;
use super::folded::Rows;
use super::gil::GilContext;
use super::interpreter::unsupported;
use super::loops::LoopContext;
use super::process::Process;
use super::thread::RowContext;
use super::title::Identity;
use super::window::{Clock, Scope, limit};
use crate::event::{PlaceFact, ProcessFact, PythonFact, Tid, own_frame};
use crate::kernel::features::Feature;
use crate::schema::{self, Exited, Limit};

const REQUESTS_SHED: &str = "requests were left out for a time, to stay inside the budget";

/// What a process's row needs to know beside the process itself.
pub(crate) struct ProcessContext<'a> {
    pub(crate) scope: Scope,
    pub(crate) clock: &'a Clock,
    /// Records that never arrived in `scope`.
    pub(crate) lost: u64,
    /// The user's own threshold for stalls, ns.
    pub(crate) stall_threshold_ns: Option<u64>,
    /// Blocked time is told apart by cause.
    pub(crate) knows_causes: bool,
    pub(crate) http: &'a HttpMode,
    /// Requests were left out in `scope`, to stay inside the budget.
    pub(crate) sheds_requests: bool,
    /// The instant of the tick, ns.
    pub(crate) to_ns: u64,
    /// Its parent, where that is watched.
    pub(crate) parent: Option<&'a Process>,
    /// Whole processes that are in this one's `ended`.
    pub(crate) retired_totals: Rows,
    /// The name of its group.
    pub(crate) group: Option<&'a str>,
}

impl Process {
    /// The latest reading of `/proc`, unless another program has taken its place since.
    pub(super) fn program(&self) -> Option<&ProcessFact> {
        let fact = self.fact.as_deref();
        fact.filter(|fact| fact.read_ns >= self.exec_ns)
    }

    pub(super) fn identity(&self) -> Identity<'_> {
        Identity {
            fact: self.program(),
            name: &self.name,
            is_python: self.look.is_some(),
            process: self.multiprocessing.as_ref(),
        }
    }

    /// When it started, ns after 1970; `None` when that was not seen.
    pub(crate) fn start_unix_ns(&self, clock: &Clock) -> Option<u64> {
        match (self.start, &self.fact) {
            (Some((start, true)), _) => Some(clock.unix_of_boottime(start)),
            (_, Some(fact)) => Some(fact.start_unix_ns),
            (Some((start, false)), None) => Some(clock.unix_of_boottime(start)),
            (None, None) => None,
        }
    }

    /// The row of the process.
    pub(crate) fn row(&self, context: &ProcessContext<'_>) -> schema::Process {
        let ProcessContext { scope, clock, .. } = *context;
        let totals = self.totals(scope);
        let cpu_ns = totals.columns.cpu_ns();
        let watched_ns = self.watched_ns(scope);
        let gauges = self.gauges();
        let fact = self.fact.as_deref();
        let program = self.program();
        let look = self.look.as_deref();

        let mut ended = self.folded.over(scope);
        if scope == Scope::Whole {
            ended.add(&self.rows);
            ended.add(&self.inherited);
            ended.add(&context.retired_totals);
        }
        let mut threads = Vec::new();
        let thread_context = RowContext {
            scope,
            clock,
            lost: context.lost,
            look,
        };
        for thread in self.threads.iter().filter(|thread| thread.accounted()) {
            match scope {
                Scope::Window if thread.retired => {}
                Scope::Whole if thread.folded => ended.add_thread(thread),
                _ => threads.push(schema::Thread {
                    code: self.loop_times.code(thread.key.tid, scope),
                    ..thread.row(&thread_context)
                }),
            }
        }

        let gc = self.collector.row(scope).map(|gc| schema::Gc {
            collecting_ns: self.loop_times.collecting_ns(cpu_ns, scope),
            ..gc
        });
        let gc_is_sampled = gc.as_ref().is_none_or(|gc| gc.collecting_ns.is_some());
        let gil = self.gil_row(context, totals.columns.gil_ns(), look);
        let mut limits = self.limits(scope, context.knows_causes);
        if !gc_is_sampled {
            limits.push(limit("gc.collecting_ns", "nothing was sampled"));
        }
        let identity = self.identity();
        let title = identity.title();
        if title.is_none() {
            limits.push(limit("title", "its name is not known"));
        }
        if context.group.is_none() {
            let reason = "whether it is a service by itself is not known yet";
            limits.push(limit("group", reason));
        }
        let throttled = self.throttling.row(scope);
        if throttled
            .as_ref()
            .is_some_and(|of| of.throttled_ns.is_none())
        {
            let reason = "it was not read in this window and the one before: it was at rest";
            limits.extend(["throttled_ns", "throttled_count"].map(|field| limit(field, reason)));
        }
        let parent = context.parent.map(Self::identity);
        let role = identity.role(parent.as_ref());
        if let Err(reason) = role {
            limits.push(limit("role", reason));
        }
        let gil = match gil {
            Ok(gil) => Some(gil),
            Err(reason) => {
                limits.push(limit("gil", reason));
                None
            }
        };
        let http = match context.http {
            HttpMode::On => Some(self.http_row(context, look)),
            HttpMode::Unavailable(reason) => {
                limits.push(limit("http", reason.clone()));
                None
            }
            HttpMode::Off => None,
        };
        schema::Process {
            pid: self.pid.0,
            ppid: fact.map(|fact| fact.ppid).or(self.fork_ppid).unwrap_or(0),
            start_unix_ns: self.start_unix_ns(clock).unwrap_or(0),
            name: self.name.clone(),
            cmdline: program.map_or_else(Vec::new, |fact| fact.cmdline.clone()),
            entry: program.and_then(|fact| fact.entry.clone()),
            title,
            group: context.group.map(str::to_owned),
            role: role.ok(),
            place: fact.map(|fact| place(&fact.place)).unwrap_or_default(),
            exited: self.exited,
            python: look.map(|look| schema::Python::of(&look.info)),
            cpu_ns,
            cpu_percent: match watched_ns {
                0 => 0.0,
                watched_ns => cpu_ns as f64 * 100.0 / watched_ns as f64,
            },
            rss_bytes: gauges.rss_bytes,
            vms_bytes: gauges.vms_bytes,
            threads_count: gauges.threads,
            children_count: gauges.children,
            descendants_count: gauges.descendants,
            zombies_count: gauges.zombies,
            fds_count: gauges.fds,
            fds_limit: gauges.fds_limit,
            throttled,
            context_switches: totals.switches,
            ended: ended.report(),
            gc,
            gil,
            threads,
            loops: self.loop_rows(context),
            deadlocks: self.deadlocks.clone(),
            executors: self
                .executors
                .rows(look, clock, |queue| self.pools.counts(queue, scope)),
            exact: self.exact(scope, clock),
            peers: http.as_ref().map(|_| self.http.peers.report(scope)),
            http,
            findings: Vec::new(),
            limits,
        }
    }

    pub(super) fn loop_rows(&self, context: &ProcessContext<'_>) -> Vec<schema::Loop> {
        self.loops.rows(&LoopContext {
            scope: context.scope,
            look: self.look.as_deref(),
            look_holds_ns: self.look_holds_ns,
            clock: context.clock,
            threshold_ns: context.stall_threshold_ns,
            loop_times: &self.loop_times,
            http: &self.http,
        })
    }

    /// What probes have counted; `None`: nothing was asked for.
    fn exact(&self, scope: Scope, clock: &Clock) -> Option<schema::Exact> {
        let pools = self.pools.row(scope, clock);
        let tasks = self.loop_times.exact(scope, clock);
        match (tasks, &pools) {
            (None, None) => None,
            (Some(exact), _) => Some(schema::Exact { pools, ..exact }),
            (None, Some(_)) => Some(schema::Exact {
                since_unix_ns: None,
                tasks: None,
                pools,
                limits: ["since_unix_ns", "tasks"]
                    .map(|field| limit(field, "tasks were not asked for (--exact tasks)"))
                    .into(),
            }),
        }
    }

    /// Its GIL, for which accounts say that its threads waited so long, ns; else why there is none.
    pub(super) fn gil_row(
        &self,
        context: &ProcessContext<'_>,
        ledgers_ns: u64,
        look: Option<&PythonFact>,
    ) -> Result<schema::Gil, String> {
        let gil = self.gil.row(&GilContext {
            scope: context.scope,
            look,
            lost: context.lost,
            knows_causes: context.knows_causes,
            ledgers_ns,
        })?;
        let hog = self.hog(&gil.pairs);
        Ok(schema::Gil { hog, ..gil })
    }

    /// Its requests.
    pub(super) fn http_row(
        &self,
        context: &ProcessContext<'_>,
        look: Option<&PythonFact>,
    ) -> schema::Http {
        let mut http = self.http.row(context.scope, context.to_ns, look);
        if context.sheds_requests {
            http.limits.push(limit("requests", REQUESTS_SHED));
        }
        http
    }

    /// Whom others waited for most, and where that was.
    fn hog(&self, pairs: &[schema::GilPair]) -> Option<schema::GilHog> {
        let mut sums: BTreeMap<u32, u64> = BTreeMap::new();
        for pair in pairs {
            if let Some(tid) = pair.holder_tid {
                let sum = sums.entry(tid).or_default();
                *sum = sum.saturating_add(pair.wait_ns);
            }
        }
        let (tid, wait_ns) = sums.into_iter().max_by_key(|(_, ns)| *ns)?;
        let frame = self.loop_times.ran_most(Tid(tid)).or_else(|| {
            let look = self.look.as_deref()?;
            let gil = look.gils.first().filter(|gil| gil.locked)?;
            let mut threads = look.threads.iter();
            let thread =
                threads.find(|seen| seen.tid.0 == tid && gil.last_holder == Some(seen.tid))?;
            let frame = own_frame(&thread.stack, |frame| &frame.file);
            frame.or(thread.stack.first()).cloned()
        });
        Some(schema::GilHog {
            tid,
            wait_ns,
            frame: frame.as_ref().map(super::rows::frame),
        })
    }

    fn limits(&self, scope: Scope, knows_causes: bool) -> Vec<Limit> {
        let mut limits = Vec::new();
        if !knows_causes {
            let reason = format!(
                "{}: all but disk and stopped is in other",
                Feature::Causes.without()
            );
            for cause in ["gil", "lock", "poll", "sleep", "io", "child"] {
                limits.push(limit(format!("blocked_ns.{cause}"), reason.clone()));
            }
            for field in ["idle_ns", "busy_ns", "utilization"] {
                limits.push(limit(format!("loops.{field}"), reason.clone()));
            }
        }
        self.proc_limits(&mut limits);
        self.python_limits(&mut limits);

        let mut say = |said: bool, field: &'static str, reason: String| {
            if said {
                limits.push(limit(field, reason));
            }
        };
        let unseen = matches!(
            self.exited,
            Some(Exited {
                code: None,
                signal: None
            })
        );
        say(unseen, "exited", "how it ended was not seen".into());
        let unaccounted = self.unaccounted;
        say(
            unaccounted > 0 && !self.ended(),
            "threads",
            format!("{unaccounted} of its threads are not accounted for by the kernel programs"),
        );
        let folded = self.folded.over(scope).totals.columns.wall_ns() > 0;
        say(
            folded,
            "threads",
            "the kernel programs had no room for all ended threads: their time is in `ended`"
                .into(),
        );
        let ended = self.folded.unaccounted(scope);
        say(
            ended > 0,
            "ended.ledger",
            format!("{ended} ended threads were not accounted for by the kernel programs"),
        );
        let stopped = self.loops.left_out();
        say(
            stopped > 0 && scope == Scope::Whole,
            "loops",
            format!("{stopped} loops that stopped are left out"),
        );
        say(
            self.tasks_cut,
            "loops.tasks",
            "not all tasks of the ended process were kept".into(),
        );
        limits
    }

    /// What `/proc` does not tell.
    fn proc_limits(&self, limits: &mut Vec<Limit>) {
        let gauges = self.gauges();
        let missing = match (&self.fact, self.ended()) {
            (None, true) => "it ended before /proc was read",
            (None, false) => "/proc was not read yet",
            (Some(_), _) => "could not be read from /proc",
        };
        for (field, null) in [
            ("rss_bytes", gauges.rss_bytes.is_none()),
            ("vms_bytes", gauges.vms_bytes.is_none()),
            ("threads_count", gauges.threads.is_none()),
            ("children_count", gauges.children.is_none()),
            ("descendants_count", gauges.descendants.is_none()),
            ("zombies_count", gauges.zombies.is_none()),
            ("fds_count", gauges.fds.is_none()),
            ("fds_limit", gauges.fds_limit.is_none()),
            ("ppid", self.fact.is_none() && self.fork_ppid.is_none()),
            ("start_unix_ns", self.fact.is_none() && self.start.is_none()),
            ("name", self.name.is_empty()),
            ("cmdline", self.fact.is_none()),
        ] {
            if null {
                limits.push(limit(field, missing));
            }
        }
        let replaced = self
            .fact
            .as_ref()
            .is_some_and(|fact| fact.read_ns < self.exec_ns);
        let entry = match &self.fact {
            _ if replaced => Some("the program was replaced after /proc was read"),
            None => Some(missing),
            Some(fact) if fact.entry.is_some() => None,
            Some(_) if self.look.is_some() => {
                Some("the command line names neither a script nor a module")
            }
            Some(_) => Some("not a Python command line"),
        };
        limits.extend(entry.map(|reason| limit("entry", reason)));
        if replaced {
            limits.push(limit(
                "cmdline",
                "the program was replaced after /proc was read",
            ));
        }
    }

    /// What the interpreter does not tell.
    fn python_limits(&self, limits: &mut Vec<Limit>) {
        let Some(look) = &self.look else {
            limits.push(limit(
                "python",
                "no Python interpreter was seen in this process",
            ));
            return;
        };
        if !look.info.supported {
            limits.push(limit("loops", unsupported(look).to_owned()));
        }
        if self.collector.row(Scope::Whole).is_none() && !look.limits.contains_key("gc") {
            let reason = match look.info.supported {
                true => "could not be read",
                false => unsupported(look),
            };
            limits.push(limit("gc", reason.to_owned()));
        }
        let said = look.limits.iter();
        limits.extend(said.map(|(field, reason)| limit(field.clone(), reason.clone())));
    }
}

/// Where a process runs, as it is told.
pub(super) fn place(fact: &PlaceFact) -> schema::Place {
    schema::Place {
        pid_inside: fact.own_pid,
        container_id: fact.container.clone(),
        unit: fact.unit.clone(),
        k8s: fact.kubernetes.as_ref().map(|of| schema::Kubernetes {
            namespace: of.namespace.clone(),
            pod: of.pod.clone(),
            container: of.container.clone(),
            uid: of.uid.clone(),
        }),
        service_version: fact.version.clone(),
        deployment_environment: fact.environment.clone(),
    }
}
