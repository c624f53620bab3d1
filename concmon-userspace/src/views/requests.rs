//! HTTP requests in words: the rows that the summary and the live view have in common.

use super::digest;
use super::escape::brief;
use super::format;
use crate::schema::{Delayed, Histogram, Http, HttpActive, HttpRequests, Process};

/// Cells of a path.
const MAX_PATH: usize = 60;

/// `GET /items/{number} 200`.
pub(super) fn name(row: &HttpRequests) -> String {
    let path = path(row.route.as_deref(), row.learned_path.as_deref());
    format!("{} {path} {}", brief(&row.method, 10), row.status)
}

/// What a request is for: the framework's route, else the path that was learned, marked as a guess.
pub(super) fn path(route: Option<&str>, learned: Option<&str>) -> String {
    match (route, learned) {
        (Some(route), _) => brief(route, MAX_PATH),
        (None, Some(path)) => format!("~{}", brief(path, MAX_PATH)),
        (None, None) => "(any path)".to_owned(),
    }
}

/// Peers that are told.
const MAX_PEERS: usize = 5;

/// `waits 61% of its request time for 127.0.0.1:5432 1.2s in 340 waits (p50 3ms p99 9ms)`, of each peer that was waited for
/// most.
pub(super) fn peers(process: &Process) -> impl Iterator<Item = String> {
    let peers = process.peers.iter().flatten().take(MAX_PEERS);
    let rows = process.http.iter().flat_map(|http| &http.requests);
    let all_ns: u64 = rows.map(|row| row.duration.sum_ns).sum();
    peers.map(move |peer| {
        let [p50, p99] = percentiles(&peer.waits);
        // Of requests that are under way still, waits are told and no duration.
        let share = match peer.in_requests_ns.saturating_mul(100) / all_ns.max(1) {
            share @ 1..=100 => format!("{share}% of its request time "),
            _ => String::new(),
        };
        format!(
            "waits {share}for {} {} in {} (p50 {p50} p99 {p99})",
            brief(&peer.name(), MAX_PATH),
            format::duration(peer.wait_ns),
            digest::plural(peer.waits.count, "wait"),
        )
    })
}

/// Half, and 99 % of them, take at most this long.
pub(super) fn percentiles(times: &Histogram) -> [String; 2] {
    [times.p50_ns, times.p99_ns].map(format::maybe_duration)
}

/// `delayed 14 requests, 3.1s in sum`.
pub(super) fn delayed(delayed: &Delayed) -> String {
    format!(
        "delayed {}, {} in sum",
        digest::plural(delayed.requests, "request"),
        format::duration(delayed.delay_ns)
    )
}

/// What is under way and what was not understood, in a few words each.
pub(super) fn remarks(http: &Http) -> Vec<String> {
    let mut remarks = Vec::new();
    if http.active_count > 0 {
        remarks.push(format!("{} under way", format::count(http.active_count)));
    }
    if http.abandoned > 0 {
        let count = format::count(http.abandoned);
        remarks.push(format!("{count} abandoned before a response"));
    }
    for (reason, count) in &http.unparsed {
        let count = format::count(*count);
        remarks.push(format!("{count} connections not understood ({reason})"));
    }
    remarks
}

/// `GET ~/slow for 1.2s, lay unread for 3ms, thread 17, task Task-5, in handler app.py:12, waits for sleep`.
pub(super) fn under_way(active: &HttpActive) -> String {
    let mut said = format!(
        "{} {} for {}",
        brief(&active.method, 10),
        path(active.route.as_deref(), active.learned_path.as_deref()),
        format::duration(active.age_ns)
    );
    if let Some(queue_ns) = active.queue_ns {
        said += &format!(", lay unread for {}", format::duration(queue_ns));
    }
    said += &format!(", thread {}", active.tid);
    if let Some(task) = &active.task {
        said += &format!(", task {}", brief(&task.name, 60));
    }
    if let Some(frame) = &active.place {
        let function = brief(&frame.function, 60);
        said += &format!(", in {function} ({})", digest::place(frame));
    }
    if let Some(kind) = &active.waits_for {
        said += &format!(", waits for {}", brief(kind, 60));
    }
    for (name, value) in &active.ids {
        said += &format!(", {} {}", brief(name, 20), brief(value, 60));
    }
    said
}
