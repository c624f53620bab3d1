//! Of which routes requests are, and what looking that up may take.

use super::*;

/// Longer than it takes to build a table.
const LONG_NS: u64 = 1 << 40;

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
    match table.find(method, path, &mut Budget::new(usize::MAX)) {
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
        method: "GET".into(),
        path: path.map(Into::into),
        queue_ns: None,
    }
}

#[test]
fn a_request_is_of_the_routes_of_its_time() {
    let of = |path| Arc::new(routes(&[(path, &["GET"], PyRouteKind::Path)]));
    let mut known = Routes::default();
    assert_eq!(
        known.of(&of_path(Some("/b")), Tid(1), 5 * LONG_NS),
        Route::None(NO_ROUTES)
    );
    known.know(&of("/a"), Some(Tid(1)), Vec::new(), 10 * LONG_NS);
    assert_eq!(
        known.of(&of_path(Some("/b")), Tid(1), 15 * LONG_NS),
        Route::None(OF_NONE)
    );
    known.know(&of("/b"), Some(Tid(1)), Vec::new(), 20 * LONG_NS);
    known.know(&of("/b"), Some(Tid(1)), Vec::new(), 30 * LONG_NS);
    assert_eq!(
        known.of(&of_path(Some("/b")), Tid(1), 19 * LONG_NS),
        Route::None(OF_NONE)
    );
    let found = Route::Known("/b".into());
    assert_eq!(known.of(&of_path(Some("/b")), Tid(1), 20 * LONG_NS), found);
    assert_eq!(
        known.of(&of_path(Some("/a")), Tid(1), 21 * LONG_NS),
        Route::None(OF_NONE)
    );
    assert_eq!(
        known.of(&of_path(None), Tid(1), 22 * LONG_NS),
        Route::None(NO_PATH)
    );
    // Somebody else in the process serves something else.
    assert_eq!(
        known.of(&of_path(Some("/b")), Tid(2), 23 * LONG_NS),
        Route::None(NO_ROUTES)
    );
}

/// No client can fill what is remembered for good, nor have more looked up than a window may take.
#[test]
fn looking_up_has_an_end() {
    let mut known = Routes::default();
    let large = routes(&[("/(?:a|b)*a(?:a|b){9}", &["GET"], PyRouteKind::Path)]);
    known.know(&Arc::new(large), None, Vec::new(), LONG_NS);
    let ask = |known: &mut Routes, number: u32| {
        let path = format!("/{}/{{text}}/{{hash}}", "ab".repeat(number as usize % 500));
        known.of(&of_path(Some(&path)), Tid(1), 2 * LONG_NS)
    };
    let mut count = 0;
    while ask(&mut known, count) != Route::None(TOO_MUCH) {
        count += 1;
        assert!(count < 1 << 20, "there is no end");
        known.found = Remembered::default();
    }
    assert_eq!(known.refused(Scope::Window), 1);
    known.roll();
    assert_ne!(ask(&mut known, count), Route::None(TOO_MUCH));
    for number in 0..5_000 {
        known.roll();
        known.of(&of_path(Some(&format!("/{number}"))), Tid(1), 2 * LONG_NS);
    }
    assert_eq!(known.found.get("GET", "/0"), None);
    assert!(known.found.get("GET", "/4999").is_some());
    let kept = [&known.found.latest, &known.found.before].map(|all| all["GET"].len());
    assert!(kept.iter().all(|count| *count <= MAX_FOUND), "{kept:?}");
}

/// A program that changes its routes all the time has no tables built all the time.
#[test]
fn routes_that_change_too_often_are_not_told() {
    let of = |path| Arc::new(routes(&[(path, &["GET"], PyRouteKind::Path)]));
    let mut known = Routes::default();
    known.know(&of("/a"), None, Vec::new(), LONG_NS);
    known.know(&of("/b"), None, Vec::new(), LONG_NS + 1);
    let ask = |known: &mut Routes, at_ns| known.of(&of_path(Some("/b")), Tid(1), at_ns);
    assert_eq!(ask(&mut known, LONG_NS + 2), Route::None(UNCLEAR));
    known.know(&of("/b"), None, Vec::new(), 2 * LONG_NS);
    let found = Route::Known("/b".into());
    assert_eq!(ask(&mut known, 3 * LONG_NS), found);
}

/// What cannot be built costs as well.
#[test]
fn what_cannot_be_built_leaves_less_room() {
    let mut many = vec![("(?:(?:[ab]{50}){50}){50}", &["GET"][..], PyRouteKind::Path); 16];
    many.push(("/a", &["GET"], PyRouteKind::Path));
    assert_eq!(Table::new(&Arc::new(routes(&many))).untold(), 17);
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

#[test]
fn where_no_route_may_be_told_it_is_said_why() {
    let own = routes(&[("/.*", &["GET"], PyRouteKind::Path)]);
    let mut known = Routes::default();
    known.know(&Arc::new(own.clone()), None, vec![Tid(2)], LONG_NS);
    let ask =
        |known: &mut Routes, path: &str, tid| known.of(&of_path(Some(path)), tid, 9 * LONG_NS);
    assert!(matches!(ask(&mut known, "/a", Tid(1)), Route::Known(_)));
    // An event loop, by which something else may be served.
    assert_eq!(ask(&mut known, "/a", Tid(2)), Route::None(NO_ROUTES));
    for path in ["/static/../a", "/static/%2E./a"] {
        let path = crate::event::paths::fold(path);
        assert_eq!(ask(&mut known, &path, Tid(1)), Route::None(UNCLEAR));
    }
    assert_eq!(known.why_none(), None);
    for (why, said) in [
        (PyNoRoutes::Several, SEVERAL),
        (PyNoRoutes::Prefix, PREFIX),
        (PyNoRoutes::Middleware, MIDDLEWARE),
    ] {
        let mut known = Routes::default();
        let refused = PyRoutes {
            refused: Some(why),
            ..own.clone()
        };
        known.know(&Arc::new(refused), None, Vec::new(), LONG_NS);
        assert_eq!(ask(&mut known, "/a", Tid(1)), Route::None(said));
        assert_eq!(known.why_none(), Some(said));
    }
}
