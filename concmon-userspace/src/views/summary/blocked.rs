//! The summary's table of threads that were blocked for long when the watch ended.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::super::fold::Member;
use super::super::table::{Align, Table};
use super::super::{Form, digest, names};
use crate::schema::{Process, Purpose};

/// Who has been blocked for less is not shown, ns.
const LONG_NS: u64 = 1_000_000_000;
/// Rows; the others are counted.
const MAX_ROWS: usize = 8;

/// Those of one name that wait for the same in the same place are one row; what idle workers wait for comes
/// last. `end_unix_ns`: when the watch ended.
pub(super) fn push(text: &mut String, processes: &[&Process], end_unix_ns: u64, form: Form) {
    let mut rows: BTreeMap<_, Vec<(u64, Member<'_>)>> = BTreeMap::new();
    for process in processes {
        for thread in &process.threads {
            let ns = digest::wait_ns(thread, end_unix_ns).filter(|ns| *ns >= LONG_NS);
            let (Some(ns), Some(what)) = (ns, digest::wait(process, thread)) else {
                continue;
            };
            let place = digest::own_place(&thread.stack);
            let name = names::stem(&digest::thread_label(thread));
            let key = match form.all {
                true => (thread.tid.to_string(), what, place),
                // Workers have a queue each: which one does not matter.
                false => (name, without_address(&what), place),
            };
            rows.entry(key).or_default().push((ns, (*process, thread)));
        }
    }
    if rows.is_empty() {
        return;
    }
    let mut rows: Vec<_> = rows.into_iter().collect();
    for (_, threads) in &mut rows {
        threads.sort_by_key(|(ns, (_, thread))| (Reverse(*ns), thread.tid));
    }
    let is_idle = |threads: &[(u64, Member<'_>)]| {
        let (_, (_, thread)) = threads[0];
        let purpose = thread.waiting_for.as_ref().map(|waiting| waiting.purpose);
        thread
            .wait
            .is_some_and(|wait| wait.cause == crate::schema::Cause::Poll)
            || matches!(purpose, Some(Purpose::WaitingForWork | Purpose::Item))
    };
    rows.sort_by_key(|(_, threads)| {
        let (ns, (_, thread)) = threads[0];
        (is_idle(threads), Reverse(ns), thread.tid)
    });
    let mut table = Table::default();
    table.column("TID", Align::Right);
    table.names("THREAD", 16);
    table.column("FOR", Align::Right);
    table.names("WAITS", 16);
    table.places("IN", 16);
    let most = form.most(MAX_ROWS);
    for ((_, what, place), threads) in rows.iter().take(most) {
        let (ns, (_, first)) = threads[0];
        let age = first.wait.map(|wait| digest::wait_age(&wait, ns));
        let labels: Vec<String> = threads
            .iter()
            .map(|(_, (_, thread))| digest::thread_label(thread))
            .collect();
        let name = names::common(labels.iter().map(String::as_str));
        // One object has its address.
        let whole: Vec<String> = threads
            .iter()
            .filter_map(|(_, (process, thread))| digest::wait(process, thread))
            .collect();
        let same = whole.windows(2).all(|pair| pair[0] == pair[1]);
        table.row(vec![
            first.tid.to_string(),
            match threads.len() {
                1 => name,
                count => format!("{name} ×{count}"),
            },
            age.unwrap_or_default(),
            whole.first().filter(|_| same).unwrap_or(what).clone(),
            place.as_deref().unwrap_or("-").to_owned(),
        ]);
    }
    form.heading(
        text,
        0,
        "blocked when the watch ended, for a second or more",
    );
    text.push_str(&table.render("  ", form));
    if rows.len() > most {
        text.push_str(&format!("  ... and {} more\n", rows.len() - most));
    }
}

/// `waiting for work: Queue` of `waiting for work: Queue 0x7f00`.
fn without_address(what: &str) -> String {
    let words = what.split(' ').filter(|word| !word.starts_with("0x"));
    words.collect::<Vec<_>>().join(" ")
}
