//! The help page of the live view: what keys do and what columns mean.

use ratatui::text::Line;

use super::super::columns::Column;
use super::super::escape::width as cells;
use super::style;

const KEYS: [(&str, &str); 16] = [
    ("q", "quit, and print the summary"),
    ("p", "pause the screen; the collection goes on"),
    (
        "s",
        "sort the section that is marked > by its next column (shares in steps of 5%)",
    ),
    ("S", "the same order from its other end"),
    (
        "/",
        "show only processes, threads and tasks whose name, id or context has this: an expression, or a \
         part of it",
    ),
    (
        "Enter",
        "details of the selected row: its stack with lines of source, what it waits for, on whom",
    ),
    ("t", "only threads, and back"),
    ("a", "only loops and tasks, and back"),
    ("g", "who waits for the GIL and who holds it, and back"),
    ("f", "findings with advice, and stalls, and back"),
    (
        "c",
        "hot functions, in the window and in the whole watch, and back",
    ),
    (
        "r",
        "HTTP requests, how long they took and lay unread, and which are under way, and back",
    ),
    ("Tab", "choose the section that scrolls, marked >"),
    ("Up Down", "select a row; PageUp, PageDown, Home, End"),
    ("+ -", "longer, shorter interval"),
    ("h", "this page, and back"),
];

const PROCESSES: [(&str, &str); 7] = [
    ("CPU%", "100 is one core"),
    ("THR CHLD", "threads; living direct children"),
    ("CTX/s", "context switches per second"),
    (
        "WAITS FOR",
        "the largest wait for the GIL, a CPU or the disk from 10% of a thread's wall on, or a loop \
         that is busy for half of its wall or more and what its thread does meanwhile; without those, \
         where most of the time of all threads went that was spent on no CPU",
    ),
    (
        "WORST",
        "the finding that matters most, and how many other rules hold",
    ),
    ("FDS LIMIT", "open files, and how many may be open"),
    ("ZOMB", "ended children that nobody waited for"),
];

const MARKS: [(&str, &str); 6] = [
    (".", "nothing at all"),
    ("<1", "something, less than 1%"),
    ("-", "none, or not known"),
    ("?", "cannot be told here; the line with ! says why"),
    ("~", "estimated"),
    (
        "!",
        "what went wrong or is missing; all of it is on top of this page",
    ),
];

const LOOPS: [(&str, &str); 5] = [
    (
        "busy",
        "the part of wall that a loop did not wait in its selector",
    ),
    (
        "lag ~p99",
        "how late timers run that are due at a random instant, 99 of 100",
    ),
    (
        "stalls",
        "steps above the stall threshold that became known in the window",
    ),
    (
        "pending ready timers",
        "tasks not done; callbacks to run now; callbacks to run later",
    ),
    (
        "SEEN",
        "how long ago the task was first seen; it may be older",
    ),
];

const CODE: [(&str, &str); 3] = [
    (
        "OWN",
        "the part of all time on a CPU that the function itself took",
    ),
    ("ALL", "the same, with what it called"),
    (
        "GIL LOCK",
        "the part of all time blocked on the GIL, on locks, that it waited itself",
    ),
];

const GIL: [(&str, &str); 3] = [
    (
        "wait",
        "blocked on the GIL, and waiting for a CPU directly after that",
    ),
    (
        "HELD BY",
        "who held it while the other thread waited, from what was seen of who woke whom; ? is nobody \
         (it was being handed over), or it cannot be told",
    ),
    ("held", "how much of the time anybody held it, sampled"),
];

fn meaning(column: Column) -> &'static str {
    match column {
        Column::OnCpu => "on_cpu: ran on a CPU",
        Column::Runnable => "runnable: had work, waited for a CPU",
        Column::Gil => "gil: had work, waited for the global interpreter lock",
        Column::Lock => {
            "lock: any other lock, queue, condition or join; idle workers: LOCK FOR work"
        }
        Column::Poll => "poll: in a selector; an idle loop waits here",
        Column::Sleep => "sleep: time.sleep and its like",
        Column::Io => "io: reading, writing, connecting",
        Column::Child => "child: waiting for a child process",
        Column::Disk => "disk: uninterruptible, mostly storage",
        Column::Stopped => "stopped: by a signal or a debugger",
        Column::Other => "other: blocked on something else",
        Column::Unknown => "unknown: not seen; 0 in normal use",
        Column::Unobserved => "unobserved: nobody looked, as was asked for",
    }
}

/// The page as lines of at most `width` cells; `troubles` are what the line with ! is about.
pub(super) fn lines(width: usize, troubles: &[String]) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    let mut section = |title: &'static str, rows: Vec<(String, &str)>| {
        if !lines.is_empty() {
            lines.push(Line::default());
        }
        lines.push(Line::styled(title, style::strong()));
        let indent = if width < 60 { 6 } else { 13 };
        for (name, text) in rows {
            let mut start = format!("  {name:<0$} ", indent - 3);
            for part in wrap(text, width.saturating_sub(start.len().max(indent))) {
                lines.push(Line::raw(format!("{start}{part}")));
                start = " ".repeat(indent);
            }
        }
    };
    let plain = |rows: &[(&str, &'static str)]| {
        rows.iter()
            .map(|(name, text)| ((*name).to_owned(), *text))
            .collect::<Vec<_>>()
    };
    if !troubles.is_empty() {
        let rows = troubles
            .iter()
            .map(|trouble| ("!".to_owned(), trouble.as_str()));
        section("Missing or wrong now", rows.collect());
    }
    section("Keys", plain(&KEYS));
    section("Processes", plain(&PROCESSES));
    let columns = Column::LIVE.map(|column| {
        (
            format!("{} {}", column.letter(), column.short()),
            meaning(column),
        )
    });
    section(
        "Threads: every nanosecond of wall is in one column; numbers are percent",
        columns.to_vec(),
    );
    section(
        "",
        plain(&[
            ("REST", "columns that have no room here"),
            ("~WAKE99", "99 of 100 wakeups got a CPU within this time"),
        ]),
    );
    section("Loops and tasks", plain(&LOOPS));
    section("GIL", plain(&GIL));
    section("Code: percent, by samples", plain(&CODE));
    section("Marks", plain(&MARKS));
    lines
}

/// Breaks text at blanks; a word longer than `width` stays whole.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if cells(line) + 1 + cells(word) <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
