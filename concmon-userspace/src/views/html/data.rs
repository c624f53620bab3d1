//! The data of the page, in the shape that its program reads.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;

use super::flame::FlameData;
use super::requests::{HttpData, Room};
use super::{Report, Series, cells};
use crate::model::intervals::Activity;
use crate::schema::{
    ByName, Finding, GilPair, Hang, LedgerSum, Limit, Loop, LoopKind, Monitor, Process, Snapshot,
    Stall, Switches, WaitKind, Window,
};
use crate::views::digest;

/// Rows of a page, each kind.
const MAX_THREADS: usize = 1_000;
const MAX_PROCESSES: usize = 256;
const MAX_ROWS: usize = 2_000;
const MAX_NAMES: usize = 200;
const MAX_STALLS: usize = 256;
const MAX_PAIRS: usize = 200;

#[derive(Debug, Serialize)]
pub(super) struct Data<'a> {
    schema: &'static str,
    start_unix_ms: f64,
    duration_ms: f64,
    activities: Vec<&'static str>,
    processes: Vec<ProcessData<'a>>,
    timeline: Timeline<'a>,
    series: &'a Series,
    flames: FlameData<'a>,
    monitor: &'a Monitor,
    limits: Vec<Said<'a>>,
    remarks: Vec<String>,
}

/// A limit, and whose it is.
#[derive(Debug, Serialize)]
struct Said<'a> {
    of: String,
    field: &'a str,
    reason: &'a str,
}

#[derive(Debug, Serialize)]
struct ProcessData<'a> {
    pid: u32,
    ppid: u32,
    name: &'a str,
    entry: Option<&'a str>,
    cmdline: &'a [String],
    python: Option<String>,
    exited: Option<String>,
    cpu_percent: f64,
    cpu_ns: u64,
    rss_bytes: Option<u64>,
    threads_count: Option<u64>,
    switches: Switches,
    gil: Option<GilData<'a>>,
    threads: Vec<ThreadRow<'a>>,
    loops: Vec<LoopData<'a>>,
    http: Option<HttpData<'a>>,
    findings: &'a [Finding],
}

#[derive(Debug, Serialize)]
struct GilData<'a> {
    utilization: Option<f64>,
    wait_ns: Option<u64>,
    waiters_max: Option<u64>,
    switches: Option<u64>,
    wait_p99_ns: Option<u64>,
    pairs: &'a [GilPair],
    pairs_left_out: usize,
}

#[derive(Debug, Serialize)]
struct ThreadRow<'a> {
    tid: u32,
    name: Option<&'a str>,
    role: Option<&'static str>,
    alive: bool,
    #[serde(flatten)]
    ledger: LedgerSum,
    switches: Switches,
    latency_p99_ns: Option<u64>,
    waiting_for: Option<WaitKind>,
    wait: Option<WaitData>,
}

/// A wait that goes on when the watch ends.
#[derive(Debug, Serialize)]
struct WaitData {
    what: String,
    place: Option<String>,
    age_ns: u64,
    before_watch: bool,
}

#[derive(Debug, Serialize)]
struct LoopData<'a> {
    tid: u32,
    kind: LoopKind,
    utilization: f64,
    wall_ns: u64,
    busy_ns: u64,
    pending_tasks: Option<u64>,
    lag_p50_ns: Option<u64>,
    lag_p99_ns: Option<u64>,
    lag_max_ns: Option<u64>,
    stall_threshold_ns: Option<u64>,
    hang: Option<&'a Hang>,
    stalls_count: u64,
    stalls_ns: u64,
    stalls: Vec<StallRow<'a>>,
    by_name: Vec<NameRow<'a>>,
}

#[derive(Debug, Serialize)]
struct StallRow<'a> {
    at_ms: f64,
    #[serde(flatten)]
    stall: &'a Stall,
}

#[derive(Debug, Serialize)]
struct NameRow<'a> {
    name: &'a str,
    pending: u64,
    samples: u64,
    on_cpu_ns: u64,
    runnable_ns: u64,
    blocked_ns: BTreeMap<&'static str, u64>,
}

#[derive(Debug, Serialize)]
struct Timeline<'a> {
    bin_ms: f64,
    rows: Vec<TimelineRow<'a>>,
    left_out: usize,
    /// From and to, ms after the start, and how many records.
    losses: Vec<(f64, f64, u64)>,
}

#[derive(Debug, Serialize)]
struct TimelineRow<'a> {
    /// As in the flame graph's weights.
    thread: usize,
    pid: u32,
    tid: u32,
    name: &'a str,
    loop_kind: Option<LoopKind>,
    first: u64,
    cells: String,
}

impl<'a> Data<'a> {
    pub(super) fn of(report: &'a Report<'a>) -> Self {
        let summary = report.summary;
        let timeline = Timeline::of(report);
        let mut remarks: Vec<String> = Vec::new();
        let mut left_out = |what: &str, all: usize, shown: usize| {
            if all > shown {
                remarks.push(format!(
                    "{} of {all} {what} are not in this page",
                    all - shown
                ));
            }
        };
        left_out("processes", summary.processes.len(), MAX_PROCESSES);
        left_out(
            "threads of the timeline",
            timeline.rows.len() + timeline.left_out,
            timeline.rows.len(),
        );
        let rows: usize = summary
            .processes
            .iter()
            .map(|process| process.threads.len())
            .sum();
        left_out("threads of the tables", rows, MAX_ROWS);
        let unseen = report.intervals.threads().left_out();
        if unseen > 0 {
            remarks.push(format!(
                "{unseen} times there was no room for another thread in the timeline"
            ));
        }
        let shown: std::collections::BTreeSet<usize> =
            timeline.rows.iter().map(|row| row.thread).collect();
        let flames = FlameData::of(report.intervals.flames(), |thread| shown.contains(&thread));
        let (mut rows_left, mut room) = (MAX_ROWS, Room::default());
        let processes = summary.processes.iter().take(MAX_PROCESSES);
        Data {
            schema: summary.schema,
            start_unix_ms: summary.window.start_unix_ns as f64 / 1e6,
            duration_ms: summary.window.duration_ns as f64 / 1e6,
            activities: Activity::all().map(Activity::name).collect(),
            processes: processes
                .map(|process| ProcessData {
                    http: HttpData::of(process, &mut room),
                    ..ProcessData::of(process, summary.window, &mut rows_left)
                })
                .collect(),
            timeline,
            series: report.series,
            flames,
            monitor: &summary.monitor,
            limits: limits(summary),
            remarks,
        }
    }
}

impl<'a> ProcessData<'a> {
    fn of(process: &'a Process, window: Window, rows_left: &mut usize) -> Self {
        let start_unix_ns = window.start_unix_ns;
        let end_unix_ns = start_unix_ns.saturating_add(window.duration_ns);
        let mut threads: Vec<_> = process.threads.iter().collect();
        let idle = |ledger: &LedgerSum| {
            ledger
                .blocked_ns
                .poll
                .saturating_add(ledger.blocked_ns.sleep)
        };
        threads.sort_by_key(|thread| {
            let ledger = &thread.ledger;
            (
                Reverse(ledger.wall_ns.saturating_sub(idle(ledger))),
                thread.tid,
            )
        });
        threads.truncate(*rows_left);
        *rows_left -= threads.len();
        ProcessData {
            pid: process.pid,
            ppid: process.ppid,
            name: &process.name,
            entry: process.entry.as_deref(),
            cmdline: &process.cmdline,
            python: process.python.as_ref().map(|python| {
                let version = python.version.as_deref().unwrap_or("(unknown version)");
                let kind = if python.free_threaded {
                    ", free-threaded"
                } else {
                    ""
                };
                format!("{} {version}{kind}", python.implementation)
            }),
            exited: process
                .exited
                .map(|exited| match (exited.code, exited.signal) {
                    (Some(code), _) => format!("exited with {code}"),
                    (None, Some(signal)) => format!("killed by signal {signal}"),
                    (None, None) => "has ended".to_owned(),
                }),
            cpu_percent: process.cpu_percent,
            cpu_ns: process.cpu_ns,
            rss_bytes: process.rss_bytes,
            threads_count: process.threads_count,
            switches: process.context_switches,
            gil: process.gil.as_ref().map(|gil| GilData {
                utilization: gil.utilization,
                wait_ns: gil.wait_ns,
                waiters_max: gil.waiters_max,
                switches: gil.switches,
                wait_p99_ns: gil.waits.as_ref().and_then(|waits| waits.p99_ns),
                pairs: &gil.pairs[..gil.pairs.len().min(MAX_PAIRS)],
                pairs_left_out: gil.pairs.len().saturating_sub(MAX_PAIRS),
            }),
            threads: threads
                .into_iter()
                .map(|thread| ThreadRow {
                    tid: thread.tid,
                    name: thread.name.as_deref(),
                    role: thread.role.map(|role| match role {
                        crate::schema::Role::Main => "main",
                        crate::schema::Role::Loop => "loop",
                        crate::schema::Role::Pool => "pool",
                        crate::schema::Role::Other => "other",
                    }),
                    alive: thread.alive,
                    ledger: thread.ledger,
                    switches: thread.switches,
                    latency_p99_ns: thread.wakeup_latency.p99_ns,
                    waiting_for: thread.waiting_for.as_ref().map(|waiting| waiting.kind),
                    wait: thread.wait.and_then(|wait| {
                        Some(WaitData {
                            what: digest::wait(process, thread)?,
                            place: digest::own_place(&thread.stack),
                            age_ns: digest::wait_ns(thread, end_unix_ns)?,
                            before_watch: wait.before_watch,
                        })
                    }),
                })
                .collect(),
            loops: process
                .loops
                .iter()
                .map(|one| LoopData::of(one, start_unix_ns))
                .collect(),
            http: None,
            findings: &process.findings,
        }
    }
}

impl<'a> LoopData<'a> {
    fn of(one: &'a Loop, start_unix_ns: u64) -> Self {
        let timing = one.timing.as_ref();
        let lag = timing.and_then(|timing| timing.lag.as_ref());
        LoopData {
            tid: one.tid,
            kind: one.kind,
            utilization: one.utilization,
            wall_ns: one.wall_ns,
            busy_ns: one.busy_ns,
            pending_tasks: one.pending_tasks,
            lag_p50_ns: lag.and_then(|lag| lag.p50_ns),
            lag_p99_ns: lag.and_then(|lag| lag.p99_ns),
            lag_max_ns: lag.and_then(|lag| lag.max_ns),
            stall_threshold_ns: one.stall_threshold_ns,
            hang: one.hang.as_ref(),
            stalls_count: timing.map_or(0, |timing| timing.stalls_count),
            stalls_ns: timing.map_or(0, |timing| timing.stalls_ns),
            stalls: timing
                .into_iter()
                .flat_map(|timing| &timing.stalls)
                .take(MAX_STALLS)
                .map(|stall| StallRow {
                    at_ms: (stall.at_unix_ns as f64 - start_unix_ns as f64) / 1e6,
                    stall,
                })
                .collect(),
            by_name: timing
                .into_iter()
                .flat_map(|timing| &timing.by_name)
                .take(MAX_NAMES)
                .map(NameRow::of)
                .collect(),
        }
    }
}

impl<'a> NameRow<'a> {
    fn of(row: &'a ByName) -> Self {
        NameRow {
            name: &row.name,
            pending: row.pending,
            samples: row.samples,
            on_cpu_ns: row.cost.on_cpu_ns,
            runnable_ns: row.cost.runnable_ns,
            blocked_ns: row
                .cost
                .blocked_ns
                .causes()
                .into_iter()
                .filter(|(_, ns)| *ns > 0)
                .collect(),
        }
    }
}

impl<'a> Timeline<'a> {
    fn of(report: &'a Report<'a>) -> Self {
        let intervals = report.intervals;
        let (bins, threads) = (intervals.bins(), intervals.threads());
        let idle = [
            Activity::Blocked(crate::event::Cause::Poll),
            Activity::Blocked(crate::event::Cause::Sleep),
        ]
        .map(Activity::number);
        let mut found: Vec<_> = threads
            .iter()
            .enumerate()
            .filter_map(|(at, thread)| {
                let row = bins.row(at)?;
                let cells = row.cells.iter();
                let busy: u64 = cells
                    .flat_map(|cell| cell.iter().enumerate())
                    .filter(|(activity, _)| !idle.contains(activity))
                    .map(|(_, ns)| ns)
                    .sum();
                Some((at, thread, row, busy))
            })
            .collect();
        let all = found.len();
        found.sort_by_key(|(at, _, _, busy)| (Reverse(*busy), *at));
        found.truncate(MAX_THREADS);
        // Process by process, the main thread first, then loops, then what did the most.
        found.sort_by_key(|(at, thread, _, busy)| {
            let main = thread.tid.0 == thread.pid.0;
            (
                thread.pid,
                !main,
                thread.loop_kind.is_none(),
                Reverse(*busy),
                *at,
            )
        });
        let start_ns = intervals.start_ns();
        let ms = |ns: u64| ns.saturating_sub(start_ns) as f64 / 1e6;
        Timeline {
            bin_ms: bins.width_ns() as f64 / 1e6,
            left_out: all - found.len(),
            rows: found
                .into_iter()
                .map(|(at, thread, row, _)| TimelineRow {
                    thread: at,
                    pid: thread.pid.0,
                    tid: thread.tid.0,
                    name: &thread.name,
                    loop_kind: thread.loop_kind,
                    first: row.first,
                    cells: cells::encode(row, bins.width_ns()),
                })
                .collect(),
            losses: intervals
                .losses()
                .stretches()
                .iter()
                .map(|stretch| (ms(stretch.from_ns), ms(stretch.to_ns), stretch.records))
                .collect(),
        }
    }
}

/// Limits of the watch, its processes and its monitor; those of single rows are not repeated.
fn limits(summary: &Snapshot) -> Vec<Said<'_>> {
    let mut all = said("watch".to_owned(), &summary.limits);
    all.extend(said("monitor".to_owned(), &summary.monitor.limits));
    for process in summary.processes.iter().take(MAX_PROCESSES) {
        all.extend(said(format!("process {}", process.pid), &process.limits));
        if let Some(gil) = &process.gil {
            all.extend(said(format!("GIL of {}", process.pid), &gil.limits));
        }
        if let Some(http) = &process.http {
            all.extend(said(format!("requests of {}", process.pid), &http.limits));
        }
        for one in &process.loops {
            all.extend(said(format!("loop in {}", one.tid), &one.limits));
        }
    }
    let all = all.into_iter();
    all.map(|(of, limit)| Said {
        of,
        field: &limit.field,
        reason: &limit.reason,
    })
    .collect()
}

fn said(of: String, limits: &[Limit]) -> Vec<(String, &Limit)> {
    limits.iter().map(|limit| (of.clone(), limit)).collect()
}
