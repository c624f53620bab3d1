//! The page about findings: which rules hold, what to do, and the stalls of the window.

use ratatui::text::Line;

use super::super::escape::{cut, escape};
use super::super::{format, stalls};
use super::render::Rows;
use super::state::ScreenState;
use super::style;
use crate::model::snapshot::{Process, Snapshot};

fn stalls_of(process: &Process) -> impl Iterator<Item = &crate::model::snapshot::Stall> {
    let timings = process.loops.iter().filter_map(|one| one.timing.as_ref());
    timings.flat_map(|timing| &timing.stalls)
}

fn rows_of(process: &Process) -> usize {
    2 * process.findings.len() + stalls_of(process).count()
}

/// All rows of the page; one that says that there is nothing, when there is.
pub(super) fn count(snapshot: &Snapshot) -> usize {
    snapshot.processes.iter().map(rows_of).sum::<usize>().max(1)
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
        .min_by_key(|(_, finding)| finding.severity != "critical")?;
    Some(format!(
        "{} {} {}: {}",
        process.pid, finding.severity, finding.rule, finding.summary
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
    let mut lines = Vec::new();
    for process in &snapshot.processes {
        for finding in &process.findings {
            let text = format!(
                "{:>7} {} {} ({}): {}",
                process.pid,
                finding.severity,
                finding.rule,
                format::duration(finding.active_ns),
                escape(&finding.summary)
            );
            lines.push(Line::styled(
                cut(&text, cells).into_owned(),
                style::alarm(state),
            ));
            let text = format!("{:>7} -> {}", "", escape(&finding.advice));
            lines.push(Line::raw(cut(&text, cells).into_owned()));
        }
        for stall in stalls_of(process) {
            let text = format!("{:>7} stall {}", process.pid, stalls::line(stall));
            lines.push(Line::raw(cut(&text, cells).into_owned()));
        }
    }
    if lines.is_empty() {
        lines.push(Line::styled("        nothing found", style::faint()));
    }
    Rows {
        head: format!(" FINDINGS {}", range.unwrap_or("")),
        lines: lines.into_iter().skip(from).take(count).collect(),
    }
}
