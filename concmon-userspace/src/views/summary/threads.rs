//! The summary's table of where the time of threads went.

use std::cmp::Reverse;

use super::super::columns::{self, Column};
use super::super::digest;
use super::super::fold::Crowd;
use super::super::format;
use super::super::table::{Align, Table};
use super::Room;
use crate::schema::{LedgerSum, Process};

/// A column gets a place of its own when it is this share of some thread's wall, in percent.
const SHOWN_PERCENT: f64 = 1.0;
/// Cells of a name that stay where there is little room.
pub(super) const LEAST_NAME: usize = 18;

/// The threads that get a row, in the order of `tid`, and those that are summed up.
pub(super) fn split<'a>(set: &[&'a Process], room: Room) -> (Vec<Crowd<'a>>, Vec<Crowd<'a>>) {
    let mut crowds = Crowd::of(set, room.form.all);
    let others = crowds.split_off(crowds.len().min(room.rows));
    crowds.sort_by_key(|crowd| {
        let (_, thread) = crowd.members[0];
        (thread.tid, thread.started_unix_ns)
    });
    (crowds, others)
}

pub(super) fn tid(crowd: &Crowd<'_>) -> String {
    let single = crowd.single();
    single.map_or_else(String::new, |(_, thread)| thread.tid.to_string())
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
    fn of(crowd: &Crowd<'_>) -> Self {
        let is_limited = |column: &Column| {
            let mut members = crowd.members.iter();
            members.any(|(process, thread)| digest::is_limited(process, thread, *column))
        };
        Self {
            tid: tid(crowd),
            name: crowd.label(),
            ledger: crowd.ledger(),
            limited: Column::ALL.into_iter().filter(is_limited).collect(),
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

    fn percent(&self, column: Column) -> f64 {
        match format::share(column.of(&self.ledger), self.ledger.wall_ns) {
            _ if self.limited.contains(&column) => 100.0,
            share => share.unwrap_or(0.0),
        }
    }

    fn cell(&self, column: Column, times: bool) -> String {
        match column.of(&self.ledger) {
            0 if self.limited.contains(&column) => "?".to_owned(),
            ns => self.share(ns, times),
        }
    }

    /// `1.20s  12%`, or without the time.
    fn share(&self, ns: u64, times: bool) -> String {
        let share = format::share_percent(ns, self.ledger.wall_ns);
        match ns {
            0 => ".".to_owned(),
            ns if times => format!("{} {share:>4}", format::duration(ns)),
            _ => share,
        }
    }
}

/// Every nanosecond of wall is in exactly one column: what has no column of its own is in `rest`.
pub(super) fn push(text: &mut String, set: &[&Process], room: Room) {
    let form = room.form;
    let (crowds, others) = split(set, room);
    let mut rows: Vec<Row> = crowds.iter().map(Row::of).collect();
    if !others.is_empty() {
        let threads = || others.iter().flat_map(Crowd::threads);
        let sum = columns::sum(threads().map(|thread| &thread.ledger));
        rows.push(Row::sum(format!("({} others)", threads().count()), sum));
    }
    let ended: u64 = set.iter().map(|process| process.ended.threads).sum();
    if ended > 0 {
        let ledgers = set.iter().map(|process| &process.ended.ledger);
        rows.push(Row::sum(
            format!("({ended} ended earlier)"),
            columns::sum(ledgers),
        ));
    }
    if rows.is_empty() {
        return;
    }
    let most = |column: Column| {
        let each = rows.iter().map(|row| row.percent(column));
        each.fold(0.0, f64::max)
    };
    let mut shown: Vec<Column> = Column::ALL
        .into_iter()
        .filter(|column| most(*column) >= SHOWN_PERCENT)
        .collect();
    // Where there is no room, times go first, then the columns that matter least.
    let mut table = table(&rows, &shown, true);
    let mut times = true;
    while table.least_width("  ") > form.width() && (times || shown.len() > 1) {
        if !std::mem::take(&mut times) {
            let least = shown.iter().copied();
            let least = least.min_by(|a, b| {
                most(*a)
                    .total_cmp(&most(*b))
                    .then(Reverse(*a).cmp(&Reverse(*b)))
            });
            shown.retain(|column| Some(*column) != least);
        }
        table = self::table(&rows, &shown, false);
    }
    form.heading(text, 2, "where the time went, percent of wall");
    text.push_str(&table.render("  ", form));
}

fn table(rows: &[Row], shown: &[Column], times: bool) -> Table {
    let rest_of = |row: &Row| {
        let rest = Column::ALL.iter().filter(|column| !shown.contains(column));
        rest.fold(0u64, |sum, column| {
            sum.saturating_add(column.of(&row.ledger))
        })
    };
    let has_rest = rows.iter().any(|row| rest_of(row) > 0);
    let mut table = Table::default();
    table.column("TID", Align::Right);
    table.names("THREAD", LEAST_NAME);
    table.column("WALL", Align::Right);
    for column in shown {
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
        cells.extend(shown.iter().map(|column| row.cell(*column, times)));
        if has_rest {
            cells.push(row.share(rest_of(row), times));
        }
        table.row(cells);
    }
    table
}
