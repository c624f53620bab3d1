//! The summary's first table: a line for each process, and the totals.

use std::fmt::Write as _;

use super::super::overview::{self, Cells};
use super::super::table::{Align, Table};
use super::super::{Form, digest};
use super::MAX_ROWS;
use crate::schema::Process;

/// `window_ns`: how long the window is.
pub(super) fn push(text: &mut String, tree: &[(usize, &Process)], window_ns: u64, form: Form) {
    let mut table = Table::default();
    table.column("PID", Align::Right);
    table.column("ROLE", Align::Left);
    table.names("PROCESS", 20);
    for head in ["CPU", "RSS", "THREADS"] {
        table.column(head, Align::Right);
    }
    table.names("WAITS FOR", 12);
    table.names("WORST", 12);
    let most = form.most(MAX_ROWS);
    let rows = overview::rows(tree, most);
    for row in rows.iter().take(most) {
        table.row(in_order(row.cells(window_ns)));
    }
    if tree.len() > 1 {
        let all: Vec<&Process> = tree.iter().map(|(_, process)| *process).collect();
        table.row(in_order(overview::totals(&all, window_ns)));
    }
    text.push('\n');
    text.push_str(&table.render("  ", form));
    if rows.len() > most {
        let hidden = rows[most..].iter().map(|row| row.set.len()).sum::<usize>();
        let _ = writeln!(
            text,
            "  ... and {} more, which are in the totals",
            digest::processes(hidden as u64)
        );
    }
}

fn in_order(cells: Cells) -> Vec<String> {
    let Cells {
        pid,
        role,
        label,
        cpu,
        rss,
        threads,
        waits,
        worst,
        ..
    } = cells;
    vec![pid, role, label, cpu, rss, threads, waits, worst]
}
