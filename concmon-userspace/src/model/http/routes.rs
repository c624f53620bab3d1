//! Which of a framework's routes a request is of, by its folded path.
//!
//! Paths are folded before they come here, which leaves open what some parts were: where more than one route may be meant,
//! none is told. Routes are tried in their order, as the framework does.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::event::paths::{ENCODED, fold_part};
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
    known: Option<Arc<PyRoutes>>,
    /// Who serves them; `None`: they hold for whoever does.
    tid: Option<Tid>,
    /// Others, and when they were read: requests come later than looks.
    next: Option<(u64, Arc<PyRoutes>)>,
    /// What was found already, by method and path.
    found: BTreeMap<String, BTreeMap<String, Route>>,
}

/// Paths of one method of which the route is remembered.
const MAX_FOUND: usize = 128;

impl Routes {
    pub(super) fn know(&mut self, routes: &Arc<PyRoutes>, tid: Option<Tid>, read_ns: u64) {
        self.tid = tid;
        let latest = self.next.as_ref().map(|(_, next)| next);
        match latest.or(self.known.as_ref()) {
            Some(known) if known == routes => {}
            Some(_) => self.next = Some((read_ns, Arc::clone(routes))),
            None => self.known = Some(Arc::clone(routes)),
        }
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
        match find(routes, method, path) {
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

/// Whether a route takes a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Takes {
    No,
    Maybe,
    Yes,
}

/// What a path is folded to behind its first parts.
const MORE: &str = "...";

/// The route of a request. One that has another method is its route as well where no other takes it: it answers then.
fn find<'a>(routes: &'a PyRoutes, method: &str, path: &str) -> Found<'a> {
    let mut other_method = None;
    for route in &routes.routes {
        let takes = takes(route, path);
        match (takes, route.kind) {
            (Takes::No, _) => {}
            (Takes::Maybe, _) | (_, PyRouteKind::Unknown) => return Found::Unclear,
            // One that has another method may be one of those below, or stand before the mount, which takes all then.
            (Takes::Yes, PyRouteKind::Closed) => {
                return other_method.map_or(Found::None, |_| Found::Unclear);
            }
            (Takes::Yes, PyRouteKind::Path | PyRouteKind::Below) => {
                let mut methods = route.methods.iter().flatten();
                if route.methods.is_none() || methods.any(|one| one == method) {
                    return Found::Route(&route.path);
                }
                other_method.get_or_insert(&*route.path);
            }
        }
    }
    match other_method {
        _ if routes.cut => Found::Unclear,
        Some(route) => Found::Route(route),
        None => Found::None,
    }
}

fn takes(route: &PyRoute, path: &str) -> Takes {
    let mut wanted = route.path.split('/');
    let mut parts = path.split('/');
    let is_prefix = route.kind != PyRouteKind::Path;
    let mut takes = Takes::Yes;
    loop {
        let (want, part) = match (wanted.next(), parts.next()) {
            (Some(want), Some(_)) if converter(want) == Some("path") => {
                // It takes all that is left, what follows it included.
                return takes.min(if wanted.next().is_none() {
                    Takes::Yes
                } else {
                    Takes::Maybe
                });
            }
            (_, Some(MORE)) => return takes.min(Takes::Maybe),
            (Some(want), Some(part)) => (want, part),
            (None, None) => {
                // What takes all below a path does not take the path itself, which is told on to it.
                let is_open = matches!(route.kind, PyRouteKind::Path | PyRouteKind::Unknown);
                return if is_open { takes } else { Takes::No };
            }
            (None, Some(_)) if is_prefix => return takes,
            (None, Some(_)) | (Some(_), None) => return Takes::No,
        };
        takes = takes.min(takes_part(want, part));
        if takes == Takes::No {
            return Takes::No;
        }
    }
}

/// The converter of a part that is one parameter and nothing else.
fn converter(want: &str) -> Option<&str> {
    let inside = want.strip_prefix('{')?.strip_suffix('}')?;
    if inside.contains(['{', '}']) {
        return None;
    }
    Some(
        inside
            .split_once(':')
            .map_or("str", |(_, converter)| converter),
    )
}

fn takes_part(want: &str, part: &str) -> Takes {
    let is = |takes: bool| if takes { Takes::Yes } else { Takes::No };
    let is_folded = matches!(part, "{number}" | "{uuid}" | "{hash}" | "{text}" | ENCODED);
    let maybe = |may: bool| if may { Takes::Maybe } else { Takes::No };
    match converter(want) {
        Some("str") => is(!part.is_empty()),
        Some("int") if part == ENCODED => Takes::Maybe,
        Some("int") => is(part == "{number}"),
        Some("float") if part == "{number}" => Takes::Yes,
        Some("uuid") if part == "{uuid}" => Takes::Yes,
        Some("float" | "uuid") => maybe(!part.is_empty()),
        Some(_) => Takes::Maybe,
        // A parameter and something else.
        None if want.contains('{') => maybe(!part.is_empty()),
        None if part == ENCODED => Takes::Maybe,
        // Others are folded to the same.
        None if is_folded => maybe(fold_part(want) == part),
        None => is(want == part),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(of: &[(&str, &[&str], PyRouteKind)]) -> PyRoutes {
        let routes = of.iter().map(|(path, methods, kind)| PyRoute {
            path: (*path).to_owned(),
            methods: (!methods.is_empty())
                .then(|| methods.iter().map(|name| (*name).to_owned()).collect()),
            kind: *kind,
        });
        PyRoutes {
            routes: routes.collect(),
            ..PyRoutes::default()
        }
    }

    #[test]
    fn routes_are_tried_in_their_order() {
        use PyRouteKind::{Below, Closed, Path};
        let routes = routes(&[
            ("/", &["GET"], Path),
            ("/items/latest", &["GET"], Path),
            ("/items/{id}", &["GET", "HEAD"], Path),
            ("/items/{id}", &["PUT"], Path),
            ("/n/{n:int}", &["GET"], Path),
            ("/n/{word}", &["GET"], Path),
            ("/u/{id:uuid}/x", &[], Path),
            ("/files/{rest:path}", &["GET"], Path),
            ("/static", &[], Below),
            ("/api/users/{id}", &["GET"], Path),
            ("/api", &[], Closed),
            ("/api/never", &["GET"], Path),
            ("/2024/{a}", &["GET"], Path),
            ("/r/{a}.json", &["GET"], Path),
        ]);
        for (method, path, found) in [
            ("GET", "/", Found::Route("/")),
            ("GET", "/items/latest", Found::Route("/items/latest")),
            ("HEAD", "/items/{number}", Found::Route("/items/{id}")),
            ("PUT", "/items/x", Found::Route("/items/{id}")),
            ("DELETE", "/items/x", Found::Route("/items/{id}")),
            ("GET", "/items/", Found::None),
            ("GET", "/items", Found::None),
            ("GET", "/n/{number}", Found::Route("/n/{n:int}")),
            ("GET", "/n/{hash}", Found::Route("/n/{word}")),
            ("GET", "/u/{uuid}/x", Found::Route("/u/{id:uuid}/x")),
            ("GET", "/u/{text}/x", Found::Unclear),
            ("GET", "/files/a/b/c", Found::Route("/files/{rest:path}")),
            (
                "GET",
                "/files/a/b/c/d/e/f/g/...",
                Found::Route("/files/{rest:path}"),
            ),
            ("GET", "/files/", Found::Route("/files/{rest:path}")),
            ("GET", "/files", Found::None),
            ("GET", "/static/app.js", Found::Route("/static")),
            ("GET", "/static", Found::None),
            (
                "GET",
                "/api/users/{number}",
                Found::Route("/api/users/{id}"),
            ),
            ("GET", "/api/never", Found::None),
            ("GET", "/{number}/x", Found::Unclear),
            ("GET", "/r/a.json", Found::Unclear),
            // Before a parameter stands a literal, which it may be when it is decoded.
            ("GET", "/items/{encoded}", Found::Unclear),
            ("PUT", "/nothing/{encoded}", Found::None),
            ("GET", "/nothing", Found::None),
            ("OPTIONS", "*", Found::None),
        ] {
            assert_eq!(find(&routes, method, path), found, "{method} {path}");
        }
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
            ("/api", &[], Closed),
        ]);
        assert_eq!(find(&routes, "POST", "/api/x"), Found::Route("/api/x"));
        assert_eq!(find(&routes, "GET", "/api/x"), Found::Unclear);
        assert_eq!(find(&routes, "GET", "/api/z"), Found::None);
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        let mut known = routes(&[("/a", &["GET"], PyRouteKind::Path)]);
        known.cut = true;
        assert_eq!(find(&known, "GET", "/a"), Found::Route("/a"));
        assert_eq!(find(&known, "GET", "/b"), Found::Unclear);
        let mut known = routes(&[("", &[], PyRouteKind::Unknown)]);
        known
            .routes
            .extend(routes(&[("/a", &["GET"], PyRouteKind::Path)]).routes);
        assert_eq!(find(&known, "GET", "/a"), Found::Unclear);
    }
}
