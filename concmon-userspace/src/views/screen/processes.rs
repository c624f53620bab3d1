//! The process rows: one line each, as a tree, with what the process waits for and its worst finding.

use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::super::escape::{cut_middle, left, right, width};
use super::super::overview::{self, Cells};
use super::super::{digest, format};
use super::Rows;
use super::state::{ScreenState, Section};
use super::style;
use crate::schema::{Process, Snapshot};

/// A number column: its head, its cells, the screen width it needs to be shown.
type Number = (&'static str, usize, usize, fn(&Process, u64) -> String);

const NUMBERS: [Number; 8] = [
    ("CPU%", 5, 0, |p, _| format::percent_digits(p.cpu_percent)),
    ("RSS", 5, 60, |p, _| format::maybe_bytes(p.rss_bytes)),
    ("THR", 4, 60, |p, _| format::maybe_count(p.threads_count)),
    ("CHLD", 4, 110, |p, _| format::maybe_count(p.children_count)),
    ("CTX/s", 5, 110, |p, window| {
        format::rate(switches(p), window)
    }),
    ("ZOMB", 4, 130, |p, _| format::maybe_count(p.zombies_count)),
    ("FDS", 5, 130, |p, _| format::maybe_count(p.fds_count)),
    ("LIMIT", 5, 130, |p, _| format::maybe_count(p.fds_limit)),
];
/// From this width on the role has a column of its own.
const MIN_ROLE: usize = 110;
const ROLE: usize = 6;
/// Below this width there is room for what it waits for or for its worst finding.
const MIN_BOTH: usize = 60;

fn switches(process: &Process) -> u64 {
    let switches = process.context_switches;
    switches.voluntary.saturating_add(switches.involuntary)
}

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
        60..110 => 17,
        110..160 => 26,
        _ => 40,
    };
    let numbers = || NUMBERS.iter().filter(|(_, _, needs, _)| cells >= *needs);
    let mut head = format!(
        "{:>6} {}",
        "PID",
        left(range.unwrap_or("PROCESS"), name_cells)
    );
    if cells >= MIN_ROLE {
        head += &format!(" {:<ROLE$}", "ROLE");
    }
    for (name, width, _, _) in numbers() {
        head += &format!(" {name:>width$}");
    }
    // The mark of the section in focus stands before it, a gap behind it.
    let room = cells.saturating_sub(width(&head) + 3);
    let waits = match cells {
        0..MIN_BOTH => room,
        _ => room / 2,
    };
    head += &format!("  {}", left("WAITS FOR", waits));
    if cells >= MIN_BOTH {
        head += "  WORST";
    }
    let lines = ordered(snapshot, state).into_iter().skip(from).take(count);
    let lines = lines.map(|(depth, process)| {
        let row = overview::Row {
            depth,
            set: vec![process],
        };
        let cells_of = row.cells(snapshot.window.duration_ns);
        let mut text = format!("{:>7} {}", process.pid, left(&cells_of.label, name_cells));
        if cells >= MIN_ROLE {
            text += &format!(" {}", left(&cells_of.role, ROLE));
        }
        for (_, width, _, value) in numbers() {
            text += " ";
            text += &right(&value(process, snapshot.window.duration_ns), *width);
        }
        text += "  ";
        let worst = cells_of.worst.clone();
        let mut spans = vec![Span::raw(text)];
        if cells < MIN_BOTH {
            // The one that matters more.
            spans.push(match worst.as_str() {
                "-" => waits_for(process, &cells_of, state, waits),
                worst => Span::styled(cut_middle(worst, waits).into_owned(), style::alarm(state)),
            });
            return Line::from(spans);
        }
        spans.push(waits_for(process, &cells_of, state, waits));
        let style = match worst.as_str() {
            "-" => style::faint(),
            _ => style::alarm(state),
        };
        let worst = cut_middle(&worst, room.saturating_sub(waits + 2)).into_owned();
        spans.push(Span::styled(format!("  {worst}"), style));
        Line::from(spans)
    });
    Rows {
        head,
        lines: lines.collect(),
    }
}

/// All processes that the filter leaves, with their depth, in the order of their rows.
pub(super) fn ordered<'a>(
    snapshot: &'a Snapshot,
    state: &ScreenState,
) -> Vec<(usize, &'a Process)> {
    let (sort, reverse) = state.sorted(Section::Processes);
    let mut processes = digest::tree(&snapshot.processes);
    processes.retain(|(_, process)| state.leaves_process(process));
    if sort != "tree" {
        let rank = |process: &Process| match sort {
            "cpu" => (process.cpu_percent / 5.0).round() as u64,
            "rss" => process.rss_bytes.unwrap_or(0),
            "threads" => process.threads_count.unwrap_or(0),
            "children" => process.children_count.unwrap_or(0),
            "switches" => switches(process),
            "zombies" => process.zombies_count.unwrap_or(0),
            "files" => process.fds_count.unwrap_or(0),
            "limit" => process.fds_limit.unwrap_or(0),
            "worst" => overview::weight(process),
            _ => 0,
        };
        processes.sort_by_cached_key(|(depth, process)| {
            let cells = || {
                let set = vec![*process];
                overview::Row { depth: *depth, set }.cells(snapshot.window.duration_ns)
            };
            let text = match sort {
                "name" => digest::process_label(process),
                "role" => process
                    .role
                    .map_or_else(String::new, |role| role.to_string()),
                "waits" => cells().waits,
                _ => String::new(),
            };
            (std::cmp::Reverse(rank(process)), text, process.pid)
        });
        for (depth, _) in &mut processes {
            *depth = 0;
        }
    }
    if reverse {
        processes.reverse();
    }
    processes
}

/// How it ended, what it waits for, or what it is, in so many cells.
fn waits_for(process: &Process, cells: &Cells, state: &ScreenState, room: usize) -> Span<'static> {
    let is_known = process
        .python
        .as_ref()
        .is_some_and(|python| python.supported);
    let (text, style) = match &cells.place {
        _ if process.exited.is_some() => (cells.waits.clone(), style::strong()),
        _ if !is_known && !cells.alarm => (
            digest::python_label(process.python.as_ref()),
            style::faint(),
        ),
        Some(place) => {
            let full = format!("{} ({})", cells.waits, cut_middle(place, 24));
            let text = if width(&full) <= room {
                full
            } else {
                cells.waits.clone()
            };
            (text, style::alarm(state))
        }
        None => (cells.waits.clone(), Style::new()),
    };
    Span::styled(left(&text, room), style)
}
