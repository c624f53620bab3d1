//! The page about GILs: of each process its use, what each thread waited, and who held it meanwhile.

use ratatui::text::{Line, Span};

use super::super::digest::ALARM_PERCENT;
use super::super::escape::{left, right};
use super::super::{format, gil};
use super::Rows;
use super::state::ScreenState;
use super::style;
use crate::schema::{Gil, Process, Snapshot};

/// The processes that the filter leaves and that have a GIL, or a reason why not that is worth a line.
fn processes<'a>(snapshot: &'a Snapshot, state: &ScreenState) -> impl Iterator<Item = &'a Process> {
    let processes = snapshot.processes.iter().filter(|p| p.python.is_some());
    processes.filter(|process| state.leaves_process(process))
}

fn rows_of(process: &Process) -> usize {
    process
        .gil
        .as_ref()
        .map_or(1, |gil| 2 + gil::victims(gil).len() + gil.pairs.len())
}

/// All rows of the page.
pub(super) fn count(snapshot: &Snapshot, state: &ScreenState) -> usize {
    processes(snapshot, state).map(rows_of).sum()
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
        60..110 => 20,
        _ => 24,
    };
    let mut lines = Vec::with_capacity(count);
    let mut skip = from;
    for process in processes(snapshot, state) {
        let rows = rows_of(process);
        if skip >= rows || lines.len() >= count {
            skip = skip.saturating_sub(rows);
            continue;
        }
        let all = process_lines(process, snapshot.window.duration_ns, name_cells, state);
        let room = count - lines.len();
        lines.extend(all.into_iter().skip(skip).take(room));
        skip = 0;
    }
    Rows {
        head: format!(
            "{} {} {:>7} {:>5} {:>6}",
            left(&format!(" {}", range.unwrap_or("HELD BY")), name_cells + 2),
            left("WAITED", name_cells),
            "FOR",
            "SHARE",
            "WAITS"
        ),
        lines,
    }
}

fn process_lines(
    process: &Process,
    duration_ns: u64,
    name_cells: usize,
    state: &ScreenState,
) -> Vec<Line<'static>> {
    let Some(gil) = &process.gil else {
        let limit = process.limits.iter().find(|limit| limit.field == "gil");
        let reason = limit.map_or("not known", |limit| &*limit.reason);
        let text = format!(
            "{:>7} no GIL: {}",
            process.pid,
            super::super::escape::brief(reason, 100)
        );
        return vec![Line::styled(text, style::faint())];
    };
    let mut lines = vec![
        Line::styled(
            format!("{:>7} {}", process.pid, gil::usage(gil, duration_ns)),
            style::strong(),
        ),
        Line::styled(format!("{:>7} {}", "", gil::waits(gil)), style::strong()),
    ];
    let row = |holder: &str, victim: u32, ns: u64, count: u64| {
        let text = format!(
            "  {} {} {} ",
            left(holder, name_cells),
            left(&gil::name(process, Some(victim)), name_cells),
            right(&format::duration(ns), 7),
        );
        let share = right(&format::share_percent(ns, gil.wait_ns.unwrap_or(0)), 5);
        (text, share, format!(" {:>6}", format::count(count)))
    };
    for (victim, ns, count) in gil::victims(gil) {
        let (text, share, count) = row("(all)", victim, ns, count);
        lines.push(Line::raw(text + &share + &count));
    }
    for pair in &gil.pairs {
        let holder = gil::name(process, pair.holder_tid);
        let (text, share, count) = row(&holder, pair.victim_tid, pair.wait_ns, pair.count);
        let style = match is_alarming(gil, pair.wait_ns) && pair.holder_tid.is_some() {
            true => style::alarm(state),
            false => style::faint(),
        };
        lines.push(Line::from(vec![
            Span::raw(text),
            Span::styled(share, style),
            Span::raw(count),
        ]));
    }
    lines
}

fn is_alarming(gil: &Gil, ns: u64) -> bool {
    let share = format::share(ns, gil.wait_ns.unwrap_or(0));
    share.is_some_and(|percent| percent >= ALARM_PERCENT)
}
