//! Applications of frameworks, through whatever wraps them.

use super::expressions::ANY;
use super::middleware::{leaves_paths, starlette_leaves_paths};
use super::{
    MAX_DEPTH, MAX_WRAPPERS, Place, ROOT_PATH, Stamp, Walk, aiohttp, attribute, bound_to, django,
    escape_path, has_text, owner, starlette,
};
use crate::event::{PyNoRoutes, PyRouteKind};
use crate::python::objects::{Kind, Reader};

/// What wrappers call that which they wrap.
const WRAPPED: &[&str] = &["app", "application", "wsgi_app", "wsgi", "_app"];
const DISPATCHER: &str = "werkzeug.middleware.dispatcher.DispatcherMiddleware";
const FLASK: &str = "flask.app.Flask";
const DJANGO: &[&str] = &[
    "django.core.handlers.wsgi.WSGIHandler",
    "django.core.handlers.asgi.ASGIHandler",
];
/// Answers below one path itself.
const DJANGO_FILES: &str = "django.contrib.staticfiles.handlers.";

impl Walk {
    /// Adds the routes of an application below a place, and says what changes with them. `None`: it is of no framework
    /// that is known, or what wraps it may change paths. `modules`: the dict of all modules.
    pub(super) fn add_application(
        &mut self,
        reader: &mut Reader<'_>,
        application: u64,
        before: &Place,
        modules: u64,
        depth: usize,
    ) -> Option<Stamp> {
        (depth < MAX_DEPTH).then_some(())?;
        let mut object = application;
        // Of an application that is called by way of a method, what was put before that is behind us.
        let mut is_inside = false;
        for _ in 0..MAX_WRAPPERS {
            if let Some(router) = aiohttp::router(reader, object) {
                return self.add_router(reader, router);
            }
            if let Some(list) = starlette::list(reader, object) {
                if has_text(reader, object, ROOT_PATH) {
                    return self.refuse(PyNoRoutes::Prefix);
                }
                if starlette_leaves_paths(reader, object).is_none() {
                    return self.refuse(PyNoRoutes::Middleware);
                }
                let stamp = Stamp::of_list(reader, list)?;
                self.found.other_methods = true;
                self.add_starlette(reader, list, before, 0);
                return Some(stamp);
            }
            if reader.types_of(&[object]).pop()??.kind == Kind::Method {
                (reader.callable_name(object)? == "flask.app.Flask.wsgi_app").then_some(())?;
                (object, is_inside) = (bound_to(reader, object)?, true);
                continue;
            }
            let class = owner(reader, object, "__call__")?;
            if class == FLASK {
                match attribute(reader, object, "wsgi_app") {
                    Some(wrapped) if !is_inside => object = wrapped,
                    _ => return self.add_flask(reader, object, before),
                }
            } else if DJANGO.contains(&&*class) {
                let list = match django::patterns(reader, modules)? {
                    Ok(list) => list,
                    Err(why) => return self.refuse(why),
                };
                let stamp = Stamp::of_list(reader, list)?;
                let root = before.with("/");
                self.add_django(reader, modules, list, &root, 0);
                return Some(stamp);
            } else if class == DISPATCHER {
                self.add_mounts(reader, object, before, modules, depth)?;
                object = attribute(reader, object, "app")?;
            } else {
                leaves_paths(reader, object, &class)?;
                if class.starts_with(DJANGO_FILES) {
                    self.add_files(reader, object, before)?;
                }
                let found = reader.members_of(object, WRAPPED)?;
                object = found.into_iter().flatten().next()?;
            }
        }
        None
    }

    /// Says why no route is told, where the application is not one that is mounted in another.
    fn refuse(&mut self, why: PyNoRoutes) -> Option<Stamp> {
        self.refused = Some(why);
        None
    }

    /// Adds the path below which files are served.
    fn add_files(&mut self, reader: &mut Reader<'_>, handler: u64, before: &Place) -> Option<()> {
        let address = attribute(reader, handler, "base_url")?;
        // Of a parsed address the third part is the path.
        let path = *reader.tuple(address, 3)?.get(2)?;
        let path = reader.read_text(path)?;
        let place = before.then(&path, escape_path(&path).as_deref());
        self.push(place.with(ANY), None, PyRouteKind::Closed);
        Some(())
    }

    fn add_router(&mut self, reader: &mut Reader<'_>, router: u64) -> Option<Stamp> {
        let list = attribute(reader, router, "_resources")?;
        let stamp = Stamp::of_list(reader, list)?;
        self.add_aiohttp(reader, router, 0)?;
        Some(stamp)
    }

    fn add_flask(
        &mut self,
        reader: &mut Reader<'_>,
        application: u64,
        before: &Place,
    ) -> Option<Stamp> {
        let found = reader.members_of(application, &["url_map", "subdomain_matching"])?;
        // Else it depends on the host, too.
        (reader.integers(&[found[1]?])[0]? == 0).then_some(())?;
        let rules = attribute(reader, found[0]?, "_rules_by_endpoint")?;
        let stamp = Stamp::of_dict(reader, rules)?;
        self.add_werkzeug(reader, found[0]?, before)?;
        Some(stamp)
    }

    /// Adds applications that are mounted by their first parts, the longest of which count.
    fn add_mounts(
        &mut self,
        reader: &mut Reader<'_>,
        dispatcher: u64,
        before: &Place,
        modules: u64,
        depth: usize,
    ) -> Option<()> {
        let mounts = attribute(reader, dispatcher, "mounts")?;
        let mounts = reader.dict(mounts)?;
        reader.load_texts(mounts.iter().map(|(prefix, _)| *prefix));
        let mounts = mounts.into_iter();
        let mounts = mounts.map(|(prefix, inside)| Some((reader.text(prefix)?.clone(), inside)));
        let mut mounts: Vec<_> = mounts.collect::<Option<_>>()?;
        mounts.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        for (prefix, inside) in mounts {
            if self.is_full() || reader.is_over() {
                self.found.cut = true;
                break;
            }
            let is_plain = prefix.starts_with('/') && !prefix.ends_with('/');
            let expression = escape_path(&prefix).filter(|_| is_plain)?;
            let place = before.then(&prefix, Some(&expression));
            let below = place.with("(?:/(?s:.*))?");
            let before = self.found.routes.len();
            let inner = self.add_application(reader, inside, &place, modules, depth + 1);
            self.refused = None;
            let kind = match inner {
                Some(_) => PyRouteKind::Closed,
                // What is below belongs to something else.
                None if self.found.routes.len() == before => PyRouteKind::Path,
                None => PyRouteKind::Unknown,
            };
            self.push(below, None, kind);
        }
        Some(())
    }
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
                let modules = memory.address(index + 1);
                let mut walk = Walk::default();
                walk.add_application(reader, object, &Place::root(), modules, 0);
                walk.add_flask(reader, object, &Place::root());
                walk.add_router(reader, object);
                walk.add_mounts(reader, object, &Place::root(), modules, 0);
            }
        });
    }
}
