//! What probes have counted, tasks by name and thread pools: lines for reports, tables for the summary.

use std::fmt::Write as _;

use super::escape::{brief, escape};
use super::table::{Align, Table};
use super::{Form, format};
use crate::schema::{CountedPool, CountedTasks, Exact};

/// Names on a line, and rows of the table; the others are counted.
const MAX_NAMES: usize = 3;
const MAX_ROWS: usize = 20;
/// Cells of a name.
const MAX_NAME: usize = 40;

/// `pool upload 120 submitted 3 failed 2 unretrieved`, one line for each pool that did something.
pub(super) fn push_pool_lines(text: &mut String, exact: Option<&Exact>, form: Form) {
    let active = |row: &&CountedPool| row.submitted + row.failed + row.unretrieved > 0;
    for row in pools(exact).iter().filter(active).take(MAX_NAMES) {
        let mut line = format!("pool {} {} submitted", pool_name(row), row.submitted);
        for (count, outcome) in [(row.failed, "failed"), (row.unretrieved, "unretrieved")] {
            if count > 0 {
                let _ = write!(line, " {count} {outcome}");
            }
        }
        form.wrap(text, 2, 2, &line);
    }
}

/// All thread pools, or why nothing was counted.
pub(super) fn push_pool_table(text: &mut String, exact: Option<&Exact>, form: Form) {
    let Some(known) = exact.and_then(|exact| exact.pools.as_ref()) else {
        return;
    };
    form.heading(text, 2, "work of thread pools, each piece counted");
    if let Some(limit) = known.limits.iter().find(|limit| limit.field == "rows") {
        form.wrap(text, 4, 2, &escape(&limit.reason));
    }
    let rows = pools(exact);
    if rows.is_empty() {
        return;
    }
    let mut table = Table::default();
    table.names("POOL", 12);
    for column in ["SUBMITTED", "FAILED", "UNRETRIEVED"] {
        table.column(column, Align::Right);
    }
    for row in rows.iter().take(form.most(MAX_ROWS)) {
        let mut cells = vec![pool_name(row)];
        cells.extend([row.submitted, row.failed, row.unretrieved].map(|count| count.to_string()));
        table.row(cells);
    }
    text.push_str(&table.render("    ", form));
    if rows.len() > form.most(MAX_ROWS) {
        let _ = writeln!(text, "    ... and {} more", rows.len() - MAX_ROWS);
    }
}

fn pool_name(row: &CountedPool) -> String {
    match (&row.name_prefix, row.queue) {
        (Some(name), _) => brief(name, MAX_NAME),
        (None, Some(queue)) => queue.to_string(),
        (None, None) => "?".to_owned(),
    }
}

fn pools(exact: Option<&Exact>) -> &[CountedPool] {
    exact
        .and_then(|exact| exact.pools.as_ref()?.rows.as_deref())
        .unwrap_or_default()
}

/// `counted handle 120 started 117 finished 2 failed, ...`; nothing where nothing was counted.
pub(super) fn push_line(text: &mut String, exact: Option<&Exact>, form: Form) {
    let rows = rows(exact);
    if rows.is_empty() {
        return;
    }
    let shown: Vec<String> = rows.iter().take(MAX_NAMES).map(said).collect();
    let mut line = format!("counted {}", shown.join(", "));
    if rows.len() > MAX_NAMES {
        let _ = write!(line, ", and {} more", rows.len() - MAX_NAMES);
    }
    form.wrap(text, 2, 2, &line);
}

fn said(row: &CountedTasks) -> String {
    let mut said = format!("{} {} started", brief(&row.name, MAX_NAME), row.started);
    for (count, outcome) in [
        (row.finished, "finished"),
        (row.failed, "failed"),
        (row.cancelled, "cancelled"),
        (row.gone.unwrap_or(0), "gone"),
    ] {
        if count > 0 {
            let _ = write!(said, " {count} {outcome}");
        }
    }
    said
}

/// Everything that was counted, or why nothing was.
pub(super) fn push_table(text: &mut String, exact: Option<&Exact>, form: Form) {
    let Some(exact) = exact else {
        return;
    };
    if exact.tasks.is_none() && exact.pools.is_some() {
        // Pools alone were asked for.
        return;
    }
    form.heading(text, 2, "tasks, each one counted");
    if let Some(limit) = exact.limits.first() {
        form.wrap(text, 4, 2, &escape(&limit.reason));
    }
    let rows = rows(Some(exact));
    if rows.is_empty() {
        return;
    }
    let mut table = Table::default();
    table.names("NAME", 12);
    for column in [
        "TID",
        "STARTED",
        "FINISHED",
        "FAILED",
        "CANCELLED",
        "GONE",
        "LIVED p50",
        "p99",
        "MAX",
    ] {
        table.column(column, Align::Right);
    }
    for row in rows.iter().take(form.most(MAX_ROWS)) {
        let counts = [row.started, row.finished, row.failed, row.cancelled];
        let lives = [
            row.duration.p50_ns,
            row.duration.p99_ns,
            row.duration.max_ns,
        ];
        let mut cells = vec![brief(&row.name, MAX_NAME), row.tid.to_string()];
        cells.extend(counts.map(|count| count.to_string()));
        cells.push(row.gone.map_or("?".to_owned(), |gone| gone.to_string()));
        cells.extend(lives.map(format::maybe_duration));
        table.row(cells);
    }
    text.push_str(&table.render("    ", form));
    if rows.len() > form.most(MAX_ROWS) {
        let _ = writeln!(text, "    ... and {} more", rows.len() - MAX_ROWS);
    }
}

fn rows(exact: Option<&Exact>) -> &[CountedTasks] {
    exact
        .and_then(|exact| exact.tasks.as_deref())
        .unwrap_or_default()
}
