//! The summary's table of executors: who works, and what waits.

use std::collections::BTreeMap;

use super::super::escape::brief;
use super::super::format;
use super::super::names::stem;
use super::super::table::{Align, Table};
use super::Room;
use crate::schema::{Executor, Process};

/// Cells of a name.
const MAX_NAME: usize = 40;

pub(super) fn push(text: &mut String, set: &[&Process], room: Room) {
    let mut rows: BTreeMap<(String, &str), Vec<&Executor>> = BTreeMap::new();
    for executor in set.iter().flat_map(|process| &process.executors) {
        let name = brief(executor.name_prefix.as_deref().unwrap_or("-"), MAX_NAME);
        let name = if set.len() > 1 { stem(&name) } else { name };
        rows.entry((name, executor.kind.name()))
            .or_default()
            .push(executor);
    }
    if rows.is_empty() {
        return;
    }
    let mut rows: Vec<_> = rows.into_iter().collect();
    let waiting = |executors: &[&Executor]| {
        let each = executors
            .iter()
            .map(|one| one.queued.unwrap_or(0) + one.begun());
        each.sum::<u64>()
    };
    rows.sort_by_key(|(_, executors)| std::cmp::Reverse(waiting(executors)));
    let mut table = Table::default();
    table.names("EXECUTOR", 12);
    table.column("OF", Align::Left);
    for head in ["WORKERS", "MOST", "IDLE", "RUNNING", "QUEUED"] {
        table.column(head, Align::Right);
    }
    for ((name, kind), executors) in rows.iter().take(room.rows) {
        let sum = |of: fn(&Executor) -> Option<u64>| {
            let each = executors.iter().map(|one| of(one));
            format::maybe_count(each.sum::<Option<u64>>())
        };
        table.row(vec![
            match executors.len() {
                1 => name.clone(),
                count => format!("{name} ×{count}"),
            },
            (*kind).to_owned(),
            sum(|one| Some(one.workers)),
            sum(|one| one.max_workers),
            sum(|one| one.workers_idle),
            sum(|one| Some(one.begun())),
            sum(|one| one.queued),
        ]);
    }
    text.push('\n');
    text.push_str(&table.render("  ", room.form));
    if rows.len() > room.rows {
        text.push_str(&format!("  ... and {} more\n", rows.len() - room.rows));
    }
}
