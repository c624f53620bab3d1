//! The summary's table of how threads were scheduled: wakeups, switches, locks, wakers.

use super::super::digest;
use super::super::escape::brief;
use super::super::fold::Crowd;
use super::super::format;
use super::super::table::{Align, Table};
use super::Room;
use super::threads::{LEAST_NAME, split, tid};
use crate::schema::{LockNs, Process, Thread, Waker};

/// Cells of a waker's name.
const MAX_NAME: usize = 32;

pub(super) fn push(text: &mut String, set: &[&Process], room: Room) {
    let (crowds, others) = split(set, room);
    let mut table = Table::default();
    table.column("TID", Align::Right);
    table.names("THREAD", LEAST_NAME);
    for head in ["~p50", "~p99", "max"] {
        table.column(head, Align::Right);
    }
    for head in ["VOLUNT", "INVOL"] {
        table.optional(head, Align::Right);
    }
    table.names("~LOCKS FOR", 16);
    table.names("WOKEN MOST BY", 24);
    for head in ["USER", "SYSTEM", "MIGR"] {
        table.optional(head, Align::Right);
    }
    for crowd in &crowds {
        table.row(row(crowd));
    }
    if table.is_empty() {
        return;
    }
    room.form
        .heading(text, 2, "wakeup latency, switches, locks, wakers");
    text.push_str(&table.render("  ", room.form));
    let hidden = others.iter().flat_map(Crowd::threads).count();
    if hidden > 0 {
        text.push_str(&format!(
            "  ... and {} of less activity\n",
            digest::plural(hidden as u64, "thread")
        ));
    }
}

fn row(crowd: &Crowd<'_>) -> Vec<String> {
    let sum = |of: fn(&Thread) -> u64| {
        let each = crowd.threads().map(of);
        each.fold(0, u64::saturating_add)
    };
    // Of several the worst: percentiles do not add up.
    let most = |of: fn(&Thread) -> Option<u64>| {
        let known = crowd.threads().filter_map(of);
        format::maybe_duration(known.max())
    };
    let cpu = |of: fn(&Thread) -> Option<u64>, field: &str| {
        let sum: Option<u64> = crowd.threads().map(of).sum();
        let estimated = crowd
            .threads()
            .any(|thread| thread.estimated.contains(&field));
        let tilde = if estimated { "~" } else { "" };
        sum.map_or_else(
            || "-".to_owned(),
            |ns| format!("{tilde}{}", format::duration(ns)),
        )
    };
    let locks = crowd
        .threads()
        .fold(LockNs::default(), |sum, thread| LockNs {
            contended: sum.contended.saturating_add(thread.lock_ns.contended),
            waiting_for_work: sum
                .waiting_for_work
                .saturating_add(thread.lock_ns.waiting_for_work),
            join: sum.join.saturating_add(thread.lock_ns.join),
            other: sum.other.saturating_add(thread.lock_ns.other),
        });
    vec![
        tid(crowd),
        crowd.label(),
        most(|thread| thread.wakeup_latency.p50_ns),
        most(|thread| thread.wakeup_latency.p99_ns),
        most(|thread| thread.wakeup_latency.max_ns),
        format::count(sum(|thread| thread.switches.voluntary)),
        format::count(sum(|thread| thread.switches.involuntary)),
        digest::lock_waits(&locks).unwrap_or_else(|| "-".to_owned()),
        top_waker(crowd),
        cpu(|thread| thread.cpu_user_ns, "cpu_user_ns"),
        cpu(|thread| thread.cpu_system_ns, "cpu_system_ns"),
        format::count(sum(|thread| thread.migrations)),
    ]
}

/// `worker-1 (gil 3.20s)`: who ended most of the waiting, of those that can be told; of several
/// threads, most of one's.
fn top_waker(crowd: &Crowd<'_>) -> String {
    let known = crowd.members.iter().flat_map(|(process, thread)| {
        let wakers = thread.wakers.iter();
        wakers.filter_map(move |waker| Some((*process, waker, waker.tid?)))
    });
    let top = known.max_by_key(|(_, waker, _)| (waker.blocked_ns, waker.count));
    let Some((process, waker, tid)) = top else {
        return "-".to_owned();
    };
    format!(
        "{} ({} {})",
        waker_name(process, waker, tid),
        waker.cause,
        format::duration(waker.blocked_ns)
    )
}

/// `worker-1`; of another process `consumer-0 (4250)`.
fn waker_name(process: &Process, waker: &Waker, tid: u32) -> String {
    let Some(other) = &waker.process else {
        return brief(&digest::thread_name(process, tid), MAX_NAME);
    };
    let title = other.title.as_deref().unwrap_or("process");
    format!("{} ({})", brief(title, MAX_NAME), other.pid)
}
