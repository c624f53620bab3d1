//! Groups: the processes that one service is, and their sums, which outlive them.
//!
//! Which group a process belongs to is decided once for each program that it runs, when enough is known to
//! do so; what it adds until then is kept, and goes where it turns out to belong. So nothing is ever charged
//! to one service and moved to another.

use std::collections::{BTreeMap, BTreeSet};

use super::accumulator::Accumulator;
use super::delta::Delta;
use super::folded::Rows;
use super::member::GroupId;
use super::process::Process;
use super::service::Service;
use super::window::{Clock, Scope, limit};
use crate::event::PlaceFact;
use crate::schema::{
    self, Ended, Group, GroupExact, GroupGc, GroupGil, GroupLoops, GroupSource, GroupStall,
    GroupTasks, GroupWork, Roles,
};

/// Groups that are told apart, unless fewer are wanted; beyond, all are one.
pub(super) const MAX_GROUPS: usize = 200;
/// The name of that one.
const OTHER: &str = "_OTHER";
/// A process that runs a program of its own is a service by itself when it has lived for so long, ns:
/// what ends sooner has worked for whoever started it.
const MIN_AGE_NS: u64 = 5_000_000_000;

#[derive(Clone, Debug)]
struct Named {
    /// Unlike that of any other.
    name: String,
    source: GroupSource,
    service: Option<Service>,
}

/// All groups.
#[derive(Clone, Debug)]
pub(crate) struct Groups {
    named: Vec<Named>,
    /// Places in it of groups that were forgotten.
    free: Vec<GroupId>,
    /// Groups that are told apart.
    pub(super) max: usize,
    /// Services of one name are told apart by their folders; else by numbers.
    pub(super) names_folders: bool,
    by_service: BTreeMap<Service, GroupId>,
    names: BTreeSet<String>,
    pub(super) sums: Accumulator<GroupId>,
    /// Services that found no room.
    refused: BTreeSet<Service>,
    /// Where the watch runs.
    own: PlaceFact,
}

/// What decides.
pub(super) struct Decision<'a> {
    pub(super) process: &'a Process,
    pub(super) parent: Parent,
    pub(super) now: Now<'a>,
    /// Nothing more will come of it.
    pub(super) last: bool,
}

/// The end of a window.
#[derive(Clone, Copy)]
pub(super) struct Now<'a> {
    pub(super) clock: &'a Clock,
    pub(super) at_ns: u64,
    pub(super) epoch: u64,
    /// No more records will come.
    pub(super) ending: bool,
}

impl Now<'_> {
    /// Nothing more will come of a process.
    pub(super) fn is_last(&self, process: &Process) -> bool {
        self.ending || process.finished(self.epoch)
    }
}

/// What a process could belong to.
#[derive(Clone, Copy)]
pub(super) enum Parent {
    /// Nobody who is watched has made it.
    Nobody,
    In(GroupId),
    /// That is not decided yet, and will be.
    Undecided,
}

/// Where a process belongs.
pub(super) enum Home {
    To(GroupId),
    Own(Service),
    /// That cannot be told yet; if nothing more comes of it, it goes with its parent.
    Unknown,
}

impl Groups {
    pub(crate) fn new(own: PlaceFact) -> Self {
        Self {
            named: Vec::new(),
            free: Vec::new(),
            max: MAX_GROUPS,
            names_folders: true,
            by_service: BTreeMap::new(),
            names: [OTHER.to_owned()].into(),
            sums: Accumulator::default(),
            refused: BTreeSet::new(),
            own,
        }
    }

    pub(super) fn decide(&self, decision: &Decision<'_>) -> Home {
        let &Decision {
            process,
            parent,
            now,
            last,
        } = decision;
        let with_parent = |alone: fn(&Process) -> Service| match parent {
            Parent::In(group) => Home::To(group),
            Parent::Undecided => Home::Unknown,
            Parent::Nobody => Home::Own(alone(process)),
        };
        let by_name = |process: &Process| Service::named(&process.name);
        let has_parent = !matches!(parent, Parent::Nobody);
        // What was forked is the same program until it is replaced.
        if process.fork_ppid.is_some() && process.exec_ns == 0 && has_parent {
            return with_parent(by_name);
        }
        let Some(fact) = process.program() else {
            return match last {
                true => with_parent(by_name),
                false => Home::Unknown,
            };
        };
        if let Some(told) = Service::told(&fact.place, &self.own) {
            return Home::Own(told);
        }
        let Some(started) = Service::started(fact) else {
            return with_parent(by_name);
        };
        if let Parent::In(group) = parent
            && self.named[group.0].service.as_ref() == Some(&started)
        {
            return Home::To(group);
        }
        let start = process.start.map_or(0, |(start, _)| start);
        let is_old = now.at_ns.saturating_sub(now.clock.of_boottime(start)) >= MIN_AGE_NS;
        match last && process.ended() {
            _ if is_old || !has_parent => Home::Own(started),
            true => with_parent(by_name),
            false if last => Home::Own(started),
            false => Home::Unknown,
        }
    }

    /// The group of a service, a new one if there is none.
    pub(super) fn of(&mut self, service: Service) -> GroupId {
        if let Some(known) = self.by_service.get(&service) {
            return *known;
        }
        if self.by_service.len() >= self.max {
            if self.refused.len() < MAX_GROUPS {
                self.refused.insert(service);
            }
            let other = self.named.iter().position(|named| named.name == OTHER);
            return match other {
                Some(at) => GroupId(at),
                None => self.put(Named {
                    name: OTHER.to_owned(),
                    source: GroupSource::Tree,
                    service: None,
                }),
            };
        }
        let mut name = service.name.clone();
        if self.names_folders && self.names.contains(&name) && !service.folder.is_empty() {
            name = format!("{} ({})", service.name, service.folder);
        }
        let mut number = 2;
        while self.names.contains(&name) {
            name = format!("{} #{number}", service.name);
            number += 1;
        }
        self.names.insert(name.clone());
        let id = self.put(Named {
            name,
            source: service.source,
            service: Some(service.clone()),
        });
        self.by_service.insert(service, id);
        id
    }

    fn put(&mut self, named: Named) -> GroupId {
        if let Some(id) = self.free.pop() {
            self.named[id.0] = named;
            return id;
        }
        self.named.push(named);
        GroupId(self.named.len() - 1)
    }

    /// The group of a service that has this name; none is the one of those that found no room.
    pub(super) fn find(&self, name: &str) -> Option<GroupId> {
        let mut named = self.by_service.values();
        named.find(|id| self.named[id.0].name == name).copied()
    }

    /// Forgets a group, which no process belongs to any more, and its sums.
    pub(super) fn forget(&mut self, id: GroupId) {
        let named = &mut self.named[id.0];
        self.names.remove(&named.name);
        if let Some(service) = named.service.take() {
            self.by_service.remove(&service);
        }
        // No process has it, so it has no row until it is somebody else's.
        named.name.clear();
        self.sums.remove(&id);
        self.free.push(id);
        self.refused.clear();
    }

    /// How many services found no room.
    pub(crate) fn refused(&self) -> usize {
        self.refused.len()
    }

    /// The name of a process's group; `None`: it is not decided yet.
    pub(crate) fn name(&self, process: &Process) -> Option<&str> {
        let group = process.member.group(process.exec_ns)?;
        Some(&self.named[group.0].name)
    }

    /// Takes in rows whose process is gone, and that no other process takes over.
    pub(crate) fn fold(&mut self, group: GroupId, rows: &Rows) {
        self.sums.fold(group, rows);
    }

    /// Begins a window.
    pub(crate) fn roll(&mut self) {
        self.sums.roll();
    }

    /// The rows; of a window, those to which something was added, and those with a process in it. `unfolded`
    /// has what is going to be folded.
    pub(crate) fn rows(
        &self,
        scope: Scope,
        processes: &[schema::Process],
        unfolded: &BTreeMap<GroupId, Rows>,
        duration_ns: u64,
    ) -> Vec<Group> {
        let mut members: BTreeMap<&str, Vec<&schema::Process>> = BTreeMap::new();
        for process in processes {
            if let Some(group) = &process.group {
                members.entry(group).or_default().push(process);
            }
        }
        let mut rows = Vec::new();
        for (at, named) in self.named.iter().enumerate() {
            let id = GroupId(at);
            let members = members.remove(named.name.as_str()).unwrap_or_default();
            let sums = match scope {
                Scope::Window => self.sums.window(&id),
                Scope::Whole => self.sums.whole(&id),
            };
            if sums.is_none() && members.is_empty() {
                continue;
            }
            let mut ended = Rows::default();
            if scope == Scope::Whole {
                ended = self.sums.ended(&id);
                if let Some(rows) = unfolded.get(&id) {
                    ended.add(rows);
                }
            }
            let none = Delta::default();
            let delta = sums.unwrap_or(&none);
            rows.push(row(named, delta, &members, ended.report(), duration_ns));
        }
        rows.sort_by(|one, other| one.name.cmp(&other.name));
        rows
    }

    /// What has no row of its own for want of room.
    pub(crate) fn limit(&self) -> Option<schema::Limit> {
        let count = self.refused.len();
        (count > 0).then(|| {
            limit(
                "groups",
                format!("no room for {count} services: they are in {OTHER}"),
            )
        })
    }
}

fn row(
    named: &Named,
    delta: &Delta,
    members: &[&schema::Process],
    ended: Ended,
    duration_ns: u64,
) -> Group {
    let living: Vec<&schema::Process> = members
        .iter()
        .copied()
        .filter(|process| process.exited.is_none())
        .collect();
    let sum = |of: fn(&schema::Process) -> Option<u64>| {
        let known = living.iter().filter_map(|process| of(process));
        known.reduce(u64::saturating_add)
    };
    let mut roles = Roles::default();
    for process in &living {
        if let Some(role) = process.role {
            roles.count(role);
        }
    }
    let totals = delta.totals();
    let ledger = totals.columns.report();
    let by_role = delta.threads.0.iter().map(|(role, totals)| {
        let role = role.map_or("none", schema::Role::name);
        (role, totals.columns.report())
    });
    let exits = &delta.exits;
    let mut limits = Vec::new();
    for (field, missing) in [
        ("gil", !delta.gil.seen),
        ("gc", !delta.gc.seen),
        ("tasks.created", !delta.tasks.seen),
        ("tasks.pending", pending(&living).is_none()),
    ] {
        if missing {
            limits.push(limit(field, "none was seen in any of its processes"));
        }
    }
    if !delta.tasks.counted {
        limits.push(limit("tasks.exact", "not counted (--exact tasks)"));
    } else if delta.tasks.uncounted > 0 {
        let reason = format!(
            "at least: {} processes that have ended were not counted from their beginning on",
            delta.tasks.uncounted
        );
        limits.push(limit("tasks.exact", reason));
    }
    if !delta.work.counted {
        limits.push(limit("work", "not counted (--exact futures)"));
    }
    for (field, value) in [
        ("rss_bytes", sum(|process| process.rss_bytes)),
        ("threads_count", sum(|process| process.threads_count)),
        ("fds_count", sum(|process| process.fds_count)),
    ] {
        if value.is_none() {
            limits.push(limit(field, "it could be read of no living process"));
        }
    }
    Group {
        name: named.name.clone(),
        source: named.source,
        processes_count: living.len() as u64,
        processes_started: delta.started,
        processes_ended: [exits.ok, exits.error, exits.signal, exits.unknown]
            .into_iter()
            .fold(0, u64::saturating_add),
        exits: schema::Exits {
            ok: exits.ok,
            error: exits.error,
            signal: exits.signal,
            unknown: exits.unknown,
        },
        roles,
        cpu_ns: ledger.cpu_ns(),
        cpu_user_ns: delta.cpu_user_ns,
        cpu_system_ns: delta.cpu_system_ns,
        cpu_percent: match duration_ns {
            0 => 0.0,
            duration_ns => ledger.cpu_ns() as f64 * 100.0 / duration_ns as f64,
        },
        rss_bytes: sum(|process| process.rss_bytes),
        threads_count: sum(|process| process.threads_count),
        threads_started: delta.threads_started,
        fds_count: sum(|process| process.fds_count),
        ledger,
        lock_ns: delta.lock_ns,
        by_role: by_role.collect(),
        context_switches: totals.switches,
        wakeup_latency: delta.wakeup_latency.report(),
        gil: delta.gil.seen.then(|| GroupGil {
            wait_ns: delta.gil.wait_ns,
            waits: delta.gil.waits.report(),
            held_ns: delta.gil.held_ns,
            estimated: vec!["held_ns"],
        }),
        gc: delta.gc.seen.then(|| GroupGc {
            collections: delta.gc.collections.0.clone(),
            collected: delta.gc.collected.0.clone(),
        }),
        loops: loops(delta, &living),
        tasks: GroupTasks {
            pending: pending(&living),
            created: delta.tasks.seen.then_some(delta.tasks.created),
            exact: delta.tasks.counted.then(|| GroupExact {
                started: delta.tasks.started,
                finished: delta.tasks.finished,
                failed: delta.tasks.failed,
                cancelled: delta.tasks.cancelled,
                duration: delta.tasks.duration.report(),
            }),
        },
        work: delta.work.counted.then_some(GroupWork {
            submitted: delta.work.submitted,
            failed: delta.work.failed,
            silent: delta.work.silent,
        }),
        http: delta.http.report(&living),
        peers: delta.peers.report(),
        stalls: delta
            .stalls
            .0
            .iter()
            .map(|of| GroupStall {
                pid: of.pid,
                tid: of.tid,
                stall: of.stall.clone(),
            })
            .collect(),
        ended,
        findings: Vec::new(),
        estimated: vec!["cpu_user_ns", "cpu_system_ns"],
        limits,
    }
}

/// Tasks that are not done.
fn pending(living: &[&schema::Process]) -> Option<u64> {
    let loops = living.iter().flat_map(|process| &process.loops);
    let known = loops.filter_map(|of| of.pending_tasks);
    known.reduce(u64::saturating_add)
}

fn loops(delta: &Delta, living: &[&schema::Process]) -> Vec<GroupLoops> {
    let now: Vec<&schema::Loop> = living
        .iter()
        .flat_map(|process| &process.loops)
        .filter(|of| of.running)
        .collect();
    let mut sums = delta.loops.clone();
    for of in &now {
        sums.of(of.kind);
    }
    let rows = sums.0.into_iter().map(|(kind, sums)| {
        let of_kind = || now.iter().filter(|of| of.kind == kind);
        let by_cause = sums.stalls.0.iter();
        GroupLoops {
            kind,
            running: of_kind().count() as u64,
            idle_ns: sums.idle_ns,
            busy_ns: sums.busy_ns,
            lag: sums.lag.report(),
            step: sums.step.report(),
            stalls_count: sums.stalls.0.values().sum(),
            stalls_ns: sums.stalls_ns,
            delayed: sums.delayed.of_any(),
            stalls_by_cause: by_cause
                .map(|(cause, count)| (cause.name(), *count))
                .collect(),
            hung: of_kind().filter(|of| of.hang.is_some()).count() as u64,
            estimated: vec!["lag", "step"],
        }
    });
    rows.collect()
}
