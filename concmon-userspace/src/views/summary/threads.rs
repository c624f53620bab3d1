//! The summary's table of where the time of each thread went.

use super::super::columns::{self, Column};
use super::super::digest;
use super::super::escape::cut_middle;
use super::super::table::{Align, Table};
use super::super::{Paint, format};
use super::MAX_ROWS;
use crate::schema::{LedgerSum, Process, Thread};

/// A column gets a place of its own when it is this share of some thread's wall, in percent.
const SHOWN_PERCENT: f64 = 1.0;
pub(super) const MAX_NAME: usize = 24;

/// The threads that get a row of their own, in the order of `tid`, and those that are summed up.
pub(super) fn split(process: &Process) -> (Vec<&Thread>, Vec<&Thread>) {
    let mut threads: Vec<&Thread> = process.threads.iter().collect();
    threads.sort_by_key(|thread| (std::cmp::Reverse(digest::activity_ns(thread)), thread.tid));
    let others = threads.split_off(threads.len().min(MAX_ROWS));
    threads.sort_by_key(|thread| (thread.tid, thread.started_unix_ns));
    (threads, others)
}

/// A thread, or several summed up.
struct Row {
    tid: String,
    name: String,
    ledger: LedgerSum,
    /// Columns that cannot be told for it.
    limited: Vec<Column>,
}

impl Row {
    fn of(process: &Process, thread: &Thread) -> Self {
        let name = cut_middle(&digest::thread_label(thread), MAX_NAME).into_owned();
        let limited = Column::ALL.into_iter();
        Self {
            tid: thread.tid.to_string(),
            name: match thread.alive {
                true => name,
                false => format!("{name} (ended)"),
            },
            ledger: thread.ledger,
            limited: limited
                .filter(|column| digest::is_limited(process, thread, *column))
                .collect(),
        }
    }

    fn sum(name: String, ledger: LedgerSum) -> Self {
        Self {
            tid: String::new(),
            name,
            ledger,
            limited: Vec::new(),
        }
    }

    fn matters(&self, column: Column) -> bool {
        let share = format::share(column.of(&self.ledger), self.ledger.wall_ns);
        share.is_some_and(|percent| percent >= SHOWN_PERCENT) || self.limited.contains(&column)
    }

    fn cell(&self, column: Column) -> String {
        match column.of(&self.ledger) {
            0 if self.limited.contains(&column) => "?".to_owned(),
            ns => self.duration_and_share(ns),
        }
    }

    fn duration_and_share(&self, ns: u64) -> String {
        match ns {
            0 => ".".to_owned(),
            ns => {
                let share = format::share_percent(ns, self.ledger.wall_ns);
                format!("{} {share:>4}", format::duration(ns))
            }
        }
    }
}

/// Every nanosecond of wall is in exactly one column: what has no column of its own is in `rest`.
pub(super) fn push(text: &mut String, process: &Process, paint: Paint) {
    let (threads, others) = split(process);
    let mut rows: Vec<Row> = threads
        .into_iter()
        .map(|thread| Row::of(process, thread))
        .collect();
    if !others.is_empty() {
        let sum = columns::sum(others.iter().map(|thread| &thread.ledger));
        rows.push(Row::sum(format!("({} others)", others.len()), sum));
    }
    if process.ended.threads > 0 {
        let name = format!("({} ended earlier)", process.ended.threads);
        rows.push(Row::sum(name, process.ended.ledger));
    }
    if rows.is_empty() {
        return;
    }
    let (shown, rest): (Vec<Column>, Vec<Column>) = Column::ALL
        .into_iter()
        .partition(|column| rows.iter().any(|row| row.matters(*column)));
    let rest_of = |row: &Row| {
        rest.iter().fold(0u64, |sum, column| {
            sum.saturating_add(column.of(&row.ledger))
        })
    };
    let has_rest = rows.iter().any(|row| rest_of(row) > 0);

    let mut table = Table::default();
    table.column("TID", Align::Right);
    table.column("THREAD", Align::Left);
    table.column("WALL", Align::Right);
    for column in &shown {
        table.column(column.name(), Align::Right);
    }
    if has_rest {
        table.column("rest", Align::Right);
    }
    for row in rows {
        let mut cells = vec![
            row.tid.clone(),
            row.name.clone(),
            format::duration(row.ledger.wall_ns),
        ];
        cells.extend(shown.iter().map(|column| row.cell(*column)));
        if has_rest {
            cells.push(row.duration_and_share(rest_of(&row)));
        }
        table.row(cells);
    }
    text.push_str(&format!(
        "\n{}\n",
        paint.bold("  where the time went, percent of wall")
    ));
    text.push_str(&table.render("  ", paint));
}
