//! The routes of Starlette's and FastAPI's applications that uvicorn serves.
//!
//! The server is a local variable of its own task, also where an event loop in C has all else. From there the way to the
//! application is through whatever wraps it.

use std::sync::Arc;

use super::chain;
use crate::event::{PyRoute, PyRouteKind, PyRoutes, PyTask};
use crate::python::memory::addresses::AddressMap;
use crate::python::objects::{Kind, Reader};

/// The file of the frames whose first variable is the server.
const SERVER_FILE: &str = "uvicorn/server.py";
/// Tasks that are searched for servers.
const MAX_SERVERS: usize = 8;
/// What may wrap an application, and how far applications are in one another.
const MAX_WRAPPERS: usize = 16;
const MAX_DEPTH: usize = 8;
const MAX_ROUTES: usize = 1_024;
const MAX_METHODS: usize = 16;
/// Bytes of a path; a longer one is of a route that cannot be told.
const MAX_PATH: usize = 256;

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

/// Routes that were read, and by what it is known that they are the same.
#[derive(Debug)]
pub(crate) struct Known {
    /// The outermost list, and what is in it.
    list: u64,
    entries: Vec<u64>,
    /// How often they were given out again.
    uses: u32,
    routes: Arc<PyRoutes>,
}

/// After so many uses they are read anew: lists inside of lists may have changed.
const MAX_USES: u32 = 30;

/// The routes of the application that these tasks serve; `None`: there is none of those that are known.
pub(crate) fn of_tasks(
    reader: &mut Reader<'_>,
    tasks: &[PyTask],
    known: &mut Option<Known>,
) -> Option<Arc<PyRoutes>> {
    let serves = |task: &&PyTask| {
        let mut frames = task.awaiting.iter();
        frames.any(|frame| frame.file.ends_with(SERVER_FILE)) || task.coroutine == "Server.serve"
    };
    let servers: Vec<&PyTask> = tasks.iter().filter(serves).take(MAX_SERVERS).collect();
    if servers.is_empty() {
        return None;
    }
    let coroutines: Vec<u64> = servers.iter().map(|task| task.coroutine_id).collect();
    let chains = chain::chains(reader, &coroutines, MAX_WRAPPERS);
    let mut found: Option<(u64, u64)> = None;
    for (task, chain) in servers.iter().zip(&chains) {
        let application = chain.locals.iter().find_map(|first| {
            let config = attribute(reader, first[0], "config")?;
            attribute(reader, config, "loaded_app")
        });
        let Some(application) = application else {
            continue;
        };
        match found {
            None => found = Some((application, task.loop_id)),
            Some((known, _)) if known == application => {}
            // Which of them a request is for depends on where it came in.
            Some(_) => return Some(Arc::new(several())),
        }
    }
    let (application, loop_id) = found?;
    let list = table(reader, application)?;
    let entries = reader.list(list, MAX_ROUTES as u64)?;
    if let Some(known) = known
        && (known.list, &known.entries) == (list, &entries)
        && known.routes.loop_id == Some(loop_id)
        && known.uses < MAX_USES
    {
        known.uses += 1;
        return Some(Arc::clone(&known.routes));
    }
    let mut walk = Walk {
        found: PyRoutes {
            loop_id: Some(loop_id),
            ..PyRoutes::default()
        },
        classes: AddressMap::default(),
    };
    walk.add(reader, list, "", 0);
    if reader.is_over() {
        return None;
    }
    let routes = Arc::new(walk.found);
    *known = Some(Known {
        list,
        entries,
        uses: 0,
        routes: Arc::clone(&routes),
    });
    Some(routes)
}

/// What is told of several applications: nothing of any request.
fn several() -> PyRoutes {
    PyRoutes {
        routes: vec![PyRoute {
            path: String::new(),
            methods: None,
            kind: PyRouteKind::Unknown,
        }],
        ..PyRoutes::default()
    }
}

fn attribute(reader: &mut Reader<'_>, object: u64, name: &str) -> Option<u64> {
    reader.members_of(object, &[name])?.pop()?
}

/// The list of routes of an application, whatever wraps it.
fn table(reader: &mut Reader<'_>, application: u64) -> Option<u64> {
    let mut object = application;
    for _ in 0..MAX_WRAPPERS {
        let info = reader.types_of(&[object]).pop()??;
        if reader.has_base(&info, |name| name == "Starlette") {
            object = attribute(reader, object, "router")?;
        } else if reader.has_base(&info, |name| name == "Router") {
            return attribute(reader, object, "routes");
        } else {
            object = attribute(reader, object, "app")?;
        }
    }
    None
}

struct Walk {
    found: PyRoutes,
    classes: AddressMap<Class>,
}

impl Walk {
    /// Adds the routes of a list, whose paths are below `before`.
    fn add(&mut self, reader: &mut Reader<'_>, list: u64, before: &str, depth: usize) {
        let routes = reader.list(list, MAX_ROUTES as u64);
        let (Some(routes), true) = (routes, depth < MAX_DEPTH) else {
            return self.push(before.to_owned(), None, PyRouteKind::Unknown);
        };
        if routes.len() as u64 != reader.length(list).unwrap_or(0) {
            self.found.cut = true;
        }
        for route in routes {
            if self.found.routes.len() >= MAX_ROUTES || reader.is_over() {
                self.found.cut = true;
                return;
            }
            if self.route(reader, route, before, depth).is_none() {
                self.push(before.to_owned(), None, PyRouteKind::Unknown);
            }
        }
    }

    /// `None`: what it takes cannot be told.
    fn route(
        &mut self,
        reader: &mut Reader<'_>,
        route: u64,
        before: &str,
        depth: usize,
    ) -> Option<()> {
        let class = self.class(reader, route);
        match class {
            Class::Route => {
                let path = path(reader, route, "path", before)?;
                let methods = methods(reader, route)?;
                self.push(path, methods, PyRouteKind::Path);
            }
            Class::Mount => {
                let path = path(reader, route, "path", before)?;
                let inside = attribute(reader, route, "app")?;
                match table(reader, inside) {
                    Some(list) => {
                        self.add(reader, list, &path, depth + 1);
                        self.push(path, None, PyRouteKind::Closed);
                    }
                    None => self.push(path, None, PyRouteKind::Below),
                }
            }
            Class::Included => {
                let context = attribute(reader, route, "include_context")?;
                let path = path(reader, context, "prefix", before)?;
                let router = attribute(reader, route, "original_router")?;
                let list = table(reader, router)?;
                self.add(reader, list, &path, depth + 1);
            }
            Class::WebSocket => {}
            Class::Unknown => return None,
        }
        Some(())
    }

    /// What decides which requests a route takes.
    fn class(&mut self, reader: &mut Reader<'_>, route: u64) -> Class {
        let Some(class) = reader.classes_of(&[route]).pop().flatten() else {
            return Class::Unknown;
        };
        if let Some(known) = self.classes.get(&class) {
            return *known;
        }
        let owner = reader.class_attribute(class, "matches");
        let name = owner.and_then(|(owner, _)| reader.type_name(owner));
        let mut classes = CLASSES.iter();
        let known = classes.find(|(known, _)| name.as_deref() == Some(known));
        let known = known.map_or(Class::Unknown, |(_, class)| *class);
        self.classes.insert(class, known);
        known
    }

    fn push(&mut self, path: String, methods: Option<Vec<String>>, kind: PyRouteKind) {
        if self.found.routes.len() >= MAX_ROUTES {
            self.found.cut = true;
            return;
        }
        self.found.routes.push(PyRoute {
            path,
            methods,
            kind,
        });
    }
}

/// What an object has as its path, behind what is before it.
fn path(reader: &mut Reader<'_>, object: u64, name: &str, before: &str) -> Option<String> {
    let text = attribute(reader, object, name)?;
    let path = format!("{before}{}", reader.read_text(text)?);
    (path.len() <= MAX_PATH).then_some(path)
}

/// The methods that a route takes; within: `None` where it takes any.
fn methods(reader: &mut Reader<'_>, route: u64) -> Option<Option<Vec<String>>> {
    let methods = attribute(reader, route, "methods")?;
    let info = reader.types_of(&[methods]).pop()??;
    let members = match info.kind {
        Kind::Set => reader.set(methods).ok()?,
        Kind::List => reader.list(methods, MAX_METHODS as u64)?,
        _ if &*info.name == "NoneType" => return Some(None),
        _ => return None,
    };
    if members.len() > MAX_METHODS {
        return None;
    }
    reader.load_texts(members.iter().copied());
    let names = members
        .iter()
        .map(|name| Some(reader.text(*name)?.to_string()));
    let mut names: Vec<String> = names.collect::<Option<_>>()?;
    names.sort_unstable();
    Some(Some(names))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::objects::synthetic::Noise;

    #[test]
    fn reading_noise_ends() {
        Noise::each(60, 4 << 20, |memory, reader| {
            for index in 0..50 {
                let object = memory.address(index);
                table(reader, object);
                methods(reader, object);
                let mut walk = Walk {
                    found: PyRoutes::default(),
                    classes: AddressMap::default(),
                };
                walk.add(reader, object, "", 0);
                assert!(walk.found.routes.len() <= MAX_ROUTES);
                for class in [Class::Route, Class::Mount, Class::Included] {
                    let of = reader.classes_of(&[object]).pop().flatten();
                    walk.classes.insert(of.unwrap_or(0), class);
                    walk.route(reader, object, "", 0);
                }
            }
        });
    }
}
