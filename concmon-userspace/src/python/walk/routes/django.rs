//! The routes of Django: the lists of patterns that `ROOT_URLCONF` leads to.
//!
//! Django gives what a pattern has left of the path to those inside of it, and tries the next one where these fail. So
//! patterns that others are included in are told by what comes before those, as long as they leave one rest only.

use super::expressions::{ANY, Expression, escape, of_python};
use super::middleware::django_leaves_paths;
use super::{MAX_DEPTH, MAX_ROUTES, Place, Walk, is_none, owner};
use crate::event::patterns::Pattern;
use crate::event::{PyNoRoutes, PyRouteKind};
use crate::python::objects::text::as_bool;
use crate::python::objects::{Kind, Reader};

/// What converters take, by their classes; others may refuse what their expressions take.
const CONVERTERS: &[(&str, &str)] = &[
    ("IntConverter", "[0-9]+"),
    ("StringConverter", "[^/]+"),
    (
        "UUIDConverter",
        "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    ),
    ("SlugConverter", "[-a-zA-Z0-9_]+"),
    ("PathConverter", ".+"),
];
/// Middleware of these packages leaves patterns and paths as they are, although some looks at them.
const KNOWN: &[&str] = &["django.", "whitenoise.", "corsheaders."];

/// A pattern: how it is called, and what it takes.
struct Part {
    name: String,
    /// Where it cannot be told: of all that begins like it.
    expression: Result<String, String>,
}

/// The list of the outermost patterns, or why no route is told. `modules`: the dict of all modules.
pub(super) fn patterns(reader: &mut Reader<'_>, modules: u64) -> Option<Result<u64, PyNoRoutes>> {
    let configuration = module(reader, modules, "django.conf")?;
    let settings = reader.dict_values(configuration, &["settings"])?.pop()??;
    let settings = reader.members_of(settings, &["_wrapped"])?.pop()??;
    let names = ["ROOT_URLCONF", "MIDDLEWARE", "FORCE_SCRIPT_NAME"];
    let found = reader.members_of(settings, &names)?;
    if found[2].is_some_and(|name| is_none(reader, name) != Some(true)) {
        return Some(Err(PyNoRoutes::Prefix));
    }
    if let Some(middleware) = found[1]
        && middleware_leaves_paths(reader, modules, middleware).is_none()
    {
        return Some(Err(PyNoRoutes::Middleware));
    }
    let name = reader.read_text(found[0]?)?;
    let module = module(reader, modules, &name)?;
    reader.dict_values(module, &["urlpatterns"])?.pop()?.map(Ok)
}

fn middleware_leaves_paths(reader: &mut Reader<'_>, modules: u64, names: u64) -> Option<()> {
    for name in items(reader, names)? {
        let name = reader.read_text(name)?;
        if KNOWN.iter().any(|package| name.starts_with(package)) {
            continue;
        }
        let (inside, name) = name.rsplit_once('.')?;
        let inside = module(reader, modules, inside)?;
        let found = reader.dict_values(inside, &[name])?.pop()??;
        django_leaves_paths(reader, found)?;
    }
    Some(())
}

fn module(reader: &mut Reader<'_>, modules: u64, name: &str) -> Option<u64> {
    let module = reader.dict_values(modules, &[name])?.pop()??;
    reader.module_dict(module)
}

impl Walk {
    /// Adds the patterns of a list.
    pub(super) fn add_django(
        &mut self,
        reader: &mut Reader<'_>,
        modules: u64,
        list: u64,
        before: &Place,
        depth: usize,
    ) {
        let below = before.with(ANY).pattern;
        let Some(patterns) = items(reader, list).filter(|_| depth < MAX_DEPTH) else {
            return self.push_unknown(below);
        };
        self.found.cut |= patterns.len() > MAX_ROUTES;
        for pattern in patterns {
            if self.is_full() || reader.is_over() {
                self.found.cut = true;
                return;
            }
            if self
                .pattern(reader, modules, pattern, before, depth)
                .is_none()
            {
                self.push_unknown(below.clone());
            }
        }
    }

    /// `None`: what it takes cannot be told.
    fn pattern(
        &mut self,
        reader: &mut Reader<'_>,
        modules: u64,
        pattern: u64,
        before: &Place,
        depth: usize,
    ) -> Option<()> {
        let class = owner(reader, pattern, "resolve")?;
        let is_endpoint = match class.strip_prefix("django.urls.resolvers.")? {
            "URLPattern" => true,
            "URLResolver" => false,
            _ => return None,
        };
        let found = reader.members_of(pattern, &["pattern", "urlconf_name"])?;
        let part = part(reader, found[0]?, is_endpoint)?;
        let expression = match &part.expression {
            Ok(expression) => expression,
            Err(beginning) => {
                self.push_unknown(before.with(beginning).pattern);
                return Some(());
            }
        };
        let name = match before.path.is_empty() {
            true => &*part.name,
            false => part.name.strip_prefix('^').unwrap_or(&part.name),
        };
        let mut place = before.then(name, Some(expression));
        if is_endpoint {
            // The metrics have no route without a name.
            if place.path.is_empty() {
                "/".clone_into(&mut place.path);
            }
            self.push(place, None, PyRouteKind::Path);
        } else {
            let inside = included(reader, modules, found[1]?)?;
            self.add_django(reader, modules, inside, &place, depth + 1);
        }
        Some(())
    }
}

/// A list's items, or a tuple's: one more than is read where there are more.
fn items(reader: &mut Reader<'_>, list: u64) -> Option<Vec<u64>> {
    match reader.types_of(&[list]).pop()??.kind {
        Kind::List => reader.list(list, 1 + MAX_ROUTES as u64),
        Kind::Tuple => reader.tuple(list, 1 + MAX_ROUTES as u64),
        _ => None,
    }
}

/// The patterns that are included: of a module, or of one that is named, or themselves.
fn included(reader: &mut Reader<'_>, modules: u64, object: u64) -> Option<u64> {
    let inside = match reader.types_of(&[object]).pop()??.kind {
        Kind::List | Kind::Tuple => return Some(object),
        Kind::Module => reader.module_dict(object)?,
        _ => {
            let name = reader.read_text(object)?;
            module(reader, modules, &name)?
        }
    };
    reader.dict_values(inside, &["urlpatterns"])?.pop()?
}

/// `None`: it is of a class that is not known, or it depends on the language.
fn part(reader: &mut Reader<'_>, pattern: u64, is_endpoint: bool) -> Option<Part> {
    let class = owner(reader, pattern, "match")?;
    let names = ["_route", "_regex", "_is_endpoint", "converters"];
    let found = reader.members_of(pattern, &names)?;
    let says_endpoint = as_bool(reader.integers(&[found[2]?])[0])?;
    (says_endpoint == is_endpoint).then_some(())?;
    match class.strip_prefix("django.urls.resolvers.")? {
        "RoutePattern" => {
            let name = reader.read_text(found[0]?)?;
            let expression = route(reader, &name, found[3]?);
            Some(Part {
                expression: expression.and_then(|one| match is_endpoint || leaves_one_rest(&one) {
                    true => Ok(one),
                    false => Err(one + ANY),
                }),
                name: name.to_string(),
            })
        }
        "RegexPattern" => {
            let name = reader.read_text(found[1]?)?;
            let expression = of_python(&name).and_then(|one| searched(&one, is_endpoint));
            Some(Part {
                expression: expression.ok_or_else(|| ANY.to_owned()),
                name: name.to_string(),
            })
        }
        _ => None,
    }
}

/// What is left of a path behind it depends on the path only.
fn leaves_one_rest(expression: &str) -> bool {
    Pattern::new(expression).is_some_and(|pattern| pattern.is_prefix_free())
}

/// What a path has in which an expression is found; of one that others are included in: what it takes away.
fn searched(expression: &Expression, is_endpoint: bool) -> Option<String> {
    let before = if expression.from_start { "" } else { ANY };
    let behind = if expression.to_end { "" } else { ANY };
    let body = &expression.body;
    if is_endpoint {
        return Some(format!("{before}(?:{body}){behind}"));
    }
    let is_one = expression.from_start && !expression.to_end && leaves_one_rest(body);
    is_one.then(|| format!("(?:{body})"))
}

/// The expression of a route: `articles/<int:year>/`; where a converter is not known, of all that begins like it.
fn route(reader: &mut Reader<'_>, route: &str, converters: u64) -> Result<String, String> {
    let converters = reader.dict(converters).unwrap_or_default();
    reader.load_texts(converters.iter().map(|(name, _)| *name));
    let mut expression = String::new();
    let mut rest = route;
    while let Some((literal, parameter)) = rest.split_once('<') {
        expression += &escape(literal);
        let Some((parameter, behind)) = parameter.split_once('>') else {
            return Err(expression + ANY);
        };
        let name = parameter.rsplit(':').next().unwrap_or_default();
        let mut named = converters.iter();
        let converter = named.find(|(key, _)| reader.text(*key).is_some_and(|key| **key == *name));
        let Some(takes) = converter.and_then(|(_, converter)| converts(reader, *converter)) else {
            return Err(expression + ANY);
        };
        expression += &format!("(?:{takes})");
        rest = behind;
    }
    Ok(expression + &escape(rest))
}

/// What a converter takes.
fn converts(reader: &mut Reader<'_>, converter: u64) -> Option<&'static str> {
    let class = reader.classes_of(&[converter]).pop()??;
    let class = reader.type_name(class)?;
    let class = class.strip_prefix("django.urls.converters.")?;
    let mut known = CONVERTERS.iter();
    known
        .find(|(known, _)| *known == class)
        .map(|(_, takes)| *takes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::python::objects::synthetic::Noise;

    #[test]
    fn what_is_searched_for_may_be_anywhere() {
        for (pattern, endpoint, included) in [
            ("^a/$", Some("(?:a/)"), None),
            ("^a/", Some("(?:a/)(?s:.*)"), Some("(?:a/)")),
            ("a/", Some("(?s:.*)(?:a/)(?s:.*)"), None),
            ("a/$", Some("(?s:.*)(?:a/)"), None),
            (
                "^(?P<x>[^/]+)/",
                Some("(?:(?:[^/]+)/)(?s:.*)"),
                Some("(?:(?:[^/]+)/)"),
            ),
            // What is left depends on what is inside, or on who is greedy.
            ("^(?P<x>.+)/", Some("(?:(?:.+)/)(?s:.*)"), None),
        ] {
            let found = of_python(pattern).unwrap();
            assert_eq!(searched(&found, true).as_deref(), endpoint, "{pattern}");
            assert_eq!(searched(&found, false).as_deref(), included, "{pattern}");
        }
    }

    #[test]
    fn reading_noise_ends() {
        Noise::each(60, 4 << 20, |memory, reader| {
            for index in 0..50 {
                let object = memory.address(index);
                let modules = memory.address(index + 1);
                patterns(reader, object);
                included(reader, modules, object);
                part(reader, object, true);
                let _ = route(reader, "a/<int:b>/", object);
                let mut walk = Walk::default();
                walk.add_django(reader, modules, object, &Place::root(), 0);
                walk.pattern(reader, modules, object, &Place::root(), 0);
            }
        });
    }
}
