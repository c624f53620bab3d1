//! The summary's table of threads that stood still when the watch ended: what for, for how long, and where.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::super::escape::cut_middle;
use super::super::table::{Align, Table};
use super::super::{Paint, digest};
use super::threads::MAX_NAME;
use super::{MAX_ROWS, MAX_TEXT};
use crate::schema::{Process, Thread};

/// Who has been blocked for less is not shown, ns.
const LONG_NS: u64 = 1_000_000_000;
/// Cells of a wait and of a place.
const MAX_CELLS: usize = MAX_TEXT / 2;

/// For how long, ns, and who.
type Blocked<'a> = (u64, &'a Thread);

/// Those that wait for the same in the same place are one row. `end_unix_ns`: when the watch ended.
pub(super) fn push(text: &mut String, process: &Process, end_unix_ns: u64, paint: Paint) {
    let mut rows: BTreeMap<(String, Option<String>), Vec<Blocked<'_>>> = BTreeMap::new();
    for thread in &process.threads {
        let (Some(ns), Some(what)) = (
            digest::wait_ns(thread, end_unix_ns).filter(|ns| *ns >= LONG_NS),
            digest::wait(process, thread),
        ) else {
            continue;
        };
        let place = digest::own_place(&thread.stack);
        rows.entry((what, place)).or_default().push((ns, thread));
    }
    if rows.is_empty() {
        return;
    }
    let mut rows: Vec<_> = rows.into_iter().collect();
    for (_, threads) in &mut rows {
        threads.sort_by_key(|(ns, thread)| (Reverse(*ns), thread.tid));
    }
    rows.sort_by_key(|(_, threads)| (Reverse(threads[0].0), threads[0].1.tid));
    let mut table = Table::default();
    for (head, align) in [
        ("TID", Align::Right),
        ("THREAD", Align::Left),
        ("FOR", Align::Right),
        ("WAITS", Align::Left),
        ("IN", Align::Left),
    ] {
        table.column(head, align);
    }
    for ((what, place), threads) in rows.iter().take(MAX_ROWS) {
        let (ns, first) = threads[0];
        let name = cut_middle(&digest::thread_label(first), MAX_NAME).into_owned();
        let age = first.wait.map(|wait| digest::wait_age(&wait, ns));
        table.row(vec![
            first.tid.to_string(),
            match threads.len() {
                1 => name,
                count => format!("{name} and {} more", count - 1),
            },
            age.unwrap_or_default(),
            cut_middle(what, MAX_CELLS).into_owned(),
            cut_middle(place.as_deref().unwrap_or("-"), MAX_CELLS).into_owned(),
        ]);
    }
    text.push_str(&format!(
        "\n{}\n",
        paint.bold("  blocked when the watch ended, for a second or more")
    ));
    text.push_str(&table.render("  ", paint));
    if rows.len() > MAX_ROWS {
        text.push_str(&format!("  ... and {} more\n", rows.len() - MAX_ROWS));
    }
}
