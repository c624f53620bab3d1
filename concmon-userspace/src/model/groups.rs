//! Groups: the processes that one service is, and their sums, which outlive them.
//!
//! Which group a process belongs to is decided once for each program that it runs, when enough is known to
//! do so; what it adds until then is kept, and goes where it turns out to belong. So nothing is ever charged
//! to one service and moved to another.

use std::collections::{BTreeMap, BTreeSet};

use super::delta::{Accumulator, Add, Delta};
use super::folded::Rows;
use super::process::{Process, ProcessId};
use super::process_table::ProcessTable;
use super::service::Service;
use super::window::{Clock, Scope, limit};
use crate::event::{PlaceFact, Tick};
use crate::schema::{
    self, Ended, Group, GroupExact, GroupGc, GroupGil, GroupLoops, GroupSource, GroupStall,
    GroupTasks, GroupWork, Roles,
};

/// Groups that are told apart; beyond, all are one.
const MAX_GROUPS: usize = 200;
/// The name of that one.
const OTHER: &str = "_OTHER";
/// A process that runs a program of its own is a service by itself when it has lived for so long, ns:
/// what ends sooner has worked for whoever started it.
const MIN_AGE_NS: u64 = 5_000_000_000;

/// A group of this watch, in the order in which they became known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GroupId(usize);

/// What a process has to do with a group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Member {
    /// The group, and when the program was started that it was decided for.
    of: Option<(GroupId, u64)>,
    /// What is to go to it.
    pending: Option<Box<Delta>>,
    /// It has been counted as begun, and as ended.
    pub(super) began: bool,
    pub(super) ended: bool,
}

impl Member {
    /// The group, unless another program has begun since that was decided.
    fn group(&self, exec_ns: u64) -> Option<GroupId> {
        let of = self.of.filter(|(_, decided_ns)| *decided_ns == exec_ns);
        of.map(|(group, _)| group)
    }
}

#[derive(Clone, Debug)]
struct Named {
    /// Unlike that of any other.
    name: String,
    source: GroupSource,
    service: Option<Service>,
}

/// All groups.
#[derive(Clone, Debug, Default)]
pub(crate) struct Groups {
    named: Vec<Named>,
    by_service: BTreeMap<Service, GroupId>,
    names: BTreeSet<String>,
    sums: Accumulator<GroupId>,
    /// Services that found no room.
    refused: BTreeSet<Service>,
    /// Where the watch runs.
    own: PlaceFact,
}

/// What decides.
struct Decision<'a> {
    process: &'a Process,
    parent: Parent,
    now: Now<'a>,
    /// Nothing more will come of it.
    last: bool,
}

/// The end of a window.
#[derive(Clone, Copy)]
struct Now<'a> {
    clock: &'a Clock,
    at_ns: u64,
    epoch: u64,
    /// No more records will come.
    ending: bool,
}

impl Now<'_> {
    /// Nothing more will come of a process.
    fn is_last(&self, process: &Process) -> bool {
        self.ending || process.finished(self.epoch)
    }
}

/// What a process could belong to.
#[derive(Clone, Copy)]
enum Parent {
    /// Nobody who is watched has made it.
    Nobody,
    In(GroupId),
    /// That is not decided yet, and will be.
    Undecided,
}

/// Where a process belongs.
enum Home {
    To(GroupId),
    Own(Service),
    /// That cannot be told yet; if nothing more comes of it, it goes with its parent.
    Unknown,
}

impl Groups {
    pub(crate) fn new(own: PlaceFact) -> Self {
        Self {
            own,
            ..Self::default()
        }
    }

    fn decide(&self, decision: &Decision<'_>) -> Home {
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
    fn of(&mut self, service: Service) -> GroupId {
        if let Some(known) = self.by_service.get(&service) {
            return *known;
        }
        if self.by_service.len() >= MAX_GROUPS {
            if self.refused.len() < MAX_GROUPS {
                self.refused.insert(service);
            }
            let other = self.named.iter().position(|named| named.service.is_none());
            return GroupId(other.unwrap_or_else(|| {
                self.named.push(Named {
                    name: OTHER.to_owned(),
                    source: GroupSource::Tree,
                    service: None,
                });
                self.named.len() - 1
            }));
        }
        let mut name = service.name.clone();
        if self.names.contains(&name) && !service.folder.is_empty() {
            name = format!("{} ({})", service.name, service.folder);
        }
        let mut number = 2;
        while self.names.contains(&name) {
            name = format!("{} #{number}", service.name);
            number += 1;
        }
        self.names.insert(name.clone());
        let id = GroupId(self.named.len());
        self.named.push(Named {
            name,
            source: service.source,
            service: Some(service.clone()),
        });
        self.by_service.insert(service, id);
        id
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

impl ProcessTable {
    /// At the end of a window: books what each process has added to its group. `ending`: no more
    /// records will come.
    pub(crate) fn book(
        &mut self,
        groups: &mut Groups,
        clock: &Clock,
        tick: Tick,
        epoch: u64,
        ending: bool,
    ) {
        let all = self.processes.iter();
        let all = all.filter(|(_, process)| !process.excluded && process.shown(Scope::Window));
        let ids: Vec<ProcessId> = all.map(|(id, _)| *id).collect();
        let now = Now {
            clock,
            at_ns: tick.at_ns,
            epoch,
            ending,
        };
        // A parent may have become known after its child.
        for again in [true, false] {
            for id in &ids {
                self.join(*id, groups, now, again);
            }
        }
        for id in ids {
            let Some(process) = self.processes.get_mut(&id) else {
                continue;
            };
            let mut delta = process.delta(epoch, clock);
            if let Some(pending) = process.member.pending.take() {
                delta.add(&pending);
            }
            let ended = process.finished(epoch);
            let keeper = match process.member.group(process.exec_ns) {
                Some(group) => {
                    groups.sums.add(group, &delta);
                    continue;
                }
                None if ended => self.keeper(id, now, false),
                None => None,
            };
            if let Some(keeper) = self.processes.get_mut(&keeper.unwrap_or(id)) {
                keeper.member.pending.get_or_insert_default().add(&delta);
            }
        }
    }

    /// The nearest ancestor whose group is decided, or will be. `again`: any parent's might.
    fn keeper(&self, id: ProcessId, now: Now<'_>, again: bool) -> Option<ProcessId> {
        let mut next = self.processes.get(&id)?.parent;
        // Parents are told from outside: a cycle must not hang.
        for _ in 0..self.processes.len() {
            let ancestor = self.processes.get(&next?)?;
            let is_decided = ancestor.member.group(ancestor.exec_ns).is_some();
            if ancestor.excluded {
                return None;
            }
            if is_decided || again || !now.is_last(ancestor) {
                return next;
            }
            next = ancestor.parent;
        }
        None
    }

    /// Decides which group a process belongs to, as far as that can be told. `again`: it is asked once more.
    fn join(&mut self, id: ProcessId, groups: &mut Groups, now: Now<'_>, again: bool) {
        let Some(process) = self.processes.get(&id) else {
            return;
        };
        if process.member.group(process.exec_ns).is_some() {
            return;
        }
        let keeper = self.keeper(id, now, again);
        let parent = match keeper.and_then(|keeper| self.processes.get(&keeper)) {
            None => Parent::Nobody,
            Some(parent) => match parent.member.group(parent.exec_ns) {
                Some(group) => Parent::In(group),
                None => Parent::Undecided,
            },
        };
        let home = groups.decide(&Decision {
            process,
            parent,
            now,
            last: now.is_last(process),
        });
        let group = match home {
            Home::To(group) => group,
            Home::Own(service) => groups.of(service),
            Home::Unknown => return,
        };
        if let Some(process) = self.processes.get_mut(&id) {
            process.member.of = Some((group, process.exec_ns));
        }
    }
}

impl Process {
    /// The group that its rows go to when it is gone.
    pub(crate) fn group(&self) -> Option<GroupId> {
        self.member.of.map(|(group, _)| group)
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
        cpu_ns: ledger.on_cpu_ns,
        cpu_user_ns: delta.cpu_user_ns,
        cpu_system_ns: delta.cpu_system_ns,
        cpu_percent: match duration_ns {
            0 => 0.0,
            duration_ns => ledger.on_cpu_ns as f64 * 100.0 / duration_ns as f64,
        },
        rss_bytes: sum(|process| process.rss_bytes),
        threads_count: sum(|process| process.threads_count),
        threads_started: delta.threads_started,
        fds_count: sum(|process| process.fds_count),
        ledger,
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
            stalls_by_cause: by_cause
                .map(|(cause, count)| (cause.name(), *count))
                .collect(),
            hung: of_kind().filter(|of| of.hang.is_some()).count() as u64,
            estimated: vec!["lag", "step"],
        }
    });
    rows.collect()
}
