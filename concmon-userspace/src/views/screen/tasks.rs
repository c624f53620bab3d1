//! The rows of event loops and their tasks: how busy a loop is, and what each task waits in.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::super::escape::{brief, cut, cut_front, left, right, width};
use super::super::{digest, format};
use super::Rows;
use super::line::push_fitting;
use super::state::{ScreenState, Section};
use super::style;
use crate::schema::{Loop, Process, Snapshot, Task, TaskState};

const STATE_CELLS: usize = 7;
const SEEN_CELLS: usize = 6;

pub(super) fn rows(
    snapshot: &Snapshot,
    cells: usize,
    from: usize,
    count: usize,
    state: &ScreenState,
    range: Option<&str>,
) -> Rows<'static> {
    let name_cells = match cells {
        0..60 => 10,
        60..110 => 16,
        _ => 24,
    };
    let mut lines = Vec::with_capacity(count);
    let mut skip = from;
    for process in &snapshot.processes {
        for l in &process.loops {
            let Some(tasks) = state.tasks(process, l) else {
                continue;
            };
            let rows = 1 + tasks.len();
            if skip >= rows || lines.len() == count {
                skip = skip.saturating_sub(rows);
                continue;
            }
            if skip == 0 {
                lines.push(loop_line(process, l, cells, state));
            }
            let first = skip.saturating_sub(1);
            skip = 0;
            // Sorting is for what is looked at only: a loop may have 100,000 tasks.
            let room = count - lines.len();
            let tasks = ordered(tasks, state).into_iter().skip(first).take(room);
            lines.extend(tasks.map(|task| task_line(task, cells, name_cells)));
        }
    }
    let title = match range {
        None => "LOOP/TASK".to_owned(),
        Some(range) if width(range) + 5 <= name_cells => format!("TASK {range}"),
        Some(range) => range.to_owned(),
    };
    Rows {
        head: format!(
            "{} {} {:>SEEN_CELLS$} AWAITS",
            left(&format!(" {title}"), name_cells + 1),
            left("STATE", STATE_CELLS),
            "SEEN"
        ),
        lines,
    }
}

/// All rows that the filter leaves.
pub(super) fn count(snapshot: &Snapshot, state: &ScreenState) -> usize {
    let of = |process: &Process| -> usize {
        let loops = process.loops.iter();
        let tasks = loops.filter_map(|l| state.tasks(process, l));
        tasks.map(|tasks| 1 + tasks.len()).sum()
    };
    snapshot.processes.iter().map(of).sum()
}

/// Running first, done last, else the oldest first, in a stable order; or as the user wants them.
fn ordered<'a>(mut tasks: Vec<&'a Task>, state: &ScreenState) -> Vec<&'a Task> {
    let (sort, reverse) = state.sorted(Section::Tasks);
    tasks.sort_by_cached_key(|task| {
        let first_seen_unix_ns = task.seen.map(|seen| seen.first_seen_unix_ns);
        let order = match (sort, task.state) {
            ("state", TaskState::Pending) => 1,
            ("state", TaskState::Done) => 2,
            _ => 0,
        };
        let text = match sort {
            "name" => task.name.clone(),
            "place" => digest::task_place(task),
            _ => String::new(),
        };
        (order, text, first_seen_unix_ns, task.id)
    });
    if reverse {
        tasks.reverse();
    }
    tasks
}

/// What stands in a row: a loop, or one of its tasks.
pub(super) fn at<'a>(
    snapshot: &'a Snapshot,
    mut row: usize,
    state: &ScreenState,
) -> Option<(&'a Process, &'a Loop, Option<&'a Task>)> {
    for process in &snapshot.processes {
        for l in &process.loops {
            let Some(tasks) = state.tasks(process, l) else {
                continue;
            };
            if row <= tasks.len() {
                let task = row.checked_sub(1);
                let task = task.and_then(|task| ordered(tasks, state).get(task).copied());
                return Some((process, l, task));
            }
            row -= 1 + tasks.len();
        }
    }
    None
}

/// As much of it as fits in whole parts, what alarms first.
fn loop_line(process: &Process, l: &Loop, cells: usize, state: &ScreenState) -> Line<'static> {
    let hot = l.utilization >= digest::BUSY_LOOP;
    let style = match hot {
        true => style::alarm(state),
        false => style::strong(),
    };
    let mut busy = format!("busy {}", format::share_percent(l.busy_ns, l.wall_ns));
    let thread = digest::loop_thread(process, l).filter(|_| hot);
    if let Some(why) = thread.and_then(digest::busy_with) {
        busy += &format!(": {why}");
    }
    let mut line = vec![
        Span::styled(format!("{:>7} {} loop  ", l.tid, l.kind), style::strong()),
        Span::styled(busy, style),
    ];
    let mut parts = Vec::new();
    if let Some(hang) = &l.hang {
        let at_least = if hang.before_watch { "at least " } else { "" };
        let text = format!("  HANGS {at_least}{}", format::duration(hang.lasting_ns));
        parts.push(Span::styled(text, style::alarm(state)));
    }
    if let Some(timing) = &l.timing {
        if let Some(late_ns) = timing.lag.as_ref().and_then(|lag| lag.p99_ns) {
            let late = format::duration(late_ns);
            parts.push(Span::raw(format!("  lag ~p99 {late}")));
        }
        if timing.stalls_count > 0 {
            let stalls = digest::plural(timing.stalls_count, "stall");
            let text = format!("  {stalls} {}", format::duration(timing.stalls_ns));
            parts.push(Span::styled(text, style::alarm(state)));
        }
    }
    if !l.running {
        parts.push(Span::raw("  not running"));
    }
    for (name, count) in [
        ("pending", l.pending_tasks),
        ("ready", l.ready),
        ("timers", l.scheduled),
    ] {
        let count = format::maybe_count(count);
        parts.push(Span::raw(format!("  {name} {count}")));
    }
    push_fitting(&mut line, parts, cells);
    Line::from(line)
}

fn task_line(task: &Task, cells: usize, name_cells: usize) -> Line<'static> {
    let start = format!(
        "  {} {} {} ",
        left(&brief(&task.name, name_cells), name_cells),
        left(task.state.name(), STATE_CELLS),
        right(&format::maybe_duration(task.age_ns()), SEEN_CELLS),
    );
    let room = cells.saturating_sub(width(&start));
    let mut place = digest::task_place(task);
    if let Some(wait) = digest::task_wait(task) {
        place = format!("{place}, waits for {wait}");
    }
    // Of a long chain both ends count: whose task it is, and where it waits.
    let text = match place.split_once(" > ") {
        Some((outer, inner)) if width(&place) > room => {
            let outer = cut(outer, room / 3);
            let left_over = room.saturating_sub(width(&outer) + 3);
            format!("{outer} > {}", cut_front(inner, left_over))
        }
        _ => place,
    };
    let style = match task.state {
        TaskState::Running => style::strong(),
        TaskState::Pending | TaskState::Done => Style::new(),
    };
    Line::styled(start + &text, style)
}
