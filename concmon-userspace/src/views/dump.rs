//! A whole look as text, for who knows `py-spy dump` and `python -m asyncio pstree`.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::digest;
use super::escape::escape;
use super::fold::MANY;
use super::gaps::Gaps;
use super::{Form, Paint, forest, format, names};
use crate::model::dump::{Activity, Dump, Inside, Loop, Process, Thread};
use crate::schema::{Executor, ExecutorKind, Limit, WaitingFor};

/// Writes all processes and flushes.
///
/// # Errors
/// What the writer says; a closed pipe is [`io::ErrorKind::BrokenPipe`].
pub fn write(dump: &Dump, form: Form, out: &mut dyn Write) -> io::Result<()> {
    for (index, process) in dump.processes.iter().enumerate() {
        let mut text = String::new();
        if index > 0 {
            text.push('\n');
        }
        let paint = form.paint;
        push_head(&mut text, process, paint);
        if let Some(inside) = &process.inside {
            push_interpreter(&mut text, process, inside);
            for threads in together(inside, form) {
                text.push('\n');
                push_threads(&mut text, &threads, inside, paint);
            }
        }
        for one in &process.loops {
            text.push('\n');
            push_loop(&mut text, process, one, paint);
            forest::push(&mut text, &one.tasks, form);
        }
        if let Some(inside) = &process.inside {
            push_deadlocks(&mut text, inside, paint);
            push_executors(&mut text, inside, paint);
            push_heap_scan(&mut text, inside, paint);
        }
        push_gaps(&mut text, process);
        out.write_all(text.as_bytes())?;
    }
    out.flush()
}

/// Who it is, as `py-spy dump` says it.
pub(super) fn push_head(text: &mut String, process: &Process, paint: Paint) {
    let command = match process.cmdline.is_empty() {
        true => escape(&process.name).into_owned(),
        false => {
            let words: Vec<_> = process.cmdline.iter().map(|word| escape(word)).collect();
            words.join(" ")
        }
    };
    let _ = writeln!(
        text,
        "{}",
        paint.bold(&format!("Process {}: {command}", process.pid))
    );
    let title = process.title.as_deref().map_or("".into(), escape);
    if !command.contains(&*title) && process.name != title {
        let _ = writeln!(text, "Called {title}");
    }
    if let Some(place) = digest::place_label(&process.place) {
        let _ = writeln!(text, "In {place}");
    }
    let Some(python) = &process.python else {
        text.push_str("not Python\n");
        return;
    };
    let implementation = match python.implementation.as_str() {
        "cpython" => "Python".into(),
        other => escape(other),
    };
    text.push_str(&implementation);
    if let Some(version) = &python.version {
        let _ = write!(text, " v{}", escape(version));
    }
    if python.free_threaded {
        text.push_str(" free-threaded");
    }
    if let Some(path) = &process.executable {
        let _ = write!(text, " ({})", escape(path));
    }
    if !python.supported {
        text.push_str(", cannot be read");
    }
    text.push('\n');
}

/// The lines of the GIL, the collector and the threads that are not listed.
fn push_interpreter(text: &mut String, process: &Process, inside: &Inside) {
    if let Some(gil) = inside.gil {
        let holder = match (gil.locked, gil.holder_tid) {
            (false, _) => "free".to_owned(),
            (true, None) => "held".to_owned(),
            (true, Some(tid)) => format!("held by {}", thread_of(inside, tid)),
        };
        let _ = writeln!(text, "GIL: {holder}; {} switches", gil.switches);
    }
    if let Some(gc) = &inside.gc {
        let numbers = |counts: &[u64]| {
            let counts: Vec<String> = counts.iter().map(u64::to_string).collect();
            counts.join(", ")
        };
        let _ = writeln!(
            text,
            "GC: {} collections by generation, {} objects collected{}",
            numbers(&gc.collections),
            numbers(&gc.collected),
            if gc.collecting {
                "; a collection runs now"
            } else {
                ""
            },
        );
    }
    let known = inside.threads.len() as u64;
    if let Some(others) = process.threads_count.and_then(|all| all.checked_sub(known))
        && others > 0
        && known > 0
    {
        let others = digest::plural(others, "other");
        let _ = writeln!(text, "Threads: {known} known to Python, {others}");
    }
}

/// `4243 "worker"`.
fn thread_of(inside: &Inside, tid: u32) -> String {
    let thread = inside.threads.iter().find(|thread| thread.tid == tid);
    match thread.and_then(|thread| thread.name.as_deref()) {
        Some(name) => format!("{tid} \"{}\"", escape(name)),
        None => tid.to_string(),
    }
}

/// The threads, those together that have one name and state, and are in the same place.
fn together(inside: &Inside, form: Form) -> Vec<Vec<&Thread>> {
    let key = |thread: &Thread| {
        let name = thread.name.as_deref().unwrap_or_default();
        (names::stem(name), state(thread, inside, false))
    };
    let mut rows: Vec<((String, String), Vec<&Thread>)> = Vec::new();
    for thread in &inside.threads {
        let key = key(thread);
        let same = |(known, threads): &(_, Vec<&Thread>)| {
            *known == key && threads[0].stack == thread.stack
        };
        match rows.iter_mut().find(|row| same(row)) {
            Some((_, threads)) if !form.all => threads.push(thread),
            _ => rows.push((key, vec![thread])),
        }
    }
    let rows = rows
        .into_iter()
        .flat_map(|(_, threads)| match threads.len() {
            MANY.. => vec![threads],
            _ => threads.into_iter().map(|thread| vec![thread]).collect(),
        });
    rows.collect()
}

/// What a thread does or waits for; `whole`: with the address of the object.
fn state(thread: &Thread, inside: &Inside, whole: bool) -> String {
    let mut state = match (&thread.waiting_for, thread.state) {
        (Some(waiting), _) if whole => digest::waiting(waiting, |tid| thread_of(inside, tid)),
        (Some(waiting), _) => {
            let waiting = WaitingFor {
                object: None,
                ..waiting.clone()
            };
            digest::waiting(&waiting, |tid| thread_of(inside, tid))
        }
        (None, Some(Activity::Stopped)) => "stopped".to_owned(),
        (None, Some(Activity::Active)) => "active".to_owned(),
        (None, Some(Activity::Idle)) => "idle".to_owned(),
        (None, Some(Activity::Gil)) => "waiting for the GIL".to_owned(),
        (None, None) => "state not known".to_owned(),
    };
    if thread.waiting_for.is_some() && thread.state == Some(Activity::Stopped) {
        state = format!("stopped, {state}");
    }
    let gil = inside.gil;
    if gil.is_some_and(|gil| gil.holder_tid == Some(thread.tid)) {
        state += "+gil";
    }
    state
}

/// A thread, or several that are alike, with their stack.
fn push_threads(text: &mut String, threads: &[&Thread], inside: &Inside, paint: Paint) {
    let thread = threads[0];
    let whole = state(thread, inside, true);
    let same = threads.iter().all(|one| state(one, inside, true) == whole);
    let state = if same {
        whole
    } else {
        state(thread, inside, false)
    };
    let mut head = match threads.len() {
        1 => format!("Thread {} ({state})", thread.tid),
        count => {
            let tids = threads.iter().take(MAX_TIDS);
            let tids: Vec<String> = tids.map(|thread| thread.tid.to_string()).collect();
            let more = match count.saturating_sub(MAX_TIDS) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!("Threads {}{more} ({state})", tids.join(", "))
        }
    };
    if thread.name.is_some() {
        let labels = threads
            .iter()
            .map(|one| escape(one.name.as_deref().unwrap_or_default()));
        let labels: Vec<_> = labels.collect();
        let label = names::common(labels.iter().map(AsRef::as_ref));
        let _ = write!(head, ": \"{label}\"");
    }
    if threads.len() > 1 {
        let _ = write!(head, " ×{}", threads.len());
    }
    let _ = writeln!(text, "{}", paint.bold(&head));
    for frame in &*thread.stack {
        let _ = writeln!(text, "    {}", forest::frame(frame));
    }
    if thread.stack.is_empty() {
        let said = thread.limits.iter().find(|limit| limit.field == "stack");
        let reason = said.map_or("it runs no Python code".into(), |said| escape(&said.reason));
        let _ = writeln!(text, "    no stack: {reason}");
    }
}

/// Threads of one place that are named by their ids.
const MAX_TIDS: usize = 8;

/// One line: which loop, where, and how full it is.
pub(super) fn push_loop(text: &mut String, process: &Process, one: &Loop, paint: Paint) {
    let head = match (one.kind, one.tid) {
        (Some(kind), Some(tid)) => {
            let thread = match &process.inside {
                Some(inside) => thread_of(inside, tid),
                None => tid.to_string(),
            };
            format!("{kind} loop in thread {thread}")
        }
        _ => "A loop that does not run".to_owned(),
    };
    let _ = write!(
        text,
        "{}: pending tasks {}",
        paint.bold(&head),
        format::maybe_count(one.pending_tasks)
    );
    if one.running {
        let _ = write!(
            text,
            ", ready {}, timers {}, stall threshold {}",
            format::maybe_count(one.ready),
            format::maybe_count(one.scheduled),
            format::maybe_duration(one.stall_threshold_ns),
        );
    }
    if let Some(created) = one.tasks_created {
        let _ = write!(text, ", created {}", format::count(created));
    }
    if one.debug == Some(true) {
        text.push_str(", debug");
    }
    text.push('\n');
}

/// Who waits for whom in a circle.
fn push_deadlocks(text: &mut String, inside: &Inside, paint: Paint) {
    for deadlock in &inside.deadlocks {
        let behind = match deadlock.behind {
            0 => String::new(),
            behind => format!(", {} more behind them", format::count(behind)),
        };
        let head = format!(
            "Deadlock of {}{behind}",
            format::count(deadlock.members.len() as u64)
        );
        let _ = writeln!(text, "\n{}", paint.alarm(&head));
        for member in &deadlock.members {
            let who = match member.tid {
                Some(tid) => thread_of(inside, tid),
                None => format!("task {}", escape(member.name.as_deref().unwrap_or("?"))),
            };
            let has = match (&member.holds, member.inferred) {
                (Some(holds), true) => format!("has {holds} (by its statement), "),
                (Some(holds), false) => format!("has {holds}, "),
                (None, _) => String::new(),
            };
            let at = member.place.as_ref().map(super::stalls::place);
            let at = at.map_or_else(String::new, |at| format!(" at {at}"));
            let _ = writeln!(
                text,
                "    {who}: {has}waits for {}{at}",
                escape(&member.waits_for)
            );
        }
    }
}

fn push_executors(text: &mut String, inside: &Inside, paint: Paint) {
    for executor in &inside.executors {
        text.push('\n');
        let Executor {
            kind, name_prefix, ..
        } = executor;
        let mut head = match kind {
            ExecutorKind::Limiter => "Limiter".to_owned(),
            ExecutorKind::Server => "Threads of a server".to_owned(),
            ExecutorKind::Task => "Workers for tasks".to_owned(),
            ExecutorKind::Thread | ExecutorKind::Process => format!("Executor of {kind} workers"),
        };
        if let Some(prefix) = name_prefix {
            let _ = write!(head, " \"{}\"", escape(prefix));
        }
        if *kind == ExecutorKind::Limiter {
            let _ = writeln!(
                text,
                "{}: {} of {} tokens lent, {} tasks wait for one",
                paint.bold(&head),
                format::count(executor.workers),
                format::maybe_count(executor.max_workers),
                format::maybe_count(executor.queued),
            );
            continue;
        }
        let _ = writeln!(
            text,
            "{}: workers {} of {}, idle {}, queued {}, running {}, unfinished {}",
            paint.bold(&head),
            format::count(executor.workers),
            format::maybe_count(executor.max_workers),
            format::maybe_count(executor.workers_idle),
            format::maybe_count(executor.queued),
            format::count(executor.begun()),
            format::maybe_count(executor.unfinished),
        );
        for work in &executor.running {
            let function = work.function.as_deref().map_or("?".into(), escape);
            let _ = match work.tid {
                Some(tid) => writeln!(text, "    {function} in {}", thread_of(inside, tid)),
                None => writeln!(text, "    {function}"),
            };
        }
    }
}

fn push_heap_scan(text: &mut String, inside: &Inside, paint: Paint) {
    let Some(scan) = &inside.heap_scan else {
        return;
    };
    let head = paint.bold("Failed futures that somebody keeps");
    let mebibytes = scan.bytes >> 20;
    let _ = writeln!(text, "\n{head} ({mebibytes} MiB searched):");
    if let Some(reason) = &scan.skipped {
        let _ = writeln!(text, "    not complete: {}", escape(reason));
    } else if scan.failures.is_empty() {
        text.push_str("    none\n");
    }
    for failures in &scan.failures {
        let retrieved = match failures.retrieved {
            Some(true) => ", retrieved",
            Some(false) => ", never retrieved",
            None => "",
        };
        let _ = writeln!(
            text,
            "    {} {}: {}{retrieved}",
            format::count(failures.count),
            failures.kind,
            escape(&failures.exception)
        );
    }
}

/// What is missing above, equal reasons together.
pub(super) fn push_gaps(text: &mut String, process: &Process) {
    let mut gaps = Gaps::default();
    for thread in process.inside.iter().flat_map(|inside| &inside.threads) {
        gaps.gather("threads.", &thread.limits);
    }
    for one in process.loops.iter().filter(|one| one.running) {
        gaps.gather("loops.", &one.limits);
    }
    // What rows say themselves need not be said again.
    let said: Vec<_> = gaps.list.iter().map(|gap| gap.field.to_string()).collect();
    let others = process.limits.iter();
    let others: Vec<Limit> = others
        .filter(|limit| !said.iter().any(|said| *said == limit.field))
        .cloned()
        .collect();
    gaps.gather("", &others);
    let mut gaps = gaps.list;
    gaps.retain(|gap| !NOT_SHOWN.contains(&gap.field.as_str()));
    if gaps.is_empty() && process.reads_failed == 0 {
        return;
    }
    text.push_str("\nNot known:\n");
    if process.reads_failed > 0 {
        let reads = digest::plural(process.reads_failed, "read");
        let _ = writeln!(text, "  {reads} of its memory failed, or changed meanwhile");
    }
    for gap in gaps {
        let _ = writeln!(text, "  {gap}");
    }
}

/// What is not in the text, or says itself what is missing.
const NOT_SHOWN: [&str; 11] = [
    "entry",
    "title",
    "role",
    "vms_bytes",
    "rss_bytes",
    "python",
    "threads.daemon",
    "threads.entry",
    "threads.name",
    "threads.stack_size_bytes",
    "threads.stack",
];
