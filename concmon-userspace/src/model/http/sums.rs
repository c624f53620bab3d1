//! HTTP requests of a service: sums by method, route and status. Paths are of processes only.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::routes::Route;
use super::{Key, Row};
use crate::event::NotParsed;
use crate::model::add::{Add, ByKey};
use crate::model::window::limit;
use crate::schema::{self, GroupHttp, GroupRequests};

/// Rows of a service: what comes later than these is counted as refused.
const MAX_ROWS: usize = 512;

/// What a service's requests have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Of {
    method: Cow<'static, str>,
    route: Option<Arc<str>>,
    status: u16,
}

/// What requests have added.
#[derive(Clone, Debug, Default)]
pub(crate) struct HttpDelta {
    rows: BTreeMap<Of, Row>,
    pub(super) abandoned: u64,
    pub(super) unparsed: ByKey<NotParsed, u64>,
    /// Requests that found no row.
    pub(super) refused: u64,
    /// Records never arrived.
    pub(super) lost: bool,
}

impl Add for HttpDelta {
    fn add(&mut self, other: &Self) {
        for (of, row) in &other.rows {
            self.put(of, row);
        }
        self.abandoned.add(&other.abandoned);
        self.unparsed.add(&other.unparsed);
        self.refused.add(&other.refused);
        self.lost.add(&other.lost);
    }
}

impl HttpDelta {
    /// Adds a row of a process.
    pub(super) fn add_row(&mut self, key: &Key, row: &Row) {
        if row.duration.count() == 0 {
            return;
        }
        let route = match &key.route {
            Route::Known(route) => Some(route.clone()),
            Route::None(_) => None,
        };
        let of = Of {
            method: key.method.clone(),
            route,
            status: key.status,
        };
        self.put(&of, row);
    }

    fn put(&mut self, of: &Of, row: &Row) {
        if self.rows.len() >= MAX_ROWS && !self.rows.contains_key(of) {
            self.refused.add(&row.duration.count());
            return;
        }
        let sum = self.rows.entry(of.clone()).or_default();
        sum.duration.add(&row.duration);
        sum.queue.add(&row.queue);
    }

    /// As it is reported; `living` are the processes of the service. `None`: there is nothing to tell.
    pub(crate) fn report(&self, living: &[&schema::Process]) -> Option<GroupHttp> {
        let mut active: BTreeMap<String, u64> = BTreeMap::new();
        let http = living.iter().filter_map(|process| process.http.as_ref());
        for (method, count) in http.flat_map(|http| &http.active_by_method) {
            *active.entry(method.clone()).or_default() += count;
        }
        let rows = self.rows.iter();
        let mut requests: Vec<_> = rows
            .filter_map(|(of, row)| Some((of, row.duration.report()?, row.queue.report())))
            .map(|(of, duration, queue)| GroupRequests {
                method: of.method.to_string(),
                route: of.route.as_deref().map(str::to_owned),
                status: of.status,
                count: duration.count,
                duration,
                queue: queue.unwrap_or_default(),
            })
            .collect();
        requests.sort_by_key(|row| Reverse(row.duration.sum_ns));
        let unparsed = self.unparsed.0.iter();
        let unparsed: BTreeMap<String, u64> = unparsed
            .filter(|(_, count)| **count > 0)
            .map(|(reason, count)| (reason.name().to_owned(), *count))
            .collect();
        let mut limits = Vec::new();
        if self.refused > 0 {
            let reason = format!("no room for {} requests of more kinds", self.refused);
            limits.push(limit("requests", reason));
        }
        if self.lost {
            let reason = "records of sockets were lost: requests are missing";
            limits.push(limit("requests", reason));
        }
        let nothing = requests.is_empty()
            && active.is_empty()
            && unparsed.is_empty()
            && self.abandoned == 0
            && limits.is_empty();
        (!nothing).then_some(GroupHttp {
            requests,
            active,
            abandoned: self.abandoned,
            unparsed,
            limits,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(of: &[(&str, Option<&str>, u16, u64)]) -> HttpDelta {
        let mut delta = HttpDelta::default();
        for (path, route, status, duration_ns) in of {
            let mut row = Row::default();
            row.duration.record(*duration_ns, 1);
            row.queue.record(duration_ns / 2, 1);
            let key = Key {
                method: "GET".into(),
                path: Some((*path).into()),
                route: route.map_or(Route::None("none"), |route| Route::Known(route.into())),
                status: *status,
            };
            delta.add_row(&key, &row);
        }
        delta
    }

    fn told(delta: &HttpDelta) -> Vec<(Option<String>, u16, u64, u64)> {
        let report = delta.report(&[]).expect("something");
        let rows = report.requests.into_iter();
        rows.map(|row| (row.route, row.status, row.count, row.queue.sum_ns))
            .collect()
    }

    #[test]
    fn rows_of_one_route_are_one_whichever_way_they_are_added() {
        let parts = [
            delta(&[("/a/1", Some("/a/{id}"), 200, 1_000), ("/x", None, 404, 10)]),
            delta(&[("/a/2", Some("/a/{id}"), 200, 3_000), ("/y", None, 404, 30)]),
            delta(&[("/a/1", Some("/a/{id}"), 500, 2_000)]),
        ];
        let sum = |of: &[&HttpDelta]| {
            let mut sum = HttpDelta::default();
            of.iter().for_each(|part| sum.add(part));
            sum
        };
        let [first, second, third] = &parts;
        let left = sum(&[&sum(&[first, second]), third]);
        let right = sum(&[&sum(&[third, second]), first]);
        let route = Some("/a/{id}".to_owned());
        let wanted = vec![
            (route.clone(), 200, 2, 2_000),
            (route, 500, 1, 1_000),
            (None, 404, 2, 20),
        ];
        assert_eq!(told(&left), wanted);
        assert_eq!(told(&right), wanted);
        assert!(HttpDelta::default().report(&[]).is_none());
    }

    #[test]
    fn rows_are_bounded_and_what_is_left_out_is_said() {
        let mut sum = HttpDelta::default();
        for number in 0..MAX_ROWS + 7 {
            let route = format!("/r{number}");
            sum.add(&delta(&[("/r", Some(&route), 200, 1_000)]));
        }
        let report = sum.report(&[]).expect("something");
        assert_eq!(report.requests.len(), MAX_ROWS);
        assert!(report.limits[0].reason.contains("no room for 7 requests"));
    }
}
