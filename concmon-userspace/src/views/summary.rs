//! The final summary for people: who was there, what is wrong, and where the time of the watch went.
//!
//! It begins with a line for each process. What several processes have in common is said once: workers that
//! do the same are one section, and processes that did next to nothing have none.

mod blocked;
mod executors;
mod gil;
mod loops;
mod overview;
mod requests;
mod services;
mod threads;
mod waits;

use std::fmt::Write as _;
use std::io::{self, Write};

use super::digest::{self, Bottleneck};
use super::escape::{brief, escape};
use super::gaps;
use super::{Form, counted, findings, fold, format, names};
use crate::schema::{Kind, Process, ProcessRole, Snapshot, Window};

/// Rows per table; the others are summed up in one row or counted.
const MAX_ROWS: usize = 40;
/// Sections of a summary; other processes have their line in the overview.
const MAX_SECTIONS: usize = 6;
/// Cells of a command line.
const MAX_TEXT: usize = 400;
/// A process that did less than this share of the time, in percent, does next to nothing.
const QUIET_PERCENT: f64 = 1.0;

/// Writes the summary and flushes.
///
/// # Errors
/// What the writer says; a closed pipe is [`io::ErrorKind::BrokenPipe`].
pub fn write(snapshot: &Snapshot, form: Form, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(render(snapshot, form).as_bytes())?;
    out.flush()
}

/// How much of each list has room.
#[derive(Clone, Copy, Debug)]
struct Room {
    form: Form,
    /// Rows of the tables of a section.
    rows: usize,
    /// Lines of the lists of a loop.
    lines: usize,
    /// Everything that is known of a process is told.
    whole: bool,
}

impl Room {
    /// For a summary with so many sections.
    fn new(form: Form, sections: usize) -> Self {
        let (rows, lines) = match sections {
            ..=1 => (MAX_ROWS, 10),
            _ => (4, 2),
        };
        Self {
            whole: sections <= 1 || form.all,
            form,
            rows: form.most(rows),
            lines: form.most(lines),
        }
    }
}

fn render(snapshot: &Snapshot, form: Form) -> String {
    let mut text = String::new();
    let window = snapshot.window;
    let what = match snapshot.kind {
        Kind::Summary => "Summary",
        Kind::Snapshot => "Snapshot",
    };
    let head = form.paint.bold(&format!(
        "{what} of {} from {}",
        format::duration(window.duration_ns),
        format::utc(window.start_unix_ns)
    ));
    form.wrap(&mut text, 0, 2, &head);
    let tree = digest::tree(&snapshot.processes);
    let processes: Vec<&Process> = tree.iter().map(|(_, process)| *process).collect();
    if processes.is_empty() {
        text.push_str("\nNo process was seen.\n");
    } else {
        overview::push(&mut text, &tree, window.duration_ns, form);
        services::push(&mut text, snapshot, form);
    }
    let common = findings::common(&processes);
    if !common.is_empty() {
        form.heading(&mut text, 0, "findings");
        findings::push_with_advice(&mut text, &common, 2, processes.len(), form);
    }
    push_sections(&mut text, &processes, window, form);
    push_gaps(&mut text, snapshot, form);
    push_monitor(&mut text, snapshot, form);
    text
}

fn push_sections(text: &mut String, processes: &[&Process], window: Window, form: Form) {
    let mut sets = fold::alike(processes, form.all);
    let alone = sets.len() == 1;
    sets.retain(|set| alone || form.all || set.iter().any(|process| !is_quiet(process)));
    // The busiest ones, in the order of the overview.
    let mut order: Vec<usize> = (0..sets.len()).collect();
    let cpu_ns = |set: &[&Process]| {
        let each = set.iter().map(|process| process.cpu_ns);
        each.fold(0, u64::saturating_add)
    };
    let found = |set: &[&Process]| set.iter().any(|process| !process.findings.is_empty());
    order.sort_by_key(|at| std::cmp::Reverse((found(&sets[*at]), cpu_ns(&sets[*at]))));
    order.truncate(form.most(MAX_SECTIONS));
    order.sort_unstable();
    let room = Room::new(form, order.len());
    let mut left: usize = processes.len();
    for at in order {
        left -= sets[at].len();
        push_section(text, &sets[at], window, room);
    }
    let end_unix_ns = window.start_unix_ns.saturating_add(window.duration_ns);
    blocked::push(text, processes, end_unix_ns, form);
    if left > 0 {
        let others = digest::processes(left as u64);
        let why = format!("{others} did little, or less than these: -v shows each by itself");
        text.push('\n');
        form.wrap(text, 0, 2, &why);
    }
}

/// It did next to nothing, and nothing is wrong with it.
fn is_quiet(process: &Process) -> bool {
    let is_still = |column| {
        process.threads.iter().all(|thread| {
            digest::percent_of_wall(thread, column).is_none_or(|percent| percent < QUIET_PERCENT)
        })
    };
    let busy = |percent: f64| percent >= QUIET_PERCENT;
    process.findings.is_empty()
        && !busy(process.cpu_percent)
        && is_still(super::columns::Column::OnCpu)
        && process
            .loops
            .iter()
            .all(|one| one.hang.is_none() && one.utilization * 100.0 < QUIET_PERCENT)
        && process.exact.is_none()
        && requests::is_quiet(process)
        && process.exited.is_none_or(|exited| exited.signal.is_none())
        && process.ended.threads == 0
        && process.ended.processes == 0
}

/// What there is to say of a process, or of several that do the same.
fn push_section(text: &mut String, set: &[&Process], window: Window, room: Room) {
    let form = room.form;
    match set {
        [process] => push_process(text, process, room),
        _ => push_crowd(text, set, form),
    }
    requests::push(text, set, room);
    threads::push(text, set, room);
    if room.whole {
        waits::push(text, set, room);
    }
    gil::push(text, set, window.duration_ns, room);
    loops::push_all(text, set, room);
    executors::push(text, set, room);
    for process in set {
        counted::push_table(text, process.exact.as_ref(), form);
        counted::push_pool_table(text, process.exact.as_ref(), form);
    }
}

fn push_process(text: &mut String, process: &Process, room: Room) {
    let form = room.form;
    let heading = format!(
        "process {}  {}, {}",
        process.pid,
        digest::process_label(process),
        digest::python_label(process.python.as_ref()),
    );
    form.heading(text, 0, &heading);
    let mut say = |what: &str, said: &str| form.wrap(text, 2, 12, &format!("{what:12}{said}"));
    let cmdline = process.cmdline.join(" ");
    // Of a worker its name says more.
    let tells = room.whole || process.role != Some(ProcessRole::Worker);
    if !cmdline.is_empty() && tells {
        // One line of it, which is enough to know it again.
        let room = form.width().saturating_sub(14);
        let cmdline = brief(&cmdline, MAX_TEXT);
        say(
            "command",
            &super::escape::cut(&cmdline, room).replace("  ", " "),
        );
    }
    let mut identity = format!(
        "{}, parent {}, started {}",
        brief(&process.name, 32),
        process.ppid,
        format::utc(process.start_unix_ns)
    );
    if let Some(place) = digest::place_label(&process.place) {
        say("place", &place);
    }
    let python = process.python.as_ref();
    let reason = python.and_then(|python| python.reason.as_deref());
    if let Some(reason) = reason {
        let _ = write!(identity, "; {}", brief(reason, 160));
    }
    if room.whole || reason.is_some() {
        say("identity", &identity);
    }
    if let Some(exited) = process.exited {
        say("state", &digest::exited_label(exited));
    }
    let mut totals = format!(
        "cpu {} ({} of one core), rss {} of {} mapped, switches {} + {} involuntary, threads {}",
        format::duration(process.cpu_ns),
        format::percent(process.cpu_percent),
        format::maybe_bytes(process.rss_bytes),
        format::maybe_bytes(process.vms_bytes),
        format::count(process.context_switches.voluntary),
        format::count(process.context_switches.involuntary),
        format::maybe_count(process.threads_count),
    );
    for (what, count) in [
        ("children", process.children_count),
        ("descendants", process.descendants_count),
        ("zombies", process.zombies_count),
    ] {
        if count != Some(0) {
            let _ = write!(totals, ", {what} {}", format::maybe_count(count));
        }
    }
    let _ = write!(
        totals,
        ", files {} of {}",
        format::maybe_count(process.fds_count),
        format::maybe_count(process.fds_limit),
    );
    say("totals", &totals);
    if process.ended.threads > 0 || process.ended.processes > 0 {
        let ended = format!(
            "without a row of their own: threads {}, child processes {}",
            format::count(process.ended.threads),
            format::count(process.ended.processes)
        );
        say("ended", &ended);
    }
    // The overview has it, too.
    if let Some(worst) = Bottleneck::of(process).filter(|_| room.whole) {
        let what = format!("{} ({})", worst.what, worst.place);
        let what = match worst.alarm {
            true => form.paint.alarm(&what),
            false => what,
        };
        say("bottleneck", &what);
    }
}

/// The head of a section of several processes.
fn push_crowd(text: &mut String, set: &[&Process], form: Form) {
    let labels: Vec<String> = set
        .iter()
        .map(|process| digest::process_label(process))
        .collect();
    let label = names::common(labels.iter().map(String::as_str));
    let heading = format!("{}  {label}", digest::processes(set.len() as u64));
    form.heading(text, 0, &heading);
    let mut pids = Vec::new();
    for process in set.iter().take(form.most(12)) {
        pids.push(process.pid.to_string());
    }
    if set.len() > pids.len() {
        pids.push(format!("and {} more", set.len() - pids.len()));
    }
    form.wrap(
        text,
        2,
        12,
        &format!("{:12}{}", "processes", pids.join(" ")),
    );
    // All of them ended alike.
    if let Some(exited) = set.first().and_then(|process| process.exited) {
        let line = format!("{:12}{}", "state", digest::exited_label(exited));
        form.wrap(text, 2, 12, &line);
    }
    let sum = |of: fn(&Process) -> u64| set.iter().map(|process| of(process)).sum::<u64>();
    let known = |of: fn(&Process) -> Option<u64>| {
        let known = set.iter().filter_map(|process| of(process));
        format::maybe_bytes(known.reduce(u64::saturating_add))
    };
    let totals = format!(
        "cpu {}, rss {} of {} mapped, threads {}, switches {} + {} involuntary",
        format::duration(sum(|process| process.cpu_ns)),
        known(|process| process.rss_bytes),
        known(|process| process.vms_bytes),
        format::count(sum(|process| process.threads_count.unwrap_or(0))),
        format::count(sum(|process| process.context_switches.voluntary)),
        format::count(sum(|process| process.context_switches.involuntary)),
    );
    form.wrap(text, 2, 12, &format!("{:12}{totals}", "totals"));
}

fn push_monitor(text: &mut String, snapshot: &Snapshot, form: Form) {
    let (monitor, wall) = (&snapshot.monitor, snapshot.window.duration_ns);
    let heading = format!("monitor  concmon {}", escape(&monitor.version));
    form.heading(text, 0, &heading);
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
    let cost = format!(
        "own cost    cpu {} ({} of one core), rss {}, kernel programs {kernel}",
        format::duration(monitor.cpu_ns),
        percent.map_or_else(|| "-".to_owned(), format::fine_percent),
        format::bytes(monitor.rss_bytes),
    );
    form.wrap(text, 2, 12, &cost);
    let events = format!(
        "events      {} received, {} lost; {} reads failed",
        format::count(monitor.events),
        format::count(monitor.events_lost),
        format::count(monitor.reads_failed)
    );
    form.wrap(text, 2, 12, &events);
    for trouble in digest::troubles(monitor) {
        form.wrap(text, 2, 2, &form.paint.alarm(&trouble));
    }
    text.push('\n');
    let legend = "~ estimated   . nothing   - none, or not known   ? cannot be told";
    form.wrap(text, 2, 0, legend);
}

/// What is not known, once for each cause.
fn push_gaps(text: &mut String, snapshot: &Snapshot, form: Form) {
    let mut gaps = gaps::watch_gaps(snapshot);
    for process in &snapshot.processes {
        gaps.extend(gaps::process_gaps(process));
    }
    let causes = gaps::causes(&gaps);
    if causes.is_empty() {
        return;
    }
    form.heading(text, 0, "not known");
    let most = form.most(MAX_CAUSES);
    for cause in causes.iter().take(most) {
        form.wrap(text, 2, 2, &cause.to_string());
    }
    if causes.len() > most {
        let _ = writeln!(text, "  ... and {} more", causes.len() - most);
    }
}

/// Causes of gaps that are said.
const MAX_CAUSES: usize = 8;
