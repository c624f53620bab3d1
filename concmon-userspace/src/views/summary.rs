//! The final summary for people: where the time of the whole watch went.

mod blocked;
mod gil;
mod loops;
mod threads;
mod waits;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use super::digest::{self, Bottleneck};
use super::escape::{brief, cut, cut_front};
use super::table::{Align, Table};
use super::{Paint, counted, findings, format};
use crate::schema::{Kind, Loop, Process, Snapshot, Task, Window};

/// Rows per table; the others are summed up in one row or counted.
const MAX_ROWS: usize = 40;
/// Above this, tasks are shown by coroutine.
const MAX_SINGLE_TASKS: usize = 12;
/// Cells of a command line, an await chain.
const MAX_TEXT: usize = 100;

/// Writes the summary and flushes.
///
/// # Errors
/// What the writer says; a closed pipe is [`io::ErrorKind::BrokenPipe`].
pub fn write(snapshot: &Snapshot, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(render(snapshot, paint).as_bytes())?;
    out.flush()
}

fn render(snapshot: &Snapshot, paint: Paint) -> String {
    let window = snapshot.window;
    let what = match snapshot.kind {
        Kind::Summary => "Summary",
        Kind::Snapshot => "Snapshot",
    };
    let mut text = paint.bold(&format!(
        "{what} of {} from {}",
        format::duration(window.duration_ns),
        format::utc(window.start_unix_ns)
    ));
    text.push('\n');
    if snapshot.processes.is_empty() {
        text.push_str("\nNo process was seen.\n");
    }
    for (_, process) in digest::tree(&snapshot.processes) {
        push_process(&mut text, process, window, paint);
    }
    push_monitor(&mut text, snapshot, paint);
    text
}

fn push_process(text: &mut String, process: &Process, window: Window, paint: Paint) {
    let heading = format!(
        "process {}  {}",
        process.pid,
        digest::process_label(process)
    );
    let _ = writeln!(text, "\n{}", paint.bold(&heading));
    let cmdline = process.cmdline.join(" ");
    if !cmdline.is_empty() {
        let _ = writeln!(
            text,
            "  command     {}",
            cut(&brief(&cmdline, 4 * MAX_TEXT), MAX_TEXT)
        );
    }
    let _ = writeln!(
        text,
        "  identity    {}, {}, parent {}, started {}",
        brief(&process.name, 32),
        digest::python_label(process.python.as_ref()),
        process.ppid,
        format::utc(process.start_unix_ns)
    );
    if let Some(reason) = process
        .python
        .as_ref()
        .and_then(|python| python.reason.as_deref())
    {
        let _ = writeln!(text, "              {}", brief(reason, 160));
    }
    let state = process
        .exited
        .map_or("was running at the end".to_owned(), digest::exited_label);
    let _ = writeln!(text, "  state       {state}");
    let _ = writeln!(
        text,
        "  totals      cpu {} ({} of one core), rss {}, switches {} voluntary + {} involuntary",
        format::duration(process.cpu_ns),
        format::percent(process.cpu_percent),
        format::maybe_bytes(process.rss_bytes),
        format::count(process.context_switches.voluntary),
        format::count(process.context_switches.involuntary),
    );
    let _ = writeln!(
        text,
        "              threads {}, children {}, descendants {}, zombies {}, files {} of {}",
        format::maybe_count(process.threads_count),
        format::maybe_count(process.children_count),
        format::maybe_count(process.descendants_count),
        format::maybe_count(process.zombies_count),
        format::maybe_count(process.fds_count),
        format::maybe_count(process.fds_limit),
    );
    if process.ended.threads > 0 || process.ended.processes > 0 {
        let _ = writeln!(
            text,
            "              ended without a row of their own: threads {}, child processes {}",
            format::count(process.ended.threads),
            format::count(process.ended.processes)
        );
    }
    if let Some(worst) = Bottleneck::of(process) {
        let what = format!("{} ({})", worst.what, worst.place);
        let what = if worst.alarm {
            paint.alarm(&what)
        } else {
            what
        };
        let _ = writeln!(text, "  bottleneck  {what}");
    }
    if !process.findings.is_empty() {
        let _ = writeln!(text, "\n{}", paint.bold("  findings"));
        findings::push_with_advice(text, process, "    ", paint);
    }
    threads::push(text, process, paint);
    waits::push(text, process, paint);
    let end_unix_ns = window.start_unix_ns.saturating_add(window.duration_ns);
    blocked::push(text, process, end_unix_ns, paint);
    gil::push(text, process, window.duration_ns, paint);
    for l in &process.loops {
        push_loop(text, process, l, paint);
    }
    counted::push_table(text, process.exact.as_ref(), paint);
    counted::push_pool_table(text, process.exact.as_ref(), paint);
    push_gaps(text, &digest::process_gaps(process), paint);
}

fn push_loop(text: &mut String, process: &Process, l: &Loop, paint: Paint) {
    let place = digest::loop_thread(process, l).map_or_else(String::new, digest::thread_label);
    let heading = format!("  {} loop in {} {place}", l.kind, l.tid);
    let _ = writeln!(text, "\n{}", paint.bold(heading.trim_end()));
    let share = |ns| {
        format!(
            "{} ({})",
            format::duration(ns),
            format::share_percent(ns, l.wall_ns)
        )
    };
    let busy = format!("busy {}", share(l.busy_ns));
    let hot = l.utilization >= digest::BUSY_LOOP;
    let _ = writeln!(
        text,
        "    {}, idle {} of {}{}",
        if hot { paint.alarm(&busy) } else { busy },
        share(l.idle_ns),
        format::duration(l.wall_ns),
        if l.running { "" } else { ", no longer running" },
    );
    let _ = writeln!(
        text,
        "    at the last look: ready {}, timers {}, pending tasks {}, stall threshold {}",
        format::maybe_count(l.ready),
        format::maybe_count(l.scheduled),
        format::maybe_count(l.pending_tasks),
        format::maybe_duration(l.stall_threshold_ns),
    );
    if let Some(hang) = &l.hang {
        loops::push_hang(text, hang, paint);
    }
    if let Some(timing) = &l.timing {
        loops::push(text, timing, l.wall_ns, paint);
    }
    if l.tasks.len() > MAX_SINGLE_TASKS {
        push_coroutines(text, &l.tasks, paint);
    } else if !l.tasks.is_empty() {
        push_tasks(text, &l.tasks, paint);
    }
}

fn push_tasks(text: &mut String, tasks: &[Task], paint: Paint) {
    let mut table = Table::default();
    table.column("TASK", Align::Left);
    table.column("STATE", Align::Left);
    table.column("SEEN FOR", Align::Right);
    table.column("AWAITS", Align::Left);
    table.column("WAITS FOR", Align::Left);
    for task in tasks {
        table.row(vec![
            brief(&task.name, 24),
            task.state.to_string(),
            format::maybe_duration(task.age_ns()),
            cut_front(&digest::task_place(task), MAX_TEXT).into_owned(),
            digest::task_wait(task).unwrap_or_default(),
        ]);
    }
    text.push_str(&table.render("    ", paint));
}

/// One row per coroutine, state and place, the most frequent first.
fn push_coroutines(text: &mut String, tasks: &[Task], paint: Paint) {
    let mut groups: BTreeMap<(&str, &str, String), (u64, u64)> = BTreeMap::new();
    for task in tasks {
        let key = (
            task.coroutine.as_str(),
            task.state.name(),
            digest::task_place(task),
        );
        let (count, oldest) = groups.entry(key).or_default();
        *count += 1;
        *oldest = task.age_ns().unwrap_or(0).max(*oldest);
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by_key(|(_, (count, _))| std::cmp::Reverse(*count));
    let mut table = Table::default();
    table.column("TASKS", Align::Right);
    table.column("COROUTINE", Align::Left);
    table.column("STATE", Align::Left);
    table.column("OLDEST", Align::Right);
    table.column("AWAITS", Align::Left);
    for ((coroutine, state, place), (count, oldest)) in groups.iter().take(MAX_ROWS) {
        table.row(vec![
            format::count(*count),
            brief(coroutine, 32),
            (*state).to_owned(),
            format::duration(*oldest),
            cut_front(place, MAX_TEXT).into_owned(),
        ]);
    }
    text.push_str(&table.render("    ", paint));
    let hidden = &groups[groups.len().min(MAX_ROWS)..];
    if !hidden.is_empty() {
        let tasks: u64 = hidden.iter().map(|(_, (count, _))| count).sum();
        let _ = writeln!(
            text,
            "    ... {tasks} more tasks in {} other places",
            hidden.len()
        );
    }
}

fn push_monitor(text: &mut String, snapshot: &Snapshot, paint: Paint) {
    let (monitor, wall) = (&snapshot.monitor, snapshot.window.duration_ns);
    let heading = format!("monitor  concmon {}", monitor.version);
    let _ = writeln!(text, "\n{}", paint.bold(&heading));
    let percent = format::share(monitor.cpu_ns, wall);
    let kernel = match monitor.kernel_run_ns {
        Some(ns) => format!(
            "{}{} ({} of one core)",
            digest::tilde(&monitor.estimated, "kernel_run_ns"),
            format::duration(ns),
            digest::kernel_percent(monitor, wall)
        ),
        None => "-".to_owned(),
    };
    let _ = writeln!(
        text,
        "  own cost    cpu {} ({} of one core), rss {}, kernel programs {kernel}",
        format::duration(monitor.cpu_ns),
        percent.map_or_else(|| "-".to_owned(), format::fine_percent),
        format::bytes(monitor.rss_bytes),
    );
    let _ = writeln!(
        text,
        "  events      {} received, {} lost; {} reads failed",
        format::count(monitor.events),
        format::count(monitor.events_lost),
        format::count(monitor.reads_failed)
    );
    for trouble in digest::troubles(monitor) {
        let _ = writeln!(text, "  {}", paint.alarm(&trouble));
    }
    push_gaps(text, &digest::watch_gaps(snapshot), paint);
    text.push_str("\n  ~ estimated   . nothing   - none, or not known   ? cannot be told\n");
}

fn push_gaps(text: &mut String, gaps: &[digest::Gap], paint: Paint) {
    if gaps.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{}", paint.bold("  not known"));
    for gap in gaps.iter().take(MAX_ROWS) {
        let _ = writeln!(text, "    {gap}");
    }
    if gaps.len() > MAX_ROWS {
        let _ = writeln!(text, "    ... and {} more", gaps.len() - MAX_ROWS);
    }
}
