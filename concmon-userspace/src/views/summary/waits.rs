//! The summary's table of how threads were scheduled: wakeups, switches, locks, wakers.

use super::super::escape::cut_middle;
use super::super::table::{Align, Table};
use super::super::{Paint, digest, format};
use super::threads::{MAX_NAME, split};
use crate::schema::{Process, Thread};

pub(super) fn push(text: &mut String, process: &Process, paint: Paint) {
    let (threads, others) = split(process);
    let mut table = Table::default();
    for (head, align) in [
        ("TID", Align::Right),
        ("THREAD", Align::Left),
        ("~p50", Align::Right),
        ("~p99", Align::Right),
        ("max", Align::Right),
        ("VOLUNT", Align::Right),
        ("INVOL", Align::Right),
        ("MIGR", Align::Right),
        ("USER", Align::Right),
        ("SYSTEM", Align::Right),
        ("~LOCKS FOR", Align::Left),
        ("WOKEN MOST BY", Align::Left),
    ] {
        table.column(head, align);
    }
    for thread in &threads {
        let latency = &thread.wakeup_latency;
        let cpu = |ns: Option<u64>, field| match ns {
            Some(ns) => format!(
                "{}{}",
                digest::tilde(&thread.estimated, field),
                format::duration(ns)
            ),
            None => "-".to_owned(),
        };
        table.row(vec![
            thread.tid.to_string(),
            cut_middle(&digest::thread_label(thread), MAX_NAME).into_owned(),
            format::maybe_duration(latency.p50_ns),
            format::maybe_duration(latency.p99_ns),
            format::maybe_duration(latency.max_ns),
            format::count(thread.switches.voluntary),
            format::count(thread.switches.involuntary),
            format::count(thread.migrations),
            cpu(thread.cpu_user_ns, "cpu_user_ns"),
            cpu(thread.cpu_system_ns, "cpu_system_ns"),
            digest::lock_waits(thread).unwrap_or_else(|| "-".to_owned()),
            top_waker(process, thread),
        ]);
    }
    if table.is_empty() {
        return;
    }
    text.push_str(&format!(
        "\n{}\n",
        paint.bold("  wakeup latency, switches, locks, wakers")
    ));
    text.push_str(&table.render("  ", paint));
    if !others.is_empty() {
        text.push_str(&format!(
            "  ... and {} of less activity\n",
            digest::plural(others.len() as u64, "thread")
        ));
    }
}

/// `worker-1 (gil, 120 times, 3.2s)`: who ended most of the waiting, of those that can be told.
fn top_waker(process: &Process, thread: &Thread) -> String {
    let known = thread
        .wakers
        .iter()
        .filter_map(|waker| Some((waker, waker.tid?)));
    let Some((waker, tid)) = known.max_by_key(|(waker, _)| (waker.blocked_ns, waker.count)) else {
        return "-".to_owned();
    };
    let name = process.threads.iter().find(|other| other.tid == tid);
    let name = name.map_or_else(|| format!("tid {tid}"), digest::thread_label);
    format!(
        "{} ({}, {} times, {})",
        cut_middle(&name, MAX_NAME),
        waker.cause,
        format::count(waker.count),
        format::duration(waker.blocked_ns)
    )
}
