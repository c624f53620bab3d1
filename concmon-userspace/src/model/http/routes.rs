//! Which of a framework's routes a request is of, by its folded path.
//!
//! Paths are folded before they come here, which leaves open what some parts were: where more than one route may be meant,
//! none is told. Routes are tried in their order, as the framework does.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::event::patterns::{Pattern, Takes};
use crate::event::{HttpRequest, PyRoute, PyRouteKind, PyRoutes, Tid};
use crate::model::window::limit;
use crate::schema::Limit;

const NO_ROUTES: &str = "no routes of a framework that is known were found";
const NO_PATH: &str = "its path is not kept";
pub(super) const OF_NONE: &str = "it is of none of the framework's routes";
const UNCLEAR: &str = "it may be of more than one route, or of one that cannot be told";

/// The route of a request; else why there is none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Route {
    Known(String),
    None(&'static str),
}

impl Route {
    /// As it is reported.
    pub(super) fn told(self) -> (Option<String>, Vec<Limit>) {
        match self {
            Self::Known(route) => (Some(route), Vec::new()),
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
    /// Others, and when they were read: requests come later than looks.
    next: Option<(u64, Arc<Table>)>,
    /// What was found already, by method and path.
    found: BTreeMap<String, BTreeMap<String, Route>>,
}

/// Paths of one method of which the route is remembered.
const MAX_FOUND: usize = 128;
/// What the patterns of a process take; those for which there is no room cannot be told.
const MAX_BYTES: usize = 1 << 20;

impl Routes {
    pub(super) fn know(&mut self, routes: &Arc<PyRoutes>, tid: Option<Tid>, read_ns: u64) {
        self.tid = tid;
        let latest = self.next.as_ref().map(|(_, next)| next);
        match latest.or(self.known.as_ref()) {
            Some(known) if known.routes == *routes => {}
            Some(_) => self.next = Some((read_ns, Arc::new(Table::new(routes)))),
            None => self.known = Some(Arc::new(Table::new(routes))),
        }
    }

    /// How many routes there are, and of how many it cannot be told which paths they take.
    pub(super) fn untold(&self) -> (usize, usize) {
        let known = self.known.as_ref();
        known.map_or((0, 0), |known| (known.routes.routes.len(), known.untold()))
    }

    /// The route of a request that was answered then.
    pub(super) fn of(&mut self, request: &HttpRequest, tid: Tid, at_ns: u64) -> Route {
        if !self.hold_for(tid) {
            return Route::None(NO_ROUTES);
        }
        let (method, path) = (&*request.method, request.path.as_deref());
        if let Some((_, next)) = self.next.take_if(|(read_ns, _)| *read_ns <= at_ns) {
            self.known = Some(next);
            self.found.clear();
        }
        let (Some(_), Some(path)) = (&self.known, path) else {
            return self.look_up(method, path);
        };
        if let Some(route) = self.found.get(method).and_then(|of| of.get(path)) {
            return route.clone();
        }
        let route = self.look_up(method, Some(path));
        let of_method = self.found.entry(method.to_owned()).or_default();
        if of_method.len() < MAX_FOUND {
            of_method.insert(path.to_owned(), route.clone());
        }
        route
    }

    /// The route of a request that is under way.
    pub(super) fn now(&self, request: &HttpRequest, tid: Tid) -> Route {
        match self.hold_for(tid) {
            true => self.look_up(&request.method, request.path.as_deref()),
            false => Route::None(NO_ROUTES),
        }
    }

    /// Another server of the process may answer by another thread.
    fn hold_for(&self, tid: Tid) -> bool {
        self.tid.is_none_or(|serves| serves == tid)
    }

    fn look_up(&self, method: &str, path: Option<&str>) -> Route {
        let Some(routes) = &self.known else {
            return Route::None(NO_ROUTES);
        };
        let Some(path) = path else {
            return Route::None(NO_PATH);
        };
        match routes.find(method, path) {
            Found::Route(route) => Route::Known(route.to_owned()),
            Found::None => Route::None(OF_NONE),
            Found::Unclear => Route::None(UNCLEAR),
        }
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
#[derive(Clone, Debug)]
struct Table {
    routes: Arc<PyRoutes>,
    /// In the order of the routes; `None`: which paths it takes cannot be told.
    patterns: Vec<Option<Pattern>>,
}

impl Table {
    fn new(routes: &Arc<PyRoutes>) -> Self {
        let mut left = MAX_BYTES;
        let patterns = routes.routes.iter().map(|route| {
            let pattern = Pattern::new(route.pattern.as_deref()?)?;
            left = left.checked_sub(pattern.bytes())?;
            Some(pattern)
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
    fn find(&self, method: &str, path: &str) -> Found<'_> {
        let is_other = method == crate::event::http::OTHER_METHOD;
        let mut other_method = None;
        for (route, pattern) in self.routes.routes.iter().zip(&self.patterns) {
            let takes = pattern.as_ref().map_or(Takes::Maybe, |one| one.takes(path));
            let takes_method = match &route.methods {
                None => true,
                // It may have one of those.
                Some(_) if is_other && takes != Takes::No => return Found::Unclear,
                Some(methods) => methods.iter().any(|one| one == method),
            };
            match (takes, route.kind) {
                (Takes::No, _) => {}
                _ if !takes_method && !self.routes.other_methods => {}
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
mod tests {
    use super::*;

    /// Routes whose paths are their expressions.
    fn routes(of: &[(&str, &[&str], PyRouteKind)]) -> PyRoutes {
        let routes = of.iter().map(|(path, methods, kind)| PyRoute {
            path: (*path).to_owned(),
            pattern: Some((*path).to_owned()),
            methods: (!methods.is_empty())
                .then(|| methods.iter().map(|name| (*name).to_owned()).collect()),
            kind: *kind,
        });
        PyRoutes {
            routes: routes.collect(),
            other_methods: true,
            ..PyRoutes::default()
        }
    }

    fn found(routes: &PyRoutes, method: &str, path: &str) -> Result<Option<String>, ()> {
        let table = Table::new(&Arc::new(routes.clone()));
        match table.find(method, path) {
            Found::Route(route) => Ok(Some(route.to_owned())),
            Found::None => Ok(None),
            Found::Unclear => Err(()),
        }
    }

    fn of(route: &str) -> Result<Option<String>, ()> {
        Ok(Some(route.to_owned()))
    }

    #[test]
    fn routes_are_tried_in_their_order() {
        use PyRouteKind::{Closed, Path};
        let routes = routes(&[
            ("/", &["GET"], Path),
            ("/items/latest", &["GET"], Path),
            ("/items/[^/]+", &["GET", "HEAD"], Path),
            ("/items/[^/]*", &["PUT"], Path),
            ("/n/[0-9]+", &["GET"], Path),
            ("/n/[^/]+", &["GET"], Path),
            ("/files/.*", &["GET"], Path),
            ("/api/users/[^/]+", &["GET"], Path),
            ("/api/.*", &[], Closed),
            ("/api/ne.*", &["GET"], Path),
            ("/2024/[^/]+", &["GET"], Path),
        ]);
        for (method, path, expected) in [
            ("GET", "/", of("/")),
            ("GET", "/items/latest", of("/items/latest")),
            ("HEAD", "/items/{number}", of("/items/[^/]+")),
            ("PUT", "/items/x", of("/items/[^/]*")),
            ("DELETE", "/items/x", of("/items/[^/]+")),
            ("_OTHER", "/items/x", Err(())),
            ("_OTHER", "/x", Ok(None)),
            ("GET", "/items", Ok(None)),
            ("GET", "/n/{number}", of("/n/[0-9]+")),
            ("GET", "/n/{hash}", of("/n/[^/]+")),
            ("GET", "/files/a/b/c/d/e/f/g/...", of("/files/.*")),
            ("GET", "/api/users/{number}", of("/api/users/[^/]+")),
            ("GET", "/api/never", Ok(None)),
            ("GET", "/{number}/x", Err(())),
            // Before a parameter stands a literal, which it may be when it is decoded.
            ("GET", "/items/{encoded}", Err(())),
            ("PUT", "/nothing/{encoded}", Ok(None)),
            ("OPTIONS", "*", Ok(None)),
        ] {
            assert_eq!(found(&routes, method, path), expected, "{method} {path}");
        }
    }

    /// Some frameworks answer other methods without a route.
    #[test]
    fn a_route_may_be_of_its_own_methods_only() {
        use PyRouteKind::{Closed, Path};
        let mut routes = routes(&[
            ("/items", &["GET"], Path),
            ("/[a-z]+", &["PUT"], Path),
            ("/items", &["POST"], Closed),
            ("/it.*", &["POST"], Path),
        ]);
        routes.other_methods = false;
        for (method, expected) in [
            ("GET", of("/items")),
            ("PUT", of("/[a-z]+")),
            ("POST", Ok(None)),
            ("PATCH", Ok(None)),
        ] {
            assert_eq!(found(&routes, method, "/items"), expected, "{method}");
        }
        assert_eq!(found(&routes, "POST", "/it"), of("/it.*"));
    }

    fn of_path(path: Option<&str>) -> HttpRequest {
        HttpRequest {
            method: "GET".to_owned(),
            path: path.map(str::to_owned),
            queue_ns: None,
        }
    }

    #[test]
    fn a_request_is_of_the_routes_of_its_time() {
        let of = |path| Arc::new(routes(&[(path, &["GET"], PyRouteKind::Path)]));
        let mut known = Routes::default();
        assert_eq!(
            known.of(&of_path(Some("/b")), Tid(1), 5),
            Route::None(NO_ROUTES)
        );
        known.know(&of("/a"), Some(Tid(1)), 10);
        assert_eq!(
            known.of(&of_path(Some("/b")), Tid(1), 15),
            Route::None(OF_NONE)
        );
        known.know(&of("/b"), Some(Tid(1)), 20);
        known.know(&of("/b"), Some(Tid(1)), 30);
        assert_eq!(
            known.of(&of_path(Some("/b")), Tid(1), 19),
            Route::None(OF_NONE)
        );
        let found = Route::Known("/b".to_owned());
        assert_eq!(known.of(&of_path(Some("/b")), Tid(1), 20), found);
        assert_eq!(
            known.of(&of_path(Some("/a")), Tid(1), 21),
            Route::None(OF_NONE)
        );
        assert_eq!(known.of(&of_path(None), Tid(1), 22), Route::None(NO_PATH));
        // Somebody else in the process serves something else.
        assert_eq!(
            known.of(&of_path(Some("/b")), Tid(2), 23),
            Route::None(NO_ROUTES)
        );
    }

    /// What is below a path is taken by whoever is mounted there, but for what was tried first.
    #[test]
    fn what_is_mounted_answers_below_its_path() {
        use PyRouteKind::{Closed, Path};
        let routes = routes(&[
            ("/api/x", &["POST"], Path),
            ("/api/y", &["GET"], Path),
            ("/api/.*", &[], Closed),
        ]);
        assert_eq!(found(&routes, "POST", "/api/x"), of("/api/x"));
        assert_eq!(found(&routes, "GET", "/api/x"), Err(()));
        assert_eq!(found(&routes, "GET", "/api/z"), Ok(None));
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        let mut known = routes(&[("/a", &["GET"], PyRouteKind::Path)]);
        known.cut = true;
        assert_eq!(found(&known, "GET", "/a"), of("/a"));
        assert_eq!(found(&known, "GET", "/b"), Err(()));
        let mut known = routes(&[
            ("/own/.*", &[], PyRouteKind::Unknown),
            ("/[a-z/]+", &["GET"], PyRouteKind::Path),
        ]);
        assert_eq!(found(&known, "GET", "/own/a"), Err(()));
        assert_eq!(found(&known, "GET", "/a"), of("/[a-z/]+"));
        known.routes[0].pattern = None;
        assert_eq!(found(&known, "GET", "/a"), Err(()));
        assert_eq!(Table::new(&Arc::new(known)).untold(), 1);
    }

    /// There is an end to what the patterns of one process take.
    #[test]
    fn patterns_for_which_there_is_no_room_cannot_be_told() {
        let large = "/(?:a|b)*a(?:a|b){9}";
        let many = [(large, &["GET"][..], PyRouteKind::Path); 64];
        let untold = Table::new(&Arc::new(routes(&many))).untold();
        assert!((1..64).contains(&untold), "{untold}");
    }
}
