//! From the sums of services to samples. What must be remembered between two windows is here: when a service
//! had a process last, which rules have held in it, and which series it has.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::http::Routes;
use super::of::Of;
use super::{Name, Sample, Value};
use crate::schema::{
    Blocked, ExecutorKind, Group, Kubernetes, LedgerSum, Process, ProcessRole, QuotaReading,
    Snapshot,
};

/// A service goes so long after its last process, ns.
const GRACE_NS: u64 = 300_000_000_000;
/// How far back it goes what of the time of its threads was looked at, ns.
const COVERED_NS: u64 = 60_000_000_000;
/// Series of one service, at most; a histogram is as many as it is in the text formats.
pub(in crate::agent) const MAX_SERIES: usize = 120;
/// The same of its HTTP requests, which have room of their own.
pub(in crate::agent) const MAX_HTTP_SERIES: usize = 380;

/// What is remembered of services.
#[derive(Debug, Default)]
pub(in crate::agent) struct Services {
    known: BTreeMap<String, Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// When it had a process last, ns.
    lived_ns: u64,
    /// Rules that have held in it.
    rules: BTreeSet<&'static str>,
    /// Its series: those that it has stay when others come.
    series: BTreeSet<(Name, Vec<String>)>,
    /// How many these are in the text formats, and those of HTTP requests.
    count: usize,
    http_count: usize,
    /// Routes that are told apart.
    routes: Routes,
    /// Peers that are told apart.
    peers: BTreeSet<String>,
    /// Series that found no room.
    refused: BTreeSet<(Name, Vec<String>)>,
    /// What the CPU quotas of its cgroups took, ns; `None`: it has had none.
    throttled_ns: Option<u64>,
    /// Those cgroups, by name.
    cgroups: BTreeMap<String, Quota>,
    /// The last readings of how long its threads had lived and were not looked at, with their instants, ns.
    covered: VecDeque<(u64, u64, u64)>,
    /// How many loops hung when somebody looked last.
    hung: Option<Value>,
}

#[derive(Debug)]
struct Quota {
    /// What it had taken at most when it was read, ns.
    taken_ns: u64,
    /// When a process of the service was in it last, ns.
    seen_ns: u64,
}

/// What a window comes to.
#[derive(Debug, Default)]
pub(in crate::agent) struct Collected {
    pub(in crate::agent) samples: Vec<Sample>,
    /// Services that have had no process for long: their sums are needed no more.
    pub(in crate::agent) gone: Vec<String>,
    /// Services that are told.
    pub(in crate::agent) services: usize,
    /// Series that are left out.
    pub(in crate::agent) refused: usize,
}

impl Services {
    /// `window` is the last one, `sums` those of its services since the watch began, `now_ns` its end.
    pub(in crate::agent) fn collect(
        &mut self,
        window: &Snapshot,
        sums: &[Group],
        now_ns: u64,
    ) -> Collected {
        let mut collected = Collected::default();
        let mut processes: BTreeMap<&str, Vec<&Process>> = BTreeMap::new();
        for process in &window.processes {
            if let Some(group) = &process.group {
                processes.entry(group).or_default().push(process);
            }
        }
        for group in sums {
            let known = self.known.entry(group.name.clone()).or_default();
            let row = window.groups.iter().find(|row| row.name == group.name);
            // Short processes may all be over at the ends of windows.
            if group.processes_count > 0 || row.is_some() || known.lived_ns == 0 {
                known.lived_ns = now_ns;
            }
            if now_ns.saturating_sub(known.lived_ns) >= GRACE_NS {
                collected.gone.push(group.name.clone());
                continue;
            }
            let holding = row.map(|row| &row.findings[..]).unwrap_or_default();
            known.rules.extend(holding.iter().map(|held| held.rule));
            let mut of = Of {
                group,
                samples: Vec::new(),
            };
            let mut members = processes.remove(group.name.as_str()).unwrap_or_default();
            let throttled_ns = known.throttled(&members, now_ns);
            members.retain(|process| process.exited.is_none());
            of.all(&members);
            of.http(&mut known.routes);
            of.peers(&mut known.peers);
            if let Some(ns) = throttled_ns {
                of.time(Name::CpuThrottled, &[], ns);
            }
            if let Some(share) = known.covered(&group.ledger, now_ns) {
                of.number(Name::AgentCoverage, &["time"], share);
            }
            known.hold_hung(&mut of.samples, window.is_blind());
            for rule in &known.rules {
                let held = holding.iter().find(|held| held.rule == *rule);
                let count = held.map_or(0, |held| held.processes_count);
                of.number(Name::FindingActive, &[rule], count as f64);
            }
            collected.services += 1;
            let samples = of.samples.into_iter();
            let samples = samples.filter(|sample| known.admits(sample));
            collected.samples.extend(samples);
            collected.refused += known.refused.len();
        }
        self.known
            .retain(|name, _| sums.iter().any(|of| of.name == *name));
        collected
    }
}

impl Known {
    /// Adds what quotas have taken since they were read last, by whichever process: `members` may share a cgroup, and
    /// have slept through windows.
    fn throttled(&mut self, members: &[&Process], now_ns: u64) -> Option<u64> {
        let mut latest: BTreeMap<&str, &QuotaReading> = BTreeMap::new();
        for throttled in members.iter().filter_map(|of| of.throttled.as_ref()) {
            self.throttled_ns.get_or_insert_default();
            for reading in &throttled.readings {
                let known = latest.entry(&reading.cgroup).or_insert(reading);
                if reading.throttled_ns > known.throttled_ns {
                    *known = reading;
                }
            }
            if let Some(quota) = self.cgroups.get_mut(&throttled.cpu_quota.cgroup) {
                quota.seen_ns = now_ns;
            }
        }
        for (cgroup, reading) in latest {
            let now = Quota {
                taken_ns: reading.throttled_ns,
                seen_ns: now_ns,
            };
            let grown_ns = match self.cgroups.insert(cgroup.to_owned(), now) {
                None => reading.window_ns.unwrap_or(0),
                // Less: it is another one of that name.
                Some(known) => reading
                    .throttled_ns
                    .checked_sub(known.taken_ns)
                    .unwrap_or(reading.throttled_ns),
            };
            let sum = self.throttled_ns.get_or_insert_default();
            *sum = sum.saturating_add(grown_ns);
        }
        self.cgroups
            .retain(|_, quota| now_ns.saturating_sub(quota.seen_ns) < GRACE_NS);
        self.throttled_ns
    }

    /// Where nobody could see whether loops hang, what was seen last goes on: a series with gaps would be one that ends.
    fn hold_hung(&mut self, samples: &mut Vec<Sample>, is_blind: bool) {
        if !is_blind {
            let hung = samples.iter().find(|sample| sample.of == Name::LoopHung);
            self.hung = hung.map(|sample| sample.value.clone());
            return;
        }
        samples.retain_mut(|sample| match (sample.of, &self.hung) {
            (Name::LoopHung, None) => false,
            (Name::LoopHung, Some(hung)) => {
                sample.value = hung.clone();
                true
            }
            _ => true,
        });
    }

    /// The share of the time of its threads that was looked at lately; `None`: there was none.
    fn covered(&mut self, ledger: &LedgerSum, now_ns: u64) -> Option<f64> {
        let covered = &mut self.covered;
        if covered.is_empty() {
            covered.push_back((now_ns, 0, 0));
        }
        covered.push_back((now_ns, ledger.wall_ns, ledger.unobserved_ns));
        while covered.len() > 2 && now_ns.saturating_sub(covered[1].0) >= COVERED_NS {
            covered.pop_front();
        }
        let (_, wall_ns, unobserved_ns) = *covered.front()?;
        let grown_ns = ledger.wall_ns.saturating_sub(wall_ns);
        let unseen_ns = ledger.unobserved_ns.saturating_sub(unobserved_ns);
        (grown_ns > 0).then(|| 1.0 - unseen_ns.min(grown_ns) as f64 / grown_ns as f64)
    }

    /// Whether a series is one of those that there is room for.
    fn admits(&mut self, sample: &Sample) -> bool {
        let mut key = (sample.of, sample.labels.clone());
        // What it tells changes, and a service has one at a time.
        if matches!(sample.of.family().kind, super::Kind::Info) {
            key.1.truncate(1);
        }
        if self.series.contains(&key) {
            return true;
        }
        let width = width(sample);
        let (count, most) = match sample.of.is_of_http() {
            true => (&mut self.http_count, MAX_HTTP_SERIES),
            false => (&mut self.count, MAX_SERIES),
        };
        if *count + width > most {
            if self.refused.len() < MAX_SERIES {
                self.refused.insert(key);
            }
            return false;
        }
        *count += width;
        self.series.insert(key);
        true
    }
}

/// Series of the text formats that a sample is: with its buckets, that for all, sum and count.
pub(super) fn width(sample: &Sample) -> usize {
    match sample.of.family().kind {
        super::Kind::Histogram(buckets) => buckets.bounds_ns.len() + 3,
        _ => 1,
    }
}

impl Of<'_> {
    /// `members`: its processes that live.
    fn all(&mut self, members: &[&Process]) {
        let group = self.group;
        let main = members.iter().find(|of| of.role == Some(ProcessRole::Main));
        let place = main.or(members.first()).map(|of| &of.place);
        let text = |of: Option<&String>| of.cloned().unwrap_or_default();
        let container = text(place.and_then(|place| place.container_id.as_ref()));
        let unit = text(place.and_then(|place| place.unit.as_ref()));
        let pod = place.and_then(|place| place.k8s.as_ref());
        let of_pod = |field: fn(&Kubernetes) -> &str| pod.map(field).unwrap_or_default();
        let python = main.or(members.first()).and_then(|of| of.python.as_ref());
        let labels = [
            group.source.name(),
            &container,
            &unit,
            of_pod(|pod| &pod.namespace),
            of_pod(|pod| &pod.pod),
            of_pod(|pod| pod.container.as_deref().unwrap_or_default()),
            of_pod(|pod| &pod.uid),
            &text(place.and_then(|place| place.service_version.as_ref())),
            &text(place.and_then(|place| place.deployment_environment.as_ref())),
            // As OpenTelemetry calls it: `cpython`.
            &python
                .map(|of| of.implementation.to_lowercase())
                .unwrap_or_default(),
            &text(python.and_then(|of| of.version.as_ref())),
        ];
        self.number(Name::GroupInfo, &labels, 1.0);
        self.time(Name::CpuTime, &["user"], group.cpu_user_ns);
        self.time(Name::CpuTime, &["system"], group.cpu_system_ns);
        for (of, value) in [
            (Name::Memory, group.rss_bytes),
            (Name::Threads, group.threads_count),
            (Name::OpenFds, group.fds_count),
        ] {
            // Of none it is nothing; of living ones it may not be known.
            match (value, group.processes_count) {
                (None, 1..) => {}
                (value, _) => self.number(of, &[], value.unwrap_or(0) as f64),
            }
        }
        self.number(Name::Processes, &["main"], group.roles.main as f64);
        self.number(Name::Processes, &["worker"], group.roles.worker as f64);
        self.number(Name::ProcessStarts, &[], group.processes_started as f64);
        for (outcome, count) in [
            ("ok", group.exits.ok),
            ("error", group.exits.error),
            ("signal", group.exits.signal),
        ] {
            self.number(Name::ProcessExits, &[outcome], count as f64);
        }
        if group.exits.unknown > 0 {
            self.number(Name::ProcessExits, &["unknown"], group.exits.unknown as f64);
        }
        self.number(Name::ThreadStarts, &[], group.threads_started as f64);
        let switches = group.context_switches;
        self.number(Name::Switches, &["voluntary"], switches.voluntary as f64);
        self.number(
            Name::Switches,
            &["involuntary"],
            switches.involuntary as f64,
        );
        if let Some(gil) = &group.gil {
            self.time(Name::GilHeld, &[], gil.held_ns);
            self.histogram(Name::GilWait, &[], &gil.waits);
        }
        self.histogram(Name::WakeupLatency, &[], &group.wakeup_latency);
        self.loops();
        self.tasks();
        self.executors(members);
        for (role, ledger) in &group.by_role {
            let role = if *role == "none" { "other" } else { role };
            self.thread_time(role, ledger);
        }
        self.merge_roles();
        if let Some(gc) = &group.gc {
            for (of, counts) in [
                (Name::GcCollections, &gc.collections),
                (Name::GcCollected, &gc.collected),
            ] {
                for (generation, count) in counts.iter().enumerate() {
                    self.number(of, &[&generation.to_string()], *count as f64);
                }
            }
        }
        if !members.is_empty() {
            let pythons = members.iter().filter_map(|of| of.python.as_ref());
            let whole = pythons.filter(|python| python.supported).count();
            self.number(
                Name::AgentCoverage,
                &["processes"],
                whole as f64 / members.len() as f64,
            );
        }
    }

    fn loops(&mut self) {
        let loops = &self.group.loops;
        if loops.is_empty() {
            return;
        }
        let sum = |of: fn(&crate::schema::GroupLoops) -> u64| {
            loops.iter().map(of).fold(0, u64::saturating_add)
        };
        self.time(Name::LoopTime, &["busy"], sum(|of| of.busy_ns));
        self.time(Name::LoopTime, &["idle"], sum(|of| of.idle_ns));
        self.number(Name::LoopHung, &[], sum(|of| of.hung) as f64);
        let mut stalls: BTreeMap<&str, u64> = BTreeMap::new();
        for of in loops {
            for (cause, count) in &of.stalls_by_cause {
                *stalls.entry(cause).or_default() += count;
            }
            for (name, histogram) in [(Name::LoopLag, &of.lag), (Name::LoopStep, &of.step)] {
                if let Some(histogram) = histogram {
                    self.histogram(name, &[of.kind.name()], histogram);
                }
            }
        }
        for (cause, count) in stalls {
            self.number(Name::LoopStalls, &[cause], count as f64);
        }
    }

    fn tasks(&mut self) {
        let tasks = &self.group.tasks;
        if let Some(pending) = tasks.pending {
            self.number(Name::Tasks, &["pending"], pending as f64);
        }
        if let Some(created) = tasks.created {
            self.number(Name::TaskStarts, &[], created as f64);
        }
        if let Some(exact) = &tasks.exact {
            for (outcome, count) in [
                ("finished", exact.finished),
                ("failed", exact.failed),
                ("cancelled", exact.cancelled),
            ] {
                self.number(Name::TaskEnds, &[outcome], count as f64);
            }
        }
    }

    fn executors(&mut self, members: &[&Process]) {
        #[derive(Default)]
        struct Sum {
            queued: Option<u64>,
            /// Of those of which it is known.
            workers: Option<(u64, u64)>,
        }
        let mut kinds: BTreeMap<ExecutorKind, Sum> = BTreeMap::new();
        for executor in members.iter().flat_map(|process| &process.executors) {
            let sum = kinds.entry(executor.kind).or_default();
            if let Some(queued) = executor.queued {
                *sum.queued.get_or_insert_default() += queued;
            }
            if let Some(idle) = executor.workers_idle {
                let (all_busy, all_idle) = sum.workers.get_or_insert_default();
                *all_busy += executor.workers.saturating_sub(idle);
                *all_idle += idle;
            }
        }
        for (kind, sum) in kinds {
            let kind = kind.name();
            if let Some(queued) = sum.queued {
                self.number(Name::ExecutorQueued, &[kind], queued as f64);
            }
            if let Some((busy, idle)) = sum.workers {
                self.number(Name::ExecutorWorkers, &[kind, "busy"], busy as f64);
                self.number(Name::ExecutorWorkers, &[kind, "idle"], idle as f64);
            }
        }
    }

    /// States in which no time was spent have no series: of most roles most have none.
    fn thread_time(&mut self, role: &str, ledger: &LedgerSum) {
        let Blocked {
            gil,
            lock,
            poll,
            sleep,
            io,
            child,
            disk,
            stopped,
            other,
        } = ledger.blocked_ns;
        for (state, ns) in [
            ("on_cpu", ledger.on_cpu_ns),
            ("runnable", ledger.runnable_ns),
            ("gil", gil),
            ("lock", lock),
            ("poll", poll),
            ("sleep", sleep),
            ("io", io),
            ("child", child),
            ("disk", disk),
            ("stopped", stopped),
            ("other", other),
            ("unknown", ledger.unknown_ns),
            ("unobserved", ledger.unobserved_ns),
        ] {
            if ns > 0 {
                self.time(Name::ThreadTime, &[role, state], ns);
            }
        }
    }

    /// Threads whose role is not known count with the others, so one series may have come twice.
    fn merge_roles(&mut self) {
        let mut sums: BTreeMap<Vec<String>, f64> = BTreeMap::new();
        self.samples
            .retain(|sample| match (sample.of, &sample.value) {
                (Name::ThreadTime, Value::Number(value)) => {
                    *sums.entry(sample.labels.clone()).or_default() += value;
                    false
                }
                _ => true,
            });
        let samples = sums.into_iter().map(|(labels, value)| Sample {
            of: Name::ThreadTime,
            labels,
            value: Value::Number(value),
            exemplar: None,
        });
        self.samples.extend(samples);
    }
}
