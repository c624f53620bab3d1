//! The model: events in, snapshots out. It reads no clock, no file and no process, and cannot
//! fail; equal events give equal snapshots.
//!
//! Everything in it is cumulative, with its value at the beginning of the window: a snapshot is
//! the difference, so snapshots add up to the summary.

mod accumulator;
mod add;
mod collector;
mod cpu;
mod deadlocks;
mod delta;
pub mod dump;
mod executors;
mod fine;
mod folded;
mod gauges;
mod gil;
mod groups;
mod histogram;
mod http;
mod interpreter;
pub mod intervals;
mod kept;
mod ledger;
mod locks;
mod loops;
mod member;
mod membership;
mod monitor;
mod peers;
mod pools;
mod process;
mod process_row;
mod process_table;
mod projection;
mod retention;
mod rows;
mod service;
mod settling;
mod standing;
pub(crate) mod step_id;
mod still;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod thread;
mod threads;
mod throttling;
pub mod timing;
mod title;
mod wakers;
mod window;

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::event::{Event, HttpWhat, Pid, PlaceFact, Tick, Tid};
use crate::schema::{Group, Kind, Limit, SCHEMA, Snapshot, Window};
use groups::Groups;
use monitor::Monitor;
use process_row::ProcessContext;
use process_table::{ProcessTable, Retention};
use standing::KeptRows;
use timing::Notice;
use window::{Clock, Scope, limit};

/// What is known of a watch before its first event.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WatchInfo {
    /// Of the tool.
    pub version: Cow<'static, str>,
    /// The start of the watch on three clocks, read together: `CLOCK_MONOTONIC`, ns,
    pub start_ns: u64,
    /// wall clock, ns after 1970,
    pub start_unix_ns: u64,
    /// and `CLOCK_BOOTTIME`, ns.
    pub start_boottime_ns: u64,
    /// The processes that the user asked for.
    pub targets: Vec<Pid>,
    /// The user's threshold for stalls, ns; `None`: each loop's own.
    pub stall_threshold_ns: Option<u64>,
    /// The kernel tells which system call a blocked thread is in.
    pub knows_causes: bool,
    /// Where the watch itself runs: whoever is in the same unit or container is not told apart by that.
    #[serde(default)]
    pub place: PlaceFact,
    #[serde(default)]
    pub http: HttpMode,
}

/// Whether HTTP requests are looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HttpMode {
    #[default]
    Off,
    On,
    /// They were to be, and cannot be seen, for this reason.
    Unavailable(String),
}

/// The state of a watch.
#[derive(Clone, Debug)]
pub struct Model {
    info: WatchInfo,
    clock: Clock,
    process_table: ProcessTable,
    groups: Groups,
    monitor: Monitor,
    /// Rows that are taken up again where their processes stand still.
    kept_rows: KeptRows,
    /// Which window this is.
    epoch: u64,
    /// Where the window begins, and where it ends once it is closed.
    from: Tick,
    to: Tick,
    /// A tick was the last event: the next one begins a window.
    closed: bool,
    /// No more records will come.
    ending: bool,
}

impl Model {
    /// A watch of which nothing has come yet.
    pub fn new(info: WatchInfo) -> Self {
        let start = Tick {
            at_ns: info.start_ns,
            unix_ns: info.start_unix_ns,
        };
        let clock = Clock {
            start_ns: info.start_ns,
            start_unix_ns: info.start_unix_ns,
            start_boottime_ns: info.start_boottime_ns,
        };
        Model {
            clock,
            process_table: ProcessTable::new(&info.targets, info.stall_threshold_ns),
            groups: Groups::new(info.place.clone()),
            monitor: Monitor::default(),
            kept_rows: KeptRows::new(),
            epoch: 0,
            from: start,
            to: start,
            closed: false,
            ending: false,
            info,
        }
    }

    /// Takes the next event. A tick ends the window; what follows belongs to the next one.
    pub fn apply(&mut self, event: &Event) {
        if self.closed {
            self.roll();
        }
        let (epoch, clock) = (self.epoch, &self.clock);
        let process_table = &mut self.process_table;
        match event {
            Event::Slice(slice) => process_table.slice(slice, !self.monitor.sheds_slices()),
            Event::Fork(fork) => process_table.fork(fork, epoch),
            Event::Exec(exec) => {
                if let Some(process) = process_table.newest(exec.pid, epoch) {
                    process.exec(exec, clock);
                }
            }
            Event::Exit(exit) => process_table.exit(exit, epoch),
            Event::Loss(loss) => self.monitor.loss(loss),
            Event::Ledger(fact) => process_table.ledger(fact, epoch),
            Event::Still(fact) => process_table.stands(fact, epoch),
            Event::Process(fact) => process_table.fact(fact, epoch),
            Event::Sample(sample) => {
                if let Some(process) = process_table.holder(sample.pid, sample.at_ns, clock, epoch)
                {
                    process.loop_times.sample(sample);
                }
            }
            Event::Step(fact) => {
                if let Some(process) = process_table.holder(fact.pid, fact.read_ns, clock, epoch) {
                    process.loop_times.step(fact);
                }
                process_table.has_news(fact.pid);
            }
            Event::Exact(fact) => {
                if let Some(process) =
                    process_table.counted(fact.pid, fact.start_boottime_ns, epoch)
                {
                    process.loop_times.count(fact);
                }
            }
            Event::Pools(fact) => {
                if let Some(process) =
                    process_table.counted(fact.pid, fact.start_boottime_ns, epoch)
                {
                    process.pools.take(fact);
                }
            }
            Event::Python(fact) => {
                let mut kept = process_table.kept;
                if let Some(process) = process_table.holder(fact.pid, fact.read_ns, clock, epoch) {
                    process.python(fact, &mut kept);
                }
                process_table.kept = kept;
            }
            Event::Http(event) => match event.what {
                HttpWhat::Lost { records } => process_table
                    .processes
                    .values_mut()
                    .for_each(|process| process.http.lose(records)),
                _ => {
                    let (pid, at_ns) = (event.pid, event.at_ns);
                    if let Some(process) = process_table.holder(pid, at_ns, clock, epoch) {
                        process.http.take(event);
                    }
                }
            },
            Event::Monitor(fact) => self.monitor.fact(fact),
            Event::Excluded(pid) => process_table.exclude(*pid, epoch),
            Event::End => self.ending = true,
            Event::Tick(tick) => self.close(*tick),
        }
    }

    /// About what the rows of threads and processes take, bytes.
    pub fn row_bytes(&self) -> u64 {
        let (threads, processes) = (&self.process_table.by_thread, &self.process_table.processes);
        2_000 * threads.len() as u64 + 24_000 * processes.len() as u64
    }

    /// How many threads, processes and tasks a window has to go through.
    pub fn rows(&self) -> usize {
        self.process_table.rows()
    }

    /// The window between the last two ticks, right after the second was applied.
    pub fn snapshot(&self) -> Snapshot {
        self.report(Scope::Window, KeptRows::new())
    }

    /// The same, with the rows that were given back.
    pub fn next_snapshot(&mut self) -> Snapshot {
        let kept = std::mem::take(&mut self.kept_rows);
        self.report(Scope::Window, kept)
    }

    /// Gives the window between the last two ticks back, which nobody needs any more: rows of processes that stand
    /// still are taken up again in the next one.
    pub fn give_back(&mut self, window: Snapshot) {
        // What was lost stands in rows.
        if !self.closed || self.monitor.lost(Scope::Window) > 0 {
            return;
        }
        let table = &self.process_table;
        for row in window.processes {
            let id = table.still(Pid(row.pid), |process| {
                process.start_unix_ns(&self.clock) == Some(row.start_unix_ns)
            });
            self.kept_rows.extend(id.map(|id| (id, Some(row))));
        }
    }

    /// The whole watch up to the last tick, right after it was applied.
    pub fn summary(&self) -> Snapshot {
        self.report(Scope::Whole, KeptRows::new())
    }

    /// The sums of services since the watch began, and of those that live, what `window`, the window between
    /// the last two ticks, says of them.
    pub fn services(&self, window: &Snapshot) -> Vec<Group> {
        let duration_ns = self.to.at_ns.saturating_sub(self.info.start_ns);
        let none = BTreeMap::new();
        self.groups
            .rows(Scope::Whole, &window.processes, &none, duration_ns)
    }

    /// How many services are in none of their own for want of room.
    pub fn services_refused(&self) -> usize {
        self.groups.refused()
    }

    /// Forgets a service of which no process lives; what comes of it later is as of a new one.
    pub fn forget_service(&mut self, name: &str) {
        if let Some(group) = self.groups.find(name)
            && self.process_table.forget(group, self.epoch)
        {
            self.groups.forget(group);
        }
    }

    /// For a watch that nobody asks for a summary: few services, and rows of what ended, are kept, and no service
    /// has a path in its name.
    pub fn keep_sums_only(&mut self, max_groups: usize) {
        self.groups.max = max_groups.min(groups::MAX_GROUPS);
        self.groups.names_folders = false;
        self.process_table.retention = Retention {
            threads: 256,
            processes: 64,
        };
    }

    /// Threads of which sums need all slices, right after a tick: those that run loops, and all of processes whose
    /// GIL was waited for more than a little.
    pub fn needs_slices_of(&self) -> impl Iterator<Item = Tid> {
        let window_ns = self.to.at_ns.saturating_sub(self.from.at_ns);
        let processes = self.process_table.processes.values();
        processes.flat_map(move |process| process.needs_slices_of(window_ns))
    }

    /// Stalls and hangs that have become known since this was asked last, process by process.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        let clock = self.clock;
        let mut notices = Vec::new();
        for id in self.process_table.take_news() {
            if let Some(process) = self.process_table.processes.get_mut(&id) {
                let (pid, look) = (process.pid.0, process.look.as_deref());
                let name = |tid| {
                    let mut threads = look?.threads.iter();
                    threads.find(|seen| seen.tid == tid)?.name.clone()
                };
                notices.extend(
                    process
                        .loop_times
                        .take_notices(pid, &clock, &process.http, name),
                );
            }
        }
        notices
    }

    fn close(&mut self, tick: Tick) {
        self.to = tick;
        for (&id, process) in &mut self.process_table.processes {
            process.settle(&self.clock, self.from.at_ns, self.epoch);
            process
                .loop_times
                .settle(tick.at_ns, &self.clock, &process.http);
            process.settle_gil(tick.at_ns, self.epoch, self.ending);
            if process.loop_times.has_news() {
                self.process_table.news.insert(id);
            }
        }
        self.process_table
            .book(&mut self.groups, &self.clock, tick, self.epoch, self.ending);
        self.process_table.mark_excess(self.epoch);
        self.closed = true;
    }

    /// Begins a window where the last one ended.
    fn roll(&mut self) {
        self.closed = false;
        self.from = self.to;
        self.process_table.fold_marked(&mut self.groups);
        self.process_table.roll(self.epoch);
        self.groups.roll();
        self.monitor.roll();
        self.epoch += 1;
    }

    fn report(&self, scope: Scope, mut kept: KeptRows) -> Snapshot {
        let lost = self.monitor.lost(scope);
        let from = match scope {
            Scope::Window => self.from,
            Scope::Whole => Tick {
                at_ns: self.info.start_ns,
                unix_ns: self.info.start_unix_ns,
            },
        };
        let retired = match scope {
            Scope::Window => Default::default(),
            Scope::Whole => self.process_table.retired_totals(),
        };
        let shown = self
            .process_table
            .processes
            .iter()
            .filter(|(_, process)| process.shown(scope));
        let mut shown: Vec<_> = shown.collect();
        shown.sort_by_key(|(id, process)| (process.pid, process.start, **id));
        let processes = shown.into_iter();
        let processes = processes.map(|(id, process)| {
            let parent = process.parent;
            let context = ProcessContext {
                scope,
                clock: &self.clock,
                lost,
                stall_threshold_ns: self.info.stall_threshold_ns,
                knows_causes: self.info.knows_causes,
                http: &self.info.http,
                sheds_requests: self.monitor.sheds_requests(scope),
                to_ns: self.to.at_ns,
                parent: parent.and_then(|id| self.process_table.processes.get(&id)),
                retired_totals: retired.processes.get(id).copied().unwrap_or_default(),
                group: self.groups.name(process),
            };
            let kept = kept.get_mut(id).and_then(Option::take);
            let kept = kept.and_then(|mut row| process.renew(&mut row, &context).then_some(row));
            kept.unwrap_or_else(|| process.row(&context))
        });

        let mut processes: Vec<_> = processes.collect();
        wakers::name_others(&mut processes);
        let duration_ns = self.to.at_ns.saturating_sub(from.at_ns);
        let groups = self
            .groups
            .rows(scope, &processes, &retired.groups, duration_ns);
        let mut limits = Vec::new();
        limits.extend(self.groups.limit());
        if lost > 0 {
            limits.push(lost_wakers(lost));
        }
        limits.extend(self.monitor.wrong_times());
        for pid in &self.process_table.unseen {
            limits.push(limit(
                "processes",
                format!("nothing was seen of process {pid}"),
            ));
        }
        if self.process_table.refused > 0 {
            let reason = format!(
                "no room for more: {} readings and records were left out",
                self.process_table.refused
            );
            limits.push(limit("processes", reason));
        }
        Snapshot {
            schema: SCHEMA,
            kind: match scope {
                Scope::Window => Kind::Snapshot,
                Scope::Whole => Kind::Summary,
            },
            window: Window {
                start_unix_ns: from.unix_ns,
                duration_ns,
            },
            monitor: self.monitor.report(scope, self.info.version.clone()),
            processes,
            groups,
            limits,
        }
    }
}

/// What lost records mean for the wakers.
pub(crate) fn lost_wakers(lost: u64) -> Limit {
    let reason = format!(
        "{lost} records were lost: counts are too low; the time in the columns is whole all the same"
    );
    limit("wakers", reason)
}
