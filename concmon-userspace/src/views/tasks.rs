//! Tasks as text: one per line, as a forest, or in groups.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write};

use super::digest;
use super::dump::{push_gaps, push_head, push_loop};
use super::escape::brief;
use super::forest::{self, by_number};
use super::table::{Align, Table};
use super::{Form, Paint, format};
use crate::cli::{Arrangement, GroupBy};
use crate::model::dump::{Dump, Loop, Process};
use crate::schema::{Address, Frame, LoopKind, Task, TaskState};

/// Cells of one text in a table; JSON has all of it.
const MAX_CELLS: usize = 48;
/// The names that asyncio gives in the order in which tasks are made.
const COUNTED: &str = "Task-";

/// Writes the tasks of all processes and flushes.
///
/// # Errors
/// What the writer says; a closed pipe is [`io::ErrorKind::BrokenPipe`].
pub fn write(
    dump: &Dump,
    arrangement: Arrangement,
    form: Form,
    out: &mut dyn Write,
) -> io::Result<()> {
    for (index, process) in dump.processes.iter().enumerate() {
        let mut text = String::new();
        let paint = form.paint;
        if index > 0 {
            text.push('\n');
        }
        push_head(&mut text, process, paint);
        push_count(&mut text, process);
        match arrangement {
            Arrangement::Table => push_table(&mut text, process, paint),
            Arrangement::Tree => {
                for one in &process.loops {
                    text.push('\n');
                    push_loop(&mut text, process, one, paint);
                    forest::push(&mut text, &one.tasks, form);
                }
            }
            Arrangement::Groups(by) => push_groups(&mut text, process, by, paint),
        }
        push_gaps(&mut text, process);
        out.write_all(text.as_bytes())?;
    }
    out.flush()
}

/// How many tasks there are, by state.
#[derive(Clone, Copy, Debug, Default)]
struct States {
    pending: u64,
    running: u64,
    done: u64,
}

impl States {
    fn count(&mut self, task: &Task) {
        match task.state {
            TaskState::Running => self.running += 1,
            TaskState::Done => self.done += 1,
            TaskState::Pending => self.pending += 1,
        }
    }

    fn total(&self) -> u64 {
        self.pending + self.running + self.done
    }
}

impl std::fmt::Display for States {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [
            (self.running, "running"),
            (self.pending, "pending"),
            (self.done, "done"),
        ];
        let parts: Vec<String> = parts
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, state)| format!("{count} {state}"))
            .collect();
        f.write_str(&parts.join(", "))
    }
}

fn push_count(text: &mut String, process: &Process) {
    let mut states = States::default();
    for task in process.loops.iter().flat_map(|one| &one.tasks) {
        states.count(task);
    }
    let _ = match states.total() {
        0 => writeln!(text, "no tasks"),
        1 => writeln!(text, "1 task: {states}"),
        total => writeln!(text, "{total} tasks: {states}"),
    };
}

/// Folders of the libraries that every wait goes through.
const LIBRARIES: [&str; 3] = ["/asyncio/", "/trio/", "/anyio/"];
/// Where trio hands over to its scheduler: below every wait there is.
const TRAPS: &str = "/trio/_core/";

/// The innermost frame of a task; when that is a library's, behind the frame that called the library.
fn spots(task: &Task) -> impl Iterator<Item = &Frame> {
    let own = |frame: &&Frame| !LIBRARIES.iter().any(|folder| frame.file.contains(folder));
    let frames = &task.awaiting;
    let innermost = frames.iter().rfind(|frame| !frame.file.contains(TRAPS));
    let innermost = innermost.or(frames.last());
    let caller = frames
        .iter()
        .rfind(own)
        .filter(|own| Some(*own) != innermost);
    caller.into_iter().chain(innermost)
}

/// Where a task waits, and for what: `fetch app.py:12 > Queue.get queues.py:186 (Queue)`.
fn place(task: &Task) -> String {
    let places: Vec<String> = spots(task)
        .map(|frame| {
            let function = brief(&frame.function, MAX_CELLS);
            format!("{function} {}", digest::place(frame))
        })
        .collect();
    let mut text = places.join(" > ");
    match &task.waits_for {
        Some(wait) if text.is_empty() => text = format!("({})", brief(&wait.kind, MAX_CELLS)),
        Some(wait) => text += &format!(" ({})", brief(&wait.kind, MAX_CELLS)),
        None if text.is_empty() && task.state == TaskState::Pending => text.push('-'),
        None if text.is_empty() => text = format!("({})", task.state),
        None => {}
    }
    text
}

/// Running first, done last, else by name.
fn ordered(one: &Loop) -> Vec<&Task> {
    let mut tasks: Vec<&Task> = one.tasks.iter().collect();
    let rank = |task: &Task| match task.state {
        TaskState::Running => 0,
        TaskState::Done => 2,
        TaskState::Pending => 1,
    };
    tasks.sort_by_key(|task| (rank(task), by_number(&task.name), task.id));
    tasks
}

fn push_table(text: &mut String, process: &Process, paint: Paint) {
    let tasks = || process.loops.iter().flat_map(|one| &one.tasks);
    let names: HashMap<Address, &str> = tasks().map(|task| (task.id, task.name.as_str())).collect();
    let with_context = tasks().any(|task| !task.context.is_empty());
    let mut table = Table::default();
    table.column("TID", Align::Right);
    for head in [
        "LOOP",
        "ID",
        "NAME",
        "STATE",
        "COROUTINE",
        "WAITS AT",
        "AWAITED BY",
    ] {
        table.column(head, Align::Left);
    }
    if with_context {
        table.column("CONTEXT", Align::Left);
    }
    for one in &process.loops {
        for task in ordered(one) {
            let awaiters: Vec<String> = task
                .awaited_by
                .iter()
                .take(MAX_AWAITERS)
                .map(|id| match names.get(id) {
                    Some(name) => brief(name, MAX_CELLS),
                    None => id.to_string(),
                })
                .collect();
            let mut awaiters = awaiters.join(", ");
            if task.awaited_by.len() > MAX_AWAITERS {
                let more = task.awaited_by.len() - MAX_AWAITERS;
                let _ = write!(awaiters, " and {more} more");
            }
            table.row(vec![
                one.tid
                    .map_or_else(|| "-".to_owned(), |tid| tid.to_string()),
                one.kind.map_or("-", LoopKind::name).to_owned(),
                task.id.to_string(),
                brief(&task.name, MAX_CELLS),
                forest::state(task).into_owned(),
                brief(&task.coroutine, MAX_CELLS),
                place(task),
                if awaiters.is_empty() {
                    "-".to_owned()
                } else {
                    awaiters
                },
                forest::context(task),
            ]);
        }
    }
    if !table.is_empty() {
        text.push('\n');
        text.push_str(&table.render("", Form::unlimited(paint)));
    }
}

/// Awaiters of one task that are named in its line.
const MAX_AWAITERS: usize = 3;

/// Tasks with something in common.
#[derive(Default)]
struct Group {
    label: String,
    states: States,
    places: BTreeMap<String, u64>,
    /// The lowest number among asyncio's own names.
    oldest: Option<u64>,
}

fn push_groups(text: &mut String, process: &Process, by: GroupBy, paint: Paint) {
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    for task in process.loops.iter().flat_map(|one| &one.tasks) {
        let place = place(task);
        let group = groups.entry(key(task, by)).or_default();
        if group.states.total() == 0 {
            group.label = match by {
                GroupBy::Await => place.clone(),
                GroupBy::Coroutine => brief(&task.coroutine, MAX_CELLS),
                GroupBy::Name => brief(&folded(&task.name), MAX_CELLS),
            };
        }
        group.states.count(task);
        *group.places.entry(place).or_default() += 1;
        if let (COUNTED, Some(number)) = by_number(&task.name) {
            group.oldest = Some(group.oldest.map_or(number, |oldest| oldest.min(number)));
        }
    }
    if groups.is_empty() {
        return;
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.states.total()));
    let mut table = Table::default();
    table.column("TASKS", Align::Right);
    match by {
        GroupBy::Await => {}
        GroupBy::Coroutine => table.column("COROUTINE", Align::Left),
        GroupBy::Name => table.column("NAME", Align::Left),
    }
    table.column("WAITS AT", Align::Left);
    table.column("OLDEST", Align::Left);
    table.column("STATES", Align::Left);
    for group in &groups {
        let mut cells = vec![group.states.total().to_string()];
        match by {
            GroupBy::Await => cells.push(group.label.clone()),
            GroupBy::Coroutine | GroupBy::Name => {
                cells.extend([group.label.clone(), most_at(group)])
            }
        }
        let oldest = group.oldest.map(|number| format!("{COUNTED}{number}"));
        cells.push(oldest.unwrap_or_else(|| "-".to_owned()));
        cells.push(group.states.to_string());
        table.row(cells);
    }
    text.push('\n');
    text.push_str(&table.render("", Form::unlimited(paint)));
    if groups.iter().any(|group| group.oldest.is_some()) {
        text.push_str(
            "OLDEST: of the tasks that asyncio named itself, which it numbers as they are made\n",
        );
    }
}

/// Where most tasks of a group wait, and in how many other places the others do.
fn most_at(group: &Group) -> String {
    let most = group.places.iter().max_by_key(|(_, count)| **count);
    let Some((place, _)) = most else {
        return String::new();
    };
    match group.places.len() {
        1 => place.clone(),
        places => format!("{place}, and {} more", format::count(places as u64 - 1)),
    }
}

/// What tasks of a group have in common, whole: labels are cut, and say no folders.
fn key(task: &Task, by: GroupBy) -> String {
    match by {
        GroupBy::Coroutine => task.coroutine.clone(),
        GroupBy::Name => folded(&task.name),
        GroupBy::Await => {
            let mut key = String::new();
            for frame in spots(task) {
                let _ = write!(key, "{} {}:{} > ", frame.function, frame.file, frame.line);
            }
            key += task.waits_for.as_ref().map_or("", |wait| &wait.kind);
            if key.is_empty() {
                key += task.state.name();
            }
            key
        }
    }
}

/// `worker-17` as `worker-N`.
fn folded(name: &str) -> String {
    match by_number(name) {
        (stem, _) if stem.len() < name.len() => format!("{stem}N"),
        _ => name.to_owned(),
    }
}
