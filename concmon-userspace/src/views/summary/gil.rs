//! The summary's table of who waited for the GIL, and because of whom.

use std::collections::BTreeMap;

use super::super::table::{Align, Table};
use super::super::{digest, format, gil, names};
use super::Room;
use crate::schema::{Gil, Process};

/// Rows of the table, at most; the others are counted.
const MAX_ROWS: usize = 12;

pub(super) fn push(text: &mut String, set: &[&Process], duration_ns: u64, room: Room) {
    let form = room.form;
    let used = set.iter().filter_map(|process| {
        let gil = process.gil.as_ref().filter(|gil| gil::is_used(gil))?;
        let matters = room.whole || gil.wait_ns.is_none_or(|ns| ns >= duration_ns / 100);
        matters.then_some((*process, gil))
    });
    let used: Vec<(&Process, &Gil)> = used.collect();
    if used.is_empty() {
        return;
    }
    if let ([_], [(process, gil)], false) = (set, &used[..], room.whole) {
        let holder = gil::holders(gil)
            .into_iter()
            .find(|holder| holder.holder_tid.is_some());
        let most = holder.map_or_else(String::new, |holder| {
            let share = format::share_percent(holder.wait_ns, gil.wait_ns.unwrap_or(0));
            format!("; {share} for {}", gil::name(process, holder.holder_tid))
        });
        let (usage, waits) = (gil::usage(gil, duration_ns), gil::waits(gil));
        text.push('\n');
        return form.wrap(text, 2, 2, &format!("GIL {usage}, {waits}{most}"));
    }
    form.heading(text, 2, "GIL");
    if let ([_], [(process, gil)]) = (set, &used[..]) {
        form.wrap(text, 4, 2, &gil::usage(gil, duration_ns));
        form.wrap(text, 4, 2, &gil::waits(gil));
        return push_pairs(text, process, gil, room);
    }
    let mut table = Table::default();
    for head in [
        "PID",
        "HELD",
        "SWITCHES/s",
        "WAITED",
        "WAITS",
        "p50",
        "p99",
        "max",
        "AT ONCE",
    ] {
        table.column(head, Align::Right);
    }
    for (process, gil) in used.iter().take(form.most(MAX_ROWS)) {
        let waits = gil.waits.as_ref();
        let [held, switches] = gil::usage_cells(gil, duration_ns);
        table.row(vec![
            process.pid.to_string(),
            held,
            switches,
            format::maybe_duration(gil.wait_ns),
            format::maybe_count(waits.map(|waits| waits.count)),
            format::maybe_duration(waits.and_then(|waits| waits.p50_ns)),
            format::maybe_duration(waits.and_then(|waits| waits.p99_ns)),
            format::maybe_duration(waits.and_then(|waits| waits.max_ns)),
            format::maybe_count(gil.waiters_max),
        ]);
    }
    text.push_str(&table.render("    ", form));
    if used.len() > form.most(MAX_ROWS) {
        let more = digest::processes((used.len() - MAX_ROWS) as u64);
        text.push_str(&format!("    ... and {more} more\n"));
    }
}

fn push_pairs(text: &mut String, process: &Process, gil: &Gil, room: Room) {
    let form = room.form;
    let whole_ns = gil.wait_ns.unwrap_or(0);
    let pairs = pairs(process, gil, room);
    if pairs.is_empty() {
        return;
    }
    let mut table = Table::default();
    table.names("HELD BY", 16);
    table.names("WAITED", 16);
    for head in ["FOR", "SHARE", "WAITS"] {
        table.column(head, Align::Right);
    }
    let most = form.most(MAX_ROWS);
    for (names, (wait_ns, count)) in pairs.iter().take(most) {
        let [holder, victim] = names.clone();
        table.row(vec![
            holder,
            victim,
            format::duration(*wait_ns),
            format::share_percent(*wait_ns, whole_ns),
            format::count(*count),
        ]);
    }
    text.push_str(&table.render("    ", form));
    let hidden = pairs.len().saturating_sub(most);
    if hidden > 0 {
        let hidden = digest::plural(hidden as u64, "pair");
        text.push_str(&format!("    ... and {hidden} of less waiting\n"));
    }
}

/// Holder and victim by name, and for how long, how often; threads whose names differ in numbers only are
/// together.
fn pairs(process: &Process, gil: &Gil, room: Room) -> Vec<([String; 2], (u64, u64))> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for thread in &process.threads {
        *counts
            .entry(names::stem(&digest::thread_label(thread)))
            .or_default() += 1;
    }
    let name = |tid: Option<u32>| {
        let thread = process
            .threads
            .iter()
            .find(|thread| Some(thread.tid) == tid);
        let label = thread.map(digest::thread_label);
        let stem = label.as_deref().map(names::stem);
        match stem.and_then(|stem| Some((*counts.get(&stem)?, stem))) {
            Some((3.., stem)) if !room.form.all => stem,
            _ => gil::name(process, tid),
        }
    };
    let mut sums: BTreeMap<[String; 2], (u64, u64)> = BTreeMap::new();
    for pair in &gil.pairs {
        let names = [name(pair.holder_tid), name(Some(pair.victim_tid))];
        let (wait_ns, count) = sums.entry(names).or_default();
        *wait_ns = wait_ns.saturating_add(pair.wait_ns);
        *count = count.saturating_add(pair.count);
    }
    let mut pairs: Vec<_> = sums.into_iter().collect();
    pairs.sort_by_key(|(_, (wait_ns, _))| std::cmp::Reverse(*wait_ns));
    pairs
}
