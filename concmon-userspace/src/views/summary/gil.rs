//! The summary's table of who waited for the GIL, and because of whom.

use super::super::table::{Align, Table};
use super::super::{Paint, digest, format, gil};
use super::MAX_ROWS;
use crate::schema::Process;

pub(super) fn push(text: &mut String, process: &Process, duration_ns: u64, paint: Paint) {
    let Some(gil) = process.gil.as_ref().filter(|gil| gil::is_used(gil)) else {
        return;
    };
    text.push_str(&format!(
        "\n{}\n    {}\n    {}\n",
        paint.bold("  GIL"),
        gil::usage(gil, duration_ns),
        gil::waits(gil)
    ));
    if gil.pairs.is_empty() {
        return;
    }
    let mut table = Table::default();
    for (head, align) in [
        ("HELD BY", Align::Left),
        ("WAITED", Align::Left),
        ("FOR", Align::Right),
        ("SHARE", Align::Right),
        ("WAITS", Align::Right),
    ] {
        table.column(head, align);
    }
    let whole_ns = gil.wait_ns.unwrap_or(0);
    for pair in gil.pairs.iter().take(MAX_ROWS) {
        table.row(vec![
            gil::name(process, pair.holder_tid),
            gil::name(process, Some(pair.victim_tid)),
            format::duration(pair.wait_ns),
            format::share_percent(pair.wait_ns, whole_ns),
            format::count(pair.count),
        ]);
    }
    text.push_str(&table.render("    ", paint));
    let hidden = gil.pairs.len().saturating_sub(MAX_ROWS);
    if hidden > 0 {
        let hidden = digest::plural(hidden as u64, "pair");
        text.push_str(&format!("    ... and {hidden} of less waiting\n"));
    }
}
