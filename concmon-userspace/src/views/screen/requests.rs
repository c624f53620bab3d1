//! The page about HTTP requests: of each process what was answered, and what is under way.

use ratatui::text::Line;

use super::super::escape::{left, right};
use super::super::{digest, format, requests};
use super::Rows;
use super::state::ScreenState;
use super::style;
use crate::schema::{Http, Process, Snapshot};

/// Cells of a number.
const NUMBER: usize = 8;

fn processes<'a>(
    snapshot: &'a Snapshot,
    state: &ScreenState,
) -> impl Iterator<Item = (&'a Process, &'a Http)> {
    let processes = snapshot.processes.iter();
    let left = processes.filter(|process| state.leaves_process(process));
    left.filter_map(|process| Some((process, process.http.as_ref()?)))
}

/// All rows of the page.
pub(super) fn count(snapshot: &Snapshot, state: &ScreenState) -> usize {
    let each = processes(snapshot, state);
    each.map(|(process, http)| {
        1 + http.requests.len() + http.active.len() + requests::peers(process).count()
    })
    .sum()
}

pub(super) fn rows(
    snapshot: &Snapshot,
    cells: usize,
    from: usize,
    count: usize,
    state: &ScreenState,
    range: Option<&str>,
) -> Rows<'static> {
    let name_cells = cells.saturating_sub(6 * (NUMBER + 1)).max(10);
    let heads = ["RATE/s", "COUNT", "P50", "P99", "UNREAD50", "UNREAD99"];
    let heads = heads.map(|head| format!(" {head:>NUMBER$}")).concat();
    let title = format!(" {}", range.unwrap_or("REQUEST"));
    let head = left(&title, name_cells) + &heads;
    let mut lines = Vec::new();
    for (process, http) in processes(snapshot, state) {
        let mut said = format!("{:>7} {}", process.pid, digest::process_label(process));
        let remarks = requests::remarks(http);
        if !remarks.is_empty() {
            said += &format!(": {}", remarks.join(", "));
        }
        lines.push(Line::styled(left(&said, cells), style::strong()));
        for row in &http.requests {
            let [p50, p99] = requests::percentiles(&row.duration);
            let [unread50, unread99] = requests::percentiles(&row.queue);
            let rate = format::rate(row.count, snapshot.window.duration_ns);
            let count = format::count(row.count);
            let numbers = [rate, count, p50, p99, unread50, unread99];
            let numbers = numbers.map(|number| format!(" {}", right(&number, NUMBER)));
            let name = left(&format!("  {}", requests::name(row)), name_cells);
            lines.push(Line::raw(name + &numbers.concat()));
        }
        for peer in requests::peers(process) {
            lines.push(Line::raw(left(&format!("  {peer}"), cells)));
        }
        for active in &http.active {
            let said = format!("  > {}", requests::under_way(active));
            lines.push(Line::styled(left(&said, cells), style::faint()));
        }
    }
    if lines.is_empty() {
        let limits = snapshot.processes.iter().flat_map(|one| &one.limits);
        let reason = limits.into_iter().find(|limit| limit.field == "http");
        let said = reason.map_or("requests were not looked for", |limit| &*limit.reason);
        let said = format!("  {}", super::super::escape::brief(said, 200));
        lines.push(Line::styled(said, style::faint()));
    }
    Rows {
        head,
        lines: lines.into_iter().skip(from).take(count).collect(),
    }
}
