//! Loops in the summary: how busy, lag, steps, stalls, saturation, costs by name, tasks.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::super::escape::brief;
use super::super::table::{Align, Table};
use super::super::{digest, format, stalls};
use super::Room;
use crate::schema::{Hang, Loop, Process, Stall, Task, Timing};

/// Loops of a section that are shown whole; the others have a line each.
const MAX_WHOLE: usize = 2;
/// Lines of loops of a section.
const MAX_LOOPS: usize = 10;
/// Above this, tasks are shown by coroutine.
const MAX_SINGLE_TASKS: usize = 12;
const FEW_SINGLE_TASKS: usize = 3;
/// Frames of a hang that are shown.
const MAX_FRAMES: usize = 8;
/// Cells of a name.
const MAX_NAME: usize = 40;

/// The loops of a section: those that stood still the longest first, the others in a line each.
pub(super) fn push_all(text: &mut String, set: &[&Process], room: Room) {
    let loops = set
        .iter()
        .flat_map(|process| process.loops.iter().map(move |l| (*process, l)));
    let mut loops: Vec<(&Process, &Loop)> = loops.collect();
    let stalled = |l: &Loop| l.timing.as_ref().map_or(0, |timing| timing.stalls_ns);
    if loops.len() > MAX_WHOLE {
        loops.sort_by_key(|(_, l)| Reverse((l.hang.is_some(), stalled(l), l.busy_ns)));
    }
    let most = if set.len() > 1 { 1 } else { MAX_WHOLE };
    let whole = loops.len().min(room.form.most(most));
    for (process, l) in &loops[..whole] {
        push(text, process, l, room);
    }
    let others = &loops[whole..];
    if !others.is_empty() {
        text.push('\n');
    }
    for (process, l) in others.iter().take(room.form.most(MAX_LOOPS)) {
        let mut line = format!(
            "{}: busy {}, pending tasks {}",
            name(process, l),
            format::share_percent(l.busy_ns, l.wall_ns),
            format::maybe_count(l.pending_tasks),
        );
        if let Some(timing) = &l.timing
            && timing.stalls_count > 0
        {
            let _ = write!(line, ", {}", digest::plural(timing.stalls_count, "stall"));
        }
        if let Some(hang) = &l.hang {
            let _ = write!(line, ", HANGS for {}", format::duration(hang.lasting_ns));
        }
        room.form.wrap(text, 2, 2, &line);
    }
    if others.len() > room.form.most(MAX_LOOPS) {
        let _ = writeln!(text, "  ... and {} more loops", others.len() - MAX_LOOPS);
    }
}

/// `asyncio loop in 4242 MainThread`.
fn name(process: &Process, l: &Loop) -> String {
    let place = digest::loop_thread(process, l).map_or_else(String::new, digest::thread_label);
    let name = format!("{} loop in {} {place}", l.kind, l.tid);
    name.trim_end().to_owned()
}

fn push(text: &mut String, process: &Process, l: &Loop, room: Room) {
    let form = room.form;
    form.heading(text, 2, &name(process, l));
    let share = |ns| {
        format!(
            "{} ({})",
            format::duration(ns),
            format::share_percent(ns, l.wall_ns)
        )
    };
    let busy = format!("busy {}", share(l.busy_ns));
    let hot = l.utilization >= digest::BUSY_LOOP;
    let busy = format!(
        "{}, idle {} of {}{}",
        if hot { form.paint.alarm(&busy) } else { busy },
        share(l.idle_ns),
        format::duration(l.wall_ns),
        if l.running { "" } else { ", no longer running" },
    );
    form.wrap(text, 4, 2, &busy);
    let last = format!(
        "at the last look: ready {}, timers {}, pending tasks {}, stall threshold {}",
        format::maybe_count(l.ready),
        format::maybe_count(l.scheduled),
        format::maybe_count(l.pending_tasks),
        format::maybe_duration(l.stall_threshold_ns),
    );
    form.wrap(text, 4, 2, &last);
    if let Some(hang) = &l.hang {
        push_hang(text, hang, room);
    }
    if let Some(timing) = &l.timing {
        push_timing(text, timing, l.wall_ns, room);
    }
    let single = if room.whole {
        MAX_SINGLE_TASKS
    } else {
        FEW_SINGLE_TASKS
    };
    if l.tasks.len() <= form.most(single) {
        push_tasks(text, &l.tasks, room);
    } else {
        push_coroutines(text, &l.tasks, room);
    }
}

/// The step that had not ended at the end, with its stack.
fn push_hang(text: &mut String, hang: &Hang, room: Room) {
    let line = stalls::hang(hang);
    let line = format!("{} {line}", room.form.paint.alarm("hangs"));
    room.form.wrap(text, 4, 2, &line);
    let most = room.form.most(MAX_FRAMES);
    for frame in hang.stack.iter().take(most) {
        room.form.wrap(text, 6, 2, &stalls::place(frame));
    }
    if hang.stack.len() > most {
        let more = hang.stack.len() - most;
        let _ = writeln!(text, "      ... and {more} more");
    }
}

fn push_timing(text: &mut String, timing: &Timing, wall_ns: u64, room: Room) {
    let form = room.form;
    let said = stalls::timing(timing, wall_ns, form.paint);
    if !said.is_empty() {
        form.wrap(text, 4, 2, &said);
    }
    if !timing.stalls.is_empty() {
        let _ = writeln!(text, "    {}", form.paint.bold("the longest stalls"));
        let alike = alike(&timing.stalls, room);
        let mut shown = 0;
        for stalls in alike.iter().take(room.lines) {
            shown += stalls.len() as u64;
            let more = stalls.len() - 1;
            let more = match more {
                0 => String::new(),
                more => format!(" (and {more} more there)"),
            };
            form.wrap(text, 6, 2, &format!("{}{more}", stalls::line(stalls[0])));
        }
        if timing.stalls_count > shown {
            let _ = writeln!(
                text,
                "      ... and {} more",
                format::count(timing.stalls_count - shown)
            );
        }
    }
    push_names(text, timing, wall_ns, room);
    let callbacks = timing.callbacks.iter().map(|row| (&*row.name, &row.cost));
    let callbacks = stalls::names(callbacks, wall_ns);
    if !callbacks.is_empty() {
        form.wrap(text, 4, 2, &format!("callbacks {callbacks}"));
    }
}

/// Stalls of one culprit together, of the longest first.
fn alike(stalls: &[Stall], room: Room) -> Vec<Vec<&Stall>> {
    let mut alike: Vec<Vec<&Stall>> = Vec::new();
    for stall in stalls {
        let same = |known: &Vec<&Stall>| {
            known[0].culprit == stall.culprit && known[0].coroutine == stall.coroutine
        };
        match alike.iter_mut().find(|known| !room.form.all && same(known)) {
            Some(known) => known.push(stall),
            None => alike.push(vec![stall]),
        }
    }
    alike
}

fn push_names(text: &mut String, timing: &Timing, wall_ns: u64, room: Room) {
    let rows = timing.by_name.iter();
    let rows: Vec<_> = rows
        .filter(|row| row.cost.total_ns() > 0)
        .take(room.lines)
        .collect();
    if rows.is_empty() {
        return;
    }
    let mut table = Table::default();
    table.names("TASKS BY NAME", 20);
    table.column("PENDING", Align::Right);
    table.column("~CPU", Align::Right);
    table.column("~RUNNABLE", Align::Right);
    table.column("~BLOCKED", Align::Right);
    for row in rows {
        let blocked = row
            .cost
            .total_ns()
            .saturating_sub(row.cost.on_cpu_ns)
            .saturating_sub(row.cost.runnable_ns);
        table.row(vec![
            brief(&row.name, MAX_NAME),
            format::count(row.pending),
            format::share_percent(row.cost.on_cpu_ns, wall_ns),
            format::share_percent(row.cost.runnable_ns, wall_ns),
            format::share_percent(blocked, wall_ns),
        ]);
    }
    text.push_str(&table.render("    ", room.form));
}

fn push_tasks(text: &mut String, tasks: &[Task], room: Room) {
    if tasks.is_empty() {
        return;
    }
    let mut table = Table::default();
    table.names("TASK", 12);
    table.column("STATE", Align::Left);
    table.column("SEEN FOR", Align::Right);
    table.places("AWAITS", 24);
    table.names("WAITS FOR", 16);
    for task in tasks {
        table.row(vec![
            brief(&task.name, 24),
            task.state.to_string(),
            format::maybe_duration(task.age_ns()),
            digest::task_place(task),
            digest::task_wait(task).unwrap_or_default(),
        ]);
    }
    text.push_str(&table.render("    ", room.form));
}

/// One row per coroutine, state and place, the most frequent first.
fn push_coroutines(text: &mut String, tasks: &[Task], room: Room) {
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
    groups.sort_by_key(|(_, (count, _))| Reverse(*count));
    let mut table = Table::default();
    table.column("TASKS", Align::Right);
    table.names("COROUTINE", 16);
    table.column("STATE", Align::Left);
    table.column("OLDEST", Align::Right);
    table.places("AWAITS", 24);
    let most = room.rows;
    for ((coroutine, state, place), (count, oldest)) in groups.iter().take(most) {
        table.row(vec![
            format::count(*count),
            brief(coroutine, 32),
            (*state).to_owned(),
            format::duration(*oldest),
            place.clone(),
        ]);
    }
    text.push_str(&table.render("    ", room.form));
    let hidden = &groups[groups.len().min(most)..];
    if !hidden.is_empty() {
        let tasks: u64 = hidden.iter().map(|(_, (count, _))| count).sum();
        let _ = writeln!(
            text,
            "    ... {tasks} more tasks in {} other places",
            hidden.len()
        );
    }
}
