//! The routes of Starlette's and FastAPI's applications.

use super::expressions::{ANY, escape};
use super::middleware::{leaves_paths, starlette_leaves_paths};
use super::{
    MAX_DEPTH, MAX_ROUTES, MAX_WRAPPERS, Place, ROOT_PATH, Walk, attribute, has_text, methods,
    owner,
};
use crate::event::PyRouteKind;
use crate::python::memory::addresses::AddressMap;
use crate::python::objects::Reader;

/// Kinds of routes by the class that defines which requests they take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Route,
    Mount,
    Included,
    WebSocket,
    Unknown,
}

const CLASSES: &[(&str, Class)] = &[
    ("starlette.routing.Route", Class::Route),
    ("fastapi.routing.APIRoute", Class::Route),
    ("starlette.routing.Mount", Class::Mount),
    ("fastapi.routing._IncludedRouter", Class::Included),
    ("starlette.routing.WebSocketRoute", Class::WebSocket),
    ("fastapi.routing.APIWebSocketRoute", Class::WebSocket),
];

/// Classes of routes that were met.
#[derive(Debug, Default)]
pub(super) struct Classes(AddressMap<Class>);

/// What parameters take, by the name of their converter.
const CONVERTERS: &[(&str, &str)] = &[
    ("str", "[^/]+"),
    ("path", ".*"),
    ("int", "[0-9]+"),
    ("float", "[0-9]+(\\.[0-9]+)?"),
    (
        "uuid",
        "[0-9a-fA-F]{8}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{12}",
    ),
];

/// The list of routes of an application, if it is one.
pub(super) fn list(reader: &mut Reader<'_>, application: u64) -> Option<u64> {
    let info = reader.types_of(&[application]).pop()??;
    let is_one = reader.has_base(&info, |name| matches!(name, "Starlette" | "Router"));
    is_one.then_some(())?;
    // What its own middleware does is for the caller to say.
    match attribute(reader, application, "router") {
        Some(router) => table(reader, router),
        None => table(reader, application),
    }
}

/// The list of routes of an application, whatever wraps it.
pub(super) fn table(reader: &mut Reader<'_>, application: u64) -> Option<u64> {
    let mut object = application;
    for _ in 0..MAX_WRAPPERS {
        let info = reader.types_of(&[object]).pop()??;
        if reader.has_base(&info, |name| name == "Starlette") {
            starlette_leaves_paths(reader, object)?;
            object = attribute(reader, object, "router")?;
        } else if reader.has_base(&info, |name| name == "Router") {
            return attribute(reader, object, "routes");
        } else {
            let class = owner(reader, object, "__call__")?;
            if !class.starts_with("starlette.middleware.") {
                leaves_paths(reader, object, &class)?;
            }
            object = attribute(reader, object, "app")?;
        }
    }
    None
}

impl Walk {
    /// Adds the routes of a list.
    pub(super) fn add_starlette(
        &mut self,
        reader: &mut Reader<'_>,
        list: u64,
        before: &Place,
        depth: usize,
    ) {
        let below = before.with(ANY).pattern;
        let routes = reader.list(list, MAX_ROUTES as u64);
        let (Some(routes), true) = (routes, depth < MAX_DEPTH) else {
            return self.push_unknown(below);
        };
        if routes.len() as u64 != reader.length(list).unwrap_or(0) {
            self.found.cut = true;
        }
        for route in routes {
            if self.is_full() || reader.is_over() {
                self.found.cut = true;
                return;
            }
            if self.route(reader, route, before, depth).is_none() {
                self.push_unknown(below.clone());
            }
        }
    }

    /// `None`: what it takes cannot be told.
    fn route(
        &mut self,
        reader: &mut Reader<'_>,
        route: u64,
        before: &Place,
        depth: usize,
    ) -> Option<()> {
        match self.class(reader, route) {
            Class::Route => {
                let Some(place) = self.place(reader, route, "path", before)? else {
                    return Some(());
                };
                let methods = methods(reader, route)?;
                self.push(place, methods, PyRouteKind::Path);
            }
            Class::Mount => {
                let Some(place) = self.place(reader, route, "path", before)? else {
                    return Some(());
                };
                let inside = attribute(reader, route, "app")?;
                let below = place.with("/(?s:.*)");
                let is_below = has_text(reader, inside, ROOT_PATH);
                match table(reader, inside).filter(|_| !is_below) {
                    Some(list) => {
                        self.add_starlette(reader, list, &place, depth + 1);
                        self.push(below, None, PyRouteKind::Closed);
                    }
                    None => self.push(below, None, PyRouteKind::Path),
                }
            }
            Class::Included => {
                let context = attribute(reader, route, "include_context")?;
                let Some(place) = self.place(reader, context, "prefix", before)? else {
                    return Some(());
                };
                let router = attribute(reader, route, "original_router")?;
                let list = table(reader, router)?;
                self.add_starlette(reader, list, &place, depth + 1);
            }
            Class::WebSocket => {}
            Class::Unknown => return None,
        }
        Some(())
    }

    /// What an object has as its path, behind what is before it; within: `None` where it was added that this cannot be told.
    fn place(
        &mut self,
        reader: &mut Reader<'_>,
        object: u64,
        name: &str,
        before: &Place,
    ) -> Option<Option<Place>> {
        let text = attribute(reader, object, name)?;
        let text = reader.read_text(text)?;
        match expression(&text) {
            Ok(expression) => Some(Some(before.then(&text, Some(&expression)))),
            Err(beginning) => {
                self.push_unknown(before.with(&beginning).pattern);
                Some(None)
            }
        }
    }

    /// What decides which requests a route takes.
    fn class(&mut self, reader: &mut Reader<'_>, route: u64) -> Class {
        let Some(class) = reader.classes_of(&[route]).pop().flatten() else {
            return Class::Unknown;
        };
        if let Some(known) = self.classes.0.get(&class) {
            return *known;
        }
        let name = owner(reader, route, "matches");
        let mut classes = CLASSES.iter();
        let known = classes.find(|(known, _)| name.as_deref() == Some(known));
        let known = known.map_or(Class::Unknown, |(_, class)| *class);
        self.classes.0.insert(class, known);
        known
    }
}

/// The expression of a path with parameters: `{name}`, `{name:converter}`; where a converter is not known, of all that begins
/// like it.
fn expression(path: &str) -> Result<String, String> {
    let mut expression = String::new();
    let mut rest = path;
    while let Some((literal, parameter)) = rest.split_once('{') {
        expression += &escape(literal);
        let parameter = parameter.split_once('}');
        let takes = parameter.and_then(|(parameter, _)| {
            let converter = parameter.split_once(':').map_or("str", |(_, name)| name);
            CONVERTERS.iter().find(|(name, _)| *name == converter)
        });
        let (Some((_, behind)), Some((_, takes))) = (parameter, takes) else {
            return Err(expression + ANY);
        };
        expression += &format!("(?:{takes})");
        rest = behind;
    }
    Ok(expression + &escape(rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::objects::synthetic::Noise;

    #[test]
    fn paths_with_parameters_are_expressions() {
        for (path, expected) in [
            ("/a.b", Ok("/a\\.b")),
            ("/items/{id}", Ok("/items/(?:[^/]+)")),
            ("/n/{n:int}.json", Ok("/n/(?:[0-9]+)\\.json")),
            ("/f/{rest:path}", Ok("/f/(?:.*)")),
            ("/x/{y:own}/z", Err("/x/(?s:.*)")),
            ("/x/{y", Err("/x/(?s:.*)")),
        ] {
            let found = expression(path);
            let found = found.as_deref().map_err(|beginning| &**beginning);
            assert_eq!(found, expected, "{path}");
        }
    }

    #[test]
    fn reading_noise_ends() {
        Noise::each(60, 4 << 20, |memory, reader| {
            for index in 0..50 {
                let object = memory.address(index);
                table(reader, object);
                let mut walk = Walk::default();
                for class in [Class::Route, Class::Mount, Class::Included] {
                    let of = reader.classes_of(&[object]).pop().flatten();
                    walk.classes.0.insert(of.unwrap_or(0), class);
                    walk.route(reader, object, &Place::root(), 0);
                }
            }
        });
    }
}
