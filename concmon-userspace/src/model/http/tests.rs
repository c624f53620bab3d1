//! Requests of a process, from their events.

use super::*;
use crate::event::{Cause, HttpPeer, Pid};

fn event(what: HttpWhat) -> HttpEvent {
    HttpEvent {
        at_ns: 1_000,
        pid: Pid(7),
        tid: Tid(9),
        what,
    }
}

fn request(path: &str) -> HttpRequest {
    HttpRequest {
        method: "GET".into(),
        path: Some(path.into()),
        queue_ns: Some(50),
    }
}

fn began(id: u64, request: HttpRequest) -> HttpWhat {
    HttpWhat::Began {
        id,
        request,
        ids: BTreeMap::new(),
        client_port: None,
    }
}

fn exchange(http: &mut Http, id: u64, path: &str, status: u16) {
    let request = request(path);
    http.take(&event(began(id, request.clone())));
    http.take(&event(HttpWhat::Answered {
        id,
        request,
        status,
        duration_ns: 1_000_000,
    }));
}

fn row(http: &Http, scope: Scope) -> schema::Http {
    http.row(scope, 3_000, None)
}

/// The time that a thread waits for a peer is a request's as far as that had been read by the same thread, and by it
/// no other one.
#[test]
fn waits_for_peers_belong_to_requests() {
    let mut http = Http::default();
    let waited = |from_ns: u64| HttpEvent {
        at_ns: from_ns + 100,
        ..event(HttpWhat::Waited {
            peer: HttpPeer {
                address: None,
                port: 5432,
            },
            made: true,
            cause: Cause::Io,
            from_ns,
            wait_ns: 100,
        })
    };
    let told = |http: &Http| http.peers.report(Scope::Whole)[0].in_requests_ns;
    http.take(&waited(500));
    assert_eq!(told(&http), 0);
    http.take(&event(began(1, request("/a"))));
    http.take(&waited(970));
    assert_eq!(told(&http), 70);
    http.take(&waited(1_100));
    assert_eq!(told(&http), 170);
    http.take(&event(began(2, request("/b"))));
    http.take(&waited(1_300));
    assert_eq!(told(&http), 170);
}

#[test]
fn windows_add_up() {
    let mut http = Http::default();
    let mut sum = 0;
    for window in 0..3 {
        for id in 0..window {
            exchange(&mut http, id, "/a", 200);
        }
        let requests = row(&http, Scope::Window).requests;
        let count: u64 = requests.iter().map(|row| row.count).sum();
        assert_eq!(count, window);
        sum += count;
        http.roll();
    }
    let whole = row(&http, Scope::Whole);
    assert_eq!((whole.requests[0].count, sum), (3, 3));
    assert_eq!(whole.requests[0].queue.sum_ns, 150);
    assert_eq!(whole.active_count, 0);
}

#[test]
fn what_is_under_way_ends_in_one_of_three_ways() {
    let mut http = Http::default();
    for id in 0..3 {
        http.take(&event(began(id, request("/a"))));
    }
    let shown = row(&http, Scope::Whole);
    assert_eq!((shown.active_count, shown.active[0].age_ns), (3, 2_000));
    http.take(&event(HttpWhat::Abandoned { id: 1 }));
    http.take(&event(HttpWhat::Abandoned { id: 1 }));
    exchange(&mut http, 0, "/a", 200);
    let shown = row(&http, Scope::Whole);
    assert_eq!((shown.active_count, shown.abandoned), (1, 1));
    http.lose(5);
    let shown = row(&http, Scope::Whole);
    assert_eq!((shown.active_count, shown.limits.len()), (0, 1));
}

#[test]
fn rows_and_paths_are_bounded() {
    let mut http = Http::default();
    for id in 0..2_000 {
        exchange(&mut http, id, &format!("/no{id}"), 404);
    }
    for id in 0..2_000 {
        exchange(&mut http, id, &format!("/p{id}"), 100 + (id % 900) as u16);
    }
    let shown = row(&http, Scope::Whole);
    assert_eq!(shown.requests.len(), MAX_ROWS);
    let paths = shown.requests.iter();
    let paths: BTreeSet<_> = paths.filter_map(|row| row.learned_path.clone()).collect();
    let is_not_found = |path: &&String| path.starts_with("/no");
    assert_eq!(paths.iter().filter(is_not_found).count(), MAX_NOT_FOUND);
    assert_eq!(paths.len(), MAX_NOT_FOUND + MAX_PATHS);
    for id in 0..MAX_ACTIVE as u64 + 5 {
        http.take(&event(began(id, request("/a"))));
    }
    let shown = row(&http, Scope::Whole);
    assert_eq!(shown.active_count, MAX_ACTIVE as u64);
    assert_eq!(shown.limits[0].field, "active_count");
    assert!(shown.limits.iter().any(|limit| limit.field == "requests"));
}
