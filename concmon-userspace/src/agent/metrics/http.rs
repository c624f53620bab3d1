//! The HTTP requests of services as samples. Which of a service's routes are told apart is decided once: counters never
//! fall.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::of::Of;
use super::{Distribution, Name, Value};
use crate::schema::{GroupRequests, Histogram};

/// Routes of a service that are told apart; the others are told together, without a route.
pub(super) const MAX_ROUTES: usize = 10;
/// Nothing is understood of what is encrypted.
const SCHEME: &str = "http";

/// The routes of a service that are told apart.
#[derive(Debug, Default)]
pub(super) struct Routes(BTreeSet<String>);

impl Routes {
    /// Those with the most requests come first, while there is room.
    fn take(&mut self, requests: &[GroupRequests]) {
        if self.0.len() >= MAX_ROUTES {
            return;
        }
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for row in requests {
            if let Some(route) = &row.route {
                *counts.entry(route).or_default() += row.count;
            }
        }
        let mut new: Vec<_> = counts.into_iter().collect();
        new.retain(|(route, _)| !self.0.contains(*route));
        new.sort_by_key(|(_, count)| Reverse(*count));
        let room = MAX_ROUTES - self.0.len();
        let new = new.into_iter().take(room);
        self.0.extend(new.map(|(route, _)| route.to_owned()));
    }

    /// The label of a route; empty: it has none.
    fn label<'a>(&self, route: Option<&'a String>) -> &'a str {
        let told = route.filter(|route| self.0.contains(*route));
        told.map_or("", String::as_str)
    }
}

/// Histograms that are one series.
#[derive(Default)]
struct Sum {
    count: u64,
    sum_ns: u64,
    buckets: BTreeMap<u64, u64>,
}

impl Sum {
    fn add(&mut self, histogram: &Histogram) {
        self.count = self.count.saturating_add(histogram.count);
        self.sum_ns = self.sum_ns.saturating_add(histogram.sum_ns);
        for (le, count) in &histogram.buckets {
            let of = self.buckets.entry(*le).or_default();
            *of = of.saturating_add(*count);
        }
    }
}

/// Peers of a service that are told apart; the others are told together, as `_OTHER`.
const MAX_PEERS: usize = 20;

impl Of<'_> {
    /// Which peers are told apart is decided once, as of routes.
    pub(super) fn peers(&mut self, told: &mut BTreeSet<String>) {
        let mut sums: BTreeMap<String, u64> = BTreeMap::new();
        for peer in &self.group.peers {
            let mut name = peer.name();
            if told.len() < MAX_PEERS && peer.address.is_some() {
                told.insert(name.clone());
            }
            if !told.contains(&name) {
                "_OTHER".clone_into(&mut name);
            }
            *sums.entry(name).or_default() += peer.wait_ns;
        }
        for (name, ns) in sums {
            self.time(Name::PeerWait, &[&name], ns);
        }
    }

    pub(super) fn http(&mut self, routes: &mut Routes) {
        let group = self.group;
        let Some(http) = &group.http else {
            return;
        };
        routes.take(&http.requests);
        let mut active: BTreeMap<&str, u64> = BTreeMap::new();
        let mut durations: BTreeMap<[&str; 3], Sum> = BTreeMap::new();
        let mut queues: BTreeMap<[&str; 1], Sum> = BTreeMap::new();
        let statuses: Vec<String> = http
            .requests
            .iter()
            .map(|row| row.status.to_string())
            .collect();
        for (row, status) in http.requests.iter().zip(&statuses) {
            active.entry(&row.method).or_default();
            let route = routes.label(row.route.as_ref());
            let labels = [&*row.method, status, route];
            durations.entry(labels).or_default().add(&row.duration);
            queues.entry([route]).or_default().add(&row.queue);
        }
        for (method, count) in &http.active {
            *active.entry(method).or_default() += count;
        }
        for (method, count) in active {
            self.number(Name::HttpActive, &[method, SCHEME], count as f64);
        }
        if !group.loops.is_empty() {
            let delayed = group.loops.iter().filter_map(|of| of.delayed);
            let ns = delayed.fold(0, |sum: u64, of| sum.saturating_add(of.delay_ns));
            self.time(Name::RequestDelay, &["loop_blocked"], ns);
        }
        for ([method, status, route], sum) in by_count(durations) {
            // As OpenTelemetry has it, what the client did wrong is no error of the server.
            let error = if status >= "500" { status } else { "" };
            let labels = [method, SCHEME, status, error, route];
            self.sum(Name::HttpDuration, &labels, sum);
        }
        for (labels, sum) in by_count(queues) {
            self.sum(Name::RequestQueue, &labels, sum);
        }
    }

    fn sum(&mut self, of: Name, labels: &[&str], sum: Sum) {
        let distribution = Distribution {
            sum_ns: sum.sum_ns,
            buckets: sum.buckets.into_iter().collect(),
        };
        self.put(of, labels, Value::Histogram(distribution));
    }
}

/// Those of most come first: they are the last to be left out.
fn by_count<K>(sums: BTreeMap<K, Sum>) -> Vec<(K, Sum)> {
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, sum)| Reverse(sum.count));
    sums
}

#[cfg(test)]
mod tests {
    use super::super::collect::{Collected, MAX_HTTP_SERIES, Services, width};
    use super::super::tests::{group, window};
    use super::*;
    use crate::schema::{Group, GroupHttp, Peer};

    fn row(route: Option<&str>, status: u16, count: u64) -> GroupRequests {
        let durations = Histogram {
            count,
            sum_ns: count * 1_000,
            buckets: vec![(1_024, count)],
            ..Histogram::default()
        };
        GroupRequests {
            method: "GET".to_owned(),
            route: route.map(str::to_owned),
            status,
            count,
            duration: durations.clone(),
            queue: durations,
        }
    }

    fn service(requests: Vec<GroupRequests>, active: u64) -> Group {
        Group {
            http: Some(GroupHttp {
                requests,
                active: BTreeMap::from([("POST".to_owned(), active)]),
                abandoned: 0,
                unparsed: BTreeMap::new(),
                limits: Vec::new(),
            }),
            ..group("shop")
        }
    }

    /// Counts of a histogram, by all labels but the service's.
    fn counts(collected: &Collected, of: Name) -> BTreeMap<Vec<&str>, u64> {
        let samples = collected.samples.iter().filter(|sample| sample.of == of);
        let count = |value: &Value| match value {
            Value::Histogram(distribution) => distribution.count(),
            Value::Number(number) => *number as u64,
        };
        samples
            .map(|sample| {
                let labels = sample.labels.iter().skip(1).map(String::as_str);
                (labels.collect(), count(&sample.value))
            })
            .collect()
    }

    #[test]
    fn requests_have_the_labels_of_the_conventions() {
        let rows = vec![
            row(Some("/a/{id}"), 200, 5),
            row(Some("/a/{id}"), 503, 2),
            row(None, 404, 3),
        ];
        let collected = Services::default().collect(&window(), &[service(rows, 4)], 1);
        let wanted = BTreeMap::from([
            (vec!["GET", "http", "200", "", "/a/{id}"], 5),
            (vec!["GET", "http", "503", "503", "/a/{id}"], 2),
            (vec!["GET", "http", "404", "", ""], 3),
        ]);
        assert_eq!(counts(&collected, Name::HttpDuration), wanted);
        let wanted = BTreeMap::from([(vec!["/a/{id}"], 7), (vec![""], 3)]);
        assert_eq!(counts(&collected, Name::RequestQueue), wanted);
        let wanted = BTreeMap::from([(vec!["GET", "http"], 0), (vec!["POST", "http"], 4)]);
        assert_eq!(counts(&collected, Name::HttpActive), wanted);
    }

    #[test]
    fn ten_routes_are_told_apart_and_no_count_falls() {
        let mut services = Services::default();
        let mut before: BTreeMap<Vec<String>, u64> = BTreeMap::new();
        for round in 1..20u64 {
            // Later ones have more requests: those that are told apart stay.
            let rows: Vec<_> = (0..round)
                .map(|at| row(Some(&format!("/r{at}")), 200, 100 * round + at * at))
                .collect();
            let all: u64 = rows.iter().map(|row| row.count).sum();
            let collected = services.collect(&window(), &[service(rows, 0)], round);
            assert_eq!(collected.refused, 0);
            let now = counts(&collected, Name::HttpDuration);
            assert_eq!(now.values().sum::<u64>(), all);
            let routes = now.keys().filter(|labels| !labels[4].is_empty());
            assert_eq!(routes.count(), MAX_ROUTES.min(round as usize));
            let now: BTreeMap<Vec<String>, u64> = now
                .into_iter()
                .map(|(labels, count)| (labels.into_iter().map(str::to_owned).collect(), count))
                .collect();
            for (labels, count) in before {
                assert!(now[&labels] >= count, "{labels:?}");
            }
            before = now;
        }
    }

    #[test]
    fn requests_have_room_of_their_own() {
        let rows = (100..999).map(|status| row(None, status, 1)).collect();
        let collected = Services::default().collect(&window(), &[service(rows, 0)], 1);
        let samples = collected.samples.iter();
        let count: usize = samples
            .filter(|sample| sample.of.is_of_http())
            .map(width)
            .sum();
        assert!(count <= MAX_HTTP_SERIES, "{count} series");
        assert!(collected.refused > 0 && count > MAX_HTTP_SERIES - 20);
        let others = collected.samples.iter();
        assert!(others.filter(|sample| !sample.of.is_of_http()).count() > 10);
    }

    #[test]
    fn peers_are_told_apart_once() {
        let peer = |port: u16, wait_ns: u64| Peer {
            address: Some("10.0.0.1".to_owned()),
            port: Some(port),
            direction: None,
            wait_ns,
            in_requests_ns: 0,
            waits: Histogram::default(),
        };
        let mut told = BTreeSet::new();
        let mut times = |peers: Vec<Peer>| -> BTreeMap<String, f64> {
            let group = Group {
                peers,
                ..group("api")
            };
            let mut of = Of {
                group: &group,
                samples: Vec::new(),
            };
            of.peers(&mut told);
            let samples = of.samples.into_iter();
            samples
                .map(|sample| match sample.value {
                    Value::Number(number) => (sample.labels[1].clone(), number),
                    Value::Histogram(_) => panic!("a number"),
                })
                .collect()
        };
        let first = times((1..=25).map(|port| peer(port, 1_000_000_000)).collect());
        assert_eq!(first.len(), MAX_PEERS + 1);
        assert_eq!(first["_OTHER"], 5.0);
        // The others wait longer by now: they stay where they are.
        let then = times(
            (1..=25)
                .rev()
                .map(|port| peer(port, 2_000_000_000))
                .collect(),
        );
        assert_eq!(
            then.keys().collect::<Vec<_>>(),
            first.keys().collect::<Vec<_>>()
        );
        assert_eq!((then["10.0.0.1:1"], then["_OTHER"]), (2.0, 10.0));
    }
}
