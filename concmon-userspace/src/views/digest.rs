//! What several views say about the same objects: names, bottlenecks, order.
//!
//! Everything that leaves here as text is escaped.

use super::columns::Column;
use super::escape::brief;
use super::format;
use crate::event::is_library;
use crate::schema::{
    Exited, Frame, Gil, Limit, LockNs, Loop, Monitor, Place, Process, Purpose, Python, Task,
    Thread, Wait, WaitKind, WaitingFor,
};

/// A share of wall, in percent, from which a contention column deserves attention.
pub(super) const ALARM_PERCENT: f64 = 10.0;
/// A loop that is busy for this share of its wall, 0 to 1, deserves attention.
pub(super) const BUSY_LOOP: f64 = 0.5;

/// Cells of a name, of a sentence from elsewhere.
pub(super) const MAX_NAME: usize = 48;
pub(super) const MAX_SENTENCE: usize = 160;

/// What holds a process back most, seen from its threads and loops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bottleneck {
    /// `gil 75%`, `loop 98% busy: sleep 96%`, `on_cpu 99%`.
    pub(super) what: String,
    /// The thread.
    pub(super) place: String,
    pub(super) tid: u32,
    /// It is a wait, not just work.
    pub(super) alarm: bool,
}

impl Bottleneck {
    /// The largest by time: contention of a thread, or a busy loop. Without those, a thread that
    /// is on a CPU for half of its wall or more.
    pub(super) fn of(process: &Process) -> Option<Self> {
        let waits = process.threads.iter().flat_map(|thread| {
            Column::ALL
                .into_iter()
                .filter(|column| is_alarming(thread, *column))
                .map(|column| (contention_ns(thread, column), Self::column(thread, column)))
        });
        let loops = process.loops.iter().filter(|l| l.utilization >= BUSY_LOOP);
        let loops = loops.map(|l| (l.busy_ns, Self::busy_loop(process, l)));
        // On equal time a loop says more than one of its thread's columns.
        let worst = waits.chain(loops).max_by_key(|(ns, _)| *ns);
        let working = process.threads.iter().filter(|thread| {
            percent_of_wall(thread, Column::OnCpu).is_some_and(|percent| percent >= 50.0)
        });
        worst.map(|(_, bottleneck)| bottleneck).or_else(|| {
            working
                .max_by_key(|thread| thread.ledger.on_cpu_ns)
                .map(|thread| Self::column(thread, Column::OnCpu))
        })
    }

    fn column(thread: &Thread, column: Column) -> Self {
        Self {
            what: match column {
                Column::Lock => {
                    let ns = contention_ns(thread, column);
                    let share = format::share_percent(ns, thread.ledger.wall_ns);
                    format!("~contended lock {share}")
                }
                column => column_share(thread, column),
            },
            place: thread_label(thread),
            tid: thread.tid,
            alarm: contention_ns(thread, column) > 0,
        }
    }

    fn busy_loop(process: &Process, l: &Loop) -> Self {
        let thread = loop_thread(process, l);
        let why = thread.and_then(busy_with);
        let busy = format::share_percent(l.busy_ns, l.wall_ns);
        Self {
            what: match why {
                Some(why) => format!("loop {busy} busy: {why}"),
                None => format!("loop {busy} busy"),
            },
            place: thread.map_or_else(|| format!("tid {}", l.tid), thread_label),
            tid: l.tid,
            alarm: true,
        }
    }
}

/// What the thread of a busy loop does most outside its selector, `sleep 96%`.
pub(super) fn busy_with(thread: &Thread) -> Option<String> {
    Column::ALL
        .into_iter()
        .filter(|column| *column != Column::Poll && column.of(&thread.ledger) > 0)
        .max_by_key(|column| (column.of(&thread.ledger), std::cmp::Reverse(*column)))
        .map(|column| column_share(thread, column))
}

fn column_share(thread: &Thread, column: Column) -> String {
    let share = format::share_percent(column.of(&thread.ledger), thread.ledger.wall_ns);
    format!("{} {share}", column.name())
}

/// The thread a loop runs in.
pub(super) fn loop_thread<'a>(process: &'a Process, l: &Loop) -> Option<&'a Thread> {
    process.threads.iter().find(|thread| thread.tid == l.tid)
}

/// A column's share of a thread's wall.
pub(super) fn percent_of_wall(thread: &Thread, column: Column) -> Option<f64> {
    format::share(column.of(&thread.ledger), thread.ledger.wall_ns)
}

/// The time in a column in which a thread was kept from its work by something scarce: of locks,
/// not the waiting for work, for a thread's end or for an event.
fn contention_ns(thread: &Thread, column: Column) -> u64 {
    match column {
        Column::Lock => thread.lock_ns.contended,
        column if column.is_contention() => column.of(&thread.ledger),
        _ => 0,
    }
}

/// Whether a column shows that a thread is kept from its work.
pub(super) fn is_alarming(thread: &Thread, column: Column) -> bool {
    let ns = contention_ns(thread, column);
    ns > 0
        && format::share(ns, thread.ledger.wall_ns).is_some_and(|percent| percent >= ALARM_PERCENT)
}

/// What was waited for locks for, `contended 120ms, work 3.2s`: largest first; `None` when it
/// did not wait.
pub(super) fn lock_waits(lock: &LockNs) -> Option<String> {
    let parts: Vec<String> = lock_parts(lock)
        .into_iter()
        .map(|(name, ns)| format!("{name} {}", format::duration(ns)))
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// What a thread waited for locks for most: `work`.
pub(super) fn main_lock_wait(thread: &Thread) -> Option<&'static str> {
    Some(lock_parts(&thread.lock_ns).first()?.0)
}

fn lock_parts(lock: &LockNs) -> Vec<(&'static str, u64)> {
    let mut parts = vec![
        ("contended", lock.contended),
        ("work", lock.waiting_for_work),
        ("join", lock.join),
        ("other", lock.other),
    ];
    parts.retain(|(_, ns)| *ns > 0);
    parts.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
    parts
}

/// Time in which a thread did something or wanted to, ns.
pub(super) fn activity_ns(thread: &Thread) -> u64 {
    Column::ALL
        .into_iter()
        .fold(thread.ledger.on_cpu_ns, |sum, column| {
            sum.saturating_add(contention_ns(thread, column))
        })
}

/// What people call it, else the name the kernel has.
pub(super) fn process_label(process: &Process) -> String {
    let label = process.title.as_deref().filter(|title| !title.is_empty());
    brief(label.unwrap_or(&process.name), MAX_NAME)
}

/// Where a process runs: `container 4c290e9407ce, unit shop.service, process 1 there`.
pub(super) fn place_label(place: &Place) -> Option<String> {
    let mut words = Vec::new();
    if let Some(id) = &place.container_id {
        words.push(format!("container {}", id.get(..12).unwrap_or(id)));
    }
    // The scope of a login says nothing of a program, and that of a container what its id does.
    if let Some(unit) = place
        .unit
        .as_ref()
        .filter(|unit| unit.ends_with(".service"))
    {
        words.push(format!("unit {unit}"));
    }
    if let Some(pid) = place.pid_inside {
        words.push(format!("process {pid} there"));
    }
    (!words.is_empty()).then(|| brief(&words.join(", "), MAX_SENTENCE))
}

/// A thread's name, else what it was started to run, else the kernel's name for it, else its number.
pub(super) fn thread_label(thread: &Thread) -> String {
    let names = [&thread.name, &thread.entry, &thread.comm];
    let mut names = names.into_iter().flatten();
    match names.find(|name| !name.is_empty()) {
        Some(label) => brief(label, MAX_NAME),
        None => format!("tid {}", thread.tid),
    }
}

/// A thread of a process by its name, with its number beside it where another one is called the same:
/// `MainThread`, `AnyIO worker thread (4250)`; `tid 12` for one that is not known.
pub(super) fn thread_name(process: &Process, tid: u32) -> String {
    let Some(thread) = process.threads.iter().find(|thread| thread.tid == tid) else {
        return format!("tid {tid}");
    };
    let label = thread_label(thread);
    let mut others = process.threads.iter().filter(|other| other.tid != tid);
    match others.any(|other| thread_label(other) == label) {
        true => format!("{label} ({tid})"),
        false => label,
    }
}

/// `CPython 3.13.0`, with what is special about it; `not Python`.
pub(super) fn python_label(python: Option<&Python>) -> String {
    let Some(python) = python else {
        return "not Python".to_owned();
    };
    let mut label = match python.implementation.as_str() {
        "cpython" => "CPython".to_owned(),
        "pypy" => "PyPy".to_owned(),
        other => brief(other, 16),
    };
    if let Some(version) = &python.version {
        label = format!("{label} {}", brief(version, 24));
    }
    if python.free_threaded {
        label += " free-threaded";
    }
    if !python.supported {
        label += " (not supported)";
    }
    label
}

/// `exit code 1`, `killed by SIGKILL`.
pub(super) fn exited_label(exited: Exited) -> String {
    match (exited.signal, exited.code) {
        (Some(signal), _) => match signal_name(signal) {
            Some(name) => format!("killed by {name}"),
            None => format!("killed by signal {signal}"),
        },
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "exited".to_owned(),
    }
}

fn signal_name(signal: u8) -> Option<&'static str> {
    Some(match i32::from(signal) {
        libc::SIGHUP => "SIGHUP",
        libc::SIGINT => "SIGINT",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGILL => "SIGILL",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGABRT => "SIGABRT",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGKILL => "SIGKILL",
        libc::SIGUSR1 => "SIGUSR1",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGUSR2 => "SIGUSR2",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGALRM => "SIGALRM",
        libc::SIGTERM => "SIGTERM",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        libc::SIGSYS => "SIGSYS",
        _ => return None,
    })
}

/// The await chain from a task's own coroutine to where it waits, `main > fetch > read conn.py:42`;
/// only the coroutine where there is no chain.
pub(super) fn task_place(task: &Task) -> String {
    if task.awaiting.is_empty() {
        return brief(&task.coroutine, MAX_NAME);
    }
    let mut chain: Vec<String> = task
        .awaiting
        .iter()
        .map(|f| brief(&f.function, MAX_NAME))
        .collect();
    if let (Some(last), Some(frame)) = (chain.last_mut(), task.awaiting.last()) {
        *last = format!("{last} {}", place(frame));
    }
    chain.join(" > ")
}

/// What a task waits for, and about how long: `Queue 0x7f00 ~12.0s`.
pub(super) fn task_wait(task: &Task) -> Option<String> {
    let wait = task.waits_for.as_ref()?;
    let mut text = brief(&wait.kind, MAX_NAME);
    if let Some(object) = wait.object {
        text = format!("{text} {object}");
    }
    if let Some(ns) = task.wait_ns().filter(|ns| *ns > 0) {
        text = format!("{text} ~{}", format::duration(ns));
    }
    Some(text)
}

/// `conn.py:42`.
pub(super) fn place(frame: &Frame) -> String {
    let file = frame.file.rsplit('/').next().unwrap_or_default();
    match frame.line {
        0 => brief(file, MAX_NAME),
        line => format!("{}:{line}", brief(file, MAX_NAME)),
    }
}

/// `waiting for Lock 0x7f00 held by 4250 "writer"`; `thread` names one.
pub(super) fn waiting(waiting: &WaitingFor, thread: impl Fn(u32) -> String) -> String {
    let owner = waiting.owner_tid.map(thread);
    if waiting.kind == WaitKind::Join {
        return match owner {
            Some(thread) => format!("waiting for the end of {thread}"),
            None => "waiting for the end of a thread".to_owned(),
        };
    }
    let mut text = match waiting.purpose {
        Purpose::WaitingForWork => format!("waiting for work: {}", waiting.kind),
        Purpose::Item if matches!(waiting.kind, WaitKind::Queue | WaitKind::SimpleQueue) => {
            format!("waiting for an item of {}", waiting.kind)
        }
        _ => format!("waiting for {}", waiting.kind),
    };
    if let Some(object) = waiting.object {
        text = format!("{text} {object}");
    }
    if let Some(owner) = owner {
        text = format!("{text} held by {owner}");
    }
    text
}

/// What a blocked thread waits for, in words: `waiting for Lock 0x7f00 held by writer`, `sleep`.
pub(super) fn wait(process: &Process, thread: &Thread) -> Option<String> {
    let wait = thread.wait?;
    let name = |tid: u32| thread_name(process, tid);
    // What the latest look met may be over.
    let met = thread.waiting_for.as_ref();
    let met = met.filter(|met| met.since_unix_ns == Some(wait.since_unix_ns));
    Some(met.map_or_else(|| wait.cause.to_string(), |met| waiting(met, name)))
}

/// For how long a thread has been blocked at an instant, ns.
pub(super) fn wait_ns(thread: &Thread, at_unix_ns: u64) -> Option<u64> {
    Some(at_unix_ns.saturating_sub(thread.wait?.since_unix_ns))
}

/// `12.0s`; of a wait that began before the watch, `>12.0s`.
pub(super) fn wait_age(wait: &Wait, ns: u64) -> String {
    let more = if wait.before_watch { ">" } else { "" };
    format!("{more}{}", format::duration(ns))
}

/// Where a thread is in code that is not Python's own library, `consume (app.py:12)`; else its innermost
/// frame.
pub(super) fn own_place(stack: &[Frame]) -> Option<String> {
    let mut own = stack.iter().filter(|frame| !is_library(&frame.file));
    let frame = own.next().or(stack.first())?;
    let function = brief(&frame.function, MAX_NAME);
    Some(format!("{function} ({})", place(frame)))
}

/// The processes with their depth in the tree, children after their parent; else in their order.
pub(super) fn tree(processes: &[Process]) -> Vec<(usize, &Process)> {
    let is_child_of = |child: &Process, parent: &Process| {
        child.ppid == parent.pid
            && child.pid != parent.pid
            && child.start_unix_ns >= parent.start_unix_ns
    };
    let has_parent = |child: &Process| processes.iter().any(|parent| is_child_of(child, parent));
    let mut placed = vec![false; processes.len()];
    let mut rows = Vec::with_capacity(processes.len());
    let roots = (0..processes.len()).filter(|index| !has_parent(&processes[*index]));
    let mut todo: Vec<(usize, usize)> = roots.map(|index| (0, index)).collect();
    // Whatever is in a circle (reused ids) has no root: it follows, flat.
    todo.extend((0..processes.len()).map(|index| (0, index)));
    todo.reverse();
    while let Some((depth, index)) = todo.pop() {
        if std::mem::replace(&mut placed[index], true) {
            continue;
        }
        rows.push((depth, &processes[index]));
        let children = (0..processes.len()).rev();
        let children = children.filter(|child| is_child_of(&processes[*child], &processes[index]));
        todo.extend(children.map(|child| (depth + 1, child)));
    }
    rows
}

/// Whether a limit of a thread or its process makes this column of the thread incomplete.
pub(super) fn is_limited(process: &Process, thread: &Thread, column: Column) -> bool {
    let names = |limit: &Limit| {
        let field = limit.field.rsplit('.').next().unwrap_or_default();
        field.strip_suffix("_ns").unwrap_or(field) == column.name()
    };
    thread.limits.iter().any(names) || process.limits.iter().any(names)
}

/// Somebody waited for it, or it was held.
pub(super) fn gil_is_used(gil: &Gil) -> bool {
    gil.wait_ns.is_some_and(|ns| ns > 0) || gil.held_ns.is_some_and(|ns| ns > 0)
}

/// `1 thread`, `2 threads`.
pub(super) fn plural(count: u64, noun: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {noun}{s}", format::count(count))
}

/// `~` before an estimated number.
pub(super) fn tilde(estimated: &[&str], field: &str) -> &'static str {
    if estimated.contains(&field) { "~" } else { "" }
}

/// The kernel programs' run time as a share of one core, marked when estimated; `-` when unknown.
pub(super) fn kernel_percent(monitor: &Monitor, duration_ns: u64) -> String {
    let percent = monitor
        .kernel_run_ns
        .and_then(|ns| format::share(ns, duration_ns));
    match percent {
        Some(percent) => {
            let mark = tilde(&monitor.estimated, "kernel_run_ns");
            format!("{mark}{}", format::fine_percent(percent))
        }
        None => "-".to_owned(),
    }
}

/// What went wrong or was left out in the tool, as short phrases; empty when all is well.
pub(super) fn troubles(monitor: &Monitor) -> Vec<String> {
    let mut troubles = Vec::new();
    if monitor.events_lost > 0 {
        troubles.push(format!(
            "LOST {} (detail is incomplete, totals are not)",
            plural(monitor.events_lost, "event")
        ));
    }
    if monitor.reads_failed > 0 {
        troubles.push(format!("{} failed", plural(monitor.reads_failed, "read")));
    }
    for (name, count) in monitor.faults.iter().filter(|(_, count)| **count > 0) {
        troubles.push(format!(
            "{} {}",
            brief(name, MAX_NAME),
            format::count(*count)
        ));
    }
    if !monitor.shed.is_empty() {
        let shed: Vec<_> = monitor
            .shed
            .iter()
            .map(|what| brief(what, MAX_NAME))
            .collect();
        troubles.push(format!("left out to save cost: {}", shed.join(", ")));
    }
    troubles
}

/// `1 process`, `2 processes`.
pub(super) fn processes(count: u64) -> String {
    let es = if count == 1 { "" } else { "es" };
    format!("{} process{es}", format::count(count))
}
