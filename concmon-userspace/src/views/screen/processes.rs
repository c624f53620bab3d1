//! The process rows: one line each, as a tree, with what holds the process back most.

use ratatui::text::{Line, Span};

use super::super::digest::{self, Bottleneck};
use super::super::escape::{cut, cut_middle, left, right, width};
use super::super::format;
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
    ("CHLD", 4, 70, |p, _| format::maybe_count(p.children_count)),
    ("CTX/s", 5, 70, |p, window| {
        let switches = p.context_switches;
        format::rate(
            switches.voluntary.saturating_add(switches.involuntary),
            window,
        )
    }),
    ("ZOMB", 4, 110, |p, _| format::maybe_count(p.zombies_count)),
    ("FDS", 5, 110, |p, _| format::maybe_count(p.fds_count)),
    ("LIMIT", 5, 110, |p, _| format::maybe_count(p.fds_limit)),
];

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
        _ => 28,
    };
    let numbers = || NUMBERS.iter().filter(|(_, _, needs, _)| cells >= *needs);
    let mut head = format!(
        "{:>6} {}",
        "PID",
        left(range.unwrap_or("PROCESS"), name_cells)
    );
    for (name, width, _, _) in numbers() {
        head += &format!(" {name:>width$}");
    }
    head += "  BOTTLENECK";
    let room = cells.saturating_sub(width(&head) + 1 - "BOTTLENECK".len());

    let lines = ordered(snapshot, state).into_iter().skip(from).take(count);
    let lines = lines.map(|(depth, process)| {
        let label = format!("{:1$}{2}", "", depth.min(6), digest::process_label(process));
        let mut text = format!("{:>7} {}", process.pid, left(&label, name_cells));
        for (_, width, _, value) in numbers() {
            text += " ";
            text += &right(&value(process, snapshot.window.duration_ns), *width);
        }
        text += "  ";
        Line::from(vec![Span::raw(text), verdict(process, state, room)])
    });
    Rows {
        head,
        lines: lines.collect(),
    }
}

/// All processes with their depth, in the order of their rows.
pub(super) fn ordered<'a>(
    snapshot: &'a Snapshot,
    state: &ScreenState,
) -> Vec<(usize, &'a Process)> {
    let (sort, reverse) = state.sorted(Section::Processes);
    let mut processes = digest::tree(&snapshot.processes);
    if sort != "tree" {
        let rank = |process: &Process| match sort {
            "cpu" => (process.cpu_percent / 5.0).round() as u64,
            "rss" => process.rss_bytes.unwrap_or(0),
            "threads" => process.threads_count.unwrap_or(0),
            "switches" => {
                let switches = process.context_switches;
                switches.voluntary.saturating_add(switches.involuntary)
            }
            _ => 0,
        };
        processes.sort_by_cached_key(|(_, process)| {
            let name = match sort {
                "name" => digest::process_label(process),
                _ => String::new(),
            };
            (std::cmp::Reverse(rank(process)), name, process.pid)
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

/// How it ended, what holds it back, or what it is.
fn verdict(process: &Process, state: &ScreenState, room: usize) -> Span<'static> {
    if let Some(exited) = process.exited {
        return Span::styled(
            cut(&digest::exited_label(exited), room).into_owned(),
            style::strong(),
        );
    }
    match Bottleneck::of(process) {
        Some(worst) => {
            let full = format!("{} ({})", worst.what, cut_middle(&worst.place, 16));
            let text = if width(&full) <= room {
                full
            } else {
                worst.what
            };
            let style = match worst.alarm {
                true => style::alarm(state),
                false => style::strong(),
            };
            Span::styled(cut(&text, room).into_owned(), style)
        }
        None if process
            .python
            .as_ref()
            .is_none_or(|python| !python.supported) =>
        {
            let label = digest::python_label(process.python.as_ref());
            Span::styled(cut(&label, room).into_owned(), style::faint())
        }
        None => Span::styled("none", style::faint()),
    }
}
