//! What holds in every report, whatever was watched.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

use crate::report::{Gil, Histogram, Ledger, Limit, Process, Report, Thread};

/// How much later than its window ends a ledger may be read, where the host keeps the tool from the CPUs.
const LATE_NS: u64 = 200_000_000;

/// Checks one report: ledgers and loops are closed, parts are contained in their wholes,
/// histograms agree with themselves, and what is `null` has a reason.
///
/// # Errors
/// The first law that does not hold, with its numbers.
pub fn hold(report: &Report) -> Result<()> {
    ensure!(
        report.schema == "concmon/1",
        "schema is {:?}",
        report.schema
    );
    ensure!(
        report.kind == "snapshot" || report.kind == "summary",
        "type is {:?}",
        report.kind
    );
    for process in &report.processes {
        let pid = process.pid;
        for (field, value) in process.gauges() {
            ensure!(
                value.is_some()
                    || process
                        .limits
                        .iter()
                        .any(|l| l.field == field && !l.reason.is_empty()),
                "{} process {pid}: {field} is null without a reason",
                report.kind
            );
        }
        closed(&process.ended.ledger).with_context(|| format!("process {pid}: ended threads"))?;
        for thread in &process.threads {
            thread_holds(thread, report)
                .with_context(|| format!("{} process {pid} thread {}", report.kind, thread.tid))?;
        }
        match &process.gil {
            Some(gil) => gil_holds(gil).with_context(|| format!("GIL of process {pid}"))?,
            None => ensure!(
                has_reason(&process.limits, "gil"),
                "process {pid}: gil is null without a reason"
            ),
        }
        for one in &process.loops {
            ensure!(
                one.wall_ns == one.idle_ns + one.busy_ns,
                "loop of thread {}: wall {} is not idle {} + busy {}",
                one.tid,
                one.wall_ns,
                one.idle_ns,
                one.busy_ns
            );
            if let Some(timing) = &one.timing {
                ensure!(
                    timing.tasks_ns + timing.callbacks_ns + timing.unknown_ns == one.busy_ns,
                    "loop of thread {}: tasks {} + callbacks {} + unknown {} is not busy {}",
                    one.tid,
                    timing.tasks_ns,
                    timing.callbacks_ns,
                    timing.unknown_ns,
                    one.busy_ns
                );
            }
        }
    }
    Ok(())
}

fn has_reason(limits: &[Limit], field: &str) -> bool {
    limits
        .iter()
        .any(|limit| limit.field == field && !limit.reason.is_empty())
}

/// All waiting is in the pairs, and what is `null` has a reason.
fn gil_holds(gil: &Gil) -> Result<()> {
    for (field, is_null) in [
        ("wait_ns", gil.wait_ns.is_none()),
        ("waits", gil.waits.is_none()),
        ("waiters_max", gil.waiters_max.is_none()),
        ("held_ns", gil.held_ns.is_none()),
        ("free_ns", gil.free_ns.is_none()),
        ("utilization", gil.utilization.is_none()),
        ("switches", gil.switches.is_none()),
    ] {
        ensure!(
            !is_null || has_reason(&gil.limits, field),
            "{field} is null without a reason"
        );
    }
    if let Some(utilization) = gil.utilization {
        ensure!((0.0..=1.0).contains(&utilization), "used {utilization}");
        ensure!(gil.estimated.iter().any(|field| field == "utilization"));
    }
    if let Some(wait_ns) = gil.wait_ns {
        let pairs = gil.waited_ns(|_| true);
        ensure!(
            pairs == wait_ns || (pairs < wait_ns && has_reason(&gil.limits, "pairs")),
            "waited {wait_ns} ns, the pairs have {pairs} ns"
        );
    }
    if let Some(waits) = &gil.waits {
        histogram(waits).context("waits")?;
    }
    Ok(())
}

fn thread_holds(thread: &Thread, report: &Report) -> Result<()> {
    let ledger = &thread.ledger;
    closed(ledger)?;
    ensure!(
        thread.lock_ns.total() == ledger.blocked_ns.lock,
        "{:?} is not the {} ns of the lock column",
        thread.lock_ns,
        ledger.blocked_ns.lock
    );
    ensure!(
        ledger.preempted_ns + ledger.stolen_ns <= ledger.runnable_ns,
        "preempted and stolen are more than runnable: {ledger:?}"
    );
    // A thread's account may be read a little after the window's end.
    let window = report.window.duration_ns;
    ensure!(
        ledger.wall_ns <= window + window / 100 + LATE_NS,
        "wall {} is longer than the window {window}",
        ledger.wall_ns
    );
    // A wait is counted when it ends; its beginning may lie in the window before.
    let earlier = match report.kind.as_str() {
        "snapshot" => thread.wakeup_latency.max_ns.unwrap_or(0),
        _ => 0,
    };
    ensure!(
        thread.wakeup_latency.sum_ns <= ledger.runnable_ns + earlier,
        "wakeup latencies sum to {}, runnable is only {}",
        thread.wakeup_latency.sum_ns,
        ledger.runnable_ns
    );
    histogram(&thread.wakeup_latency).context("wakeup_latency")?;
    histogram(&thread.slice).context("slice")?;
    for (cause, off) in &thread.off_cpu {
        ensure!(
            ledger.blocked_ns.by_name(cause).is_some(),
            "off_cpu has the unknown cause {cause:?}"
        );
        histogram(off).with_context(|| format!("off_cpu {cause}"))?;
    }
    Ok(())
}

/// `|wall - Σ columns| <= 1 ppm of wall + 1 µs`.
///
/// # Errors
/// When the ledger is not closed.
pub fn closed(ledger: &Ledger) -> Result<()> {
    let off_cpu = ledger.runnable_ns + ledger.blocked_ns.total();
    let columns = ledger.on_cpu_ns + off_cpu + ledger.unknown_ns + ledger.unobserved_ns;
    let gap = ledger.wall_ns.abs_diff(columns);
    ensure!(
        gap <= ledger.wall_ns / 1_000_000 + 1_000,
        "the ledger is open by {gap} ns: {ledger:?}"
    );
    Ok(())
}

fn histogram(h: &Histogram) -> Result<()> {
    let count: u64 = h.buckets.iter().map(|(_, n)| n).sum();
    ensure!(count == h.count, "{count} in buckets, count is {}", h.count);
    ensure!(
        h.buckets.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "buckets are not in order"
    );
    if let (Some(min), Some(max)) = (h.min_ns, h.max_ns) {
        ensure!(min <= max, "min {min} > max {max}");
        ensure!(
            h.sum_ns <= max * h.count && h.sum_ns >= min * h.count,
            "sum {} does not fit {} values between {min} and {max}",
            h.sum_ns,
            h.count
        );
    }
    Ok(())
}

/// At most 0.1 % of the wall time of every thread is `unknown`.
///
/// # Errors
/// Names the thread where it is more.
pub fn nothing_unknown(report: &Report) -> Result<()> {
    for process in &report.processes {
        for thread in &process.threads {
            let Ledger {
                wall_ns,
                unknown_ns,
                ..
            } = thread.ledger;
            ensure!(
                unknown_ns <= wall_ns / 1000 + 1_000,
                "{}: thread {}: {unknown_ns} ns of {wall_ns} ns are unknown",
                report.kind,
                thread.tid
            );
        }
    }
    Ok(())
}

/// The counters of every thread and process in `snapshots` sum to those of the `summary`.
///
/// # Errors
/// Names the first counter that does not.
pub fn sum_up(snapshots: &[Report], summary: &Report) -> Result<()> {
    ensure!(!snapshots.is_empty(), "no snapshot");
    let covered: u64 = snapshots.iter().map(|s| s.window.duration_ns).sum();
    ensure!(
        covered.abs_diff(summary.window.duration_ns) <= 1_000,
        "snapshots cover {covered} ns, the summary {} ns",
        summary.window.duration_ns
    );
    ensure!(
        snapshots[0]
            .window
            .start_unix_ns
            .abs_diff(summary.window.start_unix_ns)
            <= 1_000_000,
        "the summary does not begin where the first snapshot does"
    );
    let counters = |report: &Report, counters: &mut Counters| {
        add(counters, report);
        add_services(counters, report);
    };
    are_sums(snapshots, summary, counters)
}

/// The same of services alone: rows of processes that were folded away are in another one's.
///
/// # Errors
/// What does not add up.
pub fn services_sum_up(snapshots: &[Report], summary: &Report) -> Result<()> {
    are_sums(snapshots, summary, |report, counters| {
        add_services(counters, report)
    })
}

fn are_sums(
    snapshots: &[Report],
    summary: &Report,
    add: impl Fn(&Report, &mut Counters),
) -> Result<()> {
    let mut sums = Counters::new();
    for snapshot in snapshots {
        add(snapshot, &mut sums);
    }
    let mut whole = Counters::new();
    add(summary, &mut whole);
    for (key, value) in &whole {
        let sum = sums.get(key).copied().unwrap_or(0);
        ensure!(
            sum == *value,
            "{}: snapshots sum to {sum}, the summary has {value}",
            describe(key)
        );
    }
    for (key, sum) in &sums {
        ensure!(
            *sum == 0 || whole.contains_key(key),
            "{}: {sum} in the snapshots, missing in the summary",
            describe(key)
        );
    }
    Ok(())
}

/// (process, its start, thread or 0, counter) to its value.
type Counters = BTreeMap<(u32, u64, u32, String), u64>;

fn describe((pid, _, tid, counter): &(u32, u64, u32, String)) -> String {
    match tid {
        0 => format!("process {pid} {counter}"),
        _ => format!("process {pid} thread {tid} {counter}"),
    }
}

fn add(counters: &mut Counters, report: &Report) {
    for process in &report.processes {
        process_counters(process, &mut |tid, name, value| {
            let key = (process.pid, process.start_unix_ns, tid, name.to_owned());
            *counters.entry(key).or_insert(0) += value;
        });
    }
}

fn add_services(counters: &mut Counters, report: &Report) {
    for group in &report.groups {
        let exact = group.tasks.exact.unwrap_or_default();
        for (name, value) in [
            ("cpu_ns", group.cpu_ns),
            ("processes_started", group.processes_started),
            ("processes_ended", group.processes_ended),
            ("threads_started", group.threads_started),
            ("voluntary", group.context_switches.voluntary),
            ("involuntary", group.context_switches.involuntary),
            ("tasks started", exact.started),
            ("tasks finished", exact.finished),
        ] {
            let key = (0, 0, 0, format!("of service {} {name}", group.name));
            *counters.entry(key).or_insert(0) += value;
        }
    }
}

fn process_counters(process: &Process, emit: &mut impl FnMut(u32, &str, u64)) {
    emit(0, "cpu_ns", process.cpu_ns);
    emit(0, "voluntary", process.context_switches.voluntary);
    emit(0, "involuntary", process.context_switches.involuntary);
    if let Some(gil) = &process.gil {
        for (name, value) in [
            ("gil wait_ns", gil.wait_ns),
            ("gil held_ns", gil.held_ns),
            ("gil free_ns", gil.free_ns),
            ("gil switches", gil.switches),
            ("gil waits", gil.waits.as_ref().map(|waits| waits.count)),
        ] {
            emit(0, name, value.unwrap_or(0));
        }
    }
    for thread in &process.threads {
        let tid = thread.tid;
        let ledger = &thread.ledger;
        emit(tid, "wall_ns", ledger.wall_ns);
        emit(tid, "on_cpu_ns", ledger.on_cpu_ns);
        emit(tid, "runnable_ns", ledger.runnable_ns);
        emit(tid, "preempted_ns", ledger.preempted_ns);
        emit(tid, "stolen_ns", ledger.stolen_ns);
        emit(tid, "unknown_ns", ledger.unknown_ns);
        for (cause, ns) in ledger.blocked_ns.columns() {
            emit(tid, cause, ns);
        }
        emit(tid, "voluntary", thread.switches.voluntary);
        emit(tid, "involuntary", thread.switches.involuntary);
        emit(tid, "migrations", thread.migrations);
        let histograms = [
            ("wakeup_latency", &thread.wakeup_latency),
            ("slice", &thread.slice),
        ];
        for (name, h) in histograms
            .into_iter()
            .chain(thread.off_cpu.iter().map(|(cause, h)| (cause.as_str(), h)))
        {
            emit(tid, &format!("{name} count"), h.count);
            emit(tid, &format!("{name} sum"), h.sum_ns);
            for (le, count) in &h.buckets {
                emit(tid, &format!("{name} <= {le}"), *count);
            }
        }
    }
}
