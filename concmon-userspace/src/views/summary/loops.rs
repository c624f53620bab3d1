//! The time of a loop in the summary: lag, steps, stalls, saturation, costs by name.

use std::fmt::Write as _;

use super::super::escape::brief;
use super::super::table::{Align, Table};
use super::super::{Paint, format, stalls};
use crate::schema::{Hang, Timing};

/// Stalls and names that are shown; the others are counted.
const MAX_STALLS: usize = 10;
const MAX_NAMES: usize = 12;
/// Frames of a hang that are shown.
const MAX_FRAMES: usize = 8;
/// Cells of a name.
const MAX_NAME: usize = 40;

/// The step that had not ended at the end, with its stack.
pub(super) fn push_hang(text: &mut String, hang: &Hang, paint: Paint) {
    let line = stalls::hang(hang);
    let _ = writeln!(text, "    {} {line}", paint.alarm("hangs"));
    for frame in hang.stack.iter().take(MAX_FRAMES) {
        let _ = writeln!(text, "      {}", stalls::place(frame));
    }
    if hang.stack.len() > MAX_FRAMES {
        let more = hang.stack.len() - MAX_FRAMES;
        let _ = writeln!(text, "      ... and {more} more");
    }
}

pub(super) fn push(text: &mut String, timing: &Timing, wall_ns: u64, paint: Paint) {
    let said = stalls::timing(timing, wall_ns, paint);
    if !said.is_empty() {
        let _ = writeln!(text, "    {said}");
    }
    if !timing.stalls.is_empty() {
        let _ = writeln!(text, "    {}", paint.bold("the longest stalls"));
        for stall in timing.stalls.iter().take(MAX_STALLS) {
            let _ = writeln!(text, "      {}", stalls::line(stall));
        }
        let shown = timing.stalls.len().min(MAX_STALLS) as u64;
        if timing.stalls_count > shown {
            let _ = writeln!(
                text,
                "      ... and {} more",
                format::count(timing.stalls_count - shown)
            );
        }
    }
    push_names(text, timing, wall_ns, paint);
    let callbacks = timing.callbacks.iter().map(|row| (&*row.name, &row.cost));
    let callbacks = stalls::names(callbacks, wall_ns);
    if !callbacks.is_empty() {
        let _ = writeln!(text, "    callbacks {callbacks}");
    }
}

fn push_names(text: &mut String, timing: &Timing, wall_ns: u64, paint: Paint) {
    let rows: Vec<_> = timing
        .by_name
        .iter()
        .filter(|row| row.cost.total_ns() > 0)
        .take(MAX_NAMES)
        .collect();
    if rows.is_empty() {
        return;
    }
    let mut table = Table::default();
    table.column("TASKS BY NAME", Align::Left);
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
    text.push_str(&table.render("    ", paint));
}
