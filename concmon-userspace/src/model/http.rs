//! HTTP requests of a process: sums by what they were, and what is under way.

mod past;
mod routes;
mod serving;
mod sums;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use super::fine::Fine;
use super::peers::{PeerWait, Peers};
use super::window::{Cumulative, Growth, Scope, limit};
use crate::event::{HttpEvent, HttpRequest, HttpWhat, NotParsed, PyLoop, PythonFact, Tid};
use crate::schema;
use past::{Past, Stretch};
use routes::{Route, Routes};
use serving::Served;
pub(crate) use sums::HttpDelta;

/// Rows of a process, and paths among them; those on which nothing was ever found have room of their own, so that whoever
/// tries names takes none from others.
const MAX_ROWS: usize = 512;
const MAX_PATHS: usize = 64;
const MAX_NOT_FOUND: usize = 16;
/// Requests that are under way, of threads that have one at a time.
const MAX_THREADS: usize = 512;
/// Requests that are under way, and those that are shown.
const MAX_ACTIVE: usize = 16_384;
const MAX_SHOWN: usize = 64;

/// What requests have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    method: Cow<'static, str>,
    path: Option<Arc<str>>,
    /// As the framework had it then.
    route: Route,
    status: u16,
}

#[derive(Clone, Debug, Default)]
struct Row {
    duration: Fine,
    queue: Fine,
}

impl Growth for Row {
    fn since(&self, base: &Self) -> Self {
        Self {
            duration: self.duration.since(&base.duration),
            queue: self.queue.since(&base.queue),
        }
    }

    fn catch_up(&mut self, now: &Self) {
        // Most rows rest in most windows.
        if self.duration.count() != now.duration.count() {
            self.clone_from(now);
        }
    }
}

/// A request that has no response.
#[derive(Clone, Debug)]
struct Active {
    request: HttpRequest,
    tid: Tid,
    began_ns: u64,
    ids: BTreeMap<String, String>,
    client_port: Option<u16>,
    /// As of the latest look.
    route: Route,
}

/// The requests of one process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Http {
    rows: BTreeMap<Key, Cumulative<Row>>,
    paths: BTreeSet<Arc<str>>,
    not_found: BTreeSet<Arc<str>>,
    active: BTreeMap<u64, Active>,
    past: Past,
    routes: Routes,
    pub(crate) peers: Peers,
    abandoned: Cumulative<u64>,
    unparsed: BTreeMap<NotParsed, Cumulative<u64>>,
    /// Requests that found no row, and records that never arrived.
    refused: Cumulative<u64>,
    /// Requests whose response cannot be told.
    unclear: Cumulative<u64>,
    lost: Cumulative<u64>,
}

impl Http {
    pub(crate) fn take(&mut self, event: &HttpEvent) {
        match &event.what {
            HttpWhat::Began {
                id,
                request,
                ids,
                client_port,
            } => {
                if self.active.len() < MAX_ACTIVE {
                    let active = Active {
                        request: request.clone(),
                        tid: event.tid,
                        began_ns: event.at_ns,
                        ids: ids.clone(),
                        client_port: *client_port,
                        route: self.routes.now(request, event.tid),
                    };
                    self.active.insert(*id, active);
                }
            }
            HttpWhat::Answered {
                id,
                request,
                status,
                duration_ns,
            } => {
                self.over(*id, event.at_ns);
                let route = match status {
                    // Another protocol, of which the table says nothing.
                    101 => Route::None(routes::OF_NONE),
                    _ => self.routes.of(request, event.tid, event.at_ns),
                };
                let HttpRequest {
                    method,
                    path,
                    queue_ns,
                } = self.known(request, *status);
                let key = Key {
                    method,
                    path,
                    route,
                    status: *status,
                };
                if self.rows.len() >= MAX_ROWS && !self.rows.contains_key(&key) {
                    self.refused.now += 1;
                    return;
                }
                let row = &mut self.rows.entry(key).or_default().now;
                row.duration.record(*duration_ns, 1);
                if let Some(queue_ns) = queue_ns {
                    row.queue.record(queue_ns, 1);
                }
            }
            HttpWhat::Abandoned { id } => {
                self.abandoned.now += u64::from(self.over(*id, event.at_ns));
            }
            HttpWhat::Unparsed(reason) => self.unparsed.entry(*reason).or_default().now += 1,
            HttpWhat::Lost { records } => self.lose(*records),
            HttpWhat::Unclear { id } => {
                self.unclear.now += 1;
                if let Some(id) = id {
                    self.active.remove(id);
                }
            }
            HttpWhat::Waited {
                peer,
                made,
                cause,
                from_ns,
                wait_ns,
            } => self.peers.take(&PeerWait {
                tid: event.tid,
                peer: *peer,
                made: *made,
                cause: *cause,
                from_ns: *from_ns,
                wait_ns: *wait_ns,
                in_request_ns: self.in_request_ns(event.tid, *from_ns, *wait_ns),
            }),
        }
    }

    /// What of a wait lies in the one request that its thread has read and not answered.
    fn in_request_ns(&self, tid: Tid, from_ns: u64, wait_ns: u64) -> u64 {
        if self.active.len() > MAX_THREADS {
            return 0;
        }
        let mut own = self.active.values().filter(|active| active.tid == tid);
        match (own.next(), own.next()) {
            (Some(active), None) => {
                let end_ns = from_ns.saturating_add(wait_ns);
                end_ns.saturating_sub(from_ns.max(active.began_ns))
            }
            _ => 0,
        }
    }

    /// What the window has added.
    pub(crate) fn add_to(&self, delta: &mut HttpDelta) {
        for (key, row) in &self.rows {
            delta.add_row(key, &row.over(Scope::Window));
        }
        delta.abandoned += self.abandoned.over(Scope::Window);
        delta.lost |= self.lost.over(Scope::Window) > 0;
        delta.refused += self.refused.over(Scope::Window);
        for (reason, count) in &self.unparsed {
            *delta.unparsed.of(*reason) += count.over(Scope::Window);
        }
    }

    fn active_by_method(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for active in self.active.values() {
            *counts.entry(active.request.method.to_string()).or_default() += 1;
        }
        counts
    }

    /// How many requests are under way of each port of a client.
    fn active_by_port(&self) -> BTreeMap<u16, u64> {
        let mut counts = BTreeMap::new();
        let ports = self.active.values().filter_map(|active| active.client_port);
        ports.for_each(|port| *counts.entry(port).or_default() += 1);
        counts
    }

    /// A request is over; false: it was not under way.
    fn over(&mut self, id: u64, at_ns: u64) -> bool {
        let active = self.active.remove(&id);
        if let Some(active) = &active {
            self.past.push(active.stretch(at_ns));
        }
        active.is_some()
    }

    /// The requests that a step of this thread kept waiting; `None`: none.
    pub(crate) fn delayed(&self, tid: Tid, step: &Range<u64>) -> Option<schema::Delayed> {
        let active = self.active.values();
        let active = active.map(|active| active.stretch(u64::MAX));
        self.past.delayed(active, tid, step).of_any()
    }

    /// Whether all requests are known that a step may have delayed that began then.
    pub(crate) fn knows_since(&self, at_ns: u64) -> bool {
        self.past.reaches(at_ns) && self.active.len() < MAX_ACTIVE
    }

    /// Takes over the routes of the framework; those of a loop hold where its thread is known.
    pub(crate) fn look(&mut self, look: &PythonFact) {
        self.peers.look(look.loops.iter().map(|one| one.tid));
        let Some(routes) = &look.routes else {
            return;
        };
        let serves = |one: &&PyLoop| Some(one.id) == routes.loop_id;
        let tid = look.loops.iter().find(serves).map(|one| one.tid);
        if tid.is_some() || routes.loop_id.is_none() {
            let loops = look.loops.iter().map(|one| one.tid).collect();
            self.routes.know(routes, tid, loops, look.read_ns);
            for active in self.active.values_mut().take(MAX_SHOWN) {
                active.route = self.routes.now(&active.request, active.tid);
            }
        }
    }

    /// The request, with its path while there is room for one more.
    fn known(&mut self, request: &HttpRequest, status: u16) -> HttpRequest {
        let mut request = request.clone();
        request.path = request.path.filter(|path| {
            let (paths, most) = match status {
                404 | 405 if !self.paths.contains(path) => (&mut self.not_found, MAX_NOT_FOUND),
                _ => (&mut self.paths, MAX_PATHS),
            };
            paths.contains(path) || paths.len() < most && paths.insert(path.clone())
        });
        request
    }

    /// Records never arrived: what is under way is not known any more.
    pub(crate) fn lose(&mut self, records: u64) {
        self.lost.now = self.lost.now.saturating_add(records);
        self.active.clear();
    }

    /// Begins a window.
    pub(crate) fn roll(&mut self) {
        self.peers.roll();
        self.rows.values_mut().for_each(Cumulative::roll);
        self.unparsed.values_mut().for_each(Cumulative::roll);
        self.abandoned.roll();
        self.refused.roll();
        self.unclear.roll();
        self.lost.roll();
        self.routes.roll();
    }

    /// Another program runs in the process, or none any more.
    pub(crate) fn replaced(&mut self) {
        self.active.clear();
        self.routes = Routes::default();
    }

    /// The row of the process, of which `look` is the latest one.
    pub(crate) fn row(&self, scope: Scope, now_ns: u64, look: Option<&PythonFact>) -> schema::Http {
        let mut requests: Vec<_> = self
            .rows
            .iter()
            .map(|(key, row)| (key, row.over(scope)))
            .filter_map(|(key, row)| Some((key, row.duration.report()?, row.queue.report())))
            .map(|(key, duration, queue)| requests(key, duration, queue))
            .collect();
        requests.sort_by_key(|row| std::cmp::Reverse(row.duration.sum_ns));
        let ports = self.active_by_port();
        let active = self.active.values().take(MAX_SHOWN);
        let unparsed = self.unparsed.iter();
        let mut limits = Vec::new();
        if self.active.len() >= MAX_ACTIVE {
            let reason = format!("no more than {MAX_ACTIVE} requests under way are kept");
            limits.push(limit("active_count", reason));
        }
        let refused = self.refused.over(scope);
        if refused > 0 {
            let reason = format!("no room for {refused} requests of more kinds");
            limits.push(limit("requests", reason));
        }
        let unclear = self.unclear.over(scope);
        if unclear > 0 {
            let reason = format!(
                "which response {unclear} requests had is not known: others on their connections may have gone unseen"
            );
            limits.push(limit("requests", reason));
        }
        let lost = self.lost.over(scope);
        if lost > 0 {
            let reason = format!(
                "{lost} records of sockets were lost: requests are missing, and those that were under way are not known"
            );
            limits.push(limit("requests", reason));
        }
        let refused = self.routes.refused(scope);
        if refused > 0 {
            let reason = format!(
                "of which route {refused} requests were was not looked up: too many paths were new"
            );
            limits.push(limit("requests", reason));
        }
        if let Some(reason) = self.routes.why_none() {
            let reason = format!("no route is told: {reason}");
            limits.push(limit("requests", reason));
        }
        let (routes, untold) = self.routes.untold();
        if untold > 0 {
            let reason = format!(
                "which paths {untold} of the framework's {routes} routes take cannot be told: a class, a converter or an \
                 expression of them is not known, or they are another application's"
            );
            limits.push(limit("requests", reason));
        }
        schema::Http {
            requests,
            active: active
                .map(|active| active.row(now_ns, look, &ports))
                .collect(),
            active_count: self.active.len() as u64,
            active_by_method: self.active_by_method(),
            abandoned: self.abandoned.over(scope),
            unparsed: unparsed
                .map(|(reason, count)| (reason.name().to_owned(), count.over(scope)))
                .filter(|(_, count)| *count > 0)
                .collect(),
            limits,
        }
    }
}

impl Active {
    fn stretch(&self, end_ns: u64) -> Stretch {
        let queue_ns = self.request.queue_ns.unwrap_or(0);
        Stretch {
            tid: self.tid,
            ready_ns: self.began_ns.saturating_sub(queue_ns),
            read_ns: self.began_ns,
            end_ns,
        }
    }

    fn row(
        &self,
        now_ns: u64,
        look: Option<&PythonFact>,
        ports: &BTreeMap<u16, u64>,
    ) -> schema::HttpActive {
        let (route, mut limits) = self.route.clone().told();
        let port = self.client_port;
        let is_one = port.is_none_or(|port| ports.get(&port) == Some(&1));
        let serving = serving::serving(
            look,
            Served {
                began_ns: self.began_ns,
                tid: self.tid,
                client_port: is_one.then_some(port).ok_or(()),
            },
        );
        if let Err(reason) = &serving.task {
            limits.push(limit("task", *reason));
        }
        if let Err(reason) = &serving.place {
            limits.push(limit("where", *reason));
        }
        if self.request.queue_ns.is_none() {
            limits.push(limit("queue_ns", UNSEEN));
        }
        limits.extend(no_path(self.request.path.as_ref()));
        schema::HttpActive {
            method: self.request.method.to_string(),
            route,
            learned_path: self.request.path.as_deref().map(str::to_owned),
            age_ns: now_ns.saturating_sub(self.began_ns),
            queue_ns: self.request.queue_ns,
            tid: self.tid.0,
            task: serving.task.ok().flatten(),
            place: serving.place.ok(),
            waits_for: serving.waits_for,
            ids: self.ids.clone(),
            limits,
        }
    }
}

/// Why there is no path.
fn no_path(path: Option<&Arc<str>>) -> Option<schema::Limit> {
    let reason = "left out by --redact, or there are more paths than are kept";
    path.is_none().then(|| limit("learned_path", reason))
}

const UNSEEN: &str = "when its bytes became readable was not seen";

fn requests(
    key: &Key,
    duration: schema::Histogram,
    queue: Option<schema::Histogram>,
) -> schema::HttpRequests {
    let (route, mut limits) = key.route.clone().told();
    limits.extend(no_path(key.path.as_ref()));
    let queue = queue.unwrap_or_default();
    if queue.count < duration.count {
        let missing = duration.count - queue.count;
        limits.push(limit("queue", format!("of {missing} requests: {UNSEEN}")));
    }
    schema::HttpRequests {
        method: key.method.to_string(),
        route,
        learned_path: key.path.as_deref().map(str::to_owned),
        status: key.status,
        count: duration.count,
        duration,
        queue,
        estimated: vec!["learned_path"],
        limits,
    }
}

#[cfg(test)]
mod tests;
