//! Which of a framework's routes a request is of, by its folded path.
//!
//! Paths are folded before they come here, which leaves open what some parts were: where more than one route may be meant,
//! none is told. Routes are tried in their order, as the framework does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::event::paths::ABOVE;
use crate::event::patterns::{Budget, Pattern, Takes};
use crate::event::{HttpRequest, PyNoRoutes, PyRoute, PyRouteKind, PyRoutes, Tid};
use crate::model::window::{Cumulative, Scope, limit};
use crate::schema::Limit;

const NO_ROUTES: &str = "no routes of a framework that is known were found";
const NO_PATH: &str = "its path is not kept";
pub(super) const OF_NONE: &str = "it is of none of the framework's routes";
const UNCLEAR: &str = "it may be of more than one route, or of one that cannot be told";
const SEVERAL: &str = "the process serves several applications";
const PREFIX: &str =
    "the application is served below a path: SCRIPT_NAME, url_prefix or root_path is set";
const MIDDLEWARE: &str = "middleware of the application may change paths";
const TOO_MUCH: &str = "too many requests with paths that are new were to be looked up";

/// The route of a request; else why there is none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Route {
    Known(Arc<str>),
    None(&'static str),
}

impl Route {
    /// As it is reported.
    pub(super) fn told(self) -> (Option<String>, Vec<Limit>) {
        match self {
            Self::Known(route) => (Some(route.to_string()), Vec::new()),
            Self::None(reason) => (None, vec![limit("route", reason)]),
        }
    }
}

/// The routes of a process, and of which of them requests are.
#[derive(Clone, Debug, Default)]
pub(super) struct Routes {
    known: Option<Arc<Table>>,
    /// Who serves them; `None`: they hold for whoever does.
    tid: Option<Tid>,
    /// Else who does not: event loops, which something unknown may serve by.
    loops: Vec<Tid>,
    /// Others, and when they were read: requests come later than looks.
    next: Option<(u64, Arc<Table>)>,
    /// Before that none is built.
    pause_end_ns: u64,
    found: Remembered,
    budget: Steps,
    /// Requests that were not looked up.
    refused: Cumulative<u64>,
}

/// What looking up may take in a window.
#[derive(Clone, Debug)]
struct Steps(Budget);

impl Default for Steps {
    fn default() -> Self {
        Self(Budget::new(1 << 20))
    }
}

/// What was found already, by method and path: of the latest, and of those before.
#[derive(Clone, Debug, Default)]
struct Remembered {
    count: usize,
    latest: BTreeMap<String, BTreeMap<String, Route>>,
    before: BTreeMap<String, BTreeMap<String, Route>>,
}

/// Routes that are remembered of the latest.
const MAX_FOUND: usize = 1_024;
/// What the patterns of a process take; those for which there is no room cannot be told.
const MAX_BYTES: usize = 1 << 20;
/// What counts of one that was too large to be built.
const FAILED_BYTES: usize = 64 << 10;
/// So many times as long as a table took to be built, no other is.
const PAUSE: u64 = 20;

impl Remembered {
    fn get(&mut self, method: &str, path: &str) -> Option<Route> {
        let of = |all: &BTreeMap<String, BTreeMap<String, Route>>| {
            all.get(method).and_then(|of| of.get(path)).cloned()
        };
        if let Some(route) = of(&self.latest) {
            return Some(route);
        }
        let route = of(&self.before)?;
        self.add(method, path, route.clone());
        Some(route)
    }

    fn add(&mut self, method: &str, path: &str, route: Route) {
        if self.count >= MAX_FOUND {
            self.count = 0;
            self.before = std::mem::take(&mut self.latest);
        }
        self.count += 1;
        let of_method = self.latest.entry(method.to_owned()).or_default();
        of_method.insert(path.to_owned(), route);
    }
}

impl Routes {
    /// Takes over routes, of a thread or of all but those of event loops.
    pub(super) fn know(
        &mut self,
        routes: &Arc<PyRoutes>,
        tid: Option<Tid>,
        loops: Vec<Tid>,
        read_ns: u64,
    ) {
        (self.tid, self.loops) = (tid, loops);
        let latest = self.next.as_ref().map(|(_, next)| next);
        let latest = latest.or(self.known.as_ref());
        if latest.is_some_and(|known| known.routes == *routes) {
            return;
        }
        let table = if read_ns < self.pause_end_ns {
            // They change too often: until later, it cannot be told which there are.
            Table::default()
        } else {
            let begin = Instant::now();
            let table = Table::new(routes);
            let took_ns = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.pause_end_ns = read_ns.saturating_add(took_ns.saturating_mul(PAUSE));
            table
        };
        match self.known {
            Some(_) => self.next = Some((read_ns, Arc::new(table))),
            None => self.known = Some(Arc::new(table)),
        }
    }

    /// How many routes there are, and of how many it cannot be told which paths they take.
    pub(super) fn untold(&self) -> (usize, usize) {
        let known = self.known.as_ref();
        known.map_or((0, 0), |known| (known.routes.routes.len(), known.untold()))
    }

    /// Why there are none of an application that was found.
    pub(super) fn why_none(&self) -> Option<&'static str> {
        self.known.as_ref()?.routes.refused.map(reason)
    }

    /// How many requests were not looked up.
    pub(super) fn refused(&self, scope: Scope) -> u64 {
        self.refused.over(scope)
    }

    /// Begins a window.
    pub(super) fn roll(&mut self) {
        self.budget = Steps::default();
        self.refused.roll();
    }

    /// The route of a request that was answered then.
    pub(super) fn of(&mut self, request: &HttpRequest, tid: Tid, at_ns: u64) -> Route {
        if let Some((_, next)) = self.next.take_if(|(read_ns, _)| *read_ns <= at_ns) {
            self.known = Some(next);
            self.found = Remembered::default();
        }
        let route = self.now(request, tid);
        if route == Route::None(TOO_MUCH) {
            self.refused.now += 1;
        }
        route
    }

    /// The route of a request that is under way.
    pub(super) fn now(&mut self, request: &HttpRequest, tid: Tid) -> Route {
        let (true, Some(routes)) = (self.hold_for(tid), &self.known) else {
            return Route::None(NO_ROUTES);
        };
        let Some(path) = request.path.as_deref() else {
            return Route::None(NO_PATH);
        };
        if let Some(why) = routes.routes.refused {
            return Route::None(reason(why));
        }
        // Some servers and frameworks take away what is before it.
        if path.split('/').any(|part| part == ABOVE) {
            return Route::None(UNCLEAR);
        }
        let method = &*request.method;
        if let Some(route) = self.found.get(method, path) {
            return route;
        }
        let route = match routes.find(method, path, &mut self.budget.0) {
            // What was left for it may have been too little.
            _ if self.budget.0.is_spent() => return Route::None(TOO_MUCH),
            Found::Route(route) => Route::Known(route.into()),
            Found::None => Route::None(OF_NONE),
            Found::Unclear => Route::None(UNCLEAR),
        };
        self.found.add(method, path, route.clone());
        route
    }

    /// Another server of the process may answer by another thread.
    fn hold_for(&self, tid: Tid) -> bool {
        match self.tid {
            Some(serves) => serves == tid,
            None => !self.loops.contains(&tid),
        }
    }
}

fn reason(why: PyNoRoutes) -> &'static str {
    match why {
        PyNoRoutes::Several => SEVERAL,
        PyNoRoutes::Prefix => PREFIX,
        PyNoRoutes::Middleware => MIDDLEWARE,
    }
}

/// What a request is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found<'a> {
    Route(&'a str),
    /// No route takes it.
    None,
    /// That cannot be told.
    Unclear,
}

/// Routes, ready to be matched.
#[derive(Debug)]
struct Table {
    routes: Arc<PyRoutes>,
    /// In the order of the routes; `None`: which paths it takes cannot be told.
    patterns: Vec<Option<Pattern>>,
}

impl Default for Table {
    /// Routes of which nothing is known.
    fn default() -> Self {
        let routes = PyRoutes {
            cut: true,
            ..PyRoutes::default()
        };
        Self {
            routes: Arc::new(routes),
            patterns: Vec::new(),
        }
    }
}

impl Table {
    fn new(routes: &Arc<PyRoutes>) -> Self {
        let mut left = MAX_BYTES;
        let patterns = routes.routes.iter().map(|route| {
            let expression = route.pattern.as_deref().filter(|_| left > 0)?;
            let pattern = Pattern::new(expression);
            let bytes = pattern.as_ref().map_or(FAILED_BYTES, Pattern::bytes);
            let fits = bytes <= left;
            left = left.saturating_sub(bytes);
            pattern.filter(|_| fits)
        });
        Self {
            patterns: patterns.collect(),
            routes: Arc::clone(routes),
        }
    }

    /// How many routes there are of which it cannot be told which paths they take.
    fn untold(&self) -> usize {
        let routes = self.routes.routes.iter().zip(&self.patterns);
        let untold = |(route, pattern): &(&PyRoute, &Option<Pattern>)| {
            pattern.is_none() || route.kind == PyRouteKind::Unknown
        };
        routes.filter(untold).count()
    }

    /// The route of a request.
    fn find(&self, method: &str, path: &str, budget: &mut Budget) -> Found<'_> {
        let is_other = method == crate::event::http::OTHER_METHOD;
        let mut other_method = None;
        for (route, pattern) in self.routes.routes.iter().zip(&self.patterns) {
            let methods = route.methods.as_ref();
            let takes_method = methods.is_none_or(|all| all.iter().any(|one| one == method));
            // It may have one of those.
            let may_be_meant = is_other && methods.is_some();
            if !takes_method && !may_be_meant && !self.routes.other_methods {
                continue;
            }
            let takes = pattern
                .as_ref()
                .map_or(Takes::Maybe, |one| one.takes(path, budget));
            match (takes, route.kind) {
                (Takes::No, _) => {}
                _ if may_be_meant => return Found::Unclear,
                (Takes::Maybe, _) | (_, PyRouteKind::Unknown) => return Found::Unclear,
                // One that has another method may be one of those below, or stand before the mount, which takes all then.
                (Takes::Yes, PyRouteKind::Closed) => {
                    return other_method.map_or(Found::None, |_| Found::Unclear);
                }
                (Takes::Yes, PyRouteKind::Path) if takes_method => {
                    return Found::Route(&route.path);
                }
                (Takes::Yes, PyRouteKind::Path) => {
                    other_method.get_or_insert(&*route.path);
                }
            }
        }
        match other_method {
            _ if self.routes.cut => Found::Unclear,
            Some(route) => Found::Route(route),
            None => Found::None,
        }
    }
}

#[cfg(test)]
mod tests;
