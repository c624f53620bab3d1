//! Who awaits whom: tasks as a forest, in the shape of `python -m asyncio pstree`.
//!
//! Roots are the tasks that nobody awaits. Under each task is its coroutine chain, and under the
//! innermost frame are the tasks that it awaits. Any graph is shown, each task once: a task with
//! several awaiters is referred to after its first time, and a cycle ends in a line that names it. Equal
//! trees beside one another are shown once, with their count.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::iter::once;

use super::escape::escape;
use super::fold::MANY;
use super::shapes::Shapes;
use super::{Form, Paint, names};
use crate::schema::{Address, Frame, Task, TaskState};

/// Levels of one tree; what lies deeper is shown as a tree of its own.
const MAX_LEVELS: usize = 64;
/// How far up a tree a cycle is looked for.
const MAX_CYCLE: usize = 1_000;
/// Tasks of one cycle that are named.
const MAX_NAMED: usize = 8;
/// Contexts of equal tasks that are shown.
const MAX_CONTEXTS: usize = 3;

/// Appends the forest of these tasks, which are those of one loop.
pub(super) fn push(text: &mut String, tasks: &[Task], form: Form) {
    let mut forest = Forest::new(tasks, form);
    for (root, alike) in forest.together(&forest.roots()) {
        forest.tree(text, root, &alike);
    }
    // What is left is awaited by others that are left: each of these has a cycle above it.
    for task in forest.order.clone() {
        if !forest.shown[task] {
            let root = forest.cycle_above(task);
            forest.tree(text, root, &[]);
        }
    }
}

/// `main (/srv/app.py:88)`, without a line where there is none; just a name where there is no file.
pub(super) fn frame(frame: &Frame) -> String {
    let (function, file) = (escape(&frame.function), escape(&frame.file));
    match frame.line {
        _ if file.is_empty() => function.into_owned(),
        0 => format!("{function} ({file})"),
        line => format!("{function} ({file}:{line})"),
    }
}

/// What a task waits for, `Queue 0x7f...`; empty where that is not known.
pub(super) fn waits_for(task: &Task) -> String {
    let Some(wait) = &task.waits_for else {
        return String::new();
    };
    let mut text = escape(&wait.kind).into_owned();
    if let Some(object) = wait.object {
        text = format!("{text} {object}");
    }
    text
}

/// The state in words: `pending`, `cancelling`, `done: ValueError, never retrieved`.
pub(super) fn state(task: &Task) -> Cow<'static, str> {
    match (&task.exception, task.retrieved) {
        _ if !task.is_done() && task.cancel_requested => {
            format!("{}, cancelling", task.state).into()
        }
        (Some(exception), retrieved) if task.is_done() => {
            let never = match retrieved {
                Some(false) => ", never retrieved",
                _ => "",
            };
            format!("done: {}{never}", escape(exception)).into()
        }
        _ => task.state.name().into(),
    }
}

/// `request_id=abc, trace_id=17`; empty where there is none.
pub(super) fn context(task: &Task) -> String {
    let values = task.context.iter();
    let values: Vec<String> = values
        .map(|(name, value)| format!("{}={}", escape(name), escape(value)))
        .collect();
    values.join(", ")
}

/// A name with its number at the end: `Task-2` comes before `Task-10`.
pub(super) fn by_number(name: &str) -> (&str, Option<u64>) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    (stem, name[stem.len()..].parse().ok())
}

/// What a task's lines say, without its name, its context, and addresses.
fn lines(task: &Task) -> String {
    let mut lines = format!("{}\n{}\n", state(task), task.coroutine);
    for one in &task.awaiting {
        lines += &frame(one);
        lines.push('\n');
    }
    if let Some(wait) = &task.waits_for {
        lines += &wait.kind;
    }
    lines
}

struct Forest<'a> {
    tasks: &'a [Task],
    paint: Paint,
    /// All tasks, by name.
    order: Vec<usize>,
    /// Whom each task awaits, in that order.
    awaits: Vec<Vec<usize>>,
    awaited_by: Vec<Vec<usize>>,
    /// Of equal numbers are equal trees; `None`: there is no other.
    shapes: Vec<Option<usize>>,
    /// Many alike are one line.
    folds: bool,
    shown: Vec<bool>,
    /// Under whom a task was shown.
    above: Vec<Option<usize>>,
    /// Trees that go on below, each with those that are like it.
    deferred: Vec<(usize, Vec<usize>)>,
}

impl<'a> Forest<'a> {
    fn new(tasks: &'a [Task], form: Form) -> Self {
        let index: HashMap<Address, usize> = tasks
            .iter()
            .enumerate()
            .map(|(at, task)| (task.id, at))
            .collect();
        let mut order: Vec<usize> = (0..tasks.len()).collect();
        order.sort_by_key(|at| (by_number(&tasks[*at].name), tasks[*at].id));
        let mut awaits = vec![Vec::new(); tasks.len()];
        let mut awaited_by = vec![Vec::new(); tasks.len()];
        for at in &order {
            let mut parents: Vec<usize> = tasks[*at]
                .awaited_by
                .iter()
                .filter_map(|id| index.get(id).copied())
                .collect();
            parents.sort_unstable();
            parents.dedup();
            for parent in &parents {
                awaits[*parent].push(*at);
            }
            awaited_by[*at] = parents;
        }
        let roots = order.iter().copied();
        let roots: Vec<usize> = roots.filter(|at| awaited_by[*at].is_empty()).collect();
        let shapes = match form.all {
            true => vec![None; tasks.len()],
            false => {
                let lines: Vec<String> = tasks.iter().map(lines).collect();
                Shapes::below(&roots, &lines, &awaits, &awaited_by)
            }
        };
        Forest {
            tasks,
            paint: form.paint,
            order,
            awaits,
            awaited_by,
            shapes,
            folds: !form.all,
            shown: vec![false; tasks.len()],
            above: vec![None; tasks.len()],
            deferred: Vec::new(),
        }
    }

    fn roots(&self) -> Vec<usize> {
        let roots = self.order.iter().copied();
        roots
            .filter(|task| self.awaited_by[*task].is_empty())
            .collect()
    }

    /// Tasks beside one another, each with those that are like it: they are shown with the first.
    fn together(&self, tasks: &[usize]) -> Vec<(usize, Vec<usize>)> {
        let mut counts: HashMap<usize, usize> = HashMap::new();
        for shape in tasks.iter().filter_map(|at| self.shapes[*at]) {
            *counts.entry(shape).or_default() += 1;
        }
        let mut places: HashMap<usize, usize> = HashMap::new();
        let mut rows: Vec<(usize, Vec<usize>)> = Vec::new();
        for at in tasks {
            let shape = self.shapes[*at].filter(|shape| counts[shape] >= MANY);
            match shape.and_then(|shape| places.get(&shape)) {
                Some(place) => rows[*place].1.push(*at),
                None => {
                    if let Some(shape) = shape {
                        places.insert(shape, rows.len());
                    }
                    rows.push((*at, Vec::new()));
                }
            }
        }
        rows
    }

    /// A tree that is like another one needs no lines.
    fn pass_over(&mut self, at: usize) {
        let mut todo = vec![at];
        while let Some(at) = todo.pop() {
            if !std::mem::replace(&mut self.shown[at], true) {
                todo.extend(&self.awaits[at]);
            }
        }
    }

    /// A task in a cycle from which `task` is reached; every task above it has an awaiter.
    fn cycle_above(&self, task: usize) -> usize {
        let mut met = vec![task];
        let mut seen: std::collections::HashSet<usize> = met.iter().copied().collect();
        loop {
            let last = met[met.len() - 1];
            // Whoever was shown has everything that it awaits shown: there is none above.
            let Some(&next) = self.awaited_by[last].first() else {
                return last;
            };
            if !seen.insert(next) {
                return next;
            }
            met.push(next);
        }
    }

    /// A tree, and those that it was too deep for.
    fn tree(&mut self, text: &mut String, root: usize, alike: &[usize]) {
        self.task(text, root, alike, &mut String::new(), 0, true);
        while let Some((root, alike)) = self.deferred.pop() {
            if !self.shown[root] {
                self.task(text, root, &alike, &mut String::new(), 0, true);
            }
        }
    }

    fn name(&self, task: usize) -> Cow<'a, str> {
        match self.tasks[task].name.as_str() {
            "" => self.tasks[task].id.to_string().into(),
            name => escape(name),
        }
    }

    fn task(
        &mut self,
        text: &mut String,
        at: usize,
        alike: &[usize],
        indent: &mut String,
        levels: usize,
        last: bool,
    ) {
        self.shown[at] = true;
        let task = &self.tasks[at];
        let mut label = self.paint.bold(&self.label(at, alike));
        if task.state != TaskState::Pending || task.cancel_requested {
            let _ = write!(label, "  {}", state(task));
        }
        let contexts = self.contexts(at, alike);
        if !contexts.is_empty() {
            let _ = write!(label, "  [{contexts}]");
        }
        let before = indent.len();
        node(text, indent, last, &label);
        descend(indent, last);
        let mut levels = levels + 1;
        let awaited = std::mem::take(&mut self.awaits[at]);
        let object = |at: &usize| self.tasks[*at].waits_for.as_ref().map(|wait| wait.object);
        let one_object = alike.iter().all(|other| object(other) == object(&at));
        let wait = match &task.waits_for {
            Some(wait) if !one_object => escape(&wait.kind).into_owned(),
            _ => waits_for(task),
        };
        let leaf = awaited.is_empty() && !wait.is_empty();
        let mut lines: Vec<String> = task.awaiting.iter().map(frame).collect();
        match lines.last_mut() {
            Some(innermost) if leaf => *innermost += &format!(", waits for {wait}"),
            None if leaf => lines.push(format!("waits for {wait}")),
            _ => {}
        }
        if task.awaiting.is_empty() && !task.coroutine.is_empty() {
            lines.insert(0, escape(&task.coroutine).into_owned());
        }
        // Each frame is the only one under the one above it.
        for line in lines {
            node(text, indent, true, &line);
            descend(indent, true);
            levels += 1;
        }
        let mut rows = self.together(&awaited);
        let again = self.take_shown(at, &mut rows);
        for (position, row) in rows.iter().enumerate() {
            let last = position + 1 == rows.len() && again.is_empty();
            self.child(text, at, row, indent, levels, last);
        }
        if let Some((first, others)) = again.split_first() {
            let label = format!("{}, see above", self.label(*first, others));
            node(text, indent, true, &label);
        }
        self.awaits[at] = awaited;
        indent.truncate(before);
        for other in alike {
            self.pass_over(*other);
        }
    }

    /// Takes the tasks that have been shown elsewhere out of `rows`, where they are many and no cycle is among them:
    /// gathers of the same tasks, say.
    fn take_shown(&self, parent: usize, rows: &mut Vec<(usize, Vec<usize>)>) -> Vec<usize> {
        let is_again = |(at, _): &(usize, _)| self.shown[*at] && self.cycle(parent, *at).is_none();
        if !self.folds || rows.iter().filter(|row| is_again(row)).count() < MANY {
            return Vec::new();
        }
        let again = rows.extract_if(.., |row| is_again(row));
        again
            .flat_map(|(at, alike)| once(at).chain(alike))
            .collect()
    }

    /// `(T) Task-7`; of several that are alike `(T) Task-# ×2000`.
    fn label(&self, at: usize, alike: &[usize]) -> String {
        if alike.is_empty() {
            return format!("(T) {}", self.name(at));
        }
        let tasks: Vec<Cow<'_, str>> = once(&at).chain(alike).map(|at| self.name(*at)).collect();
        let stem = names::stem(&tasks[0]);
        let label = match tasks.iter().all(|name| names::stem(name) == stem) {
            true => names::common(tasks.iter().map(AsRef::as_ref)),
            false => format!("{} and others", tasks[0]),
        };
        format!("(T) {label} ×{}", tasks.len())
    }

    /// The context variables of a task and of those that are like it.
    fn contexts(&self, at: usize, alike: &[usize]) -> String {
        let mut contexts: Vec<String> = Vec::new();
        let mut more = 0;
        for at in once(&at).chain(alike) {
            let context = context(&self.tasks[*at]);
            if context.is_empty() || contexts.contains(&context) {
                continue;
            }
            match contexts.len() < MAX_CONTEXTS {
                true => contexts.push(context),
                false => more += 1,
            }
        }
        let shown = contexts.join("; ");
        match more {
            0 => shown,
            more => format!("{shown}; and {more} more"),
        }
    }

    fn child(
        &mut self,
        text: &mut String,
        parent: usize,
        (at, alike): &(usize, Vec<usize>),
        indent: &mut String,
        levels: usize,
        last: bool,
    ) {
        let at = *at;
        if let Some(cycle) = self.cycle(parent, at) {
            node(text, indent, last, &self.paint.alarm(&cycle));
        } else if self.shown[at] {
            let label = format!("(T) {}, see above", self.name(at));
            node(text, indent, last, &label);
        } else {
            self.above[at] = Some(parent);
            if levels < MAX_LEVELS {
                self.task(text, at, alike, indent, levels, last);
            } else {
                let label = format!("{}, see below", self.label(at, alike));
                self.deferred.push((at, alike.clone()));
                node(text, indent, last, &label);
            }
        }
    }

    /// `cycle: A -> B -> A`, where `at` is `parent` or above it.
    fn cycle(&self, parent: usize, at: usize) -> Option<String> {
        if !self.shown[at] {
            return None;
        }
        let upwards = std::iter::successors(Some(parent), |task| self.above[*task]);
        let mut members = Vec::new();
        let closed = upwards.take(MAX_CYCLE).any(|task| {
            members.push(task);
            task == at
        });
        if !closed {
            return None;
        }
        members.reverse();
        let mut names: Vec<Cow<'_, str>> = members.iter().map(|task| self.name(*task)).collect();
        if names.len() > MAX_NAMED {
            let left_out = names.len() - MAX_NAMED;
            let more = Cow::Owned(format!("({left_out} more)"));
            names.splice(MAX_NAMED - 1..names.len() - 1, [more]);
        }
        names.push(self.name(at));
        Some(format!("cycle: {}", names.join(" -> ")))
    }
}

/// One line of a tree.
fn node(text: &mut String, indent: &str, last: bool, label: &str) {
    let branch = if last { "└── " } else { "├── " };
    let _ = writeln!(text, "{indent}{branch}{label}");
}

fn descend(indent: &mut String, last: bool) {
    indent.push_str(if last { "    " } else { "│   " });
}
