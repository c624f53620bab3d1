//! The page about findings: which rules hold, what to do, and the stalls of the window.

use ratatui::text::Line;

use super::super::escape::{cut, escape, width};
use super::super::{format, stalls};
use super::Rows;
use super::state::ScreenState;
use super::style;
use crate::schema::{Process, Severity, Snapshot};

fn stalls_of(process: &Process) -> impl Iterator<Item = &crate::schema::Stall> {
    let timings = process.loops.iter().filter_map(|one| one.timing.as_ref());
    timings.flat_map(|timing| &timing.stalls)
}

/// Lines that one finding or stall may take.
const MAX_LINES: usize = 4;
/// Where text begins: behind the process id.
const INDENT: usize = 8;

/// A row, and whether it is one of those that matter most.
struct Row {
    text: String,
    alarm: bool,
}

/// All rows of the page that the filter leaves, wrapped to `cells`.
fn all(snapshot: &Snapshot, state: &ScreenState, cells: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    let processes = snapshot.processes.iter();
    for process in processes.filter(|process| state.leaves_process(process)) {
        let mut push = |text: &str, alarm| {
            let room = cells.saturating_sub(INDENT);
            for (number, part) in wrap(text, room).into_iter().enumerate() {
                let pid = match number {
                    0 if !text.starts_with("->") => process.pid.to_string(),
                    _ => String::new(),
                };
                rows.push(Row {
                    text: format!("{pid:>width$} {part}", width = INDENT - 1),
                    alarm,
                });
            }
        };
        for finding in &process.findings {
            let text = format!(
                "{} {} ({}): {}",
                finding.severity,
                finding.rule,
                format::duration(finding.active_ns),
                escape(&finding.summary)
            );
            push(&text, true);
            push(&format!("-> {}", escape(&finding.advice)), false);
        }
        for hang in process.loops.iter().filter_map(|one| one.hang.as_ref()) {
            push(&format!("hangs {}", stalls::hang(hang)), true);
        }
        for stall in stalls_of(process) {
            push(&format!("stall {}", stalls::line(stall)), false);
        }
    }
    rows
}

/// Lines of at most `cells`, broken between words; what does not fit into the last one is cut.
fn wrap(text: &str, cells: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split(' ') {
        let full = lines.len() >= MAX_LINES;
        let Some(last) = lines.last_mut() else { break };
        if last.is_empty() {
            last.push_str(word);
        } else if full || width(last) + 1 + width(word) <= cells {
            last.push(' ');
            last.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
        .iter()
        .map(|line| cut(line, cells).into_owned())
        .collect()
}

/// How many rows the page has; one says that there is nothing, when there is.
pub(super) fn count(snapshot: &Snapshot, state: &ScreenState, cells: usize) -> usize {
    all(snapshot, state, cells).len().max(1)
}

/// The worst finding, for the head of every page.
pub(super) fn worst(snapshot: &Snapshot) -> Option<String> {
    let processes = snapshot.processes.iter();
    let (process, finding) = processes
        .flat_map(|process| {
            process
                .findings
                .iter()
                .map(move |finding| (process, finding))
        })
        .min_by_key(|(_, finding)| finding.severity != Severity::Critical)?;
    Some(format!(
        "{} {} {}: {}",
        process.pid,
        finding.severity,
        finding.rule,
        escape(&finding.summary)
    ))
}

pub(super) fn rows(
    snapshot: &Snapshot,
    cells: usize,
    from: usize,
    count: usize,
    state: &ScreenState,
    range: Option<&str>,
) -> Rows<'static> {
    let mut lines: Vec<Line<'static>> = all(snapshot, state, cells)
        .into_iter()
        .map(|row| match row.alarm {
            true => Line::styled(row.text, style::alarm(state)),
            false => Line::raw(row.text),
        })
        .collect();
    if lines.is_empty() {
        lines.push(Line::styled("        nothing found", style::faint()));
    }
    Rows {
        head: format!(" FINDINGS {}", range.unwrap_or("")),
        lines: lines.into_iter().skip(from).take(count).collect(),
    }
}
