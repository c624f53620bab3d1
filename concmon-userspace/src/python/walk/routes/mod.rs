//! The routes of the web application that a process serves, as its framework has them.

mod aiohttp;
mod applications;
mod django;
mod expressions;
mod middleware;
mod servers;
mod starlette;
mod werkzeug;

use std::sync::Arc;

use crate::event::{PyNoRoutes, PyRoute, PyRouteKind, PyRoutes};
use crate::python::objects::{Kind, Reader};
use expressions::escape;
pub(crate) use servers::Running;
use servers::Server;

/// What may wrap an application, and how far applications are in one another.
const MAX_WRAPPERS: usize = 16;
const MAX_DEPTH: usize = 8;
const MAX_ROUTES: usize = 1_024;
const MAX_METHODS: usize = 16;
/// Bytes of a path and of its pattern; a longer one is of a route that cannot be told.
const MAX_PATH: usize = 256;
const MAX_PATTERN: usize = 1_024;

/// Routes that were read, and by what it is known that they are the same.
#[derive(Debug)]
pub(crate) struct Known {
    stamp: Stamp,
    /// How often they were given out again.
    uses: u32,
    routes: Arc<PyRoutes>,
}

/// After so many uses they are read anew: what is deeper may have changed, or another application is served.
const MAX_USES: u32 = 30;

/// What changes where routes are added.
#[derive(Debug, PartialEq, Eq)]
enum Stamp {
    /// A list, and what is in it.
    List(u64, Vec<u64>),
    /// The state of a dict.
    Dict(u64, [u64; 4]),
}

impl Stamp {
    fn of_list(reader: &mut Reader<'_>, list: u64) -> Option<Self> {
        Some(Self::List(list, reader.list(list, MAX_ROUTES as u64)?))
    }

    fn of_dict(reader: &mut Reader<'_>, dict: u64) -> Option<Self> {
        Some(Self::Dict(dict, reader.dict_fingerprint(dict)?))
    }

    fn now(&self, reader: &mut Reader<'_>) -> Option<Self> {
        match self {
            Self::List(list, _) => Self::of_list(reader, *list),
            Self::Dict(dict, _) => Self::of_dict(reader, *dict),
        }
    }
}

/// The routes of the application that is served; `None`: there is none of those that are known. `modules`: the dict of all
/// modules.
pub(crate) fn read(
    reader: &mut Reader<'_>,
    running: &Running<'_>,
    modules: u64,
    known: &mut Option<Known>,
) -> Option<Arc<PyRoutes>> {
    if let Some(known) = known
        && known.uses < MAX_USES
        && known.stamp.now(reader).as_ref() == Some(&known.stamp)
    {
        known.uses += 1;
        return Some(Arc::clone(&known.routes));
    }
    *known = None;
    let (application, loop_id) = match servers::server(reader, running, modules)? {
        Server::One {
            is_below: true,
            loop_id,
            ..
        } => return Some(none(PyNoRoutes::Prefix, loop_id)),
        Server::One {
            application,
            loop_id,
            ..
        } => (application, loop_id),
        // Which of them a request is for depends on where it came in.
        Server::Several => return Some(none(PyNoRoutes::Several, None)),
    };
    let mut walk = Walk::default();
    walk.found.loop_id = loop_id;
    let stamp = walk.add_application(reader, application, &Place::root(), modules, 0);
    if reader.is_over() {
        return None;
    }
    if let Some(why) = walk.refused.filter(|_| stamp.is_none()) {
        return Some(none(why, loop_id));
    }
    let stamp = stamp?;
    let routes = Arc::new(walk.found);
    *known = Some(Known {
        stamp,
        uses: 0,
        routes: Arc::clone(&routes),
    });
    Some(routes)
}

/// What is told where nothing may be told of any request.
fn none(why: PyNoRoutes, loop_id: Option<u64>) -> Arc<PyRoutes> {
    Arc::new(PyRoutes {
        refused: Some(why),
        loop_id,
        ..PyRoutes::default()
    })
}

/// What comes before a route: as its framework names it, and as an expression.
#[derive(Clone, Debug)]
struct Place {
    path: String,
    /// `None`: it cannot be told.
    pattern: Option<String>,
}

impl Place {
    /// Nothing.
    fn root() -> Self {
        Self::literal("")
    }

    /// One that is itself and nothing else.
    fn literal(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            pattern: Some(escape(path)),
        }
    }

    /// What is behind it.
    fn then(&self, path: &str, pattern: Option<&str>) -> Self {
        let before = self.pattern.as_deref();
        Self {
            path: format!("{}{path}", self.path),
            pattern: before.and_then(|before| Some(format!("{before}{}", pattern?))),
        }
    }

    /// The same, as far as its paths go, named as it is.
    fn with(&self, behind: &str) -> Self {
        Self {
            path: self.path.clone(),
            pattern: self.pattern.as_ref().map(|own| format!("{own}{behind}")),
        }
    }
}

#[derive(Debug, Default)]
struct Walk {
    found: PyRoutes,
    refused: Option<PyNoRoutes>,
    classes: starlette::Classes,
}

impl Walk {
    fn push(&mut self, place: Place, methods: Option<Vec<String>>, kind: PyRouteKind) {
        if self.is_full() {
            return;
        }
        let fits = |pattern: &String| pattern.len() <= MAX_PATTERN;
        let is_long = place.path.len() > MAX_PATH;
        self.found.routes.push(PyRoute {
            kind: if is_long { PyRouteKind::Unknown } else { kind },
            path: if is_long { String::new() } else { place.path },
            pattern: place.pattern.filter(fits),
            methods,
        });
    }

    /// Adds that it cannot be told what is done with paths like these.
    fn push_unknown(&mut self, pattern: Option<String>) {
        let path = String::new();
        self.push(Place { path, pattern }, None, PyRouteKind::Unknown);
    }

    fn is_full(&mut self) -> bool {
        let is_full = self.found.routes.len() >= MAX_ROUTES;
        self.found.cut |= is_full;
        is_full
    }
}

fn attribute(reader: &mut Reader<'_>, object: u64, name: &str) -> Option<u64> {
    reader.members_of(object, &[name])?.pop()?
}

/// What Starlette's applications and uvicorn's configuration have for the path below which they are.
const ROOT_PATH: &str = "root_path";

/// An object has a text of this name that is not empty, or it cannot be read.
fn has_text(reader: &mut Reader<'_>, object: u64, name: &str) -> bool {
    let Some(text) = attribute(reader, object, name) else {
        return false;
    };
    let is_empty = reader.read_text(text).map(|text| text.is_empty());
    !is_empty.unwrap_or_else(|| is_none(reader, text) == Some(true))
}

/// The expression of a path without parameters; `None`: it has signs that are encoded in requests.
fn escape_path(path: &str) -> Option<String> {
    (path.is_ascii() && !path.contains('%')).then(|| escape(path))
}

/// Of the class that a method of an object is from: `module.qualname`.
fn owner(reader: &mut Reader<'_>, object: u64, method: &str) -> Option<String> {
    let class = reader.classes_of(&[object]).pop()??;
    let (owner, _) = reader.class_attribute(class, method)?;
    reader.type_name(owner)
}

/// `None`: that cannot be told.
fn is_none(reader: &mut Reader<'_>, object: u64) -> Option<bool> {
    Some(&*reader.types_of(&[object]).pop()??.name == "NoneType")
}

/// The object of a bound method.
fn bound_to(reader: &mut Reader<'_>, method: u64) -> Option<u64> {
    let kind = reader.types_of(&[method]).pop()??.kind;
    (kind == Kind::Method).then_some(())?;
    let place = crate::python::memory::at(method, reader.walk.callable.method_self);
    reader.pointer(place).ok()
}

/// Texts in their order.
fn sorted_texts(reader: &mut Reader<'_>, members: &[u64]) -> Option<Vec<String>> {
    (members.len() <= MAX_METHODS).then_some(())?;
    reader.load_texts(members.iter().copied());
    let names = members
        .iter()
        .map(|name| Some(reader.text(*name)?.to_string()));
    let mut names: Vec<String> = names.collect::<Option<_>>()?;
    names.sort_unstable();
    Some(names)
}

/// The methods that a route takes; within: `None` where it takes any.
fn methods(reader: &mut Reader<'_>, route: u64) -> Option<Option<Vec<String>>> {
    let methods = attribute(reader, route, "methods")?;
    let info = reader.types_of(&[methods]).pop()??;
    let members = match info.kind {
        Kind::Set => reader.set(methods).ok()?,
        Kind::List => reader.list(methods, 1 + MAX_METHODS as u64)?,
        _ if &*info.name == "NoneType" => return Some(None),
        _ => return None,
    };
    sorted_texts(reader, &members).map(Some)
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
                methods(reader, object);
                owner(reader, object, "resolve");
                bound_to(reader, object);
                let mut walk = Walk::default();
                walk.add_starlette(reader, object, &Place::root(), 0);
                walk.add_aiohttp(reader, object, 0);
                walk.resource(reader, object, 0);
                assert!(walk.found.routes.len() <= MAX_ROUTES);
            }
        });
    }

    #[test]
    fn what_is_too_long_cannot_be_told() {
        let mut walk = Walk::default();
        walk.push(
            Place::literal(&"/x".repeat(MAX_PATH)),
            None,
            PyRouteKind::Path,
        );
        walk.push(Place::literal("/x"), None, PyRouteKind::Path);
        let kinds: Vec<_> = walk.found.routes.iter().map(|route| route.kind).collect();
        assert_eq!(kinds, [PyRouteKind::Unknown, PyRouteKind::Path]);
        assert_eq!(walk.found.routes[0].path, "");
    }
}
