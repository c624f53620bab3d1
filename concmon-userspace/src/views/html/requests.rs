//! What the page has of HTTP requests and of peers.

use std::cmp::Reverse;

use serde::Serialize;

use crate::schema::{Frame, Histogram, HttpActive, HttpRequests, Process};
use crate::views::requests;

/// Rows of a page.
const MAX_REQUESTS: usize = 2_000;
const MAX_ACTIVE: usize = 500;

/// How many more rows there is room for.
#[derive(Debug)]
pub(super) struct Room {
    requests: usize,
    active: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            requests: MAX_REQUESTS,
            active: MAX_ACTIVE,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct HttpData<'a> {
    /// Those with the most requests first.
    rows: Vec<Row<'a>>,
    rows_left_out: usize,
    count: u64,
    /// Of those with a status of the server's errors.
    errors: u64,
    remarks: Vec<String>,
    active: Vec<Active<'a>>,
    active_left_out: u64,
    peers: Vec<Peer>,
    /// What all requests took, ns.
    duration_ns: u64,
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    method: &'a str,
    route: Option<&'a str>,
    learned_path: Option<&'a str>,
    status: u16,
    count: u64,
    duration: Times,
    queue: Times,
}

/// A request that is under way, without its ids, which the page does not show.
#[derive(Debug, Serialize)]
struct Active<'a> {
    method: &'a str,
    route: Option<&'a str>,
    learned_path: Option<&'a str>,
    age_ns: u64,
    queue_ns: Option<u64>,
    task: Option<&'a str>,
    tid: u32,
    #[serde(rename = "where")]
    place: Option<&'a Frame>,
    waits_for: Option<&'a str>,
}

/// What a row of the page says of times.
#[derive(Debug, Serialize)]
struct Times {
    p50_ns: Option<u64>,
    p99_ns: Option<u64>,
    max_ns: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Peer {
    name: String,
    wait_ns: u64,
    in_requests_ns: u64,
    count: u64,
    waits: Times,
}

impl Times {
    fn of(times: &Histogram) -> Self {
        Self {
            p50_ns: times.p50_ns,
            p99_ns: times.p99_ns,
            max_ns: times.max_ns,
        }
    }
}

impl<'a> HttpData<'a> {
    /// `None`: there is nothing to show.
    pub(super) fn of(process: &'a Process, room: &mut Room) -> Option<Self> {
        let http = process.http.as_ref()?;
        let remarks = requests::remarks(http);
        let peers = process.peers.as_deref().unwrap_or_default();
        if http.requests.is_empty() && remarks.is_empty() && peers.is_empty() {
            return None;
        }
        let mut rows: Vec<&HttpRequests> = http.requests.iter().collect();
        rows.sort_by_key(|row| Reverse(row.count));
        let sum = |rows: &[&HttpRequests], of: fn(&HttpRequests) -> u64| {
            rows.iter()
                .fold(0, |sum: u64, row| sum.saturating_add(of(row)))
        };
        let failed: Vec<&HttpRequests> = rows
            .iter()
            .copied()
            .filter(|row| row.status >= 500)
            .collect();
        let (all, errors) = (sum(&rows, |row| row.count), sum(&failed, |row| row.count));
        let duration_ns = sum(&rows, |row| row.duration.sum_ns);
        let left_out = rows.len().saturating_sub(room.requests);
        rows.truncate(room.requests);
        room.requests -= rows.len();
        let active = &http.active[..http.active.len().min(room.active)];
        room.active -= active.len();
        Some(Self {
            rows: rows.into_iter().map(Row::of).collect(),
            rows_left_out: left_out,
            count: all,
            errors,
            remarks,
            active: active.iter().map(Active::of).collect(),
            active_left_out: http.active_count.saturating_sub(active.len() as u64),
            peers: peers
                .iter()
                .map(|peer| Peer {
                    name: peer.name(),
                    wait_ns: peer.wait_ns,
                    in_requests_ns: peer.in_requests_ns,
                    count: peer.waits.count,
                    waits: Times::of(&peer.waits),
                })
                .collect(),
            duration_ns,
        })
    }
}

impl<'a> Active<'a> {
    fn of(active: &'a HttpActive) -> Self {
        Self {
            method: &active.method,
            route: active.route.as_deref(),
            learned_path: active.learned_path.as_deref(),
            age_ns: active.age_ns,
            queue_ns: active.queue_ns,
            task: active.task.as_ref().map(|task| &*task.name),
            tid: active.tid,
            place: active.place.as_ref(),
            waits_for: active.waits_for.as_deref(),
        }
    }
}

impl<'a> Row<'a> {
    fn of(row: &'a HttpRequests) -> Self {
        Self {
            method: &row.method,
            route: row.route.as_deref(),
            learned_path: row.learned_path.as_deref(),
            status: row.status,
            count: row.count,
            duration: Times::of(&row.duration),
            queue: Times::of(&row.queue),
        }
    }
}
