//! Plain report lines: one compact block per window, for pipes, files and logs.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::columns::Column;
use super::digest::{self, Bottleneck};
use super::escape::{brief, cut_front, cut_middle, left, width};
use super::{Paint, counted, findings, format, gil, stalls};
use crate::schema::{Loop, Process, Snapshot, TaskState, Thread};

/// Threads per process and window; the others are counted.
const MAX_THREADS: usize = 8;
/// Reasons per block; the others are counted.
const MAX_GAPS: usize = 3;
/// A share of wall, in percent, below which a column is not worth its place.
const SHOWN_PERCENT: f64 = 1.0;

/// Writes the block of one window and flushes.
///
/// # Errors
/// What the writer says; a closed pipe is [`io::ErrorKind::BrokenPipe`].
pub fn write(snapshot: &Snapshot, paint: Paint, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(block(snapshot, paint).as_bytes())?;
    out.flush()
}

fn block(snapshot: &Snapshot, paint: Paint) -> String {
    let (window, monitor) = (snapshot.window, &snapshot.monitor);
    let mut text = paint.bold(&format!(
        "{} +{}",
        format::utc(window.start_unix_ns),
        format::duration(window.duration_ns)
    ));
    let own = format::share(monitor.cpu_ns, window.duration_ns);
    let _ = writeln!(
        text,
        "  monitor cpu {} rss {} kernel {} events {} lost {}",
        own.map_or_else(|| "-".to_owned(), format::fine_percent),
        format::bytes(monitor.rss_bytes),
        digest::kernel_percent(monitor, window.duration_ns),
        format::count(monitor.events),
        format::count(monitor.events_lost),
    );
    for trouble in digest::troubles(monitor) {
        let _ = writeln!(text, "  {}", paint.alarm(&format!("monitor: {trouble}")));
    }
    push_gaps(&mut text, &digest::watch_gaps(snapshot));
    if snapshot.processes.is_empty() {
        text.push_str("  no process\n");
    }
    for (_, process) in digest::tree(&snapshot.processes) {
        push_process(&mut text, process, window.duration_ns, paint);
    }
    text
}

fn push_process(text: &mut String, process: &Process, duration_ns: u64, paint: Paint) {
    let name = brief(&process.name, 32);
    let _ = write!(text, "process {} {name}", process.pid);
    if let Some(entry) = process
        .entry
        .as_deref()
        .filter(|entry| *entry != process.name)
    {
        let _ = write!(text, " [{}]", brief(entry, 64));
    }
    let _ = write!(
        text,
        " {}  cpu {} rss {} threads {} children {} switches {}+{}",
        digest::python_label(process.python.as_ref()),
        format::percent(process.cpu_percent),
        format::maybe_bytes(process.rss_bytes),
        format::maybe_count(process.threads_count),
        format::maybe_count(process.children_count),
        format::count(process.context_switches.voluntary),
        format::count(process.context_switches.involuntary),
    );
    if let Some(exited) = process.exited {
        let _ = write!(text, "  {}", paint.bold(&digest::exited_label(exited)));
    }
    if let Some(worst) = Bottleneck::of(process) {
        let worst_text = format!("=> {} ({})", worst.what, worst.place);
        let _ = write!(
            text,
            "  {}",
            if worst.alarm {
                paint.alarm(&worst_text)
            } else {
                worst_text
            }
        );
    }
    text.push('\n');
    findings::push(text, process, "  ", paint);

    let mut threads: Vec<&Thread> = process.threads.iter().collect();
    threads.sort_by_key(|thread| (std::cmp::Reverse(digest::activity_ns(thread)), thread.tid));
    let shown = &threads[..threads.len().min(MAX_THREADS)];
    let labels: Vec<String> = shown
        .iter()
        .map(|thread| digest::thread_label(thread))
        .collect();
    let widest = labels
        .iter()
        .map(|label| width(label))
        .max()
        .unwrap_or(0)
        .min(32);
    for (thread, label) in shown.iter().zip(&labels) {
        let _ = write!(
            text,
            "  thread {:<7} {}",
            thread.tid,
            left(&cut_middle(label, widest), widest)
        );
        text.push_str(&shares(process, thread, paint));
        text.push_str(if thread.alive { "\n" } else { "  (ended)\n" });
    }
    if threads.len() > shown.len() {
        let _ = writeln!(
            text,
            "  ... and {} of less activity",
            digest::plural((threads.len() - shown.len()) as u64, "thread")
        );
    }
    push_gil(text, process, duration_ns, paint);
    for l in &process.loops {
        push_loop(text, process, l, paint);
    }
    counted::push_line(text, process.exact.as_ref());
    counted::push_pool_lines(text, process.exact.as_ref());
    push_gaps(text, &digest::process_gaps(process));
}

/// What was waited for the GIL, and because of whom most.
fn push_gil(text: &mut String, process: &Process, duration_ns: u64, paint: Paint) {
    let Some(gil) = process.gil.as_ref().filter(|gil| gil::is_used(gil)) else {
        return;
    };
    let _ = write!(
        text,
        "  gil    {}, {}",
        gil::usage(gil, duration_ns),
        gil::waits(gil)
    );
    let holders = gil::holders(gil);
    if let Some(worst) = holders.first().filter(|worst| worst.wait_ns > 0) {
        let share = format::share_percent(worst.wait_ns, gil.wait_ns.unwrap_or(0));
        let whom = match worst.holder_tid {
            Some(_) => format!("for {}", gil::name(process, worst.holder_tid)),
            None => "for nobody known".to_owned(),
        };
        let _ = write!(text, "; {share} {}", paint.bold(&whom));
    }
    text.push('\n');
}

/// `  gil 75%  on_cpu 25%`: what matters, largest first.
fn shares(process: &Process, thread: &Thread, paint: Paint) -> String {
    let mut columns: Vec<(Column, f64)> = Column::ALL
        .into_iter()
        .filter_map(|column| Some((column, digest::percent_of_wall(thread, column)?)))
        .filter(|(_, percent)| *percent >= SHOWN_PERCENT)
        .collect();
    columns.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let mut text = String::new();
    for (column, percent) in columns {
        let share = format!("{} {}", column.name(), format::percent(percent));
        let share = match digest::is_alarming(thread, column) {
            true => paint.alarm(&share),
            false => share,
        };
        let _ = write!(text, "  {share}");
    }
    if digest::is_limited(process, thread, Column::Gil) {
        text.push_str("  gil ?");
    }
    text
}

fn push_loop(text: &mut String, process: &Process, l: &Loop, paint: Paint) {
    let busy = format!("busy {}", format::share_percent(l.busy_ns, l.wall_ns));
    let hot = l.utilization >= digest::BUSY_LOOP;
    let _ = write!(
        text,
        "  loop   {:<7} {} {}",
        l.tid,
        l.kind,
        if hot { paint.alarm(&busy) } else { busy }
    );
    if let Some(why) = digest::loop_thread(process, l)
        .filter(|_| hot)
        .and_then(digest::busy_with)
    {
        let _ = write!(text, ": {why}");
    }
    let _ = write!(
        text,
        "  pending {} ready {} timers {}",
        format::maybe_count(l.pending_tasks),
        format::maybe_count(l.ready),
        format::maybe_count(l.scheduled),
    );
    if !l.running {
        text.push_str("  not running");
    }
    for task in l
        .tasks
        .iter()
        .filter(|task| task.state == TaskState::Running)
    {
        let (name, place) = (brief(&task.name, 32), digest::task_place(task));
        let _ = write!(text, "  running {name}: {}", cut_front(&place, 100));
    }
    text.push('\n');
    if let Some(hang) = &l.hang {
        let line = stalls::hang(hang);
        let _ = writeln!(text, "         {} {line}", paint.alarm("hangs"));
    }
    if let Some(timing) = &l.timing {
        let said = stalls::timing(timing, l.wall_ns, paint);
        if !said.is_empty() {
            let _ = writeln!(text, "         {said}");
        }
        let tasks = timing.by_name.iter().map(|row| (&*row.name, &row.cost));
        let callbacks = timing.callbacks.iter().map(|row| (&*row.name, &row.cost));
        for (what, names) in [
            ("tasks", stalls::names(tasks, l.wall_ns)),
            ("callbacks", stalls::names(callbacks, l.wall_ns)),
        ] {
            if !names.is_empty() {
                let _ = writeln!(text, "         {what} {names}");
            }
        }
    }
}

fn push_gaps(text: &mut String, gaps: &[digest::Gap]) {
    if gaps.is_empty() {
        return;
    }
    let shown: Vec<String> = gaps
        .iter()
        .take(MAX_GAPS)
        .map(ToString::to_string)
        .collect();
    let _ = write!(text, "  not known: {}", shown.join("; "));
    if gaps.len() > MAX_GAPS {
        let _ = write!(text, "; and {} more", gaps.len() - MAX_GAPS);
    }
    text.push('\n');
}
