//! Plain report lines: one compact block per window, for pipes, files and logs.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::columns::Column;
use super::digest::{self, Bottleneck};
use super::escape::{brief, cut_front, cut_middle, left, width};
use super::fold::{self, Crowd};
use super::gaps;
use super::{Form, counted, findings, format, gil, names, stalls};
use crate::schema::{Loop, Process, Snapshot, TaskState};

/// Rows of threads per process and window; the others are counted.
const MAX_THREADS: usize = 8;
/// The same where there are several processes.
const FEW_THREADS: usize = 4;
/// Processes, or sets of those that do the same, that are told about; the others are counted.
const MAX_SETS: usize = 12;
/// Loops of a process that are told about.
const MAX_LOOPS: usize = 4;
/// Causes of gaps per block; the others are counted.
const MAX_GAPS: usize = 3;
/// A share of wall, in percent, below which a column is not worth its place.
const SHOWN_PERCENT: f64 = 1.0;

/// Writes the block of one window and flushes.
///
/// # Errors
/// What the writer says; a closed pipe is [`io::ErrorKind::BrokenPipe`].
pub fn write(snapshot: &Snapshot, form: Form, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(block(snapshot, form).as_bytes())?;
    out.flush()
}

fn block(snapshot: &Snapshot, form: Form) -> String {
    let (window, monitor) = (snapshot.window, &snapshot.monitor);
    let mut text = String::new();
    let own = format::share(monitor.cpu_ns, window.duration_ns);
    let head = format!(
        "{}  monitor cpu {} rss {} kernel {} events {} lost {}",
        form.paint.bold(&format!(
            "{} +{}",
            format::utc(window.start_unix_ns),
            format::duration(window.duration_ns)
        )),
        own.map_or_else(|| "-".to_owned(), format::fine_percent),
        format::bytes(monitor.rss_bytes),
        digest::kernel_percent(monitor, window.duration_ns),
        format::count(monitor.events),
        format::count(monitor.events_lost),
    );
    form.wrap(&mut text, 0, 2, &head);
    for trouble in digest::troubles(monitor) {
        let trouble = form.paint.alarm(&format!("monitor: {trouble}"));
        form.wrap(&mut text, 2, 2, &trouble);
    }
    if snapshot.processes.is_empty() {
        text.push_str("  no process\n");
    }
    let tree = digest::tree(&snapshot.processes);
    let processes: Vec<&Process> = tree.iter().map(|(_, process)| *process).collect();
    let sets = fold::alike(&processes, form.all);
    let (shown, hidden) = choose(sets, form);
    for set in &shown {
        match set[..] {
            [process] => push_process(&mut text, process, processes.len(), form),
            _ => push_crowd(&mut text, set, form),
        }
        let several = processes.len() > 1;
        push_body(&mut text, set, several, window.duration_ns, form);
    }
    if !hidden.is_empty() {
        let percent: f64 = hidden.iter().map(|process| process.cpu_percent).sum();
        let _ = writeln!(
            text,
            "... and {} that did less: cpu {}",
            digest::processes(hidden.len() as u64),
            format::percent(percent)
        );
    }
    push_gaps(&mut text, snapshot, form);
    text
}

/// What is told about, and what is counted only: of many processes those with findings and those that did the
/// most, in their order.
fn choose(sets: Vec<Vec<&Process>>, form: Form) -> (Vec<Vec<&Process>>, Vec<&Process>) {
    let weight = |set: &[&Process]| {
        let findings = set.iter().any(|process| !process.findings.is_empty());
        let each = set.iter().map(|process| process.cpu_ns);
        (findings, each.fold(0, u64::saturating_add))
    };
    let mut order: Vec<usize> = (0..sets.len()).collect();
    order.sort_by_key(|at| std::cmp::Reverse(weight(&sets[*at])));
    order.truncate(form.most(MAX_SETS));
    let (mut shown, mut hidden) = (Vec::new(), Vec::new());
    for (at, set) in sets.into_iter().enumerate() {
        match order.contains(&at) {
            true => shown.push(set),
            false => hidden.extend(set),
        }
    }
    (shown, hidden)
}

fn push_process(text: &mut String, process: &Process, of: usize, form: Form) {
    let mut line = format!("process {} {}", process.pid, brief(&process.name, 32));
    let label = digest::process_label(process);
    if label != process.name {
        let _ = write!(line, " [{label}]");
    }
    let _ = write!(
        line,
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
        let _ = write!(line, "  {}", form.paint.bold(&digest::exited_label(exited)));
    }
    if let Some(worst) = Bottleneck::of(process) {
        let worst_text = format!("=> {} ({})", worst.what, worst.place);
        let worst_text = match worst.alarm {
            true => form.paint.alarm(&worst_text),
            false => worst_text,
        };
        let _ = write!(line, "  {worst_text}");
    }
    form.wrap(text, 0, 4, &line);
    findings::push(text, &findings::common(&[process]), 2, of.min(1), form);
}

/// Several processes that do the same.
fn push_crowd(text: &mut String, set: &[&Process], form: Form) {
    let labels: Vec<String> = set
        .iter()
        .map(|process| digest::process_label(process))
        .collect();
    let sum = |of: fn(&Process) -> u64| set.iter().map(|process| of(process)).sum::<u64>();
    let percent: f64 = set.iter().map(|process| process.cpu_percent).sum();
    let line = format!(
        "{} [{}]  cpu {} rss {} threads {} switches {}+{}",
        digest::processes(set.len() as u64),
        names::common(labels.iter().map(String::as_str)),
        format::percent(percent),
        format::bytes(sum(|process| process.rss_bytes.unwrap_or(0))),
        format::count(sum(|process| process.threads_count.unwrap_or(0))),
        format::count(sum(|process| process.context_switches.voluntary)),
        format::count(sum(|process| process.context_switches.involuntary)),
    );
    form.wrap(text, 0, 4, &line);
    // All of them ended alike.
    if let Some(exited) = set.first().and_then(|process| process.exited) {
        form.wrap(text, 2, 4, &digest::exited_label(exited));
    }
    findings::push(text, &findings::common(set), 2, set.len(), form);
}

/// The lines of threads, GILs, loops and counts.
fn push_body(text: &mut String, set: &[&Process], several: bool, duration_ns: u64, form: Form) {
    let crowds = Crowd::of(set, form.all);
    let most = form.most(if several { FEW_THREADS } else { MAX_THREADS });
    let (shown, others) = crowds.split_at(crowds.len().min(most));
    let labels: Vec<String> = shown.iter().map(Crowd::label).collect();
    let widest = labels.iter().map(|label| width(label)).max();
    let widest = widest.unwrap_or(0).min(32);
    for (crowd, label) in shown.iter().zip(&labels) {
        let tid = match crowd.single() {
            Some((_, thread)) => thread.tid.to_string(),
            None => String::new(),
        };
        let line = format!(
            "thread {tid:<7} {}{}",
            left(&cut_middle(label, widest), widest),
            shares(crowd, form)
        );
        form.wrap(text, 2, 4, &line);
    }
    let hidden = others.iter().flat_map(Crowd::threads).count();
    if hidden > 0 {
        let _ = writeln!(
            text,
            "  ... and {} of less activity",
            digest::plural(hidden as u64, "thread")
        );
    }
    for process in set {
        push_gil(text, process, set.len(), duration_ns, form);
    }
    let loops = set
        .iter()
        .flat_map(|process| process.loops.iter().map(move |l| (*process, l)));
    let mut loops: Vec<(&Process, &Loop)> = loops.collect();
    if loops.len() > MAX_LOOPS {
        loops.sort_by_key(|(_, l)| std::cmp::Reverse((l.hang.is_some(), l.busy_ns)));
    }
    let most = form.most(MAX_LOOPS);
    for (process, l) in loops.iter().take(most) {
        push_loop(text, process, l, form);
    }
    if loops.len() > most {
        let _ = writeln!(text, "  ... and {} more loops", loops.len() - most);
    }
    for process in set {
        counted::push_line(text, process.exact.as_ref(), form);
        counted::push_pool_lines(text, process.exact.as_ref(), form);
    }
}

/// What was waited for the GIL, and because of whom most.
fn push_gil(text: &mut String, process: &Process, of: usize, duration_ns: u64, form: Form) {
    let Some(gil) = process.gil.as_ref().filter(|gil| gil::is_used(gil)) else {
        return;
    };
    let whose = match of {
        1 => String::new(),
        _ => format!("{} ", process.pid),
    };
    let mut line = format!(
        "gil    {whose}{}, {}",
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
        let _ = write!(line, "; {share} {}", form.paint.bold(&whom));
    }
    form.wrap(text, 2, 7, &line);
}

/// `  gil 75%  on_cpu 25%`: what matters, largest first.
fn shares(crowd: &Crowd<'_>, form: Form) -> String {
    let ledger = crowd.ledger();
    let mut columns: Vec<(Column, f64)> = Column::ALL
        .into_iter()
        .filter_map(|column| Some((column, format::share(column.of(&ledger), ledger.wall_ns)?)))
        .filter(|(_, percent)| *percent >= SHOWN_PERCENT)
        .collect();
    columns.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let mut text = String::new();
    for (column, percent) in columns {
        let share = format!("{} {}", column.name(), format::percent(percent));
        let share = match crowd
            .threads()
            .any(|thread| digest::is_alarming(thread, column))
        {
            true => form.paint.alarm(&share),
            false => share,
        };
        let _ = write!(text, "  {share}");
    }
    let mut members = crowd.members.iter();
    if members.any(|(process, thread)| digest::is_limited(process, thread, Column::Gil)) {
        text.push_str("  gil ?");
    }
    text
}

fn push_loop(text: &mut String, process: &Process, l: &Loop, form: Form) {
    let busy = format!("busy {}", format::share_percent(l.busy_ns, l.wall_ns));
    let hot = l.utilization >= digest::BUSY_LOOP;
    let mut line = format!(
        "loop   {:<7} {} {}",
        l.tid,
        l.kind,
        if hot { form.paint.alarm(&busy) } else { busy }
    );
    if let Some(why) = digest::loop_thread(process, l)
        .filter(|_| hot)
        .and_then(digest::busy_with)
    {
        let _ = write!(line, ": {why}");
    }
    let _ = write!(
        line,
        "  pending {} ready {} timers {}",
        format::maybe_count(l.pending_tasks),
        format::maybe_count(l.ready),
        format::maybe_count(l.scheduled),
    );
    if !l.running {
        line.push_str("  not running");
    }
    for task in l
        .tasks
        .iter()
        .filter(|task| task.state == TaskState::Running)
    {
        let (name, place) = (brief(&task.name, 32), digest::task_place(task));
        let _ = write!(line, "  running {name}: {}", cut_front(&place, 64));
    }
    form.wrap(text, 2, 7, &line);
    if let Some(hang) = &l.hang {
        let line = format!("{} {}", form.paint.alarm("hangs"), stalls::hang(hang));
        form.wrap(text, 9, 2, &line);
    }
    if let Some(timing) = &l.timing {
        let said = stalls::timing(timing, l.wall_ns, form.paint);
        if !said.is_empty() {
            form.wrap(text, 9, 2, &said);
        }
        let tasks = timing.by_name.iter().map(|row| (&*row.name, &row.cost));
        let callbacks = timing.callbacks.iter().map(|row| (&*row.name, &row.cost));
        for (what, names) in [
            ("tasks", stalls::names(tasks, l.wall_ns)),
            ("callbacks", stalls::names(callbacks, l.wall_ns)),
        ] {
            if !names.is_empty() {
                form.wrap(text, 9, 2, &format!("{what} {names}"));
            }
        }
    }
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
    let most = form.most(MAX_GAPS);
    let shown: Vec<String> = causes.iter().take(most).map(ToString::to_string).collect();
    let mut line = format!("not known: {}", shown.join("; "));
    if causes.len() > most {
        let _ = write!(line, "; and {} more", causes.len() - most);
    }
    form.wrap(text, 2, 2, &line);
}
