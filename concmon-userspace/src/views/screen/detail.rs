//! The page about one process, thread or task: what it does now, where, what it waits for and on whom.

use std::collections::BTreeMap;

use ratatui::text::Line;

use super::super::columns::Column;
use super::super::escape::{brief, cut, escape};
use super::super::{digest, format};
use super::Sources;
use super::state::{Detail, ScreenState, Section};
use super::{processes, style, tasks, threads};
use crate::schema::{Frame, Loop, Process, Snapshot, Task, Thread};

/// Cells of a name that is shown whole.
const MAX_NAME: usize = 120;

/// What the selected row is about.
pub(super) fn selected(snapshot: &Snapshot, state: &ScreenState) -> Option<Detail> {
    let row = state.selected[state.focus.index()];
    match state.focus {
        Section::Processes => {
            let processes = processes::ordered(snapshot, state);
            let (_, process) = processes.get(row)?;
            Some(Detail::Process(process.pid))
        }
        Section::Threads => {
            let threads = threads::ordered(snapshot, state);
            let (process, thread) = threads.get(row)?;
            Some(Detail::Thread(process.pid, thread.tid))
        }
        Section::Tasks => {
            let (process, l, task) = tasks::at(snapshot, row, state)?;
            Some(match task {
                Some(task) => Detail::Task(process.pid, l.tid, task.id),
                None => Detail::Thread(process.pid, l.tid),
            })
        }
        Section::Gil | Section::Findings | Section::Code | Section::Requests => None,
    }
}

/// The page, in lines that may be wider than the screen.
pub(super) fn lines(
    snapshot: &Snapshot,
    detail: Detail,
    state: &ScreenState,
    sources: &dyn Sources,
) -> Vec<Line<'static>> {
    let (Detail::Process(pid) | Detail::Thread(pid, _) | Detail::Task(pid, ..)) = detail;
    let mut page = Page {
        lines: Vec::new(),
        state,
        sources,
        pid,
    };
    let Some(process) = snapshot.processes.iter().find(|one| one.pid == pid) else {
        page.title(&format!("process {pid} is gone"));
        return page.lines;
    };
    match detail {
        Detail::Process(_) => page.process(process),
        Detail::Thread(_, tid) => match process.threads.iter().find(|one| one.tid == tid) {
            Some(thread) => page.thread(snapshot, process, thread),
            None => page.title(&format!("thread {tid} is gone")),
        },
        Detail::Task(_, tid, id) => {
            let mut loops = process.loops.iter().filter(|one| one.tid == tid);
            let found = loops.find_map(|l| Some((l, l.tasks.iter().find(|one| one.id == id)?)));
            match found {
                Some((l, task)) => page.task(process, l, task),
                None => page.title(&format!("task {id} is gone: it is done and collected")),
            }
        }
    }
    page.lines
}

struct Page<'a> {
    lines: Vec<Line<'static>>,
    state: &'a ScreenState,
    sources: &'a dyn Sources,
    pid: u32,
}

impl Page<'_> {
    fn title(&mut self, text: &str) {
        self.lines
            .push(Line::styled(text.to_owned(), style::title(self.state)));
    }

    fn row(&mut self, name: &str, text: &str) {
        self.lines.push(Line::raw(format!("  {name:<12} {text}")));
    }

    fn head(&mut self, text: &str) {
        self.lines.push(Line::default());
        self.lines
            .push(Line::styled(text.to_owned(), style::strong()));
    }

    fn process(&mut self, process: &Process) {
        let label = brief(&digest::process_label(process), MAX_NAME);
        self.title(&format!("process {} {label}", process.pid));
        self.row("command", &escape(&process.cmdline.join(" ")));
        self.row("python", &digest::python_label(process.python.as_ref()));
        self.row(
            "cpu",
            &format!(
                "{} of one core, {} threads, {} open files of {}",
                format::percent(process.cpu_percent),
                format::maybe_count(process.threads_count),
                format::maybe_count(process.fds_count),
                format::maybe_count(process.fds_limit),
            ),
        );
        self.row(
            "memory",
            &format!("{} resident", format::maybe_bytes(process.rss_bytes)),
        );
        if let Some(worst) = digest::Bottleneck::of(process) {
            self.row(
                "held back by",
                &format!("{} ({})", worst.what, escape(&worst.place)),
            );
        }
        if let Some(exited) = process.exited {
            self.row("ended", &digest::exited_label(exited));
        }
        self.head("findings");
        for finding in &process.findings {
            let text = format!(
                "{} {}: {}",
                finding.severity,
                finding.rule,
                escape(&finding.summary)
            );
            self.lines
                .push(Line::styled(format!("  {text}"), style::alarm(self.state)));
            self.lines
                .push(Line::raw(format!("    -> {}", escape(&finding.advice))));
        }
        if process.findings.is_empty() {
            self.lines.push(Line::styled("  none", style::faint()));
        }
    }

    fn thread(&mut self, snapshot: &Snapshot, process: &Process, thread: &Thread) {
        let label = brief(&digest::thread_label(thread), MAX_NAME);
        let of = brief(&digest::process_label(process), MAX_NAME);
        self.title(&format!(
            "thread {} {label} of process {} {of}",
            thread.tid, process.pid
        ));
        let role = thread.role.map_or("native", |role| role.name());
        let ended = if thread.alive { "" } else { ", it has ended" };
        self.row("role", &format!("{role}{ended}"));
        let mut shares: Vec<(u64, &str)> = Column::ALL
            .into_iter()
            .map(|column| (column.of(&thread.ledger), column.name()))
            .filter(|(ns, _)| *ns > 0)
            .collect();
        shares.sort_unstable_by_key(|(ns, _)| std::cmp::Reverse(*ns));
        let shares: Vec<String> = shares
            .into_iter()
            .map(|(ns, name)| {
                format!(
                    "{name} {}",
                    format::share_percent(ns, thread.ledger.wall_ns)
                )
            })
            .collect();
        self.row("window", &shares.join("  "));
        let end_unix_ns = snapshot.window.start_unix_ns + snapshot.window.duration_ns;
        match (digest::wait(process, thread), thread.wait) {
            (Some(what), Some(wait)) => {
                let ns = digest::wait_ns(thread, end_unix_ns).unwrap_or(0);
                self.row(
                    "blocked",
                    &format!("{what}, for {}", digest::wait_age(&wait, ns)),
                );
            }
            _ => self.row("blocked", "not at the end of the window"),
        }
        if let Some(waits) = digest::lock_waits(&thread.lock_ns) {
            self.row("locks", &waits);
        }
        for waker in thread.wakers.iter().take(3) {
            let who = waker.tid.map_or("a timer, or not known".to_owned(), |tid| {
                let thread = process.threads.iter().find(|one| one.tid == tid);
                thread.map_or_else(|| format!("tid {tid}"), digest::thread_label)
            });
            let (cause, blocked) = (waker.cause, format::duration(waker.blocked_ns));
            self.row(
                "woken by",
                &format!(
                    "{}, {} times from {cause}, {blocked}",
                    brief(&who, 40),
                    waker.count
                ),
            );
        }
        if let Some(l) = process.loops.iter().find(|l| l.tid == thread.tid) {
            let busy = format::share_percent(l.busy_ns, l.wall_ns);
            let pending = format::maybe_count(l.pending_tasks);
            self.row(
                "loop",
                &format!("{}, busy {busy}, {pending} tasks pending", l.kind),
            );
        }
        self.head("stack, the innermost frame first, as of the latest look");
        self.stack(thread.stack.iter());
    }

    fn task(&mut self, process: &Process, l: &Loop, task: &Task) {
        let of = brief(&digest::process_label(process), MAX_NAME);
        self.title(&format!(
            "task {} of the {} loop in thread {} of process {} {of}",
            brief(&task.name, MAX_NAME),
            l.kind,
            l.tid,
            process.pid
        ));
        self.row("coroutine", &brief(&task.coroutine, MAX_NAME));
        let cancelled = match task.cancel_requested {
            true => ", cancel() was called",
            false => "",
        };
        self.row("state", &format!("{}{cancelled}", task.state));
        self.row("seen for", &format::maybe_duration(task.age_ns()));
        if let Some(wait) = digest::task_wait(task) {
            self.row("waits for", &wait);
        }
        if let Some(ns) = task.timeout_ns {
            self.row("timeout", &format::duration(ns));
        }
        if let Some(cost) = &task.cost {
            let cost = cost.cost;
            let text = format!(
                "on a CPU {}, waiting for one {}",
                format::duration(cost.on_cpu_ns),
                format::duration(cost.runnable_ns)
            );
            self.row("~cost", &text);
        }
        if let Some(exception) = &task.exception {
            self.row("failed with", &brief(exception, MAX_NAME));
        }
        self.context(&task.context);
        let names: Vec<String> = task
            .awaited_by
            .iter()
            .map(|id| match l.tasks.iter().find(|one| one.id == *id) {
                Some(one) => brief(&one.name, 40),
                None => id.to_string(),
            })
            .collect();
        if !names.is_empty() {
            self.row("awaited by", &names.join(", "));
        }
        self.head("where it waits, the innermost frame first, as of the latest look");
        self.stack(task.awaiting.iter().rev());
    }

    fn context(&mut self, context: &BTreeMap<String, String>) {
        for (name, value) in context {
            self.row(
                "context",
                &format!("{} = {}", brief(name, 40), brief(value, MAX_NAME)),
            );
        }
    }

    /// Frames with their lines of source, where these can be read.
    fn stack<'f>(&mut self, frames: impl Iterator<Item = &'f Frame>) {
        let before = self.lines.len();
        for frame in frames {
            let function = brief(&frame.function, MAX_NAME);
            let text = format!("  {function} ({}:{})", escape(&frame.file), frame.line);
            self.lines.push(Line::raw(text));
            if frame.line > 0
                && let Some(source) = self.sources.line(self.pid, &frame.file, frame.line)
            {
                let source = escape(source.trim()).into_owned();
                let source = cut(&source, MAX_NAME).into_owned();
                self.lines
                    .push(Line::styled(format!("      {source}"), style::faint()));
            }
        }
        if self.lines.len() == before {
            self.lines.push(Line::styled(
                "  none: it runs no Python code",
                style::faint(),
            ));
        }
    }
}
