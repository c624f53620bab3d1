//! What several views say about a GIL: the line of totals, and who waited for whom.

use super::digest;
pub(super) use super::digest::gil_is_used as is_used;
use super::escape::cut_middle;
use super::format;
use crate::schema::{Gil, Process};

/// Cells of a thread's name in a pair.
const MAX_NAME: usize = 30;

/// `wait 2.4s in 132 waits (p50 5.02ms p99 9ms max 12ms), up to 3 at once`.
pub(super) fn waits(gil: &Gil) -> String {
    let (Some(wait_ns), Some(waits)) = (gil.wait_ns, &gil.waits) else {
        return "wait ?".to_owned();
    };
    let mut text = format!(
        "wait {} in {}",
        format::duration(wait_ns),
        digest::plural(waits.count, "wait")
    );
    if waits.count > 0 {
        text += &format!(
            " (p50 {} p99 {} max {})",
            format::maybe_duration(waits.p50_ns),
            format::maybe_duration(waits.p99_ns),
            format::maybe_duration(waits.max_ns)
        );
    }
    match gil.waiters_max {
        Some(0) | None => text,
        Some(most) => text + &format!(", up to {most} at once"),
    }
}

/// `held ~87%, 410 switches/s`.
pub(super) fn usage(gil: &Gil, duration_ns: u64) -> String {
    let [held, switches] = usage_cells(gil, duration_ns);
    format!("held {held}, {switches} switches/s")
}

/// For how much of the time it was held, and how often it went to another thread in a second.
pub(super) fn usage_cells(gil: &Gil, duration_ns: u64) -> [String; 2] {
    let held = gil.utilization.map_or_else(
        || "-".to_owned(),
        |utilization| {
            let mark = digest::tilde(&gil.estimated, "utilization");
            format!("{mark}{}", format::percent(utilization * 100.0))
        },
    );
    let switches = gil.switches.map_or_else(
        || "-".to_owned(),
        |switches| format::rate(switches, duration_ns),
    );
    [held, switches]
}

/// A thread by name, `tid 12` where it has none, `?` for an unknown holder.
pub(super) fn name(process: &Process, tid: Option<u32>) -> String {
    let Some(tid) = tid else {
        return "?".to_owned();
    };
    cut_middle(&digest::thread_name(process, tid), MAX_NAME).into_owned()
}

/// Waiting that was charged to one holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Charged {
    pub(super) holder_tid: Option<u32>,
    pub(super) wait_ns: u64,
    pub(super) count: u64,
    pub(super) victims: u64,
}

/// The holders, most waiting first.
pub(super) fn holders(gil: &Gil) -> Vec<Charged> {
    let mut holders: Vec<Charged> = Vec::new();
    for pair in &gil.pairs {
        let found = holders.iter().position(|h| h.holder_tid == pair.holder_tid);
        let index = found.unwrap_or(holders.len());
        if found.is_none() {
            holders.push(Charged {
                holder_tid: pair.holder_tid,
                ..Charged::default()
            });
        }
        let holder = &mut holders[index];
        holder.wait_ns = holder.wait_ns.saturating_add(pair.wait_ns);
        holder.count = holder.count.saturating_add(pair.count);
        holder.victims += 1;
    }
    holders.sort_by_key(|holder| std::cmp::Reverse(holder.wait_ns));
    holders
}

/// What each thread waited, most first: thread, ns, waits.
pub(super) fn victims(gil: &Gil) -> Vec<(u32, u64, u64)> {
    let mut victims: Vec<(u32, u64, u64)> = Vec::new();
    for pair in &gil.pairs {
        match victims.iter_mut().find(|(tid, ..)| *tid == pair.victim_tid) {
            Some((_, ns, count)) => {
                (*ns, *count) = (
                    ns.saturating_add(pair.wait_ns),
                    count.saturating_add(pair.count),
                );
            }
            None => victims.push((pair.victim_tid, pair.wait_ns, pair.count)),
        }
    }
    victims.sort_by_key(|(tid, ns, _)| (std::cmp::Reverse(*ns), *tid));
    victims
}
